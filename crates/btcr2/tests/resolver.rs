//! What resolution makes of a history: versions, duplicates, late publishing, times, confirmations, deactivation, and beacons
//! that come and go.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use beacon_btcr2::beacon::BeaconType;
use beacon_btcr2::json;
use common::world::{
    Controller, TIP, World, add_beacon, address, assert_error, assert_version, block, remark,
};
use serde_json::{Value, json};

/// A DID with two updates at its first beacon, in the blocks 100 and 200.
fn two_updates() -> (Controller, World) {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    for (text, height) in [("a", 100), ("b", 200)] {
        let update = fred.remark(text);
        world.announce(&fred.address(0), update, height);
    }
    (fred, world)
}

fn at(seconds: u32) -> String {
    beacon_btcr2::Timestamp::from_unix(seconds).to_string()
}

#[test]
fn without_signals_the_first_document_is_the_result() {
    for controller in [Controller::with_key(1), Controller::with_genesis(1, &[])] {
        let resolution = World::default().resolve(&controller);
        assert_eq!(assert_version(&resolution, 1).document, controller.document);
        assert_eq!(
            resolution.to_value(),
            json!({
                "didResolutionMetadata": { "contentType": "application/did" },
                "didDocument": controller.document.value(),
                "didDocumentMetadata": { "versionId": "1", "confirmations": 0, "deactivated": false },
            })
        );
    }
}

#[test]
fn the_result_tells_of_the_last_update() {
    let (fred, world) = two_updates();
    let resolution = world.resolve(&fred);
    assert_eq!(assert_version(&resolution, 3).document, fred.document);
    assert_eq!(
        resolution.to_value()["didDocumentMetadata"],
        json!({
            "versionId": "3",
            "confirmations": TIP - 199,
            "updated": at(block(200).time),
            "deactivated": false,
        })
    );
}

#[test]
fn several_updates_in_one_block_apply_by_version() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let updates: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|text| fred.remark(text))
        .collect();
    // The last first, so that neither the order of the answer nor that of the ids helps.
    for (number, update) in updates.into_iter().enumerate().rev() {
        world.announce(&fred.address(number % 3), update, 100);
    }
    fred.sidecar.updates.reverse();
    assert_eq!(
        assert_version(&world.resolve(&fred), 5).document,
        fred.document
    );
}

/// The blocks do not order updates, their versions do; a later version may even be in an earlier block.
#[test]
fn a_later_version_may_be_in_an_earlier_block() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    for (text, height) in [("a", 200), ("b", 100)] {
        let update = fred.remark(text);
        world.announce(&fred.address(0), update, height);
    }
    let resolution = world.resolve(&fred);
    assert_eq!(assert_version(&resolution, 3).confirmations, TIP - 99);
}

#[test]
fn an_update_may_be_announced_again() {
    let (fred, mut world) = two_updates();
    let first = json::hash(&fred.sidecar.updates[0]);
    // In another block, at another beacon, in the same block at another beacon.
    world.announce(&fred.address(0), first, 300);
    world.announce(&fred.address(1), first, 150);
    world.announce(&fred.address(2), first, 100);
    let resolution = world.resolve(&fred);
    let resolved = assert_version(&resolution, 3);
    assert_eq!(resolved.document, fred.document);
    assert_eq!(
        resolved.confirmations,
        TIP - 199,
        "that of the last update, not of a repetition"
    );
    // Of an update that is announced twice, the earlier block counts.
    let mut fred = Controller::with_key(1);
    let (mut world, update) = (World::default(), fred.remark("a"));
    world.announce(&fred.address(1), update, 300);
    world.announce(&fred.address(2), update, 250);
    assert_eq!(
        assert_version(&world.resolve(&fred), 2).confirmations,
        TIP - 249
    );
}

#[test]
fn an_update_that_is_signed_again_is_the_same_update() {
    let (mut fred, mut world) = two_updates();
    let mut unsigned = fred.sidecar.updates[0].clone();
    unsigned.as_object_mut().unwrap().remove("proof");
    let again = fred.sign(unsigned, |_| {});
    assert_ne!(again, fred.sidecar.updates[0]);
    world.announce(&fred.address(1), json::hash(&again), 300);
    fred.sidecar.updates.push(again);
    assert_version(&world.resolve(&fred), 3);
    // Its proof is not looked at: it changes nothing.
    let mut forged = fred.sidecar.updates[1].clone();
    forged["proof"]["proofValue"] = "z1".into();
    world.announce(&fred.address(1), json::hash(&forged), 301);
    fred.sidecar.updates.push(forged);
    assert_version(&world.resolve(&fred), 3);
}

