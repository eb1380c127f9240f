//! A past that is hidden, invented or told wrong, to members whose disk went back to an older copy and who may have forgotten what
//! they signed. They believe signatures and their own chain, sign nothing with what may have been spent, and have their proofs
//! again once somebody tells the truth.

use beacon_cohort::message::{
    RegistrationResult, RoundProof, SignalProgress, SignalRecord, SpentOutput,
};
use bitcoin::Witness;
use bitcoin::transaction::{OutPoint, TxOut};

use super::*;

/// Changes what members hear of earlier rounds; everything else passes.
fn told(
    mut tamper: impl FnMut(&mut RegistrationResult) + 'static,
) -> impl FnMut(Letter) -> Vec<Letter> {
    move |letter| {
        vec![match letter.message() {
            Some(Message::RegistrationResult(mut body)) => {
                tamper(&mut body);
                letter.saying(body)
            }
            _ => letter,
        }]
    }
}

/// The first member's disk goes back to before the first signal, which is in a block, and the coordinator lies about it.
fn forgetful(tamper: impl FnMut(&mut RegistrationResult) + 'static) -> Simulation {
    let mut simulation = formed();
    simulation.back_up(1);
    simulation.want();
    held(simulation.announce());
    simulation.corrupt(C, told(tamper));
    held(simulation.restore(1));
    simulation
}

fn hide(body: &mut RegistrationResult) {
    body.signals.clear();
    for result in &mut body.results {
        result.proofs.clear();
    }
}

/// Once the truth is told, the member has all its proofs again, its user has taken the risk that is left, and the cohort goes on; nothing was signed
/// twice, and whatever is in the chain can be proven by everybody.
fn comes_back(mut simulation: Simulation) {
    simulation.relent(C);
    let cohort = simulation.cohort();
    held(simulation.until("the member is well again", |simulation| {
        let member = simulation.member(1).unwrap();
        let proven = |signed: &Candidate| !signed.proofs.is_empty();
        member.quarantine.is_none()
            && !member.candidates.is_empty()
            && member.candidates.iter().all(proven)
    }));
    held(simulation.tell_coordinator(Command::StartRound { cohort }));
    held(simulation.announce());
    held(simulation.check_honest());
    let report = held(simulation.settle());
    assert!(report.signals >= 2, "{report:?}");
}

/// The coordinator tells nothing of what was signed. The chain does: the member knows that it forgot something. It follows to no
/// round for which it knows no signature of its own, and makes no nonce.
#[test]
fn hides_what_was_signed() {
    let mut simulation = forgetful(hide);
    held(simulation.until("the chain has shown it", |simulation| {
        simulation.member(1).unwrap().quarantine.is_some()
    }));
    let nonces = sent(&simulation, 1, "sign/nonce_contribution");
    simulation.want();
    let cohort = simulation.cohort();
    held(simulation.tell_coordinator(Command::StartRound { cohort }));
    held(simulation.until("it refuses", |simulation| {
        !simulation.codes(1, C, "problem-report").is_empty()
    }));
    assert_eq!(simulation.codes(1, C, "problem-report"), ["e.m.round"]);
    assert_eq!(sent(&simulation, 1, "sign/nonce_contribution"), nonces);
    let member = simulation.member(1).unwrap();
    assert!(member.candidates.is_empty(), "it was told of none");
    assert_eq!(member.unexplained().count(), 1);
    comes_back(simulation);
}

/// The coordinator tells what was signed, with proofs of another tree. The member takes the signal up, since the beacon's signature
/// stands under it, calls nothing proven, and signs nothing with the outputs that are there.
#[test]
fn sends_proofs_of_another_tree() {
    let mut simulation = forgetful(|body| {
        for result in &mut body.results {
            let tree = SparseMerkleTree::new([(result.index, LeafValue([7; 32]))]).unwrap();
            for RoundProof { proof, .. } in &mut result.proofs {
                *proof = tree.proof(&result.index);
            }
        }
    });
    held(simulation.until("it was told", |simulation| {
        !simulation.member(1).unwrap().candidates.is_empty()
    }));
    let member = simulation.member(1).unwrap();
    assert!(member.candidates[0].recovered && member.candidates[0].proofs.is_empty());
    let nonces = sent(&simulation, 1, "sign/nonce_contribution");
    simulation.want();
    let cohort = simulation.cohort();
    held(simulation.tell_coordinator(Command::StartRound { cohort }));
    held(simulation.until("it declines", |simulation| {
        !simulation.codes(1, C, "sign/decline").is_empty()
    }));
    assert_eq!(simulation.codes(1, C, "sign/decline"), ["rolled-back"]);
    assert_eq!(sent(&simulation, 1, "sign/nonce_contribution"), nonces);
    comes_back(simulation);
}

/// The coordinator says after each answer that there is more, for ever: each question costs the member a line in its log.
#[test]
fn has_more_to_tell_without_end() {
    let mut next = 1;
    let mut simulation = forgetful(move |body| {
        next += 1;
        body.next_round = Some(next);
    });
    let asked = sent(&simulation, 1, "keygen/did_registration");
    held(simulation.pass(3_600));
    let questions = sent(&simulation, 1, "keygen/did_registration") - asked;
    assert!(questions < 40, "{questions} questions in an hour");
    simulation.want();
    comes_back(simulation);
}

/// The coordinator invents a signal that the member is said to have forgotten, to keep its outputs from being spent.
#[test]
fn invents_what_was_signed() {
    let mut simulation = formed();
    let beacon = simulation.coordinator().unwrap().beacon.clone().unwrap();
    simulation.corrupt(
        C,
        told(move |body| {
            let output = TxOut {
                value: Amount::from_sat(90_000),
                script_pubkey: beacon.script().to_owned(),
            };
            let mut transaction = bitcoin::Transaction {
                version: bitcoin::transaction::Version::TWO,
                lock_time: bitcoin::absolute::LockTime::ZERO,
                input: vec![bitcoin::TxIn {
                    previous_output: OutPoint::new(Txid::all_zeros(), 0),
                    ..bitcoin::TxIn::default()
                }],
                output: vec![TxOut {
                    value: Amount::ZERO,
                    script_pubkey: signal_with(Root([7; 32])),
                }],
            };
            transaction.input[0].witness = Witness::from_slice(&[[1; 64]]);
            body.signals.push(SignalRecord {
                session_id: beacon_cohort::ids::SessionId(uuid::Uuid::from_u128(1)),
                round: 1,
                status: SignalProgress::Signed,
                transaction,
                spent_outputs: vec![SpentOutput::from(&output)],
                contribution: None,
            });
        }),
    );
    for member in 1..=MEMBERS {
        simulation.restart(member);
    }
    held(simulation.pass(120));
    for member in 1..=MEMBERS {
        assert!(sent(&simulation, member, "keygen/did_registration") > 0);
        let membership = simulation.member(member).unwrap();
        assert!(membership.inquiry.is_none(), "it was answered");
        assert!(membership.candidates.is_empty() && membership.quarantine.is_none());
    }
    simulation.relent(C);
    simulation.want();
    held(simulation.announce());
    held(simulation.check_honest());
}
