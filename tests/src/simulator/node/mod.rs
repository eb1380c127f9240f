//! One process: a machine, its store and its signer, with a beginning, an end, and another beginning.

mod commit;
mod drive;

use std::fmt;

use beacon_cohort::coordinator::Coordinator;
use beacon_cohort::ids::Timestamp;
use beacon_cohort::machine::{Input, Machine, Rejection, Watches};
use beacon_cohort::message::Message;
use beacon_cohort::participant::{Participant, Stage};
#[cfg(test)]
use beacon_cohort::review::ReviewedSignal;
#[cfg(test)]
use beacon_cohort::signer::SignerRequest;
use beacon_cohort::signer::{KeyPath, LocalSigner};
use beacon_runtime::driver::{replay, snapshot_of};
use beacon_runtime::limits::Limits;
use beacon_runtime::outbox::Outbox;
#[cfg(test)]
use beacon_runtime::store::Batch;
use beacon_runtime::store::{MemoryStore, Store as _};
use bitcoin::hashes::{Hash as _, HashEngine as _, sha256};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use zeroize::Zeroizing;

use super::dice::generator;
use super::live;
use super::settings::{Restore, Settings};
use super::world::{Happening, Name, NodeId, World};
use drive::Own;

/// Events between two snapshots.
const SNAPSHOT_EVENTS: usize = 32;
/// Events that are kept when a snapshot stands for them.
const KEPT_EVENTS: u64 = 8;

/// Milliseconds that it takes to restore an older copy of a disk.
const RESTORE_MS: u64 = 120_000;

/// Why a node stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// Its process ended, as chance or the settings wanted.
    Crashed,
    /// Something happened that must not.
    Broken(String),
}

/// A machine whose whole state can be compared.
pub(super) trait Comparable: Machine + Sized {
    /// What differs, if anything does.
    fn difference(&self, other: &Self) -> Option<String>;

    /// What must be in the log before this message may leave. `former` is what went before, where an older disk took the place
    /// of a newer one.
    fn check_before(&self, former: &[Self], message: &Message) -> Result<(), String>;

    /// Whether it is in cohorts, and none is being formed.
    fn is_formed(&self) -> bool;
}

impl Comparable for Coordinator {
    fn difference(&self, other: &Self) -> Option<String> {
        (self.state() != other.state())
            .then(|| format!("{:?}\nis not\n{:?}", self.state(), other.state()))
    }

    fn check_before(&self, _: &[Self], _: &Message) -> Result<(), String> {
        Ok(())
    }

    fn is_formed(&self) -> bool {
        false
    }
}

impl Comparable for Participant {
    fn difference(&self, other: &Self) -> Option<String> {
        (self.state() != other.state())
            .then(|| format!("{:?}\nis not\n{:?}", self.state(), other.state()))
    }

    fn check_before(&self, former: &[Self], message: &Message) -> Result<(), String> {
        let Message::SignatureAuthorization(body) = message else {
            return Ok(());
        };
        let known = |machine: &Self| machine.state().cohorts.get(&body.cohort_id).cloned();
        let membership = known(self).ok_or("no such cohort")?;
        let former: Vec<_> = former.iter().filter_map(known).collect();
        live::check_release(&membership, &former, body)
    }

    fn is_formed(&self) -> bool {
        let mut cohorts = self.state().cohorts.values();
        !self.state().cohorts.is_empty() && cohorts.all(|cohort| cohort.stage == Stage::Agreed)
    }
}

type Signer = LocalSigner<Box<dyn Fn(KeyPath) -> Zeroizing<[u8; 32]>>, ChaCha20Rng>;

/// A disk.
#[derive(Clone, Default)]
struct Disk {
    store: MemoryStore,
    /// Every event that was ever committed, of which the store keeps the last ones and a snapshot in place of the others.
    archive: Vec<Vec<u8>>,
    last_snapshot: usize,
}

/// What is to happen to a node at which boundary, besides chance.
#[derive(Default)]
pub(super) struct Fate {
    /// The process ends.
    crash_at: Vec<u32>,
    /// It ends for ever.
    gone_at: Option<u32>,
    restore: Option<Restore>,
    /// The disk goes back.
    restore_at: Option<u32>,
}

