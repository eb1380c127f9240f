//! Both machines, driven as the runtime drives them: a cohort's life, attackers on either role, random interleavings, and
//! the golden logs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/outside.rs"]
mod outside_signer;

mod against_coordinator;
mod against_participant;
mod cas;
mod closing;
mod contests;
mod delivery;
mod deposits;
mod evidence;
mod fees;
mod golden;
mod history;
mod inputs;
mod interleavings;
mod late_dids;
mod life;
mod offers;
mod outside;
mod replacement;
mod rollback;
mod script_tree;
mod seats;
mod singleton;
mod strikes;
mod versions;
mod wire;
