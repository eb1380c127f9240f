//! What the chain source says, and what is told of it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{
    Cohort, Coordinator, Event, FORMATION_EXPIRY_S, MAX_FUNDS, Phase, Signal, Standing, formation,
};
use crate::ids::{PeerId, Timestamp};
use crate::machine::{
    BroadcastOutcome, ChainFact, Effect, Fund, OutputView, Step, TransactionView, Watches,
};
use crate::message::{SignalPublished, SignalStatus, shortened};

/// Seconds for which news of a signal are kept for a member that cannot be reached. For a subscriber they are news for a day.
const NEWS_EXPIRY_S: u64 = 7 * 86_400;

impl Coordinator {
    pub(super) fn chain(&self, fact: ChainFact, now: Timestamp) -> Step<Event> {
        match fact {
            ChainFact::Funds { script, funds } => {
                let pays = |cohort: &&Cohort| {
                    let beacon = cohort.beacon.as_ref();
                    beacon.is_some_and(|beacon| *beacon.script() == script)
                };
                let Some(cohort) = self.state.cohorts.values().find(pays) else {
                    return Step::nothing();
                };
                let funds = worth_remembering(cohort, funds);
                if cohort.funds == funds {
                    return Step::nothing();
                }
                Step::event(Event::FundsSeen {
                    cohort: cohort.id,
                    funds,
                })
            }
            ChainFact::Transaction { txid, view, tip } => {
                let Some((cohort, signal)) = self.signal(txid) else {
                    return Step::nothing();
                };
                self.transaction_seen(cohort, signal, view, tip, now)
            }
            ChainFact::Broadcast { txid, outcome } => {
                let Some((cohort, signal)) = self.signal(txid) else {
                    return Step::nothing();
                };
                let is_news = match signal.standing {
                    Standing::Signed => true,
                    // The network has thought better of it.
                    Standing::Broadcast => signal.refusal.is_some(),
                    _ => false,
                };
                match outcome {
                    BroadcastOutcome::Accepted if is_news => self.news(
                        cohort,
                        signal,
                        Event::SignalBroadcast {
                            cohort: cohort.id,
                            txid,
                        },
                        SignalStatus::Broadcast,
                        now,
                    ),
                    BroadcastOutcome::Refused(reason) => {
                        let reason = shortened(&reason);
                        if signal.refusal.as_ref() == Some(&reason) {
                            return Step::nothing();
                        }
                        Step::event(Event::BroadcastRefused {
                            cohort: cohort.id,
                            txid,
                            reason,
                        })
                    }
                    BroadcastOutcome::Accepted | BroadcastOutcome::Unavailable => Step::nothing(),
                }
            }
            ChainFact::Output {
                outpoint,
                view: OutputView::Seen { spent_by, .. },
            } => {
                let mut cohorts = self.state.cohorts.values();
                let lost = cohorts.find(|cohort| cohort.vanished.contains(&outpoint));
                match (lost, spent_by) {
                    (Some(cohort), Some(txid)) if cohort.signal(txid).is_none() => {
                        Step::event(Event::ForeignSpend {
                            cohort: cohort.id,
                            outpoint,
                            txid,
                        })
                    }
                    _ => Step::nothing(),
                }
            }
            ChainFact::FeeRate(sat_vb) => self.fee_estimated(sat_vb, now),
            ChainFact::Output { .. } | ChainFact::SpentByLeaf { .. } | ChainFact::Inputs(_) => {
                Step::nothing()
            }
        }
    }

