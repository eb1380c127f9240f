//! The errors of the method: a code that every resolver of did:btcr2 knows, and what is wrong where.

use std::fmt;

use crate::beacon::BeaconError;
use crate::document::DocumentError;
use crate::identifier::DidError;
use crate::json::JsonError;
use crate::options::OptionsError;
use crate::patch::PatchError;
use crate::proof::ProofError;
use crate::resolver::ResolutionError;
use crate::update::UpdateError;

/// The codes of did:btcr2 and those of DID Resolution v1 that are raised here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The DID, or the genesis document that it is the hash of, is not valid.
    InvalidDid,
    /// An update cannot be made or applied.
    InvalidDidUpdate,
    /// The data for a beacon signal does not agree with its signal bytes.
    InvalidSignalData,
    /// The history of updates is ambiguous.
    LatePublishing,
    /// What a beacon signal announces for the DID is nowhere to be found.
    MissingUpdateData,
    /// A DID document does not conform.
    InvalidDidDocument,
    /// The resolution options are not valid.
    InvalidOptions,
    /// There is no such version of the DID document.
    NotFound,
    /// The DID is of another method.
    MethodNotSupported,
    /// A limit of this implementation, or a source of data that fails.
    InternalError,
}

impl ErrorCode {
    /// The code as it stands in `didResolutionMetadata.error`.
    ///
    /// The published vectors write `LATE_PUBLISHING_ERROR` where the specification's text has `LATE_PUBLISHING`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidDid => "INVALID_DID",
            Self::InvalidDidUpdate => "INVALID_DID_UPDATE",
            Self::InvalidSignalData => "INVALID_SIGNAL_DATA",
            Self::LatePublishing => "LATE_PUBLISHING_ERROR",
            Self::MissingUpdateData => "MISSING_UPDATE_DATA",
            Self::InvalidDidDocument => "INVALID_DID_DOCUMENT",
            Self::InvalidOptions => "INVALID_OPTIONS",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotSupported => "METHOD_NOT_SUPPORTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// The error of DID Resolution v1 that this one is a case of: itself, unless it is one of did:btcr2's own. An
    /// HTTP binding takes its status from here.
    #[must_use]
    pub fn refines(self) -> Self {
        match self {
            Self::InvalidDidUpdate | Self::LatePublishing => Self::InvalidDidDocument,
            Self::InvalidSignalData => Self::InvalidOptions,
            Self::MissingUpdateData => Self::NotFound,
            other => other,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What failed: the code for machines, the problem for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {problem}")]
pub struct Error {
    /// The code.
    pub code: ErrorCode,
    /// What is wrong, and where.
    pub problem: Problem,
}

impl Error {
    /// A problem under a code: the same problem has another code in another place.
    pub fn new(code: ErrorCode, problem: impl Into<Problem>) -> Self {
        Self {
            code,
            problem: problem.into(),
        }
    }

    /// For `map_err`: gives a problem its code.
    pub(crate) fn of<P: Into<Problem>>(code: ErrorCode) -> impl Fn(P) -> Self {
        move |problem| Self::new(code, problem)
    }
}

/// What is wrong, from the module that knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum Problem {
    /// With a DID.
    Did(#[from] DidError),
    /// With a JSON text.
    Json(#[from] JsonError),
    /// With a DID document.
    Document(#[from] DocumentError),
    /// With a beacon or an announcement map.
    Beacon(#[from] BeaconError),
    /// With a patch.
    Patch(#[from] PatchError),
    /// With an update.
    Update(#[from] UpdateError),
    /// With a proof.
    Proof(#[from] ProofError),
    /// With resolution options.
    Options(#[from] OptionsError),
    /// With a resolution.
    Resolution(#[from] ResolutionError),
}
