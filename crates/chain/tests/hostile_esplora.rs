//! `EsploraChain` against servers that lie, babble, or are not there.

mod server;

use std::net::TcpListener;
use std::time::Duration;

use beacon_chain::{BroadcastError, Chain, ChainError, EsploraChain, OutputStatus};
use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid};

use server::{TIMEOUT, assert_garbage, client, http, server};

fn client_of(status: &'static str, body: &'static str) -> EsploraChain {
    client(server(move |_| http(status, body)))
}

fn assert_unavailable<T: std::fmt::Debug>(result: &Result<T, ChainError>) {
    assert!(
        matches!(result, Err(ChainError::Unavailable { .. })),
        "{result:?}"
    );
}

fn transaction() -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn::default()],
        output: vec![TxOut {
            value: Amount::from_sat(1_000),
            script_pubkey: ScriptBuf::from_bytes(vec![0x51]),
        }],
    }
}

#[test]
fn every_question_calls_babble_garbage() {
    for body in [
        "",
        "babble",
        "{",
        "[{}]",
        "{\"confirmed\":true}",
        "-1",
        "\u{0}\u{1}",
    ] {
        let chain = client_of("200 OK", body);
        let txid = Txid::all_zeros();
        assert_garbage(chain.tip());
        assert_garbage(chain.genesis());
        assert_garbage(chain.unspent(&ScriptBuf::new()));
        assert_garbage(chain.spends(&ScriptBuf::new()));
        assert_garbage(chain.output(OutPoint::new(txid, 0)));
        assert_garbage(chain.transaction(txid));
        assert_garbage(chain.raw_transaction(txid));
        assert_garbage(chain.fee_rate(6));
    }
}

#[test]
fn a_long_error_page_is_cut() {
    let page = Box::leak("<html>".repeat(100_000).into_boxed_str());
    assert_garbage(client_of("403 Forbidden", page).tip());
}

#[test]
fn nobody_there_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let chain = client(free);
    assert_unavailable(&chain.tip());
    assert_unavailable(&chain.unspent(&ScriptBuf::new()));
    let broadcast = chain.broadcast(&transaction());
    assert!(
        matches!(broadcast, Err(BroadcastError::Unavailable { .. })),
        "{broadcast:?}"
    );
}

#[test]
fn an_overloaded_server_is_unavailable_even_after_a_retry() {
    for status in [
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Busy",
        "504 Late",
    ] {
        let address = server(move |_| http(status, "later"));
        let chain = EsploraChain::new(&format!("http://{address}"), TIMEOUT, 1).unwrap();
        assert_unavailable(&chain.genesis());
    }
    let broadcast = client_of("503 Busy", "later").broadcast(&transaction());
    assert!(
        matches!(broadcast, Err(BroadcastError::Unavailable { .. })),
        "{broadcast:?}"
    );
}

#[test]
fn a_server_that_never_answers_is_unavailable_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chain = EsploraChain::new(&url, Duration::from_millis(50), 0).unwrap();
    assert_unavailable(&chain.tip());
}

#[test]
fn a_server_that_hangs_up_is_unavailable() {
    assert_unavailable(&client(server(|_| Vec::new())).genesis());
}

#[test]
fn broken_http_is_garbage() {
    let broken: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n0",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    ];
    for bytes in broken {
        assert_garbage(client(server(move |_| bytes.to_vec())).genesis());
    }
}

/// Header sizes are subtracted without a check in the HTTP layer: a line that ends one byte before
/// the limit, without a carriage return, takes it below zero.
#[test]
fn headers_and_trailers_that_make_the_http_layer_panic_are_garbage() {
    const LIMIT: usize = 256 * 1024;
    let header = format!("HTTP/1.1 200 OK\r\n{}\n\r\n", "x".repeat(LIMIT - 1));
    let chunked = "Transfer-Encoding: chunked\r\n";
    let left = LIMIT - chunked.len();
    let trailer = format!(
        "HTTP/1.1 200 OK\r\n{chunked}\r\n1\r\n0\r\n0\r\n{}\n\r\n",
        "x".repeat(left - 1)
    );
    for answer in [header, trailer] {
        let chain = client(server(move |_| answer.clone().into_bytes()));
        assert_garbage(chain.genesis());
    }
}

#[test]
fn another_transaction_than_the_one_asked_for_is_garbage() {
    let raw = serialize(&transaction());
    let chain = client(server(move |_| http("200 OK", &raw)));
    let own = transaction().compute_txid();
    assert_eq!(chain.raw_transaction(own).unwrap(), Some(transaction()));
    assert_garbage(chain.raw_transaction(Txid::all_zeros()));
    assert_garbage(chain.output(OutPoint::new(Txid::all_zeros(), 0)));
}

