//! From a join to a cohort that we agree with.

use std::collections::{BTreeMap, BTreeSet};

use super::endings::end;
use super::state::{Membership, Stage};
use super::{Event, Participant, by_index};
use crate::announcement::AnnouncedDid;
use crate::coordinator::FORMATION_EXPIRY_S;
use crate::ids::{CohortId, PeerId, Timestamp};
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::{
    CohortAck, CohortSet, OptIn, OptOut, ROUND_OPEN, RegistrationResult, shortened,
};
use crate::review::{self, OptedIn};
use crate::signer::{KeyPath, SignerRequest};
use crate::statement;
use crate::terms::BeaconType;
use crate::values::{CohortKey, StatementSignature};

/// Longest DID that is registered, in bytes.
const MAX_DID: usize = 2_048;

/// Least seconds between two opt-ins of one cohort.
const SEAT_REST_S: u64 = 60;

/// Highest fee cap of terms that are agreed to without asking, sat/vB: the terms' default.
const AUTO_JOIN_MAX_FEE_RATE_SAT_VB: u64 = 50;

impl Participant {
    pub(super) fn join_by_policy(&self, cohort: &Membership, now: Timestamp) -> Step<Event> {
        // Nobody looks at the terms: a coordinator could burn any deposit as fees within terms that nobody read.
        let bearable = cohort.terms.max_fee_rate_sat_vb <= AUTO_JOIN_MAX_FEE_RATE_SAT_VB;
        // A cohort that takes the place of another is joined for the same DIDs.
        let before = self.predecessor(cohort);
        // Nobody reads either that updates are told to all members in the open, but who has agreed to that before.
        let kind = cohort.terms.beacon_type;
        let private = kind == BeaconType::Smt
            || before.is_some_and(|before| before.terms.beacon_type == kind);
        // Nor who else can spend.
        let agreed =
            before.is_some_and(|before| before.terms.script_tree == cohort.terms.script_tree);
        let accept = self.policy.accept_script_tree || agreed;
        let dids = self.policy.auto_join.as_ref();
        let dids = dids.filter(|_| bearable && private);
        let before = before.map(|before| before.dids.values().cloned().collect::<Vec<_>>());
        let joined =
            dids.map(|dids| self.join(cohort, before.as_ref().unwrap_or(dids), accept, now));
        // What cannot be joined is left for the user to see in the list.
        joined.and_then(Result::ok).unwrap_or_default()
    }

    pub(super) fn join(
        &self,
        cohort: &Membership,
        dids: &[String],
        accept_script_tree: bool,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let max = cohort.terms.max_indexes_per_member;
        let asked = by_index(dids);
        let known = cohort.dids.keys().chain(cohort.registering.keys());
        let known = known.filter(|index| !asked.contains_key(index));
        let known = known.collect::<BTreeSet<_>>().len();
        if asked.is_empty() || (asked.len() + known) as u64 > max {
            let got = format!("{} DIDs besides {known}", asked.len());
            return Err(Rejection::new(
                Code::IndexCount,
                got,
                format!("1 to {max} together"),
            ));
        }
        if let Some(did) = dids
            .iter()
            .find(|did| did.len() > MAX_DID || !did.starts_with("did:"))
        {
            let got: String = did.chars().take(80).collect();
            return Err(Rejection::new(
                Code::Invalid,
                format!("{got:?}"),
                format!("a DID of at most {MAX_DID} bytes"),
            ));
        }
        if cohort.terms.beacon_type == BeaconType::Cas {
            for did in dids {
                let named = did.parse::<AnnouncedDid>();
                named.map_err(|error| {
                    let expected = "a DID that can stand in the map of a CAS cohort";
                    Rejection::new(Code::Invalid, error.to_string(), expected)
                })?;
            }
        }
        match cohort.stage {
            Stage::Advertised => {}
            Stage::Agreed => return Ok(Self::register(cohort, asked, now)),
            _ => {
                let got = format!("a cohort at stage {}", cohort.stage.name());
                return Err(Rejection::new(
                    Code::Phase,
                    got,
                    "one that is advertised or agreed",
                ));
            }
        }
        if cohort.terms.btc_network != self.policy.network {
            let got = format!("a cohort on {}", cohort.terms.btc_network);
            return Err(Rejection::new(
                Code::Invalid,
                got,
                format!("one on {}, where our chain source is", self.policy.network),
            ));
        }
        if cohort.terms.advert_expires <= now {
            let expires = cohort.terms.advert_expires;
            return Err(Rejection::new(
                Code::AdvertClosed,
                format!("an advert that ended at {expires}"),
                format!("later than {now}"),
            ));
        }
        if cohort.terms.script_tree.is_some() && !accept_script_tree {
            let got = "terms by which not only all members together can spend from the beacon";
            let expected = "your consent to that";
            return Err(Rejection::new(Code::Terms, got, expected));
        }
        let network = cohort.terms.btc_network;
        let path = KeyPath::of_cohort(network, &cohort.coordinator, cohort.id);
        let step = Step::event(Event::JoinRequested {
            cohort: cohort.handle,
            path,
            dids: asked,
        });
        Ok(self.prove(step, cohort, path))
    }

