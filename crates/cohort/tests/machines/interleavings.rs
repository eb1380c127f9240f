//! Random interleavings of a whole cohort's life: whatever the order, loss, repetition and restarts, the log is the state,
//! no nonce is used twice, and the cohort comes to its signals in the end.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator::{self, Phase, Stage, Standing};
use beacon_cohort::participant::Event;
use beacon_cohort::values::PublicNonce;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::common::{Mail, World};

/// `COHORT_SEEDS=2000` runs more.
const SEEDS: u64 = 40;
const ACTIONS: usize = 400;

#[test]
fn replay_equals_memory_and_nonces_sign_once_whatever_happens() {
    let seeds = match std::env::var("COHORT_SEEDS") {
        Ok(number) => number.parse().expect("COHORT_SEEDS is a number"),
        Err(_) => SEEDS,
    };
    (0..seeds).for_each(run);
}

fn below(rng: &mut ChaCha20Rng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % bound as u64).unwrap()
}

fn run(seed: u64) {
    let mut chance = ChaCha20Rng::seed_from_u64(seed ^ 0xc4a05);
    let members = 2 + below(&mut chance, 3);
    let mut world = World::new(members, seed);
    let empty_leaf_allowed = seed.is_multiple_of(3);
    let cohort = world.advertise(|terms| {
        terms.empty_leaf_allowed = empty_leaf_allowed;
        terms.max_strikes = 1_000_000; // What is lost here is nobody's fault.
        terms.response_deadline_s = 120; // And no cohort fails for it.
    });
    (0..members).for_each(|number| world.subscribe(number));
    for _ in 0..ACTIONS {
        let number = below(&mut chance, members);
        match below(&mut chance, 20) {
            // Mail arrives in any order, twice, or, once the cohort is formed, not at all.
            0..=9 if !world.mail.is_empty() => {
                let at = below(&mut chance, world.mail.len());
                let mail = world.mail.remove(at);
                if below(&mut chance, 10) == 0 {
                    world.mail.push(mail.clone());
                }
                let losable = matches!(&mail, Mail::Message { message, .. } if message.kind().starts_with("sign/"));
                if !losable || below(&mut chance, 25) > 0 {
                    world.deliver(mail);
                }
            }
            10..=12 => world.look_at_chain_from(number),
            13 => world.look_at_chain(),
            14 => world.chain.mine(),
            15 => world.pass(1 + chance.next_u64() % 30),
            16 if below(&mut chance, 4) == 0 => world.restart(number),
            17 => world.restart_coordinator(),
            18 if world.cohort(cohort).phase == Phase::Acknowledged => {
                if world.cohort(cohort).funds.is_empty() {
                    world.fund(cohort, 50_000);
                }
                if world.membership(number, cohort).round < 4 {
                    let update = 1 + u8::try_from(chance.next_u64() % 200).unwrap();
                    world.request_update(number, cohort, update);
                }
            }
            19 if below(&mut chance, 6) == 0 => {
                let _ = world.operator(coordinator::Command::StartRound { cohort });
                if below(&mut chance, 4) == 0 {
                    world.chain.reorganise(1, below(&mut chance, 2) == 0);
                }
            }
            _ => {}
        }
        if below(&mut chance, 20) == 0 {
            world.assert_replay_equals_memory();
        }
    }
    come_to_rest(&mut world, cohort, seed);
    world.assert_replay_equals_memory();
    assert_nonces_sign_once(&world);
}

/// With nothing lost any more, a round comes to its signal.
fn come_to_rest(world: &mut World, cohort: beacon_cohort::ids::CohortId, seed: u64) {
    world.settle();
    assert_eq!(
        world.cohort(cohort).phase,
        Phase::Acknowledged,
        "seed {seed}"
    );
    if world.cohort(cohort).funds.is_empty() && world.cohort(cohort).signals.is_empty() {
        world.fund(cohort, 50_000);
    }
    let round = world.cohort(cohort).round.number;
    for _ in 0..60 {
        if world.cohort(cohort).round.number > round {
            return;
        }
        let waiting = matches!(
            world.cohort(cohort).round.stage,
            Stage::Waiting | Stage::Stopped { .. }
        );
        if waiting {
            world
                .operator(coordinator::Command::StartRound { cohort })
                .unwrap();
        }
        world.settle();
        world.chain.mine();
        world.settle();
        world.pass(125);
        world.settle();
    }
    let stuck = world.cohort(cohort);
    panic!(
        "seed {seed}: stuck at {:?}, {:?}, {:?}",
        stuck.round,
        stuck.abandoned,
        world.rejections.last()
    );
}

/// One public nonce for each session of a member, never the same for two, and at most one partial signature.
fn assert_nonces_sign_once(world: &World) {
    for peer in &world.peers {
        let (mut made, mut signed) = (BTreeMap::new(), BTreeSet::new());
        let mut public: BTreeSet<String> = BTreeSet::new();
        for line in &peer.node.log {
            match serde_json::from_str(line).unwrap() {
                Event::NonceCommitted {
                    session, nonces, ..
                } => {
                    assert!(
                        made.insert(session, nonces.clone()).is_none(),
                        "nonces twice for {session}"
                    );
                    for nonce in nonces.iter().map(PublicNonce::to_string) {
                        assert!(public.insert(nonce), "the same nonce for two sessions");
                    }
                }
                Event::PartialReleased { session, .. } => {
                    assert!(
                        made.contains_key(&session),
                        "a partial signature without a nonce"
                    );
                    assert!(
                        signed.insert(session),
                        "two partial signatures for {session}"
                    );
                }
                _ => {}
            }
        }
    }
    let signed = world.cohort(
        *world
            .coordinator
            .machine
            .state()
            .cohorts
            .keys()
            .next()
            .unwrap(),
    );
    for signal in &signed.signals {
        let refused = signal
            .refusal
            .as_deref()
            .is_some_and(|reason| reason.contains("Schnorr"));
        assert!(
            signal.standing == Standing::Unsigned || !refused,
            "{signal:?}"
        );
    }
}
