//! Snapshots: the state in place of a long log.
//!
//! An agent that has run for a year starts as fast as one that has run for a day, and its file does not grow with what
//! is over. Nothing that must be kept for ever is lost by it: that is in the state (candidates and proofs, trees,
//! evidence), and the log is only how it came to be.

use beacon_cohort::machine::Machine;

use super::{Driver, DriverError};
use crate::agent::Agent;
use crate::store::Store;

/// How far a log was replayed.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    /// The last event in the snapshot; 0 without one.
    pub(super) snapshot: u64,
    /// The last event.
    pub(super) last: u64,
}

/// Brings an empty machine to where the store is: the snapshot, and the events after it.
pub fn replay<M: Machine>(store: &dyn Store, machine: &mut M) -> Result<Replayed, DriverError> {
    let snapshot = store.snapshot()?.map_or(Ok(0), |snapshot| {
        let state = serde_json::from_slice(&snapshot.state);
        let state = state.map_err(|fault| DriverError::Snapshot {
            seq: snapshot.event,
            fault: fault.to_string(),
        })?;
        machine.restore(state);
        Ok::<_, DriverError>(snapshot.event)
    })?;
    let mut last = snapshot;
    for (seq, bytes) in store.events(snapshot + 1)? {
        let event = serde_json::from_slice(&bytes).map_err(|fault| DriverError::Log {
            seq,
            fault: fault.to_string(),
        })?;
        machine.apply(&event);
        last = seq;
    }
    Ok(Replayed { snapshot, last })
}

/// The state as a snapshot holds it. `None` where it would not be read as what it is.
pub fn snapshot_of<M: Machine>(machine: &M) -> Option<Vec<u8>> {
    let written = serde_json::to_vec(machine.state()).ok()?;
    let read: M::State = serde_json::from_slice(&written).ok()?;
    (read == *machine.state()).then_some(written)
}

impl<A: Agent> Driver<A> {
    /// Makes a snapshot when enough events have come since the last one.
    pub(super) fn snapshot_when_due(&mut self) -> Result<(), DriverError> {
        let limits = &self.config.bounds;
        if self.last_seq - self.last_snapshot < limits.snapshot_events {
            return Ok(());
        }
        self.last_snapshot = self.last_seq; // Also where it cannot be made: the log is kept then, and tried again later.
        let Some(bytes) = snapshot_of(&self.machine) else {
            tracing::error!(
                "a snapshot does not read back as what was written, so the whole log is kept; please report this bug"
            );
            return Ok(());
        };
        match self.store.compact(&bytes, limits.keep_events) {
            Ok(()) => {
                tracing::info!(event = self.last_seq, bytes = bytes.len(), "snapshot made");
                Ok(())
            }
            Err(error) if error.is_refusal() => {
                tracing::warn!(%error, "no snapshot is made, so the whole log is kept");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
