//! The last spend of a beacon: everything that it is given goes to one script, and nothing is announced.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, Script, Transaction, TxOut};

use crate::transaction::{BuildError, fee_for, is_dust, spendable_total, unsigned_input};

/// Builds the unsigned closing spend of `inputs`, each an output of the beacon and the outpoint where it is.
///
/// Version 2, lock time 0, every sequence 0xfffffffd, as signals. One output pays `close_script` all but the fee, which is
/// `fee_rate_sat_vb` (sat/vB) times the size that the transaction has once it is signed. What would be dust is missing.
pub fn build_close(
    inputs: &[(OutPoint, TxOut)],
    beacon_script: &Script,
    close_script: &Script,
    fee_rate_sat_vb: u64,
) -> Result<Transaction, BuildError> {
    let total = spendable_total(inputs, beacon_script)?;
    let mut close = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: inputs
            .iter()
            .map(|(outpoint, _)| unsigned_input(*outpoint))
            .collect(),
        output: vec![TxOut {
            value: Amount::ZERO,
            script_pubkey: close_script.to_owned(),
        }],
    };
    let fee = fee_for(&close, beacon_script, fee_rate_sat_vb);
    let value = total.checked_sub(fee).unwrap_or(Amount::ZERO);
    let paid = TxOut {
        value,
        script_pubkey: close_script.to_owned(),
    };
    if is_dust(&paid) {
        let least = close_script.minimal_non_dust().checked_add(fee);
        let missing = least.unwrap_or(Amount::MAX).checked_sub(total);
        return Err(BuildError::NeedsMore {
            missing_sat: missing.unwrap_or(Amount::ZERO).to_sat(),
            fee_rate_sat_vb,
        });
    }
    close.output = vec![paid];
    Ok(close)
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;
    use bitcoin::{ScriptBuf, Txid};

    use super::*;
    use crate::transaction::{fee, signal_bytes, signed_vsize};

    fn script(byte: u8) -> ScriptBuf {
        ScriptBuf::from_bytes([&[0x51, 0x20][..], &[byte; 32]].concat())
    }

    fn inputs(values: &[u64]) -> Vec<(OutPoint, TxOut)> {
        let output = |value: &u64| TxOut {
            value: Amount::from_sat(*value),
            script_pubkey: script(1),
        };
        let outpoint = |vout| OutPoint::new(Txid::all_zeros(), vout);
        (0..).map(outpoint).zip(values.iter().map(output)).collect()
    }

    #[test]
    fn everything_but_the_exact_fee_is_paid_and_nothing_is_announced() {
        for values in [&[50_000][..], &[700, 50_000, 9_000]] {
            let inputs = inputs(values);
            let close = build_close(&inputs, &script(1), &script(2), 7).unwrap();
            let [paid] = close.output.as_slice() else {
                panic!("one output");
            };
            assert_eq!(paid.script_pubkey, script(2));
            assert_eq!(signal_bytes(&close), None);
            let spent: Vec<_> = inputs.iter().map(|(_, output)| output.clone()).collect();
            let exact = Amount::from_sat(7 * signed_vsize(&close, &script(1)));
            assert_eq!(fee(&close, &spent), Some(exact));
        }
    }

    #[test]
    fn dust_is_not_paid_and_what_is_missing_is_said() {
        let fee = build_close(&inputs(&[50_000]), &script(1), &script(2), 1).unwrap();
        let fee = signed_vsize(&fee, &script(1));
        let build = |value| build_close(&inputs(&[value]), &script(1), &script(2), 1);
        assert!(build(fee + 330).is_ok());
        let expected = BuildError::NeedsMore {
            missing_sat: 1,
            fee_rate_sat_vb: 1,
        };
        assert_eq!(build(fee + 329), Err(expected));
        assert_eq!(
            build_close(&[], &script(1), &script(2), 1),
            Err(BuildError::NoInputs)
        );
    }
}
