//! The narrow door to Bitcoin Core's kernel: open, submit a block, read blocks, verify scripts.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use bitcoin::consensus::encode::{deserialize, serialize};
use bitcoin::hashes::Hash as _;
use bitcoin::{BlockHash, TxOut};
use bitcoinkernel::prelude::*;
use bitcoinkernel::{
    Block, BlockTreeEntry, BlockValidationResult, BlockValidationStateRef, ChainType,
    ChainstateManager, Context, KernelError, PrecomputedTransactionData, ProcessBlockResult,
    ScriptPubkey, Transaction, TxCheckResult, ValidationMode,
};

use beacon_chain::{ChainError, Tip};

/// What the kernel said about one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    block: BlockHash,
    mode: ValidationMode,
    result: BlockValidationResult,
}

/// Bitcoin Core's validation and block storage on regtest.
///
/// Its databases live in memory and are rebuilt from the block files at each start, which takes
/// about 0.1 ms a block. That makes reopening after a crash the same as reopening after a clean
/// stop: a block that was written is there, and no database can lag behind it.
pub(crate) struct Kernel {
    // Destroyed before the context that it reports to.
    manager: ChainstateManager,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    _context: Context,
}

impl Kernel {
    /// Opens the block files in `directory`, or starts with the genesis block.
    pub(crate) fn open(directory: &Path) -> Result<Self, String> {
        // The kernel's log is a global of the C++ library, may be disabled once only, and would
        // otherwise be buffered in memory for ever.
        static QUIET: Once = Once::new();
        QUIET.call_once(bitcoinkernel::disable_logging);

        let utf8 = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("got path {}, expected UTF-8", path.display()))
        };
        let data = utf8(directory)?;
        let blocks = utf8(&directory.join("blocks"))?;

        let verdicts = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&verdicts);
        let context = Context::builder()
            .chain_type(ChainType::Regtest)
            .with_block_checked_validation(
                // Called from C++: a panic in here would abort the process.
                move |block: Block, state: BlockValidationStateRef<'_>| {
                    lock(&sink).push(Verdict {
                        block: BlockHash::from_byte_array(block.hash().to_bytes()),
                        mode: state.mode(),
                        result: state.result(),
                    });
                },
            )
            .build()
            .map_err(|error| error.to_string())?;
        let manager = ChainstateManager::builder(&context, &data, &blocks)
            .and_then(|builder| builder.wipe_db(true, true))
            .map_err(|error| error.to_string())?
            .block_tree_db_in_memory(true)
            .chainstate_db_in_memory(true)
            .worker_threads(0)
            .build()
            .map_err(|error| error.to_string())?;
        manager.import_blocks().map_err(|error| error.to_string())?;
        lock(&verdicts).clear();
        Ok(Self {
            manager,
            verdicts,
            _context: context,
        })
    }

    /// The last block of the active chain.
    pub(crate) fn tip(&self) -> Result<Tip, ChainError> {
        let height = u32::try_from(self.manager.active_chain().height())
            .map_err(|_| ChainError::garbage("the kernel has no genesis block"))?;
        let hash = self
            .hash_at(height)
            .ok_or_else(|| ChainError::garbage(format_args!("the kernel has no block {height}")))?;
        Ok(Tip { height, hash })
    }

    /// The hash of the active chain's block at `height`.
    pub(crate) fn hash_at(&self, height: u32) -> Option<BlockHash> {
        let entry = self
            .manager
            .active_chain()
            .at_height(usize::try_from(height).ok()?)?;
        Some(hash_of(entry))
    }

    /// A block and its height, from the active chain or from a branch that was left.
    pub(crate) fn block(
        &self,
        hash: &BlockHash,
    ) -> Result<Option<(bitcoin::Block, u32)>, ChainError> {
        let key = bitcoinkernel::BlockHash::from(hash.to_byte_array());
        let Some(entry) = self.manager.get_block_tree_entry(&key) else {
            return Ok(None);
        };
        let height = u32::try_from(entry.height()).map_err(ChainError::garbage)?;
        let bytes = self
            .manager
            .read_block_data(&entry)
            .and_then(|block| block.consensus_encode())
            .map_err(ChainError::garbage)?;
        let block = deserialize(&bytes).map_err(ChainError::garbage)?;
        Ok(Some((block, height)))
    }

    /// Has a block validated and stored. `Ok` means that the kernel found nothing wrong with it
    /// so far; a block of a side branch is validated in full only when its branch becomes the
    /// longest, so the caller looks where the tip is.
    pub(crate) fn submit(&self, block: &bitcoin::Block) -> Result<(), String> {
        let encoded = Block::new(&serialize(block)).map_err(|error| error.to_string())?;
        lock(&self.verdicts).clear();
        let processed = self.manager.process_block(&encoded);
        // "New block" is also said of an invalid one, so the verdicts decide.
        let verdicts = std::mem::take(&mut *lock(&self.verdicts));
        if let Some(bad) = verdicts
            .iter()
            .find(|verdict| verdict.mode != ValidationMode::Valid)
        {
            return Err(format!(
                "got {:?} ({:?}) from the kernel for block {}, expected a valid block",
                bad.mode, bad.result, bad.block
            ));
        }
        match processed {
            ProcessBlockResult::NewBlock => Ok(()),
            other => Err(format!(
                "got {other:?} from the kernel for block {}, expected a new block",
                block.block_hash()
            )),
        }
    }
}

/// Runs the kernel's context-free transaction checks.
pub(crate) fn check_transaction(transaction: &bitcoin::Transaction) -> Result<(), String> {
    let encoded = Transaction::new(&serialize(transaction)).map_err(|error| error.to_string())?;
    match encoded.check() {
        TxCheckResult::Valid => Ok(()),
        TxCheckResult::Invalid(result) => Err(format!("{result:?}")),
    }
}

/// Runs the kernel's script verification, all consensus rules on, for every input of
/// `transaction`. `spent` are the outputs that it spends, in input order. The error is the index
/// of the first input that fails and the kernel's message.
pub(crate) fn verify_scripts(
    transaction: &bitcoin::Transaction,
    spent: &[TxOut],
) -> Result<(), (usize, String)> {
    let whole = |error: KernelError| (0, error.to_string());
    let encoded = Transaction::new(&serialize(transaction)).map_err(whole)?;
    let mut outputs = Vec::with_capacity(spent.len());
    for output in spent {
        let script = ScriptPubkey::new(output.script_pubkey.as_bytes()).map_err(whole)?;
        outputs.push(bitcoinkernel::TxOut::new(
            &script,
            output.value.to_signed_amount(),
        ));
    }
    let precomputed = PrecomputedTransactionData::new(&encoded, &outputs).map_err(whole)?;
    for (index, output) in outputs.iter().enumerate() {
        bitcoinkernel::verify(
            &output.script_pubkey(),
            Some(output.value()),
            &encoded,
            index,
            None,
            &precomputed,
        )
        .map_err(|error| (index, error.to_string()))?;
    }
    Ok(())
}

/// Satoshis as the kernel counts them.
trait SignedAmount {
    fn to_signed_amount(self) -> i64;
}

impl SignedAmount for bitcoin::Amount {
    fn to_signed_amount(self) -> i64 {
        // Amounts above the supply limit were refused before; saturating keeps them refused.
        i64::try_from(self.to_sat()).unwrap_or(i64::MAX)
    }
}

fn hash_of(entry: BlockTreeEntry<'_>) -> BlockHash {
    BlockHash::from_byte_array(entry.block_hash().to_bytes())
}

/// A panic elsewhere cannot leave the list of verdicts half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
