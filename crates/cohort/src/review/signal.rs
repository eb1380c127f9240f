//! What must hold before a signal is signed.

use std::borrow::Cow;

use beacon_signal::{Index, LeafNonce, LeafValue, Root, UpdateId, transaction};
use bitcoin::{OutPoint, Transaction, TxOut, Txid};
use serde::{Deserialize, Serialize};

use super::{Check, DeclineCode, Declined, check, rules, run};
use crate::ids::{CohortId, SessionId};
use crate::machine::OutputView;
use crate::message::{AuthorizationRequest, IndexProof, Kind};
use crate::musig::{BeaconKey, sighashes};
use crate::participant::Quarantine;
use crate::signer::KeyPath;
use crate::terms::Terms;

/// The member's leaf of one index in one round. The leaf nonce must never be lost: it is stored with the log and
/// given back with the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLeaf {
    /// SHA-256 of the DID.
    pub index: Index,
    /// The update announced; `None` for "no update".
    pub update: Option<UpdateId>,
    /// What blinds the leaf; `None` in a CAS cohort, where it is in the open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<LeafNonce>,
}

impl OwnLeaf {
    /// The value: all that the coordinator sees where the leaf is blinded.
    pub fn value(&self) -> LeafValue {
        match (&self.nonce, &self.update) {
            (Some(nonce), Some(update)) => LeafValue::update(nonce, update),
            (Some(nonce), None) => LeafValue::no_update(nonce),
            (None, Some(update)) => LeafValue::update_without_nonce(update),
            (None, None) => LeafValue::EMPTY,
        }
    }
}

/// What a member holds against an authorization request.
#[derive(Clone, Debug)]
pub struct SignalContext<'a> {
    /// The member's own name for the cohort: the signer's answers come back under it.
    pub cohort: CohortId,
    /// The key that the member computed itself when the cohort was set.
    pub beacon: &'a BeaconKey,
    /// The terms agreed to.
    pub terms: &'a Terms,
    /// The member's key path in this cohort.
    pub path: KeyPath,
    /// The member's current round.
    pub round: u64,
    /// Every index that the member registered, with its leaf if it has one: of this round, or of the round of the signal
    /// that is replaced.
    pub leaves: Vec<(Index, Option<Cow<'a, OwnLeaf>>)>,
    /// Indexes that the member asked to answer for besides, and does not yet: they have no leaf.
    pub registering: Vec<Index>,
    /// Transactions that were signed and may still be mined.
    pub live: Vec<&'a Transaction>,
    /// Those of them that were published for another round than the request's.
    pub published: Vec<&'a Transaction>,
    /// What the request names as replaced, if the member signed it and it may still be mined.
    pub replaced: Option<Replaced<'a>>,
    /// Outputs that a forgotten signature may spend, after a rollback.
    pub quarantine: Option<&'a Quarantine>,
    /// Roots of live transactions, where they belong to the request's round.
    pub signed_roots: Vec<Root>,
    /// What the member's own chain source knows of the spent outputs. One that is not named is not seen.
    pub views: &'a [(OutPoint, OutputView)],
}

/// A transaction that is to be replaced, as the member knows it.
#[derive(Clone, Debug)]
pub struct Replaced<'a> {
    /// It.
    pub tx: &'a Transaction,
    /// Its round.
    pub round: u64,
    /// It and its other versions, live ones: they may spend the inputs.
    pub versions: Vec<Txid>,
    /// The one of them that is in a block.
    pub mined: Option<Txid>,
    /// Indexes of which the member has forgotten what it says. Whatever that is, the new version says the same: its
    /// root is the same.
    pub unproven: Vec<Index>,
}

