//! What can be wrong with a PSBT.

use bitcoin::Txid;

use crate::values::CohortKey;

/// A PSBT that is not usable here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PsbtError {
    /// More than is read or written.
    #[error("got a PSBT with {got} {what}, expected at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Not a PSBT.
    #[error("got no PSBT: {reason}; expected its bytes or base64")]
    Unreadable {
        /// What the reader said.
        reason: String,
    },
    /// It is about something else.
    #[error("got a PSBT of transaction {got}, expected one of {expected}")]
    OtherTransaction {
        /// Its transaction.
        got: Txid,
        /// The one that is signed.
        expected: Txid,
    },
    /// It says something else of an input than is known.
    #[error("got another {what} for input {input} in the PSBT than the one that is signed for")]
    Differs {
        /// The input, counted from 0.
        input: usize,
        /// What differs.
        what: &'static str,
    },
    /// A MuSig2 field that is not as BIP373 says, or not about this cohort.
    #[error("input {input} of the PSBT: {reason}")]
    Field {
        /// The input, counted from 0.
        input: usize,
        /// What was got and what was expected.
        reason: String,
    },
    /// A contribution for some of the inputs only.
    #[error("got {what} of key {key} for {got} inputs, expected one for each of {expected}")]
    Incomplete {
        /// Whose.
        key: CohortKey,
        /// What.
        what: &'static str,
        /// For how many inputs.
        got: usize,
        /// How many inputs there are.
        expected: usize,
    },
    /// Not one spent output for each input.
    #[error("got another number of spent outputs than inputs")]
    SpentOutputs,
    /// Partial signatures that nothing can be made of yet.
    #[error("got partial signatures before the public nonces of all members, expected these first")]
    TooEarly,
    /// Public nonces that do not sum to the aggregated nonce.
    #[error(
        "the public nonces of input {input} do not sum to the aggregated nonce that was given: the coordinator shows \
         different ones to different members, or the PSBT was changed; sign nothing with it"
    )]
    NonceSum {
        /// The input, counted from 0.
        input: usize,
    },
    /// Nothing is known any more that an unfinished one could be compared with.
    #[error("got an unfinished PSBT of a session that is over here")]
    Over,
    /// Public nonces in our name.
    #[error("got public nonces under our key {key} that we did not give")]
    NotOurs {
        /// Our key.
        key: CohortKey,
    },
    /// A finished PSBT without a valid signature.
    #[error("the witness of input {input} is not the beacon's signature")]
    Unsigned {
        /// The input, counted from 0.
        input: usize,
    },
    /// A partial signature that is not its member's.
    #[error("the partial signature of key {key} for input {input} does not verify")]
    Invalid {
        /// Whose.
        key: CohortKey,
        /// The input, counted from 0.
        input: usize,
    },
}
