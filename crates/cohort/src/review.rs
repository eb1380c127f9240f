//! What a member checks before it makes a nonce.
//!
//! Two tables: `cohort_checks` before a set cohort is acknowledged, `signal_checks` before a signal is signed.
//! Each line is one rule with its own code; a test violates each alone, and `tests/checks-matter.sh` removes each
//! in turn and sees exactly that test fail. A [`ReviewedSignal`] comes out of [`ProposedSignal::review`] and from
//! nowhere else, and the signer makes nonces for nothing else.

use std::fmt;

use beacon_signal::{Index, LeafNonce, LeafValue, Root, Strictness, UpdateId, transaction};
use bitcoin::{Amount, Transaction, TxOut};
use serde::{Deserialize, Serialize};

use crate::ids::{CohortId, SessionId};
use crate::machine::OutputView;
use crate::message::{AuthorizationRequest, CohortSet, IndexProof, Kind};
use crate::musig::{BeaconKey, sighashes};
use crate::signer::KeyPath;
use crate::terms::Terms;
use crate::values::{CohortKey, TermsHash};

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
    /// A replacement, a closing spend, or a kind from the future.
    UnsupportedKind = "unsupported-kind";
    /// Not the member's current round.
    WrongRound = "wrong-round";
    /// More or fewer inputs than one.
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
    /// Outputs worth more than the inputs.
    Unbalanced = "unbalanced";
    /// A fee above the cap of the terms.
    FeeTooHigh = "fee-too-high";
    /// No proof for an index of this member, or two.
    ProofMissing = "proof-missing";
    /// No leaf was given for an index, and the terms want one.
    LeafMissing = "leaf-missing";
    /// A proof that carries the wrong leaf, leads to another root, or breaks a rule of its form.
    ProofInvalid = "proof-invalid";
    /// A transaction that may still be mined is neither built on nor conflicted with.
    LiveTransaction = "live-transaction";
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
    /// A different request under the same session id.
    Conflict = "conflict";
}

impl fmt::Display for DeclineCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A check that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {comment}")]
pub struct Declined {
    /// Which.
    pub code: DeclineCode,
    /// What was got and what was expected, for people.
    pub comment: String,
}

/// One line of a table of checks over a proposal `P` in a context `C`.
struct Check<P, C> {
    code: DeclineCode,
    holds: fn(&P, &C) -> Result<(), String>,
}

