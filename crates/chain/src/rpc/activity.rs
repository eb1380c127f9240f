//! What pays or spends some scripts, in blocks or in the mempool, as `getdescriptoractivity` tells it.

use std::collections::HashMap;

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{BlockHash, OutPoint, ScriptBuf, Transaction, Txid};
use serde::Deserialize;
use serde_json::json;

use super::client::{CallError, Client};
use crate::ChainError;

/// One output that a transaction makes, or spends.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) script: ScriptBuf,
    /// The transaction that does it.
    pub(super) txid: Txid,
    /// Its block's height; `None` in the mempool.
    pub(super) height: Option<u32>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Receive { vout: u32 },
    Spend { input: u32, spent: OutPoint },
}

#[derive(Deserialize)]
struct Answer {
    activity: Vec<RawEvent>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum RawEvent {
    Receive {
        height: Option<u32>,
        txid: Txid,
        vout: u32,
        output_spk: RawScript,
    },
    Spend {
        height: Option<u32>,
        spend_txid: Txid,
        spend_vin: u32,
        prevout_txid: Txid,
        prevout_vout: u32,
        prevout_spk: RawScript,
    },
}

#[derive(Deserialize)]
struct RawScript {
    hex: ScriptBuf,
}

/// What these blocks of the best chain do with these scripts; without blocks, what the mempool does.
pub(super) fn activity(
    client: &Client,
    blocks: &[BlockHash],
    scripts: &[ScriptBuf],
) -> Result<Vec<Event>, ChainError> {
    let descriptors: Vec<_> = scripts
        .iter()
        .map(|script| format!("raw({script:x})"))
        .collect();
    let params = json!([blocks, descriptors, blocks.is_empty()]);
    let answer: Answer = client.call("getdescriptoractivity", &params)?;
    Ok(answer.activity.into_iter().map(Event::from).collect())
}

impl From<RawEvent> for Event {
    fn from(raw: RawEvent) -> Self {
        match raw {
            RawEvent::Receive {
                height,
                txid,
                vout,
                output_spk,
            } => Self {
                script: output_spk.hex,
                txid,
                height,
                kind: Kind::Receive { vout },
            },
            RawEvent::Spend {
                height,
                spend_txid,
                spend_vin,
                prevout_txid,
                prevout_vout,
                prevout_spk,
            } => Self {
                script: prevout_spk.hex,
                txid: spend_txid,
                height,
                kind: Kind::Spend {
                    input: spend_vin,
                    spent: OutPoint::new(prevout_txid, prevout_vout),
                },
            },
        }
    }
}

impl Event {
    /// Whether the transactions, by their computed ids, say the same. `start` is the first block that is looked at.
    pub(super) fn check(
        &self,
        transactions: &HashMap<Txid, &Transaction>,
        start: u32,
    ) -> Result<(), ChainError> {
        let pays = |outpoint: OutPoint| {
            let transaction = transactions.get(&outpoint.txid)?;
            let output = transaction
                .output
                .get(usize::try_from(outpoint.vout).ok()?)?;
            Some(output.script_pubkey == self.script)
        };
        let said = match self.kind {
            Kind::Receive { vout } => pays(OutPoint::new(self.txid, vout)) == Some(true),
            Kind::Spend { input, spent } => {
                let input = usize::try_from(input).ok();
                let spends = transactions
                    .get(&self.txid)
                    .and_then(|transaction| transaction.input.get(input?))
                    .is_some_and(|input| input.previous_output == spent);
                if spends && !transactions.contains_key(&spent.txid) {
                    return Err(ChainError::unsuitable(format_args!(
                        "output {spent} was paid before block {start}, the start height: set it to a block before the first payment to any address that is asked for"
                    )));
                }
                spends && pays(spent) == Some(true)
            }
        };
        if said {
            return Ok(());
        }
        Err(ChainError::garbage(format_args!(
            "transaction {} does not do to a script what the node says: {:?}",
            self.txid, self.kind
        )))
    }
}

/// A transaction, from a block or the mempool, that must be there.
pub(super) fn fetch(
    client: &Client,
    txid: Txid,
    block: Option<BlockHash>,
) -> Result<Transaction, ChainError> {
    let hex: String = client
        .call("getrawtransaction", &json!([txid, 0, block]))
        .map_err(|error| match error {
            CallError::Source(error) => error,
            // It was there a moment ago.
            CallError::Node { message, .. } => ChainError::unavailable(format_args!(
                "transaction {txid} is not there any more: {message}"
            )),
        })?;
    parse(&hex, txid)
}

/// A transaction with the id that was asked for.
pub(super) fn parse(hex: &str, txid: Txid) -> Result<Transaction, ChainError> {
    let transaction: Transaction = deserialize_hex(hex).map_err(|error| {
        ChainError::garbage(format_args!("got no transaction for {txid}: {error}"))
    })?;
    let got = transaction.compute_txid();
    if got != txid {
        return Err(ChainError::garbage(format_args!(
            "got transaction {got}, expected {txid}"
        )));
    }
    Ok(transaction)
}
