//! `POST /regtest/...`: what only a private chain can do. Answers and errors are JSON.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::post;
use axum::{Json, Router};
use beacon_chain::Chain as _;
use beacon_embedded::EmbeddedChain;
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, Amount, Network};
use serde_json::{Value, json};

use crate::reply::{Failure, with_chain};

type Chain = State<Arc<EmbeddedChain>>;
type Parameters = Query<HashMap<String, String>>;

pub(crate) fn routes() -> Router<Arc<EmbeddedChain>> {
    Router::new()
        .route("/regtest/mine", post(mine))
        .route("/regtest/fund", post(fund))
        .route("/regtest/reorg", post(reorg))
}

/// `?blocks=N`, 1 if absent; `&address=A` pays the rewards there instead of to the miner.
async fn mine(State(chain): Chain, Query(parameters): Parameters) -> Result<Json<Value>, Failure> {
    let run = async {
        let blocks = match parameters.get("blocks") {
            Some(_) => number(&parameters, "blocks")?,
            None => 1,
        };
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let reward = match parameters.get("address") {
            Some(_) => Some(address(&parameters)?),
            None => None,
        };
        with_chain(chain, move |chain| {
            let hashes = match reward {
                Some(address) => chain.mine_to(blocks, &address)?,
                None => chain.mine(blocks)?,
            };
            let tip = chain.tip()?;
            Ok(Json(
                json!({"blocks": hashes, "height": tip.height, "hash": tip.hash}),
            ))
        })
        .await
    };
    run.await.map_err(Failure::into_json)
}

/// `?address=A&sats=N`. The payment waits in the mempool.
async fn fund(State(chain): Chain, Query(parameters): Parameters) -> Result<Json<Value>, Failure> {
    let run = async {
        let address = address(&parameters)?;
        let sats = number(&parameters, "sats")?;
        with_chain(chain, move |chain| {
            let outpoint = chain.fund(&address, Amount::from_sat(sats))?;
            Ok(Json(json!({
                "txid": outpoint.txid,
                "vout": outpoint.vout,
                "sats": sats,
                "address": address.to_string(),
            })))
        })
        .await
    };
    run.await.map_err(Failure::into_json)
}

/// `?depth=N`, 1 if absent.
async fn reorg(State(chain): Chain, Query(parameters): Parameters) -> Result<Json<Value>, Failure> {
    let run = async {
        let depth = match parameters.get("depth") {
            Some(_) => number(&parameters, "depth")?,
            None => 1,
        };
        let depth = u32::try_from(depth).unwrap_or(u32::MAX);
        with_chain(chain, move |chain| {
            let tip = chain.reorg(depth)?;
            Ok(Json(
                json!({"replaced": depth, "height": tip.height, "hash": tip.hash}),
            ))
        })
        .await
    };
    run.await.map_err(Failure::into_json)
}

fn text<'a>(parameters: &'a HashMap<String, String>, name: &str) -> Result<&'a str, Failure> {
    let missing = || Failure::bad_request(format!("parameter {name} is missing"));
    parameters.get(name).map(String::as_str).ok_or_else(missing)
}

fn number(parameters: &HashMap<String, String>, name: &str) -> Result<u64, Failure> {
    let got = text(parameters, name)?;
    got.parse().map_err(|_| {
        Failure::bad_request(format!("got {got:?} for {name}, expected a whole number"))
    })
}

fn address(parameters: &HashMap<String, String>) -> Result<Address, Failure> {
    let got = text(parameters, "address")?;
    Address::<NetworkUnchecked>::from_str(got)
        .map_err(|error| error.to_string())
        .and_then(|address| {
            let checked = address.require_network(Network::Regtest);
            checked.map_err(|error| error.to_string())
        })
        .map_err(|error| {
            Failure::bad_request(format!(
                "got {got:?} for address, expected a regtest address (bcrt1...): {error}"
            ))
        })
}
