//! Members that do not do their part: who is struck, who is not, and what becomes of the cohort.

use beacon_cohort::coordinator::{Command, Phase, Stage, Standing};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Code;
use beacon_cohort::message::{Decline, Message, NextStep};
use beacon_cohort::participant;
use beacon_cohort::terms::{Admission, Terms};

use crate::common::{Mail, World};

fn strikes(world: &World, cohort: CohortId) -> Vec<u64> {
    let members = &world.cohort(cohort).members;
    let peers = world.peers.iter();
    peers.map(|peer| members[&peer.id].strikes).collect()
}

/// Delivers until nothing moves; these members hear and say nothing.
fn settle_without(world: &mut World, silent: &[usize]) {
    let silent: Vec<_> = silent
        .iter()
        .map(|number| world.peers[*number].id.clone())
        .collect();
    settle_but(world, |mail| {
        let (Mail::Message { to, from, .. } | Mail::Problem { to, from, .. }) = mail;
        silent.contains(to) || silent.contains(from)
    });
}

/// Settles, and loses some of the mail.
fn settle_but(world: &mut World, lost: impl Fn(&Mail) -> bool) {
    loop {
        let lines = world.coordinator.log.len();
        while !world.mail.is_empty() {
            let mail = world.mail.remove(0);
            if !lost(&mail) {
                world.deliver(mail);
            }
        }
        world.look_at_chain();
        if world.mail.is_empty() && world.coordinator.log.len() == lines {
            return;
        }
    }
}

fn successor(world: &World, cohort: CohortId) -> CohortId {
    world.cohort(cohort).successor.expect("a successor")
}

/// Leaves, nonces and partial signatures each have their deadline, and who misses one alone is struck for it.
#[test]
fn who_misses_a_deadline_is_struck() {
    for (seed, kind) in [
        (1, "sign/update_opportunity"),
        (2, "sign/authorization_request"),
        (3, "sign/aggregated_nonce"),
    ] {
        let (mut world, cohort) = World::formed(3, seed);
        world.request_update(0, cohort, 1);
        let mail = world.settle_until(|message| message.kind() == kind);
        let last = world.peers[2].id.clone();
        let others = mail
            .into_iter()
            .filter(|mail| !matches!(mail, Mail::Message { to, .. } if *to == last));
        world.mail.extend(others);
        settle_without(&mut world, &[2]);
        world.pass(61);
        assert_eq!(
            strikes(&world, cohort),
            [0, 0, 0],
            "{kind}: the deadline is 61.8 s"
        );
        world.pass(1);
        assert_eq!(strikes(&world, cohort), [0, 0, 1], "{kind}");
        assert_eq!(world.cohort(cohort).strikes[0].code, "timeout");
        world.assert_replay_equals_memory();
    }
}

/// Most of the members are late at the same time: that is the coordinator's network, or the coordinator.
#[test]
fn when_most_are_late_nobody_is_struck() {
    let (mut world, cohort) = World::formed(3, 4);
    world.request_update(0, cohort, 1);
    for _ in 0..4 {
        settle_without(&mut world, &[1, 2]);
        world.pass(100);
    }
    assert!(
        world.cohort(cohort).round.failures > 0,
        "deadlines have passed"
    );
    assert_eq!(strikes(&world, cohort), [0, 0, 0]);
}

/// Exactly half of them is not most of them.
#[test]
fn half_of_the_members_can_be_to_blame() {
    let (mut world, cohort) = World::formed(4, 5);
    world.request_update(0, cohort, 1);
    settle_without(&mut world, &[2, 3]);
    world.pass(63);
    assert_eq!(strikes(&world, cohort), [0, 0, 1, 1]);
}

/// The coordinator was started while it waited: what it did not hear, it may have missed itself.
#[test]
fn a_restart_of_the_coordinator_strikes_nobody() {
    for kind in ["sign/update_opportunity", "sign/authorization_request"] {
        let (mut world, cohort) = World::formed(3, 6);
        world.request_update(0, cohort, 1);
        let mail = world.settle_until(|message| message.kind() == kind);
        world.mail.extend(mail);
        settle_without(&mut world, &[2]);
        world.restart_coordinator();
        world.pass(62);
        assert_eq!(
            world.cohort(cohort).round.failures,
            1,
            "{kind}: the deadline has passed"
        );
        assert_eq!(strikes(&world, cohort), [0, 0, 0], "{kind}");
        world.pass(2);
        settle_without(&mut world, &[2]);
        world.pass(62);
        assert_eq!(
            strikes(&world, cohort),
            [0, 0, 1],
            "{kind}: the next one counts"
        );
    }
}

