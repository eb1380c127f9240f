//! Cohorts from whose beacon not only all members together can spend: what users are told, and the two spends.

mod calls;
mod coins;
mod fallback;
mod recovery;

use beacon_cohort::ids::CohortId;
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::participant::Membership;
use beacon_cohort::script_path::{Leaf, ScriptPath};
use beacon_cohort::terms::{AgreedTerms, Terms};
use beacon_cohort::values::CohortKey;
use bitcoin::Address;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use calls::call;
pub use fallback::{FallbackCommand, run as fallback};
pub use recovery::{RecoveryCommand, run as recovery};

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

/// What a cohort file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum CohortFileType {
    /// The only version.
    #[serde(rename = "beacon-cohort/cohort/1")]
    V1,
}

/// Everything that a spend by a leaf needs to know of a cohort: any member can write it down for the holder of the recovery
/// key, who need not be one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CohortFile {
    #[serde(rename = "type")]
    file: CohortFileType,
    cohort_id: CohortId,
    terms: AgreedTerms,
    cohort_keys: Vec<CohortKey>,
    beacon_address: String,
}

/// A cohort with its beacon, recomputed.
pub(crate) struct Subject {
    file: CohortFile,
    beacon: BeaconKey,
}

impl CohortFile {
    /// Of a cohort that we agreed to.
    fn of(cohort: &Membership) -> Option<Self> {
        let beacon = cohort.beacon.as_ref()?;
        Some(Self {
            file: CohortFileType::V1,
            cohort_id: cohort.id,
            terms: cohort.terms.clone(),
            cohort_keys: beacon.keys().to_vec(),
            beacon_address: beacon.address(cohort.terms.btc_network.bitcoin()),
        })
    }

    /// Checks that the keys and the terms make the address.
    pub(crate) fn subject(self) -> Result<Subject, String> {
        let keys = self.cohort_keys.len();
        if u64::try_from(keys).unwrap_or(u64::MAX) > Terms::MAX_MEMBERS {
            let max = Terms::MAX_MEMBERS;
            return Err(format!("got {keys} cohort keys, expected at most {max}"));
        }
        let beacon = self.terms.beacon(self.cohort_keys.iter().copied());
        let beacon = beacon.map_err(|error| error.to_string())?;
        let expected = beacon.address(self.terms.btc_network.bitcoin());
        if self.beacon_address != expected {
            return Err(format!(
                "got beacon address {:.100}, the keys and the terms make {expected}",
                self.beacon_address
            ));
        }
        let file = self;
        Ok(Subject { file, beacon })
    }
}

impl Subject {
    fn terms(&self) -> &Terms {
        &self.file.terms
    }

    fn path(&self, wanted: impl Fn(&Leaf) -> bool, name: &str) -> Result<ScriptPath, String> {
        let mut paths = self.beacon.script_paths().into_iter();
        paths.find(|path| wanted(&path.leaf)).ok_or_else(|| {
            format!(
                "the terms of cohort {} have no {name} leaf: nothing but all members' signatures spends from {}",
                self.file.cohort_id, self.file.beacon_address
            )
        })
    }

    fn recovery(&self) -> Result<ScriptPath, String> {
        self.path(|leaf| matches!(leaf, Leaf::Recovery(_)), "recovery")
    }

    fn fallback(&self) -> Result<ScriptPath, String> {
        self.path(|leaf| matches!(leaf, Leaf::Fallback(_)), "fallback")
    }
}
