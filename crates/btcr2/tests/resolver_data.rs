//! Where the data behind signals comes from: sidecar data and a content addressed store, announcement maps and trees; what is
//! missing and what is wrong.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use beacon_btcr2::beacon::{Announcement, BeaconType};
use beacon_btcr2::json;
use beacon_btcr2::resolver::ObjectKind;
use beacon_btcr2::{Hash32, Next, Request, ResolutionOptions, Resolver};
use beacon_signal::{Index, LeafValue, SparseMerkleTree, UpdateId};
use common::world::{Controller, World, address, assert_error, assert_version, tree};
use serde_json::{Map, Value, json};

const NONCE: [u8; 32] = [7; 32];

/// A DID with a beacon of this type and one that is a singleton, and an update to version 2.
fn member(kind: BeaconType) -> (Controller, World, Hash32) {
    let beacons = [(kind, address(1)), (BeaconType::Singleton, address(2))];
    let mut fred = Controller::with_genesis(1, &beacons);
    let update = fred.remark("a");
    (fred, World::default(), update)
}

/// Announces a map at the first beacon and puts it into the sidecar data.
fn announce_map(fred: &mut Controller, world: &mut World, map: Value) -> Hash32 {
    let hash = json::hash(&map);
    world.announce(&fred.address(0), hash, 100);
    fred.sidecar.cas_updates.push(map);
    hash
}

#[test]
fn a_map_announces_the_update_of_its_did() {
    let (mut fred, mut world, update) = member(BeaconType::Cas);
    let lucia = Controller::with_key(2);
    let map = Announcement::new([(fred.did.clone(), update), (lucia.did, Hash32([1; 32]))]);
    announce_map(&mut fred, &mut world, map.value().clone());
    assert_version(&world.resolve(&fred), 2);
}

#[test]
fn a_map_without_the_did_announces_nothing_for_it() {
    let (mut fred, mut world, _) = member(BeaconType::Cas);
    let lucia = Controller::with_key(2);
    let map = Announcement::new([(lucia.did, Hash32([1; 32]))]);
    announce_map(&mut fred, &mut world, map.value().clone());
    announce_map(&mut fred, &mut world, json!({}));
    assert_version(&world.resolve(&fred), 1);
}

/// Whoever writes a map may write nonsense for another DID, but must not make that of this one unresolvable.
#[test]
fn entries_of_other_dids_may_be_nonsense() {
    let (mut fred, mut world, update) = member(BeaconType::Cas);
    let mut map = json!({ "did:btcr2:x1": null, "": [], "did:example:a": "no hash" });
    map[fred.did.as_str()] = update.to_string().into();
    announce_map(&mut fred, &mut world, map);
    assert_version(&world.resolve(&fred), 2);
}

#[test]
fn an_entry_that_is_no_hash_says_that_something_is_missing() {
    for entry in [
        json!(null),
        json!(""),
        json!(1),
        json!("a"),
        json!("A".repeat(42) + "B"),
    ] {
        let (mut fred, mut world, _) = member(BeaconType::Cas);
        let mut map = json!({});
        map[fred.did.as_str()] = entry;
        announce_map(&mut fred, &mut world, map);
        assert_error(
            &world.resolve(&fred),
            "MISSING_UPDATE_DATA",
            "expected 32 bytes",
        );
    }
}

#[test]
fn a_map_that_is_missing_is_an_error() {
    let (mut fred, mut world, update) = member(BeaconType::Cas);
    let map = Announcement::new([(fred.did.clone(), update)]);
    announce_map(&mut fred, &mut world, map.value().clone());
    fred.sidecar.cas_updates.clear();
    assert_error(
        &world.resolve(&fred),
        "MISSING_UPDATE_DATA",
        "no announcement map",
    );
    // A map that is not the one is none.
    fred.sidecar
        .cas_updates
        .push(json!({ fred.did.as_str(): Hash32([3; 32]).to_string() }));
    assert_error(
        &world.resolve(&fred),
        "MISSING_UPDATE_DATA",
        "no announcement map",
    );
    // The store has something else for its hash.
    for (content, words) in [
        ("{}", "got an object with the hash"),
        ("", "got the end"),
        ("{\"a\":1,\"a\":1}", "a second time"),
    ] {
        world
            .sources
            .objects
            .insert(map.hash(), content.as_bytes().to_vec());
        assert_error(&world.resolve(&fred), "MISSING_UPDATE_DATA", words);
    }
    world.sources.store(map.value());
    assert_version(&world.resolve(&fred), 2);
}

