//! A private chain: `beacon-regtest` or a Bitcoin Core node, and what is on it.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use beacon_chain::{
    BroadcastError, Chain, CoreChain, CoreSettings, EsploraChain, RpcAuth, TransactionStatus,
};
use bitcoin::{Address, OutPoint, Transaction, Txid};
use serde_json::Value;

use super::bitcoind::{Node, RegtestControl as _};
use super::process::Process;
use super::{Binary, DEADLINE, free_port};

/// A private chain.
pub struct Regtest {
    url: String,
    source: Source,
    chain: Box<dyn Chain>,
}

enum Source {
    /// `beacon-regtest`, while it runs.
    Served {
        folder: PathBuf,
        process: Option<Process>,
    },
    /// A Bitcoin Core node.
    Node(Node),
}

impl std::fmt::Debug for Regtest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Regtest").field(&self.options()).finish()
    }
}

impl Regtest {
    /// A new chain on a free port.
    pub async fn start(folder: &Path) -> Self {
        let url = format!("http://127.0.0.1:{}", free_port());
        let mut regtest = Self {
            chain: Box::new(EsploraChain::new(&url, DEADLINE, 0).unwrap()),
            url,
            source: Source::Served {
                folder: folder.to_owned(),
                process: None,
            },
        };
        regtest.launch().await;
        regtest
    }

    /// A new chain of a Bitcoin Core node without any index, on a free port.
    pub fn bitcoind() -> Self {
        Self::bitcoind_with(&[])
    }

    /// The same with further options of the node.
    pub fn bitcoind_with(arguments: &[&str]) -> Self {
        let node = Node::with_coins(arguments);
        let settings = CoreSettings {
            url: node.url().to_owned(),
            auth: RpcAuth::CookieFile(node.cookie_file()),
            start_height: 0,
            timeout: DEADLINE,
            retries: 0,
            patience: DEADLINE,
        };
        Self {
            url: node.url().to_owned(),
            chain: Box::new(CoreChain::new(settings).unwrap()),
            source: Source::Node(node),
        }
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The options that lead an agent to it.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec!["--chain-url".to_owned(), self.url().to_owned()];
        if let Source::Node(node) = &self.source {
            let cookie = node.cookie_file().display().to_string();
            options
                .extend(["--chain", "bitcoind", "--chain-cookie-file", &cookie].map(str::to_owned));
        }
        options
    }

    /// What a Bitcoin Core node answers to a call of its own interface.
    pub fn rpc(&self, method: &str, params: &Value) -> Value {
        match &self.source {
            Source::Served { .. } => panic!("{method}: beacon-regtest is no node"),
            Source::Node(node) => node.call(method, params),
        }
    }

    /// Mines one block.
    pub fn mine(&self) {
        match &self.source {
            Source::Served { .. } => drop(self.control("mine?blocks=1")),
            Source::Node(node) => node.mine(1),
        }
    }

    /// Pays to an address, and mines a block with it. Says which output it is.
    pub fn fund(&self, address: &str, sats: u64) -> OutPoint {
        let coin = match &self.source {
            Source::Served { .. } => {
                let paid = self.control(&format!("fund?address={address}&sats={sats}"));
                let vout = paid["vout"].as_u64().unwrap();
                let txid = paid["txid"].as_str().unwrap().parse().unwrap();
                OutPoint::new(txid, u32::try_from(vout).unwrap())
            }
            Source::Node(node) => {
                let address: Address<_> = address.parse().unwrap();
                node.fund(&address.assume_checked(), sats)
            }
        };
        self.mine();
        coin
    }

    /// Hands a transaction over, which waits for a block.
    pub fn broadcast(&self, transaction: &Transaction) {
        self.chain.broadcast(transaction).unwrap();
    }

    /// Hands a transaction over. Why it was refused, if it was.
    pub fn offer(&self, transaction: &Transaction) -> Result<(), String> {
        match self.chain.broadcast(transaction) {
            Ok(()) => Ok(()),
            Err(BroadcastError::Refused { reason }) => Err(reason.to_string()),
            Err(error) => panic!("got {error}, expected an answer"),
        }
    }

    /// Replaces the last block by two empty ones. Its transactions wait again.
    pub fn reorganise(&self) {
        match &self.source {
            Source::Served { .. } => drop(self.control("reorg?depth=1")),
            Source::Node(node) => node.reorg(1),
        }
    }

    /// Ends it at once and starts it again: it has its blocks. `beacon-regtest` has forgotten what waited for one.
    pub async fn restart(&mut self) {
        self.stop();
        self.launch().await;
    }

    /// Ends it: a node in good order.
    pub fn stop(&mut self) {
        match &mut self.source {
            // Dropped: SIGKILL, and waited for.
            Source::Served { process, .. } => *process = None,
            Source::Node(node) => node.stop(),
        }
    }

    /// Starts it after its end.
    pub async fn launch(&mut self) {
        let (folder, process) = match &mut self.source {
            Source::Served { folder, process } => (folder, process),
            Source::Node(node) => return node.launch(),
        };
        let data_dir = folder.join("chain").display().to_string();
        let listen = self.url.trim_start_matches("http://");
        let arguments = ["--json", "--listen", listen, "--data-dir", &data_dir];
        let mut started = Process::start(
            "regtest",
            folder,
            Binary::Regtest,
            &arguments.map(str::to_owned),
            HashMap::new(),
            None,
        );
        let line = started.line().await.unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["url"], self.url);
        *process = Some(started);
    }

    /// A transaction as the chain has it.
    pub fn transaction(&self, txid: Txid) -> Transaction {
        self.chain.raw_transaction(txid).unwrap().unwrap()
    }

    /// Whether a transaction is in a block or waits for one.
    pub fn knows(&self, txid: Txid) -> bool {
        self.chain.raw_transaction(txid).unwrap().is_some()
    }

    /// The height of a transaction's block.
    pub fn height(&self, txid: Txid) -> Option<u32> {
        match self.chain.transaction(txid).unwrap() {
            TransactionStatus::Confirmed { height, .. } => Some(height),
            TransactionStatus::Mempool | TransactionStatus::Unknown => None,
        }
    }

    fn control(&self, what: &str) -> Value {
        let host = self.url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(
            stream,
            "POST /regtest/{what} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        serde_json::from_str(body).unwrap()
    }
}
