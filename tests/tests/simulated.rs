//! Whole lives of cohorts in virtual time, on good days and bad ones.
//!
//! `BEACON_SIM_SEEDS` raises the number of seeds, `BEACON_SIM_SEED` says where they begin; a failure prints what to set to
//! see it again. `BEACON_SIM_TRANSCRIPT` names a file for everything that went before a failure.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed simulation is a failed test"
)]

use beacon_cohort::terms::Flow;
use beacon_tests::simulator::{CrashPoint, Faults, Report, Restore, Settings, Simulation};

/// The seed of tests in which nothing is left to chance but keys and times.
const SEED: u64 = 1;

fn run(seed: u64, settings: &Settings) -> Report {
    match Simulation::new(seed, settings.clone()).run() {
        Ok(report) => report,
        Err(failure) => {
            if let Some(file) = std::env::var_os("BEACON_SIM_TRANSCRIPT") {
                std::fs::write(file, failure.transcript.join("\n")).unwrap();
            }
            panic!("{failure}")
        }
    }
}

/// A run in which nothing goes wrong: no session fails, nothing is lost, nothing restarts.
fn run_clean(settings: &Settings) -> Report {
    let report = run(SEED, settings);
    assert_eq!(report.abandoned, 0, "{report:?}");
    assert_eq!(report.stopped, 0, "{report:?}");
    assert_eq!((report.lost, report.restarts), (0, 0), "{report:?}");
    assert_eq!(report.sessions, report.signals, "{report:?}");
    assert!(report.signals >= settings.signals, "{report:?}");
    report
}

/// A number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: got {text:?}, expected a number"))
    })
}

/// The same circumstances under many seeds; at least one of them must have met each kind of trouble.
fn run_seeds(name: &str, count: u64, settings: &Settings) {
    let (first, count) = (
        number("BEACON_SIM_SEED", 1_000),
        number("BEACON_SIM_SEEDS", count),
    );
    let reports: Vec<Report> = (first..first + count)
        .map(|seed| run(seed, settings))
        .collect();
    let sum = |figure: fn(&Report) -> u64| reports.iter().map(figure).sum::<u64>();
    let (sessions, abandoned) = (
        sum(|report| report.sessions.into()),
        sum(|report| report.abandoned.into()),
    );
    let (lost, restarts) = (sum(|report| report.lost), sum(|report| report.restarts));
    let reorganisations = sum(|report| report.reorganisations);
    println!(
        "{name}: {count} seeds, {sessions} sessions, {abandoned} of them abandoned, {lost} frames lost, \
         {restarts} restarts, {reorganisations} reorganisations"
    );
    if count >= 20 {
        for figure in [abandoned, lost, restarts, reorganisations] {
            assert!(figure > 0, "a kind of trouble never came");
        }
    }
}

#[test]
fn two_members_push() {
    run_clean(&Settings::default());
}

#[test]
fn two_members_pull() {
    let report = run_clean(&Settings {
        flow: Flow::Pull,
        ..Settings::default()
    });
    assert_eq!(report.signals, 1, "all members are asked at once");
}

#[test]
fn three_members_with_two_dids_each() {
    for flow in [Flow::Push, Flow::Pull] {
        run_clean(&Settings {
            members: 3,
            dids_per_member: 2,
            flow,
            signals: 2,
            ..Settings::default()
        });
    }
}

#[test]
fn ten_members() {
    for flow in [Flow::Push, Flow::Pull] {
        run_clean(&Settings {
            members: 10,
            flow,
            ..Settings::default()
        });
    }
}

#[test]
fn fifty_members() {
    for flow in [Flow::Push, Flow::Pull] {
        run_clean(&Settings {
            members: 50,
            flow,
            ..Settings::default()
        });
    }
}

/// Five signals from one deposit: each but the first can only have been paid from the change of the one before.
#[test]
fn signals_in_a_row_spend_each_others_change() {
    let report = run_clean(&Settings {
        members: 3,
        signals: 5,
        flow: Flow::Pull,
        ..Settings::default()
    });
    assert_eq!(report.signals, 5);
}

#[test]
fn several_cohorts_at_once() {
    let report = run_clean(&Settings {
        members: 3,
        cohorts: 4,
        signals: 2,
        ..Settings::default()
    });
    assert!(report.signals >= 8, "two in each cohort: {report:?}");
}

/// With n-of-n one member's "no" ends the session; the operator asks again, and what was refused is signed later.
#[test]
fn a_declining_member_stops_the_round_until_it_agrees() {
    let report = run(
        SEED,
        &Settings {
            members: 3,
            declines: 2,
            ..Settings::default()
        },
    );
    assert_eq!(report.abandoned, 2, "{report:?}");
    assert_eq!(report.stopped, 2, "{report:?}");
    assert_eq!(report.sessions, report.signals + 2, "{report:?}");
}

/// A failure can only be repeated if nothing but the seed decides what happens.
#[test]
fn equal_seeds_lead_to_equal_simulations() {
    let settings = Settings {
        members: 3,
        faults: Faults::all(50),
        ..Settings::default()
    };
    assert_eq!(run(5, &settings), run(5, &settings));
    assert_ne!(run(5, &settings), run(6, &settings));
}

/// Takes too long on purpose: what a failure shows must be enough to repeat it.
#[test]
fn a_failure_shows_its_seed_and_what_went_before() {
    let settings = Settings {
        limit_s: 5,
        ..Settings::default()
    };
    let failure = Simulation::new(77, settings).run().unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("Simulation::new(77"), "{text}");
    assert!(text.contains("was not reached in 5 s"), "{text}");
    assert!(text.contains("P2 -> C keygen/cohort_ack"), "{text}");
}

