//! Fallback spends that come from others: what is none of this beacon, by this leaf, with these signatures, is refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

use beacon_cohort::musig::BeaconKey;
use beacon_cohort::psbt;
use beacon_cohort::script_path::ScriptPath;
use beacon_cohort::script_spend::{ScriptSpend, SpendError};
use beacon_cohort::values::CohortKey;
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, Psbt, ScriptBuf, Sequence, TxOut, Txid, XOnlyPublicKey};
use secp256k1::{Keypair, schnorr};
use serde_json::json;

fn holder(number: u8) -> Keypair {
    Keypair::from_secret_bytes([number; 32]).unwrap()
}

fn x_only(number: u8) -> XOnlyPublicKey {
    let bytes = holder(number).x_only_public_key().0.to_byte_array();
    XOnlyPublicKey::from_slice(&bytes).unwrap()
}

/// A beacon of members 1 to 3 with both leaves, and a spend of two of its outputs by the fallback leaf.
struct Case {
    beacon: BeaconKey,
    recovery: ScriptPath,
    fallback: ScriptPath,
    spend: ScriptSpend,
}

fn case() -> Case {
    let tree = json!({
        "recovery": { "key": x_only(9).to_string(), "blocks": 16 }, "fallback": { "threshold": 2 },
    });
    let tree = serde_json::from_value(tree).unwrap();
    let keys = [1, 2, 3].map(|number| CohortKey::from(holder(number).public_key()));
    let beacon = BeaconKey::with_tree(keys, Some(&tree)).unwrap();
    let [recovery, fallback] = beacon.script_paths().try_into().unwrap();
    let coins = [0, 1].map(|vout| (OutPoint::new(Txid::all_zeros(), vout), 10_000));
    let to = ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::all_zeros());
    let spend = ScriptSpend::build(&beacon, &fallback, &coins, &to, 4).unwrap();
    Case {
        beacon,
        recovery,
        fallback,
        spend,
    }
}

fn signatures(spend: &ScriptSpend, number: u8) -> Vec<[u8; 64]> {
    let pair = holder(number);
    let sighashes = spend.sighashes().iter();
    let sign =
        |sighash: &[u8; 32]| schnorr::sign_with_aux_rand(sighash, &pair, &[2; 32]).to_byte_array();
    sighashes.map(sign).collect()
}

impl Case {
    fn read(&self, change: impl FnOnce(&mut Psbt)) -> Result<ScriptSpend, SpendError> {
        let mut file = self.spend.psbt().unwrap();
        change(&mut file);
        ScriptSpend::read(&self.beacon, &self.fallback, &file)
    }
}

#[test]
fn a_spend_survives_its_file() {
    let mut case = case();
    let key = x_only(3);
    let given = signatures(&case.spend, 3);
    case.spend.add(key, given).unwrap();
    let text = psbt::to_base64(&case.spend.psbt().unwrap()).unwrap();
    let file = psbt::parse(text.as_bytes()).unwrap();
    let read = ScriptSpend::read(&case.beacon, &case.fallback, &file).unwrap();
    assert_eq!(read, case.spend);
    assert_eq!(read.signers().collect::<Vec<_>>(), [&key]);
    let leaf = &file.inputs[0].tap_scripts[&case.fallback.control].0;
    assert_eq!(*leaf, case.fallback.script);
    assert_eq!(file.inputs[0].tap_merkle_root, case.beacon.merkle_root());
    assert_eq!(
        file.inputs[0].tap_internal_key,
        Some(case.beacon.internal_key())
    );
}

#[test]
fn what_is_no_spend_by_this_leaf_is_refused() {
    type Change = fn(&mut Psbt);
    let changes: [(&str, Change); 11] = [
        ("an input without it", |file| {
            file.inputs[1].witness_utxo = None;
        }),
        ("an input without it", |file| {
            let output = file.inputs[0].witness_utxo.as_mut().unwrap();
            output.script_pubkey = ScriptBuf::new();
        }),
        ("another internal key", |file| {
            file.inputs[0].tap_internal_key = Some(x_only(1));
        }),
        ("another script tree", |file| {
            file.inputs[0].tap_merkle_root = Some(bitcoin::TapNodeHash::all_zeros());
        }),
        ("lock time 7", |file| {
            file.unsigned_tx.lock_time = bitcoin::absolute::LockTime::from_consensus(7);
        }),
        ("version 1", |file| {
            file.unsigned_tx.version = bitcoin::transaction::Version::ONE;
        }),
        ("sequence", |file| {
            file.unsigned_tx.input[1].sequence = Sequence::MAX;
        }),
        ("twice", |file| {
            file.unsigned_tx.input[1] = file.unsigned_tx.input[0].clone();
        }),
        ("worth more than the inputs", |file| {
            file.unsigned_tx.output[0].value = Amount::from_sat(20_001);
        }),
        ("all bitcoin there can be", |file| {
            file.unsigned_tx.output[0].value = Amount::MAX;
        }),
        ("0 outputs", |file| file.unsigned_tx.output.clear()),
    ];
    let case = case();
    case.read(|_| {}).unwrap();
    for (wording, change) in changes {
        let error = case.read(change).unwrap_err().to_string();
        assert!(error.contains(wording), "{wording}: {error}");
    }
    let nothing = case.read(|file| {
        file.inputs.clear();
        file.unsigned_tx.input.clear();
    });
    assert_eq!(nothing, Err(SpendError::NoInputs));
    let file = case.spend.psbt().unwrap();
    let by_another = ScriptSpend::read(&case.beacon, &case.recovery, &file).unwrap_err();
    assert!(by_another.to_string().contains("sequence"), "{by_another}");
}

