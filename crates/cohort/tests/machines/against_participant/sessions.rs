//! While a cohort signs.

use super::*;

/// A request that breaks a rule is declined with the rule's code, and no nonce is made.
#[test]
fn a_request_that_pays_too_much() {
    let (mut world, cohort) = signing(10);
    let mut request = request(&mut world);
    request.pending_tx.output[0].value -= Amount::from_sat(20_000);
    let session = request.session_id;
    world.tell(0, &coordinator_id(), request).unwrap();
    let [Message::Decline(decline)] = &sent_to_coordinator(&world, "sign/decline")[..] else {
        panic!("declined")
    };
    assert_eq!(
        (decline.session_id, decline.code.as_str()),
        (session, "fee-too-high")
    );
    world.look_at_chain();
    assert!(sent_to_coordinator(&world, "sign/nonce_contribution").is_empty());
    assert!(world.membership(0, cohort).session.is_none());
}

/// The chain source tells of the second signal's burial first, and of the first one's later. What builds on the second is no
/// reason to decline.
#[test]
fn what_a_buried_signal_builds_on_is_buried_too() {
    let (mut world, cohort) = World::formed(2, 12);
    for update in [1, 2] {
        world.request_update(0, cohort, update);
        world.settle();
        world.chain.mine();
        world.settle();
    }
    let [first, second] = [0, 1].map(|at| world.cohort(cohort).signals[at].txid);
    world.request_update(0, cohort, 3);
    let requests = world.settle_until(|message| message.kind() == "sign/authorization_request");
    (0..6).for_each(|_| world.chain.mine());
    for _ in 0..2 {
        let watches = world.peers[0].node.machine.watches();
        for fact in world.chain.answer(&watches) {
            if !matches!(fact, ChainFact::Transaction { txid, .. } if txid == first) {
                world.at_peer(0, Input::Chain(fact)).unwrap();
            }
        }
    }
    let live: Vec<_> = world.membership(0, cohort).live().collect();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].txid, first);
    for request in requests {
        world.deliver(request);
    }
    let open = world.membership(0, cohort).session.as_ref().unwrap();
    let spent = open.proposal.0.pending_tx.input[0].previous_output;
    assert_eq!(spent.txid, second);
}

/// One session id, two transactions: the session ends, and the nonces made for the first are destroyed.
#[test]
fn two_requests_under_one_session_id() {
    let (mut world, cohort) = signing(11);
    let request = request(&mut world);
    world.tell(0, &coordinator_id(), request.clone()).unwrap();
    world.look_at_chain_from(0);
    let nonces = sent_to_coordinator(&world, "sign/nonce_contribution");
    assert_eq!(nonces.len(), 1);
    world.tell(0, &coordinator_id(), request.clone()).unwrap();
    assert_eq!(
        sent_to_coordinator(&world, "sign/nonce_contribution"),
        [nonces[0].clone(), nonces[0].clone()],
        "stored, not made again"
    );

    let mut other = request.clone();
    other.pending_tx.output[0].value -= Amount::from_sat(1);
    world.tell(0, &coordinator_id(), other).unwrap();
    let [Message::Decline(decline)] = &sent_to_coordinator(&world, "sign/decline")[..] else {
        panic!("declined")
    };
    assert_eq!(decline.code, "conflict");
    assert_has_no_nonces(&mut world, cohort, request.session_id);
    world.refuses(Code::UnknownSession, |world| {
        world.tell(0, &coordinator_id(), request)
    });
}

/// The signer itself says that it has nothing to sign with.
fn assert_has_no_nonces(world: &mut World, cohort: CohortId, session: SessionId) {
    let request = SignerRequest::SignPartials {
        cohort,
        session,
        nonces: Vec::new(),
    };
    let answer = world.peers[0].signer.handle(request);
    assert!(
        matches!(&answer, Some(SignerAnswer::Refused { reason, .. }) if reason.contains("no nonces")),
        "{answer:?}"
    );
}

