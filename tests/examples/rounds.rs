//! Simulates rounds under faults of the network, the disk, the processes and the chain, until there are as many as wanted.
//!
//! ```sh
//! cargo run -p beacon-tests --example rounds -- 100000        # as many rounds; 1000 without a number
//! cargo run -p beacon-tests --example rounds -- 100000 5000   # beginning with life 5000
//! cargo run -p beacon-tests --example rounds -- life 17       # one life again, with its whole transcript
//! ```
//!
//! Exit code: 0 everything held, 1 something did not, 2 wrong arguments.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use beacon_tests::simulator::{Simulation, campaign};

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    match arguments.as_slice() {
        [] => rounds(0, 1_000),
        ["life", life] if number(life).is_some() => again(number(life).unwrap_or(0)),
        [count] if number(count).is_some() => rounds(0, number(count).unwrap_or(0)),
        [count, first] if number(count).is_some() && number(first).is_some() => {
            rounds(number(first).unwrap_or(0), number(count).unwrap_or(0))
        }
        other => {
            eprintln!("got {other:?}, expected: nothing, ROUNDS, ROUNDS FIRST-LIFE or life NUMBER");
            ExitCode::from(2)
        }
    }
}

fn rounds(first: u64, wanted: u64) -> ExitCode {
    let start = Instant::now();
    let said = Mutex::new(start);
    let outcome = campaign::run(first, wanted, |summary| {
        let Ok(mut said) = said.lock() else {
            return;
        };
        if said.elapsed() >= PROGRESS {
            *said = Instant::now();
            let seconds = start.elapsed().as_secs();
            println!(
                "{seconds:>5} s: {} rounds in {} lives",
                summary.rounds, summary.lives
            );
        }
    });
    match outcome {
        Ok(summary) => {
            println!(
                "everything held, in {} s: {summary:#?}",
                start.elapsed().as_secs()
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            eprintln!(
                "or: cargo run -p beacon-tests --example rounds -- life {}",
                failure.seed
            );
            ExitCode::FAILURE
        }
    }
}

fn again(life: u64) -> ExitCode {
    match Simulation::new(life, campaign::circumstances(life)).run() {
        Ok(report) => {
            println!("{report:#?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            for line in &failure.transcript {
                println!("{line}");
            }
            println!("{}", failure.reason);
            ExitCode::FAILURE
        }
    }
}
