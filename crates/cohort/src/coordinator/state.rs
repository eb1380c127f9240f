//! A coordinator's state: what replaying its log gives.

use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::{Index, LeafValue, Root};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::FeeEstimate;
use crate::announcement::AnnouncedDid;
use crate::evidence::{Evidence, SignedNonces, SignedPartials};
use crate::hourly::Hourly;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::Fund;
use crate::message::{DidContest, Kind, SpentOutput, Subscribe};
use crate::musig::BeaconKey;
use crate::review::{DeclineCode, conflict};
use crate::terms::{AgreedTerms, BeaconType};
use crate::values::{AggregatedNonce, CohortKey, PublicNonce, StatementSignature, transaction_hex};

/// Everything that a coordinator knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Peers that hear of cohorts.
    pub subscribers: BTreeMap<PeerId, Subscribe>,
    /// Who changed its mind within the last hour: another filter, a subscription or a seat given up.
    #[serde(alias = "filter_changes")]
    pub changes: BTreeMap<PeerId, Hourly>,
    /// What the chain source expects a signal to pay, as far as it has said anything.
    #[serde(default)]
    pub fee_estimate: Option<FeeEstimate>,
    /// All cohorts, those that are over included.
    pub cohorts: BTreeMap<CohortId, Cohort>,
}

/// Where a cohort stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Open to opt-ins.
    Advertised,
    /// Membership is frozen; waiting for every member's acknowledgement.
    Set,
    /// Every member agreed: it may be funded, and signs.
    Acknowledged,
    /// It never came to be agreed on.
    Failed(String),
    /// It is over, though it was agreed on: its signals and funds are still watched.
    Dissolved(String),
}

/// One cohort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cohort {
    /// Its id.
    pub id: CohortId,
    /// Its terms.
    pub terms: AgreedTerms,
    /// When it was advertised.
    pub advertised: Timestamp,
    /// The cohort from whose members it was formed.
    pub succeeds: Option<CohortId>,
    /// The cohort that was formed from its members.
    pub successor: Option<CohortId>,
    /// Who was left behind when it was dissolved.
    pub without: BTreeSet<PeerId>,
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
    /// Who declined the last session, until that is judged.
    pub declines: Option<Declines>,
    /// Transactions for which nonces were aggregated, signed or not, that may still be mined or are mined; oldest first.
    pub signals: Vec<Signal>,
    /// The leaves of every round that has a transaction, kept for ever: proofs can be asked for again.
    pub trees: BTreeMap<u64, BTreeMap<Index, LeafValue>>,
    /// In a CAS cohort, where leaves are in the open: the DIDs of which updates were given, kept for ever.
    #[serde(default)]
    pub announced: BTreeMap<Index, AnnouncedDid>,
    /// Outputs of the beacon that are gone and that none of our transactions spends; the last 64.
    pub vanished: BTreeSet<OutPoint>,
    /// Outputs of the beacon that were spent by a transaction that we do not know; the last 64.
    pub foreign_spends: BTreeMap<OutPoint, Txid>,
    /// Why this state may be older than the cohort: no session is started until the operator says so.
    pub doubt: Option<String>,
    /// Rounds that members asked for before this log came to them, by member.
    #[serde(default)]
    pub later_rounds: BTreeMap<PeerId, u64>,
    /// Contests that are not settled, by index.
    #[serde(default)]
    pub contests: BTreeMap<Index, Contest>,
    /// Who contested within the last hour.
    #[serde(default)]
    pub contested: BTreeMap<PeerId, Hourly>,
    /// Who proved control of the DIDs of these indexes: they are nobody else's here, and in the cohorts that follow.
    #[serde(default)]
    pub proven: BTreeMap<Index, PeerId>,
    /// Who lost a contest, here or in a cohort before.
    #[serde(default)]
    pub excluded: BTreeSet<PeerId>,
    /// Why sessions ended without a signature, newest last; the last 32.
    pub abandoned: Vec<Abandoned>,
    /// Who failed, newest last; the last 256.
    pub strikes: Vec<Strike>,
}

/// A peer's claim to an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contest {
    /// Who.
    pub peer: PeerId,
    /// What it sent.
    pub body: DidContest,
    /// How often it was asked about.
    pub tries: u32,
    /// When it is asked about again.
    pub again: Timestamp,
}

/// The end of a contest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The contester controls the DID.
    Proven,
    /// It did not show that it does.
    Unproven,
    /// That could not be found out.
    Unavailable,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its key of this cohort.
    pub key: CohortKey,
    /// The indexes it answers for.
    pub indexes: BTreeSet<Index>,
    /// Its word that it holds the key, and brought it here: part of any evidence against it.
    pub proof: StatementSignature,
    /// Whether it recomputed and agreed.
    pub acknowledged: bool,
    /// How often it failed the cohort.
    pub strikes: u64,
    /// When it was struck last for a deadline that it missed.
    #[serde(default)]
    pub late: Option<Timestamp>,
    /// When it last gave a sign of life before the cohort was set; `None` where an older log does not say.
    pub seen: Option<Timestamp>,
}