    /// Asks the signer for our key and the proof that we hold it.
    fn prove(&self, step: Step<Event>, cohort: &Membership, path: KeyPath) -> Step<Event> {
        let Some(did) = self.own(&cohort.coordinator).cloned() else {
            return step;
        };
        step.with(Effect::Sign(SignerRequest::ProvePossession {
            cohort: cohort.handle,
            id: cohort.id,
            path,
            did,
            terms: cohort.terms.hash(),
        }))
    }

    /// The signer's answer: the opt-in can go out.
    pub(super) fn possession(
        &self,
        cohort: CohortId,
        key: CohortKey,
        proof: StatementSignature,
        now: Timestamp,
    ) -> Step<Event> {
        let Some(cohort) = self
            .state
            .cohorts
            .get(&cohort)
            .filter(|cohort| cohort.stage == Stage::Joining)
        else {
            return Step::nothing();
        };
        let step = Step::event(Event::OptedIn {
            cohort: cohort.handle,
            key,
            proof,
            at: now,
        });
        send_opt_in(step, cohort, key, proof, now)
    }

    /// The same opt-in again, byte for byte: a seat is kept for those who show that they are there, and a lost opt-in
    /// takes one after all.
    pub(super) fn renew(cohort: &Membership, now: Timestamp) -> Step<Event> {
        if cohort.renewal().is_some_and(|at| at <= now) {
            Self::opt_in_again(cohort, now)
        } else {
            Step::nothing()
        }
    }

    fn opt_in_again(cohort: &Membership, now: Timestamp) -> Step<Event> {
        let (Some(key), Some(proof)) = (cohort.key, cohort.proof) else {
            return Step::nothing();
        };
        let step = Step::event(Event::OptInRenewed {
            cohort: cohort.handle,
            at: now,
        });
        send_opt_in(step, cohort, key, proof, now)
    }

    /// A join whose proof was being made when the process ended; and an opt-in after which the cohort may have been set, if
    /// this state is an old one.
    pub(super) fn restart_join(
        &self,
        cohort: &Membership,
        step: Step<Event>,
        now: Timestamp,
    ) -> Step<Event> {
        match (&cohort.stage, cohort.path) {
            (Stage::Joining, Some(path)) => self.prove(step, cohort, path),
            (Stage::OptedIn, _) => step.and(Self::opt_in_again(cohort, now)),
            _ => step,
        }
    }

    pub(super) fn leave(cohort: &Membership, now: Timestamp) -> Result<Step<Event>, Rejection> {
        if !matches!(cohort.stage, Stage::Joining | Stage::OptedIn) {
            let got = format!("a cohort at stage {}", cohort.stage.name());
            return Err(Rejection::new(
                Code::Phase,
                got,
                "one that we opted in to and that is not set",
            ));
        }
        let message = OptOut {
            cohort_id: cohort.id,
        };
        Ok(Step::event(Event::OptedOut {
            cohort: cohort.handle,
        })
        .send(&cohort.coordinator, message, now.after(FORMATION_EXPIRY_S)))
    }

