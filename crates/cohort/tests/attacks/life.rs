//! One life of a coordinator and two members in which every type of message is sent, and where each came in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use beacon_cohort::coordinator::Command as Operator;
use beacon_cohort::ids::{CohortId, PeerId, SessionId, Timestamp};
use beacon_cohort::message::KINDS;
use beacon_cohort::participant::Command;
use secp256k1::Keypair;
use serde_json::{Value, json};

use crate::attempt::Agent;
use crate::common::{Mail, World, coordinator_id, did, secret_key};

/// A message that was sent, and where it was welcome.
#[derive(Clone)]
pub(crate) struct Scene {
    pub kind: &'static str,
    pub from: PeerId,
    pub to: PeerId,
    /// With every member that the type has.
    pub body: Value,
    pub now: Timestamp,
    /// Lines that its recipient's log had when it came.
    pub at: usize,
}

/// The whole run.
pub(crate) struct Life {
    pub scenes: BTreeMap<&'static str, Scene>,
    /// The cohort that signs.
    pub cohort: CohortId,
    /// Another cohort of the same coordinator and members; it waits for its money.
    pub other: CohortId,
    /// A session that ended without a signature.
    pub over: SessionId,
    pub members: Vec<PeerId>,
    coordinator_log: Vec<String>,
    member_logs: Vec<Vec<String>>,
}

pub(crate) fn life() -> &'static Life {
    static LIFE: LazyLock<Life> = LazyLock::new(run);
    &LIFE
}

impl Life {
    pub(crate) fn scene(&self, kind: &str) -> &Scene {
        self.scenes
            .get(kind)
            .unwrap_or_else(|| panic!("no message {kind} was accepted in this life"))
    }

    fn number(&self, peer: &PeerId) -> Option<usize> {
        self.members.iter().position(|member| member == peer)
    }

    /// Before its first event.
    pub(crate) fn unborn(&self, who: &PeerId) -> Agent {
        self.number(who)
            .map_or_else(Agent::coordinator, Agent::participant)
    }

    pub(crate) fn log(&self, who: &PeerId) -> &[String] {
        match self.number(who) {
            Some(number) => &self.member_logs[number],
            None => &self.coordinator_log,
        }
    }

    /// As it was after so many events.
    pub(crate) fn agent(&self, who: &PeerId, lines: usize) -> Agent {
        let mut agent = self.unborn(who);
        self.log(who)[..lines]
            .iter()
            .for_each(|line| agent.apply(line));
        agent
    }

    /// A member's key of the cohort that signs.
    pub(crate) fn key(&self, who: &PeerId) -> Keypair {
        let number = self.number(who).unwrap();
        let Agent::Participant(member) = self.agent(who, self.log(who).len()) else {
            panic!("{who} is a member");
        };
        let path = member.state().cohorts[&self.cohort].path.unwrap();
        Keypair::from_secret_bytes(secret_key(number, path)).unwrap()
    }

    /// The recipient in the state in which the scene's message is welcome.
    pub(crate) fn right(&self, scene: &Scene) -> Agent {
        self.agent(&scene.to, scene.at)
    }
}

/// Every message on its way, and the state of its recipient's log.
#[derive(Default)]
struct Seen(Vec<Scene>);

impl Seen {
    fn settle(&mut self, world: &mut World) {
        world.settle_watched(|world, mail| self.note(world, mail));
    }

    /// Until the members have a session's request, and have not looked at the chain.
    fn settle_to_requests(&mut self, world: &mut World) {
        let asked = |mail: &Mail| matches!(mail, Mail::Message { message, .. } if message.kind() == "sign/authorization_request");
        while !world.mail.iter().any(asked) {
            if world.mail.is_empty() {
                world.look_at_chain();
            } else {
                self.deliver_next(world);
            }
        }
        while !world.mail.is_empty() {
            self.deliver_next(world);
        }
    }

    fn deliver_next(&mut self, world: &mut World) {
        let mail = world.mail.remove(0);
        self.note(world, &mail);
        world.deliver(mail);
    }

    fn note(&mut self, world: &World, mail: &Mail) {
        let Mail::Message { from, to, message } = mail else {
            return;
        };
        let log = match world.number_of(to) {
            Some(number) => &world.peers[number].node.log,
            None => &world.coordinator.log,
        };
        let scene = Scene {
            kind: message.kind(),
            from: from.clone(),
            to: to.clone(),
            body: message.body().unwrap(),
            now: world.now,
            at: log.len(),
        };
        self.0.push(scene);
    }
}

