//! What a beacon holds, as the command's own chain source says; and where it may go.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use beacon_chain::{Chain, ChainError};
use beacon_cohort::coordinator::FALLBACK_SAT_VB;
use beacon_cohort::terms::BtcNetwork;
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Network, OutPoint, ScriptBuf};

use super::Subject;
use crate::cli::{Failure, Global};
use crate::settings::Options;
use crate::source::{self, COMMAND_PATIENCE, SourceArgs};

/// Longest cohort file that is read: 1,000 keys and their terms fit.
const MAX_FILE: u64 = 256 * 1024;

/// An unspent output of the beacon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coin {
    pub(super) outpoint: OutPoint,
    pub(super) value_sat: u64,
    /// Height of its block; `None` while it waits for one.
    pub(super) height: Option<u32>,
}

/// The chain source of a command, which is for the cohort's network.
pub(super) async fn open(
    global: &Global,
    agent: &str,
    args: &SourceArgs,
    network: BtcNetwork,
) -> Result<Arc<dyn Chain>, Failure> {
    let chain = source::open(global, agent, args, COMMAND_PATIENCE)?;
    let asked = Arc::clone(&chain);
    let identity = source::identity(network);
    let wrong = tokio::task::spawn_blocking(move || identity.mismatch(&*asked)).await?;
    match wrong.map_err(|error| anyhow!("{error}"))? {
        None => Ok(chain),
        Some(wrong) => Err(Failure::usage(anyhow!("{wrong}"))),
    }
}

/// What the beacon holds, the largest first, and the height of the last block.
pub(super) async fn coins(
    chain: &Arc<dyn Chain>,
    subject: &Subject,
) -> Result<(Vec<Coin>, u32), Failure> {
    let (chain, script) = (Arc::clone(chain), subject.beacon.script().to_owned());
    let asked = move || -> Result<_, ChainError> {
        let tip = chain.tip()?.height;
        Ok((chain.unspent(&script)?, tip))
    };
    let asked = tokio::task::spawn_blocking(asked).await?;
    let (unspent, tip) = asked.map_err(|error| anyhow!("{error}"))?;
    let coin = |utxo: beacon_chain::Utxo| Coin {
        outpoint: utxo.outpoint,
        value_sat: utxo.output.value.to_sat(),
        height: utxo.height,
    };
    let mut coins: Vec<_> = unspent.into_iter().map(coin).collect();
    coins.sort_by_key(|coin| (std::cmp::Reverse(coin.value_sat), coin.outpoint));
    Ok((coins, tip))
}

/// What was asked for, or what the chain source expects to do.
pub(super) async fn fee_rate(
    global: &Global,
    agent: &str,
    chain: &Arc<dyn Chain>,
    asked: Option<u64>,
) -> Result<u64, Failure> {
    if let Some(rate) = asked {
        return Ok(rate);
    }
    let config = global.config(agent, Options::default(), &global.data_dir(agent)?)?;
    let (chain, blocks) = (Arc::clone(chain), config.fee_target_blocks);
    let estimate = tokio::task::spawn_blocking(move || chain.fee_rate(blocks)).await?;
    Ok(estimate.ok().flatten().unwrap_or(FALLBACK_SAT_VB))
}

/// The script of an address, which must be of the cohort's network.
pub(super) fn destination(text: &str, network: BtcNetwork) -> Result<ScriptBuf, Failure> {
    let parsed: Result<Address<NetworkUnchecked>, _> = text.parse();
    let address = parsed.map_err(|error| {
        Failure::usage(anyhow!(
            "got --to {text:.100}, expected an address: {error}"
        ))
    })?;
    if !address.is_valid_for_network(network.bitcoin()) {
        let names = [
            (Network::Bitcoin, "mainnet"),
            (Network::Regtest, "regtest"),
            (Network::Signet, "a public test network"),
        ];
        let mut names = names.iter();
        let name = names.find(|(network, _)| address.is_valid_for_network(*network));
        let name = name.map_or("another network", |(_, name)| name);
        return Err(Failure::usage(anyhow!(
            "got --to {text:.100}, an address of {name}, expected one of {network}, where the cohort is"
        )));
    }
    Ok(address.assume_checked().script_pubkey())
}

/// The text of a file of at most so many bytes.
pub(super) fn read_text(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(Failure::usage)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        let error = anyhow!("{}: more than {max} bytes", path.display());
        return Err(Failure::usage(error));
    }
    Ok(bytes)
}

/// A cohort that a member wrote down.
pub(super) fn read_subject(path: &Path) -> Result<Subject, Failure> {
    let bytes = read_text(path, MAX_FILE)?;
    let file: super::CohortFile = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no cohort file", path.display()))
        .map_err(Failure::usage)?;
    let subject = file.subject();
    subject.map_err(|reason| Failure::usage(anyhow!("{}: {reason}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGTEST: &str = "bcrt1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqc8gma6";
    const MAINNET: &str = "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0";

    #[test]
    fn addresses_of_another_network_are_refused_by_name() {
        assert!(destination(REGTEST, BtcNetwork::Regtest).is_ok_and(|script| script.is_p2tr()));
        let refused = |text, network| match destination(text, network) {
            Err(failure) => failure.error.to_string(),
            Ok(script) => panic!("got {script}, expected a refusal"),
        };
        let said = refused(MAINNET, BtcNetwork::Regtest);
        assert!(
            said.contains("an address of mainnet, expected one of regtest"),
            "{said}"
        );
        let said = refused(REGTEST, BtcNetwork::Mainnet);
        assert!(
            said.contains("an address of regtest, expected one of mainnet"),
            "{said}"
        );
        let said = refused("nonsense", BtcNetwork::Regtest);
        assert!(said.contains("expected an address"), "{said}");
    }
}
