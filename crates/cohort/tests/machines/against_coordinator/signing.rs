//! While a cohort signs: leaves, nonces and partial signatures.

use super::*;

/// Leaves for an index of somebody else, for another round, more than one's own, changed, or with a datum that is not
/// the first leaf.
#[test]
fn leaves_that_are_not_the_members_to_give() {
    let (mut world, cohort_id) = World::formed(2, 20);
    let member = world.peers[0].id.clone();
    let own = *world.membership(0, cohort_id).dids.keys().next().unwrap();
    let others = *world.membership(1, cohort_id).dids.keys().next().unwrap();
    let leaf = |index, value| Leaf::blinded(index, LeafValue([value; 32]));
    let no_update = |round, leaves| NoUpdate {
        cohort_id,
        round,
        leaves,
    };
    let request = |data, leaves| RequestSignature {
        cohort_id,
        data: LeafValue([data; 32]),
        round: 1,
        leaves,
    };

    world.refuses(Code::UnknownIndex, |world| {
        world.tell_coordinator(&member, no_update(1, vec![leaf(others, 1)]))
    });
    world.refuses(Code::Round, |world| {
        world.tell_coordinator(&member, no_update(2, vec![leaf(own, 1)]))
    });
    for leaves in [vec![], vec![leaf(own, 1), leaf(own, 1)]] {
        world.refuses(Code::IndexCount, |world| {
            world.tell_coordinator(&member, no_update(1, leaves))
        });
    }
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(&member, request(2, vec![leaf(own, 1)]))
    });

    world
        .tell_coordinator(&member, no_update(1, vec![leaf(own, 1)]))
        .unwrap();
    let before = world.snapshot();
    world
        .tell_coordinator(&member, request(1, vec![leaf(own, 1)]))
        .unwrap();
    assert!(world.snapshot() == before, "the same leaf again is fine");
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(&member, request(2, vec![leaf(own, 2)]))
    });
}

/// Leaves before the cohort is set, and after the round's root was made without them.
#[test]
fn leaves_out_of_phase() {
    let (mut world, cohort_id, peer, opt_in) = open(21);
    let leaf = |index| vec![Leaf::blinded(index, LeafValue([1; 32]))];
    let no_update = |leaves| NoUpdate {
        cohort_id,
        round: 1,
        leaves,
    };
    let index = opt_in.indexes[0];
    world.tell_coordinator(&peer, opt_in).unwrap();
    let early = no_update(leaf(index));
    world.refuses(Code::Phase, |world| world.tell_coordinator(&peer, early));

    let mut world = World::new(2, 21);
    let cohort_id = world.advertise(|terms| terms.empty_leaf_allowed = true);
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    world.fund(cohort_id, 50_000);
    world.settle();
    world.request_update(0, cohort_id, 1);
    world.settle_until(|message| message.kind() == "sign/update_opportunity"); // Lost: the index stays empty.
    world.pass(62);
    world.settle_until(|message| message.kind() == "sign/aggregated_nonce");
    let member = world.peers[1].id.clone();
    let index = *world.membership(1, cohort_id).dids.keys().next().unwrap();
    let late = NoUpdate {
        cohort_id,
        round: 1,
        leaves: leaf(index),
    };
    world.refuses(Code::LeafLate, |world| {
        world.tell_coordinator(&member, late)
    });
}

/// A contribution for a session that never was, and one for a session that is over.
#[test]
fn contributions_for_another_session() {
    let (mut world, cohort) = signing(30);
    let (from, nonce) = nonce_contributions(&mut world).remove(0);
    let other = NonceContribution {
        session_id: SessionId(Uuid::from_u128(5)),
        ..nonce.clone()
    };
    world.refuses(Code::UnknownSession, |world| {
        world.tell_coordinator(&from, other)
    });
    world.pass(62);
    assert_eq!(
        world.cohort(cohort).abandoned.len(),
        1,
        "nobody's nonces came in time"
    );
    world.refuses(Code::UnknownSession, |world| {
        world.tell_coordinator(&from, nonce)
    });
}

