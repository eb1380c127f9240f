//! What is known of the data behind signals: sidecar data, and what a content addressed store answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use beacon_signal::{Index, LeafValue, Proof, Root, Strictness, UpdateId};
use multibase::Base;
use serde_json::Value;

use super::error::{ResolutionError, Unusable};
use super::{Object, ObjectKind};
use crate::beacon::Announcement;
use crate::error::{Error, ErrorCode};
use crate::identifier::Did;
use crate::json::{self, Hash32};
use crate::sidecar::Sidecar;

/// Tables by hash ("Process Sidecar Data").
#[derive(Debug)]
pub(super) struct Known {
    genesis: Option<Value>,
    updates: BTreeMap<Hash32, Arc<Value>>,
    announcements: BTreeMap<Hash32, Announcement>,
    /// The proofs that name a root, each with its place in the sidecar data.
    proofs: BTreeMap<Root, Vec<(usize, Value)>>,
    /// Which update a tree has for the DID, so that a root that is signalled again and again is not proven again.
    proven: BTreeMap<Root, Result<Option<Hash32>, Error>>,
    /// Proofs without an id that could be read: they are nobody's, but worth a word when one is missed.
    lost_proofs: usize,
    /// What the store was asked for and does not have, or has something else in its place.
    absent: BTreeMap<Object, Option<Unusable>>,
    /// Bytes that the store has answered.
    fetched: usize,
}

/// Whether something is known.
pub(super) enum Lookup<T> {
    /// It is.
    Found(T),
    /// The store must be asked first. Once it was asked in vain, that is an error.
    Ask(Object),
}

impl Known {
    pub(super) fn new(sidecar: Sidecar) -> Self {
        let mut known = Self {
            genesis: sidecar.genesis_document,
            updates: BTreeMap::new(),
            announcements: BTreeMap::new(),
            proofs: BTreeMap::new(),
            proven: BTreeMap::new(),
            lost_proofs: 0,
            absent: BTreeMap::new(),
            fetched: 0,
        };
        for update in sidecar.updates {
            known.updates.insert(json::hash(&update), Arc::new(update));
        }
        for map in sidecar.cas_updates {
            // The sidecar has objects only, so that each is a map.
            if let Ok(map) = Announcement::from_value(map) {
                known.announcements.insert(map.hash(), map);
            }
        }
        for (place, proof) in sidecar.smt_proofs.into_iter().enumerate() {
            let id = proof.get("id").and_then(Value::as_str);
            match id.and_then(|id| id.parse().ok()) {
                Some(root) => known.proofs.entry(root).or_default().push((place, proof)),
                None => known.lost_proofs += 1,
            }
        }
        known
    }

    /// The genesis document with this hash. One in the sidecar data is taken at once, whatever its hash: that it is the
    /// wrong one is an error that no store can heal.
    pub(super) fn take_genesis(&mut self, hash: Hash32) -> Result<Lookup<Value>, Error> {
        match self.genesis.take() {
            Some(document) => Ok(Lookup::Found(document)),
            None => self.not_here(Object::new(ObjectKind::Genesis, hash)),
        }
    }

    pub(super) fn update(&self, hash: Hash32) -> Result<Lookup<Arc<Value>>, Error> {
        match self.updates.get(&hash) {
            Some(update) => Ok(Lookup::Found(Arc::clone(update))),
            None => self.not_here(Object::new(ObjectKind::Update, hash)),
        }
    }

    pub(super) fn announcement(&self, hash: Hash32) -> Result<Lookup<&Announcement>, Error> {
        match self.announcements.get(&hash) {
            Some(map) => Ok(Lookup::Found(map)),
            None => self.not_here(Object::new(ObjectKind::Announcement, hash)),
        }
    }

    fn not_here<T>(&self, object: Object) -> Result<Lookup<T>, Error> {
        let Some(why) = self.absent.get(&object) else {
            return Ok(Lookup::Ask(object));
        };
        let Object { kind, hash } = object;
        let code = match (kind, why) {
            (ObjectKind::Genesis, None) => ErrorCode::NotFound,
            (ObjectKind::Genesis, Some(_)) => ErrorCode::InvalidDid,
            (ObjectKind::Update, Some(_)) => ErrorCode::InvalidSignalData,
            (ObjectKind::Update, None) | (ObjectKind::Announcement, _) => {
                ErrorCode::MissingUpdateData
            }
        };
        Err(match why.clone() {
            None => Error::new(code, ResolutionError::ObjectMissing { kind, hash }),
            Some(why) => Error::new(code, ResolutionError::ObjectUnusable { kind, hash, why }),
        })
    }

