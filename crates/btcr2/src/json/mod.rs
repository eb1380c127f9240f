//! JSON from outside: parsed with limits and with one meaning, hashed by its canonical form ("JSON Document Hashing").
//!
//! A value that passed [`parse`] means the same to every reader: no object names a member twice, no text holds half a
//! surrogate pair, and every number is the IEEE 754 double that RFC 8785 hashes. Whole numbers are held as integers, so
//! `2`, `2.0` and `2e0` are equal here as they are in their canonical form.
//!
//! serde_json's own parser is not used, since it keeps the last of two equal members, rounds some decimals to a
//! neighbouring double (without a feature that every crate of the build would pay for) and has no limits.

mod parser;

use std::fmt;
use std::str::FromStr;

use beacon_signal::{ParseBytesError, UpdateId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use parser::{JsonError, parse};

/// No more characters of a text from outside are quoted in a message.
const MAX_QUOTED: usize = 100;

/// How much a JSON text may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the text in bytes.
    pub bytes: usize,
    /// How deep arrays and objects may be inside one another; a scalar has depth 0.
    pub depth: usize,
    /// Number of values: every scalar, array and object counts one.
    pub nodes: usize,
}

impl Limits {
    /// A DID document or genesis document: 128 KiB, 16 levels, 8,192 values.
    pub const DOCUMENT: Self = Self {
        bytes: 128 << 10,
        depth: 16,
        nodes: 8192,
    };

    /// The same for a text that holds such values `levels` levels down.
    #[must_use]
    pub const fn deeper(self, levels: usize) -> Self {
        Self {
            depth: self.depth + levels,
            ..self
        }
    }

    /// A signed update: a patch may replace a whole document.
    pub const UPDATE: Self = Self {
        bytes: 256 << 10,
        depth: Self::DOCUMENT.depth + 4,
        nodes: 2 * Self::DOCUMENT.nodes,
    };

    /// The announcement map of a CAS beacon: 100,000 DIDs.
    pub const ANNOUNCEMENT: Self = Self {
        bytes: 16 << 20,
        depth: 16,
        nodes: 100_001,
    };
}

/// How much something holds that is already parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Length of all texts and member names, in bytes.
    pub(crate) bytes: usize,
    /// How deep arrays and objects are inside one another.
    pub(crate) depth: usize,
    /// Number of values.
    pub(crate) nodes: usize,
}

impl Size {
    pub(crate) fn of(value: &Value) -> Self {
        let one = Self {
            nodes: 1,
            ..Self::default()
        };
        match value {
            Value::String(text) => Self {
                bytes: text.len(),
                ..one
            },
            Value::Array(items) => items.iter().map(Self::of).fold(one.down(), Self::with),
            Value::Object(members) => {
                let members = members.iter().map(|(key, value)| {
                    let of = Self::of(value);
                    Self {
                        bytes: of.bytes + key.len(),
                        ..of
                    }
                });
                members.fold(one.down(), Self::with)
            }
            _ => one,
        }
    }

    /// An array or object is one level, even an empty one.
    fn down(self) -> Self {
        Self { depth: 1, ..self }
    }

    /// An array or object with one more value in it.
    fn with(self, inner: Self) -> Self {
        Self {
            bytes: self.bytes + inner.bytes,
            depth: self.depth.max(inner.depth + 1),
            nodes: self.nodes + inner.nodes,
        }
    }

    pub(crate) fn is_within(&self, limits: &Limits) -> bool {
        self.bytes <= limits.bytes && self.depth <= limits.depth && self.nodes <= limits.nodes
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bytes,
            depth,
            nodes,
        } = self;
        write!(
            f,
            "{nodes} values, {depth} levels deep, with {bytes} bytes of text"
        )
    }
}

/// What a value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value from outside, as short as a message needs it.
pub(crate) fn shorten(value: &Value) -> String {
    shorten_text(value.to_string())
}

/// A text from outside, as short as a message needs it, with its control characters escaped: whoever reads the message in a
/// terminal or a log sees them and does not obey them.
pub(crate) fn shorten_text(text: impl Into<String>) -> String {
    let mut text = text.into();
    if let Some((end, _)) = text.char_indices().nth(MAX_QUOTED) {
        text.truncate(end);
        text.push('…');
    }
    if text.contains(char::is_control) {
        let escape = |character: char| {
            if character.is_control() {
                character.escape_default().collect()
            } else {
                String::from(character)
            }
        };
        text = text.chars().map(escape).collect();
    }
    text
}

/// The canonical form of RFC 8785 (JCS).
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a Value has text keys and finite numbers only, and writing into memory does not fail"
)]
pub fn canonical(value: &Value) -> String {
    serde_jcs::to_string(value).expect("a JSON value has a canonical form")
}

/// SHA-256 of the canonical form: the specification's "JSON Document Hashing".
pub fn hash(value: &Value) -> Hash32 {
    sha256(canonical(value).as_bytes())
}

/// SHA-256 of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Hash32 {
    Hash32(Sha256::digest(bytes).into())
}

/// The SHA-256 hash of a document, an update or an announcement map; in text base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hash32(pub [u8; 32]);

impl Hash32 {
    /// The 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads exactly 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, ParseBytesError> {
        UpdateId::from_hex(text).map(Self::from)
    }
}

impl From<UpdateId> for Hash32 {
    fn from(id: UpdateId) -> Self {
        Self(id.0)
    }
}

impl From<Hash32> for UpdateId {
    fn from(hash: Hash32) -> Self {
        Self(hash.0)
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        UpdateId(self.0).fmt(f)
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash32({self})")
    }
}

impl FromStr for Hash32 {
    type Err = ParseBytesError;

    /// Reads the canonical 43 characters only.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<UpdateId>().map(Self::from)
    }
}

impl From<Hash32> for String {
    fn from(hash: Hash32) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash32 {
    type Error = ParseBytesError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}
