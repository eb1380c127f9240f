//! The ways in which a session ends for us without a signature.

use super::state::{Membership, Progress, Session};
use super::{Event, Participant};
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::{Effect, Rejection, Step};
use crate::message::{Decline, SessionAborted, shortened};
use crate::review::DeclineCode;
use crate::signer::SignerRequest;

impl Participant {
    pub(super) fn session_aborted(
        &self,
        from: &PeerId,
        body: &SessionAborted,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.membership(body.cohort_id, from)?;
        let open = cohort
            .session
            .as_ref()
            .is_some_and(|open| open.id == body.session_id);
        if !open && cohort.knows_session(body.session_id) {
            return Ok(Step::nothing()); // Over for us before.
        }
        // One that we have not heard of is remembered as well: its request may still come, overtaken by this.
        let comment = "the coordinator aborted the session";
        let code = shortened(&body.code);
        Ok(end(
            Step::nothing(),
            cohort,
            body.session_id,
            &code,
            comment,
        ))
    }

    /// The process has started. Secret nonces lived in memory: sessions that had any are over.
    pub(super) fn restarted(&self, now: Timestamp) -> Step<Event> {
        let mut step = Step::nothing();
        for cohort in self.state.cohorts.values() {
            step = self.restart_join(cohort, step);
            let Some(session) = &cohort.session else {
                continue;
            };
            if matches!(
                session.progress,
                Progress::NonceCommitted { .. } | Progress::PartialAuthorized { .. }
            ) {
                let comment = "restarted; secret nonces are never stored";
                let declined =
                    Self::decline(cohort, session.id, DeclineCode::NonceLost, comment, now);
                step.events.extend(declined.events);
                step.effects.extend(declined.effects);
            }
        }
        step
    }

    pub(super) fn late(cohort: &Membership, session: &Session, now: Timestamp) -> Step<Event> {
        match &session.progress {
            Progress::Requested => {
                let (code, comment) = if session.approved {
                    (
                        DeclineCode::ChainUnseen,
                        "the spent output was not seen with a confirmation in time",
                    )
                } else {
                    (DeclineCode::NotApproved, "the user did not answer in time")
                };
                Self::decline(cohort, session.id, code, comment, now)
            }
            _ => end(
                Step::nothing(),
                cohort,
                session.id,
                "timeout",
                "nothing more was heard of it in time",
            ),
        }
    }

    /// Ends the session and tells the coordinator.
    pub(super) fn decline(
        cohort: &Membership,
        session: SessionId,
        code: DeclineCode,
        comment: &str,
        now: Timestamp,
    ) -> Step<Event> {
        let message = Decline {
            session_id: session,
            cohort_id: cohort.id,
            code: code.as_str().to_owned(),
            comment: comment.to_owned(),
        };
        end(Step::nothing(), cohort, session, code.as_str(), comment).send(
            &cohort.coordinator,
            message,
            now.after(cohort.terms.response_deadline_s),
        )
    }
}

/// Ends a session for us and destroys its unused nonces.
pub(super) fn end(
    mut step: Step<Event>,
    cohort: &Membership,
    session: SessionId,
    code: &str,
    comment: &str,
) -> Step<Event> {
    step.events.push(Event::SessionEnded {
        cohort: cohort.handle,
        session,
        code: code.to_owned(),
        comment: comment.to_owned(),
    });
    step.with(Effect::Sign(SignerRequest::Forget {
        cohort: cohort.handle,
        session,
    }))
}
