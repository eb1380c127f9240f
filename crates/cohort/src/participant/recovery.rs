//! What was signed and is not in our log: asking the coordinator, believing signatures only, and getting the proofs back.
//!
//! A restored old state has forgotten what was signed since. The coordinator has the transactions and the trees; our own
//! signature under one of them shows that it is ours; leaf nonces follow from the seed; and the updates are known to the
//! log or to the user. So the proofs come back, and the transaction is live again.

use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::{Index, LeafValue, Proof, Root, Strictness, UpdateId, transaction};
use bitcoin::Transaction;

use super::endings::end;
use super::event::RollbackEvidence;
use super::state::{Candidate, Membership, Standing, Unproven};
use super::{Event, Participant};
use crate::announcement::Announcement;
use crate::coordinator::FORMATION_EXPIRY_S;
use crate::ids::Timestamp;
use crate::machine::{Code, Effect, Rejection, Step};
use crate::message::{
    AuthorizationRequest, DidRegistration, IndexProof, RegistrationResult, SignalProgress,
    SignalRecord, SpentOutput,
};
use crate::musig::sighashes;
use crate::review::OwnLeaf;
use crate::statement;

/// Updates of one index that are tried to complete a proof, the newest first.
const MAX_TRIED: usize = 64;

/// Why a proof stays as it came.
const INCOMPLETE: &str = "it carries none of the updates that are known here: give the update's hash, if it leads to the root at all";

impl Participant {
    /// Asks for everything of this round and later. Registers what is not registered yet as well.
    pub(super) fn inquire(cohort: &Membership, from_round: u64, now: Timestamp) -> Step<Event> {
        let max = usize::try_from(cohort.terms.max_indexes_per_member).unwrap_or(usize::MAX);
        let indexes = cohort.dids.keys().chain(cohort.registering.keys());
        let message = DidRegistration {
            cohort_id: cohort.id,
            indexes: indexes.copied().take(max).collect(),
            from_round: Some(from_round),
        };
        let expires = now.after(FORMATION_EXPIRY_S);
        Step::event(Event::ProofsRequested {
            cohort: cohort.handle,
            from_round,
            at: now,
        })
        .send(&cohort.coordinator, message, expires)
    }

    /// The user wants all proofs again, and may know updates that the log has lost.
    pub(super) fn fetch_proofs(
        &self,
        cohort: &Membership,
        updates: &[UpdateId],
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        if !cohort.was_agreed() {
            let got = format!("a cohort at stage {}", cohort.stage.name());
            return Err(Rejection::new(
                Code::Phase,
                got,
                "one that was agreed on and may have signed",
            ));
        }
        let mut step = Step::nothing();
        for candidate in &cohort.candidates {
            let kept = candidate.unproven.iter();
            let kept = kept.map(|(index, unproven)| (*index, unproven.proof.clone()));
            step.events
                .extend(self.recovered(cohort, candidate, kept.collect(), None, updates));
        }
        Ok(step.and(Self::inquire(cohort, 1, now)))
    }

