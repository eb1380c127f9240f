//! The miner's purse: one taproot key that every coinbase pays, and payments from it.
//!
//! The key is fixed and public. It guards coins without value, and a reopened data directory can
//! be spent from without a key file.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::key::{Keypair, Secp256k1, TapTweak as _, TweakedKeypair};
use bitcoin::secp256k1::{All, Message};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, taproot};

/// Fee of the miner's payments, in sat/vB.
const FEE_RATE: u64 = 2;
/// Most coins spent by one payment.
const MAX_INPUTS: usize = 100;

/// The holder of all coinbases.
pub(crate) struct Miner {
    secp: Secp256k1<All>,
    key: TweakedKeypair,
}

impl Miner {
    pub(crate) fn new() -> Result<Self, String> {
        let secp = Secp256k1::new();
        let seed = sha256::Hash::hash(b"beacon-regtest/miner");
        let key = Keypair::from_seckey_slice(&secp, seed.as_byte_array())
            .map_err(|error| error.to_string())?
            .tap_tweak(&secp, None);
        Ok(Self { secp, key })
    }

    /// The script that coinbases pay.
    pub(crate) fn script(&self) -> ScriptBuf {
        ScriptBuf::new_p2tr_tweaked(self.key.public_parts().0)
    }

    /// A signed transaction whose output 0 pays `amount` to `pay_to`, from the first of `coins`
    /// that suffice. `None` when [`MAX_INPUTS`] of them do not.
    pub(crate) fn pay(
        &self,
        coins: impl IntoIterator<Item = (OutPoint, TxOut)>,
        pay_to: ScriptBuf,
        amount: Amount,
    ) -> Option<Transaction> {
        let mut transaction = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: Vec::new(),
            output: vec![
                TxOut {
                    value: amount,
                    script_pubkey: pay_to,
                },
                TxOut {
                    value: Amount::ZERO,
                    script_pubkey: self.script(),
                },
            ],
        };
        let mut spent = Vec::new();
        let mut total = Amount::ZERO;
        for (outpoint, output) in coins.into_iter().take(MAX_INPUTS) {
            total = total.checked_add(output.value)?;
            transaction.input.push(TxIn {
                previous_output: outpoint,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                // Counts for the size; replaced by the signature.
                witness: Witness::from_slice(&[[0; 64]]),
            });
            spent.push(output);

            let fee = Amount::from_sat(FEE_RATE * transaction.weight().to_vbytes_ceil());
            let Some(change) = total
                .checked_sub(amount)
                .and_then(|rest| rest.checked_sub(fee))
            else {
                continue;
            };
            if change < self.script().minimal_non_dust() {
                transaction.output.truncate(1);
            } else if let Some(output) = transaction.output.last_mut() {
                output.value = change;
            }
            return self.sign(transaction, &spent);
        }
        None
    }

    fn sign(&self, mut transaction: Transaction, spent: &[TxOut]) -> Option<Transaction> {
        let mut cache = SighashCache::new(&mut transaction);
        for index in 0..spent.len() {
            let sighash = cache
                .taproot_key_spend_signature_hash(
                    index,
                    &Prevouts::All(spent),
                    TapSighashType::Default,
                )
                .ok()?;
            let signature = taproot::Signature {
                signature: self.secp.sign_schnorr_no_aux_rand(
                    &Message::from_digest(sighash.to_byte_array()),
                    &self.key.to_keypair(),
                ),
                sighash_type: TapSighashType::Default,
            };
            *cache.witness_mut(index)? = Witness::p2tr_key_spend(&signature);
        }
        Some(transaction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_takes_as_many_coins_as_it_needs_and_no_more() {
        let miner = Miner::new().unwrap();
        let coins = (0u32..5).map(|vout| {
            (
                OutPoint::new(bitcoin::Txid::all_zeros(), vout),
                TxOut {
                    value: Amount::from_sat(10_000),
                    script_pubkey: miner.script(),
                },
            )
        });
        let pay = |sats| miner.pay(coins.clone(), miner.script(), Amount::from_sat(sats));

        let small = pay(1_000).unwrap();
        assert_eq!((small.input.len(), small.output.len()), (1, 2));
        let left = 10_000 - 1_000 - small.output[1].value.to_sat();
        assert_eq!(left, FEE_RATE * small.weight().to_vbytes_ceil());

        assert_eq!(pay(15_000).unwrap().input.len(), 2);
        // What is left over is too small to be an output: it goes to the fee.
        assert_eq!(pay(9_600).unwrap().output.len(), 1);
        assert!(pay(50_000).is_none());
    }
}
