use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::InMemoryBackend;
use redb::{StorageBackend, TableDefinition};
use tempfile::TempDir;

use super::super::contract::{events, row, seen};
use super::file::{FORMAT, make_tables};
use super::*;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    (folder, path)
}

fn open(path: &Path) -> Result<RedbStore, StoreError> {
    RedbStore::open(path, StoreLimits::default())
}

/// A batch that touches every table.
fn full_batch(id: &str) -> Batch {
    let mut batch = seen("did:a", id, 50, &[b"answer"]);
    batch.events = vec![b"one".to_vec(), b"two".to_vec()];
    batch.outbox = vec![row(id, "did:a", 60)];
    batch.meta = vec![("key".to_owned(), id.as_bytes().to_vec())];
    batch
}

fn assert_holds(store: &RedbStore, batches: &[&str]) {
    assert_eq!(store.events(1).unwrap().len(), 2 * batches.len());
    let waiting: Vec<String> = store
        .outbox()
        .unwrap()
        .into_iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(waiting, batches);
    for id in batches {
        assert_eq!(
            store.seen("did:a", id).unwrap().unwrap().answers,
            [b"answer"]
        );
    }
    assert_eq!(
        store.meta("key").unwrap().as_deref(),
        batches.last().map(|id| id.as_bytes())
    );
}

#[test]
fn a_reopened_store_goes_on_where_it_was() {
    let (_folder, path) = folder();
    assert_eq!(open(&path).unwrap().commit(&full_batch("z")).unwrap(), 2);
    let mut store = open(&path).unwrap();
    assert_holds(&store, &["z"]);
    assert_eq!(store.commit(&full_batch("a")).unwrap(), 4);
    drop(store);
    assert_holds(&open(&path).unwrap(), &["z", "a"]);
}

#[test]
fn limits_count_what_an_earlier_process_left() {
    let (_folder, path) = folder();
    let limits = StoreLimits {
        seen_per_sender: 1,
        outbox_per_peer: 1,
        ..StoreLimits::default()
    };
    RedbStore::open(&path, limits)
        .unwrap()
        .commit(&full_batch("1"))
        .unwrap();
    let mut store = RedbStore::open(&path, limits).unwrap();
    let error = store.commit(&seen("did:a", "2", 9, &[])).unwrap_err();
    assert!(
        matches!(error, StoreError::Full { limit: 1, .. }),
        "{error}"
    );
    let queued = Batch {
        outbox: vec![row("2", "did:a", 9)],
        ..Batch::default()
    };
    assert!(store.commit(&queued).unwrap_err().is_refusal());
    assert_eq!(
        store.prune(60).unwrap(),
        Pruned {
            seen: 1,
            outbox: vec!["1".to_owned()]
        }
    );
    store.commit(&full_batch("2")).unwrap();
}

/// What a killed process leaves is the file as it is on the disk at that moment, never closed.
#[test]
fn every_commit_is_there_after_a_kill() {
    let (folder, path) = folder();
    let mut store = open(&path).unwrap();
    let names = ["1", "2", "3"];
    for (count, id) in names.iter().enumerate() {
        store.commit(&full_batch(id)).unwrap();
        let left = folder.path().join(format!("killed-{id}"));
        fs::copy(&path, &left).unwrap();
        assert_holds(&open(&left).unwrap(), &names[..=count]);
    }
}

#[test]
fn an_interrupted_first_start_does_not_block_the_next() {
    let (_folder, path) = folder();
    fs::write(path.with_extension("new"), vec![0; 5000]).unwrap();
    open(&path).unwrap().commit(&full_batch("1")).unwrap();
    assert!(!path.with_extension("new").exists());
}

