//! Contested indexes: who proves control of a DID gets its index, and who loses is out (docs/protocol.md, section
//! "Contested indexes").
//!
//! This machine knows no DID method. It records the contest, asks for a judgement, and draws the consequences.

use beacon_signal::Index;
use rand_core::CryptoRng;

use super::strikes::Dissolution;
use super::{Cohort, Contest, Coordinator, Event, FORMATION_EXPIRY_S, Outcome, Phase};
use crate::ids::{PeerId, Timestamp};
use crate::machine::{
    Code, ControlAnswer, ControlQuestion, ControlVerdict, Effect, Rejection, Step,
};
use crate::message::{DidContest, IndexResult, RegistrationResult};

/// Contests of one peer in one cohort, within an hour.
pub(super) const MAX_CONTESTS: usize = 3;
/// Contests of all peers in one cohort, within an hour.
const MAX_ALL_CONTESTS: u64 = 30;
/// Peers that are out, and proven indexes, that a cohort remembers.
const MAX_JUDGED: usize = 1_024;
/// How often one contest is asked about.
const MAX_TRIES: u32 = 8;
/// Seconds until it is asked about again: longer than a judgement takes.
pub(super) const ASK_AGAIN_S: u64 = 300;

impl Coordinator {
    pub(super) fn did_contest(
        &self,
        peer: &PeerId,
        body: DidContest,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort(body.cohort_id)?;
        let over = |code| Rejection::new(code, "a contest", "none: the cohort is over");
        match &cohort.phase {
            Phase::Failed(_) => return Err(over(Code::CohortFailed)),
            Phase::Dissolved(_) => return Err(over(Code::CohortDissolved)),
            Phase::Advertised | Phase::Set | Phase::Acknowledged => {}
        }
        if !self.state.subscribers.contains_key(peer) && !cohort.members.contains_key(peer) {
            let expected = "a subscriber or a member";
            return Err(Rejection::new(Code::NotSubscribed, "a contest", expected));
        }
        cohort.check_excluded(peer)?;
        body.check_length(Code::Malformed)?;
        let index = Index::of_did(&body.did);
        if let Some(proven) = cohort.proven.get(&index) {
            let refusal = (proven != peer).then_some(INDEX_TAKEN);
            return Ok(answer(Step::nothing(), cohort, index, peer, refusal, now));
        }
        if let Some(open) = cohort.contests.get(&index) {
            return if open.peer == *peer && open.body == body {
                Ok(Step::nothing())
            } else {
                let expected = "none until the one before is settled";
                Err(Rejection::new(
                    Code::Limit,
                    "a contest of the same index",
                    expected,
                ))
            };
        }
        if cohort.holder(&index).is_none() {
            let got = format!("index {index}, which nobody holds");
            let expected = "one of a member: opt in or register it";
            return Err(Rejection::new(Code::UnknownIndex, got, expected));
        }
        if let Some(made) = cohort.contested.get(peer) {
            made.has_room("one contest more", MAX_CONTESTS, now)?;
        }
        let recent = cohort.contested.values().filter(|made| made.is_recent(now));
        let all: u64 = recent.map(|made| u64::from(made.count)).sum();
        if all >= MAX_ALL_CONTESTS || cohort.proven.len() + cohort.excluded.len() >= MAX_JUDGED {
            let expected = format!("fewer than {MAX_ALL_CONTESTS} in this cohort within the hour");
            return Err(Rejection::new(Code::Limit, "one contest more", expected));
        }
        let contest = Contest {
            peer: peer.clone(),
            body,
            tries: 1,
            again: now.after(ASK_AGAIN_S),
        };
        let question = question(index, &contest);
        Ok(Step::event(Event::IndexContested {
            cohort: cohort.id,
            index,
            peer: contest.peer,
            contest: Box::new(contest.body),
            at: now,
        })
        .with(question))
    }

    /// The judgement.
    pub(super) fn control(
        &self,
        judged: ControlAnswer,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let ControlAnswer {
            cohort,
            index,
            peer,
            verdict,
        } = judged;
        let cohort = self.state.cohorts.get(&cohort);
        let Some((cohort, contest)) = cohort.and_then(|it| Some((it, it.contests.get(&index)?)))
        else {
            return Step::nothing();
        };
        if contest.peer != peer {
            return Step::nothing();
        }
        match verdict {
            ControlVerdict::Proven => settle(
                cohort,
                index,
                contest,
                Outcome::Proven,
                String::new(),
                now,
                rng,
            ),
            ControlVerdict::Unproven(reason) => {
                settle(cohort, index, contest, Outcome::Unproven, reason, now, rng)
            }
            // It is asked about again at its time.
            ControlVerdict::Unavailable(_) => Step::nothing(),
        }
    }

