//! Tests of the crate as a whole: published vectors, interop, refusals, properties.

mod forge;
mod interop;
mod oracle;
mod peer4;
mod properties;
mod protocols;
mod refusals;
mod routing;
mod vectors;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::*;

/// The time of every test, Unix seconds.
const NOW: u64 = 1_700_000_000;

fn identity(seed: u8, endpoint: &str) -> Identity {
    Identity::new(&[seed; 32], &[seed ^ 0x80; 32], endpoint.parse().unwrap()).unwrap()
}

fn alice() -> Identity {
    identity(1, "didcomm:transport/queue")
}

fn bob() -> Identity {
    identity(2, "ws://localhost:8765")
}

fn mallory() -> Identity {
    identity(3, "ws://localhost:6666")
}

/// The X25519 secret of `identity(seed, …)`.
fn agreement_secret(seed: u8) -> [u8; 32] {
    [seed ^ 0x80; 32]
}

fn greeting() -> Plaintext {
    Plaintext::new(
        Uuid::from_u128(42),
        "https://example.org/greet/1.0/hello",
        NOW,
    )
    .with_body(json!({ "text": "hello" }))
}

/// The content of a good message from Alice to Bob.
fn content() -> Value {
    json!({
        "id": "42",
        "type": "https://example.org/greet/1.0/hello",
        "from": alice().did(),
        "to": [bob().did()],
        "created_time": NOW,
        "body": { "text": "hello" },
    })
}

/// Bob unpacks at [`NOW`].
fn bob_unpacks(bytes: impl AsRef<[u8]>) -> Result<Verified, UnpackError> {
    unpack(
        bytes.as_ref(),
        &bob(),
        &Resolver::default(),
        NOW,
        &UnpackLimits::default(),
    )
}
