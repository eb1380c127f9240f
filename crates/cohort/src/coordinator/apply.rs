//! How each event changes a coordinator's state.

use std::collections::BTreeMap;

use bitcoin::{Transaction, TxOut, Txid};

use super::event::Event;
use super::state::{
    Abandoned, Cohort, Member, Phase, Round, Session, Signal, Stage, Standing, State,
};
use crate::ids::{SessionId, Timestamp};
use crate::message::SpentOutput;
use crate::musig::{BeaconKey, sighashes};
use crate::review::impossible_beside;
use crate::values::AggregatedNonce;

/// Abandoned sessions that a cohort remembers.
const MAX_ABANDONED: usize = 32;

/// Seconds before a round is tried again, times the attempts so far.
const RETRY_DELAY_S: u64 = 2;

impl State {
    /// Changes the state by one event. An event that refers to what is not there changes nothing: the machine never
    /// writes one.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Subscribed { peer, filter } => {
                self.subscribers.insert(peer.clone(), filter.clone());
            }
            Event::Unsubscribed { peer } => {
                self.subscribers.remove(peer);
            }
            Event::CohortAdvertised {
                cohort,
                terms,
                invited,
                at,
            } => {
                self.cohorts.insert(
                    *cohort,
                    Cohort {
                        id: *cohort,
                        terms: terms.clone(),
                        invited: invited.clone(),
                        phase: Phase::Advertised,
                        members: BTreeMap::new(),
                        beacon: None,
                        funds: Vec::new(),
                        round: Round::new(1, *at),
                        session: None,
                        signals: Vec::new(),
                        abandoned: Vec::new(),
                    },
                );
            }
            event => {
                if let Some(cohort) = event.cohort().and_then(|id| self.cohorts.get_mut(&id)) {
                    cohort.apply(event);
                }
            }
        }
    }
}

