//! Evidence files: each kind convicts by itself, and none does when anything in it is another.

use beacon_cohort::coordinator::Stage;
use beacon_cohort::evidence::{Evidence, EvidenceError, Misdeed};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Code;
use beacon_cohort::message::{Message, NonceContribution, SignatureAuthorization};
use beacon_cohort::statement;
use beacon_cohort::values::{NonceBytes, PartialBytes};
use serde_json::{Value, json};

use crate::common::{Mail, World};

/// The message of this kind of member 1, not delivered; all others' are.
fn own(world: &mut World, kind: &str) -> Message {
    let culprit = world.peers[1].id.clone();
    loop {
        let mut own = None;
        for mail in world.settle_until(|message| message.kind() == kind) {
            match mail {
                Mail::Message { from, message, .. } if from == culprit => own = Some(message),
                other => world.deliver(other),
            }
        }
        if let Some(own) = own {
            return own;
        }
    }
}

fn nonces(world: &mut World) -> NonceContribution {
    match own(world, "sign/nonce_contribution") {
        Message::NonceContribution(body) => body,
        other => panic!("{other:?}"),
    }
}

fn partials(world: &mut World) -> SignatureAuthorization {
    match own(world, "sign/signature_authorization") {
        Message::SignatureAuthorization(body) => body,
        other => panic!("{other:?}"),
    }
}

/// The same nonces with these bytes, signed by the member.
fn other_nonces(
    world: &World,
    cohort: CohortId,
    honest: &NonceContribution,
    bytes: [u8; 66],
) -> NonceContribution {
    let session = world.cohort(cohort).session.as_ref().unwrap();
    let nonce_contributions = vec![NonceBytes(bytes)];
    let said = statement::nonces(session.id, &session.sighashes, &nonce_contributions);
    NonceContribution {
        nonce_contribution: nonce_contributions[0],
        nonce_contributions,
        signature: world.sign_as(1, cohort, &said),
        ..honest.clone()
    }
}

fn other_partials(
    world: &World,
    cohort: CohortId,
    honest: &SignatureAuthorization,
    bytes: [u8; 32],
) -> SignatureAuthorization {
    let session = world.cohort(cohort).session.as_ref().unwrap();
    let partial_signatures = vec![PartialBytes(bytes)];
    let aggregated = session.aggregated.as_ref().unwrap();
    let said = statement::partials(
        session.id,
        &session.sighashes,
        aggregated,
        &partial_signatures,
    );
    SignatureAuthorization {
        partial_signature: partial_signatures[0],
        partial_signatures,
        signature: world.sign_as(1, cohort, &said),
        ..honest.clone()
    }
}

fn signing(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed(3, seed);
    world.request_update(0, cohort, 1);
    (world, cohort)
}

/// Has member 1 do it; gives what the coordinator then holds against it.
fn bad_nonce(seed: u64) -> (World, CohortId, Evidence) {
    let (mut world, cohort) = signing(seed);
    let honest = nonces(&mut world);
    let bad = other_nonces(&world, cohort, &honest, [0xff; 66]);
    tell(&mut world, cohort, bad)
}

fn bad_partial(seed: u64, bytes: [u8; 32]) -> (World, CohortId, Evidence) {
    let (mut world, cohort) = signing(seed);
    let honest = partials(&mut world);
    let bad = other_partials(&world, cohort, &honest, bytes);
    tell(&mut world, cohort, bad)
}

fn two_nonces(seed: u64) -> (World, CohortId, Evidence) {
    let (mut world, cohort) = signing(seed);
    let honest = nonces(&mut world);
    let other = other_nonces(&world, cohort, &honest, [0xff; 66]);
    let from = world.peers[1].id.clone();
    world.tell_coordinator(&from, honest).unwrap();
    tell(&mut world, cohort, other)
}

fn two_partials(seed: u64) -> (World, CohortId, Evidence) {
    let (mut world, cohort) = signing(seed);
    let from = world.peers[1].id.clone();
    let honest = partials(&mut world);
    let other = other_partials(&world, cohort, &honest, [1; 32]);
    let last = world.peers[2].id.clone(); // The session stays open for one that is missing.
    world
        .mail
        .retain(|mail| !matches!(mail, Mail::Message { from, .. } if *from == last));
    if world
        .cohort(cohort)
        .session
        .as_ref()
        .unwrap()
        .partials
        .contains_key(&last)
    {
        panic!("the last member's partial signature is already there");
    }
    world.tell_coordinator(&from, honest).unwrap();
    tell(&mut world, cohort, other)
}

fn tell(
    world: &mut World,
    cohort: CohortId,
    message: impl Into<Message>,
) -> (World, CohortId, Evidence) {
    let from = world.peers[1].id.clone();
    world.tell_coordinator(&from, message).unwrap();
    let state = world.cohort(cohort);
    let strike = state.strikes.last().expect("a strike");
    assert_eq!(strike.peer, from);
    let evidence = strike.evidence.as_deref().expect("evidence").clone();
    let world = std::mem::replace(world, World::new(0, 0));
    (world, cohort, evidence)
}

fn all() -> Vec<(&'static str, Evidence)> {
    vec![
        ("bad-nonce", bad_nonce(1).2),
        ("bad-partial-signature", bad_partial(2, [1; 32]).2),
        ("bad-partial-signature", bad_partial(3, [0xff; 32]).2),
        ("equivocation", two_nonces(4).2),
        ("equivocation", two_partials(5).2),
    ]
}

