//! A signer outside of the program, by the second MuSig2 library and from nothing but what stands in a PSBT: participants,
//! internal key, script tree, spent outputs, nonces. It shares no code with what it is tested against.

use std::collections::BTreeMap;

use bitcoin::hashes::Hash as _;
use bitcoin::psbt::raw::Key;
use bitcoin::sighash::{Prevouts, SighashCache};
use bitcoin::{Psbt, TapSighashType};
use musig2::secp::{MaybeScalar, Point, Scalar};
use musig2::{AggNonce, KeyAggContext, PubNonce, SecNonce};

const PARTICIPANTS: u8 = 0x1a;
const PUB_NONCE: u8 = 0x1b;
const PARTIAL_SIG: u8 = 0x1c;

pub(crate) struct OutsideSigner {
    secret: Scalar,
    /// By sighash. Taken out as they sign.
    nonces: BTreeMap<[u8; 32], SecNonce>,
}

impl OutsideSigner {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self {
            secret: Scalar::from_slice(&secret).unwrap(),
            nonces: BTreeMap::new(),
        }
    }

    fn key(&self) -> [u8; 33] {
        self.secret.base_point_mul().serialize()
    }

    /// Adds a public nonce to every input in which this key takes part. `seed` must be another one each time.
    pub(crate) fn add_nonces(&mut self, psbt: &mut Psbt, seed: [u8; 32]) {
        for (number, sighash) in sighashes(psbt).into_iter().enumerate() {
            let context = self.context(psbt, number);
            let field = self.field(PUB_NONCE, &context);
            let mut entropy = seed;
            entropy[31] ^= u8::try_from(number).unwrap();
            let aggregate: Point = context.aggregated_pubkey();
            let nonce = SecNonce::generate(entropy, self.secret, aggregate, sighash, b"");
            let public = nonce.public_nonce().serialize().to_vec();
            let before = psbt.inputs[number].unknown.insert(field, public);
            assert_eq!(before, None, "there is a nonce of this key already");
            self.nonces.insert(sighash, nonce);
        }
    }

    /// Adds a partial signature to every input that has the public nonces of all participants.
    pub(crate) fn add_partials(&mut self, psbt: &mut Psbt) {
        for (number, sighash) in sighashes(psbt).into_iter().enumerate() {
            let context = self.context(psbt, number);
            let output: [u8; 33] = context.aggregated_pubkey::<Point>().serialize();
            let public = context.pubkeys().iter().map(|key| {
                let key = Key {
                    type_value: PUB_NONCE,
                    key: [key.serialize(), output].concat(),
                };
                let value = psbt.inputs[number].unknown.get(&key);
                let value = value.expect("the public nonces of all participants");
                PubNonce::from_bytes(value).unwrap()
            });
            let aggregated = AggNonce::sum(public.collect::<Vec<_>>());
            let nonce = self.nonces.remove(&sighash).expect("a nonce signs once");
            let partial: MaybeScalar =
                musig2::sign_partial(&context, self.secret, nonce, &aggregated, sighash).unwrap();
            let field = self.field(PARTIAL_SIG, &context);
            let value = partial.serialize().to_vec();
            psbt.inputs[number].unknown.insert(field, value);
        }
    }

    /// The aggregate that this input spends from, tweaked, if this key takes part in it and the output is really its.
    fn context(&self, psbt: &Psbt, number: usize) -> KeyAggContext {
        let input = &psbt.inputs[number];
        let mut lists = input.unknown.iter();
        let (aggregate, keys) = lists
            .find(|(key, _)| key.type_value == PARTICIPANTS)
            .expect("the participants");
        let keys = keys.chunks(33).map(|key| Point::from_slice(key).unwrap());
        let context = KeyAggContext::new(keys).unwrap();
        let untweaked: Point = context.aggregated_pubkey();
        assert_eq!(untweaked.serialize().as_slice(), aggregate.key);
        let internal = input.tap_internal_key.unwrap().serialize();
        assert_eq!(untweaked.serialize_xonly(), internal);
        let context = match input.tap_merkle_root {
            Some(root) => context.with_taproot_tweak(root.as_byte_array()).unwrap(),
            None => context.with_unspendable_taproot_tweak().unwrap(),
        };
        let output: Point = context.aggregated_pubkey();
        let spent = input.witness_utxo.as_ref().unwrap();
        assert_eq!(
            spent.script_pubkey.as_bytes()[2..],
            output.serialize_xonly()
        );
        assert!(context.pubkey_index(self.secret.base_point_mul()).is_some());
        context
    }

    fn field(&self, type_value: u8, context: &KeyAggContext) -> Key {
        let output: [u8; 33] = context.aggregated_pubkey::<Point>().serialize();
        let key = [self.key(), output].concat();
        Key { type_value, key }
    }
}

fn sighashes(psbt: &Psbt) -> Vec<[u8; 32]> {
    let spent = psbt.inputs.iter();
    let spent: Vec<_> = spent
        .map(|input| input.witness_utxo.clone().unwrap())
        .collect();
    let mut cache = SighashCache::new(&psbt.unsigned_tx);
    let mut sighash = |input| {
        let all = Prevouts::All(&spent);
        let default = TapSighashType::Default;
        let sighash = cache.taproot_key_spend_signature_hash(input, &all, default);
        sighash.unwrap().to_byte_array()
    };
    (0..spent.len()).map(&mut sighash).collect()
}
