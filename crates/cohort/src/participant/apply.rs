//! How each event changes a participant's state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bitcoin::{OutPoint, Transaction, Txid};

use super::event::Event;
use super::state::{
    Candidate, Ended, ForeignSpend, Inquiry, Membership, Offered, Progress, Relationship, Session,
    Stage, Standing, State,
};
use crate::hourly::Hourly;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::musig::BeaconKey;
use crate::review::{OwnLeaf, impossible_after};
use crate::terms::{AgreedTerms, BeaconType};

/// Ended sessions, and spends by unknown transactions, that a cohort remembers.
const MAX_ENDED: usize = 64;

/// Longest time until a question is asked again, in seconds.
const LONGEST_WAIT_S: u64 = 3_600;

impl State {
    /// Changes the state by one event. An event that refers to what is not there changes nothing: the machine never
    /// writes one.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Subscribed {
                coordinator,
                own,
                identity,
                filter,
            } => {
                self.next_identity = self.next_identity.max(identity.saturating_add(1));
                self.coordinators.insert(
                    coordinator.clone(),
                    Relationship {
                        own: own.clone(),
                        identity: *identity,
                        filter: filter.clone(),
                        accepted: false,
                        label: None,
                        subscribed: true,
                        adverts: Hourly::default(),
                    },
                );
            }
            Event::SubscriptionAccepted { coordinator, label } => {
                if let Some(relationship) = self.coordinators.get_mut(coordinator) {
                    relationship.accepted = true;
                    relationship.label.clone_from(label);
                }
            }
            Event::Unsubscribed { coordinator } => {
                if let Some(relationship) = self.coordinators.get_mut(coordinator) {
                    relationship.subscribed = false;
                    relationship.accepted = false;
                }
            }
            Event::CohortAdvertised {
                cohort,
                id,
                coordinator,
                terms,
                succeeds,
                at,
            } => {
                if let Some(relationship) = self.coordinators.get_mut(coordinator) {
                    relationship.adverts.add(*at);
                }
                let mut advertised = Membership::advertised(*cohort, coordinator, terms);
                advertised.id = id.unwrap_or(*cohort);
                advertised.succeeds = *succeeds;
                self.cohorts.insert(*cohort, advertised);
            }
            Event::CohortForgotten { cohort } => {
                self.cohorts.remove(cohort);
            }
            Event::UpdatesMoved {
                cohort,
                to,
                updates,
            } => {
                if let Some(from) = self.cohorts.get_mut(cohort) {
                    from.queued.retain(|index, _| !updates.contains_key(index));
                    from.leaves.retain(|index, _| !updates.contains_key(index));
                }
                if let Some(to) = self.cohorts.get_mut(to) {
                    for (index, update) in updates {
                        to.queued.entry(*index).or_insert(*update);
                    }
                }
            }
            Event::UpdateVersioned { update, version } => {
                self.versions.insert(*update, *version);
            }
            Event::RollbackDetected { .. } => {
                for cohort in self
                    .cohorts
                    .values_mut()
                    .filter(|cohort| cohort.is_watched())
                {
                    let quarantine = cohort.quarantine.get_or_insert_default();
                    quarantine.outputs.extend(cohort.outputs.keys());
                    quarantine.complete = false;
                }
            }
            event => {
                if let Some(cohort) = event.cohort().and_then(|id| self.cohorts.get_mut(&id)) {
                    cohort.apply_formation(event);
                }
            }
        }
    }
}

impl Membership {
    fn advertised(handle: CohortId, coordinator: &PeerId, terms: &AgreedTerms) -> Self {
        Self {
            handle,
            id: handle,
            coordinator: coordinator.clone(),
            terms: terms.clone(),
            stage: Stage::Advertised,
            path: None,
            key: None,
            proof: None,
            dids: BTreeMap::new(),
            registering: BTreeMap::new(),
            beacon: None,
            round: 1,
            queued: BTreeMap::new(),
            leaves: BTreeMap::new(),
            session: None,
            candidates: Vec::new(),
            committed: None,
            contributed: BTreeSet::new(),
            sessions: Hourly::default(),
            ended: VecDeque::new(),
            succeeds: None,
            opted_in: Timestamp::default(),
            outputs: BTreeMap::new(),
            foreign: VecDeque::new(),
            quarantine: None,
            inquiry: None,
            dissolved: Timestamp::default(),
            settled: false,
        }
    }

