//! What the operator asks for.

use std::collections::BTreeSet;

use rand_core::CryptoRng;

use super::formation::{advert, may_join, wants};
use super::strikes::Dissolution;
use super::{Cohort, Command, Coordinator, Event, Phase, State};
use crate::ids::{CohortId, PeerId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::terms::Admission;

impl Coordinator {
    pub(super) fn command(
        &self,
        command: Command,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        match command {
            Command::Advertise {
                cohort,
                terms,
                invited,
            } => {
                if self.state.cohorts.contains_key(&cohort) {
                    return Err(Rejection::new(
                        Code::Invalid,
                        format!("cohort id {cohort}"),
                        "a fresh one",
                    ));
                }
                if terms.advert_expires <= now {
                    let got = format!("advert_expires {}", terms.advert_expires);
                    return Err(Rejection::new(
                        Code::Invalid,
                        got,
                        format!("later than now, {now}"),
                    ));
                }
                if (terms.admission == Admission::Invited) == invited.is_empty() {
                    let got = format!("{} invited peers", invited.len());
                    let expected = "invited peers exactly where admission is \"invited\"";
                    return Err(Rejection::new(Code::Invalid, got, expected));
                }
                let running = |cohort: &&Cohort| !cohort.is_over();
                if self.state.cohorts.values().filter(running).count() >= self.config.max_cohorts {
                    let max = self.config.max_cohorts;
                    return Err(Rejection::new(
                        Code::Limit,
                        "one cohort more",
                        format!("at most {max}"),
                    ));
                }
                let event = Event::CohortAdvertised {
                    cohort,
                    terms,
                    invited,
                    at: now,
                    succeeds: None,
                };
                let mut preview = State::default();
                preview.apply(&event);
                let mut step = Step::event(event);
                for cohort in preview.cohorts.values() {
                    for (peer, filter) in &self.state.subscribers {
                        if wants(filter, cohort) && may_join(cohort, peer) {
                            step = step.send(peer, advert(cohort), cohort.terms.advert_expires);
                        }
                    }
                }
                Ok(step)
            }
            Command::CloseAdmission { cohort } => {
                let cohort = self.cohort(cohort)?;
                if cohort.phase != Phase::Advertised {
                    return Err(Rejection::new(
                        Code::Phase,
                        "a cohort that is not advertised",
                        "one that is",
                    ));
                }
                if (cohort.members.len() as u64) < cohort.terms.min_members {
                    let got = format!("{} members", cohort.members.len());
                    let expected = format!("at least {}", cohort.terms.min_members);
                    return Err(Rejection::new(Code::Phase, got, expected));
                }
                Ok(Self::set(cohort, now))
            }
            Command::StartRound { cohort } => {
                let cohort = self.cohort(cohort)?;
                if cohort.phase != Phase::Acknowledged {
                    let expected = "a cohort that every member acknowledged";
                    return Err(Rejection::new(
                        Code::Phase,
                        format!("{:?}", cohort.phase),
                        expected,
                    ));
                }
                if cohort.is_closing() {
                    let got = "a cohort whose closing spend is signed";
                    let expected = "one that goes on: there are no more rounds";
                    return Err(Rejection::new(Code::Phase, got, expected));
                }
                Ok(Step::event(Event::RoundRequested { cohort: cohort.id }))
            }
            Command::Close { cohort, fee_rate } => {
                self.close_by_command(cohort, fee_rate, now, rng)
            }
            Command::Replace { cohort, fee_rate } => {
                self.replace_by_command(cohort, fee_rate, now, rng)
            }
            Command::Dissolve {
                cohort,
                without,
                successor,
            } => self.dissolve_by_command(cohort, without, successor, now, rng),
        }
    }

    fn dissolve_by_command(
        &self,
        cohort: CohortId,
        without: BTreeSet<PeerId>,
        successor: bool,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort(cohort)?;
        if !matches!(cohort.phase, Phase::Set | Phase::Acknowledged) {
            let got = format!("{:?}", cohort.phase);
            return Err(Rejection::new(
                Code::Phase,
                got,
                "a cohort that is set and not over",
            ));
        }
        if let Some(stranger) = without
            .iter()
            .find(|peer| !cohort.members.contains_key(peer))
        {
            let got = stranger.to_string();
            return Err(Rejection::new(Code::Invalid, got, "members of the cohort"));
        }
        let others = cohort.members.len() - without.len();
        if successor && others < 2 {
            let got = format!("{others} members for another cohort");
            let expected = "at least 2, or none to be formed";
            return Err(Rejection::new(Code::Invalid, got, expected));
        }
        let why = Dissolution {
            without,
            reason: "the operator ended it".to_owned(),
            successor,
        };
        Ok(Self::dissolve(cohort, why, now, rng))
    }
}
