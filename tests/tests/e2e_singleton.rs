//! Updates that a DID's own singleton beacons announce, by the real commands, on the embedded chain; what comes of them, a
//! stranger resolves.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use beacon_tests::harness::dids::{adding, newest, write_json};
use beacon_tests::harness::{Agent, Binary, Member, Net, Output, Regtest, Scratch, chain_options};
use bitcoin::Txid;
use serde_json::{Value, json};

/// A chain, and a participant that nobody else knows.
struct Alone {
    agent: Agent,
    chain: Regtest,
    scratch: Scratch,
}

impl Alone {
    async fn start() -> Self {
        let scratch = Scratch::new();
        let chain = Regtest::start(scratch.path()).await;
        Self::start_on(scratch, chain).await
    }

    async fn start_on(scratch: Scratch, chain: Regtest) -> Self {
        let options = chain_options(&chain);
        let agent = Agent::start("alice", Binary::Participant, scratch.path(), options).await;
        Self {
            agent,
            chain,
            scratch,
        }
    }

    fn patch(&self, name: &str) -> String {
        patch(&self.scratch, name)
    }

    /// `did update` with these arguments besides.
    async fn update(&self, did: &str, name: &str, more: &[&str]) -> Output {
        let patch = self.patch(name);
        let command = [
            "did",
            "update",
            "--did",
            did,
            "--patch",
            &patch,
            "--min-conf",
            "1",
        ];
        self.agent.command(&[&command[..], more].concat()).await
    }

    async fn mined(&mut self, answer: &Value) {
        mined(&mut self.agent, &self.chain, answer).await;
    }

    /// What a stranger finds.
    async fn resolved(&self, did: &str) -> Value {
        newest(&self.chain, did, &self.agent.sidecar(did).await).await
    }
}

/// Mines a signal, which the agent then sees in its block.
async fn mined(agent: &mut Agent, chain: &Regtest, answer: &Value) {
    chain.mine();
    agent
        .wait("singleton_confirmed", |event| {
            event["txid"] == answer["txid"]
        })
        .await;
}

/// A patch that adds a service of this name, as a file.
fn patch(scratch: &Scratch, name: &str) -> String {
    write_json(&scratch.path().join(format!("{name}.json")), &adding(name))
}

fn answer(output: &Output) -> Value {
    assert_eq!(output.code, 0, "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

fn fails(output: &Output, code: i32, words: &str) {
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (code, ""),
        "{output:?}"
    );
    assert!(output.stderr.contains(words), "{words}: {output:?}");
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member]
        .as_str()
        .unwrap_or_else(|| panic!("no {member} in {value}"))
}

fn txid(answer: &Value) -> Txid {
    text(answer, "txid").parse().unwrap()
}

fn version(result: &Value) -> &str {
    text(&result["didDocumentMetadata"], "versionId")
}

/// The address of a beacon, by the end of its id.
fn address(made: &Value, beacon: &str) -> String {
    let beacons = made["beacons"].as_array().unwrap().iter();
    let mut fitting = beacons.filter(|known| text(known, "id").ends_with(beacon));
    let endpoint = text(fitting.next().unwrap(), "serviceEndpoint");
    endpoint.strip_prefix("bitcoin:").unwrap().to_owned()
}

#[tokio::test]
async fn each_kind_of_address_announces_and_the_last_update_deactivates() {
    each_kind_of_address(Alone::start().await).await;
}

/// Bitcoin Core takes and relays what the embedded chain takes.
#[tokio::test]
async fn each_kind_of_address_announces_through_a_node() {
    each_kind_of_address(Alone::start_on(Scratch::new(), Regtest::bitcoind()).await).await;
}

async fn each_kind_of_address(mut net: Alone) {
    let made = net.agent.answer(&["did", "create", "--new"]).await;
    let did = text(&made, "did").to_owned();
    // Nothing to spend: each beacon is named, with what to do.
    let broke = net.update(&did, "none", &[]).await;
    fails(&broke, 1, "has no confirmed output to spend");
    for beacon in ["#initialP2TR", "#initialP2WPKH", "#initialP2PKH"] {
        assert!(broke.stderr.contains(&address(&made, beacon)), "{broke:?}");
    }
    fails(
        &net.update(&did, "none", &["--beacon", "#other"]).await,
        2,
        "expected a singleton beacon",
    );
    let kinds = [
        ("#initialP2TR", 154),
        ("#initialP2WPKH", 153),
        ("#initialP2PKH", 235),
    ];
    for (number, (beacon, vsize)) in kinds.into_iter().enumerate() {
        let paid = net.chain.fund(&address(&made, beacon), 20_000);
        let more = ["--beacon", beacon, "--fee-rate", "3"];
        let told = answer(&net.update(&did, &format!("by-{number}"), &more).await);
        assert_eq!(
            (&told["status"], &told["version"]),
            (&json!("published"), &json!(number + 2)),
            "{told}"
        );
        let tx = net.chain.transaction(txid(&told));
        assert_eq!(tx.input[0].previous_output, paid);
        assert_eq!(tx.output[0].script_pubkey.to_hex_string(), {
            let change: bitcoin::Address<_> = address(&made, beacon).parse().unwrap();
            change.assume_checked().script_pubkey().to_hex_string()
        });
        let fee = told["fee_sat"].as_u64().unwrap();
        assert_eq!(fee, 20_000 - tx.output[0].value.to_sat());
        assert_eq!(fee, 3 * vsize, "priced by its own signature");
        assert!(u64::try_from(tx.vsize()).unwrap() <= vsize);
        net.mined(&told).await;
        let result = net.resolved(&did).await;
        assert_eq!(version(&result), (number + 2).to_string());
    }
    // What one signal left pays for the next: here the first that can pay.
    let deactivate = ["did", "deactivate", "--did", &did, "--min-conf", "1"];
    fails(&net.agent.command(&deactivate).await, 2, "--yes");
    let told = net
        .agent
        .answer(&[&deactivate[..], &["--yes"]].concat())
        .await;
    assert_eq!(told["beacon"], format!("{did}#initialP2TR"));
    net.mined(&told).await;
    let result = net.resolved(&did).await;
    assert_eq!(
        result["didDocumentMetadata"]["deactivated"], true,
        "{result}"
    );
    fails(&net.update(&did, "late", &[]).await, 1, "is deactivated");
}

