//! A coordinator's state as its operator sees it.

use beacon_cohort::coordinator::{Cohort, Coordinator, Phase, Signal, Stage, Standing, Strike};
use serde_json::{Value, json};

use super::funding;
use crate::depth;
use crate::script_tree;

fn phase(cohort: &Cohort) -> &'static str {
    match cohort.phase {
        Phase::Advertised => "advertised",
        Phase::Set => "set",
        Phase::Acknowledged => "acknowledged",
        Phase::Failed(_) => "failed",
        Phase::Dissolved(_) => "dissolved",
    }
}

/// All cohorts, in short.
pub(super) fn summaries(machine: &Coordinator) -> Vec<Value> {
    let cohorts = machine.state().cohorts.values();
    cohorts.map(|cohort| summary(machine, cohort)).collect()
}

fn summary(machine: &Coordinator, cohort: &Cohort) -> Value {
    let mut value = json!({
        "cohort_id": cohort.id,
        "phase": phase(cohort),
        "network": cohort.terms.btc_network.to_string(),
        "members": cohort.members.len(),
        "min_members": cohort.terms.min_members,
        "max_members": cohort.terms.max_members,
        "beacon_address": address(cohort),
        "balance_sat": cohort.confirmed_balance(),
        "at_risk": at_risk(cohort),
        "round": cohort.round.number,
        "signals": cohort.signals.len(),
    });
    funding::describe(machine, cohort, &mut value);
    script_tree::warn_of_the_tree(&cohort.terms, &mut value);
    script_tree::warn_of_the_close(&cohort.terms, &mut value);
    value
}

/// What everybody is told with every balance.
fn at_risk(cohort: &Cohort) -> Option<String> {
    cohort.beacon.as_ref()?;
    let (balance, members) = (cohort.confirmed_balance(), cohort.members.len());
    Some(script_tree::at_risk(&cohort.terms, balance, members))
}

fn address(cohort: &Cohort) -> Option<String> {
    cohort
        .beacon
        .as_ref()
        .map(|beacon| beacon.address(cohort.terms.btc_network.bitcoin()))
}

pub(super) fn detail(machine: &Coordinator, cohort: &Cohort, tip: Option<u32>) -> Value {
    let mut value = summary(machine, cohort);
    value["terms"] = cohort.terms.value().clone();
    value["terms_hash"] = json!(cohort.terms.hash());
    value["member_list"] = cohort
        .members
        .iter()
        .map(|(peer, member)| {
            json!({
                "did": peer,
                "key": member.key,
                "indexes": member.indexes.len(),
                "acknowledged": member.acknowledged,
                "unanswered": cohort.unanswered(member).count(),
                "strikes": member.strikes,
            })
        })
        .collect();
    value["stage"] = stage(&cohort.round.stage);
    value["funds"] = json!(cohort.funds);
    value["max_balance_sat"] = json!(cohort.terms.max_balance_sat);
    if let Some(waiting) = replacement(machine, cohort) {
        value["unconfirmed"] = waiting;
    }
    value["max_strikes"] = json!(cohort.max_strikes());
    value["strikes"] = cohort.strikes.iter().map(strike).collect();
    value["succeeds"] = json!(cohort.succeeds);
    value["successor"] = json!(cohort.successor);
    value["foreign_spends"] = cohort
        .foreign_spends
        .iter()
        .map(|(outpoint, txid)| json!({ "outpoint": outpoint, "spent_by": txid }))
        .collect();
    if let Some(doubt) = &cohort.doubt {
        value["doubt"] = json!(doubt);
    }
    let claims = cohort.claims();
    value["later_rounds"] = claims
        .map(|(peer, round)| json!({ "did": peer, "round": round }))
        .collect();
    value["signal_list"] = {
        let signals = cohort.signals.iter();
        signals.map(|known| signal(cohort, known, tip)).collect()
    };
    value["sessions"] = sessions(cohort, tip).into();
    let balance = cohort.confirmed_balance();
    if balance > cohort.terms.max_balance_sat {
        value["warning"] = json!(format!(
            "balance is above the terms' maximum of {} sat",
            cohort.terms.max_balance_sat
        ));
    }
    value
}

