//! The checks of the transaction and of its money.

use beacon_cohort::DeclineCode;
use beacon_cohort::message::Kind;
use beacon_cohort::musig::BeaconKey;
use beacon_signal::{Root, transaction};
use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, TxOut, Witness};

use super::case::{Case, SPENT, add_input, declines, reviewed, seen, spending, txid};
use super::key;

#[test]
fn reviews_the_valid_signal() {
    reviewed(&Case::valid());
}

/// Dropping change that would be dust is right, and so is an empty leaf where the terms allow it.
#[test]
fn reviews_a_signal_without_change_and_an_allowed_empty_leaf() {
    let mut case = Case::valid();
    let spent = TxOut {
        value: Amount::from_sat(600),
        script_pubkey: case.beacon.script().to_owned(),
    };
    case.terms.empty_leaf_allowed = true;
    case.leaves[1].1 = None;
    case.build(&spent);
    assert_eq!(case.request.pending_tx.output.len(), 1);
    reviewed(&case);
}

/// A retry spends what the live transaction spends; a later round spends its change.
#[test]
fn reviews_what_conflicts_with_live_transactions_or_builds_on_them() {
    let mut case = Case::valid();
    case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
    case.signed_roots = vec![Root(
        transaction::signal_bytes(&case.request.pending_tx).unwrap(),
    )];
    reviewed(&case);
    let (parent, grandparent) = (spending(&[OutPoint::new(txid(2), 0)]), txid(2));
    let mut chain = spending(&[]);
    chain.lock_time = LockTime::from_consensus(2);
    assert_eq!(chain.compute_txid(), grandparent);
    case.request.pending_tx.input[0].previous_output = OutPoint::new(parent.compute_txid(), 0);
    case.live = vec![chain, parent];
    reviewed(&case);
}

#[test]
fn declines_unsupported_kind() {
    for kind in [
        Kind::Replacement,
        Kind::Close,
        Kind::Other("sweep".to_owned()),
    ] {
        declines(DeclineCode::UnsupportedKind, |case| {
            case.request.kind = kind;
        });
    }
    declines(DeclineCode::UnsupportedKind, |case| {
        case.request.replaces = Some(txid(1));
    });
}

#[test]
fn declines_wrong_round() {
    for round in [2, 4] {
        declines(DeclineCode::WrongRound, |case| case.request.round = round);
    }
}

/// As many as the terms say, and each once: a second nonce for what one signature spends would be for nothing.
#[test]
fn declines_input_count() {
    let with = |case: &mut Case, inputs: u64| {
        (1..inputs).for_each(|vout| add_input(case, u32::try_from(vout).unwrap()));
    };
    let mut case = Case::valid();
    let max = case.terms.max_inputs;
    with(&mut case, max);
    reviewed(&case);
    declines(DeclineCode::InputCount, |case| with(case, max + 1));
    declines(DeclineCode::InputCount, |case| case.tx().input.clear());
    declines(DeclineCode::InputCount, |case| add_input(case, 0));
}

#[test]
fn declines_not_unsigned() {
    declines(DeclineCode::NotUnsigned, |case| {
        case.tx().input[0].witness = Witness::from_slice(&[[1; 64]]);
    });
    declines(DeclineCode::NotUnsigned, |case| {
        case.tx().input[0].script_sig = ScriptBuf::from_bytes(vec![0x51]);
    });
}

#[test]
fn declines_spent_output_count() {
    declines(DeclineCode::SpentOutputCount, |case| {
        let spent = case.request.spent_outputs[0].clone();
        case.request.spent_outputs.push(spent);
    });
}

/// A cohort that signs for another script would sign away what it does not mean to.
#[test]
fn declines_foreign_input() {
    declines(DeclineCode::ForeignInput, |case| {
        let foreign = ScriptBuf::from_bytes(vec![0x51]);
        case.request.spent_outputs[0].script = foreign.clone();
        case.views[0] = seen(SPENT, foreign, 1);
    });
}

#[test]
fn declines_version() {
    declines(DeclineCode::Version, |case| {
        case.tx().version = Version::ONE;
    });
}

#[test]
fn declines_lock_time() {
    declines(DeclineCode::LockTime, |case| {
        case.tx().lock_time = LockTime::from_consensus(1);
    });
}

#[test]
fn declines_sequence() {
    declines(DeclineCode::Sequence, |case| {
        case.tx().input[0].sequence = Sequence::MAX;
    });
}

/// A resolver reads the last output, and only a push of exactly 32 bytes.
#[test]
fn declines_signal_bytes() {
    declines(DeclineCode::SignalBytes, |case| {
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return([1; 31]);
    });
    declines(DeclineCode::SignalBytes, |case| case.tx().output.swap(0, 1));
}

#[test]
fn declines_signal_value() {
    declines(DeclineCode::SignalValue, |case| {
        case.tx().output[1].value = Amount::from_sat(1);
    });
}

/// A second root, hidden before the one that was reviewed.
#[test]
fn declines_extra_op_return() {
    declines(DeclineCode::ExtraOpReturn, |case| {
        case.change().script_pubkey = ScriptBuf::new_op_return([1; 32]);
    });
}

#[test]
fn declines_output_count() {
    declines(DeclineCode::OutputCount, |case| {
        case.change().value -= Amount::from_sat(1_000);
        let mut second = case.change().clone();
        second.value = Amount::from_sat(1_000);
        case.tx().output.insert(1, second);
    });
}

#[test]
fn declines_foreign_change() {
    declines(DeclineCode::ForeignChange, |case| {
        let foreign = BeaconKey::aggregate([key(5), key(6)]).unwrap();
        case.change().script_pubkey = foreign.script().to_owned();
    });
}

#[test]
fn declines_dust_change() {
    declines(DeclineCode::DustChange, |case| {
        let spent = TxOut {
            value: Amount::from_sat(1_000),
            script_pubkey: case.beacon.script().to_owned(),
        };
        case.build(&spent);
        case.change().value = Amount::from_sat(329);
    });
}

#[test]
fn declines_unbalanced() {
    declines(DeclineCode::Unbalanced, |case| {
        case.change().value = SPENT + Amount::from_sat(1);
    });
}

/// One sat above the cap times the size is too much; the cap itself is not.
#[test]
fn declines_fee_too_high() {
    let at = |case: &mut Case, more: u64| {
        let script = case.request.spent_outputs[0].script.clone();
        let size = transaction::signed_vsize(&case.request.pending_tx, &script);
        let cap = case.terms.max_fee_rate_sat_vb * size;
        case.change().value = SPENT - Amount::from_sat(cap + more);
    };
    let mut case = Case::valid();
    at(&mut case, 0);
    reviewed(&case);
    declines(DeclineCode::FeeTooHigh, |case| at(case, 1));
}

/// More money at once than the terms say, though all of it comes back.
#[test]
fn declines_balance_too_high() {
    let at = |case: &mut Case, max: u64| case.terms.max_balance_sat = max;
    let mut case = Case::valid();
    at(&mut case, SPENT.to_sat());
    reviewed(&case);
    declines(DeclineCode::BalanceTooHigh, |case| {
        at(case, SPENT.to_sat() - 1);
    });
}
