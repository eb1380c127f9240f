//! Updates: constructing, signing and applying them, and everything that is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use beacon_btcr2::document::DocumentError;
use beacon_btcr2::json::Limits;
use beacon_btcr2::proof::{self, ProofError};
use beacon_btcr2::update::{MAX_VERSION, UpdateError};
use beacon_btcr2::{
    Did, Document, Error, ErrorCode, GenesisBytes, Network, Patch, Problem, SignedUpdate,
    UnsignedUpdate, initial, json,
};
use bitcoin::secp256k1::{Keypair, Secp256k1};
use proptest::prelude::*;
use serde_json::{Value, json};

fn pair(secret: u8) -> Keypair {
    Keypair::from_seckey_slice(&Secp256k1::new(), &[secret; 32]).unwrap()
}

/// The first document of the DID of a key.
fn source() -> Document {
    let did = Did::new(Network::Regtest, GenesisBytes::Key(pair(1).public_key()));
    initial::from_key(&did).unwrap().unwrap()
}

fn patch(operations: Value) -> Patch {
    Patch::from_value(operations).unwrap()
}

/// A patch that every document takes.
fn harmless() -> Patch {
    patch(json!([{ "op": "add", "path": "/alsoKnownAs", "value": ["urn:a:b"] }]))
}

fn sign(unsigned: &UnsignedUpdate, source: &Document, secret: u8) -> Result<SignedUpdate, Error> {
    let key = pair(secret);
    unsigned.sign(source, "#initialKey", |message| {
        proof::sign(&key, &[9; 32], message)
    })
}

fn signed() -> SignedUpdate {
    let (unsigned, _) = UnsignedUpdate::construct(&source(), &harmless(), 2).unwrap();
    sign(&unsigned, &source(), 1).unwrap()
}

/// Why this change of a valid update is refused, whether by its reader or when it is applied.
fn refused(change: impl FnOnce(&mut Value)) -> Problem {
    let mut value = signed().value().clone();
    change(&mut value);
    let applied = SignedUpdate::from_value(value).and_then(|update| update.apply(&source()));
    let error = applied.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidDidUpdate);
    error.problem
}

/// An update with this patch and these hashes, signed as if it were valid.
fn signed_anyway(patch: Value, target: &Value) -> SignedUpdate {
    let source = source();
    let template = signed();
    let mut value = template.unsigned().value();
    value["patch"] = patch;
    value["targetHash"] = json!(json::hash(target));
    let mut options = template.value()["proof"].as_object().unwrap().clone();
    options.remove("proofValue");
    let key = pair(1);
    let made = proof::create(&value, options, |message| {
        proof::sign(&key, &[9; 32], message)
    });
    value["proof"] = made.into();
    assert_eq!(value["sourceHash"], json!(source.hash()));
    SignedUpdate::from_value(value).unwrap()
}

#[test]
fn an_update_has_the_members_of_the_specification() {
    let (unsigned, target) = UnsignedUpdate::construct(&source(), &harmless(), 2).unwrap();
    assert_eq!(
        unsigned.value(),
        json!({
            "@context": [
                "https://w3id.org/json-ld-patch/v1",
                "https://w3id.org/zcap/v1",
                "https://w3id.org/security/data-integrity/v2",
                "https://btcr2.dev/context/v1",
            ],
            "patch": harmless().value(),
            "sourceHash": source().hash().to_string(),
            "targetHash": target.hash().to_string(),
            "targetVersionId": 2,
        })
    );
    let update = signed();
    let did = source().did().to_string();
    let proof = &update.value()["proof"];
    assert_eq!(
        proof["verificationMethod"],
        json!(format!("{did}#initialKey"))
    );
    assert_eq!(
        proof["capability"],
        json!(format!("urn:zcap:root:{}", did.replace(':', "%3A")))
    );
    assert_eq!(update.unsigned(), &unsigned);
    assert_eq!(update.id(), json::hash(update.value()));
    assert_eq!(update.unsigned().hash(), json::hash(&unsigned.value()));
    assert_eq!(update.apply(&source()).unwrap(), target);
    assert_eq!(
        (unsigned.source_hash(), unsigned.target_hash()),
        (source().hash(), target.hash())
    );
}

