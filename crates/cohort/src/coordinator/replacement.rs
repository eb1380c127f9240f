//! A signal that waits too long for its first confirmation is replaced: the same round, the same root, the same inputs
//! or more of them, a higher fee. The round that is open meanwhile is not touched.
//!
//! Members know for sure only what was signed by all, so that is what a replacement names. An attempt that failed is
//! live at some of them and unknown to others.

use beacon_signal::transaction::{self, BuildError};
use bitcoin::{OutPoint, Transaction, TxOut};
use rand_core::CryptoRng;

use super::commitment::Commitment;
use super::funding::worthless;
use super::session::Opening;
use super::{Cohort, Coordinator, Event, Phase, Signal, Standing};
use crate::ids::{CohortId, Timestamp};
use crate::machine::{Code, Fund, Rejection, Step};
use crate::message::{Kind, SpentOutput};
use crate::review::ignored_live;

/// After so many tries the network's refusal of a signal is believed, and an older version is offered again.
const MAX_REFUSED: u32 = 5;

/// Why a signal that waits for its first confirmation is not replaced now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementError {
    /// Nodes take a replacement only for more than the terms allow to pay.
    #[error("stuck at the cap of {cap} sat/vB: a replacement would have to pay {least} sat/vB")]
    AtCap {
        /// Of the terms, sat/vB.
        cap: u64,
        /// That nodes would take, sat/vB.
        least: u64,
    },
    /// The operator's rate is not enough.
    #[error(
        "got {got} sat/vB, expected at least {least}: nodes take a replacement only if it pays for itself besides"
    )]
    TooLow {
        /// The operator's, sat/vB.
        got: u64,
        /// That nodes would take, sat/vB.
        least: u64,
    },
    /// The operator's rate is above the cap.
    #[error("got {got} sat/vB, expected at most {cap}, the cap of the terms")]
    TooHigh {
        /// The operator's, sat/vB.
        got: u64,
        /// Of the terms, sat/vB.
        cap: u64,
    },
    /// The change and other deposits do not pay the higher fee.
    #[error("{0}: a confirmed deposit at the beacon address would do")]
    TooLittle(BuildError),
    /// What pays the higher fee cannot be used beside other transactions that may still be mined.
    #[error("waits until another transaction is buried")]
    Hindered,
}

/// An unsigned transaction and what it spends.
pub(super) type Built = (Transaction, Vec<SpentOutput>);

