//! What comes in on sockets: opened, proven, checked for repetition, and handed to the machine or answered.

use std::net::{IpAddr, SocketAddr};

use beacon_cohort::ids::PeerId;
use beacon_cohort::machine::{Code, Input, Step};
use beacon_cohort::message::{Message, MessageError};
use beacon_didcomm::protocols::{
    self, DISCLOSE, EMPTY, PING, PING_RESPONSE, PROBLEM_REPORT, ProblemReport, QUERIES,
};
use beacon_didcomm::{Plaintext, ReturnRoute, UnpackError, Verified, unpack};
use uuid::Uuid;

use super::commit::Cause;
use super::{Driver, DriverError, excerpt, now};
use crate::agent::Agent;
use crate::outbox::thread_of;
use crate::transport::{ConnectionId, network};

/// Seconds that a message may live of somebody who is no member and no coordinator of ours: its id is remembered until
/// then. A day, and what clocks may differ by.
const MAX_LIFE_OF_STRANGERS_S: u64 = 86_400 + 600;
impl<A: Agent> Driver<A> {
    pub(super) fn frame(
        &mut self,
        connection: ConnectionId,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        let opened = unpack(
            bytes,
            &self.identities,
            &self.resolver,
            now().0,
            &self.config.limits,
        );
        let verified = match opened {
            Ok(verified) => verified,
            Err(error) => {
                self.not_opened(connection, remote.ip(), &error);
                return Ok(());
            }
        };
        let (sender, id) = (verified.sender().clone(), verified.message().id.clone());
        let partner = self.is_partner(sender.as_str());
        if !self
            .rates
            .admits(sender.as_str(), network(remote.ip()), partner)
        {
            self.over_rate(connection, &verified, partner);
            return Ok(());
        }
        if let Some(seen) = self.store.seen(sender.as_str(), &id)? {
            self.counts.add("repeated");
            for answer in seen.answers {
                // On the way that the sender is known by: this socket may be somebody else's, replaying.
                match self.routes.connection(sender.as_str()) {
                    Some(connection) => self.answer(connection, answer),
                    None => self.counts.add("answer-not-sent"),
                }
            }
            return Ok(());
        }
        if !partner && verified.expires_at() > now().0 + MAX_LIFE_OF_STRANGERS_S {
            let comment = "expires too late for a message of somebody with whom nothing was agreed";
            self.reject(connection, &verified, "e.m.lives-too-long", comment);
            return Ok(());
        }
        // What is refused or needs no record is remembered in memory only, and what was made before this process started
        // may have been heard by the one before: neither may lead answers to another socket a second time.
        let fresh = self.recent.insert(sender.as_str(), &id)
            && verified
                .message()
                .created_time
                .is_some_and(|created| created >= self.config.started.0);
        // What is sent to a peer behind a mediator is wrapped for the mediator, and of no use on the peer's own socket.
        if fresh
            && verified.message().return_route == Some(ReturnRoute::All)
            && self.routes.connection(sender.as_str()) != Some(connection)
            && !self.is_forwarded(sender.as_str())
        {
            self.bind(sender.as_str(), connection);
        }
        self.verified(connection, &verified)
    }

    fn not_opened(&mut self, connection: ConnectionId, remote: IpAddr, error: &UnpackError) {
        let Some(sender) = error.proven_sender().cloned() else {
            if self.is_first(error.kind(), &network(remote).to_string(), false) {
                tracing::warn!(kind = error.kind(), %remote, %error, "refused a message");
            }
            return;
        };
        // Once per kind and peer: whoever's clock is wrong would refuse every report and be refused again.
        let partner = self.is_partner(sender.as_str());
        if self.is_first(error.kind(), sender.as_str(), partner) {
            tracing::warn!(kind = error.kind(), from = %excerpt(sender.as_str()), %error, "refused a message");
            let code = format!("e.m.{}", error.kind());
            let Some(report) = problem_report(&code, &error.to_string()) else {
                return;
            };
            let mut message = report.about(
                error.thread_id().unwrap_or_default(),
                error.message_id().unwrap_or_default(),
                Uuid::new_v4(),
                now().0,
            );
            if error.message_id().is_none() {
                // Encrypted by whom it says, but not a message: there is nothing to refer to.
                message.pthid = None;
                message.ack.clear();
            }
            let packed = self.pack_for(error.recipient(), sender.as_str(), message);
            match packed {
                Ok((_, packed)) => self.answer(connection, packed.envelope().to_vec()),
                Err(_) => self.counts.add("answer-not-sent"),
            }
        }
    }

