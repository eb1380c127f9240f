//! The create and update cases of the published test suite.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use std::path::{Path, PathBuf};

use beacon_btcr2::json::{self, Hash32, Limits};
use beacon_btcr2::{
    Did, Document, ErrorCode, GenesisBytes, Network, Patch, SignedUpdate, UnsignedUpdate, initial,
    proof,
};
use bitcoin::secp256k1::{Keypair, PublicKey, Secp256k1};
use serde_json::Value;

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/did-btcr2-test-suite")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    json::parse(&text, &Limits::ANNOUNCEMENT.deeper(64)).unwrap()
}

/// The path of each set inside the suite, with its entry in the index.
fn sets() -> Vec<(PathBuf, Value)> {
    let index = read(&suite().join("index.json"));
    let sets = index["sets"].as_object().unwrap();
    sets.iter()
        .map(|(path, about)| (suite().join(path), about.clone()))
        .collect()
}

/// All files of the suite with this name below a folder of this name.
fn files(operation: &str, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (set, about) in sets() {
        for file in about["files"].as_array().unwrap() {
            let file = file.as_str().unwrap();
            if file.starts_with(&format!("{operation}/")) && file.ends_with(&format!("/{name}")) {
                found.push(set.join(file));
            }
        }
    }
    found
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap()
}

#[test]
fn every_did_of_the_suite_is_created_and_read_back() {
    let inputs = files("create", "input.json");
    assert_eq!(inputs.len(), 15, "one case for each set");
    for path in inputs {
        let input = read(&path);
        assert_eq!(input["version"], 1);
        let bytes = text(&input, "genesisBytes");
        let genesis = match text(&input, "idType") {
            "KEY" => GenesisBytes::Key(bytes.parse::<PublicKey>().unwrap()),
            "EXTERNAL" => GenesisBytes::Document(Hash32::from_hex(bytes).unwrap()),
            other => panic!("{other}"),
        };
        let network: Network = text(&input, "network").parse().unwrap();
        let did = Did::new(network, genesis);
        let output = read(&path.with_file_name("output.json"));
        assert_eq!(did.as_str(), text(&output, "did"));

        let parsed: Did = text(&output, "did").parse().unwrap();
        assert_eq!(parsed, did);
        assert_eq!((parsed.network(), *parsed.genesis()), (network, genesis));
    }
}

#[test]
fn the_first_document_of_every_did_is_the_one_that_updates_start_from() {
    let (mut keys, mut documents) = (0, 0);
    for (set, about) in sets() {
        let did: Did = text(&about, "did").parse().unwrap();
        let document = if let Some(document) = initial::from_key(&did).unwrap() {
            keys += 1;
            document
        } else {
            documents += 1;
            let genesis = read(&set.join("other.json"))["genesisDocument"].clone();
            let (created, document) =
                initial::create_from_genesis(did.network(), &genesis).unwrap();
            assert_eq!(created, did);
            assert_eq!(initial::from_genesis(&did, &genesis).unwrap(), document);
            document
        };
        for input in files("update", "input.json") {
            let input = read(&input);
            if input["sourceVersionId"] == 1 && input["sourceDocument"]["id"] == did.as_str() {
                assert_eq!(document.value(), &input["sourceDocument"]);
            }
        }
        let output = set.join("resolve/output.json");
        if about["expect"]["versionId"] == "1" {
            assert_eq!(document.value(), &read(&output)["didDocument"], "{did}");
        }
    }
    assert_eq!((keys, documents), (7, 8));
}

/// What a valid update makes of its source; the error's code otherwise.
fn apply(update: &SignedUpdate, source: &Value) -> Result<Document, ErrorCode> {
    let did: Did = text(source, "id").parse().unwrap();
    let source = Document::new(&did, source.clone()).unwrap();
    update.apply(&source).map_err(|error| error.code)
}

