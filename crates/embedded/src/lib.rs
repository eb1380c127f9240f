//! [`EmbeddedChain`]: a regtest chain in this process, validated by Bitcoin Core's own code.
//!
//! A crate of its own, so that only `beacon-regtest` and tests link the C++: the agents speak to a source by HTTP.
//!
//! The kernel validates and stores blocks. It has no mempool, no index and no miner, so those are
//! here: `index` follows the kernel's active chain, `mempool` lets the kernel verify every script
//! before it takes a transaction, `template` builds blocks and `miner` pays from coinbases.

mod error;
mod explorer;
mod index;
mod kernel;
mod mempool;
mod miner;
mod template;

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bitcoin::{
    Address, Amount, BlockHash, Network, OutPoint, Script, ScriptBuf, Transaction, TxOut, Txid,
};
use tempfile::TempDir;

pub use self::error::{ControlError, OpenError};
pub use self::explorer::{
    BlockView, Confirmation, ScriptStats, Spend, TransactionDetails, UtxoView, Waiting,
};
use self::index::Index;
use self::kernel::Kernel;
use self::mempool::{COINBASE_MATURITY, Mempool};
use self::miner::Miner;
use self::template::Template;
use beacon_chain::{
    BroadcastError, Chain, ChainError, OutputStatus, Reason, Spends, Tip, TransactionStatus, Utxo,
};

/// Most blocks that one call may mine.
pub const MAX_MINE_BLOCKS: u32 = 1_000;
/// Most blocks that one call may replace.
pub const MAX_REORG_DEPTH: u32 = 100;
/// Most that one call may pay out, in sat: 100 BTC.
pub const MAX_FUND_SAT: u64 = 100 * 100_000_000;
/// Blocks that a payment mines at most to get at mature coins.
const MAX_FUNDING_BLOCKS: u32 = 2 * COINBASE_MATURITY;

/// Marks a data directory as ours, and is locked while it is open.
const LOCK_FILE: &str = "beacon-regtest.lock";

/// A private regtest chain.
///
/// Blocks are kept in the data directory and are there again when it is reopened; the mempool is
/// not. All methods block and may be called from any thread; one runs at a time.
pub struct EmbeddedChain {
    state: Mutex<State>,
}

struct State {
    // First, so that the kernel is gone before its directory is.
    kernel: Kernel,
    index: Index,
    mempool: Mempool,
    miner: Miner,
    extra_nonce: u64,
    _lock: File,
    _temporary: Option<TempDir>,
}

impl EmbeddedChain {
    /// A new chain in a temporary directory, which goes when the chain is dropped.
    pub fn temporary() -> Result<Self, OpenError> {
        let temporary =
            TempDir::with_prefix("beacon-regtest-").map_err(|source| OpenError::Directory {
                path: std::env::temp_dir(),
                source,
            })?;
        let path = temporary.path().to_owned();
        Self::start(&path, Some(temporary))
    }

