//! A member that signs outside of its agent, by PSBTs in files: real processes, a Bitcoin Core node that reads the same files,
//! and a signer that shares no code with them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use beacon_cohort::psbt::parse;
use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Agent, Net, Regtest, Scratch};
use bitcoin::bip32::Xpriv;
use bitcoin::secp256k1::Secp256k1;
use bitcoin::{NetworkKind, Psbt};
use serde_json::{Value, json};

#[path = "../../crates/cohort/tests/common/outside.rs"]
mod outside;

use outside::OutsideSigner;

/// The signer of whoever has these words: the PSBT says where below them the key is.
fn signer(words: &str, psbt: &Psbt) -> OutsideSigner {
    let seed = bip39::Mnemonic::parse(words.trim()).unwrap().to_seed("");
    let secp = Secp256k1::new();
    let master = Xpriv::new_master(NetworkKind::Test, &seed).unwrap();
    let (key, (_, (fingerprint, path))) = psbt.inputs[0].tap_key_origins.first_key_value().unwrap();
    assert_eq!(master.fingerprint(&secp), *fingerprint);
    let derived = master.derive_priv(&secp, path).unwrap();
    assert_eq!(derived.to_keypair(&secp).x_only_public_key().0, *key);
    OutsideSigner::new(derived.private_key.secret_bytes())
}

/// What a command wrote to this file.
fn load(path: &Path) -> Psbt {
    parse(&fs::read(path).unwrap()).unwrap()
}

async fn export(agent: &Agent, session: &str, path: &Path, options: &[&str]) -> Psbt {
    let file = path.display().to_string();
    let command = ["session", "export-psbt", session, "--out", &file];
    let answer = agent.answer(&[&command, options].concat()).await;
    assert_eq!(answer["session_id"], session);
    load(path)
}

async fn import(agent: &Agent, psbt: &Psbt, path: &Path) -> beacon_tests::harness::Output {
    fs::write(path, psbt.serialize()).unwrap();
    let file = path.display().to_string();
    agent.command(&["session", "import-psbt", &file]).await
}

/// What the node makes of it.
fn decoded(chain: &Regtest, psbt: &Psbt) -> Value {
    chain.rpc("decodepsbt", &json!([STANDARD.encode(psbt.serialize())]))
}

