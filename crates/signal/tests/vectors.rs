//! Published vectors; `vectors/README.md` names their sources.
//!
//! Each test ends by comparing the number of cases it ran with the number of cases in the file. Nothing is excluded.

#![expect(
    clippy::unwrap_used,
    reason = "a vector file that cannot be read is a failed test"
)]

use beacon_signal::{
    Index, LeafValue, NodeHash, Proof, ProofError, Root, SparseMerkleTree, Strictness,
};
use serde_json::Value;

const STRICTNESSES: [Strictness; 2] = [Strictness::Member, Strictness::Resolver];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn proof_in(case: &Value) -> Proof {
    Proof::from_json(&case.to_string()).unwrap()
}

fn index_in(case: &Value) -> Index {
    Index::of_did(case["did"].as_str().unwrap())
}

/// Verifies a complete proof, by both strictnesses, which must agree.
fn verify(proof: &Proof, index: &Index, root: &Root) -> Result<(), ProofError> {
    let [member, resolver] =
        STRICTNESSES.map(|strictness| proof.verify(index, &proof.leaf_value(), root, strictness));
    assert_eq!(member, resolver);
    resolver
}

/// Roots, leaf values and proofs byte for byte, in both directions: the published proofs verify, and the tree built
/// from the published leaves gives the published root and proofs.
#[test]
fn smt_spec_msb() {
    let file = json(include_str!("../vectors/smt/smt-spec-msb.json"));
    let mut run = 0;
    for vector in file["vectors"].as_array().unwrap() {
        let root = Root::from_hex(vector["root_hex"].as_str().unwrap()).unwrap();
        let cases: Vec<_> = vector["proofs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| (case, index_in(case), proof_in(&case["proof"])))
            .collect();
        let tree = SparseMerkleTree::new(
            cases
                .iter()
                .map(|(_, index, proof)| (*index, proof.leaf_value())),
        )
        .unwrap();
        assert_eq!(tree.root(), root);

        for (case, index, published) in cases {
            let leaf = LeafValue::from_hex(case["leaf_hex"].as_str().unwrap()).unwrap();
            assert_eq!(published.leaf_value(), leaf);
            assert_eq!(verify(&published, &index, &root), Ok(()));

            let mut made = tree.proof(&index);
            assert_eq!(
                made.verify(&index, &leaf, &root, Strictness::Member),
                Ok(())
            );
            made.nonce = published.nonce;
            made.update_id = published.update_id;
            assert_eq!(serde_json::to_value(&made).unwrap(), case["proof"]);
            run += 1;
        }
    }
    assert_eq!(run, file.to_string().matches("\"leaf_hex\"").count());
    assert_eq!(run, 5);
}

/// The cached zeros are not public: they show by the one error that only the right value at the right level causes.
#[test]
fn smt_cached_zeros() {
    let file = json(include_str!("../vectors/smt/smt-spec-msb.json"));
    let zeros = file["cachedZero"].as_object().unwrap();
    let mut run = 0;
    for (height, zero) in zeros {
        let zero = Root::from_hex(zero.as_str().unwrap()).unwrap();
        let level = 255 - height.parse::<u8>().unwrap();
        let mut proof = SparseMerkleTree::new([]).unwrap().proof(&Index([0; 32]));
        proof.collapsed.0[usize::from(level / 8)] ^= 0x80 >> (level % 8);
        proof.hashes = vec![NodeHash(zero.0)];
        assert_eq!(
            proof.root_for(&Index([0; 32]), &LeafValue::EMPTY),
            Err(ProofError::ZeroHashListed { level })
        );
        run += 1;
    }
    assert_eq!(zeros["0"].as_str().unwrap(), LeafValue::EMPTY.to_hex());
    assert_eq!(run, zeros.len());
    assert_eq!(run, 3);
}

#[test]
fn specification_example_verifies() {
    let case = json(include_str!("../vectors/smt/spec-example-proof.json"));
    let proof = proof_in(&case["proof"]);
    assert!(case["expected"].as_str().unwrap().starts_with("valid"));
    assert_eq!(verify(&proof, &index_in(&case), &proof.id), Ok(()));
    assert_eq!(serde_json::to_value(&proof).unwrap(), case["proof"]);
}

/// The bit order is all that is wrong with this proof: with the bits of index and bitmap reversed it verifies.
#[test]
fn older_bit_order_is_refused() {
    let case = json(include_str!("../vectors/smt/negative-lsb.json"));
    let (index, mut proof) = (index_in(&case), proof_in(&case["proof"]));
    assert!(case["expected"].as_str().unwrap().starts_with("invalid"));
    assert!(matches!(
        verify(&proof, &index, &proof.id),
        Err(ProofError::RootMismatch { expected, .. }) if expected == proof.id
    ));

    let reversed = |bytes: [u8; 32]| std::array::from_fn(|at| bytes[31 - at].reverse_bits());
    proof.collapsed.0 = reversed(proof.collapsed.0);
    assert_eq!(verify(&proof, &Index(reversed(index.0)), &proof.id), Ok(()));
}

/// One scenario of the did:btcr2 test suite: sidecar, what is on the chain, and whether the proof must verify.
struct Scenario {
    name: &'static str,
    sidecar: &'static str,
    signals: &'static str,
    valid: bool,
}

macro_rules! scenario {
    ($name:literal, $set:literal, $valid:literal) => {
        Scenario {
            name: $name,
            sidecar: include_str!(concat!(
                "../vectors/did-btcr2-test-suite/regtest/x1/",
                $set,
                "/resolve/input.json"
            )),
            signals: include_str!(concat!(
                "../vectors/did-btcr2-test-suite/regtest/x1/",
                $set,
                "/signals.json"
            )),
            valid: $valid,
        }
    };
}

const SCENARIOS: [Scenario; 5] = [
    scenario!("12a, nonce and update", "qfwwah7z", true),
    scenario!("25a, update without nonce", "qfqxmcf0", true),
    scenario!("25b, nonce without update", "qtcszm9j", true),
    scenario!("25c, empty index", "q2tyuy6t", true),
    scenario!("n29, a changed sibling hash", "qgncuznq", false),
];

#[test]
fn test_suite_proofs() {
    let (mut run, mut listed) = (0, 0);
    for Scenario {
        name,
        sidecar,
        signals,
        valid,
    } in SCENARIOS
    {
        let (input, signals) = (json(sidecar), json(signals));
        let index = index_in(&input);
        let proofs = input["resolutionOptions"]["sidecar"]["smtProofs"]
            .as_array()
            .unwrap();
        listed += proofs.len();
        for (published, signal) in proofs.iter().zip(signals.as_array().unwrap()) {
            let root = Root::from_hex(signal["signalBytes"].as_str().unwrap()).unwrap();
            let proof = proof_in(published);
            let verdict = verify(&proof, &index, &root);
            if valid {
                assert_eq!(verdict, Ok(()), "{name}");
            } else {
                assert!(
                    matches!(verdict, Err(ProofError::RootMismatch { .. })),
                    "{name}: {verdict:?}"
                );
            }
            assert_eq!(&serde_json::to_value(&proof).unwrap(), published, "{name}");
            run += 1;
        }
    }
    assert_eq!(run, listed);
    assert_eq!(run, SCENARIOS.len());
}
