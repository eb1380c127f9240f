//! DIDs of the method did:btcr2 ("DID-BTCR2 Identifier Encoding" and "Decoding").

use std::fmt;
use std::str::FromStr;

use beacon_signal::Index;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, ByteIterExt as _, Fe32IterExt as _, Hrp};
use bitcoin::secp256k1::PublicKey;
use serde::{Deserialize, Serialize};

use crate::json::{self, Hash32};

/// What every identifier of the method begins with.
const PREFIX: &str = "did:btcr2:";
/// Length of the longest identifier, that of a key: prefix, `k1`, 34 bytes in 55 symbols, checksum.
pub const MAX_DID_LEN: usize = PREFIX.len() + 63;
/// The version that the first nibble stands for, less one.
const VERSION_NIBBLE: u8 = 0;
/// Human-readable part of a DID made from a key.
const KEY: Hrp = Hrp::parse_unchecked("k");
/// Human-readable part of a DID made from a genesis document.
const DOCUMENT: Hrp = Hrp::parse_unchecked("x");

/// Why a text is not a DID of this method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DidError {
    /// It is longer than any DID of the method.
    #[error("got a DID of {got} bytes, expected at most {MAX_DID_LEN}")]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// It is a DID URL: a DID with a path, a query or a fragment.
    #[error("got a DID URL, expected a DID alone: leave out {from:?} and what follows")]
    Url {
        /// What ends the DID.
        from: char,
    },
    /// It does not begin as a DID of the method does.
    #[error("got {got:?}, expected a DID that begins with \"{PREFIX}\"")]
    Prefix {
        /// The text.
        got: String,
    },
    /// It has an upper-case letter.
    #[error("got {got:?} at character {at} of the DID, expected lower case only")]
    UpperCase {
        /// Where, counted from 0.
        at: usize,
        /// The letter.
        got: char,
    },
    /// It is not Bech32m, or its checksum is wrong.
    #[error("the DID is not Bech32m with a valid checksum: {reason}")]
    Bech32m {
        /// What the decoder says.
        reason: String,
    },
    /// The part before the separator is none of the two.
    #[error(
        "got the human-readable part {got:?} in the DID, expected \"k\" (a key) or \"x\" (a genesis document)"
    )]
    Kind {
        /// The part.
        got: String,
    },
    /// It holds too many or too few bytes.
    #[error(
        "got {got} bytes in the DID, expected {expected} (version and network, then the genesis bytes)"
    )]
    Length {
        /// How many.
        got: usize,
        /// How many the kind has.
        expected: usize,
    },
    /// Its version is not 1.
    #[error("got version {got} in the DID, expected 1")]
    Version {
        /// The version.
        got: u8,
    },
    /// Its network is not assigned.
    #[error("got the reserved network value {got} in the DID, expected 0 to 5")]
    ReservedNetwork {
        /// The value, 6 to 11.
        got: u8,
    },
    /// Its network is known to its users only.
    #[error(
        "got the custom network value {got} in the DID, expected 0 to 5: custom networks are not supported"
    )]
    CustomNetwork {
        /// The value, 12 to 15.
        got: u8,
    },
    /// Its bytes are not a public key.
    #[error("got {got} in the DID, expected a compressed secp256k1 public key")]
    NotAKey {
        /// The bytes in hexadecimal.
        got: String,
    },
    /// Its bytes have another text form: the padding is not zero.
    #[error("got {got:?}, expected its only valid form {expected:?}")]
    NotCanonical {
        /// The text.
        got: String,
        /// The encoding of the same bytes.
        expected: String,
    },
    /// A genesis document is not the one that the DID commits to.
    #[error("got a genesis document with the hash {got}, expected the one that {did} commits to")]
    Genesis {
        /// The DID.
        did: String,
        /// The document's hash.
        got: Hash32,
    },
    /// No network has this name.
    #[error(
        "got the network {got:?}, expected one of bitcoin, signet, regtest, testnet3, testnet4, mutinynet"
    )]
    NetworkName {
        /// The name.
        got: String,
    },
}

/// The Bitcoin network that anchors a DID ("Network Values").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// The main network.
    Bitcoin,
    /// The default signet.
    Signet,
    /// A local network.
    Regtest,
    /// The third test network.
    Testnet3,
    /// The fourth test network.
    Testnet4,
    /// Mutinynet, a signet with blocks of 30 seconds.
    Mutinynet,
}

impl Network {
    /// All of them, each at the place of its value.
    pub const ALL: [Self; 6] = [
        Self::Bitcoin,
        Self::Signet,
        Self::Regtest,
        Self::Testnet3,
        Self::Testnet4,
        Self::Mutinynet,
    ];