/// Written, read and verified by somebody who has nothing but the file.
#[test]
fn every_kind_of_evidence_convicts_by_itself() {
    for (kind, evidence) in all() {
        let file = serde_json::to_string_pretty(&evidence).unwrap();
        let value: Value = serde_json::from_str(&file).unwrap();
        assert_eq!(
            (&value["type"], &value["kind"]),
            (&json!("beacon-cohort/evidence/1"), &json!(kind))
        );
        let read: Evidence = serde_json::from_str(&file).unwrap();
        assert_eq!((&read, read.misdeed.kind()), (&evidence, kind));
        let proven = read.verify().unwrap();
        assert_eq!(proven.key, evidence.culprit_key);
        let sentence = proven.to_string();
        assert!(
            sentence.contains(&evidence.culprit_key.to_string()),
            "{sentence}"
        );
        assert!(sentence.contains("is not proven"), "{sentence}");
    }
}

/// Everything in the file, changed in every way that its form allows, one at a time: nothing is proven any more.
#[test]
fn evidence_with_anything_altered_proves_nothing() {
    for (kind, evidence) in all() {
        let whole = serde_json::to_value(&evidence).unwrap();
        let mut altered = 0;
        for pointer in leaves(&whole, String::new()) {
            let mut value = whole.clone();
            let leaf = value.pointer_mut(&pointer).unwrap();
            *leaf = another(leaf);
            let still = serde_json::from_value::<Evidence>(value).map(|evidence| evidence.verify());
            assert!(!matches!(still, Ok(Ok(_))), "{kind}: {pointer}");
            altered += 1;
        }
        for member in whole.as_object().unwrap().keys() {
            let mut value = whole.clone();
            value.as_object_mut().unwrap().remove(member);
            assert!(
                serde_json::from_value::<Evidence>(value).is_err(),
                "{kind} without {member}"
            );
        }
        assert!(altered > 25, "{kind}: {altered}");
    }
}

/// Paths to all values that are no object and no array.
fn leaves(value: &Value, path: String) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| leaves(value, format!("{path}/{name}")))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(at, value)| leaves(value, format!("{path}/{at}")))
            .collect(),
        _ => vec![path],
    }
}

/// Another value of the same form: the last digit, or the number, is another.
fn another(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let (rest, last) = text.split_at(text.len() - 1);
            json!(format!("{rest}{}", if last == "0" { '1' } else { '0' }))
        }
        Value::Number(number) => json!(number.as_u64().unwrap() + 1),
        Value::Bool(value) => json!(!value),
        other => panic!("{other}"),
    }
}

/// An honest contribution in a file that calls it bad.
#[test]
fn honest_contributions_are_no_evidence() {
    let (mut world, cohort) = signing(6);
    let honest = partials(&mut world);
    let session = world.cohort(cohort).session.clone().unwrap();
    let (_, _, mut evidence) = bad_partial(6, [1; 32]);
    assert_eq!(evidence.session_id, session.id, "the same run");
    let Misdeed::BadPartialSignature { nonces, partials } = &mut evidence.misdeed else {
        panic!("{evidence:?}");
    };
    partials.partial_signatures = honest.partial_signatures;
    partials.signature = honest.signature;
    let nonces = nonces.clone();
    assert!(matches!(evidence.verify(), Err(EvidenceError::Innocent(_))));
    evidence.misdeed = Misdeed::BadNonce {
        nonces: nonces.clone(),
    };
    assert!(matches!(evidence.verify(), Err(EvidenceError::Innocent(_))));
    let one = beacon_cohort::evidence::Contribution::Nonces(nonces);
    evidence.misdeed = Misdeed::Equivocation {
        first: one.clone(),
        second: one,
    };
    assert!(matches!(evidence.verify(), Err(EvidenceError::Innocent(_))));
}

/// A bad nonce, validly signed, ends the session, names its sender, and the round is tried again.
#[test]
fn a_bad_nonce_ends_the_session() {
    let (world, cohort, _) = bad_nonce(7);
    let state = world.cohort(cohort);
    assert_eq!(state.abandoned[0].code, Code::Nonce.as_str());
    assert_eq!(
        state.abandoned[0].culprit.as_ref(),
        Some(&world.peers[1].id)
    );
    assert!(matches!(state.round.stage, Stage::Closed { .. }));
    world.assert_replay_equals_memory();
}

/// Two contributions to one session: the first counts and the session goes on, the second is one strike, however often it
/// is repeated.
#[test]
fn an_equivocation_is_one_strike_and_the_session_goes_on() {
    let (mut world, cohort, _) = two_nonces(8);
    let from = world.peers[1].id.clone();
    let refused = world.mail.iter().filter(|mail| {
        matches!(mail, Mail::Problem { to, rejection, .. } if *to == from && rejection.code == Code::Conflict)
    });
    assert_eq!(refused.count(), 1);
    let given = world.cohort(cohort).session.as_ref().unwrap().nonces[&from].clone();
    let template = NonceContribution {
        session_id: world.cohort(cohort).session.as_ref().unwrap().id,
        cohort_id: cohort,
        nonce_contribution: given.nonces[0].into(),
        nonce_contributions: vec![given.nonces[0].into()],
        signature: given.signature,
    };
    let third = other_nonces(&world, cohort, &template, [0xee; 66]);
    world.refuses(Code::Conflict, |world| world.tell_coordinator(&from, third));
    assert_eq!(world.cohort(cohort).members[&from].strikes, 1);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
}

/// Files of this version, which must convict for ever: they are pinned like the golden logs (see there).
#[test]
fn pinned_evidence_still_convicts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    for (number, (kind, evidence)) in all().into_iter().enumerate() {
        let path = format!("{folder}/evidence-{}-{kind}.json", number + 1);
        if crate::golden::is_writing() {
            let text = serde_json::to_string_pretty(&evidence).unwrap() + "\n";
            std::fs::write(&path, text).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let pinned: Evidence = serde_json::from_str(&text).unwrap();
        assert_eq!(pinned.misdeed.kind(), kind);
        pinned.verify().unwrap();
    }
}
