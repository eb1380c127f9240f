//! The sparse Merkle tree over 2²⁵⁶ leaves, kept as the few branches at which the paths of its leaves part.
//!
//! Every level is hashed, as the specification demands, but only where a leaf hangs below. Between two branches runs
//! an *edge* on which all siblings are empty. An edge keeps the value at its upper end, which is what a proof lists
//! for the neighbouring path: so all hashing is done once, when the tree is built, and a proof only collects values.

use crate::hash::{LEVELS, NodeHash, empty_root, levels_up, parent};
use crate::leaf::{Index, LeafValue, Root};
use crate::proof::{Collapsed, Proof};

/// Number of paths that are hashed side by side: enough to overlap, few enough to stay in the first cache.
const BATCH: usize = 64;

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
        let deepest = leaves
            .array_windows()
            .filter_map(|[(a, _), (b, _)]| a.parts_from(b))
            .max();
        let depth = deepest.map_or(0, |level| usize::from(level) + 1);
        Ok(Self {
            top: Edge::new(&lift_together(&leaves, depth), depth, 0),
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
    /// The edge from depth `top` down to whatever the paths, sorted and all below that place, make of it; `depth` is
    /// where their heads are. Recursion ends after 256 levels, since each branch parts its paths at a deeper one.
    fn new(paths: &[Path], depth: usize, top: usize) -> Option<Self> {
        let (first, last) = (paths.first()?, paths.last()?);
        let Some(level) = first.index.parts_from(&last.index) else {
            return Some(Self {
                value: lift(&first.index, first.head, depth, top),
                node: Node::Leaf(first.index, first.leaf),
            });
        };
        let (left, right) = paths.split_at(paths.partition_point(|path| !path.index.bit(level)));
        let below = usize::from(level) + 1;
        let branch = Branch {
            level,
            left: Self::new(left, depth, below)?,
            right: Self::new(right, depth, below)?,
        };
        Some(Self {
            value: lift(&first.index, branch.value(), usize::from(level), top),
            node: Node::Branch(Box::new(branch)),
        })
    }
}

/// A leaf, and the value of its path at the depth up to which it was lifted.
struct Path {
    index: Index,
    leaf: LeafValue,
    head: NodeHash,
}

/// Lifts every leaf to `depth`, below which no two paths meet.
///
/// Each hash of a path waits for the one before. Taking a batch of paths up level by level, instead of one path after
/// the other, lets the processor overlap their hashes.
fn lift_together(leaves: &[(Index, LeafValue)], depth: usize) -> Vec<Path> {
    let path = |&(index, leaf): &(Index, LeafValue)| Path {
        index,
        leaf,
        head: NodeHash(leaf.0),
    };
    let mut paths: Vec<Path> = leaves.iter().map(path).collect();
    for batch in paths.chunks_mut(BATCH) {
        for (level, zero) in levels_up().take(LEVELS - depth) {
            for Path { index, head, .. } in &mut *batch {
                *head = parent(index.bit(level), head, zero);
            }
        }
    }
    paths
}

/// The value at depth `to` of a path that has the value `node` at depth `from` and only empty siblings in between.
fn lift(path: &Index, node: NodeHash, from: usize, to: usize) -> NodeHash {
    levels_up()
        .skip(LEVELS - from)
        .take(from.saturating_sub(to))
        .fold(node, |node, (level, zero)| {
            parent(path.bit(level), &node, zero)
        })
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
        let value = match self {
            Self::Leaf(_, value) => NodeHash(value.0),
            Self::Branch(branch) => branch.value(),
        };
        lift(self.path(), value, self.depth(), top)
    }
}

impl Branch {
    fn value(&self) -> NodeHash {
        parent(false, &self.left.value, &self.right.value)
    }

    /// The side on which `index` lies, then the other one.
    fn sides(&self, index: &Index) -> (&Edge, &Edge) {
        if index.bit(self.level) {
            (&self.right, &self.left)
        } else {
            (&self.left, &self.right)
        }
    }
}
