//! Resolution of a DID with 1, 10 and 1,000 updates, all of whose data is at hand: the time per update must not grow with
//! their number.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot make its input has nothing to measure"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use beacon_btcr2::beacon::BeaconType;
use beacon_btcr2::{Hash32, ResolutionOptions};
use common::world::{Controller, World, address, assert_version, tree};
use divan::Bencher;
use divan::counter::ItemsCount;

const UPDATES: [u32; 3] = [1, 10, 1_000];

fn main() {
    divan::main();
}

/// A DID with this many updates, all announced at a beacon of one type.
fn history(kind: BeaconType, updates: u32) -> (Controller, World) {
    let mut fred = Controller::with_genesis(1, &[(kind, address(1))]);
    let mut world = World::default();
    for number in 1..=updates {
        let update = fred.remark(&number.to_string());
        let mut bytes = update;
        if kind == BeaconType::Smt {
            let mut nonce = [7; 32];
            nonce[..4].copy_from_slice(&number.to_be_bytes());
            let tree = tree(&[(&fred.did.clone(), Some(nonce), Some(update))]);
            fred.keep_proof(&tree, Some(nonce), Some(update));
            bytes = Hash32(tree.root().0);
        }
        world.announce(&address(1), bytes, number / 2);
    }
    (fred, world)
}

fn resolve(bencher: Bencher<'_, '_>, kind: BeaconType, updates: u32) {
    let (fred, world) = history(kind, updates);
    bencher
        .counter(ItemsCount::new(updates))
        .with_inputs(|| fred.options())
        .bench_values(|options| {
            let resolution = world.sources.resolve(&fred.did, options);
            assert_version(&resolution, u64::from(updates) + 1).confirmations
        });
}

#[divan::bench(args = UPDATES, sample_count = 10)]
fn singleton(bencher: Bencher<'_, '_>, updates: u32) {
    resolve(bencher, BeaconType::Singleton, updates);
}

#[divan::bench(args = UPDATES, sample_count = 10)]
fn smt(bencher: Bencher<'_, '_>, updates: u32) {
    resolve(bencher, BeaconType::Smt, updates);
}

/// The same from the text of the resolution options, sidecar data included.
#[divan::bench(args = UPDATES, sample_count = 10)]
fn smt_from_text(bencher: Bencher<'_, '_>, updates: u32) {
    let (fred, world) = history(BeaconType::Smt, updates);
    let text = format!("{{\"sidecar\":{}}}", fred.sidecar.to_value());
    bencher.counter(ItemsCount::new(updates)).bench(|| {
        let options = ResolutionOptions::from_json(text.as_bytes()).unwrap();
        let resolution = world.sources.resolve(&fred.did, options);
        assert_version(&resolution, u64::from(updates) + 1).confirmations
    });
}
