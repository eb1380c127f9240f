//! A whole cohort in memory: the crate's own machines and signers, a chain of a few lines, virtual time and a seed.
//!
//! Every message crosses as JSON and every event is stored as a line of JSON, so a run exercises the wire and the log as
//! well.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "shared by test programs that each use a part"
)]

pub mod chain;

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator::{self, Cohort, Coordinator};
use beacon_cohort::ids::{CohortId, PeerId, Timestamp};
use beacon_cohort::machine::{
    ChainFact, Code, ControlAnswer, ControlQuestion, ControlVerdict, Effect, Input, Machine,
    Rejection,
};
use beacon_cohort::message::{DidContest, Message, Subscribe, TYPE_PREFIX};
use beacon_cohort::participant::{self, LeafSecret, Membership, Participant, Policy};
use beacon_cohort::signer::{KeyPath, LocalSigner};
use beacon_cohort::statement::{self, Statement};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork, Terms};
use beacon_cohort::values::StatementSignature;
use beacon_signal::UpdateId;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use uuid::Uuid;
use zeroize::Zeroizing;

use chain::Chain;

pub const START: Timestamp = Timestamp(1_800_000_000);

/// A machine with its log, one line of JSON for each event.
pub struct Node<M: Machine> {
    pub machine: M,
    pub log: Vec<String>,
    empty: fn(usize) -> M,
    number: usize,
}

impl<M: Machine> Node<M> {
    fn new(empty: fn(usize) -> M, number: usize) -> Self {
        Self {
            machine: empty(number),
            log: Vec::new(),
            empty,
            number,
        }
    }

    /// Steps, stores, applies, and ticks until nothing more follows.
    pub fn drive(
        &mut self,
        input: Input<M::Command>,
        now: Timestamp,
        rng: &mut ChaCha20Rng,
    ) -> Result<Vec<Effect>, Rejection> {
        let mut effects = Vec::new();
        let mut step = self.machine.step(input, now, rng)?;
        for _ in 0..1_000 {
            for event in &step.events {
                self.log.push(serde_json::to_string(event).unwrap());
                self.machine.apply(event);
            }
            effects.append(&mut step.effects);
            step = self.machine.step(Input::Tick, now, rng)?;
            if step.events.is_empty() {
                assert!(
                    step.effects.is_empty(),
                    "a tick that does without recording does again"
                );
                if let Some(deadline) = self.machine.next_deadline() {
                    assert!(
                        deadline > now,
                        "a deadline that has passed and changes nothing: the driver would spin"
                    );
                }
                return Ok(effects);
            }
        }
        panic!("ticks never end, the last gave {step:?}");
    }

    /// What a fresh machine is after reading the log.
    pub fn replayed(&self) -> M {
        let mut machine = (self.empty)(self.number);
        for line in &self.log {
            machine.apply(&serde_json::from_str(line).unwrap());
        }
        machine
    }

    /// The process ends and starts again.
    pub fn reload(&mut self) {
        self.machine = self.replayed();
    }
}

/// What waits to be delivered.
#[derive(Clone, Debug)]
pub enum Mail {
    Message {
        from: PeerId,
        to: PeerId,
        message: Message,
    },
    Problem {
        from: PeerId,
        to: PeerId,
        cohort: Option<CohortId>,
        rejection: Rejection,
    },
}

type Keys = Box<dyn Fn(KeyPath) -> Zeroizing<[u8; 32]>>;

pub struct Peer {
    pub id: PeerId,
    pub did: String,
    pub node: Node<Participant>,
    pub signer: LocalSigner<Keys, ChaCha20Rng>,
    seed: u64,
}

pub struct World {
    pub now: Timestamp,
    pub rng: ChaCha20Rng,
    pub coordinator: Node<Coordinator>,
    pub peers: Vec<Peer>,
    pub mail: Vec<Mail>,
    pub chain: Chain,
    /// What the coordinator wants judged, oldest first.
    pub questions: Vec<ControlQuestion>,
    /// Everything that was refused, whoever refused it.
    pub rejections: Vec<Rejection>,
    /// The first body of each kind of message that was sent.
    pub examples: BTreeMap<&'static str, serde_json::Value>,
}

