//! The real binary: the chain contract through `EsploraChain`, Esplora's paths, control, limits,
//! and how it starts and ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../crates/embedded/tests/contract/mod.rs"]
mod contract;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use beacon_chain::{Chain as _, EsploraChain};
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::{Address, OutPoint, Transaction};
use esplora_client::{BlockingClient, Builder};
use serde_json::Value;
use tempfile::TempDir;

use contract::{RegtestControl, Wallet, contract, pay};

const BINARY: &str = env!("CARGO_BIN_EXE_beacon-regtest");

/// A running `beacon-regtest`; killed when dropped.
struct Agent {
    child: Child,
    url: String,
    /// Where it makes its temporary directory: it cannot clean up when it is killed.
    _temporary: TempDir,
}

impl Agent {
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Command::new(BINARY)
            .env("TMPDIR", temporary.path())
            .arg("--json")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready");
        let url = ready["url"].as_str().unwrap().to_owned();
        Self {
            child,
            url,
            _temporary: temporary,
        }
    }

    fn chain(&self) -> EsploraChain {
        EsploraChain::new(&self.url, Duration::from_secs(30), 0).unwrap()
    }

    /// Esplora's client itself: it parses more shapes than our adapter uses.
    fn client(&self) -> BlockingClient {
        Builder::new(&self.url)
            .timeout(Duration::from_secs(30))
            .max_retries(0)
            .build_blocking()
    }

    /// One request as bytes on a socket. Returns status and body.
    fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let head = format!("{head}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // The server may answer and close before it has read a body that is too large.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, "")
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn control(&self, path: &str) -> Value {
        let (status, body) = self.request("POST", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill`: a minimal Debian has no program of that name.
        let order = format!("kill -s {name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &order]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RegtestControl for Agent {
    fn mine(&self, blocks: u32) {
        let answer = self.control(&format!("/regtest/mine?blocks={blocks}"));
        assert_eq!(answer["blocks"].as_array().unwrap().len(), blocks as usize);
    }

    fn fund(&self, address: &Address, sats: u64) -> OutPoint {
        let answer = self.control(&format!("/regtest/fund?address={address}&sats={sats}"));
        let vout = answer["vout"].as_u64().unwrap();
        let txid = answer["txid"].as_str().unwrap().parse().unwrap();
        OutPoint::new(txid, u32::try_from(vout).unwrap())
    }

    fn reorg(&self, depth: u32) {
        let answer = self.control(&format!("/regtest/reorg?depth={depth}"));
        assert_eq!(answer["replaced"], depth);
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

#[test]
fn the_esplora_source_keeps_the_contract() {
    let agent = Agent::start(&[]);
    contract(&agent.chain(), &agent);
    contract(&agent.chain(), &agent);
}

#[test]
fn a_spend_has_the_times_of_its_block() {
    let agent = Agent::start(&[]);
    let wallet = Wallet::new("time");
    let coin = agent.fund(&wallet.address(), 70_000);
    let spend = wallet.spend((coin, 70_000), vec![pay(&wallet.script(), 69_000)]);
    agent.chain().broadcast(&spend).unwrap();
    // Payment and spend in one block, which is not the last.
    agent.mine(2);
    let found = agent.chain().spends(&wallet.script()).unwrap();
    let [spend] = &found.transactions[..] else {
        panic!("got {found:?}, expected one spend");
    };
    let info = agent.client().get_block_info(&spend.block_hash).unwrap();
    let times = (info.height, info.timestamp, info.mediantime);
    let (time, median) = (u64::from(spend.block_time), u64::from(spend.median_time));
    assert_eq!((spend.height, time, median), times);
    assert_eq!(found.tip.height, spend.height + 1);
}

#[test]
fn blocks_are_served_in_every_form() {
    let agent = Agent::start(&[]);
    agent.mine(3);
    let client = agent.client();
    assert_eq!(client.get_height().unwrap(), 3);
    let tip = client.get_tip_hash().unwrap();
    assert_eq!(client.get_block_hash(3).unwrap(), tip);

    let block = client.get_block_by_hash(&tip).unwrap().unwrap();
    assert_eq!(block.block_hash(), tip);
    assert_eq!(client.get_header_by_hash(&tip).unwrap(), block.header);
    let status = client
        .get_block_status(&block.header.prev_blockhash)
        .unwrap();
    assert_eq!((status.in_best_chain, status.height), (true, Some(2)));
    assert_eq!(status.next_best, Some(tip));
    let info = client.get_block_info(&tip).unwrap();
    assert_eq!((info.id, info.height, info.tx_count), (tip, 3, 1));
    assert_eq!(info.previousblockhash, Some(block.header.prev_blockhash));
    let txids = client.get_block_txids(&tip).unwrap();
    assert_eq!(txids, [block.txdata[0].compute_txid()]);

    // After a reorganisation the block is still there, on a branch that was left.
    agent.reorg(1);
    let status = client.get_block_status(&tip).unwrap();
    assert_eq!(
        (status.in_best_chain, status.height, status.next_best),
        (false, None, None)
    );
    assert_eq!(client.get_block_by_hash(&tip).unwrap(), Some(block));
}

#[test]
fn transactions_and_addresses_are_served_in_esploras_shapes() {
    let agent = Agent::start(&[]);
    let wallet = Wallet::new("shapes");
    let coin = agent.fund(&wallet.address(), 90_000);
    agent.mine(1);
    let spend = wallet.spend((coin, 90_000), vec![pay(&wallet.script(), 89_700)]);
    let txid = spend.compute_txid();

    let answer = agent.request("POST", "/tx", &serialize_hex(&spend));
    assert_eq!(answer, (200, txid.to_string()));

    let client = agent.client();
    let info = client.get_tx_info(&txid).unwrap().unwrap();
    assert_eq!(info.to_tx(), spend);
    assert_eq!(info.fee.to_sat(), 300);
    assert!(!info.status.confirmed);
    assert_eq!(
        info.previous_outputs(),
        [Some(pay(&wallet.script(), 90_000))]
    );
    let (_, hex) = agent.get(&format!("/tx/{txid}/hex"));
    assert_eq!(deserialize_hex::<Transaction>(&hex).unwrap(), spend);
    let outspends = client.get_tx_outspends(&coin.txid).unwrap();
    assert_eq!((outspends[0].spent, outspends[0].txid), (true, Some(txid)));
    assert!(!client.get_tx_outspends(&txid).unwrap()[0].spent);

    let waiting = client.get_mempool_stats().unwrap();
    assert_eq!((waiting.count, waiting.total_fee.to_sat()), (1, 300));
    assert_eq!(waiting.fee_histogram.len(), 1);
    assert_eq!(client.get_mempool_txids().unwrap(), [txid]);

    let stats = client.get_address_stats(&wallet.address()).unwrap();
    assert_eq!(stats.chain_stats.funded_txo_sum.to_sat(), 90_000);
    assert_eq!(stats.mempool_stats.spent_txo_sum.to_sat(), 90_000);
    assert_eq!(stats.mempool_stats.funded_txo_sum.to_sat(), 89_700);
    assert_eq!(
        client
            .get_scripthash_stats(&wallet.script())
            .unwrap()
            .chain_stats,
        stats.chain_stats
    );
    let history = client.get_address_txs(&wallet.address(), None).unwrap();
    let ids: Vec<_> = history.iter().map(|transaction| transaction.txid).collect();
    assert_eq!(ids, [txid, coin.txid], "newest first");
    assert_eq!(
        client.get_scripthash_txs(&wallet.script(), None).unwrap(),
        history
    );
    let of_script = sha256::Hash::hash(wallet.script().as_bytes());
    for name in [
        format!("address/{}", wallet.address()),
        format!("scripthash/{of_script}"),
    ] {
        let page = agent.json(&format!("/{name}/txs/chain"));
        assert_eq!(page.as_array().unwrap().len(), 1, "only what is confirmed");
        assert_eq!(page[0]["txid"], coin.txid.to_string());
        let info = client.get_block_info(&client.get_tip_hash().unwrap());
        assert_eq!(page[0]["status"]["block_time"], info.unwrap().timestamp);
        for last_seen in [coin.txid, txid] {
            let older = agent.json(&format!("/{name}/txs/chain/{last_seen}"));
            assert_eq!(older, Value::Array(Vec::new()), "after {last_seen}");
        }
    }
    let utxos = client.get_address_utxos(&wallet.address()).unwrap();
    assert_eq!(
        (utxos.len(), utxos[0].txid, utxos[0].value.to_sat()),
        (1, txid, 89_700)
    );
    assert!(client.get_fee_estimates().unwrap().contains_key(&1));

    // The address of an output, and the coinbase, as an explorer shows them.
    let shown = agent.json(&format!("/tx/{txid}"));
    assert_eq!(shown["vout"][0]["scriptpubkey_type"], "v1_p2tr");
    assert_eq!(
        shown["vout"][0]["scriptpubkey_address"],
        wallet.address().to_string()
    );
    let tip = client.get_tip_hash().unwrap();
    let coinbase = client.get_block_txids(&tip).unwrap()[0];
    assert_eq!(
        agent.json(&format!("/tx/{coinbase}"))["vin"][0]["is_coinbase"],
        true
    );
}

#[test]
fn errors_have_esploras_statuses_and_texts() {
    let agent = Agent::start(&[]);
    let nobody = "11".repeat(32);
    let unknown_tx = "Transaction not found";
    let cases = [
        (format!("/tx/{nobody}"), 404, unknown_tx),
        (format!("/tx/{nobody}/raw"), 404, unknown_tx),
        (format!("/tx/{nobody}/outspends"), 404, unknown_tx),
        (
            format!("/tx/{nobody}/status"),
            200,
            r#"{"confirmed":false}"#,
        ),
        (
            format!("/tx/{nobody}/outspend/0"),
            200,
            r#"{"spent":false}"#,
        ),
        (format!("/tx/{nobody}/outspend/x"), 400, "Invalid number"),
        ("/tx/zz".to_owned(), 400, "Invalid hex string"),
        (format!("/block/{nobody}"), 404, "Block not found"),
        (
            format!("/block/{nobody}/status"),
            200,
            r#"{"in_best_chain":false}"#,
        ),
        ("/block-height/99".to_owned(), 404, "Block not found"),
        ("/block-height/-1".to_owned(), 400, "Invalid number"),
        ("/scripthash/zz/utxo".to_owned(), 400, "Invalid scripthash"),
        (
            format!("/scripthash/{nobody}/txs/chain/zz"),
            400,
            "Invalid hex string",
        ),
        (format!("/scripthash/{nobody}/txs/chain"), 200, "[]"),
        (
            "/address/1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2/utxo".to_owned(),
            400,
            "Address on invalid network",
        ),
        (
            "/nothing/here".to_owned(),
            404,
            "endpoint does not exist \"/nothing/here\"",
        ),
        ("/".to_owned(), 404, "endpoint does not exist \"/\""),
    ];
    for (path, status, text) in cases {
        assert_eq!(agent.get(&path), (status, text.to_owned()), "{path}");
    }
    assert_eq!(agent.get("/address/nonsense").0, 400);
    assert_eq!(agent.get("/regtest/mine").0, 405, "a look must not mine");
    assert_eq!(agent.chain().tip().unwrap().height, 0);

    let (status, text) = agent.request("POST", "/tx", "zz");
    assert_eq!(status, 400);
    assert_eq!(
        text,
        r#"sendrawtransaction RPC error: {"code":-22,"message":"TX decode failed"}"#
    );
    let orphan = Wallet::new("x").spend((OutPoint::null(), 1), vec![]);
    let (status, text) = agent.request("POST", "/tx", &serialize_hex(&orphan));
    assert_eq!(status, 400);
    assert!(
        text.starts_with("sendrawtransaction RPC error: {\"code\":-2"),
        "{text}"
    );
}

#[test]
fn control_refuses_what_is_out_of_range_with_both_values() {
    let agent = Agent::start(&[]);
    let address = Wallet::new("bounds").address();
    let foreign = "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2";
    let cases = [
        (
            "/regtest/mine?blocks=0".to_owned(),
            "got 0 blocks, expected 1 to 1000",
        ),
        (
            "/regtest/mine?blocks=1001".to_owned(),
            "got 1001 blocks, expected 1 to 1000",
        ),
        (
            "/regtest/mine?blocks=99999999999".to_owned(),
            "got 4294967295 blocks",
        ),
        (
            "/regtest/mine?blocks=-1".to_owned(),
            "got \"-1\" for blocks, expected a whole number",
        ),
        (
            format!("/regtest/mine?address={foreign}"),
            "expected a regtest address",
        ),
        (
            "/regtest/fund?sats=1000".to_owned(),
            "parameter address is missing",
        ),
        (
            format!("/regtest/fund?address={address}"),
            "parameter sats is missing",
        ),
        (
            format!("/regtest/fund?address={address}&sats=1"),
            "got 1 sat, expected 330 to",
        ),
        (
            format!("/regtest/fund?address={address}&sats=99999999999"),
            "got 99999999999 sat",
        ),
        (
            format!("/regtest/fund?address={foreign}&sats=1000"),
            "expected a regtest address",
        ),
        (
            "/regtest/reorg?depth=0".to_owned(),
            "got 0 blocks to replace",
        ),
        (
            "/regtest/reorg?depth=1".to_owned(),
            "got 1 blocks to replace, expected 1 to 0",
        ),
    ];
    for (path, text) in cases {
        let (status, body) = agent.request("POST", &path, "");
        assert_eq!(status, 400, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let message = body["error"].as_str().unwrap();
        assert!(message.contains(text), "{path}: {message}");
    }
    assert_eq!(
        agent.chain().tip().unwrap().height,
        0,
        "none of them has mined"
    );
}

#[test]
fn rewards_may_go_to_an_address() {
    let agent = Agent::start(&[]);
    let wallet = Wallet::new("reward");
    agent.control(&format!(
        "/regtest/mine?blocks=2&address={}",
        wallet.address()
    ));
    assert_eq!(agent.chain().unspent(&wallet.script()).unwrap().len(), 2);
    // One block is the default.
    agent.control("/regtest/mine");
    assert_eq!(agent.chain().tip().unwrap().height, 3);
}

#[test]
fn a_body_above_the_limit_is_cut_off() {
    let agent = Agent::start(&[]);
    let (status, _) = agent.request("POST", "/tx", &"00".repeat(500_001));
    assert_eq!(status, 413);
    let (status, _) = agent.request("POST", "/tx", &"00".repeat(500_000));
    assert_eq!(
        status, 400,
        "exactly the limit is read, and is no transaction"
    );
}

#[test]
fn others_are_answered_while_blocks_are_mined() {
    let agent = Agent::start(&[]);
    std::thread::scope(|scope| {
        let mining = scope.spawn(|| agent.mine(1_000));
        let mut answered = 0;
        while !mining.is_finished() {
            assert_eq!(agent.get("/blocks/tip/height").0, 200);
            answered += 1;
        }
        mining.join().unwrap();
        assert!(answered > 1, "got {answered} answers during 1000 blocks");
    });
    assert_eq!(agent.chain().tip().unwrap().height, 1_000);
}

#[test]
fn a_signal_ends_it_with_success_even_with_an_idle_connection() {
    for name in ["TERM", "INT"] {
        let mut agent = Agent::start(&[]);
        let idle = TcpStream::connect(agent.url.trim_start_matches("http://")).unwrap();
        agent.signal(name);
        let status = agent.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "after SIG{name}");
        drop(idle);
    }
}

#[test]
fn a_data_directory_survives_a_kill_and_has_one_user() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    let path = path.to_str().unwrap();
    let wallet = Wallet::new("kept");

    let agent = Agent::start(&["--data-dir", path]);
    agent.fund(&wallet.address(), 12_345);
    agent.mine(2);
    let tip = agent.chain().tip().unwrap();

    let second = run(&["--data-dir", path]);
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8(second.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("in use by another process"), "{message}");

    agent.signal("KILL");
    drop(agent);
    let agent = Agent::start(&["--data-dir", path]);
    assert_eq!(agent.chain().tip().unwrap(), tip);
    let utxos = agent.chain().unspent(&wallet.script()).unwrap();
    assert_eq!(utxos[0].output.value.to_sat(), 12_345);
}

#[test]
fn the_command_line_explains_itself() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for part in [
        "Examples:",
        "Exit codes:",
        "/regtest/fund?address=",
        "--data-dir",
    ] {
        assert!(help.contains(part), "{part} is missing from the help");
    }

    let open = run(&["--listen", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(2));
    let message = String::from_utf8(open.stderr).unwrap();
    assert!(
        message.contains("got 0.0.0.0, expected a loopback address"),
        "{message}"
    );

    let unusable = tempfile::NamedTempFile::new().unwrap();
    let unusable: &Path = unusable.path();
    let started = run(&["--data-dir", unusable.to_str().unwrap()]);
    assert_eq!(started.status.code(), Some(1));

    let taken = Agent::start(&[]);
    let address = taken.url.trim_start_matches("http://");
    let started = run(&["--listen", address]);
    assert_eq!(started.status.code(), Some(1));
    let message = String::from_utf8(started.stderr).unwrap();
    assert!(
        message.contains(&format!("cannot listen on {address}")),
        "{message}"
    );
}
