//! What operators and users do when something went wrong: evidence, the end of a cohort by command, and proofs that are
//! fetched again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use beacon_cohort::message::{Message, NonceContribution, SpentOutput};
use beacon_cohort::musig::sighashes;
use beacon_cohort::signer::KeyPath;
use beacon_cohort::statement;
use beacon_cohort::values::{NonceBytes, StatementSignature};
use beacon_didcomm::Endpoint;
use beacon_tests::harness::Member::{Asks, Signs};
use beacon_tests::harness::{
    Agent, Binary, Cohort, Fault, Net, Regtest, Scratch, Signal, Stranger, When, chain_options,
    free_port, message, on_disk, run,
};
use bitcoin::TxOut;
use bitcoin::consensus::encode::deserialize_hex;
use secp256k1::{Keypair, schnorr};
use serde_json::{Value, json};
use uuid::Uuid;

/// Two points, 33 bytes each: what public nonces are made of.
const POINT: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const OTHER_POINT: &str = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";
/// No point: its x is not below the field's prime.
const NO_POINT: &str = "02ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// A member's keys in a program that does not keep the rules.
struct Cheat {
    stranger: Stranger,
    key: Keypair,
    cohort: String,
}

impl Cheat {
    /// Takes the place of a member that is gone.
    async fn new(net: &mut Net, member: usize, cohort: &Cohort) -> Self {
        let agent = &mut net.members[member];
        let join = agent
            .wait("join_requested", |event| cohort.has(event))
            .await;
        agent.kill();
        let path: KeyPath = serde_json::from_value(join.value["path"].clone()).unwrap();
        let seed = agent.seed();
        let key = seed.cohort_key(path.network.bitcoin(), path.steps());
        let identity = seed.identity_secrets(0);
        let url = net.coordinator.url();
        let (signing, agreement) = (&identity.ed25519, &identity.x25519);
        Self {
            stranger: Stranger::connect_as(&url, signing, agreement, Endpoint::Queue).await,
            key: Keypair::from_secret_bytes(*key.unwrap()).unwrap(),
            cohort: cohort.id.clone(),
        }
    }

    /// Gives these nonces to a session, signed as the protocol wants it.
    async fn gives(&mut self, coordinator: &Agent, started: &Value, nonce: [&str; 2]) {
        let spent: Vec<SpentOutput> = serde_json::from_value(started["spent"].clone()).unwrap();
        let spent: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
        let tx = deserialize_hex(started["tx"].as_str().unwrap()).unwrap();
        let session_id = started["session"].as_str().unwrap().parse().unwrap();
        let nonce: NonceBytes = nonce.concat().parse().unwrap();
        let sighashes = sighashes(&tx, &spent).unwrap();
        let statement = statement::nonces(session_id, &sighashes, &[nonce]);
        let signature = schnorr::sign_with_aux_rand(statement.digest(), &self.key, &[0; 32]);
        let given = Message::from(NonceContribution {
            session_id,
            cohort_id: self.cohort.parse().unwrap(),
            nonce_contribution: nonce,
            nonce_contributions: vec![nonce],
            signature: StatementSignature::from_bytes(&signature.to_byte_array()).unwrap(),
        });
        let plain = message(given.kind(), given.body().unwrap());
        let frame = self.stranger.pack(coordinator.did(), plain);
        self.stranger.send(frame).await;
    }
}

/// Evidence goes from the operator's list into a file, and proves the same to anybody. Nothing else does.
async fn convicts(net: &Net, cohort: &Cohort, number: usize, kind: &str, culprit: &str) {
    let listed = net
        .coordinator
        .answer(&["evidence", "list", &cohort.id])
        .await;
    assert_eq!(listed.as_array().unwrap().len(), number, "{listed}");
    let newest = &listed[number - 1];
    assert_eq!(
        (&newest["kind"], &newest["did"], &newest["number"]),
        (&json!(kind), &json!(culprit), &json!(number)),
        "{listed}"
    );
    let path = net.scratch.path().join(format!("evidence-{number}.json"));
    let file = path.display().to_string();
    let number = number.to_string();
    let export = ["evidence", "export", &cohort.id, &number, "--out", &file];
    let output = net.coordinator.command(&export).await;
    assert_eq!(output.code, 0, "{output:?}");
    for binary in [Binary::Coordinator, Binary::Participant] {
        let output = run(binary, ["evidence", "verify", &file]).await;
        assert_eq!(output.code, 0, "{output:?}");
        let key = newest["key"].as_str().unwrap();
        assert!(output.stdout.contains(key), "{output:?}");
    }
    let told = fs::read_to_string(&path).unwrap();
    let session = newest["session_id"].as_str().unwrap();
    fs::write(&path, told.replace(session, &Uuid::new_v4().to_string())).unwrap();
    let output = run(Binary::Participant, ["evidence", "verify", &file]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("nothing is proven"), "{output:?}");
}

