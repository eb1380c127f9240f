//! Old copies of a data directory, put back under a cohort that has gone on.
//!
//! What a copy has forgotten it must not do again: no nonce comes back, nothing is signed with money that a forgotten signature may
//! have spent, and proofs that were lost are fetched. What a copy can notice it says: the coordinator shows it
//! what it has signed since, and so does the chain.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
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
    /// Name → copy of the first member's home, in the order of its life.
    copies: Vec<(&'static str, PathBuf)>,
    /// Hashes of the first member's updates: an old copy may not know them, but its user does.
    updates: Vec<String>,
    /// The logs of all lives of the first member.
    lives: Vec<Vec<Event>>,
}

impl Running {
    async fn start() -> Self {
        let mut net = Net::start(&[Signs, Asks]).await;
        let mut copies = vec![("subscribed", copy(&net.members[0], "subscribed"))];
        let id = net
            .advertise(2, json!({ "confirmations": 2, "max_strikes": 2 }))
            .await;
        net.members[0].wait("cohort_advertised", |_| true).await;
        copies.push(("advertised", copy(&net.members[0], "advertised")));
        net.join(&id, 0).await;
        net.members[0].wait("opted_in", |_| true).await;
        copies.push(("joined", copy(&net.members[0], "joined")));
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
            let copy = copy(&self.net.members[0], name);
            self.copies.push((name, copy));
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
        self.net.chain.mine();
        let fits = |event: &Value| event["txid"] == signal.txid.to_string();
        for member in &mut self.net.members {
            member.wait("signal_buried", fits).await;
        }
        self.net.coordinator.wait("signal_buried", fits).await;
        self.copy(buried);
        signal
    }

    async fn approve(&mut self, session: &Value) {
        let asked = &mut self.net.members[1];
        let here = |event: &Value| event["session"] == *session;
        asked.wait("signal_proposed", here).await;
        asked.answer(&["approve", session.as_str().unwrap()]).await;
    }

    /// The first member's agent is gone, and somebody starts it with an old home.
    async fn restore(&mut self, from: &Path) {
        let member = &mut self.net.members[0];
        member.kill();
        self.lives.push(on_disk(&member.data_dir()));
        put(from, &member.data_dir());
        member.forget_log();
        member.restart().await;
    }

    /// Where the copy is older than the cohort, its user does again what the user did then. From then on it asks by itself.
    async fn join_again(&mut self, from: &Path) {
        let knows = |kind: &str| {
            let events = on_disk(from);
            events.iter().any(|event| event.value["event"] == kind)
        };
        if !knows("cohort_advertised") {
            let params = json!({ "coordinator": self.net.coordinator.did() });
            self.net.members[0].call("subscribe", params).await;
        }
        if !knows("join_requested") {
            self.net.join(&self.cohort.id, 0).await;
        }
    }
}

#[tokio::test]
async fn an_old_copy_of_a_participant_notices_what_it_forgot_and_signs_nothing_twice() {
    let mut running = Running::start().await;
    assert!(running.copies.len() >= 12);
    for (name, from) in running.copies.clone() {
        running.restore(&from).await;
        running.join_again(&from).await;
        noticed(&mut running, name).await;
        quarantined(&mut running, name).await;
    }
    running.net.members[0].kill();
    running
        .lives
        .push(on_disk(&running.net.members[0].data_dir()));
    assert_signed_once(&running);
    let log = running.net.coordinator.events().await;
    let struck = log.iter().find(|event| event.value["event"] == "struck");
    assert_eq!(struck, None, "nobody is at fault");
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
    running.net.chain.mine();
    let fits = |event: &Value| event["txid"] == signed.txid.to_string();
    for agent in running
        .net
        .members
        .iter_mut()
        .chain([&mut running.net.coordinator])
    {
        agent.wait("signal_buried", fits).await;
    }
    running.net.verify(&running.cohort, &signed).await;
}
