//! Sources that contradict themselves, answer what nobody asked, or answer too much.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use beacon_btcr2::beacon::BeaconType;
use beacon_btcr2::resolver::{
    Block, MAX_ADDRESSES, MAX_OBJECT_BYTES, MAX_OBJECTS, MAX_SIGNALS, Object, ObjectKind,
};
use beacon_btcr2::{Hash32, Next, Request, ResolutionOptions, Resolver};
use common::world::{
    Controller, TIP, World, add_beacon, address, assert_error, assert_version, block,
};
use common::{Answer, drive};
use serde_json::json;

/// A DID with a beacon of this type, and an update to version 2.
fn member(kind: BeaconType) -> (Controller, World, Hash32) {
    let beacons = [(kind, address(1)), (BeaconType::Singleton, address(2))];
    let mut fred = Controller::with_genesis(1, &beacons);
    let update = fred.remark("a");
    (fred, World::default(), update)
}

/// A lying or reorganising source says that one transaction, or one height, is two things.
#[test]
fn a_source_that_contradicts_itself_gives_no_result() {
    let (fred, mut world, update) = member(BeaconType::Singleton);
    let signal = world.announce(&fred.address(0), update, 100);
    let answers = |world: &mut World, address: usize| {
        let address = fred.address(address);
        world
            .sources
            .signals
            .entry(address)
            .or_default()
            .push(signal);
    };
    // The same thing twice is no contradiction, and is counted once.
    answers(&mut world, 0);
    assert_version(&world.resolve(&fred), 2);
    // One transaction may spend from two beacons.
    answers(&mut world, 1);
    assert_version(&world.resolve(&fred), 2);

    let honest = world.clone();
    let other_block = |change: &dyn Fn(&mut Block)| {
        let mut block = block(100);
        change(&mut block);
        block
    };
    for other in [
        other_block(&|block| block.time += 1),
        other_block(&|block| block.median_time += 1),
        other_block(&|block| block.hash = common::world::block(101).hash),
    ] {
        let mut world = honest.clone();
        let mut second = world.announce(&fred.address(1), update, 100);
        second.block = other;
        let signals = world.sources.signals.get_mut(&fred.address(1)).unwrap();
        *signals.last_mut().unwrap() = second;
        assert_error(
            &world.resolve(&fred),
            "INTERNAL_ERROR",
            "the block at height 100",
        );
    }
    let mut world = honest.clone();
    let mut moved = signal;
    moved.block = block(101);
    world
        .sources
        .signals
        .get_mut(&fred.address(0))
        .unwrap()
        .push(moved);
    assert_error(&world.resolve(&fred), "INTERNAL_ERROR", "the transaction");
}

#[test]
fn answers_that_nobody_asked_for_are_passed_over() {
    let (fred, mut world, update) = member(BeaconType::Singleton);
    world.announce(&fred.address(0), update, 100);
    let mut resolver = Resolver::new(fred.did.clone(), fred.options());
    let foreign = world.signal([9; 32], 50);
    let object = Object {
        kind: ObjectKind::Update,
        hash: update,
    };
    resolver.answer_signals(&fred.address(0), vec![foreign]);
    resolver.answer_object(object, Some(b"{}".to_vec()));
    let resolution = drive(resolver, |requests| {
        let unasked = (
            Request::Object(object),
            Answer::Object(Some(b"nonsense".to_vec())),
        );
        let elsewhere = (
            Request::Signals(address(77)),
            Answer::Signals(vec![foreign]),
        );
        let mut answers = vec![unasked, elsewhere];
        for request in requests {
            let answer = world.sources.answer(&request);
            // The first answer counts.
            answers.push((request.clone(), answer));
            if let Request::Signals(_) = request {
                answers.push((request, Answer::Signals(vec![foreign])));
            }
        }
        answers
    });
    assert_version(&resolution, 2);
}

#[test]
fn a_question_stays_until_it_is_answered() {
    let (fred, _, _) = member(BeaconType::Singleton);
    let mut resolver = Resolver::new(fred.did.clone(), ResolutionOptions::default());
    let first = resolver.next();
    assert!(matches!(&first, Next::Need(requests) if requests.len() == 1));
    assert_eq!(resolver.next(), first);
}

#[test]
fn signals_are_limited() {
    let (fred, mut world, _) = member(BeaconType::Singleton);
    let signal = world.signal([1; 32], TIP);
    let signals = world.sources.signals.entry(fred.address(0)).or_default();
    // All of them too young to count, so that the number alone decides.
    signals.extend(std::iter::repeat_n(signal, MAX_SIGNALS));
    assert_version(&world.resolve(&fred), 1);
    world
        .sources
        .signals
        .entry(fred.address(0))
        .or_default()
        .push(signal);
    assert_error(
        &world.resolve(&fred),
        "INTERNAL_ERROR",
        "more than 100000 signals",
    );
}

#[test]
fn objects_are_limited() {
    let (fred, mut world, _) = member(BeaconType::Singleton);
    let beacon = fred.address(0);
    for number in 0..=u32::try_from(MAX_OBJECTS).unwrap() {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        world.announce(&beacon, Hash32(hash), 100);
    }
    assert_error(
        &world.resolve(&fred),
        "INTERNAL_ERROR",
        "more than 20000 objects",
    );
    world.sources.signals.get_mut(&beacon).unwrap().pop();
    assert_error(
        &world.resolve(&fred),
        "MISSING_UPDATE_DATA",
        "no signed update",
    );
}

#[test]
fn bytes_of_objects_are_limited() {
    let (fred, mut world, _) = member(BeaconType::Cas);
    let large = vec![b' '; 12 << 20];
    for number in 0..=u8::try_from(MAX_OBJECT_BYTES / large.len()).unwrap() {
        world.announce(&fred.address(0), Hash32([number; 32]), 100);
        world
            .sources
            .objects
            .insert(Hash32([number; 32]), large.clone());
    }
    assert_error(&world.resolve(&fred), "INTERNAL_ERROR", "bytes of objects");
}

/// Each update replaces all beacons that a document may have.
#[test]
fn addresses_are_limited() {
    let (mut fred, mut world) = (Controller::with_key(1), World::default());
    let beacons = |round: u32| {
        let beacons = (0..64).map(|number| {
            add_beacon(
                &format!("#b{number}"),
                BeaconType::Singleton,
                &address(round * 64 + number),
            )[0]["value"]
                .clone()
        });
        json!([{ "op": "replace", "path": "/service", "value": beacons.collect::<Vec<_>>() }])
    };
    // Three to begin with; the last round is one too many.
    let rounds = u32::try_from(MAX_ADDRESSES / 64).unwrap();
    for round in 1..=rounds {
        let spent_from = fred.address(0);
        let update = fred.update(&beacons(round));
        world.announce(&spent_from, update, 100 + round);
    }
    assert_error(
        &world.resolve(&fred),
        "INTERNAL_ERROR",
        "more than 4096 addresses",
    );
    let resolution = world.resolve_with(&fred, |options| options.set_version_id("64").unwrap());
    assert_version(&resolution, 64);
}
