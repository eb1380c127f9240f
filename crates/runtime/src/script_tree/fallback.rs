//! `fallback …`: as many members as the terms want spend without the others and without a coordinator, by files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use beacon_chain::{Chain, OutputStatus};
use beacon_cohort::psbt;
use beacon_cohort::script_path::ScriptPath;
use beacon_cohort::script_spend::ScriptSpend;
use bitcoin::{Address, Psbt, Transaction};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::coins;
use super::{CohortFile, Subject};
use crate::cli::{Failure, Global, print_line};
use crate::source::SourceArgs;

/// Longest file that is read: a PSBT in base64, with line breaks.
const MAX_FILE: u64 = 2 * 1024 * 1024;
/// Files that are combined at most: one of each member.
const MAX_FILES: usize = 999;

/// A cohort that the user names.
#[derive(Args, Debug)]
pub(crate) struct Name {
    /// The cohort's id
    cohort_id: String,
    /// DID of its coordinator, where two of them use this id
    #[arg(long, value_name = "DID")]
    coordinator: Option<String>,
}

impl Name {
    pub(super) fn params(&self) -> Value {
        json!({ "cohort_id": self.cohort_id, "coordinator": self.coordinator })
    }
}

/// `fallback …`.
#[derive(Debug, Subcommand)]
pub enum FallbackCommand {
    /// Write a spend of what a cohort's beacon holds, for as many members to sign as its terms want
    Create(CreateArgs),
    /// Show what a spend does, check it against the chain, and sign it with this agent's key of the cohort
    Sign(SignArgs),
    /// Put the signatures of several files about one spend together
    Combine(CombineArgs),
    /// Send a spend that enough members have signed
    Send(SendArgs),
}

/// Options of `fallback create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[command(flatten)]
    cohort: Name,
    /// Address that gets the money
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Fee rate, sat/vB, up to that of the terms [default: what the chain source estimates, or 5 where it estimates nothing]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    fee_rate: Option<u64>,
    /// File to write, a PSBT in base64; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Options of `fallback sign`.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// The PSBT
    file: PathBuf,
    /// I want this to be spent
    #[arg(long)]
    yes: bool,
    /// File to write the signed PSBT to; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Options of `fallback combine`.
