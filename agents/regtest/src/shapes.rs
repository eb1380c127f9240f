//! The JSON objects of Esplora's interface.

use beacon_embedded::{
    BlockView, Confirmation, ScriptStats, Spend, TransactionDetails, UtxoView, Waiting,
};
use bitcoin::hex::DisplayHex;
use bitcoin::{Address, BlockHash, Network, Script, ScriptBuf, TxIn, TxMerkleNode, TxOut, Txid};
use serde::Serialize;

/// Virtual bytes in one bar of the fee histogram.
const HISTOGRAM_BAR: u64 = 50_000;

#[derive(Debug, Serialize)]
pub(crate) struct StatusShape {
    confirmed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_hash: Option<BlockHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_time: Option<u32>,
}

impl From<Option<Confirmation>> for StatusShape {
    fn from(confirmed: Option<Confirmation>) -> Self {
        Self {
            confirmed: confirmed.is_some(),
            block_height: confirmed.map(|block| block.height),
            block_hash: confirmed.map(|block| block.block_hash),
            block_time: confirmed.map(|block| block.block_time),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct TransactionShape {
    txid: Txid,
    version: i32,
    locktime: u32,
    vin: Vec<InputShape>,
    vout: Vec<OutputShape>,
    size: usize,
    weight: u64,
    fee: u64,
    status: StatusShape,
}

impl From<TransactionDetails> for TransactionShape {
    fn from(details: TransactionDetails) -> Self {
        let transaction = &details.transaction;
        let is_coinbase = transaction.is_coinbase();
        Self {
            txid: transaction.compute_txid(),
            version: transaction.version.0,
            locktime: transaction.lock_time.to_consensus_u32(),
            vin: transaction
                .input
                .iter()
                .zip(&details.prevouts)
                .map(|(input, prevout)| InputShape::new(input, prevout.as_ref(), is_coinbase))
                .collect(),
            vout: transaction.output.iter().map(OutputShape::from).collect(),
            size: transaction.total_size(),
            weight: transaction.weight().to_wu(),
            fee: details.fee.to_sat(),
            status: details.confirmed.into(),
        }
    }
}

#[derive(Debug, Serialize)]
struct InputShape {
    txid: Txid,
    vout: u32,
    prevout: Option<OutputShape>,
    scriptsig: ScriptBuf,
    scriptsig_asm: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    witness: Vec<String>,
    is_coinbase: bool,
    sequence: u32,
}

impl InputShape {
    fn new(input: &TxIn, prevout: Option<&TxOut>, is_coinbase: bool) -> Self {
        Self {
            txid: input.previous_output.txid,
            vout: input.previous_output.vout,
            prevout: prevout.map(OutputShape::from),
            scriptsig: input.script_sig.clone(),
            scriptsig_asm: input.script_sig.to_asm_string(),
            witness: input
                .witness
                .iter()
                .map(DisplayHex::to_lower_hex_string)
                .collect(),
            is_coinbase,
            sequence: input.sequence.to_consensus_u32(),
        }
    }
}

#[derive(Debug, Serialize)]
struct OutputShape {
    scriptpubkey: ScriptBuf,
    scriptpubkey_asm: String,
    scriptpubkey_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scriptpubkey_address: Option<String>,
    value: u64,
}

impl From<&TxOut> for OutputShape {
    fn from(output: &TxOut) -> Self {
        let script = &output.script_pubkey;
        Self {
            scriptpubkey: script.clone(),
            scriptpubkey_asm: script.to_asm_string(),
            scriptpubkey_type: script_type(script),
            scriptpubkey_address: Address::from_script(script, Network::Regtest)
                .ok()
                .map(|address| address.to_string()),
            value: output.value.to_sat(),
        }
    }
}

fn script_type(script: &Script) -> &'static str {
    if script.is_empty() {
        "empty"
    } else if script.is_op_return() {
        "op_return"
    } else if script.is_p2pk() {
        "p2pk"
    } else if script.is_p2pkh() {
        "p2pkh"
    } else if script.is_p2sh() {
        "p2sh"
    } else if script.is_p2wpkh() {
        "v0_p2wpkh"
    } else if script.is_p2wsh() {
        "v0_p2wsh"
    } else if script.is_p2tr() {
        "v1_p2tr"
    } else {
        "unknown"
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct UtxoShape {
    txid: Txid,
    vout: u32,
    status: StatusShape,
    value: u64,
}

impl From<UtxoView> for UtxoShape {
    fn from(utxo: UtxoView) -> Self {
        Self {
            txid: utxo.outpoint.txid,
            vout: utxo.outpoint.vout,
            status: utxo.confirmed.into(),
            value: utxo.value.to_sat(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct SpendShape {
    spent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    txid: Option<Txid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vin: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusShape>,
}

impl From<Option<Spend>> for SpendShape {
    fn from(spend: Option<Spend>) -> Self {
        Self {
            spent: spend.is_some(),
            txid: spend.map(|spend| spend.txid),
            vin: spend.map(|spend| spend.vin),
            status: spend.map(|spend| spend.confirmed.into()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct BlockStatusShape {
    pub(crate) in_best_chain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_best: Option<BlockHash>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BlockShape {
    id: BlockHash,
    height: u32,
    version: i32,
    timestamp: u32,
    tx_count: usize,
    size: usize,
    weight: u64,
    merkle_root: TxMerkleNode,
    previousblockhash: Option<BlockHash>,
    mediantime: u32,
    nonce: u32,
    bits: u32,
    difficulty: f64,
}

impl From<BlockView> for BlockShape {
    fn from(view: BlockView) -> Self {
        let header = view.block.header;
        Self {
            id: header.block_hash(),
            height: view.height,
            version: header.version.to_consensus(),
            timestamp: header.time,
            tx_count: view.block.txdata.len(),
            size: view.block.total_size(),
            weight: view.block.weight().to_wu(),
            merkle_root: header.merkle_root,
            previousblockhash: (view.height > 0).then_some(header.prev_blockhash),
            mediantime: view.median_time,
            nonce: header.nonce,
            bits: header.bits.to_consensus(),
            difficulty: header.difficulty_float(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct StatsShape {
    funded_txo_count: u64,
    funded_txo_sum: u64,
    spent_txo_count: u64,
    spent_txo_sum: u64,
    tx_count: u64,
}

impl From<ScriptStats> for StatsShape {
    fn from(stats: ScriptStats) -> Self {
        Self {
            funded_txo_count: stats.funded_count,
            funded_txo_sum: stats.funded_sat,
            spent_txo_count: stats.spent_count,
            spent_txo_sum: stats.spent_sat,
            tx_count: stats.transactions,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct MempoolShape {
    count: usize,
    vsize: u64,
    total_fee: u64,
    /// Bars of (lowest fee rate in sat/vB, size in vB), highest rate first.
    fee_histogram: Vec<(f64, u64)>,
}

impl From<Vec<Waiting>> for MempoolShape {
    fn from(waiting: Vec<Waiting>) -> Self {
        let mut rates: Vec<(f64, u64)> = waiting
            .iter()
            .map(|entry| (fee_rate(entry), entry.vsize))
            .collect();
        rates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut fee_histogram: Vec<(f64, u64)> = Vec::new();
        for (rate, vsize) in rates {
            match fee_histogram.last_mut() {
                Some(bar) if bar.1 < HISTOGRAM_BAR => *bar = (rate, bar.1 + vsize),
                _ => fee_histogram.push((rate, vsize)),
            }
        }
        Self {
            count: waiting.len(),
            vsize: waiting.iter().map(|entry| entry.vsize).sum(),
            total_fee: waiting.iter().map(|entry| entry.fee.to_sat()).sum(),
            fee_histogram,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a fee rate is shown as a float; sums below 2^53 sat are exact"
)]
fn fee_rate(entry: &Waiting) -> f64 {
    entry.fee.to_sat() as f64 / entry.vsize.max(1) as f64
}