    /// The chain in `directory`, which is made when it does not exist. Stored blocks are
    /// validated again, about 0.1 ms each; of several branches the longest is active, and of
    /// equally long ones the one stored first. The path must be UTF-8.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::start(directory, None)
    }

    fn start(directory: &Path, temporary: Option<TempDir>) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory {
            path: directory.to_owned(),
            source,
        };
        fs::create_dir_all(directory).map_err(unusable)?;
        let lock = directory.join(LOCK_FILE);
        let empty = fs::read_dir(directory).map_err(unusable)?.next().is_none();
        if !empty && !lock.exists() {
            return Err(OpenError::Foreign {
                path: directory.to_owned(),
            });
        }
        let lock = File::create(lock).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse {
                path: directory.to_owned(),
            },
            TryLockError::Error(source) => unusable(source),
        })?;
        fs::create_dir_all(directory.join("blocks")).map_err(unusable)?;

        let kernel = |reason: String| OpenError::Kernel {
            reason: Reason::new(reason),
        };
        let mut state = State {
            kernel: Kernel::open(directory).map_err(kernel)?,
            index: Index::default(),
            mempool: Mempool::default(),
            miner: Miner::new().map_err(kernel)?,
            // Differs from run to run, so that no block of an earlier run is made again.
            extra_nonce: u64::from(unix_time()) << 32,
            _lock: lock,
            _temporary: temporary,
        };
        state.follow()?;
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    /// Mines `blocks` blocks, 1 to [`MAX_MINE_BLOCKS`], with everything in the mempool that fits.
    /// The rewards go to the miner. Returns the hashes, oldest first.
    ///
    /// Block times are the clock's, or one second after the median time past where that is later.
    /// Many blocks at once therefore run ahead of the clock, by a second in six blocks; two hours
    /// ahead the kernel refuses more.
    pub fn mine(&self, blocks: u32) -> Result<Vec<BlockHash>, ControlError> {
        let script = self.state()?.miner.script();
        self.mine_to_script(blocks, &script)
    }

    /// Like [`Self::mine`], with the rewards for `address`.
    pub fn mine_to(&self, blocks: u32, address: &Address) -> Result<Vec<BlockHash>, ControlError> {
        self.mine_to_script(blocks, &regtest_script(address)?)
    }

    fn mine_to_script(&self, blocks: u32, script: &Script) -> Result<Vec<BlockHash>, ControlError> {
        in_range("blocks", u64::from(blocks), 1, u64::from(MAX_MINE_BLOCKS))?;
        // The lock is taken for each block, so that others get their turn in between.
        (0..blocks)
            .map(|_| self.state()?.mine_one(script))
            .collect()
    }

    /// Pays `amount` (at least the dust limit, at most [`MAX_FUND_SAT`]) to `address` from the
    /// miner's coins. The payment is **in the mempool** when this returns: mine a block to
    /// confirm it. As long as the miner has no mature coins, blocks are mined first (101 on a new
    /// chain), which confirms what waits in the mempool. Returns the new output.
    pub fn fund(&self, address: &Address, amount: Amount) -> Result<OutPoint, ControlError> {
        let script = regtest_script(address)?;
        let dust = script.minimal_non_dust().to_sat();
        in_range("sat", amount.to_sat(), dust, MAX_FUND_SAT)?;

        let mut state = self.state()?;
        for _ in 0..=MAX_FUNDING_BLOCKS {
            let coins = state.miners_coins();
            if let Some(payment) = state.miner.pay(coins, script.clone(), amount) {
                let outpoint = OutPoint::new(payment.compute_txid(), 0);
                state
                    .accept(payment)
                    .map_err(|reason| ControlError::PaymentRefused { reason })?;
                return Ok(outpoint);
            }
            let miner = state.miner.script();
            state.mine_one(&miner)?;
        }
        Err(ControlError::Insufficient {
            wanted: amount.to_sat(),
        })
    }

    /// Replaces the last `depth` blocks, 1 to [`MAX_REORG_DEPTH`], by `depth + 1` new ones that
    /// hold no transactions but their coinbases. What the dropped blocks held returns to the
    /// mempool if it is still valid there; a spend of a dropped coinbase is not. Returns the new tip.
    pub fn reorg(&self, depth: u32) -> Result<Tip, ControlError> {
        let mut state = self.state()?;
        let tip = state.tip()?;
        let max = tip.height.min(MAX_REORG_DEPTH);
        in_range("blocks to replace", u64::from(depth), 1, u64::from(max))?;

        let fork = tip.height.saturating_sub(depth);
        let missing = || ChainError::garbage(format_args!("no block at height {fork}"));
        let mut parent = Tip {
            height: fork,
            hash: state.index.block_hash(fork).ok_or_else(missing)?,
        };
        // The kernel counts a block's time from its own branch, and the branches differ only
        // above the fork.
        let mut time = unix_time().max(state.index.median_time(tip.height));
        for _ in 0..=depth {
            time = time.saturating_add(1);
            let block = state.build(parent, time, Vec::new(), Amount::ZERO, None)?;
            state.submit(&block)?;
            parent = Tip {
                height: parent.height.saturating_add(1),
                hash: block.block_hash(),
            };
        }
        state.follow()?;
        state.expect_tip(parent.hash)?;
        Ok(parent)
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, ChainError> {
        self.state.lock().map_err(|_| {
            ChainError::unavailable("an earlier operation panicked, the chain must be reopened")
        })
    }
}

