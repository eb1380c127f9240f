//! What is lost, late or claimed twice, and how things go on all the same.

use std::collections::BTreeSet;

use beacon_cohort::coordinator::{Phase, Stage, Standing};
use beacon_cohort::ids::PeerId;
use beacon_cohort::machine::{Code, Input};
use beacon_cohort::message::{Message, RequestSignature, Subscribe, Unsubscribe, replaces};
use beacon_cohort::participant::{self, Progress};
use beacon_cohort::terms::Flow;

use crate::common::{Mail, World, coordinator_id};

fn request_signature(mail: &Mail) -> &RequestSignature {
    match mail {
        Mail::Message {
            message: Message::RequestSignature(body),
            ..
        } => body,
        other => panic!("{other:?}"),
    }
}

/// An update that never arrived is given again when the user asks again: the same leaf, for it may have arrived.
#[test]
fn a_lost_update_is_sent_again_byte_for_byte_when_it_is_asked_for_again() {
    let (mut world, cohort) = World::formed(2, 1);
    let wanted = |message: &Message| matches!(message, Message::RequestSignature(_));
    world.request_update(0, cohort, 7);
    let lost = world.settle_until(wanted);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 0);
    world.request_update(0, cohort, 7);
    let again = world.settle_until(wanted);
    assert_eq!(request_signature(&again[0]), request_signature(&lost[0]));
    world.deliver(again[0].clone());
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
}

/// One member was away for longer than the deadline: its answer, when it comes, lets the round go on by itself, and it is
/// asked again meanwhile.
#[test]
fn a_round_without_an_answer_asks_again_and_goes_on_when_it_comes() {
    let mut world = World::new(2, 2);
    let cohort = world.advertise(|terms| terms.flow = Flow::Pull);
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    world.fund(cohort, 50_000);
    world.settle();
    let round = beacon_cohort::coordinator::Command::StartRound { cohort };
    world.operator(round).unwrap();
    let asked = world.settle_until(|message| matches!(message, Message::UpdateOpportunity(_)));
    world.deliver(asked[0].clone());
    world.settle();
    world.pass(62);
    let again = world.now.after(2);
    assert_eq!(
        world.cohort(cohort).round.stage,
        Stage::Unanswered { again }
    );
    world.pass(2);
    let again = world.settle_until(|message| matches!(message, Message::UpdateOpportunity(_)));
    assert_eq!(again.len(), 1, "only who has not answered");
    world.pass(62);
    world.deliver(asked[1].clone());
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].standing, Standing::Broadcast);
}

/// A member that was away for a whole session hears of its end only: the request would have it make nonces for nothing, or give
/// up the session that came after.
#[test]
fn a_session_that_is_over_is_not_asked_for_any_more() {
    let (mut world, cohort) = World::formed(2, 7);
    world.request_update(0, cohort, 1);
    let away = world.peers[1].id.clone();
    let mut waiting: Vec<Message> = Vec::new();
    let mut write = |mail: Mail| match mail {
        Mail::Message { to, message, .. } if to == away => {
            let thread = message.thread();
            let pointless = replaces(message.kind());
            waiting.retain(|old| old.thread() != thread || !pointless.contains(&old.kind()));
            waiting.push(message);
        }
        _ => {}
    };
    while world.cohort(cohort).session.is_none() {
        let mail = world.mail.remove(0);
        world.deliver(mail);
    }
    world.mail.drain(..).for_each(&mut write);
    world.pass(62);
    world.mail.drain(..).for_each(&mut write);
    let kinds: Vec<_> = waiting.iter().map(Message::kind).collect();
    assert_eq!(kinds, ["sign/session_aborted"]);
}

/// News of a signal are for members, and for those who still want them.
#[test]
fn news_go_to_members_and_subscribers_only() {
    let (mut world, cohort) = World::formed(2, 8);
    let [listener, gone] = ["listener", "gone"].map(PeerId::new);
    for peer in [&listener, &gone] {
        world.tell_coordinator(peer, Subscribe::default()).unwrap();
    }
    world.tell_coordinator(&gone, Unsubscribe {}).unwrap();
    let coordinator = coordinator_id();
    let unsubscribe = participant::Command::Unsubscribe { coordinator };
    world.user(1, unsubscribe).unwrap();
    world.request_update(0, cohort, 1);
    let mut told = BTreeSet::new();
    world.settle_watched(|_, mail| {
        if let Mail::Message { to, message, .. } = mail
            && message.kind() == "sign/signal_published"
        {
            told.insert(to.clone());
        }
    });
    let members = world.peers.iter().map(|peer| peer.id.clone());
    let expected: BTreeSet<_> = members.chain([listener]).collect();
    assert_eq!(told, expected);
}

