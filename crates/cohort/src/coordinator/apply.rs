//! How each event changes a coordinator's state.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Transaction, Txid};

use super::contests::ASK_AGAIN_S;
use super::event::Event;
use super::state::{
    Cohort, Contest, Member, Outcome, Patience, Phase, Round, Signal, Stage, Standing, State,
};
use super::{FeeEstimate, MAX_FUNDS};
use crate::ids::{PeerId, Timestamp};
use crate::machine::Fund;
use crate::review::impossible_beside;

impl State {
    /// Changes the state by one event. An event that refers to what is not there changes nothing: the machine never
    /// writes one.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Restarted { at } => {
                for cohort in self.cohorts.values_mut() {
                    cohort.restarted(*at);
                }
            }
            Event::FeeEstimated { sat_vb, at } => {
                self.fee_estimate = Some(FeeEstimate {
                    sat_vb: *sat_vb,
                    at: *at,
                });
            }
            Event::Subscribed { peer, filter, at } => {
                self.subscribers.insert(peer.clone(), filter.clone());
                self.changed_its_mind(peer, *at);
            }
            Event::Unsubscribed { peer } => {
                self.subscribers.remove(peer);
            }
            Event::CohortAdvertised {
                cohort,
                terms,
                invited,
                at,
                succeeds,
            } => {
                let before = succeeds.and_then(|id| self.cohorts.get_mut(&id));
                let (mut proven, mut excluded) = (BTreeMap::new(), BTreeSet::new());
                if let Some(before) = before {
                    before.successor = Some(*cohort);
                    proven.clone_from(&before.proven);
                    excluded.clone_from(&before.excluded);
                }
                self.cohorts.insert(
                    *cohort,
                    Cohort {
                        id: *cohort,
                        terms: terms.clone(),
                        advertised: *at,
                        succeeds: *succeeds,
                        successor: None,
                        without: BTreeSet::new(),
                        invited: invited.clone(),
                        phase: Phase::Advertised,
                        members: BTreeMap::new(),
                        beacon: None,
                        funds: Vec::new(),
                        round: Round::new(1, *at),
                        session: None,
                        declines: None,
                        signals: Vec::new(),
                        trees: BTreeMap::new(),
                        announced: BTreeMap::new(),
                        vanished: BTreeSet::new(),
                        foreign_spends: BTreeMap::new(),
                        doubt: None,
                        later_rounds: BTreeMap::new(),
                        contests: BTreeMap::new(),
                        contested: BTreeMap::new(),
                        proven,
                        excluded,
                        abandoned: Vec::new(),
                        strikes: Vec::new(),
                    },
                );
            }
            event => {
                if let Event::OptedOut { peer, at, .. } = event {
                    self.changed_its_mind(peer, *at);
                }
                if let Some(cohort) = event.cohort().and_then(|id| self.cohorts.get_mut(&id)) {
                    cohort.apply(event);
                }
            }
        }
    }
}

impl State {
    fn changed_its_mind(&mut self, peer: &PeerId, at: Timestamp) {
        self.changes.retain(|_, made| made.is_recent(at));
        self.changes.entry(peer.clone()).or_default().add(at);
    }
}

impl Cohort {
    /// Nothing that was late since the process ended is anybody's fault: seats and acknowledgements have their whole time
    /// again, and deadlines that pass in what is under way strike nobody.
    fn restarted(&mut self, at: Timestamp) {
        match self.phase {
            Phase::Advertised => {
                let held = self
                    .members
                    .values_mut()
                    .filter_map(|member| member.seen.as_mut());
                held.for_each(|seen| *seen = at);
            }
            Phase::Set => self.round.since = at,
            Phase::Acknowledged => {
                self.round.excused = true;
                if let Some(session) = &mut self.session {
                    session.excused = true;
                }
            }
            Phase::Failed(_) | Phase::Dissolved(_) => {}
        }
    }