/// A source cannot lie about an amount: it comes from the transaction, which its id commits to.
#[test]
fn an_output_is_read_from_its_transaction() {
    let raw = serialize(&transaction());
    let chain = client(server(move |line| {
        if line.contains("/raw") {
            http("200 OK", &raw)
        } else if line.contains("/status") {
            http("200 OK", r#"{"confirmed":false}"#)
        } else {
            http("200 OK", r#"{"spent":false,"value":999999}"#)
        }
    }));
    let output = chain
        .output(OutPoint::new(transaction().compute_txid(), 0))
        .unwrap();
    assert_eq!(
        output,
        OutputStatus::Seen {
            output: transaction().output[0].clone(),
            height: None,
            spent_by: None
        }
    );
}

#[test]
fn half_an_answer_is_garbage() {
    let zero = "00".repeat(32);
    let utxo = |status: &str, value: &str| {
        let body = format!(r#"[{{"txid":"{zero}","vout":0,"status":{status},"value":{value}}}]"#);
        client(server(move |_| http("200 OK", &body))).unspent(&ScriptBuf::new())
    };
    assert_eq!(utxo(r#"{"confirmed":false}"#, "5").unwrap().len(), 1);
    assert_garbage(utxo(r#"{"confirmed":true}"#, "5"));
    assert_garbage(utxo(r#"{"confirmed":false,"block_height":7}"#, "5"));
    // One satoshi more than there will ever be, and a negative amount.
    assert_garbage(utxo(r#"{"confirmed":false}"#, "2100000000000001"));
    assert_garbage(utxo(r#"{"confirmed":false}"#, "-1"));

    // One coin, listed twice to look like two.
    let coin = format!(r#"{{"txid":"{zero}","vout":0,"status":{{"confirmed":false}},"value":5}}"#);
    let body = format!("[{coin},{coin}]");
    assert_garbage(client(server(move |_| http("200 OK", &body))).unspent(&ScriptBuf::new()));

    let raw = serialize(&transaction());
    let spent = client(server(move |line| {
        if line.contains("/raw") {
            http("200 OK", &raw)
        } else if line.contains("/status") {
            http("200 OK", r#"{"confirmed":false}"#)
        } else {
            http("200 OK", r#"{"spent":true}"#)
        }
    }));
    assert_garbage(spent.output(OutPoint::new(transaction().compute_txid(), 0)));
}

#[test]
fn a_tip_that_never_stands_still_is_unavailable() {
    let hash = "11".repeat(32);
    let chain = client(server(move |line| {
        if line.contains("/blocks/tip/hash") {
            http("200 OK", &hash)
        } else {
            http("200 OK", r#"{"in_best_chain":false}"#)
        }
    }));
    assert_unavailable(&chain.tip());
}

#[test]
fn a_refusal_carries_the_servers_words_and_a_known_transaction_is_no_refusal() {
    let refusing = |status: &'static str| {
        client(server(move |line| {
            if line.starts_with("POST /tx ") {
                http(
                    "400 Bad Request",
                    "sendrawtransaction RPC error: dust\u{1b}[2J",
                )
            } else if line.contains("/status") {
                http("200 OK", status)
            } else {
                http("404 Not Found", "Transaction not found")
            }
        }))
    };
    let refused = refusing(r#"{"confirmed":false}"#).broadcast(&transaction());
    let expected = BroadcastError::refused("sendrawtransaction RPC error: dust [2J");
    assert_eq!(refused, Err(expected));

    let confirmed = concat!(
        r#"{"confirmed":true,"block_height":5,"block_time":1,"block_hash":""#,
        "0000000000000000000000000000000000000000000000000000000000000000",
        r#""}"#
    );
    assert_eq!(refusing(confirmed).broadcast(&transaction()), Ok(()));
}

#[test]
fn a_wrong_id_in_return_is_no_delivery() {
    let zero = Box::leak("00".repeat(32).into_boxed_str());
    let result = client_of("200 OK", zero).broadcast(&transaction());
    assert!(
        matches!(result, Err(BroadcastError::Unavailable { .. })),
        "{result:?}"
    );
}

/// The estimate for the longest target that is not longer than what was asked for.
#[test]
fn an_estimate_of_fees_is_for_the_target_and_within_reason() {
    let estimates = |body: &'static str| client(server(move |_| http("200 OK", body)));
    let chain = estimates(r#"{"2":7.3,"6":3.0,"144":0.1}"#);
    for (blocks, rate) in [(1, 8), (2, 8), (5, 8), (6, 3), (143, 3), (1_008, 1)] {
        assert_eq!(chain.fee_rate(blocks).unwrap(), Some(rate), "{blocks}");
    }
    assert_eq!(estimates("{}").fee_rate(6).unwrap(), None);
    for absurd in [
        r#"{"6":0}"#,
        r#"{"6":-4}"#,
        r#"{"6":100001}"#,
        r#"{"6":1e300}"#,
        r#"{"6":"1"}"#,
    ] {
        assert_garbage(estimates(absurd).fee_rate(6));
    }
}
