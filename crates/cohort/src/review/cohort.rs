//! What must hold before a set cohort is acknowledged.

use super::{Check, DeclineCode, Declined, check, ensure, run};
use crate::message::CohortSet;
use crate::musig::{self, BeaconKey};
use crate::terms::Terms;
use crate::values::{CohortKey, TermsHash};

/// What a member holds against a `cohort_set`.
#[derive(Clone, Debug)]
pub struct OptedIn<'a> {
    /// The terms agreed to.
    pub terms: &'a Terms,
    /// Their hash.
    pub terms_hash: TermsHash,
    /// The member's own key.
    pub key: CohortKey,
}

/// What must hold before a set cohort is acknowledged.
fn cohort_checks<'a>() -> Vec<Check<CohortSet, OptedIn<'a>>> {
    vec![
        check(DeclineCode::TermsMismatch, set_on_agreed_terms),
        check(DeclineCode::MemberCount, as_many_as_the_terms_say),
        check(DeclineCode::KeyOrder, keys_sorted),
        check(DeclineCode::DuplicateKey, keys_distinct),
        check(DeclineCode::OwnKeyMissing, own_key_there),
        check(DeclineCode::AddressMismatch, address_recomputed),
    ]
}

/// Checks a set cohort; what comes back is the key that the member computed itself.
pub fn review_cohort(set: &CohortSet, own: &OptedIn<'_>) -> Result<BeaconKey, Declined> {
    run(&cohort_checks(), set, own)?;
    let beacon = own.terms.beacon(set.cohort_keys.iter().copied());
    beacon.map_err(|error| Declined {
        code: DeclineCode::AddressMismatch,
        comment: error.to_string(),
    })
}

fn set_on_agreed_terms(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    ensure(set.terms_hash == own.terms_hash, || {
        format!(
            "got terms hash {}, expected {}",
            set.terms_hash, own.terms_hash
        )
    })
}

fn as_many_as_the_terms_say(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    let count = set.cohort_keys.len() as u64;
    ensure(
        (own.terms.min_members..=own.terms.max_members).contains(&count),
        || {
            format!(
                "got {count} keys, expected {} to {}",
                own.terms.min_members, own.terms.max_members
            )
        },
    )
}

fn keys_sorted(set: &CohortSet, _: &OptedIn<'_>) -> Result<(), String> {
    ensure(set.cohort_keys.is_sorted(), || {
        "got keys in another order than KeySort's".to_owned()
    })
}

fn keys_distinct(set: &CohortSet, _: &OptedIn<'_>) -> Result<(), String> {
    musig::repeated(&set.cohort_keys).map_or(Ok(()), |key| {
        Err(format!("got key {key}, or its negation, twice"))
    })
}

fn own_key_there(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    ensure(set.cohort_keys.contains(&own.key), || {
        format!("got {} keys without our {}", set.cohort_keys.len(), own.key)
    })
}

fn address_recomputed(set: &CohortSet, own: &OptedIn<'_>) -> Result<(), String> {
    // Keys in a wrong number, order or repetition are other checks' business.
    let mut keys = set.cohort_keys.clone();
    keys.sort_unstable_by_key(CohortKey::x_only);
    keys.dedup_by_key(|key| key.x_only());
    let beacon = own.terms.beacon(keys).map_err(|error| error.to_string())?;
    let address = beacon.address(own.terms.btc_network.bitcoin());
    ensure(set.beacon_address == address, || {
        let got: String = set.beacon_address.chars().take(100).collect();
        format!("got address {got:?}, the keys and the terms make {address}")
    })
}
