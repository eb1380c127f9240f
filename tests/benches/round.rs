//! A whole simulated round, next to the multiplications of points that it cannot do without.
//!
//! `round` is one update of a cohort that exists: leaves, tree, session, review, nonces, partial signatures, broadcast
//! and the block, for the coordinator and all members in one thread, with every message through its wire form and
//! every event through the store. `raw` is what the library alone takes for N nonce pairs, N partial signatures and
//! N verified partial signatures. The ratio is what everything else costs.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot make its input has nothing to measure"
)]

use beacon_cohort::terms::Flow;
use beacon_tests::simulator::{Settings, Simulation};
use divan::Bencher;
use secp256k1::musig::{AggregatedNonce, KeyAggCache, Session, SessionSecretRand, new_nonce_pair};
use secp256k1::{Keypair, PublicKey};

const MEMBERS: [usize; 3] = [2, 10, 100];

fn main() {
    divan::main();
}

#[divan::bench(args = MEMBERS, sample_count = 10, sample_size = 1)]
fn round(bencher: Bencher, members: usize) {
    let settings = Settings {
        members,
        // One round for all updates of a wave: in the push flow the number would depend on the seed.
        flow: Flow::Pull,
        ..Settings::default()
    };
    let mut simulation = Simulation::new(1, settings);
    simulation.form().unwrap();
    bencher.bench_local(|| simulation.round().unwrap());
    // What was measured was right: every signal is mined, proven and signed with one nonce.
    simulation.settle().unwrap();
}

#[divan::bench(args = MEMBERS, sample_count = 10, sample_size = 1)]
fn raw(bencher: Bencher, members: usize) {
    let pairs: Vec<Keypair> = (1u32..)
        .take(members)
        .map(|number| {
            let mut secret = [1; 32];
            secret[28..].copy_from_slice(&number.to_be_bytes());
            Keypair::from_secret_bytes(secret).unwrap()
        })
        .collect();
    let keys: Vec<PublicKey> = pairs.iter().map(Keypair::public_key).collect();
    let keys: Vec<&PublicKey> = keys.iter().collect();
    let cache = KeyAggCache::new(&keys);
    let message = [7; 32];
    bencher.bench_local(|| {
        let (secret, public): (Vec<_>, Vec<_>) = pairs
            .iter()
            .map(|pair| {
                // A fixed nonce is fine where nothing is at stake.
                new_nonce_pair(
                    SessionSecretRand::assume_uniformly_random([9; 32]),
                    Some(&cache),
                    Some(pair.secret_key()),
                    pair.public_key(),
                    Some(&message),
                    None,
                )
            })
            .unzip();
        let nonces: Vec<_> = public.iter().collect();
        let session = Session::new(&cache, AggregatedNonce::new(&nonces), &message);
        for ((pair, secret), public) in pairs.iter().zip(secret).zip(&public) {
            let partial = session.partial_sign(secret, pair, &cache);
            assert!(session.partial_verify(&cache, &partial, public, pair.public_key()));
        }
    });
}
