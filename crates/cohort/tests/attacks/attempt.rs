//! What a machine makes of one message. Nothing is applied to the machine itself: each attempt starts from the same state.

use beacon_cohort::coordinator::{self, Coordinator};
use beacon_cohort::hourly::Hourly;
use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::{Code, Effect, Input, Machine, Rejection, Step};
use beacon_cohort::message::{Message, MessageError, TYPE_PREFIX};
use beacon_cohort::participant::{Participant, State};
use beacon_cohort::signer::SignerRequest;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;
use serde_json::Value;

use crate::common::participant;

/// A machine of either role, at one moment of its life.
#[derive(Clone)]
pub(crate) enum Agent {
    Coordinator(Coordinator),
    Participant(Participant),
}

/// What came of a message.
pub(crate) struct Outcome {
    /// The code of a refusal; or the recorded events, with the codes that they and reports carry; or what was answered.
    pub label: String,
    /// The machine with what was recorded.
    pub after: Agent,
    /// What was recorded.
    pub events: Vec<Value>,
    /// What was sent.
    pub sent: Vec<Message>,
    /// Whether the signer was asked for a nonce, a signature or a proof.
    pub signs: bool,
    /// The refusal's text, as it would be reported.
    pub text: String,
}

impl Agent {
    pub(crate) fn coordinator() -> Self {
        Self::Coordinator(Coordinator::new(coordinator::Config::default()))
    }

    pub(crate) fn participant(number: usize) -> Self {
        Self::Participant(participant(number))
    }

    pub(crate) fn apply(&mut self, line: &str) {
        match self {
            Self::Coordinator(machine) => machine.apply(&serde_json::from_str(line).unwrap()),
            Self::Participant(machine) => machine.apply(&serde_json::from_str(line).unwrap()),
        }
    }

    /// As the driver does it: the body is read, and what cannot be read is refused before the machine sees it.
    pub(crate) fn hear(
        &self,
        from: &PeerId,
        to: &PeerId,
        kind: &str,
        body: &Value,
        now: Timestamp,
    ) -> Outcome {
        match Message::parse(&format!("{TYPE_PREFIX}{kind}"), body) {
            Ok(message) => self.hear_message(from, to, message, now),
            Err(error) => {
                let code = match error {
                    MessageError::UnknownType(_) => Code::UnknownType,
                    MessageError::Malformed { .. } => Code::Malformed,
                };
                self.refusal(code, error.to_string())
            }
        }
    }

    pub(crate) fn hear_message(
        &self,
        from: &PeerId,
        to: &PeerId,
        message: Message,
        now: Timestamp,
    ) -> Outcome {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (from, to) = (from.clone(), to.clone());
        match self {
            Self::Coordinator(machine) => {
                let input = Input::Message { from, to, message };
                let step = machine.step(input, now, &mut rng);
                self.outcome(step, machine, Self::Coordinator)
            }
            Self::Participant(machine) => {
                let input = Input::Message { from, to, message };
                let step = machine.step(input, now, &mut rng);
                self.outcome(step, machine, Self::Participant)
            }
        }
    }

    /// A participant's state, but for what it remembers of sessions that are over.
    pub(crate) fn without_ended(&self) -> State {
        let Self::Participant(machine) = self else {
            panic!("only participants decline");
        };
        let mut state = machine.state().clone();
        for cohort in state.cohorts.values_mut() {
            cohort.ended.clear();
            cohort.sessions = Hourly::default();
        }
        state
    }

    fn refusal(&self, code: Code, text: String) -> Outcome {
        Outcome {
            label: code.to_string(),
            after: self.clone(),
            events: Vec::new(),
            sent: Vec::new(),
            signs: false,
            text,
        }
    }

    fn outcome<M: Machine<Event: Serialize> + Clone>(
        &self,
        step: Result<Step<M::Event>, Rejection>,
        machine: &M,
        wrap: fn(M) -> Self,
    ) -> Outcome {
        let step = match step {
            Ok(step) => step,
            Err(rejection) => return self.refusal(rejection.code, rejection.to_string()),
        };
        let mut after = machine.clone();
        let mut events = Vec::new();
        for event in &step.events {
            after.apply(event);
            events.push(serde_json::to_value(event).unwrap());
        }
        let (mut sent, mut reports, mut signs) = (Vec::new(), Vec::new(), false);
        for effect in step.effects {
            match effect {
                Effect::Send { message, .. } => sent.push(message),
                Effect::Report { rejection, .. } => reports.push(rejection.code.to_string()),
                Effect::Sign(SignerRequest::Forget { .. }) | Effect::ProveControl(_) => {}
                Effect::Sign(_) => signs = true,
                Effect::Broadcast(_) => panic!("a message makes nobody publish anything"),
            }
        }
        Outcome {
            label: label(&events, &sent, &reports),
            after: wrap(after),
            events,
            sent,
            signs,
            text: String::new(),
        }
    }
}

impl PartialEq for Agent {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Coordinator(one), Self::Coordinator(two)) => one.state() == two.state(),
            (Self::Participant(one), Self::Participant(two)) => one.state() == two.state(),
            _ => false,
        }
    }
}

/// `session_ended(conflict)`, `cohort_refused(key-order) !e.p.cohort-mismatch`, `answers sign/no_update`, `nothing`.
fn label(events: &[Value], sent: &[Message], reports: &[String]) -> String {
    let mut parts: Vec<String> = events
        .iter()
        .map(|event| {
            let name = event["event"].as_str().unwrap();
            match event["code"].as_str() {
                Some(code) => format!("{name}({})", code.chars().take(40).collect::<String>()),
                None => name.to_owned(),
            }
        })
        .collect();
    if events.is_empty() {
        let mut kinds: Vec<_> = sent.iter().map(Message::kind).collect();
        kinds.dedup();
        parts.extend(kinds.iter().map(|kind| format!("answers {kind}")));
    }
    parts.extend(reports.iter().map(|code| format!("!{code}")));
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    parts.join(" ")
}
