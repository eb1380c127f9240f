//! Plaintext messages as they cross the simulated network, with the headers that the driver gives its own.

use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::Rejection;
use beacon_cohort::message::{Message, TYPE_PREFIX};
use beacon_runtime::outbox::thread_of;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Builder;

/// Type of a message that says nothing but "processed".
pub(super) const EMPTY: &str = "https://didcomm.org/empty/1.0/empty";
/// Type of a problem report.
pub(super) const REPORT: &str = "https://didcomm.org/report-problem/2.0/problem-report";
/// Seconds for which receipts and reports are of use.
const EXPIRY_S: u64 = 86_400;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) from: PeerId,
    pub(super) to: Vec<PeerId>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) thid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pthid: Option<String>,
    /// Messages that were processed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ack: Vec<String>,
    /// Whether it waits in its sender's outbox until it is acknowledged.
    #[serde(default)]
    pub(super) please_ack: bool,
    pub(super) expires_time: u64,
    pub(super) body: Value,
}

/// Who writes, and when.
pub(super) struct Pen<'a> {
    pub(super) from: PeerId,
    pub(super) now: Timestamp,
    pub(super) rng: &'a mut ChaCha20Rng,
}

impl Pen<'_> {
    /// A message of the protocol.
    pub(super) fn message(
        &mut self,
        to: &PeerId,
        message: &Message,
        expires: Timestamp,
        ack: Option<&str>,
    ) -> Result<Envelope, serde_json::Error> {
        let kind = format!("{TYPE_PREFIX}{}", message.kind());
        let mut envelope = self.write(to, kind, message.body()?, expires);
        envelope.thid = thread_of(message);
        if let (Some(cohort), Some(_)) = message.thread() {
            envelope.pthid = Some(cohort.to_string());
        }
        envelope.ack = ack.map(str::to_owned).into_iter().collect();
        Ok(envelope)
    }

    /// A receipt for a message that nothing else answers.
    pub(super) fn receipt(&mut self, to: &PeerId, about: &str) -> Envelope {
        let expires = self.now.after(EXPIRY_S);
        let mut envelope = self.write(to, EMPTY.to_owned(), json!({}), expires);
        envelope.ack = vec![about.to_owned()];
        envelope
    }

    /// A problem report on a parent thread. It says which message it is about, if there is one.
    pub(super) fn report(
        &mut self,
        to: &PeerId,
        parent: String,
        about: Option<&str>,
        rejection: &Rejection,
    ) -> Envelope {
        let body = json!({ "code": rejection.code.as_str(), "comment": rejection.to_string() });
        let expires = self.now.after(EXPIRY_S);
        let mut envelope = self.write(to, REPORT.to_owned(), body, expires);
        envelope.pthid = Some(parent);
        envelope.ack = about.map(str::to_owned).into_iter().collect();
        envelope
    }

    fn write(&mut self, to: &PeerId, kind: String, body: Value, expires: Timestamp) -> Envelope {
        let mut random = [0; 16];
        self.rng.fill_bytes(&mut random);
        Envelope {
            id: Builder::from_random_bytes(random).into_uuid().to_string(),
            kind,
            from: self.from.clone(),
            to: vec![to.clone()],
            thid: String::new(),
            pthid: None,
            ack: Vec::new(),
            please_ack: false,
            expires_time: expires.0,
            body,
        }
    }
}
