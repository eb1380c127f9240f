//! The plaintext of a DIDComm v2 message.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use crate::did::Did;

/// Media type of a plaintext message.
pub const PLAINTEXT_TYP: &str = "application/didcomm-plain+json";
/// Longest `id`, `thid`, `pthid` and entry of `ack` or `please_ack`, in bytes.
pub const MAX_ID_LEN: usize = 128;
/// Longest `type`, in bytes.
pub const MAX_TYPE_LEN: usize = 256;
/// Most entries of `to`, `ack`, `please_ack` and `attachments`.
pub const MAX_ENTRIES: usize = 16;
/// Seconds that a message is valid unless it says otherwise: 24 hours.
pub const DEFAULT_LIFETIME: u64 = 24 * 60 * 60;

/// A DIDComm v2 plaintext message (DIDComm Messaging 2.1, "Plaintext Message Structure"; protocol page, section 2).
///
/// Times are Unix seconds. Members that are not listed here are ignored on input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plaintext {
    /// Unique per sender; ours are UUIDs. 1 to [`MAX_ID_LEN`] bytes.
    pub id: String,
    #[serde(default)]
    typ: Typ,
    /// Message type URI, at most [`MAX_TYPE_LEN`] bytes.
    #[serde(rename = "type")]
    pub kind: String,
    /// The DID that claims to have sent it; [`pack`](crate::pack) fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Did>,
    /// The DIDs it is meant for; a bare string is read as a list of one. [`pack`](crate::pack) fills it in.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub to: Vec<Did>,
    /// Thread; without it, `id` names the thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thid: Option<String>,
    /// Parent thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pthid: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<u64>,
    /// When it stops being valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_time: Option<u64>,
    /// Whether answers may come back on the same connection.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known_or_none"
    )]
    pub return_route: Option<ReturnRoute>,
    /// Messages whose receipt should be acknowledged; an empty string means this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub please_ack: Vec<String>,
    /// Ids of messages whose receipt is acknowledged by this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ack: Vec<String>,
    /// Content, as the type says; always a JSON object.
    #[serde(default = "empty_body")]
    pub body: Value,
    /// Attachments as they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
}

/// What a sender offers about the connection it uses (DIDComm extension "return route").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnRoute {
    /// Nothing may come back.
    None,
    /// Anything for the sender may come back.
    All,
    /// Only messages of this thread may come back.
    Thread,
}

impl Plaintext {
    /// A message made at `now` (Unix seconds) that is valid for [`DEFAULT_LIFETIME`].
    pub fn new(id: Uuid, kind: impl Into<String>, now: u64) -> Self {
        Self {
            id: id.to_string(),
            typ: Typ,
            kind: kind.into(),
            from: None,
            to: Vec::new(),
            thid: None,
            pthid: None,
            created_time: Some(now),
            expires_time: Some(now.saturating_add(DEFAULT_LIFETIME)),
            return_route: None,
            please_ack: Vec::new(),
            ack: Vec::new(),
            body: empty_body(),
            attachments: Vec::new(),
        }
    }

    /// The same with this content, a JSON object.
    #[must_use]
    pub fn with_body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }

    /// The same in this thread.
    #[must_use]
    pub fn with_thid(mut self, thid: impl Into<String>) -> Self {
        self.thid = Some(thid.into());
        self
    }

    /// The same below this parent thread.
    #[must_use]
    pub fn with_pthid(mut self, pthid: impl Into<String>) -> Self {
        self.pthid = Some(pthid.into());
        self
    }

    /// The same, valid until `time` (Unix seconds).
    #[must_use]
    pub fn expiring_at(mut self, time: u64) -> Self {
        self.expires_time = Some(time);
        self
    }

    /// The same with an offer about the connection it is sent on.
    #[must_use]
    pub fn with_return_route(mut self, route: ReturnRoute) -> Self {
        self.return_route = Some(route);
        self
    }

    /// The same, acknowledging a message.
    #[must_use]
    pub fn with_ack(mut self, id: impl Into<String>) -> Self {
        self.ack.push(id.into());
        self
    }

    /// The thread that this message belongs to: `thid`, or its own id.
    pub fn thread(&self) -> &str {
        self.thid.as_deref().unwrap_or(&self.id)
    }

    /// Checks every length and the body's kind; done for what comes in and for what goes out.
    pub(crate) fn check(&self) -> Result<(), MessageError> {
        if !self.body.is_object() {
            return Err(MessageError::Body);
        }
        check_len("id", &self.id, 1, MAX_ID_LEN)?;
        check_len("type", &self.kind, 1, MAX_TYPE_LEN)?;
        for (member, value) in [("thid", &self.thid), ("pthid", &self.pthid)] {
            if let Some(value) = value {
                check_len(member, value, 1, MAX_ID_LEN)?;
            }
        }
        let counts = [
            ("to", self.to.len()),
            ("ack", self.ack.len()),
            ("please_ack", self.please_ack.len()),
            ("attachments", self.attachments.len()),
        ];
        for (member, got) in counts {
            if got > MAX_ENTRIES {
                return Err(MessageError::TooMany { member, got });
            }
        }
        self.ack
            .iter()
            .try_for_each(|id| check_len("ack", id, 1, MAX_ID_LEN))?;
        self.please_ack
            .iter()
            .try_for_each(|id| check_len("please_ack", id, 0, MAX_ID_LEN))
    }
}

