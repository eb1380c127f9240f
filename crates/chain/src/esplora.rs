//! [`EsploraChain`]: a chain source behind an Esplora server's HTTP interface.

use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use bitcoin::{Amount, BlockHash, OutPoint, Script, Transaction, TxOut, Txid};
use esplora_client::{BlockingClient, Builder, Error};
use thiserror::Error as ThisError;

use crate::chain::checked_fee_rate;
use crate::history::History;
use crate::{
    BroadcastError, Chain, ChainError, OutputStatus, Reason, Spends, Tip, TransactionStatus, Utxo,
};

/// Most retries of one request. The client waits 256 ms before the first and twice as long before
/// each further one, so that five take 8 seconds.
pub const MAX_RETRIES: usize = 5;

/// How often an answer that takes several requests is begun again when the tip moves meanwhile.
pub(crate) const TIP_ATTEMPTS: usize = 3;

/// An Esplora server.
///
/// Every number and hash in an answer is parsed, transactions are compared with the id that was
/// asked for, and amounts with the supply limit. The client limits a response's header to 256 KiB
/// and its body only to 1 GiB; the timeout, which covers the whole request, is the tighter bound.
/// Histories have limits of their own, such as [`MAX_HISTORY_BYTES`](crate::MAX_HISTORY_BYTES).
#[derive(Debug)]
pub struct EsploraChain {
    pub(crate) client: BlockingClient,
}

/// A base URL that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error(
    "got {:?} as url of a chain source, expected http:// or https:// followed by a host, such as http://127.0.0.1:3002",
    got.as_str()
)]
pub struct InvalidBaseUrl {
    got: Reason,
}

impl InvalidBaseUrl {
    /// Without the user and password that it may have.
    pub(crate) fn new(got: &str) -> Self {
        let got = match got.rsplit_once('@') {
            Some((_, host)) => Reason::new(format_args!("…@{host}")),
            None => Reason::new(got),
        };
        Self { got }
    }
}

/// A URL of a server, without slashes at its end.
pub(crate) fn base_url(url: &str) -> Option<&str> {
    let trimmed = url.trim_end_matches('/');
    let host = trimmed
        .strip_prefix("http://")
        .or_else(|| trimmed.strip_prefix("https://"))?;
    let usable = !host.is_empty()
        && !host.starts_with([':', '/', '?', '#'])
        && host.chars().all(|c| c.is_ascii_graphic());
    usable.then_some(trimmed)
}

impl EsploraChain {
    /// A client for the server at `base_url` (with the path prefix of its API, if it has one, as in
    /// `https://mempool.space/api`). `timeout` is for one request and is rounded up to whole
    /// seconds. A request that is answered with 429, 500 or 503 is repeated at most `retries`
    /// times, never more than [`MAX_RETRIES`]. Nothing is sent yet.
    pub fn new(base_url: &str, timeout: Duration, retries: usize) -> Result<Self, InvalidBaseUrl> {
        let url = self::base_url(base_url).ok_or_else(|| InvalidBaseUrl::new(base_url))?;
        let client = Builder::new(url)
            .timeout(timeout.max(Duration::from_secs(1)))
            .max_retries(retries.min(MAX_RETRIES))
            .build_blocking();
        Ok(Self { client })
    }

    /// Runs one request. The HTTP layer subtracts header sizes without a check, so a hostile
    /// server can make it panic in builds with overflow checks. For headers that happens in a
    /// thread of its own, for trailers in ours, which must not end by it.
    pub(crate) fn ask<T>(
        &self,
        request: impl FnOnce(&BlockingClient) -> Result<T, Error>,
    ) -> Result<T, Error> {
        panic::catch_unwind(AssertUnwindSafe(|| request(&self.client)))
            .unwrap_or(Err(Error::InvalidResponse))
    }

    pub(crate) fn get<T>(
        &self,
        request: impl FnOnce(&BlockingClient) -> Result<T, Error>,
    ) -> Result<T, ChainError> {
        self.ask(request).map_err(classify)
    }

    /// The height of a transaction's block, or `None` when it is not in one. Esplora says
    /// "unconfirmed" of transactions that it does not know, too.
    fn confirmation(&self, txid: Txid) -> Result<Option<(u32, BlockHash)>, ChainError> {
        let status = self.get(|client| client.get_tx_status(&txid))?;
        match (status.confirmed, status.block_height, status.block_hash) {
            (false, ..) => Ok(None),
            (true, Some(height), Some(hash)) => Ok(Some((height, hash))),
            (true, height, hash) => Err(ChainError::garbage(format_args!(
                "transaction {txid} is confirmed at height {height:?} in block {hash:?}, expected both"
            ))),
        }
    }
}

