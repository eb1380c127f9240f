//! The best chain's blocks from the start height on, as their headers link them.

use std::time::Instant;

use bitcoin::BlockHash;
use bitcoin::block::Header;
use bitcoin::consensus::encode::deserialize_hex;
use serde_json::json;

use super::client::{CallError, Client, code};
use crate::{ChainError, Tip};

/// Headers of one request.
const BATCH: u32 = 1_000;
/// Blocks that are stepped back one by one when they are gone. Beyond that everything is read again.
const MAX_STEPS_BACK: usize = 1_000;
/// Blocks whose times make a median.
const MEDIAN_OF: usize = 11;

/// Hashes and times by height: 36 bytes for each block.
#[derive(Debug)]
pub(super) struct Headers {
    /// The first height with a median: the start height.
    pub(super) start: u32,
    /// The height of `links[0]`: as far below as medians need.
    first: u32,
    links: Vec<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    hash: BlockHash,
    time: u32,
}

impl Headers {
    pub(super) fn from(start: u32) -> Self {
        let below = u32::try_from(MEDIAN_OF - 1).unwrap_or(0);
        Self {
            start,
            first: start.saturating_sub(below),
            links: Vec::new(),
        }
    }

    /// The height after the last one.
    pub(super) fn end(&self) -> u32 {
        let length = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        self.first.saturating_add(length)
    }

    pub(super) fn hash(&self, height: u32) -> Option<BlockHash> {
        self.link(height).map(|link| link.hash)
    }

    /// The header's time, and the median of it and those before.
    pub(super) fn times(&self, height: u32) -> Option<(u32, u32)> {
        let time = self.link(height)?.time;
        let last = self.index(height)?;
        let first = (last + 1).saturating_sub(MEDIAN_OF);
        let mut times: Vec<_> = self
            .links
            .get(first..=last)?
            .iter()
            .map(|l| l.time)
            .collect();
        times.sort_unstable();
        Some((time, *times.get(times.len() / 2)?))
    }

    fn index(&self, height: u32) -> Option<usize> {
        usize::try_from(height.checked_sub(self.first)?).ok()
    }

    fn link(&self, height: u32) -> Option<&Link> {
        self.links.get(self.index(height)?)
    }

    /// Drops the blocks that are not in the best chain any more. What was learnt of blocks from
    /// [`Headers::end`] on is then to be forgotten.
    pub(super) fn step_back(&mut self, client: &Client, best: Tip) -> Result<(), ChainError> {
        for _ in 0..MAX_STEPS_BACK {
            let Some(last) = self.links.last() else {
                return Ok(());
            };
            let height = self.end().saturating_sub(1);
            let theirs = match height {
                height if height > best.height => None,
                height if height == best.height => Some(best.hash),
                height => block_hash(client, height)?,
            };
            if theirs == Some(last.hash) {
                return Ok(());
            }
            self.links.pop();
        }
        self.links.clear();
        Ok(())
    }

    /// Reads headers up to `best`, until `deadline`. What was read stays, also when it fails.
    pub(super) fn catch_up(
        &mut self,
        client: &Client,
        best: Tip,
        deadline: Instant,
    ) -> Result<(), ChainError> {
        while self.end() <= best.height {
            let next = self.end();
            let last = next.saturating_add(BATCH - 1).min(best.height);
            let hashes: Vec<BlockHash> =
                client.batch("getblockhash", (next..=last).map(|height| json!([height])))?;
            let headers: Vec<String> = client.batch(
                "getblockheader",
                hashes.iter().map(|hash| json!([hash, false])),
            )?;
            for (hash, header) in hashes.into_iter().zip(headers) {
                self.push(hash, &header)?;
            }
            if last < best.height && Instant::now() >= deadline {
                return Err(ChainError::unavailable(format_args!(
                    "read headers up to {last} of {} so far; asked again, it goes on from there",
                    best.height
                )));
            }
        }
        Ok(())
    }

    fn push(&mut self, hash: BlockHash, header: &str) -> Result<(), ChainError> {
        let height = self.end();
        let header: Header = deserialize_hex(header).map_err(|error| {
            ChainError::garbage(format_args!("got no header of block {height}: {error}"))
        })?;
        if header.block_hash() != hash {
            return Err(ChainError::garbage(format_args!(
                "got the header of {} for block {height}, expected that of {hash}",
                header.block_hash()
            )));
        }
        if let Some(before) = self.links.last()
            && before.hash != header.prev_blockhash
        {
            return Err(ChainError::unavailable(format_args!(
                "block {height} follows {}, expected {}: blocks are being replaced",
                header.prev_blockhash, before.hash
            )));
        }
        self.links.push(Link {
            hash,
            time: header.time,
        });
        Ok(())
    }
}

/// The hash of the best chain's block at `height`, if it has one.
pub(super) fn block_hash(client: &Client, height: u32) -> Result<Option<BlockHash>, ChainError> {
    match client.call("getblockhash", &json!([height])) {
        Ok(hash) => Ok(Some(hash)),
        Err(CallError::Node {
            code: code::INVALID_PARAMETER,
            ..
        }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
