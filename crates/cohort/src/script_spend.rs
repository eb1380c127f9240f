//! A spend of a beacon by a leaf of its script tree: one transaction that takes the money out, without a signal.
//!
//! It is built and priced by the size that it has in the end, and signed by one or by several, apart from each other: between
//! them it travels as a PSBT (BIP174, BIP371). What is read from one is checked against the terms and the keys that the
//! reader knows itself. Whether the outputs are there, and worth what the PSBT says, the reader's chain source knows; the
//! signatures commit to it.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::absolute::LockTime;
use bitcoin::taproot::{self, LeafVersion};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, OutPoint, Psbt, Script, ScriptBuf, TapSighashType, Transaction, TxIn, TxOut, Witness,
    XOnlyPublicKey,
};
use secp256k1::schnorr;

use crate::musig::BeaconKey;
use crate::psbt;
use crate::script_path::ScriptPath;

/// Heaviest transaction that nodes pass on, in weight units (Bitcoin Core's `MAX_STANDARD_TX_WEIGHT`).
const MAX_WEIGHT: usize = 400_000;
/// What a transaction with one output and without inputs weighs at most: 10 bytes around, 4 more for the number of inputs, an
/// output of 43 bytes, and the segwit marker.
const FRAME_WEIGHT: usize = 4 * (10 + 4 + 43) + 2;
/// An input without its witness.
const INPUT_WEIGHT: usize = 4 * 41;
/// What a signature takes in a PSBT: key, leaf and 64 bytes, with their lengths; and what else an input has there at most, but
/// the leaf's script.
const SIGNATURE_BYTES: usize = 132;
const FIELDS_BYTES: usize = 400;
/// Most outputs of a spend that was made elsewhere.
const MAX_OUTPUTS: usize = 16;

/// Why a spend cannot be built, read or finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpendError {
    /// There is nothing to spend.
    #[error("got no output to spend, expected at least one of the beacon's")]
    NoInputs,
    /// Too many for one transaction.
    #[error(
        "got {got} outputs to spend, expected at most {max}: more make a transaction that nodes do not pass on"
    )]
    TooManyInputs {
        /// How many.
        got: usize,
        /// How many there may be.
        max: usize,
    },
    /// What is spent does not pay the fee and an output.
    #[error("needs {missing_sat} sat more at {fee_rate_sat_vb} sat/vB")]
    NeedsMore {
        /// What is missing, sat.
        missing_sat: u64,
        /// The fee rate that was asked for, sat/vB.
        fee_rate_sat_vb: u64,
    },
    /// The inputs claim more bitcoin than can exist.
    #[error("got outputs worth more than all bitcoin there can be")]
    ImpossibleTotal,
    /// Not a spend of this beacon by this leaf.
    #[error("got {got}, expected {expected}")]
    Differs {
        /// What it has.
        got: String,
        /// What a spend by this leaf has.
        expected: &'static str,
    },
    /// An output that burns, or announces.
    #[error(
        "output {0} begins with OP_RETURN, expected none: this is no way to make a beacon signal"
    )]
    OpReturn(usize),
    /// The fee is higher than members ever agreed to.
    #[error(
        "got a fee of {got_sat} sat for {vsize} vB, expected at most the terms' {cap_sat_vb} sat/vB"
    )]
    FeeTooHigh {
        /// What it pays.
        got_sat: u64,
        /// Its size once it is signed.
        vsize: u64,
        /// The terms' cap.
        cap_sat_vb: u64,
    },
    /// A key that the leaf does not ask for.
    #[error("the key {0} is not one that this leaf asks for")]
    ForeignKey(XOnlyPublicKey),
    /// A signature that is none.
    #[error("the signature of {key} for input {input} does not verify")]
    BadSignature {
        /// Whose.
        key: XOnlyPublicKey,
        /// Of which input.
        input: usize,
    },
    /// Two files about different transactions.
    #[error("got transaction {got}, expected {expected}: they are not the same spend")]
    OtherTransaction {
        /// Of the one.
        got: bitcoin::Txid,
        /// Of the other.
        expected: bitcoin::Txid,
    },
    /// Too few have signed.
    #[error("got signatures of {got} keys, expected {expected}")]
    Unsigned {
        /// How many signed every input.
        got: usize,
        /// How many must.
        expected: usize,
    },
}

