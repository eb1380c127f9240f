//! Which transactions can still be mined beside which: what the rules of live transactions are made of.
//!
//! Two versions of one signal are live at once when one of them was replaced. Only one can be mined; whatever builds on
//! one of them can never be mined beside the other.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Transaction, TxIn, Txid};

/// The first live transaction that a spend of `inputs` would leave free to be mined beside it: the spend does not depend
/// on it, directly or through other live transactions, and nothing that either of them needs is spent otherwise by the
/// other, or by what the other depends on.
pub(crate) fn ignored_live(inputs: &[TxIn], live: &[&Transaction]) -> Option<Txid> {
    let graph = Live::new(live);
    let own = graph.line_of(inputs)?;
    let mut all = graph.0.keys();
    all.find(|txid| {
        let other = graph.line_to(**txid);
        !own.txids.contains(*txid) && other.is_some_and(|other| own.goes_with(&other))
    })
    .copied()
}

/// The first of these published transactions, all of them live, that a spend of `inputs` would undo: both could be mined
/// if it were not for an input of that spend. What it builds on may have made the other one impossible before.
pub(crate) fn undone(
    inputs: &[TxIn],
    published: &[&Transaction],
    live: &[&Transaction],
) -> Option<Txid> {
    let graph = Live::new(live);
    let mut published = published.iter().map(|tx| tx.compute_txid());
    let own = graph.line_of(inputs);
    published.find(|txid| {
        let (Some(own), Some(other)) = (&own, graph.line_to(*txid)) else {
            return false; // One of the two can never be mined.
        };
        own.without_itself().goes_with(&other) && !own.goes_with(&other)
    })
}

/// Whether both spend an output, so that only one of them can be mined. A transaction conflicts with itself.
pub(crate) fn conflict(one: &Transaction, other: &Transaction) -> bool {
    let taken = |input: &TxIn| {
        let mut inputs = other.input.iter();
        inputs.any(|taken| taken.previous_output == input.previous_output)
    };
    one.input.iter().any(taken)
}

/// Transactions that may be mined, by id.
struct Live<'a>(BTreeMap<Txid, &'a Transaction>);

impl<'a> Live<'a> {
    fn new(live: &[&'a Transaction]) -> Self {
        Self(live.iter().map(|tx| (tx.compute_txid(), *tx)).collect())
    }

    /// The line of something new that spends these outputs. `None` if it can never be mined.
    fn line_of(&self, inputs: &[TxIn]) -> Option<Line> {
        let mut line = Line::default();
        let mut next: Vec<(Option<Txid>, OutPoint)> = inputs
            .iter()
            .map(|input| (None, input.previous_output))
            .collect();
        while let Some((spender, outpoint)) = next.pop() {
            if *line.spends.entry(outpoint).or_insert(spender) != spender {
                return None;
            }
            let parent = self.0.get(&outpoint.txid);
            if let Some(parent) = parent.filter(|_| line.txids.insert(outpoint.txid)) {
                let inputs = parent.input.iter();
                next.extend(inputs.map(|input| (Some(outpoint.txid), input.previous_output)));
            }
        }
        Some(line)
    }

    /// The line that ends in one of them. `None` if it can never be mined.
    fn line_to(&self, txid: Txid) -> Option<Line> {
        let mut line = self.line_of(&self.0.get(&txid)?.input)?;
        for spender in line.spends.values_mut() {
            spender.get_or_insert(txid);
        }
        Some(line)
    }
}

/// A transaction and all that must be mined before it, as far as that is live.
#[derive(Clone, Default)]
struct Line {
    /// What it depends on.
    txids: BTreeSet<Txid>,
    /// What is spent in it, and by which of them; `None` is the new one.
    spends: BTreeMap<OutPoint, Option<Txid>>,
}

impl Line {
    /// Whether both lines can be mined together: no output is spent in both by different transactions.
    fn goes_with(&self, other: &Self) -> bool {
        let mut spends = self.spends.iter();
        spends.all(|(outpoint, spender)| {
            let rival = other.spends.get(outpoint);
            rival.is_none_or(|rival| rival == spender)
        })
    }

    /// What comes before the new one.
    fn without_itself(&self) -> Self {
        let mut before = self.clone();
        before.spends.retain(|_, spender| spender.is_some());
        before
    }
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

#[cfg(test)]
mod tests;
