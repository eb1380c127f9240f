//! One session: review, nonces and partial signatures.

use std::borrow::Cow;

use beacon_signal::{Index, Proof, Root, transaction};

use super::endings::{MAX_SESSIONS, end};
use super::state::{Candidate, Membership, Progress, Session};
use super::{Event, Participant};
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::{
    AggregatedNonces, AuthorizationRequest, Decline, IndexProof, Kind, Message, NonceContribution,
    SignatureAuthorization, shortened,
};
use crate::review::{DeclineCode, Declined, ProposedSignal, Verdict};
use crate::signer::{SignerAnswer, SignerRequest};
use crate::values::{PartialSignature, PublicNonce, StatementSignature};

/// Transactions of one cohort that were signed and may still be mined. Each keeps its proofs for ever, so a coordinator
/// that has one after the other signed and none mined would fill our disk.
const MAX_LIVE: usize = 64;

impl Participant {
    pub(super) fn authorization_request(
        &self,
        from: &PeerId,
        body: AuthorizationRequest,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        // What a cohort that is over holds may still be spent as its terms say.
        let cohort = match body.kind {
            Kind::Close => self.agreed_once(body.cohort_id, from)?,
            _ => self.membership(body.cohort_id, from)?,
        };
        if let Some(session) = cohort
            .session
            .as_ref()
            .filter(|open| open.id == body.session_id)
        {
            return Ok(if session.proposal.0 == body {
                Self::repeat_nonces(cohort, session)
            } else {
                // Two requests with one id, each sealed by the same coordinator: there is no honest reason for it.
                let [one, other] =
                    [&session.proposal.0, &body].map(|request| request.pending_tx.compute_txid());
                let comment = if one == other {
                    "the coordinator made two different requests under one session id".to_owned()
                } else {
                    format!(
                        "the coordinator asked for two transactions under one session id: {one} and {other}"
                    )
                };
                Self::decline(cohort, session.id, DeclineCode::Conflict, &comment, now)
            });
        }
        if cohort.knows_session(body.session_id) {
            let got = format!("session {}", body.session_id);
            return Err(Rejection::new(
                Code::UnknownSession,
                got,
                "one that is not over",
            ));
        }
        let txid = body.pending_tx.compute_txid();
        if cohort.live().count() >= MAX_LIVE && cohort.live().all(|signed| signed.txid != txid) {
            let got = format!("one transaction more than {MAX_LIVE} that may still be mined");
            let expected = "one of them, until another is buried";
            return Err(Rejection::new(Code::Limit, got, expected));
        }
        cohort
            .sessions
            .has_room("one session more", MAX_SESSIONS, now)?;
        let session = body.session_id;
        let proposal = ProposedSignal(body);
        let forgotten = self.forgotten_leaves(cohort, &proposal.0);
        let mut known = Cow::Borrowed(cohort);
        if !forgotten.is_empty() {
            let leaves = forgotten.iter().map(|leaf| (leaf.index, leaf.clone()));
            known.to_mut().leaves.extend(leaves);
        }
        if let Err(Declined { code, comment }) = still_holds(&known, &proposal) {
            // The session under way, if any, goes on: nothing has replaced it.
            return Ok(Self::decline_offer(cohort, &proposal, code, &comment, now));
        }
        let mut step = Step::nothing();
        if !forgotten.is_empty() {
            step.events.push(Event::LeavesChosen {
                cohort: cohort.handle,
                round: cohort.round,
                leaves: forgotten,
            });
        }
        if let Some(open) = &cohort.session {
            // One live session per cohort: its unused nonces go with it. The coordinator is told, for requests may overtake
            // each other: it would wait for a session that is over here.
            let comment = "the coordinator opened another session";
            step = end(step, cohort, open.id, "superseded", comment);
            if !matches!(open.progress, Progress::PartialReleased { .. }) {
                let message = Decline {
                    session_id: open.id,
                    cohort_id: cohort.id,
                    code: DeclineCode::NonceLost.as_str().to_owned(),
                    comment: comment.to_owned(),
                };
                let expires = now.after(cohort.phase_deadline_s());
                step = step.send(&cohort.coordinator, message, expires);
            }
        }
        step.events.push(Event::SignalProposed {
            cohort: cohort.handle,
            session,
            proposal: Box::new(proposal),
            approved: self.policy.auto_sign,
            deadline: now.after(cohort.phase_deadline_s()),
            at: now,
        });
        Ok(step)
    }

    fn repeat_nonces(cohort: &Membership, session: &Session) -> Step<Event> {
        match &session.progress {
            Progress::NonceCommitted { nonces, signature } => send_nonces(
                Step::nothing(),
                cohort,
                session.id,
                nonces,
                *signature,
                session.deadline,
            ),
            // Being checked, or past the point where nonces matter.
            _ => Step::nothing(),
        }
    }

    pub(super) fn approve(&self, session: SessionId) -> Result<Step<Event>, Rejection> {
        let (cohort, open) = self.named_session(session)?;
        Ok(if open.approved {
            Step::nothing()
        } else {
            Step::event(Event::SignalApproved {
                cohort: cohort.handle,
                session,
            })
        })
    }