    /// The coordinator's answer: what it says was signed, and the proofs. `accepted` are new indexes of ours, and where it
    /// `waits` with others, they are asked for again.
    pub(super) fn recover(
        &self,
        cohort: &Membership,
        body: &RegistrationResult,
        accepted: &BTreeSet<Index>,
        waits: bool,
        now: Timestamp,
    ) -> Step<Event> {
        let mut step = Step::nothing();
        let (mut adopted, mut has_ours) = (Vec::new(), false);
        let mut false_proof = None;
        let asked_from = cohort.inquiry.map(|inquiry| inquiry.from_round);
        for record in &body.signals {
            let mut tx = record.transaction.clone();
            tx.input.iter_mut().for_each(|input| input.witness.clear());
            let txid = tx.compute_txid();
            let mut sent = sent_proofs(cohort, body, record);
            if let Some(known) = cohort.candidates.iter().find(|known| known.txid == txid) {
                let Some(root) = &known.root else {
                    has_ours |= asked_from <= Some(known.round);
                    continue; // It announces nothing that would have to be proven.
                };
                if !known.recovered {
                    let lacking;
                    (sent, lacking) = empty_leaves(known, accepted, sent);
                    false_proof = false_proof.or(lacking.map(|index| (index, txid)));
                }
                let map = sent_map(body, record, root).filter(|_| known.map.is_none());
                let recovered = self.recovered(cohort, known, sent, map, &[]);
                step.events.extend(recovered);
                step = step.and(Self::keep_told(cohort, known, record, now));
                has_ours |= asked_from <= Some(known.round);
                continue;
            }
            let root = transaction::signal_bytes(&tx).map(Root);
            let (Some(evidence), true, false) = (
                signed_by_us(cohort, record, &tx),
                root.is_some() || closes(cohort, &tx),
                adopted.contains(&txid),
            ) else {
                continue; // The coordinator's word alone says nothing.
            };
            let is_signed = evidence == RollbackEvidence::SignedTransaction;
            if adopted.is_empty() {
                step.events.push(Event::RollbackDetected {
                    cohort: cohort.handle,
                    evidence,
                    txid,
                });
                if let Some(open) = &cohort.session {
                    let comment = "this agent's state is older than what it signed";
                    step = end(step, cohort, open.id, "rolled-back", comment);
                }
            }
            has_ours = true;
            adopted.push(txid);
            let (proofs, unproven) = root
                .map(|root| self.completed(cohort, record.round, &root, sent, &[]))
                .unwrap_or_default();
            step.events.push(Event::SignalAdopted {
                cohort: cohort.handle,
                session: record.session_id,
                round: record.round,
                tx,
                root,
                proofs,
                unproven,
                map: root.and_then(|root| sent_map(body, record, &root)),
            });
            if is_signed {
                step.events.push(Event::SignalSigned {
                    cohort: cohort.handle,
                    txid,
                    tx: record.transaction.clone(),
                    at: now,
                });
            }
            if !matches!(
                record.status,
                SignalProgress::Unsigned | SignalProgress::Signed
            ) {
                step.events.push(Event::SignalPublished {
                    cohort: cohort.handle,
                    txid,
                });
            }
        }
        if let Some((index, txid)) = false_proof {
            // Nothing of it is kept. Without the proof, no document gets this beacon (docs/protocol.md, section 3).
            let got = format!("no proof of the empty leaf for index {index} in signal {txid}");
            let expected = "one, since the index was registered after that signal";
            step = step.with(Effect::Report {
                to: cohort.coordinator.clone(),
                cohort: cohort.id,
                rejection: Rejection::new(Code::Proof, got, expected),
            });
        }
        // Each question goes to the log. An answer that tells of nothing that we signed leads to no other one, so that there
        // are no more of them than rounds.
        let asked = cohort.inquiry.map(|inquiry| inquiry.from_round);
        let more = body
            .next_round
            .filter(|next| has_ours && asked.is_some_and(|asked| *next > asked));
        let next = more.or_else(|| Self::first_untold(cohort, body, accepted));
        match (next, asked) {
            (Some(next), _) => step.and(Self::inquire(cohort, next, now)),
            (None, Some(_)) if !waits => step.and(Step::event(Event::ProofsAnswered {
                cohort: cohort.handle,
            })),
            (None, _) => step,
        }
    }

    /// The first round that an answer does not tell of, though a signal in it says something of these indexes.
    fn first_untold(
        cohort: &Membership,
        body: &RegistrationResult,
        accepted: &BTreeSet<Index>,
    ) -> Option<u64> {
        let told = |round| body.signals.iter().any(|record| record.round == round);
        let possible = cohort.candidates.iter();
        let possible = possible.filter(|signed| signed.standing != Standing::Superseded);
        let lacking =
            possible.filter(|signed| accepted.iter().any(|index| !signed.is_proven(index)));
        lacking
            .map(|signed| signed.round)
            .filter(|round| !told(*round))
            .min()
    }

