//! The commands that sign updates: `request-update --patch`, `did update`, `did deactivate` and `did add-beacon`.
//!
//! The newest document is always resolved afresh: an update of an older one would be worthless, and could make the DID
//! unresolvable.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use beacon_btcr2::json::{self, Limits};
use beacon_btcr2::{Did, Document, ResolutionOptions, Resolved};
use beacon_chain::Chain;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::by_singleton::{SingletonArgs, by_singleton};
use super::commands::{ask, parse_sidecar, read_json, warn_of};
use crate::cli::{Failure, Global};
use crate::resolve::{CasDirectory, ChainSource, Progress, SignalSource, Sources, resolve};
use crate::source::{self, COMMAND_PATIENCE, SourceArgs};

/// How long nothing is said, and how often the agent is asked whether it has heard of the coordinator.
const SILENCE: Duration = Duration::from_secs(2);
const PULSE: Duration = Duration::from_millis(200);

/// A DID in a cohort.
#[derive(Args, Debug)]
pub(super) struct Place {
    /// Id of the cohort
    #[arg(long, value_name = "ID")]
    cohort: String,
    /// DID of its coordinator, where two of them use this id
    #[arg(long, value_name = "DID")]
    coordinator: Option<String>,
    /// The DID
    #[arg(long)]
    pub(super) did: String,
}

impl Place {
    /// The parameters that name the cohort.
    pub(super) fn cohort(&self) -> Value {
        json!({ "cohort_id": self.cohort, "coordinator": self.coordinator })
    }
}

/// Options of `did add-beacon`.
#[derive(Args, Debug)]
pub struct AddBeaconArgs {
    #[command(flatten)]
    place: Place,
    /// Fragment of the service's id [default: beacon- and the first part of the cohort's id]
    #[arg(long, value_name = "FRAGMENT")]
    id: Option<String>,
    /// Seconds for which the coordinator may take to register the DID and to send the proofs of earlier signals
    #[arg(long, value_name = "S", default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    by: By,
}

/// Options of `did update`.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// The DID
    #[arg(long)]
    did: String,
    /// What changes in its newest document, as JSON Patch (RFC 6902)
    #[arg(long, value_name = "FILE")]
    patch: PathBuf,
    #[command(flatten)]
    by: By,
}

/// Options of `did deactivate`.
#[derive(Args, Debug)]
pub struct DeactivateArgs {
    /// The DID
    #[arg(long)]
    did: String,
    /// I know that this is for ever
    #[arg(long, required = true)]
    yes: bool,
    #[command(flatten)]
    by: By,
}

