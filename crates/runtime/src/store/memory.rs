//! The store of the simulator: same rules, no disk.

use std::collections::{BTreeMap, HashMap};

use super::usage::Usage;
use super::{Batch, LogSize, OutboxRow, Pruned, Seen, Snapshot, Store, StoreError, StoreLimits};

/// A [`Store`] in memory. A clone is an independent copy: what a crash at that moment would have left on the disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    limits: StoreLimits,
    usage: Usage,
    /// Those that are still there, by number.
    events: BTreeMap<u64, Vec<u8>>,
    last_event: u64,
    snapshot: Option<Snapshot>,
    /// In order of their arrival.
    outbox: BTreeMap<u64, OutboxRow>,
    arrivals: u64,
    seen: HashMap<(String, String), Seen>,
    meta: HashMap<String, Vec<u8>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    fn remove_outbox(&mut self, ids: &[String]) {
        if !ids.is_empty() {
            self.outbox.retain(|_, row| !ids.contains(&row.id));
        }
    }
}

impl Store for MemoryStore {
    fn events(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let events = self.events.range(from..);
        Ok(events
            .map(|(number, event)| (*number, event.clone()))
            .collect())
    }

    fn log_size(&self) -> LogSize {
        self.usage.log
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.snapshot.clone())
    }

    fn compact(&mut self, snapshot: &[u8], keep: u64) -> Result<(), StoreError> {
        self.limits.check_snapshot(snapshot)?;
        self.snapshot = Some(Snapshot {
            event: self.last_event,
            state: snapshot.to_vec(),
        });
        let first = self.last_event.saturating_sub(keep) + 1;
        self.events = self.events.split_off(&first);
        self.usage.log = LogSize::default();
        for event in self.events.values() {
            self.usage.log.add(event);
        }
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<u64, StoreError> {
        self.usage.check(batch, &self.limits)?;
        if let Some(row) = &batch.seen {
            if self
                .seen
                .contains_key(&(row.sender.clone(), row.id.clone()))
            {
                return Err(StoreError::SeenBefore {
                    sender: row.sender.clone(),
                    id: row.id.clone(),
                });
            }
            self.seen
                .insert((row.sender.clone(), row.id.clone()), row.seen.clone());
        }
        self.usage.apply(batch);
        for event in &batch.events {
            self.last_event += 1;
            self.events.insert(self.last_event, event.clone());
        }
        self.remove_outbox(&batch.retire);
        for row in &batch.outbox {
            self.arrivals += 1;
            self.outbox.insert(self.arrivals, row.clone());
        }
        self.meta.extend(batch.meta.iter().cloned());
        Ok(self.last_event)
    }

    fn seen(&self, sender: &str, id: &str) -> Result<Option<Seen>, StoreError> {
        Ok(self.seen.get(&(sender.to_owned(), id.to_owned())).cloned())
    }

    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.outbox.values().cloned().collect())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.meta.get(key).cloned())
    }

    fn prune(&mut self, now: u64) -> Result<Pruned, StoreError> {
        let outbox = self.usage.expired_outbox(now);
        self.remove_outbox(&outbox);
        for id in &outbox {
            self.usage.remove_outbox(id);
        }
        let before = self.seen.len();
        let usage = &mut self.usage;
        self.seen.retain(|(sender, _), seen| {
            let keep = seen.expires > now;
            if !keep {
                usage.remove_seen(sender);
            }
            keep
        });
        Ok(Pruned {
            seen: before - self.seen.len(),
            outbox,
        })
    }
}