/// An idle coordinator that starts writes nothing.
#[test]
fn a_restart_with_nothing_under_way_is_not_recorded() {
    let (mut world, _) = World::formed(2, 7);
    let lines = world.coordinator.log.len();
    world.restart_coordinator();
    assert_eq!(world.coordinator.log.len(), lines);
}

/// Where the terms allow an empty leaf, who does not answer has chosen it.
#[test]
fn silence_is_no_fault_where_empty_leaves_are_allowed() {
    let (mut world, cohort) = World::formed_with(3, 8, |terms| terms.empty_leaf_allowed = true);
    world.request_update(0, cohort, 1);
    settle_without(&mut world, &[2]);
    world.pass(62);
    assert!(world.cohort(cohort).session.is_some());
    assert_eq!(strikes(&world, cohort), [0, 0, 0]);
}

/// Takes a request to each member, and has these decline by their users.
fn decline_by(world: &mut World, cohort: CohortId, members: &[usize]) {
    let mails = world.settle_until(|message| message.kind() == "sign/authorization_request");
    let session = world.cohort(cohort).session.as_ref().unwrap().id;
    for mail in mails {
        world.deliver(mail);
    }
    for number in members {
        let comment = String::new();
        world
            .user(*number, participant::Command::Decline { session, comment })
            .unwrap();
    }
    world.settle();
}

/// Two of four decline: the first ends the session, the second is noted, and both are struck when the next one starts.
#[test]
fn declines_are_judged_when_the_next_session_starts() {
    let (mut world, cohort) = World::formed(4, 9);
    world.request_update(0, cohort, 1);
    decline_by(&mut world, cohort, &[2, 3]);
    assert_eq!(
        strikes(&world, cohort),
        [0, 0, 0, 0],
        "others may still decline it"
    );
    world.operator(Command::StartRound { cohort }).unwrap();
    assert_eq!(strikes(&world, cohort), [0, 0, 1, 1]);
    world.settle();
    assert_eq!(
        world.cohort(cohort).signals[0].standing,
        Standing::Broadcast
    );
    world.assert_replay_equals_memory();
}

/// Three of four decline one session: what they were shown was wrong.
#[test]
fn what_most_decline_strikes_nobody() {
    let (mut world, cohort) = World::formed(4, 10);
    world.request_update(0, cohort, 1);
    decline_by(&mut world, cohort, &[1, 2, 3]);
    world.operator(Command::StartRound { cohort }).unwrap();
    world.settle();
    assert_eq!(strikes(&world, cohort), [0, 0, 0, 0]);
    assert_eq!(world.cohort(cohort).signals.len(), 1);
}

/// A member restarts, its chain source is behind, or it comes from a backup: such declines are nobody's fault, and the
/// session is tried again.
#[test]
fn some_declines_are_forgiven() {
    for code in [
        "nonce-lost",
        "chain-unseen",
        "chain-unconfirmed",
        "rolled-back",
    ] {
        let (mut world, cohort) = World::formed(3, 11);
        world.request_update(0, cohort, 1);
        world.settle_until(|message| message.kind() == "sign/authorization_request");
        let session_id = world.cohort(cohort).session.as_ref().unwrap().id;
        let from = world.peers[1].id.clone();
        let decline = beacon_cohort::message::Decline {
            session_id,
            cohort_id: cohort,
            code: code.to_owned(),
            comment: String::new(),
        };
        world.tell_coordinator(&from, decline).unwrap();
        world.pass(2);
        assert!(
            world.cohort(cohort).session.is_some(),
            "{code}: tried again"
        );
        assert_eq!(strikes(&world, cohort), [0, 0, 0], "{code}");
    }
}

