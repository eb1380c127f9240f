//! DID documents: what conforms to DID Core 1.1 as far as did:btcr2 relies on it, and what is asked of a document.

mod check;

use bitcoin::secp256k1::PublicKey;
use serde_json::Value;

use crate::beacon::{Beacon, BeaconError};
use crate::identifier::Did;
use crate::json::{self, Hash32, Limits, Size};
use crate::proof::multikey;

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
        let beacons = check::document(did, &value)?;
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
