//! The participant's machine: subscribes, joins, gives leaves, and signs what it has checked itself.
//!
//! Nothing that a coordinator says is taken on trust. [`formation`] recomputes the beacon address; [`session`] reviews
//! every signal before a nonce is made and makes the proofs durable before a partial signature leaves; what became of a
//! signal, the participant's own chain source says.

mod apply;
mod apply_signals;
mod chain;
mod commands;
mod contests;
mod derive;
mod endings;
mod event;
mod formation;
mod leaves;
mod membership;
mod offers;
mod outside;
mod psbt;
mod recovery;
mod session;
mod singleton;
mod state;
mod succession;
mod versions;
mod watch;

use std::collections::BTreeMap;

use beacon_signal::{Index, UpdateId};
use bitcoin::{Psbt, Transaction};
use rand_core::CryptoRng;

pub use derive::LeafSecret;
pub use event::{Event, RollbackEvidence};
pub use offers::Offer;
pub use psbt::PsbtView;
pub use singleton::SingletonSignal;
pub use state::{
    AskedPsbt, Candidate, Claim, Ended, ForeignSpend, Inquiry, Membership, Offered, Progress,
    Quarantine, Relationship, Session, Stage, Standing, State, Unproven,
};

use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::{Code, Input, Machine, Rejection, Step, Watches};
use crate::message::{DidContest, Message, Subscribe};
use crate::terms::BtcNetwork;

/// What the user sets: what is done without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The network of our own chain source. Cohorts of others cannot be joined: nothing could be checked.
    pub network: BtcNetwork,
    /// Join every cohort that is advertised, answering for these DIDs; `None`: ask.
    pub auto_join: Option<Vec<String>>,
    /// Whether cohorts are joined without asking though not only all members together can spend from their beacons.
    pub accept_script_tree: bool,
    /// Sign every signal for which all checks hold; otherwise ask.
    pub auto_sign: bool,
    /// Most coordinators.
    pub max_coordinators: usize,
    /// Most cohorts remembered of one coordinator.
    pub max_cohorts: usize,
}

impl Policy {
    /// Asks for everything.
    pub fn asking(network: BtcNetwork) -> Self {
        Self {
            network,
            auto_join: None,
            accept_script_tree: false,
            auto_sign: false,
            max_coordinators: 1_000,
            max_cohorts: 1_000,
        }
    }
}

/// What the user can ask for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Hear of a coordinator's cohorts.
    Subscribe {
        /// Its DID.
        coordinator: PeerId,
        /// The identity under which it will know us.
        own: PeerId,
        /// Index of that identity's keys.
        identity: u32,
        /// What to hear of.
        filter: Subscribe,
    },
    /// Hear no more.
    Unsubscribe {
        /// Its DID.
        coordinator: PeerId,
    },
    /// Join a cohort, or answer for further DIDs in one that was joined.
    Join {
        /// Which.
        cohort: CohortId,
        /// The DIDs to answer for.
        dids: Vec<String>,
        /// Whether the user agrees to what the terms' script tree means, where there is one.
        accept_script_tree: bool,
    },
    /// Leave before the cohort is set.
    Leave {
        /// Which.
        cohort: CohortId,
    },
    /// Claim a DID that another member answers for. The coordinator learns the DID, and who loses is out.
    Contest {
        /// Where.
        cohort: CohortId,
        /// The claim; its cohort id is the one of `cohort`.
        claim: DidContest,
    },
    /// Announce an update.
    RequestUpdate {
        /// Where.
        cohort: CohortId,
        /// Of which DID.
        did: String,
        /// SHA-256 of the signed update's canonical form.
        update: UpdateId,
        /// Its `targetVersionId`, where the user says it: at least 2.
        version: Option<u64>,
    },
    /// Announce an update by a DID's own singleton beacon.
    AnnounceSingleton {
        /// Of which DID.
        did: String,
        /// SHA-256 of the signed update's canonical form.
        update: UpdateId,
        /// Its `targetVersionId`: at least 2.
        version: u64,
        /// A spend of the beacon's address with its signatures; the last output announces the update.
        tx: Transaction,
    },
    /// Have all proofs of a cohort sent again, and complete those that lack an update.
    FetchProofs {
        /// Which.
        cohort: CohortId,
        /// Updates that the log may have lost.
        updates: Vec<UpdateId>,
    },
    /// Sign again with outputs that are in quarantine: the user takes the risk.
    ConfirmRollback {
        /// In this cohort; in all of them without.
        cohort: Option<CohortId>,
    },
    /// Sign, if every check holds.
    Approve {
        /// Which.
        session: SessionId,
    },
    /// Choose who makes nonces and partial signatures in a cohort: this process, or a signer outside of it.
    ChooseSigner {
        /// Where.
        cohort: CohortId,
        /// Whether it is outside.
        outside: bool,
    },
    /// Ask the coordinator for a session's PSBT.
    AskForPsbt {
        /// Which.
        session: SessionId,
    },
    /// Take from a PSBT what the signer outside has added to it. That approves the session.
    ImportPsbt(Box<Psbt>),
    /// Do not sign.
    Decline {
        /// Which.
        session: SessionId,
        /// Told to the coordinator.
        comment: String,
    },
}

/// The participant.
#[derive(Clone, Debug)]
pub struct Participant {
    policy: Policy,
    leaf_secret: LeafSecret,
    state: State,
}

impl Participant {
    /// A participant with an empty log. The secret is the same for the life of its seed.
    pub fn new(policy: Policy, leaf_secret: LeafSecret) -> Self {
        Self {
            policy,
            leaf_secret,
            state: State::default(),
        }
    }

