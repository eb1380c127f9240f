//! Transactions that wait for a block, and the rules by which they may.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bitcoin::absolute::{Height, Time};
use bitcoin::relative::LockTime;
use bitcoin::{Amount, OutPoint, Transaction, TxOut, Txid};
use thiserror::Error;

use crate::index::{Index, ScriptHash, Spender, output_of, touched_scripts};
use crate::kernel;

/// Most transactions that wait at a time. At the weight limit of one this is 2 GB, at the size of
/// beacon signals 1 MB.
const MAX_ENTRIES: usize = 5_000;
/// Bitcoin Core's limit for a standard transaction, in weight units.
const MAX_WEIGHT: u64 = 400_000;
/// Bitcoin Core's limit for a standard transaction, a fifth of what a block may have.
const MAX_SIGOP_COST: usize = 16_000;
/// Bitcoin Core's limit on what one replacement may evict (BIP125 rule 5).
const MAX_REPLACED: usize = 100;
/// Blocks that must be mined on a coinbase's block, it included, before it may be spent.
pub(crate) const COINBASE_MATURITY: u32 = 100;
/// Weight units that a template fills: the block limit less room for header and coinbase.
const TEMPLATE_WEIGHT: u64 = 3_990_000;
/// Signature operations that a template fills: the block limit less room for the coinbase.
const TEMPLATE_SIGOP_COST: usize = 79_000;

/// The waiting transactions, in the order of their arrival: parents before children.
#[derive(Default)]
pub(crate) struct Mempool {
    entries: BTreeMap<u64, Entry>,
    places: HashMap<Txid, u64>,
    spends: HashMap<OutPoint, Spender>,
    next_place: u64,
}

/// One waiting transaction.
pub(crate) struct Entry {
    pub(crate) txid: Txid,
    pub(crate) transaction: Transaction,
    pub(crate) fee: Amount,
    /// Scripts that it funds or spends.
    pub(crate) scripts: BTreeSet<ScriptHash>,
    sigop_cost: usize,
}

/// Why a transaction may not wait. Where Bitcoin Core has a name for the reason, the message
/// starts with it.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("bad-txns: got {0} from the kernel's transaction check, expected valid")]
    Malformed(String),
    #[error("coinbase: a coinbase is valid in a block only")]
    Coinbase,
    #[error("version: got {0}, expected 1 to 3")]
    Version(i32),
    #[error("tx-size: got {0} weight units, expected at most {MAX_WEIGHT}")]
    Weight(u64),
    #[error(
        "bad-txns-inputs-missingorspent: input {input} spends {outpoint}, which does not exist or is spent"
    )]
    MissingOrSpent { input: usize, outpoint: OutPoint },
    #[error(
        "bad-txns-premature-spend-of-coinbase: got depth {depth} for input {input}, expected {COINBASE_MATURITY}"
    )]
    Immature { input: usize, depth: u32 },
    #[error("bad-txns-in-belowout: got inputs of {spent} sat, expected at least {paid} sat")]
    Overspent { spent: u64, paid: u64 },
    #[error("non-final: lock time {0} has not come")]
    NotFinal(u32),
    #[error("non-BIP68-final: the relative lock time of input {0} has not come")]
    Locked(usize),
    #[error("dust: got {got} sat in output {output}, expected at least {expected} sat")]
    Dust {
        output: usize,
        got: u64,
        expected: u64,
    },
    #[error("bad-txns-too-many-sigops: got cost {0}, expected at most {MAX_SIGOP_COST}")]
    Sigops(usize),
    #[error("mandatory-script-verify-flag-failed: input {input}: {kernel}")]
    Script { input: usize, kernel: String },
    #[error(
        "insufficient fee: got {got} sat, expected at least {expected} sat to replace {replaced} transactions"
    )]
    ReplacementFee {
        got: u64,
        expected: u64,
        replaced: usize,
    },
    #[error("insufficient fee: got a lower fee rate than that of {0}, which it replaces")]
    ReplacementFeeRate(Txid),
    #[error(
        "bad-txns-spends-conflicting-tx: input {0} spends a transaction that would be replaced"
    )]
    SpendsReplaced(usize),
    #[error("too many potential replacements: got {0}, expected at most {MAX_REPLACED}")]
    ReplacesTooMany(usize),
    #[error("mempool full: got {MAX_ENTRIES} transactions already, expected fewer")]
    Full,
}