#[test]
fn two_updates_to_one_version_are_late_publishing() {
    for (first, second) in [(100, 101), (100, 100), (101, 100)] {
        let (mut fred, mut world) = (Controller::with_key(1), World::default());
        let (other, _) = fred.next(&remark("other"));
        let other = fred.sign(other.value(), |_| {});
        let update = fred.remark("a");
        world.announce(&fred.address(0), update, first);
        world.announce(&fred.address(1), json::hash(&other), second);
        fred.sidecar.updates.push(other);
        assert_error(&world.resolve(&fred), "LATE_PUBLISHING_ERROR", "version 2");
    }
}

/// A second update to version 2, from a beacon of which nobody knows before version 4.
#[test]
fn late_publishing_shows_whenever_it_happens() {
    let (mut fred, mut world) = two_updates();
    let update = fred.update(&add_beacon("#new", BeaconType::Singleton, &address(5)));
    world.announce(&fred.address(0), update, 300);
    let start = Controller::with_key(1);
    let (other, _) = start.next(&remark("other"));
    let other = start.sign(other.value(), |_| {});
    world.announce(&address(5), json::hash(&other), 900);
    fred.sidecar.updates.push(other);
    assert_error(
        &world.resolve(&fred),
        "LATE_PUBLISHING_ERROR",
        "published late",
    );
    // Who asks for a version gets it as soon as it is there, as the specification has it.
    for version in 1..=4_u64 {
        let version_id = version.to_string();
        let resolution = world.resolve_with(&fred, |options| {
            options.set_version_id(&version_id).unwrap();
        });
        assert_version(&resolution, version);
    }
}

#[test]
fn a_version_that_is_missing_is_late_publishing() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let _never_announced = fred.remark("a");
    let update = fred.remark("b");
    let signal = world.announce(&fred.address(0), update, 100);
    let resolution = world.resolve(&fred);
    assert_error(
        &resolution,
        "LATE_PUBLISHING_ERROR",
        "leads to version 3, expected 2",
    );
    assert_error(
        &resolution,
        "LATE_PUBLISHING_ERROR",
        &signal.txid.to_string(),
    );
}

#[test]
fn no_update_leads_to_version_1_or_to_none() {
    for (version, words) in [
        (json!(1), "leads to version 1, expected at least 2"),
        (json!(0), "leads to version 0"),
        (json!(-1), "expected a whole number"),
        (json!(2.5), "expected a whole number"),
        (json!("2"), "expected a whole number"),
        (Value::Null, "expected a whole number"),
    ] {
        let (mut fred, mut world) = (Controller::with_key(1), World::default());
        fred.remark("a");
        let mut update = fred.sidecar.updates[0].clone();
        update["targetVersionId"] = version;
        world.announce(&fred.address(0), json::hash(&update), 100);
        fred.sidecar.updates = vec![update];
        assert_error(&world.resolve(&fred), "INVALID_DID_UPDATE", words);
    }
}

#[test]
fn each_version_can_be_asked_for() {
    let (fred, world) = two_updates();
    let resolve = |version: &str| {
        world.resolve_with(&fred, |options| options.set_version_id(version).unwrap())
    };
    for version in 1..=3 {
        assert_version(&resolve(&version.to_string()), version);
    }
    assert_eq!(assert_version(&resolve("1"), 1).confirmations, 0);
    assert_eq!(assert_version(&resolve("2"), 2).confirmations, TIP - 99);
    assert_error(
        &resolve("4"),
        "NOT_FOUND",
        "got 3 as the newest version, expected version 4",
    );
    assert_error(&resolve("0"), "NOT_FOUND", "expected version 0");
    assert_error(&resolve("18446744073709551615"), "NOT_FOUND", "newest");
}

#[test]
fn what_comes_after_the_version_that_was_asked_for_does_not_matter() {
    let (mut fred, mut world) = two_updates();
    let mut broken = fred.sidecar.updates[1].clone();
    broken["targetVersionId"] = 4.into();
    broken["patch"] = "nonsense".into();
    world.announce(&fred.address(0), json::hash(&broken), 300);
    fred.sidecar.updates.push(broken);
    assert_error(&world.resolve(&fred), "INVALID_DID_UPDATE", "block 300");
    let resolution = world.resolve_with(&fred, |options| options.set_version_id("3").unwrap());
    assert_version(&resolution, 3);
}

