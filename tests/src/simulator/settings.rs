//! What is simulated: how many take part, what they want, and what goes wrong.

use beacon_cohort::terms::Flow;

/// One simulation's circumstances. The default is two members, one signal and nothing that goes wrong.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Members of each cohort; every participant joins every cohort.
    pub members: usize,
    /// Cohorts that live side by side.
    pub cohorts: usize,
    /// DIDs that each member answers for.
    pub dids_per_member: usize,
    /// Who speaks first in a round.
    pub flow: Flow,
    /// Whether an index may go without an answer.
    pub empty_leaf_allowed: bool,
    /// Seconds that a member has for each answer.
    pub response_deadline_s: u64,
    /// Waves of updates, one after the other; at least one signal each, more where an update just missed a round.
    pub signals: u32,
    /// Sessions that the first member's user declines before it approves any. 0: it signs without asking.
    pub declines: u32,
    /// Strikes after which a member is out.
    pub max_strikes: u64,
    /// Seconds by which members' clocks may be wrong, either way. Messages allow for 300.
    pub clock_skew_s: u64,
    /// Whether the operator asks again for a round that stopped.
    pub operator_asks_again: bool,
    /// A member whose process ends for ever at this boundary.
    pub gone: Option<CrashPoint>,
    /// A member whose disk goes back to an older copy.
    pub restore: Option<Restore>,
    /// What goes wrong by chance.
    pub faults: Faults,
    /// Where processes end, besides chance.
    pub crashes: Vec<CrashPoint>,
    /// Virtual seconds after which the simulation has failed.
    pub limit_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            members: 2,
            cohorts: 1,
            dids_per_member: 1,
            flow: Flow::Push,
            empty_leaf_allowed: false,
            response_deadline_s: 60,
            signals: 1,
            declines: 0,
            // What faults do to honest members is no reason to part with them; tests of strikes say otherwise.
            max_strikes: 1_000,
            clock_skew_s: 0,
            operator_asks_again: true,
            gone: None,
            restore: None,
            faults: Faults::default(),
            crashes: Vec::new(),
            limit_s: 6 * 3_600,
        }
    }
}

/// Rates of faults, each in a thousand of its own occasions. The default is none of any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A frame is lost.
    pub drop: u32,
    /// A frame arrives twice.
    pub duplicate: u32,
    /// A frame takes up to 20 s longer, so that others overtake it.
    pub delay: u32,
    /// A frame arrives damaged, which authenticated encryption turns into a loss.
    pub corrupt: u32,
    /// In half a second, a participant loses its connection for up to 40 s.
    pub partition: u32,
    /// In half a second, a participant's socket dies in one direction; the heartbeat notices within a minute.
    pub half_open: u32,
    /// In half a second, a participant opens a second socket; every other time the first is dead, and the coordinator
    /// does not know it.
    pub second_socket: u32,
    /// At a boundary of a commit, the process ends and starts again up to 20 s later.
    pub crash: u32,
    /// The store refuses a commit.
    pub store_full: u32,
    /// A commit fails, and is written or not. The process stops; it is started again once the disk is well.
    pub disk_error: u32,
    /// A chain source does not answer when asked.
    pub outage: u32,
    /// Instead of a block there is a reorganisation, less deep than what counts as buried.
    pub reorganisation: u32,
}

impl Faults {
    /// Every fault of the network and the chain at this rate; faults of sockets and processes, which last, at smaller
    /// ones: a round has far more boundaries than messages, and a cohort that does nothing but restart shows nothing.
    pub fn all(per_mille: u32) -> Self {
        let process = (per_mille / 5).min(10);
        Self {
            drop: per_mille,
            duplicate: per_mille,
            delay: per_mille,
            corrupt: per_mille,
            partition: per_mille / 5,
            half_open: per_mille / 10,
            second_socket: per_mille / 5,
            crash: process,
            store_full: process,
            disk_error: process / 2,
            outage: per_mille,
            reorganisation: per_mille,
        }
    }

    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// The place where a process ends: the `boundary`-th of one node, counted from 0 over its whole life. Each commit
/// has three: before it, between it and its effects, and after these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// 0 is the coordinator, 1 the first member.
    pub node: usize,
    /// Which boundary.
    pub boundary: u32,
}

/// An older copy of a member's disk takes the place of the newer one, while its process is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// Whose: 1 is the first member.
    pub member: usize,
    /// The copy is made at the first boundary from this one on at which it has a cohort, and none that is being formed.
    pub copied: u32,
    /// How many boundaries later it takes the place of what came after it.
    pub after: u32,
}
