//! Bodies of the messages in which a cohort signs.

use beacon_signal::{Index, LeafValue, Proof, UpdateId};
use bitcoin::{BlockHash, Psbt, ScriptBuf, Transaction, Txid};
use serde::{Deserialize, Serialize};

use crate::announcement::{AnnouncedDid, Announcement};
use crate::ids::{CohortId, SessionId, Timestamp};
use crate::values::{
    AggregatedNonce, NonceBytes, PartialBytes, StatementSignature, transaction_hex,
};

/// Body of `sign/update_opportunity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateOpportunity {
    /// The cohort.
    pub cohort_id: CohortId,
    /// Number of the round, from 1.
    pub round: u64,
    /// When the answer must be there.
    pub deadline: Timestamp,
}

/// One leaf, as the coordinator sees it: `{index, value}`, and in a CAS cohort `{did, update_hash}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LeafForm", into = "LeafForm")]
pub struct Leaf {
    /// SHA-256 of the DID.
    pub index: Index,
    /// The blinded value; in a CAS cohort the update's hash, or [`LeafValue::EMPTY`] without an update.
    pub value: LeafValue,
    /// The DID itself, where a CAS cohort announces an update of it.
    pub did: Option<AnnouncedDid>,
}

impl Leaf {
    /// A leaf that says nothing of its DID but its index.
    pub fn blinded(index: Index, value: LeafValue) -> Self {
        let did = None;
        Self { index, value, did }
    }

    /// An update in the open.
    pub fn announced(did: AnnouncedDid, update: UpdateId) -> Self {
        Self {
            index: did.index(),
            value: LeafValue::update_without_nonce(&update),
            did: Some(did),
        }
    }
}

/// Either form of a leaf on the wire.
#[derive(Serialize, Deserialize)]
struct LeafForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<Index>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<LeafValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    did: Option<AnnouncedDid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    update_hash: Option<UpdateId>,
}

impl TryFrom<LeafForm> for Leaf {
    type Error = &'static str;

    fn try_from(form: LeafForm) -> Result<Self, Self::Error> {
        match (form.index, form.value, form.did, form.update_hash) {
            (Some(index), Some(value), None, None) => Ok(Self::blinded(index, value)),
            (None, None, Some(did), Some(update)) => Ok(Self::announced(did, update)),
            _ => Err("expected a leaf with index and value, or with did and update_hash"),
        }
    }
}

impl From<Leaf> for LeafForm {
    fn from(leaf: Leaf) -> Self {
        let blinded = leaf.did.is_none();
        Self {
            index: blinded.then_some(leaf.index),
            value: blinded.then_some(leaf.value),
            did: leaf.did,
            update_hash: (!blinded).then_some(UpdateId(leaf.value.0)),
        }
    }
}

/// Body of `sign/request_signature`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSignature {
    /// The cohort.
    pub cohort_id: CohortId,
    /// The first leaf's value: the original system's one datum.
    pub data: LeafValue,
    /// Number of the round.
    pub round: u64,
    /// The leaves; at least one.
    pub leaves: Vec<Leaf>,
}

/// Body of `sign/no_update`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoUpdate {
    /// The cohort.
    pub cohort_id: CohortId,
    /// Number of the round.
    pub round: u64,
    /// The leaves; at least one. Blinded, they look like any other leaf. In a CAS cohort none: no index has an update but
    /// those for which one was or will be given.
    pub leaves: Vec<Leaf>,
}

/// What a session's transaction is for. A kind that this version does not know is kept by its name, so that it
/// can be declined by its own code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Announces a root.
    #[default]
    Signal,
    /// Same root, higher fee.
    Replacement,
    /// The last spend of a beacon.
    Close,
    /// Anything else.
    #[serde(untagged)]
    Other(String),
}

impl Kind {
    /// Whether it announces a root for the first time.
    pub fn is_signal(&self) -> bool {
        *self == Self::Signal
    }
}

/// An output that an input spends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentOutput {
    /// Its script, hex.
    pub script: ScriptBuf,
    /// Its value, sat.
    pub value: u64,
}

