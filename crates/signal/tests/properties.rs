//! Properties of the tree and its proofs, against a reference that follows the specification literally.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the failure"
)]

use std::collections::BTreeMap;

use beacon_signal::{
    DuplicateIndex, Index, LeafNonce, LeafValue, NodeHash, Proof, ProofError, Root,
    SparseMerkleTree, Strictness, UpdateId,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use sha2::{Digest as _, Sha256};

/// The tree as the specification words it: 256 levels, each node hashed from its two children, top down by the bits of
/// the index. Slow, and independent of the crate's own code.
mod reference {
    use std::iter::successors;
    use std::sync::LazyLock;

    use sha2::{Digest as _, Sha256};

    /// Index and value of a leaf.
    pub(crate) type Leaf = ([u8; 32], [u8; 32]);

    pub(crate) fn hash(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
        Sha256::digest([left, right].concat()).into()
    }

    pub(crate) fn zero(height: usize) -> [u8; 32] {
        static ZEROS: LazyLock<Vec<[u8; 32]>> = LazyLock::new(|| {
            let pair = |zero: &[u8; 32]| Some(hash(*zero, *zero));
            successors(pair(&[0; 32]), pair).take(257).collect()
        });
        ZEROS[height]
    }

    pub(crate) fn goes_right(index: &[u8; 32], level: usize) -> bool {
        index[level / 8] >> (7 - level % 8) & 1 == 1
    }

    fn split(leaves: &[Leaf], level: usize) -> (Vec<Leaf>, Vec<Leaf>) {
        leaves
            .iter()
            .partition(|(index, _)| !goes_right(index, level))
    }

    pub(crate) fn node(leaves: &[Leaf], depth: usize) -> [u8; 32] {
        match leaves {
            [] => zero(256 - depth),
            [(_, value)] if depth == 256 => *value,
            _ => {
                let (left, right) = split(leaves, depth);
                hash(node(&left, depth + 1), node(&right, depth + 1))
            }
        }
    }

    /// The siblings of a path, from the root to the leaf.
    pub(crate) fn siblings(leaves: &[Leaf], index: &[u8; 32]) -> Vec<[u8; 32]> {
        let mut own = leaves.to_vec();
        let mut siblings = Vec::new();
        for level in 0..256 {
            let (left, right) = split(&own, level);
            let (next, other) = if goes_right(index, level) {
                (right, left)
            } else {
                (left, right)
            };
            siblings.push(node(&other, level + 1));
            own = next;
        }
        siblings
    }
}

/// Indexes as they come, and indexes that share long paths: zero but for a few bits at the ends and around byte
/// boundaries, as an adversary may choose them.
fn any_index() -> impl Strategy<Value = Index> {
    let crowded = vec(
        prop::sample::select(vec![0_u8, 1, 2, 7, 8, 9, 127, 128, 253, 254, 255]),
        0..5,
    );
    prop_oneof![
        any::<[u8; 32]>().prop_map(Index),
        crowded.prop_map(|levels| levels.into_iter().fold(Index([0; 32]), flip)),
    ]
}

fn flip(mut index: Index, level: u8) -> Index {
    index.0[usize::from(level / 8)] ^= 0x80 >> (level % 8);
    index
}

/// What a member put into a leaf.
#[derive(Clone, Debug)]
struct Content {
    nonce: Option<LeafNonce>,
    update_id: Option<UpdateId>,
}

impl Content {
    fn complete(&self, mut proof: Proof) -> Proof {
        proof.nonce.clone_from(&self.nonce);
        proof.update_id = self.update_id;
        proof
    }

    fn leaf(&self) -> LeafValue {
        let Self { nonce, update_id } = self;
        match (nonce, update_id) {
            (Some(nonce), Some(update)) => LeafValue::update(nonce, update),
            (Some(nonce), None) => LeafValue::no_update(nonce),
            (None, Some(update)) => LeafValue::update_without_nonce(update),
            (None, None) => LeafValue::EMPTY,
        }
    }
}

fn any_content() -> impl Strategy<Value = Content> {
    (
        any::<Option<[u8; 32]>>().prop_map(|nonce| nonce.map(LeafNonce::new)),
        any::<Option<[u8; 32]>>().prop_map(|update| update.map(UpdateId)),
    )
        .prop_map(|(nonce, update_id)| Content { nonce, update_id })
}

fn any_round(at_least: usize) -> impl Strategy<Value = BTreeMap<Index, Content>> {
    btree_map(any_index(), any_content(), at_least..24)
}

fn tree_of(round: &BTreeMap<Index, Content>) -> SparseMerkleTree {
    SparseMerkleTree::new(
        round
            .iter()
            .map(|(index, content)| (*index, content.leaf())),
    )
    .unwrap()
}

/// The leaves that a reference tree holds: an empty leaf is no leaf.
fn reference_leaves(round: &BTreeMap<Index, Content>) -> Vec<reference::Leaf> {
    round
        .iter()
        .map(|(index, content)| (index.0, content.leaf().0))
        .filter(|(_, value)| *value != LeafValue::EMPTY.0)
        .collect()
}

fn verifies(proof: &Proof, index: &Index, root: &Root) -> Result<(), ProofError> {
    proof.verify(index, &proof.leaf_value(), root, Strictness::Resolver)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn agrees_with_the_reference(round in any_round(0), absent in any_index()) {
        let tree = tree_of(&round);
        let leaves = reference_leaves(&round);
        prop_assert_eq!(tree.root().0, reference::node(&leaves, 0));

        for index in round.keys().chain([&absent]) {
            let siblings = reference::siblings(&leaves, &index.0);
            let proof = tree.proof(index);
            let is_zero = |level: &usize| siblings[*level] == reference::zero(255 - level);
            for level in 0..256 {
                prop_assert_eq!(reference::goes_right(&proof.collapsed.0, level), is_zero(&level));
            }
            let listed: Vec<_> =
                (0..256).rev().filter(|level| !is_zero(level)).map(|level| NodeHash(siblings[level])).collect();
            prop_assert_eq!(proof.hashes, listed);
        }
    }

    #[test]
    fn root_is_independent_of_order(round in any_round(2).prop_map(|r| r.into_iter().collect::<Vec<_>>())
        .prop_flat_map(|leaves| (Just(leaves.clone()), Just(leaves).prop_shuffle())))
    {
        let [sorted, shuffled] = [&round.0, &round.1].map(|leaves| {
            SparseMerkleTree::new(leaves.iter().map(|(index, content)| (*index, content.leaf()))).unwrap()
        });
        prop_assert_eq!(sorted.root(), shuffled.root());
        for (index, _) in round.0 {
            prop_assert_eq!(sorted.proof(&index), shuffled.proof(&index));
        }
    }

    #[test]
    fn every_proof_verifies_and_survives_json(round in any_round(1)) {
        let tree = tree_of(&round);
        for (index, content) in &round {
            let blind = tree.proof(index);
            for strictness in [Strictness::Member, Strictness::Resolver] {
                prop_assert_eq!(blind.verify(index, &content.leaf(), &tree.root(), strictness), Ok(()));
            }
            prop_assert_eq!(blind.root_for(index, &content.leaf()), Ok(tree.root()));

            let complete = content.complete(blind);
            let read = Proof::from_json(&serde_json::to_string_pretty(&complete).unwrap()).unwrap();
            prop_assert_eq!(verifies(&read, index, &tree.root()), Ok(()));
            prop_assert_eq!(read, complete);
        }
    }

    #[test]
    fn absent_index_proves_the_empty_leaf_and_nothing_else(round in any_round(0), index in any_index(), other in any_content()) {
        prop_assume!(!round.contains_key(&index));
        let tree = tree_of(&round);
        let proof = tree.proof(&index);
        prop_assert_eq!(proof.leaf_value(), LeafValue::EMPTY);
        prop_assert_eq!(verifies(&proof, &index, &tree.root()), Ok(()));
        if other.leaf() != LeafValue::EMPTY {
            prop_assert!(verifies(&other.complete(proof), &index, &tree.root()).is_err());
        }
    }

    #[test]
    fn given_index_with_a_leaf_does_not_prove_the_empty_leaf(round in any_round(1)) {
        let tree = tree_of(&round);
        for (index, content) in &round {
            let proves_empty = verifies(&tree.proof(index), index, &tree.root()).is_ok();
            prop_assert_eq!(proves_empty, content.leaf() == LeafValue::EMPTY);
        }
    }

    #[test]
    fn any_flipped_bit_fails(round in any_round(2), pick in any::<Pick>(), at in any::<Pick>(), level in any::<u8>()) {
        let tree = tree_of(&round);
        let (index, content) = pick.get(&round.iter().collect::<Vec<_>>()).to_owned();
        let root = tree.root();
        let proof = content.complete(tree.proof(index));
        prop_assert_eq!(verifies(&proof, index, &root), Ok(()));
        let flipped = |bytes: &[u8; 32]| flip(Index(*bytes), level).0;

        let mut id = proof.clone();
        id.id.0 = flipped(&id.id.0);
        prop_assert_eq!(verifies(&id, index, &root), Err(ProofError::IdMismatch { got: id.id, expected: root }));

        let mut collapsed = proof.clone();
        collapsed.collapsed.0 = flipped(&collapsed.collapsed.0);
        let verdict = verifies(&collapsed, index, &root);
        prop_assert!(matches!(verdict, Err(ProofError::CountMismatch { .. })), "{verdict:?}");

        if !proof.hashes.is_empty() {
            let mut hashes = proof.clone();
            let hash = &mut hashes.hashes[at.index(proof.hashes.len())];
            hash.0 = flipped(&hash.0);
            let verdict = verifies(&hashes, index, &root);
            prop_assert!(matches!(verdict, Err(ProofError::RootMismatch { .. })), "{verdict:?}");
        }
        if let Some(nonce) = &proof.nonce {
            let mut other = proof.clone();
            other.nonce = Some(LeafNonce::new(flipped(nonce.as_bytes())));
            let verdict = verifies(&other, index, &root);
            prop_assert!(matches!(verdict, Err(ProofError::RootMismatch { .. })), "{verdict:?}");
            // Against the member's own knowledge of its leaf the same lie has another name.
            let verdict = other.verify(index, &content.leaf(), &root, Strictness::Member);
            prop_assert_eq!(verdict, Err(ProofError::LeafMismatch { got: other.leaf_value(), expected: content.leaf() }));
        }
        if let Some(update) = &proof.update_id {
            let mut other = proof.clone();
            other.update_id = Some(UpdateId(flipped(&update.0)));
            prop_assert!(verifies(&other, index, &root).is_err());
        }

        let blind = tree.proof(index);
        let leaf = LeafValue(flipped(&content.leaf().0));
        prop_assert!(blind.verify(index, &leaf, &root, Strictness::Member).is_err());
        let other_root = Root(flipped(&root.0));
        prop_assert!(blind.verify(index, &content.leaf(), &other_root, Strictness::Member).is_err());
        // An empty leaf may well be the neighbour of another, and then the same proof holds for both.
        if content.leaf() != LeafValue::EMPTY {
            let verdict = blind.verify(&flip(*index, level), &content.leaf(), &root, Strictness::Member);
            prop_assert!(matches!(verdict, Err(ProofError::RootMismatch { .. })), "{verdict:?}");
        }
    }

    #[test]
    fn a_proof_that_lists_an_empty_sibling_is_refused(round in any_round(1), pick in any::<Pick>(), level in any::<u8>()) {
        let tree = tree_of(&round);
        let (index, content) = pick.get(&round.iter().collect::<Vec<_>>()).to_owned();
        let mut proof = tree.proof(index);
        prop_assume!(reference::goes_right(&proof.collapsed.0, usize::from(level)));
        let below = (usize::from(level) + 1..256).filter(|&l| !reference::goes_right(&proof.collapsed.0, l)).count();
        proof.collapsed.0[usize::from(level / 8)] ^= 0x80 >> (level % 8);
        proof.hashes.insert(below, NodeHash(reference::zero(255 - usize::from(level))));
        // The path is right and leads to the root: only its form is not the one form that is allowed.
        for strictness in [Strictness::Member, Strictness::Resolver] {
            let verdict = proof.verify(index, &content.leaf(), &tree.root(), strictness);
            prop_assert_eq!(verdict, Err(ProofError::ZeroHashListed { level }));
        }
    }

    #[test]
    fn a_repeated_index_is_refused(round in any_round(1), pick in any::<Pick>(), content in any_content()) {
        let mut leaves: Vec<_> = round.iter().map(|(index, content)| (*index, content.leaf())).collect();
        let repeated = pick.get(&leaves).0;
        // Also when one of the two is empty, which the tree would not even hold.
        leaves.push((repeated, content.leaf()));
        prop_assert_eq!(SparseMerkleTree::new(leaves).err(), Some(DuplicateIndex(repeated)));
    }

    #[test]
    fn garbage_never_panics(text in ".{0,200}", bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(Proof::from_json(&text).is_err());
        prop_assert!(Proof::from_json(&String::from_utf8_lossy(&bytes)).is_err());
    }

    #[test]
    fn damaged_json_never_panics_nor_verifies_as_something_else(
        round in any_round(1), pick in any::<Pick>(), at in any::<Pick>(), byte in 0x20_u8..0x7f,
    ) {
        let tree = tree_of(&round);
        let (index, content) = pick.get(&round.iter().collect::<Vec<_>>()).to_owned();
        let proof = content.complete(tree.proof(index));
        let mut text = serde_json::to_string(&proof).unwrap().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(read) = Proof::from_json(&String::from_utf8(text).unwrap()) {
            // It still holds only if it still says the same, or lost the name of a member that it can do without.
            let verdict = read.verify(index, &content.leaf(), &tree.root(), Strictness::Resolver);
            let same = Proof { nonce: None, update_id: None, ..read } == tree.proof(index);
            prop_assert!(verdict.is_err() || same);
        }
    }
}

#[test]
fn a_tree_without_leaves_is_all_empty() {
    let tree = SparseMerkleTree::new([]).unwrap();
    assert_eq!(tree.root().0, reference::zero(256));
    let proof = tree.proof(&Index([1; 32]));
    assert_eq!(proof.collapsed.0, [0xff; 32]);
    assert!(proof.hashes.is_empty());
    assert_eq!(verifies(&proof, &Index([1; 32]), &tree.root()), Ok(()));
}

/// The deepest tree there can be: each index parts from the next one level further down, to the last level.
#[test]
fn a_branch_at_every_level() {
    let zero = Index([0; 32]);
    let leaf = |index: Index| (index, LeafValue(Sha256::digest(index.0).into()));
    let leaves: Vec<_> = (0..=255)
        .map(|level| leaf(flip(zero, level)))
        .chain([leaf(zero)])
        .collect();
    let tree = SparseMerkleTree::new(leaves.iter().copied()).unwrap();
    let reference: Vec<_> = leaves
        .iter()
        .map(|(index, value)| (index.0, value.0))
        .collect();
    assert_eq!(tree.root().0, reference::node(&reference, 0));
    assert_eq!(tree.proof(&zero).hashes.len(), 256);
    assert_eq!(tree.proof(&zero).collapsed.0, [0; 32]);
    for (index, leaf) in &leaves {
        assert_eq!(
            tree.proof(index)
                .verify(index, leaf, &tree.root(), Strictness::Member),
            Ok(())
        );
    }
}

/// More leaves than are hashed side by side, with a last batch that is not full.
#[test]
fn many_leaves_agree_with_the_reference() {
    let leaves: Vec<_> = (0..200_u32)
        .map(|number| {
            let did = format!("did:btcr2:test{number}");
            (
                Index::of_did(&did),
                LeafValue(Index::of_did(&(did + "leaf")).0),
            )
        })
        .collect();
    let tree = SparseMerkleTree::new(leaves.iter().copied()).unwrap();
    let reference: Vec<_> = leaves
        .iter()
        .map(|(index, value)| (index.0, value.0))
        .collect();
    assert_eq!(tree.root().0, reference::node(&reference, 0));
    for (index, leaf) in &leaves {
        assert_eq!(
            tree.proof(index)
                .verify(index, leaf, &tree.root(), Strictness::Member),
            Ok(())
        );
    }
}
