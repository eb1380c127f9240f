//! Key and nonce aggregation (BIP327) and the beacon address (BIP341, key path only).
//!
//! The one place where `bitcoin`'s secp256k1 and the MuSig2 library's meet: they differ in version, so only
//! bytes pass between them (x-only key 32, sighash 32, signature 64).

use bitcoin::hashes::Hash as _;
use bitcoin::key::TweakedPublicKey;
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{Address, Script, ScriptBuf, TapSighashType, TapTweakHash, Transaction, TxOut};
use secp256k1::{PublicKey, Scalar, XOnlyPublicKey, musig, schnorr};
use serde::{Deserialize, Serialize};

use crate::values::{AggregatedNonce, CohortKey, PartialBytes, PartialSignature, PublicNonce};

/// A set of keys that cannot be a cohort's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// No key at all.
    #[error("got no cohort key, expected at least one")]
    Empty,
    /// One key twice: its holder would speak for two.
    #[error("got cohort key {0} twice, expected every key once")]
    Duplicate(CohortKey),
    /// The tweak is not a valid scalar, or leads to infinity; cannot be hit on purpose.
    #[error("the aggregate of these keys cannot be tweaked")]
    Tweak,
}

/// The aggregate of a cohort's keys with the BIP341 tweak of a key-only output: what signs for the beacon. Stored as the
/// keys: the rest is computed from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<CohortKey>", into = "Vec<CohortKey>")]
pub struct BeaconKey {
    keys: Vec<CohortKey>,
    /// Before the tweak.
    internal: PublicKey,
    cache: musig::KeyAggCache,
    output_key: XOnlyPublicKey,
    script: ScriptBuf,
}

impl BeaconKey {
    /// Aggregates the keys in KeySort order, whatever order they come in.
    pub fn aggregate(keys: impl IntoIterator<Item = CohortKey>) -> Result<Self, KeySetError> {
        let mut keys: Vec<CohortKey> = keys.into_iter().collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(KeySetError::Duplicate(pair[0]));
        }
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        let points: Vec<_> = keys.iter().map(CohortKey::point).collect();
        let mut cache = musig::KeyAggCache::new(&points);
        let internal = cache.agg_pk_full();
        let tweak = key_path_tweak(&cache.agg_pk()).ok_or(KeySetError::Tweak)?;
        let output = cache
            .pubkey_xonly_tweak_add(&tweak)
            .map_err(|_| KeySetError::Tweak)?;
        let (output_key, _) = output.x_only_public_key();
        Ok(Self {
            keys,
            internal,
            cache,
            output_key,
            script: ScriptBuf::new_p2tr_tweaked(tweaked(&output_key)),
        })
    }

    /// The members' keys in KeySort order.
    pub fn keys(&self) -> &[CohortKey] {
        &self.keys
    }

    /// The aggregate of the keys before the tweak, with its parity, 33 bytes: what BIP373 lists the participants under. Its
    /// x coordinate is the internal key.
    pub fn aggregate_bytes(&self) -> [u8; 33] {
        self.internal.serialize()
    }

    /// The output key with its parity, 33 bytes: what BIP373 lists nonces and partial signatures under.
    pub fn output_bytes(&self) -> [u8; 33] {
        self.cache.agg_pk_full().serialize()
    }

    /// The beacon's output script: `OP_1` and the tweaked aggregate.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// The beacon address.
    pub fn address(&self, network: bitcoin::Network) -> String {
        address(&self.output_key, network)
    }

    /// The first input whose partial signature, by the holder of `key`, is not valid. One of each for every input.
    pub fn first_invalid(
        &self,
        key: &CohortKey,
        sighashes: &[[u8; 32]],
        nonces: &[PublicNonce],
        aggregated: &[AggregatedNonce],
        partials: &[PartialBytes],
    ) -> Option<usize> {
        let inputs = sighashes
            .iter()
            .zip(aggregated)
            .zip(nonces.iter().zip(partials));
        let valid = |((sighash, aggregated), (nonce, partial)): (
            (&[u8; 32], &AggregatedNonce),
            (&PublicNonce, &PartialBytes),
        )| {
            partial.scalar().is_ok_and(|partial| {
                self.input(*sighash, *aggregated)
                    .verify_partial(key, nonce, &partial)
            })
        };
        inputs.map(valid).position(|valid| !valid)
    }

    pub(crate) fn cache(&self) -> &musig::KeyAggCache {
        &self.cache
    }

    /// Whether this is a valid signature of the beacon: none can be made without every member.
    pub fn has_signed(&self, sighash: &[u8; 32], signature: &[u8]) -> bool {
        let signature = signature
            .try_into()
            .map(schnorr::Signature::from_byte_array);
        signature.is_ok_and(|signature: schnorr::Signature| {
            schnorr::verify(&signature, sighash, &self.output_key).is_ok()
        })
    }

    /// Starts the signature of one input.
    pub fn input(&self, sighash: [u8; 32], nonce: AggregatedNonce) -> SigningInput<'_> {
        let session = musig::Session::new(&self.cache, nonce.0, &sighash);
        SigningInput {
            key: self,
            sighash,
            session,
        }
    }
}

