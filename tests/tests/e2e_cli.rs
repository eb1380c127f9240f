//! The command line without an agent: help, offline answers, and errors of one line that say what to do.

use std::collections::BTreeSet;
use std::fs;

use beacon_tests::harness::{Binary, Output, Scratch, run};
use serde_json::{Value, json};

const DID: &str = "did:peer:2.Vz6MkgExXQ5es6n7Fie6SdyEdhYgYA5VDtzDwCJUGWGspWemo.Ez6LSePN8SKTBYuyMjpYZrYjFqoKARsnrPqYwBuRSByoLX8bP.SeyJ0IjoiZG0iLCJzIjp7InVyaSI6IndzOi8vbG9jYWxob3N0Ojg3NjUiLCJhIjpbImRpZGNvbW0vdjIiXSwiciI6W119fQ";

const AGENTS: [Binary; 2] = [Binary::Coordinator, Binary::Participant];

/// Nothing on standard output, and this one line on standard error.
fn says(output: &Output, code: i32, error: &str) {
    let expected = (code, "", format!("error: {error}\n"));
    let got = (output.code, output.stdout.as_str(), output.stderr.clone());
    assert_eq!(got, expected);
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        // Continued descriptions are indented further.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_command_explains_itself() {
    let expected = [
        (
            Binary::Coordinator,
            "cohort, cohort advertise, cohort close, cohort close-admission, cohort dissolve, cohort fund, cohort list, cohort replace, cohort show, did, events, \
             evidence, evidence export, evidence list, evidence verify, keys, keys decrypt, keys encrypt, keys export, \
             keys import, keys list, keys passphrase, run, session, session export-psbt, session list, session start, status, subscribers",
        ),
        (
            Binary::Participant,
            "approve, cohorts, decline, did, did add-beacon, did contest, did create, did deactivate, did key, did list, did show, did update, \
             didcomm, didcomm pack, didcomm send, didcomm unpack, events, evidence, evidence verify, fallback, fallback combine, fallback create, fallback send, fallback sign, join, keys, keys decrypt, keys encrypt, \
             keys export, keys import, keys list, keys passphrase, leave, proof, proof export, proof fetch, proof verify, \
             recovery, recovery export, recovery key, recovery spend, request-update, resolve, resolver, resolver serve, rollback, rollback confirm, rollback show, run, session, session export-psbt, session import-psbt, sessions, \
             sidecar, sidecar export, signer, status, subscribe, unsubscribe",
        ),
        (Binary::Regtest, ""),
    ];
    for (binary, all) in expected {
        let mut found = BTreeSet::new();
        let mut open: Vec<Vec<String>> = vec![Vec::new()];
        while let Some(path) = open.pop() {
            let output = run(binary, path.iter().map(String::as_str).chain(["--help"])).await;
            assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{path:?}");
            assert!(
                output.stdout.contains("Usage: "),
                "{path:?}: {}",
                output.stdout
            );
            assert!(
                !output.stdout.starts_with('\n'),
                "{path:?} has no description"
            );
            if path.is_empty() {
                let example = format!("  {} ", binary.name());
                assert!(output.stdout.contains("Examples:\n"), "{}", output.stdout);
                assert!(output.stdout.contains(&example), "{}", output.stdout);
                let codes = output.stdout.contains("Exit codes:");
                assert!(codes, "{}", output.stdout);
            } else {
                found.insert(path.join(" "));
            }
            for command in commands(&output.stdout) {
                let mut path = path.clone();
                path.push(command);
                open.push(path);
            }
        }
        let found: Vec<_> = found.into_iter().collect();
        assert_eq!(found.join(", "), all, "{}", binary.name());
        let version = run(binary, ["--version"]).await;
        assert_eq!(version.code, 0);
        assert!(
            version.stdout.starts_with(binary.name()),
            "{}",
            version.stdout
        );
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2() {
    let wrong: [(Binary, &[&str], &str); 9] = [
        (Binary::Coordinator, &[], "Usage: beacon-coordinator"),
        (
            Binary::Coordinator,
            &["dance"],
            "unrecognized subcommand 'dance'",
        ),
        (Binary::Coordinator, &["run", "--lisen", "x"], "'--listen'"),
        (
            Binary::Coordinator,
            &["run", "--listen", "nowhere"],
            "'nowhere' for '--listen <IP:PORT>'",
        ),
        (
            Binary::Coordinator,
            &["cohort", "advertise", "--term", "x"],
            "got \"x\", expected NAME=VALUE",
        ),
        (
            Binary::Participant,
            &["run", "--network", "moon"],
            "got network \"moon\", expected mainnet, testnet3",
        ),
        (Binary::Participant, &["join", "1"], "--did <DID>"),
        (
            Binary::Regtest,
            &["--listen", "0.0.0.0:80"],
            "got 0.0.0.0, expected a loopback address with a port",
        ),
        (
            Binary::Regtest,
            &["--speed", "9"],
            "unexpected argument '--speed'",
        ),
    ];
    for (binary, arguments, words) in wrong {
        let output = run(binary, arguments.iter().copied()).await;
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (2, ""),
            "{arguments:?}: {output:?}"
        );
        assert!(
            output.stderr.contains(words),
            "{arguments:?}: {}",
            output.stderr
        );
        if !arguments.is_empty() && binary != Binary::Regtest {
            assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        }
    }
}

#[tokio::test]
async fn without_its_agent_a_command_says_how_to_start_it() {
    let scratch = Scratch::new();
    let home = scratch.path().join("home").display().to_string();
    let coordinator: [&[&str]; 4] = [
        &["status"],
        &["cohort", "list"],
        &["session", "start", "x"],
        &["events"],
    ];
    let participant: [&[&str]; 4] = [
        &["status"],
        &["subscribe", DID],
        &["approve", "x"],
        &["proof", "export", "x"],
    ];
    for (binary, commands) in [
        (Binary::Coordinator, coordinator),
        (Binary::Participant, participant),
    ] {
        for command in commands {
            let output = run(binary, ["--data-dir", &home].iter().chain(command).copied()).await;
            let error = format!(
                "no agent is running at {home}/control.sock: start it with the `run` command and the same --data-dir"
            );
            says(&output, 3, &error);
        }
    }
    assert!(!fs::exists(home).unwrap(), "asking makes no home");
}

#[tokio::test]
async fn a_value_out_of_range_names_itself_the_expectation_and_the_remedy() {
    let scratch = Scratch::new();
    let home = scratch.path().join("home").display().to_string();
    let file = scratch.path().join("config.toml").display().to_string();
    let flags: [(&[&str], &str); 6] = [
        (
            &[],
            "chain_url: got none, expected an Esplora server, such as --chain-url http://127.0.0.1:3002 (beacon-regtest serves one), or a Bitcoin Core node with --chain bitcoind",
        ),
        (
            &["--chain-url", "ftp://x"],
            "chain_url: got \"ftp://x\", expected http:// or https:// followed by a host, such as http://127.0.0.1:3002",
        ),
        (
            &["--fee-rate", "0"],
            "fee_rate: got 0, expected 1 to 100000 sat/vB, or auto",
        ),
        (
            &["--chain-poll-ms", "1"],
            "chain_poll_ms: got 1, expected 50 to 3600000 milliseconds",
        ),
        (
            &["--network", "mainnet"],
            "network: got mainnet, expected a test network, or accept_mainnet_risk = true (--accept-mainnet-risk) beside it: on mainnet real bitcoin is at risk: what a cohort's address holds can be spent only with the signatures of all members, so that one lost seed, or one member that is gone for good, leaves it there for ever, unless the terms have a script tree; the cohort's DIDs can be updated only as long as all members sign, and can be resolved only as long as each keeps its proofs; this software is young and nobody has audited it: send no more than you can lose",
        ),
        (
            &["--listen", "0.0.0.0:80"],
            "listen: got 0.0.0.0:80, expected a --public-url beside it: the URL is part of the DID, and nobody can dial this address",
        ),
    ];
    let remedy = "see --help of run for the names and values";
    let files = [
        (
            "[limits]\nheartbeat_s = 0".to_owned(),
            "heartbeat_s: got 0, expected 1 to 3600".to_owned(),
        ),
        (
            "[limits]\nmax_message_bytes = 1".to_owned(),
            "max_message_bytes: got 1, expected 4096 to 67108864".to_owned(),
        ),
        (
            "listen = \"nowhere\"".to_owned(),
            format!(
                "configuration {file}: got \"nowhere\", expected an address with a port, such as 127.0.0.1:8765, for key `listen`: {remedy}"
            ),
        ),
    ];
    for binary in AGENTS {
        for (arguments, error) in flags {
            let listen = binary == Binary::Coordinator && !arguments.contains(&"--listen");
            let listen: &[&str] = if listen {
                &["--listen", "127.0.0.1:1"]
            } else {
                &[]
            };
            let all = [&["--data-dir", &home, "run"], listen, arguments].concat();
            let output = run(binary, all).await;
            says(&output, 2, error);
        }
        for (text, error) in &files {
            fs::write(&file, text).unwrap();
            let output = run(binary, ["--data-dir", &home, "--config", &file, "run"]).await;
            says(&output, 2, error);
        }
        for (text, words) in [
            ("fee_rat = 3", "unknown field `fee_rat`"),
            ("fee_rate = ", "line 1, column 12"),
            ("fee_rate = \"much\"", "\"much\""),
        ] {
            fs::write(&file, text).unwrap();
            let output = run(binary, ["--data-dir", &home, "--config", &file, "run"]).await;
            assert_eq!(
                (output.code, output.stderr.lines().count()),
                (2, 1),
                "{output:?}"
            );
            assert!(
                output.stderr.contains(words) && output.stderr.contains(remedy),
                "{output:?}"
            );
        }
        let missing = format!("{file}.none");
        let output = run(binary, ["--data-dir", &home, "--config", &missing, "run"]).await;
        assert_eq!(
            (output.code, output.stderr.lines().count()),
            (2, 1),
            "{output:?}"
        );
        assert!(
            output.stderr.contains(&missing) && output.stderr.contains("not found"),
            "{output:?}"
        );
    }
    let output = run(Binary::Coordinator, ["--data-dir", &home, "run"]).await;
    let error = "listen: got none, expected an address such as --listen 127.0.0.1:8765, or a --public-url: it is part of the DID";
    says(&output, 2, error);
    assert!(
        !fs::exists(home).unwrap(),
        "nothing was touched before the configuration was right"
    );
}

#[tokio::test]
async fn resolve_prints_a_resolution_result_in_any_case() {
    let output = run(Binary::Participant, ["resolve", DID]).await;
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    let members: Vec<_> = result.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        [
            "didDocument",
            "didDocumentMetadata",
            "didResolutionMetadata"
        ]
    );
    let document = &result["didDocument"];
    assert_eq!(document["id"], DID);
    assert_eq!(
        document["@context"],
        json!([
            "https://www.w3.org/ns/did/v1",
            "https://w3id.org/security/multikey/v1"
        ])
    );
    assert_eq!(document["verificationMethod"][0]["id"], "#key-1");
    assert_eq!(document["verificationMethod"][1]["id"], "#key-2");
    assert_eq!(document["keyAgreement"], json!(["#key-2"]));
    assert_eq!(document["service"][0]["type"], "DIDCommMessaging");
    for (did, code) in [
        ("did:web:example.org", "METHOD_NOT_SUPPORTED"),
        ("did:btcr3:k1q", "METHOD_NOT_SUPPORTED"),
        ("did:btcr2:k1q", "INVALID_DID"),
        ("did:peer:2.nothing", "INVALID_DID"),
        ("nonsense", "INVALID_DID"),
    ] {
        let output = run(Binary::Participant, ["resolve", did]).await;
        assert_eq!(output.code, 1, "{output:?}");
        let result: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(result["didDocument"], Value::Null);
        assert_eq!(result["didResolutionMetadata"]["error"], code);
        let said = format!("{did} does not resolve: {code}: ");
        assert!(output.stderr.contains(&said), "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_proof_file_that_cannot_be_read_is_no_verdict() {
    let scratch = Scratch::new();
    let file = scratch.path().join("proof.json").display().to_string();
    let verify = [
        "proof",
        "verify",
        "--did",
        "did:example:a",
        "--proof",
        &file,
    ];
    let output = run(Binary::Participant, verify).await;
    let missing = format!("cannot read proof file {file}: No such file or directory (os error 2)");
    says(&output, 2, &missing);
    fs::write(&file, "{ no JSON").unwrap();
    let output = run(Binary::Participant, verify).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    // JSON that is no proof is a verdict.
    fs::write(&file, "{}").unwrap();
    let output = run(Binary::Participant, verify).await;
    assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
    assert!(
        output.stderr.starts_with("error: invalid proof: "),
        "{output:?}"
    );
    let output = run(
        Binary::Participant,
        verify.into_iter().chain(["--root", "zz"]),
    )
    .await;
    says(
        &output,
        2,
        "--root: got 2 characters, expected 64 (32 bytes in hex)",
    );
    let output = run(
        Binary::Participant,
        ["proof", "verify", "--did", "a", "--proof", &file],
    )
    .await;
    says(
        &output,
        2,
        "got --did \"a\", expected a DID, which begins with did:",
    );
}
