//! A member, or who would like to be one, against the coordinator and through it against the others.

use beacon_cohort::coordinator::{Cohort, Event, Stage};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::Code;
use beacon_cohort::message::{
    Decline, DidRegistration, Message, NonceContribution, OptIn, SignatureAuthorization,
};
use beacon_cohort::statement::{self, Statement};
use beacon_cohort::values::{CohortKey, NonceBytes, PartialBytes, StatementSignature};
use beacon_signal::Index;
use secp256k1::Keypair;

use crate::common::{Mail, World, secret_key};

/// A cohort of two in which the first member announces an update.
fn signing(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    (world, cohort)
}

/// The first message of a kind that a member sends, taken out before it is delivered, and everything else delivered.
fn caught<T>(world: &mut World, pick: impl Fn(Message) -> Option<T>) -> (PeerId, T) {
    let kind = |message: &Message| pick(message.clone()).is_some();
    let mut mails = world.settle_until(kind).into_iter();
    let Some(Mail::Message { from, message, .. }) = mails.next() else {
        panic!("only messages are wanted");
    };
    world.mail.splice(0..0, mails);
    (from, pick(message).unwrap())
}

fn nonces(world: &mut World) -> (PeerId, NonceContribution) {
    caught(world, |message| match message {
        Message::NonceContribution(body) => Some(body),
        _ => None,
    })
}

fn partials(world: &mut World) -> (PeerId, SignatureAuthorization) {
    caught(world, |message| match message {
        Message::SignatureAuthorization(body) => Some(body),
        _ => None,
    })
}

fn key(world: &World, cohort: CohortId, member: &PeerId) -> Keypair {
    let number = world.number_of(member).unwrap();
    let path = world.membership(number, cohort).path.unwrap();
    Keypair::from_secret_bytes(secret_key(number, path)).unwrap()
}

fn sign(statement: Statement, key: &Keypair) -> StatementSignature {
    let signature = secp256k1::schnorr::sign_with_aux_rand(statement.digest(), key, &[0; 32]);
    StatementSignature::from_bytes(&signature.to_byte_array()).unwrap()
}

/// Nonces of the member's choice, signed with its own key.
fn signed_nonces(
    world: &World,
    member: &PeerId,
    body: &NonceContribution,
    bytes: NonceBytes,
) -> NonceContribution {
    let session = world.cohort(body.cohort_id).session.as_ref().unwrap();
    let statement = statement::nonces(session.id, &session.sighashes, &[bytes]);
    NonceContribution {
        nonce_contribution: bytes,
        nonce_contributions: vec![bytes],
        signature: sign(statement, &key(world, body.cohort_id, member)),
        ..body.clone()
    }
}

fn a_nonce(number: u8) -> NonceBytes {
    let key = Keypair::from_secret_bytes([number; 32]).unwrap();
    let point = key.public_key().serialize();
    NonceBytes([point, point].concat().try_into().unwrap())
}

/// Everything about a cohort but strikes and evidence.
fn apart_from_blame(cohort: &Cohort) -> Cohort {
    let mut cohort = cohort.clone();
    cohort.strikes.clear();
    for member in cohort.members.values_mut() {
        member.strikes = 0;
    }
    if let Some(session) = &mut cohort.session {
        session.equivocated.clear();
    }
    cohort
}

/// What convicts somebody in the coordinator's log.
fn verdicts(world: &World) -> Vec<(PeerId, String)> {
    let events = world.coordinator.log.iter();
    let evidence = events.filter_map(|line| match serde_json::from_str(line).unwrap() {
        Event::Struck { evidence, .. } => evidence,
        _ => None,
    });
    evidence
        .map(|evidence| {
            let proven = evidence.verify().unwrap();
            (evidence.culprit_did.clone(), proven.sentence)
        })
        .collect()
}

/// A member signs a second pair of nonces, hoping that the coordinator aggregates them once with one and once with the other.
#[test]
fn a_member_gives_two_nonces_for_one_session() {
    let (mut world, cohort) = signing(1);
    let (member, first) = nonces(&mut world);
    world.tell_coordinator(&member, first.clone()).unwrap();
    let before = apart_from_blame(world.cohort(cohort));
    let second = signed_nonces(&world, &member, &first, a_nonce(5));
    world.mail.clear();
    world.tell_coordinator(&member, second.clone()).unwrap();
    assert!(
        matches!(&world.mail[..], [Mail::Problem { to, rejection, .. }] if *to == member && rejection.code == Code::Conflict)
    );
    assert!(
        apart_from_blame(world.cohort(cohort)) == before,
        "the first nonces stand"
    );
    let verdicts = verdicts(&world);
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0].0, member);
    assert!(
        verdicts[0].1.contains("two different sets of nonces"),
        "{verdicts:?}"
    );
    // Once is enough: evidence without end would fill the log.
    let third = signed_nonces(&world, &member, &first, a_nonce(6));
    world.mail.clear();
    for message in [second, third] {
        world.refuses(Code::Conflict, |world| {
            world.tell_coordinator(&member, message)
        });
    }
}

