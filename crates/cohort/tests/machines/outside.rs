//! A member whose nonces and partial signatures come from a signer outside, as PSBTs; and PSBTs of sessions on request.

use beacon_cohort::ids::{CohortId, SessionId};
use beacon_cohort::machine::Code;
use beacon_cohort::message::{Message, SessionPsbt};
use beacon_cohort::participant::{Command, Progress, PsbtView};
use beacon_cohort::psbt::{is_finished, parse, to_base64};
use bitcoin::bip32::KeySource;
use bitcoin::psbt::raw::Key;
use bitcoin::{Amount, Psbt};
use uuid::Uuid;

use crate::common::{Mail, World, coordinator_id, secret_key};
use crate::outside_signer::OutsideSigner;

/// A cohort of three whose member 0 signs outside, and that signer.
fn with_outside_signer(seed: u64) -> (World, CohortId, OutsideSigner) {
    let (mut world, cohort) = World::formed(3, seed);
    choose(&mut world, cohort, true).unwrap();
    let path = world.membership(0, cohort).path.unwrap();
    let signer = OutsideSigner::new(secret_key(0, path));
    world.request_update(1, cohort, 1);
    world.settle();
    (world, cohort, signer)
}

fn choose(
    world: &mut World,
    cohort: CohortId,
    outside: bool,
) -> Result<(), beacon_cohort::machine::Rejection> {
    world.user(0, Command::ChooseSigner { cohort, outside })
}

fn session(world: &World, cohort: CohortId) -> SessionId {
    world.membership(0, cohort).session.as_ref().unwrap().id
}

fn progress(world: &World, cohort: CohortId) -> &Progress {
    &world
        .membership(0, cohort)
        .session
        .as_ref()
        .unwrap()
        .progress
}

fn ask(world: &mut World, session: SessionId) {
    world.user(0, Command::AskForPsbt { session }).unwrap();
    world.settle();
}

fn view(world: &World, session: SessionId) -> PsbtView {
    let source: KeySource = ([1, 2, 3, 4].into(), "m/1642'/1'".parse().unwrap());
    let machine = &world.peers[0].node.machine;
    machine.psbt(session, |_| Some(source)).unwrap()
}

fn import(world: &mut World, psbt: &Psbt) -> Result<(), beacon_cohort::machine::Rejection> {
    // As a file.
    let psbt = parse(to_base64(psbt).unwrap().as_bytes()).unwrap();
    world.user(0, Command::ImportPsbt(Box::new(psbt)))
}

/// What the outside signer gives in the first phase, imported.
fn nonces_given(world: &mut World, cohort: CohortId, signer: &mut OutsideSigner) -> Psbt {
    let session = session(world, cohort);
    let mut psbt = view(world, session).psbt;
    signer.add_nonces(
        &mut psbt,
        *session.0.as_bytes().repeat(2).first_chunk().unwrap(),
    );
    import(world, &psbt).unwrap();
    world.settle();
    psbt
}

/// And in the second, not imported yet.
fn partials_made(world: &mut World, cohort: CohortId, signer: &mut OutsideSigner) -> Psbt {
    let session = session(world, cohort);
    ask(world, session);
    let shown = view(world, session);
    assert!(shown.all_nonces && shown.aggregated && !shown.finished);
    let mut psbt = shown.psbt;
    signer.add_partials(&mut psbt);
    psbt
}

/// Our process makes no nonce, the outside signer's are sent once the signal is reviewed, its partial signatures once the proofs
/// are durable; what is mined has a valid signature.
#[test]
fn a_member_signs_outside_and_the_signal_is_mined() {
    let (mut world, cohort, mut signer) = with_outside_signer(71);
    let session = session(&world, cohort);
    // Everything held, and nobody made nonces here.
    assert!(matches!(progress(&world, cohort), Progress::Requested));
    let first = view(&world, session);
    assert!(!first.all_nonces && !first.aggregated);
    let origins = &first.psbt.inputs[0].tap_key_origins;
    assert_eq!(
        origins.len(),
        1,
        "whose key it is, and where it is below the seed"
    );
    let psbt = nonces_given(&mut world, cohort, &mut signer);
    assert!(matches!(
        progress(&world, cohort),
        Progress::PartialAuthorized { .. }
    ));
    assert_eq!(
        world.membership(0, cohort).candidates.len(),
        1,
        "proofs before signatures"
    );
    // The same once more changes nothing.
    import(&mut world, &psbt).unwrap_err();
    let psbt = partials_made(&mut world, cohort, &mut signer);
    import(&mut world, &psbt).unwrap();
    world.settle();
    world.chain.mine();
    world.settle();
    let signal = &world.cohort(cohort).signals[0];
    assert_eq!(world.chain.transaction(&signal.txid), Some(&signal.tx));

    // The coordinator's answer is the finished one now, and it extracts to the signal.
    ask(&mut world, session);
    let finished = view(&world, session);
    assert!(finished.finished && is_finished(&finished.psbt));
    let signal = &world.cohort(cohort).signals[0];
    assert_eq!(finished.psbt.extract_tx_unchecked_fee_rate(), signal.tx);
    world.assert_replay_equals_memory();
}

