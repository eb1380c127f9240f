//! Esplora's paths, with its JSON shapes, statuses and error texts.
//!
//! <https://github.com/Blockstream/esplora/blob/master/API.md>. As there, `/tx/:txid/status` and
//! `/outspend/:vout` answer "unconfirmed" and "unspent" for transactions that nobody knows.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use beacon_chain::{BroadcastError, Chain as _};
use beacon_embedded::{EmbeddedChain, TransactionDetails};
use bitcoin::address::{NetworkUnchecked, ParseError};
use bitcoin::consensus::encode::{deserialize, serialize, serialize_hex};
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::hex::FromHex as _;
use bitcoin::{Address, BlockHash, Network, OutPoint, Transaction, Txid};
use serde_json::json;

use crate::reply::{Failure, with_chain};
use crate::shapes::{
    BlockShape, BlockStatusShape, MempoolShape, SpendShape, StatsShape, StatusShape,
    TransactionShape, UtxoShape,
};

/// Waiting transactions in one page of a history.
const MEMPOOL_PAGE: usize = 50;
/// Confirmed transactions in one page of a history.
const CHAIN_PAGE: usize = 25;
/// Fee estimate of a chain whose blocks are never full, in sat/vB.
const FEE_ESTIMATE: f64 = 1.0;

type Chain = State<Arc<EmbeddedChain>>;
type ParseScript = fn(&str) -> Result<sha256::Hash, Failure>;

pub(crate) fn routes() -> Router<Arc<EmbeddedChain>> {
    Router::new()
        .route("/blocks/tip/height", get(tip_height))
        .route("/blocks/tip/hash", get(tip_hash))
        .route("/block-height/{height}", get(hash_at_height))
        .route("/block/{hash}", get(block))
        .route("/block/{hash}/header", get(block_header))
        .route("/block/{hash}/status", get(block_status))
        .route("/block/{hash}/raw", get(block_raw))
        .route("/block/{hash}/txids", get(block_txids))
        .route("/tx", post(broadcast))
        .route("/tx/{txid}", get(transaction))
        .route("/tx/{txid}/raw", get(transaction_raw))
        .route("/tx/{txid}/hex", get(transaction_hex))
        .route("/tx/{txid}/status", get(transaction_status))
        .route("/tx/{txid}/outspend/{vout}", get(outspend))
        .route("/tx/{txid}/outspends", get(outspends))
        .merge(script_routes("address", hash_of_address))
        .merge(script_routes("scripthash", hash_of_hex))
        .route("/fee-estimates", get(fee_estimates))
        .route("/mempool", get(mempool))
        .route("/mempool/txids", get(mempool_txids))
}

async fn tip_height(State(chain): Chain) -> Result<String, Failure> {
    with_chain(chain, |chain| Ok(chain.tip()?.height.to_string())).await
}

async fn tip_hash(State(chain): Chain) -> Result<String, Failure> {
    with_chain(chain, |chain| Ok(chain.tip()?.hash.to_string())).await
}

async fn hash_at_height(
    State(chain): Chain,
    Path(height): Path<String>,
) -> Result<String, Failure> {
    let height = number(&height)?;
    with_chain(chain, move |chain| {
        let hash = chain.block_hash(height)?;
        Ok(hash.ok_or_else(no_block)?.to_string())
    })
    .await
}

async fn block(State(chain): Chain, Path(hash): Path<String>) -> Result<Json<BlockShape>, Failure> {
    let hash: BlockHash = hex(&hash)?;
    with_chain(chain, move |chain| {
        let view = chain.block(hash)?.ok_or_else(no_block)?;
        Ok(Json(view.into()))
    })
    .await
}

async fn block_header(State(chain): Chain, Path(hash): Path<String>) -> Result<String, Failure> {
    let hash: BlockHash = hex(&hash)?;
    with_chain(chain, move |chain| {
        let view = chain.block(hash)?.ok_or_else(no_block)?;
        Ok(serialize_hex(&view.block.header))
    })
    .await
}

/// Blocks that nobody knows are not in the best chain either.
async fn block_status(
    State(chain): Chain,
    Path(hash): Path<String>,
) -> Result<Json<BlockStatusShape>, Failure> {
    let hash: BlockHash = hex(&hash)?;
    with_chain(chain, move |chain| {
        let best = chain.block(hash)?.filter(|view| view.in_best_chain);
        Ok(Json(BlockStatusShape {
            in_best_chain: best.is_some(),
            height: best.as_ref().map(|view| view.height),
            next_best: best.and_then(|view| view.next_best),
        }))
    })
    .await
}

