//! Evidence files: checked offline, by anybody.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use beacon_cohort::evidence::Evidence;
use serde_json::json;

use crate::cli::{Failure, Global, print_line};

/// Longest evidence file, in bytes: a thousand keys, and a transaction of many inputs with two contributions.
const MAX_BYTES: u64 = 4 << 20;

/// Checks an evidence file. Ends with exit code 0 and what is proven, 1 when it proves nothing, and 2 when it cannot be
/// read.
pub fn verify(global: &Global, path: &Path) -> Result<(), Failure> {
    let unreadable = || format!("cannot read evidence file {}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .with_context(unreadable)
        .map_err(Failure::usage)?;
    if text.len() as u64 > MAX_BYTES {
        let fault = anyhow!("got more than {MAX_BYTES} bytes").context(unreadable());
        return Err(Failure::usage(fault));
    }
    let evidence: Evidence = serde_json::from_str(&text)
        .with_context(unreadable)
        .map_err(Failure::usage)?;
    let proven = evidence
        .verify()
        .map_err(|error| anyhow!("proves nothing: {error}"))?;
    if global.json {
        return global
            .print(&json!({ "proven": true, "key": proven.key, "sentence": proven.sentence }));
    }
    print_line(&format!("proven: {proven}"))
}
