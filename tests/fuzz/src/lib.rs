//! Fuzz targets: everything that reads what others wrote, as plain functions from bytes to nothing.
//!
//! A target panics when something is not as it should be: when a parser panics, when what was read does not survive being
//! written and read again, when a refusal has no known code, when something grows without bound. What it is given may be
//! anything, so nothing else is a failure.
//!
//! Three drivers run the same functions:
//!
//! - `cargo test -p beacon-fuzz` replays the corpus, and a few mutations of each of its files ([`mutate`]);
//! - `scripts/fuzz` runs libFuzzer with coverage guidance, on the stable toolchain (feature `libfuzzer`);
//! - `FUZZ_ITERATIONS=100000 cargo test -p beacon-fuzz` mutates for longer where no C++ compiler is at hand.
//!
//! `cargo run -p beacon-fuzz --bin beacon-fuzz-seeds` writes the first corpus of each target again: real messages, logs and
//! documents. Files that are named otherwise were found by a run and are kept since they reach something that others do not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target says by a panic that it found something"
)]

// The in-memory cohort of the cohort crate's own tests: one world is enough.
#[path = "../../../crates/cohort/tests/common/mod.rs"]
mod common;
// And the world of the did:btcr2 crate's tests: a controller, a chain, a store.
#[path = "../../../crates/btcr2/tests/common/mod.rs"]
mod btcr2_world;
pub mod mutate;
pub mod seeds;
pub mod targets;

use std::path::PathBuf;

/// A function that panics when something is wrong, and how its input may be mutated.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target and of its folder below `corpus/`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// What it reads.
    pub form: Form,
}

/// What a target's input looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Bytes.
    Bytes,
    /// JSON, perhaps after some characters that choose something; several lines of it, perhaps.
    Json,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    bytes("btcr2_did", targets::btcr2::did),
    json("btcr2_resolution", targets::btcr2::resolution),
    json("btcr2_sidecar", targets::btcr2::sidecar),
    json("btcr2_update", targets::btcr2::update),
    json("config", targets::files::config),
    json("control", targets::control::control),
    json("coordinator_log", targets::logs::coordinator),
    bytes("did", targets::dids::did),
    json("did_document", targets::dids::document),
    json("envelope", targets::envelopes::envelope),
    json("evidence", targets::evidence::evidence),
    json("keygen", targets::messages::keygen),
    bytes("machines", targets::machines::machines),
    json("participant_log", targets::logs::participant),
    json("plaintext", targets::envelopes::plaintext),
    json("proof", targets::files::proof),
    json("protocols", targets::envelopes::protocols),
    bytes("psbt", targets::psbt::psbt),
    json("sign", targets::messages::sign),
    bytes("store", targets::store::store),
    json("terms", targets::files::terms),
    bytes("transaction", targets::transactions::transaction),
];

const fn json(name: &'static str, run: fn(&[u8])) -> Target {
    let form = Form::Json;
    Target { name, run, form }
}

const fn bytes(name: &'static str, run: fn(&[u8])) -> Target {
    let form = Form::Bytes;
    Target { name, run, form }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Where the corpus of a target is kept.
pub fn corpus(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).join(target)
}
