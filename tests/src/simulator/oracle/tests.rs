//! An oracle that cannot fail shows nothing: each is given what it must not accept.

use beacon_cohort::machine::Machine as _;
use beacon_cohort::terms::Flow;
use beacon_cohort::{coordinator, participant};
use bitcoin::{OutPoint, ScriptBuf, TxIn};

use beacon_cohort::machine::OutputView;
use beacon_cohort::participant::{Membership, Progress, Session};
use beacon_cohort::review::{ReviewedSignal, Verdict};
use beacon_cohort::signer::SignerRequest;

use super::*;
use crate::simulator::node::Stop;
use crate::simulator::world::peer;
use crate::simulator::{Goal, Settings};

/// A life in which everything held.
fn settled() -> Simulation {
    let settings = Settings {
        flow: Flow::Pull, // One session for all updates.
        ..Settings::default()
    };
    let mut simulation = Simulation::new(3, settings);
    simulation.form().unwrap();
    simulation.round().unwrap();
    simulation.advance(Goal::Settled).unwrap();
    simulation.examine().unwrap();
    simulation
}

fn refused(simulation: &Simulation, wording: &str) {
    let reason = simulation.examine().unwrap_err();
    assert!(reason.contains(wording), "{reason}");
}

/// Where the test's life happened.
fn cohort(simulation: &Simulation) -> CohortId {
    simulation.users.cohorts[0]
}

#[test]
fn memory_that_runs_ahead_of_the_disk() {
    let mut simulation = settled();
    let event = coordinator::Event::RoundRequested {
        cohort: cohort(&simulation),
    };
    simulation.coordinator.machine_mut().apply(&event);
    refused(&simulation, "C: replay differs from memory");

    let mut simulation = settled();
    let event = participant::Event::OptedOut {
        cohort: cohort(&simulation),
    };
    simulation.members[1].machine_mut().apply(&event);
    refused(&simulation, "P2: replay differs from memory");
}

#[test]
fn a_transaction_of_no_session() {
    let mut simulation = settled();
    simulation.world.chain.force(Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            ..TxIn::default()
        }],
        output: vec![bitcoin::TxOut {
            value: bitcoin::Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return([7; 32]),
        }],
    });
    refused(&simulation, "is in the chain and of no session");
}

/// The same round in the chain twice, and a root that no member can prove.
#[test]
fn a_round_that_is_mined_twice() {
    let simulation = settled();
    let mut sessions = Sessions::read(&simulation.coordinator.log().unwrap());
    let mut twice = simulation.world.chain.mined().next().unwrap().clone();
    twice.output[0].value -= bitcoin::Amount::ONE_SAT;
    let facts = *sessions.transactions.values().next().unwrap();
    sessions.transactions.insert(twice.compute_txid(), facts);
    let mut simulation = simulation;
    simulation.world.chain.force(twice);
    let reason = simulation.check(&sessions).unwrap_err();
    assert!(reason.contains("is in the chain twice"), "{reason}");
}

#[test]
fn a_signal_that_a_member_cannot_prove() {
    let simulation = settled();
    let tx = simulation.world.chain.mined().next().unwrap();
    let id = cohort(&simulation);
    let root = Root(transaction::signal_bytes(tx).unwrap());
    let txid = tx.compute_txid();
    simulation.check_proofs(1, id, txid, root).unwrap();
    let reason = simulation
        .check_proofs(1, id, txid, Root([7; 32]))
        .unwrap_err();
    assert!(reason.contains("member 1 cannot prove"), "{reason}");
}

#[test]
fn an_update_that_was_never_announced() {
    let mut simulation = settled();
    simulation.want_updates();
    refused(&simulation, "an update was announced 0 times");
}

#[test]
fn sessions_without_an_end_or_with_two_and_rounds_with_two_roots() {
    let simulation = settled();
    let read = || Sessions::read(&simulation.coordinator.log().unwrap());
    let session = *read().started.keys().next().unwrap();

    let mut sessions = read();
    sessions.signed.clear();
    assert!(sessions.check_ends().is_err(), "no end");
    sessions.abandoned.insert(session, String::new());
    assert!(sessions.check_ends().is_err(), "no reason");
    sessions.abandoned.insert(session, "timeout".to_owned());
    sessions.check_ends().unwrap();
    let tx = simulation.world.chain.mined().next().unwrap().clone();
    sessions.signed.insert(session, tx);
    assert!(sessions.check_ends().is_err(), "two ends");

    let mut sessions = read();
    let (cohort, round, _) = sessions.started[&session];
    let retry = SessionId(uuid::Uuid::nil());
    let other = Root([7; 32]);
    sessions.started.insert(retry, (cohort, round, other));
    sessions.check_roots().unwrap();
    sessions.aggregated.insert(retry);
    assert!(sessions.check_roots().is_err(), "two roots");
}

