//! The commands `did …` and `sidecar …` of the participant: the running agent answers, since it has the seed; without one, a
//! command opens the home itself.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use beacon_btcr2::Sidecar;
use beacon_btcr2::json::{self, Limits};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::contest::{ContestArgs, contest};
use super::updates::{AddBeaconArgs, DeactivateArgs, UpdateArgs, add_beacon, deactivate, update};
use crate::cli::{Failure, Global, print_line};
use crate::participant;

const EXAMPLES: &str = "\
Examples:
  beacon-participant did create --new
  beacon-participant did create --new --index 3             the same DID again, from the seed
  beacon-participant did create --network bitcoin --public-key 02a1…
  beacon-participant did create --genesis-document genesis.json

The record is kept in `dids` in the data directory: back it up with the seed. A DID is on a network for ever.";

const UPDATE_EXAMPLES: &str = "\
Examples:
  beacon-participant did update --did did:btcr2:k1q… --patch patch.json
  beacon-participant did update --did did:btcr2:k1q… --patch patch.json --beacon '#initialP2WPKH' --fee-rate 5
  beacon-participant did update --did did:btcr2:k1q… --patch patch.json --through 7c0f3a52-2a0e-4f0b-9b8e-0f6d2c1f7a11

patch.json: [{\"op\":\"add\",\"path\":\"/service/-\",\"value\":{\"id\":\"#site\",\"type\":\"LinkedDomains\",\"serviceEndpoint\":\"https://example.com\"}}]

The address of the beacon must hold the fee in a confirmed output; the rest comes back to it. The same command again with a
higher --fee-rate replaces a signal that no block takes. Back up `dids` in the data directory afterwards.";

/// Commands about did:btcr2 identifiers.
#[derive(Debug, Subcommand)]
pub enum DidCommand {
    /// Make a did:btcr2 identifier and keep its record
    #[command(after_help = EXAMPLES)]
    Create(CreateArgs),
    /// Make a key for a DID document
    Key {
        /// Network of the document [default: the agent's]
        #[arg(long, value_name = "NET")]
        network: Option<String>,
        /// The key with this index [default: the first one that is not in use]
        #[arg(long, value_name = "N")]
        index: Option<u32>,
    },
    /// List the did:btcr2 identifiers that have a record here
    List,
    /// Show one of them: its first document, its updates, and which signals announce them
    Show {
        /// The DID
        did: String,
    },
    /// Update a DID: change its newest document, and announce that by a spend of one of its singleton beacons
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(UpdateArgs),
    /// Deactivate a DID for ever
    Deactivate(DeactivateArgs),
    /// Add a cohort's beacon to a DID's document
    AddBeacon(AddBeaconArgs),
    /// Prove to a coordinator that a DID is yours, whose index another member has registered. It learns the DID
    Contest(ContestArgs),
}

/// Options of `did create`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["new", "public_key", "genesis_document"]))]
pub struct CreateArgs {
    /// bitcoin, signet, regtest, testnet3, testnet4 or mutinynet [default: the agent's]
    #[arg(long, value_name = "NET")]
    network: Option<String>,
    /// From a new key of this agent
    #[arg(long)]
    new: bool,
    /// With --new: from the key with this index [default: the first one that is not in use]
    #[arg(long, value_name = "N", requires = "new")]
    index: Option<u32>,
    /// From this key, 66 hex digits or a publicKeyMultibase; its secret may be elsewhere
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
    /// From a genesis document in JSON, with did:btcr2:_ in the place of the DID
    #[arg(long, value_name = "FILE")]
    genesis_document: Option<PathBuf>,
}

/// Commands about sidecar data.
#[derive(Debug, Subcommand)]
pub enum SidecarCommand {
    /// Write all that a relying party needs to resolve a DID: genesis document, updates, proofs
    Export {
        /// The DID
        #[arg(long)]
        did: String,
        /// File to write or replace; standard output without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Carries out `did …`.
pub async fn run(global: &Global, agent: &str, command: DidCommand) -> Result<(), Failure> {
    let (method, params) = match command {
        DidCommand::Create(args) => ("did.create", args.params()?),
        DidCommand::Key { network, index } => {
            ("did.key", json!({ "network": network, "index": index }))
        }
        DidCommand::List => ("did.list", json!({})),
        DidCommand::Show { did } => ("did.show", json!({ "did": did })),
        DidCommand::Contest(args) => return contest(global, agent, args).await,
        DidCommand::Update(args) => return update(global, agent, args).await,
        DidCommand::Deactivate(args) => return deactivate(global, agent, args).await,
        DidCommand::AddBeacon(args) => return add_beacon(global, agent, args).await,
    };
    let answer = ask(global, agent, method, params).await?;
    present(global, answer)
}

/// `sidecar export`.
pub async fn sidecar(global: &Global, agent: &str, command: SidecarCommand) -> Result<(), Failure> {
    let SidecarCommand::Export { did, out } = command;
    let answer = ask(global, agent, "did.sidecar", json!({ "did": did })).await?;
    let sidecar = parse_sidecar(&answer)?;
    warn_of(agent, &answer);
    let text = serde_json::to_string_pretty(&sidecar.to_value())?;
    let Some(path) = out else {
        return print_line(&text);
    };
    replace(&path, (text + "\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    global.print(&json!({
        "did": did,
        "file": path,
        "updates": sidecar.updates.len(),
        "smt_proofs": sidecar.smt_proofs.len(),
        "cas_updates": sidecar.cas_updates.len(),
        "proofs_missing": answer["proofs_missing"],
    }))
}

pub(super) async fn ask(
    global: &Global,
    agent: &str,
    method: &str,
    params: Value,
) -> Result<Value, Failure> {
    global
        .ask_or_replay(agent, method, params, participant::role)
        .await
}

/// Prints an answer, with documents as such.
fn present(global: &Global, mut answer: Value) -> Result<(), Failure> {
    for member in ["document", "first_document"] {
        if let Some(text) = answer[member].as_str() {
            answer[member] = json::parse(text.as_bytes(), &Limits::DOCUMENT)?;
        } else if let Value::Object(members) = &mut answer {
            members.remove(member);
        }
    }
    global.print(&answer)
}

pub(super) fn parse_sidecar(answer: &Value) -> Result<Sidecar, Failure> {
    let text = answer["sidecar"].as_str().unwrap_or_default();
    let value = json::parse(text.as_bytes(), &Sidecar::LIMITS)?;
    Ok(Sidecar::from_value(value)?)
}

/// What may make a DID unresolvable later is said, and hinders nothing now.
pub(super) fn warn_of(agent: &str, answer: &Value) {
    for problem in answer["problems"].as_array().into_iter().flatten() {
        eprintln!("{agent}: warning: {}", problem.as_str().unwrap_or_default());
    }
    for signal in answer["proofs_missing"].as_array().into_iter().flatten() {
        let text = |member: &str| signal[member].as_str().unwrap_or_default().to_owned();
        eprintln!(
            "{agent}: warning: there is no complete proof in signal {} of cohort {}: `proof fetch` asks for it",
            text("txid"),
            text("cohort_id")
        );
    }
}

pub(super) fn read_json(path: &Path, what: &str, limits: &Limits) -> Result<Value, Failure> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limits.bytes as u64 + 1).read_to_end(&mut text))
        .with_context(|| format!("cannot read {what} file {}", path.display()))
        .map_err(Failure::usage)?;
    json::parse(&text, limits)
        .with_context(|| format!("{what} file {}", path.display()))
        .map_err(Failure::usage)
}

/// Replaces a file as a whole: readers see the old one or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let mut file = File::create(&staged)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&staged, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&staged);
    }
    written
}

impl CreateArgs {
    fn params(self) -> Result<Value, Failure> {
        let genesis = self.genesis_document.as_deref();
        let genesis = genesis
            .map(|path| read_json(path, "genesis document", &Limits::DOCUMENT))
            .transpose()?;
        Ok(json!({
            "network": self.network,
            "index": self.index,
            "public_key": self.public_key,
            "genesis_document": genesis.map(|genesis| json::canonical(&genesis)),
        }))
    }
}