/// A second contribution that the member's key did not sign convicts nobody: whoever could forge an envelope could make it.
#[test]
fn an_unsigned_second_contribution_convicts_nobody() {
    let (mut world, _) = signing(2);
    let (member, first) = nonces(&mut world);
    world.tell_coordinator(&member, first.clone()).unwrap();
    let second = NonceContribution {
        nonce_contribution: a_nonce(5),
        nonce_contributions: vec![a_nonce(5)],
        ..first
    };
    world.mail.clear();
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(&member, second)
    });
    assert!(verdicts(&world).is_empty());
}

/// Nonces that are no points would stop the aggregation without anybody to blame. The member signed them.
#[test]
fn a_member_signs_nonces_that_are_none() {
    let (mut world, cohort) = signing(3);
    let (member, first) = nonces(&mut world);
    let bad = signed_nonces(&world, &member, &first, NonceBytes([0; 66]));
    world.tell_coordinator(&member, bad).unwrap();
    let cohort = world.cohort(cohort);
    assert!(cohort.session.is_none());
    let abandoned = cohort.abandoned.last().unwrap();
    assert_eq!(abandoned.culprit.as_ref(), Some(&member));
    assert_eq!(abandoned.code, Code::Nonce.as_str());
    let verdicts = verdicts(&world);
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0].0, member);
}

/// Nonces that nobody signed are refused before anybody looks at what they are: no session ends for them.
#[test]
fn unsigned_bad_nonces_end_no_session() {
    let (mut world, _) = signing(4);
    let (member, first) = nonces(&mut world);
    let bad = NonceContribution {
        nonce_contribution: NonceBytes([0; 66]),
        nonce_contributions: vec![NonceBytes([0; 66])],
        ..first
    };
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(&member, bad)
    });
    assert!(verdicts(&world).is_empty());
}

/// The other one's nonces, negated or copied, under the own name: a member that knows what others give could cancel them.
/// They are the copier's only if the copier's key signed them; then they aggregate like any others.
#[test]
fn a_member_copies_anothers_nonces() {
    let (mut world, _) = signing(5);
    let (first, honest) = nonces(&mut world);
    world.tell_coordinator(&first, honest.clone()).unwrap();
    let (second, _) = nonces(&mut world);
    assert_ne!(first, second);
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(&second, honest)
    });
}

/// What the member signed in the last session is given again in this one.
#[test]
fn nonces_of_an_older_session_come_again() {
    let (mut world, cohort) = signing(6);
    let (member, old) = nonces(&mut world);
    let wait = world.cohort(cohort).terms.phase_deadline_s(2);
    world.pass(wait);
    world.mail.clear();
    world.pass(3_600);
    let (_, new) = nonces(&mut world);
    assert_ne!(old.session_id, new.session_id);
    let replayed = NonceContribution {
        session_id: new.session_id,
        ..old
    };
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(&member, replayed)
    });
}

/// Partial signatures over other aggregated nonces than the coordinator's are not accepted as this session's.
#[test]
fn a_partial_signature_names_other_aggregated_nonces() {
    let (mut world, cohort) = signing(7);
    let (member, honest) = partials(&mut world);
    let session = world.cohort(cohort).session.clone().unwrap();
    let own = session.nonces[&member].nonces.clone();
    let alone = beacon_cohort::musig::aggregate_nonces(&own).unwrap();
    let bytes = honest.partial_signatures.clone();
    let statement = statement::partials(session.id, &session.sighashes, &[alone], &bytes);
    let other = SignatureAuthorization {
        signature: sign(statement, &key(&world, cohort, &member)),
        ..honest
    };
    world.refuses(Code::Signature, |world| {
        world.tell_coordinator(&member, other)
    });
}

/// A scalar that is none, signed: the session cannot be completed, and everybody can see by whom.
#[test]
fn a_member_signs_a_partial_signature_that_is_no_scalar() {
    let (mut world, cohort) = signing(8);
    let (member, honest) = partials(&mut world);
    let session = world.cohort(cohort).session.clone().unwrap();
    let aggregated = session.aggregated.clone().unwrap();
    let bytes = [PartialBytes([0xFF; 32])];
    let statement = statement::partials(session.id, &session.sighashes, &aggregated, &bytes);
    let bad = SignatureAuthorization {
        partial_signature: bytes[0],
        partial_signatures: bytes.to_vec(),
        signature: sign(statement, &key(&world, cohort, &member)),
        ..honest
    };
    world.tell_coordinator(&member, bad).unwrap();
    let abandoned = world.cohort(cohort).abandoned.last().unwrap();
    assert_eq!(abandoned.culprit.as_ref(), Some(&member));
    assert_eq!(abandoned.code, Code::PartialSignature.as_str());
    assert_eq!(verdicts(&world).len(), 1);
}

