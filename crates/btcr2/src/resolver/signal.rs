//! What a chain tells of a beacon: signals, and the blocks that hold them.

use beacon_signal::transaction::signal_bytes;
use bitcoin::{BlockHash, Transaction, Txid};

use super::error::ResolutionError;
use crate::error::Error;
use crate::time::Timestamp;

/// A block of the best chain, as far as resolution looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// How many blocks are before it.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// The time in its header, in Unix seconds: what `updated` and a proof's `created` are held against.
    pub time: u32,
    /// The median of the times of the eleven blocks that end with it, in Unix seconds, which Bitcoin Core calls `mediantime`:
    /// what `versionTime` and a proof's `expires` are held against, since no single miner can move it.
    pub median_time: u32,
}

impl Block {
    pub(super) fn time(&self) -> Timestamp {
        Timestamp::from_unix(self.time)
    }

    pub(super) fn median_time(&self) -> Timestamp {
        Timestamp::from_unix(self.median_time)
    }
}

/// A confirmed transaction that spends from a beacon's address and whose last output carries 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal {
    /// The block that holds it.
    pub block: Block,
    /// The transaction's id.
    pub txid: Txid,
    /// The signal bytes.
    pub bytes: [u8; 32],
    /// Number of blocks from its own to the tip, both included: 1 in the newest block.
    pub confirmations: u32,
}

impl Signal {
    /// The signal that a transaction in `block` is while the tip has `tip_height`; `None` if it carries no signal bytes, as
    /// most transactions do.
    ///
    /// The transaction must *spend* an output with the beacon's script, which only the caller's source can tell. One that
    /// merely pays to it is nobody's signal: anyone can send such a transaction.
    pub fn of_spend(transaction: &Transaction, block: Block, tip_height: u32) -> Option<Self> {
        let confirmations = tip_height.checked_sub(block.height)?.checked_add(1)?;
        Some(Self {
            block,
            txid: transaction.compute_txid(),
            bytes: signal_bytes(transaction)?,
            confirmations,
        })
    }

    /// Says which signal an error is about.
    pub(super) fn at(&self, error: Error) -> Error {
        let at = ResolutionError::AtSignal {
            txid: self.txid,
            height: self.block.height,
            problem: Box::new(error.problem),
        };
        Error::new(error.code, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, ScriptBuf, TxOut};

    fn block() -> Block {
        Block {
            height: 100,
            hash: BlockHash::from_byte_array([1; 32]),
            time: 1_000,
            median_time: 900,
        }
    }

    fn transaction(scripts: &[ScriptBuf]) -> Transaction {
        let output = |script: &ScriptBuf| TxOut {
            value: Amount::ZERO,
            script_pubkey: script.clone(),
        };
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: Vec::new(),
            output: scripts.iter().map(output).collect(),
        }
    }

    #[test]
    fn only_the_last_output_counts() {
        let (first, last) = (
            ScriptBuf::new_op_return([1; 32]),
            ScriptBuf::new_op_return([2; 32]),
        );
        let signal = Signal::of_spend(&transaction(&[first.clone(), last]), block(), 100).unwrap();
        assert_eq!((signal.bytes, signal.confirmations), ([2; 32], 1));
        let pays_back = transaction(&[first, ScriptBuf::new()]);
        assert_eq!(Signal::of_spend(&pays_back, block(), 100), None);
        assert_eq!(Signal::of_spend(&transaction(&[]), block(), 100), None);
    }

    #[test]
    fn confirmations_count_the_block_itself() {
        let transaction = transaction(&[ScriptBuf::new_op_return([1; 32])]);
        let confirmations =
            |tip| Signal::of_spend(&transaction, block(), tip).map(|signal| signal.confirmations);
        assert_eq!(confirmations(100), Some(1));
        assert_eq!(confirmations(601), Some(502));
        assert_eq!(confirmations(99), None, "a block beyond the tip");
        assert_eq!(confirmations(u32::MAX), Some(u32::MAX - 99));
    }
}
