//! The beacon transaction: sizes against real witnesses, fees to the satoshi, and each reviewed fact on its own.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the failure"
)]

use beacon_signal::transaction::{
    BuildError, build_signal, change_outputs, fee, has_no_lock_time, has_signal_sequences,
    has_version_two, is_dust, max_fee, op_return_count, signal_bytes, signal_has_no_value,
    signed_vsize,
};
use bitcoin::absolute::LockTime;
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::all::OP_PUSHNUM_1;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxOut, Txid, Witness};
use proptest::prelude::*;

const ROOT: [u8; 32] = [0xab; 32];
/// Sizes of a signal with one input, in vB: counted by hand from BIP141 and BIP341 (10.5 for the frame with its
/// segwit marker, 57.5 for an input with a 64-byte signature, 43 for each of the two outputs).
const VSIZE_WITHOUT_CHANGE: u64 = 111;
const VSIZE_WITH_CHANGE: u64 = 154;

fn taproot_script(byte: u8) -> ScriptBuf {
    Builder::new()
        .push_opcode(OP_PUSHNUM_1)
        .push_slice([byte; 32])
        .into_script()
}

fn beacon() -> ScriptBuf {
    taproot_script(2)
}

fn outpoint(number: u8) -> OutPoint {
    OutPoint {
        txid: Txid::from_byte_array([number; 32]),
        vout: u32::from(number),
    }
}

fn inputs(values: &[u64]) -> Vec<(OutPoint, TxOut)> {
    let input = |(number, sat): (u8, &u64)| {
        (
            outpoint(number),
            TxOut {
                value: Amount::from_sat(*sat),
                script_pubkey: beacon(),
            },
        )
    };
    (1..).zip(values).map(input).collect()
}

fn spent(values: &[u64]) -> Vec<TxOut> {
    inputs(values)
        .into_iter()
        .map(|(_, output)| output)
        .collect()
}

fn build(values: &[u64], rate: u64) -> Result<Transaction, BuildError> {
    build_signal(&inputs(values), &beacon(), ROOT, rate)
}

/// The size of what goes over the wire once it is signed.
fn size_with_real_witnesses(mut transaction: Transaction) -> u64 {
    for input in &mut transaction.input {
        input.witness = Witness::from_slice(&[[0x5a; 64]]);
    }
    let total = serialize(&transaction).len();
    for input in &mut transaction.input {
        input.witness = Witness::new();
    }
    let base = serialize(&transaction).len();
    u64::try_from((3 * base + total).div_ceil(4)).unwrap()
}

#[test]
fn a_signal_with_change() {
    let signal = build(&[100_000], 5).unwrap();
    assert_eq!(signal.version, Version::TWO);
    assert_eq!(signal.lock_time, LockTime::ZERO);
    assert_eq!(signal.input.len(), 1);
    assert_eq!(signal.input[0].previous_output, outpoint(1));
    assert_eq!(signal.input[0].sequence.0, 0xffff_fffd);
    assert!(signal.input[0].script_sig.is_empty() && signal.input[0].witness.is_empty());

    let [change, root] = signal.output.as_slice() else {
        panic!("{signal:?}")
    };
    assert_eq!(change.script_pubkey, beacon());
    assert_eq!(change.value.to_sat(), 100_000 - 5 * VSIZE_WITH_CHANGE);
    assert_eq!(
        root.script_pubkey.as_bytes(),
        [[0x6a, 0x20].as_slice(), &ROOT].concat()
    );
    assert_eq!(root.value, Amount::ZERO);
    assert_eq!(signal_bytes(&signal), Some(ROOT));
    assert_eq!(
        deserialize::<Transaction>(&serialize(&signal)).unwrap(),
        signal
    );
}

