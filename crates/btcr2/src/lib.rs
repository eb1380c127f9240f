//! The DID method did:btcr2: identifiers, documents, updates and their proofs, beacons, and resolution.

#![warn(missing_docs)]

pub mod beacon;
pub mod document;
mod error;
pub mod identifier;
pub mod initial;
pub mod json;
pub mod options;
pub mod patch;
pub mod proof;
pub mod resolver;
pub mod result;
pub mod sidecar;
pub mod time;
pub mod update;

pub use document::Document;
pub use error::{Error, ErrorCode, Problem};
pub use identifier::{Did, GenesisBytes, Network};
pub use json::Hash32;
pub use options::{ResolutionOptions, Select};
pub use patch::Patch;
pub use resolver::{Next, Request, Resolver};
pub use result::{Resolution, Resolved};
pub use sidecar::Sidecar;
pub use time::Timestamp;
pub use update::{SignedUpdate, UnsignedUpdate};
