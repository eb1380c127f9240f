//! Whole lives of cohorts: real processes, real sockets, real consensus.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use beacon_btcr2::beacon::Announcement;
use beacon_signal::UpdateId;
use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Binary, Cohort, Net, Signal, run};
use bitcoin::{OutPoint, ScriptBuf, Transaction};
use serde_json::{Value, json};

/// The checks that hold for every signal, against the chain alone.
fn well_formed(cohort: &Cohort, signal: &Signal) {
    let address: bitcoin::Address<_> = cohort.address.parse().unwrap();
    let beacon: ScriptBuf = address.assume_checked().script_pubkey();
    let tx = &signal.transaction;
    assert_eq!(tx.input.len(), 1);
    signed_by_the_key_path(tx);
    let [change, signal_output] = tx.output.as_slice() else {
        panic!("expected change and signal, got {:?}", tx.output);
    };
    assert_eq!(change.script_pubkey, beacon);
    assert!(signal_output.script_pubkey.is_op_return());
    assert_eq!(signal_output.value.to_sat(), 0);
}

/// One Schnorr signature with the default sighash for each input.
fn signed_by_the_key_path(tx: &Transaction) {
    for input in &tx.input {
        assert_eq!(input.witness.len(), 1);
        assert_eq!(input.witness[0].len(), 64);
    }
}

async fn one_signal(members: usize, terms: Value) -> (Net, Cohort) {
    let mut net = Net::start(&vec![Signs; members]).await;
    let everybody: Vec<usize> = (0..members).collect();
    let mut cohort = net.form(&everybody, terms).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let signal = net.confirmed(&mut cohort).await;
    well_formed(&cohort, &signal);
    net.verify(&cohort, &signal).await;
    (net, cohort)
}

#[tokio::test]
async fn two_members_push() {
    let (net, _) = one_signal(2, json!({ "flow": "push" })).await;
    // Nothing that honest agents say to each other is refused.
    for agent in net.members.iter().chain([&net.coordinator]) {
        let status = agent.call("status", Value::Null).await;
        assert_eq!(status["refused"], json!({}), "{}", agent.name());
        assert_eq!(status["chain"]["available"], true, "{}", agent.name());
    }
}

#[tokio::test]
async fn two_members_pull() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "flow": "pull" })).await;
    net.fund(&cohort).await;
    // Waits with the member until it is asked.
    net.request_update(&cohort, 1).await;
    net.coordinator
        .call("session.start", json!({ "cohort_id": cohort.id }))
        .await;
    for member in [0, 1] {
        let did = net.members[member].did();
        let given = net
            .coordinator
            .wait("leaves_given", |event| event["peer"] == did)
            .await;
        assert_eq!(given.value["update"], member == 1, "{}", given.value);
    }
    let signal = net.confirmed(&mut cohort).await;
    well_formed(&cohort, &signal);
    net.verify(&cohort, &signal).await;
}

