//! Lives of did:btcr2 identifiers in cohorts: what a stranger with the exported file resolves before and after each change.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::dids::{adding, beacon_service, newest, resolve, write_json};
use beacon_tests::harness::{Net, Output, Regtest, Resolver};
use serde_json::{Value, json};

/// One line on standard error with these words, and nothing else.
fn refused(output: &Output, words: &str) {
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
    assert!(output.stderr.contains(words), "{words}: {output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
}

/// Resolves, and expects no document but this error.
async fn unresolved(chain: &Regtest, did: &str, sidecar: &Value, code: &str) {
    let output = resolve(chain, did, sidecar, &["--min-conf", "1"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(result["didDocument"], Value::Null);
    assert_eq!(result["didResolutionMetadata"]["error"], code, "{result}");
}

/// Whichever byte of the sidecar is another one: the DID does not resolve, or to the same document, for not every byte matters.
async fn no_change_makes_another_document(net: &Net, did: &str, sidecar: &Value) {
    let expected = newest(&net.chain, did, sidecar).await["didDocument"].clone();
    let home = net.scratch.path();
    let options = [
        "--chain-url",
        net.chain.url(),
        "--ip-requests-per-s",
        "1000",
    ];
    let server = Resolver::start(home, &options).await;
    let path = format!("/1.0/identifiers/{did}");
    let text = json!({ "sidecar": sidecar, "minConf": 1 }).to_string();
    assert_eq!(
        server.post(&path, "", &text).json()["didDocument"],
        expected
    );
    let begin = text.find("\"sidecar\":").unwrap();
    let mut refused = 0;
    // Prime, so that all members are met.
    for place in (begin..text.len()).step_by(61) {
        let mut changed = text.clone().into_bytes();
        changed[place] ^= 1;
        let Ok(changed) = String::from_utf8(changed) else {
            continue;
        };
        let found = server.post(&path, "", &changed);
        let document = found.json()["didDocument"].clone();
        match found.status {
            200 => assert_eq!(document, expected, "byte {place}"),
            400 | 404 | 500 => {
                assert_eq!(document, Value::Null, "byte {place}");
                refused += 1;
            }
            _ => panic!("byte {place}: {found:?}"),
        }
    }
    assert!(refused > 20, "{refused} of {} bytes", text.len());
}

/// One DID is updated, and the one of another member is not, in a cohort of this kind. Its evidence in the sidecar is in
/// this member.
async fn one_updates_and_one_does_not(kind: &str, evidence: &str) {
    let mut net = Net::start(&[Signs, Signs, Signs]).await;
    let terms = json!({ "confirmations": 1, "beacon_type": kind });
    let mut cohort = net.form(&[0, 1, 2], terms).await;
    let mut dids = Vec::new();
    for member in &mut net.members[..2] {
        let did = member.create_did(kind, &cohort).await;
        member.register(&did, &cohort).await;
        dids.push(did);
    }
    let [updated, idle] = [&dids[0], &dids[1]];
    net.fund(&cohort).await;
    for (member, did) in dids.iter().enumerate() {
        assert_eq!(net.version(member, did).await, "1");
    }
    net.announce(0, &mut cohort, updated, &adding("first"))
        .await;

    let mut sidecars = Vec::new();
    for (member, did) in dids.iter().enumerate() {
        sidecars.push(net.members[member].sidecar(did).await);
        assert_eq!(sidecars[member][evidence].as_array().unwrap().len(), 1);
    }
    let found = newest(&net.chain, updated, &sidecars[0]).await;
    assert_eq!(found["didDocumentMetadata"]["versionId"], "2");
    assert_eq!(found["didDocument"]["service"][1]["id"], "#first");
    // With 6 confirmations, as is the default, the signal is not there yet.
    let early = resolve(&net.chain, updated, &sidecars[0], &[]).await;
    let early: Value = serde_json::from_str(&early.stdout).unwrap();
    assert_eq!(early["didDocumentMetadata"]["versionId"], "1");
    // What the other did not announce is proven as well: nothing else would tell it from what is withheld.
    let found = newest(&net.chain, idle, &sidecars[1]).await;
    assert_eq!(found["didDocumentMetadata"]["versionId"], "1");
    assert_eq!(
        found["didDocument"]["service"].as_array().unwrap().len(),
        1,
        "{found}"
    );
    for (did, sidecar) in dids.iter().zip(&sidecars) {
        let mut without = sidecar.clone();
        without[evidence] = json!([]);
        unresolved(&net.chain, did, &without, "MISSING_UPDATE_DATA").await;
    }
    let mut without = sidecars[0].clone();
    without["updates"] = json!([]);
    unresolved(&net.chain, updated, &without, "MISSING_UPDATE_DATA").await;
    no_change_makes_another_document(&net, updated, &sidecars[0]).await;

    // The next signal, in which the other one is updated: each needs its evidence of both.
    net.announce(1, &mut cohort, idle, &adding("second")).await;
    for (member, did) in dids.iter().enumerate() {
        assert_eq!(net.version(member, did).await, "2");
        unresolved(&net.chain, did, &sidecars[member], "MISSING_UPDATE_DATA").await;
    }
    if kind == "SMTBeacon" {
        // Another one's proof is none.
        let mut swapped = net.members[1].sidecar(idle).await;
        swapped[evidence] = net.members[0].sidecar(updated).await[evidence].clone();
        unresolved(&net.chain, idle, &swapped, "INVALID_SIGNAL_DATA").await;
    }
}

#[tokio::test]
async fn in_a_tree_each_did_is_proven_to_be_updated_or_not() {
    one_updates_and_one_does_not("SMTBeacon", "smtProofs").await;
}

#[tokio::test]
async fn a_map_says_of_each_did_whether_it_is_updated() {
    one_updates_and_one_does_not("CASBeacon", "casUpdates").await;
}

#[tokio::test]
async fn after_a_rotation_the_old_beacon_says_nothing_about_the_did() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let terms = || json!({ "confirmations": 1 });
    let mut old = net.form(&[0, 1], terms()).await;
    let mut new = net.form(&[0, 1], terms()).await;
    let did = net.members[0].create_did("SMTBeacon", &old).await;
    net.members[0].register(&did, &old).await;
    net.fund(&old).await;
    net.fund(&new).await;

    // A beacon that the DID is not registered with would announce what nobody can prove.
    let service = beacon_service(&did, "SMTBeacon", &new);
    let rotation = json!([{ "op": "replace", "path": "/service/0", "value": service }]);
    let early = net.members[0].request_patch(&old, &did, &rotation).await;
    refused(&early, "is not registered in cohort");
    net.members[0].register(&did, &new).await;
    let early = net.members[0].request_patch(&new, &did, &rotation).await;
    refused(&early, "has no beacon at");
    assert_eq!(net.version(0, &did).await, "1");
    net.announce(0, &mut old, &did, &rotation).await;
    assert_eq!(net.version(0, &did).await, "2");

    // Whatever the old one announces, even the next update, changes nothing. Its signals are looked through all the same, so
    // that proofs of them are needed.
    let before = net.members[0].sidecar(&did).await;
    let document = newest(&net.chain, &did, &before).await["didDocument"].clone();
    assert_eq!(document["service"], json!([service]));
    let (document, patch) = (document.to_string(), adding("next").to_string());
    let change = json!({ "did": did, "document": document, "version": 3, "patch": patch });
    let signed = net.members[0].call("did.sign_update", change).await;
    let id = signed["update_id"].as_str().unwrap();
    let by_hash = [
        "request-update",
        &old.id,
        "--did",
        &did,
        "--version-id",
        "3",
    ];
    let by_hash = [&by_hash[..], &["--update-hash", id]].concat();
    net.members[0].answer(&by_hash).await;
    net.confirmed(&mut old).await;
    unresolved(&net.chain, &did, &before, "MISSING_UPDATE_DATA").await;
    let sidecar = net.members[0].sidecar(&did).await;
    let found = newest(&net.chain, &did, &sidecar).await;
    assert_eq!(found["didDocumentMetadata"]["versionId"], "2");
    assert_eq!(found["didDocument"]["service"], json!([service]));
    let late = net.members[0]
        .request_patch(&old, &did, &adding("late"))
        .await;
    refused(
        &late,
        &format!(
            "the newest document of {did} has no beacon at {}",
            old.address
        ),
    );

    net.announce(0, &mut new, &did, &adding("next")).await;
    let sidecar = net.members[0].sidecar(&did).await;
    assert_eq!(sidecar["updates"].as_array().unwrap().len(), 2);
    for (version, services) in [("1", 1), ("2", 1), ("3", 2)] {
        let flags = ["--min-conf", "1", "--version-id", version];
        let output = resolve(&net.chain, &did, &sidecar, &flags).await;
        assert_eq!(output.code, 0, "{output:?}");
        let result: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(result["didDocumentMetadata"]["versionId"], version);
        let found = result["didDocument"]["service"].as_array().unwrap();
        assert_eq!(found.len(), services, "{result}");
    }
}

/// Away from a cohort, to an address of the controller's own: from then on it needs nobody.
#[tokio::test]
async fn a_did_leaves_its_cohort_for_an_address_of_its_own() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "confirmations": 1 })).await;
    let made = net.members[0].answer(&["did", "create", "--new"]).await;
    let own = made["document"]["service"][2].clone();
    let address = own["serviceEndpoint"].as_str().unwrap();
    let address = address.trim_start_matches("bitcoin:").to_owned();
    let did = made["did"].as_str().unwrap().to_owned();
    net.members[0].register(&did, &cohort).await;
    net.chain.fund(&address, 50_000);
    net.fund(&cohort).await;

    let shared = beacon_service(&did, "SMTBeacon", &cohort);
    let only =
        |service: &Value| json!([{ "op": "replace", "path": "/service", "value": [service] }]);
    let alone = async |net: &Net, patch: &Value| {
        let file = write_json(&net.scratch.path().join("patch.json"), patch);
        let command = ["did", "update", "--did", &did, "--patch", &file];
        let command = [&command[..], &["--min-conf", "1"]].concat();
        net.members[0].command(&command).await
    };
    let output = alone(&net, &only(&shared)).await;
    assert_eq!(output.code, 0, "{output:?}");
    net.chain.mine();
    assert_eq!(net.version(0, &did).await, "2");
    // Its own address is no beacon of it any more, and what is spent there announces nothing.
    refused(&alone(&net, &adding("early")).await, "no singleton beacon");
    net.announce(0, &mut cohort, &did, &only(&own)).await;
    assert_eq!(net.version(0, &did).await, "3");

    let late = adding("late");
    let late = net.members[0].request_patch(&cohort, &did, &late).await;
    refused(&late, "has no beacon at");
    net.request_update(&cohort, 1).await;
    net.confirmed(&mut cohort).await;
    assert_eq!(net.version(0, &did).await, "3");
    let output = alone(&net, &adding("alone")).await;
    assert_eq!(output.code, 0, "{output:?}");
    net.chain.mine();
    let sidecar = net.members[0].sidecar(&did).await;
    let found = newest(&net.chain, &did, &sidecar).await;
    assert_eq!(found["didDocumentMetadata"]["versionId"], "4");
    assert_eq!(found["didDocument"]["service"][0], own);
    assert_eq!(found["didDocument"]["service"][1]["id"], "#alone");
}

