//! The real binaries as processes, on a private chain, driven as users drive them, with an attacker at their sockets.
//!
//! Nothing here sleeps: a test waits for an event of an agent's log ([`Agent::wait`]), for a line, for a frame or for an
//! exit, each with one generous [`DEADLINE`]; what was seen instead is in the panic's message. A process is killed
//! when its handle goes; where the test is panicking, the end of its log is shown and the files are kept.
//!
//! Processes stay in the test runner's process group, so that Ctrl-C and a timeout of the runner end them as well.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod agent;
mod binaries;
mod bitcoind;
mod chain;
pub mod dids;
mod fault;
mod liar;
pub mod lives;
mod log;
mod mortal;
mod net;
pub mod oracle;
mod process;
mod resolver;
mod tap;
mod wire;

use std::time::Duration;

pub use agent::Agent;
pub use binaries::Binary;
pub use chain::Regtest;
pub use fault::{Fault, Faults, When};
pub use liar::Liar;
pub use log::{Ended, Event, Log};
pub use mortal::{Mortal, on_disk};
pub use net::{Cohort, Member, Net, Signal, chain_options, coordinator, free_port, verify_proof};
pub use process::{Output, Scratch, run, run_with};
pub use resolver::{Resolver, Served};
pub use tap::Tap;
pub use wire::{Stranger, anoncrypted, message, now};

/// How long anything may take. Far beyond what it takes on a loaded machine: it ends a test that hangs.
pub const DEADLINE: Duration = Duration::from_mins(1);