/// Every node's process ends once at every place where its disk and the world may differ: before a commit, between the
/// commit and its effects, after these. Whatever was under way is taken up or abandoned by rule. Under several seeds, and
/// under more with `BEACON_SIM_CRASH_SEEDS`.
#[test]
fn a_crash_at_every_boundary() {
    for seed in SEED..=number("BEACON_SIM_CRASH_SEEDS", 2) {
        for flow in [Flow::Push, Flow::Pull] {
            let settings = Settings {
                flow,
                signals: 2,
                ..Settings::default()
            };
            let clean = run(seed, &settings);
            let mut crashes = 0;
            for (node, boundaries) in clean.boundaries.iter().enumerate() {
                assert!(*boundaries > 60, "a node that commits little: {clean:?}");
                for boundary in 0..*boundaries {
                    let settings = Settings {
                        crashes: vec![CrashPoint { node, boundary }],
                        ..settings.clone()
                    };
                    let report = run(seed, &settings);
                    assert_eq!(report.restarts, 1, "{node} at {boundary}: {report:?}");
                    crashes += 1;
                }
            }
            println!("{flow:?}, seed {seed}: {crashes} crashes, one in each run");
        }
    }
}

/// Two processes end in one life, at places that are spread over it.
#[test]
fn crashes_of_coordinator_and_member_in_one_life() {
    let settings = Settings::default();
    let clean = run_clean(&settings);
    for first in (0..clean.boundaries[0]).step_by(7) {
        for second in (0..clean.boundaries[1]).step_by(7) {
            let crashes = [(0, first), (1, second)];
            let report = run(
                SEED,
                &Settings {
                    crashes: crashes
                        .map(|(node, boundary)| CrashPoint { node, boundary })
                        .to_vec(),
                    ..settings.clone()
                },
            );
            assert!(report.restarts >= 1, "{crashes:?}: {report:?}");
        }
    }
}

#[test]
fn seeds_with_faults_push() {
    let settings = Settings {
        members: 3,
        dids_per_member: 2,
        signals: 2,
        faults: Faults::all(50),
        ..Settings::default()
    };
    run_seeds("push", 100, &settings);
}

#[test]
fn seeds_with_faults_pull() {
    let settings = Settings {
        members: 4,
        dids_per_member: 2,
        flow: Flow::Pull,
        signals: 2,
        faults: Faults::all(50),
        ..Settings::default()
    };
    run_seeds("pull", 100, &settings);
}

/// Short deadlines and leaves that may stay empty: answers are late, and rounds go on without them.
#[test]
fn seeds_with_faults_and_empty_leaves() {
    let settings = Settings {
        members: 3,
        dids_per_member: 2,
        empty_leaf_allowed: true,
        response_deadline_s: 10,
        signals: 2,
        // Deadlines of ten seconds are missed often, and each further try waits longer.
        limit_s: 30 * 86_400,
        faults: Faults::all(50),
        ..Settings::default()
    };
    run_seeds("empty leaves", 100, &settings);
}

#[test]
fn seeds_with_faults_several_cohorts_and_a_declining_member() {
    let settings = Settings {
        members: 3,
        cohorts: 2,
        declines: 1,
        faults: Faults::all(50),
        ..Settings::default()
    };
    run_seeds("cohorts", 50, &settings);
}

#[test]
fn a_larger_cohort_with_faults() {
    let settings = Settings {
        members: 10,
        faults: Faults {
            crash: 2,
            ..Faults::all(50)
        },
        ..Settings::default()
    };
    run_seeds("ten members", 10, &settings);
}

/// A member's process ends for ever at some point of its life. It is struck out, and the others go on without it.
#[test]
fn a_member_that_never_returns() {
    for (seed, boundary) in (1..).zip((0..200).step_by(11)) {
        let settings = Settings {
            members: 4,
            flow: [Flow::Push, Flow::Pull][usize::from(boundary % 2 == 0)],
            response_deadline_s: 600,
            max_strikes: 3,
            signals: 2,
            limit_s: 10 * 86_400,
            gone: Some(CrashPoint { node: 1, boundary }),
            faults: Faults::all(10),
            ..Settings::default()
        };
        let report = run(seed, &settings);
        assert!(report.signals >= 1, "{boundary}: {report:?}");
    }
}

/// A member's disk goes back to an older copy of itself, at many points of its life. What it forgot is noticed and found again;
/// nothing is signed twice, and every signal is proven by everybody in the end.
#[test]
fn a_disk_that_goes_back_to_an_older_copy() {
    let mut restored = 0;
    for (seed, copied) in (1..).zip((0..130).step_by(10)) {
        let settings = Settings {
            members: 3,
            flow: [Flow::Push, Flow::Pull][usize::from(seed % 2 == 0)],
            response_deadline_s: 600,
            signals: 3,
            limit_s: 10 * 86_400,
            restore: Some(Restore {
                member: 1,
                copied,
                after: 1 + copied * 17 % 90,
            }),
            faults: Faults::all(10),
            ..Settings::default()
        };
        let report = run(seed, &settings);
        assert!(report.signals >= 1, "{copied}: {report:?}");
        restored += report.restored;
    }
    assert!(restored >= 8, "{restored} disks went back");
}
