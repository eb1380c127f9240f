//! `kill -9` of the real binaries at every commit boundary, in both roles, over a life from the first start to a buried signal.
//!
//! A commit is one sync of the store. A life without faults tells how many there are, and which events it has. Then, for each
//! number, one life is lived in which the agent dies before that sync, with the loss of what was written since the last one (as in
//! a power failure; every other time, half of it survives), and one in which it dies right after it, before it has told
//! anybody. Each dies once more while it recovers. Lives differ a little, since two messages may come in either order: a
//! boundary that a number meets in one life may lie elsewhere in the next. So there are two more lives for each kind of event, which end
//! before and after the sync that makes the first one durable. A life in which nothing has struck goes on until something does.
//!
//! `BEACON_CRASH_ROUNDS=20` does all of it 20 times. Lives run side by side, with the same neighbours.
#![cfg(target_os = "linux")]

use std::time::Instant;

use beacon_tests::harness::lives::{
    Lived, Plans, World, life_of_a_coordinator, life_of_a_participant,
};
use beacon_tests::harness::{Fault, When};
use futures_util::{StreamExt as _, stream};

/// Lives at one time. They wait for each other's messages most of the time.
const SIDE_BY_SIDE: usize = 8;
/// Lives with the same neighbours. These watch all cohorts that they are in, those of the past too.
const NEIGHBOURS: usize = 32;
/// Syncs with which an agent opens the store that its death has left.
const RECOVERY: u64 = 4;

/// Lives a life for every boundary of a life without faults, side by side.
async fn at_every_boundary(
    round: u64,
    life: impl AsyncFn(&World, Plans) -> Lived,
    world: impl AsyncFn() -> World,
) {
    let reference = life(&world().await, Vec::new()).await;
    let begun = Instant::now();
    let mut plans = Vec::new();
    for number in 1..=reference.syncs {
        let lost = if (number + round).is_multiple_of(2) {
            Fault::DieAndLose
        } else {
            Fault::DieAndTear
        };
        let again = When::Next(1 + (number + round / 2) % RECOVERY);
        let number = When::Next(number);
        plans.push(vec![
            (lost, number.clone()),
            (Fault::DieAfter, again.clone()),
        ]);
        plans.push(vec![(Fault::DieAfter, number), (lost, again)]);
    }
    for kind in &reference.kinds {
        let durable = When::Event(kind.clone());
        plans.push(vec![(Fault::DieAndLose, durable.clone())]);
        plans.push(vec![(Fault::DieAfter, durable)]);
    }
    let (count, mut deaths) = (plans.len(), 0);
    while !plans.is_empty() {
        let world = world().await;
        let lives = plans.split_off(plans.len().saturating_sub(NEIGHBOURS));
        let lives: Vec<_> = stream::iter(lives)
            .map(|plans| life(&world, plans))
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        deaths += lives.iter().map(|lived| lived.deaths).sum::<usize>();
    }
    eprintln!(
        "{} boundaries, {} kinds of events, {count} lives, {deaths} deaths in {:?}",
        reference.syncs,
        reference.kinds.len(),
        begun.elapsed()
    );
}

fn rounds() -> u64 {
    let rounds = std::env::var("BEACON_CRASH_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

#[tokio::test]
async fn a_participant_is_killed_at_every_boundary() {
    for round in 0..rounds() {
        at_every_boundary(round, life_of_a_participant, World::for_participants).await;
    }
}

#[tokio::test]
async fn a_coordinator_is_killed_at_every_boundary() {
    for round in 0..rounds() {
        at_every_boundary(round, life_of_a_coordinator, World::for_coordinators).await;
    }
}
