//! The watch over the beacon: what it holds, and every spend that we did not sign.
//!
//! Nobody can spend an output of the beacon without our key, but by a leaf of a script tree that the terms may have. Any other
//! spend that our log does not know therefore says for sure that the log is old, that a second copy of us runs, or that the key
//! was stolen. A spend by a leaf says nothing of that kind, and needs no record: once it is buried, what we signed with the
//! same outputs can never be mined.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, ScriptBuf, Txid};

use super::event::RollbackEvidence;
use super::state::{Candidate, ForeignSpend, Membership};
use super::{Event, Participant};
use crate::ids::Timestamp;
use crate::machine::{Fund, OutputView, Step, TransactionView, Watches};

/// Outputs of one beacon that are watched. Anybody can pay dust to it: our own change and the largest go before.
const MAX_OUTPUTS: usize = 64;

/// Outputs of one beacon that are in quarantine by name. With more of them nothing is signed until the user confirms.
const MAX_QUARANTINED: usize = 1_024;

impl Participant {
    /// What the chain should be asked about.
    pub(super) fn watched(&self) -> Watches {
        let cohorts = || self.state.cohorts.values();
        let watched = || cohorts().filter(|cohort| cohort.is_watched());
        let outpoints: BTreeSet<OutPoint> = watched()
            .flat_map(Membership::watched_outputs)
            .chain(self.state.singleton_inputs())
            .collect();
        let transactions: BTreeSet<Txid> = cohorts()
            .flat_map(Membership::live)
            .map(|candidate| candidate.txid)
            .chain(watched().flat_map(Membership::foreign_spenders))
            .chain(self.state.singleton_transactions())
            .collect();
        Watches {
            scripts: watched()
                .filter_map(|cohort| cohort.beacon.as_ref())
                .map(|beacon| beacon.script().to_owned())
                .collect(),
            outpoints: outpoints.into_iter().collect(),
            script_trees: watched()
                .filter(|cohort| cohort.terms.script_tree.is_some())
                .filter_map(|cohort| cohort.beacon.as_ref())
                .map(|beacon| beacon.script().to_owned())
                .collect(),
            inputs: cohorts().filter_map(Membership::checked_inputs).collect(),
            transactions: transactions.into_iter().collect(),
            fee_target: None,
        }
    }

    /// All unspent outputs of a beacon, as our own chain source lists them.
    pub(super) fn funds_seen(
        &self,
        script: &ScriptBuf,
        funds: &[Fund],
        now: Timestamp,
    ) -> Step<Event> {
        let pays = |cohort: &&Membership| {
            let beacon = cohort.beacon.as_ref();
            cohort.is_watched()
                && beacon.is_some_and(|beacon| beacon.script() == script.as_script())
        };
        let mut step = Step::nothing();
        let Some(cohort) = self.state.cohorts.values().find(pays) else {
            return step;
        };
        let waits = cohort.quarantine.as_ref();
        if waits.is_some_and(|quarantine| !quarantine.complete) && funds.len() <= MAX_QUARANTINED {
            step.events.push(Event::QuarantineFixed {
                cohort: cohort.handle,
                outputs: funds.iter().map(|fund| fund.outpoint).collect(),
            });
        }
        if funds.is_empty() && cohort.may_settle(now) {
            step.events.push(Event::WatchEnded {
                cohort: cohort.handle,
            });
        }
        let outputs = worth_watching(cohort, funds);
        if outputs != cohort.outputs {
            step.events.push(Event::OutputsSeen {
                cohort: cohort.handle,
                outputs,
            });
        }
        step
    }

