//! Seats that are held, renewed and given up before a cohort is set, and subscriptions that change.

use std::collections::BTreeSet;

use beacon_cohort::coordinator::{Command, Phase};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::Code;
use beacon_cohort::message::{Message, OptIn, Subscribe, Unsubscribe};
use beacon_cohort::terms::BtcNetwork;

use crate::common::{Mail, World};

/// A cohort for two with one seat taken, and the opt-in that took it. From here on the test alone speaks to the
/// coordinator.
fn half_full(seed: u64) -> (World, CohortId, PeerId, OptIn) {
    let mut world = World::new(2, seed);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    let mut mails = world.settle_until(|message| message.kind() == "keygen/opt_in");
    let Mail::Message {
        from,
        message: Message::OptIn(opt_in),
        ..
    } = mails.remove(0)
    else {
        panic!("only messages are captured");
    };
    world.tell_coordinator(&from, opt_in.clone()).unwrap();
    (world, cohort, from, opt_in)
}

fn pass_at_coordinator(world: &mut World, seconds: u64) {
    world.now = world.now.after(seconds);
    world
        .at_coordinator(beacon_cohort::machine::Input::Tick)
        .unwrap();
}

/// Who opts in and vanishes does not keep others out. It is told, and may come again.
#[test]
fn a_silent_seat_is_released_and_can_be_taken_again() {
    let (mut world, cohort, peer, opt_in) = half_full(1);
    pass_at_coordinator(&mut world, 599);
    assert_eq!(world.cohort(cohort).members.len(), 1);
    pass_at_coordinator(&mut world, 1);
    assert_eq!(world.cohort(cohort).members.len(), 0);
    assert!(world.mail.iter().any(|mail| matches!(
        mail,
        Mail::Problem { to, cohort: Some(about), rejection, .. }
            if *to == peer && *about == cohort && rejection.code == Code::SeatReleased
    )));
    world.tell_coordinator(&peer, opt_in).unwrap();
    assert_eq!(world.cohort(cohort).members.len(), 1);
    world.assert_replay_equals_memory();
}

/// The same opt-in again keeps the seat; it is not written more often than it matters.
#[test]
fn a_repeated_opt_in_keeps_the_seat() {
    let (mut world, cohort, peer, opt_in) = half_full(2);
    let lines = world.coordinator.log.len();
    world.tell_coordinator(&peer, opt_in.clone()).unwrap();
    assert_eq!(world.coordinator.log.len(), lines, "it is fresh");
    for _ in 0..4 {
        pass_at_coordinator(&mut world, 300);
        world.tell_coordinator(&peer, opt_in.clone()).unwrap();
    }
    assert_eq!(world.cohort(cohort).members.len(), 1);
    assert_eq!(world.coordinator.log.len(), lines + 4);
    world.assert_replay_equals_memory();
}

/// Who repeats its opt-in after the cohort was set has not heard of that, or has forgotten it: it is told what became of it.
#[test]
fn a_repeated_opt_in_asks_what_became_of_the_cohort() {
    let (mut world, cohort, peer, opt_in) = half_full(6);
    let answers = |world: &mut World| {
        let lines = world.coordinator.log.len();
        world.mail.clear();
        let answer = world.tell_coordinator(&peer, opt_in.clone());
        assert_eq!(world.coordinator.log.len(), lines, "nothing has changed");
        let about = |mail: &Mail| match mail {
            Mail::Message { to, message, .. } if *to == peer => message.kind().to_owned(),
            Mail::Problem { to, rejection, .. } if *to == peer => {
                rejection.code.as_str().to_owned()
            }
            _ => panic!("nobody else is told"),
        };
        let told: Vec<_> = world.mail.iter().map(about).collect();
        answer.map(|()| told).map_err(|rejection| rejection.code)
    };
    world.subscribe(1);
    world.settle();
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
    assert_eq!(
        answers(&mut world),
        Ok(vec!["keygen/cohort_set".to_owned()])
    );
    let dissolve = Command::Dissolve {
        cohort,
        without: BTreeSet::new(),
        successor: false,
    };
    world.operator(dissolve).unwrap();
    let told = ["keygen/cohort_set", Code::CohortDissolved.as_str()];
    assert_eq!(answers(&mut world), Ok(told.map(str::to_owned).to_vec()));

    let (mut world, cohort, ..) = half_full(6);
    for _ in 0..11 {
        pass_at_coordinator(&mut world, 300);
        world.tell_coordinator(&peer, opt_in.clone()).unwrap();
    }
    pass_at_coordinator(&mut world, 300);
    assert!(matches!(world.cohort(cohort).phase, Phase::Failed(_)));
    assert_eq!(answers(&mut world), Err(Code::CohortFailed));
}

/// The coordinator was away for longer than the deadline: nobody could show a sign of life.
#[test]
fn an_outage_of_the_coordinator_releases_no_seat() {
    let (mut world, cohort, ..) = half_full(3);
    world.now = world.now.after(1_000);
    world.restart_coordinator();
    assert_eq!(world.cohort(cohort).members.len(), 1);
    pass_at_coordinator(&mut world, 600);
    assert_eq!(world.cohort(cohort).members.len(), 0);
}

/// Once the cohort is set, seats are for good.
#[test]
fn a_seat_of_a_set_cohort_is_not_released() {
    let (mut world, cohort) = World::formed(2, 4);
    pass_at_coordinator(&mut world, 10_000);
    assert_eq!(world.cohort(cohort).members.len(), 2);
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
}

/// A subscriber that alternates its filter, or comes and goes, would have the log grow without end.
#[test]
fn filters_change_ten_times_an_hour_at_most() {
    let mut world = World::new(2, 5);
    let peer = PeerId::new("did:example:undecided");
    let filter = |number: usize| Subscribe {
        networks: vec![BtcNetwork::Regtest; number % 2 + 1],
        ..Subscribe::default()
    };
    for number in 0..10 {
        world.tell_coordinator(&peer, filter(number)).unwrap();
        world.tell_coordinator(&peer, filter(number)).unwrap();
    }
    world.refuses(Code::Limit, |world| {
        world.tell_coordinator(&peer, filter(0))
    });
    world.tell_coordinator(&peer, filter(9)).unwrap();
    world.tell_coordinator(&peer, Unsubscribe {}).unwrap();
    world.refuses(Code::Limit, |world| {
        world.tell_coordinator(&peer, filter(0))
    });
    world.now = world.now.after(3_600);
    world.tell_coordinator(&peer, filter(0)).unwrap();
    assert_eq!(world.coordinator.machine.state().changes.len(), 1);
    world.assert_replay_equals_memory();
}
