//! What signals pay: what the chain source expects, as far as it can be believed and the terms allow it.

use beacon_cohort::coordinator::{Command, Config, Coordinator, FALLBACK_SAT_VB, FeeRate};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{ChainFact, Input, Machine as _};
use beacon_signal::transaction;
use bitcoin::TxOut;

use crate::common::World;

const MINUTES_10: u64 = 600;

/// A funded cohort of two whose coordinator asks its chain source for fee rates.
fn estimating(seed: u64) -> (World, CohortId) {
    let mut world = World::new(2, seed);
    let config = Config {
        fee_rate: FeeRate::Estimated { blocks: 6 },
        ..Config::default()
    };
    world.coordinator.machine = Coordinator::new(config);
    let cohort = world.advertise(|_| {});
    (0..2).for_each(|number| world.subscribe(number));
    world.settle();
    world.fund(cohort, 100_000);
    world.settle();
    (world, cohort)
}

/// The source expects this; whether that was written down.
fn expects(world: &mut World, sat_vb: u64) -> bool {
    let before = world.coordinator.log.len();
    world
        .at_coordinator(Input::Chain(ChainFact::FeeRate(sat_vb)))
        .unwrap();
    world.coordinator.log.len() > before
}

fn rate(world: &World, cohort: CohortId) -> u64 {
    world.coordinator.machine.fee_rate(world.cohort(cohort))
}

#[test]
fn an_estimate_is_written_down_when_it_matters_and_not_each_time() {
    let (mut world, cohort) = estimating(1);
    assert_eq!(world.coordinator.machine.watches().fee_target, Some(6));
    assert_eq!(rate(&world, cohort), FALLBACK_SAT_VB);
    assert!(expects(&mut world, 20), "the first");
    assert_eq!(rate(&world, cohort), 20);
    assert!(!expects(&mut world, 40), "a moment later");
    world.pass(MINUTES_10);
    for near in [18, 20, 22] {
        assert!(!expects(&mut world, near), "{near} is about the same");
    }
    assert!(expects(&mut world, 23));
    world.pass(MINUTES_10);
    assert!(expects(&mut world, 1));
    assert_eq!(rate(&world, cohort), 1);
    let last = world.coordinator.log.last().unwrap();
    assert!(last.contains("fee_estimated"), "{last}");
    world.assert_replay_equals_memory();
}

#[test]
fn an_absurd_estimate_leaves_the_last_good_one() {
    let (mut world, cohort) = estimating(2);
    for absurd in [0, 100_001, u64::MAX] {
        assert!(!expects(&mut world, absurd));
        assert_eq!(rate(&world, cohort), FALLBACK_SAT_VB);
    }
    assert!(expects(&mut world, 30));
    world.pass(MINUTES_10);
    for absurd in [0, 100_001, u64::MAX] {
        assert!(!expects(&mut world, absurd));
        assert_eq!(rate(&world, cohort), 30);
    }
}

#[test]
fn the_terms_bound_what_is_paid_and_what_is_wanted_can_be_shown() {
    let (mut world, cohort) = estimating(3);
    assert!(expects(&mut world, 80));
    let machine = &world.coordinator.machine;
    assert_eq!(machine.wanted_fee_rate(), 80);
    assert_eq!(rate(&world, cohort), 50);
    world.operator(Command::StartRound { cohort }).unwrap();
    world.settle();
    let signal = &world.cohort(cohort).signals[0];
    assert_eq!(signal.fee_rate(), 50);
    let spent: Vec<TxOut> = signal
        .spent
        .iter()
        .map(beacon_cohort::message::SpentOutput::to_txout)
        .collect();
    let fee = transaction::fee(&signal.tx, &spent).unwrap().to_sat();
    let size = u64::try_from(signal.tx.vsize()).unwrap();
    assert_eq!(fee, 50 * size, "to the byte, with its real signatures");
}

#[test]
fn an_operators_rate_asks_for_no_estimate_and_hears_none() {
    let mut world = World::new(2, 4);
    assert_eq!(world.coordinator.machine.watches().fee_target, None);
    assert!(!expects(&mut world, 20));
    assert_eq!(world.coordinator.machine.wanted_fee_rate(), 2);
}

/// A round that is tried again at each new estimate would leave a live transaction behind each time.
#[test]
fn a_retry_keeps_its_rate_until_twice_as_much_is_wanted() {
    let (mut world, cohort) = estimating(5);
    assert!(expects(&mut world, 10));
    world.operator(Command::StartRound { cohort }).unwrap();
    // All nonces are in, and no partial signature arrives.
    let lost = |world: &mut World| {
        let sent = world.settle_until(|message| message.kind() == "sign/signature_authorization");
        assert!(!sent.is_empty(), "nobody signed");
        world.mail.clear();
        let signals = world.cohort(cohort).signals.iter();
        signals
            .map(beacon_cohort::coordinator::Signal::fee_rate)
            .collect::<Vec<_>>()
    };
    assert_eq!(lost(&mut world), [10]);
    for (wanted, paid) in [(20, 10), (4, 10), (21, 21)] {
        world.pass(MINUTES_10);
        world.mail.clear();
        assert!(expects(&mut world, wanted));
        assert_eq!(rate(&world, cohort), paid, "{wanted} wanted");
    }
    world.pass(MINUTES_10);
    assert_eq!(lost(&mut world), [10, 21]);
    assert!(expects(&mut world, 30));
    assert_eq!(rate(&world, cohort), 21);
    world.pass(MINUTES_10); // Abandoned,
    world.mail.clear();
    world.pass(MINUTES_10); // and started again.
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert_eq!(
        signals.len(),
        2,
        "the same transaction again, and signed now"
    );
    assert_eq!(signals[1].tx.input[0].witness.len(), 1);
}