/// The same with a CAS beacon: joining says what it reveals, and every member exports the one map, which a resolver's own
/// reader and a separate process find to be what the chain's 32 bytes announce.
#[tokio::test]
async fn a_cas_cohort_announces_its_updates_in_a_map() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let terms = json!({ "beacon_type": "CASBeacon", "trigger_updates": 2 });
    let mut cohort = net.form(&[0, 1, 2], terms).await;
    for member in &net.members {
        let cohorts = member.call("cohorts", Value::Null).await;
        let warning = cohorts[0]["warning"].as_str().unwrap();
        assert!(warning.contains("learn which DIDs are updated"));
    }
    net.fund(&cohort).await;
    let updates = [
        net.request_update(&cohort, 0).await,
        net.request_update(&cohort, 2).await,
    ];
    let signal = net.confirmed(&mut cohort).await;
    well_formed(&cohort, &signal);
    let dids: Vec<String> = net.members.iter().map(|one| cohort.did(one)).collect();
    let txid = signal.txid.to_string();
    let mut maps = BTreeSet::new();
    for (member, did) in net.members.iter().zip(&dids) {
        let path = member.data_dir().with_extension("map.json");
        let file = path.display().to_string();
        let export = [
            "proof", "export", &cohort.id, "--txid", &txid, "--out", &file,
        ];
        let output = member.command(&export).await;
        assert_eq!(output.code, 0, "{output:?}");
        let text = fs::read_to_string(&path).unwrap();
        let announcement = Announcement::from_value(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(announcement.hash().to_hex(), signal.root);
        let map = announcement.value().as_object().unwrap();
        assert_eq!(map.len(), 2, "{text}");
        for (did, update) in [(&dids[0], &updates[0]), (&dids[2], &updates[1])] {
            let update = UpdateId::from_hex(update).unwrap();
            assert_eq!(map[did], update.to_string());
        }
        let verify = ["proof", "verify", "--did", did, "--proof", &file, "--root"];
        let verify = |root: &str| {
            let arguments = verify.map(str::to_owned).into_iter();
            arguments.chain([root.to_owned()]).collect::<Vec<_>>()
        };
        let output = run(Binary::Participant, verify(&signal.root)).await;
        assert_eq!(output.code, 0, "{output:?}");
        let announces = if *did == dids[1] {
            "no update"
        } else {
            "update"
        };
        assert!(output.stdout.contains(announces), "{output:?}");
        let output = run(Binary::Participant, verify(&"00".repeat(32))).await;
        assert_eq!(output.code, 1, "{output:?}");
        maps.insert(text);
    }
    assert_eq!(maps.len(), 1, "all members keep the same map");
}

