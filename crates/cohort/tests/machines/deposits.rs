//! Whatever comes to a beacon address has a rule, and what is missing is said to the satoshi (docs/operations.md, "Deposits").

use std::sync::OnceLock;

use beacon_cohort::coordinator::{Command, Config, Coordinator, FeeRate, FundingState, State};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{Fund, Machine as _};
use beacon_cohort::message::SpentOutput;
use beacon_cohort::terms::{AgreedTerms, Terms};
use beacon_signal::{Root, transaction};
use bitcoin::hashes::Hash as _;
use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use proptest::prelude::*;

use crate::common::World;

/// A cohort of two whose signals pay this rate, sat/vB, and cost 111 vB without change, each input more 57.5 vB.
fn at_rate(seed: u64, rate: u64, change: impl FnOnce(&mut Terms)) -> (World, CohortId) {
    let mut world = World::new(2, seed);
    let config = Config {
        fee_rate: FeeRate::Fixed(rate),
        ..Config::default()
    };
    world.coordinator.machine = Coordinator::new(config);
    let cohort = world.advertise(change);
    (0..2).for_each(|number| world.subscribe(number));
    world.settle();
    (world, cohort)
}

fn pay(world: &mut World, cohort: CohortId, sats: u64) {
    world.fund(cohort, sats);
    world.settle();
}

fn state(world: &World, cohort: CohortId) -> FundingState {
    let machine = &world.coordinator.machine;
    machine.funding(world.cohort(cohort)).state
}

fn missing(world: &World, cohort: CohortId) -> u64 {
    match state(world, cohort) {
        FundingState::Missing { missing_sat, .. } => missing_sat,
        other => panic!("{other:?}"),
    }
}

fn start(world: &mut World, cohort: CohortId) {
    world.operator(Command::StartRound { cohort }).unwrap();
    world.settle();
}

fn signals(world: &World, cohort: CohortId) -> Vec<Transaction> {
    let signals = world.cohort(cohort).signals.iter();
    signals.map(|signal| signal.tx.clone()).collect()
}

fn bury(world: &mut World) {
    (0..7).for_each(|_| {
        world.chain.mine();
        world.settle();
    });
}

#[test]
fn a_round_waits_for_money_and_exactly_the_missing_amount_signs_it() {
    let (mut world, cohort) = at_rate(1, 20, |_| {});
    start(&mut world, cohort);
    assert_eq!(missing(&world, cohort), 111 * 20, "nothing is there");
    // What would cost more than it brings does not help.
    pay(&mut world, cohort, 1_000);
    assert_eq!(missing(&world, cohort), 111 * 20);
    pay(&mut world, cohort, 2_000);
    assert_eq!(missing(&world, cohort), 169 * 20 - 2_000);
    pay(&mut world, cohort, 169 * 20 - 2_000 - 1);
    assert_eq!(signals(&world, cohort), []);
    assert_eq!(world.cohort(cohort).abandoned, [], "waiting is no failure");
    let rest = missing(&world, cohort);
    pay(&mut world, cohort, rest);
    let [tx] = &signals(&world, cohort)[..] else {
        panic!("it was said that {rest} sat are enough");
    };
    assert_eq!(tx.input[0].witness.len(), 1, "signed");
    world.assert_replay_equals_memory();
}

/// The least that a node relays is the least that is asked for.
#[test]
fn nobody_is_asked_for_dust() {
    let (world, cohort) = at_rate(2, 1, |_| {});
    assert_eq!(missing(&world, cohort), 330);
}

#[test]
fn several_outputs_are_priced_to_the_byte() {
    let (mut world, cohort) = at_rate(3, 7, |_| {});
    start(&mut world, cohort);
    for _ in 0..3 {
        pay(&mut world, cohort, 500);
    }
    pay(&mut world, cohort, 5_000);
    let tx = signals(&world, cohort)[0].clone();
    assert_eq!((tx.input.len(), tx.output.len()), (4, 2));
    let held = 3 * 500 + 5_000;
    let size = u64::try_from(tx.vsize()).unwrap();
    assert_eq!(held - tx.output[0].value.to_sat(), 7 * size);
    assert_eq!(world.chain.transaction(&tx.compute_txid()), Some(&tx));
}

