//! Leaves: which of our DIDs announces what in which round.

use std::collections::BTreeSet;

use beacon_signal::{Index, LeafNonce, UpdateId};

use super::endings::end;
use super::state::{Membership, Stage};
use super::{Event, Participant};
use crate::coordinator::FORMATION_EXPIRY_S;
use crate::ids::{PeerId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{Leaf, NoUpdate, RequestSignature, UpdateOpportunity};
use crate::review::OwnLeaf;
use crate::terms::{BeaconType, Flow};

/// Seconds for which an update waits for a coordinator that cannot be reached.
const LEAF_EXPIRY_S: u64 = 7 * 86_400;

impl Participant {
    pub(super) fn request_update(
        &self,
        cohort: &Membership,
        did: &str,
        update: UpdateId,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        if cohort.stage != Stage::Agreed {
            let got = format!("a cohort at stage {}", cohort.stage.name());
            return Err(Rejection::new(
                Code::Phase,
                got,
                "one that is set and agreed to",
            ));
        }
        let Some((index, _)) = cohort.dids.iter().find(|(_, known)| *known == did) else {
            let known: Vec<_> = cohort.dids.values().map(String::as_str).collect();
            return Err(Rejection::new(
                Code::UnknownIndex,
                did,
                format!("one of {}", known.join(", ")),
            ));
        };
        let mut step = self.versioned(update, version)?;
        self.has_no_rival(Some(cohort), *index, update, version)?;
        let given = cohort.leaves.get(index);
        if let Some(leaf) = given.filter(|leaf| leaf.update == Some(update)) {
            // It has its leaf in this round: asked for again, that leaf is sent again, byte for byte.
            let (leaves, expires) = ([leaf.clone()], now.after(LEAF_EXPIRY_S));
            return Ok(send_leaves(step, cohort, cohort.round, &leaves, expires));
        }
        step.events.push(Event::UpdateQueued {
            cohort: cohort.handle,
            index: *index,
            update,
        });
        Ok(step)
    }

    /// In the push flow, updates that wait get their leaves and are sent; and sessions end at their deadlines.
    pub(super) fn progress_signing(&self, cohort: &Membership, now: Timestamp) -> Step<Event> {
        if let Some(session) = cohort
            .session
            .as_ref()
            .filter(|session| session.deadline <= now)
        {
            return Self::late(cohort, session, now);
        }
        if let Some(open) = cohort.inquiry.filter(|open| open.is_due(now)) {
            return Self::inquire(cohort, open.from_round, now);
        }
        if cohort.terms.flow != Flow::Push || cohort.leaves_are_fixed() {
            return Step::nothing();
        }
        let fresh = |index: &_| !cohort.leaves.contains_key(index);
        let leaves: Vec<_> = cohort
            .queued
            .iter()
            .filter(|(index, _)| fresh(*index))
            .filter(|(index, update)| self.state.may_be_announced(**index, **update))
            .map(|(index, update)| OwnLeaf {
                index: *index,
                update: Some(*update),
                nonce: self.leaf_nonce(cohort, cohort.round, index),
            })
            .collect();
        if leaves.is_empty() {
            return Step::nothing();
        }
        let step = Step::event(Event::LeavesChosen {
            cohort: cohort.handle,
            round: cohort.round,
            leaves: leaves.clone(),
        });
        send_leaves(
            step,
            cohort,
            cohort.round,
            &leaves,
            now.after(LEAF_EXPIRY_S),
        )
    }

    pub(super) fn update_opportunity(
        &self,
        from: &PeerId,
        body: &UpdateOpportunity,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.membership(body.cohort_id, from)?;
        let (first, last) = (cohort.round, cohort.latest_round());
        if !(first..=last).contains(&body.round) {
            let expected = format!("round {first} to {last}: those before it were signed by us");
            return Err(Rejection::new(
                Code::Round,
                format!("round {}", body.round),
                expected,
            ));
        }
        let waiting = cohort.waiting_updates(body.round);
        let (mut leaves, mut chosen) = (Vec::new(), Vec::new());
        for index in cohort.dids.keys() {
            let given = cohort.leaves.get(index);
            // Within a round a leaf never changes.
            if let Some(leaf) = given.filter(|_| body.round == cohort.round) {
                leaves.push(leaf.clone());
                continue;
            }
            if body.round == cohort.round && cohort.leaves_are_fixed() {
                continue;
            }
            let update = waiting.get(index).copied();
            let leaf = OwnLeaf {
                index: *index,
                update: update.filter(|update| self.state.may_be_announced(*index, *update)),
                nonce: self.leaf_nonce(cohort, body.round, index),
            };
            chosen.push(leaf.clone());
            leaves.push(leaf);
        }
        // If the coordinator has registered these by now, it waits for their leaves too: they go out when its word comes.
        for (index, _) in cohort.registering() {
            let settled = cohort.leaves_are_fixed() || cohort.leaves.contains_key(index);
            if body.round != cohort.round || !settled {
                chosen.push(OwnLeaf {
                    index: *index,
                    update: None,
                    nonce: self.leaf_nonce(cohort, body.round, index),
                });
            }
        }
        let mut step = Step::nothing();
        if let Some(session) = cohort
            .session
            .as_ref()
            .filter(|_| body.round > cohort.round)
            .filter(|session| session.proposal.0.kind.is_signal())
        {
            // Its leaves are gone with the round: without them its proofs could not be completed.
            let comment = "the coordinator opened another round";
            step = end(step, cohort, session.id, "superseded", comment);
        }
        if !chosen.is_empty() {
            step.events.push(Event::LeavesChosen {
                cohort: cohort.handle,
                round: body.round,
                leaves: chosen,
            });
        }
        // Whether the answer is late is for the coordinator to say: a round that stopped without it still takes it.
        let expires = now.after(FORMATION_EXPIRY_S);
        Ok(send_leaves(step, cohort, body.round, &leaves, expires))
    }

    /// The leaves of this round once more, byte for byte.
    pub(super) fn leaves_again(
        step: Step<Event>,
        cohort: &Membership,
        now: Timestamp,
    ) -> Step<Event> {
        let leaves = cohort.leaves.values();
        let leaves = leaves.filter(|leaf| cohort.dids.contains_key(&leaf.index));
        let leaves: Vec<_> = leaves.cloned().collect();
        let expires = now.after(LEAF_EXPIRY_S);
        send_leaves(step, cohort, cohort.round, &leaves, expires)
    }

    /// The leaves of indexes that are registered from now on, where the round had asked for leaves before that was known.
    pub(super) fn registered_leaves(
        step: Step<Event>,
        cohort: &Membership,
        accepted: &BTreeSet<Index>,
        now: Timestamp,
    ) -> Step<Event> {
        if cohort.leaves_are_fixed() || cohort.signed_round(cohort.round) {
            return step;
        }
        let leaves = accepted.iter().filter_map(|index| cohort.leaves.get(index));
        let leaves: Vec<_> = leaves.cloned().collect();
        let expires = now.after(LEAF_EXPIRY_S);
        send_leaves(step, cohort, cohort.round, &leaves, expires)
    }

    /// What blinds a leaf. A CAS cohort's are in the open.
    pub(super) fn leaf_nonce(
        &self,
        cohort: &Membership,
        round: u64,
        index: &Index,
    ) -> Option<LeafNonce> {
        let (coordinator, id) = (&cohort.coordinator, cohort.id);
        let nonce = || self.leaf_secret.leaf_nonce(coordinator, id, round, index);
        (cohort.terms.beacon_type == BeaconType::Smt).then(nonce)
    }
}

/// Updates go as request_signature, the rest as no_update, which names no index where updates are in the open.
fn send_leaves(
    mut step: Step<Event>,
    cohort: &Membership,
    round: u64,
    leaves: &[OwnLeaf],
    expires: Timestamp,
) -> Step<Event> {
    let sent = |updates: bool| -> Vec<Leaf> {
        leaves
            .iter()
            .filter(|leaf| leaf.update.is_some() == updates)
            .map(|leaf| as_sent(cohort, leaf))
            .collect()
    };
    let (updates, mut others) = (sent(true), sent(false));
    if let Some(first) = updates.first() {
        let data = first.value;
        let message = RequestSignature {
            cohort_id: cohort.id,
            data,
            round,
            leaves: updates,
        };
        step = step.send(&cohort.coordinator, message, expires);
    }
    if !others.is_empty() {
        if cohort.terms.beacon_type == BeaconType::Cas {
            others.clear();
        }
        let message = NoUpdate {
            cohort_id: cohort.id,
            round,
            leaves: others,
        };
        step = step.send(&cohort.coordinator, message, expires);
    }
    step
}

/// A leaf as the coordinator gets it: an update of a CAS cohort with its DID.
fn as_sent(cohort: &Membership, leaf: &OwnLeaf) -> Leaf {
    let did = match cohort.terms.beacon_type {
        BeaconType::Smt => None,
        BeaconType::Cas => cohort.dids.get(&leaf.index),
    };
    match (did.and_then(|did| did.parse().ok()), leaf.update) {
        (Some(did), Some(update)) => Leaf::announced(did, update),
        _ => Leaf::blinded(leaf.index, leaf.value()),
    }
}
