//! The loop of resolution: find the signals of beacons that are new, find the updates that they announce, take the next
//! update ("Find Beacon Signals", "Process Next Update").

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use beacon_signal::Root;
use bitcoin::{Address, ScriptBuf, Txid};
use serde_json::Value;

use super::error::ResolutionError;
use super::history::History;
use super::known::{Known, Lookup};
use super::signal::{Block, Signal};
use super::{MAX_ADDRESSES, MAX_SIGNALS, Request, Turn, limit};
use crate::beacon::BeaconType;
use crate::document::Document;
use crate::error::{Error, ErrorCode};
use crate::identifier::Did;
use crate::json::{self, Hash32};
use crate::options::Select;

/// The state of the loop.
#[derive(Debug)]
pub(super) struct Run {
    history: History,
    min_conf: u32,
    phase: Phase,
    /// Addresses that were asked for ("scanned_beacons").
    scanned: BTreeSet<ScriptBuf>,
    /// Those that were asked for last, in the order of the document.
    scans: Vec<Scan>,
    /// Number of signals of all answers.
    signals: usize,
    /// What the answers say of blocks.
    blocks: BTreeMap<u32, Block>,
    /// Signals whose update is yet to be found.
    found: Vec<Found>,
    /// What signals have announced, the next update first ("updates").
    updates: BTreeMap<Place, Announced>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Look for beacons of the document whose addresses were not asked for.
    Beacons,
    /// Look through the answers.
    Signals,
    /// Look for the updates of the signals in them.
    Updates,
    /// Take the next update.
    Next,
}

/// An address that was asked for, and the answer.
#[derive(Debug)]
struct Scan {
    address: Address,
    kind: BeaconType,
    signals: Vec<Signal>,
}

/// A signal of a beacon.
#[derive(Clone, Debug)]
struct Found {
    signal: Signal,
    kind: BeaconType,
    script: ScriptBuf,
}

/// An update that a signal has announced.
#[derive(Debug)]
struct Announced {
    hash: Hash32,
    update: Arc<Value>,
    signal: Signal,
}

/// Where an update stands among all that are announced: by version, then by height. The rest makes the order the same
/// whatever the order of the answers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    version: u64,
    height: u32,
    txid: Txid,
    script: ScriptBuf,
}

impl Run {
    pub(super) fn new(document: Document, min_conf: u32) -> Self {
        Self {
            history: History::new(document),
            min_conf,
            phase: Phase::Beacons,
            scanned: BTreeSet::new(),
            scans: Vec::new(),
            signals: 0,
            blocks: BTreeMap::new(),
            found: Vec::new(),
            updates: BTreeMap::new(),
        }
    }

    pub(super) fn turn(
        &mut self,
        did: &Did,
        select: Select,
        known: &mut Known,
    ) -> Result<Turn, Error> {
        match self.phase {
            Phase::Beacons => self.look_for_beacons(),
            Phase::Signals => self.look_through_signals(),
            Phase::Updates => self.look_for_updates(did, known),
            Phase::Next => self.next_update(select),
        }
    }

    pub(super) fn take_signals(&mut self, address: &Address, signals: Vec<Signal>) {
        let mut scans = self.scans.iter_mut();
        if let Some(scan) = scans.find(|scan| scan.address == *address) {
            scan.signals = signals;
        }
    }

    /// Where two beacons of a document have one address, the first says how its signals are read.
    fn look_for_beacons(&mut self) -> Result<Turn, Error> {
        for beacon in self.history.document().beacons() {
            if self.scanned.insert(beacon.script()) {
                self.scans.push(Scan {
                    address: beacon.address.clone(),
                    kind: beacon.kind,
                    signals: Vec::new(),
                });
            }
        }
        if self.scanned.len() > MAX_ADDRESSES {
            return Err(limit("addresses of beacons", MAX_ADDRESSES));
        }
        self.phase = Phase::Signals;
        let addresses = self.scans.iter().map(|scan| scan.address.clone());
        Ok(Turn::Ask(addresses.map(Request::Signals).collect()))
    }

    /// Keeps the signals that are buried deep enough, and none from before the last update, which put the beacon into the
    /// document: until then its signals meant nothing for this DID.
    fn look_through_signals(&mut self) -> Result<Turn, Error> {
        for scan in std::mem::take(&mut self.scans) {
            self.signals += scan.signals.len();
            if self.signals > MAX_SIGNALS {
                return Err(limit("signals", MAX_SIGNALS));
            }
            for signal in in_order(scan.signals)? {
                let block = self.blocks.entry(signal.block.height);
                if *block.or_insert(signal.block) != signal.block {
                    let what = format!("the block at height {}", signal.block.height);
                    return Err(contradiction(what));
                }
                if signal.confirmations >= self.min_conf
                    && signal.block.height >= self.history.height()
                {
                    self.found.push(Found {
                        signal,
                        kind: scan.kind,
                        script: scan.address.script_pubkey(),
                    });
                }
            }
        }
        self.phase = Phase::Updates;
        Ok(Turn::Again)
    }

