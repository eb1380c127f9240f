//! Peers that are real, at the wrong time or in the wrong place: strangers, members out of turn, echoes of the past.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use beacon_cohort::message::{
    CohortAck, Leaf, Message, NoUpdate, NonceContribution, OptIn, SignatureAuthorization,
};
use beacon_cohort::values::{AckHash, CohortKey, StatementSignature, TermsHash};
use beacon_didcomm::protocols::{EMPTY, PROBLEM_REPORT, ProblemReport, ping};
use beacon_didcomm::{Endpoint, Plaintext};
use beacon_signal::{Index, LeafValue};
use beacon_tests::harness::Member::{Asks, Listens, Signs};
use beacon_tests::harness::{
    Agent, Cohort, Net, Regtest, Scratch, Stranger, coordinator, free_port, message, now,
};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// The generator of secp256k1: a valid key, and half of a valid public nonce.
const POINT: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn packed(stranger: &Stranger, to: &Agent, body: &Message) -> Vec<u8> {
    stranger.pack(to.did(), message(body.kind(), body.body().unwrap()))
}

/// Sends a message that must be refused with this code, and change nothing.
async fn refused(stranger: &mut Stranger, agent: &Agent, frame: Vec<u8>, code: &str) {
    let (events, counted) = (agent.event_count().await, agent.refused(code).await);
    stranger.send(frame).await;
    let answers = stranger.answers(agent.did()).await;
    let codes: Vec<_> = answers
        .iter()
        .filter(|(_, message)| message.kind == PROBLEM_REPORT)
        .map(|(_, message)| ProblemReport::parse(message).unwrap().code)
        .collect();
    assert_eq!(codes, [code]);
    assert_eq!(agent.refused(code).await, counted + 1, "{code}");
    assert_eq!(agent.event_count().await, events, "{code}");
}

fn opt_in(cohort: &Cohort) -> Message {
    let signature = StatementSignature::from_bytes(&[1; 64]).unwrap();
    let body = OptIn {
        cohort_id: cohort.id.parse().unwrap(),
        participant_pk: POINT.parse::<CohortKey>().unwrap(),
        terms_hash: TermsHash([0; 32]),
        proof_of_possession: signature,
        indexes: vec![Index([0; 32])],
    };
    body.into()
}

#[tokio::test]
async fn a_set_cohort_is_closed_to_strangers_and_lives_on() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    let mut stranger = Stranger::connect(&net.coordinator.url()).await;
    let cohort_id = cohort.id.parse().unwrap();
    let ack_hash = AckHash([0; 32]);
    let leaf = Leaf::blinded(Index([0; 32]), LeafValue([0; 32]));
    let leaves = vec![leaf];
    let cases: [(&str, Message); 3] = [
        ("e.m.cohort-set", opt_in(&cohort)),
        (
            "e.m.not-a-member",
            CohortAck {
                cohort_id,
                ack_hash,
            }
            .into(),
        ),
        (
            "e.m.not-a-member",
            NoUpdate {
                cohort_id,
                round: 1,
                leaves,
            }
            .into(),
        ),
    ];
    for (code, body) in cases {
        let frame = packed(&stranger, &net.coordinator, &body);
        refused(&mut stranger, &net.coordinator, frame, code).await;
    }
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
}

