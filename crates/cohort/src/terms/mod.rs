//! Cohort terms (docs/protocol.md, section "Cohort terms"): what a member agrees to when it opts in.

mod network;
mod script_tree;

use bitcoin::ScriptBuf;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use network::BtcNetwork;
pub use script_tree::{Fallback, MAX_FALLBACK_KEYS, Recovery, ScriptTree};

use crate::announcement;
use crate::ids::Timestamp;
use crate::musig::{BeaconKey, KeySetError};
use crate::values::{CohortKey, TermsHash};

/// What the 32 signal bytes commit to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BeaconType {
    /// The root of a sparse Merkle tree.
    #[serde(rename = "SMTBeacon", alias = "SMTAggregateBeacon")]
    Smt,
    /// The hash of an announcement map.
    #[serde(rename = "CASBeacon", alias = "CIDAggregateBeacon")]
    Cas,
}

/// Who speaks first in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// Members send their updates when they are ready; a trigger freezes the round.
    Push,
    /// The coordinator asks all members.
    Pull,
}

impl std::str::FromStr for Flow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_value(Value::from(text))
            .map_err(|_| format!("got flow {text:?}, expected push or pull"))
    }
}

/// Who may opt in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// Every subscriber.
    Open,
    /// Those whom the operator named.
    Invited,
}

/// Whether an opt-in proves that its sender holds the cohort key. There is one answer; the member
/// stands in the terms so that it is agreed to and hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofOfPossession {
    /// It does.
    Required,
}

/// The terms of one cohort, version 1. Members that are absent have the defaults written here.
///
/// Unknown members are refused, unlike elsewhere: nobody agrees to what it cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    clippy::struct_field_names,
    reason = "field names are those of the wire"
)]
pub struct Terms {
    /// 1.
    pub version: u64,
    /// What the signal bytes commit to.
    pub beacon_type: BeaconType,
    /// The chain on which the beacon lives.
    pub btc_network: BtcNetwork,
    /// Fewest members with which the cohort is set.
    pub min_members: u64,
    /// Most members; the cohort is set when it is reached.
    pub max_members: u64,
    /// Most indexes that one member answers for.
    #[serde(default = "defaults::max_indexes_per_member")]
    pub max_indexes_per_member: u64,
    /// Who speaks first in a round.
    #[serde(default = "defaults::flow")]
    pub flow: Flow,
    /// Whether an index may go without an answer. It shows that its DID had no update, which a blinded "no
    /// update" leaf hides.
    #[serde(default)]
    pub empty_leaf_allowed: bool,
    /// Pending updates that trigger a round (push).
    #[serde(default = "defaults::trigger_updates")]
    pub trigger_updates: u64,
    /// Least seconds between two rounds.
    #[serde(default)]
    pub min_interval_s: u64,
    /// Longest wait of a pending update (push), or between two rounds (pull), in seconds.
    #[serde(default = "defaults::max_interval_s")]
    pub max_interval_s: u64,
    /// Seconds that a member has for each answer.
    #[serde(default = "defaults::response_deadline_s")]
    pub response_deadline_s: u64,
    /// When the advert ends, in Unix seconds.
    pub advert_expires: Timestamp,
    /// Highest fee rate, sat/vB.
    #[serde(default = "defaults::max_fee_rate_sat_vb")]
    pub max_fee_rate_sat_vb: u64,
    /// Most inputs of one transaction.
    #[serde(default = "defaults::max_inputs")]
    pub max_inputs: u64,
    /// Most that the beacon address should hold, sat.
    #[serde(default = "defaults::max_balance_sat")]
    pub max_balance_sat: u64,
    /// Confirmations after which a signal counts as buried.
    #[serde(default = "defaults::confirmations")]
    pub confirmations: u64,
    /// Seconds that a signed signal waits for its first confirmation before it is replaced with a higher fee. Not written
    /// where it is the default, for older members know no such terms.
    #[serde(
        default = "defaults::patience_s",
        skip_serializing_if = "defaults::is_patience_s"
    )]
    pub patience_s: u64,
    /// Always required.
    #[serde(default = "defaults::proof_of_possession")]
    pub proof_of_possession: ProofOfPossession,
    /// Price of joining, sat; informational.
    #[serde(default)]
    pub enrollment_sat: u64,
    /// Price of one announcement, sat; informational.
    #[serde(default)]
    pub announcement_sat: u64,
    /// Strikes after which a member is out.
    #[serde(default = "defaults::max_strikes")]
    pub max_strikes: u64,
    /// Who may opt in.
    #[serde(default = "defaults::admission")]
    pub admission: Admission,
    /// Script that a closing spend pays (hex): one of the standard kinds, to which a closed beacon's money goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_script: Option<ScriptBuf>,
    /// Script tree of the beacon address. Without one, nobody spends from it but all members together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script_tree: Option<ScriptTree>,
}

