//! What an agent must remember: its event log, the messages it still has to deliver, and the messages it has seen.
//!
//! All of it changes together or not at all: one [`Batch`] is one transaction, durable when [`Store::commit`] returns
//! (design.md section 3, step 4). Only after that may the agent change its state or send anything. So after a crash the log, the
//! outbox and the seen messages always tell the same story.
//!
//! The store deals in bytes and strings. It knows neither what an event means nor who a peer is, and it has no clock.
//!
//! # Limits
//!
//! [`StoreLimits`] bounds how many rows a peer, and all peers together, may cause. A commit that would exceed one is refused
//! as a whole with [`StoreError::Full`]: nothing of it is written, the store stays usable, and [`StoreError::is_refusal`] says
//! so. Events have no limit here: what must be recorded to finish what has begun is never refused. [`Store::log_size`] says how
//! many there are, and the driver begins nothing new when they are too many.
//!
//! # After a failure
//!
//! Any other error of a commit leaves open whether the batch is on the disk. The agent must stop: what is true is
//! found out by opening the store again.

mod durable;
mod memory;
mod usage;

#[cfg(test)]
mod contract;

use std::path::PathBuf;

pub use durable::{FORMAT_VERSION, RedbStore};
pub use memory::MemoryStore;

/// An agent's memory. See the [module documentation](self).
pub trait Store: Send {
    /// The events with a sequence number of at least `from`, in order. Numbers begin at 1 and have no gaps; the first ones
    /// may be gone, see [`compact`](Self::compact).
    fn events(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;

    /// Writes all of `batch`, or nothing of it where this returns an error for which [`StoreError::is_refusal`] holds.
    ///
    /// On success it is on the disk, and the sequence number of the last event in the log is returned (0 for an empty log).
    /// Rows are retired before new ones are added, so a batch may replace an outbox row. Retiring an unknown id does nothing.
    fn commit(&mut self, batch: &Batch) -> Result<u64, StoreError>;

    /// How much the events take that are there. Costs nothing to ask.
    fn log_size(&self) -> LogSize;

    /// The newest snapshot, if one was ever made.
    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError>;

    /// Replaces the snapshot by one of the state after the last event, and removes all events but the newest `keep`, durably.
    ///
    /// Whatever must be kept for ever has to be in the state: the events are the history of it, and a history may end.
    fn compact(&mut self, snapshot: &[u8], keep: u64) -> Result<(), StoreError>;

    /// What was stored when message `id` of `sender` was processed; none if it never was, or so long ago that it was pruned.
    fn seen(&self, sender: &str, id: &str) -> Result<Option<Seen>, StoreError>;

    /// All messages that still have to be delivered, oldest first.
    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError>;

    /// The value of a metadata key, see [`Batch::meta`].
    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Removes the seen messages and outbox rows with `expires` at or before `now` (Unix seconds), durably.
    ///
    /// A caller that allows for clock skew puts it into `expires` of what it commits.
    fn prune(&mut self, now: u64) -> Result<Pruned, StoreError>;
}

/// What one commit writes. The default is an empty batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Events to append, in order.
    pub events: Vec<Vec<u8>>,
    /// Messages to deliver. An id that waits already is refused, unless this batch retires it.
    pub outbox: Vec<OutboxRow>,
    /// Ids of outbox rows that need no more delivery.
    pub retire: Vec<String>,
    /// The message that led to this batch. One that was seen before is refused.
    pub seen: Option<SeenRow>,
    /// Metadata to set: small settings that are read at the start (key, value), in order.
    pub meta: Vec<(String, Vec<u8>)>,
}

/// How long a log is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Number of events.
    pub events: u64,
    /// Bytes of all of them, without what the database adds.
    pub bytes: u64,
}

impl LogSize {
    /// One more event.
    pub(crate) fn add(&mut self, event: &[u8]) {
        self.events += 1;
        self.bytes += event.len() as u64;
    }
}

/// The state after an event: what replaying the log up to it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of the last event in it.
    pub event: u64,
    /// The state, in the machine's form.
    pub state: Vec<u8>,
}

/// A message on its way to a peer. It stays until the protocol's progress or its expiry retires it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The message's id.
    pub id: String,
    /// The DID that sends it.
    pub from: String,
    /// The DID that it is for.
    pub to: String,
    /// The message's type.
    pub kind: String,
    /// Its thread.
    pub thid: String,
    /// Unix seconds from which on it is of no use.
    pub expires: u64,
    /// The encrypted message, sent as it is.
    pub packed: Vec<u8>,
}

