//! Sidecar data: what the holder of a DID hands to whoever is to resolve it, since the chain holds only hashes.
//!
//! Nothing in here is believed. The genesis document must hash to the DID, an update or an announcement map to what a signal
//! says, and a proof must lead to a signal's root. So what is read here is its shape only; the rest is looked at when a signal
//! asks for it, and what none asks for does no harm.

use serde_json::{Map, Value};

use crate::json::{JsonError, Limits, kind};

/// The specification's "Sidecar Data".
///
/// ```
/// use beacon_btcr2::Sidecar;
/// use serde_json::json;
///
/// let mut sidecar = Sidecar::default();
/// sidecar.updates.push(json!({ "targetVersionId": 2 }));
/// assert_eq!(sidecar.to_value(), json!({ "updates": [{ "targetVersionId": 2 }] }));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    /// The genesis document of an x DID; that of a k DID follows from the DID.
    pub genesis_document: Option<Value>,
    /// Signed updates, in any order.
    pub updates: Vec<Value>,
    /// Announcement maps of CAS beacons, in any order.
    pub cas_updates: Vec<Value>,
    /// Proofs for the signals of SMT beacons, in any order.
    pub smt_proofs: Vec<Value>,
}

/// What is wrong with the shape of sidecar data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SidecarError {
    /// The text is not JSON, or more of it than is read.
    #[error(": {0}")]
    Json(#[from] JsonError),
    /// A value is of the wrong type.
    #[error("{at}: got {got}, expected {expected}")]
    Kind {
        /// Where, as a JSON pointer; empty for the sidecar itself.
        at: String,
        /// The type that it has.
        got: &'static str,
        /// The type that it should have.
        expected: &'static str,
    },
    /// An array has too many items.
    #[error("{at}: got {got} items, expected at most {max}", max = Sidecar::MAX_ITEMS)]
    TooMany {
        /// Which array, as a JSON pointer.
        at: String,
        /// Number of its items.
        got: usize,
    },
}

impl Sidecar {
    /// How much JSON is read: 32 MiB and 1,000,000 values, with the depth of an update inside options.
    pub const LIMITS: Limits = Limits {
        bytes: 32 << 20,
        depth: Limits::UPDATE.depth + 3,
        nodes: 1_000_000,
    };

    /// Most items of each of the three arrays.
    pub const MAX_ITEMS: usize = 20_000;

    /// Takes the JSON value of sidecar data apart. Members that the specification does not define are left out.
    pub fn from_value(value: Value) -> Result<Self, SidecarError> {
        let mut members = object(String::new(), value)?;
        let genesis_document = members
            .remove("genesisDocument")
            .map(|document| object("/genesisDocument".to_owned(), document).map(Value::Object))
            .transpose()?;
        Ok(Self {
            genesis_document,
            updates: objects(&mut members, "updates")?,
            cas_updates: objects(&mut members, "casUpdates")?,
            smt_proofs: objects(&mut members, "smtProofs")?,
        })
    }

    /// The JSON value, as the published vectors have it: empty members and `@context` are left out.
    pub fn to_value(&self) -> Value {
        let mut members = Map::new();
        if let Some(document) = &self.genesis_document {
            members.insert("genesisDocument".into(), document.clone());
        }
        for (name, items) in [
            ("updates", &self.updates),
            ("casUpdates", &self.cas_updates),
            ("smtProofs", &self.smt_proofs),
        ] {
            if !items.is_empty() {
                members.insert(name.into(), items.clone().into());
            }
        }
        Value::Object(members)
    }
}

fn objects(members: &mut Map<String, Value>, name: &str) -> Result<Vec<Value>, SidecarError> {
    let at = format!("/{name}");
    let items = match members.remove(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Err(SidecarError::Kind {
                at,
                got: kind(&other),
                expected: "an array",
            });
        }
    };
    if items.len() > Sidecar::MAX_ITEMS {
        return Err(SidecarError::TooMany {
            at,
            got: items.len(),
        });
    }
    let items = items.into_iter().enumerate();
    items
        .map(|(number, item)| object(format!("{at}/{number}"), item).map(Value::Object))
        .collect()
}

fn object(at: String, value: Value) -> Result<Map<String, Value>, SidecarError> {
    match value {
        Value::Object(members) => Ok(members),
        other => Err(SidecarError::Kind {
            at,
            got: kind(&other),
            expected: "an object",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_written_is_read_again() {
        let value = json!({
            "genesisDocument": { "id": "did:btcr2:_" },
            "updates": [{ "targetVersionId": 2 }, { "targetVersionId": 3 }],
            "casUpdates": [{ "did:btcr2:x": "a" }],
            "smtProofs": [{ "id": "b" }],
        });
        let sidecar = Sidecar::from_value(value.clone()).unwrap();
        assert_eq!(sidecar.to_value(), value);
        assert_eq!(Sidecar::from_value(json!({})).unwrap(), Sidecar::default());
        assert_eq!(Sidecar::default().to_value(), json!({}));
    }

    #[test]
    fn other_members_are_left_out() {
        let value = json!({ "@context": "https://btcr2.dev/context/v1", "updates": [], "x": 1 });
        assert_eq!(Sidecar::from_value(value).unwrap(), Sidecar::default());
    }

    #[test]
    fn wrong_shapes_are_refused_with_their_place() {
        for (value, problem) in [
            (json!([]), ": got an array, expected an object"),
            (
                json!({ "genesisDocument": null }),
                "/genesisDocument: got null, expected an object",
            ),
            (
                json!({ "updates": {} }),
                "/updates: got an object, expected an array",
            ),
            (
                json!({ "casUpdates": [{}, "x"] }),
                "/casUpdates/1: got a string, expected an object",
            ),
            (
                json!({ "smtProofs": [true] }),
                "/smtProofs/0: got a boolean, expected an object",
            ),
            (
                json!({ "smtProofs": vec![json!({}); 20_001] }),
                "/smtProofs: got 20001 items, expected at most 20000",
            ),
        ] {
            assert_eq!(Sidecar::from_value(value).unwrap_err().to_string(), problem);
        }
    }
}