    /// A watched output is spent. By something that we know: its burial is heard of elsewhere.
    pub(super) fn spend_seen(
        &self,
        outpoint: OutPoint,
        view: &OutputView,
        now: Timestamp,
    ) -> Step<Event> {
        let OutputView::Seen {
            spent_by: Some(txid),
            ..
        } = view
        else {
            return Step::nothing();
        };
        let mut step = Step::nothing();
        for cohort in self.state.cohorts.values() {
            let watched = cohort.is_watched() && cohort.watched_outputs().any(|at| at == outpoint);
            if !watched || cohort.has_record_of(*txid) {
                continue;
            }
            step.events.push(Event::ForeignSpend {
                cohort: cohort.handle,
                outpoint,
                txid: *txid,
            });
            step.events.push(Event::RollbackDetected {
                cohort: cohort.handle,
                evidence: RollbackEvidence::ForeignSpend,
                txid: *txid,
            });
            // Its coordinator may know what it was, and have the proofs.
            if cohort.inquiry.is_none() {
                step = step.and(Self::inquire(cohort, cohort.round, now));
            }
        }
        step
    }

    /// A watched output is spent by a leaf. Only where the terms have one: elsewhere there is no such spend.
    pub(super) fn leaf_spend_seen(&self, outpoint: OutPoint, txid: Txid) -> Step<Event> {
        let mut step = Step::nothing();
        for cohort in self.state.cohorts.values() {
            let watched = cohort.is_watched() && cohort.watched_outputs().any(|at| at == outpoint);
            if watched && cohort.terms.script_tree.is_some() && !cohort.has_record_of(txid) {
                step.events.push(Event::LeafSpend {
                    cohort: cohort.handle,
                    outpoint,
                    txid,
                });
            }
        }
        step
    }

    /// A transaction that we did not sign, and that spends what we watch, gets deeper.
    pub(super) fn foreign_seen(&self, txid: Txid, view: TransactionView, tip: u32) -> Step<Event> {
        let TransactionView::Confirmed { height, .. } = view else {
            return Step::nothing();
        };
        let confirmations = u64::from(tip.saturating_sub(height)) + 1;
        let mut step = Step::nothing();
        for cohort in self.state.cohorts.values() {
            if confirmations < cohort.terms.confirmations {
                continue;
            }
            let spends = cohort.foreign.iter();
            let spends = spends.filter(|spend| spend.txid == txid && !spend.buried);
            step.events
                .extend(spends.map(|spend| Event::ForeignSpendBuried {
                    cohort: cohort.handle,
                    outpoint: spend.outpoint,
                    txid,
                }));
        }
        step
    }
}

impl Membership {
    fn watched_outputs(&self) -> impl Iterator<Item = OutPoint> {
        let quarantined = self.quarantine.iter().flat_map(|held| &held.outputs);
        self.outputs.keys().chain(quarantined).copied()
    }

    fn foreign_spenders(&self) -> impl Iterator<Item = Txid> {
        let open = self.foreign.iter().filter(|spend| !spend.buried);
        open.map(|spend: &ForeignSpend| spend.txid)
    }

    fn has_record_of(&self, txid: Txid) -> bool {
        let signed = |candidate: &Candidate| candidate.txid == txid;
        self.candidates.iter().any(signed) || self.foreign.iter().any(|spend| spend.txid == txid)
    }
}

/// What is watched after this list was seen: what was before, and what is new and in a block. Outputs leave the list when
/// what spends them is buried, not when they are spent.
fn worth_watching(cohort: &Membership, funds: &[Fund]) -> BTreeMap<OutPoint, u64> {
    let mut outputs = cohort.outputs.clone();
    let confirmed = funds.iter().filter(|fund| fund.height.is_some());
    outputs.extend(confirmed.map(|fund| (fund.outpoint, fund.value)));
    if outputs.len() > MAX_OUTPUTS {
        let own = |outpoint: &OutPoint| {
            let mut signed = cohort.candidates.iter();
            signed.any(|candidate| candidate.txid == outpoint.txid)
        };
        let mut ranked: Vec<_> = outputs.into_iter().collect();
        ranked
            .sort_by_key(|(outpoint, value)| (Reverse(own(outpoint)), Reverse(*value), *outpoint));
        ranked.truncate(MAX_OUTPUTS);
        outputs = ranked.into_iter().collect();
    }
    outputs
}
