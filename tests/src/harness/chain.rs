//! `beacon-regtest`, and what is on its chain.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use beacon_chain::{Chain as _, EsploraChain, TransactionStatus};
use bitcoin::{OutPoint, Transaction, Txid};
use serde_json::Value;

use super::process::Process;
use super::{Binary, DEADLINE, free_port};

/// A private chain.
#[derive(Debug)]
pub struct Regtest {
    folder: PathBuf,
    url: String,
    chain: EsploraChain,
    process: Option<Process>,
}

impl Regtest {
    /// A new chain on a free port.
    pub async fn start(folder: &Path) -> Self {
        let url = format!("http://127.0.0.1:{}", free_port());
        let mut regtest = Self {
            folder: folder.to_owned(),
            chain: EsploraChain::new(&url, DEADLINE, 0).unwrap(),
            url,
            process: None,
        };
        regtest.run().await;
        regtest
    }

    /// Ends it at once and starts it again: it has its blocks, and has forgotten what waited for one.
    pub async fn restart(&mut self) {
        // Dropped: SIGKILL, and waited for.
        self.process = None;
        self.run().await;
    }

    async fn run(&mut self) {
        let data_dir = self.folder.join("chain").display().to_string();
        let listen = self.url.trim_start_matches("http://");
        let arguments = ["--json", "--listen", listen, "--data-dir", &data_dir];
        let mut process = Process::start(
            "regtest",
            &self.folder,
            Binary::Regtest,
            &arguments.map(str::to_owned),
            HashMap::new(),
            None,
        );
        let line = process.line().await.unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["url"], self.url);
        self.process = Some(process);
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Mines one block.
    pub fn mine(&self) {
        self.control("mine?blocks=1");
    }

    /// Pays to an address, and mines a block with it. Says which output it is.
    pub fn fund(&self, address: &str, sats: u64) -> OutPoint {
        let paid = self.control(&format!("fund?address={address}&sats={sats}"));
        self.mine();
        let vout = paid["vout"].as_u64().unwrap();
        let txid = paid["txid"].as_str().unwrap().parse().unwrap();
        OutPoint::new(txid, u32::try_from(vout).unwrap())
    }

    /// Hands a transaction over, which waits for a block.
    pub fn broadcast(&self, transaction: &Transaction) {
        self.chain.broadcast(transaction).unwrap();
    }

    /// Replaces the last block by two empty ones. Its transactions wait again.
    pub fn reorganise(&self) {
        self.control("reorg?depth=1");
    }

    /// A transaction as the chain has it.
    pub fn transaction(&self, txid: Txid) -> Transaction {
        self.chain.raw_transaction(txid).unwrap().unwrap()
    }

    /// The height of a transaction's block.
    pub fn height(&self, txid: Txid) -> Option<u32> {
        match self.chain.transaction(txid).unwrap() {
            TransactionStatus::Confirmed { height, .. } => Some(height),
            TransactionStatus::Mempool | TransactionStatus::Unknown => None,
        }
    }

    fn control(&self, what: &str) -> Value {
        let host = self.url.trim_start_matches("http://");
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