pub fn coordinator_id() -> PeerId {
    PeerId::new("did:example:coordinator")
}

pub fn policy(number: usize) -> Policy {
    Policy {
        auto_join: Some(vec![did(number)]),
        auto_sign: true,
        ..Policy::asking(BtcNetwork::Regtest)
    }
}

pub fn participant(number: usize) -> Participant {
    let secret = Zeroizing::new([u8::try_from(number).unwrap(); 32]);
    Participant::new(policy(number), LeafSecret::new(secret))
}

pub fn did(number: usize) -> String {
    format!("did:example:controlled-by-{number}")
}

/// What a member's key source gives for a path.
pub fn secret_key(number: usize, path: KeyPath) -> [u8; 32] {
    let mut key = [u8::try_from(number).unwrap() + 1; 32];
    key[28..].copy_from_slice(&path.steps()[0].to_be_bytes());
    key
}

fn signer(number: usize, seed: u64) -> LocalSigner<Keys, ChaCha20Rng> {
    let keys: Keys = Box::new(move |path| Zeroizing::new(secret_key(number, path)));
    LocalSigner::new(keys, ChaCha20Rng::seed_from_u64(seed))
}

impl World {
    pub fn new(members: usize, seed: u64) -> Self {
        let peers = (0..members)
            .map(|number| Peer {
                id: PeerId::new(format!("did:example:peer-{number}")),
                did: did(number),
                node: Node::new(participant, number),
                signer: signer(number, seed ^ (number as u64) << 32),
                seed,
            })
            .collect();
        Self {
            now: START,
            rng: ChaCha20Rng::seed_from_u64(seed),
            coordinator: Node::new(|_| Coordinator::new(coordinator::Config::default()), 0),
            peers,
            mail: Vec::new(),
            chain: Chain::new(),
            questions: Vec::new(),
            rejections: Vec::new(),
            examples: BTreeMap::new(),
        }
    }

    /// A world whose cohort is agreed on, funded and idle.
    pub fn formed(members: usize, seed: u64) -> (Self, CohortId) {
        Self::formed_with(members, seed, |_| {})
    }

    /// The same, on other terms.
    pub fn formed_with(
        members: usize,
        seed: u64,
        change: impl FnOnce(&mut Terms),
    ) -> (Self, CohortId) {
        let mut world = Self::new(members, seed);
        let cohort = world.advertise(change);
        for number in 0..members {
            world.subscribe(number);
        }
        world.settle();
        world.fund(cohort, 50_000);
        world.settle();
        (world, cohort)
    }

    pub fn advertise(&mut self, change: impl FnOnce(&mut Terms)) -> CohortId {
        let members = self.peers.len() as u64;
        let mut terms = Terms::new(BtcNetwork::Regtest, members, self.now.after(3_600));
        change(&mut terms);
        let terms = AgreedTerms::parse(terms.to_value().unwrap()).unwrap();
        let cohort = CohortId(Uuid::from_u128(u128::from(self.rng.next_u64())));
        let invited = BTreeSet::new();
        self.operator(coordinator::Command::Advertise {
            cohort,
            terms,
            invited,
        })
        .unwrap();
        cohort
    }

    pub fn subscribe(&mut self, number: usize) {
        let command = participant::Command::Subscribe {
            coordinator: coordinator_id(),
            own: self.peers[number].id.clone(),
            identity: 0,
            filter: Subscribe::default(),
        };
        self.user(number, command).unwrap();
    }

    pub fn request_update(&mut self, number: usize, cohort: CohortId, update: u8) {
        let did = self.peers[number].did.clone();
        let version = Some(u64::from(update) + 1);
        let update = UpdateId([update; 32]);
        self.user(
            number,
            participant::Command::RequestUpdate {
                cohort,
                did,
                update,
                version,
            },
        )
        .unwrap();
    }