#[test]
fn two_signatures_make_two_updates_with_one_hash_of_what_they_say() {
    let (unsigned, _) = UnsignedUpdate::construct(&source(), &harmless(), 2).unwrap();
    let key = pair(1);
    let [one, two] = [[1; 32], [2; 32]].map(|aux| {
        let signed = unsigned.sign(&source(), "#initialKey", |message| {
            proof::sign(&key, &aux, message)
        });
        signed.unwrap()
    });
    assert_ne!(one.id(), two.id());
    assert_eq!(one.unsigned().hash(), two.unsigned().hash());
    assert_eq!(one.apply(&source()), two.apply(&source()));
}

#[test]
fn a_deactivated_did_is_updated_no_more() {
    let (unsigned, target) = UnsignedUpdate::deactivate(&source(), 2).unwrap();
    assert!(target.is_deactivated());
    assert_eq!(
        unsigned.patch().value(),
        &json!([{ "op": "add", "path": "/deactivated", "value": true }])
    );
    sign(&unsigned, &source(), 1).unwrap();
    let did = target.did().to_string();
    let error = UnsignedUpdate::construct(&target, &harmless(), 3).unwrap_err();
    assert_eq!(
        error.problem,
        Problem::Update(UpdateError::Deactivated { did })
    );
}

#[test]
fn a_version_follows_another_and_is_exact_in_json() {
    for got in [0, 1, MAX_VERSION + 1, u64::MAX] {
        let error = UnsignedUpdate::construct(&source(), &harmless(), got).unwrap_err();
        assert_eq!(error.problem, Problem::Update(UpdateError::Version { got }));
    }
    let (unsigned, _) = UnsignedUpdate::construct(&source(), &harmless(), MAX_VERSION).unwrap();
    let text = json::canonical(&unsigned.value());
    let read = json::parse(text.as_bytes(), &Limits::UPDATE).unwrap();
    assert_eq!(
        UnsignedUpdate::from_value(read).unwrap().target_version(),
        MAX_VERSION
    );
}

#[test]
fn an_update_with_another_key_is_not_made() {
    let (unsigned, _) = UnsignedUpdate::construct(&source(), &harmless(), 2).unwrap();
    let error = sign(&unsigned, &source(), 2).unwrap_err();
    assert!(
        matches!(error.problem, Problem::Proof(ProofError::Signature { .. })),
        "{error}"
    );
    let key = pair(1);
    let error = unsigned.sign(&source(), "#other", |message| {
        proof::sign(&key, &[9; 32], message)
    });
    let problem = error.unwrap_err().problem;
    assert!(
        matches!(
            problem,
            Problem::Document(DocumentError::NoCapability { .. })
        ),
        "{problem}"
    );
}

#[test]
fn an_update_is_for_the_document_that_it_was_made_for() {
    let (_, target) = UnsignedUpdate::construct(&source(), &harmless(), 2).unwrap();
    let error = signed().apply(&target).unwrap_err();
    let (got, expected) = (source().hash(), target.hash());
    assert_eq!(
        error.problem,
        Problem::Update(UpdateError::Source { got, expected })
    );
    // And not for another DID of the same key, which has another hash.
    let did = Did::new(Network::Signet, GenesisBytes::Key(pair(1).public_key()));
    let other = initial::from_key(&did).unwrap().unwrap();
    let error = signed().apply(&other).unwrap_err();
    assert!(
        matches!(error.problem, Problem::Update(UpdateError::Source { .. })),
        "{error}"
    );
}

#[test]
fn a_patch_that_breaks_the_document_makes_no_update() {
    let taken = [
        (
            json!([{ "op": "replace", "path": "/id", "value": "did:btcr2:_" }]),
            "/id",
        ),
        (json!([{ "op": "remove", "path": "/id" }]), "/id"),
        (
            json!([{ "op": "remove", "path": "/@context" }]),
            "/@context",
        ),
        (
            json!([{ "op": "replace", "path": "", "value": {} }]),
            "/@context",
        ),
        (
            json!([{ "op": "remove", "path": "/service/0/serviceEndpoint" }]),
            "/service/0/serviceEndpoint",
        ),
        (
            json!([{ "op": "add", "path": "/service/-", "value": 1 }]),
            "/service/3",
        ),
        (
            json!([{ "op": "test", "path": "/id", "value": "did:btcr2:_" }]),
            "operation /0",
        ),
        (
            json!([{ "op": "remove", "path": "/missing" }]),
            "operation /0",
        ),
        (
            json!([{ "op": "remove", "path": "/verificationMethod/0" }]),
            "/authentication/0",
        ),
    ];
    for (operations, at) in taken {
        let error =
            UnsignedUpdate::construct(&source(), &patch(operations.clone()), 2).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidDidUpdate);
        assert!(error.to_string().contains(at), "{operations}: {error}");
    }
}