/// A member's own keys, in the wrong hands or in a program with a mistake.
#[tokio::test]
async fn a_member_out_of_turn_changes_nothing() {
    let mut net = Net::start(&[Asks, Asks]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let started = net.coordinator.wait("session_started", |_| true).await;
    let session = started.value["session"].as_str().unwrap().to_owned();
    for member in &mut net.members {
        member.wait("signal_proposed", |_| true).await;
    }
    assert_eq!(net.members[1].terminate().await, 0);

    let secrets = net.members[1].seed().identity_secrets(0);
    let url = net.coordinator.url();
    let mut member =
        Stranger::connect_as(&url, &secrets.ed25519, &secrets.x25519, Endpoint::Queue).await;
    assert_eq!(member.did().as_str(), net.members[1].did());
    let (cohort_id, session_id) = (cohort.id.parse().unwrap(), session.parse().unwrap());
    let signature = StatementSignature::from_bytes(&[1; 64]).unwrap();
    let partial = "04".repeat(32).parse().unwrap();
    let nonce = format!("{POINT}{POINT}").parse().unwrap();
    let partials = |session_id| SignatureAuthorization {
        session_id,
        cohort_id,
        partial_signature: partial,
        partial_signatures: vec![partial],
        signature,
    };
    let nonces = |nonces: usize| NonceContribution {
        session_id,
        cohort_id,
        nonce_contribution: nonce,
        nonce_contributions: vec![nonce; nonces],
        signature,
    };
    let ack_hash = AckHash([0; 32]);
    let cases: [(&str, Message); 5] = [
        ("e.m.phase", partials(session_id).into()),
        (
            "e.m.unknown-session",
            partials(Uuid::new_v4().to_string().parse().unwrap()).into(),
        ),
        ("e.m.contribution-count", nonces(2).into()),
        ("e.m.signature", nonces(1).into()),
        (
            "e.m.ack-mismatch",
            CohortAck {
                cohort_id,
                ack_hash,
            }
            .into(),
        ),
    ];
    for (code, body) in cases {
        let frame = packed(&member, &net.coordinator, &body);
        refused(&mut member, &net.coordinator, frame, code).await;
    }
    drop(member);

    // What it was asked before its end it declines, since its disk might be an old copy. The coordinator tries again.
    net.members[1].restart().await;
    let again = |event: &Value| event["session"] != *session;
    let again = net.coordinator.wait("session_started", again).await;
    let session = again.value["session"].as_str().unwrap();
    for member in &mut net.members {
        let proposed = |event: &Value| event["session"] == *session;
        member.wait("signal_proposed", proposed).await;
        member.answer(&["approve", session]).await;
    }
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
}

/// Frames other than answers to pings, without copies that were sent while no receipt had come.
fn distinct(answers: Vec<(Vec<u8>, Plaintext)>) -> Vec<(Vec<u8>, Plaintext)> {
    let mut distinct = answers;
    distinct.dedup_by(|one, other| one.0 == other.0);
    distinct
}

async fn acknowledge(stranger: &mut Stranger, agent: &Agent, id: &str) {
    let receipt = Plaintext::new(Uuid::new_v4(), EMPTY, now()).with_ack(id);
    stranger.send(stranger.pack(agent.did(), receipt)).await;
}

#[tokio::test]
async fn a_replayed_message_is_answered_to_its_sender_and_steals_nothing() {
    let mut net = Net::start(&[]).await;
    let (url, did) = (net.coordinator.url(), net.coordinator.did().to_owned());
    let mut victim = Stranger::connect(&url).await;
    let subscribe = victim.pack(&did, message("keygen/subscribe", json!({})));
    victim.send(subscribe.clone()).await;
    let (accept, opened) = victim.receive().await.unwrap();
    assert!(
        opened.kind.ends_with("keygen/subscribe_accept"),
        "{}",
        opened.kind
    );
    acknowledge(&mut victim, &net.coordinator, &opened.id).await;
    assert!(distinct(victim.answers(&did).await).len() <= 1);
    assert_eq!(net.coordinator.event_count().await, 1);

    // Its own copy: the same bytes of answer, and no second event.
    victim.send(subscribe.clone()).await;
    let again = distinct(victim.answers(&did).await);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].0, accept);
    assert_eq!(net.coordinator.refused("repeated").await, 1);

    // Somebody else's copy: the answer goes to the victim, and so does all that follows.
    let mut thief = Stranger::connect(&url).await;
    thief.send(subscribe.clone()).await;
    assert_eq!(thief.answers(&did).await, []);
    let to_victim = distinct(victim.answers(&did).await);
    assert_eq!(to_victim.len(), 1);
    assert_eq!(to_victim[0].0, accept);
    assert_eq!(net.coordinator.refused("repeated").await, 2);
    // A ping leaves nothing on disk; its copy must not move the victim's route either.
    let ping = victim.pack(&did, ping(Uuid::new_v4(), now()));
    victim.send(ping.clone()).await;
    assert!(!victim.answers(&did).await.is_empty());
    thief.send(ping).await;
    // Answered, as every ping is, but the thief cannot read it.
    thief.receive_frame().await.unwrap();
    net.advertise(2, json!({})).await;
    let (_, advert) = victim.receive().await.unwrap();
    assert!(
        advert.kind.ends_with("keygen/cohort_advert"),
        "{}",
        advert.kind
    );
    assert_eq!(thief.answers(&did).await, []);
    acknowledge(&mut victim, &net.coordinator, &advert.id).await;
    assert!(distinct(victim.answers(&did).await).len() <= 1);

    // Across a restart as well.
    net.coordinator.kill();
    net.coordinator.restart().await;
    victim.reconnect(&url).await;
    assert_eq!(distinct(victim.answers(&did).await).len(), 0);
    let mut thief = Stranger::connect(&url).await;
    thief.send(subscribe).await;
    assert_eq!(thief.answers(&did).await, []);
    let to_victim = distinct(victim.answers(&did).await);
    assert_eq!(to_victim.len(), 1);
    assert_eq!(to_victim[0].0, accept);
    assert_eq!(net.coordinator.refused("repeated").await, 1);
    // Subscribed, advertised.
    assert_eq!(net.coordinator.event_count().await, 2);
}