impl Coordinator {
    /// The signal that would be replaced if it went on waiting, when its patience is over, and what hinders its
    /// replacement now.
    pub fn replacement<'a>(
        &self,
        cohort: &'a Cohort,
    ) -> Option<(&'a Signal, Timestamp, Result<(), ReplacementError>)> {
        let signal = cohort.replaceable()?;
        let built = self.build_replacement(cohort, signal, None);
        Some((signal, cohort.patience_ends(signal), built.map(|_| ())))
    }

    /// Starts a session for a replacement, once the terms' patience is over.
    pub(super) fn progress_replacement(
        &self,
        cohort: &Cohort,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let waits = cohort.replaceable().filter(|signal| {
            signal.patience.stopped.is_none() && cohort.patience_ends(signal) <= now
        });
        let Some(signal) = waits else {
            return Step::nothing();
        };
        let judged = Self::judge(cohort, now);
        if !judged.is_empty() {
            return judged;
        }
        match self.build_replacement(cohort, signal, None) {
            Ok(built) => Self::replace(cohort, signal, built, now, rng),
            Err(_) => Step::nothing(),
        }
    }

    /// When that would be, if it can be.
    pub(super) fn replacement_due(&self, cohort: &Cohort) -> Option<Timestamp> {
        let (signal, due, hindered) = self.replacement(cohort)?;
        (signal.patience.stopped.is_none() && hindered.is_ok()).then_some(due)
    }

    /// The operator does not want to wait that long.
    pub(super) fn replace_by_command(
        &self,
        cohort: CohortId,
        fee_rate: Option<u64>,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort(cohort)?;
        if cohort.phase != Phase::Acknowledged {
            let got = format!("{:?}", cohort.phase);
            let expected = "a cohort that every member acknowledged, and that is not over";
            return Err(Rejection::new(Code::Phase, got, expected));
        }
        cohort.has_no_session()?;
        let Some(signal) = cohort.replaceable() else {
            let got = "a cohort without a signal that waits for its first confirmation";
            let expected = "one with such a signal, on which nothing builds";
            return Err(Rejection::new(Code::Phase, got, expected));
        };
        let built = self.build_replacement(cohort, signal, fee_rate);
        let built = built.map_err(|error| {
            let expected = "a fee that can be paid under the terms";
            Rejection::new(Code::Invalid, error.to_string(), expected)
        })?;
        let judged = Self::judge(cohort, now);
        Ok(judged.and(Self::replace(cohort, signal, built, now, rng)))
    }

    fn replace(
        cohort: &Cohort,
        signal: &Signal,
        (tx, spent): Built,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> Step<Event> {
        let leaves = cohort.trees.get(&signal.round).into_iter().flatten();
        let leaves = leaves.map(|(index, leaf)| (*index, *leaf));
        let Some(commitment) = Commitment::to(cohort, leaves) else {
            return Step::nothing(); // It was built once.
        };
        if Some(commitment.root()) != signal.root {
            return Step::nothing(); // It is the one that was built then.
        }
        let opening = Opening {
            kind: Kind::Replacement,
            round: signal.round,
            replaces: Some(signal.txid),
            commitment: Some(commitment),
            tx,
            spent,
        };
        Self::open_session(cohort, opening, now, rng)
    }

    /// The same signal with a higher fee: at our rate, but at least what nodes take, which is what all versions pay and
    /// 1 sat/vB more for its own size (BIP125), and at most the cap. Where the change does not pay it, further confirmed
    /// outputs do. Without ties, so that a retry builds the same transaction.
    fn build_replacement(
        &self,
        cohort: &Cohort,
        signal: &Signal,
        wanted: Option<u64>,
    ) -> Result<Built, ReplacementError> {
        let (Some(beacon), Some(root)) = (&cohort.beacon, signal.root) else {
            return Err(ReplacementError::Hindered);
        };
        let cap = cohort.terms.max_fee_rate_sat_vb;
        if let Some(got) = wanted.filter(|got| *got > cap) {
            return Err(ReplacementError::TooHigh { got, cap });
        }
        let paid = cohort.versions(signal).map(fee_sat).max();
        let paid = paid.unwrap_or_default();
        let rate = wanted.unwrap_or_else(|| {
            // As for signals: an attempt is repeated unless more than twice as much is wanted by now.
            let wanted = self.wanted_fee_rate().min(cap);
            let tried = cohort.signals.iter().filter(|tried| {
                let is_version = tried.round == signal.round && !tried.is_close();
                is_version && !tried.is_signed() && fee_sat(tried) > paid
            });
            let before = tried.map(Signal::fee_rate).max();
            let before = before.filter(|before| wanted <= before.saturating_mul(2));
            before.map_or(wanted, |before| before.min(cap))
        });
        let live = cohort.live();
        let mut inputs: Vec<(OutPoint, TxOut)> = signal
            .tx
            .input
            .iter()
            .zip(&signal.spent)
            .map(|(input, spent)| (input.previous_output, spent.to_txout()))
            .collect();
        let mut held: u64 = signal.spent.iter().map(|output| output.value).sum();
        let mut more = cohort.further_funds(rate).into_iter();
        loop {
            let build = |rate| transaction::build_signal(&inputs, beacon.script(), root.0, rate);
            let outcome = match priced(build, rate, paid, beacon.script()) {
                Ok((tx, least)) => {
                    if let Some(got) = wanted.filter(|got| *got < least) {
                        return Err(ReplacementError::TooLow { got, least });
                    }
                    if least > cap {
                        return Err(ReplacementError::AtCap { cap, least });
                    }
                    if ignored_live(&tx.input, &live).is_none() {
                        let spent = inputs.iter().map(|(_, output)| SpentOutput::from(output));
                        return Ok((tx, spent.collect()));
                    }
                    ReplacementError::Hindered
                }
                Err(error) => ReplacementError::TooLittle(error),
            };
            let one_more = (inputs.len() as u64) < cohort.terms.max_inputs;
            let fits =
                |fund: &Fund| held.saturating_add(fund.value) <= cohort.terms.max_balance_sat;
            let Some(fund) = more.by_ref().find(fits).filter(|_| one_more) else {
                return Err(outcome);
            };
            held = held.saturating_add(fund.value);
            let output = TxOut {
                value: bitcoin::Amount::from_sat(fund.value),
                script_pubkey: beacon.script().to_owned(),
            };
            inputs.push((fund.outpoint, output));
        }
    }
}

