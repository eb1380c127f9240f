//! What a participant remembers: its log. The same rules of compatibility hold as for the coordinator's.

use std::collections::BTreeMap;

use beacon_signal::{Index, Proof, Root, UpdateId};
use bitcoin::{BlockHash, Txid};
use serde::{Deserialize, Serialize};

use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::message::Subscribe;
use crate::review::{OwnLeaf, ProposedSignal};
use crate::signer::KeyPath;
use crate::terms::AgreedTerms;
use crate::values::{
    AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature,
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
    },
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
    /// Partial signatures may be made now: all that is needed to prove the signal later is in this event.
    PartialAuthorized {
        cohort: CohortId,
        session: SessionId,
        nonces: Vec<AggregatedNonce>,
        txid: Txid,
        root: Root,
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
    },
    /// The coordinator says that it published what we signed.
    SignalPublished { cohort: CohortId, txid: Txid },
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
}

impl Event {
    /// The cohort that the event belongs to.
    pub fn cohort(&self) -> Option<CohortId> {
        match self {
            Self::Subscribed { .. }
            | Self::SubscriptionAccepted { .. }
            | Self::Unsubscribed { .. } => None,
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
            | Self::UpdateQueued { cohort, .. }
            | Self::LeavesChosen { cohort, .. }
            | Self::SignalProposed { cohort, .. }
            | Self::SignalApproved { cohort, .. }
            | Self::NonceCommitted { cohort, .. }
            | Self::PartialAuthorized { cohort, .. }
            | Self::PartialReleased { cohort, .. }
            | Self::SessionEnded { cohort, .. }
            | Self::SignalPublished { cohort, .. }
            | Self::SignalConfirmed { cohort, .. }
            | Self::SignalGone { cohort, .. }
            | Self::SignalBuried { cohort, .. } => Some(*cohort),
        }
    }
}
