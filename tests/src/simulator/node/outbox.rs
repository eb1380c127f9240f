//! Messages that wait to be delivered: the index that a process keeps of its store's rows.

use std::collections::BTreeMap;
use std::rc::Rc;

use beacon_cohort::ids::PeerId;
use beacon_runtime::store::OutboxRow;

/// Milliseconds between two deliveries of a message, at first.
pub(super) const FIRST_WAIT_MS: u64 = 3_000;
/// The wait doubles each time, up to this.
const LONGEST_WAIT_MS: u64 = 30_000;

struct Waiting {
    row: OutboxRow,
    packed: Rc<[u8]>,
    due: u64,
    wait: u64,
}

/// A message that is due.
pub(super) struct Due {
    pub(super) to: PeerId,
    pub(super) kind: String,
    pub(super) packed: Rc<[u8]>,
}

#[derive(Default)]
pub(super) struct Outbox {
    /// In the order in which they were written.
    rows: BTreeMap<u64, Waiting>,
    written: u64,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn add(&mut self, row: OutboxRow, now: u64) {
        self.written += 1;
        let waiting = Waiting {
            packed: row.packed.as_slice().into(),
            row,
            due: now,
            wait: FIRST_WAIT_MS,
        };
        self.rows.insert(self.written, waiting);
    }

    pub(super) fn remove(&mut self, ids: &[String]) {
        if !ids.is_empty() {
            self.rows
                .retain(|_, waiting| !ids.contains(&waiting.row.id));
        }
    }

    /// Ids of the rows that have done their work: those that a message of `from` acknowledges, and those of the kinds
    /// that it answers on its thread.
    pub(super) fn answered(
        &self,
        from: &PeerId,
        acknowledged: &[String],
        thread: &str,
        kinds: &[&str],
    ) -> Vec<String> {
        let rows = self.rows.values().map(|waiting| &waiting.row);
        rows.filter(|row| {
            row.to == from.as_str()
                && (acknowledged.contains(&row.id)
                    || (row.thid == thread && kinds.contains(&row.kind.as_str())))
        })
        .map(|row| row.id.clone())
        .collect()
    }

    /// What is to be sent now, oldest first; each is due again later.
    pub(super) fn take_due(&mut self, now: u64) -> Vec<Due> {
        let due = self.rows.values_mut().filter(|waiting| waiting.due <= now);
        due.map(|waiting| {
            waiting.due = now + waiting.wait;
            waiting.wait = (waiting.wait * 2).min(LONGEST_WAIT_MS);
            Due {
                to: PeerId::new(waiting.row.to.clone()),
                kind: waiting.row.kind.clone(),
                packed: Rc::clone(&waiting.packed),
            }
        })
        .collect()
    }
}
