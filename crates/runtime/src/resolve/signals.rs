//! Signals from a file, in the shape of the did:btcr2 test suite's `signals.json`, instead of a chain.

use std::collections::HashMap;

use beacon_btcr2::json::{self, JsonError, Limits};
use beacon_btcr2::resolver::{Block, MAX_SIGNALS, Signal};
use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, BlockHash, Script, ScriptBuf, Txid};
use serde::Deserialize;
use serde_json::Value;

/// How much JSON such a file may be: 64 MiB.
const LIMITS: Limits = Limits {
    bytes: 64 << 20,
    depth: 4,
    nodes: 20 * MAX_SIGNALS,
};

/// The signals of a file, by the script that they spend.
#[derive(Debug, Default)]
pub struct SignalsFile {
    signals: HashMap<ScriptBuf, Vec<Signal>>,
}

/// Why a text is no file of signals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalsError {
    /// It is not JSON, or more of it than is read.
    #[error("{0}")]
    Json(#[from] JsonError),
    /// It is not an array, or of too many signals.
    #[error("got {got}, expected an array of at most {MAX_SIGNALS} signals")]
    NotAnArray {
        /// What it is.
        got: String,
    },
    /// One of its signals is not what it should be.
    #[error(
        "/{at}: {problem}: expected an object with address, txid, blockHeight, blockHash, blockTime, mediantime, signalBytes and recordedTip"
    )]
    Signal {
        /// Its place.
        at: usize,
        /// What is wrong.
        problem: String,
    },
}

/// A signal, and the tip when it was recorded. Other members say what the signal is for, which is not taken from here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    address: Address<NetworkUnchecked>,
    txid: Txid,
    block_height: u32,
    block_hash: BlockHash,
    block_time: u32,
    #[serde(rename = "mediantime")]
    median_time: u32,
    #[serde(with = "hex")]
    signal_bytes: [u8; 32],
    recorded_tip: u32,
}

impl SignalsFile {
    /// Most bytes of a file.
    pub(super) const MAX_BYTES: usize = LIMITS.bytes;

    /// Reads the JSON form.
    pub fn from_json(text: &[u8]) -> Result<Self, SignalsError> {
        let items = match json::parse(text, &LIMITS)? {
            Value::Array(items) if items.len() <= MAX_SIGNALS => items,
            Value::Array(items) => {
                return Err(SignalsError::NotAnArray {
                    got: format!("{} signals", items.len()),
                });
            }
            other => {
                return Err(SignalsError::NotAnArray {
                    got: match other {
                        Value::Object(_) => "an object".to_owned(),
                        other => other.to_string().chars().take(100).collect(),
                    },
                });
            }
        };
        let mut file = Self::default();
        for (at, item) in items.into_iter().enumerate() {
            let entry: Entry = serde_json::from_value(item).map_err(|error| {
                // It quotes what is there.
                let problem = error.to_string().chars().take(200).collect();
                SignalsError::Signal { at, problem }
            })?;
            // The same script is the same beacon, whatever network the address was written for.
            let script = entry.address.assume_checked_ref().script_pubkey();
            let signal = entry.signal().ok_or_else(|| SignalsError::Signal {
                at,
                problem: format!(
                    "got the tip {} and the block height {}, expected a tip that is not lower",
                    entry.recorded_tip, entry.block_height
                ),
            })?;
            file.signals.entry(script).or_default().push(signal);
        }
        Ok(file)
    }

    /// The signals of a beacon.
    pub(super) fn of(&self, script: &Script) -> Vec<Signal> {
        self.signals.get(script).cloned().unwrap_or_default()
    }
}

impl Entry {
    fn signal(&self) -> Option<Signal> {
        let above = self.recorded_tip.checked_sub(self.block_height)?;
        Some(Signal {
            block: Block {
                height: self.block_height,
                hash: self.block_hash,
                time: self.block_time,
                median_time: self.median_time,
            },
            txid: self.txid,
            bytes: self.signal_bytes,
            confirmations: above.checked_add(1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ADDRESS: &str = "bcrt1qh8zerm0405c8takq6k7y2p6yfde85fgnxjqm03";

    fn entry() -> Value {
        json!({
            "update": 1,
            "beaconId": "did:btcr2:k1#initialP2WPKH",
            "address": ADDRESS,
            "txid": "01".repeat(32),
            "blockHeight": 283,
            "blockHash": "02".repeat(32),
            "blockTime": 1_789_570_888,
            "mediantime": 1_789_570_738,
            "signalBytes": "03".repeat(32),
            "recordedTip": 601,
        })
    }

    fn read(value: &Value) -> Result<SignalsFile, SignalsError> {
        SignalsFile::from_json(value.to_string().as_bytes())
    }

    fn script() -> ScriptBuf {
        let address: Address<NetworkUnchecked> = ADDRESS.parse().unwrap();
        address.assume_checked().script_pubkey()
    }

    #[test]
    fn signals_are_found_by_the_script_of_their_address() {
        let file = read(&json!([entry(), entry()])).unwrap();
        let found = file.of(&script());
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].confirmations, 601 - 283 + 1);
        assert_eq!(found[0].bytes, [3; 32]);
        assert_eq!(found[0].block.median_time, 1_789_570_738);
        assert_eq!(file.of(&ScriptBuf::new()), []);
        assert_eq!(read(&json!([])).unwrap().of(&script()), []);
    }

    #[test]
    fn malformed_files_are_refused_with_the_place() {
        let with = |name: &str, value: Value| {
            let mut entry = entry();
            entry[name] = value;
            json!([self::entry(), entry])
        };
        for (file, problem) in [
            (json!({}), "got an object, expected an array"),
            (json!("x"), "got \"x\", expected an array"),
            (json!([1]), "/0: invalid type"),
            (with("address", json!("bcrt1q")), "/1: "),
            (with("txid", json!("01")), "/1: "),
            (with("blockHeight", json!(-1)), "/1: "),
            (with("blockTime", json!(null)), "/1: "),
            (with("mediantime", json!(1.5)), "/1: "),
            (with("signalBytes", json!("03".repeat(31))), "/1: "),
            (with("recordedTip", json!(282)), "/1: got the tip 282"),
        ] {
            let error = read(&file).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{file}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let mut without = entry();
        without.as_object_mut().unwrap().remove("mediantime");
        let error = read(&json!([without])).unwrap_err().to_string();
        assert!(error.contains("missing field `mediantime`"), "{error}");
        for text in [&b""[..], b"[", b"\xff", b"[[[[[[]]]]]]"] {
            let error = SignalsFile::from_json(text).unwrap_err();
            assert!(matches!(error, SignalsError::Json(_)), "{error}");
        }
    }
}
