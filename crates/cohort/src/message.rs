//! The messages of the protocol (docs/protocol.md, section "Messages"), parsed once into types.
//!
//! A body is read into a typed struct or refused; unknown members are ignored. Nothing here knows
//! envelopes: the runtime supplies a message's type URI and body and learns the thread it belongs to.

use beacon_signal::{Index, LeafValue, Proof};
use bitcoin::{BlockHash, ScriptBuf, Transaction, Txid};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{CohortId, SessionId, Timestamp};
use crate::terms::{BeaconType, BtcNetwork};
use crate::values::{
    AckHash, AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature,
    TermsHash, transaction_hex,
};

/// What every type URI of this protocol begins with.
pub const TYPE_PREFIX: &str = "https://btc1.tools/musig2/";

/// Longest free text that is kept of a peer: labels and comments, in bytes.
pub const MAX_TEXT: usize = 256;

/// A body that cannot be read as its type says.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not a type of this protocol.
    #[error("unknown message type {0:?}")]
    UnknownType(String),
    /// A member is missing or is not what the protocol says.
    #[error("{kind} cannot be read: {reason}")]
    Malformed {
        /// The message's kind, such as `keygen/opt_in`.
        kind: &'static str,
        /// Which member, what was got and what was expected.
        reason: String,
    },
}

macro_rules! messages {
    ($($(#[$doc:meta])* $variant:ident = $kind:literal;)*) => {
        /// One message of the protocol.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "messages are moved a few times, never stored in bulk")]
        pub enum Message {
            $($(#[$doc])* $variant($variant),)*
        }

        /// Every kind, in the order of the protocol's table.
        pub const KINDS: &[&str] = &[$($kind),*];

        impl Message {
            /// The type URI without [`TYPE_PREFIX`], such as `keygen/opt_in`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $kind,)*
                }
            }

            /// Reads the body of a message of the given type URI.
            pub fn parse(type_uri: &str, body: &Value) -> Result<Self, MessageError> {
                let unknown = || MessageError::UnknownType(type_uri.chars().take(128).collect());
                match type_uri.strip_prefix(TYPE_PREFIX).ok_or_else(unknown)? {
                    $($kind => $variant::deserialize(body).map(Self::$variant).map_err(|error| {
                        let mut reason = error.to_string();
                        reason.truncate(reason.char_indices().nth(MAX_TEXT).map_or(reason.len(), |(end, _)| end));
                        MessageError::Malformed { kind: $kind, reason }
                    }),)*
                    _ => Err(unknown()),
                }
            }

            /// The body to send.
            pub fn body(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$variant(body) => serde_json::to_value(body),)*
                }
            }
        }

        $(impl From<$variant> for Message {
            fn from(body: $variant) -> Self {
                Self::$variant(body)
            }
        })*
    };
}

messages! {
    /// P→C: tell me of cohorts.
    Subscribe = "keygen/subscribe";
    /// C→P: you will be told.
    SubscribeAccept = "keygen/subscribe_accept";
    /// P→C: no more.
    Unsubscribe = "keygen/unsubscribe";
    /// C→P: a cohort is open.
    CohortAdvert = "keygen/cohort_advert";
    /// P→C: I join with this key, for these indexes.
    OptIn = "keygen/opt_in";
    /// P→C: I leave; before the cohort is set.
    OptOut = "keygen/opt_out";
    /// C→P: these are the members and this is the address.
    CohortSet = "keygen/cohort_set";
    /// P→C: recomputed and agreed.
    CohortAck = "keygen/cohort_ack";
    /// P→C: further indexes that I answer for.
    DidRegistration = "keygen/did_registration";
    /// C→P: which of them were accepted.
    RegistrationResult = "keygen/registration_result";
    /// C→P: a round is open; answer for your indexes.
    UpdateOpportunity = "sign/update_opportunity";
    /// P→C: updates to announce.
    RequestSignature = "sign/request_signature";
    /// P→C: indexes that have no update.
    NoUpdate = "sign/no_update";
    /// C→P: the transaction, with everything needed to check it.
    AuthorizationRequest = "sign/authorization_request";
    /// P→C: public nonces.
    NonceContribution = "sign/nonce_contribution";
    /// C→P: aggregated nonces.
    AggregatedNonces = "sign/aggregated_nonce";
    /// P→C: partial signatures.
    SignatureAuthorization = "sign/signature_authorization";
    /// P→C: I do not sign, and why.
    Decline = "sign/decline";
    /// C→P: the session is over without a signature.
    SessionAborted = "sign/session_aborted";
    /// C→P and to subscribers: what became of a signal.
    SignalPublished = "sign/signal_published";
}

