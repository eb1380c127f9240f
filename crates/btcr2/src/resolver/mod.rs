//! Resolution as a machine: it says what it needs to know, and whoever drives it finds that out in its own way ("Resolve").
//!
//! The machine asks for two things: the signals of an address, and objects by their hash. Every question can be answered by
//! "none", so that a missing object ends a resolution with the specified error and never holds it up. Answers may come in any
//! order; the result does not depend on it.

mod error;
mod history;
mod known;
mod run;
mod signal;

use std::collections::BTreeSet;
use std::fmt;

use bitcoin::Address;

pub use self::error::{ResolutionError, Unusable};
pub use self::signal::{Block, Signal};

use self::known::{Known, Lookup};
use self::run::Run;
use crate::document::Document;
use crate::error::{Error, ErrorCode};
use crate::identifier::{Did, GenesisBytes};
use crate::initial;
use crate::json::{Hash32, Limits};
use crate::options::{ResolutionOptions, Select};
use crate::result::{Resolution, Resolved};

/// Most addresses that one resolution asks for.
pub const MAX_ADDRESSES: usize = 4_096;
/// Most signals that one resolution takes from all addresses together.
pub const MAX_SIGNALS: usize = 100_000;
/// Most objects that one resolution asks a store for.
pub const MAX_OBJECTS: usize = 20_000;
/// Most bytes of objects that one resolution takes from a store.
pub const MAX_OBJECT_BYTES: usize = 64 << 20;

/// Something the machine needs to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// All confirmed transactions that spend from this address: answer with [`Resolver::answer_signals`]. Those with too few
    /// confirmations may be among them.
    Signals(Address),
    /// A JSON document with this hash, as a content addressed store has it: answer with [`Resolver::answer_object`].
    Object(Object),
}

/// A document that is known by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// SHA-256 of its canonical form.
    pub hash: Hash32,
}

/// What an [`Object`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The genesis document of an x DID.
    Genesis,
    /// A signed update.
    Update,
    /// The announcement map of a CAS beacon.
    Announcement,
}

/// What [`Resolver::next`] says.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// All of these are to be answered, in any order.
    Need(Vec<Request>),
    /// This is the result.
    Done(Resolution),
}

/// The resolution of one DID.
///
/// ```
/// use beacon_btcr2::{Did, Next, Request, ResolutionOptions, Resolver};
///
/// let did: Did = "did:btcr2:k1qqp8n0nx0muaewav2ksx99wwsu9swq5mlndjmn3gm9vl9q2mzmup0xqhmkf96".parse()?;
/// let mut resolver = Resolver::new(did, ResolutionOptions::default());
/// let resolution = loop {
///     match resolver.next() {
///         Next::Done(resolution) => break resolution,
///         Next::Need(requests) => {
///             for request in requests {
///                 match request {
///                     // Here a chain is asked who spends from the address, and a store for the object.
///                     Request::Signals(address) => resolver.answer_signals(&address, Vec::new()),
///                     Request::Object(object) => resolver.answer_object(object, None),
///                 }
///             }
///         }
///     }
/// };
/// assert_eq!(resolution.to_value()["didDocumentMetadata"]["versionId"], "1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Resolver {
    did: Did,
    select: Select,
    min_conf: u32,
    known: Known,
    /// Questions without an answer.
    open: BTreeSet<Request>,
    /// Number of objects that a store was asked for.
    objects: usize,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// There is no document yet.
    Genesis,
    /// Updates are sought and applied.
    Updates(Box<Run>),
    /// There is a result.
    Done(Box<Resolution>),
}

/// What a step comes to.
enum Turn {
    /// The next step can be taken.
    Again,
    /// It can be taken once these are answered, if there are any.
    Ask(BTreeSet<Request>),
    /// The first document.
    Begin(Document),
    /// The version that was asked for.
    Resolved(Resolved),
}

