//! Proofs, which members check before they sign and resolvers check for as long as the DID lives.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::bytes::bytes32;
use crate::hash::{LEVELS, NodeHash, bit_at, levels_up, parent};
use crate::leaf::{Index, LeafNonce, LeafValue, Root, UpdateId};

bytes32! {
    /// The bitmap of a [`Proof`]: bit i, counted from the most significant bit of the first byte, is 1 where the
    /// sibling at level i is an empty subtree, whose value every verifier knows.
    Collapsed;
}

impl Collapsed {
    pub(crate) const ALL: Self = Self([0xff; 32]);

    pub(crate) fn clear(&mut self, level: u8) {
        self.0[usize::from(level / 8)] &= !(0x80 >> (level % 8));
    }

    fn is_empty_at(&self, level: u8) -> bool {
        bit_at(&self.0, level)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }
}

/// A proof that the leaf of one index has a certain value in the tree with root `id`.
///
/// Its JSON is the "SMT Proof" structure of the did:btcr2 specification: `id`, `nonce`, `updateId`, `collapsed`,
/// `hashes`, each hash as 43 characters of base64url without padding. The coordinator leaves `nonce` and `updateId`
/// out; the member puts them in before it stores the proof, for one with neither proves the empty leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// The root of the tree, equal to the signal bytes on the chain.
    pub id: Root,
    /// The leaf nonce, absent where the leaf has none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub nonce: Option<LeafNonce>,
    /// The update, absent where the signal announces none for this DID.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub update_id: Option<UpdateId>,
    /// Where the siblings are empty.
    pub collapsed: Collapsed,
    /// The other siblings from the leaf to the root, at most 256.
    #[serde(deserialize_with = "at_most_256")]
    pub hashes: Vec<NodeHash>,
}

/// Who verifies, for the one rule on which that could make a difference.
///
/// Earlier texts of the specification let `hashes` list the value of an empty subtree that the bitmap should have
/// collapsed, so that one leaf had several valid proofs. Members have always refused such a proof. The current text
/// (dcdpr/did-btcr2 `src/algorithms.md` at commit 0070624, pull request 370) makes every verifier refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// A member of the cohort that reviews a coordinator's proof before it signs.
    Member,
    /// Anyone who resolves a DID: exactly what the specification says.
    Resolver,
}

impl Strictness {
    /// The only place that decides about a listed hash equal to the cached zero of its level.
    const fn refuses_listed_zero(self) -> bool {
        match self {
            Self::Member | Self::Resolver => true,
        }
    }
}

/// The rule that a proof broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Listed and collapsed siblings do not make up one for each level.
    #[error("proof has {hashes} hashes and {collapsed} collapsed levels, expected 256 together")]
    CountMismatch {
        /// Number of listed hashes.
        hashes: usize,
        /// Number of set bits in `collapsed`.
        collapsed: usize,
    },
    /// A listed hash is the value of an empty subtree, which must be collapsed instead.
    #[error(
        "hash listed for level {level} is the cached zero of that level, expected it to be collapsed"
    )]
    ZeroHashListed {
        /// The level, 0 at the root and 255 at the leaf.
        level: u8,
    },
    /// The proof carries a leaf nonce or an update id that stand for another leaf value.
    #[error("nonce and update id of the proof stand for leaf {got}, expected leaf {expected}")]
    LeafMismatch {
        /// The leaf value that the proof's own members stand for.
        got: LeafValue,
        /// The leaf value that was to be proven.
        expected: LeafValue,
    },
    /// The proof says that it belongs to another tree.
    #[error("proof is for root {got}, expected root {expected}")]
    IdMismatch {
        /// The proof's `id`.
        got: Root,
        /// The root on the chain, or in the transaction to be signed.
        expected: Root,
    },
    /// The path from the leaf leads to another root.
    #[error("proof leads to root {got}, expected root {expected}")]
    RootMismatch {
        /// The root that was computed.
        got: Root,
        /// The root that was to be reached.
        expected: Root,
    },
}

/// A text that is not a proof.
#[derive(Debug, thiserror::Error)]
pub enum ParseProofError {
    /// The text is too long; it was not looked at.
    #[error("got {got} bytes of JSON, expected at most {max} for a proof", max = Proof::MAX_JSON_LEN)]
    TooLong {
        /// Length of the text in bytes.
        got: usize,
    },
    /// The text is not JSON.
    #[error("expected a proof in JSON, got a text that is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// The JSON breaks a rule of the structure: a member is missing, repeated, of the wrong length, not base64url, or
    /// there are more than 256 hashes.
    #[error("expected the members of a proof, got JSON that breaks their rules: {0}")]
    Malformed(#[source] serde_json::Error),
}

impl Proof {
    /// Longest JSON text that [`Proof::from_json`] reads, in bytes; a proof with 256 hashes, generously indented, has
    /// about a third of that.
    pub const MAX_JSON_LEN: usize = 64 * 1024;

