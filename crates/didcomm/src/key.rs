//! Public keys in multibase and multicodec form (`Multikey`, `did:key`), and the checks that X25519 needs.

use multibase::Base;
use ssi_multicodec::{
    BLS12_381_G2_PUB, ED25519_PUB, MultiEncoded, MultiEncodedBuf, P256_PUB, P384_PUB, P521_PUB,
    SECP256K1_PUB, X25519_PUB,
};
use thiserror::Error;

/// Longest key text: 134 characters hold a BLS12-381 G2 key, the longest of the known kinds.
const MAX_KEY_CHARS: usize = 160;

/// Why a text is not a public key that documents may hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not base58btc multibase, or longer than any known key.
    #[error("key is not base58btc multibase of at most {MAX_KEY_CHARS} characters")]
    Encoding,
    /// A multicodec that is not in our table of public keys.
    #[error("multicodec {codec:#x} is not a known public key kind")]
    UnknownKind {
        /// The multicodec read.
        codec: u64,
    },
    /// The right kind with the wrong number of bytes.
    #[error("key of {got} bytes, expected {expected} for multicodec {codec:#x}")]
    Length {
        /// The multicodec read.
        codec: u64,
        /// Bytes read.
        got: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// A point whose shared secret anybody can compute.
    #[error("key is a point of small order")]
    SmallOrder,
    /// Not a point of its curve.
    #[error("key is not a point of its curve")]
    NotOnCurve,
}

/// A public key as a DID or a document names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) codec: u64,
    pub(crate) bytes: Vec<u8>,
}

impl PublicKey {
    pub(crate) fn ed25519(bytes: &[u8; 32]) -> Self {
        Self {
            codec: ED25519_PUB,
            bytes: bytes.to_vec(),
        }
    }

    pub(crate) fn x25519(bytes: &[u8; 32]) -> Self {
        Self {
            codec: X25519_PUB,
            bytes: bytes.to_vec(),
        }
    }

    /// Parses `z…` (base58btc of multicodec and key).
    pub(crate) fn from_multibase(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_CHARS {
            return Err(KeyError::Encoding);
        }
        let (base, bytes) = multibase::decode(text).map_err(|_| KeyError::Encoding)?;
        if base != Base::Base58Btc {
            return Err(KeyError::Encoding);
        }
        let (codec, key) = MultiEncoded::new(&bytes)
            .map_err(|_| KeyError::Encoding)?
            .parts();
        let expected = key_length(codec).ok_or(KeyError::UnknownKind { codec })?;
        if key.len() != expected {
            return Err(KeyError::Length {
                codec,
                got: key.len(),
                expected,
            });
        }
        let key = Self {
            codec,
            bytes: key.to_vec(),
        };
        if key.as_x25519().is_some_and(|point| is_small_order(&point)) {
            return Err(KeyError::SmallOrder);
        }
        Ok(key)
    }

    pub(crate) fn to_multibase(&self) -> String {
        let encoded = MultiEncodedBuf::encode_bytes(self.codec, &self.bytes);
        multibase::encode(Base::Base58Btc, encoded.as_bytes())
    }

    pub(crate) fn as_x25519(&self) -> Option<[u8; 32]> {
        if self.codec == X25519_PUB {
            self.bytes.as_slice().try_into().ok()
        } else {
            None
        }
    }

    /// The X25519 key of an Ed25519 one (the birational map that `did:key` prescribes); `None` for other kinds.
    pub(crate) fn derived_key_agreement(&self) -> Result<Option<Self>, KeyError> {
        if self.codec != ED25519_PUB {
            return Ok(None);
        }
        let bytes: &[u8; 32] = self
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyError::NotOnCurve)?;
        let point =
            ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NotOnCurve)?;
        if point.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        Ok(Some(Self::x25519(point.to_montgomery().as_bytes())))
    }
}

/// Encoded length in bytes of the public key kinds that a document of ours may hold.
fn key_length(codec: u64) -> Option<usize> {
    match codec {
        ED25519_PUB | X25519_PUB => Some(32),
        P256_PUB | SECP256K1_PUB => Some(33),
        P384_PUB => Some(49),
        P521_PUB => Some(67),
        BLS12_381_G2_PUB => Some(96),
        _ => None,
    }
}

