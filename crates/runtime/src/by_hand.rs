//! DIDComm by hand: resolve, pack, unpack and send, for people who want to see what agents do.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use beacon_didcomm::{Did, Endpoint, Plaintext, Resolver, ReturnRoute, UnpackLimits, pack, unpack};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use url::Url;
use uuid::Uuid;

use crate::cli::{Failure, Global, print_line};
use crate::control::RpcError;
use crate::driver::now;
use crate::identities::Identities;
use crate::params::read;
use crate::transport::{Inbound, Transport, TransportConfig};

/// A message to be packed: the parameters of `didcomm.pack`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    to: Did,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    body: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    envelope: String,
}

/// Answers `didcomm.pack` and `didcomm.unpack` with the agent's first identity.
pub fn call(identities: &mut Identities, method: &str, params: Value) -> Result<Value, RpcError> {
    match method {
        "didcomm.pack" => pack_draft(identities, params),
        "didcomm.unpack" => unpack_envelope(identities, params),
        other => Err(RpcError::method_not_found(other)),
    }
}

fn pack_draft(identities: &mut Identities, params: Value) -> Result<Value, RpcError> {
    let draft: Draft = read(params)?;
    if !draft.body.is_object() {
        return Err(RpcError::invalid_params(format!(
            "got body {}, expected a JSON object",
            draft.body
        )));
    }
    let message = Plaintext::new(Uuid::new_v4(), draft.kind, now().0)
        .with_body(draft.body)
        .with_return_route(ReturnRoute::All);
    let identity = identities.get(0).map_err(RpcError::failed)?;
    let packed =
        pack(identity, &draft.to, &message, &Resolver::default()).map_err(RpcError::failed)?;
    Ok(json!({
        "id": message.id,
        "from": identity.did(),
        "envelope": String::from_utf8_lossy(packed.frame()),
        "endpoint": packed.endpoint(),
    }))
}

fn unpack_envelope(identities: &mut Identities, params: Value) -> Result<Value, RpcError> {
    let envelope = read::<Envelope>(params)?.envelope;
    identities.get(0).map_err(RpcError::failed)?;
    let limits = UnpackLimits::default();
    let verified = unpack(
        envelope.as_bytes(),
        &*identities,
        &Resolver::default(),
        now().0,
        &limits,
    )
    .map_err(RpcError::failed)?;
    Ok(
        json!({ "sender": verified.sender(), "recipient": verified.recipient(), "message": verified.message() }),
    )
}

/// Whether a DID has the form of one that agents have. These resolve from their text alone.
pub fn is_of_agents(did: &str) -> bool {
    did.starts_with("did:peer:") || did.starts_with("did:key:")
}

/// Prints the DID resolution result of an agent's DID. Fails when there is no document.
pub fn resolve(did: &str) -> Result<(), Failure> {
    let result = Resolver::default().resolution(did);
    print_line(&serde_json::to_string_pretty(&result)?)?;
    let metadata = result.did_resolution_metadata;
    match (metadata.error, metadata.error_message) {
        (None, _) => Ok(()),
        (Some(code), message) => {
            let message = message.unwrap_or_default();
            Err(anyhow!("{did:.80} does not resolve: {code}: {message}").into())
        }
    }
}

/// The parameters of `didcomm.pack`.
pub fn draft(to: &str, kind: &str, body: &str) -> Result<Value, Failure> {
    let body: Value = serde_json::from_str(body)
        .with_context(|| format!("got body {body:?}, expected a JSON object"))
        .map_err(Failure::usage)?;
    Ok(json!({ "to": to, "type": kind, "body": body }))
}

/// The parameters of `didcomm.unpack`, from a file or standard input.
pub fn envelope(file: Option<&Path>) -> Result<Value, Failure> {
    let limit = UnpackLimits::default().max_bytes as u64 + 1;
    let mut text = String::new();
    match file {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_string(&mut text))
            .with_context(|| format!("cannot read {}", path.display())),
        None => std::io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text)
            .context("cannot read standard input"),
    }
    .map_err(Failure::usage)?;
    Ok(json!({ "envelope": text.trim() }))
}

/// Sends a packed message to its endpoint, and prints what comes back on the same socket within `wait` seconds.
pub async fn send(global: &Global, packed: &Value, wait: u64) -> Result<Option<Value>, Failure> {
    let endpoint: Endpoint = serde_json::from_value(packed["endpoint"].clone())
        .context("the recipient's DID document names no endpoint: it cannot be dialled")?;
    let url: Url = match endpoint {
        Endpoint::Uri(url) => url,
        Endpoint::Queue => {
            return Err(anyhow!(
                "the recipient has no endpoint that can be dialled: it opens sockets itself"
            )
            .into());
        }
    };
    let frame = packed["envelope"]
        .as_str()
        .unwrap_or_default()
        .as_bytes()
        .to_vec();
    let (inbound, mut frames) = mpsc::channel(8);
    let transport = Transport::start(TransportConfig::default(), inbound).await?;
    // The user named the recipient: private addresses are the user's choice.
    let connection = transport.dial(&url, true).await?;
    transport.send(connection, frame)?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let answer = match timeout_at(deadline, frames.recv()).await {
        Ok(Some(Inbound::Frame { bytes, .. })) => {
            Some(json!({ "envelope": String::from_utf8_lossy(&bytes) }))
        }
        Ok(Some(Inbound::Closed { .. }) | None) | Err(_) => None,
    };
    transport.shutdown().await;
    if answer.is_none() {
        global.print(&json!({ "sent": packed["id"], "to": url.as_str(), "answer": null }))?;
    }
    Ok(answer)
}
