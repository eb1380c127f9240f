//! DIDs that come into a cohort after its first signal, with the real binaries: they get the proof that the signal says nothing
//! of them, and whoever has the exported file resolves them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Binary, Cohort, Net, Output, run};
use serde_json::{Value, json};

/// What a stranger finds, who has the exported file and the chain.
async fn resolved(net: &Net, did: &str) -> (Output, Value) {
    let folder = net.scratch.path();
    let file = folder.join(format!("{did}.json")).display().to_string();
    let exported = ["sidecar", "export", "--did", did, "--out", &file];
    let told = net.members[0].answer(&exported).await;
    let nobody = folder.join("nobody").display().to_string();
    let url = net.chain.url();
    let arguments = [
        "resolve",
        did,
        "--sidecar",
        &file,
        "--min-conf",
        "1",
        "--chain-url",
        url,
        "--data-dir",
        &nobody,
    ];
    (run(Binary::Participant, arguments).await, told)
}

/// The version that the stranger finds.
async fn version(net: &Net, did: &str) -> String {
    let (output, told) = resolved(net, did).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(told["proofs_missing"], json!([]), "{told}");
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    let version = &result["didDocumentMetadata"]["versionId"];
    version
        .as_str()
        .unwrap_or_else(|| panic!("{result}"))
        .to_owned()
}

/// A DID whose first document has the cohort's beacon.
async fn create_with_beacon(net: &Net, cohort: &Cohort) -> String {
    let key = net.members[0].answer(&["did", "key"]).await;
    let genesis = json!({
        "@context": ["https://www.w3.org/ns/did/v1.1", "https://btcr2.dev/context/v1"],
        "id": "did:btcr2:_",
        "verificationMethod": [{
            "id": "did:btcr2:_#key", "type": "Multikey", "controller": "did:btcr2:_",
            "publicKeyMultibase": key["publicKeyMultibase"],
        }],
        "capabilityInvocation": ["did:btcr2:_#key"],
        "service": [{
            "id": "did:btcr2:_#cohort", "type": "SMTBeacon", "serviceEndpoint": format!("bitcoin:{}", cohort.address),
        }],
    });
    let file = net.scratch.path().join("genesis.json");
    std::fs::write(&file, genesis.to_string()).unwrap();
    let file = file.display().to_string();
    let made = net.members[0]
        .answer(&["did", "create", "--genesis-document", &file])
        .await;
    made["did"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_did_that_joins_after_a_signal_is_updated_and_resolved_by_a_stranger() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "confirmations": 1 })).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 1).await;
    let first = net.confirmed(&mut cohort).await;

    // Nothing shows yet what the first signal says of these DIDs.
    let did = create_with_beacon(&net, &cohort).await;
    let (output, _) = resolved(&net, &did).await;
    assert_eq!(output.code, 1, "{output:?}");
    let other = net.members[0].answer(&["did", "create", "--new"]).await;
    let other = other["did"].as_str().unwrap().to_owned();
    let params = json!({ "cohort_id": cohort.id, "did": other });
    let service = net.members[0].call("did.beacon", params).await;
    assert_eq!(
        (&service["registered"], &service["proofs_missing"]),
        (&json!(false), &json!([first.txid.to_string()]))
    );
    let add = ["did", "add-beacon", "--cohort", &cohort.id, "--did", &other];
    let refused = net.members[0].command(&add).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("was not registered"), "{refused:?}");

    // The registration brings it.
    let member = &mut net.members[0];
    let asked = member.wait("registered", |event| cohort.has(event)).await;
    member.answer(&["join", &cohort.id, "--did", &did]).await;
    member
        .wait_after(asked.seq, "registered", |event| cohort.has(event))
        .await;
    assert_eq!(version(&net, &did).await, "1");
    let added = net.members[0].answer(&add).await;
    assert_eq!(added["version"], 2, "{added}");

    // From here on it is a DID like any other.
    let service =
        json!({ "id": "#files", "type": "Files", "serviceEndpoint": "https://example.org/" });
    let patch = net.scratch.path().join("patch.json");
    std::fs::write(
        &patch,
        json!([{ "op": "add", "path": "/service/-", "value": service }]).to_string(),
    )
    .unwrap();
    let patch = patch.display().to_string();
    let request = [
        "request-update",
        &cohort.id,
        "--did",
        &did,
        "--patch",
        &patch,
    ];
    let requested = net.members[0].answer(&request).await;
    assert_eq!(requested["version"], 2, "{requested}");
    net.confirmed(&mut cohort).await;
    assert_eq!(version(&net, &did).await, "2");
    assert_eq!(
        version(&net, &other).await,
        "1",
        "its update was never announced"
    );
    let struck = net
        .coordinator
        .call("cohort.show", json!({ "cohort_id": cohort.id }))
        .await;
    assert_eq!(struck["strikes"], json!([]), "{struck}");
}
