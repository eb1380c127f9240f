//! A participant's did:btcr2 identifiers: their keys, their records, and the updates that it signs.
//!
//! An update must be on the disk before anything announces its hash: a signal that announces an update which nobody has
//! makes the DID unresolvable for ever. So [`Dids::sign_update`] gives an update only when its record is durable.

mod announce;
mod by_singleton;
mod calls;
mod cohorts;
pub mod commands;
mod contest;
mod file;
mod key;
mod records;
mod singleton;
#[cfg(test)]
mod tests;
pub mod updates;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use beacon_btcr2::{
    Did, Document, Error, GenesisBytes, Network, Patch, SignedUpdate, UnsignedUpdate, initial,
    proof,
};
use beacon_cohort::signer::KeyPath as CohortKeyPath;
use beacon_cohort::terms::BtcNetwork;
use bitcoin::bip32;
use bitcoin::secp256k1::{Keypair, PublicKey, Secp256k1, SecretKey};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde_json::Value;

use crate::keys::{KeyError, Seed};

pub(crate) use calls::{call, keys};
pub(crate) use cohorts::check_network_of;
pub use key::{DidKey, DidKeyPath, MAX_INDEX};
pub use records::{Fault, Found, MAX_DIDS, MAX_KEYS, MAX_UPDATES, Origin, RecordError, Records};
pub use singleton::{Draft, OwnBeacon, SingletonError};

/// The identifiers of one participant.
#[derive(Clone, Debug)]
pub struct Dids {
    records: Records,
    seed: Arc<Seed>,
    network: Network,
}

/// A DID, with its first document and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnDid {
    /// The DID.
    pub did: Did,
    /// Version 1 of its document.
    pub document: Document,
    /// Its key or its genesis document.
    pub origin: Origin,
}

/// What an update is to be made of.
#[derive(Clone, Debug)]
pub struct Change {
    /// The newest document.
    pub source: Document,
    /// The version that the update leads to: one more than that of `source`.
    pub version: u64,
    /// What changes.
    pub patch: Patch,
    /// Id of the verification method to sign with; the first one whose key is here without it.
    pub method: Option<String>,
}

impl Change {
    /// The update without its proof, and the document that it makes.
    pub fn construct(&self) -> Result<(UnsignedUpdate, Document), Error> {
        UnsignedUpdate::construct(&self.source, &self.patch, self.version)
    }
}

/// An update that was signed and is on the disk.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The update.
    pub update: SignedUpdate,
    /// The document that it makes.
    pub target: Document,
    /// Its file.
    pub file: PathBuf,
}

/// Why something cannot be done with a DID.
#[derive(Debug, thiserror::Error)]
pub enum DidsError {
    /// A record cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A key cannot be derived.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The document, the patch or the update is not valid.
    #[error(transparent)]
    Method(#[from] Error),
    /// An index that no key has.
    #[error("got key index {got}, expected at most {MAX_INDEX}")]
    Index {
        /// The index.
        got: u32,
    },
    /// No index is left.
    #[error("all of the first {0} keys are in use: name another one with its index")]
    NoIndexLeft(usize),
    /// The id of a genesis document is not the placeholder.
    #[error(
        "got {got} at /id of the genesis document, expected {:?}: the DID is put there",
        initial::PLACEHOLDER
    )]
    NotPlaceholder {
        /// What is there.
        got: String,
    },
    /// No key of the document that may sign is one of ours.
    #[error(
        "got a document whose capabilityInvocation has none of this agent's keys, expected one of them: {tried}"
    )]
    NoKey {
        /// What is wrong with each method that was looked at.
        tried: String,
    },
    /// A record names a place where another key is.
    #[error(
        "got the key {got} at {path}, expected {expected}: the seed is not the one that the records under `dids` were made with"
    )]
    WrongSeed {
        /// What the seed gives.
        got: String,
        /// Where.
        path: DidKeyPath,
        /// What the record says.
        expected: String,
    },
    /// The operating system has no randomness to give.
    #[error("cannot draw 32 bytes from the operating system's randomness: {0}")]
    Randomness(rand::rand_core::OsError),
}

impl Dids {
    /// Where a cohort's key is below the seed, as PSBTs say it.
    pub(crate) fn cohort_key_source(&self, path: &CohortKeyPath) -> Option<bip32::KeySource> {
        let network = path.network.bitcoin();
        self.seed.cohort_key_source(network, path.steps()).ok()
    }

