//! From a subscription to a cohort that every member agreed to.

use std::collections::BTreeSet;

use super::strikes::report_dissolved;
use super::{Cohort, Coordinator, Event, FORMATION_EXPIRY_S, MAX_CHANGES, Member, Phase};
use crate::ids::{CohortId, PeerId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{
    CohortAck, CohortAdvert, CohortSet, MAX_TEXT, OptIn, Subscribe, SubscribeAccept,
};
use crate::musig::BeaconKey;
use crate::statement;
use crate::terms::Admission;

impl Coordinator {
    pub(super) fn subscribe(
        &self,
        peer: &PeerId,
        filter: &Subscribe,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        if filter
            .label
            .as_ref()
            .is_some_and(|label| label.len() > MAX_TEXT)
        {
            return Err(Rejection::new(
                Code::Malformed,
                "a longer label",
                format!("at most {MAX_TEXT} bytes"),
            ));
        }
        if filter.networks.len() > 16 || filter.beacon_types.len() > 16 {
            return Err(Rejection::new(
                Code::Malformed,
                "a longer filter",
                "at most 16 entries",
            ));
        }
        let known = self.state.subscribers.get(peer);
        if known.is_none() && self.state.subscribers.len() >= self.config.max_subscribers {
            let max = self.config.max_subscribers;
            return Err(Rejection::new(
                Code::Limit,
                "one subscriber more",
                format!("at most {max}"),
            ));
        }
        let mut step = Step::nothing();
        if known != Some(filter) {
            self.check_changes(peer, "one subscription or change of filter more", now)?;
            step.events.push(Event::Subscribed {
                peer: peer.clone(),
                filter: filter.clone(),
                at: now,
            });
        }
        let accept = SubscribeAccept {
            label: self.config.label.clone(),
            max_cohorts: Some(self.config.max_cohorts as u64),
        };
        step = step.send(peer, accept, now.after(FORMATION_EXPIRY_S));
        for cohort in self.state.cohorts.values() {
            let is_offered =
                is_open(cohort, now) && wants(filter, cohort) && may_join(cohort, peer);
            if is_offered || is_in(cohort, peer, now) {
                step = step.send(peer, advert(cohort), cohort.terms.advert_expires);
            }
        }
        Ok(step)
    }

    /// Every change goes to the log: nobody may change its mind without end. Where so many did lately that no more are
    /// remembered, those who are not known yet wait.
    fn check_changes(
        &self,
        peer: &PeerId,
        one_more: &str,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        let changes = &self.state.changes;
        let known = self.state.subscribers.contains_key(peer) || changes.contains_key(peer);
        let remembered = changes.values().filter(|made| made.is_recent(now));
        if !known && remembered.count() >= self.config.max_subscribers {
            let expected = "fewer peers that changed their minds within the hour";
            return Err(Rejection::new(Code::Limit, one_more, expected));
        }
        changes
            .get(peer)
            .map_or(Ok(()), |made| made.has_room(one_more, MAX_CHANGES, now))
    }

    pub(super) fn unsubscribe(&self, peer: PeerId) -> Result<Step<Event>, Rejection> {
        if !self.state.subscribers.contains_key(&peer) {
            return Err(Rejection::new(
                Code::NotSubscribed,
                "unsubscribe",
                "a subscriber",
            ));
        }
        Ok(Step::event(Event::Unsubscribed { peer }))
    }

    pub(super) fn opt_in(
        &self,
        peer: PeerId,
        body: &OptIn,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort(body.cohort_id)?;
        let indexes: BTreeSet<_> = body.indexes.iter().copied().collect();
        if let Some(member) = cohort.members.get(&peer) {
            // The same again is fine, whatever the phase; a different one is a conflict.
            return if member.key == body.participant_pk && indexes.is_subset(&member.indexes) {
                opt_in_again(cohort, peer, member, now)
            } else {
                Err(Rejection::new(
                    Code::Conflict,
                    "a different opt-in",
                    "the one given before",
                ))
            };
        }
        cohort.check_excluded(&peer)?;
        if cohort.phase != Phase::Advertised {
            return Err(Rejection::new(
                Code::CohortSet,
                "an opt-in",
                "none: the cohort is set or over",
            ));
        }
        if !is_open(cohort, now) {
            let expires = cohort.terms.advert_expires;
            return Err(Rejection::new(
                Code::AdvertClosed,
                format!("an opt-in at {now}"),
                format!("before {expires}"),
            ));
        }
        if !may_join(cohort, &peer) {
            return Err(Rejection::new(
                Code::NotInvited,
                "an opt-in",
                "one of an invited peer",
            ));
        }
        self.check_changes(&peer, "one opt-in more", now)?;
        if body.terms_hash != cohort.terms.hash() {
            let expected = cohort.terms.hash().to_string();
            return Err(Rejection::new(
                Code::TermsHash,
                body.terms_hash.to_string(),
                expected,
            ));
        }
        let statement =
            statement::possession(cohort.id, &peer, &body.participant_pk, &body.terms_hash);
        if !statement.is_signed_by(&body.participant_pk, &body.proof_of_possession) {
            let expected = "a signature of the cohort key over cohort, DID, key and terms";
            return Err(Rejection::new(
                Code::ProofOfPossession,
                "another signature",
                expected,
            ));
        }
        if cohort
            .members
            .values()
            .any(|member| member.key.x_only() == body.participant_pk.x_only())
        {
            return Err(Rejection::new(
                Code::KeyTaken,
                body.participant_pk.to_string(),
                "a fresh key",
            ));
        }
        let max = cohort.terms.max_indexes_per_member;
        if indexes.len() != body.indexes.len() || indexes.is_empty() || indexes.len() as u64 > max {
            let got = format!("{} indexes", body.indexes.len());
            return Err(Rejection::new(
                Code::IndexCount,
                got,
                format!("1 to {max}, none twice"),
            ));
        }
        if let Some(taken) = indexes.iter().find(|index| cohort.is_taken(index, &peer)) {
            let expected = "indexes that no other member answers for";
            return Err(Rejection::new(
                Code::IndexTaken,
                taken.to_string(),
                expected,
            ));
        }
        Ok(Step::event(Event::OptedIn {
            cohort: cohort.id,
            peer,
            key: body.participant_pk,
            indexes,
            proof: body.proof_of_possession,
            at: Some(now),
        }))
    }

    pub(super) fn opt_out(
        &self,
        peer: PeerId,
        cohort: CohortId,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, _) = self.membership(cohort, &peer)?;
        if cohort.phase != Phase::Advertised {
            return Err(Rejection::new(
                Code::CohortSet,
                "an opt-out",
                "none: membership is frozen",
            ));
        }
        Ok(Step::event(Event::OptedOut {
            cohort: cohort.id,
            peer,
            at: now,
        }))
    }

    pub(super) fn cohort_ack(
        &self,
        peer: PeerId,
        body: &CohortAck,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.membership(body.cohort_id, &peer)?;
        let agreeable = matches!(cohort.phase, Phase::Set | Phase::Acknowledged);
        let Some(beacon) = cohort.beacon.as_ref().filter(|_| agreeable) else {
            return Err(Rejection::new(
                Code::Phase,
                "an acknowledgement",
                "none: the cohort is not set, or over",
            ));
        };
        let address = beacon.address(cohort.terms.btc_network.bitcoin());
        let expected = statement::cohort_ack(&cohort.terms.hash(), beacon.keys(), &address);
        if body.ack_hash != expected {
            return Err(Rejection::new(
                Code::AckMismatch,
                body.ack_hash.to_string(),
                expected.to_string(),
            ));
        }
        if member.acknowledged {
            return Ok(Step::nothing());
        }
        Ok(Step::event(Event::Acknowledged {
            cohort: cohort.id,
            peer,
        }))
    }

    /// A member's problem report. It matters where the member does not agree with what was set: then nobody should fund
    /// the address. What any other report means for a session, deadlines decide.
    pub(super) fn problem(
        &self,
        from: &PeerId,
        cohort: Option<CohortId>,
        code: &str,
    ) -> Step<Event> {
        let membership = cohort.and_then(|id| self.membership(id, from).ok());
        match membership {
            Some((cohort, member))
                if cohort.phase == Phase::Set
                    && !member.acknowledged
                    && code == Code::CohortMismatch.as_str() =>
            {
                Self::fail(
                    cohort,
                    "a member does not agree with what was set".to_owned(),
                )
            }
            _ => Step::nothing(),
        }
    }
}

