//! `CoreChain` against nodes that lie, talk nonsense, or cannot be asked yet.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::net::SocketAddr;
use std::time::Duration;

use beacon_chain::{
    BroadcastError, Chain, ChainError, CoreChain, CoreSettings, MAX_RPC_RESPONSE, OutputStatus,
    RpcAuth, TransactionStatus,
};
use bitcoin::absolute::LockTime;
use bitcoin::blockdata::constants::genesis_block;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::transaction::Version;
use bitcoin::{Amount, Block, Network, OutPoint, ScriptBuf, Transaction, TxIn, TxOut};
use serde_json::{Value, json};

use server::{TIMEOUT, assert_garbage, http, whole_server};

/// The script that is asked for.
fn ours() -> ScriptBuf {
    ScriptBuf::from_bytes(vec![0x51])
}

fn transaction(from: OutPoint, to: ScriptBuf) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: from,
            ..TxIn::default()
        }],
        output: vec![TxOut {
            value: Amount::from_sat(1_000),
            script_pubkey: to,
        }],
    }
}

/// Two blocks: the payment is in the second one, its spend in the mempool.
#[derive(Clone)]
struct Story {
    blocks: Vec<Block>,
    payment: Transaction,
    spend: Transaction,
}

impl Story {
    fn new() -> Self {
        let genesis = genesis_block(Network::Regtest);
        let payment = transaction(OutPoint::null(), ours());
        let mut second = genesis.clone();
        second.header.prev_blockhash = genesis.block_hash();
        second.txdata = vec![payment.clone()];
        second.header.merkle_root = second.compute_merkle_root().unwrap();
        let coin = OutPoint::new(payment.compute_txid(), 0);
        Self {
            blocks: vec![genesis, second],
            spend: transaction(coin, ScriptBuf::from_bytes(vec![0x52])),
            payment,
        }
    }

    fn coin(&self) -> OutPoint {
        OutPoint::new(self.payment.compute_txid(), 0)
    }

    /// What an honest node says.
    fn answer(&self, method: &str, params: &Value) -> Value {
        let (payment, spend) = (self.payment.compute_txid(), self.spend.compute_txid());
        let block = |hash: &Value| {
            let found = self
                .blocks
                .iter()
                .position(|block| json!(block.block_hash()) == *hash);
            found.unwrap()
        };
        match method {
            "getblockchaininfo" => json!({
                "chain": "regtest", "blocks": 1, "headers": 1, "bestblockhash": self.blocks[1].block_hash(),
                "initialblockdownload": false, "pruned": false,
            }),
            "getblockhash" => json!(
                self.blocks[usize::try_from(params[0].as_u64().unwrap()).unwrap()].block_hash()
            ),
            "getblockheader" if params[1] == false => {
                json!(serialize_hex(&self.blocks[block(&params[0])].header))
            }
            "getblockheader" => json!({ "height": block(&params[0]), "confirmations": 1 }),
            "getblock" => {
                json!({ "tx": [if block(&params[0]) == 1 { json!(payment) } else { json!(spend) }] })
            }
            "getdescriptoractivity" => {
                let spk = json!({ "hex": "51" });
                let event = if params[0].as_array().unwrap().is_empty() {
                    json!({ "type": "spend", "spend_txid": spend, "spend_vin": 0, "prevout_txid": payment, "prevout_vout": 0, "prevout_spk": spk })
                } else {
                    json!({ "type": "receive", "txid": payment, "vout": 0, "height": 1, "output_spk": spk })
                };
                json!({ "activity": [event] })
            }
            "getrawtransaction" => {
                let wanted = if params[0] == json!(payment) {
                    &self.payment
                } else {
                    &self.spend
                };
                let hex = serialize_hex(wanted);
                match params[1].as_u64() {
                    Some(0) => json!(hex),
                    _ if params[0] == json!(payment) => {
                        json!({ "hex": hex, "blockhash": self.blocks[1].block_hash() })
                    }
                    _ => json!({ "hex": hex }),
                }
            }
            "gettxout" => Value::Null,
            "gettxspendingprevout" => {
                json!([{ "txid": payment, "vout": 0, "spendingtxid": spend }])
            }
            "getindexinfo" => json!({}),
            "sendrawtransaction" => json!(spend),
            "estimatesmartfee" => json!({ "feerate": 0.000_123_41, "blocks": params[0] }),
            other => panic!("{other} is not asked for"),
        }
    }
}

