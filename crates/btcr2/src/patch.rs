//! JSON Patch (RFC 6902), with limits on what a patch may grow.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::json::{self, Limits, Size};

/// Largest number of operations in a patch.
pub const MAX_OPERATIONS: usize = 1000;

/// Why a patch is malformed or does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is no JSON Patch document.
    #[error("got {got}, expected an array of JSON Patch operations")]
    NotAnArray {
        /// What it is.
        got: &'static str,
    },
    /// It has too many operations.
    #[error("got {got} operations in the patch, expected at most {MAX_OPERATIONS}")]
    TooManyOperations {
        /// How many.
        got: usize,
    },
    /// An operation is none of RFC 6902.
    #[error("operation /{at} of the patch is malformed: {reason}")]
    Malformed {
        /// Its place, counted from 0.
        at: usize,
        /// What its reader says.
        reason: String,
    },
    /// An operation fails.
    #[error("operation /{at} of the patch fails at {path:?}: {reason}")]
    Fails {
        /// Its place, counted from 0.
        at: usize,
        /// The JSON pointer of its `path`.
        path: String,
        /// Why.
        reason: String,
    },
    /// The document would grow beyond the limits of documents.
    #[error(
        "operation /{at} of the patch makes a document of {size}, expected at most {} values, {} levels and {} bytes",
        Limits::DOCUMENT.nodes, Limits::DOCUMENT.depth, Limits::DOCUMENT.bytes
    )]
    TooLarge {
        /// The operation's place, counted from 0.
        at: usize,
        /// How large.
        size: String,
    },
}

/// A JSON Patch document: well-formed operations in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    value: Value,
    operations: Vec<PatchOperation>,
}

impl Patch {
    /// Reads a patch. Members that RFC 6902 does not define are kept and mean nothing.
    pub fn from_value(value: Value) -> Result<Self, PatchError> {
        let Value::Array(items) = &value else {
            return Err(PatchError::NotAnArray {
                got: json::kind(&value),
            });
        };
        if items.len() > MAX_OPERATIONS {
            return Err(PatchError::TooManyOperations { got: items.len() });
        }
        let mut operations = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let operation = serde_json::from_value(item.clone());
            operations.push(operation.map_err(|error| PatchError::Malformed {
                at,
                reason: json::shorten_text(error.to_string()),
            })?);
        }
        Ok(Self { value, operations })
    }

    /// The patch as JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The document that the operations make of `source`, one after the other; the first that fails, fails all.
    ///
    /// Limits hold after each operation: a few `copy` operations could otherwise grow a document without bound.
    pub fn apply(&self, source: &Value) -> Result<Value, PatchError> {
        let mut target = source.clone();
        for (at, operation) in self.operations.iter().enumerate() {
            // The library's reverting form may panic; a clone is thrown away here instead.
            json_patch::patch_unsafe(&mut target, std::slice::from_ref(operation)).map_err(
                |error| PatchError::Fails {
                    at,
                    path: json::shorten_text(operation.path().as_str()),
                    reason: error.kind.to_string(),
                },
            )?;
            let size = Size::of(&target);
            if !size.is_within(&Limits::DOCUMENT) {
                let size = size.to_string();
                return Err(PatchError::TooLarge { at, size });
            }
        }
        Ok(target)
    }
}
