//! From an update to a signature: leaves, review, nonces, partial signatures, and what the chain says of it.

use std::collections::BTreeMap;

use beacon_signal::{LeafNonce, Root, UpdateId, transaction};
use rand_core::CryptoRng;

use super::state::{Membership, Progress, Session, Stage, Standing};
use super::{Event, Participant};
use crate::coordinator::FORMATION_EXPIRY_S;
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::{ChainFact, Code, Effect, OutputView, Rejection, Step, TransactionView};
use crate::message::{
    AggregatedNonces, AuthorizationRequest, Decline, Leaf, MAX_TEXT, Message, NoUpdate,
    NonceContribution, RequestSignature, SessionAborted, SignalPublished, SignatureAuthorization,
    UpdateOpportunity,
};
use crate::review::{DeclineCode, Declined, OwnLeaf, ProposedSignal, Verdict};
use crate::signer::{SignerAnswer, SignerRequest};
use crate::terms::Flow;
use crate::values::{PartialSignature, PublicNonce, StatementSignature};

impl Participant {
    pub(super) fn request_update(
        &self,
        cohort: &Membership,
        did: &str,
        update: UpdateId,
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
        Ok(Step::event(Event::UpdateQueued {
            cohort: cohort.id,
            index: *index,
            update,
        }))
    }

    /// In the push flow, updates that wait get their leaves and are sent; and sessions end at their deadlines.
    pub(super) fn progress_signing(
        &self,
        cohort: &Membership,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        if let Some(session) = cohort
            .session
            .as_ref()
            .filter(|session| session.deadline <= now)
        {
            return Self::late(cohort, session, now);
        }
        if cohort.terms.flow != Flow::Push {
            return Step::nothing();
        }
        let fresh = |index: &_| !cohort.leaves.contains_key(index);
        let leaves: Vec<_> = cohort
            .queued
            .iter()
            .filter(|(index, _)| fresh(*index))
            .map(|(index, update)| OwnLeaf {
                index: *index,
                update: Some(*update),
                nonce: leaf_nonce(rng),
            })
            .collect();
        if leaves.is_empty() {
            return Step::nothing();
        }
        let step = Step::event(Event::LeavesChosen {
            cohort: cohort.id,
            round: cohort.round,
            leaves: leaves.clone(),
        });
        send_leaves(
            step,
            cohort,
            cohort.round,
            &leaves,
            now.after(FORMATION_EXPIRY_S),
        )
    }

    pub(super) fn update_opportunity(
        &self,
        from: &PeerId,
        body: &UpdateOpportunity,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.membership(body.cohort_id, from)?;
        if body.round < cohort.round {
            let expected = format!("round {} or later", cohort.round);
            return Err(Rejection::new(
                Code::Round,
                format!("round {}", body.round),
                expected,
            ));
        }
        let waiting = cohort.waiting_updates(body.round);
        let (mut leaves, mut chosen) = (Vec::new(), Vec::new());
        for index in cohort.dids.keys() {
            match cohort
                .leaves
                .get(index)
                .filter(|_| body.round == cohort.round)
            {
                // Within a round a leaf never changes.
                Some(leaf) => leaves.push(leaf.clone()),
                None => {
                    let leaf = OwnLeaf {
                        index: *index,
                        update: waiting.get(index).copied(),
                        nonce: leaf_nonce(rng),
                    };
                    chosen.push(leaf.clone());
                    leaves.push(leaf);
                }
            }
        }
        let mut step = Step::nothing();
        if !chosen.is_empty() {
            step.events.push(Event::LeavesChosen {
                cohort: cohort.id,
                round: body.round,
                leaves: chosen,
            });
        }
        Ok(send_leaves(
            step,
            cohort,
            body.round,
            &leaves,
            body.deadline,
        ))
    }

