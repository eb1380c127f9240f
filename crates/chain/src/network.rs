//! Which chain a source is for.

use std::fmt;

use bitcoin::blockdata::constants::genesis_block;
use bitcoin::{BlockHash, Network};

use crate::{Chain, ChainError, Tip};

/// Block 1 of the default signet. Its genesis block is that of every signet, whoever signs its blocks.
const SIGNET_1: &str = "00000086d6b2636cb2a392d45edc4ec544a10024d30141c9adf4bfd9de533b53";

/// Block 1 of Mutinynet.
const MUTINYNET_1: &str = "000002855893a0a9b24eaffc5efc770558a326fee4fc10c9da22fc19cd2954f9";

/// The networks that are told apart.
const KNOWN: [(Network, &str); 5] = [
    (Network::Bitcoin, "mainnet"),
    (Network::Testnet, "testnet3"),
    (Network::Testnet4, "testnet4"),
    (Network::Signet, "a signet"),
    (Network::Regtest, "regtest"),
];

/// What tells one network's chain from all others: its genesis block, and for a signet the block after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainIdentity {
    genesis: BlockHash,
    first: Option<BlockHash>,
}

/// A source's chain is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongChain {
    /// It starts with another block.
    Genesis {
        /// Block 0 of the source.
        got: BlockHash,
        /// Block 0 of the network.
        expected: BlockHash,
    },
    /// It is a signet, and not this one.
    Signet {
        /// Block 1 of the network, which the source does not have.
        expected: BlockHash,
    },
}

impl ChainIdentity {
    /// Of a network as the Bitcoin library knows it; `Signet` is the default one.
    pub fn of(network: Network) -> Self {
        let first = (network == Network::Signet).then(|| block_1(SIGNET_1));
        Self {
            genesis: genesis_block(network).block_hash(),
            first,
        }
    }

    /// Of Mutinynet.
    pub fn mutinynet() -> Self {
        Self {
            genesis: genesis_block(Network::Signet).block_hash(),
            first: Some(block_1(MUTINYNET_1)),
        }
    }

    /// How the source's chain differs from this one, if it does. A source that has no block after the genesis block of
    /// its signet yet is unavailable.
    pub fn mismatch(&self, chain: &dyn Chain) -> Result<Option<WrongChain>, ChainError> {
        let (got, expected) = (chain.genesis()?, self.genesis);
        if got != expected {
            return Ok(Some(WrongChain::Genesis { got, expected }));
        }
        let Some(expected) = self.first else {
            return Ok(None);
        };
        let first = Tip {
            height: 1,
            hash: expected,
        };
        if chain.is_in_best_chain(first)? {
            return Ok(None);
        }
        if chain.tip()?.height == 0 {
            let reason = "the source has only the genesis block, by which signets cannot be told apart: wait until it has more";
            return Err(ChainError::unavailable(reason));
        }
        Ok(Some(WrongChain::Signet { expected }))
    }
}

#[expect(clippy::expect_used, reason = "both constants are parsed by a test")]
fn block_1(hash: &str) -> BlockHash {
    hash.parse().expect("64 hex digits")
}

impl fmt::Display for WrongChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Genesis { got, expected } => {
                let (got, expected) = (Named(got), Named(expected));
                write!(f, "genesis block {got}, expected {expected}")
            }
            Self::Signet { expected } => {
                write!(f, "another signet's blocks, expected block 1 {expected}")
            }
        }
    }
}

/// A genesis block with its network's name, where it has one.
struct Named<'a>(&'a BlockHash);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KNOWN.iter();
        let mut known =
            known.filter(|(network, _)| genesis_block(*network).block_hash() == *self.0);
        match known.next() {
            Some((_, name)) => write!(f, "{} ({name})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::{OutPoint, Script, Transaction, Txid};

    use super::*;
    use crate::{BroadcastError, OutputStatus, Spends, TransactionStatus, Utxo};

    /// A chain of so many blocks, of which these two are known.
    struct Source {
        genesis: BlockHash,
        first: BlockHash,
        height: u32,
    }

    impl Chain for Source {
        fn tip(&self) -> Result<Tip, ChainError> {
            Ok(Tip {
                height: self.height,
                hash: self.genesis,
            })
        }

        fn is_in_best_chain(&self, block: Tip) -> Result<bool, ChainError> {
            Ok(self.height > 0 && (block.height, block.hash) == (1, self.first))
        }

        fn genesis(&self) -> Result<BlockHash, ChainError> {
            Ok(self.genesis)
        }

        fn unspent(&self, _: &Script) -> Result<Vec<Utxo>, ChainError> {
            unreachable!()
        }

        fn spends(&self, _: &Script) -> Result<Spends, ChainError> {
            unreachable!()
        }

        fn output(&self, _: OutPoint) -> Result<OutputStatus, ChainError> {
            unreachable!()
        }

        fn transaction(&self, _: Txid) -> Result<TransactionStatus, ChainError> {
            unreachable!()
        }

        fn raw_transaction(&self, _: Txid) -> Result<Option<Transaction>, ChainError> {
            unreachable!()
        }

        fn fee_rate(&self, _: u16) -> Result<Option<u64>, ChainError> {
            unreachable!()
        }

        fn broadcast(&self, _: &Transaction) -> Result<(), BroadcastError> {
            unreachable!()
        }
    }

    fn source(network: Network, first: &str, height: u32) -> Source {
        Source {
            genesis: genesis_block(network).block_hash(),
            first: first.parse().unwrap(),
            height,
        }
    }

    #[test]
    fn networks_are_told_apart_by_name() {
        for (network, name) in KNOWN {
            let got = source(network, SIGNET_1, 9);
            for (other, other_name) in KNOWN {
                let answer = ChainIdentity::of(other).mismatch(&got).unwrap();
                let text = answer.map(|wrong| wrong.to_string());
                if network == other {
                    assert_eq!(text, None);
                } else {
                    let text = text.unwrap();
                    assert!(text.contains(&format!("({name}), expected")), "{text}");
                    assert!(text.ends_with(&format!("({other_name})")), "{text}");
                }
            }
        }
    }

    #[test]
    fn signets_are_told_apart_by_their_first_block() {
        let signet = ChainIdentity::of(Network::Signet);
        let mutinynet = ChainIdentity::mutinynet();
        for (first, right, wrong) in [
            (SIGNET_1, signet, mutinynet),
            (MUTINYNET_1, mutinynet, signet),
        ] {
            let chain = source(Network::Signet, first, 1);
            assert_eq!(right.mismatch(&chain), Ok(None));
            let text = wrong.mismatch(&chain).unwrap().unwrap().to_string();
            assert!(text.starts_with("another signet's blocks"), "{text}");
            let new = source(Network::Signet, first, 0);
            for identity in [right, wrong] {
                let error = identity.mismatch(&new).unwrap_err();
                assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
            }
        }
    }
}
