//! PSBTs (BIP174, version 0) of what a cohort signs, with the taproot fields of BIP371 and the MuSig2 fields of BIP373.
//!
//! [`Signing`] is what is signed and by whom. It makes a PSBT of what members have contributed, and reads from one what
//! others have: only about the same transaction, the same spent outputs and the same keys. Nothing that a PSBT says is
//! believed beyond that; [`Signing::check`] says whether nonces and partial signatures fit together.

mod error;
mod fields;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bitcoin::bip32::KeySource;
use bitcoin::psbt::{Input, Output};
use bitcoin::{Psbt, Transaction, TxOut, Witness};

pub use error::PsbtError;

use crate::message::SpentOutput;
use crate::musig::{BeaconKey, aggregate_nonces, sighashes};
use crate::values::{AggregatedNonce, CohortKey, PartialSignature, PublicNonce};

/// Most bytes of a PSBT, before base64. With it a message stays below the default limit of 1 MiB: eight inputs of a cohort
/// of 200 members fit.
pub const MAX_BYTES: usize = 512 * 1024;
/// Seconds for which a session's PSBT is of use, and so is the request for one.
pub(crate) const EXPIRY_S: u64 = 300;
/// Most outputs of a transaction that a PSBT is about. A signal has two.
const MAX_OUTPUTS: usize = 16;
/// Most inputs, as in the terms.
pub(crate) const MAX_INPUTS: usize = 1_000;

/// What is signed, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Signing<'a> {
    /// The key that every input spends from.
    pub beacon: &'a BeaconKey,
    /// The transaction; its witnesses are left out.
    pub tx: &'a Transaction,
    /// What its inputs spend, in their order.
    pub spent: &'a [SpentOutput],
}

/// What members have given: one of each for every input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contributions {
    /// Public nonces.
    pub nonces: BTreeMap<CohortKey, Vec<PublicNonce>>,
    /// Partial signatures.
    pub partials: BTreeMap<CohortKey, Vec<PartialSignature>>,
}

impl Contributions {
    /// And those of another, where this one has none.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (key, nonces) in other.nonces {
            self.nonces.entry(key).or_insert(nonces);
        }
        for (key, partials) in other.partials {
            self.partials.entry(key).or_insert(partials);
        }
        self
    }
}

/// Reads a PSBT: its bytes, or base64 with white space anywhere.
pub fn parse(data: &[u8]) -> Result<Psbt, PsbtError> {
    let bytes = if data.starts_with(b"psbt\xff") {
        within(data.len())?;
        data.to_vec()
    } else {
        at_most("characters", data.len(), 2 * MAX_BYTES)?;
        let text = data.iter().filter(|byte| !byte.is_ascii_whitespace());
        let text: Vec<u8> = text.copied().collect();
        within(text.len().div_ceil(4).saturating_mul(3).saturating_sub(2))?;
        STANDARD.decode(text).map_err(|_| PsbtError::Unreadable {
            reason: "neither its bytes nor base64".to_owned(),
        })?
    };
    let mut rest = bytes.as_slice();
    let psbt = Psbt::deserialize_from_reader(&mut rest).map_err(|error| PsbtError::Unreadable {
        reason: error.to_string(),
    })?;
    if !rest.is_empty() {
        let reason = format!("{} bytes after its end", rest.len());
        return Err(PsbtError::Unreadable { reason });
    }
    at_most("inputs", psbt.inputs.len(), MAX_INPUTS)?;
    at_most("outputs", psbt.outputs.len(), MAX_OUTPUTS)?;
    Ok(psbt)
}

/// A PSBT as base64, as it is sent and written to files.
pub fn to_base64(psbt: &Psbt) -> Result<String, PsbtError> {
    let bytes = psbt.serialize();
    within(bytes.len())?;
    Ok(STANDARD.encode(bytes))
}

/// A PSBT as base64 in JSON.
pub mod base64_text {
    use bitcoin::Psbt;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::Error as _};

    /// Writes base64.
    pub fn serialize<S: Serializer>(psbt: &Psbt, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::to_base64(psbt).map_err(S::Error::custom)?)
    }

    /// Reads base64, within the limits of [`parse`](super::parse).
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Psbt, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        super::parse(text.as_bytes()).map_err(D::Error::custom)
    }
}

/// Whether nothing is left to sign: every input has its witness.
pub fn is_finished(psbt: &Psbt) -> bool {
    let mut inputs = psbt.inputs.iter();
    inputs.all(|input| input.final_script_witness.is_some())
}

