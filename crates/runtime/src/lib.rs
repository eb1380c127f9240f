//! Beacon runtime.

pub mod agent;
pub mod app;
pub mod by_hand;
pub mod cli;
pub mod control;
pub mod coordinator;
pub mod counts;
pub mod data_dir;
pub mod dids;
pub mod driver;
pub mod evidence;
pub mod fund;
pub mod identities;
pub mod keys;
pub mod limits;
pub mod outbox;
mod params;
pub mod participant;
pub mod proofs;
mod prover;
pub mod rates;
pub mod resolve;
pub mod settings;
pub mod source;
pub mod store;
pub mod transport;
pub mod watcher;
