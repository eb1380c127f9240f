//! What must hold at the end of every simulation, whatever happened in it.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator::Event;
use beacon_cohort::ids::{CohortId, SessionId};
use beacon_cohort::review::DeclineCode;
use beacon_signal::{Root, Strictness, transaction};
use bitcoin::{Transaction, Txid};

use super::node::Node;
use super::world::{COORDINATOR, NodeId, node_of, peer};
use super::{Simulation, live};

/// The coordinator's log, as far as sessions are concerned.
#[derive(Default)]
pub(super) struct Sessions {
    /// Cohort, round and root of every session that was started.
    started: BTreeMap<SessionId, (CohortId, u64, Root)>,
    /// Cohort, round and root by transaction.
    transactions: BTreeMap<Txid, (CohortId, u64, Root)>,
    /// Sessions whose aggregated nonces left, so that partial signatures may have.
    aggregated: BTreeSet<SessionId>,
    signed: BTreeMap<SessionId, Transaction>,
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
                    root: Some(root),
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
                Event::SessionSigned { session, tx, .. } => {
                    sessions.signed.insert(*session, tx.clone());
                }
                Event::SessionAbandoned { session, code, .. } => {
                    sessions.abandoned.insert(*session, code.clone());
                }
                Event::CohortDissolved { cohort, reason, .. } => {
                    let open: Vec<SessionId> = sessions.started_in(*cohort).collect();
                    for session in open {
                        let signed = sessions.signed.contains_key(&session);
                        if !signed && !sessions.abandoned.contains_key(&session) {
                            sessions.abandoned.insert(session, reason.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        sessions
    }

    fn started_in(&self, cohort: CohortId) -> impl Iterator<Item = SessionId> {
        let started = self.started.iter();
        started
            .filter(move |(_, (where_, ..))| *where_ == cohort)
            .map(|(session, _)| *session)
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.started.len()).unwrap_or(u32::MAX)
    }

    /// Every session was signed, or abandoned for a reason, and not both.
    fn check_ends(&self) -> Result<(), String> {
        for session in self.started.keys() {
            let signed = self.signed.contains_key(session);
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

    /// Everything that was signed is in the chain, or an input of it is spent otherwise there.
    fn check_confirmed<'a>(
        &self,
        mined: impl Iterator<Item = &'a Transaction>,
    ) -> Result<(), String> {
        let mut spent = BTreeSet::new();
        for tx in mined {
            spent.extend(tx.input.iter().map(|input| input.previous_output));
        }
        for (session, tx) in &self.signed {
            let mut inputs = tx.input.iter();
            if !inputs.any(|input| spent.contains(&input.previous_output)) {
                return Err(format!("session {session} was signed and never confirmed"));
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
        for member in self.members.iter().filter(|node| !node.is_gone()) {
            member.check_replay()?;
        }
        self.check_contributions()?;
        self.check_kept()?;
        self.check_blame()?;
        sessions.check_ends()?;
        sessions.check_roots()?;
        sessions.check_confirmed(self.world.chain.mined())?;
        let signals = self.check_signals(sessions)?;
        self.check_updates(sessions)?;
        Ok(signals)
    }

    /// One public nonce, at most one partial signature, over one message, for each member, session and input.
    pub(super) fn check_contributions(&self) -> Result<(), String> {
        self.world.witness.check(|node, session| {
            let node = self.members.get(node.checked_sub(1)?)?;
            let mut cohorts = node.machine().state().cohorts.values();
            let shown = self.world.witness.cohort_of(session)?;
            cohorts.find(|cohort| cohort.id == shown)?.key
        })
    }

    /// What honest members keep of everything that they ever signed.
    pub(super) fn check_kept(&self) -> Result<(), String> {
        for (id, node) in self.honest_members() {
            live::check_leaves(node.machine().state().cohorts.values())
                .map_err(|reason| format!("member {id}: {reason}"))?;
        }
        Ok(())
    }

    /// No honest party is blamed: whoever is named as culprit or struck was late, restarted, could not see the chain or was
    /// told so by its user, and there is no evidence against anybody honest. Evidence against others convicts them.
    pub(super) fn check_blame(&self) -> Result<(), String> {
        for event in self.coordinator.log()? {
            let (peer, code, evidence, struck) = match event {
                Event::SessionAbandoned {
                    culprit: Some(culprit),
                    code,
                    ..
                } => (culprit, code, None, false),
                Event::Struck {
                    peer,
                    code,
                    evidence,
                    ..
                } => (peer, code, evidence, true),
                _ => continue,
            };
            if node_of(&peer).is_some_and(|node| self.world.is_dishonest(node)) {
                if let Some(evidence) = evidence {
                    evidence.verify().map_err(|error| {
                        format!("evidence against {peer} proves nothing: {error}")
                    })?;
                }
                continue;
            }
            // A leaf that came too late for the tree and a proof without it have crossed.
            let crossed = !struck
                && self.settings.empty_leaf_allowed
                && code == DeclineCode::ProofInvalid.as_str();
            let member = node_of(&peer).and_then(|node| self.members.get(node.checked_sub(1)?));
            let gone = member.is_some_and(Node::is_gone);
            // Of whom a part is forgotten, it may be late, or not know a leaf until its user says it again.
            let forgot = member.is_some_and(Node::is_restored);
            let lost = [DeclineCode::LeafMissing, DeclineCode::ProofInvalid];
            let lost = forgot && lost.iter().any(|lost| lost.as_str() == code);
            let excused = self.world.is_dishonest(COORDINATOR)
                || gone
                || is_no_fault(&code)
                || crossed
                || lost;
            // Deadlines that faults of up to 5 percent cannot make anybody miss.
            let patient =
                self.settings.response_deadline_s >= 600 && self.settings.faults.drop <= 50;
            let missed = struck && patient && code == "timeout" && !gone && !forgot;
            // It ends a session, but it is never a strike.
            let other_round = struck && code == DeclineCode::WrongRound.as_str();
            if !excused || missed || other_round || evidence.is_some() {
                return Err(format!(
                    "{peer} did nothing wrong and is blamed with {code}: {evidence:?}"
                ));
            }
        }
        Ok(())
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
                if self.is_in(member, *cohort) {
                    self.check_proofs(member, *cohort, txid, root)?;
                }
            }
        }
        Ok(u32::try_from(rounds.len()).unwrap_or(u32::MAX))
    }

    fn is_in(&self, member: NodeId, cohort: CohortId) -> bool {
        let cohorts = &self.coordinator.machine().state().cohorts;
        cohorts
            .get(&cohort)
            .is_some_and(|cohort| cohort.members.contains_key(&peer(member)))
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
            // What moves to a successor may have been asked for there as well. The same update twice does no harm.
            // So may what an older copy of a disk still had waiting.
            let doubled = self.settings.gone.is_some() || self.settings.restore.is_some();
            let again = doubled && count > 1;
            if count != 1 && !again {
                return Err(format!("an update was announced {count} times: {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// Reasons for which an honest member ends a session, or is late.
fn is_no_fault(code: &str) -> bool {
    let transient = [
        DeclineCode::User,
        DeclineCode::NotApproved,
        DeclineCode::NonceLost,
        DeclineCode::WrongRound,
        DeclineCode::ChainUnseen,
        DeclineCode::ChainUnconfirmed,
        DeclineCode::RolledBack,
        DeclineCode::ReplacesUnknown,
        DeclineCode::ReplacesMined,
    ];
    code == "timeout" || transient.iter().any(|fine| fine.as_str() == code)
}

#[cfg(test)]
mod tests;
