//! Who uses how much of the store, and whether a batch still fits: the same arithmetic for every store.

use std::collections::{HashMap, HashSet};

use super::{Batch, LogSize, OutboxRow, StoreError, StoreLimits};

/// Counts of seen messages, and an index of the outbox without the messages themselves.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    seen_total: usize,
    seen_by_sender: HashMap<String, usize>,
    outbox: HashMap<String, Waiting>,
    outbox_by_peer: HashMap<String, usize>,
    /// Events that are there.
    pub(super) log: LogSize,
}

#[derive(Debug, Clone)]
struct Waiting {
    to: String,
    expires: u64,
}

impl Usage {
    /// Whether `batch` fits. Does not look for a repeated seen message: only the store has those.
    pub(super) fn check(&self, batch: &Batch, limits: &StoreLimits) -> Result<(), StoreError> {
        check_sizes(batch, limits)?;
        if let Some(row) = &batch.seen {
            let of_sender = self.seen_by_sender.get(&row.sender).copied().unwrap_or(0);
            within(of_sender + 1, limits.seen_per_sender, || {
                format!("seen messages of {}", row.sender)
            })?;
            let total = if row.privileged {
                limits.seen_total
            } else {
                limits.seen_total.div_ceil(2)
            };
            within(self.seen_total + 1, total, || "seen messages".to_owned())?;
        }
        self.check_outbox(batch, limits)
    }

    /// Takes a batch that passed [`check`](Self::check) and is on the disk.
    pub(super) fn apply(&mut self, batch: &Batch) {
        for id in &batch.retire {
            self.remove_outbox(id);
        }
        for row in &batch.outbox {
            self.add_outbox(row);
        }
        if let Some(row) = &batch.seen {
            self.add_seen(&row.sender);
        }
        for event in &batch.events {
            self.log.add(event);
        }
    }

    pub(super) fn add_seen(&mut self, sender: &str) {
        self.seen_total += 1;
        *self.seen_by_sender.entry(sender.to_owned()).or_default() += 1;
    }

    pub(super) fn remove_seen(&mut self, sender: &str) {
        self.seen_total = self.seen_total.saturating_sub(1);
        decrement(&mut self.seen_by_sender, sender);
    }

    pub(super) fn add_outbox(&mut self, row: &OutboxRow) {
        let waiting = Waiting {
            to: row.to.clone(),
            expires: row.expires,
        };
        self.outbox.insert(row.id.clone(), waiting);
        *self.outbox_by_peer.entry(row.to.clone()).or_default() += 1;
    }

    pub(super) fn remove_outbox(&mut self, id: &str) {
        if let Some(waiting) = self.outbox.remove(id) {
            decrement(&mut self.outbox_by_peer, &waiting.to);
        }
    }

    /// The ids of the outbox rows that expire at or before `now`, sorted.
    pub(super) fn expired_outbox(&self, now: u64) -> Vec<String> {
        let mut ids: Vec<String> = self
            .outbox
            .iter()
            .filter(|(_, waiting)| waiting.expires <= now)
            .map(|(id, _)| id.clone())
            .collect();
        ids.sort_unstable();
        ids
    }

    fn check_outbox(&self, batch: &Batch, limits: &StoreLimits) -> Result<(), StoreError> {
        let retired: HashSet<&str> = batch.retire.iter().map(String::as_str).collect();
        let mut freed: HashMap<&str, usize> = HashMap::new();
        let mut leaving = 0;
        for waiting in retired.iter().filter_map(|id| self.outbox.get(*id)) {
            *freed.entry(&waiting.to).or_default() += 1;
            leaving += 1;
        }
        let mut added: HashSet<&str> = HashSet::new();
        let mut added_by_peer: HashMap<&str, usize> = HashMap::new();
        for row in &batch.outbox {
            let waits = self.outbox.contains_key(&row.id) && !retired.contains(row.id.as_str());
            if waits || !added.insert(&row.id) {
                return Err(StoreError::QueuedBefore { id: row.id.clone() });
            }
            *added_by_peer.entry(&row.to).or_default() += 1;
        }
        for (peer, added) in added_by_peer {
            let before = self.outbox_by_peer.get(peer).copied().unwrap_or(0);
            let after = before - freed.get(peer).copied().unwrap_or(0) + added;
            within(after, limits.outbox_per_peer, || {
                format!("messages waiting for {peer}")
            })?;
        }
        if added.is_empty() {
            return Ok(());
        }
        let after = self.outbox.len() - leaving + added.len();
        within(after, limits.outbox_total, || {
            "messages waiting for all peers".to_owned()
        })
    }
}

fn check_sizes(batch: &Batch, limits: &StoreLimits) -> Result<(), StoreError> {
    let sized = |what, got: usize, limit| {
        if got <= limit {
            return Ok(());
        }
        Err(StoreError::TooLarge { what, got, limit })
    };
    let record = |what, got| sized(what, got, limits.record_bytes);
    let name = |what, text: &str| sized(what, text.len(), limits.name_bytes);
    for event in &batch.events {
        record("event", event.len())?;
    }
    for row in &batch.outbox {
        record("packed message", row.packed.len())?;
        name("message id", &row.id)?;
        name("sender", &row.from)?;
        name("recipient", &row.to)?;
        name("message type", &row.kind)?;
        name("thread id", &row.thid)?;
    }
    if let Some(row) = &batch.seen {
        name("sender", &row.sender)?;
        name("message id", &row.id)?;
        record(
            "answers to one message",
            row.seen.answers.iter().map(Vec::len).sum(),
        )?;
    }
    for (key, value) in &batch.meta {
        name("metadata key", key)?;
        record("metadata value", value.len())?;
    }
    Ok(())
}

fn within(got: usize, limit: usize, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    if got <= limit {
        return Ok(());
    }
    Err(StoreError::Full {
        what: what(),
        limit,
    })
}

fn decrement(counts: &mut HashMap<String, usize>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
