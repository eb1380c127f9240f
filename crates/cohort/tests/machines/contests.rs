//! Contested indexes: who proves control of the DID gets its index, who loses is out, and nothing of it can be used against
//! those who are in the right.

use beacon_cohort::coordinator::{Event, Phase};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::{Code, ControlVerdict};
use beacon_cohort::message::DidContest;
use beacon_cohort::participant::{Command, Stage};
use beacon_signal::Index;

use crate::common::{World, did};

/// The one peer's DID that another one squats on.
fn victim() -> String {
    did(1)
}

fn contest(world: &mut World, number: usize, cohort: CohortId) {
    let claim = world.claim(number, cohort, &victim());
    world
        .user(number, Command::Contest { cohort, claim })
        .unwrap();
    world.settle();
}

fn join(world: &mut World, number: usize, cohort: CohortId, did: String) {
    let dids = vec![did];
    world
        .user(
            number,
            Command::Join {
                cohort,
                dids,
                accept_script_tree: false,
            },
        )
        .unwrap();
    world.settle();
}

fn seats(world: &World, cohort: CohortId) -> Vec<usize> {
    let members = world.cohort(cohort).members.keys();
    members.map(|peer| world.number_of(peer).unwrap()).collect()
}

fn result(world: &World, number: usize, cohort: CohortId) -> Option<Result<(), String>> {
    let claims = &world.membership(number, cohort).contests;
    claims[&Index::of_did(&victim())].result.clone()
}

/// Peers that join by hand; peer 0 has taken the index of peer 1's DID.
fn squatted(peers: usize, seed: u64) -> (World, CohortId) {
    let mut world = World::new(peers, seed);
    let cohort = world.advertise(|terms| {
        terms.beacon_type = beacon_cohort::terms::BeaconType::Cas; // Joined by nobody without being asked.
    });
    (0..peers).for_each(|number| world.subscribe(number));
    world.settle();
    join(&mut world, 0, cohort, victim());
    assert_eq!(seats(&world, cohort), [0]);
    (world, cohort)
}

/// A set cohort of three, in which peer 0 answers for the DID of peer 1 besides its own, and peer 1 for another one.
fn squatted_set(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = squatted(3, seed);
    join(&mut world, 1, cohort, "did:example:spare".to_owned());
    join(&mut world, 2, cohort, did(2));
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
    (world, cohort)
}

#[test]
fn a_squatter_loses_its_seat_and_the_controller_takes_it() {
    let (mut world, cohort) = squatted(2, 1);
    join(&mut world, 1, cohort, victim());
    assert!(
        matches!(&world.membership(1, cohort).stage, Stage::Out(code, _) if code == "e.m.index-taken")
    );
    contest(&mut world, 1, cohort);
    assert_eq!(result(&world, 1, cohort), None);
    world.judge(ControlVerdict::Proven);
    world.settle();
    assert_eq!(result(&world, 1, cohort), Some(Ok(())));
    assert_eq!(seats(&world, cohort), [0; 0]);
    assert!(
        matches!(&world.membership(0, cohort).stage, Stage::Out(code, _) if code == "e.m.control-unproven")
    );
    // Reserved for the controller, and the squatter is not welcome with anything else.
    assert_eq!(world.membership(1, cohort).stage, Stage::Advertised);
    join(&mut world, 1, cohort, victim());
    assert_eq!(seats(&world, cohort), [1]);
    world.assert_replay_equals_memory();
}

#[test]
fn an_index_that_was_won_waits_for_its_controller() {
    let (mut world, cohort) = squatted(3, 2);
    contest(&mut world, 1, cohort);
    world.judge(ControlVerdict::Proven);
    world.settle();
    join(&mut world, 2, cohort, victim());
    assert!(
        matches!(&world.membership(2, cohort).stage, Stage::Out(code, _) if code == "e.m.index-taken")
    );
    join(&mut world, 1, cohort, victim());
    assert_eq!(seats(&world, cohort), [1]);
}

#[test]
fn a_set_cohort_ends_without_the_squatter_and_goes_on_in_another() {
    let (mut world, cohort) = squatted_set(3);
    contest(&mut world, 1, cohort);
    world.judge(ControlVerdict::Proven);
    world.settle();
    let before = world.cohort(cohort);
    assert!(matches!(before.phase, Phase::Dissolved(_)));
    assert_eq!(before.without, [world.peers[0].id.clone()].into());
    let successor = before.successor.unwrap();
    // The controller joined for the spare DID by itself; what it won is kept for it.
    assert_eq!(seats(&world, successor), [1, 2]);
    assert_eq!(world.cohort(successor).phase, Phase::Acknowledged);
    let index = Index::of_did(&victim());
    assert_eq!(world.cohort(successor).proven[&index], world.peers[1].id);
    join(&mut world, 2, successor, victim());
    assert!(!world.membership(2, successor).dids.contains_key(&index));
    assert_eq!(
        world.membership(2, successor).refused[&victim()],
        "index-taken"
    );
    join(&mut world, 1, successor, victim());
    assert!(world.membership(1, successor).dids.contains_key(&index));
    world.assert_replay_equals_memory();
}

