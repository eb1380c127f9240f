//! A real node: the one of the chain sources' tests.

#[path = "../../../crates/embedded/tests/contract/mod.rs"]
#[allow(dead_code, reason = "the contract itself is run by other tests")]
mod contract;
#[path = "../../../crates/chain/tests/node/mod.rs"]
mod node;

pub(super) use contract::RegtestControl;
pub(super) use node::Node;
