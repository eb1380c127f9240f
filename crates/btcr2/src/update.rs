//! Updates: construct, sign, read and apply ("BTCR2 Unsigned Update", "BTCR2 Signed Update", "Apply update").

use bitcoin::secp256k1::schnorr::Signature;
use serde_json::{Map, Value, json};

use crate::document::Document;
use crate::error::{Error, ErrorCode, Problem};
use crate::identifier::Did;
use crate::json::{self, Hash32};
use crate::patch::Patch;
use crate::proof::{self, CRYPTOSUITE, PROOF_TYPE, ProofError};

/// The contexts of an update and of its proof: these, in this order, and no others.
pub const CONTEXTS: [&str; 4] = [
    "https://w3id.org/json-ld-patch/v1",
    "https://w3id.org/zcap/v1",
    "https://w3id.org/security/data-integrity/v2",
    "https://btcr2.dev/context/v1",
];
/// Version of a DID's first document.
pub const FIRST_VERSION: u64 = 1;
/// Largest version: whole numbers above are not exact in JSON.
pub const MAX_VERSION: u64 = 1 << 53;

/// Why an update is malformed or does not fit the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// A member is not what it must be.
    #[error("got {got} at {at} of the update, expected {expected}")]
    Member {
        /// JSON pointer into the update.
        at: &'static str,
        /// What is there, shortened.
        got: String,
        /// What should be there.
        expected: String,
    },
    /// The update was made for another document.
    #[error(
        "got the source hash {got} at /sourceHash of the update, expected {expected} (the document's hash)"
    )]
    Source {
        /// The update's.
        got: Hash32,
        /// The document's.
        expected: Hash32,
    },
    /// The patch makes another document than the update says.
    #[error(
        "the patched document has the hash {got}, expected {expected} (/targetHash of the update)"
    )]
    Target {
        /// That of the patched document.
        got: Hash32,
        /// The update's.
        expected: Hash32,
    },
    /// The DID is deactivated.
    #[error("the DID {did} is deactivated, expected one that can be updated")]
    Deactivated {
        /// The DID.
        did: String,
    },
    /// A version that an update cannot have.
    #[error("got the target version {got}, expected {min} to {max}", min = FIRST_VERSION + 1, max = MAX_VERSION)]
    Version {
        /// The version.
        got: u64,
    },
}

/// An update without proof.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsignedUpdate {
    value: Map<String, Value>,
    patch: Patch,
    source_hash: Hash32,
    target_hash: Hash32,
    target_version: u64,
}

impl UnsignedUpdate {
    /// Makes the update that applies `patch` to `source`, and the document that comes of it.
    ///
    /// `target_version` is one more than the version of `source`. The target must conform, and the patch must not leave a
    /// reference to a verification method that is not there.
    pub fn construct(
        source: &Document,
        patch: &Patch,
        target_version: u64,
    ) -> Result<(Self, Document), Error> {
        if source.is_deactivated() {
            let did = source.did().to_string();
            return Err(invalid(UpdateError::Deactivated { did }));
        }
        if !(FIRST_VERSION + 1..=MAX_VERSION).contains(&target_version) {
            return Err(invalid(UpdateError::Version {
                got: target_version,
            }));
        }
        let target = patched(source, patch)?;
        if source.dangling_reference().is_none()
            && let Some(dangling) = target.dangling_reference()
        {
            return Err(invalid(dangling));
        }
        let value = json!({
            "@context": CONTEXTS,
            "patch": patch.value(),
            "sourceHash": source.hash(),
            "targetHash": target.hash(),
            "targetVersionId": target_version,
        });
        Ok((Self::from_value(value)?, target))
    }

    /// The update that deactivates a DID for ever ("Deactivate").
    pub fn deactivate(source: &Document, target_version: u64) -> Result<(Self, Document), Error> {
        let patch = json!([{ "op": "add", "path": "/deactivated", "value": true }]);
        let patch = Patch::from_value(patch).map_err(invalid)?;
        Self::construct(source, &patch, target_version)
    }

    /// Reads an update; its members that the specification does not define are kept, signed and otherwise ignored.
    pub fn from_value(value: Value) -> Result<Self, Error> {
        let value = match value {
            Value::Object(value) => value,
            other => return Err(member("the root", Some(&other), "an object")),
        };
        if value.get("@context") != Some(&json!(CONTEXTS)) {
            let expected = format!("{} in this order", json!(CONTEXTS));
            return Err(member("/@context", value.get("@context"), expected));
        }
        let patch = value.get("patch").cloned().unwrap_or_default();
        let target_version = value.get("targetVersionId");
        let version = target_version
            .and_then(Value::as_u64)
            .filter(|version| (FIRST_VERSION..=MAX_VERSION).contains(version));
        Ok(Self {
            patch: Patch::from_value(patch).map_err(invalid)?,
            source_hash: hash(&value, "sourceHash", "/sourceHash")?,
            target_hash: hash(&value, "targetHash", "/targetHash")?,
            target_version: version.ok_or_else(|| {
                member("/targetVersionId", target_version, "a whole number from 1")
            })?,
            value,
        })
    }

    /// Signs the update with a verification method of the source document.
    ///
    /// `sign` gets the 32 bytes to sign and answers with a BIP340 signature ([`proof::sign`] for a key in memory). The
    /// result is verified as a resolver would, so that a wrong key shows before anything is announced.
    pub fn sign(
        &self,
        source: &Document,
        method: &str,
        sign: impl FnOnce(&[u8; 32]) -> Signature,
    ) -> Result<SignedUpdate, Error> {
        source.update_key(method).map_err(invalid)?;
        let options = json!({
            "@context": CONTEXTS,
            "type": PROOF_TYPE,
            "cryptosuite": CRYPTOSUITE,
            "verificationMethod": source.did().absolute(method),
            "proofPurpose": "capabilityInvocation",
            "capability": capability(source.did()),
            "capabilityAction": "Write",
        });
        let Value::Object(options) = options else {
            return Err(member("/proof", Some(&options), "an object"));
        };
        let unsigned = Value::Object(self.value.clone());
        let proof = proof::create(&unsigned, options, sign);
        let mut value = self.value.clone();
        value.insert("proof".into(), Value::Object(proof));
        let signed = SignedUpdate::from_value(Value::Object(value))?;
        signed.apply(source)?;
        Ok(signed)
    }

