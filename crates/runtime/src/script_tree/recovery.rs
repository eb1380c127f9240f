//! `recovery …`: the key that a cohort's terms can name, and the spend that it makes alone once the money is old enough.

use std::path::PathBuf;

use anyhow::anyhow;
use bitcoin::{ScriptBuf, Transaction};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::coins::{self, Coin};
use super::fallback::Name;
use super::{CohortFile, Subject};
use crate::cli::{Failure, Global};
use crate::proofs;
use crate::source::SourceArgs;
use beacon_cohort::script_path::Leaf;
use beacon_cohort::script_spend::ScriptSpend;

/// `recovery …`.
#[derive(Debug, Subcommand)]
pub enum RecoveryCommand {
    /// Print a key of this agent for the terms of a cohort: its holder can take back what was paid, alone, after some blocks
    Key {
        /// Which one, 0 to 255: a cohort's key shows that two cohorts have the same payer
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=255))]
        index: u32,
    },
    /// Write down what the holder of the recovery key needs to know of a cohort, who need not be a member
    Export(ExportArgs),
    /// Spend what a cohort's beacon has held for long enough, with the recovery key alone
    Spend(SpendArgs),
}

/// Options of `recovery export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    cohort: Name,
    /// File to write; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Options of `recovery spend`.
#[derive(Args, Debug)]
pub struct SpendArgs {
    /// The cohort's id
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    cohort_id: Option<String>,
    /// DID of its coordinator, where two of them use this id
    #[arg(long, value_name = "DID", conflicts_with = "file")]
    coordinator: Option<String>,
    /// The cohort, as `recovery export` of a member wrote it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Address that gets the money
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Fee rate, sat/vB [default: what the chain source estimates, or 5 where it estimates nothing]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    fee_rate: Option<u64>,
    /// Most that the spend may cost, sat
    #[arg(long, value_name = "SAT", default_value_t = 10_000)]
    max_fee: u64,
    /// I know that the cohort cannot announce anything after that before somebody pays again
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// Carries out `recovery …`.
pub async fn run(global: &Global, agent: &str, command: RecoveryCommand) -> Result<(), Failure> {
    match command {
        RecoveryCommand::Key { index } => {
            let params = json!({ "index": index });
            global.call(agent, "tree.recovery_key", params).await
        }
        RecoveryCommand::Export(ExportArgs { cohort, out }) => {
            let file = global.ask(agent, "tree.cohort", cohort.params()).await?;
            proofs::write(&file, out.as_deref())
        }
        RecoveryCommand::Spend(args) => spend(global, agent, args).await,
    }
}

async fn spend(global: &Global, agent: &str, args: SpendArgs) -> Result<(), Failure> {
    let subject = match (&args.file, &args.cohort_id) {
        (Some(file), _) => coins::read_subject(file)?,
        (None, id) => {
            let name = json!({ "cohort_id": id, "coordinator": args.coordinator });
            let file: CohortFile =
                serde_json::from_value(global.ask(agent, "tree.cohort", name).await?)?;
            file.subject().map_err(|reason| anyhow!(reason))?
        }
    };
    let network = subject.terms().btc_network;
    let to = coins::destination(&args.to, network)?;
    let chain = coins::open(global, agent, &args.source, network).await?;
    let (found, tip) = coins::coins(&chain, &subject).await?;
    let rate = coins::fee_rate(global, agent, &chain, args.fee_rate).await?;
    let plan = Plan::new(&subject, &found, tip, &to, rate)?;
    let mut answer = plan.view(&subject, &args.to);
    if !args.yes {
        global.print(&answer)?;
        return Err(anyhow!(
            "nothing was spent: {} sat of the money of all {} members go to {}, and until somebody pays again the cohort announces \
             nothing; its signals that wait for a block with this money never get there. Say --yes if that is what you want",
            plan.total(),
            subject.beacon.keys().len(),
            args.to
        )
        .into());
    }
    let inputs = plan.due.iter();
    let params = json!({
        "cohort": subject.file,
        "to": to,
        "fee_rate": rate,
        "max_fee": args.max_fee,
        "inputs": inputs
            .map(|coin| json!({ "outpoint": coin.outpoint, "value_sat": coin.value_sat }))
            .collect::<Vec<_>>(),
    });
    let signed = global.ask(agent, "tree.recover", params).await?;
    let hex = signed["tx"].as_str().unwrap_or_default();
    let tx: Transaction = bitcoin::consensus::encode::deserialize_hex(hex)?;
    super::fallback::broadcast(chain, tx).await?;
    for member in ["txid", "fee_sat", "vsize", "tx"] {
        answer[member] = signed[member].clone();
    }
    global.print(&answer)
}

/// What can be spent now, and when the rest can.
struct Plan {
    due: Vec<Coin>,
    later: Vec<(Coin, Option<u32>)>,
    left_out: usize,
    fee_sat: u64,
}

impl Plan {
    fn new(
        subject: &Subject,
        found: &[Coin],
        tip: u32,
        to: &ScriptBuf,
        rate: u64,
    ) -> Result<Self, Failure> {
        let path = subject.recovery().map_err(|reason| anyhow!(reason))?;
        let Leaf::Recovery(recovery) = path.leaf else {
            return Err(anyhow!("the leaf is no recovery leaf").into());
        };
        let wait = |coin: &Coin| blocks_left(coin.height, recovery.blocks.get(), tip);
        let (mut due, later): (Vec<_>, Vec<_>) =
            found.iter().partition(|coin| wait(coin) == Some(0));
        if due.is_empty() {
            let later = later.iter().map(|coin| describe(coin, wait(coin)));
            let later: Vec<_> = later.collect();
            let address = &subject.file.beacon_address;
            return Err(match later.as_slice() {
                [] => anyhow!("{address} holds nothing"),
                later => anyhow!("nothing at {address} is old enough: {}", later.join("; ")),
            }
            .into());
        }
        let most = ScriptSpend::most_inputs(&path);
        let left_out = due.len().saturating_sub(most);
        due.truncate(most);
        let inputs: Vec<_> = due
            .iter()
            .map(|coin| (coin.outpoint, coin.value_sat))
            .collect();
        let built = ScriptSpend::build(&subject.beacon, &path, &inputs, to, rate)?;
        Ok(Self {
            later: later.into_iter().map(|coin| (coin, wait(&coin))).collect(),
            due,
            left_out,
            fee_sat: built.fee_sat(),
        })
    }

