//! The store of the agents: one redb file, every commit on the disk before it returns.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    StorageError, TableDefinition, TableError,
};

use super::usage::Usage;
use super::{Batch, OutboxRow, Pruned, Seen, Store, StoreError, StoreLimits};

/// Version of the tables below and of what is in them, kept in the file.
pub const FORMAT_VERSION: u64 = 1;

/// `"version"` → [`FORMAT_VERSION`].
const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
/// Key → value.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Sequence number from 1 → event.
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
/// Message id → (number of arrival, from, to, kind, thid, expires, packed).
const OUTBOX: TableDefinition<&str, OutboxValue<'static>> = TableDefinition::new("outbox");
/// (sender, message id) → (expires, answers).
const SEEN: TableDefinition<(&str, &str), SeenValue<'static>> = TableDefinition::new("seen");
/// The same rows by age, so that pruning reads only what it removes: (expires, sender, message id).
const SEEN_BY_EXPIRY: TableDefinition<(u64, &str, &str), ()> =
    TableDefinition::new("seen_by_expiry");

type SeenValue<'a> = (u64, Vec<&'a [u8]>);
type OutboxValue<'a> = (u64, &'a str, &'a str, &'a str, &'a str, u64, &'a [u8]);

/// Memory for redb's page cache. The driver reads nearly everything once, at the start; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 32 << 20;

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
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = database(file).map_err(|error| not_opened(path, error))?;
            Self::load(path, database, limits)
        }));
        opened.unwrap_or_else(|_| {
            let fault = "the database library cannot make sense of it".to_owned();
            Err(StoreError::Corrupt {
                path: path.to_owned(),
                fault,
            })
        })
    }

    fn load(path: &Path, mut database: Database, limits: StoreLimits) -> Result<Self, StoreError> {
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
        let fail = |error| failed(path, error);
        match format_of(&database).map_err(fail)? {
            Format::Foreign => {
                return Err(StoreError::Foreign {
                    path: path.to_owned(),
                });
            }
            Format::Version(FORMAT_VERSION) => {}
            Format::Version(got) => {
                return Err(StoreError::Version {
                    path: path.to_owned(),
                    got,
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
        let events = store.count().map_err(fail)?;
        if events != store.last_event {
            let fault = format!("it has {events} events, expected {}", store.last_event);
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                fault,
            });
        }
        Ok(store)
    }

    /// Fills the counters from the tables; returns the number of events.
    fn count(&mut self) -> Result<u64, redb::Error> {
        let read = self.database.begin_read()?;
        let events = read.open_table(EVENTS)?;
        self.last_event = events.last()?.map_or(0, |(number, _)| number.value());
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
        Ok(events.len()?)
    }

    /// Writes a batch that was checked.
    fn write(&self, batch: &Batch) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
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
        let write = self.database.begin_write()?;
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

enum Format {
    Version(u64),
    Foreign,
}

fn format_of(database: &Database) -> Result<Format, redb::Error> {
    let read = database.begin_read()?;
    let table = match read.open_table(FORMAT) {
        Ok(table) => table,
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Format::Foreign),
    };
    let version = table.get("version")?.map(|version| version.value());
    Ok(version.map_or(Format::Foreign, Format::Version))
}

/// Makes an empty store beside `path` and moves it there when it is complete: a start that is interrupted leaves nothing
/// that the next one would trip over. The data directory's lock keeps others out meanwhile.
fn create(path: &Path) -> Result<(), StoreError> {
    let unfinished = path.with_extension("new");
    let io = |source| failed(path, StorageError::Io(source).into());
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(io)?;
    let database = database(file).map_err(|error| not_opened(path, error))?;
    make_tables(&database).map_err(|error| failed(path, error))?;
    drop(database);
    std::fs::rename(&unfinished, path).map_err(io)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(io)
}

fn database(file: File) -> Result<Database, DatabaseError> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_file(file)
}

/// Makes all tables at once, so that reading never meets a missing one.
fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write
        .open_table(FORMAT)?
        .insert("version", FORMAT_VERSION)?;
    write.open_table(META)?;
    write.open_table(EVENTS)?;
    write.open_table(OUTBOX)?;
    write.open_table(SEEN)?;
    write.open_table(SEEN_BY_EXPIRY)?;
    write.commit()?;
    Ok(())
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

/// The file, open for reading and writing, and readable by nobody else.
fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the store was readable by others; its mode is now 0600");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
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
        source => StoreError::Failed {
            path,
            source: Box::new(source),
        },
    }
}

#[cfg(test)]
mod tests;
