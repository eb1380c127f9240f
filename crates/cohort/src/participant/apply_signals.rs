//! How events about what was signed change a cohort: on the chain, and learned of again.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Transaction, Txid};

use super::event::Event;
use super::state::{Candidate, ForeignSpend, Inquiry, MAX_ENDED, Membership, Standing};
use crate::hourly::Hourly;
use crate::review::{OwnLeaf, impossible_after};
use crate::terms::BeaconType;

/// Longest time until a question is asked again, in seconds.
const LONGEST_WAIT_S: u64 = 3_600;

impl Membership {
    pub(super) fn apply_recovery(&mut self, event: &Event) {
        match event {
            Event::ProofsRequested { from_round, at, .. } => {
                let before = self.inquiry.filter(|open| open.from_round == *from_round);
                let asked = before.map_or(0, |open| open.asked);
                let wait = self.phase_deadline_s() << asked.min(10);
                self.inquiry = Some(Inquiry {
                    from_round: *from_round,
                    asked: asked.saturating_add(1),
                    again: at.after(wait.min(LONGEST_WAIT_S)),
                });
            }
            Event::ProofsAnswered { .. } => self.inquiry = None,
            Event::SignalAdopted {
                session,
                round,
                tx,
                root,
                proofs,
                unproven,
                map,
                ..
            } => self.adopt(Candidate {
                session: *session,
                round: *round,
                root: *root,
                tx: tx.clone(),
                txid: tx.compute_txid(),
                proofs: proofs.clone(),
                map: map.clone(),
                unproven: unproven.clone(),
                recovered: true,
                standing: Standing::Live,
                spent: Vec::new(),
                offer: None,
            }),
            Event::ProofsRecovered {
                txid,
                proofs,
                unproven,
                map,
                ..
            } => {
                let (round, dids) = (self.round, self.dids.clone());
                let Some(candidate) = self.candidate_mut(*txid) else {
                    return;
                };
                if map.is_some() {
                    candidate.map.clone_from(map);
                }
                candidate.proofs.extend(proofs.clone());
                candidate.unproven.extend(unproven.clone());
                let Candidate {
                    proofs, unproven, ..
                } = candidate;
                unproven.retain(|index, _| !proofs.contains_key(index));
                if candidate.recovered && candidate.round == round {
                    let leaves = candidate.leaves(&dids);
                    self.set_leaves(leaves);
                }
            }
            Event::QuarantineFixed { outputs, .. } => {
                if let Some(quarantine) = &mut self.quarantine {
                    quarantine.outputs.extend(outputs);
                    quarantine.complete = true;
                }
                self.release(&[]);
            }
            Event::RollbackConfirmed { .. } => self.quarantine = None,
            Event::WatchEnded { .. } => self.settled = true,
            Event::OutputsSeen { outputs, .. } => self.outputs.clone_from(outputs),
            Event::ForeignSpend { outpoint, txid, .. }
            | Event::LeafSpend { outpoint, txid, .. } => {
                self.foreign.push_back(ForeignSpend {
                    outpoint: *outpoint,
                    txid: *txid,
                    by_leaf: matches!(event, Event::LeafSpend { .. }),
                    buried: false,
                });
                if self.foreign.len() > MAX_ENDED {
                    self.foreign.pop_front();
                }
            }
            Event::ForeignSpendBuried { outpoint, txid, .. } => {
                let noted =
                    |spend: &&mut ForeignSpend| (spend.outpoint, spend.txid) == (*outpoint, *txid);
                if let Some(spend) = self.foreign.iter_mut().find(noted) {
                    spend.buried = true;
                }
                self.release(&[*outpoint]);
                let all: Vec<&Transaction> =
                    self.candidates.iter().map(|other| &other.tx).collect();
                self.supersede(&impossible_after(&[*outpoint], *txid, &all));
            }
            event => self.apply_chain(event),
        }
    }

