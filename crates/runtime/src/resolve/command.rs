//! `beacon-participant resolve`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use beacon_btcr2::json::{self, JsonError, Limits};
use beacon_btcr2::options::OptionsError;
use beacon_btcr2::sidecar::SidecarError;
use beacon_btcr2::{Error, ErrorCode, ResolutionOptions, Sidecar};
use clap::Args;
use serde_json::{Map, Value};
use tokio::time::{Instant, interval_at};

use super::{Answer, CasDirectory, ChainSource, Progress, SignalSource, SignalsFile, Sources};
use crate::by_hand;
use crate::cli::{Failure, Global, print_line};
use crate::source::{self, COMMAND_PATIENCE, SourceArgs};

/// How long a resolution takes before it is said how far it has come, and how long until it is said again.
const SILENCE: Duration = Duration::from_secs(2);
const PULSE: Duration = Duration::from_secs(10);

/// Options of `resolve`.
#[derive(Args, Clone, Debug)]
pub struct ResolveArgs {
    /// The DID
    did: String,
    /// Resolution options as JSON: versionId, versionTime, minConf, sidecar. The flags below win over what is in it
    #[arg(long, value_name = "FILE")]
    options: Option<PathBuf>,
    /// Sidecar data as JSON, if the options have none
    #[arg(long, value_name = "FILE")]
    sidecar: Option<PathBuf>,
    /// Signals as JSON, as the did:btcr2 test suite has them, instead of those on a chain
    #[arg(long, value_name = "FILE")]
    signals: Option<PathBuf>,
    /// Directory of JSON documents (genesis documents, updates, announcement maps) in files of any name, for what the
    /// sidecar lacks
    #[arg(long, value_name = "DIR")]
    cas: Option<PathBuf>,
    /// Confirmations that a signal needs [default: 6]
    #[arg(long, value_name = "N")]
    min_conf: Option<u64>,
    /// The version with this number [default: the newest]
    #[arg(long, value_name = "N")]
    version_id: Option<String>,
    /// The version of this moment, such as 2026-01-31T23:59:59Z
    #[arg(long, value_name = "T")]
    version_time: Option<String>,
    #[command(flatten)]
    chain: SourceArgs,
}

/// Resolves a DID and prints its resolution result. Fails when there is no document, with an exit code that tells whether
/// it could be looked for.
pub async fn run(global: &Global, agent: &str, args: ResolveArgs) -> Result<(), Failure> {
    if by_hand::is_of_agents(&args.did) {
        return by_hand::resolve(&args.did);
    }
    let answer = match Answer::to_no_did(&args.did) {
        Some(answer) => answer,
        None => args.answer(global, agent).await?,
    };
    print_line(&serde_json::to_string_pretty(&answer.result)?)?;
    match answer.failure() {
        None => Ok(()),
        Some((code, message)) => {
            Err(anyhow!("{:.80} does not resolve: {code}: {message}", args.did).into())
        }
    }
}

impl ResolveArgs {
    /// Resolves, and says how far it is while that takes long.
    async fn answer(&self, global: &Global, agent: &str) -> Result<Answer, Failure> {
        let options = self.options()?;
        let sources = self.sources(global, agent)?;
        let progress = Arc::new(Progress::default());
        let mut resolving = tokio::task::spawn_blocking({
            let (did, progress) = (self.did.clone(), Arc::clone(&progress));
            move || Answer::to(&did, options, &sources, &progress)
        });
        let mut pulse = interval_at(Instant::now() + SILENCE, PULSE);
        loop {
            tokio::select! {
                answer = &mut resolving => return Ok(answer?),
                _ = pulse.tick() => eprintln!("{agent}: resolving: {progress}"),
            }
        }
    }

    /// What the file says, with the flags over it. A file that cannot be read ends the command; what cannot be
    /// understood is an answer.
    fn options(&self) -> Result<Result<ResolutionOptions, Error>, Failure> {
        let mut members = Map::new();
        if let Some(path) = &self.options {
            match parse(path, "options")? {
                Ok(Value::Object(found)) => members = found,
                Ok(other) => return Ok(ResolutionOptions::from_value(other)),
                Err(error) => return Ok(Err(invalid(OptionsError::Json(error)))),
            }
        }
        if let Some(path) = &self.sidecar {
            if members.contains_key("sidecar") {
                return Err(Failure::usage(anyhow!(
                    "got sidecar data in --options and in --sidecar, expected it in one of them"
                )));
            }
            match parse(path, "sidecar")? {
                Ok(sidecar) => members.insert("sidecar".to_owned(), sidecar),
                Err(error) => return Ok(Err(invalid(SidecarError::Json(error)))),
            };
        }
        // One version is asked for: a flag takes the place of either option.
        if self.version_id.is_some() || self.version_time.is_some() {
            members.remove("versionId");
            members.remove("versionTime");
        }
        let flags = [
            ("versionId", self.version_id.clone().map(Value::from)),
            ("versionTime", self.version_time.clone().map(Value::from)),
            ("minConf", self.min_conf.map(Value::from)),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                members.insert(name.to_owned(), value);
            }
        }
        Ok(ResolutionOptions::from_value(members.into()))
    }

    fn sources(&self, global: &Global, agent: &str) -> Result<Sources, Failure> {
        let signals = if let Some(path) = &self.signals {
            let text = read(path, "signals", SignalsFile::MAX_BYTES)?;
            let file = SignalsFile::from_json(&text)
                .with_context(|| format!("signals file {}", path.display()))
                .map_err(Failure::usage)?;
            SignalSource::File(file)
        } else {
            let chain = source::open(global, agent, &self.chain, COMMAND_PATIENCE)?;
            SignalSource::Chain(ChainSource::new(chain, None))
        };
        let objects = cas(agent, self.cas.as_deref())?;
        Ok(Sources { signals, objects })
    }
}

/// The documents of a directory; none without one.
pub(super) fn cas(agent: &str, directory: Option<&Path>) -> Result<CasDirectory, Failure> {
    let Some(directory) = directory else {
        return Ok(CasDirectory::default());
    };
    let store = CasDirectory::read(directory).map_err(Failure::usage)?;
    if store.passed_over() > 0 {
        eprintln!(
            "{agent}: {} entries of {} are no JSON documents and were passed over",
            store.passed_over(),
            directory.display()
        );
    }
    Ok(store)
}

/// The JSON value of a file with options or sidecar data.
fn parse(path: &Path, what: &str) -> Result<Result<Value, JsonError>, Failure> {
    const LIMITS: Limits = Sidecar::LIMITS;
    let text = read(path, what, LIMITS.bytes)?;
    Ok(json::parse(&text, &LIMITS))
}

fn invalid(error: impl Into<OptionsError>) -> Error {
    Error::new(ErrorCode::InvalidOptions, error.into())
}

/// The bytes of a file: of one that is too large, one more than it may have.
fn read(path: &Path, what: &str, max: usize) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max as u64 + 1).read_to_end(&mut text))
        .with_context(|| format!("cannot read {what} file {}", path.display()))
        .map_err(Failure::usage)?;
    Ok(text)
}