    fn total(&self) -> u64 {
        let values = self.due.iter().map(|coin| coin.value_sat);
        values.fold(0, u64::saturating_add)
    }

    fn view(&self, subject: &Subject, to: &str) -> Value {
        let coin = |coin: &Coin| json!({ "outpoint": coin.outpoint, "value_sat": coin.value_sat });
        let mut value = json!({
            "cohort_id": subject.file.cohort_id,
            "beacon_address": subject.file.beacon_address,
            "to": to,
            "spends": self.due.iter().map(coin).collect::<Vec<_>>(),
            "fee_sat": self.fee_sat,
        });
        if !self.later.is_empty() {
            let later = self.later.iter();
            value["later"] = later
                .map(|(coin, left)| json!(describe(coin, *left)))
                .collect();
        }
        if self.left_out > 0 {
            value["left_out"] = json!(format!(
                "{} outputs more than one transaction can spend: say it again for them",
                self.left_out
            ));
        }
        value
    }
}

/// Blocks that must be mined before the next one can have a spend of an output of this age (BIP68). `None` where it waits for a
/// block itself.
fn blocks_left(height: Option<u32>, blocks: u16, tip: u32) -> Option<u32> {
    let first = height?.saturating_add(blocks.into());
    Some(first.saturating_sub(tip.saturating_add(1)))
}

fn describe(coin: &Coin, left: Option<u32>) -> String {
    let due = match left {
        None => "waits for a block itself".to_owned(),
        Some(1) => "is due in 1 block".to_owned(),
        Some(blocks) => format!("is due in {blocks} blocks"),
    };
    format!("{} with {} sat {due}", coin.outpoint, coin.value_sat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_due_when_the_next_block_is_as_far_from_its_own_as_the_terms_say() {
        // In block 100 and three blocks to wait: block 103 can have the spend, so 102 must be there.
        for (tip, left) in [(100, 2), (101, 1), (102, 0), (500, 0)] {
            assert_eq!(blocks_left(Some(100), 3, tip), Some(left), "at {tip}");
        }
        assert_eq!(blocks_left(Some(100), 1, 100), Some(0));
        assert_eq!(blocks_left(None, 1, 100), None);
    }
}
