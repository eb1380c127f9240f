//! Beacon runtime.

pub mod agent;
pub mod control;
pub mod data_dir;
pub mod driver;
pub mod identities;
pub mod keys;
pub mod store;
pub mod transport;
pub mod watcher;
