//! Transactions that a coordinator asks a member to sign.

use beacon_cohort::machine::{ChainFact, OutputView, Watches};
use beacon_cohort::message::{AuthorizationRequest, Message, TYPE_PREFIX};
use beacon_cohort::participant::Membership;
use beacon_cohort::review::{ProposedSignal, Verdict};
use beacon_signal::transaction;
use bitcoin::consensus::encode;
use bitcoin::{Amount, OutPoint, Transaction, TxOut};
use serde_json::Value;

use super::situations::{Situation, with};
use crate::common::Mail;

/// The bytes of a transaction in the place of an honest one: what passes the review is a signal.
pub fn transaction(data: &[u8]) {
    with(|situations| {
        let (situation, request) = situations
            .iter()
            .find_map(|situation| Some((situation, asked(situation)?)))
            .expect("somebody is asked to sign");
        let mut body = Message::from(request).body().unwrap();
        body["pending_tx"] = Value::from(hex::encode(data));
        let read = Message::parse(&format!("{TYPE_PREFIX}sign/authorization_request"), &body);
        let plain = encode::deserialize::<Transaction>(data);
        let Ok(Message::AuthorizationRequest(request)) = read else {
            assert!(plain.is_err(), "the wire refuses what the library reads");
            return;
        };
        assert_eq!(
            encode::serialize(&request.pending_tx),
            data,
            "one encoding only"
        );
        look(&request.pending_tx);
        review(situation, request);
    });
}

/// The first member's request, where one is on its way.
fn asked(situation: &Situation) -> Option<AuthorizationRequest> {
    let first = &situation.world.peers[0].id;
    situation.mail.iter().find_map(|mail| match mail {
        Mail::Message {
            to,
            message: Message::AuthorizationRequest(request),
            ..
        } if to == first => Some(request.clone()),
        _ => None,
    })
}

/// The transaction of the honest request.
pub fn honest() -> Vec<u8> {
    with(|situations| {
        let request = situations.iter().find_map(asked);
        encode::serialize(&request.expect("somebody is asked to sign").pending_tx)
    })
}

fn look(tx: &Transaction) {
    let bytes = transaction::signal_bytes(tx);
    assert!(bytes.is_none() || transaction::op_return_count(tx) > 0);
    assert_eq!(
        transaction::change_outputs(tx).len(),
        tx.output.len().saturating_sub(1)
    );
    let _ = (
        transaction::has_version_two(tx),
        transaction::has_no_lock_time(tx),
        transaction::has_signal_sequences(tx),
        transaction::signal_has_no_value(tx),
    );
    let spent = TxOut {
        value: Amount::MAX,
        script_pubkey: tx
            .output
            .first()
            .map(|output| output.script_pubkey.clone())
            .unwrap_or_default(),
    };
    let spent = vec![spent; tx.input.len()];
    let fee = transaction::fee(tx, &spent);
    assert!(
        fee.is_none() || tx.input.len() <= 1,
        "no two outputs hold all bitcoin"
    );
    for cap in [0, 1, 50, u64::MAX] {
        let script = spent.first().map(|output| output.script_pubkey.clone());
        let script = script.unwrap_or_default();
        let most = transaction::max_fee(tx, &script, cap);
        assert!(most.to_sat() >= transaction::signed_vsize(tx, &script).saturating_mul(cap));
    }
    if let [first, ..] = tx.output.as_slice() {
        let inputs: Vec<_> = tx
            .input
            .iter()
            .map(|input| (input.previous_output, first.clone()))
            .collect();
        let root = bytes.unwrap_or([7; 32]);
        if let Ok(built) = transaction::build_signal(&inputs, &first.script_pubkey, root, 3) {
            assert_eq!(transaction::signal_bytes(&built), Some(root));
            let outputs: Vec<_> = inputs.into_iter().map(|(_, output)| output).collect();
            let fee = transaction::fee(&built, &outputs).expect("it balances");
            assert!(fee <= transaction::max_fee(&built, &first.script_pubkey, 3));
        }
    }
}

fn review(situation: &Situation, request: AuthorizationRequest) {
    let membership = &situation.member().state().cohorts[&situation.cohort];
    let inputs = request.pending_tx.input.iter();
    let inputs: Vec<_> = inputs.map(|input| input.previous_output).collect();
    let views = views(situation, inputs);
    let proposed = ProposedSignal(request);
    let context = membership
        .context(&proposed, &views)
        .expect("the cohort was agreed on");
    match proposed.review(&context) {
        Verdict::Reviewed(reviewed) => {
            assert_is_a_signal(&proposed.0, membership);
            assert_eq!(
                reviewed.root().map(|root| root.0),
                transaction::signal_bytes(&proposed.0.pending_tx)
            );
        }
        Verdict::Wait(declined) | Verdict::Decline(declined) => {
            assert!(declined.comment.len() <= 256, "{declined}");
        }
    }
}

fn views(situation: &Situation, inputs: Vec<OutPoint>) -> Vec<(OutPoint, OutputView)> {
    let watches = Watches {
        inputs: vec![inputs],
        ..Watches::default()
    };
    let mut facts = situation.world.chain.answer(&watches).into_iter();
    match facts.next() {
        Some(ChainFact::Inputs(views)) => views,
        other => panic!("got {other:?}, expected the inputs"),
    }
}

/// What must be true of everything for which a nonce is made, said in other words than the review's.
pub(super) fn assert_is_a_signal(request: &AuthorizationRequest, membership: &Membership) {
    let (tx, beacon) = (&request.pending_tx, membership.beacon.as_ref().unwrap());
    assert!((1..=8).contains(&tx.input.len()), "{}", tx.input.len());
    let mut outpoints: Vec<_> = tx.input.iter().map(|input| input.previous_output).collect();
    outpoints.sort_unstable();
    outpoints.dedup();
    assert_eq!(outpoints.len(), tx.input.len(), "each once");
    for input in &tx.input {
        assert!(input.script_sig.is_empty() && input.witness.is_empty());
        assert_eq!(input.sequence.0, 0xffff_fffd);
    }
    assert_eq!((tx.version.0, tx.lock_time.to_consensus_u32()), (2, 0));
    let (last, change) = tx.output.split_last().expect("an output");
    assert!(change.len() <= 1);
    assert_eq!(last.value, Amount::ZERO);
    assert_eq!(last.script_pubkey.as_bytes()[..2], [0x6a, 0x20]);
    assert_eq!(last.script_pubkey.len(), 34);
    assert!(
        change
            .iter()
            .all(|output| output.script_pubkey == *beacon.script())
    );
    let spent = &request.spent_outputs;
    assert_eq!(spent.len(), tx.input.len());
    assert!(spent.iter().all(|output| output.script == *beacon.script()));
    let paid: u64 = change.iter().map(|output| output.value.to_sat()).sum();
    let value: u64 = spent.iter().map(|output| output.value).sum();
    let fee = value
        .checked_sub(paid)
        .expect("it spends no more than there is");
    let size = transaction::signed_vsize(tx, beacon.script());
    let cap = membership.terms.max_fee_rate_sat_vb * (size + 43) + 330;
    assert!(fee <= cap, "a fee of {fee} sat, at most {cap}");
}
