//! Attackers on a coordinator. Each is refused with its own code, and nothing changes: no state, no log, no mail.

use beacon_cohort::coordinator::{Command, Event, Phase, Stage};
use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::{ChainFact, Code, Fund, Input};
use beacon_cohort::message::{
    CohortAck, Decline, DidRegistration, Leaf, Message, NoUpdate, NonceContribution, OptIn, OptOut,
    RequestSignature, SignatureAuthorization, Subscribe, SubscribeAccept, Unsubscribe,
};
use beacon_cohort::signer::{KeyPath, LocalSigner, SignerAnswer, SignerRequest};
use beacon_cohort::terms::{Admission, AgreedTerms, BtcNetwork, Terms};
use beacon_cohort::values::{AckHash, CohortKey, StatementSignature, TermsHash};
use beacon_signal::{Index, LeafValue};
use bitcoin::OutPoint;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::common::{Mail, START, World};

fn stranger() -> PeerId {
    PeerId::new("did:example:stranger")
}

/// The messages of a kind that both members send, taken out before they are delivered.
fn capture(world: &mut World, kind: &str) -> Vec<(PeerId, Message)> {
    let mut captured = Vec::new();
    while captured.len() < 2 {
        for mail in world.settle_until(|message| message.kind() == kind) {
            let Mail::Message { from, message, .. } = mail else {
                panic!("only messages are captured");
            };
            captured.push((from, message));
        }
    }
    captured
}

fn nonce_contributions(world: &mut World) -> Vec<(PeerId, NonceContribution)> {
    let captured = capture(world, "sign/nonce_contribution").into_iter();
    let body = |(from, message)| match message {
        Message::NonceContribution(body) => (from, body),
        other => panic!("got {other:?}"),
    };
    captured.map(body).collect()
}

fn partial_signatures(world: &mut World) -> Vec<(PeerId, SignatureAuthorization)> {
    let captured = capture(world, "sign/signature_authorization").into_iter();
    let body = |(from, message)| match message {
        Message::SignatureAuthorization(body) => (from, body),
        other => panic!("got {other:?}"),
    };
    captured.map(body).collect()
}

/// A formed cohort of two that is signing.
fn signing(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    (world, cohort)
}

/// A cohort that is open, and a valid opt-in of a peer that is not yet a member.
fn open(seed: u64) -> (World, CohortId, PeerId, OptIn) {
    let mut world = World::new(2, seed);
    let cohort = world.advertise(|terms| terms.max_indexes_per_member = 2);
    let peer = stranger();
    let opt_in = opt_in(&world, cohort, &peer, 9);
    (world, cohort, peer, opt_in)
}

fn opt_in(world: &World, cohort: CohortId, peer: &PeerId, key: u8) -> OptIn {
    let terms_hash = world.cohort(cohort).terms.hash();
    let (participant_pk, proof_of_possession) = possession(cohort, peer, key, terms_hash);
    OptIn {
        cohort_id: cohort,
        participant_pk,
        terms_hash,
        proof_of_possession,
        indexes: vec![Index::of_did("did:example:strange")],
    }
}

fn possession(
    cohort: CohortId,
    did: &PeerId,
    key: u8,
    terms: TermsHash,
) -> (CohortKey, StatementSignature) {
    let keys = move |_: KeyPath| Zeroizing::new([key; 32]);
    let mut signer = LocalSigner::new(keys, ChaCha20Rng::seed_from_u64(key.into()));
    let path = KeyPath {
        network: BtcNetwork::Regtest,
        index: 0,
    };
    let did = did.clone();
    match signer.handle(SignerRequest::ProvePossession {
        cohort,
        path,
        did,
        terms,
    }) {
        Some(SignerAnswer::Possession { key, proof, .. }) => (key, proof),
        other => panic!("got {other:?}"),
    }
}

// --- Formation --------------------------------------------------------------------------------------------------------