    fn transaction_seen(
        &self,
        cohort: &Cohort,
        signal: &Signal,
        view: TransactionView,
        tip: u32,
        now: Timestamp,
    ) -> Step<Event> {
        let (id, txid) = (cohort.id, signal.txid);
        match (signal.standing, view) {
            (
                Standing::Confirmed { height, block_hash },
                TransactionView::Confirmed {
                    height: at,
                    block_hash: in_block,
                },
            ) if (height, block_hash) == (at, in_block) => {
                let confirmations = tip.saturating_sub(height).saturating_add(1);
                if u64::from(confirmations) < cohort.terms.confirmations {
                    return Step::nothing();
                }
                let status = SignalStatus::Confirmed {
                    block_hash,
                    height,
                    confirmations,
                };
                self.news(
                    cohort,
                    signal,
                    Event::SignalBuried {
                        cohort: id,
                        txid,
                        confirmations,
                    },
                    status,
                    now,
                )
            }
            (Standing::Buried { .. }, _) => Step::nothing(),
            (_, TransactionView::Confirmed { height, block_hash }) => {
                let confirmations = tip.saturating_sub(height).saturating_add(1);
                let status = SignalStatus::Confirmed {
                    block_hash,
                    height,
                    confirmations,
                };
                self.news(
                    cohort,
                    signal,
                    Event::SignalConfirmed {
                        cohort: id,
                        txid,
                        height,
                        block_hash,
                        at: now,
                    },
                    status,
                    now,
                )
            }
            (Standing::Confirmed { .. }, TransactionView::Mempool | TransactionView::Unknown) => {
                self.news(
                    cohort,
                    signal,
                    Event::SignalGone {
                        cohort: id,
                        txid,
                        at: now,
                    },
                    SignalStatus::Gone,
                    now,
                )
            }
            // Dropped from the mempool before it was mined.
            (Standing::Broadcast, TransactionView::Unknown)
                if signal.is_due(now) && cohort.is_offered(signal) =>
            {
                broadcast(cohort, signal, now)
            }
            _ => Step::nothing(),
        }
    }

    /// Records what became of a signal and tells members and subscribers.
    fn news(
        &self,
        cohort: &Cohort,
        signal: &Signal,
        event: Event,
        status: SignalStatus,
        now: Timestamp,
    ) -> Step<Event> {
        let subscribers = self.state.subscribers.iter();
        let interested = subscribers.filter(|(_, filter)| formation::wants(filter, cohort));
        let peers: BTreeSet<&PeerId> = cohort
            .members
            .keys()
            .chain(interested.map(|(peer, _)| peer))
            .collect();
        let mut step = Step::event(event);
        for peer in peers {
            let message = SignalPublished {
                session_id: signal.session,
                cohort_id: cohort.id,
                round: signal.round,
                txid: signal.txid,
                transaction: signal.tx.clone(),
                status,
            };
            let is_member = cohort.members.contains_key(peer);
            let patience = if is_member {
                NEWS_EXPIRY_S
            } else {
                FORMATION_EXPIRY_S
            };
            step = step.send(peer, message, now.after(patience));
        }
        step
    }

    fn signal(&self, txid: bitcoin::Txid) -> Option<(&Cohort, &Signal)> {
        let mut cohorts = self.state.cohorts.values();
        cohorts.find_map(|cohort| Some((cohort, cohort.signal(txid)?)))
    }
}

impl Cohort {
    /// What the chain should be asked about for this cohort.
    pub(super) fn add_watches(&self, watches: &mut Watches) {
        let lives = matches!(self.phase, Phase::Acknowledged | Phase::Dissolved(_));
        if let (true, Some(beacon)) = (lives, &self.beacon) {
            watches.scripts.push(beacon.script().to_owned());
        }
        watches.outpoints.extend(&self.vanished);
        let open = self
            .signals
            .iter()
            .filter(|signal| !matches!(signal.standing, Standing::Buried { .. }));
        watches.transactions.extend(open.map(|signal| signal.txid));
    }
}

/// Gives a signal to the network.
pub(super) fn broadcast(cohort: &Cohort, signal: &Signal, now: Timestamp) -> Step<Event> {
    Step::event(Event::BroadcastTried {
        cohort: cohort.id,
        txid: signal.txid,
        at: now,
    })
    .with(Effect::Broadcast(signal.tx.clone()))
}

/// Anybody can pay to a beacon address, and every change of its outputs goes to the log: only so many are kept, those
/// first that live transactions spend or make, then the largest.
fn worth_remembering(cohort: &Cohort, mut funds: Vec<Fund>) -> Vec<Fund> {
    let live = cohort.live();
    let concerns_live = |fund: &Fund| {
        live.iter().any(|tx| {
            let mut spent = tx.input.iter().map(|input| input.previous_output);
            tx.compute_txid() == fund.outpoint.txid || spent.any(|spent| spent == fund.outpoint)
        })
    };
    funds.sort_by_cached_key(|fund| {
        (
            Reverse(concerns_live(fund)),
            Reverse(fund.value),
            fund.clone(),
        )
    });
    funds.truncate(MAX_FUNDS);
    funds.sort();
    funds
}