impl Cohort {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::OptedIn {
                peer, key, indexes, ..
            } => {
                let member = Member {
                    key: *key,
                    indexes: indexes.clone(),
                    acknowledged: false,
                };
                self.members.insert(peer.clone(), member);
            }
            Event::OptedOut { peer, .. } => {
                self.members.remove(peer);
            }
            Event::CohortSet { at, .. } => {
                self.beacon =
                    BeaconKey::aggregate(self.members.values().map(|member| member.key)).ok();
                self.phase = Phase::Set;
                self.round.since = *at;
            }
            Event::CohortFailed { reason, .. } => self.phase = Phase::Failed(reason.clone()),
            Event::Acknowledged { peer, .. } => {
                if let Some(member) = self.members.get_mut(peer) {
                    member.acknowledged = true;
                }
                if self.members.values().all(|member| member.acknowledged) {
                    self.phase = Phase::Acknowledged;
                }
            }
            Event::IndexesRegistered { peer, indexes, .. } => {
                if let Some(member) = self.members.get_mut(peer) {
                    member.indexes.extend(indexes.iter().copied());
                }
            }
            Event::FundsSeen { funds, .. } => self.funds.clone_from(funds),
            Event::LeavesGiven {
                leaves, update, at, ..
            } => {
                for leaf in leaves {
                    self.round.leaves.insert(leaf.index, leaf.value);
                }
                if *update {
                    self.round.updates += leaves.len() as u64;
                    self.round.first_update.get_or_insert(*at);
                }
            }
            event => self.apply_signing(event),
        }
    }

    fn apply_signing(&mut self, event: &Event) {
        match event {
            Event::RoundRequested { .. } => {
                self.round.requested = true;
                self.round.failures = 0;
                if matches!(self.round.stage, Stage::Stopped { .. }) {
                    self.round.stage = if self.root_is_fixed() {
                        Stage::Closed {
                            not_before: Timestamp::default(),
                        }
                    } else {
                        Stage::Waiting
                    };
                }
            }
            Event::RoundOpened { deadline, .. } => {
                self.round.stage = Stage::Open {
                    deadline: *deadline,
                }
            }
            Event::RoundClosed { .. } => {
                self.round.stage = Stage::Closed {
                    not_before: Timestamp::default(),
                };
            }
            Event::RoundStopped { reason, .. } => {
                self.round.stage = Stage::Stopped {
                    reason: reason.clone(),
                };
                self.round.requested = false;
            }
            Event::SessionStarted {
                session,
                round,
                root,
                tx,
                spent,
                deadline,
                ..
            } => {
                let outputs: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
                self.session = Some(Session {
                    id: *session,
                    round: *round,
                    root: *root,
                    tx: tx.clone(),
                    spent: spent.clone(),
                    sighashes: sighashes(tx, &outputs).unwrap_or_default(),
                    deadline: *deadline,
                    nonces: BTreeMap::new(),
                    aggregated: None,
                    partials: BTreeMap::new(),
                });
            }
            Event::NonceGiven { peer, nonces, .. } => {
                if let Some(session) = &mut self.session {
                    session.nonces.insert(peer.clone(), nonces.clone());
                }
            }
            Event::NoncesAggregated {
                nonces, deadline, ..
            } => self.nonces_aggregated(nonces, *deadline),
            Event::PartialGiven { peer, partials, .. } => {
                if let Some(session) = &mut self.session {
                    session.partials.insert(peer.clone(), partials.clone());
                }
            }
            Event::SessionSigned {
                session, tx, at, ..
            } => self.session_signed(*session, tx, *at),
            Event::SessionAbandoned {
                session,
                code,
                culprit,
                comment,
                at,
                ..
            } => {
                if let Some(ended) = self.end_session(*session) {
                    self.round.failures += 1;
                    let delay = RETRY_DELAY_S * u64::from(self.round.failures);
                    self.round.stage = Stage::Closed {
                        not_before: at.after(delay),
                    };
                    self.abandoned.push(Abandoned {
                        session: *session,
                        round: ended.round,
                        code: code.clone(),
                        culprit: culprit.clone(),
                        comment: comment.clone(),
                    });
                    let surplus = self.abandoned.len().saturating_sub(MAX_ABANDONED);
                    self.abandoned.drain(..surplus);
                }
            }
            event => self.apply_chain(event),
        }
    }

    fn nonces_aggregated(&mut self, nonces: &[AggregatedNonce], deadline: Timestamp) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.aggregated = Some(nonces.to_vec());
        session.deadline = deadline;
        let txid = session.tx.compute_txid();
        if self.signals.iter().any(|signal| signal.txid == txid) {
            return; // A retry of the same transaction.
        }
        let signal = Signal {
            session: session.id,
            round: session.round,
            root: session.root,
            tx: session.tx.clone(),
            txid,
            standing: Standing::Unsigned,
            tried: None,
            tries: 0,
            refusal: None,
        };
        self.signals.push(signal);
    }

    fn session_signed(&mut self, id: SessionId, tx: &Transaction, at: Timestamp) {
        self.end_session(id);
        if let Some(signal) = self.signal_mut(tx.compute_txid()) {
            signal.session = id;
            signal.tx = tx.clone();
            signal.standing = Standing::Signed;
        }
        self.round = Round::new(self.round.number + 1, at);
    }

    fn apply_chain(&mut self, event: &Event) {
        match event {
            Event::BroadcastTried { txid, at, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.tried = Some(*at);
                    signal.tries = signal.tries.saturating_add(1);
                }
            }
            Event::SignalBroadcast { txid, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.standing = Standing::Broadcast;
                    signal.refusal = None;
                }
            }
            Event::BroadcastRefused { txid, reason, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.refusal = Some(reason.clone());
                }
            }
            Event::SignalConfirmed {
                txid,
                height,
                block_hash,
                at,
                ..
            } => {
                let Some(signal) = self.signal_mut(*txid) else {
                    return;
                };
                signal.standing = Standing::Confirmed {
                    height: *height,
                    block_hash: *block_hash,
                };
                let round = signal.round;
                // Normally over since it was signed; not so where our log lacks the signature.
                if round == self.round.number {
                    self.session = None;
                    self.round = Round::new(round + 1, *at);
                }
            }
            Event::SignalGone { txid, .. } => {
                if let Some(signal) = self.signal_mut(*txid) {
                    signal.standing = Standing::Signed;
                    signal.tried = None;
                    signal.tries = 0;
                }
            }
            Event::SignalBuried { txid, .. } => self.buried(*txid),
            _ => {}
        }
    }

    /// A buried transaction is live no more, and neither are those that can never be mined beside it.
    fn buried(&mut self, txid: Txid) {
        let Some(signal) = self.signal_mut(txid) else {
            return;
        };
        if let Standing::Confirmed { height, block_hash } = signal.standing {
            signal.standing = Standing::Buried { height, block_hash };
        }
        let all: Vec<&Transaction> = self.signals.iter().map(|signal| &signal.tx).collect();
        let impossible = impossible_beside(txid, &all);
        self.signals
            .retain(|signal| !impossible.contains(&signal.txid));
    }

    /// Takes the session of this id out, if it is the one under way.
    fn end_session(&mut self, id: SessionId) -> Option<Session> {
        self.session.take_if(|session| session.id == id)
    }

    fn signal_mut(&mut self, txid: Txid) -> Option<&mut Signal> {
        self.signals.iter_mut().find(|signal| signal.txid == txid)
    }
}
