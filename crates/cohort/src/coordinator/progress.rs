//! What follows from the facts: one thing at a time, until nothing more does.

use beacon_signal::{LeafValue, Root, SparseMerkleTree, transaction};
use bitcoin::{OutPoint, Transaction, TxIn, TxOut, Witness};
use rand_core::CryptoRng;
use uuid::Builder;

use super::formation::is_open;
use super::signing::aggregated;
use super::{
    BROADCAST_INTERVAL_S, Cohort, Coordinator, Event, FORMATION_EXPIRY_S, Phase, Session, Stage,
    Standing,
};
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::{Effect, Fund, Step};
use crate::message::{
    AuthorizationRequest, CohortSet, IndexProof, Kind, NextStep, SessionAborted, SpentOutput,
    UpdateOpportunity,
};
use crate::musig::{BeaconKey, aggregate_nonces};
use crate::review::{DeclineCode, ignored_live};
use crate::terms::Flow;

/// Why a session is not started though its round is complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FundingError {
    /// Nothing at the address is in a block, or what is there would leave a live transaction free to be mined too.
    #[error("waits for a confirmed deposit at the beacon address")]
    NoFunds,
    /// What is there does not pay the fee.
    #[error("{0}")]
    TooLittle(String),
}

impl Coordinator {
    /// The next thing that follows, of the first cohort where something does.
    pub(super) fn progress(&self, now: Timestamp, rng: &mut dyn CryptoRng) -> Step<Event> {
        self.state
            .cohorts
            .values()
            .map(|cohort| match cohort.phase {
                Phase::Advertised => self.progress_formation(cohort, now),
                Phase::Acknowledged => self.progress_signing(cohort, now, rng),
                Phase::Set | Phase::Failed(_) => Step::nothing(),
            })
            .find(|step| !step.is_empty())
            .unwrap_or_default()
    }

    fn progress_formation(&self, cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let members = cohort.members.len() as u64;
        if is_open(cohort, now) {
            Step::nothing()
        } else if members >= cohort.terms.min_members {
            self.set(cohort, now)
        } else {
            let reason = format!(
                "advert ended with {members} members, expected {}",
                cohort.terms.min_members
            );
            Step::event(Event::CohortFailed {
                cohort: cohort.id,
                reason,
            })
        }
    }

    /// Freezes membership and tells the members.
    pub(super) fn set(&self, cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let beacon = match BeaconKey::aggregate(cohort.members.values().map(|member| member.key)) {
            Ok(beacon) => beacon,
            Err(error) => {
                return Step::event(Event::CohortFailed {
                    cohort: cohort.id,
                    reason: error.to_string(),
                });
            }
        };
        let message = CohortSet {
            cohort_id: cohort.id,
            beacon_address: beacon.address(cohort.terms.btc_network.bitcoin()),
            cohort_keys: beacon.keys().to_vec(),
            terms_hash: cohort.terms.hash(),
        };
        let step = Step::event(Event::CohortSet {
            cohort: cohort.id,
            at: now,
        });
        cohort.members.keys().fold(step, |step, peer| {
            step.send(peer, message.clone(), now.after(FORMATION_EXPIRY_S))
        })
    }

    fn progress_signing(
        &self,
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        if let Some(signal) = cohort.signals.iter().find(|signal| {
            signal.standing == Standing::Signed
                && signal
                    .tried
                    .is_none_or(|at| at.after(BROADCAST_INTERVAL_S) <= now)
        }) {
            let event = Event::BroadcastTried {
                cohort: cohort.id,
                txid: signal.txid,
                at: now,
            };
            return Step::event(event).with(Effect::Broadcast(signal.tx.clone()));
        }
        if let Some(session) = &cohort.session {
            return self.progress_session(cohort, session, now);
        }
        match &cohort.round.stage {
            Stage::Waiting if triggered(cohort, now) => Self::open_round(cohort, now),
            Stage::Open { deadline } => Self::progress_open_round(cohort, *deadline, now),
            Stage::Closed { not_before } if *not_before <= now => {
                self.start_session(cohort, now, rng)
            }
            Stage::Waiting | Stage::Closed { .. } | Stage::Stopped { .. } => Step::nothing(),
        }
    }

