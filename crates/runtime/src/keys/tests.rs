use beacon_cohort::ids::{CohortId, PeerId};
use bitcoin::Network;
use static_assertions::assert_not_impl_any;

use super::*;

// What is secret can neither be written nor shown, and no second copy of it is made by accident. `Drop` is Zeroizing's.
assert_not_impl_any!(Seed: Clone, Copy, fmt::Display, serde::Serialize, serde::de::DeserializeOwned);
assert_not_impl_any!(IdentitySecrets: Clone, Copy, fmt::Display, serde::Serialize, serde::de::DeserializeOwned);
assert_not_impl_any!(Passphrase: Clone, Copy, fmt::Display, serde::Serialize, serde::de::DeserializeOwned);
assert_not_impl_any!(Unlock: Clone, Copy, fmt::Display, serde::Serialize, serde::de::DeserializeOwned);
assert_not_impl_any!(beacon_didcomm::Identity: Clone, Copy, fmt::Display, serde::Serialize, serde::de::DeserializeOwned);

/// The phrase of 32 zero bytes. The answers below come from an independent Python program (hashlib, hmac).
fn zeros() -> Seed {
    Seed::from_phrase(&format!("{}art", "abandon ".repeat(23))).unwrap()
}

#[test]
fn the_bip39_seed_is_pinned() {
    assert_eq!(
        hex::encode(zeros().bytes.as_slice()),
        "408b285c123836004f4b8842c89324c1f01382450c0d439af345ba7fc49acf70\
         5489c6fc77dbd4e3dc1dd8cc6bc9f043db8ada1e243c4a0eafb290d399480840"
    );
    assert_eq!(Seed::from_entropy(&[0; 32]).phrase, zeros().phrase);
}

#[test]
fn identity_keys_are_pinned() {
    let cases = [
        (
            0,
            "11580de837e19c3e925090e69b47c33e4b96d693a78dc7c5bc977d75b87c8b76",
            "76747dace806292b7179a5e596b10771bbadd0da8a6789070d1af814fc22c57b",
        ),
        (
            1,
            "569da9f7888921d6b78d5f03f0ffd23e2a230c4c62aeb13fade13e1d11b6d491",
            "d39ea02f4f869f694be8135894bcbaf6027ffc41b0c5bfb1804057227eed92bc",
        ),
        (
            u32::MAX,
            "51661bd4edebf3ee364ef4b6377a08df1b903607eff35a9b2e5f08c7268ceba7",
            "9e97ea9878795c1057350c197a0c98d2e9382ff0d0c9bb97e708d6057c21d3db",
        ),
    ];
    for (index, ed25519, x25519) in cases {
        let keys = zeros().identity_secrets(index);
        assert_eq!(
            hex::encode(keys.ed25519.as_slice()),
            ed25519,
            "ed25519 {index}"
        );
        assert_eq!(
            hex::encode(keys.x25519.as_slice()),
            x25519,
            "x25519 {index}"
        );
    }
}

#[test]
fn cohort_keys_are_pinned() {
    let cases = [
        (
            Network::Bitcoin,
            0,
            "5570e41be38aefff739c2d4f2ecd670c50a4d04a86d632e23f70f2aa3a70eafc",
        ),
        (
            Network::Regtest,
            0,
            "7c55c0759c41bb118a3be93806f45c36b6b8e0309e718225f503d3403cc89dd6",
        ),
        (
            Network::Signet,
            0,
            "7c55c0759c41bb118a3be93806f45c36b6b8e0309e718225f503d3403cc89dd6",
        ),
        (
            Network::Testnet4,
            1,
            "2f9407d3be7796e851472324b0f7d53769c67aeb968ee0dfbc24bf519f75305b",
        ),
        (
            Network::Regtest,
            0x7fff_ffff,
            "57819dd61738c79042fef544ffa5cf1344f4ff30490310ff2d32a6c550dd4cdc",
        ),
    ];
    for (network, index, key) in cases {
        assert_eq!(
            hex::encode(zeros().cohort_key(network, &[index]).unwrap().as_slice()),
            key,
            "{network} {index}"
        );
    }
}

