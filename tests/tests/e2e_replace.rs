//! Signals that are stuck, and the end of a beacon: real processes, real sockets, real consensus. Blocks come on command
//! only, so whatever is not mined waits.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use beacon_signal::transaction::signal_bytes;
use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Cohort, Net, Regtest, Scratch, Signal};
use bitcoin::{Address, Network, ScriptBuf, Txid};
use serde_json::{Value, json};

/// A cohort of two on these terms, with money, whose first signal waits for a block.
async fn stuck(terms: Value) -> (Net, Cohort, Txid) {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], terms).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let txid = net.broadcast(&cohort).await;
    // What comes next is another one.
    cohort.signals.push(Signal {
        txid,
        transaction: net.chain.transaction(txid),
        root: String::new(),
        height: 0,
    });
    (net, cohort, txid)
}

fn root(net: &Net, txid: Txid) -> [u8; 32] {
    signal_bytes(&net.chain.transaction(txid)).unwrap()
}

/// Nobody mines it. After the terms' patience a version with the same root and a higher fee takes its place in the network,
/// is mined, and is proven by every member; the next round goes on from there.
#[tokio::test]
async fn a_stuck_signal_is_replaced_after_patience() {
    let (mut net, mut cohort, old) = stuck(json!({ "patience_s": 2 })).await;
    let announced = root(&net, old);
    let signal = net.confirmed(&mut cohort).await;
    assert_ne!(signal.txid, old);
    assert_eq!(root(&net, signal.txid), announced);
    let (before, after) = (&cohort.signals[0].transaction, &signal.transaction);
    assert_eq!(
        before.input[0].previous_output,
        after.input[0].previous_output
    );
    assert!(
        after.output[0].value < before.output[0].value,
        "it pays more"
    );
    net.verify(&cohort, &signal).await;
    let shown = net
        .coordinator
        .call("cohort.show", json!({ "cohort_id": cohort.id }))
        .await;
    assert_eq!(
        (&shown["round"], &shown["unconfirmed"]),
        (&json!(2), &Value::Null)
    );
    net.request_update(&cohort, 1).await;
    let second = net.confirmed(&mut cohort).await;
    assert_eq!(
        second.transaction.input[0].previous_output.txid,
        signal.txid
    );
    net.verify(&cohort, &second).await;
}

/// The operator does not wait. A rate that no node would take is refused with the one that it would.
#[tokio::test]
async fn an_operator_replaces_a_stuck_signal_by_command() {
    let (mut net, mut cohort, old) = stuck(json!({})).await;
    let id = cohort.id.clone();
    let show = ["cohort", "show", &id, "--json"];
    let output = net.coordinator.command(&show).await;
    let shown: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(shown["unconfirmed"]["txid"], old.to_string());
    let refused = ["cohort", "replace", &id, "--fee-rate", "1"];
    let output = net.coordinator.command(&refused).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("expected at least"), "{output:?}");
    let replace = ["cohort", "replace", &id, "--fee-rate", "30"];
    let output = net.coordinator.command(&replace).await;
    assert_eq!(output.code, 0, "{output:?}");
    let signal = net.confirmed(&mut cohort).await;
    let fee = 50_000 - signal.transaction.output[0].value.to_sat();
    assert_eq!(fee, 30 * 154);
    net.verify(&cohort, &signal).await;
    let output = net.coordinator.command(&replace).await;
    assert_eq!(output.code, 1, "nothing waits any more: {output:?}");
}

/// A cohort is closed: members are shown the address before they join, everything but the fee arrives there, and all know
/// that it is over. What comes later is sent after it.
async fn is_closed(mut net: Net) {
    let script = ScriptBuf::from_bytes([&[0x00, 0x14][..], &[7; 20]].concat());
    let to = Address::from_script(&script, Network::Regtest)
        .unwrap()
        .to_string();
    let to = to.as_str();
    let params = json!({ "terms": { "min_members": 2, "confirmations": 1 }, "close_to": to });
    let advertised = net.coordinator.call("cohort.advertise", params).await;
    assert!(advertised["closes_to"].as_str().unwrap().starts_with(to));
    let id = advertised["cohort_id"].as_str().unwrap().to_owned();
    for member in [0, 1] {
        net.join(&id, member).await;
        let cohorts = net.members[member].call("cohorts", Value::Null).await;
        assert!(cohorts[0]["closes_to"].as_str().unwrap().starts_with(to));
    }
    let mut cohort = net.acknowledged(id.clone(), &[0, 1]).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    net.coordinator
        .wait("funds_seen", |event| {
            event["funds"][0]["outpoint"]
                .as_str()
                .is_some_and(|at| at.starts_with(&signal.txid.to_string()))
        })
        .await;
    let mut left = signal.transaction.output[0].value.to_sat();
    for again in [false, true] {
        if again {
            net.chain.fund(&cohort.address, 20_000);
            left = 20_000;
            net.coordinator
                .wait("funds_seen", |event| event["funds"][0]["value"] == 20_000)
                .await;
        }
        let output = net
            .coordinator
            .command(&["cohort", "close", &id, "--fee-rate", "3"])
            .await;
        assert_eq!(output.code, 0, "{output:?}");
        let txid = net.broadcast(&cohort).await;
        net.chain.mine();
        let close = net.chain.transaction(txid);
        assert_eq!(close.output.len(), 1);
        assert_eq!(close.output[0].script_pubkey, script);
        assert_eq!(
            close.output[0].value.to_sat(),
            left - 3 * u64::try_from(close.vsize()).unwrap()
        );
        assert_eq!(signal_bytes(&close), None);
        let fits = |event: &Value| event["txid"] == txid.to_string();
        net.coordinator.wait("signal_buried", fits).await;
        for member in &mut net.members {
            member.wait("signal_buried", fits).await;
            let cohorts = member.call("cohorts", Value::Null).await;
            assert_eq!(cohorts[0]["stage"], "dissolved", "{cohorts}");
            assert_eq!(cohorts[0]["reason"]["code"], "closed", "{cohorts}");
        }
        cohort.signals.push(Signal {
            txid,
            transaction: close,
            root: String::new(),
            height: 0,
        });
    }
    net.verify(&cohort, &signal).await;
}

#[tokio::test]
async fn a_cohort_is_closed_to_the_address_of_its_terms() {
    is_closed(Net::start(&[Signs, Signs]).await).await;
}

#[tokio::test]
async fn a_cohort_is_closed_on_a_node() {
    let node = Regtest::bitcoind();
    is_closed(Net::start_on(Scratch::new(), node, &[Signs, Signs], &[]).await).await;
}
