//! Senders with a did:peer:4, which may call themselves by a long or a short name.

use serde_json::{Value, json};

use super::forge::Forgery;
use super::*;

/// A long and a short form whose key-agreement key has this secret.
fn long_and_short(secret: [u8; 32]) -> (Did, Did) {
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret));
    let key = crate::key::PublicKey::x25519(public.as_bytes()).to_multibase();
    let document = json!({
        "keyAgreement": [{ "id": "#k", "type": "Multikey", "publicKeyMultibase": key }],
    });
    crate::peer::encode_peer4(&document)
}

/// From the did:peer:4 with Mallory's secret to Bob, with these names.
fn message(skid_did: &Did, from: &Did, expires: u64) -> String {
    let mut content: Value = content();
    content["from"] = json!(from);
    content["expires_time"] = expires.into();
    let skid = format!("{skid_did}#k");
    let text = content.to_string();
    Forgery {
        sender_secret: agreement_secret(3),
        ..Forgery::honest(text.as_bytes(), &skid)
    }
    .make()
}

#[test]
fn the_peer_has_one_name_and_its_short_form_works_once_proven() {
    let (long, short) = long_and_short(agreement_secret(3));
    let resolver = Resolver::default();
    let open = |bytes: String| {
        unpack(
            bytes.as_bytes(),
            &bob(),
            &resolver,
            NOW,
            &UnpackLimits::default(),
        )
    };
    let soon = NOW + 60;

    assert_eq!(
        open(message(&short, &short, soon)).unwrap_err().kind(),
        "sender-unresolved"
    );
    // A refused message leaves nothing behind, even though its sender was proven.
    let refused = open(message(&long, &long, NOW - 1000)).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.proven_sender()),
        ("expired", Some(&long))
    );
    assert_eq!(
        open(message(&short, &short, soon)).unwrap_err().kind(),
        "sender-unresolved"
    );

    assert_eq!(open(message(&long, &long, soon)).unwrap().sender(), &long);
    for (skid_did, from) in [(&short, &short), (&short, &long), (&long, &short)] {
        assert_eq!(open(message(skid_did, from, soon)).unwrap().sender(), &long);
    }
    // Answers go to either name.
    for name in [&short, &long] {
        assert!(pack(&bob(), name, &greeting(), &resolver).is_ok());
    }
}

#[test]
fn another_peers_short_form_is_a_lie_like_any_other() {
    let (long, _) = long_and_short(agreement_secret(3));
    let (_, others) = long_and_short(agreement_secret(4));
    let error = bob_unpacks(message(&long, &others, NOW + 60)).unwrap_err();
    assert_eq!(
        (error.kind(), error.proven_sender()),
        ("from-mismatch", Some(&long))
    );
}

/// A document may list a method under another DID's name: it must not count as that DID's key, nor as its own.
#[test]
fn a_method_with_a_foreign_id_is_nobodys_key() {
    let public =
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(agreement_secret(3)));
    let key = crate::key::PublicKey::x25519(public.as_bytes()).to_multibase();
    let kid = alice().agreement_kid().to_owned();
    let document =
        json!({ "keyAgreement": [{ "id": kid, "type": "Multikey", "publicKeyMultibase": key }] });
    let (long, _) = crate::peer::encode_peer4(&document);
    assert_eq!(resolve(&long).unwrap().key_agreement_keys(), []);
}