/// A member that signs what it must not is convicted by what it signed. The operator ends the cohort without it, and sees
/// what the old address holds; the others go on in another cohort; and that one ends for all.
#[tokio::test]
async fn a_cheat_is_convicted_and_left_behind_by_command() {
    let mut net = Net::start(&[Signs, Signs, Asks]).await;
    let cohort = net.form(&[0, 1, 2], json!({})).await;
    net.fund(&cohort).await;
    let culprit = net.members[2].did().to_owned();
    net.request_update(&cohort, 0).await;
    let first = net.coordinator.wait("session_started", |_| true).await;
    net.members[2].wait("signal_proposed", |_| true).await;

    let mut cheat = Cheat::new(&mut net, 2, &cohort).await;
    cheat
        .gives(&net.coordinator, &first.value, [POINT, NO_POINT])
        .await;
    let blamed = |event: &Value| event["peer"] == culprit;
    let struck = net.coordinator.wait("struck", blamed).await;
    convicts(&net, &cohort, 1, "bad-nonce", &culprit).await;

    let second = net
        .coordinator
        .wait_after(struck.seq, "session_started", |_| true)
        .await;
    for nonce in [[POINT, POINT], [POINT, OTHER_POINT]] {
        cheat.gives(&net.coordinator, &second.value, nonce).await;
    }
    net.coordinator
        .wait_after(struck.seq, "struck", blamed)
        .await;
    convicts(&net, &cohort, 2, "equivocation", &culprit).await;
    drop(cheat);

    let dissolve = ["cohort", "dissolve", &cohort.id, "--without", &culprit];
    net.coordinator.answer(&dissolve).await;
    let advert = net
        .coordinator
        .wait("cohort_advertised", |event| event["succeeds"] == cohort.id)
        .await;
    let shown = net
        .coordinator
        .answer(&["cohort", "show", &cohort.id])
        .await;
    assert_eq!(shown["phase"], "dissolved", "{shown}");
    assert_eq!(shown["balance_sat"], 50_000, "{shown}");
    assert_eq!(shown["successor"], advert.value["cohort"], "{shown}");
    let funding = shown["funding"].as_str().unwrap();
    assert!(
        funding.contains("50000 sat") && funding.contains(&culprit),
        "{funding}"
    );
    let id = advert.value["cohort"].as_str().unwrap().to_owned();
    for member in [0, 1] {
        let agent = &mut net.members[member];
        agent
            .wait("cohort_dissolved", |event| cohort.has(event))
            .await;
        let cohorts = agent.answer(&["cohorts"]).await;
        let mut cohorts = cohorts.as_array().unwrap().iter();
        let over = cohorts
            .find(|shown| shown["cohort_id"] == cohort.id)
            .unwrap();
        assert_eq!(over["stage"], "dissolved", "{over}");
        assert_eq!(over["balance_sat"], 50_000, "{over}");
        let advertised = |event: &Value| event["cohort"] == id;
        agent.wait("cohort_advertised", advertised).await;
        let params = json!({ "cohort_id": id, "dids": [cohort.did(agent)] });
        agent.call("join", params).await;
    }
    net.members[2].restart().await;
    net.members[2]
        .wait("cohort_dissolved", |event| cohort.has(event))
        .await;

    let mut successor = net.acknowledged(id, &[0, 1]).await;
    net.fund(&successor).await;
    net.request_update(&successor, 1).await;
    let signal = net.confirmed(&mut successor).await;
    let member = &net.members[1];
    proves(member, &successor, &signal, &cohort.did(member)).await;
    let dissolve = ["cohort", "dissolve", &successor.id, "--no-successor"];
    net.coordinator.answer(&dissolve).await;
    for member in [0, 1] {
        net.members[member]
            .wait("cohort_dissolved", |event| successor.has(event))
            .await;
    }
    let shown = net
        .coordinator
        .answer(&["cohort", "show", &successor.id])
        .await;
    assert_eq!(
        (&shown["phase"], &shown["successor"]),
        (&json!("dissolved"), &Value::Null)
    );
}

/// DIDs of the member that loses its state: so many that the proofs of two rounds do not fit into one message.
const DIDS: usize = 256;

fn did(number: usize) -> String {
    format!("did:btcr2:many-{number}")
}

