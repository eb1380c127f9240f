//! From a member's leaves to its partial signature: what is accepted of it, and what is not.

use beacon_signal::LeafValue;

use super::event::Evidence;
use super::session::Abandonment;
use super::{Cohort, Coordinator, Event, Phase, Session, Stage};
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{
    AggregatedNonces, Decline, Leaf, Message, NonceContribution, SignatureAuthorization, shortened,
};
use crate::review::DeclineCode;
use crate::statement;

impl Coordinator {
    /// Leaves of a round, as updates, whose message repeats the first of them as `data`, or as "no update".
    pub(super) fn leaves(
        &self,
        peer: PeerId,
        cohort: CohortId,
        round: u64,
        leaves: Vec<Leaf>,
        data: Option<LeafValue>,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.membership(cohort, &peer)?;
        if !matches!(cohort.phase, Phase::Set | Phase::Acknowledged) {
            return Err(Rejection::new(
                Code::Phase,
                "leaves",
                "none: the cohort is not set",
            ));
        }
        if data.is_some() && data != leaves.first().map(|leaf| leaf.value) {
            let got = data.map(|data| data.to_string()).unwrap_or_default();
            let expected = "data that is the first leaf's value";
            return Err(Rejection::new(Code::Conflict, got, expected));
        }
        if round != cohort.round.number {
            let expected = format!("round {}", cohort.round.number);
            return Err(Rejection::new(
                Code::Round,
                format!("round {round}"),
                expected,
            ));
        }
        if leaves.is_empty() || leaves.len() > member.indexes.len() {
            let got = format!("{} leaves", leaves.len());
            return Err(Rejection::new(
                Code::IndexCount,
                got,
                format!("1 to {}", member.indexes.len()),
            ));
        }
        let mut new = Vec::new();
        for leaf in leaves {
            if !member.indexes.contains(&leaf.index) {
                let expected = "an index that this member registered";
                return Err(Rejection::new(
                    Code::UnknownIndex,
                    leaf.index.to_string(),
                    expected,
                ));
            }
            let twice = new.iter().any(|other: &Leaf| other.index == leaf.index);
            match cohort.round.leaves.get(&leaf.index) {
                Some(given) if *given == leaf.value => {}
                None if !twice => new.push(leaf),
                _ => {
                    let got = format!("another leaf for index {}", leaf.index);
                    return Err(Rejection::new(Code::Conflict, got, "the leaf given before"));
                }
            }
        }
        if new.is_empty() {
            return Ok(Step::nothing());
        }
        let collecting = match cohort.round.stage {
            Stage::Waiting | Stage::Open { .. } => true,
            Stage::Stopped { .. } => !cohort.root_is_fixed(),
            Stage::Closed { .. } => false,
        };
        if !collecting {
            return Err(Rejection::new(
                Code::Phase,
                "leaves",
                "none: the round's leaves are complete",
            ));
        }
        Ok(Step::event(Event::LeavesGiven {
            cohort: cohort.id,
            round,
            peer,
            leaves: new,
            update: data.is_some(),
            at: now,
        }))
    }

    /// The live session of this id, or a rejection that says so.
    fn session(cohort: &Cohort, id: SessionId) -> Result<&Session, Rejection> {
        cohort
            .session
            .as_ref()
            .filter(|session| session.id == id)
            .ok_or_else(|| {
                let expected = cohort.session.as_ref().map_or_else(
                    || "none: no session is under way".to_owned(),
                    |session| format!("session {}", session.id),
                );
                Rejection::new(Code::UnknownSession, format!("session {id}"), expected)
            })
    }

    pub(super) fn nonce_contribution(
        &self,
        peer: PeerId,
        body: NonceContribution,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.membership(body.cohort_id, &peer)?;
        let session = Self::session(cohort, body.session_id)?;
        if let Some(given) = session.nonces.get(&peer) {
            if *given != body.nonce_contributions {
                return Err(Rejection::new(
                    Code::Conflict,
                    "other nonces",
                    "the nonces given before",
                ));
            }
            let again = aggregated(cohort, session);
            return Ok(again.map_or_else(Step::nothing, |message| {
                Step::nothing().send(&peer, message, session.deadline)
            }));
        }
        let inputs = session.sighashes.len();
        let first = body.nonce_contributions.first();
        if body.nonce_contributions.len() != inputs || first != Some(&body.nonce_contribution) {
            let got = format!("{} nonces", body.nonce_contributions.len());
            let expected = format!("{inputs}, the first of them repeated as nonce_contribution");
            return Err(Rejection::new(Code::ContributionCount, got, expected));
        }
        let statement =
            statement::nonces(session.id, &session.sighashes, &body.nonce_contributions);
        if !statement.is_signed_by(&member.key, &body.signature) {
            let expected = "a signature of the member's cohort key over its nonces";
            return Err(Rejection::new(
                Code::Signature,
                "another signature",
                expected,
            ));
        }
        Ok(Step::event(Event::NonceGiven {
            cohort: cohort.id,
            session: session.id,
            peer,
            nonces: body.nonce_contributions,
            signature: body.signature,
        }))
    }