    fn apply_formation(&mut self, event: &Event) {
        match event {
            Event::JoinRequested { path, dids, .. } => {
                self.stage = Stage::Joining;
                self.path = Some(*path);
                self.dids.clone_from(dids);
            }
            Event::OptedIn { key, proof, at, .. } => {
                self.stage = Stage::OptedIn;
                self.opted_in = *at;
                self.key = Some(*key);
                self.proof = Some(*proof);
            }
            Event::OptInRenewed { at, .. } => self.opted_in = *at,
            Event::CohortDissolved { code, at, .. } => {
                self.stage = Stage::Dissolved(code.clone());
                self.dissolved = *at;
                self.session = None;
            }
            Event::OptInRefused { code, comment, .. }
            | Event::CohortRefused { code, comment, .. } => {
                self.stage = Stage::Out(code.clone(), comment.clone());
            }
            Event::OptedOut { .. } => {
                self.stage = Stage::Out(
                    "opted-out".to_owned(),
                    "left before the cohort was set".to_owned(),
                );
            }
            Event::CohortAgreed { keys, .. } => {
                self.beacon = BeaconKey::aggregate(keys.iter().copied()).ok();
                self.stage = Stage::Agreed;
            }
            Event::RegistrationRequested { dids, .. } => {
                self.registering
                    .extend(dids.iter().map(|(index, did)| (*index, did.clone())));
            }
            Event::Registered {
                accepted, refused, ..
            } => {
                for index in accepted {
                    if let Some(did) = self.registering.remove(index) {
                        self.dids.insert(*index, did);
                    }
                }
                self.registering
                    .retain(|index, _| !refused.contains_key(index));
            }
            event => self.apply_signing(event),
        }
    }

    fn apply_signing(&mut self, event: &Event) {
        match event {
            Event::UpdateQueued { index, update, .. } => {
                self.queued.insert(*index, *update);
            }
            Event::LeavesChosen { round, leaves, .. } => {
                if *round > self.round {
                    self.queued = self.waiting_updates(*round);
                    self.round = *round;
                    self.leaves.clear();
                }
                for leaf in leaves {
                    if leaf.update.is_some() {
                        self.queued.remove(&leaf.index);
                    }
                    let before = self.leaves.insert(leaf.index, leaf.clone());
                    // Another one stands in the tree, which a newer copy of this state gave: what this one announced waits.
                    let update = before.and_then(|before| before.update);
                    if let Some(update) = update.filter(|update| leaf.update != Some(*update)) {
                        self.queued.entry(leaf.index).or_insert(update);
                    }
                }
            }
            Event::SignalProposed {
                session,
                proposal,
                approved,
                deadline,
                at,
                ..
            } => {
                self.sessions.add(*at);
                self.session = Some(Session {
                    id: *session,
                    proposal: (**proposal).clone(),
                    approved: *approved,
                    deadline: *deadline,
                    progress: Progress::Requested,
                });
            }
            Event::SessionEnded {
                session,
                code,
                comment,
                offered,
                heard,
                ..
            } => {
                if let Some(at) = heard {
                    self.sessions.add(*at);
                }
                self.end(*session, code, comment, *offered);
            }
            Event::PartialAuthorized {
                session,
                nonces,
                txid,
                root,
                proofs,
                ..
            } => {
                let Some(open) = self.session.as_mut().filter(|open| open.id == *session) else {
                    return;
                };
                open.progress = Progress::PartialAuthorized {
                    aggregated: nonces.clone(),
                };
                let candidate = Candidate {
                    session: *session,
                    round: open.proposal.0.round,
                    root: *root,
                    tx: open.proposal.0.pending_tx.clone(),
                    txid: *txid,
                    proofs: proofs.clone(),
                    map: open.proposal.0.map.clone(),
                    unproven: BTreeMap::new(),
                    recovered: false,
                    standing: Standing::Live,
                };
                // A retry signs the same transaction again: the proofs are the same.
                self.candidates.retain(|other| other.txid != *txid);
                self.candidates.push(candidate);
            }
            event => {
                if let Some(session) = &mut self.session {
                    if matches!(event, Event::NonceCommitted { .. }) {
                        self.committed = Some(session.proposal.0.round);
                        self.contributed.insert(session.id);
                    }
                    session.apply(event);
                }
                self.apply_recovery(event);
            }
        }
    }