    fn register(
        cohort: &Membership,
        mut asked: BTreeMap<beacon_signal::Index, String>,
        now: Timestamp,
    ) -> Step<Event> {
        asked.retain(|index, _| !cohort.dids.contains_key(index));
        // Asked again until it is answered, with the proofs that a DID needs of earlier rounds.
        let mut after = cohort.clone();
        after.registering.extend(asked.clone());
        Step::event(Event::RegistrationRequested {
            cohort: cohort.handle,
            dids: asked,
        })
        .and(Self::inquire(&after, 1, now))
    }

    pub(super) fn registration_result(
        &self,
        from: &PeerId,
        body: &RegistrationResult,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        if body.contest {
            return Ok(Self::contests_settled(
                self.cohort_of(body.cohort_id, from)?,
                body,
            ));
        }
        let cohort = self.agreed_once(body.cohort_id, from)?;
        let (mut accepted, mut refused) = (BTreeSet::new(), BTreeMap::new());
        let mut waits = false;
        for result in &body.results {
            if !cohort.registering.contains_key(&result.index) {
                continue; // Answered before, or never asked for.
            }
            let code = result.code.as_deref().unwrap_or_default();
            if result.accepted {
                accepted.insert(result.index);
            } else if code == ROUND_OPEN && cohort.inquiry.is_some() {
                waits = true; // Rounds end: it is asked again.
            } else {
                refused.insert(result.index, shortened(code));
            }
        }
        let mut step = Step::nothing();
        if !accepted.is_empty() || !refused.is_empty() {
            step.events.push(Event::Registered {
                cohort: cohort.handle,
                accepted: accepted.iter().copied().collect(),
                refused,
            });
        }
        step = Self::registered_leaves(step, cohort, &accepted, now);
        Ok(step.and(self.recover(cohort, body, &accepted, waits, now)))
    }

    pub(super) fn cohort_set(
        &self,
        from: &PeerId,
        body: &CohortSet,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort_of(body.cohort_id, from)?;
        let Some(key) = cohort.key else {
            return Err(Rejection::new(
                Code::Phase,
                "cohort_set",
                "none: we did not opt in",
            ));
        };
        let ack = |beacon: &crate::musig::BeaconKey| CohortAck {
            cohort_id: cohort.id,
            ack_hash: statement::cohort_ack(&body.terms_hash, beacon.keys(), &body.beacon_address),
        };
        let expires = now.after(FORMATION_EXPIRY_S);
        match &cohort.stage {
            Stage::Agreed => {
                // Membership is frozen: the same again is acknowledged again, another is a fault.
                return match &cohort.beacon {
                    Some(beacon)
                        if beacon.keys() == body.cohort_keys
                            && body.terms_hash == cohort.terms.hash()
                            && body.beacon_address
                                == beacon.address(cohort.terms.btc_network.bitcoin()) =>
                    {
                        Ok(Step::nothing().send(from, ack(beacon), expires))
                    }
                    _ => Err(Rejection::new(
                        Code::Conflict,
                        "another cohort_set",
                        "the one agreed to",
                    )),
                };
            }
            Stage::OptedIn => {}
            Stage::Out(code, _) => {
                // It counts on us: told so, the coordinator gives it up at once.
                let got = format!("a cohort with us, who are out: {code}");
                let expected = "one without us";
                return Err(Rejection::new(Code::CohortMismatch, got, expected));
            }
            Stage::Advertised | Stage::Joining | Stage::Dissolved(_) => {
                let got = format!("cohort_set at stage {}", cohort.stage.name());
                return Err(Rejection::new(Code::Phase, got, "one after our opt-in"));
            }
        }
        let own = OptedIn {
            terms: &cohort.terms,
            terms_hash: cohort.terms.hash(),
            key,
        };
        match review::review_cohort(body, &own) {
            Ok(beacon) => Ok(Step::event(Event::CohortAgreed {
                cohort: cohort.handle,
                keys: beacon.keys().to_vec(),
                address: body.beacon_address.clone(),
            })
            .send(from, ack(&beacon), expires)
            // Nothing was signed here before, unless our state is an old one.
            .and(Self::inquire(cohort, 1, now))),
            Err(declined) => {
                // The driver turns a rejection into a problem report; the reason is kept for the user as well.
                Ok(Step::event(Event::CohortRefused {
                    cohort: cohort.handle,
                    code: declined.code.as_str().to_owned(),
                    comment: declined.comment.clone(),
                })
                .with(Effect::Report {
                    to: from.clone(),
                    cohort: cohort.id,
                    rejection: Rejection::new(
                        Code::CohortMismatch,
                        declined.to_string(),
                        "the cohort that we opted in to",
                    ),
                }))
            }
        }
    }