#[test]
fn the_file_is_private() {
    let (_folder, path) = folder();
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    drop(open(&path).unwrap());
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    drop(open(&path).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_second_opener_is_refused() {
    let (_folder, path) = folder();
    let _first = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let (_folder, path) = folder();
    for content in [b"{\"some\": \"json\"}\n".to_vec(), vec![0; 100_000]] {
        fs::write(&path, &content).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let database = Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(TableDefinition::<u64, u64>::new("format"))
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn another_format_version_is_refused() {
    let (_folder, path) = folder();
    drop(open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(FORMAT)
        .unwrap()
        .insert("version", 7)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = open(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::Version { got: 7, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("format 7, expected 2"),
        "{error}"
    );
}

#[test]
fn a_gap_in_the_events_is_damage() {
    let (_folder, path) = folder();
    open(&path)
        .unwrap()
        .commit(&events(&[b"1", b"2", b"3"]))
        .unwrap();
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(EVENTS).unwrap().remove(2).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = open(&path).unwrap_err();
    assert!(
        error.to_string().contains("it has 2 events, expected 3"),
        "{error}"
    );
}

#[test]
fn a_compacted_store_goes_on_where_it_was() {
    let (_folder, path) = folder();
    let mut store = open(&path).unwrap();
    store.commit(&events(&[b"1", b"2", b"3"])).unwrap();
    store.compact(b"state", 1).unwrap();
    drop(store);
    let mut store = open(&path).unwrap();
    let snapshot = Snapshot {
        event: 3,
        state: b"state".to_vec(),
    };
    assert_eq!(store.snapshot().unwrap(), Some(snapshot.clone()));
    assert_eq!(store.events(1).unwrap(), [(3, b"3".to_vec())]);
    assert_eq!(store.commit(&events(&[b"4"])).unwrap(), 4);
    store.compact(b"state", 0).unwrap();
    drop(store);
    let mut store = open(&path).unwrap();
    assert_eq!(store.snapshot().unwrap().unwrap().event, 4);
    assert_eq!(store.commit(&events(&[b"5"])).unwrap(), 5);
}

/// Events that the snapshot does not cover must all be there.
#[test]
fn a_gap_after_the_snapshot_is_damage() {
    let (_folder, path) = folder();
    let mut store = open(&path).unwrap();
    store.commit(&events(&[b"1", b"2"])).unwrap();
    store.compact(b"state", 0).unwrap();
    store.commit(&events(&[b"3", b"4"])).unwrap();
    drop(store);
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(EVENTS).unwrap().remove(3).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = open(&path).unwrap_err();
    assert!(
        error.to_string().contains("it has 1 events, expected 2"),
        "{error}"
    );
}

#[test]
fn a_store_of_the_first_version_is_brought_up_to_date() {
    let (_folder, path) = folder();
    open(&path).unwrap().commit(&events(&[b"1"])).unwrap();
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.delete_table(SNAPSHOT).unwrap();
    write
        .open_table(FORMAT)
        .unwrap()
        .insert("version", 1)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let mut store = open(&path).unwrap();
    assert_eq!(store.events(1).unwrap(), [(1, b"1".to_vec())]);
    store.compact(b"state", 0).unwrap();
}

/// A file cut anywhere, even to nothing, is an error: never a panic, and never taken for a new store.
#[test]
fn a_truncated_file_is_damage() {
    let (_folder, path) = folder();
    let mut store = open(&path).unwrap();
    for id in 0..50 {
        store.commit(&full_batch(&id.to_string())).unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    for length in [
        0,
        1,
        8,
        9,
        100,
        320,
        4096,
        5000,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = open(&path)
            .map(drop)
            .expect_err("a truncated file was opened");
        assert!(
            error.to_string().contains("state.redb"),
            "{length}: {error}"
        );
    }
}

/// Bytes changed by the disk lead to an error or to the very same content: never to a panic or to another history.
#[test]
fn changed_bytes_are_noticed() {
    let (_folder, path) = folder();
    let mut store = open(&path).unwrap();
    for id in 0..50 {
        store.commit(&full_batch(&id.to_string())).unwrap();
    }
    let history = store.events(1).unwrap();
    // As a killed agent leaves it.
    let whole = fs::read(&path).unwrap();
    drop(store);
    let mut noticed = 0;
    // Spots in the header and in all pages: steps that share no factor with their sizes. Byte 9 is not among them: it
    // says which of the last two commits is the newer one, and nothing in the file vouches for it.
    let header = (0..320).step_by(7);
    let spots = header.chain((320..whole.len()).step_by(4999));
    for spot in spots {
        let mut changed = whole.clone();
        changed[spot] ^= 0x41;
        fs::write(&path, &changed).unwrap();
        match open(&path).and_then(|store| store.events(1)) {
            Ok(events) => assert_eq!(events, history, "byte {spot}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 20, "only {noticed} changes were noticed");
}

/// A disk that starts to refuse writes on demand.
#[derive(Debug)]
struct FailingDisk {
    disk: InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl FailingDisk {
    fn check(&self) -> Result<(), io::Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("no space left on device"));
        }
        Ok(())
    }
}

impl StorageBackend for FailingDisk {
    fn len(&self) -> Result<u64, io::Error> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check()?;
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.check()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check()?;
        self.disk.write(offset, data)
    }
}

#[test]
fn after_a_failed_commit_nothing_more_is_written() {
    let broken = Arc::new(AtomicBool::new(false));
    let disk = FailingDisk {
        disk: InMemoryBackend::new(),
        broken: Arc::clone(&broken),
    };
    let database = Database::builder().create_with_backend(disk).unwrap();
    make_tables(&database).unwrap();
    let mut store =
        RedbStore::load(Path::new("state.redb"), database, StoreLimits::default()).unwrap();
    store.commit(&full_batch("1")).unwrap();

    broken.store(true, Ordering::SeqCst);
    let error = store.commit(&full_batch("2")).unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(!error.is_refusal());
    assert!(
        error.to_string().contains("no space left on device"),
        "{error}"
    );

    // The disk is well again, but whether the batch is on it is not known: only a new start may find out.
    broken.store(false, Ordering::SeqCst);
    for outcome in [
        store.commit(&full_batch("3")).map(drop),
        store.prune(99).map(drop),
    ] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Stopped { .. }), "{error}");
        assert!(!error.is_refusal());
    }
}
