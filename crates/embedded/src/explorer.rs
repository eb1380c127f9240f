//! Look-ups beyond the [`Chain`](beacon_chain::Chain) trait, as a block explorer makes them. The regtest
//! agent serves them over HTTP.

use bitcoin::hashes::sha256;
use bitcoin::{Amount, Block, BlockHash, OutPoint, Script, Transaction, TxOut, Txid};

use crate::index::{ScriptHash, Spender, script_hash};
use crate::{EmbeddedChain, State};
use beacon_chain::{ChainError, ConfirmedSpend, Utxo};

/// Where a confirmed transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// Height of the block.
    pub height: u32,
    /// Hash of the block.
    pub block_hash: BlockHash,
    /// The time in its header, in Unix seconds.
    pub block_time: u32,
}

/// A transaction with what it spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionDetails {
    /// The transaction.
    pub transaction: Transaction,
    /// The output that each input spends; `None` for a coinbase's input.
    pub prevouts: Vec<Option<TxOut>>,
    /// Inputs less outputs; zero for a coinbase.
    pub fee: Amount,
    /// `None` while it is in the mempool.
    pub confirmed: Option<Confirmation>,
}

/// The input that spends an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spend {
    /// The spending transaction.
    pub txid: Txid,
    /// Which of its inputs.
    pub vin: u32,
    /// `None` while it is in the mempool.
    pub confirmed: Option<Confirmation>,
}

/// An unspent output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtxoView {
    /// Which output.
    pub outpoint: OutPoint,
    /// Its amount.
    pub value: Amount,
    /// `None` while it is in the mempool.
    pub confirmed: Option<Confirmation>,
}

/// A block of the active chain or of a branch that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockView {
    /// The block.
    pub block: Block,
    /// Its height.
    pub height: u32,
    /// Whether it is in the active chain.
    pub in_best_chain: bool,
    /// The block that follows it in the active chain.
    pub next_best: Option<BlockHash>,
    /// Median time past, in Unix seconds; for a block of another branch, its own time.
    pub median_time: u32,
}

/// Sums over the transactions that touch one script.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScriptStats {
    /// Outputs that pay it.
    pub funded_count: u64,
    /// Their amounts, in sat.
    pub funded_sat: u64,
    /// Outputs of it that are spent.
    pub spent_count: u64,
    /// Their amounts, in sat.
    pub spent_sat: u64,
    /// Transactions.
    pub transactions: u64,
}

/// A transaction that waits in the mempool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub txid: Txid,
    /// Its fee.
    pub fee: Amount,
    /// Its virtual size, in vB.
    pub vsize: u64,
}

