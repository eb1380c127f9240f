//! What follows from the facts: one thing at a time, until nothing more does.

use beacon_signal::Root;
use rand_core::CryptoRng;

use super::formation::is_open;
use super::{
    Cohort, Coordinator, Event, FORMATION_EXPIRY_S, Phase, Signal, Stage, Standing, broadcast,
};
use crate::ids::Timestamp;
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::{CohortSet, UpdateOpportunity};
use crate::musig::BeaconKey;
use crate::terms::Flow;

impl Coordinator {
    /// The next thing that follows, of the first cohort where something does.
    pub(super) fn progress(&self, now: Timestamp, rng: &mut dyn CryptoRng) -> Step<Event> {
        self.state
            .cohorts
            .values()
            .map(|cohort| match cohort.phase {
                Phase::Advertised => Self::progress_formation(cohort, now),
                Phase::Acknowledged => self.progress_signing(cohort, now, rng),
                Phase::Set if acknowledgements_end(cohort) <= now => {
                    let missing = cohort.members.values();
                    let missing = missing.filter(|member| !member.acknowledged).count();
                    Self::fail(
                        cohort,
                        format!("{missing} members did not acknowledge in time"),
                    )
                }
                Phase::Set | Phase::Failed(_) => Step::nothing(),
            })
            .find(|step| !step.is_empty())
            .unwrap_or_default()
    }

    fn progress_formation(cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let members = cohort.members.len() as u64;
        if is_open(cohort, now) {
            Step::nothing()
        } else if members >= cohort.terms.min_members {
            Self::set(cohort, now)
        } else {
            let reason = format!(
                "advert ended with {members} members, expected {}",
                cohort.terms.min_members
            );
            Self::fail(cohort, reason)
        }
    }

    /// Ends a cohort that nobody has funded yet, and tells those who joined.
    pub(super) fn fail(cohort: &Cohort, reason: String) -> Step<Event> {
        let rejection = Rejection::new(Code::CohortFailed, &reason, "a cohort that all agree on");
        let step = Step::event(Event::CohortFailed {
            cohort: cohort.id,
            reason,
        });
        cohort.members.keys().fold(step, |step, peer| {
            step.with(Effect::Report {
                to: peer.clone(),
                cohort: cohort.id,
                rejection: rejection.clone(),
            })
        })
    }

    /// Freezes membership and tells the members.
    pub(super) fn set(cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let beacon = match BeaconKey::aggregate(cohort.members.values().map(|member| member.key)) {
            Ok(beacon) => beacon,
            Err(error) => return Self::fail(cohort, error.to_string()),
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
        let due = |signal: &&Signal| signal.standing == Standing::Signed && signal.is_due(now);
        if let Some(signal) = cohort.signals.iter().find(due) {
            return broadcast(cohort, signal, now);
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
            // It stopped for answers that were missing, and all of them have come since.
            Stage::Stopped { .. } if cohort.round.failures == 0 && is_complete(cohort) => {
                Step::event(Event::RoundClosed {
                    cohort: cohort.id,
                    round: cohort.round.number,
                })
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

    /// When the cohort has something to do at the latest.
    pub(super) fn cohort_deadline(&self, cohort: &Cohort) -> Option<Timestamp> {
        let signed = cohort.signals.iter();
        let signed = signed.filter(|signal| signal.standing == Standing::Signed);
        let retry = signed.map(Signal::due).min();
        let next = match cohort.phase {
            Phase::Advertised => Some(cohort.terms.advert_expires),
            Phase::Set => Some(acknowledgements_end(cohort)),
            Phase::Failed(_) => None,
            Phase::Acknowledged => match (&cohort.session, &cohort.round.stage) {
                (Some(session), _) => Some(session.deadline),
                (None, Stage::Waiting) => trigger_time(cohort),
                (None, Stage::Open { deadline }) => Some(*deadline),
                // Without money there is nothing to wait for but the chain's next word.
                (None, Stage::Closed { not_before }) => {
                    let funded = self.build(cohort, Root([0; 32])).is_ok();
                    funded.then_some(*not_before)
                }
                (None, Stage::Stopped { .. }) => None,
            },
        };
        retry.into_iter().chain(next).min()
    }
}

/// When a cohort that is set has failed, if an acknowledgement is still missing.
fn acknowledgements_end(cohort: &Cohort) -> Timestamp {
    cohort.round.since.after(FORMATION_EXPIRY_S)
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

/// Whether every registered index has its leaf.
fn is_complete(cohort: &Cohort) -> bool {
    let mut members = cohort.members.values();
    members.all(|member| cohort.unanswered(member).next().is_none())
}
