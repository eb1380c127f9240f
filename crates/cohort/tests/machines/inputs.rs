//! Signals with several inputs: as few as pay the fee, each with nonces and partial signatures of its own.

use beacon_cohort::coordinator::{Command, Config, Coordinator, FeeRate, FundingState};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{Code, Machine as _};
use beacon_cohort::message::{Message, SignatureAuthorization};
use beacon_cohort::participant::Progress;
use beacon_cohort::statement;
use beacon_cohort::terms::Terms;
use bitcoin::{Amount, OutPoint, Transaction};

use crate::common::{Mail, World};

/// A cohort with these deposits, at 2 sat/vB: a signal of one input without change costs 222 sat, each further one 115 more.
fn with_deposits(
    seed: u64,
    deposits: &[u64],
    change: impl FnOnce(&mut Terms),
) -> (World, CohortId) {
    let mut world = World::new(2, seed);
    let cohort = world.advertise(change);
    (0..2).for_each(|number| world.subscribe(number));
    world.settle();
    for sats in deposits {
        world.fund(cohort, *sats);
    }
    world.settle();
    (world, cohort)
}

fn start(world: &mut World, cohort: CohortId) {
    world.operator(Command::StartRound { cohort }).unwrap();
    world.settle();
}

fn signal(world: &World, cohort: CohortId) -> &Transaction {
    &world.cohort(cohort).signals.last().expect("a signal").tx
}

/// The chain verifies the signature of each input with another library.
#[test]
fn deposits_that_are_too_small_alone_pay_together() {
    let (mut world, cohort) = with_deposits(1, &[200, 200, 200], |_| {});
    start(&mut world, cohort);
    let tx = signal(&world, cohort).clone();
    assert_eq!((tx.input.len(), tx.output.len()), (2, 1));
    let mined = world.chain.transaction(&tx.compute_txid());
    assert_eq!(mined, Some(&tx));
    let session = &world.membership(0, cohort).session;
    assert!(
        session.is_none()
            || matches!(
                session.as_ref().unwrap().progress,
                Progress::PartialReleased { .. }
            )
    );
    let witnesses: Vec<_> = tx.input.iter().map(|input| &input.witness).collect();
    assert_ne!(witnesses[0], witnesses[1]);
    (0..7).for_each(|_| {
        world.chain.mine();
        world.settle();
    });
    world.assert_replay_equals_memory();
}

#[test]
fn no_more_is_spent_than_is_needed_and_change_comes_first() {
    let (mut world, cohort) = with_deposits(2, &[200, 5_000, 200], |_| {});
    start(&mut world, cohort);
    // The oldest alone does not pay; with the next one it does, and there is change.
    let first = signal(&world, cohort).clone();
    assert_eq!(first.input.len(), 2);
    let change = OutPoint::new(first.compute_txid(), 0);
    (0..7).for_each(|_| {
        world.chain.mine();
        world.settle();
    });
    start(&mut world, cohort);
    let second = signal(&world, cohort);
    assert_eq!(second.input.len(), 1);
    assert_eq!(second.input[0].previous_output, change);
}

/// What a live transaction leaves must be spent before anything else, and what it lacks is added to it.
#[test]
fn a_deposit_helps_change_that_is_too_small() {
    let (mut world, cohort) = with_deposits(3, &[1_200, 600], |_| {});
    let config = Config {
        fee_rate: FeeRate::Fixed(5),
        ..Config::default()
    };
    let state = world.coordinator.machine.state().clone();
    world.coordinator.machine = Coordinator::new(config);
    world.coordinator.machine.restore(state);
    start(&mut world, cohort);
    let first = signal(&world, cohort).clone();
    assert_eq!(first.input.len(), 1);
    assert_eq!(first.output[0].value, Amount::from_sat(1_200 - 5 * 154));
    world.chain.mine();
    world.settle();
    start(&mut world, cohort);
    let second = signal(&world, cohort);
    assert_eq!(second.input.len(), 2);
    let change = OutPoint::new(first.compute_txid(), 0);
    assert_eq!(second.input[0].previous_output, change);
    world.assert_replay_equals_memory();
}

#[test]
fn the_terms_limit_inputs_and_what_is_spent() {
    let missing = |world: &World, cohort| {
        let funding = world.coordinator.machine.funding(world.cohort(cohort));
        match funding.state {
            FundingState::Missing { missing_sat, .. } => missing_sat,
            other => panic!("{other:?}"),
        }
    };
    let (mut world, cohort) = with_deposits(4, &[200, 200, 200], |terms| terms.max_inputs = 1);
    start(&mut world, cohort);
    // One input that pays 222 sat alone, but no output below 330 sat is relayed.
    assert_eq!(missing(&world, cohort), 330);
    assert!(world.cohort(cohort).session.is_none());
    let dust = [110; 5]; // Each costs more than it is worth.
    let (world, cohort) = with_deposits(5, &dust, |_| {});
    assert_eq!(missing(&world, cohort), 330);
    let (mut world, cohort) = with_deposits(6, &[200, 180, 200], |terms| {
        terms.max_balance_sat = 390;
    });
    start(&mut world, cohort);
    let tx = signal(&world, cohort);
    assert_eq!(tx.input.len(), 2, "the first two");
}

/// Each input's partial signature is checked, not only the first one's.
#[test]
fn a_bad_partial_signature_for_the_second_input_names_its_culprit() {
    let (mut world, cohort) = with_deposits(7, &[200, 200], |_| {});
    world.operator(Command::StartRound { cohort }).unwrap();
    let kind = "sign/signature_authorization";
    let sent = world.settle_until(|message| message.kind() == kind);
    let Some(Mail::Message { from, message, .. }) = sent.into_iter().next() else {
        panic!("nobody signed");
    };
    let Message::SignatureAuthorization(honest) = message else {
        panic!("{message:?}");
    };
    let session = world.cohort(cohort).session.clone().unwrap();
    let mut partials = honest.partial_signatures.clone();
    assert_eq!((partials.len(), session.sighashes.len()), (2, 2));
    partials[1] = partials[0];
    let aggregated = session.aggregated.as_ref().unwrap();
    let said = statement::partials(session.id, &session.sighashes, aggregated, &partials);
    let number = world.number_of(&from).unwrap();
    let bad = SignatureAuthorization {
        partial_signatures: partials,
        signature: world.sign_as(number, cohort, &said),
        ..honest.clone()
    };
    let short = SignatureAuthorization {
        partial_signatures: honest.partial_signatures[..1].to_vec(),
        ..honest
    };
    world.refuses(Code::ContributionCount, |world| {
        world.tell_coordinator(&from, short)
    });
    world.tell_coordinator(&from, bad).unwrap();
    let abandoned = &world.cohort(cohort).abandoned[0];
    assert_eq!(abandoned.culprit.as_ref(), Some(&from));
    assert_eq!(abandoned.code, Code::PartialSignature.as_str());
    let strike = &world.cohort(cohort).strikes[0];
    let key = world.cohort(cohort).members[&from].key;
    let evidence = strike.evidence.as_ref().unwrap();
    assert_eq!(evidence.verify().unwrap().key, key);
}
