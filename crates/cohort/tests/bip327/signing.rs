//! Partial signatures made, verified and put together.

use beacon_cohort::musig::aggregate_nonces;
use beacon_cohort::values::{AggregatedNonce, PartialSignature, PublicNonce};
use musig2::secp::{MaybeScalar, Scalar};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

/// What a signer works with.
struct Signing<'a> {
    keys: Vec<&'a str>,
    tweaks: Tweaks<'a>,
    aggregated: String,
    message: Vec<u8>,
}

impl Signing<'_> {
    /// The partial signature that the second library makes with a fixed secret nonce; `Err` names what was refused.
    fn sign(&self, secret: &str, nonce: &musig2::SecNonce) -> Result<[u8; 32], String> {
        let cache = second_cache(&self.keys, &self.tweaks)?;
        let aggregated: AggregatedNonce = self
            .aggregated
            .parse()
            .map_err(|error| format!("aggnonce: {error}"))?;
        let aggregated = musig2::AggNonce::from_bytes(&aggregated.to_bytes()).unwrap();
        let secret = Scalar::from_hex(secret).unwrap();
        let partial: musig2::PartialSignature =
            musig2::sign_partial(&cache, secret, nonce.clone(), &aggregated, &self.message)
                .map_err(|error| error.to_string())?;
        Ok(partial.serialize())
    }

    /// Whether the partial signature verifies: by both libraries where the lead one takes the message.
    fn verifies(&self, signer: usize, nonce: &PublicNonce, partial: &PartialSignature) -> bool {
        let aggregated = musig2::AggNonce::from_hex(&self.aggregated).unwrap();
        let second = musig2::verify_partial(
            &second_cache(&self.keys, &self.tweaks).unwrap(),
            MaybeScalar::from_slice(&partial.to_bytes()).unwrap(),
            &aggregated,
            musig2::secp::Point::from_hex(self.keys[signer]).unwrap(),
            &musig2::PubNonce::from_bytes(&nonce.to_bytes()).unwrap(),
            &self.message,
        )
        .is_ok();
        if let Ok(message) = <&[u8; 32]>::try_from(&*self.message) {
            let cache = lead_cache(&self.keys, &self.tweaks).unwrap();
            let aggregated =
                lead::AggregatedNonce::from_byte_array(&array(&self.aggregated)).unwrap();
            let session = lead::Session::new(&cache, aggregated, message);
            let key =
                secp256k1::PublicKey::from_byte_array_compressed(array(self.keys[signer])).unwrap();
            let nonce = lead::PublicNonce::from_byte_array(&nonce.to_bytes()).unwrap();
            let partial = lead::PartialSignature::from_byte_array(&partial.to_bytes()).unwrap();
            assert_eq!(
                session.partial_verify(&cache, &partial, &nonce, key),
                second,
                "the libraries disagree"
            );
        }
        second
    }
}

fn nonces(texts: &[&str]) -> Result<Vec<PublicNonce>, String> {
    let nonces = texts.iter().enumerate();
    nonces
        .map(|(signer, nonce)| {
            nonce
                .parse()
                .map_err(|error| format!("pubnonce of signer {signer}: {error}"))
        })
        .collect()
}

