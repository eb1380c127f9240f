//! What a participant remembers: its log. The same rules of compatibility hold as for the coordinator's.

use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::{Index, Proof, Root, UpdateId};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::state::{Offered, Unproven};
use crate::announcement::Announcement;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::message::Subscribe;
use crate::review::{OwnLeaf, ProposedSignal};
use crate::signer::KeyPath;
use crate::terms::AgreedTerms;
use crate::values::{
    AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature, transaction_hex,
};

/// One fact of a participant's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "members mean what their types and the messages of the same name document"
)]
pub enum Event {
    /// We want to hear of a coordinator's cohorts, under an identity that only it knows.
    Subscribed {
        coordinator: PeerId,
        own: PeerId,
        identity: u32,
        filter: Subscribe,
    },
    /// It agreed.
    SubscriptionAccepted {
        coordinator: PeerId,
        label: Option<String>,
    },
    /// No more.
    Unsubscribed { coordinator: PeerId },
    /// A cohort is open.
    ///
    /// `cohort` is our name for it, here and in all other events: its id, unless another coordinator has one of that
    /// id here already. Then `id` has the id.
    CohortAdvertised {
        cohort: CohortId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<CohortId>,
        coordinator: PeerId,
        terms: AgreedTerms,
        /// The dissolved cohort whose place it takes, by its coordinator's id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        succeeds: Option<CohortId>,
        #[serde(default)]
        at: Timestamp,
    },
    /// An advert that ended, or a cohort that we are out of, made room for others.
    CohortForgotten { cohort: CohortId },
    /// We want to join, with this key, answering for these DIDs.
    JoinRequested {
        cohort: CohortId,
        path: KeyPath,
        dids: BTreeMap<Index, String>,
    },
    /// The opt-in is on its way.
    OptedIn {
        cohort: CohortId,
        key: CohortKey,
        proof: StatementSignature,
        #[serde(default)]
        at: Timestamp,
    },
    /// It is sent again, so that our seat is kept, or to take one again.
    OptInRenewed { cohort: CohortId, at: Timestamp },
    /// The coordinator did not take it, or gave the cohort up before anything was signed.
    OptInRefused {
        cohort: CohortId,
        code: String,
        comment: String,
    },
    /// We left before the cohort was set.
    OptedOut { cohort: CohortId },
    /// We recomputed the address and agree.
    CohortAgreed {
        cohort: CohortId,
        keys: Vec<CohortKey>,
        address: String,
    },
    /// We do not agree with what was set.
    CohortRefused {
        cohort: CohortId,
        code: String,
        comment: String,
    },
    /// The coordinator says that it is over, though it was agreed on.
    CohortDissolved {
        cohort: CohortId,
        code: String,
        comment: String,
        #[serde(default)]
        at: Timestamp,
    },
    /// Updates that no signal announced wait in the cohort that took a dissolved one's place.
    UpdatesMoved {
        cohort: CohortId,
        to: CohortId,
        updates: BTreeMap<Index, UpdateId>,
    },
    /// We want to answer for further DIDs.
    RegistrationRequested {
        cohort: CohortId,
        dids: BTreeMap<Index, String>,
    },
    /// What the coordinator said to that.
    Registered {
        cohort: CohortId,
        accepted: Vec<Index>,
        refused: BTreeMap<Index, String>,
    },
    /// We claim a DID that another member answers for.
    ContestSent {
        cohort: CohortId,
        index: Index,
        did: String,
    },
    /// How that ended. Accepted: the index is ours, to opt in with or to register.
    ContestAnswered {
        cohort: CohortId,
        index: Index,
        accepted: bool,
        code: String,
    },
    /// The coordinator is asked what was signed in this round and later, and for the proofs of it.
    ProofsRequested {
        cohort: CohortId,
        from_round: u64,
        at: Timestamp,
    },
    /// It has answered.
    ProofsAnswered { cohort: CohortId },
    /// Something shows that our state is older than what was signed with our key, or that a second copy of us runs.
    /// Outputs of all our cohorts are in quarantine from here on.
    RollbackDetected {
        cohort: CohortId,
        evidence: RollbackEvidence,
        txid: Txid,
    },
    /// What we signed and forgot, with what proves it as far as that can be known.
    SignalAdopted {
        cohort: CohortId,
        session: SessionId,
        round: u64,
        #[serde(with = "transaction_hex")]
        tx: Transaction,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        proofs: BTreeMap<Index, Proof>,
        unproven: BTreeMap<Index, Unproven>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        map: Option<Announcement>,
    },
    /// Proofs, or the map, that came again, for something that is known.
    ProofsRecovered {
        cohort: CohortId,
        txid: Txid,
        proofs: BTreeMap<Index, Proof>,
        unproven: BTreeMap<Index, Unproven>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        map: Option<Announcement>,
    },
    /// The chain source has said which outputs there are: these are in quarantine, besides those known before.
    QuarantineFixed {
        cohort: CohortId,
        outputs: BTreeSet<OutPoint>,
    },
    /// The user takes the risk: the cohort signs again.
    RollbackConfirmed { cohort: CohortId },
    /// The user says which version of its DID document an update leads to.
    UpdateVersioned { update: UpdateId, version: u64 },
    /// The user wants an update announced, in the next round that has room for it.
    UpdateQueued {
        cohort: CohortId,
        index: Index,
        update: UpdateId,
    },
    /// Leaves of a round, with the nonces that must never be lost. They never change within a round.
    LeavesChosen {
        cohort: CohortId,
        round: u64,
        leaves: Vec<OwnLeaf>,
    },
    /// We are asked to sign; nothing is wrong with it so far.
    SignalProposed {
        cohort: CohortId,
        session: SessionId,
        proposal: Box<ProposedSignal>,
        approved: bool,
        deadline: Timestamp,
        #[serde(default)]
        at: Timestamp,
    },
    /// The user wants nonces and partial signatures of this cohort from a signer outside, or no more.
    SignerChosen { cohort: CohortId, outside: bool },
    /// The user brought public nonces that a signer outside made, and agrees with the signal, if everything holds.
    NoncesImported {
        cohort: CohortId,
        session: SessionId,
        nonces: Vec<PublicNonce>,
    },
    /// The coordinator is asked for a session's PSBT.
    PsbtRequested {
        cohort: CohortId,
        session: SessionId,
    },
    /// It came, and is about what we know.
    PsbtGiven {
        cohort: CohortId,
        session: SessionId,
        psbt: String,
    },
    /// The coordinator gives none, or one that is not about what we know.
    PsbtRefused {
        cohort: CohortId,
        session: SessionId,
        reason: String,
    },
    /// The user agrees, if everything holds.
    SignalApproved {
        cohort: CohortId,
        session: SessionId,
    },
    /// Everything held, and these public nonces were made.
    NonceCommitted {
        cohort: CohortId,
        session: SessionId,
        nonces: Vec<PublicNonce>,
        signature: StatementSignature,
        deadline: Timestamp,
    },
    /// Partial signatures may be made now: all that is needed to prove the signal later is in this event, or, a CAS cohort's
    /// map, in the proposal.
    PartialAuthorized {
        cohort: CohortId,
        session: SessionId,
        nonces: Vec<AggregatedNonce>,
        txid: Txid,
        /// Absent where nothing is announced: a closing spend.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        proofs: BTreeMap<Index, Proof>,
    },
    /// They were made and may have left.
    PartialReleased {
        cohort: CohortId,
        session: SessionId,
        partials: Vec<PartialSignature>,
        signature: StatementSignature,
    },
    /// The session is over for us, declined, aborted or late. What was signed in it stays live.
    SessionEnded {
        cohort: CohortId,
        session: SessionId,
        code: String,
        comment: String,
        /// What was to be signed, where the session was never taken up; else it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offered: Option<Offered>,
        /// When it was heard of for the first time, where that is in this event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heard: Option<Timestamp>,
    },
    /// Outputs of the beacon that are watched from here on, all of them, with their values in sat.
    OutputsSeen {
        cohort: CohortId,
        outputs: BTreeMap<OutPoint, u64>,
    },
    /// One of them is spent by a transaction that we have no record of.
    ForeignSpend {
        cohort: CohortId,
        outpoint: OutPoint,
        txid: Txid,
    },
    /// One of them is spent by a leaf of the script tree, which takes no signature of all members.
    LeafSpend {
        cohort: CohortId,
        outpoint: OutPoint,
        txid: Txid,
    },
    /// And that transaction is as deep as the terms want.
    ForeignSpendBuried {
        cohort: CohortId,
        outpoint: OutPoint,
        txid: Txid,
    },
    /// The cohort is over, and nothing is left at its address or on its way: the chain is not asked about it any more.
    WatchEnded { cohort: CohortId },
    /// The coordinator says that it published what we signed.
    SignalPublished { cohort: CohortId, txid: Txid },
    /// It has all signatures: we can offer it to the network ourselves.
    SignalSigned {
        cohort: CohortId,
        txid: Txid,
        #[serde(with = "transaction_hex")]
        tx: Transaction,
        at: Timestamp,
    },
    /// Our own chain source knew nothing of it, and was given it.
    SignalOffered {
        cohort: CohortId,
        txid: Txid,
        at: Timestamp,
    },
    /// It would not have it.
    SignalRefused {
        cohort: CohortId,
        txid: Txid,
        reason: String,
    },
    /// Our own chain source has it in a block.
    SignalConfirmed {
        cohort: CohortId,
        txid: Txid,
        height: u32,
        block_hash: BlockHash,
    },
    /// It left the chain.
    SignalGone { cohort: CohortId, txid: Txid },
    /// It is as deep as the terms want.
    SignalBuried { cohort: CohortId, txid: Txid },
    /// An update is announced by a DID's own singleton beacon: the transaction, with its signatures, may leave now.
    SingletonSigned {
        did: String,
        update: UpdateId,
        #[serde(with = "transaction_hex")]
        tx: Transaction,
    },
    /// The chain source refuses it, for the first time since it was signed or seen last.
    SingletonRefused { txid: Txid, reason: String },
    /// Another transaction spends one of its inputs.
    SingletonConflict { txid: Txid, other: Txid },
    /// It waits for a block.
    SingletonPublished { txid: Txid },
    /// It is in a block.
    SingletonConfirmed {
        txid: Txid,
        height: u32,
        block_hash: BlockHash,
    },
    /// It left the chain, and the chain source does not know it any more.
    SingletonGone { txid: Txid },
    /// It has as many confirmations as resolvers wait for.
    SingletonBuried { txid: Txid },
    /// What spends one of its inputs in its place has.
    SingletonSuperseded { txid: Txid },
}