    /// A coordinator's problem report. It matters where it answers our opt-in, or gives up a cohort in which we signed
    /// nothing; anything else shows in the log.
    pub(super) fn problem(
        &self,
        from: &PeerId,
        cohort: Option<CohortId>,
        code: &str,
        comment: &str,
        now: Timestamp,
    ) -> Step<Event> {
        let Some(cohort) = cohort.and_then(|id| self.cohort_of(id, from).ok()) else {
            // Not a cohort, but a session?
            return cohort.map_or_else(Step::nothing, |thread| {
                self.psbt_refused(from, thread, code, comment)
            });
        };
        if code == Code::SeatReleased.as_str() && cohort.stage == Stage::OptedIn {
            // We are still here. Not at once again and again: the next renewal would do as well.
            let rest = cohort.terms.response_deadline_s.max(SEAT_REST_S);
            let rested = cohort.opted_in.after(rest) <= now;
            let open = now < cohort.terms.advert_expires;
            return if rested && open {
                Self::opt_in_again(cohort, now)
            } else {
                Step::nothing()
            };
        }
        if code == Code::Round.as_str() && cohort.stage == Stage::Agreed && cohort.inquiry.is_none()
        {
            // Somebody's state is old. What was signed since our round says whether it is ours, and shows the coordinator
            // how far we are.
            return Self::inquire(cohort, cohort.round, now);
        }
        if code == Code::CohortDissolved.as_str() && cohort.stage == Stage::Agreed {
            let mut step = Step::nothing();
            if let Some(open) = &cohort.session {
                step = end(
                    step,
                    cohort,
                    open.id,
                    code,
                    "the coordinator dissolved the cohort",
                );
            }
            step.events
                .push(Self::dissolved(cohort, code, comment, now));
            return step;
        }
        let out = match cohort.stage {
            // A full store or table may have room the next time.
            Stage::OptedIn => code != Code::Limit.as_str(),
            Stage::Agreed => {
                code == Code::CohortFailed.as_str()
                    && cohort.candidates.is_empty()
                    && cohort.session.is_none()
            }
            Stage::Advertised | Stage::Joining | Stage::Dissolved(_) | Stage::Out(..) => false,
        };
        if !out {
            return Step::nothing();
        }
        Step::event(Event::OptInRefused {
            cohort: cohort.handle,
            code: shortened(code),
            comment: shortened(comment),
        })
    }
}

fn send_opt_in(
    step: Step<Event>,
    cohort: &Membership,
    key: CohortKey,
    proof: StatementSignature,
    now: Timestamp,
) -> Step<Event> {
    let message = OptIn {
        cohort_id: cohort.id,
        participant_pk: key,
        terms_hash: cohort.terms.hash(),
        proof_of_possession: proof,
        indexes: cohort.dids.keys().copied().collect(),
    };
    // A last repetition after the advert's end asks what became of the cohort.
    let expires = now
        .after(FORMATION_EXPIRY_S)
        .min(cohort.terms.advert_expires)
        .max(now.after(cohort.terms.response_deadline_s));
    step.send(&cohort.coordinator, message, expires)
}

impl Stage {
    /// One word for people and machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Advertised => "advertised",
            Self::Joining => "joining",
            Self::OptedIn => "opted-in",
            Self::Agreed => "agreed",
            Self::Dissolved(_) => "dissolved",
            Self::Out(..) => "out",
        }
    }
}
