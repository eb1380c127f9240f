//! `kill -9` of the real binaries at every commit boundary, in both roles, over a life from the first start to a buried signal.
//!
//! A commit is one sync of the store. A life without faults tells how many there are, and which events it has. Then, for each
//! number, one life is lived in which the agent dies before that sync, with the loss of what was written since the last one (as in
//! a power failure; every other time, half of it survives), and one in which it dies right after it, before it has told
//! anybody. Each dies once more while it recovers. Lives differ a little, since two messages may come in either order: a
//! boundary that a number meets in one life may lie elsewhere in the next. So there are two more lives for each kind of event, which end
//! before and after the sync that makes the first one durable. A life in which nothing has struck goes on until something does.
//!
//! `BEACON_CRASH_ROUNDS=20` does all of it 20 times. Lives run side by side, with the same neighbours.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use beacon_signal::{Root, UpdateId};

use beacon_tests::harness::oracle::{
    Story, every_session_ended_and_no_signal_was_rebuilt, nothing_uncommitted_was_sent, signs_once,
};
use beacon_tests::harness::{
    Agent, Binary, Event, Fault, Mortal, Regtest, Scratch, When, chain_options, coordinator,
    free_port, verify_proof,
};
use bitcoin::Txid;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use uuid::Uuid;

/// Lives at one time. They wait for each other's messages most of the time.
const SIDE_BY_SIDE: usize = 8;
/// Syncs with which an agent opens the store that its death has left.
const RECOVERY: u64 = 4;

type Plans = Vec<(Fault, When)>;

/// Everybody who does not die.
struct World {
    chain: Regtest,
    scratch: Scratch,
    /// None where coordinators are those who die.
    coordinator: Option<Agent>,
    members: Vec<Agent>,
    lives: AtomicU64,
}

impl World {
    async fn new(with_coordinator: bool, members: usize) -> Self {
        let scratch = Scratch::new();
        let chain = Regtest::start(scratch.path()).await;
        let mut world = Self {
            coordinator: None,
            members: Vec::new(),
            lives: AtomicU64::new(0),
            chain,
            scratch,
        };
        if with_coordinator {
            world.coordinator = Some(coordinator(world.scratch.path(), &world.chain, &[]).await);
        }
        for number in 0..members {
            let name = format!("member{number}");
            let member = Agent::start(
                &name,
                Binary::Participant,
                world.scratch.path(),
                world.member_options(),
            );
            let mut member = member.await;
            if let Some(coordinator) = &world.coordinator {
                let params = json!({ "coordinator": coordinator.did() });
                member.call("subscribe", params).await;
                member.wait("subscription_accepted", |_| true).await;
            }
            world.members.push(member);
        }
        world
    }

    fn member_options(&self) -> Vec<String> {
        let mut options = chain_options(&self.chain);
        options.push("--auto-sign".to_owned());
        options
    }

    fn name(&self) -> String {
        format!("mortal{}", self.lives.fetch_add(1, Ordering::Relaxed))
    }
}

/// What is left of a life.
struct Lived {
    /// Syncs from its first start to its end.
    syncs: u64,
    /// The kinds of events in its log.
    kinds: BTreeSet<String>,
    deaths: usize,
}

impl Lived {
    /// Ends a life, and sees that its log has all that was told of it.
    async fn end(mortal: &mut Mortal) -> Self {
        let deaths = mortal.deaths();
        let agent = mortal.agent();
        let syncs = agent.faults().count(Fault::DieAfter);
        let log = agent.events().await;
        let read = agent.seen_events();
        assert_eq!(log[..read.len()], *read, "the log is another now");
        assert_eq!(agent.terminate().await, 0);
        let kinds = log.iter().map(kind).collect();
        Self {
            syncs,
            kinds,
            deaths,
        }
    }
}

fn kind(event: &Event) -> String {
    event.value["event"].as_str().unwrap().to_owned()
}

/// Deadlines are far beyond the end of a life: what comes about by one of them was stuck.
fn terms() -> Value {
    json!({ "min_members": 2, "confirmations": 2, "response_deadline_s": 600 })
}

fn join(cohort: &str, member: &str) -> Value {
    json!({ "cohort_id": cohort, "dids": [did_of(member)] })
}

fn did_of(member: &str) -> String {
    format!("did:btcr2:{member}")
}

fn txid(event: &Value) -> Txid {
    event["txid"].as_str().unwrap().parse().unwrap()
}

