//! Attacks, as a peer with a key and a network connection can make them: a type URI and a JSON body of a proven sender,
//! read by the real parser and handed to a real machine.
//!
//! `matrix` tries every type of message with every mutation and every member of its body. The other modules are attacks with
//! an intention. What a peer's machine answers is compared by its exact code; what an attack may change is nothing, or
//! what the test says; and nothing is ever signed for it. Attackers that need a conversation are in `tests/machines`
//! and, with a whole network, in the simulator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

#[path = "../common/mod.rs"]
mod common;

mod attempt;
mod cheating_coordinator;
mod forged_history;
mod growth;
mod hostile_member;
mod late_proofs;
mod life;
mod matrix;
mod past;
mod seats_and_successors;
mod slander;
mod two_roots;
