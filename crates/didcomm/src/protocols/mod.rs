//! The small standard protocols that every agent speaks beside its own.
//!
//! Answers are pure functions of a [`Verified`] message: there is no way to answer somebody who was not proven. Message
//! ids and the time come from the caller.

mod discover;
mod invitation;
mod ping;
mod report;

pub use discover::{DISCLOSE, Disclosure, Feature, QUERIES, answer_queries, queries};
pub use invitation::{INVITATION, Invitation, InvitationError};
pub use ping::{PING, PING_RESPONSE, answer_ping, ping};
pub use report::{PROBLEM_REPORT, ProblemReport, ReportError};

use uuid::Uuid;

use crate::message::Plaintext;
use crate::unpack::Verified;

/// Type of a message that says nothing in its body and carries headers such as `ack` (empty 1.0).
pub const EMPTY: &str = "https://didcomm.org/empty/1.0/empty";

/// Acknowledges a message that asks for it in `please_ack` (by an empty string or by its own id).
pub fn acknowledge(received: &Verified, id: Uuid, now: u64) -> Option<Plaintext> {
    let message = received.message();
    let asked = message
        .please_ack
        .iter()
        .any(|asked| asked.is_empty() || *asked == message.id);
    asked.then(|| reply(received, EMPTY, id, now).with_ack(message.id.clone()))
}

/// A message in the thread of another.
fn reply(received: &Verified, kind: &str, id: Uuid, now: u64) -> Plaintext {
    Plaintext::new(id, kind, now).with_thid(received.message().thread())
}
