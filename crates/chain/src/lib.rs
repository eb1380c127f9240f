//! Where an agent learns what the Bitcoin chain says, and hands it transactions.
//!
//! Goals: one small blocking trait, [`Chain`], with exactly the questions that a coordinator and
//! a participant ask; answers checked as far as one source can be checked; errors that tell "try
//! again" from "this source talks nonsense".
//!
//! Non-goals: a wallet, a header chain of our own, fee estimation, push notifications. The
//! runtime polls [`Chain::tip`] and asks again when the tip has moved.
//!
//! Two sources exist:
//!
//! - [`EsploraChain`] asks an Esplora server over HTTP.
//! - `EmbeddedChain` (feature `kernel`) runs Bitcoin Core's own validation in this process on
//!   regtest. The feature compiles C++; nothing else in this crate does.
//!
//! ```no_run
//! use std::time::Duration;
//! use beacon_chain::{Chain, EsploraChain};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let chain = EsploraChain::new("http://127.0.0.1:3002", Duration::from_secs(10), 2)?;
//! println!("height {}", chain.tip()?.height);
//! # Ok(())
//! # }
//! ```

mod chain;
#[cfg(feature = "kernel")]
mod embedded;
mod error;
mod esplora;

pub use chain::{Chain, OutputStatus, Tip, TransactionStatus, Utxo};
#[cfg(feature = "kernel")]
pub use embedded::{
    BlockView, Confirmation, ControlError, EmbeddedChain, MAX_FUND_SAT, MAX_MINE_BLOCKS,
    MAX_REORG_DEPTH, OpenError, ScriptStats, Spend, TransactionDetails, UtxoView, Waiting,
};
pub use error::{BroadcastError, ChainError, Reason};
pub use esplora::{EsploraChain, InvalidBaseUrl, MAX_RETRIES};