/// Checks the finished PSBT of a transaction of this beacon: its witnesses are the beacon's signatures. They commit to the
/// spent outputs, which are therefore right as well.
pub fn check_finished(psbt: &Psbt, beacon: &BeaconKey, tx: &Transaction) -> Result<(), PsbtError> {
    let spent = psbt.inputs.iter().map(|input| input.witness_utxo.as_ref());
    let spent: Option<Vec<SpentOutput>> = spent.map(|output| output.map(Into::into)).collect();
    let spent = spent.ok_or(PsbtError::SpentOutputs)?;
    let signing = Signing {
        beacon,
        tx,
        spent: &spent,
    };
    signing.same_transaction(&psbt.unsigned_tx)?;
    for (input, (sighash, given)) in signing.sighashes()?.iter().zip(&psbt.inputs).enumerate() {
        let witness = given.final_script_witness.as_ref();
        let signed = witness.is_some_and(|witness| {
            witness.len() == 1 && beacon.has_signed(sighash, witness.nth(0).unwrap_or_default())
        });
        if !signed {
            return Err(PsbtError::Unsigned { input });
        }
    }
    Ok(())
}

fn within(got: usize) -> Result<(), PsbtError> {
    at_most("bytes", got, MAX_BYTES)
}

fn at_most(what: &'static str, got: usize, max: usize) -> Result<(), PsbtError> {
    if got > max {
        return Err(PsbtError::TooMany { what, got, max });
    }
    Ok(())
}

