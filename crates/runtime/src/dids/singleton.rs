//! Signals of a DID's own singleton beacons: which of them are ours to spend, and the signed transaction.

use beacon_btcr2::Document;
use beacon_btcr2::beacon::{Beacon, BeaconType};
use beacon_signal::transaction::{self, BuildError};
use bitcoin::hashes::Hash as _;
use bitcoin::key::TapTweak as _;
use bitcoin::secp256k1::{Keypair, Message, PublicKey, Secp256k1};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::{
    Address, Amount, CompressedPublicKey, OutPoint, Script, ScriptBuf, Transaction, TxOut, Witness,
    ecdsa, taproot,
};
use rand::TryRngCore as _;
use rand::rngs::OsRng;

use super::{DidKeyPath, Dids, DidsError};

/// Outputs that one signal spends at most: more are seldom needed, and each costs its size.
pub(super) const MAX_INPUTS: usize = 16;

/// A singleton beacon of a document whose key is below our seed.
#[derive(Clone, Debug)]
pub struct OwnBeacon {
    /// The beacon.
    pub beacon: Beacon,
    path: DidKeyPath,
}

/// A signal without its signatures, and what it spends.
#[derive(Clone, Debug)]
pub struct Draft {
    inputs: Vec<(OutPoint, TxOut)>,
    fee_rate_sat_vb: u64,
}

/// Why a singleton beacon cannot announce.
#[derive(Debug, thiserror::Error)]
pub enum SingletonError {
    /// The transaction cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It pays more than the user wants.
    #[error(
        "the signal pays a fee of {got} sat, expected at most {max} sat: give a higher --max-fee or a lower --fee-rate"
    )]
    Fee {
        /// What it pays, sat.
        got: u64,
        /// What it may pay, sat.
        max: u64,
    },
    /// Too many outputs.
    #[error("got {got} outputs to spend, expected 1 to {MAX_INPUTS}")]
    Inputs {
        /// How many.
        got: usize,
    },
    /// A key or a hash could not be made.
    #[error(transparent)]
    Dids(#[from] DidsError),
    /// The signature hash cannot be computed.
    #[error("cannot sign the signal: {0}")]
    Sighash(String),
}

impl Draft {
    /// A signal that spends these outputs of a beacon, at a fee rate in sat/vB and for at most `max_fee_sat`.
    pub fn new(
        inputs: Vec<(OutPoint, TxOut)>,
        beacon: &Script,
        fee_rate_sat_vb: u64,
        max_fee_sat: u64,
    ) -> Result<Self, SingletonError> {
        if inputs.len() > MAX_INPUTS {
            let got = inputs.len();
            return Err(SingletonError::Inputs { got });
        }
        // What is announced changes nothing about its size.
        let unsigned = transaction::build_signal(&inputs, beacon, [0; 32], fee_rate_sat_vb)?;
        let spent: Vec<_> = inputs.iter().map(|(_, output)| output.clone()).collect();
        let fee = transaction::fee(&unsigned, &spent).unwrap_or(Amount::MAX);
        if fee.to_sat() > max_fee_sat {
            let (got, max) = (fee.to_sat(), max_fee_sat);
            return Err(SingletonError::Fee { got, max });
        }
        Ok(Self {
            inputs,
            fee_rate_sat_vb,
        })
    }

    /// What a transaction that spends these outputs pays, sat.
    pub fn fee_sat(&self, tx: &Transaction) -> Option<u64> {
        let spent: Vec<_> = self
            .inputs
            .iter()
            .map(|(_, output)| output.clone())
            .collect();
        transaction::fee(tx, &spent).map(Amount::to_sat)
    }
}

impl Dids {
    /// The singleton beacons of a document that are addresses of our keys.
    pub fn own_beacons(&self, document: &Document) -> Result<Vec<OwnBeacon>, DidsError> {
        let mut own = Vec::new();
        let keys = self.records().public_keys()?;
        let network = document.did().network();
        let beacons = document.beacons().iter();
        for beacon in beacons.filter(|beacon| beacon.kind == BeaconType::Singleton) {
            let script = beacon.script();
            let key = keys.iter().find(|key| {
                let mut addresses = addresses(key, network.into()).into_iter();
                addresses.any(|address| address.script_pubkey() == script)
            });
            let place = key.map(|key| self.records().place_of(key)).transpose()?;
            if let Some(path) = place.flatten() {
                let beacon = beacon.clone();
                own.push(OwnBeacon { beacon, path });
            }
        }
        Ok(own)
    }

