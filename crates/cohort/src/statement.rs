//! What members sign besides transactions, byte by byte (docs/protocol.md, section "Statements").
//!
//! Authcrypt proves a sender to its recipient alone and can be denied; these BIP340 signatures by the cohort key
//! can be shown to anybody, so blame is transferable. Every statement is a tagged hash as in BIP340:
//! `SHA256(SHA256(tag) ‖ SHA256(tag) ‖ data)`.

use secp256k1::schnorr;
use sha2::{Digest, Sha256};

use crate::ids::{CohortId, PeerId, SessionId};
use crate::values::{
    AckHash, AggregatedNonce, CohortKey, NonceBytes, PartialBytes, StatementSignature, TermsHash,
};

/// The 32 bytes that are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement(pub(crate) [u8; 32]);

impl Statement {
    /// The 32 bytes that are signed.
    pub fn digest(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `key` made `signature` over this statement.
    pub fn is_signed_by(&self, key: &CohortKey, signature: &StatementSignature) -> bool {
        let (x_only, _) = key.point().x_only_public_key();
        schnorr::verify(&signature.0, &self.0, &x_only).is_ok()
    }
}

fn tagged(tag: &str, parts: &[&[u8]]) -> Statement {
    let tag = Sha256::digest(tag);
    let mut hasher = Sha256::new().chain_update(tag).chain_update(tag);
    for part in parts {
        hasher.update(part);
    }
    Statement(hasher.finalize().into())
}

/// "I hold this key, and I join this cohort on these terms":
/// cohort id (16 bytes) ‖ length of the DID (4 bytes, big endian) ‖ DID (UTF-8) ‖ key (33) ‖ terms hash (32),
/// tag `beacon-cohort/proof-of-possession/1`.
pub fn possession(cohort: CohortId, did: &PeerId, key: &CohortKey, terms: &TermsHash) -> Statement {
    let did = did.as_str().as_bytes();
    // A DID longer than 4 GiB cannot reach this: the envelope limits its length.
    let length = u32::try_from(did.len()).unwrap_or(u32::MAX).to_be_bytes();
    tagged(
        "beacon-cohort/proof-of-possession/1",
        &[cohort.0.as_bytes(), &length, did, &key.to_bytes(), &terms.0],
    )
}

/// "I control this DID, and contest its index in this cohort": cohort id (16 bytes) ‖ length of the sender's DID (4 bytes,
/// big endian) ‖ the sender's DID (UTF-8) ‖ length of the DID (4, big endian) ‖ the DID (UTF-8), tag
/// `beacon-cohort/proof-of-control/1`. Signed by a key of the DID's document, not by the cohort key.
pub fn control(cohort: CohortId, sender: &PeerId, did: &str) -> Statement {
    let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let sender = sender.as_str();
    tagged(
        "beacon-cohort/proof-of-control/1",
        &[
            cohort.0.as_bytes(),
            &length(sender),
            sender.as_bytes(),
            &length(did),
            did.as_bytes(),
        ],
    )
}

/// "These are my public nonces": session id (16 bytes) ‖ number of inputs (4, big endian) ‖ sighash of each
/// input (32) ‖ public nonce of each input (66), tag `beacon-cohort/nonce-contribution/1`.
pub fn nonces(
    session: SessionId,
    sighashes: &[[u8; 32]],
    nonces: &[impl Into<NonceBytes> + Copy],
) -> Statement {
    let nonces: Vec<[u8; 66]> = nonces.iter().map(|nonce| (*nonce).into().0).collect();
    contributed(
        "beacon-cohort/nonce-contribution/1",
        session,
        sighashes,
        &[nonces.as_flattened()],
    )
}

/// "These are my partial signatures, made for these aggregated nonces": session id (16 bytes) ‖ number of inputs (4, big
/// endian) ‖ sighash of each input (32) ‖ aggregated nonce of each input (66) ‖ partial signature of each input (32), tag
/// `beacon-cohort/partial-signature/2`. Without the aggregated nonces a coordinator could show an honest partial signature
/// beside others than it was made for, and blame its maker.
pub fn partials(
    session: SessionId,
    sighashes: &[[u8; 32]],
    aggregated: &[AggregatedNonce],
    partials: &[impl Into<PartialBytes> + Copy],
) -> Statement {
    let aggregated: Vec<[u8; 66]> = aggregated.iter().map(|nonce| nonce.to_bytes()).collect();
    let partials: Vec<[u8; 32]> = partials.iter().map(|partial| (*partial).into().0).collect();
    contributed(
        "beacon-cohort/partial-signature/2",
        session,
        sighashes,
        &[aggregated.as_flattened(), partials.as_flattened()],
    )
}

fn contributed(
    tag: &str,
    session: SessionId,
    sighashes: &[[u8; 32]],
    contribution: &[&[u8]],
) -> Statement {
    let count = u32::try_from(sighashes.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let head = [
        session.0.as_bytes().as_slice(),
        &count,
        sighashes.as_flattened(),
    ];
    tagged(tag, &[&head, contribution].concat())
}

/// "Recomputed and agreed": SHA-256 of terms hash (32 bytes) ‖ every key in KeySort order (33 each) ‖ beacon
/// address (ASCII). Not signed: the envelope names its sender, and nothing is blamed on it.
pub fn cohort_ack(terms: &TermsHash, keys: &[CohortKey], address: &str) -> AckHash {
    let mut hasher = Sha256::new().chain_update(terms.0);
    for key in keys {
        hasher.update(key.to_bytes());
    }
    AckHash(hasher.chain_update(address).finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const KEY: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

    /// Pinned because these bytes are the protocol: a stranger's participant computes the same, and evidence that
    /// was signed years ago must still verify. Computed with Python's hashlib (tests/statements.py).
    #[test]
    fn layouts_are_pinned() {
        let key: CohortKey = KEY.parse().unwrap();
        let cohort = CohortId(Uuid::from_bytes([1; 16]));
        let session = SessionId(Uuid::from_bytes([2; 16]));
        let terms = TermsHash([3; 32]);
        let nonce: NonceBytes = format!("{KEY}{KEY}").parse().unwrap();
        let aggregated: AggregatedNonce = format!("{KEY}{}", "00".repeat(33)).parse().unwrap();
        let partial: PartialBytes = "04".repeat(32).parse().unwrap();
        let did = PeerId::new("did:peer:2.Vz6Mk");
        let sighashes = [[5; 32], [6; 32]];
        let pinned = [
            (
                possession(cohort, &did, &key, &terms).0,
                "e9841c95b7adf64558990c099ece413e80632e2291cbe835406ce9ae58300f2c",
            ),
            (
                nonces(session, &sighashes, &[nonce, nonce]).0,
                "92591a7ea85843df60cff887a620c3e3029f85831dfb1b7e4de70d3bd7f1fbdf",
            ),
            (
                partials(session, &sighashes, &[aggregated; 2], &[partial, partial]).0,
                "de409d20d7f760eb128981b5ee69090d6f599b0542f3b1aa3df4ebd3fc54540c",
            ),
            (
                control(cohort, &did, "did:btcr2:k1q").0,
                "2472244ba2189016725c77273f2bd85de41b5b96fed98a3f100bccabe140c5e5",
            ),
            (
                cohort_ack(&terms, &[key, key], "bcrt1p").0,
                "3b1c03f8f5c83e2d64c272f4f8edb7ae6db37a9d1bc0da2fbdd1cebdcba4c4c7",
            ),
        ];
        for (digest, expected) in pinned {
            assert_eq!(hex::encode(digest), expected);
        }
    }

    /// `vectors/bip340/test-vectors.csv`: all cases verified, all with a secret key signed.
    #[test]
    fn signatures_follow_bip340() {
        let file = include_str!("../vectors/bip340/test-vectors.csv");
        let (mut verified, mut signed) = (0, 0);
        for line in file.lines().skip(1) {
            let [index, secret, key, aux, message, signature, result, ..] =
                line.split(',').collect::<Vec<_>>()[..]
            else {
                panic!("got a case without all its columns: {line}");
            };
            let message = hex::decode(message).unwrap();
            let signature: StatementSignature = signature.parse().unwrap();
            // A key that is no point is refused when it is read.
            let valid = format!("02{key}").parse().is_ok_and(|key: CohortKey| {
                let by_library =
                    schnorr::verify(&signature.0, &message, &key.point().x_only_public_key().0)
                        .is_ok();
                if let Ok(message) = message.clone().try_into() {
                    assert_eq!(
                        Statement(message).is_signed_by(&key, &signature),
                        by_library,
                        "case {index}"
                    );
                }
                by_library
            });
            assert_eq!(valid, result == "TRUE", "case {index}");
            verified += 1;
            if !secret.is_empty() {
                let (mut bytes, mut random) = ([0; 32], [0; 32]);
                hex::decode_to_slice(secret, &mut bytes).unwrap();
                hex::decode_to_slice(aux, &mut random).unwrap();
                let pair = secp256k1::Keypair::from_secret_bytes(bytes).unwrap();
                assert_eq!(
                    schnorr::sign_with_aux_rand(&message, &pair, &random),
                    signature.0,
                    "case {index}"
                );
                signed += 1;
            }
        }
        assert_eq!(
            (verified, signed),
            (19, 8),
            "every case of the file, and every secret key in it"
        );
    }
}
