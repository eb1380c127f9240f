//! Decentralized identifiers as values that cannot be malformed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::excerpt;

/// Longest DID that is accepted, in bytes.
///
/// A `did:peer:4` long form holds a whole document (the published example is 1.5 KB); base58 decoding is
/// quadratic, so the limit also bounds what a stranger can make us compute.
pub const MAX_DID_LEN: usize = 4096;

/// Longest fragment of a key identifier that is accepted, in bytes.
pub(crate) const MAX_FRAGMENT_LEN: usize = 128;

/// A decentralized identifier: `did:<method>:<method-specific id>`, at most [`MAX_DID_LEN`] bytes, without path, query
/// or fragment (DID Core 1.0, section 3.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Did(String);

impl Did {
    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The method name, such as `peer`.
    pub fn method(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or_default()
    }

    /// Everything after `did:<method>:`.
    pub fn method_specific_id(&self) -> &str {
        self.0.splitn(3, ':').nth(2).unwrap_or_default()
    }

    /// The absolute key identifier for a document's own `#fragment` or absolute `id`.
    pub(crate) fn absolute(&self, id: &str) -> String {
        if id.starts_with('#') {
            format!("{}{id}", self.0)
        } else {
            id.to_owned()
        }
    }
}

impl FromStr for Did {
    type Err = ParseDidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Did {
    type Error = ParseDidError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        check(&text)?;
        Ok(Self(text))
    }
}

impl From<Did> for String {
    fn from(did: Did) -> Self {
        did.0
    }
}

impl AsRef<str> for Did {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Did({})", self.0)
    }
}

/// Why a text is not a DID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseDidError {
    /// Longer than [`MAX_DID_LEN`].
    #[error("did of {got} bytes, expected at most {MAX_DID_LEN}")]
    TooLong {
        /// Length of the text in bytes.
        got: usize,
    },
    /// Not of the form `did:<method>:<id>`.
    #[error("got {got}, expected did:<method>:<identifier>")]
    Syntax {
        /// The start of the text.
        got: String,
    },
    /// A key identifier without `#fragment`, or with an unusable one.
    #[error("got key id {got}, expected did:<method>:<identifier>#<fragment>")]
    NotAKeyId {
        /// The start of the text.
        got: String,
    },
}

/// Splits an absolute key identifier into its DID and its fragment (without `#`).
pub(crate) fn split_kid(kid: &str) -> Result<(Did, &str), ParseDidError> {
    let not_a_kid = || ParseDidError::NotAKeyId { got: excerpt(kid) };
    let (did, fragment) = kid.split_once('#').ok_or_else(not_a_kid)?;
    let legal = |b: u8| b.is_ascii_graphic() && b != b'#';
    if fragment.is_empty() || fragment.len() > MAX_FRAGMENT_LEN || !fragment.bytes().all(legal) {
        return Err(not_a_kid());
    }
    Ok((did.parse()?, fragment))
}

fn check(text: &str) -> Result<(), ParseDidError> {
    if text.len() > MAX_DID_LEN {
        return Err(ParseDidError::TooLong { got: text.len() });
    }
    let syntax = || ParseDidError::Syntax { got: excerpt(text) };
    let rest = text.strip_prefix("did:").ok_or_else(syntax)?;
    let (method, id) = rest.split_once(':').ok_or_else(syntax)?;
    let method_legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if method.is_empty() || !method.bytes().all(method_legal) || !is_method_specific_id(id) {
        return Err(syntax());
    }
    Ok(())
}

/// `*( *idchar ":" ) 1*idchar` with `idchar = ALPHA / DIGIT / "." / "-" / "_" / pct-encoded`.
fn is_method_specific_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    while let Some(byte) = bytes.next() {
        let legal = match byte {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                hex(bytes.next()) && hex(bytes.next())
            }
            b'.' | b'-' | b'_' | b':' => true,
            other => other.is_ascii_alphanumeric(),
        };
        if !legal {
            return false;
        }
    }
    !id.is_empty() && !id.ends_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_text_survives_serde() {
        let did: Did = "did:web:example.com:user%20one".parse().unwrap();
        assert_eq!(
            (did.method(), did.method_specific_id()),
            ("web", "example.com:user%20one")
        );
        let json = serde_json::to_string(&did).unwrap();
        assert_eq!(json, "\"did:web:example.com:user%20one\"");
        assert_eq!(serde_json::from_str::<Did>(&json).unwrap(), did);
    }

    #[test]
    fn what_is_no_did_is_refused() {
        for text in [
            "",
            "did",
            "did:",
            "did:peer",
            "did:peer:",
            "did::x",
            "did:Peer:x",
            "DID:peer:x",
            "did:peer:x#key-1",
            "did:peer:x?q",
            "did:peer:x/y",
            "did:peer:x y",
            "did:peer:x:",
            "did:peer:%zz",
            "did:peer:%4",
            "did:peer:é",
            "did:peer:x=",
        ] {
            assert!(
                matches!(text.parse::<Did>(), Err(ParseDidError::Syntax { .. })),
                "{text:?} was accepted"
            );
            assert!(serde_json::from_value::<Did>(text.into()).is_err());
        }
        let long = format!("did:peer:{}", "a".repeat(MAX_DID_LEN));
        assert_eq!(
            long.parse::<Did>(),
            Err(ParseDidError::TooLong {
                got: MAX_DID_LEN + 9
            })
        );
    }

    #[test]
    fn key_ids_are_split_at_the_fragment() {
        let (did, fragment) = split_kid("did:example:alice#key-1").unwrap();
        assert_eq!((did.as_str(), fragment), ("did:example:alice", "key-1"));
        for kid in [
            "did:example:alice",
            "did:example:alice#",
            "#key-1",
            "did:example:alice#a#b",
            "did:example:alice#a b",
        ] {
            assert!(split_kid(kid).is_err(), "{kid:?} was accepted");
        }
        assert!(
            split_kid(&format!(
                "did:example:alice#{}",
                "k".repeat(MAX_FRAGMENT_LEN + 1)
            ))
            .is_err()
        );
    }

    #[test]
    fn errors_stay_short_and_escape_what_they_quote() {
        let error = format!("\n{}", "x".repeat(5000))
            .parse::<Did>()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "did of 5001 bytes, expected at most 4096"
        );
        let error = "\u{1b}[31mred".parse::<Did>().unwrap_err().to_string();
        assert_eq!(
            error,
            "got \"\\u{1b}[31mred\", expected did:<method>:<identifier>"
        );
    }
}
