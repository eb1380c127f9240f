//! The coordinator's machine: advertises cohorts, collects leaves, nonces and partial signatures, publishes signals.
//!
//! It holds no key. What it does wrong, members decline; what members do wrong, it refuses with a code, and the
//! state does not change. Facts are recorded by the handlers in [`formation`] and [`signing`]; [`progress`] derives
//! what follows from them.

mod apply;
mod apply_session;
mod chain;
mod closing;
mod commands;
mod commitment;
mod contests;
mod event;
mod fees;
mod formation;
mod funding;
mod history;
mod progress;
mod psbt;
mod replacement;
mod session;
mod signing;
mod state;
mod strikes;

use std::collections::BTreeSet;

use rand_core::CryptoRng;

pub(crate) use closing::CLOSED;
pub use closing::CloseError;
pub use event::Event;
pub use fees::{FALLBACK_SAT_VB, FeeEstimate, FeeRate};
pub use funding::{Funding, FundingState};
pub use replacement::ReplacementError;
pub use state::{
    Abandoned, Cohort, Contest, Contribution, Declines, GivenNonces, Member, Outcome, Patience,
    Phase, Round, Session, Signal, Stage, Standing, State, Strike,
};

use crate::ids::{CohortId, PeerId, Timestamp};
use crate::machine::{Code, Input, Machine, Rejection, Step, Watches};
use crate::message::Message;
use crate::terms::AgreedTerms;

/// Seconds for which messages of formation are kept for a peer that cannot be reached.
pub(crate) const FORMATION_EXPIRY_S: u64 = 86_400;
/// Outputs of one beacon address that are remembered.
const MAX_FUNDS: usize = 64;
/// How often a peer may change its mind within an hour: subscribe or want to hear of something else, or give up a seat.
const MAX_CHANGES: usize = 10;
/// The reason for a session's end, or a strike, where a deadline has passed.
const TIMEOUT: &str = "timeout";
/// What a decline code of another version is recorded as.
const OTHER_DECLINE: &str = "other";

/// What the operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The coordinator's name for itself.
    pub label: Option<String>,
    /// Fee rate of signals; the terms' maximum bounds it.
    pub fee_rate: FeeRate,
    /// Most subscribers.
    pub max_subscribers: usize,
    /// Most cohorts that are not over.
    pub max_cohorts: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            label: None,
            fee_rate: FeeRate::Fixed(2),
            max_subscribers: 10_000,
            max_cohorts: 1_000,
        }
    }
}

/// What the operator can ask for.
#[expect(
    clippy::large_enum_variant,
    reason = "commands are typed by hand, one at a time"
)]
#[derive(Clone, Debug)]
pub enum Command {
    /// Open a cohort and tell the subscribers.
    Advertise {
        /// A fresh id.
        cohort: CohortId,
        /// Its terms.
        terms: AgreedTerms,
        /// Who may join, where the terms say "invited".
        invited: BTreeSet<PeerId>,
    },
    /// Set the cohort with those who are there.
    CloseAdmission {
        /// Which.
        cohort: CohortId,
    },
    /// Start a round now, or try again one that stopped.
    StartRound {
        /// Which.
        cohort: CohortId,
    },
    /// Replace the signal that waits for its first confirmation, before the terms' patience is over.
    Replace {
        /// Which cohort's.
        cohort: CohortId,
        /// At this fee rate, sat/vB; `None`: at the coordinator's, or at the lowest that nodes take.
        fee_rate: Option<u64>,
    },
    /// Spend what the beacon holds to the script of the terms, in a transaction that announces nothing. Once it is signed there
    /// are no more rounds.
    Close {
        /// Which.
        cohort: CohortId,
        /// At this fee rate, sat/vB; `None`: at the coordinator's.
        fee_rate: Option<u64>,
    },
    /// End a cohort that was set. What its address holds stays there: only all of its members together can spend it.
    Dissolve {
        /// Which.
        cohort: CohortId,
        /// Members that are left behind.
        without: BTreeSet<PeerId>,
        /// Whether the others are invited to a new one.
        successor: bool,
    },
}

/// The coordinator.
#[derive(Clone, Debug)]
pub struct Coordinator {
    config: Config,
    state: State,
}

