//! Cohorts from whose beacon not only all members together can spend: what users are told.

use beacon_cohort::terms::Terms;
use bitcoin::Address;
use serde_json::{Value, json};

/// What people must know before they join a cohort, or pay to its address: who can spend from it without the others.
pub(crate) fn warn_of_the_tree(terms: &Terms, answer: &mut Value) {
    if let Some(tree) = &terms.script_tree {
        answer["who_else_can_spend"] = json!(tree.consequences());
    }
}

/// What people must know before they join a cohort, or pay to its address: where its money goes in the end.
pub(crate) fn warn_of_the_close(terms: &Terms, answer: &mut Value) {
    if let Some(script) = &terms.close_script {
        let network = terms.btc_network.bitcoin();
        let to = Address::from_script(script, network)
            .map_or_else(|_| script.to_hex_string(), |address| address.to_string());
        answer["closes_to"] = json!(format!(
            "{to}: there the coordinator may have all members pay whatever the beacon holds, and then the cohort is over; its DIDs need another beacon"
        ));
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
