//! A participant's state: what replaying its log gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use beacon_signal::{Index, Proof, Root, UpdateId, transaction};
use bitcoin::{BlockHash, OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::derive;
use super::offers::Offer;
use super::singleton::SingletonSignal;
use crate::announcement::Announcement;
use crate::hourly::Hourly;
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::message::{SpentOutput, Subscribe};
use crate::musig::BeaconKey;
use crate::review::{OwnLeaf, ProposedSignal};
use crate::signer::KeyPath;
use crate::terms::AgreedTerms;
use crate::values::{
    AggregatedNonce, CohortKey, PartialSignature, PublicNonce, StatementSignature, transaction_hex,
};

/// Ended sessions, and spends by unknown transactions, that a cohort remembers.
pub(super) const MAX_ENDED: usize = 64;

/// Everything that a participant knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Coordinators that we subscribed to.
    pub coordinators: BTreeMap<PeerId, Relationship>,
    /// Cohorts that we heard of or belong to, by our own names for them: see [`Membership::handle`].
    pub cohorts: BTreeMap<CohortId, Membership>,
    /// Index of the next fresh identity.
    pub next_identity: u32,
    /// The `targetVersionId` of each update of which the user said it, kept for ever like the proofs.
    #[serde(default)]
    pub versions: BTreeMap<UpdateId, u64>,
    /// Signals of our DIDs' own singleton beacons, oldest first: all that may be mined, and some that are settled.
    #[serde(default)]
    pub singletons: Vec<SingletonSignal>,
}

/// What we have with one coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relationship {
    /// The DID under which it knows us.
    pub own: PeerId,
    /// Index of that identity's keys.
    pub identity: u32,
    /// What we want to hear of.
    pub filter: Subscribe,
    /// Whether it agreed.
    pub accepted: bool,
    /// Its name for itself.
    pub label: Option<String>,
    /// Whether we still want to hear of cohorts.
    pub subscribed: bool,
    /// Cohorts that it advertised lately.
    #[serde(default)]
    pub adverts: Hourly,
}

/// Where we stand in a cohort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// We know of it.
    Advertised,
    /// Our key is being proven.
    Joining,
    /// Our opt-in is on its way or was taken.
    OptedIn,
    /// It is set, and we agree with what was set.
    Agreed,
    /// It was agreed on and is over, and why: a code. What the address holds and what was signed is still watched.
    Dissolved(String),
    /// We are not in it, and why: a code and a comment.
    Out(String, String),
}

/// One cohort, as we see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Our name for it: its id, unless another coordinator has a cohort of that id here already.
    pub handle: CohortId,
    /// Its id, chosen by its coordinator.
    pub id: CohortId,
    /// Who runs it.
    pub coordinator: PeerId,
    /// Its terms.
    pub terms: AgreedTerms,
    /// The dissolved cohort, by its coordinator's id for it, that this one takes the place of.
    pub succeeds: Option<CohortId>,
    /// Where we stand.
    pub stage: Stage,
    /// When our opt-in was sent last.
    pub opted_in: Timestamp,
    /// Our key's path, once we want to join.
    pub path: Option<KeyPath>,
    /// Our key.
    pub key: Option<CohortKey>,
    /// Its proof of possession.
    pub proof: Option<StatementSignature>,
    /// The DIDs that we answer for.
    pub dids: BTreeMap<Index, String>,
    /// DIDs that we asked to answer for besides.
    pub registering: BTreeMap<Index, String>,
    /// DIDs that the coordinator would not register, and why: a code; at most 64.
    #[serde(default)]
    pub refused: BTreeMap<String, String>,
    /// DIDs of which we claim to be the controller, though another member answers for them.
    #[serde(default)]
    pub contests: BTreeMap<Index, Claim>,
    /// The key that we computed ourselves when the cohort was set.
    pub beacon: Option<BeaconKey>,
    /// Our round: one more than the last that was published.
    pub round: u64,
    /// Updates that wait for a leaf.
    pub queued: BTreeMap<Index, UpdateId>,
    /// Our leaves of this round.
    pub leaves: BTreeMap<Index, OwnLeaf>,
    /// The last round in which public nonces of ours may have left.
    pub committed: Option<u64>,
    /// The session that is under way.
    pub session: Option<Session>,
    /// Everything that we ever signed, oldest first: any of them may be the one that is mined.
    pub candidates: Vec<Candidate>,
    /// Sessions for which we signed nonces, for ever. Sessions that are over may be forgotten, and one of these asked for
    /// again would get other nonces: two contributions that we signed for one session, which convict us.
    pub contributed: BTreeSet<SessionId>,
    /// Sessions that are over, newest last; the last 64.
    pub ended: VecDeque<Ended>,
    /// Sessions that were heard of lately, since a signal was last mined: every one of them is written down.
    #[serde(default)]
    pub sessions: Hourly,
    /// Outputs of the beacon that are watched until what spends them is buried, with their values in sat; the 64 that
    /// matter most.
    pub outputs: BTreeMap<OutPoint, u64>,
    /// Spends of them by transactions that we have no record of, newest last; the last 64.
    pub foreign: VecDeque<ForeignSpend>,
    /// Outputs with which nothing is signed, after a rollback was detected.
    pub quarantine: Option<Quarantine>,
    /// What the coordinator was asked for and has not answered.
    pub inquiry: Option<Inquiry>,
    /// Whether nonces and partial signatures come from a signer outside.
    #[serde(default)]
    pub outside_signer: bool,
    /// Every public nonce that such a signer made here, as hex, for ever: none is taken twice.
    #[serde(default)]
    pub outside_nonces: BTreeSet<String>,
    /// The PSBT that the coordinator was asked for last.
    #[serde(default)]
    pub asked_psbt: Option<AskedPsbt>,
    /// When it was over, though it was agreed on.
    #[serde(default)]
    pub dissolved: Timestamp,
    /// Whether it is over and settled: the chain was asked for the last time.
    #[serde(default)]
    pub settled: bool,
}

