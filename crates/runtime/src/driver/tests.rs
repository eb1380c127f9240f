//! What a failing store does to an agent: nothing of a step that may not be on the disk is applied, and nothing of it
//! leaves.
//!
//! A real participant on a real socket. The other side is a socket of the test's own, so that all that left is seen.

mod conductor;
mod coordinator;
mod envelopes;
mod member;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use beacon_chain::{ChainIdentity, EsploraChain};
use beacon_cohort::ids::PeerId;
use beacon_cohort::machine::{ChainFact, OutputView};
use beacon_cohort::participant::{Event, LeafSecret, Participant, Policy};
use beacon_cohort::signer::KeyPath;
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::protocols::{Disclosure, PROBLEM_REPORT};
use bitcoin::{OutPoint, TxOut};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::control::{ControlReply, FAILED};
use crate::dids::Dids;
use crate::keys::{Seed, SeedFile, Unlock};
use crate::participant::ParticipantAgent;
use crate::store::{Batch, LogSize, MemoryStore, OutboxRow, Pruned, Seen, Snapshot};
use crate::transport::TransportConfig;
use conductor::Conductor;

/// How a commit fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Failure {
    /// There is no room: nothing is written, and the store goes on.
    Refused,
    /// The disk fails before the batch is on it.
    Lost,
    /// The disk fails after the batch is on it.
    Written,
}

/// The first commit with an event of this name fails like this.
type Trap = (&'static str, Failure);

/// A store whose memory outlives the agent, as a disk does.
struct FailingStore {
    memory: Arc<Mutex<MemoryStore>>,
    trap: Option<Trap>,
    stopped: bool,
}

impl FailingStore {
    fn sprung(&mut self, batch: &Batch) -> Option<Failure> {
        let (name, failure) = self.trap?;
        let tag = format!("{{\"event\":\"{name}\"");
        let mut events = batch.events.iter();
        events
            .any(|event| event.starts_with(tag.as_bytes()))
            .then(|| {
                self.trap = None;
                failure
            })
    }
}

impl Store for FailingStore {
    fn log_size(&self) -> LogSize {
        self.memory.lock().unwrap().log_size()
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        self.memory.lock().unwrap().snapshot()
    }

    fn compact(&mut self, snapshot: &[u8], keep: u64) -> Result<(), StoreError> {
        self.memory.lock().unwrap().compact(snapshot, keep)
    }

    fn events(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.memory.lock().unwrap().events(from)
    }

    fn commit(&mut self, batch: &Batch) -> Result<u64, StoreError> {
        let path = PathBuf::from("state.redb");
        if self.stopped {
            return Err(StoreError::Stopped { path });
        }
        let failure = self.sprung(batch);
        if failure == Some(Failure::Refused) {
            let what = "messages waiting".to_owned();
            return Err(StoreError::Full { what, limit: 1 });
        }
        self.stopped = failure.is_some();
        let written = if failure == Some(Failure::Lost) {
            Ok(0)
        } else {
            self.memory.lock().unwrap().commit(batch)
        };
        if self.stopped {
            let source = Box::new(redb::Error::Io(std::io::Error::other("input/output error")));
            return Err(StoreError::Failed { path, source });
        }
        written
    }

    fn seen(&self, sender: &str, id: &str) -> Result<Option<Seen>, StoreError> {
        self.memory.lock().unwrap().seen(sender, id)
    }

    fn outbox(&self) -> Result<Vec<OutboxRow>, StoreError> {
        self.memory.lock().unwrap().outbox()
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.lock().unwrap().meta(key)
    }

    fn prune(&mut self, now: u64) -> Result<Pruned, StoreError> {
        self.memory.lock().unwrap().prune(now)
    }
}

/// What is left of an agent when its process ends.
struct Disk {
    folder: TempDir,
    memory: Arc<Mutex<MemoryStore>>,
}

/// The ends of an agent's channels that others hold.
struct Ends {
    calls: mpsc::Sender<ControlRequest>,
    reports: mpsc::Sender<Report>,
}

impl Disk {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            memory: Arc::default(),
        }
    }

    fn seed(&self) -> Seed {
        let file = SeedFile::new(self.folder.path().join("seed"));
        file.load_or_create(&Unlock::unencrypted()).unwrap()
    }

    /// A participant that joins and signs without asking. What the chain says, the test says.
    async fn start(
        &self,
        trap: Option<Trap>,
    ) -> Result<(Driver<ParticipantAgent>, Inputs, Ends), DriverError> {
        let (agent, machine) = role(self.seed());
        self.start_as(agent, machine, trap, None, Limits::default())
            .await
    }

    /// An agent of any role. What the chain says, the test says.
    async fn start_as<A: Agent>(
        &self,
        agent: A,
        machine: A::Machine,
        trap: Option<Trap>,
        listen: Option<SocketAddr>,
        bounds: Limits,
    ) -> Result<(Driver<A>, Inputs, Ends), DriverError> {
        let (inbound, frames) = mpsc::channel(64);
        let config = TransportConfig {
            listen,
            ..bounds.transport()
        };
        let transport = Transport::start(config, inbound).await.unwrap();
        let endpoint = transport
            .local_addr()
            .map(|address| format!("ws://{address}"));
        let endpoint = endpoint.as_deref().unwrap_or("didcomm:transport/queue");
        let (reports, reported) = mpsc::channel(64);
        let nowhere = EsploraChain::new("http://127.0.0.1:1", Duration::from_secs(1), 0).unwrap();
        let identity = ChainIdentity::of(bitcoin::Network::Regtest);
        let never = Duration::from_hours(1);
        let watcher = Watcher::start(Arc::new(nowhere), identity, never, reports.clone());
        let (calls, called) = mpsc::channel(8);
        let (driver, inputs) = Driver::start(Parts {
            agent,
            machine,
            store: Box::new(FailingStore {
                memory: Arc::clone(&self.memory),
                trap,
                stopped: false,
            }),
            identities: Identities::new(self.seed(), endpoint.parse().unwrap()),
            transport: (transport, frames),
            watcher: (watcher.unwrap(), reported),
            calls: called,
            config: DriverConfig {
                allow_private: true,
                disclosure: Disclosure::new(1 << 20),
                limits: UnpackLimits::default(),
                bounds,
                started: now(),
                about: Value::Null,
                network: BtcNetwork::Regtest,
            },
        })?;
        Ok((driver, inputs, Ends { calls, reports }))
    }

    async fn run(&self, trap: Option<Trap>) -> Running {
        let (driver, inputs, ends) = self.start(trap).await.unwrap();
        Running::new(driver, inputs, ends)
    }
}

