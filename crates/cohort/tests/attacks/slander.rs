//! A coordinator that makes up evidence against an honest member. It has everything that the member ever signed, and may
//! write any file: none of them proves anything.

use beacon_cohort::evidence::{
    Contribution, Evidence, EvidenceError, EvidenceType, Misdeed, SignedNonces, SignedPartials,
};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::message::{Message, SignatureAuthorization};
use beacon_cohort::musig::aggregate_nonces;
use beacon_cohort::values::{NonceBytes, PublicNonce};

use crate::common::{Mail, World};

/// What a coordinator holds after an honest session.
struct Files {
    world: World,
    /// A file that is right in everything, but that nothing is wrong with what was signed.
    honest: Evidence,
    nonces: SignedNonces,
    partials: SignedPartials,
    /// The other member.
    other: PeerId,
    other_nonces: SignedNonces,
}

fn files(seed: u64) -> Files {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    let mut given = Vec::new();
    while given.len() < 2 {
        let wanted = |message: &Message| matches!(message, Message::SignatureAuthorization(_));
        for mail in world.settle_until(wanted) {
            if let Mail::Message {
                from,
                message: Message::SignatureAuthorization(body),
                ..
            } = mail
            {
                given.push((from, body));
            }
        }
    }
    let [(culprit, body), (other, _)] = &given[..] else {
        panic!("two members");
    };
    let (culprit, other, body) = (culprit.clone(), other.clone(), body.clone());
    let nonces = nonces_of(&world, cohort, &culprit);
    let other_nonces = nonces_of(&world, cohort, &other);
    let partials = partials_of(&world, cohort, &body);
    let honest = file(&world, cohort, &culprit, &nonces, &partials);
    Files {
        world,
        honest,
        nonces,
        partials,
        other,
        other_nonces,
    }
}

fn nonces_of(world: &World, cohort: CohortId, member: &PeerId) -> SignedNonces {
    let session = world.cohort(cohort).session.as_ref().unwrap();
    let given = &session.nonces[member];
    SignedNonces {
        nonce_contributions: given.nonces.iter().map(|nonce| (*nonce).into()).collect(),
        signature: given.signature,
    }
}

fn partials_of(world: &World, cohort: CohortId, body: &SignatureAuthorization) -> SignedPartials {
    let session = world.cohort(cohort).session.as_ref().unwrap();
    SignedPartials {
        aggregated_nonces: session.aggregated.clone().unwrap(),
        partial_signatures: body.partial_signatures.clone(),
        signature: body.signature,
    }
}

fn file(
    world: &World,
    id: CohortId,
    culprit: &PeerId,
    nonces: &SignedNonces,
    partials: &SignedPartials,
) -> Evidence {
    let cohort = world.cohort(id);
    let (beacon, session) = (
        cohort.beacon.as_ref().unwrap(),
        cohort.session.as_ref().unwrap(),
    );
    let member = &cohort.members[culprit];
    Evidence {
        file: EvidenceType::V1,
        cohort_id: id,
        terms: cohort.terms.clone(),
        cohort_keys: beacon.keys().to_vec(),
        beacon_address: beacon.address(bitcoin::Network::Regtest),
        culprit_key: member.key,
        culprit_did: culprit.clone(),
        proof_of_possession: member.proof,
        session_id: session.id,
        transaction: session.tx.clone(),
        spent_outputs: session.spent.clone(),
        misdeed: Misdeed::BadPartialSignature {
            nonces: nonces.clone(),
            partials: partials.clone(),
        },
    }
}

#[track_caller]
fn fails(evidence: &Evidence, expected: &EvidenceError) {
    assert_eq!(evidence.verify().as_ref().unwrap_err(), expected);
    // Nor does the file that somebody else reads.
    let read: Evidence = serde_json::from_str(&serde_json::to_string(evidence).unwrap()).unwrap();
    assert_eq!(read.verify().as_ref().unwrap_err(), expected);
}

