//! The control methods `did.…`. JSON whose hash matters crosses the control socket as text: parsers of JSON differ in what
//! they make of numbers.

use std::collections::BTreeSet;

use beacon_btcr2::beacon::BeaconType;
use beacon_btcr2::json::{self, Limits};
use beacon_btcr2::{Did, Document, Network, Patch, Sidecar, proof};
use beacon_cohort::participant::{Command, Participant};
use beacon_signal::UpdateId;
use bitcoin::secp256k1::PublicKey;
use serde::Deserialize;
use serde_json::{Value, json};

use super::announce;
use super::cohorts::{
    announces, beacon, beacon_in, may_be_added, missing, not_announced, not_set, registered,
    service,
};
use super::{
    Change, DidKey, Dids, Found, Origin, OwnDid, RecordError, Signed, contest, update_methods,
};
use crate::agent::Call;
use crate::control::RpcError;
use crate::params::read;
use crate::participant::{Named, standing};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyParams {
    network: Option<String>,
    index: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    network: Option<String>,
    /// Of a new key: the next one without it.
    index: Option<u32>,
    /// 66 hex digits.
    public_key: Option<String>,
    /// JSON text.
    genesis_document: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DidParam {
    did: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InCohort {
    #[serde(flatten)]
    named: Named,
    did: String,
}

/// What becomes of the newest document.
#[derive(Deserialize)]
pub(super) struct ChangeParams {
    did: String,
    /// The newest document: JSON text.
    document: String,
    /// The version that the update leads to.
    version: u64,
    /// JSON text.
    patch: String,
    method: Option<String>,
}

#[derive(Deserialize)]
struct RequestParams {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    change: ChangeParams,
}

/// Answers a method, or turns it into a command. Records are on the disk before a command is given.
pub(crate) fn call(
    dids: &Dids,
    machine: &Participant,
    method: &str,
    params: Value,
) -> Result<Call<Command>, RpcError> {
    let answer = match method {
        "did.key" => {
            let KeyParams { network, index } = read(params)?;
            let key = dids.new_key(network_of(dids, network.as_deref())?, index);
            key.map_err(RpcError::failed)?.to_value()
        }
        "did.create" => create(dids, machine, read(params)?)?,
        "did.list" => list(dids, machine)?,
        "did.show" => show(dids, machine, &parse_did(&read::<DidParam>(params)?.did)?)?,
        "did.sidecar" => sidecar(dids, machine, &parse_did(&read::<DidParam>(params)?.did)?)?,
        "did.beacon" => {
            let InCohort { named, did } = read(params)?;
            service(named.find(machine)?, &parse_did(&did)?)?
        }
        "did.sign_update" => sign_update(dids, machine, &change(read(params)?)?)?.1,
        "did.contest" => return contest::claim(dids, machine, read(params)?),
        "did.beacons" => announce::beacons(dids, machine, &read(params)?)?,
        "did.announce" => return announce::announce(dids, machine, read(params)?),
        "did.request_update" => return request_update(dids, machine, read(params)?),
        other => return Err(RpcError::method_not_found(other)),
    };
    Ok(Call::Answer(answer))
}

/// The keys of ours that documents may have, for `keys list`.
pub(crate) fn keys(dids: &Dids) -> Result<Vec<Value>, RpcError> {
    let listed = |key: DidKey, purpose: String| {
        let path = key.path.map(|path| path.to_string())?;
        Some(json!({ "path": path, "purpose": purpose, "public_key": key.public_key.to_string() }))
    };
    let mut keys = Vec::new();
    for did in dids.records().dids().map_err(RpcError::failed)?.records {
        // What is wrong with a record, `did list` says.
        if let Ok(Origin::Key(key)) = dids.records().origin(&did) {
            keys.extend(listed(key, format!("key of {did}")));
        }
    }
    for key in dids.records().keys().map_err(RpcError::failed)?.records {
        keys.extend(listed(key, "key for DID documents".to_owned()));
    }
    Ok(keys)
}

fn create(dids: &Dids, machine: &Participant, params: CreateParams) -> Result<Value, RpcError> {
    let CreateParams {
        network,
        index,
        public_key,
        genesis_document,
    } = params;
    let network = network_of(dids, network.as_deref())?;
    let made = match (public_key, genesis_document, index) {
        (None, None, index) => dids.create(network, index),
        (Some(key), None, None) => {
            let key = parse_key(&key)?;
            dids.create_from_key(network, key)
        }
        (None, Some(text), None) => {
            let genesis = json::parse(text.as_bytes(), &Limits::DOCUMENT);
            let genesis = genesis.map_err(RpcError::invalid_params)?;
            dids.create_from_genesis(network, genesis)
        }
        _ => {
            return Err(RpcError::invalid_params(
                "got several sources of a DID, expected one of public_key, genesis_document and index",
            ));
        }
    };
    let made = made.map_err(RpcError::failed)?;
    let mut answer = about(&made);
    answer["document"] = json::canonical(made.document.value()).into();
    warn(&mut answer, &made.document);
    let cohorts = machine.state().cohorts.values();
    let shared: Vec<_> = cohorts
        .filter(|cohort| beacon_in(cohort, &made.document))
        .map(|cohort| cohort.id)
        .collect();
    if !shared.is_empty() {
        answer["next"] = json!(
            "its document has the beacon of a cohort: register the DID there (`join`), which brings the proofs of earlier signals; without them it does not resolve"
        );
        answer["beacon_of"] = json!(shared);
    }
    Ok(answer)
}

fn list(dids: &Dids, machine: &Participant) -> Result<Value, RpcError> {
    let Found { records, problems } = dids.records().dids().map_err(RpcError::failed)?;
    let mut problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let mut all = Vec::new();
    for did in records {
        let own = dids
            .get(&did)
            .and_then(|own| Ok((own, dids.records().count_updates(&did)?)));
        match own {
            Ok((own, updates)) => {
                let mut entry = about(&own);
                entry["updates"] = updates.into();
                let cohorts = registered(machine, &did).map(|cohort| cohort.id);
                entry["cohorts"] = json!(cohorts.collect::<Vec<_>>());
                all.push(entry);
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    let keys = dids.records().keys().map_err(RpcError::failed)?;
    problems.extend(keys.problems.iter().map(ToString::to_string));
    Ok(json!({ "dids": all, "problems": problems }))
}

fn show(dids: &Dids, machine: &Participant, did: &Did) -> Result<Value, RpcError> {
    let own = dids.get(did).map_err(RpcError::failed)?;
    let Found { records, problems } = dids.records().updates(did).map_err(RpcError::failed)?;
    let signals_of = |id: UpdateId| -> Vec<Value> {
        let signals = registered(machine, did).flat_map(|cohort| {
            let candidates = cohort.candidates.iter();
            candidates.map(move |candidate| (cohort, candidate))
        });
        signals
            .filter(|(_, candidate)| announces(candidate, did, id))
            .map(|(cohort, candidate)| {
                json!({
                    "cohort_id": cohort.id,
                    "txid": candidate.txid,
                    "status": standing(candidate.standing),
                })
            })
            .chain(announce::announcing(machine, did, id))
            .collect()
    };
    let updates: Vec<_> = records
        .iter()
        .map(|update| {
            json!({
                "version": update.target_version(),
                "update_id": update.id().to_hex(),
                "patch": update.unsigned().patch().value(),
                "announced": signals_of(update.id().into()),
            })
        })
        .collect();
    let cohorts: Vec<_> = registered(machine, did)
        .map(|cohort| {
            json!({
                "cohort_id": cohort.id,
                "stage": cohort.stage.name(),
                "proofs_missing": missing(cohort, did),
            })
        })
        .collect();
    let mut answer = about(&own);
    answer["first_document"] = json::canonical(own.document.value()).into();
    answer["updates"] = updates.into();
    answer["cohorts"] = cohorts.into();
    answer["problems"] = texts(&problems);
    Ok(answer)
}

/// The specification's sidecar data, of all that may ever be asked for: proofs of signals that never got into a block, and
/// updates that nobody announced, are passed over by resolvers.
pub(super) fn sidecar(dids: &Dids, machine: &Participant, did: &Did) -> Result<Value, RpcError> {
    let own = dids.get(did).map_err(RpcError::failed)?;
    let updates = dids.records().updates(did).map_err(RpcError::failed)?;
    let mut sidecar = Sidecar {
        genesis_document: match own.origin {
            Origin::Genesis(genesis) => Some(genesis),
            Origin::Key(_) => None,
        },
        ..Sidecar::default()
    };
    let known = updates.records.iter();
    sidecar.updates = known.map(|update| update.value().clone()).collect();
    let index = did.index();
    let mut incomplete = Vec::new();
    let mut seen = BTreeSet::new();
    for cohort in registered(machine, did) {
        for candidate in &cohort.candidates {
            if let Some(map) = &candidate.map {
                let map = serde_json::to_value(map).map_err(RpcError::failed)?;
                if seen.insert(map.to_string()) {
                    sidecar.cas_updates.push(map);
                }
            }
            let proof = candidate.proofs.get(&index).map(serde_json::to_value);
            let Some(proof) = proof.transpose().map_err(RpcError::failed)? else {
                continue;
            };
            if seen.insert(proof.to_string()) {
                sidecar.smt_proofs.push(proof);
            }
        }
        incomplete.extend(
            missing(cohort, did)
                .into_iter()
                .map(|txid| json!({ "cohort_id": cohort.id, "txid": txid })),
        );
    }
    Ok(json!({
        "did": did,
        "sidecar": sidecar.to_value().to_string(),
        "proofs_missing": incomplete,
        "problems": texts(&updates.problems),
    }))
}

/// Reads a document of a DID.
pub(super) fn document(did: &Did, text: &str) -> Result<Document, RpcError> {
    let value = json::parse(text.as_bytes(), &Limits::DOCUMENT);
    let value = value.map_err(|error| in_member("document", error))?;
    Document::new(did, value).map_err(|error| in_member("document", error))
}

/// Reads what is to become of a document.
pub(super) fn change(params: ChangeParams) -> Result<Change, RpcError> {
    let did = parse_did(&params.did)?;
    let source = document(&did, &params.document)?;
    let patch = json::parse(params.patch.as_bytes(), &Limits::UPDATE);
    let patch = patch.map_err(|error| in_member("patch", error))?;
    let patch = Patch::from_value(patch).map_err(|error| in_member("patch", error))?;
    if patch.value().as_array().is_some_and(Vec::is_empty) {
        let fault = "got no operation, expected one at least: an update that changes nothing would use up a version";
        return Err(in_member("patch", fault));
    }
    Ok(Change {
        source,
        version: params.version,
        patch,
        method: params.method,
    })
}

/// Signs an update and keeps it.
pub(super) fn sign_update(
    dids: &Dids,
    machine: &Participant,
    change: &Change,
) -> Result<(Signed, Value), RpcError> {
    let (unsigned, target) = change.construct().map_err(RpcError::failed)?;
    let did = change.source.did();
    for cohort in machine.state().cohorts.values() {
        if beacon_in(cohort, &target) && !beacon_in(cohort, &change.source) {
            may_be_added(dids, cohort, did)?;
        }
    }
    not_announced(dids, machine, did, &unsigned)?;
    let signed = dids.sign_update(change).map_err(RpcError::failed)?;
    let mut answer = json!({
        "did": did,
        "version": signed.update.target_version(),
        "update_id": signed.update.id().to_hex(),
        "file": signed.file,
    });
    warn(&mut answer, &signed.target);
    Ok((signed, answer))
}

/// Signs an update, and has it announced once it is on the disk.
fn request_update(
    dids: &Dids,
    machine: &Participant,
    params: RequestParams,
) -> Result<Call<Command>, RpcError> {
    let cohort = params.named.find(machine)?;
    let change = change(params.change)?;
    let did = change.source.did();
    let (_, address) = beacon(cohort).ok_or_else(|| not_set(cohort))?;
    if !cohort.dids.contains_key(&did.index()) {
        return Err(RpcError::failed(format!(
            "{did} is not registered in cohort {}: `join` registers it",
            cohort.id
        )));
    }
    if !beacon_in(cohort, &change.source) {
        return Err(RpcError::failed(format!(
            "the newest document of {did} has no beacon at {address}, so nobody would find an update that cohort {} announces: `did add-beacon` adds it",
            cohort.id
        )));
    }
    let (signed, mut answer) = sign_update(dids, machine, &change)?;
    answer["cohort_id"] = json!(cohort.id);
    let command = Command::RequestUpdate {
        cohort: cohort.handle,
        did: did.to_string(),
        update: signed.update.id().into(),
        version: Some(signed.update.target_version()),
    };
    Ok(Call::Command(command, answer))
}

/// What a DID is, in short.
fn about(own: &OwnDid) -> Value {
    let beacons = own.document.beacons().iter();
    let beacons: Vec<_> = beacons.map(beacon_btcr2::beacon::Beacon::service).collect();
    let mut value = json!({
        "did": own.did,
        "network": own.did.network().to_string(),
        "beacons": beacons,
    });
    match &own.origin {
        Origin::Key(key) => {
            value["key"] = key.to_value();
            if key.path.is_none() {
                value["key"]["note"] = json!(
                    "not below this agent's seed as far as its records say: updates are signed where the key is"
                );
            }
        }
        Origin::Genesis(genesis) => value["genesis_hash"] = json::hash(genesis).to_hex().into(),
    }
    value
}

/// With n-of-n, one lost key silences an aggregate beacon for ever.
fn warn(answer: &mut Value, document: &Document) {
    let mut beacons = document.beacons().iter();
    let single = beacons.any(|beacon| beacon.kind == BeaconType::Singleton);
    if document.is_deactivated() {
        return;
    }
    if update_methods(document).is_empty() {
        answer["warning"] =
            json!("the document has no key at capabilityInvocation: it can never be updated");
    } else if !single {
        answer["warning"] = json!(
            "the document has no singleton beacon: if its cohort stops signing, it can never be updated again"
        );
    }
}

fn texts(problems: &[RecordError]) -> Value {
    problems.iter().map(ToString::to_string).collect()
}

pub(super) fn parse_did(text: &str) -> Result<Did, RpcError> {
    text.parse().map_err(RpcError::invalid_params)
}

fn parse_key(text: &str) -> Result<PublicKey, RpcError> {
    let key = text.parse().ok().filter(|_| text.len() == 66);
    key.or_else(|| proof::parse_multikey(text).ok())
        .ok_or_else(|| {
            RpcError::invalid_params(format!(
                "got the public key {text:.140?}, expected a compressed secp256k1 key of 66 hex digits, or a publicKeyMultibase"
            ))
        })
}

fn network_of(dids: &Dids, name: Option<&str>) -> Result<Network, RpcError> {
    let network = name.map(str::parse).transpose();
    let network = network.map_err(RpcError::invalid_params)?;
    Ok(network.unwrap_or_else(|| dids.network()))
}

pub(super) fn in_member(member: &str, fault: impl std::fmt::Display) -> RpcError {
    RpcError::invalid_params(format!("{member}: {fault}"))
}