/// Who declined a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declines {
    /// The session.
    pub session: SessionId,
    /// Whether the process was started during it.
    pub excused: bool,
    /// Codes, by member.
    pub by: BTreeMap<PeerId, String>,
    /// Members whose leaves came since: their proofs lacked them.
    #[serde(default)]
    pub late: BTreeSet<PeerId>,
    /// What the session was for.
    #[serde(default)]
    pub kind: Kind,
}

/// One round: leaves are collected, a root is made, sessions try to sign it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Sessions that were abandoned in it, and deadlines for answers that passed, since the operator last asked.
    pub failures: u32,
    /// Whether the process was started while answers were waited for.
    pub excused: bool,
    /// How often members declined a proof while an index of theirs had no answer: their leaf was on its way.
    pub crossed: BTreeMap<PeerId, usize>,
}

/// What a round is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Waiting for its trigger.
    Waiting,
    /// Frozen; members that have not answered are asked until the deadline.
    Open {
        /// When answers must be there.
        deadline: Timestamp,
    },
    /// Answers were missing at the deadline.
    Unanswered {
        /// When those who have not answered are asked again.
        again: Timestamp,
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
    pub(super) fn new(number: u64, since: Timestamp) -> Self {
        Self {
            number,
            leaves: BTreeMap::new(),
            updates: 0,
            first_update: None,
            since,
            requested: false,
            stage: Stage::Waiting,
            failures: 0,
            excused: false,
            crossed: BTreeMap::new(),
        }
    }
}

/// A session that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The round it tries to sign.
    pub round: u64,
    /// What for.
    #[serde(default)]
    pub kind: Kind,
    /// The transaction that it would replace.
    #[serde(default)]
    pub replaces: Option<Txid>,
    /// The signal bytes; `None` for a closing spend.
    #[serde(default)]
    pub root: Option<Root>,
    /// Unsigned.
    #[serde(with = "transaction_hex")]
    pub tx: Transaction,
    /// What the inputs spend.
    pub spent: Vec<SpentOutput>,
    /// One for each input.
    pub sighashes: Vec<[u8; 32]>,
    /// When the present phase ends.
    pub deadline: Timestamp,
    /// Public nonces, by member.
    pub nonces: BTreeMap<PeerId, GivenNonces>,
    /// Once all are in.
    pub aggregated: Option<Vec<AggregatedNonce>>,
    /// Partial signatures, by member.
    pub partials: BTreeMap<PeerId, SignedPartials>,
    /// Members that signed two different contributions to it.
    pub equivocated: BTreeSet<PeerId>,
    /// Whether the process was started during this phase.
    pub excused: bool,
    /// Whether a leaf came after the tree was built.
    pub outdated: bool,
}

/// A member's public nonces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenNonces {
    /// One for each input.
    pub nonces: Vec<PublicNonce>,
    /// Over [`crate::statement::nonces`].
    pub signature: StatementSignature,
}

impl GivenNonces {
    /// As evidence has them.
    pub(super) fn signed(&self) -> SignedNonces {
        SignedNonces {
            nonce_contributions: self.nonces.iter().map(|nonce| (*nonce).into()).collect(),
            signature: self.signature,
        }
    }
}

/// A member's failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strike {
    /// Whose.
    pub peer: PeerId,
    /// In which session, if in one.
    pub session: Option<SessionId>,
    /// What it was.
    pub code: String,
    /// When.
    pub at: Timestamp,
    /// What the member signed, where that convicts it.
    pub evidence: Option<Box<Evidence>>,
}

/// A transaction that members may have signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: u64,
    /// The signal bytes; `None` for a closing spend.
    #[serde(default)]
    pub root: Option<Root>,
    /// With witnesses once it is signed.
    #[serde(with = "transaction_hex")]
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// What the inputs spend.
    pub spent: Vec<SpentOutput>,
    /// What each member signed of it last, while others are missing.
    pub contributions: BTreeMap<PeerId, Contribution>,
    /// Where it stands.
    pub standing: Standing,
    /// When it was last given to the network.
    pub tried: Option<Timestamp>,
    /// How often it was given to the network since it was signed or left the chain.
    pub tries: u32,
    /// The network's reason, if it refused.
    pub refusal: Option<String>,
    /// How long it waits, and how its replacement goes.
    #[serde(default)]
    pub patience: Patience,
}

/// How long a signed signal waits for its first confirmation, and how its replacement goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Since when: it was signed, or left the chain.
    pub since: Timestamp,
    /// Sessions that would have replaced it and were abandoned.
    pub failures: u32,
    /// Not before this moment is another one started.
    pub not_before: Timestamp,
    /// Why the operator must decide.
    pub stopped: Option<String>,
}

/// A member's partial signatures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The session they were made in.
    pub session: SessionId,
    /// What was signed.
    pub signed: SignedPartials,
}