#[test]
fn a_deposit_counts_once_it_is_in_a_block() {
    let (mut world, cohort) = at_rate(4, 2, |_| {});
    start(&mut world, cohort);
    let beacon = world.cohort(cohort).beacon.as_ref().unwrap();
    let script = beacon.script().to_owned();
    world.chain.fund(script.clone(), 200);
    world.settle();
    let FundingState::Missing {
        missing_sat,
        held_sat: 0,
        waiting_sat: 200,
    } = state(&world, cohort)
    else {
        panic!("{:?}", state(&world, cohort));
    };
    world.chain.fund(script, missing_sat);
    world.settle();
    let waiting_sat = 200 + missing_sat;
    assert_eq!(
        state(&world, cohort),
        FundingState::Unconfirmed { waiting_sat }
    );
    assert_eq!(signals(&world, cohort), []);
    world.chain.mine();
    world.settle();
    assert_eq!(signals(&world, cohort).len(), 1);
    // Nothing is left until there is change, and there is none: a deposit that ignores the signal is not spent before
    // the signal is buried.
    pay(&mut world, cohort, 5_000);
    let txid = signals(&world, cohort)[0].compute_txid();
    assert_eq!(state(&world, cohort), FundingState::Live { txid });
    bury(&mut world);
    // The 200 sat are still there, and the oldest.
    assert_eq!(state(&world, cohort), FundingState::Enough { fee_sat: 424 });
}

#[test]
fn the_change_of_a_signal_pays_for_the_next_one_from_its_first_block_on() {
    let (mut world, cohort) = at_rate(5, 2, |_| {});
    pay(&mut world, cohort, 10_000);
    start(&mut world, cohort);
    let waiting_sat = 10_000 - 308;
    assert_eq!(
        state(&world, cohort),
        FundingState::Unconfirmed { waiting_sat }
    );
    world.chain.mine();
    world.settle();
    assert_eq!(state(&world, cohort), FundingState::Enough { fee_sat: 308 });
}

#[test]
fn an_output_above_the_maximum_balance_is_left_alone() {
    let (mut world, cohort) = at_rate(6, 2, |terms| terms.max_balance_sat = 1_000);
    pay(&mut world, cohort, 1_001);
    let funding = world.coordinator.machine.funding(world.cohort(cohort));
    assert_eq!((funding.too_large, missing(&world, cohort)), (1, 330));
    start(&mut world, cohort);
    pay(&mut world, cohort, 1_000);
    let tx = &signals(&world, cohort)[0];
    assert_eq!(tx.input.len(), 1);
    assert_eq!(tx.output[0].value.to_sat(), 1_000 - 308);
}

#[test]
fn outputs_above_the_maximum_in_sum_are_spent_one_after_the_other() {
    let (mut world, cohort) = at_rate(7, 2, |terms| terms.max_balance_sat = 2_000);
    pay(&mut world, cohort, 1_500);
    pay(&mut world, cohort, 1_200);
    start(&mut world, cohort);
    assert_eq!(signals(&world, cohort)[0].input.len(), 1);
    bury(&mut world);
    start(&mut world, cohort);
    let second = &signals(&world, cohort)[1];
    assert_eq!(second.input.len(), 1, "the change of the first");
    assert_eq!(
        second.output[0].value.to_sat(),
        1_500 - 2 * 308,
        "{second:?}"
    );
}

/// Strangers fill the address with outputs that are worth just more than their inputs.
#[test]
fn small_deposits_of_strangers_do_not_keep_a_large_one_from_paying() {
    let (mut world, cohort) = at_rate(8, 50, |_| {});
    start(&mut world, cohort);
    for _ in 0..8 {
        pay(&mut world, cohort, 58 * 50 + 1);
    }
    assert_eq!(
        signals(&world, cohort),
        [],
        "all inputs that the terms allow"
    );
    let rest = missing(&world, cohort);
    assert!(rest <= 111 * 50, "{rest}");
    pay(&mut world, cohort, rest);
    assert_eq!(signals(&world, cohort).len(), 1);
}

