//! The confirmed history of a script at an Esplora server: read page by page, checked as a whole.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::Duration;

use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::{BlockHash, OutPoint, Script, Transaction, Txid};
use esplora_client::{BlockingClient, Error, EsploraTx, RETRYABLE_ERROR_CODES};

use crate::esplora::classify;
use crate::{ChainError, ConfirmedSpend, EsploraChain, Tip};

/// Most pages of one script's history. Servers put 10 to 50 transactions on a page.
pub const MAX_HISTORY_PAGES: usize = 2_000;
/// Most transactions that fund or spend one script. Anybody can make them, at the price of as many payments.
pub const MAX_HISTORY_TRANSACTIONS: usize = 20_000;
/// Most bytes of all pages of one script's history: 64 MiB.
pub const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// The client's own wait before it repeats a request; twice as long before each further time.
const FIRST_BACKOFF: Duration = Duration::from_millis(256);

/// All transactions up to a block that fund or spend one script, newest first, as a server lists them.
pub(crate) struct History<'a> {
    script: &'a Script,
    tip: Tip,
    listed: Vec<Listed>,
}

/// A transaction whose id was computed, and what the server says of it.
struct Listed {
    transaction: Transaction,
    txid: Txid,
    block: Block,
    /// Which of its inputs spend the script, by the server's word.
    claimed: Vec<OutPoint>,
}

/// What the server says of the block that holds a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    height: u32,
    hash: BlockHash,
    /// Of its header.
    time: u32,
}

impl<'a> History<'a> {
    /// Reads all pages, and leaves out what came on top of `tip` meanwhile. The end is an empty page: how
    /// many transactions a full one has, differs.
    pub(crate) fn read(
        chain: &EsploraChain,
        script: &'a Script,
        tip: Tip,
    ) -> Result<Self, ChainError> {
        let hash = sha256::Hash::hash(script.as_bytes());
        let mut path = format!("/scripthash/{hash:x}/txs/chain");
        let mut listed = Vec::new();
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for _ in 0..MAX_HISTORY_PAGES {
            let (page, length) = page(chain, &path, MAX_HISTORY_BYTES.saturating_sub(bytes))?;
            bytes = bytes.saturating_add(length);
            let Some(last) = page.last() else {
                return Ok(Self {
                    script,
                    tip,
                    listed,
                });
            };
            path = format!("/scripthash/{hash:x}/txs/chain/{}", last.txid);
            for entry in page {
                let entry = Listed::check(&entry, script)?;
                if !seen.insert(entry.txid) {
                    return Err(ChainError::garbage(format_args!(
                        "transaction {} is twice in the history of a script, expected once",
                        entry.txid
                    )));
                }
                if seen.len() > MAX_HISTORY_TRANSACTIONS {
                    return Err(ChainError::too_much(format_args!(
                        "got more than {MAX_HISTORY_TRANSACTIONS} transactions of one script, expected fewer"
                    )));
                }
                if entry.block.height <= tip.height {
                    listed.push(entry);
                }
            }
        }
        Err(ChainError::too_much(format_args!(
            "got more than {MAX_HISTORY_PAGES} pages of transactions of one script, expected fewer"
        )))
    }

    /// Those that spend the script, oldest first.
    ///
    /// The server's word for it is the script that each input spends. An output that is spent was
    /// paid before, by a transaction of the same history: its id commits to the script.
    pub(crate) fn spends(self, chain: &EsploraChain) -> Result<Vec<ConfirmedSpend>, ChainError> {
        self.check_blocks()?;
        let mut paid = HashSet::new();
        for listed in &self.listed {
            for (vout, output) in (0u32..).zip(&listed.transaction.output) {
                if *output.script_pubkey == *self.script {
                    paid.insert(OutPoint::new(listed.txid, vout));
                }
            }
        }
        let mut medians = HashMap::new();
        let mut spends = Vec::new();
        for Listed {
            transaction,
            txid,
            block,
            claimed,
        } in self.listed
        {
            let inputs = transaction.input.iter();
            let spent = inputs
                .map(|input| input.previous_output)
                .filter(|outpoint| paid.contains(outpoint));
            if !spent.eq(claimed.iter().copied()) {
                return Err(ChainError::garbage(format_args!(
                    "transaction {txid} spends a script by its listing or by the outputs that it spends, expected by both or neither"
                )));
            }
            if claimed.is_empty() {
                continue;
            }
            let median_time = match medians.get(&block.hash) {
                Some(known) => *known,
                None => *medians
                    .entry(block.hash)
                    .or_insert(median_time(chain, block)?),
            };
            spends.push(ConfirmedSpend {
                transaction,
                height: block.height,
                block_hash: block.hash,
                block_time: block.time,
                median_time,
            });
        }
        ConfirmedSpend::sort(&mut spends);
        Ok(spends)
    }

