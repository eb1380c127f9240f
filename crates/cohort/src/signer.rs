//! The signer: holds secret keys and secret nonces, so that nobody else has to.
//!
//! It is asked and it answers; machines never see a secret. A secret nonce exists in this module's memory only:
//! it is made for one (session, input, sighash), cannot be cloned, printed or stored, and is destroyed as it
//! signs, whatever happens next. There is no state to restore after a restart, which is the point: a nonce that
//! does not exist cannot be used twice.

use std::collections::BTreeMap;
use std::fmt;

use rand_core::CryptoRng;
use secp256k1::{Keypair, musig, schnorr};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::ids::{CohortId, PeerId, SessionId};
use crate::review::ReviewedSignal;
use crate::statement::{self, Statement};
use crate::terms::BtcNetwork;
use crate::values::{
    AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature, TermsHash,
};

/// Which secret key of the member's seed. Every cohort has one of its own (docs/adr/0005).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyPath {
    /// The network of the cohort.
    pub network: BtcNetwork,
    /// Where it is, below the network's node.
    #[serde(flatten)]
    pub place: KeyPlace,
}

/// Where a cohort key is, in hardened steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPlace {
    /// One step, counted from 0: how older versions numbered their cohorts. No new key is there: a restored old state
    /// would count on from an old number, and use one key for two cohorts.
    Index(u32),
    /// Eight steps that follow from the coordinator and the cohort id: whoever has the seed finds the key again.
    Cohort([u32; 8]),
}

impl KeyPath {
    /// The key of this cohort: the steps are the 32-bit big-endian words of SHA-256(coordinator's DID ‖ 0x00 ‖ cohort
    /// id (16 bytes)), each without its highest bit.
    pub fn of_cohort(network: BtcNetwork, coordinator: &PeerId, cohort: CohortId) -> Self {
        let digest = Sha256::new()
            .chain_update(coordinator.as_str())
            .chain_update([0])
            .chain_update(cohort.0.as_bytes())
            .finalize();
        let mut steps = [0; 8];
        for (step, word) in steps.iter_mut().zip(digest.chunks_exact(4)) {
            let word = word
                .iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte));
            *step = word & 0x7fff_ffff;
        }
        Self {
            network,
            place: KeyPlace::Cohort(steps),
        }
    }

    /// The hardened steps below the network's node, each less than 2^31 unless the log is not ours.
    pub fn steps(&self) -> &[u32] {
        match &self.place {
            KeyPlace::Index(index) => std::slice::from_ref(index),
            KeyPlace::Cohort(steps) => steps,
        }
    }
}

/// What a machine asks of the signer, to be carried out after the commit that allows it.
#[derive(Debug)]
pub enum SignerRequest {
    /// Show the public key of a path and prove to hold it; see [`statement::possession`].
    ProvePossession {
        /// Under which name the answer comes back.
        cohort: CohortId,
        /// The cohort to join, by its coordinator's name for it: what is proven.
        id: CohortId,
        /// The key to join with.
        path: KeyPath,
        /// Under which DID.
        did: PeerId,
        /// On which terms.
        terms: TermsHash,
    },
    /// Make a nonce for every input. Only a reviewed signal gets here: that is the rule "check, then nonce".
    MakeNonces(Box<ReviewedSignal>),
    /// Sign for nonces that another signer made with our key and keeps. Only a reviewed signal gets here, as above.
    AdoptNonces {
        /// What they are for.
        signal: Box<ReviewedSignal>,
        /// One for every input.
        nonces: Vec<PublicNonce>,
    },
    /// Sign for partial signatures that another signer made with adopted nonces.
    AdoptPartials {
        /// The cohort.
        cohort: CohortId,
        /// The session.
        session: SessionId,
        /// Our key's path.
        path: KeyPath,
        /// One for every input.
        sighashes: Vec<[u8; 32]>,
        /// One for every input.
        nonces: Vec<AggregatedNonce>,
        /// One for every input, verified.
        partials: Vec<PartialSignature>,
    },
    /// Use the nonces of a session up.
    SignPartials {
        /// The cohort.
        cohort: CohortId,
        /// The session.
        session: SessionId,
        /// One for every input.
        nonces: Vec<AggregatedNonce>,
    },
    /// Destroy the unused nonces of a session.
    Forget {
        /// The cohort.
        cohort: CohortId,
        /// The session.
        session: SessionId,
    },
}

