//! Members that join or leave as they may not.

use super::*;

/// A member brings a key that it does not hold, to cancel the others' keys.
#[test]
fn proves_no_possession_of_its_key() {
    let mut simulation = new();
    simulation.corrupt(M, |letter| {
        vec![match letter.message() {
            Some(Message::OptIn(mut body)) => {
                body.participant_pk =
                    CohortKey::from_bytes(hex::decode(G).unwrap().as_slice().try_into().unwrap())
                        .unwrap();
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.pass(60));
    assert_eq!(told(&simulation), ["e.m.proof-of-possession"]);
    let cohort = simulation.coordinator().unwrap();
    assert_eq!(cohort.members.len(), MEMBERS - 1);
    assert!(!cohort.members.contains_key(&attacker()));
    assert_eq!(cohort.phase, Phase::Advertised);
    assert!(cohort.beacon.is_none());
    held(simulation.check_honest());
}

/// One holder takes two seats with one key, to have more say than others.
#[test]
fn joins_under_two_names_with_one_key() {
    let mut simulation = new();
    held(simulation.until("the attacker has a key", |simulation| {
        let member = simulation.member(M);
        member.is_some_and(|member| member.path.is_some())
    }));
    let secret = simulation.secret_key(M).unwrap();
    simulation.corrupt(2, move |letter| {
        vec![match letter.message() {
            Some(Message::OptIn(mut body)) => {
                let secp = Secp256k1::new();
                let pair = Keypair::from_seckey_slice(&secp, secret.as_slice()).unwrap();
                body.participant_pk =
                    CohortKey::from_bytes(&pair.public_key().serialize()).unwrap();
                let (did, key) = (PeerId::new("did:example:2"), body.participant_pk);
                let statement = statement::possession(body.cohort_id, &did, &key, &body.terms_hash);
                body.proof_of_possession = sign(&secret, &statement);
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.pass(60));
    let refused = [1, 2].map(|member| simulation.codes(C, member, "problem-report"));
    assert_eq!(refused.concat(), ["e.m.key-taken"]);
    let members = &simulation.coordinator().unwrap().members;
    assert_eq!(members.len(), MEMBERS - 1, "one seat for both names");
}

/// A member opts in a second time with another key, to have the first one's place and its own.
#[test]
fn opts_in_twice_with_different_keys() {
    let mut simulation = new();
    let secret = [9; 32];
    simulation.corrupt(M, move |letter| match letter.message() {
        Some(Message::OptIn(mut body)) => {
            let secp = Secp256k1::new();
            let pair = Keypair::from_seckey_slice(&secp, &secret).unwrap();
            body.participant_pk = CohortKey::from_bytes(&pair.public_key().serialize()).unwrap();
            let statement = statement::possession(
                body.cohort_id,
                &attacker(),
                &body.participant_pk,
                &body.terms_hash,
            );
            body.proof_of_possession = sign(&secret, &statement);
            vec![letter.clone(), letter.as_new(1).saying(body)]
        }
        _ => vec![letter],
    });
    held(simulation.until("the second one is refused", |simulation| {
        told(simulation) == ["e.m.conflict"]
    }));
    let own = simulation.member(M).unwrap().key.unwrap();
    let members = &simulation.coordinator().unwrap().members;
    assert_eq!(members[&attacker()].key, own, "the first one counts");
    assert!(members.len() <= MEMBERS);
    held(simulation.check_honest());
}

/// A member leaves once the address is funded, to lock the others' money or to make them start anew.
#[test]
fn leaves_a_set_cohort() {
    let mut simulation = formed();
    let leave = OptOut {
        cohort_id: simulation.cohort(),
    };
    held(simulation.send(M, C, &Message::OptOut(leave)));
    held(simulation.pass(5));
    assert_eq!(told(&simulation), ["e.m.cohort-set"]);
    assert_eq!(simulation.coordinator().unwrap().phase, Phase::Acknowledged);
    simulation.want();
    held(simulation.announce());
    held(simulation.check_honest());
}