/// A stranger pays more to the beacon than it holds, and could take that back by a reorganisation: what the cohort's own
/// signal left is spent first.
#[test]
fn our_own_change_is_spent_before_a_strangers_larger_deposit() {
    let (mut world, cohort) = World::formed(2, 3);
    world.request_update(0, cohort, 7);
    world.settle();
    world.chain.mine();
    world.settle();
    world.fund(cohort, 90_000);
    world.settle();
    world.request_update(0, cohort, 8);
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert_eq!(signals.len(), 2);
    let spent = signals[1].tx.input[0].previous_output;
    assert_eq!(spent.txid, signals[0].txid);
}

/// A member that was away when its cohort failed hears of it at its next message, before it sends money anywhere.
#[test]
fn whoever_speaks_in_a_failed_cohort_is_told_that_it_is_over() {
    let mut world = World::new(2, 4);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.subscribe(1);
    let acks = world.settle_until(|message| message.kind() == "keygen/cohort_ack");
    world.deliver(acks[0].clone());
    world.mail.clear(); // The other one's acknowledgement and all reports of the failure are lost.
    world.pass(86_400);
    world.mail.clear();
    assert!(matches!(world.cohort(cohort).phase, Phase::Failed(_)));
    let agreed = &world.membership(0, cohort).stage;
    assert_eq!(*agreed, participant::Stage::Agreed, "it knows nothing yet");
    world.request_update(0, cohort, 7);
    world.settle();
    let stage = &world.membership(0, cohort).stage;
    assert!(
        matches!(stage, participant::Stage::Out(code, _) if code == Code::CohortFailed.as_str()),
        "{stage:?}"
    );
}

/// A refusal for want of room says nothing about the opt-in: it may be taken the next time.
#[test]
fn a_full_coordinator_does_not_turn_an_opt_in_away_for_good() {
    let mut world = World::new(2, 5);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.settle();
    let report = |code: Code| Input::Problem {
        from: coordinator_id(),
        cohort: Some(cohort),
        code: code.as_str().to_owned(),
        comment: String::new(),
    };
    world.at_peer(0, report(Code::Limit)).unwrap();
    let stage = world.membership(0, cohort).stage.clone();
    assert_eq!(stage, participant::Stage::OptedIn);
    world.at_peer(0, report(Code::KeyTaken)).unwrap();
    let stage = world.membership(0, cohort).stage.clone();
    assert!(matches!(stage, participant::Stage::Out(..)));
}

/// A coordinator of one cohort claims the output that another cohort spends. The chain's one answer about it declines
/// the claim, and lets the honest session go on.
#[test]
fn an_output_claimed_by_two_cohorts_is_judged_for_both() {
    let mut world = World::new(2, 6);
    let mut cohorts = [world.advertise(|_| {}), world.advertise(|_| {})];
    cohorts.sort_unstable();
    let [claiming, honest] = cohorts;
    world.subscribe(0);
    world.subscribe(1);
    world.settle();
    for cohort in cohorts {
        world.fund(cohort, 50_000);
    }
    world.settle();
    let request = |world: &mut World, cohort| {
        world.request_update(0, cohort, 7);
        let mails =
            world.settle_until(|message| matches!(message, Message::AuthorizationRequest(_)));
        let first = world.peers[0].id.clone();
        let own = mails.into_iter().find_map(|mail| match mail {
            Mail::Message {
                to,
                message: Message::AuthorizationRequest(body),
                ..
            } if to == first => Some(body),
            _ => None,
        });
        own.unwrap()
    };
    let right = request(&mut world, honest);
    let mut wrong = request(&mut world, claiming);
    wrong.pending_tx.input[0].previous_output = right.pending_tx.input[0].previous_output;
    world.tell(0, &coordinator_id(), right).unwrap();
    world.tell(0, &coordinator_id(), wrong).unwrap();
    world.look_at_chain_from(0);
    let declined = world.membership(0, claiming).ended.back().unwrap();
    assert_eq!(declined.code, "chain-script");
    let session = world.membership(0, honest).session.as_ref().unwrap();
    assert!(matches!(session.progress, Progress::NonceCommitted { .. }));
}