/// A spend by a leaf, with the signatures that were given so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptSpend {
    path: ScriptPath,
    internal_key: XOnlyPublicKey,
    merkle_root: Option<bitcoin::TapNodeHash>,
    tx: Transaction,
    spent: Vec<TxOut>,
    sighashes: Vec<[u8; 32]>,
    /// One signature for each input.
    signatures: BTreeMap<XOnlyPublicKey, Vec<[u8; 64]>>,
}

impl ScriptSpend {
    /// Pays all that these outputs of a beacon hold, but the fee, to one script. The fee is the rate (sat/vB) times the size that the
    /// transaction has once it is signed, to the byte.
    pub fn build(
        beacon: &BeaconKey,
        path: &ScriptPath,
        inputs: &[(OutPoint, u64)],
        to: &Script,
        fee_rate_sat_vb: u64,
    ) -> Result<Self, SpendError> {
        let max = Self::most_inputs(path);
        if inputs.is_empty() {
            return Err(SpendError::NoInputs);
        }
        if inputs.len() > max {
            let got = inputs.len();
            return Err(SpendError::TooManyInputs { got, max });
        }
        let spent = |(_, value): &(OutPoint, u64)| TxOut {
            value: Amount::from_sat(*value),
            script_pubkey: beacon.script().to_owned(),
        };
        let spent: Vec<_> = inputs.iter().map(spent).collect();
        let total = total(&spent)?;
        let input = |(outpoint, _): &(OutPoint, u64)| TxIn {
            previous_output: *outpoint,
            script_sig: ScriptBuf::new(),
            sequence: path.sequence(),
            witness: Witness::new(),
        };
        let mut tx = Transaction {
            version: Version::TWO, // BIP68 counts from it.
            lock_time: LockTime::ZERO,
            input: inputs.iter().map(input).collect(),
            output: vec![TxOut {
                value: Amount::ZERO,
                script_pubkey: to.to_owned(),
            }],
        };
        let fee = vsize(&tx, path).saturating_mul(fee_rate_sat_vb);
        let needed = fee.saturating_add(to.minimal_non_dust().to_sat());
        if total < needed {
            return Err(SpendError::NeedsMore {
                missing_sat: needed - total,
                fee_rate_sat_vb,
            });
        }
        for output in &mut tx.output {
            output.value = Amount::from_sat(total - fee);
        }
        Self::new(beacon, path, tx, spent)
    }

    /// How many outputs one transaction can spend by this leaf: nodes pass it on, and its PSBT can hold everybody's signatures.
    pub fn most_inputs(path: &ScriptPath) -> usize {
        let by_weight = (MAX_WEIGHT - FRAME_WEIGHT) / (INPUT_WEIGHT + path.placeholder().size());
        let in_file = FIELDS_BYTES + path.script.len() + path.keys.len() * SIGNATURE_BYTES;
        let by_size = psbt::MAX_BYTES / in_file;
        by_weight.min(by_size).min(psbt::MAX_INPUTS)
    }

    /// Reads a spend that somebody made, with its signatures: it must spend nothing but this beacon, by this leaf, and each
    /// signature must be valid.
    pub fn read(beacon: &BeaconKey, path: &ScriptPath, file: &Psbt) -> Result<Self, SpendError> {
        let differs = |got: &str, expected| SpendError::Differs {
            got: got.to_owned(),
            expected,
        };
        let mut outputs = Vec::new();
        for input in &file.inputs {
            let output = input.witness_utxo.clone();
            let output = output.filter(|output| *output.script_pubkey == *beacon.script());
            outputs.push(output.ok_or_else(|| {
                differs(
                    "an input without it",
                    "an output of the beacon in every input",
                )
            })?);
            let internal = input.tap_internal_key;
            if internal.is_some_and(|key| key != beacon.internal_key()) {
                return Err(differs("another internal key", "the beacon's"));
            }
            if input.tap_merkle_root.is_some() && input.tap_merkle_root != beacon.merkle_root() {
                return Err(differs("another script tree", "the beacon's"));
            }
        }
        let mut spend = Self::new(beacon, path, file.unsigned_tx.clone(), outputs)?;
        let leaf = path.leaf_hash();
        let mut signatures: BTreeMap<XOnlyPublicKey, Vec<[u8; 64]>> = BTreeMap::new();
        for input in &file.inputs {
            for ((key, of), signature) in &input.tap_script_sigs {
                if *of != leaf {
                    return Err(differs("a signature for another leaf", "one for this leaf"));
                }
                if signature.sighash_type != TapSighashType::Default {
                    return Err(differs("another sighash type", "SIGHASH_DEFAULT"));
                }
                let given = signatures.entry(*key).or_default();
                given.push(signature.signature.serialize());
            }
        }
        for (key, given) in signatures {
            spend.add(key, given)?;
        }
        Ok(spend)
    }