    /// Puts the updates that are known in their places, and asks for the others.
    fn look_for_updates(&mut self, did: &Did, known: &mut Known) -> Result<Turn, Error> {
        let mut requests = BTreeSet::new();
        for found in std::mem::take(&mut self.found) {
            match announced(&found, did, known).map_err(|error| found.signal.at(error))? {
                Lookup::Ask(object) => {
                    requests.insert(Request::Object(object));
                    self.found.push(found);
                }
                Lookup::Found(None) => {}
                Lookup::Found(Some((version, announced))) => {
                    let place = Place {
                        version,
                        height: found.signal.block.height,
                        txid: found.signal.txid,
                        script: found.script,
                    };
                    self.updates.insert(place, announced);
                }
            }
        }
        if requests.is_empty() {
            self.phase = Phase::Next;
        }
        Ok(Turn::Ask(requests))
    }

    fn next_update(&mut self, select: Select) -> Result<Turn, Error> {
        let version = self.history.version();
        if select == Select::Id(version) {
            return Ok(self.resolved());
        }
        let is_deactivated = self.history.document().is_deactivated();
        let next = if is_deactivated {
            None
        } else {
            self.updates.pop_first()
        };
        let Some((place, announced)) = next else {
            return match select {
                Select::Id(wanted) => Err(Error::new(
                    ErrorCode::NotFound,
                    ResolutionError::NoSuchVersion {
                        wanted,
                        newest: version,
                        is_deactivated,
                    },
                )),
                Select::Newest | Select::Time(_) => Ok(self.resolved()),
            };
        };
        // A beacon that an update has taken out of the document says nothing more, until another puts it back.
        let mut beacons = self.history.document().beacons().iter();
        if !beacons.any(|beacon| beacon.script() == place.script) {
            return Ok(Turn::Again);
        }
        // A repetition stops nothing: it may be in a block after the time while the next version is in one before.
        if let Select::Time(time) = select
            && place.version > version
            && announced.signal.block.median_time() > time
        {
            return Ok(self.resolved());
        }
        let Announced {
            hash,
            update,
            signal,
        } = announced;
        let taken = match place.version.cmp(&(version + 1)) {
            Ordering::Less => self.history.confirm(place.version, hash, &update),
            Ordering::Equal => {
                self.phase = Phase::Beacons;
                self.history.apply(&update, &signal)
            }
            Ordering::Greater => Err(Error::new(
                ErrorCode::LatePublishing,
                ResolutionError::VersionSkipped {
                    got: place.version,
                    expected: version + 1,
                    update: hash,
                },
            )),
        };
        taken.map_err(|error| signal.at(error))?;
        Ok(Turn::Again)
    }

    fn resolved(&self) -> Turn {
        Turn::Resolved(self.history.resolved())
    }
}

/// The update that a signal announces for a DID, with the version to which it leads; `None` if it announces none
/// ("Process CAS Beacon", "Process SMT Beacon").
fn announced(
    found: &Found,
    did: &Did,
    known: &mut Known,
) -> Result<Lookup<Option<(u64, Announced)>>, Error> {
    let bytes = found.signal.bytes;
    let hash = match found.kind {
        BeaconType::Singleton => Some(Hash32(bytes)),
        BeaconType::Cas => match known.announcement(Hash32(bytes))? {
            Lookup::Found(map) => map
                .update_of(did)
                .map_err(Error::of(ErrorCode::MissingUpdateData))?,
            Lookup::Ask(object) => return Ok(Lookup::Ask(object)),
        },
        BeaconType::Smt => known.update_in_tree(Root(bytes), did)?,
    };
    let Some(hash) = hash else {
        return Ok(Lookup::Found(None));
    };
    let update = match known.update(hash)? {
        Lookup::Found(update) => update,
        Lookup::Ask(object) => return Ok(Lookup::Ask(object)),
    };
    // No more of it is read before it is its turn: an update that is never applied may be anything.
    let version = update.get("targetVersionId");
    let number = version.and_then(Value::as_u64).ok_or_else(|| {
        let got = version.map_or_else(|| "nothing".into(), json::shorten);
        let problem = ResolutionError::NoVersion { got, update: hash };
        Error::new(ErrorCode::InvalidDidUpdate, problem)
    })?;
    let announced = Announced {
        hash,
        update,
        signal: found.signal,
    };
    Ok(Lookup::Found(Some((number, announced))))
}

/// The signals of one answer by block, each once.
fn in_order(mut signals: Vec<Signal>) -> Result<Vec<Signal>, Error> {
    signals.sort();
    signals.dedup();
    let mut txids = BTreeSet::new();
    for signal in &signals {
        if !txids.insert(signal.txid) {
            return Err(contradiction(format!("the transaction {}", signal.txid)));
        }
    }
    Ok(signals)
}

fn contradiction(what: String) -> Error {
    Error::new(
        ErrorCode::InternalError,
        ResolutionError::Contradiction { what },
    )
}
