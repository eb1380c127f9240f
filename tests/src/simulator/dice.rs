//! The one source of chance: whatever happens by luck in a simulation follows from its seed.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

/// A generator for one purpose. Purposes do not disturb each other: one node's extra draw does not change the
/// weather of the network.
pub(super) fn generator(seed: u64, purpose: u64, number: u64) -> ChaCha20Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&purpose.to_le_bytes());
    key[16..24].copy_from_slice(&number.to_le_bytes());
    ChaCha20Rng::from_seed(key)
}

/// Throws for the network, the chain and the users.
#[derive(Debug)]
pub(super) struct Dice(ChaCha20Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(generator(seed, u64::MAX, 0))
    }

    /// Whether something happens that happens `per_mille` times in a thousand. A rate of 0 draws nothing.
    pub(super) fn hits(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1_000) < u64::from(per_mille)
    }

    /// A number below `limit`; 0 where that is 0. The bias of the remainder does not matter here.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64().checked_rem(limit).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