    fn new(
        beacon: &BeaconKey,
        path: &ScriptPath,
        tx: Transaction,
        spent: Vec<TxOut>,
    ) -> Result<Self, SpendError> {
        let differs = |got: String, expected| Err(SpendError::Differs { got, expected });
        let max = Self::most_inputs(path);
        if tx.input.is_empty() {
            return Err(SpendError::NoInputs);
        }
        if tx.input.len() > max {
            let got = tx.input.len();
            return Err(SpendError::TooManyInputs { got, max });
        }
        if !(1..=MAX_OUTPUTS).contains(&tx.output.len()) {
            return differs(format!("{} outputs", tx.output.len()), "1 to 16");
        }
        let is_op_return = |output: &TxOut| output.script_pubkey.is_op_return();
        if let Some(at) = tx.output.iter().position(is_op_return) {
            return Err(SpendError::OpReturn(at));
        }
        if tx.version != Version::TWO || tx.lock_time != LockTime::ZERO {
            let got = format!("version {} and lock time {}", tx.version, tx.lock_time);
            return differs(got, "version 2 and lock time 0");
        }
        let mut seen = BTreeSet::new();
        for input in &tx.input {
            if input.sequence != path.sequence() {
                return differs(format!("sequence {}", input.sequence), "that of the leaf");
            }
            if !seen.insert(input.previous_output) {
                return differs(format!("{} twice", input.previous_output), "it once");
            }
        }
        let Some(sighashes) = path.sighashes(&tx, &spent) else {
            let got = format!("{} spent outputs", spent.len());
            return differs(got, "one for each input");
        };
        let paid = total(&tx.output)?;
        if total(&spent)? < paid {
            return differs("outputs worth more than the inputs".to_owned(), "a fee");
        }
        Ok(Self {
            path: path.clone(),
            internal_key: beacon.internal_key(),
            merkle_root: beacon.merkle_root(),
            tx,
            spent,
            sighashes,
            signatures: BTreeMap::new(),
        })
    }

    /// The transaction without its witnesses.
    pub fn transaction(&self) -> &Transaction {
        &self.tx
    }

    /// What its inputs spend, in their order.
    pub fn inputs(&self) -> impl Iterator<Item = (OutPoint, &TxOut)> {
        let outpoints = self.tx.input.iter().map(|input| input.previous_output);
        outpoints.zip(&self.spent)
    }

    /// What is signed, for each input.
    pub fn sighashes(&self) -> &[[u8; 32]] {
        &self.sighashes
    }

    /// What it pays to be mined, sat.
    pub fn fee_sat(&self) -> u64 {
        let [spent, paid] = [&self.spent, &self.tx.output].map(|outputs| total(outputs));
        spent.unwrap_or(0).saturating_sub(paid.unwrap_or(0))
    }

    /// The virtual size that it has once it is signed, vB.
    pub fn vsize(&self) -> u64 {
        vsize(&self.tx, &self.path)
    }

    /// Refuses a fee above the terms' cap.
    pub fn check_fee(&self, cap_sat_vb: u64) -> Result<(), SpendError> {
        let (got_sat, vsize) = (self.fee_sat(), self.vsize());
        if got_sat > vsize.saturating_mul(cap_sat_vb) {
            return Err(SpendError::FeeTooHigh {
                got_sat,
                vsize,
                cap_sat_vb,
            });
        }
        Ok(())
    }

    /// The keys that have signed.
    pub fn signers(&self) -> impl Iterator<Item = &XOnlyPublicKey> {
        self.signatures.keys()
    }

    /// Signatures that it needs.
    pub fn threshold(&self) -> usize {
        self.path.threshold()
    }

