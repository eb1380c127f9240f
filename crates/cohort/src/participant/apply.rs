//! How each event changes a participant's state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bitcoin::{Transaction, Txid};

use super::event::Event;
use super::state::{
    Candidate, Ended, Membership, Progress, Relationship, Session, Stage, Standing, State,
};
use crate::ids::{CohortId, PeerId, SessionId};
use crate::musig::BeaconKey;
use crate::review::impossible_beside;
use crate::terms::AgreedTerms;

/// Ended sessions that a cohort remembers.
const MAX_ENDED: usize = 64;

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
            } => {
                let mut advertised = Membership::advertised(*cohort, coordinator, terms);
                advertised.id = id.unwrap_or(*cohort);
                self.cohorts.insert(*cohort, advertised);
            }
            Event::CohortForgotten { cohort } => {
                self.cohorts.remove(cohort);
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
            ended: VecDeque::new(),
        }
    }

    fn apply_formation(&mut self, event: &Event) {
        match event {
            Event::JoinRequested { path, dids, .. } => {
                self.stage = Stage::Joining;
                self.path = Some(*path);
                self.dids.clone_from(dids);
            }
            Event::OptedIn { key, proof, .. } => {
                self.stage = Stage::OptedIn;
                self.key = Some(*key);
                self.proof = Some(*proof);
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
                    self.leaves.insert(leaf.index, leaf.clone());
                }
            }
            Event::SignalProposed {
                session,
                proposal,
                approved,
                deadline,
                ..
            } => {
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
                ..
            } => self.end(*session, code, comment),
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
                self.apply_chain(event);
            }
        }
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

    /// A buried transaction makes others impossible. What only those announced waits for another round.
    fn buried(&mut self, txid: Txid) {
        let Some(candidate) = self.candidate_mut(txid) else {
            return;
        };
        if let Standing::Confirmed { height, block_hash } = candidate.standing {
            candidate.standing = Standing::Buried { height, block_hash };
        }
        let all: Vec<&Transaction> = self.candidates.iter().map(|other| &other.tx).collect();
        let impossible = impossible_beside(txid, &all);
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

    fn end(&mut self, session: SessionId, code: &str, comment: &str) {
        self.session.take_if(|open| open.id == session);
        self.ended.push_back(Ended {
            session,
            code: code.to_owned(),
            comment: comment.to_owned(),
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
