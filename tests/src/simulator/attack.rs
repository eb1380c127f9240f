//! The hand of an attacker: it sits at a node's line and reads, changes, holds back, repeats and adds what leaves in the
//! node's name. It cannot forge a sender, as nobody can (authcrypt), and it cannot read what others say to each other.

use std::fmt;

use beacon_cohort::ids::Timestamp;
use beacon_cohort::message::{Message, TYPE_PREFIX};
use beacon_runtime::outbox::thread_of;
use serde_json::Value;

use super::envelope::{EMPTY, Envelope, REPORT};
use super::world::{Frame, NodeId, node_of, peer};

/// A message on its way, with the body open to be changed.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Whom it goes to: 0 is the coordinator, 1 the first member.
    pub to: usize,
    /// Its body.
    pub body: Value,
    envelope: Envelope,
}

impl Letter {
    fn open(to: NodeId, frame: &Frame) -> Option<Self> {
        let envelope: Envelope = serde_json::from_slice(&frame.packed).ok()?;
        let body = envelope.body.clone();
        Some(Self { to, body, envelope })
    }

    /// A message that no machine wrote. It expires an hour after `now`.
    pub(super) fn write(
        from: NodeId,
        to: NodeId,
        id: String,
        message: &Message,
        now: Timestamp,
    ) -> Result<Self, serde_json::Error> {
        let (cohort, session) = message.thread();
        let body = message.body()?;
        let envelope = Envelope {
            id,
            kind: format!("{TYPE_PREFIX}{}", message.kind()),
            from: peer(from),
            to: vec![peer(to)],
            thid: thread_of(message),
            pthid: cohort
                .filter(|_| session.is_some())
                .map(|cohort| cohort.to_string()),
            ack: Vec::new(),
            please_ack: false,
            expires_time: now.after(3_600).0,
            body: body.clone(),
        };
        Ok(Self { to, body, envelope })
    }

    pub(super) fn frame(&self) -> Result<Frame, serde_json::Error> {
        let envelope = Envelope {
            to: vec![peer(self.to)],
            body: self.body.clone(),
            ..self.envelope.clone()
        };
        Ok(Frame {
            kind: format!("{} (attacker's)", self.kind()),
            packed: serde_json::to_vec(&envelope)?.into(),
        })
    }

    /// Who sent it.
    pub fn from(&self) -> usize {
        node_of(&self.envelope.from).unwrap_or(usize::MAX)
    }

    /// Such as `sign/decline`, `problem-report` or `receipt`.
    pub fn kind(&self) -> &str {
        match self.envelope.kind.as_str() {
            REPORT => "problem-report",
            EMPTY => "receipt",
            uri => uri.strip_prefix(TYPE_PREFIX).unwrap_or(uri),
        }
    }

    /// A text member of the body, such as `code`.
    pub fn text(&self, member: &str) -> &str {
        self.body
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The body as a message of the protocol.
    pub fn message(&self) -> Option<Message> {
        Message::parse(&self.envelope.kind, &self.body).ok()
    }

    /// The same with another body.
    #[must_use]
    pub fn saying(mut self, message: impl Into<Message>) -> Self {
        let message = message.into();
        self.envelope.kind = format!("{TYPE_PREFIX}{}", message.kind());
        self.envelope.thid = thread_of(&message);
        self.body = message.body().unwrap_or_default();
        self
    }

    /// The same under an id of its own: to its recipient a message that it has not seen.
    #[must_use]
    pub fn as_new(mut self, number: u32) -> Self {
        self.envelope.id = format!("{}-{number}", self.envelope.id);
        self.envelope.ack.clear();
        self
    }
}

type Hand = Box<dyn FnMut(Letter) -> Vec<Letter>>;

/// The attackers, by the node at whose line they sit.
#[derive(Default)]
pub(super) struct Guard {
    hands: Vec<(NodeId, Hand)>,
    /// Nodes that are no longer honest, for ever.
    pub(super) dishonest: Vec<NodeId>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({:?})", self.dishonest)
    }
}

impl Guard {
    /// Puts an attacker at a node's line, in the place of one that may sit there.
    pub(super) fn place(&mut self, node: NodeId, hand: Hand) {
        self.leave(node);
        self.hands.push((node, hand));
        self.dishonest.push(node);
    }

    /// The node does nothing wrong from now on.
    pub(super) fn leave(&mut self, node: NodeId) {
        self.hands.retain(|(seat, _)| *seat != node);
    }

    /// What leaves instead of this frame.
    pub(super) fn pass(&mut self, from: NodeId, to: NodeId, frame: &Frame) -> Vec<(NodeId, Frame)> {
        let Some((_, hand)) = self.hands.iter_mut().find(|(node, _)| *node == from) else {
            return vec![(to, frame.clone())];
        };
        let Some(letter) = Letter::open(to, frame) else {
            return vec![(to, frame.clone())];
        };
        let letters = hand(letter);
        let frames = letters.iter().filter_map(|letter| {
            let frame = letter.frame().ok()?;
            Some((letter.to, frame))
        });
        frames.collect()
    }
}

/// What was sent, as it left.
#[derive(Debug, Default)]
pub(super) struct Post {
    pub(super) kept: Option<Vec<Letter>>,
}

impl Post {
    pub(super) fn keep(&mut self, from: NodeId, to: NodeId, frame: &Frame) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        if let Some(letter) = Letter::open(to, frame) {
            debug_assert_eq!(letter.from(), from, "nobody forges a sender");
            kept.push(letter);
        }
    }
}
