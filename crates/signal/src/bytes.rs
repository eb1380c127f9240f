//! The text forms that all 32-byte values share: base64url without padding on the wire, hex for the command line.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserializer, Visitor};

/// Length of 32 bytes in base64url without padding, in characters.
const BASE64URL_LEN: usize = 43;
/// Length of 32 bytes in hex, in characters.
const HEX_LEN: usize = 64;

/// A text that does not stand for exactly 32 bytes.
///
/// The messages never quote the text: it may be a leaf nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// The text has the wrong length for 32 bytes.
    #[error("got {got} characters, expected {expected} (32 bytes in {encoding})")]
    Length {
        /// Length of the text, in bytes of its UTF-8 form.
        got: usize,
        /// The only accepted length.
        expected: usize,
        /// Name of the encoding.
        encoding: &'static str,
    },
    /// The length is right, but a symbol is foreign to the encoding or the unused last bits are not zero.
    #[error(
        "got a symbol or trailing bits outside the encoding, expected 32 bytes in canonical {encoding}"
    )]
    Encoding {
        /// Name of the encoding.
        encoding: &'static str,
    },
}

/// The 43 characters of base64url without padding.
pub(crate) fn to_base64url(bytes: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Accepts the canonical 43 characters only, so that each value has one text form and hashes of JSON cannot be moved.
pub(crate) fn from_base64url(text: &str) -> Result<[u8; 32], ParseBytesError> {
    let encoding = "base64url without padding";
    let got = text.len();
    if got != BASE64URL_LEN {
        return Err(ParseBytesError::Length {
            got,
            expected: BASE64URL_LEN,
            encoding,
        });
    }
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(ParseBytesError::Encoding { encoding })
}

/// Accepts 64 hexadecimal digits of either case.
pub(crate) fn from_hex(text: &str) -> Result<[u8; 32], ParseBytesError> {
    let got = text.len();
    if got != HEX_LEN {
        return Err(ParseBytesError::Length {
            got,
            expected: HEX_LEN,
            encoding: "hex",
        });
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| ParseBytesError::Encoding { encoding: "hex" })?;
    Ok(bytes)
}

/// Reads 32 bytes from a string of base64url without padding.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[u8; 32], D::Error> {
    struct Base64Url;

    impl Visitor<'_> for Base64Url {
        type Value = [u8; 32];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string of 43 characters: 32 bytes in base64url without padding")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            from_base64url(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Base64Url)
}

/// Defines public 32-byte values with one set of text forms: `Display`, `FromStr` and serde speak base64url without
/// padding, `to_hex` and `from_hex` speak hex. Every value of 32 bytes is valid, so the field is public.
macro_rules! bytes32 {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The 64 lower-case hexadecimal digits.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }

            /// Reads exactly 64 hexadecimal digits.
            pub fn from_hex(text: &str) -> Result<Self, $crate::ParseBytesError> {
                $crate::bytes::from_hex(text).map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&$crate::bytes::to_base64url(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::ParseBytesError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::bytes::from_base64url(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::bytes::deserialize(deserializer).map(Self)
            }
        }
    )+};
}
pub(crate) use bytes32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;

    const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn base64url_is_strict() {
        assert_eq!(ZERO.parse(), Ok(Root([0; 32])));
        for (text, why) in [
            ("", "empty"),
            (&ZERO[1..], "too short"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "padded"),
            (
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB",
                "unused last bits are set",
            ),
            (
                "+AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "symbol of plain base64",
            ),
            (" AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "space"),
            (
                "éAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "43 bytes, but 42 characters",
            ),
        ] {
            assert!(text.parse::<Root>().is_err(), "{why}");
        }
    }

    #[test]
    fn hex_is_strict() {
        let bytes = std::array::from_fn(|i| u8::try_from(i * 8).unwrap());
        assert_eq!(Root::from_hex(&Root(bytes).to_hex()), Ok(Root(bytes)));
        assert_eq!(
            Root::from_hex(&Root(bytes).to_hex().to_uppercase()),
            Ok(Root(bytes))
        );
        assert_eq!(
            Root::from_hex(&"0".repeat(63)),
            Err(ParseBytesError::Length {
                got: 63,
                expected: 64,
                encoding: "hex"
            })
        );
        assert_eq!(
            Root::from_hex(&"g".repeat(64)),
            Err(ParseBytesError::Encoding { encoding: "hex" })
        );
    }

    #[test]
    fn errors_name_both_values() {
        assert_eq!(
            "AAA".parse::<Root>().unwrap_err().to_string(),
            "got 3 characters, expected 43 (32 bytes in base64url without padding)"
        );
    }

    #[test]
    fn text_forms_agree() {
        let root = Root([0xfb; 32]);
        let text = root.to_string();
        assert_eq!(text.parse(), Ok(root));
        assert_eq!(serde_json::to_string(&root).unwrap(), format!("\"{text}\""));
        assert_eq!(
            serde_json::from_str::<Root>(&format!("\"{text}\"")).unwrap(),
            root
        );
        assert_eq!(format!("{root:?}"), format!("Root({text})"));
        assert!(serde_json::from_str::<Root>("[0]").is_err());
    }
}