#[tokio::test]
async fn a_subscriber_that_listens_is_dialled() {
    let net = Net::start(&[]).await;
    let did = net.coordinator.did().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("ws://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let mut subscriber = Stranger::connect_from(&net.coordinator.url(), endpoint).await;
    let subscribe = subscriber.pack(&did, message("keygen/subscribe", json!({})));
    subscriber.send(subscribe).await;
    let (_, accept) = subscriber.receive().await.unwrap();
    acknowledge(&mut subscriber, &net.coordinator, &accept.id).await;
    subscriber.answers(&did).await;
    subscriber.close().await;
    let cohort = net.advertise(2, json!({})).await;
    subscriber.accept(&listener).await;
    let advert = loop {
        let (_, message) = subscriber.receive().await.unwrap();
        if message.kind.ends_with("keygen/cohort_advert") {
            break message;
        }
    };
    assert_eq!(advert.body["cohort_id"], cohort);
    assert_eq!(advert.to, std::slice::from_ref(subscriber.did()));
}

/// The coordinator's public address leads through a proxy, which goes away: from then on the member can be dialled and
/// cannot dial.
#[tokio::test]
async fn a_participant_that_listens_is_dialled() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let proxy = TcpListener::bind(("127.0.0.1", free_port())).await.unwrap();
    let public = format!("ws://{}", proxy.local_addr().unwrap());
    let options = ["--public-url", &public];
    let coordinator = coordinator(scratch.path(), &chain, &options).await;
    let inside = coordinator.url().replace("ws://", "");
    let proxy = tokio::spawn(async move {
        let (mut outer, _) = proxy.accept().await.unwrap();
        let mut inner = TcpStream::connect(inside).await.unwrap();
        copy_bidirectional(&mut outer, &mut inner).await
    });
    let mut net = Net {
        members: Vec::new(),
        coordinator,
        chain,
        scratch,
    };
    net.add(Listens).await;
    proxy.abort();
    assert!(proxy.await.unwrap_err().is_cancelled());

    let terms = json!({ "max_members": 1 });
    let mut cohort = net.form(&[0], terms).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
    let dialled = |line: &str| line.contains("connected") && !line.contains("cannot");
    assert!(net.coordinator.log().lines().any(dialled));
}

#[tokio::test]
async fn a_participant_that_listens_answers_strangers_and_obeys_none() {
    let mut net = Net::start(&[Listens, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    let member = &net.members[0];
    let mut stranger = Stranger::connect(&member.url()).await;
    assert_eq!(
        stranger.answers(member.did()).await,
        [],
        "a ping is answered"
    );
    let advert = message("keygen/cohort_advert", Value::Null);
    let set = message(
        "keygen/cohort_set",
        json!({
            "cohort_id": cohort.id, "beacon_address": cohort.address, "cohort_keys": [POINT],
            "terms_hash": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        }),
    );
    let accept = message("keygen/subscribe_accept", json!({}));
    for (code, message) in [
        ("e.m.malformed", advert.with_body(json!({}))),
        ("e.m.not-subscribed", set),
        ("e.m.not-subscribed", accept),
    ] {
        let frame = stranger.pack(member.did(), message);
        refused(&mut stranger, member, frame, code).await;
    }
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
}
