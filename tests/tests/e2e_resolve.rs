//! did:btcr2 resolved by the real binary: published cases from files, and updates on a private chain; by command and by HTTP.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use beacon_btcr2::json::hash;
use beacon_btcr2::{Did, Document, GenesisBytes, Network, Patch, UnsignedUpdate, initial, proof};
use beacon_tests::harness::{Binary, Output, Regtest, Resolver, Scratch, run, run_with};
use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, Secp256k1, TapTweak as _};
use bitcoin::secp256k1::Message;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, taproot};
use serde_json::{Value, json};

/// The published cases.
fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/btcr2/tests/vectors/did-btcr2-test-suite/regtest")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A published case as files.
struct Case {
    did: String,
    scratch: Scratch,
    options: Value,
    signals: String,
}

impl Case {
    fn new(set: &str) -> Self {
        Self::of(set, "resolve")
    }

    /// One of a set's several cases.
    fn of(set: &str, case: &str) -> Self {
        let folder = suite().join(set);
        let input = read(&folder.join(case).join("input.json"));
        let scratch = Scratch::new();
        let signals = folder.join("signals.json");
        let signals = if signals.exists() {
            signals
        } else {
            let none = scratch.path().join("none.json");
            fs::write(&none, "[]").unwrap();
            none
        };
        Self {
            did: input["did"].as_str().unwrap().to_owned(),
            options: input["resolutionOptions"].clone(),
            signals: signals.display().to_string(),
            scratch,
        }
    }

    fn file(&self, name: &str, value: &Value) -> String {
        let path = self.scratch.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path.display().to_string()
    }

    async fn resolve(&self, flags: &[&str]) -> Output {
        let options = self.file("options.json", &self.options);
        let mut arguments = vec!["resolve", &self.did, "--options", &options];
        arguments.extend(["--signals", &self.signals]);
        arguments.extend(flags);
        run(Binary::Participant, arguments).await
    }
}