/// Runs a table top down and stops at the first check that does not hold.
fn run<P, C>(checks: &[Check<P, C>], proposal: &P, context: &C) -> Result<(), Declined> {
    for check in checks {
        (check.holds)(proposal, context).map_err(|comment| Declined {
            code: check.code,
            comment,
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, comment: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(comment()) }
}

// --- A set cohort -------------------------------------------------------------------------------------------

/// What a member holds against a `cohort_set`.
#[derive(Clone, Debug)]
pub struct OptedIn<'a> {
    /// The terms agreed to.
    pub terms: &'a Terms,
    /// Their hash.
    pub terms_hash: TermsHash,
    /// The member's own key.
    pub key: CohortKey,
}

/// What must hold before a set cohort is acknowledged.
fn cohort_checks<'a>() -> Vec<Check<CohortSet, OptedIn<'a>>> {
    vec![
        Check {
            code: DeclineCode::TermsMismatch,
            holds: set_on_agreed_terms,
        },
        Check {
            code: DeclineCode::MemberCount,
            holds: as_many_as_the_terms_say,
        },
        Check {
            code: DeclineCode::KeyOrder,
            holds: keys_sorted,
        },
        Check {
            code: DeclineCode::DuplicateKey,
            holds: keys_distinct,
        },
        Check {
            code: DeclineCode::OwnKeyMissing,
            holds: own_key_there,
        },
        Check {
            code: DeclineCode::AddressMismatch,
            holds: address_recomputed,
        },
    ]
}

/// Checks a set cohort; what comes back is the key that the member computed itself.
pub fn review_cohort(set: &CohortSet, own: &OptedIn<'_>) -> Result<BeaconKey, Declined> {
    run(&cohort_checks(), set, own)?;
    BeaconKey::aggregate(set.cohort_keys.iter().copied()).map_err(|error| Declined {
        code: DeclineCode::DuplicateKey,
        comment: error.to_string(),
    })
}

fn set_on_agreed_terms(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    ensure(set.terms_hash == own.terms_hash, || {
        format!(
            "got terms hash {}, expected {}",
            set.terms_hash, own.terms_hash
        )
    })
}

fn as_many_as_the_terms_say(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    let count = set.cohort_keys.len() as u64;
    ensure(
        (own.terms.min_members..=own.terms.max_members).contains(&count),
        || {
            format!(
                "got {count} keys, expected {} to {}",
                own.terms.min_members, own.terms.max_members
            )
        },
    )
}

fn keys_sorted(set: &CohortSet, _: &OptedIn<'_>) -> Result<(), String> {
    ensure(set.cohort_keys.is_sorted(), || {
        "got keys in another order than KeySort's".to_owned()
    })
}

fn keys_distinct(set: &CohortSet, _: &OptedIn<'_>) -> Result<(), String> {
    let twice = set.cohort_keys.windows(2).find(|pair| pair[0] == pair[1]);
    twice.map_or(Ok(()), |pair| Err(format!("got key {} twice", pair[0])))
}

fn own_key_there(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    ensure(set.cohort_keys.contains(&own.key), || {
        format!("got {} keys without our {}", set.cohort_keys.len(), own.key)
    })
}

fn address_recomputed(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    // Keys in a wrong number, order or repetition are other checks' business.
    let mut keys = set.cohort_keys.clone();
    keys.sort_unstable();
    keys.dedup();
    let beacon = BeaconKey::aggregate(keys).map_err(|error| error.to_string())?;
    let address = beacon.address(own.terms.btc_network.bitcoin());
    ensure(set.beacon_address == address, || {
        let got: String = set.beacon_address.chars().take(100).collect();
        format!("got address {got:?}, the keys make {address}")
    })
}

// --- A signal -----------------------------------------------------------------------------------------------

/// The member's leaf of one index in one round. The leaf nonce must never be lost: it is stored with the log and
/// given back with the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLeaf {
    /// SHA-256 of the DID.
    pub index: Index,
    /// The update announced; `None` for "no update".
    pub update: Option<UpdateId>,
    /// What blinds the leaf.
    pub nonce: LeafNonce,
}

impl OwnLeaf {
    /// The blinded value: all that the coordinator sees.
    pub fn value(&self) -> LeafValue {
        match &self.update {
            Some(update) => LeafValue::update(&self.nonce, update),
            None => LeafValue::no_update(&self.nonce),
        }
    }
}

/// What a member holds against an authorization request.
#[derive(Clone, Debug)]
pub struct SignalContext<'a> {
    /// The key that the member computed itself when the cohort was set.
    pub beacon: &'a BeaconKey,
    /// The terms agreed to.
    pub terms: &'a Terms,
    /// The member's key path in this cohort.
    pub path: KeyPath,
    /// The member's current round.
    pub round: u64,
    /// Every index that the member registered, with its leaf of this round if it gave one.
    pub leaves: Vec<(Index, Option<&'a OwnLeaf>)>,
    /// Transactions that were signed and may still be mined.
    pub live: Vec<&'a Transaction>,
    /// What the member's own chain source knows of the spent output.
    pub view: &'a OutputView,
}

