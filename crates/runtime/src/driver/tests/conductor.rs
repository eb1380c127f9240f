//! A coordinator of the test's own.

use std::collections::{BTreeSet, HashSet};

use beacon_cohort::coordinator::{Command, Config, Coordinator, Standing};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::{ChainFact, Effect, Fund, Input, Machine as _};
use beacon_cohort::message::{Message, TYPE_PREFIX};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork, Terms};
use beacon_didcomm::{Plaintext, Resolver, UnpackLimits, Verified, pack, unpack};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, TxOut, Txid};
use rand::rand_core::UnwrapErr;
use rand::rngs::OsRng;
use serde_json::Value;
use tokio::sync::mpsc;
use url::Url;
use uuid::Uuid;

use super::{Running, in_time};
use crate::driver::now;
use crate::identities::Identities;
use crate::keys::Seed;
use crate::transport::{ConnectionId, Inbound, Transport, TransportConfig};

/// A coordinator with one cohort of one member: the real machine behind a socket of the test's own. It asks for an
/// acknowledgement of everything, gives none, and repeats nothing by itself.
pub(super) struct Conductor {
    identities: Identities,
    transport: Transport,
    pub(super) frames: mpsc::Receiver<Inbound>,
    connection: Option<ConnectionId>,
    machine: Coordinator,
    cohort: CohortId,
    ids: HashSet<String>,
    /// Types of all that came in, in order, each message once.
    heard: Vec<String>,
    pub(super) acked: HashSet<String>,
    /// Id and bytes of what was sent last.
    pub(super) sent: (String, Vec<u8>),
}

impl Conductor {
    pub(super) async fn start() -> Self {
        let (inbound, frames) = mpsc::channel(64);
        let listen = Some(([127, 0, 0, 1], 0).into());
        let config = TransportConfig {
            listen,
            ..TransportConfig::default()
        };
        let transport = Transport::start(config, inbound).await.unwrap();
        let endpoint = format!("ws://{}", transport.local_addr().unwrap());
        let cohort = CohortId(Uuid::new_v4());
        let mut conductor = Self {
            identities: Identities::new(Seed::generate().unwrap(), endpoint.parse().unwrap()),
            transport,
            frames,
            connection: None,
            machine: Coordinator::new(Config::default()),
            cohort,
            ids: HashSet::new(),
            heard: Vec::new(),
            acked: HashSet::new(),
            sent: Default::default(),
        };
        let terms = Terms::new(BtcNetwork::Regtest, 1, now().after(3_600));
        let terms = AgreedTerms::parse(terms.to_value().unwrap()).unwrap();
        conductor.take(Input::Command(Command::Advertise {
            cohort,
            terms,
            invited: BTreeSet::new(),
        }));
        conductor
    }

    pub(super) fn did(&mut self) -> String {
        self.identities.get(0).unwrap().did().to_string()
    }

    /// Steps until nothing more follows. What the machine refuses is of no interest here.
    fn take(&mut self, input: Input<Command>) {
        let mut input = input;
        while let Ok(step) = self.machine.step(input, now(), &mut UnwrapErr(OsRng)) {
            for event in &step.events {
                self.machine.apply(event);
            }
            for effect in &step.effects {
                if let Effect::Send { to, message, .. } = effect {
                    self.send(to, message);
                }
            }
            if step.is_empty() {
                return;
            }
            input = Input::Tick;
        }
    }

    fn send(&mut self, to: &PeerId, message: &Message) {
        let kind = format!("{TYPE_PREFIX}{}", message.kind());
        let mut plaintext =
            Plaintext::new(Uuid::new_v4(), kind, now().0).with_body(message.body().unwrap());
        plaintext.please_ack.push(String::new());
        let own = self.identities.get(0).unwrap();
        let peer = to.as_str().parse().unwrap();
        let packed = pack(own, &peer, &plaintext, &Resolver::default()).unwrap();
        self.sent = (plaintext.id, packed.envelope().to_vec());
        self.send_again();
    }