    /// What replaying the log has given so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A cohort, where its coordinator is the sender.
    fn cohort_of(&self, id: CohortId, from: &PeerId) -> Result<&Membership, Rejection> {
        self.state.cohort_of(from, id).ok_or_else(|| {
            let expected = "a cohort that this coordinator advertised to us";
            Rejection::new(Code::UnknownCohort, format!("cohort {id}"), expected)
        })
    }

    /// A cohort of which we are a member, where its coordinator is the sender.
    fn membership(&self, id: CohortId, from: &PeerId) -> Result<&Membership, Rejection> {
        let cohort = self.cohort_of(id, from)?;
        if cohort.stage != Stage::Agreed {
            let expected = "none: we have not agreed to this cohort";
            return Err(Rejection::new(
                Code::Phase,
                "a message of signing",
                expected,
            ));
        }
        Ok(cohort)
    }

    /// A cohort that was agreed on, whatever became of it, where its coordinator is the sender.
    fn agreed_once(&self, id: CohortId, from: &PeerId) -> Result<&Membership, Rejection> {
        let cohort = self.cohort_of(id, from)?;
        if !cohort.was_agreed() {
            let expected = "none: we have not agreed to this cohort";
            return Err(Rejection::new(
                Code::Phase,
                "a message of signing",
                expected,
            ));
        }
        Ok(cohort)
    }

    /// A cohort that the user names.
    fn named(&self, id: CohortId) -> Result<&Membership, Rejection> {
        self.state.cohorts.get(&id).ok_or_else(|| {
            Rejection::new(
                Code::UnknownCohort,
                format!("cohort {id}"),
                "one that was advertised to us",
            )
        })
    }

    /// Under which DID a coordinator knows us.
    fn own(&self, coordinator: &PeerId) -> Option<&PeerId> {
        self.state
            .coordinators
            .get(coordinator)
            .map(|relationship| &relationship.own)
    }

    fn message(
        &self,
        from: &PeerId,
        to: &PeerId,
        message: Message,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        // A coordinator knows one of our identities. Told another, it learns no more than a stranger would.
        if self.own(from) != Some(to) {
            return Err(not_subscribed(message.kind()));
        }
        match message {
            Message::SubscribeAccept(body) => self.subscribe_accept(from, &body),
            Message::CohortAdvert(body) => self.cohort_advert(from, body, now),
            Message::CohortSet(body) => self.cohort_set(from, &body, now),
            Message::RegistrationResult(body) => self.registration_result(from, &body, now),
            Message::UpdateOpportunity(body) => self.update_opportunity(from, &body, now),
            Message::AuthorizationRequest(body) => self.authorization_request(from, body, now),
            Message::AggregatedNonces(body) => self.aggregated_nonces(from, body, now),
            Message::SessionPsbt(body) => self.psbt_given(from, &body),
            Message::SessionAborted(body) => self.session_aborted(from, &body, now),
            Message::SignalPublished(body) => self.signal_published(from, &body, now),
            other => Err(Rejection::new(
                Code::WrongRole,
                other.kind(),
                "a message that coordinators send",
            )),
        }
    }

    /// What is left to do for a cohort that is over.
    fn progress_over(&self, cohort: &Membership, now: Timestamp) -> Step<Event> {
        if let Some(session) = cohort.session.as_ref().filter(|open| open.deadline <= now) {
            return Self::late(cohort, session, now);
        }
        match &cohort.inquiry {
            Some(open) if cohort.was_agreed() && open.is_due(now) => {
                Self::inquire(cohort, open.from_round, now)
            }
            _ => self.move_updates(cohort),
        }
    }

    /// What follows from the facts: one thing at a time, until nothing more does.
    fn progress(&self, now: Timestamp) -> Step<Event> {
        let cohorts = self.state.cohorts.values();
        cohorts
            .map(|cohort| match &cohort.stage {
                Stage::Advertised => self.join_by_policy(cohort, now),
                Stage::OptedIn => Self::renew(cohort, now),
                Stage::Agreed => self.progress_signing(cohort, now),
                Stage::Dissolved(_) | Stage::Out(..) => self.progress_over(cohort, now),
                Stage::Joining => Step::nothing(),
            })
            .find(|step| !step.is_empty())
            .unwrap_or_default()
    }
}

fn not_subscribed(kind: &str) -> Rejection {
    Rejection::new(
        Code::NotSubscribed,
        kind,
        "none: we are not subscribed to this coordinator",
    )
}

/// DIDs by their index. The same DID twice is one.
fn by_index(dids: &[String]) -> BTreeMap<Index, String> {
    dids.iter()
        .map(|did| (Index::of_did(did), did.clone()))
        .collect()
}

impl Machine for Participant {
    type Event = Event;
    type Command = Command;
    type State = State;

    fn step(
        &self,
        input: Input<Command>,
        now: Timestamp,
        _: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        match input {
            Input::Message { from, to, message } => self.message(&from, &to, message, now),
            Input::Problem {
                from,
                cohort,
                code,
                comment,
            } => Ok(self.problem(&from, cohort, &code, &comment, now)),
            Input::Command(command) => self.command(command, now),
            Input::Chain(fact) => Ok(self.chain(fact, now)),
            Input::Signer(answer) => Ok(self.signer(answer, now)),
            Input::Control(_) => Ok(Step::nothing()), // A participant never asks.
            Input::Restarted => Ok(self.restarted(now)),
            Input::Tick => Ok(self.progress(now)),
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
            .flat_map(|cohort| {
                let session = cohort.session.as_ref().map(|session| session.deadline);
                let inquiry = cohort.inquiry.filter(|_| cohort.was_agreed());
                [
                    session,
                    cohort.renewal(),
                    inquiry.and_then(|open| open.due()),
                ]
            })
            .flatten()
            .min()
    }

    fn watches(&self) -> Watches {
        self.watched()
    }
}