/// What must hold before a nonce is made. Facts of the request come first, the chain's last, so that what is wrong is
/// declined at once and only what is missing is waited for.
fn signal_checks<'a>() -> Vec<Check<ProposedSignal, SignalContext<'a>>> {
    vec![
        Check {
            code: DeclineCode::UnsupportedKind,
            holds: is_a_signal,
        },
        Check {
            code: DeclineCode::WrongRound,
            holds: of_this_round,
        },
        Check {
            code: DeclineCode::InputCount,
            holds: one_input,
        },
        Check {
            code: DeclineCode::NotUnsigned,
            holds: unsigned,
        },
        Check {
            code: DeclineCode::SpentOutputCount,
            holds: one_spent_output_each,
        },
        Check {
            code: DeclineCode::ForeignInput,
            holds: spends_the_beacon,
        },
        Check {
            code: DeclineCode::Version,
            holds: version_two,
        },
        Check {
            code: DeclineCode::LockTime,
            holds: no_lock_time,
        },
        Check {
            code: DeclineCode::Sequence,
            holds: signal_sequences,
        },
        Check {
            code: DeclineCode::SignalBytes,
            holds: signal_bytes_last,
        },
        Check {
            code: DeclineCode::SignalValue,
            holds: signal_without_value,
        },
        Check {
            code: DeclineCode::ExtraOpReturn,
            holds: one_op_return,
        },
        Check {
            code: DeclineCode::OutputCount,
            holds: at_most_one_change,
        },
        Check {
            code: DeclineCode::ForeignChange,
            holds: change_to_the_beacon,
        },
        Check {
            code: DeclineCode::DustChange,
            holds: change_not_dust,
        },
        Check {
            code: DeclineCode::Unbalanced,
            holds: balanced,
        },
        Check {
            code: DeclineCode::FeeTooHigh,
            holds: fee_under_the_cap,
        },
        Check {
            code: DeclineCode::ProofMissing,
            holds: one_proof_for_each_index,
        },
        Check {
            code: DeclineCode::LeafMissing,
            holds: a_leaf_for_each_index,
        },
        Check {
            code: DeclineCode::ProofInvalid,
            holds: proofs_carry_own_leaves,
        },
        Check {
            code: DeclineCode::LiveTransaction,
            holds: respects_live_transactions,
        },
        Check {
            code: DeclineCode::ChainScript,
            holds: chain_knows_the_script,
        },
        Check {
            code: DeclineCode::ChainAmount,
            holds: chain_knows_the_amount,
        },
        Check {
            code: DeclineCode::ChainSpent,
            holds: not_spent_otherwise,
        },
        Check {
            code: DeclineCode::ChainUnseen,
            holds: seen,
        },
        Check {
            code: DeclineCode::ChainUnconfirmed,
            holds: confirmed,
        },
    ]
}

/// An authorization request that nobody has checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProposedSignal(pub AuthorizationRequest);

/// What came of a review.
#[derive(Debug)]
pub enum Verdict {
    /// Everything holds.
    Reviewed(Box<ReviewedSignal>),
    /// Something is missing that may still come: the spent output, or its confirmation.
    Wait(Declined),
    /// Something is wrong.
    Decline(Declined),
}

impl ProposedSignal {
    /// Checks everything. The only source of a [`ReviewedSignal`].
    pub fn review(&self, context: &SignalContext<'_>) -> Verdict {
        if let Err(declined) = run(&signal_checks(), self, context) {
            return match declined.code {
                DeclineCode::ChainUnseen | DeclineCode::ChainUnconfirmed => Verdict::Wait(declined),
                _ => Verdict::Decline(declined),
            };
        }
        let (Some(root), Some(sighashes)) = (
            transaction::signal_bytes(&self.0.pending_tx),
            sighashes(&self.0.pending_tx, &self.spent()),
        ) else {
            let comment = "the transaction cannot be signed".to_owned();
            return Verdict::Decline(Declined {
                code: DeclineCode::SignalBytes,
                comment,
            });
        };
        Verdict::Reviewed(Box::new(ReviewedSignal {
            session: self.0.session_id,
            cohort: self.0.cohort_id,
            path: context.path,
            beacon: context.beacon.clone(),
            root: Root(root),
            sighashes,
        }))
    }

    fn spent(&self) -> Vec<TxOut> {
        self.0
            .spent_outputs
            .iter()
            .map(crate::message::SpentOutput::to_txout)
            .collect()
    }

    fn proof(&self, index: &Index) -> Option<&IndexProof> {
        let mut proofs = self.0.proofs.iter().filter(|proof| proof.index == *index);
        match (proofs.next(), proofs.next()) {
            (Some(proof), None) => Some(proof),
            _ => None,
        }
    }
}

/// A signal for which every check held. Not `Clone`, and never loaded from disk: a review is made, not remembered.
#[derive(Debug)]
pub struct ReviewedSignal {
    session: SessionId,
    cohort: CohortId,
    path: KeyPath,
    beacon: BeaconKey,
    root: Root,
    sighashes: Vec<[u8; 32]>,
}

impl ReviewedSignal {
    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The cohort.
    pub fn cohort(&self) -> CohortId {
        self.cohort
    }

    /// The member's key path.
    pub fn path(&self) -> KeyPath {
        self.path
    }

    /// The key that the inputs spend from.
    pub fn beacon(&self) -> &BeaconKey {
        &self.beacon
    }

    /// The signal bytes.
    pub fn root(&self) -> Root {
        self.root
    }

    /// One for each input.
    pub fn sighashes(&self) -> &[[u8; 32]] {
        &self.sighashes
    }
}

type Proposal = ProposedSignal;
type Context<'a> = SignalContext<'a>;

