//! Chain sources that lie: a member signs nothing that its own source does not bear out, and what the coordinator believes of
//! a lying source is refused by those who ask another one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Binary, Cohort, Liar, Net, Regtest, Scratch, free_port};
use bitcoin::blockdata::constants::genesis_block;
use serde_json::{Value, json};

/// A cohort of an honest member and one whose chain source is the liar.
async fn deceived() -> (Net, Liar, Cohort) {
    let mut net = Net::start(&[Signs]).await;
    let liar = Liar::before(net.chain.url());
    let options = [
        "--chain-url",
        liar.url(),
        "--chain-poll-ms",
        "100",
        "--auto-sign",
    ];
    let options = options.map(str::to_owned).to_vec();
    let folder = net.scratch.path();
    let mut member = Agent::start("member1", Binary::Participant, folder, options).await;
    let params = json!({ "coordinator": net.coordinator.did() });
    member.call("subscribe", params).await;
    member.wait("subscription_accepted", |_| true).await;
    net.members.push(member);
    // Whoever is deceived waits for what it does not see until its deadline, and says then why it does not sign.
    let terms = json!({ "flow": "push", "response_deadline_s": 2, "max_strikes": 100 });
    let mut cohort = net.form(&[0, 1], terms).await;
    net.fund(&cohort).await;
    // The truth is signed: what follows is the lies' doing.
    net.request_update(&cohort, 0).await;
    net.confirmed(&mut cohort).await;
    (net, liar, cohort)
}

type Lie = fn(&str, Vec<u8>) -> Option<Vec<u8>>;

/// What ends a session whose money a member does not see: its own deadline, or the coordinator's.
const UNSEEN: &[&str] = &["chain-unseen", "timeout"];

/// Waits until the deceived member has ended a session for one of these reasons, and sees that it has signed nothing since
/// `from`.
async fn declines(member: &mut Agent, from: u64, codes: &[&str]) {
    let fits = |event: &Value| codes.iter().any(|code| event["code"] == *code);
    member.wait_after(from, "session_ended", fits).await;
    let events = member.events().await;
    let since = events.iter().filter(|event| event.seq > from);
    let signed = ["partial_authorized", "partial_released"];
    let signed: Vec<_> = since
        .filter(|event| signed.iter().any(|kind| event.value["event"] == *kind))
        .collect();
    assert!(signed.is_empty(), "{codes:?}: {signed:?}");
}

/// The member's own source says of the money that is to be spent …
#[tokio::test]
async fn a_member_signs_nothing_that_its_source_does_not_bear_out() {
    let (mut net, liar, mut cohort) = deceived().await;
    let lies: [Lie; 4] = [
        // … that it does not know it,
        |path, body| (!path.ends_with("/raw")).then_some(body),
        // … another transaction than the one that was asked for, with more money or another script,
        |path, mut body| {
            let byte = body.get_mut(60).filter(|_| path.ends_with("/raw"));
            if let Some(byte) = byte {
                *byte ^= 1;
            }
            Some(body)
        },
        // … that it is in no block,
        |path, body| {
            let unconfirmed = json!({ "confirmed": false }).to_string().into_bytes();
            Some(if path.ends_with("/status") {
                unconfirmed
            } else {
                body
            })
        },
        // … or nothing that can be read.
        |_, _| Some(b"\x00babble".to_vec()),
    ];
    for lie in lies {
        let from = last_of(&net.members[1]).await;
        liar.lies(lie);
        net.request_update(&cohort, 0).await;
        declines(&mut net.members[1], from, UNSEEN).await;
        // As soon as it hears the truth it signs, and everything goes on.
        liar.tells_the_truth();
        net.confirmed(&mut cohort).await;
    }
}

/// Without the member's own signature nobody can spend the money: if somebody has, the member's state is an old one.
#[tokio::test]
async fn a_spend_that_never_was_stops_a_member_until_its_user_knows_better() {
    let (mut net, liar, mut cohort) = deceived().await;
    let from = last_of(&net.members[1]).await;
    let spend = json!({
        "spent": true, "txid": "ab".repeat(32), "vin": 0, "status": { "confirmed": false },
    });
    liar.lies(move |path, body| {
        Some(if path.contains("/outspend/") {
            spend.to_string().into_bytes()
        } else {
            body
        })
    });
    net.request_update(&cohort, 0).await;
    declines(&mut net.members[1], from, &["rolled-back"]).await;
    liar.tells_the_truth();
    let member = &net.members[1];
    let confirmed = member.command(&["rollback", "confirm", &cohort.id]).await;
    assert_eq!(confirmed.code, 0, "{confirmed:?}");
    net.confirmed(&mut cohort).await;
}

/// The number of an agent's last event.
async fn last_of(agent: &Agent) -> u64 {
    agent.events().await.last().unwrap().seq
}

