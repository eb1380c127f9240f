//! A participant's state: what replaying its log gives.

use std::collections::{BTreeMap, VecDeque};

use beacon_signal::{Index, Proof, Root, UpdateId};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};

use super::event::Event;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::OutputView;
use crate::message::Subscribe;
use crate::musig::BeaconKey;
use crate::review::{OwnLeaf, ProposedSignal, SignalContext};
use crate::signer::KeyPath;
use crate::terms::AgreedTerms;
use crate::values::{
    AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature,
};

/// Everything that a participant knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Coordinators that we subscribed to.
    pub coordinators: BTreeMap<PeerId, Relationship>,
    /// Cohorts that we heard of or belong to.
    pub cohorts: BTreeMap<CohortId, Membership>,
    /// Index of the next fresh cohort key.
    pub next_key: u32,
    /// Index of the next fresh identity.
    pub next_identity: u32,
}

/// What we have with one coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct Relationship {
    /// The DID under which it knows us.
    pub own: PeerId,
    /// Index of that identity's keys.
    pub identity: u32,
    /// What we want to hear of.
    pub filter: Subscribe,
    /// Whether it agreed.
    pub accepted: bool,
    /// Its name for itself.
    pub label: Option<String>,
    /// Whether we still want to hear of cohorts.
    pub subscribed: bool,
}

/// Where we stand in a cohort.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// We know of it.
    Advertised,
    /// Our key is being proven.
    Joining,
    /// Our opt-in is on its way or was taken.
    OptedIn,
    /// It is set, and we agree with what was set.
    Agreed,
    /// We are not in it, and why: a code and a comment.
    Out(String, String),
}

/// One cohort, as we see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    /// Its id.
    pub id: CohortId,
    /// Who runs it.
    pub coordinator: PeerId,
    /// Its terms.
    pub terms: AgreedTerms,
    /// Where we stand.
    pub stage: Stage,
    /// Our key's path, once we want to join.
    pub path: Option<KeyPath>,
    /// Our key.
    pub key: Option<CohortKey>,
    /// Its proof of possession.
    pub proof: Option<StatementSignature>,
    /// The DIDs that we answer for.
    pub dids: BTreeMap<Index, String>,
    /// DIDs that we asked to answer for besides.
    pub registering: BTreeMap<Index, String>,
    /// The key that we computed ourselves when the cohort was set.
    pub beacon: Option<BeaconKey>,
    /// Our round: one more than the last that was published.
    pub round: u64,
    /// Updates that wait for a leaf.
    pub queued: BTreeMap<Index, UpdateId>,
    /// Our leaves of this round.
    pub leaves: BTreeMap<Index, OwnLeaf>,
    /// The session that is under way.
    pub session: Option<Session>,
    /// Everything that we ever signed, oldest first: any of them may be the one that is mined.
    pub candidates: Vec<Candidate>,
    /// Sessions that are over, newest last; the last 64.
    pub ended: VecDeque<Ended>,
}

/// A session that is under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What we are asked to sign.
    pub proposal: ProposedSignal,
    /// Whether the user agrees, if everything holds.
    pub approved: bool,
    /// When it is over for us.
    pub deadline: Timestamp,
    /// How far it is.
    pub progress: Progress,
}

/// How far a session is.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Being checked.
    Requested,
    /// Public nonces may have left.
    NonceCommitted {
        /// One for every input.
        nonces: Vec<PublicNonce>,
        /// Over them.
        signature: StatementSignature,
    },
    /// Partial signatures are being made.
    PartialAuthorized {
        /// One for every input.
        aggregated: Vec<AggregatedNonce>,
    },
    /// Partial signatures may have left.
    PartialReleased {
        /// One for every input.
        aggregated: Vec<AggregatedNonce>,
        /// One for every input.
        partials: Vec<PartialSignature>,
        /// Over them.
        signature: StatementSignature,
    },
}

