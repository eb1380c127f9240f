//! discover-features 2.0: what an agent can do, and the largest message it takes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::reply;
use crate::message::Plaintext;
use crate::unpack::Verified;

/// Type of a query.
pub const QUERIES: &str = "https://didcomm.org/discover-features/2.0/queries";
/// Type of the answer.
pub const DISCLOSE: &str = "https://didcomm.org/discover-features/2.0/disclose";

/// Queries of one message that are looked at; the rest is ignored.
const MAX_QUERIES: usize = 32;
/// Longest pattern of a query, in bytes; a longer one matches nothing.
const MAX_PATTERN_LEN: usize = 256;

/// One thing that an agent discloses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// `protocol`, `goal-code`, `constraint`, …
    #[serde(rename = "feature-type")]
    pub feature_type: String,
    /// Name within the type; of a protocol, its URI without message name.
    pub id: String,
    /// Roles that the agent takes in a protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Value of the constraint of this name: bytes, in decimal (DIDComm Messaging 2.1, "Agent Constraint Disclosure").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_receive_bytes: Option<String>,
}

/// Everything that an agent is willing to disclose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosure {
    features: Vec<Feature>,
}

impl Disclosure {
    /// The protocols of this module, and the largest message that the agent takes, in bytes.
    pub fn new(max_receive_bytes: usize) -> Self {
        let constraint = Feature {
            feature_type: "constraint".to_owned(),
            id: "max_receive_bytes".to_owned(),
            roles: Vec::new(),
            max_receive_bytes: Some(max_receive_bytes.to_string()),
        };
        Self {
            features: vec![constraint],
        }
        .with_protocol(
            "https://didcomm.org/trust-ping/2.0",
            &["sender", "receiver"],
        )
        .with_protocol(
            "https://didcomm.org/discover-features/2.0",
            &["requester", "responder"],
        )
        .with_protocol(
            "https://didcomm.org/report-problem/2.0",
            &["notifier", "notified"],
        )
        .with_protocol(
            "https://didcomm.org/out-of-band/2.0",
            &["sender", "receiver"],
        )
        .with_protocol("https://didcomm.org/empty/1.0", &[])
    }

    /// The same and one more protocol.
    #[must_use]
    pub fn with_protocol(mut self, uri: &str, roles: &[&str]) -> Self {
        self.features.push(Feature {
            feature_type: "protocol".to_owned(),
            id: uri.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            max_receive_bytes: None,
        });
        self
    }

    /// The features that a query asks for, each once.
    fn matching(&self, asked: &[Query]) -> Vec<&Feature> {
        self.features
            .iter()
            .filter(|feature| asked.iter().any(|query| query.matches(feature)))
            .collect()
    }
}

#[derive(Deserialize)]
struct Query {
    #[serde(rename = "feature-type")]
    feature_type: String,
    #[serde(rename = "match")]
    pattern: String,
}

impl Query {
    fn matches(&self, feature: &Feature) -> bool {
        self.feature_type == feature.feature_type
            && self.pattern.len() <= MAX_PATTERN_LEN
            && matches_wildcard(&self.pattern, &feature.id)
    }
}

/// A query for all features of these types.
pub fn queries(feature_types: &[&str], id: Uuid, now: u64) -> Plaintext {
    let queries: Vec<Value> = feature_types
        .iter()
        .map(|kind| json!({ "feature-type": kind, "match": "*" }))
        .collect();
    Plaintext::new(id, QUERIES, now).with_body(json!({ "queries": queries }))
}

/// The answer to a query; `None` when the message is none. Queries that cannot be read are ignored, as the protocol says.
pub fn answer_queries(
    received: &Verified,
    disclosure: &Disclosure,
    id: Uuid,
    now: u64,
) -> Option<Plaintext> {
    if received.message().kind != QUERIES {
        return None;
    }
    let entries = received
        .message()
        .body
        .get("queries")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    let asked: Vec<Query> = entries
        .unwrap_or_default()
        .iter()
        .take(MAX_QUERIES)
        .filter_map(|entry| Query::deserialize(entry).ok())
        .collect();
    let disclosures = disclosure.matching(&asked);
    Some(reply(received, DISCLOSE, id, now).with_body(json!({ "disclosures": disclosures })))
}

/// Whether `text` is `pattern` with any text in place of each `*`.
fn matches_wildcard(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        // The leftmost occurrence leaves most for what follows.
        let Some((_, after)) = text.split_once(part) else {
            return false;
        };
        text = after;
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches_wildcard;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a", "a", true),
            ("a", "ab", false),
            (
                "https://didcomm.org/trust-ping/2.*",
                "https://didcomm.org/trust-ping/2.0",
                true,
            ),
            (
                "https://didcomm.org/trust-ping/1.*",
                "https://didcomm.org/trust-ping/2.0",
                false,
            ),
            ("*ping*", "https://didcomm.org/trust-ping/2.0", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("**a", "ba", true),
            ("", "a", false),
        ] {
            assert_eq!(
                matches_wildcard(pattern, text),
                expected,
                "{pattern:?} on {text:?}"
            );
        }
    }
}
