//! One session: the transaction is built, nonces and partial signatures are put together, or it is abandoned.

use beacon_signal::{LeafValue, Root};
use bitcoin::{Transaction, Txid, Witness};
use rand_core::CryptoRng;
use uuid::{Builder, Uuid};

use super::commitment::Commitment;
use super::signing::aggregated;
use super::strikes::is_forgiven;
use super::{Cohort, Coordinator, Event, FORMATION_EXPIRY_S, Session, TIMEOUT};
use crate::evidence::Evidence;
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::{Code, Step};
use crate::message::{
    AuthorizationRequest, IndexProof, Kind, NextStep, SessionAborted, SpentOutput,
};
use crate::musig::aggregate_nonces;
use crate::review::DeclineCode;

/// What a session is opened for.
pub(super) struct Opening {
    pub(super) kind: Kind,
    pub(super) round: u64,
    pub(super) replaces: Option<Txid>,
    /// What the signal bytes commit to, where there are any.
    pub(super) commitment: Option<Commitment>,
    pub(super) tx: Transaction,
    pub(super) spent: Vec<SpentOutput>,
}

/// Why a session ends without a signature.
pub(super) struct Abandonment {
    pub(super) code: &'static str,
    pub(super) culprit: Option<PeerId>,
    pub(super) comment: String,
    /// Who is struck for it, and what convicts them.
    pub(super) struck: Vec<(PeerId, Option<Box<Evidence>>)>,
}

/// The end of a session whose tree lacks a leaf that has come since.
const LATE_LEAF: &str = "late-leaf";

impl Coordinator {
    /// Starts a session, as soon as there is money for it.
    pub(super) fn start_session(
        &self,
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let round = cohort.round.number;
        let judged = Self::judge(cohort, now);
        if !judged.is_empty() {
            return judged;
        }
        // Asked at every tick until a deposit comes: no tree is built for nothing.
        if self.build(cohort, Root(LeafValue::EMPTY.0)).is_none() {
            return Step::nothing();
        }
        let leaves = cohort.indexes().map(|index| {
            (
                *index,
                cohort
                    .round
                    .leaves
                    .get(index)
                    .copied()
                    .unwrap_or(LeafValue::EMPTY),
            )
        });
        let Some(commitment) = Commitment::to(cohort, leaves) else {
            return Step::nothing(); // An index has one holder: opt-ins and registrations see to that.
        };
        let Some((tx, spent)) = self.build(cohort, commitment.root()) else {
            return Step::nothing();
        };
        let opening = Opening {
            kind: Kind::Signal,
            round,
            replaces: None,
            commitment: Some(commitment),
            tx,
            spent,
        };
        Self::open_session(cohort, opening, now, rng)
    }

    /// Asks every member to sign this.
    pub(super) fn open_session(
        cohort: &Cohort,
        opening: Opening,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let Opening {
            kind,
            round,
            replaces,
            commitment,
            tx,
            spent,
        } = opening;
        let deadline = now.after(cohort.phase_deadline_s());
        let session = SessionId(fresh_uuid(rng));
        let mut step = Step::event(Event::SessionStarted {
            cohort: cohort.id,
            session,
            round,
            kind: kind.clone(),
            replaces,
            root: commitment.as_ref().map(Commitment::root),
            outpoints: tx.input.iter().map(|input| input.previous_output).collect(),
            tx: tx.clone(),
            spent: spent.clone(),
            deadline,
        });
        for (peer, member) in &cohort.members {
            let request = AuthorizationRequest {
                session_id: session,
                cohort_id: cohort.id,
                pending_tx: tx.clone(),
                kind: kind.clone(),
                round,
                replaces,
                spent_outputs: spent.clone(),
                proofs: member
                    .indexes
                    .iter()
                    .filter_map(|index| {
                        let proof = commitment.as_ref()?.proof(index)?;
                        let index = *index;
                        Some(IndexProof { index, proof })
                    })
                    .collect(),
                map: commitment.as_ref().and_then(Commitment::map).cloned(),
            };
            step = step.send(peer, request, deadline);
        }
        step
    }

