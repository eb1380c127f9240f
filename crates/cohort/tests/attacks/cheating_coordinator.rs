//! A coordinator that cheats. Each of its requests is declined with the code of the rule that it breaks; the member has
//! made no nonce, and remembers nothing but that it declined.

use std::collections::BTreeSet;

use beacon_cohort::hourly::Hourly;
use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::Code;
use beacon_cohort::message::{
    AuthorizationRequest, CohortAdvert, IndexProof, Kind, Message, NextStep, SessionAborted,
    Subscribe, UpdateOpportunity,
};
use beacon_cohort::participant::{self, Command, Progress};
use beacon_cohort::terms::{AgreedTerms, BeaconType, BtcNetwork, Terms};
use beacon_signal::{Index, LeafNonce, LeafValue, SparseMerkleTree, UpdateId};
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, TxIn, TxOut, absolute, transaction};
use uuid::Uuid;

use crate::common::{Mail, START, World, coordinator_id};

/// A request on its way to member 0, in a cohort of two whose first member announces an update.
fn asked(seed: u64) -> (World, CohortId, AuthorizationRequest) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    let request = next_request(&mut world);
    (world, cohort, request)
}

pub(crate) fn next_request(world: &mut World) -> AuthorizationRequest {
    let mails = world.settle_until(|message| matches!(message, Message::AuthorizationRequest(_)));
    world.mail.clear();
    let own = mails.into_iter().find_map(|mail| match mail {
        Mail::Message {
            to,
            message: Message::AuthorizationRequest(body),
            ..
        } if world.number_of(&to) == Some(0) => Some(body),
        _ => None,
    });
    own.expect("member 0 is asked as well")
}

/// Everything that member 0 knows, but which sessions are over.
fn knows(world: &World) -> participant::State {
    let mut state = world.peers[0].node.machine.state().clone();
    for cohort in state.cohorts.values_mut() {
        cohort.ended.clear();
        cohort.sessions = Hourly::default();
    }
    state
}

/// The machine's answers so far, by kind.
fn answers(world: &mut World) -> Vec<Message> {
    let mails = std::mem::take(&mut world.mail).into_iter();
    let messages = mails.map(|mail| match mail {
        Mail::Message { message, .. } => message,
        Mail::Problem { rejection, .. } => panic!("reported {rejection}"),
    });
    messages.collect()
}

/// The request is declined with this code before a nonce was made, and nothing of it stays.
#[track_caller]
pub(crate) fn declines(world: &mut World, request: AuthorizationRequest, code: &str) {
    let more = declined(world, request, code);
    assert!(more.is_empty(), "got {more:?} before the decline");
}

/// Gives what the member said before it declined.
fn declined(world: &mut World, request: AuthorizationRequest, code: &str) -> Vec<Message> {
    let before = knows(world);
    let session = request.session_id;
    world.tell(0, &coordinator_id(), request).unwrap();
    world.look_at_chain_from(0);
    let mut answers = answers(world);
    let Some(Message::Decline(decline)) = answers.pop() else {
        panic!("got {answers:?}, expected a decline at last");
    };
    assert_eq!((decline.session_id, decline.code.as_str()), (session, code));
    assert!(
        knows(world) == before,
        "only that it declined is remembered"
    );
    answers
}

/// The coordinator pays the change to itself.
#[test]
fn the_change_goes_to_the_coordinator() {
    let (mut world, _, mut request) = asked(1);
    request.pending_tx.output[0].script_pubkey = stranger_script();
    declines(&mut world, request, "foreign-change");
}

/// The coordinator gives the whole deposit to a miner whom it knows.
#[test]
fn the_deposit_goes_to_the_miner() {
    let (mut world, _, mut request) = asked(2);
    request.pending_tx.output.remove(0);
    declines(&mut world, request, "fee-too-high");
}

/// A second payment hides behind honest change.
#[test]
fn a_payment_stands_beside_the_change() {
    let (mut world, _, mut request) = asked(3);
    let stolen = TxOut {
        value: Amount::from_sat(1_000),
        script_pubkey: stranger_script(),
    };
    request.pending_tx.output[0].value -= stolen.value;
    request.pending_tx.output.insert(1, stolen);
    declines(&mut world, request, "output-count");
}

