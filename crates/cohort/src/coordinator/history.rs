//! Registrations, and what a member gets to hear again of earlier rounds.

use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::Index;

use super::commitment::Commitment;
use super::{Cohort, Coordinator, Event, FORMATION_EXPIRY_S, Phase, Signal, Stage, Standing};
use crate::ids::{PeerId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{
    DidRegistration, IndexResult, MAX_ANSWER_BYTES, ROUND_OPEN, RegistrationResult, RoundMap,
    RoundProof, SignalProgress, SignalRecord,
};

/// Rounds that one answer tells of: their trees are built anew.
const MAX_ANSWER_ROUNDS: usize = 64;

impl Coordinator {
    /// Registers further indexes, and tells of earlier rounds where that is asked for, or where an index is new: a DID that
    /// gets this beacon later must account for every signal that came before.
    pub(super) fn did_registration(
        &self,
        peer: &PeerId,
        body: DidRegistration,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, member) = self.seat(body.cohort_id, peer)?;
        if let Phase::Failed(reason) = &cohort.phase {
            let expected = "none: the cohort is over";
            return Err(Rejection::new(Code::CohortFailed, reason, expected));
        }
        let asked: BTreeSet<_> = body.indexes.iter().copied().collect();
        let max = usize::try_from(cohort.terms.max_indexes_per_member).unwrap_or(usize::MAX);
        if asked.len() != body.indexes.len() || asked.is_empty() || asked.len() > max {
            let got = format!("{} indexes", body.indexes.len());
            return Err(Rejection::new(
                Code::IndexCount,
                got,
                format!("1 to {max}, none twice"),
            ));
        }
        let mut room = max.saturating_sub(member.indexes.len());
        let mut accepted = BTreeSet::new();
        let mut results = Vec::new();
        for index in body.indexes {
            let refusal = if member.indexes.contains(&index) {
                None
            } else if cohort.is_over() {
                Some("cohort-over")
            } else if !matches!(cohort.round.stage, Stage::Waiting) {
                Some(ROUND_OPEN)
            } else if cohort.is_taken(&index, peer) {
                Some("index-taken")
            } else if room == 0 {
                Some("too-many-indexes")
            } else {
                room -= 1;
                accepted.insert(index);
                None
            };
            results.push(IndexResult {
                index,
                accepted: refusal.is_none(),
                code: refusal.map(str::to_owned),
                proofs: Vec::new(),
            });
        }
        let mut history = History::default();
        let is_new = !accepted.is_empty();
        if let Some(from) = body.from_round.or(is_new.then_some(1)) {
            let held = asked.intersection(&member.indexes).chain(&accepted);
            history = History::of(cohort, peer, &held.copied().collect::<Vec<_>>(), from);
        }
        for result in &mut results {
            result.proofs = history.proofs.remove(&result.index).unwrap_or_default();
        }
        let mut step = Step::nothing();
        if !accepted.is_empty() {
            step.events.push(Event::IndexesRegistered {
                cohort: cohort.id,
                peer: peer.clone(),
                indexes: accepted,
            });
        }
        let later = body.from_round.filter(|round| *round > cohort.round.number);
        let noted = || cohort.claims().any(|(claimant, _)| claimant == peer);
        if let Some(round) = later
            && cohort.phase == Phase::Acknowledged
            && !noted()
        {
            // Either the member errs or lies, or our log is older than the cohort. Its word proves nothing, and must not stop
            // the others: what was published and is not in our log, the chain shows, and members decline what comes too late.
            step.events.push(Event::LaterRoundClaimed {
                cohort: cohort.id,
                peer: peer.clone(),
                round,
            });
        }
        let result = RegistrationResult {
            cohort_id: cohort.id,
            results,
            contest: false,
            signals: history.signals,
            maps: history.maps,
            next_round: history.next_round,
        };
        Ok(step.send(peer, result, now.after(FORMATION_EXPIRY_S)))
    }
}

/// What one member hears of earlier rounds.
#[derive(Default)]
struct History {
    signals: Vec<SignalRecord>,
    proofs: BTreeMap<Index, Vec<RoundProof>>,
    maps: Vec<RoundMap>,
    next_round: Option<u64>,
}

impl History {
    /// From round `from` on, as much as fits into one answer, one round at least.
    fn of(cohort: &Cohort, peer: &PeerId, indexes: &[Index], from: u64) -> Self {
        let mut history = Self::default();
        let mut bytes = 0;
        let rounds = cohort.trees.range(from..);
        for (told, (round, leaves)) in rounds.enumerate() {
            let leaves = leaves.iter().map(|(index, leaf)| (*index, *leaf));
            let Some(commitment) = Commitment::to(cohort, leaves) else {
                continue; // It was built once.
            };
            let of_round = cohort
                .signals
                .iter()
                .filter(|signal| signal.round == *round && !signal.is_close());
            let records: Vec<_> = of_round.map(|signal| record(signal, peer)).collect();
            let proofs: Vec<_> = indexes
                .iter()
                .filter_map(|index| Some((*index, commitment.proof(index)?)))
                .collect();
            let map = commitment.map().map(|map| RoundMap {
                round: *round,
                map: map.clone(),
            });
            bytes += json_bytes(&records) + records.len() * json_bytes(&proofs) + json_bytes(&map);
            if told > 0 && (bytes > MAX_ANSWER_BYTES || told >= MAX_ANSWER_ROUNDS) {
                history.next_round = Some(*round);
                break;
            }
            history.maps.extend(map);
            for record in records {
                for (index, proof) in &proofs {
                    history.proofs.entry(*index).or_default().push(RoundProof {
                        session_id: record.session_id,
                        round: *round,
                        proof: proof.clone(),
                    });
                }
                history.signals.push(record);
            }
        }
        // They announce nothing, but whoever has forgotten one must not take it for somebody else's spend.
        if history.next_round.is_none() {
            let closes = cohort.signals.iter().filter(|signal| signal.is_close());
            let closes = closes.filter(|close| close.round >= from);
            history
                .signals
                .extend(closes.map(|close| record(close, peer)));
        }
        history
    }
}

fn json_bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

/// A transaction as its member is told of it.
fn record(signal: &Signal, peer: &PeerId) -> SignalRecord {
    let contribution = signal.contributions.get(peer);
    SignalRecord {
        session_id: contribution.map_or(signal.session, |made| made.session),
        round: signal.round,
        status: match signal.standing {
            Standing::Unsigned => SignalProgress::Unsigned,
            Standing::Signed => SignalProgress::Signed,
            Standing::Broadcast => SignalProgress::Published,
            Standing::Confirmed { .. } => SignalProgress::Confirmed,
            Standing::Buried { .. } => SignalProgress::Buried,
        },
        transaction: signal.tx.clone(),
        spent_outputs: signal.spent.clone(),
        contribution: contribution.map(|made| made.signed.clone()),
    }
}
