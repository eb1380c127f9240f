//! The checks of what the signal commits to: proofs in a tree, or the map.

use beacon_cohort::DeclineCode;
use beacon_cohort::announcement::Announcement;
use beacon_cohort::review::Verdict;
use beacon_signal::{Index, NodeHash, Root, UpdateId};
use bitcoin::ScriptBuf;
use sha2::Digest as _;

use super::case::{Case, declines, reviewed};

/// No proof, one proof twice, or a proof for somebody else's index besides.
#[test]
fn declines_proof_missing() {
    declines(DeclineCode::ProofMissing, |case| {
        case.request.proofs.pop();
    });
    declines(DeclineCode::ProofMissing, |case| {
        case.request.proofs[1] = case.request.proofs[0].clone();
    });
    declines(DeclineCode::ProofMissing, |case| {
        let mut foreign = case.request.proofs[0].clone();
        foreign.index = Index::of_did("did:example:other");
        case.request.proofs.push(foreign);
    });
}

/// The coordinator left an index empty before its member answered.
#[test]
fn declines_leaf_missing() {
    declines(DeclineCode::LeafMissing, |case| {
        case.leaves[1].1 = None;
        let spent = case.request.spent_outputs[0].to_txout();
        case.build(&spent);
    });
}

/// An update left out, an update that nobody asked for, a root of another tree, a proof in another form.
#[test]
fn declines_proof_invalid() {
    declines(DeclineCode::ProofInvalid, |case| {
        case.leaves[0].1.as_mut().unwrap().update = None;
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.leaves[1].1.as_mut().unwrap().update = Some(UpdateId([4; 32]));
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return([1; 32]);
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.request.proofs[0].proof.id = Root([1; 32]);
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.request.proofs[1].proof.hashes.push(NodeHash([1; 32]));
    });
    // An index that is being registered has no leaf yet, and nobody else may give it one.
    declines(DeclineCode::ProofInvalid, |case| {
        case.registering = vec![Index::of_did("did:example:other")];
        let spent = case.request.spent_outputs[0].to_txout();
        case.build(&spent);
    });
}

/// The coordinator has registered an index, and its word comes after the request.
#[test]
fn accepts_the_empty_leaf_of_an_index_that_is_being_registered() {
    let mut case = Case::valid();
    case.registering = vec![Index::of_did("did:example:late")];
    reviewed(&case); // Not yet registered there.
    let spent = case.request.spent_outputs[0].to_txout();
    case.build(&spent);
    assert_eq!(case.request.proofs.len(), 3);
    reviewed(&case);
}

/// The valid CAS case with one thing changed is declined for good, for a map that is not as it must be.
#[track_caller]
fn declines_map(change: impl FnOnce(&mut Case)) {
    let mut case = Case::cas();
    change(&mut case);
    match case.review() {
        Verdict::Decline(declined) => assert_eq!(declined.code, DeclineCode::MapInvalid),
        other => panic!("got {other:?}"),
    }
}

/// No map, one too many, an update left out, an update that nobody asked for, another's, more entries than members may
/// have, and a hash over another map or another form of it.
#[test]
fn declines_map_invalid() {
    declines_map(|case| case.request.map = None);
    declines(DeclineCode::MapInvalid, |case| {
        case.request.map = Some(Announcement::default());
    });
    declines_map(|case| case.announce(&[("did:example:other", 7)]));
    declines_map(|case| case.announce(&[]));
    declines_map(|case| case.announce(&[("did:example:a", 5)]));
    declines_map(|case| case.announce(&[("did:example:a", 4), ("did:example:b", 4)]));
    declines_map(|case| {
        // An update of a DID that the coordinator was only asked to take.
        case.registering = vec![Index::of_did("did:example:c")];
        case.announce(&[("did:example:a", 4), ("did:example:c", 4)]);
    });
    declines_map(|case| {
        case.terms.max_indexes_per_member = 2;
        let others: Vec<_> = (0..4).map(|other| format!("did:example:{other}")).collect();
        let mut updates: Vec<_> = others.iter().map(|did| (did.as_str(), 7)).collect();
        updates.push(("did:example:a", 4));
        case.announce(&updates);
    });
    declines_map(|case| {
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return([1; 32]);
    });
    declines_map(|case| {
        let json = serde_json::to_string_pretty(&case.request.map).unwrap();
        let hash: [u8; 32] = sha2::Sha256::digest(json).into();
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return(hash);
    });
}

#[test]
fn a_map_that_says_what_was_asked_for_is_reviewed() {
    let reviewed = |case: &Case| match case.review() {
        Verdict::Reviewed(signal) => signal.root().unwrap(),
        other => panic!("got {other:?}"),
    };
    let mut case = Case::cas();
    assert_eq!(
        reviewed(&case),
        case.request.map.as_ref().unwrap().signal_bytes()
    );
    // As many entries as there may be.
    case.terms.max_indexes_per_member = 1;
    reviewed(&case);
    // Nobody has an update.
    case.leaves[0].1.as_mut().unwrap().update = None;
    case.announce(&[]);
    reviewed(&case);
}
