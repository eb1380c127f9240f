//! Cohorts from whose beacon not only all members together can spend, by commands of the real binaries.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Cohort, Net, Output};
use bitcoin::{Address, Network, OutPoint};
use serde_json::{Value, json};

/// Somebody's address outside of all cohorts.
fn elsewhere() -> String {
    let secp = bitcoin::secp256k1::Secp256k1::new();
    let secret = bitcoin::secp256k1::SecretKey::from_slice(&[7; 32]).unwrap();
    let (key, _) = secret.x_only_public_key(&secp);
    Address::p2tr(&secp, key, None, Network::Regtest).to_string()
}

/// A cohort of all members of the net that is funded, by commands.
async fn form(net: &mut Net, options: &[&str]) -> Cohort {
    let size = net.members.len().to_string();
    let advertise = ["cohort", "advertise", "--min-members", &size];
    let options: Vec<_> = advertise.iter().chain(options).copied().collect();
    let advert = net.coordinator.answer(&options).await;
    let warned = advert["who_else_can_spend"].as_array().unwrap();
    assert!(!warned.is_empty(), "{advert}");
    let id = advert["cohort_id"].as_str().unwrap().to_owned();
    for member in &mut net.members {
        member
            .wait("cohort_advertised", |event| event["cohort"] == id)
            .await;
        let listed = member.answer(&["cohorts"]).await;
        let mut listed = listed.as_array().unwrap().iter();
        let listed = listed.find(|cohort| cohort["cohort_id"] == id).unwrap();
        let said = listed["who_else_can_spend"].as_array().unwrap();
        assert_eq!(said, warned, "before anybody joins");
        let did = format!("did:btcr2:{}-{id}", member.name());
        let join = ["join", &id, "--did", &did];
        let refused = member.command(&join).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(
            refused.stderr.contains("unresolvable"),
            "{}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("--accept-script-tree"),
            "{}",
            refused.stderr
        );
        let consent: Vec<_> = join.into_iter().chain(["--accept-script-tree"]).collect();
        let joined = member.answer(&consent).await;
        assert_eq!(joined["who_else_can_spend"], advert["who_else_can_spend"]);
    }
    let members: Vec<_> = (0..net.members.len()).collect();
    let cohort = net.acknowledged(id, &members).await;
    let deposit = net.chain.fund(&cohort.address, 50_000);
    let funded = |event: &Value| cohort.has(event) && event["funds"][0]["height"].is_u64();
    net.coordinator.wait("funds_seen", funded).await;
    seen(net, &cohort, deposit).await;
    let shown = net
        .coordinator
        .answer(&["cohort", "show", &cohort.id])
        .await;
    assert_eq!(shown["who_else_can_spend"], advert["who_else_can_spend"]);
    assert!(
        shown["at_risk"]
            .as_str()
            .unwrap()
            .contains(warned[0].as_str().unwrap()),
        "{shown}"
    );
    cohort
}

/// Waits until every member knows an output: of one that is spent before it looks, it never hears.
async fn seen(net: &mut Net, cohort: &Cohort, output: OutPoint) {
    for member in &mut net.members {
        let fits =
            |event: &Value| cohort.has(event) && event["outputs"].get(output.to_string()).is_some();
        member.wait("outputs_seen", fits).await;
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Signals are signed by everybody all the same. Then the payer, who is no member, takes the rest back with a file that a member
/// gave it: not a block too early, to an address of this network, and after saying yes.
#[tokio::test]
async fn a_payer_takes_back_what_a_cohort_holds() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let payer = net.members.pop().unwrap();
    let key = payer.answer(&["recovery", "key"]).await;
    assert_eq!(key["path"], "m/1644'/1'/0'");
    let key = key["key"].as_str().unwrap().to_owned();
    let options = ["--recovery-key", &key, "--recovery-blocks", "3"];
    let mut cohort = form(&mut net, &options).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    seen(&mut net, &cohort, OutPoint::new(signal.txid, 0)).await;
    net.verify(&cohort, &signal).await;
    assert_eq!(
        signal.transaction.input[0].witness.len(),
        1,
        "by the key path"
    );

    let file = text(&net.scratch.path().join("cohort.json"));
    let export = ["recovery", "export", &cohort.id, "--out", &file];
    assert_eq!(net.members[0].command(&export).await.code, 0);
    let chain = net.chain.options();
    let spend = |more: &[&str]| {
        let fixed = ["recovery", "spend", "--file", &file, "--fee-rate", "3"].map(str::to_owned);
        let more = more.iter().map(|text| (*text).to_owned());
        fixed
            .into_iter()
            .chain(more)
            .chain(chain.clone())
            .collect::<Vec<_>>()
    };
    let to = elsewhere();
    let mainnet = "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0";
    let refused = command(&payer, &spend(&["--to", mainnet])).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("an address of mainnet, expected one of regtest"),
        "{refused:?}"
    );
    let early = command(&payer, &spend(&["--to", &to, "--yes"])).await;
    assert_eq!(early.code, 1, "{early:?}");
    assert!(early.stderr.contains("is due in 2 blocks"), "{early:?}");
    net.chain.mine();
    let early = command(&payer, &spend(&["--to", &to, "--yes"])).await;
    assert!(early.stderr.contains("is due in 1 block"), "{early:?}");
    net.chain.mine();
    let unsure = command(&payer, &spend(&["--to", &to])).await;
    assert_eq!(unsure.code, 1, "{unsure:?}");
    assert!(unsure.stderr.contains("Say --yes"), "{unsure:?}");
    let cheap = command(&payer, &spend(&["--to", &to, "--max-fee", "10", "--yes"])).await;
    assert!(
        cheap.stderr.contains("expected at most 10 sat"),
        "{cheap:?}"
    );
    // Its own seed is what counts: a member cannot do it.
    let thief = command(&net.members[1], &spend(&["--to", &to, "--yes"])).await;
    assert!(
        thief.stderr.contains("is none of this agent's"),
        "{thief:?}"
    );
    let sent = command(&payer, &spend(&["--to", &to, "--yes"])).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let sent: Value = serde_json::from_str(&sent.stdout).unwrap();
    net.chain.mine();
    let tx = net
        .chain
        .transaction(sent["txid"].as_str().unwrap().parse().unwrap());
    let vsize = u64::try_from(tx.vsize()).unwrap();
    assert_eq!(sent["vsize"], vsize);
    assert_eq!(sent["fee_sat"], 3 * vsize);
    let change = signal.transaction.output[0].value.to_sat();
    assert_eq!(tx.output[0].value.to_sat(), change - 3 * vsize);
    spent_by_leaf(&mut net, &cohort, &sent["txid"]).await;
    let empty = command(&payer, &spend(&["--to", &to, "--yes"])).await;
    assert!(empty.stderr.contains("holds nothing"), "{empty:?}");
}

