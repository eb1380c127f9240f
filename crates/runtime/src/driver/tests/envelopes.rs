//! Messages of every type in envelopes with wrong times or threads: refused before a machine sees them. What is wrong
//! with bodies and their moment is in `crates/cohort/tests/attacks`.

use std::collections::BTreeMap;

use beacon_cohort::message::{KINDS, TYPE_PREFIX};
use beacon_didcomm::Plaintext;
use uuid::Uuid;

use super::*;
use crate::transport::ConnectionId;

/// Seconds by which clocks may differ.
const SKEW_S: u64 = 300;

/// One body of each type, as a run sent it.
fn bodies() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("../../../../cohort/examples-of-messages.json")).unwrap()
}

/// A participant that is subscribed to a coordinator, on a socket to it.
struct Target {
    driver: Driver<ParticipantAgent>,
    conductor: Conductor,
    connection: ConnectionId,
    own: String,
    _inputs: Inputs,
    _ends: Ends,
}

impl Target {
    async fn new(disk: &Disk) -> Self {
        let mut conductor = Conductor::start().await;
        let (mut driver, inputs, ends) = disk.start(None).await.unwrap();
        let (request, _) = request("subscribe", json!({ "coordinator": conductor.did() }));
        driver.call(request).unwrap();
        let mut known = driver.machine.state().coordinators.values();
        let own = known.next().unwrap().own.as_str().to_owned();
        let dialled = driver.transport.dial(&conductor.url(), true).await;
        Self {
            connection: dialled.unwrap(),
            driver,
            conductor,
            own,
            _inputs: inputs,
            _ends: ends,
        }
    }

    /// Hands the message in, as it came from the socket, and says by which name it was refused and with which code that
    /// was reported. Nothing may have been recorded.
    async fn refuses(&mut self, plaintext: &Plaintext) -> (String, Value) {
        let before = self.driver.machine.state().clone();
        let (lines, waiting) = (self.driver.last_seq, self.driver.outbox.len());
        self.driver.counts = Counts::default();
        self.driver.said = Said::new(&Limits::default());
        let packed = self.conductor.packed(&self.own, plaintext);
        let remote = ([127, 0, 0, 1], 1).into();
        self.driver.frame(self.connection, remote, &packed).unwrap();
        assert_eq!(*self.driver.machine.state(), before);
        assert_eq!(
            (self.driver.last_seq, self.driver.outbox.len()),
            (lines, waiting)
        );
        let mut counted = self.driver.counts.all().into_keys();
        let refused = counted.next().expect("it is counted");
        assert_eq!(counted.next(), None);
        let report = self.conductor.until(PROBLEM_REPORT).await;
        (refused, report["code"].clone())
    }
}

fn message(kind: &str, body: &Value) -> Plaintext {
    Plaintext::new(Uuid::new_v4(), format!("{TYPE_PREFIX}{kind}"), now().0).with_body(body.clone())
}

#[tokio::test]
async fn an_expired_message_of_any_type_is_refused() {
    let disk = Disk::new();
    let mut target = Target::new(&disk).await;
    let bodies = bodies();
    for kind in KINDS {
        let body = &bodies[*kind];
        let mut expired = message(kind, body);
        expired.created_time = Some(now().0 - 3_600);
        expired.expires_time = Some(now().0 - SKEW_S - 1);
        let mut early = message(kind, body);
        early.created_time = Some(now().0 + SKEW_S + 60);
        let cases = [
            (expired, "expired"),
            (early, "from-the-future"),
            (
                message(kind, body).expiring_at(now().0 + 365 * 86_400),
                "lives-too-long",
            ),
        ];
        for (plaintext, expected) in cases {
            let (refused, code) = target.refuses(&plaintext).await;
            assert_eq!(refused, expected, "{kind}");
            assert_eq!(code, format!("e.m.{expected}"), "{kind}");
        }
    }
}

/// A thread that is not the body's would let an answer count as another one's.
#[tokio::test]
async fn a_message_of_any_type_under_another_thread_is_malformed() {
    let disk = Disk::new();
    let mut target = Target::new(&disk).await;
    for (kind, body) in bodies() {
        if body.get("cohort_id").is_none() {
            continue; // Belongs to no cohort, so to any thread.
        }
        let other = message(&kind, &body).with_thid(Uuid::from_u128(1).to_string());
        let (refused, code) = target.refuses(&other).await;
        assert_eq!((&*refused, code), ("e.m.malformed", json!("e.m.malformed")));
    }
}
