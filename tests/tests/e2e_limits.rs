//! Limits that a user has set small, reached from outside in the real coordinator. None of them needs a chain.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use beacon_cohort::ids::PeerId;
use beacon_cohort::message::{Message, OptIn, Subscribe};
use beacon_cohort::statement::possession;
use beacon_cohort::values::{StatementSignature, TermsHash};
use beacon_didcomm::protocols::{PROBLEM_REPORT, ProblemReport, ping};
use beacon_didcomm::{Endpoint, Plaintext};
use beacon_runtime::control::{BUSY, CallError, INVALID_PARAMS, RpcError, call, follow};
use beacon_signal::Index;
use beacon_tests::harness::{Agent, Binary, Scratch, Stranger, free_port, message, now};
use secp256k1::{Keypair, schnorr};
use serde_json::{Value, json};
use uuid::Uuid;

/// A coordinator without a chain, with these options of `run`.
async fn coordinator(scratch: &Scratch, options: &[&str]) -> Agent {
    let listen = format!("127.0.0.1:{}", free_port());
    let chain = "http://127.0.0.1:9";
    let all = ["--chain-url", chain, "--listen", &listen];
    let all = all.iter().chain(options).map(|option| (*option).to_owned());
    Agent::start(
        "coordinator",
        Binary::Coordinator,
        scratch.path(),
        all.collect(),
    )
    .await
}

fn subscribe() -> Plaintext {
    let body = Message::from(Subscribe::default());
    message(body.kind(), body.body().unwrap())
}

/// Codes of the reports that a message gets.
async fn codes(stranger: &mut Stranger, agent: &Agent, plaintext: Plaintext) -> Vec<String> {
    let frame = stranger.pack(agent.did(), plaintext);
    stranger.send(frame).await;
    let answers = stranger.answers(agent.did()).await;
    let reports = answers
        .iter()
        .filter(|(_, answer)| answer.kind == PROBLEM_REPORT);
    reports
        .map(|(_, report)| ProblemReport::parse(report).unwrap().code)
        .collect()
}

/// What a call was refused with.
async fn refused(agent: &Agent, method: &str, params: Value) -> RpcError {
    match agent.try_call(method, params).await {
        Err(CallError::Rpc(error)) => error,
        other => panic!("got {other:?}, expected an error"),
    }
}

#[tokio::test]
async fn subscribers_cohorts_members_and_indexes_are_limited_by_the_configuration() {
    let scratch = Scratch::new();
    let options = [
        "--max-subscribers",
        "1",
        "--max-cohorts",
        "1",
        "--max-members",
        "3",
        "--max-indexes-per-member",
        "2",
    ];
    let coordinator = coordinator(&scratch, &options).await;
    let url = coordinator.url();
    let mut first = Stranger::connect(&url).await;
    let mut second = Stranger::connect(&url).await;
    assert!(
        codes(&mut first, &coordinator, subscribe())
            .await
            .is_empty()
    );
    assert_eq!(
        codes(&mut second, &coordinator, subscribe()).await,
        ["e.m.limit"]
    );
    assert!(
        codes(&mut first, &coordinator, subscribe())
            .await
            .is_empty(),
        "known already"
    );

    for (name, value) in [("max_members", 4), ("max_indexes_per_member", 3)] {
        let params = json!({ "terms": { name: value } });
        let error = refused(&coordinator, "cohort.advertise", params).await;
        assert_eq!(error.code, INVALID_PARAMS);
        let wanted = format!("{name} is {value}, expected at most {} as", value - 1);
        assert!(error.message.contains(&wanted), "{error}");
    }
    let terms = json!({ "terms": { "max_members": 3, "max_indexes_per_member": 2 } });
    let advert = coordinator.call("cohort.advertise", terms.clone()).await;
    let error = refused(&coordinator, "cohort.advertise", terms).await;
    assert_eq!(error.data.unwrap()["code"], "e.m.limit");

    let cohort_id = advert["cohort_id"].as_str().unwrap().parse().unwrap();
    let terms_hash = serde_json::from_value::<TermsHash>(advert["terms_hash"].clone()).unwrap();
    let pair = Keypair::from_secret_bytes([5; 32]).unwrap();
    let key = pair.public_key().into();
    let peer = PeerId::new(first.did().as_str());
    let said = possession(cohort_id, &peer, &key, &terms_hash);
    let proof = schnorr::sign_with_aux_rand(said.digest(), &pair, &[0; 32]).to_byte_array();
    let body = OptIn {
        cohort_id,
        participant_pk: key,
        terms_hash,
        proof_of_possession: StatementSignature::from_bytes(&proof).unwrap(),
        indexes: (0..3).map(|number| Index([number; 32])).collect(),
    };
    let body = Message::from(body);
    let opt_in = message(body.kind(), body.body().unwrap());
    assert_eq!(
        codes(&mut first, &coordinator, opt_in).await,
        ["e.m.index-count"]
    );
}

#[tokio::test]
async fn a_participant_has_so_many_coordinators_and_no_more() {
    let scratch = Scratch::new();
    let coordinator = coordinator(&scratch, &[]).await;
    let options = [
        "--chain-url",
        "http://127.0.0.1:9",
        "--max-coordinators",
        "1",
    ];
    let options = options.map(str::to_owned).to_vec();
    let participant = Agent::start("member", Binary::Participant, scratch.path(), options).await;
    let subscribe = |did: &str| json!({ "coordinator": did });
    participant
        .call("subscribe", subscribe(coordinator.did()))
        .await;
    let other = Stranger::connect(&coordinator.url()).await;
    let error = refused(&participant, "subscribe", subscribe(other.did().as_str())).await;
    assert_eq!(error.data.unwrap()["code"], "e.m.limit");
}

