//! A coordinator's state: what replaying its log gives.

use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::{Index, LeafValue, Root};
use bitcoin::{BlockHash, Transaction, TxOut, Txid};

use super::event::Event;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::Fund;
use crate::message::{SpentOutput, Subscribe};
use crate::musig::{BeaconKey, sighashes};
use crate::terms::AgreedTerms;
use crate::values::{AggregatedNonce, CohortKey, PartialSignature, PublicNonce};

/// Everything that a coordinator knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Peers that hear of cohorts.
    pub subscribers: BTreeMap<PeerId, Subscribe>,
    /// All cohorts, those that failed included.
    pub cohorts: BTreeMap<CohortId, Cohort>,
}

/// Where a cohort stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Open to opt-ins.
    Advertised,
    /// Membership is frozen; waiting for every member's acknowledgement.
    Set,
    /// Every member agreed: it may be funded, and signs.
    Acknowledged,
    /// Never set.
    Failed(String),
}

/// One cohort.
#[derive(Clone, Debug, PartialEq)]
pub struct Cohort {
    /// Its id.
    pub id: CohortId,
    /// Its terms.
    pub terms: AgreedTerms,
    /// Peers that may join where the terms say "invited".
    pub invited: BTreeSet<PeerId>,
    /// Where it stands.
    pub phase: Phase,
    /// Those who opted in.
    pub members: BTreeMap<PeerId, Member>,
    /// The aggregate of the members' keys, once the cohort is set.
    pub beacon: Option<BeaconKey>,
    /// Unspent outputs of the beacon address, as last seen.
    pub funds: Vec<Fund>,
    /// The round that is open or comes next.
    pub round: Round,
    /// The session that is under way.
    pub session: Option<Session>,
    /// Transactions for which nonces were aggregated, signed or not, that may still be mined or are mined; oldest first.
    pub signals: Vec<Signal>,
    /// Why sessions ended without a signature, newest last; the last 32.
    pub abandoned: Vec<Abandoned>,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its key of this cohort.
    pub key: CohortKey,
    /// The indexes it answers for.
    pub indexes: BTreeSet<Index>,
    /// Whether it recomputed and agreed.
    pub acknowledged: bool,
}

/// One round: leaves are collected, a root is made, sessions try to sign it.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Counted from 1.
    pub number: u64,
    /// The leaves given so far.
    pub leaves: BTreeMap<Index, LeafValue>,
    /// How many of them came as updates.
    pub updates: u64,
    /// When the first update came.
    pub first_update: Option<Timestamp>,
    /// When the round before it ended, or the cohort was set.
    pub since: Timestamp,
    /// Whether the operator wants it now.
    pub requested: bool,
    /// What it is doing.
    pub stage: Stage,
    /// Sessions that were abandoned in it since the operator last asked.
    pub failures: u32,
}

/// What a round is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for its trigger.
    Waiting,
    /// Frozen; members that have not answered are asked until the deadline.
    Open {
        /// When answers must be there.
        deadline: Timestamp,
    },
    /// All the leaves there will be.
    Closed {
        /// Not before this moment is a session started.
        not_before: Timestamp,
    },
    /// The operator must decide.
    Stopped {
        /// Why.
        reason: String,
    },
}

impl Round {
    fn new(number: u64, since: Timestamp) -> Self {
        Self {
            number,
            leaves: BTreeMap::new(),
            updates: 0,
            first_update: None,
            since,
            requested: false,
            stage: Stage::Waiting,
            failures: 0,
        }
    }
}

/// A session that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The round it tries to sign.
    pub round: u64,
    /// The signal bytes.
    pub root: Root,
    /// Unsigned.
    pub tx: Transaction,
    /// What the inputs spend.
    pub spent: Vec<SpentOutput>,
    /// One for each input.
    pub sighashes: Vec<[u8; 32]>,
    /// When the present phase ends.
    pub deadline: Timestamp,
    /// Public nonces, by member.
    pub nonces: BTreeMap<PeerId, Vec<PublicNonce>>,
    /// Once all are in.
    pub aggregated: Option<Vec<AggregatedNonce>>,
    /// Partial signatures, by member.
    pub partials: BTreeMap<PeerId, Vec<PartialSignature>>,
}

