//! Members that do not do their part: strikes, the end of a cohort, and the cohort that follows it
//! (docs/adr/0012-strikes.md).

use std::collections::BTreeSet;

use rand_core::CryptoRng;
use serde_json::Value;

use super::formation::advert;
use super::session::fresh_uuid;
use super::{Cohort, Coordinator, Declines, Event, FORMATION_EXPIRY_S, Phase, Stage, State};
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::{NextStep, SessionAborted};
use crate::review::DeclineCode;
use crate::terms::AgreedTerms;

/// Declines that are nobody's fault: a member restarted, its chain source was behind or ahead, or its state was restored.
const FORGIVEN: [DeclineCode; 6] = [
    DeclineCode::NonceLost,
    DeclineCode::ChainUnseen,
    DeclineCode::ChainUnconfirmed,
    DeclineCode::RolledBack,
    DeclineCode::ReplacesUnknown,
    DeclineCode::ReplacesMined,
];

/// Whether a decline is nobody's fault. Such a session is tried again by itself.
pub(super) fn is_forgiven(code: &str) -> bool {
    FORGIVEN.iter().any(|forgiven| forgiven.as_str() == code)
}

/// Why a cohort ends that was set.
pub(super) struct Dissolution {
    /// Members that are left behind.
    pub(super) without: BTreeSet<PeerId>,
    /// For the operator.
    pub(super) reason: String,
    /// Whether the others are invited to a new cohort.
    pub(super) successor: bool,
}

impl Coordinator {
    /// Our own outage is nobody's fault. Recorded where it matters only, or every start would write to the log.
    pub(super) fn restarted(&self, now: Timestamp) -> Step<Event> {
        let mut cohorts = self.state.cohorts.values();
        let matters = cohorts.any(|cohort| match cohort.phase {
            Phase::Advertised => !cohort.members.is_empty(),
            Phase::Set => true,
            Phase::Acknowledged => {
                cohort.session.is_some() || matches!(cohort.round.stage, Stage::Open { .. })
            }
            Phase::Failed(_) | Phase::Dissolved(_) => false,
        });
        let step = if matters {
            Step::event(Event::Restarted { at: now })
        } else {
            Step::nothing()
        };
        self.open_questions().fold(step, Step::with)
    }

    /// Those who are struck for a deadline that they missed. Nobody, where it was ours: we were started meanwhile, or most of
    /// the members missed it. And nobody twice for one absence of an ordinary length (docs/adr/0013-lateness.md).
    pub(super) fn late<'a>(
        cohort: &'a Cohort,
        missing: &[&'a PeerId],
        excused: bool,
        now: Timestamp,
    ) -> Vec<PeerId> {
        if excused || 2 * missing.len() > cohort.members.len() {
            return Vec::new();
        }
        let absence = cohort.terms.seat_deadline_s();
        let struck_lately = |peer: &PeerId| {
            let last = cohort.members.get(peer).and_then(|member| member.late);
            last.is_some_and(|last| now < last.after(absence))
        };
        let struck = missing.iter().filter(|peer| !struck_lately(peer));
        struck.map(|peer| (*peer).clone()).collect()
    }

    /// The strikes for the declines of the last session, once nobody can decline it any more.
    pub(super) fn judge(cohort: &Cohort, now: Timestamp) -> Step<Event> {
        let Some(Declines {
            session,
            excused,
            by,
            ..
        }) = &cohort.declines
        else {
            return Step::nothing();
        };
        if *excused || 2 * by.len() > cohort.members.len() {
            return Step::nothing();
        }
        // Whose round is wrong shows at the next ones: a member may be ahead of an old state of ours.
        let other_round = DeclineCode::WrongRound.as_str();
        let blamed = by
            .iter()
            .filter(|(_, code)| !is_forgiven(code) && *code != other_round);
        let struck = |(peer, code): (&PeerId, &String)| Event::Struck {
            cohort: cohort.id,
            peer: peer.clone(),
            session: Some(*session),
            code: code.clone(),
            at: now,
            evidence: None,
        };
        let mut events: Vec<_> = blamed.map(struck).collect();
        if !events.is_empty() {
            events.push(Event::DeclinesJudged {
                cohort: cohort.id,
                session: *session,
            });
        }
        Step {
            events,
            effects: Vec::new(),
        }
    }