/// The transaction at this rate, or at the lowest higher one at which nodes take it in the place of what pays `paid` sat;
/// with the latter rate where that is the case, else with the first.
pub(super) fn priced(
    build: impl Fn(u64) -> Result<Transaction, BuildError>,
    rate: u64,
    paid: u64,
    script: &bitcoin::Script,
) -> Result<(Transaction, u64), BuildError> {
    let mut rate = rate.max(1);
    loop {
        let tx = build(rate)?;
        let size = transaction::signed_vsize(&tx, script);
        // At least: what is too small for change is left to the fee.
        let least = paid.saturating_add(size).div_ceil(size.max(1));
        if least <= rate {
            return Ok((tx, rate));
        }
        rate = least;
    }
}

/// What a signal pays, sat.
pub(super) fn fee_sat(signal: &Signal) -> u64 {
    let spent: Vec<_> = signal.spent.iter().map(SpentOutput::to_txout).collect();
    transaction::fee(&signal.tx, &spent).map_or(0, bitcoin::Amount::to_sat)
}

impl Cohort {
    /// The signal that may be replaced: the newest version of the newest round that is signed, if none of that round is
    /// in a block, nothing that is signed builds on it, and what it builds on is in a block.
    pub fn replaceable(&self) -> Option<&Signal> {
        if self.doubt.is_some() {
            return None;
        }
        let signed = || self.signals.iter().filter(|signal| signal.is_signed());
        let newest = signed().filter(|signal| !signal.is_close());
        let newest = newest.max_by_key(|signal| (signal.round, signal.patience.since))?;
        let waits = matches!(newest.standing, Standing::Signed | Standing::Broadcast);
        let is_built_on = |version: &Signal| {
            let mut inputs = signed().flat_map(|signal| &signal.tx.input);
            inputs.any(|input| input.previous_output.txid == version.txid)
        };
        let mut parents = newest
            .tx
            .input
            .iter()
            .map(|input| input.previous_output.txid);
        let is_on_its_way =
            |parent| signed().any(|signal| signal.txid == parent && !signal.is_mined());
        (waits
            && !self.has_mined(newest)
            && !self.versions(newest).any(is_built_on)
            && !parents.any(is_on_its_way))
        .then_some(newest)
    }

    /// When a signal has waited for so long that it is replaced, or tried to be.
    pub(super) fn patience_ends(&self, signal: &Signal) -> Timestamp {
        let patience = &signal.patience;
        let ends = patience.since.after(self.terms.patience_s);
        ends.max(patience.not_before)
    }

    /// All signed versions of a signal, itself included.
    pub(super) fn versions<'a>(&'a self, signal: &'a Signal) -> impl Iterator<Item = &'a Signal> {
        let signed = self.signals.iter().filter(|other| other.is_signed());
        signed.filter(|other| other.is_version_of(signal))
    }

    /// Whether a version of it is in a block.
    pub(super) fn has_mined(&self, signal: &Signal) -> bool {
        self.versions(signal).any(Signal::is_mined)
    }

    /// Whether a signal is given to the network: not beside a version that is in a block, and not before a newer one,
    /// which pays more, was refused for good.
    pub(super) fn is_offered(&self, signal: &Signal) -> bool {
        let wanted = |other: &Signal| {
            let refused = other.refusal.is_some() && other.tries >= MAX_REFUSED;
            other.patience.since > signal.patience.since && !refused
        };
        !self.has_mined(signal) && !self.versions(signal).any(wanted)
    }

    /// Confirmed outputs that no signed signal spends and that are worth their input, our own change first, then the
    /// oldest.
    pub(super) fn further_funds(&self, rate: u64) -> Vec<Fund> {
        let usable = |fund: &&Fund| {
            fund.height.is_some() && !self.is_spent(fund.outpoint) && !worthless(fund, rate)
        };
        let mut funds: Vec<_> = self.funds.iter().filter(usable).cloned().collect();
        funds.sort_by_key(|fund| {
            let own = self.signal(fund.outpoint.txid).is_some();
            (
                !own,
                fund.height,
                std::cmp::Reverse(fund.value),
                fund.outpoint,
            )
        });
        funds
    }

    /// Refuses what needs a session of its own while another one is under way.
    pub(super) fn has_no_session(&self) -> Result<(), Rejection> {
        self.session.as_ref().map_or(Ok(()), |open| {
            let got = format!("a cohort with session {} under way", open.id);
            Err(Rejection::new(
                Code::Phase,
                got,
                "one without: try again when it is over",
            ))
        })
    }
}
