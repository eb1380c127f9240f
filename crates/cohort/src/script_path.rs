//! The leaves of a beacon's script tree (BIP341, BIP342), and how they are spent without the signature of all members.
//!
//! The tree's leaves come from the terms and the cohort's keys alone, so every member computes the same address or refuses it.
//! Recovery: `<blocks> OP_CSV OP_DROP <key> OP_CHECKSIG`. Fallback: `<key 1> OP_CHECKSIG <key 2> OP_CHECKSIGADD …
//! <threshold> OP_NUMEQUAL`, with the members' x-only keys in KeySort order. Numbers are pushed minimally.

use bitcoin::hashes::Hash as _;
use bitcoin::key::Parity;
use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CHECKSIGADD, OP_CSV, OP_DROP, OP_NUMEQUAL};
use bitcoin::script::Builder;
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::taproot::{ControlBlock, LeafVersion, TaprootMerkleBranch};
use bitcoin::{
    ScriptBuf, Sequence, TapLeafHash, TapNodeHash, TapSighashType, Transaction, TxOut, Witness,
    XOnlyPublicKey,
};

use crate::terms::{Fallback, Recovery, ScriptTree};

/// Which leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// The key that the terms name, after some blocks.
    Recovery(Recovery),
    /// So many of the members.
    Fallback(Fallback),
}

/// One way to spend a beacon by a script: what an input's witness ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptPath {
    /// Which leaf.
    pub leaf: Leaf,
    /// The leaf's script.
    pub script: ScriptBuf,
    /// Internal key, parity and the way to the tree's root.
    pub control: ControlBlock,
    /// Keys that the script asks in turn, in its order.
    pub keys: Vec<XOnlyPublicKey>,
}

impl ScriptPath {
    /// The leaf's hash: what its signatures commit to.
    pub fn leaf_hash(&self) -> TapLeafHash {
        TapLeafHash::from_script(&self.script, LeafVersion::TapScript)
    }

    /// Signatures that the script wants, of its keys.
    pub fn threshold(&self) -> usize {
        match self.leaf {
            Leaf::Recovery(_) => 1,
            Leaf::Fallback(fallback) => fallback.threshold.get().into(),
        }
    }

    /// The sequence of an input that is spent this way: replaceable, and for the recovery leaf also the age that the spent
    /// output must have (BIP68).
    pub fn sequence(&self) -> Sequence {
        match self.leaf {
            Leaf::Recovery(recovery) => Sequence::from_height(recovery.blocks.get()),
            Leaf::Fallback(_) => Sequence::ENABLE_RBF_NO_LOCKTIME,
        }
    }

    /// What is to be signed for every input (SIGHASH_DEFAULT). `None` when the outputs are not one for each input.
    pub fn sighashes(&self, tx: &Transaction, spent: &[TxOut]) -> Option<Vec<[u8; 32]>> {
        if spent.len() != tx.input.len() {
            return None;
        }
        let mut cache = SighashCache::new(tx);
        let sighash = |input| {
            let hash = cache.taproot_script_spend_signature_hash(
                input,
                &Prevouts::All(spent),
                self.leaf_hash(),
                TapSighashType::Default,
            );
            hash.ok().map(bitcoin::TapSighash::to_byte_array)
        };
        (0..tx.input.len()).map(sighash).collect()
    }

    /// The witness of an input. `signature` gives the signature of a key, if there is one; the first `threshold` of them are
    /// used, every other key gets an empty element. `None` where there are too few.
    pub fn witness(
        &self,
        mut signature: impl FnMut(&XOnlyPublicKey) -> Option<[u8; 64]>,
    ) -> Option<Witness> {
        let mut missing = self.threshold();
        let mut elements = Vec::with_capacity(self.keys.len() + 2);
        for key in &self.keys {
            let used = if missing > 0 { signature(key) } else { None };
            missing -= usize::from(used.is_some());
            elements.push(used.map_or_else(Vec::new, Vec::from));
        }
        elements.reverse(); // The first key's signature is on top of the stack.
        elements.push(self.script.to_bytes());
        elements.push(self.control.serialize());
        (missing == 0).then(|| Witness::from_slice(&elements))
    }

