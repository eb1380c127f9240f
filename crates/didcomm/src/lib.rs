//! Identities and authenticated messages: did:peer, DID documents and DIDComm v2 envelopes.
//!
//! # Goals
//!
//! - One way in: [`unpack`] is the only source of a [`Verified`] message, and a `Verified` message has a proven sender, is
//!   addressed to us and is still valid. What is refused says why in one stable word ([`UnpackError::kind`]).
//! - One way out: [`pack`] makes authcrypt for every key of the recipient, with forwards around it where the recipient
//!   sits behind mediators.
//! - Identities that need no registry: an agent's DID is computed from its keys and its endpoint ([`Identity`]), and
//!   resolves from its text alone ([`resolve`]).
//! - No IO: time is an argument, and so are message ids. The one exception is the envelope library's own randomness for
//!   ephemeral keys, content keys and initialisation vectors.
//!
//! # Non-goals
//!
//! - Transports, sockets and retries; remembering which ids were seen; deciding whom to talk to.
//! - Being a mediator, signed messages (JWS), anonymous messages, other curves and ciphers than X25519 with
//!   A256CBC-HS512, DID rotation.
//!
//! # Example
//!
//! ```
//! use beacon_didcomm::{Endpoint, Identity, Plaintext, Resolver, UnpackLimits, pack, unpack};
//! use serde_json::json;
//! use uuid::Uuid;
//!
//! let now = 1_700_000_000; // Unix seconds
//! let resolver = Resolver::default();
//! // Real secrets come from an agent's seed.
//! let coordinator = Identity::new(&[1; 32], &[2; 32], "ws://localhost:8765".parse()?)?;
//! let participant = Identity::new(&[3; 32], &[4; 32], Endpoint::Queue)?;
//!
//! let message = Plaintext::new(Uuid::from_u128(7), "https://btc1.tools/musig2/keygen/subscribe", now)
//!     .with_body(json!({ "label": "fred" }));
//! let packed = pack(&participant, coordinator.did(), &message, &resolver)?;
//! assert_eq!(packed.endpoint(), Some(coordinator.endpoint()));
//!
//! let verified = unpack(packed.frame(), &coordinator, &resolver, now, &UnpackLimits::default())?;
//! assert_eq!(verified.sender(), participant.did());
//! assert_eq!(verified.message().body["label"], "fred");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod did;
mod document;
mod envelope;
mod identity;
mod key;
mod message;
mod pack;
mod peer;
pub mod protocols;
mod refusal;
mod resolve;
#[cfg(test)]
mod tests;
mod text;
mod unpack;

pub use did::{Did, MAX_DID_LEN, ParseDidError};
pub use document::{
    DidCommService, DidDocument, KeyAgreementKey, Relationship, Service, VerificationMethod,
};
pub use identity::{Endpoint, Identity, Keyring, ParseEndpointError};
pub use key::KeyError;
pub use message::{
    DEFAULT_LIFETIME, MAX_ENTRIES, MAX_ID_LEN, MAX_TYPE_LEN, MessageError, PLAINTEXT_TYP,
    Plaintext, ReturnRoute,
};
pub use pack::{FORWARD, PackError, Packed, pack};
pub use peer::InvalidDid;
pub use refusal::{Refusal, UnpackError};
pub use resolve::{
    DEFAULT_REMEMBERED, ResolutionMetadata, ResolutionResult, ResolveError, Resolver, resolve,
};
pub use unpack::{DEFAULT_MAX_BYTES, UnpackLimits, Verified, unpack};
