//! Data Integrity proofs of the cryptosuite `bip340-jcs-2025`, and keys as `Multikey`.

use std::sync::LazyLock;

use bitcoin::secp256k1::schnorr::Signature;
use bitcoin::secp256k1::{All, Keypair, Message, PublicKey, Secp256k1, SecretKey};
use multibase::Base;
use serde_json::{Map, Value};

use crate::json::{self, sha256};
use crate::time::Timestamp;

/// Name of the cryptosuite.
pub const CRYPTOSUITE: &str = "bip340-jcs-2025";
/// Type of the proof.
pub const PROOF_TYPE: &str = "DataIntegrityProof";
/// Multicodec of a compressed secp256k1 public key.
const PUBLIC_KEY: [u8; 2] = [0xe7, 0x01];
/// Multicodec of a secp256k1 secret key.
const SECRET_KEY: [u8; 2] = [0x81, 0x26];
/// No base58btc text of a key or a signature is longer.
const MAX_MULTIBASE_CHARS: usize = 100;

/// The curve's precomputed tables, made once.
pub(crate) static SECP256K1: LazyLock<Secp256k1<All>> = LazyLock::new(Secp256k1::new);

/// Why a proof does not verify or a key cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The document has no proof, or something else in its place.
    #[error("got {got} at /proof, expected one Data Integrity proof")]
    NoProof {
        /// What is there.
        got: &'static str,
    },
    /// A member of the proof has another value than it must have.
    #[error("got {got} at /proof/{member}, expected {expected}")]
    Member {
        /// The member.
        member: &'static str,
        /// What it holds, shortened.
        got: String,
        /// What it must hold.
        expected: String,
    },
    /// The signature does not fit the key and the document.
    #[error("the signature at /proof/proofValue does not verify with the key {key}")]
    Signature {
        /// The key as Multikey.
        key: String,
    },
    /// A text is not a Multikey of the expected type.
    #[error("got a key that is not {expected}, in base58btc multibase")]
    Multikey {
        /// The type, with its multicodec.
        expected: &'static str,
    },
}

/// The `publicKeyMultibase` of a key.
pub fn multikey(key: &PublicKey) -> String {
    let bytes: Vec<u8> = PUBLIC_KEY.into_iter().chain(key.serialize()).collect();
    multibase::encode(Base::Base58Btc, bytes)
}

/// Reads a `publicKeyMultibase`, which has one form.
pub fn parse_multikey(text: &str) -> Result<PublicKey, ProofError> {
    base58(text)
        .and_then(|bytes| PublicKey::from_slice(bytes.strip_prefix(&PUBLIC_KEY)?).ok())
        .filter(|key| multikey(key) == text)
        .ok_or(ProofError::Multikey {
            expected: "a compressed secp256k1 public key (0xe701)",
        })
}

/// Reads a `secretKeyMultibase`.
pub fn parse_secret_multikey(text: &str) -> Result<SecretKey, ProofError> {
    base58(text)
        .and_then(|bytes| SecretKey::from_slice(bytes.strip_prefix(&SECRET_KEY)?).ok())
        .ok_or(ProofError::Multikey {
            expected: "a secp256k1 secret key (0x8126)",
        })
}

fn base58(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_MULTIBASE_CHARS {
        return None;
    }
    match multibase::decode(text) {
        Ok((Base::Base58Btc, bytes)) => Some(bytes),
        _ => None,
    }
}

/// The 32 bytes that are signed: SHA-256 of the hash of the proof's options and the hash of the document without proof.
///
/// `options` is the proof without its `proofValue`.
pub fn message(unsecured: &Value, options: &Map<String, Value>) -> [u8; 32] {
    let options = json::hash(&Value::Object(options.clone()));
    let document = json::hash(unsecured);
    sha256(&[options.0, document.0].concat()).0
}

/// Signs a message with BIP340, for [`create`]. `aux` is 32 bytes of fresh randomness.
pub fn sign(key: &Keypair, aux: &[u8; 32], message: &[u8; 32]) -> Signature {
    SECP256K1.sign_schnorr_with_aux_rand(&Message::from_digest(*message), key, aux)
}

/// Makes the proof of a document: its options and the value that `sign` gives for the [`message`].
pub fn create(
    unsecured: &Value,
    mut options: Map<String, Value>,
    sign: impl FnOnce(&[u8; 32]) -> Signature,
) -> Map<String, Value> {
    let signature = sign(&message(unsecured, &options));
    let value = multibase::encode(Base::Base58Btc, signature.serialize());
    options.insert("proofValue".into(), value.into());
    options
}

/// Verifies the proof of a document with a key. What the proof is for, is for the caller to check.
pub fn verify(secured: &Value, key: &PublicKey) -> Result<(), ProofError> {
    let nothing = || ProofError::NoProof { got: "nothing" };
    let mut unsecured = secured.as_object().ok_or_else(nothing)?.clone();
    let mut options = match unsecured.remove("proof").ok_or_else(nothing)? {
        Value::Object(proof) => proof,
        other => {
            return Err(ProofError::NoProof {
                got: json::kind(&other),
            });
        }
    };
    expect(&options, "type", PROOF_TYPE)?;
    expect(&options, "cryptosuite", CRYPTOSUITE)?;
    if let Some(created) = options.get("created")
        && Timestamp::parse(created.as_str().unwrap_or_default()).is_err()
    {
        return Err(ProofError::Member {
            member: "created",
            got: json::shorten(created),
            expected: "a date and time such as 2026-01-31T23:59:59Z".into(),
        });
    }
    let value = options.remove("proofValue").unwrap_or_default();
    let signature = value.as_str().and_then(parse_signature);
    let signature = signature.ok_or_else(|| ProofError::Member {
        member: "proofValue",
        got: json::shorten(&value),
        expected: "64 bytes in base58btc multibase".into(),
    })?;
    if let Some(context) = options.get("@context") {
        if !starts_with(unsecured.get("@context"), context) {
            return Err(ProofError::Member {
                member: "@context",
                got: json::shorten(context),
                expected: "the values that the document's @context starts with".into(),
            });
        }
        unsecured.insert("@context".into(), context.clone());
    }
    let message = Message::from_digest(message(&Value::Object(unsecured), &options));
    let (x_only, _) = key.x_only_public_key();
    SECP256K1
        .verify_schnorr(&signature, &message, &x_only)
        .map_err(|_| ProofError::Signature { key: multikey(key) })
}

/// Whether a context holds the values of another at its start, in the same order.
fn starts_with(document: Option<&Value>, proof: &Value) -> bool {
    fn values(context: &Value) -> &[Value] {
        context
            .as_array()
            .map_or(std::slice::from_ref(context), Vec::as_slice)
    }
    document.is_some_and(|document| values(document).starts_with(values(proof)))
}

/// One text form only, so that nobody but the signer can make another update id of an update.
fn parse_signature(text: &str) -> Option<Signature> {
    let bytes = base58(text)?;
    let signature = Signature::from_slice(&bytes).ok()?;
    (multibase::encode(Base::Base58Btc, bytes) == text).then_some(signature)
}

/// A member of a proof must be this text.
pub(crate) fn expect(
    proof: &Map<String, Value>,
    member: &'static str,
    expected: &str,
) -> Result<(), ProofError> {
    let got = proof.get(member);
    if got.and_then(Value::as_str) == Some(expected) {
        return Ok(());
    }
    Err(ProofError::Member {
        member,
        got: got.map_or_else(|| "nothing".into(), json::shorten),
        expected: format!("{expected:?}"),
    })
}
