//! Beacon participant.
fn main() {}