mod defaults {
    use super::{Admission, Flow, ProofOfPossession};

    pub(super) fn max_indexes_per_member() -> u64 {
        16
    }
    pub(super) fn flow() -> Flow {
        Flow::Push
    }
    pub(super) fn trigger_updates() -> u64 {
        1
    }
    pub(super) fn max_interval_s() -> u64 {
        86_400
    }
    pub(super) fn response_deadline_s() -> u64 {
        60
    }
    pub(super) fn max_fee_rate_sat_vb() -> u64 {
        50
    }
    pub(super) fn max_inputs() -> u64 {
        8
    }
    pub(super) fn max_balance_sat() -> u64 {
        100_000
    }
    pub(super) fn confirmations() -> u64 {
        6
    }
    pub(super) fn patience_s() -> u64 {
        3_600
    }
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn is_patience_s(patience_s: &u64) -> bool {
        *patience_s == self::patience_s()
    }
    pub(super) fn proof_of_possession() -> ProofOfPossession {
        ProofOfPossession::Required
    }
    pub(super) fn max_strikes() -> u64 {
        3
    }
    pub(super) fn admission() -> Admission {
        Admission::Open
    }
}

/// Why terms were refused. Every variant names what was got and what this version accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Not the object that the protocol describes.
    #[error("terms cannot be read: {0}")]
    Unreadable(String),
    /// A member is outside its range.
    #[error("{member}: got {got}, expected {expected}")]
    OutOfRange {
        /// Name of the member.
        member: &'static str,
        /// Its value.
        got: u64,
        /// The accepted range.
        expected: &'static str,
    },
    /// A script tree without a leaf.
    #[error("script_tree: got no leaf, expected recovery, fallback or both")]
    NoLeaf,
    /// Agreed in the protocol, but not in this version of the software.
    #[error("{member} is not supported by this version: {reason}")]
    Unsupported {
        /// Name of the member.
        member: &'static str,
        /// What is accepted instead.
        reason: &'static str,
    },
}

impl Terms {
    /// Terms with every default, to be adjusted field by field.
    pub fn new(btc_network: BtcNetwork, members: u64, advert_expires: Timestamp) -> Self {
        Self {
            version: 1,
            beacon_type: BeaconType::Smt,
            btc_network,
            min_members: members,
            max_members: members,
            max_indexes_per_member: defaults::max_indexes_per_member(),
            flow: defaults::flow(),
            empty_leaf_allowed: false,
            trigger_updates: defaults::trigger_updates(),
            min_interval_s: 0,
            max_interval_s: defaults::max_interval_s(),
            response_deadline_s: defaults::response_deadline_s(),
            advert_expires,
            max_fee_rate_sat_vb: defaults::max_fee_rate_sat_vb(),
            max_inputs: defaults::max_inputs(),
            max_balance_sat: defaults::max_balance_sat(),
            confirmations: defaults::confirmations(),
            patience_s: defaults::patience_s(),
            proof_of_possession: ProofOfPossession::Required,
            enrollment_sat: 0,
            announcement_sat: 0,
            max_strikes: defaults::max_strikes(),
            admission: Admission::Open,
            close_script: None,
            script_tree: None,
        }
    }

