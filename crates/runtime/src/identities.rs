//! An agent's DIDs: derived from its seed and its endpoint, made when they are needed.

use std::sync::Arc;

use beacon_didcomm::{Did, Endpoint, Identity, Keyring, ParseDidError};

use crate::keys::Seed;

/// Most identities of one agent; a participant has one for each coordinator.
pub const MAX_IDENTITIES: u32 = 4_096;

/// The identities made so far, by index.
#[derive(Debug)]
pub struct Identities {
    seed: Arc<Seed>,
    endpoint: Endpoint,
    made: Vec<Identity>,
}

/// An identity that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The endpoint makes the DID too long.
    #[error("endpoint does not fit into a DID: {0}")]
    Did(#[from] ParseDidError),
    /// One more than there may be.
    #[error("got identity number {0}, expected at most {MAX_IDENTITIES}")]
    TooMany(u32),
}

impl Identities {
    /// No identity yet.
    pub fn new(seed: impl Into<Arc<Seed>>, endpoint: Endpoint) -> Self {
        Self {
            seed: seed.into(),
            endpoint,
            made: Vec::new(),
        }
    }

    /// The endpoint that all of them announce.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The identity of this index, made now if it is new, with all before it.
    pub fn get(&mut self, index: u32) -> Result<&Identity, IdentityError> {
        if index >= MAX_IDENTITIES {
            return Err(IdentityError::TooMany(index));
        }
        for next in u32::try_from(self.made.len()).unwrap_or(u32::MAX)..=index {
            let secrets = self.seed.identity_secrets(next);
            self.made.push(Identity::new(
                &secrets.ed25519,
                &secrets.x25519,
                self.endpoint.clone(),
            )?);
        }
        self.made
            .get(index as usize)
            .ok_or(IdentityError::TooMany(index))
    }

    /// Index of the identity with this DID, among those made.
    pub fn index_of(&self, did: &Did) -> Option<u32> {
        let index = self.made.iter().position(|identity| identity.did() == did);
        index.and_then(|index| u32::try_from(index).ok())
    }

    /// All DIDs made so far, by index.
    pub fn dids(&self) -> impl Iterator<Item = &Did> {
        self.made.iter().map(Identity::did)
    }
}

impl Keyring for Identities {
    fn identity(&self, kid: &str) -> Option<&Identity> {
        self.made
            .iter()
            .find(|identity| identity.agreement_kid() == kid)
    }
}
