//! The beacon transaction (protocol section 6, "Beacon signal"): building it, and the facts a member reviews.
//!
//! Each fact is a function of its own, so that a review can name the one that does not hold. A signal spends from
//! the beacon script; its last output carries the 32 signal bytes; at most one output before it returns change to the
//! beacon.

use bitcoin::absolute::LockTime;
use bitcoin::opcodes::all::OP_RETURN;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness};

/// Length of a key-path signature with `SIGHASH_DEFAULT`, in bytes.
const SIGNATURE_LEN: usize = 64;

/// Longest ECDSA signature with a low R and its sighash byte, and length of a compressed key, in bytes.
const ECDSA_LEN: usize = 72;
const KEY_LEN: usize = 33;

/// Why a signal cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// There is nothing to spend.
    #[error("got no input, expected at least one output of the beacon to spend")]
    NoInputs,
    /// The beacon is not spent by one signature, which the predicted size relies on.
    #[error("got beacon script {script}, expected P2TR, P2WPKH or P2PKH")]
    NotOneKey {
        /// The script, in Bitcoin's assembly notation.
        script: ScriptBuf,
    },
    /// An input spends something that does not belong to the beacon.
    #[error("output {outpoint} pays {got}, expected the beacon script {expected}")]
    ForeignInput {
        /// The output to be spent.
        outpoint: OutPoint,
        /// The script that it pays.
        got: ScriptBuf,
        /// The beacon script.
        expected: ScriptBuf,
    },
    /// An output would be spent twice.
    #[error("output {outpoint} is given more than once, expected once")]
    RepeatedInput {
        /// The output to be spent.
        outpoint: OutPoint,
    },
    /// The inputs claim more bitcoin than can exist.
    #[error("inputs add up to more than {max} sat, expected at most all bitcoin there can be", max = Amount::MAX_MONEY.to_sat())]
    ImpossibleTotal,
    /// The inputs do not pay the fee.
    #[error("needs {missing_sat} sat more at {fee_rate_sat_vb} sat/vB")]
    NeedsMore {
        /// What is missing, in sat.
        missing_sat: u64,
        /// The fee rate that was asked for, in sat/vB.
        fee_rate_sat_vb: u64,
    },
}

/// Builds the unsigned signal that spends `inputs`, each an output of the beacon and the outpoint where it is.
///
/// Version 2, lock time 0, every sequence 0xfffffffd, so that it can be replaced. Change returns to `beacon_script` as
/// first output unless it would be dust: then it is left to the fee. The last output is `OP_RETURN` with `root`, value
/// 0. The fee is `fee_rate_sat_vb` (sat/vB) times the size that the transaction has once it is signed: exactly, for P2TR; for
/// P2WPKH and P2PKH, which singleton beacons may be, by at most one byte for each input more.
pub fn build_signal(
    inputs: &[(OutPoint, TxOut)],
    beacon_script: &Script,
    root: [u8; 32],
    fee_rate_sat_vb: u64,
) -> Result<Transaction, BuildError> {
    let total = spendable_total(inputs, beacon_script)?;
    let mut signal = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: inputs
            .iter()
            .map(|(outpoint, _)| unsigned_input(*outpoint))
            .collect(),
        output: vec![TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return(root),
        }],
    };
    let fee = fee_for(&signal, beacon_script, fee_rate_sat_vb);
    if total < fee {
        return Err(BuildError::NeedsMore {
            missing_sat: (fee - total).to_sat(),
            fee_rate_sat_vb,
        });
    }

    let mut with_change = signal.clone();
    with_change.output.insert(
        0,
        TxOut {
            value: Amount::ZERO,
            script_pubkey: beacon_script.to_owned(),
        },
    );
    let fee = fee_for(&with_change, beacon_script, fee_rate_sat_vb);
    let change = TxOut {
        value: total.checked_sub(fee).unwrap_or(Amount::ZERO),
        script_pubkey: beacon_script.to_owned(),
    };
    if !is_dust(&change) {
        signal.output.insert(0, change);
    }
    Ok(signal)
}

