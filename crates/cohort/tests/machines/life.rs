//! A cohort's life from the first subscription to a buried signal, and what may come between.

use beacon_cohort::coordinator::{self, Phase, Stage, Standing};
use beacon_cohort::machine::{Code, Input, Machine};
use beacon_cohort::participant;
use beacon_cohort::terms::Flow;
use beacon_signal::{Root, Strictness};

use crate::common::World;

/// The second signal spends the first one's change, and every member can prove both of its leaves afterwards.
#[test]
fn two_signals_in_a_row_are_mined_and_proven() {
    let (mut world, cohort) = World::formed(3, 1);
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
    for round in 1..=2 {
        world.request_update(1, cohort, 7);
        world.settle();
        world.chain.mine();
        world.settle();
        let signals = &world.cohort(cohort).signals;
        assert_eq!(signals.len(), round);
        assert!(matches!(
            signals[round - 1].standing,
            Standing::Confirmed { .. }
        ));
    }
    let signals = &world.cohort(cohort).signals;
    let (first, second) = (&signals[0], &signals[1]);
    assert_eq!(second.tx.input[0].previous_output.txid, first.txid);
    for number in 0..3 {
        let candidates = &world.membership(number, cohort).candidates;
        assert_eq!(candidates.len(), 2);
        for candidate in candidates {
            let mined = world.chain.transaction(&candidate.txid).unwrap();
            let root = Root(beacon_signal::transaction::signal_bytes(mined).unwrap());
            for (index, proof) in &candidate.proofs {
                assert_eq!(proof.update_id.is_some(), number == 1);
                proof
                    .verify(index, &proof.leaf_value(), &root, Strictness::Resolver)
                    .unwrap();
            }
        }
    }
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

#[test]
fn in_the_pull_flow_everybody_is_asked() {
    let mut world = World::new(2, 2);
    let cohort = world.advertise(|terms| {
        terms.flow = Flow::Pull;
        terms.max_interval_s = 600;
    });
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    world.fund(cohort, 50_000);
    world.request_update(0, cohort, 1);
    world.settle();
    assert_eq!(
        world.cohort(cohort).round.stage,
        Stage::Waiting,
        "members wait to be asked"
    );
    world.pass(600);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
}

/// A restart between nonce and partial signature costs the session, not the round, and no nonce is used twice.
#[test]
fn a_restart_between_nonce_and_partial_signature_costs_one_session() {
    let (mut world, cohort) = World::formed(2, 3);
    world.request_update(0, cohort, 1);
    world.mail = world.settle_until(|message| message.kind() == "sign/nonce_contribution");
    world.restart(0);
    world.settle();
    let abandoned = world.cohort(cohort).abandoned.clone();
    assert_eq!(abandoned.len(), 1);
    assert_eq!(
        (abandoned[0].code.as_str(), abandoned[0].round),
        ("nonce-lost", 1)
    );
    world.pass(2);
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert_eq!(signals.len(), 1);
    assert_ne!(
        signals[0].session, abandoned[0].session,
        "a retry is another session"
    );
    world.assert_replay_equals_memory();
}

/// What left the chain is given to the network again; what left the mempool as well. News of it reach the members.
#[test]
fn a_vanished_signal_is_broadcast_again() {
    let (mut world, cohort) = World::formed(2, 4);
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    let txid = world.cohort(cohort).signals[0].txid;
    world.chain.reorganise(1, true);
    world.settle();
    assert!(
        world.chain.transaction(&txid).is_some(),
        "left the chain, broadcast again"
    );
    assert_eq!(
        world.cohort(cohort).signals[0].standing,
        Standing::Broadcast
    );
    world.chain.reorganise(0, true);
    world.look_at_chain();
    assert!(
        world.chain.transaction(&txid).is_none(),
        "not more often than the interval says"
    );
    world.pass(30);
    world.settle();
    assert!(
        world.chain.transaction(&txid).is_some(),
        "left the mempool, broadcast again"
    );
    world.chain.mine();
    for _ in 0..6 {
        world.settle();
        world.chain.mine();
    }
    world.settle();
    assert!(matches!(
        world.cohort(cohort).signals[0].standing,
        Standing::Buried { .. }
    ));
    let standing = world.membership(0, cohort).candidates[0].standing;
    assert!(matches!(standing, participant::Standing::Buried { .. }));
    world.assert_replay_equals_memory();
}

/// A member that declines ends the session; whoever operates the coordinator decides, and the round goes on with the
/// same leaves.
#[test]
fn a_declined_round_waits_for_the_operator() {
    let (mut world, cohort) = World::formed(2, 5);
    world.request_update(0, cohort, 1);
    let mail = world.settle_until(|message| message.kind() == "sign/authorization_request");
    let session = world.cohort(cohort).session.as_ref().unwrap().id;
    for mail in mail {
        world.deliver(mail);
    }
    let comment = "not today".to_owned();
    world
        .user(1, participant::Command::Decline { session, comment })
        .unwrap();
    world.settle();
    let stopped = world.cohort(cohort);
    assert!(matches!(stopped.round.stage, Stage::Stopped { .. }));
    assert_eq!(
        stopped.abandoned[0].culprit.as_ref(),
        Some(&world.peers[1].id)
    );
    let leaves = stopped.round.leaves.clone();
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.settle();
    let signed = &world.cohort(cohort).signals;
    assert_eq!((signed.len(), signed[0].round), (1, 1));
    let proofs = &world.membership(0, cohort).candidates[0].proofs;
    for (index, proof) in proofs {
        assert_eq!(leaves[index], proof.leaf_value(), "byte for byte");
    }
}

/// Two sessions for one round: the first timed out after nonces were aggregated, so its root may be signed already and
/// stays the round's root.
#[test]
fn a_round_keeps_its_root_once_nonces_were_aggregated() {
    let mut world = World::new(2, 6);
    let cohort = world.advertise(|terms| terms.empty_leaf_allowed = true);
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    world.fund(cohort, 50_000);
    world.request_update(0, cohort, 1);
    world.settle_until(|message| message.kind() == "sign/update_opportunity"); // Lost.
    world.pass(62);
    world.settle_until(|message| message.kind() == "sign/signature_authorization"); // Lost.
    let root = world.cohort(cohort).signals[0].root;
    for wait in [2, 4, 8, 16, 32] {
        world.pass(62);
        world.settle_until(|message| message.kind() == "sign/session_aborted");
        world.mail.clear();
        assert!(world.cohort(cohort).session.is_none());
        world.pass(wait - 1);
        assert!(
            world.cohort(cohort).session.is_none(),
            "twice as long each time"
        );
        world.pass(1);
        assert!(world.cohort(cohort).session.is_some());
        world.mail.clear();
    }
    world.pass(3_600);
    world.mail.clear();
    world.pass(3_600);
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert!(
        signals.iter().all(|signal| signal.root == root),
        "{signals:?}"
    );
}

/// Nobody funds a cohort that is not agreed on by all: it fails when an acknowledgement is missing at the deadline, and
/// those who agreed are told.
#[test]
fn a_cohort_without_all_acknowledgements_fails() {
    let mut world = World::new(2, 7);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.subscribe(1);
    let first = world.settle_until(|message| message.kind() == "keygen/cohort_ack");
    let second = world.settle_until(|message| message.kind() == "keygen/cohort_ack");
    world.deliver(first[0].clone());
    world.pass(599);
    assert_eq!(world.cohort(cohort).phase, Phase::Set);
    world.pass(1);
    assert!(matches!(world.cohort(cohort).phase, Phase::Failed(_)));
    world.settle();
    for number in 0..2 {
        let stage = &world.membership(number, cohort).stage;
        assert!(
            matches!(stage, participant::Stage::Out(code, _) if code == Code::CohortFailed.as_str()),
            "{stage:?}"
        );
    }
    world.deliver(second[0].clone());
    assert_eq!(
        world.rejections.last().unwrap().code,
        Code::CohortFailed,
        "too late"
    );
}

/// A member that left while the cohort was being set says so when it hears of it, and the cohort fails at once.
#[test]
fn an_opt_out_that_crosses_the_set_fails_the_cohort() {
    let mut world = World::new(2, 8);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.subscribe(1);
    let sets = world.settle_until(|message| message.kind() == "keygen/cohort_set");
    world
        .user(0, participant::Command::Leave { cohort })
        .unwrap();
    world.mail.extend(sets);
    world.settle();
    assert!(matches!(world.cohort(cohort).phase, Phase::Failed(_)));
    let stage = &world.membership(1, cohort).stage;
    assert!(
        matches!(stage, participant::Stage::Out(code, _) if code == Code::CohortFailed.as_str()),
        "{stage:?}"
    );
}

/// A cohort that does not fill is over at its advert's end, and those who joined are told.
#[test]
fn a_cohort_that_does_not_fill_fails() {
    let mut world = World::new(2, 9);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.settle();
    assert_eq!(
        world.membership(0, cohort).stage,
        participant::Stage::OptedIn
    );
    world.pass(3_600);
    world.settle();
    assert!(matches!(world.cohort(cohort).phase, Phase::Failed(_)));
    assert!(matches!(
        world.membership(0, cohort).stage,
        participant::Stage::Out(..)
    ));
    assert_eq!(world.coordinator.machine.next_deadline(), None);
}

/// Without money a complete round waits, without a deadline that would have the driver spin.
#[test]
fn a_complete_round_waits_for_money() {
    let mut world = World::new(2, 10);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    world.request_update(0, cohort, 1);
    world.settle();
    assert!(matches!(
        world.cohort(cohort).round.stage,
        Stage::Closed { .. }
    ));
    assert!(world.cohort(cohort).session.is_none());
    world.at_coordinator(Input::Tick).unwrap();
    world.fund(cohort, 50_000);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
}