#[test]
fn sign_and_verify() {
    let vectors: Value = serde_json::from_str(include_str!(
        "../../vectors/bip327/sign_verify_vectors.json"
    ))
    .unwrap();
    let mut tally = Tally::of("sign_verify", &vectors);
    let pool = |name: &str, index: usize| list(&vectors, name)[index].as_str().unwrap();
    let secret_nonce = |index| {
        musig2::SecNonce::from_hex(pool("secnonces", index))
            .map_err(|error| format!("secnonce: {error}"))
    };
    let signing = |case: &Value, aggregated: &str| Signing {
        keys: chosen(&vectors, "pubkeys", case, "key_indices"),
        tweaks: Vec::new(),
        aggregated: aggregated.to_owned(),
        message: bytes(pool("msgs", number(case, "msg_index"))),
    };
    for case in list(&vectors, "valid_test_cases") {
        let aggregated = pool("aggnonces", number(case, "aggnonce_index"));
        let given = nonces(&chosen(&vectors, "pnonces", case, "nonce_indices")).unwrap();
        assert_eq!(aggregate_nonces(&given), aggregated.parse().ok());
        let signing = signing(case, aggregated);
        let partial = signing
            .sign(text(&vectors, "sk"), &secret_nonce(0).unwrap())
            .unwrap();
        assert_eq!(partial, *bytes(text(case, "expected")));
        let signer = number(case, "signer_index");
        assert!(signing.verifies(
            signer,
            &given[signer],
            &PartialSignature::from_bytes(&partial).unwrap()
        ));
        tally.ran();
    }
    for case in list(&vectors, "sign_error_test_cases") {
        let aggregated = pool("aggnonces", number(case, "aggnonce_index"));
        let nonce = secret_nonce(number(case, "secnonce_index"));
        let refusal = nonce
            .and_then(|nonce| signing(case, aggregated).sign(text(&vectors, "sk"), &nonce))
            .unwrap_err();
        match text(&case["error"], "type") {
            "value" => {
                let unknown = text(&case["error"], "message").contains("must be included");
                assert_eq!(
                    unknown,
                    refusal == musig2::errors::SigningError::UnknownKey.to_string(),
                    "{refusal}"
                );
                assert!(unknown || refusal.starts_with("secnonce"), "{refusal}");
            }
            _ => assert_blames(&refusal, case),
        }
        tally.ran();
    }
    for case in list(&vectors, "verify_fail_test_cases") {
        let given = nonces(&chosen(&vectors, "pnonces", case, "nonce_indices")).unwrap();
        let aggregated = aggregate_nonces(&given).unwrap().to_string();
        let signer = number(case, "signer_index");
        // A scalar of at least the group order does not get as far as being verified.
        let signing = signing(case, &aggregated);
        let partial: Option<PartialSignature> = text(case, "sig").parse().ok();
        let verifies =
            partial.is_some_and(|partial| signing.verifies(signer, &given[signer], &partial));
        assert!(!verifies, "{}", case["comment"]);
        tally.ran();
    }
    for case in list(&vectors, "verify_error_test_cases") {
        let given = nonces(&chosen(&vectors, "pnonces", case, "nonce_indices"));
        let keys = chosen(&vectors, "pubkeys", case, "key_indices");
        let refusal = given
            .and_then(|_| lead_cache(&keys, &Vec::new()).map(|_| ()))
            .unwrap_err();
        assert_blames(&refusal, case);
        tally.ran();
    }
    tally.finish();
}

#[test]
fn tweaked() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/tweak_vectors.json")).unwrap();
    let mut tally = Tally::of("tweak", &vectors);
    let nonce = musig2::SecNonce::from_hex(text(&vectors, "secnonce")).unwrap();
    let signing = |case| Signing {
        keys: chosen(&vectors, "pubkeys", case, "key_indices"),
        tweaks: tweaks(&vectors, case),
        aggregated: text(&vectors, "aggnonce").to_owned(),
        message: bytes(text(&vectors, "msg")),
    };
    for case in list(&vectors, "valid_test_cases") {
        let given = nonces(&chosen(&vectors, "pnonces", case, "nonce_indices")).unwrap();
        assert_eq!(
            aggregate_nonces(&given),
            text(&vectors, "aggnonce").parse().ok()
        );
        let partial = signing(case).sign(text(&vectors, "sk"), &nonce).unwrap();
        assert_eq!(partial, *bytes(text(case, "expected")));
        let signer = number(case, "signer_index");
        assert!(signing(case).verifies(
            signer,
            &given[signer],
            &PartialSignature::from_bytes(&partial).unwrap()
        ));
        tally.ran();
    }
    for case in list(&vectors, "error_test_cases") {
        assert_blames(
            &signing(case)
                .sign(text(&vectors, "sk"), &nonce)
                .unwrap_err(),
            case,
        );
        let signing = signing(case);
        assert_blames(
            &lead_cache(&signing.keys, &signing.tweaks).unwrap_err(),
            case,
        );
        tally.ran();
    }
    tally.finish();
}

#[test]
fn sig_agg() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/sig_agg_vectors.json")).unwrap();
    let mut tally = Tally::of("sig_agg", &vectors);
    let message: [u8; 32] = array(text(&vectors, "msg"));
    let partials = |case| {
        let partials = chosen(&vectors, "psigs", case, "psig_indices")
            .into_iter()
            .enumerate();
        let partials = partials.map(|(signer, partial)| {
            partial
                .parse::<PartialSignature>()
                .map_err(|error| format!("psig of signer {signer}: {error}"))
        });
        partials.collect::<Result<Vec<_>, _>>()
    };
    for case in list(&vectors, "valid_test_cases") {
        let keys = chosen(&vectors, "pubkeys", case, "key_indices");
        let (tweaks, partials) = (tweaks(&vectors, case), partials(case).unwrap());
        let given = nonces(&chosen(&vectors, "pnonces", case, "nonce_indices")).unwrap();
        let aggregated = text(case, "aggnonce");
        assert_eq!(aggregate_nonces(&given), aggregated.parse().ok());

        let cache = lead_cache(&keys, &tweaks).unwrap();
        let session = lead::Session::new(
            &cache,
            lead::AggregatedNonce::from_byte_array(&array(aggregated)).unwrap(),
            &message,
        );
        let scalars: Vec<_> = partials
            .iter()
            .map(|partial| lead::PartialSignature::from_byte_array(&partial.to_bytes()).unwrap())
            .collect();
        let signature = session
            .partial_sig_agg(&scalars.iter().collect::<Vec<_>>())
            .verify(&cache.agg_pk(), &message)
            .unwrap();
        assert_eq!(signature.to_byte_array(), *bytes(text(case, "expected")));

        let second: [u8; 64] = musig2::aggregate_partial_signatures(
            &second_cache(&keys, &tweaks).unwrap(),
            &musig2::AggNonce::from_hex(aggregated).unwrap(),
            partials
                .iter()
                .map(|partial| MaybeScalar::from_slice(&partial.to_bytes()).unwrap()),
            message,
        )
        .unwrap();
        assert_eq!(second, signature.to_byte_array());
        tally.ran();
    }
    for case in list(&vectors, "error_test_cases") {
        assert_blames(&partials(case).unwrap_err(), case);
        tally.ran();
    }
    tally.finish();
}

