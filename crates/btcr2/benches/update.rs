//! Making and checking one update of a document with three beacons.
//!
//! `signature` and `verification` are BIP340 alone: what is above them is hashing, canonical forms, the patch and the
//! check of the document.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot make its input has nothing to measure"
)]

use beacon_btcr2::json::{self, Limits};
use beacon_btcr2::{Did, Document, GenesisBytes, Network, Patch, SignedUpdate, UnsignedUpdate};
use beacon_btcr2::{initial, proof};
use bitcoin::secp256k1::{Keypair, Message, Secp256k1};
use divan::{Bencher, black_box};
use serde_json::json;

fn main() {
    divan::main();
}

fn key() -> Keypair {
    Keypair::from_seckey_slice(&Secp256k1::new(), &[1; 32]).unwrap()
}

fn source() -> Document {
    let did = Did::new(Network::Regtest, GenesisBytes::Key(key().public_key()));
    initial::from_key(&did).unwrap().unwrap()
}

/// Adds a beacon, as a controller does who joins a cohort.
fn patch() -> Patch {
    let service = json!({
        "id": "#cohort",
        "type": "SMTBeacon",
        "serviceEndpoint": "bitcoin:bcrt1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5ssm803es",
    });
    Patch::from_value(json!([{ "op": "add", "path": "/service/-", "value": service }])).unwrap()
}

fn signed() -> SignedUpdate {
    let (source, key) = (source(), key());
    let (unsigned, _) = UnsignedUpdate::construct(&source, &patch(), 2).unwrap();
    let sign = |message: &[u8; 32]| proof::sign(&key, &[2; 32], message);
    unsigned.sign(&source, "#initialKey", sign).unwrap()
}

#[divan::bench]
fn signature(bencher: Bencher) {
    let key = key();
    bencher.bench(|| proof::sign(black_box(&key), &[2; 32], &[3; 32]));
}

#[divan::bench]
fn verification(bencher: Bencher) {
    let (secp, key) = (Secp256k1::new(), key());
    let signature = proof::sign(&key, &[2; 32], &[3; 32]);
    let message = Message::from_digest([3; 32]);
    let (x_only, _) = key.x_only_public_key();
    bencher.bench(|| secp.verify_schnorr(black_box(&signature), &message, &x_only));
}

/// Construct the update, sign it, and verify it as a resolver would.
#[divan::bench]
fn construct_and_sign(bencher: Bencher) {
    let (source, patch, key) = (source(), patch(), key());
    bencher.bench(|| {
        let (unsigned, _) = UnsignedUpdate::construct(black_box(&source), &patch, 2).unwrap();
        let sign = |message: &[u8; 32]| proof::sign(&key, &[2; 32], message);
        unsigned.sign(&source, "#initialKey", sign).unwrap()
    });
}

#[divan::bench]
fn verify_proof(bencher: Bencher) {
    let (update, key) = (signed(), key().public_key());
    bencher.bench(|| proof::verify(black_box(update.value()), &key));
}

/// Every check of "Apply update", the proof among them.
#[divan::bench]
fn apply(bencher: Bencher) {
    let (update, source) = (signed(), source());
    bencher.bench(|| black_box(&update).apply(&source));
}

#[divan::bench]
fn read(bencher: Bencher) {
    let text = signed().value().to_string();
    bencher.bench(|| {
        json::parse(black_box(text.as_bytes()), &Limits::UPDATE).map(SignedUpdate::from_value)
    });
}

#[divan::bench]
fn hash_document(bencher: Bencher) {
    let source = source();
    bencher.bench(|| json::hash(black_box(source.value())));
}

#[divan::bench]
fn parse_did(bencher: Bencher) {
    let did = source().did().to_string();
    bencher.bench(|| black_box(&did).parse::<Did>());
}