    /// Whether heights descend, and each has one block.
    fn check_blocks(&self) -> Result<(), ChainError> {
        let mut blocks = HashMap::new();
        let mut highest = self.tip.height;
        for Listed { block, txid, .. } in &self.listed {
            if block.height > highest {
                return Err(ChainError::garbage(format_args!(
                    "transaction {txid} is at height {}, expected at most {highest}, the height of the one before",
                    block.height
                )));
            }
            highest = block.height;
            let known = *blocks.entry(block.height).or_insert(*block);
            if known != *block || (block.height == self.tip.height && block.hash != self.tip.hash) {
                return Err(ChainError::garbage(format_args!(
                    "got two blocks or times for height {}, expected one",
                    block.height
                )));
            }
        }
        Ok(())
    }
}

impl Listed {
    fn check(listed: &EsploraTx, script: &Script) -> Result<Self, ChainError> {
        let transaction = listed.to_tx();
        let txid = transaction.compute_txid();
        if txid != listed.txid {
            return Err(ChainError::garbage(format_args!(
                "a transaction that is listed as {} has the id {txid}, expected the same",
                listed.txid
            )));
        }
        let status = &listed.status;
        let time = status.block_time.and_then(|time| u32::try_from(time).ok());
        let (true, Some(height), Some(hash), Some(time)) = (
            status.confirmed,
            status.block_height,
            status.block_hash,
            time,
        ) else {
            return Err(ChainError::garbage(format_args!(
                "transaction {txid} of a confirmed history has confirmed {}, height {:?}, block {:?}, time {:?}, expected all of them",
                status.confirmed, status.block_height, status.block_hash, status.block_time
            )));
        };
        let claimed: Vec<_> = listed
            .vin
            .iter()
            .filter(|input| {
                let spent = input.prevout.as_ref();
                spent.is_some_and(|output| *output.scriptpubkey == *script)
            })
            .map(|input| OutPoint::new(input.txid, input.vout))
            .collect();
        let pays = transaction
            .output
            .iter()
            .any(|output| *output.script_pubkey == *script);
        if claimed.is_empty() && !pays {
            return Err(ChainError::garbage(format_args!(
                "transaction {txid} neither pays nor spends the script whose history it is in, expected one of them"
            )));
        }
        Ok(Self {
            transaction,
            txid,
            block: Block { height, hash, time },
            claimed,
        })
    }
}

/// The median time of a block, whose other data must be what the transaction's listing says.
fn median_time(chain: &EsploraChain, block: Block) -> Result<u32, ChainError> {
    let info = chain.get(|client| client.get_block_info(&block.hash))?;
    let same = info.id == block.hash
        && info.height == block.height
        && info.timestamp == u64::from(block.time);
    // A block is later than the median of those before it, so that the median with it is not later.
    let median = u32::try_from(info.mediantime).ok();
    median.filter(|median| same && *median <= block.time).ok_or_else(|| {
        ChainError::garbage(format_args!(
            "block {} has height {}, time {} and median time {}, expected height {}, time {} and no later median",
            info.id, info.height, info.timestamp, info.mediantime, block.height, block.time
        ))
    })
}

/// One page, of at most `max` bytes, and its length. The client's own request has no limit that suits.
fn page(
    chain: &EsploraChain,
    path: &str,
    max: usize,
) -> Result<(Vec<EsploraTx>, usize), ChainError> {
    let answer = chain.ask(|client| request(client, path, max));
    let response = match answer {
        Err(Error::BitReq(bitreq::Error::BodyOverflow)) => {
            return Err(ChainError::too_much(format_args!(
                "got more than {MAX_HISTORY_BYTES} bytes of transactions of one script, expected fewer"
            )));
        }
        answer => answer.map_err(classify)?,
    };
    let page = response
        .json()
        .map_err(|error| classify(Error::BitReq(error)))?;
    Ok((page, response.as_bytes().len()))
}

/// A GET as the client makes them, with its timeout and repetitions.
fn request(client: &BlockingClient, path: &str, max: usize) -> Result<bitreq::Response, Error> {
    let timeout = client.timeout.unwrap_or(Duration::from_secs(1));
    let timeout = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    let (mut delay, mut retries) = (FIRST_BACKOFF, 0);
    loop {
        let response = bitreq::get(format!("{}{path}", client.url()))
            .with_timeout(timeout)
            .with_max_body_size(max)
            .send()?;
        let status = u16::try_from(response.status_code).map_err(Error::StatusCode)?;
        if (200..300).contains(&status) {
            return Ok(response);
        }
        if retries >= client.max_retries || !RETRYABLE_ERROR_CODES.contains(&status) {
            let message = response.as_str().unwrap_or_default().to_owned();
            return Err(Error::HttpResponse { status, message });
        }
        thread::sleep(delay);
        delay *= 2;
        retries += 1;
    }
}