    pub fn fund(&mut self, cohort: CohortId, sats: u64) {
        let script = self
            .cohort(cohort)
            .beacon
            .as_ref()
            .unwrap()
            .script()
            .to_owned();
        self.chain.fund(script, sats);
        self.chain.mine();
    }

    pub fn cohort(&self, id: CohortId) -> &Cohort {
        &self.coordinator.machine.state().cohorts[&id]
    }

    pub fn membership(&self, number: usize, id: CohortId) -> &Membership {
        &self.peers[number].node.machine.state().cohorts[&id]
    }

    pub fn operator(&mut self, command: coordinator::Command) -> Result<(), Rejection> {
        self.at_coordinator(Input::Command(command))
    }

    pub fn user(&mut self, number: usize, command: participant::Command) -> Result<(), Rejection> {
        self.at_peer(number, Input::Command(command))
    }

    /// Hands a message to the coordinator as if `from` had been proven to be its sender.
    pub fn tell_coordinator(
        &mut self,
        from: &PeerId,
        message: impl Into<Message>,
    ) -> Result<(), Rejection> {
        let (from, to, message) = (from.clone(), coordinator_id(), message.into());
        self.at_coordinator(Input::Message { from, to, message })
    }

    /// A member's claim to a DID, as its user makes it. Nobody looks at the signature here.
    pub fn claim(&self, number: usize, cohort: CohortId, did: &str) -> DidContest {
        let pair = secp256k1::Keypair::from_secret_bytes([77; 32]).unwrap();
        let statement = statement::control(cohort, &self.peers[number].id, did);
        let signature = secp256k1::schnorr::sign_with_aux_rand(statement.digest(), &pair, &[0; 32]);
        DidContest {
            cohort_id: cohort,
            did: did.to_owned(),
            sidecar: Some("{}".to_owned()),
            method: format!("{did}#key"),
            signature: StatementSignature::from_bytes(&signature.to_byte_array()).unwrap(),
        }
    }

    /// Answers the coordinator's oldest question.
    pub fn judge(&mut self, verdict: ControlVerdict) {
        let ControlQuestion {
            index,
            peer,
            contest,
        } = self.questions.remove(0);
        let cohort = contest.cohort_id;
        let answer = ControlAnswer {
            cohort,
            index,
            peer,
            verdict,
        };
        self.at_coordinator(Input::Control(answer)).unwrap();
    }

    /// Hands a message to a member as if `from` had been proven to be its sender.
    pub fn tell(
        &mut self,
        number: usize,
        from: &PeerId,
        message: impl Into<Message>,
    ) -> Result<(), Rejection> {
        let (from, to, message) = (from.clone(), self.peers[number].id.clone(), message.into());
        self.at_peer(number, Input::Message { from, to, message })
    }

    pub fn at_coordinator(&mut self, input: Input<coordinator::Command>) -> Result<(), Rejection> {
        let effects = self.coordinator.drive(input, self.now, &mut self.rng)?;
        for effect in effects {
            match effect {
                Effect::Broadcast(tx) => {
                    let txid = tx.compute_txid();
                    let outcome = self.chain.broadcast(tx);
                    let fact = ChainFact::Broadcast { txid, outcome };
                    self.at_coordinator(Input::Chain(fact))?;
                }
                Effect::Sign(request) => panic!("a coordinator has no signer: {request:?}"),
                Effect::ProveControl(question) => self.questions.push(*question),
                effect => self.post(coordinator_id(), effect),
            }
        }
        Ok(())
    }