    fn open_round(cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let deadline = now.after(cohort.terms.response_deadline_s);
        let round = cohort.round.number;
        let step = Step::event(Event::RoundOpened {
            cohort: cohort.id,
            round,
            deadline,
        });
        cohort.members.iter().fold(step, |step, (peer, member)| {
            if cohort.unanswered(member).next().is_none() {
                return step;
            }
            step.send(
                peer,
                UpdateOpportunity {
                    cohort_id: cohort.id,
                    round,
                    deadline,
                },
                deadline,
            )
        })
    }

    fn progress_open_round(cohort: &Cohort, deadline: Timestamp, now: Timestamp) -> Step<Event> {
        let round = cohort.round.number;
        let missing: usize = cohort
            .members
            .values()
            .map(|member| cohort.unanswered(member).count())
            .sum();
        if missing == 0 || (deadline <= now && cohort.terms.empty_leaf_allowed) {
            Step::event(Event::RoundClosed {
                cohort: cohort.id,
                round,
            })
        } else if deadline <= now {
            let reason = format!("{missing} indexes without an answer at the deadline");
            Step::event(Event::RoundStopped {
                cohort: cohort.id,
                round,
                reason,
            })
        } else {
            Step::nothing()
        }
    }

    /// Starts a session, as soon as there is money for it.
    fn start_session(
        &self,
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let round = cohort.round.number;
        if cohort.round.failures >= self.config.max_attempts {
            let last = cohort
                .abandoned
                .last()
                .map_or("unknown", |abandoned| abandoned.code.as_str());
            let reason = format!(
                "{} sessions failed, the last with {last}",
                cohort.round.failures
            );
            return Step::event(Event::RoundStopped {
                cohort: cohort.id,
                round,
                reason,
            });
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
        let Ok(tree) = SparseMerkleTree::new(leaves) else {
            let reason = "an index is registered twice".to_owned();
            return Step::event(Event::RoundStopped {
                cohort: cohort.id,
                round,
                reason,
            });
        };
        let Ok((tx, spent)) = self.build(cohort, tree.root()) else {
            return Step::nothing();
        };
        let deadline = now.after(cohort.terms.response_deadline_s);
        let session = fresh_session(rng);
        let mut step = Step::event(Event::SessionStarted {
            cohort: cohort.id,
            session,
            round,
            root: tree.root(),
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
                kind: Kind::Signal,
                round,
                replaces: None,
                spent_outputs: spent.clone(),
                proofs: member
                    .indexes
                    .iter()
                    .map(|index| IndexProof {
                        index: *index,
                        proof: tree.proof(index),
                    })
                    .collect(),
            };
            step = step.send(peer, request, deadline);
        }
        step
    }

    /// The transaction that would carry this root, and what it spends; or why there is none yet.
    pub fn build(
        &self,
        cohort: &Cohort,
        root: Root,
    ) -> Result<(Transaction, Vec<SpentOutput>), FundingError> {
        let Some(beacon) = &cohort.beacon else {
            return Err(FundingError::NoFunds);
        };
        let live = cohort.live();
        let usable = |fund: &&Fund| {
            fund.height.is_some() && ignored_live(&[spend(fund.outpoint)], &live).is_none()
        };
        // One input for now: the largest, so that its change carries on. Ties are broken by the outpoint, so that a retry
        // builds the same transaction.
        let fund = cohort
            .funds
            .iter()
            .filter(usable)
            .max_by_key(|fund| (fund.value, fund.outpoint));
        let fund = fund.ok_or(FundingError::NoFunds)?;
        let output = TxOut {
            value: bitcoin::Amount::from_sat(fund.value),
            script_pubkey: beacon.script().to_owned(),
        };
        let rate = self
            .config
            .fee_rate_sat_vb
            .min(cohort.terms.max_fee_rate_sat_vb);
        let spent = vec![SpentOutput::from(&output)];
        transaction::build_signal(&[(fund.outpoint, output)], beacon.script(), root.0, rate)
            .map(|tx| (tx, spent))
            .map_err(|error| FundingError::TooLittle(error.to_string()))
    }

    fn progress_session(&self, cohort: &Cohort, session: &Session, now: Timestamp) -> Step<Event> {
        let members = cohort.members.len();
        if session.aggregated.is_none() && session.nonces.len() == members {
            return Self::aggregate(cohort, session, now);
        }
        if session.partials.len() == members {
            return self.complete(cohort, session, now);
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
        self.abandon(cohort, session, "timeout", culprit, comment, now)
    }

    fn aggregate(cohort: &Cohort, session: &Session, now: Timestamp) -> Step<Event> {
        let nonces: Option<Vec<_>> = (0..session.sighashes.len())
            .map(|input| {
                aggregate_nonces(
                    session
                        .nonces
                        .values()
                        .filter_map(|nonces| nonces.get(input)),
                )
            })
            .collect();
        let Some(nonces) = nonces else {
            return Step::nothing();
        };
        let deadline = now.after(cohort.terms.response_deadline_s);
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

    fn complete(&self, cohort: &Cohort, session: &Session, now: Timestamp) -> Step<Event> {
        let (Some(beacon), Some(nonces)) = (&cohort.beacon, &session.aggregated) else {
            return Step::nothing();
        };
        let mut tx = session.tx.clone();
        for (number, (sighash, nonce)) in session.sighashes.iter().zip(nonces).enumerate() {
            let partials: Vec<_> = session
                .partials
                .values()
                .filter_map(|partials| partials.get(number))
                .copied()
                .collect();
            let signature = beacon.input(*sighash, *nonce).aggregate(&partials);
            let (Some(signature), Some(input)) = (signature, tx.input.get_mut(number)) else {
                // Every partial signature verified on arrival, so this cannot be a member's doing.
                let comment = "the aggregated signature does not verify".to_owned();
                return self.abandon(cohort, session, "aggregate", None, comment, now);
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
        &self,
        cohort: &Cohort,
        session: &Session,
        code: &str,
        culprit: Option<PeerId>,
        comment: String,
        now: Timestamp,
    ) -> Step<Event> {
        let again = is_transient(code) && cohort.round.failures + 1 < self.config.max_attempts;
        let message = SessionAborted {
            session_id: session.id,
            cohort_id: cohort.id,
            code: code.to_owned(),
            next: if again {
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
        if !again {
            let reason = format!("{code}: {comment}");
            step.events.push(Event::RoundStopped {
                cohort: cohort.id,
                round: session.round,
                reason,
            });
        }
        let expires = now.after(FORMATION_EXPIRY_S);
        cohort
            .members
            .keys()
            .fold(step, |step, peer| step.send(peer, message.clone(), expires))
    }

    /// When the cohort has something to do at the latest.
    pub(super) fn cohort_deadline(&self, cohort: &Cohort) -> Option<Timestamp> {
        let retry = cohort
            .signals
            .iter()
            .filter(|signal| signal.standing == Standing::Signed)
            .map(|signal| {
                signal
                    .tried
                    .map_or(Timestamp::default(), |at| at.after(BROADCAST_INTERVAL_S))
            })
            .min();
        let next = match cohort.phase {
            Phase::Advertised => Some(cohort.terms.advert_expires),
            Phase::Set | Phase::Failed(_) => None,
            Phase::Acknowledged => match (&cohort.session, &cohort.round.stage) {
                (Some(session), _) => Some(session.deadline),
                (None, Stage::Waiting) => trigger_time(cohort),
                (None, Stage::Open { deadline }) => Some(*deadline),
                (None, Stage::Closed { not_before }) => Some(*not_before),
                (None, Stage::Stopped { .. }) => None,
            },
        };
        retry.into_iter().chain(next).min()
    }
}

/// Whether trying again can help without anybody deciding anything: a member restarted, was late, or its chain source
/// was behind.
fn is_transient(code: &str) -> bool {
    code == "timeout"
        || [
            DeclineCode::NonceLost,
            DeclineCode::ChainUnseen,
            DeclineCode::ChainUnconfirmed,
        ]
        .iter()
        .any(|transient| transient.as_str() == code)
}

fn triggered(cohort: &Cohort, now: Timestamp) -> bool {
    trigger_time(cohort).is_some_and(|at| at <= now)
}

/// When the waiting round opens, as things are. `None`: not before something happens.
fn trigger_time(cohort: &Cohort) -> Option<Timestamp> {
    let (round, terms) = (&cohort.round, &cohort.terms);
    if round.requested {
        return Some(Timestamp::default());
    }
    let earliest = round.since.after(terms.min_interval_s);
    match terms.flow {
        Flow::Push if round.updates >= terms.trigger_updates => Some(earliest),
        Flow::Push => round
            .first_update
            .map(|first| first.after(terms.max_interval_s).max(earliest)),
        Flow::Pull => Some(round.since.after(terms.max_interval_s)),
    }
}

fn spend(previous_output: OutPoint) -> TxIn {
    TxIn {
        previous_output,
        ..TxIn::default()
    }
}

fn fresh_session(rng: &mut dyn CryptoRng) -> SessionId {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    SessionId(Builder::from_random_bytes(bytes).into_uuid())
}
