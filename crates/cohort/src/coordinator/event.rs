//! What a coordinator remembers: its log.
//!
//! Compatibility: a log is kept for the life of its cohorts. New events and new optional members may be added;
//! nothing may be renamed, removed or given another meaning. `tests/golden/` holds the log of every released version,
//! and each must replay.

use std::collections::BTreeSet;

use beacon_signal::{Index, Root};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::state::Outcome;
use crate::evidence::Evidence;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::Fund;
use crate::message::{DidContest, Kind, Leaf, SpentOutput, Subscribe};
use crate::terms::AgreedTerms;
use crate::values::{
    AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature, transaction_hex,
};

/// One fact of a coordinator's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "members mean what their types and the messages of the same name document"
)]
pub enum Event {
    /// The process started while something was under way: whatever was late since, was late because of us.
    Restarted { at: Timestamp },
    /// The chain source expects another fee rate than it did.
    FeeEstimated { sat_vb: u64, at: Timestamp },
    /// A peer wants to hear of cohorts.
    Subscribed {
        peer: PeerId,
        filter: Subscribe,
        #[serde(default)]
        at: Timestamp,
    },
    /// It does no more.
    Unsubscribed { peer: PeerId },
    /// A cohort is open. `invited` matters where the terms admit invited peers only.
    CohortAdvertised {
        cohort: CohortId,
        terms: AgreedTerms,
        invited: BTreeSet<PeerId>,
        at: Timestamp,
        /// The cohort whose other members are invited to this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        succeeds: Option<CohortId>,
    },
    /// A peer joined.
    OptedIn {
        cohort: CohortId,
        peer: PeerId,
        key: CohortKey,
        indexes: BTreeSet<Index>,
        proof: StatementSignature,
        /// Absent in logs of versions that held seats for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
    /// The holder of a seat repeated its opt-in.
    SeatRenewed {
        cohort: CohortId,
        peer: PeerId,
        at: Timestamp,
    },
    /// The holder of a seat was silent for too long.
    SeatReleased { cohort: CohortId, peer: PeerId },
    /// A peer left before the cohort was set.
    OptedOut {
        cohort: CohortId,
        peer: PeerId,
        #[serde(default)]
        at: Timestamp,
    },
    /// Membership is frozen; keys and address follow from the members.
    CohortSet { cohort: CohortId, at: Timestamp },
    /// It will never be: too few members, or not all of them agree.
    CohortFailed { cohort: CohortId, reason: String },
    /// It is over, though every member had agreed, without these members.
    CohortDissolved {
        cohort: CohortId,
        without: BTreeSet<PeerId>,
        reason: String,
    },
    /// A member recomputed and agreed.
    Acknowledged { cohort: CohortId, peer: PeerId },
    /// A member answers for further indexes.
    IndexesRegistered {
        cohort: CohortId,
        peer: PeerId,
        indexes: BTreeSet<Index>,
    },
    /// A peer claims to control the DID of an index that another one answers for.
    IndexContested {
        cohort: CohortId,
        index: Index,
        peer: PeerId,
        contest: Box<DidContest>,
        at: Timestamp,
    },
    /// That is being found out once more.
    ContestAsked {
        cohort: CohortId,
        index: Index,
        at: Timestamp,
    },
    /// It was found out. Who lost is out of the cohort.
    ContestSettled {
        cohort: CohortId,
        index: Index,
        peer: PeerId,
        outcome: Outcome,
        reason: String,
    },
    /// The unspent outputs of the beacon address changed.
    FundsSeen { cohort: CohortId, funds: Vec<Fund> },
    /// A member's leaves of a round. `update` tells request_signature from no_update.
    LeavesGiven {
        cohort: CohortId,
        round: u64,
        peer: PeerId,
        leaves: Vec<Leaf>,
        update: bool,
        at: Timestamp,
    },
    /// The operator wants a round now, or another attempt at one that stopped.
    RoundRequested { cohort: CohortId },
    /// The index set is frozen and those who have not answered are asked.
    RoundOpened {
        cohort: CohortId,
        round: u64,
        deadline: Timestamp,
    },
    /// The deadline passed; indexes without an answer are left empty, as the terms allow.
    RoundClosed { cohort: CohortId, round: u64 },
    /// The deadline passed and the terms want every answer.
    RoundStopped {
        cohort: CohortId,
        round: u64,
        reason: String,
    },
    /// The deadline passed and the terms want every answer: those who are missing are asked again later.
    AnswersMissing {
        cohort: CohortId,
        round: u64,
        at: Timestamp,
    },
    /// A transaction was built and members are asked to sign it.
    SessionStarted {
        cohort: CohortId,
        session: SessionId,
        round: u64,
        #[serde(default, skip_serializing_if = "Kind::is_signal")]
        kind: Kind,
        /// The transaction that a replacement takes the place of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<Txid>,
        /// Absent where nothing is announced: a closing spend.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        #[serde(with = "transaction_hex")]
        tx: Transaction,
        outpoints: Vec<OutPoint>,
        spent: Vec<SpentOutput>,
        deadline: Timestamp,
    },
    /// A member's public nonces.
    NonceGiven {
        cohort: CohortId,
        session: SessionId,
        peer: PeerId,
        nonces: Vec<PublicNonce>,
        signature: StatementSignature,
    },
    /// All nonces are in. From here on the transaction may come to be signed without us.
    NoncesAggregated {
        cohort: CohortId,
        session: SessionId,
        nonces: Vec<AggregatedNonce>,
        deadline: Timestamp,
    },
    /// A member's partial signatures, verified.
    PartialGiven {
        cohort: CohortId,
        session: SessionId,
        peer: PeerId,
        partials: Vec<PartialSignature>,
        signature: StatementSignature,
    },
    /// The transaction is signed.
    SessionSigned {
        cohort: CohortId,
        session: SessionId,
        #[serde(with = "transaction_hex")]
        tx: Transaction,
        at: Timestamp,
    },
    /// The session is over without a signature.
    SessionAbandoned {
        cohort: CohortId,
        session: SessionId,
        code: String,
        culprit: Option<PeerId>,
        comment: String,
        at: Timestamp,
    },
    /// A replacement failed where trying again does not help: the operator decides.
    ReplacementStopped {
        cohort: CohortId,
        txid: Txid,
        reason: String,
    },
    /// A member declined a session that had ended by then.
    DeclineNoted {
        cohort: CohortId,
        session: SessionId,
        peer: PeerId,
        code: String,
    },
    /// Who declined the last session has been judged.
    DeclinesJudged {
        cohort: CohortId,
        session: SessionId,
    },
    /// A member failed its cohort. `code` as in the reason of a session's end, or `e.m.conflict` for two different
    /// contributions to one session.
    Struck {
        cohort: CohortId,
        peer: PeerId,
        session: Option<SessionId>,
        code: String,
        at: Timestamp,
        /// What it signed, where that convicts it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Box<Evidence>>,
    },
    /// The transaction was given to the network.
    BroadcastTried {
        cohort: CohortId,
        txid: Txid,
        at: Timestamp,
    },
    /// The network has the transaction.
    SignalBroadcast { cohort: CohortId, txid: Txid },
    /// The network refuses the transaction; it is tried again.
    BroadcastRefused {
        cohort: CohortId,
        txid: Txid,
        reason: String,
    },
    /// The transaction is in a block.
    SignalConfirmed {
        cohort: CohortId,
        txid: Txid,
        height: u32,
        block_hash: BlockHash,
        at: Timestamp,
    },
    /// The transaction left the chain.
    SignalGone {
        cohort: CohortId,
        txid: Txid,
        #[serde(default)]
        at: Timestamp,
    },
    /// An output of the beacon was spent by a transaction that is not in this log.
    ForeignSpend {
        cohort: CohortId,
        outpoint: OutPoint,
        txid: Txid,
    },
    /// A member asks for a round that this log has not come to. Its word alone stops nothing.
    LaterRoundClaimed {
        cohort: CohortId,
        peer: PeerId,
        round: u64,
    },
    /// The transaction is as deep as the terms want.
    SignalBuried {
        cohort: CohortId,
        txid: Txid,
        confirmations: u32,
    },
}

impl Event {
    /// What the operator must hear of at once, in one sentence.
    pub fn alarm(&self) -> Option<String> {
        match self {
            Self::ForeignSpend {
                cohort,
                outpoint,
                txid,
            } => Some(format!(
                "output {outpoint} of cohort {cohort} was spent by transaction {txid}, which this coordinator has no record \
                 of: its state is older than the cohort, or the terms' script tree was used. No session is started before you look at `cohort show {cohort}`"
            )),
            Self::LaterRoundClaimed {
                cohort,
                peer,
                round,
            } => Some(format!(
                "member {peer} of cohort {cohort} asks for round {round}, to which this coordinator has not come: it errs, or \
                 this state was restored from an old copy. The round goes on; see `cohort show {cohort}`"
            )),
            _ => None,
        }
    }

