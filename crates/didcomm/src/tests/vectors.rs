//! Published vectors. Cases run plus exclusions is the number of cases in each file.

use affinidi_crypto::jose::key_agreement::{Curve, PrivateKeyAgreement, PublicKeyAgreement};
use affinidi_messaging_didcomm::jwe::decrypt::{DecryptedJwe, SenderKey, decrypt_bound};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use didcomm::did::DIDDoc;
use didcomm::did::resolvers::ExampleDIDResolver;
use didcomm::secrets::resolvers::ExampleSecretsResolver;
use serde_json::Value;

use super::oracle::{Oracle, method, secret_of_jwk};
use super::*;
use crate::envelope::Envelope;
use crate::peer::short_form_of_peer2;
use crate::unpack::read_plaintext;

macro_rules! vector {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../vectors/", $name))).unwrap()
    };
}

fn did(value: &Value) -> Did {
    serde_json::from_value(value.clone()).unwrap()
}

fn cases(file: &Value) -> &[Value] {
    file["cases"].as_array().unwrap()
}

// ---- did:peer ----

#[test]
fn numalgo_2_with_two_services() {
    let file = vector!("did-peer/numalgo2-two-services.json");
    let did = did(&file["did"]);
    let document = resolve(&did).unwrap();
    assert_eq!(
        serde_json::to_value(&document).unwrap(),
        file["expectedDocument"]
    );
    assert_eq!(short_form_of_peer2(&did), file["numalgo3"]);
    let elements: Vec<&str> = did.as_str().split(".S").skip(1).collect();
    let services: Vec<String> = elements
        .iter()
        .map(|element| String::from_utf8(BASE64.decode(element).unwrap()).unwrap())
        .collect();
    assert_eq!(
        serde_json::to_value(&services).unwrap(),
        file["encodedServices"]
    );
    assert_eq!(document.key_agreement_keys()[0].kid, format!("{did}#key-2"));
    assert_eq!(
        document.didcomm_service().unwrap().routing_keys,
        ["did:example:123456789abcdefghi#key-1"]
    );
}

#[test]
fn numalgo_3_from_numalgo_2() {
    let file = vector!("did-peer/numalgo3-from-numalgo2.json");
    let mut run = 0;
    for case in cases(&file) {
        let did = did(&case["numalgo2"]);
        assert_eq!(short_form_of_peer2(&did), case["numalgo3"]);
        assert_eq!(
            resolve(&did).unwrap().also_known_as,
            [case["numalgo3"].as_str().unwrap()]
        );
        run += 1;
    }
    assert_eq!(run, cases(&file).len());
    // The first of them has three keys with the key-agreement key in front, and the service in its older form.
    let document = resolve(&did(&cases(&file)[0]["numalgo2"])).unwrap();
    assert!(document.key_agreement_keys()[0].kid.ends_with("#key-1"));
    let service = document.didcomm_service().unwrap();
    assert_eq!(service.uri, "https://example.com/endpoint");
    assert_eq!(service.routing_keys, ["did:example:somemediator#somekey"]);
}

#[test]
fn numalgo_4_long_and_short() {
    let file = vector!("did-peer/numalgo4-long-and-short.json");
    let (long, short) = (did(&file["longForm"]), did(&file["shortForm"]));
    let resolver = Resolver::default();
    let as_json = |did: &Did| serde_json::to_value(resolver.resolve(did).unwrap()).unwrap();
    assert_eq!(as_json(&long), file["expectedDocumentLongForm"]);
    assert_eq!(
        resolver.resolve(&short).unwrap_err().code(),
        "NOT_FOUND",
        "resolving alone must not remember"
    );
    resolver.remember(&long);
    assert_eq!(as_json(&short), file["expectedDocumentShortForm"]);
    assert_eq!(resolver.canonical(&short), long);
    assert_eq!(
        resolver.resolve(&short).unwrap().key_agreement_keys()[0].kid,
        format!("{short}#6LSqPZfn")
    );

    let tampered: Did = format!("{}2", long.as_str().strip_suffix('z').unwrap())
        .parse()
        .unwrap();
    let error = resolve(&tampered).unwrap_err();
    assert_eq!(error.code(), "INVALID_DID");
    assert!(error.to_string().contains("document hash"), "{error}");
}

