//! The contract on a real Bitcoin Core node, and what only a node does: it restarts, prunes, and has or has not indexes.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../embedded/tests/contract/mod.rs"]
mod contract;
mod node;

use std::fs;
use std::time::Duration;

use beacon_chain::{
    Chain, ChainError, CoreChain, CoreSettings, OutputStatus, RpcAuth, Spends, TransactionStatus,
};
use bitcoin::hashes::{Hash as _, HashEngine as _, Hmac, HmacEngine, sha256};
use bitcoin::hex::DisplayHex as _;
use bitcoin::{OutPoint, Transaction};
use serde_json::json;

use contract::{RegtestControl as _, Wallet, contract, pay};
use node::Node;

fn settings(node: &Node) -> CoreSettings {
    CoreSettings {
        url: node.url().to_owned(),
        auth: RpcAuth::CookieFile(node.cookie_file()),
        start_height: 0,
        timeout: Duration::from_mins(1),
        retries: 0,
        patience: Duration::from_mins(2),
    }
}

fn chain(node: &Node) -> CoreChain {
    CoreChain::new(settings(node)).unwrap()
}

/// The reason why a source does not suit; anything else fails the test.
fn unsuitable<T: std::fmt::Debug>(answer: Result<T, ChainError>) -> String {
    match answer {
        Err(ChainError::Unsuitable { reason }) => reason.to_string(),
        other => panic!("got {other:?}, expected a source that does not suit"),
    }
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, ChainError>) -> String {
    match answer {
        Err(ChainError::Unavailable { reason }) => reason.to_string(),
        other => panic!("got {other:?}, expected an unavailable source"),
    }
}

/// A wallet that was paid in one block and spent in the next, and the two.
fn history(node: &Node, chain: &CoreChain, name: &str) -> (Wallet, OutPoint, Transaction) {
    let wallet = Wallet::new(name);
    let coin = node.fund(&wallet.address(), 50_000);
    node.mine(1);
    let spend = wallet.spend((coin, 50_000), vec![pay(&wallet.script(), 49_000)]);
    chain.broadcast(&spend).unwrap();
    node.mine(1);
    (wallet, coin, spend)
}

#[test]
fn a_node_without_indexes_keeps_the_contract() {
    let node = Node::with_coins(&[]);
    let chain = chain(&node);
    contract(&chain, &node);
    // Once more, on what the first run has left.
    contract(&chain, &node);
}

#[test]
fn a_node_with_an_index_of_transactions_keeps_the_contract() {
    let node = Node::with_coins(&["-txindex=1"]);
    contract(&chain(&node), &node);
}

/// A node writes another cookie each time it starts, and its blocks may have been replaced meanwhile.
#[test]
fn a_node_that_was_down_is_followed_again_from_where_it_is() {
    let mut node = Node::with_coins(&[]);
    let chain = chain(&node);
    let (wallet, coin, spend) = history(&node, &chain, "down");
    let before = chain.spends(&wallet.script()).unwrap();
    assert_eq!(before.transactions.len(), 1);

    node.stop();
    unavailable(chain.tip());
    unavailable(chain.spends(&wallet.script()));
    unavailable(chain.output(coin));
    assert!(matches!(
        chain.broadcast(&spend),
        Err(beacon_chain::BroadcastError::Unavailable { .. })
    ));

    node.launch();
    assert_eq!(chain.spends(&wallet.script()).unwrap(), before);
    // Another source begins from nothing, as after a restart of the agent.
    let fresh = CoreChain::new(settings(&node)).unwrap();
    assert_eq!(fresh.spends(&wallet.script()).unwrap(), before);

    node.reorg(1);
    node.mine(1);
    for chain in [&chain, &fresh] {
        let Spends { tip, transactions } = chain.spends(&wallet.script()).unwrap();
        assert_eq!(tip, chain.tip().unwrap());
        let [again] = &transactions[..] else {
            panic!("got {transactions:?}, expected one spend");
        };
        assert_eq!(again.transaction, spend);
        assert_eq!((again.height, again.block_hash), (tip.height, tip.hash));
        let seen = OutputStatus::Seen {
            output: pay(&wallet.script(), 50_000),
            height: Some(tip.height - 3),
            spent_by: Some(spend.compute_txid()),
        };
        assert_eq!(chain.output(coin).unwrap(), seen);
    }
}

#[test]
fn a_spend_has_the_times_of_its_block() {
    let node = Node::with_coins(&[]);
    let chain = chain(&node);
    let (wallet, _, _) = history(&node, &chain, "time");
    node.mine(3);
    let found = chain.spends(&wallet.script()).unwrap().transactions;
    let block = node.call("getblockheader", &json!([found[0].block_hash]));
    assert_eq!(json!(found[0].block_time), block["time"]);
    assert_eq!(json!(found[0].median_time), block["mediantime"]);
    assert_eq!(json!(found[0].height), block["height"]);
}

