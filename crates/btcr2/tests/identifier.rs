//! Identifiers: the specification's examples, exact inversion, and every malformed kind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use beacon_btcr2::identifier::{DidError, MAX_DID_LEN};
use beacon_btcr2::{Did, GenesisBytes, Hash32, Network};
use bech32::{Bech32, Bech32m, Hrp};
use bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
use proptest::prelude::*;

const KEY: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const KEY_DID: &str = "did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96";
const DOCUMENT_DID: &str =
    "did:btcr2:x1qhjw6jnhwcyu5wau4x0cpwvz74c3g82c3uaehqpaf7lzfgmnwsd7spmmf54";

fn refusal(text: &str) -> DidError {
    text.parse::<Did>().unwrap_err()
}

/// A DID of these parts, whatever they mean.
fn did(hrp: &str, bytes: &[u8]) -> String {
    let hrp = Hrp::parse(hrp).unwrap();
    format!(
        "did:btcr2:{}",
        bech32::encode::<Bech32m>(hrp, bytes).unwrap()
    )
}

/// First byte, then as many bytes of a valid key or of a hash.
fn bytes(first: u8, length: usize) -> Vec<u8> {
    let genesis = hex::decode(KEY.repeat(2)).unwrap();
    std::iter::once(first)
        .chain(genesis.into_iter().take(length))
        .collect()
}

#[test]
fn the_examples_of_the_specification_are_read_and_written() {
    let key: PublicKey = KEY.parse().unwrap();
    let did = Did::new(Network::Bitcoin, GenesisBytes::Key(key));
    assert_eq!(did.as_str(), KEY_DID);
    assert_eq!(KEY_DID.parse::<Did>().unwrap(), did);

    let hash = "e4ed4a777609ca3bbca99f80b982f571141d588f3b9b803d4fbe24a373741be8";
    let genesis = GenesisBytes::Document(Hash32::from_hex(hash).unwrap());
    let did: Did = DOCUMENT_DID.parse().unwrap();
    assert_eq!(
        (did.network(), *did.genesis()),
        (Network::Mutinynet, genesis)
    );
    assert_eq!(Did::new(Network::Mutinynet, genesis).as_str(), DOCUMENT_DID);
    assert!(KEY_DID.len() == MAX_DID_LEN && DOCUMENT_DID.len() < MAX_DID_LEN);
}

#[test]
fn every_network_has_its_value_and_name() {
    let key = GenesisBytes::Key(KEY.parse().unwrap());
    for (value, network) in (0_u8..).zip(Network::ALL) {
        let text = did("k", &bytes(value, 33));
        assert_eq!(text.parse::<Did>().unwrap(), Did::new(network, key));
        assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
    }
    for name in ["", "mainnet", "Bitcoin", "testnet", "custom", "6"] {
        assert_eq!(
            name.parse::<Network>(),
            Err(DidError::NetworkName { got: name.into() })
        );
    }
}

#[test]
fn a_did_of_another_method_or_shape_is_refused() {
    for text in [
        "",
        "did",
        "did:btcr2",
        "did:btc1:k1qq",
        "did:key:z6Mk",
        "DID:btcr2:k1qq",
        " did:btcr2:k1qq",
    ] {
        assert_eq!(refusal(text), DidError::Prefix { got: text.into() });
    }
    for (tail, from) in [("#initialKey", '#'), ("?versionId=1", '?'), ("/a#b", '/')] {
        for did in [DOCUMENT_DID, KEY_DID, "did:btcr2:k1"] {
            assert_eq!(refusal(&format!("{did}{tail}")), DidError::Url { from });
        }
    }
    for tail in [" ", "\n"] {
        let text = format!("{DOCUMENT_DID}{tail}");
        let refused = refusal(&text);
        assert!(
            matches!(
                refused,
                DidError::Bech32m { .. } | DidError::TooLong { .. } | DidError::UpperCase { .. }
            ),
            "{refused}"
        );
    }
    assert_eq!(
        refusal(&"did:btcr2:".repeat(100)),
        DidError::TooLong { got: 1000 }
    );
    for id in ["", "k", "k1", "1qqqqqq", "k1qqqqqqq", "k1qqp8é"] {
        let refused = refusal(&format!("did:btcr2:{id}"));
        assert!(
            matches!(refused, DidError::Bech32m { .. }),
            "{id}: {refused}"
        );
    }
}

#[test]
fn upper_and_mixed_case_are_refused() {
    let upper = format!("did:btcr2:{}", KEY_DID[10..].to_uppercase());
    assert_eq!(refusal(&upper), DidError::UpperCase { at: 10, got: 'K' });
    let mixed = KEY_DID.replace("hmkf96", "hmKf96");
    assert_eq!(
        refusal(&mixed),
        DidError::UpperCase {
            at: KEY_DID.len() - 4,
            got: 'K'
        }
    );
}

#[test]
fn bech32_of_the_first_kind_is_refused() {
    let first = bech32::encode::<Bech32>(Hrp::parse("k").unwrap(), &bytes(0, 33)).unwrap();
    let refused = refusal(&format!("did:btcr2:{first}"));
    assert!(matches!(refused, DidError::Bech32m { .. }), "{refused}");
}

#[test]
fn a_foreign_human_readable_part_is_refused() {
    for hrp in ["b", "kx", "xk", "bc", "1", "k1"] {
        assert_eq!(
            refusal(&did(hrp, &bytes(0, 30))),
            DidError::Kind { got: hrp.into() }
        );
    }
}

