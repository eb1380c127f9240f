//! A store file that a disk has damaged: opening it gives what was in it or an error, and never a panic.

use std::fs;

use beacon_runtime::store::{Batch, OutboxRow, RedbStore, Seen, SeenRow, Store as _, StoreLimits};
use tempfile::TempDir;

/// Events 1 to 12, the first six of which are gone.
const SNAPSHOT: &[u8] = b"{\"state\":1}";

thread_local! {
    static TEMPLATE: Template = Template::new();
}

/// A store with something in every table.
struct Template {
    folder: TempDir,
    bytes: Vec<u8>,
    /// Where there is something: most of the file is unused.
    used: Vec<usize>,
}

impl Template {
    fn new() -> Self {
        // Every run writes it, and syncs: memory is faster where there is a file system for it.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let path = folder.path().join("template");
        let mut store = RedbStore::open(&path, StoreLimits::default()).unwrap();
        for number in 0..8 {
            store.commit(&batch(number)).unwrap();
            if number == 3 {
                store.compact(SNAPSHOT, 6).unwrap();
            }
        }
        drop(store);
        let bytes = fs::read(&path).unwrap();
        let used = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        Self {
            folder,
            bytes,
            used,
        }
    }
}

fn batch(number: u8) -> Batch {
    let id = format!("message-{number}");
    Batch {
        events: vec![format!("{{\"event\":{number}}}").into_bytes(); 3],
        outbox: vec![OutboxRow {
            id: id.clone(),
            from: "did:a".to_owned(),
            to: "did:b".to_owned(),
            kind: "kind".to_owned(),
            thid: "thread".to_owned(),
            expires: 1_000,
            packed: vec![number; 100],
        }],
        retire: Vec::new(),
        seen: Some(SeenRow {
            sender: "did:b".to_owned(),
            id,
            privileged: true,
            seen: Seen {
                expires: 2_000,
                answers: vec![vec![number; 50]],
            },
        }),
        meta: vec![("key".to_owned(), vec![number])],
    }
}

/// Each four bytes change one byte of the file: three say where, the fourth says to what. Where the fourth is odd and the
/// first is 255, the file ends there.
pub fn store(data: &[u8]) {
    TEMPLATE.with(|template| {
        let mut bytes = template.bytes.clone();
        for change in data.chunks_exact(4).take(64) {
            let [high, middle, low, value] = [change[0], change[1], change[2], change[3]];
            let place = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            let at = template.used[place % template.used.len()];
            if high == 255 && value & 1 == 1 {
                bytes.truncate(at);
            } else if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        open(template, &bytes);
    });
}

fn open(template: &Template, bytes: &[u8]) {
    let path = template.folder.path().join("damaged");
    fs::write(&path, bytes).unwrap();
    match RedbStore::open(&path, StoreLimits::default()) {
        Ok(mut store) => {
            let events = store.events(1).expect("what was verified can be read");
            assert_eq!(events.len(), 18, "events were lost without a word");
            for (at, (number, _)) in (7..).zip(&events) {
                assert_eq!(at, *number);
            }
            let snapshot = store.snapshot().unwrap().expect("one was made");
            assert_eq!((snapshot.event, snapshot.state.as_slice()), (12, SNAPSHOT));
            let _ = (store.outbox().unwrap(), store.meta("key").unwrap());
            let _ = store.seen("did:b", "message-1").unwrap();
            assert_eq!(store.commit(&batch(100)).unwrap(), 27);
            store.prune(3_000).unwrap();
        }
        Err(error) => {
            let words = error.to_string();
            assert!(
                words.contains("damaged"),
                "it is the file's name, and is told: {words}"
            );
            assert_eq!(words.lines().count(), 1, "{words}");
        }
    }
}