/// The root is there, but where no resolver reads it: everybody's updates would be lost.
#[test]
fn the_root_is_not_in_the_last_output() {
    let (mut world, _, mut request) = asked(4);
    request.pending_tx.output.swap(0, 1);
    declines(&mut world, request, "signal-bytes");
}

/// Behind the root that the proofs show stands another one, which resolvers would read.
#[test]
fn another_root_is_appended() {
    let (mut world, _, mut request) = asked(5);
    let mut other = request.pending_tx.output[1].clone();
    other.script_pubkey = ScriptBuf::new_op_return([7; 32]);
    request.pending_tx.output.push(other);
    declines(&mut world, request, "extra-op-return");
}

/// Money is burnt beside the root.
#[test]
fn the_root_carries_money() {
    let (mut world, _, mut request) = asked(6);
    request.pending_tx.output[0].value -= Amount::from_sat(500);
    request.pending_tx.output[1].value = Amount::from_sat(500);
    declines(&mut world, request, "signal-value");
}

/// A lock time keeps the signed transaction back for years, while later sessions must build on it.
#[test]
fn the_transaction_waits_for_years() {
    let (mut world, _, mut request) = asked(7);
    request.pending_tx.lock_time = absolute::LockTime::from_consensus(2_000_000_000);
    declines(&mut world, request, "lock-time");
}

/// A final sequence lets nobody replace a transaction whose fee is too low.
#[test]
fn the_transaction_cannot_be_replaced() {
    let (mut world, _, mut request) = asked(8);
    request.pending_tx.input[0].sequence = Sequence::MAX;
    declines(&mut world, request, "sequence");
}

/// A version that other software treats otherwise.
#[test]
fn the_transaction_is_of_another_version() {
    let (mut world, _, mut request) = asked(9);
    request.pending_tx.version = transaction::Version(3);
    declines(&mut world, request, "version");
}

/// The coordinator adds a coin of its own, to take it back with the members' fee, or to make the transaction malleable.
#[test]
fn a_strangers_coin_is_spent_along() {
    let (mut world, _, mut request) = asked(10);
    let mut spent = request.spent_outputs[0].clone();
    spent.script = stranger_script();
    let previous_output = OutPoint::new(request.pending_tx.compute_txid(), 0);
    let mut input = request.pending_tx.input[0].clone();
    input.previous_output = previous_output;
    request.pending_tx.input.push(input);
    request.spent_outputs.push(spent);
    declines(&mut world, request, "foreign-input");
}

/// A smaller amount than the output has would hide a fee; the member believes its own chain source, not the request.
#[test]
fn the_amount_of_the_spent_output_is_a_lie() {
    let (mut world, _, mut request) = asked(11);
    request.spent_outputs[0].value -= 300;
    declines(&mut world, request, "chain-amount");
}

/// An input that is signed already could be anything but a signal of this cohort.
#[test]
fn the_transaction_is_signed_already() {
    let (mut world, _, mut request) = asked(12);
    request.pending_tx.input[0].witness.push([1; 64]);
    declines(&mut world, request, "not-unsigned");
}

/// The same coin twice: no network takes it, so the round could never end.
#[test]
fn one_output_is_spent_twice() {
    let (mut world, _, mut request) = asked(13);
    let again: TxIn = request.pending_tx.input[0].clone();
    request.pending_tx.input.push(again);
    let spent = request.spent_outputs[0].clone();
    request.spent_outputs.push(spent);
    declines(&mut world, request, "input-count");
}

/// "Replacement" and "close" are words for spends with other rules: nobody signs what it cannot check.
#[test]
fn a_signal_is_called_something_else() {
    let (mut world, _, request) = asked(14);
    let kinds = [
        Kind::Replacement,
        Kind::Close,
        Kind::Other("sweep".to_owned()),
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let mut request = request.clone();
        request.session_id = SessionId(Uuid::from_u128(number as u128));
        request.kind = kind;
        declines(&mut world, request, "unsupported-kind");
    }
    let mut request = request;
    request.replaces = Some(request.pending_tx.compute_txid());
    declines(&mut world, request, "unsupported-kind");
}

