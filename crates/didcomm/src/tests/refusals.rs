//! Attacker tests: each builds a message that is right in everything but one thing, with real cryptography, so that
//! taking away the one check would let it through.

use serde_json::{Map, Value, json};

use super::forge::{Forgery, anoncrypt_to_bob, seal};
use super::*;

/// Refused before any sender was proven.
fn assert_unproven(bytes: impl AsRef<[u8]>, kind: &str) {
    let error = bob_unpacks(bytes).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!((error.proven_sender(), error.message_id()), (None, None));
}

/// Refused although the sender is proven to be Alice.
fn assert_proven(bytes: impl AsRef<[u8]>, kind: &str) -> UnpackError {
    let error = bob_unpacks(bytes).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.proven_sender(), Some(alice().did()));
    error
}

fn with(member: &str, value: Value) -> Value {
    let mut content = content();
    content[member] = value;
    content
}

fn without(member: &str) -> Value {
    let mut content = content();
    content.as_object_mut().unwrap().remove(member);
    content
}

fn forged(header: fn(&mut Value)) -> String {
    let skid = alice().agreement_kid().to_owned();
    Forgery {
        header,
        ..Forgery::honest(content().to_string().as_bytes(), &skid)
    }
    .make()
}

/// Mallory encrypts properly with her own key and writes Alice's DID into `from`.
#[test]
fn forged_from_is_refused_and_the_liar_is_named() {
    let mallory = mallory();
    let text = content().to_string();
    let forgery = Forgery {
        sender_secret: agreement_secret(3),
        ..Forgery::honest(text.as_bytes(), mallory.agreement_kid())
    };
    let error = bob_unpacks(forgery.make()).unwrap_err();
    assert_eq!(error.kind(), "from-mismatch");
    assert_eq!(error.proven_sender(), Some(mallory.did()));
    assert_eq!(
        (error.message_id(), error.thread_id()),
        (Some("42"), Some("42"))
    );
}

/// Mallory names Alice's key as the sender's and has only her own.
#[test]
fn a_key_id_without_its_key_proves_nothing() {
    let (text, alice) = (content().to_string(), alice());
    let forgery = Forgery {
        sender_secret: agreement_secret(3),
        ..Forgery::honest(text.as_bytes(), alice.agreement_kid())
    };
    assert_unproven(forgery.make(), "decryption");
}

#[test]
fn a_message_without_from_is_refused() {
    assert_proven(seal(&without("from")), "no-from");
}

/// A message for somebody else, re-encrypted to Bob by its sender or by a peer that shares its key.
#[test]
fn a_message_addressed_to_others_is_refused() {
    assert_proven(seal(&with("to", json!([mallory().did()]))), "not-addressed");
    assert_proven(seal(&without("to")), "not-addressed");
}

#[test]
fn a_bare_string_in_to_is_accepted_and_one_of_many_is_enough() {
    for to in [json!(bob().did()), json!([mallory().did(), bob().did()])] {
        let verified = bob_unpacks(seal(&with("to", to))).unwrap();
        assert!(verified.message().to.contains(bob().did()));
    }
}

#[test]
fn a_plaintext_message_is_refused() {
    assert_unproven(content().to_string(), "plaintext");
}

#[test]
fn a_signed_message_is_refused() {
    let kid = format!("{}#key-1", alice().did());
    let text = content().to_string();
    let jws = affinidi_messaging_didcomm::jws::sign::sign_ed25519(text.as_bytes(), &kid, &[1; 32])
        .unwrap();
    assert_unproven(&jws, "signed-only");
    // The same inside an envelope: the sender is proven, the inner kind is not ours.
    let nested: Value = serde_json::from_str(&jws).unwrap();
    let error = assert_proven(seal(&nested), "nested");
    assert_eq!(error.message_id(), None);
}

#[test]
fn an_anonymous_message_is_refused_also_around_a_good_one() {
    assert_unproven(anoncrypt_to_bob(&content()), "anoncrypt");
    let good: Value = serde_json::from_str(&seal(&content())).unwrap();
    assert_unproven(anoncrypt_to_bob(&good), "anoncrypt");
    assert_proven(seal(&good), "nested");
}

#[test]
fn other_algorithms_are_refused() {
    assert_unproven(forged(|h| h["alg"] = "ECDH-1PU+A128KW".into()), "algorithm");
    assert_unproven(forged(|h| h["enc"] = "XC20P".into()), "algorithm");
    assert_unproven(forged(|h| h["enc"] = "A256GCM".into()), "algorithm");
}

