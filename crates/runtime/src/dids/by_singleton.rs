//! The command line's part of an announcement by a singleton beacon: which beacon, with which of its money, and what became
//! of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use beacon_chain::{Chain, ChainError, OutputStatus};
use beacon_cohort::coordinator::FALLBACK_SAT_VB;
use beacon_signal::transaction::BuildError;
use bitcoin::{OutPoint, ScriptBuf, TxOut};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::singleton::{Draft, MAX_INPUTS, SingletonError};
use super::updates::Newest;
use crate::cli::{Failure, Global};
use crate::settings::Options;

/// How long the chain source's answer to a new transaction is waited for, and how often it is asked for.
const PATIENCE: Duration = Duration::from_secs(20);
const PULSE: Duration = Duration::from_millis(200);

/// How a singleton beacon announces.
#[derive(Args, Debug)]
pub(super) struct SingletonArgs {
    /// Id of the singleton beacon that announces it [default: the first whose address can pay]
    #[arg(long, value_name = "ID")]
    beacon: Option<String>,
    /// Fee rate, sat/vB [default: what the chain source estimates, or 5 where it estimates nothing]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    fee_rate: Option<u64>,
    /// Most that the signal may cost, sat
    #[arg(long, value_name = "SAT", default_value_t = 10_000)]
    max_fee: u64,
}

/// A beacon that is ours, with what can be spent of it.
struct Purse {
    id: String,
    address: String,
    inputs: Vec<(OutPoint, TxOut)>,
    /// Of the outputs that are not in a block yet, sat.
    waiting_sat: u64,
}

/// Announces an update, and says what the chain source made of it.
pub(super) async fn by_singleton(
    global: &Global,
    agent: &str,
    newest: &Newest,
    patch: &Value,
    args: &SingletonArgs,
) -> Result<Value, Failure> {
    let mut params = json!({});
    newest.change(&mut params, patch);
    let question = json!({ "did": params["did"], "document": params["document"] });
    let known = global.ask(agent, "did.beacons", question).await?;
    let rate = fee_rate(global, agent, newest, args).await?;
    let chosen = choose(newest, &known, &params["version"], args, rate).await?;
    params["beacon"] = chosen.id.into();
    params["fee_rate"] = rate.into();
    params["max_fee"] = args.max_fee.into();
    let inputs = chosen.inputs.iter();
    params["inputs"] = inputs
        .map(|(outpoint, output)| json!({ "outpoint": outpoint, "value_sat": output.value.to_sat() }))
        .collect();
    let mut answer = global.ask(agent, "did.announce", params).await?;
    outcome(global, agent, &mut answer).await?;
    Ok(answer)
}

/// What was asked for, or what the chain source expects to do.
async fn fee_rate(
    global: &Global,
    agent: &str,
    newest: &Newest,
    args: &SingletonArgs,
) -> Result<u64, Failure> {
    if let Some(rate) = args.fee_rate {
        return Ok(rate);
    }
    let config = global.config(agent, Options::default(), &global.data_dir(agent)?)?;
    let (chain, blocks) = (Arc::clone(&newest.chain), config.fee_target_blocks);
    let estimate = tokio::task::spawn_blocking(move || chain.fee_rate(blocks)).await?;
    // No estimate, or none that can be believed: the money that is asked for next shows whether the source is there at all.
    Ok(estimate.ok().flatten().unwrap_or(FALLBACK_SAT_VB))
}

/// The beacon that announces, and the outputs that its signal spends: those of the signal that it replaces, if there is one.
async fn choose(
    newest: &Newest,
    known: &Value,
    version: &Value,
    args: &SingletonArgs,
    rate: u64,
) -> Result<Purse, Failure> {
    let items = |member: &str| known[member].as_array().cloned().unwrap_or_default();
    let live = items("live").into_iter();
    let replaced: Option<Vec<OutPoint>> = live
        .filter(|signal| signal["version"] == *version)
        .find_map(|signal| serde_json::from_value(signal["inputs"].clone()).ok());
    let document = &newest.resolved.document;
    let wanted = args.beacon.as_ref().map(|id| document.did().absolute(id));
    let own: BTreeMap<_, _> = items("beacons")
        .iter()
        .filter_map(|own| {
            Some((
                own["id"].as_str()?.to_owned(),
                own["address"].as_str()?.to_owned(),
            ))
        })
        .collect();
    let beacons = document.beacons().iter();
    let mut candidates = beacons
        .filter(|beacon| wanted.as_ref().is_none_or(|id| *id == beacon.id))
        .filter_map(|beacon| Some((own.get(&beacon.id)?.clone(), beacon.clone())))
        .collect::<Vec<_>>();
    if let (true, Some(wanted)) = (candidates.is_empty(), &wanted) {
        let own: Vec<_> = own.into_keys().collect();
        return Err(Failure::usage(anyhow!(
            "got --beacon {wanted}, expected a singleton beacon of the newest document whose key is here: {}",
            own.join(", ")
        )));
    }
    // What is cheapest to spend first.
    candidates.sort_by_key(|(_, beacon)| {
        let script = beacon.script();
        (!script.is_p2tr(), !script.is_p2wpkh())
    });
    let (max_fee, estimated) = (args.max_fee, args.fee_rate.is_none());
    let chain = Arc::clone(&newest.chain);
    let chosen = tokio::task::spawn_blocking(move || {
        let mut short = Vec::new();
        for (address, beacon) in candidates {
            let script = beacon.script();
            let mut purse = Purse {
                id: beacon.id,
                address,
                inputs: Vec::new(),
                waiting_sat: 0,
            };
            match &replaced {
                Some(spent) => purse.inputs = outputs(&*chain, spent, &script)?,
                None => purse.fill(&*chain, &script)?,
            }
            match purse.spend_least(&script, rate, max_fee) {
                Ok(()) => return Ok(Ok(purse)),
                Err(problem) => short.push(purse.describe(problem, estimated.then_some(rate))),
            }
        }
        Ok(Err(short.join("; ")))
    });
    let chosen: Result<_, ChainError> = chosen.await?;
    chosen
        .map_err(|error| anyhow!("{error}"))?
        .map_err(|short| anyhow!("no singleton beacon can pay for the signal: {short}").into())
}

