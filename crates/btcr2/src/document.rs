//! DID documents: what conforms to DID Core 1.1 as far as did:btcr2 relies on it, and what is asked of a document.

use std::collections::BTreeSet;

use bitcoin::secp256k1::PublicKey;
use serde_json::{Map, Value};

use crate::beacon::{Beacon, BeaconError, BeaconType, parse_endpoint};
use crate::identifier::Did;
use crate::json::{self, Hash32, Limits, Size};
use crate::proof::multikey;

/// The first context of every document.
pub const DID_CONTEXT: &str = "https://www.w3.org/ns/did/v1.1";
/// The context of the method, somewhere after it.
pub const BTCR2_CONTEXT: &str = "https://btcr2.dev/context/v1";
/// Largest number of beacons in one document: each has to be searched for signals.
pub const MAX_BEACONS: usize = 64;
/// The type of every verification method. DID Core knows others, the published test suite refuses them.
const METHOD_TYPE: &str = "Multikey";
/// The verification relationships of DID Core.
const RELATIONSHIPS: [&str; 5] = [
    "authentication",
    "assertionMethod",
    "keyAgreement",
    "capabilityInvocation",
    "capabilityDelegation",
];

/// Why a value is not a DID document of a DID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Something else stands in a place than DID Core or did:btcr2 wants there.
    #[error("got {got} at {at}, expected {expected}")]
    Property {
        /// JSON pointer into the document.
        at: String,
        /// What is there, shortened.
        got: String,
        /// What should be there.
        expected: String,
    },
    /// Two verification methods or two services have one id.
    #[error("got the id {id:?} a second time at {at}, expected each id once")]
    RepeatedId {
        /// JSON pointer of the second one.
        at: String,
        /// The id in absolute form.
        id: String,
    },
    /// A beacon's endpoint cannot be used.
    #[error("the beacon at {at} is not valid: {problem}")]
    Beacon {
        /// JSON pointer of the endpoint.
        at: String,
        /// What is wrong with it.
        problem: BeaconError,
    },
    /// There are too many beacons.
    #[error("got {got} beacons in the document, expected at most {MAX_BEACONS}")]
    TooManyBeacons {
        /// How many.
        got: usize,
    },
    /// The document is too large or too deep.
    #[error(
        "got a document of {size}, expected at most {} values, {} levels and {} bytes",
        Limits::DOCUMENT.nodes, Limits::DOCUMENT.depth, Limits::DOCUMENT.bytes
    )]
    TooLarge {
        /// How large.
        size: String,
    },
    /// A relationship names a verification method that is not in the document.
    #[error(
        "got a reference to {id:?} at {at}, expected the id of a verification method of the document"
    )]
    Dangling {
        /// JSON pointer of the reference.
        at: String,
        /// The id in absolute form.
        id: String,
    },
    /// No entry of `capabilityInvocation` is this verification method or refers to it.
    #[error("got the verification method {id:?}, expected one of /capabilityInvocation")]
    NoCapability {
        /// Its id in absolute form.
        id: String,
    },
    /// `capabilityInvocation` refers to a verification method that is not there.
    #[error("got the verification method {id:?}, expected the id of one at /verificationMethod")]
    NoSuchMethod {
        /// Its id in absolute form.
        id: String,
    },
    /// A verification method has no key that could verify an update.
    #[error(
        "got the verification method {id:?} without publicKeyMultibase, expected one with a key"
    )]
    NoKey {
        /// Its id in absolute form.
        id: String,
    },
}

/// A conformant DID document of a DID of this method.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    did: Did,
    value: Value,
    beacons: Vec<Beacon>,
    hash: Hash32,
}

