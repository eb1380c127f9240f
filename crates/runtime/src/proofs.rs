//! Proof files: checked offline, written for others.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use beacon_cohort::announcement::Announcement;
use beacon_signal::{Index, LeafValue, ParseProofError, Proof, Root, Strictness};
use serde_json::{Value, json};

use crate::cli::{Failure, Global, print_line};

/// Most bytes that are read of a file: the largest map, generously indented.
const MAX_FILE: u64 = 1 << 20;

/// Checks a proof file, or the map of a CAS cohort. Ends with exit code 0 and one line when it is valid, 1 when it is not, naming the rule, and 2
/// when it cannot be read.
pub fn verify(
    global: &Global,
    did: &str,
    path: &Path,
    root: Option<&str>,
    leaf: Option<&str>,
) -> Result<(), Failure> {
    if !did.starts_with("did:") {
        return Err(Failure::usage(anyhow!(
            "got --did {did:?}, expected a DID, which begins with did:"
        )));
    }
    let root = root
        .map(Root::from_hex)
        .transpose()
        .context("--root")
        .map_err(Failure::usage)?;
    let leaf = leaf
        .map(LeafValue::from_hex)
        .transpose()
        .context("--leaf")
        .map_err(Failure::usage)?;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        .with_context(|| format!("cannot read proof file {}", path.display()))
        .map_err(Failure::usage)?;
    let proof = match Proof::from_json(&text) {
        Ok(proof) => proof,
        Err(error) => match (serde_json::from_str(&text), error) {
            (Ok(map), _) if leaf.is_none() => return verify_map(global, did, &map, root),
            // JSON that is no proof is an answer; what is not even JSON cannot be read.
            (_, error @ ParseProofError::Malformed(_)) => {
                return Err(anyhow!("invalid proof: {error}").into());
            }
            (_, error) => {
                let path = path.display();
                return Err(Failure::usage(anyhow!("proof file {path}: {error}")));
            }
        },
    };
    let leaf = leaf.unwrap_or_else(|| proof.leaf_value());
    let root = root.unwrap_or(proof.id);
    proof
        .verify(&Index::of_did(did), &leaf, &root, Strictness::Resolver)
        .map_err(|error| anyhow!("invalid proof: {error}"))?;
    let announces = match (&proof.update_id, leaf == LeafValue::EMPTY) {
        (Some(update), _) => format!("update {update}"),
        (None, true) => "nothing: the leaf is empty".to_owned(),
        (None, false) if proof.nonce.is_some() => "no update".to_owned(),
        (None, false) => format!("leaf {}", leaf.to_hex()),
    };
    if global.json {
        let update = proof.update_id.map(|update| update.to_string());
        return global.print(
            &json!({ "valid": true, "did": did, "root": root.to_hex(), "updateId": update }),
        );
    }
    print_line(&format!(
        "valid: root {} announces {announces} for {did}",
        root.to_hex()
    ))
}

fn verify_map(
    global: &Global,
    did: &str,
    map: &Announcement,
    root: Option<Root>,
) -> Result<(), Failure> {
    let bytes = map.signal_bytes();
    let root = root.context(
        "invalid proof: a map proves nothing without --root, the signal bytes that the chain has",
    )?;
    if bytes != root {
        let (got, expected) = (bytes.to_hex(), root.to_hex());
        return Err(
            anyhow!("invalid proof: got a map with hash {got}, expected {expected}").into(),
        );
    }
    let update = map.by_index().get(&Index::of_did(did)).copied();
    let root = root.to_hex();
    if global.json {
        let update = update.map(|update| update.to_string());
        return global
            .print(&json!({ "valid": true, "did": did, "root": root, "updateId": update }));
    }
    let announces = update.map_or("no update".to_owned(), |update| format!("update {update}"));
    print_line(&format!(
        "valid: root {root} announces {announces} for {did}"
    ))
}

/// Writes a proof, or evidence, as JSON, to a file or standard output.
pub fn write(value: &Value, out: Option<&Path>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)?;
    match out {
        Some(path) => {
            std::fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => print_line(&text)?,
    }
    Ok(())
}
