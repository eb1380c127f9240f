//! What an update is checked for before it makes a version: each rule broken alone.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use beacon_btcr2::json;
use beacon_btcr2::update::CONTEXTS;
use common::world::{Controller, World, assert_error, assert_version, block, remark};
use serde_json::{Map, Value, json};

/// Resolves a DID whose one update is changed before it is signed, and the options of its proof too.
fn resolve(
    change_update: impl FnOnce(&mut Map<String, Value>),
    change_proof: impl FnOnce(&mut Map<String, Value>),
) -> beacon_btcr2::Resolution {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let (unsigned, _) = fred.next(&remark("a"));
    let mut unsigned = unsigned.value();
    change_update(unsigned.as_object_mut().unwrap());
    let update = fred.sign(unsigned, change_proof);
    world.announce(&fred.address(0), json::hash(&update), 100);
    fred.sidecar.updates.push(update);
    world.resolve(&fred)
}

/// Sets a member, or takes it out.
fn set(members: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => members.insert(name.into(), value),
        None => members.remove(name),
    };
}

#[test]
fn an_update_that_keeps_the_rules_is_applied() {
    assert_version(&resolve(|_| {}, |_| {}), 2);
    // What the specification does not define is signed like the rest, and means nothing.
    let other = |members: &mut Map<String, Value>| set(members, "other", Some(json!([1])));
    assert_version(&resolve(other, other), 2);
}

/// The signature is right each time: it is what was signed that is not.
#[test]
fn an_update_that_breaks_a_rule_is_refused() {
    let swapped = json!([CONTEXTS[1], CONTEXTS[0], CONTEXTS[2], CONTEXTS[3]]);
    let other_hash = || Some(json!("A".repeat(43)));
    for (member, value, words) in [
        ("@context", Some(json!([CONTEXTS[0]])), "/@context"),
        ("@context", Some(swapped), "/@context"),
        ("@context", Some(json!(CONTEXTS[0])), "/@context"),
        ("@context", None, "/@context"),
        ("sourceHash", other_hash(), "/sourceHash"),
        ("sourceHash", Some(json!("AAAA")), "/sourceHash"),
        ("sourceHash", None, "/sourceHash"),
        ("targetHash", other_hash(), "/targetHash"),
        ("targetHash", Some(json!(5)), "/targetHash"),
        ("patch", Some(json!({})), "JSON Patch"),
        ("patch", None, "JSON Patch"),
        ("patch", Some(json!([{ "op": "move" }])), "operation /0"),
        (
            "patch",
            Some(json!([{ "op": "remove", "path": "/x" }])),
            "/x",
        ),
        (
            "patch",
            Some(json!([{ "op": "test", "path": "/id", "value": "x" }])),
            "operation /0",
        ),
        (
            "patch",
            Some(json!([{ "op": "replace", "path": "/id", "value": "did:btcr2:_" }])),
            "/id",
        ),
        (
            "patch",
            Some(json!([{ "op": "remove", "path": "/verificationMethod/0/type" }])),
            "/verificationMethod/0/type",
        ),
    ] {
        let resolution = resolve(|update| set(update, member, value), |_| {});
        assert_error(&resolution, "INVALID_DID_UPDATE", words);
    }
}

/// Messages end up in terminals, which obey what is in them.
#[test]
fn no_message_has_control_characters_from_outside() {
    let hostile = "\u{1b}[2J\u{9b}2J\u{7f}\0";
    for value in [
        json!([{ "op": hostile, "path": "/x" }]),
        json!([{ "op": "remove", "path": format!("/{hostile}") }]),
        json!([{ "op": "add", "path": "/id", "value": hostile }]),
        json!([{ "op": "add", "path": "/service/-", "value": { "id": hostile, "type": hostile } }]),
        json!(hostile),
    ] {
        let resolution = resolve(|update| set(update, "patch", Some(value)), |_| {});
        let error = resolution.0.unwrap_err().to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    for member in ["type", "verificationMethod", "created", "@context"] {
        let resolution = resolve(|_| {}, |proof| set(proof, member, Some(json!(hostile))));
        let error = resolution.0.unwrap_err().to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn a_proof_that_breaks_a_rule_is_refused() {
    let did = Controller::with_key(1).did;
    for (member, value, words) in [
        ("@context", Some(json!([CONTEXTS[0]])), "/proof/@context"),
        ("@context", None, "/proof/@context"),
        ("type", Some(json!("Other")), "/proof/type"),
        (
            "cryptosuite",
            Some(json!("bip340-rdfc-2025")),
            "/proof/cryptosuite",
        ),
        (
            "proofPurpose",
            Some(json!("assertionMethod")),
            "/proof/proofPurpose",
        ),
        (
            "capabilityAction",
            Some(json!("Read")),
            "/proof/capabilityAction",
        ),
        ("capabilityAction", None, "/proof/capabilityAction"),
        // Without percent-encoding.
        (
            "capability",
            Some(json!(format!("urn:zcap:root:{did}"))),
            "/proof/capability",
        ),
        (
            "invocationTarget",
            Some(json!("did:btcr2:x")),
            "/proof/invocationTarget",
        ),
        ("verificationMethod", Some(json!("#unknown")), "#unknown"),
        ("verificationMethod", None, "verificationMethod"),
    ] {
        let resolution = resolve(|_| {}, |proof| set(proof, member, value));
        assert_error(&resolution, "INVALID_DID_UPDATE", words);
    }
    let target = Some(json!(did.as_str()));
    assert_version(
        &resolve(|_| {}, |proof| set(proof, "invocationTarget", target)),
        2,
    );
}

#[test]
fn the_times_of_a_proof_are_held_against_its_block() {
    let at = |seconds: u32| Value::from(beacon_btcr2::Timestamp::from_unix(seconds).to_string());
    let (time, median) = (block(100).time, block(100).median_time);
    let resolve = |created: Option<Value>, expires: Option<Value>| {
        let times = |proof: &mut Map<String, Value>| {
            set(proof, "created", created);
            set(proof, "expires", expires);
        };
        resolve(|_| {}, times)
    };
    for (created, expires) in [
        (Some(at(time)), None),
        (Some(at(0)), None),
        (None, Some(at(median))),
        (None, Some(at(u32::MAX))),
        (Some(at(median)), Some(at(median))),
        (Some(json!("2020-01-01T00:00:00.5+02:00")), None),
    ] {
        assert_version(&resolve(created, expires), 2);
    }
    for (created, expires, words) in [
        (Some(at(time + 1)), None, "the time of its block"),
        (None, Some(at(median - 1)), "the median time of its block"),
        (Some(at(time)), Some(at(time - 1)), "when it was created"),
        (Some(json!(5)), None, "got 5 at /proof/created"),
        (
            None,
            Some(json!("tomorrow")),
            "/proof/expires: got \"tomorrow\"",
        ),
        (None, Some(json!(null)), "/proof/expires"),
    ] {
        assert_error(&resolve(created, expires), "INVALID_DID_UPDATE", words);
    }
}