/// Its secret nonces are outside, so a restart loses nothing, in whatever phase.
#[test]
fn restarts_do_not_end_the_sessions_of_an_outside_signer() {
    let (mut world, cohort, mut signer) = with_outside_signer(72);
    let id = session(&world, cohort);
    world.restart(0);
    world.settle();
    assert_eq!(session(&world, cohort), id);
    let last = {
        let mut psbt = view(&world, id).psbt;
        signer.add_nonces(&mut psbt, [9; 32]);
        psbt
    };
    import(&mut world, &last).unwrap();
    world.restart(0);
    world.settle();
    assert!(matches!(
        progress(&world, cohort),
        Progress::PartialAuthorized { .. }
    ));
    world.restart(0);
    world.settle();
    let psbt = partials_made(&mut world, cohort, &mut signer);
    import(&mut world, &psbt).unwrap();
    world.restart(0);
    world.settle();
    assert_eq!(world.cohort(cohort).signals[0].session, id);
    assert!(world.cohort(cohort).abandoned.is_empty());
    world.assert_replay_equals_memory();
}

/// Nonces leave only for a signal that was reviewed: imported before, they wait for the chain.
#[test]
fn imported_nonces_wait_for_the_review() {
    let (mut world, cohort) = World::formed(2, 73);
    choose(&mut world, cohort, true).unwrap();
    let path = world.membership(0, cohort).path.unwrap();
    let mut signer = OutsideSigner::new(secret_key(0, path));
    world.request_update(1, cohort, 1);
    let request = |message: &Message| message.kind() == "sign/authorization_request";
    let ours = |mail: &Mail, world: &World| matches!(mail, Mail::Message { to, .. } if *to == world.peers[0].id);
    for mail in world.settle_until(request) {
        if ours(&mail, &world) {
            world.deliver(mail);
        }
    }
    let id = session(&world, cohort);
    let mut psbt = view(&world, id).psbt;
    signer.add_nonces(&mut psbt, [3; 32]);
    import(&mut world, &psbt).unwrap();
    assert!(world.mail.is_empty(), "nothing left: {:?}", world.mail);
    // The deposit that it spends waits for a block again.
    world.chain.reorganise(1, false);
    world.look_at_chain_from(0);
    assert!(!world.membership(0, cohort).contributed.contains(&id));
    assert!(world.mail.is_empty(), "nothing left: {:?}", world.mail);
    world.chain.mine();
    world.look_at_chain_from(0);
    assert!(matches!(
        progress(&world, cohort),
        Progress::NonceCommitted { .. }
    ));
    // One that does not hold is declined all the same.
    let (mut world, cohort, mut signer) = with_outside_signer(173);
    let id = session(&world, cohort);
    let mut psbt = view(&world, id).psbt;
    signer.add_nonces(&mut psbt, [3; 32]);
    world.chain.steal(psbt.unsigned_tx.input[0].previous_output);
    import(&mut world, &psbt).unwrap();
    world.look_at_chain_from(0);
    assert_eq!(world.membership(0, cohort).session, None);
    assert!(!world.membership(0, cohort).contributed.contains(&id));
}

#[test]
fn each_phase_takes_one_import() {
    let (mut world, cohort, mut signer) = with_outside_signer(74);
    let id = session(&world, cohort);
    let bare = view(&world, id).psbt;
    world.refuses(Code::Invalid, |world| import(world, &bare));
    let mut other = bare.clone();
    OutsideSigner::new(secret_key(0, world.membership(0, cohort).path.unwrap()))
        .add_nonces(&mut other, [8; 32]);
    let given = nonces_given(&mut world, cohort, &mut signer);
    // Other nonces for the same session, and the same ones without partial signatures.
    world.refuses(Code::Conflict, |world| import(world, &other));
    world.refuses(Code::Invalid, |world| import(world, &given));
    // A partial signature that does not verify is not sent.
    let right = partials_made(&mut world, cohort, &mut signer);
    let mut wrong = right.clone();
    let own = world.membership(0, cohort).key.unwrap().to_bytes();
    let partial = |key: &&Key| key.type_value == 0x1c && key.key.starts_with(&own);
    let key = wrong.inputs[0]
        .unknown
        .keys()
        .find(partial)
        .unwrap()
        .clone();
    wrong.inputs[0].unknown.get_mut(&key).unwrap()[31] ^= 1;
    world.refuses(Code::PartialSignature, |world| import(world, &wrong));
    import(&mut world, &right).unwrap();
    import(&mut world, &right).unwrap();
    world.refuses(Code::Conflict, |world| import(world, &wrong));
    // In the middle of a session the signer stays who it is.
    world.refuses(Code::Phase, |world| choose(world, cohort, false));
    world.settle();
    assert_eq!(world.cohort(cohort).signals[0].session, id);
}

