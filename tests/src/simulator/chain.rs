//! A chain without proof of work: it knows every output, verifies every key-path signature, mines on command and
//! can be reorganised.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::machine::{
    BroadcastOutcome, ChainFact, Fund, OutputView, TransactionView, Watches,
};
use bitcoin::absolute::LockTime;
use bitcoin::hashes::{Hash as _, sha256d};
use bitcoin::secp256k1::{Message, Secp256k1, VerifyOnly, XOnlyPublicKey, schnorr};
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, BlockHash, OutPoint, Script, ScriptBuf, Sequence, TapSighashType, Transaction, TxIn,
    TxOut, Txid, Witness,
};

struct Block {
    hash: BlockHash,
    txids: Vec<Txid>,
}

struct Known {
    tx: Transaction,
    height: Option<u32>,
    deposit: bool,
}

pub(super) struct Chain {
    secp: Secp256k1<VerifyOnly>,
    blocks: Vec<Block>,
    known: BTreeMap<Txid, Known>,
    /// In order of arrival, so that parents come before children.
    mempool: Vec<Txid>,
    /// Spent outputs, by transactions of blocks and mempool.
    spent: BTreeMap<OutPoint, Txid>,
    blocks_made: u64,
    deposits_made: u64,
}

impl Chain {
    pub(super) fn new() -> Self {
        let mut chain = Self {
            secp: Secp256k1::verification_only(),
            blocks: Vec::new(),
            known: BTreeMap::new(),
            mempool: Vec::new(),
            spent: BTreeMap::new(),
            blocks_made: 0,
            deposits_made: 0,
        };
        chain.mine();
        chain
    }

