//! DIDs in cohorts: where they are registered, which signals are theirs, and when a cohort's beacon may be in a document.

use beacon_btcr2::beacon::{BeaconType, endpoint};
use beacon_btcr2::{Did, Document, UnsignedUpdate};
use beacon_cohort::participant::{Candidate, Membership, Participant, Standing};
use beacon_cohort::terms;
use beacon_signal::UpdateId;
use bitcoin::{Address, Txid};
use serde_json::{Value, json};

use super::{Dids, announce, of_method};
use crate::control::RpcError;

/// The service that puts the cohort's beacon into a document, and what the DID needs before.
pub(super) fn service(cohort: &Membership, did: &Did) -> Result<Value, RpcError> {
    let (kind, address) = beacon(cohort).ok_or_else(|| not_set(cohort))?;
    check_network(cohort, did)?;
    Ok(json!({
        "cohort_id": cohort.id,
        "type": kind.service_type(),
        "serviceEndpoint": endpoint(&address),
        "registered": cohort.dids.contains_key(&did.index()),
        "proofs_missing": missing(cohort, did),
        "unexplained_spends": cohort.unexplained().count(),
    }))
}

/// Refuses a second update to a version, or one to an older version, once a signal that was signed here announces one: of
/// two, resolvers take neither. The machine refuses it as long as the first is not buried; a resolution that asks for more
/// confirmations than the cohort does would not have seen it.
pub(super) fn not_announced(
    dids: &Dids,
    machine: &Participant,
    did: &Did,
    wanted: &UnsignedUpdate,
) -> Result<(), RpcError> {
    let known = dids.records().updates(did).map_err(RpcError::failed)?;
    let later = known.records.iter().filter(|update| {
        update.target_version() >= wanted.target_version()
            && update.unsigned().hash() != wanted.hash()
    });
    for update in later {
        let id = update.id().into();
        let signals = registered(machine, did).flat_map(|cohort| &cohort.candidates);
        let signals = signals.filter(|signed| announces(signed, did, id));
        let signals = signals.map(|signed| (signed.txid, signed.standing));
        let alone = announce::signals(machine, did).filter(|signal| signal.update == id);
        let mut all = signals.chain(alone.map(|signal| (signal.txid, signal.standing)));
        if let Some((txid, _)) = all.find(|(_, standing)| *standing != Standing::Superseded) {
            return Err(RpcError::failed(format!(
                "signal {txid} announces update {} to version {} of {did} already, expected a later version: try again when that signal is confirmed",
                update.id().to_hex(),
                update.target_version()
            )));
        }
    }
    Ok(())
}

/// A cohort's beacon in a document brings all signals of its past with it: each of them needs its proof for the DID.
pub(super) fn may_be_added(dids: &Dids, cohort: &Membership, did: &Did) -> Result<(), RpcError> {
    let id = cohort.id;
    check_network(cohort, did)?;
    if !cohort.dids.contains_key(&did.index()) {
        return Err(RpcError::failed(format!(
            "{did} is not registered in cohort {id}: `join` registers it; before that, its beacon must not be in the document"
        )));
    }
    let missing = missing(cohort, did);
    if let Some(first) = missing.first() {
        return Err(RpcError::failed(format!(
            "{} signals of cohort {id} have no complete proof for {did} here, such as {first}: `proof fetch {id}` asks for them; with the beacon and without them, the DID would not resolve",
            missing.len()
        )));
    }
    let known = dids.records().updates(did).map_err(RpcError::failed)?;
    let unknown = |signed: &Candidate| {
        let mut updates = signed.updates();
        let is_known = |id| {
            known
                .records
                .iter()
                .any(|update| UpdateId::from(update.id()) == id)
        };
        updates.find(|(index, id)| *index == did.index() && !is_known(*id))
    };
    let possible = cohort.candidates.iter();
    let mut possible = possible.filter(|signed| signed.standing != Standing::Superseded);
    if let Some((signed, (_, id))) = possible.find_map(|signed| Some((signed, unknown(signed)?))) {
        return Err(RpcError::failed(format!(
            "signal {} of cohort {} announces update {id} of {did}, which has no record here; with the beacon and without that update, the DID would not resolve",
            signed.txid, cohort.id
        )));
    }
    let unexplained = cohort.unexplained().count();
    if unexplained > 0 {
        return Err(RpcError::failed(format!(
            "{unexplained} spends of cohort {id} have no record here, so their proofs are not known: see `rollback show`"
        )));
    }
    Ok(())
}

/// Signals of a cohort that may be mined or are, and whose proof for the DID is not here or not complete.
pub(super) fn missing(cohort: &Membership, did: &Did) -> Vec<Txid> {
    let index = did.index();
    let signals = cohort.candidates.iter();
    signals
        .filter(|signed| signed.standing != Standing::Superseded)
        .filter(|signed| !signed.is_proven(&index))
        .map(|signed| signed.txid)
        .collect()
}

/// The cohorts in which a DID is registered.
pub(super) fn registered<'a>(
    machine: &'a Participant,
    did: &Did,
) -> impl Iterator<Item = &'a Membership> + use<'a> {
    let index = did.index();
    let cohorts = machine.state().cohorts.values();
    cohorts.filter(move |cohort| cohort.dids.contains_key(&index))
}

pub(super) fn announces(candidate: &Candidate, did: &Did, id: UpdateId) -> bool {
    let mut updates = candidate.updates();
    updates.any(|(index, update)| index == did.index() && update == id)
}

/// A cohort's beacon as it stands in documents; `None` before it is agreed to.
pub(super) fn beacon(cohort: &Membership) -> Option<(BeaconType, Address)> {
    let script = cohort.beacon.as_ref()?.script();
    let address = Address::from_script(script, cohort.terms.btc_network.bitcoin()).ok()?;
    let kind = match cohort.terms.beacon_type {
        terms::BeaconType::Smt => BeaconType::Smt,
        terms::BeaconType::Cas => BeaconType::Cas,
    };
    Some((kind, address))
}

pub(super) fn beacon_in(cohort: &Membership, document: &Document) -> bool {
    beacon(cohort).is_some_and(|(kind, address)| {
        let script = address.script_pubkey();
        let mut beacons = document.beacons().iter();
        of_method(cohort.terms.btc_network) == document.did().network()
            && beacons.any(|beacon| beacon.kind == kind && beacon.script() == script)
    })
}

/// Refuses a did:btcr2 identifier of another network: no signal of this cohort is looked at for it. Of other texts the
/// cohort needs the hash only.
pub(crate) fn check_network_of(cohort: &Membership, did: &str) -> Result<(), RpcError> {
    did.parse()
        .map_or(Ok(()), |did| check_network(cohort, &did))
}

pub(super) fn check_network(cohort: &Membership, did: &Did) -> Result<(), RpcError> {
    let (got, expected) = (did.network(), of_method(cohort.terms.btc_network));
    if got == expected {
        return Ok(());
    }
    Err(RpcError::failed(format!(
        "got a DID on {got}, expected one on {expected}, the network of cohort {}",
        cohort.id
    )))
}

pub(super) fn not_set(cohort: &Membership) -> RpcError {
    RpcError::failed(format!(
        "cohort {} is at stage {}, expected one that is set and agreed to: it has no beacon yet",
        cohort.id,
        cohort.stage.name()
    ))
}
