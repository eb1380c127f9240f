//! The agent's only secret: one BIP39 phrase, and what is derived from it.
//!
//! The phrase lives in a file of its own, encrypted with a passphrase ([`SeedFile`]), since it must survive the loss of the
//! store and be readable while another process has the store open. Everything else (identity keys, cohort keys) is derived, so a backup of 24 words is
//! a backup of all keys. The derivations are fixed by ADR 0005 and pinned by known answers in this module's tests:
//! a change would silently give every agent another DID and lock the funds of every cohort it is in.

pub mod commands;
mod file;
pub mod list;
mod passphrase;

use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;

use beacon_cohort::signer::KeyPath;
use beacon_cohort::terms::BtcNetwork;
use bip39::{Language, Mnemonic};
use bitcoin::NetworkKind;
use bitcoin::bip32::{ChildNumber, KeySource, Xpriv};
use bitcoin::secp256k1::Secp256k1;
use hkdf::Hkdf;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

pub(crate) use file::write_new;
pub use file::{AgeFault, PrivateFault, SeedFile};
pub use passphrase::{Passphrase, PassphraseError, Unlock};

/// Words in a phrase: 24, that is 256 bits of entropy.
pub const PHRASE_WORDS: usize = 24;

/// HKDF salt of everything but cohort keys (ADR 0005, 0010).
const IDENTITY_SALT: &[u8] = b"beacon-cohort/keys/v1";
/// First component of the BIP32 path of all cohort keys, `m/1642'/coin'/…` (ADR 0005).
const COHORT_PURPOSE: u32 = 1642;
/// First component of the BIP32 path of all keys of did:btcr2 identifiers, `m/1643'/coin'/index'` (ADR 0014).
pub(crate) const DID_PURPOSE: u32 = 1643;
/// First component of the BIP32 path of recovery keys, `m/1644'/coin'/index'` (ADR 0016), and the largest index.
const RECOVERY_PURPOSE: u32 = 1644;
pub(crate) const MAX_RECOVERY_INDEX: u32 = 255;
/// 24 words of at most 8 letters and their separators are 215 bytes.
const PHRASE_BYTES: usize = 256;

/// The 64-byte BIP39 seed of an agent, with the phrase that it comes from. Both are wiped when it is dropped.
pub struct Seed {
    phrase: Zeroizing<String>,
    bytes: Zeroizing<[u8; 64]>,
}

/// The two secret keys of a did:peer:2 identity (protocol.md section 1).
pub struct IdentitySecrets {
    /// Ed25519 secret key seed (RFC 8032), 32 bytes: signs, element `V` of the DID.
    pub ed25519: Zeroizing<[u8; 32]>,
    /// X25519 secret key before clamping (RFC 7748), 32 bytes: agrees on keys, element `E` of the DID.
    pub x25519: Zeroizing<[u8; 32]>,
}

/// Why a seed could not be made, read or used. No variant carries any part of the phrase.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("seed file {path}: {source}", path = path.display())]
    Io {
        /// The seed file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is a seed already. It is never overwritten: it may hold funds and identities.
    #[error("seed file {path} exists already and is never overwritten: use it, or choose another data directory", path = path.display())]
    Exists {
        /// The seed file.
        path: PathBuf,
    },
    /// Somebody else on this machine can read the file.
    #[error("seed file {path} has mode {mode:04o}, expected 0600 (it must not be open to group or others): run `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The seed file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a phrase.
    #[error("seed file {path} is malformed: {fault}: restore it from your backup, or remove it if this agent was never used", path = path.display())]
    Malformed {
        /// The seed file.
        path: PathBuf,
        /// What is wrong with it.
        fault: PhraseFault,
    },
    /// The passphrase is another one.
    #[error("the passphrase does not open seed file {path}: nothing was changed, try again", path = path.display())]
    WrongPassphrase {
        /// The seed file.
        path: PathBuf,
    },
    /// An encrypted file that no passphrase opens.
    #[error("seed file {path} cannot be opened: {fault}: put it back from your backup, or use `keys import` with your {PHRASE_WORDS} words in a new data directory", path = path.display())]
    Damaged {
        /// The seed file.
        path: PathBuf,
        /// What is wrong with it.
        fault: AgeFault,
    },
    /// There is no passphrase to use.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The operating system has no randomness to give.
    #[error("cannot draw {PHRASE_WORDS} words from the operating system's randomness: {0}")]
    Randomness(rand::rand_core::OsError),
    /// A step that is no hardened BIP32 step.
    #[error("step {got} of a key's path is out of range, expected at most 2147483647")]
    Step {
        /// The step asked for.
        got: u32,
    },
    /// A step of the BIP32 derivation has no valid key, which happens with probability below 2^-127.
    #[error("no key at this path, use another cohort or index: {source}")]
    NoKey {
        /// What the derivation said.
        source: bitcoin::bip32::Error,
    },
}