/// A participant that dies, with a coordinator and another member that do not.
async fn life_of_a_participant(world: &World, plans: Plans) -> Lived {
    let (coordinator, other) = (world.coordinator.as_ref().unwrap(), &world.members[0]);
    let name = world.name();
    let options = world.member_options();
    let agent = Agent::new(&name, Binary::Participant, world.scratch.path(), options);
    let mut mortal = Mortal::new(agent, plans);
    let mut at_coordinator = coordinator.follow(true).await;
    let mut at_other = other.follow(true).await;

    mortal.start().await;
    let subscribe = json!({ "coordinator": coordinator.did() });
    mortal
        .achieve("subscribed", |_| true, "subscribe", &subscribe)
        .await;
    mortal.wait("subscription_accepted", |_| true).await;
    let own_did = mortal.agent().did().to_owned();
    let mut terms = terms();
    // All participants of all lives are subscribed; the others need not hear of it.
    terms["admission"] = "invited".into();
    let params = json!({ "terms": terms, "invited": [own_did, other.did()] });
    let answer = coordinator.call("cohort.advertise", params).await;
    let id = answer["cohort_id"].as_str().unwrap();
    let here = |event: &Value| event["cohort"] == id;

    mortal.wait("cohort_advertised", here).await;
    mortal
        .achieve("join_requested", here, "join", &join(id, &name))
        .await;
    mortal
        .meanwhile(at_other.wait("cohort_advertised", here))
        .await;
    other.call("join", join(id, other.name())).await;
    let agreed = mortal.wait("cohort_agreed", here).await;
    for did in [&own_did, other.did()] {
        let fits = |event: &Value| here(event) && event["peer"] == did;
        mortal
            .meanwhile(at_coordinator.wait("acknowledged", fits))
            .await;
    }
    world
        .chain
        .fund(agreed.value["address"].as_str().unwrap(), 50_000);

    let mut signals = Vec::new();
    while signals.is_empty() || !mortal.is_through() {
        let update = UpdateId(Uuid::new_v4().into_bytes().repeat(2).try_into().unwrap());
        let queued = |event: &Value| here(event) && event["update"] == json!(update);
        let params = json!({ "cohort_id": id, "update_hash": hex::encode(update.0) });
        mortal
            .achieve("update_queued", queued, "request_update", &params)
            .await;
        let fits = |event: &Value| here(event) && !signals.contains(&txid(event));
        let sent = mortal
            .meanwhile(at_coordinator.wait("signal_broadcast", fits))
            .await;
        let sent = txid(&sent.value);
        signals.push(sent);
        for kind in ["signal_confirmed", "signal_buried"] {
            world.chain.mine();
            let fits = |event: &Value| here(event) && txid(event) == sent;
            mortal.wait(kind, fits).await;
            mortal.meanwhile(at_other.wait(kind, fits)).await;
            mortal.meanwhile(at_coordinator.wait(kind, fits)).await;
        }
    }

    let told = Story::new("coordinator", at_coordinator.seen(), id);
    // A secret nonce died with it: that costs a session, and nothing else does.
    sessions_ended(&told, &["nonce-lost"]);
    let others = Story::new(other.name(), at_other.seen(), id);
    signed_once_and_can_prove_it(&told, &others, id, other, other.did()).await;
    let log = mortal.agent().events().await;
    let own = Story::new(&name, &log, id);
    signed_once_and_can_prove_it(&told, &own, id, mortal.agent(), &own_did).await;
    Lived::end(&mut mortal).await
}

/// A coordinator that dies, with two members that do not.
async fn life_of_a_coordinator(world: &World, plans: Plans) -> Lived {
    let [one, other] = world.members.as_slice() else {
        panic!("two members were started");
    };
    let members = [one, other];
    let mut at_members = [one.follow(true).await, other.follow(true).await];
    let name = world.name();
    let mut options = chain_options(&world.chain);
    options.extend(["--listen".to_owned(), format!("127.0.0.1:{}", free_port())]);
    let agent = Agent::new(&name, Binary::Coordinator, world.scratch.path(), options);
    let mut mortal = Mortal::new(agent, plans);

    mortal.start().await;
    let coordinator = mortal.agent().did().to_owned();
    let mut dids = Vec::new();
    for (member, at_member) in members.iter().zip(&mut at_members) {
        let params = json!({ "coordinator": coordinator });
        let answer = member.call("subscribe", params).await;
        dids.push(answer["own_did"].as_str().unwrap().to_owned());
        let fits = |event: &Value| event["coordinator"] == coordinator;
        mortal
            .meanwhile(at_member.wait("subscription_accepted", fits))
            .await;
    }
    let params = json!({ "terms": terms() });
    let advert = mortal
        .achieve("cohort_advertised", |_| true, "cohort.advertise", &params)
        .await;
    let id = advert.value["cohort"].as_str().unwrap();
    let here = |event: &Value| event["cohort"] == id;
    for (member, at_member) in members.iter().zip(&mut at_members) {
        mortal
            .meanwhile(at_member.wait("cohort_advertised", here))
            .await;
        member.call("join", join(id, member.name())).await;
    }
    let mut address = Value::Null;
    for at_member in &mut at_members {
        let agreed = mortal
            .meanwhile(at_member.wait("cohort_agreed", here))
            .await;
        address = agreed.value["address"].clone();
    }
    for did in &dids {
        let fits = |event: &Value| here(event) && event["peer"] == *did;
        mortal.wait("acknowledged", fits).await;
    }
    world.chain.fund(address.as_str().unwrap(), 50_000);

    let mut signals = Vec::new();
    while signals.is_empty() || !mortal.is_through() {
        let update_hash = hex::encode(Uuid::new_v4().into_bytes().repeat(2));
        let params = json!({ "cohort_id": id, "update_hash": update_hash });
        one.call("request_update", params).await;
        let fits = |event: &Value| here(event) && !signals.contains(&txid(event));
        // While it was dead, another life may have mined its signal.
        let sent = mortal.wait("signal_broadcast|signal_confirmed", fits).await;
        let sent = txid(&sent.value);
        signals.push(sent);
        for kind in ["signal_confirmed", "signal_buried"] {
            world.chain.mine();
            let fits = |event: &Value| here(event) && txid(event) == sent;
            mortal.wait(kind, fits).await;
            for at_member in &mut at_members {
                mortal.meanwhile(at_member.wait(kind, fits)).await;
            }
        }
    }

    let log = mortal.agent().events().await;
    let own = Story::new(&name, &log, id);
    // What it needs is in its log: its death costs no session.
    sessions_ended(&own, &[]);
    for ((member, at_member), did) in members.iter().zip(&at_members).zip(&dids) {
        let theirs = Story::new(member.name(), at_member.seen(), id);
        signed_once_and_can_prove_it(&own, &theirs, id, member, did).await;
    }
    Lived::end(&mut mortal).await
}

