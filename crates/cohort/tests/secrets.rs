//! What is secret in this crate can be neither written nor shown, and what must be unique has no second copy: asserted
//! when these tests compile.

use std::fmt::Display;

use beacon_cohort::participant::{LeafSecret, Participant};
use beacon_cohort::review::ReviewedSignal;
use beacon_cohort::signer::{KeyPath, LocalSigner, SignerRequest};
use beacon_signal::LeafNonce;
use rand_chacha::ChaCha20Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use static_assertions::assert_not_impl_any;
use zeroize::Zeroizing;

type Signer = LocalSigner<fn(KeyPath) -> Zeroizing<[u8; 32]>, ChaCha20Rng>;

// The secret nonces: two copies of one would sign twice.
assert_not_impl_any!(Signer: Clone, Copy, Display, Serialize, DeserializeOwned);
// The right to make them, which a review gives once and no file can.
assert_not_impl_any!(ReviewedSignal: Clone, Copy, Serialize, DeserializeOwned);
assert_not_impl_any!(SignerRequest: Clone, Copy, Serialize, DeserializeOwned);
// What leaf nonces are derived from, and the machine that has it.
assert_not_impl_any!(LeafSecret: Copy, Display, Serialize, DeserializeOwned);
assert_not_impl_any!(Participant: Copy, Display, Serialize, DeserializeOwned);
// A leaf nonce is stored, but no message to people has a place for it.
assert_not_impl_any!(LeafNonce: Copy, Display);

#[test]
fn secrets_are_redacted_where_they_are_debugged() {
    let secret = LeafSecret::new(Zeroizing::new([0xab; 32]));
    assert_eq!(format!("{secret:?}"), "LeafSecret(redacted)");
    assert_eq!(
        format!("{:?}", LeafNonce::new([0xab; 32])),
        "LeafNonce(redacted)"
    );
}
