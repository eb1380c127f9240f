//! Test support.

pub mod harness;
pub mod simulator;