/// A stranger, with well-formed messages of every kind that only members send.
#[test]
fn an_outsider_speaks_in_a_cohort() {
    let (mut world, cohort) = signing(1);
    let nonce = nonce_contributions(&mut world).remove(0);
    world.tell_coordinator(&nonce.0, nonce.1.clone()).unwrap();
    let session_id = nonce.1.session_id;
    let leaves = vec![Leaf {
        index: Index::of_did("did:example:x"),
        value: LeafValue([1; 32]),
    }];
    let messages: Vec<Message> = vec![
        OptOut { cohort_id: cohort }.into(),
        CohortAck {
            cohort_id: cohort,
            ack_hash: AckHash([0; 32]),
        }
        .into(),
        DidRegistration {
            cohort_id: cohort,
            indexes: vec![leaves[0].index],
        }
        .into(),
        RequestSignature {
            cohort_id: cohort,
            data: LeafValue([2; 32]),
            round: 1,
            leaves: leaves.clone(),
        }
        .into(),
        NoUpdate {
            cohort_id: cohort,
            round: 1,
            leaves,
        }
        .into(),
        nonce.1.into(),
        Decline {
            session_id,
            cohort_id: cohort,
            code: "user".to_owned(),
            comment: String::new(),
        }
        .into(),
    ];
    for message in messages {
        world.refuses(Code::NotAMember, |world| {
            world.tell_coordinator(&stranger(), message)
        });
    }
    world.settle();
}

/// A member of one cohort, speaking of a cohort that this coordinator never had.
#[test]
fn a_member_speaks_of_an_unknown_cohort() {
    let (mut world, _) = World::formed(2, 2);
    let member = world.peers[0].id.clone();
    let cohort_id = CohortId(Uuid::from_u128(404));
    world.refuses(Code::UnknownCohort, |world| {
        world.tell_coordinator(&member, OptOut { cohort_id })
    });
}

/// Messages that only coordinators send.
#[test]
fn a_peer_plays_the_coordinator() {
    let (mut world, _) = World::formed(2, 3);
    let member = world.peers[0].id.clone();
    world.refuses(Code::WrongRole, |world| {
        world.tell_coordinator(&member, SubscribeAccept::default())
    });
}

/// The first opt-in is repeated, then changed: a member has one key and speaks for what it said.
#[test]
fn an_opt_in_is_repeated_and_then_changed() {
    let (mut world, cohort, peer, opt_in) = open(4);
    world.tell_coordinator(&peer, opt_in.clone()).unwrap();
    let before = world.snapshot();
    world.tell_coordinator(&peer, opt_in.clone()).unwrap();
    assert!(world.snapshot() == before, "the same again is fine");
    let mut other = opt_in;
    let terms_hash = other.terms_hash;
    (other.participant_pk, other.proof_of_possession) = possession(cohort, &peer, 10, terms_hash);
    world.refuses(Code::Conflict, |world| world.tell_coordinator(&peer, other));
}

/// Somebody else's proof, replayed under another DID; a proof for other terms; a proof by another key.
#[test]
fn an_opt_in_carries_a_bad_proof_of_possession() {
    let (mut world, cohort, peer, opt_in) = open(5);
    let thief = PeerId::new("did:example:thief");
    world.refuses(Code::ProofOfPossession, |world| {
        world.tell_coordinator(&thief, opt_in.clone())
    });
    let terms = TermsHash([7; 32]);
    let others = [
        possession(cohort, &peer, 9, terms).1,
        possession(CohortId(Uuid::from_u128(1)), &peer, 9, opt_in.terms_hash).1,
        possession(cohort, &peer, 8, opt_in.terms_hash).1,
    ];
    for proof_of_possession in others {
        let opt_in = OptIn {
            proof_of_possession,
            ..opt_in.clone()
        };
        world.refuses(Code::ProofOfPossession, |world| {
            world.tell_coordinator(&peer, opt_in)
        });
    }
}

