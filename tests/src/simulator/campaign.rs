//! Many lives under all kinds of circumstances, one after the other on every core. A life's number decides everything in
//! it, so that one number repeats it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use beacon_cohort::terms::Flow;

use super::Simulation;
use super::report::{Failure, Report};
use super::settings::{Faults, Restore, Settings};

/// Signals that each cohort of a life makes at least.
const SIGNALS: u32 = 5;
/// By how many seconds clocks may be wrong: messages allow for five minutes.
const CLOCK_SKEW_S: u64 = 240;

/// The circumstances of a life: faults at 1, 5 and 20 percent, in both flows, in cohorts of 2 to 10.
pub fn circumstances(life: u64) -> Settings {
    let pick = |of: u64, every: u64| usize::try_from(life / every % of).unwrap_or(0);
    let per_mille = [10, 50, 200][pick(3, 1)];
    let members = [2, 3, 5, 10][pick(4, 6)];
    let plain = Settings {
        members,
        flow: [Flow::Push, Flow::Pull][pick(2, 3)],
        signals: SIGNALS,
        clock_skew_s: CLOCK_SKEW_S,
        // What a fault lasts for, several times over: nobody honest is late.
        response_deadline_s: 600,
        limit_s: 60 * 86_400,
        faults: Faults::all(per_mille),
        ..Settings::default()
    };
    match pick(5, 24) {
        0 => plain,
        1 => Settings {
            dids_per_member: 3,
            ..plain
        },
        2 => Settings {
            cohorts: 2,
            members: members.min(5),
            declines: 1,
            ..plain
        },
        // A member's disk goes back.
        3 => Settings {
            restore: Some(Restore {
                member: 1,
                copied: u32::try_from(life * 7 % 150).unwrap_or(0),
                after: u32::try_from(1 + life * 13 % 100).unwrap_or(0),
            }),
            ..plain
        },
        // Deadlines that are missed, and rounds that go on without an answer.
        _ => Settings {
            response_deadline_s: if per_mille < 200 { 30 } else { 120 },
            empty_leaf_allowed: true,
            ..plain
        },
    }
}

/// Figures of lives in which everything held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many.
    pub lives: u64,
    /// Signals in their chains: rounds that were carried through.
    pub rounds: u64,
    /// Signing sessions.
    pub sessions: u64,
    /// How many of them ended without a signature.
    pub abandoned: u64,
    /// Frames that never arrived.
    pub lost: u64,
    /// Processes that ended and started again.
    pub restarts: u64,
    /// Disks that went back to an older copy.
    pub restored: u64,
    /// Sockets that were cut, half open or replaced.
    pub broken_lines: u64,
    /// Commits that a store refused or a disk failed.
    pub disk_faults: u64,
    /// Reorganisations.
    pub reorganisations: u64,
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.lives += 1;
        self.rounds += u64::from(report.signals);
        self.sessions += u64::from(report.sessions);
        self.abandoned += u64::from(report.abandoned);
        self.lost += report.lost;
        self.restarts += report.restarts;
        self.restored += report.restored;
        self.broken_lines += report.broken_lines;
        self.disk_faults += report.disk_faults;
        self.reorganisations += report.reorganisations;
    }
}

/// Runs lives from number `first` on, until they have carried `rounds` rounds through, with a report after each life.
pub fn run(
    first: u64,
    rounds: u64,
    progress: impl Fn(&Summary) + Sync,
) -> Result<Summary, Box<Failure>> {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let outcome = Mutex::new(Ok(Summary::default()));
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let life = next.fetch_add(1, Ordering::Relaxed);
            let report = Simulation::new(life, circumstances(life)).run();
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match (report, outcome.as_mut()) {
                (Ok(report), Ok(summary)) => {
                    summary.add(&report);
                    progress(summary);
                    if summary.rounds >= rounds {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                (Err(failure), Ok(_)) => {
                    *outcome = Err(failure);
                    stop.store(true, Ordering::Relaxed);
                }
                (_, Err(_)) => {}
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(worker);
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}
