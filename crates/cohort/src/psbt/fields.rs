//! The fields of BIP373, which `bitcoin` keeps as raw keys.
//!
//! Participants stand under their aggregate before any tweak. Nonces and partial signatures stand under the key that the
//! signature is for: with a taproot tweak, the output key. Both are whole points, 33 bytes. (The BIP's text can be read
//! otherwise; its test vectors and Bitcoin Core have it so.)

use bitcoin::XOnlyPublicKey;
use bitcoin::psbt::raw::Key;

use crate::musig::BeaconKey;
use crate::values::{CohortKey, PartialSignature, PublicNonce};

/// `PSBT_IN_MUSIG2_PARTICIPANT_PUBKEYS`.
pub(super) const IN_PARTICIPANTS: u8 = 0x1a;
/// `PSBT_IN_MUSIG2_PUB_NONCE`.
const IN_NONCE: u8 = 0x1b;
/// `PSBT_IN_MUSIG2_PARTIAL_SIG`.
const IN_PARTIAL: u8 = 0x1c;
/// `PSBT_OUT_MUSIG2_PARTICIPANT_PUBKEYS`.
pub(super) const OUT_PARTICIPANTS: u8 = 0x08;

/// Bytes of a compressed key.
const KEY: usize = 33;

/// A field that was read.
pub(super) enum Field {
    Participants(Vec<CohortKey>),
    Nonce(CohortKey, PublicNonce),
    Partial(CohortKey, PartialSignature),
}

/// The x coordinate of a compressed point.
pub(super) fn x_only(point: &[u8; 33]) -> Option<XOnlyPublicKey> {
    XOnlyPublicKey::from_slice(&point[1..]).ok()
}

pub(super) fn participants(type_value: u8, beacon: &BeaconKey) -> (Key, Vec<u8>) {
    let key = beacon.aggregate_bytes().to_vec();
    let keys = beacon.keys().iter().flat_map(|key| key.to_bytes());
    (Key { type_value, key }, keys.collect())
}

pub(super) fn nonce(beacon: &BeaconKey, key: &CohortKey, nonce: &PublicNonce) -> (Key, Vec<u8>) {
    let key = contribution(IN_NONCE, beacon, key);
    (key, nonce.to_bytes().to_vec())
}

pub(super) fn partial(
    beacon: &BeaconKey,
    key: &CohortKey,
    partial: &PartialSignature,
) -> (Key, Vec<u8>) {
    let key = contribution(IN_PARTIAL, beacon, key);
    (key, partial.to_bytes().to_vec())
}

fn contribution(type_value: u8, beacon: &BeaconKey, key: &CohortKey) -> Key {
    let key = [key.to_bytes(), beacon.output_bytes()].concat();
    Key { type_value, key }
}

/// Reads a field of an input; `None` where it is none of MuSig2's.
pub(super) fn read(beacon: &BeaconKey, key: &Key, value: &[u8]) -> Result<Option<Field>, String> {
    Ok(Some(match key.type_value {
        IN_PARTICIPANTS => {
            if key.key != beacon.aggregate_bytes() {
                return Err("got participants of another aggregate key".to_owned());
            }
            if !value.len().is_multiple_of(KEY) {
                let got = value.len();
                return Err(format!(
                    "got participants in {got} bytes, expected 33 for each key"
                ));
            }
            Field::Participants(
                value
                    .chunks_exact(KEY)
                    .map(cohort_key)
                    .collect::<Result<_, _>>()?,
            )
        }
        IN_NONCE => {
            let value = sized(value, "public nonce")?;
            let nonce = PublicNonce::from_bytes(&value).map_err(|error| error.to_string())?;
            Field::Nonce(contributor(beacon, &key.key)?, nonce)
        }
        IN_PARTIAL => {
            let value = sized(value, "partial signature")?;
            let partial =
                PartialSignature::from_bytes(&value).map_err(|error| error.to_string())?;
            Field::Partial(contributor(beacon, &key.key)?, partial)
        }
        _ => return Ok(None),
    }))
}

/// The member in the key of a nonce or partial signature.
fn contributor(beacon: &BeaconKey, key: &[u8]) -> Result<CohortKey, String> {
    let (member, aggregate) = key.split_at_checked(KEY).ok_or_else(|| {
        let got = key.len();
        format!("got a MuSig2 field with a key of {got} bytes, expected 66")
    })?;
    if aggregate.len() > KEY {
        return Err(
            "got a MuSig2 field for a script leaf, expected one for the key path".to_owned(),
        );
    }
    if aggregate != beacon.output_bytes() {
        return Err("got a MuSig2 field under another key than the beacon's output key".to_owned());
    }
    let member = cohort_key(member)?;
    if beacon.keys().binary_search(&member).is_err() {
        return Err(format!(
            "got a MuSig2 field of {member}, which is no member's key"
        ));
    }
    Ok(member)
}

fn cohort_key(bytes: &[u8]) -> Result<CohortKey, String> {
    CohortKey::from_bytes(&sized(bytes, "key")?).map_err(|error| error.to_string())
}

fn sized<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], String> {
    let got = bytes.len();
    bytes
        .try_into()
        .map_err(|_| format!("got a {what} of {got} bytes, expected {N}"))
}
