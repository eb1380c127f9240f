//! MuSig2 in mixed cohorts: our signer for some members, the second library for the others.
//!
//! Everything that one library makes, the other must accept: keys, nonces, partial signatures, and the signature, which
//! must come out the same byte for byte. `MUSIG_SESSIONS=5000` runs more than the usual number.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

use beacon_cohort::ids::{CohortId, PeerId, SessionId};
use beacon_cohort::musig::{BeaconKey, aggregate_nonces};
use beacon_cohort::review::ReviewedSignal;
use beacon_cohort::signer::{KeyPath, KeyPlace, LocalSigner, SignerAnswer, SignerRequest};
use beacon_cohort::statement;
use beacon_cohort::terms::BtcNetwork;
use beacon_cohort::values::{AggregatedNonce, CohortKey, PartialSignature, PublicNonce, TermsHash};
use musig2::secp::{MaybeScalar, Point, Scalar};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use uuid::Uuid;
use zeroize::Zeroizing;

#[path = "common/signal.rs"]
mod signal;

const SESSIONS: u64 = 300;
const COHORT: CohortId = CohortId(Uuid::from_u128(1));

const PATH: KeyPath = KeyPath {
    network: BtcNetwork::Regtest,
    place: KeyPlace::Index(0),
};

type Keys = Box<dyn Fn(KeyPath) -> Zeroizing<[u8; 32]>>;

/// A member's signer, by whichever library.
enum Signer {
    Ours(Box<LocalSigner<Keys, ChaCha20Rng>>),
    Second(Scalar, Option<musig2::SecNonce>),
}

struct Member {
    key: CohortKey,
    signer: Signer,
}