/// A tip far in the past is no reason to sign, nor to take anything for buried.
#[tokio::test]
async fn a_tip_in_the_past_buries_nothing() {
    let (mut net, liar, mut cohort) = deceived().await;
    let genesis = genesis_block(bitcoin::Network::Regtest).block_hash();
    liar.lies(move |path, body| {
        Some(match path {
            "/blocks/tip/hash" => genesis.to_string().into_bytes(),
            "/blocks/tip/height" => b"0".to_vec(),
            _ => body,
        })
    });
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    for _ in 0..6 {
        net.chain.mine();
    }
    let fits = |event: &Value| event["txid"] == signal.txid.to_string();
    net.members[0].wait("signal_buried", fits).await;
    let buried = |events: &[beacon_tests::harness::Event]| {
        let mut events = events.iter();
        events.any(|event| event.value["event"] == "signal_buried" && fits(&event.value))
    };
    assert!(!buried(&net.members[1].events().await));
    liar.tells_the_truth();
    net.members[1].wait("signal_buried", fits).await;
}

/// Members and a coordinator whose chain source is the liar, which lies like this from the start.
async fn misled(lie: Lie) -> (Net, Liar) {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let liar = Liar::before(chain.url());
    liar.lies(lie);
    let listen = format!("127.0.0.1:{}", free_port());
    let options = [
        "--chain-url",
        liar.url(),
        "--chain-poll-ms",
        "100",
        "--listen",
        &listen,
    ];
    let options = options.map(str::to_owned).to_vec();
    let coordinator = Agent::start("coordinator", Binary::Coordinator, scratch.path(), options);
    let mut net = Net {
        coordinator: coordinator.await,
        members: Vec::new(),
        chain,
        scratch,
    };
    for _ in 0..2 {
        net.add(Signs).await;
    }
    (net, liar)
}

/// A signal costs no more than the terms allow, whatever the source says that the network asks for.
#[tokio::test]
async fn an_absurd_fee_estimate_costs_no_more_than_the_terms_allow() {
    let (mut net, _liar) = misled(|path, body| {
        let absurd = json!({ "1": 99_999.0, "6": 99_999.0 });
        Some(if path == "/fee-estimates" {
            absurd.to_string().into_bytes()
        } else {
            body
        })
    })
    .await;
    let estimated = |event: &Value| event["sat_vb"] == 99_999;
    net.coordinator.wait("fee_estimated", estimated).await;
    let terms = json!({ "max_fee_rate_sat_vb": 20 });
    let mut cohort = net.form(&[0, 1], terms).await;
    net.fund(&cohort).await;
    let params = json!({ "cohort_id": cohort.id });
    let shown = net.coordinator.call("cohort.show", params).await;
    let warning = shown["fee_warning"].as_str().unwrap();
    assert!(
        warning.contains("99999 sat/vB") && warning.contains("20"),
        "{warning}"
    );
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    let fee = 50_000 - signal.transaction.output[0].value.to_sat();
    assert_eq!(fee, 20 * u64::try_from(signal.transaction.vsize()).unwrap());
}

/// The coordinator believes its source, and builds what members with other sources decline.
#[tokio::test]
async fn what_a_coordinator_believes_is_not_signed_for_it() {
    let (mut net, liar) = misled(|_, body| Some(body)).await;
    let terms = json!({ "flow": "push", "response_deadline_s": 2, "max_strikes": 100 });
    let mut cohort = net.form(&[0, 1], terms).await;
    // Money that nobody paid.
    let invented = "cd".repeat(32);
    liar.lies(move |path, body| altered(path, body, "txid", &json!(invented)));
    net.chain.fund(&cohort.address, 50_000);
    let fits = |event: &Value| event["funds"].to_string().contains("cdcdcdcd");
    net.coordinator.wait("funds_seen", fits).await;
    net.request_update(&cohort, 0).await;
    abandoned(&mut net, UNSEEN).await;

    // More money than there is. The operator is asked, whose source is right again.
    liar.lies(|path, body| altered(path, body, "value", &json!(90_000)));
    abandoned(&mut net, &["chain-amount"]).await;
    liar.tells_the_truth();
    let fits = |event: &Value| {
        let found = &event["funds"][0];
        found["value"] == 50_000 && !found["outpoint"].as_str().unwrap().starts_with("cdcd")
    };
    net.coordinator.wait("funds_seen", fits).await;
    let params = json!({ "cohort_id": cohort.id });
    net.coordinator.call("session.start", params).await;
    let signal = net.confirmed(&mut cohort).await;
    // Nothing else was ever signed.
    for agent in &net.members {
        let events = agent.events().await;
        let signed = events
            .iter()
            .filter(|event| event.value["event"] == "partial_authorized");
        let signed: Vec<_> = signed.map(|event| &event.value["txid"]).collect();
        assert_eq!(signed, [&json!(signal.txid.to_string())]);
    }
}

/// The list of an address' outputs with this member of each changed; other answers as they are.
fn altered(path: &str, body: Vec<u8>, member: &str, value: &Value) -> Option<Vec<u8>> {
    if !path.ends_with("/utxo") {
        return Some(body);
    }
    let mut listed: Value = serde_json::from_slice(&body).ok()?;
    for output in listed.as_array_mut().into_iter().flatten() {
        output[member] = value.clone();
    }
    Some(listed.to_string().into_bytes())
}

async fn abandoned(net: &mut Net, codes: &[&str]) {
    let fits = |event: &Value| codes.iter().any(|code| event["code"] == *code);
    net.coordinator.wait("session_abandoned", fits).await;
}
