//! Contests: our claim to an index that another member answers for. The user decides on it, since it tells the coordinator
//! the DID.

use beacon_signal::Index;

use super::state::{Membership, Stage};
use super::{Event, Participant};
use crate::coordinator::FORMATION_EXPIRY_S;
use crate::ids::Timestamp;
use crate::machine::{Code, Rejection, Step};
use crate::message::{DidContest, RegistrationResult, shortened};

/// Contests of one cohort that are remembered.
const MAX_CONTESTS: usize = 16;

impl Participant {
    pub(super) fn contest(
        cohort: &Membership,
        mut body: DidContest,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        if matches!(cohort.stage, Stage::Dissolved(_)) {
            let expected = "one that is not over";
            return Err(Rejection::new(
                Code::Phase,
                "a cohort that is over",
                expected,
            ));
        }
        body.check_length(Code::Invalid)?;
        let index = Index::of_did(&body.did);
        if !cohort.contests.contains_key(&index) && cohort.contests.len() >= MAX_CONTESTS {
            let expected = format!("at most {MAX_CONTESTS} in a cohort");
            return Err(Rejection::new(Code::Limit, "one contest more", expected));
        }
        body.cohort_id = cohort.id;
        Ok(Step::event(Event::ContestSent {
            cohort: cohort.handle,
            index,
            did: body.did.clone(),
        })
        .send(&cohort.coordinator, body, now.after(FORMATION_EXPIRY_S)))
    }

    /// How contests of ours ended.
    pub(super) fn contests_settled(cohort: &Membership, body: &RegistrationResult) -> Step<Event> {
        let mut step = Step::nothing();
        for result in &body.results {
            let open = cohort.contests.get(&result.index);
            if open.is_some_and(|contest| contest.result.is_none()) {
                let code = result.code.as_deref().unwrap_or_default();
                step.events.push(Event::ContestAnswered {
                    cohort: cohort.handle,
                    index: result.index,
                    accepted: result.accepted,
                    code: shortened(code),
                });
            }
        }
        step
    }
}
