//! DIDs that are registered after the first signal: they get the proof of the empty leaf for every signal that came before,
//! and whatever arrives in whatever order, no member is struck for it.

use beacon_cohort::ids::CohortId;
use beacon_cohort::message::Message;
use beacon_cohort::participant::{self, Membership};
use beacon_cohort::terms::{BeaconType, Terms};
use beacon_signal::{Index, LeafValue, Strictness, UpdateId};

use super::cas;
use crate::common::{Mail, World};

/// The DID that member 0 registers late.
const LATE: &str = "did:example:late";

fn index() -> Index {
    Index::of_did(LATE)
}

fn sign_round(world: &mut World, cohort: CohortId, update: u8) {
    world.request_update(1, cohort, update);
    world.settle();
    world.chain.mine();
    world.settle();
}

fn with_past(seed: u64, change: impl FnOnce(&mut Terms)) -> (World, CohortId) {
    let (mut world, cohort) = World::formed_with(2, seed, change);
    (1..=3).for_each(|update| sign_round(&mut world, cohort, update));
    (world, cohort)
}

fn join(world: &mut World, cohort: CohortId) {
    let dids = vec![LATE.to_owned()];
    world
        .user(
            0,
            participant::Command::Join {
                cohort,
                dids,
                accept_script_tree: false,
            },
        )
        .unwrap();
}

/// Takes the answer to the registration out of the mail, while everything else is delivered.
fn answer(world: &mut World) -> Mail {
    let mut answers =
        world.settle_until(|message| matches!(message, Message::RegistrationResult(_)));
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

#[track_caller]
fn assert_registered(membership: &Membership) {
    assert_eq!(
        membership.dids.get(&index()).map(String::as_str),
        Some(LATE)
    );
    assert_eq!(membership.registering().count(), 0);
    assert_eq!(membership.inquiry, None);
}

/// Every signal up to round `last` is shown to say nothing of the late DID.
#[track_caller]
fn assert_proven(membership: &Membership, last: u64) {
    for signed in membership
        .candidates
        .iter()
        .filter(|signed| signed.round <= last)
    {
        let proof = &signed.proofs[&index()];
        assert_eq!(
            proof.leaf_value(),
            LeafValue::EMPTY,
            "round {}",
            signed.round
        );
        proof
            .verify(
                &index(),
                &LeafValue::EMPTY,
                signed.root.as_ref().unwrap(),
                Strictness::Resolver,
            )
            .unwrap();
    }
}

#[track_caller]
fn assert_nobody_struck(world: &World, cohort: CohortId) {
    assert!(
        world.cohort(cohort).strikes.is_empty(),
        "{:?}",
        world.cohort(cohort).strikes
    );
    assert!(
        world.cohort(cohort).abandoned.is_empty(),
        "{:?}",
        world.cohort(cohort).abandoned
    );
}

#[test]
fn a_late_did_gets_the_proof_of_the_empty_leaf_for_every_earlier_signal() {
    let (mut world, cohort) = with_past(1, |_| {});
    join(&mut world, cohort);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_registered(membership);
    assert_proven(membership, 3);
    // From now on it has a leaf like any other: an update, and later none.
    let update = UpdateId([9; 32]);
    let command = participant::Command::RequestUpdate {
        cohort,
        did: LATE.to_owned(),
        update,
        version: Some(2),
    };
    world.user(0, command).unwrap();
    world.settle();
    world.chain.mine();
    world.settle();
    sign_round(&mut world, cohort, 4);
    let candidates = &world.membership(0, cohort).candidates;
    let leaves = candidates.iter().map(|signed| {
        let proof = &signed.proofs[&index()];
        (proof.update_id, proof.nonce.is_some())
    });
    let none = (None, false);
    let expected = [none, none, none, (Some(update), true), (None, true)];
    assert_eq!(leaves.collect::<Vec<_>>(), expected);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    assert_nobody_struck(&world, cohort);
    world.assert_replay_equals_memory();
}

/// More rounds than one answer tells of, and a crash before the second part has come.
#[test]
fn a_long_past_comes_in_parts_and_a_crash_between_them_loses_nothing() {
    let (mut world, cohort) = World::formed(2, 2);
    world.fund(cohort, 90_000);
    (0..70).for_each(|_| sign_round(&mut world, cohort, 1));
    join(&mut world, cohort);
    let first = answer(&mut world);
    world.deliver(first);
    let membership = world.membership(0, cohort);
    assert_eq!(membership.inquiry.unwrap().from_round, 65);
    world.mail.clear();
    world.restart(0);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_registered(membership);
    assert_proven(membership, 70);
    world.assert_replay_equals_memory();
}

/// A map says by what it leaves out that a DID has no update.
#[test]
fn a_late_did_of_a_cas_cohort_has_its_proofs_in_the_maps() {
    let (mut world, cohort) = cas::formed(2, 3, |_| {});
    sign_round(&mut world, cohort, 1);
    join(&mut world, cohort);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_registered(membership);
    assert!(
        membership
            .candidates
            .iter()
            .all(|signed| signed.is_proven(&index()))
    );
    let command = participant::Command::RequestUpdate {
        cohort,
        did: LATE.to_owned(),
        update: UpdateId([9; 32]),
        version: Some(2),
    };
    world.user(0, command).unwrap();
    world.settle();
    let announced: Vec<_> = world.membership(0, cohort).candidates[1]
        .updates()
        .collect();
    assert_eq!(announced, [(index(), UpdateId([9; 32]))]);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    assert_nobody_struck(&world, cohort);
}

/// The coordinator registers the index and opens a round at once. Its question for leaves overtakes its word that the index is
/// registered, so the member answers for its other DID only; when the word comes, it gives the leaf that is still missing.
#[test]
fn a_round_that_overtakes_the_registration_gets_all_its_leaves() {
    for kind in [BeaconType::Smt, BeaconType::Cas] {
        let (mut world, cohort) = match kind {
            BeaconType::Smt => World::formed(2, 4),
            BeaconType::Cas => cas::formed(2, 4, |_| {}),
        };
        sign_round(&mut world, cohort, 1);
        join(&mut world, cohort);
        let held = answer(&mut world);
        world.request_update(1, cohort, 2);
        world.settle();
        let signed = |world: &World| world.cohort(cohort).signals.len();
        if kind == BeaconType::Smt {
            assert_eq!(signed(&world), 1, "a leaf is missing");
            world.deliver(held);
            world.settle();
        }
        assert_eq!(signed(&world), 2, "{kind:?}");
        let candidate = world.membership(0, cohort).candidates.last().unwrap();
        assert!(candidate.is_proven(&index()), "{kind:?}");
        assert!(world.rejections.is_empty(), "{:?}", world.rejections);
        assert_nobody_struck(&world, cohort);
        world.assert_replay_equals_memory();
    }
}

/// Where leaves may be empty, even the request to sign overtakes that word: it proves that the index has the empty leaf, is
/// signed, and the proof is kept.
#[test]
fn a_request_that_overtakes_the_registration_is_signed() {
    let (mut world, cohort) = with_past(5, |terms| terms.empty_leaf_allowed = true);
    join(&mut world, cohort);
    let held = answer(&mut world);
    world.request_update(1, cohort, 4);
    world.settle();
    world.pass(62);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 4);
    assert_nobody_struck(&world, cohort);
    world.deliver(held);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_registered(membership);
    assert_proven(membership, 4);
    sign_round(&mut world, cohort, 5);
    assert_eq!(world.cohort(cohort).signals.len(), 5);
    assert_nobody_struck(&world, cohort);
    world.assert_replay_equals_memory();
}

