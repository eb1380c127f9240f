//! The loop that drives a machine: one input at a time, commit before apply, effects after the commit.
//!
//! ```text
//! frame ─▶ unpack ─▶ Verified ─▶ cohort::Message ─▶ machine.step ─▶ Step { events, effects }
//!                                                                        │
//!               socket ◀─ outbox ◀─ apply, effects ◀─ store.commit(events, outbox rows, seen id)
//! ```
//!
//! Inputs come from sockets ([`inbound`]), the control socket ([`calls`]), the chain watcher, the signer and the clock.
//! Whatever fails to commit is not sent and not applied; a failure that leaves the disk uncertain stops the agent.

mod calls;
mod commit;
mod inbound;
mod log;
mod memory;
mod routes;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use beacon_chain::WrongChain;
use beacon_cohort::ids::Timestamp;
use beacon_cohort::machine::{ControlVerdict, Input, Machine, Rejection, Watches};
use beacon_cohort::signer::SignerAnswer;
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::protocols::Disclosure;
use beacon_didcomm::{Resolver, UnpackLimits};
use rand::rand_core::UnwrapErr;
use rand::rngs::OsRng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::control::ControlRequest;
use crate::counts::Counts;
use crate::identities::{Identities, IdentityError};
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::store::{Store, StoreError};
use crate::transport::{Inbound, Transport};
use crate::watcher::{Report, Watcher};
use calls::Followers;
use memory::{Rates, RecentIds, Said};
use routes::{Dialled, Routes};
use snapshot::Replayed;
pub use snapshot::{replay, snapshot_of};

/// Why an agent stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The store failed, or holds what cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event on disk is not one of this version's.
    #[error(
        "event {seq} of the log cannot be read: {fault}: it was written by another version, or the store is damaged"
    )]
    Log {
        /// Its sequence number.
        seq: u64,
        /// What does not fit.
        fault: String,
    },
    /// A snapshot is not one of this version's.
    #[error(
        "the snapshot after event {seq} cannot be read: {fault}: it was written by another version, or the store is damaged"
    )]
    Snapshot {
        /// Number of the last event in it.
        seq: u64,
        /// What does not fit.
        fault: String,
    },
    /// An identity cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The chain source is for another network.
    #[error("the chain source has {0}: point chain_url at a source for the configured network")]
    WrongNetwork(WrongChain),
    /// The log has cohorts on a chain that is not asked.
    #[error(
        "this agent has cohorts on {got}, and the configuration says {configured}: go back to network = \"{got}\", or start with another --data-dir for {configured}"
    )]
    OtherNetwork {
        /// Theirs.
        got: BtcNetwork,
        /// The chain source's.
        configured: BtcNetwork,
    },
    /// A thread or channel that must live as long as the agent is gone.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

/// What the driver needs besides its parts.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// Whether private and loopback addresses of peers are dialled.
    pub allow_private: bool,
    /// What is told of this agent.
    pub disclosure: Disclosure,
    /// Bounds on messages.
    pub limits: UnpackLimits,
    /// Bounds on everything else.
    pub bounds: Limits,
    /// When this process started, before it opened a socket.
    pub started: Timestamp,
    /// Shown in `status`.
    pub about: serde_json::Value,
    /// The chain source's network.
    pub network: BtcNetwork,
}

/// Everything that a driver is made of.
pub struct Parts<A: Agent> {
    /// The role.
    pub agent: A,
    /// Its machine, empty.
    pub machine: A::Machine,
    /// Where it remembers.
    pub store: Box<dyn Store>,
    /// Its DIDs.
    pub identities: Identities,
    /// Its sockets, and what comes in on them.
    pub transport: (Transport, mpsc::Receiver<Inbound>),
    /// The chain, and what it says.
    pub watcher: (Watcher, mpsc::Receiver<Report>),
    /// Users' calls.
    pub calls: mpsc::Receiver<ControlRequest>,
    /// The rest.
    pub config: DriverConfig,
}

/// A running agent.
pub struct Driver<A: Agent> {
    agent: A,
    machine: A::Machine,
    store: Box<dyn Store>,
    identities: Identities,
    resolver: Resolver,
    transport: Arc<Transport>,
    watcher: Watcher,
    watched: Option<Watches>,
    chain_fault: Option<String>,
    config: DriverConfig,
    outbox: Outbox,
    routes: Routes,
    counts: Counts,
    said: Said,
    recent: RecentIds,
    rates: Rates,
    followers: Followers,
    /// Inputs that effects have produced, to be taken before anything else comes in.
    pending: VecDeque<Input<<A::Machine as Machine>::Command>>,
    /// What nobody would repeat, and the store refused so far: taken again later.
    refused: Vec<Once>,
    last_seq: u64,
    /// The last event in the newest snapshot.
    last_snapshot: u64,
    /// Percentage of the log's limit that was warned of.
    log_warned: u64,
    next_prune: Timestamp,
}

