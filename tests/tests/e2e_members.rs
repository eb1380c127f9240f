//! Members that vanish, and agents that run out of what the system gives them.

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{
    Agent, Binary, Net, Regtest, Scratch, Stranger, chain_options, free_port,
};
use serde_json::json;
use tokio::net::TcpStream;

/// Whoever is not there when it counts is out after the terms' number of strikes; the others go on at a new address, and
/// what the old one holds stays in sight.
#[tokio::test]
async fn a_member_that_vanishes_is_out_and_the_others_publish_without_it() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let terms = json!({ "response_deadline_s": 4, "max_strikes": 1 });
    let cohort = net.form(&[0, 1, 2], terms).await;
    net.fund(&cohort).await;
    let gone = net.members[2].did().to_owned();
    net.members[2].kill();
    net.request_update(&cohort, 0).await;
    let dissolved = net
        .coordinator
        .wait("cohort_dissolved", |event| cohort.has(event))
        .await;
    assert_eq!(dissolved.value["without"], json!([gone]));
    let log = net.coordinator.events().await;
    let struck = log.iter().map(|event| &event.value);
    let struck: Vec<_> = struck.filter(|event| event["event"] == "struck").collect();
    assert_eq!(struck.len(), 1, "{struck:?}");
    assert!(
        struck.iter().all(|event| event["peer"] == gone),
        "{struck:?}"
    );

    let advert = net
        .coordinator
        .wait("cohort_advertised", |event| event["succeeds"] == cohort.id)
        .await;
    assert_eq!(advert.value["invited"].as_array().unwrap().len(), 2);
    let id = advert.value["cohort"].as_str().unwrap().to_owned();
    for member in [0, 1] {
        net.join(&id, member).await;
    }
    let mut successor = net.acknowledged(id, &[0, 1]).await;
    assert_ne!(successor.address, cohort.address);
    net.fund(&successor).await;
    net.request_update(&successor, 1).await;
    let signal = net.confirmed(&mut successor).await;
    net.verify(&successor, &signal).await;

    let show = ["cohort", "show", &cohort.id];
    let shown = net.coordinator.answer(&show).await;
    assert_eq!(shown["phase"], "dissolved", "{shown}");
    assert_eq!(shown["balance_sat"], 50_000, "{shown}");
    assert_eq!(shown["successor"], *successor.id, "{shown}");
    // Back again, it is told that the cohort is over.
    net.members[2].restart().await;
    net.members[2]
        .wait("cohort_dissolved", |event| cohort.has(event))
        .await;
}

/// Sockets cost descriptors, and the system gives few: who takes them all stops nobody who comes after.
#[tokio::test]
async fn agents_that_run_out_of_file_descriptors_live_on() {
    const OPEN_FILES: u32 = 48;
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let start = async |name: &str, binary, options: &[&str]| {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut all = chain_options(&chain);
        all.extend(["--listen".to_owned(), listen]);
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let agent = Agent::new(name, binary, scratch.path(), all);
        let mut agent = agent.with_open_files(OPEN_FILES);
        agent.restart().await;
        agent
    };
    let coordinator = start("coordinator", Binary::Coordinator, &[]).await;
    let mut members = Vec::new();
    for name in ["one", "other"] {
        members.push(start(name, Binary::Participant, &["--auto-sign"]).await);
    }
    let mut net = Net {
        members,
        coordinator,
        chain,
        scratch,
    };
    let mut sockets = Vec::new();
    for agent in net.members.iter().chain([&net.coordinator]) {
        let address = agent.url().replace("ws://", "");
        for _ in 0..2 * OPEN_FILES {
            // The kernel accepts them even where the agent cannot.
            sockets.push(TcpStream::connect(&address).await.unwrap());
        }
    }
    drop(sockets);
    let coordinator = net.coordinator.did().to_owned();
    for member in &mut net.members {
        let mut stranger = Stranger::connect(&member.url()).await;
        stranger.answers(member.did()).await;
        member
            .call("subscribe", json!({ "coordinator": coordinator }))
            .await;
        member.wait("subscription_accepted", |_| true).await;
    }
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
    for agent in net.members.iter_mut().chain([&mut net.coordinator]) {
        assert!(agent.process_runs(), "{}", agent.name());
        assert!(!agent.log().contains("panicked"), "{}", agent.name());
    }
}