/// A laptop that sleeps for ten minutes misses one deadline after the other. That is one absence and one strike; who stays away
/// gets the next one ten minutes later.
#[test]
fn one_absence_is_one_strike() {
    let (mut world, cohort) = World::formed(3, 22);
    world.request_update(0, cohort, 1);
    let start = world.now;
    let mut struck = Vec::new();
    while world.cohort(cohort).phase == Phase::Acknowledged {
        settle_without(&mut world, &[2]);
        world.pass(31);
        let all = strikes(&world, cohort);
        assert_eq!(all[..2], [0, 0], "nobody else");
        if struck.len() < usize::try_from(all[2]).unwrap() {
            struck.push(world.now.0 - start.0);
        }
        assert!(world.now < start.after(7_200), "at {struck:?}");
    }
    assert_eq!(struck.len(), 3);
    assert_eq!(struck[0], 62, "the first deadline");
    assert!(struck[1] - struck[0] >= 600 && struck[2] - struck[1] >= 600);
    let log = world.coordinator.log.iter();
    let missed = log.filter(|line| line.contains(r#""event":"answers_missing""#));
    assert!(missed.count() > 5, "it missed many more deadlines");
    world.assert_replay_equals_memory();
}

/// Longer deadlines make longer absences ordinary; other faults count each time.
#[test]
fn an_absence_is_ten_deadlines_and_other_faults_count_each_time() {
    let (mut world, cohort) = World::formed_with(3, 23, |terms| terms.response_deadline_s = 600);
    world.request_update(0, cohort, 1);
    for _ in 0..8 {
        settle_without(&mut world, &[2]);
        world.pass(618);
    }
    assert_eq!(strikes(&world, cohort), [0, 0, 1], "within 6000 s");

    let (mut world, cohort) = World::formed(3, 24);
    world.request_update(0, cohort, 1);
    for strikes_after in 1..3 {
        decline_by(&mut world, cohort, &[1]);
        world.operator(Command::StartRound { cohort }).unwrap();
        assert_eq!(strikes(&world, cohort), [0, strikes_after, 0]);
    }
}

/// A member vanishes for good. At the terms' limit the cohort ends, all are told, and the others are invited to another
/// one, which forms by itself and signs.
#[test]
fn a_member_at_the_limit_is_out_and_the_others_sign_without_it() {
    let (mut world, cohort) = World::formed_with(3, 12, |terms| {
        terms.max_strikes = 2;
        terms.min_members = 3;
    });
    world.request_update(0, cohort, 1);
    settle_without(&mut world, &[2]);
    world.pass(62);
    assert_eq!(
        world.cohort(cohort).phase,
        Phase::Acknowledged,
        "one strike is not two"
    );
    world.pass(2);
    settle_without(&mut world, &[2]);
    let before = world.now.after(600);
    world.pass(600);
    let old = world.cohort(cohort).clone();
    assert!(
        matches!(&old.phase, Phase::Dissolved(reason) if reason.contains("peer-2 had 2 strikes")),
        "{:?}",
        old.phase
    );
    assert_eq!(old.without, [world.peers[2].id.clone()].into());
    let told = world.mail.iter().filter(|mail| {
        matches!(mail, Mail::Problem { rejection, .. } if rejection.code == Code::CohortDissolved)
    });
    assert_eq!(told.count(), 3, "the one that is out as well");

    let next = world.cohort(successor(&world, cohort)).clone();
    let Terms {
        min_members,
        max_members,
        admission,
        advert_expires,
        ..
    } = *next.terms;
    assert_eq!(
        (min_members, max_members, admission),
        (2, 2, Admission::Invited)
    );
    assert_eq!(
        advert_expires,
        before.after(3_600),
        "open for as long as the old one was"
    );
    assert_eq!(next.succeeds, Some(cohort));
    assert_eq!(
        next.invited,
        world.peers[..2]
            .iter()
            .map(|peer| peer.id.clone())
            .collect()
    );
    assert_eq!(old.terms.hash(), world.cohort(cohort).terms.hash());

    let next = next.id;
    settle_without(&mut world, &[2]);
    assert_eq!(world.cohort(next).phase, Phase::Acknowledged);
    world.fund(next, 40_000);
    settle_without(&mut world, &[2]);
    world.request_update(1, next, 2);
    settle_without(&mut world, &[2]);
    world.chain.mine();
    settle_without(&mut world, &[2]);
    assert!(matches!(
        world.cohort(next).signals[0].standing,
        Standing::Confirmed { .. }
    ));

    let held = world.cohort(cohort).confirmed_balance();
    assert_eq!(held, 50_000, "what the old address holds is still seen");
    let late = world.peers[2].id.clone();
    world.refuses(Code::CohortDissolved, |world| {
        world.tell_coordinator(&late, beacon_cohort::message::OptOut { cohort_id: cohort })
    });
    world.assert_replay_equals_memory();
}

/// With fewer than two others there is nobody to form a cohort of.
#[test]
fn one_member_alone_is_no_successor() {
    let (mut world, cohort) = World::formed_with(2, 13, |terms| terms.max_strikes = 1);
    world.request_update(0, cohort, 1);
    settle_without(&mut world, &[1]);
    world.pass(62);
    assert!(matches!(world.cohort(cohort).phase, Phase::Dissolved(_)));
    assert_eq!(world.cohort(cohort).successor, None);
}

/// Who does not acknowledge in time has no place in the next cohort.
#[test]
fn a_cohort_without_an_acknowledgement_is_followed_by_one_of_those_who_gave_theirs() {
    let mut world = World::new(3, 14);
    let cohort = world.advertise(|_| {});
    (0..3).for_each(|number| world.subscribe(number));
    let sets = world.settle_until(|message| message.kind() == "keygen/cohort_set");
    world.mail.extend(sets);
    settle_without(&mut world, &[2]);
    world.pass(600);
    assert!(matches!(world.cohort(cohort).phase, Phase::Failed(_)));
    settle_without(&mut world, &[2]);
    let next = world.cohort(successor(&world, cohort));
    assert_eq!(next.phase, Phase::Acknowledged);
    assert!(!next.members.contains_key(&world.peers[2].id));
}

/// Started while a cohort waits for acknowledgements, the coordinator gives them their whole time again.
#[test]
fn a_restart_gives_acknowledgements_their_time_again() {
    let mut world = World::new(3, 15);
    let cohort = world.advertise(|_| {});
    (0..3).for_each(|number| world.subscribe(number));
    let acks = world.settle_until(|message| message.kind() == "keygen/cohort_ack");
    world.now = world.now.after(1_000);
    world.restart_coordinator();
    assert_eq!(world.cohort(cohort).phase, Phase::Set);
    world.mail.extend(acks);
    world.settle();
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
}

/// The operator ends a cohort while it signs, without one member: the session ends with it.
#[test]
fn the_operator_ends_a_cohort_without_a_member() {
    let (mut world, cohort) = World::formed(3, 16);
    world.request_update(0, cohort, 1);
    world.settle_until(|message| message.kind() == "sign/authorization_request");
    let out = world.peers[0].id.clone();
    let dissolve = |without, successor| Command::Dissolve {
        cohort,
        without,
        successor,
    };
    let stranger = [beacon_cohort::ids::PeerId::new("did:example:stranger")].into();
    world.refuses(Code::Invalid, |world| {
        world.operator(dissolve(stranger, true))
    });
    let two = world.peers[..2]
        .iter()
        .map(|peer| peer.id.clone())
        .collect();
    world.refuses(Code::Invalid, |world| world.operator(dissolve(two, true)));
    world.operator(dissolve([out].into(), true)).unwrap();
    let ended = world.mail.iter().filter(|mail| {
        matches!(mail, Mail::Message { message: Message::SessionAborted(body), .. } if body.next == NextStep::CohortDissolved)
    });
    assert_eq!(ended.count(), 3);
    world.settle();
    let next = successor(&world, cohort);
    assert_eq!(world.cohort(next).phase, Phase::Acknowledged);
    world.refuses(Code::Phase, |world| {
        world.operator(dissolve([].into(), false))
    });
    assert_eq!(strikes(&world, cohort), [0, 0, 0]);
}

/// What was signed before the end is still published.
#[test]
fn a_signal_of_a_dissolved_cohort_is_published() {
    let (mut world, cohort) = World::formed(2, 17);
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    let dissolve = Command::Dissolve {
        cohort,
        without: [].into(),
        successor: false,
    };
    world.operator(dissolve).unwrap();
    world.settle();
    let txid = world.cohort(cohort).signals[0].txid;
    world.chain.reorganise(1, true);
    world.settle();
    assert!(world.chain.transaction(&txid).is_some());
    world.assert_replay_equals_memory();
}

/// A leaf arrives after the tree was built without it: the session is built anew with it, and nobody is blamed.
#[test]
fn a_leaf_that_crosses_the_request_is_taken() {
    let (mut world, cohort) = World::formed_with(2, 18, |terms| terms.empty_leaf_allowed = true);
    world.request_update(0, cohort, 1);
    let asked = world.settle_until(|message| message.kind() == "sign/update_opportunity");
    world.deliver(asked[0].clone());
    let leaves = std::mem::take(&mut world.mail); // On their way for too long.
    world.pass(62);
    let first = world.cohort(cohort).session.as_ref().unwrap().id;
    world.mail.extend(leaves);
    world.settle();
    world.pass(2);
    world.settle();
    let cohort = world.cohort(cohort);
    assert_eq!(cohort.abandoned[0].session, first);
    assert_eq!(cohort.signals[0].standing, Standing::Broadcast);
    assert!(cohort.strikes.is_empty());
    let other = *world.membership(1, cohort.id).dids.keys().next().unwrap();
    assert_ne!(cohort.trees[&1][&other], beacon_signal::LeafValue::EMPTY);
    world.assert_replay_equals_memory();
}

/// Whether these are leaves of the last of three members.
fn leaves_of_last(world: &World) -> impl Fn(&Mail) -> bool + use<> {
    let last = world.peers[2].id.clone();
    move |mail| {
        let Mail::Message { from, message, .. } = mail else {
            return false;
        };
        *from == last && matches!(message, Message::NoUpdate(_) | Message::RequestSignature(_))
    }
}

/// A round that was closed without the leaf that a member chose: it was lost.
fn closed_without_a_leaf(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed_with(3, seed, |terms| terms.empty_leaf_allowed = true);
    world.request_update(0, cohort, 1);
    let lost = leaves_of_last(&world);
    settle_but(&mut world, lost);
    world.pass(62);
    (world, cohort)
}

/// Its decline is there before the leaf: believed four times in a round.
#[test]
fn a_decline_that_overtakes_its_leaf_is_believed_four_times() {
    let (mut world, cohort) = closed_without_a_leaf(19);
    for expected in 1..=5 {
        let lost = leaves_of_last(&world);
        settle_but(&mut world, lost);
        let state = world.cohort(cohort);
        assert_eq!(state.abandoned.len(), expected);
        assert_eq!(state.abandoned[expected - 1].code, "proof-invalid");
        let stopped = matches!(state.round.stage, Stage::Stopped { .. });
        assert_eq!(stopped, expected == 5);
        world.pass(1 << expected);
    }
}

/// A member declines a tree that lacks its leaf, which it sends along, byte for byte: the next session has it, and nobody
/// is struck.
#[test]
fn a_decline_for_a_missing_leaf_brings_the_leaf() {
    let (mut world, cohort) = closed_without_a_leaf(20);
    let answers = world.settle_until(|message| {
        matches!(message, Message::NoUpdate(_)) || message.kind() == "sign/decline"
    });
    let kinds = answers.iter().map(|mail| match mail {
        Mail::Message { message, .. } => message.kind(),
        Mail::Problem { .. } => "a problem",
    });
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["sign/no_update", "sign/decline"]
    );
    world.mail.extend(answers);
    world.settle();
    world.pass(2);
    world.settle();
    let state = world.cohort(cohort);
    assert_eq!(state.abandoned.len(), 1);
    assert_eq!(state.abandoned[0].code, "late-leaf");
    assert_eq!(state.signals[0].standing, Standing::Broadcast);
    assert_eq!(strikes(&world, cohort), [0, 0, 0]);
    world.assert_replay_equals_memory();
}

/// The session is declined by another member first; the one whose leaf was lost declines it too, before its leaf is there or
/// after. Neither is a strike.
#[test]
fn a_second_decline_for_a_missing_leaf_strikes_nobody() {
    for leaf_first in [false, true] {
        let (mut world, cohort) = closed_without_a_leaf(21);
        let mut answers = world.settle_until(|message| {
            matches!(message, Message::NoUpdate(_)) || message.kind() == "sign/decline"
        });
        let session = world.cohort(cohort).session.as_ref().unwrap().id;
        let other = world.peers[1].id.clone();
        let first = Decline {
            session_id: session,
            cohort_id: cohort,
            code: "nonce-lost".to_owned(),
            comment: String::new(),
        };
        world.tell_coordinator(&other, first).unwrap();
        if !leaf_first {
            answers.reverse();
        }
        for mail in answers {
            world.deliver(mail);
        }
        world.pass(2);
        world.settle();
        assert_eq!(strikes(&world, cohort), [0, 0, 0], "{leaf_first}");
        let signals = &world.cohort(cohort).signals;
        assert_eq!(signals[0].standing, Standing::Broadcast, "{leaf_first}");
        world.assert_replay_equals_memory();
    }
}

/// Two cohorts have something to do, and what the first one wants cannot be stored: the other one goes on all the same.
#[test]
fn a_cohort_whose_steps_are_refused_does_not_starve_another() {
    use beacon_cohort::coordinator::Event;
    use beacon_cohort::machine::{Input, Machine};
    let mut world = World::new(2, 20);
    let cohorts = [world.advertise(|_| {}), world.advertise(|_| {})];
    world.now = world.now.after(3_600); // Both adverts end, and with them their cohorts.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let machine = &world.coordinator.machine;
        let step = machine
            .step(Input::Tick, world.now, &mut world.rng)
            .unwrap();
        seen.extend(step.events.iter().filter_map(Event::cohort));
    }
    assert_eq!(seen, cohorts.into());
}