/// The result of a command that found a document.
fn resolved(output: &Output) -> Value {
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

/// That a command found none, and why.
fn failed(output: &Output, code: &str) -> Value {
    assert_eq!(output.code, 1, "{output:?}");
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(result["didDocument"], Value::Null);
    assert_eq!(result["didDocumentMetadata"], json!({}));
    assert_eq!(result["didResolutionMetadata"]["error"], code, "{output:?}");
    let said = format!(" does not resolve: {code}: ");
    assert!(output.stderr.contains(&said), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    result
}

#[tokio::test]
async fn published_cases_resolve_through_the_command() {
    for set in [
        "k1/qgp45a3y",
        "k1/qgph7nre",
        "k1/qgpx06u2",
        "k1/qgp0enf0",
        "x1/qgxluz9h",
        "x1/qfwwah7z",
        "x1/qfqxmcf0",
        "x1/qtcszm9j",
        "x1/q2tyuy6t",
    ] {
        let case = Case::new(set);
        let result = resolved(&case.resolve(&[]).await);
        let expected = read(&suite().join(set).join("resolve/output.json"));
        assert_eq!(result, expected, "{set}");
    }
    // At a time between its third version and a repetition of the update to the second. The suite has no file for it.
    let case = Case::of("k1/qgp0enf0", "resolve/01");
    let mut expected = read(&suite().join("k1/qgp0enf0/resolve/output.json"));
    let result = resolved(&case.resolve(&[]).await);
    assert!(case.options["versionTime"].is_string());
    assert_eq!(result["didDocumentMetadata"]["versionId"], "3");
    assert_eq!(result["didDocument"], expected["didDocument"].take());
}

#[tokio::test]
async fn published_failures_have_their_codes_and_an_exit_code() {
    for (set, code) in [
        ("k1/qgp2ht79", "INVALID_DID_UPDATE"),
        ("k1/qgp5fh0e", "INVALID_DID_UPDATE"),
        ("k1/qgpepnx0", "LATE_PUBLISHING_ERROR"),
        ("x1/qgncuznq", "INVALID_SIGNAL_DATA"),
        ("x1/qttq27ml", "MISSING_UPDATE_DATA"),
    ] {
        failed(&Case::new(set).resolve(&[]).await, code);
    }
    // The suite has no case of a genesis document that is none.
    let genesis = json!({ "id": "did:btcr2:_", "verificationMethod": [] });
    let mut case = Case::new("k1/qgp45a3y");
    case.did = Did::new(Network::Regtest, GenesisBytes::Document(hash(&genesis))).to_string();
    case.options = json!({ "sidecar": { "genesisDocument": genesis } });
    let result = failed(&case.resolve(&[]).await, "INVALID_DID_DOCUMENT");
    let message = result["didResolutionMetadata"]["errorMessage"].to_string();
    assert!(message.contains("/@context"), "{message}");
}

#[tokio::test]
async fn documents_come_from_a_directory_whatever_their_names() {
    let set = "x1/qfgeftze";
    let case = Case::new(set);
    let folder = suite().join(set);
    let cas = case.scratch.path().join("cas");
    fs::create_dir(&cas).unwrap();
    let genesis = read(&folder.join("other.json"))["genesisDocument"].clone();
    fs::write(cas.join("one"), format!("  {genesis:#}\n")).unwrap();
    for (number, name) in [("01", "b.txt"), ("02", "a"), ("03", "c.json")] {
        let output = read(&folder.join(format!("update/{number}/output.json")));
        fs::write(cas.join(name), output["signedUpdate"].to_string()).unwrap();
    }
    let cas_flag = cas.display().to_string();
    let result = resolved(&case.resolve(&["--cas", &cas_flag]).await);
    assert_eq!(result, read(&folder.join("resolve/output.json")));

    // What is there beside the documents changes nothing but a line.
    fs::write(cas.join("notes"), "no JSON").unwrap();
    let output = case.resolve(&["--cas", &cas_flag]).await;
    assert_eq!(output.code, 0);
    assert!(output.stderr.contains("1 entries of "), "{output:?}");

    fs::remove_file(cas.join("c.json")).unwrap();
    fs::remove_file(cas.join("notes")).unwrap();
    failed(
        &case.resolve(&["--cas", &cas_flag]).await,
        "MISSING_UPDATE_DATA",
    );
    failed(&case.resolve(&[]).await, "NOT_FOUND");
    let nowhere = cas.join("nowhere").display().to_string();
    let output = case.resolve(&["--cas", &nowhere]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
}

#[tokio::test]
async fn flags_win_over_the_options_file() {
    let mut case = Case::new("k1/qgp0enf0");
    let version = |output: &Output| resolved(output)["didDocumentMetadata"]["versionId"].clone();
    assert_eq!(version(&case.resolve(&["--version-id", "2"]).await), "2");
    case.options["versionId"] = "2".into();
    assert_eq!(version(&case.resolve(&[]).await), "2");
    assert_eq!(version(&case.resolve(&["--version-id", "3"]).await), "3");
    let early = ["--version-time", "2026-01-31T23:59:59Z"];
    assert_eq!(version(&case.resolve(&early).await), "1");
    let both = [&early[..], &["--version-id", "1"]].concat();
    failed(&case.resolve(&both).await, "INVALID_OPTIONS");
    failed(&case.resolve(&["--version-id", "4"]).await, "NOT_FOUND");
    failed(
        &case.resolve(&["--version-id", "first"]).await,
        "INVALID_OPTIONS",
    );
    failed(&case.resolve(&["--min-conf", "0"]).await, "INVALID_OPTIONS");
    // The first signal has 319 confirmations, the second 297.
    case.options = json!({ "sidecar": case.options["sidecar"], "minConf": 400 });
    assert_eq!(version(&case.resolve(&[]).await), "1");
    assert_eq!(version(&case.resolve(&["--min-conf", "300"]).await), "2");
}

#[tokio::test]
async fn sidecar_data_comes_with_the_options_or_by_itself() {
    let mut case = Case::new("k1/qgph7nre");
    let sidecar = case.options["sidecar"].take();
    let file = case.file("sidecar.json", &sidecar);
    case.options = json!({});
    let result = resolved(&case.resolve(&["--sidecar", &file]).await);
    assert_eq!(result["didDocumentMetadata"]["versionId"], "2");
    failed(&case.resolve(&[]).await, "MISSING_UPDATE_DATA");

    case.options = json!({ "sidecar": sidecar });
    let output = case.resolve(&["--sidecar", &file]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    assert!(
        output.stderr.contains("expected it in one of them"),
        "{output:?}"
    );

    // A malformed file is an answer, one that cannot be read is none.
    case.options = json!({});
    for (text, words) in [
        (r#"{"updates":[],"updates":[]}"#, "/sidecar: got the member"),
        ("", "/sidecar: got the end at byte 0"),
        ("[]", "/sidecar: got an array, expected an object"),
        (r#"{"updates":[1]}"#, "/sidecar/updates/0: got a number"),
        (&"[".repeat(1 << 20), "/sidecar: got more than 23 levels"),
    ] {
        fs::write(&file, text).unwrap();
        let result = failed(
            &case.resolve(&["--sidecar", &file]).await,
            "INVALID_OPTIONS",
        );
        let message = result["didResolutionMetadata"]["errorMessage"].to_string();
        assert!(message.contains(words), "{message}");
    }
    // More than is read of it, and no blocks on the disk.
    let huge = fs::File::create(&file).unwrap();
    huge.set_len(1 << 40).unwrap();
    failed(
        &case.resolve(&["--sidecar", &file]).await,
        "INVALID_OPTIONS",
    );
    let missing = format!("{file}.missing");
    let output = case.resolve(&["--sidecar", &missing]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    case.options = json!([]);
    failed(&case.resolve(&[]).await, "INVALID_OPTIONS");
    case.options = json!({});
    case.signals = file;
    let output = case.resolve(&[]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    assert!(output.stderr.contains("signals file "), "{output:?}");
}

#[tokio::test]
async fn a_malformed_did_is_an_answer_and_a_missing_chain_is_none() {
    let did = "did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96";
    let data = Scratch::new();
    let data = data.path().display().to_string();
    let output = run(Binary::Participant, ["--data-dir", &data, "resolve", did]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    assert!(output.stderr.contains("give --chain-url"), "{output:?}");
    let upper = did.to_uppercase().replace("DID:BTCR2:", "did:btcr2:");
    let mut case = Case::new("k1/qgp45a3y");
    for did in [&upper, &did[..did.len() - 1], "did:btcr2:"] {
        did.clone_into(&mut case.did);
        failed(&case.resolve(&[]).await, "INVALID_DID");
    }
}

/// A controller with one key, whose DID is made from it, and its beacon at the taproot address of that key.
struct Controller {
    key: Keypair,
    did: Did,
    document: Document,
    version: u64,
    updates: Vec<Value>,
}

impl Controller {
    fn new(seed: u8) -> Self {
        let key = Keypair::from_seckey_slice(&Secp256k1::new(), &[seed; 32]).unwrap();
        let did = Did::new(Network::Regtest, GenesisBytes::Key(key.public_key()));
        let document = initial::from_key(&did).unwrap().unwrap();
        Self {
            key,
            did,
            document,
            version: 1,
            updates: Vec::new(),
        }
    }

    fn script(&self) -> ScriptBuf {
        let (internal, _) = self.key.x_only_public_key();
        ScriptBuf::new_p2tr(&Secp256k1::new(), internal, None)
    }

    fn address(&self) -> String {
        let address = bitcoin::Address::from_script(&self.script(), bitcoin::Network::Regtest);
        address.unwrap().to_string()
    }

    /// Signs the next update, keeps it for the sidecar, and says what announces it.
    fn update(&mut self, patch: Value) -> [u8; 32] {
        let patch = Patch::from_value(patch).unwrap();
        self.version += 1;
        let (update, target) =
            UnsignedUpdate::construct(&self.document, &patch, self.version).unwrap();
        let sign = |message: &[u8; 32]| proof::sign(&self.key, &[7; 32], message);
        let signed = update.sign(&self.document, "#initialKey", sign).unwrap();
        self.document = target;
        self.updates.push(signed.value().clone());
        hash(signed.value()).0
    }

    /// Spends a coin of the beacon: what is left goes back, and the last output carries the signal.
    fn signal(&self, coin: OutPoint, sats: u64, signal: [u8; 32]) -> Transaction {
        self.spend(coin, sats, &self.script(), signal)
    }

    /// Spends a coin of this controller's: what is left goes to `script`, and the last output carries 32 bytes.
    fn spend(&self, coin: OutPoint, sats: u64, script: &ScriptBuf, bytes: [u8; 32]) -> Transaction {
        let pay = |value, script_pubkey| TxOut {
            value: Amount::from_sat(value),
            script_pubkey,
        };
        let spent = [pay(sats, self.script())];
        let mut transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: coin,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![
                pay(sats - 500, script.clone()),
                pay(0, ScriptBuf::new_op_return(bytes)),
            ],
        };
        let sighash = SighashCache::new(&transaction)
            .taproot_key_spend_signature_hash(0, &Prevouts::All(&spent), TapSighashType::Default)
            .unwrap();
        let secp = Secp256k1::new();
        let key = self.key.tap_tweak(&secp, None).to_keypair();
        let signature = taproot::Signature {
            signature: secp
                .sign_schnorr_no_aux_rand(&Message::from_digest(sighash.to_byte_array()), &key),
            sighash_type: TapSighashType::Default,
        };
        transaction.input[0].witness = Witness::p2tr_key_spend(&signature);
        transaction
    }

    fn options(&self) -> Value {
        json!({ "sidecar": { "updates": self.updates } })
    }
}

/// Resolves by command and over HTTP, which must say the same, and gives the command's result.
async fn both(chain: &Regtest, server: &Resolver, did: &Did, options: &Value) -> (i32, Value) {
    let scratch = Scratch::new();
    let file = scratch.path().join("options.json");
    fs::write(&file, options.to_string()).unwrap();
    let file = file.display().to_string();
    let did = did.to_string();
    let arguments = [
        "resolve",
        &did,
        "--options",
        &file,
        "--chain-url",
        chain.url(),
    ];
    let output = run(Binary::Participant, arguments).await;
    let result: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let path = format!("/1.0/identifiers/{did}");
    let answer = server.post(&path, "", &options.to_string());
    assert_eq!(answer.json(), result);
    let deactivated = result["didDocumentMetadata"]["deactivated"] == true;
    assert_eq!(matches!(answer.status, 200 | 410), output.code == 0);
    assert_eq!(answer.status == 410, deactivated);
    (output.code, result)
}

/// A payment to a beacon is no signal, a spend is one as soon as it is buried deep enough, and none any more when its block is
/// replaced.
#[tokio::test]
async fn an_update_on_a_chain_is_resolved_by_command_and_by_http() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let server = Resolver::start(
        scratch.path(),
        &["--chain-url", chain.url(), "--network", "regtest"],
    )
    .await;
    let mut alice = Controller::new(11);
    let service =
        json!({ "id": "#a", "type": "Example", "serviceEndpoint": "https://example.org" });
    let announced = alice.update(json!([{ "op": "add", "path": "/service/-", "value": service }]));
    let mut options = alice.options();
    options["minConf"] = 1.into();
    let metadata = |found: &(i32, Value)| {
        assert_eq!(found.0, 0, "{}", found.1);
        let metadata = &found.1["didDocumentMetadata"];
        (
            metadata["versionId"].clone(),
            metadata["confirmations"].clone(),
        )
    };

    let coin = chain.fund(&alice.address(), 50_000);
    // Anyone can pay to a beacon, with any bytes in the last output.
    let mallory = Controller::new(12);
    let forged = chain.fund(&mallory.address(), 50_000);
    let payment = mallory.spend(forged, 50_000, &alice.script(), announced);
    chain.broadcast(&payment);
    chain.mine();
    let found = both(&chain, &server, &alice.did, &options).await;
    assert_eq!(metadata(&found), (json!("1"), json!(0)));

    let signal = alice.signal(coin, 50_000, announced);
    chain.broadcast(&signal);
    let found = both(&chain, &server, &alice.did, &options).await;
    assert_eq!(
        metadata(&found),
        (json!("1"), json!(0)),
        "the mempool does not count"
    );
    chain.mine();
    let found = both(&chain, &server, &alice.did, &options).await;
    assert_eq!(metadata(&found), (json!("2"), json!(1)));
    assert_eq!(found.1["didDocument"], *alice.document.value());

    // Six confirmations are wanted where nothing is said.
    let default = alice.options();
    let found = both(&chain, &server, &alice.did, &default).await;
    assert_eq!(metadata(&found), (json!("1"), json!(0)));
    for _ in 0..5 {
        chain.mine();
    }
    let found = both(&chain, &server, &alice.did, &default).await;
    assert_eq!(metadata(&found), (json!("2"), json!(6)));
    // Without the update's data nobody knows what was announced.
    let (code, result) = both(&chain, &server, &alice.did, &json!({})).await;
    assert_eq!(
        (code, result["didResolutionMetadata"]["error"].as_str()),
        (1, Some("MISSING_UPDATE_DATA"))
    );

    // A second one, which deactivates, and whose block is replaced.
    let end = alice.update(json!([{ "op": "add", "path": "/deactivated", "value": true }]));
    let last = alice.signal(OutPoint::new(signal.compute_txid(), 0), 49_500, end);
    chain.broadcast(&last);
    chain.mine();
    let mut options = alice.options();
    options["minConf"] = 1.into();
    let found = both(&chain, &server, &alice.did, &options).await;
    assert_eq!(metadata(&found), (json!("3"), json!(1)));
    assert_eq!(found.1["didDocumentMetadata"]["deactivated"], true);
    chain.reorganise();
    let found = both(&chain, &server, &alice.did, &options).await;
    assert_eq!(metadata(&found), (json!("2"), json!(8)));
    chain.mine();
    let found = both(&chain, &server, &alice.did, &options).await;
    assert_eq!(metadata(&found), (json!("3"), json!(1)));
}

#[tokio::test]
async fn a_chain_of_another_network_is_refused() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let key = Controller::new(1).key.public_key();
    let did = Did::new(Network::Signet, GenesisBytes::Key(key)).to_string();
    let output = run(
        Binary::Participant,
        ["resolve", &did, "--chain-url", chain.url()],
    )
    .await;
    let result = failed(&output, "FEATURE_NOT_SUPPORTED");
    let message = result["didResolutionMetadata"]["errorMessage"]
        .as_str()
        .unwrap();
    assert!(message.contains("a source for signet"), "{message}");
    // Nobody there.
    let mine = Controller::new(1).did.to_string();
    let output = run(
        Binary::Participant,
        ["resolve", &mine, "--chain-url", "http://127.0.0.1:9"],
    )
    .await;
    failed(&output, "INTERNAL_ERROR");
    // A server that could answer nothing does not start.
    let serve = [
        "resolver",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--network",
        "signet",
        "--chain-url",
        chain.url(),
    ];
    let output = run(Binary::Participant, serve).await;
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
}

/// Flags win over the environment, the environment over the file, also in commands that have no flag for it.
#[tokio::test]
async fn the_environment_holds_for_every_command() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    let nobody = "http://127.0.0.1:9";
    fs::write(
        home.join("config.toml"),
        format!("chain_url = \"{nobody}\"\n"),
    )
    .unwrap();
    let home = home.display().to_string();
    let did = Controller::new(1).did.to_string();
    let here = ("BEACON_PARTICIPANT_CHAIN_URL", chain.url());
    let nowhere = ("BEACON_PARTICIPANT_CHAIN_URL", nobody);
    let base = ["--data-dir", &home, "--unencrypted-keys", "--json"];
    let command = async |environment, arguments: &[&str]| {
        let all = [&base[..], arguments].concat();
        run_with(&[environment], Binary::Participant, all).await
    };
    let resolve = ["resolve", &did];
    resolved(&command(here, &resolve).await);
    failed(&command(nowhere, &resolve).await, "INTERNAL_ERROR");
    let flag = [&resolve[..], &["--chain-url", chain.url()]].concat();
    resolved(&command(nowhere, &flag).await);
    let serve = ["resolver", "serve", "--listen", "127.0.0.1:0"];
    let serve = [&serve[..], &["--network", "signet"]].concat();
    let output = command(here, &serve).await;
    assert!(output.stderr.contains("a source for signet"), "{output:?}");

    let network = |name| ("BEACON_PARTICIPANT_NETWORK", name);
    let create = ["did", "create", "--new"];
    let made: Value =
        serde_json::from_str(&command(network("signet"), &create).await.stdout).unwrap();
    assert_eq!(made["network"], "signet");
    for arguments in [&create[..], &["did", "list"], &resolve, &["keys", "list"]] {
        let output = command(network("moon"), arguments).await;
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
        let said = "invalid value 'moon' for '--network";
        assert!(output.stderr.contains(said), "{output:?}");
    }
}
