//! What is derived instead of drawn, so that the seed brings it back: leaf nonces (docs/adr/0010) and handles.

use std::fmt;

use beacon_signal::{Index, LeafNonce};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use uuid::Builder;
use zeroize::Zeroizing;

use crate::ids::{CohortId, PeerId};

/// The secret from which a participant's leaf nonces come: 32 bytes, derived from its seed. Wiped when it is dropped,
/// nothing to see in `Debug`.
#[derive(Clone)]
pub struct LeafSecret(Zeroizing<[u8; 32]>);

impl LeafSecret {
    /// Wraps the secret.
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    /// The leaf nonce of one index in one round of one cohort: 32 bytes of HKDF-SHA256 without salt, info
    /// `beacon-cohort/leaf-nonce/1` ‖ length of the coordinator's DID (4 bytes, big endian) ‖ DID (UTF-8) ‖ cohort id
    /// (16) ‖ round (8, big endian) ‖ index (32). To everybody else it is random, and no other place has the same.
    pub fn leaf_nonce(
        &self,
        coordinator: &PeerId,
        cohort: CohortId,
        round: u64,
        index: &Index,
    ) -> LeafNonce {
        let did = coordinator.as_str().as_bytes();
        // A DID longer than 4 GiB cannot reach this: the envelope limits its length.
        let length = u32::try_from(did.len()).unwrap_or(u32::MAX).to_be_bytes();
        let info = [
            b"beacon-cohort/leaf-nonce/1".as_slice(),
            &length,
            did,
            cohort.0.as_bytes(),
            &round.to_be_bytes(),
            &index.0,
        ];
        LeafNonce::new(*self.expand(&info))
    }

    fn expand(&self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        #[expect(
            clippy::expect_used,
            reason = "HKDF-SHA256 gives up to 8160 bytes, 32 are asked for"
        )]
        Hkdf::<Sha256>::new(None, self.0.as_slice())
            .expand_multi_info(info, bytes.as_mut_slice())
            .expect("32 bytes are a valid HKDF length");
        bytes
    }
}

impl fmt::Debug for LeafSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafSecret(redacted)")
    }
}

/// Our own name for a cohort whose id another coordinator's cohort has here already: a UUID of version 8 from
/// SHA-256(coordinator's DID ‖ 0x00 ‖ cohort id), which nobody can make collide with another's.
pub(super) fn handle(coordinator: &PeerId, cohort: CohortId) -> CohortId {
    let digest = Sha256::new()
        .chain_update(coordinator.as_str())
        .chain_update([0])
        .chain_update(cohort.0.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    CohortId(Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    /// Pinned because a changed derivation loses every proof that has to be fetched again. Computed with Python's
    /// hashlib and hmac.
    #[test]
    fn leaf_nonces_are_pinned_and_differ_from_place_to_place() {
        let secret = LeafSecret::new(Zeroizing::new([7; 32]));
        let (carol, dave) = (
            PeerId::new("did:example:carol"),
            PeerId::new("did:example:dave"),
        );
        let [one, two] = [1, 2].map(|number| CohortId(Uuid::from_u128(number)));
        let [here, there] = [[1; 32], [2; 32]].map(Index);
        let nonce = secret.leaf_nonce(&carol, one, 1, &here);
        assert_eq!(
            hex::encode(nonce.as_bytes()),
            "d8ba9a7623c5f0fcdb7319aa2ac7e36d36762b123a1cb4bce8cc0285e0a42508"
        );
        let others = [
            secret.leaf_nonce(&dave, one, 1, &here),
            secret.leaf_nonce(&carol, two, 1, &here),
            secret.leaf_nonce(&carol, one, 2, &here),
            secret.leaf_nonce(&carol, one, 1, &there),
            LeafSecret::new(Zeroizing::new([8; 32])).leaf_nonce(&carol, one, 1, &here),
        ];
        assert!(!others.contains(&nonce));
        assert_eq!(format!("{secret:?}"), "LeafSecret(redacted)");
    }
}
