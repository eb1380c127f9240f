//! Event logs: what an agent reads at its start. They come from its own disk, so nothing in them is refused but what cannot
//! be read; a log that no version wrote may lead to a state of no use, and to no panic.

use beacon_cohort::coordinator::{self, Coordinator};
use beacon_cohort::ids::Timestamp;
use beacon_cohort::machine::{Input, Machine};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::situations::apply;
use crate::common::START;

/// Ticks that are tried. A state that no machine led to need not come to rest.
const TICKS: usize = 8;

/// A coordinator's log, one event on each line.
pub fn coordinator(data: &[u8]) {
    let machine = run(Coordinator::new(coordinator::Config::default()), data);
    survives(machine.state());
    for cohort in machine.state().cohorts.values() {
        assert!(cohort.abandoned.len() <= 32);
    }
}

/// A participant's log, one event on each line.
pub fn participant(data: &[u8]) {
    let machine = run(crate::common::participant(0), data);
    survives(machine.state());
    for cohort in machine.state().cohorts.values() {
        assert!(cohort.ended.len() <= 64);
    }
}

fn run<M: Machine + Clone>(mut machine: M, data: &[u8]) -> M {
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(event) = serde_json::from_slice(line) {
            apply(&mut machine, &event);
        }
    }
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for now in [START.after(86_400), Timestamp(u64::MAX)] {
        let mut woken = machine.clone();
        let _ = (woken.next_deadline(), woken.watches());
        let mut step = woken.step(Input::Restarted, now, &mut rng);
        for _ in 0..TICKS {
            let Ok(taken) = step else { break };
            if taken.is_empty() {
                break;
            }
            for event in &taken.events {
                apply(&mut woken, event);
            }
            step = woken.step(Input::Tick, now, &mut rng);
        }
    }
    machine
}

/// Snapshots hold the state: whatever log led to it, it is read as it was written.
pub(super) fn survives<S>(state: &S)
where
    S: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let written = serde_json::to_string(state).expect("a state can be stored");
    let read: S = serde_json::from_str(&written).expect("a state can be read");
    assert!(read == *state, "{read:?}\nis not\n{state:?}");
}