#[test]
fn a_time_asks_for_the_version_that_was_the_newest_then() {
    let (fred, world) = two_updates();
    let resolve = |seconds: u32| {
        world.resolve_with(&fred, |options| {
            options.set_version_time(&at(seconds)).unwrap();
        })
    };
    let (first, second) = (block(100), block(200));
    for (seconds, version) in [
        (0, 1),
        (first.median_time - 1, 1),
        (first.median_time, 2),
        (first.median_time + 1, 2),
        (second.median_time - 1, 2),
        (second.median_time, 3),
        (u32::MAX, 3),
    ] {
        assert_version(&resolve(seconds), version);
    }
    // The header's time plays no part: it is an hour later.
    assert!(first.time > first.median_time);
    let resolution = resolve(first.median_time);
    let resolved = assert_version(&resolution, 2);
    assert_eq!(resolved.updated.unwrap().to_string(), at(first.time));
    assert_eq!(resolved.confirmations, TIP - 99);
}

/// The block of the repetition of version 2 is after the time, that of version 3 is before it.
#[test]
fn a_repetition_does_not_stop_at_a_time() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let first = fred.remark("a");
    world.announce(&fred.address(0), first, 100);
    let second = fred.remark("b");
    world.announce(&fred.address(0), second, 200);
    world.announce(&fred.address(0), first, 300);
    let time = at(block(250).median_time);
    let resolution = world.resolve_with(&fred, |options| options.set_version_time(&time).unwrap());
    assert_version(&resolution, 3);
}

#[test]
fn signals_count_once_they_are_buried() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let first = fred.remark("a");
    world.announce(&fred.address(0), first, TIP - 5);
    let second = fred.remark("b");
    world.announce(&fred.address(0), second, TIP - 4);
    let third = fred.remark("c");
    world.announce(&fred.address(1), third, TIP);
    let resolve = |min_conf: u64| {
        world.resolve_with(&fred, |options| options.set_min_conf(min_conf).unwrap())
    };
    let default = world.resolve(&fred);
    assert_eq!(
        assert_version(&default, 2).confirmations,
        6,
        "six unless asked otherwise"
    );
    for (min_conf, version) in [(1, 4), (2, 3), (5, 3), (6, 2), (7, 1), (u64::MAX, 1)] {
        assert_version(&resolve(min_conf), version);
    }
}

/// A source may answer with transactions that are in no block; they are nobody's signals.
#[test]
fn a_signal_without_confirmations_never_counts() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let update = fred.remark("a");
    world.announce(&fred.address(0), update, TIP + 1);
    let resolution = world.resolve_with(&fred, |options| options.set_min_conf(1).unwrap());
    assert_version(&resolution, 1);
}

/// Data that is missing for a signal that is not buried yet is not asked for.
#[test]
fn the_data_of_young_signals_may_be_missing() {
    let (fred, mut world) = two_updates();
    world.announce(&fred.address(0), json::hash(&json!("unknown")), TIP - 1);
    assert_version(&world.resolve(&fred), 3);
    let resolution = world.resolve_with(&fred, |options| options.set_min_conf(2).unwrap());
    assert_error(&resolution, "MISSING_UPDATE_DATA", "block 999");
}

#[test]
fn a_deactivated_did_has_no_later_version() {
    let (mut fred, mut world) = two_updates();
    let last = fred.update(&json!([{ "op": "add", "path": "/deactivated", "value": true }]));
    world.announce(&fred.address(0), last, 300);
    // What would be version 5, whether it is valid or not.
    let mut later = fred.sidecar.updates[2].clone();
    later["targetVersionId"] = 5.into();
    world.announce(&fred.address(1), json::hash(&later), 400);
    fred.sidecar.updates.push(later);
    let resolution = world.resolve(&fred);
    let metadata = &resolution.to_value()["didDocumentMetadata"];
    assert_eq!(
        (&metadata["versionId"], &metadata["deactivated"]),
        (&json!("4"), &json!(true))
    );
    assert!(assert_version(&resolution, 4).document.is_deactivated());
    let resolution = world.resolve_with(&fred, |options| options.set_version_id("5").unwrap());
    assert_error(&resolution, "NOT_FOUND", "deactivated the DID");
    let resolution = world.resolve_with(&fred, |options| options.set_version_id("3").unwrap());
    assert_eq!(
        resolution.to_value()["didDocumentMetadata"]["deactivated"],
        false
    );
    let time = at(block(299).median_time);
    let resolution = world.resolve_with(&fred, |options| options.set_version_time(&time).unwrap());
    assert_eq!(
        resolution.to_value()["didDocumentMetadata"]["deactivated"],
        false
    );
}

