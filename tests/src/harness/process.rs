//! Processes with a deadline, a log, and an end.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Binary, DEADLINE};

/// Bytes of a log that a failing test shows.
const TAIL: usize = 4_000;

/// A folder of the test's own, gone with it; kept when the test fails.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

impl Scratch {
    /// A new one.
    pub fn new() -> Self {
        Self(Some(
            tempfile::Builder::new()
                .prefix("beacon-e2e-")
                .tempdir()
                .unwrap(),
        ))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take().filter(|_| std::thread::panicking()) {
            eprintln!("files of the failed test: {}", dir.keep().display());
        }
    }
}

/// A process that writes lines to standard output and a log to standard error.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts one. Its log is added to `folder/name.log`.
    pub(super) fn start(
        name: &str,
        folder: &Path,
        binary: Binary,
        arguments: &[String],
        environment: HashMap<&str, PathBuf>,
        open_files: Option<u32>,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = match open_files {
            None => Command::new(binary.path()),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()]);
                shell.arg(binary.path());
                shell
            }
        };
        command.args(arguments).env_remove("RUST_LOG");
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("BEACON_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // A test that no longer reads lets the process write all the same.
                let _ = sender.send(line);
            }
        });
        Self {
            name: name.to_owned(),
            child,
            lines,
            log,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output; none at its end.
    pub(super) async fn line(&mut self) -> Option<String> {
        timeout(DEADLINE, self.lines.recv())
            .await
            .unwrap_or_else(|_| panic!("{} neither wrote a line nor ended", self.name))
    }

    pub(super) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, as long as it takes.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        while self.lines.recv().await.is_some() {}
        self.child.wait().unwrap()
    }

    /// Waits for its end, which is due.
    pub(super) async fn exit(&mut self) -> ExitStatus {
        while self.line().await.is_some() {}
        // Its output is closed, so the process is over but for the last few instructions.
        self.child.wait().unwrap()
    }

    /// Sends a signal, by its name.
    pub(super) fn signal(&self, name: &str) {
        // The shell's own `kill`: a minimal system has no program of this name.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -s {name} {}", self.id())])
            .status()
            .unwrap();
        assert!(sent.success(), "cannot send SIG{name} to {}", self.name);
    }

    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read(&self.log).unwrap_or_default();
            let tail = log
                .get(log.len().saturating_sub(TAIL)..)
                .unwrap_or_default();
            let tail = String::from_utf8_lossy(tail);
            eprintln!("--- end of {}'s log ---\n{tail}", self.name);
        }
    }
}

/// What a command that ended by itself has left.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end.
pub async fn run<S: Into<String>>(
    binary: Binary,
    arguments: impl IntoIterator<Item = S>,
) -> Output {
    run_with(&[], binary, arguments).await
}

/// Runs a command to its end, with these variables in its environment.
pub async fn run_with<S: Into<String>>(
    environment: &[(&str, &str)],
    binary: Binary,
    arguments: impl IntoIterator<Item = S>,
) -> Output {
    let environment = environment.iter();
    let folder = Scratch::new();
    let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
    let mut process = Process::start(
        "command",
        folder.path(),
        binary,
        &arguments,
        environment
            .map(|(name, value)| (*name, value.into()))
            .collect(),
        None,
    );
    let mut stdout = String::new();
    while let Some(line) = process.line().await {
        stdout.push_str(&line);
        stdout.push('\n');
    }
    let status = process.exit().await;
    Output {
        code: status
            .code()
            .unwrap_or_else(|| panic!("{} {arguments:?}: {status}", binary.name())),
        stdout,
        stderr: process.log(),
    }
}
