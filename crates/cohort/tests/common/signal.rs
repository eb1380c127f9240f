//! A reviewed signal for a given beacon: the only thing that a signer makes nonces for.

use std::borrow::Cow;

use beacon_cohort::ids::{CohortId, SessionId, Timestamp};
use beacon_cohort::machine::OutputView;
use beacon_cohort::message::{AuthorizationRequest, IndexProof, Kind, SpentOutput};
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::review::{OwnLeaf, ProposedSignal, ReviewedSignal, SignalContext, Verdict};
use beacon_cohort::signer::KeyPath;
use beacon_cohort::terms::{BtcNetwork, Terms};
use beacon_signal::{Index, LeafNonce, SparseMerkleTree, UpdateId, transaction};
use bitcoin::{Amount, OutPoint, TxOut};

/// Another transaction for each `number`.
pub(crate) fn reviewed(
    beacon: &BeaconKey,
    path: KeyPath,
    cohort_id: CohortId,
    session_id: SessionId,
    number: u64,
) -> ReviewedSignal {
    let index = Index::of_did("did:example:member");
    let (nonce, update) = (Some(LeafNonce::new([1; 32])), Some(UpdateId([2; 32])));
    let leaf = OwnLeaf {
        index,
        update,
        nonce,
    };
    let tree = SparseMerkleTree::new([(index, leaf.value())]).unwrap();
    let spent = TxOut {
        value: Amount::from_sat(10_000 + number),
        script_pubkey: beacon.script().to_owned(),
    };
    let inputs = [(OutPoint::null(), spent.clone())];
    let pending_tx = transaction::build_signal(&inputs, beacon.script(), tree.root().0, 1).unwrap();
    let request = AuthorizationRequest {
        session_id,
        cohort_id,
        pending_tx,
        kind: Kind::Signal,
        round: 1,
        replaces: None,
        spent_outputs: vec![SpentOutput::from(&spent)],
        proofs: vec![IndexProof {
            index,
            proof: tree.proof(&index),
        }],
        map: None,
    };
    let view = OutputView::Seen {
        output: spent,
        confirmations: 1,
        spent_by: None,
    };
    let context = SignalContext {
        cohort: cohort_id,
        beacon,
        terms: &Terms::new(BtcNetwork::Regtest, 2, Timestamp(1)),
        path,
        round: 1,
        leaves: vec![(index, Some(Cow::Borrowed(&leaf)))],
        registering: Vec::new(),
        live: Vec::new(),
        published: Vec::new(),
        replaced: None,
        quarantine: None,
        signed_roots: Vec::new(),
        views: &[(OutPoint::null(), view)],
    };
    match ProposedSignal(request).review(&context) {
        Verdict::Reviewed(signal) => *signal,
        other => panic!("expected a reviewed signal, got {other:?}"),
    }
}
