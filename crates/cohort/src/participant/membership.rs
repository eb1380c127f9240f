//! What follows from a cohort's state.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::{Index, UpdateId};
use bitcoin::{OutPoint, Txid};

use super::state::{Candidate, ForeignSpend, Membership, Progress, Session, Stage, Standing};
use crate::ids::{SessionId, Timestamp};
use crate::machine::OutputView;
use crate::message::{AuthorizationRequest, Kind};
use crate::review::{OwnLeaf, ProposedSignal, Replaced, SignalContext, conflict};
use crate::terms::BeaconType;

/// Seconds for which the address of a cohort that is over is watched at least: a late deposit should be seen.
const SETTLE_S: u64 = 30 * 86_400;

impl Membership {
    /// What a proposal is checked against. `None` before the cohort was agreed on.
    pub fn context<'a>(
        &'a self,
        proposal: &ProposedSignal,
        views: &'a [(OutPoint, OutputView)],
    ) -> Option<SignalContext<'a>> {
        let request = &proposal.0;
        let replaced = self.replaced(request);
        Some(SignalContext {
            cohort: self.handle,
            beacon: self.beacon.as_ref()?,
            terms: &self.terms,
            path: self.path?,
            round: self.round,
            leaves: self.leaves_of(replaced),
            registering: self.registering().map(|(index, _)| *index).collect(),
            live: self.unsettled().map(|candidate| &candidate.tx).collect(),
            published: self
                .live()
                .filter(|signed| !signed.is_close() && signed.round != request.round)
                .filter(|signed| signed.standing != Standing::Live)
                .map(|signed| &signed.tx)
                .collect(),
            replaced: replaced.map(|replaced| self.as_replaced(replaced)),
            quarantine: self.quarantine.as_ref(),
            signed_roots: self
                .live()
                .filter(|candidate| candidate.round == request.round)
                .filter_map(|candidate| candidate.root)
                .collect(),
            views,
        })
    }

    /// What a request names as replaced, if we signed it and it may still be mined.
    pub(super) fn replaced(&self, request: &AuthorizationRequest) -> Option<&Candidate> {
        let txid = request.replaces?;
        let closes = request.kind == Kind::Close;
        let possible = self.candidates.iter();
        let mut possible = possible.filter(|signed| signed.standing != Standing::Superseded);
        possible.find(|signed| signed.txid == txid && signed.is_close() == closes)
    }

    /// Our leaves of this round, or of the round of what is replaced, where those that came later have none.
    fn leaves_of<'a>(
        &'a self,
        replaced: Option<&Candidate>,
    ) -> Vec<(Index, Option<Cow<'a, OwnLeaf>>)> {
        let Some(replaced) = replaced else {
            let leaf = |index| self.leaves.get(index).map(Cow::Borrowed);
            return self
                .dids
                .keys()
                .map(|index| (*index, leaf(index)))
                .collect();
        };
        let leaves = replaced.leaves(&self.dids).into_iter();
        let mut leaves: BTreeMap<_, _> = leaves.map(|leaf| (leaf.index, leaf)).collect();
        let leaf = |index: &Index| (*index, leaves.remove(index).map(Cow::Owned));
        self.dids.keys().map(leaf).collect()
    }

    fn as_replaced<'a>(&self, replaced: &'a Candidate) -> Replaced<'a> {
        let of_its_round = |signed: &&Candidate| {
            let version = match (signed.is_close(), replaced.is_close()) {
                (false, false) => signed.round == replaced.round,
                (true, true) => conflict(&signed.tx, &replaced.tx),
                _ => false,
            };
            version && signed.standing != Standing::Superseded
        };
        let versions = || self.candidates.iter().filter(of_its_round);
        let is_mined = |signed: &&Candidate| {
            let standing = signed.standing;
            matches!(
                standing,
                Standing::Confirmed { .. } | Standing::Buried { .. }
            )
        };
        let forgotten = |index: &&Index| match self.terms.beacon_type {
            BeaconType::Smt => replaced.unproven.contains_key(index),
            BeaconType::Cas => replaced.map.is_none(),
        };
        Replaced {
            tx: &replaced.tx,
            round: replaced.round,
            versions: versions().map(|signed| signed.txid).collect(),
            mined: versions().find(is_mined).map(|signed| signed.txid),
            unproven: self.dids.keys().filter(forgotten).copied().collect(),
        }
    }

    /// Whether an index without a leaf in this round stays without one. The root may be fixed with its empty leaf, and
    /// a leaf chosen now would neither be in the tree nor let us complete, or check, the empty leaf's proof.
    pub fn leaves_are_fixed(&self) -> bool {
        let forgotten = |signed: &Candidate| {
            signed.recovered && signed.round == self.round && !signed.is_close()
        };
        let of_this_round = |session: &Session| session.proposal.0.kind.is_signal();
        self.live().any(forgotten)
            || self.terms.empty_leaf_allowed
                && (self.session.as_ref().is_some_and(of_this_round)
                    || self.committed == Some(self.round))
    }

    /// Whether the cohort has an address that we agreed to, whatever became of the cohort.
    pub fn was_agreed(&self) -> bool {
        matches!(self.stage, Stage::Agreed | Stage::Dissolved(_))
    }

    /// Whether the chain is asked about its address.
    pub fn is_watched(&self) -> bool {
        self.was_agreed() && !self.settled
    }

    /// Whether nothing can come of it any more, once its address is empty: it has been over for long, what we signed is buried
    /// or can never be mined, and every output that there was is spent as deep as the terms want.
    pub(super) fn may_settle(&self, now: Timestamp) -> bool {
        matches!(self.stage, Stage::Dissolved(_))
            && self.dissolved.after(SETTLE_S) <= now
            && self.outputs.is_empty()
            && self.quarantine.is_none()
            && self.inquiry.is_none_or(|open| open.due().is_none())
            && self.live().next().is_none()
            && self.foreign.iter().all(|spend| spend.buried)
    }

    /// Seconds that a phase takes at most.
    pub(super) fn phase_deadline_s(&self) -> u64 {
        let members = self.beacon.as_ref().map_or(0, |beacon| beacon.keys().len());
        self.terms.phase_deadline_s(members)
    }

    /// When our opt-in is sent again, so that our seat is kept.
    pub(super) fn renewal(&self) -> Option<Timestamp> {
        let at = self.opted_in.after(self.terms.seat_deadline_s() / 2);
        (self.stage == Stage::OptedIn && at < self.terms.advert_expires).then_some(at)
    }

    /// What the beacon holds, as far as it is watched, sat: outputs that nothing of ours spends, published or mined.
    pub fn balance_sat(&self) -> u64 {
        let public =
            |signed: &&Candidate| !matches!(signed.standing, Standing::Live | Standing::Superseded);
        let spent: BTreeSet<_> = self
            .candidates
            .iter()
            .filter(public)
            .flat_map(|signed| &signed.tx.input)
            .map(|input| input.previous_output)
            .chain(self.foreign.iter().map(|spend| spend.outpoint))
            .collect();
        let outputs = self.outputs.iter();
        let unspent = outputs.filter(|(outpoint, _)| !spent.contains(outpoint));
        unspent.fold(0, |sum, (_, value)| sum.saturating_add(*value))
    }

    /// Spends by a leaf of the script tree.
    pub fn spent_by_leaf(&self) -> impl Iterator<Item = &ForeignSpend> {
        self.foreign.iter().filter(|spend| spend.by_leaf)
    }

    /// Spends by transactions of which we have no record to this day.
    pub fn unexplained(&self) -> impl Iterator<Item = &ForeignSpend> {
        let known = |txid| self.candidates.iter().any(|signed| signed.txid == txid);
        let foreign = self.foreign.iter();
        foreign.filter(move |spend| !spend.by_leaf && !known(spend.txid))
    }

    /// Updates that wait, or stand in leaves of a round in which nothing was signed that announces them.
    pub fn unannounced(&self) -> BTreeMap<Index, UpdateId> {
        let mut waiting: BTreeMap<_, _> = self
            .leaves
            .values()
            .filter_map(|leaf| Some((leaf.index, leaf.update?)))
            .collect();
        waiting.extend(self.queued.iter().map(|(index, update)| (*index, *update)));
        let signed = self.candidates.iter();
        let signed = signed.filter(|signed| signed.standing != Standing::Superseded);
        for (index, update) in signed.flat_map(Candidate::updates) {
            if waiting.get(&index) == Some(&update) {
                waiting.remove(&index);
            }
        }
        waiting
    }

    /// Candidates that may still be mined, or leave the chain again.
    pub fn live(&self) -> impl Iterator<Item = &Candidate> {
        let signed = self.candidates.iter();
        signed.filter(|candidate| !candidate.standing.is_settled())
    }

    /// The last round in which an honest coordinator can be: every round ends with a signature of ours.
    pub fn latest_round(&self) -> u64 {
        let signed = self.candidates.iter().filter(|signed| !signed.is_close());
        let signed = signed.map(|signed| signed.round).max();
        let next = signed.map_or(1, |signed| signed.saturating_add(1));
        self.round.max(next)
    }

    /// Live ones that a session must account for. What a buried transaction builds on is buried with it, also where our chain
    /// source, asked about one after the other, has not said so yet.
    fn unsettled(&self) -> impl Iterator<Item = &Candidate> {
        let parents = |signed: &Candidate| -> Vec<Txid> {
            let inputs = signed.tx.input.iter();
            inputs.map(|input| input.previous_output.txid).collect()
        };
        let is_buried = |signed: &&Candidate| matches!(signed.standing, Standing::Buried { .. });
        let buried = self.candidates.iter().filter(is_buried);
        let mut wanted: Vec<Txid> = buried.flat_map(parents).collect();
        let mut built_on = BTreeSet::new();
        while let Some(txid) = wanted.pop() {
            if built_on.insert(txid) {
                let known = self.candidates.iter().filter(|signed| signed.txid == txid);
                wanted.extend(known.flat_map(parents));
            }
        }
        self.live()
            .filter(move |signed| !built_on.contains(&signed.txid))
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
            Stage::Joining | Stage::OptedIn | Stage::Agreed | Stage::Dissolved(_) => false,
        };
        over && self.candidates.is_empty()
    }

    /// What the session under way would spend, in the order of its inputs, while it is being checked.
    pub fn checked_inputs(&self) -> Option<Vec<OutPoint>> {
        let session = self.session.as_ref()?;
        let inputs = session.proposal.0.pending_tx.input.iter();
        matches!(session.progress, Progress::Requested)
            .then(|| inputs.map(|input| input.previous_output).collect())
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

    /// DIDs that we asked to answer for, and do not yet.
    pub fn registering(&self) -> impl Iterator<Item = (&Index, &String)> {
        let asked = self.registering.iter();
        asked.filter(|(index, _)| !self.dids.contains_key(*index))
    }

    /// The first round with a signal that may be mined and does not show here what it says of one of our DIDs, where that was
    /// not found to be unknown.
    pub(super) fn first_unproven(&self) -> Option<u64> {
        let possible = self.candidates.iter();
        let possible = possible.filter(|signed| signed.standing != Standing::Superseded);
        let known = |signed: &Candidate, index| {
            signed.is_proven(index) || signed.unproven.contains_key(index)
        };
        let lacking = possible.filter(|signed| self.dids.keys().any(|index| !known(signed, index)));
        lacking.map(|signed| signed.round).min()
    }

    pub(super) fn signed_round(&self, round: u64) -> bool {
        self.candidates
            .iter()
            .any(|candidate| candidate.round == round && !candidate.is_close())
    }

    /// Whether a closing spend of the beacon is in a block.
    pub fn is_closed(&self) -> bool {
        let mut closes = self.candidates.iter().filter(|signed| signed.is_close());
        closes.any(|signed| {
            let standing = signed.standing;
            matches!(
                standing,
                Standing::Confirmed { .. } | Standing::Buried { .. }
            )
        })
    }
}
