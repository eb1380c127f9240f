//! What users keep in files or send each other: proofs, terms, settings.

use std::io::Write as _;

use beacon_cohort::message::CohortAdvert;
use beacon_cohort::terms::{AgreedTerms, Terms};
use beacon_cohort::values::TermsHash;
use beacon_runtime::settings::Options;
use beacon_signal::{Index, Proof, Root, Strictness};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A proof from anybody. What is accepted is what a second, naive reading of the specification accepts.
pub fn proof(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let proof = match Proof::from_json(text) {
        Ok(proof) => proof,
        Err(error) => {
            assert!(error.to_string().len() < text.len() + 1_024);
            return;
        }
    };
    assert!(proof.hashes.len() <= 256 && text.len() <= Proof::MAX_JSON_LEN);
    let written = serde_json::to_string(&proof).unwrap();
    assert!(written.len() <= Proof::MAX_JSON_LEN);
    assert_eq!(
        Proof::from_json(&written).expect("it can be read again"),
        proof
    );

    let index = Index::of_did("did:example:fuzz");
    let leaf = proof.leaf_value();
    let naive = naive_root(&index.0, leaf.0, &proof);
    let reached = proof.root_for(&index, &leaf).ok().map(|root| root.0);
    assert_eq!(reached, naive, "two readings of one specification");
    for strictness in [Strictness::Member, Strictness::Resolver] {
        let holds = |root| proof.verify(&index, &leaf, root, strictness).is_ok();
        assert_eq!(holds(&proof.id), naive == Some(proof.id.0));
        assert!(naive == Some([7; 32]) || !holds(&Root([7; 32])));
    }
}

/// "SMT Proof Verification", step by step, with nothing shared with the crate.
fn naive_root(index: &[u8; 32], leaf: [u8; 32], proof: &Proof) -> Option<[u8; 32]> {
    let join = |left: [u8; 32], right: [u8; 32]| -> [u8; 32] {
        Sha256::digest([left, right].concat()).into()
    };
    let bit = |bytes: &[u8; 32], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let (mut node, mut zero) = (leaf, join([0; 32], [0; 32]));
    let mut listed = proof.hashes.iter();
    for level in (0..256).rev() {
        let sibling = if bit(&proof.collapsed.0, level) {
            zero
        } else {
            listed.next()?.0
        };
        if sibling == zero && !bit(&proof.collapsed.0, level) {
            return None;
        }
        node = if bit(index, level) {
            join(sibling, node)
        } else {
            join(node, sibling)
        };
        zero = join(zero, zero);
    }
    listed.next().is_none().then_some(node)
}

/// Terms of anybody, alone and in an advert.
pub fn terms(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let terms = match AgreedTerms::parse(value.clone()) {
        Ok(terms) => terms,
        Err(error) => {
            assert!(error.to_string().len() < data.len() + 1_024, "{error}");
            return;
        }
    };
    assert_eq!(*terms.value(), value);
    assert!((1..=Terms::MAX_MEMBERS).contains(&terms.max_members));
    assert!((1..=terms.max_members).contains(&terms.min_members));
    let stored = serde_json::to_value(&terms).unwrap();
    let read: AgreedTerms = serde_json::from_value(stored).expect("terms can be stored");
    assert_eq!(read, terms);
    let defaulted = terms.to_value().expect("accepted terms can be written");
    let (again, _) = Terms::parse(&defaulted).expect("and read again");
    assert_eq!(again, *terms);
    let hash: TermsHash = terms.hash().to_string().parse().unwrap();
    let advert = serde_json::json!({
        "cohort_id": uuid::Uuid::nil(), "btc_network": terms.btc_network, "cohort_size": terms.min_members,
        "beacon_type": terms.beacon_type, "terms": value, "terms_hash": hash,
    });
    let advert: CohortAdvert = serde_json::from_value(advert).unwrap();
    assert_eq!(advert.terms_hash, terms.hash());
}

/// A configuration file: it comes to a configuration, or to one line that names what is wrong.
pub fn config(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    let options = match Options::default().over(&Options::default(), file.path(), true) {
        Ok(options) => options,
        Err(error) => {
            let words = error.to_string();
            assert_eq!(words.lines().count(), 1, "{words}");
            return;
        }
    };
    match options.resolve() {
        Ok(config) => {
            assert!(config.transport.max_frame >= 4_096);
            assert!(config.auto_join.is_none_or(|dids| !dids.is_empty()));
        }
        Err(error) => assert!(error.to_string().contains("expected"), "{error}"),
    }
}