    /// Something that we signed and forgot. It is as live as if we remembered, and its round goes on as it was.
    fn adopt(&mut self, candidate: Candidate) {
        if candidate.round > self.round {
            self.queued = self.waiting_updates(candidate.round);
            self.round = candidate.round;
            self.leaves.clear();
        }
        if candidate.round == self.round && !candidate.is_close() {
            self.committed = Some(self.round);
            // Within a round a leaf never changes: what was chosen in the meantime was chosen in error.
            self.leaves
                .retain(|index, _| !candidate.unproven.contains_key(index));
            if self.terms.beacon_type == BeaconType::Cas {
                self.leaves.clear();
            }
            self.set_leaves(candidate.leaves(&self.dids));
        }
        let announced: BTreeMap<_, _> = candidate.updates().collect();
        self.queued
            .retain(|index, update| announced.get(index) != Some(update));
        if let Some(quarantine) = &mut self.quarantine {
            let inputs = candidate.tx.input.iter();
            quarantine
                .outputs
                .extend(inputs.map(|input| input.previous_output));
        }
        self.settled = false;
        self.candidates.push(candidate);
    }

    fn set_leaves(&mut self, leaves: Vec<OwnLeaf>) {
        let leaves = leaves.into_iter().map(|leaf| (leaf.index, leaf));
        self.leaves.extend(leaves);
    }

    /// Outputs that are spent for good: nothing about them is waited for.
    fn release(&mut self, spent: &[OutPoint]) {
        self.outputs.retain(|outpoint, _| !spent.contains(outpoint));
        if let Some(quarantine) = &mut self.quarantine {
            quarantine
                .outputs
                .retain(|outpoint| !spent.contains(outpoint));
        }
        self.quarantine
            .take_if(|quarantine| quarantine.complete && quarantine.outputs.is_empty());
    }

    fn apply_chain(&mut self, event: &Event) {
        match event {
            Event::SignalPublished { txid, .. } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.standing = Standing::Published;
                }
                self.published(*txid);
            }
            Event::SignalConfirmed {
                txid,
                height,
                block_hash,
                ..
            } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.standing = Standing::Confirmed {
                        height: *height,
                        block_hash: *block_hash,
                    };
                }
                self.sessions = Hourly::default();
                if let Some(offer) = self.offer_mut(*txid) {
                    offer.tries = 0;
                }
                self.published(*txid);
            }
            Event::SignalGone { txid, .. } => {
                if let Some(candidate) = self.candidate_mut(*txid) {
                    candidate.standing = Standing::Published;
                }
            }
            Event::SignalBuried { txid, .. } => self.buried(*txid),
            event => self.apply_offer(event),
        }
    }

    /// A buried transaction makes others impossible.
    fn buried(&mut self, txid: Txid) {
        let Some(candidate) = self.candidate_mut(txid) else {
            return;
        };
        if let Standing::Confirmed { height, block_hash } = candidate.standing {
            candidate.standing = Standing::Buried { height, block_hash };
            candidate.offer = None;
        }
        let inputs = candidate.tx.input.iter();
        let spent: Vec<_> = inputs.map(|input| input.previous_output).collect();
        self.release(&spent);
        let all: Vec<&Transaction> = self.candidates.iter().map(|other| &other.tx).collect();
        self.supersede(&impossible_after(&spent, txid, &all));
    }

    /// These can never be mined. What only they announced waits for another round.
    fn supersede(&mut self, impossible: &BTreeSet<Txid>) {
        let mut lost = BTreeMap::new();
        for other in &mut self.candidates {
            if other.standing != Standing::Superseded && impossible.contains(&other.txid) {
                other.standing = Standing::Superseded;
                lost.extend(other.updates());
            }
        }
        let announced = self.candidates.iter();
        let announced = announced.filter(|other| other.standing != Standing::Superseded);
        for (index, _) in announced.flat_map(Candidate::updates) {
            lost.remove(&index);
        }
        // A map has those of other members as well.
        lost.retain(|index, _| self.dids.contains_key(index));
        for (index, update) in lost {
            // A leaf or a later wish of this round goes before.
            if !self.leaves.contains_key(&index) {
                self.queued.entry(index).or_insert(update);
            }
        }
    }

    pub(super) fn candidate_mut(&mut self, txid: Txid) -> Option<&mut Candidate> {
        self.candidates
            .iter_mut()
            .find(|candidate| candidate.txid == txid)
    }

    /// A published round is over; its leaves stay with the candidate's proofs.
    fn published(&mut self, txid: Txid) {
        let signed = self.candidate_mut(txid).filter(|signed| !signed.is_close());
        let Some(round) = signed.map(|signed| signed.round) else {
            return;
        };
        if round >= self.round {
            self.round = round.saturating_add(1);
            self.leaves.clear();
            self.session
                .take_if(|open| open.proposal.0.kind.is_signal());
        }
    }
}
