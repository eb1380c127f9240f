//! Which transactions can still be mined beside which: what the rules of live transactions are made of.

use std::collections::BTreeSet;

use bitcoin::{OutPoint, Transaction, Txid};

/// The first live transaction that a spend of `inputs` would leave free to be mined beside it: the spend neither
/// takes one of its inputs nor depends, directly or through other live transactions, on one of its outputs.
pub(crate) fn ignored_live(
    inputs: &[bitcoin::TxIn],
    live: &[&Transaction],
) -> Option<bitcoin::Txid> {
    let mut needed: Vec<bitcoin::Txid> = inputs
        .iter()
        .map(|input| input.previous_output.txid)
        .collect();
    let mut next = 0;
    while let Some(txid) = needed.get(next).copied() {
        let parents = live.iter().filter(|live| live.compute_txid() == txid);
        let parents: Vec<_> = parents
            .flat_map(|live| &live.input)
            .map(|input| input.previous_output.txid)
            .collect();
        needed.extend(
            parents
                .into_iter()
                .filter(|parent| !needed.contains(parent))
                .collect::<Vec<_>>(),
        );
        next += 1;
    }
    live.iter()
        .find(|live| {
            let conflicts = live.input.iter().any(|taken| {
                inputs
                    .iter()
                    .any(|input| input.previous_output == taken.previous_output)
            });
            !conflicts && !needed.contains(&live.compute_txid())
        })
        .map(|live| live.compute_txid())
}

/// The transactions of `all` that can never be mined beside `buried`, which is one of them: those that spend what it
/// spends, and those that build on such.
pub(crate) fn impossible_beside(buried: Txid, all: &[&Transaction]) -> BTreeSet<Txid> {
    let mined = all.iter().find(|tx| tx.compute_txid() == buried);
    let inputs = mined.into_iter().flat_map(|tx| &tx.input);
    let spent: Vec<_> = inputs.map(|input| input.previous_output).collect();
    impossible_after(&spent, buried, all)
}

/// The transactions of `all` that can never be mined after `spender` has spent these outputs: others that spend them, and
/// those that build on such.
pub(crate) fn impossible_after(
    spent: &[OutPoint],
    spender: Txid,
    all: &[&Transaction],
) -> BTreeSet<Txid> {
    let inputs = |tx: &Transaction| -> Vec<OutPoint> {
        tx.input.iter().map(|input| input.previous_output).collect()
    };
    let txs: Vec<_> = all
        .iter()
        .map(|tx| (tx.compute_txid(), inputs(tx)))
        .collect();
    let mut impossible = BTreeSet::new();
    loop {
        let before = impossible.len();
        for (txid, inputs) in txs.iter().filter(|(txid, _)| *txid != spender) {
            let dead = |input: &OutPoint| spent.contains(input) || impossible.contains(&input.txid);
            if inputs.iter().any(dead) {
                impossible.insert(*txid);
            }
        }
        if impossible.len() == before {
            return impossible;
        }
    }
}
