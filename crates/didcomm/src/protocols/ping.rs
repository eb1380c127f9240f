//! trust-ping 2.0: is anybody there?

use serde_json::{Value, json};
use uuid::Uuid;

use super::reply;
use crate::message::Plaintext;
use crate::unpack::Verified;

/// Type of a ping.
pub const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";
/// Type of its answer.
pub const PING_RESPONSE: &str = "https://didcomm.org/trust-ping/2.0/ping-response";

/// A ping that asks for an answer.
pub fn ping(id: Uuid, now: u64) -> Plaintext {
    Plaintext::new(id, PING, now).with_body(json!({ "response_requested": true }))
}

/// The answer to a ping; `None` when the message is none, or wants none.
pub fn answer_ping(received: &Verified, id: Uuid, now: u64) -> Option<Plaintext> {
    let message = received.message();
    let wanted = message.body.get("response_requested") != Some(&Value::Bool(false));
    (message.kind == PING && wanted).then(|| reply(received, PING_RESPONSE, id, now))
}