#[test]
fn something_else_than_a_map_announces_nothing_that_can_be_found() {
    let (fred, mut world, _) = member(BeaconType::Cas);
    let hash = world.sources.store(&json!(["not a map"]));
    world.announce(&fred.address(0), hash, 100);
    assert_error(
        &world.resolve(&fred),
        "MISSING_UPDATE_DATA",
        "expected an object",
    );
}

#[test]
fn a_tree_announces_the_update_of_its_did() {
    for nonce in [None, Some(NONCE)] {
        let (mut fred, mut world, update) = member(BeaconType::Smt);
        let lucia = Controller::with_key(2);
        let tree = tree(&[
            (&fred.did, nonce, Some(update)),
            (&lucia.did, Some([8; 32]), None),
        ]);
        fred.keep_proof(&tree, nonce, Some(update));
        world.announce(&fred.address(0), Hash32(tree.root().0), 100);
        assert_version(&world.resolve(&fred), 2);
    }
}

#[test]
fn a_tree_may_announce_nothing_for_a_did() {
    for (nonce, leaf) in [(Some(NONCE), true), (None, false)] {
        let (mut fred, mut world, _) = member(BeaconType::Smt);
        let lucia = Controller::with_key(2);
        let mut leaves = vec![(&lucia.did, Some([8; 32]), Some(Hash32([1; 32])))];
        let did = fred.did.clone();
        if leaf {
            leaves.push((&did, nonce, None));
        }
        let tree = tree(&leaves);
        fred.keep_proof(&tree, nonce, None);
        world.announce(&fred.address(0), Hash32(tree.root().0), 100);
        assert_version(&world.resolve(&fred), 1);
    }
}

/// Ours have 32 bytes; the specification lets those of others have any length.
#[test]
fn the_nonce_of_a_proof_may_have_any_length() {
    for (nonce, encoded) in [
        (&b""[..], ""),
        (b"\0", "AA"),
        (
            b"a nonce of some other length, this one is longer",
            "YSBub25jZSBvZiBzb21lIG90aGVyIGxlbmd0aCwgdGhpcyBvbmUgaXMgbG9uZ2Vy",
        ),
    ] {
        for announces in [true, false] {
            let (mut fred, mut world, update) = member(BeaconType::Smt);
            let update_id = announces.then_some(UpdateId::from(update));
            let index = Index::of_did(fred.did.as_str());
            let leaf = LeafValue::with_nonce(nonce, update_id.as_ref());
            let tree = SparseMerkleTree::new([(index, leaf)]).unwrap();
            let mut proof = serde_json::to_value(tree.proof(&index)).unwrap();
            proof["nonce"] = encoded.into();
            if announces {
                proof["updateId"] = update.to_string().into();
            }
            fred.sidecar.smt_proofs.push(proof);
            world.announce(&fred.address(0), Hash32(tree.root().0), 100);
            assert_version(&world.resolve(&fred), 1 + u64::from(announces));
            // One text for each nonce: no padding, no bits that mean nothing.
            for other in ["AB", "AA==", "A", "+/", " ", "\n"] {
                fred.sidecar.smt_proofs[0]["nonce"] = other.into();
                assert_error(&world.resolve(&fred), "INVALID_SIGNAL_DATA", "at /nonce");
            }
        }
    }
}

