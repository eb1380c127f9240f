//! DIDs that come into a cohort after its first signal, with the real binaries: they get the proof that the signal says nothing
//! of them, and whoever has the exported file resolves them.

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{Net, dids};
use serde_json::json;

#[tokio::test]
async fn a_did_that_joins_after_a_signal_is_updated_and_resolved_by_a_stranger() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({ "confirmations": 1 })).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 1).await;
    let first = net.confirmed(&mut cohort).await;

    // Nothing shows yet what the first signal says of these DIDs.
    let did = net.members[0].create_did("SMTBeacon", &cohort).await;
    let sidecar = net.members[0].sidecar(&did).await;
    let output = dids::resolve(&net.chain, &did, &sidecar, &["--min-conf", "1"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    let made = net.members[0].answer(&["did", "create", "--new"]).await;
    let other = made["did"].as_str().unwrap_or_default().to_owned();
    let params = json!({ "cohort_id": cohort.id, "did": other });
    let service = net.members[0].call("did.beacon", params).await;
    assert_eq!(
        (&service["registered"], &service["proofs_missing"]),
        (&json!(false), &json!([first.txid.to_string()]))
    );

    // The registration brings it.
    net.members[0].register(&did, &cohort).await;
    assert_eq!(net.version(0, &did).await, "1");
    let add = ["did", "add-beacon", "--cohort", &cohort.id, "--did", &other];
    let endpoint = made["beacons"][2]["serviceEndpoint"].as_str();
    let address = endpoint.unwrap_or_default().trim_start_matches("bitcoin:");
    net.chain.fund(address, 20_000);
    let added = net.members[0].answer(&add).await;
    assert_eq!(added["version"], 2, "{added}");
    net.chain.mine();
    assert_eq!(net.version(0, &other).await, "2");

    // From here on it is a DID like any other.
    let patch = dids::adding("files");
    net.announce(0, &mut cohort, &did, &patch).await;
    assert_eq!(net.version(0, &did).await, "2");
    assert_eq!(net.version(0, &other).await, "2");
    let params = json!({ "cohort_id": cohort.id });
    let shown = net.coordinator.call("cohort.show", params).await;
    assert_eq!(shown["strikes"], json!([]), "{shown}");
}
