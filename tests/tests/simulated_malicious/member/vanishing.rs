//! Members that vanish, or never sign: who stays goes on without them, and nobody else is blamed.

use std::collections::BTreeSet;

use beacon_cohort::coordinator::Cohort;
use beacon_cohort::terms::Admission;

use super::*;

/// Strikes after which a member is out.
const STRIKES: u64 = 3;

fn of_four(operator_asks_again: bool) -> Simulation {
    let settings = Settings {
        operator_asks_again,
        max_strikes: STRIKES,
        ..settings(4)
    };
    Simulation::new(29, settings)
}

/// Everybody's strikes, in order: whose, and why.
fn strikes(simulation: &Simulation) -> Vec<(PeerId, String)> {
    let mut strikes = Vec::new();
    for event in held(simulation.coordinator_log()) {
        if let Event::Struck {
            peer,
            code,
            evidence,
            ..
        } = event
        {
            assert_eq!(evidence, None, "absence proves nothing to others");
            strikes.push((peer, code));
        }
    }
    strikes
}

/// The first cohort, whatever became of it.
fn first(simulation: &Simulation) -> &Cohort {
    let cohorts = simulation.coordinator_state().cohorts.values();
    let mut first = cohorts.filter(|cohort| cohort.succeeds.is_none());
    first.next().unwrap()
}

/// The attacker is struck out, and the other three announce their updates in a cohort of their own, while the money of the old
/// one stays in sight.
fn goes_on_without(mut simulation: Simulation, code: &str) {
    held(simulation.until("the cohort is dissolved", |simulation| {
        matches!(first(simulation).phase, Phase::Dissolved(_))
    }));
    let expected = vec![(attacker(), code.to_owned()); usize::try_from(STRIKES).unwrap()];
    assert_eq!(strikes(&simulation), expected);
    held(simulation.announce());
    assert_eq!(strikes(&simulation), expected, "nobody else");
    let old = first(&simulation);
    assert_eq!(old.without, BTreeSet::from([attacker()]));
    assert!(old.confirmed_balance() > 0, "its money is still watched");
    let new = simulation.coordinator().unwrap();
    assert_eq!((new.succeeds, old.successor), (Some(old.id), Some(new.id)));
    let others: BTreeSet<_> = (2..=4)
        .map(|member| PeerId::new(format!("did:example:{member}")))
        .collect();
    assert_eq!(new.members.keys().cloned().collect::<BTreeSet<_>>(), others);
    assert_eq!(new.terms.admission, Admission::Invited);
    assert_ne!(
        new.beacon.as_ref().unwrap().script(),
        old.beacon.as_ref().unwrap().script()
    );
    held(simulation.check_honest());
    assert!(!simulation.mined().is_empty());
}

/// A member vanishes once the address is funded, so that the others' money and their updates are stuck.
#[test]
fn vanishes_before_its_leaves() {
    let mut simulation = of_four(false);
    held(simulation.form());
    simulation.vanish(M);
    simulation.want();
    goes_on_without(simulation, "timeout");
}

/// A member gives its leaf and vanishes before its nonces.
#[test]
fn vanishes_before_its_nonces() {
    let mut simulation = of_four(false);
    held(simulation.form());
    simulation.want();
    held(simulation.until("a session", |simulation| session(simulation).is_some()));
    simulation.vanish(M);
    goes_on_without(simulation, "timeout");
}

/// A member gives its nonces and vanishes before its partial signatures, when all others have given theirs.
#[test]
fn vanishes_before_its_partial_signatures() {
    let mut simulation = of_four(false);
    held(simulation.form());
    simulation.want();
    held(simulation.until("aggregated nonces", |simulation| {
        session(simulation).is_some_and(|session| session.aggregated.is_some())
    }));
    simulation.vanish(M);
    goes_on_without(simulation, "timeout");
}

/// A member takes a seat and vanishes before it agrees to what was set. The others are invited to a cohort without it.
#[test]
fn vanishes_before_it_acknowledges() {
    let mut simulation = of_four(false);
    held(simulation.until("the cohort is set", |simulation| {
        let cohort = simulation.coordinator();
        cohort.is_some_and(|cohort| cohort.phase == Phase::Set)
    }));
    simulation.vanish(M);
    held(simulation.form());
    let old = first(&simulation);
    assert!(matches!(old.phase, Phase::Failed(_)));
    assert!(strikes(&simulation).is_empty());
    let new = simulation.coordinator().unwrap();
    assert_eq!((new.succeeds, new.members.len()), (Some(old.id), 3));
    simulation.want();
    held(simulation.announce());
    held(simulation.check_honest());
}

/// A member declines every session for a reason that is not true, whenever the operator tries again.
#[test]
fn declines_until_it_is_out() {
    let mut simulation = of_four(true);
    held(simulation.form());
    simulation.corrupt(M, declines("fee-too-high"));
    simulation.want();
    goes_on_without(simulation, "fee-too-high");
}

/// A member says after each request that it has just restarted, which is nobody's fault. It is never struck; the round is tried
/// again, ever less often, and never given up.
#[test]
fn always_lost_its_nonces() {
    let mut simulation = of_four(false);
    held(simulation.form());
    simulation.corrupt(M, declines("nonce-lost"));
    simulation.want();
    held(simulation.pass(6 * 3_600));
    assert!(strikes(&simulation).is_empty());
    let cohort = simulation.coordinator().unwrap();
    assert_eq!(cohort.phase, Phase::Acknowledged);
    assert!(!matches!(cohort.round.stage, Stage::Stopped { .. }));
    let tries = abandoned(&simulation).len();
    assert!((6..=40).contains(&tries), "{tries} tries in six hours");
    simulation.relent(M);
    held(simulation.announce());
    held(simulation.check_honest());
}

/// An attacker cuts most members off for an hour, to have them struck out. When so many are late at once it is nobody's fault.
#[test]
fn cuts_most_members_off() {
    let mut simulation = of_four(false);
    held(simulation.form());
    simulation.want();
    held(simulation.until("a session", |simulation| session(simulation).is_some()));
    for member in 1..=3 {
        simulation.cut(member, 3_600);
    }
    held(simulation.pass(3_600));
    assert!(!abandoned(&simulation).is_empty());
    held(simulation.announce());
    assert!(strikes(&simulation).is_empty());
    assert_eq!(simulation.coordinator().unwrap().phase, Phase::Acknowledged);
    held(simulation.check_honest());
}

/// A member takes a seat before the cohort is full and vanishes, so that nobody else can have it. A silent seat is free again;
/// who repeats its opt-in keeps its own.
#[test]
fn takes_a_seat_and_vanishes() {
    let mut simulation = of_four(false);
    simulation.corrupt(4, silent_about("keygen/opt_in"));
    held(simulation.until("three seats are taken", |simulation| {
        let cohort = simulation.coordinator();
        cohort.is_some_and(|cohort| cohort.members.len() == 3)
    }));
    simulation.vanish(M);
    held(simulation.pass(3_600));
    let mut released = Vec::new();
    for event in held(simulation.coordinator_log()) {
        if let Event::SeatReleased { peer, .. } = event {
            released.push(peer);
        }
    }
    assert_eq!(released, [attacker()]);
    assert_eq!(told(&simulation), ["e.m.seat-released"]);
    let cohort = simulation.coordinator().unwrap();
    assert_eq!(
        (cohort.members.len(), &cohort.phase),
        (2, &Phase::Advertised)
    );
    assert!(strikes(&simulation).is_empty());
    held(simulation.check_honest());
}
