//! The leaves of script trees on real consensus: the embedded chain (Bitcoin Core's kernel), and a Bitcoin Core node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use beacon_cohort::musig::BeaconKey;
use beacon_cohort::psbt;
use beacon_cohort::script_path::{Leaf, ScriptPath};
use beacon_cohort::script_spend::{ScriptSpend, SpendError};
use beacon_cohort::terms::ScriptTree;
use beacon_cohort::values::CohortKey;
use beacon_tests::harness::{Regtest, Scratch};
use bitcoin::key::UntweakedPublicKey;
use bitcoin::{Address, KnownHrp, Network, OutPoint, ScriptBuf, Transaction, Witness};
use secp256k1::{Keypair, schnorr};
use serde_json::json;

/// Holder number 0 has the recovery key, the others are members.
fn holder(number: u16) -> Keypair {
    let mut secret = [7; 32];
    secret[30..].copy_from_slice(&number.to_be_bytes());
    Keypair::from_secret_bytes(secret).unwrap()
}

fn x_only(pair: &Keypair) -> UntweakedPublicKey {
    let bytes = pair.x_only_public_key().0.to_byte_array();
    UntweakedPublicKey::from_slice(&bytes).unwrap()
}

fn beacon(members: u16, tree: &serde_json::Value) -> BeaconKey {
    let tree: ScriptTree = serde_json::from_value(tree.clone()).unwrap();
    let keys = (1..=members).map(|number| CohortKey::from(holder(number).public_key()));
    BeaconKey::with_tree(keys, Some(&tree)).unwrap()
}

fn recovery_of(beacon: &BeaconKey) -> ScriptPath {
    let mut paths = beacon.script_paths().into_iter();
    paths
        .find(|path| matches!(path.leaf, Leaf::Recovery(_)))
        .unwrap()
}

fn fallback_of(beacon: &BeaconKey) -> ScriptPath {
    let mut paths = beacon.script_paths().into_iter();
    paths
        .find(|path| matches!(path.leaf, Leaf::Fallback(_)))
        .unwrap()
}

fn elsewhere() -> ScriptBuf {
    let secp = bitcoin::secp256k1::Secp256k1::new();
    Address::p2tr(&secp, x_only(&holder(60_000)), None, KnownHrp::Regtest).script_pubkey()
}

fn sign(spend: &mut ScriptSpend, number: u16) {
    let pair = holder(number);
    let sighashes = spend.sighashes().iter();
    let signatures = sighashes
        .map(|sighash| schnorr::sign_with_aux_rand(sighash, &pair, &[1; 32]).to_byte_array());
    let signatures = signatures.collect();
    spend.add(x_only(&pair), signatures).unwrap();
}

/// So many deposits of 20,000 sat each, in blocks.
fn deposits(chain: &Regtest, beacon: &BeaconKey, count: usize) -> Vec<(OutPoint, u64)> {
    let address = beacon.address(Network::Regtest);
    let paid = (0..count).map(|_| (chain.fund(&address, 20_000), 20_000));
    paid.collect()
}

fn both_leaves() -> serde_json::Value {
    let key = x_only(&holder(0)).to_string();
    json!({ "recovery": { "key": key, "blocks": 3 }, "fallback": { "threshold": 2 } })
}

/// It pays the rate for the bytes that it has, no more and no less.
fn is_priced_by_its_size(spend: &ScriptSpend, finished: &Transaction, rate: u64) {
    let vsize = u64::try_from(finished.vsize()).unwrap();
    assert_eq!((spend.vsize(), spend.fee_sat()), (vsize, vsize * rate));
}

/// One block early it is refused, on time it is mined; another key never has the money.
fn recovery(chain: &Regtest) {
    let beacon = beacon(3, &both_leaves());
    let path = recovery_of(&beacon);
    for inputs in [1, 2] {
        let coins = deposits(chain, &beacon, inputs);
        let build = || ScriptSpend::build(&beacon, &path, &coins, &elsewhere(), 3).unwrap();
        let mut spend = build();
        let by_another = spend.add(x_only(&holder(1)), vec![[0; 64]; inputs]);
        assert!(matches!(by_another, Err(SpendError::ForeignKey(_))));
        sign(&mut spend, 0);
        let finished = spend.finish().unwrap();
        is_priced_by_its_size(&spend, &finished, 3);
        // The newest deposit is in the last block, so the next one is its second.
        let refused = chain.offer(&finished).unwrap_err();
        assert!(refused.contains("non-BIP68-final"), "{refused}");
        chain.mine();
        let mut younger = finished.clone();
        for input in &mut younger.input {
            input.sequence = bitcoin::Sequence::from_height(2);
        }
        let refused = chain.offer(&younger).unwrap_err();
        assert!(
            refused.contains("script"),
            "the leaf asks for three: {refused}"
        );
        chain.mine();
        chain.offer(&finished).unwrap();
        chain.mine();
        assert!(chain.height(finished.compute_txid()).is_some());
    }
}

