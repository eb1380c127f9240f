//! Contributions to a session that no honest member makes.

use super::*;

/// A member sends nonces that are no points, so that nobody can sign. Its own signature convicts it.
#[test]
fn sends_a_bad_nonce() {
    let (mut simulation, session) = asked();
    let bad = nonces_of(&simulation, &session, &"ff".repeat(66));
    simulation.corrupt(M, instead("sign/nonce_contribution", bad.into()));
    wait_for_the_end(&mut simulation);
    assert_eq!(
        abandoned(&simulation),
        [("e.p.nonce".to_owned(), Some(attacker()))]
    );
    let evidence = evidence(&simulation);
    assert!(matches!(
        evidence.as_slice(),
        [Evidence {
            misdeed: Misdeed::BadNonce { .. },
            ..
        }]
    ));
    lives_on(simulation, M);
}

/// A member sends a partial signature that is none, so that the signal is never signed and nobody knows why. Its own signature
/// convicts it.
#[test]
fn sends_a_bad_partial_signature() {
    let (mut simulation, session) = committed();
    let bad = partials_of(&simulation, &session, "01");
    simulation.corrupt(M, instead("sign/signature_authorization", bad.into()));
    wait_for_the_end(&mut simulation);
    assert_eq!(
        abandoned(&simulation),
        [("e.p.partial-signature".to_owned(), Some(attacker()))]
    );
    let evidence = evidence(&simulation);
    assert!(matches!(
        evidence.as_slice(),
        [Evidence {
            misdeed: Misdeed::BadPartialSignature { .. },
            ..
        }]
    ));
    lives_on(simulation, M);
}

/// A member gives two different nonces for one session, to have others see different ones. The first counts, the second
/// convicts it, once.
#[test]
fn equivocates_with_nonces() {
    let (mut simulation, session) = asked();
    let other = [nonces_of(&simulation, &session, &format!("{G}{G}"))];
    simulation.corrupt(M, move |letter| {
        let mut letters = vec![letter.clone()];
        if letter.kind() == "sign/nonce_contribution" {
            let others = other.iter().cycle().take(3).zip(1..);
            letters.extend(
                others.map(|(other, number)| letter.clone().as_new(number).saying(other.clone())),
            );
        }
        letters
    });
    held(simulation.announce());
    assert_eq!(told(&simulation), ["e.m.conflict"]);
    let evidence = evidence(&simulation);
    assert!(matches!(
        evidence.as_slice(),
        [Evidence {
            misdeed: Misdeed::Equivocation { .. },
            ..
        }]
    ));
    assert!(abandoned(&simulation).is_empty(), "the session goes on");
    held(simulation.check_honest());
}

/// A member gives a good partial signature and then another one. The signal is signed all the same, or would be too late to
/// matter; the second is refused.
#[test]
fn equivocates_with_partial_signatures() {
    let (mut simulation, session) = committed();
    let other = partials_of(&simulation, &session, "01");
    simulation.corrupt(M, move |letter| {
        let mut letters = vec![letter.clone()];
        if letter.kind() == "sign/signature_authorization" {
            letters.push(letter.as_new(1).saying(other.clone()));
        }
        letters
    });
    held(simulation.announce());
    assert_eq!(told(&simulation), ["e.m.conflict"]);
    assert_eq!(evidence(&simulation).len(), 1);
    assert!(abandoned(&simulation).is_empty());
    held(simulation.check_honest());
}

/// A member passes another's nonces off as its own, to have that one's partial signature count for both.
#[test]
fn contributes_what_another_made() {
    let (mut simulation, _) = asked();
    simulation.corrupt(M, silent_about("sign/nonce_contribution"));
    held(simulation.until("another's nonces", |simulation| {
        let mut letters = simulation.letters().iter();
        letters.any(|letter| letter.from() == 2 && letter.kind() == "sign/nonce_contribution")
    }));
    let mut letters = simulation.letters().iter();
    let anothers =
        letters.find(|letter| letter.from() == 2 && letter.kind() == "sign/nonce_contribution");
    let stolen = anothers.unwrap().message().unwrap();
    held(simulation.send(M, C, &stolen));
    held(simulation.pass(5));
    assert_eq!(told(&simulation), ["e.m.signature"]);
    let nonces = &simulation
        .coordinator()
        .unwrap()
        .session
        .as_ref()
        .unwrap()
        .nonces;
    assert!(!nonces.contains_key(&attacker()));
    assert_eq!(evidence(&simulation).len(), 0, "it signed nothing wrong");
    lives_on(simulation, M);
}

/// A member answers with garbage.
#[test]
fn sends_garbage() {
    let (mut simulation, _) = asked();
    simulation.corrupt(M, |mut letter| {
        if letter.kind() == "sign/nonce_contribution" {
            letter.body["nonce_contribution"] = "garbage".into();
        }
        vec![letter]
    });
    wait_for_the_end(&mut simulation);
    assert_eq!(told(&simulation), ["e.m.malformed"]);
    assert_eq!(
        abandoned(&simulation),
        [("timeout".to_owned(), Some(attacker()))]
    );
    lives_on(simulation, M);
}

/// A member sends partial signatures before the nonces are all there.
#[test]
fn signs_before_its_turn() {
    let (mut simulation, session) = asked();
    let early = Session {
        aggregated: Some(vec![format!("{G}{G}").parse().unwrap()]),
        ..session
    };
    let early = partials_of(&simulation, &early, "01");
    held(simulation.send(M, C, &Message::SignatureAuthorization(early)));
    held(simulation.announce());
    assert_eq!(told(&simulation), ["e.m.phase"]);
    assert!(abandoned(&simulation).is_empty());
    held(simulation.check_honest());
}

/// A member repeats what it contributed to an earlier session, to disturb a later one.
#[test]
fn replays_an_earlier_contribution() {
    let mut simulation = formed();
    simulation.want();
    held(simulation.announce());
    let mut letters = simulation.letters().iter();
    let old =
        letters.find(|letter| letter.from() == M && letter.kind() == "sign/nonce_contribution");
    let old = old.unwrap().clone();
    simulation.want();
    held(simulation.until("another session", |simulation| {
        session(simulation).is_some()
    }));
    held(simulation.send_letter(&old));
    held(simulation.send_letter(&old.clone().as_new(1)));
    held(simulation.announce());
    assert_eq!(told(&simulation), ["e.m.unknown-session"]);
    assert!(abandoned(&simulation).is_empty());
    held(simulation.check_honest());
}
