//! Members that disturb rounds.

use super::*;

/// A member changes its leaf after it gave one, to have two proofs for one round.
#[test]
fn changes_a_leaf() {
    let mut simulation = formed();
    simulation.want();
    held(simulation.until("the attacker's leaf", |simulation| {
        let member = simulation.member(M).unwrap();
        let index = member.dids.keys().next().unwrap();
        let round = &simulation.coordinator().unwrap().round;
        round.leaves.contains_key(index)
    }));
    let index = *simulation.member(M).unwrap().dids.keys().next().unwrap();
    let value = LeafValue([7; 32]);
    let other = RequestSignature {
        cohort_id: simulation.cohort(),
        data: value,
        round: 1,
        leaves: vec![Leaf::blinded(index, value)],
    };
    held(simulation.send(M, C, &Message::RequestSignature(other)));
    held(simulation.announce());
    assert_eq!(told(&simulation), ["e.m.conflict"]);
    held(simulation.check_honest());
}

/// A member answers for an index that is another member's, to choose what that one announces.
#[test]
fn claims_anothers_index() {
    let mut simulation = formed();
    let index = *simulation.member(2).unwrap().dids.keys().next().unwrap();
    let value = LeafValue([7; 32]);
    let claim = serde_json::json!({ "cohort_id": simulation.cohort(), "indexes": [index] });
    let claim: DidRegistration = serde_json::from_value(claim).unwrap();
    held(simulation.send(M, C, &Message::DidRegistration(claim)));
    let leaf = RequestSignature {
        cohort_id: simulation.cohort(),
        data: value,
        round: 1,
        leaves: vec![Leaf::blinded(index, value)],
    };
    held(simulation.send(M, C, &Message::RequestSignature(leaf)));
    held(simulation.pass(5));
    let mut letters = simulation.letters().iter();
    let answer =
        letters.find(|letter| letter.to == M && letter.kind() == "keygen/registration_result");
    let result = &answer.unwrap().body["results"][0];
    assert_eq!(
        (&result["accepted"], &result["code"]),
        (&false.into(), &"index-taken".into())
    );
    assert_eq!(told(&simulation), ["e.m.unknown-index"]);
    assert!(simulation.coordinator().unwrap().round.leaves.is_empty());
    simulation.want();
    held(simulation.announce());
    held(simulation.check_honest());
}

/// A member plays the coordinator to another member.
#[test]
fn plays_the_coordinator() {
    let (mut simulation, _) = asked();
    let mut letters = simulation.letters().iter();
    let request =
        letters.find(|letter| letter.to == 2 && letter.kind() == "sign/authorization_request");
    let request = request.unwrap().message().unwrap();
    held(simulation.send(M, 2, &request));
    held(simulation.announce());
    assert_eq!(
        simulation.codes(2, M, "problem-report"),
        ["e.m.not-subscribed"]
    );
    let to_the_attacker = simulation
        .letters()
        .iter()
        .filter(|letter| letter.from() == 2 && letter.to == M && letter.kind() != "problem-report");
    assert_eq!(to_the_attacker.count(), 0, "it learned nothing");
    held(simulation.check_honest());
}

/// A member floods the coordinator with the same contribution under a thousand ids, and with a thousand opt-ins. The log does
/// not grow with it, and the others' round is not held up.
#[test]
fn floods_the_coordinator() {
    let (mut simulation, _) = asked();
    let before = held(simulation.coordinator_log()).len();
    simulation.corrupt(M, |letter| {
        if letter.kind() != "sign/nonce_contribution" {
            return vec![letter];
        }
        let copies = (1..=1_000).map(|number| letter.clone().as_new(number));
        std::iter::once(letter.clone()).chain(copies).collect()
    });
    held(simulation.announce());
    let events = held(simulation.coordinator_log()).len() - before;
    assert!(events < 40, "{events} events for one round");
    assert!(abandoned(&simulation).is_empty());
    held(simulation.check_honest());
}

/// A member declines every session with a reason that is not true. Others sign nothing; the operator is told who.
#[test]
fn declines_without_a_reason() {
    let mut simulation = formed();
    simulation.corrupt(M, declines("fee-too-high"));
    simulation.want();
    wait_for_the_end(&mut simulation);
    assert_eq!(
        abandoned(&simulation),
        [("fee-too-high".to_owned(), Some(attacker()))]
    );
    let stage = &simulation.coordinator().unwrap().round.stage;
    assert!(matches!(stage, Stage::Stopped { reason } if reason.starts_with("fee-too-high")));
    for member in 2..=MEMBERS {
        assert!(simulation.member(member).unwrap().candidates.is_empty());
    }
    lives_on(simulation, M);
}
