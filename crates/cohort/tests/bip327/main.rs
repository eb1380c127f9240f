//! The vectors of BIP327 (`vectors/bip327/`): through our own types where they fit, through the library that signs, and,
//! where that one takes no fixed nonces or no such message, through the second library.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

mod aggregation;
mod signing;

use secp256k1::{Scalar, musig as lead};
use serde_json::Value;

/// What every case of a file is counted in.
struct Tally {
    file: &'static str,
    cases: usize,
    run: usize,
}

impl Tally {
    /// Counts the cases of a file: every entry of every list whose name ends in `test_cases`.
    fn of(file: &'static str, vectors: &Value) -> Self {
        let lists = vectors.as_object().unwrap().iter();
        let lists = lists.filter(|(name, _)| name.ends_with("test_cases"));
        let cases = lists.map(|(_, list)| list.as_array().unwrap().len()).sum();
        Self {
            file,
            cases,
            run: 0,
        }
    }

    fn ran(&mut self) {
        self.run += 1;
    }

    /// Every case was run: nothing is excluded.
    fn finish(self) {
        assert_eq!(self.run, self.cases, "{}", self.file);
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} is no list in {value}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} is no text in {value}"))
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    bytes(text).try_into().unwrap()
}

/// The texts of `pool` that a case names by index.
fn chosen<'a>(vectors: &'a Value, pool: &str, case: &Value, indices: &str) -> Vec<&'a str> {
    let pool = list(vectors, pool);
    let indices = list(case, indices).iter();
    indices
        .map(|index| {
            pool[usize::try_from(index.as_u64().unwrap()).unwrap()]
                .as_str()
                .unwrap()
        })
        .collect()
}

fn number(case: &Value, name: &str) -> usize {
    usize::try_from(case[name].as_u64().unwrap()).unwrap()
}

/// Tweaks in order, each plain or x-only.
type Tweaks<'a> = Vec<(&'a str, bool)>;

fn tweaks<'a>(vectors: &'a Value, case: &Value) -> Tweaks<'a> {
    let x_only = list(case, "is_xonly")
        .iter()
        .map(|x_only| x_only.as_bool().unwrap());
    chosen(vectors, "tweaks", case, "tweak_indices")
        .into_iter()
        .zip(x_only)
        .collect()
}

/// The lead library's aggregate, tweaked. `Err` names what was refused.
fn lead_cache(keys: &[&str], tweaks: &Tweaks<'_>) -> Result<lead::KeyAggCache, String> {
    let keys = keys.iter().enumerate().map(|(signer, key)| {
        let key: beacon_cohort::values::CohortKey = key
            .parse()
            .map_err(|error| format!("pubkey of signer {signer}: {error}"))?;
        Ok(secp256k1::PublicKey::from_byte_array_compressed(key.to_bytes()).unwrap())
    });
    let keys = keys.collect::<Result<Vec<_>, String>>()?;
    let mut cache = lead::KeyAggCache::new(&keys.iter().collect::<Vec<_>>());
    for (tweak, x_only) in tweaks {
        let tweak =
            Scalar::from_be_bytes(array(tweak)).map_err(|error| format!("tweak: {error}"))?;
        let tweaked = if *x_only {
            cache.pubkey_xonly_tweak_add(&tweak)
        } else {
            cache.pubkey_ec_tweak_add(&tweak)
        };
        tweaked.map_err(|error| format!("tweak: {error}"))?;
    }
    Ok(cache)
}

/// The second library's aggregate, tweaked.
fn second_cache(keys: &[&str], tweaks: &Tweaks<'_>) -> Result<musig2::KeyAggContext, String> {
    let keys = keys.iter().enumerate().map(|(signer, key)| {
        musig2::secp::Point::from_slice(&bytes(key))
            .map_err(|error| format!("pubkey of signer {signer}: {error}"))
    });
    let keys = keys.collect::<Result<Vec<_>, String>>()?;
    let mut cache = musig2::KeyAggContext::new(keys).map_err(|error| error.to_string())?;
    for (tweak, x_only) in tweaks {
        let tweak = musig2::secp::MaybeScalar::from_slice(&bytes(tweak))
            .map_err(|error| format!("tweak: {error}"))?;
        cache = cache
            .with_tweak(tweak, *x_only)
            .map_err(|error| format!("tweak: {error}"))?;
    }
    Ok(cache)
}

/// Checks that a refusal is for what the vector says: a contribution of one signer, or a value.
#[track_caller]
fn assert_blames(refusal: &str, case: &Value) {
    let error = &case["error"];
    let expected = match (text(error, "type"), error["signer"].as_u64()) {
        ("invalid_contribution", Some(signer)) => {
            format!("{} of signer {signer}", text(error, "contrib"))
        }
        ("invalid_contribution", None) => text(error, "contrib").to_owned(),
        _ => "tweak".to_owned(),
    };
    assert!(
        refusal.starts_with(&expected),
        "got {refusal:?}, expected {expected:?}: {}",
        case["comment"]
    );
}