impl Document {
    /// Takes a value that conforms as the document of `did`.
    ///
    /// Checked is what DID Core 1.1 demands of the properties that it defines, and what did:btcr2 demands of its own;
    /// other properties are kept as they are. URLs other than those of beacons are texts of any form, as the
    /// specification allows, and references to verification methods need not resolve ([`Self::dangling_reference`]).
    pub fn new(did: &Did, value: Value) -> Result<Self, DocumentError> {
        let size = Size::of(&value);
        if !size.is_within(&Limits::DOCUMENT) {
            let size = size.to_string();
            return Err(DocumentError::TooLarge { size });
        }
        let beacons = Checker { did }.document(&value)?;
        let hash = json::hash(&value);
        Ok(Self {
            did: did.clone(),
            value,
            beacons,
            hash,
        })
    }

    /// Its DID.
    pub fn did(&self) -> &Did {
        &self.did
    }

    /// The document as JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// SHA-256 of the canonical form: the source hash of the next update.
    pub fn hash(&self) -> Hash32 {
        self.hash
    }

    /// The beacons among its services, in their order.
    pub fn beacons(&self) -> &[Beacon] {
        &self.beacons
    }

    /// Whether the DID is deactivated for ever.
    pub fn is_deactivated(&self) -> bool {
        self.value.get("deactivated") == Some(&Value::Bool(true))
    }

    /// The `publicKeyMultibase` of the verification method that may update the document under this id.
    ///
    /// The method is at `/verificationMethod` and referred to from `/capabilityInvocation`, or embedded there. Ids are
    /// compared in absolute form.
    pub fn update_key(&self, id: &str) -> Result<&str, DocumentError> {
        let id = self.did.absolute(id);
        let mut entries = items(&self.value, "capabilityInvocation");
        let entry = entries.find(|entry| {
            let entry = entry.as_str().or_else(|| text(entry, "id"));
            entry.is_some_and(|entry| self.did.absolute(entry) == id)
        });
        let method = match entry {
            None => {
                return Err(DocumentError::NoCapability {
                    id: json::shorten_text(id),
                });
            }
            Some(Value::String(_)) => {
                self.method(&id)
                    .ok_or_else(|| DocumentError::NoSuchMethod {
                        id: json::shorten_text(id.as_str()),
                    })?
            }
            Some(embedded) => embedded,
        };
        text(method, "publicKeyMultibase").ok_or_else(|| DocumentError::NoKey {
            id: json::shorten_text(id),
        })
    }

    /// The id under which this key may update the document, in absolute form.
    pub fn update_method_of(&self, key: &PublicKey) -> Option<String> {
        let key = multikey(key);
        items(&self.value, "capabilityInvocation").find_map(|entry| {
            let id = self
                .did
                .absolute(entry.as_str().or_else(|| text(entry, "id"))?);
            (self.update_key(&id) == Ok(&key)).then_some(id)
        })
    }

    /// The method at `/verificationMethod` with this id in absolute form.
    fn method(&self, id: &str) -> Option<&Value> {
        let mut methods = items(&self.value, "verificationMethod");
        methods
            .find(|method| text(method, "id").is_some_and(|other| self.did.absolute(other) == id))
    }

    /// The first reference to a verification method of this DID that is not in the document, if there is one.
    ///
    /// Such a document resolves, but its author hardly means it.
    pub fn dangling_reference(&self) -> Option<DocumentError> {
        let own = self.did.absolute("#");
        for relationship in RELATIONSHIPS {
            for (i, reference) in items(&self.value, relationship).enumerate() {
                let Some(reference) = reference.as_str() else {
                    continue;
                };
                let id = self.did.absolute(reference);
                if id.starts_with(&own) && self.method(&id).is_none() {
                    let at = format!("/{relationship}/{i}");
                    let id = json::shorten_text(id);
                    return Some(DocumentError::Dangling { at, id });
                }
            }
        }
        None
    }
}

/// The items of an array property; none where there is no array.
fn items<'a>(document: &'a Value, property: &str) -> impl Iterator<Item = &'a Value> {
    let array = document.get(property).and_then(Value::as_array);
    array.map_or(&[][..], Vec::as_slice).iter()
}

fn text<'a>(object: &'a Value, member: &str) -> Option<&'a str> {
    object.get(member).and_then(Value::as_str)
}

