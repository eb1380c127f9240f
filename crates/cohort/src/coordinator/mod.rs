//! The coordinator's machine: advertises cohorts, collects leaves, nonces and partial signatures, publishes signals.
//!
//! It holds no key. What it does wrong, members decline; what members do wrong, it refuses with a code, and the
//! state does not change. Facts are recorded by the handlers in [`formation`] and [`signing`]; [`progress`] derives
//! what follows from them.

mod apply;
mod apply_session;
mod event;
mod formation;
mod progress;
mod session;
mod signing;
mod state;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use rand_core::CryptoRng;

pub use event::Event;
pub use state::{
    Abandoned, Cohort, GivenNonces, Member, Phase, Round, Session, Signal, Stage, Standing, State,
    Strike,
};

use crate::ids::{CohortId, PeerId, Timestamp};
use crate::machine::{
    BroadcastOutcome, ChainFact, Code, Effect, Fund, Input, Machine, Rejection, Step,
    TransactionView, Watches,
};
use crate::message::{Message, SignalPublished, SignalStatus, shortened};
use crate::terms::AgreedTerms;

/// Seconds for which messages of formation are kept for a peer that cannot be reached.
pub(crate) const FORMATION_EXPIRY_S: u64 = 86_400;
/// Seconds for which news of a signal are kept for a peer that cannot be reached.
const NEWS_EXPIRY_S: u64 = 7 * 86_400;
/// Outputs of one beacon address that are remembered.
const MAX_FUNDS: usize = 64;

/// What the operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The coordinator's name for itself.
    pub label: Option<String>,
    /// Fee rate of signals, sat/vB; the terms' maximum bounds it.
    pub fee_rate_sat_vb: u64,
    /// Most subscribers.
    pub max_subscribers: usize,
    /// Most cohorts that are not failed.
    pub max_cohorts: usize,
    /// Sessions of one round that may fail before the operator must decide.
    pub max_attempts: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            label: None,
            fee_rate_sat_vb: 2,
            max_subscribers: 10_000,
            max_cohorts: 1_000,
            max_attempts: 5,
        }
    }
}

/// What the operator can ask for.
#[expect(
    clippy::large_enum_variant,
    reason = "commands are typed by hand, one at a time"
)]
#[derive(Clone, Debug)]
pub enum Command {
    /// Open a cohort and tell the subscribers.
    Advertise {
        /// A fresh id.
        cohort: CohortId,
        /// Its terms.
        terms: AgreedTerms,
        /// Who may join, where the terms say "invited".
        invited: BTreeSet<PeerId>,
    },
    /// Set the cohort with those who are there.
    CloseAdmission {
        /// Which.
        cohort: CohortId,
    },
    /// Start a round now, or try again one that stopped.
    StartRound {
        /// Which.
        cohort: CohortId,
    },
}

/// The coordinator.
#[derive(Clone, Debug)]
pub struct Coordinator {
    config: Config,
    state: State,
}

impl Coordinator {
    /// A coordinator with an empty log.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::default(),
        }
    }

    /// What replaying the log has given so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn cohort(&self, id: CohortId) -> Result<&Cohort, Rejection> {
        self.state.cohorts.get(&id).ok_or_else(|| {
            Rejection::new(
                Code::UnknownCohort,
                format!("cohort {id}"),
                "a cohort of this coordinator",
            )
        })
    }

    /// The cohort and the sender's membership in it: what every message of a member is checked for first.
    fn membership(&self, id: CohortId, peer: &PeerId) -> Result<(&Cohort, &Member), Rejection> {
        let cohort = self.cohort(id)?;
        let member = cohort.members.get(peer).ok_or_else(|| {
            Rejection::new(
                Code::NotAMember,
                "a message of a stranger",
                "a message of a member",
            )
        })?;
        if let Phase::Failed(reason) = &cohort.phase {
            // Whoever was away when it ended learns it now, before it sends money to the address.
            let expected = "none: the cohort is over";
            return Err(Rejection::new(Code::CohortFailed, reason, expected));
        }
        Ok((cohort, member))
    }

    fn message(
        &self,
        from: PeerId,
        message: Message,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        match message {
            Message::Subscribe(body) => self.subscribe(&from, &body, now),
            Message::Unsubscribe(_) => self.unsubscribe(from),
            Message::OptIn(body) => self.opt_in(from, &body, now),
            Message::OptOut(body) => self.opt_out(from, body.cohort_id),
            Message::CohortAck(body) => self.cohort_ack(from, &body),
            Message::DidRegistration(body) => self.did_registration(&from, body, now),
            Message::RequestSignature(body) => {
                let data = Some(body.data);
                self.leaves(from, body.cohort_id, body.round, body.leaves, data, now)
            }
            Message::NoUpdate(body) => {
                self.leaves(from, body.cohort_id, body.round, body.leaves, None, now)
            }
            Message::NonceContribution(body) => self.nonce_contribution(from, body, now),
            Message::SignatureAuthorization(body) => self.signature_authorization(from, body, now),
            Message::Decline(body) => self.decline(from, &body, now),
            other => Err(Rejection::new(
                Code::WrongRole,
                other.kind(),
                "a message that participants send",
            )),
        }
    }

    fn chain(&self, fact: ChainFact, now: Timestamp) -> Step<Event> {
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
                match outcome {
                    BroadcastOutcome::Accepted if signal.standing == Standing::Signed => self.news(
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
            ChainFact::Output { .. } => Step::nothing(),
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
                    Event::SignalGone { cohort: id, txid },
                    SignalStatus::Gone,
                    now,
                )
            }
            // Dropped from the mempool before it was mined.
            (Standing::Broadcast, TransactionView::Unknown) if signal.is_due(now) => {
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
            step = step.send(peer, message, now.after(NEWS_EXPIRY_S));
        }
        step
    }

    fn signal(&self, txid: bitcoin::Txid) -> Option<(&Cohort, &Signal)> {
        let mut cohorts = self.state.cohorts.values();
        cohorts.find_map(|cohort| Some((cohort, cohort.signal(txid)?)))
    }
}

impl Machine for Coordinator {
    type Event = Event;
    type Command = Command;

    fn step(
        &self,
        input: Input<Command>,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        match input {
            Input::Message { from, message, .. } => self.message(from, message, now),
            Input::Command(command) => self.command(command, now),
            Input::Chain(fact) => Ok(self.chain(fact, now)),
            Input::Tick => Ok(self.progress(now, rng)),
            Input::Problem {
                from, cohort, code, ..
            } => Ok(self.problem(&from, cohort, &code)),
            // A coordinator has no signer, and whatever it was doing at a restart follows from its log.
            Input::Signer(_) | Input::Restarted => Ok(Step::nothing()),
        }
    }

    fn apply(&mut self, event: &Event) {
        self.state.apply(event);
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.state
            .cohorts
            .values()
            .filter_map(|cohort| self.cohort_deadline(cohort))
            .min()
    }

    fn watches(&self) -> Watches {
        let mut watches = Watches::default();
        for cohort in self.state.cohorts.values() {
            if let (Phase::Acknowledged, Some(beacon)) = (&cohort.phase, &cohort.beacon) {
                watches.scripts.push(beacon.script().to_owned());
            }
            let open = cohort
                .signals
                .iter()
                .filter(|signal| !matches!(signal.standing, Standing::Buried { .. }));
            watches.transactions.extend(open.map(|signal| signal.txid));
        }
        watches
    }
}

/// Gives a signal to the network.
fn broadcast(cohort: &Cohort, signal: &Signal, now: Timestamp) -> Step<Event> {
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
