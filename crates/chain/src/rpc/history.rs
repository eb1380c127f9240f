//! What was found of one script.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use bitcoin::hashes::Hash as _;
use bitcoin::{OutPoint, Script, Transaction, Txid};

use super::activity::Event;
use crate::{ChainError, MAX_HISTORY_BYTES, MAX_HISTORY_TRANSACTIONS, Utxo};

/// Everything that pays or spends one script, up to a height.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The first block that was not looked through.
    pub(super) next: u32,
    pub(super) asked: u64,
    pub(super) bytes: usize,
    /// Why nothing more is looked for.
    pub(super) fault: Option<ChainError>,
    /// By height, then id.
    transactions: BTreeMap<(u32, Txid), Transaction>,
}

impl History {
    pub(super) fn from(start: u32) -> Self {
        Self {
            next: start,
            ..Self::default()
        }
    }

    /// The transactions with their heights, oldest first (those of one block by id).
    pub(super) fn transactions(&self) -> impl Iterator<Item = (u32, Txid, &Transaction)> {
        let entries = self.transactions.iter();
        entries.map(|((height, txid), transaction)| (*height, *txid, transaction))
    }

    pub(super) fn forget_from(&mut self, end: u32, start: u32) {
        if self.next <= end {
            return;
        }
        let gone = self.transactions.split_off(&(end, Txid::all_zeros()));
        self.bytes -= gone.values().map(Transaction::total_size).sum::<usize>();
        self.next = end.max(start);
        self.fault = None;
    }

    /// Takes what happened to `script` in some blocks, of which `fetched` has the transactions.
    pub(super) fn take<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Event> + Clone,
        fetched: &BTreeMap<(u32, Txid), Transaction>,
        start: u32,
    ) -> Result<(), ChainError> {
        for event in events.clone() {
            let key = (event.height.unwrap_or_default(), event.txid);
            if let (Entry::Vacant(vacant), Some(transaction)) =
                (self.transactions.entry(key), fetched.get(&key))
            {
                self.bytes += transaction.total_size();
                vacant.insert(transaction.clone());
            }
        }
        if self.transactions.len() > MAX_HISTORY_TRANSACTIONS || self.bytes > MAX_HISTORY_BYTES {
            self.transactions.clear();
            self.bytes = 0;
            return Err(ChainError::too_much(format_args!(
                "got more than {MAX_HISTORY_TRANSACTIONS} transactions or {MAX_HISTORY_BYTES} bytes of one script, expected fewer"
            )));
        }
        let by_id: HashMap<Txid, &Transaction> = self
            .transactions
            .iter()
            .map(|((_, txid), transaction)| (*txid, transaction))
            .collect();
        events
            .into_iter()
            .try_for_each(|event| event.check(&by_id, start))
    }
}

/// All outputs to the script in blocks.
pub(super) fn outputs<'a>(
    script: &'a Script,
    history: &'a History,
) -> impl Iterator<Item = Utxo> + 'a {
    history
        .transactions()
        .flat_map(move |(height, txid, transaction)| paid(script, txid, transaction, Some(height)))
}

fn paid<'a>(
    script: &'a Script,
    txid: Txid,
    transaction: &'a Transaction,
    height: Option<u32>,
) -> impl Iterator<Item = Utxo> + 'a {
    (0..)
        .zip(&transaction.output)
        .filter(move |(_, output)| *output.script_pubkey == *script)
        .map(move |(vout, output)| Utxo {
            outpoint: OutPoint::new(txid, vout),
            output: output.clone(),
            height,
        })
}

/// What blocks and mempool pay to the script, less what they spend.
pub(super) fn unspent(
    script: &Script,
    history: &History,
    waiting: &HashMap<Txid, Transaction>,
) -> Vec<Utxo> {
    let confirmed = history
        .transactions()
        .map(|(_, _, transaction)| transaction);
    let spent: HashSet<OutPoint> = confirmed
        .chain(waiting.values())
        .flat_map(|transaction| &transaction.input)
        .map(|input| input.previous_output)
        .collect();
    let in_mempool = waiting
        .iter()
        .flat_map(|(txid, transaction)| paid(script, *txid, transaction, None));
    let mut utxos: Vec<_> = outputs(script, history)
        .chain(in_mempool)
        .filter(|utxo| !spent.contains(&utxo.outpoint))
        .collect();
    Utxo::sort(&mut utxos);
    utxos
}