impl Fate {
    /// As the settings have it.
    pub(super) fn of(node: NodeId, settings: &Settings) -> Self {
        let crashes = settings.crashes.iter().filter(|point| point.node == node);
        let gone = settings.gone.filter(|point| point.node == node);
        Self {
            crash_at: crashes.map(|point| point.boundary).collect(),
            gone_at: gone.map(|point| point.boundary),
            restore: settings.restore.filter(|restore| restore.member == node),
            restore_at: None,
        }
    }
}

pub(super) struct Node<M> {
    id: NodeId,
    seed: u64,
    build: Box<dyn Fn() -> M>,
    machine: M,
    disk: Disk,
    /// An older copy of it.
    copy: Option<Disk>,
    /// What this node was before its disk went back.
    former: Vec<M>,
    /// Until when it is not started, in milliseconds.
    not_before: u64,
    signer: Signer,
    rng: ChaCha20Rng,
    outbox: Outbox,
    watches: Watches,
    /// When the chain is asked next, in milliseconds.
    poll_at: Option<u64>,
    /// When the outbox is looked into next, in milliseconds.
    resend_at: Option<u64>,
    deadline: Option<Timestamp>,
    /// What the store refused to remember so far.
    deferred: Vec<Own>,
    up: bool,
    /// Whether memory lags behind the store, as it does between a commit and what follows.
    committing: bool,
    run: u32,
    boundary: u32,
    fate: Fate,
}

impl<M: Comparable> Node<M> {
    /// A process that has never run.
    pub(super) fn new(id: NodeId, seed: u64, fate: Fate, build: impl Fn() -> M + 'static) -> Self {
        Self {
            id,
            seed,
            machine: build(),
            build: Box::new(build),
            disk: Disk::default(),
            copy: None,
            former: Vec::new(),
            not_before: 0,
            signer: signer(seed, id, 0),
            rng: generator(seed, id as u64, 0),
            outbox: Outbox::new(Vec::new(), &Limits::default()),
            watches: Watches::default(),
            poll_at: None,
            resend_at: None,
            deadline: None,
            deferred: Vec::new(),
            up: false,
            committing: false,
            run: 0,
            boundary: 0,
            fate,
        }
    }

    pub(super) fn machine(&self) -> &M {
        &self.machine
    }

    /// To tamper with.
    #[cfg(test)]
    pub(super) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Writes an event into the log that nothing led to.
    #[cfg(test)]
    pub(super) fn record(&mut self, event: &M::Event) {
        let batch = Batch {
            events: vec![serde_json::to_vec(event).unwrap_or_default()],
            ..Batch::default()
        };
        let written = self.disk.store.commit(&batch);
        assert!(written.is_ok(), "{written:?}");
        self.disk.archive.extend(batch.events);
        self.machine.apply(event);
    }

    /// The disk and the machine are what they were after these events.
    #[cfg(test)]
    pub(super) fn go_back_to(&mut self, events: &[M::Event]) {
        self.disk = Disk::default();
        self.machine = (self.build)();
        for event in events {
            self.record(event);
        }
    }

    /// A signer that has nonces for this signal once more, as if it had not used any.
    #[cfg(test)]
    pub(super) fn revive_nonces(&mut self, signal: Box<ReviewedSignal>) {
        self.signer = signer(self.seed, self.id, self.run);
        let _ = self.signer.handle(SignerRequest::MakeNonces(signal));
    }

