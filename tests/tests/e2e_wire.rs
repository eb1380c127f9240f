//! Bad input on real sockets: it changes nothing, it is counted, and who is proven to have sent it is told.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use beacon_didcomm::protocols::{PROBLEM_REPORT, ProblemReport};
use beacon_didcomm::{Endpoint, Identity, Plaintext};
use beacon_tests::harness::{
    Agent, Regtest, Scratch, Stranger, anoncrypted, coordinator, message, now,
};
use serde_json::{Value, json};

/// Makes something wrong in a message's content. Gets the DID of somebody else.
type Spoil = fn(&mut Value, &str);

/// A coordinator on its own, and a stranger with a socket to it.
struct Target {
    stranger: Stranger,
    coordinator: Agent,
    _chain: Regtest,
    _scratch: Scratch,
}

impl Target {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let chain = Regtest::start(scratch.path()).await;
        let coordinator = coordinator(scratch.path(), &chain, &[]).await;
        Self {
            stranger: Stranger::connect(&coordinator.url()).await,
            coordinator,
            _chain: chain,
            _scratch: scratch,
        }
    }

    /// Sends a frame that must be counted as `kind`, and returns what came back.
    async fn refuses(&mut self, frame: Vec<u8>, kind: &str) -> Vec<Plaintext> {
        let events = self.coordinator.event_count().await;
        let counted = self.coordinator.refused(kind).await;
        self.stranger.send(frame).await;
        let answers = self.stranger.answers(self.coordinator.did()).await;
        assert_eq!(self.coordinator.refused(kind).await, counted + 1, "{kind}");
        assert_eq!(self.coordinator.event_count().await, events, "{kind}");
        answers.into_iter().map(|(_, message)| message).collect()
    }

    /// Sends a message that must be counted as `kind` and answered with exactly one report, of this code.
    async fn reports(&mut self, frame: Vec<u8>, kind: &str, code: &str, id: &str) {
        let answers = self.refuses(frame, kind).await;
        let [report] = answers.as_slice() else {
            panic!("{kind}: expected one report, got {answers:?}");
        };
        assert_eq!(report.kind, PROBLEM_REPORT);
        assert_eq!(ProblemReport::parse(report).unwrap().code, code);
        assert_eq!(report.ack, [id], "names the message");
        assert_eq!(report.pthid.as_deref(), Some(id), "and its thread");
    }

    /// A message as a JSON object, for a forger to change.
    fn content(&self) -> Value {
        let mut content = serde_json::to_value(message("keygen/subscribe", json!({}))).unwrap();
        content["from"] = self.stranger.did().as_str().into();
        content["to"] = json!([self.coordinator.did()]);
        content
    }
}

#[tokio::test]
async fn what_proves_no_sender_is_counted_and_not_answered() {
    let mut target = Target::new().await;
    let did = target.coordinator.did().to_owned();
    let content = target.content();
    let signed =
        json!({ "payload": "e30", "signatures": [{ "protected": "e30", "signature": "" }] });
    let honest = target.stranger.forge(&did, &content);
    let mut altered: Value = serde_json::from_slice(&honest).unwrap();
    let tag = altered["tag"].as_str().unwrap();
    altered["tag"] = tag.chars().rev().collect::<String>().into();
    let other = Identity::new(&[7; 32], &[8; 32], Endpoint::Queue).unwrap();
    let to_other = message("keygen/subscribe", json!({}));
    let cases = [
        ("malformed", b"\xff\x00 no JSON at all".to_vec()),
        ("malformed", b"{\"ciphertext\": 1}".to_vec()),
        ("malformed", Vec::new()),
        ("plaintext", content.to_string().into_bytes()),
        ("signed-only", signed.to_string().into_bytes()),
        ("anoncrypt", anoncrypted(&did, &content)),
        ("decryption", altered.to_string().into_bytes()),
        (
            "not-for-us",
            target.stranger.pack(other.did().as_str(), to_other),
        ),
    ];
    for (kind, frame) in cases {
        let answers = target.refuses(frame, kind).await;
        assert!(answers.is_empty(), "{kind}: {answers:?}");
    }
    // What was altered is taken as it was.
    target.stranger.send(honest).await;
    let accepted = target.stranger.answers(&did).await;
    assert!(!accepted.is_empty());
    assert_eq!(target.coordinator.event_count().await, 1);
}

#[tokio::test]
async fn text_frames_are_read_like_binary_ones() {
    let mut target = Target::new().await;
    let did = target.coordinator.did().to_owned();
    let frame = target
        .stranger
        .pack(&did, message("keygen/subscribe", json!({})));
    target
        .stranger
        .send_text(std::str::from_utf8(&frame).unwrap())
        .await;
    let (_, accept) = target.stranger.receive().await.unwrap();
    assert!(
        accept.kind.ends_with("keygen/subscribe_accept"),
        "{}",
        accept.kind
    );
    target.stranger.send_text("hello").await;
    assert_eq!(target.stranger.answers(&did).await.len(), 0);
    assert_eq!(target.coordinator.refused("malformed").await, 1);
}