/// What the signer answers.
#[derive(Clone, Debug, PartialEq)]
pub enum SignerAnswer {
    /// To [`SignerRequest::ProvePossession`].
    Possession {
        /// The cohort.
        cohort: CohortId,
        /// The public key.
        key: CohortKey,
        /// The proof.
        proof: StatementSignature,
    },
    /// To [`SignerRequest::MakeNonces`] and [`SignerRequest::AdoptNonces`].
    Nonces {
        /// The cohort.
        cohort: CohortId,
        /// The session.
        session: SessionId,
        /// One for every input.
        nonces: Vec<PublicNonce>,
        /// Over [`statement::nonces`].
        signature: StatementSignature,
    },
    /// To [`SignerRequest::SignPartials`] and [`SignerRequest::AdoptPartials`].
    Partials {
        /// The cohort.
        cohort: CohortId,
        /// The session.
        session: SessionId,
        /// One for every input.
        partials: Vec<PartialSignature>,
        /// Over [`statement::partials`].
        signature: StatementSignature,
    },
    /// The session cannot go on at this signer.
    Refused {
        /// The cohort.
        cohort: CohortId,
        /// The session.
        session: SessionId,
        /// Why, for people; names no secret.
        reason: String,
    },
}

/// A secret nonce. Not `Clone`, no bytes to be had, nothing to see in `Debug`, overwritten when dropped.
struct SecretNonce(Option<musig::SecretNonce>);

impl fmt::Debug for SecretNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretNonce(redacted)")
    }
}

#[cfg(test)]
static_assertions::assert_not_impl_any!(SecretNonce: Clone, Copy, fmt::Display, serde::Serialize);

impl Drop for SecretNonce {
    fn drop(&mut self) {
        if let Some(mut nonce) = self.0.take() {
            nonce.non_secure_erase();
        }
    }
}

/// The nonces of one session, each made for one input and its sighash.
#[derive(Debug)]
struct SessionNonces {
    signal: Box<ReviewedSignal>,
    secret: Vec<SecretNonce>,
    public: Vec<PublicNonce>,
    signature: StatementSignature,
}

/// Sessions with unused nonces at one time. One session per cohort is live, so this bounds the cohorts of one
/// member that sign at the same moment.
pub const MAX_OPEN_SESSIONS: usize = 1_024;

/// A signer in this process. `K` finds the secret key of a path; `R` is the operating system's randomness, or a
/// seeded generator in simulations.
pub struct LocalSigner<K, R> {
    keys: K,
    rng: R,
    /// By the member's own name for the cohort, and session: a coordinator chooses ids, and none may touch the nonces of
    /// another's.
    vault: BTreeMap<(CohortId, SessionId), SessionNonces>,
}

impl<K, R> fmt::Debug for LocalSigner<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner")
            .field("open_sessions", &self.vault.len())
            .finish_non_exhaustive()
    }
}