    /// What was there and is no more, though nothing of ours spends it, is looked at: who did?
    fn funds_seen(&mut self, funds: &[Fund]) {
        let before = std::mem::replace(&mut self.funds, funds.to_vec());
        let there = |outpoint: &OutPoint| funds.iter().any(|fund| fund.outpoint == *outpoint);
        self.vanished.retain(|outpoint| !there(outpoint));
        let mut inputs = self.signals.iter().flat_map(|signal| &signal.tx.input);
        let ours: BTreeSet<OutPoint> = inputs.by_ref().map(|input| input.previous_output).collect();
        for fund in before {
            let known = there(&fund.outpoint) || ours.contains(&fund.outpoint);
            if !known && self.vanished.len() < MAX_FUNDS {
                self.vanished.insert(fund.outpoint);
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::OptedIn {
                peer,
                key,
                indexes,
                proof,
                at,
                ..
            } => {
                let member = Member {
                    key: *key,
                    indexes: indexes.clone(),
                    proof: *proof,
                    acknowledged: false,
                    strikes: 0,
                    late: None,
                    seen: *at,
                };
                self.members.insert(peer.clone(), member);
            }
            Event::SeatRenewed { peer, at, .. } => {
                if let Some(member) = self.members.get_mut(peer) {
                    member.seen = Some(*at);
                }
            }
            Event::OptedOut { peer, .. } | Event::SeatReleased { peer, .. } => {
                self.members.remove(peer);
            }
            Event::CohortSet { at, .. } => {
                let keys = self.members.values().map(|member| member.key);
                self.beacon = self.terms.beacon(keys).ok();
                self.phase = Phase::Set;
                self.round.since = *at;
            }
            Event::CohortFailed { reason, .. } => {
                self.phase = Phase::Failed(reason.clone());
                self.contests.clear();
            }
            Event::CohortDissolved {
                without, reason, ..
            } => {
                self.phase = Phase::Dissolved(reason.clone());
                self.without.clone_from(without);
                self.session = None;
                self.contests.clear();
                self.round.stage = Stage::Stopped {
                    reason: reason.clone(),
                };
            }
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
            Event::FundsSeen { funds, .. } => self.funds_seen(funds),
            Event::LeavesGiven {
                peer,
                leaves,
                update,
                at,
                ..
            } => {
                if let Some(declines) = &mut self.declines {
                    declines.late.insert(peer.clone());
                }
                for leaf in leaves {
                    self.round.leaves.insert(leaf.index, leaf.value);
                    if let Some(did) = &leaf.did {
                        self.announced.insert(leaf.index, did.clone());
                    }
                }
                if *update {
                    self.round.updates += leaves.len() as u64;
                    self.round.first_update.get_or_insert(*at);
                }
                if let Some(session) = &mut self.session {
                    session.outdated |= session.kind.is_signal();
                }
            }
            event => self.apply_contest(event),
        }
    }

    fn apply_contest(&mut self, event: &Event) {
        match event {
            Event::IndexContested {
                index,
                peer,
                contest,
                at,
                ..
            } => {
                self.contested.retain(|_, made| made.is_recent(*at));
                self.contested.entry(peer.clone()).or_default().add(*at);
                let contest = Contest {
                    peer: peer.clone(),
                    body: (**contest).clone(),
                    tries: 1,
                    again: at.after(ASK_AGAIN_S),
                };
                self.contests.insert(*index, contest);
            }
            Event::ContestAsked { index, at, .. } => {
                if let Some(contest) = self.contests.get_mut(index) {
                    contest.tries = contest.tries.saturating_add(1);
                    contest.again = at.after(ASK_AGAIN_S);
                }
            }
            Event::ContestSettled {
                index,
                peer,
                outcome,
                ..
            } => {
                self.contests.remove(index);
                let loser = self.loser(index, peer, *outcome);
                if *outcome == Outcome::Proven {
                    self.proven.insert(*index, peer.clone());
                }
                if self.phase == Phase::Advertised {
                    self.members
                        .retain(|member, _| loser.as_ref() != Some(member));
                }
                self.excluded.extend(loser);
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
                if signal.is_close() {
                    return;
                }
                let round = signal.round;
                // Normally over since it was signed; not so where our log lacks the signature.
                if round == self.round.number {
                    self.session = None;
                    self.round = Round::new(round + 1, *at);
                }
            }
            Event::SignalGone { txid, at, .. } => self.gone(*txid, *at),
            Event::SignalBuried { txid, .. } => self.buried(*txid),
            Event::ForeignSpend { outpoint, txid, .. } => {
                self.vanished.remove(outpoint);
                if self.foreign_spends.len() < MAX_FUNDS {
                    self.foreign_spends.insert(*outpoint, *txid);
                }
                self.doubt = Some(format!(
                    "output {outpoint} of the beacon was spent by transaction {txid}, which this coordinator has no record of"
                ));
            }
            Event::LaterRoundClaimed { peer, round, .. } => {
                self.later_rounds.insert(peer.clone(), *round);
            }
            _ => {}
        }
    }

    /// A signal left the chain: it waits again, and so does the newest version of it, which is offered first.
    fn gone(&mut self, txid: Txid, at: Timestamp) {
        let Some(signal) = self.signal_mut(txid) else {
            return;
        };
        signal.standing = Standing::Signed;
        let gone = signal.clone();
        let versions = self.signals.iter_mut();
        let versions =
            versions.filter(|version| version.is_signed() && version.is_version_of(&gone));
        let mut newest = None;
        for version in versions {
            version.tried = None;
            version.tries = 0;
            let since = newest.as_ref().map(|newest: &&mut Patience| newest.since);
            if since.is_none_or(|since| since <= version.patience.since) {
                newest = Some(&mut version.patience);
            }
        }
        if let Some(newest) = newest {
            newest.since = newest.since.max(at);
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
        let signals = &self.signals;
        let known = |round: &u64| signals.iter().any(|signal| signal.round == *round);
        self.trees.retain(|round, _| known(round));
    }

    pub(super) fn signal_mut(&mut self, txid: Txid) -> Option<&mut Signal> {
        self.signals.iter_mut().find(|signal| signal.txid == txid)
    }
}
