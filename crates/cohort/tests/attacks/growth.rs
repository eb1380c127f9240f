//! Partners that make the log grow: nothing that costs them nothing is written without end.

use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::{Code, Input, Rejection};
use beacon_cohort::message::{
    AuthorizationRequest, Message, NextStep, OptIn, OptOut, SessionAborted, SubscribeAccept,
    UpdateOpportunity,
};
use beacon_cohort::participant::Stage;
use bitcoin::Amount;
use uuid::Uuid;

use crate::common::{Mail, START, World, coordinator_id};

fn lines(world: &World) -> usize {
    world.peers[0].node.log.len()
}

/// A world in which member 0 is about to get its first request.
fn asked(seed: u64) -> (World, CohortId, AuthorizationRequest) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    let requests = world.settle_until(|message| message.kind() == "sign/authorization_request");
    world.mail.clear();
    let Some(Mail::Message {
        message: Message::AuthorizationRequest(request),
        ..
    }) = requests.into_iter().find(to_first)
    else {
        panic!("member 0 is asked as well");
    };
    (world, cohort, request)
}

fn to_first(mail: &Mail) -> bool {
    matches!(mail, Mail::Message { to, .. } if *to == PeerId::new("did:example:peer-0"))
}

fn aborted(cohort_id: CohortId, number: u128, next: NextStep) -> SessionAborted {
    SessionAborted {
        session_id: SessionId(Uuid::from_u128(number)),
        cohort_id,
        code: "timeout".to_owned(),
        next,
    }
}

/// Sessions that never were are aborted, one after the other. A few are remembered, since a request may come after its end;
/// and the end of the cohort is heard of all the same.
#[test]
fn invented_sessions_are_aborted_without_end() {
    let (mut world, cohort) = World::formed(2, 1);
    let before = lines(&world);
    for number in 0..1_000 {
        let message = aborted(cohort, number, NextStep::NewSession);
        world.tell(0, &coordinator_id(), message).unwrap();
    }
    assert_eq!(lines(&world) - before, 100);
    let message = aborted(cohort, 1_001, NextStep::CohortDissolved);
    world.tell(0, &coordinator_id(), message).unwrap();
    let stage = &world.membership(0, cohort).stage;
    assert!(matches!(stage, Stage::Dissolved(_)), "{stage:?}");
    world.assert_replay_equals_memory();
}

fn ask(world: &mut World, request: &AuthorizationRequest, number: u128) -> Result<(), Rejection> {
    let mut request = request.clone();
    request.session_id = SessionId(Uuid::from_u128(number));
    world.tell(0, &coordinator_id(), request)
}

/// The same bad request again and again, under fresh ids. Declined a hundred times, then refused until the hour is over.
#[test]
fn sessions_that_are_declined_are_asked_for_without_end() {
    let (mut world, _, mut request) = asked(2);
    request.pending_tx.output[0].value -= Amount::from_sat(20_000);
    for number in 0..100 {
        ask(&mut world, &request, number).unwrap();
    }
    world.mail.clear();
    for number in 100..200 {
        world.refuses(Code::Limit, |world| ask(world, &request, number));
    }
    world.now = world.now.after(3_600);
    ask(&mut world, &request, 100).unwrap();
    world.assert_replay_equals_memory();
}

/// Good requests, each of which takes the place of the one before. A signal that is mined costs money: then the count begins
/// anew.
#[test]
fn sessions_are_opened_without_end_and_none_is_signed() {
    let (mut world, cohort, request) = asked(3);
    for number in 0..100 {
        ask(&mut world, &request, number).unwrap();
        world.look_at_chain_from(0);
    }
    world.mail.clear();
    assert_eq!(world.membership(0, cohort).contributed.len(), 100);
    world.refuses(Code::Limit, |world| ask(world, &request, 100));
    let open = world.membership(0, cohort).session.as_ref().unwrap().id;
    assert_eq!(open, SessionId(Uuid::from_u128(99)), "the last one goes on");

    let (mut world, cohort, request) = asked(4);
    for number in 0..99 {
        ask(&mut world, &request, number).unwrap();
    }
    world.mail.clear();
    world.tell(0, &coordinator_id(), request.clone()).unwrap();
    world.pass(122); // The coordinator's session is over as well; the next one is signed.
    world.now = world.now.after(3_600);
    world.pass(2);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    assert_ne!(world.membership(0, cohort).sessions.count, 0);
    world.chain.mine();
    world.settle();
    assert_eq!(world.membership(0, cohort).sessions.count, 0);
}

/// A coordinator says another name for itself each time.
#[test]
fn a_coordinator_changes_its_name_without_end() {
    let (mut world, _) = World::formed(1, 5);
    let before = lines(&world);
    for number in 0..100 {
        let accept = SubscribeAccept {
            label: Some(format!("name {number}")),
            max_cohorts: None,
        };
        world.tell(0, &coordinator_id(), accept).unwrap();
    }
    assert_eq!(lines(&world), before, "its first name counts");
}

/// Round after round is opened without a signature. There can be no honest one of them.
#[test]
fn rounds_climb_without_end() {
    let (mut world, cohort_id) = World::formed(2, 6);
    let deadline = world.now.after(60);
    for round in (2..100).chain([u64::MAX]) {
        let opportunity = UpdateOpportunity {
            cohort_id,
            round,
            deadline,
        };
        world.refuses(Code::Round, |world| {
            world.tell(0, &coordinator_id(), opportunity)
        });
    }
}

/// The coordinator says again and again that our seat is gone: we opt in again, once in a while.
#[test]
fn a_seat_is_said_to_be_released_without_end() {
    let mut world = World::new(2, 7);
    let cohort = world.advertise(|terms| terms.response_deadline_s = 1);
    world.subscribe(0);
    world.settle();
    let before = lines(&world);
    for _ in 0..600 {
        world.now = world.now.after(1);
        let released = Input::Problem {
            from: coordinator_id(),
            cohort: Some(cohort),
            code: Code::SeatReleased.to_string(),
            comment: String::new(),
        };
        world.at_peer(0, released).unwrap();
    }
    assert_eq!(lines(&world) - before, 10, "once a minute");
}

/// A peer takes a seat and gives it up, in turn. It may leave whenever it likes, and not come back for the eleventh time.
#[test]
fn a_seat_is_taken_and_given_up_without_end() {
    let mut world = World::new(2, 8);
    let cohort_id = world.advertise(|terms| terms.advert_expires = START.after(10_000));
    world.subscribe(0);
    let mut opt_ins = world.settle_until(|message| message.kind() == "keygen/opt_in");
    let Mail::Message {
        from,
        message: Message::OptIn(opt_in),
        ..
    } = opt_ins.remove(0)
    else {
        panic!("only messages are captured");
    };
    let turn = |world: &mut World, opt_in: &OptIn| {
        world.tell_coordinator(&from, opt_in.clone())?;
        world.tell_coordinator(&from, OptOut { cohort_id })
    };
    // Its subscription was the first of ten changes of its mind.
    for _ in 0..9 {
        turn(&mut world, &opt_in).unwrap();
    }
    world.mail.clear();
    world.refuses(Code::Limit, |world| turn(world, &opt_in));
    world.now = world.now.after(3_599);
    world.refuses(Code::Limit, |world| turn(world, &opt_in));
    world.now = world.now.after(1);
    turn(&mut world, &opt_in).unwrap();
    world.assert_replay_equals_memory();
}
