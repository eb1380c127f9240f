//! The golden logs: what each role of this version writes in one deterministic run, kept in `tests/golden/`.
//!
//! The compatibility rule: a log is kept for the life of its cohorts, so every log that a released version wrote must
//! replay for ever, to the state that it meant. New events and new optional members may be added; nothing may be renamed,
//! removed or given another meaning. A file of a released version is therefore never edited: a new version adds its own
//! (`VERSION` below), and `every_golden_log_replays` reads them all. `GOLDEN=write` writes the files of this version, which
//! is right only before it is released.

use std::collections::BTreeSet;
use std::path::PathBuf;

use beacon_cohort::coordinator::{self, Coordinator, Phase};
use beacon_cohort::ids::PeerId;
use beacon_cohort::machine::{
    BroadcastOutcome, ChainFact, ControlVerdict, Fund, Input, Machine, OutputView,
};
use beacon_cohort::message::{CohortSet, DidRegistration, Subscribe, Unsubscribe};
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::participant::{self, Stage};
use beacon_cohort::values::CohortKey;
use bitcoin::{Amount, OutPoint, TxOut};

use super::singleton;
use crate::common::{World, coordinator_id, did, participant as new_participant};

/// The version that today's code writes.
const VERSION: &str = "0.3";
/// All versions, each of which must replay for ever.
const VERSIONS: [&str; 3] = ["0.1", "0.2", VERSION];

/// A life with as much in it as one run can have: cohorts that fail, are left and are refused; one that forms, registers
/// a further index, stops, loses a session to a restart, and signs twice, once through a reorganisation.
pub(crate) fn run() -> World {
    let mut world = World::new(2, 2_026);
    world.subscribe(0);
    world.settle();
    let [failing, left, refused] = [(); 3].map(|()| world.advertise(|_| {}));
    world.settle();
    world
        .user(0, participant::Command::Leave { cohort: left })
        .unwrap();
    let without_us = BeaconKey::aggregate([a_key(1), a_key(2)]).unwrap();
    let set = CohortSet {
        cohort_id: refused,
        beacon_address: without_us.address(bitcoin::Network::Regtest),
        cohort_keys: without_us.keys().to_vec(),
        terms_hash: world.cohort(refused).terms.hash(),
    };
    world.tell(0, &coordinator_id(), set).unwrap();
    world.settle();
    world.pass(3_600);
    assert!(matches!(world.cohort(failing).phase, Phase::Failed(_)));
    world.settle();
    world.mail.clear();

    let passer_by = PeerId::new("did:example:passer-by");
    world
        .tell_coordinator(&passer_by, Subscribe::default())
        .unwrap();
    world.tell_coordinator(&passer_by, Unsubscribe {}).unwrap();
    world.mail.clear();
    let cohort = world.advertise(|_| {});
    world.subscribe(1);
    world.settle();
    let dids = vec!["did:example:another".to_owned()];
    world
        .user(
            0,
            participant::Command::Join {
                cohort,
                dids,
                accept_script_tree: false,
            },
        )
        .unwrap();
    world.settle();
    world.fund(cohort, 50_000);
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.mail.clear(); // Nobody is asked, so nobody answers.
    world.pass(62);
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.request_update(0, cohort, 1);
    world.mail = world.settle_until(|message| message.kind() == "sign/nonce_contribution");
    let session = world.membership(0, cohort).session.as_ref().unwrap().id;
    world
        .user(0, participant::Command::AskForPsbt { session })
        .unwrap();
    world.restart(0);
    world.settle();
    world.pass(2);
    world.settle();
    let txid = world.cohort(cohort).signals[0].txid;
    let outcome = BroadcastOutcome::Refused("min relay fee not met".to_owned());
    world
        .at_coordinator(Input::Chain(ChainFact::Broadcast { txid, outcome }))
        .unwrap();
    world.chain.mine();
    world.settle();
    world.chain.reorganise(1, false);
    world.settle();
    world.chain.mine();
    world.settle();
    world.request_update(1, cohort, 2);
    world.settle();
    for _ in 0..7 {
        world.chain.mine();
        world.settle();
    }
    let claim = world.claim(0, cohort, &did(0));
    world
        .user(0, participant::Command::Contest { cohort, claim })
        .unwrap();
    world.settle();
    world.judge(ControlVerdict::Proven);
    world.settle();
    world
        .user(
            0,
            participant::Command::Unsubscribe {
                coordinator: coordinator_id(),
            },
        )
        .unwrap();
    world
}

