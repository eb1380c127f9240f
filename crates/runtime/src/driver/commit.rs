//! One step's way to the disk and into the world.

use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::{Effect, Input, Machine, Rejection, Step};
use beacon_cohort::message::{Message, TYPE_PREFIX};
use beacon_didcomm::{Did, Packed, Plaintext, ReturnRoute, Verified, pack, protocols};
use uuid::Uuid;

use super::inbound::problem_report;
use super::{Driver, DriverError, excerpt, now};
use crate::agent::Agent;
use crate::outbox::thread_of;
use crate::store::{Batch, OutboxRow, Seen, SeenRow};
use crate::transport::ConnectionId;

/// Seconds that a message of ours is valid at the longest: peers refuse what lives for more than 30 days.
const LONGEST_LIFE_S: u64 = 29 * 86_400;

/// The message that led to a step.
pub(super) struct Cause<'a> {
    pub(super) verified: &'a Verified,
    pub(super) connection: ConnectionId,
    /// Kinds of waiting messages on this thread that it answers.
    pub(super) answers: &'static [&'static str],
    pub(super) thread: String,
}

impl<A: Agent> Driver<A> {
    /// Commits a step, applies it, carries its effects out. `false` when the store refused it: nothing has happened then.
    pub(super) fn commit(
        &mut self,
        step: Step<<A::Machine as Machine>::Event>,
        cause: Option<&Cause<'_>>,
    ) -> Result<bool, DriverError> {
        let Step { events, effects } = step;
        if events.is_empty() && effects.is_empty() {
            let Some(cause) = cause else {
                return Ok(true);
            };
            if self.answered(cause).is_empty() {
                // Nothing to remember: the same message would change nothing again. It is acknowledged where it asks.
                if let Some(frame) = self.acknowledgement(cause.verified) {
                    self.answer(cause.connection, frame);
                }
                return Ok(true);
            }
        }
        let mut batch = Batch::default();
        for event in &events {
            let bytes = serde_json::to_vec(event).map_err(|fault| DriverError::Log {
                seq: self.last_seq + 1,
                fault: fault.to_string(),
            })?;
            batch.events.push(bytes);
        }
        let mut answers = Vec::new();
        let mut later = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send {
                    to,
                    message,
                    expires,
                } => {
                    let cause =
                        cause.filter(|cause| cause.verified.sender().as_str() == to.as_str());
                    // The first answer acknowledges what it answers.
                    let ack = cause
                        .filter(|_| answers.is_empty())
                        .map(|cause| cause.verified.message().id.as_str());
                    if let Some(row) = self.message_row(&to, &message, expires.0, ack) {
                        if cause.is_some() {
                            answers.push(row.packed.clone());
                        }
                        batch.outbox.push(row);
                    }
                }
                Effect::Report {
                    to,
                    cohort,
                    rejection,
                } => {
                    let cause =
                        cause.filter(|cause| cause.verified.sender().as_str() == to.as_str());
                    let ack = cause.map(|cause| cause.verified.message().id.as_str());
                    if let Some(row) = self.report_row(&to, cohort, &rejection, ack) {
                        if cause.is_some() {
                            answers.push(row.packed.clone());
                        }
                        batch.outbox.push(row);
                    }
                }
                other => later.push(other),
            }
        }
        let mut acknowledgement = None;
        if let Some(cause) = cause {
            if answers.is_empty() {
                acknowledgement = self.acknowledgement(cause.verified);
                answers.extend(acknowledgement.clone());
            }
            batch.retire = self.answered(cause);
            batch.seen = Some(self.seen_row(cause.verified, answers));
        }
        for row in &batch.outbox {
            batch.retire.extend(self.outbox.superseded(row));
        }
        if !self.write(&batch)? {
            return Ok(false);
        }
        for event in &events {
            self.machine.apply(event);
            if let Some(alarm) = A::alarm(event) {
                tracing::error!("{alarm}");
            }
        }
        let first = self.last_seq + 1 - events.len() as u64;
        self.followers.publish(first, &events, &self.counts);
        self.outbox.take(batch.retire, batch.outbox);
        if let (Some(bytes), Some(cause)) = (acknowledgement, cause) {
            // An acknowledgement that is lost is asked for again, by the message coming again.
            self.answer(cause.connection, bytes);
        }
        for effect in later {
            self.carry_out(effect);
        }
        Ok(true)
    }

    /// Ids of the waiting messages that this one acknowledges, or answers on its thread.
    pub(super) fn answered(&self, cause: &Cause<'_>) -> Vec<String> {
        let (from, message) = (cause.verified.sender().as_str(), cause.verified.message());
        self.outbox
            .answered(from, &message.ack, &cause.thread, cause.answers)
    }

    /// `false` when the store refused the batch as a whole.
    fn write(&mut self, batch: &Batch) -> Result<bool, DriverError> {
        match self.store.commit(batch) {
            Ok(seq) => {
                self.last_seq = seq;
                Ok(true)
            }
            Err(error) if error.is_refusal() => {
                self.counts.add("store-full");
                tracing::warn!(%error, "the store refused a step");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Sign(request) => {
                if let Some(answer) = self.agent.sign(request) {
                    self.pending.push_back(Input::Signer(answer));
                }
            }
            Effect::Broadcast(tx) => {
                if !self.watcher.broadcast(tx) {
                    self.counts.add("chain-busy");
                    tracing::warn!(
                        "chain source is busy: the transaction is given to it again later"
                    );
                }
            }
            Effect::ProveControl(question) => {
                if !self.watcher.judge(*question) {
                    self.counts.add("chain-busy");
                }
            }
            // In the outbox since the commit.
            Effect::Send { .. } | Effect::Report { .. } => {}
        }
    }

    /// An outbox row for a message of the protocol.
    fn message_row(
        &mut self,
        to: &PeerId,
        message: &Message,
        expires: u64,
        ack: Option<&str>,
    ) -> Option<OutboxRow> {
        let uri = format!("{TYPE_PREFIX}{}", message.kind());
        let body = match message.body() {
            Ok(body) => body,
            Err(error) => {
                self.not_sent(message.kind(), to.as_str(), &error.to_string());
                return None;
            }
        };
        let plaintext = Plaintext::new(Uuid::new_v4(), uri, now().0)
            .with_body(body)
            .expiring_at(expires.clamp(now().0 + 1, now().0 + LONGEST_LIFE_S));
        let plaintext = match message.thread() {
            (Some(cohort), Some(session)) => plaintext
                .with_thid(session.to_string())
                .with_pthid(cohort.to_string()),
            (Some(cohort), None) => plaintext.with_thid(cohort.to_string()),
            (None, _) => plaintext,
        };
        self.row(to, plaintext, message.kind(), thread_of(message), ack)
    }

    /// An outbox row for a problem report that a machine wants delivered.
    fn report_row(
        &mut self,
        to: &PeerId,
        cohort: CohortId,
        rejection: &Rejection,
        ack: Option<&str>,
    ) -> Option<OutboxRow> {
        let code = rejection.code.as_str();
        tracing::warn!(code, to = %excerpt(to.as_str()), comment = %rejection, "reporting a problem");
        let report = problem_report(code, &rejection.to_string())?;
        let mut plaintext = report.about(&cohort.to_string(), "", Uuid::new_v4(), now().0);
        plaintext.ack.clear();
        self.row(to, plaintext, "problem-report", cohort.to_string(), ack)
    }

    /// An outbox row; `None` when the message cannot be packed or the peer's queue is full, which is logged.
    fn row(
        &mut self,
        to: &PeerId,
        mut plaintext: Plaintext,
        kind: &str,
        thid: String,
        ack: Option<&str>,
    ) -> Option<OutboxRow> {
        if !self.outbox.has_room(to.as_str(), kind) {
            self.not_sent(kind, to.as_str(), "too many messages wait for this peer");
            return None;
        }
        plaintext.please_ack.push(String::new());
        plaintext.ack.extend(ack.map(str::to_owned));
        let (id, expires) = (
            plaintext.id.clone(),
            plaintext.expires_time.unwrap_or_default(),
        );
        match self.pack_for(None, to.as_str(), plaintext) {
            Ok((from, packed)) => Some(OutboxRow {
                id,
                from,
                to: to.as_str().to_owned(),
                kind: kind.to_owned(),
                thid,
                expires,
                packed: packed.frame().to_vec(),
            }),
            Err(reason) => {
                self.not_sent(kind, to.as_str(), &reason);
                None
            }
        }
    }

    fn not_sent(&mut self, kind: &str, to: &str, reason: &str) {
        if self.is_first("not-sent", to, self.is_partner(to)) {
            tracing::warn!(kind, to = %excerpt(to), reason, "message is not sent");
        }
    }

    /// Packs a message: under the identity `own` that it answers for, or the one that this peer knows. Gives the
    /// sender's DID with it.
    pub(super) fn pack_for(
        &mut self,
        own: Option<&Did>,
        to: &str,
        plaintext: Plaintext,
    ) -> Result<(String, Packed), String> {
        let recipient: Did = to.parse().map_err(|error| format!("{error}"))?;
        let index = self.agent.identity_for(&self.machine, &PeerId::new(to));
        // An answer comes from whom the message was meant for: a stranger learns no other identity of ours.
        let answering = own
            .and_then(|own| self.identities.index_of(own))
            .unwrap_or(index);
        let identity = self
            .identities
            .get(answering)
            .map_err(|error| error.to_string())?;
        let plaintext = plaintext.with_return_route(ReturnRoute::All);
        let packed = pack(identity, &recipient, &plaintext, &self.resolver)
            .map_err(|error| error.to_string())?;
        Ok((identity.did().to_string(), packed))
    }

    /// Packs an answer for the socket on which the question came: never wrapped for a mediator.
    pub(super) fn answer_frame(&mut self, to: &Verified, answer: Plaintext) -> Option<Vec<u8>> {
        let (own, peer) = (to.recipient(), to.sender().as_str());
        let packed = self.pack_for(Some(own), peer, answer);
        packed.map(|(_, packed)| packed.envelope().to_vec()).ok()
    }

    pub(super) fn acknowledgement(&mut self, verified: &Verified) -> Option<Vec<u8>> {
        let message = protocols::acknowledge(verified, Uuid::new_v4(), now().0)?;
        self.answer_frame(verified, message)
    }

    fn seen_row(&self, verified: &Verified, answers: Vec<Vec<u8>>) -> SeenRow {
        SeenRow {
            sender: verified.sender().to_string(),
            id: verified.message().id.clone(),
            // Strangers may fill half of the table only.
            privileged: self.is_partner(verified.sender().as_str()),
            seen: Seen {
                // It is accepted up to that second, so it is remembered past it.
                expires: verified
                    .expires_at()
                    .saturating_add(self.config.limits.skew)
                    .saturating_add(1),
                answers,
            },
        }
    }
}
