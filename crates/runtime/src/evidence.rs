//! Evidence files, checked offline.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use beacon_cohort::evidence::Evidence;
use serde_json::{Value, json};

use crate::cli::{Failure, print_line};

/// Longest file that is read: a cohort of 1000 keys and a transaction fit many times.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Checks an evidence file. Ends with exit code 0 and what is proven, 1 when nothing is, naming the reason, and 2 when it
/// cannot be read.
pub fn verify(json: bool, path: &Path) -> Result<(), Failure> {
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
    if json {
        let kind = evidence.misdeed.kind();
        let answer = json!({
            "proven": true, "kind": kind, "key": proven.key, "did": evidence.culprit_did, "sentence": proven.to_string(),
        });
        return print_line(&answer.to_string());
    }
    print_line(&format!("proven: {proven}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD_NONCE: &str = include_str!("../../cohort/tests/golden/evidence-1-bad-nonce.json");

    fn code(text: &str) -> Option<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.json");
        std::fs::write(&path, text).unwrap();
        verify(false, &path).err().map(|failure| failure.code)
    }

    /// Proven, not proven, and not to be read are three different answers.
    #[test]
    fn the_exit_code_says_what_the_file_is_worth() {
        assert_eq!(code(BAD_NONCE), None);
        assert_eq!(code(&BAD_NONCE.replace("bad-nonce", "good-nonce")), Some(1));
        let other_session = BAD_NONCE.replace("\"session_id\": \"", "\"session_id\": \"0");
        assert_eq!(code(&other_session), Some(1));
        assert_eq!(code("{}"), Some(1));
        assert_eq!(code("not JSON"), Some(2));
        assert_eq!(code(&" ".repeat(5_000_000)), Some(2));
    }
}
