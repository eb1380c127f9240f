//! Attackers on a coordinator. Each is refused with its own code, and nothing changes: no state, no log, no mail.

mod formation;
mod signing;

use beacon_cohort::coordinator::{Command, Phase, Stage};
use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::{ChainFact, Code, Fund, Input};
use beacon_cohort::message::{
    CohortAck, Decline, DidRegistration, Leaf, Message, NoUpdate, NonceContribution, OptIn, OptOut,
    RequestSignature, SignatureAuthorization, Subscribe, SubscribeAccept, Unsubscribe,
};
use beacon_cohort::signer::{KeyPath, KeyPlace, LocalSigner, SignerAnswer, SignerRequest};
use beacon_cohort::terms::{Admission, AgreedTerms, BtcNetwork, Terms};
use beacon_cohort::values::{AckHash, CohortKey, StatementSignature, TermsHash};
use beacon_signal::{Index, LeafValue};
use bitcoin::OutPoint;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::common::{Mail, START, World};

fn stranger() -> PeerId {
    PeerId::new("did:example:stranger")
}

/// The messages of a kind that both members send, taken out before they are delivered.
fn capture(world: &mut World, kind: &str) -> Vec<(PeerId, Message)> {
    let mut captured = Vec::new();
    while captured.len() < 2 {
        for mail in world.settle_until(|message| message.kind() == kind) {
            let Mail::Message { from, message, .. } = mail else {
                panic!("only messages are captured");
            };
            captured.push((from, message));
        }
    }
    captured
}

fn nonce_contributions(world: &mut World) -> Vec<(PeerId, NonceContribution)> {
    let captured = capture(world, "sign/nonce_contribution").into_iter();
    let body = |(from, message)| match message {
        Message::NonceContribution(body) => (from, body),
        other => panic!("got {other:?}"),
    };
    captured.map(body).collect()
}

fn partial_signatures(world: &mut World) -> Vec<(PeerId, SignatureAuthorization)> {
    let captured = capture(world, "sign/signature_authorization").into_iter();
    let body = |(from, message)| match message {
        Message::SignatureAuthorization(body) => (from, body),
        other => panic!("got {other:?}"),
    };
    captured.map(body).collect()
}

/// A formed cohort of two that is signing.
fn signing(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    (world, cohort)
}

/// A cohort that is open, and a valid opt-in of a peer that is not yet a member.
fn open(seed: u64) -> (World, CohortId, PeerId, OptIn) {
    let mut world = World::new(2, seed);
    let cohort = world.advertise(|terms| terms.max_indexes_per_member = 2);
    let peer = stranger();
    let opt_in = opt_in(&world, cohort, &peer, 9);
    (world, cohort, peer, opt_in)
}

fn opt_in(world: &World, cohort: CohortId, peer: &PeerId, key: u8) -> OptIn {
    let terms_hash = world.cohort(cohort).terms.hash();
    let (participant_pk, proof_of_possession) = possession(cohort, peer, key, terms_hash);
    OptIn {
        cohort_id: cohort,
        participant_pk,
        terms_hash,
        proof_of_possession,
        indexes: vec![Index::of_did("did:example:strange")],
    }
}

fn possession(
    cohort: CohortId,
    did: &PeerId,
    key: u8,
    terms: TermsHash,
) -> (CohortKey, StatementSignature) {
    possession_by(cohort, did, [key; 32], terms)
}

fn possession_by(
    cohort: CohortId,
    did: &PeerId,
    secret: [u8; 32],
    terms: TermsHash,
) -> (CohortKey, StatementSignature) {
    let keys = move |_: KeyPath| Zeroizing::new(secret);
    let mut signer = LocalSigner::new(keys, ChaCha20Rng::from_seed(secret));
    let path = KeyPath {
        network: BtcNetwork::Regtest,
        place: KeyPlace::Index(0),
    };
    let did = did.clone();
    match signer.handle(SignerRequest::ProvePossession {
        cohort,
        id: cohort,
        path,
        did,
        terms,
    }) {
        Some(SignerAnswer::Possession { key, proof, .. }) => (key, proof),
        other => panic!("got {other:?}"),
    }
}
