//! The HTTP resolver as its clients see it: forms, statuses, limits, and its end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;

use beacon_tests::harness::{Binary, Regtest, Resolver, Scratch, Served, run};
use serde_json::{Value, json};

/// A key's DID on regtest, of which no chain has seen a signal.
const DID: &str = "did:btcr2:k1qgp45a3ycrpc54uqmq0z9zt2qnhtvlwxnhrv0phdkkzq9teq5j35y4stunrnq";

/// The published case without updates.
fn first_case() -> Value {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/btcr2/tests/vectors/did-btcr2-test-suite/regtest/k1/qgp45a3y/resolve/output.json");
    serde_json::from_str(&fs::read_to_string(suite).unwrap()).unwrap()
}

fn path(did: &str) -> String {
    format!("/1.0/identifiers/{did}")
}

#[tokio::test]
async fn results_and_documents_are_served_with_the_statuses_of_the_binding() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let server = Resolver::start(
        scratch.path(),
        &["--chain-url", chain.url(), "--network", "regtest"],
    )
    .await;
    let expected = first_case();
    let did = expected["didDocument"]["id"].as_str().unwrap();

    let answer = server.get(&path(did), "");
    assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    assert_eq!(
        answer.header("content-type"),
        Some("application/did-resolution")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let encoded = did.replace(':', "%3A");
    for (path, accept, media_type, body) in [
        (
            path(did),
            "application/did",
            "application/did",
            &expected["didDocument"],
        ),
        (
            path(did),
            "application/did-resolution",
            "application/did-resolution",
            &expected,
        ),
        (path(did), "application/json", "application/json", &expected),
        (
            format!("{}?versionId=1&minConf=3", path(&encoded)),
            "*/*",
            "application/did-resolution",
            &expected,
        ),
    ] {
        let answer = server.get(&path, accept);
        assert_eq!(
            (answer.status, &answer.json()),
            (200, body),
            "{path} {accept}"
        );
        assert_eq!(answer.header("content-type"), Some(media_type));
    }
    for body in ["", "{}", r#"{"sidecar":{},"minConf":1}"#] {
        let answer = server.post(&path(did), "", body);
        assert_eq!(
            (answer.status, answer.json()),
            (200, expected.clone()),
            "{body}"
        );
    }

    let other = "did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96";
    for (path, accept, body, status, error) in [
        (path("nonsense"), "", None, 400, "INVALID_DID"),
        (path("did:btcr2"), "", None, 400, "INVALID_DID"),
        (path(&did.to_uppercase()), "", None, 400, "INVALID_DID"),
        (
            path(&format!("{did}%23initialKey")),
            "",
            None,
            400,
            "INVALID_DID",
        ),
        (path(&format!("{did}/path")), "", None, 400, "INVALID_DID"),
        (path("%ff%fe"), "", None, 400, "INVALID_DID"),
        (
            path("did:web:example.org"),
            "",
            None,
            501,
            "METHOD_NOT_SUPPORTED",
        ),
        (path(other), "", None, 501, "FEATURE_NOT_SUPPORTED"),
        (
            path(did),
            "text/html",
            None,
            406,
            "REPRESENTATION_NOT_SUPPORTED",
        ),
        (
            format!("{}?versionId=2", path(did)),
            "",
            None,
            404,
            "NOT_FOUND",
        ),
        // Whatever form was wanted, an error is a result.
        (
            format!("{}?versionId=2", path(did)),
            "application/did",
            None,
            404,
            "NOT_FOUND",
        ),
        (
            format!("{}?versionId=x", path(did)),
            "",
            None,
            400,
            "INVALID_OPTIONS",
        ),
        (
            format!("{}?minConf=1&minConf=1", path(did)),
            "",
            None,
            400,
            "INVALID_OPTIONS",
        ),
        (
            format!("{}?versionId=1", path(did)),
            "",
            Some("{}"),
            400,
            "INVALID_OPTIONS",
        ),
        (path(did), "", Some("{"), 400, "INVALID_OPTIONS"),
        (
            path(did),
            "",
            Some(r#"{"sidecar":[]}"#),
            400,
            "INVALID_OPTIONS",
        ),
    ] {
        let answer = match body {
            None => server.get(&path, accept),
            Some(body) => server.post(&path, accept, body),
        };
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/did-resolution")
        );
        let result = answer.json();
        assert_eq!(result["didResolutionMetadata"]["error"], error, "{path}");
        assert_eq!(
            (&result["didDocument"], &result["didDocumentMetadata"]),
            (&Value::Null, &json!({}))
        );
    }

    assert_eq!(server.get("/1.0/methods", "").json(), json!(["btcr2"]));
    assert_eq!(
        server.get("/1.0/properties", "").json()["network"],
        "regtest"
    );
    assert_eq!(server.get("/health", "").json(), json!({ "status": "ok" }));
    assert_eq!(server.get("/", "").status, 404);
    assert_eq!(server.request("PUT", &path(did), "", "").status, 405);
}