/// What must hold before a nonce is made. Facts of the request come first, the chain's last, so that what is wrong is
/// declined at once and only what is missing is waited for.
fn checks<'a>(kind: &Kind) -> Vec<Check<ProposedSignal, SignalContext<'a>>> {
    let of_any_kind = vec![
        check(DeclineCode::UnsupportedKind, rules::of_a_known_kind),
        check(DeclineCode::ReplacesUnknown, rules::replaces_what_we_signed),
        check(DeclineCode::ReplacesMined, rules::replaces_nothing_mined),
        check(DeclineCode::WrongRound, rules::of_the_round),
        check(DeclineCode::InputCount, rules::inputs_within_the_terms),
        check(DeclineCode::NotUnsigned, rules::unsigned),
        check(DeclineCode::SpentOutputCount, rules::one_spent_output_each),
        check(DeclineCode::ForeignInput, rules::spends_the_beacon),
        check(DeclineCode::Version, rules::version_two),
        check(DeclineCode::LockTime, rules::no_lock_time),
        check(DeclineCode::Sequence, rules::signal_sequences),
    ];
    let of_a_signal = vec![
        check(DeclineCode::SignalBytes, rules::signal_bytes_last),
        check(DeclineCode::SignalValue, rules::signal_without_value),
        check(DeclineCode::ExtraOpReturn, rules::one_op_return),
        check(DeclineCode::OutputCount, rules::at_most_one_change),
        check(DeclineCode::ForeignChange, rules::change_to_the_beacon),
        check(DeclineCode::DustChange, rules::change_not_dust),
    ];
    let of_a_close = vec![
        check(DeclineCode::CloseOutput, rules::pays_the_close_script),
        check(DeclineCode::CloseProofs, rules::announces_nothing),
    ];
    let of_money = vec![
        check(DeclineCode::Unbalanced, rules::balanced),
        check(DeclineCode::FeeTooHigh, rules::fee_under_the_cap),
    ];
    let of_what_is_announced = vec![
        check(DeclineCode::BalanceTooHigh, rules::within_the_balance),
        check(DeclineCode::ProofMissing, rules::one_proof_for_each_index),
        check(DeclineCode::LeafMissing, rules::a_leaf_for_each_index),
        check(DeclineCode::ProofInvalid, rules::proofs_carry_own_leaves),
        check(DeclineCode::MapInvalid, rules::map_carries_own_updates),
    ];
    let beside_others = vec![
        check(DeclineCode::ReplacedInputs, rules::keeps_replaced_inputs),
        check(DeclineCode::FeeNotHigher, rules::pays_more_than_replaced),
        check(DeclineCode::LiveTransaction, rules::respects_live),
        check(DeclineCode::PublishedSignal, rules::leaves_published_alone),
        check(DeclineCode::RolledBack, rules::not_in_quarantine),
        check(DeclineCode::OtherRoot, rules::one_root_for_each_round),
        check(DeclineCode::ChainScript, rules::chain_knows_the_script),
        check(DeclineCode::ChainAmount, rules::chain_knows_the_amount),
        check(DeclineCode::ChainSpent, rules::not_spent_otherwise),
        check(DeclineCode::ChainUnseen, rules::seen),
        check(DeclineCode::ChainUnconfirmed, rules::confirmed),
    ];
    let all = match kind {
        Kind::Close => vec![of_any_kind, of_a_close, of_money, beside_others],
        _ => vec![
            of_any_kind,
            of_a_signal,
            of_money,
            of_what_is_announced,
            beside_others,
        ],
    };
    all.into_iter().flatten().collect()
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
        if let Err(declined) = run(&checks(&self.0.kind), self, context) {
            return match declined.code {
                DeclineCode::ChainUnseen | DeclineCode::ChainUnconfirmed => Verdict::Wait(declined),
                _ => Verdict::Decline(declined),
            };
        }
        let Some(sighashes) = sighashes(&self.0.pending_tx, &self.spent()) else {
            // The checks above leave no such transaction; whatever got past them is not signed.
            let comment = "the transaction cannot be signed".to_owned();
            return Verdict::Decline(Declined {
                code: DeclineCode::Signer,
                comment,
            });
        };
        Verdict::Reviewed(Box::new(ReviewedSignal {
            session: self.0.session_id,
            cohort: context.cohort,
            path: context.path,
            beacon: context.beacon.clone(),
            root: transaction::signal_bytes(&self.0.pending_tx).map(Root),
            sighashes,
        }))
    }

    pub(super) fn spent(&self) -> Vec<TxOut> {
        self.0
            .spent_outputs
            .iter()
            .map(crate::message::SpentOutput::to_txout)
            .collect()
    }

    pub(super) fn proof(&self, index: &Index) -> Option<&IndexProof> {
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
    root: Option<Root>,
    sighashes: Vec<[u8; 32]>,
}

impl ReviewedSignal {
    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The cohort, by the member's own name for it.
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

    /// The signal bytes; `None` of a closing spend.
    pub fn root(&self) -> Option<Root> {
        self.root
    }

    /// One for each input.
    pub fn sighashes(&self) -> &[[u8; 32]] {
        &self.sighashes
    }
}
