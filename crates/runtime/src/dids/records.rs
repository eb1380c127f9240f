//! The files of a participant's DIDs. They are what a backup must have beside the seed.
//!
//! ```text
//! <data-dir>/dids/<did>/key.json                       of a k DID: its key, and where it is below the seed, if it is ours
//!                       genesis.json                   of an x DID: the genesis document
//!                       updates/<version>-<hash>.json  signed updates, by the version that they lead to
//!                 keys/<public key>.json               keys of ours that no DID is made of
//! ```
//!
//! A file is written once, as a whole, and never changed or removed. Updates and genesis documents are in their canonical
//! form, so `sha256sum` of a file is the hash that the DID, or a signal, has of it. Whatever is damaged or does not belong
//! there is an error of its own that names the file, and hides nothing else.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use beacon_btcr2::json::{self, JsonError, Limits};
use beacon_btcr2::{Did, Document, GenesisBytes, Hash32, Problem, SignedUpdate, initial};
use bitcoin::secp256k1::PublicKey;
use serde_json::Value;

use super::file;
use super::key::{DidKey, DidKeyPath};

/// Most DIDs of one participant.
pub const MAX_DIDS: usize = 4096;
/// Most keys that no DID is made of.
pub const MAX_KEYS: usize = 4096;
/// Most updates of one DID: as many as one resolution takes.
pub const MAX_UPDATES: usize = beacon_btcr2::Sidecar::MAX_ITEMS;
/// How much a key's record may hold.
const KEY_LIMITS: Limits = Limits {
    bytes: 1024,
    depth: 1,
    nodes: 16,
};

/// Folder of keys that no DID is made of.
const KEYS: &str = "keys";

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that is there is not a record.
    #[error("{path}: {fault}: put the file back from your backup, or move it elsewhere", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A record is written once.
    #[error("{path} is there with another content than expected, and records are never changed: move the file elsewhere if it is damaged", path = path.display())]
    Differs {
        /// The file.
        path: PathBuf,
    },
    /// More than is kept.
    #[error("{path} holds more than expected: at most {max} records", path = path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// There is no such DID here.
    #[error(
        "got {did}, expected a DID that `did list` shows: `did create` makes the record of one"
    )]
    Unknown {
        /// The DID.
        did: Did,
    },
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Something else than a record has this name.
    #[error("got something else, expected {0}")]
    Foreign(&'static str),
    /// It is too large to be one.
    #[error("got more than {max} bytes, expected at most that")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// It is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It has another content than its name says.
    #[error("got content with the hash {}, expected {}", got.to_hex(), expected.to_hex())]
    Hash {
        /// Of its content.
        got: Hash32,
        /// Of its name.
        expected: Hash32,
    },
    /// It is not an update, or not a genesis document.
    #[error("{0}")]
    Content(Problem),
    /// Its update leads to another version than its name says.
    #[error("got an update to version {got}, expected version {expected}")]
    Version {
        /// Of the update.
        got: u64,
        /// Of the name.
        expected: u64,
    },
    /// It is not the record of this key.
    #[error("got {got}, expected the record of the key {expected}")]
    Key {
        /// What it holds.
        got: String,
        /// The key of its name.
        expected: PublicKey,
    },
}

impl Fault {
    /// With the file's name.
    pub(super) fn at(self, path: &Path) -> RecordError {
        RecordError::Unusable {
            path: path.into(),
            fault: self,
        }
    }
}

/// What a DID is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A key: of ours, if its place below the seed is known.
    Key(DidKey),
    /// A genesis document.
    Genesis(Value),
}

/// What was found, and what was found unusable.
#[derive(Debug)]
pub struct Found<T> {
    /// In their order.
    pub records: Vec<T>,
    /// Each names a file.
    pub problems: Vec<RecordError>,
}

