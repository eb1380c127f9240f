//! `docs/conformance.md` names tests that exist, and the limits that the code has; the example in `docs/operations.md` works.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::path::Path;

use beacon_btcr2::beacon::BeaconType;
use beacon_btcr2::resolver::{MAX_ADDRESSES, MAX_OBJECT_BYTES, MAX_OBJECTS, MAX_SIGNALS};
use beacon_btcr2::{Network, Sidecar, initial};

fn page() -> String {
    read("conformance.md")
}

fn read(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::read_to_string(docs.join(name)).unwrap()
}

fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_tests_that_are_named_exist() {
    let mut code = String::new();
    for folder in ["src", "tests"] {
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut code,
        );
    }
    let page = page();
    let is_test = |name: &&str| {
        name.matches('_').count() >= 2
            && name
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    for test in &named {
        // The block's height that the specification keeps is written in the same way.
        if *test != "current_block_height" {
            assert!(code.contains(&format!("fn {test}(")), "{test}");
        }
    }
    assert!(named.len() > 30, "{} tests are named", named.len());
}

#[test]
fn the_limits_of_a_resolution_are_those_of_the_code() {
    let page = page();
    let row = |name: &str| {
        let mut lines = page.lines();
        let start = format!("| {name} |");
        lines
            .find(|line| line.starts_with(&start))
            .unwrap()
            .to_owned()
    };
    // Thousands are parted by commas there.
    let number = |number: usize| match (number / 1_000, number % 1_000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) if thousands < 1_000 => format!("{thousands},{rest:03}"),
        (thousands, rest) => format!("{},{:03},{rest:03}", thousands / 1_000, thousands % 1_000),
    };
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    for (name, limits) in [
        (
            "options with sidecar data",
            vec![
                mib(Sidecar::LIMITS.bytes),
                number(Sidecar::LIMITS.nodes),
                number(Sidecar::MAX_ITEMS),
            ],
        ),
        ("addresses", vec![number(MAX_ADDRESSES)]),
        ("signals", vec![number(MAX_SIGNALS)]),
        (
            "objects from a store",
            vec![number(MAX_OBJECTS), mib(MAX_OBJECT_BYTES)],
        ),
    ] {
        let row = row(name);
        for limit in limits {
            assert!(row.contains(&limit), "{row} says {limit}");
        }
    }
}

/// With a key and an address where the page leaves them out.
#[test]
fn the_genesis_document_of_the_manual_makes_a_did() {
    let page = read("operations.md");
    let (_, example) = page.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let key = "zQ3shPpzabVG5j6We7oCLReb6CykHjfhcgXXXbyjn2DpAAnjB";
    let address = "bcrt1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5ssm803es";
    let example = example.replace("zQ3sh…", key).replace("bcrt1p…", address);
    let genesis = serde_json::from_str(&example).unwrap();
    let (did, document) = initial::create_from_genesis(Network::Regtest, &genesis).unwrap();
    let [beacon] = document.beacons() else {
        unreachable!("one beacon");
    };
    assert_eq!(
        (beacon.kind, beacon.address.to_string()),
        (BeaconType::Smt, address.to_owned())
    );
    document.update_key(&did.absolute("#key")).unwrap();
}
