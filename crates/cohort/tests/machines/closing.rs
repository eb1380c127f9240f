//! A cohort is closed: one last spend to the script of its terms, and no more rounds.

use beacon_cohort::coordinator::{self, Phase, Stage, Standing};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Code;
use beacon_cohort::message::Message;
use beacon_cohort::participant;
use beacon_cohort::terms::Terms;
use beacon_signal::{UpdateId, transaction};
use bitcoin::ScriptBuf;

use crate::common::{Mail, World};

fn close_script() -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x51, 0x20][..], &[9; 32]].concat())
}

fn formed_with(seed: u64, change: impl FnOnce(&mut Terms)) -> (World, CohortId) {
    World::formed_with(2, seed, |terms| {
        terms.close_script = Some(close_script());
        change(terms);
    })
}

fn formed(seed: u64) -> (World, CohortId) {
    formed_with(seed, |_| {})
}

fn close(world: &mut World, cohort: CohortId, fee_rate: Option<u64>) {
    let command = coordinator::Command::Close { cohort, fee_rate };
    world.operator(command).unwrap();
    world.settle();
}

fn bury(world: &mut World) {
    for _ in 0..6 {
        world.chain.mine();
        world.settle();
    }
}

fn start(cohort: CohortId) -> coordinator::Command {
    coordinator::Command::StartRound { cohort }
}

/// All that the address holds goes to the script of the terms, more than the largest balance included. An update that
/// came too late stays with its member, and every DID keeps the proofs of what was announced.
#[test]
fn a_cohort_is_closed_and_what_waits_is_given_back() {
    let (mut world, cohort) = formed(1);
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    let signal = world.cohort(cohort).signals[0].clone();
    world.fund(cohort, 90_000);
    world.settle();
    world.request_update(1, cohort, 2);
    // It waits for its round when the cohort is closed.
    world.mail.clear();
    close(&mut world, cohort, None);
    let spend = world.cohort(cohort).signals[1].clone();
    let [paid] = spend.tx.output.as_slice() else {
        panic!("one output");
    };
    let held: u64 = spend.spent.iter().map(|output| output.value).sum();
    let size = transaction::signed_vsize(&spend.tx, &spend.spent[0].script);
    assert_eq!(spend.tx.input.len(), 2);
    assert_eq!(held, 90_000 + signal.tx.output[0].value.to_sat());
    assert_eq!(
        (&paid.script_pubkey, paid.value.to_sat()),
        (&close_script(), held - 2 * size)
    );
    assert!(spend.is_close() && spend.standing == Standing::Broadcast);
    world.refuses(Code::Phase, |world| world.operator(start(cohort)));
    world.pass(100_000);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 2, "no more rounds");
    bury(&mut world);
    let over = world.cohort(cohort);
    assert_eq!(over.phase, Phase::Dissolved("closed".to_owned()));
    assert!(over.funds.is_empty() && over.successor.is_none());
    for number in 0..2 {
        let member = world.membership(number, cohort);
        assert_eq!(
            member.stage,
            participant::Stage::Dissolved("closed".to_owned())
        );
        assert!(member.is_closed());
        let proofs = &member.candidates[0].proofs;
        assert_eq!((proofs.len(), member.candidates[1].proofs.len()), (1, 0));
    }
    let waiting = world.membership(1, cohort).unannounced();
    let waiting: Vec<_> = waiting.into_values().collect();
    assert_eq!(waiting, [UpdateId([2; 32])]);
    // It may be announced elsewhere now.
    let did = world.peers[1].did.clone();
    let command = participant::Command::RequestUpdate {
        cohort,
        did,
        update: UpdateId([3; 32]),
        version: Some(3),
    };
    world.refuses(Code::Phase, |world| world.user(1, command));
    assert!(
        world
            .rejections
            .iter()
            .all(|rejection| { [Code::Phase, Code::CohortDissolved].contains(&rejection.code) })
    );
    world.assert_replay_equals_memory();
}

/// Nobody signs it where the terms have no script, or while a signal is on its way that it would undo.
#[test]
fn a_cohort_is_closed_only_as_agreed_and_undoes_no_signal() {
    let (mut world, cohort) = World::formed(2, 2);
    let command = |fee_rate| coordinator::Command::Close { cohort, fee_rate };
    world.refuses(Code::Invalid, |world| world.operator(command(None)));

    let (mut world, cohort) = formed(3);
    let command = |fee_rate| coordinator::Command::Close { cohort, fee_rate };
    world.refuses(Code::Invalid, |world| world.operator(command(Some(51))));
    world.request_update(0, cohort, 1);
    world.settle_until(|message| message.kind() == "sign/nonce_contribution");
    world.refuses(Code::Phase, |world| world.operator(command(None)));
    world.pass(62);
    world.settle();
    world.pass(2);
    world.settle();
    let signal = world.cohort(cohort).signals[0].txid;
    let refused = world.operator(command(None)).unwrap_err();
    assert_eq!(refused.code, Code::Invalid);
    assert!(world.chain.transaction(&signal).is_some());
    world.chain.mine();
    world.settle();
    close(&mut world, cohort, None);
    assert_eq!(world.cohort(cohort).signals.len(), 2);
}

