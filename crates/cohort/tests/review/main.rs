//! One test for each line of the two tables of checks. Each starts from a request that is accepted, with real keys, a
//! real tree and a real transaction, breaks one rule alone, and expects that rule's code.
//!
//! `tests/checks-matter.sh` removes each line of the tables in turn and sees that exactly its test fails. So no test here
//! may break two rules, and a test is named after its code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

mod case;
mod chain;
mod closing;
mod cohort;
mod commitment;
mod replacement;
mod transaction;

use beacon_cohort::ids::Timestamp;
use beacon_cohort::terms::{BtcNetwork, Terms};
use beacon_cohort::values::CohortKey;
use secp256k1::{PublicKey, SecretKey};

/// Number of the member's own key.
const OWN: u8 = 1;

fn key(number: u8) -> CohortKey {
    let secret = SecretKey::from_secret_bytes([number; 32]).unwrap();
    PublicKey::from_secret_key(&secret).into()
}

fn terms() -> Terms {
    let mut terms = Terms::new(BtcNetwork::Regtest, 3, Timestamp(1));
    terms.min_members = 2;
    terms
}