/// One signature too few is refused, by us and by consensus; two of three are enough, whichever they are.
fn fallback(chain: &Regtest) {
    let beacon = beacon(3, &both_leaves());
    let path = fallback_of(&beacon);
    for signers in [[1, 2], [1, 3], [3, 2]] {
        let coins = deposits(chain, &beacon, 2);
        let mut spend = ScriptSpend::build(&beacon, &path, &coins, &elsewhere(), 2).unwrap();
        sign(&mut spend, signers[0]);
        let expected = SpendError::Unsigned {
            got: 1,
            expected: 2,
        };
        assert_eq!(spend.finish(), Err(expected));
        let mut other = ScriptSpend::read(&beacon, &path, &spend.psbt().unwrap()).unwrap();
        sign(&mut other, signers[1]);
        spend.combine(&other).unwrap();
        let finished = spend.finish().unwrap();
        is_priced_by_its_size(&spend, &finished, 2);
        let mut short = finished.clone();
        for input in &mut short.input {
            let mut elements: Vec<_> = input.witness.iter().map(<[u8]>::to_vec).collect();
            let signed = elements[..3].iter().position(|element| !element.is_empty());
            elements[signed.unwrap()].clear();
            input.witness = Witness::from_slice(&elements);
        }
        let refused = chain.offer(&short).unwrap_err();
        assert!(refused.contains("script"), "{refused}");
        chain.offer(&finished).unwrap();
        chain.mine();
        assert!(chain.height(finished.compute_txid()).is_some());
    }
    // More signatures than it needs cost nothing: they are left out.
    let coins = deposits(chain, &beacon, 1);
    let mut spend = ScriptSpend::build(&beacon, &path, &coins, &elsewhere(), 2).unwrap();
    (1..=3).for_each(|number| sign(&mut spend, number));
    let finished = spend.finish().unwrap();
    is_priced_by_its_size(&spend, &finished, 2);
    chain.offer(&finished).unwrap();
    chain.mine();
}

/// The largest leaf that terms may have can be spent, with as many inputs as we say; with one key more it never could.
fn the_largest_fallback(chain: &Regtest) {
    let tree = json!({ "fallback": { "threshold": 999 } });
    let largest = beacon(999, &tree);
    let path = fallback_of(&largest);
    let most = ScriptSpend::most_inputs(&path);
    assert_eq!(most, 3);
    let coins = deposits(chain, &largest, most);
    let mut spend = ScriptSpend::build(&largest, &path, &coins, &elsewhere(), 1);
    let spend = spend.as_mut();
    assert!(
        matches!(spend, Err(SpendError::NeedsMore { .. })),
        "{spend:?}"
    );
    let mut coins: Vec<_> = deposits(chain, &largest, most - 1);
    coins.push((
        chain.fund(&largest.address(Network::Regtest), 90_000),
        90_000,
    ));
    let mut spend = ScriptSpend::build(&largest, &path, &coins, &elsewhere(), 1).unwrap();
    (1..=999).for_each(|number| sign(&mut spend, number));
    let file = psbt::to_base64(&spend.psbt().unwrap()).unwrap();
    let read = psbt::parse(file.as_bytes()).unwrap();
    assert_eq!(ScriptSpend::read(&largest, &path, &read), Ok(spend.clone()));
    let finished = spend.finish().unwrap();
    is_priced_by_its_size(&spend, &finished, 1);
    chain.offer(&finished).unwrap();
    chain.mine();
    let one_more = [coins, vec![(OutPoint::null(), 50_000)]].concat();
    let error = ScriptSpend::build(&largest, &path, &one_more, &elsewhere(), 1).unwrap_err();
    assert_eq!(error, SpendError::TooManyInputs { got: 4, max: 3 });

    let too_large = beacon(1_000, &tree);
    let path = fallback_of(&too_large);
    let coins = [(
        chain.fund(&too_large.address(Network::Regtest), 90_000),
        90_000,
    )];
    let mut spend = ScriptSpend::build(&too_large, &path, &coins, &elsewhere(), 1).unwrap();
    (1..=999).for_each(|number| sign(&mut spend, number));
    let refused = chain.offer(&spend.finish().unwrap()).unwrap_err();
    assert!(
        refused.contains("script") || refused.contains("witness"),
        "{refused}"
    );
}

fn all(chain: &Regtest) {
    recovery(chain);
    fallback(chain);
    the_largest_fallback(chain);
}

#[tokio::test]
async fn script_paths_are_spent_as_consensus_wants_it() {
    let scratch = Scratch::new();
    all(&Regtest::start(scratch.path()).await);
}

#[test]
fn script_paths_are_spent_on_a_node() {
    all(&Regtest::bitcoind());
}