/// Two members with one key: who holds it would speak for two, and the set could never be valid.
#[test]
fn a_second_member_brings_a_taken_key() {
    let (mut world, cohort, peer, first) = open(6);
    world.tell_coordinator(&peer, first).unwrap();
    let second = PeerId::new("did:example:second");
    let mut opt_in = opt_in(&world, cohort, &second, 9);
    opt_in.indexes = vec![Index::of_did("did:example:other")];
    world.refuses(Code::KeyTaken, |world| {
        world.tell_coordinator(&second, opt_in)
    });
}

/// An index has one holder: who comes second does not get it, whatever it claims.
#[test]
fn a_second_member_claims_a_taken_index() {
    let (mut world, cohort, peer, first) = open(7);
    world.tell_coordinator(&peer, first).unwrap();
    let second = PeerId::new("did:example:second");
    let opt_in = opt_in(&world, cohort, &second, 10);
    world.refuses(Code::IndexTaken, |world| {
        world.tell_coordinator(&second, opt_in)
    });
}

/// Too many indexes, none, or one twice.
#[test]
fn an_opt_in_has_the_wrong_number_of_indexes() {
    let (mut world, _, peer, opt_in) = open(8);
    let index = |name: &str| Index::of_did(name);
    for indexes in [
        vec![],
        vec![index("a"); 2],
        vec![index("a"), index("b"), index("c")],
    ] {
        let opt_in = OptIn {
            indexes,
            ..opt_in.clone()
        };
        world.refuses(Code::IndexCount, |world| {
            world.tell_coordinator(&peer, opt_in)
        });
    }
}

/// An opt-in to terms that were never advertised.
#[test]
fn an_opt_in_names_other_terms() {
    let (mut world, _, peer, opt_in) = open(9);
    let opt_in = OptIn {
        terms_hash: TermsHash([1; 32]),
        ..opt_in
    };
    world.refuses(Code::TermsHash, |world| {
        world.tell_coordinator(&peer, opt_in)
    });
}

/// Membership is frozen once the cohort is set: neither in nor out, and the cohort lives on.
#[test]
fn a_late_opt_in_and_a_late_opt_out() {
    let (mut world, cohort) = World::formed(2, 10);
    let late = opt_in(&world, cohort, &stranger(), 9);
    world.refuses(Code::CohortSet, |world| {
        world.tell_coordinator(&stranger(), late)
    });
    let member = world.peers[0].id.clone();
    world.refuses(Code::CohortSet, |world| {
        world.tell_coordinator(&member, OptOut { cohort_id: cohort })
    });
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
}

/// After the advert's end, at the very second.
#[test]
fn an_opt_in_comes_after_the_advert_ended() {
    let (mut world, _, peer, opt_in) = open(11);
    world.now = START.after(3_600);
    world.refuses(Code::AdvertClosed, |world| {
        world.tell_coordinator(&peer, opt_in)
    });
}

/// A peer that was not invited, in a cohort for invited peers; it is not even told of it.
#[test]
fn an_uninvited_peer_opts_in() {
    let mut world = World::new(2, 12);
    let mut terms = Terms::new(BtcNetwork::Regtest, 2, START.after(60));
    terms.admission = Admission::Invited;
    let terms = AgreedTerms::parse(terms.to_value().unwrap()).unwrap();
    let cohort = CohortId(Uuid::from_u128(1));
    let invited = [world.peers[0].id.clone()].into();
    world
        .operator(Command::Advertise {
            cohort,
            terms,
            invited,
        })
        .unwrap();
    world
        .tell_coordinator(&stranger(), Subscribe::default())
        .unwrap();
    assert!(world.mail.iter().all(|mail| !matches!(
        mail,
        Mail::Message {
            message: Message::CohortAdvert(_),
            ..
        }
    )));
    let opt_in = opt_in(&world, cohort, &stranger(), 9);
    world.refuses(Code::NotInvited, |world| {
        world.tell_coordinator(&stranger(), opt_in)
    });
}

