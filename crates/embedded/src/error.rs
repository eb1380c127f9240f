//! What can go wrong with a chain of our own.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use beacon_chain::{ChainError, Reason};

/// Why a chain could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The data directory cannot be made or used.
    #[error("cannot use data directory {path}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory has other files in it. The kernel would write over block files that it does
    /// not recognise, so a node's data directory must not be taken for ours.
    #[error("data directory {path} has files of another program, expected a new or empty one")]
    Foreign {
        /// Which one.
        path: PathBuf,
    },
    /// Another chain, here or in another process, has the directory open.
    #[error("data directory {path} is in use by another process, expected a free one")]
    InUse {
        /// Which one.
        path: PathBuf,
    },
    /// The kernel did not start.
    #[error("cannot start bitcoin core's kernel: {reason}")]
    Kernel {
        /// Its message.
        reason: Reason,
    },
    /// The stored blocks could not be read back.
    #[error("cannot read the stored blocks back")]
    Blocks(#[from] ChainError),
}

/// Why mining, funding or a reorganisation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// A number is out of range.
    #[error("got {got} {what}, expected {min} to {max}")]
    OutOfRange {
        /// What is counted.
        what: &'static str,
        /// The number.
        got: u64,
        /// Smallest that is allowed.
        min: u64,
        /// Largest that is allowed.
        max: u64,
    },
    /// The address belongs to another network.
    #[error("got address {got}, expected one for regtest")]
    ForeignAddress {
        /// The address.
        got: Reason,
    },
    /// The miner's coins do not suffice, and mining more does not help: on regtest the subsidy is
    /// gone after block 4950.
    #[error("got mature coins of less than {wanted} sat and fees, expected more")]
    Insufficient {
        /// What was to be paid, in sat.
        wanted: u64,
    },
    /// The kernel refused a block, or did not make it the tip.
    #[error("block refused: {reason}")]
    BlockRefused {
        /// What it said.
        reason: Reason,
    },
    /// The mempool refused the miner's own transaction.
    #[error("payment refused: {reason}")]
    PaymentRefused {
        /// Why.
        reason: Reason,
    },
    /// The chain could not be read.
    #[error(transparent)]
    Chain(#[from] ChainError),
}
