//! The embedded chain: the contract, and what only it has (mining, funding, reopening, locks).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;

use beacon_chain::{Chain, TransactionStatus};
use beacon_embedded::{ControlError, EmbeddedChain, MAX_FUND_SAT, MAX_MINE_BLOCKS, OpenError};
use bitcoin::absolute::LockTime;
use bitcoin::{Address, Amount, Network, OutPoint, Sequence};

use contract::{RegtestControl, Wallet, contract, pay, refusal, unsigned};

struct Direct<'a>(&'a EmbeddedChain);

impl RegtestControl for Direct<'_> {
    fn mine(&self, blocks: u32) {
        self.0.mine(blocks).unwrap();
    }

    fn fund(&self, address: &Address, sats: u64) -> OutPoint {
        self.0.fund(address, Amount::from_sat(sats)).unwrap()
    }

    fn reorg(&self, depth: u32) {
        self.0.reorg(depth).unwrap();
    }
}

#[test]
fn the_embedded_chain_keeps_the_contract() {
    let chain = EmbeddedChain::temporary().unwrap();
    contract(&chain, &Direct(&chain));
    // Once more, on what the first run has left.
    contract(&chain, &Direct(&chain));
}

#[test]
fn a_spend_has_the_times_of_its_block() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("time");
    let coin = chain
        .fund(&wallet.address(), Amount::from_sat(70_000))
        .unwrap();
    let spend = wallet.spend((coin, 70_000), vec![pay(&wallet.script(), 69_000)]);
    chain.broadcast(&spend).unwrap();
    // Payment and spend in one block, which is not the last.
    chain.mine(2).unwrap();
    let found = chain.spends(&wallet.script()).unwrap().transactions;
    assert_eq!(found.len(), 1);
    let block = chain.block(found[0].block_hash).unwrap().unwrap();
    assert_eq!(found[0].block_time, block.block.header.time);
    assert_eq!(found[0].median_time, block.median_time);
    assert_eq!(found[0].height, block.height);
    assert_eq!(chain.tip().unwrap().height, block.height + 1);
}

#[test]
fn a_reopened_chain_has_its_blocks_and_can_be_spent_from() {
    let directory = tempfile::tempdir().unwrap();
    let wallet = Wallet::new("reopen");
    let (tip, coin, utxos) = {
        let chain = EmbeddedChain::open(directory.path()).unwrap();
        let coin = chain
            .fund(&wallet.address(), Amount::from_sat(70_000))
            .unwrap();
        chain.mine(3).unwrap();
        // A branch that was left must stay left.
        chain.reorg(1).unwrap();
        (
            chain.tip().unwrap(),
            coin,
            chain.unspent(&wallet.script()).unwrap(),
        )
    };
    assert_eq!(utxos.len(), 1);

    let chain = EmbeddedChain::open(directory.path()).unwrap();
    assert_eq!(chain.tip().unwrap(), tip);
    assert_eq!(chain.unspent(&wallet.script()).unwrap(), utxos);
    let spend = wallet.spend((coin, 70_000), vec![pay(&wallet.script(), 69_000)]);
    chain.broadcast(&spend).unwrap();
    chain.mine(1).unwrap();
    chain
        .fund(&wallet.address(), Amount::from_sat(1_000))
        .unwrap();
}

#[test]
fn a_directory_has_one_user() {
    let directory = tempfile::tempdir().unwrap();
    let first = EmbeddedChain::open(directory.path()).unwrap();
    let second = EmbeddedChain::open(directory.path());
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    drop(first);
    EmbeddedChain::open(directory.path()).unwrap();
}

