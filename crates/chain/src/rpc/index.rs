//! What the blocks from the start height on say of the scripts and transactions that were asked for.
//!
//! Each script and each transaction has the height up to which blocks were looked through for it. The ones that are
//! furthest behind are advanced first, together, so that what was asked for one after the other is soon looked for in
//! one go. Where blocks are replaced, everything goes back to the last block that stays.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bitcoin::{BlockHash, Script, ScriptBuf, Transaction, Txid};
use serde::Deserialize;
use serde_json::json;

use super::activity::{activity, fetch};
use super::client::Client;
use super::headers::Headers;
use super::history::History;
use crate::{ChainError, Tip};

/// Most scripts that are followed, and most transactions that are looked for. Beyond that the one that was asked for
/// longest ago is forgotten.
pub const MAX_FOLLOWED: usize = 1_000;
/// Most bytes of all transactions that are kept for all scripts: 256 MiB. Beyond that the script that was asked for
/// longest ago is forgotten.
pub const MAX_FOLLOWED_BYTES: usize = 256 * 1024 * 1024;
/// Blocks that are looked through in one request for scripts, and for transactions, whose lists come over the wire.
const SCRIPTS_SLICE: u32 = 32;
const TRANSACTIONS_SLICE: u32 = 8;

/// All that is remembered. It can be thrown away at any time.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) headers: Headers,
    scripts: HashMap<ScriptBuf, History>,
    transactions: HashMap<Txid, Sought>,
    /// Counts questions.
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sought {
    next: u32,
    asked: u64,
    found: Option<Tip>,
}

#[derive(Deserialize)]
struct BlockIds {
    tx: Vec<Txid>,
}

impl Index {
    pub(super) fn new(start: u32) -> Self {
        Self {
            headers: Headers::from(start),
            scripts: HashMap::new(),
            transactions: HashMap::new(),
            clock: 0,
        }
    }

    /// Follows the best chain to `best`.
    pub(super) fn follow(
        &mut self,
        client: &Client,
        best: Tip,
        deadline: Instant,
    ) -> Result<(), ChainError> {
        if best.height < self.headers.start {
            return Err(ChainError::unavailable(format_args!(
                "the node's last block is {}, expected at least the start height {}",
                best.height, self.headers.start
            )));
        }
        let stepped = self.headers.step_back(client, best);
        // Also when it did not come to the end of it.
        let end = self.headers.end();
        for history in self.scripts.values_mut() {
            history.forget_from(end, self.headers.start);
        }
        for sought in self.transactions.values_mut() {
            sought.next = sought.next.min(end.max(self.headers.start));
            sought.found = sought.found.filter(|block| block.height < end);
        }
        stepped?;
        self.headers.catch_up(client, best, deadline)?;
        if self.headers.hash(best.height) == Some(best.hash) {
            return Ok(());
        }
        Err(ChainError::unavailable(format_args!(
            "block {} is not {} any more: blocks are being replaced",
            best.height, best.hash
        )))
    }

    /// The history of a script, up to the last block.
    pub(super) fn history(
        &mut self,
        client: &Client,
        script: &Script,
        deadline: Instant,
    ) -> Result<&History, ChainError> {
        self.make_room();
        self.clock += 1;
        let start = self.headers.start;
        let history = self
            .scripts
            .entry(script.to_owned())
            .or_insert_with(|| History::from(start));
        history.asked = self.clock;
        while self
            .scripts
            .get(script)
            .is_some_and(|history| history.fault.is_none() && history.next < self.headers.end())
        {
            let behind = self
                .scripts
                .values()
                .filter(|history| history.fault.is_none());
            let (from, to) = self.slice(behind.map(|history| history.next), SCRIPTS_SLICE);
            self.look_for_scripts(client, from, to)?;
            self.in_time(to, deadline)?;
        }
        if let Some(fault) = self
            .scripts
            .get(script)
            .and_then(|history| history.fault.clone())
        {
            // What was not to be believed may be right the next time. What is too much stays so.
            if matches!(fault, ChainError::Garbage { .. }) {
                self.scripts.remove(script);
            }
            return Err(fault);
        }
        self.scripts.get(script).ok_or_else(|| {
            ChainError::unavailable("a script was forgotten while it was looked for")
        })
    }

    /// The block of a transaction that no script which was asked for has to do with.
    pub(super) fn block_of(
        &mut self,
        client: &Client,
        txid: Txid,
        deadline: Instant,
    ) -> Result<Option<Tip>, ChainError> {
        self.make_room();
        self.clock += 1;
        let sought = self.transactions.entry(txid).or_insert(Sought {
            next: self.headers.start,
            asked: 0,
            found: None,
        });
        sought.asked = self.clock;
        loop {
            match self.transactions.get(&txid) {
                Some(Sought {
                    found: None, next, ..
                }) if *next < self.headers.end() => {}
                sought => return Ok(sought.and_then(|sought| sought.found)),
            }
            let behind = self
                .transactions
                .values()
                .filter(|sought| sought.found.is_none());
            let (from, to) = self.slice(behind.map(|sought| sought.next), TRANSACTIONS_SLICE);
            self.look_for_transactions(client, from, to)?;
            self.in_time(to, deadline)?;
        }
    }