/// The same, while the word comes between the nonces and the partial signatures.
#[test]
fn a_registration_that_is_heard_of_while_signing_changes_no_leaf() {
    let (mut world, cohort) = with_past(6, |terms| terms.empty_leaf_allowed = true);
    join(&mut world, cohort);
    let held = answer(&mut world);
    world.request_update(1, cohort, 4);
    for mail in world.settle_until(|message| matches!(message, Message::NoUpdate(_))) {
        world.deliver(mail);
    }
    world.pass(62);
    let aggregated = world.settle_until(|message| matches!(message, Message::AggregatedNonces(_)));
    world.deliver(held);
    for mail in aggregated {
        world.deliver(mail);
    }
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 4);
    assert_proven(world.membership(0, cohort), 4);
    assert_registered(world.membership(0, cohort));
    assert_nobody_struck(&world, cohort);
    world.assert_replay_equals_memory();
}

/// While a round is open nothing is registered. It is asked for again by itself, and what was signed meanwhile is proven too.
#[test]
fn a_did_that_comes_in_an_open_round_is_registered_after_it() {
    let (mut world, cohort) = with_past(7, |_| {});
    world.request_update(1, cohort, 4);
    let partials = world.settle_until(|message| message.kind() == "sign/signature_authorization");
    join(&mut world, cohort);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_eq!(membership.registering().count(), 1);
    assert!(!membership.dids.contains_key(&index()));
    for mail in partials {
        world.deliver(mail);
    }
    world.settle();
    world.pass(62);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_registered(membership);
    assert_proven(membership, 4);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    assert_nobody_struck(&world, cohort);
    world.assert_replay_equals_memory();
}

/// An old copy of the member's state knows nothing of the registration. Asked for again, the proofs come back: empty leaves
/// from before it, the member's own from after it.
#[test]
fn a_restored_member_registers_again_and_gets_every_proof() {
    let (mut world, cohort) = with_past(8, |_| {});
    let point = world.peers[0].node.log.len();
    join(&mut world, cohort);
    world.settle();
    sign_round(&mut world, cohort, 4);
    let before = world.membership(0, cohort).candidates.clone();
    world.restore(0, point);
    join(&mut world, cohort);
    world.settle();
    let membership = world.membership(0, cohort);
    assert_registered(membership);
    for (restored, before) in membership.candidates.iter().zip(&before) {
        assert_eq!(restored.proofs, before.proofs, "round {}", before.round);
    }
    assert_eq!(membership.candidates.len(), 4);
    world.assert_replay_equals_memory();
}

/// An old copy of the coordinator's state has forgotten the registration: a member that starts again registers what it has.
#[test]
fn a_coordinator_that_forgot_a_registration_learns_it_again() {
    let (mut world, cohort) = with_past(9, |_| {});
    let point = world.coordinator.log.len();
    join(&mut world, cohort);
    world.settle();
    world.coordinator.log.truncate(point);
    world.restart_coordinator();
    let holds = |world: &World| {
        let member = &world.cohort(cohort).members[&world.peers[0].id];
        member.indexes.contains(&index())
    };
    assert!(!holds(&world));
    world.restart(0);
    world.settle();
    assert!(holds(&world));
    sign_round(&mut world, cohort, 4);
    assert_eq!(world.cohort(cohort).signals.len(), 4);
    assert_nobody_struck(&world, cohort);
}