    /// The cohort that the event belongs to.
    pub fn cohort(&self) -> Option<CohortId> {
        match self {
            Self::Restarted { .. }
            | Self::FeeEstimated { .. }
            | Self::Subscribed { .. }
            | Self::Unsubscribed { .. } => None,
            Self::CohortAdvertised { cohort, .. }
            | Self::OptedIn { cohort, .. }
            | Self::OptedOut { cohort, .. }
            | Self::CohortSet { cohort, .. }
            | Self::CohortFailed { cohort, .. }
            | Self::SeatRenewed { cohort, .. }
            | Self::SeatReleased { cohort, .. }
            | Self::CohortDissolved { cohort, .. }
            | Self::Acknowledged { cohort, .. }
            | Self::IndexesRegistered { cohort, .. }
            | Self::IndexContested { cohort, .. }
            | Self::ContestAsked { cohort, .. }
            | Self::ContestSettled { cohort, .. }
            | Self::FundsSeen { cohort, .. }
            | Self::LeavesGiven { cohort, .. }
            | Self::RoundRequested { cohort }
            | Self::RoundOpened { cohort, .. }
            | Self::RoundClosed { cohort, .. }
            | Self::RoundStopped { cohort, .. }
            | Self::AnswersMissing { cohort, .. }
            | Self::SessionStarted { cohort, .. }
            | Self::NonceGiven { cohort, .. }
            | Self::NoncesAggregated { cohort, .. }
            | Self::PartialGiven { cohort, .. }
            | Self::SessionSigned { cohort, .. }
            | Self::SessionAbandoned { cohort, .. }
            | Self::ReplacementStopped { cohort, .. }
            | Self::DeclineNoted { cohort, .. }
            | Self::DeclinesJudged { cohort, .. }
            | Self::Struck { cohort, .. }
            | Self::ForeignSpend { cohort, .. }
            | Self::LaterRoundClaimed { cohort, .. }
            | Self::BroadcastTried { cohort, .. }
            | Self::SignalBroadcast { cohort, .. }
            | Self::BroadcastRefused { cohort, .. }
            | Self::SignalConfirmed { cohort, .. }
            | Self::SignalGone { cohort, .. }
            | Self::SignalBuried { cohort, .. } => Some(*cohort),
        }
    }
}