#[tokio::test]
async fn a_did_that_was_deactivated_through_its_cohort_stays_so() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "confirmations": 1 })).await;
    let did = net.members[0].create_did("SMTBeacon", &cohort).await;
    net.members[0].register(&did, &cohort).await;
    net.fund(&cohort).await;
    assert_eq!(net.version(0, &did).await, "1");
    let end = json!([{ "op": "add", "path": "/deactivated", "value": true }]);
    net.announce(0, &mut cohort, &did, &end).await;

    let sidecar = net.members[0].sidecar(&did).await;
    let found = newest(&net.chain, &did, &sidecar).await;
    let metadata = &found["didDocumentMetadata"];
    assert_eq!(
        (&metadata["versionId"], &metadata["deactivated"]),
        (&json!("2"), &json!(true))
    );
    let server = Resolver::start(net.scratch.path(), &["--chain-url", net.chain.url()]).await;
    let options = json!({ "sidecar": sidecar, "minConf": 1 }).to_string();
    let answer = server.post(&format!("/1.0/identifiers/{did}"), "", &options);
    assert_eq!((answer.status, answer.json()), (410, found));

    let late = net.members[0]
        .request_patch(&cohort, &did, &adding("late"))
        .await;
    refused(&late, "is deactivated, so it cannot be updated any more");
    // The cohort goes on, and the DID stays as it is.
    net.request_update(&cohort, 1).await;
    net.confirmed(&mut cohort).await;
    assert_eq!(net.version(0, &did).await, "2");
}

