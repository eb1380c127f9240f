//! `did contest`: the claim to a DID whose index another member has registered. It tells the coordinator the DID.

use beacon_btcr2::{Document, json, proof};
use beacon_cohort::message::DidContest;
use beacon_cohort::participant::{Command, Participant};
use beacon_cohort::{statement, values::StatementSignature};
use clap::Args;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::calls::{document as read_document, parse_did, sidecar};
use super::cohorts::check_network;
use super::updates::{ChainArgs, Place, newest};
use super::{Dids, DidsError};
use crate::agent::Call;
use crate::cli::{Failure, Global};
use crate::control::RpcError;
use crate::participant::Named;

/// Options of `did contest`.
#[derive(Args, Debug)]
pub struct ContestArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    chain: ChainArgs,
}

#[derive(Deserialize)]
pub(super) struct ContestParams {
    #[serde(flatten)]
    named: Named,
    did: String,
    /// The newest document: JSON text.
    document: String,
}

/// `did contest`.
pub(super) async fn contest(
    global: &Global,
    agent: &str,
    args: ContestArgs,
) -> Result<(), Failure> {
    let ContestArgs { place, chain } = args;
    let newest = newest(global, agent, &place.did, &chain).await?;
    let mut params = place.cohort();
    params["did"] = place.did.into();
    params["document"] = json::canonical(newest.resolved.document.value()).into();
    let answer = global.ask(agent, "did.contest", params).await?;
    global.print(&answer)
}

/// Signs the claim with a key that may update the document, and gives it to the machine.
pub(super) fn claim(
    dids: &Dids,
    machine: &Participant,
    params: ContestParams,
) -> Result<Call<Command>, RpcError> {
    let ContestParams {
        named,
        did,
        document,
    } = params;
    let cohort = named.find(machine)?;
    let did = parse_did(&did)?;
    check_network(cohort, &did)?;
    let document = read_document(&did, &document)?;
    let known = machine.state().coordinators.get(&cohort.coordinator);
    let sender = known.ok_or_else(|| RpcError::failed("its coordinator is not known any more"))?;
    let said = statement::control(cohort.id, &sender.own, did.as_str());
    let (method, signature) = sign(dids, &document, said.digest()).map_err(RpcError::failed)?;
    let signature = StatementSignature::from_bytes(&signature).map_err(RpcError::failed)?;
    let told = sidecar(dids, machine, &did)?;
    let claim = DidContest {
        cohort_id: cohort.id,
        did: did.to_string(),
        sidecar: told["sidecar"].as_str().map(str::to_owned),
        method,
        signature,
    };
    let answer: Value = json!({
        "cohort_id": cohort.id,
        "did": did,
        "method": claim.method,
        "warning": "the coordinator learns this DID, its document and its updates",
        "next": "`cohorts` shows under `contests` what came of it; when the index is yours, `join` with the DID",
    });
    let cohort = cohort.handle;
    Ok(Call::Command(Command::Contest { cohort, claim }, answer))
}

fn sign(
    dids: &Dids,
    document: &Document,
    digest: &[u8; 32],
) -> Result<(String, [u8; 64]), DidsError> {
    let mut aux = [0; 32];
    OsRng
        .try_fill_bytes(&mut aux)
        .map_err(DidsError::Randomness)?;
    let (method, mut pair) = dids.key_pair(document, None)?;
    let signature = proof::sign(&pair, &aux, digest);
    pair.non_secure_erase();
    Ok((method, signature.serialize()))
}
