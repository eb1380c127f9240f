//! Beacon cohorts.
pub mod coordinator;
pub mod ids;
pub mod machine;
pub mod message;
pub mod musig;
pub mod participant;
pub mod review;
pub mod signer;
pub mod statement;
pub mod terms;
pub mod values;

pub use review::DeclineCode;
