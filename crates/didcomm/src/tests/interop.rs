//! Envelopes understood in both directions between us and an independent implementation.

use didcomm::{Message, PackEncryptedOptions};
use serde_json::json;

use super::oracle::{Oracle, wait};
use super::*;

#[test]
fn the_oracle_opens_what_we_pack() {
    let (alice, bob) = (alice(), bob());
    let message = greeting()
        .with_thid("thread-1")
        .with_return_route(ReturnRoute::All);
    let packed = pack(&alice, bob.did(), &message, &Resolver::default()).unwrap();
    assert_eq!(
        (packed.endpoint(), packed.is_forwarded()),
        (Some(bob.endpoint()), false)
    );

    let oracle = Oracle::new(&[alice.did(), bob.did()], &[(&bob, 2)]);
    let (opened, metadata) = oracle.unpack(packed.envelope()).unwrap();
    assert!(metadata.encrypted && metadata.authenticated && !metadata.anonymous_sender);
    assert_eq!(
        metadata.encrypted_from_kid.as_deref(),
        Some(alice.agreement_kid())
    );
    assert_eq!(
        metadata.encrypted_to_kids,
        Some(vec![bob.agreement_kid().to_owned()])
    );
    assert_eq!(opened.typ, PLAINTEXT_TYP);
    assert_eq!(opened.from.as_deref(), Some(alice.did().as_str()));
    assert_eq!(opened.to, Some(vec![bob.did().to_string()]));
    assert_eq!(
        (opened.thid.as_deref(), opened.expires_time),
        (Some("thread-1"), Some(NOW + DEFAULT_LIFETIME))
    );
    assert_eq!(opened.body, json!({ "text": "hello" }));
    assert_eq!(opened.extra_headers["return_route"], "all");
}

#[test]
fn we_open_what_the_oracle_packs() {
    let (alice, bob) = (alice(), bob());
    let oracle = Oracle::new(&[alice.did(), bob.did()], &[(&alice, 1)]);
    let message = Message::build(
        "m-1".to_owned(),
        "https://example.org/greet/1.0/hello".to_owned(),
        json!({"n": 1}),
    )
    .from(alice.did().to_string())
    .to(bob.did().to_string())
    .created_time(NOW)
    .finalize();
    let options = PackEncryptedOptions::default();
    let pack = message.pack_encrypted(
        bob.did().as_str(),
        Some(alice.did().as_str()),
        None,
        &oracle.dids,
        &oracle.secrets,
        &options,
    );
    let (packed, _) = wait(pack).unwrap();
    let verified = bob_unpacks(&packed).unwrap();
    assert_eq!(verified.sender(), alice.did());
    assert_eq!(
        (
            verified.message().id.as_str(),
            &verified.message().body["n"]
        ),
        ("m-1", &json!(1))
    );
}

/// The oracle also encrypts without a sender, and signs: neither is good enough for us.
#[test]
fn the_oracles_anonymous_messages_are_refused() {
    let (alice, bob) = (alice(), bob());
    let oracle = Oracle::new(&[alice.did(), bob.did()], &[(&alice, 1)]);
    let message = Message::build("m-1".to_owned(), "t".to_owned(), json!({}))
        .from(alice.did().to_string())
        .to(bob.did().to_string())
        .finalize();
    let options = PackEncryptedOptions::default();
    let pack = message.pack_encrypted(
        bob.did().as_str(),
        None,
        None,
        &oracle.dids,
        &oracle.secrets,
        &options,
    );
    let (packed, _) = wait(pack).unwrap();
    assert_eq!(bob_unpacks(&packed).unwrap_err().kind(), "anoncrypt");
}

#[test]
fn a_recipient_with_several_keys_gets_a_block_for_each_sorted_by_id() {
    // Twelve keys, so that `#key-10` sorts before `#key-2`.
    let mut did = "did:peer:2".to_owned();
    for seed in 20..32u8 {
        let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from([seed; 32]));
        did = format!(
            "{did}.E{}",
            crate::key::PublicKey::x25519(public.as_bytes()).to_multibase()
        );
    }
    let did: Did = did.parse().unwrap();
    let packed = pack(&alice(), &did, &greeting(), &Resolver::default()).unwrap();
    assert_eq!(packed.endpoint(), None);
    let envelope: serde_json::Value = serde_json::from_slice(packed.envelope()).unwrap();
    let kids: Vec<&str> = envelope["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["header"]["kid"].as_str().unwrap())
        .collect();
    let mut sorted = kids.clone();
    sorted.sort_unstable();
    assert_eq!(kids, sorted);
    assert_eq!(kids.len(), 12);
    assert_eq!(kids[1], format!("{did}#key-10"));
    // Our own reader agrees with `apv`, and the oracle too.
    assert!(crate::envelope::Envelope::parse(packed.envelope()).is_ok());
    let unrelated = bob();
    let oracle = Oracle::new(&[alice().did(), &did], &[(&unrelated, 2)]);
    let error = oracle.unpack(packed.envelope()).unwrap_err();
    assert_eq!(
        error.kind(),
        didcomm::error::ErrorKind::SecretNotFound,
        "apv is checked before secrets are looked up"
    );
}

#[test]
fn a_message_that_contradicts_its_envelope_is_not_packed() {
    let (alice, bob, mallory) = (alice(), bob(), mallory());
    let resolver = Resolver::default();
    let try_pack = |message: &Plaintext| pack(&alice, bob.did(), message, &resolver);

    let mut message = greeting();
    message.from = Some(mallory.did().clone());
    assert!(matches!(try_pack(&message), Err(PackError::From { .. })));
    let mut message = greeting();
    message.to = vec![mallory.did().clone()];
    assert!(matches!(try_pack(&message), Err(PackError::To { .. })));
    let mut message = greeting();
    message.expires_time = None;
    assert!(matches!(try_pack(&message), Err(PackError::NoExpiry)));
    assert!(matches!(
        try_pack(&greeting().with_thid("")),
        Err(PackError::Bounds(_))
    ));

    let keyless = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
        .parse()
        .unwrap();
    let error = pack(&alice, &keyless, &greeting(), &resolver).unwrap_err();
    assert!(matches!(error, PackError::Keys { got: 0, .. }), "{error}");
    let unknown = "did:web:example.com".parse().unwrap();
    assert!(matches!(
        pack(&alice, &unknown, &greeting(), &resolver),
        Err(PackError::Resolve { .. })
    ));
}

#[test]
fn did_key_and_did_peer_0_can_be_talked_to() {
    let signing = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let key = crate::key::PublicKey::ed25519(signing.verifying_key().as_bytes()).to_multibase();
    for did in [format!("did:key:{key}"), format!("did:peer:0{key}")] {
        let did: Did = did.parse().unwrap();
        let document = resolve(&did).unwrap();
        let agreement = document.key_agreement_keys();
        // The derived secret must match the derived public key.
        let secret = x25519_dalek::StaticSecret::from(signing.to_scalar_bytes());
        assert_eq!(
            agreement[0].public,
            x25519_dalek::PublicKey::from(&secret).to_bytes()
        );
        assert!(pack(&alice(), &did, &greeting(), &Resolver::default()).is_ok());
    }
}