impl Chain for EmbeddedChain {
    fn tip(&self) -> Result<Tip, ChainError> {
        self.state()?.tip()
    }

    fn is_in_best_chain(&self, block: Tip) -> Result<bool, ChainError> {
        Ok(self.state()?.index.block_hash(block.height) == Some(block.hash))
    }

    fn genesis(&self) -> Result<BlockHash, ChainError> {
        self.state()?
            .index
            .block_hash(0)
            .ok_or_else(|| ChainError::garbage("the chain has no genesis block"))
    }

    fn unspent(&self, script: &Script) -> Result<Vec<Utxo>, ChainError> {
        Ok(self.state()?.unspent(script))
    }

    fn spends(&self, script: &Script) -> Result<Spends, ChainError> {
        let state = self.state()?;
        Ok(Spends {
            tip: state.tip()?,
            transactions: state.spends(script),
        })
    }

    fn output(&self, outpoint: OutPoint) -> Result<OutputStatus, ChainError> {
        let state = self.state()?;
        Ok(match state.find_output(&outpoint) {
            None => OutputStatus::Unseen,
            Some((output, height)) => OutputStatus::Seen {
                output: output.clone(),
                height,
                spent_by: state.spender(&outpoint).map(|spender| spender.txid),
            },
        })
    }

    fn transaction(&self, txid: Txid) -> Result<TransactionStatus, ChainError> {
        let state = self.state()?;
        if let Some(confirmation) = state.confirmation(&txid) {
            return Ok(TransactionStatus::Confirmed {
                height: confirmation.height,
                block_hash: confirmation.block_hash,
            });
        }
        Ok(match state.mempool.entry(&txid) {
            Some(_) => TransactionStatus::Mempool,
            None => TransactionStatus::Unknown,
        })
    }

    fn raw_transaction(&self, txid: Txid) -> Result<Option<Transaction>, ChainError> {
        Ok(self.state()?.find_transaction(&txid).cloned())
    }

    /// Nobody outbids anybody here.
    fn fee_rate(&self, _: u16) -> Result<Option<u64>, ChainError> {
        Ok(Some(1))
    }

    fn broadcast(&self, transaction: &Transaction) -> Result<(), BroadcastError> {
        let mut state = self.state().map_err(BroadcastError::unavailable)?;
        if state
            .find_transaction(&transaction.compute_txid())
            .is_some()
        {
            return Ok(());
        }
        state
            .accept(transaction.clone())
            .map_err(|reason| BroadcastError::Refused { reason })
    }
}

impl State {
    fn tip(&self) -> Result<Tip, ChainError> {
        self.index
            .tip()
            .ok_or_else(|| ChainError::garbage("the chain has no genesis block"))
    }

    fn accept(&mut self, transaction: Transaction) -> Result<(), Reason> {
        self.mempool
            .accept(transaction, &self.index)
            .map_err(Reason::new)
    }

    /// Mines one block on the tip, with what the mempool has.
    fn mine_one(&mut self, script: &Script) -> Result<BlockHash, ControlError> {
        let parent = self.tip()?;
        let earliest = self.index.median_time(parent.height).saturating_add(1);
        let (transactions, fees) = self.mempool.template();
        let time = unix_time().max(earliest);
        let block = self.build(parent, time, transactions, fees, Some(script.to_owned()))?;
        let submitted = self.submit(&block);
        self.follow()?;
        submitted?;
        let hash = block.block_hash();
        self.expect_tip(hash)?;
        Ok(hash)
    }

    /// Builds a block that pays to `script`, or else to the miner.
    fn build(
        &mut self,
        parent: Tip,
        time: u32,
        transactions: Vec<Transaction>,
        fees: Amount,
        script: Option<ScriptBuf>,
    ) -> Result<bitcoin::Block, ControlError> {
        self.extra_nonce = self.extra_nonce.wrapping_add(1);
        let template = Template {
            parent,
            time,
            transactions,
            fees,
            pay_to: script.unwrap_or_else(|| self.miner.script()),
            extra_nonce: self.extra_nonce,
        };
        template.mine().ok_or_else(|| refused("no nonce fits"))
    }