fn is_a_signal(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        proposal.0.kind == Kind::Signal && proposal.0.replaces.is_none(),
        || {
            format!(
                "got kind {:?}, expected a signal that replaces nothing",
                proposal.0.kind
            )
        },
    )
}

fn of_this_round(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    ensure(proposal.0.round == context.round, || {
        format!("got round {}, expected {}", proposal.0.round, context.round)
    })
}

fn one_input(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let count = proposal.0.pending_tx.input.len();
    ensure(count == 1, || format!("got {count} inputs, expected 1"))
}

fn unsigned(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let signed = |input: &bitcoin::TxIn| !input.script_sig.is_empty() || !input.witness.is_empty();
    ensure(!proposal.0.pending_tx.input.iter().any(signed), || {
        "got an input with a signature or script, expected none".to_owned()
    })
}

fn one_spent_output_each(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let (spent, inputs) = (
        proposal.0.spent_outputs.len(),
        proposal.0.pending_tx.input.len(),
    );
    ensure(spent == inputs, || {
        format!("got {spent} spent outputs, expected {inputs}")
    })
}

fn spends_the_beacon(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let foreign = proposal
        .0
        .spent_outputs
        .iter()
        .find(|output| *output.script != *context.beacon.script());
    foreign.map_or(Ok(()), |output| {
        Err(format!(
            "got script {:x}, expected {:x}",
            output.script,
            context.beacon.script()
        ))
    })
}

fn version_two(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    ensure(transaction::has_version_two(tx), || {
        format!("got version {}, expected 2", tx.version)
    })
}

fn no_lock_time(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    ensure(transaction::has_no_lock_time(tx), || {
        format!("got lock time {}, expected 0", tx.lock_time)
    })
}

fn signal_sequences(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        transaction::has_signal_sequences(&proposal.0.pending_tx),
        || "got another sequence, expected 0xfffffffd".to_owned(),
    )
}

fn signal_bytes_last(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        transaction::signal_bytes(&proposal.0.pending_tx).is_some(),
        || "got another last output, expected OP_RETURN and a push of 32 bytes".to_owned(),
    )
}

fn signal_without_value(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        transaction::signal_has_no_value(&proposal.0.pending_tx),
        || "got a last output with a value, expected 0 sat".to_owned(),
    )
}

fn one_op_return(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let count = transaction::op_return_count(&proposal.0.pending_tx);
    ensure(count <= 1, || {
        format!("got {count} OP_RETURN outputs, expected 1")
    })
}

fn at_most_one_change(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let count = transaction::change_outputs(&proposal.0.pending_tx).len();
    ensure(count <= 1, || {
        format!("got {count} outputs before the last, expected at most 1")
    })
}

fn change_to_the_beacon(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let foreign = transaction::change_outputs(&proposal.0.pending_tx)
        .iter()
        .find(|output| {
            // A second OP_RETURN is another check's business.
            !output.script_pubkey.is_op_return()
                && *output.script_pubkey != *context.beacon.script()
        });
    foreign.map_or(Ok(()), |output| {
        Err(format!(
            "got change to {:x}, expected {:x}",
            output.script_pubkey,
            context.beacon.script()
        ))
    })
}

fn change_not_dust(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let change = transaction::change_outputs(&proposal.0.pending_tx);
    let dust = change.iter().find(|output| transaction::is_dust(output));
    dust.map_or(Ok(()), |output| {
        Err(format!("got change of {}, which is dust", output.value))
    })
}

fn balanced(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let (spent, outputs) = (proposal.spent(), &proposal.0.pending_tx.output);
    let total = |outputs: &[TxOut]| {
        outputs
            .iter()
            .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
    };
    let covered =
        matches!((total(&spent), total(outputs)), (Some(spent), Some(paid)) if paid <= spent);
    ensure(covered, || {
        "got outputs that are worth more than the inputs".to_owned()
    })
}

fn fee_under_the_cap(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    let Some(fee) = transaction::fee(tx, &proposal.spent()) else {
        return Ok(()); // No fee can be computed: the checks of balance and count say so.
    };
    let cap = transaction::max_fee(
        tx,
        context.beacon.script(),
        context.terms.max_fee_rate_sat_vb,
    );
    ensure(fee <= cap, || {
        format!("got a fee of {fee}, expected at most {cap}")
    })
}

