//! How each event of a round and its sessions changes a cohort.

use std::collections::{BTreeMap, BTreeSet};

use beacon_signal::{Index, LeafValue};
use bitcoin::{Transaction, TxOut};

use super::event::Event;
use super::state::{
    Abandoned, Cohort, Contribution, Declines, GivenNonces, Patience, Round, Session, Signal,
    Stage, Standing, Strike,
};
use super::{OTHER_DECLINE, TIMEOUT};
use crate::evidence::SignedPartials;
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::Code;
use crate::message::{Kind, SpentOutput};
use crate::musig::sighashes;
use crate::review::DeclineCode;
use crate::values::AggregatedNonce;

/// Abandoned sessions that a cohort remembers.
const MAX_ABANDONED: usize = 32;

/// Strikes that a cohort remembers one by one, with their evidence.
const MAX_STRIKES: usize = 256;

impl Cohort {
    /// Seconds before something is tried again: doubled with each failure, at most 60 response deadlines or ten minutes.
    /// Short deadlines are missed more often, and want more tries.
    fn retry_delay_s(&self, failures: u32) -> u64 {
        let longest = self.terms.response_deadline_s.saturating_mul(60);
        (1 << failures.min(12)).min(longest).min(600)
    }

    pub(super) fn apply_round(&mut self, event: &Event) {
        match event {
            Event::RoundRequested { .. } => {
                self.round.requested = true;
                self.round.failures = 0;
                self.doubt = None;
                self.later_rounds.clear();
                if matches!(
                    self.round.stage,
                    Stage::Stopped { .. } | Stage::Unanswered { .. }
                ) {
                    self.round.stage = if self.root_is_fixed() {
                        Stage::Closed {
                            not_before: Timestamp::default(),
                        }
                    } else {
                        Stage::Waiting
                    };
                }
            }
            Event::RoundOpened { deadline, .. } => {
                self.round.excused = false;
                self.round.stage = Stage::Open {
                    deadline: *deadline,
                }
            }
            Event::AnswersMissing { at, .. } => {
                self.round.failures += 1;
                self.round.stage = Stage::Unanswered {
                    again: at.after(self.retry_delay_s(self.round.failures)),
                };
            }
            Event::RoundClosed { .. } => {
                self.round.stage = Stage::Closed {
                    not_before: Timestamp::default(),
                };
            }
            Event::RoundStopped { reason, .. } => {
                self.round.stage = Stage::Stopped {
                    reason: reason.clone(),
                };
                self.round.requested = false;
            }
            event => self.apply_session(event),
        }
    }

    fn apply_session(&mut self, event: &Event) {
        match event {
            Event::SessionStarted { replaces, .. } => {
                self.session = Session::started(event);
                self.declines = None;
                if let Some(replaced) = replaces.and_then(|txid| self.signal_mut(txid)) {
                    replaced.patience.stopped = None;
                }
            }
            Event::NonceGiven {
                peer,
                nonces,
                signature,
                ..
            } => {
                if let Some(session) = &mut self.session {
                    let given = GivenNonces {
                        nonces: nonces.clone(),
                        signature: *signature,
                    };
                    session.nonces.insert(peer.clone(), given);
                }
            }
            Event::NoncesAggregated {
                nonces, deadline, ..
            } => self.nonces_aggregated(nonces, *deadline),
            Event::PartialGiven {
                peer,
                partials,
                signature,
                ..
            } => {
                if let Some(session) = &mut self.session {
                    let given = SignedPartials {
                        aggregated_nonces: session.aggregated.clone().unwrap_or_default(),
                        partial_signatures: partials.iter().map(|one| (*one).into()).collect(),
                        signature: *signature,
                    };
                    let contribution = Contribution {
                        session: session.id,
                        signed: given.clone(),
                    };
                    let txid = session.tx.compute_txid();
                    session.partials.insert(peer.clone(), given);
                    if let Some(signal) = self.signal_mut(txid) {
                        signal.contributions.insert(peer.clone(), contribution);
                    }
                }
            }
            Event::Struck {
                peer,
                session,
                code,
                at,
                evidence,
                ..
            } => self.struck(Strike {
                peer: peer.clone(),
                session: *session,
                code: code.clone(),
                at: *at,
                evidence: evidence.clone(),
            }),
            Event::SessionSigned {
                session, tx, at, ..
            } => self.session_signed(*session, tx, *at),
            Event::SessionAbandoned {
                session,
                code,
                culprit,
                comment,
                at,
                ..
            } => {
                if let Some(ended) = self.end_session(*session) {
                    self.tried(&ended, *at);
                    if let Some(peer) = culprit {
                        self.declined(&ended, peer, code);
                    }
                    self.abandoned.push(Abandoned {
                        session: *session,
                        round: ended.round,
                        code: code.clone(),
                        culprit: culprit.clone(),
                        comment: comment.clone(),
                    });
                    let surplus = self.abandoned.len().saturating_sub(MAX_ABANDONED);
                    self.abandoned.drain(..surplus);
                }
            }
            event => self.apply_declines(event),
        }
    }

    /// A session that was abandoned is followed by another one, a while later.
    fn tried(&mut self, ended: &Session, at: Timestamp) {
        if ended.kind.is_signal() {
            self.round.failures += 1;
            let not_before = at.after(self.retry_delay_s(self.round.failures));
            self.round.stage = Stage::Closed { not_before };
        }
        let Some(failures) =
            ended
                .replaces
                .and_then(|txid| self.signal_mut(txid))
                .map(|replaced| {
                    replaced.patience.failures += 1;
                    replaced.patience.failures
                })
        else {
            return;
        };
        let not_before = at.after(self.retry_delay_s(failures));
        if let Some(replaced) = ended.replaces.and_then(|txid| self.signal_mut(txid)) {
            replaced.patience.not_before = not_before;
        }
    }