    fn submit(&self, block: &bitcoin::Block) -> Result<(), ControlError> {
        self.kernel.submit(block).map_err(refused)
    }

    fn expect_tip(&self, expected: BlockHash) -> Result<(), ControlError> {
        let got = self.tip()?.hash;
        if got == expected {
            Ok(())
        } else {
            Err(refused(format_args!("got tip {got}, expected {expected}")))
        }
    }

    /// Brings index and mempool to where the kernel's active chain is, whatever happened to it.
    fn follow(&mut self) -> Result<(), ChainError> {
        let target = self.kernel.tip()?;
        let mut dropped = Vec::new();
        while let Some(tip) = self.index.tip()
            && self.kernel.hash_at(tip.height) != Some(tip.hash)
        {
            let block = self.stored_block(&tip.hash)?;
            dropped.push(self.index.disconnect(block));
        }
        loop {
            let next = self
                .index
                .tip()
                .map_or(0, |tip| tip.height.saturating_add(1));
            if next > target.height {
                break;
            }
            let hash = self.kernel.hash_at(next).ok_or_else(|| {
                ChainError::garbage(format_args!("the kernel has no block {next}"))
            })?;
            let block = self.stored_block(&hash)?;
            self.index.connect(&block);
            self.mempool.block_connected(&block.txdata);
        }
        if !dropped.is_empty() {
            self.readmit(dropped);
        }
        Ok(())
    }

    /// Judges all unconfirmed transactions anew after blocks were dropped (`dropped`: the last
    /// block first). Those of the blocks come first, since the waiting ones may spend them.
    fn readmit(&mut self, dropped: Vec<Vec<Transaction>>) {
        let waiting = self.mempool.drain();
        for transaction in dropped.into_iter().rev().flatten().chain(waiting) {
            let txid = transaction.compute_txid();
            if let Err(reason) = self.accept(transaction) {
                tracing::debug!(%txid, %reason, "transaction lost in a reorganisation");
            }
        }
    }

    fn stored_block(&self, hash: &BlockHash) -> Result<bitcoin::Block, ChainError> {
        let (block, _) = self
            .kernel
            .block(hash)?
            .ok_or_else(|| ChainError::garbage(format_args!("the kernel has no block {hash}")))?;
        Ok(block)
    }

    /// The miner's coins that a transaction in the next block may spend, oldest first.
    fn miners_coins(&self) -> Vec<(OutPoint, TxOut)> {
        let next = self
            .index
            .tip()
            .map_or(0, |tip| tip.height.saturating_add(1));
        self.unspent(&self.miner.script())
            .into_iter()
            .filter(|utxo| {
                let confirmed = self.index.transaction(&utxo.outpoint.txid);
                confirmed.is_none_or(|confirmed| {
                    !confirmed.transaction.is_coinbase()
                        || next.saturating_sub(confirmed.height) >= COINBASE_MATURITY
                })
            })
            .map(|utxo| (utxo.outpoint, utxo.output))
            .collect()
    }
}

fn refused(reason: impl std::fmt::Display) -> ControlError {
    ControlError::BlockRefused {
        reason: Reason::new(reason),
    }
}

fn in_range(what: &'static str, got: u64, min: u64, max: u64) -> Result<(), ControlError> {
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(ControlError::OutOfRange {
            what,
            got,
            min,
            max,
        })
    }
}

fn regtest_script(address: &Address) -> Result<ScriptBuf, ControlError> {
    if address
        .as_unchecked()
        .is_valid_for_network(Network::Regtest)
    {
        Ok(address.script_pubkey())
    } else {
        Err(ControlError::ForeignAddress {
            got: Reason::new(address),
        })
    }
}

/// The clock, in Unix seconds, as block headers hold it.
fn unix_time() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| u32::try_from(elapsed.as_secs()).ok())
        .unwrap_or_default()
}