/// Seconds between two clean-ups of the store.
const PRUNE_INTERVAL_S: u64 = 60;
/// The loop looks at the clock at least this often.
const IDLE: Duration = Duration::from_secs(30);
/// Wait before what the store refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// An input that comes once. A message is repeated by its sender, a command by its user, a chain fact by the watcher; were the
/// signer's answer dropped, a join or a session would wait for it in vain.
#[derive(Debug)]
enum Once {
    Signer(SignerAnswer),
    Restarted,
}

impl Once {
    fn of<C>(input: &Input<C>) -> Option<Self> {
        match input {
            Input::Signer(answer) => Some(Self::Signer(answer.clone())),
            Input::Restarted => Some(Self::Restarted),
            _ => None,
        }
    }

    fn input<C>(self) -> Input<C> {
        match self {
            Self::Signer(answer) => Input::Signer(answer),
            Self::Restarted => Input::Restarted,
        }
    }
}

impl<A: Agent> Driver<A> {
    /// Replays the log and takes up what was under way.
    pub fn start(parts: Parts<A>) -> Result<(Self, Inputs), DriverError> {
        let Parts {
            agent,
            mut machine,
            store,
            identities,
            transport,
            watcher,
            calls,
            config,
        } = parts;
        let Replayed { snapshot, last } = replay(&*store, &mut machine)?;
        let bounds = config.bounds.clone();
        let outbox = Outbox::new(store.outbox()?, &bounds);
        // No more dials than this are under way.
        let (dialled_tx, dialled) = mpsc::channel(bounds.max_dials);
        let now = now();
        let mut driver = Self {
            agent,
            machine,
            store,
            identities,
            resolver: Resolver::default(),
            watcher: watcher.0,
            watched: None,
            chain_fault: None,
            config,
            outbox,
            routes: Routes::new(dialled_tx, &bounds),
            said: Said::new(&bounds),
            recent: RecentIds::new(&bounds),
            rates: Rates::new(&bounds),
            counts: transport.0.counts().clone(),
            transport: Arc::new(transport.0),
            followers: Followers::default(),
            pending: VecDeque::new(),
            refused: Vec::new(),
            last_seq: last,
            last_snapshot: snapshot,
            log_warned: 0,
            next_prune: now,
        };
        for index in 0..driver.agent.identity_count(&driver.machine) {
            driver.identities.get(index)?;
        }
        tracing::info!(
            snapshot,
            events = last - snapshot,
            waiting = driver.outbox.len(),
            "log replayed"
        );
        let (networks, configured) = (
            driver.agent.networks(&driver.machine),
            driver.config.network,
        );
        if let Some(got) = networks.into_iter().find(|got| *got != configured) {
            return Err(DriverError::OtherNetwork { got, configured });
        }
        driver.pending.push_back(Input::Restarted);
        driver.settle()?;
        Ok((
            driver,
            Inputs {
                frames: transport.1,
                reports: watcher.1,
                calls,
                dialled,
            },
        ))
    }