/// Nonces that are another's, unsigned by the member's key, too many, or not those given before.
#[test]
fn nonces_that_are_not_the_members() {
    let (mut world, _) = signing(31);
    let nonces = nonce_contributions(&mut world);
    let [(first, own), (_, others)] = &nonces[..] else {
        panic!("two members")
    };
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(first, others.clone())
    });
    let swapped = NonceContribution {
        signature: others.signature,
        ..own.clone()
    };
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(first, swapped)
    });
    let mut twice = own.clone();
    twice.nonce_contributions.push(others.nonce_contribution);
    world.refuses(Code::ContributionCount, |world| {
        world.tell_coordinator(first, twice)
    });
    let torn = NonceContribution {
        nonce_contribution: others.nonce_contribution,
        ..own.clone()
    };
    world.refuses(Code::ContributionCount, |world| {
        world.tell_coordinator(first, torn)
    });

    world.tell_coordinator(first, own.clone()).unwrap();
    let before = world.snapshot();
    world.tell_coordinator(first, own.clone()).unwrap();
    assert!(world.snapshot() == before, "the same again is fine");
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(first, others.clone())
    });
}

/// Partial signatures before all nonces are in.
#[test]
fn partial_signatures_out_of_phase() {
    let (mut world, _) = signing(32);
    let partial = partial_signatures(&mut world).remove(0);
    let (mut early, _) = signing(32);
    let nonce = nonce_contributions(&mut early).remove(0);
    early.tell_coordinator(&nonce.0, nonce.1.clone()).unwrap();
    let message = SignatureAuthorization {
        session_id: nonce.1.session_id,
        ..partial.1
    };
    early.refuses(Code::Phase, |world| {
        world.tell_coordinator(&partial.0, message)
    });
}

/// Partial signatures that are another's, and others than those given before.
#[test]
fn partial_signatures_that_are_not_the_members() {
    let (mut world, _) = signing(33);
    let partials = partial_signatures(&mut world);
    let [(first, own), (_, others)] = &partials[..] else {
        panic!("two members")
    };
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(first, others.clone())
    });
    let mut twice = own.clone();
    twice.partial_signatures.push(others.partial_signature);
    world.refuses(Code::ContributionCount, |world| {
        world.tell_coordinator(first, twice)
    });
    world.tell_coordinator(first, own.clone()).unwrap();
    let before = world.snapshot();
    world.tell_coordinator(first, own.clone()).unwrap();
    assert!(world.snapshot() == before, "the same again is fine");
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(first, others.clone())
    });
}

/// A member signs, with its own cohort key, partial signatures that do not verify. It is named, what it signed is kept
/// as evidence that anybody can check, and everybody is told the code.
#[test]
fn a_bad_partial_signature_names_its_culprit() {
    let (mut world, cohort) = signing(34);
    let partials = partial_signatures(&mut world);
    let [(_, own), (culprit, others)] = &partials[..] else {
        panic!("two members")
    };
    let number = world.number_of(culprit).unwrap();
    let session = world.cohort(cohort).session.clone().unwrap();
    let bad = vec![own.partial_signature];
    let aggregated = session.aggregated.as_ref().unwrap();
    let statement =
        beacon_cohort::statement::partials(session.id, &session.sighashes, aggregated, &bad);
    let signature = world.sign_as(number, cohort, &statement);
    let message = SignatureAuthorization {
        partial_signature: bad[0],
        partial_signatures: bad.clone(),
        signature,
        ..others.clone()
    };
    world.tell_coordinator(culprit, message).unwrap();

    let abandoned = &world.cohort(cohort).abandoned[0];
    assert_eq!(abandoned.culprit.as_ref(), Some(culprit));
    assert_eq!(abandoned.code, Code::PartialSignature.as_str());
    assert!(
        matches!(world.cohort(cohort).round.stage, Stage::Closed { .. }),
        "it is tried again until the culprit is out"
    );
    let strike = &world.cohort(cohort).strikes[0];
    let evidence = strike.evidence.as_ref().expect("what the culprit signed");
    let key = world.cohort(cohort).members[culprit].key;
    assert_eq!(evidence.verify().unwrap().key, key);
    let told = world.mail.iter().filter(|mail| {
        matches!(
            mail,
            Mail::Message {
                message: Message::SessionAborted(_),
                ..
            }
        )
    });
    assert_eq!(told.count(), 2);
}
