//! How each event changes a coordinator's state.

use std::collections::BTreeMap;

use bitcoin::{Transaction, Txid};

use super::event::Event;
use super::state::{Cohort, Member, Phase, Round, Signal, Standing, State};
use crate::musig::BeaconKey;
use crate::review::impossible_beside;

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
                        strikes: Vec::new(),
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
                peer,
                key,
                indexes,
                proof,
                ..
            } => {
                let member = Member {
                    key: *key,
                    indexes: indexes.clone(),
                    proof: *proof,
                    acknowledged: false,
                    strikes: 0,
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
            event => self.apply_round(event),
        }
    }

    pub(super) fn apply_chain(&mut self, event: &Event) {
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

    pub(super) fn signal_mut(&mut self, txid: Txid) -> Option<&mut Signal> {
        self.signals.iter_mut().find(|signal| signal.txid == txid)
    }
}