/// A participant with keys of this seed, which joins and signs without asking.
fn role(seed: Seed) -> (ParticipantAgent, Participant) {
    let secret = LeafSecret::new(seed.leaf_secret());
    let seed = Arc::new(seed);
    // None of these tests has a DID.
    let dids = Dids::new(
        Path::new("/nonexistent"),
        Arc::clone(&seed),
        BtcNetwork::Regtest,
    );
    let keys = move |path: KeyPath| {
        seed.cohort_key(path.network.bitcoin(), path.steps())
            .unwrap()
    };
    let agent = ParticipantAgent::new(Box::new(keys), dids);
    let policy = Policy {
        auto_join: Some(vec!["did:example:fred".to_owned()]),
        auto_sign: true,
        ..Policy::asking(BtcNetwork::Regtest)
    };
    (agent, Participant::new(policy, secret))
}

/// An agent whose loop runs.
struct Running {
    ends: Ends,
    transport: Arc<Transport>,
    stop: oneshot::Sender<()>,
    end: JoinHandle<Result<(), DriverError>>,
}

impl Running {
    fn new<A: Agent>(driver: Driver<A>, inputs: Inputs, ends: Ends) -> Self
    where
        <A::Machine as Machine>::Command: Send,
    {
        // Held beyond the driver's end, so that what it had queued for a socket still leaves and is seen.
        let transport = Arc::clone(&driver.transport);
        let (stop, stopped) = oneshot::channel();
        let end = tokio::spawn(driver.run(inputs, async { drop(stopped.await) }));
        Self {
            ends,
            transport,
            stop,
            end,
        }
    }

    /// `None` when the agent ended without an answer.
    async fn call(&self, method: &str, params: Value) -> Option<ControlReply> {
        let (request, answer) = request(method, params);
        self.ends.calls.send(request).await.ok()?;
        in_time(answer).await.ok()
    }

    async fn subscribe(&self, coordinator: &str) -> Option<ControlReply> {
        self.call("subscribe", json!({ "coordinator": coordinator }))
            .await
    }

    /// The chain has this output, in a block.
    async fn sees(&self, (outpoint, output): &(OutPoint, TxOut)) {
        let view = OutputView::Seen {
            output: output.clone(),
            confirmations: 1,
            spent_by: None,
        };
        let outpoint = *outpoint;
        let fact = ChainFact::Inputs(vec![(outpoint, view)]);
        self.ends.reports.send(Report::Fact(fact)).await.unwrap();
    }

    /// Why it ended. All that it had queued has left by then, and its sockets are closed.
    async fn failed(self) -> DriverError {
        let error = in_time(self.end).await.unwrap().unwrap_err();
        self.transport.shutdown().await;
        error
    }

    async fn stopped(self) {
        self.stop.send(()).unwrap();
        in_time(self.end).await.unwrap().unwrap();
    }
}

