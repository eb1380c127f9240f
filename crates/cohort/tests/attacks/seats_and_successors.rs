//! Seats, cohorts that end, cohorts that follow, and the past of others: what somebody could take who has no right to it.

use beacon_cohort::coordinator::{Command, Phase};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::machine::{Code, Input};
use beacon_cohort::message::{DidRegistration, Message, NoUpdate, OptIn, OptOut};

use crate::common::{Mail, World};
use crate::past::{ask, buried};

fn stranger() -> PeerId {
    PeerId::new("did:example:stranger")
}

/// The opt-ins on their way to the coordinator.
fn opt_ins(world: &mut World) -> Vec<(PeerId, OptIn)> {
    let mails = world.settle_until(|message| matches!(message, Message::OptIn(_)));
    let opt_in = |mail| match mail {
        Mail::Message {
            from,
            message: Message::OptIn(body),
            ..
        } => (from, body),
        mail => panic!("got {mail:?}"),
    };
    mails.into_iter().map(opt_in).collect()
}

/// Somebody repeats another one's opt-in, to keep the seat of a peer that is gone; or gives it up for a peer that is there.
#[test]
fn a_stranger_renews_or_gives_up_anothers_seat() {
    let mut world = World::new(2, 1);
    let cohort_id = world.advertise(|_| {});
    world.subscribe(0);
    let (peer, opt_in) = opt_ins(&mut world).remove(0);
    world.mail.clear();
    world.tell_coordinator(&peer, opt_in.clone()).unwrap();
    let deadline = world.cohort(cohort_id).terms.seat_deadline_s();
    world.now = world.now.after(deadline - 1);
    world.refuses(Code::ProofOfPossession, |world| {
        world.tell_coordinator(&stranger(), opt_in)
    });
    world.refuses(Code::NotAMember, |world| {
        world.tell_coordinator(&stranger(), OptOut { cohort_id })
    });
    assert_eq!(world.cohort(cohort_id).members.len(), 1);
    world.now = world.now.after(1);
    world.at_coordinator(Input::Tick).unwrap();
    assert!(world.cohort(cohort_id).members.is_empty(), "it was silent");
}

/// A cohort of three that ended without its first member, and the one that follows it.
fn without_the_first(seed: u64) -> (World, CohortId, CohortId) {
    let (mut world, cohort) = World::formed(3, seed);
    let without = [world.peers[0].id.clone()].into();
    let dissolve = Command::Dissolve {
        cohort,
        without,
        successor: true,
    };
    world.operator(dissolve).unwrap();
    let next = world.cohort(cohort).successor.unwrap();
    (world, cohort, next)
}

/// Who is out tries to get into the cohort that was formed to be without it, with its old proof and with a new one.
#[test]
fn a_member_that_is_out_joins_the_cohort_that_follows() {
    let (mut world, cohort, next) = without_the_first(2);
    let out = world.peers[0].id.clone();
    let member = &world.cohort(cohort).members[&out];
    let opt_in = OptIn {
        cohort_id: next,
        participant_pk: member.key,
        terms_hash: world.cohort(next).terms.hash(),
        proof_of_possession: member.proof,
        indexes: member.indexes.iter().copied().collect(),
    };
    world.mail.clear();
    world.refuses(Code::NotInvited, |world| {
        world.tell_coordinator(&out, opt_in.clone())
    });
    world.refuses(Code::NotInvited, |world| {
        world.tell_coordinator(&stranger(), opt_in)
    });
}

/// Nobody can act in a cohort that has ended, neither who was out nor the others: what is signed there now could spend what
/// the others give up.
#[test]
fn a_cohort_that_ended_goes_on_for_nobody() {
    let (mut world, cohort_id, _) = without_the_first(3);
    world.mail.clear();
    for number in 0..3 {
        let member = world.peers[number].id.clone();
        let index = *world
            .membership(number, cohort_id)
            .dids
            .keys()
            .next()
            .unwrap();
        let leaf = beacon_cohort::message::Leaf::blinded(index, beacon_signal::LeafValue([1; 32]));
        let no_update = NoUpdate {
            cohort_id,
            round: 1,
            leaves: vec![leaf],
        };
        let messages: [Message; 2] = [no_update.into(), OptOut { cohort_id }.into()];
        for message in messages {
            world.refuses(Code::CohortDissolved, |world| {
                world.tell_coordinator(&member, message)
            });
        }
    }
    assert!(matches!(world.cohort(cohort_id).phase, Phase::Dissolved(_)));
}

/// Somebody who is no member asks for the past of a member's indexes, and a member for another one's: a proof says what a
/// leaf's neighbours are.
#[test]
fn somebody_elses_past_is_asked_for() {
    let (mut world, cohort_id) = buried(4);
    let indexes = world.membership(0, cohort_id).dids.keys();
    let registration = DidRegistration {
        cohort_id,
        indexes: indexes.copied().collect(),
        from_round: Some(1),
    };
    world.refuses(Code::NotAMember, |world| {
        world.tell_coordinator(&stranger(), registration)
    });
    let other = world.peers[1].id.clone();
    let told = ask(&mut world, &other, cohort_id, 0, 1);
    for result in told.results {
        assert!(!result.accepted && result.proofs.is_empty());
    }
}

/// A member asks for the past without end, and from the last round that there could be: it is answered from what there is,
/// and the log does not grow with its questions.
#[test]
fn the_past_is_asked_for_again_and_again() {
    let (mut world, cohort) = buried(5);
    let member = world.peers[0].id.clone();
    let told = ask(&mut world, &member, cohort, 0, 1);
    assert_eq!(told.signals.len(), 1);
    let lines = world.coordinator.log.len();
    for _ in 0..20 {
        assert_eq!(ask(&mut world, &member, cohort, 0, 1), told);
    }
    assert_eq!(world.coordinator.log.len(), lines);
    for _ in 0..20 {
        let told = ask(&mut world, &member, cohort, 0, u64::MAX);
        assert!(told.signals.is_empty() && told.next_round.is_none());
    }
    assert!(world.coordinator.log.len() <= lines + 2, "it is noted once");
}
