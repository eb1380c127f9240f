//! What every [`Chain`] on regtest must do, whoever serves it.
//!
//! Run by this crate's `embedded` test on `EmbeddedChain`, by the tests of `beacon-regtest`
//! on `EsploraChain` in front of the real binary, and by those of `beacon-chain` on `CoreChain` and
//! a real node.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use beacon_chain::{
    BroadcastError, Chain, ConfirmedSpend, MAX_FEE_RATE, OutputStatus, Tip, TransactionStatus,
};
use bitcoin::absolute::LockTime;
use bitcoin::constants::genesis_block;
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::key::{Keypair, Secp256k1, TapTweak as _, TweakedKeypair};
use bitcoin::secp256k1::Message;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid,
    Witness, taproot,
};

/// What a test may do to the chain behind a source.
pub(crate) trait RegtestControl {
    fn mine(&self, blocks: u32);
    /// Leaves the payment in the mempool.
    fn fund(&self, address: &Address, sats: u64) -> OutPoint;
    fn reorg(&self, depth: u32);
}

/// A holder of one taproot key.
pub(crate) struct Wallet(TweakedKeypair);

impl Wallet {
    pub(crate) fn new(name: &str) -> Self {
        let secp = Secp256k1::new();
        let seed = sha256::Hash::hash(name.as_bytes());
        let key = Keypair::from_seckey_slice(&secp, seed.as_byte_array()).unwrap();
        Self(key.tap_tweak(&secp, None))
    }

    /// A key that nobody has paid yet: it depends on the tip.
    fn fresh(chain: &dyn Chain, name: &str) -> Self {
        Self::new(&format!("{name} at {}", chain.tip().unwrap().hash))
    }

    pub(crate) fn script(&self) -> ScriptBuf {
        ScriptBuf::new_p2tr_tweaked(self.0.public_parts().0)
    }

    pub(crate) fn address(&self) -> Address {
        Address::p2tr_tweaked(self.0.public_parts().0, Network::Regtest)
    }

    /// A transaction, signed by key path, that spends `coin` and pays `outputs`.
    pub(crate) fn spend(&self, coin: (OutPoint, u64), outputs: Vec<TxOut>) -> Transaction {
        self.sign(unsigned(coin.0, Sequence::MAX, outputs), coin.1)
    }

    /// Signs the only input of `transaction`, which spends `sats`.
    pub(crate) fn sign(&self, mut transaction: Transaction, sats: u64) -> Transaction {
        let spent = [pay(&self.script(), sats)];
        let sighash = SighashCache::new(&transaction)
            .taproot_key_spend_signature_hash(0, &Prevouts::All(&spent), TapSighashType::Default)
            .unwrap();
        let message = Message::from_digest(sighash.to_byte_array());
        let signature = taproot::Signature {
            signature: Secp256k1::new().sign_schnorr_no_aux_rand(&message, &self.0.to_keypair()),
            sighash_type: TapSighashType::Default,
        };
        transaction.input[0].witness = Witness::p2tr_key_spend(&signature);
        transaction
    }
}

pub(crate) fn unsigned(from: OutPoint, sequence: Sequence, outputs: Vec<TxOut>) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: from,
            script_sig: ScriptBuf::new(),
            sequence,
            witness: Witness::new(),
        }],
        output: outputs,
    }
}

pub(crate) fn pay(script: &ScriptBuf, sats: u64) -> TxOut {
    TxOut {
        value: Amount::from_sat(sats),
        script_pubkey: script.clone(),
    }
}

/// The reason of a refusal; anything else fails the test.
pub(crate) fn refusal(result: Result<(), BroadcastError>) -> String {
    match result {
        Err(BroadcastError::Refused { reason }) => reason.to_string(),
        other => panic!("got {other:?}, expected a refusal"),
    }
}

/// The whole contract. It may run on a chain of any height, even one that others use, as long
/// as they do not mine meanwhile.
pub(crate) fn contract(chain: &dyn Chain, control: &dyn RegtestControl) {
    knows_its_network_and_nothing_of_strangers(chain);
    estimates_fees_or_says_that_it_cannot(chain);
    follows_a_deposit_into_a_block(chain, control);
    refuses_what_consensus_refuses(chain, control);
    reports_the_spender_and_refuses_a_second_one(chain, control);
    replaces_for_a_higher_fee_only(chain, control);
    survives_a_reorganisation(chain, control);
    carries_a_beacon_signal(chain, control);
    finds_what_spends_a_script(chain, control);
}