/// What is wrong with a phrase. Words are named by their position only, so that no secret reaches a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhraseFault {
    /// No byte in it.
    #[error("it is empty")]
    Empty,
    /// Not a short text file.
    #[error("got something else than one short line of text")]
    NotText,
    /// Too few or too many words.
    #[error("got {0} words, expected {PHRASE_WORDS}")]
    Words(usize),
    /// A word outside the BIP39 English list.
    #[error("word {0} is not in the BIP39 English list")]
    Unknown(usize),
    /// All words are known, but they do not belong together.
    #[error("the checksum does not match, so a word is wrong or out of place")]
    Checksum,
}

impl KeyError {
    /// Whether the keys are there, and a passphrase is what is missing.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::WrongPassphrase { .. } | Self::Passphrase(_))
    }
}

impl Seed {
    /// Draws a new seed from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut entropy = Zeroizing::new([0u8; 32]);
        OsRng
            .try_fill_bytes(entropy.as_mut_slice())
            .map_err(KeyError::Randomness)?;
        Ok(Self::from_entropy(&entropy))
    }

    /// The seed of a phrase of 24 English words, separated by white space.
    pub fn from_phrase(phrase: &str) -> Result<Self, PhraseFault> {
        let words = phrase.split_whitespace().count();
        if words != PHRASE_WORDS {
            return Err(PhraseFault::Words(words));
        }
        let mut mnemonic = Mnemonic::parse_in_normalized(Language::English, phrase).map_err(
            |error| match error {
                bip39::Error::UnknownWord(index) => PhraseFault::Unknown(index + 1),
                _ => PhraseFault::Checksum,
            },
        )?;
        let seed = Self::from_mnemonic(&mnemonic);
        mnemonic.zeroize();
        Ok(seed)
    }

    /// The phrase as a line of text.
    fn line(&self) -> Zeroizing<String> {
        // In one piece: a growing string would leave copies behind that nobody wipes.
        let mut line = Zeroizing::new(String::with_capacity(PHRASE_BYTES));
        line.push_str(&self.phrase);
        line.push('\n');
        line
    }

    /// The secret keys of this agent's identity number `index`.
    ///
    /// HKDF-SHA256 (RFC 5869) over the 64-byte seed with salt `beacon-cohort/keys/v1` and info
    /// `identity/ed25519` or `identity/x25519`, followed by the index as 4 bytes big-endian (ADR 0005).
    pub fn identity_secrets(&self, index: u32) -> IdentitySecrets {
        IdentitySecrets {
            ed25519: self.expand(&[b"identity/ed25519", &index.to_be_bytes()]),
            x25519: self.expand(&[b"identity/x25519", &index.to_be_bytes()]),
        }
    }

    /// The secret from which a participant's leaf nonces are derived, 32 bytes: HKDF-SHA256 as for identities, with
    /// info `leaf-nonces` (ADR 0010).
    pub fn leaf_secret(&self) -> Zeroizing<[u8; 32]> {
        self.expand(&[b"leaf-nonces"])
    }

    /// The secp256k1 secret key at these hardened steps (each at most 2^31 - 1), 32 bytes big-endian.
    ///
    /// BIP32 at `m/1642'/coin'/step'/…`, with coin 0 on mainnet and 1 on every other network (ADR 0005).
    pub fn cohort_key(
        &self,
        network: bitcoin::Network,
        steps: &[u32],
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        self.secp256k1_key(COHORT_PURPOSE, network, steps)
    }

    /// Where the key of [`Seed::cohort_key`] is, as PSBTs say it: fingerprint of the master key, and path.
    pub fn cohort_key_source(
        &self,
        network: bitcoin::Network,
        steps: &[u32],
    ) -> Result<KeySource, KeyError> {
        let path = hardened_path(COHORT_PURPOSE, network, steps)?;
        let kind = NetworkKind::from(network);
        let no_key = |source| KeyError::NoKey { source };
        let mut master = Xpriv::new_master(kind, self.bytes.as_slice()).map_err(no_key)?;
        let fingerprint = master.fingerprint(&Secp256k1::signing_only());
        master.private_key.non_secure_erase();
        Ok((fingerprint, path.into()))
    }

    /// The secp256k1 secret key number `index` (at most 2^31 - 1) for did:btcr2 documents, 32 bytes big-endian.
    ///
    /// BIP32 at `m/1643'/coin'/index'`, with coins as for cohort keys (ADR 0014).
    pub fn did_key(
        &self,
        network: bitcoin::Network,
        index: u32,
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        self.secp256k1_key(DID_PURPOSE, network, &[index])
    }

    /// The secp256k1 secret key number `index` for recovery leaves of cohorts' terms, 32 bytes big-endian.
    ///
    /// BIP32 at `m/1644'/coin'/index'`, with coins as for cohort keys (ADR 0016).
    pub fn recovery_key(
        &self,
        network: bitcoin::Network,
        index: u32,
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        self.secp256k1_key(RECOVERY_PURPOSE, network, &[index])
    }

    /// BIP32 at `m/purpose'/coin'/step'/…`.
    fn secp256k1_key(
        &self,
        purpose: u32,
        network: bitcoin::Network,
        steps: &[u32],
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let kind = NetworkKind::from(network);
        let path = hardened_path(purpose, network, steps)?;
        let no_key = |source| KeyError::NoKey { source };
        let secp = Secp256k1::signing_only();
        let mut master = Xpriv::new_master(kind, self.bytes.as_slice()).map_err(no_key)?;
        let derived = master.derive_priv(&secp, &path).map_err(no_key);
        master.private_key.non_secure_erase();
        let mut child = derived?;
        let key = Zeroizing::new(child.private_key.secret_bytes());
        child.private_key.non_secure_erase();
        Ok(key)
    }

    fn from_entropy(entropy: &[u8; 32]) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "BIP39 defines a phrase for every 32 bytes"
        )]
        let mut mnemonic =
            Mnemonic::from_entropy(entropy).expect("32 bytes are valid BIP39 entropy");
        let seed = Self::from_mnemonic(&mnemonic);
        mnemonic.zeroize();
        seed
    }

    fn from_mnemonic(mnemonic: &Mnemonic) -> Self {
        let mut phrase = Zeroizing::new(String::with_capacity(PHRASE_BYTES));
        // Writing to a string cannot fail.
        let _ = write!(phrase, "{mnemonic}");
        Self {
            phrase,
            bytes: Zeroizing::new(mnemonic.to_seed_normalized("")),
        }
    }

    fn expand(&self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0u8; 32]);
        #[expect(
            clippy::expect_used,
            reason = "HKDF-SHA256 gives up to 8160 bytes, 32 are asked for"
        )]
        Hkdf::<Sha256>::new(Some(IDENTITY_SALT), self.bytes.as_slice())
            .expand_multi_info(info, key.as_mut_slice())
            .expect("32 bytes are a valid HKDF length");
        key
    }
}

/// `m/purpose'/coin'/step'/…`, with coin 0 on mainnet and 1 on every other network.
fn hardened_path(
    purpose: u32,
    network: bitcoin::Network,
    steps: &[u32],
) -> Result<Vec<ChildNumber>, KeyError> {
    let hardened =
        |index| ChildNumber::from_hardened_idx(index).map_err(|_| KeyError::Step { got: index });
    let coin = u32::from(!NetworkKind::from(network).is_mainnet());
    let steps = [purpose, coin].into_iter().chain(steps.iter().copied());
    steps.map(hardened).collect()
}

/// Where a cohort's key is below the seed, in BIP32's words.
fn cohort_path(path: &KeyPath) -> String {
    let coin = u32::from(path.network != BtcNetwork::Mainnet);
    let mut text = format!("m/{COHORT_PURPOSE}'/{coin}'");
    for step in path.steps() {
        // Writing to a string cannot fail.
        let _ = write!(text, "/{step}'");
    }
    text
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(redacted)")
    }
}

impl fmt::Debug for IdentitySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentitySecrets(redacted)")
    }
}

#[cfg(test)]
mod tests;