impl Mempool {
    pub(crate) fn entry(&self, txid: &Txid) -> Option<&Entry> {
        self.entries.get(self.places.get(txid)?)
    }

    /// All entries, parents before children.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn spender(&self, outpoint: &OutPoint) -> Option<Spender> {
        self.spends.get(outpoint).copied()
    }

    pub(crate) fn output(&self, outpoint: &OutPoint) -> Option<&TxOut> {
        output_of(&self.entry(&outpoint.txid)?.transaction, outpoint)
    }

    /// Takes in a transaction that neither the chain nor the mempool has, if it could be in the
    /// next block on `index`. Transactions that it replaces (BIP125) leave.
    pub(crate) fn accept(
        &mut self,
        transaction: Transaction,
        index: &Index,
    ) -> Result<(), Refusal> {
        kernel::check_transaction(&transaction).map_err(Refusal::Malformed)?;
        check_form(&transaction)?;
        let coins = self.coins(&transaction, index)?;
        check_locks(&transaction, &coins, index)?;
        let fee = fee(&transaction, &coins)?;

        let outputs: HashMap<OutPoint, &TxOut> = transaction
            .input
            .iter()
            .map(|input| input.previous_output)
            .zip(coins.iter().map(|coin| &coin.output))
            .collect();
        let sigop_cost =
            transaction.total_sigop_cost(|outpoint| outputs.get(outpoint).copied().cloned());
        if sigop_cost > MAX_SIGOP_COST {
            return Err(Refusal::Sigops(sigop_cost));
        }
        let scripts = touched_scripts(&transaction, |outpoint| outputs.get(outpoint).copied());

        let spent: Vec<TxOut> = coins.iter().map(|coin| coin.output.clone()).collect();
        kernel::verify_scripts(&transaction, &spent)
            .map_err(|(input, kernel)| Refusal::Script { input, kernel })?;

        let replaced = self.replaced_by(&transaction, fee)?;
        if self.entries.len().saturating_sub(replaced.len()) >= MAX_ENTRIES {
            return Err(Refusal::Full);
        }
        for txid in replaced {
            self.remove(&txid);
        }
        self.insert(Entry {
            txid: transaction.compute_txid(),
            transaction,
            fee,
            scripts,
            sigop_cost,
        });
        Ok(())
    }

    /// Forgets what a connected block has confirmed or made impossible.
    pub(crate) fn block_connected(&mut self, transactions: &[Transaction]) {
        for transaction in transactions {
            self.remove(&transaction.compute_txid());
            for input in &transaction.input {
                if let Some(conflict) = self.spender(&input.previous_output) {
                    for txid in self.with_descendants([conflict.txid]) {
                        self.remove(&txid);
                    }
                }
            }
        }
    }

    /// Empties the mempool. The transactions come out parents before children.
    pub(crate) fn drain(&mut self) -> Vec<Transaction> {
        std::mem::take(self)
            .entries
            .into_values()
            .map(|entry| entry.transaction)
            .collect()
    }

    /// Transactions for the next block, parents before children, and the sum of their fees.
    pub(crate) fn template(&self) -> (Vec<Transaction>, Amount) {
        let mut chosen = Vec::new();
        let mut left_out = HashSet::new();
        let (mut weight, mut sigops, mut fees) = (0, 0, Amount::ZERO);
        for entry in self.entries.values() {
            let orphan = entry
                .transaction
                .input
                .iter()
                .any(|input| left_out.contains(&input.previous_output.txid));
            let new_weight = weight + entry.transaction.weight().to_wu();
            let new_sigops = sigops + entry.sigop_cost;
            if orphan || new_weight > TEMPLATE_WEIGHT || new_sigops > TEMPLATE_SIGOP_COST {
                left_out.insert(entry.txid);
                continue;
            }
            (weight, sigops) = (new_weight, new_sigops);
            fees = fees.checked_add(entry.fee).unwrap_or(Amount::MAX_MONEY);
            chosen.push(entry.transaction.clone());
        }
        (chosen, fees)
    }

    /// The coins that `transaction` spends, in input order; each exists, is unspent on the chain,
    /// and is mature.
    fn coins(&self, transaction: &Transaction, index: &Index) -> Result<Vec<Coin>, Refusal> {
        let next_height = index.tip().map_or(0, |tip| tip.height.saturating_add(1));
        transaction
            .input
            .iter()
            .enumerate()
            .map(|(input, spending)| {
                let outpoint = spending.previous_output;
                if let Some(output) = self.output(&outpoint) {
                    return Ok(Coin {
                        output: output.clone(),
                        height: next_height,
                    });
                }
                let missing = Refusal::MissingOrSpent { input, outpoint };
                let (None, Some(confirmed), Some(output)) = (
                    index.spender(&outpoint),
                    index.transaction(&outpoint.txid),
                    index.output(&outpoint),
                ) else {
                    return Err(missing);
                };
                let depth = next_height.saturating_sub(confirmed.height);
                if confirmed.transaction.is_coinbase() && depth < COINBASE_MATURITY {
                    return Err(Refusal::Immature { input, depth });
                }
                Ok(Coin {
                    output: output.clone(),
                    height: confirmed.height,
                })
            })
            .collect()
    }

    /// The entries that `transaction` would evict, children included, if it may: by the rules of BIP125, but whether or not what
    /// it replaces asks for it, as Bitcoin Core does since version 28.
    fn replaced_by(&self, transaction: &Transaction, fee: Amount) -> Result<Vec<Txid>, Refusal> {
        let direct: BTreeSet<Txid> = transaction
            .input
            .iter()
            .filter_map(|input| self.spender(&input.previous_output))
            .map(|spender| spender.txid)
            .collect();
        if direct.is_empty() {
            return Ok(Vec::new());
        }
        let vsize = vsize(transaction);
        for conflict in direct.iter().filter_map(|txid| self.entry(txid)) {
            // fee / vsize <= conflict.fee / conflict.vsize, without division.
            let ours = u128::from(fee.to_sat()) * u128::from(self::vsize(&conflict.transaction));
            let theirs = u128::from(conflict.fee.to_sat()) * u128::from(vsize);
            if ours <= theirs {
                return Err(Refusal::ReplacementFeeRate(conflict.txid));
            }
        }
        let replaced = self.with_descendants(direct);
        if replaced.len() > MAX_REPLACED {
            return Err(Refusal::ReplacesTooMany(replaced.len()));
        }
        let gone: HashSet<&Txid> = replaced.iter().collect();
        for (input, spending) in transaction.input.iter().enumerate() {
            if gone.contains(&spending.previous_output.txid) {
                return Err(Refusal::SpendsReplaced(input));
            }
        }
        // Rules 3 and 4: all fees that leave, and one satoshi for each virtual byte relayed again.
        let expected = replaced
            .iter()
            .filter_map(|txid| self.entry(txid))
            .map(|entry| entry.fee.to_sat())
            .fold(vsize, u64::saturating_add);
        if fee.to_sat() < expected {
            return Err(Refusal::ReplacementFee {
                got: fee.to_sat(),
                expected,
                replaced: replaced.len(),
            });
        }
        Ok(replaced)
    }

    /// The transactions and all that spend their outputs, directly or not, each once.
    fn with_descendants(&self, roots: impl IntoIterator<Item = Txid>) -> Vec<Txid> {
        let mut found: Vec<Txid> = roots.into_iter().collect();
        let mut seen: HashSet<Txid> = found.iter().copied().collect();
        let mut next = 0;
        while let Some(txid) = found.get(next).copied() {
            next += 1;
            let outputs = self
                .entry(&txid)
                .map_or(0, |entry| entry.transaction.output.len());
            for vout in (0u32..).take(outputs) {
                if let Some(child) = self.spender(&OutPoint::new(txid, vout))
                    && seen.insert(child.txid)
                {
                    found.push(child.txid);
                }
            }
        }
        found
    }

    fn insert(&mut self, entry: Entry) {
        for (vin, input) in (0u32..).zip(&entry.transaction.input) {
            let txid = entry.txid;
            self.spends
                .insert(input.previous_output, Spender { txid, vin });
        }
        self.places.insert(entry.txid, self.next_place);
        self.entries.insert(self.next_place, entry);
        self.next_place += 1;
    }

    fn remove(&mut self, txid: &Txid) {
        let Some(entry) = self
            .places
            .remove(txid)
            .and_then(|place| self.entries.remove(&place))
        else {
            return;
        };
        for input in &entry.transaction.input {
            self.spends.remove(&input.previous_output);
        }
    }
}

