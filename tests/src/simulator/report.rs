//! What a simulation ends with: figures, or a failure that can be repeated.

use std::fmt;

use super::settings::Settings;

/// Figures of a simulation in which everything held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Virtual time that passed, in seconds.
    pub seconds: u64,
    /// Messages put on the wire, repetitions included.
    pub messages: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Frames that never arrived.
    pub lost: u64,
    /// How many of these arrived damaged, which authenticated encryption makes the same.
    pub corrupted: u64,
    /// Signing sessions.
    pub sessions: u32,
    /// How many of them ended without a signature.
    pub abandoned: u32,
    /// Rounds that stopped until the operator asked again.
    pub stopped: u32,
    /// Signals in the chain.
    pub signals: u32,
    /// Processes that ended and started again.
    pub restarts: u64,
    /// Disks that went back to an older copy.
    pub restored: u64,
    /// Sockets that were cut, half open or replaced.
    pub broken_lines: u64,
    /// Commits that a store refused or a disk failed.
    pub disk_faults: u64,
    /// Reorganisations of the chain.
    pub reorganisations: u64,
    /// Boundaries that each node passed, the coordinator first: the places where it could have crashed.
    pub boundaries: Vec<u32>,
}

/// Something that must not happen, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The circumstances.
    pub settings: Settings,
    /// What happened.
    pub reason: String,
    /// What went before, oldest first; the last few thousand lines.
    pub transcript: Vec<String>,
}

/// Lines of the transcript that are shown.
const SHOWN_LINES: usize = 200;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.transcript.len().saturating_sub(SHOWN_LINES);
        writeln!(f, "{hidden} earlier lines are not shown")?;
        for line in self.transcript.iter().skip(hidden) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "the simulation failed: {}", self.reason)?;
        writeln!(f, "circumstances: {:?}", self.settings)?;
        write!(
            f,
            "to repeat it: Simulation::new({}, settings).run(), or BEACON_SIM_SEED={} BEACON_SIM_SEEDS=1 and the name of this test",
            self.seed, self.seed
        )
    }
}

impl std::error::Error for Failure {}