    /// Height of the last block.
    pub(super) fn tip(&self) -> u32 {
        u32::try_from(self.blocks.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// Pays an amount to a script out of nothing.
    pub(super) fn deposit(&mut self, script: &Script, sats: u64) -> OutPoint {
        self.deposits_made += 1;
        let tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                // Makes the id unique.
                script_sig: ScriptBuf::from(self.deposits_made.to_le_bytes().to_vec()),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(sats),
                script_pubkey: script.to_owned(),
            }],
        };
        let outpoint = OutPoint::new(tx.compute_txid(), 0);
        self.admit(tx, true);
        outpoint
    }

    /// What a node does with a transaction that it is given.
    pub(super) fn submit(&mut self, tx: Transaction) -> BroadcastOutcome {
        if self.known.contains_key(&tx.compute_txid()) {
            return BroadcastOutcome::Accepted;
        }
        match self.check(&tx) {
            Ok(()) => {
                self.admit(tx, false);
                BroadcastOutcome::Accepted
            }
            Err(reason) => BroadcastOutcome::Refused(reason),
        }
    }

    /// Puts what waits into a block.
    pub(super) fn mine(&mut self) {
        let waiting = std::mem::take(&mut self.mempool);
        self.block(waiting);
    }

    /// Replaces the last `depth` blocks by one more than these, all of them empty: what was in them waits again.
    pub(super) fn reorganise(&mut self, depth: u32) {
        let kept = self.blocks.len().saturating_sub(depth as usize).max(1);
        let removed = self.blocks.split_off(kept);
        let mut back: Vec<Txid> = removed
            .iter()
            .flat_map(|block| block.txids.clone())
            .collect();
        for txid in &back {
            if let Some(known) = self.known.get_mut(txid) {
                known.height = None;
            }
        }
        back.append(&mut self.mempool);
        self.mempool = back;
        for _ in 0..=removed.len() {
            self.block(Vec::new());
        }
    }

    /// Lets the mempool forget what is no deposit, as a full one does.
    pub(super) fn evict(&mut self) {
        let waiting = std::mem::take(&mut self.mempool);
        let (kept, evicted): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|txid| self.known.get(txid).is_some_and(|known| known.deposit));
        self.mempool = kept;
        for txid in &evicted {
            self.known.remove(txid);
        }
        self.spent.retain(|_, spender| !evicted.contains(spender));
    }

    /// What the source says about everything that is watched.
    pub(super) fn facts(&self, watches: &Watches) -> Vec<ChainFact> {
        let scripts = watches.scripts.iter().map(|script| ChainFact::Funds {
            script: script.clone(),
            funds: self.funds(script),
        });
        let outputs = watches.outpoints.iter().map(|outpoint| ChainFact::Output {
            outpoint: *outpoint,
            view: self.output(*outpoint),
        });
        let transactions = watches
            .transactions
            .iter()
            .map(|txid| ChainFact::Transaction {
                txid: *txid,
                view: self.transaction(*txid),
                tip: self.tip(),
            });
        let inputs = watches.inputs.iter().map(|inputs| {
            let views = inputs.iter().map(|at| (*at, self.output(*at)));
            ChainFact::Inputs(views.collect())
        });
        let known = scripts.chain(outputs).chain(inputs);
        let estimate = watches.fee_target.map(|_| self.fee_estimate());
        known.chain(transactions).chain(estimate).collect()
    }

    /// What a transaction is expected to pay: another rate with each block, and absurd ones among them. None is twice another,
    /// so that a round keeps its rate.
    fn fee_estimate(&self) -> ChainFact {
        let expected = [5, 7, 9, 0, 6, u64::MAX, 8];
        let turn = usize::try_from(self.tip()).unwrap_or_default();
        ChainFact::FeeRate(expected[turn % expected.len()])
    }

    /// Every transaction of the chain that is no deposit, in order.
    pub(super) fn mined(&self) -> impl Iterator<Item = &Transaction> {
        let txids = self.blocks.iter().flat_map(|block| &block.txids);
        txids
            .filter_map(|txid| self.known.get(txid))
            .filter(|known| !known.deposit)
            .map(|known| &known.tx)
    }

    /// Mines a transaction unseen, as no honest node would.
    #[cfg(test)]
    pub(super) fn force(&mut self, tx: Transaction) {
        self.admit(tx, false);
        self.mine();
    }

    fn block(&mut self, txids: Vec<Txid>) {
        let height = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks_made += 1;
        let hash = BlockHash::from_raw_hash(sha256d::Hash::hash(&self.blocks_made.to_le_bytes()));
        for txid in &txids {
            if let Some(known) = self.known.get_mut(txid) {
                known.height = Some(height);
            }
        }
        self.blocks.push(Block { hash, txids });
    }

    fn admit(&mut self, tx: Transaction, deposit: bool) {
        let txid = tx.compute_txid();
        if !deposit {
            let spends = tx.input.iter().map(|input| (input.previous_output, txid));
            self.spent.extend(spends);
        }
        let height = None;
        self.known.insert(
            txid,
            Known {
                tx,
                height,
                deposit,
            },
        );
        self.mempool.push(txid);
    }

    fn output_of(&self, outpoint: OutPoint) -> Option<(&TxOut, Option<u32>)> {
        let known = self.known.get(&outpoint.txid)?;
        let output = known.tx.output.get(outpoint.vout as usize)?;
        Some((output, known.height))
    }

    fn funds(&self, script: &Script) -> Vec<Fund> {
        let outputs = self.known.iter().flat_map(|(txid, known)| {
            (0u32..)
                .zip(&known.tx.output)
                .map(|(vout, output)| (OutPoint::new(*txid, vout), output, known.height))
        });
        outputs
            .filter(|(outpoint, output, _)| {
                *output.script_pubkey == *script && !self.spent.contains_key(outpoint)
            })
            .map(|(outpoint, output, height)| Fund {
                outpoint,
                value: output.value.to_sat(),
                height,
            })
            .collect()
    }

    fn output(&self, outpoint: OutPoint) -> OutputView {
        match self.output_of(outpoint) {
            None => OutputView::Unseen,
            Some((output, height)) => OutputView::Seen {
                output: output.clone(),
                confirmations: height.map_or(0, |height| self.tip().saturating_sub(height) + 1),
                spent_by: self.spent.get(&outpoint).copied(),
            },
        }
    }

    fn transaction(&self, txid: Txid) -> TransactionView {
        match self.known.get(&txid).map(|known| known.height) {
            None => TransactionView::Unknown,
            Some(None) => TransactionView::Mempool,
            Some(Some(height)) => {
                self.blocks
                    .get(height as usize)
                    .map_or(TransactionView::Unknown, |block| {
                        TransactionView::Confirmed {
                            height,
                            block_hash: block.hash,
                        }
                    })
            }
        }
    }

    /// Inputs exist and are unspent, nothing is made of nothing, and every key-path signature verifies.
    fn check(&self, tx: &Transaction) -> Result<(), String> {
        let mut prevouts = Vec::new();
        let mut taken = BTreeSet::new();
        for input in &tx.input {
            let outpoint = input.previous_output;
            let Some((output, _)) = self.output_of(outpoint) else {
                return Err(format!("input {outpoint} does not exist"));
            };
            if let Some(other) = self.spent.get(&outpoint) {
                return Err(format!("input {outpoint} is spent by {other}"));
            }
            if !taken.insert(outpoint) {
                return Err(format!("input {outpoint} is there twice"));
            }
            prevouts.push(output.clone());
        }
        let total = |outputs: &[TxOut]| outputs.iter().map(|output| output.value).sum::<Amount>();
        if prevouts.is_empty() || total(&tx.output) > total(&prevouts) {
            return Err("outputs are worth more than the inputs".to_owned());
        }
        let mut cache = SighashCache::new(tx);
        for (number, (input, prevout)) in tx.input.iter().zip(&prevouts).enumerate() {
            let sighash = cache
                .taproot_key_spend_signature_hash(
                    number,
                    &Prevouts::All(&prevouts),
                    TapSighashType::Default,
                )
                .map_err(|error| error.to_string())?;
            let message = Message::from_digest(sighash.to_byte_array());
            let valid = output_key(&prevout.script_pubkey)
                .zip(signature(&input.witness))
                .is_some_and(|(key, signature)| {
                    self.secp.verify_schnorr(&signature, &message, &key).is_ok()
                });
            if !valid {
                return Err(format!("input {number} has no valid key-path signature"));
            }
        }
        Ok(())
    }
}