    pub(super) fn decline_by_user(
        &self,
        session: SessionId,
        comment: &str,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, open) = self.named_session(session)?;
        if matches!(
            open.progress,
            Progress::PartialAuthorized { .. } | Progress::PartialReleased { .. }
        ) {
            let expected = "one in which our partial signatures have not been made";
            return Err(Rejection::new(
                Code::Phase,
                format!("session {session}"),
                expected,
            ));
        }
        let comment = shortened(comment);
        Ok(Self::decline(
            cohort,
            session,
            DeclineCode::User,
            &comment,
            now,
        ))
    }

    /// A session that the user names. Coordinators choose the ids, so two of them could be the same.
    pub(super) fn named_session(
        &self,
        id: SessionId,
    ) -> Result<(&Membership, &Session), Rejection> {
        let cohorts = self.state.cohorts.values();
        let mut named = cohorts.filter_map(|cohort| self.open_session(cohort.handle, id));
        match (named.next(), named.next()) {
            (Some(session), None) => Ok(session),
            (Some(_), Some(_)) => {
                let got = format!("session {id}, which two coordinators use");
                Err(Rejection::new(
                    Code::Invalid,
                    got,
                    "a session of one cohort",
                ))
            }
            (None, _) => {
                let got = format!("session {id}");
                Err(Rejection::new(
                    Code::UnknownSession,
                    got,
                    "one that is under way",
                ))
            }
        }
    }

    fn open_session(&self, cohort: CohortId, id: SessionId) -> Option<(&Membership, &Session)> {
        let cohort = self.state.cohorts.get(&cohort)?;
        let session = cohort.session.as_ref().filter(|session| session.id == id)?;
        Some((cohort, session))
    }

    pub(super) fn signer(&self, answer: SignerAnswer, now: Timestamp) -> Step<Event> {
        match answer {
            SignerAnswer::Possession { cohort, key, proof } => {
                self.possession(cohort, key, proof, now)
            }
            SignerAnswer::Nonces {
                cohort,
                session,
                nonces,
                signature,
            } => {
                let forget = SignerRequest::Forget { cohort, session };
                let Some((cohort, open)) = self.open_session(cohort, session) else {
                    return Step::nothing().with(Effect::Sign(forget));
                };
                match open.progress {
                    Progress::Requested => {}
                    // The chain spoke twice while they were made: these are the same.
                    Progress::NonceCommitted { .. } => return Step::nothing(),
                    Progress::PartialAuthorized { .. } | Progress::PartialReleased { .. } => {
                        return Step::nothing().with(Effect::Sign(forget));
                    }
                }
                // Time for the others' nonces, and for the coordinator to answer.
                let deadline = now.after(cohort.phase_deadline_s().saturating_mul(2));
                let step = Step::event(Event::NonceCommitted {
                    cohort: cohort.handle,
                    session,
                    nonces: nonces.clone(),
                    signature,
                    deadline,
                });
                send_nonces(step, cohort, session, &nonces, signature, deadline)
            }
            SignerAnswer::Partials {
                cohort,
                session,
                partials,
                signature,
            } => match self.open_session(cohort, session) {
                Some((cohort, open))
                    if matches!(open.progress, Progress::PartialAuthorized { .. }) =>
                {
                    let step = Step::event(Event::PartialReleased {
                        cohort: cohort.handle,
                        session,
                        partials: partials.clone(),
                        signature,
                    });
                    send_partials(step, cohort, session, &partials, signature, open.deadline)
                }
                _ => Step::nothing(),
            },
            SignerAnswer::Refused {
                cohort,
                session,
                reason,
            } => match self.open_session(cohort, session) {
                Some((cohort, open)) => {
                    // Asked for partial signatures, it used up or never had the nonces: a new session can be signed.
                    let lost = matches!(open.progress, Progress::PartialAuthorized { .. });
                    let code = if lost {
                        DeclineCode::NonceLost
                    } else {
                        DeclineCode::Signer
                    };
                    Self::decline(cohort, session, code, &reason, now)
                }
                None => Step::nothing(),
            },
        }
    }

    pub(super) fn aggregated_nonces(
        &self,
        from: &PeerId,
        body: AggregatedNonces,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.agreed_once(body.cohort_id, from)?;
        let Some(session) = cohort
            .session
            .as_ref()
            .filter(|open| open.id == body.session_id)
        else {
            let got = format!("session {}", body.session_id);
            return Err(Rejection::new(
                Code::UnknownSession,
                got,
                "the session under way",
            ));
        };
        match &session.progress {
            Progress::Requested => Err(Rejection::new(
                Code::Phase,
                "aggregated nonces",
                "our own nonces first",
            )),
            Progress::PartialReleased {
                aggregated,
                partials,
                signature,
            } if *aggregated == body.aggregated_nonces => {
                // Stored, never computed again.
                let (nothing, deadline) = (Step::nothing(), session.deadline);
                Ok(send_partials(
                    nothing, cohort, session.id, partials, *signature, deadline,
                ))
            }
            Progress::PartialAuthorized { aggregated } if *aggregated == body.aggregated_nonces => {
                Ok(Step::nothing())
            }
            Progress::PartialAuthorized { .. } | Progress::PartialReleased { .. } => {
                let comment = "different aggregated nonces for one session";
                Ok(end(
                    Step::nothing(),
                    cohort,
                    session.id,
                    "nonce-conflict",
                    comment,
                )
                .with(Effect::Report {
                    to: from.clone(),
                    cohort: cohort.id,
                    rejection: Rejection::new(
                        Code::NonceConflict,
                        "other aggregated nonces",
                        "those given before",
                    ),
                }))
            }
            Progress::NonceCommitted { nonces, .. } => {
                let inputs = nonces.len();
                if body.aggregated_nonces.len() != inputs
                    || body.aggregated_nonces.first() != Some(&body.aggregated_nonce)
                {
                    let got = format!("{} aggregated nonces", body.aggregated_nonces.len());
                    let expected =
                        format!("{inputs}, the first of them repeated as aggregated_nonce");
                    return Err(Rejection::new(Code::ContributionCount, got, expected));
                }
                Ok(Self::authorize(cohort, session, body, now))
            }
        }
    }

    /// Makes durable what proves this signal, and then asks for the partial signatures.
    fn authorize(
        cohort: &Membership,
        session: &Session,
        body: AggregatedNonces,
        now: Timestamp,
    ) -> Step<Event> {
        // Leaves, indexes or live transactions may be others than when the nonces were made. What is stored now must
        // prove what is signed now.
        if let Err(Declined { code, comment }) = still_holds(cohort, &session.proposal) {
            return Self::decline(cohort, session.id, code, &comment, now);
        }
        let request = &session.proposal.0;
        let root = transaction::signal_bytes(&request.pending_tx).map(Root);
        let replaced = cohort.replaced(request);
        let complete = request
            .proofs
            .iter()
            .filter_map(|sent| complete(cohort, replaced, sent));
        let event = Event::PartialAuthorized {
            cohort: cohort.handle,
            session: session.id,
            nonces: body.aggregated_nonces.clone(),
            txid: request.pending_tx.compute_txid(),
            root,
            proofs: complete.collect(),
        };
        let step = Step::event(event);
        if cohort.outside_signer {
            return step; // Its partial signatures are imported.
        }
        step.with(Effect::Sign(SignerRequest::SignPartials {
            cohort: cohort.handle,
            session: session.id,
            nonces: body.aggregated_nonces,
        }))
    }
}