    fn apply_recovery(&mut self, event: &Event) {
        match event {
            Event::ProofsRequested { from_round, at, .. } => {
                let before = self.inquiry.filter(|open| open.from_round == *from_round);
                let asked = before.map_or(0, |open| open.asked);
                let wait = self.phase_deadline_s() << asked.min(10);
                self.inquiry = Some(Inquiry {
                    from_round: *from_round,
                    asked: asked.saturating_add(1),
                    again: at.after(wait.min(LONGEST_WAIT_S)),
                });
            }
            Event::ProofsAnswered { .. } => self.inquiry = None,
            Event::SignalAdopted {
                session,
                round,
                tx,
                root,
                proofs,
                unproven,
                map,
                ..
            } => self.adopt(Candidate {
                session: *session,
                round: *round,
                root: *root,
                tx: tx.clone(),
                txid: tx.compute_txid(),
                proofs: proofs.clone(),
                map: map.clone(),
                unproven: unproven.clone(),
                recovered: true,
                standing: Standing::Live,
            }),
            Event::ProofsRecovered {
                txid,
                proofs,
                unproven,
                map,
                ..
            } => {
                let (round, dids) = (self.round, self.dids.clone());
                let Some(candidate) = self.candidate_mut(*txid) else {
                    return;
                };
                if map.is_some() {
                    candidate.map.clone_from(map);
                }
                candidate.proofs.extend(proofs.clone());
                candidate.unproven.extend(unproven.clone());
                let Candidate {
                    proofs, unproven, ..
                } = candidate;
                unproven.retain(|index, _| !proofs.contains_key(index));
                if candidate.recovered && candidate.round == round {
                    let leaves = candidate.leaves(&dids);
                    self.set_leaves(leaves);
                }
            }
            Event::QuarantineFixed { outputs, .. } => {
                if let Some(quarantine) = &mut self.quarantine {
                    quarantine.outputs.extend(outputs);
                    quarantine.complete = true;
                }
                self.release(&[]);
            }
            Event::RollbackConfirmed { .. } => self.quarantine = None,
            Event::WatchEnded { .. } => self.settled = true,
            Event::OutputsSeen { outputs, .. } => self.outputs.clone_from(outputs),
            Event::ForeignSpend { outpoint, txid, .. } => {
                self.foreign.push_back(ForeignSpend {
                    outpoint: *outpoint,
                    txid: *txid,
                    buried: false,
                });
                if self.foreign.len() > MAX_ENDED {
                    self.foreign.pop_front();
                }
            }
            Event::ForeignSpendBuried { outpoint, txid, .. } => {
                let noted =
                    |spend: &&mut ForeignSpend| (spend.outpoint, spend.txid) == (*outpoint, *txid);
                if let Some(spend) = self.foreign.iter_mut().find(noted) {
                    spend.buried = true;
                }
                self.release(&[*outpoint]);
                let all: Vec<&Transaction> =
                    self.candidates.iter().map(|other| &other.tx).collect();
                self.supersede(&impossible_after(&[*outpoint], *txid, &all));
            }
            event => self.apply_chain(event),
        }
    }

    /// Something that we signed and forgot. It is as live as if we remembered, and its round goes on as it was.
    fn adopt(&mut self, candidate: Candidate) {
        if candidate.round > self.round {
            self.queued = self.waiting_updates(candidate.round);
            self.round = candidate.round;
            self.leaves.clear();
        }
        if candidate.round == self.round {
            self.committed = Some(self.round);
            // Within a round a leaf never changes: what was chosen in the meantime was chosen in error.
            self.leaves
                .retain(|index, _| !candidate.unproven.contains_key(index));
            if self.terms.beacon_type == BeaconType::Cas {
                self.leaves.clear();
            }
            self.set_leaves(candidate.leaves(&self.dids));
        }
        let announced: BTreeMap<_, _> = candidate.updates().collect();
        self.queued
            .retain(|index, update| announced.get(index) != Some(update));
        if let Some(quarantine) = &mut self.quarantine {
            let inputs = candidate.tx.input.iter();
            quarantine
                .outputs
                .extend(inputs.map(|input| input.previous_output));
        }
        self.settled = false;
        self.candidates.push(candidate);
    }

