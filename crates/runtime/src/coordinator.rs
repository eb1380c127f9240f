//! The coordinator's role: its control methods.

mod funding;
mod view;

use std::collections::BTreeSet;

use beacon_cohort::coordinator::{Cohort, Command, Config, Coordinator, Event, Phase, Stage};
use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::Input;
use beacon_cohort::message::Message;
use beacon_cohort::psbt::{is_finished, to_base64};
use beacon_cohort::signer::{SignerAnswer, SignerRequest};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork};
use beacon_didcomm::Did;
use beacon_didcomm::protocols::Invitation;
use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::agent::{Agent, Call};
use crate::control::RpcError;
use crate::driver::now;
use crate::identities::Identities;
use crate::keys::list;
use crate::params::read;
use crate::script_tree::{warn_of_the_close, warn_of_the_tree};
use crate::settings::Config as Settings;
use view::{detail, evidence_list, sessions, summaries};

/// The role of a coordinator.
#[derive(Debug)]
pub struct CoordinatorAgent {
    /// The network of cohorts for which none is named.
    network: BtcNetwork,
    max_members: u64,
    max_indexes_per_member: u64,
    /// Height of the chain source's last block.
    tip: Option<u32>,
}

/// The role and the machine that this configuration asks for.
pub fn role(config: &Settings) -> (CoordinatorAgent, Coordinator) {
    let machine = Coordinator::new(Config {
        label: config.label.clone(),
        fee_rate: config.fee_rate,
        max_subscribers: config.limits.max_subscribers,
        max_cohorts: config.limits.max_cohorts,
    });
    let agent = CoordinatorAgent {
        network: config.network,
        max_members: config.limits.max_members,
        max_indexes_per_member: config.limits.max_indexes_per_member,
        tip: None,
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
    /// The address of the terms' `close_script`.
    close_to: Option<Address<NetworkUnchecked>>,
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
struct Dissolve {
    cohort_id: CohortId,
    /// Members that are left behind.
    #[serde(default)]
    without: BTreeSet<Did>,
    /// Whether the others are invited to a new cohort.
    #[serde(default = "yes")]
    successor: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AtFeeRate {
    cohort_id: CohortId,
    /// sat/vB.
    fee_rate: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneEvidence {
    cohort_id: CohortId,
    /// As `evidence.list` counts, from 1.
    number: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneSession {
    session_id: SessionId,
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
            "cohort.list" => summaries(machine).into(),
            "cohort.show" => {
                let cohort = cohort(read::<OneCohort>(params)?.cohort_id)?;
                detail(machine, cohort, self.tip)
            }
            "cohort.close_admission" => {
                let cohort = read::<OneCohort>(params)?.cohort_id;
                return Ok(Call::Command(
                    Command::CloseAdmission { cohort },
                    json!({ "cohort_id": cohort }),
                ));
            }
            "cohort.replace" => {
                let params: AtFeeRate = read(params)?;
                return Ok(replace(cohort(params.cohort_id)?, &params));
            }
            "cohort.close" => {
                let params: AtFeeRate = read(params)?;
                return close(machine, cohort(params.cohort_id)?, &params);
            }
            "cohort.dissolve" => return Ok(dissolve(&read(params)?)),
            "evidence.list" => {
                let wanted = read::<AnyCohort>(params)?.cohort_id;
                let cohorts = machine.state().cohorts.values();
                cohorts
                    .filter(|cohort| wanted.is_none_or(|id| id == cohort.id))
                    .flat_map(evidence_list)
                    .collect()
            }
            "evidence.export" => exported(machine, &read(params)?)?,
            "session.start" => {
                let id = read::<OneCohort>(params)?.cohort_id;
                let round = cohort(id)?.round.number;
                return Ok(Call::Command(
                    Command::StartRound { cohort: id },
                    json!({ "cohort_id": id, "round": round }),
                ));
            }
            "session.psbt" => psbt(machine, read::<OneSession>(params)?.session_id)?,
            "session.list" => {
                let wanted = read::<AnyCohort>(params)?.cohort_id;
                let cohorts = machine.state().cohorts.values();
                cohorts
                    .filter(|cohort| wanted.is_none_or(|id| id == cohort.id))
                    .flat_map(|cohort| sessions(cohort, self.tip))
                    .collect()
            }
            "subscribers" => {
                let subscribers = machine.state().subscribers.iter();
                subscribers
                    .map(|(did, filter)| json!({ "did": did, "filter": filter }))
                    .collect()
            }
            "status" => status(machine, identities)?,
            other => return Err(RpcError::method_not_found(other)),
        };
        Ok(Call::Answer(answer))
    }

    fn saw_tip(&mut self, height: u32) {
        self.tip = Some(height);
    }

    fn alarm(event: &Event) -> Option<String> {
        event.alarm()
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

    fn networks(&self, machine: &Coordinator) -> Vec<BtcNetwork> {
        let cohorts = machine.state().cohorts.values();
        let concerned = cohorts.filter(|cohort| !matches!(cohort.phase, Phase::Failed(_)));
        concerned.map(|cohort| cohort.terms.btc_network).collect()
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
            Input::Command(command) => {
                matches!(
                    command,
                    Command::Advertise { .. } | Command::StartRound { .. }
                )
            }
            Input::Message { from, message, .. } => match message {
                Message::Subscribe(_) | Message::DidContest(_) => true,
                // A sign of life of somebody who has a seat.
                Message::OptIn(body) => {
                    let known = machine.state().cohorts.get(&body.cohort_id);
                    known.is_none_or(|cohort| !cohort.members.contains_key(from))
                }
                // Who asks for proofs wants to prove what was signed.
                Message::DidRegistration(body) => body.from_round.is_none(),
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
        if let Some(address) = params.close_to {
            let network = self.network.bitcoin();
            let address = address.require_network(network).map_err(|error| {
                RpcError::invalid_params(format!(
                    "close_to: expected an address on {}: {error}",
                    self.network
                ))
            })?;
            default(
                "close_script",
                address.script_pubkey().to_hex_string().into(),
            );
        }
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
        if terms.btc_network != self.network {
            return Err(RpcError::invalid_params(format!(
                "btc_network: got {}, expected {}, the network of this coordinator's chain source",
                terms.btc_network, self.network
            )));
        }
        within("max_members", terms.max_members, self.max_members)?;
        let indexes = self.max_indexes_per_member;
        within(
            "max_indexes_per_member",
            terms.max_indexes_per_member,
            indexes,
        )?;
        let cohort = CohortId(Uuid::new_v4());
        let mut answer =
            json!({ "cohort_id": cohort, "terms_hash": terms.hash(), "terms": terms.value() });
        warn_of_the_tree(&terms, &mut answer);
        warn_of_the_close(&terms, &mut answer);
        let invited = peers(&params.invited);
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

fn replace(cohort: &Cohort, params: &AtFeeRate) -> Call<Command> {
    let id = params.cohort_id;
    let replaced = cohort.replaceable().map(|signal| signal.txid);
    let command = Command::Replace {
        cohort: id,
        fee_rate: params.fee_rate,
    };
    Call::Command(command, json!({ "cohort_id": id, "replaces": replaced }))
}

fn close(
    machine: &Coordinator,
    cohort: &Cohort,
    params: &AtFeeRate,
) -> Result<Call<Command>, RpcError> {
    let id = params.cohort_id;
    let built = machine.build_close(cohort, params.fee_rate);
    let (tx, spent) = built.map_err(RpcError::failed)?;
    let held: u64 = spent.iter().map(|output| output.value).sum();
    let paid: u64 = tx.output.iter().map(|output| output.value.to_sat()).sum();
    let command = Command::Close {
        cohort: id,
        fee_rate: params.fee_rate,
    };
    let answer = json!({
        "cohort_id": id,
        "txid": tx.compute_txid(),
        "paid_sat": paid,
        "fee_sat": held.saturating_sub(paid),
    });
    Ok(Call::Command(command, answer))
}

fn dissolve(params: &Dissolve) -> Call<Command> {
    let command = Command::Dissolve {
        cohort: params.cohort_id,
        without: peers(&params.without),
        successor: params.successor,
    };
    Call::Command(command, json!({ "cohort_id": params.cohort_id }))
}

fn exported(machine: &Coordinator, params: &OneEvidence) -> Result<Value, RpcError> {
    let OneEvidence { cohort_id, number } = params;
    let evidence = number.checked_sub(1).and_then(|at| {
        let cohort = machine.state().cohorts.get(cohort_id)?;
        cohort.evidence().nth(at)
    });
    let expected = "expected one of `evidence list`";
    let evidence = evidence.ok_or_else(|| {
        RpcError::failed(format!(
            "got evidence {number} of cohort {cohort_id}, {expected}"
        ))
    })?;
    Ok(json!({ "evidence": evidence }))
}

/// The PSBT of a session under way, or signed.
fn psbt(machine: &Coordinator, session: SessionId) -> Result<Value, RpcError> {
    let mut cohorts = machine.state().cohorts.values();
    let found = cohorts.find_map(|cohort| Some((cohort.id, cohort.psbt(session)?)));
    let (cohort, psbt) = found.ok_or_else(|| {
        RpcError::failed(format!(
            "got session {session}, expected one that is under way or was signed: see `session list`"
        ))
    })?;
    let psbt = psbt.map_err(RpcError::failed)?;
    Ok(json!({
        "cohort_id": cohort,
        "session_id": session,
        "txid": psbt.unsigned_tx.compute_txid(),
        "finished": is_finished(&psbt),
        "psbt": to_base64(&psbt).map_err(RpcError::failed)?,
    }))
}

/// What the operator sees first.
fn status(machine: &Coordinator, identities: &mut Identities) -> Result<Value, RpcError> {
    Ok(json!({
        "did": own_did(identities)?["did"],
        "subscribers": machine.state().subscribers.len(),
        "fee_rate": {
            "sat_vb": machine.wanted_fee_rate(),
            "source": machine.fee_rate_source(),
        },
        "cohorts": summaries(machine),
    }))
}

fn peers(dids: &BTreeSet<Did>) -> BTreeSet<PeerId> {
    dids.iter().map(|did| PeerId::new(did.as_str())).collect()
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