/// An acknowledgement of something else, and one before there is anything to acknowledge.
#[test]
fn a_member_acknowledges_another_cohort() {
    let (mut world, cohort_id, peer, opt_in) = open(13);
    world.tell_coordinator(&peer, opt_in).unwrap();
    let ack_hash = AckHash([1; 32]);
    world.refuses(Code::Phase, |world| {
        world.tell_coordinator(
            &peer,
            CohortAck {
                cohort_id,
                ack_hash,
            },
        )
    });
    let (mut world, cohort_id) = World::formed(2, 13);
    let member = world.peers[0].id.clone();
    world.refuses(Code::AckMismatch, |world| {
        world.tell_coordinator(
            &member,
            CohortAck {
                cohort_id,
                ack_hash,
            },
        )
    });
}

/// A problem report ends a cohort only where it is a member's, about the set, before that member agreed.
#[test]
fn problem_reports_do_not_end_a_cohort_at_will() {
    let (mut world, cohort) = World::formed(2, 14);
    let before = world.snapshot();
    for from in [world.peers[0].id.clone(), stranger()] {
        let code = Code::CohortMismatch.as_str().to_owned();
        let comment = "I do not agree".to_owned();
        world
            .at_coordinator(Input::Problem {
                from,
                cohort: Some(cohort),
                code,
                comment,
            })
            .unwrap();
    }
    assert!(world.snapshot() == before);
}

/// Subscribers are limited in number, and so is what each may store.
#[test]
fn subscriptions_are_limited() {
    let mut world = World::new(2, 15);
    let long = Subscribe {
        label: Some("x".repeat(257)),
        ..Subscribe::default()
    };
    world.refuses(Code::Malformed, |world| {
        world.tell_coordinator(&stranger(), long)
    });
    let wide = Subscribe {
        networks: vec![BtcNetwork::Regtest; 17],
        ..Subscribe::default()
    };
    world.refuses(Code::Malformed, |world| {
        world.tell_coordinator(&stranger(), wide)
    });
    for number in 0..10_000 {
        let peer = PeerId::new(format!("did:example:{number}"));
        world.tell_coordinator(&peer, Subscribe::default()).unwrap();
    }
    world.refuses(Code::Limit, |world| {
        world.tell_coordinator(&stranger(), Subscribe::default())
    });
    world.refuses(Code::NotSubscribed, |world| {
        world.tell_coordinator(&stranger(), Unsubscribe {})
    });
}

/// Anybody can pay dust to a beacon address, many times; what is remembered of it is bounded, and the largest stays.
#[test]
fn dust_deposits_do_not_fill_the_log() {
    let (mut world, cohort) = World::formed(2, 16);
    let kept = world.cohort(cohort).funds.clone();
    let script = world
        .cohort(cohort)
        .beacon
        .as_ref()
        .unwrap()
        .script()
        .to_owned();
    let dust = (0..5_000).map(|vout| Fund {
        outpoint: OutPoint::new(kept[0].outpoint.txid, vout + 1),
        value: 330,
        height: Some(1),
    });
    let funds = dust.chain(kept.clone()).collect();
    world
        .at_coordinator(Input::Chain(ChainFact::Funds { script, funds }))
        .unwrap();
    let remembered = &world.cohort(cohort).funds;
    assert_eq!(remembered.len(), 64);
    assert!(remembered.contains(&kept[0]));
}