async fn block_raw(
    State(chain): Chain,
    Path(hash): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let hash: BlockHash = hex(&hash)?;
    with_chain(chain, move |chain| {
        let view = chain.block(hash)?.ok_or_else(no_block)?;
        Ok(binary(serialize(&view.block)))
    })
    .await
}

async fn block_txids(
    State(chain): Chain,
    Path(hash): Path<String>,
) -> Result<Json<Vec<Txid>>, Failure> {
    let hash: BlockHash = hex(&hash)?;
    with_chain(chain, move |chain| {
        let view = chain.block(hash)?.ok_or_else(no_block)?;
        let txids = view.block.txdata.iter().map(Transaction::compute_txid);
        Ok(Json(txids.collect()))
    })
    .await
}

/// The body is the transaction in hex, the answer its id, also when it is known already.
async fn broadcast(State(chain): Chain, body: String) -> Result<String, Failure> {
    let undecodable = || rpc_error(-22, "TX decode failed");
    let bytes = Vec::<u8>::from_hex(body.trim()).map_err(|_| undecodable())?;
    let transaction: Transaction = deserialize(&bytes).map_err(|_| undecodable())?;
    with_chain(chain, move |chain| match chain.broadcast(&transaction) {
        Ok(()) => Ok(transaction.compute_txid().to_string()),
        Err(BroadcastError::Refused { reason }) => {
            let missing = reason
                .as_str()
                .starts_with("bad-txns-inputs-missingorspent");
            Err(rpc_error(if missing { -25 } else { -26 }, reason.as_str()))
        }
        Err(BroadcastError::Unavailable { reason }) => Err(Failure::unavailable(reason.as_str())),
    })
    .await
}

async fn transaction(
    State(chain): Chain,
    Path(txid): Path<String>,
) -> Result<Json<TransactionShape>, Failure> {
    let txid: Txid = hex(&txid)?;
    with_chain(chain, move |chain| {
        let details = chain.details(txid)?.ok_or_else(no_transaction)?;
        Ok(Json(details.into()))
    })
    .await
}

async fn transaction_raw(
    State(chain): Chain,
    Path(txid): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let txid: Txid = hex(&txid)?;
    with_chain(chain, move |chain| {
        let raw = chain.raw_transaction(txid)?.ok_or_else(no_transaction)?;
        Ok(binary(serialize(&raw)))
    })
    .await
}

async fn transaction_hex(State(chain): Chain, Path(txid): Path<String>) -> Result<String, Failure> {
    let txid: Txid = hex(&txid)?;
    with_chain(chain, move |chain| {
        let raw = chain.raw_transaction(txid)?.ok_or_else(no_transaction)?;
        Ok(serialize_hex(&raw))
    })
    .await
}

async fn transaction_status(
    State(chain): Chain,
    Path(txid): Path<String>,
) -> Result<Json<StatusShape>, Failure> {
    let txid: Txid = hex(&txid)?;
    with_chain(chain, move |chain| {
        let confirmed = chain.details(txid)?.and_then(|details| details.confirmed);
        Ok(Json(confirmed.into()))
    })
    .await
}

async fn outspend(
    State(chain): Chain,
    Path((txid, vout)): Path<(String, String)>,
) -> Result<Json<SpendShape>, Failure> {
    let outpoint = OutPoint::new(hex(&txid)?, number(&vout)?);
    with_chain(chain, move |chain| Ok(Json(chain.spend(outpoint)?.into()))).await
}

async fn outspends(
    State(chain): Chain,
    Path(txid): Path<String>,
) -> Result<Json<Vec<SpendShape>>, Failure> {
    let txid: Txid = hex(&txid)?;
    with_chain(chain, move |chain| {
        let spends = chain.outspends(txid)?.ok_or_else(no_transaction)?;
        Ok(Json(spends.into_iter().map(SpendShape::from).collect()))
    })
    .await
}