#[test]
fn every_update_of_the_suite_is_applied_and_made_again() {
    let inputs = files("update", "input.json");
    assert_eq!(inputs.len(), 16);
    let (mut applied, mut refused) = (0, 0);
    for path in inputs {
        let input = read(&path);
        let published = read(&path.with_file_name("output.json"))["signedUpdate"].clone();
        let update = SignedUpdate::from_value(published.clone()).unwrap();
        assert_eq!(
            update.target_version(),
            input["sourceVersionId"].as_u64().unwrap() + 1
        );
        let target = match apply(&update, &input["sourceDocument"]) {
            Ok(target) => target,
            Err(code) => {
                assert_eq!(code, ErrorCode::InvalidDidUpdate, "{}", path.display());
                refused += 1;
                continue;
            }
        };
        applied += 1;

        make_again(&input, &update, &target);
    }
    // The two negative cases whose update itself is wrong; the others are wrong in their sidecar or on the chain.
    assert_eq!((applied, refused), (14, 2));
}

/// The same update, made with the same key, differs in its signature only, and verifies.
fn make_again(input: &Value, update: &SignedUpdate, target: &Document) {
    let did: Did = text(&input["sourceDocument"], "id").parse().unwrap();
    let source = Document::new(&did, input["sourceDocument"].clone()).unwrap();
    let patch = Patch::from_value(input["patches"].clone()).unwrap();
    let (unsigned, made) =
        UnsignedUpdate::construct(&source, &patch, update.target_version()).unwrap();
    assert_eq!(made, *target);
    assert_eq!(unsigned, *update.unsigned());

    let key = Keypair::from_seckey_str(&Secp256k1::new(), text(input, "signingMaterial")).unwrap();
    let method = text(input, "verificationMethodId");
    assert_eq!(source.update_method_of(&key.public_key()).unwrap(), method);
    let signed = unsigned.sign(&source, method, |message| {
        proof::sign(&key, &[7; 32], message)
    });
    let signed = signed.unwrap();
    assert_eq!(signed.apply(&source).unwrap(), *target);
    let without_value = |update: &SignedUpdate| {
        let mut value = update.value().clone();
        value["proof"].as_object_mut().unwrap().remove("proofValue");
        value
    };
    assert_eq!(without_value(&signed), without_value(update));
}

fn more(set: &str, file: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/more/regtest");
    read(&folder.join(set).join("update").join(file))
}

#[test]
fn relative_ids_and_embedded_keys_sign_updates() {
    for set in ["x1/qtk24dpv", "x1/qtrhj3w0"] {
        let input = more(set, "input.json");
        let update = more(set, "output.json")["signedUpdate"].clone();
        let update = SignedUpdate::from_value(update).unwrap();
        let target = apply(&update, &input["sourceDocument"]).unwrap();
        make_again(&input, &update, &target);
    }
}

#[test]
fn updates_of_later_sets_are_refused_where_they_are_wrong() {
    // The folder is the beginning of the DID's own part; the update names the rest.
    for (set, place) in [
        ("qgp040ju", "at /@context of the update"),
        ("qgpw65qy", "at /proof/capability,"),
        (
            "qgp5wcmx",
            "#unknown\", expected one of /capabilityInvocation",
        ),
        ("qgpl0zen", "got \"did:btcr2:k1qexample\" at /id,"),
        (
            "qgpq3zd0",
            "got \"JsonWebKey2020\" at /verificationMethod/0/type,",
        ),
    ] {
        let update = more(&format!("k1/{set}"), "output.json")["signedUpdate"].clone();
        let method = text(&update["proof"], "verificationMethod");
        let (did, _) = method.split_once('#').unwrap();
        assert!(did.starts_with(&format!("did:btcr2:k1{set}")));
        let source = initial::from_key(&did.parse().unwrap()).unwrap().unwrap();
        assert_eq!(update["sourceHash"], source.hash().to_string());
        let applied = SignedUpdate::from_value(update).and_then(|update| update.apply(&source));
        let error = applied.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidDidUpdate);
        assert!(error.to_string().contains(place), "{set}: {error}");
    }
}