/// Two of three members spend without the third and without the coordinator, by files: one signature is not enough, whatever is
/// changed in a file is noticed, and a signer sees what it signs before it says yes.
#[tokio::test]
async fn two_of_three_members_spend_without_the_third() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let cohort = form(&mut net, &["--fallback", "2"]).await;
    net.coordinator.kill();
    let chain = net.chain.options();
    let with_chain = |arguments: &[&str]| {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        arguments.chain(chain.clone()).collect::<Vec<_>>()
    };
    let file = |name: &str| text(&net.scratch.path().join(name));
    let (draft, first, second, both) = (file("draft"), file("first"), file("second"), file("both"));
    let to = elsewhere();
    let [a, _, c] = &net.members[..] else {
        panic!("three members")
    };
    let dear = [
        "fallback",
        "create",
        &cohort.id,
        "--to",
        &to,
        "--fee-rate",
        "51",
    ];
    let refused = command(a, &with_chain(&dear)).await;
    assert!(
        refused.stderr.contains("at most the terms' 50 sat/vB"),
        "{refused:?}"
    );
    let create = [
        "fallback",
        "create",
        &cohort.id,
        "--to",
        &to,
        "--fee-rate",
        "2",
        "--out",
        &draft,
    ];
    let made = command(a, &with_chain(&create)).await;
    assert_eq!(made.code, 0, "{made:?}");
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(
        (&made["signatures"], &made["signatures_needed"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(made["pays"][0]["to"], to);

    let unsure = command(a, &with_chain(&["fallback", "sign", &draft])).await;
    assert_eq!(unsure.code, 1, "{unsure:?}");
    assert!(
        unsure.stderr.contains("Say --yes") && unsure.stdout.contains(&to),
        "{unsure:?}"
    );
    for (member, out) in [(a, &first), (c, &second)] {
        let sign = ["fallback", "sign", &draft, "--yes", "--out", out];
        let signed = command(member, &with_chain(&sign)).await;
        assert_eq!(signed.code, 0, "{signed:?}");
    }
    let early = command(a, &with_chain(&["fallback", "send", &first])).await;
    assert_eq!(early.code, 1, "{early:?}");
    assert!(
        early
            .stderr
            .contains("got signatures of 1 keys, expected 2"),
        "{early:?}"
    );
    let combined = a
        .answer(&["fallback", "combine", &first, &second, "--out", &both])
        .await;
    assert_eq!(combined["signatures"], 2);
    let sent = command(c, &with_chain(&["fallback", "send", &both])).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let sent: Value = serde_json::from_str(&sent.stdout).unwrap();
    net.chain.mine();
    let tx = net
        .chain
        .transaction(sent["txid"].as_str().unwrap().parse().unwrap());
    let vsize = u64::try_from(tx.vsize()).unwrap();
    assert_eq!(
        (&sent["vsize"], &sent["fee_sat"]),
        (&json!(vsize), &json!(2 * vsize))
    );
    assert_eq!(tx.output[0].value.to_sat(), 50_000 - 2 * vsize);

    let other = [
        "fallback",
        "create",
        &cohort.id,
        "--to",
        &to,
        "--fee-rate",
        "2",
    ];
    let nothing = command(a, &with_chain(&other)).await;
    assert!(
        nothing.stderr.contains("got no output to spend"),
        "{nothing:?}"
    );
    let txid = sent["txid"].clone();
    spent_by_leaf(&mut net, &cohort, &txid).await;
}

async fn command(agent: &Agent, arguments: &[String]) -> Output {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    agent.command(&arguments).await
}

/// Every member sees the spend for what it is, and takes it for no sign of a rollback.
async fn spent_by_leaf(net: &mut Net, cohort: &Cohort, txid: &Value) {
    for member in cohort.members.clone() {
        let member = &mut net.members[member];
        member
            .wait("leaf_spend", |event| event["txid"] == *txid)
            .await;
        let listed = member.answer(&["cohorts"]).await;
        let mut listed = listed.as_array().unwrap().iter();
        let listed = listed
            .find(|known| known["cohort_id"] == cohort.id)
            .unwrap();
        assert_eq!(listed["spent_by_script_tree"][0]["spent_by"], *txid);
        assert_eq!(listed["rollback"], Value::Null, "{listed}");
    }
}
