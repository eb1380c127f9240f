//! One agent: its process, its home, and what users ask of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use beacon_runtime::control::{self, CallError};
use beacon_runtime::data_dir::control_socket_of;
use beacon_runtime::keys::{Seed, SeedFile, Unlock};
use serde_json::Value;

use super::log::{Ended, Event, Log};
use super::process::{Output, Process, run};
use super::{Binary, Faults};

/// A coordinator or a participant.
#[derive(Debug)]
pub struct Agent {
    name: String,
    binary: Binary,
    folder: PathBuf,
    options: Vec<String>,
    did: String,
    listening: Option<String>,
    process: Option<Process>,
    log: Log,
    faults: Option<Faults>,
    environment: Vec<(&'static str, PathBuf)>,
    open_files: Option<u32>,
}

impl Agent {
    /// Starts an agent in a home of its own in `folder`, with these options of `run`.
    pub async fn start(name: &str, binary: Binary, folder: &Path, options: Vec<String>) -> Self {
        let mut agent = Self::new(name, binary, folder, options);
        agent.restart().await;
        agent
    }

    /// One that does not run yet.
    pub fn new(name: &str, binary: Binary, folder: &Path, options: Vec<String>) -> Self {
        let mut agent = Self {
            name: name.to_owned(),
            binary,
            folder: folder.to_owned(),
            options,
            did: String::new(),
            listening: None,
            process: None,
            log: Log::new(name, PathBuf::new()),
            faults: None,
            environment: Vec::new(),
            open_files: None,
        };
        agent.log = Log::new(name, agent.socket());
        agent
    }

    /// The same, whose disk fails and which dies as it is told.
    #[must_use]
    pub fn with_faults(mut self) -> Self {
        self.faults = Some(Faults::new(&self.data_dir()));
        self
    }

    /// The same, with this variable in its environment.
    #[must_use]
    pub fn with_environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// The same, with this many file descriptors.
    #[must_use]
    pub fn with_open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// What shall happen to its disk.
    pub fn faults(&self) -> &Faults {
        self.faults
            .as_ref()
            .unwrap_or_else(|| panic!("{} was started without faults", self.name))
    }

    /// Starts it again, after its end, and waits until it can be used.
    pub async fn restart(&mut self) {
        if let Err(status) = self.try_restart().await {
            panic!("{} ended before it was ready: {status}", self.name);
        }
    }

    /// The same for one that may end before it can be used.
    pub async fn try_restart(&mut self) -> Result<(), ExitStatus> {
        self.log.disconnect();
        let arguments = self.arguments(&["run"]).into_iter();
        let arguments: Vec<_> = arguments.chain(self.options.iter().cloned()).collect();
        let environment = self.faults.iter().flat_map(Faults::environment);
        let environment = environment
            .chain(self.environment.iter().cloned())
            .collect();
        let mut process = Process::start(
            &self.name,
            &self.folder,
            self.binary,
            &arguments,
            environment,
            self.open_files,
        );
        let Some(line) = process.line().await else {
            return Err(process.exit().await);
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready", "{line}");
        let did = ready["did"].as_str().unwrap();
        assert!(
            self.did.is_empty() || self.did == did,
            "{} became another: {did}, before {}",
            self.name,
            self.did
        );
        did.clone_into(&mut self.did);
        self.listening = ready["listening"].as_str().map(str::to_owned);
        self.process = Some(process);
        Ok(())
    }

    /// Waits for its end, however it comes about.
    pub async fn ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut();
        let status = process
            .unwrap_or_else(|| panic!("{} is not running", self.name))
            .ended()
            .await;
        self.log.disconnect();
        self.process = None;
        status
    }