/// What is on the disk is offered until it is in a block: by an agent that was killed as soon as it had signed, after a
/// reorganisation, and at a higher fee by the same command.
#[tokio::test]
async fn a_signal_survives_the_agent_and_a_reorganisation_and_can_be_replaced() {
    a_signal_lives_on(Alone::start().await).await;
}

#[tokio::test]
async fn a_signal_lives_on_in_a_node() {
    a_signal_lives_on(Alone::start_on(Scratch::new(), Regtest::bitcoind()).await).await;
}

async fn a_signal_lives_on(mut net: Alone) {
    let made = net.agent.answer(&["did", "create", "--new"]).await;
    let did = text(&made, "did").to_owned();
    let p2tr = address(&made, "#initialP2TR");
    net.chain.fund(&p2tr, 20_000);
    let told = answer(&net.update(&did, "first", &[]).await);
    net.agent.kill();
    net.agent.restart().await;
    // The same change again is the same update and costs nothing more; with another fee it replaces the first.
    let bumped = answer(&net.update(&did, "first", &["--fee-rate", "9"]).await);
    assert_eq!(bumped["update_id"], told["update_id"]);
    assert_ne!(bumped["txid"], told["txid"]);
    let shown = net.agent.answer(&["did", "show", &did]).await;
    let announced = shown["updates"][0]["announced"].as_array().unwrap();
    assert_eq!(announced.len(), 2, "{shown}");
    let before = net.chain.transaction(txid(&bumped));
    // Another update of the version must wait; a fee above the limit is never paid.
    fails(&net.update(&did, "rival", &[]).await, 1, "already");
    let dear = net.update(&did, "first", &["--fee-rate", "100"]).await;
    fails(&dear, 1, "expected at most 10000 sat");
    net.mined(&bumped).await;
    assert_eq!(version(&net.resolved(&did).await), "2");

    let seen = net.agent.seen_events().last().unwrap().seq;
    net.chain.reorganise();
    net.agent
        .wait_after(seen, "singleton_published", |event| {
            event["txid"] == bumped["txid"]
        })
        .await;
    assert_eq!(version(&net.resolved(&did).await), "1");
    net.chain.mine();
    net.agent
        .wait_after(seen, "singleton_confirmed", |event| {
            event["txid"] == bumped["txid"]
        })
        .await;
    assert_eq!(net.chain.transaction(txid(&bumped)), before);
    assert_eq!(version(&net.resolved(&did).await), "2");

    // Five blocks more, and the first is out of the race.
    for _ in 0..5 {
        net.chain.mine();
    }
    net.agent
        .wait("singleton_superseded", |event| {
            event["txid"] == told["txid"]
        })
        .await;
    net.agent
        .wait("singleton_buried", |event| event["txid"] == bumped["txid"])
        .await;
    assert_eq!(answer(&net.update(&did, "second", &[]).await)["version"], 3);
}

/// The way of a new identifier into a cohort: its own beacon announces that the cohort's is in the document, and the cohort
/// all that follows.
#[tokio::test]
async fn a_new_did_gets_the_cohorts_beacon_and_is_updated_through_it() {
    let mut net = Net::start(&[Member::Signs, Member::Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "confirmations": 1 })).await;
    let made = net.members[0].answer(&["did", "create", "--new"]).await;
    let did = text(&made, "did").to_owned();
    let add = [
        "did",
        "add-beacon",
        "--cohort",
        &cohort.id,
        "--did",
        &did,
        "--min-conf",
        "1",
    ];
    // One command: it waits until the cohort answers for the DID.
    net.coordinator.kill();
    let alone = [&add[..], &["--wait", "1"]].concat();
    let told = "after 1 s the coordinator has not registered the DID";
    fails(&net.members[0].command(&alone).await, 1, told);
    net.coordinator.restart().await;
    fails(
        &net.members[0].command(&add).await,
        1,
        "send it some 2000 sat",
    );
    net.chain.fund(&address(&made, "#initialP2TR"), 20_000);
    let told = net.members[0].answer(&add).await;
    assert_eq!(
        (&told["status"], &told["warning"]),
        (&json!("published"), &Value::Null),
        "{told}"
    );
    mined(&mut net.members[0], &net.chain, &told).await;
    let result = newest(&net.chain, &did, &net.members[0].sidecar(&did).await).await;
    let added = &result["didDocument"]["service"][3];
    assert_eq!(
        added["serviceEndpoint"],
        format!("bitcoin:{}", cohort.address)
    );
    fails(&net.members[0].command(&add).await, 1, "has the beacon at");

    net.fund(&cohort).await;
    let patch = patch(&net.scratch, "site");
    let update = [
        "did",
        "update",
        "--did",
        &did,
        "--patch",
        &patch,
        "--min-conf",
        "1",
        "--through",
        &cohort.id,
    ];
    let told = net.members[0].answer(&update).await;
    assert_eq!(told["version"], 3);
    net.confirmed(&mut cohort).await;
    let result = newest(&net.chain, &did, &net.members[0].sidecar(&did).await).await;
    assert_eq!(version(&result), "3");
    assert_eq!(result["didDocument"]["service"][4]["id"], "#site");
}