/// Whether an X25519 public key is one of the points of order 1, 2, 4 or 8, in any of their encodings.
///
/// With such a key the shared secret is zero for everybody, so an envelope "proves" nothing (RFC 7748, section 6.1).
/// The list replaces a scalar multiplication per message.
pub(crate) fn is_small_order(point: &[u8; 32]) -> bool {
    const POINTS: [[u8; 32]; 7] = [
        with_ends(0x00, 0x00, 0x00),
        with_ends(0x01, 0x00, 0x00),
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83,
            0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd,
            0xd0, 0x9f, 0x11, 0x57,
        ],
        with_ends(0xec, 0xff, 0x7f),
        with_ends(0xed, 0xff, 0x7f),
        with_ends(0xee, 0xff, 0x7f),
    ];
    let mut masked = *point;
    // X25519 ignores the highest bit.
    masked[31] &= 0x7f;
    POINTS.contains(&masked)
}

/// 32 bytes `first middle… last`.
const fn with_ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multibase_round_trips_and_names_the_kind() {
        for text in [
            "z6Mkj3PUd1WjvaDhNZhhhXQdz5UnZXmS7ehtx8bsPpD47kKc",
            "z6LSg8zQom395jKLrGiBNruB9MM6V8PWuf2FpEy4uRFiqQBR",
        ] {
            assert_eq!(
                PublicKey::from_multibase(text).unwrap().to_multibase(),
                text
            );
        }
        let key =
            PublicKey::from_multibase("z6LSg8zQom395jKLrGiBNruB9MM6V8PWuf2FpEy4uRFiqQBR").unwrap();
        assert!(key.as_x25519().is_some());
    }

    #[test]
    fn wrong_base_kind_and_length_are_told_apart() {
        let encode = |codec, bytes: &[u8]| {
            PublicKey::from_multibase(
                &PublicKey {
                    codec,
                    bytes: bytes.to_vec(),
                }
                .to_multibase(),
            )
        };
        assert_eq!(PublicKey::from_multibase("f00"), Err(KeyError::Encoding));
        assert_eq!(PublicKey::from_multibase(""), Err(KeyError::Encoding));
        assert_eq!(
            PublicKey::from_multibase(&"z".repeat(MAX_KEY_CHARS + 1)),
            Err(KeyError::Encoding)
        );
        assert_eq!(
            encode(0x0200, &[1; 32]),
            Err(KeyError::UnknownKind { codec: 0x0200 })
        );
        let short = KeyError::Length {
            codec: X25519_PUB,
            got: 31,
            expected: 32,
        };
        assert_eq!(encode(X25519_PUB, &[9; 31]), Err(short));
        assert!(
            encode(BLS12_381_G2_PUB, &[7; 96]).is_ok(),
            "the longest kind must fit the limit"
        );
    }

    #[test]
    fn small_order_list_agrees_with_the_curve() {
        use x25519_dalek::{PublicKey as Point, StaticSecret};
        let secret = StaticSecret::from([0x42; 32]);
        let contributory = |bytes: [u8; 32]| {
            secret
                .diffie_hellman(&Point::from(bytes))
                .was_contributory()
        };
        let mut listed = 0;
        for first in 0..=255u8 {
            for bytes in [
                with_ends(first, 0, 0),
                with_ends(first, 0xff, 0x7f),
                with_ends(first, 0xff, 0xff),
            ] {
                assert_eq!(is_small_order(&bytes), !contributory(bytes), "{bytes:?}");
                listed += usize::from(is_small_order(&bytes));
            }
        }
        assert_eq!(listed, 2 + 3 + 3);
        for text in [
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ] {
            let bytes: [u8; 32] = hex::decode(text).unwrap().try_into().unwrap();
            assert!(is_small_order(&bytes) && !contributory(bytes));
        }
        let zero = PublicKey::x25519(&[0; 32]).to_multibase();
        assert_eq!(PublicKey::from_multibase(&zero), Err(KeyError::SmallOrder));
    }
}
