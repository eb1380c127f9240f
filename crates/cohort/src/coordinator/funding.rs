//! What pays for the next signal, and what is missing where nothing does.
//!
//! Of the outputs at the beacon address those count that are in a block, that no signed signal spends, and that alone hold no
//! more than the terms' maximum balance. As few as pay the fee are spent, in an order without ties, so that a retry builds the same
//! transaction: what concerns live transactions first, then our own change, then deposits, the oldest first. A stranger's
//! fresh deposit could be taken back by a reorganisation, and what was signed with it would never be mined. Where so many of
//! the oldest do not pay, since they are small, the largest do.

use std::cmp::Reverse;

use beacon_signal::transaction::{self, BuildError};
use beacon_signal::{LeafValue, Root};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, Script, Transaction, TxIn, TxOut, Txid};

use super::{Cohort, Coordinator, Signal, Standing};
use crate::machine::Fund;
use crate::message::SpentOutput;
use crate::review::ignored_live;

/// What one input more costs, vB, rounded up: 57.5 with its signature.
const INPUT_VSIZE: u64 = 58;

/// How the next signal of a cohort is paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Funding {
    /// What it pays, sat/vB.
    pub fee_rate_sat_vb: u64,
    /// Whether there is money for it.
    pub state: FundingState,
    /// Outputs in blocks that are not spent, since each of them alone holds more than the terms' maximum.
    pub too_large: usize,
    /// Outputs in blocks that are not worth what spending them costs.
    pub worthless: usize,
}

/// Whether there is money for a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FundingState {
    /// There is.
    Enough {
        /// What it will pay, sat.
        fee_sat: u64,
    },
    /// There will be, once outputs are in a block: change of the last signal, or deposits.
    Unconfirmed {
        /// What they hold, sat.
        waiting_sat: u64,
    },
    /// There is not.
    Missing {
        /// The least that one output more must hold, sat.
        missing_sat: u64,
        /// What is there and can be spent, sat.
        held_sat: u64,
        /// What waits for a block, and is counted as if it was there, sat.
        waiting_sat: u64,
    },
    /// What is there leaves a transaction free to be mined that members have signed, and so would a deposit.
    Live {
        /// The transaction: until it is buried, or never can be mined.
        txid: Txid,
    },
    /// No deposit can pay: the terms' maximum balance is less than a signal costs.
    Impossible {
        /// What a signal costs at least, sat.
        fee_sat: u64,
    },
}

impl Coordinator {
    /// The transaction that would carry this root, and what it spends, if there is money for it: [`Self::funding`] says what
    /// is missing.
    pub fn build(&self, cohort: &Cohort, root: Root) -> Option<(Transaction, Vec<SpentOutput>)> {
        self.spend(cohort, &cohort.funds, root)
    }

    /// How the next signal is paid for, whatever its root is.
    pub fn funding(&self, cohort: &Cohort) -> Funding {
        let rate = self.fee_rate(cohort);
        let confirmed = || cohort.funds.iter().filter(|fund| fund.height.is_some());
        let max = cohort.terms.max_balance_sat;
        Funding {
            fee_rate_sat_vb: rate,
            state: self.funding_state(cohort),
            too_large: confirmed().filter(|fund| fund.value > max).count(),
            worthless: confirmed().filter(|fund| worthless(fund, rate)).count(),
        }
    }

    fn funding_state(&self, cohort: &Cohort) -> FundingState {
        let any = Root(LeafValue::EMPTY.0);
        if let Some((tx, spent)) = self.build(cohort, any) {
            let spent: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
            let fee_sat = transaction::fee(&tx, &spent).map_or(0, Amount::to_sat);
            return FundingState::Enough { fee_sat };
        }
        let sum = |funds: &[&Fund]| {
            funds
                .iter()
                .fold(0_u64, |sum, fund| sum.saturating_add(fund.value))
        };
        let held_sat = sum(&usable(cohort, &cohort.funds));
        let promised = promised(cohort);
        let waiting_sat = sum(&usable(cohort, &promised)).saturating_sub(held_sat);
        if waiting_sat > 0 && self.spend(cohort, &promised, any).is_some() {
            return FundingState::Unconfirmed { waiting_sat };
        }
        if let Some(missing_sat) = self.missing(cohort, &promised) {
            return FundingState::Missing {
                missing_sat,
                held_sat,
                waiting_sat,
            };
        }
        let fee_sat = self.least_beside(cohort, &[]).unwrap_or_default();
        match cohort.live().last() {
            Some(live) if fee_sat <= cohort.terms.max_balance_sat => {
                let txid = live.compute_txid();
                FundingState::Live { txid }
            }
            _ => FundingState::Impossible { fee_sat },
        }
    }

    /// The least that one confirmed output more must hold so that these and it pay for a signal, sat. `None` where no output
    /// does it.
    fn missing(&self, cohort: &Cohort, funds: &[Fund]) -> Option<u64> {
        let largest = usable(cohort, funds);
        let largest = in_order(largest, |fund| {
            (!cohort.concerns_live(fund), Reverse(fund.value))
        });
        let mut least: Vec<_> = (0..=largest.len().min(cohort.max_inputs()))
            .filter_map(|count| self.least_beside(cohort, largest.get(..count)?))
            .collect();
        least.sort_unstable();
        least.into_iter().find(|sat| {
            let deposit = Fund {
                outpoint: OutPoint::new(Txid::all_zeros(), u32::MAX),
                value: *sat,
                height: Some(u32::MAX),
            };
            let with = [funds, &[deposit]].concat();
            self.spend(cohort, &with, Root(LeafValue::EMPTY.0))
                .is_some()
        })
    }

