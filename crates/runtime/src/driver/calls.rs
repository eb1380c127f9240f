//! Users' calls over the control socket, and the stream of what happens.

use beacon_cohort::machine::{Input, Machine};
use serde::Deserialize;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Driver, DriverError};
use crate::agent::{Agent, Call};
use crate::control::{ControlReply, ControlRequest, RpcError};

/// Events that a follower may be behind; a slower one is cut off and told so by the end of its stream.
const FOLLOWER_QUEUE: usize = 4_096;
/// Events of the past that one call returns.
const MAX_BACKLOG: usize = 10_000;

/// Those who follow the log.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<mpsc::Sender<Value>>);

impl Followers {
    pub(super) fn publish<E: Serialize>(&mut self, first: u64, events: &[E]) {
        if self.0.is_empty() {
            return;
        }
        for (seq, event) in (first..).zip(events) {
            let line = json!({ "seq": seq, "event": event });
            self.0
                .retain(|follower| follower.try_send(line.clone()).is_ok());
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsParams {
    /// The first sequence number wanted.
    #[serde(default = "first")]
    from: u64,
}

fn first() -> u64 {
    1
}

impl<A: Agent> Driver<A> {
    pub(super) fn call(&mut self, request: ControlRequest) -> Result<(), DriverError> {
        let ControlRequest {
            method,
            params,
            reply,
        } = request;
        let answer = match method.as_str() {
            "events" => self.events(params)?,
            "status" => {
                let own = self
                    .agent
                    .call(&self.machine, &mut self.identities, "status", params);
                match own {
                    Ok(Call::Answer(mut answer)) => {
                        if let (Value::Object(all), Value::Object(common)) =
                            (&mut answer, self.status())
                        {
                            all.extend(common);
                        }
                        ControlReply::Result(answer)
                    }
                    Ok(Call::Command(..)) => {
                        ControlReply::Error(RpcError::method_not_found("status"))
                    }
                    Err(error) => ControlReply::Error(error),
                }
            }
            method => match self
                .agent
                .call(&self.machine, &mut self.identities, method, params)
            {
                Ok(Call::Answer(answer)) => ControlReply::Result(answer),
                Ok(Call::Command(command, answer)) => self.command(command, answer)?,
                Err(error) => ControlReply::Error(error),
            },
        };
        // A client that hung up has its command carried out all the same.
        let _ = reply.send(answer);
        Ok(())
    }

    fn command(
        &mut self,
        command: <A::Machine as Machine>::Command,
        answer: Value,
    ) -> Result<ControlReply, DriverError> {
        match self.step(Input::Command(command)) {
            Ok(step) => {
                if !self.commit(step, None)? {
                    return Ok(ControlReply::Error(RpcError::failed(
                        "the store has no room for this",
                    )));
                }
                self.settle()?;
                Ok(ControlReply::Result(answer))
            }
            Err(rejection) => {
                let mut error = RpcError::failed(format!(
                    "got {}, expected {}",
                    rejection.got, rejection.expected
                ));
                error.data = Some(json!({ "code": rejection.code.as_str() }));
                Ok(ControlReply::Error(error))
            }
        }
    }

    fn status(&self) -> Value {
        json!({
            "role": A::ROLE,
            "about": self.config.about,
            "events": self.last_seq,
            "waiting_messages": self.outbox.len(),
            "connections": self.routes.connected(),
            "listening": self.transport.local_addr().map(|address| address.to_string()),
            "chain": match &self.chain_fault {
                None => json!({ "available": true }),
                Some(reason) => json!({ "available": false, "reason": reason }),
            },
            "refused": self.refusals.counts(),
        })
    }

    /// The log from a sequence number on, and then everything as it happens.
    fn events(&mut self, params: Value) -> Result<ControlReply, DriverError> {
        let params = if params.is_null() { json!({}) } else { params };
        let from = match serde_json::from_value::<EventsParams>(params) {
            Ok(params) => params.from,
            Err(error) => return Ok(ControlReply::Error(RpcError::invalid_params(error))),
        };
        let earliest = self.last_seq.saturating_sub(MAX_BACKLOG as u64) + 1;
        let mut past = Vec::new();
        for (seq, bytes) in self.store.events(from.max(earliest))? {
            let event: Value =
                serde_json::from_slice(&bytes).map_err(|fault| DriverError::Log {
                    seq,
                    fault: fault.to_string(),
                })?;
            past.push(json!({ "seq": seq, "event": event }));
        }
        let (sender, events) = mpsc::channel(FOLLOWER_QUEUE);
        self.followers.0.push(sender);
        Ok(ControlReply::Stream {
            result: json!({ "past": past, "next": self.last_seq + 1 }),
            events,
        })
    }
}