/// To the satoshi: 330 sat of change are kept, 329 are dropped.
#[test]
fn change_is_dropped_when_it_would_be_dust() {
    for rate in [1, 2, 50] {
        let kept = build(&[rate * VSIZE_WITH_CHANGE + 330], rate).unwrap();
        assert_eq!(
            change_outputs(&kept),
            [TxOut {
                value: Amount::from_sat(330),
                script_pubkey: beacon()
            }]
        );

        let dropped = build(&[rate * VSIZE_WITH_CHANGE + 329], rate).unwrap();
        assert_eq!(change_outputs(&dropped), []);
        let paid = fee(&dropped, &spent(&[rate * VSIZE_WITH_CHANGE + 329])).unwrap();
        assert_eq!(paid.to_sat(), rate * VSIZE_WITH_CHANGE + 329);
        assert_eq!(paid, max_fee(&dropped, &beacon(), rate));
    }
}

#[test]
fn too_little_names_what_is_missing() {
    assert!(build(&[VSIZE_WITHOUT_CHANGE * 3], 3).is_ok());
    let error = build(&[VSIZE_WITHOUT_CHANGE * 3 - 8], 3).unwrap_err();
    assert_eq!(
        error,
        BuildError::NeedsMore {
            missing_sat: 8,
            fee_rate_sat_vb: 3
        }
    );
    assert_eq!(error.to_string(), "needs 8 sat more at 3 sat/vB");
    let missing_sat = u64::MAX - 1_000;
    assert_eq!(
        build(&[1_000], u64::MAX),
        Err(BuildError::NeedsMore {
            missing_sat,
            fee_rate_sat_vb: u64::MAX
        })
    );
}

#[test]
fn inputs_that_a_signal_cannot_have_are_refused() {
    assert_eq!(build(&[], 1), Err(BuildError::NoInputs));
    assert_eq!(
        build(&[Amount::MAX_MONEY.to_sat(), 1], 1),
        Err(BuildError::ImpossibleTotal)
    );
    assert_eq!(
        build(&[u64::MAX, u64::MAX], 1),
        Err(BuildError::ImpossibleTotal)
    );

    let mut repeated = inputs(&[1_000, 1_000]);
    repeated[1].0 = outpoint(1);
    let error = build_signal(&repeated, &beacon(), ROOT, 1).unwrap_err();
    assert_eq!(
        error,
        BuildError::RepeatedInput {
            outpoint: outpoint(1)
        }
    );

    let mut foreign = inputs(&[1_000, 1_000]);
    foreign[1].1.script_pubkey = ScriptBuf::new();
    let error = build_signal(&foreign, &beacon(), ROOT, 1).unwrap_err();
    assert!(
        matches!(error, BuildError::ForeignInput { outpoint: at, .. } if at == outpoint(2)),
        "{error}"
    );

    let script = ScriptBuf::new_op_return([0; 4]);
    let error = build_signal(&inputs(&[1_000]), &script, ROOT, 1).unwrap_err();
    assert_eq!(error, BuildError::NotOneKey { script });
}

/// Sizes of a spend with one input and change, counted by hand from BIP141. P2WPKH: 10.5 for the frame, 41 and a quarter of
/// 1 + 1 + 72 + 1 + 33 for the input, 31 and 43 for the outputs. P2PKH: 10, 41 + 107, 34 and 43.
#[test]
fn other_scripts_of_one_key_are_priced_by_their_own_signatures() {
    let key = bitcoin::PubkeyHash::from_byte_array([7; 20]);
    let wkey = bitcoin::WPubkeyHash::from_byte_array([7; 20]);
    for (script, size, dust) in [
        (ScriptBuf::new_p2wpkh(&wkey), 153, 294),
        (ScriptBuf::new_p2pkh(&key), 235, 546),
    ] {
        let build = |value| {
            let output = TxOut {
                value: Amount::from_sat(value),
                script_pubkey: script.clone(),
            };
            build_signal(&[(outpoint(1), output)], &script, ROOT, 2)
        };
        let signal = build(10_000).unwrap();
        assert_eq!(signed_vsize(&signal, &script), size);
        let [change] = change_outputs(&signal) else {
            panic!("{signal:?}")
        };
        assert_eq!(change.value.to_sat(), 10_000 - 2 * size);
        let least = 2 * size + dust;
        assert_eq!(change_outputs(&build(least).unwrap()).len(), 1);
        assert_eq!(change_outputs(&build(least - 1).unwrap()).len(), 0);
    }
}

