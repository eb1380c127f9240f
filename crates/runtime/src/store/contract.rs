//! What every store must do, run on each of them.

use super::{
    Batch, LogSize, MemoryStore, OutboxRow, RedbStore, Seen, SeenRow, Snapshot, Store, StoreError,
    StoreLimits,
};

/// Small enough to be reached in a test.
const LIMITS: StoreLimits = StoreLimits {
    seen_per_sender: 3,
    seen_total: 5,
    outbox_per_peer: 3,
    outbox_total: 5,
    record_bytes: 100,
    name_bytes: 20,
    snapshot_bytes: 100,
};

/// Runs a test on an empty store of each kind.
fn on_every_store(test: impl Fn(&mut dyn Store)) {
    test(&mut MemoryStore::new(LIMITS));
    let folder = tempfile::tempdir().unwrap();
    test(&mut RedbStore::open(&folder.path().join("state.redb"), LIMITS).unwrap());
}

pub(super) fn events(events: &[&[u8]]) -> Batch {
    Batch {
        events: events.iter().map(|event| event.to_vec()).collect(),
        ..Batch::default()
    }
}

pub(super) fn row(id: &str, to: &str, expires: u64) -> OutboxRow {
    OutboxRow {
        id: id.to_owned(),
        from: "did:us".to_owned(),
        to: to.to_owned(),
        kind: "ping".to_owned(),
        thid: "thread".to_owned(),
        expires,
        packed: format!("packed {id}").into_bytes(),
    }
}

fn queue(rows: &[OutboxRow]) -> Batch {
    Batch {
        outbox: rows.to_vec(),
        ..Batch::default()
    }
}

fn retire(ids: &[&str]) -> Batch {
    Batch {
        retire: ids.iter().map(|&id| id.to_owned()).collect(),
        ..Batch::default()
    }
}

pub(super) fn seen(sender: &str, id: &str, expires: u64, answers: &[&[u8]]) -> Batch {
    let seen = Seen {
        expires,
        answers: answers.iter().map(|answer| answer.to_vec()).collect(),
    };
    Batch {
        seen: Some(SeenRow {
            sender: sender.to_owned(),
            id: id.to_owned(),
            privileged: true,
            seen,
        }),
        ..Batch::default()
    }
}

fn ids(store: &dyn Store) -> Vec<String> {
    store
        .outbox()
        .unwrap()
        .into_iter()
        .map(|row| row.id)
        .collect()
}

type Contents = (Vec<(u64, Vec<u8>)>, Vec<OutboxRow>, Option<Vec<u8>>);

/// Everything that a store tells of itself, to compare before and after a refusal.
fn contents(store: &dyn Store) -> Contents {
    (
        store.events(1).unwrap(),
        store.outbox().unwrap(),
        store.meta("key").unwrap(),
    )
}

/// The error must be a refusal that names the limit, and none of an otherwise good batch may have been written.
fn refused_whole(store: &mut dyn Store, batch: &Batch, message: &str) {
    let before = contents(store);
    let mut batch = batch.clone();
    batch.events.push(b"rider".to_vec());
    batch.meta.push(("key".to_owned(), b"rider".to_vec()));
    let error = store.commit(&batch).unwrap_err();
    assert!(error.is_refusal(), "{error}");
    assert_eq!(error.to_string(), message);
    assert_eq!(contents(store), before);
    if let Some(row) = &batch.seen
        && !matches!(error, StoreError::SeenBefore { .. })
    {
        assert_eq!(store.seen(&row.sender, &row.id).unwrap(), None);
    }
}

#[test]
fn an_empty_store_is_empty() {
    on_every_store(|store| {
        assert_eq!(contents(store), (vec![], vec![], None));
        assert_eq!(store.seen("did:a", "1").unwrap(), None);
        assert_eq!(store.commit(&Batch::default()).unwrap(), 0);
        assert_eq!(store.prune(u64::MAX).unwrap().seen, 0);
    });
}