    pub fn at_peer(
        &mut self,
        number: usize,
        input: Input<participant::Command>,
    ) -> Result<(), Rejection> {
        let peer = &mut self.peers[number];
        let effects = peer.node.drive(input, self.now, &mut self.rng)?;
        let id = peer.id.clone();
        for effect in effects {
            match effect {
                Effect::Sign(request) => {
                    if let Some(answer) = self.peers[number].signer.handle(request) {
                        self.at_peer(number, Input::Signer(answer))?;
                    }
                }
                Effect::Broadcast(tx) => {
                    let txid = tx.compute_txid();
                    let outcome = self.chain.broadcast(tx);
                    let fact = ChainFact::Broadcast { txid, outcome };
                    self.at_peer(number, Input::Chain(fact))?;
                }
                Effect::ProveControl(question) => panic!("participants judge nobody: {question:?}"),
                effect => self.post(id.clone(), effect),
            }
        }
        Ok(())
    }

    fn post(&mut self, from: PeerId, effect: Effect) {
        match effect {
            Effect::Send {
                to,
                message,
                expires,
            } => {
                assert!(expires >= self.now, "sent after it is of use: {message:?}");
                let (kind, body) = (message.kind(), message.body().unwrap());
                let read = Message::parse(&format!("{TYPE_PREFIX}{kind}"), &body).unwrap();
                assert_eq!(read, message, "the wire form keeps everything");
                self.examples.entry(kind).or_insert(body);
                self.mail.push(Mail::Message { from, to, message });
            }
            Effect::Report {
                to,
                cohort,
                rejection,
            } => {
                let cohort = Some(cohort);
                self.rejections.push(rejection.clone());
                self.mail.push(Mail::Problem {
                    from,
                    to,
                    cohort,
                    rejection,
                });
            }
            Effect::Broadcast(_) | Effect::Sign(_) | Effect::ProveControl(_) => {
                unreachable!("handled by the role")
            }
        }
    }

    pub fn number_of(&self, peer: &PeerId) -> Option<usize> {
        self.peers.iter().position(|known| known.id == *peer)
    }

    /// Delivers one piece of mail. What is refused goes back as a problem report, which is never answered.
    pub fn deliver(&mut self, mail: Mail) {
        let (from, to, cohort, result) = match mail {
            Mail::Message { from, to, message } => {
                let (cohort, _) = message.thread();
                let result = match self.number_of(&to) {
                    Some(number) => self.tell(number, &from, message),
                    None => self.tell_coordinator(&from, message),
                };
                (from, to, cohort, result)
            }
            Mail::Problem {
                from,
                to,
                cohort,
                rejection,
            } => {
                let (code, comment) = (rejection.code.to_string(), rejection.to_string());
                let result = match self.number_of(&to) {
                    Some(number) => self.at_peer(
                        number,
                        Input::Problem {
                            from: from.clone(),
                            cohort,
                            code,
                            comment,
                        },
                    ),
                    None => self.at_coordinator(Input::Problem {
                        from: from.clone(),
                        cohort,
                        code,
                        comment,
                    }),
                };
                result.expect("a report is never answered by a report");
                return;
            }
        };
        if let Err(rejection) = result {
            self.rejections.push(rejection.clone());
            self.mail.push(Mail::Problem {
                from: to,
                to: from,
                cohort,
                rejection,
            });
        }
    }

    /// The chain answers everybody.
    pub fn look_at_chain(&mut self) {
        for fact in self.chain.answer(&self.coordinator.machine.watches()) {
            self.at_coordinator(Input::Chain(fact)).unwrap();
        }
        for number in 0..self.peers.len() {
            self.look_at_chain_from(number);
        }
    }

    pub fn look_at_chain_from(&mut self, number: usize) {
        for fact in self
            .chain
            .answer(&self.peers[number].node.machine.watches())
        {
            self.at_peer(number, Input::Chain(fact)).unwrap();
        }
    }

    /// Delivers in order and looks at the chain until nothing moves.
    pub fn settle(&mut self) {
        self.settle_watched(|_, _| {});
    }

    /// Settles, and shows each piece of mail before it is delivered.
    pub fn settle_watched(&mut self, mut watch: impl FnMut(&Self, &Mail)) {
        loop {
            let before = self.log_lines();
            while !self.mail.is_empty() {
                let mail = self.mail.remove(0);
                watch(self, &mail);
                self.deliver(mail);
            }
            self.look_at_chain();
            if self.mail.is_empty() && self.log_lines() == before {
                return;
            }
        }
    }

