//! did:peer, numbers 0, 2 and 4, and did:key: documents that are computed from the identifier alone.
//!
//! Specifications: "Peer DID Method" (decentralized-identity/peer-did-method-spec) and "The did:key Method".

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use multibase::Base;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use ssi_multicodec::MultiEncoded;
use thiserror::Error;

use crate::did::{Did, ParseDidError};
use crate::document::{
    DIDCOMM_SERVICE, DIDCOMM_V2, DidDocument, Relationship, Service, VerificationMethod,
};
use crate::key::{KeyError, PublicKey};
use crate::text::{brief, excerpt};

/// Multihash header of SHA-256: function code and length.
const SHA2_256: [u8; 2] = [0x12, 0x20];
/// Multicodec of JSON text.
const JSON_CODEC: u64 = 0x0200;
/// Most elements in a did:peer:2, and most methods or services in a did:peer:4 document.
const MAX_ELEMENTS: usize = 32;

/// Why an identifier of a supported method does not hold a document.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InvalidDid {
    /// Not put together as its method says.
    #[error("got {got}, expected {expected}")]
    Form {
        /// What was read.
        got: String,
        /// What the method prescribes.
        expected: &'static str,
    },
    /// A key that cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A service or document that is not base64url or base58btc.
    #[error("{0} is not properly encoded")]
    Encoding(&'static str),
    /// A service or document that is not JSON of the right shape.
    #[error("{part} is not a valid JSON object: {detail}")]
    Json {
        /// Which part.
        part: &'static str,
        /// The parser's verdict.
        detail: String,
    },
    /// The hash of a did:peer:4 is not that of its document.
    #[error("document hash is {computed}, expected {stated}")]
    Hash {
        /// Hash of the document that came along.
        computed: String,
        /// Hash in the identifier.
        stated: String,
    },
    /// A did:peer:4 document names its own `id`, which cannot be known before hashing.
    #[error("document has an id, expected none")]
    HasId,
}

/// The did:peer:2 of an agent (protocol page, section 1): verification key, key-agreement key, one service.
pub(crate) fn encode_peer2(
    verification: &PublicKey,
    agreement: &PublicKey,
    uri: &str,
) -> Result<Did, ParseDidError> {
    // A struct and not a `Value`: the order of the members is part of the identifier.
    #[derive(Serialize)]
    struct ShortService<'a> {
        t: &'a str,
        s: ShortEndpoint<'a>,
    }
    #[derive(Serialize)]
    struct ShortEndpoint<'a> {
        uri: &'a str,
        a: [&'a str; 1],
        r: [&'a str; 0],
    }

    let service = ShortService {
        t: "dm",
        s: ShortEndpoint {
            uri,
            a: [DIDCOMM_V2],
            r: [],
        },
    };
    // Writing strings to memory cannot fail; an empty service would still give a well-formed DID.
    let service = serde_json::to_vec(&service).unwrap_or_default();
    format!(
        "did:peer:2.V{}.E{}.S{}",
        verification.to_multibase(),
        agreement.to_multibase(),
        BASE64_URL_SAFE_NO_PAD.encode(service)
    )
    .parse()
}

/// Resolves did:peer:2: keys are numbered `#key-1`, `#key-2`, … in order of appearance.
pub(crate) fn resolve_peer2(did: &Did) -> Result<DidDocument, InvalidDid> {
    let form = || InvalidDid::Form {
        got: excerpt(did.as_str()),
        expected: "did:peer:2 with elements .A .D .E .I .V .S",
    };
    let elements = did
        .method_specific_id()
        .strip_prefix("2.")
        .ok_or_else(form)?;
    if elements.split('.').count() > MAX_ELEMENTS {
        return Err(InvalidDid::Form {
            got: "more".to_owned(),
            expected: "at most 32 elements",
        });
    }
    let mut document = empty_document(did);
    let mut unnamed_services = 0;
    for element in elements.split('.') {
        let (purpose, value) = element.split_at_checked(1).ok_or_else(form)?;
        if purpose == "S" {
            document
                .service
                .push(decode_service(value, &mut unnamed_services)?);
            continue;
        }
        PublicKey::from_multibase(value)?;
        let id = format!("#key-{}", document.verification_method.len() + 1);
        relationship(&mut document, purpose)
            .ok_or_else(form)?
            .push(Relationship::Reference(id.clone()));
        document.verification_method.push(multikey(id, did, value));
    }
    document.also_known_as = vec![short_form_of_peer2(did)];
    Ok(document)
}