/// A secret nonce that signs twice gives the key away, so no public nonce is taken twice: not in a later session either.
#[test]
fn a_nonce_is_taken_once() {
    let (mut world, cohort, mut signer) = with_outside_signer(75);
    let given = nonces_given(&mut world, cohort, &mut signer);
    let old = session(&world, cohort);
    // The session ends without a signature, and the round is tried again.
    let comment = String::new();
    let decline = Command::Decline {
        session: old,
        comment,
    };
    world.refuses(Code::Phase, |world| world.user(0, decline));
    world.pass(200);
    world.settle();
    world.pass(200);
    world.settle();
    let id = session(&world, cohort);
    assert_ne!(id, old);
    let psbt = view(&world, id).psbt;
    assert_eq!(
        psbt.unsigned_tx, given.unsigned_tx,
        "a retry builds the same"
    );
    world.refuses(Code::Conflict, |world| import(world, &given));
    nonces_given(&mut world, cohort, &mut signer);
    assert!(matches!(
        progress(&world, cohort),
        Progress::PartialAuthorized { .. }
    ));
}

/// Without an import in time the session is declined, by a code that strikes nobody for a wrong reason.
#[test]
fn a_session_without_an_import_is_declined_in_time() {
    let (mut world, cohort, _) = with_outside_signer(76);
    world.pass(62);
    let declined = world.mail.iter().find_map(|mail| match mail {
        Mail::Message {
            message: Message::Decline(body),
            ..
        } => Some(body.clone()),
        _ => None,
    });
    let declined = declined.unwrap();
    assert_eq!(declined.code, "not-approved");
    assert!(
        declined.comment.contains("outside signer"),
        "{}",
        declined.comment
    );
    assert_eq!(world.membership(0, cohort).session, None);
}

#[test]
fn what_is_not_this_sessions_is_not_imported() {
    let (mut world, cohort, mut signer) = with_outside_signer(77);
    let id = session(&world, cohort);
    let mut psbt = view(&world, id).psbt;
    signer.add_nonces(&mut psbt, [1; 32]);
    let mut other = psbt.clone();
    other.unsigned_tx.output[0].value += Amount::ONE_SAT;
    world.refuses(Code::UnknownSession, |world| import(world, &other));
    let mut other = psbt.clone();
    other.inputs[0].witness_utxo.as_mut().unwrap().value += Amount::ONE_SAT;
    world.refuses(Code::Invalid, |world| import(world, &other));
    // Of a member that signs by itself.
    world.refuses(Code::Invalid, |world| {
        world.user(1, Command::ImportPsbt(Box::new(psbt)))
    });
}