#[test]
fn more_outputs_than_are_remembered_leave_the_largest() {
    let (mut world, cohort) = at_rate(9, 2, |_| {});
    let beacon = world.cohort(cohort).beacon.as_ref().unwrap();
    let script = beacon.script().to_owned();
    for dust in 0..80 {
        world.chain.fund(script.clone(), 30 + dust);
    }
    pay(&mut world, cohort, 9_000);
    let funds = &world.cohort(cohort).funds;
    assert_eq!(funds.len(), 64);
    assert!(funds.iter().all(|fund| fund.value >= 47));
    let funding = world.coordinator.machine.funding(world.cohort(cohort));
    assert_eq!(funding.worthless, 63);
    start(&mut world, cohort);
    assert_eq!(signals(&world, cohort)[0].input.len(), 1);
}

#[test]
fn a_deposit_during_a_session_changes_neither_it_nor_its_retry() {
    let (mut world, cohort) = at_rate(10, 2, |_| {});
    pay(&mut world, cohort, 5_000);
    world.operator(Command::StartRound { cohort }).unwrap();
    world.settle_until(|message| message.kind() == "sign/signature_authorization");
    world.mail.clear(); // Its end is a timeout.
    let tx = world.cohort(cohort).session.as_ref().unwrap().tx.clone();
    pay(&mut world, cohort, 90_000);
    assert_eq!(world.cohort(cohort).session.as_ref().unwrap().tx, tx);
    world.pass(62);
    world.settle();
    world.pass(10);
    world.settle();
    let [signed] = &signals(&world, cohort)[..] else {
        panic!("{:?}", world.cohort(cohort).abandoned);
    };
    assert_eq!(signed.compute_txid(), tx.compute_txid());
    assert_eq!(signed.input[0].witness.len(), 1);
}

#[test]
fn terms_that_allow_less_than_a_signal_costs_are_told_so() {
    let (mut world, cohort) = at_rate(11, 20, |terms| terms.max_balance_sat = 2_219);
    let impossible = FundingState::Impossible { fee_sat: 2_220 };
    assert_eq!(state(&world, cohort), impossible);
    pay(&mut world, cohort, 2_219);
    assert_eq!(state(&world, cohort), impossible);
}

/// What is at an address, what the terms allow, and what the operator wants.
#[derive(Debug)]
struct Wallet {
    funds: Vec<(u64, Option<u32>)>,
    rate: u64,
    cap: u64,
    max_inputs: u64,
    max_balance_sat: u64,
}

prop_compose! {
    fn any_wallet()(
        funds in prop::collection::vec((prop_oneof![0_u64..600, 0_u64..9_000, 0_u64..200_000], prop::option::of(1_u32..9)), 0..12),
        rate in prop_oneof![1_u64..5, 1_u64..120],
        cap in 1_u64..80,
        max_inputs in 1_u64..5,
        max_balance_sat in prop_oneof![400_u64..9_000, Just(100_000)],
    ) -> Wallet {
        Wallet { funds, rate, cap, max_inputs, max_balance_sat }
    }
}

