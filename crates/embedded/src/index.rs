//! What the active chain holds: blocks, transactions, spends, and which scripts they touch.
//!
//! The kernel keeps none of this for lookups, so it is built from the blocks and follows them,
//! forwards and backwards. An output is unspent when its transaction is here and no spend of it is.

use std::collections::{BTreeSet, HashMap};

use bitcoin::block::Header;
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::{Block, BlockHash, OutPoint, Script, Transaction, TxOut, Txid};

use beacon_chain::Tip;

/// SHA-256 of a script, as Esplora's `/scripthash` paths take it.
pub(crate) type ScriptHash = sha256::Hash;

/// Number of blocks whose median time counts (BIP113).
const MEDIAN_SPAN: usize = 11;

/// The active chain, looked up by what people ask for.
#[derive(Default)]
pub(crate) struct Index {
    /// By height.
    blocks: Vec<BlockRecord>,
    transactions: HashMap<Txid, Confirmed>,
    spends: HashMap<OutPoint, Spender>,
    /// Transactions that fund or spend a script, oldest first.
    histories: HashMap<ScriptHash, Vec<Txid>>,
}

struct BlockRecord {
    hash: BlockHash,
    header: Header,
}

/// A transaction of the active chain.
pub(crate) struct Confirmed {
    pub(crate) transaction: Transaction,
    pub(crate) height: u32,
}

/// The input that spends an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spender {
    pub(crate) txid: Txid,
    pub(crate) vin: u32,
}

impl Index {
    /// The last block, or `None` before the genesis block was connected.
    pub(crate) fn tip(&self) -> Option<Tip> {
        let height = u32::try_from(self.blocks.len().checked_sub(1)?).ok()?;
        let hash = self.blocks.last()?.hash;
        Some(Tip { height, hash })
    }

    pub(crate) fn block_hash(&self, height: u32) -> Option<BlockHash> {
        Some(self.record(height)?.hash)
    }

    pub(crate) fn header(&self, height: u32) -> Option<&Header> {
        Some(&self.record(height)?.header)
    }

    /// Median time past of the block at `height` (BIP113), in Unix seconds.
    pub(crate) fn median_time(&self, height: u32) -> u32 {
        let end = usize::try_from(height)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
            .min(self.blocks.len());
        let start = end.saturating_sub(MEDIAN_SPAN);
        let mut times: Vec<u32> = self
            .blocks
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .map(|block| block.header.time)
            .collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    pub(crate) fn transaction(&self, txid: &Txid) -> Option<&Confirmed> {
        self.transactions.get(txid)
    }

    /// An output of the active chain, spent or not.
    pub(crate) fn output(&self, outpoint: &OutPoint) -> Option<&TxOut> {
        output_of(
            &self.transactions.get(&outpoint.txid)?.transaction,
            outpoint,
        )
    }

    pub(crate) fn spender(&self, outpoint: &OutPoint) -> Option<Spender> {
        self.spends.get(outpoint).copied()
    }

    /// Transactions that fund or spend the script, oldest first.
    pub(crate) fn history(&self, script: &ScriptHash) -> &[Txid] {
        self.histories.get(script).map_or(&[], Vec::as_slice)
    }

    /// Appends a block to the active chain.
    pub(crate) fn connect(&mut self, block: &Block) {
        let height = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks.push(BlockRecord {
            hash: block.block_hash(),
            header: block.header,
        });
        // Consensus makes the outputs of the genesis block unspendable: they exist for nobody.
        if height == 0 {
            return;
        }
        for transaction in &block.txdata {
            let txid = transaction.compute_txid();
            for script in touched_scripts(transaction, |outpoint| self.output(outpoint)) {
                self.histories.entry(script).or_default().push(txid);
            }
            for (vin, input) in (0u32..).zip(&transaction.input) {
                if !transaction.is_coinbase() {
                    self.spends
                        .insert(input.previous_output, Spender { txid, vin });
                }
            }
            self.transactions.insert(
                txid,
                Confirmed {
                    transaction: transaction.clone(),
                    height,
                },
            );
        }
    }

    /// Takes the last block, which must be `block`, off the active chain. Returns its
    /// transactions without the coinbase, parents before children.
    pub(crate) fn disconnect(&mut self, block: Block) -> Vec<Transaction> {
        self.blocks.pop();
        for transaction in block.txdata.iter().rev() {
            let txid = transaction.compute_txid();
            for script in touched_scripts(transaction, |outpoint| self.output(outpoint)) {
                if let Some(history) = self.histories.get_mut(&script) {
                    history.retain(|listed| *listed != txid);
                    if history.is_empty() {
                        self.histories.remove(&script);
                    }
                }
            }
            for input in &transaction.input {
                self.spends.remove(&input.previous_output);
            }
            self.transactions.remove(&txid);
        }
        block.txdata.into_iter().skip(1).collect()
    }

    fn record(&self, height: u32) -> Option<&BlockRecord> {
        self.blocks.get(usize::try_from(height).ok()?)
    }
}

/// The output of `transaction` that `outpoint` numbers.
pub(crate) fn output_of<'a>(
    transaction: &'a Transaction,
    outpoint: &OutPoint,
) -> Option<&'a TxOut> {
    transaction.output.get(usize::try_from(outpoint.vout).ok()?)
}