/// However little time it has, a question gets further than the one before, and what is asked together is looked for
/// together.
#[test]
fn a_long_chain_is_looked_through_in_as_many_questions_as_it_takes() {
    let node = Node::with_coins(&[]);
    let (wallet, _, spend) = history(&node, &chain(&node), "hurry");
    let hasty = CoreChain::new(CoreSettings {
        patience: Duration::ZERO,
        ..settings(&node)
    })
    .unwrap();
    let blocks = node.call("getblockcount", &json!([])).as_u64().unwrap();
    let mut far = Vec::new();
    let found = loop {
        match hasty.spends(&wallet.script()) {
            Ok(found) => break found,
            answer => {
                let reason = unavailable(answer);
                let words: Vec<_> = reason.split(' ').collect();
                assert_eq!(
                    words[..5].join(" "),
                    "looked through blocks up to",
                    "{reason}"
                );
                far.push(words[5].parse::<u64>().unwrap());
            }
        }
    };
    assert_eq!(found.transactions[0].transaction, spend);
    assert!(far.is_sorted_by(|a, b| a < b), "{far:?}");
    assert!(
        far.len() >= 3 && far.iter().all(|far| *far <= blocks),
        "{far:?}"
    );

    // New blocks are looked through for both at once, once the second one is where the first one is.
    let other = Wallet::new("hurry too").script();
    let mut questions = 0;
    while hasty.spends(&other).is_err() {
        questions += 1;
        assert!(questions < 100, "it never comes to an end");
    }
    node.mine(1);
    assert_eq!(hasty.spends(&other).unwrap().transactions, []);
}

#[test]
fn what_is_older_than_the_start_height_is_an_error_where_it_matters() {
    let node = Node::with_coins(&[]);
    let wallet = Wallet::new("older");
    let coin = node.fund(&wallet.address(), 50_000);
    node.mine(1);
    let tip = chain(&node).tip().unwrap();
    let late = CoreChain::new(CoreSettings {
        start_height: tip.height + 1,
        ..settings(&node)
    })
    .unwrap();
    let reason = unavailable(late.unspent(&wallet.script()));
    assert!(
        reason.contains("expected at least the start height"),
        "{reason}"
    );

    node.mine(1);
    assert_eq!(late.unspent(&wallet.script()).unwrap(), []);
    let payment = late.transaction(coin.txid).unwrap();
    assert_eq!(payment, TransactionStatus::Unknown);
    let spend = wallet.spend((coin, 50_000), vec![pay(&wallet.script(), 49_000)]);
    late.broadcast(&spend).unwrap();
    node.mine(1);
    for reason in [
        unsuitable(late.spends(&wallet.script())),
        unsuitable(late.unspent(&wallet.script())),
    ] {
        assert!(reason.contains("was paid before block"), "{reason}");
    }
    // Others are not touched by it.
    assert_eq!(late.unspent(&Wallet::new("newer").script()).unwrap(), []);
    assert_eq!(
        chain(&node)
            .spends(&wallet.script())
            .unwrap()
            .transactions
            .len(),
        1
    );
}

#[test]
fn a_node_that_pruned_what_is_needed_says_so() {
    let node = Node::with_coins(&["-fastprune", "-prune=1"]);
    node.mine(600);
    let pruned = node
        .call("pruneblockchain", &json!([300]))
        .as_u64()
        .unwrap();
    assert!(pruned > 0, "nothing was pruned");
    let reason = unsuitable(chain(&node).tip());
    assert!(
        reason.starts_with("the node has pruned the blocks below")
            && reason.contains("expected all from the start height 0")
            && reason.contains("prune=0"),
        "{reason}"
    );
    let above = CoreChain::new(CoreSettings {
        start_height: 400,
        ..settings(&node)
    })
    .unwrap();
    let (wallet, _, _) = history(&node, &above, "above");
    assert_eq!(
        above.spends(&wallet.script()).unwrap().transactions.len(),
        1
    );
}

#[test]
fn a_user_with_a_password_is_let_in_and_a_wrong_one_is_not() {
    let mut engine = HmacEngine::<sha256::Hash>::new(b"salt");
    engine.input(b"correct horse");
    let hmac = Hmac::from_engine(engine).to_byte_array();
    let node = Node::start(&[&format!("-rpcauth=beacon:salt${}", hmac.as_hex())]);
    let directory = tempfile::tempdir().unwrap();
    let password_file = directory.path().join("password");
    let with = CoreChain::new(CoreSettings {
        auth: RpcAuth::User {
            name: "beacon".to_owned(),
            password_file: password_file.clone(),
        },
        ..settings(&node)
    })
    .unwrap();

    let reason = unavailable(with.tip());
    assert!(
        reason.contains("the password of the node cannot be read"),
        "{reason}"
    );
    fs::write(&password_file, "\n").unwrap();
    let reason = unavailable(with.tip());
    assert!(reason.contains("expected some"), "{reason}");
    fs::write(&password_file, "wrong horse\n").unwrap();
    let reason = unavailable(with.tip());
    assert!(
        reason.contains("does not accept our cookie or password"),
        "{reason}"
    );
    assert!(!reason.contains("horse"), "{reason}");
    // Files are read for each request.
    fs::write(&password_file, "correct horse\n").unwrap();
    assert_eq!(with.tip().unwrap().height, 0);
    let shown = format!("{with:?}");
    assert!(!shown.contains("horse"), "{shown}");
}