/// The identical opt-in keeps the seat. Written to the log no more often than it matters. Later it asks what became of the
/// cohort: a member whose state was restored from an old copy is in it again.
fn opt_in_again(
    cohort: &Cohort,
    peer: PeerId,
    member: &Member,
    now: Timestamp,
) -> Result<Step<Event>, Rejection> {
    if let Phase::Failed(reason) = &cohort.phase {
        let expected = "none: the cohort is over";
        return Err(Rejection::new(Code::CohortFailed, reason, expected));
    }
    if let Some(beacon) = &cohort.beacon {
        let again =
            Step::nothing().send(&peer, cohort_set(cohort, beacon), set_expires(cohort, now));
        return Ok(match cohort.phase {
            Phase::Dissolved(_) => again.with(report_dissolved(cohort, peer)),
            _ => again,
        });
    }
    let fresh = cohort.terms.seat_deadline_s() / 4;
    let is_fresh = member.seen.is_some_and(|seen| now < seen.after(fresh));
    Ok(if is_fresh {
        Step::nothing()
    } else {
        Step::event(Event::SeatRenewed {
            cohort: cohort.id,
            peer,
            at: now,
        })
    })
}

/// Whether a peer is a member of a cohort whose advert it can still follow: it may have lost its memory of it.
fn is_in(cohort: &Cohort, peer: &PeerId, now: Timestamp) -> bool {
    cohort.members.contains_key(peer) && !cohort.is_over() && now < cohort.terms.advert_expires
}