/// A transaction that members may have signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: u64,
    /// The signal bytes.
    pub root: Root,
    /// With witnesses once it is signed.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// Where it stands.
    pub standing: Standing,
    /// When it was last given to the network.
    pub tried: Option<Timestamp>,
    /// The network's reason, if it refused.
    pub refusal: Option<String>,
}

/// Where a signal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nonces are out; nobody is known to hold all partial signatures.
    Unsigned,
    /// Signed, and not yet known to the network.
    Signed,
    /// In the mempool.
    Broadcast,
    /// In a block.
    Confirmed {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
    /// As deep as the terms want.
    Buried {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
}

/// A session without a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// The session.
    pub session: SessionId,
    /// Its round.
    pub round: u64,
    /// Why.
    pub code: String,
    /// Whose doing.
    pub culprit: Option<PeerId>,
    /// For people.
    pub comment: String,
}

/// Abandoned sessions that a cohort remembers.
const MAX_ABANDONED: usize = 32;

/// Seconds before a round is tried again, times the attempts so far.
const RETRY_DELAY_S: u64 = 2;

impl Cohort {
    /// All registered indexes.
    pub fn indexes(&self) -> impl Iterator<Item = &Index> {
        self.members.values().flat_map(|member| &member.indexes)
    }

    /// Registered indexes without a leaf in this round.
    pub fn unanswered<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a Index> {
        member
            .indexes
            .iter()
            .filter(|index| !self.round.leaves.contains_key(index))
    }

    /// Transactions that may still be mined, or be replaced by a reorganisation.
    pub fn live(&self) -> Vec<&Transaction> {
        let live = self
            .signals
            .iter()
            .filter(|signal| !matches!(signal.standing, Standing::Buried { .. }));
        live.map(|signal| &signal.tx).collect()
    }

    /// The signal of this transaction.
    pub fn signal(&self, txid: Txid) -> Option<&Signal> {
        self.signals.iter().find(|signal| signal.txid == txid)
    }

    /// Sum of the funds that are in blocks, sat.
    pub fn confirmed_balance(&self) -> u64 {
        self.funds
            .iter()
            .filter(|fund| fund.height.is_some())
            .map(|fund| fund.value)
            .sum()
    }

    /// Sessions of the round that ended without a signature.
    fn end_session(&mut self, id: SessionId) -> Option<Session> {
        self.session.take_if(|session| session.id == id)
    }

    fn signal_mut(&mut self, txid: Txid) -> Option<&mut Signal> {
        self.signals.iter_mut().find(|signal| signal.txid == txid)
    }
}

impl State {
    /// Changes the state by one event. An event that refers to what is not there changes nothing: the machine never
    /// writes one.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Subscribed { peer, filter } => {
                self.subscribers.insert(peer.clone(), filter.clone());
            }
            Event::Unsubscribed { peer } => {
                self.subscribers.remove(peer);
            }
            Event::CohortAdvertised {
                cohort,
                terms,
                invited,
                at,
            } => {
                self.cohorts.insert(
                    *cohort,
                    Cohort {
                        id: *cohort,
                        terms: terms.clone(),
                        invited: invited.clone(),
                        phase: Phase::Advertised,
                        members: BTreeMap::new(),
                        beacon: None,
                        funds: Vec::new(),
                        round: Round::new(1, *at),
                        session: None,
                        signals: Vec::new(),
                        abandoned: Vec::new(),
                    },
                );
            }
            event => {
                if let Some(cohort) = event.cohort().and_then(|id| self.cohorts.get_mut(&id)) {
                    cohort.apply(event);
                }
            }
        }
    }
}