impl<K, R> LocalSigner<K, R>
where
    K: Fn(KeyPath) -> Zeroizing<[u8; 32]>,
    R: CryptoRng,
{
    /// A signer with an empty vault.
    pub fn new(keys: K, rng: R) -> Self {
        Self {
            keys,
            rng,
            vault: BTreeMap::new(),
        }
    }

    /// Carries a request out. `None` for [`SignerRequest::Forget`], which needs no answer.
    pub fn handle(&mut self, request: SignerRequest) -> Option<SignerAnswer> {
        match request {
            SignerRequest::ProvePossession {
                cohort,
                id,
                path,
                did,
                terms,
            } => {
                // Only a broken key source has none; the join then stays where it is.
                let pair = self.pair(path)?;
                let key = CohortKey::from(pair.public_key());
                let proof = self.sign(&pair, statement::possession(id, &did, &key, &terms));
                Some(SignerAnswer::Possession { cohort, key, proof })
            }
            SignerRequest::MakeNonces(signal) => Some(self.make_nonces(signal)),
            SignerRequest::AdoptNonces { signal, nonces } => {
                Some(self.adopt_nonces(&signal, nonces))
            }
            SignerRequest::AdoptPartials {
                cohort,
                session,
                path,
                sighashes,
                nonces,
                partials,
            } => {
                let Some(pair) = self.pair(path) else {
                    return Some(refused(cohort, session, NO_KEY));
                };
                let statement = statement::partials(session, &sighashes, &nonces, &partials);
                let signature = self.sign(&pair, statement);
                Some(SignerAnswer::Partials {
                    cohort,
                    session,
                    partials,
                    signature,
                })
            }
            SignerRequest::SignPartials {
                cohort,
                session,
                nonces,
            } => Some(self.sign_partials(cohort, session, &nonces)),
            SignerRequest::Forget { cohort, session } => {
                self.vault.remove(&(cohort, session));
                None
            }
        }
    }

    fn make_nonces(&mut self, signal: Box<ReviewedSignal>) -> SignerAnswer {
        let (cohort, session) = (signal.cohort(), signal.session());
        let refused = |reason| refused(cohort, session, reason);
        if let Some(made) = self.vault.get(&(cohort, session)) {
            return if made.signal.sighashes() == signal.sighashes() {
                SignerAnswer::Nonces {
                    cohort,
                    session,
                    nonces: made.public.clone(),
                    signature: made.signature,
                }
            } else {
                refused("this session already has nonces for another transaction")
            };
        }
        if self.vault.len() >= MAX_OPEN_SESSIONS {
            return refused("too many sessions with unused nonces");
        }
        let Some(pair) = self.pair(signal.path()) else {
            return refused(NO_KEY);
        };
        let (mut secret, mut public) = (Vec::new(), Vec::new());
        for sighash in signal.sighashes() {
            // All of BIP327's optional inputs: with any one of them right, a broken generator is not fatal.
            let (secret_nonce, public_nonce) = musig::new_nonce_pair(
                musig::SessionSecretRand::assume_uniformly_random(self.random()),
                Some(signal.beacon().cache()),
                Some(pair.secret_key()),
                pair.public_key(),
                Some(sighash),
                Some(self.random()),
            );
            secret.push(SecretNonce(Some(secret_nonce)));
            public.push(PublicNonce(public_nonce));
        }
        let signature = self.sign(
            &pair,
            statement::nonces(session, signal.sighashes(), &public),
        );
        let answer = SignerAnswer::Nonces {
            cohort,
            session,
            nonces: public.clone(),
            signature,
        };
        self.vault.insert(
            (cohort, session),
            SessionNonces {
                signal,
                secret,
                public,
                signature,
            },
        );
        answer
    }

    /// The secret halves are elsewhere: there is nothing to keep.
    fn adopt_nonces(&mut self, signal: &ReviewedSignal, nonces: Vec<PublicNonce>) -> SignerAnswer {
        let (cohort, session) = (signal.cohort(), signal.session());
        let Some(pair) = self.pair(signal.path()) else {
            return refused(cohort, session, NO_KEY);
        };
        let statement = statement::nonces(session, signal.sighashes(), &nonces);
        let signature = self.sign(&pair, statement);
        SignerAnswer::Nonces {
            cohort,
            session,
            nonces,
            signature,
        }
    }

    fn sign_partials(
        &mut self,
        cohort: CohortId,
        session: SessionId,
        aggregated: &[AggregatedNonce],
    ) -> SignerAnswer {
        let refused = |reason| refused(cohort, session, reason);
        // Taken out before anything can go wrong: from here on these nonces are gone.
        let Some(SessionNonces { signal, secret, .. }) = self.vault.remove(&(cohort, session))
        else {
            return refused("this session has no nonces here");
        };
        if aggregated.len() != secret.len() {
            return refused("one aggregated nonce for every input is needed");
        }
        let Some(pair) = self.pair(signal.path()) else {
            return refused(NO_KEY);
        };
        let mut partials = Vec::new();
        for ((mut secret, sighash), nonce) in
            secret.into_iter().zip(signal.sighashes()).zip(aggregated)
        {
            let Some(secret) = secret.0.take() else {
                return refused("a nonce of this session was used before");
            };
            let input = signal.beacon().input(*sighash, *nonce);
            let partial = input
                .session
                .partial_sign(secret, &pair, signal.beacon().cache());
            partials.push(PartialSignature(partial));
        }
        let signature = self.sign(
            &pair,
            statement::partials(session, signal.sighashes(), aggregated, &partials),
        );
        SignerAnswer::Partials {
            cohort,
            session,
            partials,
            signature,
        }
    }

    fn sign(&mut self, pair: &Keypair, statement: Statement) -> StatementSignature {
        let aux = self.random();
        StatementSignature(schnorr::sign_with_aux_rand(&statement.0, pair, &aux))
    }

    fn pair(&self, path: KeyPath) -> Option<Keypair> {
        Keypair::from_secret_bytes(*(self.keys)(path)).ok()
    }

    fn random(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

/// The reason where the key source has none.
const NO_KEY: &str = "no secret key at this path";

fn refused(cohort: CohortId, session: SessionId, reason: &str) -> SignerAnswer {
    SignerAnswer::Refused {
        cohort,
        session,
        reason: reason.to_owned(),
    }
}