fn knows_its_network_and_nothing_of_strangers(chain: &dyn Chain) {
    let genesis = genesis_block(Network::Regtest).block_hash();
    assert_eq!(chain.genesis().unwrap(), genesis);

    let unknown = Txid::from_byte_array([7; 32]);
    let outpoint = OutPoint::new(unknown, 0);
    assert_eq!(
        chain.transaction(unknown).unwrap(),
        TransactionStatus::Unknown
    );
    assert_eq!(chain.raw_transaction(unknown).unwrap(), None);
    assert_eq!(chain.output(outpoint).unwrap(), OutputStatus::Unseen);
    assert_eq!(
        chain
            .unspent(&Wallet::fresh(chain, "stranger").script())
            .unwrap(),
        []
    );
}

fn estimates_fees_or_says_that_it_cannot(chain: &dyn Chain) {
    for blocks in [0, 1, 6, 144, 1_008, u16::MAX] {
        let rate = chain.fee_rate(blocks).unwrap();
        let bounded = rate.is_none_or(|rate| (1..=MAX_FEE_RATE).contains(&rate));
        assert!(bounded, "{blocks} blocks: {rate:?}");
    }
}

fn follows_a_deposit_into_a_block(chain: &dyn Chain, control: &dyn RegtestControl) {
    let wallet = Wallet::fresh(chain, "deposit");
    let coin = control.fund(&wallet.address(), 100_000);
    let seen = |height| OutputStatus::Seen {
        output: pay(&wallet.script(), 100_000),
        height,
        spent_by: None,
    };

    assert_eq!(
        chain.transaction(coin.txid).unwrap(),
        TransactionStatus::Mempool
    );
    assert_eq!(chain.output(coin).unwrap(), seen(None));
    let utxos = chain.unspent(&wallet.script()).unwrap();
    assert_eq!(utxos.len(), 1);
    assert_eq!((utxos[0].outpoint, utxos[0].height), (coin, None));
    assert_eq!(utxos[0].output, pay(&wallet.script(), 100_000));

    let before = chain.tip().unwrap();
    control.mine(1);
    let tip = chain.tip().unwrap();
    assert_eq!(tip.height, before.height + 1);
    assert_ne!(tip.hash, before.hash);
    assert_eq!(
        chain.transaction(coin.txid).unwrap(),
        TransactionStatus::Confirmed {
            height: tip.height,
            block_hash: tip.hash
        }
    );
    assert_eq!(chain.output(coin).unwrap(), seen(Some(tip.height)));
    assert_eq!(
        chain.unspent(&wallet.script()).unwrap()[0].height,
        Some(tip.height)
    );
    let raw = chain.raw_transaction(coin.txid).unwrap().unwrap();
    assert_eq!(raw.compute_txid(), coin.txid);
    assert!(!raw.input[0].witness.is_empty(), "the witness is missing");

    // An output number that this transaction does not have.
    let beyond = OutPoint::new(coin.txid, 1_000);
    assert_eq!(chain.output(beyond).unwrap(), OutputStatus::Unseen);
}

