//! Whole lives of agents that die or whose disks fail, and what must hold afterwards.
//!
//! A life goes from the first start to a buried signal. Its neighbours are shared by many lives, side by side.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use beacon_signal::{Root, UpdateId};
use bitcoin::Txid;
use serde_json::{Value, json};
use uuid::Uuid;

use super::net::next_version;
use super::oracle::{
    Story, every_session_ended_and_no_signal_was_rebuilt, nothing_uncommitted_was_sent, signs_once,
};
use super::{
    Agent, Binary, Event, Fault, Mortal, Regtest, Scratch, When, chain_options, coordinator,
    free_port, verify_proof,
};

/// What comes over an agent, one after the other; each counts from the start that the one before has caused.
pub type Plans = Vec<(Fault, When)>;

/// Everybody who does not die.
#[derive(Debug)]
pub struct World {
    /// None where coordinators are those who die.
    coordinator: Option<Agent>,
    members: Vec<Agent>,
    chain: Regtest,
    scratch: Scratch,
    lives: AtomicU64,
}

impl World {
    /// The neighbours of participants that die: a coordinator and one member.
    pub async fn for_participants() -> Self {
        Self::new(true, 1).await
    }

    /// The neighbours of coordinators that die: two members.
    pub async fn for_coordinators() -> Self {
        Self::new(false, 2).await
    }

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
#[derive(Debug)]
pub struct Lived {
    /// Syncs from its first start to its end.
    pub syncs: u64,
    /// The kinds of events in its log.
    pub kinds: BTreeSet<String>,
    /// How often it died.
    pub deaths: usize,
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
pub async fn life_of_a_participant(world: &World, plans: Plans) -> Lived {
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
        let (update_hash, version) = (hex::encode(update.0), next_version());
        let params = json!({ "cohort_id": id, "update_hash": update_hash, "version": version });
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
pub async fn life_of_a_coordinator(world: &World, plans: Plans) -> Lived {
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
        let version = next_version();
        let params = json!({ "cohort_id": id, "update_hash": update_hash, "version": version });
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
