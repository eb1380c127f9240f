//! What resolution finds wrong beyond the DID, the options and the updates themselves.

use beacon_signal::Root;
use bitcoin::Txid;

use super::ObjectKind;
use crate::json::{Hash32, JsonError};
use crate::time::{ParseTimestampError, Timestamp};

/// A problem of a resolution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolutionError {
    /// An object that the DID or a signal stands for is nowhere.
    #[error("got no {kind} with the hash {hash} in the sidecar data and none from the store")]
    ObjectMissing {
        /// What it is.
        kind: ObjectKind,
        /// Its hash.
        hash: Hash32,
    },
    /// The store has something else in an object's place.
    #[error("the store's {kind} for the hash {hash}: {why}")]
    ObjectUnusable {
        /// What it should be.
        kind: ObjectKind,
        /// Its hash.
        hash: Hash32,
        /// What it is.
        why: Unusable,
    },
    /// There is no proof for a root.
    #[error("got no proof for the root {root} in /sidecar/smtProofs{}", others(*.unreadable))]
    ProofMissing {
        /// The root.
        root: Root,
        /// Number of proofs whose id could not be read, so that nobody knows whose they are.
        unreadable: usize,
    },
    /// No proof for a root verifies.
    #[error("/sidecar/smtProofs/{place}: {problem}")]
    ProofInvalid {
        /// The first one's place in its array.
        place: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The update of a signal has no version that it leads to.
    #[error("got {got} at /targetVersionId of the update {update}, expected a whole number")]
    NoVersion {
        /// What is there, shortened.
        got: String,
        /// The update's hash.
        update: Hash32,
    },
    /// An update that no version can have.
    #[error("update {update} leads to version {got}, expected at least 2")]
    VersionTooLow {
        /// Its version.
        got: u64,
        /// The update's hash.
        update: Hash32,
    },
    /// A version is missing.
    #[error(
        "update {update} leads to version {got}, expected {expected}: what leads there was published late or not at all"
    )]
    VersionSkipped {
        /// Its version.
        got: u64,
        /// The next version.
        expected: u64,
        /// The update's hash.
        update: Hash32,
    },
    /// Two different updates to the same version.
    #[error(
        "update {update} leads to version {version} as another one does that was announced before: one of them was published late"
    )]
    TwoUpdates {
        /// Their version.
        version: u64,
        /// The hash of the second.
        update: Hash32,
    },
    /// The version that was asked for is not there.
    #[error("got {newest} as the newest version{}, expected version {wanted} as asked for", deactivated(*.is_deactivated))]
    NoSuchVersion {
        /// The version that was asked for.
        wanted: u64,
        /// The newest.
        newest: u64,
        /// Whether there can be no newer one.
        is_deactivated: bool,
    },
    /// A time in a proof cannot be read.
    #[error("/proof/{member}: got {got}: {why}")]
    ProofTime {
        /// Which one.
        member: &'static str,
        /// What is there, shortened.
        got: String,
        /// What it should be.
        why: ParseTimestampError,
    },
    /// A proof was made after it was in a block.
    #[error("/proof/created is {created}, expected at most {block}, the time of its block")]
    CreatedLate {
        /// When it says that it was made.
        created: Timestamp,
        /// The time in the header of its block.
        block: Timestamp,
    },
    /// A proof had expired when it got into a block.
    #[error("/proof/expires is {expires}, expected at least {block}, the median time of its block")]
    Expired {
        /// When it expired.
        expires: Timestamp,
        /// The median time of its block.
        block: Timestamp,
    },
    /// A proof expired before it was made.
    #[error("/proof/expires is {expires}, expected at least {created}, when it was created")]
    ExpiredBefore {
        /// When it expired.
        expires: Timestamp,
        /// When it says that it was made.
        created: Timestamp,
    },
    /// Something about the update of one signal.
    #[error("signal {txid} in block {height}: {problem}")]
    AtSignal {
        /// The transaction.
        txid: Txid,
        /// Height of its block.
        height: u32,
        /// What is wrong.
        problem: Box<crate::error::Problem>,
    },
    /// A source contradicts itself: it is at fault, or the chain was reorganised between two of its answers.
    #[error("the source of signals tells two different things about {what}: ask again")]
    Contradiction {
        /// About what.
        what: String,
    },
    /// A limit of this implementation.
    #[error("got more than {max} {what} in one resolution, expected at most {max}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

/// Why what a store answered is not the object that it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not JSON, or too large.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// It is something else.
    #[error("got an object with the hash {got}")]
    OtherHash {
        /// Its hash.
        got: Hash32,
    },
    /// It is the right thing, which can mean nothing.
    #[error("got {got}, expected an object")]
    NotAnObject {
        /// What it is.
        got: &'static str,
    },
}

fn others(unreadable: usize) -> String {
    match unreadable {
        0 => String::new(),
        _ => format!(" ({unreadable} more have an id that is not 32 bytes in base64url)"),
    }
}

fn deactivated(is_deactivated: bool) -> &'static str {
    if is_deactivated {
        ", which deactivated the DID"
    } else {
        ""
    }
}