/// The hash under which a script is looked up.
pub(crate) fn script_hash(script: &Script) -> ScriptHash {
    sha256::Hash::hash(script.as_bytes())
}

/// The scripts that `transaction` funds or spends, each once.
pub(crate) fn touched_scripts<'a>(
    transaction: &'a Transaction,
    output: impl Fn(&OutPoint) -> Option<&'a TxOut>,
) -> BTreeSet<ScriptHash> {
    let spent = transaction
        .input
        .iter()
        .filter_map(|input| output(&input.previous_output));
    transaction
        .output
        .iter()
        .chain(spent)
        .map(|output| script_hash(&output.script_pubkey))
        .collect()
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::constants::genesis_block;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, Network, ScriptBuf, TxIn};

    use super::*;

    fn pay(from: OutPoint, script: &Script) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: from,
                ..TxIn::default()
            }],
            output: vec![TxOut {
                value: Amount::from_sat(1000),
                script_pubkey: script.to_owned(),
            }],
        }
    }

    fn block(transactions: Vec<Transaction>) -> Block {
        let mut block = genesis_block(Network::Regtest);
        block.txdata = transactions;
        block
    }

    #[test]
    fn disconnecting_undoes_connecting_even_within_one_block() {
        let (a, b) = (
            ScriptBuf::from_bytes(vec![0x51]),
            ScriptBuf::from_bytes(vec![0x52]),
        );
        let coinbase = pay(OutPoint::null(), &a);
        let first = pay(OutPoint::new(coinbase.compute_txid(), 0), &b);
        let second = pay(OutPoint::new(first.compute_txid(), 0), &a);

        let mut index = Index::default();
        index.connect(&genesis_block(Network::Regtest));
        let whole = block(vec![coinbase, first.clone(), second.clone()]);
        index.connect(&whole);
        assert_eq!(index.tip().unwrap().height, 1);
        assert_eq!(index.history(&script_hash(&a)).len(), 3);
        assert_eq!(index.history(&script_hash(&b)).len(), 2);
        let spent = OutPoint::new(first.compute_txid(), 0);
        assert_eq!(index.spender(&spent).unwrap().txid, second.compute_txid());

        assert_eq!(index.disconnect(whole), vec![first, second]);
        assert_eq!(index.tip().unwrap().height, 0);
        assert!(index.history(&script_hash(&a)).is_empty());
        assert!(index.transactions.is_empty());
        assert!(index.spends.is_empty());
        assert!(index.histories.is_empty());
    }

    #[test]
    fn the_median_time_counts_eleven_blocks() {
        let mut index = Index::default();
        for time in [5, 1, 9] {
            let mut next = block(Vec::new());
            next.header.time = time;
            index.connect(&next);
        }
        assert_eq!(index.median_time(0), 5);
        assert_eq!(index.median_time(2), 5);
        for time in 100..111 {
            let mut next = block(Vec::new());
            next.header.time = time;
            index.connect(&next);
        }
        assert_eq!(index.median_time(13), 105);
    }
}