const NOT_NONCES: EvidenceError = EvidenceError::Signature("nonces");
const NOT_PARTIALS: EvidenceError = EvidenceError::Signature("partial signatures");

/// Everything as it was, called a crime.
#[test]
fn an_honest_session_is_called_a_crime() {
    let files = files(1);
    let innocent = EvidenceError::Innocent("every partial signature verifies");
    fails(&files.honest, &innocent);
    let nonces = files.nonces;
    let misdeed = Misdeed::BadNonce { nonces };
    let innocent = EvidenceError::Innocent("every nonce is a pair of points");
    fails(
        &Evidence {
            misdeed,
            ..files.honest
        },
        &innocent,
    );
}

/// The classic slander: an honest partial signature, shown beside other aggregated nonces than it was made for, does not
/// verify. The member signed for which it was made.
#[test]
fn an_honest_partial_signature_is_shown_beside_other_aggregated_nonces() {
    let files = files(2);
    let own: Result<Vec<PublicNonce>, _> = files
        .nonces
        .nonce_contributions
        .iter()
        .map(NonceBytes::points)
        .collect();
    let alone = aggregate_nonces(&own.unwrap()).unwrap();
    let partials = SignedPartials {
        aggregated_nonces: vec![alone],
        ..files.partials
    };
    let nonces = files.nonces;
    let misdeed = Misdeed::BadPartialSignature { nonces, partials };
    fails(
        &Evidence {
            misdeed,
            ..files.honest
        },
        &NOT_PARTIALS,
    );
}

/// The member's partial signature, shown beside the other member's nonces, which it never gave.
#[test]
fn an_honest_partial_signature_is_shown_beside_anothers_nonces() {
    let files = files(3);
    let misdeed = Misdeed::BadPartialSignature {
        nonces: files.other_nonces,
        partials: files.partials,
    };
    fails(
        &Evidence {
            misdeed,
            ..files.honest
        },
        &NOT_NONCES,
    );
}

/// A partial signature with a flipped bit, as a bad line could have brought it: the member did not sign that.
#[test]
fn a_partial_signature_is_damaged_on_purpose() {
    let mut files = files(4);
    files.partials.partial_signatures[0].0[31] ^= 1;
    let misdeed = Misdeed::BadPartialSignature {
        nonces: files.nonces,
        partials: files.partials,
    };
    fails(
        &Evidence {
            misdeed,
            ..files.honest
        },
        &NOT_PARTIALS,
    );
}

/// Nonces of two honest members, as if one of them had said both.
#[test]
fn two_members_nonces_are_called_one_members_equivocation() {
    let files = files(5);
    let misdeed = Misdeed::Equivocation {
        first: Contribution::Nonces(files.nonces),
        second: Contribution::Nonces(files.other_nonces),
    };
    fails(
        &Evidence {
            misdeed,
            ..files.honest
        },
        &NOT_NONCES,
    );
}

/// Nonces that the member gave in two sessions, as if they had been for one.
#[test]
fn the_nonces_of_two_sessions_are_called_an_equivocation() {
    let mut files = files(6);
    let (id, first) = (files.honest.cohort_id, files.nonces.clone());
    files.world.mail.clear();
    let wait = files.honest.terms.phase_deadline_s(2);
    files.world.pass(wait);
    files.world.mail.clear();
    files.world.pass(3_600);
    let mut second = None;
    while second.is_none() {
        let wanted = |message: &Message| matches!(message, Message::NonceContribution(_));
        for mail in files.world.settle_until(wanted) {
            if let Mail::Message {
                from,
                message: Message::NonceContribution(body),
                ..
            } = mail
                && from == files.honest.culprit_did
            {
                assert_ne!(body.session_id, files.honest.session_id);
                assert_eq!(body.cohort_id, id);
                second = Some(SignedNonces {
                    nonce_contributions: body.nonce_contributions,
                    signature: body.signature,
                });
            }
        }
    }
    let misdeed = Misdeed::Equivocation {
        first: Contribution::Nonces(first),
        second: Contribution::Nonces(second.unwrap()),
    };
    fails(
        &Evidence {
            misdeed,
            ..files.honest
        },
        &NOT_NONCES,
    );
}

