//! Every file of every corpus through its target, and some mutations of each.
//!
//! `FUZZ_ITERATIONS=10000` mutates each file that often, `FUZZ_SEED` chooses which mutations; a failure names both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use beacon_fuzz::mutate::mutate;
use beacon_fuzz::{TARGETS, Target, corpus, seeds};

/// Mutations of each file, unless the environment says otherwise.
const ITERATIONS: u64 = 2;
/// Longest mutated input.
const MAX_LEN: usize = 65_536;
/// All corpora together.
const MAX_CORPUS: u64 = 1 << 20;

fn files(target: &Target) -> Vec<PathBuf> {
    let folder = corpus(target.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Runs a target; where it panics, the input is kept and named.
fn run(target: &Target, input: &[u8], origin: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-crash", target.name));
        fs::write(&kept, input).unwrap();
        panic!(
            "target {} panics on {origin}, kept as {}",
            target.name,
            kept.display()
        );
    }
}

/// Replays one target's corpus and mutates it.
fn replay(name: &str) {
    let target = beacon_fuzz::target(name).expect("a target of this name");
    let files = files(target);
    assert!(!files.is_empty(), "target {name} has no corpus");
    let (iterations, first) = (
        number("FUZZ_ITERATIONS", ITERATIONS),
        number("FUZZ_SEED", 0),
    );
    for path in files {
        let input = fs::read(&path).unwrap();
        run(target, &input, &path.display().to_string());
        for seed in first..first + iterations {
            let mutated = mutate(&input, target.form, MAX_LEN, seed);
            run(
                target,
                &mutated,
                &format!("{} with FUZZ_SEED={seed}", path.display()),
            );
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_its_test() {
            let tested = BTreeSet::from([$(stringify!($name)),*]);
            let all: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tested, all);
            let folders = fs::read_dir(corpus("")).unwrap();
            let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let folders: BTreeSet<String> = folders.collect();
            assert_eq!(folders, all.iter().map(|name| (*name).to_owned()).collect());
        }
    };
}

targets! {
    btcr2_did btcr2_resolution btcr2_sidecar btcr2_update
    config control coordinator_log did did_document envelope evidence keygen machines participant_log plaintext proof protocols
    psbt sign store terms transaction
}

#[test]
fn the_corpus_is_small() {
    let sizes = TARGETS
        .iter()
        .flat_map(files)
        .map(|path| fs::metadata(path).unwrap().len());
    let total: u64 = sizes.sum();
    assert!(
        total < MAX_CORPUS,
        "{total} bytes, expected less than {MAX_CORPUS}: scripts/fuzz --minimise"
    );
}

/// Honest input must be taken, or the targets see nothing but refusals.
#[test]
fn every_seed_runs() {
    for target in TARGETS {
        let seeds = seeds::seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (name, bytes) in seeds {
            run(target, &bytes, &format!("seed {name}"));
        }
    }
}
