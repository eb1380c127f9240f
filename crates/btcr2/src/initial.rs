//! The first version of a DID's document: made from the key, or from the genesis document.

use bitcoin::secp256k1::PublicKey;
use bitcoin::{Address, CompressedPublicKey, Network as BitcoinNetwork};
use serde_json::{Value, json};

use crate::beacon::{Beacon, BeaconType};
use crate::document::{BTCR2_CONTEXT, DID_CONTEXT, Document};
use crate::error::{Error, ErrorCode};
use crate::identifier::{Did, DidError, GenesisBytes, Network};
use crate::json;
use crate::proof::{SECP256K1, multikey};

/// What stands for the DID in a genesis document.
pub const PLACEHOLDER: &str = "did:btcr2:_";

/// The document of a DID that is made from a key; `None` for a DID that is made from a genesis document.
pub fn from_key(did: &Did) -> Result<Option<Document>, Error> {
    match did.genesis() {
        GenesisBytes::Key(key) => of_key(did, key).map(Some),
        GenesisBytes::Document(_) => Ok(None),
    }
}

/// The document of a DID that is made from this key.
pub(crate) fn of_key(did: &Did, key: &PublicKey) -> Result<Document, Error> {
    Document::new(did, key_document(did, key)).map_err(Error::of(ErrorCode::InvalidDidDocument))
}

/// The template of the specification: one key for everything, and a singleton beacon for each kind of address.
fn key_document(did: &Did, key: &PublicKey) -> Value {
    let id = did.as_str();
    let key_id = did.absolute("#initialKey");
    let services = initial_beacons(did, key).map(|beacon| beacon.service());
    json!({
        "@context": [DID_CONTEXT, BTCR2_CONTEXT],
        "id": id,
        "verificationMethod": [{
            "id": key_id,
            "type": "Multikey",
            "controller": id,
            "publicKeyMultibase": multikey(key),
        }],
        "authentication": [key_id],
        "assertionMethod": [key_id],
        "capabilityInvocation": [key_id],
        "capabilityDelegation": [key_id],
        "service": services,
    })
}

fn initial_beacons(did: &Did, key: &PublicKey) -> [Beacon; 3] {
    let network = BitcoinNetwork::from(did.network());
    let key = CompressedPublicKey(*key);
    let (internal, _) = key.0.x_only_public_key();
    [
        ("#initialP2PKH", Address::p2pkh(key.pubkey_hash(), network)),
        ("#initialP2WPKH", Address::p2wpkh(&key, network)),
        (
            "#initialP2TR",
            Address::p2tr(&SECP256K1, internal, None, network),
        ),
    ]
    .map(|(id, address)| Beacon {
        id: did.absolute(id),
        kind: BeaconType::Singleton,
        address,
    })
}

/// The DID of a genesis document, and its first document, which must conform.
pub fn create_from_genesis(network: Network, genesis: &Value) -> Result<(Did, Document), Error> {
    let did = Did::new(network, GenesisBytes::Document(json::hash(genesis)));
    let document = fill(&did, genesis)?;
    Ok((did, document))
}

/// The first document of a DID that is made from this genesis document.
pub fn from_genesis(did: &Did, genesis: &Value) -> Result<Document, Error> {
    let got = json::hash(genesis);
    if *did.genesis() != GenesisBytes::Document(got) {
        let problem = DidError::Genesis {
            did: did.to_string(),
            got,
        };
        return Err(Error::new(ErrorCode::InvalidDid, problem));
    }
    fill(did, genesis)
}

/// Puts the DID in the place of the placeholder and checks the result.
fn fill(did: &Did, genesis: &Value) -> Result<Document, Error> {
    let coded = Error::of(ErrorCode::InvalidDidDocument);
    Document::new(did, replace(genesis, did.as_str())).map_err(coded)
}

/// Replaces the placeholder in all texts: member names too, as a replacement in the JSON text would.
fn replace(value: &Value, did: &str) -> Value {
    match value {
        Value::String(text) => text.replace(PLACEHOLDER, did).into(),
        Value::Array(items) => items.iter().map(|item| replace(item, did)).collect(),
        Value::Object(members) => {
            let members = members.iter();
            let members =
                members.map(|(key, value)| (key.replace(PLACEHOLDER, did), replace(value, did)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}