/// A member signs one set of partial signatures, and then another one.
#[test]
fn a_member_gives_two_partial_signatures_for_one_session() {
    let (mut world, cohort) = signing(9);
    let (member, honest) = partials(&mut world);
    world.tell_coordinator(&member, honest.clone()).unwrap();
    let before = apart_from_blame(world.cohort(cohort));
    let session = world.cohort(cohort).session.clone().unwrap();
    let aggregated = session.aggregated.clone().unwrap();
    let bytes = [PartialBytes([1; 32])];
    let statement = statement::partials(session.id, &session.sighashes, &aggregated, &bytes);
    let second = SignatureAuthorization {
        partial_signature: bytes[0],
        partial_signatures: bytes.to_vec(),
        signature: sign(statement, &key(&world, cohort, &member)),
        ..honest
    };
    world.mail.clear();
    world.tell_coordinator(&member, second.clone()).unwrap();
    assert!(
        apart_from_blame(world.cohort(cohort)) == before,
        "the first ones stand"
    );
    assert_eq!(verdicts(&world).len(), 1);
    world.mail.clear();
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(&member, second)
    });
    world.settle();
    assert_eq!(
        world.cohort(cohort).signals.len(),
        1,
        "and the session is signed"
    );
}

/// A rogue key: the victim's key is subtracted from the attacker's, so that the aggregate would be the attacker's alone.
/// Nobody knows its secret key, so nobody can prove to hold it.
#[test]
fn a_key_that_cancels_anothers_is_brought() {
    let mut world = World::new(2, 10);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.settle();
    let victim = world.cohort(cohort).members[&world.peers[0].id].key;
    let attacker = Keypair::from_secret_bytes([7; 32]).unwrap();
    let victim_point = secp256k1::PublicKey::from_byte_array_compressed(victim.to_bytes()).unwrap();
    let rogue = attacker.public_key().combine(&victim_point.negate());
    let rogue: CohortKey = rogue.unwrap().into();
    let mallory = PeerId::new("did:example:mallory");
    let terms_hash = world.cohort(cohort).terms.hash();
    let statement = statement::possession(cohort, &mallory, &rogue, &terms_hash);
    let opt_in = OptIn {
        cohort_id: cohort,
        participant_pk: rogue,
        terms_hash,
        proof_of_possession: sign(statement, &attacker),
        indexes: vec![Index::of_did("did:example:mallorys")],
    };
    world.refuses(Code::ProofOfPossession, |world| {
        world.tell_coordinator(&mallory, opt_in)
    });
}

/// A member that gave its partial signature declines all the same: the session ends, on its own account.
#[test]
fn a_member_signs_and_declines() {
    let (mut world, cohort) = signing(11);
    let (member, signed) = partials(&mut world);
    let decline = Decline {
        session_id: signed.session_id,
        cohort_id: cohort,
        code: "user".to_owned(),
        comment: String::new(),
    };
    world.tell_coordinator(&member, signed.clone()).unwrap();
    world.tell_coordinator(&member, decline.clone()).unwrap();
    let abandoned = world.cohort(cohort).abandoned.last().unwrap();
    assert_eq!(abandoned.culprit.as_ref(), Some(&member));
    assert_eq!(abandoned.code, "user");
    assert_eq!(
        world.cohort(cohort).signals.len(),
        1,
        "what was signed may come to be signed by all, and is watched"
    );
    world.mail.clear();
    for message in [Message::from(signed), decline.into()] {
        world.refuses(Code::UnknownSession, |world| {
            world.tell_coordinator(&member, message)
        });
    }
}

/// A member registers more and more indexes while a round is signed, to have leaves missing in it.
#[test]
fn indexes_are_registered_in_the_middle_of_a_round() {
    let (mut world, cohort_id) = signing(12);
    let (member, _) = nonces(&mut world);
    let before = world.snapshot();
    let registration = DidRegistration {
        cohort_id,
        indexes: vec![Index::of_did("did:example:late")],
        from_round: None,
    };
    world.mail.clear();
    world.tell_coordinator(&member, registration).unwrap();
    assert!(world.snapshot() == before, "nothing is registered");
    let [
        Mail::Message {
            message: Message::RegistrationResult(result),
            ..
        },
    ] = &world.mail[..]
    else {
        panic!("a registration is answered");
    };
    assert!(!result.results[0].accepted);
}

/// A member answers for the other one's index, so that its update would be lost.
#[test]
fn a_leaf_is_given_for_anothers_index() {
    let (mut world, cohort) = World::formed(2, 13);
    world.request_update(0, cohort, 1);
    let (_, honest) = caught(&mut world, |message| match message {
        Message::RequestSignature(body) => Some(body),
        _ => None,
    });
    let thief = world.peers[1].id.clone();
    world.refuses(Code::UnknownIndex, |world| {
        world.tell_coordinator(&thief, honest)
    });
    assert!(matches!(world.cohort(cohort).round.stage, Stage::Waiting));
}
