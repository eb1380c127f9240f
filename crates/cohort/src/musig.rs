//! Key and nonce aggregation (BIP327) and the beacon address (BIP341).
//!
//! The one place where `bitcoin`'s secp256k1 and the MuSig2 library's meet: they differ in version, so only
//! bytes pass between them (x-only key 32, sighash 32, signature 64).

use bitcoin::hashes::Hash as _;
use bitcoin::key::{Parity, TweakedPublicKey};
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{
    Address, Script, ScriptBuf, TapNodeHash, TapSighashType, TapTweakHash, Transaction, TxOut,
};
use secp256k1::{PublicKey, Scalar, XOnlyPublicKey, musig, schnorr};
use serde::{Deserialize, Serialize};

use crate::script_path::{Leaves, ScriptPath};
use crate::terms::ScriptTree;
use crate::values::{AggregatedNonce, CohortKey, PartialBytes, PartialSignature, PublicNonce};

/// A set of keys that cannot be a cohort's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// No key at all.
    #[error("got no cohort key, expected at least one")]
    Empty,
    /// One key twice, or a key and its negation: its holder would speak for two.
    #[error("got cohort key {0} twice, expected every key once")]
    Duplicate(CohortKey),
    /// A fallback leaf that these keys can never satisfy.
    #[error(
        "got {got} cohort keys, expected at least the {threshold} that the fallback leaf wants"
    )]
    Threshold {
        /// How many there are.
        got: usize,
        /// How many are wanted.
        threshold: u16,
    },
    /// The tweak is not a valid scalar, or leads to infinity; cannot be hit on purpose.
    #[error("the aggregate of these keys cannot be tweaked")]
    Tweak,
}

/// The aggregate of a cohort's keys with the BIP341 tweak of its script tree, if the terms have one: what signs for the
/// beacon. Stored as the keys and the tree: the rest is computed from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct BeaconKey {
    keys: Vec<CohortKey>,
    tree: Option<ScriptTree>,
    /// Before the tweak.
    internal: PublicKey,
    cache: musig::KeyAggCache,
    merkle_root: Option<TapNodeHash>,
    output_key: XOnlyPublicKey,
    parity: Parity,
    script: ScriptBuf,
}

impl BeaconKey {
    /// Aggregates the keys in KeySort order, whatever order they come in, to a beacon that nothing else can spend.
    pub fn aggregate(keys: impl IntoIterator<Item = CohortKey>) -> Result<Self, KeySetError> {
        Self::with_tree(keys, None)
    }

    /// The same with the script tree of the terms.
    pub fn with_tree(
        keys: impl IntoIterator<Item = CohortKey>,
        tree: Option<&ScriptTree>,
    ) -> Result<Self, KeySetError> {
        let mut keys: Vec<CohortKey> = keys.into_iter().collect();
        keys.sort_unstable();
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        if let Some(twice) = repeated(&keys) {
            return Err(KeySetError::Duplicate(twice));
        }
        let fallback = tree.and_then(|tree| tree.fallback);
        if let Some(threshold) = fallback.map(|fallback| fallback.threshold.get())
            && keys.len() < usize::from(threshold)
        {
            let got = keys.len();
            return Err(KeySetError::Threshold { got, threshold });
        }
        let points: Vec<_> = keys.iter().map(CohortKey::point).collect();
        let mut cache = musig::KeyAggCache::new(&points);
        let internal = cache.agg_pk_full();
        let merkle_root = tree.and_then(|tree| leaves(tree, &keys).root());
        let tweak = tap_tweak(&cache.agg_pk(), merkle_root).ok_or(KeySetError::Tweak)?;
        let output = cache
            .pubkey_xonly_tweak_add(&tweak)
            .map_err(|_| KeySetError::Tweak)?;
        let (output_key, parity) = output.x_only_public_key();
        Ok(Self {
            keys,
            tree: tree.cloned(),
            internal,
            cache,
            merkle_root,
            output_key,
            parity: to_bitcoin_parity(parity),
            script: ScriptBuf::new_p2tr_tweaked(tweaked(&output_key)),
        })
    }

    /// The aggregate before the tweak: the taproot internal key.
    pub fn internal_key(&self) -> bitcoin::XOnlyPublicKey {
        to_bitcoin(&self.internal.x_only_public_key().0)
    }

    /// The root of the script tree, where there is one.
    pub fn merkle_root(&self) -> Option<TapNodeHash> {
        self.merkle_root
    }