/// A holder that hides an update behind a proof without it: the leaf is another one then.
#[test]
fn a_proof_cannot_hide_or_change_an_update() {
    let (mut fred, mut world, update) = member(BeaconType::Smt);
    let tree = tree(&[(&fred.did, Some(NONCE), Some(update))]);
    let honest = serde_json::to_value(fred.keep_proof(&tree, Some(NONCE), Some(update))).unwrap();
    world.announce(&fred.address(0), Hash32(tree.root().0), 100);
    assert_version(&world.resolve(&fred), 2);
    let change = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut proof = honest.clone();
        change(proof.as_object_mut().unwrap());
        proof
    };
    for (proof, words) in [
        (
            change(&|proof| drop(proof.remove("updateId"))),
            "expected root",
        ),
        (
            change(&|proof| drop(proof.remove("nonce"))),
            "expected root",
        ),
        (
            change(&|proof| {
                proof.remove("updateId");
                proof.remove("nonce");
            }),
            "expected root",
        ),
        (
            change(&|proof| drop(proof.insert("updateId".into(), "A".repeat(43).into()))),
            "expected root",
        ),
        (
            change(&|proof| drop(proof.insert("updateId".into(), Value::Null))),
            "null",
        ),
        (
            change(&|proof| drop(proof.insert("hashes".into(), json!(["A".repeat(43)])))),
            "256 together",
        ),
        (
            change(&|proof| drop(proof.insert("hashes".into(), json!(vec!["A".repeat(43); 300])))),
            "256",
        ),
        (
            change(&|proof| drop(proof.remove("collapsed"))),
            "collapsed",
        ),
    ] {
        fred.sidecar.smt_proofs = vec![proof.clone()];
        let resolution = world.resolve(&fred);
        assert_error(&resolution, "INVALID_SIGNAL_DATA", words);
        assert_error(&resolution, "INVALID_SIGNAL_DATA", "/sidecar/smtProofs/0");
        // Beside one that verifies it does no harm.
        fred.sidecar.smt_proofs = vec![proof, honest.clone()];
        assert_version(&world.resolve(&fred), 2);
    }
}

#[test]
fn a_proof_that_is_missing_is_an_error() {
    let (mut fred, mut world, update) = member(BeaconType::Smt);
    let lucia = Controller::with_key(2);
    let tree = tree(&[
        (&fred.did, Some(NONCE), Some(update)),
        (&lucia.did, Some(NONCE), None),
    ]);
    world.announce(&fred.address(0), Hash32(tree.root().0), 100);
    assert_error(
        &world.resolve(&fred),
        "MISSING_UPDATE_DATA",
        "no proof for the root",
    );
    // No store is asked for it: the only request is for signals.
    let mut resolver = Resolver::new(fred.did.clone(), fred.options());
    let mut asked = Vec::new();
    while let Next::Need(requests) = resolver.next() {
        for request in requests {
            asked.push(request.clone());
            let answer = world.sources.answer(&request);
            common::give(&mut resolver, request, answer);
        }
    }
    assert!(
        asked
            .iter()
            .all(|request| matches!(request, Request::Signals(_)))
    );
    // One whose id cannot be read is nobody's, but the message mentions it.
    let mut proof =
        serde_json::to_value(fred.keep_proof(&tree, Some(NONCE), Some(update))).unwrap();
    proof["id"] = "not base64url".into();
    fred.sidecar.smt_proofs = vec![proof];
    assert_error(&world.resolve(&fred), "MISSING_UPDATE_DATA", "1 more");
    // Lucia's proof for the same root proves nothing about Fred.
    let mut lucia = lucia;
    lucia.keep_proof(&tree, Some(NONCE), None);
    fred.sidecar.smt_proofs = lucia.sidecar.smt_proofs;
    assert_error(
        &world.resolve(&fred),
        "INVALID_SIGNAL_DATA",
        "expected root",
    );
}

#[test]
fn proofs_of_signals_that_nobody_sees_do_no_harm() {
    let (mut fred, mut world, update) = member(BeaconType::Smt);
    for nonce in 1..20 {
        let tree = tree(&[(&fred.did, Some([nonce; 32]), Some(update))]);
        fred.keep_proof(&tree, Some([nonce; 32]), Some(update));
        if nonce == 12 {
            world.announce(&fred.address(0), Hash32(tree.root().0), 100);
        }
    }
    fred.sidecar.smt_proofs.push(json!({ "id": 5 }));
    fred.sidecar.updates.push(json!({ "patch": "nonsense" }));
    fred.sidecar.cas_updates.push(json!({ "x": [] }));
    assert_version(&world.resolve(&fred), 2);
}