#[test]
fn a_beacon_that_an_update_adds_is_looked_for_at_once() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let new = address(1);
    let update = fred.update(&add_beacon("#new", BeaconType::Singleton, &new));
    world.announce(&fred.address(0), update, 100);
    let update = fred.remark("at the new one");
    world.announce(&new, update, 100);
    // And on from there to the next, back at the first.
    let update = fred.update(&add_beacon("#newer", BeaconType::Singleton, &address(2)));
    world.announce(&fred.address(0), update, 120);
    let update = fred.remark("at the newest");
    world.announce(&address(2), update, 130);
    assert_eq!(
        assert_version(&world.resolve(&fred), 5).document,
        fred.document
    );
}

/// Until an update makes an address a beacon of the DID, what is spent from it means nothing, were it garbage.
#[test]
fn signals_from_before_a_beacon_was_added_mean_nothing() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let update = fred.update(&add_beacon("#late", BeaconType::Singleton, &address(1)));
    world.announce(&fred.address(0), update, 100);
    world.announce(&address(1), json::hash(&json!("nobody has this")), 98);
    let too_early = fred.remark("too early");
    world.announce(&address(1), too_early, 99);
    assert_version(&world.resolve(&fred), 2);
    let resolution = world.resolve_with(&fred, |options| options.set_version_id("3").unwrap());
    assert_error(&resolution, "NOT_FOUND", "expected version 3");
    // In the same block it counts, whatever the order of transactions in it.
    world.announce(&address(1), too_early, 100);
    assert_version(&world.resolve(&fred), 3);
}

#[test]
fn a_beacon_that_was_removed_says_nothing_more() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let removed = fred.address(0);
    let update = fred.update(&json!([{ "op": "remove", "path": "/service/0" }]));
    world.announce(&removed, update, 100);
    let ignored = fred.remark("from the removed one");
    world.announce(&removed, ignored, 110);
    assert_version(&world.resolve(&fred), 2);
    let resolution = world.resolve_with(&fred, |options| options.set_version_id("3").unwrap());
    assert_error(&resolution, "NOT_FOUND", "expected version 3");
    // Nor can it make the DID unresolvable by a second version 2.
    let start = Controller::with_key(1);
    let (other, _) = start.next(&remark("other"));
    let other = start.sign(other.value(), |_| {});
    world.announce(&removed, json::hash(&other), 120);
    fred.sidecar.updates.push(other);
    assert_version(&world.resolve(&fred), 2);
    // The same update from a beacon that is there counts.
    world.announce(&fred.address(0), ignored, 130);
    assert_version(&world.resolve(&fred), 3);
}

/// Its address was looked at while it was a beacon, and with that all its signals.
#[test]
fn a_removed_beacon_must_account_for_its_signals() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let removed = fred.address(0);
    let update = fred.update(&json!([{ "op": "remove", "path": "/service/0" }]));
    world.announce(&removed, update, 100);
    world.announce(&removed, json::hash(&json!("nobody has this")), 200);
    assert_error(&world.resolve(&fred), "MISSING_UPDATE_DATA", "block 200");
}

#[test]
fn a_beacon_can_be_rotated_and_put_back() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let (old, new) = (fred.address(0), address(7));
    let endpoint = |address: &bitcoin::Address| json!([{ "op": "replace", "path": "/service/0/serviceEndpoint", "value": beacon_btcr2::beacon::endpoint(address) }]);
    let rotated = fred.update(&endpoint(&new));
    world.announce(&old, rotated, 100);
    let update = fred.remark("at the rotated one");
    world.announce(&new, update, 200);
    let back = fred.update(&endpoint(&old));
    world.announce(&new, back, 300);
    let update = fred.remark("at the old one again");
    world.announce(&old, update, 400);
    assert_eq!(
        assert_version(&world.resolve(&fred), 5).document,
        fred.document
    );
}

/// A document may name one address twice. Its signals are read once, as the first service says.
#[test]
fn the_first_service_of_an_address_says_how_its_signals_are_read() {
    let shared = address(9);
    for (kinds, expected) in [
        ([BeaconType::Singleton, BeaconType::Smt], Ok(2)),
        (
            [BeaconType::Smt, BeaconType::Singleton],
            Err("MISSING_UPDATE_DATA"),
        ),
    ] {
        let services = kinds.map(|kind| (kind, shared.clone()));
        let (mut fred, mut world) = (Controller::with_genesis(1, &services), World::default());
        let update = fred.remark("a");
        world.announce(&shared, update, 100);
        match expected {
            Ok(version) => drop(assert_version(&world.resolve(&fred), version).clone()),
            Err(code) => assert_error(&world.resolve(&fred), code, "no proof for the root"),
        }
    }
}
