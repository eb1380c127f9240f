//! DID documents: what conforms to DID Core 1.1 as far as did:btcr2 relies on it, and what is asked of a document.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::beacon::{Beacon, BeaconError, BeaconType, parse_endpoint};
use crate::identifier::Did;
use crate::json::{self, Hash32, Limits, Size};

/// The first context of every document.
pub const DID_CONTEXT: &str = "https://www.w3.org/ns/did/v1.1";
/// The context of the method, somewhere after it.
pub const BTCR2_CONTEXT: &str = "https://btcr2.dev/context/v1";
/// Largest number of beacons in one document: each has to be searched for signals.
pub const MAX_BEACONS: usize = 64;
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
    /// There is no such verification method.
    #[error("got the verification method {id:?}, expected the id of one at /verificationMethod")]
    NoSuchMethod {
        /// The id as it was asked for.
        id: String,
    },
    /// A verification method may not be used to invoke capabilities.
    #[error(
        "got the verification method {id:?}, expected one that /capabilityInvocation refers to"
    )]
    NoCapability {
        /// The id as it was asked for.
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
    /// other properties are kept as they are. References to verification methods need not resolve
    /// ([`Self::dangling_reference`]): DID Core does not demand it.
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

    /// The verification method with this id, absolute or relative to the DID.
    ///
    /// Methods that are embedded in a relationship are not found: the specification looks for keys of updates at
    /// `/verificationMethod` only.
    pub fn verification_method(&self, id: &str) -> Result<&Map<String, Value>, DocumentError> {
        let wanted = self.did.absolute(id);
        let mut methods = items(&self.value, "verificationMethod").filter_map(Value::as_object);
        methods
            .find(|method| text(method, "id").is_some_and(|id| self.did.absolute(id) == wanted))
            .ok_or_else(|| DocumentError::NoSuchMethod {
                id: json::shorten_text(id),
            })
    }

    /// The `publicKeyMultibase` of a verification method that may update the document.
    pub fn update_key(&self, id: &str) -> Result<&str, DocumentError> {
        let method = self.verification_method(id)?;
        let wanted = self.did.absolute(id);
        let mut references = items(&self.value, "capabilityInvocation").filter_map(Value::as_str);
        if !references.any(|reference| self.did.absolute(reference) == wanted) {
            return Err(DocumentError::NoCapability {
                id: json::shorten_text(id),
            });
        }
        text(method, "publicKeyMultibase").ok_or_else(|| DocumentError::Property {
            at: format!("publicKeyMultibase of {}", json::shorten_text(id)),
            got: "nothing".into(),
            expected: "the key in multibase".into(),
        })
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
                if id.starts_with(&own) && self.verification_method(&id).is_err() {
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

fn text<'a>(object: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
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
                uri(Some(name), &format!("/alsoKnownAs/{i}"))?;
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
                    self.did_url(Some(method), &at)?;
                    continue;
                }
                let method = object(method, &at)?;
                let id = self.did_url(method.get("id"), &format!("{at}/id"))?;
                if !ids.insert(id.clone()) {
                    let id = json::shorten_text(id);
                    return Err(DocumentError::RepeatedId { at, id });
                }
                string(method.get("type"), &format!("{at}/type"))?;
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
            let id = uri(service.get("id"), &format!("{at}/id"))?;
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

    /// A DID URL, absolute or relative to the DID; gives its absolute form.
    fn did_url(&self, value: Option<&Value>, at: &str) -> Result<String, DocumentError> {
        let url = uri(value, at)?;
        if url.starts_with('#') || url.starts_with("did:") {
            return Ok(self.did.absolute(url));
        }
        Err(wrong(value, at, "a DID URL"))
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
        _ => uri(Some(value), at).map(drop),
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

/// A URI or relative reference, as far as its characters tell.
fn uri<'a>(value: Option<&'a Value>, at: &str) -> Result<&'a str, DocumentError> {
    let text = value.and_then(Value::as_str).filter(|text| {
        let foreign = |byte: u8| !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte);
        !text.is_empty() && !text.bytes().any(foreign)
    });
    text.ok_or_else(|| wrong(value, at, "a URI"))
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