#[test]
fn events_are_numbered_from_one_without_gaps() {
    on_every_store(|store| {
        assert_eq!(store.commit(&events(&[b"a", b"b"])).unwrap(), 2);
        assert_eq!(store.commit(&events(&[])).unwrap(), 2);
        assert_eq!(store.commit(&events(&[b""])).unwrap(), 3);
        let all = vec![(1, b"a".to_vec()), (2, b"b".to_vec()), (3, b"".to_vec())];
        assert_eq!(store.events(0).unwrap(), all);
        assert_eq!(store.events(1).unwrap(), all);
        assert_eq!(store.events(3).unwrap(), all[2..]);
        assert_eq!(store.events(4).unwrap(), []);
    });
}

#[test]
fn a_snapshot_stands_for_the_events_before_it() {
    on_every_store(|store| {
        assert_eq!(store.snapshot().unwrap(), None);
        store.commit(&events(&[b"a", b"b", b"c"])).unwrap();
        let size = |events, bytes| LogSize { events, bytes };
        assert_eq!(store.log_size(), size(3, 3));
        store.compact(b"abc", 1).unwrap();
        assert_eq!(store.log_size(), size(1, 1));
        let snapshot = |event, state: &[u8]| {
            Some(Snapshot {
                event,
                state: state.to_vec(),
            })
        };
        assert_eq!(store.snapshot().unwrap(), snapshot(3, b"abc"));
        assert_eq!(store.events(1).unwrap(), [(3, b"c".to_vec())]);
        assert_eq!(store.commit(&events(&[b"d"])).unwrap(), 4);
        assert_eq!(store.snapshot().unwrap(), snapshot(3, b"abc"));
        assert_eq!(store.events(4).unwrap(), [(4, b"d".to_vec())]);
        assert_eq!(store.log_size(), size(2, 2));
        store.compact(b"abcd", 0).unwrap();
        assert_eq!(store.snapshot().unwrap(), snapshot(4, b"abcd"));
        assert_eq!(store.events(1).unwrap(), []);
        assert_eq!(store.commit(&events(&[b"e"])).unwrap(), 5);
        store.compact(b"abcde", 99).unwrap();
        assert_eq!(store.events(1).unwrap(), [(5, b"e".to_vec())]);
        let error = store.compact(&[0; 101], 0).unwrap_err();
        assert!(error.is_refusal(), "{error}");
        assert_eq!(
            error.to_string(),
            "snapshot has 101 bytes, expected at most 100"
        );
        assert_eq!(store.snapshot().unwrap(), snapshot(5, b"abcde"));
    });
}

#[test]
fn a_batch_is_written_as_one() {
    on_every_store(|store| {
        let mut batch = seen("did:a", "1", 50, &[b"answer"]);
        batch.events = vec![b"event".to_vec()];
        batch.outbox = vec![row("m1", "did:a", 60)];
        batch.meta = vec![
            ("key".to_owned(), b"old".to_vec()),
            ("key".to_owned(), b"new".to_vec()),
        ];
        assert_eq!(store.commit(&batch).unwrap(), 1);
        let expected = (
            vec![(1, b"event".to_vec())],
            vec![row("m1", "did:a", 60)],
            Some(b"new".to_vec()),
        );
        assert_eq!(contents(store), expected);
        let answer = Seen {
            expires: 50,
            answers: vec![b"answer".to_vec()],
        };
        assert_eq!(store.seen("did:a", "1").unwrap(), Some(answer));
    });
}

#[test]
fn the_outbox_keeps_the_order_of_arrival() {
    on_every_store(|store| {
        store
            .commit(&queue(&[row("z", "did:a", 9), row("a", "did:b", 9)]))
            .unwrap();
        store.commit(&queue(&[row("m", "did:a", 9)])).unwrap();
        assert_eq!(ids(store), ["z", "a", "m"]);
        store.commit(&retire(&["a", "unknown"])).unwrap();
        assert_eq!(ids(store), ["z", "m"]);
    });
}