    /// Reads terms and hashes them as they were sent: SHA-256 over their canonical form (RFC 8785).
    pub fn parse(value: &Value) -> Result<(Self, TermsHash), TermsError> {
        let terms: Self = serde_json::from_value(value.clone())
            .map_err(|error| TermsError::Unreadable(error.to_string()))?;
        terms.check()?;
        let canonical =
            serde_jcs::to_vec(value).map_err(|error| TermsError::Unreadable(error.to_string()))?;
        Ok((terms, TermsHash(Sha256::digest(canonical).into())))
    }

    /// The JSON object that is sent and hashed.
    pub fn to_value(&self) -> Result<Value, TermsError> {
        self.check()?;
        serde_json::to_value(self).map_err(|error| TermsError::Unreadable(error.to_string()))
    }

    /// The beacon of these keys, in whatever order they come: with the script tree, if there is one.
    pub fn beacon(
        &self,
        keys: impl IntoIterator<Item = CohortKey>,
    ) -> Result<BeaconKey, KeySetError> {
        BeaconKey::with_tree(keys, self.script_tree.as_ref())
    }

    /// Seconds that each phase takes at most among so many members: the response deadline, and a hundredth of it more for
    /// each of them, rounded up.
    pub fn phase_deadline_s(&self, members: usize) -> u64 {
        let members = u64::try_from(members).unwrap_or(u64::MAX);
        let more = self
            .response_deadline_s
            .saturating_mul(members)
            .div_ceil(100);
        self.response_deadline_s.saturating_add(more)
    }

    /// Seconds after which a seat is free again, if its holder gives no sign of life before the cohort is set; and that it
    /// has for its acknowledgement.
    pub fn seat_deadline_s(&self) -> u64 {
        self.response_deadline_s.saturating_mul(10).max(600)
    }

    fn check(&self) -> Result<(), TermsError> {
        let out_of_range = |member, got, expected| {
            Err(TermsError::OutOfRange {
                member,
                got,
                expected,
            })
        };
        let unsupported = |member, reason| Err(TermsError::Unsupported { member, reason });
        if self.version != 1 {
            return out_of_range("version", self.version, "1");
        }
        if let Some(script) = &self.close_script {
            let standard = script.is_p2tr()
                || script.is_p2wpkh()
                || script.is_p2wsh()
                || script.is_p2pkh()
                || script.is_p2sh();
            if !standard {
                let reason =
                    "expected P2TR, P2WPKH, P2WSH, P2PKH or P2SH, to which an address pays";
                return unsupported("close_script", reason);
            }
        }
        if !(1..=Self::MAX_MEMBERS).contains(&self.max_members) {
            return out_of_range("max_members", self.max_members, "1 to 1000");
        }
        if !(1..=self.max_members).contains(&self.min_members) {
            return out_of_range("min_members", self.min_members, "1 to max_members");
        }
        if let Some(tree) = &self.script_tree {
            tree.check(self.min_members, self.max_members)?;
        }
        if !(1..=Self::MAX_INDEXES).contains(&self.max_indexes_per_member) {
            return out_of_range(
                "max_indexes_per_member",
                self.max_indexes_per_member,
                "1 to 256",
            );
        }
        let indexes = self.max_members * self.max_indexes_per_member;
        if self.beacon_type == BeaconType::Cas && indexes > announcement::MAX_ENTRIES {
            // The whole map goes to every member in one message.
            let expected = "at most 4096 divided by max_members in a CAS cohort";
            let got = self.max_indexes_per_member;
            return out_of_range("max_indexes_per_member", got, expected);
        }
        for (member, got) in [
            ("trigger_updates", self.trigger_updates),
            ("advert_expires", self.advert_expires.0),
            ("max_balance_sat", self.max_balance_sat),
            ("enrollment_sat", self.enrollment_sat),
            ("announcement_sat", self.announcement_sat),
            ("max_strikes", self.max_strikes),
        ] {
            // Beyond it JSON numbers are not exact everywhere, and then hashes would differ.
            if got >= 1 << 53 {
                return out_of_range(member, got, "less than 9007199254740992");
            }
        }
        if self.trigger_updates == 0 {
            return out_of_range("trigger_updates", 0, "at least 1");
        }
        if !(1..=86_400).contains(&self.response_deadline_s) {
            return out_of_range(
                "response_deadline_s",
                self.response_deadline_s,
                "1 to 86400",
            );
        }
        if !(1..=31_536_000).contains(&self.max_interval_s) {
            return out_of_range("max_interval_s", self.max_interval_s, "1 to 31536000");
        }
        if self.min_interval_s > self.max_interval_s {
            return out_of_range(
                "min_interval_s",
                self.min_interval_s,
                "at most max_interval_s",
            );
        }
        if !(1..=100_000).contains(&self.max_fee_rate_sat_vb) {
            return out_of_range(
                "max_fee_rate_sat_vb",
                self.max_fee_rate_sat_vb,
                "1 to 100000",
            );
        }
        if !(1..=100).contains(&self.confirmations) {
            return out_of_range("confirmations", self.confirmations, "1 to 100");
        }
        if !(1..=1_209_600).contains(&self.patience_s) {
            return out_of_range("patience_s", self.patience_s, "1 to 1209600");
        }
        if !(1..=1_000).contains(&self.max_inputs) {
            return out_of_range("max_inputs", self.max_inputs, "1 to 1000");
        }
        Ok(())
    }