/// The did:peer:3 alias: multihash over everything after `did:peer:2`.
pub(crate) fn short_form_of_peer2(did: &Did) -> String {
    let hashed = did
        .method_specific_id()
        .strip_prefix('2')
        .unwrap_or_default();
    format!("did:peer:3{}", multihash(hashed))
}

fn relationship<'a>(
    document: &'a mut DidDocument,
    purpose: &str,
) -> Option<&'a mut Vec<Relationship>> {
    Some(match purpose {
        "A" => &mut document.assertion_method,
        "D" => &mut document.capability_delegation,
        "E" => &mut document.key_agreement,
        "I" => &mut document.capability_invocation,
        "V" => &mut document.authentication,
        _ => return None,
    })
}

fn decode_service(encoded: &str, unnamed: &mut usize) -> Result<Service, InvalidDid> {
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| InvalidDid::Encoding("service"))?;
    let json = |error: serde_json::Error| InvalidDid::Json {
        part: "service",
        detail: brief(&error),
    };
    let mut members: Map<String, Value> = serde_json::from_slice(&bytes).map_err(json)?;
    members = expand_names(members);
    if members.get("type").is_some_and(|kind| kind == "dm") {
        members.insert("type".to_owned(), DIDCOMM_SERVICE.into());
    }
    if !members.contains_key("id") {
        let id = if *unnamed == 0 {
            "#service".to_owned()
        } else {
            format!("#service-{unnamed}")
        };
        members.insert("id".to_owned(), id.into());
        *unnamed += 1;
    }
    serde_json::from_value(Value::Object(members)).map_err(json)
}

/// Replaces the abbreviated member names, at every depth. (Depth is bounded by the JSON parser.)
fn expand_names(members: Map<String, Value>) -> Map<String, Value> {
    let full = |name: String| match name.as_str() {
        "t" => "type".to_owned(),
        "s" => "serviceEndpoint".to_owned(),
        "r" => "routingKeys".to_owned(),
        "a" => "accept".to_owned(),
        _ => name,
    };
    members
        .into_iter()
        .map(|(name, value)| (full(name), expand_values(value)))
        .collect()
}

fn expand_values(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(expand_names(members)),
        Value::Array(entries) => Value::Array(entries.into_iter().map(expand_values).collect()),
        other => other,
    }
}

/// Resolves did:key and did:peer:0, which is the same with a `0` in front: one key for everything it can do, and for
/// Ed25519 the X25519 key derived from it.
pub(crate) fn resolve_single_key(did: &Did, encoded: &str) -> Result<DidDocument, InvalidDid> {
    let key = PublicKey::from_multibase(encoded)?;
    let mut document = empty_document(did);
    let id = format!("#{encoded}");
    document
        .verification_method
        .push(multikey(id.clone(), did, encoded));
    let agrees_itself = key.as_x25519().is_some();
    if agrees_itself {
        document.key_agreement.push(Relationship::Reference(id));
        return Ok(document);
    }
    for purpose in ["V", "A", "I", "D"] {
        document.push(purpose, &id);
    }
    if let Some(derived) = key.derived_key_agreement()? {
        let encoded = derived.to_multibase();
        let id = format!("#{encoded}");
        document
            .verification_method
            .push(multikey(id.clone(), did, &encoded));
        document.push("E", &id);
    }
    Ok(document)
}

impl DidDocument {
    fn push(&mut self, purpose: &str, id: &str) {
        if let Some(entries) = relationship(self, purpose) {
            entries.push(Relationship::Reference(id.to_owned()));
        }
    }
}

/// The short form `did:peer:4<hash>` of a long form `did:peer:4<hash>:<document>`; `None` for anything else.
pub(crate) fn short_form_of_peer4(did: &Did) -> Option<Did> {
    let (hash, _) = did
        .method_specific_id()
        .strip_prefix('4')?
        .split_once(':')?;
    (did.method() == "peer").then(|| format!("did:peer:4{hash}").parse().ok())?
}