/// The attack: more messages than a stranger has business to send. The others have room, and nothing goes uncounted.
#[tokio::test]
async fn who_sends_too_fast_is_told_so_once_and_counted_each_time() {
    let scratch = Scratch::new();
    // Two at once from one address, and one each second.
    let options = ["--stranger-messages-per-s", "1", "--stranger-burst", "8"];
    let coordinator = coordinator(&scratch, &options).await;
    let mut stranger = Stranger::connect(&coordinator.url()).await;
    let mut frames = Vec::new();
    for _ in 0..50 {
        frames.push(stranger.pack(coordinator.did(), ping(Uuid::new_v4(), now())));
    }
    for frame in frames {
        stranger.send(frame).await;
    }
    let (mut answers, mut told) = (0, 0);
    while answers + told < 3 {
        let (_, answer) = stranger.receive().await.unwrap();
        if answer.kind == PROBLEM_REPORT {
            assert_eq!(
                ProblemReport::parse(&answer).unwrap().code,
                "e.m.rate-limited"
            );
            told += 1;
        } else {
            answers += 1;
        }
    }
    assert_eq!(told, 1);
    let counted = loop {
        let counted = coordinator.refused("e.m.rate-limited").await;
        // The rest is still on its way.
        if counted >= 20 {
            break counted;
        }
    };
    assert!(counted <= 48, "{counted}");
    let said = coordinator.log().matches("faster than its rate").count();
    assert_eq!(said, 1);
}

/// A program that opens a socket whenever the last one is silent, or one whose sockets die without a word.
#[tokio::test]
async fn the_newest_sockets_of_a_did_live_and_the_oldest_is_closed() {
    let scratch = Scratch::new();
    let coordinator = coordinator(&scratch, &["--max-connections-per-did", "2"]).await;
    let url = coordinator.url();
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = Stranger::connect_as(&url, &[3; 32], &[4; 32], Endpoint::Queue).await;
        assert!(socket.answers(coordinator.did()).await.is_empty());
        sockets.push(socket);
    }
    let [oldest, ..] = &mut sockets[..] else {
        unreachable!()
    };
    assert_eq!(oldest.receive_frame().await, Err(1000));
    assert_eq!(coordinator.refused("sockets-over-limit-per-did").await, 1);
    // What is sent to the peer comes on the socket that it showed itself on last.
    assert!(
        codes(&mut sockets[1], &coordinator, subscribe())
            .await
            .is_empty()
    );
    coordinator.call("cohort.advertise", json!({})).await;
    // The answer to the subscription, which nobody has acknowledged, may come again before it.
    while !sockets[1]
        .receive()
        .await
        .unwrap()
        .1
        .kind
        .ends_with("keygen/cohort_advert")
    {}
    assert!(
        sockets[2].answers(coordinator.did()).await.is_empty(),
        "not on this one"
    );
}

#[tokio::test]
async fn a_full_log_begins_nothing_new_and_says_so() {
    let scratch = Scratch::new();
    let options = ["--max-log-events", "3", "--log-warn-percent", "50"];
    let coordinator = coordinator(&scratch, &options).await;
    for _ in 0..2 {
        coordinator.call("cohort.advertise", json!({})).await;
    }
    assert!(coordinator.log().contains("the event log fills up"));
    let mut first = Stranger::connect(&coordinator.url()).await;
    assert!(
        codes(&mut first, &coordinator, subscribe())
            .await
            .is_empty()
    );
    assert_eq!(coordinator.event_count().await, 3);
    assert!(coordinator.log().contains("the event log is full"));
    let status = coordinator.call("status", Value::Null).await;
    assert_eq!(status["log"]["used_percent"], 100);
    let error = refused(&coordinator, "cohort.advertise", json!({})).await;
    assert!(error.message.contains("max_log_events (3)"), "{error}");
    assert_eq!(error.data.unwrap()["code"], "e.m.limit");
    let mut second = Stranger::connect(&coordinator.url()).await;
    assert_eq!(
        codes(&mut second, &coordinator, subscribe()).await,
        ["e.m.limit"]
    );
    // What ends something needs little room, and gets it.
    let unsubscribe = message("keygen/unsubscribe", json!({}));
    assert!(
        codes(&mut first, &coordinator, unsubscribe)
            .await
            .is_empty()
    );
    assert_eq!(coordinator.event_count().await, 4);
}

#[tokio::test]
async fn followers_and_the_past_that_they_get_are_limited() {
    let scratch = Scratch::new();
    let options = ["--control-followers", "1", "--events-backlog", "2"];
    let coordinator = coordinator(&scratch, &options).await;
    for _ in 0..3 {
        coordinator.call("cohort.advertise", json!({})).await;
    }
    let socket = coordinator.socket();
    let first = follow(&socket, "events", json!({})).await.unwrap();
    let past: Vec<_> = first.result["past"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["seq"].clone())
        .collect();
    assert_eq!(past, [2, 3]);
    let error = call(&socket, "events", json!({})).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Rpc(RpcError { code: BUSY, .. })),
        "{error}"
    );
    assert_eq!(coordinator.refused("follower-over-limit").await, 1);
    drop(first);
    // It notices the hang-up in its own time.
    while call(&socket, "events", json!({})).await.is_err() {}
}
