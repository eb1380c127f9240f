//! The bodies of the protocol's messages, given to both roles at every moment, by everybody.

use beacon_cohort::ids::{PeerId, Timestamp};
use beacon_cohort::machine::{ChainFact, Effect, Input, Machine};
use beacon_cohort::message::{KINDS, MAX_TEXT, Message, TYPE_PREFIX};
use beacon_cohort::participant::Participant;

use super::situations::{Followed, Situation, follow, with};
use super::transactions::assert_is_a_signal;
use crate::common::coordinator_id;

/// Messages in which a cohort is formed: a letter chooses the kind, the rest is the body.
pub fn keygen(data: &[u8]) {
    body("keygen/", data);
}

/// Messages in which a cohort signs: a letter chooses the kind, the rest is the body.
pub fn sign(data: &[u8]) {
    body("sign/", data);
}

/// The letter that chooses this kind.
pub fn letter(kind: &str) -> Option<char> {
    let (family, _) = kind.split_once('/')?;
    let mut kinds = KINDS.iter().filter(|other| other.starts_with(family));
    let at = kinds.position(|other| *other == kind)?;
    u8::try_from(at).ok().map(|at| char::from(b'a' + at))
}

fn body(family: &str, data: &[u8]) {
    let Some((letter, body)) = data.split_first() else {
        return;
    };
    let mut kinds = KINDS.iter().filter(|kind| kind.starts_with(family));
    let Some(kind) = kinds.nth(usize::from(letter.wrapping_sub(b'a'))) else {
        return;
    };
    let Ok(body) = serde_json::from_slice(body) else {
        return;
    };
    let message = match Message::parse(&format!("{TYPE_PREFIX}{kind}"), &body) {
        Ok(message) => message,
        Err(error) => {
            assert!(error.to_string().len() <= MAX_TEXT + 128, "{error}");
            return;
        }
    };
    assert_eq!(message.kind(), *kind);
    let written = message.body().expect("what was read can be written");
    let again = Message::parse(&format!("{TYPE_PREFIX}{kind}"), &written);
    assert_eq!(again.expect("and read again"), message);
    assert!(message.answers().iter().all(|kind| KINDS.contains(kind)));
    with(|situations| {
        for situation in situations {
            everybody_sends(situation, &message, data.len());
        }
    });
}

fn everybody_sends(situation: &Situation, message: &Message, size: usize) {
    let stranger = PeerId::new("did:example:stranger");
    let now = situation.world.now;
    let coordinator = situation.coordinator();
    for from in situation.peers().chain([&stranger]) {
        let taken = send(
            coordinator,
            from,
            &coordinator_id(),
            message,
            now,
            |machine| situation.world.chain.answer(&machine.watches()),
        );
        if let Some(followed) = taken {
            check(&followed, size);
            let asks = |effect: &Effect| matches!(effect, Effect::Sign(_));
            assert!(
                !followed.effects.iter().any(asks),
                "a coordinator has no signer"
            );
        }
    }
    let member = situation.member();
    for from in [&coordinator_id(), &stranger] {
        let taken = send(
            member,
            from,
            &situation.world.peers[0].id,
            message,
            now,
            |machine| situation.world.chain.answer(&machine.watches()),
        );
        if let Some(followed) = taken {
            check(&followed, size);
            check_nonces(situation, &followed, message);
        }
    }
}

fn send<M: Machine + Clone>(
    machine: &M,
    from: &PeerId,
    to: &PeerId,
    message: &Message,
    now: Timestamp,
    facts: impl FnOnce(&M) -> Vec<ChainFact>,
) -> Option<Followed<M>> {
    let input = Input::Message {
        from: from.clone(),
        to: to.clone(),
        message: message.clone(),
    };
    follow(machine, input, now, facts).ok()
}

/// One message makes an agent remember no more than it says, several times over.
fn check<M>(followed: &Followed<M>, size: usize) {
    let bound = 65_536 + 16 * size;
    assert!(
        followed.stored <= bound,
        "{} bytes for {size}",
        followed.stored
    );
}

/// Nonces are made for what the rules call a signal, and for nothing else.
fn check_nonces(situation: &Situation, followed: &Followed<Participant>, message: &Message) {
    if let (true, Message::AuthorizationRequest(request)) = (followed.makes_nonces(), message) {
        let membership = &situation.member().state().cohorts[&situation.cohort];
        assert_is_a_signal(request, membership);
    }
}
