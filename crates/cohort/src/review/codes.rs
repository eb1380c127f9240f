//! The names of the reasons for which a member does not sign.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! decline_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Why a member does not sign, or does not acknowledge: one code for each check, and a few for what
        /// happens to a session otherwise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum DeclineCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl DeclineCode {
            /// All of them, in the order of the documentation's table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As written on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

decline_codes! {
    /// The cohort is set with other terms than those agreed to.
    TermsMismatch = "terms-mismatch";
    /// Fewer or more keys than the terms say.
    MemberCount = "member-count";
    /// Keys that are not in KeySort order.
    KeyOrder = "key-order";
    /// A key that stands twice.
    DuplicateKey = "duplicate-key";
    /// The member's own key is not there.
    OwnKeyMissing = "own-key-missing";
    /// Another address than the keys make.
    AddressMismatch = "address-mismatch";
    /// A kind from the future, a replacement that names nothing, or a closing spend that the terms do not provide for.
    UnsupportedKind = "unsupported-kind";
    /// The transaction to be replaced is not one that this member signed and that may still be mined. No strike.
    ReplacesUnknown = "replaces-unknown";
    /// The transaction to be replaced, or another version of it, is in a block. No strike.
    ReplacesMined = "replaces-mined";
    /// Not the member's current round, or, of a replacement, not that of what it replaces.
    WrongRound = "wrong-round";
    /// No input, or more than the terms allow.
    InputCount = "input-count";
    /// An input that is signed already.
    NotUnsigned = "not-unsigned";
    /// Spent outputs that do not match the inputs in number.
    SpentOutputCount = "spent-output-count";
    /// An input that does not spend the beacon script.
    ForeignInput = "foreign-input";
    /// A version other than 2.
    Version = "version";
    /// A lock time other than 0.
    LockTime = "lock-time";
    /// A sequence other than 0xfffffffd.
    Sequence = "sequence";
    /// The last output is not `OP_RETURN` with 32 bytes.
    SignalBytes = "signal-bytes";
    /// The last output has a value.
    SignalValue = "signal-value";
    /// Another `OP_RETURN`.
    ExtraOpReturn = "extra-op-return";
    /// More than one output before the last.
    OutputCount = "output-count";
    /// Change that does not go to the beacon script.
    ForeignChange = "foreign-change";
    /// Change below the dust limit.
    DustChange = "dust-change";
    /// A closing spend that does not pay everything to the script of the terms, in one output that is not dust.
    CloseOutput = "close-output";
    /// A closing spend with proofs or a map.
    CloseProofs = "close-proofs";
    /// Outputs worth more than the inputs.
    Unbalanced = "unbalanced";
    /// A fee above the cap of the terms.
    FeeTooHigh = "fee-too-high";
    /// Inputs worth more than the balance of the terms.
    BalanceTooHigh = "balance-too-high";
    /// No proof for an index of this member, or two.
    ProofMissing = "proof-missing";
    /// No leaf was given for an index, and the terms want one.
    LeafMissing = "leaf-missing";
    /// A proof that carries the wrong leaf, leads to another root, or breaks a rule of its form.
    ProofInvalid = "proof-invalid";
    /// A CAS cohort's map is missing, has another hash than the signal bytes, or does not say of this member's DIDs exactly
    /// what it asked for; or an SMT cohort has one.
    MapInvalid = "map-invalid";
    /// An input of the transaction to be replaced is missing.
    ReplacedInputs = "replaced-inputs";
    /// A fee that is not higher than that of the transaction to be replaced.
    FeeNotHigher = "fee-not-higher";
    /// A transaction that may still be mined is neither built on nor conflicted with.
    LiveTransaction = "live-transaction";
    /// It would undo a signal that was published for another round.
    PublishedSignal = "published-signal";
    /// Another root than the one that was signed for this round and may still be mined.
    OtherRoot = "other-root";
    /// The member's chain source knows another script for the spent output.
    ChainScript = "chain-script";
    /// The member's chain source knows another amount for the spent output.
    ChainAmount = "chain-amount";
    /// The spent output is spent by another transaction.
    ChainSpent = "chain-spent";
    /// The member's chain source does not know the spent output; waited for until the deadline.
    ChainUnseen = "chain-unseen";
    /// The spent output has no confirmation; waited for until the deadline.
    ChainUnconfirmed = "chain-unconfirmed";
    /// The member's user said no.
    User = "user";
    /// The member's user did not say anything in time.
    NotApproved = "not-approved";
    /// The nonces are gone, after a restart. No strike.
    NonceLost = "nonce-lost";
    /// The signer could not do it.
    Signer = "signer";
    /// The member's state was rolled back and it may have forgotten what it signed with this output. No strike.
    RolledBack = "rolled-back";
    /// A different request under the same session id.
    Conflict = "conflict";
}

impl DeclineCode {
    /// Whether this is what a member says of a root that was made without its leaf.
    pub(crate) fn lacks_a_leaf(code: &str) -> bool {
        let codes = [Self::ProofInvalid, Self::MapInvalid];
        codes.iter().any(|known| known.as_str() == code)
    }
}

impl fmt::Display for DeclineCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
