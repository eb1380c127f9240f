//! Resolution of the DID methods that need no network.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::did::{Did, ParseDidError};
use crate::document::DidDocument;
use crate::peer::{
    InvalidDid, resolve_peer2, resolve_peer4, resolve_single_key, short_form_of_peer4,
};
use crate::text::excerpt;

/// Long forms of did:peer:4 that a [`Resolver`] remembers unless told otherwise; each is at most 4 KiB.
pub const DEFAULT_REMEMBERED: usize = 1024;

/// Why a DID did not resolve.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Not a DID at all.
    #[error(transparent)]
    Syntax(#[from] ParseDidError),
    /// A DID of a supported method with impossible content.
    #[error("{did} is invalid: {reason}")]
    Invalid {
        /// The start of the DID.
        did: String,
        /// What is wrong with it.
        reason: InvalidDid,
    },
    /// A method that needs more than the identifier, or that nobody asked for.
    #[error("method of {did} is not supported, expected did:peer (0, 2, 4) or did:key")]
    MethodNotSupported {
        /// The start of the DID.
        did: String,
    },
    /// A did:peer:4 short form whose long form was never seen.
    #[error("{did} is a short form, its long form was never seen")]
    NotFound {
        /// The DID.
        did: Did,
    },
}

impl ResolveError {
    /// Error code of DID Resolution v1.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax(_) | Self::Invalid { .. } => "INVALID_DID",
            Self::MethodNotSupported { .. } => "METHOD_NOT_SUPPORTED",
            Self::NotFound { .. } => "NOT_FOUND",
        }
    }
}

/// Resolves a DID from its text alone; short forms of did:peer:4 need a [`Resolver`].
pub fn resolve(did: &Did) -> Result<DidDocument, ResolveError> {
    let id = did.method_specific_id();
    let (numalgo, rest) = id.split_at_checked(1).unwrap_or_default();
    let document = match (did.method(), numalgo) {
        ("key", _) => resolve_single_key(did, id),
        ("peer", "0") => resolve_single_key(did, rest),
        ("peer", "2") => resolve_peer2(did),
        ("peer", "4") if !rest.contains(':') => {
            return Err(ResolveError::NotFound { did: did.clone() });
        }
        ("peer", "4") => resolve_peer4(did, did),
        _ => {
            return Err(ResolveError::MethodNotSupported {
                did: excerpt(did.as_str()),
            });
        }
    };
    document.map_err(|reason| ResolveError::Invalid {
        did: excerpt(did.as_str()),
        reason,
    })
}

/// Resolves DIDs, and remembers long forms of did:peer:4 so that their short forms resolve later.
///
/// The memory is bounded: when it is full, the long form that was remembered or used longest ago is forgotten. Only
/// proven senders get into it (see [`unpack`](crate::unpack)), so that a flood of garbage cannot push peers out.
#[derive(Debug)]
pub struct Resolver {
    capacity: usize,
    /// Most recently used last.
    long_forms: Mutex<VecDeque<LongForm>>,
}

#[derive(Debug)]
struct LongForm {
    short: Did,
    long: Did,
}

impl Resolver {
    /// A resolver that remembers up to `capacity` long forms of did:peer:4.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            long_forms: Mutex::default(),
        }
    }

    /// Resolves a DID; the answer's `id` is the DID asked for.
    pub fn resolve(&self, did: &Did) -> Result<DidDocument, ResolveError> {
        match resolve(did) {
            Err(ResolveError::NotFound { .. }) => {
                let long = self
                    .long_form(did)
                    .ok_or_else(|| ResolveError::NotFound { did: did.clone() })?;
                resolve_peer4(did, &long).map_err(|reason| ResolveError::Invalid {
                    did: excerpt(did.as_str()),
                    reason,
                })
            }
            answer => answer,
        }
    }

    /// Remembers a did:peer:4 long form, so that its short form resolves. Any other DID is ignored.
    pub fn remember(&self, did: &Did) {
        let Some(short) = short_form_of_peer4(did) else {
            return;
        };
        if self.capacity == 0 || resolve(did).is_err() {
            return;
        }
        let mut long_forms = self
            .long_forms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        long_forms.retain(|known| known.short != short);
        if long_forms.len() >= self.capacity {
            long_forms.pop_front();
        }
        long_forms.push_back(LongForm {
            short,
            long: did.clone(),
        });
    }

    /// One name for a peer that may call itself by two: the long form of a did:peer:4 whose long form is known, and any
    /// other DID unchanged.
    pub fn canonical(&self, did: &Did) -> Did {
        self.long_form(did).unwrap_or_else(|| did.clone())
    }

    /// Resolves any text and reports as the DID Resolution specification says, errors included.
    pub fn resolution(&self, did: &str) -> ResolutionResult {
        match did
            .parse::<Did>()
            .map_err(ResolveError::from)
            .and_then(|did| self.resolve(&did))
        {
            Ok(document) => ResolutionResult {
                did_document: Some(document),
                did_document_metadata: Map::new(),
                did_resolution_metadata: ResolutionMetadata {
                    content_type: Some("application/did+ld+json"),
                    error: None,
                    error_message: None,
                },
            },
            Err(error) => ResolutionResult {
                did_document: None,
                did_document_metadata: Map::new(),
                did_resolution_metadata: ResolutionMetadata {
                    content_type: None,
                    error: Some(error.code()),
                    error_message: Some(error.to_string()),
                },
            },
        }
    }

    fn long_form(&self, short: &Did) -> Option<Did> {
        let mut long_forms = self
            .long_forms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let at = long_forms.iter().position(|known| known.short == *short)?;
        let used = long_forms.remove(at)?;
        let long = used.long.clone();
        long_forms.push_back(used);
        Some(long)
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(DEFAULT_REMEMBERED)
    }
}

/// The answer of a DID resolver, in the JSON shape of the DID Resolution specification.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolutionResult {
    /// The document; `null` after an error.
    pub did_document: Option<DidDocument>,
    /// Facts about the document; these methods have none.
    pub did_document_metadata: Map<String, Value>,
    /// Facts about the resolution.
    pub did_resolution_metadata: ResolutionMetadata,
}

/// `didResolutionMetadata` of a [`ResolutionResult`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolutionMetadata {
    /// Media type of the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<&'static str>,
    /// `INVALID_DID`, `METHOD_NOT_SUPPORTED` or `NOT_FOUND`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// The error in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}