fn request(method: &str, params: Value) -> (ControlRequest, oneshot::Receiver<ControlReply>) {
    let (reply, answer) = oneshot::channel();
    let method = method.to_owned();
    let request = ControlRequest {
        method,
        params,
        reply,
    };
    (request, answer)
}

/// A guard against waiting for ever, never a pause.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let waited = timeout(Duration::from_mins(1), future).await;
    waited.expect("it should have happened long ago")
}

#[tokio::test]
async fn nothing_of_an_uncertain_step_is_applied_queued_or_answered() {
    for failure in [Failure::Lost, Failure::Written] {
        let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
        let trap = Some(("subscribed", failure));
        let (mut driver, _inputs, _ends) = disk.start(trap).await.unwrap();
        let before = driver.machine.state().clone();
        let (request, answer) = request("subscribe", json!({ "coordinator": conductor.did() }));
        let error = driver.call(request).unwrap_err();
        assert!(
            matches!(error, DriverError::Store(StoreError::Failed { .. })),
            "{failure:?}: {error}"
        );
        assert_eq!(*driver.machine.state(), before, "{failure:?}");
        assert_eq!(
            (driver.last_seq, driver.outbox.len()),
            (0, 0),
            "{failure:?}"
        );
        assert!(driver.outbox.take_fresh().is_empty(), "{failure:?}");
        assert!(in_time(answer).await.is_err(), "not told that it was done");
    }
}

#[tokio::test]
async fn an_uncertain_commit_ends_the_run_and_the_next_one_goes_on_from_the_disk() {
    for failure in [Failure::Lost, Failure::Written] {
        let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
        let participant = disk.run(Some(("subscribed", failure))).await;
        let answer = participant.subscribe(&conductor.did()).await;
        assert!(answer.is_none(), "{failure:?}: got {answer:?}");
        let error = participant.failed().await;
        assert!(
            matches!(error, DriverError::Store(StoreError::Failed { .. })),
            "{failure:?}: {error}"
        );
        assert!(conductor.frames.try_recv().is_err(), "nobody was dialled");

        let participant = disk.run(None).await;
        if failure == Failure::Lost {
            participant.subscribe(&conductor.did()).await.unwrap();
        }
        conductor.until("keygen/cohort_ack").await;
        assert_eq!(conductor.times_heard("keygen/subscribe"), 1, "{failure:?}");
        participant.stopped().await;
    }
}

