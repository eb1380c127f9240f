//! What follows from the facts: one thing at a time, until nothing more does.

use beacon_signal::Root;
use rand_core::CryptoRng;

use super::chain::broadcast;
use super::formation::{cohort_set, is_open, set_expires};
use super::{Cohort, Coordinator, Event, Phase, Signal, Stage, Standing, TIMEOUT};
use crate::ids::{PeerId, Timestamp};
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::UpdateOpportunity;
use crate::terms::Flow;

impl Coordinator {
    /// The next thing that follows, of one cohort where something does. Looking starts anywhere: were it always the same
    /// cohort, one whose commits are refused would starve all others.
    pub(super) fn progress(&self, now: Timestamp, rng: &mut dyn CryptoRng) -> Step<Event> {
        let cohorts = &self.state.cohorts;
        let start = match u64::try_from(cohorts.len()) {
            Ok(count @ 2..) => usize::try_from(rng.next_u64() % count).unwrap_or_default(),
            _ => 0,
        };
        let mut from_there = cohorts
            .values()
            .skip(start)
            .chain(cohorts.values().take(start));
        let step = from_there.find_map(|cohort| {
            let step = self.progress_of(cohort, now, rng);
            (!step.is_empty()).then_some(step)
        });
        step.unwrap_or_default()
    }

    fn progress_of(&self, cohort: &Cohort, now: Timestamp, rng: &mut dyn CryptoRng) -> Step<Event> {
        if !cohort.is_over() {
            let step = Self::progress_contests(cohort, now, rng);
            if !step.is_empty() {
                return step;
            }
        }
        match cohort.phase {
            Phase::Advertised => Self::progress_formation(cohort, now),
            Phase::Set if acknowledgements_end(cohort) <= now => {
                let members = cohort.members.iter();
                let (there, missing): (Vec<_>, Vec<_>) =
                    members.partition(|(_, member)| member.acknowledged);
                let reason = format!("{} members did not acknowledge in time", missing.len());
                let there = there.into_iter().map(|(peer, _)| peer.clone()).collect();
                Self::fail(cohort, reason).and(Self::succeed(cohort, there, now, rng))
            }
            Phase::Acknowledged => self.progress_signing(cohort, now, rng),
            Phase::Dissolved(_) => match &cohort.session {
                Some(session) => progress_broadcast(cohort, now)
                    .or(|| Self::progress_session(cohort, session, now)),
                None => progress_broadcast(cohort, now),
            },
            Phase::Set | Phase::Failed(_) => Step::nothing(),
        }
    }

    fn progress_formation(cohort: &Cohort, now: Timestamp) -> Step<Event> {
        if let Some((peer, _)) = seat_ends(cohort).find(|(_, end)| *end <= now) {
            let silent = cohort.terms.seat_deadline_s();
            let got = format!("no sign of life within {silent} s");
            let expected = "the same opt-in again before that";
            let event = Event::SeatReleased {
                cohort: cohort.id,
                peer: peer.clone(),
            };
            return Step::event(event).with(Effect::Report {
                to: peer.clone(),
                cohort: cohort.id,
                rejection: Rejection::new(Code::SeatReleased, got, expected),
            });
        }
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
        let beacon = match cohort
            .terms
            .beacon(cohort.members.values().map(|member| member.key))
        {
            Ok(beacon) => beacon,
            Err(error) => return Self::fail(cohort, error.to_string()),
        };
        let message = cohort_set(cohort, &beacon);
        let step = Step::event(Event::CohortSet {
            cohort: cohort.id,
            at: now,
        });
        let expires = set_expires(cohort, now);
        cohort
            .members
            .keys()
            .fold(step, |step, peer| step.send(peer, message.clone(), expires))
    }

    fn progress_signing(
        &self,
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let mut first = progress_broadcast(cohort, now);
        if first.is_empty() {
            first = Self::dissolve_without_offenders(cohort, now, rng);
        }
        if !first.is_empty() {
            return first;
        }
        if let Some(session) = &cohort.session {
            return Self::progress_session(cohort, session, now);
        }
        if cohort.is_closing() {
            return Self::progress_closing(cohort, now, rng);
        }
        let replacement = self.progress_replacement(cohort, now, rng);
        if !replacement.is_empty() {
            return replacement;
        }
        match &cohort.round.stage {
            Stage::Stopped { .. } => Step::nothing(),
            _ if cohort.doubt.is_some() => Self::stop_in_doubt(cohort),
            Stage::Waiting if triggered(cohort, now) => Self::open_round(cohort, now),
            Stage::Open { deadline } => Self::progress_open_round(cohort, *deadline, now),
            Stage::Closed { not_before } if *not_before <= now => {
                self.start_session(cohort, now, rng)
            }
            Stage::Unanswered { .. } if is_complete(cohort) => Step::event(Event::RoundClosed {
                cohort: cohort.id,
                round: cohort.round.number,
            }),
            Stage::Unanswered { again } if *again <= now => Self::open_round(cohort, now),
            Stage::Waiting | Stage::Unanswered { .. } | Stage::Closed { .. } => Step::nothing(),
        }
    }

