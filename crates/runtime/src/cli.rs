//! What the command lines of both agents have in common: options, calls to the running agent, output, exit codes.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches as _, Parser};
use serde_json::Value;

use crate::agent::{Agent, Call};
use crate::app::{self, Choice, Home};
use crate::control::{self, CallError, RpcError};
use crate::data_dir::control_socket_of;
use crate::driver;
use crate::identities::Identities;
use crate::keys::{KeyError, Unlock};
use crate::settings::{Config, Options, SettingsError, check_endpoint};

/// Exit code: done.
pub const DONE: u8 = 0;
/// Exit code: not done, or the answer is no.
pub const FAILED: u8 = 1;
/// Exit code: the command line, the configuration or an input file cannot be used.
pub const USAGE: u8 = 2;
/// Exit code: the agent is not running.
pub const NOT_RUNNING: u8 = 3;
/// Exit code: the keys stay locked, since their passphrase is missing, wrong or unusable.
pub const LOCKED: u8 = 4;

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Directory of the agent's seed, state and control socket
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file in TOML [default: config.toml in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON for machines
    #[arg(long, global = true)]
    pub json: bool,
    /// File with the passphrase of the agent's keys, open to you alone; asked for at a terminal without it
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Make new keys without a passphrase
    #[arg(long, global = true)]
    pub unencrypted_keys: bool,
}

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    options: Options,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

/// Options of `did`.
#[derive(Args, Clone, Debug)]
pub struct DidArgs {
    #[command(flatten)]
    options: Options,
    /// Take the configured endpoint although it changes the DID
    #[arg(long)]
    change_endpoint: bool,
}

/// Options of `events`.
#[derive(Args, Clone, Debug)]
pub struct EventsArgs {
    /// First sequence number
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// End at the first event of this kind
    #[arg(long, value_name = "KIND")]
    until: Option<String>,
    /// With --until: only an event whose member has this value; may be given several times
    #[arg(long = "where", value_name = "NAME=VALUE", value_parser = name_and_value)]
    matching: Vec<(String, String)>,
}

/// Parses `NAME=VALUE`.
pub fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("got {text:?}, expected NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses the command line of the agent of this name, with the environment behind it. `--help`, `--version` and a command
/// line without a command are answered by clap, and end the process here.
pub fn parse<T: Parser>(agent: &'static str) -> Result<T, Failure> {
    let matches = with_environment(T::command(), agent).try_get_matches();
    matches
        .and_then(|matches| T::from_arg_matches(&matches))
        .map_err(|error| {
            let without_command = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if !error.use_stderr() || error.kind() == without_command {
                error.exit(); // With code 2 where a command is missing.
            }
            Failure::usage(anyhow!("{}", one_line(&error.to_string())))
        })
}

/// What clap says, on one line: the error and its tips, without the usage.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let said: Vec<_> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said}: see --help")
}

/// An error with the exit code that it ends the process with.
#[derive(Debug)]
pub struct Failure {
    /// One of this module's constants.
    pub code: u8,
    /// What happened, with its causes.
    pub error: anyhow::Error,
}

impl Failure {
    /// The command line, the configuration or an input file cannot be used.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: USAGE,
            error: error.into(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = match error.downcast_ref::<CallError>() {
            Some(CallError::NotRunning { .. }) => NOT_RUNNING,
            _ if error.is::<SettingsError>() => USAGE,
            _ if error
                .downcast_ref::<KeyError>()
                .is_some_and(KeyError::is_locked) =>
            {
                LOCKED
            }
            _ => FAILED,
        };
        Self { code, error }
    }
}

/// Adds an environment variable to the options of every command, and to those that `run` and `did` have.
fn with_environment(command: Command, agent: &'static str) -> Command {
    let add = move |arg| with_variable(arg, agent);
    command
        .mut_args(add)
        .mut_subcommand("run", |run| run.mut_args(add))
        .mut_subcommand("did", |did| did.mut_args(add))
}

fn with_variable(arg: clap::Arg, agent: &str) -> clap::Arg {
    match arg.get_long() {
        Some("help" | "version" | "json") | None => arg,
        Some(_) => {
            let variable = variable(agent, arg.get_id().as_str());
            arg.env(variable)
        }
    }
}

/// The environment variable for an option of the agent of this name.
pub(crate) fn variable(agent: &str, option: &str) -> String {
    format!("{agent}_{option}").replace('-', "_").to_uppercase()
}

/// What the environment says of the options of `run`.
fn from_environment(agent: &str) -> Result<Options, Failure> {
    let command = Options::augment_args(Command::new("environment").no_binary_name(true));
    let command = command.mut_args(|arg| with_variable(arg, agent));
    let matches = command.try_get_matches_from([""; 0]);
    matches
        .and_then(|matches| Options::from_arg_matches(&matches))
        .map_err(|error| {
            let (variables, said) = (variable(agent, "*"), one_line(&error.to_string()));
            Failure::usage(anyhow!("environment, {variables}: {said} of run"))
        })
}

