//! A coordinator that wants a second root for a round that was signed, by way of a signal that is stuck: whatever it calls
//! its request, members decline it, and what is live of a round has one root.

use std::collections::BTreeSet;

use beacon_cohort::ids::CohortId;
use beacon_cohort::message::{AuthorizationRequest, IndexProof, Kind, SpentOutput};
use beacon_signal::{Index, LeafValue, SparseMerkleTree};
use bitcoin::{Amount, OutPoint, ScriptBuf};

use super::cheating_coordinator::{declines, next_request};
use crate::common::World;

/// An honest replacement of round 1's signal on its way to member 0, which is in round 2.
fn asked(seed: u64) -> (World, CohortId, AuthorizationRequest) {
    let (mut world, cohort) = World::formed_with(2, seed, |terms| terms.patience_s = 600);
    world.request_update(0, cohort, 1);
    world.settle();
    world.pass(600);
    let request = next_request(&mut world);
    assert_eq!((&request.kind, request.round), (&Kind::Replacement, 1));
    assert_eq!(world.membership(0, cohort).round, 2);
    (world, cohort, request)
}

/// A tree in which another member's index has another leaf: this member's own proofs are all good.
fn with_another_root(world: &World, cohort: CohortId, request: &mut AuthorizationRequest) {
    let mut leaves = world.cohort(cohort).trees[&1].clone();
    let own = world.membership(0, cohort).dids.clone();
    let other = leaves.keys().find(|index| !own.contains_key(index));
    let other: Index = *other.unwrap();
    leaves.insert(other, LeafValue([9; 32]));
    let tree = SparseMerkleTree::new(leaves).unwrap();
    for IndexProof { index, proof } in &mut request.proofs {
        *proof = tree.proof(index);
    }
    let last = request.pending_tx.output.last_mut().unwrap();
    last.script_pubkey = ScriptBuf::new_op_return(tree.root().0);
}

/// What member 0 signed of round 1 and may still be mined has one root.
fn assert_one_root(world: &World, cohort: CohortId) {
    let live = world.membership(0, cohort).live();
    let roots: BTreeSet<_> = live
        .filter(|signed| signed.round == 1)
        .map(|signed| signed.root)
        .collect();
    assert_eq!(roots.len(), 1);
}

/// Only the fee was to change, and the updates of others change with it.
#[test]
fn a_stuck_signal_is_replaced_by_another_root() {
    let (mut world, cohort, mut request) = asked(1);
    with_another_root(&world, cohort, &mut request);
    declines(&mut world, request, "other-root");
    assert_one_root(&world, cohort);
}

/// A fresh signal for the old round, as if nothing had been signed in it.
#[test]
fn an_old_round_is_signed_afresh() {
    let (mut world, cohort, mut request) = asked(2);
    with_another_root(&world, cohort, &mut request);
    (request.kind, request.replaces) = (Kind::Signal, None);
    declines(&mut world, request, "wrong-round");
    assert_one_root(&world, cohort);
}

/// The open round's signal takes the inputs of the stuck one, and with them the updates that it announces.
#[test]
fn the_open_rounds_signal_takes_the_place_of_the_stuck_one() {
    let (mut world, cohort, mut request) = asked(3);
    let opened = beacon_cohort::message::UpdateOpportunity {
        cohort_id: cohort,
        round: 2,
        deadline: world.now.after(60),
    };
    world
        .tell(0, &crate::common::coordinator_id(), opened)
        .unwrap();
    world.mail.clear();
    let leaves = world.membership(0, cohort).leaves.values();
    let leaves = leaves.map(|leaf| (leaf.index, leaf.value()));
    let tree = SparseMerkleTree::new(leaves).unwrap();
    for IndexProof { index, proof } in &mut request.proofs {
        *proof = tree.proof(index);
    }
    let last = request.pending_tx.output.last_mut().unwrap();
    last.script_pubkey = ScriptBuf::new_op_return(tree.root().0);
    (request.kind, request.round, request.replaces) = (Kind::Signal, 2, None);
    declines(&mut world, request, "published-signal");
    assert_one_root(&world, cohort);
}

/// It is mined: there is nothing to replace, and a second one would only cost fees if that block were replaced.
#[test]
fn a_mined_signal_is_replaced() {
    let (mut world, cohort, request) = asked(4);
    world.chain.mine();
    world.look_at_chain_from(0);
    declines(&mut world, request, "replaces-mined");
    assert_one_root(&world, cohort);
}

/// What was never signed here is called the old version.
#[test]
fn something_unknown_is_replaced() {
    let (mut world, cohort, mut request) = asked(5);
    request.replaces = Some(request.pending_tx.compute_txid());
    declines(&mut world, request, "replaces-unknown");
    assert_one_root(&world, cohort);
}

/// Version after version for the same fee, each of which members must keep for ever.
#[test]
fn a_version_pays_no_more_than_the_one_before() {
    let (mut world, cohort, mut request) = asked(6);
    let old = world.membership(0, cohort).candidates[0].tx.output[0].value;
    request.pending_tx.output[0].value = old;
    declines(&mut world, request, "fee-not-higher");
    assert_one_root(&world, cohort);
}

/// Another deposit pays it all: both versions could be mined.
#[test]
fn a_version_spends_something_else() {
    let (mut world, cohort, mut request) = asked(7);
    let script = request.spent_outputs[0].script.clone();
    let outpoint: OutPoint = world.chain.fund(script.clone(), 40_000);
    request.pending_tx.input[0].previous_output = outpoint;
    let value = 40_000;
    request.spent_outputs = vec![SpentOutput { script, value }];
    request.pending_tx.output[0].value = Amount::from_sat(39_000);
    declines(&mut world, request, "replaced-inputs");
    assert_one_root(&world, cohort);
}

/// Terms are terms: the fee may rise up to the cap only.
#[test]
fn a_version_pays_more_than_the_terms_allow() {
    let (mut world, cohort, mut request) = asked(8);
    request.pending_tx.output[0].value = Amount::from_sat(50_000 - 154 * 50 - 1);
    declines(&mut world, request.clone(), "fee-too-high");
    request.pending_tx.output[0].value += Amount::ONE_SAT;
    request.session_id = beacon_cohort::ids::SessionId(uuid::Uuid::from_u128(3));
    world
        .tell(0, &crate::common::coordinator_id(), request)
        .unwrap();
    assert!(world.membership(0, cohort).session.is_some());
    assert_one_root(&world, cohort);
}
