//! The questions that agents ask, and what a reorganisation does to each answer.

use bitcoin::{BlockHash, OutPoint, Script, Transaction, TxOut, Txid};

use crate::{BroadcastError, ChainError};

/// One view of the Bitcoin chain. Every call blocks until the source has answered or its timeout
/// has passed; call it from a thread that may wait.
///
/// # Reorganisations
///
/// An answer is true for the moment at which it was given. When blocks are replaced, an answer
/// changes as written at each method, and nothing announces that: whoever stored an answer with
/// a height asks again when [`Chain::tip`] has changed, until the height is buried as deep as it
/// needs. Two calls can see two different tips. In none of these answers is a height alone an
/// identity: compare block hashes.
///
/// # What a lying source can do
///
/// [`Chain::output`], [`Chain::raw_transaction`] and [`Chain::spends`] are checked against the transaction
/// ids, which commit to scripts and amounts. Heights, block times, absence, and "unspent" are the source's word.
pub trait Chain: Send + Sync {
    /// The last block of the best chain. A reorganisation changes the hash, and the height may
    /// stay the same or even become lower.
    fn tip(&self) -> Result<Tip, ChainError>;

    /// Whether this block is one of the best chain's: whether an answer for that tip still holds. What
    /// a reorganisation replaces is not, until another one brings it back.
    fn is_in_best_chain(&self, block: Tip) -> Result<bool, ChainError>;

    /// The hash of block 0, by which the network is recognised. A reorganisation never changes
    /// it; a different value means a source for another network. Signets have it in common: see
    /// [`ChainIdentity`](crate::ChainIdentity).
    fn genesis(&self) -> Result<BlockHash, ChainError>;

    /// All outputs with this script that neither the chain nor the mempool spends, those in the
    /// mempool included: confirmed ones first, by height, then by outpoint. After a
    /// reorganisation an output may have another height, `None` (back in the mempool), or be gone
    /// (its transaction conflicts with the new chain); a spent one may be listed again.
    fn unspent(&self, script: &Script) -> Result<Vec<Utxo>, ChainError>;

    /// The confirmed transactions that spend an output with this script, oldest first (those of one
    /// block by transaction id), and the tip for which that is all of them. A payment to the script is
    /// no spend of it. After a reorganisation a transaction may be gone, or in another block at
    /// another time.
    ///
    /// A source can leave transactions out, and nobody who asks it alone can tell: then something
    /// that was announced looks as if it never was. It can also make up transactions that were never
    /// in a block, since neither their signatures nor their blocks are checked here. What it cannot do
    /// is pass a transaction of others off as a spend: each spent output is found in a transaction
    /// of the same answer, whose id commits to it.
    fn spends(&self, script: &Script) -> Result<Spends, ChainError>;

    /// What is known about one output. After a reorganisation `height` may change or become
    /// `None`, `spent_by` may change or vanish, and `Seen` may become `Unseen`.
    fn output(&self, outpoint: OutPoint) -> Result<OutputStatus, ChainError>;

    /// Where a transaction is. After a reorganisation `Confirmed` may name another block, or
    /// become `Mempool`, or `Unknown` when a conflicting transaction was mined instead.
    fn transaction(&self, txid: Txid) -> Result<TransactionStatus, ChainError>;

    /// The transaction itself, witness included, from the chain or the mempool. A reorganisation
    /// changes the answer only between `Some` and `None`.
    fn raw_transaction(&self, txid: Txid) -> Result<Option<Transaction>, ChainError>;

    /// The fee rate that is expected to bring a transaction into one of the next `blocks` blocks: in sat/vB, rounded up,
    /// from 1 to [`MAX_FEE_RATE`]. `None` where the source has no estimate, as on a chain that is hardly used. It is an
    /// opinion, which a source can choose as it likes: whoever pays has a limit of its own.
    fn fee_rate(&self, blocks: u16) -> Result<Option<u64>, ChainError>;

    /// Hands a transaction to the network. `Ok` also when it is known already, in the mempool or
    /// in a block, so repeating it is safe. A reorganisation can bring a confirmed transaction
    /// back to the mempool or drop it: broadcast it again then.
    fn broadcast(&self, transaction: &Transaction) -> Result<(), BroadcastError>;
}

/// Most sat/vB that an estimate may be: more is no estimate.
pub const MAX_FEE_RATE: u64 = 100_000;

/// An estimate within its bounds.
pub(crate) fn checked_fee_rate(sat_per_vb: u64) -> Result<u64, ChainError> {
    if (1..=MAX_FEE_RATE).contains(&sat_per_vb) {
        return Ok(sat_per_vb);
    }
    Err(ChainError::garbage(format_args!(
        "got a fee rate of {sat_per_vb} sat/vB, expected 1 to {MAX_FEE_RATE}"
    )))
}

/// The last block of the best chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Number of blocks before this one.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// One unspent output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utxo {
    /// Which output.
    pub outpoint: OutPoint,
    /// Its script and amount.
    pub output: TxOut,
    /// The height of its block; `None` while it is in the mempool.
    pub height: Option<u32>,
}

impl Utxo {
    /// The order that [`Chain::unspent`] promises.
    pub fn sort(utxos: &mut [Self]) {
        utxos.sort_by_key(|utxo| (utxo.height.unwrap_or(u32::MAX), utxo.outpoint));
    }
}

/// What [`Chain::spends`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spends {
    /// The last block of the chain in which these are all spends. It need not be the last one any more.
    pub tip: Tip,
    /// Oldest first.
    pub transactions: Vec<ConfirmedSpend>,
}

/// A transaction of the best chain that spends what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmedSpend {
    /// The transaction.
    pub transaction: Transaction,
    /// Height of its block.
    pub height: u32,
    /// Hash of its block.
    pub block_hash: BlockHash,
    /// The time in its block's header, in Unix seconds: the miner's clock.
    pub block_time: u32,
    /// The median of the times of the eleven blocks that end with its block, in Unix seconds: what Bitcoin
    /// Core calls `mediantime`, and no single miner can move.
    pub median_time: u32,
}

impl ConfirmedSpend {
    /// The order that [`Chain::spends`] promises.
    pub fn sort(spends: &mut [Self]) {
        spends.sort_by_cached_key(|spend| (spend.height, spend.transaction.compute_txid()));
    }
}

/// What is known about one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputStatus {
    /// Neither the chain nor the mempool has it (or the transaction has no output of that number).
    Unseen,
    /// It exists.
    Seen {
        /// Its script and amount.
        output: TxOut,
        /// The height of its block; `None` while it is in the mempool.
        height: Option<u32>,
        /// The transaction that spends it, in a block or in the mempool.
        spent_by: Option<Txid>,
    },
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Neither the chain nor the mempool has it.
    Unknown,
    /// In the mempool.
    Mempool,
    /// In a block of the best chain.
    Confirmed {
        /// The block's height.
        height: u32,
        /// The block's hash.
        block_hash: BlockHash,
    },
}