/// The kernel writes over block files that it does not recognise, such as a mainnet node's.
#[test]
fn the_directory_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let blocks = directory.path().join("blocks");
    std::fs::create_dir(&blocks).unwrap();
    std::fs::write(blocks.join("blk00000.dat"), [0xf9, 0xbe, 0xb4, 0xd9]).unwrap();
    let opened = EmbeddedChain::open(directory.path());
    assert!(matches!(opened, Err(OpenError::Foreign { .. })));
    let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "something was written");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let opened = EmbeddedChain::open(&file.path().join("chain"));
    let error = opened.err().unwrap();
    assert!(matches!(error, OpenError::Directory { .. }), "{error}");
}

#[test]
fn numbers_out_of_range_are_refused_with_both_values() {
    let chain = EmbeddedChain::temporary().unwrap();
    let address = Wallet::new("range").address();
    let fund = |sats| chain.fund(&address, Amount::from_sat(sats)).map(drop);
    let results = [
        chain.mine(0).map(drop),
        chain.mine(MAX_MINE_BLOCKS + 1).map(drop),
        fund(0),
        fund(329),
        fund(MAX_FUND_SAT + 1),
        chain.reorg(0).map(drop),
        // There is only the genesis block.
        chain.reorg(1).map(drop),
    ];
    for result in results {
        assert!(
            matches!(result, Err(ControlError::OutOfRange { .. })),
            "{result:?}"
        );
    }
    assert_eq!(chain.tip().unwrap().height, 0);
    assert_eq!(fund(330), Ok(()));

    let foreign = Address::from_script(&Wallet::new("range").script(), Network::Bitcoin).unwrap();
    let result = chain.fund(&foreign, Amount::from_sat(1_000));
    assert!(matches!(result, Err(ControlError::ForeignAddress { .. })));
}

#[test]
fn a_payment_larger_than_one_coin_takes_several() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("rich");
    let coin = chain
        .fund(&wallet.address(), Amount::from_sat(MAX_FUND_SAT))
        .unwrap();
    let payment = chain.raw_transaction(coin.txid).unwrap().unwrap();
    assert!(
        payment.input.len() >= 2,
        "got {} inputs",
        payment.input.len()
    );
    chain.mine(1).unwrap();
    assert_eq!(chain.unspent(&wallet.script()).unwrap().len(), 1);
}

#[test]
fn many_payments_without_a_block_in_between_all_confirm_in_one() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("many");
    for _ in 0..30 {
        chain
            .fund(&wallet.address(), Amount::from_sat(10_000))
            .unwrap();
    }
    assert_eq!(chain.mempool().unwrap().len(), 30);
    chain.mine(1).unwrap();
    assert!(chain.mempool().unwrap().is_empty());
    let height = chain.tip().unwrap().height;
    let utxos = chain.unspent(&wallet.script()).unwrap();
    assert_eq!(utxos.len(), 30);
    assert!(utxos.iter().all(|utxo| utxo.height == Some(height)));
}

#[test]
fn a_coinbase_matures_after_a_hundred_blocks_and_dies_with_its_block() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("young");
    chain.mine_to(1, &wallet.address()).unwrap();
    let coin = chain.unspent(&wallet.script()).unwrap()[0].clone();
    let sats = coin.output.value.to_sat();
    let spend = wallet.spend(
        (coin.outpoint, sats),
        vec![pay(&wallet.script(), sats - 1_000)],
    );

    chain.mine(98).unwrap();
    let reason = refusal(chain.broadcast(&spend));
    assert!(reason.contains("premature-spend-of-coinbase"), "{reason}");
    chain.mine(1).unwrap();
    chain.broadcast(&spend).unwrap();
    chain.mine(1).unwrap();

    // Replaces the coinbase's own block: its spend cannot come back.
    let depth = chain.tip().unwrap().height;
    assert_eq!(depth, 101);
    chain.reorg(100).unwrap();
    chain.reorg(100).unwrap();
    let status = chain.transaction(spend.compute_txid()).unwrap();
    assert_eq!(
        status,
        TransactionStatus::Mempool,
        "its coinbase is block 1, kept by both forks"
    );
}