fn output_key(script: &Script) -> Option<XOnlyPublicKey> {
    let program = script
        .is_p2tr()
        .then(|| script.as_bytes().get(2..))
        .flatten()?;
    XOnlyPublicKey::from_slice(program).ok()
}

/// The one element of a key-path witness with SIGHASH_DEFAULT: 64 bytes.
fn signature(witness: &Witness) -> Option<schnorr::Signature> {
    match witness.to_vec().as_slice() {
        [only] if only.len() == 64 => schnorr::Signature::from_slice(only).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::key::{Keypair, TweakedPublicKey};
    use bitcoin::secp256k1::SecretKey;

    use super::*;

    fn pair() -> Keypair {
        Keypair::from_secret_key(&Secp256k1::new(), &SecretKey::from_slice(&[1; 32]).unwrap())
    }

    fn script() -> ScriptBuf {
        let key = TweakedPublicKey::dangerous_assume_tweaked(pair().x_only_public_key().0);
        ScriptBuf::new_p2tr_tweaked(key)
    }

    /// Spends the only output at the script, leaving a fee.
    fn spend(chain: &Chain, fee: u64) -> Transaction {
        let fund = chain.funds(&script())[0].clone();
        let prevout = chain.output_of(fund.outpoint).unwrap().0.clone();
        let mut tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: fund.outpoint,
                ..TxIn::default()
            }],
            output: vec![TxOut {
                value: Amount::from_sat(fund.value - fee),
                script_pubkey: script(),
            }],
        };
        let sighash = SighashCache::new(&tx)
            .taproot_key_spend_signature_hash(
                0,
                &Prevouts::All(&[prevout]),
                TapSighashType::Default,
            )
            .unwrap();
        let message = Message::from_digest(sighash.to_byte_array());
        let signature = Secp256k1::new().sign_schnorr_no_aux_rand(&message, &pair());
        tx.input[0].witness = Witness::from_slice(&[signature.serialize()]);
        tx
    }

    fn funded() -> Chain {
        let mut chain = Chain::new();
        chain.deposit(&script(), 10_000);
        chain.mine();
        chain
    }

    fn refusal(chain: &mut Chain, tx: Transaction) -> String {
        match chain.submit(tx) {
            BroadcastOutcome::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn takes_a_signed_spend_once_and_again() {
        let mut chain = funded();
        let tx = spend(&chain, 100);
        for _ in 0..2 {
            assert_eq!(chain.submit(tx.clone()), BroadcastOutcome::Accepted);
        }
        chain.mine();
        assert_eq!(chain.mined().collect::<Vec<_>>(), [&tx]);
        assert_eq!(chain.funds(&script())[0].value, 9_900, "its change");
    }

    #[test]
    fn refuses_a_wrong_signature_a_second_spend_and_what_is_made_of_nothing() {
        let mut chain = funded();
        let good = spend(&chain, 100);
        let second = spend(&chain, 200);
        let mut bad = good.clone();
        bad.output[0].value -= Amount::ONE_SAT;
        assert!(refusal(&mut chain, bad).contains("no valid key-path signature"));
        let mut unsigned = good.clone();
        unsigned.input[0].witness = Witness::new();
        assert!(refusal(&mut chain, unsigned).contains("no valid key-path signature"));
        let mut greedy = good.clone();
        greedy.output[0].value = Amount::from_sat(10_001);
        assert!(refusal(&mut chain, greedy).contains("worth more"));
        let mut foreign = good.clone();
        foreign.input[0].previous_output.vout = 5;
        assert!(refusal(&mut chain, foreign).contains("does not exist"));
        assert_eq!(chain.submit(good), BroadcastOutcome::Accepted);
        assert!(refusal(&mut chain, second).contains("is spent by"));
    }

    #[test]
    fn a_reorganisation_sends_back_to_the_mempool_and_eviction_out_of_it() {
        let mut chain = funded();
        let tx = spend(&chain, 100);
        let txid = tx.compute_txid();
        chain.submit(tx.clone());
        chain.mine();
        let tip = chain.tip();
        chain.reorganise(1);
        assert_eq!(chain.tip(), tip + 1);
        assert_eq!(chain.transaction(txid), TransactionView::Mempool);
        chain.mine();
        let confirmed = chain.transaction(txid);
        assert!(
            matches!(confirmed, TransactionView::Confirmed { height, .. } if height == tip + 2)
        );
        chain.reorganise(2);
        chain.evict();
        assert_eq!(chain.transaction(txid), TransactionView::Unknown);
        assert_eq!(
            chain.submit(tx),
            BroadcastOutcome::Accepted,
            "its input is free again"
        );
    }
}