impl Chain for EsploraChain {
    fn tip(&self) -> Result<Tip, ChainError> {
        // Asking for height and hash separately could pair those of two different tips.
        for _ in 0..TIP_ATTEMPTS {
            let hash = self.get(BlockingClient::get_tip_hash)?;
            let status = self.get(|client| client.get_block_status(&hash))?;
            match (status.in_best_chain, status.height) {
                (true, Some(height)) => return Ok(Tip { height, hash }),
                (true, None) => {
                    return Err(ChainError::garbage(format_args!(
                        "block {hash} is in the best chain without a height, expected one"
                    )));
                }
                (false, _) => {}
            }
        }
        Err(tip_moved())
    }

    fn is_in_best_chain(&self, block: Tip) -> Result<bool, ChainError> {
        let status = self.get(|client| client.get_block_status(&block.hash))?;
        Ok(status.in_best_chain && status.height == Some(block.height))
    }

    fn genesis(&self) -> Result<BlockHash, ChainError> {
        self.get(|client| client.get_block_hash(0))
    }

    fn unspent(&self, script: &Script) -> Result<Vec<Utxo>, ChainError> {
        let listed = self.get(|client| client.get_scripthash_utxos(script))?;
        let mut utxos = listed
            .into_iter()
            .map(|utxo| {
                let outpoint = OutPoint::new(utxo.txid, utxo.vout);
                if utxo.value > Amount::MAX_MONEY {
                    return Err(ChainError::garbage(format_args!(
                        "output {outpoint} has {} sat, expected at most {}",
                        utxo.value.to_sat(),
                        Amount::MAX_MONEY.to_sat()
                    )));
                }
                if utxo.status.confirmed != utxo.status.block_height.is_some() {
                    return Err(ChainError::garbage(format_args!(
                        "output {outpoint} has confirmed {} with height {:?}, expected both or neither",
                        utxo.status.confirmed, utxo.status.block_height
                    )));
                }
                Ok(Utxo {
                    outpoint,
                    output: TxOut {
                        value: utxo.value,
                        script_pubkey: script.to_owned(),
                    },
                    height: utxo.status.block_height,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let distinct: HashSet<OutPoint> = utxos.iter().map(|utxo| utxo.outpoint).collect();
        if distinct.len() != utxos.len() {
            return Err(ChainError::garbage(format_args!(
                "got {} outputs of which {} are distinct, expected no output twice",
                utxos.len(),
                distinct.len()
            )));
        }
        Utxo::sort(&mut utxos);
        Ok(utxos)
    }

    fn spends(&self, script: &Script) -> Result<Spends, ChainError> {
        // Pages are asked for one after the other: blocks that are replaced meanwhile tear holes. Blocks
        // that come on top do not.
        for _ in 0..TIP_ATTEMPTS {
            let tip = self.tip()?;
            let found = History::read(self, script, tip).and_then(|history| history.spends(self));
            if self.is_in_best_chain(tip)? {
                let transactions = found?;
                return Ok(Spends { tip, transactions });
            }
        }
        Err(tip_moved())
    }

    fn output(&self, outpoint: OutPoint) -> Result<OutputStatus, ChainError> {
        let Some(transaction) = self.raw_transaction(outpoint.txid)? else {
            return Ok(OutputStatus::Unseen);
        };
        let output = usize::try_from(outpoint.vout)
            .ok()
            .and_then(|vout| transaction.output.get(vout));
        let Some(output) = output else {
            return Ok(OutputStatus::Unseen);
        };
        let height = self.confirmation(outpoint.txid)?.map(|(height, _)| height);
        let spend =
            self.get(|client| client.get_output_status(&outpoint.txid, u64::from(outpoint.vout)))?;
        let spent_by = match spend.map(|spend| (spend.spent, spend.txid)) {
            Some((true, Some(txid))) => Some(txid),
            Some((true, None)) => {
                return Err(ChainError::garbage(format_args!(
                    "output {outpoint} is spent by no transaction, expected one"
                )));
            }
            Some((false, _)) => None,
            // The transaction left the mempool since the first request.
            None => return Ok(OutputStatus::Unseen),
        };
        Ok(OutputStatus::Seen {
            output: output.clone(),
            height,
            spent_by,
        })
    }

    fn transaction(&self, txid: Txid) -> Result<TransactionStatus, ChainError> {
        if let Some((height, block_hash)) = self.confirmation(txid)? {
            return Ok(TransactionStatus::Confirmed { height, block_hash });
        }
        Ok(match self.raw_transaction(txid)? {
            Some(_) => TransactionStatus::Mempool,
            None => TransactionStatus::Unknown,
        })
    }

    fn raw_transaction(&self, txid: Txid) -> Result<Option<Transaction>, ChainError> {
        let transaction = self.get(|client| client.get_tx(&txid))?;
        match transaction.as_ref().map(Transaction::compute_txid) {
            Some(got) if got != txid => Err(ChainError::garbage(format_args!(
                "got transaction {got}, expected {txid}"
            ))),
            _ => Ok(transaction),
        }
    }

    /// Of the targets that the server has, the longest one that is not longer, else the shortest one.
    fn fee_rate(&self, blocks: u16) -> Result<Option<u64>, ChainError> {
        let estimates = self.get(BlockingClient::get_fee_estimates)?;
        let targets = || estimates.iter();
        let soon = targets().filter(|(target, _)| **target <= blocks);
        let best = soon.max_by_key(|(target, _)| **target);
        let best = best.or_else(|| targets().min_by_key(|(target, _)| **target));
        best.map(|(_, rate)| checked_fee_rate(rate.to_sat_per_kwu().div_ceil(250)))
            .transpose()
    }

    fn broadcast(&self, transaction: &Transaction) -> Result<(), BroadcastError> {
        let txid = transaction.compute_txid();
        let error = match self.ask(|client| client.broadcast(transaction)) {
            Ok(got) if got == txid => return Ok(()),
            Ok(got) => {
                return Err(BroadcastError::unavailable(format_args!(
                    "got transaction id {got} in return, expected {txid}"
                )));
            }
            Err(error) => error,
        };
        // Servers refuse what they already have, each in other words: look instead of parsing.
        if matches!(
            self.transaction(txid),
            Ok(TransactionStatus::Mempool | TransactionStatus::Confirmed { .. })
        ) {
            return Ok(());
        }
        Err(match error {
            Error::HttpResponse { status, message } if !is_overload(status) => {
                BroadcastError::refused(message)
            }
            other => BroadcastError::unavailable(classify(other)),
        })
    }
}

pub(crate) fn tip_moved() -> ChainError {
    ChainError::unavailable(format_args!(
        "the tip moved during each of {TIP_ATTEMPTS} attempts"
    ))
}

/// Sorts the client's errors into "no answer" and "no sense".
pub(crate) fn classify(error: Error) -> ChainError {
    match error {
        Error::HttpResponse { status, message } if is_overload(status) => {
            ChainError::unavailable(format_args!("status {status}: {message}"))
        }
        Error::HttpResponse { status, message } => {
            ChainError::garbage(format_args!("got status {status}, expected 200: {message}"))
        }
        Error::BitReq(error) if is_malformed(&error) => ChainError::garbage(error),
        Error::BitReq(error) => ChainError::unavailable(error),
        other => ChainError::garbage(other),
    }
}

/// Statuses that say something about the server's state rather than about the request.
fn is_overload(status: u16) -> bool {
    status == 408 || status == 429 || status >= 500
}

/// Errors of the HTTP layer that come from the bytes of an answer. All others mean that there was none.
pub(crate) fn is_malformed(error: &bitreq::Error) -> bool {
    use bitreq::Error::{
        BodyOverflow, HeadersOverflow, InfiniteRedirectionLoop, InvalidUtf8InBody,
        InvalidUtf8InResponse, MalformedChunkEnd, MalformedChunkLength, MalformedContentLength,
        Other, RedirectLocationMissing, SerdeJsonError, StatusLineOverflow, TooManyRedirections,
    };
    matches!(
        error,
        SerdeJsonError(_)
            | InvalidUtf8InBody(_)
            | MalformedChunkLength
            | MalformedChunkEnd
            | MalformedContentLength
            | HeadersOverflow
            | StatusLineOverflow
            | RedirectLocationMissing
            | InfiniteRedirectionLoop
            | TooManyRedirections
            | InvalidUtf8InResponse
            | BodyOverflow
            // The request's own thread panicked, as a hostile header can make it.
            | Other(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_checked_before_anything_is_sent() {
        let new = |url| EsploraChain::new(url, Duration::from_secs(1), 0);
        assert!(new("http://127.0.0.1:3002/").is_ok());
        assert!(new("https://mempool.space/api").is_ok());
        for bad in [
            "",
            "127.0.0.1:3002",
            "ftp://host",
            "http://",
            "http://:80",
            "http://a b",
        ] {
            let error = new(bad).unwrap_err().to_string();
            assert!(error.contains("expected http://"), "{error}");
        }
    }
}
