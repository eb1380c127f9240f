//! From a member's leaves to its partial signature: what is accepted of it, and what is not.

use beacon_signal::LeafValue;

use super::session::Abandonment;
use super::{Cohort, Coordinator, Event, GivenNonces, Member, OTHER_DECLINE, Phase, Session};
use crate::evidence::{
    Contribution, Evidence, EvidenceType, Misdeed, SignedNonces, SignedPartials,
};
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::{
    AggregatedNonces, Decline, Leaf, Message, NonceContribution, SignatureAuthorization, shortened,
};
use crate::review::DeclineCode;
use crate::statement;
use crate::terms::BeaconType;
use crate::values::{NonceBytes, PartialBytes};

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
        let leaves = match (cohort.terms.beacon_type, data) {
            (BeaconType::Cas, None) if leaves.is_empty() => no_updates(cohort, member),
            (BeaconType::Cas, None) => {
                let got = format!("{} leaves", leaves.len());
                let expected = "none: in a CAS cohort no_update is of all other indexes";
                return Err(Rejection::new(Code::IndexCount, got, expected));
            }
            (kind, _) => in_form(kind, leaves)?,
        };
        if leaves.is_empty() && cohort.terms.beacon_type == BeaconType::Cas && data.is_none() {
            return Ok(Step::nothing()); // All of them have answers.
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
                // It crossed the word that the other indexes have none. The map is not signed without it.
                Some(&LeafValue::EMPTY) if leaf.did.is_some() && !twice => new.push(leaf),
                _ => {
                    let got = format!("another leaf for index {}", leaf.index);
                    return Err(Rejection::new(Code::Conflict, got, "the leaf given before"));
                }
            }
        }
        if new.is_empty() {
            return Ok(Step::nothing());
        }
        if cohort.root_is_fixed() {
            let expected = "none: the round's root is made without it";
            return Err(Rejection::new(Code::LeafLate, "a leaf", expected));
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
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.signing_membership(body.cohort_id, &peer)?;
        let session = Self::session(cohort, body.session_id)?;
        let contribution = SignedNonces {
            nonce_contributions: body.nonce_contributions,
            signature: body.signature,
        };
        let nonces = &contribution.nonce_contributions;
        let statement = statement::nonces(session.id, &session.sighashes, nonces);
        let is_signed = statement.is_signed_by(&member.key, &body.signature);
        let inputs = session.sighashes.len();
        if let Some(given) = session.nonces.get(&peer).map(GivenNonces::signed) {
            if given.nonce_contributions == *nonces {
                let again = aggregated(cohort, session);
                return Ok(again.map_or_else(Step::nothing, |message| {
                    Step::nothing().send(&peer, message, session.deadline)
                }));
            }
            let convicts = is_signed && nonces.len() == inputs;
            let two = Misdeed::Equivocation {
                first: Contribution::Nonces(given),
                second: Contribution::Nonces(contribution),
            };
            return Self::equivocated(cohort, session, &peer, two, convicts, now);
        }
        if nonces.len() != inputs || nonces.first() != Some(&body.nonce_contribution) {
            let got = format!("{} nonces", nonces.len());
            let expected = format!("{inputs}, the first of them repeated as nonce_contribution");
            return Err(Rejection::new(Code::ContributionCount, got, expected));
        }
        if !is_signed {
            let expected = "a signature of the member's cohort key over its nonces";
            return Err(Rejection::new(
                Code::Signature,
                "another signature",
                expected,
            ));
        }
        let points: Result<Vec<_>, _> = nonces.iter().map(NonceBytes::points).collect();
        match points {
            Ok(nonces) => Ok(Step::event(Event::NonceGiven {
                cohort: cohort.id,
                session: session.id,
                peer,
                nonces,
                signature: body.signature,
            })),
            Err(error) => {
                // Signed by the member's own key, so the blame can be shown. The session cannot be completed.
                let misdeed = Misdeed::BadNonce {
                    nonces: contribution,
                };
                let why = Abandonment {
                    code: Code::Nonce.as_str(),
                    comment: error.to_string(),
                    struck: vec![(peer.clone(), evidence(cohort, session, &peer, misdeed))],
                    culprit: Some(peer),
                };
                Ok(Self::abandon(cohort, session, why, now))
            }
        }
    }

    pub(super) fn signature_authorization(
        &self,
        peer: PeerId,
        body: SignatureAuthorization,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.signing_membership(body.cohort_id, &peer)?;
        let session = Self::session(cohort, body.session_id)?;
        let (Some(beacon), Some(aggregated), Some(nonces)) = (
            &cohort.beacon,
            &session.aggregated,
            session.nonces.get(&peer),
        ) else {
            let expected = "nonces first: not all of them are in";
            return Err(Rejection::new(Code::Phase, "partial signatures", expected));
        };
        let contribution = SignedPartials {
            aggregated_nonces: aggregated.clone(),
            partial_signatures: body.partial_signatures,
            signature: body.signature,
        };
        let partials = &contribution.partial_signatures;
        let statement = statement::partials(session.id, &session.sighashes, aggregated, partials);
        let is_signed = statement.is_signed_by(&member.key, &body.signature);
        let inputs = session.sighashes.len();
        if let Some(given) = session.partials.get(&peer) {
            if given.partial_signatures == *partials {
                return Ok(Step::nothing());
            }
            let convicts = is_signed && partials.len() == inputs;
            let two = Misdeed::Equivocation {
                first: Contribution::Partials(given.clone()),
                second: Contribution::Partials(contribution),
            };
            return Self::equivocated(cohort, session, &peer, two, convicts, now);
        }
        if partials.len() != inputs || partials.first() != Some(&body.partial_signature) {
            let got = format!("{} partial signatures", partials.len());
            let expected = format!("{inputs}, the first of them repeated as partial_signature");
            return Err(Rejection::new(Code::ContributionCount, got, expected));
        }
        if !is_signed {
            let expected = "a signature of the member's cohort key over its partial signatures \
                            and the aggregated nonces";
            return Err(Rejection::new(
                Code::Signature,
                "another signature",
                expected,
            ));
        }
        let bad = beacon.first_invalid(
            &member.key,
            &session.sighashes,
            &nonces.nonces,
            aggregated,
            partials,
        );
        let scalars: Result<Vec<_>, _> = partials.iter().map(PartialBytes::scalar).collect();
        match (bad, scalars) {
            (None, Ok(partials)) => Ok(Step::event(Event::PartialGiven {
                cohort: cohort.id,
                session: session.id,
                peer,
                partials,
                signature: body.signature,
            })),
            (bad, _) => {
                let number = bad.unwrap_or_default();
                let misdeed = Misdeed::BadPartialSignature {
                    nonces: nonces.signed(),
                    partials: contribution,
                };
                let why = Abandonment {
                    code: Code::PartialSignature.as_str(),
                    comment: format!("partial signature of input {number} does not verify"),
                    struck: vec![(peer.clone(), evidence(cohort, session, &peer, misdeed))],
                    culprit: Some(peer),
                };
                Ok(Self::abandon(cohort, session, why, now))
            }
        }
    }

    /// A second contribution that is not the first: refused. Where the member signed it, that alone is a fault which can be
    /// shown, and recorded once in a session; the session goes on with the first.
    fn equivocated(
        cohort: &Cohort,
        session: &Session,
        peer: &PeerId,
        misdeed: Misdeed,
        convicts: bool,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let refused = Rejection::new(
            Code::Conflict,
            "a different contribution",
            "the one given before",
        );
        if !convicts || session.equivocated.contains(peer) {
            return Err(refused);
        }
        let struck = Event::Struck {
            cohort: cohort.id,
            peer: peer.clone(),
            session: Some(session.id),
            code: Code::Conflict.as_str().to_owned(),
            at: now,
            evidence: evidence(cohort, session, peer, misdeed),
        };
        Ok(Step::event(struck).with(Effect::Report {
            to: peer.clone(),
            cohort: cohort.id,
            rejection: refused,
        }))
    }

    /// One member declines: with n-of-n that ends the session.
    pub(super) fn decline(
        &self,
        peer: PeerId,
        body: &Decline,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, _) = self.signing_membership(body.cohort_id, &peer)?;
        // A code that this version does not know is a reason all the same.
        let mut known = DeclineCode::ALL.iter().map(|code| code.as_str());
        let code = known
            .find(|code| *code == body.code)
            .unwrap_or(OTHER_DECLINE);
        let ended = cohort.declines.as_ref();
        let ended = ended.filter(|ended| ended.session == body.session_id);
        if ended.is_some_and(|ended| !ended.by.contains_key(&peer)) {
            // Another one ended it already. How many they are matters: most of them cannot all be to blame.
            return Ok(Step::event(Event::DeclineNoted {
                cohort: cohort.id,
                session: body.session_id,
                peer,
                code: code.to_owned(),
            }));
        }
        let session = Self::session(cohort, body.session_id)?;
        if session.outdated && DeclineCode::lacks_a_leaf(code) {
            return Ok(Self::abandon_outdated(cohort, session, now));
        }
        let why = Abandonment {
            code,
            culprit: Some(peer),
            comment: shortened(&body.comment),
            struck: Vec::new(),
        };
        Ok(Self::abandon(cohort, session, why, now))
    }
}