/// The value of all inputs, each of which must be the beacon's and given once.
pub(crate) fn spendable_total(
    inputs: &[(OutPoint, TxOut)],
    beacon_script: &Script,
) -> Result<Amount, BuildError> {
    if inputs.is_empty() {
        return Err(BuildError::NoInputs);
    }
    if signature_space(beacon_script).is_none() {
        return Err(BuildError::NotOneKey {
            script: beacon_script.to_owned(),
        });
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut total = Amount::ZERO;
    for (outpoint, spent) in inputs {
        if spent.script_pubkey.as_script() != beacon_script {
            return Err(BuildError::ForeignInput {
                outpoint: *outpoint,
                got: spent.script_pubkey.clone(),
                expected: beacon_script.to_owned(),
            });
        }
        if !seen.insert(outpoint) {
            return Err(BuildError::RepeatedInput {
                outpoint: *outpoint,
            });
        }
        total = total
            .checked_add(spent.value)
            .filter(|total| *total <= Amount::MAX_MONEY)
            .ok_or(BuildError::ImpossibleTotal)?;
    }
    Ok(total)
}

pub(crate) fn unsigned_input(previous_output: OutPoint) -> TxIn {
    TxIn {
        previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    }
}

/// The fee of the signed transaction; a rate beyond all reason gives an amount that no input can pay.
pub(crate) fn fee_for(
    transaction: &Transaction,
    beacon_script: &Script,
    fee_rate_sat_vb: u64,
) -> Amount {
    Amount::from_sat(signed_vsize(transaction, beacon_script).saturating_mul(fee_rate_sat_vb))
}

/// The virtual size in vB once every input that spends the beacon script has its signature, whatever it has now: one of 64
/// bytes for P2TR (`SIGHASH_DEFAULT`), an ECDSA signature of 72 bytes at most and the key for P2WPKH and P2PKH.
pub fn signed_vsize(transaction: &Transaction, beacon_script: &Script) -> u64 {
    let (script_sig, witness) = signature_space(beacon_script).unwrap_or_default();
    let mut signed = transaction.clone();
    for input in &mut signed.input {
        input.script_sig.clone_from(&script_sig);
        input.witness.clone_from(&witness);
    }
    signed.weight().to_vbytes_ceil()
}

/// What an input that spends this script by one signature is as long as; `None` for other scripts.
fn signature_space(script: &Script) -> Option<(ScriptBuf, Witness)> {
    let (signature, key) = ([0; ECDSA_LEN], [0; KEY_LEN]);
    if script.is_p2tr() {
        let witness = Witness::from_slice(&[[0; SIGNATURE_LEN]]);
        Some((ScriptBuf::new(), witness))
    } else if script.is_p2wpkh() {
        let witness = Witness::from_slice(&[&signature[..], &key]);
        Some((ScriptBuf::new(), witness))
    } else if script.is_p2pkh() {
        let pushes = Builder::new().push_slice(signature).push_slice(key);
        Some((pushes.into_script(), Witness::new()))
    } else {
        None
    }
}

/// Whether nodes would not relay a transaction with this output since spending it costs more than it is worth, by
/// Bitcoin Core's default of 3 sat/vB: below 330 sat for taproot.
pub fn is_dust(output: &TxOut) -> bool {
    output.value < output.script_pubkey.minimal_non_dust()
}

/// The signal bytes, if the last output's script is exactly `OP_RETURN` and a push of 32 bytes (`6a20…`). This is all
/// that a resolver reads; it does not look at other outputs.
pub fn signal_bytes(transaction: &Transaction) -> Option<[u8; 32]> {
    match transaction.output.last()?.script_pubkey.as_bytes() {
        [0x6a, 0x20, bytes @ ..] => bytes.try_into().ok(),
        _ => None,
    }
}

/// Whether the last output, which carries the signal bytes, burns no coins.
pub fn signal_has_no_value(transaction: &Transaction) -> bool {
    transaction
        .output
        .last()
        .is_some_and(|output| output.value == Amount::ZERO)
}

/// Whether the version is 2.
pub fn has_version_two(transaction: &Transaction) -> bool {
    transaction.version == Version::TWO
}

/// Whether the lock time is 0.
pub fn has_no_lock_time(transaction: &Transaction) -> bool {
    transaction.lock_time == LockTime::ZERO
}

/// Whether every input has the sequence 0xfffffffd: replaceable, and no relative lock time.
pub fn has_signal_sequences(transaction: &Transaction) -> bool {
    transaction
        .input
        .iter()
        .all(|input| input.sequence == Sequence::ENABLE_RBF_NO_LOCKTIME)
}

/// Number of outputs whose script starts with `OP_RETURN`, whatever follows. A signal has one.
pub fn op_return_count(transaction: &Transaction) -> usize {
    let is_op_return =
        |output: &&TxOut| output.script_pubkey.as_bytes().first() == Some(&OP_RETURN.to_u8());
    transaction.output.iter().filter(is_op_return).count()
}

/// All outputs before the last one. A signal has at most one, and it pays the beacon script.
pub fn change_outputs(transaction: &Transaction) -> &[TxOut] {
    transaction
        .output
        .split_last()
        .map_or(&[], |(_, change)| change)
}

/// The fee, given the outputs spent in the order of the inputs. `None` when their number differs from that of the
/// inputs, or when the outputs are worth more than they are.
pub fn fee(transaction: &Transaction, spent: &[TxOut]) -> Option<Amount> {
    if spent.len() != transaction.input.len() {
        return None;
    }
    let sum = |outputs: &[TxOut]| {
        outputs
            .iter()
            .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
    };
    sum(spent)?.checked_sub(sum(&transaction.output)?)
}

/// The highest fee a member accepts at a cap in sat/vB: the cap times the signed size.
///
/// A signal without change may pay more by what dropping the change has freed, if that was right at the cap: the fee
/// of the change output itself and an amount that would have been dust.
pub fn max_fee(transaction: &Transaction, beacon_script: &Script, cap_sat_vb: u64) -> Amount {
    if !change_outputs(transaction).is_empty() {
        return fee_for(transaction, beacon_script, cap_sat_vb);
    }
    let dust_limit = beacon_script.minimal_non_dust();
    let mut with_change = transaction.clone();
    with_change.output.insert(
        0,
        TxOut {
            value: dust_limit,
            script_pubkey: beacon_script.to_owned(),
        },
    );
    let largest_dust = Amount::from_sat(dust_limit.to_sat().saturating_sub(1));
    fee_for(&with_change, beacon_script, cap_sat_vb)
        .checked_add(largest_dust)
        .unwrap_or(Amount::MAX)
}
