//! One agent: its process, its home, and what users ask of it.

use std::fs;
use std::path::{Path, PathBuf};

use beacon_runtime::control::{self, CallError, Follow};
use beacon_runtime::data_dir::control_socket_of;
use beacon_runtime::keys::{Seed, SeedFile, Unlock};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::process::{Output, Process, run};
use super::{Binary, DEADLINE};

/// One entry of an agent's log.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// What happened; its kind is the member `event`.
    pub value: Value,
}

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
    events: Vec<Event>,
    stream: Option<Follow>,
}

impl Agent {
    /// Starts an agent in a home of its own in `folder`, with these options of `run`.
    pub async fn start(name: &str, binary: Binary, folder: &Path, options: Vec<String>) -> Self {
        let mut agent = Self {
            name: name.to_owned(),
            binary,
            folder: folder.to_owned(),
            options,
            did: String::new(),
            listening: None,
            process: None,
            events: Vec::new(),
            stream: None,
        };
        agent.restart().await;
        agent
    }

    /// Starts it again, after its end, and waits until it can be used.
    pub async fn restart(&mut self) {
        let arguments = self.arguments(&["run"]).into_iter();
        let arguments: Vec<_> = arguments.chain(self.options.iter().cloned()).collect();
        let mut process = Process::start(&self.name, &self.folder, self.binary, &arguments);
        let Some(line) = process.line().await else {
            panic!("{} ended before it was ready", self.name);
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

    /// How many events the log has, as `status` says.
    pub async fn event_count(&self) -> u64 {
        let status = self.call("status", Value::Null).await;
        status["events"].as_u64().unwrap()
    }

    /// The first event of this kind for which `fits` holds: in the past, or as soon as it happens.
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
        let deadline = Instant::now() + DEADLINE;
        let wanted =
            |event: &Event| event.seq > seq && event.value["event"] == kind && fits(&event.value);
        let mut looked_at = 0;
        loop {
            let fresh = self.events.iter().skip(looked_at);
            if let Some(event) = fresh.into_iter().find(|event| wanted(event)) {
                return event.clone();
            }
            looked_at = self.events.len();
            let more = timeout_at(deadline, self.read_events()).await;
            if !matches!(more, Ok(true)) {
                let end = match more {
                    Err(_) => "within the deadline",
                    Ok(_) => "before it ended the stream of events",
                };
                let seen: Vec<_> = self
                    .events
                    .iter()
                    .map(|event| format!("{:>4} {}", event.seq, brief(&event.value)))
                    .collect();
                panic!(
                    "{} has no fitting {kind} after event {seq} {end}; its events:\n{}",
                    self.name,
                    seen.join("\n")
                );
            }
        }
    }

    /// Reads at least one event, or the past. `false` when the agent ended the stream.
    async fn read_events(&mut self) -> bool {
        let next = if let Some(stream) = &mut self.stream {
            stream.next().await.unwrap()
        } else {
            let from = self.events.last().map_or(1, |event| event.seq + 1);
            let mut stream = control::follow(&self.socket(), "events", json!({ "from": from }))
                .await
                .unwrap_or_else(|error| panic!("{}: events: {error}", self.name));
            let past = stream.result["past"].take();
            self.stream = Some(stream);
            self.events
                .extend(past.as_array().unwrap().iter().map(event));
            return true;
        };
        self.events.extend(next.iter().map(event));
        next.is_some()
    }

    /// Tells it to stop, and waits until it has. Returns its exit code.
    pub async fn terminate(&mut self) -> i32 {
        self.stream = None;
        let mut process = self.process.take().unwrap();
        process.signal("TERM");
        let status = process.exit().await;
        status
            .code()
            .unwrap_or_else(|| panic!("{} ended by {status}", self.name))
    }

    /// Ends it at once, without a chance to write anything more.
    pub fn kill(&mut self) {
        self.stream = None;
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

fn event(line: &Value) -> Event {
    Event {
        seq: line["seq"].as_u64().unwrap(),
        value: line["event"].clone(),
    }
}

fn brief(event: &Value) -> String {
    event.to_string().chars().take(240).collect()
}