    /// Reads the JSON form. Members that the specification does not define are ignored.
    pub fn from_json(text: &str) -> Result<Self, ParseProofError> {
        if text.len() > Self::MAX_JSON_LEN {
            return Err(ParseProofError::TooLong { got: text.len() });
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => ParseProofError::Malformed(error),
            Category::Io | Category::Syntax | Category::Eof => ParseProofError::NotJson(error),
        })
    }

    /// The leaf value that the proof's own `nonce` and `updateId` stand for: with neither, the empty leaf.
    pub fn leaf_value(&self) -> LeafValue {
        match (&self.nonce, &self.update_id) {
            (Some(nonce), Some(update)) => LeafValue::update(nonce, update),
            (Some(nonce), None) => LeafValue::no_update(nonce),
            (None, Some(update)) => LeafValue::update_without_nonce(update),
            (None, None) => LeafValue::EMPTY,
        }
    }

    /// The root to which the path leads from a leaf, by a member's rules; `id`, `nonce` and `updateId` are not read.
    pub fn root_for(&self, index: &Index, leaf: &LeafValue) -> Result<Root, ProofError> {
        self.walk(index, leaf, Strictness::Member)
    }

    /// Checks that the leaf of `index` has the value `leaf` in the tree with this root.
    ///
    /// `leaf` is the verifier's own knowledge: a member's blinded value, or [`Proof::leaf_value`] for a proof that is
    /// complete. Where the proof carries a nonce or an update id, they must stand for the same value.
    pub fn verify(
        &self,
        index: &Index,
        leaf: &LeafValue,
        root: &Root,
        strictness: Strictness,
    ) -> Result<(), ProofError> {
        let reached = self.walk(index, leaf, strictness)?;
        if (self.nonce.is_some() || self.update_id.is_some()) && self.leaf_value() != *leaf {
            return Err(ProofError::LeafMismatch {
                got: self.leaf_value(),
                expected: *leaf,
            });
        }
        if self.id != *root {
            return Err(ProofError::IdMismatch {
                got: self.id,
                expected: *root,
            });
        }
        if reached != *root {
            return Err(ProofError::RootMismatch {
                got: reached,
                expected: *root,
            });
        }
        Ok(())
    }

    /// "SMT Proof Verification" of the specification: from the leaf at level 255 to the root above level 0.
    fn walk(
        &self,
        index: &Index,
        leaf: &LeafValue,
        strictness: Strictness,
    ) -> Result<Root, ProofError> {
        let (hashes, collapsed) = (self.hashes.len(), self.collapsed.count());
        if hashes + collapsed != LEVELS {
            return Err(ProofError::CountMismatch { hashes, collapsed });
        }
        let mut listed = self.hashes.iter();
        let mut node = NodeHash(leaf.0);
        for (level, zero) in levels_up() {
            let sibling = if self.collapsed.is_empty_at(level) {
                zero
            } else {
                let sibling = listed
                    .next()
                    .ok_or(ProofError::CountMismatch { hashes, collapsed })?;
                if sibling == zero && strictness.refuses_listed_zero() {
                    return Err(ProofError::ZeroHashListed { level });
                }
                sibling
            };
            node = parent(index.bit(level), &node, sibling);
        }
        Ok(Root(node.0))
    }
}

