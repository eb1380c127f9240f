//! One update for each version of a DID document: while one may still be mined, no other one of that version is announced, on
//! any beacon. Whoever resolves the DID would find two of them, and it would be worth nothing any more.

use beacon_signal::{Index, UpdateId};

use super::state::{Candidate, Membership, Stage, State};
use super::{Event, Participant};
use crate::machine::{Code, Rejection, Step};

/// The first version of a document has no update that leads to it.
const FIRST_VERSION: u64 = 2;

impl Participant {
    /// What the user says about an update's version, where it is new.
    pub(super) fn versioned(
        &self,
        update: UpdateId,
        version: Option<u64>,
    ) -> Result<Step<Event>, Rejection> {
        let Some(version) = version else {
            return Ok(Step::nothing());
        };
        if version < FIRST_VERSION {
            let (got, expected) = (format!("version {version}"), "a version of at least 2");
            return Err(Rejection::new(Code::Invalid, got, expected));
        }
        match self.state.versions.get(&update) {
            None => Ok(Step::event(Event::UpdateVersioned { update, version })),
            Some(known) if *known == version => Ok(Step::nothing()),
            Some(known) => {
                let got = format!("version {version} for update {update}");
                let expected = format!("version {known}, as it was said before");
                Err(Rejection::new(Code::Conflict, got, expected))
            }
        }
    }

    /// Refuses an update beside which another one of its DID, and maybe of its version, is live or waits for a leaf. What waits
    /// in `cohort` itself is not announced yet: a later wish takes its place.
    pub(super) fn has_no_rival(
        &self,
        cohort: Option<&Membership>,
        index: Index,
        update: UpdateId,
        version: Option<u64>,
    ) -> Result<(), Rejection> {
        let Some((place, rival)) = self.state.rival(cohort, index, update, version) else {
            return Ok(());
        };
        let described = |update: UpdateId, version: Option<&u64>| match version {
            Some(version) => format!("update {update} of version {version}"),
            None => format!("update {update} of a version that was not said"),
        };
        let known = self.state.versions.get(&update).or(version.as_ref());
        let got = described(update, known);
        let rival = described(rival, self.state.versions.get(&rival));
        let expected =
            format!("the same as {place}, {rival}, until that is buried; or another version");
        Err(Rejection::new(Code::Conflict, got, expected))
    }
}

impl State {
    /// Another update of this DID, maybe of the same version, that is live or waits for its leaf, and where.
    pub(super) fn rival(
        &self,
        cohort: Option<&Membership>,
        index: Index,
        update: UpdateId,
        version: Option<u64>,
    ) -> Option<(String, UpdateId)> {
        let here = cohort.map(|cohort| cohort.handle);
        let waits = |other: &Membership| {
            let elsewhere = Some(other.handle) != here && other.stage == Stage::Agreed;
            other.queued.get(&index).copied().filter(|_| elsewhere)
        };
        let version = self.versions.get(&update).copied().or(version);
        let in_cohorts = self.cohorts.values().flat_map(|other| {
            let updates = other.announced(index).chain(waits(other));
            updates.map(|rival| (format!("in cohort {}", other.id), rival))
        });
        let alone = self.live_singletons(index);
        let alone = alone.map(|signal| (format!("in transaction {}", signal.txid), signal.update));
        let mut all = in_cohorts.chain(alone);
        all.find(|(_, rival)| self.is_rival(update, version, *rival))
    }

    /// Whether this update can get a leaf: no other one that may be of the same version has one that may be mined.
    pub(super) fn may_be_announced(&self, index: Index, update: UpdateId) -> bool {
        let version = self.versions.get(&update).copied();
        let in_cohorts = self.cohorts.values();
        let in_cohorts = in_cohorts.flat_map(|cohort| cohort.announced(index));
        let alone = self.live_singletons(index).map(|signal| signal.update);
        let mut announced = in_cohorts.chain(alone);
        !announced.any(|other| self.is_rival(update, version, other))
    }

    /// Whether the two are different and may be of one version. Of which nothing was said, it may be any.
    fn is_rival(&self, update: UpdateId, version: Option<u64>, other: UpdateId) -> bool {
        let both = version.zip(self.versions.get(&other));
        update != other && both.is_none_or(|(version, other)| version == *other)
    }
}

impl Membership {
    /// Updates of an index that may be mined, or get signed in this round.
    fn announced(&self, index: Index) -> impl Iterator<Item = UpdateId> {
        let leaf = self
            .leaves
            .get(&index)
            .filter(|_| self.stage == Stage::Agreed);
        let live = self.live().flat_map(Candidate::updates);
        live.filter(move |(other, _)| *other == index)
            .map(|(_, update)| update)
            .chain(leaf.and_then(|leaf| leaf.update))
    }
}
