//! What our own chain source says, of the output that is to be spent and of what we signed.

use bitcoin::OutPoint;

use super::endings::end;
use super::state::{Candidate, Membership, Progress, Stage, Standing};
use super::{Event, Participant};
use crate::coordinator::CLOSED;
use crate::ids::{PeerId, Timestamp};
use crate::machine::{ChainFact, Code, OutputView, Rejection, Step, TransactionView};
use crate::message::{Kind, SignalPublished};
use crate::review::{DeclineCode, Declined, Verdict};

impl Participant {
    /// What our own chain source says. The review is made here, against what it says now.
    pub(super) fn chain(&self, fact: ChainFact, now: Timestamp) -> Step<Event> {
        match fact {
            ChainFact::Output { outpoint, view } => self
                .spend_seen(outpoint, &view, now)
                .and(self.singleton_spent(outpoint, &view)),
            ChainFact::SpentByLeaf { outpoint, txid } => self.leaf_spend_seen(outpoint, txid),
            ChainFact::Inputs(views) => {
                let asked: Vec<_> = views.iter().map(|(outpoint, _)| *outpoint).collect();
                let concerned = self.state.cohorts.values();
                let concerned =
                    concerned.filter(|cohort| cohort.checked_inputs().as_ref() == Some(&asked));
                // Every one of them: a coordinator that claims another's outputs must not use the fact up.
                let reviews = concerned.map(|cohort| Self::review(cohort, &views, now));
                reviews.fold(Step::nothing(), Step::and)
            }
            ChainFact::Transaction { txid, view, tip } => self
                .transaction_seen(txid, view, tip, now)
                .and(self.foreign_seen(txid, view, tip))
                .and(self.singleton_seen(txid, view, tip)),
            ChainFact::Funds { script, funds } => self.funds_seen(&script, &funds, now),
            ChainFact::FeeRate(_) => Step::nothing(), // Its user's commands ask for themselves.
            ChainFact::Broadcast { txid, outcome } => self
                .singleton_offered(txid, &outcome)
                .and(self.offered(txid, &outcome)),
        }
    }

    fn review(
        cohort: &Membership,
        views: &[(OutPoint, OutputView)],
        now: Timestamp,
    ) -> Step<Event> {
        let Some(session) = &cohort.session else {
            return Step::nothing();
        };
        let Some(context) = cohort.context(&session.proposal, views) else {
            return Step::nothing();
        };
        match session.proposal.review(&context) {
            Verdict::Decline(Declined { code, comment }) => {
                Self::decline(cohort, session.id, code, &comment, now)
            }
            // The commit that allows nonces is the approval's; the review is made anew each time.
            Verdict::Reviewed(signal) if session.approved => {
                Self::nonces_for(cohort, session, signal)
            }
            Verdict::Reviewed(_) | Verdict::Wait(_) => Step::nothing(),
        }
    }

    pub(super) fn signal_published(
        &self,
        from: &PeerId,
        body: &SignalPublished,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let Ok(cohort) = self.agreed_once(body.cohort_id, from) else {
            return Ok(Step::nothing()); // News for subscribers.
        };
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
                let mut step = settled(cohort, candidate);
                step.events.push(Event::SignalPublished {
                    cohort: cohort.handle,
                    txid: body.txid,
                });
                Ok(step.and(Self::keep_signed(cohort, candidate, &body.transaction, now)))
            }
            // Where it stands, our own chain source knows better.
            Some(candidate) => Ok(Self::keep_signed(cohort, candidate, &body.transaction, now)),
        }
    }

    fn transaction_seen(
        &self,
        txid: bitcoin::Txid,
        view: TransactionView,
        tip: u32,
        now: Timestamp,
    ) -> Step<Event> {
        let mut found = self.state.cohorts.values().filter_map(|cohort| {
            let candidate = cohort
                .candidates
                .iter()
                .find(|candidate| candidate.txid == txid)?;
            Some((cohort, candidate))
        });
        let Some((cohort, candidate)) = found.next() else {
            return Step::nothing();
        };
        let id = cohort.handle;
        match (candidate.standing, view) {
            (Standing::Buried { .. } | Standing::Superseded, _)
            | (Standing::Live | Standing::Published, TransactionView::Mempool) => Step::nothing(),
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
                let mut step = Step::event(Event::SignalBuried { cohort: id, txid });
                if candidate.is_close() && cohort.stage == Stage::Agreed {
                    let comment = "its closing spend is buried";
                    step.events
                        .push(Self::dissolved(cohort, CLOSED, comment, now));
                }
                step
            }
            (_, TransactionView::Confirmed { height, block_hash }) => {
                let mut step = settled(cohort, candidate).and(needless(cohort, candidate, now));
                step.events.push(Event::SignalConfirmed {
                    cohort: id,
                    txid,
                    height,
                    block_hash,
                });
                step
            }
            (Standing::Confirmed { .. }, _) => Step::event(Event::SignalGone { cohort: id, txid }),
            (Standing::Live | Standing::Published, TransactionView::Unknown) => {
                Self::offer(cohort, candidate, now)
            }
        }
    }
}

/// A session of a round that is over ends; nonces that it did not use are destroyed.
fn settled(cohort: &Membership, candidate: &Candidate) -> Step<Event> {
    match &cohort.session {
        Some(session)
            if candidate.round >= cohort.round
                && !candidate.is_close()
                && session.proposal.0.kind.is_signal()
                && !matches!(session.progress, Progress::PartialReleased { .. }) =>
        {
            let comment = "the round was published by another session";
            end(Step::nothing(), cohort, session.id, "published", comment)
        }
        _ => Step::nothing(),
    }
}

/// What a session would replace is in a block: nobody's fault, and there is nothing to sign.
fn needless(cohort: &Membership, mined: &Candidate, now: Timestamp) -> Step<Event> {
    match &cohort.session {
        Some(session)
            if session.proposal.0.kind == Kind::Replacement
                && !mined.is_close()
                && session.proposal.0.round == mined.round
                && !matches!(session.progress, Progress::PartialReleased { .. }) =>
        {
            let comment = format!("transaction {} is in a block", mined.txid);
            let code = DeclineCode::ReplacesMined;
            Participant::decline(cohort, session.id, code, &comment, now)
        }
        _ => Step::nothing(),
    }
}
