//! Attackers in a simulated network. The machines are honest and unchanged, with real keys; an attacker sits at the line of one
//! of them and changes, holds back or adds what leaves. Whatever it does, the others sign once, blame nobody who did nothing
//! wrong, and go on when it is over.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed simulation is a failed test"
)]

mod coordinator;
mod member;

use std::fmt::Display;

use beacon_cohort::coordinator::Command;
use beacon_cohort::terms::Flow;
use beacon_tests::simulator::{Letter, Settings, Simulation};

/// The coordinator's seat. The first member's is 1.
const C: usize = 0;
const MEMBERS: usize = 3;
/// A point.
const G: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn held<T>(outcome: Result<T, impl Display>) -> T {
    outcome.unwrap_or_else(|failure| panic!("{failure}"))
}

/// Nothing goes wrong but what the attacker does, and nobody tries again what a decision is needed for.
fn settings(members: usize) -> Settings {
    Settings {
        members,
        flow: Flow::Pull,
        operator_asks_again: false,
        limit_s: 4 * 86_400,
        ..Settings::default()
    }
}

/// Messages of a kind that left a node.
fn sent(simulation: &Simulation, node: usize, kind: &str) -> usize {
    let letters = simulation.letters().iter();
    letters
        .filter(|letter| letter.from() == node && letter.kind() == kind)
        .count()
}

/// The attacker does nothing wrong any more, and the updates are announced in the same cohort: nothing that it did has harmed it.
fn lives_on(mut simulation: Simulation, attacker: usize) {
    simulation.relent(attacker);
    let cohort = simulation.cohort();
    let refusal = held(simulation.tell_coordinator(Command::StartRound { cohort }));
    assert_eq!(refusal, None);
    held(simulation.announce());
    held(simulation.check_honest());
    assert_eq!(simulation.mined().len(), 1);
}