    /// The update as JSON.
    pub fn value(&self) -> Value {
        Value::Object(self.value.clone())
    }

    /// SHA-256 of the canonical form: equal for two signatures of one update.
    pub fn hash(&self) -> Hash32 {
        json::hash(&self.value())
    }

    /// The patch.
    pub fn patch(&self) -> &Patch {
        &self.patch
    }

    /// Hash of the document that the patch is for.
    pub fn source_hash(&self) -> Hash32 {
        self.source_hash
    }

    /// Hash of the document that the patch makes.
    pub fn target_hash(&self) -> Hash32 {
        self.target_hash
    }

    /// Version of the document that the patch makes.
    pub fn target_version(&self) -> u64 {
        self.target_version
    }
}

/// An update with its proof, well-formed; whether it is valid, [`Self::apply`] tells.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedUpdate {
    value: Value,
    unsigned: UnsignedUpdate,
    id: Hash32,
}

impl SignedUpdate {
    /// Reads a signed update; the error's code is `INVALID_DID_UPDATE`.
    pub fn from_value(value: Value) -> Result<Self, Error> {
        let mut unsigned = value.clone();
        let proof = unsigned
            .as_object_mut()
            .and_then(|members| members.remove("proof"));
        if !matches!(proof, Some(Value::Object(_))) {
            return Err(member("/proof", proof.as_ref(), "a Data Integrity proof"));
        }
        Ok(Self {
            unsigned: UnsignedUpdate::from_value(unsigned)?,
            id: json::hash(&value),
            value,
        })
    }

    /// The update as JSON, for the sidecar or a CAS.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// What beacons announce: SHA-256 of the canonical form with the proof.
    pub fn id(&self) -> Hash32 {
        self.id
    }

    /// The update without its proof.
    pub fn unsigned(&self) -> &UnsignedUpdate {
        &self.unsigned
    }

    /// Version of the document that the update makes.
    pub fn target_version(&self) -> u64 {
        self.unsigned.target_version
    }

    /// The document that the update makes of `current`, once every check of "Apply update" holds.
    ///
    /// The version is for the caller to check, who knows that of `current`. All errors are `INVALID_DID_UPDATE`.
    pub fn apply(&self, current: &Document) -> Result<Document, Error> {
        let (got, expected) = (self.unsigned.source_hash, current.hash());
        if got != expected {
            return Err(invalid(UpdateError::Source { got, expected }));
        }
        self.check_proof(current)?;
        let target = patched(current, &self.unsigned.patch)?;
        let (got, expected) = (target.hash(), self.unsigned.target_hash);
        if got != expected {
            return Err(invalid(UpdateError::Target { got, expected }));
        }
        Ok(target)
    }

    /// The proof must invoke the capability to write this DID, with a key that the document gives it.
    fn check_proof(&self, current: &Document) -> Result<(), Error> {
        let proof = self.value.get("proof").and_then(Value::as_object);
        let proof = proof.ok_or_else(|| member("/proof", None, "a Data Integrity proof"))?;
        let expect = |name, expected: &str| proof::expect(proof, name, expected).map_err(invalid);
        if proof.get("@context") != self.value.get("@context") {
            let expected = "the same texts in the same order as at /@context";
            return Err(member("/proof/@context", proof.get("@context"), expected));
        }
        expect("proofPurpose", "capabilityInvocation")?;
        expect("capability", &capability(current.did()))?;
        expect("capabilityAction", "Write")?;
        if proof.contains_key("invocationTarget") {
            expect("invocationTarget", current.did().as_str())?;
        }
        let method = proof.get("verificationMethod").and_then(Value::as_str);
        let method = method.ok_or_else(|| {
            invalid(ProofError::Member {
                member: "verificationMethod",
                got: "nothing".into(),
                expected: "the id of a verification method".into(),
            })
        })?;
        let key = current.update_key(method).map_err(invalid)?;
        let key = proof::parse_multikey(key).map_err(invalid)?;
        proof::verify(&self.value, &key).map_err(invalid)
    }
}

/// The capability to update a DID's document: the root capability's id.
fn capability(did: &Did) -> String {
    // `encodeURIComponent` escapes nothing in a DID of this method but its colons.
    format!("urn:zcap:root:{}", did.as_str().replace(':', "%3A"))
}

fn patched(source: &Document, patch: &Patch) -> Result<Document, Error> {
    let target = patch.apply(source.value()).map_err(invalid)?;
    Document::new(source.did(), target).map_err(invalid)
}

fn hash(value: &Map<String, Value>, name: &str, at: &'static str) -> Result<Hash32, Error> {
    let got = value.get(name);
    let hash = got
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok());
    hash.ok_or_else(|| member(at, got, "32 bytes in base64url without padding"))
}

fn member(at: &'static str, got: Option<&Value>, expected: impl Into<String>) -> Error {
    invalid(UpdateError::Member {
        at,
        got: got.map_or_else(|| "nothing".into(), json::shorten),
        expected: expected.into(),
    })
}

fn invalid(problem: impl Into<Problem>) -> Error {
    Error::new(ErrorCode::InvalidDidUpdate, problem)
}