/// A contest without control costs the seat of who made it, not that of who is in the right.
#[test]
fn a_false_claim_puts_its_maker_out() {
    let (mut world, cohort) = squatted_set(4);
    let claim = world.claim(2, cohort, &victim());
    world.user(2, Command::Contest { cohort, claim }).unwrap();
    world.settle();
    world.judge(ControlVerdict::Unproven("another key".to_owned()));
    world.settle();
    let before = world.cohort(cohort);
    assert_eq!(before.without, [world.peers[2].id.clone()].into());
    assert_eq!(seats(&world, before.successor.unwrap()), [0, 1]);
    assert_eq!(
        result(&world, 2, cohort),
        Some(Err("control-unproven".to_owned()))
    );

    // A stranger to the cohort has no seat to lose: it may not come in any more.
    let (mut world, cohort) = squatted(3, 5);
    contest(&mut world, 2, cohort);
    world.judge(ControlVerdict::Unproven("another key".to_owned()));
    world.settle();
    assert_eq!(seats(&world, cohort), [0]);
    join(&mut world, 2, cohort, did(2));
    assert_eq!(seats(&world, cohort), [0]);
    let claim = world.claim(2, cohort, &victim());
    let peer = world.peers[2].id.clone();
    world.refuses(Code::ControlUnproven, |world| {
        world.tell_coordinator(&peer, claim)
    });
}

/// Two know the key: who proved first keeps the index, and the other loses nothing.
#[test]
fn who_proved_control_keeps_the_index() {
    let (mut world, cohort) = squatted(2, 6);
    contest(&mut world, 0, cohort);
    world.judge(ControlVerdict::Proven);
    world.settle();
    assert_eq!(seats(&world, cohort), [0]);
    contest(&mut world, 1, cohort);
    assert!(world.questions.is_empty());
    assert_eq!(
        result(&world, 1, cohort),
        Some(Err("index-taken".to_owned()))
    );
    join(&mut world, 1, cohort, did(2));
    assert_eq!(seats(&world, cohort), [0, 1]);
}

/// A member that cannot prove what nobody contests keeps it.
#[test]
fn a_member_that_fails_to_prove_its_own_index_keeps_its_seat() {
    let (mut world, cohort) = squatted(2, 7);
    contest(&mut world, 0, cohort);
    world.judge(ControlVerdict::Unproven("not deep enough".to_owned()));
    world.settle();
    assert_eq!(seats(&world, cohort), [0]);
}

/// Nobody is judged while the chain source is silent. It is asked again, also by a process that started anew, and in the end
/// nobody has lost.
#[test]
fn a_contest_survives_a_restart_and_ends_without_a_judgement() {
    let (mut world, cohort) = squatted(2, 8);
    contest(&mut world, 1, cohort);
    world.judge(ControlVerdict::Unavailable("no answer".to_owned()));
    assert_eq!(world.cohort(cohort).contests.len(), 1);
    world.restart_coordinator();
    assert_eq!(world.questions.len(), 1);
    for _ in 0..7 {
        world.pass(300);
        world.settle(); // The opt-in that keeps the seat.
    }
    assert_eq!(world.questions.len(), 8);
    world.pass(300);
    world.settle();
    assert!(world.cohort(cohort).contests.is_empty());
    assert_eq!(
        result(&world, 1, cohort),
        Some(Err("control-unavailable".to_owned()))
    );
    assert!(world.cohort(cohort).excluded.is_empty());
    // A judgement that comes too late changes nothing.
    let before = world.snapshot();
    world.judge(ControlVerdict::Proven);
    assert!(world.snapshot() == before);
    world.assert_replay_equals_memory();
}

/// A stranger, a peer that was put out, a claim that was seen on the way to another cohort or of another sender, what nobody
/// holds, a flood.
#[test]
fn contests_are_refused_or_bounded() {
    let (mut world, cohort) = squatted(3, 9);
    let claim = |world: &World, number| world.claim(number, cohort, &victim());
    let stranger = PeerId::new("did:example:stranger");
    let honest = claim(&world, 1);
    world.refuses(Code::NotSubscribed, |world| {
        world.tell_coordinator(&stranger, honest.clone())
    });
    let peer = world.peers[1].id.clone();
    let long = |change: fn(&mut DidContest)| {
        let mut long = honest.clone();
        change(&mut long);
        long
    };
    for long in [
        long(|claim| claim.did = "d".repeat(2_049)),
        long(|claim| claim.method = "d".repeat(2_049)),
        long(|claim| claim.sidecar = Some("d".repeat(131_073))),
    ] {
        world.refuses(Code::Malformed, |world| world.tell_coordinator(&peer, long));
    }
    let unheld = world.claim(1, cohort, "did:example:nobody");
    world.refuses(Code::UnknownIndex, |world| {
        world.tell_coordinator(&peer, unheld)
    });
    world.tell_coordinator(&peer, honest.clone()).unwrap();
    let lines = world.coordinator.log.len();
    world.tell_coordinator(&peer, honest).unwrap();
    assert_eq!(world.coordinator.log.len(), lines, "the same again");
    let other = world.peers[2].id.clone();
    let second = claim(&world, 2);
    world.refuses(Code::Limit, |world| world.tell_coordinator(&other, second));
    // What is judged is the claim as it came: of this cohort, by this sender.
    let question = &world.questions[0];
    assert_eq!(
        (&question.peer, question.contest.cohort_id),
        (&peer, cohort)
    );
}

/// A peer contests again and again, each time without an answer of the chain source.
#[test]
fn a_peer_contests_three_times_an_hour() {
    let (mut world, cohort) = squatted(2, 10);
    let peer = world.peers[1].id.clone();
    for number in 0..3 {
        let claim = world.claim(1, cohort, &victim());
        world.tell_coordinator(&peer, claim).unwrap();
        let settled = Event::ContestSettled {
            cohort,
            index: Index::of_did(&victim()),
            peer: peer.clone(),
            outcome: beacon_cohort::coordinator::Outcome::Unavailable,
            reason: String::new(),
        };
        beacon_cohort::machine::Machine::apply(&mut world.coordinator.machine, &settled);
        assert!(world.cohort(cohort).contests.is_empty(), "{number}");
    }
    let claim = world.claim(1, cohort, &victim());
    world.refuses(Code::Limit, |world| world.tell_coordinator(&peer, claim));
}
