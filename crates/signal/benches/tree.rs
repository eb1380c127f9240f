//! The tree against the raw cost of its hashes.
//!
//! Every level is hashed on every leaf's path until the paths meet, so a tree of n random leaves costs about
//! n · (256 − log₂ n) hashes however it is written. `floor` spends exactly the tree's number of hashes on independent
//! 64-byte messages: `root / floor` is the tree's overhead.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot make its input has nothing to measure"
)]

use beacon_signal::{Index, LeafNonce, LeafValue, SparseMerkleTree, Strictness, UpdateId};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use sha2::{Digest as _, Sha256};

const SIZES: [u32; 2] = [1_000, 100_000];

fn main() {
    divan::main();
}

fn leaves(count: u32) -> Vec<(Index, LeafValue)> {
    let nonce = LeafNonce::new([7; 32]);
    let leaf = |i: u32| {
        let did = format!("did:btcr2:bench{i}");
        (
            Index::of_did(&did),
            LeafValue::update(&nonce, &UpdateId(Index::of_did(&did).0)),
        )
    };
    (0..count).map(leaf).collect()
}

/// Number of nodes above the leaves that are not empty subtrees: one hash each. A path adds the nodes below the one
/// where it parts from its neighbour in sorted order; the first path adds all 256.
fn hashes_in_tree(leaves: &[(Index, LeafValue)]) -> u64 {
    let mut indexes: Vec<Index> = leaves.iter().map(|(index, _)| *index).collect();
    indexes.sort_unstable();
    let shared_bits = |a: &Index, b: &Index| {
        let same = a.0.iter().zip(&b.0).take_while(|(a, b)| a == b).count();
        8 * u64::try_from(same).unwrap() + u64::from((a.0[same] ^ b.0[same]).leading_zeros())
    };
    256 + indexes
        .windows(2)
        .map(|pair| 255 - shared_bits(&pair[0], &pair[1]))
        .sum::<u64>()
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn root(bencher: Bencher<'_, '_>, count: u32) {
    let leaves = leaves(count);
    bencher
        .counter(ItemsCount::new(hashes_in_tree(&leaves)))
        .bench(|| {
            SparseMerkleTree::new(leaves.iter().copied())
                .unwrap()
                .root()
        });
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn floor(bencher: Bencher<'_, '_>, count: u32) {
    let hashes = hashes_in_tree(&leaves(count));
    bencher.counter(ItemsCount::new(hashes)).bench(|| {
        for _ in 0..hashes {
            black_box(Sha256::digest(black_box(&[0x5a; 64])));
        }
    });
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn all_proofs(bencher: Bencher<'_, '_>, count: u32) {
    let leaves = leaves(count);
    let tree = SparseMerkleTree::new(leaves.iter().copied()).unwrap();
    bencher.counter(ItemsCount::new(count)).bench(|| {
        for (index, _) in &leaves {
            black_box(tree.proof(index));
        }
    });
}

#[divan::bench(args = SIZES)]
fn verify_one(bencher: Bencher<'_, '_>, count: u32) {
    let leaves = leaves(count);
    let tree = SparseMerkleTree::new(leaves.iter().copied()).unwrap();
    let (index, leaf) = leaves[0];
    let (proof, root) = (tree.proof(&index), tree.root());
    bencher.bench(|| proof.verify(&index, &leaf, &root, Strictness::Member));
}
