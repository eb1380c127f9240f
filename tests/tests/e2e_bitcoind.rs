//! Agents on a Bitcoin Core node of one's own: real processes, and a real node that is mined, reorganised and restarted
//! over its RPC.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Binary, DEADLINE, Net, Regtest, Scratch, run};
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
