//! The checks of a replacement: what it must share with what it replaces, and what it may change.

use beacon_cohort::DeclineCode;
use beacon_cohort::announcement::Announcement;
use beacon_cohort::machine::OutputView;
use beacon_cohort::message::{IndexProof, Kind};
use beacon_cohort::terms::BeaconType;
use beacon_signal::{Index, Root, UpdateId, transaction};
use bitcoin::{Amount, OutPoint};

use super::case::{Case, add_input, declines_of, reviewed, spending, txid};

/// Declined, as a replacement with one thing changed.
#[track_caller]
fn declines(code: DeclineCode, change: impl FnOnce(&mut Case)) {
    declines_of(Case::replacement(), code, change);
}

/// The fee may change, inputs may come, and the change output may go; the member's own round does not matter.
#[test]
fn only_fee_inputs_and_change_differ() {
    reviewed(&Case::replacement());
    let mut case = Case::replacement();
    case.change().value -= Amount::from_sat(1);
    reviewed(&case);
    let mut case = Case::replacement();
    add_input(&mut case, 2);
    reviewed(&case);
    // All but the fee's share of one input.
    let mut case = Case::replacement();
    let kept = case.replaced.as_ref().unwrap().output[0].value;
    case.tx().input.pop();
    case.request.spent_outputs.pop();
    case.views.pop();
    case.change().value = kept - Amount::from_sat(1);
    reviewed(&case);
}

/// What a round says of an index that was registered later: nothing. And a member that has forgotten its leaves signs the
/// same root again; it has signed it before.
#[test]
fn later_indexes_are_empty_and_forgotten_ones_are_not_asked_for() {
    let mut case = Case::replacement();
    case.leaves[1].1 = None;
    case.unproven = vec![case.leaves[1].0];
    reviewed(&case);
    // No leaf in the round, as its proof shows: unlike a signal, a replacement is not declined for it.
    let mut case = Case::valid();
    case.leaves[1].1 = None;
    let spent = case.request.spent_outputs[0].to_txout();
    case.build(&spent);
    let old = case.request.pending_tx.clone();
    case.change().value -= Amount::from_sat(500);
    case.request.kind = Kind::Replacement;
    case.request.replaces = Some(old.compute_txid());
    case.round = 4;
    case.live = vec![old.clone()];
    case.replaced = Some(old);
    reviewed(&case);
}

/// In a CAS cohort, where the old map shows what is announced.
fn cas() -> Case {
    let mut case = Case::cas();
    let old = case.request.pending_tx.clone();
    case.change().value -= Amount::from_sat(500);
    case.request.kind = Kind::Replacement;
    case.request.replaces = Some(old.compute_txid());
    case.live = vec![old.clone()];
    case.signed_roots = vec![Root(transaction::signal_bytes(&old).unwrap())];
    case.replaced = Some(old);
    case
}

/// The map is that of the replaced signal, which the root shows; also where the member has lost it.
#[test]
fn a_replaced_map_stays_the_same() {
    assert_eq!(cas().terms.beacon_type, BeaconType::Cas);
    reviewed(&cas());
    let mut forgotten = cas();
    forgotten.leaves[0].1 = None;
    forgotten.unproven = forgotten.leaves.iter().map(|(index, _)| *index).collect();
    reviewed(&forgotten);
}

#[test]
fn declines_map_invalid() {
    declines_of(cas(), DeclineCode::MapInvalid, |case| {
        case.leaves[0].1.as_mut().unwrap().update = Some(UpdateId([9; 32]));
    });
    declines_of(cas(), DeclineCode::MapInvalid, |case| {
        let other = ("did:example:other".parse().unwrap(), UpdateId([8; 32]));
        case.request.map = Some(Announcement::from_iter([other]));
    });
}

#[test]
fn declines_unsupported_kind() {
    declines(DeclineCode::UnsupportedKind, |case| {
        case.request.replaces = None;
    });
    declines(DeclineCode::UnsupportedKind, |case| {
        case.request.kind = Kind::Signal;
    });
    declines(DeclineCode::UnsupportedKind, |case| {
        case.request.kind = Kind::Other("bump".to_owned());
    });
}

/// The round of what it replaces, not the one that the member is in.
#[test]
fn declines_wrong_round() {
    for round in [2, 4, 5] {
        declines(DeclineCode::WrongRound, |case| case.request.round = round);
    }
}

/// It was never signed here, is forgotten, or can never be mined any more.
#[test]
fn declines_replaces_unknown() {
    declines(DeclineCode::ReplacesUnknown, |case| {
        case.replaced = None;
        // Nothing of it is known, also not that it spends the first input.
        if let OutputView::Seen { spent_by, .. } = &mut case.views[0] {
            *spent_by = None;
        }
    });
}

/// The replaced one, or another version of it.
#[test]
fn declines_replaces_mined() {
    declines(DeclineCode::ReplacesMined, |case| {
        case.mined = case.request.replaces;
    });
    declines(DeclineCode::ReplacesMined, |case| {
        case.mined = Some(txid(9));
    });
}

/// An input is left out: both could be mined in part, and what the old one announces would be counted twice.
#[test]
fn declines_replaced_inputs() {
    declines(DeclineCode::ReplacedInputs, |case| {
        let kept = case.tx().input[1].clone();
        let old = case.replaced.as_mut().unwrap();
        old.input.push(kept);
        let mut other = old.input[0].clone();
        other.previous_output.vout = 7;
        old.input.push(other);
        case.live = vec![old.clone()];
    });
}

/// The same fee, or less: nothing is won by it but another transaction that must be remembered.
#[test]
fn declines_fee_not_higher() {
    for more in [0, 1] {
        declines(DeclineCode::FeeNotHigher, |case| {
            case.change().value += Amount::from_sat(1_000 + more);
        });
    }
}

/// Another root for the round: its updates would be announced beside, or in the place of, what was signed.
#[test]
fn declines_other_root() {
    declines(DeclineCode::OtherRoot, |case| {
        case.signed_roots = vec![Root([1; 32])];
    });
}

/// Its inputs may be spent by other versions of it, and by nothing else.
#[test]
fn declines_chain_spent() {
    declines(DeclineCode::ChainSpent, |case| {
        case.versions.clear();
    });
}

/// A signal of a later round that was published builds on what would be replaced.
#[test]
fn declines_published_signal() {
    declines(DeclineCode::PublishedSignal, |case| {
        let old = case.replaced.clone().unwrap();
        let later = spending(&[OutPoint::new(old.compute_txid(), 0)]);
        case.live = vec![old, later.clone()];
        case.published = vec![later];
    });
}

/// Another transaction that could be mined beside it.
#[test]
fn declines_live_transaction() {
    declines(DeclineCode::LiveTransaction, |case| {
        case.live.push(spending(&[OutPoint::new(txid(3), 0)]));
    });
}

/// A proof for each index of today, whatever was registered then.
#[test]
fn declines_proof_missing() {
    declines(DeclineCode::ProofMissing, |case| {
        case.request.proofs.pop();
    });
    declines(DeclineCode::ProofMissing, |case| {
        let index = Index::of_did("did:example:other");
        let proof = case.request.proofs[0].proof.clone();
        case.request.proofs.push(IndexProof { index, proof });
    });
}

/// What the member signed for, or nothing, for an index that was registered later.
#[test]
fn declines_proof_invalid() {
    declines(DeclineCode::ProofInvalid, |case| {
        case.leaves[0].1.as_mut().unwrap().update = None;
    });
    declines(DeclineCode::ProofInvalid, |case| case.leaves[1].1 = None);
}