/// What a member is told of the cohort once it is set.
pub(super) fn cohort_set(cohort: &Cohort, beacon: &BeaconKey) -> CohortSet {
    CohortSet {
        cohort_id: cohort.id,
        beacon_address: beacon.address(cohort.terms.btc_network.bitcoin()),
        cohort_keys: beacon.keys().to_vec(),
        terms_hash: cohort.terms.hash(),
    }
}

/// Until when that is worth hearing.
pub(super) fn set_expires(cohort: &Cohort, now: Timestamp) -> Timestamp {
    now.after(cohort.terms.seat_deadline_s())
}

pub(super) fn is_open(cohort: &Cohort, now: Timestamp) -> bool {
    let full = cohort.members.len() as u64 >= cohort.terms.max_members;
    cohort.phase == Phase::Advertised && now < cohort.terms.advert_expires && !full
}

pub(super) fn may_join(cohort: &Cohort, peer: &PeerId) -> bool {
    cohort.terms.admission == Admission::Open || cohort.invited.contains(peer)
}

pub(super) fn wants(filter: &Subscribe, cohort: &Cohort) -> bool {
    (filter.networks.is_empty() || filter.networks.contains(&cohort.terms.btc_network))
        && (filter.beacon_types.is_empty()
            || filter.beacon_types.contains(&cohort.terms.beacon_type))
}

pub(super) fn advert(cohort: &Cohort) -> CohortAdvert {
    CohortAdvert {
        cohort_id: cohort.id,
        btc_network: cohort.terms.btc_network,
        cohort_size: cohort.terms.min_members,
        beacon_type: cohort.terms.beacon_type,
        terms: cohort.terms.value().clone(),
        terms_hash: cohort.terms.hash(),
        succeeds: cohort.succeeds,
    }
}
