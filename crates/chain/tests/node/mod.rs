//! A `bitcoind` of the test's own on regtest, and a miner who pays.
//!
//! Also used by the end-to-end tests. It asks the node in its own way, not in that of the code which is tested.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(dead_code, reason = "each test program uses some of it")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitcoin::{Address, OutPoint, Txid};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::contract::{RegtestControl, Wallet, pay};

/// A node takes seconds to start or stop, and longer on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// A coinbase that a reorganisation does not make too young.
const OLD_ENOUGH: u32 = 130;

/// A running node. Its directory is gone with it.
pub(crate) struct Node {
    process: Option<Child>,
    directory: TempDir,
    arguments: Vec<String>,
    rpc: SocketAddr,
    url: String,
    miner: Wallet,
    /// Blocks of a fork must differ from those that they replace.
    forks: AtomicU32,
}

impl Node {
    /// A node without indexes, at block 0.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let rpc = free_address();
        let mut node = Self {
            process: None,
            directory: tempfile::Builder::new()
                .prefix("beacon-bitcoind-")
                .tempdir()
                .unwrap(),
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            url: format!("http://{rpc}"),
            rpc,
            miner: Wallet::new("miner"),
            forks: AtomicU32::new(0),
        };
        node.launch();
        node
    }

    /// One that has coins to pay with.
    pub(crate) fn with_coins(arguments: &[&str]) -> Self {
        let node = Self::start(arguments);
        node.mine(OLD_ENOUGH + 30);
        node
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn cookie_file(&self) -> PathBuf {
        self.directory.path().join("regtest/.cookie")
    }

    /// Ends the process in good order. Its port and directory stay.
    pub(crate) fn stop(&mut self) {
        self.call("stop", &json!([]));
        let status = self.process.take().unwrap().wait().unwrap();
        assert!(status.success(), "bitcoind ended with {status}");
    }

    /// Starts it again after [`Node::stop`].
    pub(crate) fn launch(&mut self) {
        let mut child = Command::new(bitcoind())
            .arg(format!("-datadir={}", self.directory.path().display()))
            .arg(format!("-rpcport={}", self.rpc.port()))
            // Nobody else, and nothing that the tests do not need.
            .args([
                "-regtest",
                "-listen=0",
                "-connect=0",
                "-dnsseed=0",
                "-rpcbind=127.0.0.1",
            ])
            .args([
                "-rpcallowip=127.0.0.1",
                "-server=1",
                "-printtoconsole=1",
                "-dbcache=4",
            ])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bitcoind starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                let mut errors = String::new();
                let _ = child.stderr.take().unwrap().read_to_string(&mut errors);
                panic!("bitcoind did not start: {errors}\n{}", said.join("\n"));
            };
            if line.contains("init message: Done loading") {
                break;
            }
            said.push(line);
        }
        // A full pipe would stop it.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.process = Some(child);
    }

    /// What the node answers; an error fails the test.
    pub(crate) fn call(&self, method: &str, params: &Value) -> Value {
        let answer = self.answer(method, params);
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    fn answer(&self, method: &str, params: &Value) -> Value {
        let cookie = fs::read_to_string(self.cookie_file()).unwrap();
        let body =
            json!({ "jsonrpc": "1.0", "id": 0, "method": method, "params": params }).to_string();
        let mut stream = TcpStream::connect(self.rpc).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic {}\r\nContent-Length: {}\r\n\r\n{body}",
            BASE64_STANDARD.encode(cookie.trim()),
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{method}: {answer}"))
    }

    fn height(&self) -> u32 {
        u32::try_from(self.call("getblockcount", &json!([])).as_u64().unwrap()).unwrap()
    }

    /// A coin of the miner that nobody spends yet, and its amount.
    fn coin(&self) -> (OutPoint, u64) {
        let script = format!("raw({:x})", self.miner.script());
        let found = self.call("scantxoutset", &json!(["start", [script]]));
        let tip = self.height();
        for coin in found["unspents"].as_array().unwrap() {
            let height = u32::try_from(coin["height"].as_u64().unwrap()).unwrap();
            let txid: Txid = coin["txid"].as_str().unwrap().parse().unwrap();
            let vout = u32::try_from(coin["vout"].as_u64().unwrap()).unwrap();
            let left = self.call("gettxout", &json!([txid, vout, true]));
            if tip - height >= OLD_ENOUGH && !left.is_null() {
                let sats = bitcoin::Amount::from_btc(coin["amount"].as_f64().unwrap()).unwrap();
                return (OutPoint::new(txid, vout), sats.to_sat());
            }
        }
        panic!("the miner has no coin that is old enough at height {tip}");
    }
}

impl RegtestControl for Node {
    fn mine(&self, blocks: u32) {
        self.call(
            "generatetoaddress",
            &json!([blocks, self.miner.address().to_string()]),
        );
    }

    fn fund(&self, address: &Address, sats: u64) -> OutPoint {
        let coin = self.coin();
        let change = coin
            .1
            .checked_sub(sats + 1_000)
            .expect("a coin that is large enough");
        let outputs = vec![
            pay(&address.script_pubkey(), sats),
            pay(&self.miner.script(), change),
        ];
        let payment = self.miner.spend(coin, outputs);
        let hex = bitcoin::consensus::encode::serialize_hex(&payment);
        self.call("sendrawtransaction", &json!([hex]));
        OutPoint::new(payment.compute_txid(), 0)
    }

    fn reorg(&self, depth: u32) {
        let lowest = self.height() - depth + 1;
        let hash = self.call("getblockhash", &json!([lowest]));
        self.call("invalidateblock", &json!([hash]));
        for _ in 0..=depth {
            let number = self.forks.fetch_add(1, Ordering::Relaxed);
            let other = Wallet::new(&format!("fork {number}"));
            // Empty: what the old blocks held waits in the mempool.
            self.call("generateblock", &json!([other.address().to_string(), []]));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The program of `scripts/bitcoind`, which says how to get one where there is none.
fn bitcoind() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").exists())
        .expect("the workspace");
    let found = Command::new(root.join("scripts/bitcoind"))
        .arg("--find")
        .output()
        .unwrap();
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim_end())
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
