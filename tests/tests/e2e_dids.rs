//! did:btcr2 identifiers as users make, update, export and restore them with the real binaries; whoever has the exported file
//! and the chain resolves them.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::dids::{adding, genesis, newest, write_json};
use beacon_tests::harness::{Agent, Binary, Net, Output, Scratch};
use serde_json::{Value, json};

/// A participant that does not run.
fn idle(name: &str, folder: &Path) -> Agent {
    Agent::new(name, Binary::Participant, folder, Vec::new())
}

/// One line on standard error with these words, and this exit code.
fn fails(output: &Output, code: i32, words: &str) {
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (code, ""),
        "{output:?}"
    );
    assert!(output.stderr.contains(words), "{words}: {output:?}");
    assert_eq!(output.stderr.trim_end().lines().count(), 1, "{output:?}");
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member]
        .as_str()
        .unwrap_or_else(|| panic!("no {member} in {value}"))
}

#[tokio::test]
async fn dids_come_back_from_the_seed_and_from_their_records() {
    let scratch = Scratch::new();
    let alice = idle("alice", scratch.path());
    let first = alice
        .answer(&["did", "create", "--new", "--network", "regtest"])
        .await;
    let key = alice.answer(&["did", "key", "--network", "regtest"]).await;
    let second = alice
        .answer(&["did", "create", "--new", "--network", "regtest"])
        .await;
    assert_eq!(first["key"]["path"], "m/1643'/1'/0'");
    assert_eq!(key["path"], "m/1643'/1'/1'");
    assert_eq!(second["key"]["path"], "m/1643'/1'/2'");
    assert_eq!(first["document"]["id"], first["did"]);
    assert_eq!(first["beacons"].as_array().unwrap().len(), 3);
    let file = write_json(
        &scratch.path().join("genesis.json"),
        &genesis(&key, &json!([])),
    );
    let made = [
        "did",
        "create",
        "--network",
        "regtest",
        "--genesis-document",
        &file,
    ];
    let third = alice.answer(&made).await;
    assert!(text(&third, "did").starts_with("did:btcr2:x1"), "{third}");
    assert!(
        text(&third, "warning").contains("no singleton beacon"),
        "{third}"
    );
    // A key that is here as well as one that is elsewhere.
    let elsewhere = ["did", "create", "--network", "signet", "--public-key"];
    let own = [&elsewhere[..], &[text(&key, "publicKey")]].concat();
    assert_eq!(alice.answer(&own).await["key"]["path"], key["path"]);
    let generator = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let foreign = alice.answer(&[&elsewhere[..], &[generator]].concat()).await;
    assert!(
        text(&foreign["key"], "note").contains("signed where the key is"),
        "{foreign}"
    );
    let all = alice.answer(&["did", "list"]).await;
    assert_eq!(
        (all["dids"].as_array().unwrap().len(), &all["problems"]),
        (5, &json!([]))
    );

    let keys = alice.answer(&["keys", "list"]).await;
    let path = |path: &Value| {
        let mut keys = keys["keys"].as_array().unwrap().iter();
        keys.find(|key| key["path"] == *path).unwrap().clone()
    };
    let purpose = format!("key of {}", text(&first, "did"));
    assert_eq!(path(&first["key"]["path"])["purpose"], purpose);
    assert_eq!(path(&key["path"])["public_key"], key["publicKey"]);

    // From the words alone: the k DIDs, by their index.
    let words = alice
        .command(&["keys", "export", "--as", "phrase", "--yes"])
        .await;
    let file = scratch.path().join("words");
    fs::write(&file, words.stdout).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let restored = idle("restored", scratch.path());
    restored
        .answer(&["keys", "import", &file.display().to_string()])
        .await;
    assert_eq!(restored.answer(&["did", "list"]).await["dids"], json!([]));
    let index = ["did", "create", "--new", "--network", "regtest", "--index"];
    assert_eq!(
        restored.answer(&[&index[..], &["2"]].concat()).await,
        second
    );
    assert_eq!(restored.answer(&[&index[..], &["0"]].concat()).await, first);
    // With a copy of the records, all of them.
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([alice.data_dir().join("dids"), restored.data_dir()])
        .status();
    assert!(copied.unwrap().success());
    assert_eq!(restored.answer(&["did", "list"]).await, all);

    // A damaged file is named, and hides nothing else.
    let damaged = restored
        .data_dir()
        .join("dids")
        .join(text(&third, "did"))
        .join("genesis.json");
    let mut content = fs::read_to_string(&damaged).unwrap();
    content = content.replacen("Multikey", "Multikez", 1);
    fs::write(&damaged, content).unwrap();
    let listed = restored.answer(&["did", "list"]).await;
    assert_eq!(listed["dids"].as_array().unwrap().len(), 4);
    let problem = listed["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with(&damaged.display().to_string()),
        "{problem}"
    );
    let shown = restored
        .command(&["did", "show", text(&third, "did")])
        .await;
    fails(&shown, 1, &damaged.display().to_string());
    let export = restored
        .command(&["sidecar", "export", "--did", text(&third, "did")])
        .await;
    fails(&export, 1, &damaged.display().to_string());
}