    /// Delivers until the next piece of mail is one that `stop` wants, and takes it out.
    pub fn settle_until(&mut self, stop: impl Fn(&Message) -> bool) -> Vec<Mail> {
        for _ in 0..10_000 {
            let (wanted, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.mail)
                .into_iter()
                .partition(|mail| matches!(mail, Mail::Message { message, .. } if stop(message)));
            self.mail = rest;
            if !wanted.is_empty() {
                return wanted;
            }
            if self.mail.is_empty() {
                self.look_at_chain();
            } else {
                let mail = self.mail.remove(0);
                self.deliver(mail);
            }
        }
        panic!("nothing of the kind was sent");
    }

    /// A member's statement about anything, signed with its key of this cohort.
    pub fn sign_as(
        &self,
        number: usize,
        cohort: CohortId,
        statement: &Statement,
    ) -> StatementSignature {
        let path = self.membership(number, cohort).path.unwrap();
        let pair = secp256k1::Keypair::from_secret_bytes(secret_key(number, path)).unwrap();
        let signature = secp256k1::schnorr::sign_with_aux_rand(statement.digest(), &pair, &[0; 32]);
        StatementSignature::from_bytes(&signature.to_byte_array()).unwrap()
    }

    /// The coordinator's process ends: the log is read, the machine learns of it.
    pub fn restart_coordinator(&mut self) {
        self.coordinator.reload();
        self.at_coordinator(Input::Restarted).unwrap();
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(seconds);
        self.at_coordinator(Input::Tick).unwrap();
        for number in 0..self.peers.len() {
            self.at_peer(number, Input::Tick).unwrap();
        }
    }

    /// A member's process ends: nonces are gone, the log is read, the machine learns of it.
    pub fn restart(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        peer.seed += 1_000;
        peer.signer = signer(number, peer.seed ^ (number as u64) << 32);
        peer.node.reload();
        self.at_peer(number, Input::Restarted).unwrap();
    }

    /// An old copy of a member's state is restored and started: the first lines of its log, and no nonces.
    pub fn restore(&mut self, number: usize, lines: usize) {
        self.peers[number].node.log.truncate(lines);
        self.restart(number);
    }

    fn log_lines(&self) -> usize {
        let peers: usize = self.peers.iter().map(|peer| peer.node.log.len()).sum();
        peers + self.coordinator.log.len()
    }

    /// Replaying each log gives the state in memory.
    pub fn assert_replay_equals_memory(&self) {
        let state = self.coordinator.machine.state();
        assert_eq!(self.coordinator.replayed().state(), state);
        let snapshot = serde_json::to_vec(state).unwrap();
        let read: coordinator::State = serde_json::from_slice(&snapshot).unwrap();
        assert!(read == *state, "a snapshot keeps everything");
        for peer in &self.peers {
            assert_eq!(peer.node.replayed().state(), peer.node.machine.state());
        }
    }

    /// Everything that a test could find changed.
    pub fn snapshot(&self) -> (coordinator::State, Vec<participant::State>) {
        let peers = self
            .peers
            .iter()
            .map(|peer| peer.node.machine.state().clone());
        (self.coordinator.machine.state().clone(), peers.collect())
    }

    /// Asserts that `act` is refused with exactly this code and changes nothing anywhere.
    #[track_caller]
    pub fn refuses<T: std::fmt::Debug>(
        &mut self,
        code: Code,
        act: impl FnOnce(&mut Self) -> Result<T, Rejection>,
    ) {
        let (before, lines, mail) = (self.snapshot(), self.log_lines(), self.mail.len());
        let rejection = act(self).expect_err("it should be refused");
        assert_eq!(rejection.code, code, "{rejection}");
        assert!(
            self.snapshot() == before,
            "a refused message changes no state"
        );
        assert_eq!(self.log_lines(), lines, "a refused message writes nothing");
        assert_eq!(self.mail.len(), mail, "a refused message sends nothing");
    }
}