fn refuses_what_consensus_refuses(chain: &dyn Chain, control: &dyn RegtestControl) {
    let wallet = Wallet::fresh(chain, "refused");
    let coin = (control.fund(&wallet.address(), 50_000), 50_000);
    control.mine(1);
    let good = wallet.spend(coin, vec![pay(&wallet.script(), 49_000)]);

    // One flipped bit in the signature: the verdict must be the kernel's.
    let mut corrupted = good.clone();
    let mut signature = corrupted.input[0].witness.to_vec()[0].clone();
    signature[40] ^= 1;
    corrupted.input[0].witness = Witness::from_slice(&[signature]);
    assert_signature_refused(&refusal(chain.broadcast(&corrupted)));

    // A good signature over another amount than the coin has.
    let misjudged = wallet.spend((coin.0, 60_000), vec![pay(&wallet.script(), 49_000)]);
    assert_signature_refused(&refusal(chain.broadcast(&misjudged)));

    let overspent = wallet.spend(coin, vec![pay(&wallet.script(), 50_001)]);
    let reason = refusal(chain.broadcast(&overspent));
    assert!(reason.contains("bad-txns-in-belowout"), "{reason}");

    let nowhere = OutPoint::new(Txid::from_byte_array([9; 32]), 0);
    let orphan = wallet.spend((nowhere, 50_000), vec![pay(&wallet.script(), 49_000)]);
    let reason = refusal(chain.broadcast(&orphan));
    assert!(
        reason.contains("bad-txns-inputs-missingorspent"),
        "{reason}"
    );

    // None of this has touched the coin.
    for bad in [&corrupted, &misjudged, &overspent, &orphan] {
        let spender = match chain.output(coin.0).unwrap() {
            OutputStatus::Seen { spent_by, .. } => spent_by,
            OutputStatus::Unseen => panic!("the coin is gone"),
        };
        assert_eq!(spender, None, "after {}", bad.compute_txid());
    }
    chain.broadcast(&good).unwrap();
}

/// In the words of the kernel, or of a node's mempool.
fn assert_signature_refused(reason: &str) {
    assert!(reason.contains("script-verify-flag-failed"), "{reason}");
    let verdicts = ["Script verification failed", "Invalid Schnorr signature"];
    let verdict = verdicts.iter().any(|verdict| reason.contains(verdict));
    assert!(verdict, "{reason}");
}

fn reports_the_spender_and_refuses_a_second_one(chain: &dyn Chain, control: &dyn RegtestControl) {
    let (wallet, payee) = (
        Wallet::fresh(chain, "spender"),
        Wallet::fresh(chain, "payee"),
    );
    let coin = (control.fund(&wallet.address(), 80_000), 80_000);
    control.mine(1);
    let funded_at = chain.tip().unwrap().height;

    let first = wallet.spend(coin, vec![pay(&payee.script(), 79_000)]);
    // It pays a lower fee. For a higher one, nodes since Bitcoin Core 28 take it whatever the first one signals.
    let second = wallet.spend(coin, vec![pay(&payee.script(), 79_500)]);
    let spent = OutputStatus::Seen {
        output: pay(&wallet.script(), 80_000),
        height: Some(funded_at),
        spent_by: Some(first.compute_txid()),
    };

    chain.broadcast(&first).unwrap();
    chain
        .broadcast(&first)
        .expect("known in the mempool is as good as taken");
    assert_eq!(chain.output(coin.0).unwrap(), spent);
    assert_eq!(chain.unspent(&wallet.script()).unwrap(), []);
    let reason = refusal(chain.broadcast(&second));
    assert!(reason.contains("insufficient fee"), "{reason}");

    control.mine(1);
    let tip = chain.tip().unwrap();
    assert_eq!(
        chain.transaction(first.compute_txid()).unwrap(),
        TransactionStatus::Confirmed {
            height: tip.height,
            block_hash: tip.hash
        }
    );
    assert_eq!(chain.output(coin.0).unwrap(), spent);
    chain
        .broadcast(&first)
        .expect("known in a block is as good as taken");
    let reason = refusal(chain.broadcast(&second));
    assert!(
        reason.contains("bad-txns-inputs-missingorspent"),
        "{reason}"
    );
    let unknown = chain.transaction(second.compute_txid()).unwrap();
    assert_eq!(unknown, TransactionStatus::Unknown);
}