/// The records of one participant. Whoever writes has the data directory to itself ([`crate::data_dir`]).
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Those in a data directory. Nothing is read or made yet.
    pub fn of(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("dids"),
        }
    }

    /// All DIDs.
    pub fn dids(&self) -> Result<Found<Did>, RecordError> {
        let mut found = Found::default();
        // One name more is the folder of keys.
        for name in file::names(&self.folder, MAX_DIDS + 1)? {
            if name == Path::new(KEYS) {
                continue;
            }
            let path = self.folder.join(&name);
            match name.to_str().and_then(|name| name.parse::<Did>().ok()) {
                // A folder without a file is what a crash has left of a DID that was not finished.
                Some(did) if path.is_dir() => match file::names(&path, 16) {
                    Ok(names) if names.is_empty() => {}
                    Ok(_) => found.records.push(did),
                    Err(problem) => found.problems.push(problem),
                },
                _ => {
                    let expected = "the folder of a did:btcr2 identifier";
                    found.problems.push(Fault::Foreign(expected).at(&path));
                }
            }
        }
        Ok(found)
    }

    /// What a DID is made of.
    pub fn origin(&self, did: &Did) -> Result<Origin, RecordError> {
        let path = self.origin_path(did);
        match did.genesis() {
            GenesisBytes::Key(key) => {
                let key = read_key(&path, key)?;
                let unknown = || RecordError::Unknown { did: did.clone() };
                key.map(Origin::Key).ok_or_else(unknown)
            }
            GenesisBytes::Document(_) => {
                let bytes = file::read(&path, Limits::DOCUMENT.bytes)?;
                let bytes = bytes.ok_or_else(|| RecordError::Unknown { did: did.clone() })?;
                let genesis = json::parse(&bytes, &Limits::DOCUMENT);
                let genesis = genesis.map_err(|error| Fault::Json(error).at(&path))?;
                initial::from_genesis(did, &genesis)
                    .map_err(|error| Fault::Content(error.problem).at(&path))?;
                Ok(Origin::Genesis(genesis))
            }
        }
    }

    /// Keeps a DID. For good when this returns.
    pub fn add_did(&self, did: &Did, origin: &Origin) -> Result<(), RecordError> {
        let path = self.origin_path(did);
        match origin {
            Origin::Key(key) => match self.origin(did) {
                // It may say less or more than is known now: where the key is. It is the same key.
                Ok(_) => Ok(()),
                Err(RecordError::Unknown { .. }) => {
                    room(&self.folder, MAX_DIDS)?;
                    file::write_once(&path, json::canonical(&key.to_value()).as_bytes())
                }
                Err(other) => Err(other),
            },
            Origin::Genesis(genesis) => {
                room(&self.folder, MAX_DIDS)?;
                file::write_once(&path, json::canonical(genesis).as_bytes())
            }
        }
    }

    /// All updates of a DID that were signed here, by version and hash.
    pub fn updates(&self, did: &Did) -> Result<Found<SignedUpdate>, RecordError> {
        let folder = self.updates_folder(did);
        let mut found = Found::default();
        for name in file::names(&folder, MAX_UPDATES)? {
            let path = folder.join(&name);
            match read_update(&path) {
                Ok(update) => found.records.push(update),
                Err(problem) => found.problems.push(problem),
            }
        }
        let order = |update: &SignedUpdate| (update.target_version(), update.id());
        found.records.sort_unstable_by_key(order);
        Ok(found)
    }

    /// How many updates of a DID there are, readable or not.
    pub fn count_updates(&self, did: &Did) -> Result<usize, RecordError> {
        file::names(&self.updates_folder(did), MAX_UPDATES).map(|names| names.len())
    }

    /// Keeps an update. For good when this returns.
    pub fn add_update(&self, did: &Did, update: &SignedUpdate) -> Result<PathBuf, RecordError> {
        self.origin(did)?;
        let folder = self.updates_folder(did);
        room(&folder, MAX_UPDATES)?;
        let name = format!("{}-{}.json", update.target_version(), update.id().to_hex());
        let path = folder.join(name);
        file::write_once(&path, json::canonical(update.value()).as_bytes())?;
        Ok(path)
    }

    /// Keeps a key that no DID is made of. For good when this returns.
    pub fn add_key(&self, key: &DidKey) -> Result<(), RecordError> {
        let path = self.key_path(&key.public_key);
        room(&self.folder.join(KEYS), MAX_KEYS)?;
        file::write_once(&path, json::canonical(&key.to_value()).as_bytes())
    }

    /// All keys that no DID is made of.
    pub fn keys(&self) -> Result<Found<DidKey>, RecordError> {
        let folder = self.folder.join(KEYS);
        let mut found = Found::default();
        for name in file::names(&folder, MAX_KEYS)? {
            let path = folder.join(&name);
            let key = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(key) = key.and_then(|key| key.parse().ok()) else {
                let expected = "a file <public key>.json";
                found.problems.push(Fault::Foreign(expected).at(&path));
                continue;
            };
            match read_key(&path, &key) {
                Ok(Some(key)) => found.records.push(key),
                Ok(None) => {}
                Err(problem) => found.problems.push(problem),
            }
        }
        Ok(found)
    }

    /// All public keys that have a record, or that a DID is made of. They are in the names: no damage hides one.
    pub fn public_keys(&self) -> Result<BTreeSet<PublicKey>, RecordError> {
        let of_dids = self.dids()?.records.into_iter();
        let of_dids = of_dids.filter_map(|did| match did.genesis() {
            GenesisBytes::Key(key) => Some(*key),
            GenesisBytes::Document(_) => None,
        });
        let names = file::names(&self.folder.join(KEYS), MAX_KEYS)?.into_iter();
        let alone = names.filter_map(|name| name.file_stem()?.to_str()?.parse().ok());
        Ok(of_dids.chain(alone).collect())
    }

    /// Where a key is below the seed, if a record says so. A record that is unusable says nothing, unless no other does.
    pub fn place_of(&self, key: &PublicKey) -> Result<Option<DidKeyPath>, RecordError> {
        let mut problem = None;
        match read_key(&self.key_path(key), key) {
            Ok(Some(key)) if key.path.is_some() => return Ok(key.path),
            Ok(_) => {}
            Err(error) => problem = Some(error),
        }
        for did in self.dids()?.records {
            if *did.genesis() != GenesisBytes::Key(*key) {
                continue;
            }
            match self.origin(&did) {
                Ok(Origin::Key(key)) if key.path.is_some() => return Ok(key.path),
                Ok(_) => {}
                Err(error) => problem = Some(error),
            }
        }
        problem.map_or(Ok(None), Err)
    }

    fn origin_path(&self, did: &Did) -> PathBuf {
        let name = match did.genesis() {
            GenesisBytes::Key(_) => "key.json",
            GenesisBytes::Document(_) => "genesis.json",
        };
        self.folder.join(did.as_str()).join(name)
    }

    fn updates_folder(&self, did: &Did) -> PathBuf {
        self.folder.join(did.as_str()).join("updates")
    }

    fn key_path(&self, key: &PublicKey) -> PathBuf {
        self.folder.join(KEYS).join(format!("{key}.json"))
    }
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            problems: Vec::new(),
        }
    }
}