/// A second session of the cohort destroys the first one's unused nonces; what comes for the first is too late.
#[test]
fn a_superseded_session() {
    let (mut world, cohort) = signing(12);
    let first = request(&mut world);
    world.tell(0, &coordinator_id(), first.clone()).unwrap();
    world.look_at_chain_from(0);
    let second = AuthorizationRequest {
        session_id: SessionId(Uuid::from_u128(2)),
        ..first.clone()
    };
    world.tell(0, &coordinator_id(), second).unwrap();
    assert_has_no_nonces(&mut world, cohort, first.session_id);
    world.look_at_chain_from(0);
    let nonces = sent_to_coordinator(&world, "sign/nonce_contribution");
    let [
        Message::NonceContribution(one),
        Message::NonceContribution(two),
    ] = &nonces[..]
    else {
        panic!("two sessions")
    };
    assert_ne!(one.nonce_contribution, two.nonce_contribution);
    let aggregated = aggregate_of(
        one.session_id,
        cohort,
        one.nonce_contribution.points().unwrap(),
    );
    world.mail.clear();
    world.refuses(Code::UnknownSession, |world| {
        world.tell(0, &coordinator_id(), aggregated)
    });
}

fn aggregate_of(
    session_id: SessionId,
    cohort_id: CohortId,
    nonce: beacon_cohort::values::PublicNonce,
) -> AggregatedNonces {
    let aggregated_nonce = beacon_cohort::musig::aggregate_nonces(&[nonce]).unwrap();
    AggregatedNonces {
        session_id,
        cohort_id,
        aggregated_nonce,
        aggregated_nonces: vec![aggregated_nonce],
    }
}

/// The classic: a second aggregated nonce for one session would, with a second partial signature, reveal the key. The
/// same one again gets the stored answer; another ends the session.
#[test]
fn a_second_aggregated_nonce() {
    let (mut world, cohort) = signing(13);
    let aggregated = aggregated(&mut world);
    world
        .tell(0, &coordinator_id(), aggregated.clone())
        .unwrap();
    world
        .tell(0, &coordinator_id(), aggregated.clone())
        .unwrap();
    let partials = sent_to_coordinator(&world, "sign/signature_authorization");
    assert_eq!(
        partials
            .iter()
            .filter(|partial| **partial == partials[0])
            .count(),
        2,
        "stored, not made again"
    );
    let Progress::PartialReleased { .. } = world
        .membership(0, cohort)
        .session
        .as_ref()
        .unwrap()
        .progress
    else {
        panic!("the partial signatures were released");
    };

    let nonce = attackers_nonce();
    let other = aggregate_of(aggregated.session_id, cohort, nonce);
    world.mail.clear();
    world.tell(0, &coordinator_id(), other).unwrap();
    assert!(
        matches!(&world.mail[..], [Mail::Problem { rejection, .. }] if rejection.code == Code::NonceConflict)
    );
    assert!(world.membership(0, cohort).session.is_none());
    assert_eq!(released(&world), 1);
    world.mail.clear();
    world.refuses(Code::UnknownSession, |world| {
        world.tell(0, &coordinator_id(), aggregated)
    });
}

fn attackers_nonce() -> beacon_cohort::values::PublicNonce {
    let point = attackers_key().to_string();
    format!("{point}{point}").parse().unwrap()
}

/// Aggregated nonces before the member made its own, and with a number that is not that of the inputs.
#[test]
fn aggregated_nonces_out_of_phase_or_number() {
    let (mut world, cohort) = signing(14);
    let request = request(&mut world);
    let mut aggregated = aggregate_of(request.session_id, cohort, attackers_nonce());
    world.tell(0, &coordinator_id(), request).unwrap();
    world.refuses(Code::Phase, |world| {
        world.tell(0, &coordinator_id(), aggregated.clone())
    });
    world.look_at_chain_from(0);
    aggregated.aggregated_nonces.clear();
    world.refuses(Code::ContributionCount, |world| {
        world.tell(0, &coordinator_id(), aggregated)
    });
    assert_eq!(released(&world), 0);
}

/// The coordinator opens another round between nonces and partial signatures. No honest one can be there without a
/// signature of ours: it is refused, and the leaves of the old round stay.
#[test]
fn another_round_is_opened_before_the_partial_signatures() {
    let (mut world, cohort_id) = signing(15);
    let aggregated = aggregated(&mut world);
    let opportunity = UpdateOpportunity {
        cohort_id,
        round: 2,
        deadline: world.now.after(60),
    };
    world.refuses(Code::Round, |world| {
        world.tell(0, &coordinator_id(), opportunity.clone())
    });
    world.tell(0, &coordinator_id(), aggregated).unwrap();
    assert_eq!(released(&world), 1);
    // Now it can be.
    world.tell(0, &coordinator_id(), opportunity).unwrap();
    let membership = world.membership(0, cohort_id);
    assert_eq!(membership.round, 2);
    assert!(membership.session.is_none());
    let announced = membership.leaves.values().filter_map(|leaf| leaf.update);
    assert_eq!(announced.count(), 0, "it was announced in round 1");
}