#[tokio::test]
async fn bodies_requests_and_connections_are_limited() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let limits = [
        "--chain-url",
        chain.url(),
        "--max-body-bytes",
        "2000",
        "--ip-requests-per-s",
        "1",
        "--max-connections-per-ip",
        "3",
    ];
    let server = Resolver::start(scratch.path(), &limits).await;
    let fits = format!("{{{}}}", " ".repeat(1_998));
    assert_eq!(server.post(&path("nonsense"), "", &fits).status, 400);
    let answer = server.post(&path("nonsense"), "", &format!("{fits} "));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(
        answer.json()["didResolutionMetadata"]["error"],
        "INVALID_OPTIONS"
    );

    // Ten at once, of which two were used; one comes back each second.
    let statuses: Vec<_> = (0..30).map(|_| server.get(&path("nonsense"), "")).collect();
    let refused = statuses.iter().find(|answer| answer.status == 429);
    let refused = refused.expect("got no 429 in 30 requests at once");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(statuses[0].status, 400);
    assert_eq!(
        server.get("/health", "").status,
        200,
        "only resolution has a rate"
    );

    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    // They are accepted in turn: the fourth finds no place.
    let mut full = String::new();
    server.connect().read_to_string(&mut full).unwrap();
    assert!(full.starts_with("HTTP/1.1 503"), "{full}");
    drop(held);
}

#[tokio::test]
async fn a_signal_ends_it_with_success_even_with_an_idle_connection() {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    for name in ["TERM", "INT"] {
        let server = Resolver::start(scratch.path(), &["--chain-url", chain.url()]).await;
        assert_eq!(server.get(&path(DID), "").status, 200);
        let idle = server.connect();
        server.signal(name);
        assert_eq!(server.ended().await, Some(0), "after SIG{name}");
        drop(idle);
    }
}

/// A chain source that accepts and never answers holds up neither the others, nor the end.
#[tokio::test]
async fn a_chain_source_that_hangs_holds_nobody_up() {
    let scratch = Scratch::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let limits = ["--chain-url", &url, "--timeout-s", "1"];
    let limits = [&limits[..], &["--max-resolutions", "1"]].concat();
    let server = Resolver::start(scratch.path(), &limits).await;
    let error = |answer: &Served| answer.json()["didResolutionMetadata"]["error"].clone();
    let first = server.get(&path(DID), "");
    assert_eq!(
        (first.status, error(&first)),
        (500, json!("INTERNAL_ERROR"))
    );
    assert!(first.body.contains("no result in 1 seconds"), "{first:?}");
    // The first still waits for the source, and has the only place.
    let second = server.get(&path(DID), "");
    assert_eq!(
        (second.status, error(&second)),
        (503, json!("INTERNAL_ERROR"))
    );
    assert_eq!(second.header("retry-after"), Some("2"));
    assert_eq!(server.get("/health", "").status, 200);
    server.signal("TERM");
    assert_eq!(server.ended().await, Some(0));
}

#[tokio::test]
async fn the_command_says_how_far_it_is_when_it_takes_long() {
    let scratch = Scratch::new();
    fs::write(
        scratch.path().join("config.toml"),
        "[limits]\nchain_timeout_s = 3\n",
    )
    .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let home = scratch.path().display().to_string();
    let arguments = ["--data-dir", &home, "resolve", DID, "--chain-url", &url];
    let output = run(Binary::Participant, arguments).await;
    assert_eq!(output.code, 1, "{output:?}");
    let progress =
        "beacon-participant: resolving: asked for 0 addresses and 0 documents, found 0 signals\n";
    assert!(output.stderr.starts_with(progress), "{output:?}");
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(result["didResolutionMetadata"]["error"], "INTERNAL_ERROR");
}
