//! Signals that are signed and that neither the chain nor the mempool has: members offer them to the network as the
//! coordinator does. Were it gone, or dishonest, a signal that left the chain would be lost with it otherwise.
//!
//! The signed transaction comes from the coordinator, with its news or with proofs. It is kept only if every input
//! has the beacon's signature over what we signed ourselves: nobody makes us spread anything else.

use bitcoin::{Transaction, TxOut, Txid};
use serde::{Deserialize, Serialize};

use super::state::{Candidate, Membership, Standing};
use super::{Event, Participant};
use crate::ids::Timestamp;
use crate::machine::{BroadcastOutcome, Effect, Step};
use crate::message::{SignalRecord, SpentOutput, shortened};
use crate::musig::sighashes;
use crate::values::transaction_hex;

/// Seconds from the first look at a signed transaction to its first offer: the coordinator's own comes before.
const FIRST_OFFER_S: u64 = 60;

/// Longest time between two offers, in seconds.
const LONGEST_WAIT_S: u64 = 3_600;

/// Offers after which a refusal is taken for the last word on a transaction: an older version of it may go then.
const MAX_REFUSED: u32 = 5;

/// A signal with all its signatures, and how often we offered it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// With witnesses.
    #[serde(with = "transaction_hex")]
    pub tx: Transaction,
    /// When it came to us, or was offered last.
    pub last: Timestamp,
    /// How often it was offered since it came, or since it was in a block.
    pub tries: u32,
    /// Why our chain source would not have it, if it said so to the last offer.
    pub refusal: Option<String>,
}

impl Offer {
    fn due(&self) -> Timestamp {
        let wait = FIRST_OFFER_S << self.tries.min(8);
        self.last.after(wait.min(LONGEST_WAIT_S))
    }

    fn is_refused_for_good(&self) -> bool {
        self.refusal.is_some() && self.tries >= MAX_REFUSED
    }
}

impl Participant {
    /// Keeps a transaction of ours that has all signatures, once.
    pub(super) fn keep_signed(
        cohort: &Membership,
        candidate: &Candidate,
        tx: &Transaction,
        now: Timestamp,
    ) -> Step<Event> {
        let wanted = candidate.offer.is_none() && !candidate.standing.is_settled();
        if !wanted || !cohort.has_signed(&candidate.tx, &candidate.spent, tx) {
            return Step::nothing();
        }
        Step::event(Event::SignalSigned {
            cohort: cohort.handle,
            txid: candidate.txid,
            tx: tx.clone(),
            at: now,
        })
    }

    /// As [`Self::keep_signed`], of what comes with proofs, which says what the inputs spend: where that was forgotten, the
    /// signatures show whether it is true.
    pub(super) fn keep_told(
        cohort: &Membership,
        candidate: &Candidate,
        record: &SignalRecord,
        now: Timestamp,
    ) -> Step<Event> {
        let told = Candidate {
            spent: record.spent_outputs.clone(),
            ..candidate.clone()
        };
        Self::keep_signed(cohort, &told, &record.transaction, now)
    }

    /// Our chain source knows nothing of it.
    pub(super) fn offer(cohort: &Membership, candidate: &Candidate, now: Timestamp) -> Step<Event> {
        let due = candidate.offer.as_ref().filter(|offer| offer.due() <= now);
        let Some(offer) = due.filter(|_| !cohort.has_other_version(candidate)) else {
            return Step::nothing();
        };
        Step::event(Event::SignalOffered {
            cohort: cohort.handle,
            txid: candidate.txid,
            at: now,
        })
        .with(Effect::Broadcast(offer.tx.clone()))
    }

    /// What became of an offer.
    pub(super) fn offered(&self, txid: Txid, outcome: &BroadcastOutcome) -> Step<Event> {
        let BroadcastOutcome::Refused(reason) = outcome else {
            return Step::nothing();
        };
        let mut known = self.state.cohorts.values().filter_map(|cohort| {
            let mut signed = cohort.candidates.iter();
            let signed = signed.find(|signed| signed.txid == txid)?;
            Some((cohort, signed.offer.as_ref()?))
        });
        match known.next() {
            Some((cohort, offer)) if offer.refusal.is_none() => Step::event(Event::SignalRefused {
                cohort: cohort.handle,
                txid,
                reason: shortened(reason),
            }),
            _ => Step::nothing(),
        }
    }
}

impl Membership {
    /// Whether every input of a transaction has the beacon's signature, and the rest of it is this one.
    pub(super) fn has_signed(
        &self,
        unsigned: &Transaction,
        spent: &[SpentOutput],
        tx: &Transaction,
    ) -> bool {
        let spent: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
        let (Some(beacon), Some(sighashes)) = (&self.beacon, sighashes(unsigned, &spent)) else {
            return false;
        };
        // The id commits to everything but the witnesses.
        let same = tx.compute_txid() == unsigned.compute_txid();
        same && sighashes.iter().zip(&tx.input).all(|(sighash, input)| {
            let signature = input.witness.nth(0).filter(|_| input.witness.len() == 1);
            signature.is_some_and(|signature| beacon.has_signed(sighash, signature))
        })
    }

    /// Whether another transaction that spends the same is in a block, or is newer and was not refused for good: a
    /// replacement goes before what it replaces.
    fn has_other_version(&self, candidate: &Candidate) -> bool {
        let conflicts = |other: &Candidate| {
            let mut inputs = other.tx.input.iter().map(|input| input.previous_output);
            let spends = |spent| {
                let mut own = candidate.tx.input.iter();
                own.any(|input| input.previous_output == spent)
            };
            other.txid != candidate.txid && inputs.any(spends)
        };
        let mut seen = false;
        self.candidates.iter().any(|other| {
            let newer = seen;
            seen |= other.txid == candidate.txid;
            let offered = other.offer.as_ref();
            let is_offered = offered.is_some_and(|offer| !offer.is_refused_for_good());
            let mined = matches!(
                other.standing,
                Standing::Confirmed { .. } | Standing::Buried { .. }
            );
            let goes_first = newer && is_offered && other.standing != Standing::Superseded;
            (mined || goes_first) && conflicts(other)
        })
    }

    pub(super) fn apply_offer(&mut self, event: &Event) {
        match event {
            Event::SignalSigned { txid, tx, at, .. } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.offer = Some(Offer {
                        tx: tx.clone(),
                        last: *at,
                        tries: 0,
                        refusal: None,
                    });
                }
            }
            Event::SignalOffered { txid, at, .. } => {
                if let Some(offer) = self.offer_mut(*txid) {
                    offer.last = *at;
                    offer.tries = offer.tries.saturating_add(1);
                    offer.refusal = None;
                }
            }
            Event::SignalRefused { txid, reason, .. } => {
                if let Some(offer) = self.offer_mut(*txid) {
                    offer.refusal = Some(reason.clone());
                }
            }
            _ => {}
        }
    }

    pub(super) fn offer_mut(&mut self, txid: Txid) -> Option<&mut Offer> {
        self.candidate_mut(txid)?.offer.as_mut()
    }
}
