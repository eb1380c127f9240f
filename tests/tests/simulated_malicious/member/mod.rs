//! A member that misbehaves, vanishes or lies. The other machines are honest and unchanged; an attacker sits at the first
//! member's line and holds its cohort key. The coordinator must refuse with the right code, blame nobody but the attacker, and
//! where it blames, show evidence that convicts by itself; the others sign once and go on.

mod contributions;
mod formation;
mod rounds;
mod vanishing;

use beacon_cohort::coordinator::{Event, Phase, Session, Stage};
use beacon_cohort::evidence::{Evidence, Misdeed};
use beacon_cohort::ids::PeerId;
use beacon_cohort::message::{
    Decline, DidRegistration, Leaf, Message, NonceContribution, OptOut, RequestSignature,
    SignatureAuthorization,
};
use beacon_cohort::statement::{self, Statement};
use beacon_cohort::values::{CohortKey, NonceBytes, PartialBytes, StatementSignature};
use beacon_signal::LeafValue;
use bitcoin::secp256k1::{Keypair, Message as Digest, Secp256k1};

use super::*;

/// The attacker's seat.
const M: usize = 1;

fn new() -> Simulation {
    Simulation::new(23, settings(MEMBERS))
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

/// Declines each session with a code, whatever it was asked.
fn declines(code: &'static str) -> impl FnMut(Letter) -> Vec<Letter> {
    move |letter| {
        vec![match letter.message() {
            Some(Message::NonceContribution(body)) => letter.saying(Decline {
                session_id: body.session_id,
                cohort_id: body.cohort_id,
                code: code.to_owned(),
                comment: String::new(),
            }),
            _ => letter,
        }]
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

/// What the coordinator told the attacker.
fn told(simulation: &Simulation) -> Vec<String> {
    simulation.codes(C, M, "problem-report")
}
