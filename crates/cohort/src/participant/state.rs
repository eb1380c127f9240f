//! A participant's state: what replaying its log gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use beacon_signal::{Index, Proof, Root, UpdateId};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};

use super::derive;
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
    /// Cohorts that we heard of or belong to, by our own names for them: see [`Membership::handle`].
    pub cohorts: BTreeMap<CohortId, Membership>,
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
    /// Our name for it: its id, unless another coordinator has a cohort of that id here already.
    pub handle: CohortId,
    /// Its id, chosen by its coordinator.
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
    /// The last round in which public nonces of ours may have left.
    pub committed: Option<u64>,
    /// The session that is under way.
    pub session: Option<Session>,
    /// Everything that we ever signed, oldest first: any of them may be the one that is mined.
    pub candidates: Vec<Candidate>,
    /// Sessions for which we signed nonces, for ever. Sessions that are over may be forgotten, and one of these asked for
    /// again would get other nonces: two contributions that we signed for one session, which convict us.
    pub contributed: BTreeSet<SessionId>,
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

impl Candidate {
    /// The updates that it announces, by index.
    pub fn updates(&self) -> impl Iterator<Item = (Index, UpdateId)> {
        let proofs = self.proofs.iter();
        proofs.filter_map(|(index, proof)| Some((*index, proof.update_id?)))
    }
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

impl State {
    /// The cohort that this coordinator calls `id`.
    pub fn cohort_of(&self, coordinator: &PeerId, id: CohortId) -> Option<&Membership> {
        [id, derive::handle(coordinator, id)]
            .iter()
            .filter_map(|handle| self.cohorts.get(handle))
            .find(|cohort| cohort.id == id && cohort.coordinator == *coordinator)
    }

    /// All cohorts of this id, of different coordinators.
    pub fn cohorts_named(&self, id: CohortId) -> impl Iterator<Item = &Membership> {
        self.cohorts.values().filter(move |cohort| cohort.id == id)
    }
}

impl Membership {
    /// What a proposal is checked against. `None` before the cohort was agreed on.
    pub fn context<'a>(&'a self, view: &'a OutputView) -> Option<SignalContext<'a>> {
        Some(SignalContext {
            cohort: self.handle,
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
            signed_roots: self
                .live()
                .filter(|candidate| candidate.round == self.round)
                .map(|candidate| candidate.root)
                .collect(),
            view,
        })
    }

    /// Whether an index without a leaf in this round stays without one. The root may be fixed with its empty leaf, and
    /// a leaf chosen now would neither be in the tree nor let us complete, or check, the empty leaf's proof.
    pub fn leaves_are_fixed(&self) -> bool {
        self.terms.empty_leaf_allowed
            && (self.session.is_some() || self.committed == Some(self.round))
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
        self.contributed.contains(&id)
            || self.ended.iter().any(|ended| ended.session == id)
            || self
                .candidates
                .iter()
                .any(|candidate| candidate.session == id)
    }

    /// Whether nothing of it matters any more: never joined and expired, or left without a signature.
    pub(super) fn is_forgettable(&self, now: Timestamp) -> bool {
        let over = match self.stage {
            Stage::Advertised => self.terms.advert_expires <= now,
            Stage::Out(..) => true,
            Stage::Joining | Stage::OptedIn | Stage::Agreed => false,
        };
        over && self.candidates.is_empty()
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
}
