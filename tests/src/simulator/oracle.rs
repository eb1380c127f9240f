//! What must hold at the end of every simulation, whatever happened in it.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::coordinator::Event;
use beacon_cohort::ids::{CohortId, SessionId};
use beacon_cohort::review::DeclineCode;
use beacon_signal::{Root, Strictness, transaction};
use bitcoin::Txid;

use super::world::{COORDINATOR, node_of};
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
        self.check_contributions()?;
        self.check_kept()?;
        self.check_blame()?;
        sessions.check_ends()?;
        sessions.check_roots()?;
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
            let (peer, code, evidence) = match event {
                Event::SessionAbandoned {
                    culprit: Some(culprit),
                    code,
                    ..
                } => (culprit, code, None),
                Event::Struck {
                    peer,
                    code,
                    evidence,
                    ..
                } => (peer, code, evidence),
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
            let excused = self.world.is_dishonest(COORDINATOR)
                || is_no_fault(&code)
                || (self.settings.empty_leaf_allowed && code == DeclineCode::ProofInvalid.as_str());
            if !excused || evidence.is_some() {
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

/// Reasons for which an honest member ends a session, or is late.
fn is_no_fault(code: &str) -> bool {
    let transient = [
        DeclineCode::User,
        DeclineCode::NotApproved,
        DeclineCode::NonceLost,
        DeclineCode::ChainUnseen,
        DeclineCode::ChainUnconfirmed,
    ];
    code == "timeout" || transient.iter().any(|fine| fine.as_str() == code)
}

/// An oracle that cannot fail shows nothing: each is given what it must not accept.
#[cfg(test)]
mod tests {
    use beacon_cohort::machine::Machine as _;
    use beacon_cohort::terms::Flow;
    use beacon_cohort::{coordinator, participant};
    use bitcoin::{OutPoint, ScriptBuf, Transaction, TxIn};

    use super::super::{Goal, Settings};
    use super::*;

    /// A life in which everything held.
    fn settled() -> Simulation {
        let settings = Settings {
            flow: Flow::Pull, // One session for all updates.
            ..Settings::default()
        };
        let mut simulation = Simulation::new(3, settings);
        simulation.form().unwrap();
        simulation.round().unwrap();
        simulation.advance(Goal::Settled).unwrap();
        simulation.examine().unwrap();
        simulation
    }

    fn refused(simulation: &Simulation, wording: &str) {
        let reason = simulation.examine().unwrap_err();
        assert!(reason.contains(wording), "{reason}");
    }

    /// Where the test's life happened.
    fn cohort(simulation: &Simulation) -> CohortId {
        simulation.users.cohorts[0]
    }

    #[test]
    fn memory_that_runs_ahead_of_the_disk() {
        let mut simulation = settled();
        let event = coordinator::Event::RoundRequested {
            cohort: cohort(&simulation),
        };
        simulation.coordinator.machine_mut().apply(&event);
        refused(&simulation, "C: replay differs from memory");

        let mut simulation = settled();
        let event = participant::Event::OptedOut {
            cohort: cohort(&simulation),
        };
        simulation.members[1].machine_mut().apply(&event);
        refused(&simulation, "P2: replay differs from memory");
    }

    #[test]
    fn a_transaction_of_no_session() {
        let mut simulation = settled();
        simulation.world.chain.force(Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                ..TxIn::default()
            }],
            output: vec![bitcoin::TxOut {
                value: bitcoin::Amount::ZERO,
                script_pubkey: ScriptBuf::new_op_return([7; 32]),
            }],
        });
        refused(&simulation, "is in the chain and of no session");
    }

    /// The same round in the chain twice, and a root that no member can prove.
    #[test]
    fn a_round_that_is_mined_twice() {
        let simulation = settled();
        let mut sessions = Sessions::read(&simulation.coordinator.log().unwrap());
        let mut twice = simulation.world.chain.mined().next().unwrap().clone();
        twice.output[0].value -= bitcoin::Amount::ONE_SAT;
        let facts = *sessions.transactions.values().next().unwrap();
        sessions.transactions.insert(twice.compute_txid(), facts);
        let mut simulation = simulation;
        simulation.world.chain.force(twice);
        let reason = simulation.check(&sessions).unwrap_err();
        assert!(reason.contains("is in the chain twice"), "{reason}");
    }

    #[test]
    fn a_signal_that_a_member_cannot_prove() {
        let simulation = settled();
        let tx = simulation.world.chain.mined().next().unwrap();
        let id = cohort(&simulation);
        let root = Root(transaction::signal_bytes(tx).unwrap());
        let txid = tx.compute_txid();
        simulation.check_proofs(1, id, txid, root).unwrap();
        let reason = simulation
            .check_proofs(1, id, txid, Root([7; 32]))
            .unwrap_err();
        assert!(reason.contains("member 1 cannot prove"), "{reason}");
    }

    #[test]
    fn an_update_that_was_never_announced() {
        let mut simulation = settled();
        simulation.want_updates();
        refused(&simulation, "an update was announced 0 times");
    }

    #[test]
    fn sessions_without_an_end_or_with_two_and_rounds_with_two_roots() {
        let simulation = settled();
        let read = || Sessions::read(&simulation.coordinator.log().unwrap());
        let session = *read().started.keys().next().unwrap();

        let mut sessions = read();
        sessions.signed.clear();
        assert!(sessions.check_ends().is_err(), "no end");
        sessions.abandoned.insert(session, String::new());
        assert!(sessions.check_ends().is_err(), "no reason");
        sessions.abandoned.insert(session, "timeout".to_owned());
        sessions.check_ends().unwrap();
        sessions.signed.insert(session);
        assert!(sessions.check_ends().is_err(), "two ends");

        let mut sessions = read();
        let (cohort, round, _) = sessions.started[&session];
        let retry = SessionId(uuid::Uuid::nil());
        let other = Root([7; 32]);
        sessions.started.insert(retry, (cohort, round, other));
        sessions.check_roots().unwrap();
        sessions.aggregated.insert(retry);
        assert!(sessions.check_roots().is_err(), "two roots");
    }
}