impl Purse {
    /// Adds the confirmed outputs of the address, the largest first.
    fn fill(&mut self, chain: &dyn Chain, script: &ScriptBuf) -> Result<(), ChainError> {
        let mut unspent = chain.unspent(script)?;
        unspent.sort_by_key(|utxo| std::cmp::Reverse(utxo.output.value));
        let (confirmed, waiting): (Vec<_>, Vec<_>) =
            unspent.into_iter().partition(|utxo| utxo.height.is_some());
        self.waiting_sat = waiting.iter().map(|utxo| utxo.output.value.to_sat()).sum();
        let largest = confirmed.iter().take(MAX_INPUTS).map(|utxo| utxo.outpoint);
        // Amounts are asked for again, where they are checked against transaction ids: not every signature commits to them.
        self.inputs = outputs(chain, &largest.collect::<Vec<_>>(), script)?;
        Ok(())
    }

    /// Leaves the outputs that are needed.
    fn spend_least(
        &mut self,
        script: &ScriptBuf,
        rate: u64,
        max_fee: u64,
    ) -> Result<(), SingletonError> {
        let mut problem = SingletonError::Build(BuildError::NoInputs);
        for count in 1..=self.inputs.len() {
            let inputs = self.inputs.iter().take(count).cloned().collect();
            match Draft::new(inputs, script, rate, max_fee) {
                Ok(_) => {
                    self.inputs.truncate(count);
                    return Ok(());
                }
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// `estimate`: the fee rate, where the user did not choose it.
    fn describe(&self, problem: SingletonError, estimate: Option<u64>) -> String {
        let what = match problem {
            SingletonError::Build(BuildError::NoInputs) => {
                "has no confirmed output to spend: send it some 2000 sat".to_owned()
            }
            other @ SingletonError::Fee { .. } => match estimate {
                Some(rate) => format!(
                    "{other}: the chain source estimates {rate} sat/vB; give --fee-rate or another --max-fee"
                ),
                None => other.to_string(),
            },
            other => other.to_string(),
        };
        let waiting = match self.waiting_sat {
            0 => String::new(),
            sat => format!(" ({sat} sat wait for a block)"),
        };
        format!("{} {} {what}{waiting}", self.id, self.address)
    }
}

/// Outputs with their amounts, as far as they belong to the address and are in a block.
fn outputs(
    chain: &dyn Chain,
    outpoints: &[OutPoint],
    script: &ScriptBuf,
) -> Result<Vec<(OutPoint, TxOut)>, ChainError> {
    let mut found = Vec::new();
    for outpoint in outpoints {
        if let OutputStatus::Seen {
            output,
            height: Some(_),
            ..
        } = chain.output(*outpoint)?
            && output.script_pubkey == *script
        {
            found.push((*outpoint, output));
        }
    }
    Ok(found)
}

/// Waits until the chain source has said what it makes of the transaction.
async fn outcome(global: &Global, agent: &str, answer: &mut Value) -> Result<(), Failure> {
    let polls = PATIENCE.as_millis() / PULSE.as_millis();
    for _ in 0..polls {
        let shown = global
            .ask(agent, "did.show", json!({ "did": answer["did"] }))
            .await?;
        let updates = shown["updates"].as_array().into_iter().flatten();
        let mut signals =
            updates.flat_map(|update| update["announced"].as_array().into_iter().flatten());
        if let Some(signal) = signals.find(|signal| signal["txid"] == answer["txid"]) {
            if let Some(reason) = signal["refused"].as_str() {
                return Err(anyhow!(
                    "the update is signed and kept, but the chain source refuses its signal {}: {reason}. The agent offers it again; the same command with another --fee-rate replaces it",
                    answer["txid"].as_str().unwrap_or_default()
                )
                .into());
            }
            answer["status"] = signal["status"].clone();
            if signal["status"] != "live" {
                return Ok(());
            }
        }
        sleep(PULSE).await;
    }
    answer["warning"] = json!(
        "the chain source has not answered yet: the agent offers the signal until it has; see `did show`"
    );
    Ok(())
}
