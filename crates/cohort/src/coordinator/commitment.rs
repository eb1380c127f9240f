//! What the signal bytes of a round commit to: the tree over the leaves, or the map of the updates.

use beacon_signal::{Index, LeafValue, Proof, Root, SparseMerkleTree, UpdateId};

use super::Cohort;
use crate::announcement::Announcement;
use crate::terms::BeaconType;

/// A round's leaves, made ready to be signed for.
pub(super) enum Commitment {
    /// Of an SMT cohort.
    Tree(SparseMerkleTree),
    /// Of a CAS cohort.
    Map(Announcement),
}

impl Commitment {
    /// To these leaves. `None` if an index stands twice.
    pub(super) fn to(
        cohort: &Cohort,
        leaves: impl Iterator<Item = (Index, LeafValue)>,
    ) -> Option<Self> {
        match cohort.terms.beacon_type {
            BeaconType::Smt => SparseMerkleTree::new(leaves).ok().map(Self::Tree),
            BeaconType::Cas => {
                let updated = leaves.filter(|(_, value)| *value != LeafValue::EMPTY);
                // The name came with the update.
                let entry = |(index, value): (Index, LeafValue)| {
                    Some((cohort.announced.get(&index)?.clone(), UpdateId(value.0)))
                };
                Some(Self::Map(updated.filter_map(entry).collect()))
            }
        }
    }

    /// The 32 signal bytes.
    pub(super) fn root(&self) -> Root {
        match self {
            Self::Tree(tree) => tree.root(),
            Self::Map(map) => map.signal_bytes(),
        }
    }

    /// What a member keeps of it for each of its indexes.
    pub(super) fn proof(&self, index: &Index) -> Option<Proof> {
        match self {
            Self::Tree(tree) => Some(tree.proof(index)),
            Self::Map(_) => None,
        }
    }

    /// What every member keeps of it.
    pub(super) fn map(&self) -> Option<&Announcement> {
        match self {
            Self::Tree(_) => None,
            Self::Map(map) => Some(map),
        }
    }
}
