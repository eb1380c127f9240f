//! Making an envelope, and the forwards around it when the recipient sits behind mediators.

use affinidi_crypto::jose::key_agreement::PublicKeyAgreement;
use affinidi_messaging_didcomm::DIDCommError;
use affinidi_messaging_didcomm::jwe::encrypt::{anoncrypt, authcrypt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Builder;

use crate::did::{Did, ParseDidError, split_kid};
use crate::document::{DidCommService, DidDocument};
use crate::envelope::MAX_RECIPIENTS;
use crate::identity::{Endpoint, Identity};
use crate::message::{MessageError, Plaintext};
use crate::resolve::{ResolveError, Resolver};
use crate::text::excerpt;

/// Type of the message that asks a mediator to pass on another (routing 2.0).
pub const FORWARD: &str = "https://didcomm.org/routing/2.0/forward";
/// Most mediators on the way to a recipient.
const MAX_HOPS: usize = 4;

/// A packed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    envelope: Vec<u8>,
    forwarded: Option<Vec<u8>>,
    endpoint: Option<Endpoint>,
}

impl Packed {
    /// The envelope for the recipient itself: what goes out on a connection that the recipient opened.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// What goes to [`Packed::endpoint`]: the envelope, wrapped in a forward for each mediator if there are any.
    pub fn frame(&self) -> &[u8] {
        self.forwarded.as_deref().unwrap_or(&self.envelope)
    }

    /// Whether [`Packed::frame`] is for a mediator.
    pub fn is_forwarded(&self) -> bool {
        self.forwarded.is_some()
    }

    /// Where to send the frame: the recipient's or its first mediator's endpoint. `None` when the document names no
    /// endpoint that can be dialled or waited for.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }
}

/// Why a message was not packed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackError {
    /// A member of the message is out of bounds.
    #[error(transparent)]
    Bounds(#[from] MessageError),
    /// The message names a sender that is not the identity packing it.
    #[error("message is from {got}, expected the packing identity")]
    From {
        /// The start of the DID it names.
        got: String,
    },
    /// The message is addressed to others only.
    #[error("message is not addressed to {recipient}")]
    To {
        /// The start of the recipient's DID.
        recipient: String,
    },
    /// `expires_time` is missing.
    #[error("message has no expires_time, ours always carry one")]
    NoExpiry,
    /// The recipient or a mediator does not resolve.
    #[error("{whose} does not resolve: {reason}")]
    Resolve {
        /// `recipient` or `mediator`.
        whose: &'static str,
        /// Why.
        reason: ResolveError,
    },
    /// No X25519 key to encrypt to, or too many.
    #[error("{did} has {got} x25519 key-agreement keys, expected 1 to {MAX_RECIPIENTS}")]
    Keys {
        /// The start of the DID.
        did: String,
        /// Number of keys.
        got: usize,
    },
    /// More mediators than we follow, or mediators of mediators.
    #[error("route to the recipient has more than {MAX_HOPS} mediators or does not end")]
    Route,
    /// The envelope library or the JSON writer failed.
    #[error("encryption failed: {0}")]
    Encryption(String),
}

impl From<DIDCommError> for PackError {
    fn from(error: DIDCommError) -> Self {
        Self::Encryption(error.to_string())
    }
}

impl From<serde_json::Error> for PackError {
    fn from(error: serde_json::Error) -> Self {
        Self::Encryption(error.to_string())
    }
}

/// Encrypts a message to every X25519 key of `recipient`, authenticated as `identity` (authcrypt: ECDH-1PU+A256KW with
/// A256CBC-HS512).
///
/// An absent `from` or `to` is filled in; one that says otherwise is an error. Where the recipient's service names
/// routing keys, or a mediator's DID as its endpoint, the result also holds the forwards around the envelope.
pub fn pack(
    identity: &Identity,
    recipient: &Did,
    message: &Plaintext,
    resolver: &Resolver,
) -> Result<Packed, PackError> {
    let document = resolve(recipient, resolver, "recipient")?;
    let plaintext = serde_json::to_vec(&addressed(message, identity.did(), recipient)?)?;
    let keys = recipient_keys(&document)?;
    let envelope = authcrypt(
        &plaintext,
        identity.agreement_kid(),
        identity.agreement(),
        &as_recipients(&keys),
    )?;
    let route = route(&document, resolver)?;
    let forwarded = wrap(
        &envelope,
        recipient,
        message.expires_time,
        &route.mediators,
        resolver,
    )?;
    Ok(Packed {
        envelope: envelope.into_bytes(),
        forwarded: forwarded.map(String::into_bytes),
        endpoint: route.endpoint,
    })
}

