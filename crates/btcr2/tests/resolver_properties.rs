//! What holds for every history and every answer: the order of answers decides nothing, and no change of a single byte makes a
//! DID resolve to another document.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use beacon_btcr2::beacon::BeaconType;
use beacon_btcr2::json;
use beacon_btcr2::{Hash32, Request, Resolution, ResolutionOptions, Resolver, Timestamp};
use common::world::{
    Controller, World, address, announce_in_map, announce_in_tree, assert_version, block,
    one_of_everything,
};
use common::{Answer, drive};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// Resolves with sidecar data in this text.
fn resolve_text(world: &World, fred: &Controller, sidecar: &[u8]) -> Option<Resolution> {
    let text = [&b"{\"sidecar\":"[..], sidecar, b"}"].concat();
    let options = ResolutionOptions::from_json(&text).ok()?;
    Some(world.sources.resolve(&fred.did, options))
}

/// What came of changed data: nothing, an error, or the very document that it was before. Says whether it is the last.
fn assert_same_or_none(resolution: Option<Resolution>, fred: &Controller, what: &str) -> bool {
    let Some(Resolution(Ok(resolved))) = resolution else {
        return false;
    };
    assert_eq!(resolved.document.value(), fred.document.value(), "{what}");
    assert_eq!(resolved.version_id, fred.version, "{what}");
    true
}

#[test]
fn no_byte_of_a_sidecar_can_be_changed_to_another_document() {
    let (fred, world) = one_of_everything();
    let text = fred.sidecar.to_value().to_string().into_bytes();
    assert_version(&resolve_text(&world, &fred, &text).unwrap(), 5);
    let (mut same, mut refused) = (0, 0);
    for at in 0..text.len() {
        // The lowest bit makes another letter or digit of most, bit 5 the other case, and a space is no letter at all.
        for byte in [text[at] ^ 1, text[at] ^ 0x20, b' '] {
            if byte == text[at] {
                continue;
            }
            let mut changed = text.clone();
            changed[at] = byte;
            let resolution = resolve_text(&world, &fred, &changed);
            let what = format!("byte {at} is {byte:#04x}");
            if assert_same_or_none(resolution, &fred, &what) {
                same += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(refused > 15_000, "{refused} changes");
    assert_eq!(
        same, 0,
        "each byte is covered by a hash, or needed to find what is"
    );
}

#[test]
fn no_byte_of_an_object_can_be_changed_to_another_document() {
    let (mut fred, mut world) = one_of_everything();
    let sidecar = std::mem::take(&mut fred.sidecar);
    fred.sidecar.smt_proofs = sidecar.smt_proofs;
    world.sources.store(&sidecar.genesis_document.unwrap());
    for object in sidecar.updates.iter().chain(&sidecar.cas_updates) {
        world.sources.store(object);
    }
    assert_version(&world.resolve(&fred), 5);
    for (hash, bytes) in world.sources.objects.clone() {
        for at in (0..bytes.len()).step_by(3) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let mut world = world.clone();
            world.sources.objects.insert(hash, changed);
            let what = format!("byte {at} of {hash}");
            assert_same_or_none(Some(world.resolve(&fred)), &fred, &what);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_few_bytes_leads_to_another_document(
        changes in prop::collection::vec((any::<Index>(), any::<u8>(), 0..3_u8), 1..4)
    ) {
        let (fred, world) = one_of_everything();
        let mut text = fred.sidecar.to_value().to_string().into_bytes();
        for (at, byte, kind) in &changes {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = *byte,
                1 => text.insert(at, *byte),
                _ => drop(text.remove(at)),
            }
        }
        assert_same_or_none(resolve_text(&world, &fred, &text), &fred, &format!("{changes:?}"));
    }

    /// Whatever is announced where, and whatever of it is missing.
    #[test]
    fn the_order_of_answers_decides_nothing(
        history in history(),
        orders in prop::collection::vec(any::<Index>(), 1..40),
        unasked in any::<bool>(),
    ) {
        let (fred, world, options) = history;
        let expected = world.sources.resolve(&fred.did, options.clone());

        let mut turn = 0;
        let mut next = |below: usize| {
            turn += 1;
            orders[turn % orders.len()].index(below)
        };
        let foreign = world.clone().signal([9; 32], 50);
        let resolution = drive(Resolver::new(fred.did.clone(), options), |mut requests| {
            let mut answers = Vec::new();
            if unasked {
                answers.push((Request::Signals(address(1_000_000)), Answer::Signals(vec![foreign])));
            }
            // At least one is answered, in any order; the others wait for the next round.
            let count = 1 + next(requests.len());
            for _ in 0..count {
                let request = requests.swap_remove(next(requests.len()));
                let mut answer = world.sources.answer(&request);
                if let Answer::Signals(signals) = &mut answer {
                    signals.reverse();
                    if !signals.is_empty() {
                        signals.push(signals[next(signals.len())]);
                    }
                }
                answers.push((request, answer));
            }
            answers
        });
        prop_assert_eq!(resolution, expected);
    }

    /// Whatever the sidecar data and the store hold and whatever is on the chain, there is a result that can be printed.
    #[test]
    fn garbage_gives_an_error(
        updates in prop::collection::vec(garbage(), 0..4),
        maps in prop::collection::vec(garbage(), 0..4),
        proofs in prop::collection::vec(garbage(), 0..4),
        objects in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
        heights in prop::collection::vec(0..1_100_u32, 0..12),
    ) {
        let beacons = [BeaconType::Singleton, BeaconType::Cas, BeaconType::Smt].map(|kind| (kind, address(kind as u32)));
        let (mut fred, mut world) = (Controller::with_genesis(1, &beacons), World::default());
        let mut hashes = vec![Hash32([5; 32])];
        for (number, value) in updates.iter().chain(&maps).chain(&proofs).enumerate() {
            hashes.push(json::hash(value));
            if let Some(bytes) = objects.get(number) {
                world.sources.objects.insert(json::hash(value), bytes.clone());
            }
        }
        (fred.sidecar.updates, fred.sidecar.cas_updates, fred.sidecar.smt_proofs) = (updates, maps, proofs);
        for (number, height) in heights.iter().enumerate() {
            if *height <= 1_000 {
                world.announce(&fred.address(number % 3), hashes[number % hashes.len()], *height);
            }
        }
        let result = world.resolve(&fred).to_value();
        let error = &result["didResolutionMetadata"]["error"];
        let version = &result["didDocumentMetadata"]["versionId"];
        prop_assert!(error.is_string() != version.is_string(), "{}", result);
    }
}

/// JSON objects that have a little of what is looked for.
fn garbage() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4_u64).prop_map(Value::from),
        "[A-Z_]{0,3}".prop_map(Value::from),
        Just(json!("A".repeat(43))),
        Just(json!("did:btcr2:_")),
    ];
    let any_value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object_of(inner),
        ]
    });
    object_of(any_value)
}

