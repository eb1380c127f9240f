//! A participant's state as its user sees it.

use beacon_cohort::announcement::Announcement;
use beacon_cohort::machine::Code;
use beacon_cohort::participant::{
    Candidate, Claim, ForeignSpend, Membership, Progress, Stage, Standing, State,
};
use beacon_cohort::terms::BeaconType;
use beacon_signal::transaction;
use serde_json::{Value, json};

use crate::depth;
use crate::script_tree::{at_risk, warn_of_the_close, warn_of_the_tree};

/// What to do where somebody else has registered the index of a DID of ours.
const CONTEST: &str = "another member answers for one of these DIDs: if it is yours, `did contest --cohort ID --did DID` proves that, and puts the other member out. The coordinator learns the DID by it; who contests without controlling the DID is out";

/// All cohorts.
pub(super) fn all_cohorts(state: &State, tip: Option<u32>) -> Vec<Value> {
    let cohorts = state.cohorts.values();
    cohorts.map(|cohort| cohort_view(cohort, tip)).collect()
}

/// The sessions of all cohorts.
pub(super) fn all_sessions(state: &State, tip: Option<u32>) -> Vec<Value> {
    let cohorts = state.cohorts.values();
    cohorts.flat_map(|cohort| sessions(cohort, tip)).collect()
}

/// What shows, of any cohort, that the state is not the newest.
pub(super) fn rollbacks(state: &State, tip: Option<u32>) -> Vec<Value> {
    let cohorts = state.cohorts.values();
    cohorts
        .filter_map(|cohort| rollback_view(cohort, tip))
        .collect()
}

fn cohort_view(cohort: &Membership, tip: Option<u32>) -> Value {
    let mut value = json!({
        "cohort_id": cohort.id,
        "coordinator": cohort.coordinator,
        "stage": cohort.stage.name(),
        "network": cohort.terms.btc_network.to_string(),
        "terms": cohort.terms.value(),
        "key": cohort.key,
        "dids": cohort.dids.values().collect::<Vec<_>>(),
        "registering": cohort.registering().map(|(_, did)| did).collect::<Vec<_>>(),
        "beacon_address": cohort.beacon.as_ref().map(|beacon| beacon.address(cohort.terms.btc_network.bitcoin())),
        "members": cohort.beacon.as_ref().map(|beacon| beacon.keys().len()),
        "round": cohort.round,
        "queued_updates": cohort.queued.len(),
    });
    warn_of_the_open(cohort, &mut value);
    warn_of_the_tree(&cohort.terms, &mut value);
    warn_of_the_close(&cohort.terms, &mut value);
    if cohort.handle != cohort.id {
        value["handle"] = json!(cohort.handle); // What its events are written under.
    }
    match &cohort.stage {
        Stage::Out(code, comment) => {
            value["reason"] = json!({ "code": code, "comment": comment });
            if code == Code::IndexTaken.as_str() {
                value["reason"]["next"] = json!(CONTEST);
            }
        }
        Stage::Dissolved(_) if cohort.is_closed() => {
            let waiting = cohort.unannounced().len();
            value["waiting_updates"] = json!(waiting);
            value["reason"] = json!({
                "code": "closed",
                "comment": format!("closed: what the beacon held was paid as the terms say, and nothing more is announced here; {waiting} updates wait for another beacon"),
            });
        }
        Stage::Dissolved(code) => {
            value["reason"] = json!({
                "code": code,
                "comment": "dissolved: nothing more is signed here. What the address holds can only be spent if all its members sign again",
            });
        }
        _ => {}
    }
    if !cohort.refused.is_empty() {
        value["refused"] = json!(cohort.refused);
        if cohort.refused.values().any(|code| code == "index-taken") {
            value["next"] = json!(CONTEST);
        }
    }
    if !cohort.contests.is_empty() {
        let claim = |claim: &Claim| {
            let result = match &claim.result {
                None => "waits for the coordinator",
                Some(Ok(())) => "won: `join` with the DID",
                Some(Err(code)) => code,
            };
            json!({ "did": claim.did, "result": result })
        };
        value["contests"] = cohort.contests.values().map(claim).collect();
    }
    if cohort.outside_signer {
        value["signer"] = json!(
            "outside: this agent makes no nonces here. For each session: `session export-psbt`, have it signed, `session import-psbt`, twice"
        );
    }
    if let Some(before) = cohort.succeeds {
        value["succeeds"] = json!(before);
    }
    let spent: Vec<_> = cohort.spent_by_leaf().map(spend_view).collect();
    if !spent.is_empty() {
        value["spent_by_script_tree"] = json!(spent);
    }
    if let Some(last) = cohort.candidates.last() {
        value["last_signal"] = candidate_view(cohort, last, tip);
    }
    if let Some(rollback) = rollback_view(cohort, tip) {
        value["rollback"] = rollback;
    }
    if let Some(beacon) = &cohort.beacon {
        let members = beacon.keys().len();
        value["funding"] = json!(
            "send nothing before the coordinator shows the cohort as acknowledged: all members must have agreed to the address"
        );
        let balance = cohort.balance_sat();
        value["balance_sat"] = json!(balance);
        value["at_risk"] = json!(at_risk(&cohort.terms, balance, members));
        let max = cohort.terms.max_balance_sat;
        if balance > max {
            value["warning"] = json!(format!("more than the {max} sat of the terms"));
        }
    }
    value
}