fn replaces_for_a_higher_fee_only(chain: &dyn Chain, control: &dyn RegtestControl) {
    let wallet = Wallet::fresh(chain, "replacer");
    let coin = control.fund(&wallet.address(), 40_000);
    control.mine(1);
    let version = |left: u64| {
        let outputs = vec![pay(&wallet.script(), left)];
        // It does not ask to be replaceable: nodes do not care any more.
        let transaction = unsigned(coin, Sequence::MAX, outputs);
        wallet.sign(transaction, 40_000)
    };
    let (original, dearer, cheaper) = (version(39_500), version(39_000), version(39_600));
    let child = wallet.spend(
        (OutPoint::new(original.compute_txid(), 0), 39_500),
        vec![pay(&wallet.script(), 39_400)],
    );

    chain.broadcast(&original).unwrap();
    chain.broadcast(&child).unwrap();
    let reason = refusal(chain.broadcast(&cheaper));
    assert!(reason.contains("insufficient fee"), "{reason}");

    // A higher fee, but spread over so many bytes that miners would lose by it.
    let mut padded = vec![pay(&wallet.script(), 1_000); 30];
    padded.push(pay(&wallet.script(), 9_200));
    let padded = unsigned(coin, Sequence::ENABLE_RBF_NO_LOCKTIME, padded);
    let reason = refusal(chain.broadcast(&wallet.sign(padded, 40_000)));
    let dilution = ["lower fee rate", "insufficient feerate"];
    assert!(
        dilution.iter().any(|text| reason.contains(text)),
        "{reason}"
    );

    chain.broadcast(&dearer).unwrap();
    for gone in [&original, &child] {
        let status = chain.transaction(gone.compute_txid()).unwrap();
        assert_eq!(status, TransactionStatus::Unknown);
    }
    let utxos = chain.unspent(&wallet.script()).unwrap();
    assert_eq!(utxos.len(), 1);
    assert_eq!(utxos[0].outpoint.txid, dearer.compute_txid());
}

fn survives_a_reorganisation(chain: &dyn Chain, control: &dyn RegtestControl) {
    let (wallet, payee) = (
        Wallet::fresh(chain, "reorg"),
        Wallet::fresh(chain, "reorg payee"),
    );
    let coin = (control.fund(&wallet.address(), 60_000), 60_000);
    control.mine(1);
    let funded_at = chain.tip().unwrap();
    let spend = wallet.spend(coin, vec![pay(&payee.script(), 59_000)]);
    chain.broadcast(&spend).unwrap();
    control.mine(1);
    let before = chain.tip().unwrap();

    // Only the spend's block goes.
    control.reorg(1);
    let after = chain.tip().unwrap();
    assert_eq!(after.height, before.height + 1);
    assert_ne!(after.hash, before.hash);
    assert!(!chain.is_in_best_chain(before).unwrap());
    assert!(chain.is_in_best_chain(funded_at).unwrap());
    assert!(chain.is_in_best_chain(after).unwrap());
    let elsewhere = Tip {
        height: after.height + 1,
        ..after
    };
    assert!(!chain.is_in_best_chain(elsewhere).unwrap());
    let status = chain.transaction(spend.compute_txid()).unwrap();
    assert_eq!(status, TransactionStatus::Mempool);
    assert_eq!(chain.unspent(&payee.script()).unwrap()[0].height, None);
    assert_eq!(
        chain.transaction(coin.0.txid).unwrap(),
        TransactionStatus::Confirmed {
            height: funded_at.height,
            block_hash: funded_at.hash
        }
    );

    // Now the deposit's block goes as well: 3 blocks back.
    control.reorg(after.height - funded_at.height + 1);
    for txid in [coin.0.txid, spend.compute_txid()] {
        assert_eq!(chain.transaction(txid).unwrap(), TransactionStatus::Mempool);
    }
    assert_eq!(
        chain.output(coin.0).unwrap(),
        OutputStatus::Seen {
            output: pay(&wallet.script(), 60_000),
            height: None,
            spent_by: Some(spend.compute_txid()),
        }
    );

    // And they confirm again, elsewhere.
    control.mine(1);
    let tip = chain.tip().unwrap();
    for txid in [coin.0.txid, spend.compute_txid()] {
        assert_eq!(
            chain.transaction(txid).unwrap(),
            TransactionStatus::Confirmed {
                height: tip.height,
                block_hash: tip.hash
            }
        );
    }

    // Parent and child in two blocks, both dropped: the parent must be back before the child.
    let child = payee.spend(
        (OutPoint::new(spend.compute_txid(), 0), 59_000),
        vec![pay(&wallet.script(), 58_000)],
    );
    chain.broadcast(&child).unwrap();
    control.mine(1);
    control.reorg(2);
    for txid in [coin.0.txid, spend.compute_txid(), child.compute_txid()] {
        assert_eq!(chain.transaction(txid).unwrap(), TransactionStatus::Mempool);
    }
}

