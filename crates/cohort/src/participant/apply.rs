//! How each event changes a participant's state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use beacon_signal::Index;

use super::event::Event;
use super::state::{
    Candidate, Claim, Ended, MAX_ENDED, Membership, Offered, Progress, Relationship, Session,
    Stage, Standing, State,
};
use crate::hourly::Hourly;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::Code;
use crate::terms::AgreedTerms;

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
            event => match event.cohort() {
                Some(id) => {
                    if let Some(cohort) = self.cohorts.get_mut(&id) {
                        cohort.apply_formation(event);
                    }
                }
                None => self.apply_singleton(event),
            },
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
            refused: BTreeMap::new(),
            contests: BTreeMap::new(),
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
            outside_signer: false,
            outside_nonces: BTreeSet::new(),
            asked_psbt: None,
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
                self.beacon = self.terms.beacon(keys.iter().copied()).ok();
                self.stage = Stage::Agreed;
            }
            Event::RegistrationRequested { dids, .. } => {
                self.registering
                    .extend(dids.iter().map(|(index, did)| (*index, did.clone())));
                self.refused
                    .retain(|refused, _| !dids.values().any(|did| did == refused));
            }
            Event::ContestSent { index, did, .. } => {
                let (did, result) = (did.clone(), None);
                self.contests.insert(*index, Claim { did, result });
            }
            Event::ContestAnswered {
                index,
                accepted,
                code,
                ..
            } => {
                if let Some(claim) = self.contests.get_mut(index) {
                    claim.result = Some(if *accepted { Ok(()) } else { Err(code.clone()) });
                }
                // It was refused for this index, perhaps, and can be joined now.
                let taken = Code::IndexTaken.as_str();
                if *accepted && matches!(&self.stage, Stage::Out(code, _) if code == taken) {
                    self.stage = Stage::Advertised;
                }
            }
            Event::Registered {
                accepted, refused, ..
            } => {
                let fixed = self.leaves_are_fixed();
                for index in accepted {
                    if let Some(did) = self.registering.remove(index) {
                        self.dids.insert(*index, did);
                        if fixed {
                            self.leaves.remove(index); // It was never sent, and comes too late for the root.
                        }
                    }
                }
                for (index, code) in refused {
                    if let Some(did) = self
                        .registering
                        .get(index)
                        .filter(|_| self.refused.len() < 64)
                    {
                        self.refused.insert(did.clone(), code.clone());
                    }
                }
                let refused = |index: &Index| refused.contains_key(index);
                self.registering.retain(|index, _| !refused(index));
                let dids = &self.dids;
                self.leaves
                    .retain(|index, _| !refused(index) || dids.contains_key(index));
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
                    imported: None,
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
            event @ Event::PartialAuthorized { .. } => self.partials_authorized(event),
            event => {
                if let Some(session) = &mut self.session {
                    if matches!(event, Event::NonceCommitted { .. }) {
                        let request = &session.proposal.0;
                        if request.kind.is_signal() {
                            self.committed = Some(request.round);
                        }
                        self.contributed.insert(session.id);
                    }
                    session.apply(event);
                }
                self.apply_outside(event);
                self.apply_recovery(event);
            }
        }
    }

    fn partials_authorized(&mut self, event: &Event) {
        let Event::PartialAuthorized {
            session,
            nonces,
            txid,
            root,
            proofs,
            ..
        } = event
        else {
            return;
        };
        let Some(open) = self.session.as_mut().filter(|open| open.id == *session) else {
            return;
        };
        open.progress = Progress::PartialAuthorized {
            aggregated: nonces.clone(),
        };
        let request = &open.proposal.0;
        let (round, map) = (request.round, request.map.clone());
        let tx = request.pending_tx.clone();
        let replaced = request.replaces;
        let mut signed = self.candidates.iter();
        let replaced = signed.find(|signed| Some(signed.txid) == replaced);
        // What is not known of the replaced signal is not known of this one.
        let unproven = replaced.map(|signed| signed.unproven.clone());
        let candidate = Candidate {
            session: *session,
            round,
            root: *root,
            tx,
            txid: *txid,
            proofs: proofs.clone(),
            map,
            unproven: unproven.unwrap_or_default(),
            recovered: replaced.is_some_and(|signed| signed.recovered),
            standing: Standing::Live,
            spent: request.spent_outputs.clone(),
            offer: None,
        };
        // A retry signs the same transaction again: the proofs are the same.
        self.candidates.retain(|other| other.txid != *txid);
        self.candidates.push(candidate);
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
