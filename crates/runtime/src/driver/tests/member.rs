//! A member of the test's own.

use std::collections::HashSet;

use beacon_cohort::ids::PeerId;
use beacon_cohort::machine::{ChainFact, Effect, Input, Machine as _, OutputView};
use beacon_cohort::message::{Message, Subscribe, TYPE_PREFIX};
use beacon_cohort::participant::{Command, Event, Participant};
use beacon_didcomm::protocols::{PROBLEM_REPORT, ping};
use beacon_didcomm::{Did, Plaintext, Resolver, ReturnRoute, UnpackLimits, Verified, pack, unpack};
use bitcoin::{OutPoint, TxOut};
use rand::rand_core::UnwrapErr;
use rand::rngs::OsRng;
use serde_json::Value;
use tokio::sync::mpsc;
use url::Url;
use uuid::Uuid;

use super::{in_time, role};
use crate::agent::Agent as _;
use crate::driver::now;
use crate::identities::Identities;
use crate::keys::Seed;
use crate::participant::ParticipantAgent;
use crate::transport::{ConnectionId, Inbound, Transport, TransportConfig};

/// Somebody with an identity, and with as many sockets to one agent as it likes.
pub(super) struct Peer {
    pub(super) identities: Identities,
    transport: Transport,
    frames: mpsc::Receiver<Inbound>,
    pub(super) agent: Did,
    url: Url,
}

impl Peer {
    pub(super) async fn of(agent: &Did, url: &str) -> Self {
        let (inbound, frames) = mpsc::channel(64);
        let transport = Transport::start(TransportConfig::default(), inbound);
        let queue = "didcomm:transport/queue".parse().unwrap();
        Self {
            identities: Identities::new(Seed::generate().unwrap(), queue),
            transport: transport.await.unwrap(),
            frames,
            agent: agent.clone(),
            url: url.parse().unwrap(),
        }
    }

    pub(super) fn did(&mut self) -> String {
        self.identities.get(0).unwrap().did().to_string()
    }

    pub(super) async fn connect(&self) -> ConnectionId {
        let dial = Box::pin(self.transport.dial(&self.url, true));
        in_time(dial).await.unwrap()
    }

    pub(super) fn pack(&mut self, message: Plaintext) -> Vec<u8> {
        let own = self.identities.get(0).unwrap();
        let message = message.with_return_route(ReturnRoute::All);
        let packed = pack(own, &self.agent, &message, &Resolver::default()).unwrap();
        packed.envelope().to_vec()
    }

    pub(super) fn send(&self, connection: ConnectionId, frame: Vec<u8>) {
        // A socket that the agent has closed takes nothing any more.
        let _ = self.transport.send(connection, frame);
    }

    pub(super) fn ping(&mut self, connection: ConnectionId) -> String {
        let ping = ping(Uuid::new_v4(), now().0);
        let id = ping.id.clone();
        let frame = self.pack(ping);
        self.send(connection, frame);
        id
    }

    /// The next message, with the socket that it came on; `None` for a socket that closed.
    pub(super) async fn next(&mut self) -> (ConnectionId, Option<Verified>) {
        match in_time(self.frames.recv()).await.unwrap() {
            Inbound::Closed { connection } => (connection, None),
            Inbound::Frame {
                connection, bytes, ..
            } => {
                let (limits, resolver) = (UnpackLimits::default(), Resolver::default());
                let opened = unpack(&bytes, &self.identities, &resolver, now().0, &limits);
                (connection, Some(opened.unwrap()))
            }
        }
    }
}

/// The real machine and the real signer behind a socket of the test's own. It answers at once, and sends what was not
/// acknowledged again when it connects again.
pub(super) struct Member {
    peer: Peer,
    connection: Option<ConnectionId>,
    machine: Participant,
    signer: ParticipantAgent,
    fund: Option<(OutPoint, TxOut)>,
    ids: HashSet<String>,
    /// Kinds of all messages that came in, each message once, and codes of all problem reports.
    pub(super) heard: Vec<String>,
    /// Kind, id and bytes of what was not acknowledged.
    pub(super) unacknowledged: Vec<(&'static str, String, Vec<u8>)>,
    pub(super) events: Vec<Event>,
}

impl Member {
    pub(super) async fn of(agent: &Did, url: &str) -> Self {
        let mut peer = Peer::of(agent, url).await;
        let own = PeerId::new(peer.did());
        let (signer, machine) = role(Seed::generate().unwrap());
        let mut member = Self {
            peer,
            connection: None,
            machine,
            signer,
            fund: None,
            ids: HashSet::new(),
            heard: Vec::new(),
            unacknowledged: Vec::new(),
            events: Vec::new(),
        };
        member.take(Input::Command(Command::Subscribe {
            coordinator: PeerId::new(agent.as_str()),
            own,
            identity: 0,
            filter: Subscribe::default(),
        }));
        member
    }