/// The message with `from` and `to` as they must be.
fn addressed(message: &Plaintext, sender: &Did, recipient: &Did) -> Result<Plaintext, PackError> {
    let mut message = message.clone();
    let from = message.from.get_or_insert_with(|| sender.clone());
    if from != sender {
        return Err(PackError::From {
            got: excerpt(from.as_str()),
        });
    }
    if message.to.is_empty() {
        message.to.push(recipient.clone());
    }
    if !message.to.contains(recipient) {
        return Err(PackError::To {
            recipient: excerpt(recipient.as_str()),
        });
    }
    if message.expires_time.is_none() {
        return Err(PackError::NoExpiry);
    }
    message.check()?;
    Ok(message)
}

struct Route {
    /// DIDs or key identifiers, in the order that the message passes them.
    mediators: Vec<String>,
    endpoint: Option<Endpoint>,
}

/// Follows the recipient's service to the first hop (DIDComm Messaging 2.1, "Routing").
fn route(document: &DidDocument, resolver: &Resolver) -> Result<Route, PackError> {
    let Some(service) = document.didcomm_service() else {
        return Ok(Route {
            mediators: Vec::new(),
            endpoint: None,
        });
    };
    let DidCommService {
        uri,
        mut routing_keys,
        ..
    } = service;
    let endpoint = match uri.parse::<Did>() {
        // The endpoint is a mediator's DID: the mediator is the first hop, its own endpoint the one to send to.
        Ok(mediator) => {
            let service = resolve(&mediator, resolver, "mediator")?
                .didcomm_service()
                .ok_or(PackError::Route)?;
            if service.uri.parse::<Did>().is_ok() || !service.routing_keys.is_empty() {
                return Err(PackError::Route);
            }
            routing_keys.insert(0, uri);
            service.uri.parse().ok()
        }
        Err(_) => uri.parse().ok(),
    };
    if routing_keys.len() > MAX_HOPS {
        return Err(PackError::Route);
    }
    Ok(Route {
        mediators: routing_keys,
        endpoint,
    })
}

/// Wraps the envelope in one anoncrypted forward per mediator, the last mediator's innermost.
fn wrap(
    envelope: &str,
    recipient: &Did,
    expires: Option<u64>,
    mediators: &[String],
    resolver: &Resolver,
) -> Result<Option<String>, PackError> {
    let mut wrapped: Option<String> = None;
    let mut next = recipient.as_str();
    for mediator in mediators.iter().rev() {
        let inner = wrapped.as_deref().unwrap_or(envelope);
        let keys = mediator_keys(mediator, resolver)?;
        let forward = json!({
            "id": id_of(inner),
            "typ": crate::message::PLAINTEXT_TYP,
            "type": FORWARD,
            "expires_time": expires,
            "body": { "next": next },
            "attachments": [{ "data": { "json": serde_json::from_str::<Value>(inner)? } }],
        });
        wrapped = Some(anoncrypt(
            &serde_json::to_vec(&forward)?,
            &as_recipients(&keys),
        )?);
        next = mediator;
    }
    Ok(wrapped)
}

/// An id for the forward of an envelope. The envelope holds fresh randomness, so its hash is as unique as a random id,
/// and this crate needs no source of randomness of its own.
fn id_of(envelope: &str) -> String {
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(Sha256::digest(envelope)) {
        *byte = hashed;
    }
    Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// The keys of a routing key: the one it names, or all of a bare DID's.
fn mediator_keys(mediator: &str, resolver: &Resolver) -> Result<Vec<RecipientKey>, PackError> {
    let invalid = |error: ParseDidError| PackError::Resolve {
        whose: "mediator",
        reason: error.into(),
    };
    let did = match mediator.split_once('#') {
        Some(_) => split_kid(mediator).map_err(invalid)?.0,
        None => mediator.parse().map_err(invalid)?,
    };
    let mut keys = recipient_keys(&resolve(&did, resolver, "mediator")?)?;
    if mediator.contains('#') {
        keys.retain(|(kid, _)| kid == mediator);
    }
    if keys.is_empty() {
        Err(PackError::Keys {
            did: excerpt(mediator),
            got: 0,
        })
    } else {
        Ok(keys)
    }
}

/// An absolute key identifier and its key.
type RecipientKey = (String, PublicKeyAgreement);

/// The document's X25519 keys, sorted by identifier as `apv` wants them.
fn recipient_keys(document: &DidDocument) -> Result<Vec<RecipientKey>, PackError> {
    let keys = document.key_agreement_keys();
    if !(1..=MAX_RECIPIENTS).contains(&keys.len()) {
        return Err(PackError::Keys {
            did: excerpt(document.id.as_str()),
            got: keys.len(),
        });
    }
    let mut keys: Vec<RecipientKey> = keys
        .into_iter()
        .map(|key| (key.kid, PublicKeyAgreement::X25519(key.public)))
        .collect();
    keys.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(keys)
}

fn as_recipients(keys: &[RecipientKey]) -> Vec<(&str, &PublicKeyAgreement)> {
    keys.iter().map(|(kid, key)| (kid.as_str(), key)).collect()
}

fn resolve(did: &Did, resolver: &Resolver, whose: &'static str) -> Result<DidDocument, PackError> {
    resolver
        .resolve(did)
        .map_err(|reason| PackError::Resolve { whose, reason })
}