/// What goes wrong: a seat that is renewed, a restart, doubts about the log, declines, strikes, and a cohort that ends with
/// a successor.
fn run_of_failures() -> World {
    let mut world = World::new(4, 2_027);
    let cohort = world.advertise(|terms| terms.max_strikes = 1);
    world.subscribe(0);
    let opt_in = world.settle_until(|message| message.kind() == "keygen/opt_in");
    world.deliver(opt_in[0].clone());
    world.now = world.now.after(300);
    world.deliver(opt_in[0].clone());
    world.restart_coordinator();
    (1..4).for_each(|number| world.subscribe(number));
    world.settle();
    world.fund(cohort, 50_000);
    world.settle();
    let from = world.peers[0].id.clone();
    let later = DidRegistration {
        cohort_id: cohort,
        indexes: world.membership(0, cohort).dids.keys().copied().collect(),
        from_round: Some(5),
    };
    world.tell_coordinator(&from, later).unwrap();
    let state = world.cohort(cohort);
    let (funds, script) = (
        state.funds.clone(),
        state.beacon.as_ref().unwrap().script().to_owned(),
    );
    let outpoint = OutPoint::new(funds[0].outpoint.txid, 7);
    let extra = Fund {
        outpoint,
        ..funds[0].clone()
    };
    for funds in [vec![funds[0].clone(), extra], funds.clone()] {
        let script = script.clone();
        world
            .at_coordinator(Input::Chain(ChainFact::Funds { script, funds }))
            .unwrap();
    }
    let view = OutputView::Seen {
        output: TxOut {
            value: Amount::from_sat(funds[0].value),
            script_pubkey: script,
        },
        confirmations: 1,
        spent_by: Some(funds[0].outpoint.txid),
    };
    world
        .at_coordinator(Input::Chain(ChainFact::Output { outpoint, view }))
        .unwrap();
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    let requests = world.settle_until(|message| message.kind() == "sign/authorization_request");
    let session = world.cohort(cohort).session.as_ref().unwrap().id;
    for mail in requests {
        world.deliver(mail);
    }
    for number in [2, 3] {
        let comment = String::new();
        world
            .user(number, participant::Command::Decline { session, comment })
            .unwrap();
    }
    world.settle();
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.settle();
    world
}

/// A signal that is stuck and replaced twice, of which the first version is mined, and a cohort that is closed.
fn run_of_endings() -> World {
    let (mut world, cohort) = World::formed_with(2, 2_029, |terms| {
        terms.patience_s = 600;
        let script = [&[0x51, 0x20][..], &[9; 32]].concat();
        terms.close_script = Some(bitcoin::ScriptBuf::from_bytes(script));
    });
    world.request_update(0, cohort, 1);
    world.settle();
    world.pass(600);
    world.settle();
    let fee_rate = Some(9);
    let command = coordinator::Command::Replace { cohort, fee_rate };
    world.operator(command).unwrap();
    for mail in world.settle_until(|message| message.kind() == "sign/authorization_request") {
        world.deliver(mail);
    }
    let session = world.cohort(cohort).session.as_ref().unwrap().id;
    let comment = String::new();
    let decline = participant::Command::Decline { session, comment };
    world.user(1, decline).unwrap();
    world.settle();
    let first = world.cohort(cohort).signals[0].tx.clone();
    world.chain.prefer(first);
    let mine = |world: &mut World| {
        for _ in 0..7 {
            world.chain.mine();
            world.settle();
        }
    };
    mine(&mut world);
    let fee_rate = None;
    let command = coordinator::Command::Close { cohort, fee_rate };
    world.operator(command).unwrap();
    world.settle();
    mine(&mut world);
    world
}

fn a_key(number: u8) -> CohortKey {
    let secret = secp256k1::SecretKey::from_secret_bytes([100 + number; 32]).unwrap();
    secp256k1::PublicKey::from_secret_key(&secret).into()
}

pub(crate) fn is_writing() -> bool {
    std::env::var("GOLDEN").is_ok_and(|value| value == "write")
}