    /// This log may be older than the cohort: what is signed now could be undone by what it has forgotten.
    fn stop_in_doubt(cohort: &Cohort) -> Step<Event> {
        let doubt = cohort.doubt.as_deref().unwrap_or_default();
        Step::event(Event::RoundStopped {
            cohort: cohort.id,
            round: cohort.round.number,
            reason: format!(
                "{doubt}: if the state was restored from a backup, restore the newest one; else start the round again"
            ),
        })
    }

    fn open_round(cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let deadline = now.after(cohort.phase_deadline_s());
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
        let members = cohort.members.iter();
        let missing = members.filter(|(_, member)| cohort.unanswered(member).next().is_some());
        let missing: Vec<&PeerId> = missing.map(|(peer, _)| peer).collect();
        if missing.is_empty() || (deadline <= now && cohort.terms.empty_leaf_allowed) {
            Step::event(Event::RoundClosed {
                cohort: cohort.id,
                round,
            })
        } else if deadline <= now {
            let late = Self::late(cohort, &missing, cohort.round.excused, now);
            let mut events: Vec<_> = late
                .into_iter()
                .map(|peer| Event::Struck {
                    cohort: cohort.id,
                    peer,
                    session: None,
                    code: TIMEOUT.to_owned(),
                    at: now,
                    evidence: None,
                })
                .collect();
            events.push(Event::AnswersMissing {
                cohort: cohort.id,
                round,
                at: now,
            });
            Step {
                events,
                effects: Vec::new(),
            }
        } else {
            Step::nothing()
        }
    }

    /// When the cohort has something to do at the latest.
    pub(super) fn cohort_deadline(&self, cohort: &Cohort) -> Option<Timestamp> {
        let signed = cohort.signals.iter();
        let signed = signed
            .filter(|signal| signal.standing == Standing::Signed && cohort.is_offered(signal));
        let retry = signed.map(Signal::due).min();
        let next = match cohort.phase {
            Phase::Advertised => {
                let seats = seat_ends(cohort).map(|(_, end)| end);
                seats.chain([cohort.terms.advert_expires]).min()
            }
            Phase::Set => Some(acknowledgements_end(cohort)),
            Phase::Failed(_) => None,
            Phase::Dissolved(_) => cohort.session.as_ref().map(|session| session.deadline),
            Phase::Acknowledged if cohort.is_closing() => {
                cohort.session.as_ref().map(|session| session.deadline)
            }
            Phase::Acknowledged => match (&cohort.session, &cohort.round.stage) {
                (Some(session), _) => Some(session.deadline),
                (None, Stage::Waiting) => trigger_time(cohort),
                (None, Stage::Open { deadline }) => Some(*deadline),
                // Without money there is nothing to wait for but the chain's next word.
                (None, Stage::Closed { not_before }) => {
                    let funded = self.build(cohort, Root([0; 32])).is_some();
                    funded.then_some(*not_before)
                }
                (None, Stage::Unanswered { again }) => Some(*again),
                (None, Stage::Stopped { .. }) => None,
            },
        };
        let contests = cohort.contests.values().map(|contest| contest.again);
        let idle =
            cohort.phase == Phase::Acknowledged && cohort.session.is_none() && !cohort.is_closing();
        let replacement = idle.then(|| self.replacement_due(cohort)).flatten();
        retry
            .into_iter()
            .chain(next)
            .chain(contests)
            .chain(replacement)
            .min()
    }
}

/// When a cohort that is set has failed, if an acknowledgement is still missing. As long as a seat is held: nobody is asked
/// to answer faster than it had to show itself until now.
fn acknowledgements_end(cohort: &Cohort) -> Timestamp {
    cohort.round.since.after(cohort.terms.seat_deadline_s())
}

/// When each seat is free again, if its holder stays silent.
fn seat_ends(cohort: &Cohort) -> impl Iterator<Item = (&PeerId, Timestamp)> {
    let wait = cohort.terms.seat_deadline_s();
    let members = cohort.members.iter();
    members.filter_map(move |(peer, member)| Some((peer, member.seen?.after(wait))))
}

/// A signal that is signed goes to the network, whatever became of its cohort.
fn progress_broadcast(cohort: &Cohort, now: Timestamp) -> Step<Event> {
    let due = |signal: &&Signal| {
        signal.standing == Standing::Signed && signal.is_due(now) && cohort.is_offered(signal)
    };
    let signal = cohort.signals.iter().find(due);
    signal.map_or_else(Step::nothing, |signal| broadcast(cohort, signal, now))
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