    pub(super) fn signature_authorization(
        &self,
        peer: PeerId,
        body: SignatureAuthorization,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.membership(body.cohort_id, &peer)?;
        let session = Self::session(cohort, body.session_id)?;
        let (Some(beacon), Some(aggregated)) = (&cohort.beacon, &session.aggregated) else {
            let expected = "nonces first: not all of them are in";
            return Err(Rejection::new(Code::Phase, "partial signatures", expected));
        };
        if let Some(given) = session.partials.get(&peer) {
            return if *given == body.partial_signatures {
                Ok(Step::nothing())
            } else {
                let expected = "the partial signatures given before";
                Err(Rejection::new(
                    Code::Conflict,
                    "other partial signatures",
                    expected,
                ))
            };
        }
        let inputs = session.sighashes.len();
        let first = body.partial_signatures.first();
        if body.partial_signatures.len() != inputs || first != Some(&body.partial_signature) {
            let got = format!("{} partial signatures", body.partial_signatures.len());
            let expected = format!("{inputs}, the first of them repeated as partial_signature");
            return Err(Rejection::new(Code::ContributionCount, got, expected));
        }
        let statement =
            statement::partials(session.id, &session.sighashes, &body.partial_signatures);
        if !statement.is_signed_by(&member.key, &body.signature) {
            let expected = "a signature of the member's cohort key over its partial signatures";
            return Err(Rejection::new(
                Code::Signature,
                "another signature",
                expected,
            ));
        }
        let nonces = session.nonces.get(&peer).map_or(&[][..], Vec::as_slice);
        let inputs = session
            .sighashes
            .iter()
            .zip(aggregated)
            .zip(nonces.iter().zip(&body.partial_signatures));
        for (number, ((sighash, aggregated), (nonce, partial))) in inputs.enumerate() {
            if !beacon
                .input(*sighash, *aggregated)
                .verify_partial(&member.key, nonce, partial)
            {
                // Signed by the member's own key, so the blame can be shown. The session cannot be completed.
                let comment = format!("partial signature of input {number} does not verify");
                let evidence = Evidence {
                    partials: body.partial_signatures,
                    signature: body.signature,
                };
                let why = Abandonment {
                    code: Code::PartialSignature.as_str(),
                    culprit: Some(peer),
                    comment,
                    evidence: Some(evidence),
                };
                return Ok(self.abandon(cohort, session, why, now));
            }
        }
        Ok(Step::event(Event::PartialGiven {
            cohort: cohort.id,
            session: session.id,
            peer,
            partials: body.partial_signatures,
            signature: body.signature,
        }))
    }

    /// One member declines: with n-of-n that ends the session.
    pub(super) fn decline(
        &self,
        peer: PeerId,
        body: &Decline,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, _) = self.membership(body.cohort_id, &peer)?;
        let session = Self::session(cohort, body.session_id)?;
        // A code that this version does not know is a reason all the same.
        let code = DeclineCode::ALL
            .iter()
            .map(|code| code.as_str())
            .find(|code| *code == body.code);
        let why = Abandonment {
            code: code.unwrap_or("other"),
            culprit: Some(peer),
            comment: shortened(&body.comment),
            evidence: None,
        };
        Ok(self.abandon(cohort, session, why, now))
    }
}

/// The aggregated nonces, if all contributions are in.
pub(super) fn aggregated(cohort: &Cohort, session: &Session) -> Option<Message> {
    let nonces = session.aggregated.clone()?;
    Some(Message::AggregatedNonces(AggregatedNonces {
        session_id: session.id,
        cohort_id: cohort.id,
        aggregated_nonce: *nonces.first()?,
        aggregated_nonces: nonces,
    }))
}
