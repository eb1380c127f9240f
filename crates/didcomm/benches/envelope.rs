//! One envelope with 500 bytes of content, beside the X25519 operations that it is made of.
//!
//! Authcrypt to one key costs the sender one fixed-base and two variable-base multiplications, and the recipient two
//! variable-base ones; what is above that is hashing, AES, JSON and resolving the DIDs.

#![expect(
    clippy::expect_used,
    reason = "a bench that cannot make its input has nothing to measure"
)]

use beacon_didcomm::{
    Did, Endpoint, Identity, MAX_DID_LEN, Plaintext, Resolver, UnpackLimits, pack, resolve, unpack,
};
use divan::{Bencher, black_box};
use serde_json::json;
use uuid::Uuid;
use x25519_dalek::{PublicKey, StaticSecret};

const NOW: u64 = 1_700_000_000;

fn main() {
    divan::main();
}

fn parties() -> (Identity, Identity) {
    let endpoint: Endpoint = "ws://localhost:8765".parse().expect("a valid endpoint");
    let make =
        |seed| Identity::new(&[seed; 32], &[seed; 32], endpoint.clone()).expect("a short endpoint");
    (make(1), make(2))
}

/// A message whose plaintext is 500 bytes before `from` and `to` are added.
fn message() -> Plaintext {
    let empty = Plaintext::new(
        Uuid::from_u128(1),
        "https://btc1.tools/musig2/sign/no_update",
        NOW,
    )
    .with_body(json!({ "filler": "" }));
    let size = serde_json::to_vec(&empty).expect("strings serialize").len();
    empty.with_body(json!({ "filler": "x".repeat(500 - size) }))
}

#[divan::bench]
fn pack_500_bytes(bencher: Bencher) {
    let (alice, bob) = parties();
    let (message, resolver) = (message(), Resolver::default());
    bencher.bench(|| pack(&alice, bob.did(), &message, &resolver));
}

#[divan::bench]
fn unpack_500_bytes(bencher: Bencher) {
    let (alice, bob) = parties();
    let (resolver, limits) = (Resolver::default(), UnpackLimits::default());
    let packed = pack(&alice, bob.did(), &message(), &resolver).expect("a good message");
    bencher
        .bench(|| unpack(packed.frame(), &bob, &resolver, NOW, &limits).expect("a good message"));
}

/// Refused before any key agreement: what a flood of envelopes for others costs.
#[divan::bench]
fn refuse_what_is_not_for_us(bencher: Bencher) {
    let (alice, bob) = parties();
    let (resolver, limits) = (Resolver::default(), UnpackLimits::default());
    let packed = pack(&alice, bob.did(), &message(), &resolver).expect("a good message");
    bencher.bench(|| {
        unpack(packed.frame(), &alice, &resolver, NOW, &limits).expect_err("not for alice")
    });
}

#[divan::bench]
fn x25519_variable_base(bencher: Bencher) {
    let secret = StaticSecret::from([7; 32]);
    let point = PublicKey::from(&StaticSecret::from([9; 32]));
    bencher.bench(|| black_box(&secret).diffie_hellman(black_box(&point)));
}

#[divan::bench]
fn x25519_fixed_base(bencher: Bencher) {
    let secret = StaticSecret::from([7; 32]);
    bencher.bench(|| PublicKey::from(black_box(&secret)));
}

#[divan::bench]
fn resolve_did_peer_2(bencher: Bencher) {
    let (alice, _) = parties();
    bencher.bench(|| resolve(black_box(alice.did())));
}

/// The most that a stranger can make us decode: a did:peer:4 of the greatest length.
#[divan::bench]
fn resolve_longest_did_peer_4_with_wrong_hash(bencher: Bencher) {
    let prefix = "did:peer:4zQmd8CpeFPci817KDsbSAKWcXAE2mjvCQSasRewvbSF54Bd:z";
    let did: Did = format!("{prefix}{}", "M".repeat(MAX_DID_LEN - prefix.len()))
        .parse()
        .expect("a DID");
    bencher.bench(|| resolve(black_box(&did)));
}

#[divan::bench]
fn resolve_longest_did_peer_4(bencher: Bencher) {
    use sha2::Digest as _;
    // Of JSON with a long member, as long as fits.
    let mut bytes = vec![0x80, 0x04];
    bytes.extend_from_slice(json!({ "filler": "x".repeat(2900) }).to_string().as_bytes());
    let encoded = multibase::encode(multibase::Base::Base58Btc, bytes);
    let mut hash = vec![0x12, 0x20];
    hash.extend_from_slice(&sha2::Sha256::digest(&encoded));
    let hash = multibase::encode(multibase::Base::Base58Btc, hash);
    let did: Did = format!("did:peer:4{hash}:{encoded}")
        .parse()
        .expect("a DID that fits");
    bencher.bench(|| resolve(black_box(&did)).expect("a good document"));
}
