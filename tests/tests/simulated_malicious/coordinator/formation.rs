//! Cohorts that are formed in another way than was agreed to.

use super::*;

/// Sets the cohort in another way than was agreed, as one member sees it. It says so, is out, and nobody funds the address.
fn refuses_the_set(code: &str, tamper: impl Fn(&mut beacon_cohort::message::CohortSet) + 'static) {
    let mut simulation = new();
    simulation.corrupt(C, move |letter| {
        vec![match letter.message() {
            Some(Message::CohortSet(mut body)) if letter.to == 1 => {
                tamper(&mut body);
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.until("the cohort has failed", |simulation| {
        let cohort = simulation.coordinator();
        cohort.is_some_and(|cohort| matches!(cohort.phase, Phase::Failed(_)))
    }));
    held(simulation.pass(5));
    let Stage::Out(reason, _) = &simulation.member(1).unwrap().stage else {
        panic!("it agreed");
    };
    assert_eq!(reason, code);
    assert_eq!(
        simulation.codes(1, C, "problem-report"),
        ["e.p.cohort-mismatch"]
    );
    for member in 2..=MEMBERS {
        let stage = &simulation.member(member).unwrap().stage;
        assert!(
            matches!(stage, Stage::Out(code, _) if code == "e.p.cohort-failed"),
            "{stage:?}"
        );
        assert_eq!(simulation.member(member).unwrap().candidates.len(), 0);
    }
    held(simulation.check_honest());
}

fn keys(numbers: [u8; MEMBERS]) -> Vec<CohortKey> {
    let secp = bitcoin::secp256k1::Secp256k1::new();
    let mut keys = numbers.map(|number| {
        let secret = bitcoin::secp256k1::SecretKey::from_slice(&[number; 32]).unwrap();
        CohortKey::from_bytes(&secret.public_key(&secp).serialize()).unwrap()
    });
    keys.sort_by_key(|key| key.to_bytes());
    keys.to_vec()
}

/// The coordinator makes an address of its own keys alone and has a member pay into it.
#[test]
fn sets_a_cohort_of_its_own_keys() {
    refuses_the_set("own-key-missing", |body| {
        let beacon = BeaconKey::aggregate(keys([1, 2, 3])).unwrap();
        body.cohort_keys = beacon.keys().to_vec();
        body.beacon_address = beacon.address(bitcoin::Network::Regtest);
    });
}

/// The coordinator names the right keys and its own address.
#[test]
fn names_another_address() {
    refuses_the_set("address-mismatch", |body| {
        let beacon = BeaconKey::aggregate(keys([1, 2, 3])).unwrap();
        body.beacon_address = beacon.address(bitcoin::Network::Regtest);
    });
}

/// The coordinator sets the cohort on other terms than members signed.
#[test]
fn sets_a_cohort_on_other_terms() {
    refuses_the_set("terms-mismatch", |body| body.terms_hash.0[0] ^= 1);
}

/// The coordinator shows one member a set in which the others' keys are its own. The member cannot know, and agrees; but to
/// another cohort than the others, which its acknowledgement says. So the cohort is never set, and never signs.
#[test]
fn shows_one_member_other_members() {
    let mut simulation = new();
    held(simulation.until("the member has its key", |simulation| {
        let member = simulation.member(1);
        member.is_some_and(|member| member.key.is_some())
    }));
    let own = simulation.member(1).unwrap().key.unwrap();
    simulation.corrupt(C, move |letter| {
        vec![match letter.message() {
            Some(Message::CohortSet(mut body)) if letter.to == 1 => {
                let others = keys([1, 2, 3]).into_iter().take(MEMBERS - 1);
                let beacon = BeaconKey::aggregate(others.chain([own])).unwrap();
                body.cohort_keys = beacon.keys().to_vec();
                body.beacon_address = beacon.address(bitcoin::Network::Regtest);
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.until("the cohort is over", |simulation| {
        let cohort = simulation.coordinator().unwrap();
        !matches!(cohort.phase, Phase::Advertised | Phase::Set)
    }));
    assert!(!matches!(
        simulation.coordinator().unwrap().phase,
        Phase::Acknowledged
    ));
    assert_eq!(
        simulation
            .codes(C, 1, "problem-report")
            .first()
            .map(String::as_str),
        Some("e.m.ack-mismatch")
    );
    for member in 1..=MEMBERS {
        assert_eq!(simulation.member(member).unwrap().candidates.len(), 0);
    }
    held(simulation.check_honest());
}

/// The coordinator advertises terms that are not those that it would have signed for.
#[test]
fn advertises_terms_that_contradict_themselves() {
    let mut simulation = new();
    simulation.corrupt(C, |letter| {
        vec![match letter.message() {
            Some(Message::CohortAdvert(mut body)) => {
                body.terms["max_fee_rate_sat_vb"] = 1_000.into();
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.pass(60));
    for member in 1..=MEMBERS {
        assert_eq!(
            simulation.codes(member, C, "problem-report"),
            ["e.m.terms-hash"]
        );
        assert!(simulation.member(member).is_none(), "it never heard of it");
    }
    assert!(simulation.coordinator().unwrap().members.is_empty());
    held(simulation.check_honest());
}