/// The rules of DID Core, each property by itself.
struct Checker<'a> {
    did: &'a Did,
}

impl Checker<'_> {
    fn document(&self, value: &Value) -> Result<Vec<Beacon>, DocumentError> {
        let document = object(value, "")?;
        context(document.get("@context"))?;
        match document.get("id").and_then(Value::as_str) {
            Some(id) if id == self.did.as_str() => {}
            _ => {
                return Err(wrong(
                    document.get("id"),
                    "/id",
                    format!("\"{}\"", self.did),
                ));
            }
        }
        if let Some(deactivated) = document.get("deactivated").filter(|v| !v.is_boolean()) {
            return Err(wrong(Some(deactivated), "/deactivated", "true or false"));
        }
        if let Some(names) = document.get("alsoKnownAs") {
            for (i, name) in array(names, "/alsoKnownAs")?.iter().enumerate() {
                string(Some(name), &format!("/alsoKnownAs/{i}"))?;
            }
        }
        if let Some(controller) = document.get("controller") {
            for (at, controller) in one_or_more(controller, "/controller") {
                did_syntax(Some(controller), &at)?;
            }
        }
        self.verification_methods(document)?;
        self.services(document)
    }

    fn verification_methods(&self, document: &Map<String, Value>) -> Result<(), DocumentError> {
        let mut ids = BTreeSet::new();
        for set in std::iter::once("verificationMethod").chain(RELATIONSHIPS) {
            let Some(methods) = document.get(set) else {
                continue;
            };
            for (i, method) in array(methods, &format!("/{set}"))?.iter().enumerate() {
                let at = format!("/{set}/{i}");
                if set != "verificationMethod" && method.is_string() {
                    string(Some(method), &at)?;
                    continue;
                }
                let method = object(method, &at)?;
                let id = string(method.get("id"), &format!("{at}/id"))?;
                let id = self.did.absolute(id);
                if !ids.insert(id.clone()) {
                    let id = json::shorten_text(id);
                    return Err(DocumentError::RepeatedId { at, id });
                }
                if method.get("type").and_then(Value::as_str) != Some(METHOD_TYPE) {
                    let at = format!("{at}/type");
                    return Err(wrong(method.get("type"), &at, format!("{METHOD_TYPE:?}")));
                }
                did_syntax(method.get("controller"), &format!("{at}/controller"))?;
                if let Some(key) = method.get("publicKeyMultibase") {
                    string(Some(key), &format!("{at}/publicKeyMultibase"))?;
                }
            }
        }
        Ok(())
    }

    fn services(&self, document: &Map<String, Value>) -> Result<Vec<Beacon>, DocumentError> {
        let mut beacons = Vec::new();
        let Some(services) = document.get("service") else {
            return Ok(beacons);
        };
        let mut ids = BTreeSet::new();
        for (i, service) in array(services, "/service")?.iter().enumerate() {
            let at = format!("/service/{i}");
            let service = object(service, &at)?;
            let id = string(service.get("id"), &format!("{at}/id"))?;
            let id = self.did.absolute(id);
            if !ids.insert(id.clone()) {
                let id = json::shorten_text(id);
                return Err(DocumentError::RepeatedId { at, id });
            }
            let kind = beacon_type(service.get("type"), &format!("{at}/type"))?;
            let endpoint_at = format!("{at}/serviceEndpoint");
            let endpoint = service.get("serviceEndpoint");
            let Some(kind) = kind else {
                service_endpoint(endpoint, &endpoint_at)?;
                continue;
            };
            let address = parse_endpoint(string(endpoint, &endpoint_at)?, self.did.network());
            let address = address.map_err(|problem| DocumentError::Beacon {
                at: endpoint_at,
                problem,
            })?;
            beacons.push(Beacon { id, kind, address });
        }
        if beacons.len() > MAX_BEACONS {
            return Err(DocumentError::TooManyBeacons { got: beacons.len() });
        }
        Ok(beacons)
    }
}

