//! A coordinator that registers a late DID and lies about the signals before it: with a wrong proof, the DID would stop
//! resolving on the day it gets the beacon.

use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Code;
use beacon_cohort::message::{Message, RegistrationResult};
use beacon_cohort::participant::Command;
use beacon_signal::{Index, LeafValue, SparseMerkleTree};

use crate::common::{Mail, World, coordinator_id};
use crate::past::buried;

const LATE: &str = "did:example:late";

/// Member 0 registers a DID after a signal; what the coordinator truly answers.
fn registering(seed: u64) -> (World, CohortId, RegistrationResult) {
    let (mut world, cohort) = buried(seed);
    let dids = vec![LATE.to_owned()];
    world
        .user(
            0,
            Command::Join {
                cohort,
                dids,
                accept_script_tree: false,
            },
        )
        .unwrap();
    let mut answers =
        world.settle_until(|message| matches!(message, Message::RegistrationResult(_)));
    match answers.remove(0) {
        Mail::Message {
            message: Message::RegistrationResult(told),
            ..
        } => (world, cohort, told),
        other => panic!("{other:?}"),
    }
}

/// The proof of the late DID in the first signal.
fn late(told: &mut RegistrationResult) -> &mut Vec<beacon_cohort::message::RoundProof> {
    let of_late =
        |result: &&mut beacon_cohort::message::IndexResult| result.index == Index::of_did(LATE);
    &mut told.results.iter_mut().find(of_late).unwrap().proofs
}

/// No proof, that of another index, one that leads elsewhere, or one of a tree in which somebody gave the DID an update: none
/// of it is kept, the coordinator is told, and the true proof is taken when it comes.
#[test]
fn a_false_proof_of_an_earlier_signal_is_not_kept() {
    let lies: [fn(&mut RegistrationResult); 5] = [
        |told| late(told).clear(),
        |told| {
            let other = told
                .results
                .iter()
                .find(|result| result.index != Index::of_did(LATE));
            let other = other.unwrap().proofs.clone();
            *late(told) = other;
        },
        |told| late(told)[0].proof.hashes[0].0[0] ^= 1,
        |told| {
            let leaves = [(Index::of_did(LATE), LeafValue([7; 32]))];
            let root = late(told)[0].proof.id;
            late(told)[0].proof = SparseMerkleTree::new(leaves)
                .unwrap()
                .proof(&Index::of_did(LATE));
            late(told)[0].proof.id = root;
        },
        |told| late(told)[0].session_id.0 = uuid::Uuid::from_u128(1),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let (mut world, cohort, told) = registering(50 + number as u64);
        let mut false_told = told.clone();
        lie(&mut false_told);
        world.tell(0, &coordinator_id(), false_told).unwrap();
        let membership = world.membership(0, cohort);
        let candidate = &membership.candidates[0];
        assert!(!candidate.is_proven(&Index::of_did(LATE)), "lie {number}");
        assert!(candidate.unproven.is_empty(), "lie {number}");
        let report = |mail: &Mail| matches!(mail, Mail::Problem { rejection, .. } if rejection.code == Code::Proof);
        assert_eq!(
            world.mail.iter().filter(|mail| report(mail)).count(),
            1,
            "lie {number}"
        );
        world.tell(0, &coordinator_id(), told).unwrap();
        let candidate = &world.membership(0, cohort).candidates[0];
        assert!(candidate.is_proven(&Index::of_did(LATE)), "lie {number}");
        world.assert_replay_equals_memory();
    }
}

/// The signal is left out of the answer. It is asked for by name, once; the member then waits for its user.
#[test]
fn an_earlier_signal_is_concealed() {
    let (mut world, cohort, mut told) = registering(60);
    told.signals.clear();
    told.next_round = None;
    world.mail.clear();
    world.tell(0, &coordinator_id(), told.clone()).unwrap();
    assert_eq!(world.membership(0, cohort).inquiry.unwrap().from_round, 1);
    let lines = world.peers[0].node.log.len();
    for _ in 0..50 {
        world.tell(0, &coordinator_id(), told.clone()).unwrap();
    }
    assert_eq!(world.membership(0, cohort).inquiry, None);
    assert!(world.peers[0].node.log.len() <= lines + 1);
    assert!(!world.membership(0, cohort).candidates[0].is_proven(&Index::of_did(LATE)));
}

/// It says "not now" again and again, to have the member write a question to its log each time.
#[test]
fn a_registration_is_put_off_for_ever() {
    let (mut world, cohort, mut told) = registering(61);
    told.signals.clear();
    for result in &mut told.results {
        result.accepted = false;
        result.code = Some("round-open".to_owned());
        result.proofs.clear();
    }
    let lines = world.peers[0].node.log.len();
    for _ in 0..500 {
        world.tell(0, &coordinator_id(), told.clone()).unwrap();
        world.mail.clear();
    }
    for _ in 0..100 {
        world.pass(3_600);
        world.mail.clear();
        world.tell(0, &coordinator_id(), told.clone()).unwrap();
    }
    assert!(world.peers[0].node.log.len() < lines + 20);
    assert_eq!(world.membership(0, cohort).registering().count(), 1);
}