/// A tree in which one leaf is not the member's own, with proofs that fit the tree.
fn with_leaf(world: &World, cohort: CohortId, index: Index, value: LeafValue) -> SparseMerkleTree {
    let mut leaves = world.cohort(cohort).round.leaves.clone();
    leaves.insert(index, value);
    SparseMerkleTree::new(leaves).unwrap()
}

fn plant(request: &mut AuthorizationRequest, tree: &SparseMerkleTree) {
    let last = request.pending_tx.output.last_mut().unwrap();
    last.script_pubkey = ScriptBuf::new_op_return(tree.root().0);
    for IndexProof { index, proof } in &mut request.proofs {
        *proof = tree.proof(index);
    }
}

fn own_index(world: &World, cohort: CohortId) -> Index {
    *world.membership(0, cohort).dids.keys().next().unwrap()
}

/// The member's update is not in the tree; the proof honestly shows an empty leaf. The member says once more what its leaf is.
#[test]
fn an_update_is_left_out() {
    let (mut world, cohort, mut request) = asked(15);
    let index = own_index(&world, cohort);
    let mut leaves = world.cohort(cohort).round.leaves.clone();
    leaves.remove(&index);
    plant(&mut request, &SparseMerkleTree::new(leaves).unwrap());
    let said = declined(&mut world, request, "proof-invalid");
    let [Message::RequestSignature(again)] = &said[..] else {
        panic!("got {said:?}, expected its leaf");
    };
    let given = world.cohort(cohort).round.leaves[&index];
    assert_eq!((again.leaves[0].index, again.data), (index, given));
}

/// The coordinator announces an update that is not the controller's: whoever holds an old key of the DID would pay for it.
#[test]
fn an_update_is_replaced() {
    let (mut world, cohort, mut request) = asked(16);
    let index = own_index(&world, cohort);
    let forged = LeafValue::update(&LeafNonce::new([3; 32]), &UpdateId([9; 32]));
    plant(&mut request, &with_leaf(&world, cohort, index, forged));
    declines(&mut world, request, "proof-invalid");
}

/// A member that announced nothing finds an update in its leaf.
#[test]
fn an_unwanted_update_is_added() {
    let (mut world, cohort) = World::formed(2, 17);
    world.request_update(1, cohort, 1);
    let mut request = next_request(&mut world);
    let index = own_index(&world, cohort);
    let forged = LeafValue::update_without_nonce(&UpdateId([9; 32]));
    plant(&mut request, &with_leaf(&world, cohort, index, forged));
    declines(&mut world, request, "proof-invalid");
}

/// The proof of another member's index is no proof of ours.
#[test]
fn somebody_elses_proof_is_shown() {
    let (mut world, cohort, mut request) = asked(18);
    let others = *world.membership(1, cohort).dids.keys().next().unwrap();
    let tree = SparseMerkleTree::new(world.cohort(cohort).round.leaves.clone()).unwrap();
    request.proofs[0] = IndexProof {
        index: others,
        proof: tree.proof(&others),
    };
    declines(&mut world, request.clone(), "proof-missing");
    request.session_id = SessionId(Uuid::from_u128(1));
    request.proofs[0].index = own_index(&world, cohort);
    declines(&mut world, request, "proof-invalid");
}

/// Proof and leaf fit each other, but the transaction carries the root of another tree.
#[test]
fn the_transaction_carries_another_root_than_the_proofs() {
    let (mut world, _, mut request) = asked(19);
    request.pending_tx.output[1].script_pubkey = ScriptBuf::new_op_return([7; 32]);
    declines(&mut world, request, "proof-invalid");
}

/// A request of the last round comes again under a new session id, after the member has moved on.
#[test]
fn a_request_of_an_older_round_comes_again() {
    let (mut world, cohort, request) = asked(20);
    sign(&mut world, &request);
    let opportunity = UpdateOpportunity {
        cohort_id: cohort,
        round: 2,
        deadline: world.now.after(60),
    };
    world.tell(0, &coordinator_id(), opportunity).unwrap();
    world.mail.clear();
    world.refuses(Code::UnknownSession, |world| {
        world.tell(0, &coordinator_id(), request.clone())
    });
    let mut again = request;
    again.session_id = SessionId(Uuid::from_u128(1));
    declines(&mut world, again, "wrong-round");
}

