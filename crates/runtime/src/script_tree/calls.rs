//! The control methods of spends by a leaf: they know the cohorts and have the keys. The chain is asked by the command.

use beacon_cohort::participant::{Membership, Participant};
use beacon_cohort::psbt;
use beacon_cohort::script_path::Leaf;
use beacon_cohort::script_spend::ScriptSpend;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::secp256k1::{Keypair, Message, Secp256k1, SecretKey, XOnlyPublicKey};
use bitcoin::{OutPoint, ScriptBuf};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{CohortFile, Subject};
use crate::control::RpcError;
use crate::dids::Dids;
use crate::keys::{MAX_RECOVERY_INDEX, Seed};
use crate::params::read;
use crate::participant::Named;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptParams {
    /// A beacon's output script.
    script: ScriptBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyParams {
    #[serde(default)]
    index: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoverParams {
    cohort: CohortFile,
    inputs: Vec<Input>,
    to: ScriptBuf,
    /// sat/vB.
    fee_rate: u64,
    /// sat.
    max_fee: u64,
}

/// An output of the beacon.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    outpoint: OutPoint,
    value_sat: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignParams {
    psbt: String,
}

/// The methods `tree.…`.
pub(crate) fn call(
    dids: &Dids,
    machine: &Participant,
    method: &str,
    params: Value,
) -> Result<Value, RpcError> {
    match method {
        "tree.cohort" => {
            let cohort = read::<Named>(params)?.find(machine)?;
            file_of(cohort)
        }
        "tree.cohort_of" => {
            let cohort = by_script(machine, &read::<ScriptParams>(params)?.script)?;
            file_of(cohort)
        }
        "tree.recovery_key" => recovery_key(dids, read::<KeyParams>(params)?.index),
        "tree.recover" => recover(dids, read(params)?),
        "tree.sign" => sign_fallback(dids.seed(), machine, &read::<SignParams>(params)?.psbt),
        other => Err(RpcError::method_not_found(other)),
    }
}

fn file_of(cohort: &Membership) -> Result<Value, RpcError> {
    let file = CohortFile::of(cohort).ok_or_else(|| {
        let stage = cohort.stage.name();
        RpcError::failed(format!(
            "cohort {} is {stage}: it has no address yet",
            cohort.id
        ))
    })?;
    Ok(json!(file))
}

fn by_script<'a>(machine: &'a Participant, script: &ScriptBuf) -> Result<&'a Membership, RpcError> {
    let pays = |cohort: &&Membership| {
        let beacon = cohort.beacon.as_ref();
        beacon.is_some_and(|beacon| beacon.script() == script.as_script())
    };
    let mut cohorts = machine.state().cohorts.values();
    cohorts.find(pays).ok_or_else(|| {
        RpcError::failed("it spends from no beacon of a cohort of ours: see `cohorts`")
    })
}

fn recovery_key(dids: &Dids, index: u32) -> Result<Value, RpcError> {
    let network: bitcoin::Network = dids.network().into();
    let (_, key) = pair(dids.seed(), network, index)?;
    let coin = u32::from(network != bitcoin::Network::Bitcoin);
    Ok(json!({
        "key": key.to_string(),
        "path": format!("m/1644'/{coin}'/{index}'"),
        "next": "who advertises the cohort puts it into its terms: `cohort advertise --recovery-key KEY --recovery-blocks N`",
    }))
}

fn pair(
    seed: &Seed,
    network: bitcoin::Network,
    index: u32,
) -> Result<(Zeroizing<[u8; 32]>, XOnlyPublicKey), RpcError> {
    if index > MAX_RECOVERY_INDEX {
        return Err(RpcError::invalid_params(format!(
            "got index {index}, expected at most {MAX_RECOVERY_INDEX}"
        )));
    }
    let secret = seed
        .recovery_key(network, index)
        .map_err(RpcError::failed)?;
    let mut keys = keypair(&secret)?;
    let key = keys.x_only_public_key().0;
    keys.non_secure_erase();
    Ok((secret, key))
}

fn keypair(secret: &[u8; 32]) -> Result<Keypair, RpcError> {
    let mut secret = SecretKey::from_slice(secret).map_err(RpcError::failed)?;
    let pair = Keypair::from_secret_key(&Secp256k1::signing_only(), &secret);
    secret.non_secure_erase();
    Ok(pair)
}