#[derive(Args, Debug)]
pub struct CombineArgs {
    /// The PSBTs
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// File to write; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Options of `fallback send`.
#[derive(Args, Debug)]
pub struct SendArgs {
    /// The PSBT
    file: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
}

/// Carries out `fallback …`.
pub async fn run(global: &Global, agent: &str, command: FallbackCommand) -> Result<(), Failure> {
    match command {
        FallbackCommand::Create(args) => create(global, agent, args).await,
        FallbackCommand::Sign(args) => sign(global, agent, args).await,
        FallbackCommand::Combine(args) => combine(global, agent, args).await,
        FallbackCommand::Send(args) => send(global, agent, args).await,
    }
}

async fn create(global: &Global, agent: &str, args: CreateArgs) -> Result<(), Failure> {
    let file = global
        .ask(agent, "tree.cohort", args.cohort.params())
        .await?;
    let subject = subject(file)?;
    let (path, terms) = (fallback(&subject)?, subject.terms());
    let to = coins::destination(&args.to, terms.btc_network)?;
    let chain = coins::open(global, agent, &args.source, terms.btc_network).await?;
    let rate = coins::fee_rate(global, agent, &chain, args.fee_rate).await?;
    let (found, _) = coins::coins(&chain, &subject).await?;
    let confirmed = found.iter().filter(|coin| coin.height.is_some());
    let inputs = confirmed.map(|coin| (coin.outpoint, coin.value_sat));
    let inputs: Vec<_> = inputs.take(ScriptSpend::most_inputs(&path)).collect();
    let spend = ScriptSpend::build(&subject.beacon, &path, &inputs, &to, rate)?;
    spend.check_fee(terms.max_fee_rate_sat_vb)?;
    deliver(global, &subject, &spend, args.out.as_deref())
}

async fn sign(global: &Global, agent: &str, args: SignArgs) -> Result<(), Failure> {
    let (subject, spend) = read(global, agent, &args.file).await?;
    spend.check_fee(subject.terms().max_fee_rate_sat_vb)?;
    let chain = coins::open(global, agent, &args.source, subject.terms().btc_network).await?;
    check_inputs(&chain, &spend).await?;
    if !args.yes {
        global.print(&view(&subject, &spend))?;
        return Err(anyhow!(
            "nothing was signed: this takes the money of all {} members, without asking those who do not sign; signals that wait \
             for a block with it never get there, and until somebody pays again the cohort announces nothing. Say --yes if that \
             is what you want",
            subject.beacon.keys().len()
        )
        .into());
    }
    let unsigned = psbt::to_base64(&spend.psbt()?)?;
    let answer = global
        .ask(agent, "tree.sign", json!({ "psbt": unsigned }))
        .await?;
    let text = answer["psbt"].as_str().unwrap_or_default();
    let file = psbt::parse(text.as_bytes())?;
    let signed = ScriptSpend::read(&subject.beacon, &fallback(&subject)?, &file)?;
    deliver(global, &subject, &signed, args.out.as_deref())
}

async fn combine(global: &Global, agent: &str, args: CombineArgs) -> Result<(), Failure> {
    if args.files.len() > MAX_FILES {
        let got = args.files.len();
        return Err(Failure::usage(anyhow!(
            "got {got} files, expected at most {MAX_FILES}"
        )));
    }
    let mut files = args.files.iter();
    let first = files
        .next()
        .ok_or_else(|| anyhow!("got no file, expected one or more"))?;
    let (subject, mut spend) = read(global, agent, first).await?;
    for file in files {
        let parsed = parse(file)?;
        let other = ScriptSpend::read(&subject.beacon, &fallback(&subject)?, &parsed);
        let other = other.with_context(|| format!("{}", file.display()))?;
        spend.combine(&other)?;
    }
    deliver(global, &subject, &spend, args.out.as_deref())
}

async fn send(global: &Global, agent: &str, args: SendArgs) -> Result<(), Failure> {
    let (subject, spend) = read(global, agent, &args.file).await?;
    let tx = spend.finish()?;
    let chain = coins::open(global, agent, &args.source, subject.terms().btc_network).await?;
    let mut answer = view(&subject, &spend);
    answer["tx"] = json!(bitcoin::consensus::encode::serialize_hex(&tx));
    broadcast(chain, tx).await?;
    global.print(&answer)
}

fn subject(file: Value) -> Result<Subject, Failure> {
    let file: CohortFile = serde_json::from_value(file)?;
    Ok(file.subject().map_err(|reason| anyhow!(reason))?)
}

fn fallback(subject: &Subject) -> Result<ScriptPath, Failure> {
    Ok(subject.fallback().map_err(|reason| anyhow!(reason))?)
}

fn parse(file: &Path) -> Result<Psbt, Failure> {
    let bytes = coins::read_text(file, MAX_FILE)?;
    let parsed = psbt::parse(&bytes).with_context(|| format!("{}", file.display()));
    parsed.map_err(Failure::usage)
}

/// A spend from a file, and the cohort of ours that it spends from.
async fn read(
    global: &Global,
    agent: &str,
    file: &Path,
) -> Result<(Subject, ScriptSpend), Failure> {
    let parsed = parse(file)?;
    let first = parsed.inputs.first();
    let script = first
        .and_then(|input| input.witness_utxo.as_ref())
        .map(|output| output.script_pubkey.clone())
        .ok_or_else(|| {
            anyhow!(
                "{}: got no spent output, expected one in each input",
                file.display()
            )
        })?;
    let cohort = global
        .ask(agent, "tree.cohort_of", json!({ "script": script }))
        .await?;
    let subject = subject(cohort)?;
    let spend = ScriptSpend::read(&subject.beacon, &fallback(&subject)?, &parsed);
    let spend = spend.with_context(|| format!("{}", file.display()))?;
    Ok((subject, spend))
}

/// Every input must be an output that is in a block, is worth what the file says, and is spent by nothing else.
async fn check_inputs(chain: &Arc<dyn Chain>, spend: &ScriptSpend) -> Result<(), Failure> {
    let txid = spend.transaction().compute_txid();
    let inputs = spend.inputs();
    let inputs: Vec<_> = inputs
        .map(|(outpoint, output)| (outpoint, output.clone()))
        .collect();
    let chain = Arc::clone(chain);
    let checked = tokio::task::spawn_blocking(move || {
        for (outpoint, expected) in inputs {
            let status = chain.output(outpoint).map_err(|error| anyhow!("{error}"))?;
            let OutputStatus::Seen {
                output,
                height,
                spent_by,
            } = status
            else {
                return Err(anyhow!("the chain source does not know output {outpoint}"));
            };
            if output != expected {
                return Err(anyhow!(
                    "output {outpoint} is worth {} sat, the file says {} sat",
                    output.value.to_sat(),
                    expected.value.to_sat()
                ));
            }
            if height.is_none() {
                return Err(anyhow!("output {outpoint} waits for a block"));
            }
            if let Some(other) = spent_by.filter(|other| *other != txid) {
                return Err(anyhow!("output {outpoint} is spent by {other} already"));
            }
        }
        Ok(())
    });
    Ok(checked.await??)
}

/// What a spend does, for people.
fn view(subject: &Subject, spend: &ScriptSpend) -> Value {
    let network = subject.terms().btc_network.bitcoin();
    let tx = spend.transaction();
    let pays = tx.output.iter().map(|output| {
        let address = Address::from_script(&output.script_pubkey, network);
        let to = address.map_or_else(
            |_| output.script_pubkey.to_hex_string(),
            |address| address.to_string(),
        );
        json!({ "to": to, "value_sat": output.value.to_sat() })
    });
    let spends = spend.inputs();
    json!({
        "cohort_id": subject.file.cohort_id,
        "beacon_address": subject.file.beacon_address,
        "txid": tx.compute_txid(),
        "spends": spends
            .map(|(outpoint, output)| json!({ "outpoint": outpoint, "value_sat": output.value.to_sat() }))
            .collect::<Vec<_>>(),
        "pays": pays.collect::<Vec<_>>(),
        "fee_sat": spend.fee_sat(),
        "vsize": spend.vsize(),
        "signed_by": spend.signers().map(ToString::to_string).collect::<Vec<_>>(),
        "signatures": spend.signers().count(),
        "signatures_needed": spend.threshold(),
    })
}

/// The PSBT on standard output, or in a file and what it does on standard output.
fn deliver(
    global: &Global,
    subject: &Subject,
    spend: &ScriptSpend,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let text = psbt::to_base64(&spend.psbt()?)?;
    let Some(path) = out else {
        if global.json {
            let mut value = view(subject, spend);
            value["psbt"] = json!(text);
            return global.print(&value);
        }
        return print_line(&text);
    };
    std::fs::write(path, text + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut value = view(subject, spend);
    value["file"] = json!(path);
    global.print(&value)
}

/// Hands a transaction to the network.
pub(super) async fn broadcast(chain: Arc<dyn Chain>, tx: Transaction) -> Result<(), Failure> {
    let txid = tx.compute_txid();
    let sent = tokio::task::spawn_blocking(move || chain.broadcast(&tx)).await?;
    sent.map_err(|error| anyhow!("transaction {txid} was not sent: {error}").into())
}
