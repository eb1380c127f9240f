//! A coordinator whose state is older than its cohort.

use beacon_cohort::coordinator::{Command, Event, Stage};
use beacon_cohort::machine::{ChainFact, Fund, Input, OutputView};
use beacon_cohort::message::DidRegistration;
use bitcoin::hashes::Hash as _;
use bitcoin::{OutPoint, TxOut, Txid};

use crate::common::World;

fn reason(world: &World, cohort: beacon_cohort::ids::CohortId) -> String {
    match &world.cohort(cohort).round.stage {
        Stage::Stopped { reason } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

/// The coordinator comes from a backup that was made before the last signal. The chain shows a spend that it does not know:
/// it starts no session until the operator says so.
#[test]
fn a_spend_that_the_log_does_not_know_stops_the_round() {
    let (mut world, cohort) = World::formed(2, 1);
    let backup = world.coordinator.log.clone();
    let funds = world.cohort(cohort).funds.clone();
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    let txid = world.cohort(cohort).signals[0].txid;
    world.coordinator.log = backup;
    world.restart_coordinator();
    assert_eq!(world.cohort(cohort).round.number, 1);
    world.look_at_chain();
    world.look_at_chain();
    let state = world.cohort(cohort);
    assert_eq!(state.foreign_spends, [(funds[0].outpoint, txid)].into());
    let reason = reason(&world, cohort);
    assert!(
        reason.contains(&txid.to_string()) && reason.contains("backup"),
        "{reason}"
    );
    assert!(state.session.is_none());
    world.assert_replay_equals_memory();
    world.operator(Command::StartRound { cohort }).unwrap();
    assert_eq!(world.cohort(cohort).doubt, None, "the operator's word");
}

/// What our own signals spend, and what a reorganisation takes away, is no foreign spend.
#[test]
fn an_output_that_is_gone_is_foreign_only_with_a_spender() {
    let (mut world, cohort) = World::formed(2, 2);
    world.request_update(0, cohort, 1);
    world.settle();
    assert!(
        world.cohort(cohort).vanished.is_empty(),
        "spent by our own signal"
    );
    let script = world
        .cohort(cohort)
        .beacon
        .as_ref()
        .unwrap()
        .script()
        .to_owned();
    let outpoint = OutPoint::new(Txid::all_zeros(), 7);
    let fund = Fund {
        outpoint,
        value: 5_000,
        height: Some(1),
    };
    let change = world.cohort(cohort).funds.clone();
    let see = |world: &mut World, more: Vec<Fund>| {
        let (script, funds) = (script.clone(), [change.clone(), more].concat());
        world
            .at_coordinator(Input::Chain(ChainFact::Funds { script, funds }))
            .unwrap();
    };
    let view = |world: &mut World, spent_by| {
        let output = TxOut {
            value: bitcoin::Amount::from_sat(5_000),
            script_pubkey: script.clone(),
        };
        let view = OutputView::Seen {
            output,
            confirmations: 1,
            spent_by,
        };
        world
            .at_coordinator(Input::Chain(ChainFact::Output { outpoint, view }))
            .unwrap();
    };
    see(&mut world, vec![fund.clone()]);
    see(&mut world, vec![]);
    assert_eq!(world.cohort(cohort).vanished, [outpoint].into());
    view(&mut world, None);
    assert!(world.cohort(cohort).doubt.is_none());
    see(&mut world, vec![fund]);
    assert!(world.cohort(cohort).vanished.is_empty(), "it is back");
    see(&mut world, vec![]);
    view(&mut world, Some(Txid::all_zeros()));
    assert!(world.cohort(cohort).doubt.is_some());
}

/// Nothing on the chain shows that the coordinator forgot two rounds: it knew no money, and sees only what is there now. A
/// member whose leaf it refuses shows it what round the cohort is in, once.
#[test]
fn a_leaf_of_a_later_round_tells_the_coordinator_that_its_state_is_old() {
    let (mut world, cohort) = World::formed(2, 4);
    let lines = world.coordinator.log.iter();
    let funded = |line: &&String| line.contains(r#""event":"funds_seen""#);
    let backup: Vec<_> = lines.take_while(|line| !funded(line)).cloned().collect();
    for update in [1, 2] {
        world.request_update(0, cohort, update);
        world.settle();
        world.chain.mine();
        world.settle();
    }
    world.coordinator.log = backup;
    world.restart_coordinator();
    world.look_at_chain();
    assert_eq!(world.cohort(cohort).round.number, 1);
    assert_eq!(world.cohort(cohort).doubt, None);
    world.request_update(0, cohort, 3);
    world.settle();
    let claims = |world: &World| {
        let lines = world.coordinator.log.iter();
        let claims = lines.filter(|line| line.contains(r#""event":"later_round_claimed""#));
        claims.count()
    };
    assert_eq!(claims(&world), 1);
    assert!(world.membership(0, cohort).inquiry.is_none(), "answered");
    assert!(world.cohort(cohort).signals.is_empty(), "nothing is signed");
    world.assert_replay_equals_memory();
}

/// A member asks for a round that the coordinator has not come to. The operator is told once; its word alone stops nobody.
#[test]
fn a_later_round_that_one_member_claims_stops_nothing() {
    let (mut world, cohort) = World::formed(2, 3);
    let from = world.peers[0].id.clone();
    let indexes: Vec<_> = world.membership(0, cohort).dids.keys().copied().collect();
    let registration = |from_round| DidRegistration {
        cohort_id: cohort,
        indexes: indexes.clone(),
        from_round: Some(from_round),
    };
    world.tell_coordinator(&from, registration(1)).unwrap();
    let claims = |world: &World| world.cohort(cohort).claims().count();
    assert_eq!(claims(&world), 0, "the round that comes next");
    world.tell_coordinator(&from, registration(2)).unwrap();
    assert_eq!(claims(&world), 1);
    let last = world.coordinator.log.last().unwrap();
    let event: Event = serde_json::from_str(last).unwrap();
    let alarm = event.alarm().expect("the operator is told");
    assert!(alarm.contains("asks for round 2"), "{alarm}");
    let lines = world.coordinator.log.len();
    for round in [2, 3, u64::MAX] {
        world.tell_coordinator(&from, registration(round)).unwrap();
    }
    assert_eq!(world.coordinator.log.len(), lines, "once in a round");
    world.request_update(0, cohort, 1);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1, "the others go on");
    assert_eq!(claims(&world), 0, "the round has come");
    world
        .tell_coordinator(&from, registration(u64::MAX))
        .unwrap();
    assert_eq!(claims(&world), 1);
    world.operator(Command::StartRound { cohort }).unwrap();
    assert_eq!(claims(&world), 0, "the operator has looked");
    world.assert_replay_equals_memory();
}
