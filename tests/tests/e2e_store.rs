//! Disks that are full, refuse writes or refuse to make them durable, and store files that are damaged or somebody else's.
//!
//! A disk fails in the middle of the commit that a kind of event is in, for every kind that a life has: the agent must stop with one line
//! that names the file, must not start while the disk fails, and goes on to a buried signal when it works again. What its peers have
//! heard of it is compared with its log, see `harness::oracle`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use beacon_tests::harness::Member::Signs;
use beacon_tests::harness::lives::{
    Lived, Plans, World, life_of_a_coordinator, life_of_a_participant,
};
use beacon_tests::harness::{Agent, Binary, Fault, Net, When, chain_options, on_disk, run};
use futures_util::{StreamExt as _, stream};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use serde_json::json;

/// Lives at one time.
const SIDE_BY_SIDE: usize = 8;
const FAULTS: [Fault; 4] = [
    Fault::WritesFull,
    Fault::WritesFail,
    Fault::SyncsFailAndLose,
    Fault::SyncsFailAndKeep,
];

async fn with_each_fault(life: impl AsyncFn(&World, Plans) -> Lived, world: &World) {
    let reference = life(world, Vec::new()).await;
    let mut plans: Vec<Plans> = Vec::new();
    for (number, kind) in reference.kinds.iter().enumerate() {
        // Two of the four for each kind of event, and each of them with every other kind.
        for fault in FAULTS.iter().skip(number % 2).step_by(2) {
            plans.push(vec![(*fault, When::Event(kind.clone()))]);
        }
    }
    let count = plans.len();
    let lives: Vec<_> = stream::iter(plans)
        .map(|plans| life(world, plans))
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    assert_eq!(lives.iter().map(|lived| lived.deaths).sum::<usize>(), count);
}

#[tokio::test]
async fn a_participants_disk_fails_and_works_again() {
    let world = World::for_participants().await;
    with_each_fault(life_of_a_participant, &world).await;
}

#[tokio::test]
async fn a_coordinators_disk_fails_and_works_again() {
    let world = World::for_coordinators().await;
    with_each_fault(life_of_a_coordinator, &world).await;
}

/// Homes of a coordinator and a participant that have published a signal together, and were closed in due form.
async fn used_homes() -> Net {
    let mut net = Net::start(&[Signs, Signs]).await;
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    net.confirmed(&mut cohort).await;
    for agent in net.members.iter_mut().chain([&mut net.coordinator]) {
        assert_eq!(agent.terminate().await, 0);
    }
    net
}

/// A copy of a home under another name.
fn copy(home: &Path, name: &str) -> PathBuf {
    let to = home.parent().unwrap().join(name);
    fs::create_dir(&to).unwrap();
    fs::set_permissions(&to, Permissions::from_mode(0o700)).unwrap();
    for file in fs::read_dir(home).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

/// Starts an agent in a home, which must end it with one line that has these words.
async fn refuses(net: &Net, binary: Binary, home: &Path, words: &[&str]) {
    let name = home.file_name().unwrap().to_str().unwrap();
    let mut options = chain_options(&net.chain);
    if binary == Binary::Coordinator {
        let listen = net.coordinator.url().replace("ws://", "");
        options.extend(["--listen".to_owned(), listen]);
    }
    let mut agent = Agent::new(name, binary, home.parent().unwrap(), options);
    let status = agent.try_restart().await.unwrap_err();
    let log = agent.log();
    assert_eq!(status.code(), Some(1), "{name}: {log}");
    let errors = log.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{name}: {log}");
    assert!(!log.contains("panicked"), "{name}: {log}");
    let file = home.join("state.redb").display().to_string();
    for word in words.iter().chain([&file.as_str()]) {
        assert!(log.contains(word), "{name}: {word:?} is missing: {log}");
    }
}

const FOREIGN: [&str; 2] = ["is not a store of this program", "move it away"];
const DAMAGED: [&str; 2] = ["is damaged", "docs/operations.md"];

#[tokio::test]
async fn a_store_file_that_is_cut_off_or_somebody_elses_is_refused_with_advice() {
    let net = used_homes().await;
    let homes = [
        (Binary::Participant, net.members[0].data_dir()),
        (Binary::Coordinator, net.coordinator.data_dir()),
    ];
    for (number, (binary, home)) in homes.iter().enumerate() {
        let length = fs::metadata(home.join("state.redb")).unwrap().len();
        for kept in [
            0,
            1,
            9,
            320,
            4_096,
            4_100,
            length / 2,
            length - 4_096,
            length - 1,
        ] {
            let copy = copy(home, &format!("cut{number}-{kept}"));
            let file = OpenOptions::new().write(true).open(copy.join("state.redb"));
            file.unwrap().set_len(kept).unwrap();
            // The first 9 bytes say whose file it is.
            let words = if (1..9).contains(&kept) {
                FOREIGN
            } else {
                DAMAGED
            };
            refuses(&net, *binary, &copy, &words).await;
        }
        for (kind, content) in [
            ("text", "my shopping list\n".repeat(1_000)),
            ("zeros", "\0".repeat(9_000)),
        ] {
            let copy = copy(home, &format!("{kind}{number}"));
            fs::write(copy.join("state.redb"), &content).unwrap();
            refuses(&net, *binary, &copy, &FOREIGN).await;
            assert_eq!(
                fs::read(copy.join("state.redb")).unwrap(),
                content.as_bytes(),
                "it was touched"
            );
        }
        let (_, other) = &homes[1 - number];
        let copy = copy(home, &format!("other{number}"));
        fs::copy(other.join("state.redb"), copy.join("state.redb")).unwrap();
        refuses(&net, *binary, &copy, &["is not the seed with which"]).await;
    }
}

/// A bit that is not as it was written is noticed, or it is where nothing is.
#[tokio::test]
async fn a_store_file_with_a_flipped_bit_is_refused_or_unharmed() {
    const FLIPS: usize = 150;
    let net = used_homes().await;
    let home = copy(&net.members[0].data_dir(), "flipped");
    let file = home.join("state.redb");
    let good = fs::read(&file).unwrap();
    let events = on_disk(&home);
    let mut dice = ChaCha8Rng::seed_from_u64(3);
    let mut places: Vec<usize> = (0..320).step_by(8).collect();
    while places.len() < FLIPS {
        let place = dice.next_u32() as usize % good.len();
        // Most of a small store is empty.
        if good[place] != 0 {
            places.push(place);
        }
    }
    let mut refused = 0;
    for place in places {
        let bit = 1 << (dice.next_u32() % 8);
        fs::write(&file, &good).unwrap();
        let damaged = OpenOptions::new().write(true).open(&file).unwrap();
        damaged
            .write_all_at(&[good[place] ^ bit], place as u64)
            .unwrap();
        let shown = home.display().to_string();
        let output = run(Binary::Participant, ["--data-dir", &shown, "did"]).await;
        let what = format!("byte {place}, bit {bit}: {output:?}");
        assert!(!output.stderr.contains("panicked"), "{what}");
        if output.code == 0 {
            assert_eq!(on_disk(&home), events, "{what}");
        } else {
            refused += 1;
            assert_eq!(output.code, 1, "{what}");
            assert_eq!(output.stderr.lines().count(), 1, "{what}");
            assert!(
                output.stderr.contains(&file.display().to_string()),
                "{what}"
            );
        }
    }
    // Most pages of a young store are older states of others.
    assert!(refused > FLIPS / 10, "only {refused} were noticed");
}