pub(crate) fn path(version: &str, role: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    PathBuf::from(folder).join(format!("{role}-{version}.jsonl"))
}

pub(crate) fn lines(version: &str, role: &str) -> Vec<String> {
    let path = path(version, role);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn todays_code_still_writes_the_golden_logs() {
    let (world, failures) = (run(), run_of_failures());
    let (singletons, endings) = (singleton::golden_run(), run_of_endings());
    let logs = [
        ("coordinator", &world.coordinator.log),
        ("coordinator-failures", &failures.coordinator.log),
        ("participant", &world.peers[0].node.log),
        ("participant-singletons", &singletons.peers[0].node.log),
        ("coordinator-endings", &endings.coordinator.log),
        ("participant-endings", &endings.peers[0].node.log),
    ];
    for (role, log) in logs {
        if is_writing() {
            std::fs::write(path(VERSION, role), log.join("\n") + "\n").unwrap();
        }
        let golden = lines(VERSION, role);
        for (number, (written, expected)) in log.iter().zip(&golden).enumerate() {
            assert_eq!(written, expected, "{role}, line {}", number + 1);
        }
        assert_eq!(log.len(), golden.len(), "{role}");
    }
}

/// Every kind of event is in the logs, but two that such a run cannot bring: their forms are pinned here.
#[test]
fn every_kind_of_event_is_pinned() {
    let rare = [
        r#"{"event":"signal_approved","cohort":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000002"}"#,
        r#"{"event":"signal_offered","cohort":"00000000-0000-0000-0000-000000000001","txid":"0000000000000000000000000000000000000000000000000000000000000000","at":1}"#,
        r#"{"event":"signal_refused","cohort":"00000000-0000-0000-0000-000000000001","txid":"0000000000000000000000000000000000000000000000000000000000000000","reason":"min relay fee not met"}"#,
        r#"{"event":"cohort_forgotten","cohort":"00000000-0000-0000-0000-000000000001"}"#,
        r#"{"event":"opt_in_renewed","cohort":"00000000-0000-0000-0000-000000000001","at":1}"#,
        r#"{"event":"cohort_dissolved","cohort":"00000000-0000-0000-0000-000000000001","code":"strikes","comment":"","at":1}"#,
        r#"{"event":"watch_ended","cohort":"00000000-0000-0000-0000-000000000001"}"#,
        r#"{"event":"updates_moved","cohort":"00000000-0000-0000-0000-000000000001","to":"00000000-0000-0000-0000-000000000002","updates":{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}"#,
        r#"{"event":"rollback_detected","cohort":"00000000-0000-0000-0000-000000000001","evidence":"foreign-spend","txid":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        r#"{"event":"quarantine_fixed","cohort":"00000000-0000-0000-0000-000000000001","outputs":["0000000000000000000000000000000000000000000000000000000000000000:0"]}"#,
        r#"{"event":"rollback_confirmed","cohort":"00000000-0000-0000-0000-000000000001"}"#,
        r#"{"event":"foreign_spend","cohort":"00000000-0000-0000-0000-000000000001","outpoint":"0000000000000000000000000000000000000000000000000000000000000000:0","txid":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        r#"{"event":"leaf_spend","cohort":"00000000-0000-0000-0000-000000000001","outpoint":"0000000000000000000000000000000000000000000000000000000000000000:0","txid":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        r#"{"event":"foreign_spend_buried","cohort":"00000000-0000-0000-0000-000000000001","outpoint":"0000000000000000000000000000000000000000000000000000000000000000:0","txid":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        r#"{"event":"signal_adopted","cohort":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000002","round":1,"tx":"020000000001000000000000","root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","proofs":{},"unproven":{}}"#,
        r#"{"event":"proofs_recovered","cohort":"00000000-0000-0000-0000-000000000001","txid":"0000000000000000000000000000000000000000000000000000000000000000","proofs":{},"unproven":{}}"#,
        r#"{"event":"signer_chosen","cohort":"00000000-0000-0000-0000-000000000001","outside":true}"#,
        r#"{"event":"nonces_imported","cohort":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000002","nonces":[["0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798","0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"]]}"#,
        r#"{"event":"psbt_requested","cohort":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000002"}"#,
        r#"{"event":"psbt_given","cohort":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000002","psbt":"cHNidP8="}"#,
        r#"{"event":"psbt_refused","cohort":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000002","reason":""}"#,
    ];
    let rare_of_coordinators = [
        r#"{"event":"fee_estimated","sat_vb":7,"at":1}"#,
        r#"{"event":"contest_asked","cohort":"00000000-0000-0000-0000-000000000001","index":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","at":1}"#,
    ];
    for line in rare_of_coordinators {
        let event: coordinator::Event = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
    }
    for line in rare {
        let event: participant::Event = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
    }
    let rare = rare.map(str::to_owned);
    let roles = ["coordinator", "coordinator-failures", "coordinator-endings"];
    let mut logged = roles.map(|role| lines(VERSION, role)).concat();
    logged.extend(rare_of_coordinators.map(str::to_owned));
    assert_eq!(kinds(&logged), all_kinds::<coordinator::Event>());
    let logged = ["participant", "participant-singletons"].map(|role| lines(VERSION, role));
    let logged = [logged.concat(), rare.to_vec()].concat();
    assert_eq!(kinds(&logged), all_kinds::<participant::Event>());
}

fn kinds(lines: &[String]) -> BTreeSet<String> {
    let kind = |line: &String| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["event"].as_str().unwrap().to_owned()
    };
    lines.iter().map(kind).collect()
}

