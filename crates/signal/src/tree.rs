//! The sparse Merkle tree over 2²⁵⁶ leaves, kept as the few branches at which the paths of its leaves part.
//!
//! Every level is hashed, as the specification demands, but only where a leaf hangs below. Between two branches runs
//! an *edge* on which all siblings are empty. An edge keeps the value at its upper end, which is what a proof lists
//! for the neighbouring path: so all hashing is done once, when the tree is built, and a proof only collects values.

use crate::hash::{LEVELS, NodeHash, empty_root, levels_up, parent};
use crate::leaf::{Index, LeafValue, Root};
use crate::proof::{Collapsed, Proof};

/// The tree of one beacon signal. It is built from all leaves at once and never changes.
#[derive(Clone, Debug)]
pub struct SparseMerkleTree {
    /// The edge that starts at the root, or `None` when every leaf is empty.
    top: Option<Edge>,
}

/// An index that was given more than once, so that the tree could hold only one of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("index {0} is given more than once, expected once")]
pub struct DuplicateIndex(pub Index);

/// A path without branches: from below its upper branch (or the root) down to a leaf or to the next branch.
#[derive(Clone, Debug)]
struct Edge {
    /// The value at the upper end, where the edge is the child of a branch.
    value: NodeHash,
    node: Node,
}

/// What an edge ends in.
#[derive(Clone, Debug)]
enum Node {
    Leaf(Index, LeafValue),
    Branch(Box<Branch>),
}

/// A node with leaves on both sides.
#[derive(Clone, Debug)]
struct Branch {
    /// The bit of the index that decides between left (0) and right (1).
    level: u8,
    left: Edge,
    right: Edge,
}

impl SparseMerkleTree {
    /// Builds the tree. The order of the leaves makes no difference; all indexes that are not given are empty.
    pub fn new(
        leaves: impl IntoIterator<Item = (Index, LeafValue)>,
    ) -> Result<Self, DuplicateIndex> {
        let mut leaves: Vec<_> = leaves.into_iter().collect();
        leaves.sort_unstable_by_key(|&(index, _)| index);
        if let Some(&[(index, _), _]) = leaves.array_windows().find(|[(a, _), (b, _)]| a == b) {
            return Err(DuplicateIndex(index));
        }
        // An empty leaf that is given is the same as none, and its siblings must see an empty subtree.
        leaves.retain(|(_, value)| *value != LeafValue::EMPTY);
        Ok(Self {
            top: Edge::new(&leaves, 0),
        })
    }

    /// The root, computed when the tree was built.
    pub fn root(&self) -> Root {
        Root(self.top.as_ref().map_or(*empty_root(), |edge| edge.value).0)
    }

    /// The proof for an index, without leaf nonce and update id, which the tree never sees. For an index that was not
    /// given it proves the empty leaf.
    pub fn proof(&self, index: &Index) -> Proof {
        let mut collapsed = Collapsed::ALL;
        let mut hashes = Vec::new();
        let mut list = |level, sibling| {
            collapsed.clear(level);
            hashes.push(sibling);
        };
        let parts = self
            .nearest_leaf(index)
            .and_then(|nearest| index.parts_from(nearest));
        let mut next = self.top.as_ref();
        while let Some(edge) = next {
            next = match (&edge.node, parts) {
                // The path leaves this edge above the edge's end: all that hangs there is its last sibling.
                (node, Some(parts)) if node.depth() > usize::from(parts) => {
                    list(parts, node.lifted(usize::from(parts) + 1));
                    None
                }
                (Node::Branch(branch), _) => {
                    let (own, sibling) = branch.sides(index);
                    list(branch.level, sibling.value);
                    Some(own)
                }
                (Node::Leaf(..), _) => None,
            };
        }
        // Collected on the way down; the specification lists them from the leaf to the root.
        hashes.reverse();
        Proof {
            id: self.root(),
            nonce: None,
            update_id: None,
            collapsed,
            hashes,
        }
    }

    /// A leaf that shares the longest possible path with `index`.
    fn nearest_leaf(&self, index: &Index) -> Option<&Index> {
        let mut edge = self.top.as_ref()?;
        loop {
            match &edge.node {
                Node::Leaf(nearest, _) => return Some(nearest),
                Node::Branch(branch) => edge = branch.sides(index).0,
            }
        }
    }
}

impl Edge {
    /// The edge from depth `top` down to whatever the leaves, sorted and all below that place, make of it. Recursion
    /// ends after 256 levels, since each branch parts its leaves at a deeper one.
    fn new(leaves: &[(Index, LeafValue)], top: usize) -> Option<Self> {
        let (first, value) = leaves.first()?;
        let (last, _) = leaves.last()?;
        let node = match first.parts_from(last) {
            None => Node::Leaf(*first, *value),
            Some(level) => {
                let (left, right) =
                    leaves.split_at(leaves.partition_point(|(index, _)| !index.bit(level)));
                let below = usize::from(level) + 1;
                let (left, right) = (Self::new(left, below)?, Self::new(right, below)?);
                Node::Branch(Box::new(Branch { level, left, right }))
            }
        };
        Some(Self {
            value: node.lifted(top),
            node,
        })
    }
}

impl Node {
    /// Number of levels above the node: 256 for a leaf.
    fn depth(&self) -> usize {
        match self {
            Self::Leaf(..) => LEVELS,
            Self::Branch(branch) => usize::from(branch.level),
        }
    }

    /// Any leaf at or below the node: they all agree on the path to it.
    fn path(&self) -> &Index {
        match self {
            Self::Leaf(index, _) => index,
            Self::Branch(branch) => branch.left.node.path(),
        }
    }

    /// The value at depth `top` of the path above the node, on which all siblings are empty.
    fn lifted(&self, top: usize) -> NodeHash {
        let own = match self {
            Self::Leaf(_, value) => NodeHash(value.0),
            Self::Branch(branch) => parent(false, &branch.left.value, &branch.right.value),
        };
        let (path, depth) = (self.path(), self.depth());
        levels_up()
            .skip(LEVELS - depth)
            .take(depth.saturating_sub(top))
            .fold(own, |node, (level, zero)| {
                parent(path.bit(level), &node, zero)
            })
    }
}

impl Branch {
    /// The side on which `index` lies, then the other one.
    fn sides(&self, index: &Index) -> (&Edge, &Edge) {
        if index.bit(self.level) {
            (&self.right, &self.left)
        } else {
            (&self.left, &self.right)
        }
    }
}