    /// Runs until `shutdown` completes, then lets what is queued leave.
    pub async fn run(
        mut self,
        mut inputs: Inputs,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), DriverError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            self.connect_and_send();
            let wake = self.wake_at();
            tokio::select! {
                () = &mut shutdown => break,
                frame = inputs.frames.recv() => match frame {
                    Some(Inbound::Frame { connection, remote, bytes, room }) => {
                        self.frame(connection, remote, &bytes)?;
                        drop(room);
                    }
                    Some(Inbound::Closed { connection }) => self.routes.closed(connection),
                    None => return Err(DriverError::Ended("the transport")),
                },
                call = inputs.calls.recv() => match call {
                    Some(call) => self.call(call)?,
                    None => return Err(DriverError::Ended("the control socket")),
                },
                report = inputs.reports.recv() => match report {
                    Some(report) => self.chain_report(report)?,
                    None => return Err(DriverError::Ended("the chain watcher")),
                },
                Some(dialled) = inputs.dialled.recv() => self.dialled(dialled),
                () = tokio::time::sleep_until(wake) => self.settle()?,
            }
        }
        tracing::info!("stopping: sending what is queued");
        // What still comes in was not acknowledged, so it comes again; reading it lets the sockets end.
        let drain = async { while inputs.frames.recv().await.is_some() {} };
        tokio::select! {
            () = self.transport.shutdown() => {}
            () = drain => {}
        }
        Ok(())
    }

    /// When the loop must look again, if nothing comes in.
    fn wake_at(&self) -> Instant {
        let idle = Instant::now() + IDLE;
        let deadline = self
            .machine
            .next_deadline()
            .map(|at| Instant::now() + Duration::from_secs(at.0.saturating_sub(now().0)).min(IDLE));
        // A deadline that is due was settled already: whatever is left of it waits for something else, or a moment.
        let deadline = deadline.map(|at| at.max(Instant::now() + Duration::from_millis(500)));
        let refused = (!self.refused.is_empty()).then(|| Instant::now() + AGAIN);
        deadline
            .into_iter()
            .chain(refused)
            .fold(idle.min(self.routes.next_scan()), Instant::min)
    }

    fn chain_report(&mut self, report: Report) -> Result<(), DriverError> {
        match report {
            Report::Fact(fact) => self.take(Input::Chain(fact))?,
            Report::Tip(height) => self.agent.saw_tip(height),
            Report::Status(fault) => {
                if let Some(reason) = &fault {
                    tracing::warn!(%reason, "chain source is unavailable; retrying");
                } else {
                    tracing::info!("chain source answers again");
                }
                self.chain_fault = fault;
            }
            Report::Control(answer) => {
                if let ControlVerdict::Unproven(reason) | ControlVerdict::Unavailable(reason) =
                    &answer.verdict
                {
                    tracing::warn!(cohort = %answer.cohort, peer = %excerpt(answer.peer.as_str()), %reason, "control of a contested DID is not proven");
                }
                self.take(Input::Control(answer))?;
            }
            Report::WrongNetwork(wrong) => return Err(DriverError::WrongNetwork(wrong)),
        }
        Ok(())
    }

    /// An input whose rejection concerns nobody outside.
    fn take(&mut self, input: Input<<A::Machine as Machine>::Command>) -> Result<(), DriverError> {
        self.pending.push_back(input);
        self.settle()
    }

    /// Takes all pending inputs, and ticks until the facts have no more consequences.
    fn settle(&mut self) -> Result<(), DriverError> {
        let now = now();
        if self.next_prune <= now {
            self.next_prune = now.after(PRUNE_INTERVAL_S);
            self.prune(now)?;
        }
        let again = std::mem::take(&mut self.refused);
        self.pending.extend(again.into_iter().map(Once::input));
        loop {
            let (input, tick) = match self.pending.pop_front() {
                Some(input) => (input, false),
                None => (Input::Tick, true),
            };
            let once = Once::of(&input);
            let step = match self.step(input) {
                Ok(step) => step,
                Err(rejection) => {
                    self.counts.add("own-input-rejected");
                    tracing::warn!(%rejection, "an input of our own was rejected");
                    if tick {
                        break;
                    }
                    continue;
                }
            };
            let progressed = !step.events.is_empty();
            let committed = self.commit(step, None)?;
            if !committed {
                self.refused.extend(once);
            }
            if tick && !(progressed && committed) && self.pending.is_empty() {
                break;
            }
        }
        self.watch();
        self.snapshot_when_due()?;
        self.warn_of_log();
        Ok(())
    }

    fn step(
        &self,
        input: Input<<A::Machine as Machine>::Command>,
    ) -> Result<beacon_cohort::machine::Step<<A::Machine as Machine>::Event>, Rejection> {
        self.room_for(&input)?;
        self.machine.step(input, now(), &mut UnwrapErr(OsRng))
    }

    /// Tells the watcher what to watch, if that has changed.
    fn watch(&mut self) {
        let watches = self.machine.watches();
        if self.watched.as_ref() != Some(&watches) && self.watcher.watch(watches.clone()) {
            self.watched = Some(watches);
        }
    }

    fn prune(&mut self, now: Timestamp) -> Result<(), DriverError> {
        let pruned = self.store.prune(now.0)?;
        for id in &pruned.outbox {
            if let Some(row) = self.outbox.remove(id) {
                self.counts.add("expired-undelivered");
                tracing::warn!(kind = %row.kind, to = %excerpt(&row.to), "message expired without being delivered");
            }
        }
        Ok(())
    }
}

/// Where a driver's inputs come from.
#[derive(Debug)]
pub struct Inputs {
    frames: mpsc::Receiver<Inbound>,
    reports: mpsc::Receiver<Report>,
    calls: mpsc::Receiver<ControlRequest>,
    dialled: mpsc::Receiver<Dialled>,
}

/// The clock that users live by.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 makes every deadline look far away and every message look as if from the future: refused.
    Timestamp(since.map_or(0, |since| since.as_secs()))
}

/// The start and end of a DID: enough for a log line.
pub(crate) fn excerpt(did: &str) -> String {
    let chars = did.chars().count();
    if chars <= 40 {
        return did.to_owned();
    }
    let start: String = did.chars().take(28).collect();
    let end: String = did.chars().skip(chars - 8).collect();
    format!("{start}…{end}")
}