#[test]
fn a_signed_transaction_that_never_came_to_the_chain() {
    let simulation = settled();
    let sessions = Sessions::read(&simulation.coordinator.log().unwrap());
    sessions
        .check_confirmed(simulation.world.chain.mined())
        .unwrap();
    assert!(sessions.check_confirmed(std::iter::empty()).is_err());
}

/// Blame for what nobody did, with evidence and without.
#[test]
fn an_honest_member_that_is_blamed() {
    let mut simulation = settled();
    let struck = coordinator::Event::Struck {
        cohort: cohort(&simulation),
        peer: peer(1),
        session: None,
        code: "e.p.partial-signature".to_owned(),
        at: simulation.world.now(COORDINATOR),
        evidence: None,
    };
    simulation.coordinator.record(&struck);
    refused(&simulation, "did:example:1 did nothing wrong");
    simulation.world.network.guard.dishonest.push(1);
    simulation.check_blame().unwrap();
}

/// A member at the moment at which its partial signatures may have left.
fn released() -> Simulation {
    let settings = Settings {
        flow: Flow::Pull,
        ..Settings::default()
    };
    let mut simulation = Simulation::new(3, settings);
    simulation.form().unwrap();
    simulation.want();
    let released = |simulation: &Simulation| {
        let session = simulation.member(1)?.session.as_ref()?;
        matches!(session.progress, Progress::PartialReleased { .. }).then_some(())
    };
    simulation
        .until("it signed", |simulation| released(simulation).is_some())
        .unwrap();
    simulation
}

/// The session's proposal, reviewed once more.
fn reviewed(membership: &Membership, session: &Session) -> Box<ReviewedSignal> {
    let view = OutputView::Seen {
        output: session.proposal.0.spent_outputs[0].to_txout(),
        confirmations: 1,
        spent_by: None,
    };
    let input = session.proposal.0.pending_tx.input[0].previous_output;
    let views = [(input, view)];
    let context = membership.context(&session.proposal, &views).unwrap();
    let Verdict::Reviewed(signal) = session.proposal.review(&context) else {
        panic!("it was reviewed before");
    };
    signal
}

/// A signer that signs a session twice, as one in a restored snapshot of a virtual machine does: what gives a key away.
#[test]
fn a_signer_that_signs_twice() {
    let mut simulation = released();
    let membership = simulation.member(1).unwrap().clone();
    let session = membership.session.clone().unwrap();
    let Progress::PartialReleased { aggregated, .. } = &session.progress else {
        panic!("it signed");
    };
    let signal = reviewed(&membership, &session);
    let member = &mut simulation.members[0];
    member.revive_nonces(signal);
    let again = SignerRequest::SignPartials {
        cohort: membership.id,
        session: session.id,
        nonces: aggregated.clone(),
    };
    let stop = member.sign(again, &mut simulation.world).unwrap_err();
    let Stop::Broken(reason) = stop else {
        panic!("{stop:?}");
    };
    assert!(
        reason.contains("second or foreign use of secret nonces"),
        "{reason}"
    );
}

/// A member whose disk goes back to before its nonces, in the middle of a session in which it signed: it makes no others, or the
/// witness would end the simulation.
#[test]
fn a_disk_that_goes_back_makes_no_second_nonce() {
    let mut simulation = released();
    before_its_nonces(&mut simulation);
    let member = &mut simulation.members[0];
    member.restart(&mut simulation.world);
    simulation.pass(600).unwrap();
    simulation.check_contributions().unwrap();
}

/// The same disk, and a signer that makes other nonces all the same.
#[test]
fn a_member_that_makes_nonces_twice() {
    let mut simulation = released();
    let membership = simulation.member(1).unwrap().clone();
    let session = membership.session.clone().unwrap();
    let signal = reviewed(&membership, &session);
    before_its_nonces(&mut simulation);
    let member = &mut simulation.members[0];
    member.change_signer();
    let nonces = SignerRequest::MakeNonces(signal);
    let stop = member.sign(nonces, &mut simulation.world).unwrap_err();
    let Stop::Broken(reason) = stop else {
        panic!("{stop:?}");
    };
    assert!(
        reason.contains("second or foreign public nonce"),
        "{reason}"
    );
}

/// The first member's disk goes back to before its nonces.
fn before_its_nonces(simulation: &mut Simulation) {
    let member = &mut simulation.members[0];
    let log = member.log().unwrap();
    let made =
        |event: &participant::Event| matches!(event, participant::Event::NonceCommitted { .. });
    let keep = log.iter().position(made).unwrap();
    member.go_back_to(&log[..keep]);
}
