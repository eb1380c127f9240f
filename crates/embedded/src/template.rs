//! Blocks: a coinbase that pays what it may, the commitments that consensus asks for, and work.

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash as _;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::transaction::Version as TxVersion;
use bitcoin::{
    Amount, Block, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Witness, WitnessCommitment,
};

use beacon_chain::Tip;

/// Regtest's difficulty, which never changes: every second hash will do.
const BITS: u32 = 0x207f_ffff;
/// Regtest halves the subsidy this often, in blocks.
const HALVING_INTERVAL: u32 = 150;
/// Subsidy of the first blocks, in sat.
const FIRST_SUBSIDY: u64 = 50 * 100_000_000;
/// Reserved value in the coinbase's witness and in the commitment to all witnesses (BIP141).
const WITNESS_RESERVED: [u8; 32] = [0; 32];
/// What precedes the witness commitment in its output (BIP141).
const COMMITMENT_HEADER: [u8; 4] = [0xaa, 0x21, 0xa9, 0xed];

/// What a block is made of.
pub(crate) struct Template {
    /// The block that it follows.
    pub(crate) parent: Tip,
    /// Unix seconds, later than the parent's median time past.
    pub(crate) time: u32,
    /// Parents before children, without the coinbase.
    pub(crate) transactions: Vec<Transaction>,
    /// The sum of their fees.
    pub(crate) fees: Amount,
    /// Where subsidy and fees go.
    pub(crate) pay_to: ScriptBuf,
    /// Tells blocks apart that are alike in everything else, as those of two branches can be.
    pub(crate) extra_nonce: u64,
}

impl Template {
    /// Builds the block and does its work. `None` only if no nonce fits, which at this
    /// difficulty has a probability of 2^-(2^32).
    pub(crate) fn mine(self) -> Option<Block> {
        let height = self.parent.height.checked_add(1)?;
        let mut transactions = Vec::with_capacity(self.transactions.len() + 1);
        transactions.push(coinbase(height, self.fees, self.pay_to, self.extra_nonce));
        transactions.extend(self.transactions);
        let mut block = Block {
            header: Header {
                version: Version::from_consensus(0x2000_0000),
                prev_blockhash: self.parent.hash,
                merkle_root: TxMerkleNode::all_zeros(),
                time: self.time,
                bits: CompactTarget::from_consensus(BITS),
                nonce: 0,
            },
            txdata: transactions,
        };

        let witness_root = block.witness_root()?;
        let commitment = Block::compute_witness_commitment(&witness_root, &WITNESS_RESERVED);
        let output = block.txdata.first_mut()?.output.last_mut()?;
        output.script_pubkey = commitment_script(commitment);
        block.header.merkle_root = block.compute_merkle_root()?;

        let target = block.header.target();
        let nonce = (0..=u32::MAX).find(|nonce| {
            block.header.nonce = *nonce;
            target.is_met_by(block.header.block_hash())
        })?;
        block.header.nonce = nonce;
        Some(block)
    }
}

/// A coinbase whose last output is the place of the witness commitment, still empty.
fn coinbase(height: u32, fees: Amount, pay_to: ScriptBuf, extra_nonce: u64) -> Transaction {
    let mut unique = PushBytesBuf::new();
    // Eight bytes are far below the limit of a push.
    let _ = unique.extend_from_slice(&extra_nonce.to_le_bytes());
    Transaction {
        version: TxVersion::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            // The height comes first (BIP34).
            script_sig: Builder::new()
                .push_int(i64::from(height))
                .push_slice(unique)
                .into_script(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[WITNESS_RESERVED]),
        }],
        output: vec![
            TxOut {
                value: subsidy(height)
                    .checked_add(fees)
                    .unwrap_or(Amount::MAX_MONEY),
                script_pubkey: pay_to,
            },
            TxOut {
                value: Amount::ZERO,
                script_pubkey: ScriptBuf::new(),
            },
        ],
    }
}

fn commitment_script(commitment: WitnessCommitment) -> ScriptBuf {
    let mut data = PushBytesBuf::new();
    let _ = data.extend_from_slice(&COMMITMENT_HEADER);
    let _ = data.extend_from_slice(commitment.as_byte_array());
    ScriptBuf::new_op_return(data)
}

fn subsidy(height: u32) -> Amount {
    Amount::from_sat(
        FIRST_SUBSIDY
            .checked_shr(height / HALVING_INTERVAL)
            .unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use bitcoin::BlockHash;

    use super::*;

    #[test]
    fn the_subsidy_halves_every_150_blocks_down_to_nothing() {
        assert_eq!(subsidy(149).to_sat(), 5_000_000_000);
        assert_eq!(subsidy(150).to_sat(), 2_500_000_000);
        assert_eq!(subsidy(150 * 32).to_sat(), 1);
        assert_eq!(subsidy(150 * 33).to_sat(), 0);
        assert_eq!(subsidy(u32::MAX).to_sat(), 0);
    }

    #[test]
    fn a_mined_block_meets_its_target_and_commits_to_its_witnesses() {
        let block = Template {
            parent: Tip {
                height: 16,
                hash: BlockHash::all_zeros(),
            },
            time: 1_700_000_000,
            transactions: Vec::new(),
            fees: Amount::from_sat(7),
            pay_to: ScriptBuf::from_bytes(vec![0x51]),
            extra_nonce: 1,
        }
        .mine()
        .unwrap();
        assert!(block.header.validate_pow(block.header.target()).is_ok());
        assert!(block.check_merkle_root());
        assert!(block.check_witness_commitment());
        assert_eq!(block.bip34_block_height().unwrap(), 17);
        assert_eq!(block.txdata[0].output[0].value.to_sat(), 5_000_000_007);
    }
}