/// The signal that waits for its first confirmation, and what becomes of it.
fn replacement(machine: &Coordinator, cohort: &Cohort) -> Option<Value> {
    if cohort.phase != Phase::Acknowledged {
        return None;
    }
    let (signal, due, hindered) = machine.replacement(cohort)?;
    let next = match (&signal.patience.stopped, hindered) {
        (Some(reason), _) => format!("not replaced: {reason}; `cohort replace` tries again"),
        (None, Err(error)) => format!("not replaced: {error}"),
        (None, Ok(())) => {
            format!("replaced with a higher fee after {due}, or at once by `cohort replace`")
        }
    };
    Some(json!({
        "txid": signal.txid,
        "round": signal.round,
        "since": signal.patience.since,
        "next": next,
    }))
}

fn strike(strike: &Strike) -> Value {
    json!({
        "did": strike.peer,
        "session_id": strike.session,
        "code": strike.code,
        "at": strike.at,
        "evidence": strike.evidence.is_some(),
    })
}

/// What convicts members of this cohort, counted from 1.
pub(super) fn evidence_list(cohort: &Cohort) -> Vec<Value> {
    let numbered = cohort.evidence().zip(1..);
    numbered
        .map(|(evidence, number)| {
            json!({
                "cohort_id": cohort.id,
                "number": number,
                "did": evidence.culprit_did,
                "key": evidence.culprit_key,
                "session_id": evidence.session_id,
                "kind": evidence.misdeed.kind(),
            })
        })
        .collect()
}

fn stage(stage: &Stage) -> Value {
    match stage {
        Stage::Waiting => json!({ "name": "waiting" }),
        Stage::Open { deadline } => json!({ "name": "open", "deadline": deadline }),
        Stage::Unanswered { again } => json!({ "name": "unanswered", "again": again }),
        Stage::Closed { not_before } => json!({ "name": "closed", "not_before": not_before }),
        Stage::Stopped { reason } => {
            json!({ "name": "stopped", "reason": reason, "next": "session start tries again" })
        }
    }
}

fn signal(cohort: &Cohort, signal: &Signal, tip: Option<u32>) -> Value {
    let mut value = json!({
        "session_id": signal.session,
        "round": signal.round,
        "txid": signal.txid,
        "signal_bytes": signal.root.map(|root| root.to_hex()),
    });
    let status = match signal.standing {
        Standing::Unsigned => "unsigned",
        Standing::Signed => "signed",
        Standing::Broadcast => "broadcast",
        Standing::Confirmed { height, block_hash } | Standing::Buried { height, block_hash } => {
            value["block_height"] = json!(height);
            value["block_hash"] = json!(block_hash);
            depth::describe(&mut value, height, tip, cohort.terms.confirmations);
            if matches!(signal.standing, Standing::Buried { .. }) {
                "buried"
            } else {
                "confirmed"
            }
        }
    };
    value["status"] = json!(status);
    if let Some(reason) = &signal.refusal {
        value["refused"] = json!(reason);
    }
    value
}

/// The session under way, then what was signed, then what was abandoned.
pub(super) fn sessions(cohort: &Cohort, tip: Option<u32>) -> Vec<Value> {
    let open = cohort.session.iter().map(|session| {
        json!({
            "cohort_id": cohort.id,
            "session_id": session.id,
            "round": session.round,
            "kind": session.kind,
            "replaces": session.replaces,
            "status": if session.aggregated.is_some() { "collecting-partials" } else { "collecting-nonces" },
            "nonces": session.nonces.len(),
            "partials": session.partials.len(),
            "members": cohort.members.len(),
            "deadline": session.deadline,
        })
    });
    let signed = cohort.signals.iter().map(|known| {
        let mut value = signal(cohort, known, tip);
        value["cohort_id"] = json!(cohort.id);
        value
    });
    let abandoned = cohort.abandoned.iter().map(|session| {
        json!({
            "cohort_id": cohort.id,
            "session_id": session.session,
            "round": session.round,
            "status": "abandoned",
            "code": session.code,
            "culprit": session.culprit,
            "comment": session.comment,
        })
    });
    open.chain(signed).chain(abandoned).collect()
}