    /// What these proofs add to a signal that is known.
    fn recovered(
        &self,
        cohort: &Membership,
        known: &Candidate,
        mut sent: BTreeMap<Index, Proof>,
        map: Option<Announcement>,
        updates: &[UpdateId],
    ) -> Option<Event> {
        sent.retain(|index, _| !known.proofs.contains_key(index));
        let (proofs, mut unproven) =
            self.completed(cohort, known.round, known.root.as_ref()?, sent, updates);
        unproven.retain(|index, _| !known.unproven.contains_key(index));
        let adds = !proofs.is_empty() || !unproven.is_empty() || map.is_some();
        adds.then(|| Event::ProofsRecovered {
            cohort: cohort.handle,
            txid: known.txid,
            proofs,
            unproven,
            map,
        })
    }

    /// Completes what can be completed, and says of the rest why it cannot.
    fn completed(
        &self,
        cohort: &Membership,
        round: u64,
        root: &Root,
        sent: BTreeMap<Index, Proof>,
        updates: &[UpdateId],
    ) -> (BTreeMap<Index, Proof>, BTreeMap<Index, Unproven>) {
        let (mut proofs, mut unproven) = (BTreeMap::new(), BTreeMap::new());
        for (index, proof) in sent {
            if let Some(complete) = self.complete(cohort, round, root, index, &proof, updates) {
                proofs.insert(index, complete);
            } else {
                let reason = INCOMPLETE.to_owned();
                unproven.insert(index, Unproven { proof, reason });
            }
        }
        (proofs, unproven)
    }

    /// Leaves of ours in the tree of a request that the log does not have, or has another one instead of: a newer copy of this
    /// state gave them, and the coordinator keeps the first one of a round. Nobody else can make them, for their nonces follow
    /// from the seed.
    pub(super) fn forgotten_leaves(
        &self,
        cohort: &Membership,
        request: &AuthorizationRequest,
    ) -> Vec<OwnLeaf> {
        let Some(root) = transaction::signal_bytes(&request.pending_tx).map(Root) else {
            return Vec::new();
        };
        let missing = |IndexProof { index, proof }: &IndexProof| {
            let stored = cohort.leaves.get(index);
            let carries = |leaf: &OwnLeaf| carries(proof, index, &leaf.value(), &root);
            if stored.is_some_and(&carries) {
                return None;
            }
            let waits = cohort.queued.get(index).copied();
            let mut updates = vec![None];
            updates.extend(stored.map(|leaf| leaf.update));
            updates.extend(waits.map(Some));
            let mut ours = updates.into_iter().map(|update| OwnLeaf {
                index: *index,
                update,
                nonce: self.leaf_nonce(cohort, cohort.round, index),
            });
            ours.find(carries)
        };
        let ours = |proof: &&IndexProof| cohort.dids.contains_key(&proof.index);
        let proofs = request.proofs.iter();
        let of_this_round = request.kind.is_signal() && request.round == cohort.round;
        let proofs = proofs.filter(|_| of_this_round);
        proofs.filter(ours).filter_map(missing).collect()
    }

    /// The proof with the leaf that it carries: ours with an update that we know, ours without one, or the empty one.
    fn complete(
        &self,
        cohort: &Membership,
        round: u64,
        root: &Root,
        index: Index,
        proof: &Proof,
        updates: &[UpdateId],
    ) -> Option<Proof> {
        let mut complete = proof.clone();
        (complete.nonce, complete.update_id) = (None, None);
        if carries(proof, &index, &LeafValue::EMPTY, root) {
            return Some(complete);
        }
        let stored = cohort.leaves.get(&index).filter(|_| round == cohort.round);
        let derived = self.leaf_nonce(cohort, round, &index);
        let nonces = stored.and_then(|leaf| leaf.nonce.clone()).into_iter();
        let announced = cohort.candidates.iter().rev().flat_map(Candidate::updates);
        let announced = announced.filter(|(other, _)| *other == index);
        let known = updates
            .iter()
            .copied()
            .chain(stored.and_then(|leaf| leaf.update))
            .chain(cohort.queued.get(&index).copied())
            .chain(announced.map(|(_, update)| update))
            .take(MAX_TRIED);
        let known: Vec<_> = std::iter::once(None).chain(known.map(Some)).collect();
        for nonce in nonces.chain(derived) {
            for update in &known {
                let leaf = OwnLeaf {
                    index,
                    update: *update,
                    nonce: Some(nonce.clone()),
                };
                if carries(proof, &index, &leaf.value(), root) {
                    complete.nonce = leaf.nonce;
                    complete.update_id = leaf.update;
                    return Some(complete);
                }
            }
        }
        None
    }
}