/// An output about to be spent.
struct Coin {
    output: TxOut,
    /// Height of its block; the next block's for one that waits itself.
    height: u32,
}

/// Rules that need nothing but the transaction.
fn check_form(transaction: &Transaction) -> Result<(), Refusal> {
    if transaction.is_coinbase() {
        return Err(Refusal::Coinbase);
    }
    let version = transaction.version.0;
    if !(1..=3).contains(&version) {
        return Err(Refusal::Version(version));
    }
    let weight = transaction.weight().to_wu();
    if weight > MAX_WEIGHT {
        return Err(Refusal::Weight(weight));
    }
    for (output, paid) in transaction.output.iter().enumerate() {
        let expected = paid.script_pubkey.minimal_non_dust();
        if paid.value < expected {
            return Err(Refusal::Dust {
                output,
                got: paid.value.to_sat(),
                expected: expected.to_sat(),
            });
        }
    }
    Ok(())
}

/// Lock times, absolute (BIP113) and relative (BIP68), as they stand for the next block.
fn check_locks(transaction: &Transaction, coins: &[Coin], index: &Index) -> Result<(), Refusal> {
    let tip_height = index.tip().map_or(0, |tip| tip.height);
    let next_height = tip_height.saturating_add(1);
    let median_time = index.median_time(tip_height);

    // A lock time is passed by a block above it, so the tip is what has to have reached it.
    let passed = match (
        Height::from_consensus(tip_height),
        Time::from_consensus(median_time.saturating_sub(1)),
    ) {
        (Ok(height), Ok(time)) => transaction.is_absolute_timelock_satisfied(height, time),
        _ => false,
    };
    if !passed {
        return Err(Refusal::NotFinal(transaction.lock_time.to_consensus_u32()));
    }

    if transaction.version.0 < 2 {
        return Ok(());
    }
    for (position, (input, coin)) in transaction.input.iter().zip(coins).enumerate() {
        let passed = match input.sequence.to_relative_lock_time() {
            None => true,
            Some(LockTime::Blocks(blocks)) => {
                coin.height.saturating_add(u32::from(blocks.value())) <= next_height
            }
            Some(LockTime::Time(span)) => {
                let start = index.median_time(coin.height.saturating_sub(1));
                start.saturating_add(u32::from(span.value()) * 512) <= median_time
            }
        };
        if !passed {
            return Err(Refusal::Locked(position));
        }
    }
    Ok(())
}

fn fee(transaction: &Transaction, coins: &[Coin]) -> Result<Amount, Refusal> {
    let sum = |amounts: &mut dyn Iterator<Item = u64>| amounts.fold(0, u64::saturating_add);
    let spent = sum(&mut coins.iter().map(|coin| coin.output.value.to_sat()));
    let paid = sum(&mut transaction
        .output
        .iter()
        .map(|output| output.value.to_sat()));
    spent
        .checked_sub(paid)
        .map(Amount::from_sat)
        .ok_or(Refusal::Overspent { spent, paid })
}

fn vsize(transaction: &Transaction) -> u64 {
    transaction.weight().to_vbytes_ceil()
}