/// Neither library signs deterministically. The nonce derivation of BIP327's DeterministicSign is written out here; the
/// rest is the second library's.
#[test]
fn det_sign() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../vectors/bip327/det_sign_vectors.json")).unwrap();
    let mut tally = Tally::of("det_sign", &vectors);
    let sign = |case: &Value| -> Result<([u8; 66], [u8; 32]), String> {
        let x_only = list(case, "is_xonly")
            .iter()
            .map(|x_only| x_only.as_bool().unwrap());
        let tweaks = list(case, "tweaks")
            .iter()
            .map(|tweak| tweak.as_str().unwrap());
        // Unlike an aggregate of all signers, that of the others is refused where it holds infinity.
        let others: PublicNonce = text(case, "aggothernonce")
            .parse()
            .map_err(|error| format!("aggothernonce: {error}"))?;
        let signing = Signing {
            keys: chosen(&vectors, "pubkeys", case, "key_indices"),
            tweaks: tweaks.zip(x_only).collect(),
            aggregated: String::new(),
            message: bytes(
                list(&vectors, "msgs")[number(case, "msg_index")]
                    .as_str()
                    .unwrap(),
            ),
        };
        let aggregate: musig2::secp::Point =
            second_cache(&signing.keys, &signing.tweaks)?.aggregated_pubkey();
        let nonce = derived(
            text(&vectors, "sk"),
            case["rand"].as_str(),
            &others,
            &aggregate.serialize_xonly(),
            &signing.message,
        );
        let public = nonce.public_nonce();
        let aggregated = musig2::AggNonce::from_bytes(&others.to_bytes()).unwrap();
        let aggregated =
            musig2::AggNonce::new(aggregated.R1 + public.R1, aggregated.R2 + public.R2);
        let aggregated = hex::encode(aggregated.serialize());
        let partial = Signing {
            aggregated,
            ..signing
        }
        .sign(text(&vectors, "sk"), &nonce)?;
        Ok((public.serialize(), partial))
    };
    for case in list(&vectors, "valid_test_cases") {
        let (nonce, partial) = sign(case).unwrap();
        let expected = list(case, "expected");
        assert_eq!(nonce, *bytes(expected[0].as_str().unwrap()));
        assert_eq!(partial, *bytes(expected[1].as_str().unwrap()));
        tally.ran();
    }
    for case in list(&vectors, "error_test_cases") {
        let refusal = sign(case);
        let error = &case["error"];
        if error["message"]
            .as_str()
            .is_some_and(|message| message.contains("must be included"))
        {
            assert_eq!(
                refusal.unwrap_err(),
                musig2::errors::SigningError::UnknownKey.to_string()
            );
        } else {
            assert_blames(&refusal.unwrap_err(), case);
        }
        tally.ran();
    }
    tally.finish();
}

fn tagged(tag: &str, data: &[&[u8]]) -> [u8; 32] {
    let tag = Sha256::digest(tag);
    let hash = Sha256::new().chain_update(tag).chain_update(tag);
    data.iter()
        .fold(hash, Digest::chain_update)
        .finalize()
        .into()
}

fn derived(
    secret: &str,
    random: Option<&str>,
    others: &PublicNonce,
    aggregate: &[u8; 32],
    message: &[u8],
) -> musig2::SecNonce {
    let mut masked: [u8; 32] = array(secret);
    if let Some(random) = random {
        let mask = tagged("MuSig/aux", &[&bytes(random)]);
        masked
            .iter_mut()
            .zip(mask)
            .for_each(|(byte, mask)| *byte ^= mask);
    }
    let k = |number: u8| {
        let length = (message.len() as u64).to_be_bytes();
        let data = [
            &masked[..],
            &others.to_bytes(),
            aggregate,
            &length,
            message,
            &[number],
        ];
        Scalar::try_from(MaybeScalar::reduce_from(&tagged(
            "MuSig/deterministic/nonce",
            &data,
        )))
        .unwrap()
    };
    musig2::SecNonce::new(
        k(0),
        k(1),
        Scalar::from_hex(secret).unwrap().base_point_mul(),
    )
}
