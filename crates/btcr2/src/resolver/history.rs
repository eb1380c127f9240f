//! The document that is being put together, and the updates that made it ("Apply update", "Confirm Duplicate Update").

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::ResolutionError;
use super::signal::{Block, Signal};
use crate::document::Document;
use crate::error::{Error, ErrorCode};
use crate::json::{self, Hash32};
use crate::result::Resolved;
use crate::time::Timestamp;
use crate::update::{FIRST_VERSION, SignedUpdate};

#[derive(Debug)]
pub(super) struct History {
    /// The document of the newest version ("current_document").
    document: Document,
    /// The updates without their proofs: the first one made version 2 ("update_hash_history").
    updates: Vec<Hash32>,
    /// The same with their proofs, and repetitions of them under other proofs: to be hashed once, however often announced.
    confirmed: BTreeSet<Hash32>,
    /// The signal of the last one.
    last: Option<Signal>,
}

impl History {
    pub(super) fn new(document: Document) -> Self {
        Self {
            document,
            updates: Vec::new(),
            confirmed: BTreeSet::new(),
            last: None,
        }
    }

    pub(super) fn document(&self) -> &Document {
        &self.document
    }

    pub(super) fn version(&self) -> u64 {
        FIRST_VERSION + self.updates.len() as u64
    }

    /// Height of the block that holds the last update's signal ("current_block_height").
    pub(super) fn height(&self) -> u32 {
        self.last.map_or(0, |signal| signal.block.height)
    }

    pub(super) fn resolved(&self) -> Resolved {
        Resolved {
            document: self.document.clone(),
            version_id: self.version(),
            confirmations: self.last.map_or(0, |signal| signal.confirmations),
            updated: self.last.map(|signal| signal.block.time()),
        }
    }

    /// Checks that an update to a version that exists is the one that made it: it may be announced again, by another beacon,
    /// in another block or with another proof. It leaves everything as it is.
    pub(super) fn confirm(
        &mut self,
        version: u64,
        update: Hash32,
        value: &Value,
    ) -> Result<(), Error> {
        if self.confirmed.contains(&update) {
            return Ok(());
        }
        let Some(number) = version.checked_sub(FIRST_VERSION + 1) else {
            let problem = ResolutionError::VersionTooLow {
                got: version,
                update,
            };
            return Err(Error::new(ErrorCode::InvalidDidUpdate, problem));
        };
        let mut unsigned = value.clone();
        if let Some(members) = unsigned.as_object_mut() {
            members.remove("proof");
        }
        let known = usize::try_from(number).ok();
        let known = known.and_then(|number| self.updates.get(number));
        if known == Some(&json::hash(&unsigned)) {
            self.confirmed.insert(update);
            return Ok(());
        }
        let problem = ResolutionError::TwoUpdates { version, update };
        Err(Error::new(ErrorCode::LatePublishing, problem))
    }

    /// Makes the next version.
    pub(super) fn apply(&mut self, value: &Value, signal: &Signal) -> Result<(), Error> {
        let update = SignedUpdate::from_value(value.clone())?;
        let document = update.apply(&self.document)?;
        check_times(update.value(), &signal.block)
            .map_err(Error::of(ErrorCode::InvalidDidUpdate))?;
        self.document = document;
        self.updates.push(update.unsigned().hash());
        self.confirmed.insert(update.id());
        self.last = Some(*signal);
        Ok(())
    }
}

/// The times in a proof, where there are any, against those of the block that holds its signal ("Check update.proof").
///
/// A miner sets the time in the header of its own block, about an hour ahead of the median on mainnet. So `created`, a moment
/// shortly before the block, is held against the header, and `expires`, which limits how long an update can be held back,
/// against the median.
fn check_times(update: &Value, block: &Block) -> Result<(), ResolutionError> {
    let created = proof_time(update, "created")?;
    let expires = proof_time(update, "expires")?;
    if let Some(created) = created
        && created > block.time()
    {
        let block = block.time();
        return Err(ResolutionError::CreatedLate { created, block });
    }
    if let Some(expires) = expires
        && expires < block.median_time()
    {
        let block = block.median_time();
        return Err(ResolutionError::Expired { expires, block });
    }
    if let (Some(created), Some(expires)) = (created, expires)
        && expires < created
    {
        return Err(ResolutionError::ExpiredBefore { expires, created });
    }
    Ok(())
}

fn proof_time(update: &Value, member: &'static str) -> Result<Option<Timestamp>, ResolutionError> {
    let Some(value) = update.get("proof").and_then(|proof| proof.get(member)) else {
        return Ok(None);
    };
    // What is not a text is read as the empty one, which is no time.
    let time = Timestamp::parse(value.as_str().unwrap_or_default());
    time.map(Some).map_err(|why| ResolutionError::ProofTime {
        member,
        got: json::shorten(value),
        why,
    })
}