/// No session is stuck, none was abandoned for another reason than these, and no transaction that was signed was built anew.
fn sessions_ended(coordinator: &Story<'_>, reasons: &[&str]) {
    every_session_ended_and_no_signal_was_rebuilt(coordinator);
    for abandoned in coordinator.all("session_abandoned") {
        let code = abandoned["code"].as_str().unwrap();
        assert!(reasons.contains(&code), "{abandoned}");
    }
    for stopped in ["round_stopped", "cohort_failed"] {
        let stopped = coordinator.all(stopped).next();
        assert_eq!(stopped, None);
    }
}

async fn signed_once_and_can_prove_it(
    coordinator: &Story<'_>,
    story: &Story<'_>,
    cohort: &str,
    member: &Agent,
    did: &str,
) {
    signs_once(story);
    nothing_uncommitted_was_sent(coordinator, story, did);
    let mut proven = 0;
    for signed in story.all("partial_authorized") {
        let root: Root = serde_json::from_value(signed["root"].clone()).unwrap();
        let root = root.to_hex();
        verify_proof(member, cohort, txid(signed), &root, &did_of(member.name())).await;
        proven += 1;
    }
    assert!(proven > 0, "{} signed nothing", member.name());
}

/// Lives a life for every boundary of a life without faults, side by side.
async fn at_every_boundary(round: u64, life: impl AsyncFn(&World, Plans) -> Lived, world: &World) {
    let reference = life(world, Vec::new()).await;
    let begun = Instant::now();
    let mut plans = Vec::new();
    for number in 1..=reference.syncs {
        let lost = if (number + round).is_multiple_of(2) {
            Fault::DieAndLose
        } else {
            Fault::DieAndTear
        };
        let again = When::Next(1 + (number + round / 2) % RECOVERY);
        let number = When::Next(number);
        plans.push(vec![
            (lost, number.clone()),
            (Fault::DieAfter, again.clone()),
        ]);
        plans.push(vec![(Fault::DieAfter, number), (lost, again)]);
    }
    for kind in &reference.kinds {
        let durable = When::Event(kind.clone());
        plans.push(vec![(Fault::DieAndLose, durable.clone())]);
        plans.push(vec![(Fault::DieAfter, durable)]);
    }
    let lives: Vec<_> = stream::iter(plans)
        .map(|plans| life(world, plans))
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let deaths: usize = lives.iter().map(|lived| lived.deaths).sum();
    eprintln!(
        "{} boundaries, {} kinds of events, {} lives, {deaths} deaths in {:?}",
        reference.syncs,
        reference.kinds.len(),
        lives.len(),
        begun.elapsed()
    );
}

fn rounds() -> u64 {
    let rounds = std::env::var("BEACON_CRASH_ROUNDS");
    rounds.map_or(1, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn a_participant_is_killed_at_every_boundary() {
    for round in 0..rounds() {
        let world = World::new(true, 1).await;
        at_every_boundary(round, life_of_a_participant, &world).await;
    }
}

#[tokio::test]
async fn a_coordinator_is_killed_at_every_boundary() {
    for round in 0..rounds() {
        let world = World::new(false, 2).await;
        at_every_boundary(round, life_of_a_coordinator, &world).await;
    }
}