/// Our claim to a DID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The DID.
    pub did: String,
    /// Once it is settled: whether the index is ours, or a code.
    pub result: Option<Result<(), String>>,
}

/// An output of the beacon that is spent by a transaction that we did not sign, as far as our log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignSpend {
    /// The output.
    pub outpoint: OutPoint,
    /// What spends it.
    pub txid: Txid,
    /// Whether it does so by a leaf of the script tree.
    #[serde(default)]
    pub by_leaf: bool,
    /// Whether that is buried.
    pub buried: bool,
}

/// Outputs that a forgotten signature of ours may spend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The outputs.
    pub outputs: BTreeSet<OutPoint>,
    /// Whether these are all that were there when the rollback was detected. Until the chain source has said so, nothing
    /// is signed at all.
    pub complete: bool,
}

impl Quarantine {
    /// Whether nothing may be signed that spends this output.
    pub fn holds(&self, outpoint: &OutPoint) -> bool {
        !self.complete || self.outputs.contains(outpoint)
    }
}

/// A question to the coordinator: what was signed in this round and later, and the proofs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// The first round of interest.
    pub from_round: u64,
    /// How often it was asked.
    pub asked: u32,
    /// When it is asked again.
    pub again: Timestamp,
}

impl Inquiry {
    /// A question is asked this often. Then it waits for the next start, or the user.
    const MAX_ASKED: u32 = 8;

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due().is_some_and(|at| at <= now)
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        (self.asked < Self::MAX_ASKED).then_some(self.again)
    }
}

/// A session that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What we are asked to sign.
    pub proposal: ProposedSignal,
    /// Whether the user agrees, if everything holds.
    pub approved: bool,
    /// When it is over for us.
    pub deadline: Timestamp,
    /// How far it is.
    pub progress: Progress,
    /// Public nonces of a signer outside, one for every input, once they were imported.
    #[serde(default)]
    pub imported: Option<Vec<PublicNonce>>,
}

/// A PSBT that the coordinator was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedPsbt {
    /// Of which session.
    pub session: SessionId,
    /// Once there is an answer: the PSBT as base64, or why there is none.
    pub answer: Option<Result<String, String>>,
}

/// How far a session is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Progress {
    /// Being checked.
    Requested,
    /// Public nonces may have left.
    NonceCommitted {
        /// One for every input.
        nonces: Vec<PublicNonce>,
        /// Over them.
        signature: StatementSignature,
    },
    /// Partial signatures are being made.
    PartialAuthorized {
        /// One for every input.
        aggregated: Vec<AggregatedNonce>,
    },
    /// Partial signatures may have left.
    PartialReleased {
        /// One for every input.
        aggregated: Vec<AggregatedNonce>,
        /// One for every input.
        partials: Vec<PartialSignature>,
        /// Over them.
        signature: StatementSignature,
    },
}

