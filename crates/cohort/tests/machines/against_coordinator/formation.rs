//! While a cohort is formed.

use super::*;

/// A stranger, with well-formed messages of every kind that only members send.
#[test]
fn an_outsider_speaks_in_a_cohort() {
    let (mut world, cohort) = signing(1);
    let nonce = nonce_contributions(&mut world).remove(0);
    world.tell_coordinator(&nonce.0, nonce.1.clone()).unwrap();
    let session_id = nonce.1.session_id;
    let leaves = vec![Leaf::blinded(
        Index::of_did("did:example:x"),
        LeafValue([1; 32]),
    )];
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
            from_round: None,
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
    let mut negated = opt_in.clone();
    world.refuses(Code::KeyTaken, |world| {
        world.tell_coordinator(&second, opt_in)
    });
    // Nor its negation, whose signatures are the same.
    let secret = secp256k1::SecretKey::from_secret_bytes([9; 32]).unwrap();
    let (key, proof) = possession_by(
        cohort,
        &second,
        secret.negate().to_secret_bytes(),
        negated.terms_hash,
    );
    assert_ne!(key, negated.participant_pk);
    (negated.participant_pk, negated.proof_of_possession) = (key, proof);
    world.refuses(Code::KeyTaken, |world| {
        world.tell_coordinator(&second, negated)
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
                from_round: None,
            },
        )
    });
    world
        .tell_coordinator(
            &member,
            DidRegistration {
                cohort_id,
                indexes,
                from_round: None,
            },
        )
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