    fn apply_declines(&mut self, event: &Event) {
        match event {
            Event::ReplacementStopped { txid, reason, .. } => {
                if let Some(replaced) = self.signal_mut(*txid) {
                    replaced.patience.stopped = Some(reason.clone());
                }
            }
            Event::DeclineNoted {
                session,
                peer,
                code,
                ..
            } => {
                let kind = self.declines.as_ref().map(|declines| declines.kind.clone());
                let crossed = self.counts_as_crossed(&kind.unwrap_or_default(), peer, code);
                let declines = self.declines.as_mut();
                if let Some(declines) = declines.filter(|declines| declines.session == *session) {
                    let late = DeclineCode::lacks_a_leaf(code) && declines.late.contains(peer);
                    if !crossed && !late {
                        declines.by.entry(peer.clone()).or_insert(code.clone());
                    }
                }
            }
            Event::DeclinesJudged { .. } => self.declines = None,
            event => self.apply_chain(event),
        }
    }

    /// The decline that ended a session. Others may follow before it is judged.
    fn declined(&mut self, ended: &Session, peer: &PeerId, code: &str) {
        let is_decline = DeclineCode::ALL.iter().any(|known| known.as_str() == code);
        if !is_decline && code != OTHER_DECLINE {
            return;
        }
        if self.counts_as_crossed(&ended.kind, peer, code) {
            return;
        }
        self.declines = Some(Declines {
            session: ended.id,
            excused: ended.excused,
            by: [(peer.clone(), code.to_owned())].into(),
            late: BTreeSet::new(),
            kind: ended.kind.clone(),
        });
    }

    /// Whether a decline comes of a leaf that is still on its way, which is believed so many times.
    fn counts_as_crossed(&mut self, kind: &Kind, peer: &PeerId, code: &str) -> bool {
        let crossed = kind.is_signal() && self.has_crossed(peer, code);
        if crossed {
            *self.round.crossed.entry(peer.clone()).or_default() += 1;
        }
        crossed
    }

    fn struck(&mut self, strike: Strike) {
        if let Some(member) = self.members.get_mut(&strike.peer) {
            member.strikes += 1;
            if strike.code == TIMEOUT {
                member.late = Some(strike.at);
            }
        }
        if let Some(session) = &mut self.session
            && strike.session == Some(session.id)
            && strike.code == Code::Conflict.as_str()
        {
            session.equivocated.insert(strike.peer.clone());
        }
        self.strikes.push(strike);
        let surplus = self.strikes.len().saturating_sub(MAX_STRIKES);
        self.strikes.drain(..surplus);
    }

    fn nonces_aggregated(&mut self, nonces: &[AggregatedNonce], deadline: Timestamp) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.aggregated = Some(nonces.to_vec());
        session.deadline = deadline;
        session.excused = false;
        if session.kind.is_signal() {
            let given = &self.round.leaves;
            let value = |index: &Index| given.get(index).copied().unwrap_or(LeafValue::EMPTY);
            let indexes = self.members.values().flat_map(|member| &member.indexes);
            let leaves = indexes.map(|index| (*index, value(index))).collect();
            self.trees.insert(session.round, leaves);
        }
        let txid = session.tx.compute_txid();
        if self.signals.iter().any(|signal| signal.txid == txid) {
            return; // A retry of the same transaction.
        }
        let signal = Signal {
            session: session.id,
            round: session.round,
            root: session.root,
            tx: session.tx.clone(),
            txid,
            spent: session.spent.clone(),
            contributions: BTreeMap::new(),
            standing: Standing::Unsigned,
            tried: None,
            tries: 0,
            refusal: None,
            patience: Patience::default(),
        };
        self.signals.push(signal);
    }

    fn session_signed(&mut self, id: SessionId, tx: &Transaction, at: Timestamp) {
        let ended = self.end_session(id);
        if let Some(signal) = self.signal_mut(tx.compute_txid()) {
            signal.patience = Patience {
                since: at,
                ..Patience::default()
            };
            signal.session = id;
            signal.tx = tx.clone();
            signal.standing = Standing::Signed;
            signal.contributions.clear(); // The transaction shows what everybody signed.
        }
        if ended.is_none_or(|session| session.kind.is_signal()) {
            self.round = Round::new(self.round.number + 1, at);
        }
    }

    /// Takes the session of this id out, if it is the one under way.
    fn end_session(&mut self, id: SessionId) -> Option<Session> {
        self.session.take_if(|session| session.id == id)
    }
}

impl Session {
    fn started(event: &Event) -> Option<Self> {
        let Event::SessionStarted {
            session,
            round,
            kind,
            replaces,
            root,
            tx,
            spent,
            deadline,
            ..
        } = event
        else {
            return None;
        };
        let outputs: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
        Some(Self {
            id: *session,
            round: *round,
            kind: kind.clone(),
            replaces: *replaces,
            root: *root,
            tx: tx.clone(),
            spent: spent.clone(),
            sighashes: sighashes(tx, &outputs).unwrap_or_default(),
            deadline: *deadline,
            nonces: BTreeMap::new(),
            aggregated: None,
            partials: BTreeMap::new(),
            equivocated: BTreeSet::new(),
            excused: false,
            outdated: false,
        })
    }
}