    /// What an output must hold at least that pays for a signal together with these: no less than nodes relay, and more than
    /// its own input costs.
    fn least_beside(&self, cohort: &Cohort, funds: &[&Fund]) -> Option<u64> {
        let (beacon, rate) = (cohort.beacon.as_ref()?, self.fee_rate(cohort));
        let relayed = beacon.script().minimal_non_dust().to_sat();
        let worth = if funds.is_empty() {
            0
        } else {
            INPUT_VSIZE.saturating_mul(rate).saturating_add(1)
        };
        let empty = Fund {
            outpoint: OutPoint::null(),
            value: 0,
            height: None,
        };
        let inputs = funds
            .iter()
            .copied()
            .chain([&empty])
            .map(|fund| input(fund, beacon.script()));
        match transaction::build_signal(&inputs.collect::<Vec<_>>(), beacon.script(), [0; 32], rate)
        {
            Ok(_) => Some(relayed.max(worth)),
            Err(BuildError::NeedsMore { missing_sat, .. }) => {
                Some(missing_sat.max(relayed).max(worth))
            }
            Err(_) => None,
        }
    }

    /// Builds a transaction of as few of these outputs as pay for it.
    fn spend(
        &self,
        cohort: &Cohort,
        funds: &[Fund],
        root: Root,
    ) -> Option<(Transaction, Vec<SpentOutput>)> {
        let usable = usable(cohort, funds);
        let oldest = in_order(usable.clone(), |fund| {
            let own = cohort.signal(fund.outpoint.txid).is_some();
            (
                !cohort.concerns_live(fund),
                !own,
                fund.height,
                Reverse(fund.value),
            )
        });
        let largest = in_order(usable, |fund| {
            (!cohort.concerns_live(fund), Reverse(fund.value))
        });
        [oldest, largest]
            .iter()
            .find_map(|funds| self.spend_first(cohort, funds, root))
    }

    fn spend_first(
        &self,
        cohort: &Cohort,
        funds: &[&Fund],
        root: Root,
    ) -> Option<(Transaction, Vec<SpentOutput>)> {
        let (beacon, rate) = (cohort.beacon.as_ref()?, self.fee_rate(cohort));
        let live = cohort.live();
        let (mut inputs, mut total) = (Vec::new(), 0_u64);
        for fund in funds {
            let sum = total.saturating_add(fund.value);
            // Members decline to sign with more at once than they agreed to.
            if sum > cohort.terms.max_balance_sat || (worthless(fund, rate) && !inputs.is_empty()) {
                continue;
            }
            if inputs.len() == cohort.max_inputs() {
                break;
            }
            total = sum;
            inputs.push(input(fund, beacon.script()));
            // One that leaves something out may do with the next output.
            if let Ok(tx) = transaction::build_signal(&inputs, beacon.script(), root.0, rate)
                && ignored_live(&tx.input, &live).is_none()
            {
                let spent = inputs.iter().map(|(_, output)| SpentOutput::from(output));
                return Some((tx, spent.collect()));
            }
        }
        None
    }
}

impl Cohort {
    fn max_inputs(&self) -> usize {
        usize::try_from(self.terms.max_inputs).unwrap_or(usize::MAX)
    }

    /// Whether a live transaction spends or makes this output: every later session has to account for it.
    fn concerns_live(&self, fund: &Fund) -> bool {
        let live = self.live();
        let spend = TxIn {
            previous_output: fund.outpoint,
            ..TxIn::default()
        };
        !live.is_empty() && ignored_live(&[spend], &live).is_none()
    }
}

/// Outputs that a signal may spend.
fn usable<'a>(cohort: &Cohort, funds: &'a [Fund]) -> Vec<&'a Fund> {
    let usable = |fund: &&Fund| {
        fund.height.is_some()
            && fund.value <= cohort.terms.max_balance_sat
            && !cohort.is_spent(fund.outpoint)
    };
    funds.iter().filter(usable).collect()
}

/// Whether an output is not worth its input at this fee rate.
pub(super) fn worthless(fund: &Fund, rate: u64) -> bool {
    fund.value <= INPUT_VSIZE.saturating_mul(rate)
}

/// Sorted by a key, without ties.
fn in_order<K: Ord>(mut funds: Vec<&Fund>, key: impl Fn(&Fund) -> K) -> Vec<&Fund> {
    funds.sort_by_cached_key(|fund| (key(fund), fund.outpoint));
    funds
}

/// What will be there once everything that is known is in a block: deposits, and the change of signals, also where the chain
/// source has not listed it yet.
fn promised(cohort: &Cohort) -> Vec<Fund> {
    let mined = |fund: &Fund| Fund {
        height: Some(fund.height.unwrap_or(u32::MAX)),
        ..fund.clone()
    };
    let mut funds: Vec<Fund> = cohort.funds.iter().map(mined).collect();
    let script = cohort
        .beacon
        .as_ref()
        .map(|beacon| beacon.script().to_owned());
    let under_way =
        |signal: &&Signal| matches!(signal.standing, Standing::Signed | Standing::Broadcast);
    for signal in cohort.signals.iter().filter(under_way) {
        for (vout, output) in (0..).zip(&signal.tx.output) {
            let outpoint = OutPoint::new(signal.txid, vout);
            let change = Some(&output.script_pubkey) == script.as_ref();
            if change && funds.iter().all(|fund| fund.outpoint != outpoint) {
                funds.push(Fund {
                    outpoint,
                    value: output.value.to_sat(),
                    height: Some(u32::MAX),
                });
            }
        }
    }
    funds
}

fn input(fund: &Fund, beacon: &Script) -> (OutPoint, TxOut) {
    let output = TxOut {
        value: Amount::from_sat(fund.value),
        script_pubkey: beacon.to_owned(),
    };
    (fund.outpoint, output)
}