fn one_proof_for_each_index(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let missing = context
        .leaves
        .iter()
        .find(|(index, _)| proposal.proof(index).is_none());
    missing.map_or(Ok(()), |(index, _)| {
        Err(format!(
            "got no proof or several for index {index}, expected one"
        ))
    })
}

fn a_leaf_for_each_index(_: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let missing = context.leaves.iter().find(|(_, leaf)| leaf.is_none());
    match missing {
        Some((index, _)) if !context.terms.empty_leaf_allowed => Err(format!(
            "got a request before a leaf was given for index {index}"
        )),
        _ => Ok(()),
    }
}

fn proofs_carry_own_leaves(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let Some(root) = transaction::signal_bytes(&proposal.0.pending_tx) else {
        return Ok(()); // Another check's business.
    };
    for (index, leaf) in &context.leaves {
        let value = leaf.map_or(LeafValue::EMPTY, OwnLeaf::value);
        if let Some(IndexProof { proof, .. }) = proposal.proof(index) {
            proof
                .verify(index, &value, &Root(root), Strictness::Member)
                .map_err(|error| format!("proof for index {index}: {error}"))?;
        }
    }
    Ok(())
}

fn respects_live_transactions(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    ignored_live(&proposal.0.pending_tx.input, &context.live).map_or(Ok(()), |txid| {
        Err(format!(
            "transaction {txid} was signed and may still be mined, and this one neither builds on it nor conflicts with it"
        ))
    })
}

/// The first live transaction that a spend of `inputs` would leave free to be mined beside it: the spend neither
/// takes one of its inputs nor depends, directly or through other live transactions, on one of its outputs.
pub(crate) fn ignored_live(
    inputs: &[bitcoin::TxIn],
    live: &[&Transaction],
) -> Option<bitcoin::Txid> {
    let mut needed: Vec<bitcoin::Txid> = inputs
        .iter()
        .map(|input| input.previous_output.txid)
        .collect();
    let mut next = 0;
    while let Some(txid) = needed.get(next).copied() {
        let parents = live.iter().filter(|live| live.compute_txid() == txid);
        let parents: Vec<_> = parents
            .flat_map(|live| &live.input)
            .map(|input| input.previous_output.txid)
            .collect();
        needed.extend(
            parents
                .into_iter()
                .filter(|parent| !needed.contains(parent))
                .collect::<Vec<_>>(),
        );
        next += 1;
    }
    live.iter()
        .find(|live| {
            let conflicts = live.input.iter().any(|taken| {
                inputs
                    .iter()
                    .any(|input| input.previous_output == taken.previous_output)
            });
            !conflicts && !needed.contains(&live.compute_txid())
        })
        .map(|live| live.compute_txid())
}

fn chain_knows_the_script(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    compare_with_chain(proposal, context, |claimed, known| {
        ensure(claimed.script == known.script_pubkey, || {
            format!(
                "got script {:x}, the chain has {:x}",
                claimed.script, known.script_pubkey
            )
        })
    })
}

fn chain_knows_the_amount(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    compare_with_chain(proposal, context, |claimed, known| {
        ensure(claimed.value == known.value.to_sat(), || {
            format!("got {} sat, the chain has {}", claimed.value, known.value)
        })
    })
}

fn compare_with_chain(
    proposal: &Proposal,
    context: &Context<'_>,
    compare: impl Fn(&crate::message::SpentOutput, &TxOut) -> Result<(), String>,
) -> Result<(), String> {
    match (context.view, proposal.0.spent_outputs.first()) {
        (OutputView::Seen { output, .. }, Some(claimed)) => compare(claimed, output),
        _ => Ok(()), // Not seen yet: waited for below.
    }
}

fn not_spent_otherwise(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    match context.view {
        OutputView::Seen {
            spent_by: Some(other),
            ..
        } if *other != proposal.0.pending_tx.compute_txid() => {
            Err(format!("the output is spent by {other}"))
        }
        _ => Ok(()),
    }
}

fn seen(_: &Proposal, context: &Context<'_>) -> Result<(), String> {
    ensure(*context.view != OutputView::Unseen, || {
        "our chain source does not know the spent output".to_owned()
    })
}

fn confirmed(_: &Proposal, context: &Context<'_>) -> Result<(), String> {
    ensure(
        !matches!(
            context.view,
            OutputView::Seen {
                confirmations: 0,
                ..
            }
        ),
        || "the spent output has no confirmation".to_owned(),
    )
}