#[test]
fn a_spend_of_a_dropped_coinbase_is_lost() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("lost");
    chain.mine_to(1, &wallet.address()).unwrap();
    chain.mine(99).unwrap();
    let coin = chain.unspent(&wallet.script()).unwrap()[0].clone();
    let sats = coin.output.value.to_sat();
    let spend = wallet.spend(
        (coin.outpoint, sats),
        vec![pay(&wallet.script(), sats - 1_000)],
    );
    chain.broadcast(&spend).unwrap();

    chain.reorg(100).unwrap();
    let status = chain.transaction(spend.compute_txid()).unwrap();
    assert_eq!(status, TransactionStatus::Unknown);
    assert_eq!(chain.unspent(&wallet.script()).unwrap(), []);
    assert!(chain.mempool().unwrap().is_empty());
}

#[test]
fn lock_times_are_kept() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("locked");
    let coin = chain
        .fund(&wallet.address(), Amount::from_sat(20_000))
        .unwrap();
    chain.mine(1).unwrap();
    let tip = chain.tip().unwrap().height;
    let outputs = vec![pay(&wallet.script(), 19_000)];

    let mut absolute = unsigned(coin, Sequence::ENABLE_LOCKTIME_NO_RBF, outputs.clone());
    absolute.lock_time = LockTime::from_height(tip + 1).unwrap();
    let absolute = wallet.sign(absolute, 20_000);
    let reason = refusal(chain.broadcast(&absolute));
    assert!(reason.starts_with("non-final"), "{reason}");

    // The coin has one block on it when the next comes, and wants three.
    let relative = unsigned(coin, Sequence::from_height(3), outputs);
    let relative = wallet.sign(relative, 20_000);
    let reason = refusal(chain.broadcast(&relative));
    assert!(reason.starts_with("non-BIP68-final"), "{reason}");

    chain.mine(1).unwrap();
    let reason = refusal(chain.broadcast(&relative));
    assert!(reason.starts_with("non-BIP68-final"), "{reason}");
    chain.mine(1).unwrap();
    chain.broadcast(&relative).unwrap();
    // The kernel must agree with our reading of BIP68, or mining fails.
    chain.mine(1).unwrap();
    let status = chain.transaction(relative.compute_txid()).unwrap();
    assert!(
        matches!(status, TransactionStatus::Confirmed { .. }),
        "{status:?}"
    );
}

#[test]
fn dust_and_coinbases_are_refused() {
    let chain = EmbeddedChain::temporary().unwrap();
    let wallet = Wallet::new("dust");
    let coin = (
        chain
            .fund(&wallet.address(), Amount::from_sat(20_000))
            .unwrap(),
        20_000,
    );
    let dusty = wallet.spend(coin, vec![pay(&wallet.script(), 329)]);
    let reason = refusal(chain.broadcast(&dusty));
    assert!(
        reason.starts_with("dust: got 329 sat in output 0, expected at least 330"),
        "{reason}"
    );

    let block = chain.block(chain.tip().unwrap().hash).unwrap().unwrap();
    let mut coinbase = block.block.txdata[0].clone();
    coinbase.output[0].value = Amount::from_sat(1_000);
    let reason = refusal(chain.broadcast(&coinbase));
    assert!(reason.starts_with("coinbase"), "{reason}");
}

/// The block templates are judged by Bitcoin Core, so a thousand of them are a test of it all:
/// halvings, BIP34 heights, and block times that run ahead of the clock.
#[test]
fn a_thousand_blocks_in_a_row() {
    let chain = EmbeddedChain::temporary().unwrap();
    let hashes = chain.mine(1_000).unwrap();
    assert_eq!(hashes.len(), 1_000);
    let tip = chain.tip().unwrap();
    assert_eq!((tip.height, Some(&tip.hash)), (1_000, hashes.last()));
    let tip = chain.reorg(100).unwrap();
    assert_eq!(tip.height, 1_001);
}