/// Whether a proof leads from this leaf to the root.
fn carries(proof: &Proof, index: &Index, value: &LeafValue, root: &Root) -> bool {
    let verified = proof.verify(index, value, root, Strictness::Member);
    verified.is_ok()
}

/// The proofs that came for this signal, of indexes that are ours.
fn sent_proofs(
    cohort: &Membership,
    body: &RegistrationResult,
    record: &SignalRecord,
) -> BTreeMap<Index, Proof> {
    let ours = |index| cohort.dids.contains_key(index) || cohort.registering.contains_key(index);
    let ours = body.results.iter().filter(|result| ours(&result.index));
    let proof = |result: &crate::message::IndexResult| {
        let mut proofs = result.proofs.iter();
        let sent = proofs
            .find(|sent| (sent.session_id, sent.round) == (record.session_id, record.round))?;
        Some((result.index, sent.proof.clone()))
    };
    ours.filter_map(proof).collect()
}

/// The proofs of indexes that became ours after this signal, and an index without one. We signed it for all that was ours
/// then, so the others have the empty leaf in it.
fn empty_leaves(
    known: &Candidate,
    accepted: &BTreeSet<Index>,
    mut sent: BTreeMap<Index, Proof>,
) -> (BTreeMap<Index, Proof>, Option<Index>) {
    let late = sent.keys().chain(accepted).copied();
    let late: BTreeSet<_> = late.filter(|index| !known.is_proven(index)).collect();
    sent.retain(|index, proof| {
        let empty = |root| carries(proof, index, &LeafValue::EMPTY, root);
        late.contains(index) && known.root.as_ref().is_some_and(empty)
    });
    let lacking = late.into_iter().find(|index| !sent.contains_key(index));
    (sent, lacking)
}

/// Whether it pays everything to the script of the terms.
fn closes(cohort: &Membership, tx: &Transaction) -> bool {
    let script = cohort.terms.close_script.as_ref();
    matches!(tx.output.as_slice(), [paid] if Some(&paid.script_pubkey) == script)
}

/// The map that came for this signal, if it is the one that the signal announces.
fn sent_map(body: &RegistrationResult, record: &SignalRecord, root: &Root) -> Option<Announcement> {
    let mut maps = body.maps.iter().filter(|sent| sent.round == record.round);
    let sent = maps.find(|sent| sent.map.signal_bytes() == *root)?;
    Some(sent.map.clone())
}

/// What shows that our key signed this transaction: the beacon's signature, or a statement of ours.
fn signed_by_us(
    cohort: &Membership,
    record: &SignalRecord,
    unsigned: &Transaction,
) -> Option<RollbackEvidence> {
    let (beacon, key) = (cohort.beacon.as_ref()?, cohort.key.as_ref()?);
    let ours = |output: &SpentOutput| *output.script == *beacon.script();
    // Signatures do not commit to input scripts: with one, what we know well would pass for something forgotten.
    let bare = |input: &bitcoin::TxIn| input.script_sig.is_empty();
    if unsigned.input.is_empty()
        || !unsigned.input.iter().all(bare)
        || !record.spent_outputs.iter().all(ours)
    {
        return None;
    }
    let spent: Vec<_> = record
        .spent_outputs
        .iter()
        .map(SpentOutput::to_txout)
        .collect();
    let sighashes = sighashes(unsigned, &spent)?;
    let mut inputs = sighashes.iter().zip(&record.transaction.input);
    let signed = inputs.all(|(sighash, input)| {
        let signature = input.witness.nth(0).filter(|_| input.witness.len() == 1);
        signature.is_some_and(|signature| beacon.has_signed(sighash, signature))
    });
    if signed {
        return Some(RollbackEvidence::SignedTransaction);
    }
    let given = record.contribution.as_ref()?;
    let statement = statement::partials(
        record.session_id,
        &sighashes,
        &given.aggregated_nonces,
        &given.partial_signatures,
    );
    statement
        .is_signed_by(key, &given.signature)
        .then_some(RollbackEvidence::OwnContribution)
}
