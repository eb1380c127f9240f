//! Where an agent learns what the Bitcoin chain says, and hands it transactions.
//!
//! Goals: one small blocking trait, [`Chain`], with exactly the questions that a coordinator, a
//! participant and a resolver ask; answers checked as far as one source can be checked; errors that tell "try
//! again" from "this source talks nonsense".
//!
//! Non-goals: a wallet, a header chain of our own, push notifications. The
//! runtime polls [`Chain::tip`] and asks again when the tip has moved.
//!
//! Three sources exist: [`EsploraChain`] asks an Esplora server over HTTP; [`CoreChain`] a Bitcoin Core node over
//! JSON-RPC; `EmbeddedChain` of the crate `beacon-embedded`, which compiles Bitcoin Core's C++, validates a regtest
//! chain in this process.
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
mod error;
mod esplora;
mod history;
mod network;
mod rpc;

pub use chain::{
    Chain, ConfirmedSpend, MAX_FEE_RATE, OutputStatus, Spends, Tip, TransactionStatus, Utxo,
};
pub use error::{BroadcastError, ChainError, Reason};
pub use esplora::{EsploraChain, InvalidBaseUrl, MAX_RETRIES};
pub use history::{MAX_HISTORY_BYTES, MAX_HISTORY_PAGES, MAX_HISTORY_TRANSACTIONS};
pub use network::{ChainIdentity, WrongChain};
pub use rpc::{
    CoreChain, CoreSettings, MAX_FOLLOWED, MAX_FOLLOWED_BYTES, MAX_RPC_RESPONSE, OLDEST_CORE,
    RpcAuth,
};