    /// Every way to spend without the signature of all members: none, unless the terms have a script tree.
    pub fn script_paths(&self) -> Vec<ScriptPath> {
        let tree = self.tree.as_ref();
        let leaves = tree.map(|tree| leaves(tree, &self.keys));
        leaves.map_or_else(Vec::new, |leaves| {
            leaves.paths(self.internal_key(), self.parity)
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

/// How a beacon is stored: as older versions wrote it, where it has no tree.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Parts {
    Keys(Vec<CohortKey>),
    WithTree {
        keys: Vec<CohortKey>,
        script_tree: ScriptTree,
    },
}

impl TryFrom<Parts> for BeaconKey {
    type Error = KeySetError;

    fn try_from(parts: Parts) -> Result<Self, KeySetError> {
        match parts {
            Parts::Keys(keys) => Self::aggregate(keys),
            Parts::WithTree { keys, script_tree } => Self::with_tree(keys, Some(&script_tree)),
        }
    }
}

impl From<BeaconKey> for Parts {
    fn from(beacon: BeaconKey) -> Self {
        let keys = beacon.keys;
        match beacon.tree {
            None => Self::Keys(keys),
            Some(script_tree) => Self::WithTree { keys, script_tree },
        }
    }
}

/// The first key that is there twice, or whose negation is there too: who holds the one holds the other, and signatures that
/// scripts ask for do not tell them apart.
pub(crate) fn repeated(keys: &[CohortKey]) -> Option<CohortKey> {
    let mut seen = std::collections::BTreeSet::new();
    let mut keys = keys.iter();
    keys.find(|key| !seen.insert(key.x_only())).copied()
}

fn leaves(tree: &ScriptTree, keys: &[CohortKey]) -> Leaves {
    let x_only = |key: &CohortKey| to_bitcoin(&key.point().x_only_public_key().0);
    Leaves::new(tree, &keys.iter().map(x_only).collect::<Vec<_>>())
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

/// The BIP341 tweak of an output with this script tree, or with none.
fn tap_tweak(internal: &XOnlyPublicKey, merkle_root: Option<TapNodeHash>) -> Option<Scalar> {
    let tweak = TapTweakHash::from_key_and_tweak(to_bitcoin(internal), merkle_root);
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

fn to_bitcoin_parity(parity: secp256k1::Parity) -> Parity {
    match parity {
        secp256k1::Parity::Even => Parity::Even,
        secp256k1::Parity::Odd => Parity::Odd,
    }
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
        let negated = format!("03{}", &key.to_string()[2..]).parse().unwrap();
        assert_eq!(
            BeaconKey::aggregate([key, negated]),
            Err(KeySetError::Duplicate(negated))
        );
    }

    #[test]
    fn no_fallback_leaf_asks_for_more_members_than_there_are() {
        let file = aggregation();
        let keys: Vec<CohortKey> =
            serde_json::from_value(file["sortedCohortKeys"].clone()).unwrap();
        let tree = |threshold: u16| {
            serde_json::from_value(serde_json::json!({ "fallback": { "threshold": threshold } }))
                .unwrap()
        };
        let error = BeaconKey::with_tree(keys.clone(), Some(&tree(3))).unwrap_err();
        assert_eq!(
            error,
            KeySetError::Threshold {
                got: 2,
                threshold: 3
            }
        );
        assert!(BeaconKey::with_tree(keys, Some(&tree(2))).is_ok());
    }

    #[test]
    fn beacons_are_stored_as_their_keys_and_with_the_tree_if_there_is_one() {
        let keys = aggregation()["sortedCohortKeys"].clone();
        let tree: ScriptTree =
            serde_json::from_value(serde_json::json!({ "fallback": { "threshold": 1 } })).unwrap();
        let cohort: Vec<CohortKey> = serde_json::from_value(keys.clone()).unwrap();
        let plain = BeaconKey::aggregate(cohort.clone()).unwrap();
        let with_tree = BeaconKey::with_tree(cohort, Some(&tree)).unwrap();
        assert_ne!(plain.script(), with_tree.script());
        let older = serde_json::to_value(&plain).unwrap();
        assert_eq!(older, keys, "as older versions wrote it");
        let newer = serde_json::to_value(&with_tree).unwrap();
        assert_eq!(serde_json::from_value::<BeaconKey>(older).unwrap(), plain);
        assert_eq!(
            serde_json::from_value::<BeaconKey>(newer).unwrap(),
            with_tree
        );
    }

    fn aggregation() -> serde_json::Value {
        serde_json::from_str(include_str!(
            "../vectors/aggregation/two-member-script-tree-cohort.json"
        ))
        .unwrap()
    }

    /// `vectors/aggregation/two-member-script-tree-cohort.json` (did-btcr2-js at 584a0d0): two keys, both leaves.
    #[test]
    fn a_beacon_with_a_tree_agrees_with_an_independent_implementation() {
        let file = aggregation();
        let text = |name: &str| file[name].as_str().unwrap();
        let keys: Vec<CohortKey> =
            serde_json::from_value(file["sortedCohortKeys"].clone()).unwrap();
        let advert = &file["envelopes"][0]["message"]["body"];
        let tree: ScriptTree = serde_json::from_value(serde_json::json!({
            "recovery": { "key": advert["recoveryKey"], "blocks": advert["recoverySequence"] },
            "fallback": { "threshold": 1 },
        }))
        .unwrap();
        let beacon = BeaconKey::with_tree(keys.iter().rev().copied(), Some(&tree)).unwrap();
        assert_eq!(beacon.keys(), keys, "KeySort");
        assert_eq!(beacon.internal_key().to_string(), text("internalKeyXonly"));
        let root = beacon.merkle_root();
        assert_eq!(root.unwrap().to_string(), text("tapMerkleRoot"));
        let tweak = tap_tweak(&beacon.internal.x_only_public_key().0, root).unwrap();
        assert_eq!(hex::encode(tweak.to_be_bytes()), text("tapTweak"));
        let paths = beacon.script_paths();
        let [recovery, fallback] = &paths[..] else {
            panic!("got {} leaves, expected two", paths.len());
        };
        assert_eq!(recovery.script.to_hex_string(), text("recoveryLeafHex"));
        assert_eq!(fallback.script.to_hex_string(), text("fallbackLeafHex"));
        let network = bitcoin::Network::Signet; // Mutinynet's addresses are signet's.
        assert_eq!(beacon.address(network), text("beaconAddress"));
        let secp = bitcoin::secp256k1::Secp256k1::verification_only();
        let output = to_bitcoin(&beacon.output_key);
        for path in paths {
            let (control, script) = (&path.control, &path.script);
            assert!(control.verify_taproot_commitment(&secp, output, script));
        }
    }

    fn bip341() -> serde_json::Value {
        serde_json::from_str(include_str!("../vectors/bip341/wallet-test-vectors.json")).unwrap()
    }

    /// `vectors/bip341/`, outputs: a beacon has no leaf, one or two, all of them tapscript; so have four cases of seven.
    #[test]
    fn output_keys_and_addresses_follow_bip341() {
        let vectors = bip341();
        let cases = vectors["scriptPubKey"].as_array().unwrap();
        let (mut run, mut excluded) = (0, 0);
        for case in cases {
            let scripts = match &case["given"]["scriptTree"] {
                serde_json::Value::Null => Vec::new(),
                serde_json::Value::Array(nodes) => nodes.iter().collect(),
                leaf => vec![leaf],
            };
            if !scripts.iter().all(|leaf| leaf["leafVersion"] == 192) {
                excluded += 1; // Another leaf version, or a tree of three.
                continue;
            }
            let scripts = scripts.iter().map(|leaf| leaf["script"].as_str().unwrap());
            let leaves = Leaves::of_scripts(scripts.map(|hex| ScriptBuf::from_hex(hex).unwrap()));
            let text = |part: &str, name: &str| case[part][name].as_str().unwrap().to_owned();
            let internal = key(&text("given", "internalPubkey"));
            let root = leaves.root();
            assert_eq!(
                serde_json::to_value(root).unwrap(),
                case["intermediary"]["merkleRoot"]
            );
            let tweak = tap_tweak(&internal, root).unwrap();
            assert_eq!(
                hex::encode(tweak.to_be_bytes()),
                text("intermediary", "tweak")
            );
            let (output, parity) = internal.add_tweak(&tweak).unwrap();
            assert_eq!(output, key(&text("intermediary", "tweakedPubkey")));
            let script = ScriptBuf::new_p2tr_tweaked(tweaked(&output));
            assert_eq!(script.to_hex_string(), text("expected", "scriptPubKey"));
            assert_eq!(
                address(&output, bitcoin::Network::Bitcoin),
                text("expected", "bip350Address")
            );
            let controls = leaves.paths(to_bitcoin(&internal), to_bitcoin_parity(parity));
            let controls = controls.iter().map(|path| path.control.serialize());
            let expected = case["expected"]["scriptPathControlBlocks"].as_array();
            assert_eq!(
                controls.map(hex::encode).collect::<Vec<_>>(),
                expected.cloned().unwrap_or_default()
            );
            run += 1;
        }
        assert_eq!((run, excluded, cases.len()), (4, 3, 7));
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