/// Builds and signs a recovery spend, if the recovery key is one of ours.
fn recover(dids: &Dids, params: RecoverParams) -> Result<Value, RpcError> {
    let subject = params.cohort.subject().map_err(RpcError::invalid_params)?;
    let path = subject.recovery().map_err(RpcError::failed)?;
    let Leaf::Recovery(recovery) = path.leaf else {
        return Err(RpcError::failed("the leaf is no recovery leaf"));
    };
    let network = subject.terms().btc_network.bitcoin();
    let mut found = None;
    for index in 0..=MAX_RECOVERY_INDEX {
        let (secret, key) = pair(dids.seed(), network, index)?;
        if key == recovery.key {
            found = Some(secret);
            break;
        }
    }
    let secret = found.ok_or_else(|| {
        RpcError::failed(format!(
            "the recovery key {} is none of this agent's: `recovery key` prints its first one",
            recovery.key
        ))
    })?;
    let inputs = params.inputs.iter();
    let inputs: Vec<_> = inputs
        .map(|input| (input.outpoint, input.value_sat))
        .collect();
    let spend = ScriptSpend::build(&subject.beacon, &path, &inputs, &params.to, params.fee_rate);
    let mut spend = spend.map_err(RpcError::failed)?;
    if spend.fee_sat() > params.max_fee {
        let (got, max) = (spend.fee_sat(), params.max_fee);
        return Err(RpcError::failed(format!(
            "the spend pays a fee of {got} sat, expected at most {max} sat: give a higher --max-fee or a lower --fee-rate"
        )));
    }
    sign(&mut spend, &secret)?;
    let tx = spend.finish().map_err(RpcError::failed)?;
    Ok(json!({
        "txid": tx.compute_txid(),
        "fee_sat": spend.fee_sat(),
        "vsize": spend.vsize(),
        "tx": serialize_hex(&tx),
    }))
}

/// Signs a fallback spend of a cohort of ours with our key of that cohort.
fn sign_fallback(seed: &Seed, machine: &Participant, text: &str) -> Result<Value, RpcError> {
    let file = psbt::parse(text.as_bytes()).map_err(RpcError::invalid_params)?;
    let script = file
        .inputs
        .first()
        .and_then(|input| input.witness_utxo.as_ref());
    let script = script
        .map(|output| output.script_pubkey.clone())
        .unwrap_or_default();
    let cohort = by_script(machine, &script)?;
    let file_of =
        CohortFile::of(cohort).ok_or_else(|| RpcError::failed("the cohort has no address yet"))?;
    let subject: Subject = file_of.subject().map_err(RpcError::failed)?;
    let path = subject.fallback().map_err(RpcError::failed)?;
    let spend = ScriptSpend::read(&subject.beacon, &path, &file);
    let mut spend = spend.map_err(RpcError::invalid_params)?;
    let cap = cohort.terms.max_fee_rate_sat_vb;
    spend.check_fee(cap).map_err(RpcError::failed)?;
    let own = cohort
        .path
        .ok_or_else(|| RpcError::failed("this agent has no key in the cohort"))?;
    let secret = seed.cohort_key(own.network.bitcoin(), own.steps());
    let secret = secret.map_err(RpcError::failed)?;
    sign(&mut spend, &secret)?;
    let inputs: Vec<_> = spend.inputs().map(|(outpoint, _)| outpoint).collect();
    let live = cohort.live().filter(|signed| {
        let mut own = signed.tx.input.iter();
        own.any(|input| inputs.contains(&input.previous_output))
    });
    let signed = spend.psbt().map_err(RpcError::failed)?;
    Ok(json!({
        "cohort_id": cohort.id,
        "txid": spend.transaction().compute_txid(),
        "signatures": spend.signers().count(),
        "signatures_needed": spend.threshold(),
        "ends_signals": live.map(|signed| signed.txid).collect::<Vec<_>>(),
        "psbt": psbt::to_base64(&signed).map_err(RpcError::failed)?,
    }))
}

/// Signs every input, each signature with fresh randomness (BIP340).
fn sign(spend: &mut ScriptSpend, secret: &[u8; 32]) -> Result<(), RpcError> {
    let mut pair = keypair(secret)?;
    let secp = Secp256k1::signing_only();
    let signed = spend.sighashes().iter().map(|sighash| {
        let mut aux = [0; 32];
        OsRng.try_fill_bytes(&mut aux).map_err(RpcError::failed)?;
        let message = Message::from_digest(*sighash);
        Ok(secp
            .sign_schnorr_with_aux_rand(&message, &pair, &aux)
            .serialize())
    });
    let signed = signed.collect::<Result<Vec<_>, RpcError>>();
    let key = pair.x_only_public_key().0;
    pair.non_secure_erase();
    spend.add(key, signed?).map_err(RpcError::failed)
}