impl SpentOutput {
    /// The form in which sighashes take it.
    pub fn to_txout(&self) -> bitcoin::TxOut {
        bitcoin::TxOut {
            value: bitcoin::Amount::from_sat(self.value),
            script_pubkey: self.script.clone(),
        }
    }
}

impl From<&bitcoin::TxOut> for SpentOutput {
    fn from(output: &bitcoin::TxOut) -> Self {
        Self {
            script: output.script_pubkey.clone(),
            value: output.value.to_sat(),
        }
    }
}

/// The proof for one index of the member that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexProof {
    /// The index.
    pub index: Index,
    /// Without `nonce` and `updateId`, which the coordinator does not know.
    pub proof: Proof,
}

/// Body of `sign/authorization_request`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// The transaction, unsigned. It leads: what disagrees with it is declined.
    #[serde(with = "transaction_hex")]
    pub pending_tx: Transaction,
    /// What it is for.
    pub kind: Kind,
    /// Number of the round.
    pub round: u64,
    /// The transaction that a replacement replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Txid>,
    /// What the inputs spend, in their order.
    pub spent_outputs: Vec<SpentOutput>,
    /// One for each index that the member registered; in a CAS cohort none.
    pub proofs: Vec<IndexProof>,
    /// In a CAS cohort: everything that the signal announces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Announcement>,
}

/// Body of `sign/nonce_contribution`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonceContribution {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// For input 0.
    pub nonce_contribution: NonceBytes,
    /// For every input, input 0 included. Points or not: that is judged after the signature.
    pub nonce_contributions: Vec<NonceBytes>,
    /// See [`crate::statement::nonces`].
    pub signature: StatementSignature,
}

/// Body of `sign/aggregated_nonce`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregatedNonces {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// For input 0.
    pub aggregated_nonce: AggregatedNonce,
    /// For every input, input 0 included.
    pub aggregated_nonces: Vec<AggregatedNonce>,
}

/// Body of `sign/signature_authorization`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureAuthorization {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// For input 0.
    pub partial_signature: PartialBytes,
    /// For every input, input 0 included. Scalars or not: that is judged after the signature.
    pub partial_signatures: Vec<PartialBytes>,
    /// See [`crate::statement::partials`].
    pub signature: StatementSignature,
}

/// Body of `sign/decline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decline {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// One of [`crate::DeclineCode`]'s names.
    pub code: String,
    /// For people.
    #[serde(default)]
    pub comment: String,
}

/// Body of `sign/psbt_request`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsbtRequest {
    /// The session: under way, or signed.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
}

/// Body of `sign/psbt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPsbt {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// A PSBT of version 0, base64; at most [`MAX_BYTES`](crate::psbt::MAX_BYTES) before it.
    #[serde(with = "crate::psbt::base64_text")]
    pub psbt: Psbt,
}

/// What follows an aborted session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextStep {
    /// The round is tried again under another session id.
    NewSession,
    /// The operator decides.
    Wait,
    /// The cohort is over.
    CohortDissolved,
}

/// Body of `sign/session_aborted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAborted {
    /// The session.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// Why.
    pub code: String,
    /// What follows.
    pub next: NextStep,
}

/// Where a signal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum SignalStatus {
    /// Sent to the network.
    Broadcast,
    /// In a block.
    Confirmed {
        /// The block.
        block_hash: BlockHash,
        /// Its height.
        height: u32,
        /// How many blocks build on it, itself included.
        confirmations: u32,
    },
    /// Was in a block and no longer is.
    Gone,
}

/// Body of `sign/signal_published`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalPublished {
    /// The session that signed it.
    pub session_id: SessionId,
    /// The cohort.
    pub cohort_id: CohortId,
    /// Number of the round.
    pub round: u64,
    /// The transaction's id.
    pub txid: Txid,
    /// The transaction, signed.
    #[serde(with = "transaction_hex")]
    pub transaction: Transaction,
    /// Where it stands.
    #[serde(flatten)]
    pub status: SignalStatus,
}
