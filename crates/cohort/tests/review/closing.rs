//! The checks of a closing spend: everything goes to the script of the terms, and nothing is announced.

use beacon_cohort::DeclineCode;
use beacon_cohort::announcement::Announcement;
use beacon_cohort::message::{IndexProof, Kind};
use beacon_signal::{Index, Root, transaction};
use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut};

use super::case::{Case, SPENT, declines_of, reviewed, seen, spending, txid};

#[track_caller]
fn declines(code: DeclineCode, change: impl FnOnce(&mut Case)) {
    declines_of(Case::close(), code, change);
}

/// Neither leaves nor a root of the round matter, nor how much the terms wanted the beacon to hold.
#[test]
fn reviews_a_closing_spend() {
    reviewed(&Case::close());
    let mut case = Case::close();
    case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
    case.signed_roots = vec![Root([1; 32])];
    reviewed(&case);
}

/// Up to the exact cap, for nothing is dropped that would be left to the fee.
#[test]
fn declines_fee_too_high() {
    let mut case = Case::close();
    let size = transaction::signed_vsize(&case.request.pending_tx, case.beacon.script());
    let least = SPENT - Amount::from_sat(50 * size);
    case.change().value = least;
    reviewed(&case);
    declines(DeclineCode::FeeTooHigh, |case| {
        case.change().value = least - Amount::ONE_SAT;
    });
}

#[test]
fn declines_unsupported_kind() {
    declines(DeclineCode::UnsupportedKind, |case| {
        case.terms.close_script = None;
    });
}

#[test]
fn declines_wrong_round() {
    declines(DeclineCode::WrongRound, |case| case.request.round = 4);
}

/// To another script, in two outputs, with signal bytes beside, as dust, or to nobody.
#[test]
fn declines_close_output() {
    declines(DeclineCode::CloseOutput, |case| {
        case.change().script_pubkey = ScriptBuf::from_bytes([&[0x51, 0x20][..], &[8; 32]].concat());
    });
    declines(DeclineCode::CloseOutput, |case| {
        case.change().script_pubkey = case.beacon.script().to_owned();
    });
    declines(DeclineCode::CloseOutput, |case| {
        case.change().value -= Amount::from_sat(1_000);
        let mut second = case.request.pending_tx.output[0].clone();
        second.value = Amount::from_sat(1_000);
        case.tx().output.push(second);
    });
    declines(DeclineCode::CloseOutput, |case| {
        let signal = TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return([4; 32]),
        };
        case.tx().output.push(signal);
    });
    declines(DeclineCode::CloseOutput, |case| {
        case.terms.max_fee_rate_sat_vb = 100_000;
        case.change().value = Amount::from_sat(329);
    });
    declines(DeclineCode::CloseOutput, |case| {
        case.terms.max_fee_rate_sat_vb = 100_000;
        case.tx().output.clear();
    });
}

/// What would be written down for nothing.
#[test]
fn declines_close_proofs() {
    declines(DeclineCode::CloseProofs, |case| {
        let proof = Case::valid().request.proofs[0].proof.clone();
        let index = Index::of_did("did:example:a");
        case.request.proofs.push(IndexProof { index, proof });
    });
    declines(DeclineCode::CloseProofs, |case| {
        case.request.map = Some(Announcement::default());
    });
}

/// A signal that is on its way is not undone, and nothing is left to be mined beside the close.
#[test]
fn declines_published_signal() {
    declines(DeclineCode::PublishedSignal, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
        case.published = case.live.clone();
    });
}

#[test]
fn declines_live_transaction() {
    declines(DeclineCode::LiveTransaction, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(3), 0)])];
    });
}

/// The same with a higher fee.
fn replacement() -> Case {
    let mut case = Case::close();
    let old = case.request.pending_tx.clone();
    case.change().value -= Amount::from_sat(1_000);
    case.request.replaces = Some(old.compute_txid());
    case.live = vec![old.clone()];
    case.versions = vec![old.compute_txid()];
    let script = case.beacon.script().to_owned();
    let mut view = seen(SPENT, script, 1);
    if let beacon_cohort::machine::OutputView::Seen { spent_by, .. } = &mut view {
        *spent_by = Some(old.compute_txid());
    }
    case.views = vec![view];
    case.replaced = Some(old);
    case
}

#[test]
fn a_close_replaces_a_close() {
    assert_eq!(replacement().request.kind, Kind::Close);
    reviewed(&replacement());
}

#[test]
fn declines_replaces_unknown() {
    declines_of(replacement(), DeclineCode::ReplacesUnknown, |case| {
        case.replaced = None;
        case.views = Case::close().views;
    });
}

#[test]
fn declines_replaces_mined() {
    declines_of(replacement(), DeclineCode::ReplacesMined, |case| {
        case.mined = case.request.replaces;
    });
}

#[test]
fn declines_fee_not_higher() {
    declines_of(replacement(), DeclineCode::FeeNotHigher, |case| {
        case.change().value += Amount::from_sat(1_000);
    });
}

#[test]
fn declines_chain_spent() {
    declines_of(replacement(), DeclineCode::ChainSpent, |case| {
        case.versions.clear();
    });
}
