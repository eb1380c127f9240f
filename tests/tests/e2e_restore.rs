//! Old copies of a data directory, put back under a cohort that has gone on.
//!
//! What a copy has forgotten it must not do again: no nonce comes back, nothing is signed with money that a forgotten signature may
//! have spent, and proofs that were lost are fetched. What a copy can notice it says: the coordinator shows it
//! what it has signed since, and so does the chain. A coordinator's old copy can have nothing signed: members go by what they
//! remember, and the chain shows it that time has passed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use beacon_tests::harness::Member::{Asks, Signs};
use beacon_tests::harness::oracle::{Story, signs_once};
use beacon_tests::harness::{Agent, Cohort, Event, Net, Signal, on_disk, verify_proof};
use serde_json::{Value, json};

/// A copy of a home whose agent runs and has nothing to do. Where it wrote meanwhile, the copy is made again.
fn copy(agent: &Agent, name: &str) -> PathBuf {
    let home = agent.data_dir();
    let to = home.with_extension(name);
    loop {
        put(&home, &to);
        let state = |home: &Path| fs::read(home.join("state.redb")).unwrap();
        if state(&home) == state(&to) {
            return to;
        }
    }
}

/// Replaces one home by another.
fn put(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for file in ["seed", "state.redb"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// A cohort of one member that signs by itself, of which copies are made, and one that is asked, so that sessions wait
/// where a copy shall be made.
struct Running {
    net: Net,
    cohort: Cohort,
    /// In the order of the cohort's life.
    copies: Vec<Copy>,
    /// Hashes of the first member's updates: an old copy may not know them, but its user does.
    updates: Vec<String>,
    /// The logs of all lives of the agent that is restored.
    lives: Vec<Vec<Event>>,
}

/// What somebody put aside at one moment.
#[derive(Clone)]
struct Copy {
    name: &'static str,
    /// The first member's home.
    member: PathBuf,
    /// The coordinator's.
    coordinator: PathBuf,
}

impl Copy {
    fn new(name: &'static str, net: &Net) -> Self {
        Self {
            name,
            member: copy(&net.members[0], name),
            coordinator: copy(&net.coordinator, name),
        }
    }
}

/// How many events of this kind a home's log has.
fn count(home: &Path, kind: &str) -> usize {
    let events = on_disk(home);
    let of_kind = events.iter().filter(|event| event.value["event"] == kind);
    of_kind.count()
}

impl Running {
    async fn start() -> Self {
        let mut net = Net::start(&[Signs, Asks]).await;
        let mut copies = vec![Copy::new("subscribed", &net)];
        let id = net
            .advertise(2, json!({ "confirmations": 2, "max_strikes": 2 }))
            .await;
        net.members[0].wait("cohort_advertised", |_| true).await;
        copies.push(Copy::new("advertised", &net));
        net.join(&id, 0).await;
        net.members[0].wait("opted_in", |_| true).await;
        net.coordinator.wait("opted_in", |_| true).await;
        copies.push(Copy::new("joined", &net));
        net.join(&id, 1).await;
        let cohort = net.acknowledged(id, &[0, 1]).await;
        let mut running = Self {
            net,
            cohort,
            copies,
            updates: Vec::new(),
            lives: Vec::new(),
        };
        running.copy("agreed");
        running.net.fund(&running.cohort).await;
        running.copy("funded");
        running
            .signal(["chosen-1", "nonce-1", "signed-1", "buried-1"])
            .await;
        running
            .signal(["chosen-2", "nonce-2", "signed-2", "buried-2"])
            .await;
        // What the last copy does not know.
        running.signal([""; 4]).await;
        running
    }

    fn copy(&mut self, name: &'static str) {
        if !name.is_empty() {
            self.copies.push(Copy::new(name, &self.net));
        }
    }

    /// One signal, with copies when its leaves were chosen, its nonces given, it was signed, and it was buried.
    async fn signal(&mut self, [chosen, given, signed, buried]: [&'static str; 4]) -> Signal {
        let seen = self.net.members[0]
            .seen_events()
            .last()
            .map_or(0, |event| event.seq);
        let update = self.net.request_update(&self.cohort, 0).await;
        self.updates.push(update);
        self.net.members[0]
            .wait_after(seen, "leaves_chosen", |_| true)
            .await;
        self.copy(chosen);
        let committed = self.net.members[0]
            .wait_after(seen, "nonce_committed", |_| true)
            .await;
        let session = committed.value["session"].clone();
        let here = |event: &Value| event["session"] == session;
        self.net.coordinator.wait("nonce_given", here).await;
        self.copy(given);
        self.approve(&session).await;
        self.net.broadcast(&self.cohort).await;
        self.copy(signed);
        let signal = self.net.confirmed(&mut self.cohort).await;
        self.buried(&signal).await;
        self.copy(buried);
        signal
    }

    /// Everybody has seen as many blocks as the terms want.
    async fn buried(&mut self, signal: &Signal) {
        self.net.chain.mine();
        let fits = |event: &Value| event["txid"] == signal.txid.to_string();
        for member in &mut self.net.members {
            member.wait("signal_buried", fits).await;
        }
        self.net.coordinator.wait("signal_buried", fits).await;
    }

    async fn approve(&mut self, session: &Value) {
        let asked = &mut self.net.members[1];
        let here = |event: &Value| event["session"] == *session;
        asked.wait("signal_proposed", here).await;
        asked.answer(&["approve", session.as_str().unwrap()]).await;
    }

    /// Where the copy is older than the cohort, its user does again what the user did then. From then on it asks by itself.
    async fn join_again(&mut self, from: &Path) {
        if count(from, "cohort_advertised") == 0 {
            let params = json!({ "coordinator": self.net.coordinator.did() });
            self.net.members[0].call("subscribe", params).await;
        }
        if count(from, "join_requested") == 0 {
            self.net.join(&self.cohort.id, 0).await;
        }
    }
}

#[tokio::test]
async fn an_old_copy_of_a_participant_notices_what_it_forgot_and_signs_nothing_twice() {
    let mut running = Running::start().await;
    assert!(running.copies.len() >= 12);
    for Copy { name, member, .. } in running.copies.clone() {
        running.lives.push(end(&mut running.net.members[0]));
        restore(&mut running.net.members[0], &member).await;
        running.join_again(&member).await;
        noticed(&mut running, name).await;
        quarantined(&mut running, name).await;
    }
    forgot_nothing(&mut running).await;
    running.lives.push(end(&mut running.net.members[0]));
    assert_signed_once(&running);
    let log = running.net.coordinator.events().await;
    let struck = log.iter().find(|event| event.value["event"] == "struck");
    assert_eq!(struck, None, "nobody is at fault");
}

/// The newest copy, put back, is as good as a restart.
async fn forgot_nothing(running: &mut Running) {
    let member = &mut running.net.members[0];
    let newest = copy(member, "newest");
    running.lives.push(end(member));
    let known = on_disk(&newest).len() as u64;
    restore(member, &newest).await;
    member.wait_after(known, "proofs_answered", |_| true).await;
    let log = member.events().await;
    let mut since = log.iter().filter(|event| event.seq > known);
    let alarm = since.find(|event| event.value["event"] == "rollback_detected");
    assert_eq!(alarm, None);
}

/// Kills an agent. Returns its log.
fn end(agent: &mut Agent) -> Vec<Event> {
    agent.kill();
    on_disk(&agent.data_dir())
}

/// Somebody starts an agent that is gone with another home.
async fn restore(agent: &mut Agent, from: &Path) {
    put(from, &agent.data_dir());
    agent.forget_log();
    agent.restart().await;
}

/// One public nonce for one session, and one partial signature, over all lives.
fn assert_signed_once(running: &Running) {
    let (mut sessions, mut given) = (BTreeMap::new(), BTreeMap::new());
    for life in &running.lives {
        let story = Story::new("member0", life, &running.cohort.id);
        signs_once(&story);
        for (kind, member) in [
            ("nonce_committed", "nonces"),
            ("partial_released", "partials"),
        ] {
            for event in story.all(kind) {
                let session = event["session"].to_string();
                let before = given.insert((session.clone(), kind), event[member].clone());
                assert!(
                    before.is_none_or(|before| before == event[member]),
                    "two answers in session {session}"
                );
                for nonce in event["nonces"].as_array().into_iter().flatten() {
                    let before = sessions.insert(nonce.to_string(), session.clone());
                    assert!(
                        before.is_none_or(|before| before == session),
                        "{nonce} came back"
                    );
                }
            }
        }
    }
    assert!(sessions.len() > running.copies.len());
}

/// It says that its state is old, has what it signed and forgot, and can prove it.
async fn noticed(running: &mut Running, name: &str) {
    let cohort = &running.cohort;
    let member = &mut running.net.members[0];
    member
        .wait("rollback_detected", |event| cohort.has(event))
        .await;
    let newest = cohort.signals.last().unwrap().txid.to_string();
    member.wait("signal_adopted", |_| true).await;
    member
        .wait("proofs_answered", |event| cohort.has(event))
        .await;
    assert!(
        member.log().contains("state is old"),
        "{name}: {}",
        member.log()
    );
    let shown = member.answer(&["rollback", "show"]).await;
    assert!(
        !shown[0]["recovered_signals"].as_array().unwrap().is_empty(),
        "{name}: {shown}"
    );
    let fits = |event: &Value| event["txid"] == newest;
    member.wait("signal_buried", fits).await;
    let mut fetch = vec!["proof", "fetch", &*cohort.id];
    for update in &running.updates {
        fetch.extend(["--update-hash", update]);
    }
    member.answer(&fetch).await;
    for signal in &cohort.signals {
        let did = cohort.did(member);
        verify_proof(member, &cohort.id, signal.txid, &signal.root, &did).await;
    }
}

/// Money that exists now is not signed away, until the user says so. Then the cohort goes on.
async fn quarantined(running: &mut Running, name: &str) {
    let seen = running.net.coordinator.seen_events().last().unwrap().seq;
    let cohort = running.cohort.id.clone();
    running.net.request_update(&running.cohort, 1).await;
    let abandoned = running
        .net
        .coordinator
        .wait_after(seen, "session_abandoned", |event| {
            event["code"] == "rolled-back"
        })
        .await;
    let refused = abandoned.value["session"].clone();
    let before = running.net.members[0]
        .wait("session_ended", |event| event["session"] == refused)
        .await;
    assert_eq!(before.value["code"], "rolled-back", "{name}");
    running.net.members[0]
        .answer(&["rollback", "confirm", &cohort])
        .await;
    let given = running
        .net
        .coordinator
        .wait_after(abandoned.seq, "nonce_given", |event| {
            event["session"] != refused
        })
        .await;
    running.approve(&given.value["session"].clone()).await;
    let signed = running.net.confirmed(&mut running.cohort).await;
    running.buried(&signed).await;
    running.net.verify(&running.cohort, &signed).await;
}

#[tokio::test]
async fn an_old_copy_of_a_coordinator_has_nothing_signed_and_the_newest_goes_on() {
    let mut running = Running::start().await;
    for copy in running.copies.clone() {
        running.lives.push(end(&mut running.net.coordinator));
        let home = running.net.coordinator.data_dir();
        let newest = home.with_extension("newest");
        put(&home, &newest);
        let signed = signatures(&running).await;
        restore(&mut running.net.coordinator, &copy.coordinator).await;
        running.net.request_update(&running.cohort, 0).await;
        outdated(&mut running, &copy).await;
        assert_eq!(signatures(&running).await, signed, "{}", copy.name);

        running.lives.push(end(&mut running.net.coordinator));
        restore(&mut running.net.coordinator, &newest).await;
        goes_on(&mut running).await;
    }
    running.lives.push(end(&mut running.net.coordinator));
    let struck = |event: &&Event| event.value["event"] == "struck";
    let struck = running.lives.iter().flatten().find(struck);
    assert_eq!(struck, None, "nobody is at fault");
    for member in &running.net.members {
        let log = member.events().await;
        let story = Story::new(member.name(), &log, &running.cohort.id);
        signs_once(&story);
        let signed: BTreeSet<_> = story
            .all("partial_authorized")
            .map(|event| event["txid"].to_string())
            .collect();
        let count = running.cohort.signals.len();
        assert_eq!(signed.len(), count, "one transaction for each round");
    }
}

/// How many partial signatures the members have made.
async fn signatures(running: &Running) -> usize {
    let mut signatures = 0;
    for member in &running.net.members {
        let log = member.events().await;
        let made = |event: &&Event| event.value["event"] == "partial_authorized";
        signatures += log.iter().filter(made).count();
    }
    signatures
}

/// It says that its state is old, where it knows the cohort at all, and what to do.
async fn outdated(running: &mut Running, copy: &Copy) {
    let coordinator = &mut running.net.coordinator;
    let cohort = &running.cohort.id;
    if count(&copy.coordinator, "acknowledged") < running.cohort.members.len() {
        // Its operator sees no cohort that could be funded or sign.
        for listed in coordinator
            .answer(&["cohort", "list"])
            .await
            .as_array()
            .unwrap()
        {
            assert_ne!(listed["phase"], "acknowledged", "{}", copy.name);
        }
        return;
    }
    // The chain shows what it has forgotten; or a member does, whose leaf it refuses.
    let noticed = coordinator
        .wait("foreign_spend|later_round_claimed", |event| {
            event["cohort"] == *cohort
        })
        .await;
    let noticed = match noticed.value["event"].as_str() {
        Some("foreign_spend") => noticed.value["txid"].as_str().unwrap().to_owned(),
        _ => noticed.value["round"].to_string(),
    };
    let shown = coordinator.answer(&["cohort", "show", cohort]).await;
    let told = format!("{} {}", shown["doubt"], shown["later_rounds"]);
    assert!(told.contains(&noticed), "{}: {shown}", copy.name);
    // An operator who goes on all the same gets nothing signed.
    let start = ["session", "start", cohort];
    coordinator.answer(&start).await;
    coordinator
        .wait("round_requested", |event| event["cohort"] == *cohort)
        .await;
}

/// The cohort publishes another signal.
async fn goes_on(running: &mut Running) {
    running.net.request_update(&running.cohort, 1).await;
    let signed = running.cohort.signals.len();
    let started = running
        .net
        .coordinator
        .wait("session_started", |event| event["round"] == signed + 1)
        .await;
    running.approve(&started.value["session"].clone()).await;
    let signal = running.net.confirmed(&mut running.cohort).await;
    running.buried(&signal).await;
    running.net.verify(&running.cohort, &signal).await;
}
