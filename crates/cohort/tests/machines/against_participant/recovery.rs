//! Old copies of a member's state, restored under a running cohort; and spends that the member did not sign.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator;
use beacon_cohort::message::{RegistrationResult, SignalProgress, SignalRecord};
use beacon_cohort::participant::{Candidate, Progress, RollbackEvidence};
use beacon_cohort::terms::{Flow, Terms};
use beacon_signal::{Proof, UpdateId};
use bitcoin::Txid;

use super::*;

const UPDATES: [u8; 3] = [1, 2, 3];

/// Three rounds: two are buried, the third is in a block. Always the same.
fn three_rounds() -> (World, CohortId) {
    let (mut world, cohort) = World::formed(2, 90);
    for update in UPDATES {
        world.request_update(0, cohort, update);
        world.settle();
        assert_eq!(world.cohort(cohort).signals.len(), usize::from(update));
        let blocks = if update == 3 { 1 } else { 7 };
        for _ in 0..blocks {
            world.chain.mine();
            world.settle();
        }
    }
    (world, cohort)
}

fn events(world: &World, from: usize) -> Vec<Event> {
    let lines = world.peers[0].node.log.iter().skip(from);
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn proofs(candidates: &[Candidate]) -> BTreeMap<Txid, BTreeMap<beacon_signal::Index, Proof>> {
    let proofs = candidates.iter();
    proofs
        .map(|signed| (signed.txid, signed.proofs.clone()))
        .collect()
}

fn has_signed(events: &[Event]) -> BTreeSet<SessionId> {
    let sessions = events.iter().filter_map(|event| match event {
        Event::NonceCommitted { session, .. }
        | Event::PartialAuthorized { session, .. }
        | Event::PartialReleased { session, .. } => Some(*session),
        _ => None,
    });
    sessions.collect()
}

/// The promise to whoever restores a backup: at whatever point it was taken, no nonce comes to life again, nothing is
/// signed a second time, what was forgotten is noticed, outputs that it may have spent are left alone until the user
/// confirms, and every proof comes back.
#[test]
fn an_old_state_restored_at_any_point_revives_nothing_and_gets_its_proofs_back() {
    let (original, cohort) = three_rounds();
    let log = original.peers[0].node.log.clone();
    let signed_before = has_signed(&events(&original, 0));
    let wanted = proofs(&original.membership(0, cohort).candidates);
    assert_eq!(wanted.len(), 3);
    let (mut points, mut noticed) = (0, 0);
    // With an empty log, the seed is all that is left.
    for point in 0..=log.len() {
        let (mut world, _) = three_rounds();
        assert_eq!(world.peers[0].node.log, log, "the same run");
        world.restore(0, point);
        let known = |world: &World| {
            let cohorts = &world.peers[0].node.machine.state().cohorts;
            cohorts.get(&cohort).cloned()
        };
        if known(&world).is_none() {
            // Its user subscribes again, and it joins a cohort that it is in.
            world.subscribe(0);
        }
        let known = known(&world);
        let restored = known.map(|known| proofs(&known.candidates));
        let restored = restored.unwrap_or_default();
        let forgotten = wanted.keys().any(|txid| !restored.contains_key(txid));
        world.settle();

        let since = events(&world, point);
        let detected = since
            .iter()
            .filter(|event| matches!(event, Event::RollbackDetected { .. }));
        assert_eq!(detected.count() > 0, forgotten, "at {point}");
        points += 1;
        if forgotten {
            noticed += 1;
            assert_quarantine_holds(&mut world, cohort, point);
            let updates = UPDATES.map(|update| UpdateId([update; 32])).to_vec();
            world
                .user(0, Command::FetchProofs { cohort, updates })
                .unwrap();
            world.settle();
        }
        let membership = world.membership(0, cohort);
        assert_eq!(proofs(&membership.candidates), wanted, "at {point}");
        let unproven = membership.candidates.iter();
        assert!(unproven.clone().all(|signed| signed.unproven.is_empty()));

        if forgotten {
            let command = Command::ConfirmRollback { cohort: None };
            world.user(0, command).unwrap();
            // Of which versions the forgotten updates were is not known any more: no other one before they are buried.
            for _ in 0..7 {
                world.chain.mine();
                world.settle();
            }
        }
        announce(&mut world, cohort, 9);
        assert_eq!(world.cohort(cohort).signals.len(), 4, "at {point}");
        let again = has_signed(&events(&world, point));
        assert!(again.is_disjoint(&signed_before), "signed again at {point}");
        world.assert_replay_equals_memory();
    }
    assert!(points >= 10 && noticed >= 10, "{noticed} of {points}");
}

/// A round with one update of member 0.
fn announce(world: &mut World, cohort: CohortId, update: u8) {
    let signed = world.cohort(cohort).signals.len();
    world.request_update(0, cohort, update);
    world.settle();
    for _ in 0..8 {
        if world.cohort(cohort).signals.len() > signed {
            return;
        }
        world.chain.mine();
        world.pass(30);
        world.settle();
        let _ = world.operator(coordinator::Command::StartRound { cohort });
        world.settle();
    }
}

/// What exists is not spent before the user says so; the reason is told, and no nonce is made.
fn assert_quarantine_holds(world: &mut World, cohort: CohortId, point: usize) {
    let held = world.membership(0, cohort).quarantine.clone().unwrap();
    assert!(held.complete, "the chain has spoken, at {point}");
    let funds: Vec<_> = world.cohort(cohort).funds.iter().collect();
    assert!(!funds.is_empty());
    for fund in funds {
        assert!(held.holds(&fund.outpoint), "at {point}");
    }
}

/// A coordinator cannot make a member believe that it signed: neither with a transaction that nobody signed, nor with a
/// signature by another key.
#[test]
fn a_rollback_is_made_up() {
    let (mut world, cohort) = signing(91);
    world.settle();
    let membership = world.membership(0, cohort);
    let known = membership.candidates[0].clone();
    let mut transaction = known.tx.clone();
    transaction.output[0].value -= Amount::from_sat(1);
    transaction.input[0].witness = world.cohort(cohort).signals[0].tx.input[0].witness.clone();
    let spent_outputs = vec![beacon_cohort::message::SpentOutput {
        script: membership.beacon.as_ref().unwrap().script().to_owned(),
        value: 50_000,
    }];
    let invented = RegistrationResult {
        cohort_id: cohort,
        results: Vec::new(),
        contest: false,
        signals: vec![SignalRecord {
            session_id: SessionId(Uuid::from_u128(5)),
            round: 7,
            status: SignalProgress::Signed,
            transaction,
            spent_outputs,
            contribution: None,
        }],
        maps: Vec::new(),
        next_round: Some(8),
    };
    let before = world.snapshot();
    world.tell(0, &coordinator_id(), invented).unwrap();
    assert!(world.snapshot() == before, "its word alone changes nothing");
}

/// The chain spends the beacon by something that the member has no record of. It is told at once, all its cohorts stop,
/// and when the spend is buried the output is forgotten.
#[test]
fn a_spend_that_the_member_did_not_sign() {
    let (mut world, cohort) = World::formed(2, 92);
    let outpoint = *world.membership(0, cohort).outputs.keys().next().unwrap();
    assert_eq!(world.membership(0, cohort).balance_sat(), 50_000);
    let txid = world.chain.steal(outpoint);
    world.look_at_chain_from(0);
    world.look_at_chain_from(0);
    let lines = world.peers[0].node.log.len();
    world.look_at_chain_from(0);
    assert_eq!(world.peers[0].node.log.len(), lines, "told once");
    let alarms: Vec<_> = events(&world, 0).iter().filter_map(Event::alarm).collect();
    assert_eq!(alarms.len(), 2, "{alarms:?}");
    assert!(alarms[0].contains(&txid.to_string()));
    let membership = world.membership(0, cohort);
    assert_eq!(membership.balance_sat(), 0);
    assert_eq!(membership.unexplained().count(), 1);
    assert!(membership.quarantine.is_some());
    for _ in 0..7 {
        world.chain.mine();
        world.look_at_chain_from(0);
    }
    let membership = world.membership(0, cohort);
    assert!(membership.outputs.is_empty() && membership.quarantine.is_none());
    assert!(membership.unexplained().all(|spend| spend.buried));
    world.assert_replay_equals_memory();
}

/// The evidence is a statement of the member's own key, while the transaction itself is not signed by all: it is adopted
/// with its proofs, and is live.
#[test]
fn a_forgotten_partial_signature_is_adopted() {
    let (mut world, cohort) = signing(93);
    let point = world.peers[0].node.log.len();
    // The other member's partial signature never arrives.
    let other = world.peers[1].id.clone();
    let lost = |mail: &Mail| matches!(mail, Mail::Message { from, message: Message::SignatureAuthorization(_), .. } if *from == other);
    for _ in 0..200 {
        world.mail.retain(|mail| !lost(mail));
        if world.mail.is_empty() {
            world.look_at_chain();
        } else {
            let mail = world.mail.remove(0);
            world.deliver(mail);
        }
    }
    let known = world.membership(0, cohort).candidates.clone();
    assert_eq!(known.len(), 1, "member 0 has signed");
    world.restore(0, point);
    assert!(world.membership(0, cohort).candidates.is_empty());
    world.settle();
    let membership = world.membership(0, cohort);
    assert_eq!(proofs(&membership.candidates), proofs(&known));
    assert!(membership.candidates[0].recovered);
    assert_eq!(membership.candidates[0].standing, Standing::Live);
    assert!(events(&world, point).iter().any(|event| matches!(
        event,
        Event::RollbackDetected {
            evidence: RollbackEvidence::OwnContribution,
            ..
        }
    )));
    let input = membership.candidates[0].tx.input[0].previous_output;
    assert!(membership.quarantine.as_ref().unwrap().holds(&input));
    world.assert_replay_equals_memory();
}

/// The coordinator has leaves of ours that an old state does not know, or knows another one instead of. It keeps the first one
/// of a round and does not ask again, so the member must find it in the tree: nobody else can have made it.
#[test]
fn an_old_state_finds_its_leaf_in_the_tree() {
    let update = |number: u8| UpdateId([number; 32]);
    // It was chosen with the update that waits in the copy.
    let pull = |terms: &mut Terms| terms.flow = Flow::Pull;
    let (mut world, cohort) = World::formed_with(2, 91, pull);
    world.request_update(0, cohort, 1);
    let copy = world.peers[0].node.log.len();
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    let asked = world.settle_until(|message| message.kind() == "sign/authorization_request");
    world.restore(0, copy);
    assert!(world.membership(0, cohort).leaves.is_empty());
    world.mail.extend(asked);
    world.settle();
    let signed = &world.membership(0, cohort).candidates[0];
    let announced: Vec<_> = signed.updates().map(|(_, update)| update).collect();
    assert_eq!(announced, [update(1)]);
    assert_eq!(world.cohort(cohort).signals.len(), 1);

    // It said that there is no update, and the old state has chosen a leaf with one.
    let (mut world, cohort) = World::formed(2, 92);
    let copy = world.peers[0].node.log.len();
    world.request_update(1, cohort, 1);
    let asked = world.settle_until(|message| message.kind() == "sign/authorization_request");
    world.restore(0, copy);
    world.request_update(0, cohort, 2);
    let leaf = world.membership(0, cohort).leaves.values().next().cloned();
    assert_eq!(leaf.unwrap().update, Some(update(2)));
    world.mail.extend(asked);
    world.settle();
    let member = world.membership(0, cohort);
    assert_eq!(member.candidates[0].updates().count(), 0);
    world.chain.mine();
    world.settle();
    let member = world.membership(0, cohort);
    let announced = member.candidates.last().unwrap().updates().next();
    assert_eq!(announced.map(|(_, update)| update), Some(update(2)));
    assert!(world.cohort(cohort).strikes.is_empty());
    world.assert_replay_equals_memory();
}

/// A copy of a state is made while a request is being checked, and restored when nonces were given: other ones would be a second
/// contribution to one session, which convicts an honest member.
#[test]
fn a_request_that_was_being_checked_does_not_outlive_a_restart() {
    let (mut world, cohort) = World::formed(2, 93);
    world.request_update(0, cohort, 1);
    for mail in world.settle_until(|message| message.kind() == "sign/authorization_request") {
        world.deliver(mail);
    }
    let copy = world.peers[0].node.log.len();
    assert_eq!(
        world
            .membership(0, cohort)
            .session
            .as_ref()
            .unwrap()
            .progress,
        Progress::Requested
    );
    let given = world.settle_until(|message| message.kind() == "sign/nonce_contribution");
    world.restore(0, copy);
    world.mail.extend(given);
    world.settle();
    assert_eq!(world.cohort(cohort).abandoned[0].code, "nonce-lost");
    assert!(world.cohort(cohort).strikes.is_empty());
    world.pass(2);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
}
