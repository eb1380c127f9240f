//! A member that misbehaves, vanishes or lies. The other machines are honest and unchanged; an attacker sits at the first
//! member's line and holds its cohort key. The coordinator must refuse with the right code, blame nobody but the attacker, and
//! where it blames, show evidence that convicts by itself; the others sign once and go on.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed simulation is a failed test"
)]

use std::fmt::Display;

use beacon_cohort::coordinator::{Command, Event, Phase, Session, Stage};
use beacon_cohort::evidence::{Evidence, Misdeed};
use beacon_cohort::ids::PeerId;
use beacon_cohort::message::{
    Decline, DidRegistration, Leaf, Message, NonceContribution, OptOut, RequestSignature,
    SignatureAuthorization,
};
use beacon_cohort::statement::{self, Statement};
use beacon_cohort::terms::Flow;
use beacon_cohort::values::{CohortKey, NonceBytes, PartialBytes, StatementSignature};
use beacon_signal::LeafValue;
use beacon_tests::simulator::{Letter, Settings, Simulation};
use bitcoin::secp256k1::{Keypair, Message as Digest, Secp256k1};

const C: usize = 0;
/// The attacker's seat.
const M: usize = 1;
const MEMBERS: usize = 3;
const G: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn held<T>(outcome: Result<T, impl Display>) -> T {
    outcome.unwrap_or_else(|failure| panic!("{failure}"))
}

fn new() -> Simulation {
    let settings = Settings {
        members: MEMBERS,
        flow: Flow::Pull,
        operator_asks_again: false,
        limit_s: 3 * 86_400,
        ..Settings::default()
    };
    Simulation::new(23, settings)
}

fn formed() -> Simulation {
    let mut simulation = new();
    held(simulation.form());
    simulation.keep_letters();
    simulation
}

/// A session has begun, and nobody has answered yet.
fn asked() -> (Simulation, Session) {
    let mut simulation = formed();
    simulation.want();
    held(simulation.until("a session", |simulation| session(simulation).is_some()));
    let session = session(&simulation).unwrap();
    (simulation, session)
}

/// A session in which everybody gave nonces, and nobody partial signatures.
fn committed() -> (Simulation, Session) {
    let (mut simulation, _) = asked();
    held(simulation.until("aggregated nonces", |simulation| {
        session(simulation).is_some_and(|session| session.aggregated.is_some())
    }));
    let session = session(&simulation).unwrap();
    (simulation, session)
}

fn session(simulation: &Simulation) -> Option<Session> {
    simulation.coordinator()?.session.clone()
}

fn sign(secret: &[u8; 32], statement: &Statement) -> StatementSignature {
    let secp = Secp256k1::new();
    let pair = Keypair::from_seckey_slice(&secp, secret).unwrap();
    let digest = Digest::from_digest(*statement.digest());
    let signature = secp.sign_schnorr_no_aux_rand(&digest, &pair);
    hex::encode(signature.serialize()).parse().unwrap()
}

/// Nonces that are no points, signed by the member's own key.
fn nonces_of(simulation: &Simulation, session: &Session, nonces: &str) -> NonceContribution {
    let nonce: NonceBytes = nonces.parse().unwrap();
    let statement = statement::nonces(session.id, &session.sighashes, &[nonce]);
    NonceContribution {
        session_id: session.id,
        cohort_id: simulation.cohort(),
        nonce_contribution: nonce,
        nonce_contributions: vec![nonce],
        signature: sign(&simulation.secret_key(M).unwrap(), &statement),
    }
}

fn partials_of(simulation: &Simulation, session: &Session, scalar: &str) -> SignatureAuthorization {
    let partial: PartialBytes = scalar.repeat(32).parse().unwrap();
    let aggregated = session.aggregated.clone().unwrap();
    let statement = statement::partials(session.id, &session.sighashes, &aggregated, &[partial]);
    SignatureAuthorization {
        session_id: session.id,
        cohort_id: simulation.cohort(),
        partial_signature: partial,
        partial_signatures: vec![partial],
        signature: sign(&simulation.secret_key(M).unwrap(), &statement),
    }
}

/// Sends something else in the place of each message of a kind.
fn instead(kind: &'static str, message: Message) -> impl FnMut(Letter) -> Vec<Letter> {
    move |letter| {
        vec![if letter.kind() == kind {
            letter.saying(message.clone())
        } else {
            letter
        }]
    }
}

/// Holds back each message of a kind.
fn silent_about(kind: &'static str) -> impl FnMut(Letter) -> Vec<Letter> {
    move |letter| {
        if letter.kind() == kind {
            Vec::new()
        } else {
            vec![letter]
        }
    }
}

fn attacker() -> PeerId {
    PeerId::new(format!("did:example:{M}"))
}

/// Sessions without a signature: why, and whose doing.
fn abandoned(simulation: &Simulation) -> Vec<(String, Option<PeerId>)> {
    let cohort = simulation.coordinator().unwrap();
    let abandoned = cohort.abandoned.iter();
    abandoned
        .map(|session| (session.code.clone(), session.culprit.clone()))
        .collect()
}

fn wait_for_the_end(simulation: &mut Simulation) {
    let before = abandoned(simulation).len();
    held(simulation.until("the session is over", |simulation| {
        abandoned(simulation).len() > before
    }));
}

/// All evidence in the coordinator's log. Each file convicts the attacker's key by itself, and nobody else's.
fn evidence(simulation: &Simulation) -> Vec<Evidence> {
    let key = simulation.member(M).unwrap().key.unwrap();
    let mut found = Vec::new();
    for event in held(simulation.coordinator_log()) {
        if let Event::Struck {
            peer,
            evidence: Some(evidence),
            ..
        } = event
        {
            assert_eq!(peer, attacker());
            assert_eq!(held(evidence.verify()).key, key);
            found.push(*evidence);
        }
    }
    found
}

/// The attacker does nothing wrong any more, and the updates are announced in the same cohort: no honest member was harmed.
fn lives_on(mut simulation: Simulation) {
    simulation.relent(M);
    let cohort = simulation.cohort();
    let refusal = held(simulation.tell_coordinator(Command::StartRound { cohort }));
    assert_eq!(refusal, None);
    held(simulation.announce());
    held(simulation.check_honest());
    assert_eq!(simulation.mined().len(), 1);
}

/// What the coordinator told the attacker.
fn told(simulation: &Simulation) -> Vec<String> {
    simulation.codes(C, M, "problem-report")
}

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
    lives_on(simulation);
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
    lives_on(simulation);
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
    lives_on(simulation);
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
    lives_on(simulation);
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
        leaves: vec![Leaf { index, value }],
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
        leaves: vec![Leaf { index, value }],
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

/// A member declines every session though nothing is wrong with it.
fn always_declines(code: &'static str) -> Simulation {
    let mut simulation = formed();
    let cohort_id = simulation.cohort();
    simulation.corrupt(M, move |letter| {
        vec![match letter.message() {
            Some(Message::NonceContribution(body)) => letter.saying(Decline {
                session_id: body.session_id,
                cohort_id,
                code: code.to_owned(),
                comment: String::new(),
            }),
            _ => letter,
        }]
    });
    simulation.want();
    simulation
}

/// A member declines every session with a reason that is not true. Others sign nothing; the operator is told who.
#[test]
fn declines_without_a_reason() {
    let mut simulation = always_declines("fee-too-high");
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
    lives_on(simulation);
}