/// The look-ups of a script, which is named by `/{kind}/...` and read by `parse`.
fn script_routes(kind: &'static str, parse: ParseScript) -> Router<Arc<EmbeddedChain>> {
    Router::new()
        .route(
            &format!("/{kind}/{{script}}"),
            get(
                move |State(chain): Chain, Path(script): Path<String>| async move {
                    let hash = parse(&script)?;
                    with_chain(chain, move |chain| {
                        let (confirmed, waiting) = chain.stats(hash)?;
                        Ok(Json(json!({
                            kind: script,
                            "chain_stats": StatsShape::from(confirmed),
                            "mempool_stats": StatsShape::from(waiting),
                        })))
                    })
                    .await
                },
            ),
        )
        .route(
            &format!("/{kind}/{{script}}/utxo"),
            get(
                move |State(chain): Chain, Path(script): Path<String>| async move {
                    let hash = parse(&script)?;
                    with_chain(chain, move |chain| {
                        let utxos = chain.utxos(hash)?;
                        Ok(Json(
                            utxos.into_iter().map(UtxoShape::from).collect::<Vec<_>>(),
                        ))
                    })
                    .await
                },
            ),
        )
        .route(
            &format!("/{kind}/{{script}}/txs"),
            get(
                move |State(chain): Chain, Path(script): Path<String>| async move {
                    let hash = parse(&script)?;
                    with_chain(chain, move |chain| {
                        Ok(shown(chain.history(hash, MEMPOOL_PAGE, CHAIN_PAGE)?))
                    })
                    .await
                },
            ),
        )
        .route(
            &format!("/{kind}/{{script}}/txs/chain"),
            get(
                move |State(chain): Chain, Path(script): Path<String>| async move {
                    confirmed_page(chain, parse(&script)?, None).await
                },
            ),
        )
        .route(
            &format!("/{kind}/{{script}}/txs/chain/{{last_seen}}"),
            get(
                move |State(chain): Chain, Path((script, last_seen)): Path<(String, String)>| async move {
                    confirmed_page(chain, parse(&script)?, Some(hex(&last_seen)?)).await
                },
            ),
        )
}

async fn confirmed_page(
    chain: Arc<EmbeddedChain>,
    script: sha256::Hash,
    last_seen: Option<Txid>,
) -> Result<Json<Vec<TransactionShape>>, Failure> {
    with_chain(chain, move |chain| {
        Ok(shown(
            chain.confirmed_history(script, last_seen, CHAIN_PAGE)?,
        ))
    })
    .await
}

fn shown(history: Vec<TransactionDetails>) -> Json<Vec<TransactionShape>> {
    Json(history.into_iter().map(TransactionShape::from).collect())
}

/// Esplora's confirmation targets, in blocks, each with the same estimate.
async fn fee_estimates() -> Json<BTreeMap<u16, f64>> {
    let targets = (1..=25).chain([144, 504, 1008]);
    Json(targets.map(|target| (target, FEE_ESTIMATE)).collect())
}

async fn mempool(State(chain): Chain) -> Result<Json<MempoolShape>, Failure> {
    with_chain(chain, |chain| Ok(Json(chain.mempool()?.into()))).await
}

async fn mempool_txids(State(chain): Chain) -> Result<Json<Vec<Txid>>, Failure> {
    with_chain(chain, |chain| {
        let waiting = chain.mempool()?;
        Ok(Json(waiting.into_iter().map(|entry| entry.txid).collect()))
    })
    .await
}

fn no_block() -> Failure {
    Failure::not_found("Block not found")
}

fn no_transaction() -> Failure {
    Failure::not_found("Transaction not found")
}

/// Bitcoin Core's refusal as Esplora passes it on.
fn rpc_error(code: i32, message: &str) -> Failure {
    let error = json!({"code": code, "message": message});
    Failure::bad_request(format!("sendrawtransaction RPC error: {error}"))
}

fn binary(bytes: Vec<u8>) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes)
}

fn number(text: &str) -> Result<u32, Failure> {
    let invalid = |_| Failure::bad_request("Invalid number");
    text.parse().map_err(invalid)
}

fn hex<T: FromStr>(text: &str) -> Result<T, Failure> {
    let invalid = |_| Failure::bad_request("Invalid hex string");
    text.parse().map_err(invalid)
}

/// The SHA-256 of a script in hex, not reversed.
fn hash_of_hex(text: &str) -> Result<sha256::Hash, Failure> {
    let invalid = |_| Failure::bad_request("Invalid scripthash");
    text.parse().map_err(invalid)
}

/// The SHA-256 of an address' script.
fn hash_of_address(text: &str) -> Result<sha256::Hash, Failure> {
    let address: Address<NetworkUnchecked> = text
        .parse()
        .map_err(|error: ParseError| Failure::bad_request(error.to_string()))?;
    let address = address
        .require_network(Network::Regtest)
        .map_err(|_| Failure::bad_request("Address on invalid network"))?;
    Ok(sha256::Hash::hash(address.script_pubkey().as_bytes()))
}