#[test]
fn predicted_size_is_that_of_the_signed_transaction() {
    assert_eq!(
        signed_vsize(&build(&[1_000], 1).unwrap(), &beacon()),
        VSIZE_WITH_CHANGE
    );
    assert_eq!(
        signed_vsize(&build(&[400], 1).unwrap(), &beacon()),
        VSIZE_WITHOUT_CHANGE
    );
    for count in [1, 2, 3, 8, 252, 253, 254] {
        let signal = build(&vec![10_000; count], 1).unwrap();
        let mut signed = signal.clone();
        for input in &mut signed.input {
            input.witness = Witness::from_slice(&[[1; 64]]);
        }
        assert_eq!(
            signed_vsize(&signal, &beacon()),
            u64::try_from(signed.vsize()).unwrap(),
            "{count} inputs"
        );
        assert_eq!(
            signed_vsize(&signal, &beacon()),
            size_with_real_witnesses(signal),
            "{count} inputs"
        );
        assert_eq!(
            signed_vsize(&signed, &beacon()),
            u64::try_from(signed.vsize()).unwrap(),
            "{count} inputs"
        );
    }
}

#[test]
fn dust_is_below_330_sat_for_taproot() {
    let pays = |sat| TxOut {
        value: Amount::from_sat(sat),
        script_pubkey: beacon(),
    };
    assert!(is_dust(&pays(0)) && is_dust(&pays(329)));
    assert!(!is_dust(&pays(330)));
    let signal = TxOut {
        value: Amount::ZERO,
        script_pubkey: ScriptBuf::new_op_return(ROOT),
    };
    assert!(!is_dust(&signal), "an OP_RETURN is never spent");
}

#[test]
fn signal_bytes_are_read_from_the_last_output_only() {
    let signal = build(&[10_000], 1).unwrap();
    let mut moved = signal.clone();
    moved.output.swap(0, 1);
    assert_eq!(signal_bytes(&moved), None);
    moved.output.clear();
    assert_eq!(signal_bytes(&moved), None);

    let root_push = [[0x6a, 0x20].as_slice(), &ROOT].concat();
    for (script, expected, why) in [
        (root_push.clone(), Some(ROOT), "exact"),
        ([root_push.as_slice(), &[0]].concat(), None, "a byte more"),
        (root_push[..33].to_vec(), None, "a byte less"),
        (
            [[0x6a, 0x4c, 0x20].as_slice(), &ROOT].concat(),
            None,
            "OP_PUSHDATA1",
        ),
        (
            [[0x6a, 0x1f].as_slice(), &ROOT[1..]].concat(),
            None,
            "31 bytes",
        ),
        (
            [[0x6a, 0x21].as_slice(), &ROOT, &[0]].concat(),
            None,
            "33 bytes",
        ),
        (
            [[0x51, 0x20].as_slice(), &ROOT].concat(),
            None,
            "a taproot output",
        ),
        (vec![], None, "empty"),
    ] {
        let mut other = signal.clone();
        other.output[1].script_pubkey = ScriptBuf::from_bytes(script);
        assert_eq!(signal_bytes(&other), expected, "{why}");
    }
}

/// Changes a good signal so that it breaks one rule.
type Violation = fn(&mut Transaction);

