//! Answers of the standard protocols, over real envelopes.

use serde_json::json;

use super::*;
use crate::protocols::*;

/// What Bob gets when Alice sends this.
fn received(message: &Plaintext) -> Verified {
    bob_unpacks(
        pack(&alice(), bob().did(), message, &Resolver::default())
            .unwrap()
            .frame(),
    )
    .unwrap()
}

const ID: Uuid = Uuid::from_u128(7);

#[test]
fn pings_are_answered_unless_no_answer_is_wanted() {
    let question = ping(Uuid::from_u128(1), NOW);
    let answer = answer_ping(&received(&question), ID, NOW).unwrap();
    assert_eq!(
        (answer.kind.as_str(), answer.thid.as_deref()),
        (PING_RESPONSE, Some(question.id.as_str()))
    );
    let silent = Plaintext::new(ID, PING, NOW).with_body(json!({ "response_requested": false }));
    assert_eq!(answer_ping(&received(&silent), ID, NOW), None);
    let default = Plaintext::new(ID, PING, NOW);
    assert!(
        answer_ping(&received(&default), ID, NOW).is_some(),
        "an answer is wanted unless the ping says otherwise"
    );
    assert_eq!(
        answer_ping(&received(&answer), ID, NOW),
        None,
        "an answer is not answered"
    );
}

#[test]
fn queries_get_what_matches_and_the_receive_limit() {
    let disclosure = Disclosure::new(DEFAULT_MAX_BYTES)
        .with_protocol("https://btc1.tools/musig2/keygen", &["member"]);
    let ask = |queries| Plaintext::new(ID, QUERIES, NOW).with_body(json!({ "queries": queries }));
    let disclosed = |question: &Plaintext| {
        let answer = answer_queries(&received(question), &disclosure, ID, NOW).unwrap();
        assert_eq!(
            (answer.kind.as_str(), answer.thread()),
            (DISCLOSE, question.id.as_str())
        );
        answer.body["disclosures"].clone()
    };
    assert_eq!(
        disclosed(&ask(
            json!([{ "feature-type": "constraint", "match": "max_receive_bytes" }])
        )),
        json!([{ "feature-type": "constraint", "id": "max_receive_bytes", "max_receive_bytes": "1048576" }])
    );
    assert_eq!(
        disclosed(&ask(
            json!([{ "feature-type": "protocol", "match": "https://btc1.tools/*" }, "nonsense"])
        )),
        json!([{ "feature-type": "protocol", "id": "https://btc1.tools/musig2/keygen", "roles": ["member"] }])
    );
    assert_eq!(
        disclosed(&queries(&["protocol", "constraint"], ID, NOW))
            .as_array()
            .unwrap()
            .len(),
        7
    );
    assert_eq!(
        disclosed(&ask(json!([{ "feature-type": "goal-code", "match": "*" }]))),
        json!([])
    );
    assert_eq!(disclosed(&ask(json!("all of them"))), json!([]));
    assert_eq!(
        answer_queries(&received(&greeting()), &disclosure, ID, NOW),
        None
    );
}

#[test]
fn receipts_are_given_when_asked_for() {
    let mut message = greeting();
    assert_eq!(acknowledge(&received(&message), ID, NOW), None);
    message.please_ack = vec!["another".to_owned()];
    assert_eq!(acknowledge(&received(&message), ID, NOW), None);
    for asked in [String::new(), message.id.clone()] {
        message.please_ack = vec![asked];
        let receipt = acknowledge(&received(&message), ID, NOW).unwrap();
        assert_eq!(
            (receipt.kind.as_str(), &receipt.ack),
            (EMPTY, &vec![message.id.clone()])
        );
        assert_eq!(received(&receipt).message().ack, vec![message.id.clone()]);
    }
}

#[test]
fn a_refusal_of_a_proven_sender_can_be_reported() {
    let stale = greeting().with_thid("thread-9").expiring_at(NOW - 1000);
    let packed = pack(&alice(), bob().did(), &stale, &Resolver::default()).unwrap();
    let error = bob_unpacks(packed.frame()).unwrap_err();
    let report = ProblemReport::new("e.m.expired", "message has expired")
        .unwrap()
        .about(
            error.thread_id().unwrap(),
            error.message_id().unwrap(),
            ID,
            NOW,
        );
    assert_eq!(
        (report.pthid.as_deref(), &report.ack),
        (Some("thread-9"), &vec![stale.id.clone()])
    );
    let sent = pack(
        &bob(),
        error.proven_sender().unwrap(),
        &report,
        &Resolver::default(),
    )
    .unwrap();
    let back = unpack(
        sent.frame(),
        &alice(),
        &Resolver::default(),
        NOW,
        &UnpackLimits::default(),
    )
    .unwrap();
    assert_eq!(
        ProblemReport::parse(back.message()).unwrap().code,
        "e.m.expired"
    );
}
