//! What all nodes share: time, the network between them, the chain, and a record of what happened.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::{BroadcastOutcome, ChainFact, Watches};
use beacon_cohort::signer::SignerRequest;
use bitcoin::Transaction;
use tokio::time::Instant;

use super::chain::Chain;
use super::dice::Dice;
use super::network::Network;
use super::settings::Faults;
use super::witness::Witness;

/// Position of a node: 0 is the coordinator, members follow.
pub(super) type NodeId = usize;

/// The coordinator's position.
pub(super) const COORDINATOR: NodeId = 0;

/// Unix seconds at which virtual time begins; any will do.
const EPOCH_S: u64 = 1_900_000_000;

/// The DID of a node.
pub(super) fn peer(node: NodeId) -> PeerId {
    PeerId::new(format!("did:example:{node}"))
}

/// The node of a DID.
pub(super) fn node_of(peer: &PeerId) -> Option<NodeId> {
    peer.as_str().strip_prefix("did:example:")?.parse().ok()
}

/// A node's name in the transcript.
pub(super) struct Name(pub(super) NodeId);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            COORDINATOR => f.write_str("C"),
            member => write!(f, "P{member}"),
        }
    }
}

/// What crosses the network. Its sender is known, as an authenticated envelope makes it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// For the transcript.
    pub(super) kind: String,
    pub(super) packed: Rc<[u8]>,
}

/// What happens at a moment. Where a node is named with its run, what it concerned ended with that run of its
/// process.
pub(super) enum Happening {
    /// A frame reaches a node, on the socket that was the participant's newest when it left.
    Arrival {
        to: NodeId,
        frame: Frame,
        socket: u32,
    },
    /// A node has a new connection to a peer: what waits for it is sent at once.
    Connected { node: NodeId, peer: NodeId },
    /// A signer carries a request out.
    Signer {
        node: NodeId,
        run: u32,
        request: SignerRequest,
    },
    /// A machine's deadline.
    Deadline { node: NodeId, run: u32 },
    /// A look into the outbox.
    Resend { node: NodeId, run: u32 },
    /// A node asks its chain source.
    Poll { node: NodeId, run: u32 },
    /// A node gives a transaction to the network.
    Broadcast {
        node: NodeId,
        run: u32,
        tx: Transaction,
    },
    /// A process starts.
    Start { node: NodeId },
    /// A block is found.
    Block,
    /// Users look at what there is to do.
    Users,
}

impl Happening {
    /// The node that it concerns.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Arrival { to: node, .. }
            | Self::Connected { node, .. }
            | Self::Signer { node, .. }
            | Self::Deadline { node, .. }
            | Self::Resend { node, .. }
            | Self::Poll { node, .. }
            | Self::Broadcast { node, .. }
            | Self::Start { node } => Some(*node),
            Self::Block | Self::Users => None,
        }
    }

    /// The run of the process to which it belongs.
    pub(super) fn run(&self) -> Option<u32> {
        match self {
            Self::Signer { run, .. }
            | Self::Deadline { run, .. }
            | Self::Resend { run, .. }
            | Self::Poll { run, .. }
            | Self::Broadcast { run, .. } => Some(*run),
            Self::Arrival { .. }
            | Self::Connected { .. }
            | Self::Start { .. }
            | Self::Block
            | Self::Users => None,
        }
    }
}

/// What a disk does with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// It is written, for good.
    Sound,
    /// Refused as a whole: a limit.
    Refuses,
    /// The agent is told of an error, and cannot know whether it is written. It stops.
    Fails { written: bool },
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) corrupted: u64,
    pub(super) restarts: u64,
    pub(super) restored: u64,
    pub(super) broken_lines: u64,
    pub(super) disk_faults: u64,
    pub(super) reorganisations: u64,
}

pub(super) struct World {
    /// Milliseconds since the beginning.
    pub(super) clock: u64,
    /// The beginning, as a moment of a clock that only differences are taken of.
    beginning: Instant,
    pub(super) chain: Chain,
    pub(super) dice: Dice,
    pub(super) faults: Faults,
    pub(super) witness: Witness,
    pub(super) tally: Tally,
    pub(super) transcript: VecDeque<String>,
    queue: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    pub(super) network: Network,
    /// Whether an attacker keeps the coordinator's transactions to itself.
    pub(super) withholds: bool,
    /// By how many seconds each node's clock is wrong.
    pub(super) skew: BTreeMap<NodeId, i64>,
}