impl TryFrom<Vec<CohortKey>> for BeaconKey {
    type Error = KeySetError;

    fn try_from(keys: Vec<CohortKey>) -> Result<Self, KeySetError> {
        Self::aggregate(keys)
    }
}

impl From<BeaconKey> for Vec<CohortKey> {
    fn from(beacon: BeaconKey) -> Self {
        beacon.keys
    }
}

/// One input's signature in the making: every input has its own sighash and its own nonces.
pub struct SigningInput<'a> {
    key: &'a BeaconKey,
    sighash: [u8; 32],
    pub(crate) session: musig::Session,
}

impl SigningInput<'_> {
    /// Whether the holder of `key`, who contributed `nonce`, made this partial signature.
    pub fn verify_partial(
        &self,
        key: &CohortKey,
        nonce: &PublicNonce,
        partial: &PartialSignature,
    ) -> bool {
        self.session
            .partial_verify(self.key.cache(), &partial.0, &nonce.0, *key.point())
    }

    /// The 64-byte signature of the input, if the partial signatures make a valid one.
    pub fn aggregate(&self, partials: &[PartialSignature]) -> Option<[u8; 64]> {
        let partials: Vec<_> = partials.iter().map(|partial| &partial.0).collect();
        if partials.is_empty() {
            return None;
        }
        let signature = self.session.partial_sig_agg(&partials).assume_valid();
        schnorr::verify(&signature, &self.sighash, &self.key.output_key).ok()?;
        Some(signature.to_byte_array())
    }
}

/// Sums public nonces. `None` when there are none.
pub fn aggregate_nonces<'a>(
    nonces: impl IntoIterator<Item = &'a PublicNonce>,
) -> Option<AggregatedNonce> {
    let nonces: Vec<_> = nonces.into_iter().map(|nonce| &nonce.0).collect();
    (!nonces.is_empty()).then(|| AggregatedNonce(musig::AggregatedNonce::new(&nonces)))
}

/// The BIP341 key-path sighash (SIGHASH_DEFAULT) of every input. `None` when the outputs are not one for each
/// input.
pub fn sighashes(tx: &Transaction, spent: &[TxOut]) -> Option<Vec<[u8; 32]>> {
    if spent.len() != tx.input.len() {
        return None;
    }
    let mut cache = SighashCache::new(tx);
    (0..tx.input.len())
        .map(|input| {
            cache
                .taproot_key_spend_signature_hash(
                    input,
                    &Prevouts::All(spent),
                    TapSighashType::Default,
                )
                .ok()
                .map(bitcoin::TapSighash::to_byte_array)
        })
        .collect()
}

/// The BIP341 tweak of an output without script tree.
fn key_path_tweak(internal: &XOnlyPublicKey) -> Option<Scalar> {
    let tweak = TapTweakHash::from_key_and_tweak(to_bitcoin(internal), None);
    Scalar::from_be_bytes(tweak.to_byte_array()).ok()
}

fn tweaked(output_key: &XOnlyPublicKey) -> TweakedPublicKey {
    TweakedPublicKey::dangerous_assume_tweaked(to_bitcoin(output_key))
}

fn address(output_key: &XOnlyPublicKey, network: bitcoin::Network) -> String {
    Address::p2tr_tweaked(tweaked(output_key), network).to_string()
}

