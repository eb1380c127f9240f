//! Beacon coordinator.
fn main() {}
