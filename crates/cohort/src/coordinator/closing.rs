//! The end of a beacon: one last spend, without a signal, of all that the address holds, to the script of the terms.
//!
//! Only the operator starts it. If it fails the cohort goes on as before. Once it is signed there are no more rounds, and
//! once it is buried the cohort is over; what was left out or comes later is spent by another one.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use beacon_signal::build_close;
use beacon_signal::transaction::BuildError;
use bitcoin::{Amount, OutPoint, TxOut};
use rand_core::CryptoRng;

use super::funding::worthless;
use super::replacement::{Built, ReplacementError, fee_sat, priced};
use super::session::Opening;
use super::strikes::Dissolution;
use super::{Cohort, Coordinator, Event, Phase, Signal, Standing};
use crate::ids::{CohortId, Timestamp};
use crate::machine::{Code, Fund, Rejection, Step};
use crate::message::{Kind, SpentOutput};
use crate::review::{conflict, ignored_live};

/// The reason for the end of a cohort that was closed.
pub(crate) const CLOSED: &str = "closed";

/// Why a cohort cannot be closed now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// Nobody agreed to it.
    #[error("the terms have no close_script, so no member signs a closing spend")]
    NotAgreed,
    /// Nothing at the address is in a block and worth its fee.
    #[error("nothing at the beacon address is confirmed and worth its fee")]
    NoFunds,
    /// What is there does not pay the fee and an output.
    #[error("{0}")]
    TooLittle(BuildError),
    /// A signal is on its way, and would be undone, or be mined beside the close.
    #[error("transaction {0} may still be mined: try again when it is confirmed")]
    Hindered(bitcoin::Txid),
    /// The fee rate is not possible.
    #[error("{0}")]
    FeeRate(ReplacementError),
}

impl Coordinator {
    pub(super) fn close_by_command(
        &self,
        cohort: CohortId,
        fee_rate: Option<u64>,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort(cohort)?;
        if !matches!(cohort.phase, Phase::Acknowledged | Phase::Dissolved(_)) {
            let got = format!("{:?}", cohort.phase);
            let expected = "a cohort that every member acknowledged";
            return Err(Rejection::new(Code::Phase, got, expected));
        }
        if let Some(doubt) = &cohort.doubt {
            let expected = "a log that knows every spend of the beacon: see `cohort show`";
            return Err(Rejection::new(Code::Phase, doubt, expected));
        }
        cohort.has_no_session()?;
        let (tx, spent) = self.build_close(cohort, fee_rate).map_err(|error| {
            Rejection::new(
                Code::Invalid,
                error.to_string(),
                "a cohort that can be closed",
            )
        })?;
        let opening = Opening {
            kind: Kind::Close,
            round: cohort.round.number,
            replaces: cohort.closing_spend().map(|close| close.txid),
            commitment: None,
            tx,
            spent,
        };
        let judged = Self::judge(cohort, now);
        Ok(judged.and(Self::open_session(cohort, opening, now, rng)))
    }

