//! The command line of running agents, as users type it.

use std::fs;

use beacon_tests::harness::Member::{Asks, Signs};
use beacon_tests::harness::Net;
use serde_json::{Value, json};

/// All of a cohort's life by commands alone, as a user types them.
#[tokio::test]
async fn a_cohorts_life_by_commands() {
    let mut net = Net::start(&[Signs, Asks]).await;
    let subscribers = net.coordinator.answer(&["subscribers"]).await;
    assert_eq!(subscribers.as_array().unwrap().len(), 2);
    let advertise = [
        "cohort",
        "advertise",
        "--min-members",
        "2",
        "--max-members",
        "3",
        "--flow",
        "push",
        "--term",
        "confirmations=1",
    ];
    let advert = net.coordinator.answer(&advertise).await;
    let id = advert["cohort_id"].as_str().unwrap().to_owned();
    assert_eq!(advert["terms"]["confirmations"], 1);
    for member in &mut net.members {
        member.wait("cohort_advertised", |_| true).await;
        let cohorts = member.answer(&["cohorts"]).await;
        assert_eq!(cohorts[0]["stage"], "advertised");
        let did = format!("did:btcr2:{}-{id}", member.name());
        member.answer(&["join", &id, "--did", &did]).await;
    }
    for member in &net.members {
        let did = member.did();
        net.coordinator
            .wait("opted_in", |event| event["peer"] == did)
            .await;
    }
    // There is room for a third member, but the operator closes.
    net.coordinator
        .answer(&["cohort", "close-admission", &id])
        .await;
    let mut cohort = net.acknowledged(id, &[0, 1]).await;
    let listed = net.coordinator.answer(&["cohort", "list"]).await;
    assert_eq!(listed[0]["phase"], "acknowledged");
    net.fund(&cohort).await;
    let shown = net
        .coordinator
        .answer(&["cohort", "show", &cohort.id])
        .await;
    assert_eq!(shown["beacon_address"], cohort.address);
    assert_eq!(shown["balance_sat"], 50_000);
    assert!(
        shown["at_risk"].as_str().unwrap().contains("2 of 2"),
        "{shown}"
    );
    let hash = "ab".repeat(32);
    net.members[0]
        .answer(&["request-update", &cohort.id, "--update-hash", &hash])
        .await;
    let proposed = net.members[1].wait("signal_proposed", |_| true).await;
    let session = proposed.value["session"].as_str().unwrap().to_owned();
    let sessions = net.members[1].answer(&["sessions"]).await;
    assert_eq!(sessions[0]["status"], "waiting-for-approval");
    net.members[1].answer(&["approve", &session]).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;
    let txid = signal.txid.to_string();
    let matching = format!("txid={txid}");
    let follow = [
        "events",
        "--until",
        "signal_confirmed",
        "--where",
        &matching,
    ];
    let output = net.members[1].command(&follow).await;
    assert_eq!(output.code, 0, "{output:?}");
    let last: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"]["txid"], txid);
    let listed = net.coordinator.answer(&["session", "list"]).await;
    assert_eq!(listed[0]["txid"], txid);
    assert_eq!(listed[0]["signal_bytes"], signal.root);
    refused_commands(&net, &cohort.id).await;
}

/// What the agents cannot do is one line and exit code 1.
async fn refused_commands(net: &Net, cohort: &str) {
    let none = "00000000-0000-4000-8000-000000000000";
    let (coordinator, member) = (&net.coordinator, &net.members[0]);
    let cases: [(_, &[&str], &str); 7] = [
        (coordinator, &["cohort", "show", none], "unknown cohort"),
        (coordinator, &["cohort", "show", "x"], "invalid params"),
        (
            coordinator,
            &["cohort", "close-admission", cohort],
            "one that is",
        ),
        (
            coordinator,
            &["cohort", "advertise", "--term", "confirmations=0"],
            "confirmations: got 0",
        ),
        (member, &["leave", cohort], "expected"),
        (member, &["approve", none], "one that is under way"),
        (
            member,
            &["request-update", cohort, "--update-hash", "abc"],
            "expected 64",
        ),
    ];
    for (agent, arguments, words) in cases {
        let output = agent.command(arguments).await;
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (1, ""),
            "{arguments:?}: {output:?}"
        );
        assert_eq!(
            output.stderr.lines().count(),
            1,
            "{arguments:?}: {output:?}"
        );
        assert!(output.stderr.contains(words), "{arguments:?}: {output:?}");
    }
}

#[tokio::test]
async fn didcomm_by_hand() {
    let net = Net::start(&[Signs, Signs]).await;
    let [one, other] = net.members.as_slice() else {
        panic!("two members were started");
    };
    let pack = [
        "didcomm",
        "pack",
        "--to",
        other.did(),
        "--body",
        "{\"content\":\"hello\"}",
    ];
    let packed = one.answer(&pack).await;
    let file = net.scratch.path().join("envelope").display().to_string();
    fs::write(&file, packed["envelope"].as_str().unwrap()).unwrap();
    let opened = other.answer(&["didcomm", "unpack", &file]).await;
    assert_eq!(opened["sender"], one.did());
    assert_eq!(opened["recipient"], other.did());
    assert_eq!(opened["message"]["body"], json!({ "content": "hello" }));
    // Not for its sender.
    let output = one.command(&["didcomm", "unpack", &file]).await;
    assert_eq!(output.code, 1, "{output:?}");
    // The coordinator answers a ping on the same socket.
    let ping = "https://didcomm.org/trust-ping/2.0/ping";
    let send = [
        "didcomm",
        "send",
        "--to",
        net.coordinator.did(),
        "--type",
        ping,
    ];
    let answer = one.answer(&send).await;
    assert_eq!(answer["sender"], net.coordinator.did());
    assert_eq!(
        answer["message"]["type"],
        "https://didcomm.org/trust-ping/2.0/ping-response"
    );
    let output = one.command(&["didcomm", "send", "--to", other.did()]).await;
    assert_eq!(
        output.code, 1,
        "a participant that does not listen cannot be dialled: {output:?}"
    );
}
