//! Agents as processes: their files, their lock, their end, and what they say when they cannot begin.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::{
    Agent, Binary, Net, Output, Regtest, Scratch, Stranger, coordinator, free_port, run,
};
use serde_json::{Value, json};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// One clear line, and this exit code.
fn fails(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    let errors: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{output:?}");
    assert!(!output.stderr.contains("panicked"), "{output:?}");
    for word in words {
        assert!(
            errors[0].contains(word),
            "{word:?} is missing: {}",
            errors[0]
        );
    }
}

struct Alone {
    coordinator: Agent,
    chain: Regtest,
    scratch: Scratch,
}

async fn alone() -> Alone {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    Alone {
        coordinator: coordinator(scratch.path(), &chain, &[]).await,
        chain,
        scratch,
    }
}

#[tokio::test]
async fn everything_in_a_home_is_private() {
    let net = Net::start(&[Signs]).await;
    for agent in [&net.coordinator, &net.members[0]] {
        let home = agent.data_dir();
        assert_eq!(mode(&home), 0o700, "{}", agent.name());
        for file in fs::read_dir(&home).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        let socket = fs::symlink_metadata(agent.socket()).unwrap();
        assert!(socket.file_type().is_socket());
        assert!(home.join("seed").is_file());
        // No line of the log has a word of the seed phrase beside its neighbour.
        let phrase = fs::read_to_string(home.join("seed")).unwrap();
        let words: Vec<_> = phrase.split_whitespace().collect();
        let log = agent.log();
        for pair in words.windows(2) {
            assert!(!log.contains(&pair.join(" ")), "the seed is in the log");
        }
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_home() {
    let one = alone().await;
    let home = one.coordinator.data_dir().display().to_string();
    let pid = format!("process {}", one.coordinator.id());
    let listen = format!("127.0.0.1:{}", free_port());
    let arguments = [
        "--data-dir",
        &home,
        "run",
        "--chain-url",
        one.chain.url(),
        "--listen",
        &listen,
    ];
    let output = run(Binary::Coordinator, arguments).await;
    fails(
        &output,
        1,
        &[&home, "in use by", &pid, "stop that one first"],
    );
    // Of the other kind as well: the home is one agent's.
    let output = run(Binary::Participant, arguments).await;
    fails(&output, 1, &[&pid]);
    // The first one has not noticed.
    assert_eq!(one.coordinator.event_count().await, 0);
}

#[tokio::test]
async fn sigterm_closes_in_due_form_and_everything_is_there_again() {
    let mut net = Net::start(&[Signs, Signs]).await;
    let cohort = net.form(&[0, 1], json!({})).await;
    let mut stranger = Stranger::connect(&net.coordinator.url()).await;
    let did = net.coordinator.did().to_owned();
    assert_eq!(stranger.answers(&did).await, []);
    let show = ["cohort", "show", &cohort.id];
    let before = net.coordinator.answer(&show).await;
    let events = net.coordinator.event_count().await;
    let socket = net.coordinator.socket();
    assert_eq!(net.coordinator.terminate().await, 0);
    assert_eq!(stranger.receive().await.unwrap_err(), 1001, "going away");
    assert!(!socket.exists(), "the control socket goes with the process");
    assert!(net.coordinator.log().contains("stopped"));
    // The harness sees to it that the DID is the same.
    net.coordinator.restart().await;
    assert_eq!(net.coordinator.event_count().await, events);
    assert_eq!(net.coordinator.answer(&show).await, before);
    for member in &mut net.members {
        assert_eq!(member.terminate().await, 0, "{}", member.name());
        member.restart().await;
    }
}

#[tokio::test]
async fn a_killed_process_leaves_a_home_that_opens() {
    let mut one = alone().await;
    let id = one.coordinator.call("cohort.advertise", json!({})).await["cohort_id"].clone();
    one.coordinator.kill();
    assert!(
        one.coordinator.socket().exists(),
        "nobody removed the socket"
    );
    one.coordinator.restart().await;
    let cohorts = one.coordinator.call("cohort.list", Value::Null).await;
    assert_eq!(cohorts[0]["cohort_id"], id);
    assert_eq!(cohorts.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_damaged_home_is_one_clear_line() {
    let mut one = alone().await;
    assert_eq!(one.coordinator.terminate().await, 0);
    let home = one.coordinator.data_dir();
    let listen = one.coordinator.url().replace("ws://", "");
    let (seed, state) = (home.join("seed"), home.join("state.redb"));
    let start = async || {
        let home = home.display().to_string();
        let arguments = [
            "--data-dir",
            &home,
            "run",
            "--chain-url",
            one.chain.url(),
            "--listen",
            &listen,
        ];
        run(Binary::Coordinator, arguments).await
    };

    set_mode(&seed, 0o644);
    fails(
        &start().await,
        1,
        &["seed", "mode 0644", "expected 0600", "chmod 600"],
    );
    set_mode(&seed, 0o600);
    let phrase = fs::read_to_string(&seed).unwrap();
    fs::write(&seed, "abandon abandon abandon\n").unwrap();
    fails(
        &start().await,
        1,
        &["seed", "got 3 words, expected 24", "restore"],
    );
    // Neither without its seed nor with another one: its memberships would be gone without a word.
    let other = "abandon ".repeat(23) + "art\n";
    fs::write(&seed, other).unwrap();
    fails(&start().await, 1, &["is not the seed", "backup"]);
    fs::remove_file(&seed).unwrap();
    fails(&start().await, 1, &["seed is missing", "backup"]);
    assert!(!seed.exists(), "no other one was made");
    fs::write(&seed, phrase).unwrap();
    set_mode(&seed, 0o600);

    let intact = fs::read(&state).unwrap();
    fs::write(&state, b"this was never a database\n".repeat(400)).unwrap();
    fails(&start().await, 1, &["state.redb"]);
    let mut damaged = intact.clone();
    damaged.truncate(intact.len() / 3);
    fs::write(&state, damaged).unwrap();
    fails(&start().await, 1, &["state.redb"]);
    fs::write(&state, intact).unwrap();

    set_mode(&home, 0o777);
    fails(&start().await, 1, &["mode 0777", "chmod 700"]);
    set_mode(&home, 0o700);
    // All of it put right.
    one.coordinator.restart().await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let mut one = alone().await;
    let other_home = one.scratch.path().join("other").display().to_string();
    let listen = one.coordinator.url().replace("ws://", "");
    let chain = one.chain.url().to_owned();
    // The port is taken.
    let arguments = [
        "--unencrypted-keys",
        "--data-dir",
        &other_home,
        "run",
        "--chain-url",
        &chain,
        "--listen",
        &listen,
    ];
    let output = run(Binary::Coordinator, arguments).await;
    fails(&output, 1, &["cannot listen on", &listen, "choose another"]);
    // Another endpoint would be another DID.
    assert_eq!(one.coordinator.terminate().await, 0);
    let home = one.coordinator.data_dir().display().to_string();
    let arguments = [
        "--data-dir",
        &home,
        "run",
        "--chain-url",
        &chain,
        "--public-url",
        "ws://127.0.0.1:1",
    ];
    let output = run(Binary::Coordinator, arguments).await;
    fails(&output, 1, &["ws://127.0.0.1:1", "--change-endpoint"]);
    // The chain of another network.
    let arguments = [
        "--data-dir",
        &home,
        "run",
        "--chain-url",
        &chain,
        "--listen",
        &listen,
        "--network",
        "signet",
    ];
    let output = run(Binary::Coordinator, arguments).await;
    assert_eq!(output.code, 1, "{output:?}");
    let says = [
        "(regtest), expected",
        "(a signet)",
        "point chain_url at a source for the configured network",
    ];
    assert_eq!(output.code, 1, "{output:?}");
    for words in says {
        assert!(output.stderr.contains(words), "{output:?}");
    }
    // Mainnet, where nobody has accepted what is at risk.
    let arguments = ["--data-dir", &home, "run", "--network", "mainnet"];
    let output = run(Binary::Coordinator, arguments).await;
    fails(&output, 2, &["accept_mainnet_risk = true", "one lost seed"]);
    let others = [
        "--chain-url",
        &chain,
        "--listen",
        &listen,
        "--accept-mainnet-risk",
    ];
    let arguments = arguments.into_iter().chain(others);
    let output = run(Binary::Coordinator, arguments.chain(["--unencrypted-keys"])).await;
    fails(&output, 2, &["unencrypted_keys: got true on mainnet"]);
}

#[tokio::test]
async fn a_home_with_cohorts_of_another_network_is_refused_by_name() {
    let mut one = alone().await;
    let advertised = one.coordinator.call("cohort.advertise", json!({}));
    assert_eq!(advertised.await["terms"]["btc_network"], "regtest");
    let params = json!({ "terms": { "btc_network": "signet" } });
    let answer = one.coordinator.try_call("cohort.advertise", params).await;
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("got signet, expected regtest"), "{error}");
    assert_eq!(one.coordinator.terminate().await, 0);
    let home = one.coordinator.data_dir().display().to_string();
    let listen = one.coordinator.url().replace("ws://", "");
    let arguments = [
        "--data-dir",
        &home,
        "run",
        "--chain-url",
        one.chain.url(),
        "--listen",
        &listen,
        "--network",
        "signet",
    ];
    let output = run(Binary::Coordinator, arguments).await;
    fails(
        &output,
        1,
        &[
            "this agent has cohorts on regtest",
            "says signet",
            "--data-dir for signet",
        ],
    );
}