    /// Whether its process has not ended.
    pub fn process_runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::runs)
    }

    /// Its name in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its first DID; a participant's first coordinator knows it by this one.
    pub fn did(&self) -> &str {
        &self.did
    }

    /// Where it can be dialled.
    pub fn url(&self) -> String {
        let address = self.listening.as_ref();
        format!(
            "ws://{}",
            address.unwrap_or_else(|| panic!("{} does not listen", self.name))
        )
    }

    /// Its home.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        control_socket_of(&self.data_dir()).unwrap()
    }

    /// Its seed, for a test that speaks in its name.
    pub fn seed(&self) -> Seed {
        let file = SeedFile::new(self.data_dir().join("seed"));
        file.load(&Unlock::unencrypted()).unwrap()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.running().id()
    }

    /// All that it has logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.log", self.name))).unwrap()
    }

    /// Calls a control method.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params)
            .await
            .unwrap_or_else(|error| panic!("{}: {method}: {error}", self.name))
    }

    /// Calls a control method that may be refused.
    pub async fn try_call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        control::call(&self.socket(), method, params).await
    }

    /// Runs a command of its program, as a user does, with its `--data-dir` and `--json`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        run(self.binary, self.arguments(arguments)).await
    }

    /// Runs a command that succeeds, and reads its answer.
    pub async fn answer(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).await;
        assert_eq!(output.code, 0, "{} {arguments:?}: {output:?}", self.name);
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// How often each kind of refusal happened since the start, as `status` says.
    pub async fn refused(&self, kind: &str) -> u64 {
        let status = self.call("status", Value::Null).await;
        status["refused"][kind].as_u64().unwrap_or_default()
    }

    /// The number of the log's last event, as `status` says.
    pub async fn last_seq(&self) -> u64 {
        let status = self.call("status", Value::Null).await;
        status["events"].as_u64().unwrap()
    }

    /// How many events the log has besides estimates of the fee rate, which come when they come.
    pub async fn event_count(&self) -> usize {
        let events = self.events().await;
        let others = events
            .iter()
            .filter(|event| event.value["event"] != "fee_estimated");
        others.count()
    }

    /// The first event of this kind for which `fits` holds: in the past, or as soon as it happens.
    pub async fn wait(&mut self, kind: &str, fits: impl Fn(&Value) -> bool) -> Event {
        self.log.wait(kind, fits).await
    }

    /// The same, among events with a sequence number above `seq`.
    pub async fn wait_after(
        &mut self,
        seq: u64,
        kind: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Event {
        self.log.wait_after(seq, kind, fits).await
    }

    /// The same for one that may end meanwhile.
    pub async fn try_wait_after(
        &mut self,
        seq: u64,
        kind: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Event, Ended> {
        self.log.try_wait_after(seq, kind, fits).await
    }

    /// Forgets what was read of its log: another home has another.
    pub fn forget_log(&mut self) {
        self.log = Log::new(&self.name, self.socket());
    }

    /// Reads its log up to now, where that was not done since its start.
    pub(super) async fn read_past(&mut self) -> Result<(), Ended> {
        self.log.read_past().await
    }

    /// The first event of this kind for which `fits` holds, among those read.
    pub(super) fn seen(&self, kind: &str, fits: impl Fn(&Value) -> bool) -> Option<Event> {
        let mut seen = self.log.seen().iter();
        seen.find(|event| event.value["event"] == kind && fits(&event.value))
            .cloned()
    }

    /// All events read so far.
    pub fn seen_events(&self) -> &[Event] {
        self.log.seen()
    }

    /// Its log, read independently of this handle: from now on, or from the beginning.
    pub async fn follow(&self, from_now: bool) -> Log {
        let mut log = Log::new(&self.name, self.socket());
        if from_now {
            log.skip(self.last_seq().await);
        }
        log
    }

    /// All events of its log, read anew.
    pub async fn events(&self) -> Vec<Event> {
        let mut log = self.follow(false).await;
        log.read()
            .await
            .unwrap_or_else(|_| panic!("{} ended", self.name));
        log.seen().to_vec()
    }

    /// Tells it to stop, and waits until it has. Returns its exit code.
    pub async fn terminate(&mut self) -> i32 {
        self.log.disconnect();
        let mut process = self.process.take().unwrap();
        process.signal("TERM");
        let status = process.exit().await;
        status
            .code()
            .unwrap_or_else(|| panic!("{} ended by {status}", self.name))
    }

    /// Ends it at once, without a chance to write anything more.
    pub fn kill(&mut self) {
        self.log.disconnect();
        // Dropped: SIGKILL, and waited for.
        self.process = None;
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let data_dir = self.data_dir().display().to_string();
        // Whoever reads a test's folder may have its keys; tests of passphrases start their agents themselves.
        let all = ["--json", "--unencrypted-keys", "--data-dir", &data_dir];
        let all = all.iter().chain(arguments);
        all.map(|argument| (*argument).to_owned()).collect()
    }

    fn running(&self) -> &Process {
        self.process
            .as_ref()
            .unwrap_or_else(|| panic!("{} is not running", self.name))
    }
}