impl Resolver {
    /// Begins the resolution of a DID. Nothing is asked or computed yet.
    pub fn new(did: Did, options: ResolutionOptions) -> Self {
        Self {
            did,
            select: options.select(),
            min_conf: options.min_conf(),
            known: Known::new(options.sidecar),
            open: BTreeSet::new(),
            objects: 0,
            stage: Stage::Genesis,
        }
    }

    /// Goes on as far as it can without an answer. As long as one is missing it says what it needs again; once it is done it
    /// says the same for ever.
    #[expect(
        clippy::should_implement_trait,
        reason = "it has no end: what it says last it says again"
    )]
    pub fn next(&mut self) -> Next {
        loop {
            if !self.open.is_empty() {
                return Next::Need(self.open.iter().cloned().collect());
            }
            let turn = match &mut self.stage {
                Stage::Genesis => establish(&self.did, &mut self.known),
                Stage::Updates(run) => run.turn(&self.did, self.select, &mut self.known),
                Stage::Done(resolution) => return Next::Done(Resolution::clone(resolution)),
            };
            match turn {
                Ok(Turn::Again) => {}
                Ok(Turn::Ask(requests)) => self.ask(requests),
                Ok(Turn::Begin(document)) => {
                    self.stage = Stage::Updates(Box::new(Run::new(document, self.min_conf)));
                }
                Ok(Turn::Resolved(resolved)) => self.finish(Resolution(Ok(resolved))),
                Err(error) => self.finish(error.into()),
            }
        }
    }

    /// Says which confirmed transactions spend from an address. An answer that nobody asked for is passed over.
    pub fn answer_signals(&mut self, address: &Address, signals: Vec<Signal>) {
        let asked = self.open.remove(&Request::Signals(address.clone()));
        if let (true, Stage::Updates(run)) = (asked, &mut self.stage) {
            run.take_signals(address, signals);
        }
    }

    /// Hands an object over, or says that it is nowhere. An answer that nobody asked for is passed over.
    pub fn answer_object(&mut self, object: Object, answer: Option<Vec<u8>>) {
        if !self.open.remove(&Request::Object(object)) {
            return;
        }
        if let Err(error) = self.known.answer(object, answer) {
            self.finish(error.into());
        }
    }

    fn ask(&mut self, requests: BTreeSet<Request>) {
        let is_object = |request: &&Request| matches!(request, Request::Object(_));
        self.objects += requests.iter().filter(is_object).count();
        if self.objects > MAX_OBJECTS {
            self.finish(limit("objects to be fetched", MAX_OBJECTS).into());
        } else {
            self.open = requests;
        }
    }

    fn finish(&mut self, resolution: Resolution) {
        self.open.clear();
        self.stage = Stage::Done(Box::new(resolution));
    }
}

/// The first document ("Establish current_document").
fn establish(did: &Did, known: &mut Known) -> Result<Turn, Error> {
    let hash = match did.genesis() {
        GenesisBytes::Document(hash) => *hash,
        GenesisBytes::Key(key) => return initial::of_key(did, key).map(Turn::Begin),
    };
    match known.take_genesis(hash)? {
        Lookup::Found(genesis) => initial::from_genesis(did, &genesis).map(Turn::Begin),
        Lookup::Ask(object) => Ok(Turn::Ask([Request::Object(object)].into())),
    }
}

fn limit(what: &'static str, max: usize) -> Error {
    Error::new(
        ErrorCode::InternalError,
        ResolutionError::Limit { what, max },
    )
}

impl Object {
    fn new(kind: ObjectKind, hash: Hash32) -> Self {
        Self { kind, hash }
    }
}

impl ObjectKind {
    /// How much JSON such an object may be. A store need not look for one that is larger.
    pub fn limits(self) -> Limits {
        match self {
            Self::Genesis => Limits::DOCUMENT,
            Self::Update => Limits::UPDATE,
            Self::Announcement => Limits::ANNOUNCEMENT,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Genesis => "genesis document",
            Self::Update => "signed update",
            Self::Announcement => "announcement map",
        })
    }
}
