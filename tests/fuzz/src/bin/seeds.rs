//! Writes the seeds of every target's corpus, or of those that are named.

#![allow(
    clippy::unwrap_used,
    reason = "a tool that stops where it cannot write"
)]

use beacon_fuzz::{TARGETS, corpus, seeds::seeds};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for target in TARGETS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == target.name) {
            continue;
        }
        let folder = corpus(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds(target.name) {
            std::fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
}