    /// A confirmed transaction that pays or spends a script which was asked for.
    pub(super) fn known(&self, txid: Txid) -> Option<(Tip, &Transaction)> {
        self.scripts.values().find_map(|history| {
            let mut found = history.transactions();
            let (height, _, transaction) = found.find(|(_, id, _)| *id == txid)?;
            let hash = self.headers.hash(height)?;
            Some((Tip { height, hash }, transaction))
        })
    }

    /// The lowest height that any of these still needs, and where to end: where others join, too.
    fn slice(&self, next: impl Iterator<Item = u32> + Clone, most: u32) -> (u32, u32) {
        let end = self.headers.end();
        let from = next.clone().min().unwrap_or(end);
        let joins = next.filter(|next| *next > from).min().unwrap_or(end);
        (from, joins.min(end).min(from.saturating_add(most)))
    }

    /// Each question gets at least one slice further, however little time it has.
    fn in_time(&self, to: u32, deadline: Instant) -> Result<(), ChainError> {
        if to >= self.headers.end() || Instant::now() < deadline {
            return Ok(());
        }
        Err(ChainError::unavailable(format_args!(
            "looked through blocks up to {to} of {} so far; asked again, it goes on from there",
            self.headers.end()
        )))
    }

    /// The hashes of blocks from one height to before another.
    fn hashes(&self, from: u32, to: u32) -> Vec<BlockHash> {
        (from..to)
            .filter_map(|height| self.headers.hash(height))
            .collect()
    }

    fn look_for_scripts(&mut self, client: &Client, from: u32, to: u32) -> Result<(), ChainError> {
        let group: Vec<ScriptBuf> = self
            .scripts
            .iter()
            .filter(|(_, history)| history.next == from && history.fault.is_none())
            .map(|(script, _)| script.clone())
            .collect();
        let events = activity(client, &self.hashes(from, to), &group)?;
        let mut fetched = BTreeMap::new();
        for event in &events {
            let height = event.height.filter(|height| (from..to).contains(height));
            let Some((height, hash)) =
                height.and_then(|height| Some((height, self.headers.hash(height)?)))
            else {
                return Err(ChainError::garbage(format_args!(
                    "got activity at height {:?}, expected it from {from} to {}",
                    event.height,
                    to.saturating_sub(1)
                )));
            };
            if let Entry::Vacant(vacant) = fetched.entry((height, event.txid)) {
                vacant.insert(fetch(client, event.txid, Some(hash))?);
            }
        }
        for script in group {
            if let Some(history) = self.scripts.get_mut(&script) {
                let of_it = events.iter().filter(|event| event.script == script);
                // One script must not make us blind for the others.
                history.fault = history.take(of_it, &fetched, self.headers.start).err();
                history.next = to;
            }
        }
        Ok(())
    }

    fn look_for_transactions(
        &mut self,
        client: &Client,
        from: u32,
        to: u32,
    ) -> Result<(), ChainError> {
        let hashes = self.hashes(from, to);
        let blocks: Vec<BlockIds> =
            client.batch("getblock", hashes.iter().map(|hash| json!([hash, 1])))?;
        for ((height, hash), block) in (from..).zip(hashes).zip(blocks) {
            for txid in block.tx {
                if let Some(sought) = self.transactions.get_mut(&txid)
                    && sought.next == from
                {
                    sought.found = Some(Tip { height, hash });
                }
            }
        }
        for sought in self.transactions.values_mut() {
            if sought.next == from {
                sought.next = to;
            }
        }
        Ok(())
    }

    /// Forgets what was asked for longest ago.
    fn make_room(&mut self) {
        let bytes =
            |scripts: &HashMap<_, History>| scripts.values().map(|h| h.bytes).sum::<usize>();
        while self.scripts.len() >= MAX_FOLLOWED || bytes(&self.scripts) > MAX_FOLLOWED_BYTES {
            let oldest = self.scripts.iter().min_by_key(|(_, history)| history.asked);
            let Some(oldest) = oldest.map(|(script, _)| script.clone()) else {
                break;
            };
            self.scripts.remove(&oldest);
        }
        while self.transactions.len() >= MAX_FOLLOWED {
            let oldest = self
                .transactions
                .iter()
                .min_by_key(|(_, sought)| sought.asked);
            let Some(oldest) = oldest.map(|(txid, _)| *txid) else {
                break;
            };
            self.transactions.remove(&oldest);
        }
    }
}