    /// Another process of the same member: its secret nonces are others.
    #[cfg(test)]
    pub(super) fn change_signer(&mut self) {
        self.signer = signer(self.seed, self.id, self.run + 1_000);
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// Boundaries passed so far.
    pub(super) fn boundaries(&self) -> u32 {
        self.boundary
    }

    /// The whole log.
    pub(super) fn log(&self) -> Result<Vec<M::Event>, String> {
        let parse = |(number, bytes): (usize, &Vec<u8>)| {
            serde_json::from_slice(bytes).map_err(|error| {
                format!(
                    "event {number} of {} cannot be read back: {error}: {}",
                    Name(self.id),
                    String::from_utf8_lossy(bytes)
                )
            })
        };
        (1..).zip(&self.disk.archive).map(parse).collect()
    }

    /// Replay equals memory: of all events, and of what the store keeps of them.
    pub(super) fn check_replay(&self) -> Result<(), String> {
        let differs = |what: &str, machine: &M| match machine.difference(&self.machine) {
            None => Ok(()),
            Some(difference) => Err(format!(
                "{}: {what} differs from memory: {difference}",
                Name(self.id)
            )),
        };
        let mut replayed = (self.build)();
        for event in self.log()? {
            replayed.apply(&event);
        }
        differs("replay", &replayed)?;
        differs("the snapshot and what came after it", &self.restored()?)
    }

    /// A machine as a start makes it.
    fn restored(&self) -> Result<M, String> {
        let mut machine = (self.build)();
        replay(&self.disk.store, &mut machine).map_err(|error| error.to_string())?;
        Ok(machine)
    }

    /// Makes a snapshot every now and then, as a driver does, and keeps a few events only.
    fn snapshot_when_due(&mut self) -> Result<(), Stop> {
        let disk = &mut self.disk;
        if disk.archive.len() - disk.last_snapshot < SNAPSHOT_EVENTS {
            return Ok(());
        }
        disk.last_snapshot = disk.archive.len();
        let snapshot = snapshot_of(&self.machine);
        let snapshot = snapshot.ok_or_else(|| broken("a state is read as another one"))?;
        let compacted = self.disk.store.compact(&snapshot, KEPT_EVENTS);
        compacted.map_err(broken)
    }

    /// Something happens to this node. What was scheduled in an earlier run of its process is gone.
    pub(super) fn happen(&mut self, happening: Happening, world: &mut World) -> Result<(), String> {
        let stale = happening.run().is_some_and(|run| run != self.run);
        let starts = matches!(happening, Happening::Start { .. });
        if stale || self.up == starts {
            return Ok(());
        }
        if starts && world.clock < self.not_before {
            world.schedule(self.not_before - world.clock, happening);
            return Ok(());
        }
        let outcome = match happening {
            Happening::Arrival { frame, socket, .. } => self.receive(&frame.packed, socket, world),
            Happening::Connected { peer, .. } => self.connected(peer, world),
            Happening::Signer { request, .. } => self.sign(request, world),
            Happening::Deadline { .. } => self.wake(world),
            Happening::Resend { .. } => self.look_into_outbox(world),
            Happening::Poll { .. } => self.poll(world),
            Happening::Broadcast { tx, .. } => self.broadcast(tx, world),
            Happening::Start { .. } => self.start(world),
            Happening::Block | Happening::Users => Ok(()),
        };
        self.survive(outcome, world).map(|_| ())
    }

    /// A user's command, or what the user is told instead. `None` when the process is not there, or ended.
    pub(super) fn command(
        &mut self,
        command: M::Command,
        world: &mut World,
    ) -> Result<Option<Result<(), Rejection>>, String> {
        if !self.up {
            return Ok(None);
        }
        world.note(format_args!("{} is told {command:?}", Name(self.id)));
        let outcome = self.tell(Input::Command(command), world);
        self.survive(outcome, world)
    }

    /// Ends the process where it is to end.
    fn survive<T>(
        &mut self,
        outcome: Result<T, Stop>,
        world: &mut World,
    ) -> Result<Option<T>, String> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(Stop::Broken(reason)) => Err(format!("{}: {reason}", Name(self.id))),
            Err(Stop::Crashed) => {
                if !self.committing {
                    self.check_replay()?;
                }
                self.crash(world);
                let boundary = self.boundary;
                let due = self.fate.restore_at.take_if(|at| *at < boundary);
                if due.is_some() {
                    self.go_back(world)?;
                }
                Ok(None)
            }
        }
    }

    /// Starts the process from what is in its store.
    fn start(&mut self, world: &mut World) -> Result<(), Stop> {
        self.machine = self.restored().map_err(Stop::Broken)?;
        self.signer = signer(self.seed, self.id, self.run);
        self.rng = generator(self.seed, self.id as u64, u64::from(self.run));
        self.up = true;
        world.note(format_args!("{} starts", Name(self.id)));
        world.dial(self.id);
        self.outbox = Outbox::new(
            self.disk.store.outbox().map_err(broken)?,
            &Limits::default(),
        );
        self.send_due(world)?;
        self.keep_trying(Own::Restarted, world)
    }

    /// The process ends: what was in memory only is gone.
    fn crash(&mut self, world: &mut World) {
        self.up = false;
        self.run += 1;
        self.committing = false;
        self.poll_at = None;
        self.resend_at = None;
        self.deadline = None;
        self.deferred.clear();
        self.watches = Watches::default();
        world.tally.restarts += 1;
        world.note(format_args!(
            "{} ends at boundary {}",
            Name(self.id),
            self.boundary.saturating_sub(1)
        ));
        if !self.is_gone() {
            let delay = world.dice.between(100, 20_000);
            world.schedule(delay, Happening::Start { node: self.id });
        }
    }

    /// The secret key of a path, which only attackers take out of the signer.
    pub(super) fn secret_key(&self, path: &KeyPath) -> Zeroizing<[u8; 32]> {
        secret_key(self.seed, self.id, path)
    }

    /// Whether the process has ended for ever.
    pub(super) fn is_gone(&self) -> bool {
        self.fate
            .gone_at
            .is_some_and(|boundary| boundary < self.boundary)
    }

    /// Ends the process for ever.
    pub(super) fn vanish(&mut self, world: &mut World) {
        self.fate.gone_at = Some(self.boundary);
        self.boundary += 1;
        if self.up {
            self.crash(world);
        }
    }

    /// Ends the process; it is started again soon.
    pub(super) fn restart(&mut self, world: &mut World) {
        if self.up {
            self.crash(world);
        }
    }

    /// Makes a copy of the disk.
    pub(super) fn back_up(&mut self) {
        self.copy = Some(self.disk.clone());
    }

    /// The older copy takes the disk's place; the process is started again when nothing of its last run is on its way any more.
    pub(super) fn go_back(&mut self, world: &mut World) -> Result<(), String> {
        self.restart(world);
        let Some(copy) = self.copy.clone() else {
            return Err(format!("{} has no copy", Name(self.id)));
        };
        self.disk = copy;
        let older = self.restored()?;
        self.former
            .push(std::mem::replace(&mut self.machine, older));
        self.not_before = world.clock + RESTORE_MS;
        world.witness.restored(self.id);
        world.tally.restored += 1;
        world.note(format_args!(
            "{} goes back to {} events",
            Name(self.id),
            self.disk.archive.len()
        ));
        Ok(())
    }

    /// Whether its disk ever went back.
    pub(super) fn is_restored(&self) -> bool {
        !self.former.is_empty()
    }

    /// Perhaps ends the process here.
    fn pass_boundary(&mut self, world: &mut World) -> Result<(), Stop> {
        let boundary = self.boundary;
        self.boundary += 1;
        if let Some(restore) = self.fate.restore
            && boundary >= restore.copied
            && self.machine.is_formed()
        {
            self.fate.restore = None;
            self.fate.restore_at = Some(boundary + restore.after);
            self.back_up();
        }
        let ends = [self.fate.gone_at, self.fate.restore_at].contains(&Some(boundary));
        let chosen = ends || self.fate.crash_at.contains(&boundary);
        if chosen || world.dice.hits(world.faults.crash) {
            Err(Stop::Crashed)
        } else {
            Ok(())
        }
    }
}

/// A signer whose keys outlive the process and whose randomness does not.
fn signer(seed: u64, node: NodeId, run: u32) -> Signer {
    let keys = move |path: KeyPath| secret_key(seed, node, &path);
    let randomness = generator(seed, 1_000_000 + node as u64, u64::from(run));
    LocalSigner::new(Box::new(keys), randomness)
}

fn secret_key(seed: u64, node: NodeId, path: &KeyPath) -> Zeroizing<[u8; 32]> {
    let mut engine = sha256::Hash::engine();
    engine.input(b"simulated cohort key");
    engine.input(&seed.to_le_bytes());
    engine.input(&node.to_le_bytes());
    for step in path.steps() {
        engine.input(&step.to_le_bytes());
    }
    Zeroizing::new(sha256::Hash::from_engine(engine).to_byte_array())
}

/// A member's leaf secret, which outlives its process as its seed does.
pub(super) fn leaf_secret(seed: u64, node: NodeId) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    generator(seed, 2_000_000 + node as u64, 0).fill_bytes(secret.as_mut_slice());
    secret
}

fn broken(error: impl fmt::Display) -> Stop {
    Stop::Broken(error.to_string())
}