/// What shows that our state is not the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackEvidence {
    /// A transaction with a valid signature of the beacon, which cannot be made without ours.
    SignedTransaction,
    /// Partial signatures under a statement that our cohort key signed.
    OwnContribution,
    /// The chain spends an output of the beacon by a transaction that we have no record of.
    ForeignSpend,
}

impl Event {
    /// What the user must hear of at once, in one sentence.
    pub fn alarm(&self) -> Option<String> {
        match self {
            Self::ForeignSpend {
                cohort,
                outpoint,
                txid,
            } => Some(format!(
                "output {outpoint} of cohort {cohort} is spent by transaction {txid}, which this agent has no record of \
                 signing: its state is older than what it signed, a second copy of it runs, or its key was stolen"
            )),
            Self::LeafSpend {
                cohort,
                outpoint,
                txid,
            } => Some(format!(
                "output {outpoint} of cohort {cohort} is spent by transaction {txid} through the script tree of its terms: by the \
                 holder of the recovery key, or by as many members as the fallback wants. See `cohorts` for who they are"
            )),
            Self::RollbackDetected { cohort, txid, .. } => Some(format!(
                "this agent's state is old, or a second copy of it runs: transaction {txid} of cohort {cohort} was signed \
                 with its key and is not in its log. Nothing is signed with outputs that exist now, in any cohort, until \
                 they are spent or you run `rollback confirm`; see `rollback show`"
            )),
            Self::SingletonRefused { txid, reason } => Some(format!(
                "the chain source refuses transaction {txid}, which announces an update of a DID of this agent: {reason}. It \
                 is offered again; see `did show`"
            )),
            _ => None,
        }
    }

