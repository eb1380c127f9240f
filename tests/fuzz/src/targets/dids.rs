//! DIDs as peers write them, and the documents that they lead to.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use beacon_didcomm::{
    Did, DidDocument, MAX_DID_LEN, PackError, Plaintext, Resolver, pack, resolve,
};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::envelopes::{NOW, alice};

/// Any text as a DID: what resolves has keys and endpoints that can be used, or are refused, without a panic.
pub fn did(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let result = serde_json::to_string(&Resolver::default().resolution(text)).unwrap();
    assert!(result.len() < 16 * MAX_DID_LEN, "{} bytes", result.len());
    match text.parse::<Did>() {
        Ok(did) => {
            assert_eq!(did.as_str(), text);
            assert!(text.len() <= MAX_DID_LEN);
            assert_eq!(
                format!("did:{}:{}", did.method(), did.method_specific_id()),
                text
            );
            use_did(&did);
        }
        Err(error) => {
            let words = error.to_string();
            assert!(
                words.len() < 1_024 && !words.contains(char::is_control),
                "{words:?}"
            );
        }
    }
}

fn use_did(did: &Did) {
    match resolve(did) {
        Ok(document) => {
            assert_eq!(document.id, *did);
            check_document(&document);
            let resolver = Resolver::new(1);
            resolver.remember(did);
            assert_eq!(resolver.resolve(did).unwrap(), document);
            assert_eq!(resolver.canonical(did), *did);
            write_to(did);
        }
        Err(error) => {
            let words = error.to_string();
            assert!(["INVALID_DID", "METHOD_NOT_SUPPORTED", "NOT_FOUND"].contains(&error.code()));
            assert!(
                words.len() < 16_384 && !words.contains(char::is_control),
                "{words:?}"
            );
        }
    }
}

/// Anybody may have a message for anybody.
fn write_to(did: &Did) {
    let message = Plaintext::new(Uuid::nil(), "https://example.org/1.0/x", NOW);
    match pack(&alice(), did, &message, &Resolver::default()) {
        Ok(packed) => assert!(packed.frame().len() < 1 << 20),
        Err(error) => refused(&error),
    }
}

fn refused(error: &PackError) {
    let words = error.to_string();
    assert!(words.len() < 16_384, "{words:?}");
}

/// Any JSON as a document, alone and inside of a did:peer:4.
pub fn document(data: &[u8]) {
    if let Ok(document) = serde_json::from_slice::<DidDocument>(data) {
        check_document(&document);
    }
    if let Some(did) = peer4(data) {
        use_did(&did);
    }
}

/// The long form whose document is this text: multibase of multicodec JSON, after the multihash of that.
pub fn peer4(document: &[u8]) -> Option<Did> {
    let encoded = multibase::encode(multibase::Base::Base58Btc, [b"\x80\x04", document].concat());
    if encoded.len() > MAX_DID_LEN {
        return None;
    }
    let hash = [&b"\x12\x20"[..], &Sha256::digest(&encoded)].concat();
    let hash = multibase::encode(multibase::Base::Base58Btc, hash);
    format!("did:peer:4{hash}:{encoded}").parse().ok()
}

fn check_document(document: &DidDocument) {
    let written = serde_json::to_value(document).unwrap();
    let read: DidDocument = serde_json::from_value(written).expect("a document can be read again");
    assert_eq!(read, *document);
    let keys = document.key_agreement_keys();
    for (at, key) in keys.iter().enumerate() {
        let own = key.kid.strip_prefix(document.id.as_str());
        assert!(own.is_some_and(|rest| rest.starts_with('#')), "{}", key.kid);
        assert!(
            !keys[..at].iter().any(|other| other.kid == key.kid),
            "{} twice",
            key.kid
        );
    }
    let _ = document.didcomm_service();
}

/// A did:peer:2 with one service, as it is encoded.
pub fn peer2(service: &str) -> String {
    let keys = alice().did().as_str().to_owned();
    let end = keys.find(".S").unwrap_or(keys.len());
    format!(
        "{}.S{}",
        &keys[..end],
        BASE64_URL_SAFE_NO_PAD.encode(service)
    )
}
