//! Messages that wait to be delivered: the index that a process keeps of its store's rows, with the rules of the runtime's
//! own (`crates/runtime/src/driver/outbox.rs`), whose clock is tokio's.

use std::collections::BTreeMap;
use std::rc::Rc;

use beacon_cohort::ids::PeerId;
use beacon_cohort::message::replaces;
use beacon_runtime::store::OutboxRow;

/// Milliseconds between two deliveries of a message, at first.
const FIRST_WAIT_MS: u64 = 5_000;
/// The wait doubles each time, up to this.
const LONGEST_WAIT_MS: u64 = 300_000;
/// Messages to one peer in one go.
const BURST: usize = 16;
/// Milliseconds until the rest of them go.
const NEXT_BURST_MS: u64 = 50;
/// Messages that wait for one peer.
const MAX_PER_PEER: usize = 128;
/// News that waits for one peer.
const MAX_NEWS_PER_PEER: usize = 64;

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
    /// Whether one more message of this kind may wait for the peer.
    pub(super) fn has_room(&self, to: &PeerId, kind: &str) -> bool {
        let waiting = self.rows.values();
        let waiting = waiting.filter(|waiting| waiting.row.to == to.as_str());
        waiting.count()
            < if is_news(kind) {
                MAX_NEWS_PER_PEER
            } else {
                MAX_PER_PEER
            }
    }

    /// Ids of the rows that a new one makes pointless.
    pub(super) fn superseded(&self, new: &OutboxRow) -> Vec<String> {
        let replaced = replaces(&new.kind);
        let rows = self.rows.values().map(|waiting| &waiting.row);
        rows.filter(|row| (&row.to, &row.thid) == (&new.to, &new.thid))
            .filter(|row| replaced.contains(&row.kind.as_str()))
            .map(|row| row.id.clone())
            .collect()
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

    /// A new connection to the peer: everything is due at once.
    pub(super) fn connected(&mut self, to: &PeerId, now: u64) {
        for waiting in self.rows.values_mut() {
            if waiting.row.to == to.as_str() {
                waiting.due = now;
            }
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

    /// When something is to be sent next.
    pub(super) fn next_due(&self, now: u64) -> Option<u64> {
        let due = self.rows.values().map(|waiting| waiting.due).min()?;
        Some(due.max(now + NEXT_BURST_MS))
    }

    /// What is to be sent now, oldest first; each is due again later.
    pub(super) fn take_due(&mut self, now: u64) -> Vec<Due> {
        let mut bursts: BTreeMap<String, usize> = BTreeMap::new();
        let mut due = Vec::new();
        for waiting in self.rows.values_mut() {
            if waiting.due > now {
                continue;
            }
            let burst = bursts.entry(waiting.row.to.clone()).or_default();
            if *burst == BURST {
                continue;
            }
            *burst += 1;
            waiting.due = now + waiting.wait;
            waiting.wait = (waiting.wait * 2).min(LONGEST_WAIT_MS);
            due.push(Due {
                to: PeerId::new(waiting.row.to.clone()),
                kind: waiting.row.kind.clone(),
                packed: Rc::clone(&waiting.packed),
            });
        }
        due
    }
}

/// Kinds whose loss costs nobody a signature.
fn is_news(kind: &str) -> bool {
    matches!(
        kind,
        "keygen/subscribe_accept" | "keygen/cohort_advert" | "sign/signal_published"
    )
}
