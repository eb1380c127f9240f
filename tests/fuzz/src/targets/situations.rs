//! A coordinator and a member at the moments of a cohort's life in which messages matter, and what must hold whatever one
//! of them is given.

use beacon_cohort::coordinator::Coordinator;
use beacon_cohort::ids::{CohortId, PeerId, Timestamp};
use beacon_cohort::machine::{ChainFact, Effect, Input, Machine, Rejection, Step};
use beacon_cohort::message::{MAX_TEXT, Message, TYPE_PREFIX};
use beacon_cohort::participant::Participant;
use beacon_cohort::signer::SignerRequest;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::common::{Mail, World};

/// Equal seeds lead to equal ids, so that a message of one moment is about something in all of them.
const SEED: u64 = 1;
/// Ticks after which a machine should have come to rest.
const MAX_TICKS: usize = 1_000;

/// A moment.
pub(crate) struct Situation {
    pub(crate) world: World,
    pub(crate) cohort: CohortId,
    /// What is on its way.
    pub(crate) mail: Vec<Mail>,
}

impl Situation {
    fn new(world: World, cohort: CohortId, mail: Vec<Mail>) -> Self {
        Self {
            world,
            cohort,
            mail,
        }
    }

    pub(crate) fn coordinator(&self) -> &Coordinator {
        &self.world.coordinator.machine
    }

    /// The first member.
    pub(crate) fn member(&self) -> &Participant {
        &self.world.peers[0].node.machine
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.world.peers.iter().map(|peer| &peer.id)
    }
}

thread_local! {
    static SITUATIONS: Vec<Situation> = all();
}

/// Hands all moments to a function.
pub(crate) fn with<T>(look: impl FnOnce(&[Situation]) -> T) -> T {
    SITUATIONS.with(|situations| look(situations))
}

fn all() -> Vec<Situation> {
    let mut situations = Vec::new();
    let mut world = World::new(2, SEED);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.settle();
    situations.push(Situation::new(world, cohort, Vec::new()));

    for kind in ["keygen/opt_in", "keygen/cohort_set", "keygen/cohort_ack"] {
        let mut world = World::new(2, SEED);
        let cohort = world.advertise(|_| {});
        (0..2).for_each(|number| world.subscribe(number));
        let mail = world.settle_until(|message| message.kind() == kind);
        situations.push(Situation::new(world, cohort, mail));
    }

    let (world, cohort) = World::formed(2, SEED);
    situations.push(Situation::new(world, cohort, Vec::new()));
    for kind in [
        "sign/update_opportunity",
        "sign/authorization_request",
        "sign/nonce_contribution",
        "sign/aggregated_nonce",
        "sign/signature_authorization",
        "sign/signal_published",
    ] {
        let (mut world, cohort) = World::formed(2, SEED);
        world.request_update(0, cohort, 1);
        let mail = world.settle_until(|message| message.kind() == kind);
        situations.push(Situation::new(world, cohort, mail));
    }

    let (mut world, cohort) = World::formed(2, SEED);
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    situations.push(Situation::new(world, cohort, Vec::new()));
    situations
}

/// Gives an input to a machine that is left as it was, and follows what comes of it: events are stored and read again,
/// applied to a copy, and ticked until nothing more follows. Gives the copy, all effects and the bytes stored.
pub(crate) fn follow<M>(
    machine: &M,
    input: Input<M::Command>,
    now: Timestamp,
    facts: impl FnOnce(&M) -> Vec<ChainFact>,
) -> Result<Followed<M>, Rejection>
where
    M: Machine + Clone,
{
    let mut rng = ChaCha20Rng::seed_from_u64(SEED);
    let step = machine.step(input, now, &mut rng).inspect_err(check)?;
    let mut followed = Followed {
        machine: machine.clone(),
        effects: Vec::new(),
        stored: 0,
    };
    followed.take(step, now);
    followed.rest(now, &mut rng);
    for fact in facts(&followed.machine) {
        let step = followed.machine.step(Input::Chain(fact), now, &mut rng);
        followed.take(step.expect("a chain fact is nobody's fault"), now);
        followed.rest(now, &mut rng);
    }
    Ok(followed)
}

/// What came of an input.
pub(crate) struct Followed<M> {
    pub(crate) machine: M,
    pub(crate) effects: Vec<Effect>,
    pub(crate) stored: usize,
}

impl<M: Machine> Followed<M> {
    fn take(&mut self, step: Step<M::Event>, now: Timestamp) {
        for event in &step.events {
            self.stored += apply(&mut self.machine, event);
        }
        step.effects
            .iter()
            .for_each(|effect| check_effect(effect, now));
        self.effects.extend(step.effects);
    }

    fn rest(&mut self, now: Timestamp, rng: &mut ChaCha20Rng) {
        for _ in 0..MAX_TICKS {
            let tick = self.machine.step(Input::Tick, now, rng);
            let tick = tick.expect("a tick is nobody's fault");
            if tick.events.is_empty() {
                assert!(
                    tick.effects.is_empty(),
                    "a tick that does without recording"
                );
                let next = self.machine.next_deadline();
                assert!(
                    next.is_none_or(|next| next > now),
                    "a deadline that has passed"
                );
                let _ = self.machine.watches();
                return;
            }
            self.take(tick, now);
        }
        panic!("ticks never end");
    }

    pub(crate) fn makes_nonces(&self) -> bool {
        let mut effects = self.effects.iter();
        effects.any(|effect| matches!(effect, Effect::Sign(SignerRequest::MakeNonces(_))))
    }
}

/// Applies an event as it is read back from the disk.
pub(crate) fn apply<M: Machine>(machine: &mut M, event: &M::Event) -> usize {
    let line = serde_json::to_string(event).expect("events can be stored");
    let read: M::Event = serde_json::from_str(&line).expect("events can be read");
    assert_eq!(read, *event, "an event survives being stored");
    machine.apply(&read);
    line.len()
}

fn check(rejection: &Rejection) {
    assert!(rejection.got.len() <= MAX_TEXT && rejection.expected.len() <= MAX_TEXT);
    assert!(rejection.code.as_str().starts_with("e."));
}

fn check_effect(effect: &Effect, now: Timestamp) {
    match effect {
        Effect::Send {
            message, expires, ..
        } => {
            assert!(*expires >= now, "sent after it is of use: {message:?}");
            let body = message.body().expect("what is sent can be written");
            let uri = format!("{TYPE_PREFIX}{}", message.kind());
            let read = Message::parse(&uri, &body).expect("what is sent can be read");
            assert_eq!(read, *message);
        }
        Effect::Report { rejection, .. } => check(rejection),
        Effect::Broadcast(_) | Effect::Sign(_) | Effect::ProveControl(_) => {}
    }
}