/// What shows that the state is not the newest, and what follows; `None` where nothing does.
fn rollback_view(cohort: &Membership, tip: Option<u32>) -> Option<Value> {
    let recovered: Vec<_> = cohort
        .candidates
        .iter()
        .filter(|candidate| candidate.recovered)
        .map(|candidate| candidate_view(cohort, candidate, tip))
        .collect();
    let unexplained: Vec<_> = cohort.unexplained().map(spend_view).collect();
    if recovered.is_empty() && unexplained.is_empty() && cohort.quarantine.is_none() {
        return None;
    }
    let mut value = json!({
        "cohort_id": cohort.id,
        "recovered_signals": recovered,
        "unexplained_spends": unexplained,
    });
    if !unexplained.is_empty() {
        value["unexplained_spends_mean"] = json!(
            "this agent has no record of signing these: its state was restored from an old copy, a second copy of it runs, or its key was stolen"
        );
    }
    if let Some(quarantine) = &cohort.quarantine {
        value["quarantine"] = json!({
            "outputs": quarantine.outputs,
            "all_others_too": !quarantine.complete,
            "until": "these outputs are spent, as deep as the terms want, or you run `rollback confirm`. Confirm only if no other copy of this agent runs: what it may have signed with them is not known here",
        });
    }
    Some(value)
}

fn spend_view(spend: &ForeignSpend) -> Value {
    json!({ "output": spend.outpoint, "spent_by": spend.txid, "buried": spend.buried })
}

fn sessions(cohort: &Membership, tip: Option<u32>) -> Vec<Value> {
    let open = cohort.session.iter().map(|session| {
        let request = &session.proposal.0;
        json!({
            "cohort_id": cohort.id,
            "session_id": session.id,
            "round": request.round,
            "kind": request.kind,
            "replaces": request.replaces,
            "status": match session.progress {
                Progress::Requested if cohort.outside_signer && session.imported.is_none() => "waiting-for-outside-nonces",
                Progress::PartialAuthorized { .. } if cohort.outside_signer => "waiting-for-outside-partials",
                Progress::Requested if session.approved => "checking",
                Progress::Requested => "waiting-for-approval",
                Progress::NonceCommitted { .. } => "nonces-sent",
                Progress::PartialAuthorized { .. } => "signing",
                Progress::PartialReleased { .. } => "signed",
            },
            "txid": request.pending_tx.compute_txid(),
            "signal_bytes": transaction::signal_bytes(&request.pending_tx).map(hex::encode),
            "spent_sat": request.spent_outputs.iter().map(|output| output.value).sum::<u64>(),
            "deadline": session.deadline,
        })
    });
    let signed = cohort
        .candidates
        .iter()
        .map(|candidate| candidate_view(cohort, candidate, tip));
    let ended = cohort.ended.iter().map(|ended| {
        let offered = ended.offered.map(|offered| {
            json!({
                "round": offered.round,
                "txid": offered.txid,
                "signal_bytes": offered.root.map(|root| root.to_hex()),
                "spent_sat": offered.spent_sat,
                "fee_sat": offered.fee_sat,
            })
        });
        json!({
            "offered": offered,
            "cohort_id": cohort.id,
            "session_id": ended.session,
            "status": "ended",
            "code": ended.code,
            "comment": ended.comment,
        })
    });
    open.chain(signed).chain(ended).collect()
}

fn candidate_view(cohort: &Membership, candidate: &Candidate, tip: Option<u32>) -> Value {
    let mut value = json!({
        "cohort_id": cohort.id,
        "session_id": candidate.session,
        "round": candidate.round,
        "txid": candidate.txid,
        "signal_bytes": candidate.root.map(|root| root.to_hex()),
        "proofs": candidate.proofs.len(),
    });
    if cohort.terms.beacon_type == BeaconType::Cas {
        value["announced"] = json!(candidate.map.as_ref().map(Announcement::len));
    }
    if candidate.recovered {
        value["recovered"] = json!(true);
    }
    for (index, unproven) in &candidate.unproven {
        value["incomplete_proofs"][index.to_string()] = json!({
            "did": cohort.dids.get(index),
            "reason": unproven.reason,
            "proof": unproven.proof,
        });
    }
    if let Standing::Confirmed { height, block_hash } | Standing::Buried { height, block_hash } =
        candidate.standing
    {
        value["block_height"] = json!(height);
        value["block_hash"] = json!(block_hash);
        depth::describe(&mut value, height, tip, cohort.terms.confirmations);
    }
    value["status"] = json!(standing(candidate.standing));
    if let Some(offer) = &candidate.offer {
        value["offers"] = json!(offer.tries);
        if let Some(reason) = &offer.refusal {
            value["refused"] = json!(reason);
        }
    }
    value
}

/// Where a signal stands, in a word.
pub(crate) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Live => "live",
        Standing::Published => "published",
        Standing::Superseded => "superseded",
        Standing::Confirmed { .. } => "confirmed",
        Standing::Buried { .. } => "buried",
    }
}

/// What people must know before they join a cohort whose updates are in the open.
pub(super) fn warn_of_the_open(cohort: &Membership, answer: &mut Value) {
    if cohort.terms.beacon_type == BeaconType::Cas {
        answer["warning"] = json!(
            "a CAS cohort announces updates in the open: its coordinator and all of its members learn which DIDs are \
             updated, and when; in an SMT cohort they learn neither"
        );
    }
}