    /// Where it listens.
    pub(super) fn url(&self) -> Url {
        let address = self.transport.local_addr().unwrap();
        format!("ws://{address}").parse().unwrap()
    }

    /// A message of its own making, for whoever it is said to be for.
    pub(super) fn packed(&mut self, to: &str, plaintext: &Plaintext) -> Vec<u8> {
        let own = self.identities.get(0).unwrap();
        let packed = pack(own, &to.parse().unwrap(), plaintext, &Resolver::default());
        packed.unwrap().envelope().to_vec()
    }

    /// The last message once more, byte for byte.
    pub(super) fn send_again(&self) {
        let frame = self.sent.1.clone();
        self.transport
            .send(self.connection.unwrap(), frame)
            .unwrap();
    }

    /// Serves the next message; `None` for a socket that closed.
    async fn next(&mut self) -> Option<Verified> {
        let (connection, bytes) = match in_time(self.frames.recv()).await.unwrap() {
            Inbound::Frame {
                connection, bytes, ..
            } => (connection, bytes),
            Inbound::Closed { .. } => return None,
        };
        self.connection = Some(connection);
        let (limits, resolver) = (UnpackLimits::default(), Resolver::default());
        let verified = unpack(&bytes, &self.identities, &resolver, now().0, &limits).unwrap();
        let message = verified.message();
        if self.ids.insert(message.id.clone()) {
            self.heard.push(message.kind.clone());
            self.acked.extend(message.ack.iter().cloned());
            if let Ok(parsed) = Message::parse(&message.kind, &message.body) {
                self.take(Input::Message {
                    from: PeerId::new(verified.sender().as_str()),
                    to: PeerId::new(verified.recipient().as_str()),
                    message: parsed,
                });
            }
        }
        Some(verified)
    }

    /// Serves until a message of this kind came in, and gives its body.
    pub(super) async fn until(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await {
                Some(verified) if verified.message().kind.ends_with(kind) => {
                    return verified.message().body.clone();
                }
                _ => {}
            }
        }
    }

    /// Serves all that comes before the socket closes.
    pub(super) async fn until_closed(&mut self) {
        while self.next().await.is_some() {}
    }

    pub(super) fn times_heard(&self, kind: &str) -> usize {
        self.heard
            .iter()
            .filter(|heard| heard.ends_with(kind))
            .count()
    }

    /// Funds the beacon and opens a round.
    fn open_round(&mut self) -> (OutPoint, TxOut) {
        let beacon = self.machine.state().cohorts[&self.cohort].beacon.as_ref();
        let output = TxOut {
            value: Amount::from_sat(50_000),
            script_pubkey: beacon.unwrap().script().to_owned(),
        };
        let outpoint = OutPoint::new(Txid::from_byte_array([7; 32]), 0);
        self.take(Input::Chain(ChainFact::Funds {
            script: output.script_pubkey.clone(),
            funds: vec![Fund {
                outpoint,
                value: output.value.to_sat(),
                height: Some(100),
            }],
        }));
        let cohort = self.cohort;
        self.take(Input::Command(Command::StartRound { cohort }));
        (outpoint, output)
    }

    /// Brings a participant to the point where it has recorded what it shall sign, and has not seen it on the chain.
    pub(super) async fn propose(&mut self, participant: &Running) -> (OutPoint, TxOut) {
        participant.subscribe(&self.did()).await.unwrap();
        self.until("keygen/cohort_ack").await;
        let fund = self.open_round();
        self.until("sign/no_update").await;
        let request = self.sent.0.clone();
        while !self.acked.contains(&request) {
            self.next().await;
        }
        fund
    }

    pub(super) fn is_signed(&self) -> bool {
        let signals = &self.machine.state().cohorts[&self.cohort].signals;
        signals
            .iter()
            .any(|signal| signal.standing != Standing::Unsigned)
    }
}