#[test]
fn a_wrong_length_is_refused() {
    for (hrp, expected) in [("k", 34), ("x", 33)] {
        for length in [0, 1, 31, 32, 33] {
            let bytes = bytes(0, length);
            if bytes.len() != expected {
                let got = bytes.len();
                assert_eq!(
                    refusal(&did(hrp, &bytes)),
                    DidError::Length { got, expected }
                );
            }
        }
    }
    assert_eq!(
        refusal(&did("x", &[])),
        DidError::Length {
            got: 0,
            expected: 33
        }
    );
}

#[test]
fn other_versions_and_networks_are_refused() {
    for version in 1..16_u8 {
        let refused = refusal(&did("k", &bytes(version << 4, 33)));
        assert_eq!(refused, DidError::Version { got: version + 1 });
    }
    for got in 6..12 {
        assert_eq!(
            refusal(&did("x", &bytes(got, 32))),
            DidError::ReservedNetwork { got }
        );
    }
    for got in 12..16 {
        assert_eq!(
            refusal(&did("k", &bytes(got, 33))),
            DidError::CustomNetwork { got }
        );
    }
}

#[test]
fn bytes_that_are_no_compressed_key_are_refused() {
    let mut not_on_the_curve = bytes(0, 33);
    not_on_the_curve[1..].fill(5);
    not_on_the_curve[1] = 2;
    let mut hybrid = bytes(0, 33);
    hybrid[1] = 6;
    let mut uncompressed = bytes(0, 33);
    uncompressed[1] = 4;
    for bytes in [not_on_the_curve, hybrid, uncompressed, vec![0; 34]] {
        let got = hex::encode(&bytes[1..]);
        assert_eq!(refusal(&did("k", &bytes)), DidError::NotAKey { got });
    }
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    use bech32::Fe32IterExt as _;
    use bech32::primitives::decode::CheckedHrpstring;
    for canonical in [KEY_DID, DOCUMENT_DID] {
        let id = CheckedHrpstring::new::<Bech32m>(&canonical[10..]).unwrap();
        let mut symbols: Vec<_> = id.fe32_iter::<std::iter::Empty<u8>>().collect();
        let last = symbols.last_mut().unwrap();
        *last = bech32::Fe32::try_from(last.to_u8() | 1).unwrap();
        let hrp = id.hrp();
        let padded: String = symbols
            .into_iter()
            .with_checksum::<Bech32m>(&hrp)
            .chars()
            .collect();
        let got = format!("did:btcr2:{padded}");
        let expected = canonical.to_owned();
        assert_eq!(refusal(&got), DidError::NotCanonical { got, expected });
    }
}

#[test]
fn the_malformed_dids_of_the_published_suite_are_refused() {
    // Scenarios n01 (checksum), n02 (padding) and n03 (network) of its regtest sets.
    let checksum =
        refusal("did:btcr2:k1qgp0hy8cwcgrj7cw8ufawj8gmmfqsaew83sh8f40wfzntspety3ep9cz42djq");
    assert!(matches!(checksum, DidError::Bech32m { .. }), "{checksum}");
    let padding =
        refusal("did:btcr2:x1qfrgktt67zycyup5hcxnhy4hayjyjszg39zkenhunsxc6mtlkc7chpda5q3");
    assert!(
        matches!(padding, DidError::NotCanonical { .. }),
        "{padding}"
    );
    let network =
        refusal("did:btcr2:k1qcp0cg8668q6wwdgtxh3lceakmc0l43wrjzc2pa8suhej0ywpspf3gqzjlp0l");
    assert_eq!(network, DidError::ReservedNetwork { got: 6 });
}

#[test]
fn relative_urls_are_made_absolute() {
    let did: Did = KEY_DID.parse().unwrap();
    assert_eq!(did.absolute("#key-1"), format!("{KEY_DID}#key-1"));
    for absolute in [format!("{KEY_DID}#key-1"), "did:other:1#key-1".into()] {
        assert_eq!(did.absolute(&absolute), absolute);
    }
}

fn any_did() -> impl Strategy<Value = Did> {
    let key = any::<[u8; 32]>().prop_filter_map("a secret key", |secret| {
        let secret = SecretKey::from_slice(&secret).ok()?;
        Some(GenesisBytes::Key(secret.public_key(&Secp256k1::new())))
    });
    let document = any::<[u8; 32]>().prop_map(|hash| GenesisBytes::Document(Hash32(hash)));
    let genesis = prop_oneof![key, document];
    (prop::sample::select(&Network::ALL[..]), genesis)
        .prop_map(|(network, genesis)| Did::new(network, genesis))
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(did in any_did()) {
        let read: Did = did.as_str().parse().unwrap();
        prop_assert_eq!(&read, &did);
        prop_assert_eq!(&Did::new(read.network(), *read.genesis()), &did);
        let json = serde_json::to_string(&did).unwrap();
        prop_assert_eq!(serde_json::from_str::<Did>(&json).unwrap(), did);
    }

    #[test]
    fn a_did_with_one_change_is_refused(did in any_did(), at in any::<prop::sample::Index>(), by in any::<char>()) {
        let characters: Vec<char> = did.as_str().chars().collect();
        let at = at.index(characters.len());
        let mut replaced = characters.clone();
        replaced[at] = by;
        let mut inserted = characters.clone();
        inserted.insert(at, by);
        let mut removed = characters.clone();
        removed.remove(at);
        for changed in [replaced, inserted, removed] {
            let text: String = changed.iter().collect();
            prop_assert!(changed == characters || text.parse::<Did>().is_err(), "{}", text);
        }
    }

    #[test]
    fn nothing_but_its_own_encoding_is_a_did(bytes in prop::collection::vec(any::<u8>(), 30..36), key in any::<bool>()) {
        let text = did(if key { "k" } else { "x" }, &bytes);
        if let Ok(read) = text.parse::<Did>() {
            prop_assert_eq!(read.as_str(), text);
        }
    }
}