#[test]
fn the_memory_for_long_forms_is_bounded_and_keeps_what_is_used() {
    let long_form = |name: u8| crate::peer::encode_peer4(&json!({ "name": name }));
    let resolver = Resolver::new(2);
    let [(a, short_a), (b, short_b), (c, short_c)] = [1, 2, 3].map(long_form);
    resolver.remember(&a);
    resolver.remember(&b);
    assert!(
        resolver.resolve(&short_a).is_ok(),
        "and now a is the one used last"
    );
    resolver.remember(&c);
    assert!(resolver.resolve(&short_a).is_ok());
    assert!(resolver.resolve(&short_b).is_err());
    assert_eq!(resolver.resolve(&short_c).unwrap().extra["name"], 3);
}

#[test]
fn resolution_results_have_the_specified_shape() {
    let resolver = Resolver::default();
    let own = bob();
    let good = serde_json::to_value(resolver.resolution(own.did().as_str())).unwrap();
    assert_eq!(good["didDocument"]["id"], own.did().as_str());
    assert_eq!(good["didDocumentMetadata"], json!({}));
    assert_eq!(
        good["didResolutionMetadata"],
        json!({ "contentType": "application/did+ld+json" })
    );
    for (text, code) in [
        ("nonsense", "INVALID_DID"),
        ("did:peer:2.Vz6Mk", "INVALID_DID"),
        ("did:peer:2", "INVALID_DID"),
        ("did:key:z6Mk", "INVALID_DID"),
        (
            "did:peer:1zQmZMygzYqNwU6Uhmewx5Xepf2VLp5S4HLSwwgf2aiKZuwa",
            "METHOD_NOT_SUPPORTED",
        ),
        ("did:web:example.com", "METHOD_NOT_SUPPORTED"),
        (
            "did:peer:4zQmd8CpeFPci817KDsbSAKWcXAE2mjvCQSasRewvbSF54Bd",
            "NOT_FOUND",
        ),
    ] {
        let bad = serde_json::to_value(resolver.resolution(text)).unwrap();
        assert_eq!(bad["didResolutionMetadata"]["error"], code, "{text}");
        assert_eq!(bad["didDocument"], Value::Null);
    }
}

// ---- DIDComm ----

fn public(jwk: &Value) -> PublicKeyAgreement {
    PublicKeyAgreement::from_jwk(jwk).unwrap()
}

fn private(jwk: &Value) -> PrivateKeyAgreement {
    let curve = match jwk["crv"].as_str().unwrap() {
        "X25519" => Curve::X25519,
        "P-256" => Curve::P256,
        "P-384" => Curve::P384,
        "P-521" => Curve::P521,
        other => panic!("no key agreement on {other}"),
    };
    PrivateKeyAgreement::from_raw_bytes(curve, &BASE64.decode(jwk["d"].as_str().unwrap()).unwrap())
        .unwrap()
}

/// The secret with this key identifier.
fn secret(kid: &str) -> Value {
    let file = vector!("didcomm/secrets.json");
    let all = ["sender", "recipient"]
        .map(|side| file[side].as_array().unwrap().clone())
        .concat();
    all.into_iter()
        .find(|jwk| jwk["kid"] == kid)
        .unwrap_or_else(|| panic!("no secret {kid}"))
}

/// Opens a message of the vectors with the envelope library, by each recipient key, and compares the results.
fn library_opens(message: &Value, protected: &Value) -> Vec<DecryptedJwe> {
    let skid = protected["skid"].as_str();
    let sender = skid.map(|skid| (skid, public(&secret(skid))));
    let recipients = message["recipients"].as_array().unwrap();
    let open = |recipient: &Value| {
        let kid = recipient["header"]["kid"].as_str().unwrap();
        let sender = sender.as_ref().map(|(skid, key)| SenderKey::new(skid, key));
        decrypt_bound(&message.to_string(), kid, &private(&secret(kid)), sender).unwrap()
    };
    recipients.iter().map(open).collect()
}

