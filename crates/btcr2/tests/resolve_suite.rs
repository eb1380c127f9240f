//! The resolve cases of the published test suite, positive and negative, with the signals that it recorded.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use std::path::{Path, PathBuf};

use beacon_btcr2::json;
use beacon_btcr2::resolver::{Block, Signal};
use beacon_btcr2::{Did, ResolutionOptions, Sidecar};
use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;
use common::Sources;
use serde_json::Value;

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/did-btcr2-test-suite")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    json::parse(&text, &Sidecar::LIMITS).unwrap()
}

/// A resolve case: its input and what is expected of it.
struct Case {
    name: String,
    set: PathBuf,
    input: Value,
    expect: Value,
    /// The published result, where it was in the stored copy of the suite.
    output: Option<Value>,
}

fn cases() -> Vec<Case> {
    let index = read(&suite().join("index.json"));
    let mut cases = Vec::new();
    for (path, about) in index["sets"].as_object().unwrap() {
        let set = suite().join(path);
        for file in about["files"].as_array().unwrap() {
            let file = file.as_str().unwrap();
            if !file.starts_with("resolve/") || !file.ends_with("/input.json") {
                continue;
            }
            let sub = file
                .strip_prefix("resolve/")
                .and_then(|file| file.strip_suffix("/input.json"));
            let expect = sub.map_or(&about["expect"], |sub| &about["expectSub"][sub]);
            let output = set.join(file.replace("input.json", "output.json"));
            cases.push(Case {
                name: format!("{path}/{file}"),
                input: read(&set.join(file)),
                expect: expect.clone(),
                output: output.exists().then(|| read(&output)),
                set: set.clone(),
            });
        }
    }
    cases
}

fn signal(recorded: &Value) -> (Address, Signal) {
    let number = |name: &str| u32::try_from(recorded[name].as_u64().unwrap()).unwrap();
    let text = |name: &str| recorded[name].as_str().unwrap();
    let address: Address<NetworkUnchecked> = text("address").parse().unwrap();
    let block = Block {
        height: number("blockHeight"),
        hash: text("blockHash").parse().unwrap(),
        time: number("blockTime"),
        median_time: number("mediantime"),
    };
    let signal = Signal {
        block,
        txid: text("txid").parse().unwrap(),
        bytes: hex::decode(text("signalBytes"))
            .unwrap()
            .try_into()
            .unwrap(),
        confirmations: number("recordedTip") - block.height + 1,
    };
    (address.assume_checked(), signal)
}

/// The chain as the set recorded it, and what the suite says is in the content addressed store.
fn sources(set: &Path) -> Sources {
    let mut sources = Sources::default();
    let signals = set.join("signals.json");
    if signals.exists() {
        for recorded in read(&signals).as_array().unwrap() {
            let (address, signal) = signal(recorded);
            sources.signals.entry(address).or_default().push(signal);
        }
    }
    sources
}

/// Puts everything into the store that a set delivers through one.
fn fill_store(set: &Path, sources: &mut Sources) {
    if let Some(genesis) = read(&set.join("other.json")).get("genesisDocument") {
        sources.store(genesis);
    }
    for update in ["update/01", "update/02", "update/03", "update"] {
        let output = set.join(update).join("output.json");
        if output.exists() {
            sources.store(&read(&output)["signedUpdate"]);
        }
    }
}

#[test]
fn every_resolve_case_of_the_suite_has_the_expected_result() {
    let cases = cases();
    let (mut resolved, mut refused, mut published) = (0, 0, 0);
    for case in &cases {
        let did: Did = case.input["did"].as_str().unwrap().parse().unwrap();
        let options = case.input["resolutionOptions"].to_string();
        let options = ResolutionOptions::from_json(options.as_bytes()).unwrap();
        let mut sources = sources(&case.set);
        // Only a set without sidecar data relies on a store; elsewhere what is withheld must stay so.
        if options.sidecar == Sidecar::default() {
            fill_store(&case.set, &mut sources);
        }
        let result = sources.resolve(&did, options).to_value();
        let (error, metadata) = (
            &result["didResolutionMetadata"]["error"],
            &result["didDocumentMetadata"],
        );
        if let Some(code) = case.expect.get("error") {
            assert_eq!(error, code, "{}: {result}", case.name);
            assert_eq!(
                (&result["didDocument"], metadata),
                (&Value::Null, &serde_json::json!({}))
            );
            refused += 1;
        } else {
            assert_eq!(error, &Value::Null, "{}: {result}", case.name);
            assert_eq!(
                metadata["versionId"], case.expect["versionId"],
                "{}",
                case.name
            );
            assert_eq!(
                metadata["deactivated"], case.expect["deactivated"],
                "{}",
                case.name
            );
            resolved += 1;
        }
        let Some(output) = &case.output else {
            continue;
        };
        published += 1;
        assert_eq!(
            result["didDocument"], output["didDocument"],
            "{}",
            case.name
        );
        let expected = &output["didDocumentMetadata"];
        assert_eq!(metadata["updated"], expected["updated"], "{}", case.name);
        let confirmations = |metadata: &Value| metadata["confirmations"].as_u64();
        assert!(
            confirmations(metadata) >= confirmations(expected),
            "{}",
            case.name
        );
        let (got, expected) = (
            &result["didResolutionMetadata"],
            &output["didResolutionMetadata"],
        );
        assert_eq!(got["error"], expected["error"]);
        assert_eq!(got["contentType"], expected["contentType"]);
    }
    // No case is left out. Of three the stored copy of the suite has no output file; its index tells their results.
    assert_eq!((resolved, refused, published), (11, 5, 13));
    assert_eq!(cases.len(), 16);
}

#[test]
fn the_negative_cases_fail_for_their_own_reason() {
    let mut checked = 0;
    for (set, reason) in [
        ("k1/qgp2ht79", "/proof/proofValue does not verify"),
        ("k1/qgp5fh0e", "/service/9"),
        ("k1/qgpepnx0", "published late"),
        ("x1/qgncuznq", "/sidecar/smtProofs/0"),
        ("x1/qttq27ml", "no proof for the root"),
    ] {
        let case = cases()
            .into_iter()
            .find(|case| case.name.contains(set))
            .unwrap();
        let did: Did = case.input["did"].as_str().unwrap().parse().unwrap();
        let options = case.input["resolutionOptions"].to_string();
        let options = ResolutionOptions::from_json(options.as_bytes()).unwrap();
        let result = sources(&case.set).resolve(&did, options).to_value();
        let message = &result["didResolutionMetadata"]["errorMessage"];
        assert!(
            message.as_str().unwrap().contains(reason),
            "{set}: {message}"
        );
        checked += 1;
    }
    assert_eq!(
        checked,
        cases()
            .iter()
            .filter(|case| case.expect.get("error").is_some())
            .count()
    );
}