/// The kinds that can be read, as the reader lists them when it is given another.
fn all_kinds<E: serde::de::DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
    let error = serde_json::from_str::<E>(r#"{"event":"?"}"#)
        .unwrap_err()
        .to_string();
    let (_, expected) = error
        .split_once("expected one of ")
        .expect("the reader lists what it knows");
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_golden_log_replays() {
    for version in VERSIONS {
        let mut coordinator = Coordinator::new(coordinator::Config::default());
        for line in lines(version, "coordinator") {
            coordinator.apply(&serde_json::from_str(&line).unwrap());
        }
        assert_snapshot_keeps_everything(coordinator.state());
        let mut cohorts = coordinator.state().cohorts.values();
        let cohort = cohorts
            .find(|cohort| cohort.phase == Phase::Acknowledged)
            .unwrap();
        assert_eq!((cohort.round.number, cohort.abandoned.len()), (3, 1));
        let standings = cohort.signals.iter().map(|signal| signal.standing);
        assert!(
            standings
                .clone()
                .all(|standing| matches!(standing, coordinator::Standing::Buried { .. }))
        );
        assert_eq!(standings.count(), 2);

        let mut participant = new_participant(0);
        for line in lines(version, "participant") {
            participant.apply(&serde_json::from_str(&line).unwrap());
        }
        let mut cohorts = participant.state().cohorts.values();
        let membership = cohorts
            .find(|cohort| cohort.stage == Stage::Agreed)
            .unwrap();
        assert_eq!((membership.round, membership.dids.len()), (3, 2));
        let standings = membership
            .candidates
            .iter()
            .map(|candidate| candidate.standing);
        assert!(
            standings
                .clone()
                .all(|standing| matches!(standing, participant::Standing::Buried { .. }))
        );
        assert_eq!(standings.count(), 2);
        for candidate in &membership.candidates {
            for (index, proof) in &candidate.proofs {
                let strictness = beacon_signal::Strictness::Resolver;
                proof
                    .verify(
                        index,
                        &proof.leaf_value(),
                        candidate.root.as_ref().unwrap(),
                        strictness,
                    )
                    .unwrap();
            }
        }
    }
}

#[test]
fn the_golden_logs_of_failures_replay() {
    for version in ["0.2", VERSION] {
        failures_replay(version);
    }
}

#[test]
fn the_golden_logs_of_endings_replay() {
    let mut coordinator = Coordinator::new(coordinator::Config::default());
    for line in lines(VERSION, "coordinator-endings") {
        coordinator.apply(&serde_json::from_str(&line).unwrap());
    }
    assert_snapshot_keeps_everything(coordinator.state());
    let cohort = coordinator.state().cohorts.values().next().unwrap();
    assert_eq!(cohort.phase, Phase::Dissolved("closed".to_owned()));
    let closes = cohort.signals.iter().map(coordinator::Signal::is_close);
    assert_eq!(closes.collect::<Vec<_>>(), [false, true]);

    let mut participant = new_participant(0);
    for line in lines(VERSION, "participant-endings") {
        participant.apply(&serde_json::from_str(&line).unwrap());
    }
    let membership = participant.state().cohorts.values().next().unwrap();
    let standings = membership.candidates.iter().map(|signed| signed.standing);
    let [
        participant::Standing::Buried { .. },
        participant::Standing::Superseded,
        participant::Standing::Buried { .. },
    ] = standings.collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", membership.candidates);
    };
    assert!(membership.is_closed());
}

