//! The rules against brute force: every set of transactions that a chain could hold is looked at.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, ScriptBuf, TxOut};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;

/// Two outputs each; the number makes the id unique.
fn tx(number: u32, inputs: &[OutPoint]) -> Transaction {
    let output = TxOut {
        value: Amount::ONE_SAT,
        script_pubkey: ScriptBuf::new(),
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::from_consensus(number),
        input: inputs
            .iter()
            .map(|outpoint| TxIn {
                previous_output: *outpoint,
                ..TxIn::default()
            })
            .collect(),
        output: vec![output.clone(), output],
    }
}

fn deposit(number: u32) -> OutPoint {
    OutPoint::new(Txid::all_zeros(), number)
}

/// Whether a chain could hold these, and no other ones: what they build on is there, and nothing is spent twice.
fn could_be_mined(set: &[&Transaction], all: &[&Transaction]) -> bool {
    let mut spent = BTreeSet::new();
    let there = |txid| set.iter().any(|tx| tx.compute_txid() == txid);
    let known = |txid| all.iter().any(|tx| tx.compute_txid() == txid);
    let mut inputs = set.iter().flat_map(|tx| &tx.input);
    inputs.all(|input| {
        let parent = input.previous_output.txid;
        spent.insert(input.previous_output) && (!known(parent) || there(parent))
    })
}

/// All sets of these that a chain could hold.
fn worlds<'a>(all: &[&'a Transaction]) -> Vec<Vec<&'a Transaction>> {
    let chosen = |bits: u32| -> Vec<&Transaction> {
        let numbered = all.iter().enumerate();
        let chosen = numbered.filter(|(number, _)| bits & (1 << number) != 0);
        chosen.map(|(_, tx)| *tx).collect()
    };
    let sets = (0..1_u32 << all.len()).map(chosen);
    sets.filter(|set| could_be_mined(set, all)).collect()
}

fn depends_on(tx: &Transaction, on: Txid, all: &[&Transaction]) -> bool {
    tx.input.iter().any(|input| {
        let parent = input.previous_output.txid;
        let parents = all.iter().find(|other| other.compute_txid() == parent);
        parent == on || parents.is_some_and(|parent| depends_on(parent, on, all))
    })
}

/// Transactions that spend deposits and each other's outputs, often the same ones: the last one is the new one.
fn random(rng: &mut ChaCha20Rng) -> Vec<Transaction> {
    let mut below = |limit: u32| rng.next_u32() % limit;
    let mut txs: Vec<Transaction> = Vec::new();
    for number in 0..2 + below(6) {
        let mut inputs = BTreeSet::new();
        for _ in 0..=below(3) {
            let parent = below(4 + number);
            let made = txs.get(parent.wrapping_sub(4) as usize);
            inputs.insert(made.map_or(deposit(parent), |parent| {
                OutPoint::new(parent.compute_txid(), below(2))
            }));
        }
        txs.push(tx(number, &inputs.into_iter().collect::<Vec<_>>()));
    }
    txs
}

/// A live transaction is ignored exactly where both it and the new one could be mined, the new one not needing it; and a
/// published one is undone exactly where it could be mined with all that the new one needs, and not with the new one.
#[test]
fn the_rules_are_those_of_brute_force() {
    let mut rng = ChaCha20Rng::seed_from_u64(2_028);
    let mut seen = [0; 4];
    for run in 0..4_000 {
        let txs = random(&mut rng);
        let (new, live) = txs.split_last().unwrap();
        let live: Vec<&Transaction> = live.iter().collect();
        let all: Vec<&Transaction> = txs.iter().collect();
        let worlds = worlds(&all);
        let together = |one: &Transaction, other: &Transaction| {
            let has = |set: &[&Transaction], tx: &Transaction| set.contains(&tx);
            let mut worlds = worlds.iter();
            worlds.any(|world| has(world, one) && has(world, other))
        };
        let ignored = |other: &&&Transaction| {
            together(new, other) && !depends_on(new, other.compute_txid(), &all)
        };
        let expected: BTreeSet<Txid> = live
            .iter()
            .filter(ignored)
            .map(|other| other.compute_txid())
            .collect();
        let got = ignored_live(&new.input, &live);
        assert_eq!(got.is_some(), !expected.is_empty(), "run {run}: {txs:#?}");
        assert!(
            got.is_none_or(|txid| expected.contains(&txid)),
            "run {run}: {txs:#?}"
        );
        seen[usize::from(got.is_some())] += 1;
        for published in &live {
            let mut needed = worlds.iter().filter(|world| {
                let there = |tx: &&&Transaction| depends_on(new, tx.compute_txid(), &all);
                world.contains(published) && live.iter().filter(there).all(|tx| world.contains(tx))
            });
            let minable = worlds.iter().any(|world| world.contains(&new));
            let expected = minable && needed.next().is_some() && !together(new, published);
            let got = undone(&new.input, &[published], &live);
            let expected = expected.then(|| published.compute_txid());
            assert_eq!(got, expected, "run {run}: {txs:#?}");
            seen[2 + usize::from(got.is_some())] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 300), "{seen:?}");
}

/// A signal of the next round spends the change of one of two versions. The other one is accounted for, also where it
/// spends something besides; what a third spends is not.
#[test]
fn what_builds_on_one_version_accounts_for_the_other() {
    let old = tx(1, &[deposit(0)]);
    let new = tx(2, &[deposit(0), deposit(1)]);
    let on = |parent: &Transaction| tx(3, &[OutPoint::new(parent.compute_txid(), 0)]);
    for (mined, other) in [(&old, &new), (&new, &old)] {
        let next = on(mined);
        assert_eq!(ignored_live(&next.input, &[&old, &new]), None);
        assert_eq!(undone(&next.input, &[other], &[&old, &new]), None);
        let third = tx(4, &[deposit(2)]);
        let ignored = ignored_live(&next.input, &[&old, &new, &third]);
        assert_eq!(ignored, Some(third.compute_txid()));
    }
    // What only the newer version takes besides may be spent once the older one is mined.
    let next = tx(5, &[OutPoint::new(old.compute_txid(), 0), deposit(1)]);
    assert_eq!(ignored_live(&next.input, &[&old, &new]), None);
    assert_eq!(undone(&next.input, &[&new], &[&old, &new]), None);
}

/// Whoever replaces what a published signal builds on undoes that signal.
#[test]
fn a_published_signal_is_undone_through_what_it_builds_on() {
    let first = tx(1, &[deposit(0)]);
    let second = tx(2, &[OutPoint::new(first.compute_txid(), 0)]);
    let replacement = tx(3, &[deposit(0)]);
    let live = [&first, &second];
    let got = undone(&replacement.input, &[&second], &live);
    assert_eq!(got, Some(second.compute_txid()));
    assert_eq!(ignored_live(&replacement.input, &live), None);
}