fn run() -> Life {
    let (mut world, mut seen) = (World::new(2, 3_003), Seen::default());
    world.subscribe(0);
    seen.settle(&mut world);
    let left = world.advertise(|_| {});
    seen.settle(&mut world);
    world.user(0, Command::Leave { cohort: left }).unwrap();
    seen.settle(&mut world);
    world.subscribe(1);
    seen.settle(&mut world);
    let other = world.advertise(|_| {});
    seen.settle(&mut world);
    let cohort = world.advertise(|_| {});
    seen.settle(&mut world);
    let dids = vec!["did:example:another".to_owned()];
    world
        .user(
            0,
            Command::Join {
                cohort,
                dids,
                accept_script_tree: false,
            },
        )
        .unwrap();
    seen.settle(&mut world);
    world.fund(cohort, 50_000);
    seen.settle(&mut world);

    // In each round a member declines a session, and the operator has another one started.
    let mut declined = Vec::new();
    for (member, update) in [(0, 1), (1, 2)] {
        world.request_update(member, cohort, update);
        seen.settle_to_requests(&mut world);
        let session = world.membership(0, cohort).session.as_ref().unwrap().id;
        world.user(0, Command::AskForPsbt { session }).unwrap();
        while !world.mail.is_empty() {
            seen.deliver_next(&mut world);
        }
        let comment = "not this one".to_owned();
        world
            .user(0, Command::Decline { session, comment })
            .unwrap();
        seen.settle(&mut world);
        declined.push(session);
        world.operator(Operator::StartRound { cohort }).unwrap();
        seen.settle(&mut world);
        world.chain.mine();
        seen.settle(&mut world);
    }
    for _ in 0..7 {
        world.chain.mine();
        seen.settle(&mut world);
    }
    assert_eq!(world.cohort(cohort).signals.len(), 2);
    // A member asks for everything again.
    let updates = Vec::new();
    world
        .user(0, Command::FetchProofs { cohort, updates })
        .unwrap();
    seen.settle(&mut world);
    let claim = world.claim(0, cohort, &did(1));
    world.user(0, Command::Contest { cohort, claim }).unwrap();
    seen.settle(&mut world);
    let coordinator = coordinator_id();
    world.user(0, Command::Unsubscribe { coordinator }).unwrap();
    seen.settle(&mut world);
    world.assert_replay_equals_memory();

    let mut life = Life {
        scenes: BTreeMap::new(),
        cohort,
        other,
        over: declined[0],
        members: world.peers.iter().map(|peer| peer.id.clone()).collect(),
        coordinator_log: world.coordinator.log.clone(),
        member_logs: world
            .peers
            .iter()
            .map(|peer| peer.node.log.clone())
            .collect(),
    };
    for kind in KINDS {
        let mine = |scene: &&Scene| {
            let named = scene.body.get("cohort_id");
            *kind == "keygen/opt_out" || named.is_none_or(|id| *id == json!(cohort))
        };
        let of_kind = seen.0.iter().filter(|scene| scene.kind == *kind);
        let welcome = of_kind
            .filter(mine)
            .map(complete)
            .rfind(|scene| is_welcome(&life, scene));
        if let Some(scene) = welcome {
            life.scenes.insert(kind, scene);
        }
    }
    life
}

/// The message with the optional members that a run leaves out.
fn complete(scene: &Scene) -> Scene {
    let mut scene = scene.clone();
    let more = match scene.kind {
        "keygen/subscribe" => {
            json!({"networks": ["regtest"], "beacon_types": ["SMTBeacon"], "label": "fred"})
        }
        "keygen/subscribe_accept" => json!({"label": "a coordinator"}),
        "keygen/cohort_advert" => json!({"succeeds": "00000000-0000-0000-0000-000000000001"}),
        "keygen/did_registration" => json!({"from_round": 1}),
        "sign/signal_published" => {
            json!({"status": "confirmed", "block_hash": "11".repeat(32), "height": 101, "confirmations": 1})
        }
        _ => json!({}),
    };
    for (name, value) in more.as_object().unwrap() {
        scene.body[name] = value.clone();
    }
    if let Some(signal) = scene.body.pointer_mut("/signals/0") {
        let point = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        signal["contribution"] = json!({
            "aggregated_nonces": [[point, point]],
            "partial_signatures": ["11".repeat(32)],
            "signature": "11".repeat(64),
        });
    }
    scene
}

fn is_welcome(life: &Life, scene: &Scene) -> bool {
    let outcome =
        life.right(scene)
            .hear(&scene.from, &scene.to, scene.kind, &scene.body, scene.now);
    !outcome.events.is_empty() || !outcome.sent.is_empty()
}
