//! A transaction that members may have signed, and where it stands.

use std::collections::BTreeMap;

use beacon_signal::Root;
use bitcoin::{BlockHash, Transaction, Txid};
use serde::{Deserialize, Serialize};

use crate::evidence::SignedPartials;
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::message::SpentOutput;
use crate::review::conflict;
use crate::values::transaction_hex;

/// A transaction that members may have signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: u64,
    /// The signal bytes; `None` for a closing spend.
    #[serde(default)]
    pub root: Option<Root>,
    /// With witnesses once it is signed.
    #[serde(with = "transaction_hex")]
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// What the inputs spend.
    pub spent: Vec<SpentOutput>,
    /// What each member signed of it last, while others are missing.
    pub contributions: BTreeMap<PeerId, Contribution>,
    /// Where it stands.
    pub standing: Standing,
    /// When it was last given to the network.
    pub tried: Option<Timestamp>,
    /// How often it was given to the network since it was signed or left the chain.
    pub tries: u32,
    /// The network's reason, if it refused.
    pub refusal: Option<String>,
    /// How long it waits, and how its replacement goes.
    #[serde(default)]
    pub patience: Patience,
}

/// How long a signed signal waits for its first confirmation, and how its replacement goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Since when: it was signed, or left the chain.
    pub since: Timestamp,
    /// Sessions that would have replaced it and were abandoned.
    pub failures: u32,
    /// Not before this moment is another one started.
    pub not_before: Timestamp,
    /// Why the operator must decide.
    pub stopped: Option<String>,
}

/// A member's partial signatures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The session they were made in.
    pub session: SessionId,
    /// What was signed.
    pub signed: SignedPartials,
}

impl Signal {
    /// When it should be given to the network: half a minute after the last try, twice as long after each further one,
    /// and at least every hour.
    pub(in crate::coordinator) fn due(&self) -> Timestamp {
        let wait = 15_u64.saturating_mul(1 << self.tries.min(8)).min(3_600);
        self.tried
            .map_or(Timestamp::default(), |tried| tried.after(wait))
    }

    /// Whether it closes the beacon, and announces nothing.
    pub fn is_close(&self) -> bool {
        self.root.is_none()
    }

    /// Whether the two are for the same: the signal of one round, or a close of the same outputs. At most one is mined.
    pub(in crate::coordinator) fn is_version_of(&self, other: &Self) -> bool {
        match (self.is_close(), other.is_close()) {
            (false, false) => self.round == other.round,
            (true, true) => conflict(&self.tx, &other.tx),
            _ => false,
        }
    }

    /// Whether it has all its signatures.
    pub fn is_signed(&self) -> bool {
        self.standing != Standing::Unsigned
    }

    /// Whether it is in a block.
    pub fn is_mined(&self) -> bool {
        let standing = self.standing;
        matches!(
            standing,
            Standing::Confirmed { .. } | Standing::Buried { .. }
        )
    }

    pub(in crate::coordinator) fn is_due(&self, now: Timestamp) -> bool {
        self.due() <= now
    }
}

/// Where a signal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nonces are out; nobody is known to hold all partial signatures.
    Unsigned,
    /// Signed, and not yet known to the network.
    Signed,
    /// In the mempool.
    Broadcast,
    /// In a block.
    Confirmed {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
    /// As deep as the terms want.
    Buried {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
}
