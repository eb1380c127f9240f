//! What a did:btcr2 cohort puts on the chain: the sparse Merkle tree over its members' updates, the proofs that
//! each member keeps, and the Bitcoin transaction whose last output carries the root.
//!
//! # Goals
//!
//! - The tree, leaf values and proofs of the did:btcr2 specification ("SMT Proof Verification" and the appendix
//!   "Optimized Sparse Merkle Tree"), bit for bit, and fast enough for 100,000 indexes.
//! - One typed error per rule, so that whoever refuses a proof can say which rule it broke.
//! - The unsigned beacon transaction, and small separate predicates with which a member reviews one.
//!
//! # Non-goals
//!
//! - No IO, clock or randomness: leaf nonces, spent outputs and fee rates are arguments.
//! - No keys and no signatures: MuSig2 and the beacon address belong to the cohort crate.
//! - No JSON canonicalisation: an [`UpdateId`] arrives ready made.
//! - Not a general Merkle tree: there is no removal and no incremental insertion, since a round has one fixed set
//!   of leaves.
//!
//! # Example
//!
//! The coordinator sees indexes and blinded leaf values only. The member checks the proof it gets against its own
//! leaf value before it signs, then completes the proof for the resolvers that will read it.
//!
//! ```
//! use beacon_signal::{Index, LeafNonce, LeafValue, SparseMerkleTree, Strictness, UpdateId};
//!
//! // Two members; real nonces are 32 random bytes, one for each DID and round.
//! let fred = Index::of_did("did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96");
//! let lucia = Index::of_did("did:btcr2:x1qhjw6jnhwcyu5wau4x0cpwvz74c3g82c3uaehqpaf7lzfgmnwsd7spmmf54");
//! let (nonce, update) = (LeafNonce::new([7; 32]), UpdateId([9; 32]));
//! let leaf = LeafValue::update(&nonce, &update);
//!
//! // The coordinator builds the tree of the round and hands out a proof for each index.
//! let tree = SparseMerkleTree::new([
//!     (fred, leaf),
//!     (lucia, LeafValue::no_update(&LeafNonce::new([8; 32]))),
//! ])?;
//! let mut proof = tree.proof(&fred);
//!
//! // Fred checks it against what he submitted, and only then puts in what the coordinator never saw.
//! proof.verify(&fred, &leaf, &tree.root(), Strictness::Member)?;
//! proof.nonce = Some(nonce);
//! proof.update_id = Some(update);
//!
//! // A resolver starts from the JSON and the 32 bytes it found on the chain.
//! let json = serde_json::to_string(&proof)?;
//! let proof = beacon_signal::Proof::from_json(&json)?;
//! proof.verify(&fred, &proof.leaf_value(), &tree.root(), Strictness::Resolver)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bytes;
mod closing;
mod hash;
mod leaf;
mod proof;
pub mod transaction;
mod tree;

pub use bytes::ParseBytesError;
pub use closing::build_close;
pub use hash::NodeHash;
pub use leaf::{Index, LeafNonce, LeafValue, Root, UpdateId};
pub use proof::{Collapsed, ParseProofError, Proof, ProofError, Strictness};
pub use tree::{DuplicateIndex, SparseMerkleTree};
