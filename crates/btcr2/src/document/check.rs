//! What makes a value a conformant document: the rules of DID Core and did:btcr2, each property by itself.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{BTCR2_CONTEXT, DID_CONTEXT, DocumentError, MAX_BEACONS, RELATIONSHIPS};
use crate::beacon::{Beacon, BeaconType, parse_endpoint};
use crate::identifier::Did;
use crate::json;

/// The type of every verification method. DID Core knows others, the published test suite refuses them.
const METHOD_TYPE: &str = "Multikey";

/// Checks a document of a DID, and gives its beacons.
pub(super) fn document(did: &Did, value: &Value) -> Result<Vec<Beacon>, DocumentError> {
    let document = object(value, "")?;
    context(document.get("@context"))?;
    match document.get("id").and_then(Value::as_str) {
        Some(id) if id == did.as_str() => {}
        _ => {
            return Err(wrong(document.get("id"), "/id", format!("\"{did}\"")));
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
    verification_methods(did, document)?;
    services(did, document)
}

fn verification_methods(did: &Did, document: &Map<String, Value>) -> Result<(), DocumentError> {
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
            let id = did.absolute(id);
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

fn services(did: &Did, document: &Map<String, Value>) -> Result<Vec<Beacon>, DocumentError> {
    let mut beacons = Vec::new();
    let Some(services) = document.get("service") else {
        return Ok(beacons);
    };
    let mut ids = BTreeSet::new();
    for (i, service) in array(services, "/service")?.iter().enumerate() {
        let at = format!("/service/{i}");
        let service = object(service, &at)?;
        let id = string(service.get("id"), &format!("{at}/id"))?;
        let id = did.absolute(id);
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
        let address = parse_endpoint(string(endpoint, &endpoint_at)?, did.network());
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
