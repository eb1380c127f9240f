//! What must hold at the end of every simulation, whatever happened in it.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator::Event;
use beacon_cohort::ids::{CohortId, SessionId};
use beacon_signal::{Root, Strictness, transaction};
use bitcoin::Txid;

use super::Simulation;

/// The coordinator's log, as far as sessions are concerned.
#[derive(Default)]
pub(super) struct Sessions {
    /// Cohort, round and root of every session that was started.
    started: BTreeMap<SessionId, (CohortId, u64, Root)>,
    /// Cohort, round and root by transaction.
    transactions: BTreeMap<Txid, (CohortId, u64, Root)>,
    /// Sessions whose aggregated nonces left, so that partial signatures may have.
    aggregated: BTreeSet<SessionId>,
    signed: BTreeSet<SessionId>,
    /// Sessions without a signature, and why.
    pub(super) abandoned: BTreeMap<SessionId, String>,
}

impl Sessions {
    pub(super) fn read(log: &[Event]) -> Self {
        let mut sessions = Self::default();
        for event in log {
            match event {
                Event::SessionStarted {
                    cohort,
                    session,
                    round,
                    root,
                    tx,
                    ..
                } => {
                    let facts = (*cohort, *round, *root);
                    sessions.started.insert(*session, facts);
                    sessions.transactions.insert(tx.compute_txid(), facts);
                }
                Event::NoncesAggregated { session, .. } => {
                    sessions.aggregated.insert(*session);
                }
                Event::SessionSigned { session, .. } => {
                    sessions.signed.insert(*session);
                }
                Event::SessionAbandoned { session, code, .. } => {
                    sessions.abandoned.insert(*session, code.clone());
                }
                _ => {}
            }
        }
        sessions
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.started.len()).unwrap_or(u32::MAX)
    }

    /// Every session was signed, or abandoned for a reason, and not both.
    fn check_ends(&self) -> Result<(), String> {
        for session in self.started.keys() {
            let signed = self.signed.contains(session);
            let reason = self.abandoned.get(session);
            let ended = signed != reason.is_some_and(|code| !code.is_empty());
            if !ended {
                return Err(format!(
                    "session {session} was neither signed nor abandoned for a reason, or both: signed {signed}, {reason:?}"
                ));
            }
        }
        Ok(())
    }

    /// Once partial signatures may exist, a round keeps its root: one signal is all that it can become.
    fn check_roots(&self) -> Result<(), String> {
        let mut roots: BTreeMap<(CohortId, u64), Root> = BTreeMap::new();
        for session in &self.aggregated {
            if let Some((cohort, round, root)) = self.started.get(session) {
                let first = *roots.entry((*cohort, *round)).or_insert(*root);
                if first != *root {
                    return Err(format!(
                        "round {round} of cohort {cohort} had partial signatures asked for over two roots, {first} and {root}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Simulation {
    /// Checks everything; gives the number of signals in the chain.
    pub(super) fn check(&self, sessions: &Sessions) -> Result<u32, String> {
        self.coordinator.check_replay()?;
        for member in &self.members {
            member.check_replay()?;
        }
        self.world.witness.check(|node, session| {
            let (cohort, ..) = sessions.started.get(&session)?;
            self.membership(node, *cohort)?.key
        })?;
        sessions.check_ends()?;
        sessions.check_roots()?;
        let signals = self.check_signals(sessions)?;
        self.check_updates(sessions)?;
        Ok(signals)
    }

    /// Every signal in the chain is a session's, the only one of its round, and proven by every member for each of its
    /// DIDs with what it has stored.
    fn check_signals(&self, sessions: &Sessions) -> Result<u32, String> {
        let mut rounds = BTreeSet::new();
        for tx in self.world.chain.mined() {
            let txid = tx.compute_txid();
            let Some((cohort, round, _)) = sessions.transactions.get(&txid) else {
                return Err(format!("{txid} is in the chain and of no session"));
            };
            if !rounds.insert((*cohort, *round)) {
                return Err(format!(
                    "round {round} of cohort {cohort} is in the chain twice, the second time as {txid}"
                ));
            }
            let bytes = transaction::signal_bytes(tx);
            let root = Root(bytes.ok_or_else(|| format!("{txid} carries no signal bytes"))?);
            for member in 1..=self.members.len() {
                self.check_proofs(member, *cohort, txid, root)?;
            }
        }
        Ok(u32::try_from(rounds.len()).unwrap_or(u32::MAX))
    }

    fn check_proofs(
        &self,
        member: usize,
        cohort: CohortId,
        txid: Txid,
        root: Root,
    ) -> Result<(), String> {
        let missing = |what: &str| format!("member {member} has no {what} for {txid}");
        let membership = self
            .membership(member, cohort)
            .ok_or_else(|| missing("cohort"))?;
        let candidate = membership
            .candidates
            .iter()
            .find(|candidate| candidate.txid == txid)
            .ok_or_else(|| missing("candidate"))?;
        for index in membership.dids.keys() {
            let proof = candidate
                .proofs
                .get(index)
                .ok_or_else(|| missing("proof"))?;
            proof
                .verify(index, &proof.leaf_value(), &root, Strictness::Resolver)
                .map_err(|error| format!("member {member} cannot prove {txid}: {error}"))?;
            if proof.nonce.is_none() && !membership.terms.empty_leaf_allowed {
                return Err(missing("leaf nonce"));
            }
        }
        Ok(())
    }

    /// Every update that was wanted was announced once.
    fn check_updates(&self, sessions: &Sessions) -> Result<(), String> {
        let mined: BTreeSet<Txid> = self
            .world
            .chain
            .mined()
            .map(bitcoin::Transaction::compute_txid)
            .collect();
        for wanted in &self.users.wanted {
            let Some(membership) = self.membership(wanted.member, wanted.cohort) else {
                return Err(format!("nobody knows of {wanted:?}"));
            };
            let index = beacon_signal::Index::of_did(&wanted.did);
            let announced = membership.candidates.iter().filter(|candidate| {
                let proof = candidate.proofs.get(&index);
                mined.contains(&candidate.txid)
                    && sessions.transactions.contains_key(&candidate.txid)
                    && proof.is_some_and(|proof| proof.update_id == Some(wanted.update))
            });
            let count = announced.count();
            if count != 1 {
                return Err(format!("an update was announced {count} times: {wanted:?}"));
            }
        }
        Ok(())
    }
}
