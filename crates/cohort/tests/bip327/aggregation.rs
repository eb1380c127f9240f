//! Keys, tweaks and nonces put together.

use beacon_cohort::musig::aggregate_nonces;
use beacon_cohort::values::{CohortKey, PublicNonce};
use serde_json::Value;

use super::*;

#[test]
fn key_sort() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/key_sort_vectors.json")).unwrap();
    let parse = |name| -> Vec<CohortKey> {
        list(&vectors, name)
            .iter()
            .map(|key| key.as_str().unwrap().parse().unwrap())
            .collect()
    };
    let mut keys = parse("pubkeys");
    keys.sort_unstable();
    assert_eq!(keys, parse("sorted_pubkeys"), "the one case of the file");
}

#[test]
fn key_agg() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/key_agg_vectors.json")).unwrap();
    let mut tally = Tally::of("key_agg", &vectors);
    for case in list(&vectors, "valid_test_cases") {
        let keys = chosen(&vectors, "pubkeys", case, "key_indices");
        let expected = bytes(text(case, "expected"));
        let lead = lead_cache(&keys, &Vec::new()).unwrap();
        assert_eq!(lead.agg_pk().to_byte_array(), *expected);
        let second: musig2::secp::Point = second_cache(&keys, &Vec::new())
            .unwrap()
            .aggregated_pubkey();
        assert_eq!(second.serialize_xonly(), *expected);
        tally.ran();
    }
    for case in list(&vectors, "error_test_cases") {
        let keys = chosen(&vectors, "pubkeys", case, "key_indices");
        let tweaks = tweaks(&vectors, case);
        assert_blames(&lead_cache(&keys, &tweaks).unwrap_err(), case);
        assert_blames(&second_cache(&keys, &tweaks).unwrap_err(), case);
        tally.ran();
    }
    tally.finish();
}

#[test]
fn nonce_agg() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/nonce_agg_vectors.json")).unwrap();
    let mut tally = Tally::of("nonce_agg", &vectors);
    let parse = |case| {
        let nonces = chosen(&vectors, "pnonces", case, "pnonce_indices")
            .into_iter()
            .enumerate();
        let nonces = nonces.map(|(signer, nonce)| {
            nonce
                .parse::<PublicNonce>()
                .map_err(|error| format!("pubnonce of signer {signer}: {error}"))
        });
        nonces.collect::<Result<Vec<_>, _>>()
    };
    for case in list(&vectors, "valid_test_cases") {
        let aggregated = aggregate_nonces(&parse(case).unwrap()).unwrap();
        assert_eq!(aggregated.to_bytes(), *bytes(text(case, "expected")));
        tally.ran();
    }
    for case in list(&vectors, "error_test_cases") {
        assert_blames(&parse(case).unwrap_err(), case);
        tally.ran();
    }
    tally.finish();
}

/// The lead library takes an aggregate key only as part of its own cache, so all but the last case need the second.
#[test]
fn nonce_gen() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/nonce_gen_vectors.json")).unwrap();
    let mut tally = Tally::of("nonce_gen", &vectors);
    for case in list(&vectors, "test_cases") {
        let optional = |name: &str| case[name].as_str().map(bytes);
        let seed: [u8; 32] = array(text(case, "rand_"));
        let key = musig2::secp::Point::from_slice(&bytes(text(case, "pk"))).unwrap();
        let (message, extra) = (optional("msg"), optional("extra_in"));
        let mut builder = match optional("sk") {
            Some(secret) => musig2::SecNonce::build_with_seckey(
                seed,
                musig2::secp::Scalar::from_slice(&secret).unwrap(),
            ),
            None => musig2::SecNonce::build_with_pubkey(seed, key),
        };
        if let Some(aggregate) = optional("aggpk") {
            let aggregate: [u8; 32] = aggregate.try_into().unwrap();
            builder =
                builder.with_aggregated_pubkey(musig2::secp::Point::lift_x(aggregate).unwrap());
        }
        if let Some(message) = &message {
            builder = builder.with_message(message);
        }
        if let Some(extra) = &extra {
            builder = builder.with_extra_input(extra);
        }
        let secret = builder.build();
        let expected = bytes(text(case, "expected_pubnonce"));
        assert_eq!(secret.serialize(), *bytes(text(case, "expected_secnonce")));
        assert_eq!(secret.public_nonce().serialize(), *expected);
        if optional("sk").is_none() {
            let key = secp256k1::PublicKey::from_byte_array_compressed(key.serialize()).unwrap();
            let seed = lead::SessionSecretRand::assume_uniformly_random(seed);
            let (_, public) = lead::new_nonce_pair(seed, None, None, key, None, None);
            assert_eq!(public.serialize(), *expected);
        }
        tally.ran();
    }
    tally.finish();
}