/// A spend whose last output has 32 bytes behind an `OP_RETURN` is a signal: as many members as the fallback wants could make
/// one unawares.
#[test]
fn a_file_that_announces_is_refused() {
    let announced = case().read(|file| {
        file.unsigned_tx.output.push(TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return([7; 32]),
        });
        file.outputs.push(bitcoin::psbt::Output::default());
    });
    assert_eq!(announced, Err(SpendError::OpReturn(1)));
}

#[test]
fn signatures_that_are_none_are_refused() {
    let mut case = case();
    let given = signatures(&case.spend, 1);
    let foreign = case.spend.add(x_only(9), signatures(&case.spend, 9));
    assert_eq!(foreign, Err(SpendError::ForeignKey(x_only(9))));
    let of_another = case.spend.add(x_only(2), given.clone());
    let bad = SpendError::BadSignature {
        key: x_only(2),
        input: 0,
    };
    assert_eq!(of_another, Err(bad));
    let exchanged = case.spend.add(x_only(1), vec![given[0], given[0]]);
    let bad = SpendError::BadSignature {
        key: x_only(1),
        input: 1,
    };
    assert_eq!(exchanged, Err(bad));
    let short = case.spend.add(x_only(1), vec![given[0]]).unwrap_err();
    assert!(short.to_string().contains("one for each input"), "{short}");
    assert_eq!(case.spend.signers().count(), 0);

    case.spend.add(x_only(1), given).unwrap();
    let half = case.read(|file| file.inputs[1].tap_script_sigs.clear());
    assert!(half.unwrap_err().to_string().contains("one for each input"));
    let leaf = case.recovery.leaf_hash();
    let elsewhere = case.read(|file| {
        let (at, signature) = file.inputs[0].tap_script_sigs.pop_first().unwrap();
        file.inputs[0]
            .tap_script_sigs
            .insert((at.0, leaf), signature);
    });
    assert!(elsewhere.unwrap_err().to_string().contains("another leaf"));
    let other_type = case.read(|file| {
        let signature = file.inputs[0].tap_script_sigs.values_mut().next().unwrap();
        signature.sighash_type = bitcoin::TapSighashType::All;
    });
    assert!(
        other_type
            .unwrap_err()
            .to_string()
            .contains("SIGHASH_DEFAULT")
    );
}

#[test]
fn fees_are_bounded_and_money_is_missed_to_the_satoshi() {
    let case = case();
    let vsize = case.spend.vsize();
    assert_eq!(case.spend.fee_sat(), 4 * vsize);
    case.spend.check_fee(4).unwrap();
    let too_high = SpendError::FeeTooHigh {
        got_sat: 4 * vsize,
        vsize,
        cap_sat_vb: 3,
    };
    assert_eq!(case.spend.check_fee(3), Err(too_high));
    let to = ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::all_zeros());
    let build = |sat| {
        let coins = [(OutPoint::null(), sat)];
        ScriptSpend::build(&case.beacon, &case.fallback, &coins, &to, 4)
    };
    let needed = 4 * build(100_000).unwrap().vsize() + 294;
    assert_eq!(
        build(needed).unwrap().transaction().output[0]
            .value
            .to_sat(),
        294
    );
    let missing = SpendError::NeedsMore {
        missing_sat: 1,
        fee_rate_sat_vb: 4,
    };
    assert_eq!(build(needed - 1), Err(missing));
    let twice = [(OutPoint::null(), 9_000); 2];
    let twice = ScriptSpend::build(&case.beacon, &case.fallback, &twice, &to, 4).unwrap_err();
    assert!(twice.to_string().contains("twice"), "{twice}");
    assert_eq!(
        ScriptSpend::build(&case.beacon, &case.fallback, &[], &to, 4),
        Err(SpendError::NoInputs)
    );
}

#[test]
fn two_files_about_different_spends_are_not_combined() {
    let mut case = case();
    let coins = [(OutPoint::new(Txid::all_zeros(), 0), 10_000)];
    let to = ScriptBuf::new_p2wpkh(&bitcoin::WPubkeyHash::all_zeros());
    let other = ScriptSpend::build(&case.beacon, &case.fallback, &coins, &to, 4).unwrap();
    assert!(matches!(
        case.spend.combine(&other),
        Err(SpendError::OtherTransaction { .. })
    ));
    // The same transaction with other amounts: its signatures are for something else.
    let mut lied = case.spend.psbt().unwrap();
    for input in &mut lied.inputs {
        input.witness_utxo.as_mut().unwrap().value = Amount::from_sat(10_001);
    }
    let lied = ScriptSpend::read(&case.beacon, &case.fallback, &lied).unwrap();
    assert!(case.spend.combine(&lied).is_err());
}
