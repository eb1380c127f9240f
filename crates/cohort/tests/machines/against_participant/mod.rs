//! Attackers on a participant: a lying coordinator, another coordinator, a stranger. What no honest coordinator does is
//! refused with its own code and changes nothing, or ends the session without a second signature.

mod formation;
mod recovery;
mod sessions;

use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::machine::{ChainFact, Code, Effect, Input, Machine};
use beacon_cohort::message::{
    AggregatedNonces, AuthorizationRequest, CohortAdvert, CohortSet, Message, NextStep, OptIn,
    SessionAborted, SignalPublished, SignalStatus, Subscribe, UpdateOpportunity,
};
use beacon_cohort::participant::{
    Command, Event, LeafSecret, Participant, Policy, Progress, Stage, Standing,
};
use beacon_cohort::signer::{SignerAnswer, SignerRequest};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork, Terms};
use beacon_cohort::values::{CohortKey, TermsHash};
use beacon_signal::{Root, transaction};
use bitcoin::Amount;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use uuid::Uuid;

use crate::common::{Mail, START, World, coordinator_id};

fn other_coordinator() -> PeerId {
    PeerId::new("did:example:other-coordinator")
}

/// What is about to be delivered to member 0, of one kind.
fn to_first(world: &mut World, kind: &str) -> Message {
    loop {
        for mail in world.settle_until(|message| message.kind() == kind) {
            match mail {
                Mail::Message { to, message, .. } if world.number_of(&to) == Some(0) => {
                    return message;
                }
                mail => world.deliver(mail),
            }
        }
    }
}

fn request(world: &mut World) -> AuthorizationRequest {
    match to_first(world, "sign/authorization_request") {
        Message::AuthorizationRequest(body) => body,
        other => panic!("got {other:?}"),
    }
}

fn aggregated(world: &mut World) -> AggregatedNonces {
    match to_first(world, "sign/aggregated_nonce") {
        Message::AggregatedNonces(body) => body,
        other => panic!("got {other:?}"),
    }
}

fn signing(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    (world, cohort)
}

/// How often member 0 released partial signatures.
fn released(world: &World) -> usize {
    let log = world.peers[0].node.log.iter();
    log.filter(|line| line.contains(r#""event":"partial_released""#))
        .count()
}

fn sent_to_coordinator(world: &World, kind: &str) -> Vec<Message> {
    let sent = world.mail.iter().filter_map(|mail| match mail {
        Mail::Message { to, message, .. } if *to == coordinator_id() && message.kind() == kind => {
            Some(message.clone())
        }
        _ => None,
    });
    sent.collect()
}

fn advert(change: impl FnOnce(&mut CohortAdvert)) -> CohortAdvert {
    let terms = Terms::new(BtcNetwork::Regtest, 2, START.after(60))
        .to_value()
        .unwrap();
    let mut advert = CohortAdvert {
        cohort_id: CohortId(Uuid::from_u128(77)),
        btc_network: BtcNetwork::Regtest,
        cohort_size: 2,
        beacon_type: beacon_cohort::terms::BeaconType::Smt,
        terms_hash: AgreedTerms::parse(terms.clone()).unwrap().hash(),
        terms,
        succeeds: None,
    };
    change(&mut advert);
    advert
}

fn leaf_secret() -> LeafSecret {
    LeafSecret::new(zeroize::Zeroizing::new([1; 32]))
}

fn attackers_key() -> CohortKey {
    let secret = secp256k1::SecretKey::from_secret_bytes([99; 32]).unwrap();
    secp256k1::PublicKey::from_secret_key(&secret).into()
}