impl Coordinator {
    /// A coordinator with an empty log.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::default(),
        }
    }

    /// What replaying the log has given so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn cohort(&self, id: CohortId) -> Result<&Cohort, Rejection> {
        self.state.cohorts.get(&id).ok_or_else(|| {
            Rejection::new(
                Code::UnknownCohort,
                format!("cohort {id}"),
                "a cohort of this coordinator",
            )
        })
    }

    /// The cohort and the sender's membership in it: what every message of a member is checked for first.
    fn membership(&self, id: CohortId, peer: &PeerId) -> Result<(&Cohort, &Member), Rejection> {
        let (cohort, member) = self.seat(id, peer)?;
        // Whoever was away when it ended learns it now.
        let over = |code, reason| Rejection::new(code, reason, "none: the cohort is over");
        match &cohort.phase {
            Phase::Failed(reason) => Err(over(Code::CohortFailed, reason.as_str())),
            Phase::Dissolved(_) => Err(over(Code::CohortDissolved, "a message for it")),
            Phase::Advertised | Phase::Set | Phase::Acknowledged => Ok((cohort, member)),
        }
    }

    /// As [`Self::membership`], of cohorts that are over as well.
    fn seat(&self, id: CohortId, peer: &PeerId) -> Result<(&Cohort, &Member), Rejection> {
        let cohort = self.cohort(id)?;
        let member = cohort.members.get(peer).ok_or_else(|| {
            Rejection::new(
                Code::NotAMember,
                "a message of a stranger",
                "a message of a member",
            )
        })?;
        Ok((cohort, member))
    }

    /// As [`Self::membership`], for what belongs to a session: a cohort that is over may still be closed.
    fn signing_membership(
        &self,
        id: CohortId,
        peer: &PeerId,
    ) -> Result<(&Cohort, &Member), Rejection> {
        match self.seat(id, peer)? {
            (cohort, member) if cohort.session.is_some() => Ok((cohort, member)),
            _ => self.membership(id, peer),
        }
    }

    fn message(
        &self,
        from: PeerId,
        message: Message,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        match message {
            Message::Subscribe(body) => self.subscribe(&from, &body, now),
            Message::Unsubscribe(_) => self.unsubscribe(from),
            Message::OptIn(body) => self.opt_in(from, &body, now),
            Message::OptOut(body) => self.opt_out(from, body.cohort_id, now),
            Message::CohortAck(body) => self.cohort_ack(from, &body),
            Message::DidRegistration(body) => self.did_registration(&from, body, now),
            Message::DidContest(body) => self.did_contest(&from, body, now),
            Message::RequestSignature(body) => {
                let data = Some(body.data);
                self.leaves(from, body.cohort_id, body.round, body.leaves, data, now)
            }
            Message::NoUpdate(body) => {
                self.leaves(from, body.cohort_id, body.round, body.leaves, None, now)
            }
            Message::NonceContribution(body) => self.nonce_contribution(from, body, now),
            Message::SignatureAuthorization(body) => self.signature_authorization(from, body, now),
            Message::PsbtRequest(body) => self.psbt_request(&from, &body, now),
            Message::Decline(body) => self.decline(from, &body, now),
            other => Err(Rejection::new(
                Code::WrongRole,
                other.kind(),
                "a message that participants send",
            )),
        }
    }
}

impl Machine for Coordinator {
    type Event = Event;
    type Command = Command;
    type State = State;

    fn step(
        &self,
        input: Input<Command>,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        match input {
            Input::Message { from, message, .. } => self.message(from, message, now),
            Input::Command(command) => self.command(command, now, rng),
            Input::Chain(fact) => Ok(self.chain(fact, now)),
            Input::Tick => Ok(self.progress(now, rng)),
            Input::Problem {
                from, cohort, code, ..
            } => Ok(self.problem(&from, cohort, &code)),
            Input::Restarted => Ok(self.restarted(now)),
            Input::Control(answer) => Ok(self.control(answer, now, rng)),
            Input::Signer(_) => Ok(Step::nothing()), // A coordinator has none.
        }
    }

    fn apply(&mut self, event: &Event) {
        self.state.apply(event);
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn restore(&mut self, state: State) {
        self.state = state;
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.state
            .cohorts
            .values()
            .filter_map(|cohort| self.cohort_deadline(cohort))
            .min()
    }

    fn watches(&self) -> Watches {
        let mut watches = Watches {
            fee_target: self.fee_target(),
            ..Watches::default()
        };
        let cohorts = self.state.cohorts.values();
        cohorts.for_each(|cohort| cohort.add_watches(&mut watches));
        watches
    }
}
