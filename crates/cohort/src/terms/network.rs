//! The Bitcoin network of a cohort.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The Bitcoin network of a cohort, by its name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BtcNetwork {
    /// Bitcoin with money on it; `bitcoin` is read as the same.
    #[serde(alias = "bitcoin")]
    Mainnet,
    /// The third public test network.
    Testnet3,
    /// The fourth public test network.
    Testnet4,
    /// The default signet.
    Signet,
    /// A custom signet with 30-second blocks.
    Mutinynet,
    /// A private chain.
    Regtest,
}

impl BtcNetwork {
    /// The network as the Bitcoin library knows it, for addresses and key paths.
    pub fn bitcoin(self) -> bitcoin::Network {
        match self {
            Self::Mainnet => bitcoin::Network::Bitcoin,
            Self::Testnet3 => bitcoin::Network::Testnet,
            Self::Testnet4 => bitcoin::Network::Testnet4,
            Self::Signet | Self::Mutinynet => bitcoin::Network::Signet,
            Self::Regtest => bitcoin::Network::Regtest,
        }
    }
}

impl fmt::Display for BtcNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mainnet => "mainnet",
            Self::Testnet3 => "testnet3",
            Self::Testnet4 => "testnet4",
            Self::Signet => "signet",
            Self::Mutinynet => "mutinynet",
            Self::Regtest => "regtest",
        })
    }
}

impl std::str::FromStr for BtcNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_value(Value::from(text)).map_err(|_| {
            format!("got network {text:?}, expected mainnet, testnet3, testnet4, signet, mutinynet or regtest")
        })
    }
}