/// A version is what the chain says. When its block is replaced by one without the signal, the version goes; nothing else may
/// take its place, and once the signal is brought back, it is there again.
#[tokio::test]
async fn a_version_goes_with_its_block_and_comes_back_with_its_signal() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    let did = net.members[0].create_did("SMTBeacon", &cohort).await;
    net.members[0].register(&did, &cohort).await;
    net.fund(&cohort).await;
    net.announce(0, &mut cohort, &did, &adding("first")).await;
    assert_eq!(net.version(0, &did).await, "2");
    let txid = cohort.signals[0].txid.to_string();
    let fits = |event: &Value| event["txid"] == txid;
    let before = (
        net.members[0].last_seq().await,
        net.coordinator.last_seq().await,
    );

    net.coordinator.kill();
    net.chain.reorganise();
    assert_eq!(net.version(0, &did).await, "1");
    let gone = net.members[0].wait_after(before.0, "signal_gone", fits);
    let gone = gone.await.seq;
    let rival = adding("rival");
    let rival = net.members[0].request_patch(&cohort, &did, &rival).await;
    refused(&rival, &format!("signal {txid} announces update"));

    // A node forgets what waits when it ends: somebody has to bring the signal back.
    net.chain.restart().await;
    net.chain.mine();
    assert_eq!(net.version(0, &did).await, "1");
    net.coordinator.restart().await;
    let coordinator = &mut net.coordinator;
    coordinator
        .wait_after(before.1, "signal_broadcast", fits)
        .await;
    net.chain.mine();
    assert_eq!(net.version(0, &did).await, "2");
    net.members[0]
        .wait_after(gone, "signal_confirmed", fits)
        .await;
    net.announce(0, &mut cohort, &did, &adding("second")).await;
    assert_eq!(net.version(0, &did).await, "3");
}