    /// The transaction that announces an update, with its signatures.
    pub fn sign_singleton(
        &self,
        own: &OwnBeacon,
        draft: &Draft,
        update: [u8; 32],
    ) -> Result<Transaction, SingletonError> {
        let script = own.beacon.script();
        let rate = draft.fee_rate_sat_vb;
        let unsigned = transaction::build_signal(&draft.inputs, &script, update, rate)?;
        let mut pair = self.pair(own.path)?;
        let signed = sign(unsigned, &draft.inputs, &script, &pair);
        pair.non_secure_erase();
        signed
    }
}

/// The addresses that one signature of a key spends.
fn addresses(key: &PublicKey, network: bitcoin::Network) -> [Address; 3] {
    let (internal, _) = key.x_only_public_key();
    let compressed = CompressedPublicKey(*key);
    [
        Address::p2tr(&Secp256k1::verification_only(), internal, None, network),
        Address::p2wpkh(&compressed, network),
        Address::p2pkh(compressed, network),
    ]
}

fn sign(
    mut signal: Transaction,
    inputs: &[(OutPoint, TxOut)],
    script: &Script,
    pair: &Keypair,
) -> Result<Transaction, SingletonError> {
    let failed = |error: &dyn std::fmt::Display| SingletonError::Sighash(error.to_string());
    let secp = Secp256k1::new();
    let spent: Vec<_> = inputs.iter().map(|(_, output)| output.clone()).collect();
    for at in 0..signal.input.len() {
        let value = spent.get(at).map_or(Amount::ZERO, |output| output.value);
        let mut cache = SighashCache::new(&signal);
        let all = EcdsaSighashType::All;
        let (script_sig, witness) = if script.is_p2tr() {
            let hash = cache
                .taproot_key_spend_signature_hash(
                    at,
                    &Prevouts::All(&spent),
                    TapSighashType::Default,
                )
                .map_err(|error| failed(&error))?;
            let mut aux = [0; 32];
            OsRng
                .try_fill_bytes(&mut aux)
                .map_err(DidsError::Randomness)?;
            let mut tweaked = pair.tap_tweak(&secp, None).to_keypair();
            let message = Message::from_digest(hash.to_byte_array());
            let signature = secp.sign_schnorr_with_aux_rand(&message, &tweaked, &aux);
            tweaked.non_secure_erase();
            let signature = taproot::Signature {
                signature,
                sighash_type: TapSighashType::Default,
            };
            (ScriptBuf::new(), Witness::p2tr_key_spend(&signature))
        } else if script.is_p2wpkh() {
            let hash = cache
                .p2wpkh_signature_hash(at, script, value, all)
                .map_err(|error| failed(&error))?;
            let signature = ecdsa_signature(&secp, pair, hash.to_byte_array());
            let witness = Witness::p2wpkh(&signature, &pair.public_key());
            (ScriptBuf::new(), witness)
        } else {
            let hash = cache
                .legacy_signature_hash(at, script, all.to_u32())
                .map_err(|error| failed(&error))?;
            let signature = ecdsa_signature(&secp, pair, hash.to_byte_array());
            let pushes = bitcoin::script::Builder::new()
                .push_slice(signature.serialize())
                .push_slice(pair.public_key().serialize());
            (pushes.into_script(), Witness::new())
        };
        if let Some(input) = signal.input.get_mut(at) {
            input.script_sig = script_sig;
            input.witness = witness;
        }
    }
    Ok(signal)
}

/// With a low R: the size that was paid for counts on it.
fn ecdsa_signature(
    secp: &Secp256k1<bitcoin::secp256k1::All>,
    pair: &Keypair,
    hash: [u8; 32],
) -> ecdsa::Signature {
    let mut secret = pair.secret_key();
    let signature = secp.sign_ecdsa_low_r(&Message::from_digest(hash), &secret);
    secret.non_secure_erase();
    ecdsa::Signature::sighash_all(signature)
}