#[test]
fn the_outer_media_type_is_checked() {
    assert!(
        bob_unpacks(forged(|h| h["typ"] = "application/didcomm+encrypted".into())).is_ok(),
        "Python spelling"
    );
    assert_unproven(
        forged(|h| h["typ"] = "application/didcomm-signed+json".into()),
        "media-type",
    );
    assert_unproven(
        forged(|h| drop(h.as_object_mut().unwrap().remove("typ"))),
        "media-type",
    );
}

#[test]
fn a_missing_or_contradicted_sender_key_id_is_refused() {
    assert_unproven(
        forged(|h| drop(h.as_object_mut().unwrap().remove("skid"))),
        "no-sender-key-id",
    );
    assert_unproven(
        forged(|h| drop(h.as_object_mut().unwrap().remove("apu"))),
        "sender-info",
    );
    assert_unproven(
        forged(|h| h["apu"] = "ZGlkOmV4YW1wbGU6eCNr".into()),
        "sender-info",
    );
}

/// The library derives the key from `apv` and never asks whether it is the hash of the recipients.
#[test]
fn a_recipients_hash_that_is_not_one_is_refused() {
    assert_unproven(
        forged(|h| h["apv"] = "NcsuAnrRfPK69A-rkZ0L9XWUG4jMvNC3Zg74BPz53PA".into()),
        "recipients-hash",
    );
}

#[test]
fn recipients_are_counted_and_distinct() {
    let (text, alice, bob) = (content().to_string(), alice(), bob());
    let honest = || Forgery::honest(text.as_bytes(), alice.agreement_kid());
    let with_others = |count: usize| {
        let others = (0..count).map(|at| format!("did:example:other#{at}"));
        Forgery {
            kids: others.chain([bob.agreement_kid().to_owned()]).collect(),
            ..honest()
        }
        .make()
    };
    assert!(
        bob_unpacks(with_others(15)).is_ok(),
        "sixteen recipients are allowed, ours the last"
    );
    assert_unproven(with_others(16), "recipient-count");
    assert_unproven(
        Forgery {
            kids: vec![],
            ..honest()
        }
        .make(),
        "recipient-count",
    );
    let twice = vec![bob.agreement_kid().to_owned(); 2];
    assert_unproven(
        Forgery {
            kids: twice,
            ..honest()
        }
        .make(),
        "malformed",
    );
    let elsewhere = vec![mallory().agreement_kid().to_owned()];
    assert_unproven(
        Forgery {
            kids: elsewhere,
            ..honest()
        }
        .make(),
        "not-for-us",
    );
}