/// The independent implementation with the specification's keys.
fn oracle() -> Oracle {
    let secrets = vector!("didcomm/secrets.json");
    let documents = vector!("didcomm/diddocs.json");
    let document = |side: &str| {
        let methods = |relationship: &str| {
            documents[side][relationship]
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        let ids = |relationship: &str| {
            methods(relationship)
                .iter()
                .map(|m| m["id"].as_str().unwrap().to_owned())
                .collect()
        };
        let id = documents[side]["id"].as_str().unwrap();
        let all = [methods("authentication"), methods("keyAgreement")].concat();
        DIDDoc {
            id: id.to_owned(),
            key_agreement: ids("keyAgreement"),
            authentication: ids("authentication"),
            verification_method: all
                .iter()
                .map(|m| method(id, m["id"].as_str().unwrap(), m["publicKeyJwk"].clone()))
                .collect(),
            service: vec![],
        }
    };
    let recipient = secrets["recipient"].as_array().unwrap();
    Oracle {
        dids: ExampleDIDResolver::new(vec![document("sender"), document("recipient")]),
        secrets: ExampleSecretsResolver::new(
            recipient
                .iter()
                .map(|jwk| secret_of_jwk(jwk["kid"].as_str().unwrap(), jwk.clone()))
                .collect(),
        ),
    }
}

/// Our own path: parse and check the envelope, open it with each recipient's key, read the message.
#[test]
fn authcrypt_x25519_a256cbc_hs512() {
    let file = vector!("didcomm/ecdh-1pu-x25519-a256cbc-hs512.json");
    let bytes = file["message"].to_string();
    let envelope = Envelope::parse(bytes.as_bytes()).unwrap();
    assert_eq!(envelope.skid, file["apuDecoded"]);
    assert_eq!(file["protectedDecoded"]["skid"], envelope.skid.as_str());
    let opened = library_opens(&file["message"], &file["protectedDecoded"]);
    let mut run = 0;
    for (jwe, key) in opened.iter().zip(file["recipientKeys"].as_array().unwrap()) {
        assert_eq!(envelope.kids[run], key["kid"].as_str().unwrap());
        assert_eq!(secret(&envelope.kids[run])["d"], key["d"]);
        assert!(jwe.authenticated);
        assert_eq!(
            std::str::from_utf8(&jwe.plaintext).unwrap(),
            file["expectedPlaintext"].as_str().unwrap()
        );
        let message = read_plaintext(&jwe.plaintext).unwrap();
        assert_eq!(message.from.unwrap().as_str(), "did:example:alice");
        run += 1;
    }
    assert_eq!(run, file["recipientKeys"].as_array().unwrap().len());
}

/// Encrypted messages that we refuse: opened by the envelope library or by the oracle where they can, to show that it is
/// for their kind that we refuse them and not for being broken.
#[test]
fn other_encrypted_messages() {
    enum By {
        Library,
        Oracle,
        Excluded(&'static str),
    }
    let file = vector!("didcomm/other-encrypted.json");
    let plan = [
        (By::Oracle, "anoncrypt"),
        (By::Library, "anoncrypt"),
        (
            By::Excluded("neither library has P-521 with A256GCM"),
            "anoncrypt",
        ),
        (By::Library, "ephemeral-key"),
        (
            By::Excluded(
                "outer layer: neither library has P-521 with XC20P; the inner layer is run",
            ),
            "anoncrypt",
        ),
    ];
    let (mut run, mut excluded) = (0, 0);
    for (case, (by, kind)) in cases(&file).iter().zip(plan) {
        let message = case["message"].to_string();
        assert_eq!(
            bob_unpacks(&message).unwrap_err().kind(),
            kind,
            "{}",
            case["name"]
        );
        let expected = case["expectedPlaintext"].as_str().unwrap();
        match by {
            By::Library => {
                for jwe in library_opens(&case["message"], &case["protectedDecoded"]) {
                    assert_eq!(
                        std::str::from_utf8(&jwe.plaintext).unwrap(),
                        expected,
                        "{}",
                        case["name"]
                    );
                }
                run += 1;
            }
            By::Oracle => {
                let (opened, metadata) = oracle().unpack(message.as_bytes()).unwrap();
                assert!(metadata.anonymous_sender);
                let expected: Value = serde_json::from_str(expected).unwrap();
                assert_eq!(serde_json::to_value(opened).unwrap(), expected);
                run += 1;
            }
            By::Excluded(reason) => {
                assert!(!reason.is_empty());
                excluded += 1;
            }
        }
    }
    assert_eq!((run, excluded), (3, 2));
    assert_eq!(run + excluded, cases(&file).len());

    let nested = &cases(&file)[4];
    let inner: Value = serde_json::from_str(nested["expectedPlaintext"].as_str().unwrap()).unwrap();
    for jwe in library_opens(&inner, &nested["innerProtectedDecoded"]) {
        assert!(jwe.authenticated);
        assert_eq!(
            std::str::from_utf8(&jwe.plaintext).unwrap(),
            nested["expectedInnerPlaintext"].as_str().unwrap()
        );
    }
    // The signed message inside the P-256 one is what we call nested.
    let signed = cases(&file)[3]["expectedPlaintext"].as_str().unwrap();
    assert_eq!(
        read_plaintext(signed.as_bytes()).unwrap_err().kind(),
        "nested"
    );
}

#[test]
fn signed_messages_are_good_and_not_good_enough() {
    let file = vector!("didcomm/signed.json");
    let mut run = 0;
    for case in cases(&file) {
        let message = case["message"].to_string();
        let (opened, metadata) = oracle().unpack(message.as_bytes()).unwrap();
        assert!(metadata.non_repudiation && !metadata.encrypted);
        assert_eq!(metadata.sign_from.as_deref(), case["signerKid"].as_str());
        let expected: Value =
            serde_json::from_str(case["expectedPayload"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(opened).unwrap(), expected);
        assert_eq!(bob_unpacks(&message).unwrap_err().kind(), "signed-only");
        run += 1;
    }
    assert_eq!(run, cases(&file).len());
}

#[test]
fn an_ephemeral_key_off_its_curve_is_refused() {
    let file = vector!("didcomm/negative-epk-off-curve.json");
    let message = file["message"].to_string();
    assert!(oracle().unpack(message.as_bytes()).is_err());
    // The vector pads its header, which JOSE forbids; without the padding it is refused for its kind.
    assert_eq!(bob_unpacks(&message).unwrap_err().kind(), "malformed");
    assert_eq!(
        bob_unpacks(message.replacen("==", "", 1))
            .unwrap_err()
            .kind(),
        "anoncrypt"
    );
    // The envelope library's reader of such keys says the same of the key alone.
    let protected = file["message"]["protected"]
        .as_str()
        .unwrap()
        .trim_end_matches('=');
    let protected = BASE64.decode(protected).unwrap();
    let header: Value = serde_json::from_slice(&protected).unwrap();
    assert!(PublicKeyAgreement::from_jwk(&header["epk"]).is_err());
}

#[test]
fn the_plaintext_reads_and_writes_back() {
    let file = vector!("didcomm/plaintext.json");
    for name in ["asPrinted", "insideTheVectors"] {
        let message = read_plaintext(file[name].to_string().as_bytes()).unwrap();
        let mut expected = file[name].clone();
        expected["typ"] = PLAINTEXT_TYP.into();
        assert_eq!(serde_json::to_value(&message).unwrap(), expected);
        assert_eq!(
            (message.created_time, message.expires_time),
            (Some(1_516_269_022), Some(1_516_385_931))
        );
    }
}

#[test]
fn documents_of_the_specification_give_their_x25519_keys() {
    let file = vector!("didcomm/diddocs.json");
    let mut keys = Vec::new();
    for side in ["sender", "recipient"] {
        let document: DidDocument = serde_json::from_value(file[side].clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&document).unwrap(),
            file[side],
            "nothing is lost"
        );
        keys.extend(document.key_agreement_keys());
    }
    assert_eq!(keys.len(), 4);
    for key in keys {
        assert_eq!(
            BASE64.encode(key.public),
            secret(&key.kid)["x"],
            "{}",
            key.kid
        );
    }
}
