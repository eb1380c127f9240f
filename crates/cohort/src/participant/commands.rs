//! What the user asks for, and what a coordinator makes known: subscriptions and adverts.

use super::{Command, Event, Participant, derive, not_subscribed};
use crate::coordinator::FORMATION_EXPIRY_S;
use crate::ids::{CohortId, PeerId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{CohortAdvert, Subscribe, SubscribeAccept, Unsubscribe, shortened};
use crate::terms::AgreedTerms;

impl Participant {
    pub(super) fn command(
        &self,
        command: Command,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        match command {
            Command::Subscribe {
                coordinator,
                own,
                identity,
                filter,
            } => self.subscribe(&coordinator, own, identity, filter, now),
            Command::Unsubscribe { coordinator } => {
                if !self
                    .state
                    .coordinators
                    .get(&coordinator)
                    .is_some_and(|known| known.subscribed)
                {
                    let expected = "a coordinator that we are subscribed to";
                    return Err(Rejection::new(
                        Code::NotSubscribed,
                        coordinator.as_str(),
                        expected,
                    ));
                }
                let event = Event::Unsubscribed {
                    coordinator: coordinator.clone(),
                };
                Ok(Step::event(event).send(
                    &coordinator,
                    Unsubscribe {},
                    now.after(FORMATION_EXPIRY_S),
                ))
            }
            Command::Join {
                cohort,
                dids,
                accept_script_tree,
            } => self.join(self.named(cohort)?, &dids, accept_script_tree, now),
            Command::Contest { cohort, claim } => Self::contest(self.named(cohort)?, claim, now),
            Command::Leave { cohort } => Self::leave(self.named(cohort)?, now),
            Command::RequestUpdate {
                cohort,
                did,
                update,
                version,
            } => self.request_update(self.named(cohort)?, &did, update, version, now),
            Command::AnnounceSingleton {
                did,
                update,
                version,
                tx,
            } => self.announce_singleton(did, update, version, tx),
            Command::FetchProofs { cohort, updates } => {
                self.fetch_proofs(self.named(cohort)?, &updates, now)
            }
            Command::ConfirmRollback { cohort } => self.confirm_rollback(cohort),
            Command::ChooseSigner { cohort, outside } => {
                Self::choose_signer(self.named(cohort)?, outside)
            }
            Command::AskForPsbt { session } => self.ask_for_psbt(session, now),
            Command::ImportPsbt(psbt) => self.import_psbt(&psbt),
            Command::Approve { session } => self.approve(session),
            Command::Decline { session, comment } => self.decline_by_user(session, &comment, now),
        }
    }

    fn confirm_rollback(&self, cohort: Option<CohortId>) -> Result<Step<Event>, Rejection> {
        let chosen: Vec<_> = match cohort {
            Some(cohort) => vec![self.named(cohort)?],
            None => self.state.cohorts.values().collect(),
        };
        let mut step = Step::nothing();
        let held = chosen.iter().filter(|cohort| cohort.quarantine.is_some());
        step.events
            .extend(held.map(|cohort| Event::RollbackConfirmed {
                cohort: cohort.handle,
            }));
        if step.events.is_empty() {
            let got = "a confirmation where nothing waits for one";
            return Err(Rejection::new(Code::Phase, got, "a cohort in quarantine"));
        }
        Ok(step)
    }

    fn subscribe(
        &self,
        coordinator: &PeerId,
        own: PeerId,
        identity: u32,
        filter: Subscribe,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let known = self.state.coordinators.get(coordinator);
        if known.is_none() && self.state.coordinators.len() >= self.policy.max_coordinators {
            let max = self.policy.max_coordinators;
            return Err(Rejection::new(
                Code::Limit,
                "one coordinator more",
                format!("at most {max}"),
            ));
        }
        // Subscribing again keeps the identity: memberships are bound to it.
        let (own, identity) =
            known.map_or((own, identity), |known| (known.own.clone(), known.identity));
        let event = Event::Subscribed {
            coordinator: coordinator.clone(),
            own,
            identity,
            filter: filter.clone(),
        };
        Ok(Step::event(event).send(coordinator, filter, now.after(FORMATION_EXPIRY_S)))
    }

    pub(super) fn subscribe_accept(
        &self,
        from: &PeerId,
        body: &SubscribeAccept,
    ) -> Result<Step<Event>, Rejection> {
        let Some(relationship) = self
            .state
            .coordinators
            .get(from)
            .filter(|known| known.subscribed)
        else {
            return Err(not_subscribed("subscribe_accept"));
        };
        if relationship.accepted {
            // Once for each subscription: a name that changes all the time is worth no line in the log.
            return Ok(Step::nothing());
        }
        Ok(Step::event(Event::SubscriptionAccepted {
            coordinator: from.clone(),
            label: body.label.as_deref().map(shortened),
        }))
    }

    pub(super) fn cohort_advert(
        &self,
        from: &PeerId,
        body: CohortAdvert,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let relationship = self.state.coordinators.get(from);
        let Some(relationship) = relationship.filter(|known| known.subscribed) else {
            return Err(not_subscribed("cohort_advert"));
        };
        let terms = AgreedTerms::parse(body.terms).map_err(|error| {
            Rejection::new(Code::Terms, error.to_string(), "terms of version 1")
        })?;
        if terms.hash() != body.terms_hash {
            let expected = terms.hash().to_string();
            return Err(Rejection::new(
                Code::TermsHash,
                body.terms_hash.to_string(),
                expected,
            ));
        }
        if terms.btc_network != body.btc_network
            || terms.min_members != body.cohort_size
            || terms.beacon_type != body.beacon_type
        {
            let expected = "btc_network, cohort_size and beacon_type as in the terms";
            return Err(Rejection::new(
                Code::Terms,
                "members that contradict the terms",
                expected,
            ));
        }
        if let Some(known) = self.state.cohort_of(from, body.cohort_id) {
            return if known.terms == terms {
                Ok(Step::nothing())
            } else {
                let expected = "the advert given before, or a fresh cohort id";
                Err(Rejection::new(
                    Code::Conflict,
                    "another advert of this cohort",
                    expected,
                ))
            };
        }
        if terms.advert_expires <= now {
            let expires = terms.advert_expires;
            return Err(Rejection::new(
                Code::AdvertClosed,
                format!("an advert that ended at {expires}"),
                format!("later than {now}"),
            ));
        }
        let max_cohorts = self.policy.max_cohorts;
        (relationship.adverts).has_room("one advert more", max_cohorts, now)?;
        let mut step = Step::nothing();
        let known = self.state.cohorts.values();
        let of_this_coordinator: Vec<_> = known.filter(|c| c.coordinator == *from).collect();
        if of_this_coordinator.len() >= max_cohorts {
            let over = of_this_coordinator.iter().filter(|c| c.is_forgettable(now));
            let Some(oldest) = over.min_by_key(|cohort| cohort.terms.advert_expires) else {
                return Err(Rejection::new(
                    Code::Limit,
                    "one cohort more",
                    format!("at most {max_cohorts}"),
                ));
            };
            step.events.push(Event::CohortForgotten {
                cohort: oldest.handle,
            });
        }
        // Ids are the coordinators' choice: one that takes another's id gets another name here, and blocks nothing.
        // Names that we make are of version 8: an id of that version could have been chosen to be one of them.
        let taken = self.state.cohorts.contains_key(&body.cohort_id)
            || body.cohort_id.0.get_version_num() == 8;
        let handle = if taken {
            derive::handle(from, body.cohort_id)
        } else {
            body.cohort_id
        };
        step.events.push(Event::CohortAdvertised {
            cohort: handle,
            id: taken.then_some(body.cohort_id),
            coordinator: from.clone(),
            terms,
            succeeds: body.succeeds,
            at: now,
        });
        Ok(step)
    }
}