/// With an ephemeral key of small order, the ephemeral half of the secret is zero for everybody.
#[test]
fn an_ephemeral_key_of_small_order_is_refused() {
    assert_unproven(
        forged(|h| h["epk"]["x"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into()),
        "ephemeral-key",
    );
    assert_unproven(
        forged(|h| h["epk"]["crv"] = "P-256".into()),
        "ephemeral-key",
    );
}

/// With a sender key of small order, everybody could send in that name.
#[test]
fn a_sender_key_of_small_order_does_not_resolve() {
    let key = crate::key::PublicKey::x25519(&[0; 32]).to_multibase();
    let skid = format!("did:peer:2.E{key}#key-1");
    let text = content().to_string();
    assert_unproven(
        Forgery::honest(text.as_bytes(), &skid).make(),
        "sender-unresolved",
    );
}

#[test]
fn senders_that_cannot_be_resolved_are_refused() {
    let text = content().to_string();
    let from = |skid: &str| Forgery::honest(text.as_bytes(), skid).make();
    let did = alice().did().clone();
    assert_unproven(from("did:web:example.com#key-1"), "sender-unresolved");
    assert_unproven(from("did:peer:2.Vnonsense#key-1"), "sender-unresolved");
    assert_unproven(from(did.as_str()), "sender-unresolved");
    assert_unproven(
        from(&format!("did:peer:2.{}#key-2", "x".repeat(5000))),
        "sender-unresolved",
    );
    assert_unproven(from(&format!("{did}#key-1")), "unknown-sender-key");
    assert_unproven(from(&format!("{did}#key-3")), "unknown-sender-key");
}

#[test]
fn times_are_checked_to_the_second() {
    let limits = UnpackLimits::default();
    let times = |created: Option<u64>, expires: Option<u64>| {
        let mut content = without("created_time");
        let members: &mut Map<String, Value> = content.as_object_mut().unwrap();
        members.extend(created.map(|time| ("created_time".to_owned(), time.into())));
        members.extend(expires.map(|time| ("expires_time".to_owned(), time.into())));
        seal(&content)
    };
    let expiry = |created, expires| bob_unpacks(times(created, expires)).unwrap().expires_at();
    // At the edges.
    assert_eq!(expiry(None, Some(NOW - limits.skew)), NOW - limits.skew);
    assert_eq!(
        expiry(Some(NOW + limits.skew), None),
        NOW + limits.skew + DEFAULT_LIFETIME
    );
    let oldest = NOW - DEFAULT_LIFETIME - limits.skew;
    assert_eq!(expiry(Some(oldest), None), NOW - limits.skew);
    assert_eq!(
        expiry(Some(0), Some(NOW + limits.max_lifetime)),
        NOW + limits.max_lifetime
    );
    // One second beyond.
    assert_proven(times(None, Some(NOW - limits.skew - 1)), "expired");
    assert_proven(times(Some(oldest - 1), None), "expired");
    assert_proven(times(Some(NOW + limits.skew + 1), None), "from-the-future");
    assert_proven(times(Some(u64::MAX), Some(u64::MAX)), "from-the-future");
    assert_proven(
        times(None, Some(NOW + limits.max_lifetime + 1)),
        "lives-too-long",
    );
    assert_proven(times(None, Some(u64::MAX)), "lives-too-long");
    let error = assert_proven(times(None, None), "no-time");
    assert_eq!(error.message_id(), Some("42"));
}

#[test]
fn sizes_are_limited() {
    let bytes = seal(&content());
    let limits = UnpackLimits {
        max_bytes: bytes.len(),
        ..UnpackLimits::default()
    };
    let unpack_within =
        |limits| unpack(bytes.as_bytes(), &bob(), &Resolver::default(), NOW, limits);
    assert!(unpack_within(&limits).is_ok());
    let limits = UnpackLimits {
        max_bytes: bytes.len() - 1,
        ..limits
    };
    let error = unpack_within(&limits).unwrap_err();
    assert_eq!(error.kind(), "too-large");
    assert_eq!(
        error.to_string(),
        format!(
            "message of {} bytes, expected at most {}",
            bytes.len(),
            bytes.len() - 1
        )
    );
    assert_proven(seal(&with("id", "x".repeat(129).into())), "bounds");
    assert_proven(seal(&with("to", json!(vec![bob().did(); 17]))), "bounds");
}

#[test]
fn content_that_is_no_message_is_refused() {
    assert_proven(seal(&json!({})), "content");
    assert_proven(seal(&json!([1, 2])), "content");
    assert_proven(
        seal(&json!([
            "42",
            PLAINTEXT_TYP,
            "t",
            alice().did(),
            [bob().did()],
            null,
            null,
            NOW
        ])),
        "content",
    );
    assert_proven(seal(&with("typ", "text/plain".into())), "content");
    let error = assert_proven(
        seal(&with("created_time", "x".repeat(10_000).into())),
        "content",
    );
    assert!(
        error.to_string().len() < 300,
        "an error must not repeat what a stranger sent"
    );
    let alice = alice();
    let not_json = Forgery::honest(b"\xff\xfe", alice.agreement_kid()).make();
    assert_proven(not_json, "content");
}

#[test]
fn garbage_is_malformed() {
    for bytes in [
        &b""[..],
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        b"{\"ciphertext\":1}",
        b"{\"id\":\"1\"}",
    ] {
        assert_unproven(bytes, "malformed");
    }
    // The members' values without their names, which derived readers would take for the object.
    let good: Value = serde_json::from_str(&seal(&content())).unwrap();
    let listed = json!([
        good["protected"],
        good["recipients"],
        good["iv"],
        good["ciphertext"],
        good["tag"]
    ]);
    assert_unproven(listed.to_string(), "malformed");
    let mut envelope = good;
    envelope["protected"] = "e30".into();
    assert_unproven(envelope.to_string(), "malformed");
    assert_unproven("[".repeat(100_000), "malformed");
}

#[test]
fn any_of_several_identities_opens_its_own_messages() {
    let keyring = [mallory(), bob(), alice()];
    let verified = unpack(
        seal(&content()).as_bytes(),
        &keyring[..],
        &Resolver::default(),
        NOW,
        &UnpackLimits::default(),
    )
    .unwrap();
    assert_eq!(verified.recipient(), bob().did());
}