/// What a member reviews: a good signal passes everything, and each change makes its own fact false.
#[test]
fn each_fact_is_seen_alone() {
    let facts = |tx: &Transaction| {
        [
            has_version_two(tx),
            has_no_lock_time(tx),
            has_signal_sequences(tx),
            signal_bytes(tx) == Some(ROOT),
            signal_has_no_value(tx),
            op_return_count(tx) == 1,
            change_outputs(tx).len() <= 1,
            change_outputs(tx)
                .iter()
                .all(|change| change.script_pubkey == beacon()),
            fee(tx, &spent(&[10_000, 10_000])).is_some_and(|fee| fee <= max_fee(tx, &beacon(), 2)),
        ]
    };
    let signal = build(&[10_000, 10_000], 2).unwrap();
    assert_eq!(facts(&signal), [true; 9]);

    let violations: [(usize, Violation); 11] = [
        (0, |tx| tx.version = Version::ONE),
        (0, |tx| tx.version = Version(3)),
        (1, |tx| tx.lock_time = LockTime::from_consensus(1)),
        (2, |tx| tx.input[0].sequence = Sequence::MAX),
        (2, |tx| tx.input[1].sequence = Sequence(0xffff_fffc)),
        (3, |tx| {
            tx.output[1].script_pubkey = ScriptBuf::new_op_return([0; 32]);
        }),
        (4, |tx| tx.output[1].value = Amount::from_sat(1)),
        (7, |tx| tx.output[0].script_pubkey = taproot_script(3)),
        (8, |tx| tx.output[0].value -= Amount::from_sat(1)),
        (8, |tx| tx.output[0].value += Amount::from_sat(20_000)),
        (8, |tx| tx.output[0].value = Amount::from_sat(u64::MAX)),
    ];
    for (number, (fact, violate)) in violations.into_iter().enumerate() {
        let mut bad = signal.clone();
        violate(&mut bad);
        let expected: [bool; 9] = std::array::from_fn(|at| at != fact);
        assert_eq!(facts(&bad), expected, "violation {number}");
    }

    let mut two_roots = signal.clone();
    two_roots.output[0].script_pubkey = ScriptBuf::new_op_return([0; 32]);
    assert_eq!(op_return_count(&two_roots), 2);
    // Also one that no standard parser would take for data.
    two_roots.output[0].script_pubkey = ScriptBuf::from_bytes(vec![0x6a, 0xff]);
    assert_eq!(op_return_count(&two_roots), 2);
}

#[test]
fn fee_needs_one_spent_output_for_each_input() {
    let signal = build(&[10_000, 10_000], 1).unwrap();
    assert_eq!(fee(&signal, &spent(&[10_000])), None);
    assert_eq!(fee(&signal, &spent(&[10_000, 10_000, 10_000])), None);
    assert_eq!(fee(&signal, &spent(&[u64::MAX, 1])), None);
    assert_eq!(
        fee(&signal, &spent(&[10_000, 9_000])),
        None,
        "worth less than its outputs"
    );
    assert_eq!(
        fee(&signal, &spent(&[10_000, 10_000])).map(Amount::to_sat),
        Some(signed_vsize(&signal, &beacon()))
    );
}

proptest! {
    /// Whatever the inputs and the rate, a signal that is built passes the review at a cap of that rate and pays that
    /// rate at least; one that is not built lacks exactly what the error says.
    #[test]
    fn a_built_signal_keeps_the_cap(values in prop::collection::vec(0_u64..3_000, 1..9), rate in 0_u64..60) {
        let total: u64 = values.iter().sum();
        match build(&values, rate) {
            Ok(signal) => {
                let paid = fee(&signal, &spent(&values)).unwrap();
                prop_assert!(paid <= max_fee(&signal, &beacon(), rate));
                prop_assert!(paid.to_sat() >= rate * signed_vsize(&signal, &beacon()));
                prop_assert!(change_outputs(&signal).len() <= 1);
                for change in change_outputs(&signal) {
                    prop_assert_eq!(&change.script_pubkey, &beacon());
                    prop_assert!(!is_dust(change));
                    prop_assert_eq!(paid.to_sat(), rate * signed_vsize(&signal, &beacon()));
                }
                prop_assert_eq!(signal_bytes(&signal), Some(ROOT));
            }
            Err(BuildError::NeedsMore { missing_sat, fee_rate_sat_vb }) => {
                prop_assert_eq!(fee_rate_sat_vb, rate);
                let mut enough = values.clone();
                enough[0] += missing_sat;
                prop_assert!(build(&enough, rate).is_ok());
                enough[0] -= 1;
                prop_assert!(build(&enough, rate).is_err());
                prop_assert_eq!(enough.iter().sum::<u64>() + 1, total + missing_sat);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
