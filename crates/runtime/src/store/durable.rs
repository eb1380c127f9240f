//! The store of the agents: one redb file, every commit on the disk before it returns.

mod file;
mod panics;

use std::io;
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _,
    StorageError, WriteTransaction,
};

pub use self::file::FORMAT_VERSION;
use self::file::{
    EVENTS, Format, META, OUTBOX, OutboxValue, SEEN, SEEN_BY_EXPIRY, SNAPSHOT, create, database,
    open_private, recognise,
};
use super::usage::Usage;
use super::{Batch, LogSize, OutboxRow, Pruned, Seen, Snapshot, Store, StoreError, StoreLimits};

/// A [`Store`] in one file with mode 0600.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    database: Database,
    limits: StoreLimits,
    usage: Usage,
    /// Sequence number of the last event.
    last_event: u64,
    /// Number of the next outbox row, which keeps the order of arrival.
    next_arrival: u64,
    /// A commit failed: memory and disk may differ, so nothing more is written.
    stopped: bool,
}

impl RedbStore {
    /// Opens the store at `path`, making an empty one where there is none. Reads and verifies the whole file.
    pub fn open(path: &Path, limits: StoreLimits) -> Result<Self, StoreError> {
        let io = |source| failed(path, StorageError::Io(source).into());
        if !path.try_exists().map_err(io)? {
            create(path)?;
        }
        let file = open_private(path).map_err(io)?;
        // redb would take an emptied file for a new one, and the agent would start over without its history.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                fault: "it is empty".to_owned(),
            });
        }
        // redb trusts some of its own bookkeeping and panics where a damaged disk has changed it. Nothing survives such a
        // panic here but the path, so no half-made state can be seen.
        let opened = panics::caught(|| {
            let database = database(file).map_err(|error| not_opened(path, error))?;
            Self::load(path, database, limits)
        });
        opened.unwrap_or_else(|| {
            let fault = "the database library cannot make sense of it".to_owned();
            Err(StoreError::Corrupt {
                path: path.to_owned(),
                fault,
            })
        })
    }

    fn load(path: &Path, mut database: Database, limits: StoreLimits) -> Result<Self, StoreError> {
        let fail = |error| failed(path, error);
        // redb itself notices a crash, but not a disk that lost or changed bytes since.
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => {
                let fault =
                    "its checksums did not match and its last commits were rolled back".to_owned();
                return Err(StoreError::Corrupt {
                    path: path.to_owned(),
                    fault,
                });
            }
            Err(error) => return Err(not_opened(path, error)),
        }
        match recognise(&database).map_err(fail)? {
            Format::Current => {}
            Format::Other(got) => {
                return Err(StoreError::Version {
                    path: path.to_owned(),
                    got,
                });
            }
            Format::Foreign => {
                return Err(StoreError::Foreign {
                    path: path.to_owned(),
                });
            }
        }
        let mut store = Self {
            path: path.to_owned(),
            database,
            limits,
            usage: Usage::default(),
            last_event: 0,
            next_arrival: 0,
            stopped: false,
        };
        let (first, events) = store.count().map_err(fail)?;
        let expected = (store.last_event + 1).saturating_sub(first);
        if events != expected {
            let fault = format!("it has {events} events, expected {expected}");
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                fault,
            });
        }
        Ok(store)
    }

    /// Fills the counters from the tables; returns the number that the first event must have, and how many there are.
    fn count(&mut self) -> Result<(u64, u64), redb::Error> {
        let read = self.database.begin_read()?;
        let events = read.open_table(EVENTS)?;
        let snapshot = read.open_table(SNAPSHOT)?.get(())?;
        let snapshot = snapshot.map_or(0, |snapshot| snapshot.value().0);
        let first = events.first()?.map(|(number, _)| number.value());
        let last = events.last()?.map(|(number, _)| number.value());
        self.last_event = last.unwrap_or(snapshot).max(snapshot);
        // What the snapshot covers may be gone, and nothing else.
        let first = first.unwrap_or(snapshot + 1).min(snapshot + 1);
        self.usage.log = log_size(&events)?;
        for row in read.open_table(OUTBOX)?.iter()? {
            let (id, value) = row?;
            let (arrival, row) = outbox_row(id.value(), value.value());
            self.usage.add_outbox(&row);
            self.next_arrival = self.next_arrival.max(arrival + 1);
        }
        for row in read.open_table(SEEN_BY_EXPIRY)?.iter()? {
            let (key, ()) = row.map(|(key, _)| (key, ()))?;
            self.usage.add_seen(key.value().1);
        }
        Ok((first, events.len()?))
    }

    /// Begins a transaction. It costs a second sync, and buys this: after a crash, a last commit that the disk has damaged
    /// is damage, and not the end of an interrupted commit that is silently given up. An agent must not forget what it signed.
    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut write = self.database.begin_write()?;
        write.set_two_phase_commit(true);
        Ok(write)
    }

    /// Writes a batch that was checked.
    fn write(&self, batch: &Batch) -> Result<(), redb::Error> {
        let write = self.begin()?;
        if let Some(row) = &batch.seen {
            let answers: Vec<&[u8]> = row.seen.answers.iter().map(Vec::as_slice).collect();
            let value = (row.seen.expires, answers);
            write
                .open_table(SEEN)?
                .insert((row.sender.as_str(), row.id.as_str()), value)?;
            let key = (row.seen.expires, row.sender.as_str(), row.id.as_str());
            write.open_table(SEEN_BY_EXPIRY)?.insert(key, ())?;
        }
        if !batch.events.is_empty() {
            let mut events = write.open_table(EVENTS)?;
            for (number, event) in (self.last_event + 1..).zip(&batch.events) {
                events.insert(number, event.as_slice())?;
            }
        }
        if !batch.retire.is_empty() || !batch.outbox.is_empty() {
            let mut outbox = write.open_table(OUTBOX)?;
            for id in &batch.retire {
                outbox.remove(id.as_str())?;
            }
            for (arrival, row) in (self.next_arrival..).zip(&batch.outbox) {
                let value: OutboxValue<'_> = (
                    arrival,
                    &row.from,
                    &row.to,
                    &row.kind,
                    &row.thid,
                    row.expires,
                    &row.packed,
                );
                outbox.insert(row.id.as_str(), value)?;
            }
        }
        if !batch.meta.is_empty() {
            let mut meta = write.open_table(META)?;
            for (key, value) in &batch.meta {
                meta.insert(key.as_str(), value.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Removes the given outbox rows and all seen messages that expire at or before `now`; returns the latters' senders.
    fn remove_expired(&self, now: u64, outbox_ids: &[String]) -> Result<Vec<String>, redb::Error> {
        let expired: Vec<(u64, String, String)> = {
            let read = self.database.begin_read()?;
            let mut keys = Vec::new();
            for row in read.open_table(SEEN_BY_EXPIRY)?.iter()? {
                let (key, _) = row?;
                let (expires, sender, id) = key.value();
                if expires > now {
                    break;
                }
                keys.push((expires, sender.to_owned(), id.to_owned()));
            }
            keys
        };
        if expired.is_empty() && outbox_ids.is_empty() {
            return Ok(Vec::new());
        }
        let write = self.begin()?;
        {
            let mut outbox = write.open_table(OUTBOX)?;
            for id in outbox_ids {
                outbox.remove(id.as_str())?;
            }
            let mut seen = write.open_table(SEEN)?;
            let mut by_expiry = write.open_table(SEEN_BY_EXPIRY)?;
            for (expires, sender, id) in &expired {
                seen.remove((sender.as_str(), id.as_str()))?;
                by_expiry.remove((*expires, sender.as_str(), id.as_str()))?;
            }
        }
        write.commit()?;
        Ok(expired.into_iter().map(|(_, sender, _)| sender).collect())
    }

    fn write_snapshot(&self, snapshot: &[u8], keep: u64) -> Result<(), redb::Error> {
        let write = self.begin()?;
        write
            .open_table(SNAPSHOT)?
            .insert((), (self.last_event, snapshot))?;
        write
            .open_table(EVENTS)?
            .retain_in(..=self.last_event.saturating_sub(keep), |_, _| false)?;
        write.commit()?;
        Ok(())
    }

    fn refuse_when_stopped(&self) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    fn stop(&mut self, error: redb::Error) -> StoreError {
        self.stopped = true;
        failed(&self.path, error)
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let begun = self.database.begin_read().map_err(redb::Error::from);
        begun
            .and_then(|read| query(&read))
            .map_err(|error| failed(&self.path, error))
    }
}

impl Store for RedbStore {
    fn events(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read(|read| {
            let mut events = Vec::new();
            for row in read.open_table(EVENTS)?.range(from..)? {
                let (number, event) = row?;
                events.push((number.value(), event.value().to_owned()));
            }
            Ok(events)
        })
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        self.read(|read| {
            let row = read.open_table(SNAPSHOT)?.get(())?;
            Ok(row.map(|row| {
                let (event, state) = row.value();
                Snapshot {
                    event,
                    state: state.to_owned(),
                }
            }))
        })
    }

    fn log_size(&self) -> LogSize {
        self.usage.log
    }

    fn compact(&mut self, snapshot: &[u8], keep: u64) -> Result<(), StoreError> {
        self.refuse_when_stopped()?;
        self.limits.check_snapshot(snapshot)?;
        self.write_snapshot(snapshot, keep)
            .map_err(|error| self.stop(error))?;
        self.usage.log = self.read(|read| log_size(&read.open_table(EVENTS)?))?;
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<u64, StoreError> {
        self.refuse_when_stopped()?;
        self.usage.check(batch, &self.limits)?;
        if let Some(row) = &batch.seen
            && self.seen(&row.sender, &row.id)?.is_some()
        {
            return Err(StoreError::SeenBefore {
                sender: row.sender.clone(),
                id: row.id.clone(),
            });
        }
        self.write(batch).map_err(|error| self.stop(error))?;
        self.usage.apply(batch);
        self.last_event += batch.events.len() as u64;
        self.next_arrival += batch.outbox.len() as u64;
        Ok(self.last_event)
    }

    fn seen(&self, sender: &str, id: &str) -> Result<Option<Seen>, StoreError> {
        self.read(|read| {
            let found = read.open_table(SEEN)?.get((sender, id))?;
            Ok(found.map(|row| {
                let (expires, answers) = row.value();
                Seen {
                    expires,
                    answers: answers.into_iter().map(<[u8]>::to_vec).collect(),
                }
            }))
        })
    }

    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError> {
        self.read(|read| {
            let mut rows = Vec::new();
            for row in read.open_table(OUTBOX)?.iter()? {
                let (id, value) = row?;
                rows.push(outbox_row(id.value(), value.value()));
            }
            rows.sort_unstable_by_key(|(arrival, _)| *arrival);
            Ok(rows.into_iter().map(|(_, row)| row).collect())
        })
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|read| {
            Ok(read
                .open_table(META)?
                .get(key)?
                .map(|value| value.value().to_owned()))
        })
    }

    fn prune(&mut self, now: u64) -> Result<Pruned, StoreError> {
        self.refuse_when_stopped()?;
        let outbox = self.usage.expired_outbox(now);
        let senders = self
            .remove_expired(now, &outbox)
            .map_err(|error| self.stop(error))?;
        for sender in &senders {
            self.usage.remove_seen(sender);
        }
        for id in &outbox {
            self.usage.remove_outbox(id);
        }
        Ok(Pruned {
            seen: senders.len(),
            outbox,
        })
    }
}

fn log_size(events: &impl ReadableTable<u64, &'static [u8]>) -> Result<LogSize, redb::Error> {
    let mut size = LogSize::default();
    for row in events.iter()? {
        size.add(row?.1.value());
    }
    Ok(size)
}

fn outbox_row(id: &str, value: OutboxValue<'_>) -> (u64, OutboxRow) {
    let (arrival, from, to, kind, thid, expires, packed) = value;
    let row = OutboxRow {
        id: id.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        kind: kind.to_owned(),
        thid: thid.to_owned(),
        expires,
        packed: packed.to_owned(),
    };
    (arrival, row)
}

fn not_opened(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Busy { path },
        DatabaseError::Storage(StorageError::Corrupted(fault)) => {
            StoreError::Corrupt { path, fault }
        }
        // redb's way to say that the file begins with something else than its magic number.
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            StoreError::Foreign { path }
        }
        other => failed(&path, other.into()),
    }
}

fn failed(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::Corrupted(fault) => StoreError::Corrupt { path, fault },
        // A disk that fails says something else.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let fault = "it is cut off".to_owned();
            StoreError::Corrupt { path, fault }
        }
        source => StoreError::Failed {
            path,
            source: Box::new(source),
        },
    }
}

#[cfg(test)]
mod tests;