impl Cohort {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::OptedIn {
                peer, key, indexes, ..
            } => {
                let member = Member {
                    key: *key,
                    indexes: indexes.clone(),
                    acknowledged: false,
                };
                self.members.insert(peer.clone(), member);
            }
            Event::OptedOut { peer, .. } => {
                self.members.remove(peer);
            }
            Event::CohortSet { at, .. } => {
                self.beacon =
                    BeaconKey::aggregate(self.members.values().map(|member| member.key)).ok();
                self.phase = Phase::Set;
                self.round.since = *at;
            }
            Event::CohortFailed { reason, .. } => self.phase = Phase::Failed(reason.clone()),
            Event::Acknowledged { peer, .. } => {
                if let Some(member) = self.members.get_mut(peer) {
                    member.acknowledged = true;
                }
                if self.members.values().all(|member| member.acknowledged) {
                    self.phase = Phase::Acknowledged;
                }
            }
            Event::IndexesRegistered { peer, indexes, .. } => {
                if let Some(member) = self.members.get_mut(peer) {
                    member.indexes.extend(indexes.iter().copied());
                }
            }
            Event::FundsSeen { funds, .. } => self.funds.clone_from(funds),
            Event::LeavesGiven {
                leaves, update, at, ..
            } => {
                for leaf in leaves {
                    self.round.leaves.insert(leaf.index, leaf.value);
                }
                if *update {
                    self.round.updates += leaves.len() as u64;
                    self.round.first_update.get_or_insert(*at);
                }
            }
            event => self.apply_signing(event),
        }
    }

    fn apply_signing(&mut self, event: &Event) {
        match event {
            Event::RoundRequested { .. } => {
                self.round.requested = true;
                self.round.failures = 0;
                if matches!(self.round.stage, Stage::Stopped { .. }) {
                    self.round.stage = Stage::Waiting;
                }
            }
            Event::RoundOpened { deadline, .. } => {
                self.round.stage = Stage::Open {
                    deadline: *deadline,
                }
            }
            Event::RoundClosed { .. } => {
                self.round.stage = Stage::Closed {
                    not_before: Timestamp::default(),
                };
            }
            Event::RoundStopped { reason, .. } => {
                self.round.stage = Stage::Stopped {
                    reason: reason.clone(),
                };
                self.round.requested = false;
            }
            Event::SessionStarted {
                session,
                round,
                root,
                tx,
                spent,
                deadline,
                ..
            } => {
                let outputs: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
                self.session = Some(Session {
                    id: *session,
                    round: *round,
                    root: *root,
                    tx: tx.clone(),
                    spent: spent.clone(),
                    sighashes: sighashes(tx, &outputs).unwrap_or_default(),
                    deadline: *deadline,
                    nonces: BTreeMap::new(),
                    aggregated: None,
                    partials: BTreeMap::new(),
                });
            }
            Event::NonceGiven { peer, nonces, .. } => {
                if let Some(session) = &mut self.session {
                    session.nonces.insert(peer.clone(), nonces.clone());
                }
            }
            Event::NoncesAggregated {
                nonces, deadline, ..
            } => self.nonces_aggregated(nonces, *deadline),
            Event::PartialGiven { peer, partials, .. } => {
                if let Some(session) = &mut self.session {
                    session.partials.insert(peer.clone(), partials.clone());
                }
            }
            Event::SessionSigned {
                session, tx, at, ..
            } => self.session_signed(*session, tx, *at),
            Event::SessionAbandoned {
                session,
                code,
                culprit,
                comment,
                at,
                ..
            } => {
                if let Some(ended) = self.end_session(*session) {
                    self.round.failures += 1;
                    let delay = RETRY_DELAY_S * u64::from(self.round.failures);
                    self.round.stage = Stage::Closed {
                        not_before: at.after(delay),
                    };
                    self.abandoned.push(Abandoned {
                        session: *session,
                        round: ended.round,
                        code: code.clone(),
                        culprit: culprit.clone(),
                        comment: comment.clone(),
                    });
                    let surplus = self.abandoned.len().saturating_sub(MAX_ABANDONED);
                    self.abandoned.drain(..surplus);
                }
            }
            event => self.apply_chain(event),
        }
    }

    fn nonces_aggregated(&mut self, nonces: &[AggregatedNonce], deadline: Timestamp) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.aggregated = Some(nonces.to_vec());
        session.deadline = deadline;
        let txid = session.tx.compute_txid();
        if self.signals.iter().any(|signal| signal.txid == txid) {
            return; // A retry of the same transaction.
        }
        let signal = Signal {
            session: session.id,
            round: session.round,
            root: session.root,
            tx: session.tx.clone(),
            txid,
            standing: Standing::Unsigned,
            tried: None,
            refusal: None,
        };
        self.signals.push(signal);
    }

    fn session_signed(&mut self, id: SessionId, tx: &Transaction, at: Timestamp) {
        self.end_session(id);
        if let Some(signal) = self.signal_mut(tx.compute_txid()) {
            signal.session = id;
            signal.tx = tx.clone();
            signal.standing = Standing::Signed;
        }
        self.round = Round::new(self.round.number + 1, at);
    }

    fn apply_chain(&mut self, event: &Event) {
        match event {
            Event::BroadcastTried { txid, at, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.tried = Some(*at);
                }
            }
            Event::SignalBroadcast { txid, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.standing = Standing::Broadcast;
                    signal.refusal = None;
                }
            }
            Event::BroadcastRefused { txid, reason, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.refusal = Some(reason.clone());
                }
            }
            Event::SignalConfirmed {
                txid,
                height,
                block_hash,
                ..
            } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.standing = Standing::Confirmed {
                        height: *height,
                        block_hash: *block_hash,
                    };
                }
            }
            Event::SignalGone { txid, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.standing = Standing::Signed;
                    signal.tried = None;
                }
            }
            Event::SignalBuried { txid, .. } => self.buried(*txid),
            _ => {}
        }
    }

    /// A buried transaction is live no more, and neither are those that it conflicts with.
    fn buried(&mut self, txid: Txid) {
        let Some(signal) = self.signal_mut(txid) else {
            return;
        };
        if let Standing::Confirmed { height, block_hash } = signal.standing {
            signal.standing = Standing::Buried { height, block_hash };
        }
        let spent: Vec<_> = signal
            .tx
            .input
            .iter()
            .map(|input| input.previous_output)
            .collect();
        self.signals.retain(|other| {
            other.txid == txid
                || !other
                    .tx
                    .input
                    .iter()
                    .any(|input| spent.contains(&input.previous_output))
        });
    }
}