/// Further indexes are refused one by one, by name.
#[test]
fn a_member_registers_what_it_cannot_have() {
    let (mut world, cohort_id) = World::formed(2, 17);
    let member = world.peers[0].id.clone();
    let taken = *world.membership(1, cohort_id).dids.keys().next().unwrap();
    let indexes = vec![taken, Index::of_did("did:example:new")];
    world.refuses(Code::IndexCount, |world| {
        world.tell_coordinator(
            &member,
            DidRegistration {
                cohort_id,
                indexes: vec![taken; 2],
            },
        )
    });
    world
        .tell_coordinator(&member, DidRegistration { cohort_id, indexes })
        .unwrap();
    let Some(Mail::Message {
        message: Message::RegistrationResult(result),
        ..
    }) = world.mail.pop()
    else {
        panic!("a registration is answered");
    };
    let codes: Vec<_> = result
        .results
        .iter()
        .map(|result| (result.accepted, result.code.as_deref()))
        .collect();
    assert_eq!(codes, [(false, Some("index-taken")), (true, None)]);
}

// --- Leaves -----------------------------------------------------------------------------------------------------------

/// Leaves for an index of somebody else, for another round, more than one's own, changed, or with a datum that is not
/// the first leaf.
#[test]
fn leaves_that_are_not_the_members_to_give() {
    let (mut world, cohort_id) = World::formed(2, 20);
    let member = world.peers[0].id.clone();
    let own = *world.membership(0, cohort_id).dids.keys().next().unwrap();
    let others = *world.membership(1, cohort_id).dids.keys().next().unwrap();
    let leaf = |index, value| Leaf {
        index,
        value: LeafValue([value; 32]),
    };
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

/// Leaves before the cohort is set, and after the round was closed.
#[test]
fn leaves_out_of_phase() {
    let (mut world, cohort_id, peer, opt_in) = open(21);
    let index = opt_in.indexes[0];
    world.tell_coordinator(&peer, opt_in).unwrap();
    let leaves = vec![Leaf {
        index,
        value: LeafValue([1; 32]),
    }];
    let early = NoUpdate {
        cohort_id,
        round: 1,
        leaves,
    };
    world.refuses(Code::Phase, |world| world.tell_coordinator(&peer, early));

    let mut world = World::new(2, 21);
    let cohort_id = world.advertise(|terms| terms.empty_leaf_allowed = true);
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    world.request_update(0, cohort_id, 1);
    world.settle_until(|message| message.kind() == "sign/update_opportunity"); // Lost: the index stays empty.
    world.pass(60);
    assert!(matches!(
        world.cohort(cohort_id).round.stage,
        Stage::Closed { .. }
    ));
    let member = world.peers[1].id.clone();
    let index = *world.membership(1, cohort_id).dids.keys().next().unwrap();
    let leaves = vec![Leaf {
        index,
        value: LeafValue([1; 32]),
    }];
    world.refuses(Code::Phase, |world| {
        world.tell_coordinator(
            &member,
            NoUpdate {
                cohort_id,
                round: 1,
                leaves,
            },
        )
    });
}

// --- Nonces and partial signatures ------------------------------------------------------------------------------------

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
    world.pass(60);
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
    let statement = beacon_cohort::statement::partials(session.id, &session.sighashes, &bad);
    let pair = secp256k1::Keypair::from_secret_bytes(key_of(number)).unwrap();
    let signature = secp256k1::schnorr::sign_with_aux_rand(statement.digest(), &pair, &[0; 32]);
    let signature = StatementSignature::from_bytes(&signature.to_byte_array()).unwrap();
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
        matches!(world.cohort(cohort).round.stage, Stage::Stopped { .. }),
        "trying again would not help"
    );
    let evidence =
        world.coordinator.log.iter().rev().find_map(|line| {
            match serde_json::from_str(line).unwrap() {
                Event::SessionAbandoned { evidence, .. } => evidence,
                _ => None,
            }
        });
    let evidence = evidence.expect("what the culprit signed is in the log");
    assert_eq!(evidence.partials, bad);
    let key = world.cohort(cohort).members[culprit].key;
    assert!(statement.is_signed_by(&key, &evidence.signature));
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

/// The first cohort key of the harness's member.
fn key_of(number: usize) -> [u8; 32] {
    let mut key = [u8::try_from(number).unwrap() + 1; 32];
    key[31] = 0;
    key
}
