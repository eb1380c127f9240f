//! [`CoreChain`]: a chain source that is a Bitcoin Core node, without a wallet and without an index.

mod activity;
mod client;
mod headers;
mod history;
mod index;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Amount, BlockHash, OutPoint, Script, Transaction, TxOut, Txid};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::chain::checked_fee_rate;
use crate::esplora::{InvalidBaseUrl, TIP_ATTEMPTS, base_url, tip_moved};
use crate::{
    BroadcastError, Chain, ChainError, ConfirmedSpend, OutputStatus, Spends, Tip,
    TransactionStatus, Utxo,
};
use activity::{activity, fetch, parse};
use client::{CallError, Client, code};
use headers::block_hash;
use history::{outputs, unspent};
use index::Index;

pub use client::{MAX_RPC_RESPONSE, RpcAuth};
pub use index::{MAX_FOLLOWED, MAX_FOLLOWED_BYTES};

/// The oldest major version of Bitcoin Core that has every call that is used (`getdescriptoractivity`).
pub const OLDEST_CORE: u32 = 29;

/// The longest target that a node estimates a fee for, in blocks.
const MAX_FEE_TARGET: u16 = 1_008;

/// Where a node is, and how it is asked.
#[derive(Debug, Clone)]
pub struct CoreSettings {
    /// Its RPC server, such as `http://127.0.0.1:8332`.
    pub url: String,
    /// How it knows us.
    pub auth: RpcAuth,
    /// The first block that is looked at. What was paid or mined before does not exist for this source.
    pub start_height: u32,
    /// For one request; rounded up to whole seconds.
    pub timeout: Duration,
    /// How often a request is repeated that a busy node turned away, at most [`MAX_RETRIES`](crate::MAX_RETRIES).
    pub retries: usize,
    /// For looking through blocks, in one question. A question that takes longer is answered with
    /// [`ChainError::Unavailable`] and how far it came; asked again, it goes on from there.
    pub patience: Duration,
}

/// A Bitcoin Core node, version [`OLDEST_CORE`] or newer, that has all blocks from the start height on.
///
/// What it is asked for is looked for in those blocks, by the node itself, and followed from then on: block by block,
/// back to where the chains part when blocks are replaced. Nothing of that is kept on disk, so that a
/// restart looks through the blocks again. An index of transactions (`txindex=1`) is used where the node has one.
///
/// Transactions are compared with their ids, headers with their hashes and each other. The proof of work is not
/// looked at: the node is one's own.
#[derive(Debug)]
pub struct CoreChain {
    client: Client,
    patience: Duration,
    start_height: u32,
    index: Mutex<Index>,
}

#[derive(Deserialize)]
struct ChainInfo {
    chain: String,
    blocks: u32,
    headers: u32,
    bestblockhash: BlockHash,
    initialblockdownload: bool,
    pruned: bool,
    #[serde(default)]
    pruneheight: u32,
}

#[derive(Deserialize)]
struct RawTransaction {
    hex: String,
    blockhash: Option<BlockHash>,
}

#[derive(Deserialize)]
struct BlockPlace {
    height: u32,
    /// -1 outside the best chain.
    confirmations: i64,
}

#[derive(Deserialize)]
struct SpendingTransaction {
    spendingtxid: Option<Txid>,
}

#[derive(Deserialize)]
struct FeeEstimate {
    /// BTC for 1,000 vB; absent while the node has seen too little.
    feerate: Option<f64>,
    /// Why there is none.
    #[serde(default)]
    errors: Vec<String>,
}

/// A transaction, and its block; `None` in the mempool.
struct Located {
    transaction: Transaction,
    block: Option<Tip>,
}

