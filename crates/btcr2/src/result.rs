//! What resolution comes to, as a DID resolution result.

use serde_json::{Value, json};

use crate::document::Document;
use crate::error::Error;
use crate::time::Timestamp;

/// A version of a DID document, and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The document.
    pub document: Document,
    /// Its version; the initial document has 1.
    pub version_id: u64,
    /// Confirmations of the block that holds the signal of its last update; 0 for the initial document.
    pub confirmations: u32,
    /// The time in the header of that block; `None` for the initial document.
    pub updated: Option<Timestamp>,
}

/// The end of a resolution: a document, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution(pub Result<Resolved, Error>);

impl Resolution {
    /// The media type of a DID document.
    pub const CONTENT_TYPE: &str = "application/did";

    /// The DID resolution result: `didDocument`, `didDocumentMetadata` and `didResolutionMetadata`. A failure has its code in
    /// `didResolutionMetadata.error` and the sentence beside it in `errorMessage`, as the published vectors do.
    pub fn to_value(&self) -> Value {
        match &self.0 {
            Ok(resolved) => json!({
                "didResolutionMetadata": { "contentType": Self::CONTENT_TYPE },
                "didDocument": resolved.document.value(),
                "didDocumentMetadata": resolved.metadata(),
            }),
            Err(error) => json!({
                "didResolutionMetadata": {
                    "error": error.code.as_str(),
                    "errorMessage": error.problem.to_string(),
                },
                "didDocument": null,
                "didDocumentMetadata": {},
            }),
        }
    }
}

impl Resolved {
    fn metadata(&self) -> Value {
        let mut metadata = json!({
            "versionId": self.version_id.to_string(),
            "confirmations": self.confirmations,
            "deactivated": self.document.is_deactivated(),
        });
        if let Some(updated) = self.updated {
            metadata["updated"] = updated.to_string().into();
        }
        metadata
    }
}

impl From<Error> for Resolution {
    fn from(error: Error) -> Self {
        Self(Err(error))
    }
}