#[test]
fn a_signature_does_not_make_a_wrong_patch_right() {
    let did = source().did().to_string();
    // The whole document replaced by that of another DID.
    let other = Did::new(Network::Regtest, GenesisBytes::Key(pair(2).public_key()));
    let other = initial::from_key(&other).unwrap().unwrap();
    let replace = json!([{ "op": "replace", "path": "", "value": other.value() }]);
    let error = signed_anyway(replace, other.value())
        .apply(&source())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("at /id, expected \"{did}\"")),
        "{error}"
    );

    let mut target = source().value().clone();
    target["alsoKnownAs"] = json!(["urn:a:c"]);
    let error = signed_anyway(harmless().value().clone(), &target)
        .apply(&source())
        .unwrap_err();
    assert!(
        matches!(error.problem, Problem::Update(UpdateError::Target { .. })),
        "{error}"
    );

    // A reference to nothing conforms, so a resolver takes what an author would not be let make.
    let mut target = source().value().clone();
    target["verificationMethod"] = json!([]);
    let remove = json!([{ "op": "remove", "path": "/verificationMethod/0" }]);
    let left = signed_anyway(remove, &target).apply(&source()).unwrap();
    assert!(left.dangling_reference().is_some());
}

#[test]
fn members_of_an_update_that_are_not_what_they_must_be_are_named() {
    let member = |problem: Problem| match problem {
        Problem::Update(UpdateError::Member { at, .. }) => at.to_owned(),
        Problem::Patch(_) => "/patch".into(),
        Problem::Proof(ProofError::Member { member, .. }) => format!("/proof/{member}"),
        other => panic!("{other}"),
    };
    let contexts = signed().value()["@context"].clone();
    let mut reversed = contexts.as_array().unwrap().clone();
    reversed.reverse();
    let mut more = contexts.as_array().unwrap().clone();
    more.push(json!("https://example.com/v1"));
    for (pointer, value) in [
        ("/@context", json!(null)),
        ("/@context", json!(reversed)),
        ("/@context", json!(more)),
        ("/@context", contexts[0].clone()),
        ("/patch", json!(null)),
        ("/patch", json!({})),
        ("/patch", json!([{ "op": "none", "path": "" }])),
        ("/sourceHash", json!(null)),
        ("/sourceHash", json!("")),
        ("/sourceHash", json!(source().hash().to_hex())),
        ("/sourceHash", json!(format!("{}=", source().hash()))),
        ("/targetHash", json!([1, 2])),
        ("/targetHash", json!("AAAA")),
        ("/targetVersionId", json!(null)),
        ("/targetVersionId", json!("2")),
        ("/targetVersionId", json!(2.5)),
        ("/targetVersionId", json!(-2)),
        ("/targetVersionId", json!(0)),
        ("/targetVersionId", json!(MAX_VERSION + 1)),
        ("/targetVersionId", json!(1e300)),
        ("/proof", json!(null)),
        ("/proof", json!([signed().value()["proof"]])),
        ("/proof/@context", json!(null)),
        ("/proof/@context", json!(reversed)),
        ("/proof/type", json!("Proof")),
        ("/proof/cryptosuite", json!("bip340-rdfc-2025")),
        ("/proof/proofPurpose", json!("assertionMethod")),
        (
            "/proof/capability",
            json!(format!("urn:zcap:root:{}", source().did())),
        ),
        ("/proof/capability", json!(null)),
        ("/proof/capabilityAction", json!("Read")),
        ("/proof/invocationTarget", json!("did:btcr2:_")),
        ("/proof/invocationTarget", json!(null)),
        ("/proof/verificationMethod", json!(null)),
        ("/proof/verificationMethod", json!([1])),
        ("/proof/proofValue", json!(null)),
        ("/proof/proofValue", json!("z")),
        ("/proof/created", json!("now")),
    ] {
        let problem = refused(|update| {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            update.pointer_mut(parent).unwrap()[last] = value.clone();
        });
        assert_eq!(member(problem), pointer, "{value}");
    }
    for value in [json!(null), json!([]), json!("update")] {
        let error = SignedUpdate::from_value(value).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidDidUpdate);
    }
}