    fn set_leaves(&mut self, leaves: Vec<OwnLeaf>) {
        let leaves = leaves.into_iter().map(|leaf| (leaf.index, leaf));
        self.leaves.extend(leaves);
    }

    /// Outputs that are spent for good: nothing about them is waited for.
    fn release(&mut self, spent: &[OutPoint]) {
        self.outputs.retain(|outpoint, _| !spent.contains(outpoint));
        if let Some(quarantine) = &mut self.quarantine {
            quarantine
                .outputs
                .retain(|outpoint| !spent.contains(outpoint));
        }
        self.quarantine
            .take_if(|quarantine| quarantine.complete && quarantine.outputs.is_empty());
    }

    fn apply_chain(&mut self, event: &Event) {
        match event {
            Event::SignalPublished { txid, .. } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.standing = Standing::Published;
                }
                self.published(*txid);
            }
            Event::SignalConfirmed {
                txid,
                height,
                block_hash,
                ..
            } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.standing = Standing::Confirmed {
                        height: *height,
                        block_hash: *block_hash,
                    };
                }
                self.sessions = Hourly::default();
                self.published(*txid);
            }
            Event::SignalGone { txid, .. } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.standing = Standing::Published;
                }
            }
            Event::SignalBuried { txid, .. } => self.buried(*txid),
            _ => {}
        }
    }

    /// A buried transaction makes others impossible.
    fn buried(&mut self, txid: Txid) {
        let Some(candidate) = self.candidate_mut(txid) else {
            return;
        };
        if let Standing::Confirmed { height, block_hash } = candidate.standing {
            candidate.standing = Standing::Buried { height, block_hash };
        }
        let inputs = candidate.tx.input.iter();
        let spent: Vec<_> = inputs.map(|input| input.previous_output).collect();
        self.release(&spent);
        let all: Vec<&Transaction> = self.candidates.iter().map(|other| &other.tx).collect();
        self.supersede(&impossible_after(&spent, txid, &all));
    }

    /// These can never be mined. What only they announced waits for another round.
    fn supersede(&mut self, impossible: &BTreeSet<Txid>) {
        let mut lost = BTreeMap::new();
        for other in &mut self.candidates {
            if other.standing != Standing::Superseded && impossible.contains(&other.txid) {
                other.standing = Standing::Superseded;
                lost.extend(other.updates());
            }
        }
        let announced = self.candidates.iter();
        let announced = announced.filter(|other| other.standing != Standing::Superseded);
        for (index, _) in announced.flat_map(Candidate::updates) {
            lost.remove(&index);
        }
        for (index, update) in lost {
            // A leaf or a later wish of this round goes before.
            if !self.leaves.contains_key(&index) {
                self.queued.entry(index).or_insert(update);
            }
        }
    }

    fn candidate_mut(&mut self, txid: Txid) -> Option<&mut Candidate> {
        self.candidates
            .iter_mut()
            .find(|candidate| candidate.txid == txid)
    }

    /// A published round is over; its leaves stay with the candidate's proofs.
    fn published(&mut self, txid: Txid) {
        let Some(round) = self.candidate_mut(txid).map(|candidate| candidate.round) else {
            return;
        };
        if round >= self.round {
            self.round = round.saturating_add(1);
            self.leaves.clear();
            self.session = None;
        }
    }

    fn end(&mut self, session: SessionId, code: &str, comment: &str, offered: Option<Offered>) {
        let open = self.session.take_if(|open| open.id == session);
        let offered = offered.or(open.map(|open| Offered::of(&open.proposal)));
        self.ended.push_back(Ended {
            session,
            code: code.to_owned(),
            comment: comment.to_owned(),
            offered,
        });
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
    }
}

impl Session {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::SignalApproved { session, .. } if *session == self.id => self.approved = true,
            Event::NonceCommitted {
                session,
                nonces,
                signature,
                deadline,
                ..
            } if *session == self.id => {
                self.deadline = *deadline;
                self.progress = Progress::NonceCommitted {
                    nonces: nonces.clone(),
                    signature: *signature,
                };
            }
            Event::PartialReleased {
                session,
                partials,
                signature,
                ..
            } if *session == self.id => {
                if let Progress::PartialAuthorized { aggregated } = &self.progress {
                    self.progress = Progress::PartialReleased {
                        aggregated: aggregated.clone(),
                        partials: partials.clone(),
                        signature: *signature,
                    };
                }
            }
            _ => {}
        }
    }
}
