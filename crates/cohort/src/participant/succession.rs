//! Cohorts that are dissolved, and those that take their places.

use std::collections::BTreeMap;

use super::state::{Membership, Stage};
use super::{Event, Participant};
use crate::ids::Timestamp;
use crate::machine::{Code, Step};
use crate::message::shortened;

impl Participant {
    /// The cohort whose place this one takes, if we were in it.
    pub(super) fn predecessor(&self, cohort: &Membership) -> Option<&Membership> {
        let before = self
            .state
            .cohort_of(&cohort.coordinator, cohort.succeeds?)?;
        let over = match &before.stage {
            Stage::Agreed | Stage::Dissolved(_) => true,
            Stage::Out(code, _) => *code == Code::CohortFailed.as_str(),
            Stage::Advertised | Stage::Joining | Stage::OptedIn => false,
        };
        over.then_some(before)
    }

    /// Updates that a dissolved cohort did not announce wait in the one that took its place.
    pub(super) fn move_updates(&self, cohort: &Membership) -> Step<Event> {
        let takes_its_place = |other: &&Membership| {
            other.stage == Stage::Agreed
                && other
                    .succeeds
                    .and_then(|id| self.state.cohort_of(&other.coordinator, id))
                    .is_some_and(|before| before.handle == cohort.handle)
        };
        let Some(successor) = self.state.cohorts.values().find(takes_its_place) else {
            return Step::nothing();
        };
        let mut updates: BTreeMap<_, _> = cohort.unannounced();
        updates.retain(|index, update| {
            successor.dids.contains_key(index)
                && (self.state)
                    .rival(Some(successor), *index, *update, None)
                    .is_none()
        });
        if updates.is_empty() {
            return Step::nothing();
        }
        Step::event(Event::UpdatesMoved {
            cohort: cohort.handle,
            to: successor.handle,
            updates,
        })
    }

    /// The coordinator says that a cohort is over that was agreed on.
    pub(super) fn dissolved(
        cohort: &Membership,
        code: &str,
        comment: &str,
        at: Timestamp,
    ) -> Event {
        Event::CohortDissolved {
            cohort: cohort.handle,
            code: shortened(code),
            comment: shortened(comment),
            at,
        }
    }
}
