//! The commands that sign updates: `request-update --patch` and `did add-beacon`.
//!
//! The newest document is always resolved afresh: an update of an older one would be worthless, and could make the DID
//! unresolvable.

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use beacon_btcr2::json::{self, Limits};
use beacon_btcr2::{Did, Document, ResolutionOptions, Resolved};
use clap::Args;
use serde_json::{Value, json};

use super::commands::{ask, parse_sidecar, read_json, warn_of};
use crate::cli::{Failure, Global};
use crate::resolve::command::chain;
use crate::resolve::{CasDirectory, ChainSource, Progress, SignalSource, Sources, resolve};

/// Options of `did add-beacon`.
#[derive(Args, Debug)]
pub struct AddBeaconArgs {
    /// Id of the cohort
    #[arg(long, value_name = "ID")]
    cohort: String,
    /// DID of its coordinator, where two of them use this id
    #[arg(long, value_name = "DID")]
    coordinator: Option<String>,
    /// The DID
    #[arg(long)]
    did: String,
    /// Fragment of the service's id [default: beacon- and the first part of the cohort's id]
    #[arg(long, value_name = "FRAGMENT")]
    id: Option<String>,
    #[command(flatten)]
    chain: ChainArgs,
}

/// Where the newest document is looked for.
#[derive(Args, Debug)]
pub struct ChainArgs {
    /// Confirmations that the DID's last update must have, so that no other one takes its place [default: 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    min_conf: Option<u32>,
    /// Base URL of an Esplora server for the DID's network [default: the agent's]
    #[arg(long, value_name = "URL")]
    chain_url: Option<String>,
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
    let mut params = cohort;
    params["did"] = did.into();
    change(&mut params, &newest, &patch);
    let answer = global.ask(agent, "did.request_update", params).await?;
    global.print(&answer)
}

/// `did add-beacon`.
pub(super) async fn add_beacon(
    global: &Global,
    agent: &str,
    args: AddBeaconArgs,
) -> Result<(), Failure> {
    let fragment = args.fragment()?;
    let AddBeaconArgs {
        cohort,
        coordinator,
        did,
        chain,
        ..
    } = args;
    let named = json!({ "cohort_id": cohort, "coordinator": coordinator });
    let mut params = named.clone();
    params["did"] = did.clone().into();
    let service = ask(global, agent, "did.beacon", params).await?;
    if service["registered"] != true {
        let mut params = named;
        params["dids"] = json!([did]);
        global.ask(agent, "join", params).await?;
        return Err(anyhow!("{did} was not registered in cohort {cohort}: the coordinator is asked for it now, run this again when `cohorts` lists the DID").into());
    }
    if service["proofs_missing"] != json!([]) {
        global.ask(agent, "proof.fetch", named).await?;
        return Err(anyhow!("signals of cohort {cohort} have no proof for {did} here: the coordinator is asked for them now, run this again when `did show` lists none as missing; where that stays so, `proof fetch --update-hash` helps").into());
    }
    let newest = newest(global, agent, &did, &chain).await?;
    let patch = patch_adding(&newest.document, &service, &fragment)?;
    let mut params = json!({ "did": did });
    change(&mut params, &newest, &patch);
    let mut answer = ask(global, agent, "did.sign_update", params).await?;
    answer["patch"] = patch;
    answer["next"] = json!(
        "the update is signed and kept, and nobody knows it yet: have a beacon announce it that the document has already"
    );
    global.print(&answer)
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
) -> Result<Resolved, Failure> {
    let known = ask(global, agent, "did.sidecar", json!({ "did": did })).await?;
    warn_of(agent, &known);
    let did: Did = did.parse().map_err(Failure::usage)?;
    let mut options = ResolutionOptions::default();
    options.sidecar = parse_sidecar(&known)?;
    options.set_min_conf(1)?;
    let url = match &args.chain_url {
        Some(url) => Some(url.clone()),
        // That of the running agent, which may have it from its command line.
        None => match global.ask(agent, "status", Value::Null).await {
            Ok(status) => status["about"]["chain_url"].as_str().map(str::to_owned),
            Err(_) => None,
        },
    };
    let sources = Sources {
        signals: SignalSource::Chain(ChainSource::new(chain(global, agent, url)?, None)),
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
    let min_conf = args.min_conf.unwrap_or(ResolutionOptions::DEFAULT_MIN_CONF);
    if resolved.version_id > 1 && resolved.confirmations < min_conf {
        return Err(anyhow!(
            "version {} of {did} has {} confirmations, expected at least {min_conf} (--min-conf): wait until its block is as deep",
            resolved.version_id,
            resolved.confirmations
        )
        .into());
    }
    if resolved.document.is_deactivated() {
        return Err(anyhow!("{did} is deactivated, so it cannot be updated any more").into());
    }
    Ok(resolved)
}

/// The parameters of an update of the newest document.
fn change(params: &mut Value, newest: &Resolved, patch: &Value) {
    params["document"] = json::canonical(newest.document.value()).into();
    params["version"] = (newest.version_id + 1).into();
    params["patch"] = json::canonical(patch).into();
}

impl AddBeaconArgs {
    fn fragment(&self) -> Result<String, Failure> {
        let Some(id) = &self.id else {
            let first = self.cohort.split('-').next().unwrap_or_default();
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