/// Where the newest document is looked for.
#[derive(Args, Debug)]
pub struct ChainArgs {
    /// Confirmations that the DID's last update must have, so that no other one takes its place [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    min_conf: Option<u32>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Who announces.
#[derive(Args, Debug)]
pub(super) struct By {
    #[command(flatten)]
    singleton: SingletonArgs,
    /// Have this cohort announce it, whose beacon the newest document has, instead of a singleton beacon
    #[arg(long, value_name = "ID", conflicts_with_all = ["beacon", "fee_rate", "max_fee"])]
    through: Option<String>,
    #[command(flatten)]
    chain: ChainArgs,
}

/// `request-update --patch`: `cohort` has the parameters that name the cohort.
pub async fn request_update(
    global: &Global,
    agent: &str,
    cohort: Value,
    did: &str,
    patch: &Path,
    chain: &ChainArgs,
) -> Result<(), Failure> {
    let patch = read_json(patch, "patch", &Limits::UPDATE)?;
    let newest = newest(global, agent, did, chain).await?;
    let answer = through(global, agent, cohort, &newest, &patch).await?;
    global.print(&answer)
}

/// `did update`.
pub(super) async fn update(global: &Global, agent: &str, args: UpdateArgs) -> Result<(), Failure> {
    let UpdateArgs { did, patch, by } = args;
    let patch = read_json(&patch, "patch", &Limits::UPDATE)?;
    let newest = newest(global, agent, &did, &by.chain).await?;
    global.print(&announce(global, agent, &newest, &patch, &by).await?)
}

/// `did deactivate`.
pub(super) async fn deactivate(
    global: &Global,
    agent: &str,
    args: DeactivateArgs,
) -> Result<(), Failure> {
    let DeactivateArgs { did, yes: _, by } = args;
    let newest = newest(global, agent, &did, &by.chain).await?;
    let patch = json!([{ "op": "add", "path": "/deactivated", "value": true }]);
    global.print(&announce(global, agent, &newest, &patch, &by).await?)
}

/// Has an update announced by whom the user chose.
async fn announce(
    global: &Global,
    agent: &str,
    newest: &Newest,
    patch: &Value,
    by: &By,
) -> Result<Value, Failure> {
    match &by.through {
        Some(cohort) => {
            let cohort = json!({ "cohort_id": cohort });
            through(global, agent, cohort, newest, patch).await
        }
        None => by_singleton(global, agent, newest, patch, &by.singleton).await,
    }
}

/// Has a cohort announce an update.
async fn through(
    global: &Global,
    agent: &str,
    cohort: Value,
    newest: &Newest,
    patch: &Value,
) -> Result<Value, Failure> {
    let mut params = cohort;
    newest.change(&mut params, patch);
    global.ask(agent, "did.request_update", params).await
}

/// `did add-beacon`.
pub(super) async fn add_beacon(
    global: &Global,
    agent: &str,
    args: AddBeaconArgs,
) -> Result<(), Failure> {
    let fragment = args.fragment()?;
    let AddBeaconArgs {
        place, wait, by, ..
    } = args;
    let patience = Duration::from_secs(wait);
    let service = answered_for(global, agent, &place.cohort(), &place.did, patience).await?;
    let newest = newest(global, agent, &place.did, &by.chain).await?;
    let patch = patch_adding(&newest.resolved.document, &service, &fragment)?;
    let mut answer = announce(global, agent, &newest, &patch, &by).await?;
    answer["patch"] = patch;
    global.print(&answer)
}

/// The service of a cohort's beacon, as soon as the cohort answers for the DID and every signal of its past has a proof here:
/// in a document without them, the beacon would make the DID unresolvable.
async fn answered_for(
    global: &Global,
    agent: &str,
    named: &Value,
    did: &str,
    patience: Duration,
) -> Result<Value, Failure> {
    let mut question = named.clone();
    question["did"] = did.into();
    let (began, mut told) = (Instant::now(), false);
    let (mut joining, mut fetching) = (false, false);
    loop {
        let service = ask(global, agent, "did.beacon", question.clone()).await?;
        let missing = service["proofs_missing"].as_array().map_or(0, Vec::len);
        let lacks = if service["registered"] != true {
            if !std::mem::replace(&mut joining, true) {
                let mut params = named.clone();
                params["dids"] = json!([did]);
                global.ask(agent, "join", params).await?;
            }
            "the coordinator has not registered the DID: see `cohorts`, and run this again"
                .to_owned()
        } else if missing > 0 {
            if !std::mem::replace(&mut fetching, true) {
                global.ask(agent, "proof.fetch", named.clone()).await?;
            }
            format!(
                "the proofs of {missing} signals have not come: see `did show`, and run this again; where that stays so, `proof fetch --update-hash` helps"
            )
        } else {
            return Ok(service);
        };
        if began.elapsed() >= patience {
            let seconds = patience.as_secs();
            return Err(anyhow!("after {seconds} s {lacks}").into());
        }
        if !told && began.elapsed() >= SILENCE {
            eprintln!("{agent}: waiting for the coordinator to answer for {did}");
            told = true;
        }
        sleep(PULSE).await;
    }
}

/// The patch that adds a beacon's service, which is not there yet.
fn patch_adding(document: &Document, service: &Value, fragment: &str) -> Result<Value, Failure> {
    let endpoint = &service["serviceEndpoint"];
    let services = document.value().get("service").and_then(Value::as_array);
    let there =
        |known: &Value| known["serviceEndpoint"] == *endpoint && known["type"] == service["type"];
    if services.is_some_and(|services| services.iter().any(there)) {
        return Err(anyhow!("the newest document has the beacon at {endpoint} already").into());
    }
    let service = json!({
        "id": document.did().absolute(&format!("#{fragment}")),
        "type": service["type"],
        "serviceEndpoint": endpoint,
    });
    Ok(match services {
        Some(_) => json!([{ "op": "add", "path": "/service/-", "value": service }]),
        None => json!([{ "op": "add", "path": "/service", "value": [service] }]),
    })
}

/// Resolves a DID of ours, with all that this agent knows about it.
///
/// One confirmation is enough to see a version, but not to build on it: a block that is replaced would leave an update to
/// a version that nothing leads to.
pub(super) async fn newest(
    global: &Global,
    agent: &str,
    did: &str,
    args: &ChainArgs,
) -> Result<Newest, Failure> {
    let known = ask(global, agent, "did.sidecar", json!({ "did": did })).await?;
    warn_of(agent, &known);
    let did: Did = did.parse().map_err(Failure::usage)?;
    let mut options = ResolutionOptions::default();
    options.sidecar = parse_sidecar(&known)?;
    options.set_min_conf(1)?;
    let mut at = args.source.options();
    // Those of the running agent, which may have them from its command line.
    if at.chain.is_none()
        && at.chain_url.is_none()
        && let Ok(status) = global.ask(agent, "status", Value::Null).await
    {
        at = source::options_of(&status["about"]);
    }
    let chain = source::open_with(global, agent, at, COMMAND_PATIENCE)?;
    let sources = Sources {
        signals: SignalSource::Chain(ChainSource::new(Arc::clone(&chain), None)),
        objects: CasDirectory::default(),
    };
    let progress = Arc::new(Progress::default());
    let resolving = {
        let did = did.clone();
        move || resolve(&did, &options, &sources, &progress)
    };
    let resolution = tokio::task::spawn_blocking(resolving).await??;
    let resolved = resolution
        .0
        .map_err(|error| anyhow!("{did} does not resolve: {error}"))?;
    if resolved.document.is_deactivated() {
        return Err(anyhow!("{did} is deactivated, so it cannot be updated any more").into());
    }
    let min_conf = args.min_conf.unwrap_or(ResolutionOptions::DEFAULT_MIN_CONF);
    if resolved.version_id > 1 && resolved.confirmations < min_conf {
        return Err(anyhow!(
            "version {} of {did} has {} confirmations, expected at least {min_conf} (--min-conf): wait until its block is as deep",
            resolved.version_id,
            resolved.confirmations
        )
        .into());
    }
    Ok(Newest { resolved, chain })
}

/// A DID as it is now, and the chain that says so.
pub(super) struct Newest {
    pub(super) resolved: Resolved,
    pub(super) chain: Arc<dyn Chain>,
}

impl Newest {
    /// Adds the parameters of an update of the newest document.
    pub(super) fn change(&self, params: &mut Value, patch: &Value) {
        let document = &self.resolved.document;
        params["did"] = document.did().as_str().into();
        params["document"] = json::canonical(document.value()).into();
        params["version"] = (self.resolved.version_id + 1).into();
        params["patch"] = json::canonical(patch).into();
    }
}

impl AddBeaconArgs {
    fn fragment(&self) -> Result<String, Failure> {
        let Some(id) = &self.id else {
            let first = self.place.cohort.split('-').next().unwrap_or_default();
            return Ok(format!("beacon-{first}"));
        };
        let id = id.strip_prefix('#').unwrap_or(id);
        let symbol = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if !id.is_empty() && id.bytes().all(symbol) {
            return Ok(id.to_owned());
        }
        Err(Failure::usage(anyhow!(
            "got --id {id:?}, expected letters, digits and -._~"
        )))
    }
}