/// An optional member is absent or has a value; `null` is neither, and could hide that something was left out.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Stops reading at the 257th hash, however many follow.
fn at_most_256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeHash>, D::Error> {
    struct Hashes;

    impl<'de> Visitor<'de> for Hashes {
        type Value = Vec<NodeHash>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of at most 256 hashes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut hashes = Vec::new();
            while let Some(hash) = items.next_element()? {
                if hashes.len() == LEVELS {
                    return Err(de::Error::invalid_length(LEVELS + 1, &self));
                }
                hashes.push(hash);
            }
            Ok(hashes)
        }
    }

    deserializer.deserialize_seq(Hashes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn empty_proof() -> Value {
        let root = crate::hash::empty_root().to_string();
        json!({ "id": root, "collapsed": "_".repeat(42) + "8", "hashes": [] })
    }

    fn with(member: &str, value: Value) -> Result<Proof, ParseProofError> {
        let mut proof = empty_proof();
        proof[member] = value;
        Proof::from_json(&proof.to_string())
    }

    #[test]
    fn optional_members_and_foreign_members_may_be_absent_or_present() {
        let proof = Proof::from_json(&empty_proof().to_string()).unwrap();
        assert_eq!((&proof.nonce, proof.update_id), (&None, None));
        assert_eq!(proof.leaf_value(), LeafValue::EMPTY);
        assert_eq!(
            with("@context", json!("https://btcr2.dev/context/v1")).unwrap(),
            proof
        );
        assert_eq!(
            with("nonce", json!("A".repeat(43))).unwrap().nonce,
            Some(LeafNonce::new([0; 32]))
        );
    }

    #[test]
    fn members_of_wrong_form_are_refused() {
        let good = json!("A".repeat(43));
        for member in ["id", "nonce", "updateId", "collapsed"] {
            assert!(with(member, good.clone()).is_ok(), "{member}");
            for bad in [
                Value::Null,
                json!(0),
                json!(""),
                json!("A".repeat(42)),
                json!("A".repeat(44)),
            ] {
                let error = with(member, bad.clone()).unwrap_err();
                assert!(
                    matches!(error, ParseProofError::Malformed(_)),
                    "{member} {bad}: {error}"
                );
            }
            assert!(
                with(member, json!("A".repeat(42) + "B")).is_err(),
                "{member} with trailing bits"
            );
        }
        for bad in [Value::Null, good, json!({}), json!([null]), json!(["A"])] {
            assert!(matches!(
                with("hashes", bad),
                Err(ParseProofError::Malformed(_))
            ));
        }
        for member in ["id", "collapsed", "hashes"] {
            let mut proof = empty_proof();
            proof.as_object_mut().unwrap().remove(member);
            let error = Proof::from_json(&proof.to_string())
                .unwrap_err()
                .to_string();
            assert!(error.contains(member), "{error}");
        }
    }

    #[test]
    fn a_repeated_member_is_refused() {
        let text = empty_proof()
            .to_string()
            .replacen('{', "{\"hashes\":[],", 1);
        let error = Proof::from_json(&text).unwrap_err();
        assert!(
            matches!(&error, ParseProofError::Malformed(cause) if cause.to_string().contains("duplicate")),
            "{error}"
        );
    }

    #[test]
    fn at_most_256_hashes_are_read() {
        let hashes = |count| with("hashes", json!(vec!["A".repeat(43); count]));
        assert_eq!(hashes(256).unwrap().hashes.len(), 256);
        let error = hashes(257).unwrap_err().to_string();
        assert!(
            error.contains("length 257, expected an array of at most 256 hashes"),
            "{error}"
        );
    }

    #[test]
    fn text_that_is_not_json_is_told_from_a_bad_proof() {
        for text in ["", "{", "proof", "{} {}"] {
            assert!(matches!(
                Proof::from_json(text),
                Err(ParseProofError::NotJson(_) | ParseProofError::Malformed(_))
            ));
        }
        assert!(matches!(
            Proof::from_json("{"),
            Err(ParseProofError::NotJson(_))
        ));
        assert!(matches!(
            Proof::from_json("{}"),
            Err(ParseProofError::Malformed(_))
        ));
        let long = " ".repeat(Proof::MAX_JSON_LEN + 1);
        assert!(matches!(
            Proof::from_json(&long),
            Err(ParseProofError::TooLong { got: 65_537 })
        ));
    }

    #[test]
    fn counts_must_add_up_to_256() {
        let mut proof = Proof::from_json(&empty_proof().to_string()).unwrap();
        proof.hashes.push(NodeHash([1; 32]));
        let error = proof
            .root_for(&Index([0; 32]), &LeafValue::EMPTY)
            .unwrap_err();
        assert_eq!(
            error,
            ProofError::CountMismatch {
                hashes: 1,
                collapsed: 256
            }
        );
        assert_eq!(
            error.to_string(),
            "proof has 1 hashes and 256 collapsed levels, expected 256 together"
        );
        proof.collapsed = Collapsed([0; 32]);
        assert_eq!(
            proof.root_for(&Index([0; 32]), &LeafValue::EMPTY),
            Err(ProofError::CountMismatch {
                hashes: 1,
                collapsed: 0
            })
        );
    }
}
