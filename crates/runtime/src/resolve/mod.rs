//! Resolution of did:btcr2: drives the machine of `beacon-btcr2`, which asks for signals and objects, with sources that
//! have them: a chain or a file of signals, and a directory of documents.
//!
//! [`command`] is `beacon-participant resolve`, [`server`] is `beacon-participant resolver serve`. Both answer with an
//! [`Answer`] that is made here, so that they cannot differ.

mod answer;
mod cas;
pub mod command;
mod http;
pub mod server;
mod signals;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use beacon_btcr2::resolver::{Block, Signal};
use beacon_btcr2::{Did, Network, Next, Request, Resolution, ResolutionOptions, Resolver};
use beacon_chain::{Chain, ChainError, ChainIdentity, Tip, WrongChain};
use bitcoin::Address;

pub use answer::{Answer, Verdict};
pub use cas::{CasDirectory, CasError};
pub use signals::{SignalsError, SignalsFile};

/// How often a resolution begins again when blocks that it has seen are replaced meanwhile.
const ATTEMPTS: usize = 3;

/// Where a resolution finds what it asks for.
#[derive(Debug)]
pub struct Sources {
    /// Signals of beacons.
    pub signals: SignalSource,
    /// Documents by their hash.
    pub objects: CasDirectory,
}

/// Where signals are found.
#[derive(Debug)]
pub enum SignalSource {
    /// On a chain.
    Chain(ChainSource),
    /// In a file.
    File(SignalsFile),
}

/// A chain, for DIDs of its network.
pub struct ChainSource {
    chain: Arc<dyn Chain>,
    only: Option<Network>,
    /// The network that it was found to be.
    found: OnceLock<Network>,
}

impl ChainSource {
    /// For DIDs of this chain's network, or of `only` this one. Nothing is asked yet.
    pub fn new(chain: Arc<dyn Chain>, only: Option<Network>) -> Self {
        Self {
            chain,
            only,
            found: OnceLock::new(),
        }
    }

    /// Whether this is the chain for the DIDs of a network. The source is asked until it is.
    pub fn check(&self, network: Network) -> Result<(), SourceError> {
        if let Some(only) = self.only.filter(|only| *only != network) {
            return Err(SourceError::NotServed { network, only });
        }
        if self.found.get() == Some(&network) {
            return Ok(());
        }
        let identity = match network {
            Network::Mutinynet => ChainIdentity::mutinynet(),
            other => ChainIdentity::of(other.into()),
        };
        if let Some(wrong) = identity.mismatch(&*self.chain)? {
            return Err(SourceError::OtherNetwork { wrong, network });
        }
        self.found.get_or_init(|| network);
        Ok(())
    }
}

impl std::fmt::Debug for ChainSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ChainSource");
        shown.field("only", &self.only).finish_non_exhaustive()
    }
}

/// Why a source of signals could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It did not answer, or not so that it can be believed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It is another network's.
    #[error(
        "the chain source has {wrong}: give the --chain-url of a source for {network}, the DID's network"
    )]
    OtherNetwork {
        /// What it is instead.
        wrong: WrongChain,
        /// The DID's network.
        network: Network,
    },
    /// It is for another network only.
    #[error("this resolver is for DIDs of {only}, got one of {network}")]
    NotServed {
        /// The DID's network.
        network: Network,
        /// The one that is served.
        only: Network,
    },
    /// Nobody waits for the result any more.
    #[error("the resolution was given up")]
    GivenUp,
    /// It kept replacing blocks.
    #[error(
        "blocks were replaced during each of {ATTEMPTS} attempts to resolve: try again when the chain has settled"
    )]
    Unsettled,
}

/// How far a resolution has come, for whoever waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    addresses: AtomicUsize,
    signals: AtomicUsize,
    objects: AtomicUsize,
    given_up: AtomicBool,
}