#[tokio::test]
async fn five_members() {
    let (mut net, cohort) = one_signal(5, json!({})).await;
    let set = net
        .coordinator
        .wait("cohort_set", |event| cohort.has(event))
        .await;
    for member in &mut net.members {
        let agreed = member
            .wait("cohort_agreed", |event| cohort.has(event))
            .await;
        let keys: BTreeSet<_> = agreed.value["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(keys.len(), 5, "{}", agreed.value);
        assert_eq!(agreed.value["address"], cohort.address);
    }
    // Membership is frozen before anybody acknowledges.
    let acknowledged = net.coordinator.wait("acknowledged", |_| true).await;
    assert!(set.seq < acknowledged.seq);
}

/// Deposits of which none pays the fee pay it together: each has its own signature, made with its own nonces.
#[tokio::test]
async fn small_deposits_pay_together() {
    // One input costs 555 sat, two 845, three 1135.
    let mut net = Net::start_with(&[Signs, Signs, Signs], &["--fee-rate", "5"]).await;
    let mut cohort = net.form(&[0, 1, 2], json!({})).await;
    net.request_update(&cohort, 0).await;
    let mut deposits = BTreeSet::new();
    for _ in 0..3 {
        deposits.insert(net.chain.fund(&cohort.address, 400));
    }
    let signal = net.confirmed(&mut cohort).await;
    let tx = &signal.transaction;
    let spent: BTreeSet<_> = tx.input.iter().map(|input| input.previous_output).collect();
    assert_eq!(spent, deposits);
    signed_by_the_key_path(tx);
    net.verify(&cohort, &signal).await;
}

/// A round that waits for money is no failure: the operator is told how much is missing, and exactly that much signs.
#[tokio::test]
async fn what_is_said_to_be_missing_is_enough() {
    let mut net = Net::start_with(&[Signs, Signs], &["--fee-rate", "20"]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.request_update(&cohort, 0).await;
    let id = cohort.id.clone();
    let show = ["cohort", "show", &id];
    let shown = net.coordinator.answer(&show).await;
    assert_eq!(shown["missing_sat"], 111 * 20, "{shown}");
    assert_eq!(shown["funding_state"], "missing", "{shown}");
    let deposit = net.chain.fund(&cohort.address, 2_000);
    let seen = |event: &Value| event.to_string().contains(&deposit.txid.to_string());
    net.coordinator.wait("funds_seen", seen).await;
    let shown = net.coordinator.answer(&show).await;
    let missing = shown["missing_sat"].as_u64().unwrap();
    assert_eq!((missing, &shown["fee_rate_sat_vb"]), (1_380, &json!(20)));
    let funding = shown["funding"].as_str().unwrap();
    assert!(
        funding.starts_with("needs 1380 sat more at 20 sat/vB: 2000 sat are there"),
        "{funding}"
    );
    let listed = net.coordinator.answer(&["cohort", "list"]).await;
    assert_eq!(listed[0]["missing_sat"], 1_380, "{listed}");
    assert_eq!(shown["sessions"], json!([]), "nothing failed");
    net.chain.fund(&cohort.address, missing);
    let signal = net.confirmed(&mut cohort).await;
    assert_eq!(signal.transaction.input.len(), 2);
    signed_by_the_key_path(&signal.transaction);
    let shown = net.coordinator.answer(&show).await;
    // It left no change, so that nothing can build on it before it is buried.
    assert_eq!(shown["funding_state"], "live-transaction", "{shown}");
}

/// Where the operator says nothing, signals pay what the chain source estimates.
#[tokio::test]
async fn signals_pay_what_the_chain_source_estimates() {
    let (net, cohort) = one_signal(2, json!({})).await;
    let status = net.coordinator.call("status", Value::Null).await;
    assert_eq!(
        status["fee_rate"],
        json!({ "sat_vb": 1, "source": "estimate" }),
        "{status}"
    );
    let signal = &cohort.signals[0].transaction;
    let deposit = net.chain.transaction(signal.input[0].previous_output.txid);
    let vout = signal.input[0].previous_output.vout;
    let held = deposit.output[usize::try_from(vout).unwrap()].value;
    let size = u64::try_from(signal.vsize()).unwrap();
    assert_eq!((held - signal.output[0].value).to_sat(), size);
}

/// The operator's way to pay: an address to scan, once everybody agreed to it, and the command ends when the money is there.
#[tokio::test]
async fn an_operator_is_shown_where_to_pay_and_when_it_has_come() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let id = net.advertise(2, json!({})).await;
    let early = net.coordinator.command(&["cohort", "fund", &id]).await;
    assert_eq!(early.code, 1, "{early:?}");
    assert!(
        early.stderr.contains("takes no money: no address yet"),
        "{early:?}"
    );
    for member in [0, 1] {
        net.join(&id, member).await;
    }
    let cohort = net.acknowledged(id, &[0, 1]).await;
    let fund = ["cohort", "fund", &cohort.id, "--amount"];
    let fund = |more: &[&'static str]| [&fund[..], more].concat();
    let much = net.coordinator.command(&fund(&["100001"])).await;
    assert_eq!(much.code, 2, "{much:?}");
    assert!(
        much.stderr.contains("expected at most 100000 sat"),
        "{much:?}"
    );
    let short = net
        .coordinator
        .command(&fund(&["5000", "--wait", "1"]))
        .await;
    assert_eq!(short.code, 1, "{short:?}");
    assert!(
        short.stderr.contains("no deposit in 1 s: 0 sat are there"),
        "{short:?}"
    );
    net.chain.fund(&cohort.address, 5_000);
    let told = net
        .coordinator
        .answer(&["cohort", "fund", &cohort.id])
        .await;
    assert_eq!(told["balance_sat"], 5_000, "{told}");
    let told = net
        .coordinator
        .answer(&fund(&["7000", "--wait", "0"]))
        .await;
    let uri = format!(
        "bitcoin:{}?amount=0.00007000&label=beacon%20cohort%20{}",
        cohort.address, cohort.id
    );
    assert_eq!(told["uri"], uri);
    // People see the code that a camera reads.
    let arguments = ["cohort", "fund", &cohort.id, "--wait", "0"];
    let home = net.coordinator.data_dir().display().to_string();
    let shown = run(
        Binary::Coordinator,
        ["--data-dir", &home].into_iter().chain(arguments),
    )
    .await;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(
        shown.stdout.contains('█') && shown.stdout.contains("At risk: 5000 sat"),
        "{shown:?}"
    );
}

#[tokio::test]
async fn a_second_signal_spends_the_first_ones_change() {
    let (mut net, mut cohort) = one_signal(2, json!({ "confirmations": 2 })).await;
    net.request_update(&cohort, 1).await;
    let second = net.confirmed(&mut cohort).await;
    well_formed(&cohort, &second);
    let first = &cohort.signals[0];
    assert_eq!(
        second.transaction.input[0].previous_output,
        OutPoint::new(first.txid, 0),
        "the chain says which output the second signal spends"
    );
    assert_ne!(
        first.root, second.root,
        "each round has its own leaf nonces"
    );
    // The first signal's proofs are kept.
    net.verify(&cohort, first).await;
    net.verify(&cohort, &second).await;
    for agent in net.members.iter_mut().chain([&mut net.coordinator]) {
        let fits = |event: &Value| event["txid"] == first.txid.to_string();
        agent.wait("signal_buried", fits).await;
    }
}

#[tokio::test]
async fn two_cohorts_at_once_share_members() {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let one = net.advertise(2, json!({})).await;
    let two = net.advertise(2, json!({})).await;
    for (cohort, member) in [(&one, 0), (&two, 1), (&two, 2), (&one, 1)] {
        net.join(cohort, member).await;
    }
    let mut one = net.acknowledged(one, &[0, 1]).await;
    let mut two = net.acknowledged(two, &[1, 2]).await;
    assert_ne!(one.address, two.address);
    let shared = net.members[1].call("cohorts", Value::Null).await;
    let keys: BTreeSet<_> = shared
        .as_array()
        .unwrap()
        .iter()
        .map(|cohort| cohort["key"].to_string())
        .collect();
    assert_eq!(keys.len(), 2, "a fresh key for each cohort: {shared}");
    net.fund(&one).await;
    net.fund(&two).await;
    // Both rounds are under way before either signal is mined.
    net.request_update(&one, 1).await;
    net.request_update(&two, 1).await;
    net.broadcast(&one).await;
    net.broadcast(&two).await;
    let first = net.confirmed(&mut one).await;
    let second = net.confirmed(&mut two).await;
    assert_eq!(first.height, second.height, "one block has both");
    well_formed(&one, &first);
    well_formed(&two, &second);
    net.verify(&one, &first).await;
    net.verify(&two, &second).await;
}

/// No option and no command: all of it from `config.toml` in the home.
#[tokio::test]
async fn a_participant_configured_by_its_file_joins_and_signs_by_itself() {
    let mut net = Net::start(&[Signs]).await;
    let home = net.scratch.path().join("quiet");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let url = net.chain.url();
    let settings = format!(
        "chain_url = \"{url}\"\nchain_poll_ms = 100\nauto_join = true\nauto_sign = true\ndids = [\"did:btcr2:quiet\"]\n"
    );
    fs::write(home.join("config.toml"), settings).unwrap();
    let folder = net.scratch.path();
    let mut quiet = Agent::start("quiet", Binary::Participant, folder, Vec::new()).await;
    quiet
        .call("subscribe", json!({ "coordinator": net.coordinator.did() }))
        .await;
    quiet.wait("subscription_accepted", |_| true).await;
    net.members.push(quiet);
    let id = net.advertise(2, json!({})).await;
    net.join(&id, 0).await;
    let mut cohort = net.acknowledged(id, &[0, 1]).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    net.confirmed(&mut cohort).await;
    let sessions = net.members[1].call("sessions", Value::Null).await;
    assert_eq!(sessions[0]["proofs"], 1, "{sessions}");
}
