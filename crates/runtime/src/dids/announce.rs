//! The control methods with which a DID's own singleton beacon announces an update.

use beacon_btcr2::{Did, Document};
use beacon_cohort::participant::{Command, Participant, SingletonSignal};
use beacon_signal::{Index, UpdateId};
use bitcoin::{Amount, OutPoint, TxOut};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Dids;
use super::calls::{ChangeParams, change, document, parse_did, sign_update};
use super::singleton::{Draft, OwnBeacon};
use crate::agent::Call;
use crate::control::RpcError;
use crate::participant::standing;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BeaconsParams {
    did: String,
    /// The newest document: JSON text.
    document: String,
}

#[derive(Deserialize)]
pub(super) struct AnnounceParams {
    #[serde(flatten)]
    change: ChangeParams,
    /// Id of the beacon in the newest document.
    beacon: String,
    inputs: Vec<Input>,
    /// sat/vB.
    fee_rate: u64,
    /// sat.
    max_fee: u64,
}

/// An output of the beacon's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    outpoint: OutPoint,
    value_sat: u64,
}

/// The singleton beacons that can announce, and what does so already.
pub(super) fn beacons(
    dids: &Dids,
    machine: &Participant,
    params: &BeaconsParams,
) -> Result<Value, RpcError> {
    let did = parse_did(&params.did)?;
    let source = document(&did, &params.document)?;
    let own = own_beacons(dids, &source)?;
    let beacons: Vec<_> = own
        .iter()
        .map(|own| json!({ "id": own.beacon.id, "address": own.beacon.address.to_string() }))
        .collect();
    let live: Vec<_> = signals(machine, &did)
        .filter(|signal| !signal.standing.is_settled())
        .map(|signal| {
            let inputs = signal.tx.input.iter().map(|input| input.previous_output);
            json!({
                "txid": signal.txid,
                "version": machine.state().versions.get(&signal.update),
                "inputs": inputs.collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(json!({ "did": did, "beacons": beacons, "live": live }))
}

/// Signs an update, and the transaction that announces it once that is on the disk.
pub(super) fn announce(
    dids: &Dids,
    machine: &Participant,
    params: AnnounceParams,
) -> Result<Call<Command>, RpcError> {
    let AnnounceParams {
        change: params,
        beacon,
        inputs,
        fee_rate,
        max_fee,
    } = params;
    let change = change(params)?;
    let did = change.source.did();
    let own = own_beacons(dids, &change.source)?;
    let own = own
        .iter()
        .find(|own| own.beacon.id == did.absolute(&beacon));
    let own = own.ok_or_else(|| {
        RpcError::invalid_params(format!(
            "got the beacon {beacon:.200}, expected a singleton beacon of {did} whose key is here: `did.beacons` lists them"
        ))
    })?;
    let script = own.beacon.script();
    let spent = inputs.into_iter().map(|input| {
        let output = TxOut {
            value: Amount::from_sat(input.value_sat),
            script_pubkey: script.clone(),
        };
        (input.outpoint, output)
    });
    // Before anything is signed or kept.
    let draft =
        Draft::new(spent.collect(), &script, fee_rate, max_fee).map_err(RpcError::failed)?;
    let (signed, mut answer) = sign_update(dids, machine, &change)?;
    let id = signed.update.id();
    let tx = dids
        .sign_singleton(own, &draft, id.0)
        .map_err(RpcError::failed)?;
    answer["beacon"] = json!(own.beacon.id);
    answer["txid"] = json!(tx.compute_txid());
    answer["fee_sat"] = json!(draft.fee_sat(&tx));
    answer["vsize"] = json!(tx.vsize());
    let command = Command::AnnounceSingleton {
        did: did.to_string(),
        update: id.into(),
        version: signed.update.target_version(),
        tx,
    };
    Ok(Call::Command(command, answer))
}

/// The signals of a DID's singleton beacons that are remembered.
pub(super) fn signals<'a>(
    machine: &'a Participant,
    did: &Did,
) -> impl Iterator<Item = &'a SingletonSignal> + use<'a> {
    let index = did.index();
    let all = machine.state().singletons.iter();
    all.filter(move |signal| Index::of_did(&signal.did) == index)
}

/// The signals that announce this update, as users see them.
pub(super) fn announcing(machine: &Participant, did: &Did, update: UpdateId) -> Vec<Value> {
    let announcing = signals(machine, did).filter(|signal| signal.update == update);
    let shown = announcing.map(|signal| {
        let mut value = json!({ "txid": signal.txid, "status": standing(signal.standing) });
        if let Some(reason) = &signal.refusal {
            value["refused"] = json!(reason);
        }
        if let Some(other) = signal.conflict {
            value["conflicts_with"] = json!(other);
        }
        value
    });
    shown.collect()
}

fn own_beacons(dids: &Dids, source: &Document) -> Result<Vec<OwnBeacon>, RpcError> {
    let own = dids.own_beacons(source).map_err(RpcError::failed)?;
    if own.is_empty() {
        return Err(RpcError::failed(format!(
            "the newest document of {} has no singleton beacon whose key is below this agent's seed, so none can announce here: `--through COHORT` has a cohort do it",
            source.did()
        )));
    }
    Ok(own)
}