impl Message {
    /// The cohort and the session that the message belongs to. In formation the cohort is its thread; in
    /// signing the session is, with the cohort as the parent thread.
    pub fn thread(&self) -> (Option<CohortId>, Option<SessionId>) {
        match self {
            Self::Subscribe(_) | Self::SubscribeAccept(_) | Self::Unsubscribe(_) => (None, None),
            Self::CohortAdvert(m) => (Some(m.cohort_id), None),
            Self::OptIn(m) => (Some(m.cohort_id), None),
            Self::OptOut(m) => (Some(m.cohort_id), None),
            Self::CohortSet(m) => (Some(m.cohort_id), None),
            Self::CohortAck(m) => (Some(m.cohort_id), None),
            Self::DidRegistration(m) => (Some(m.cohort_id), None),
            Self::RegistrationResult(m) => (Some(m.cohort_id), None),
            Self::UpdateOpportunity(m) => (Some(m.cohort_id), None),
            Self::RequestSignature(m) => (Some(m.cohort_id), None),
            Self::NoUpdate(m) => (Some(m.cohort_id), None),
            Self::AuthorizationRequest(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::NonceContribution(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::AggregatedNonces(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SignatureAuthorization(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::Decline(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SessionAborted(m) => (Some(m.cohort_id), Some(m.session_id)),
            Self::SignalPublished(m) => (Some(m.cohort_id), Some(m.session_id)),
        }
    }

    /// Kinds that this message answers on its thread: when it arrives, copies of those that still wait to be
    /// delivered to its sender have done their work.
    pub fn answers(&self) -> &'static [&'static str] {
        match self {
            Self::SubscribeAccept(_) => &["keygen/subscribe"],
            Self::OptIn(_) => &["keygen/cohort_advert"],
            Self::CohortSet(_) => &["keygen/opt_in"],
            Self::CohortAck(_) => &["keygen/cohort_set"],
            Self::RegistrationResult(_) => &["keygen/did_registration"],
            Self::RequestSignature(_) | Self::NoUpdate(_) => &["sign/update_opportunity"],
            Self::NonceContribution(_) => &["sign/authorization_request"],
            Self::AggregatedNonces(_) => &["sign/nonce_contribution"],
            Self::SignatureAuthorization(_) => &["sign/aggregated_nonce"],
            Self::Decline(_) => &["sign/authorization_request", "sign/aggregated_nonce"],
            Self::SessionAborted(_) | Self::SignalPublished(_) => &[
                "sign/authorization_request",
                "sign/nonce_contribution",
                "sign/aggregated_nonce",
                "sign/signature_authorization",
                "sign/decline",
            ],
            _ => &[],
        }
    }
}

/// Body of `keygen/subscribe`. All members are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Only cohorts on these networks; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<BtcNetwork>,
    /// Only beacons of these types; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beacon_types: Vec<BeaconType>,
    /// A name for the operator's lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Body of `keygen/subscribe_accept`. All members are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeAccept {
    /// The coordinator's name for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Most cohorts that it runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cohorts: Option<u64>,
}

/// Body of `keygen/unsubscribe`: empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribe {}

/// Body of `keygen/cohort_advert`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortAdvert {
    /// The cohort.
    pub cohort_id: CohortId,
    /// As in the terms.
    pub btc_network: BtcNetwork,
    /// The terms' minimum of members.
    pub cohort_size: u64,
    /// As in the terms.
    pub beacon_type: BeaconType,
    /// The terms, as they are hashed.
    pub terms: Value,
    /// SHA-256 over the canonical form of `terms`.
    pub terms_hash: TermsHash,
}

/// Body of `keygen/opt_in`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptIn {
    /// The cohort.
    pub cohort_id: CohortId,
    /// The member's fresh key of this cohort.
    pub participant_pk: CohortKey,
    /// The terms agreed to.
    pub terms_hash: TermsHash,
    /// See [`crate::statement::possession`].
    pub proof_of_possession: StatementSignature,
    /// Indexes that the member answers for.
    pub indexes: Vec<Index>,
}

/// Body of `keygen/opt_out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOut {
    /// The cohort.
    pub cohort_id: CohortId,
}

/// Body of `keygen/cohort_set`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortSet {
    /// The cohort.
    pub cohort_id: CohortId,
    /// The P2TR address of the aggregate key.
    pub beacon_address: String,
    /// All members' keys in KeySort order.
    pub cohort_keys: Vec<CohortKey>,
    /// The terms agreed to.
    pub terms_hash: TermsHash,
}

/// Body of `keygen/cohort_ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CohortAck {
    /// The cohort.
    pub cohort_id: CohortId,
    /// See [`crate::statement::cohort_ack`].
    pub ack_hash: AckHash,
}

/// Body of `keygen/did_registration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidRegistration {
    /// The cohort.
    pub cohort_id: CohortId,
    /// Further indexes that this member answers for.
    pub indexes: Vec<Index>,
}

/// Body of `keygen/registration_result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationResult {
    /// The cohort.
    pub cohort_id: CohortId,
    /// One entry for each index that was asked for.
    pub results: Vec<IndexResult>,
}

/// What became of one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexResult {
    /// The index.
    pub index: Index,
    /// Whether the member answers for it from the next round on.
    pub accepted: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

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
    pub nonce_contribution: PublicNonce,
    /// For every input, input 0 included.
    pub nonce_contributions: Vec<PublicNonce>,
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
    pub partial_signature: PartialSignature,
    /// For every input, input 0 included.
    pub partial_signatures: Vec<PartialSignature>,
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