fn fund(number: usize, value: u64, height: Option<u32>) -> Fund {
    let txid = Txid::from_byte_array([u8::try_from(number + 1).unwrap(); 32]);
    let outpoint = OutPoint::new(txid, 0);
    Fund {
        outpoint,
        value,
        height,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is there, a transaction that is built balances, keeps every limit of the terms, and costs what its
    /// size and the rate say; where none is built, what is said to be missing makes one, and a satoshi less does not.
    #[test]
    fn what_is_built_balances_and_what_is_missing_is_enough(wallet in any_wallet()) {
        let (mut state, cohort) = formed();
        let mut terms = state.cohorts[&cohort].terms.value().clone();
        terms["max_fee_rate_sat_vb"] = wallet.cap.into();
        terms["max_inputs"] = wallet.max_inputs.into();
        terms["max_balance_sat"] = wallet.max_balance_sat.into();
        let known = state.cohorts.get_mut(&cohort).unwrap();
        known.terms = AgreedTerms::parse(terms).unwrap();
        let funds = wallet.funds.iter().enumerate();
        known.funds = funds.map(|(number, (value, height))| fund(number, *value, *height)).collect();
        let mut machine = Coordinator::new(Config { fee_rate: FeeRate::Fixed(wallet.rate), ..Config::default() });
        machine.restore(state.clone());
        let root = Root([7; 32]);
        let paid_for = |machine: &Coordinator| machine.build(&machine.state().cohorts[&cohort], root);
        let funding = machine.funding(&machine.state().cohorts[&cohort]);
        let rate = wallet.rate.min(wallet.cap);
        prop_assert_eq!(funding.fee_rate_sat_vb, rate);
        let script = state.cohorts[&cohort].beacon.as_ref().unwrap().script().to_owned();
        if let Some((tx, spent)) = paid_for(&machine) {
            let spent: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
            let fee = transaction::fee(&tx, &spent).unwrap();
            prop_assert_eq!(&funding.state, &FundingState::Enough { fee_sat: fee.to_sat() });
            prop_assert!(fee <= transaction::max_fee(&tx, &script, wallet.cap));
            let size = transaction::signed_vsize(&tx, &script);
            match transaction::change_outputs(&tx) {
                [] => prop_assert!(fee.to_sat() >= rate * size),
                [change] => {
                    prop_assert_eq!(fee.to_sat(), rate * size);
                    prop_assert_eq!(&change.script_pubkey, &script);
                    prop_assert!(!transaction::is_dust(change));
                }
                _ => prop_assert!(false, "two outputs besides the signal"),
            }
            prop_assert_eq!(transaction::signal_bytes(&tx), Some(root.0));
            prop_assert!(tx.input.len() as u64 <= wallet.max_inputs);
            prop_assert!(spent.iter().map(|output| output.value.to_sat()).sum::<u64>() <= wallet.max_balance_sat);
            for (input, output) in tx.input.iter().zip(&spent) {
                let source = state.cohorts[&cohort].funds.iter().find(|fund| fund.outpoint == input.previous_output).unwrap();
                prop_assert!(source.height.is_some());
                prop_assert_eq!(source.value, output.value.to_sat());
            }
            return Ok(());
        }
        let mined = |more: Option<u64>| {
            let mut state = state.clone();
            let known = state.cohorts.get_mut(&cohort).unwrap();
            known.funds.iter_mut().for_each(|fund| fund.height = Some(fund.height.unwrap_or(9)));
            known.funds.extend(more.map(|value| fund(200, value, Some(10))));
            let mut machine = Coordinator::new(Config { fee_rate: FeeRate::Fixed(wallet.rate), ..Config::default() });
            machine.restore(state);
            paid_for(&machine).is_some()
        };
        match funding.state {
            FundingState::Enough { .. } => prop_assert!(false, "nothing was built"),
            FundingState::Unconfirmed { .. } => prop_assert!(mined(None)),
            FundingState::Missing { missing_sat, .. } => {
                prop_assert!(!mined(None));
                prop_assert!(mined(Some(missing_sat)), "{missing_sat}");
                prop_assert!(missing_sat == 330 || !mined(Some(missing_sat - 1)), "{missing_sat}");
            }
            FundingState::Live { .. } => prop_assert!(false, "nothing is signed"),
            FundingState::Impossible { fee_sat } => prop_assert!(fee_sat > wallet.max_balance_sat),
        }
    }
}

/// A cohort whose members agreed, made once.
fn formed() -> (State, CohortId) {
    static FORMED: OnceLock<(State, CohortId)> = OnceLock::new();
    let formed = FORMED.get_or_init(|| {
        let (world, cohort) = World::formed(2, 12);
        (world.coordinator.machine.state().clone(), cohort)
    });
    formed.clone()
}
