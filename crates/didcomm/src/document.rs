//! DID documents: their JSON shape, and what an envelope needs from them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::did::{Did, split_kid};
use crate::key::{PublicKey, is_small_order};

/// Service type of an endpoint that speaks DIDComm v2.
pub(crate) const DIDCOMM_SERVICE: &str = "DIDCommMessaging";
/// Media type profile of DIDComm v2 in a service's `accept`.
pub(crate) const DIDCOMM_V2: &str = "didcomm/v2";

/// A DID document (DID Core 1.0, section 5), as resolved: identifiers inside it may be relative (`#key-1`).
///
/// Members that this crate has no use for are kept and written out again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DidDocument {
    /// JSON-LD context: a string, an object or a list of them.
    #[serde(rename = "@context", default, skip_serializing_if = "Value::is_null")]
    pub context: Value,
    /// The DID that was resolved.
    pub id: Did,
    /// Public keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verification_method: Vec<VerificationMethod>,
    /// Keys that authenticate the subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authentication: Vec<Relationship>,
    /// Keys that make claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assertion_method: Vec<Relationship>,
    /// Keys that encrypt to, and authenticate envelopes of, the subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_agreement: Vec<Relationship>,
    /// Keys that invoke capabilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capability_invocation: Vec<Relationship>,
    /// Keys that delegate capabilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capability_delegation: Vec<Relationship>,
    /// Endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service: Vec<Service>,
    /// Other identifiers of the same subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_known_as: Vec<String>,
    /// Members unknown to this crate.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A public key in a DID document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationMethod {
    /// Relative (`#key-1`) or absolute.
    pub id: String,
    /// DID of who controls the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Did>,
    /// For instance `Multikey`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The key as base58btc multibase of multicodec and bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_multibase: Option<String>,
    /// The key as JSON Web Key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_jwk: Option<Value>,
    /// Members unknown to this crate.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An entry of a verification relationship: the id of a verification method, or a whole one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Relationship {
    /// Relative or absolute id of a member of `verificationMethod`.
    Reference(String),
    /// A method that serves this relationship only.
    Embedded(Box<VerificationMethod>),
}

/// A service of a DID document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Relative (`#service`) or absolute.
    pub id: String,
    /// For instance `DIDCommMessaging`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A URI, an object with `uri`, or a list of either.
    pub service_endpoint: Value,
    /// Members unknown to this crate.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An X25519 key of a document's `keyAgreement`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAgreementKey {
    /// Absolute key identifier, `<did>#<fragment>`.
    pub kid: String,
    /// Public key, 32 bytes.
    pub public: [u8; 32],
}

/// What a `DIDCommMessaging` service says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DidCommService {
    /// Where to send: a URL, `didcomm:transport/queue`, or the DID of a mediator.
    pub uri: String,
    /// Profiles it accepts; empty means that it does not say.
    pub accept: Vec<String>,
    /// DIDs or key identifiers of mediators, in the order that a message passes them.
    pub routing_keys: Vec<String>,
}

impl DidDocument {
    /// The X25519 keys of `keyAgreement` with absolute identifiers, in document order.
    ///
    /// Keys of other kinds, keys of small order and keys that belong to another DID are left out.
    pub fn key_agreement_keys(&self) -> Vec<KeyAgreementKey> {
        let mut keys: Vec<KeyAgreementKey> = Vec::new();
        for entry in &self.key_agreement {
            let Some(method) = self.method(entry) else {
                continue;
            };
            let kid = self.id.absolute(&method.id);
            let ours = split_kid(&kid).is_ok_and(|(did, _)| did == self.id);
            let known = keys.iter().any(|key| key.kid == kid);
            if let (Some(public), true, false) = (method.x25519(), ours, known) {
                keys.push(KeyAgreementKey { kid, public });
            }
        }
        keys
    }

    /// The first service that speaks DIDComm v2.
    pub fn didcomm_service(&self) -> Option<DidCommService> {
        self.service
            .iter()
            .filter(|service| service.kind == DIDCOMM_SERVICE)
            .find_map(Service::endpoint)
            .filter(|service| {
                service.accept.is_empty() || service.accept.iter().any(|a| a == DIDCOMM_V2)
            })
    }

    fn method<'a>(&'a self, entry: &'a Relationship) -> Option<&'a VerificationMethod> {
        match entry {
            Relationship::Embedded(method) => Some(method),
            Relationship::Reference(id) => {
                let wanted = self.id.absolute(id);
                self.verification_method
                    .iter()
                    .find(|method| self.id.absolute(&method.id) == wanted)
            }
        }
    }
}

impl VerificationMethod {
    fn x25519(&self) -> Option<[u8; 32]> {
        match (&self.public_key_multibase, &self.public_key_jwk) {
            (Some(text), _) => PublicKey::from_multibase(text).ok()?.as_x25519(),
            (None, Some(jwk)) => x25519_of_jwk(jwk).filter(|point| !is_small_order(point)),
            (None, None) => None,
        }
    }
}

/// The point of an OKP JSON Web Key with curve X25519 (RFC 8037).
pub(crate) fn x25519_of_jwk(jwk: &Value) -> Option<[u8; 32]> {
    use base64::Engine as _;
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    if member("kty")? != "OKP" || member("crv")? != "X25519" {
        return None;
    }
    base64::prelude::BASE64_URL_SAFE_NO_PAD
        .decode(member("x")?)
        .ok()?
        .try_into()
        .ok()
}

impl Service {
    /// Reads the endpoint in the forms seen in the field: an object, a plain URI with `accept` and `routingKeys` beside
    /// it, or a list, whose first entry counts.
    fn endpoint(&self) -> Option<DidCommService> {
        let first = match &self.service_endpoint {
            Value::Array(entries) => entries.first()?,
            other => other,
        };
        let beside = |name: &str| texts(self.extra.get(name));
        let service = match first {
            Value::String(uri) => DidCommService {
                uri: uri.clone(),
                accept: beside("accept"),
                routing_keys: beside("routingKeys"),
            },
            Value::Object(members) => DidCommService {
                uri: members.get("uri")?.as_str()?.to_owned(),
                accept: texts(members.get("accept")),
                routing_keys: texts(members.get("routingKeys")),
            },
            _ => return None,
        };
        Some(service)
    }
}

/// The strings of a JSON list.
fn texts(value: Option<&Value>) -> Vec<String> {
    let entries = value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    entries
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
