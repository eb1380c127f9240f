//! The file and its tables: how they are made, recognised and brought up to date.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use redb::{
    Database, DatabaseError, ReadableDatabase as _, StorageError, TableDefinition, TableError,
};

use super::super::StoreError;
use super::{failed, not_opened};

/// Version of the tables below and of what is in them, kept in the file. Version 1 had no snapshot.
pub const FORMAT_VERSION: u64 = 2;

/// `"version"` → [`FORMAT_VERSION`].
pub(super) const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
/// Key → value.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Sequence number from 1 → event.
pub(super) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
/// `()` → (number of the last event in it, state).
pub(super) const SNAPSHOT: TableDefinition<(), (u64, &[u8])> = TableDefinition::new("snapshot");
/// Message id → (number of arrival, from, to, kind, thid, expires, packed).
pub(super) const OUTBOX: TableDefinition<&str, OutboxValue<'static>> =
    TableDefinition::new("outbox");
/// (sender, message id) → (expires, answers).
pub(super) const SEEN: TableDefinition<(&str, &str), SeenValue<'static>> =
    TableDefinition::new("seen");
/// The same rows by age, so that pruning reads only what it removes: (expires, sender, message id).
pub(super) const SEEN_BY_EXPIRY: TableDefinition<(u64, &str, &str), ()> =
    TableDefinition::new("seen_by_expiry");

pub(super) type SeenValue<'a> = (u64, Vec<&'a [u8]>);
pub(super) type OutboxValue<'a> = (u64, &'a str, &'a str, &'a str, &'a str, u64, &'a [u8]);

/// Memory for redb's page cache. The driver reads nearly everything once, at the start; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 32 << 20;

/// What the file says of itself.
pub(super) enum Format {
    /// A store of this version.
    Current,
    /// A store of another version.
    Other(u64),
    /// Something else.
    Foreign,
}

/// Recognises the file, and brings an older store up to date.
pub(super) fn recognise(database: &Database) -> Result<Format, redb::Error> {
    let version = {
        let read = database.begin_read()?;
        let table = match read.open_table(FORMAT) {
            Ok(table) => table,
            Err(TableError::Storage(error)) => return Err(error.into()),
            Err(_) => return Ok(Format::Foreign),
        };
        table.get("version")?.map(|version| version.value())
    };
    match version {
        Some(FORMAT_VERSION) => Ok(Format::Current),
        Some(1) => {
            make_tables(database)?;
            Ok(Format::Current)
        }
        Some(other) => Ok(Format::Other(other)),
        None => Ok(Format::Foreign),
    }
}

/// Makes an empty store beside `path` and moves it there when it is complete: a start that is interrupted leaves nothing
/// that the next one would trip over. The data directory's lock keeps others out meanwhile.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
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

pub(super) fn database(file: File) -> Result<Database, DatabaseError> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_file(file)
}

/// Makes all tables at once, so that reading never meets a missing one.
pub(super) fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write
        .open_table(FORMAT)?
        .insert("version", FORMAT_VERSION)?;
    write.open_table(META)?;
    write.open_table(EVENTS)?;
    write.open_table(SNAPSHOT)?;
    write.open_table(OUTBOX)?;
    write.open_table(SEEN)?;
    write.open_table(SEEN_BY_EXPIRY)?;
    write.commit()?;
    Ok(())
}

/// The file, open for reading and writing, and readable by nobody else.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the store was readable by others; its mode is now 0600");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}