/// A node that answers as `lie` says where it says something.
fn node(lie: impl Fn(&str, &Value) -> Option<Value> + Send + 'static) -> SocketAddr {
    let story = Story::new();
    let answer = move |request: &Value| {
        let (method, params) = (request["method"].as_str().unwrap(), &request["params"]);
        match lie(method, params) {
            Some(error) if error["code"].is_i64() => json!({ "error": error, "id": request["id"] }),
            Some(lie) => json!({ "result": lie, "id": request["id"] }),
            None => json!({ "result": story.answer(method, params), "id": request["id"] }),
        }
    };
    whole_server(move |request| {
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        let answers = match &body {
            Value::Array(requests) => requests.iter().map(&answer).collect(),
            request => answer(request),
        };
        http("200 OK", answers.to_string())
    })
}

/// The node does not look at the cookie, so any file will do.
fn client(address: SocketAddr) -> CoreChain {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    settings(address, RpcAuth::CookieFile(file.into()))
}

fn settings(address: SocketAddr, auth: RpcAuth) -> CoreChain {
    CoreChain::new(CoreSettings {
        url: format!("http://{address}"),
        auth,
        start_height: 0,
        timeout: TIMEOUT,
        retries: 0,
        patience: Duration::from_secs(5),
    })
    .unwrap()
}

/// Every question, and what came of it.
fn ask_everything(chain: &CoreChain) -> Vec<Result<(), ChainError>> {
    let story = Story::new();
    let tip = beacon_chain::Tip {
        height: 1,
        hash: story.blocks[1].block_hash(),
    };
    let broadcast = chain.broadcast(&story.spend).map_err(|error| match error {
        BroadcastError::Refused { reason } => panic!("refused: {reason}"),
        BroadcastError::Unavailable { reason } => ChainError::Unavailable { reason },
    });
    vec![
        chain.tip().map(drop),
        chain.is_in_best_chain(tip).map(drop),
        chain.genesis().map(drop),
        chain.unspent(&ours()).map(drop),
        chain.spends(&ours()).map(drop),
        chain.output(story.coin()).map(drop),
        chain.transaction(story.coin().txid).map(drop),
        chain.raw_transaction(story.coin().txid).map(drop),
        chain.fee_rate(6).map(drop),
        broadcast,
    ]
}

#[test]
fn an_honest_node_is_believed() {
    let story = Story::new();
    let chain = client(node(|_, _| None));
    for answer in ask_everything(&chain) {
        answer.unwrap();
    }
    assert_eq!(chain.unspent(&ours()).unwrap(), []);
    assert_eq!(
        chain.output(story.coin()).unwrap(),
        OutputStatus::Seen {
            output: story.payment.output[0].clone(),
            height: Some(1),
            spent_by: Some(story.spend.compute_txid()),
        }
    );
    let status = chain.transaction(story.spend.compute_txid()).unwrap();
    assert_eq!(status, TransactionStatus::Mempool);
}

#[test]
fn answers_that_are_no_answers_are_errors() {
    for body in [
        "",
        "<html>",
        "null",
        "7",
        "[]",
        "{}",
        "[[]]",
        r#"{"id":0}"#,
        r#"{"result":7,"id":0}"#,
        r#"{"result":{},"id":0}"#,
        r#"{"result":{"blocks":-1,"bestblockhash":"00"},"id":0}"#,
        r#"{"result":{"activity":[{"type":"theft"}]},"id":0}"#,
        r#"{"result":"ok","id":1}"#,
        r#"{"result":"ok","id":"0"}"#,
        r#"{"error":{"code":"x"},"id":0}"#,
        r#"{"error":7,"id":0}"#,
    ] {
        for status in ["200 OK", "500 Internal Server Error"] {
            let chain = client(whole_server(move |_| http(status, body)));
            for answer in ask_everything(&chain) {
                assert!(answer.is_err(), "{status} {body}");
            }
        }
    }
    let broken = client(whole_server(|_| b"HTTP/1.1 banana\r\n\r\n".to_vec()));
    for answer in ask_everything(&broken) {
        assert!(answer.is_err());
    }
}

