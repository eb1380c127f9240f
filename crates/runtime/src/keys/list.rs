//! Which keys an agent has: where they are below its seed, what they are for, and what is public of them.

use beacon_cohort::participant::Participant;
use serde_json::{Value, json};

use super::cohort_path;
use crate::control::RpcError;
use crate::identities::Identities;

/// A coordinator's: one identity.
pub fn of_coordinator(identities: &mut Identities) -> Result<Value, RpcError> {
    identity(identities, 0, "this coordinator's DID").map(|identity| json!([identity]))
}

/// A participant's: an identity for each coordinator, a key for each cohort that it wanted to join, and those of its DIDs.
pub fn of_participant(
    machine: &Participant,
    identities: &mut Identities,
    of_dids: Vec<Value>,
) -> Result<Value, RpcError> {
    let state = machine.state();
    let mut users: Vec<_> = state
        .coordinators
        .iter()
        .map(|(did, known)| (known.identity, format!("DID for coordinator {did}")))
        .collect();
    users.sort_unstable();
    if users.first().is_none_or(|(index, _)| *index != 0) {
        users.insert(0, (0, "DID, not shown to any coordinator yet".to_owned()));
    }
    let mut keys = Vec::new();
    for (index, purpose) in users {
        keys.push(identity(identities, index, &purpose)?);
    }
    keys.push(json!({ "path": "leaf-nonces", "purpose": "leaf nonces of all updates: no key, but as secret" }));
    for cohort in state.cohorts.values() {
        // One that is only advertised has no key yet.
        let Some(path) = &cohort.path else { continue };
        keys.push(json!({
            "path": cohort_path(path),
            "purpose": format!("share of the key of cohort {} of coordinator {}", cohort.id, cohort.coordinator),
            "stage": cohort.stage.name(),
            "public_key": cohort.key,
        }));
    }
    keys.extend(of_dids);
    Ok(keys.into())
}

fn identity(identities: &mut Identities, index: u32, purpose: &str) -> Result<Value, RpcError> {
    let did = identities.get(index).map_err(RpcError::failed)?.did();
    Ok(json!({
        "path": [format!("identity/ed25519/{index}"), format!("identity/x25519/{index}")],
        "purpose": purpose,
        "did": did,
    }))
}
