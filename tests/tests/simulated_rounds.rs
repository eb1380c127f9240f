//! A thousand rounds under faults at 1, 5 and 20 percent, in every run of the tests. More of them:
//! `cargo run -p beacon-tests --example rounds -- 100000`.

use beacon_tests::simulator::campaign;

/// Frames are lost, repeated, overtaken, delayed and damaged, lines are cut, half open and doubled, clocks are wrong, disks
/// fail, processes end, the chain is reorganised; and every round is carried through.
#[test]
fn a_thousand_rounds() {
    match campaign::run(0, 1_000, |_| {}) {
        Ok(summary) => {
            println!("{summary:#?}");
            assert!(summary.rounds >= 1_000);
            let troubles = [
                summary.abandoned,
                summary.lost,
                summary.restarts,
                summary.broken_lines,
                summary.disk_faults,
                summary.reorganisations,
            ];
            assert!(troubles.iter().all(|count| *count > 100), "{summary:#?}");
        }
        Err(failure) => panic!(
            "{failure}\nor: cargo run -p beacon-tests --example rounds -- life {}",
            failure.seed
        ),
    }
}