#[tokio::test]
async fn what_makes_no_did_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let alice = idle("alice", scratch.path());
    let create = async |arguments: &[&str]| {
        alice
            .command(&[&["did", "create"], arguments].concat())
            .await
    };
    let file = |name: &str, content: &Value| write_json(&scratch.path().join(name), content);
    let missing = scratch.path().join("none.json").display().to_string();
    fails(&create(&[]).await, 2, "--new");
    fails(
        &create(&["--new", "--public-key", "02"]).await,
        2,
        "cannot be used with",
    );
    fails(
        &create(&["--genesis-document", &missing]).await,
        2,
        &missing,
    );
    let broken = scratch.path().join("broken.json");
    fs::write(&broken, r#"{"id":"did:btcr2:_","id":"did:btcr2:_"}"#).unwrap();
    let broken = broken.display().to_string();
    fails(
        &create(&["--genesis-document", &broken]).await,
        2,
        "a second time",
    );
    let other = file("other.json", &json!({ "id": "did:btcr2:k1q" }));
    fails(
        &create(&["--genesis-document", &other]).await,
        1,
        "expected \"did:btcr2:_\"",
    );
    let empty = file("empty.json", &json!({ "id": "did:btcr2:_" }));
    fails(
        &create(&["--genesis-document", &empty]).await,
        1,
        "/@context",
    );
    fails(
        &create(&["--new", "--network", "moon"]).await,
        1,
        "expected one of bitcoin, signet, regtest",
    );
    fails(
        &create(&["--public-key", "02ff"]).await,
        1,
        "expected a compressed secp256k1 key",
    );
    fails(
        &create(&["--new", "--index", "2147483648"]).await,
        1,
        "expected at most 2147483647",
    );
    let stranger = "did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96";
    fails(
        &alice.command(&["did", "show", stranger]).await,
        1,
        "`did create` makes the record",
    );
    assert_eq!(alice.answer(&["did", "list"]).await["dids"], json!([]));
}

/// How many updates and proofs a sidecar has.
fn counts(sidecar: &Value) -> (usize, usize) {
    let count = |member: &str| sidecar[member].as_array().map_or(0, Vec::len);
    (count("updates"), count("smtProofs"))
}

#[tokio::test]
async fn an_update_through_a_cohort_is_resolved_by_a_stranger_with_the_exported_file() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "confirmations": 1 })).await;
    let alice = &net.members[0];
    let did = alice.create_did("SMTBeacon", &cohort).await;
    let other = alice.answer(&["did", "create", "--new"]).await;
    let other = text(&other, "did").to_owned();

    // Both DIDs are registered before anything is announced for them.
    let first = adding("first");
    fails(
        &alice.request_patch(&cohort, &did, &first).await,
        1,
        "is not registered in cohort",
    );
    let add = ["did", "add-beacon", "--cohort", &cohort.id, "--did", &other];
    // The k DID would get the cohort's beacon by an update that its singleton beacons announce, with money that it lacks.
    fails(&alice.command(&add).await, 1, "send it some 2000 sat");
    net.members[0].register(&did, &cohort).await;
    let alice = &net.members[0];
    fails(
        &alice.request_patch(&cohort, &other, &first).await,
        1,
        "`did add-beacon` adds it",
    );

    net.fund(&cohort).await;
    let output = net.members[0].request_patch(&cohort, &did, &first).await;
    assert_eq!(output.code, 0, "{output:?}");
    let requested: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(requested["version"], 2);
    assert!(Path::new(text(&requested, "file")).is_file());
    let again = net.members[0].request_patch(&cohort, &did, &first).await;
    assert_eq!(
        serde_json::from_str::<Value>(&again.stdout).unwrap(),
        requested
    );
    let signal = net.confirmed(&mut cohort).await;

    let sidecar = net.members[0].sidecar(&did).await;
    assert_eq!(counts(&sidecar), (1, 1));
    let result = newest(&net.chain, &did, &sidecar).await;
    assert_eq!(result["didDocumentMetadata"]["versionId"], "2", "{result}");
    assert_eq!(result["didDocument"]["service"][1]["id"], "#first");
    let shown = net.members[0].answer(&["did", "show", &did]).await;
    assert_eq!(
        shown["updates"][0]["announced"][0]["txid"],
        signal.txid.to_string()
    );
    // The other DID announced nothing.
    let sidecar = net.members[0].sidecar(&other).await;
    assert_eq!(counts(&sidecar), (0, 1));
    let result = newest(&net.chain, &other, &sidecar).await;
    assert_eq!(result["didDocumentMetadata"]["versionId"], "1", "{result}");

    // A second update to the same version would make the DID unresolvable, whoever asks for it.
    let document = shown["first_document"].to_string();
    let rival = json!({ "did": did, "document": document, "version": 2, "patch": adding("rival").to_string() });
    let refused = net.members[0]
        .try_call("did.sign_update", rival)
        .await
        .unwrap_err();
    let announced = format!(
        "signal {} announces update {} to version 2",
        signal.txid,
        text(&requested, "update_id")
    );
    assert!(refused.to_string().contains(&announced), "{refused}");

    // The next one goes on from there; until its block is deep enough, none is built on it.
    let output = net.members[0]
        .request_patch(&cohort, &did, &adding("second"))
        .await;
    assert_eq!(output.code, 0, "{output:?}");
    net.confirmed(&mut cohort).await;
    let sidecar = net.members[0].sidecar(&did).await;
    assert_eq!(counts(&sidecar), (2, 2));
    let result = newest(&net.chain, &did, &sidecar).await;
    assert_eq!(result["didDocumentMetadata"]["versionId"], "3", "{result}");
    let first = write_json(&net.scratch.path().join("first.json"), &first);
    let early = [
        "request-update",
        &cohort.id,
        "--did",
        &did,
        "--patch",
        &first,
    ];
    fails(
        &net.members[0].command(&early).await,
        1,
        "1 confirmations, expected at least 6",
    );
}