    /// Most members of one cohort that this version handles.
    pub const MAX_MEMBERS: u64 = 1_000;

    /// Most indexes of one member that this version handles: their proofs fit one message of 1 MiB.
    pub const MAX_INDEXES: u64 = 256;
}

/// Terms together with the JSON in which they were sent and the hash of that JSON: later versions may write
/// defaults differently, and the hash must stay the one that was agreed to. Stored and sent as the JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgreedTerms {
    value: Value,
    terms: Terms,
    hash: TermsHash,
}

impl AgreedTerms {
    /// Reads terms as they were sent.
    pub fn parse(value: Value) -> Result<Self, TermsError> {
        let (terms, hash) = Terms::parse(&value)?;
        Ok(Self { value, terms, hash })
    }

    /// As they were sent.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// SHA-256 over the canonical form.
    pub fn hash(&self) -> TermsHash {
        self.hash
    }
}

impl std::ops::Deref for AgreedTerms {
    type Target = Terms;

    fn deref(&self) -> &Terms {
        &self.terms
    }
}

impl Serialize for AgreedTerms {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AgreedTerms {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_covers_the_object_as_sent_in_canonical_form() {
        let terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1_900_000_000));
        let value = terms.to_value().unwrap();
        let (parsed, hash) = Terms::parse(&value).unwrap();
        assert_eq!(parsed, terms);
        let reordered: Value = serde_json::from_str(
            r#"{"max_members":2,"min_members":2,"version":1,"advert_expires":1900000000,
                "btc_network":"regtest","beacon_type":"SMTBeacon"}"#,
        )
        .unwrap();
        let (defaulted, other_hash) = Terms::parse(&reordered).unwrap();
        assert_eq!(defaulted, terms, "absent members have their defaults");
        assert_ne!(other_hash, hash, "but the hash is over what was sent");
        // sha256 of {"advert_expires":1900000000,"beacon_type":"SMTBeacon","btc_network":"regtest",
        // "max_members":2,"min_members":2,"version":1}, computed with Python's hashlib.
        assert_eq!(
            hex::encode(other_hash.0),
            "18f1b59190d9c3e09ef1c8e271e2dcc8e5dc53d76b2b6d5390faa747fa269c44"
        );
    }

    #[test]
    fn what_cannot_be_agreed_to_is_refused_by_name() {
        let base = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1))
            .to_value()
            .unwrap();
        for (member, value, wording) in [
            ("version", Value::from(2), "version: got 2"),
            ("beacon_type", Value::from("OddBeacon"), "OddBeacon"),
            ("script_tree", Value::from("00"), "ScriptTree"),
            (
                "close_script",
                Value::from("51"),
                "close_script is not supported",
            ),
            (
                "close_script",
                Value::from(format!("6a20{}", "00".repeat(32))),
                "close_script is not supported",
            ),
            ("close_script", Value::from("zz"), "terms cannot be read"),
            ("min_members", Value::from(3), "min_members: got 3"),
            ("max_members", Value::from(0), "max_members: got 0"),
            ("trigger_updates", Value::from(0), "trigger_updates"),
            ("response_deadline_s", Value::from(0), "response_deadline_s"),
            ("max_fee_rate_sat_vb", Value::from(0), "max_fee_rate_sat_vb"),
            ("patience_s", Value::from(0), "patience_s: got 0"),
            ("patience_s", Value::from(1_209_601), "patience_s"),
            ("proof_of_possession", Value::from("none"), "none"),
            ("surprise", Value::from(1), "surprise"),
        ] {
            let mut terms = base.clone();
            terms[member] = value;
            let error = Terms::parse(&terms).unwrap_err().to_string();
            assert!(error.contains(wording), "{member}: {error}");
        }
    }

    #[test]
    fn a_map_of_all_that_a_cas_cohort_may_announce_fits_one_message() {
        let mut terms = Terms::new(BtcNetwork::Regtest, 1_000, Timestamp(1));
        terms.beacon_type = BeaconType::Cas;
        let error = terms.to_value().unwrap_err().to_string();
        assert!(
            error.starts_with("max_indexes_per_member: got 16"),
            "{error}"
        );
        terms.max_indexes_per_member = 4;
        assert!(Terms::parse(&terms.to_value().unwrap()).is_ok());
        terms.max_indexes_per_member = 5;
        assert!(terms.to_value().is_err());
        terms.beacon_type = BeaconType::Smt;
        assert!(terms.to_value().is_ok());
    }

    /// Terms of a cohort that does not care are readable for members of versions that know no patience.
    #[test]
    fn patience_is_written_only_where_it_is_not_the_default() {
        let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
        assert_eq!(terms.patience_s, 3_600);
        assert!(terms.to_value().unwrap().get("patience_s").is_none());
        terms.patience_s = 60;
        let (read, _) = Terms::parse(&terms.to_value().unwrap()).unwrap();
        assert_eq!(read.patience_s, 60);
    }

    #[test]
    fn a_close_script_is_of_a_kind_that_addresses_pay() {
        let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
        let hash = |prefix: &str, bytes: usize, suffix: &str| {
            ScriptBuf::from_hex(&format!("{prefix}{}{suffix}", "07".repeat(bytes))).unwrap()
        };
        for script in [
            hash("5120", 32, ""),
            hash("0014", 20, ""),
            hash("0020", 32, ""),
            hash("76a914", 20, "88ac"),
            hash("a914", 20, "87"),
        ] {
            terms.close_script = Some(script.clone());
            let value = terms.to_value().unwrap();
            assert_eq!(value["close_script"], script.to_hex_string());
            assert_eq!(Terms::parse(&value).unwrap().0, terms);
        }
        terms.close_script = Some(hash("5220", 32, ""));
        assert!(terms.to_value().is_err(), "a witness version of the future");
    }

    #[test]
    fn deadlines_grow_with_the_cohort() {
        let mut terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1));
        let deadlines = [1, 2, 100, 1_000].map(|members| terms.phase_deadline_s(members));
        assert_eq!(deadlines, [61, 62, 120, 660], "of 60 s, rounded up");
        assert_eq!(terms.seat_deadline_s(), 600);
        terms.response_deadline_s = 86_400;
        assert_eq!(terms.phase_deadline_s(1_000), 950_400);
        assert_eq!(terms.seat_deadline_s(), 864_000);
    }

    #[test]
    fn older_names_are_read() {
        assert_eq!("bitcoin".parse(), Ok(BtcNetwork::Mainnet));
        let cas: BeaconType = serde_json::from_value("CIDAggregateBeacon".into()).unwrap();
        assert_eq!(cas, BeaconType::Cas);
    }
}
