//! Bodies of the messages in which a cohort is formed.

use beacon_signal::{Index, Proof};
use bitcoin::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SpentOutput;
use crate::announcement::Announcement;
use crate::evidence::SignedPartials;
use crate::ids::{CohortId, SessionId};
use crate::machine::{Code, Rejection};
use crate::terms::{BeaconType, BtcNetwork};
use crate::values::{AckHash, CohortKey, StatementSignature, TermsHash, transaction_hex};

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
    /// The cohort that this one was formed from, without the member that was out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeds: Option<CohortId>,
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
    /// Indexes that this member answers for: further ones, or those registered before.
    pub indexes: Vec<Index>,
    /// Asks for proofs and signals of this round and later ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_round: Option<u64>,
}

/// The code of an [`IndexResult`] that is refused for as long as a round is collecting or signing.
pub const ROUND_OPEN: &str = "round-open";

/// Body of `keygen/did_contest`: another member answers for a DID that this peer controls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidContest {
    /// The cohort.
    pub cohort_id: CohortId,
    /// The DID. The coordinator learns it.
    pub did: String,
    /// What is needed to resolve the DID: the sidecar data of the DID's method, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<String>,
    /// Id of the verification method that signs: one that may update the newest document.
    pub method: String,
    /// See [`crate::statement::control`].
    pub signature: StatementSignature,
}

impl DidContest {
    /// Most bytes of the DID, and of the method's id.
    pub const MAX_ID: usize = 2_048;
    /// Most bytes of sidecar data: they go to the coordinator's log.
    pub const MAX_SIDECAR: usize = 128 * 1024;

    /// Refuses what is too long.
    pub(crate) fn check_length(&self, code: Code) -> Result<(), Rejection> {
        let sidecar = self.sidecar.as_ref().map_or(0, String::len);
        let (did, method) = (self.did.len(), self.method.len());
        if did <= Self::MAX_ID && method <= Self::MAX_ID && sidecar <= Self::MAX_SIDECAR {
            return Ok(());
        }
        Err(Rejection::new(
            code,
            format!("a DID of {did} bytes, a method of {method} and sidecar data of {sidecar}"),
            format!(
                "at most {}, {} and {}",
                Self::MAX_ID,
                Self::MAX_ID,
                Self::MAX_SIDECAR
            ),
        ))
    }
}

/// Body of `keygen/registration_result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationResult {
    /// The cohort.
    pub cohort_id: CohortId,
    /// One entry for each index that was asked for.
    pub results: Vec<IndexResult>,
    /// Whether this settles a contest: an index that is the peer's by it is not registered yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contest: bool,
    /// Where it was asked for: every transaction of the rounds asked for, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalRecord>,
    /// In a CAS cohort, where it was asked for: the map of each round of [`Self::signals`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<RoundMap>,
    /// The first round that did not fit: to be asked for next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_round: Option<u64>,
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
    /// Where it was asked for: one for each of [`RegistrationResult::signals`], in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<RoundProof>,
}

/// The proof of one index under one root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundProof {
    /// The session of the signal.
    pub session_id: SessionId,
    /// Its round.
    pub round: u64,
    /// Without `nonce` and `updateId`, which the coordinator does not know.
    pub proof: Proof,
}

/// What the signals of one round of a CAS cohort announce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundMap {
    /// The round.
    pub round: u64,
    /// Its map.
    pub map: Announcement,
}

/// How far a signal came, as the coordinator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalProgress {
    /// Nonces were aggregated: partial signatures may be out.
    Unsigned,
    /// All partial signatures are in.
    Signed,
    /// The network has it.
    Published,
    /// It is in a block.
    Confirmed,
    /// It is as deep as the terms want.
    Buried,
}

/// A transaction that members were asked to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRecord {
    /// The session that signed it; of an unsigned one that to which this member contributed last, or the last.
    pub session_id: SessionId,
    /// Its round.
    pub round: u64,
    /// How far it came.
    pub status: SignalProgress,
    /// The transaction, with witnesses once it is signed.
    #[serde(with = "transaction_hex")]
    pub transaction: Transaction,
    /// What the inputs spend, in their order.
    pub spent_outputs: Vec<SpentOutput>,
    /// What this member signed of it, where the transaction does not show that itself: its partial signatures, while
    /// others are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contribution: Option<SignedPartials>,
}
