//! What goes into a leaf: the index of a DID, the leaf nonce and the update (protocol section 6, "The tree").

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::bytes::{self, bytes32};
use crate::hash::{bit_at, sha256, sha256_pair};

bytes32! {
    /// The place of a DID in the tree: SHA-256 of its UTF-8 form.
    ///
    /// The specification uses no salt here, so whoever knows a DID can test whether an index is its.
    Index;

    /// The hash that stands for a signed update: SHA-256 of its JCS form.
    UpdateId;

    /// The value of a leaf, which says whether a DID is updated by a signal, to those who know the leaf nonce only.
    LeafValue;

    /// The root of the tree: the 32 bytes that the beacon transaction carries.
    Root;
}

impl Index {
    /// The index of a DID, hashed as it is: no normalisation is defined, so give the exact string.
    pub fn of_did(did: &str) -> Self {
        Self(sha256(did.as_bytes()))
    }

    /// Bit `level`: 0 (the most significant bit of the first byte) decides the side at the root, 255 at the leaf; a
    /// set bit goes right.
    pub(crate) fn bit(&self, level: u8) -> bool {
        bit_at(&self.0, level)
    }

    /// The level at which the paths of two indexes part, or `None` when they are equal.
    pub(crate) fn parts_from(&self, other: &Self) -> Option<u8> {
        if self == other {
            return None;
        }
        (0..=u8::MAX).find(|&level| self.bit(level) != other.bit(level))
    }
}

impl LeafValue {
    /// The value of a leaf that nothing was put into, `Z0 = H(0³² ‖ 0³²)`.
    ///
    /// It is the same for everybody: who uses it for a DID tells all holders of a proof that there is no update.
    pub const EMPTY: Self = Self([
        0xf5, 0xa5, 0xfd, 0x42, 0xd1, 0x6a, 0x20, 0x30, 0x27, 0x98, 0xef, 0x6e, 0xd3, 0x09, 0x97,
        0x9b, 0x43, 0x00, 0x3d, 0x23, 0x20, 0xd9, 0xf0, 0xe8, 0xea, 0x98, 0x31, 0xa9, 0x27, 0x59,
        0xfb, 0x4b,
    ]);

    /// An update, hidden by the nonce: `H(H(nonce) ‖ updateId)`.
    pub fn update(nonce: &LeafNonce, update: &UpdateId) -> Self {
        Self::with_nonce(nonce.as_bytes(), Some(update))
    }

    /// No update, and with the nonce not to be told from one: `H(H(nonce))`.
    pub fn no_update(nonce: &LeafNonce) -> Self {
        Self::with_nonce(nonce.as_bytes(), None)
    }

    /// The same for a nonce of any length, as a resolver may meet one: other implementations choose theirs.
    pub fn with_nonce(nonce: &[u8], update: Option<&UpdateId>) -> Self {
        let hidden = sha256(nonce);
        match update {
            Some(update) => Self(sha256_pair(&hidden, &update.0)),
            None => Self(sha256(&hidden)),
        }
    }

    /// An update in the open: the update id itself.
    pub fn update_without_nonce(update: &UpdateId) -> Self {
        Self(update.0)
    }
}

/// The 32 random bytes that hide one DID's leaf in one round.
///
/// A leaf nonce is kept for as long as the DID lives, for without it the signal cannot be resolved, and it is never
/// shown to the coordinator. It has nothing to do with the secret nonces of MuSig2, which are never stored.
/// `Debug` is redacted, there is no `Display`, and the memory is wiped on drop.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LeafNonce([u8; 32]);

impl LeafNonce {
    /// Takes 32 bytes that must come from a secure source and be used for one DID in one round only.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The bytes, for a store that has its own encoding.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LeafNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafNonce(redacted)")
    }
}

impl Serialize for LeafNonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes::to_base64url(&self.0))
    }
}

impl<'de> Deserialize<'de> for LeafNonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bytes::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::levels_up;

    #[test]
    fn the_empty_leaf_is_the_first_cached_zero() {
        assert_eq!(LeafValue::EMPTY.0, sha256(&[0; 64]));
        assert_eq!(
            levels_up().next().map(|(_, zero)| zero.0),
            Some(LeafValue::EMPTY.0)
        );
    }

    #[test]
    fn leaf_values_follow_their_formulas() {
        let (nonce, update) = (LeafNonce::new([1; 32]), UpdateId([2; 32]));
        let blinded = [sha256(&[1; 32]), [2; 32]].concat();
        assert_eq!(LeafValue::update(&nonce, &update).0, sha256(&blinded));
        assert_eq!(LeafValue::no_update(&nonce).0, sha256(&sha256(&[1; 32])));
        assert_eq!(LeafValue::update_without_nonce(&update).0, [2; 32]);
    }

    #[test]
    fn indexes_part_at_the_first_different_bit() {
        let index = Index([0b0101_0101; 32]);
        assert_eq!(index.parts_from(&index), None);
        for level in 0..=u8::MAX {
            let mut other = index;
            other.0[usize::from(level / 8)] ^= 0x80 >> (level % 8);
            other.0[31] ^= u8::from(level < 255);
            assert_eq!(index.parts_from(&other), Some(level));
        }
    }

    #[test]
    fn a_leaf_nonce_is_stored_but_never_shown() {
        let nonce = LeafNonce::new([0xab; 32]);
        let json = serde_json::to_string(&nonce).unwrap();
        assert_eq!(json, "\"q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s\"");
        assert_eq!(serde_json::from_str::<LeafNonce>(&json).unwrap(), nonce);
        assert_eq!(format!("{nonce:?}"), "LeafNonce(redacted)");
        let error =
            serde_json::from_str::<LeafNonce>("\"q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6t\"")
                .unwrap_err();
        assert!(!error.to_string().contains("q6ur"), "{error}");
    }
}