fn object_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "id",
        "updateId",
        "nonce",
        "hashes",
        "collapsed",
        "targetVersionId",
        "patch",
        "proof",
        "op",
        "path",
        "@context",
        "sourceHash",
        "targetHash",
        "x",
    ]);
    prop::collection::btree_map(name, value, 0..5).prop_map(|members| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::Object(members.collect())
    })
}

/// A controller that announces updates and more besides, at random beacons and heights.
fn history() -> impl Strategy<Value = (Controller, World, ResolutionOptions)> {
    let step = (0..10_u8, 0..4_u8, 1..900_u32, any::<bool>());
    let select = (0..3_u8, 0..6_u64, 0..900_u32);
    (prop::collection::vec(step, 0..8), select, any::<bool>()).prop_map(|(steps, select, sorted)| {
        let (mut fred, mut world) = one_of_everything();
        let lucia = Controller::with_key(2);
        let published = fred.sidecar.updates.clone();
        let mut steps = steps;
        if sorted {
            steps.sort_by_key(|step| step.2);
        }
        for (what, beacon, height, keep) in steps {
            let height = 100 + height;
            let id = match what {
                // The next update; a repetition; a conflict; what nobody has.
                0..=4 => fred.remark(&format!("at-{height}")),
                5..=6 => json::hash(&published[usize::from(what) % published.len()]),
                7 => {
                    let mut other = published[0].clone();
                    other["other"] = height.into();
                    fred.sidecar.updates.push(other.clone());
                    json::hash(&other)
                }
                8 => Hash32([7; 32]),
                _ => fred.update(&json!([{ "op": "remove", "path": "/service/0" }, { "op": "add", "path": "/service/-",
                    "value": { "id": format!("#n{height}-{}", fred.version), "type": "SingletonBeacon",
                        "serviceEndpoint": format!("bitcoin:{}", address(10 + height)) } }])),
            };
            match beacon {
                1 => announce_in_map(&mut fred, &mut world, &lucia, id, height),
                2 => announce_in_tree(&mut fred, &mut world, &lucia, Some(id), height),
                _ => drop(world.announce(&address(u32::from(beacon)), id, height).txid),
            }
            if !keep && let Some(update) = fred.sidecar.updates.pop() {
 world.sources.store(&update);
            }
        }
        let mut options = fred.options();
        match select.0 {
            0 => options.set_version_id(&select.1.to_string()).unwrap(),
            1 => {
                let time = Timestamp::from_unix(block(select.2).median_time);
                options.set_version_time(&time.to_string()).unwrap();
            }
            _ => {}
        }
        (fred, world, options)
    })
}