impl CoreChain {
    /// A client for a node. Nothing is sent yet.
    pub fn new(settings: CoreSettings) -> Result<Self, InvalidBaseUrl> {
        let url = base_url(&settings.url).filter(|url| !url.contains('@'));
        let url = url.ok_or_else(|| InvalidBaseUrl::new(&settings.url))?;
        let timeout = settings.timeout.max(Duration::from_secs(1));
        Ok(Self {
            client: Client {
                url: format!("{url}/"),
                auth: settings.auth,
                timeout: timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0),
                retries: settings.retries,
            },
            patience: settings.patience,
            start_height: settings.start_height,
            index: Mutex::new(Index::new(settings.start_height)),
        })
    }

    /// An index that a panic left behind is as good as any: each step leaves it consistent.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last block, of a node that can be asked.
    fn best(&self) -> Result<Tip, ChainError> {
        let start_height = self.start_height;
        let info: ChainInfo = self.client.call("getblockchaininfo", &json!([]))?;
        // On regtest nobody mines until we do, and a node thinks that its old last block cannot be the last one.
        if info.initialblockdownload && info.chain != "regtest" {
            return Err(ChainError::unavailable(format_args!(
                "the node is in its initial block download, at block {} of {}: wait until it has the whole chain",
                info.blocks, info.headers
            )));
        }
        if info.pruned && info.pruneheight > start_height {
            return Err(ChainError::unsuitable(format_args!(
                "the node has pruned the blocks below {}, expected all from the start height {start_height} on: raise the start height if nothing of yours is older, or run the node with prune=0",
                info.pruneheight
            )));
        }
        Ok(Tip {
            height: info.blocks,
            hash: info.bestblockhash,
        })
    }

    /// Asks for what takes several requests, and begins anew when the tip moves meanwhile.
    fn steady<T>(
        &self,
        ask: impl Fn(&mut Index, Tip, Instant) -> Result<T, ChainError>,
    ) -> Result<T, ChainError> {
        let mut index = self.index();
        let deadline = Instant::now() + self.patience;
        for _ in 0..TIP_ATTEMPTS {
            let tip = self.best()?;
            let answer = index
                .follow(&self.client, tip, deadline)
                .and_then(|()| ask(&mut index, tip, deadline));
            if self.best()? == tip {
                return answer;
            }
        }
        Err(tip_moved())
    }

    /// Finds a transaction: in the mempool or the node's index, in the history of a script that was asked for, else
    /// by looking through the blocks.
    fn locate(
        &self,
        index: &mut Index,
        txid: Txid,
        deadline: Instant,
    ) -> Result<Option<Located>, ChainError> {
        match self
            .client
            .call::<RawTransaction>("getrawtransaction", &json!([txid, 1]))
        {
            Ok(found) => {
                let transaction = parse(&found.hex, txid)?;
                let block = match found.blockhash {
                    None => None,
                    // One that was replaced, as far as the index of transactions knows.
                    Some(hash) => match self.place(hash)? {
                        None => return Ok(None),
                        block => block,
                    },
                };
                return Ok(Some(Located { transaction, block }));
            }
            Err(CallError::Node {
                code: code::NOT_FOUND,
                ..
            }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some((block, transaction)) = index.known(txid) {
            return Ok(Some(Located {
                transaction: transaction.clone(),
                block: Some(block),
            }));
        }
        if self.has_transaction_index()? {
            return Ok(None);
        }
        let Some(block) = index.block_of(&self.client, txid, deadline)? else {
            return Ok(None);
        };
        let transaction = fetch(&self.client, txid, Some(block.hash))?;
        Ok(Some(Located {
            transaction,
            block: Some(block),
        }))
    }

    /// Where in the best chain a block is.
    fn place(&self, hash: BlockHash) -> Result<Option<Tip>, ChainError> {
        let place: BlockPlace = self.client.call("getblockheader", &json!([hash]))?;
        let height = place.height;
        Ok((place.confirmations > 0).then_some(Tip { height, hash }))
    }

    /// Whether the node's word that it does not know a transaction is about the whole chain.
    fn has_transaction_index(&self) -> Result<bool, ChainError> {
        let indexes: Value = self.client.call("getindexinfo", &json!(["txindex"]))?;
        Ok(indexes["txindex"]["synced"] == true)
    }

    /// Whether neither the chain nor the mempool spends an output.
    fn is_unspent(&self, OutPoint { txid, vout }: OutPoint) -> Result<bool, ChainError> {
        let unspent: Value = self.client.call("gettxout", &json!([txid, vout, true]))?;
        Ok(!unspent.is_null())
    }

    /// Who spends an output that exists.
    fn spender(
        &self,
        index: &mut Index,
        outpoint: OutPoint,
        output: &TxOut,
        deadline: Instant,
    ) -> Result<Option<Txid>, ChainError> {
        if output.script_pubkey.is_op_return() || self.is_unspent(outpoint)? {
            return Ok(None);
        }
        let spending: Vec<SpendingTransaction> = self.client.call(
            "gettxspendingprevout",
            &json!([[{ "txid": outpoint.txid, "vout": outpoint.vout }]]),
        )?;
        if let Some(spender) = spending.first().and_then(|found| found.spendingtxid) {
            return Ok(Some(spender));
        }
        let start = self.start_height;
        let history = index.history(&self.client, &output.script_pubkey, deadline)?;
        let spends = |transaction: &Transaction| {
            let mut inputs = transaction.input.iter();
            inputs.any(|input| input.previous_output == outpoint)
        };
        let mut transactions = history.transactions();
        match transactions.find(|(_, _, transaction)| spends(transaction)) {
            Some((_, spender, _)) => Ok(Some(spender)),
            // The mempool may have lost its spender since we looked there.
            None if self.is_unspent(outpoint)? => Ok(None),
            None => Err(ChainError::unsuitable(format_args!(
                "output {outpoint} is neither unspent nor spent in a block from the start height {start} on: set it to a block before the first payment to this address"
            ))),
        }
    }
}

impl Chain for CoreChain {
    fn tip(&self) -> Result<Tip, ChainError> {
        self.best()
    }

    fn is_in_best_chain(&self, block: Tip) -> Result<bool, ChainError> {
        Ok(block_hash(&self.client, block.height)? == Some(block.hash))
    }

    fn genesis(&self) -> Result<BlockHash, ChainError> {
        Ok(self.client.call("getblockhash", &json!([0]))?)
    }

    fn unspent(&self, script: &Script) -> Result<Vec<Utxo>, ChainError> {
        self.steady(|index, _, deadline| {
            let history = index.history(&self.client, script, deadline)?;
            let mempool = activity(&self.client, &[], &[script.to_owned()])?;
            let mut waiting: HashMap<Txid, Transaction> = HashMap::new();
            for event in &mempool {
                if let Entry::Vacant(vacant) = waiting.entry(event.txid) {
                    vacant.insert(fetch(&self.client, event.txid, None)?);
                }
            }
            let confirmed = history
                .transactions()
                .map(|(_, txid, transaction)| (txid, transaction));
            let known = confirmed.chain(
                waiting
                    .iter()
                    .map(|(txid, transaction)| (*txid, transaction)),
            );
            let known: HashMap<_, _> = known.collect();
            for event in mempool.iter().filter(|event| *event.script == *script) {
                event.check(&known, self.start_height)?;
            }
            Ok(unspent(script, history, &waiting))
        })
    }

    fn spends(&self, script: &Script) -> Result<Spends, ChainError> {
        self.steady(|index, tip, deadline| {
            let history = index.history(&self.client, script, deadline)?;
            let paid = outputs(script, history)
                .map(|utxo| utxo.outpoint)
                .collect::<HashSet<_>>();
            let spending: Vec<_> = history
                .transactions()
                .filter(|(_, _, transaction)| {
                    let mut inputs = transaction.input.iter();
                    inputs.any(|input| paid.contains(&input.previous_output))
                })
                .map(|(height, _, transaction)| (height, transaction.clone()))
                .collect();
            let transactions = spending.into_iter().map(|(height, transaction)| {
                let block_hash = index.headers.hash(height)?;
                let (block_time, median_time) = index.headers.times(height)?;
                Some(ConfirmedSpend {
                    transaction,
                    height,
                    block_hash,
                    block_time,
                    median_time,
                })
            });
            let transactions: Option<Vec<_>> = transactions.collect();
            let mut transactions = transactions.ok_or_else(tip_moved)?;
            ConfirmedSpend::sort(&mut transactions);
            Ok(Spends { tip, transactions })
        })
    }

    fn output(&self, outpoint: OutPoint) -> Result<OutputStatus, ChainError> {
        self.steady(|index, _, deadline| {
            let Some(located) = self.locate(index, outpoint.txid, deadline)? else {
                return Ok(OutputStatus::Unseen);
            };
            let vout = usize::try_from(outpoint.vout).ok();
            let Some(output) = vout.and_then(|vout| located.transaction.output.get(vout)) else {
                return Ok(OutputStatus::Unseen);
            };
            Ok(OutputStatus::Seen {
                output: output.clone(),
                height: located.block.map(|block| block.height),
                spent_by: self.spender(index, outpoint, output, deadline)?,
            })
        })
    }

    fn transaction(&self, txid: Txid) -> Result<TransactionStatus, ChainError> {
        self.steady(|index, _, deadline| {
            let located = self.locate(index, txid, deadline)?;
            Ok(match located.map(|located| located.block) {
                None => TransactionStatus::Unknown,
                Some(None) => TransactionStatus::Mempool,
                Some(Some(Tip { height, hash })) => TransactionStatus::Confirmed {
                    height,
                    block_hash: hash,
                },
            })
        })
    }

    fn raw_transaction(&self, txid: Txid) -> Result<Option<Transaction>, ChainError> {
        self.steady(|index, _, deadline| {
            let located = self.locate(index, txid, deadline)?;
            Ok(located.map(|located| located.transaction))
        })
    }

    fn fee_rate(&self, blocks: u16) -> Result<Option<u64>, ChainError> {
        let target = blocks.clamp(1, MAX_FEE_TARGET);
        let estimate: FeeEstimate = self.client.call("estimatesmartfee", &json!([target]))?;
        let rate = match estimate.feerate {
            Some(rate) => rate,
            None if !estimate.errors.is_empty() => return Ok(None),
            None => {
                return Err(ChainError::garbage(
                    "got neither a fee rate nor a reason for none",
                ));
            }
        };
        let per_kvb = Amount::from_btc(rate).map_err(|error| {
            ChainError::garbage(format_args!("got a fee rate of {rate} BTC/kvB: {error}"))
        })?;
        checked_fee_rate(per_kvb.to_sat().div_ceil(1_000)).map(Some)
    }

    fn broadcast(&self, transaction: &Transaction) -> Result<(), BroadcastError> {
        let txid = transaction.compute_txid();
        let sent = self
            .client
            .call("sendrawtransaction", &json!([serialize_hex(transaction)]));
        let (code, message) = match sent {
            Ok(got) if txid == got => return Ok(()),
            Ok(got) => {
                return Err(BroadcastError::unavailable(format_args!(
                    "got transaction id {got} in return, expected {txid}"
                )));
            }
            Err(CallError::Node { code, message }) => (code, message),
            Err(CallError::Source(error)) => return Err(BroadcastError::unavailable(error)),
        };
        match code {
            code::IN_CHAIN => Ok(()),
            // So it is, too, when it is in a block and all its outputs are spent.
            code::VERIFY_ERROR if message.as_str().contains("missingorspent") => {
                match self.transaction(txid) {
                    Ok(TransactionStatus::Unknown) => Err(BroadcastError::refused(message)),
                    Ok(TransactionStatus::Mempool | TransactionStatus::Confirmed { .. }) => Ok(()),
                    Err(error) => Err(BroadcastError::unavailable(error)),
                }
            }
            code::VERIFY_ERROR | code::VERIFY_REJECTED | code::UNREADABLE => {
                Err(BroadcastError::refused(message))
            }
            code => Err(BroadcastError::unavailable(ChainError::from(
                CallError::Node { code, message },
            ))),
        }
    }
}