fn count(decoded: &Value, field: &str) -> usize {
    decoded["inputs"][0][field].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_member_signs_outside_of_its_agent_and_the_signal_is_mined() {
    let scratch = Scratch::new();
    let folder: PathBuf = scratch.path().to_owned();
    let file = |name: &str| folder.join(name);
    let mut net = Net::start_on(scratch, Regtest::bitcoind(), &[Signs, Signs], &[]).await;
    let terms = json!({ "flow": "push", "response_deadline_s": 600 });
    let mut cohort = net.form(&[0, 1], terms).await;
    let chosen = ["signer", &cohort.id, "--by", "outside"];
    let answer = net.members[0].answer(&chosen).await;
    assert!(
        answer["next"].as_str().unwrap().contains("600 s"),
        "{answer}"
    );
    net.fund(&cohort).await;
    net.request_update(&cohort, 1).await;

    // Everything about the session, and no nonce yet.
    let of = |event: &Value| event["cohort"] == cohort.id;
    let proposed = net.members[0].wait("signal_proposed", of).await;
    let session = proposed.value["session"].as_str().unwrap().to_owned();
    let mut psbt = export(&net.members[0], &session, &file("bare.psbt"), &["--binary"]).await;
    assert!(
        fs::read(file("bare.psbt"))
            .unwrap()
            .starts_with(b"psbt\xff")
    );
    let seen = decoded(&net.chain, &psbt);
    let listed = &seen["inputs"][0]["musig2_participant_pubkeys"][0];
    assert_eq!(listed["participant_pubkeys"].as_array().unwrap().len(), 2);
    let change = &seen["outputs"][0]["musig2_participant_pubkeys"][0];
    assert_eq!(change, listed, "{seen}");
    let sessions = net.members[0].call("sessions", Value::Null).await;
    assert_eq!(sessions[0]["status"], "waiting-for-outside-nonces");

    // A signer that only has the words and the file.
    let words = fs::read_to_string(net.members[0].data_dir().join("seed")).unwrap();
    let mut signer = signer(&words, &psbt);
    signer.add_nonces(&mut psbt, [21; 32]);
    let output = import(&net.members[0], &psbt, &file("nonces.psbt")).await;
    assert_eq!(output.code, 0, "{output:?}");
    net.members[0].wait("nonce_committed", of).await;

    // The agent ends and starts again: nothing that it has not is lost.
    net.members[0].terminate().await;
    net.members[0].restart().await;
    let peer = net.members[1].did().to_owned();
    let given = |event: &Value| event["peer"] == peer;
    net.coordinator.wait("partial_given", given).await;
    net.members[0].wait("partial_authorized", of).await;
    let all = ["--from-coordinator"];
    let mut psbt = export(&net.members[0], &session, &file("all.psbt"), &all).await;
    let seen = decoded(&net.chain, &psbt);
    assert_eq!(count(&seen, "musig2_pubnonces"), 2, "{seen}");
    assert_eq!(count(&seen, "musig2_partial_sigs"), 1, "{seen}");

    // One that does not verify is not sent.
    let before = psbt.clone();
    signer.add_partials(&mut psbt);
    let mut wrong = psbt.clone();
    let new = |key: &&bitcoin::psbt::raw::Key| !before.inputs[0].unknown.contains_key(key);
    let field = psbt.inputs[0].unknown.keys().find(new).unwrap();
    wrong.inputs[0].unknown.get_mut(field).unwrap()[31] ^= 1;
    let output = import(&net.members[0], &wrong, &file("wrong.psbt")).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("does not verify"), "{output:?}");
    let seen = decoded(&net.chain, &psbt);
    assert_eq!(count(&seen, "musig2_partial_sigs"), 2, "{seen}");
    let output = import(&net.members[0], &psbt, &file("partials.psbt")).await;
    assert_eq!(output.code, 0, "{output:?}");
    let signal = net.confirmed(&mut cohort).await;
    net.verify(&cohort, &signal).await;

    // The node puts the partial signatures together as the coordinator did, and reads the finished PSBT.
    let hex = bitcoin::consensus::encode::serialize_hex(&signal.transaction);
    let combined = [&before, &psbt].map(|psbt| STANDARD.encode(psbt.serialize()));
    let combined = net.chain.rpc("combinepsbt", &json!([combined]));
    let finalized = net.chain.rpc("finalizepsbt", &json!([combined]));
    assert_eq!(finalized["complete"], true, "{finalized}");
    assert_eq!(finalized["hex"], hex);
    for (agent, options) in [(&net.coordinator, &[][..]), (&net.members[0], &all)] {
        let finished = export(agent, &session, &file("finished.psbt"), options).await;
        let extracted = finished.clone().extract_tx_unchecked_fee_rate();
        assert_eq!(bitcoin::consensus::encode::serialize_hex(&extracted), hex);
        let finalized = STANDARD.encode(finished.serialize());
        let finalized = net.chain.rpc("finalizepsbt", &json!([finalized]));
        assert_eq!(
            (&finalized["complete"], &finalized["hex"]),
            (&json!(true), &json!(hex))
        );
    }
    let unknown = "00000000-0000-0000-0000-000000000404";
    let output = net
        .coordinator
        .command(&["session", "export-psbt", unknown])
        .await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("under way or was signed"),
        "{output:?}"
    );
    fs::write(file("garbage"), "garbage").unwrap();
    let garbage = file("garbage").display().to_string();
    let output = net.members[0]
        .command(&["session", "import-psbt", &garbage])
        .await;
    assert_eq!(output.code, 2, "{output:?}");
}
