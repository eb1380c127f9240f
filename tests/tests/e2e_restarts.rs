//! Agents that stop, crash or say no in the middle of things, and chains that change their mind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use beacon_tests::harness::Member::{Asks, Signs};
use beacon_tests::harness::{Cohort, Event, Net};
use bitcoin::OutPoint;
use serde_json::{Value, json};

/// Member 0 signs by itself and member 1 asks, so that a session waits after the first nonces. Returns the cohort and
/// the event of the session's start.
async fn waiting_session() -> (Net, Cohort, Event) {
    let mut net = Net::start(&[Signs, Asks]).await;
    let cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let started = net
        .coordinator
        .wait("session_started", |event| cohort.has(event))
        .await;
    nonces(&mut net, 0, &started.value["session"]).await;
    (net, cohort, started)
}

/// The public nonces that the coordinator got of a member in a session.
async fn nonces(net: &mut Net, member: usize, session: &Value) -> Value {
    let did = net.members[member].did();
    let given = net
        .coordinator
        .wait("nonce_given", |event| {
            event["session"] == *session && event["peer"] == did
        })
        .await;
    given.value["nonces"].clone()
}

/// Has the member that asks sign in this session, as its user does.
async fn approve(net: &mut Net, member: usize, session: &Value) {
    let member = &mut net.members[member];
    let proposed = member
        .wait("signal_proposed", |event| event["session"] == *session)
        .await;
    assert_eq!(
        proposed.value["approved"], false,
        "nobody has asked its user"
    );
    member.answer(&["approve", session.as_str().unwrap()]).await;
}

/// The session that comes after `before`.
async fn next_session(net: &mut Net, before: &Event) -> Value {
    let started = net
        .coordinator
        .wait_after(before.seq, "session_started", |_| true)
        .await;
    assert_ne!(started.value["session"], before.value["session"]);
    started.value["session"].clone()
}

#[tokio::test]
async fn a_member_restarts_between_cohort_set_and_signing() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    assert_eq!(net.members[1].terminate().await, 0);
    net.fund(&cohort).await;
    // The round begins without the member, which is told when it is back.
    net.request_update(&cohort, 0).await;
    net.coordinator
        .wait("round_opened", |event| cohort.has(event))
        .await;
    net.members[1].restart().await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
}

/// Nothing that was sent before its death may be completed after it: the secret nonce is gone, and another one must
/// not be made for the same session.
#[tokio::test]
async fn a_member_killed_after_its_nonce_costs_one_session() {
    let (mut net, mut cohort, first) = waiting_session().await;
    let lost = &first.value["session"];
    let lost_nonces = nonces(&mut net, 0, lost).await;
    net.members[0].kill();
    net.members[0].restart().await;
    let ended = net.members[0]
        .wait("session_ended", |event| event["session"] == *lost)
        .await;
    assert_eq!(ended.value["code"], "nonce-lost");
    let abandoned = net
        .coordinator
        .wait("session_abandoned", |event| event["session"] == *lost)
        .await;
    assert_eq!(abandoned.value["code"], "nonce-lost");
    assert_eq!(abandoned.value["culprit"], net.members[0].did());

    let second = next_session(&mut net, &first).await;
    assert_ne!(nonces(&mut net, 0, &second).await, lost_nonces);
    approve(&mut net, 1, &second).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
    let signed = net.members[0].wait("partial_released", |_| true).await;
    assert_eq!(
        signed.value["session"], second,
        "nothing was signed in the lost session"
    );
}

#[tokio::test]
async fn a_coordinator_killed_in_mid_session_goes_on() {
    let (mut net, mut cohort, session) = waiting_session().await;
    net.coordinator.kill();
    net.coordinator.restart().await;
    let back = Instant::now();
    approve(&mut net, 1, &session.value["session"]).await;
    let signed = net
        .coordinator
        .wait("session_signed", |event| cohort.has(event))
        .await;
    assert_eq!(
        signed.value["session"], session.value["session"],
        "no session was lost"
    );
    // A reconnection is a matter of the back-off's first step, half a second.
    let took = back.elapsed();
    assert!(
        took < Duration::from_secs(15),
        "members came back only after {took:?}"
    );
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
}

#[tokio::test]
async fn a_coordinator_killed_between_signals_goes_on() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    // Killed with the signal in the mempool: it must be seen in its block all the same.
    net.broadcast(&cohort).await;
    net.coordinator.kill();
    net.coordinator.restart().await;
    let first = net.confirmed(&mut cohort).await;
    net.coordinator.kill();
    net.request_update(&cohort, 1).await;
    net.coordinator.restart().await;
    let second = net.confirmed(&mut cohort).await;
    let spent = second.transaction.input[0].previous_output;
    assert_eq!(spent, OutPoint::new(first.txid, 0));
    net.verify(&cohort, &second).await;
}

#[tokio::test]
async fn a_member_that_declines_ends_the_session_until_the_operator_tries_again() {
    let (mut net, mut cohort, first) = waiting_session().await;
    let declined = &first.value["session"];
    net.members[1]
        .wait("signal_proposed", |event| event["session"] == *declined)
        .await;
    let session = declined.as_str().unwrap();
    let decline = ["decline", session, "--comment", "not today"];
    net.members[1].answer(&decline).await;
    let abandoned = net
        .coordinator
        .wait("session_abandoned", |event| event["session"] == *declined)
        .await;
    assert_eq!(abandoned.value["code"], "user");
    assert_eq!(abandoned.value["comment"], "not today");
    assert_eq!(abandoned.value["culprit"], net.members[1].did());
    net.coordinator
        .wait("round_stopped", |event| cohort.has(event))
        .await;
    for member in &mut net.members {
        let ended = member
            .wait("session_ended", |event| event["session"] == *declined)
            .await;
        assert_eq!(ended.value["code"], "user", "{}", member.name());
    }

    net.coordinator
        .answer(&["session", "start", &cohort.id])
        .await;
    let second = next_session(&mut net, &first).await;
    approve(&mut net, 1, &second).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
    let sessions = net
        .coordinator
        .answer(&["session", "list", &cohort.id])
        .await;
    let statuses: Vec<_> = sessions
        .as_array()
        .unwrap()
        .iter()
        .map(|session| (&session["session_id"], session["status"].as_str().unwrap()))
        .collect();
    assert_eq!(statuses, [(&second, "confirmed"), (declined, "abandoned")]);
}

#[tokio::test]
async fn a_reorganisation_is_reported_by_everybody() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    let fits = |event: &Value| event["txid"] == signal.txid.to_string();
    let mut before = Vec::new();
    for agent in net.members.iter_mut().chain([&mut net.coordinator]) {
        before.push(agent.wait("signal_confirmed", fits).await);
    }
    net.chain.reorganise();
    assert_eq!(
        net.chain.height(signal.txid),
        None,
        "the signal waits again"
    );
    let mut gone = Vec::new();
    for (agent, before) in net
        .members
        .iter_mut()
        .chain([&mut net.coordinator])
        .zip(&before)
    {
        gone.push(agent.wait_after(before.seq, "signal_gone", fits).await);
    }
    net.chain.mine();
    let height = net.chain.height(signal.txid).unwrap();
    assert!(height > signal.height);
    let agents = net.members.iter_mut().chain([&mut net.coordinator]);
    for (agent, (before, gone)) in agents.zip(before.iter().zip(&gone)) {
        let again = agent.wait_after(gone.seq, "signal_confirmed", fits).await;
        assert_eq!(again.value["height"], height, "{}", agent.name());
        assert_ne!(again.value["block_hash"], before.value["block_hash"]);
    }
    net.verify(&cohort, &signal).await;
}