    pub(super) fn progress_session(
        cohort: &Cohort,
        session: &Session,
        now: Timestamp,
    ) -> Step<Event> {
        let members = cohort.members.len();
        if session.kind == Kind::Replacement && cohort.is_mined(session.round) {
            return Self::abandon_needless(cohort, session, now);
        }
        if session.outdated && session.aggregated.is_none() {
            return Self::abandon_outdated(cohort, session, now);
        }
        if session.aggregated.is_none() && session.nonces.len() == members {
            return Self::aggregate(cohort, session, now);
        }
        if session.partials.len() == members {
            return Self::complete(cohort, session, now);
        }
        if now < session.deadline {
            return Step::nothing();
        }
        let given: Vec<&PeerId> = match session.aggregated {
            None => session.nonces.keys().collect(),
            Some(_) => session.partials.keys().collect(),
        };
        let phase = if session.aggregated.is_none() {
            "nonces"
        } else {
            "partial signatures"
        };
        let comment = format!(
            "{} of {members} members sent their {phase} in time",
            given.len()
        );
        let late: Vec<_> = cohort
            .members
            .keys()
            .filter(|peer| !given.contains(peer))
            .collect();
        let culprit = match late.as_slice() {
            [only] => Some((*only).clone()),
            _ => None,
        };
        let struck = Self::late(cohort, &late, session.excused, now);
        let why = Abandonment {
            code: TIMEOUT,
            culprit,
            comment,
            struck: struck.into_iter().map(|peer| (peer, None)).collect(),
        };
        Self::abandon(cohort, session, why, now)
    }

    /// The tree lacks a leaf that has come since: nobody's fault.
    pub(super) fn abandon_outdated(
        cohort: &Cohort,
        session: &Session,
        now: Timestamp,
    ) -> Step<Event> {
        let why = Abandonment {
            code: LATE_LEAF,
            culprit: None,
            comment: "a leaf came after the tree was built".to_owned(),
            struck: Vec::new(),
        };
        Self::abandon(cohort, session, why, now)
    }

    /// What it would replace is in a block: nobody's fault.
    fn abandon_needless(cohort: &Cohort, session: &Session, now: Timestamp) -> Step<Event> {
        let why = Abandonment {
            code: DeclineCode::ReplacesMined.as_str(),
            culprit: None,
            comment: "the transaction to be replaced is in a block".to_owned(),
            struck: Vec::new(),
        };
        Self::abandon(cohort, session, why, now)
    }

    fn aggregate(cohort: &Cohort, session: &Session, now: Timestamp) -> Step<Event> {
        let nonces: Option<Vec<_>> = (0..session.sighashes.len())
            .map(|input| {
                let given = session.nonces.values();
                aggregate_nonces(given.filter_map(|given| given.nonces.get(input)))
            })
            .collect();
        let Some(nonces) = nonces else {
            return Step::nothing();
        };
        let deadline = now.after(cohort.phase_deadline_s());
        let collected = Session {
            aggregated: Some(nonces.clone()),
            ..session.clone()
        };
        let Some(message) = aggregated(cohort, &collected) else {
            return Step::nothing();
        };
        let step = Step::event(Event::NoncesAggregated {
            cohort: cohort.id,
            session: session.id,
            nonces,
            deadline,
        });
        cohort.members.keys().fold(step, |step, peer| {
            step.send(peer, message.clone(), deadline)
        })
    }