impl Signing<'_> {
    /// The PSBT of what was given so far. With `origin` a signer that holds the seed finds the key of its member.
    pub fn psbt(
        &self,
        given: &Contributions,
        origin: Option<(&CohortKey, &KeySource)>,
    ) -> Result<Psbt, PsbtError> {
        let mut psbt = self.bare()?;
        for (number, input) in psbt.inputs.iter_mut().enumerate() {
            self.describe(input);
            if let Some((key, source)) = origin {
                let at = fields::x_only(&key.to_bytes());
                input
                    .tap_key_origins
                    .extend(at.map(|at| (at, (Vec::new(), source.clone()))));
            }
            let nonces = given.nonces.iter();
            let nonces = nonces.filter_map(|(key, all)| Some((key, all.get(number)?)));
            for (key, nonce) in nonces {
                let (key, value) = fields::nonce(self.beacon, key, nonce);
                input.unknown.insert(key, value);
            }
            let partials = given.partials.iter();
            let partials = partials.filter_map(|(key, all)| Some((key, all.get(number)?)));
            for (key, partial) in partials {
                let (key, value) = fields::partial(self.beacon, key, partial);
                input.unknown.insert(key, value);
            }
        }
        let pays_back = |output: &TxOut| output.script_pubkey.as_script() == self.beacon.script();
        for (output, made) in psbt.outputs.iter_mut().zip(&self.tx.output) {
            if pays_back(made) {
                self.describe_change(output);
            }
        }
        Ok(psbt)
    }

    /// The PSBT of the finished transaction: nothing in it is left to sign, and it extracts to `signed`.
    pub fn finished(&self, signed: &Transaction) -> Result<Psbt, PsbtError> {
        let mut psbt = self.bare()?;
        self.same_transaction(signed)?;
        for (input, spend) in psbt.inputs.iter_mut().zip(&signed.input) {
            input.final_script_witness = Some(spend.witness.clone());
        }
        Ok(psbt)
    }

    /// What others have contributed, if the PSBT is about the same. Keys of others, and half of a contribution, are refused;
    /// fields that have nothing to do with MuSig2 are passed over.
    pub fn read(&self, psbt: &Psbt) -> Result<Contributions, PsbtError> {
        self.same_transaction(&psbt.unsigned_tx)?;
        let mut nonces: BTreeMap<CohortKey, Vec<PublicNonce>> = BTreeMap::new();
        let mut partials: BTreeMap<CohortKey, Vec<PartialSignature>> = BTreeMap::new();
        for (number, (input, spent)) in psbt.inputs.iter().zip(self.spent).enumerate() {
            let other = |what| PsbtError::Differs {
                input: number,
                what,
            };
            if (input.witness_utxo.as_ref()).is_some_and(|output| *output != spent.to_txout()) {
                return Err(other("spent output"));
            }
            let internal = fields::x_only(&self.beacon.aggregate_bytes());
            if input.tap_internal_key.is_some() && input.tap_internal_key != internal {
                return Err(other("internal key"));
            }
            if input.tap_merkle_root.is_some() && input.tap_merkle_root != self.beacon.merkle_root()
            {
                return Err(other("script tree"));
            }
            for (key, value) in &input.unknown {
                match fields::read(self.beacon, key, value).map_err(|reason| PsbtError::Field {
                    input: number,
                    reason,
                })? {
                    Some(fields::Field::Participants(keys)) if keys != self.beacon.keys() => {
                        return Err(other("set of participants"));
                    }
                    Some(fields::Field::Participants(_)) | None => {}
                    Some(fields::Field::Nonce(key, nonce)) => {
                        nonces.entry(key).or_default().push(nonce);
                    }
                    Some(fields::Field::Partial(key, partial)) => {
                        partials.entry(key).or_default().push(partial);
                    }
                }
            }
        }
        self.for_every_input("public nonces", &nonces)?;
        self.for_every_input("partial signatures", &partials)?;
        Ok(Contributions { nonces, partials })
    }

    /// Whether the contributions fit together, and to the aggregated nonces that are known otherwise: all public nonces sum to
    /// them, and every partial signature is its member's.
    pub fn check(
        &self,
        given: &Contributions,
        aggregated: Option<&[AggregatedNonce]>,
    ) -> Result<(), PsbtError> {
        let summed = self.sum(&given.nonces);
        if let (Some(summed), Some(known)) = (&summed, aggregated) {
            let differs = summed
                .iter()
                .zip(known)
                .position(|(one, other)| one != other);
            if let Some(input) = differs.or((summed.len() != known.len()).then_some(known.len())) {
                return Err(PsbtError::NonceSum { input });
            }
        }
        if given.partials.is_empty() {
            return Ok(());
        }
        let sighashes = self.sighashes()?;
        let aggregated = aggregated.or(summed.as_deref());
        let aggregated = aggregated.ok_or(PsbtError::TooEarly)?;
        for (key, partials) in &given.partials {
            let nonces = given.nonces.get(key).ok_or(PsbtError::TooEarly)?;
            let partials: Vec<_> = partials.iter().map(|partial| (*partial).into()).collect();
            let invalid =
                (self.beacon).first_invalid(key, &sighashes, nonces, aggregated, &partials);
            if let Some(input) = invalid {
                return Err(PsbtError::Invalid { key: *key, input });
            }
        }
        Ok(())
    }

    /// The sighash of every input.
    pub fn sighashes(&self) -> Result<Vec<[u8; 32]>, PsbtError> {
        let spent: Vec<_> = self.spent.iter().map(SpentOutput::to_txout).collect();
        sighashes(self.tx, &spent).ok_or(PsbtError::SpentOutputs)
    }

    /// Whether all members' public nonces are there.
    pub fn has_all_nonces(&self, given: &Contributions) -> bool {
        let mut keys = self.beacon.keys().iter();
        keys.all(|key| given.nonces.contains_key(key))
    }

    /// The aggregated nonces, where all public nonces are there.
    fn sum(&self, nonces: &BTreeMap<CohortKey, Vec<PublicNonce>>) -> Option<Vec<AggregatedNonce>> {
        let all: Option<Vec<_>> = (self.beacon.keys().iter())
            .map(|key| nonces.get(key))
            .collect();
        let all = all?;
        (0..self.tx.input.len())
            .map(|input| aggregate_nonces(all.iter().filter_map(|given| given.get(input))))
            .collect()
    }

    /// The transaction and what it spends.
    fn bare(&self) -> Result<Psbt, PsbtError> {
        if self.spent.len() != self.tx.input.len() {
            return Err(PsbtError::SpentOutputs);
        }
        let mut unsigned = self.tx.clone();
        for input in &mut unsigned.input {
            input.witness = Witness::new();
        }
        let mut psbt = Psbt::from_unsigned_tx(unsigned).map_err(|error| PsbtError::Unreadable {
            reason: error.to_string(),
        })?;
        for (input, spent) in psbt.inputs.iter_mut().zip(self.spent) {
            input.witness_utxo = Some(spent.to_txout());
        }
        Ok(psbt)
    }

    fn describe(&self, input: &mut Input) {
        input.tap_internal_key = fields::x_only(&self.beacon.aggregate_bytes());
        input.tap_merkle_root = self.beacon.merkle_root();
        let (key, value) = fields::participants(fields::IN_PARTICIPANTS, self.beacon);
        input.unknown.insert(key, value);
    }

    fn describe_change(&self, output: &mut Output) {
        output.tap_internal_key = fields::x_only(&self.beacon.aggregate_bytes());
        let (key, value) = fields::participants(fields::OUT_PARTICIPANTS, self.beacon);
        output.unknown.insert(key, value);
    }

    fn same_transaction(&self, other: &Transaction) -> Result<(), PsbtError> {
        let [got, expected] = [other, self.tx].map(Transaction::compute_txid);
        if got != expected {
            return Err(PsbtError::OtherTransaction { got, expected });
        }
        Ok(())
    }

    fn for_every_input<T>(
        &self,
        what: &'static str,
        given: &BTreeMap<CohortKey, Vec<T>>,
    ) -> Result<(), PsbtError> {
        let expected = self.tx.input.len();
        let mut short = given.iter().filter(|(_, all)| all.len() != expected);
        short.next().map_or(Ok(()), |(key, all)| {
            Err(PsbtError::Incomplete {
                key: *key,
                what,
                got: all.len(),
                expected,
            })
        })
    }
}