/// A member of a plaintext that is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Too short or too long.
    #[error("{member} of {got} bytes, expected {min} to {max}")]
    Length {
        /// Member name.
        member: &'static str,
        /// Its length in bytes.
        got: usize,
        /// Least length.
        min: usize,
        /// Greatest length.
        max: usize,
    },
    /// The body is a list, a text, a number or null.
    #[error("body is not a JSON object")]
    Body,
    /// Too many entries.
    #[error("{member} with {got} entries, expected at most {MAX_ENTRIES}")]
    TooMany {
        /// Member name.
        member: &'static str,
        /// Number of entries.
        got: usize,
    },
}

fn check_len(
    member: &'static str,
    value: &str,
    min: usize,
    max: usize,
) -> Result<(), MessageError> {
    let got = value.len();
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(MessageError::Length {
            member,
            got,
            min,
            max,
        })
    }
}

fn empty_body() -> Value {
    Value::Object(Map::new())
}

/// The constant member `typ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Typ;

impl Serialize for Typ {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(PLAINTEXT_TYP)
    }
}

impl<'de> Deserialize<'de> for Typ {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The second spelling goes with the outer `application/didcomm+encrypted` that some Python agents send.
        match String::deserialize(deserializer)?.as_str() {
            PLAINTEXT_TYP | "application/didcomm+plain" => Ok(Self),
            other => Err(serde::de::Error::custom(format_args!(
                "typ {}, expected {PLAINTEXT_TYP}",
                crate::text::excerpt(other)
            ))),
        }
    }
}

/// Reads `"did:…"` as `["did:…"]`: the original agents sent a bare string.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Did>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum To {
        One(Did),
        Many(Vec<Did>),
        Null(()),
    }
    Ok(match To::deserialize(deserializer)? {
        To::One(did) => vec![did],
        To::Many(dids) => dids,
        To::Null(()) => Vec::new(),
    })
}

/// An unknown return route is an offer that we do not understand, not a malformed message.
fn known_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ReturnRoute>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn ours_carry_typ_times_and_nothing_empty() {
        let message = Plaintext::new(Uuid::nil(), "https://example.org/x/1.0/y", NOW)
            .with_body(json!({"a": 1}));
        assert_eq!(
            serde_json::to_value(&message).unwrap(),
            json!({
                "id": "00000000-0000-0000-0000-000000000000",
                "typ": "application/didcomm-plain+json",
                "type": "https://example.org/x/1.0/y",
                "created_time": NOW,
                "expires_time": NOW + 86_400,
                "body": {"a": 1},
            })
        );
    }

    #[test]
    fn liberal_in_what_is_accepted() {
        let message: Plaintext = serde_json::from_value(json!({
            "id": "1", "type": "t", "to": "did:example:bob", "from": "did:example:alice", "body": {},
            "return_route": "carrier-pigeon", "typ": "application/didcomm+plain", "lang": "en", "from_prior": null,
            "thid": null,
        }))
        .unwrap();
        assert_eq!(message.to, vec!["did:example:bob".parse().unwrap()]);
        assert_eq!((message.return_route, message.thread()), (None, "1"));
        let bare: Plaintext = serde_json::from_value(json!({"id": "1", "type": "t"})).unwrap();
        assert_eq!((&bare.body, bare.to.len()), (&json!({}), 0));
        assert_eq!(bare.check(), Ok(()));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        for bad in [
            json!({"type": "t"}),
            json!({"id": "1"}),
            json!({"id": 1, "type": "t"}),
            json!({"id": "1", "type": "t", "typ": "application/didcomm-signed+json"}),
            json!({"id": "1", "type": "t", "from": "alice"}),
            json!({"id": "1", "type": "t", "to": ["did:example:bob#key-1"]}),
            json!({"id": "1", "type": "t", "to": 7}),
            json!({"id": "1", "type": "t", "expires_time": -1}),
            json!({"id": "1", "type": "t", "expires_time": "soon"}),
            json!([]),
        ] {
            assert!(
                serde_json::from_value::<Plaintext>(bad.clone()).is_err(),
                "{bad} was accepted"
            );
        }
    }

    #[test]
    fn every_length_is_bounded_and_the_body_is_an_object() {
        let good = Plaintext::new(Uuid::nil(), "t", NOW);
        let long = || "x".repeat(MAX_ID_LEN + 1);
        let many = || vec!["a".to_owned(); MAX_ENTRIES + 1];
        let spoil: [fn(&mut Plaintext, String, Vec<String>); 12] = [
            |m, _, _| m.body = json!([]),
            |m, _, _| m.body = Value::Null,
            |m, long, _| m.id = long,
            |m, _, _| m.id = String::new(),
            |m, _, _| m.kind = "x".repeat(MAX_TYPE_LEN + 1),
            |m, long, _| m.thid = Some(long),
            |m, long, _| m.pthid = Some(long),
            |m, long, _| m.ack = vec![long],
            |m, long, _| m.please_ack = vec![long],
            |m, _, many| m.ack = many,
            |m, _, many| m.to = vec!["did:example:bob".parse().unwrap(); many.len()],
            |m, _, many| m.attachments = many.into_iter().map(Value::from).collect(),
        ];
        assert_eq!(good.check(), Ok(()));
        for (case, spoil) in spoil.into_iter().enumerate() {
            let mut message = good.clone();
            spoil(&mut message, long(), many());
            assert!(message.check().is_err(), "case {case} was accepted");
        }
    }
}