/// What a stranger's transaction or header instead of the right one must not pass for.
#[test]
fn lies_that_can_be_found_out_are_garbage() {
    let other = serialize_hex(&transaction(OutPoint::null(), ScriptBuf::new()));
    let raw = other.clone();
    let chain = client(node(move |method, params| match method {
        "getrawtransaction" if params[1] == 0 => Some(json!(raw)),
        "getrawtransaction" => Some(json!({ "hex": raw })),
        _ => None,
    }));
    let story = Story::new();
    assert_garbage(chain.unspent(&ours()));
    assert_garbage(chain.spends(&ours()));
    assert_garbage(chain.output(story.coin()));
    assert_garbage(chain.transaction(story.coin().txid));
    assert_garbage(chain.raw_transaction(story.coin().txid));

    let genesis = serialize_hex(&story.blocks[0].header);
    let chain = client(node(move |method, params| {
        (method == "getblockheader" && params[1] == false).then(|| json!(genesis))
    }));
    assert_garbage(chain.unspent(&ours()));

    let (payment, spend) = (story.payment.compute_txid(), story.spend.compute_txid());
    let spk = json!({ "hex": "51" });
    let lies = [
        // It pays another script, or has no such output, or is in a block that was not asked about.
        json!({ "type": "receive", "txid": spend, "vout": 0, "height": 1, "output_spk": spk }),
        json!({ "type": "receive", "txid": payment, "vout": 9, "height": 1, "output_spk": spk }),
        json!({ "type": "receive", "txid": payment, "vout": 0, "height": 7, "output_spk": spk }),
        json!({ "type": "receive", "txid": payment, "vout": 0, "output_spk": spk }),
        // It spends something else, or has no such input.
        json!({ "type": "spend", "spend_txid": spend, "spend_vin": 0, "prevout_txid": spend, "prevout_vout": 0, "prevout_spk": spk, "height": 1 }),
        json!({ "type": "spend", "spend_txid": spend, "spend_vin": 3, "prevout_txid": payment, "prevout_vout": 0, "prevout_spk": spk, "height": 1 }),
    ];
    for lie in lies {
        let said = json!({ "activity": [lie] });
        let chain = client(node(move |method, params| {
            let blocks = method == "getdescriptoractivity" && params[0] != json!([]);
            blocks.then(|| said.clone())
        }));
        assert_garbage(chain.spends(&ours()));
        // And once more: what was not believed has left nothing behind.
        assert_garbage(chain.spends(&ours()));
    }
}

#[test]
fn a_node_that_is_not_ready_is_unavailable_and_says_why() {
    let loading = json!({ "code": -28, "message": "Loading block index…" });
    let downloading = json!({
        "chain": "signet", "blocks": 5, "headers": 900, "bestblockhash": Story::new().blocks[1].block_hash(),
        "initialblockdownload": true, "pruned": false,
    });
    for (says, expected) in [
        (loading, "the node is starting: Loading block index"),
        (downloading, "initial block download, at block 5 of 900"),
    ] {
        let chain = client(node(move |method, _| {
            (method == "getblockchaininfo").then(|| says.clone())
        }));
        for answer in [chain.tip().map(drop), chain.unspent(&ours()).map(drop)] {
            let Err(ChainError::Unavailable { reason }) = answer else {
                panic!("got {answer:?}, expected an unavailable source");
            };
            assert!(reason.as_str().contains(expected), "{reason}");
        }
    }
    for (status, expected) in [
        ("401 Unauthorized", "does not accept our cookie or password"),
        ("403 Forbidden", "rpcallowip"),
        ("503 Service Unavailable", "HTTP status 503"),
    ] {
        let chain = client(whole_server(move |_| http(status, "")));
        let Err(ChainError::Unavailable { reason }) = chain.tip() else {
            panic!("expected an unavailable source");
        };
        assert!(reason.as_str().contains(expected), "{reason}");
    }
    let gone = RpcAuth::CookieFile("/nonexistent/.cookie".into());
    let chain = settings(node(|_, _| None), gone);
    let error = chain.tip().unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/.cookie") && error.contains("is the node running?"),
        "{error}"
    );
}