/// Has the member export what proves one DID in a signal, and checks it against the root that the chain has.
async fn proves(member: &Agent, cohort: &Cohort, signal: &Signal, did: &str) {
    let file = member.data_dir().with_extension("proof.json");
    let (path, txid) = (file.display().to_string(), signal.txid.to_string());
    let export = ["proof", "export", &cohort.id, "--txid", &txid];
    let export = [&export[..], &["--did", did, "--out", &path]].concat();
    let output = member.command(&export).await;
    assert_eq!(output.code, 0, "{output:?}");
    let verify = ["proof", "verify", "--did", did, "--proof", &path];
    let verify = [&verify[..], &["--root", &signal.root]].concat();
    let output = run(Binary::Participant, verify).await;
    assert_eq!(output.code, 0, "{output:?}");
}

fn copy(from: &Path, to: &Path) {
    for file in ["seed", "state.redb"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// The coordinator dies with the answer to a member that asks what it has forgotten. Started again it answers, round by
/// round, since so many proofs do not fit into one message.
#[tokio::test]
async fn lost_proofs_come_back_in_parts_though_the_coordinator_dies_with_the_answer() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let mut options = chain_options(&chain);
    options.extend(["--listen".to_owned(), format!("127.0.0.1:{}", free_port())]);
    let coordinator = Agent::new("coordinator", Binary::Coordinator, scratch.path(), options);
    let mut net = Net {
        members: Vec::new(),
        coordinator: coordinator.with_faults(),
        chain,
        scratch,
    };
    net.coordinator.restart().await;
    net.add(Signs).await;
    net.add(Signs).await;
    let id = net
        .advertise(
            2,
            json!({ "max_indexes_per_member": DIDS, "confirmations": 1 }),
        )
        .await;
    let member = &mut net.members[0];
    member.wait("cohort_advertised", |_| true).await;
    let dids: Vec<_> = (0..DIDS).map(did).collect();
    let params = json!({ "cohort_id": id, "dids": dids });
    member.call("join", params).await;
    net.join(&id, 1).await;
    let mut cohort = net.acknowledged(id, &[0, 1]).await;
    net.fund(&cohort).await;
    assert_eq!(net.members[0].terminate().await, 0);
    let old = net.scratch.path().join("old");
    fs::create_dir(&old).unwrap();
    copy(&net.members[0].data_dir(), &old);
    net.members[0].restart().await;

    let mut updates = Vec::new();
    for number in [0, DIDS - 1] {
        let update = format!("{:064x}", Uuid::new_v4().as_u128());
        let params = json!({ "cohort_id": cohort.id, "did": did(number), "update_hash": update });
        net.members[0].call("request_update", params).await;
        updates.push(update);
        net.confirmed(&mut cohort).await;
    }

    let member = &mut net.members[0];
    assert_eq!(member.terminate().await, 0);
    copy(&old, &member.data_dir());
    member.forget_log();
    // Dead after the second sync, that is with the commit, and before anything is sent that was committed.
    net.coordinator
        .faults()
        .plan(Fault::DieAfter, &When::Next(2));
    let known = on_disk(&old).len() as u64;
    member.restart().await;
    net.coordinator.ended().await;
    member.wait_after(known, "proofs_requested", |_| true).await;
    let heard = member.events().await;
    let heard = heard.iter().filter(|event| event.seq > known);
    let mut answers = heard.filter(|event| event.value["event"] == "proofs_answered");
    assert_eq!(answers.next(), None, "it is lost");
    net.coordinator.faults().lift();
    net.coordinator.restart().await;

    member.wait_after(known, "proofs_answered", |_| true).await;
    let seen = member
        .seen_events()
        .iter()
        .filter(|event| event.seq > known);
    let asked = seen.filter(|event| event.value["event"] == "proofs_requested");
    let rounds: BTreeSet<_> = asked
        .map(|event| event.value["from_round"].as_u64().unwrap())
        .collect();
    assert_eq!(rounds, [1, 2].into(), "a message for each round");
    let shown = member.answer(&["rollback", "show"]).await;
    let recovered = shown[0]["recovered_signals"].as_array().unwrap();
    assert_eq!(recovered.len(), 2, "{shown}");
    for signal in recovered {
        // All but that of the update, which only the user knows.
        assert_eq!(signal["proofs"], DIDS - 1, "{shown}");
        assert_eq!(signal["incomplete_proofs"].as_object().unwrap().len(), 1);
    }
    let fetch = ["proof", "fetch", &cohort.id];
    let hashes = updates.iter().flat_map(|update| ["--update-hash", update]);
    let fetch: Vec<_> = fetch.into_iter().chain(hashes).collect();
    member.answer(&fetch).await;
    for (signal, number) in cohort.signals.iter().zip([0, DIDS - 1]) {
        for number in [number, 7] {
            proves(member, &cohort, signal, &did(number)).await;
        }
    }
    member.answer(&["rollback", "confirm"]).await;
    net.request_update(&cohort, 1).await;
    let signal = net.confirmed(&mut cohort).await;
    proves(&net.members[0], &cohort, &signal, &did(1)).await;
}