impl EmbeddedChain {
    /// The hash of the active chain's block at `height`.
    pub fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        Ok(self.state()?.index.block_hash(height))
    }

    /// A block by its hash.
    pub fn block(&self, hash: BlockHash) -> Result<Option<BlockView>, ChainError> {
        let state = self.state()?;
        let Some((block, height)) = state.kernel.block(&hash)? else {
            return Ok(None);
        };
        let in_best_chain = state.index.block_hash(height) == Some(hash);
        let (next_best, median_time) = if in_best_chain {
            let next = state.index.block_hash(height.saturating_add(1));
            (next, state.index.median_time(height))
        } else {
            (None, block.header.time)
        };
        Ok(Some(BlockView {
            block,
            height,
            in_best_chain,
            next_best,
            median_time,
        }))
    }

    /// A transaction of the chain or the mempool.
    pub fn details(&self, txid: Txid) -> Result<Option<TransactionDetails>, ChainError> {
        Ok(self.state()?.details(&txid))
    }

    /// Who spends an output; `None` also for outputs that do not exist.
    pub fn spend(&self, outpoint: OutPoint) -> Result<Option<Spend>, ChainError> {
        Ok(self.state()?.spend(&outpoint))
    }

    /// Who spends each output of a transaction.
    pub fn outspends(&self, txid: Txid) -> Result<Option<Vec<Option<Spend>>>, ChainError> {
        let state = self.state()?;
        Ok(state.find_transaction(&txid).map(|transaction| {
            (0u32..)
                .take(transaction.output.len())
                .map(|vout| state.spend(&OutPoint::new(txid, vout)))
                .collect()
        }))
    }

    /// The unspent outputs of the script with this SHA-256, in the order of
    /// [`Chain::unspent`](beacon_chain::Chain::unspent).
    pub fn utxos(&self, script: sha256::Hash) -> Result<Vec<UtxoView>, ChainError> {
        let state = self.state()?;
        Ok(state
            .unspent_of(&script)
            .into_iter()
            .map(|utxo| UtxoView {
                outpoint: utxo.outpoint,
                value: utxo.output.value,
                confirmed: state.confirmation(&utxo.outpoint.txid),
            })
            .collect())
    }

    /// Transactions that touch the script with this SHA-256, newest first: at most `waiting` from
    /// the mempool, then at most `confirmed` from the chain.
    pub fn history(
        &self,
        script: sha256::Hash,
        waiting: usize,
        confirmed: usize,
    ) -> Result<Vec<TransactionDetails>, ChainError> {
        let state = self.state()?;
        let in_mempool = state
            .mempool
            .entries()
            .rev()
            .filter(|entry| entry.scripts.contains(&script))
            .map(|entry| &entry.txid)
            .take(waiting);
        let in_chain = state.index.history(&script).iter().rev().take(confirmed);
        Ok(in_mempool
            .chain(in_chain)
            .filter_map(|txid| state.details(txid))
            .collect())
    }

    /// Confirmed transactions that touch the script with this SHA-256, newest first: at most `count` of those
    /// that are older than `last_seen`, or of all. None when it is not one of them, as Esplora answers.
    pub fn confirmed_history(
        &self,
        script: sha256::Hash,
        last_seen: Option<Txid>,
        count: usize,
    ) -> Result<Vec<TransactionDetails>, ChainError> {
        let state = self.state()?;
        let history = state.index.history(&script);
        let older = match last_seen {
            None => history,
            Some(seen) => {
                let position = history.iter().position(|txid| *txid == seen);
                history.get(..position.unwrap_or(0)).unwrap_or_default()
            }
        };
        let page = older.iter().rev().take(count);
        Ok(page.filter_map(|txid| state.details(txid)).collect())
    }

    /// Sums for the script with this SHA-256: over the chain, and over the mempool.
    pub fn stats(&self, script: sha256::Hash) -> Result<(ScriptStats, ScriptStats), ChainError> {
        let state = self.state()?;
        let (mut chain, mut mempool) = (ScriptStats::default(), ScriptStats::default());
        for txid in state.index.history(&script) {
            if let Some(details) = state.details(txid) {
                chain.count(&details, &script);
            }
        }
        for entry in state.mempool.entries() {
            if entry.scripts.contains(&script)
                && let Some(details) = state.details(&entry.txid)
            {
                mempool.count(&details, &script);
            }
        }
        Ok((chain, mempool))
    }

    /// What waits in the mempool, parents before children.
    pub fn mempool(&self) -> Result<Vec<Waiting>, ChainError> {
        let state = self.state()?;
        let waiting = state.mempool.entries().map(|entry| Waiting {
            txid: entry.txid,
            fee: entry.fee,
            vsize: entry.transaction.weight().to_vbytes_ceil(),
        });
        Ok(waiting.collect())
    }
}

impl State {
    /// A transaction of the chain or the mempool.
    pub(crate) fn find_transaction(&self, txid: &Txid) -> Option<&Transaction> {
        let confirmed = self.index.transaction(txid);
        confirmed
            .map(|confirmed| &confirmed.transaction)
            .or_else(|| Some(&self.mempool.entry(txid)?.transaction))
    }

    /// An output of the chain or the mempool, spent or not, with its block's height.
    pub(crate) fn find_output(&self, outpoint: &OutPoint) -> Option<(&TxOut, Option<u32>)> {
        if let Some(output) = self.index.output(outpoint) {
            let confirmed = self.index.transaction(&outpoint.txid);
            return Some((output, confirmed.map(|confirmed| confirmed.height)));
        }
        Some((self.mempool.output(outpoint)?, None))
    }