#[test]
fn a_node_that_is_too_old_is_named_as_such() {
    let chain = client(node(|method, _| {
        (method == "getdescriptoractivity")
            .then(|| json!({ "code": -32601, "message": "Method not found" }))
    }));
    let error = chain.unspent(&ours()).unwrap_err();
    assert!(matches!(error, ChainError::Unsuitable { .. }));
    assert!(
        error
            .to_string()
            .contains("expected Bitcoin Core 29 or newer"),
        "{error}"
    );
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let chain = client(whole_server(|_| {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            MAX_RPC_RESPONSE + 2
        )
        .into_bytes();
        answer.resize(answer.len() + MAX_RPC_RESPONSE + 2, b' ');
        answer
    }));
    assert!(matches!(chain.tip(), Err(ChainError::TooMuch { .. })));
}

/// A redirection must not carry the credentials to somebody else.
#[test]
fn redirections_are_not_followed() {
    let elsewhere = node(|_, _| panic!("the redirection was followed"));
    let chain = client(whole_server(move |_| {
        format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n").into_bytes()
    }));
    assert!(chain.tip().is_err());
}

#[test]
fn urls_are_checked_before_anything_is_sent() {
    for bad in [
        "",
        "127.0.0.1:8332",
        "ftp://host",
        "http://user:secret@127.0.0.1:8332",
    ] {
        let made = CoreChain::new(CoreSettings {
            url: bad.to_owned(),
            auth: RpcAuth::CookieFile("x".into()),
            start_height: 0,
            timeout: TIMEOUT,
            retries: 0,
            patience: TIMEOUT,
        });
        let error = made.unwrap_err().to_string();
        assert!(error.contains("expected http://"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn an_absurd_estimate_of_fees_is_garbage() {
    assert_eq!(client(node(|_, _| None)).fee_rate(6).unwrap(), Some(13));
    for (rate, expected) in [
        (json!(null), None),
        (json!(0.000_01), Some(1)),
        (json!(1), Some(100_000)),
    ] {
        let chain = client(node(move |method, _| {
            (method == "estimatesmartfee")
                .then(|| json!({ "feerate": rate, "errors": ["Insufficient data"] }))
        }));
        assert_eq!(chain.fee_rate(6).unwrap(), expected);
    }
    for absurd in [
        json!(0),
        json!(-1),
        json!(1.000_1),
        json!(1e300),
        json!("0.1"),
    ] {
        let chain = client(node(move |method, _| {
            (method == "estimatesmartfee").then(|| json!({ "feerate": absurd }))
        }));
        assert_garbage(chain.fee_rate(6));
    }
}

/// A refusal is one only in the node's words for it; anything else may have been taken.
#[test]
fn only_a_refusal_is_a_refusal() {
    for (code, refused) in [
        (-25, true),
        (-26, true),
        (-22, true),
        (-1, false),
        (-28, false),
        (-32603, false),
    ] {
        let error = json!({ "code": code, "message": "no" });
        let chain = client(node(move |method, _| {
            (method == "sendrawtransaction").then(|| error.clone())
        }));
        let answer = chain.broadcast(&Story::new().spend).unwrap_err();
        assert_eq!(
            matches!(answer, BroadcastError::Refused { .. }),
            refused,
            "{code}: {answer}"
        );
    }
    let known = client(node(|method, _| {
        (method == "sendrawtransaction").then(|| json!({ "code": -27, "message": "in the chain" }))
    }));
    known.broadcast(&Story::new().spend).unwrap();
}
