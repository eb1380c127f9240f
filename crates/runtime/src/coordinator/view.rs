//! A coordinator's state as its operator sees it.

use beacon_cohort::coordinator::{Cohort, Coordinator, Phase, Signal, Stage, Standing, Strike};
use beacon_cohort::ids::PeerId;
use beacon_signal::LeafValue;
use serde_json::{Value, json};

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

pub(super) fn summary(cohort: &Cohort) -> Value {
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

pub(super) fn detail(machine: &Coordinator, cohort: &Cohort) -> Value {
    let mut value = summary(cohort);
    let waiting: Vec<_> = cohort
        .members
        .iter()
        .filter(|(_, member)| !member.acknowledged)
        .map(|(peer, _)| peer)
        .collect();
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
    value["funding"] = match cohort.phase {
        Phase::Acknowledged => json!(funding(machine, cohort)),
        Phase::Set => json!(format!(
            "do not fund yet: {} members have not acknowledged the address",
            waiting.len()
        )),
        Phase::Failed(ref reason) => json!(format!("do not fund: {reason}")),
        Phase::Advertised => json!("no address yet"),
        Phase::Dissolved(ref reason) => json!(locked(cohort, reason)),
    };
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
    value["signal_list"] = cohort.signals.iter().map(signal).collect();
    value["sessions"] = sessions(cohort).into();
    let balance = cohort.confirmed_balance();
    if balance > cohort.terms.max_balance_sat {
        value["warning"] = json!(format!(
            "balance is above the terms' maximum of {} sat",
            cohort.terms.max_balance_sat
        ));
    }
    value
}

/// Whether a signal could be paid for, whatever its root is.
fn funding(machine: &Coordinator, cohort: &Cohort) -> String {
    match machine.build(cohort, beacon_signal::Root(LeafValue::EMPTY.0)) {
        Ok((tx, spent)) => {
            let paid: u64 = tx.output.iter().map(|output| output.value.to_sat()).sum();
            let held: u64 = spent.iter().map(|output| output.value).sum();
            format!(
                "enough for the next signal, whose fee will be {} sat",
                held.saturating_sub(paid)
            )
        }
        Err(error) => error.to_string(),
    }
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

/// What would free the money of a cohort that is over.
fn locked(cohort: &Cohort, reason: &str) -> String {
    let (balance, members) = (cohort.confirmed_balance(), cohort.members.len());
    let out: Vec<_> = cohort.without.iter().map(PeerId::as_str).collect();
    let out = match out.as_slice() {
        [] => String::new(),
        out => format!(", those of {} included", out.join(", ")),
    };
    let otherwise = match &cohort.terms.script_tree {
        None => "nothing else frees them".to_owned(),
        Some(tree) => format!("or by the script tree: {}", tree.consequences().join("; ")),
    };
    format!(
        "do not fund: {reason}. The {balance} sat there move only in a transaction that all {members} cohort keys sign{out}; \
         {otherwise}"
    )
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

fn signal(signal: &Signal) -> Value {
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
pub(super) fn sessions(cohort: &Cohort) -> Vec<Value> {
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
        let mut value = signal(known);
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