    /// Those in a data directory, with keys of this seed, usually on this network. Nothing is read or made yet.
    pub fn new(data_dir: &Path, seed: Arc<Seed>, network: BtcNetwork) -> Self {
        Self {
            records: Records::of(data_dir),
            seed,
            network: of_method(network),
        }
    }

    /// The network of new DIDs, unless another one is named.
    pub fn network(&self) -> Network {
        self.network
    }

    /// The seed that their keys come from.
    pub(crate) fn seed(&self) -> &Seed {
        &self.seed
    }

    /// The files.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// A key for documents on a network: the first one that is not in use, or the one with this index. It is kept, so that
    /// it is given out once, unless its index is named again.
    pub fn new_key(&self, network: Network, index: Option<u32>) -> Result<DidKey, DidsError> {
        let key = self.key(network, index)?;
        self.records.add_key(&key)?;
        Ok(key)
    }

    /// Makes the DID of a key of ours, as for [`Self::new_key`].
    pub fn create(&self, network: Network, index: Option<u32>) -> Result<OwnDid, DidsError> {
        let key = self.key(network, index)?;
        self.keep_key_did(network, key)
    }

    /// Makes the DID of a key, which may be elsewhere.
    pub fn create_from_key(&self, network: Network, key: PublicKey) -> Result<OwnDid, DidsError> {
        let path = self.records.place_of(&key)?;
        let public_key = key;
        self.keep_key_did(network, DidKey { path, public_key })
    }

    /// Makes the DID of a genesis document.
    pub fn create_from_genesis(
        &self,
        network: Network,
        genesis: Value,
    ) -> Result<OwnDid, DidsError> {
        let id = genesis.get("id");
        if id.and_then(Value::as_str) != Some(initial::PLACEHOLDER) {
            let got = id.map_or_else(|| "nothing".to_owned(), |id| format!("{id:.100}"));
            return Err(DidsError::NotPlaceholder { got });
        }
        let (did, document) = initial::create_from_genesis(network, &genesis)?;
        if let Some(dangling) = document.dangling_reference() {
            let code = beacon_btcr2::ErrorCode::InvalidDidDocument;
            return Err(Error::new(code, dangling).into());
        }
        let origin = Origin::Genesis(genesis);
        self.records.add_did(&did, &origin)?;
        Ok(OwnDid {
            did,
            document,
            origin,
        })
    }

    /// A DID that has a record.
    pub fn get(&self, did: &Did) -> Result<OwnDid, DidsError> {
        let origin = self.records.origin(did)?;
        Ok(OwnDid {
            did: did.clone(),
            document: origin.document(did)?,
            origin,
        })
    }

    /// Constructs the update, signs it and keeps it; all of it has happened when this returns, and a resolver accepts the
    /// update for `source`.
    ///
    /// An update of the same content that was signed before is given again: another signature would be another update to
    /// the same version.
    pub fn sign_update(&self, change: &Change) -> Result<Signed, DidsError> {
        let did = change.source.did();
        let known = self.records.updates(did)?;
        self.records.origin(did)?;
        let (unsigned, target) = change.construct()?;
        let same = |update: &&SignedUpdate| {
            update.unsigned().hash() == unsigned.hash() && update.apply(&change.source).is_ok()
        };
        let update = match known.records.iter().find(same) {
            Some(update) => update.clone(),
            None => self.sign(change, &unsigned)?,
        };
        // Also one that was there: its directory may not have been synced.
        let file = self.records.add_update(did, &update)?;
        Ok(Signed {
            update,
            target,
            file,
        })
    }

    fn sign(&self, change: &Change, unsigned: &UnsignedUpdate) -> Result<SignedUpdate, DidsError> {
        let mut aux = [0; 32];
        OsRng
            .try_fill_bytes(&mut aux)
            .map_err(DidsError::Randomness)?;
        let (method, mut pair) = self.key_pair(&change.source, change.method.as_deref())?;
        let sign = |message: &[u8; 32]| proof::sign(&pair, &aux, message);
        let signed = unsigned.sign(&change.source, &method, sign);
        pair.non_secure_erase();
        Ok(signed?)
    }

