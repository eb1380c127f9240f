//! Control methods about PSBTs: what is shown of a session, what is imported, and who signs.

use beacon_cohort::ids::SessionId;
use beacon_cohort::participant::{AskedPsbt, Command, Participant, PsbtView};
use beacon_cohort::psbt::{parse, to_base64};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Named;
use crate::agent::Call;
use crate::control::RpcError;
use crate::dids::Dids;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignerParams {
    #[serde(flatten)]
    named: Named,
    /// Whether nonces and partial signatures come from a signer outside.
    outside: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportParams {
    /// Base64.
    psbt: String,
}

pub(super) fn signer(
    machine: &Participant,
    params: SignerParams,
) -> Result<Call<Command>, RpcError> {
    let SignerParams { named, outside } = params;
    let membership = named.find(machine)?;
    let seconds = membership.terms.response_deadline_s;
    let next = if outside {
        format!(
            "this agent makes no nonces in this cohort. Each session waits about {seconds} s for your import of public nonces, and then of partial signatures"
        )
    } else {
        "this agent signs by itself".to_owned()
    };
    let answer = json!({ "cohort_id": membership.id, "outside": outside, "next": next });
    let cohort = membership.handle;
    Ok(Call::Command(
        Command::ChooseSigner { cohort, outside },
        answer,
    ))
}

/// A session's PSBT, with what can be done with it; where it cannot be shown yet, what became of the question.
pub(super) fn shown(
    machine: &Participant,
    dids: &Dids,
    session: SessionId,
) -> Result<Value, RpcError> {
    let mut cohorts = machine.state().cohorts.values();
    let asked = cohorts.find_map(|cohort| {
        let asked = cohort.asked_psbt.as_ref();
        asked.filter(|asked| asked.session == session)
    });
    let asked = asked.map(|AskedPsbt { answer, .. }| match answer {
        None => "waits",
        Some(Ok(_)) => "came",
        Some(Err(reason)) => reason,
    });
    let shown = machine.psbt(session, |path| dids.cohort_key_source(path));
    let PsbtView {
        psbt,
        txid,
        finished,
        all_nonces,
        aggregated,
    } = match shown {
        Ok(shown) => shown,
        // It may be over here, and on its way from the coordinator.
        Err(_) if asked == Some("waits") => {
            return Ok(json!({ "session_id": session, "asked": asked }));
        }
        Err(rejection) => {
            let said = format!("got {}, expected {}", rejection.got, rejection.expected);
            return Err(RpcError::failed(said));
        }
    };
    let mut answer = json!({
        "session_id": session,
        "txid": txid,
        "finished": finished,
        "all_nonces": all_nonces,
        "aggregated": aggregated,
        "next": next(machine, session, finished, all_nonces, aggregated),
        "psbt": to_base64(&psbt).map_err(RpcError::failed)?,
    });
    if let Some(asked) = asked {
        answer["asked"] = json!(asked);
    }
    Ok(answer)
}

/// What can be done with a PSBT.
fn next(
    machine: &Participant,
    session: SessionId,
    finished: bool,
    all_nonces: bool,
    aggregated: bool,
) -> &'static str {
    let mut cohorts = machine.state().cohorts.values();
    let waits_for_nonces = cohorts.any(|cohort| {
        let mut open = cohort.session.iter();
        let open = open.any(|open| open.id == session && open.imported.is_none());
        open && cohort.outside_signer
    });
    match (finished, aggregated, all_nonces) {
        (true, _, _) => "it is signed: the transaction can be extracted",
        _ if waits_for_nonces => {
            "have the outside signer add its public nonces, and import it with `session import-psbt`"
        }
        (_, false, _) => "the coordinator has not sent the aggregated nonces yet",
        (_, true, false) => {
            "the public nonces of the others are missing: ask for them with --from-coordinator"
        }
        (_, true, true) => {
            "all public nonces are here and sum to the aggregated ones: an outside signer can add its partial signatures, for `session import-psbt`"
        }
    }
}

pub(super) fn import(
    machine: &Participant,
    params: &ImportParams,
) -> Result<Call<Command>, RpcError> {
    let psbt = parse(params.psbt.as_bytes()).map_err(RpcError::invalid_params)?;
    let txid = psbt.unsigned_tx.compute_txid();
    let mut cohorts = machine.state().cohorts.values();
    let first = cohorts.any(|cohort| {
        let mut open = cohort.session.iter();
        open.any(|open| {
            open.imported.is_none() && open.proposal.0.pending_tx.compute_txid() == txid
        })
    });
    let taken = if first {
        "public nonces: they are sent once all checks hold"
    } else {
        "partial signatures: they are sent, if they were not before"
    };
    let answer = json!({ "txid": txid, "taken": taken });
    Ok(Call::Command(Command::ImportPsbt(Box::new(psbt)), answer))
}
