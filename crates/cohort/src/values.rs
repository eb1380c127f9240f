//! Points, scalars and hashes as they cross the wire: parsed once, typed from then on.

use std::fmt;
use std::str::FromStr;

use secp256k1::{PublicKey, musig, schnorr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A value that is not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: got {got}, expected {expected}")]
pub struct ValueError {
    what: &'static str,
    got: String,
    expected: &'static str,
}

fn decode<const N: usize>(
    what: &'static str,
    expected: &'static str,
    text: &str,
) -> Result<[u8; N], ValueError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| ValueError {
        what,
        got: shortened(text),
        expected,
    })?;
    Ok(bytes)
}

/// What is quoted of a bad value: enough to recognise it, never enough to flood a log.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(24) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}

/// Implements `Display`, `FromStr` and serde (all as hex text) for a wrapper of a library's type.
macro_rules! hex_value {
    ($name:ident, $len:literal, $what:literal, $expected:literal, $from:expr, $to:expr) => {
        impl $name {
            /// Parses the wire bytes.
            pub fn from_bytes(bytes: &[u8; $len]) -> Result<Self, ValueError> {
                let parse: fn(&[u8; $len]) -> Option<Self> = $from;
                parse(bytes).ok_or_else(|| ValueError {
                    what: $what,
                    got: shortened(&hex::encode(bytes)),
                    expected: $expected,
                })
            }

            /// The wire bytes.
            pub fn to_bytes(self) -> [u8; $len] {
                let bytes: fn(Self) -> [u8; $len] = $to;
                bytes(self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.to_bytes()))
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                Self::from_bytes(&decode($what, $expected, text)?)
            }
        }
    };
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

/// A member's secp256k1 key of one cohort: 33 bytes compressed, hex on the wire. Ordered by those
/// bytes, which is BIP327's KeySort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CohortKey(PublicKey);

hex_value!(
    CohortKey,
    33,
    "cohort key",
    "a compressed secp256k1 point, 33 bytes of hex",
    |bytes| PublicKey::from_byte_array_compressed(*bytes)
        .ok()
        .map(CohortKey),
    |key| key.0.serialize()
);
serde_as_text!(CohortKey);

impl CohortKey {
    pub(crate) fn point(&self) -> &PublicKey {
        &self.0
    }

    /// The x coordinate, 32 bytes: what BIP340 and scripts call the key. A key and its negation share it.
    pub fn x_only(&self) -> [u8; 32] {
        self.0.x_only_public_key().0.to_byte_array()
    }
}

impl From<PublicKey> for CohortKey {
    fn from(key: PublicKey) -> Self {
        Self(key)
    }
}

impl Ord for CohortKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.to_bytes().cmp(&other.to_bytes())
    }
}

impl PartialOrd for CohortKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A BIP340 signature over one of the [statements](crate::statement): 64 bytes, hex on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementSignature(pub(crate) schnorr::Signature);

hex_value!(
    StatementSignature,
    64,
    "signature",
    "a BIP340 signature, 64 bytes of hex",
    |bytes| Some(StatementSignature(schnorr::Signature::from_byte_array(
        *bytes
    ))),
    |signature| signature.0.to_byte_array()
);
serde_as_text!(StatementSignature);

/// A BIP327 partial signature: a 32-byte scalar, hex on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialSignature(pub(crate) musig::PartialSignature);

hex_value!(
    PartialSignature,
    32,
    "partial signature",
    "a scalar below the group order, 32 bytes of hex",
    |bytes| musig::PartialSignature::from_byte_array(bytes)
        .ok()
        .map(PartialSignature),
    |partial| partial.0.serialize()
);
serde_as_text!(PartialSignature);

/// A BIP327 public nonce: two points, on the wire a JSON array of two 33-byte hex strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicNonce(pub(crate) musig::PublicNonce);

hex_value!(
    PublicNonce,
    66,
    "nonce contribution",
    "two compressed secp256k1 points, 33 bytes of hex each",
    |bytes| musig::PublicNonce::from_byte_array(bytes)
        .ok()
        .map(PublicNonce),
    |nonce| nonce.0.serialize()
);

/// A BIP327 aggregated nonce: two points, each of which may be the point at infinity, written as 33
/// zero bytes. On the wire like a [`PublicNonce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AggregatedNonce(pub(crate) musig::AggregatedNonce);

hex_value!(
    AggregatedNonce,
    66,
    "aggregated nonce",
    "two compressed secp256k1 points or 33 zero bytes, as hex",
    |bytes| musig::AggregatedNonce::from_byte_array(bytes)
        .ok()
        .map(AggregatedNonce),
    |nonce| nonce.0.serialize()
);

/// Nonces keep the original system's shape: an array of two hex strings.
macro_rules! serde_as_point_pair {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let bytes = self.to_bytes();
                [hex::encode(&bytes[..33]), hex::encode(&bytes[33..])].serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let [first, second] = <[String; 2]>::deserialize(deserializer)?;
                if first.len() != 66 || second.len() != 66 {
                    return Err(D::Error::custom(format_args!(
                        "got points of {} and {} hex digits, expected 66 each",
                        first.len(),
                        second.len()
                    )));
                }
                (first + &second).parse().map_err(D::Error::custom)
            }
        }
    };
}
serde_as_point_pair!(PublicNonce);
serde_as_point_pair!(AggregatedNonce);
serde_as_point_pair!(NonceBytes);