/// The context of DID Core first, and that of the method.
fn context(value: Option<&Value>) -> Result<(), DocumentError> {
    let expected =
        || format!("an array that starts with {DID_CONTEXT:?} and contains {BTCR2_CONTEXT:?}");
    let contexts = value
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let is = |value: &Value, context: &str| value.as_str() == Some(context);
    let conforms = contexts.first().is_some_and(|first| is(first, DID_CONTEXT))
        && contexts.iter().any(|context| is(context, BTCR2_CONTEXT))
        && contexts
            .iter()
            .all(|context| context.is_string() || context.is_object());
    if conforms {
        return Ok(());
    }
    Err(wrong(value, "/@context", expected()))
}

/// The beacon type of a service, whose type is a text or a set of texts.
fn beacon_type(value: Option<&Value>, at: &str) -> Result<Option<BeaconType>, DocumentError> {
    let expected = "a text, or an array of texts none of which is a beacon type";
    match value {
        Some(Value::String(kind)) => Ok(BeaconType::of_service_type(kind)),
        Some(Value::Array(kinds)) if !kinds.is_empty() => {
            // A beacon for some readers and none for others would give the DID two histories.
            let plain = |kind: &Value| {
                let kind = kind.as_str();
                kind.is_some_and(|kind| BeaconType::of_service_type(kind).is_none())
            };
            if kinds.iter().all(plain) {
                return Ok(None);
            }
            Err(wrong(value, at, expected))
        }
        _ => Err(wrong(value, at, expected)),
    }
}

fn service_endpoint(value: Option<&Value>, at: &str) -> Result<(), DocumentError> {
    let one = |value: &Value, at: &str| match value {
        Value::Object(_) => Ok(()),
        _ => string(Some(value), at).map(drop),
    };
    match value {
        Some(Value::Array(endpoints)) => {
            let mut endpoints = endpoints.iter().enumerate();
            endpoints.try_for_each(|(i, endpoint)| one(endpoint, &format!("{at}/{i}")))
        }
        Some(endpoint) => one(endpoint, at),
        None => Err(wrong(None, at, "a URI, a map, or an array of them")),
    }
}

/// A text, or the items of an array, each with its pointer.
fn one_or_more<'a>(value: &'a Value, at: &str) -> Vec<(String, &'a Value)> {
    match value {
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(i, item)| (format!("{at}/{i}"), item)).collect()
        }
        one => vec![(at.to_owned(), one)],
    }
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, DocumentError> {
    value
        .as_object()
        .ok_or_else(|| wrong(Some(value), at, "an object"))
}

fn array<'a>(value: &'a Value, at: &str) -> Result<&'a [Value], DocumentError> {
    let array = value.as_array().map(Vec::as_slice);
    array.ok_or_else(|| wrong(Some(value), at, "an array"))
}

fn string<'a>(value: Option<&'a Value>, at: &str) -> Result<&'a str, DocumentError> {
    let text = value
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    text.ok_or_else(|| wrong(value, at, "a text"))
}

/// `did:method:id`, without path, query or fragment.
fn did_syntax(value: Option<&Value>, at: &str) -> Result<(), DocumentError> {
    let valid = value.and_then(Value::as_str).is_some_and(|text| {
        let mut parts = text.splitn(3, ':');
        let (scheme, method, id) = (parts.next(), parts.next(), parts.next());
        let name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let symbol = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        scheme == Some("did")
            && method.is_some_and(|method| !method.is_empty() && method.bytes().all(name))
            && id.is_some_and(|id| !id.is_empty() && id.bytes().all(symbol))
    });
    if valid {
        return Ok(());
    }
    Err(wrong(value, at, "a DID"))
}

fn wrong(got: Option<&Value>, at: &str, expected: impl Into<String>) -> DocumentError {
    DocumentError::Property {
        at: if at.is_empty() {
            "the document".into()
        } else {
            at.into()
        },
        got: got.map_or_else(|| "nothing".into(), json::shorten),
        expected: expected.into(),
    }
}