#[tokio::test]
async fn a_refused_command_changes_nothing_sends_nothing_and_can_be_given_again() {
    let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
    let participant = disk.run(Some(("subscribed", Failure::Refused))).await;
    let Some(ControlReply::Error(error)) = participant.subscribe(&conductor.did()).await else {
        panic!("the store had no room");
    };
    assert_eq!(error.code, FAILED);
    assert!(error.message.contains("store"), "{error}");
    let Some(ControlReply::Result(status)) = participant.call("status", Value::Null).await else {
        panic!("it should go on");
    };
    assert_eq!(status["coordinators"], json!([]));
    assert_eq!(
        (&status["events"], &status["waiting_messages"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(status["refused"], json!({ "store-full": 1 }));

    let answer = participant.subscribe(&conductor.did()).await;
    assert!(
        matches!(answer, Some(ControlReply::Result(_))),
        "{answer:?}"
    );
    conductor.until("keygen/cohort_ack").await;
    assert_eq!(conductor.times_heard("keygen/subscribe"), 1);
    participant.stopped().await;
}

/// Nobody repeats a signer's answer, so the driver does.
#[tokio::test]
async fn a_signers_answer_that_the_store_refuses_is_taken_later() {
    let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
    let participant = disk.run(Some(("opted_in", Failure::Refused))).await;
    participant.subscribe(&conductor.did()).await.unwrap();
    conductor.until("keygen/cohort_ack").await;
    assert_eq!(conductor.times_heard("keygen/opt_in"), 1);
    participant.stopped().await;
}

#[tokio::test]
async fn a_refused_message_is_reported_not_acknowledged_and_taken_when_it_comes_again() {
    let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
    let participant = disk
        .run(Some(("cohort_advertised", Failure::Refused)))
        .await;
    participant.subscribe(&conductor.did()).await.unwrap();
    let report = conductor.until(PROBLEM_REPORT).await;
    assert_eq!(report["code"], "e.m.limit");
    assert!(!conductor.acked.contains(&conductor.sent.0));
    assert_eq!(conductor.times_heard("keygen/opt_in"), 0);

    conductor.send_again();
    conductor.until("keygen/cohort_ack").await;
    participant.stopped().await;
}

/// What is asked of a participant whose store fails at each of the three events of a session.
#[tokio::test]
async fn no_nonce_and_no_partial_signature_leaves_before_it_is_surely_on_the_disk() {
    const NONCE: &str = "sign/nonce_contribution";
    const PARTIAL: &str = "sign/signature_authorization";
    const DECLINE: &str = "sign/decline";
    // The event, how it fails, what must not leave, and what follows from the disk at the next start.
    for (event, failure, secret, follows) in [
        // The nonces went with the process. Whether somebody knows of them, the disk cannot say: it may be an old copy.
        ("nonce_committed", Failure::Lost, NONCE, DECLINE),
        ("nonce_committed", Failure::Written, NONCE, DECLINE),
        ("partial_authorized", Failure::Lost, PARTIAL, DECLINE),
        ("partial_authorized", Failure::Written, PARTIAL, DECLINE),
        ("partial_released", Failure::Lost, PARTIAL, DECLINE),
        // Stored, never computed again.
        ("partial_released", Failure::Written, PARTIAL, PARTIAL),
    ] {
        let case = format!("{event} {failure:?}");
        let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
        let participant = disk.run(Some((event, failure))).await;
        let fund = conductor.propose(&participant).await;
        participant.sees(&fund).await;
        let (error, ()) = tokio::join!(participant.failed(), conductor.until_closed());
        assert!(
            matches!(error, DriverError::Store(StoreError::Failed { .. })),
            "{case}: {error}"
        );
        assert_eq!(conductor.times_heard(secret), 0, "{case}");
        assert_eq!(conductor.times_heard(PARTIAL), 0, "{case}");
        // The message that led to the step is not acknowledged either.
        let acked = conductor.acked.contains(&conductor.sent.0);
        assert_eq!(acked, event != "partial_authorized", "{case}");

        if follows == DECLINE {
            // The decline is the first thing to be recorded; a store that fails again lets nothing begin.
            let again = disk.start(Some(("session_ended", Failure::Lost))).await;
            assert!(matches!(again.err(), Some(DriverError::Store(_))), "{case}");
        }
        let participant = disk.run(None).await;
        participant.sees(&fund).await;
        let body = conductor.until(follows).await;
        if follows == DECLINE {
            assert_eq!(body["code"], "nonce-lost", "{case}");
            assert_eq!(conductor.times_heard(PARTIAL), 0, "{case}");
        }
        assert_eq!(conductor.is_signed(), follows == PARTIAL, "{case}");
        participant.stopped().await;
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_named_by_its_number() {
    let disk = Disk::new();
    let coordinator = PeerId::new("did:example:coordinator");
    let known = serde_json::to_vec(&Event::Unsubscribed { coordinator }).unwrap();
    let unknown = br#"{"event":"from_the_future"}"#.to_vec();
    let events = vec![known.clone(), unknown, known];
    let batch = Batch {
        events,
        ..Batch::default()
    };
    disk.memory.lock().unwrap().commit(&batch).unwrap();
    let error = disk.start(None).await.err().unwrap();
    assert!(matches!(error, DriverError::Log { seq: 2, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("event 2 of the log cannot be read"),
        "{text}"
    );
    assert!(text.contains("from_the_future"), "{text}");
}

#[tokio::test]
async fn a_snapshot_stands_for_the_log_before_it() {
    let (disk, mut conductor) = (Disk::new(), Conductor::start().await);
    let (mut driver, _inputs, _ends) = disk.start(None).await.unwrap();
    driver.config.bounds.snapshot_events = 4;
    driver.config.bounds.keep_events = 1;
    for number in 1..=11 {
        let method = if number % 2 == 1 {
            "subscribe"
        } else {
            "unsubscribe"
        };
        let (request, _answer) = request(method, json!({ "coordinator": conductor.did() }));
        driver.call(request).unwrap();
        assert_eq!(driver.last_seq, number);
    }
    let (state, events) = (
        driver.machine.state().clone(),
        disk.memory.lock().unwrap().events(1).unwrap(),
    );
    drop(driver);
    let kept: Vec<u64> = events.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(kept, [8, 9, 10, 11]);
    assert_eq!(
        disk.memory
            .lock()
            .unwrap()
            .snapshot()
            .unwrap()
            .unwrap()
            .event,
        8
    );
    let (driver, _inputs, _ends) = disk.start(None).await.unwrap();
    assert_eq!(*driver.machine.state(), state);
    assert_eq!((driver.last_snapshot, driver.last_seq), (8, 11));
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_named() {
    let disk = Disk::new();
    let future = br#"{"from_the_future":true}"#;
    disk.memory.lock().unwrap().compact(future, 0).unwrap();
    let error = disk.start(None).await.err().unwrap();
    assert!(matches!(error, DriverError::Snapshot { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("the snapshot after event 0"), "{text}");
}