/// One contribution, shown twice; and a nonce beside a partial signature, which are both due.
#[test]
fn one_contribution_is_shown_twice() {
    let files = files(7);
    let misdeed = Misdeed::Equivocation {
        first: Contribution::Nonces(files.nonces.clone()),
        second: Contribution::Nonces(files.nonces.clone()),
    };
    let twice = Evidence {
        misdeed,
        ..files.honest.clone()
    };
    fails(&twice, &EvidenceError::Innocent("the two are the same"));
    let misdeed = Misdeed::Equivocation {
        first: Contribution::Nonces(files.nonces),
        second: Contribution::Partials(files.partials),
    };
    let mixed = Evidence {
        misdeed,
        ..files.honest
    };
    let innocent = EvidenceError::Innocent("nonces and partial signatures are both due");
    fails(&mixed, &innocent);
}

/// What one member signed is laid at another one's door.
#[test]
fn another_member_is_accused_of_what_was_signed() {
    let files = files(8);
    let other = files.world.cohort(files.honest.cohort_id).members[&files.other].clone();
    let mut accused = Evidence {
        culprit_key: other.key,
        ..files.honest.clone()
    };
    fails(&accused, &EvidenceError::ProofOfPossession);
    accused.culprit_did = files.other.clone();
    accused.proof_of_possession = other.proof;
    fails(&accused, &NOT_NONCES);
    // And under the name of somebody who was never there.
    let named = Evidence {
        culprit_did: PeerId::new("did:example:nobody"),
        ..files.honest
    };
    fails(&named, &EvidenceError::ProofOfPossession);
}

/// What was signed for one transaction is shown with another: other outputs, another amount, another session.
#[test]
fn what_was_signed_is_shown_with_another_transaction() {
    let files = files(9);
    let mut other = files.honest.clone();
    other.transaction.output[0].value -= bitcoin::Amount::from_sat(1);
    fails(&other, &NOT_NONCES);
    let mut other = files.honest.clone();
    other.spent_outputs[0].value -= 1;
    fails(&other, &NOT_NONCES);
    let mut other = files.honest.clone();
    other.session_id = beacon_cohort::ids::SessionId(uuid::Uuid::from_u128(1));
    fails(&other, &NOT_NONCES);
    let mut other = files.honest.clone();
    other.spent_outputs[0].script = bitcoin::ScriptBuf::new();
    fails(&other, &EvidenceError::ForeignInput(0));
}

/// A cohort that never was: keys that the coordinator holds itself stand around the accused one.
#[test]
fn an_invented_cohort_surrounds_the_accused_key() {
    let files = files(10);
    let own = secp256k1::Keypair::from_secret_bytes([99; 32]).unwrap();
    let mut keys = vec![files.honest.culprit_key, own.public_key().into()];
    keys.sort_unstable();
    let beacon = beacon_cohort::musig::BeaconKey::aggregate(keys.clone()).unwrap();
    let mut invented = Evidence {
        cohort_keys: keys,
        ..files.honest.clone()
    };
    let expected = EvidenceError::Address {
        got: files.honest.beacon_address.clone(),
        expected: beacon.address(bitcoin::Network::Regtest),
    };
    fails(&invented, &expected);
    invented.beacon_address = beacon.address(bitcoin::Network::Regtest);
    fails(&invented, &EvidenceError::ForeignInput(0));
    for output in &mut invented.spent_outputs {
        output.script = beacon.script().to_owned();
    }
    fails(&invented, &NOT_NONCES);
    let mut unsorted = files.honest.clone();
    unsorted.cohort_keys.reverse();
    fails(&unsorted, &EvidenceError::KeyOrder);
    let mut without = files.honest;
    without.culprit_key = own.public_key().into();
    let expected = EvidenceError::NotAMember(without.culprit_key);
    fails(&without, &expected);
}