    /// Shows itself on a new socket, and sends everything that may be lost again.
    pub(super) async fn connect(&mut self) {
        let connection = self.peer.connect().await;
        self.connection = Some(connection);
        self.peer.ping(connection);
        for (_, _, frame) in &self.unacknowledged {
            self.peer.send(connection, frame.clone());
        }
    }

    /// The chain has this output, in a block.
    pub(super) fn sees(&mut self, fund: (OutPoint, TxOut)) {
        self.fund = Some(fund);
        self.look();
    }

    fn look(&mut self) {
        let Some((outpoint, output)) = self.fund.clone() else {
            return;
        };
        if self.machine.watches().inputs.contains(&vec![outpoint]) {
            let view = OutputView::Seen {
                output,
                confirmations: 1,
                spent_by: None,
            };
            self.take(Input::Chain(ChainFact::Inputs(vec![(outpoint, view)])));
        }
    }

    /// Steps until nothing more follows.
    fn take(&mut self, input: Input<Command>) {
        let mut pending = vec![input];
        loop {
            let tick = pending.is_empty();
            let input = pending.pop().unwrap_or(Input::Tick);
            let step = self.machine.step(input, now(), &mut UnwrapErr(OsRng));
            let Ok(step) = step else {
                if tick {
                    return;
                }
                continue;
            };
            let progressed = !step.is_empty();
            for event in &step.events {
                self.machine.apply(event);
            }
            self.events.extend(step.events);
            for effect in step.effects {
                match effect {
                    Effect::Send { message, .. } => self.send(&message),
                    Effect::Sign(request) => {
                        pending.extend(self.signer.sign(request).map(Input::Signer));
                    }
                    _ => {}
                }
            }
            if tick && !progressed {
                return;
            }
        }
    }

    fn send(&mut self, message: &Message) {
        let kind = format!("{TYPE_PREFIX}{}", message.kind());
        let mut plaintext =
            Plaintext::new(Uuid::new_v4(), kind, now().0).with_body(message.body().unwrap());
        plaintext.please_ack.push(String::new());
        let id = plaintext.id.clone();
        let frame = self.peer.pack(plaintext);
        if let Some(connection) = self.connection {
            self.peer.send(connection, frame.clone());
        }
        self.unacknowledged.push((message.kind(), id, frame));
    }

    /// Serves the next message. `false` when the socket has closed.
    pub(super) async fn serve(&mut self) -> bool {
        let (connection, verified) = self.peer.next().await;
        let Some(verified) = verified else {
            return Some(connection) != self.connection;
        };
        let message = verified.message();
        if self.ids.insert(message.id.clone()) {
            let ack = &message.ack;
            self.unacknowledged.retain(|(_, id, _)| !ack.contains(id));
            let code = (message.kind == PROBLEM_REPORT).then(|| message.body["code"].as_str());
            let said = code.flatten().unwrap_or(&message.kind);
            let said = said.strip_prefix(TYPE_PREFIX).unwrap_or(said).to_owned();
            self.heard.push(said);
            if let Ok(parsed) = Message::parse(&message.kind, &message.body) {
                self.take(Input::Message {
                    from: PeerId::new(verified.sender().as_str()),
                    to: PeerId::new(verified.recipient().as_str()),
                    message: parsed,
                });
                self.look();
            }
        }
        true
    }

    /// How many events of this name it has.
    pub(super) fn count(&self, name: &str) -> usize {
        let named = |event: &&Event| serde_json::to_value(event).unwrap()["event"] == name;
        self.events.iter().filter(named).count()
    }

    /// The members of the first event of this name.
    pub(super) fn event(&self, name: &str) -> Option<Value> {
        let mut values = self
            .events
            .iter()
            .map(|event| serde_json::to_value(event).unwrap());
        values.find(|event| event["event"] == name)
    }
}
