//! A cohort's life from the first subscription to a buried signal.

mod common;

use beacon_cohort::coordinator::{Phase, Standing};
use common::World;

#[test]
fn two_signals_in_a_row_are_mined_and_proven() {
    let (mut world, cohort) = World::formed(3, 1);
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
    for round in 1..=2 {
        world.request_update(1, cohort, 7);
        world.settle();
        world.chain.mine();
        world.settle();
        let signals = &world.cohort(cohort).signals;
        assert_eq!(signals.len(), round, "{:?}", world.rejections);
        assert!(matches!(
            signals[round - 1].standing,
            Standing::Confirmed { .. }
        ));
    }
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}