impl Event {
    /// The cohort that the event belongs to.
    pub fn cohort(&self) -> Option<CohortId> {
        match self {
            Self::Subscribed { .. } | Self::Unsubscribed { .. } => None,
            Self::CohortAdvertised { cohort, .. }
            | Self::OptedIn { cohort, .. }
            | Self::OptedOut { cohort, .. }
            | Self::CohortSet { cohort, .. }
            | Self::CohortFailed { cohort, .. }
            | Self::Acknowledged { cohort, .. }
            | Self::IndexesRegistered { cohort, .. }
            | Self::FundsSeen { cohort, .. }
            | Self::LeavesGiven { cohort, .. }
            | Self::RoundRequested { cohort }
            | Self::RoundOpened { cohort, .. }
            | Self::RoundClosed { cohort, .. }
            | Self::RoundStopped { cohort, .. }
            | Self::SessionStarted { cohort, .. }
            | Self::NonceGiven { cohort, .. }
            | Self::NoncesAggregated { cohort, .. }
            | Self::PartialGiven { cohort, .. }
            | Self::SessionSigned { cohort, .. }
            | Self::SessionAbandoned { cohort, .. }
            | Self::BroadcastTried { cohort, .. }
            | Self::SignalBroadcast { cohort, .. }
            | Self::BroadcastRefused { cohort, .. }
            | Self::SignalConfirmed { cohort, .. }
            | Self::SignalGone { cohort, .. }
            | Self::SignalBuried { cohort, .. } => Some(*cohort),
        }
    }
}