    /// The verification method to sign with, and its keys. Whoever has them erases them.
    fn key_pair(
        &self,
        document: &Document,
        wanted: Option<&str>,
    ) -> Result<(String, Keypair), DidsError> {
        let (method, expected, path) = self.signing_key(document, wanted)?;
        let pair = self.pair(path)?;
        let got = pair.public_key();
        if got != expected {
            return Err(DidsError::WrongSeed {
                got: got.to_string(),
                path,
                expected: expected.to_string(),
            });
        }
        Ok((method, pair))
    }

    /// The verification method to sign with, its key, and where that is.
    fn signing_key(
        &self,
        document: &Document,
        wanted: Option<&str>,
    ) -> Result<(String, PublicKey, DidKeyPath), DidsError> {
        let methods = match wanted {
            Some(method) => vec![method.to_owned()],
            None => update_methods(document),
        };
        let mut tried = Vec::new();
        for method in methods {
            let key = document
                .update_key(&method)
                .map_err(|problem| problem.to_string())
                .and_then(|key| proof::parse_multikey(key).map_err(|error| error.to_string()));
            let key = match key {
                Ok(key) => key,
                Err(problem) => {
                    tried.push(problem);
                    continue;
                }
            };
            match self.records.place_of(&key) {
                Ok(Some(path)) => return Ok((method, key, path)),
                Ok(None) => tried.push(format!(
                    "there is no record of {method}'s key (`did key --index N` makes it again)"
                )),
                Err(error) => tried.push(format!("{method}: {error}")),
            }
        }
        if tried.is_empty() {
            tried.push("it is empty".to_owned());
        }
        let tried = tried.join("; ");
        Err(DidsError::NoKey { tried })
    }

    fn keep_key_did(&self, network: Network, key: DidKey) -> Result<OwnDid, DidsError> {
        let did = Did::new(network, GenesisBytes::Key(key.public_key));
        let origin = Origin::Key(key);
        let document = origin.document(&did)?;
        self.records.add_did(&did, &origin)?;
        Ok(OwnDid {
            did,
            document,
            origin,
        })
    }

    /// The key with this index, or the first one that nothing is known of.
    fn key(&self, network: Network, index: Option<u32>) -> Result<DidKey, DidsError> {
        if let Some(index) = index {
            return self.key_at(network, index);
        }
        let used = self.records.public_keys()?;
        let most = MAX_DIDS + MAX_KEYS;
        for index in 0..=u32::try_from(most).unwrap_or(u32::MAX) {
            let key = self.key_at(network, index)?;
            if !used.contains(&key.public_key) {
                return Ok(key);
            }
        }
        Err(DidsError::NoIndexLeft(most))
    }

    fn key_at(&self, network: Network, index: u32) -> Result<DidKey, DidsError> {
        let path = DidKeyPath::new(network, index).ok_or(DidsError::Index { got: index })?;
        let mut pair = self.pair(path)?;
        let public_key = pair.public_key();
        pair.non_secure_erase();
        let path = Some(path);
        Ok(DidKey { path, public_key })
    }

    fn pair(&self, path: DidKeyPath) -> Result<Keypair, DidsError> {
        let secret = self.seed.did_key(path.network(), path.index())?;
        let no_key = |_| DidsError::Index { got: path.index() };
        let mut secret = SecretKey::from_slice(secret.as_slice()).map_err(no_key)?;
        let pair = Keypair::from_secret_key(&Secp256k1::signing_only(), &secret);
        secret.non_secure_erase();
        Ok(pair)
    }
}

/// The ids of the verification methods that may update a document, in their order.
fn update_methods(document: &Document) -> Vec<String> {
    let methods = document.value().get("capabilityInvocation");
    let methods = methods.and_then(Value::as_array).into_iter().flatten();
    let id = |method: &Value| {
        let id = method.as_str().or_else(|| method.get("id")?.as_str());
        id.map(str::to_owned)
    };
    methods.filter_map(id).collect()
}

/// A network as the method calls it.
fn of_method(network: BtcNetwork) -> Network {
    match network {
        BtcNetwork::Mainnet => Network::Bitcoin,
        BtcNetwork::Testnet3 => Network::Testnet3,
        BtcNetwork::Testnet4 => Network::Testnet4,
        BtcNetwork::Signet => Network::Signet,
        BtcNetwork::Mutinynet => Network::Mutinynet,
        BtcNetwork::Regtest => Network::Regtest,
    }
}
