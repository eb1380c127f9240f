//! The coordinator's role: its control methods, and its state as users see it.

use std::collections::BTreeSet;

use beacon_cohort::coordinator::{
    Cohort, Command, Config, Coordinator, Phase, Signal, Stage, Standing,
};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::Input;
use beacon_cohort::message::Message;
use beacon_cohort::signer::{SignerAnswer, SignerRequest};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork};
use beacon_didcomm::Did;
use beacon_didcomm::protocols::Invitation;
use beacon_signal::LeafValue;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::agent::{Agent, Call};
use crate::control::RpcError;
use crate::driver::now;
use crate::identities::Identities;
use crate::keys::list;
use crate::params::read;
use crate::settings::Config as Settings;

/// The role of a coordinator.
#[derive(Debug)]
pub struct CoordinatorAgent {
    /// The network of cohorts for which none is named.
    network: BtcNetwork,
    max_members: u64,
    max_indexes_per_member: u64,
}

/// The role and the machine that this configuration asks for.
pub fn role(config: &Settings) -> (CoordinatorAgent, Coordinator) {
    let machine = Coordinator::new(Config {
        label: config.label.clone(),
        fee_rate_sat_vb: config.fee_rate,
        max_subscribers: config.limits.max_subscribers,
        max_cohorts: config.limits.max_cohorts,
        max_attempts: config.limits.max_attempts,
    });
    let agent = CoordinatorAgent {
        network: config.network,
        max_members: config.limits.max_members,
        max_indexes_per_member: config.limits.max_indexes_per_member,
    };
    (agent, machine)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advertise {
    /// Members of the terms, besides `advert_expires`.
    #[serde(default)]
    terms: Map<String, Value>,
    /// Seconds until the advert ends.
    #[serde(default = "one_day")]
    expires_in_s: u64,
    #[serde(default)]
    invited: BTreeSet<Did>,
}

fn one_day() -> u64 {
    86_400
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneCohort {
    cohort_id: CohortId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyCohort {
    cohort_id: Option<CohortId>,
}

impl Agent for CoordinatorAgent {
    type Machine = Coordinator;

    const ROLE: &'static str = "coordinator";
    const MUST_BE_REACHABLE: bool = true;

    fn call(
        &self,
        machine: &Coordinator,
        identities: &mut Identities,
        method: &str,
        params: Value,
    ) -> Result<Call<Command>, RpcError> {
        let cohort = |id: CohortId| {
            let known = machine.state().cohorts.get(&id);
            known.ok_or_else(|| RpcError::failed(format!("unknown cohort {id}: see `cohort list`")))
        };
        let answer = match method {
            "did" => own_did(identities)?,
            "keys" => list::of_coordinator(identities)?,
            "cohort.advertise" => return self.advertise(read(params)?),
            "cohort.list" => machine.state().cohorts.values().map(summary).collect(),
            "cohort.show" => detail(machine, cohort(read::<OneCohort>(params)?.cohort_id)?),
            "cohort.close_admission" => {
                let cohort = read::<OneCohort>(params)?.cohort_id;
                return Ok(Call::Command(
                    Command::CloseAdmission { cohort },
                    json!({ "cohort_id": cohort }),
                ));
            }
            "session.start" => {
                let id = read::<OneCohort>(params)?.cohort_id;
                let round = cohort(id)?.round.number;
                return Ok(Call::Command(
                    Command::StartRound { cohort: id },
                    json!({ "cohort_id": id, "round": round }),
                ));
            }
            "session.list" => {
                let wanted = read::<AnyCohort>(params)?.cohort_id;
                let cohorts = machine.state().cohorts.values();
                cohorts
                    .filter(|cohort| wanted.is_none_or(|id| id == cohort.id))
                    .flat_map(sessions)
                    .collect()
            }
            "subscribers" => {
                let subscribers = machine.state().subscribers.iter();
                subscribers
                    .map(|(did, filter)| json!({ "did": did, "filter": filter }))
                    .collect()
            }
            "status" => json!({
                "did": own_did(identities)?["did"],
                "subscribers": machine.state().subscribers.len(),
                "cohorts": machine.state().cohorts.values().map(summary).collect::<Vec<_>>(),
            }),
            other => return Err(RpcError::method_not_found(other)),
        };
        Ok(Call::Answer(answer))
    }

    fn identity_for(&self, _: &Coordinator, _: &PeerId) -> u32 {
        0
    }

    fn identity_count(&self, _: &Coordinator) -> u32 {
        1
    }

    fn keep_connected(&self, _: &Coordinator) -> Vec<PeerId> {
        Vec::new()
    }

    /// A member of a cohort that is set; anybody can subscribe.
    fn is_partner(&self, machine: &Coordinator, peer: &PeerId) -> bool {
        let mut cohorts = machine.state().cohorts.values();
        cohorts.any(|cohort| {
            matches!(cohort.phase, Phase::Set | Phase::Acknowledged)
                && cohort.members.contains_key(peer)
        })
    }

    fn begins(&self, machine: &Coordinator, input: &Input<Command>) -> bool {
        let waits = |cohort: &CohortId| {
            let known = machine.state().cohorts.get(cohort);
            known.is_none_or(|cohort| matches!(cohort.round.stage, Stage::Waiting))
        };
        match input {
            Input::Command(command) => !matches!(command, Command::CloseAdmission { .. }),
            Input::Message { message, .. } => match message {
                Message::Subscribe(_) | Message::OptIn(_) | Message::DidRegistration(_) => true,
                // An open round needs the leaves that are missing.
                Message::RequestSignature(body) => waits(&body.cohort_id),
                Message::NoUpdate(body) => waits(&body.cohort_id),
                _ => false,
            },
            _ => false,
        }
    }

    fn sign(&mut self, _: SignerRequest) -> Option<SignerAnswer> {
        None // It holds no key, and its machine never asks.
    }
}

impl CoordinatorAgent {
    fn advertise(&self, params: Advertise) -> Result<Call<Command>, RpcError> {
        let mut terms = params.terms;
        let mut default = |name: &str, value: Value| {
            terms.entry(name).or_insert(value);
        };
        default("version", 1.into());
        default("beacon_type", "SMTBeacon".into());
        default("btc_network", self.network.to_string().into());
        default("advert_expires", now().after(params.expires_in_s).0.into());
        default("min_members", 2.into());
        let min = terms["min_members"].clone();
        terms.entry("max_members").or_insert(min);
        if !params.invited.is_empty() {
            terms.entry("admission").or_insert("invited".into());
        }
        let terms = AgreedTerms::parse(Value::Object(terms)).map_err(RpcError::invalid_params)?;
        within("max_members", terms.max_members, self.max_members)?;
        let indexes = self.max_indexes_per_member;
        within(
            "max_indexes_per_member",
            terms.max_indexes_per_member,
            indexes,
        )?;
        let cohort = CohortId(Uuid::new_v4());
        let answer =
            json!({ "cohort_id": cohort, "terms_hash": terms.hash(), "terms": terms.value() });
        let invited = params
            .invited
            .iter()
            .map(|did| PeerId::new(did.as_str()))
            .collect();
        Ok(Call::Command(
            Command::Advertise {
                cohort,
                terms,
                invited,
            },
            answer,
        ))
    }
}

/// Terms may not promise more room than the configuration gives.
fn within(name: &str, got: u64, limit: u64) -> Result<(), RpcError> {
    if got <= limit {
        return Ok(());
    }
    Err(RpcError::invalid_params(format!(
        "{name} is {got}, expected at most {limit} as in the configuration: set a larger limit {name}"
    )))
}

/// The agent's DID, with an invitation that carries it.
pub fn own_did(identities: &mut Identities) -> Result<Value, RpcError> {
    let did = identities.get(0).map_err(RpcError::failed)?.did().clone();
    let invitation = Invitation::new(Uuid::new_v4(), did.clone()).with_goal(
        "beacon-cohort.subscribe",
        "subscribe to this coordinator's cohorts",
    );
    Ok(json!({ "did": did, "invitation": invitation.to_deep_link() }))
}

fn phase(cohort: &Cohort) -> &'static str {
    match cohort.phase {
        Phase::Advertised => "advertised",
        Phase::Set => "set",
        Phase::Acknowledged => "acknowledged",
        Phase::Failed(_) => "failed",
    }
}

fn summary(cohort: &Cohort) -> Value {
    json!({
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
    })
}

/// What everybody is told with every balance.
fn at_risk(cohort: &Cohort) -> Option<String> {
    cohort.beacon.as_ref()?;
    let (balance, members) = (cohort.confirmed_balance(), cohort.members.len());
    Some(format!(
        "{balance} sat: the key is {members} of {members}, so one lost key silences the beacon and locks what the address holds"
    ))
}

fn address(cohort: &Cohort) -> Option<String> {
    cohort
        .beacon
        .as_ref()
        .map(|beacon| beacon.address(cohort.terms.btc_network.bitcoin()))
}

fn detail(machine: &Coordinator, cohort: &Cohort) -> Value {
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
            })
        })
        .collect();
    value["stage"] = stage(&cohort.round.stage);
    value["funds"] = json!(cohort.funds);
    value["funding"] = match cohort.phase {
        Phase::Acknowledged => json!(funding(machine, cohort)),
        Phase::Set => json!(format!(
            "do not fund yet: {} members have not acknowledged the address",
            waiting.len()
        )),
        Phase::Failed(ref reason) => json!(format!("do not fund: {reason}")),
        Phase::Advertised => json!("no address yet"),
    };
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

fn stage(stage: &Stage) -> Value {
    match stage {
        Stage::Waiting => json!({ "name": "waiting" }),
        Stage::Open { deadline } => json!({ "name": "open", "deadline": deadline }),
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
        "signal_bytes": signal.root.to_hex(),
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
fn sessions(cohort: &Cohort) -> Vec<Value> {
    let open = cohort.session.iter().map(|session| {
        json!({
            "cohort_id": cohort.id,
            "session_id": session.id,
            "round": session.round,
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