/// A member declines: the cohort goes on as before, and the operator may ask again.
#[test]
fn a_close_that_fails_changes_nothing() {
    let (mut world, cohort) = formed(4);
    let command = coordinator::Command::Close {
        cohort,
        fee_rate: None,
    };
    world.operator(command).unwrap();
    for mail in world.settle_until(|message| message.kind() == "sign/authorization_request") {
        world.deliver(mail);
    }
    let session = world.cohort(cohort).session.as_ref().unwrap().id;
    let comment = "I need it".to_owned();
    world
        .user(1, participant::Command::Decline { session, comment })
        .unwrap();
    world.settle();
    let state = world.cohort(cohort);
    assert_eq!(
        (&state.round.stage, state.round.failures),
        (&Stage::Waiting, 0)
    );
    assert!(!state.is_closing() && state.signals.is_empty());
    world.pass(10_000);
    assert!(world.cohort(cohort).session.is_none(), "nothing by itself");
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    assert_eq!(world.cohort(cohort).signals[0].round, 1);
    close(&mut world, cohort, None);
    assert!(world.cohort(cohort).is_closing());
    world.assert_replay_equals_memory();
}

/// A close whose nonces are out and that was never finished is live: the next signal takes what it would have spent.
#[test]
fn an_unfinished_close_is_passed_over() {
    let (mut world, cohort) = formed(5);
    let command = coordinator::Command::Close {
        cohort,
        fee_rate: None,
    };
    world.operator(command).unwrap();
    world.settle_until(|message| message.kind() == "sign/signature_authorization");
    world.mail.clear();
    world.pass(62);
    world.settle();
    let state = world.cohort(cohort);
    assert!(state.session.is_none() && !state.is_closing() && !state.root_is_fixed());
    assert_eq!(state.signals[0].standing, Standing::Unsigned);
    world.pass(200);
    world.settle();
    world.request_update(0, cohort, 1);
    world.settle();
    bury(&mut world);
    let left = &world.cohort(cohort).signals;
    assert_eq!(
        (left.len(), left[0].is_close(), left[0].round),
        (1, false, 1)
    );
    let member = world.membership(0, cohort);
    assert_eq!(
        (member.round, member.candidates[0].standing),
        (2, participant::Standing::Superseded)
    );
    world.assert_replay_equals_memory();
}

/// The operator repeats the command with a higher fee, and later for what came since: until nothing is left.
#[test]
fn a_close_is_replaced_and_repeated_until_nothing_is_left() {
    let (mut world, cohort) = formed_with(6, |terms| terms.max_inputs = 1);
    world.fund(cohort, 20_000);
    world.settle();
    close(&mut world, cohort, None);
    let low = coordinator::Command::Close {
        cohort,
        fee_rate: Some(2),
    };
    world.refuses(Code::Invalid, |world| world.operator(low));
    close(&mut world, cohort, Some(9));
    let signals = world.cohort(cohort).signals.clone();
    assert_eq!(signals.len(), 2);
    assert_eq!(
        signals[0].tx.input[0].previous_output,
        signals[1].tx.input[0].previous_output
    );
    assert!(world.chain.transaction(&signals[0].txid).is_none());
    bury(&mut world);
    assert!(matches!(world.cohort(cohort).phase, Phase::Dissolved(_)));
    assert_eq!(
        world.cohort(cohort).confirmed_balance(),
        20_000,
        "what did not fit"
    );
    close(&mut world, cohort, None);
    bury(&mut world);
    world.fund(cohort, 5_000);
    world.settle();
    close(&mut world, cohort, None);
    bury(&mut world);
    let over = world.cohort(cohort);
    assert_eq!((over.confirmed_balance(), over.signals.len()), (0, 3));
    for number in 0..2 {
        let member = world.membership(number, cohort);
        let buried = member
            .candidates
            .iter()
            .filter(|signed| matches!(signed.standing, participant::Standing::Buried { .. }));
        assert_eq!(buried.count(), 3);
    }
    world.assert_replay_equals_memory();
}

/// An old copy of a member learns of the close that it signed: it is no stranger's spend.
#[test]
fn an_old_copy_of_a_member_learns_of_the_close() {
    let (mut world, cohort) = formed(7);
    let before = world.peers[1].node.log.len();
    close(&mut world, cohort, None);
    world.restore(1, before);
    world.settle();
    let member = world.membership(1, cohort);
    assert_eq!(member.candidates.len(), 1);
    assert!(member.candidates[0].is_close() && member.candidates[0].recovered);
    assert_eq!(member.round, 1, "it announces nothing, and ends no round");
    bury(&mut world);
    assert!(world.membership(1, cohort).is_closed());
    assert_eq!(world.membership(1, cohort).unexplained().count(), 0);
    world.assert_replay_equals_memory();
}

/// What members are asked to sign says what it is, and carries nothing else.
#[test]
fn a_closing_request_has_neither_proofs_nor_a_map() {
    let (mut world, cohort) = formed(8);
    let command = coordinator::Command::Close {
        cohort,
        fee_rate: None,
    };
    world.operator(command).unwrap();
    let mails = world.settle_until(|message| message.kind() == "sign/authorization_request");
    for mail in mails {
        let Mail::Message {
            message: Message::AuthorizationRequest(body),
            ..
        } = mail
        else {
            panic!("a request");
        };
        assert_eq!(body.kind, beacon_cohort::message::Kind::Close);
        assert!(body.proofs.is_empty() && body.map.is_none() && body.replaces.is_none());
    }
}
