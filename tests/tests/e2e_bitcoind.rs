//! Agents on a Bitcoin Core node of one's own: real processes, and a real node that is mined, reorganised and restarted
//! over its RPC.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Binary, Cohort, DEADLINE, Net, Regtest, Scratch, run};
use serde_json::{Value, json};
use tokio::time::timeout;

#[tokio::test]
async fn a_signal_goes_through_a_node_that_is_reorganised_and_restarted() {
    let mut net = Net::start_on(Scratch::new(), Regtest::bitcoind(), &[Signs, Signs], &[]).await;
    let about = net.coordinator.call("status", Value::Null).await["about"].clone();
    assert_eq!(about["chain"], "bitcoind");
    let mut cohort = net.form(&[0, 1], json!({ "flow": "push" })).await;
    net.fund(&cohort).await;

    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;

    // Its block goes, and it is mined again in another one.
    let fits = |event: &Value| event["txid"] == signal.txid.to_string();
    let before = net.coordinator.wait("signal_confirmed", fits).await;
    net.chain.reorganise();
    let coordinator = &mut net.coordinator;
    let gone = coordinator
        .wait_after(before.seq, "signal_gone", fits)
        .await;
    net.chain.mine();
    coordinator
        .wait_after(gone.seq, "signal_confirmed", fits)
        .await;
    assert!(net.chain.height(signal.txid).unwrap() > signal.height);

    // A node that is down is no more than waited for, by the name of its fault.
    net.chain.stop();
    for agent in [&net.coordinator, &net.members[0], &net.members[1]] {
        let reason = down(agent).await;
        assert!(reason.contains("chain source unavailable"), "{reason}");
    }
    net.request_update(&cohort, 1).await;
    net.chain.launch().await;
    let second = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &second).await;
    for agent in [&net.coordinator, &net.members[0], &net.members[1]] {
        let status = agent.call("status", Value::Null).await;
        assert_eq!(status["chain"]["available"], true, "{status}");
    }
}

#[tokio::test]
async fn a_block_that_goes_after_the_agreed_depth_changes_nothing_that_was_agreed() {
    let mut net = Net::start_on(Scratch::new(), Regtest::bitcoind(), &[Signs, Signs], &[]).await;
    let terms = json!({ "flow": "push", "confirmations": 1 });
    let mut cohort = net.form(&[0, 1], terms).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    let fits = |event: &Value| event["txid"] == signal.txid.to_string();
    net.coordinator.wait("signal_buried", fits).await;
    for member in &mut net.members {
        member.wait("signal_buried", fits).await;
    }
    net.chain.reorganise();
    assert_eq!(net.chain.height(signal.txid), None);
    // The node has kept it, and the change that it makes is spent once it is in a block again.
    net.request_update(&cohort, 1).await;
    net.chain.mine();
    let second = net.confirmed(&mut cohort).await;
    let parents = &second.transaction.input;
    assert_eq!(parents[0].previous_output.txid, signal.txid);
    net.verify(&cohort, &second).await;
}

#[tokio::test]
async fn a_stuck_signal_is_replaced_in_the_nodes_mempool() {
    let options = ["--fee-rate", "2"];
    let net = Net::start_on(
        Scratch::new(),
        Regtest::bitcoind(),
        &[Signs, Signs],
        &options,
    );
    let mut net = net.await;
    let mut cohort = net.form(&[0, 1], json!({ "flow": "push" })).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let stuck = net.broadcast(&cohort).await;
    let first = net.chain.transaction(stuck);
    replace(&net, &cohort, 6).await;
    let other = |event: &Value| event["txid"] != stuck.to_string();
    net.coordinator.wait("signal_broadcast", other).await;
    // Both spend the same output, so that the node has dropped the first.
    assert!(!net.chain.knows(stuck));
    net.chain.mine();
    let signal = net.mined(&mut cohort, other).await;
    let [old, new] = [&first, &signal.transaction];
    assert_eq!(new.input[0].previous_output, old.input[0].previous_output);
    assert_eq!(new.output.last(), old.output.last(), "the same root");
    assert!(new.output[0].value < old.output[0].value);
    net.verify(&cohort, &signal).await;
}

