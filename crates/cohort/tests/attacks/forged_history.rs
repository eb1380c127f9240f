//! A coordinator that invents a past, to put the members' money into quarantine or to fill their disks.

use beacon_cohort::ids::CohortId;
use beacon_cohort::message::{Message, RegistrationResult};
use bitcoin::{Amount, ScriptBuf};

use crate::common::{Mail, World, coordinator_id};
use crate::past::{ask, buried};

/// A cohort whose first signal is buried, and what the coordinator truly tells member 0 of it.
fn history(seed: u64) -> (World, CohortId, RegistrationResult) {
    let (mut world, cohort) = buried(seed);
    let member = world.peers[0].id.clone();
    let told = ask(&mut world, &member, cohort, 0, 1);
    assert_eq!(told.signals.len(), 1);
    (world, cohort, told)
}

/// Tells member 0, and says what it recorded.
fn recorded(world: &mut World, told: &RegistrationResult) -> Vec<String> {
    let before = world.peers[0].node.log.len();
    world.tell(0, &coordinator_id(), told.clone()).unwrap();
    let lines = world.peers[0].node.log[before..].iter();
    let name = |line: &String| -> Option<String> {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(event["event"].as_str()?.to_owned())
    };
    lines.filter_map(name).collect()
}

/// What is true and known changes nothing, however often it is told.
#[test]
fn the_truth_is_told_without_being_asked_for() {
    let (mut world, _, told) = history(1);
    for _ in 0..3 {
        assert_eq!(recorded(&mut world, &told), [""; 0]);
    }
}

/// A transaction that was never signed is said to be forgotten: other outputs under the old signature, another amount under
/// it, another signature, or none.
#[test]
fn a_transaction_that_nobody_signed_is_called_forgotten() {
    let (mut world, _, told) = history(2);
    let forgeries: [fn(&mut RegistrationResult); 5] = [
        |told| told.signals[0].transaction.output[0].value -= Amount::from_sat(1),
        |told| {
            told.signals[0].transaction.output[0].value -= Amount::from_sat(1);
            told.signals[0].spent_outputs[0].value -= 1;
        },
        |told| {
            let tx = &mut told.signals[0].transaction;
            tx.output[1].script_pubkey = ScriptBuf::new_op_return([7; 32]);
            tx.input[0].witness = bitcoin::Witness::from_slice(&[[1; 64]]);
        },
        |told| {
            let tx = &mut told.signals[0].transaction;
            tx.input[0].previous_output.vout += 1;
            tx.input[0].witness.clear();
        },
        |told| told.signals[0].transaction.input.clear(),
    ];
    for forge in forgeries {
        let mut told = told.clone();
        forge(&mut told);
        assert_eq!(recorded(&mut world, &told), [""; 0]);
    }
}

/// A signature does not commit to what stands in the script of its input: with something there the transaction has another
/// id, and could pass for another one that was forgotten. No network takes it.
#[test]
fn a_signed_transaction_is_disguised_by_its_input_script() {
    let (mut world, _, mut told) = history(3);
    let input = &mut told.signals[0].transaction.input[0];
    input.script_sig = ScriptBuf::from_bytes(vec![0x51]);
    assert_eq!(recorded(&mut world, &told), [""; 0]);
}

/// What another member signed, or what this one signed of another transaction, is said to be a contribution that it forgot.
#[test]
fn a_contribution_is_shown_beside_another_transaction() {
    let (mut world, cohort) = World::formed(2, 4);
    world.request_update(0, cohort, 1);
    let partials = world.settle_until(|message| message.kind() == "sign/signature_authorization");
    let session = world.cohort(cohort).session.clone().unwrap();
    let member = world.peers[0].id.clone();
    for mail in partials {
        let Mail::Message {
            from,
            message: Message::SignatureAuthorization(body),
            ..
        } = mail
        else {
            panic!("only partial signatures are wanted");
        };
        let mut told = ask(&mut world, &member, cohort, 0, 1);
        let record = &mut told.signals[0];
        record.session_id = body.session_id;
        record.contribution = Some(beacon_cohort::evidence::SignedPartials {
            aggregated_nonces: session.aggregated.clone().unwrap(),
            partial_signatures: body.partial_signatures,
            signature: body.signature,
        });
        record.transaction.output[0].value -= Amount::from_sat(1);
        assert_eq!(recorded(&mut world, &told), [""; 0], "of {from}");
    }
}

/// Every answer says that there is more. Each question is written to the log, so there must be an end to them.
#[test]
fn the_past_has_no_end() {
    let (mut world, _, mut told) = history(5);
    told.signals.clear();
    for result in &mut told.results {
        result.proofs.clear();
    }
    world.restart(0); // It asks what it may have forgotten.
    let before = world.peers[0].node.log.len();
    for round in 3..500 {
        told.next_round = Some(round);
        world.tell(0, &coordinator_id(), told.clone()).unwrap();
        world.mail.clear();
    }
    let written = world.peers[0].node.log.len() - before;
    assert!(written < 10, "{written} events were written");
}