    /// All confirmed outputs up to the terms' limit in one transaction: first those of a closing spend that is to be
    /// replaced, then what concerns live transactions, then the largest. The terms' largest balance is no limit: whatever
    /// came to the address has to leave it.
    pub fn build_close(&self, cohort: &Cohort, wanted: Option<u64>) -> Result<Built, CloseError> {
        let (Some(beacon), Some(script)) = (&cohort.beacon, &cohort.terms.close_script) else {
            return Err(CloseError::NotAgreed);
        };
        let cap = cohort.terms.max_fee_rate_sat_vb;
        if let Some(got) = wanted.filter(|got| *got > cap) {
            return Err(CloseError::FeeRate(ReplacementError::TooHigh { got, cap }));
        }
        let rate = wanted.unwrap_or(self.wanted_fee_rate().min(cap));
        let output = |value| TxOut {
            value: Amount::from_sat(value),
            script_pubkey: beacon.script().to_owned(),
        };
        let before = cohort.closing_spend();
        let mut inputs: Vec<(OutPoint, TxOut)> = before
            .iter()
            .flat_map(|close| close.tx.input.iter().zip(&close.spent))
            .map(|(input, spent)| (input.previous_output, spent.to_txout()))
            .collect();
        let most = usize::try_from(cohort.terms.max_inputs).unwrap_or(usize::MAX);
        let funds = cohort.closing_funds(rate);
        let more = funds.iter().take(most.saturating_sub(inputs.len()));
        inputs.extend(more.map(|fund| (fund.outpoint, output(fund.value))));
        if inputs.is_empty() {
            return Err(CloseError::NoFunds);
        }
        let paid = before.map_or(0, fee_sat);
        let build = |rate| build_close(&inputs, beacon.script(), script, rate);
        let (tx, least) = match before {
            Some(_) => priced(build, rate, paid, beacon.script()).map_err(CloseError::TooLittle)?,
            None => (build(rate.max(1)).map_err(CloseError::TooLittle)?, rate),
        };
        if let Some(got) = wanted.filter(|got| *got < least) {
            return Err(CloseError::FeeRate(ReplacementError::TooLow { got, least }));
        }
        if least > cap {
            return Err(CloseError::FeeRate(ReplacementError::AtCap { cap, least }));
        }
        if let Some(txid) = ignored_live(&tx.input, &cohort.live()) {
            return Err(CloseError::Hindered(txid));
        }
        let spent = inputs.iter().map(|(_, output)| SpentOutput::from(output));
        Ok((tx, spent.collect()))
    }

    /// A cohort whose closing spend is signed waits for its burial, and is over then.
    pub(super) fn progress_closing(
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let buried = |signal: &Signal| {
            signal.is_close() && matches!(signal.standing, Standing::Buried { .. })
        };
        if !cohort.signals.iter().any(buried) {
            return Step::nothing();
        }
        let why = Dissolution {
            without: BTreeSet::new(),
            reason: CLOSED.to_owned(),
            successor: false,
        };
        Self::dissolve(cohort, why, now, rng)
    }
}

impl Cohort {
    /// Whether a closing spend is signed: there are no more rounds.
    pub fn is_closing(&self) -> bool {
        let mut signals = self.signals.iter();
        signals.any(|signal| signal.is_close() && signal.is_signed())
    }

    /// The newest closing spend that is signed and in no block.
    fn closing_spend(&self) -> Option<&Signal> {
        let waits = |signal: &&Signal| {
            signal.is_close()
                && matches!(signal.standing, Standing::Signed | Standing::Broadcast)
                && !self.has_mined_rival(signal)
        };
        let waiting = self.signals.iter().filter(waits);
        waiting.max_by_key(|signal| signal.patience.since)
    }

    /// Whether another transaction that is in a block spends one of its inputs.
    fn has_mined_rival(&self, signal: &Signal) -> bool {
        let mut mined = self.signals.iter().filter(|other| other.is_mined());
        mined.any(|other| other.txid != signal.txid && conflict(&other.tx, &signal.tx))
    }

    /// Confirmed outputs that no signed transaction spends and that are worth their input: first what live transactions
    /// spend or make, which has to be accounted for, then the largest.
    fn closing_funds(&self, rate: u64) -> Vec<&Fund> {
        let live = self.live();
        let concerns_live = |fund: &Fund| {
            live.iter().any(|tx| {
                let mut spent = tx.input.iter().map(|input| input.previous_output);
                tx.compute_txid() == fund.outpoint.txid || spent.any(|spent| spent == fund.outpoint)
            })
        };
        let usable = |fund: &&Fund| {
            fund.height.is_some() && !self.is_spent(fund.outpoint) && !worthless(fund, rate)
        };
        let mut funds: Vec<_> = self.funds.iter().filter(usable).collect();
        funds.sort_by_cached_key(|fund| (!concerns_live(fund), Reverse(fund.value), fund.outpoint));
        funds
    }
}
