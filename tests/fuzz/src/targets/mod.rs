//! The targets, by what they read.

pub mod btcr2;
pub mod control;
pub mod dids;
pub mod envelopes;
pub mod evidence;
pub mod files;
pub mod logs;
pub mod machines;
pub mod messages;
pub mod psbt;
pub mod store;
pub mod transactions;

pub(crate) mod situations;