    /// The cohort that the event belongs to.
    pub fn cohort(&self) -> Option<CohortId> {
        match self {
            Self::Subscribed { .. }
            | Self::SubscriptionAccepted { .. }
            | Self::Unsubscribed { .. }
            | Self::UpdateVersioned { .. }
            | Self::SingletonSigned { .. }
            | Self::SingletonRefused { .. }
            | Self::SingletonConflict { .. }
            | Self::SingletonPublished { .. }
            | Self::SingletonConfirmed { .. }
            | Self::SingletonGone { .. }
            | Self::SingletonBuried { .. }
            | Self::SingletonSuperseded { .. } => None,
            Self::CohortAdvertised { cohort, .. }
            | Self::CohortForgotten { cohort }
            | Self::JoinRequested { cohort, .. }
            | Self::OptedIn { cohort, .. }
            | Self::OptInRefused { cohort, .. }
            | Self::OptedOut { cohort }
            | Self::CohortAgreed { cohort, .. }
            | Self::CohortRefused { cohort, .. }
            | Self::RegistrationRequested { cohort, .. }
            | Self::Registered { cohort, .. }
            | Self::ContestSent { cohort, .. }
            | Self::ContestAnswered { cohort, .. }
            | Self::UpdateQueued { cohort, .. }
            | Self::LeavesChosen { cohort, .. }
            | Self::SignalProposed { cohort, .. }
            | Self::SignerChosen { cohort, .. }
            | Self::NoncesImported { cohort, .. }
            | Self::PsbtRequested { cohort, .. }
            | Self::PsbtGiven { cohort, .. }
            | Self::PsbtRefused { cohort, .. }
            | Self::SignalApproved { cohort, .. }
            | Self::NonceCommitted { cohort, .. }
            | Self::PartialAuthorized { cohort, .. }
            | Self::PartialReleased { cohort, .. }
            | Self::SessionEnded { cohort, .. }
            | Self::SignalPublished { cohort, .. }
            | Self::SignalSigned { cohort, .. }
            | Self::SignalOffered { cohort, .. }
            | Self::SignalRefused { cohort, .. }
            | Self::SignalConfirmed { cohort, .. }
            | Self::SignalGone { cohort, .. }
            | Self::SignalBuried { cohort, .. }
            | Self::OptInRenewed { cohort, .. }
            | Self::CohortDissolved { cohort, .. }
            | Self::UpdatesMoved { cohort, .. }
            | Self::ProofsRequested { cohort, .. }
            | Self::ProofsAnswered { cohort }
            | Self::RollbackDetected { cohort, .. }
            | Self::SignalAdopted { cohort, .. }
            | Self::ProofsRecovered { cohort, .. }
            | Self::QuarantineFixed { cohort, .. }
            | Self::RollbackConfirmed { cohort }
            | Self::WatchEnded { cohort }
            | Self::OutputsSeen { cohort, .. }
            | Self::ForeignSpend { cohort, .. }
            | Self::LeafSpend { cohort, .. }
            | Self::ForeignSpendBuried { cohort, .. } => Some(*cohort),
        }
    }
}
