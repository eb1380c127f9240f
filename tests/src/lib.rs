//! Test support.

pub mod harness;