#[tokio::test]
async fn what_the_node_refuses_for_its_fee_is_replaced() {
    // Nothing under 5 sat/vB comes into this mempool.
    let chain = Regtest::bitcoind_with(&["-minrelaytxfee=0.00005"]);
    let options = ["--fee-rate", "2"];
    let mut net = Net::start_on(Scratch::new(), chain, &[Signs, Signs], &options).await;
    let mut cohort = net.form(&[0, 1], json!({ "flow": "push" })).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let refused = net.coordinator.wait("broadcast_refused", |_| true).await;
    let reason = refused.value["reason"].as_str().unwrap();
    assert!(reason.contains("min relay fee not met"), "{reason}");
    replace(&net, &cohort, 8).await;
    let other = |event: &Value| event["txid"] != refused.value["txid"];
    net.coordinator.wait("signal_broadcast", other).await;
    net.chain.mine();
    let signal = net.mined(&mut cohort, other).await;
    net.verify(&cohort, &signal).await;
}

async fn replace(net: &Net, cohort: &Cohort, fee_rate: u64) {
    let params = json!({ "cohort_id": cohort.id, "fee_rate": fee_rate });
    net.coordinator.call("cohort.replace", params).await;
}

#[tokio::test]
async fn two_cohorts_have_their_money_on_one_node() {
    let members = [Signs, Signs, Signs];
    let mut net = Net::start_on(Scratch::new(), Regtest::bitcoind(), &members, &[]).await;
    let mut one = net.form(&[0, 1], json!({ "flow": "push" })).await;
    let mut other = net.form(&[1, 2], json!({ "flow": "push" })).await;
    for cohort in [&one, &other] {
        net.fund(cohort).await;
    }
    net.request_update(&one, 1).await;
    net.request_update(&other, 1).await;
    net.broadcast(&one).await;
    net.broadcast(&other).await;
    net.chain.mine();
    let any = |_: &Value| true;
    let (first, second) = (
        net.mined(&mut one, any).await,
        net.mined(&mut other, any).await,
    );
    assert_eq!(first.height, second.height, "both in one block");
    net.verify(&one, &first).await;
    net.verify(&other, &second).await;
}

/// Waits until an agent says that its chain source does not answer. Says why.
async fn down(agent: &Agent) -> String {
    let asked = async {
        loop {
            let chain = agent.call("status", Value::Null).await["chain"].clone();
            if chain["available"] == false {
                return chain["reason"].as_str().unwrap().to_owned();
            }
        }
    };
    timeout(DEADLINE, asked).await.unwrap()
}

/// A resolver finds nothing on a new chain, and a first document therefore.
#[tokio::test]
async fn a_did_is_resolved_on_a_node() {
    // Key 0 of the phrase of ADR 0005.
    const DID: &str = "did:btcr2:k1qgplcn4t9yllgdp7wqd4h7jdmqpvn4r8x6d8qezz26zv6dsf9pfc7nq4yamnd";
    let scratch = Scratch::new();
    let chain = Regtest::bitcoind();
    let data_dir = scratch.path().display().to_string();
    let home = ["--data-dir", &data_dir];
    let resolve = ["resolve", DID];
    let options = chain.options();
    let [url, cookie] = ["--chain-url", "--chain-cookie-file"].map(|name| {
        let at = options.iter().position(|option| option == name).unwrap();
        options[at + 1].clone()
    });
    let file =
        format!("chain = \"bitcoind\"\nchain_url = \"{url}\"\nchain_cookie_file = \"{cookie}\"\n");
    std::fs::write(scratch.path().join("config.toml"), file).unwrap();
    let output = run(Binary::Participant, home.into_iter().chain(resolve)).await;
    assert_eq!(output.code, 0, "{output:?}");
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(result["didDocument"]["id"], DID);

    // The kind alone is overruled: an Esplora server is not what is there.
    let output = run(
        Binary::Participant,
        home.into_iter()
            .chain(resolve)
            .chain(["--chain", "esplora"]),
    )
    .await;
    assert_eq!(output.code, 1, "{output:?}");
}