#[test]
fn everything_in_an_update_is_signed() {
    let signature = |problem: Problem| match problem {
        Problem::Proof(ProofError::Signature { .. }) => {}
        other => panic!("{other}"),
    };
    signature(refused(|update| update["added"] = json!(1)));
    signature(refused(|update| update["proof"]["added"] = json!(1)));
    signature(refused(|update| update["targetVersionId"] = json!(3)));
    signature(refused(|update| update["patch"][0]["comment"] = json!("")));
    signature(refused(|update| {
        update["targetHash"] = json!(source().hash());
    }));
    let did = source().did().to_string();
    signature(refused(|update| {
        update["proof"]["invocationTarget"] = json!(did);
    }));
}

#[test]
fn an_error_says_what_and_where_in_one_line() {
    let error =
        SignedUpdate::from_value(json!({ "proof": {}, "@context": "x".repeat(1000) })).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("INVALID_DID_UPDATE: got \"xxxx"), "{text}");
    assert!(
        text.contains("… at /@context of the update, expected ["),
        "{text}"
    );
    assert!(text.len() < 500 && !text.contains('\n'), "{text}");
}

#[test]
fn codes_refine_those_of_did_resolution() {
    for (code, text, refines) in [
        (ErrorCode::InvalidDid, "INVALID_DID", ErrorCode::InvalidDid),
        (
            ErrorCode::InvalidDidUpdate,
            "INVALID_DID_UPDATE",
            ErrorCode::InvalidDidDocument,
        ),
        (
            ErrorCode::LatePublishing,
            "LATE_PUBLISHING_ERROR",
            ErrorCode::InvalidDidDocument,
        ),
        (
            ErrorCode::InvalidSignalData,
            "INVALID_SIGNAL_DATA",
            ErrorCode::InvalidOptions,
        ),
        (
            ErrorCode::MissingUpdateData,
            "MISSING_UPDATE_DATA",
            ErrorCode::NotFound,
        ),
    ] {
        assert_eq!((code.as_str(), code.refines()), (text, refines));
    }
}

/// One operation that any document of a DID takes.
fn operation() -> impl Strategy<Value = Value> {
    let name = "[a-z]{1,3}";
    prop_oneof![
        (name, "[ -~é]{0,8}").prop_map(|(name, text)| json!({ "op": "add", "path": format!("/x-{name}"), "value": text })),
        (name, any::<i32>()).prop_map(|(name, n)| json!({ "op": "add", "path": format!("/x-{name}"), "value": { "n": n } })),
        (name, 0..3_usize).prop_map(|(name, i)| json!({
            "op": "copy", "from": format!("/service/{i}/serviceEndpoint"), "path": format!("/x-{name}"),
        })),
        "[a-z]{1,8}".prop_map(|name| json!({
            "op": "add", "path": "/alsoKnownAs", "value": [format!("urn:x:{name}")],
        })),
    ]
}

proptest! {
    #[test]
    fn an_update_survives_its_text_and_makes_what_was_meant(operations in prop::collection::vec(operation(), 0..5)) {
        let source = source();
        let patch = patch(json!(operations));
        let (unsigned, target) = UnsignedUpdate::construct(&source, &patch, 2).unwrap();
        prop_assert_eq!(target.value(), &patch.apply(source.value()).unwrap());
        let update = sign(&unsigned, &source, 1).unwrap();
        let pretty = serde_json::to_string_pretty(update.value()).unwrap();
        let read = json::parse(pretty.as_bytes(), &Limits::UPDATE).unwrap();
        let read = SignedUpdate::from_value(read).unwrap();
        prop_assert_eq!(&read, &update);
        prop_assert_eq!(read.id(), update.id());
        prop_assert_eq!(read.apply(&source).unwrap(), target);
    }

    #[test]
    fn an_update_with_one_byte_changed_is_never_applied(at in any::<prop::sample::Index>(), by in 1..=255_u8) {
        let update = signed();
        let mut text = json::canonical(update.value()).into_bytes();
        let at = at.index(text.len());
        text[at] ^= by;
        // Changed by a byte, it is no JSON, no update, not for this document, or not signed.
        let applied = json::parse(&text, &Limits::UPDATE)
            .ok()
            .and_then(|value| SignedUpdate::from_value(value).ok())
            .and_then(|update| update.apply(&source()).ok());
        prop_assert_eq!(applied, None);
    }
}
