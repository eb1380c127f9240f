//! Evidence files: checked offline, written for others.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use beacon_cohort::evidence::Evidence;
use serde_json::{Value, json};

use crate::cli::{Failure, Global, print_line};

/// Longest file that is read: a cohort of 1000 keys and a transaction fit many times.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Checks an evidence file. Ends with exit code 0 and what is proven, 1 when nothing is, naming the reason, and 2 when it
/// cannot be read.
pub fn verify(global: &Global, path: &Path) -> Result<(), Failure> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .with_context(|| format!("cannot read evidence file {}", path.display()))
        .map_err(Failure::usage)?;
    if text.len() as u64 > MAX_BYTES {
        let error = anyhow!(
            "evidence file {}: more than {MAX_BYTES} bytes",
            path.display()
        );
        return Err(Failure::usage(error));
    }
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("evidence file {}", path.display()))
        .map_err(Failure::usage)?;
    // JSON that is no evidence is an answer; what is not even JSON cannot be read.
    let evidence: Evidence = serde_json::from_value(value)
        .map_err(|error| anyhow!("nothing is proven: no evidence file: {error}"))?;
    let proven = evidence
        .verify()
        .map_err(|error| anyhow!("nothing is proven: {error}"))?;
    if global.json {
        let kind = evidence.misdeed.kind();
        return global.print(&json!({
            "proven": true, "kind": kind, "key": proven.key, "did": evidence.culprit_did, "sentence": proven.to_string(),
        }));
    }
    print_line(&format!("proven: {proven}"))
}

/// Writes evidence to a new file, or to standard output.
pub fn write(evidence: &Value, out: Option<&Path>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(evidence)?;
    let Some(path) = out else {
        return print_line(&text);
    };
    let written = std::fs::File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    Ok(written.with_context(|| format!("cannot write {}", path.display()))?)
}