    fn complete(cohort: &Cohort, session: &Session, now: Timestamp) -> Step<Event> {
        let (Some(beacon), Some(nonces)) = (&cohort.beacon, &session.aggregated) else {
            return Step::nothing();
        };
        let mut tx = session.tx.clone();
        for (number, (sighash, nonce)) in session.sighashes.iter().zip(nonces).enumerate() {
            let partials: Vec<_> = session
                .partials
                .values()
                .filter_map(|given| given.partial_signatures.get(number)?.scalar().ok())
                .collect();
            let signature = beacon.input(*sighash, *nonce).aggregate(&partials);
            let (Some(signature), Some(input)) = (signature, tx.input.get_mut(number)) else {
                // Every partial signature verified on arrival, so this cannot be a member's doing.
                let why = Abandonment {
                    code: "aggregate",
                    culprit: None,
                    comment: "the aggregated signature does not verify".to_owned(),
                    struck: Vec::new(),
                };
                return Self::abandon(cohort, session, why, now);
            };
            input.witness = Witness::from_slice(&[signature]);
        }
        Step::event(Event::SessionSigned {
            cohort: cohort.id,
            session: session.id,
            tx,
            at: now,
        })
    }

    /// Ends a session and tells every member. The round tries again by itself, or stops where that cannot help.
    pub(super) fn abandon(
        cohort: &Cohort,
        session: &Session,
        why: Abandonment,
        now: Timestamp,
    ) -> Step<Event> {
        let Abandonment {
            code,
            culprit,
            comment,
            struck,
        } = why;
        let of_this_round = session.kind.is_signal();
        let crossed = culprit
            .as_ref()
            .is_some_and(|peer| of_this_round && cohort.has_crossed(peer, code));
        let again = crossed || is_transient(code);
        let strikes = |peer: &PeerId| cohort.members.get(peer).map_or(0, |member| member.strikes);
        let over = struck
            .iter()
            .any(|(peer, _)| strikes(peer) + 1 >= cohort.max_strikes());
        let message = SessionAborted {
            session_id: session.id,
            cohort_id: cohort.id,
            code: code.to_owned(),
            next: if over {
                NextStep::CohortDissolved // At the next tick.
            } else if again
                && session.kind != Kind::Close
                && code != DeclineCode::ReplacesMined.as_str()
            {
                NextStep::NewSession
            } else {
                NextStep::Wait
            },
        };
        let mut step = Step::event(Event::SessionAbandoned {
            cohort: cohort.id,
            session: session.id,
            code: code.to_owned(),
            culprit,
            comment: comment.clone(),
            at: now,
        });
        step.events
            .extend(struck.into_iter().map(|(peer, evidence)| Event::Struck {
                cohort: cohort.id,
                peer,
                session: Some(session.id),
                code: code.to_owned(),
                at: now,
                evidence,
            }));
        if !again {
            let reason = format!("{code}: {comment}{}", remedy(code));
            let (cohort, round) = (cohort.id, session.round);
            let stopped = match (&session.kind, session.replaces) {
                (Kind::Close, _) => None, // The operator asked for it, and asks again.
                (_, Some(txid)) => Some(Event::ReplacementStopped {
                    cohort,
                    txid,
                    reason,
                }),
                (_, None) => Some(Event::RoundStopped {
                    cohort,
                    round,
                    reason,
                }),
            };
            step.events.extend(stopped);
        }
        let expires = now.after(FORMATION_EXPIRY_S);
        cohort
            .members
            .keys()
            .fold(step, |step, peer| step.send(peer, message.clone(), expires))
    }
}

/// Whether trying again helps without anybody deciding anything: a member restarted, was late, its chain source was behind,
/// or it is out after a few more of the same.
fn is_transient(code: &str) -> bool {
    let others = [
        TIMEOUT,
        LATE_LEAF,
        Code::Nonce.as_str(),
        Code::PartialSignature.as_str(),
    ];
    others.contains(&code) || is_forgiven(code)
}

/// What the operator can do about it, where that is not plain.
fn remedy(code: &str) -> &'static str {
    if code == DeclineCode::WrongRound.as_str() {
        "; a member is in another round: if the state was restored from a backup, restore the newest one"
    } else {
        ""
    }
}

pub(super) fn fresh_uuid(rng: &mut dyn CryptoRng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    Builder::from_random_bytes(bytes).into_uuid()
}