#[expect(
    clippy::expect_used,
    reason = "the bytes are those of a point that libsecp256k1 holds"
)]
fn to_bitcoin(key: &XOnlyPublicKey) -> bitcoin::XOnlyPublicKey {
    bitcoin::XOnlyPublicKey::from_slice(&key.to_byte_array())
        .expect("a point serialises to a point")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_the_empty_set_are_refused() {
        let key: CohortKey = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
            .parse()
            .unwrap();
        assert_eq!(
            BeaconKey::aggregate([key, key]),
            Err(KeySetError::Duplicate(key))
        );
        assert_eq!(BeaconKey::aggregate([]), Err(KeySetError::Empty));
    }

    /// `vectors/aggregation/two-member-script-tree-cohort.json` (did-btcr2-js at 584a0d0): internal key of two keys.
    #[test]
    fn the_internal_key_agrees_with_an_independent_implementation() {
        let file: serde_json::Value = serde_json::from_str(include_str!(
            "../vectors/aggregation/two-member-script-tree-cohort.json"
        ))
        .unwrap();
        let keys: Vec<CohortKey> =
            serde_json::from_value(file["sortedCohortKeys"].clone()).unwrap();
        let beacon = BeaconKey::aggregate(keys.iter().rev().copied()).unwrap();
        assert_eq!(beacon.keys(), keys, "KeySort");
        let points: Vec<_> = beacon.keys().iter().map(CohortKey::point).collect();
        let internal = musig::KeyAggCache::new(&points).agg_pk();
        assert_eq!(
            hex::encode(internal.to_byte_array()),
            file["internalKeyXonly"].as_str().unwrap()
        );
    }

    fn bip341() -> serde_json::Value {
        serde_json::from_str(include_str!("../vectors/bip341/wallet-test-vectors.json")).unwrap()
    }

    /// `vectors/bip341/`, outputs: the beacon has no script tree, and so has one case of seven.
    #[test]
    fn output_keys_and_addresses_follow_bip341() {
        let vectors = bip341();
        let cases = vectors["scriptPubKey"].as_array().unwrap();
        let (mut run, mut excluded) = (0, 0);
        for case in cases {
            if !case["given"]["scriptTree"].is_null() {
                excluded += 1; // A script tree: no beacon has one.
                continue;
            }
            let text = |part: &str, name: &str| case[part][name].as_str().unwrap().to_owned();
            let internal = key(&text("given", "internalPubkey"));
            let tweak = key_path_tweak(&internal).unwrap();
            assert_eq!(
                hex::encode(tweak.to_be_bytes()),
                text("intermediary", "tweak")
            );
            let (output, _) = internal.add_tweak(&tweak).unwrap();
            assert_eq!(output, key(&text("intermediary", "tweakedPubkey")));
            let script = ScriptBuf::new_p2tr_tweaked(tweaked(&output));
            assert_eq!(script.to_hex_string(), text("expected", "scriptPubKey"));
            assert_eq!(
                address(&output, bitcoin::Network::Bitcoin),
                text("expected", "bip350Address")
            );
            run += 1;
        }
        assert_eq!((run, excluded, cases.len()), (1, 6, 7));
    }

    /// `vectors/bip341/`, spending: signals are signed with SIGHASH_DEFAULT, and so is one case of seven.
    #[test]
    fn sighashes_follow_bip341() {
        let vectors = bip341();
        let spending = &vectors["keyPathSpending"][0];
        assert_eq!(vectors["keyPathSpending"].as_array().unwrap().len(), 1);
        let tx: Transaction = bitcoin::consensus::encode::deserialize_hex(
            spending["given"]["rawUnsignedTx"].as_str().unwrap(),
        )
        .unwrap();
        let spent = spending["given"]["utxosSpent"]
            .as_array()
            .unwrap()
            .iter()
            .map(|spent| TxOut {
                script_pubkey: ScriptBuf::from_hex(spent["scriptPubKey"].as_str().unwrap())
                    .unwrap(),
                value: bitcoin::Amount::from_sat(spent["amountSats"].as_u64().unwrap()),
            });
        let spent: Vec<_> = spent.collect();
        let sighashes = sighashes(&tx, &spent).unwrap();
        assert_eq!(sighashes.len(), tx.input.len());
        let cases = spending["inputSpending"].as_array().unwrap();
        let (mut run, mut excluded) = (0, 0);
        for case in cases {
            if case["given"]["hashType"] != 0 {
                excluded += 1; // Another sighash type: none is ever signed.
                continue;
            }
            let input = usize::try_from(case["given"]["txinIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(
                hex::encode(sighashes[input]),
                case["intermediary"]["sigHash"].as_str().unwrap()
            );
            let signature = hex::decode(case["expected"]["witness"][0].as_str().unwrap()).unwrap();
            let signature = schnorr::Signature::from_byte_array(signature.try_into().unwrap());
            let output = key(&hex::encode(&spent[input].script_pubkey.as_bytes()[2..]));
            schnorr::verify(&signature, &sighashes[input], &output).unwrap();
            run += 1;
        }
        assert_eq!((run, excluded, cases.len()), (1, 6, 7));
        assert_eq!(
            super::sighashes(&tx, &spent[1..]),
            None,
            "one spent output for each input"
        );
    }

    fn key(text: &str) -> XOnlyPublicKey {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).unwrap();
        XOnlyPublicKey::from_byte_array(bytes).unwrap()
    }
}