/// An abort that overtakes its request is remembered: the request that comes after it opens nothing.
#[test]
fn a_session_is_aborted_before_it_is_heard_of() {
    let (mut world, cohort_id) = signing(16);
    let request = request(&mut world);
    let session_id = request.session_id;
    let aborted = SessionAborted {
        session_id,
        cohort_id,
        code: "timeout".to_owned(),
        next: NextStep::NewSession,
    };
    world.tell(0, &coordinator_id(), aborted).unwrap();
    world.refuses(Code::UnknownSession, |world| {
        world.tell(0, &coordinator_id(), request)
    });
}

/// Another coordinator uses the session id of the first, in a cohort of its own: neither session touches the other's
/// nonces.
#[test]
fn two_coordinators_use_one_session_id() {
    let (mut world, cohort) = signing(17);
    let request = request(&mut world);
    world.tell(0, &coordinator_id(), request.clone()).unwrap();
    world.look_at_chain_from(0);
    let session = request.session_id;
    let foreign = CohortId(Uuid::from_u128(666));
    let signer = &mut world.peers[0].signer;
    assert!(
        signer
            .handle(SignerRequest::Forget {
                cohort: foreign,
                session
            })
            .is_none()
    );
    let steal = SignerRequest::SignPartials {
        cohort: foreign,
        session,
        nonces: Vec::new(),
    };
    assert!(matches!(
        signer.handle(steal),
        Some(SignerAnswer::Refused { .. })
    ));
    world.peers[0].node.machine.apply(&Event::SessionEnded {
        cohort: foreign,
        session,
        code: "superseded".to_owned(),
        comment: String::new(),
        offered: None,
        heard: None,
    });
    assert!(world.membership(0, cohort).session.is_some());
    world.mail = vec![];
    let aggregated = aggregate_of(session, cohort, attackers_nonce());
    world.tell(0, &coordinator_id(), aggregated).unwrap();
    assert_eq!(
        sent_to_coordinator(&world, "sign/signature_authorization").len(),
        1
    );
}

/// A coordinator has one transaction after the other signed and none mined. Proofs of each must be kept for ever, so
/// there is an end to it.
#[test]
fn signed_transactions_without_end() {
    let (mut world, cohort) = signing(18);
    let first = request(&mut world);
    for number in 1..=64 {
        let mut request = first.clone();
        request.session_id = SessionId(Uuid::from_u128(number.into()));
        request.pending_tx.output[0].value -= Amount::from_sat(number);
        world.tell(0, &coordinator_id(), request.clone()).unwrap();
        world.look_at_chain_from(0);
        let aggregated = aggregate_of(request.session_id, cohort, attackers_nonce());
        world.tell(0, &coordinator_id(), aggregated).unwrap();
    }
    assert_eq!(world.membership(0, cohort).candidates.len(), 64);
    world.refuses(Code::Limit, |world| {
        world.tell(0, &coordinator_id(), first.clone())
    });
    let mut again = first;
    again.session_id = SessionId(Uuid::from_u128(65));
    again.pending_tx.output[0].value -= Amount::from_sat(64);
    world.tell(0, &coordinator_id(), again).unwrap();
    assert!(
        world
            .membership(0, cohort)
            .session
            .as_ref()
            .is_some_and(|open| open.id.0.as_u128() == 65),
        "one of them again"
    );
}

