//! The participant's role: its control methods and its signer.

mod psbt;
mod view;

use std::sync::Arc;

use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::Input;
use beacon_cohort::message::{Message, Subscribe};
use beacon_cohort::participant::{
    Command, Event, LeafSecret, Membership, Participant, Policy, Stage,
};
use beacon_cohort::signer::{KeyPath, LocalSigner, SignerAnswer, SignerRequest};
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::protocols::Invitation;
use beacon_didcomm::{Did, Resolver};
use beacon_signal::{Index, UpdateId};
use rand::rand_core::UnwrapErr;
use rand::rngs::OsRng;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::agent::{Agent, Call};
use crate::app::Home;
use crate::by_hand;
use crate::control::RpcError;
use crate::dids::{self, Dids};
use crate::identities::Identities;
use crate::keys::{KeyError, list};
use crate::params::read;
use crate::script_tree::{self, warn_of_the_close, warn_of_the_tree};
use crate::settings::Config;
pub(crate) use view::standing;
use view::{all_cohorts, all_sessions, rollbacks, warn_of_the_open};

/// Finds the secret key of a path.
pub type KeySource = Box<dyn Fn(KeyPath) -> Zeroizing<[u8; 32]> + Send>;

/// The role of a participant, with a signer in this process.
#[derive(Debug)]
pub struct ParticipantAgent {
    signer: LocalSigner<KeySource, UnwrapErr<OsRng>>,
    dids: Dids,
    /// Height of the chain source's last block.
    tip: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscribeParams {
    /// A DID, or an invitation's URL.
    coordinator: String,
    #[serde(flatten)]
    filter: Subscribe,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CoordinatorParam {
    coordinator: String,
}

/// A cohort that the user names: by its id, and by its coordinator where two of them use one id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    cohort_id: CohortId,
    #[serde(default)]
    coordinator: Option<String>,
}

impl Named {
    pub(crate) fn find<'a>(&self, machine: &'a Participant) -> Result<&'a Membership, RpcError> {
        let id = self.cohort_id;
        let unknown = || RpcError::failed(format!("unknown cohort {id}: see `cohorts`"));
        if let Some(coordinator) = &self.coordinator {
            let coordinator = PeerId::new(coordinator_did(coordinator)?.as_str());
            let found = machine.state().cohort_of(&coordinator, id);
            return found.ok_or_else(unknown);
        }
        let mut named = machine.state().cohorts_named(id);
        match (named.next(), named.next()) {
            (Some(cohort), None) => Ok(cohort),
            (None, _) => Err(unknown()),
            (Some(_), Some(_)) => Err(RpcError::invalid_params(format!(
                "several coordinators use the cohort id {id}: say which with `coordinator`"
            ))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinParams {
    #[serde(flatten)]
    named: Named,
    #[serde(default)]
    dids: Vec<String>,
    #[serde(default)]
    accept_script_tree: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    #[serde(flatten)]
    named: Named,
    did: Option<String>,
    /// 64 hex digits.
    update_hash: String,
    /// The `targetVersionId` to which it leads, at least 2.
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneSession {
    session_id: SessionId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionParams {
    session_id: SessionId,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FetchParams {
    #[serde(flatten)]
    named: Named,
    /// 64 hex digits each.
    #[serde(default)]
    update_hashes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmParams {
    cohort_id: Option<CohortId>,
    coordinator: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofParams {
    #[serde(flatten)]
    named: Named,
    did: Option<String>,
    txid: Option<bitcoin::Txid>,
}

/// The role and the machine that this configuration asks for. Cohort keys come from the home's seed.
pub fn role(home: &Home, config: &Config) -> Result<(ParticipantAgent, Participant), KeyError> {
    let seed = Arc::clone(&home.seed);
    let leaf_secret = LeafSecret::new(seed.leaf_secret());
    let dids = Dids::new(home.data_dir.path(), Arc::clone(&seed), config.network);
    let keys = move |path: KeyPath| {
        // A path that cannot be derived gives a key that libsecp256k1 refuses: the signer then says that it has none.
        seed.cohort_key(path.network.bitcoin(), path.steps())
            .unwrap_or_default()
    };
    let agent = ParticipantAgent::new(Box::new(keys), dids);
    let policy = Policy {
        auto_join: config.auto_join.clone(),
        accept_script_tree: config.accept_script_tree,
        auto_sign: config.auto_sign,
        max_coordinators: config.limits.max_coordinators,
        max_cohorts: config.limits.max_cohorts_per_coordinator,
        ..Policy::asking(config.network)
    };
    let machine = Participant::new(policy, leaf_secret);
    Ok((agent, machine))
}

/// What `did` shows while the agent does not run.
pub fn own_did(identities: &mut Identities) -> Result<Value, RpcError> {
    let identity = identities.get(0).map_err(RpcError::failed)?;
    Ok(json!({ "did": identity.did() }))
}

impl ParticipantAgent {
    /// A participant whose cohort keys come from `keys`, and which controls `dids`.
    pub fn new(keys: KeySource, dids: Dids) -> Self {
        Self {
            signer: LocalSigner::new(keys, UnwrapErr(OsRng)),
            dids,
            tip: None,
        }
    }

    fn subscribe(
        machine: &Participant,
        identities: &mut Identities,
        params: SubscribeParams,
    ) -> Result<Call<Command>, RpcError> {
        let coordinator = coordinator_did(&params.coordinator)?;
        Resolver::default()
            .resolve(&coordinator)
            .map_err(RpcError::failed)?;
        let identity = machine.state().next_identity;
        let own = identities
            .get(identity)
            .map_err(RpcError::failed)?
            .did()
            .clone();
        let coordinator = PeerId::new(coordinator.as_str());
        let known = machine.state().coordinators.get(&coordinator);
        let shown = known.map_or_else(|| own.to_string(), |known| known.own.to_string());
        let answer = json!({ "coordinator": coordinator, "own_did": shown });
        let own = PeerId::new(own.as_str());
        let filter = params.filter;
        Ok(Call::Command(
            Command::Subscribe {
                coordinator,
                own,
                identity,
                filter,
            },
            answer,
        ))
    }
}

impl Agent for ParticipantAgent {
    type Machine = Participant;

    const ROLE: &'static str = "participant";
    const MUST_BE_REACHABLE: bool = false;

    fn call(
        &self,
        machine: &Participant,
        identities: &mut Identities,
        method: &str,
        params: Value,
    ) -> Result<Call<Command>, RpcError> {
        let state = machine.state();
        let answer = match method {
            "did" => dids(machine, identities)?,
            method if method.starts_with("did.") => {
                return dids::call(&self.dids, machine, method, params);
            }
            "keys" => list::of_participant(machine, identities, dids::keys(&self.dids)?)?,
            "subscribe" => return Self::subscribe(machine, identities, read(params)?),
            "unsubscribe" => {
                let coordinator = coordinator_did(&read::<CoordinatorParam>(params)?.coordinator)?;
                let coordinator = PeerId::new(coordinator.as_str());
                let answer = json!({ "coordinator": coordinator });
                return Ok(Call::Command(Command::Unsubscribe { coordinator }, answer));
            }
            "cohorts" => all_cohorts(state, self.tip).into(),
            "join" => return join(machine, read(params)?),
            "leave" => {
                let named = read::<Named>(params)?;
                let cohort = named.find(machine)?.handle;
                let answer = json!({ "cohort_id": named.cohort_id });
                return Ok(Call::Command(Command::Leave { cohort }, answer));
            }
            "request_update" => return request_update(machine, read(params)?),
            "sessions" => all_sessions(state, self.tip).into(),
            "signer" => return psbt::signer(machine, read(params)?),
            "session.ask_psbt" => {
                let session = read::<OneSession>(params)?.session_id;
                let answer = json!({ "session_id": session });
                return Ok(Call::Command(Command::AskForPsbt { session }, answer));
            }
            "session.psbt" => {
                psbt::shown(machine, &self.dids, read::<OneSession>(params)?.session_id)?
            }
            "session.import_psbt" => return psbt::import(machine, &read(params)?),
            "approve" => {
                let session = read::<SessionParams>(params)?.session_id;
                return Ok(Call::Command(
                    Command::Approve { session },
                    json!({ "session_id": session }),
                ));
            }
            "decline" => {
                let SessionParams {
                    session_id,
                    comment,
                } = read(params)?;
                let answer = json!({ "session_id": session_id });
                return Ok(Call::Command(
                    Command::Decline {
                        session: session_id,
                        comment,
                    },
                    answer,
                ));
            }
            method if method.starts_with("tree.") => {
                script_tree::call(&self.dids, machine, method, params)?
            }
            "proof.export" => proof(machine, &read(params)?)?,
            "proof.fetch" => {
                let FetchParams {
                    named,
                    update_hashes,
                } = read(params)?;
                let cohort = named.find(machine)?;
                let updates = update_hashes.iter().map(|hash| UpdateId::from_hex(hash));
                let updates = updates
                    .collect::<Result<_, _>>()
                    .map_err(RpcError::invalid_params)?;
                let answer = json!({
                    "cohort_id": cohort.id,
                    "asked": "the coordinator is asked; what comes of it shows in `sessions` and `rollback show`",
                });
                let cohort = cohort.handle;
                return Ok(Call::Command(
                    Command::FetchProofs { cohort, updates },
                    answer,
                ));
            }
            "rollback.show" => rollbacks(state, self.tip).into(),
            "rollback.confirm" => return confirm_rollback(machine, read(params)?),
            "status" => json!({
                "coordinators": state.coordinators.iter().map(|(did, known)| json!({
                    "did": did,
                    "own_did": known.own,
                    "label": known.label,
                    "subscribed": known.subscribed,
                    "accepted": known.accepted,
                })).collect::<Vec<_>>(),
                "cohorts": all_cohorts(state, self.tip),
                "sessions": all_sessions(state, self.tip),
            }),
            other => by_hand::call(identities, other, params)?,
        };
        Ok(Call::Answer(answer))
    }

    fn saw_tip(&mut self, height: u32) {
        self.tip = Some(height);
    }

    fn alarm(event: &Event) -> Option<String> {
        event.alarm()
    }

    fn identity_for(&self, machine: &Participant, peer: &PeerId) -> u32 {
        // Only a subscription that is being made goes to a coordinator that is not known: under the next identity.
        let known = machine.state().coordinators.get(peer);
        known.map_or(machine.state().next_identity, |known| known.identity)
    }

    fn identity_count(&self, machine: &Participant) -> u32 {
        machine.state().next_identity.max(1)
    }

    fn keep_connected(&self, machine: &Participant) -> Vec<PeerId> {
        machine.state().coordinators.keys().cloned().collect()
    }

    fn networks(&self, machine: &Participant) -> Vec<BtcNetwork> {
        let cohorts = machine.state().cohorts.values();
        let concerns = |cohort: &&Membership| cohort.is_watched() || cohort.live().next().is_some();
        let concerned = cohorts.filter(concerns);
        concerned.map(|cohort| cohort.terms.btc_network).collect()
    }

    /// A coordinator that the user chose.
    fn is_partner(&self, machine: &Participant, peer: &PeerId) -> bool {
        machine.state().coordinators.contains_key(peer)
    }

    fn begins(&self, _: &Participant, input: &Input<Command>) -> bool {
        match input {
            Input::Command(command) => matches!(
                command,
                Command::Subscribe { .. }
                    | Command::Join { .. }
                    | Command::Contest { .. }
                    | Command::RequestUpdate { .. }
                    | Command::AnnounceSingleton { .. }
            ),
            Input::Message { message, .. } => matches!(
                message,
                Message::CohortAdvert(_)
                    | Message::UpdateOpportunity(_)
                    | Message::AuthorizationRequest(_)
            ),
            _ => false,
        }
    }

    fn sign(&mut self, request: SignerRequest) -> Option<SignerAnswer> {
        self.signer.handle(request)
    }
}

/// The DID of a coordinator, given as such or within an invitation.
fn coordinator_did(text: &str) -> Result<Did, RpcError> {
    if text.contains("_oob=") {
        return Invitation::from_link(text)
            .map(|invitation| invitation.from)
            .map_err(RpcError::invalid_params);
    }
    text.parse().map_err(RpcError::invalid_params)
}

fn join(machine: &Participant, params: JoinParams) -> Result<Call<Command>, RpcError> {
    let JoinParams {
        named,
        dids,
        accept_script_tree,
    } = params;
    let membership = named.find(machine)?;
    let cohort = membership.handle;
    for did in &dids {
        dids::check_network_of(membership, did)?;
    }
    let mut answer = json!({ "cohort_id": named.cohort_id, "dids": dids });
    warn_of_the_open(membership, &mut answer);
    warn_of_the_tree(&membership.terms, &mut answer);
    warn_of_the_close(&membership.terms, &mut answer);
    if let Some(tree) = membership.terms.script_tree.as_ref()
        && membership.stage == Stage::Advertised
        && !accept_script_tree
    {
        return Err(RpcError::failed(format!(
            "in this cohort {}. Join it with --accept-script-tree if you agree to that",
            tree.consequences().join("; and ")
        )));
    }
    let command = Command::Join {
        cohort,
        dids,
        accept_script_tree,
    };
    Ok(Call::Command(command, answer))
}

fn request_update(machine: &Participant, params: UpdateParams) -> Result<Call<Command>, RpcError> {
    let update = UpdateId::from_hex(&params.update_hash).map_err(RpcError::invalid_params)?;
    let membership = params.named.find(machine)?;
    let (cohort, id) = (membership.handle, membership.id);
    let registered = Some(&membership.dids).filter(|dids| dids.len() == 1);
    let only = registered.and_then(|dids| dids.values().next().cloned());
    let did = params.did.or(only).ok_or_else(|| {
        RpcError::invalid_params("did is needed: the cohort does not have exactly one of ours")
    })?;
    let mut answer = json!({ "cohort_id": id, "did": did, "update_id": update });
    if let Some(version) = params.version {
        answer["version"] = json!(version);
    }
    Ok(Call::Command(
        Command::RequestUpdate {
            cohort,
            did,
            update,
            version: params.version,
        },
        answer,
    ))
}

fn confirm_rollback(
    machine: &Participant,
    params: ConfirmParams,
) -> Result<Call<Command>, RpcError> {
    let ConfirmParams {
        cohort_id,
        coordinator,
    } = params;
    let cohort = match cohort_id {
        None => None,
        Some(cohort_id) => {
            let named = Named {
                cohort_id,
                coordinator,
            };
            Some(named.find(machine)?.handle)
        }
    };
    let answer = json!({ "cohort_id": cohort_id, "confirmed": true });
    Ok(Call::Command(Command::ConfirmRollback { cohort }, answer))
}

fn dids(machine: &Participant, identities: &mut Identities) -> Result<Value, RpcError> {
    identities.get(0).map_err(RpcError::failed)?;
    let coordinators = &machine.state().coordinators;
    let used_for = |did: &Did| {
        let user = coordinators
            .iter()
            .find(|(_, known)| known.own.as_str() == did.as_str());
        user.map(|(coordinator, _)| coordinator.clone())
    };
    let all: Vec<_> = identities
        .dids()
        .map(|did| json!({ "did": did, "coordinator": used_for(did) }))
        .collect();
    Ok(json!({ "did": all[0]["did"], "identities": all }))
}

/// The one index, if it is one.
fn only<'a>(mut indexes: impl Iterator<Item = &'a Index>) -> Option<Index> {
    let first = indexes.next().copied();
    first.filter(|_| indexes.next().is_none())
}

/// The complete proof, or the map, of one DID in one signal that we signed; without a txid, in the newest.
fn proof(machine: &Participant, params: &ProofParams) -> Result<Value, RpcError> {
    let cohort = params.named.find(machine)?;
    let mut signals = cohort.candidates.iter().rev();
    let candidate = signals.find(|signed| match params.txid {
        Some(txid) => signed.txid == txid,
        None => !signed.is_close(),
    });
    let candidate = candidate
        .ok_or_else(|| RpcError::failed("no such signal was signed here: see `sessions`"))?;
    let index = match &params.did {
        Some(did) => Index::of_did(did),
        None => only(candidate.proofs.keys())
            .or(only(cohort.dids.keys()))
            .ok_or_else(|| {
                RpcError::invalid_params("did is needed: the signal has several of ours")
            })?,
    };
    let proof = candidate.proofs.get(&index).map(|proof| json!(proof));
    let map = candidate.map.as_ref().map(|map| json!(map));
    let (Some(did), Some(proof)) = (cohort.dids.get(&index), proof.or(map)) else {
        return Err(RpcError::failed(
            "the cohort has no such DID of ours: see `cohorts`",
        ));
    };
    Ok(
        json!({ "did": did, "txid": candidate.txid, "root": candidate.root.map(|root| root.to_hex()), "proof": proof }),
    )
}
