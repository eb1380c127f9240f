//! The log of a running agent, as its control socket tells it.

use std::path::PathBuf;

use beacon_runtime::control::{self, Follow};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::DEADLINE;

/// One entry of an agent's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// What happened; its kind is the member `event`.
    pub value: Value,
}

/// The agent is gone, or hung up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

/// What was read of a log so far. It outlives the agent's process.
#[derive(Debug)]
pub struct Log {
    name: String,
    socket: PathBuf,
    /// Sequence number of the last event that was read or skipped.
    last: u64,
    events: Vec<Event>,
    stream: Option<Follow>,
}

impl Log {
    /// The log of the agent behind this control socket; nothing of it was read.
    pub(super) fn new(name: &str, socket: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            socket,
            last: 0,
            events: Vec::new(),
            stream: None,
        }
    }

    /// Passes over all events up to this one.
    pub(super) fn skip(&mut self, seq: u64) {
        self.last = seq;
    }

    /// Forgets the connection, but not what was read.
    pub(super) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// What was read so far.
    pub fn seen(&self) -> &[Event] {
        &self.events
    }

    /// The first event of this kind for which `fits` holds: among those read, or as soon as it happens. `a|b` is one of two kinds.
    pub async fn wait(&mut self, kind: &str, fits: impl Fn(&Value) -> bool) -> Event {
        self.wait_after(0, kind, fits).await
    }

    /// The same, among events with a sequence number above `seq`.
    pub async fn wait_after(
        &mut self,
        seq: u64,
        kind: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Event {
        match self.try_wait_after(seq, kind, fits).await {
            Ok(event) => event,
            Err(Ended) => self.missing(seq, kind, "before it ended the stream of events"),
        }
    }

    /// The same for an agent that may end meanwhile.
    pub async fn try_wait_after(
        &mut self,
        seq: u64,
        kind: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Event, Ended> {
        let deadline = Instant::now() + DEADLINE;
        let wanted = |event: &Event| {
            let of_kind = kind.split('|').any(|kind| event.value["event"] == kind);
            event.seq > seq && of_kind && fits(&event.value)
        };
        let mut looked_at = 0;
        loop {
            let fresh = self.events.iter().skip(looked_at);
            if let Some(event) = fresh.into_iter().find(|event| wanted(event)) {
                return Ok(event.clone());
            }
            looked_at = self.events.len();
            match timeout_at(deadline, self.read()).await {
                Ok(read) => read?,
                Err(_) => self.missing(seq, kind, "within the deadline"),
            }
        }
    }

    /// Reads the past, where the agent was not asked for it since it was started.
    pub(super) async fn read_past(&mut self) -> Result<(), Ended> {
        match self.stream {
            Some(_) => Ok(()),
            None => self.read().await,
        }
    }

    /// Reads at least one event, or the past.
    pub async fn read(&mut self) -> Result<(), Ended> {
        let fresh = if let Some(stream) = &mut self.stream {
            let Ok(Some(next)) = stream.next().await else {
                self.stream = None;
                return Err(Ended);
            };
            vec![event(&next)]
        } else {
            let params = json!({ "from": self.last + 1 });
            let stream = control::follow(&self.socket, "events", params).await;
            let mut stream = stream.map_err(|_| Ended)?;
            let past = stream.result["past"].take();
            self.stream = Some(stream);
            past.as_array().unwrap().iter().map(event).collect()
        };
        for event in fresh {
            assert_eq!(event.seq, self.last + 1, "{}: a gap in the log", self.name);
            self.last = event.seq;
            self.events.push(event);
        }
        Ok(())
    }

    fn missing(&self, seq: u64, kind: &str, end: &str) -> ! {
        let seen = self.events.iter();
        let seen: Vec<_> = seen
            .map(|event| format!("{:>4} {}", event.seq, brief(&event.value)))
            .collect();
        panic!(
            "{} has no fitting {kind} after event {seq} {end}; its events:\n{}",
            self.name,
            seen.join("\n")
        );
    }
}

fn event(line: &Value) -> Event {
    Event {
        seq: line["seq"].as_u64().unwrap(),
        value: line["event"].clone(),
    }
}

fn brief(event: &Value) -> String {
    event.to_string().chars().take(240).collect()
}