#[test]
fn a_batch_may_replace_an_outbox_row_but_not_repeat_one() {
    on_every_store(|store| {
        store.commit(&queue(&[row("m", "did:a", 9)])).unwrap();
        let message = "message m is in the outbox already, expected a new id";
        refused_whole(store, &queue(&[row("m", "did:b", 9)]), message);
        let twice = "message n is in the outbox already, expected a new id";
        refused_whole(
            store,
            &queue(&[row("n", "did:a", 9), row("n", "did:b", 9)]),
            twice,
        );
        let mut replace = queue(&[row("m", "did:b", 10)]);
        replace.retire = vec!["m".to_owned()];
        store.commit(&replace).unwrap();
        assert_eq!(store.outbox().unwrap(), [row("m", "did:b", 10)]);
    });
}

#[test]
fn a_message_is_seen_once_per_sender_and_its_answers_are_kept_byte_for_byte() {
    on_every_store(|store| {
        let answers: [&[u8]; 3] = [b"\x00\xff", b"", b"two"];
        store.commit(&seen("did:a", "1", 50, &answers)).unwrap();
        store.commit(&seen("did:b", "1", 60, &[])).unwrap();
        // Names that only a careless concatenation would mix up.
        store.commit(&seen("did:", "a1", 60, &[])).unwrap();
        let kept = store.seen("did:a", "1").unwrap().unwrap();
        assert_eq!(kept.answers, answers);
        assert_eq!(
            store.seen("did:b", "1").unwrap(),
            Some(Seen {
                expires: 60,
                answers: vec![]
            })
        );
        assert_eq!(store.seen("did:a", "2").unwrap(), None);
        let message = "message 1 of did:a was processed before, expected a new one";
        refused_whole(store, &seen("did:a", "1", 99, &[b"other"]), message);
        assert_eq!(store.seen("did:a", "1").unwrap(), Some(kept));
    });
}

#[test]
fn pruning_removes_what_has_expired_and_frees_its_place() {
    on_every_store(|store| {
        for (id, expires) in [("1", 10), ("2", 20), ("3", 21)] {
            store.commit(&seen("did:a", id, expires, &[])).unwrap();
            store.commit(&queue(&[row(id, "did:a", expires)])).unwrap();
        }
        refused_whole(
            store,
            &seen("did:a", "4", 30, &[]),
            "too many seen messages of did:a: expected at most 3",
        );
        let pruned = store.prune(20).unwrap();
        assert_eq!(
            (pruned.seen, pruned.outbox),
            (2, vec!["1".to_owned(), "2".to_owned()])
        );
        assert_eq!(ids(store), ["3"]);
        assert_eq!(store.seen("did:a", "2").unwrap(), None);
        assert!(store.seen("did:a", "3").unwrap().is_some());
        store.commit(&seen("did:a", "4", 30, &[])).unwrap();
        store.commit(&seen("did:a", "1", 30, &[])).unwrap();
        assert_eq!(store.prune(20).unwrap(), super::Pruned::default());
    });
}

#[test]
fn seen_messages_are_limited_per_sender_and_in_total() {
    on_every_store(|store| {
        for id in ["1", "2", "3"] {
            store.commit(&seen("did:a", id, 10, &[])).unwrap();
        }
        refused_whole(
            store,
            &seen("did:a", "4", 10, &[]),
            "too many seen messages of did:a: expected at most 3",
        );
        for id in ["1", "2"] {
            store.commit(&seen("did:b", id, 10, &[])).unwrap();
        }
        refused_whole(
            store,
            &seen("did:c", "1", 10, &[]),
            "too many seen messages: expected at most 5",
        );
        assert_eq!(store.commit(&events(&[b"still works"])).unwrap(), 1);
    });
}

