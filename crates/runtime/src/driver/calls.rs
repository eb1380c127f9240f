//! Users' calls over the control socket, and the stream of what happens.

use std::collections::VecDeque;

use beacon_cohort::machine::{Input, Machine};
use serde::Deserialize;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Driver, DriverError};
use crate::agent::{Agent, Call};
use crate::control::{BUSY, ControlReply, ControlRequest, MAX_RESPONSE_BYTES, RpcError};
use crate::counts::Counts;

/// Those who follow the log.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<mpsc::Sender<Value>>);

impl Followers {
    pub(super) fn publish<E: Serialize>(&mut self, first: u64, events: &[E], counts: &Counts) {
        if self.0.is_empty() {
            return;
        }
        for (seq, event) in (first..).zip(events) {
            let line = json!({ "seq": seq, "event": event });
            self.0.retain(|follower| {
                let sent = follower.try_send(line.clone());
                if let Err(TrySendError::Full(_)) = sent {
                    counts.add("follower-cut-off");
                    tracing::warn!("a follower of events reads too slowly; its stream ends");
                }
                sent.is_ok()
            });
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
            "log": self.log_status(),
            "waiting_messages": self.outbox.len(),
            "connections": self.routes.connected(),
            "listening": self.transport.local_addr().map(|address| address.to_string()),
            "chain": match &self.chain_fault {
                None => json!({ "available": true }),
                Some(reason) => json!({ "available": false, "reason": reason }),
            },
            "refused": self.counts.all(),
        })
    }

    /// The log from a sequence number on, and then everything as it happens.
    fn events(&mut self, params: Value) -> Result<ControlReply, DriverError> {
        let params = if params.is_null() { json!({}) } else { params };
        let from = match serde_json::from_value::<EventsParams>(params) {
            Ok(params) => params.from,
            Err(error) => return Ok(ControlReply::Error(RpcError::invalid_params(error))),
        };
        let bounds = &self.config.bounds;
        self.followers.0.retain(|follower| !follower.is_closed());
        if self.followers.0.len() >= bounds.control_followers {
            self.counts.add("follower-over-limit");
            return Ok(ControlReply::Error(RpcError::new(
                BUSY,
                format!(
                    "too many followers of events, expected at most {}",
                    bounds.control_followers
                ),
            )));
        }
        let earliest = self.last_seq.saturating_sub(bounds.events_backlog as u64) + 1;
        let mut past = VecDeque::new();
        let mut size = 0;
        for (seq, bytes) in self.store.events(from.max(earliest))? {
            let event: Value =
                serde_json::from_slice(&bytes).map_err(|fault| DriverError::Log {
                    seq,
                    fault: fault.to_string(),
                })?;
            size += bytes.len();
            past.push_back((bytes.len(), json!({ "seq": seq, "event": event })));
            // What does not fit into one answer is left out from the beginning on, as what is too many.
            while size > MAX_RESPONSE_BYTES / 2
                && let Some((bytes, _)) = past.pop_front()
            {
                size -= bytes;
            }
        }
        let past: Vec<_> = past.into_iter().map(|(_, line)| line).collect();
        let (sender, events) = mpsc::channel(bounds.follower_queue);
        self.followers.0.push(sender);
        Ok(ControlReply::Stream {
            result: json!({ "past": past, "next": self.last_seq + 1 }),
            events,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_that_reads_too_slowly_is_cut_off_and_counted() {
        let (slow, mut late) = mpsc::channel(2);
        let (gone, _) = mpsc::channel(2);
        let mut followers = Followers(vec![slow, gone]);
        let counts = Counts::default();
        followers.publish(7, &["a", "b"], &counts);
        assert_eq!((followers.0.len(), counts.of("follower-cut-off")), (1, 0));
        followers.publish(9, &["c"], &counts);
        assert_eq!((followers.0.len(), counts.of("follower-cut-off")), (0, 1));
        let seqs = std::iter::from_fn(|| late.try_recv().ok()).map(|line| line["seq"].clone());
        assert_eq!(
            seqs.collect::<Vec<_>>(),
            [7, 8],
            "what fitted, and then the end"
        );
    }
}
