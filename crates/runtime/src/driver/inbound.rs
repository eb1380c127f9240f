//! What comes in on sockets: opened, proven, checked for repetition, and handed to the machine or answered.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::{Code, Input, Step};
use beacon_cohort::message::{Message, MessageError};
use beacon_didcomm::protocols::{
    self, DISCLOSE, EMPTY, PING, PING_RESPONSE, PROBLEM_REPORT, ProblemReport, QUERIES,
};
use beacon_didcomm::{Plaintext, ReturnRoute, UnpackError, Verified, unpack};
use uuid::Uuid;

use super::commit::{Cause, thread_of};
use super::{Driver, DriverError, excerpt, now};
use crate::agent::Agent;
use crate::transport::ConnectionId;

/// Seconds that a message may live of somebody who is no member and no coordinator of ours: its id is remembered until
/// then. A day, and what clocks may differ by.
const MAX_LIFE_OF_STRANGERS_S: u64 = 86_400 + 600;
/// Peers and kinds for which refusals are remembered.
const MAX_REMEMBERED: usize = 4_096;
/// Seconds after which the same refusal of the same peer is logged, and an unreadable message reported, again.
const REMEMBERED_S: u64 = 600;

/// Counts what was refused, and remembers what was said about it already.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: BTreeMap<String, u64>,
    logged: HashMap<(String, String), u64>,
    forgotten: Timestamp,
}

impl Refusals {
    pub(super) fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    pub(super) fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Counts, and says whether this is the first of its kind from this peer for a while: log it, report it.
    pub(super) fn is_first(&mut self, kind: &str, peer: &str) -> bool {
        self.count(kind);
        if self.logged.len() >= MAX_REMEMBERED {
            return false; // Too many different ones to say something about each.
        }
        let times = self
            .logged
            .entry((kind.to_owned(), peer.to_owned()))
            .or_default();
        *times += 1;
        *times == 1
    }

    /// Says again what was said a while ago.
    pub(super) fn forget(&mut self, now: Timestamp) {
        if self.forgotten.after(REMEMBERED_S) <= now {
            self.forgotten = now;
            self.logged.clear();
        }
    }
}

/// Ids of messages that came in lately, recorded on disk or not.
#[derive(Debug, Default)]
pub(super) struct RecentIds {
    ids: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

/// Ids that are remembered in memory.
const MAX_RECENT: usize = 16_384;

impl RecentIds {
    /// Remembers an id; `false` when it was here before.
    fn insert(&mut self, sender: &str, id: &str) -> bool {
        let entry = (sender.to_owned(), id.to_owned());
        if !self.ids.insert(entry.clone()) {
            return false;
        }
        self.order.push_back(entry);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

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
        if let Some(seen) = self.store.seen(sender.as_str(), &id)? {
            self.refusals.count("repeated");
            for answer in seen.answers {
                // On the way that the sender is known by: this socket may be somebody else's, replaying.
                if let Some(connection) = self.routes.connection(sender.as_str()) {
                    let _ = self.transport.send(connection, answer);
                }
            }
            return Ok(());
        }
        let partner = self
            .agent
            .is_partner(&self.machine, &PeerId::new(sender.as_str()));
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
            && self.routes.bind(sender.as_str(), connection)
        {
            self.outbox.connected(sender.as_str());
        }
        self.verified(connection, &verified)
    }