#[test]
fn the_golden_log_of_singletons_replays() {
    let mut participant = new_participant(0);
    for line in lines(VERSION, "participant-singletons") {
        participant.apply(&serde_json::from_str(&line).unwrap());
    }
    let signals = participant.state().singletons.iter();
    let standings: Vec<_> = signals.map(|signal| signal.standing).collect();
    let [
        participant::Standing::Buried { .. },
        participant::Standing::Superseded,
        participant::Standing::Live,
    ] = standings[..]
    else {
        panic!("{standings:?}");
    };
}

fn failures_replay(version: &str) {
    let mut coordinator = Coordinator::new(coordinator::Config::default());
    for line in lines(version, "coordinator-failures") {
        coordinator.apply(&serde_json::from_str(&line).unwrap());
    }
    assert_snapshot_keeps_everything(coordinator.state());
    let cohorts = &coordinator.state().cohorts;
    let mut ended = cohorts.values().filter_map(|cohort| cohort.successor);
    let next = &cohorts[&ended.next().unwrap()];
    assert_eq!(
        (next.phase.clone(), next.members.len()),
        (Phase::Acknowledged, 2)
    );
    let before = &cohorts[&next.succeeds.unwrap()];
    assert!(matches!(before.phase, Phase::Dissolved(_)));
    assert_eq!((before.strikes.len(), before.foreign_spends.len()), (2, 1));
}

/// Snapshots of version 0.2 lack what was added since, and call the changes of mind by another name.
#[test]
fn a_snapshot_of_an_older_version_is_read() {
    let world = run();
    let mut snapshot = serde_json::to_value(world.coordinator.machine.state()).unwrap();
    let top = snapshot.as_object_mut().unwrap();
    top.remove("fee_estimate").unwrap();
    let changes = top.remove("changes").unwrap();
    assert_ne!(changes, serde_json::json!({}));
    snapshot["filter_changes"] = changes;
    let without = |value: &mut serde_json::Value, names: &[&str]| {
        let object = value.as_object_mut().unwrap();
        for name in names {
            object.remove(*name).unwrap_or_else(|| panic!("{name}"));
        }
    };
    for cohort in snapshot["cohorts"].as_object_mut().unwrap().values_mut() {
        without(cohort, &["later_rounds", "announced"]);
        let members = cohort["members"].as_object_mut().unwrap().values_mut();
        members.for_each(|member| without(member, &["late"]));
    }
    let read: coordinator::State = serde_json::from_value(snapshot).unwrap();
    assert!(read == *world.coordinator.machine.state());

    let state = world.peers[0].node.machine.state();
    let mut snapshot = serde_json::to_value(state).unwrap();
    without(&mut snapshot, &["versions", "singletons"]);
    for known in snapshot["coordinators"]
        .as_object_mut()
        .unwrap()
        .values_mut()
    {
        without(known, &["adverts"]);
    }
    for cohort in snapshot["cohorts"].as_object_mut().unwrap().values_mut() {
        without(cohort, &["sessions", "dissolved", "settled"]);
        let candidates = cohort["candidates"].as_array_mut().unwrap().iter_mut();
        candidates.for_each(|signed| without(signed, &["map", "spent", "offer"]));
    }
    let read: participant::State = serde_json::from_value(snapshot).unwrap();
    assert!(read.versions.is_empty());
    assert_eq!(read.cohorts.len(), state.cohorts.len());
}

pub(crate) fn assert_snapshot_keeps_everything(state: &coordinator::State) {
    let snapshot = serde_json::to_string(state).unwrap();
    let read: coordinator::State = serde_json::from_str(&snapshot).unwrap();
    assert!(read == *state);
}