    /// The update that the tree with this root has for a DID. No store is asked for proofs: they are not addressed by their
    /// content, since the same root has one for each DID.
    ///
    /// Several proofs may name the root, since sidecar data of several DIDs may have been put together: one that verifies is
    /// enough.
    pub(super) fn update_in_tree(
        &mut self,
        root: Root,
        did: &Did,
    ) -> Result<Option<Hash32>, Error> {
        if let Some(update) = self.proven.get(&root) {
            return update.clone();
        }
        let update = match self.proofs.get(&root) {
            Some(proofs) => update_proven(proofs, root, did),
            None => Err(Error::new(
                ErrorCode::MissingUpdateData,
                ResolutionError::ProofMissing {
                    root,
                    unreadable: self.lost_proofs,
                },
            )),
        };
        self.proven.insert(root, update.clone());
        update
    }

    /// Takes what the store answered.
    pub(super) fn answer(&mut self, object: Object, answer: Option<Vec<u8>>) -> Result<(), Error> {
        let Some(bytes) = answer else {
            self.absent.insert(object, None);
            return Ok(());
        };
        self.fetched = self.fetched.saturating_add(bytes.len());
        if self.fetched > super::MAX_OBJECT_BYTES {
            return Err(super::limit("bytes of objects", super::MAX_OBJECT_BYTES));
        }
        match read(object, &bytes) {
            Err(unusable) => {
                self.absent.insert(object, Some(unusable));
            }
            Ok(value) => match object.kind {
                ObjectKind::Genesis => self.genesis = Some(value),
                ObjectKind::Update => {
                    self.updates.insert(object.hash, Arc::new(value));
                }
                ObjectKind::Announcement => {
                    if let Ok(map) = Announcement::from_value(value) {
                        self.announcements.insert(object.hash, map);
                    }
                }
            },
        }
        Ok(())
    }
}

/// Reads an object that must have a certain hash and be a JSON object.
fn read(object: Object, bytes: &[u8]) -> Result<Value, Unusable> {
    let value = json::parse(bytes, &object.kind.limits()).map_err(Unusable::Json)?;
    let got = json::hash(&value);
    if got != object.hash {
        return Err(Unusable::OtherHash { got });
    }
    if !value.is_object() {
        return Err(Unusable::NotAnObject {
            got: json::kind(&value),
        });
    }
    Ok(value)
}

/// The update of the first proof that verifies; if none does, what is wrong with the first.
fn update_proven(
    proofs: &[(usize, Value)],
    root: Root,
    did: &Did,
) -> Result<Option<Hash32>, Error> {
    let index = Index::of_did(did.as_str());
    let mut first_problem = None;
    for (place, proof) in proofs {
        match verify(proof, &index, &root) {
            Ok(update) => return Ok(update),
            Err(problem) => {
                first_problem.get_or_insert((*place, problem));
            }
        }
    }
    let (place, problem) = first_problem.unwrap_or_default();
    Err(Error::new(
        ErrorCode::InvalidSignalData,
        ResolutionError::ProofInvalid { place, problem },
    ))
}

/// "SMT Proof Verification". Gives the update that the proof has for the index.
///
/// The leaf is made here and not by [`Proof`], whose nonces have 32 bytes as the members' own do: the specification lets the
/// nonces of others have any length.
fn verify(proof: &Value, index: &Index, root: &Root) -> Result<Option<Hash32>, String> {
    let mut path = proof.clone();
    let mut take = |name: &str| {
        path.as_object_mut()
            .and_then(|members| members.remove(name))
    };
    let (nonce, update) = (take("nonce"), take("updateId"));
    let nonce = nonce.map(|nonce| {
        let bytes = nonce
            .as_str()
            .and_then(|text| Base::Base64Url.decode(text).ok());
        bytes.ok_or_else(|| wrong("nonce", &nonce, "a text in base64url without padding"))
    });
    let update = update.map(|update| {
        let hash = update
            .as_str()
            .and_then(|text| text.parse::<UpdateId>().ok());
        hash.ok_or_else(|| wrong("updateId", &update, "32 bytes in base64url without padding"))
    });
    let (nonce, update) = (nonce.transpose()?, update.transpose()?);
    let leaf = match (&nonce, &update) {
        (Some(nonce), update) => LeafValue::with_nonce(nonce, update.as_ref()),
        (None, Some(update)) => LeafValue::update_without_nonce(update),
        (None, None) => LeafValue::EMPTY,
    };
    let path: Proof =
        serde_json::from_value(path).map_err(|error| json::shorten_text(error.to_string()))?;
    let verified = path.verify(index, &leaf, root, Strictness::Resolver);
    verified.map_err(|error| error.to_string())?;
    Ok(update.map(Hash32::from))
}

fn wrong(member: &str, got: &Value, expected: &str) -> String {
    format!(
        "got {} at /{member}, expected {expected}",
        json::shorten(got)
    )
}