    fn not_opened(&mut self, connection: ConnectionId, remote: IpAddr, error: &UnpackError) {
        let Some(sender) = error.proven_sender().cloned() else {
            if self.refusals.is_first(error.kind(), &remote.to_string()) {
                tracing::warn!(kind = error.kind(), %remote, %error, "refused a message");
            }
            return;
        };
        // Once per kind and peer: whoever's clock is wrong would refuse every report and be refused again.
        if self.refusals.is_first(error.kind(), sender.as_str()) {
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
            if let Ok((_, packed)) = packed {
                let _ = self.transport.send(connection, packed.envelope().to_vec());
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
                if !self.outbox.answered(&cause).is_empty() {
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
                if self
                    .refusals
                    .is_first("report-malformed", cause.verified.sender().as_str())
                {
                    tracing::warn!(from = %excerpt(cause.verified.sender().as_str()), %error, "cannot read a problem report");
                }
                return Ok(());
            }
        };
        let comment = report.comment.unwrap_or_default();
        if self.refusals.is_first(
            "problem-report",
            &format!("{} {}", cause.verified.sender(), report.code),
        ) {
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
        self.commit(step, Some(cause))?;
        self.settle()
    }

    /// Refuses a message of a proven sender: counted, logged once, answered with a problem report. Nothing is written.
    fn reject(&mut self, connection: ConnectionId, verified: &Verified, code: &str, comment: &str) {
        let sender = verified.sender();
        if self.refusals.is_first(code, sender.as_str()) {
            tracing::warn!(code, from = %excerpt(sender.as_str()), comment, "refused a message");
        }
        let Some(report) = problem_report(code, comment) else {
            return;
        };
        let message = verified.message();
        let report = report.about(message.thread(), &message.id, Uuid::new_v4(), now().0);
        self.send_once(connection, verified, report);
    }

    /// Says that there is no room now. No acknowledgement: the message is welcome when it comes again.
    fn out_of_room(&mut self, connection: ConnectionId, verified: &Verified) {
        let message = verified.message();
        let comment = "the store has no room for this now";
        self.refusals.count(Code::Limit.as_str());
        if let Some(report) = problem_report(Code::Limit.as_str(), comment) {
            let mut report = report.about(message.thread(), &message.id, Uuid::new_v4(), now().0);
            report.ack.clear();
            self.send_once(connection, verified, report);
        }
    }

    /// Answers with a message that nobody needs to repeat.
    fn send_once(&mut self, connection: ConnectionId, to: &Verified, message: Plaintext) {
        if let Some(frame) = self.answer_frame(to, message) {
            let _ = self.transport.send(connection, frame);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_counted_each_time_and_said_once_for_a_while() {
        let mut refusals = Refusals::default();
        refusals.forget(Timestamp(10_000));
        assert!(refusals.is_first("expired", "a"));
        assert!(!refusals.is_first("expired", "a"));
        assert!(refusals.is_first("expired", "b"), "another peer");
        assert!(refusals.is_first("malformed", "a"), "another kind");
        assert_eq!(refusals.counts()["expired"], 3);
        refusals.forget(Timestamp(10_000 + REMEMBERED_S - 1));
        assert!(!refusals.is_first("expired", "a"));
        refusals.forget(Timestamp(10_000 + REMEMBERED_S));
        assert!(refusals.is_first("expired", "a"));
    }

    #[test]
    fn strangers_without_number_fill_neither_the_log_nor_the_memory() {
        let mut refusals = Refusals::default();
        let said =
            (0..2 * MAX_REMEMBERED).filter(|peer| refusals.is_first("expired", &peer.to_string()));
        assert_eq!(said.count(), MAX_REMEMBERED);
        assert_eq!(refusals.logged.len(), MAX_REMEMBERED);
        assert_eq!(refusals.counts()["expired"], 2 * MAX_REMEMBERED as u64);
    }

    #[test]
    fn recent_ids_are_per_sender_and_the_oldest_is_forgotten_first() {
        let mut recent = RecentIds::default();
        assert!(recent.insert("a", "1"));
        assert!(!recent.insert("a", "1"));
        assert!(recent.insert("b", "1"));
        for id in 0..MAX_RECENT {
            recent.insert("c", &id.to_string());
        }
        assert_eq!(recent.ids.len(), MAX_RECENT);
        assert!(!recent.insert("c", "5"), "still there");
        assert!(recent.insert("a", "1"), "long gone");
    }
}