/// The coordinator's word is information: about another transaction, other keys or other nonces of ours it is refused, and the
/// user is told why.
#[test]
fn a_coordinators_psbt_that_does_not_fit_is_refused() {
    let (mut world, cohort, mut signer) = with_outside_signer(78);
    let id = session(&world, cohort);
    nonces_given(&mut world, cohort, &mut signer);
    let answer = |world: &mut World, change: &dyn Fn(&mut Psbt)| {
        world.user(0, Command::AskForPsbt { session: id }).unwrap();
        let wanted = |message: &Message| message.kind() == "sign/psbt";
        let mail = world.settle_until(wanted).remove(0);
        let Mail::Message {
            message: Message::SessionPsbt(mut body),
            ..
        } = mail
        else {
            panic!("a PSBT")
        };
        change(&mut body.psbt);
        world.tell(0, &coordinator_id(), body).unwrap();
        let asked = world.membership(0, cohort).asked_psbt.clone().unwrap();
        asked.answer.unwrap()
    };
    let key = world.membership(0, cohort).key.unwrap().to_bytes();
    let nonce_of = |psbt: &Psbt, ours: bool| {
        let mut keys = psbt.inputs[0].unknown.keys();
        let of = |found: &&Key| found.type_value == 0x1b && found.key.starts_with(&key) == ours;
        keys.find(of).unwrap().clone()
    };
    let refused = [
        answer(&mut world, &|psbt| {
            psbt.unsigned_tx.output[0].value -= Amount::ONE_SAT;
        }),
        answer(&mut world, &|psbt| {
            let list = |key: &&Key| key.type_value == 0x1a;
            let list = psbt.inputs[0].unknown.keys().find(list).unwrap().clone();
            psbt.inputs[0].unknown.get_mut(&list).unwrap().truncate(66);
        }),
        answer(&mut world, &|psbt| {
            let (own, other) = (nonce_of(psbt, true), nonce_of(psbt, false));
            let nonce = psbt.inputs[0].unknown[&other].clone();
            psbt.inputs[0].unknown.insert(own, nonce);
        }),
        answer(&mut world, &|psbt| {
            let (own, other) = (nonce_of(psbt, true), nonce_of(psbt, false));
            let nonce = psbt.inputs[0].unknown[&own].clone();
            psbt.inputs[0].unknown.insert(other, nonce);
        }),
        answer(&mut world, &|psbt| {
            for input in &mut psbt.inputs {
                input.final_script_witness = Some(bitcoin::Witness::from_slice(&[[7; 64]]));
            }
        }),
    ];
    let expected = [
        "PSBT of transaction",
        "set of participants",
        "that we did not give",
        "do not sum to the aggregated nonce",
        "is not the beacon's signature",
    ];
    for (refused, expected) in refused.into_iter().zip(expected) {
        let reason = refused.unwrap_err();
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    // Nothing of these is shown, and the right one still is.
    assert!(!view(&world, id).all_nonces);
    answer(&mut world, &|_| {}).unwrap();
    assert!(view(&world, id).all_nonces);
    // Nobody asked for a second one.
    let body = SessionPsbt {
        session_id: id,
        cohort_id: cohort,
        psbt: view(&world, id).psbt,
    };
    let before = world.membership(0, cohort).clone();
    world.tell(0, &coordinator_id(), body.clone()).unwrap();
    assert_eq!(*world.membership(0, cohort), before);
    world.refuses(Code::Phase, |world| world.tell(1, &coordinator_id(), body));
}

/// What the coordinator does not know, it refuses, and the user hears of it.
#[test]
fn a_coordinator_that_has_no_such_session_says_so() {
    let (mut world, cohort, _) = with_outside_signer(79);
    let id = session(&world, cohort);
    world.user(0, Command::AskForPsbt { session: id }).unwrap();
    let mut sent = world.settle_until(|message| message.kind() == "sign/psbt_request");
    let Mail::Message {
        message: Message::PsbtRequest(mut body),
        ..
    } = sent.remove(0)
    else {
        panic!("a request")
    };
    let member = world.peers[0].id.clone();
    body.session_id = SessionId(Uuid::from_u128(404));
    world.refuses(Code::UnknownSession, |world| {
        world.tell_coordinator(&member, body)
    });
    // As the runtime hands a report on: by the thread of what was refused.
    let report = beacon_cohort::machine::Input::Problem {
        from: coordinator_id(),
        cohort: Some(CohortId(id.0)),
        code: "e.m.unknown-session".to_owned(),
        comment: "no such session".to_owned(),
    };
    world.at_peer(0, report).unwrap();
    let asked = world.membership(0, cohort).asked_psbt.clone().unwrap();
    let reason = asked.answer.unwrap().unwrap_err();
    assert!(reason.contains("e.m.unknown-session"), "{reason}");
    let unknown = Command::AskForPsbt {
        session: SessionId(Uuid::from_u128(404)),
    };
    world.refuses(Code::UnknownSession, |world| world.user(0, unknown));
}

/// A member that signs by itself can look at its session as well.
#[test]
fn a_member_that_signs_by_itself_gets_a_psbt_too() {
    let (mut world, cohort, mut signer) = with_outside_signer(80);
    let id = session(&world, cohort);
    nonces_given(&mut world, cohort, &mut signer);
    world.user(1, Command::AskForPsbt { session: id }).unwrap();
    world.settle();
    let shown = world.peers[1].node.machine.psbt(id, |_| None).unwrap();
    assert!(shown.all_nonces && shown.aggregated);
    assert!(shown.psbt.inputs[0].tap_key_origins.is_empty());
    let partials = shown.psbt.inputs[0]
        .unknown
        .keys()
        .filter(|key| key.type_value == 0x1c);
    assert_eq!(partials.count(), 2, "of the two members that have signed");
}
