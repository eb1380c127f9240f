//! Proofs of `bip340-jcs-2025` against the published vector, and keys as `Multikey`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use std::path::Path;

use beacon_btcr2::json::{self, Limits};
use beacon_btcr2::proof::{self, ProofError};
use bitcoin::secp256k1::{Keypair, PublicKey, Secp256k1};
use serde_json::{Map, Value, json};

fn vector(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/bip340-jcs");
    json::parse(
        &std::fs::read(folder.join(name)).unwrap(),
        &Limits::DOCUMENT,
    )
    .unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other}"),
    }
}

/// The key pair of the vector.
fn keys() -> (Keypair, PublicKey) {
    let texts = vector("keyPair.json");
    let secret = proof::parse_secret_multikey(texts["privateKeyMultibase"].as_str().unwrap());
    let public = proof::parse_multikey(texts["publicKeyMultibase"].as_str().unwrap());
    (
        Keypair::from_secret_key(&Secp256k1::new(), &secret.unwrap()),
        public.unwrap(),
    )
}

#[test]
fn the_published_proof_is_made_again_byte_for_byte() {
    let (pair, public) = keys();
    assert_eq!(pair.public_key(), public);
    assert_eq!(
        json!(proof::multikey(&public)),
        vector("keyPair.json")["publicKeyMultibase"]
    );

    let steps = vector("intermediate.json");
    let (unsecured, options) = (vector("unsigned.json"), vector("proofConfigJCS.json"));
    assert_eq!(json!(json::canonical(&unsecured)), steps["canonDoc"]);
    assert_eq!(json!(json::hash(&unsecured).to_hex()), steps["docHash"]);
    assert_eq!(json!(json::canonical(&options)), steps["proofCanon"]);
    assert_eq!(json!(json::hash(&options).to_hex()), steps["proofHash"]);
    let message = proof::message(&unsecured, &object(options.clone()));
    assert_eq!(json!(hex::encode(message)), steps["finalHash"]);

    let mut aux = [0; 32];
    hex::decode_to_slice(steps["randomAuxHex"].as_str().unwrap(), &mut aux).unwrap();
    let made = proof::create(&unsecured, object(options), |message| {
        let signature = proof::sign(&pair, &aux, message);
        assert_eq!(json!(hex::encode(signature.serialize())), steps["sigHex"]);
        signature
    });
    assert_eq!(made["proofValue"], steps["sigBTC58"]);
    let mut secured = unsecured;
    secured["proof"] = made.into();
    assert_eq!(secured, vector("signedJCS.json"));
    proof::verify(&secured, &public).unwrap();
}

#[test]
fn every_change_of_the_document_or_the_proof_is_noticed() {
    let (_, public) = keys();
    let signed = vector("signedJCS.json");
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut changed = signed.clone();
        change(&mut changed);
        assert_ne!(changed, signed);
        proof::verify(&changed, &public).unwrap_err()
    };
    let signature = ProofError::Signature {
        key: proof::multikey(&public),
    };
    assert_eq!(
        refused(&|v| v["name"] = json!("Alumni credential")),
        signature
    );
    assert_eq!(refused(&|v| v["added"] = json!(null)), signature);
    assert_eq!(
        refused(&|v| drop(v.as_object_mut().unwrap().remove("id"))),
        signature
    );
    assert_eq!(
        refused(&|v| v["proof"]["created"] = json!("2023-02-24T23:36:39Z")),
        signature
    );
    assert_eq!(
        refused(&|v| v["proof"]["proofPurpose"] = json!("capabilityInvocation")),
        signature
    );
    assert_eq!(
        refused(&|v| v["proof"]["expires"] = json!("2033-02-24T23:36:39Z")),
        signature
    );

    for (name, value) in [
        ("type", json!("DataIntegrityproof")),
        ("type", json!(["DataIntegrityProof"])),
        ("cryptosuite", json!("bip340-rdfc-2025")),
        ("cryptosuite", json!(null)),
        ("created", json!("2023-02-24")),
        ("created", json!(1)),
        ("proofValue", json!("")),
        ("proofValue", json!(7)),
        ("proofValue", json!("z")),
    ] {
        match refused(&|v| v["proof"][name] = value.clone()) {
            ProofError::Member { member, .. } => assert_eq!(member, name),
            other => panic!("{name}: {other}"),
        }
    }
    for (proof, got) in [
        (json!(null), "null"),
        (json!([signed["proof"]]), "an array"),
        (json!("proof"), "a string"),
    ] {
        assert_eq!(
            refused(&|v| v["proof"] = proof.clone()),
            ProofError::NoProof { got }
        );
    }
    let nothing = ProofError::NoProof { got: "nothing" };
    assert_eq!(
        refused(&|v| drop(v.as_object_mut().unwrap().remove("proof"))),
        nothing
    );
    assert_eq!(proof::verify(&json!([]), &public), Err(nothing));
}

