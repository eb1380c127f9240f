//! The DID method did:btcr2: identifiers, documents, updates and their proofs, beacons, and resolution.
//!
//! # Goals
//!
//! - The specification's algorithms, bit for bit; `docs/conformance.md` says which text, and what it leaves open.
//! - Data from outside has one meaning: JSON with a member named twice, a second text form of a hash, a signature or a
//!   DID is refused, so that two resolvers cannot see different documents under one hash.
//! - Every refusal has the specified code and a sentence that says where.
//! - Sizes, depths and counts are limited, what a patch grows included.
//!
//! # Non-goals
//!
//! - No IO, clock or randomness: a resolver asks and is answered, signatures come from a function.
//! - No keys: [`proof::sign`] helps those who hold one in memory.
//! - No transactions and no trees: `beacon-signal` makes and checks what goes onto the chain.
//! - Not a library for other DID methods, and no JSON-LD processor.
//!
//! # Example
//!
//! A controller makes a DID, adds a service to its document and deactivates it again. Each update is for the document
//! that it was made from; what goes onto the chain, through a beacon of that document, is its id.
//!
//! ```
//! use beacon_btcr2::{Did, GenesisBytes, Network, Patch, SignedUpdate, UnsignedUpdate, initial, json, proof};
//! use bitcoin::secp256k1::{Keypair, Secp256k1};
//! use serde_json::json;
//!
//! let key = Keypair::from_seckey_slice(&Secp256k1::new(), &[1; 32])?;
//! let did = Did::new(Network::Regtest, GenesisBytes::Key(key.public_key()));
//! let first = initial::from_key(&did)?.expect("a DID that is made from a key");
//! assert_eq!(first.beacons().len(), 3);
//!
//! // Version 2 has a service more.
//! let service = json!({ "id": "#site", "type": "LinkedDomains", "serviceEndpoint": "https://example.com" });
//! let patch = Patch::from_value(json!([{ "op": "add", "path": "/service/-", "value": service }]))?;
//! let (unsigned, second) = UnsignedUpdate::construct(&first, &patch, 2)?;
//! let method = first.update_method_of(&key.public_key()).expect("the key of the DID");
//! let aux = [7; 32]; // fresh randomness
//! let update = unsigned.sign(&first, &method, |message| proof::sign(&key, &aux, message))?;
//!
//! // Whoever gets it as text checks everything.
//! let text = update.value().to_string();
//! let read = SignedUpdate::from_value(json::parse(text.as_bytes(), &json::Limits::UPDATE)?)?;
//! assert_eq!(read.id(), update.id());
//! assert_eq!(read.apply(&first)?, second);
//!
//! let (last, third) = UnsignedUpdate::deactivate(&second, 3)?;
//! assert!(third.is_deactivated());
//! assert_eq!(last.source_hash(), second.hash());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