fn random(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

impl Member {
    fn new(ours: bool, rng: &mut ChaCha20Rng) -> Self {
        let secret = random(rng);
        if !ours {
            let secret = Scalar::from_slice(&secret).unwrap();
            let key = CohortKey::from_bytes(&secret.base_point_mul().serialize()).unwrap();
            let signer = Signer::Second(secret, None);
            return Self { key, signer };
        }
        let keys: Keys = Box::new(move |_| Zeroizing::new(secret));
        let mut signer = LocalSigner::new(keys, ChaCha20Rng::from_seed(random(rng)));
        let (did, terms) = (PeerId::new("did:example:member"), TermsHash([1; 32]));
        let request = SignerRequest::ProvePossession {
            cohort: COHORT,
            id: COHORT,
            path: PATH,
            did: did.clone(),
            terms,
        };
        let Some(SignerAnswer::Possession { key, proof, .. }) = signer.handle(request) else {
            panic!("a signer proves that it holds its key");
        };
        assert!(statement::possession(COHORT, &did, &key, &terms).is_signed_by(&key, &proof));
        let signer = Signer::Ours(Box::new(signer));
        Self { key, signer }
    }

    fn nonce(&mut self, session: &Session, rng: &mut ChaCha20Rng) -> PublicNonce {
        match &mut self.signer {
            Signer::Ours(signer) => {
                let request = SignerRequest::MakeNonces(Box::new(session.reviewed()));
                let answer = signer.handle(request);
                let Some(SignerAnswer::Nonces {
                    nonces, signature, ..
                }) = answer
                else {
                    panic!("a signer makes nonces for a reviewed signal, got {answer:?}");
                };
                let statement = statement::nonces(session.id, &[session.sighash], &nonces);
                assert!(statement.is_signed_by(&self.key, &signature));
                nonces[0]
            }
            Signer::Second(secret, nonce) => {
                let aggregate: Point = session.context.aggregated_pubkey();
                let made = musig2::SecNonce::generate(
                    random(rng),
                    *secret,
                    aggregate,
                    session.sighash,
                    b"",
                );
                let public = PublicNonce::from_bytes(&made.public_nonce().serialize()).unwrap();
                *nonce = Some(made);
                public
            }
        }
    }

    fn partial(&mut self, session: &Session, aggregated: AggregatedNonce) -> PartialSignature {
        match &mut self.signer {
            Signer::Ours(signer) => {
                let mut sign = || {
                    signer.handle(SignerRequest::SignPartials {
                        cohort: COHORT,
                        session: session.id,
                        nonces: vec![aggregated],
                    })
                };
                let answer = sign();
                let Some(SignerAnswer::Partials {
                    partials,
                    signature,
                    ..
                }) = answer
                else {
                    panic!("a signer with nonces signs, got {answer:?}");
                };
                let statement =
                    statement::partials(session.id, &[session.sighash], &[aggregated], &partials);
                assert!(statement.is_signed_by(&self.key, &signature));
                let again = sign();
                assert!(
                    matches!(again, Some(SignerAnswer::Refused { .. })),
                    "a nonce signs once: {again:?}"
                );
                partials[0]
            }
            Signer::Second(secret, nonce) => {
                let nonce = nonce.take().unwrap();
                let aggregated = musig2::AggNonce::from_bytes(&aggregated.to_bytes()).unwrap();
                let partial: MaybeScalar = musig2::sign_partial(
                    &session.context,
                    *secret,
                    nonce,
                    &aggregated,
                    session.sighash,
                )
                .unwrap();
                PartialSignature::from_bytes(&partial.serialize()).unwrap()
            }
        }
    }
}

/// One signature in the making, as both libraries see it.
struct Session {
    id: SessionId,
    number: u64,
    beacon: BeaconKey,
    context: musig2::KeyAggContext,
    sighash: [u8; 32],
}

impl Session {
    fn new(number: u64, members: &[Member]) -> Self {
        let id = SessionId(Uuid::from_u128(number.into()));
        let beacon = BeaconKey::aggregate(members.iter().map(|member| member.key)).unwrap();
        let points = beacon
            .keys()
            .iter()
            .map(|key| Point::from_slice(&key.to_bytes()).unwrap());
        let context = musig2::KeyAggContext::new(points).unwrap();
        let context = context.with_unspendable_taproot_tweak().unwrap();
        let aggregate: Point = context.aggregated_pubkey();
        assert_eq!(beacon.script().as_bytes()[2..], aggregate.serialize_xonly());
        let sighash = signal::reviewed(&beacon, PATH, COHORT, id, number).sighashes()[0];
        Self {
            id,
            number,
            beacon,
            context,
            sighash,
        }
    }

    fn reviewed(&self) -> ReviewedSignal {
        signal::reviewed(&self.beacon, PATH, COHORT, self.id, self.number)
    }
}

fn run(number: u64) {
    let mut rng = ChaCha20Rng::seed_from_u64(number);
    let size = 2 + usize::try_from(rng.next_u32() % 7).unwrap();
    // The first is ours and the second is not, so every cohort is mixed.
    let members = (0..size).map(|member| {
        Member::new(
            member == 0 || member > 1 && rng.next_u32() % 2 == 0,
            &mut rng,
        )
    });
    let mut members: Vec<_> = members.collect();
    let session = Session::new(number, &members);

    let nonces: Vec<_> = members
        .iter_mut()
        .map(|member| member.nonce(&session, &mut rng))
        .collect();
    let aggregated = aggregate_nonces(&nonces).unwrap();
    let second_nonces = nonces
        .iter()
        .map(|nonce| musig2::PubNonce::from_bytes(&nonce.to_bytes()).unwrap());
    let second_nonces: Vec<_> = second_nonces.collect();
    let second_aggregated = musig2::AggNonce::sum(&second_nonces);
    assert_eq!(second_aggregated.serialize(), aggregated.to_bytes());

    let partials: Vec<_> = members
        .iter_mut()
        .map(|member| member.partial(&session, aggregated))
        .collect();
    let input = session.beacon.input(session.sighash, aggregated);
    for (at, (member, partial)) in members.iter().zip(&partials).enumerate() {
        let (key, context) = (&member.key, &session.context);
        assert!(
            input.verify_partial(key, &nonces[at], partial),
            "session {number}"
        );
        let another = &nonces[(at + 1) % size];
        assert!(
            !input.verify_partial(key, another, partial),
            "another's nonce"
        );
        let scalar = MaybeScalar::from_slice(&partial.to_bytes()).unwrap();
        let key = Point::from_slice(&key.to_bytes()).unwrap();
        musig2::verify_partial(
            context,
            scalar,
            &second_aggregated,
            key,
            &second_nonces[at],
            session.sighash,
        )
        .unwrap();
    }
    let signature = input
        .aggregate(&partials)
        .expect("valid partial signatures make a valid one");
    let scalars = partials
        .iter()
        .map(|partial| MaybeScalar::from_slice(&partial.to_bytes()).unwrap());
    let second: [u8; 64] = musig2::aggregate_partial_signatures(
        &session.context,
        &second_aggregated,
        scalars,
        session.sighash,
    )
    .unwrap();
    assert_eq!(signature, second, "session {number}");
    assert_eq!(
        input.aggregate(&partials[1..]),
        None,
        "all of them are needed"
    );
}

#[test]
fn both_libraries_agree_in_mixed_cohorts() {
    let sessions = match std::env::var("MUSIG_SESSIONS") {
        Ok(number) => number.parse().expect("MUSIG_SESSIONS is a number"),
        Err(_) => SESSIONS,
    };
    (0..sessions).for_each(run);
}
