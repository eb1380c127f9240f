//! `EsploraChain::spends` against servers that lie about a script's history, or have too much of it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::sync::atomic::{AtomicU32, Ordering};

use beacon_chain::{
    Chain, ChainError, MAX_HISTORY_BYTES, MAX_HISTORY_PAGES, MAX_HISTORY_TRANSACTIONS, Spends,
};
use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::hex::DisplayHex as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid};

use server::{assert_garbage, client, http, server};

const TIP_HEIGHT: u32 = 100;

/// The script that is asked for.
fn ours() -> ScriptBuf {
    ScriptBuf::from_bytes(vec![0x51])
}

fn theirs() -> ScriptBuf {
    ScriptBuf::from_bytes(vec![0x52])
}

fn transaction(from: OutPoint, to: ScriptBuf, number: u32) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::from_consensus(number),
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

/// A transaction and what the server says of it.
#[derive(Clone)]
struct Entry {
    transaction: Transaction,
    txid: Txid,
    spent: ScriptBuf,
    status: String,
}

impl Entry {
    fn new(transaction: Transaction, spent: ScriptBuf, height: u32) -> Self {
        Self {
            txid: transaction.compute_txid(),
            transaction,
            spent,
            status: status(height, &hash(height), 1_700_000_000 + u64::from(height)),
        }
    }

    fn json(&self) -> String {
        let (input, output) = (&self.transaction.input[0], &self.transaction.output[0]);
        format!(
            r#"{{"txid":"{}","version":2,"locktime":{},"size":1,"weight":4,"fee":0,"status":{},
            "vin":[{{"txid":"{}","vout":{},"prevout":{{"value":1000,"scriptpubkey":"{:x}"}},"scriptsig":"","sequence":{},"is_coinbase":false}}],
            "vout":[{{"value":{},"scriptpubkey":"{:x}"}}]}}"#,
            self.txid,
            self.transaction.lock_time.to_consensus_u32(),
            self.status,
            input.previous_output.txid,
            input.previous_output.vout,
            self.spent,
            input.sequence.to_consensus_u32(),
            output.value.to_sat(),
            output.script_pubkey,
        )
    }
}

fn status(height: u32, hash: &str, time: u64) -> String {
    format!(
        r#"{{"confirmed":true,"block_height":{height},"block_hash":"{hash}","block_time":{time}}}"#
    )
}

fn hash(height: u32) -> String {
    [u8::try_from(height % 251).unwrap(); 32].to_lower_hex_string()
}

/// A payment and the spend of it, newest first.
fn honest() -> Vec<Entry> {
    let elsewhere = OutPoint::new(Txid::from_byte_array([9; 32]), 0);
    let payment = Entry::new(transaction(elsewhere, ours(), 1), theirs(), 90);
    let paid = OutPoint::new(payment.txid, 0);
    let spend = Entry::new(transaction(paid, theirs(), 2), ours(), 95);
    vec![spend, payment]
}

/// An Esplora block, of which only these members are looked at.
fn block(id: &str, height: u32, time: u64, median: u64) -> String {
    format!(
        r#"{{"id":"{id}","height":{height},"version":1,"timestamp":{time},"tx_count":1,"size":1,"weight":4,
        "merkle_root":"{id}","previousblockhash":"{id}","mediantime":{median},"nonce":0,"bits":0,"difficulty":1.0}}"#
    )
}