#[test]
fn the_outbox_is_limited_per_peer_and_in_total() {
    on_every_store(|store| {
        store
            .commit(&queue(&[row("1", "did:a", 9), row("2", "did:a", 9)]))
            .unwrap();
        let two = queue(&[row("3", "did:a", 9), row("4", "did:a", 9)]);
        refused_whole(
            store,
            &two,
            "too many messages waiting for did:a: expected at most 3",
        );
        let mut in_exchange = two.clone();
        in_exchange.retire = vec!["1".to_owned(), "1".to_owned()];
        store.commit(&in_exchange).unwrap();
        store
            .commit(&queue(&[row("5", "did:b", 9), row("6", "did:b", 9)]))
            .unwrap();
        let total = "too many messages waiting for all peers: expected at most 5";
        refused_whole(store, &queue(&[row("7", "did:c", 9)]), total);
        store.commit(&retire(&["2"])).unwrap();
        store.commit(&queue(&[row("7", "did:c", 9)])).unwrap();
        assert_eq!(ids(store), ["3", "4", "5", "6", "7"]);
    });
}

type Change = fn(&mut OutboxRow, String);

#[test]
fn every_part_of_a_batch_is_limited_in_size() {
    let long = "x".repeat(21);
    let large = vec![0u8; 101];
    let mut cases: Vec<(Batch, String)> = vec![
        (
            events(&[&large]),
            "event has 101 bytes, expected at most 100".to_owned(),
        ),
        (
            seen("did:a", "1", 9, &[&large[..60], &large[..41]]),
            "answers to one message has 101 bytes, expected at most 100".to_owned(),
        ),
        (
            seen(&long, "1", 9, &[]),
            "sender has 21 bytes, expected at most 20".to_owned(),
        ),
        (
            seen("did:a", &long, 9, &[]),
            "message id has 21 bytes, expected at most 20".to_owned(),
        ),
    ];
    let changes: [(Change, &str); 5] = [
        (|row, long| row.id = long, "message id"),
        (|row, long| row.from = long, "sender"),
        (|row, long| row.to = long, "recipient"),
        (|row, long| row.kind = long, "message type"),
        (|row, long| row.thid = long, "thread id"),
    ];
    for (change, what) in changes {
        let mut longer = row("1", "did:a", 9);
        change(&mut longer, long.clone());
        cases.push((
            queue(&[longer]),
            format!("{what} has 21 bytes, expected at most 20"),
        ));
    }
    let mut packed = row("1", "did:a", 9);
    packed.packed = large.clone();
    cases.push((
        queue(&[packed]),
        "packed message has 101 bytes, expected at most 100".to_owned(),
    ));
    let meta = |key: &str, value: &[u8]| Batch {
        meta: vec![(key.to_owned(), value.to_vec())],
        ..Batch::default()
    };
    cases.push((
        meta(&long, b""),
        "metadata key has 21 bytes, expected at most 20".to_owned(),
    ));
    cases.push((
        meta("k", &large),
        "metadata value has 101 bytes, expected at most 100".to_owned(),
    ));
    on_every_store(|store| {
        for (batch, message) in &cases {
            refused_whole(store, batch, message);
        }
    });
}

#[test]
fn strangers_fill_half_of_the_seen_messages_and_partners_the_rest() {
    on_every_store(|store| {
        let of = |sender: &str, privileged: bool| {
            let mut batch = seen(sender, "1", 10, &[]);
            batch.seen.as_mut().unwrap().privileged = privileged;
            batch
        };
        for sender in ["a", "b", "c"] {
            store.commit(&of(sender, false)).unwrap();
        }
        let refused = store.commit(&of("d", false)).unwrap_err();
        assert!(
            matches!(refused, StoreError::Full { limit: 3, .. }),
            "{refused}"
        );
        store.commit(&of("e", true)).unwrap();
        store.commit(&of("f", true)).unwrap();
        let refused = store.commit(&of("g", true)).unwrap_err();
        assert!(
            matches!(refused, StoreError::Full { limit: 5, .. }),
            "{refused}"
        );
    });
}
