//! Bodies of the messages in which a cohort signs.

use beacon_signal::{Index, LeafValue, Proof};
use bitcoin::{BlockHash, ScriptBuf, Transaction, Txid};
use serde::{Deserialize, Serialize};

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

/// One leaf, as the coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// SHA-256 of the DID.
    pub index: Index,
    /// The blinded value.
    pub value: LeafValue,
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
    /// The leaves; at least one. Blinded, they look like any other leaf.
    pub leaves: Vec<Leaf>,
}

/// What a session's transaction is for. A kind that this version does not know is kept by its name, so that it
/// can be declined by its own code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Announces a root.
    Signal,
    /// Same root, higher fee.
    Replacement,
    /// The last spend of a beacon.
    Close,
    /// Anything else.
    #[serde(untagged)]
    Other(String),
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
    /// One for each index that the member registered.
    pub proofs: Vec<IndexProof>,
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