fn tip_or(line: &str, page: impl FnOnce(Option<&str>) -> Vec<u8>) -> Vec<u8> {
    if line.contains("/blocks/tip/hash") {
        return http("200 OK", hash(TIP_HEIGHT));
    }
    if line.contains("/status") {
        let best = format!(r#"{{"in_best_chain":true,"height":{TIP_HEIGHT}}}"#);
        return http("200 OK", best);
    }
    let path = line.split(' ').nth(1).unwrap();
    if path.starts_with("/block/") {
        return http("200 OK", block(&hash(95), 95, 1_700_000_095, 1_700_000_000));
    }
    let (_, last) = path.split_once("/txs/chain").unwrap();
    page(last.strip_prefix('/'))
}

/// What becomes of `entries`, served one to a page.
fn spends_of(entries: Vec<Entry>) -> Result<Spends, ChainError> {
    let address = server(move |line| {
        tip_or(line, |last| {
            let position = entries
                .iter()
                .position(|entry| Some(entry.txid.to_string().as_str()) == last);
            let next = match last {
                None => entries.first(),
                Some(_) => position.and_then(|position| entries.get(position + 1)),
            };
            let page: Vec<_> = next.iter().map(|entry| entry.json()).collect();
            http("200 OK", format!("[{}]", page.join(",")))
        })
    });
    client(address).spends(&ours())
}

fn assert_too_much(result: Result<Spends, ChainError>, what: &str) {
    let Err(ChainError::TooMuch { reason }) = result else {
        panic!("got {result:?}, expected too much");
    };
    assert!(reason.as_str().contains(what), "{reason}");
}

#[test]
fn an_honest_history_is_read_to_its_end() {
    let entries = honest();
    let found = spends_of(entries.clone()).unwrap();
    assert_eq!(found.tip.height, TIP_HEIGHT);
    assert_eq!(found.transactions.len(), 1);
    let spend = &found.transactions[0];
    assert_eq!(spend.transaction, entries[0].transaction);
    assert_eq!((spend.height, spend.block_time), (95, 1_700_000_095));
    assert_eq!(spend.median_time, 1_700_000_000);
    assert_eq!(spend.block_hash.to_string(), hash(95));
    assert_eq!(spends_of(Vec::new()).unwrap().transactions, []);
}

/// The transaction of somebody else must not pass as a signal of this script, nor a spend be hidden as a payment.
#[test]
fn a_spend_that_is_none_and_a_hidden_one_are_garbage() {
    let mut invented = honest();
    let elsewhere = OutPoint::new(Txid::from_byte_array([8; 32]), 0);
    invented.insert(
        0,
        Entry::new(transaction(elsewhere, theirs(), 3), ours(), 96),
    );
    assert_garbage(spends_of(invented));

    let mut hidden = honest();
    let paid = hidden[0].transaction.input[0].previous_output;
    // It pays the script as well, so that it has a reason to be listed.
    hidden[0] = Entry::new(transaction(paid, ours(), 2), theirs(), 95);
    assert_garbage(spends_of(hidden));

    let without_payment = vec![honest().remove(0)];
    assert_garbage(spends_of(without_payment));
}

#[test]
fn a_history_that_contradicts_itself_is_garbage() {
    let with = |change: fn(&mut Vec<Entry>)| {
        let mut entries = honest();
        change(&mut entries);
        spends_of(entries)
    };
    assert_garbage(with(|entries| {
        entries[0].txid = Txid::from_byte_array([7; 32]);
    }));
    assert_garbage(with(|entries| {
        entries[0].status = r#"{"confirmed":false}"#.to_owned();
    }));
    assert_garbage(with(|entries| {
        entries[0].status = format!(
            r#"{{"confirmed":true,"block_height":95,"block_hash":"{}"}}"#,
            hash(95)
        );
    }));
    // After the year 2106.
    assert_garbage(with(|entries| {
        entries[0].status = status(95, &hash(95), 1 << 32);
    }));
    // At the tip's height, but not the tip.
    assert_garbage(with(|entries| {
        entries[0].status = status(TIP_HEIGHT, &hash(1), 1);
    }));
    assert_garbage(with(|entries| entries.reverse()));
    // Two blocks at one height, and two times of one block.
    assert_garbage(with(|entries| {
        entries[0].status = status(90, &hash(95), 1_700_000_090);
    }));
    assert_garbage(with(|entries| {
        entries[0].status = status(90, &hash(90), 1_700_000_091);
    }));
    // Nothing to do with the script.
    assert_garbage(with(|entries| {
        let elsewhere = OutPoint::new(Txid::from_byte_array([6; 32]), 0);
        let strange = transaction(elsewhere, theirs(), 4);
        entries.insert(0, Entry::new(strange, theirs(), 96));
    }));
}

#[test]
fn a_block_that_is_not_what_its_transaction_says_is_garbage() {
    let time = 1_700_000_095;
    for wrong in [
        block(&hash(94), 95, time, time),
        block(&hash(95), 94, time, time),
        block(&hash(95), 95, time + 1, time),
        block(&hash(95), 95, time, time + 1),
        "babble".to_owned(),
    ] {
        let page = format!("[{},{}]", honest()[0].json(), honest()[1].json());
        let address = server(move |line| {
            if line.contains("/block/") && !line.contains("/status") {
                return http("200 OK", &wrong);
            }
            tip_or(line, |last| {
                http("200 OK", if last.is_none() { &page } else { "[]" })
            })
        });
        assert_garbage(client(address).spends(&ours()));
    }
}

#[test]
fn babble_for_a_page_is_garbage() {
    for body in ["", "babble", "{}", "[{}]", "[1]", "[[[[[["] {
        let address = server(move |line| tip_or(line, |_| http("200 OK", body)));
        assert_garbage(client(address).spends(&ours()));
    }
    let refusing = server(|line| tip_or(line, |_| http("400 Bad Request", "too many")));
    assert_garbage(client(refusing).spends(&ours()));
}

#[test]
fn the_same_page_again_and_again_is_garbage() {
    let body = format!("[{}]", honest()[1].json());
    let address = server(move |line| tip_or(line, |_| http("200 OK", &body)));
    assert_garbage(client(address).spends(&ours()));
}

/// Serves payments that nobody has seen before, for ever.
fn endless(on_each_page: u32) -> Result<Spends, ChainError> {
    let number = AtomicU32::new(0);
    let address = server(move |line| {
        tip_or(line, |_| {
            let fresh = |_| {
                let number = number.fetch_add(1, Ordering::Relaxed);
                let from = OutPoint::new(Txid::from_byte_array([9; 32]), 0);
                Entry::new(transaction(from, ours(), number), theirs(), 90).json()
            };
            let page: Vec<_> = (0..on_each_page).map(fresh).collect();
            http("200 OK", format!("[{}]", page.join(",")))
        })
    });
    client(address).spends(&ours())
}

#[test]
fn a_history_without_end_is_cut_off() {
    let transactions = format!("{MAX_HISTORY_TRANSACTIONS} transactions");
    assert_too_much(endless(5_000), &transactions);
    assert_too_much(endless(1), &format!("{MAX_HISTORY_PAGES} pages"));

    let large = server(|line| tip_or(line, |_| http("200 OK", vec![b' '; MAX_HISTORY_BYTES + 1])));
    assert_too_much(client(large).spends(&ours()), "bytes");
}

/// Blocks that come while pages are read take nothing away: the answer is the one for the tip before them.
#[test]
fn what_came_after_the_tip_is_left_out() {
    let mut entries = honest();
    entries[0].status = status(TIP_HEIGHT + 1, &hash(1), 1);
    assert_eq!(spends_of(entries).unwrap().transactions, []);
}

#[test]
fn a_tip_that_is_replaced_while_pages_are_read_is_unavailable() {
    let asked = AtomicU32::new(0);
    let address = server(move |line| {
        // In the best chain when the tip is asked for, and no more after the pages.
        if line.contains("/status") && asked.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            return http("200 OK", r#"{"in_best_chain":false}"#);
        }
        tip_or(line, |_| http("200 OK", "[]"))
    });
    let result = client(address).spends(&ours());
    assert!(
        matches!(result, Err(ChainError::Unavailable { .. })),
        "{result:?}"
    );
}
