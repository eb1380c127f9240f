//! The ways in which a session ends for us without a signature.

use beacon_signal::{LeafValue, Root, Strictness, transaction};

use super::state::{Membership, Offered, Progress, Session, Stage};
use super::{Event, Participant};
use crate::announcement::Announcement;
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::{Effect, Rejection, Step};
use crate::message::{Decline, IndexProof, NextStep, SessionAborted, shortened};
use crate::review::{DeclineCode, ProposedSignal};
use crate::signer::SignerRequest;

/// Sessions of one cohort that are heard of within an hour, unless a signal is mined: more than an honest coordinator tries
/// with the shortest deadlines.
pub(super) const MAX_SESSIONS: usize = 100;

impl Participant {
    pub(super) fn session_aborted(
        &self,
        from: &PeerId,
        body: &SessionAborted,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.agreed_once(body.cohort_id, from)?;
        let open = cohort
            .session
            .as_ref()
            .is_some_and(|open| open.id == body.session_id);
        let code = shortened(&body.code);
        let mut step = Step::nothing();
        let unheard = !open && !cohort.knows_session(body.session_id);
        if open || unheard && !cohort.sessions.is_full(MAX_SESSIONS, now) {
            // One that we have not heard of is remembered as well: its request may still come, overtaken by this.
            let comment = "the coordinator aborted the session";
            step = end(step, cohort, body.session_id, &code, comment);
            note(&mut step, None, unheard.then_some(now));
        }
        if body.next == NextStep::CohortDissolved && cohort.stage == Stage::Agreed {
            let comment = "the coordinator dissolved the cohort";
            step.events
                .push(Self::dissolved(cohort, &code, comment, now));
        }
        Ok(step)
    }

    /// The process has started. Secret nonces lived in memory: sessions that had any are over. So are those that had none yet:
    /// if this state is an old one, nonces of its newer self were given for them, and other ones would be a second
    /// contribution, which convicts us.
    pub(super) fn restarted(&self, now: Timestamp) -> Step<Event> {
        let mut step = Step::nothing();
        for cohort in self.state.cohorts.values() {
            step = self.restart_join(cohort, step, now);
            if cohort.is_watched() {
                // If this state is an old one, the coordinator may know more than we do.
                let first = cohort.first_unproven().unwrap_or(cohort.round);
                step = step.and(Self::inquire(cohort, first.min(cohort.round), now));
            }
            let Some(session) = &cohort.session else {
                continue;
            };
            // What a signer outside keeps is not lost, and it gives the same again.
            let kept = cohort.outside_signer;
            if !kept && !matches!(session.progress, Progress::PartialReleased { .. }) {
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
                let (code, comment) = if cohort.outside_signer && session.imported.is_none() {
                    (
                        DeclineCode::NotApproved,
                        "no public nonces of the outside signer were imported in time",
                    )
                } else if session.approved {
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
            now.after(cohort.phase_deadline_s()),
        )
    }

    /// Declines what was never taken up; the user can see what it was.
    pub(super) fn decline_offer(
        cohort: &Membership,
        offer: &ProposedSignal,
        code: DeclineCode,
        comment: &str,
        now: Timestamp,
    ) -> Step<Event> {
        let mut step = Step::nothing();
        let of_this_round = offer.0.kind.is_signal();
        if of_this_round
            && DeclineCode::lacks_a_leaf(code.as_str())
            && lacks_our_leaf(cohort, offer)
        {
            // It may still be on its way, sent again ever less often: each further try would fail for want of it.
            step = Self::leaves_again(step, cohort, now);
        }
        step = step.and(Self::decline(
            cohort,
            offer.0.session_id,
            code,
            comment,
            now,
        ));
        note(&mut step, Some(Offered::of(offer)), Some(now));
        step
    }
}

/// Whether a tree was built, or a map made, without a leaf that we chose for this round.
fn lacks_our_leaf(cohort: &Membership, offer: &ProposedSignal) -> bool {
    let Some(root) = transaction::signal_bytes(&offer.0.pending_tx).map(Root) else {
        return false;
    };
    let empty = |IndexProof { index, proof }: &IndexProof| {
        let shown = proof.verify(index, &LeafValue::EMPTY, &root, Strictness::Member);
        cohort.leaves.contains_key(index) && shown.is_ok()
    };
    let announced = offer.0.map.as_ref().map(Announcement::by_index);
    let mut own = cohort.leaves.values().filter(|leaf| leaf.update.is_some());
    let unannounced = announced.is_some_and(|map| own.any(|leaf| !map.contains_key(&leaf.index)));
    unannounced || offer.0.proofs.iter().any(empty)
}

/// What the end says of a session that was not taken up.
fn note(step: &mut Step<Event>, what: Option<Offered>, first: Option<Timestamp>) {
    for event in &mut step.events {
        if let Event::SessionEnded { offered, heard, .. } = event {
            (*offered, *heard) = (what, first);
        }
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
        offered: None,
        heard: None,
    });
    step.with(Effect::Sign(SignerRequest::Forget {
        cohort: cohort.handle,
        session,
    }))
}