/// A proof with the leaf that it was checked for. Of a replacement it is what is known of the replaced signal, whose root
/// is the same; what is not known of that is not known of this.
fn complete(
    cohort: &Membership,
    replaced: Option<&Candidate>,
    sent: &IndexProof,
) -> Option<(Index, Proof)> {
    let index = sent.index;
    let mut proof = sent.proof.clone();
    let leaf = match replaced {
        Some(replaced) if replaced.unproven.contains_key(&index) => return None,
        Some(replaced) => {
            if let Some(known) = replaced.proofs.get(&index) {
                return Some((index, known.clone()));
            }
            None
        }
        None => cohort.leaves.get(&index),
    };
    let leaf = leaf.filter(|_| cohort.dids.contains_key(&index));
    proof.nonce = leaf.and_then(|leaf| leaf.nonce.clone());
    proof.update_id = leaf.and_then(|leaf| leaf.update);
    Some((index, proof))
}

/// Whether everything holds that does not depend on what the chain says at this moment.
fn still_holds(cohort: &Membership, proposal: &ProposedSignal) -> Result<(), Declined> {
    let Some(context) = cohort.context(proposal, &[]) else {
        return Err(Declined {
            code: DeclineCode::Signer,
            comment: "the cohort has no address".to_owned(),
        });
    };
    match proposal.review(&context) {
        Verdict::Decline(declined) => Err(declined),
        Verdict::Reviewed(_) | Verdict::Wait(_) => Ok(()),
    }
}

fn send_nonces(
    step: Step<Event>,
    cohort: &Membership,
    session: SessionId,
    nonces: &[PublicNonce],
    signature: StatementSignature,
    expires: Timestamp,
) -> Step<Event> {
    let Some(first) = nonces.first() else {
        return step;
    };
    let message = Message::NonceContribution(NonceContribution {
        session_id: session,
        cohort_id: cohort.id,
        nonce_contribution: (*first).into(),
        nonce_contributions: nonces.iter().map(|nonce| (*nonce).into()).collect(),
        signature,
    });
    step.send(&cohort.coordinator, message, expires)
}

fn send_partials(
    step: Step<Event>,
    cohort: &Membership,
    session: SessionId,
    partials: &[PartialSignature],
    signature: StatementSignature,
    expires: Timestamp,
) -> Step<Event> {
    let Some(first) = partials.first() else {
        return step;
    };
    let message = Message::SignatureAuthorization(SignatureAuthorization {
        session_id: session,
        cohort_id: cohort.id,
        partial_signature: (*first).into(),
        partial_signatures: partials.iter().map(|partial| (*partial).into()).collect(),
        signature,
    });
    step.send(&cohort.coordinator, message, expires)
}