/// The coordinator withholds a signed transaction and asks for the same round with another root: two roots, of which it
/// could publish the one that suits it.
#[test]
fn a_second_root_for_a_round_that_was_signed() {
    let (mut world, cohort, request) = asked(21);
    sign(&mut world, &request);
    let others = *world.membership(1, cohort).dids.keys().next().unwrap();
    let mut second = request;
    second.session_id = SessionId(Uuid::from_u128(1));
    let tree = with_leaf(&world, cohort, others, LeafValue([9; 32]));
    plant(&mut second, &tree);
    declines(&mut world, second, "other-root");
}

/// The coordinator withholds a signed transaction and has the next one spend another deposit: both could be mined, in
/// whichever order it likes.
#[test]
fn a_withheld_transaction_is_passed_over() {
    let (mut world, cohort, request) = asked(22);
    sign(&mut world, &request);
    let script = world
        .cohort(cohort)
        .beacon
        .as_ref()
        .unwrap()
        .script()
        .to_owned();
    let other = world.chain.fund(script, 50_000);
    world.chain.mine();
    world.look_at_chain_from(0);
    let mut second = request;
    second.session_id = SessionId(Uuid::from_u128(1));
    second.pending_tx.input[0].previous_output = other;
    declines(&mut world, second, "live-transaction");
}

/// Has member 0 sign the request, with an aggregated nonce of the coordinator's choice.
fn sign(world: &mut World, request: &AuthorizationRequest) {
    world.tell(0, &coordinator_id(), request.clone()).unwrap();
    world.look_at_chain_from(0);
    let point = secp256k1::Keypair::from_secret_bytes([99; 32]).unwrap();
    let point = point.public_key().to_string();
    let nonce = format!("{point}{point}").parse().unwrap();
    let aggregated_nonce = beacon_cohort::musig::aggregate_nonces(&[nonce]).unwrap();
    let aggregated = beacon_cohort::message::AggregatedNonces {
        session_id: request.session_id,
        cohort_id: request.cohort_id,
        aggregated_nonce,
        aggregated_nonces: vec![aggregated_nonce],
    };
    world.tell(0, &coordinator_id(), aggregated).unwrap();
    let session = world.membership(0, request.cohort_id).session.as_ref();
    let progress = &session.unwrap().progress;
    assert!(matches!(progress, Progress::PartialReleased { .. }));
    world.mail.clear();
}

/// Slander: the coordinator lets a session fall into oblivion under a heap of invented ones and asks for it again. Other
/// nonces for it, signed, would convict the member of equivocation.
#[test]
fn a_session_is_buried_under_invented_ones_and_asked_for_again() {
    let (mut world, cohort_id, request) = asked(23);
    world.tell(0, &coordinator_id(), request.clone()).unwrap();
    world.look_at_chain_from(0);
    let first = answers(&mut world);
    assert!(matches!(&first[..], [Message::NonceContribution(_)]));
    let invented = (0..100).map(|number| SessionId(Uuid::from_u128(number)));
    for session_id in std::iter::once(request.session_id).chain(invented) {
        let aborted = SessionAborted {
            session_id,
            cohort_id,
            code: "timeout".to_owned(),
            next: NextStep::NewSession,
        };
        world.tell(0, &coordinator_id(), aborted).unwrap();
    }
    world.mail.clear();
    world.refuses(Code::UnknownSession, |world| {
        world.tell(0, &coordinator_id(), request)
    });
}

