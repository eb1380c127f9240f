//! What a member gets to hear again of earlier rounds: proofs, transactions, and what it signed itself.

use beacon_cohort::ids::CohortId;
use beacon_cohort::message::{
    DidRegistration, MAX_ANSWER_BYTES, Message, RegistrationResult, SignalProgress,
};
use beacon_cohort::statement;
use beacon_signal::{Root, Strictness, transaction};

use crate::common::{Mail, World};

fn ask(world: &mut World, number: usize, cohort: CohortId, from_round: u64) -> RegistrationResult {
    world.mail.clear();
    let from = world.peers[number].id.clone();
    let indexes = world.cohort(cohort).members[&from]
        .indexes
        .iter()
        .copied()
        .collect();
    let registration = DidRegistration {
        cohort_id: cohort,
        indexes,
        from_round: Some(from_round),
    };
    world.tell_coordinator(&from, registration).unwrap();
    match world.mail.pop() {
        Some(Mail::Message {
            message: Message::RegistrationResult(result),
            ..
        }) => result,
        other => panic!("{other:?}"),
    }
}

fn sign_round(world: &mut World, cohort: CohortId, update: u8) {
    world.request_update(0, cohort, update);
    world.settle();
    world.chain.mine();
    world.settle();
}

/// Every root, the live one included, with a proof that leads from the member's leaf to it.
#[test]
fn proofs_of_every_earlier_root_are_handed_out_again() {
    let (mut world, cohort) = World::formed(2, 1);
    (1..=3).for_each(|update| sign_round(&mut world, cohort, update));
    world.request_update(0, cohort, 4);
    world.settle_until(|message| message.kind() == "sign/signature_authorization");
    let own = world.membership(0, cohort).candidates.clone();
    let result = ask(&mut world, 0, cohort, 2);
    let told: Vec<_> = result
        .signals
        .iter()
        .map(|signal| (signal.round, signal.status))
        .collect();
    let expected = [
        (2, SignalProgress::Confirmed),
        (3, SignalProgress::Confirmed),
        (4, SignalProgress::Unsigned),
    ];
    assert_eq!(told, expected);
    let [result_of_index] = &result.results[..] else {
        panic!("one index: {:?}", result.results);
    };
    assert!(result_of_index.accepted, "it has it");
    for (signal, told) in result.signals.iter().zip(&result_of_index.proofs) {
        assert_eq!(
            (told.session_id, told.round),
            (signal.session_id, signal.round)
        );
        let candidate = own
            .iter()
            .find(|candidate| candidate.txid == signal.transaction.compute_txid());
        let mut stored = candidate.unwrap().proofs[&result_of_index.index].clone();
        let leaf = stored.leaf_value();
        let root = Root(transaction::signal_bytes(&signal.transaction).unwrap());
        told.proof
            .verify(&result_of_index.index, &leaf, &root, Strictness::Member)
            .unwrap();
        (stored.nonce, stored.update_id) = (None, None);
        assert_eq!(told.proof, stored);
    }
    assert_eq!(result.next_round, None);
}

/// A transaction that is not signed shows what the member itself signed of it, in the session in which it did.
#[test]
fn a_members_own_contribution_is_shown_to_it() {
    let (mut world, cohort) = World::formed(2, 2);
    world.request_update(0, cohort, 1);
    let last = world.peers[1].id.clone();
    let partials = world.settle_until(|message| message.kind() == "sign/signature_authorization");
    for mail in partials {
        if matches!(&mail, Mail::Message { from, .. } if *from != last) {
            world.deliver(mail);
        }
    }
    let session = world.cohort(cohort).session.clone().unwrap();
    assert_eq!(session.partials.len(), 1);
    world.mail.clear();
    world.pass(62); // The session is over, and so is the next one.
    world.mail.clear();
    world.pass(2);
    let contribution = |result: &RegistrationResult| result.signals[0].contribution.clone();
    let result = ask(&mut world, 0, cohort, 1);
    assert_eq!(result.signals[0].session_id, session.id);
    let signed = contribution(&result).expect("what it signed");
    let said = statement::partials(
        session.id,
        &session.sighashes,
        &signed.aggregated_nonces,
        &signed.partial_signatures,
    );
    let key = world.cohort(cohort).members[&world.peers[0].id].key;
    assert!(said.is_signed_by(&key, &signed.signature));
    let other = ask(&mut world, 1, cohort, 1);
    assert_eq!(contribution(&other), None, "nobody else's");
}

/// What does not fit into one answer is asked for from where it ends.
#[test]
fn a_long_history_comes_in_parts() {
    let (mut world, cohort) = World::formed(2, 3);
    world.fund(cohort, 90_000);
    for _ in 0..90 {
        sign_round(&mut world, cohort, 1);
    }
    let (mut from, mut rounds, mut answers) = (1, Vec::new(), 0);
    loop {
        let result = ask(&mut world, 0, cohort, from);
        let bytes = serde_json::to_vec(&Message::from(result.clone()).body().unwrap())
            .unwrap()
            .len();
        assert!(bytes <= MAX_ANSWER_BYTES, "{bytes}");
        rounds.extend(result.signals.iter().map(|signal| signal.round));
        answers += 1;
        match result.next_round {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(rounds, (1..=90).collect::<Vec<_>>());
    assert_eq!(answers, 2, "64 rounds at most in one");
}

/// Nothing is told to those who do not ask, and nothing of others to those who do.
#[test]
fn nobody_else_is_told() {
    let (mut world, cohort) = World::formed(2, 4);
    sign_round(&mut world, cohort, 1);
    let registration = |cohort_id, index, from_round| DidRegistration {
        cohort_id,
        indexes: vec![index],
        from_round,
    };
    let first = world.peers[0].id.clone();
    let others = *world.membership(1, cohort).dids.keys().next().unwrap();
    world.mail.clear();
    world
        .tell_coordinator(&first, registration(cohort, others, Some(1)))
        .unwrap();
    let own = *world.membership(0, cohort).dids.keys().next().unwrap();
    world
        .tell_coordinator(&first, registration(cohort, own, None))
        .unwrap();
    for mail in world.mail.drain(..) {
        let Mail::Message {
            message: Message::RegistrationResult(result),
            ..
        } = mail
        else {
            panic!("{mail:?}");
        };
        assert!(result.results[0].proofs.is_empty());
    }
}
