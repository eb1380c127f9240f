//! Beacons as they stand in a DID document, and the announcement map of CAS beacons ("Beacons").

use std::fmt;
use std::str::FromStr;

use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, ScriptBuf};
use serde_json::{Map, Value, json};

use crate::identifier::{Did, Network};
use crate::json::{self, Hash32};

/// Scheme of a beacon's service endpoint (BIP321).
const SCHEME: &str = "bitcoin:";

/// Why a beacon or an announcement map is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The endpoint is not a Bitcoin URI.
    #[error("got the endpoint {got:?}, expected \"{SCHEME}\" and an address")]
    NotBitcoinUri {
        /// The endpoint.
        got: String,
    },
    /// The URI requires what is not understood here (BIP321: such a URI is not valid).
    #[error("got the parameter {got:?} in the endpoint, expected none that is required")]
    RequiredParameter {
        /// The parameter.
        got: String,
    },
    /// The URI has no valid address for the network of the DID.
    #[error("got the address {got:?}, expected one of the network {network} with a valid checksum")]
    Address {
        /// The address.
        got: String,
        /// The network of the DID.
        network: Network,
    },
    /// An announcement map is something else.
    #[error("got the announcement map {got}, expected an object")]
    NotAMap {
        /// What it is, shortened.
        got: String,
    },
    /// The entry of the DID is not a hash.
    #[error(
        "got {got} for {did} in the announcement map, expected 32 bytes in base64url without padding"
    )]
    Entry {
        /// What it is, shortened.
        got: String,
        /// The DID.
        did: String,
    },
}

/// How a beacon's signal bytes are read ("Beacon Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BeaconType {
    /// The bytes are the hash of one signed update.
    Singleton,
    /// The bytes are the hash of an announcement map.
    Cas,
    /// The bytes are the root of a sparse Merkle tree.
    Smt,
}

impl BeaconType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Singleton, Self::Cas, Self::Smt];

    /// The type of the service in a DID document.
    pub fn service_type(self) -> &'static str {
        match self {
            Self::Singleton => "SingletonBeacon",
            Self::Cas => "CASBeacon",
            Self::Smt => "SMTBeacon",
        }
    }

    /// The beacon type of a service type, if it is one.
    pub fn of_service_type(service_type: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.service_type() == service_type)
    }
}

impl fmt::Display for BeaconType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.service_type())
    }
}

/// A beacon of a DID document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beacon {
    /// The id of its service, in absolute form.
    pub id: String,
    /// How its signal bytes are read.
    pub kind: BeaconType,
    /// The address whose spends are its signals.
    pub address: Address,
}

impl Beacon {
    /// The script whose spends are its signals.
    pub fn script(&self) -> ScriptBuf {
        self.address.script_pubkey()
    }

    /// The service that declares it in a DID document.
    pub fn service(&self) -> Value {
        json!({
            "id": self.id,
            "type": self.kind.service_type(),
            "serviceEndpoint": endpoint(&self.address),
        })
    }
}

/// The service endpoint of an address.
pub fn endpoint(address: &Address) -> String {
    format!("{SCHEME}{address}")
}

/// The address in a service endpoint, which must be one of the network.
///
/// Parameters after the address (BIP321) mean nothing to a resolver and are passed over, except required ones.
pub fn parse_endpoint(endpoint: &str, network: Network) -> Result<Address, BeaconError> {
    let not_bitcoin = || BeaconError::NotBitcoinUri {
        got: json::shorten_text(endpoint),
    };
    let (scheme, rest) = endpoint
        .split_at_checked(SCHEME.len())
        .ok_or_else(not_bitcoin)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(not_bitcoin());
    }
    let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    if let Some(required) = parameters
        .split('&')
        .find(|parameter| parameter.starts_with("req-"))
    {
        return Err(BeaconError::RequiredParameter {
            got: json::shorten_text(required),
        });
    }
    Address::<NetworkUnchecked>::from_str(address)
        .and_then(|address| address.require_network(network.into()))
        // The parser's reasons are those of base58, whatever was meant.
        .map_err(|_| BeaconError::Address {
            got: json::shorten_text(address),
            network,
        })
}

/// The announcement map of a CAS beacon: which update a signal announces for each DID ("CAS Announcement").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    value: Value,
    hash: Hash32,
}

impl Announcement {
    /// The map of these updates. Of two for one DID the later counts.
    pub fn new(updates: impl IntoIterator<Item = (Did, Hash32)>) -> Self {
        let members = updates
            .into_iter()
            .map(|(did, hash)| (did.into(), hash.to_string().into()));
        Self::of(members.collect())
    }

    fn of(members: Map<String, Value>) -> Self {
        let value = Value::Object(members);
        let hash = json::hash(&value);
        Self { value, hash }
    }

    /// Reads a map. Entries are read when they are asked for, so that no other DID's entry makes a DID unresolvable.
    pub fn from_value(value: Value) -> Result<Self, BeaconError> {
        match value {
            Value::Object(members) => Ok(Self::of(members)),
            other => Err(BeaconError::NotAMap {
                got: json::shorten(&other),
            }),
        }
    }

    /// The update that is announced for a DID; `None` proves that there is none.
    pub fn update_of(&self, did: &Did) -> Result<Option<Hash32>, BeaconError> {
        let Some(entry) = self.value.get(did.as_str()) else {
            return Ok(None);
        };
        let hash = entry.as_str().and_then(|hash| hash.parse().ok());
        hash.map(Some).ok_or_else(|| BeaconError::Entry {
            got: json::shorten(entry),
            did: did.to_string(),
        })
    }

    /// The 32 signal bytes.
    pub fn hash(&self) -> Hash32 {
        self.hash
    }

    /// The JSON form, as sidecar data and in a CAS.
    pub fn value(&self) -> &Value {
        &self.value
    }
}