/// A processed message, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRow {
    /// The proven sender's DID.
    pub sender: String,
    /// The message's id, unique per sender.
    pub id: String,
    /// Whether it may use the half of the table that is kept for those with whom something was agreed.
    pub privileged: bool,
    /// When to forget it and what to say if it comes again.
    pub seen: Seen,
}

/// What is remembered of a processed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Unix seconds from which on it may be forgotten: its own expiry plus the allowed clock skew.
    pub expires: u64,
    /// The encrypted answers, repeated byte for byte when the message comes again.
    pub answers: Vec<Vec<u8>>,
}

/// What [`Store::prune`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of seen messages forgotten.
    pub seen: usize,
    /// Ids of the outbox rows given up.
    pub outbox: Vec<String>,
}

/// How much may be stored. The defaults fit a coordinator with thousands of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Seen messages of one sender. A member sends about ten a round, and they are kept for about a day.
    pub seen_per_sender: usize,
    /// Seen messages of all senders. Rows that are not privileged are refused when half of them is used.
    pub seen_total: usize,
    /// Messages waiting for one peer.
    pub outbox_per_peer: usize,
    /// Messages waiting for all peers.
    pub outbox_total: usize,
    /// Bytes of one record: an event, a packed message, all answers to one message, a metadata value.
    pub record_bytes: usize,
    /// Bytes of one name: a DID, a message id, a type, a thread, a metadata key.
    pub name_bytes: usize,
    /// Bytes of a snapshot.
    pub snapshot_bytes: usize,
}

impl StoreLimits {
    fn check_snapshot(&self, snapshot: &[u8]) -> Result<(), StoreError> {
        if snapshot.len() <= self.snapshot_bytes {
            return Ok(());
        }
        Err(StoreError::TooLarge {
            what: "snapshot",
            got: snapshot.len(),
            limit: self.snapshot_bytes,
        })
    }
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            seen_per_sender: 4_096,
            seen_total: 262_144,
            outbox_per_peer: 256,
            outbox_total: 65_536,
            record_bytes: 16 << 20,
            name_bytes: 4_096,
            snapshot_bytes: 1 << 30,
        }
    }
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row limit is reached. A refusal.
    #[error("too many {what}: expected at most {limit}")]
    Full {
        /// Which rows, and whose.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// One record or name is too large. A refusal.
    #[error("{what} has {got} bytes, expected at most {limit}")]
    TooLarge {
        /// Which part of the batch.
        what: &'static str,
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The message was processed before. A refusal.
    #[error("message {id} of {sender} was processed before, expected a new one")]
    SeenBefore {
        /// Its sender.
        sender: String,
        /// Its id.
        id: String,
    },
    /// A message with this id waits already. A refusal.
    #[error("message {id} is in the outbox already, expected a new id")]
    QueuedBefore {
        /// Its id.
        id: String,
    },
    /// Another process has the file.
    #[error("store {path} is open in another process: stop that one first", path = path.display())]
    Busy {
        /// The store file.
        path: PathBuf,
    },
    /// The file is a database of something else.
    #[error("{path} is not a store of this program: move it away, or choose another data directory", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by another version of this program.
    #[error("store {path} has format {got}, expected {FORMAT_VERSION}: use the version of this program that wrote it", path = path.display())]
    Version {
        /// The store file.
        path: PathBuf,
        /// Its format version.
        got: u64,
    },
    /// The file is damaged.
    #[error("store {path} is damaged ({fault}): keep a copy of it, and restore a backup only together with the advice in docs/operations.md", path = path.display())]
    Corrupt {
        /// The store file.
        path: PathBuf,
        /// What does not fit.
        fault: String,
    },
    /// Reading or writing failed. After a failed commit it is unknown whether the batch is on the disk.
    #[error("store {path} failed: {source}: see that the disk works and has room, then start the agent again", path = path.display())]
    Failed {
        /// The store file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// An earlier commit failed, so the state in memory may not be the one on the disk.
    #[error("store {path} takes no more commits after one that failed: start the agent again", path = path.display())]
    Stopped {
        /// The store file.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether nothing was written and the store can go on. Otherwise the agent must stop.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::TooLarge { .. }
                | Self::SeenBefore { .. }
                | Self::QueuedBefore { .. }
        )
    }
}
