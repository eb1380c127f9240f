//! What a cohort's money comes to, for its operator: one line that says what is waited for and what to do.

use beacon_cohort::coordinator::{Cohort, Coordinator, Funding, FundingState, Phase};
use beacon_cohort::ids::PeerId;
use serde_json::{Value, json};

/// Adds to a view of a cohort whether there is money for its next signal.
pub(super) fn describe(machine: &Coordinator, cohort: &Cohort, view: &mut Value) {
    view["funding"] = match &cohort.phase {
        Phase::Advertised => json!("no address yet"),
        Phase::Set => {
            let waiting = cohort
                .members
                .values()
                .filter(|member| !member.acknowledged);
            json!(format!(
                "do not fund yet: {} members have not acknowledged the address",
                waiting.count()
            ))
        }
        Phase::Acknowledged => return describe_next(machine, cohort, view),
        Phase::Failed(reason) => json!(format!("do not fund: {reason}")),
        Phase::Dissolved(reason) => json!(locked(cohort, reason)),
    };
}

fn describe_next(machine: &Coordinator, cohort: &Cohort, view: &mut Value) {
    let funding = machine.funding(cohort);
    let (max, wanted) = (cohort.terms.max_balance_sat, machine.wanted_fee_rate());
    let cap = cohort.terms.max_fee_rate_sat_vb;
    view["funding"] = json!(sentence(&funding, max));
    view["funding_state"] = json!(name(&funding.state));
    view["missing_sat"] = json!(match funding.state {
        FundingState::Missing { missing_sat, .. } => missing_sat,
        _ => 0,
    });
    view["fee_rate_sat_vb"] = json!(funding.fee_rate_sat_vb);
    if wanted > cap {
        let asks = match machine.fee_rate_source() {
            "estimate" => "the network asks for",
            _ => "fee_rate asks for",
        };
        view["fee_warning"] = json!(format!(
            "{asks} {wanted} sat/vB, the terms allow {cap}: signals may wait long for a block"
        ));
    }
}

fn name(state: &FundingState) -> &'static str {
    match state {
        FundingState::Enough { .. } => "enough",
        FundingState::Unconfirmed { .. } => "unconfirmed",
        FundingState::Missing { .. } => "missing",
        FundingState::Live { .. } => "live-transaction",
        FundingState::Impossible { .. } => "impossible",
    }
}

fn sentence(funding: &Funding, max_balance_sat: u64) -> String {
    let rate = funding.fee_rate_sat_vb;
    match &funding.state {
        FundingState::Enough { fee_sat } => {
            format!("enough for the next signal, whose fee will be {fee_sat} sat at {rate} sat/vB")
        }
        FundingState::Unconfirmed { waiting_sat } => format!(
            "waits for a block: {waiting_sat} sat that are not confirmed yet pay for the next signal"
        ),
        FundingState::Missing {
            missing_sat,
            held_sat,
            waiting_sat,
        } => {
            let mut there = vec![match held_sat {
                0 => "nothing is there that can be spent".to_owned(),
                sat => format!("{sat} sat are there"),
            }];
            if *waiting_sat > 0 {
                there.push(format!("{waiting_sat} sat wait for a block"));
            }
            there.extend(left_out(funding, max_balance_sat));
            format!(
                "needs {missing_sat} sat more at {rate} sat/vB: {}; pay that, or more, to the beacon address in one output",
                there.join(", ")
            )
        }
        FundingState::Live { txid } => format!(
            "waits until transaction {txid} is buried, or another one that spends the same: nothing at the address builds on it, and members sign nothing that ignores it"
        ),
        FundingState::Impossible { fee_sat } => format!(
            "cannot be paid for: a signal costs {fee_sat} sat at {rate} sat/vB, and the terms allow {max_balance_sat} sat to be spent: advertise a cohort with a higher max_balance_sat"
        ),
    }
}

/// What is at the address and does not count.
fn left_out(funding: &Funding, max_balance_sat: u64) -> Vec<String> {
    let mut why = Vec::new();
    match funding.too_large {
        0 => {}
        1 => why.push(format!(
            "1 output holds more than the {max_balance_sat} sat of the terms and is not spent"
        )),
        count => why.push(format!(
            "{count} outputs hold more than the {max_balance_sat} sat of the terms each and are not spent"
        )),
    }
    match funding.worthless {
        0 => {}
        1 => why.push("1 output is not worth its fee".to_owned()),
        count => why.push(format!("{count} outputs are not worth their fee")),
    }
    why
}

/// What would free the money of a cohort that is over.
fn locked(cohort: &Cohort, reason: &str) -> String {
    let (balance, members) = (cohort.confirmed_balance(), cohort.members.len());
    let out: Vec<_> = cohort.without.iter().map(PeerId::as_str).collect();
    let out = match out.as_slice() {
        [] => String::new(),
        out => format!(", those of {} included", out.join(", ")),
    };
    let otherwise = match &cohort.terms.script_tree {
        None => "nothing else frees them".to_owned(),
        Some(tree) => format!("or by the script tree: {}", tree.consequences().join("; ")),
    };
    format!(
        "do not fund: {reason}. The {balance} sat there move only in a transaction that all {members} cohort keys sign{out}; \
         {otherwise}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn funding(state: FundingState) -> Funding {
        Funding {
            fee_rate_sat_vb: 5,
            state,
            too_large: 0,
            worthless: 0,
        }
    }

    #[test]
    fn one_line_says_what_is_waited_for_and_what_to_do() {
        let missing = |held_sat, waiting_sat| {
            funding(FundingState::Missing {
                missing_sat: 1_234,
                held_sat,
                waiting_sat,
            })
        };
        let says = |funding: &Funding, words: &str| {
            let sentence = sentence(funding, 900);
            assert!(sentence.contains(words), "{sentence}");
            assert_eq!(sentence.lines().count(), 1);
        };
        says(
            &missing(0, 0),
            "needs 1234 sat more at 5 sat/vB: nothing is there that can be spent; pay that",
        );
        says(
            &missing(7, 9),
            ": 7 sat are there, 9 sat wait for a block; pay",
        );
        let left = Funding {
            too_large: 1,
            worthless: 2,
            ..missing(0, 0)
        };
        says(
            &left,
            "spent, 1 output holds more than the 900 sat of the terms and is not spent, 2 outputs are not worth their fee;",
        );
        says(
            &funding(FundingState::Enough { fee_sat: 8 }),
            "will be 8 sat at 5 sat/vB",
        );
        let waits = FundingState::Unconfirmed { waiting_sat: 30 };
        says(&funding(waits), "waits for a block: 30 sat");
        let impossible = FundingState::Impossible { fee_sat: 901 };
        says(
            &funding(impossible),
            "costs 901 sat at 5 sat/vB, and the terms allow 900 sat",
        );
    }
}