impl Progress {
    /// Ends the resolution at its next question.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        write!(
            f,
            "asked for {} addresses and {} documents, found {} signals",
            count(&self.addresses),
            count(&self.objects),
            count(&self.signals)
        )
    }
}

/// Resolves a DID. Blocks for as long as the chain source takes: call it from a thread that may wait.
///
/// All signals are those of one chain: where blocks are replaced between two answers of the source, resolution begins again.
pub fn resolve(
    did: &Did,
    options: &ResolutionOptions,
    sources: &Sources,
    progress: &Progress,
) -> Result<Resolution, SourceError> {
    for _ in 0..ATTEMPTS {
        let mut attempt = Attempt {
            sources,
            progress,
            network: did.network(),
            tips: Vec::new(),
        };
        let resolution = attempt.run(Resolver::new(did.clone(), options.clone()))?;
        if attempt.holds()? {
            return Ok(resolution);
        }
    }
    Err(SourceError::Unsettled)
}

struct Attempt<'a> {
    sources: &'a Sources,
    progress: &'a Progress,
    network: Network,
    /// The tips for which the chain has answered, each once.
    tips: Vec<Tip>,
}

impl Attempt<'_> {
    fn run(&mut self, mut resolver: Resolver) -> Result<Resolution, SourceError> {
        loop {
            let requests = match resolver.next() {
                Next::Done(resolution) => return Ok(resolution),
                Next::Need(requests) => requests,
            };
            for request in requests {
                if self.progress.given_up.load(Ordering::Relaxed) {
                    return Err(SourceError::GivenUp);
                }
                match request {
                    Request::Signals(address) => {
                        let signals = self.signals(&address)?;
                        self.progress.addresses.fetch_add(1, Ordering::Relaxed);
                        let found = &self.progress.signals;
                        found.fetch_add(signals.len(), Ordering::Relaxed);
                        resolver.answer_signals(&address, signals);
                    }
                    Request::Object(object) => {
                        self.progress.objects.fetch_add(1, Ordering::Relaxed);
                        let found = self.sources.objects.get(&object.hash);
                        resolver.answer_object(object, found.map(<[u8]>::to_vec));
                    }
                }
            }
        }
    }

    fn signals(&mut self, address: &Address) -> Result<Vec<Signal>, SourceError> {
        let script = address.script_pubkey();
        let source = match &self.sources.signals {
            SignalSource::File(file) => return Ok(file.of(&script)),
            SignalSource::Chain(source) => source,
        };
        source.check(self.network)?;
        let spends = source.chain.spends(&script)?;
        let tip = spends.tip;
        if !self.tips.contains(&tip) {
            self.tips.push(tip);
        }
        let signals = spends.transactions.into_iter().filter_map(|spend| {
            let block = Block {
                height: spend.height,
                hash: spend.block_hash,
                time: spend.block_time,
                median_time: spend.median_time,
            };
            Signal::of_spend(&spend.transaction, block, tip.height)
        });
        Ok(signals.collect())
    }

    /// Whether all answers were those of one chain: their tips are blocks of the best chain still.
    fn holds(&self) -> Result<bool, SourceError> {
        let SignalSource::Chain(source) = &self.sources.signals else {
            return Ok(true);
        };
        if self.tips.len() < 2 {
            return Ok(true);
        }
        for tip in &self.tips {
            if !source.chain.is_in_best_chain(*tip)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use beacon_chain::{BroadcastError, OutputStatus, Spends, TransactionStatus, Utxo};
    use bitcoin::blockdata::constants::genesis_block;
    use bitcoin::hashes::Hash as _;
    use bitcoin::{BlockHash, OutPoint, Script, Transaction, Txid};

    use super::*;

    /// A chain without signals, with another tip at each question, of which so many questions are answered from a branch
    /// that is left.
    struct Moving {
        asked: AtomicUsize,
        left: Mutex<usize>,
    }

    impl Chain for Moving {
        fn tip(&self) -> Result<Tip, ChainError> {
            Err(ChainError::unavailable("not asked for"))
        }

        fn is_in_best_chain(&self, _: Tip) -> Result<bool, ChainError> {
            let mut left = self.left.lock().unwrap();
            let holds = *left == 0;
            *left = left.saturating_sub(1);
            Ok(holds)
        }

        fn genesis(&self) -> Result<BlockHash, ChainError> {
            Ok(genesis_block(bitcoin::Network::Regtest).block_hash())
        }

        fn unspent(&self, _: &Script) -> Result<Vec<Utxo>, ChainError> {
            Err(ChainError::unavailable("not asked for"))
        }

        fn spends(&self, _: &Script) -> Result<Spends, ChainError> {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let byte = u8::try_from(number).unwrap();
            Ok(Spends {
                tip: Tip {
                    height: u32::from(byte),
                    hash: BlockHash::from_byte_array([byte; 32]),
                },
                transactions: Vec::new(),
            })
        }

        fn output(&self, _: OutPoint) -> Result<OutputStatus, ChainError> {
            Err(ChainError::unavailable("not asked for"))
        }

        fn transaction(&self, _: Txid) -> Result<TransactionStatus, ChainError> {
            Err(ChainError::unavailable("not asked for"))
        }

        fn raw_transaction(&self, _: Txid) -> Result<Option<Transaction>, ChainError> {
            Err(ChainError::unavailable("not asked for"))
        }

        fn fee_rate(&self, _: u16) -> Result<Option<u64>, ChainError> {
            Err(ChainError::unavailable("not asked for"))
        }

        fn broadcast(&self, _: &Transaction) -> Result<(), BroadcastError> {
            Err(BroadcastError::unavailable("not asked for"))
        }
    }

    /// A DID of a key on regtest, with three beacons.
    const DID: &str = "did:btcr2:k1qgp45a3ycrpc54uqmq0z9zt2qnhtvlwxnhrv0phdkkzq9teq5j35y4stunrnq";

    fn attempt(
        left: usize,
        only: Option<Network>,
        progress: &Progress,
    ) -> (Result<Resolution, SourceError>, usize) {
        let chain = Arc::new(Moving {
            asked: AtomicUsize::new(0),
            left: Mutex::new(left),
        });
        let source = Arc::clone(&chain);
        let sources = Sources {
            signals: SignalSource::Chain(ChainSource::new(source, only)),
            objects: CasDirectory::default(),
        };
        let options = ResolutionOptions::default();
        let result = resolve(&DID.parse().unwrap(), &options, &sources, progress);
        (result, chain.asked.load(Ordering::Relaxed))
    }

    #[test]
    fn a_resolution_begins_again_where_blocks_that_it_saw_were_replaced() {
        for (left, asked) in [(0, 3), (1, 6), (2, 9)] {
            let (result, questions) = attempt(left, None, &Progress::default());
            assert!(result.unwrap().0.is_ok(), "{left}");
            assert_eq!(questions, asked);
        }
        let (result, questions) = attempt(3, None, &Progress::default());
        assert_eq!((result, questions), (Err(SourceError::Unsettled), 9));
    }

    #[test]
    fn a_resolution_that_nobody_waits_for_asks_nothing_more() {
        let progress = Progress::default();
        progress.give_up();
        let (result, questions) = attempt(0, None, &progress);
        assert_eq!((result, questions), (Err(SourceError::GivenUp), 0));
    }

    #[test]
    fn a_source_for_one_network_answers_for_no_other() {
        let (result, _) = attempt(0, Some(Network::Regtest), &Progress::default());
        assert!(result.is_ok());
        let (result, questions) = attempt(0, Some(Network::Signet), &Progress::default());
        let refused = SourceError::NotServed {
            network: Network::Regtest,
            only: Network::Signet,
        };
        assert_eq!((result, questions), (Err(refused), 0));
    }
}
