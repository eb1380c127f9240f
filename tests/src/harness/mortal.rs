//! An agent that dies when its plan says so, by a signal or since its disk fails, and whose user starts it again and looks
//! what became of the last command.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::pin::pin;
use std::process::ExitStatus;

use beacon_runtime::control::{CallError, INTERNAL_ERROR};
use beacon_runtime::store::{RedbStore, Store as _, StoreLimits};
use serde_json::Value;
use tokio::time::timeout;

use super::log::{Ended, Event};
use super::{Agent, DEADLINE, Fault, When};

/// `SIGKILL` as a signal number.
const SIGKILL: i32 = 9;

/// An agent with faults, and what is still to come over it.
#[derive(Debug)]
pub struct Mortal {
    agent: Agent,
    plans: VecDeque<(Fault, When)>,
    planned: usize,
    /// What strikes it in this life.
    plan: Option<(Fault, When)>,
    deaths: usize,
    /// How often something had struck when it died last.
    struck: u64,
}

impl Mortal {
    /// An agent that does not run yet. One plan after the other strikes it: the next one counts from the start that the one
    /// before has caused.
    pub fn new(agent: Agent, plans: impl IntoIterator<Item = (Fault, When)>) -> Self {
        let plans: VecDeque<_> = plans.into_iter().collect();
        Self {
            agent: agent.with_faults(),
            planned: plans.len(),
            plans,
            plan: None,
            deaths: 0,
            struck: 0,
        }
    }

    /// The agent.
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// How often it has died.
    pub fn deaths(&self) -> usize {
        self.deaths
    }

    /// Whether all that was planned has come over it.
    pub fn is_through(&self) -> bool {
        self.deaths == self.planned
    }

    /// Starts it, and again until it runs. A disk that fails does so once more at the start, and then no longer.
    pub async fn start(&mut self) {
        loop {
            if self
                .plan
                .as_ref()
                .is_some_and(|(fault, _)| fault.is_of_the_disk())
            {
                let status = self.agent.try_restart().await;
                self.failed(status.unwrap_err());
            }
            let faults = self.agent.faults();
            self.plan = self.plans.pop_front();
            match &self.plan {
                Some((fault, when)) => faults.plan(*fault, when),
                None => faults.lift(),
            }
            match self.agent.try_restart().await {
                Ok(()) => return,
                Err(status) => self.died(status),
            }
        }
    }

    /// Sees to it that something is in its log: looks first, then asks for it, as a user does who does not know whether
    /// the last command was carried out.
    pub async fn achieve(
        &mut self,
        kind: &str,
        fits: impl Fn(&Value) -> bool,
        method: &str,
        params: &Value,
    ) -> Event {
        loop {
            let log = self.agent.read_past().await;
            if log.is_ok() {
                if let Some(event) = self.agent.seen(kind, &fits) {
                    return event;
                }
                match self.agent.try_call(method, params.clone()).await {
                    Ok(_) => return self.wait(kind, &fits).await,
                    Err(CallError::Rpc(error)) if error.code != INTERNAL_ERROR => {
                        panic!("{}: {method}: {error}", self.agent.name())
                    }
                    // It has died of it.
                    Err(_) => {}
                }
            }
            self.revive().await;
        }
    }

    /// The first event of this kind for which `fits` holds, however often it dies before.
    pub async fn wait(&mut self, kind: &str, fits: impl Fn(&Value) -> bool) -> Event {
        loop {
            match self.agent.try_wait_after(0, kind, &fits).await {
                Ok(event) => return event,
                Err(Ended) => self.revive().await,
            }
        }
    }

    /// What comes of something else, while it may die any time.
    pub async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                outcome = &mut other => return outcome,
                status = self.agent.ended() => self.died(status),
            }
            self.start().await;
        }
    }

    async fn revive(&mut self) {
        let status = timeout(DEADLINE, self.agent.ended()).await;
        let status = status.unwrap_or_else(|_| panic!("{} hangs", self.agent.name()));
        self.died(status);
        self.start().await;
    }

    /// It must have been the plan, and what is on the disk must be readable.
    fn died(&mut self, status: ExitStatus) {
        let name = self.agent.name();
        let (fault, when) = self
            .plan
            .as_ref()
            .unwrap_or_else(|| panic!("{name} ended without a plan: {status}"));
        self.deaths += 1;
        if fault.is_of_the_disk() {
            self.failed(status);
        } else {
            assert_eq!(status.signal(), Some(SIGKILL), "{name} ended by itself");
        }
        let struck = self.agent.faults().fired();
        assert!(struck > self.struck, "{name} died of something else");
        self.struck = struck;
        let events = on_disk(&self.agent.data_dir());
        for event in self.agent.seen_events() {
            let kept = events.get(usize::try_from(event.seq - 1).unwrap());
            assert_eq!(kept, Some(event), "{name} told of it and lost it");
        }
        if let When::Event(kind) = when {
            let there = events.iter().any(|event| event.value["event"] == *kind);
            let kept = [Fault::DieAfter, Fault::SyncsFailAndKeep].contains(fault);
            assert_eq!(there, kept, "{name}: {fault:?} {kind}");
        }
    }

    /// It stopped by itself, and said in one line which file has failed, and how.
    fn failed(&self, status: ExitStatus) {
        let name = self.agent.name();
        assert_eq!(status.code(), Some(1), "{name}: {status}");
        let log = self.agent.log();
        let last = log.lines().last().unwrap();
        let because = match self.plan {
            Some((Fault::WritesFull, _)) => "No space left on device",
            _ => "Input/output error",
        };
        let file = format!("{}/", self.agent.data_dir().display());
        assert!(last.starts_with("error: "), "{last}");
        for words in [&file, because] {
            assert_eq!(last.matches(words).count(), 1, "{words:?}: {last}");
        }
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// The events in a store that nobody has open: of a copy, so that the agent finds the original as it was left.
pub fn on_disk(data_dir: &Path) -> Vec<Event> {
    let file = data_dir.join("state.redb");
    if !file.exists() {
        return Vec::new();
    }
    let copy = data_dir.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    let store = RedbStore::open(&copy, StoreLimits::default()).unwrap();
    let events = store.events(1).unwrap().into_iter();
    let events = events
        .map(|(seq, bytes)| Event {
            seq,
            value: serde_json::from_slice(&bytes).unwrap(),
        })
        .collect();
    drop(store);
    fs::remove_file(&copy).unwrap();
    events
}