/// Lines of the transcript that are kept.
const TRANSCRIPT_LINES: usize = 50_000;

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            clock: 0,
            beginning: Instant::now(),
            chain: Chain::new(),
            dice: Dice::new(seed),
            faults,
            witness: Witness::default(),
            tally: Tally::default(),
            transcript: VecDeque::new(),
            queue: BTreeMap::new(),
            scheduled: 0,
            network: Network::default(),
            withholds: false,
            skew: BTreeMap::new(),
        }
    }

    /// Sets members' clocks wrong by up to `most` seconds, either way. The coordinator's is right.
    pub(super) fn set_clocks(&mut self, members: usize, most: u64) {
        if most > 0 {
            for member in 1..=members {
                let off = self.dice.between(0, 2 * most).cast_signed() - most.cast_signed();
                self.skew.insert(member, off);
            }
        }
    }

    /// What a node's clock shows.
    pub(super) fn now(&self, node: NodeId) -> Timestamp {
        let skew = self.skew.get(&node).copied().unwrap_or_default();
        Timestamp((EPOCH_S + self.clock / 1_000).saturating_add_signed(skew))
    }

    /// This moment, for what counts in durations.
    pub(super) fn instant(&self) -> Instant {
        self.beginning + Duration::from_millis(self.clock)
    }

    /// Milliseconds from the beginning to another moment.
    pub(super) fn clock_at(&self, moment: Instant) -> u64 {
        let passed = moment.saturating_duration_since(self.beginning);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets something happen, `delay` milliseconds from now.
    pub(super) fn schedule(&mut self, delay: u64, happening: Happening) {
        self.scheduled += 1;
        self.queue
            .insert((self.clock + delay, self.scheduled), happening);
    }

    /// Lets a machine's deadline happen, by its own clock.
    pub(super) fn schedule_at(&mut self, node: NodeId, moment: Timestamp, happening: Happening) {
        let skew = self.skew.get(&node).copied().unwrap_or_default();
        let right = moment.0.saturating_add_signed(-skew);
        let at = right.saturating_sub(EPOCH_S).saturating_mul(1_000);
        self.schedule(at.saturating_sub(self.clock), happening);
    }

    /// Moves on to whatever is next.
    pub(super) fn next(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.queue.pop_first()?;
        self.clock = at;
        Some(happening)
    }

    /// Adds a line to the transcript.
    pub(super) fn note(&mut self, line: fmt::Arguments<'_>) {
        if self.transcript.len() == TRANSCRIPT_LINES {
            self.transcript.pop_front();
        }
        let (seconds, rest) = (self.clock / 1_000, self.clock % 1_000);
        self.transcript
            .push_back(format!("{seconds:>6}.{rest:03} {line}"));
    }

    /// How a node's disk takes the next commit.
    pub(super) fn disk(&mut self) -> Disk {
        let disk = if self.dice.hits(self.faults.store_full) {
            Disk::Refuses
        } else if self.dice.hits(self.faults.disk_error) {
            let written = self.dice.hits(500);
            Disk::Fails { written }
        } else {
            return Disk::Sound;
        };
        self.tally.disk_faults += 1;
        disk
    }

    /// Whether a node ever had an attacker at its line.
    pub(super) fn is_dishonest(&self, node: NodeId) -> bool {
        self.network.guard.dishonest.contains(&node)
    }

    /// Milliseconds until the next block.
    pub(super) fn block_interval(&mut self) -> u64 {
        if self.faults.any() {
            self.dice.between(5_000, 40_000)
        } else {
            15_000
        }
    }

    /// Finds a block, or has the last ones replaced.
    pub(super) fn block(&mut self, max_depth: u32) {
        if self.dice.hits(self.faults.reorganisation) {
            let depth = u32::try_from(self.dice.between(1, u64::from(max_depth))).unwrap_or(1);
            self.chain.reorganise(depth);
            self.tally.reorganisations += 1;
            let evicted = self.dice.hits(500);
            if evicted {
                self.chain.evict();
            }
            let tip = self.chain.tip();
            self.note(format_args!(
                "reorganisation, {depth} deep, mempool evicted: {evicted}, height {tip}"
            ));
        } else {
            self.chain.mine();
            let tip = self.chain.tip();
            self.note(format_args!("block at height {tip}"));
        }
    }

    /// Gives a transaction to the chain, unless the source does not answer.
    pub(super) fn broadcast(&mut self, tx: Transaction) -> BroadcastOutcome {
        let txid = tx.compute_txid();
        let outcome = if self.withholds || self.dice.hits(self.faults.outage) {
            BroadcastOutcome::Unavailable
        } else {
            self.chain.submit(tx)
        };
        self.note(format_args!("broadcast of {txid}: {outcome:?}"));
        outcome
    }

    /// What a node's chain source says, unless it does not answer.
    pub(super) fn ask_chain(&mut self, watches: &Watches) -> Option<Vec<ChainFact>> {
        (!self.dice.hits(self.faults.outage)).then(|| self.chain.facts(watches))
    }
}