/// Something that we signed, with all that is needed to prove it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: u64,
    /// The signal bytes; `None` for a closing spend.
    #[serde(default)]
    pub root: Option<Root>,
    /// Unsigned.
    #[serde(with = "transaction_hex")]
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// Complete proofs, by index.
    pub proofs: BTreeMap<Index, Proof>,
    /// In a CAS cohort: everything that it announces. Its hash is the signal bytes. Absent where it was forgotten and has not
    /// come again.
    #[serde(default)]
    pub map: Option<Announcement>,
    /// Proofs that came again and could not be completed, by index.
    pub unproven: BTreeMap<Index, Unproven>,
    /// Whether our log had lost it, and it was learned of again.
    pub recovered: bool,
    /// Where it stands.
    pub standing: Standing,
    /// What its inputs spend; empty where it was forgotten.
    #[serde(default)]
    pub spent: Vec<SpentOutput>,
    /// The same with all signatures, once we have it.
    #[serde(default)]
    pub offer: Option<Offer>,
}

impl Candidate {
    /// The updates that it announces, by index; in a CAS cohort those of other members as well.
    pub fn updates(&self) -> impl Iterator<Item = (Index, UpdateId)> {
        let proofs = self.proofs.iter();
        let mapped = self.map.iter().flat_map(Announcement::by_index);
        proofs
            .filter_map(|(index, proof)| Some((*index, proof.update_id?)))
            .chain(mapped)
    }

    /// Whether it closes the beacon, and announces nothing.
    pub fn is_close(&self) -> bool {
        self.root.is_none()
    }

    /// Whether everything is here that shows what it announces of this index, or that it announces nothing.
    pub fn is_proven(&self, index: &Index) -> bool {
        self.is_close() || self.map.is_some() || self.proofs.contains_key(index)
    }

    /// The leaves of these DIDs that it shows.
    pub(super) fn leaves(&self, dids: &BTreeMap<Index, String>) -> Vec<OwnLeaf> {
        let leaf = |(index, proof): (&Index, &Proof)| {
            Some(OwnLeaf {
                index: *index,
                update: proof.update_id,
                nonce: Some(proof.nonce.clone()?),
            })
        };
        let mut leaves: Vec<_> = self.proofs.iter().filter_map(leaf).collect();
        if let Some(map) = &self.map {
            let announced = map.by_index();
            leaves.extend(dids.keys().map(|index| OwnLeaf {
                index: *index,
                update: announced.get(index).copied(),
                nonce: None,
            }));
        }
        leaves
    }
}

/// A proof as the coordinator sent it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    /// Without leaf nonce and update.
    pub proof: Proof,
    /// Why it is not complete.
    pub reason: String,
}

/// Where a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It may be mined at any time.
    Live,
    /// The coordinator says that it published it.
    Published,
    /// In a block.
    Confirmed {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
    /// As deep as the terms want.
    Buried {
        /// Its height.
        height: u32,
        /// The block.
        block_hash: BlockHash,
    },
    /// Another transaction that spends one of its inputs is buried: it can never be mined.
    Superseded,
}

impl Standing {
    /// Whether it can change no more.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Buried { .. } | Self::Superseded)
    }
}

/// A session that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its id.
    pub session: SessionId,
    /// Why.
    pub code: String,
    /// For people.
    pub comment: String,
    /// What was to be signed, where we were asked to sign anything.
    pub offered: Option<Offered>,
}

/// What a session was to sign, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Its round.
    pub round: u64,
    /// The transaction.
    pub txid: Txid,
    /// Its signal bytes, if it has any.
    pub root: Option<Root>,
    /// What it was said to spend, sat.
    pub spent_sat: u64,
    /// What of that would not have come back to any output, sat; `None` if that cannot be.
    pub fee_sat: Option<u64>,
}

impl Offered {
    /// Of a request.
    pub fn of(proposal: &ProposedSignal) -> Self {
        let request = &proposal.0;
        let values = request.spent_outputs.iter().map(|output| output.value);
        let spent_sat = values.fold(0_u64, u64::saturating_add);
        let outputs = request.pending_tx.output.iter();
        let paid = outputs.fold(0_u64, |paid, output| {
            paid.saturating_add(output.value.to_sat())
        });
        Self {
            round: request.round,
            txid: request.pending_tx.compute_txid(),
            root: transaction::signal_bytes(&request.pending_tx).map(Root),
            spent_sat,
            fee_sat: spent_sat.checked_sub(paid),
        }
    }
}

impl State {
    /// The cohort that this coordinator calls `id`.
    pub fn cohort_of(&self, coordinator: &PeerId, id: CohortId) -> Option<&Membership> {
        [id, derive::handle(coordinator, id)]
            .iter()
            .filter_map(|handle| self.cohorts.get(handle))
            .find(|cohort| cohort.id == id && cohort.coordinator == *coordinator)
    }

    /// All cohorts of this id, of different coordinators.
    pub fn cohorts_named(&self, id: CohortId) -> impl Iterator<Item = &Membership> {
        self.cohorts.values().filter(move |cohort| cohort.id == id)
    }
}