#[test]
fn a_proof_value_has_one_text_form() {
    let (_, public) = keys();
    let signed = vector("signedJCS.json");
    let value = signed["proof"]["proofValue"].as_str().unwrap();
    let (_, bytes) = multibase::decode(value).unwrap();
    let mut longer = bytes.clone();
    longer.push(0);
    for other in [
        multibase::encode(multibase::Base::Base64Url, &bytes),
        multibase::encode(multibase::Base::Base58Btc, &bytes[1..]),
        multibase::encode(multibase::Base::Base58Btc, &longer),
        value[1..].to_owned(),
        format!(" {value}"),
        format!("{value} "),
        format!("z1{}", &value[1..]),
        "z".repeat(100_000),
    ] {
        let mut changed = signed.clone();
        changed["proof"]["proofValue"] = json!(other);
        let refused = proof::verify(&changed, &public).unwrap_err();
        assert!(
            matches!(
                refused,
                ProofError::Member {
                    member: "proofValue",
                    ..
                }
            ),
            "{refused}"
        );
    }
    // The other sign of the point, and a signature by another key.
    for at in [0, 63] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let mut changed = signed.clone();
        changed["proof"]["proofValue"] =
            json!(multibase::encode(multibase::Base::Base58Btc, bytes));
        assert!(matches!(
            proof::verify(&changed, &public),
            Err(ProofError::Signature { .. })
        ));
    }
}

#[test]
fn the_context_of_a_proof_must_be_where_the_document_starts() {
    let (pair, public) = keys();
    let secured = |document: Value, context: Value| {
        let options = json!({
            "@context": context, "type": "DataIntegrityProof", "cryptosuite": "bip340-jcs-2025",
        });
        // Signed is the document with the proof's context, as the cryptosuite verifies it.
        let mut signed = json!({ "@context": context, "id": 1 });
        let made = proof::create(&signed, object(options), |m| {
            proof::sign(&pair, &[1; 32], m)
        });
        signed["@context"] = document;
        signed["proof"] = made.into();
        proof::verify(&signed, &public)
    };
    secured(json!(["a", "b"]), json!(["a", "b"])).unwrap();
    secured(json!(["a", "b", "c"]), json!(["a", "b"])).unwrap();
    secured(json!(["a", "b"]), json!("a")).unwrap();
    secured(json!("a"), json!(["a"])).unwrap();
    for (document, context) in [
        (json!(["b", "a"]), json!(["a", "b"])),
        (json!(["a"]), json!(["a", "b"])),
        (json!([]), json!("a")),
        (json!(null), json!("a")),
    ] {
        let refused = secured(document, context).unwrap_err();
        assert!(
            matches!(
                refused,
                ProofError::Member {
                    member: "@context",
                    ..
                }
            ),
            "{refused}"
        );
    }
}

#[test]
fn only_compressed_secp256k1_keys_are_multikeys_here() {
    let (_, public) = keys();
    let text = proof::multikey(&public);
    assert!(text.starts_with("zQ3s"), "{text}");
    let encode = |prefix: [u8; 2], bytes: &[u8]| {
        multibase::encode(multibase::Base::Base58Btc, [&prefix[..], bytes].concat())
    };
    for other in [
        String::new(),
        text[1..].to_owned(),
        format!("{text} "),
        format!("z1{}", &text[1..]),
        encode([0xe7, 0x01], &public.serialize_uncompressed()),
        encode([0xe7, 0x01], &public.serialize()[1..]),
        encode([0xed, 0x01], &public.serialize()),
        encode([0xe7, 0x01], &[&[2], &[5; 32][..]].concat()),
        multibase::encode(
            multibase::Base::Base64Url,
            [&[0xe7, 0x01], &public.serialize()[..]].concat(),
        ),
        vector("keyPair.json")["privateKeyMultibase"]
            .as_str()
            .unwrap()
            .to_owned(),
        "z".repeat(100_000),
    ] {
        let refused = proof::parse_multikey(&other);
        assert!(
            matches!(refused, Err(ProofError::Multikey { .. })),
            "{other}"
        );
    }
    assert!(proof::parse_secret_multikey(&text).is_err());
}