#[tokio::test]
async fn an_envelope_of_a_proven_sender_with_wrong_content_is_reported() {
    let mut target = Target::new().await;
    let did = target.coordinator.did().to_owned();
    let other = Identity::new(&[7; 32], &[8; 32], Endpoint::Queue).unwrap();
    let cases: [(&str, Spoil); 6] = [
        ("expired", |content, _| {
            content["created_time"] = (now() - 7_200).into();
            content["expires_time"] = (now() - 3_600).into();
        }),
        ("from-the-future", |content, _| {
            content["created_time"] = (now() + 3_600).into();
        }),
        ("lives-too-long", |content, _| {
            content["expires_time"] = (now() + 365 * 86_400).into();
        }),
        ("not-addressed", |content, other| {
            content["to"] = json!([other]);
        }),
        ("from-mismatch", |content, other| {
            content["from"] = other.into();
        }),
        ("no-from", |content, _| content["from"] = Value::Null),
    ];
    for (kind, spoil) in cases {
        let mut content = target.content();
        spoil(&mut content, other.did().as_str());
        let id = content["id"].as_str().unwrap().to_owned();
        let frame = target.stranger.forge(&did, &content);
        target
            .reports(frame, kind, &format!("e.m.{kind}"), &id)
            .await;
    }
    // A second one of a kind is counted, not told again: whose clock is wrong refuses every report.
    let mut content = target.content();
    content["to"] = json!([other.did()]);
    let frame = target.stranger.forge(&did, &content);
    assert_eq!(target.refuses(frame, "not-addressed").await, []);
}

#[tokio::test]
async fn a_message_that_makes_no_sense_is_reported() {
    let mut target = Target::new().await;
    let did = target.coordinator.did().to_owned();
    let cohort = "00000000-0000-4000-8000-000000000000";
    let unknown = |kind| Plaintext::new(uuid::Uuid::new_v4(), kind, now());
    let cases = [
        (
            "e.m.unknown-type",
            message("keygen/from_the_future", json!({})),
        ),
        (
            "e.m.unknown-type",
            unknown("https://example.org/other/1.0/thing"),
        ),
        (
            "e.m.malformed",
            message("keygen/opt_in", json!({ "cohort_id": 7 })),
        ),
        (
            "e.m.malformed",
            message("keygen/opt_out", json!({ "cohort_id": cohort })).with_thid("another thread"),
        ),
        (
            "e.m.wrong-role",
            message("keygen/subscribe_accept", json!({})),
        ),
        (
            "e.m.not-subscribed",
            message("keygen/unsubscribe", json!({})),
        ),
        (
            "e.m.unknown-cohort",
            message("keygen/opt_out", json!({ "cohort_id": cohort })),
        ),
    ];
    for (code, message) in cases {
        let (id, thread) = (message.id.clone(), message.thread().to_owned());
        let frame = target.stranger.pack(&did, message);
        let answers = target.refuses(frame, code).await;
        let [report] = answers.as_slice() else {
            panic!("{code}: expected one report, got {answers:?}");
        };
        assert_eq!(ProblemReport::parse(report).unwrap().code, code);
        assert_eq!(report.ack, [id]);
        assert_eq!(report.pthid, Some(thread));
    }
    // A report is never answered by a report.
    let report = ProblemReport::new("e.m.whatever", "says the stranger").unwrap();
    let report = report.about("thread", "message", uuid::Uuid::new_v4(), now());
    let broken = Plaintext::new(uuid::Uuid::new_v4(), PROBLEM_REPORT, now());
    for report in [report, broken] {
        let frame = target.stranger.pack(&did, report);
        target.stranger.send(frame).await;
        assert_eq!(target.stranger.answers(&did).await, []);
    }
    assert_eq!(target.coordinator.event_count().await, 0);
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_its_socket_alone() {
    let mut target = Target::new().await;
    let did = target.coordinator.did().to_owned();
    let mut other = Stranger::connect(&target.coordinator.url()).await;
    target.stranger.send(vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(target.stranger.receive().await.unwrap_err(), 1009);
    // The largest allowed one is only refused.
    other.send(vec![b' '; 1 << 20]).await;
    assert_eq!(other.answers(&did).await, []);
    assert_eq!(target.coordinator.refused("malformed").await, 1);
    assert_eq!(target.coordinator.event_count().await, 0);
}

#[tokio::test]
async fn a_hundred_garbage_frames_are_one_line_in_the_log() {
    let mut target = Target::new().await;
    let did = target.coordinator.did().to_owned();
    let refusals = |log: &str| {
        log.lines()
            .filter(|line| line.contains("refused a message"))
            .count()
    };
    for number in 0..100 {
        target
            .stranger
            .send(format!("garbage {number}").into_bytes())
            .await;
    }
    assert_eq!(target.stranger.answers(&did).await, []);
    assert_eq!(target.coordinator.refused("malformed").await, 100);
    assert_eq!(refusals(&target.coordinator.log()), 1);
    // Another kind is another line.
    let plaintext = target.content().to_string().into_bytes();
    for _ in 0..10 {
        target.stranger.send(plaintext.clone()).await;
    }
    assert_eq!(target.stranger.answers(&did).await, []);
    assert_eq!(target.coordinator.refused("plaintext").await, 10);
    assert_eq!(refusals(&target.coordinator.log()), 2);
    assert_eq!(target.coordinator.event_count().await, 0);
}
