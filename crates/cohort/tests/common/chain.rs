//! A chain of a few lines. It accepts a transaction only with a valid taproot key-path signature on every input, which it
//! checks with `bitcoin`'s own library, not with the one that signs.

use std::collections::BTreeMap;

use beacon_cohort::machine::{
    BroadcastOutcome, ChainFact, Fund, OutputView, TransactionView, Watches,
};
use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::{Message, Secp256k1, XOnlyPublicKey, schnorr::Signature};
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{Amount, BlockHash, OutPoint, ScriptBuf, TapSighashType, Transaction, TxOut, Txid};

pub struct Chain {
    pub tip: u32,
    outputs: BTreeMap<OutPoint, TxOut>,
    txs: BTreeMap<Txid, (Transaction, Option<u32>)>,
    deposits: u32,
    branch: u8,
    /// Whether the mempool keeps what it has first, whatever pays more.
    pub first_come: bool,
    /// What it does not take, whatever it pays.
    pub unwanted: Vec<Txid>,
}

impl Chain {
    pub fn new() -> Self {
        Self {
            tip: 100,
            outputs: BTreeMap::new(),
            txs: BTreeMap::new(),
            deposits: 0,
            branch: 0,
            first_come: false,
            unwanted: Vec::new(),
        }
    }

    pub fn fund(&mut self, script_pubkey: ScriptBuf, sats: u64) -> OutPoint {
        self.deposits += 1;
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::from_consensus(self.deposits),
            input: vec![bitcoin::TxIn::default()],
            output: vec![TxOut {
                value: Amount::from_sat(sats),
                script_pubkey,
            }],
        };
        let outpoint = OutPoint::new(tx.compute_txid(), 0);
        self.add(tx);
        outpoint
    }

    fn add(&mut self, tx: Transaction) {
        let txid = tx.compute_txid();
        for (vout, output) in tx.output.iter().enumerate() {
            let outpoint = OutPoint::new(txid, u32::try_from(vout).unwrap());
            self.outputs.insert(outpoint, output.clone());
        }
        self.txs.insert(txid, (tx, None));
    }

    pub fn broadcast(&mut self, tx: Transaction) -> BroadcastOutcome {
        let txid = tx.compute_txid();
        if self.txs.contains_key(&txid) {
            return BroadcastOutcome::Accepted;
        }
        if self.unwanted.contains(&txid) {
            return BroadcastOutcome::Refused("min relay fee not met".to_owned());
        }
        let spent: Option<Vec<TxOut>> = tx
            .input
            .iter()
            .map(|input| self.outputs.get(&input.previous_output).cloned())
            .collect();
        let Some(spent) = spent else {
            return BroadcastOutcome::Refused("missing-inputs".to_owned());
        };
        let inputs = tx.input.iter();
        let rivals: Vec<Txid> = inputs
            .filter_map(|input| self.spender(&input.previous_output))
            .collect();
        let pays_more = |txid: &Txid| {
            let (old, height) = &self.txs[txid];
            let (more, size) = (self.fee(&tx) - self.fee(old), tx.vsize());
            !self.first_come && height.is_none() && more >= i64::try_from(size).unwrap()
        };
        if !rivals.iter().all(pays_more) {
            return BroadcastOutcome::Refused("txn-mempool-conflict".to_owned());
        }
        for input in 0..tx.input.len() {
            if !signed(&tx, input, &spent) {
                return BroadcastOutcome::Refused("invalid Schnorr signature".to_owned());
            }
        }
        for txid in rivals {
            self.evict(txid);
        }
        self.add(tx);
        BroadcastOutcome::Accepted
    }

    /// What a transaction pays, sat.
    fn fee(&self, tx: &Transaction) -> i64 {
        let spent = tx.input.iter();
        let spent = spent.filter_map(|input| self.outputs.get(&input.previous_output));
        let spent: Amount = spent.map(|output| output.value).sum();
        let paid: Amount = tx.output.iter().map(|output| output.value).sum();
        spent.to_signed().unwrap().to_sat() - paid.to_signed().unwrap().to_sat()
    }

    /// The mempool forgets a transaction, and what builds on it.
    pub fn evict(&mut self, txid: Txid) {
        self.txs.remove(&txid);
        self.outputs.retain(|outpoint, _| outpoint.txid != txid);
        let children = self.txs.iter();
        let children: Vec<Txid> = children
            .filter(|(_, (tx, _))| {
                tx.input
                    .iter()
                    .any(|input| input.previous_output.txid == txid)
            })
            .map(|(child, _)| *child)
            .collect();
        for child in children {
            self.evict(child);
        }
    }

    /// A miner has another opinion of what belongs into the next block.
    pub fn prefer(&mut self, tx: Transaction) {
        let inputs = tx.input.iter();
        let rivals: Vec<Txid> = inputs
            .filter_map(|input| self.spender(&input.previous_output))
            .collect();
        for txid in rivals {
            assert_eq!(self.txs[&txid].1, None, "{txid} is in a block");
            self.evict(txid);
        }
        self.add(tx);
    }

    /// Somebody spends an output as only the holders of its keys can.
    pub fn steal(&mut self, outpoint: OutPoint) -> Txid {
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![bitcoin::TxIn {
                previous_output: outpoint,
                ..bitcoin::TxIn::default()
            }],
            output: Vec::new(),
        };
        let txid = tx.compute_txid();
        self.add(tx);
        txid
    }

    pub fn mine(&mut self) {
        self.mine_but(None);
    }

    /// A block of everything but one transaction, which does not pay enough.
    pub fn mine_but(&mut self, waits: Option<Txid>) {
        self.tip += 1;
        for (txid, (_, height)) in &mut self.txs {
            if Some(*txid) != waits {
                height.get_or_insert(self.tip);
            }
        }
    }

    /// The last `depth` blocks are replaced by empty ones; what was in them waits again; what is not a
    /// deposit may be forgotten.
    pub fn reorganise(&mut self, depth: u32, forget: bool) {
        let fork = self.tip - depth;
        self.branch += 1;
        let gone: Vec<Txid> = self
            .txs
            .iter()
            .filter(|(_, (_, at))| at.is_none_or(|at| at > fork))
            .map(|(id, _)| *id)
            .collect();
        for txid in gone {
            let deposit =
                |tx: &Transaction| tx.input.iter().any(|input| input.previous_output.is_null());
            if forget && !self.txs.get(&txid).is_some_and(|(tx, _)| deposit(tx)) {
                self.txs.remove(&txid);
                self.outputs.retain(|outpoint, _| outpoint.txid != txid);
            } else if let Some((_, height)) = self.txs.get_mut(&txid) {
                *height = None;
            }
        }
        self.tip += 1;
    }

    fn spender(&self, outpoint: &OutPoint) -> Option<Txid> {
        let spends = |tx: &Transaction| {
            tx.input
                .iter()
                .any(|input| input.previous_output == *outpoint)
        };
        self.txs
            .iter()
            .find(|(_, (tx, _))| spends(tx))
            .map(|(txid, _)| *txid)
    }

    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        self.txs.get(txid).map(|(tx, _)| tx)
    }

    pub fn view(&self, outpoint: &OutPoint) -> OutputView {
        match self.outputs.get(outpoint) {
            None => OutputView::Unseen,
            Some(output) => OutputView::Seen {
                output: output.clone(),
                confirmations: self.txs[&outpoint.txid]
                    .1
                    .map_or(0, |height| self.tip - height + 1),
                spent_by: self.spender(outpoint),
            },
        }
    }

    pub fn answer(&self, watches: &Watches) -> Vec<ChainFact> {
        let mut facts = Vec::new();
        for script in &watches.scripts {
            let unspent = self.outputs.iter().filter(|(at, output)| {
                output.script_pubkey == *script && self.spender(at).is_none()
            });
            let funds = unspent.map(|(at, output)| Fund {
                outpoint: *at,
                value: output.value.to_sat(),
                height: self.txs[&at.txid].1,
            });
            facts.push(ChainFact::Funds {
                script: script.clone(),
                funds: funds.collect(),
            });
        }
        for outpoint in &watches.outpoints {
            facts.push(ChainFact::Output {
                outpoint: *outpoint,
                view: self.view(outpoint),
            });
        }
        for inputs in &watches.inputs {
            let views = inputs.iter().map(|at| (*at, self.view(at)));
            facts.push(ChainFact::Inputs(views.collect()));
        }
        for txid in &watches.transactions {
            let view = match self.txs.get(txid) {
                None => TransactionView::Unknown,
                Some((_, None)) => TransactionView::Mempool,
                Some((_, Some(height))) => TransactionView::Confirmed {
                    height: *height,
                    block_hash: BlockHash::from_byte_array([self.branch + 1; 32]),
                },
            };
            facts.push(ChainFact::Transaction {
                txid: *txid,
                view,
                tip: self.tip,
            });
        }
        facts
    }
}

fn signed(tx: &Transaction, input: usize, spent: &[TxOut]) -> bool {
    let witness = &tx.input[input].witness;
    let script = spent[input].script_pubkey.as_bytes();
    let (Some(signature), [0x51, 0x20, key @ ..]) = (witness.nth(0), script) else {
        return false;
    };
    let mut cache = SighashCache::new(tx);
    let sighash = cache
        .taproot_key_spend_signature_hash(input, &Prevouts::All(spent), TapSighashType::Default)
        .unwrap();
    let (Ok(signature), Ok(key)) = (
        Signature::from_slice(signature),
        XOnlyPublicKey::from_slice(key),
    ) else {
        return false;
    };
    let message = Message::from_digest(sighash.to_byte_array());
    witness.len() == 1
        && Secp256k1::verification_only()
            .verify_schnorr(&signature, &message, &key)
            .is_ok()
}