    fn verified(
        &mut self,
        connection: ConnectionId,
        verified: &Verified,
    ) -> Result<(), DriverError> {
        let message = verified.message();
        let plain = |answers| Cause {
            verified,
            connection,
            answers,
            thread: String::new(),
        };
        match message.kind.as_str() {
            PING | QUERIES => {
                let answer =
                    protocols::answer_ping(verified, Uuid::new_v4(), now().0).or_else(|| {
                        protocols::answer_queries(
                            verified,
                            &self.config.disclosure,
                            Uuid::new_v4(),
                            now().0,
                        )
                    });
                if let Some(answer) = answer {
                    self.send_once(connection, verified, answer);
                }
                Ok(())
            }
            EMPTY | PING_RESPONSE | DISCLOSE => {
                let cause = plain(&[]);
                if !self.answered(&cause).is_empty() {
                    self.commit(Step::nothing(), Some(&cause))?;
                }
                Ok(())
            }
            PROBLEM_REPORT => self.problem(&plain(&[])),
            _ => self.protocol_message(connection, verified),
        }
    }

    fn protocol_message(
        &mut self,
        connection: ConnectionId,
        verified: &Verified,
    ) -> Result<(), DriverError> {
        let plaintext = verified.message();
        let message = match Message::parse(&plaintext.kind, &plaintext.body) {
            Ok(message) => message,
            Err(error) => {
                let code = match error {
                    MessageError::UnknownType(_) => Code::UnknownType,
                    MessageError::Malformed { .. } => Code::Malformed,
                };
                self.reject(connection, verified, code.as_str(), &error.to_string());
                return Ok(());
            }
        };
        let cause = Cause {
            verified,
            connection,
            answers: message.answers(),
            thread: thread_of(&message),
        };
        if let Some(fault) = misthreaded(&message, plaintext) {
            self.reject(connection, verified, Code::Malformed.as_str(), &fault);
            return Ok(());
        }
        let input = Input::Message {
            from: PeerId::new(verified.sender().as_str()),
            to: PeerId::new(verified.recipient().as_str()),
            message,
        };
        match self.step(input) {
            Ok(step) => {
                if !self.commit(step, Some(&cause))? {
                    self.out_of_room(connection, verified);
                }
                self.settle()
            }
            Err(rejection) => {
                self.reject(
                    connection,
                    verified,
                    rejection.code.as_str(),
                    &rejection.to_string(),
                );
                Ok(())
            }
        }
    }

    /// A problem report is recorded where it matters, logged, and never answered.
    fn problem(&mut self, cause: &Cause<'_>) -> Result<(), DriverError> {
        let message = cause.verified.message();
        let report = match ProblemReport::parse(message) {
            Ok(report) => report,
            Err(error) => {
                let sender = cause.verified.sender().as_str();
                if self.is_first("report-malformed", sender, self.is_partner(sender)) {
                    tracing::warn!(from = %excerpt(cause.verified.sender().as_str()), %error, "cannot read a problem report");
                }
                return Ok(());
            }
        };
        let comment = report.comment.unwrap_or_default();
        let sender = cause.verified.sender().as_str();
        let said = format!("{sender} {}", report.code);
        if self.is_first("problem-report", &said, self.is_partner(sender)) {
            tracing::warn!(from = %excerpt(cause.verified.sender().as_str()), code = %report.code, %comment, "peer reports a problem");
        }
        let input = Input::Problem {
            from: PeerId::new(cause.verified.sender().as_str()),
            cohort: message
                .pthid
                .as_deref()
                .and_then(|thread| thread.parse().ok()),
            code: report.code,
            comment,
        };
        let Ok(step) = self.step(input) else {
            return Ok(());
        };
        // Where there is no room for it, it is not acknowledged, and comes again.
        self.commit(step, Some(cause))?;
        self.settle()
    }