/// What `no_update` says in a CAS cohort: the member's indexes without an answer have no update.
fn no_updates(cohort: &Cohort, member: &Member) -> Vec<Leaf> {
    let unanswered = cohort.unanswered(member);
    unanswered
        .map(|index| Leaf::blinded(*index, LeafValue::EMPTY))
        .collect()
}

/// Leaves that look as those of this beacon type do.
fn in_form(kind: BeaconType, leaves: Vec<Leaf>) -> Result<Vec<Leaf>, Rejection> {
    let (in_the_open, expected) = match kind {
        BeaconType::Smt => (false, "index and value: the cohort's leaves are blinded"),
        BeaconType::Cas => (
            true,
            "did and update_hash: the cohort's beacon is a CAS beacon",
        ),
    };
    // An update's hash that stands for "no update" here is nothing that SHA-256 gives.
    let fits = |leaf: &Leaf| {
        leaf.did.is_some() == in_the_open && !(in_the_open && leaf.value == LeafValue::EMPTY)
    };
    if leaves.iter().all(fits) {
        Ok(leaves)
    } else {
        let got = "leaves of another form";
        Err(Rejection::new(Code::Malformed, got, expected))
    }
}

/// A file that convicts the member by itself.
fn evidence(
    cohort: &Cohort,
    session: &Session,
    peer: &PeerId,
    misdeed: Misdeed,
) -> Option<Box<Evidence>> {
    let (member, beacon) = (cohort.members.get(peer)?, cohort.beacon.as_ref()?);
    Some(Box::new(Evidence {
        file: EvidenceType::V1,
        cohort_id: cohort.id,
        terms: cohort.terms.clone(),
        cohort_keys: beacon.keys().to_vec(),
        beacon_address: beacon.address(cohort.terms.btc_network.bitcoin()),
        culprit_key: member.key,
        culprit_did: peer.clone(),
        proof_of_possession: member.proof,
        session_id: session.id,
        transaction: session.tx.clone(),
        spent_outputs: session.spent.clone(),
        misdeed,
    }))
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