impl Global {
    /// The data directory: as given, or a folder of the user's named after the agent.
    pub(crate) fn data_dir(&self, agent: &str) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.data_dir {
            return Ok(path.clone());
        }
        let home = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        home("XDG_DATA_HOME")
            .or_else(|| home("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join(agent))
            .ok_or_else(|| Failure::usage(anyhow!("HOME is not set: give --data-dir")))
    }

    /// What options, environment and file come to, whatever options of `run` a command has itself.
    pub(crate) fn config(
        &self,
        agent: &str,
        options: Options,
        data_dir: &Path,
    ) -> Result<Config, Failure> {
        let (path, named) = match &self.config {
            Some(path) => (path.clone(), true),
            None => (data_dir.join("config.toml"), false),
        };
        options
            .over(&from_environment(agent)?, &path, named)
            .and_then(Options::resolve)
            .map_err(Failure::usage)
    }

    /// Where the passphrase of the agent's keys may come from.
    pub(crate) fn unlock(&self, agent: &str, config: &Config) -> Result<Unlock, Failure> {
        let unencrypted = config.unencrypted_keys(self.unencrypted_keys);
        let unlock = Unlock::new(
            agent,
            self.passphrase_file.clone(),
            config.passphrase_file.clone(),
            unencrypted.map_err(Failure::usage)?,
        );
        Ok(unlock.map_err(KeyError::from)?)
    }

    /// Opens the agent's home, on a thread that may wait: for a person's passphrase, and for scrypt.
    pub(crate) async fn open(
        &self,
        agent: &str,
        config: &Config,
        choice: Choice,
    ) -> Result<Home, Failure> {
        let path = self.data_dir(agent)?;
        let unlock = self.unlock(agent, config)?;
        let limits = config.limits.store();
        let open = move || app::open(&path, &unlock, choice, limits);
        Ok(tokio::task::spawn_blocking(open).await??)
    }

    /// Runs an agent until it is told to stop. Nothing of its home is touched before the configuration is known to be
    /// usable.
    pub async fn run<A: Agent>(
        &self,
        name: &str,
        args: RunArgs,
        role: impl FnOnce(&Home, &Config) -> Result<(A, A::Machine), KeyError>,
    ) -> Result<(), Failure> {
        init_logging(args.log_json);
        let path = self.data_dir(name)?;
        let config = self.config(name, args.options, &path)?.to_run::<A>()?;
        let choice = Choice::Configured(config.endpoint.clone());
        let home = self.open(name, &config, choice).await?;
        let (agent, machine) = role(&home, &config)?;
        Ok(app::run(home, &config, agent, machine, self.json).await?)
    }

    /// Prints what the agent answers to `did`; while it does not run, what `offline` makes of its identities.
    pub async fn did<A: Agent>(
        &self,
        name: &str,
        args: DidArgs,
        offline: impl FnOnce(&mut Identities) -> Result<Value, RpcError>,
    ) -> Result<(), Failure> {
        let path = self.data_dir(name)?;
        match control::call(&control_socket_of(&path)?, "did", Value::Null).await {
            Ok(answer) if !args.change_endpoint => self.print(&answer),
            Ok(_) => Err(Failure::usage(anyhow!(
                "the agent is running: stop it before its endpoint is changed"
            ))),
            Err(CallError::NotRunning { .. }) => {
                let config = self.config(name, args.options, &path)?;
                let choice = Choice::of(&config.endpoint, args.change_endpoint);
                let mut home = self.open(name, &config, choice).await?;
                check_endpoint::<A>(home.identities.endpoint())?;
                self.print(&offline(&mut home.identities)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the running agent, or, while it does not run, `offline` with its identities.
    pub async fn ask_or_open(
        &self,
        name: &str,
        method: &str,
        params: Value,
        offline: impl FnOnce(&mut Identities, Value) -> Result<Value, RpcError>,
    ) -> Result<Value, Failure> {
        let path = self.data_dir(name)?;
        match control::call(&control_socket_of(&path)?, method, params.clone()).await {
            Err(CallError::NotRunning { .. }) => {
                let config = self.config(name, Options::default(), &path)?;
                let choice = Choice::of(&config.endpoint, false);
                let mut home = self.open(name, &config, choice).await?;
                // No agent took part: the code of its answers means nothing here.
                Ok(
                    offline(&mut home.identities, params)
                        .map_err(|error| anyhow!(error.message))?,
                )
            }
            answer => Ok(answer?),
        }
    }

    /// Asks the running agent, or, while it does not run, the role with the state of its log. For what changes no state.
    pub async fn ask_or_replay<A: Agent>(
        &self,
        name: &str,
        method: &str,
        params: Value,
        role: impl FnOnce(&Home, &Config) -> Result<(A, A::Machine), KeyError>,
    ) -> Result<Value, Failure> {
        let path = self.data_dir(name)?;
        match control::call(&control_socket_of(&path)?, method, params.clone()).await {
            Err(CallError::NotRunning { .. }) => {
                let config = self.config(name, Options::default(), &path)?;
                let choice = Choice::of(&config.endpoint, false);
                let mut home = self.open(name, &config, choice).await?;
                let (agent, mut machine) = role(&home, &config)?;
                driver::replay(&home.store, &mut machine)?;
                match agent.call(&machine, &mut home.identities, method, params) {
                    Ok(Call::Answer(answer)) => Ok(answer),
                    Ok(Call::Command(..)) => {
                        Err(anyhow!("{method} needs the agent: start it with `run`").into())
                    }
                    Err(error) => Err(anyhow!(error.message).into()),
                }
            }
            answer => Ok(answer?),
        }
    }

    /// Calls the running agent and prints its answer.
    pub async fn call(&self, agent: &str, method: &str, params: Value) -> Result<(), Failure> {
        let answer = self.ask(agent, method, params).await?;
        self.print(&answer)
    }

    /// Calls the running agent.
    pub async fn ask(&self, agent: &str, method: &str, params: Value) -> Result<Value, Failure> {
        let socket = control_socket_of(&self.data_dir(agent)?)?;
        Ok(control::call(&socket, method, params).await?)
    }

    /// Prints the agent's events, those of the past first. With `until`, ends at the first event of that kind whose
    /// members include `matching`.
    pub async fn events(&self, agent: &str, args: EventsArgs) -> Result<(), Failure> {
        let EventsArgs {
            from,
            until,
            matching,
        } = args;
        let socket = control_socket_of(&self.data_dir(agent)?)?;
        let mut follow =
            control::follow(&socket, "events", serde_json::json!({ "from": from })).await?;
        let mut past = match follow.result["past"].take() {
            Value::Array(past) => past,
            _ => Vec::new(),
        }
        .into_iter();
        loop {
            let line = match past.next() {
                Some(line) => line,
                None => match follow.next().await? {
                    Some(line) => line,
                    None => return Err(anyhow!("the agent ended the stream of events: it stopped, or this reader is too slow").into()),
                },
            };
            print_line(&line.to_string())?;
            let event = &line["event"];
            let fits = |(name, value): &(String, String)| match &event[name] {
                Value::String(text) => text == value,
                other => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *other),
            };
            if until.as_ref().is_some_and(|kind| event["event"] == **kind)
                && matching.iter().all(fits)
            {
                return Ok(());
            }
        }
    }

    /// Prints a value: JSON on one line for machines, indented text for people.
    pub fn print(&self, value: &Value) -> Result<(), Failure> {
        if self.json {
            return print_line(&value.to_string());
        }
        let mut text = String::new();
        match value {
            Value::Array(items) if items.is_empty() => text.push_str("(none)\n"),
            other => render(other, 0, &mut text),
        }
        print_line(text.trim_end())
    }
}

/// One line on standard output.
pub fn print_line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn render(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::Null => {}
                    Value::Object(inner) if !inner.is_empty() => {
                        line(out, format_args!("{pad}{name}:\n"));
                        render(value, indent + 2, out);
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        line(out, format_args!("{pad}{name}:\n"));
                        render(value, indent + 2, out);
                    }
                    Value::Object(_) | Value::Array(_) => {
                        line(out, format_args!("{pad}{name}: none\n"));
                    }
                    scalar => line(out, format_args!("{pad}{name}: {}\n", plain(scalar))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut text = String::new();
                render(item, indent + 2, &mut text);
                let body = text.get(indent + 2..).unwrap_or_default();
                line(out, format_args!("{pad}- {body}"));
            }
        }
        scalar => line(out, format_args!("{pad}{}\n", plain(scalar))),
    }
}

/// Writing to a string cannot fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = std::fmt::Write::write_fmt(out, text);
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Runs a command to its exit code; an error is one line on standard error.
pub fn exit(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::from(DONE),
        Err(Failure { code, error }) => {
            let mut err = std::io::stderr().lock();
            // Nothing is left to do where even this cannot be written.
            let _ = writeln!(err, "error: {}", with_causes(&error));
            ExitCode::from(code)
        }
    }
}

/// An error with its causes, where it does not name them itself.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Logs to standard error; `RUST_LOG` chooses what, `info` by default.
pub(crate) fn init_logging(as_json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for people: in a file they hide words from every search.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only where a logger is set already.
    let _ = if as_json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_get_indented_text() {
        let mut text = String::new();
        let value =
            json!([{ "a": 1, "b": { "c": "d" }, "e": [], "f": null, "g": ["h", "i"] }, "j"]);
        render(&value, 0, &mut text);
        assert_eq!(
            text,
            "- a: 1\n  b:\n    c: d\n  e: none\n  g:\n    - h\n    - i\n- j\n"
        );
    }
}