    pub(super) fn authorization_request(
        &self,
        from: &PeerId,
        body: AuthorizationRequest,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.membership(body.cohort_id, from)?;
        if let Some(session) = cohort
            .session
            .as_ref()
            .filter(|open| open.id == body.session_id)
        {
            return Ok(if session.proposal.0 == body {
                Self::repeat_nonces(cohort, session)
            } else {
                let comment = "a different request under the same session id".to_owned();
                Self::decline(cohort, session.id, DeclineCode::Conflict, comment, now)
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
        let mut step = Step::nothing();
        if let Some(open) = &cohort.session {
            // One live session per cohort: its unused nonces go with it.
            step = end(
                step,
                cohort,
                open.id,
                "superseded",
                "the coordinator opened another session",
            );
        }
        let session = body.session_id;
        let proposal = ProposedSignal(body);
        let Some(context) = cohort.context(&OutputView::Unseen) else {
            return Err(Rejection::new(
                Code::Phase,
                "a signal",
                "none: the cohort is not agreed to",
            ));
        };
        if let Verdict::Decline(Declined { code, comment }) = proposal.review(&context) {
            let declined = Self::decline(cohort, session, code, comment, now);
            step.events.extend(declined.events);
            step.effects.extend(declined.effects);
            return Ok(step);
        }
        step.events.push(Event::SignalProposed {
            cohort: cohort.id,
            session,
            proposal: Box::new(proposal),
            approved: self.policy.auto_sign,
            deadline: now.after(cohort.terms.response_deadline_s),
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
        let (cohort, open) = self.open_session(session)?;
        Ok(if open.approved {
            Step::nothing()
        } else {
            Step::event(Event::SignalApproved {
                cohort: cohort.id,
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
        let (cohort, open) = self.open_session(session)?;
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
        let comment = comment.chars().take(MAX_TEXT).collect();
        Ok(Self::decline(
            cohort,
            session,
            DeclineCode::User,
            comment,
            now,
        ))
    }

    fn open_session(&self, id: SessionId) -> Result<(&Membership, &Session), Rejection> {
        let mut sessions = self
            .state
            .cohorts
            .values()
            .filter_map(|cohort| cohort.session.as_ref().map(|session| (cohort, session)));
        sessions
            .find(|(_, session)| session.id == id)
            .ok_or_else(|| {
                Rejection::new(
                    Code::UnknownSession,
                    format!("session {id}"),
                    "one that is under way",
                )
            })
    }

    /// What our own chain source says. The review is made here, against what it says now.
    pub(super) fn chain(&self, fact: ChainFact, now: Timestamp) -> Step<Event> {
        match fact {
            ChainFact::Output { outpoint, view } => {
                let concerned = self
                    .state
                    .cohorts
                    .values()
                    .filter(|cohort| cohort.checked_output() == Some(outpoint));
                concerned
                    .map(|cohort| Self::review(cohort, &view, now))
                    .find(|step| !step.is_empty())
                    .unwrap_or_default()
            }
            ChainFact::Transaction { txid, view, tip } => self.transaction_seen(txid, view, tip),
            ChainFact::Funds { .. } | ChainFact::Broadcast { .. } => Step::nothing(),
        }
    }

    fn review(cohort: &Membership, view: &OutputView, now: Timestamp) -> Step<Event> {
        let (Some(session), Some(context)) = (&cohort.session, cohort.context(view)) else {
            return Step::nothing();
        };
        match session.proposal.review(&context) {
            Verdict::Decline(Declined { code, comment }) => {
                Self::decline(cohort, session.id, code, comment, now)
            }
            // The commit that allows nonces is the approval's; the review is made anew each time.
            Verdict::Reviewed(signal) if session.approved => {
                Step::nothing().with(Effect::Sign(SignerRequest::MakeNonces(signal)))
            }
            Verdict::Reviewed(_) | Verdict::Wait(_) => Step::nothing(),
        }
    }

    pub(super) fn signer(&self, answer: SignerAnswer, now: Timestamp) -> Step<Event> {
        match answer {
            SignerAnswer::Possession { cohort, key, proof } => {
                self.possession(cohort, key, proof, now)
            }
            SignerAnswer::Nonces {
                session,
                nonces,
                signature,
            } => {
                let Ok((cohort, open)) = self.open_session(session) else {
                    return Step::nothing().with(Effect::Sign(SignerRequest::Forget { session }));
                };
                if open.progress != Progress::Requested {
                    return Step::nothing();
                }
                // Time for the others' nonces, and for the coordinator to answer.
                let deadline = now.after(cohort.terms.response_deadline_s.saturating_mul(2));
                let step = Step::event(Event::NonceCommitted {
                    cohort: cohort.id,
                    session,
                    nonces: nonces.clone(),
                    signature,
                    deadline,
                });
                send_nonces(step, cohort, session, &nonces, signature, deadline)
            }
            SignerAnswer::Partials {
                session,
                partials,
                signature,
            } => {
                let Ok((cohort, open)) = self.open_session(session) else {
                    return Step::nothing();
                };
                let step = Step::event(Event::PartialReleased {
                    cohort: cohort.id,
                    session,
                    partials: partials.clone(),
                    signature,
                });
                send_partials(step, cohort, session, &partials, signature, open.deadline)
            }
            SignerAnswer::Refused { session, reason } => match self.open_session(session) {
                Ok((cohort, _)) => Self::decline(cohort, session, DeclineCode::Signer, reason, now),
                Err(_) => Step::nothing(),
            },
        }
    }

    pub(super) fn aggregated_nonces(
        &self,
        from: &PeerId,
        body: AggregatedNonces,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.membership(body.cohort_id, from)?;
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
                Ok(Self::authorize(cohort, session, body))
            }
        }
    }

    /// Makes durable what proves this signal, and then asks for the partial signatures.
    fn authorize(cohort: &Membership, session: &Session, body: AggregatedNonces) -> Step<Event> {
        let request = &session.proposal.0;
        let Some(root) = transaction::signal_bytes(&request.pending_tx) else {
            return Step::nothing(); // Reviewed, so there is one.
        };
        let mut proofs = BTreeMap::new();
        for index in cohort.dids.keys() {
            let given = request.proofs.iter().find(|proof| proof.index == *index);
            if let Some(given) = given {
                let mut proof = given.proof.clone();
                if let Some(leaf) = cohort.leaves.get(index) {
                    proof.nonce = Some(leaf.nonce.clone());
                    proof.update_id = leaf.update;
                }
                proofs.insert(*index, proof);
            }
        }
        let event = Event::PartialAuthorized {
            cohort: cohort.id,
            session: session.id,
            nonces: body.aggregated_nonces.clone(),
            txid: request.pending_tx.compute_txid(),
            root: Root(root),
            proofs,
        };
        Step::event(event).with(Effect::Sign(SignerRequest::SignPartials {
            session: session.id,
            nonces: body.aggregated_nonces,
        }))
    }

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
        if !open {
            return Ok(Step::nothing()); // Over for us before.
        }
        let code: String = body.code.chars().take(MAX_TEXT).collect();
        Ok(end(
            Step::nothing(),
            cohort,
            body.session_id,
            &code,
            "the coordinator aborted the session",
        ))
    }

    pub(super) fn signal_published(
        &self,
        from: &PeerId,
        body: &SignalPublished,
    ) -> Result<Step<Event>, Rejection> {
        let Some(cohort) = self.state.cohorts.get(&body.cohort_id) else {
            return Ok(Step::nothing()); // News for subscribers.
        };
        if cohort.coordinator != *from || cohort.stage != Stage::Agreed {
            return Ok(Step::nothing());
        }
        if body.transaction.compute_txid() != body.txid {
            let expected = body.transaction.compute_txid().to_string();
            return Err(Rejection::new(
                Code::ForeignTransaction,
                body.txid.to_string(),
                expected,
            ));
        }
        match cohort
            .candidates
            .iter()
            .find(|candidate| candidate.txid == body.txid)
        {
            None => {
                let expected = "a transaction that we signed";
                Err(Rejection::new(
                    Code::ForeignTransaction,
                    body.txid.to_string(),
                    expected,
                ))
            }
            Some(candidate) if candidate.standing == Standing::Live => {
                Ok(Step::event(Event::SignalPublished {
                    cohort: cohort.id,
                    txid: body.txid,
                }))
            }
            Some(_) => Ok(Step::nothing()), // Our own chain source knows better.
        }
    }

    fn transaction_seen(
        &self,
        txid: bitcoin::Txid,
        view: TransactionView,
        tip: u32,
    ) -> Step<Event> {
        let mut found = self.state.cohorts.values().filter_map(|cohort| {
            let candidate = cohort
                .candidates
                .iter()
                .find(|candidate| candidate.txid == txid)?;
            Some((cohort, candidate.standing))
        });
        let Some((cohort, standing)) = found.next() else {
            return Step::nothing();
        };
        let id = cohort.id;
        match (standing, view) {
            (Standing::Buried { .. } | Standing::Superseded, _) => Step::nothing(),
            (
                Standing::Confirmed { height, block_hash },
                TransactionView::Confirmed {
                    height: at,
                    block_hash: in_block,
                },
            ) if (height, block_hash) == (at, in_block) => {
                let confirmations = u64::from(tip.saturating_sub(height)) + 1;
                if confirmations < cohort.terms.confirmations {
                    return Step::nothing();
                }
                Step::event(Event::SignalBuried { cohort: id, txid })
            }
            (_, TransactionView::Confirmed { height, block_hash }) => {
                Step::event(Event::SignalConfirmed {
                    cohort: id,
                    txid,
                    height,
                    block_hash,
                })
            }
            (Standing::Confirmed { .. }, _) => Step::event(Event::SignalGone { cohort: id, txid }),
            (Standing::Live | Standing::Published, _) => Step::nothing(),
        }
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
                let comment = "restarted; secret nonces are never stored".to_owned();
                let declined =
                    Self::decline(cohort, session.id, DeclineCode::NonceLost, comment, now);
                step.events.extend(declined.events);
                step.effects.extend(declined.effects);
            }
        }
        step
    }

    fn late(cohort: &Membership, session: &Session, now: Timestamp) -> Step<Event> {
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
                Self::decline(cohort, session.id, code, comment.to_owned(), now)
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
    fn decline(
        cohort: &Membership,
        session: SessionId,
        code: DeclineCode,
        comment: String,
        now: Timestamp,
    ) -> Step<Event> {
        let message = Decline {
            session_id: session,
            cohort_id: cohort.id,
            code: code.as_str().to_owned(),
            comment: comment.clone(),
        };
        end(Step::nothing(), cohort, session, code.as_str(), &comment).send(
            &cohort.coordinator,
            message,
            now.after(cohort.terms.response_deadline_s),
        )
    }
}

/// Ends a session for us and destroys its unused nonces.
fn end(
    mut step: Step<Event>,
    cohort: &Membership,
    session: SessionId,
    code: &str,
    comment: &str,
) -> Step<Event> {
    step.events.push(Event::SessionEnded {
        cohort: cohort.id,
        session,
        code: code.to_owned(),
        comment: comment.to_owned(),
    });
    step.with(Effect::Sign(SignerRequest::Forget { session }))
}

fn leaf_nonce(rng: &mut dyn CryptoRng) -> LeafNonce {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    LeafNonce::new(bytes)
}

/// Updates go as request_signature, the rest as no_update.
fn send_leaves(
    mut step: Step<Event>,
    cohort: &Membership,
    round: u64,
    leaves: &[OwnLeaf],
    expires: Timestamp,
) -> Step<Event> {
    let blinded = |updates: bool| -> Vec<Leaf> {
        leaves
            .iter()
            .filter(|leaf| leaf.update.is_some() == updates)
            .map(|leaf| Leaf {
                index: leaf.index,
                value: leaf.value(),
            })
            .collect()
    };
    let (updates, others) = (blinded(true), blinded(false));
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
        let message = NoUpdate {
            cohort_id: cohort.id,
            round,
            leaves: others,
        };
        step = step.send(&cohort.coordinator, message, expires);
    }
    step
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
        nonce_contribution: *first,
        nonce_contributions: nonces.to_vec(),
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
        partial_signature: *first,
        partial_signatures: partials.to_vec(),
        signature,
    });
    step.send(&cohort.coordinator, message, expires)
}