#[test]
fn everything_but_proofs_may_come_from_a_store() {
    let (mut fred, mut world, update) = member(BeaconType::Cas);
    let map = Announcement::new([(fred.did.clone(), update)]);
    world.announce(&fred.address(0), map.hash(), 100);
    let second = fred.remark("b");
    world.announce(&fred.address(1), second, 200);
    let sidecar = std::mem::take(&mut fred.sidecar);
    world.sources.store(map.value());
    world
        .sources
        .store(sidecar.genesis_document.as_ref().unwrap());
    for update in &sidecar.updates {
        world.sources.store(update);
    }
    let whole = world.clone();
    assert_eq!(
        assert_version(&whole.resolve(&fred), 3).document,
        fred.document
    );

    // Each is asked for by the right name, and each is missed under its own code.
    let genesis = json::hash(sidecar.genesis_document.as_ref().unwrap());
    for (kind, hash, missing, wrong) in [
        (ObjectKind::Genesis, genesis, "NOT_FOUND", "INVALID_DID"),
        (
            ObjectKind::Announcement,
            map.hash(),
            "MISSING_UPDATE_DATA",
            "MISSING_UPDATE_DATA",
        ),
        (
            ObjectKind::Update,
            update,
            "MISSING_UPDATE_DATA",
            "INVALID_SIGNAL_DATA",
        ),
        (
            ObjectKind::Update,
            second,
            "MISSING_UPDATE_DATA",
            "INVALID_SIGNAL_DATA",
        ),
    ] {
        let mut world = whole.clone();
        world.sources.objects.remove(&hash);
        assert_error(
            &world.resolve(&fred),
            missing,
            &format!("no {kind} with the hash {hash}"),
        );
        for content in [
            &b"{}"[..],
            b"",
            b"\xff",
            b"{\"a\":",
            b"[]",
            &b" ".repeat(200 << 10),
        ] {
            world.sources.objects.insert(hash, content.to_vec());
            let resolution = world.resolve(&fred);
            assert_error(
                &resolution,
                wrong,
                &format!("the store's {kind} for the hash {hash}"),
            );
        }
    }
}

#[test]
fn the_genesis_document_of_the_sidecar_data_must_be_the_one() {
    let (mut fred, mut world, update) = member(BeaconType::Singleton);
    world.announce(&fred.address(0), update, 100);
    let genesis = fred.sidecar.genesis_document.clone().unwrap();
    let mut other = genesis.clone();
    other["alsoKnownAs"] = json!(["https://example.org"]);
    fred.sidecar.genesis_document = Some(other);
    assert_error(&world.resolve(&fred), "INVALID_DID", "genesis");
    // The document with the DID in it is not the genesis document.
    fred.sidecar.genesis_document = Some(Controller::with_genesis(1, &[]).document.value().clone());
    assert_error(&world.resolve(&fred), "INVALID_DID", "genesis");
    // A k DID needs none and looks at none.
    let mut lucia = Controller::with_key(2);
    lucia.sidecar.genesis_document = Some(genesis);
    assert_version(&world.resolve(&lucia), 1);
}

#[test]
fn a_genesis_document_that_does_not_conform_is_refused() {
    let genesis = json!({ "id": "did:btcr2:_", "service": 5 });
    let hash = beacon_btcr2::GenesisBytes::Document(json::hash(&genesis));
    let did = beacon_btcr2::Did::new(beacon_btcr2::Network::Regtest, hash);
    let mut options = ResolutionOptions::default();
    options.sidecar.genesis_document = Some(genesis);
    let resolution = common::Sources::default().resolve(&did, options);
    assert_error(&resolution, "INVALID_DID_DOCUMENT", "/@context");
}