    /// The name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bitcoin => "bitcoin",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
            Self::Testnet3 => "testnet3",
            Self::Testnet4 => "testnet4",
            Self::Mutinynet => "mutinynet",
        }
    }

    /// The value in the nibble of an identifier.
    fn value(self) -> u8 {
        match self {
            Self::Bitcoin => 0,
            Self::Signet => 1,
            Self::Regtest => 2,
            Self::Testnet3 => 3,
            Self::Testnet4 => 4,
            Self::Mutinynet => 5,
        }
    }

    fn from_value(value: u8) -> Result<Self, DidError> {
        match value {
            6..=11 => Err(DidError::ReservedNetwork { got: value }),
            _ => Self::ALL
                .get(usize::from(value))
                .copied()
                .ok_or(DidError::CustomNetwork { got: value }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Network {
    type Err = DidError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|network| network.name() == name)
            .ok_or_else(|| DidError::NetworkName { got: name.into() })
    }
}

/// The network whose address format is used; mutinynet is a signet.
impl From<Network> for bitcoin::Network {
    fn from(network: Network) -> Self {
        match network {
            Network::Bitcoin => Self::Bitcoin,
            Network::Signet | Network::Mutinynet => Self::Signet,
            Network::Regtest => Self::Regtest,
            Network::Testnet3 => Self::Testnet,
            Network::Testnet4 => Self::Testnet4,
        }
    }
}

/// What a DID commits to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GenesisBytes {
    /// A public key: the initial document follows from it (`k` form).
    Key(PublicKey),
    /// The hash of a genesis document (`x` form).
    Document(Hash32),
}

impl GenesisBytes {
    /// The human-readable part, and the bytes.
    fn parts(&self) -> (Hrp, Vec<u8>) {
        match self {
            Self::Key(key) => (KEY, key.serialize().to_vec()),
            Self::Document(hash) => (DOCUMENT, hash.0.to_vec()),
        }
    }
}

/// A DID of this method, version 1. It has one text form, which is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Did {
    text: String,
    network: Network,
    genesis: GenesisBytes,
}

impl Did {
    /// The DID of genesis bytes on a network.
    pub fn new(network: Network, genesis: GenesisBytes) -> Self {
        let (hrp, bytes) = genesis.parts();
        let first = VERSION_NIBBLE << 4 | network.value();
        let symbols = std::iter::once(first).chain(bytes).bytes_to_fes();
        let id = symbols.with_checksum::<Bech32m>(&hrp).chars();
        Self {
            text: PREFIX.chars().chain(id).collect(),
            network,
            genesis,
        }
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The network that anchors it.
    pub fn network(&self) -> Network {
        self.network
    }

    /// What it commits to.
    pub fn genesis(&self) -> &GenesisBytes {
        &self.genesis
    }

    /// Its place in the tree of an SMT beacon.
    pub fn index(&self) -> Index {
        Index::of_did(&self.text)
    }

    /// The absolute form of a URL in a document of this DID: a relative DID URL gets the DID put before it, all else
    /// stays as it is.
    pub fn absolute(&self, url: &str) -> String {
        if url.starts_with(['#', '?', '/']) {
            return format!("{}{url}", self.text);
        }
        url.to_owned()
    }
}

impl FromStr for Did {
    type Err = DidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let of_method = text.strip_prefix(PREFIX);
        let mut ends = of_method.into_iter().flat_map(str::chars);
        if let Some(from) = ends.find(|c| ['/', '?', '#'].contains(c)) {
            return Err(DidError::Url { from });
        }
        if text.len() > MAX_DID_LEN {
            return Err(DidError::TooLong { got: text.len() });
        }
        let Some(id) = of_method else {
            return Err(DidError::Prefix { got: text.into() });
        };
        if let Some((at, got)) = text.char_indices().find(|(_, c)| c.is_ascii_uppercase()) {
            return Err(DidError::UpperCase { at, got });
        }
        let decoded = CheckedHrpstring::new::<Bech32m>(id).map_err(|error| DidError::Bech32m {
            reason: json::shorten_text(error.to_string()),
        })?;
        let hrp = decoded.hrp();
        let is_key = hrp == KEY;
        if !is_key && hrp != DOCUMENT {
            return Err(DidError::Kind {
                got: hrp.to_string(),
            });
        }
        let bytes: Vec<u8> = decoded.byte_iter().collect();
        let expected = if is_key { 34 } else { 33 };
        let (first, genesis) = bytes
            .split_first()
            .filter(|_| bytes.len() == expected)
            .ok_or(DidError::Length {
                got: bytes.len(),
                expected,
            })?;
        if first >> 4 != VERSION_NIBBLE {
            return Err(DidError::Version {
                got: (first >> 4) + 1,
            });
        }
        let network = Network::from_value(first & 0x0f)?;
        let genesis = if let Ok(hash) = <[u8; 32]>::try_from(genesis) {
            GenesisBytes::Document(Hash32(hash))
        } else {
            let key = PublicKey::from_slice(genesis);
            GenesisBytes::Key(key.map_err(|_| DidError::NotAKey {
                got: hex::encode(genesis),
            })?)
        };
        // Bits that the decoder drops would give one DID several texts, each with another place in the tree.
        let did = Self::new(network, genesis);
        if did.text != text {
            return Err(DidError::NotCanonical {
                got: text.into(),
                expected: did.text,
            });
        }
        Ok(did)
    }
}

impl TryFrom<String> for Did {
    type Error = DidError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Did> for String {
    fn from(did: Did) -> Self {
        did.text
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