#[test]
fn keys_of_dids_are_pinned() {
    let cases = [
        (
            Network::Bitcoin,
            0,
            "85ac5d23e9d1b01c96724c82f0c40a5b20b3515f8e0f779212f5a9b890f19d75",
        ),
        (
            Network::Regtest,
            0,
            "25442fefd79c3614bfda0136029d219452652907e483907e006175c41b5ba1ef",
        ),
        (
            Network::Signet,
            1,
            "eb7239d1b564df08d4a02ad68a4c4b7bf4febcdb5108988eb70738ecb93ed5d2",
        ),
        (
            Network::Testnet4,
            0x7fff_ffff,
            "8c1526a5633196cfe9743643b01b73c5f77af6e96ce9f1b13111c261e86ca75c",
        ),
    ];
    for (network, index, key) in cases {
        let derived = zeros().did_key(network, index).unwrap();
        assert_eq!(hex::encode(derived.as_slice()), key, "{network} {index}");
    }
    assert!(zeros().did_key(Network::Regtest, 0x8000_0000).is_err());
}

#[test]
fn recovery_keys_are_pinned() {
    let cases = [
        (
            Network::Bitcoin,
            0,
            "bc7d66e4ab3a101402fffbdbfc19e5837f23c9e156d442fea0762567ca089089",
        ),
        (
            Network::Regtest,
            0,
            "de66acbbd8baaea886ea893c9b07afbe6017c6a41eef25b36800c09bc41104ee",
        ),
        (
            Network::Signet,
            1,
            "4538e45f4a525199bb491d506e0f930cc173a578bf67bd69de55fb194e5def6f",
        ),
    ];
    for (network, index, key) in cases {
        let derived = zeros().recovery_key(network, index).unwrap();
        assert_eq!(hex::encode(derived.as_slice()), key, "{network} {index}");
    }
}

/// The whole way from a cohort to its key: coordinator `did:example:carol`, cohort id 1.
#[test]
fn a_cohorts_key_and_leaf_nonces_follow_from_the_phrase_alone() {
    let cohort = CohortId(uuid::Uuid::from_u128(1));
    let path = KeyPath::of_cohort(
        BtcNetwork::Regtest,
        &PeerId::new("did:example:carol"),
        cohort,
    );
    for (network, key) in [
        (
            Network::Bitcoin,
            "9ba39ec5fee3cc003ecb9e857e4e7536c68f0726223e983ed6db85c548d9357d",
        ),
        (
            Network::Regtest,
            "bdbb45225b76342b7105844bbb89e1cd51034716fbef4f4df3074ce14bfd0d9b",
        ),
    ] {
        let derived = zeros().cohort_key(network, path.steps()).unwrap();
        assert_eq!(hex::encode(derived.as_slice()), key, "{network}");
    }
    assert_eq!(
        hex::encode(zeros().leaf_secret().as_slice()),
        "9a0668873244aa22a39eb44a018e7bc67ea086da6694354528199fd488ba54ea"
    );
    let logged = serde_json::to_string(&path).unwrap();
    assert_eq!(
        logged,
        r#"{"network":"regtest","cohort":[650416926,618112451,1624956995,1146373628,2049815516,1865218114,737609738,180510163]}"#
    );
    assert_eq!(serde_json::from_str::<KeyPath>(&logged).unwrap(), path);
    let older: KeyPath = serde_json::from_str(r#"{"network":"regtest","index":3}"#).unwrap();
    assert_eq!(
        older.steps(),
        [3],
        "logs of older versions count their keys"
    );
}

#[test]
fn a_cohort_index_beyond_the_hardened_range_is_refused() {
    let error = zeros()
        .cohort_key(Network::Regtest, &[0x8000_0000])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "step 2147483648 of a key's path is out of range, expected at most 2147483647"
    );
}

#[test]
fn debug_output_holds_no_secret() {
    let seed = zeros();
    assert_eq!(format!("{seed:?}"), "Seed(redacted)");
    assert_eq!(
        format!("{:?}", seed.identity_secrets(0)),
        "IdentitySecrets(redacted)"
    );
}