    /// Ends the cohort if a member has as many strikes as the terms allow.
    pub(super) fn dissolve_without_offenders(
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let limit = cohort.max_strikes();
        let members = cohort.members.iter();
        let out = members.filter(|(_, member)| member.strikes >= limit);
        let without: BTreeSet<_> = out.map(|(peer, _)| peer.clone()).collect();
        if without.is_empty() {
            return Step::nothing();
        }
        let names: Vec<_> = without.iter().map(PeerId::as_str).collect();
        let reason = format!("{} had {limit} strikes", names.join(", "));
        let why = Dissolution {
            without,
            reason,
            successor: true,
        };
        Self::dissolve(cohort, why, now, rng)
    }

    /// Ends a cohort that was set, tells its members, and invites those who stay to the next one.
    pub(super) fn dissolve(
        cohort: &Cohort,
        why: Dissolution,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let Dissolution {
            without,
            reason,
            successor,
        } = why;
        let members = cohort.members.keys();
        let others: BTreeSet<_> = members
            .filter(|peer| !without.contains(peer))
            .cloned()
            .collect();
        let mut step = Step::event(Event::CohortDissolved {
            cohort: cohort.id,
            without,
            reason,
        });
        for peer in cohort.members.keys() {
            if let Some(session) = &cohort.session {
                let message = dissolved(cohort.id, session.id);
                step = step.send(peer, message, now.after(FORMATION_EXPIRY_S));
            }
            step = step.with(report_dissolved(cohort, peer.clone()));
        }
        if successor {
            step.and(Self::succeed(cohort, others, now, rng))
        } else {
            step
        }
    }

    /// Opens a cohort on the same terms for exactly these members of one that is over. Fewer than two make none.
    pub(super) fn succeed(
        cohort: &Cohort,
        others: BTreeSet<PeerId>,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let count = others.len() as u64;
        let mut terms = cohort.terms.value().clone();
        let open_for = cohort
            .terms
            .advert_expires
            .0
            .saturating_sub(cohort.advertised.0);
        let expires = now.after(open_for.max(1));
        if let Value::Object(members) = &mut terms {
            let mut set = |name: &str, value: Value| members.insert(name.to_owned(), value);
            set("admission", "invited".into());
            set("min_members", cohort.terms.min_members.min(count).into());
            set("max_members", count.into());
            set("advert_expires", expires.0.into());
        }
        let terms = AgreedTerms::parse(terms);
        let (true, Ok(terms)) = (count >= 2, terms) else {
            return Step::nothing();
        };
        let event = Event::CohortAdvertised {
            cohort: CohortId(fresh_uuid(rng)),
            terms,
            invited: others,
            at: now,
            succeeds: Some(cohort.id),
        };
        let mut preview = State::default();
        preview.apply(&event);
        let step = Step::event(event);
        preview.cohorts.values().fold(step, |step, next| {
            next.invited
                .iter()
                .fold(step, |step, peer| step.send(peer, advert(next), expires))
        })
    }
}

/// What every member is told. Who was out is between the coordinator and that member.
pub(super) fn report_dissolved(cohort: &Cohort, to: PeerId) -> Effect {
    let expected = "a cohort whose members all do their part";
    Effect::Report {
        to,
        cohort: cohort.id,
        rejection: Rejection::new(Code::CohortDissolved, "the end of the cohort", expected),
    }
}

/// What a member is told whose session ends with its cohort.
fn dissolved(cohort_id: CohortId, session_id: SessionId) -> SessionAborted {
    SessionAborted {
        session_id,
        cohort_id,
        code: Code::CohortDissolved.as_str().to_owned(),
        next: NextStep::CohortDissolved,
    }
}