/// The transaction form of the protocol: change to the beacon, then 32 bytes in an OP_RETURN.
fn carries_a_beacon_signal(chain: &dyn Chain, control: &dyn RegtestControl) {
    let wallet = Wallet::fresh(chain, "beacon");
    let coin = control.fund(&wallet.address(), 30_000);
    control.mine(1);
    let outputs = vec![
        pay(&wallet.script(), 29_000),
        TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return([0xab; 32]),
        },
    ];
    let transaction = unsigned(coin, Sequence::ENABLE_RBF_NO_LOCKTIME, outputs);
    let signal = wallet.sign(transaction, 30_000);
    chain.broadcast(&signal).unwrap();
    control.mine(1);

    let raw = chain
        .raw_transaction(signal.compute_txid())
        .unwrap()
        .unwrap();
    assert_eq!(raw, signal);
    let utxos = chain.unspent(&wallet.script()).unwrap();
    assert_eq!(utxos.len(), 1);
    assert_eq!(utxos[0].outpoint, OutPoint::new(signal.compute_txid(), 0));
}

/// More spends than a page of any source holds, in several blocks.
fn finds_what_spends_a_script(chain: &dyn Chain, control: &dyn RegtestControl) {
    const IN_EACH_BLOCK: usize = 14;
    let (wallet, other) = (
        Wallet::fresh(chain, "spends"),
        Wallet::fresh(chain, "spends other"),
    );
    let spends = || {
        let found = chain.spends(&wallet.script()).unwrap();
        assert_eq!(found.tip, chain.tip().unwrap());
        found.transactions
    };
    assert_eq!(spends(), []);
    let mut coin = (control.fund(&wallet.address(), 50_000), 50_000);
    let payment = (control.fund(&other.address(), 20_000), 20_000);
    control.mine(1);
    // Money that comes is nothing that is spent, whoever sends it.
    let gift = other.spend(payment, vec![pay(&wallet.script(), 19_000)]);
    chain.broadcast(&gift).unwrap();
    control.mine(1);
    assert_eq!(spends(), []);

    let mut expected = Vec::new();
    for _ in 0..3 {
        let mut block = Vec::new();
        for _ in 0..IN_EACH_BLOCK {
            let left = coin.1 - 500;
            let spend = wallet.spend(coin, vec![pay(&wallet.script(), left)]);
            chain.broadcast(&spend).unwrap();
            coin = (OutPoint::new(spend.compute_txid(), 0), left);
            block.push(spend);
        }
        assert_eq!(spends().len(), expected.len(), "the mempool does not count");
        control.mine(1);
        let tip = chain.tip().unwrap();
        block.sort_by_key(Transaction::compute_txid);
        expected.extend(block.into_iter().map(|spend| (spend, tip)));
    }
    let found = spends();
    assert_eq!(found.len(), expected.len());
    for (found, (transaction, tip)) in found.iter().zip(&expected) {
        assert_eq!(&found.transaction, transaction);
        assert_eq!((found.height, found.block_hash), (tip.height, tip.hash));
    }
    for pair in found.windows(2) {
        let times = |spend: &ConfirmedSpend| (spend.block_time, spend.median_time);
        let same_block = pair[0].block_hash == pair[1].block_hash;
        assert!(!same_block || times(&pair[0]) == times(&pair[1]));
        assert!(pair[0].median_time <= pair[1].median_time);
        assert!(pair[1].median_time <= pair[1].block_time);
    }
    assert_eq!(
        chain.spends(&other.script()).unwrap().transactions.len(),
        1,
        "the gift was one to the other"
    );

    // What a dropped block held is no spend until it is mined again, in another block.
    control.reorg(1);
    assert_eq!(spends(), found[..2 * IN_EACH_BLOCK]);
    control.mine(1);
    let again = spends();
    assert_eq!(again.len(), found.len());
    assert_eq!(again[..2 * IN_EACH_BLOCK], found[..2 * IN_EACH_BLOCK]);
    let tip = chain.tip().unwrap();
    for spend in &again[2 * IN_EACH_BLOCK..] {
        assert_eq!((spend.height, spend.block_hash), (tip.height, tip.hash));
    }
}