/// Resolves a did:peer:4 whose long form is at hand, for `did` being the long or the short form itself.
pub(crate) fn resolve_peer4(did: &Did, long: &Did) -> Result<DidDocument, InvalidDid> {
    let form = || InvalidDid::Form {
        got: excerpt(long.as_str()),
        expected: "did:peer:4<hash>:<document>",
    };
    let (stated, encoded) = long
        .method_specific_id()
        .strip_prefix('4')
        .and_then(|id| id.split_once(':'))
        .ok_or_else(form)?;
    let computed = multihash(encoded);
    if computed != stated {
        return Err(InvalidDid::Hash {
            computed,
            stated: excerpt(stated),
        });
    }
    let Ok((Base::Base58Btc, bytes)) = multibase::decode(encoded) else {
        return Err(InvalidDid::Encoding("document"));
    };
    let Ok((JSON_CODEC, text)) = MultiEncoded::new(&bytes).map(MultiEncoded::parts) else {
        return Err(InvalidDid::Encoding("document"));
    };
    let json = |error: serde_json::Error| InvalidDid::Json {
        part: "document",
        detail: brief(&error),
    };
    let mut members: Map<String, Value> = serde_json::from_slice(text).map_err(json)?;
    if members.insert("id".to_owned(), json!(did)).is_some() {
        return Err(InvalidDid::HasId);
    }
    let document = serde_json::from_value(Value::Object(members)).map_err(json)?;
    let short = format!("did:peer:4{stated}");
    let alias = if did == long {
        short
    } else {
        long.as_str().to_owned()
    };
    in_context(document, did, alias)
}

/// Adds what the input document of a did:peer:4 leaves out: the alias, and the controller of its keys.
fn in_context(
    mut document: DidDocument,
    did: &Did,
    alias: String,
) -> Result<DidDocument, InvalidDid> {
    if document.verification_method.len() > MAX_ELEMENTS || document.service.len() > MAX_ELEMENTS {
        return Err(InvalidDid::Form {
            got: "more".to_owned(),
            expected: "at most 32 methods and services",
        });
    }
    document.also_known_as.push(alias);
    let entries = [
        &mut document.authentication,
        &mut document.assertion_method,
        &mut document.key_agreement,
        &mut document.capability_invocation,
        &mut document.capability_delegation,
    ];
    let embedded = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| match entry {
            Relationship::Embedded(method) => Some(&mut **method),
            Relationship::Reference(_) => None,
        });
    for method in document.verification_method.iter_mut().chain(embedded) {
        method.controller.get_or_insert_with(|| did.clone());
    }
    Ok(document)
}

fn multihash(text: &str) -> String {
    let mut bytes = SHA2_256.to_vec();
    bytes.extend_from_slice(&Sha256::digest(text.as_bytes()));
    multibase::encode(Base::Base58Btc, bytes)
}

fn multikey(id: String, did: &Did, encoded: &str) -> VerificationMethod {
    VerificationMethod {
        id,
        controller: Some(did.clone()),
        kind: "Multikey".to_owned(),
        public_key_multibase: Some(encoded.to_owned()),
        public_key_jwk: None,
        extra: Map::new(),
    }
}

fn empty_document(did: &Did) -> DidDocument {
    DidDocument {
        context: json!([
            "https://www.w3.org/ns/did/v1",
            "https://w3id.org/security/multikey/v1"
        ]),
        id: did.clone(),
        verification_method: Vec::new(),
        authentication: Vec::new(),
        assertion_method: Vec::new(),
        key_agreement: Vec::new(),
        capability_invocation: Vec::new(),
        capability_delegation: Vec::new(),
        service: Vec::new(),
        also_known_as: Vec::new(),
        extra: Map::new(),
    }
}

/// The long and the short form of a did:peer:4, for tests: we resolve them and never make them.
#[cfg(test)]
pub(crate) fn encode_peer4(document: &Value) -> (Did, Did) {
    let bytes = [&[0x80, 0x04], document.to_string().as_bytes()].concat();
    let encoded = multibase::encode(Base::Base58Btc, bytes);
    let short = format!("did:peer:4{}", multihash(&encoded));
    (
        format!("{short}:{encoded}").parse().unwrap(),
        short.parse().unwrap(),
    )
}