impl Signal {
    /// When it should be given to the network: half a minute after the last try, twice as long after each further one,
    /// and at least every hour.
    pub(super) fn due(&self) -> Timestamp {
        let wait = 15_u64.saturating_mul(1 << self.tries.min(8)).min(3_600);
        self.tried
            .map_or(Timestamp::default(), |tried| tried.after(wait))
    }

    /// Whether it closes the beacon, and announces nothing.
    pub fn is_close(&self) -> bool {
        self.root.is_none()
    }

    /// Whether the two are for the same: the signal of one round, or a close of the same outputs. At most one is mined.
    pub(super) fn is_version_of(&self, other: &Self) -> bool {
        match (self.is_close(), other.is_close()) {
            (false, false) => self.round == other.round,
            (true, true) => conflict(&self.tx, &other.tx),
            _ => false,
        }
    }

    /// Whether it has all its signatures.
    pub fn is_signed(&self) -> bool {
        self.standing != Standing::Unsigned
    }

    /// Whether it is in a block.
    pub fn is_mined(&self) -> bool {
        let standing = self.standing;
        matches!(
            standing,
            Standing::Confirmed { .. } | Standing::Buried { .. }
        )
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due() <= now
    }
}

/// Where a signal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Cohort {
    /// Whether it forms and signs no more.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Failed(_) | Phase::Dissolved(_))
    }

    /// What convicts members, oldest first.
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.strikes
            .iter()
            .filter_map(|strike| strike.evidence.as_deref())
    }

    /// Strikes with which a member is out.
    pub fn max_strikes(&self) -> u64 {
        self.terms.max_strikes.max(1)
    }

    /// Seconds that each phase takes at most.
    pub(super) fn phase_deadline_s(&self) -> u64 {
        self.terms.phase_deadline_s(self.members.len())
    }

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

    /// Whether the round's root may be on its way to the chain: no leaf may change any more, for a retry of the round
    /// carries the same root (docs/protocol.md, section "What outlives a session").
    pub fn root_is_fixed(&self) -> bool {
        let round = self.round.number;
        let mut signals = self.signals.iter();
        signals.any(|signal| signal.round == round && !signal.is_close())
    }

    /// Whether a decline of this code comes of a leaf that crossed the request: an index of the member had no answer when
    /// the tree was built. Believed in a round four times for each index of the member: a leaf can cross one session, and the
    /// word that it is refused the next ones.
    ///
    /// In a CAS cohort an update may also cross the word that the other indexes have none, which comes after it. That is
    /// believed four times, for every member has such an index in most rounds.
    pub(super) fn has_crossed(&self, peer: &PeerId, code: &str) -> bool {
        let times = self.round.crossed.get(peer).copied().unwrap_or_default();
        let may_have = |member: &Member| match self.terms.beacon_type {
            BeaconType::Smt => {
                times < 4 * member.indexes.len() && self.unanswered(member).next().is_some()
            }
            BeaconType::Cas => times < 4 && member.indexes.iter().any(|index| !self.updates(index)),
        };
        DeclineCode::lacks_a_leaf(code) && self.members.get(peer).is_some_and(may_have)
    }

    /// Whether this round has an update of the index, as far as that can be seen.
    pub(super) fn updates(&self, index: &Index) -> bool {
        let leaf = self.round.leaves.get(index);
        leaf.is_some_and(|value| *value != LeafValue::EMPTY)
    }

    /// Members that said to know a later round than this one, and which.
    pub fn claims(&self) -> impl Iterator<Item = (&PeerId, u64)> {
        let claims = self.later_rounds.iter();
        let later = claims.filter(|(_, round)| **round > self.round.number);
        later.map(|(peer, round)| (peer, *round))
    }

    /// Transactions that may still be mined, or be replaced by a reorganisation.
    pub fn live(&self) -> Vec<&Transaction> {
        let live = self
            .signals
            .iter()
            .filter(|signal| !matches!(signal.standing, Standing::Buried { .. }));
        live.map(|signal| &signal.tx).collect()
    }

    /// Whether a signal of this round is in a block.
    pub(super) fn is_mined(&self, round: u64) -> bool {
        let mut signals = self.signals.iter();
        signals.any(|signal| signal.round == round && !signal.is_close() && signal.is_mined())
    }

    /// Whether a signed signal spends this output. The funds last seen may be older than the signal, and a second
    /// spend of the output would drop the updates that the first announces. What a version spends beside which another
    /// one is in a block is free.
    pub fn is_spent(&self, outpoint: OutPoint) -> bool {
        let signed = self
            .signals
            .iter()
            .filter(|signal| signal.is_mined() || signal.is_signed() && !self.has_mined(signal));
        signed
            .flat_map(|signal| &signal.tx.input)
            .any(|input| input.previous_output == outpoint)
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
            .fold(0, |sum, fund| sum.saturating_add(fund.value))
    }
}