    /// Refuses a message of a proven sender: counted, logged once, answered with a problem report. Nothing is written.
    fn reject(&mut self, connection: ConnectionId, verified: &Verified, code: &str, comment: &str) {
        let sender = verified.sender();
        let partner = self.is_partner(sender.as_str());
        if self.is_first(code, sender.as_str(), partner) {
            tracing::warn!(code, from = %excerpt(sender.as_str()), comment, "refused a message");
        }
        self.report(connection, verified, code, comment);
    }

    /// Refuses a message that came too soon after others: counted each time, logged and answered once for a while.
    fn over_rate(&mut self, connection: ConnectionId, verified: &Verified, partner: bool) {
        let sender = verified.sender();
        if self.is_first(RATE_LIMITED, sender.as_str(), partner) {
            let comment = "too many messages in a short time: send more slowly, and send this one again later";
            tracing::warn!(code = RATE_LIMITED, from = %excerpt(sender.as_str()), "refuses messages of a peer that sends faster than its rate");
            self.report(connection, verified, RATE_LIMITED, comment);
        }
    }

    fn report(&mut self, connection: ConnectionId, verified: &Verified, code: &str, comment: &str) {
        let message = verified.message();
        // Two programs that refuse each other's reports would never end.
        if message.kind == PROBLEM_REPORT {
            return;
        }
        let Some(report) = problem_report(code, comment) else {
            return;
        };
        let report = report.about(message.thread(), &message.id, Uuid::new_v4(), now().0);
        self.send_once(connection, verified, report);
    }

    /// Says that there is no room now. No acknowledgement: the message is welcome when it comes again.
    fn out_of_room(&mut self, connection: ConnectionId, verified: &Verified) {
        let message = verified.message();
        let comment = "the store has no room for this now";
        self.counts.add(Code::Limit.as_str());
        if let Some(report) = problem_report(Code::Limit.as_str(), comment) {
            let mut report = report.about(message.thread(), &message.id, Uuid::new_v4(), now().0);
            report.ack.clear();
            self.send_once(connection, verified, report);
        }
    }

    /// Answers with a message that nobody needs to repeat.
    fn send_once(&mut self, connection: ConnectionId, to: &Verified, message: Plaintext) {
        match self.answer_frame(to, message) {
            Some(frame) => self.answer(connection, frame),
            None => self.counts.add("answer-not-sent"),
        }
    }

    /// Sends what is not sent again by itself: its loss is counted, and whoever needs it asks again.
    pub(super) fn answer(&self, connection: ConnectionId, frame: Vec<u8>) {
        if self.transport.send(connection, frame).is_err() {
            self.counts.add("answer-not-sent");
        }
    }

    /// Counts a refusal, and says whether it is to be logged and reported.
    pub(super) fn is_first(&mut self, kind: &str, peer: &str, partner: bool) -> bool {
        self.counts.add(kind);
        self.said.is_first(kind, peer, partner, now())
    }

    pub(super) fn is_partner(&self, peer: &str) -> bool {
        self.agent.is_partner(&self.machine, &PeerId::new(peer))
    }
}

/// Code of messages that came too soon after others.
const RATE_LIMITED: &str = "e.m.rate-limited";

/// A problem report; a comment that is too long is cut.
pub(super) fn problem_report(code: &str, comment: &str) -> Option<ProblemReport> {
    let comment: String = comment.chars().take(300).collect();
    ProblemReport::new(code, &comment)
        .inspect_err(|error| tracing::error!(code, %error, "problem report cannot be written"))
        .ok()
}

/// Whether the headers name another thread than the body does.
fn misthreaded(message: &Message, plaintext: &Plaintext) -> Option<String> {
    let thread = thread_of(message);
    let named = plaintext.thid.as_deref()?;
    let fits = thread.is_empty() || named == thread;
    (!fits).then(|| format!("got thid {named:?}, expected {thread:?} as in the body"))
}
