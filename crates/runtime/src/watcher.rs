//! The chain, asked from a thread of its own: watched scripts, outputs and transactions become facts.
//!
//! A chain source blocks and may be slow; nothing here holds the agent's loop up. The source is asked at an interval,
//! and at once when something new is watched. While it is unavailable nothing is reported but that, once.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use beacon_chain::{
    BroadcastError, Chain, ChainError, ChainIdentity, OutputStatus, TransactionStatus, WrongChain,
};
use beacon_cohort::machine::{
    BroadcastOutcome, ChainFact, ControlAnswer, ControlQuestion, Fund, OutputView, TransactionView,
    Watches,
};
use beacon_cohort::script_path::is_by_leaf;
use bitcoin::{OutPoint, Transaction, Txid};
use tokio::sync::mpsc::Sender;

use crate::prover::Prover;

/// What the watcher reports.
#[derive(Debug)]
pub enum Report {
    /// What the source says.
    Fact(ChainFact),
    /// The source answers again (`None`), or why it does not.
    Status(Option<String>),
    /// The height of the source's last block, when it has changed.
    Tip(u32),
    /// Whether a peer controls a DID.
    Control(ControlAnswer),
    /// The source is for another network; nothing of it may be believed.
    WrongNetwork(WrongChain),
}

enum Order {
    Watch(Watches),
    Broadcast(Transaction),
}

/// The thread's handle. Dropping it ends the thread after what it is doing.
#[derive(Debug)]
pub struct Watcher {
    orders: SyncSender<Order>,
    prover: Prover,
}

/// Between two questions for a fee rate.
const ESTIMATE_INTERVAL: Duration = Duration::from_mins(1);

/// Orders that wait while the source is being asked.
const MAX_ORDERS: usize = 1_024;

