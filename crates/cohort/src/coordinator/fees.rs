//! What a signal pays for each virtual byte: the operator's rate, or what the chain source expects, within the terms.
//!
//! An estimate comes as a fact, again and again. It is recorded only where it differs by more than a tenth from the one before,
//! and no sooner than ten minutes after that: however estimates jump, the log grows by no more than 144 of them a day. Where
//! no estimate ever came, [`FALLBACK_SAT_VB`] stands in; where none comes any more, the last one does.

use beacon_signal::transaction;
use bitcoin::TxOut;
use serde::{Deserialize, Serialize};

use super::{Cohort, Coordinator, Event, Signal};
use crate::ids::Timestamp;
use crate::machine::Step;
use crate::message::SpentOutput;

/// Fee rate of signals as long as the chain source has given no estimate, sat/vB.
pub const FALLBACK_SAT_VB: u64 = 5;

/// Most that is taken for an estimate, sat/vB; the terms allow no more either.
const MAX_ESTIMATE_SAT_VB: u64 = 100_000;

/// Seconds from one recorded estimate to the next.
const ESTIMATE_INTERVAL_S: u64 = 600;

/// Where the fee rate of signals comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeRate {
    /// The operator says it, sat/vB.
    Fixed(u64),
    /// The chain source expects it to bring a transaction into one of so many next blocks.
    Estimated {
        /// So many, at least 1.
        blocks: u16,
    },
}

/// What the chain source expected last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeeEstimate {
    /// sat/vB, at least 1.
    pub sat_vb: u64,
    /// When it was recorded.
    pub at: Timestamp,
}

impl Coordinator {
    /// The fee rate of this cohort's next signal, sat/vB: what is wanted, within the terms.
    ///
    /// A round that is tried again keeps its rate, unless more than twice as much is wanted by now: each other rate makes
    /// another transaction that may be mined, of which members keep 64 at most.
    pub fn fee_rate(&self, cohort: &Cohort) -> u64 {
        let wanted = self.wanted_fee_rate();
        let round = cohort.round.number;
        let tried = cohort.signals.iter();
        let tried = tried.filter(|tried| tried.round == round && !tried.is_close());
        let rate = match (self.config.fee_rate, tried.map(Signal::fee_rate).max()) {
            (FeeRate::Estimated { .. }, Some(before)) if wanted <= before.saturating_mul(2) => {
                before
            }
            _ => wanted,
        };
        rate.min(cohort.terms.max_fee_rate_sat_vb)
    }

    /// What the operator or the chain source wants, sat/vB, whatever the terms of any cohort allow.
    pub fn wanted_fee_rate(&self) -> u64 {
        match self.config.fee_rate {
            FeeRate::Fixed(sat_vb) => sat_vb,
            FeeRate::Estimated { .. } => {
                let estimate = self.state.fee_estimate;
                estimate.map_or(FALLBACK_SAT_VB, |estimate| estimate.sat_vb)
            }
        }
    }

    /// Where [`Self::wanted_fee_rate`] comes from, in a word.
    pub fn fee_rate_source(&self) -> &'static str {
        match (self.config.fee_rate, self.state.fee_estimate) {
            (FeeRate::Fixed(_), _) => "fixed",
            (FeeRate::Estimated { .. }, Some(_)) => "estimate",
            (FeeRate::Estimated { .. }, None) => "fallback",
        }
    }

    /// The target for which the chain source should be asked for estimates, in blocks.
    pub(super) fn fee_target(&self) -> Option<u16> {
        match self.config.fee_rate {
            FeeRate::Fixed(_) => None,
            FeeRate::Estimated { blocks } => Some(blocks),
        }
    }

    /// What the chain source expects now.
    pub(super) fn fee_estimated(&self, sat_vb: u64, now: Timestamp) -> Step<Event> {
        let believable = (1..=MAX_ESTIMATE_SAT_VB).contains(&sat_vb);
        let matters = self.state.fee_estimate.is_none_or(|before| {
            sat_vb.abs_diff(before.sat_vb).saturating_mul(10) > before.sat_vb
                && before.at.after(ESTIMATE_INTERVAL_S) <= now
        });
        if self.fee_target().is_none() || !believable || !matters {
            return Step::nothing();
        }
        Step::event(Event::FeeEstimated { sat_vb, at: now })
    }
}

impl Signal {
    /// What it pays, sat/vB, rounded down; more than it was built for where its change would have been dust.
    pub fn fee_rate(&self) -> u64 {
        let spent: Vec<TxOut> = self.spent.iter().map(SpentOutput::to_txout).collect();
        let script = spent.first().map(|output| output.script_pubkey.clone());
        let size = transaction::signed_vsize(&self.tx, &script.unwrap_or_default());
        let fee = transaction::fee(&self.tx, &spent).map_or(0, bitcoin::Amount::to_sat);
        fee.checked_div(size).unwrap_or_default()
    }
}
