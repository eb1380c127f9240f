//! SHA-256 over raw bytes, the nodes of the tree, and the values of empty subtrees.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use crate::bytes::bytes32;

/// Number of levels in the tree: one for each bit of an index.
pub(crate) const LEVELS: usize = 256;

bytes32! {
    /// The value of a node of the tree, as listed in the `hashes` of a [`Proof`](crate::Proof).
    NodeHash;
}

/// `H(a)`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// `H(a ‖ b)`.
pub(crate) fn sha256_pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(left);
    pair[32..].copy_from_slice(right);
    sha256(&pair)
}

/// The parent of a node and its sibling; `bit` is the index bit of the level, and 0 puts the node on the left.
pub(crate) fn parent(bit: bool, node: &NodeHash, sibling: &NodeHash) -> NodeHash {
    let (left, right) = if bit {
        (sibling, node)
    } else {
        (node, sibling)
    };
    NodeHash(sha256_pair(&left.0, &right.0))
}

/// Bit `level` of 32 bytes. Bit 0 is the most significant bit of the first byte, bit 255 the least significant of the
/// last ("bitAt" in the specification).
pub(crate) fn bit_at(bytes: &[u8; 32], level: u8) -> bool {
    bytes[usize::from(level / 8)] & (0x80 >> (level % 8)) != 0
}

/// The levels from the leaf's to the root's, each with the value of an empty sibling there: `(255, Z0)`, `(254, Z1)`,
/// up to `(0, Z255)`.
pub(crate) fn levels_up() -> impl Iterator<Item = (u8, &'static NodeHash)> {
    (0..=u8::MAX).rev().zip(ZEROS.iter())
}

/// The root of a tree without leaves, `Z256`.
pub(crate) fn empty_root() -> &'static NodeHash {
    &ZEROS[LEVELS]
}

/// `Z0` to `Z256`: the value of an empty subtree by its height ("cachedZero" in the specification, which needs no
/// `Z256`).
static ZEROS: LazyLock<[NodeHash; LEVELS + 1]> = LazyLock::new(|| {
    let mut zero = [0; 32];
    std::array::from_fn(|_| {
        zero = sha256_pair(&zero, &zero);
        NodeHash(zero)
    })
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_the_most_significant_of_the_first_byte() {
        let mut bytes = [0; 32];
        bytes[0] = 0b1010_0000;
        bytes[31] = 0b0000_0001;
        let set: Vec<u8> = (0..=u8::MAX)
            .filter(|&level| bit_at(&bytes, level))
            .collect();
        assert_eq!(set, [0, 2, 255]);
    }

    #[test]
    fn levels_start_at_the_leaf_with_the_empty_leaf() {
        let levels: Vec<_> = levels_up().collect();
        assert_eq!(levels.len(), LEVELS);
        assert_eq!(levels[0], (255, &NodeHash(sha256(&[0; 64]))));
        let (level, top) = levels[255];
        assert_eq!(level, 0);
        assert_eq!(parent(false, top, top), *empty_root());
    }
}