/// A public nonce as its sender wrote it: 66 bytes that need not be points. What a member signed must be able to convict
/// it, so its contribution is read whatever it says, and judged after its signature was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceBytes(pub [u8; 66]);

hex_value!(
    NonceBytes,
    66,
    "nonce contribution",
    "two times 33 bytes of hex",
    |bytes| Some(NonceBytes(*bytes)),
    |nonce| nonce.0
);

impl NonceBytes {
    /// The two points, if they are.
    pub fn points(&self) -> Result<PublicNonce, ValueError> {
        PublicNonce::from_bytes(&self.0)
    }
}

impl From<PublicNonce> for NonceBytes {
    fn from(nonce: PublicNonce) -> Self {
        Self(nonce.to_bytes())
    }
}

/// A partial signature as its sender wrote it: 32 bytes that need not be a scalar below the group order. Read like
/// [`NonceBytes`], for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialBytes(pub [u8; 32]);

hex_value!(
    PartialBytes,
    32,
    "partial signature",
    "32 bytes of hex",
    |bytes| Some(PartialBytes(*bytes)),
    |partial| partial.0
);
serde_as_text!(PartialBytes);

impl PartialBytes {
    /// The scalar, if it is one.
    pub fn scalar(&self) -> Result<PartialSignature, ValueError> {
        PartialSignature::from_bytes(&self.0)
    }
}

impl From<PartialSignature> for PartialBytes {
    fn from(partial: PartialSignature) -> Self {
        Self(partial.to_bytes())
    }
}

/// SHA-256 over the canonical form (RFC 8785) of a cohort's terms, as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermsHash(pub [u8; 32]);

/// What a member agreed to when it acknowledged a set cohort; see [`crate::statement::cohort_ack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckHash(pub [u8; 32]);

/// New hashes of this protocol are base64url without padding.
macro_rules! base64url_hash {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
                URL_SAFE_NO_PAD
                    .decode(text)
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| ValueError {
                        what: "hash",
                        got: shortened(text),
                        expected: "32 bytes as base64url without padding",
                    })
            }
        }

        serde_as_text!($name);
    };
}
base64url_hash!(TermsHash);
base64url_hash!(AckHash);

/// A transaction as consensus-encoded hex, the form of `pending_tx` and `transaction`.
pub mod transaction_hex {
    use bitcoin::Transaction;
    use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes the hex.
    pub fn serialize<S: Serializer>(tx: &Transaction, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serialize_hex(tx))
    }

    /// Reads the hex; trailing bytes are refused.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Transaction, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        deserialize_hex(&text).map_err(|error| {
            D::Error::custom(format_args!(
                "transaction is not consensus-encoded hex: {error}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

    #[test]
    fn values_survive_a_round_trip_and_refuse_what_they_are_not() {
        let key: CohortKey = G.parse().unwrap();
        assert_eq!(serde_json::to_value(key).unwrap(), serde_json::json!(G));
        let not_on_the_curve = format!("02{}", "ff".repeat(32));
        assert!(
            not_on_the_curve
                .parse::<CohortKey>()
                .unwrap_err()
                .to_string()
                .contains("cohort key")
        );
        assert!("02".parse::<CohortKey>().is_err());
        assert!(
            "ff".repeat(32).parse::<PartialSignature>().is_err(),
            "at least the group order"
        );
    }

    #[test]
    fn a_nonce_is_two_points_and_only_an_aggregate_may_hold_infinity() {
        let zero = "00".repeat(33);
        let pair = serde_json::json!([G, G]);
        let nonce: PublicNonce = serde_json::from_value(pair.clone()).unwrap();
        assert_eq!(serde_json::to_value(nonce).unwrap(), pair);
        assert!(serde_json::from_value::<PublicNonce>(serde_json::json!([G, zero])).is_err());
        assert!(serde_json::from_value::<AggregatedNonce>(serde_json::json!([G, zero])).is_ok());
        let (long, short) = (format!("{G}00"), &G[..64]);
        assert!(serde_json::from_value::<PublicNonce>(serde_json::json!([long, short])).is_err());
        assert!(serde_json::from_value::<NonceBytes>(serde_json::json!([long, short])).is_err());
    }

    #[test]
    fn contributions_are_read_as_they_were_written_and_judged_later() {
        let written = serde_json::json!([G, "ff".repeat(33)]);
        let nonce: NonceBytes = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(nonce).unwrap(), written);
        assert!(nonce.points().is_err());
        let partial: PartialBytes = "ff".repeat(32).parse().unwrap();
        assert!(partial.scalar().is_err());
        let honest: PublicNonce = format!("{G}{G}").parse().unwrap();
        assert_eq!(NonceBytes::from(honest).points(), Ok(honest));
    }
}