/// Something that we signed, with all that is needed to prove it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: u64,
    /// The signal bytes.
    pub root: Root,
    /// Unsigned.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// Complete proofs, by index.
    pub proofs: BTreeMap<Index, Proof>,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be mined at any time.
    Live,
    /// The coordinator says that it published it.
    Published,
    /// In a block.
    Confirmed {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
    /// As deep as the terms want.
    Buried {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
    /// Another transaction that spends one of its inputs is buried: it can never be mined.
    Superseded,
}

/// A session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub session: SessionId,
    /// Why.
    pub code: String,
    /// For people.
    pub comment: String,
}

/// Ended sessions that a cohort remembers.
const MAX_ENDED: usize = 64;

impl Membership {
    /// What a proposal is checked against. `None` before the cohort was agreed on.
    pub fn context<'a>(&'a self, view: &'a OutputView) -> Option<SignalContext<'a>> {
        Some(SignalContext {
            beacon: self.beacon.as_ref()?,
            terms: &self.terms,
            path: self.path?,
            round: self.round,
            leaves: self
                .dids
                .keys()
                .map(|index| (*index, self.leaves.get(index)))
                .collect(),
            live: self.live().map(|candidate| &candidate.tx).collect(),
            view,
        })
    }

    /// Candidates that may still be mined, or leave the chain again.
    pub fn live(&self) -> impl Iterator<Item = &Candidate> {
        let settled = |standing| matches!(standing, Standing::Buried { .. } | Standing::Superseded);
        self.candidates
            .iter()
            .filter(move |candidate| !settled(candidate.standing))
    }

    /// Whether a session of this id was here before.
    pub fn knows_session(&self, id: SessionId) -> bool {
        self.ended.iter().any(|ended| ended.session == id)
            || self
                .candidates
                .iter()
                .any(|candidate| candidate.session == id)
    }

    /// The output that the session under way spends, while it is being checked.
    pub fn checked_output(&self) -> Option<OutPoint> {
        let session = self.session.as_ref()?;
        let first = session.proposal.0.pending_tx.input.first()?;
        matches!(session.progress, Progress::Requested).then_some(first.previous_output)
    }

    /// Updates that wait for a leaf of `round`. Those of an older round that was never signed wait again.
    pub fn waiting_updates(&self, round: u64) -> BTreeMap<Index, UpdateId> {
        let mut waiting = BTreeMap::new();
        if round > self.round && !self.signed_round(self.round) {
            let unsigned = self
                .leaves
                .values()
                .filter_map(|leaf| Some((leaf.index, leaf.update?)));
            waiting.extend(unsigned);
        }
        waiting.extend(self.queued.iter().map(|(index, update)| (*index, *update)));
        waiting
    }

    fn signed_round(&self, round: u64) -> bool {
        self.candidates
            .iter()
            .any(|candidate| candidate.round == round)
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
                coordinator,
                terms,
            } => {
                self.cohorts
                    .insert(*cohort, Membership::advertised(*cohort, coordinator, terms));
            }
            event => {
                if let Event::JoinRequested { path, .. } = event {
                    self.next_key = self.next_key.max(path.index.saturating_add(1));
                }
                if let Some(cohort) = event.cohort().and_then(|id| self.cohorts.get_mut(&id)) {
                    cohort.apply_formation(event);
                }
            }
        }
    }
}

impl Membership {
    fn advertised(id: CohortId, coordinator: &PeerId, terms: &AgreedTerms) -> Self {
        Self {
            id,
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
            Event::SignalBuried { txid, .. } => {
                let Some(candidate) = self.candidate_mut(*txid) else {
                    return;
                };
                if let Standing::Confirmed { height, block_hash } = candidate.standing {
                    candidate.standing = Standing::Buried { height, block_hash };
                }
                let spent: Vec<_> = candidate
                    .tx
                    .input
                    .iter()
                    .map(|input| input.previous_output)
                    .collect();
                for other in self
                    .candidates
                    .iter_mut()
                    .filter(|other| other.txid != *txid)
                {
                    if other
                        .tx
                        .input
                        .iter()
                        .any(|input| spent.contains(&input.previous_output))
                    {
                        other.standing = Standing::Superseded;
                    }
                }
            }
            _ => {}
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