impl Watcher {
    /// Starts the thread. `identity` is the configured network's.
    pub fn start(
        chain: Arc<dyn Chain>,
        identity: ChainIdentity,
        interval: Duration,
        reports: Sender<Report>,
    ) -> std::io::Result<Self> {
        let prover = Prover::start(Arc::clone(&chain), reports.downgrade())?;
        let (orders, inbox) = mpsc::sync_channel(MAX_ORDERS);
        let mut thread = Thread {
            chain,
            identity,
            reports,
            watches: Watches::default(),
            network_checked: false,
            unavailable: None,
            fault: None,
            estimate: None,
            tip: None,
        };
        std::thread::Builder::new()
            .name("chain".to_owned())
            .spawn(move || {
                loop {
                    match inbox.recv_timeout(interval) {
                        Ok(Order::Watch(watches)) => thread.watches = watches,
                        Ok(Order::Broadcast(tx)) => {
                            if thread.broadcast(&tx).is_none() {
                                return;
                            }
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    if thread.poll().is_none() {
                        return;
                    }
                }
            })?;
        Ok(Self { orders, prover })
    }

    /// Watches this from now on. `false` when the thread is too busy: try again.
    #[must_use]
    pub fn watch(&self, watches: Watches) -> bool {
        self.orders.try_send(Order::Watch(watches)).is_ok()
    }

    /// Gives a transaction to the source. `false` when the thread is too busy.
    #[must_use]
    pub fn broadcast(&self, tx: Transaction) -> bool {
        self.orders.try_send(Order::Broadcast(tx)).is_ok()
    }
}

impl Watcher {
    /// Has a peer's claim to a DID judged. `false` when too many wait: it is asked again.
    #[must_use]
    pub fn judge(&self, question: ControlQuestion) -> bool {
        self.prover.ask(question)
    }
}

struct Thread {
    chain: Arc<dyn Chain>,
    identity: ChainIdentity,
    reports: Sender<Report>,
    watches: Watches,
    network_checked: bool,
    unavailable: Option<String>,
    /// What it did not answer, or not so that it can be believed, while it answered other things.
    fault: Option<String>,
    /// Its last word on fee rates, or why there is none that can be used.
    estimate: Option<Estimate>,
    /// Of the last block that was reported.
    tip: Option<u32>,
}

struct Estimate {
    asked: Instant,
    fault: Option<String>,
}

/// An answer; `None` where there is none that can be used, which says nothing about the other answers: an address with too
/// much dust on it, or a busy server, must not make us blind for the rest.
fn readable<T>(answer: Result<T, ChainError>, fault: &mut Option<String>) -> Option<T> {
    answer
        .map_err(|error| *fault = Some(error.to_string()))
        .ok()
}

fn output_view(status: OutputStatus, tip: u32) -> OutputView {
    match status {
        OutputStatus::Unseen => OutputView::Unseen,
        OutputStatus::Seen {
            output,
            height,
            spent_by,
        } => OutputView::Seen {
            output,
            confirmations: height.map_or(0, |height| tip.saturating_sub(height).saturating_add(1)),
            spent_by,
        },
    }
}

impl Thread {
    /// `None` when nobody listens any more.
    fn report(&self, report: Report) -> Option<()> {
        self.reports.blocking_send(report).ok()
    }

    /// Asks about everything that is watched. `None` when nobody listens any more.
    fn poll(&mut self) -> Option<()> {
        match self.ask() {
            Ok(facts) => {
                if self.unavailable.take().is_some() {
                    self.report(Report::Status(None))?;
                }
                facts.into_iter().try_for_each(|fact| self.report(fact))
            }
            Err(error) => {
                let reason = error.to_string();
                if self.unavailable.as_ref() != Some(&reason) {
                    self.unavailable = Some(reason.clone());
                    self.report(Report::Status(Some(reason)))?;
                }
                Some(())
            }
        }
    }

    fn ask(&mut self) -> Result<Vec<Report>, ChainError> {
        if !self.network_checked {
            if let Some(wrong) = self.identity.mismatch(&*self.chain)? {
                return Ok(vec![Report::WrongNetwork(wrong)]);
            }
            self.network_checked = true;
        }
        let tip = self.chain.tip()?.height;
        let mut facts = Vec::new();
        let mut fault = None;
        for script in &self.watches.scripts {
            if let Some(utxos) = readable(self.chain.unspent(script), &mut fault) {
                let funds = utxos.into_iter().map(|utxo| Fund {
                    outpoint: utxo.outpoint,
                    value: utxo.output.value.to_sat(),
                    height: utxo.height,
                });
                facts.push(ChainFact::Funds {
                    script: script.clone(),
                    funds: funds.collect(),
                });
            }
        }
        for outpoint in &self.watches.outpoints {
            let seen = self.chain.output(*outpoint).and_then(|status| {
                let by_leaf = self.spent_by_leaf(*outpoint, &status)?;
                Ok((status, by_leaf))
            });
            if let Some((status, by_leaf)) = readable(seen, &mut fault) {
                facts.extend(by_leaf.map(|txid| ChainFact::SpentByLeaf {
                    outpoint: *outpoint,
                    txid,
                }));
                facts.push(ChainFact::Output {
                    outpoint: *outpoint,
                    view: output_view(status, tip),
                });
            }
        }
        for inputs in &self.watches.inputs {
            // All or none: what is reviewed is what was seen together.
            let asked = inputs.iter().map(|outpoint| {
                let status = self.chain.output(*outpoint)?;
                Ok((*outpoint, output_view(status, tip)))
            });
            let views = asked.collect::<Result<Vec<_>, ChainError>>();
            if let Some(views) = readable(views, &mut fault) {
                facts.push(ChainFact::Inputs(views));
            }
        }
        for txid in &self.watches.transactions {
            if let Some(status) = readable(self.chain.transaction(*txid), &mut fault) {
                let view = match status {
                    TransactionStatus::Unknown => TransactionView::Unknown,
                    TransactionStatus::Mempool => TransactionView::Mempool,
                    TransactionStatus::Confirmed { height, block_hash } => {
                        TransactionView::Confirmed { height, block_hash }
                    }
                };
                facts.push(ChainFact::Transaction {
                    txid: *txid,
                    view,
                    tip,
                });
            }
        }
        facts.extend(self.fee_rate(&mut fault));
        let mut reports: Vec<_> = facts.into_iter().map(Report::Fact).collect();
        if self.tip.replace(tip) != Some(tip) {
            reports.insert(0, Report::Tip(tip));
        }
        if fault != self.fault {
            reports.push(Report::Status(fault.clone()));
            self.fault = fault;
        }
        Ok(reports)
    }

    /// The transaction that spends an output by a leaf of its script tree, where it has one. An output whose spend cannot be looked
    /// at is not reported at all: it would pass for one that all members signed.
    fn spent_by_leaf(
        &self,
        outpoint: OutPoint,
        status: &OutputStatus,
    ) -> Result<Option<Txid>, ChainError> {
        let OutputStatus::Seen {
            output,
            spent_by: Some(txid),
            ..
        } = status
        else {
            return Ok(None);
        };
        if !self.watches.script_trees.contains(&output.script_pubkey) {
            return Ok(None);
        }
        let tx = self.chain.raw_transaction(*txid)?.ok_or_else(|| {
            ChainError::unavailable(format_args!(
                "transaction {txid} spends output {outpoint} and is not there"
            ))
        })?;
        let mut inputs = tx.input.iter();
        let spend = inputs.find(|input| input.previous_output == outpoint);
        Ok(spend
            .filter(|input| is_by_leaf(&input.witness))
            .map(|_| *txid))
    }

    /// The fee rate that does for the watched target, once in a while. Where there is none the machine goes on with what it
    /// knows.
    fn fee_rate(&mut self, fault: &mut Option<String>) -> Option<ChainFact> {
        let target = self.watches.fee_target?;
        let asked = self.estimate.as_ref().map(|estimate| estimate.asked);
        let mut fact = None;
        if asked.is_none_or(|asked| asked.elapsed() >= ESTIMATE_INTERVAL) {
            let (answer, why) = match self.chain.fee_rate(target) {
                Ok(answer) => (answer, None),
                Err(error) => (None, Some(format!("no fee rate: {error}"))),
            };
            fact = answer.map(ChainFact::FeeRate);
            self.estimate = Some(Estimate {
                asked: Instant::now(),
                fault: why,
            });
        }
        let why = self.estimate.as_ref().and_then(|last| last.fault.clone());
        *fault = fault.take().or(why);
        fact
    }

    fn broadcast(&self, tx: &Transaction) -> Option<()> {
        let outcome = match self.chain.broadcast(tx) {
            Ok(()) => BroadcastOutcome::Accepted,
            Err(BroadcastError::Refused { reason }) => {
                BroadcastOutcome::Refused(reason.to_string())
            }
            Err(BroadcastError::Unavailable { .. }) => BroadcastOutcome::Unavailable,
        };
        self.report(Report::Fact(ChainFact::Broadcast {
            txid: tx.compute_txid(),
            outcome,
        }))
    }
}