    /// Adds a key's signatures, one for each input, each of which must be valid. The same key again is fine.
    pub fn add(&mut self, key: XOnlyPublicKey, given: Vec<[u8; 64]>) -> Result<(), SpendError> {
        if !self.path.keys.contains(&key) {
            return Err(SpendError::ForeignKey(key));
        }
        if given.len() != self.sighashes.len() {
            return Err(SpendError::Differs {
                got: format!("{} signatures of {key}", given.len()),
                expected: "one for each input",
            });
        }
        let point = secp256k1::XOnlyPublicKey::from_byte_array(key.serialize());
        let point = point.map_err(|_| SpendError::ForeignKey(key))?;
        let pairs = self.sighashes.iter().zip(&given);
        let bad = pairs.enumerate().find(|(_, (sighash, signature))| {
            let signature = schnorr::Signature::from_byte_array(**signature);
            schnorr::verify(&signature, *sighash, &point).is_err()
        });
        if let Some((input, _)) = bad {
            return Err(SpendError::BadSignature { key, input });
        }
        self.signatures.entry(key).or_insert(given);
        Ok(())
    }

    /// Adds the signatures of another file about the same transaction.
    pub fn combine(&mut self, other: &Self) -> Result<(), SpendError> {
        let [got, expected] = [other, &*self].map(|spend| spend.tx.compute_txid());
        if got != expected || other.spent != self.spent {
            return Err(SpendError::OtherTransaction { got, expected });
        }
        for (key, given) in &other.signatures {
            self.signatures.entry(*key).or_insert_with(|| given.clone());
        }
        Ok(())
    }

    /// As a file for those who are still to sign, and for whoever sends it.
    pub fn psbt(&self) -> Result<Psbt, SpendError> {
        let unsigned = Psbt::from_unsigned_tx(self.tx.clone());
        let mut psbt = unsigned.map_err(|error| SpendError::Differs {
            got: error.to_string(),
            expected: "an unsigned transaction",
        })?;
        let leaf = self.path.leaf_hash();
        for (number, (input, spent)) in psbt.inputs.iter_mut().zip(&self.spent).enumerate() {
            input.witness_utxo = Some(spent.clone());
            input.tap_internal_key = Some(self.internal_key);
            input.tap_merkle_root = self.merkle_root;
            let script = (self.path.script.clone(), LeafVersion::TapScript);
            input.tap_scripts.insert(self.path.control.clone(), script);
            for (key, given) in &self.signatures {
                let signature = given.get(number).map(|bytes| taproot::Signature {
                    signature: to_bitcoin(bytes),
                    sighash_type: TapSighashType::Default,
                });
                input
                    .tap_script_sigs
                    .extend(signature.map(|signature| ((*key, leaf), signature)));
            }
        }
        Ok(psbt)
    }

    /// The transaction with its witnesses: as many signatures as the leaf wants, and no more.
    pub fn finish(&self) -> Result<Transaction, SpendError> {
        let mut tx = self.tx.clone();
        for (number, input) in tx.input.iter_mut().enumerate() {
            let signature = |key: &_| self.signatures.get(key)?.get(number).copied();
            let witness = self.path.witness(signature);
            input.witness = witness.ok_or(SpendError::Unsigned {
                got: self.signatures.len(),
                expected: self.threshold(),
            })?;
        }
        Ok(tx)
    }
}

fn vsize(tx: &Transaction, path: &ScriptPath) -> u64 {
    let mut signed = tx.clone();
    let witness = path.placeholder();
    for input in &mut signed.input {
        input.witness = witness.clone();
    }
    signed.weight().to_vbytes_ceil()
}

fn total(outputs: &[TxOut]) -> Result<u64, SpendError> {
    let values = outputs.iter().map(|output| output.value);
    let total = values
        .into_iter()
        .try_fold(Amount::ZERO, Amount::checked_add)
        .filter(|total| *total <= Amount::MAX_MONEY);
    total.map(Amount::to_sat).ok_or(SpendError::ImpossibleTotal)
}

#[expect(
    clippy::expect_used,
    reason = "both libraries take every 64 bytes for a signature"
)]
fn to_bitcoin(signature: &[u8; 64]) -> bitcoin::secp256k1::schnorr::Signature {
    bitcoin::secp256k1::schnorr::Signature::from_slice(signature).expect("64 bytes")
}
