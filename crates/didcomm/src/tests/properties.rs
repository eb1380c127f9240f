//! Properties that hold for any input.

use proptest::prelude::*;
use serde_json::Value;

use super::forge::seal;
use super::*;

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        Just("didcomm:transport/queue".to_owned()),
        "(ws|wss|http|https)://[a-z]{1,20}(\\.[a-z]{2,5})?(:[1-9][0-9]{0,3})?(/[a-z0-9]{0,8})?",
    ]
    .prop_map(|text| text.parse().unwrap())
}

/// Text that looks like a DID, or nearly.
fn almost_a_did() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,80}",
        "did:[a-z0-9]{0,6}:.{0,80}",
        "did:peer:2(\\.[ADEIVSX][1-9A-Za-z_-]{0,60}){0,6}",
        "did:peer:[0-9]z[1-9A-HJ-NP-Za-km-z]{0,60}(:z[1-9A-HJ-NP-Za-km-z]{0,60})?",
        "did:key:z6(Mk|LS)[1-9A-HJ-NP-Za-km-z]{0,60}",
    ]
}

proptest! {
    #[test]
    fn an_identity_resolves_to_its_own_keys(
        ed25519: [u8; 32], x25519: [u8; 32], endpoint in any_endpoint()
    ) {
        let identity = Identity::new(&ed25519, &x25519, endpoint.clone()).unwrap();
        let document = resolve(identity.did()).unwrap();
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(x25519));
        prop_assert_eq!(
            document.key_agreement_keys(),
            vec![KeyAgreementKey { kid: identity.agreement_kid().to_owned(), public: public.to_bytes() }]
        );
        prop_assert_eq!(document.didcomm_service().unwrap().uri.parse::<Endpoint>().unwrap(), endpoint);
        let json = serde_json::to_value(&document).unwrap();
        prop_assert_eq!(serde_json::from_value::<DidDocument>(json).unwrap(), document);
    }

    #[test]
    fn resolving_never_panics_and_answers_with_the_did_asked_for(text in almost_a_did()) {
        let resolver = Resolver::default();
        if let Ok(did) = text.parse::<Did>() {
            prop_assert_eq!(did.to_string(), text.clone());
            resolver.remember(&did);
            if let Ok(document) = resolver.resolve(&did) {
                prop_assert_eq!(document.id, did);
            }
        }
        let result = resolver.resolution(&text);
        prop_assert_eq!(result.did_document.is_some(), result.did_resolution_metadata.error.is_none());
    }

    #[test]
    fn garbage_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(bob_unpacks(&bytes).is_err());
    }

    /// Every byte of an envelope is authenticated, or decides nothing.
    #[test]
    fn a_changed_envelope_never_yields_another_message(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let original = seal(&content()).into_bytes();
        let mut bytes = original.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(verified) = bob_unpacks(&bytes) {
            prop_assert_eq!(verified, bob_unpacks(&original).unwrap());
        }
    }

    /// The same for changes that keep the JSON intact: a member replaced, removed or swapped.
    #[test]
    fn a_changed_member_never_yields_another_message(
        path in prop::sample::select(vec![
            "/protected", "/iv", "/ciphertext", "/tag", "/recipients/0/encrypted_key", "/recipients/0/header/kid",
        ]),
        at: prop::sample::Index,
        letter in "[A-Za-z0-9_-]",
    ) {
        let original = seal(&content());
        let mut envelope: Value = serde_json::from_str(&original).unwrap();
        let member = envelope.pointer_mut(path).unwrap();
        let mut text = member.as_str().unwrap().to_owned();
        let at = at.index(text.len());
        text.replace_range(at..=at, &letter);
        *member = text.into();
        match bob_unpacks(envelope.to_string()) {
            Ok(verified) => {
                prop_assert_eq!(verified, bob_unpacks(&original).unwrap());
                prop_assert_eq!(envelope, serde_json::from_str::<Value>(&original).unwrap());
            }
            Err(error) => prop_assert!(error.proven_sender().is_none()),
        }
    }

    /// Whatever a proven peer writes into the members, the answer is a refusal or a message within bounds.
    #[test]
    fn any_content_of_a_proven_sender_is_bounded(
        member in prop::sample::select(vec![
            "id", "type", "typ", "from", "to", "thid", "pthid", "created_time", "expires_time", "body", "ack",
            "please_ack", "return_route", "attachments",
        ]),
        value in any_json(),
    ) {
        let mut content = content();
        content[member] = value;
        if let Ok(verified) = bob_unpacks(seal(&content)) {
            prop_assert!(verified.message().check().is_ok());
            prop_assert_eq!(verified.message().from.clone(), Some(alice().did().clone()));
            prop_assert!(verified.message().to.contains(bob().did()));
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,200}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{0,5}", inner, 0..5).prop_map(Value::from_iter),
        ]
    })
}