    pub(crate) fn spender(&self, outpoint: &OutPoint) -> Option<Spender> {
        let confirmed = self.index.spender(outpoint);
        confirmed.or_else(|| self.mempool.spender(outpoint))
    }

    pub(crate) fn confirmation(&self, txid: &Txid) -> Option<Confirmation> {
        let height = self.index.transaction(txid)?.height;
        Some(Confirmation {
            height,
            block_hash: self.index.block_hash(height)?,
            block_time: self.index.header(height)?.time,
        })
    }

    /// The confirmed transactions that spend the script, in the order of
    /// [`Chain::spends`](beacon_chain::Chain::spends).
    pub(crate) fn spends(&self, script: &Script) -> Vec<ConfirmedSpend> {
        let spending = |txid: &Txid| {
            let transaction = &self.index.transaction(txid)?.transaction;
            let mut spent = transaction
                .input
                .iter()
                .filter_map(|input| self.index.output(&input.previous_output));
            if !spent.any(|output| *output.script_pubkey == *script) {
                return None;
            }
            let confirmation = self.confirmation(txid)?;
            Some(ConfirmedSpend {
                transaction: transaction.clone(),
                height: confirmation.height,
                block_hash: confirmation.block_hash,
                block_time: confirmation.block_time,
                median_time: self.index.median_time(confirmation.height),
            })
        };
        let history = self.index.history(&script_hash(script));
        let mut spends: Vec<_> = history.iter().filter_map(spending).collect();
        ConfirmedSpend::sort(&mut spends);
        spends
    }

    pub(crate) fn unspent(&self, script: &Script) -> Vec<Utxo> {
        self.unspent_of(&script_hash(script))
    }

    fn unspent_of(&self, script: &ScriptHash) -> Vec<Utxo> {
        let waiting = self
            .mempool
            .entries()
            .filter(|entry| entry.scripts.contains(script))
            .map(|entry| &entry.txid);
        let mut utxos = Vec::new();
        for txid in self.index.history(script).iter().chain(waiting) {
            let Some(transaction) = self.find_transaction(txid) else {
                continue;
            };
            for (vout, output) in (0u32..).zip(&transaction.output) {
                let outpoint = OutPoint::new(*txid, vout);
                if script_hash(&output.script_pubkey) == *script
                    && self.spender(&outpoint).is_none()
                {
                    utxos.push(Utxo {
                        outpoint,
                        output: output.clone(),
                        height: self.confirmation(txid).map(|confirmed| confirmed.height),
                    });
                }
            }
        }
        Utxo::sort(&mut utxos);
        utxos
    }

    fn spend(&self, outpoint: &OutPoint) -> Option<Spend> {
        let Spender { txid, vin } = self.spender(outpoint)?;
        Some(Spend {
            txid,
            vin,
            confirmed: self.confirmation(&txid),
        })
    }

    fn details(&self, txid: &Txid) -> Option<TransactionDetails> {
        let transaction = self.find_transaction(txid)?.clone();
        let prevouts: Vec<Option<TxOut>> = transaction
            .input
            .iter()
            .map(|input| Some(self.find_output(&input.previous_output)?.0.clone()))
            .collect();
        let spent = prevouts
            .iter()
            .flatten()
            .map(|output| output.value.to_sat());
        let paid = transaction
            .output
            .iter()
            .map(|output| output.value.to_sat());
        let fee = if transaction.is_coinbase() {
            0
        } else {
            spent.sum::<u64>().saturating_sub(paid.sum())
        };
        Some(TransactionDetails {
            prevouts,
            fee: Amount::from_sat(fee),
            confirmed: self.confirmation(txid),
            transaction,
        })
    }
}

impl ScriptStats {
    fn count(&mut self, details: &TransactionDetails, script: &ScriptHash) {
        self.transactions += 1;
        for output in &details.transaction.output {
            if script_hash(&output.script_pubkey) == *script {
                self.funded_count += 1;
                self.funded_sat += output.value.to_sat();
            }
        }
        for output in details.prevouts.iter().flatten() {
            if script_hash(&output.script_pubkey) == *script {
                self.spent_count += 1;
                self.spent_sat += output.value.to_sat();
            }
        }
    }
}