    /// A contest that was not judged in time is asked about again, a few times.
    pub(super) fn progress_contests(
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let mut due = cohort
            .contests
            .iter()
            .filter(|(_, contest)| contest.again <= now);
        let Some((index, contest)) = due.next() else {
            return Step::nothing();
        };
        if contest.tries >= MAX_TRIES {
            let reason = "the chain source did not answer".to_owned();
            return settle(
                cohort,
                *index,
                contest,
                Outcome::Unavailable,
                reason,
                now,
                rng,
            );
        }
        Step::event(Event::ContestAsked {
            cohort: cohort.id,
            index: *index,
            at: now,
        })
        .with(question(*index, contest))
    }

    /// What was asked about before the process ended.
    pub(super) fn open_questions(&self) -> impl Iterator<Item = Effect> {
        let cohorts = self.state.cohorts.values();
        cohorts.flat_map(|cohort| {
            cohort
                .contests
                .iter()
                .map(|(index, contest)| question(*index, contest))
        })
    }
}

/// The code of a result where another peer has proven control before.
const INDEX_TAKEN: &str = "index-taken";

fn question(index: Index, contest: &Contest) -> Effect {
    Effect::ProveControl(Box::new(ControlQuestion {
        index,
        peer: contest.peer.clone(),
        contest: contest.body.clone(),
    }))
}

/// What the contester is told. That the index is its own does not register it yet.
fn answer(
    step: Step<Event>,
    cohort: &Cohort,
    index: Index,
    peer: &PeerId,
    refusal: Option<&str>,
    now: Timestamp,
) -> Step<Event> {
    let result = IndexResult {
        index,
        accepted: refusal.is_none(),
        code: refusal.map(str::to_owned),
        proofs: Vec::new(),
    };
    let message = RegistrationResult {
        cohort_id: cohort.id,
        results: vec![result],
        contest: true,
        signals: Vec::new(),
        maps: Vec::new(),
        next_round: None,
    };
    step.send(peer, message, now.after(FORMATION_EXPIRY_S))
}

fn settle(
    cohort: &Cohort,
    index: Index,
    contest: &Contest,
    outcome: Outcome,
    reason: String,
    now: Timestamp,
    rng: &mut dyn CryptoRng,
) -> Step<Event> {
    let step = Step::event(Event::ContestSettled {
        cohort: cohort.id,
        index,
        peer: contest.peer.clone(),
        outcome,
        reason,
    });
    let refusal = match outcome {
        Outcome::Proven => None,
        Outcome::Unproven => Some("control-unproven"),
        Outcome::Unavailable => Some("control-unavailable"),
    };
    let step = answer(step, cohort, index, &contest.peer, refusal, now);
    let loser = cohort.loser(&index, &contest.peer, outcome);
    let Some(loser) = loser.filter(|peer| cohort.members.contains_key(peer)) else {
        return step;
    };
    if cohort.phase == Phase::Advertised {
        return step.with(Effect::Report {
            to: loser.clone(),
            cohort: cohort.id,
            rejection: lost(),
        });
    }
    let why = Dissolution {
        reason: format!("{loser} lost the contest of index {index}"),
        without: [loser.clone()].into(),
        successor: true,
    };
    step.and(Coordinator::dissolve(cohort, why, now, rng))
}

/// What who lost a contest is told.
fn lost() -> Rejection {
    let got = "an index whose DID another peer controls, or a contest without control of the DID";
    Rejection::new(Code::ControlUnproven, got, "DIDs that the member controls")
}

impl Cohort {
    /// Who answers for an index.
    fn holder(&self, index: &Index) -> Option<&PeerId> {
        let mut members = self.members.iter();
        let held = members.find(|(_, member)| member.indexes.contains(index));
        held.map(|(peer, _)| peer)
    }

    /// Who is out by the end of a contest. A member that contests its own index, to be safe from others, risks nothing.
    pub(super) fn loser(
        &self,
        index: &Index,
        contester: &PeerId,
        outcome: Outcome,
    ) -> Option<PeerId> {
        let holder = self.holder(index).filter(|holder| *holder != contester);
        let loser = match outcome {
            Outcome::Proven => holder,
            Outcome::Unproven => holder.map(|_| contester),
            Outcome::Unavailable => None,
        };
        loser.cloned()
    }

    /// Refuses who lost a contest in this cohort.
    pub(super) fn check_excluded(&self, peer: &PeerId) -> Result<(), Rejection> {
        if self.excluded.contains(peer) {
            Err(lost())
        } else {
            Ok(())
        }
    }

    /// Whether an index is another one's, held or proven.
    pub(super) fn is_taken(&self, index: &Index, peer: &PeerId) -> bool {
        let proven = self.proven.get(index);
        proven.is_some_and(|proven| proven != peer) || self.holder(index).is_some()
    }
}