impl Origin {
    /// The first document of the DID that is made of this.
    pub fn document(&self, did: &Did) -> Result<Document, beacon_btcr2::Error> {
        match self {
            Self::Genesis(genesis) => initial::from_genesis(did, genesis),
            // A DID of a genesis document that is paired with a key has another hash than null.
            Self::Key(_) => match initial::from_key(did)? {
                Some(document) => Ok(document),
                None => initial::from_genesis(did, &Value::Null),
            },
        }
    }
}

/// Refuses what could not be listed afterwards.
fn room(folder: &Path, max: usize) -> Result<(), RecordError> {
    if file::names(folder, max + 1)?.len() < max {
        return Ok(());
    }
    let path = folder.into();
    Err(RecordError::TooMany { path, max })
}

fn read_key(path: &Path, expected: &PublicKey) -> Result<Option<DidKey>, RecordError> {
    let Some(bytes) = file::read(path, KEY_LIMITS.bytes)? else {
        return Ok(None);
    };
    let value = json::parse(&bytes, &KEY_LIMITS).map_err(|error| Fault::Json(error).at(path))?;
    let key = DidKey::from_value(&value).filter(|key| key.public_key == *expected);
    key.map(Some).ok_or_else(|| {
        let (got, expected) = (value.to_string(), *expected);
        Fault::Key { got, expected }.at(path)
    })
}

fn read_update(path: &Path) -> Result<SignedUpdate, RecordError> {
    let (version, id) = named(path)
        .ok_or_else(|| Fault::Foreign("a file <version>-<64 hex digits>.json").at(path))?;
    let bytes = file::read(path, Limits::UPDATE.bytes)?;
    let bytes = bytes.ok_or_else(|| Fault::Foreign("a file that stays").at(path))?;
    let value =
        json::parse(&bytes, &Limits::UPDATE).map_err(|error| Fault::Json(error).at(path))?;
    let got = json::hash(&value);
    if got != id {
        let expected = id;
        return Err(Fault::Hash { got, expected }.at(path));
    }
    let update =
        SignedUpdate::from_value(value).map_err(|error| Fault::Content(error.problem).at(path))?;
    if update.target_version() != version {
        let (got, expected) = (update.target_version(), version);
        return Err(Fault::Version { got, expected }.at(path));
    }
    Ok(update)
}

/// Version and hash in the name of an update's file.
fn named(path: &Path) -> Option<(u64, Hash32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
    let (version, hash) = name.split_once('-')?;
    Some((version.parse().ok()?, Hash32::from_hex(hash).ok()?))
}
