//! Keys for DID documents: where they are below the seed.

use std::fmt;
use std::str::FromStr;

use beacon_btcr2::{Network, proof};
use bitcoin::secp256k1::PublicKey;
use serde_json::{Value, json};

use crate::keys::DID_PURPOSE;

/// The largest index: all steps are hardened.
pub const MAX_INDEX: u32 = 0x7fff_ffff;

/// Where a key is below the seed: `m/1643'/coin'/index'` (ADR 0014).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DidKeyPath {
    /// Whether it is for the main network: coin 0, and 1 for all others.
    is_mainnet: bool,
    index: u32,
}

impl DidKeyPath {
    /// The path of a key for documents on a network; `None` for an index above [`MAX_INDEX`].
    pub fn new(network: Network, index: u32) -> Option<Self> {
        let is_mainnet = network == Network::Bitcoin;
        (index <= MAX_INDEX).then_some(Self { is_mainnet, index })
    }

    /// A network whose keys are here.
    pub(super) fn network(self) -> bitcoin::Network {
        if self.is_mainnet {
            bitcoin::Network::Bitcoin
        } else {
            bitcoin::Network::Regtest
        }
    }

    /// The last step.
    pub fn index(self) -> u32 {
        self.index
    }
}

impl fmt::Display for DidKeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let coin = u32::from(!self.is_mainnet);
        write!(f, "m/{DID_PURPOSE}'/{coin}'/{}'", self.index)
    }
}

impl FromStr for DidKeyPath {
    type Err = ();

    /// Reads the only form that [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let index = text
            .rsplit('/')
            .next()
            .and_then(|step| step.strip_suffix('\''));
        let index: u32 = index.and_then(|index| index.parse().ok()).ok_or(())?;
        [Network::Bitcoin, Network::Regtest]
            .into_iter()
            .filter_map(|network| Self::new(network, index))
            .find(|path| path.to_string() == text)
            .ok_or(())
    }
}

/// A key of a DID document, and where it is if it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DidKey {
    /// Below the seed of this participant; `None` for a key that is elsewhere.
    pub path: Option<DidKeyPath>,
    /// The key.
    pub public_key: PublicKey,
}

impl DidKey {
    /// As a record, and for people.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "publicKey": self.public_key.to_string(),
            "publicKeyMultibase": proof::multikey(&self.public_key),
        });
        if let Some(path) = self.path {
            value["path"] = path.to_string().into();
        }
        value
    }

    /// Reads a record. Members that it need not have are not looked at.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        let path = match value.get("path") {
            None => None,
            Some(path) => Some(path.as_str()?.parse().ok()?),
        };
        let public_key = value.get("publicKey")?.as_str()?.parse().ok()?;
        Some(Self { path, public_key })
    }
}
