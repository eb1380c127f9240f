//! The checks of a set cohort.

use beacon_cohort::DeclineCode;
use beacon_cohort::ids::CohortId;
use beacon_cohort::message::CohortSet;
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::review::{OptedIn, review_cohort};
use beacon_cohort::terms::{ScriptTree, Terms};
use beacon_cohort::values::{CohortKey, TermsHash};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{OWN, key, terms};

const TERMS_HASH: TermsHash = TermsHash([9; 32]);

fn set_of(numbers: &[u8]) -> CohortSet {
    let beacon = BeaconKey::aggregate(numbers.iter().copied().map(key)).unwrap();
    CohortSet {
        cohort_id: CohortId(Uuid::from_u128(1)),
        beacon_address: beacon.address(bitcoin::Network::Regtest),
        cohort_keys: beacon.keys().to_vec(),
        terms_hash: TERMS_HASH,
    }
}

fn review_set(set: &CohortSet) -> Result<BeaconKey, DeclineCode> {
    review_on(set, &terms())
}

fn review_on(set: &CohortSet, terms: &Terms) -> Result<BeaconKey, DeclineCode> {
    let own = OptedIn {
        terms,
        terms_hash: TERMS_HASH,
        key: key(OWN),
    };
    review_cohort(set, &own).map_err(|declined| declined.code)
}

#[test]
fn accepts_the_valid_cohort() {
    let set = set_of(&[OWN, 2]);
    let beacon = review_set(&set).unwrap();
    assert_eq!(beacon.keys(), set.cohort_keys);
}

#[test]
fn declines_terms_mismatch() {
    let mut set = set_of(&[OWN, 2]);
    set.terms_hash = TermsHash([8; 32]);
    assert_eq!(review_set(&set), Err(DeclineCode::TermsMismatch));
}

#[test]
fn declines_member_count() {
    for numbers in [&[OWN][..], &[OWN, 2, 3, 4]] {
        assert_eq!(review_set(&set_of(numbers)), Err(DeclineCode::MemberCount));
    }
}

#[test]
fn declines_key_order() {
    let mut set = set_of(&[OWN, 2]);
    set.cohort_keys.reverse();
    assert_eq!(review_set(&set), Err(DeclineCode::KeyOrder));
}

/// A key that stands twice would let its holder speak for two.
#[test]
fn declines_duplicate_key() {
    let mut set = set_of(&[OWN, 2]);
    set.cohort_keys.push(key(2));
    set.cohort_keys.sort_unstable();
    assert_eq!(review_set(&set), Err(DeclineCode::DuplicateKey));
    // Scripts know keys by their x coordinate: a key and its negation are one.
    let mut negated = key(2).to_bytes();
    negated[0] ^= 1;
    let mut set = set_of(&[OWN, 2]);
    set.cohort_keys
        .push(CohortKey::from_bytes(&negated).unwrap());
    set.cohort_keys.sort_unstable();
    assert_eq!(review_set(&set), Err(DeclineCode::DuplicateKey));
}

#[test]
fn declines_own_key_missing() {
    let set = set_of(&[2, 3]);
    assert_eq!(review_set(&set), Err(DeclineCode::OwnKeyMissing));
}

/// An address with a hidden script path, with another key, or on another network is not the one that the keys make.
#[test]
fn declines_address_mismatch() {
    let mut other = set_of(&[OWN, 2]);
    other.beacon_address = set_of(&[OWN, 3]).beacon_address;
    assert_eq!(review_set(&other), Err(DeclineCode::AddressMismatch));
    let beacon = BeaconKey::aggregate([key(OWN), key(2)]).unwrap();
    other.beacon_address = beacon.address(bitcoin::Network::Bitcoin);
    assert_eq!(review_set(&other), Err(DeclineCode::AddressMismatch));
}

/// A tree that the terms do not have, one that lacks a leaf of theirs, and one with another key, age or threshold.
#[test]
fn declines_an_address_with_another_tree() {
    let tree = |tree: Value| serde_json::from_value::<ScriptTree>(tree).unwrap();
    let recovery = |number: u8, blocks: u16| {
        let key = hex::encode(key(number).x_only());
        json!({ "key": key, "blocks": blocks })
    };
    let agreed = tree(json!({ "recovery": recovery(9, 144), "fallback": { "threshold": 1 } }));
    let others = [
        None,
        Some(tree(json!({ "recovery": recovery(9, 144) }))),
        Some(tree(json!({ "fallback": { "threshold": 1 } }))),
        Some(tree(
            json!({ "recovery": recovery(8, 144), "fallback": { "threshold": 1 } }),
        )),
        Some(tree(
            json!({ "recovery": recovery(9, 143), "fallback": { "threshold": 1 } }),
        )),
        Some(tree(
            json!({ "recovery": recovery(9, 144), "fallback": { "threshold": 2 } }),
        )),
    ];
    let set_with = |tree: Option<&ScriptTree>| {
        let beacon = BeaconKey::with_tree([key(OWN), key(2)], tree).unwrap();
        let mut set = set_of(&[OWN, 2]);
        set.beacon_address = beacon.address(bitcoin::Network::Regtest);
        set
    };
    let mut terms = terms();
    let refused = Err(DeclineCode::AddressMismatch);
    assert_eq!(review_on(&set_with(Some(&agreed)), &terms), refused);
    terms.script_tree = Some(agreed.clone());
    let beacon = review_on(&set_with(Some(&agreed)), &terms).unwrap();
    assert_eq!(beacon.script_paths().len(), 2);
    for other in others {
        assert_eq!(review_on(&set_with(other.as_ref()), &terms), refused);
    }
}