/// News of a transaction that we never signed, and news whose id is not the transaction's.
#[test]
fn news_of_a_foreign_transaction() {
    let (mut world, cohort_id) = World::formed(2, 19);
    world.request_update(0, cohort_id, 1);
    world.settle();
    let signal = world.cohort(cohort_id).signals[0].clone();
    let news = |tx: &bitcoin::Transaction, txid| SignalPublished {
        session_id: signal.session,
        cohort_id,
        round: 1,
        txid,
        transaction: tx.clone(),
        status: SignalStatus::Broadcast,
    };
    let mut foreign = signal.tx.clone();
    foreign.output[0].value -= Amount::from_sat(1);
    for (tx, txid) in [(&foreign, foreign.compute_txid()), (&foreign, signal.txid)] {
        world.refuses(Code::ForeignTransaction, |world| {
            world.tell(0, &coordinator_id(), news(tx, txid))
        });
    }
}

/// A coordinator has a round signed, withholds it, and has the next one confirmed instead. What only the first announced
/// is not lost: it waits for another round.
#[test]
fn a_withheld_signal_gives_its_update_back() {
    let (mut world, cohort) = signing(20);
    let first = request(&mut world);
    world.tell(0, &coordinator_id(), first.clone()).unwrap();
    world.look_at_chain_from(0);
    world
        .tell(
            0,
            &coordinator_id(),
            aggregate_of(first.session_id, cohort, attackers_nonce()),
        )
        .unwrap();
    let withheld = first.pending_tx.compute_txid();
    let index = *world.membership(0, cohort).dids.keys().next().unwrap();
    let update = world.membership(0, cohort).candidates[0]
        .updates()
        .next()
        .unwrap();

    // Round 2 spends the same output without the update, and is buried.
    let mut later = first.pending_tx.clone();
    later.output[0].value -= Amount::from_sat(1);
    let txid = later.compute_txid();
    let root = Root(transaction::signal_bytes(&later).unwrap());
    let mut proofs = world.membership(0, cohort).candidates[0].proofs.clone();
    proofs.get_mut(&index).unwrap().update_id = None;
    let session = SessionId(Uuid::from_u128(2));
    let round = 2;
    let request = AuthorizationRequest {
        session_id: session,
        pending_tx: later,
        round,
        ..first
    };
    let block_hash = bitcoin::BlockHash::from_raw_hash(bitcoin::hashes::Hash::all_zeros());
    let events = [
        Event::LeavesChosen {
            cohort,
            round,
            leaves: Vec::new(),
        },
        Event::SignalProposed {
            cohort,
            session,
            proposal: Box::new(beacon_cohort::review::ProposedSignal(request)),
            approved: true,
            deadline: START,
            at: START,
        },
        Event::PartialAuthorized {
            cohort,
            session,
            nonces: Vec::new(),
            txid,
            root: Some(root),
            proofs,
        },
        Event::SignalConfirmed {
            cohort,
            txid,
            height: 1,
            block_hash,
        },
        Event::SignalBuried { cohort, txid },
    ];
    for event in &events {
        world.peers[0].node.machine.apply(event);
    }
    let membership = world.membership(0, cohort);
    let standing = membership
        .candidates
        .iter()
        .find(|candidate| candidate.txid == withheld)
        .unwrap()
        .standing;
    assert_eq!(standing, Standing::Superseded);
    assert_eq!(membership.queued.get(&index), Some(&update.1));
}

/// A participant that asks its user does not make a nonce before the user agreed, whatever the chain says.
#[test]
fn nothing_is_signed_without_approval() {
    let (mut world, cohort) = signing(21);
    let request = request(&mut world);
    let session = request.session_id;
    let mut asking = Participant::new(Policy::asking(BtcNetwork::Regtest), leaf_secret());
    for line in &world.peers[0].node.log {
        asking.apply(&serde_json::from_str(line).unwrap());
    }
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let message = Input::Message {
        from: coordinator_id(),
        to: world.peers[0].id.clone(),
        message: request.into(),
    };
    let step = asking.step(message, world.now, &mut rng).unwrap();
    step.events.iter().for_each(|event| asking.apply(event));
    let mut review = |asking: &Participant| {
        let facts = world.chain.answer(&asking.watches());
        let steps = facts.into_iter().map(|fact| {
            asking
                .step(Input::Chain(fact), world.now, &mut rng)
                .unwrap()
        });
        steps.flat_map(|step| step.effects).collect::<Vec<_>>()
    };
    assert!(review(&asking).is_empty());
    asking.apply(&Event::SignalApproved { cohort, session });
    assert!(matches!(
        &review(&asking)[..],
        [Effect::Sign(SignerRequest::MakeNonces(_))]
    ));
}