    /// A witness of the size that every input has once it is signed.
    pub fn placeholder(&self) -> Witness {
        self.witness(|_| Some([0; 64])).unwrap_or_default()
    }
}

/// Whether an input with this witness is spent by a leaf and not by a signature of the output key (BIP341): it has a script and a
/// control block, besides an annex.
pub fn is_by_leaf(witness: &Witness) -> bool {
    let annex = witness.len() >= 2
        && witness
            .last()
            .is_some_and(|last| last.first() == Some(&0x50));
    witness.len() - usize::from(annex) >= 2
}

/// A tree's leaves as scripts, from which the root and each path follow.
pub(crate) struct Leaves(Vec<(Leaf, ScriptBuf, Vec<XOnlyPublicKey>)>);

impl Leaves {
    /// Of one leaf or two.
    pub(crate) fn new(tree: &ScriptTree, keys: &[XOnlyPublicKey]) -> Self {
        let recovery = tree.recovery.map(|recovery| {
            let script = recovery_script(&recovery);
            (Leaf::Recovery(recovery), script, vec![recovery.key])
        });
        let fallback = tree.fallback.map(|fallback| {
            let script = fallback_script(fallback, keys);
            (Leaf::Fallback(fallback), script, keys.to_vec())
        });
        Self(recovery.into_iter().chain(fallback).collect())
    }

    /// Of any scripts, for published vectors.
    #[cfg(test)]
    pub(crate) fn of_scripts(scripts: impl IntoIterator<Item = ScriptBuf>) -> Self {
        let fallback = Fallback {
            threshold: std::num::NonZeroU16::MIN,
        };
        let leaf = |script| (Leaf::Fallback(fallback), script, Vec::new());
        Self(scripts.into_iter().map(leaf).collect())
    }

    /// What the address commits to. `None` without a leaf.
    pub(crate) fn root(&self) -> Option<TapNodeHash> {
        let nodes = self.0.iter().map(|(_, script, _)| node(script));
        nodes.reduce(TapNodeHash::from_node_hashes) // Which sorts the two, as BIP341 says.
    }

    /// Every way to spend.
    pub(crate) fn paths(
        self,
        internal_key: XOnlyPublicKey,
        output_key_parity: Parity,
    ) -> Vec<ScriptPath> {
        let nodes: Vec<_> = self.0.iter().map(|(_, script, _)| node(script)).collect();
        let path = |(leaf, script, keys): (Leaf, ScriptBuf, _)| {
            let own = node(&script);
            // The other leaf, if there is one: two leaves are never the same script.
            let others = nodes.iter().filter(|other| **other != own);
            let control = ControlBlock {
                leaf_version: LeafVersion::TapScript,
                output_key_parity,
                internal_key,
                merkle_branch: merkle_branch(others.copied().next()),
            };
            ScriptPath {
                leaf,
                script,
                control,
                keys,
            }
        };
        self.0.into_iter().map(path).collect()
    }
}

fn merkle_branch(sibling: Option<TapNodeHash>) -> TaprootMerkleBranch {
    sibling.map_or_else(TaprootMerkleBranch::default, |sibling| [sibling].into())
}

fn node(script: &bitcoin::Script) -> TapNodeHash {
    TapNodeHash::from_script(script, LeafVersion::TapScript)
}

fn recovery_script(recovery: &Recovery) -> ScriptBuf {
    Builder::new()
        .push_int(recovery.blocks.get().into())
        .push_opcode(OP_CSV)
        .push_opcode(OP_DROP)
        .push_x_only_key(&recovery.key)
        .push_opcode(OP_CHECKSIG)
        .into_script()
}

fn fallback_script(fallback: Fallback, keys: &[XOnlyPublicKey]) -> ScriptBuf {
    let mut script = Builder::new();
    for (at, key) in keys.iter().enumerate() {
        let check = if at == 0 { OP_CHECKSIG } else { OP_CHECKSIGADD };
        script = script.push_x_only_key(key).push_opcode(check);
    }
    script
        .push_int(fallback.threshold.get().into())
        .push_opcode(OP_NUMEQUAL)
        .into_script()
}