/// A coordinator takes the id of another one's cohort before the participant hears of that, and also the name under which
/// the participant would then know it. The other one's cohort is heard of all the same, and nothing is forgotten for it.
#[test]
fn a_coordinator_takes_the_names_of_anothers_cohorts_in_advance() {
    let mut world = World::new(1, 25);
    world.subscribe(0);
    let rival = PeerId::new("did:example:rival");
    let own = world.peers[0].id.clone();
    let subscribe = Command::Subscribe {
        coordinator: rival.clone(),
        own,
        identity: 1,
        filter: Subscribe::default(),
    };
    world.user(0, subscribe).unwrap();
    world.mail.clear();
    let advert = |cohort_id, max_strikes| {
        let mut terms = Terms::new(BtcNetwork::Mainnet, 2, START.after(60));
        terms.max_strikes = max_strikes;
        let terms = terms.to_value().unwrap();
        CohortAdvert {
            cohort_id,
            btc_network: BtcNetwork::Mainnet,
            cohort_size: 2,
            beacon_type: BeaconType::Smt,
            terms_hash: AgreedTerms::parse(terms.clone()).unwrap().hash(),
            terms,
            succeeds: None,
        }
    };
    let names = |world: &World| -> BTreeSet<CohortId> {
        let state = world.peers[0].node.machine.state();
        state.cohorts.keys().copied().collect()
    };
    // The rival learns the name by trying it out on a participant of its own.
    let id = CohortId(Uuid::from_u128(7));
    let mut trial = World::new(1, 26);
    trial.subscribe(0);
    trial.mail.clear();
    let own = trial.peers[0].id.clone();
    let subscribe = Command::Subscribe {
        coordinator: rival.clone(),
        own,
        identity: 1,
        filter: Subscribe::default(),
    };
    trial.user(0, subscribe).unwrap();
    trial.tell(0, &rival, advert(id, 1)).unwrap();
    trial.tell(0, &coordinator_id(), advert(id, 2)).unwrap();
    let mut known = names(&trial);
    assert!(known.remove(&id) && known.len() == 1, "{known:?}");
    let name = known.pop_first().unwrap();

    world.tell(0, &rival, advert(id, 1)).unwrap();
    world.tell(0, &rival, advert(name, 1)).unwrap();
    let before = names(&world);
    assert_eq!(before.len(), 2);
    world.tell(0, &coordinator_id(), advert(id, 2)).unwrap();
    let after = names(&world);
    assert!(after.is_superset(&before) && after.len() == 3, "{after:?}");
    let state = world.peers[0].node.machine.state();
    let heard: Vec<_> = state
        .cohorts
        .values()
        .map(|cohort| (cohort.coordinator.clone(), cohort.terms.max_strikes))
        .collect();
    assert_eq!(
        heard.iter().filter(|of| **of == (rival.clone(), 1)).count(),
        2
    );
    assert_eq!(
        heard
            .iter()
            .filter(|of| **of == (coordinator_id(), 2))
            .count(),
        1
    );
}

/// A coordinator that is curious gets indexes, blinded leaves and keys: no DID, no update and no leaf nonce is in anything
/// that a participant ever sends.
#[test]
fn a_curious_coordinator_learns_neither_dids_nor_updates() {
    let (mut world, cohort) = World::formed(2, 24);
    world.request_update(0, cohort, 0xA7);
    let mut heard = String::new();
    world.settle_watched(|world, mail| {
        if let Mail::Message { from, message, .. } = mail
            && world.number_of(from).is_some()
        {
            heard += &message.body().unwrap().to_string();
        }
    });
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    assert!(
        heard.contains("partial_signatures"),
        "a whole round was heard"
    );
    let update = serde_json::to_value(UpdateId([0xA7; 32])).unwrap();
    let mut secrets = vec![update.as_str().unwrap().to_owned(), "a7".repeat(32)];
    for number in 0..2 {
        secrets.push(crate::common::did(number));
        for line in &world.peers[number].node.log {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            for leaf in event["leaves"].as_array().into_iter().flatten() {
                secrets.extend(leaf["nonce"].as_str().map(str::to_owned));
            }
        }
    }
    assert_eq!(
        secrets.len(),
        6,
        "two DIDs, two leaf nonces, an update: {secrets:?}"
    );
    for secret in secrets {
        assert!(!heard.contains(&secret), "{secret} was sent");
    }
}

fn stranger_script() -> ScriptBuf {
    let key = secp256k1::Keypair::from_secret_bytes([98; 32]).unwrap();
    let (key, _) = key.x_only_public_key();
    let mut script = vec![0x51, 0x20];
    script.extend(key.to_byte_array());
    ScriptBuf::from_bytes(script)
}
