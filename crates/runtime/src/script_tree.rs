//! Cohorts from whose beacon not only all members together can spend: what users are told.

use beacon_cohort::terms::Terms;
use serde_json::{Value, json};

/// What people must know before they join a cohort, or pay to its address: who can spend from it without the others.
pub(crate) fn warn_of_the_tree(terms: &Terms, answer: &mut Value) {
    if let Some(tree) = &terms.script_tree {
        answer["who_else_can_spend"] = json!(tree.consequences());
    }
}

/// What everybody is told with every balance.
pub(crate) fn at_risk(terms: &Terms, balance_sat: u64, members: usize) -> String {
    let key = format!("{balance_sat} sat: the key is {members} of {members}");
    match &terms.script_tree {
        None => {
            format!("{key}, so one lost key silences the beacon and locks what the address holds")
        }
        Some(tree) => format!(
            "{key}, so one lost key silences the beacon; {}",
            tree.consequences().join("; ")
        ),
    }
}
