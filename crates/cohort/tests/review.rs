//! One test for each line of the two tables of checks. Each starts from a request that is accepted, with real keys, a
//! real tree and a real transaction, breaks one rule alone, and expects that rule's code.
//!
//! `tests/checks-matter.sh` removes each line of the tables in turn and sees that exactly its test fails. So no test here
//! may break two rules, and a test is named after its code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

use beacon_cohort::DeclineCode;
use beacon_cohort::announcement::Announcement;
use beacon_cohort::ids::{CohortId, SessionId, Timestamp};
use beacon_cohort::machine::OutputView;
use beacon_cohort::message::{AuthorizationRequest, CohortSet, IndexProof, Kind, SpentOutput};
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::participant::Quarantine;
use beacon_cohort::review::{
    OptedIn, OwnLeaf, ProposedSignal, SignalContext, Verdict, review_cohort,
};
use beacon_cohort::signer::{KeyPath, KeyPlace};
use beacon_cohort::terms::{BeaconType, BtcNetwork, Terms};
use beacon_cohort::values::{CohortKey, TermsHash};
use beacon_signal::{
    Index, LeafNonce, LeafValue, NodeHash, Root, SparseMerkleTree, UpdateId, transaction,
};
use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use secp256k1::{PublicKey, SecretKey};
use sha2::Digest as _;
use uuid::Uuid;

fn key(number: u8) -> CohortKey {
    let secret = SecretKey::from_secret_bytes([number; 32]).unwrap();
    PublicKey::from_secret_key(&secret).into()
}

fn terms() -> Terms {
    let mut terms = Terms::new(BtcNetwork::Regtest, 3, Timestamp(1));
    terms.min_members = 2;
    terms
}

// --- A set cohort -----------------------------------------------------------------------------------------------------

const OWN: u8 = 1;
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
    let terms = terms();
    let own = OptedIn {
        terms: &terms,
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

// --- A signal ---------------------------------------------------------------------------------------------------------

const SPENT: Amount = Amount::from_sat(50_000);

/// A request and everything that it is reviewed against.
struct Case {
    request: AuthorizationRequest,
    beacon: BeaconKey,
    terms: Terms,
    round: u64,
    leaves: Vec<(Index, Option<OwnLeaf>)>,
    registering: Vec<Index>,
    live: Vec<Transaction>,
    published: Vec<Transaction>,
    quarantine: Option<Quarantine>,
    signed_roots: Vec<Root>,
    /// Of each input, in their order.
    views: Vec<OutputView>,
}

impl Case {
    /// A member with two DIDs, one updated and one not, in a cohort with one other member.
    fn valid() -> Self {
        let own = |did: &str, update, nonce| {
            let index = Index::of_did(did);
            let nonce = Some(LeafNonce::new([nonce; 32]));
            let leaf = OwnLeaf {
                index,
                update,
                nonce,
            };
            (index, Some(leaf))
        };
        let leaves = vec![
            own("did:example:a", Some(UpdateId([4; 32])), 5),
            own("did:example:b", None, 6),
        ];
        let beacon = BeaconKey::aggregate([key(OWN), key(2)]).unwrap();
        let spent = TxOut {
            value: SPENT,
            script_pubkey: beacon.script().to_owned(),
        };
        let mut case = Self {
            request: AuthorizationRequest {
                session_id: SessionId(Uuid::from_u128(2)),
                cohort_id: CohortId(Uuid::from_u128(1)),
                pending_tx: Transaction {
                    version: Version::TWO,
                    lock_time: LockTime::ZERO,
                    input: Vec::new(),
                    output: Vec::new(),
                },
                kind: Kind::Signal,
                round: 3,
                replaces: None,
                spent_outputs: Vec::new(),
                proofs: Vec::new(),
                map: None,
            },
            beacon,
            terms: terms(),
            round: 3,
            leaves,
            registering: Vec::new(),
            live: Vec::new(),
            published: Vec::new(),
            quarantine: None,
            signed_roots: Vec::new(),
            views: Vec::new(),
        };
        case.build(&spent);
        case
    }

    /// The same in a CAS cohort, whose signal announces an update of another member's DID as well.
    fn cas() -> Self {
        let mut case = Self::valid();
        case.terms.beacon_type = BeaconType::Cas;
        for (_, leaf) in &mut case.leaves {
            leaf.as_mut().unwrap().nonce = None;
        }
        case.request.proofs.clear();
        case.announce(&[("did:example:a", 4), ("did:example:other", 7)]);
        case
    }

    /// A map of these updates, and its hash in the transaction.
    fn announce(&mut self, updates: &[(&str, u8)]) {
        let entry = |(did, update): &(&str, u8)| (did.parse().unwrap(), UpdateId([*update; 32]));
        let map: Announcement = updates.iter().map(entry).collect();
        let root = map.signal_bytes().0;
        self.request.pending_tx.output[1].script_pubkey = ScriptBuf::new_op_return(root);
        self.request.map = Some(map);
    }

    /// The tree over the member's leaves and another's, and the transaction that carries its root.
    fn build(&mut self, spent: &TxOut) {
        let other = (Index::of_did("did:example:other"), LeafValue([7; 32]));
        let own = self.leaves.iter().map(|(index, leaf)| {
            let value = leaf.as_ref().map_or(LeafValue::EMPTY, OwnLeaf::value);
            (*index, value)
        });
        let tree = SparseMerkleTree::new(own.chain([other])).unwrap();
        let outpoint = OutPoint::new(txid(1), 0);
        let inputs = [(outpoint, spent.clone())];
        let script = self.beacon.script();
        self.request.pending_tx =
            transaction::build_signal(&inputs, script, tree.root().0, 2).unwrap();
        self.request.spent_outputs = vec![SpentOutput::from(spent)];
        let own = self.leaves.iter().map(|(index, _)| index);
        self.request.proofs = own
            .chain(&self.registering)
            .map(|index| IndexProof {
                index: *index,
                proof: tree.proof(index),
            })
            .collect();
        self.views = vec![OutputView::Seen {
            output: spent.clone(),
            confirmations: 1,
            spent_by: None,
        }];
    }

    fn review(&self) -> Verdict {
        let leaves = self.leaves.iter();
        let inputs = self.request.pending_tx.input.iter();
        let inputs = inputs.map(|input| input.previous_output);
        let views: Vec<_> = inputs.zip(self.views.iter().cloned()).collect();
        let context = SignalContext {
            cohort: self.request.cohort_id,
            beacon: &self.beacon,
            terms: &self.terms,
            path: KeyPath {
                network: BtcNetwork::Regtest,
                place: KeyPlace::Index(0),
            },
            round: self.round,
            leaves: leaves
                .map(|(index, leaf)| (*index, leaf.as_ref()))
                .collect(),
            registering: self.registering.clone(),
            live: self.live.iter().collect(),
            published: self.published.iter().collect(),
            quarantine: self.quarantine.as_ref(),
            signed_roots: self.signed_roots.clone(),
            views: &views,
        };
        ProposedSignal(self.request.clone()).review(&context)
    }

    fn tx(&mut self) -> &mut Transaction {
        &mut self.request.pending_tx
    }

    fn change(&mut self) -> &mut TxOut {
        &mut self.request.pending_tx.output[0]
    }

    fn set_view(&mut self, value: Amount, script_pubkey: ScriptBuf, confirmations: u32) {
        self.views[0] = OutputView::Seen {
            output: TxOut {
                value,
                script_pubkey,
            },
            confirmations,
            spent_by: None,
        };
    }
}

fn txid(number: u8) -> Txid {
    let mut tx = spending(&[]);
    tx.lock_time = LockTime::from_consensus(number.into());
    tx.compute_txid()
}

fn spending(outpoints: &[OutPoint]) -> Transaction {
    let input = |outpoint: &OutPoint| TxIn {
        previous_output: *outpoint,
        ..TxIn::default()
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: outpoints.iter().map(input).collect(),
        output: Vec::new(),
    }
}

/// The valid case with one thing changed is declined for good, with this code.
#[track_caller]
fn declines(code: DeclineCode, change: impl FnOnce(&mut Case)) {
    let mut case = Case::valid();
    change(&mut case);
    match case.review() {
        Verdict::Decline(declined) => assert_eq!(declined.code, code, "{declined}"),
        other => panic!("expected {code}, got {other:?}"),
    }
}

/// The valid case with one thing changed is waited for, with this code.
#[track_caller]
fn waits(code: DeclineCode, change: impl FnOnce(&mut Case)) {
    let mut case = Case::valid();
    change(&mut case);
    match case.review() {
        Verdict::Wait(declined) => assert_eq!(declined.code, code, "{declined}"),
        other => panic!("expected to wait for {code}, got {other:?}"),
    }
}

#[track_caller]
fn reviewed(case: &Case) {
    match case.review() {
        Verdict::Reviewed(signal) => {
            let root = transaction::signal_bytes(&case.request.pending_tx).unwrap();
            assert_eq!(signal.root(), Root(root));
            assert_eq!(signal.session(), case.request.session_id);
            assert_eq!(signal.cohort(), case.request.cohort_id);
            let spent: Vec<_> = case
                .request
                .spent_outputs
                .iter()
                .map(SpentOutput::to_txout)
                .collect();
            let sighashes = beacon_cohort::musig::sighashes(&case.request.pending_tx, &spent);
            assert_eq!(Some(signal.sighashes().to_vec()), sighashes);
        }
        other => panic!("expected a reviewed signal, got {other:?}"),
    }
}

#[test]
fn reviews_the_valid_signal() {
    reviewed(&Case::valid());
}

/// Dropping change that would be dust is right, and so is an empty leaf where the terms allow it.
#[test]
fn reviews_a_signal_without_change_and_an_allowed_empty_leaf() {
    let mut case = Case::valid();
    let spent = TxOut {
        value: Amount::from_sat(600),
        script_pubkey: case.beacon.script().to_owned(),
    };
    case.terms.empty_leaf_allowed = true;
    case.leaves[1].1 = None;
    case.build(&spent);
    assert_eq!(case.request.pending_tx.output.len(), 1);
    reviewed(&case);
}

/// A retry spends what the live transaction spends; a later round spends its change.
#[test]
fn reviews_what_conflicts_with_live_transactions_or_builds_on_them() {
    let mut case = Case::valid();
    case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
    case.signed_roots = vec![Root(
        transaction::signal_bytes(&case.request.pending_tx).unwrap(),
    )];
    reviewed(&case);
    let (parent, grandparent) = (spending(&[OutPoint::new(txid(2), 0)]), txid(2));
    let mut chain = spending(&[]);
    chain.lock_time = LockTime::from_consensus(2);
    assert_eq!(chain.compute_txid(), grandparent);
    case.request.pending_tx.input[0].previous_output = OutPoint::new(parent.compute_txid(), 0);
    case.live = vec![chain, parent];
    reviewed(&case);
}

#[test]
fn declines_unsupported_kind() {
    for kind in [
        Kind::Replacement,
        Kind::Close,
        Kind::Other("sweep".to_owned()),
    ] {
        declines(DeclineCode::UnsupportedKind, |case| {
            case.request.kind = kind;
        });
    }
    declines(DeclineCode::UnsupportedKind, |case| {
        case.request.replaces = Some(txid(1));
    });
}

#[test]
fn declines_wrong_round() {
    for round in [2, 4] {
        declines(DeclineCode::WrongRound, |case| case.request.round = round);
    }
}

/// One input more, of the same value, all of which comes back.
fn add_input(case: &mut Case, vout: u32) {
    case.terms.max_balance_sat = 10 * SPENT.to_sat();
    let mut more = case.tx().input[0].clone();
    more.previous_output.vout = vout;
    case.tx().input.push(more);
    let spent = case.request.spent_outputs[0].clone();
    case.change().value += SPENT;
    case.request.spent_outputs.push(spent);
    let view = case.views[0].clone();
    case.views.push(view);
}

/// As many as the terms say, and each once: a second nonce for what one signature spends would be for nothing.
#[test]
fn declines_input_count() {
    let with = |case: &mut Case, inputs: u64| {
        (1..inputs).for_each(|vout| add_input(case, u32::try_from(vout).unwrap()));
    };
    let mut case = Case::valid();
    let max = case.terms.max_inputs;
    with(&mut case, max);
    reviewed(&case);
    declines(DeclineCode::InputCount, |case| with(case, max + 1));
    declines(DeclineCode::InputCount, |case| case.tx().input.clear());
    declines(DeclineCode::InputCount, |case| add_input(case, 0));
}

/// What holds for the first input holds for each: one that is wrong, or missing, is enough.
#[test]
fn every_input_is_looked_up() {
    type Spoil = fn(&mut OutputView);
    let cases: [(DeclineCode, bool, Spoil); 5] = [
        (DeclineCode::ChainAmount, false, |view| {
            if let OutputView::Seen { output, .. } = view {
                output.value += Amount::from_sat(1);
            }
        }),
        (DeclineCode::ChainScript, false, |view| {
            if let OutputView::Seen { output, .. } = view {
                output.script_pubkey = ScriptBuf::new();
            }
        }),
        (DeclineCode::ChainSpent, false, |view| {
            if let OutputView::Seen { spent_by, .. } = view {
                *spent_by = Some(txid(9));
            }
        }),
        (DeclineCode::ChainUnseen, true, |view| {
            *view = OutputView::Unseen;
        }),
        (DeclineCode::ChainUnconfirmed, true, |view| {
            if let OutputView::Seen { confirmations, .. } = view {
                *confirmations = 0;
            }
        }),
    ];
    for (code, missing, spoil) in cases {
        let change = |case: &mut Case| {
            add_input(case, 1);
            add_input(case, 2);
            spoil(&mut case.views[2]);
        };
        if missing {
            waits(code, change);
        } else {
            declines(code, change);
        }
    }
    // An answer that says nothing of an input is none.
    waits(DeclineCode::ChainUnseen, |case| {
        add_input(case, 1);
        case.views.pop();
    });
}

#[test]
fn declines_not_unsigned() {
    declines(DeclineCode::NotUnsigned, |case| {
        case.tx().input[0].witness = Witness::from_slice(&[[1; 64]]);
    });
    declines(DeclineCode::NotUnsigned, |case| {
        case.tx().input[0].script_sig = ScriptBuf::from_bytes(vec![0x51]);
    });
}

#[test]
fn declines_spent_output_count() {
    declines(DeclineCode::SpentOutputCount, |case| {
        let spent = case.request.spent_outputs[0].clone();
        case.request.spent_outputs.push(spent);
    });
}

/// A cohort that signs for another script would sign away what it does not mean to.
#[test]
fn declines_foreign_input() {
    declines(DeclineCode::ForeignInput, |case| {
        let foreign = ScriptBuf::from_bytes(vec![0x51]);
        case.request.spent_outputs[0].script = foreign.clone();
        case.set_view(SPENT, foreign, 1);
    });
}

#[test]
fn declines_version() {
    declines(DeclineCode::Version, |case| {
        case.tx().version = Version::ONE;
    });
}

#[test]
fn declines_lock_time() {
    declines(DeclineCode::LockTime, |case| {
        case.tx().lock_time = LockTime::from_consensus(1);
    });
}

#[test]
fn declines_sequence() {
    declines(DeclineCode::Sequence, |case| {
        case.tx().input[0].sequence = Sequence::MAX;
    });
}

/// A resolver reads the last output, and only a push of exactly 32 bytes.
#[test]
fn declines_signal_bytes() {
    declines(DeclineCode::SignalBytes, |case| {
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return([1; 31]);
    });
    declines(DeclineCode::SignalBytes, |case| case.tx().output.swap(0, 1));
}

#[test]
fn declines_signal_value() {
    declines(DeclineCode::SignalValue, |case| {
        case.tx().output[1].value = Amount::from_sat(1);
    });
}

/// A second root, hidden before the one that was reviewed.
#[test]
fn declines_extra_op_return() {
    declines(DeclineCode::ExtraOpReturn, |case| {
        case.change().script_pubkey = ScriptBuf::new_op_return([1; 32]);
    });
}

#[test]
fn declines_output_count() {
    declines(DeclineCode::OutputCount, |case| {
        case.change().value -= Amount::from_sat(1_000);
        let mut second = case.change().clone();
        second.value = Amount::from_sat(1_000);
        case.tx().output.insert(1, second);
    });
}

#[test]
fn declines_foreign_change() {
    declines(DeclineCode::ForeignChange, |case| {
        let foreign = BeaconKey::aggregate([key(5), key(6)]).unwrap();
        case.change().script_pubkey = foreign.script().to_owned();
    });
}

#[test]
fn declines_dust_change() {
    declines(DeclineCode::DustChange, |case| {
        let spent = TxOut {
            value: Amount::from_sat(1_000),
            script_pubkey: case.beacon.script().to_owned(),
        };
        case.build(&spent);
        case.change().value = Amount::from_sat(329);
    });
}

#[test]
fn declines_unbalanced() {
    declines(DeclineCode::Unbalanced, |case| {
        case.change().value = SPENT + Amount::from_sat(1);
    });
}

/// One sat above the cap times the size is too much; the cap itself is not.
#[test]
fn declines_fee_too_high() {
    let at = |case: &mut Case, more: u64| {
        let script = case.request.spent_outputs[0].script.clone();
        let size = transaction::signed_vsize(&case.request.pending_tx, &script);
        let cap = case.terms.max_fee_rate_sat_vb * size;
        case.change().value = SPENT - Amount::from_sat(cap + more);
    };
    let mut case = Case::valid();
    at(&mut case, 0);
    reviewed(&case);
    declines(DeclineCode::FeeTooHigh, |case| at(case, 1));
}

/// More money at once than the terms say, though all of it comes back.
#[test]
fn declines_balance_too_high() {
    let at = |case: &mut Case, max: u64| case.terms.max_balance_sat = max;
    let mut case = Case::valid();
    at(&mut case, SPENT.to_sat());
    reviewed(&case);
    declines(DeclineCode::BalanceTooHigh, |case| {
        at(case, SPENT.to_sat() - 1);
    });
}

/// No proof, one proof twice, or a proof for somebody else's index besides.
#[test]
fn declines_proof_missing() {
    declines(DeclineCode::ProofMissing, |case| {
        case.request.proofs.pop();
    });
    declines(DeclineCode::ProofMissing, |case| {
        case.request.proofs[1] = case.request.proofs[0].clone();
    });
    declines(DeclineCode::ProofMissing, |case| {
        let mut foreign = case.request.proofs[0].clone();
        foreign.index = Index::of_did("did:example:other");
        case.request.proofs.push(foreign);
    });
}

/// The coordinator left an index empty before its member answered.
#[test]
fn declines_leaf_missing() {
    declines(DeclineCode::LeafMissing, |case| {
        case.leaves[1].1 = None;
        let spent = case.request.spent_outputs[0].to_txout();
        case.build(&spent);
    });
}

/// An update left out, an update that nobody asked for, a root of another tree, a proof in another form.
#[test]
fn declines_proof_invalid() {
    declines(DeclineCode::ProofInvalid, |case| {
        case.leaves[0].1.as_mut().unwrap().update = None;
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.leaves[1].1.as_mut().unwrap().update = Some(UpdateId([4; 32]));
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return([1; 32]);
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.request.proofs[0].proof.id = Root([1; 32]);
    });
    declines(DeclineCode::ProofInvalid, |case| {
        case.request.proofs[1].proof.hashes.push(NodeHash([1; 32]));
    });
    // An index that is being registered has no leaf yet, and nobody else may give it one.
    declines(DeclineCode::ProofInvalid, |case| {
        case.registering = vec![Index::of_did("did:example:other")];
        let spent = case.request.spent_outputs[0].to_txout();
        case.build(&spent);
    });
}

/// The coordinator has registered an index, and its word comes after the request.
#[test]
fn accepts_the_empty_leaf_of_an_index_that_is_being_registered() {
    let mut case = Case::valid();
    case.registering = vec![Index::of_did("did:example:late")];
    reviewed(&case); // Not yet registered there.
    let spent = case.request.spent_outputs[0].to_txout();
    case.build(&spent);
    assert_eq!(case.request.proofs.len(), 3);
    reviewed(&case);
}

/// The valid CAS case with one thing changed is declined for good, for a map that is not as it must be.
#[track_caller]
fn declines_map(change: impl FnOnce(&mut Case)) {
    let mut case = Case::cas();
    change(&mut case);
    match case.review() {
        Verdict::Decline(declined) => assert_eq!(declined.code, DeclineCode::MapInvalid),
        other => panic!("got {other:?}"),
    }
}

/// No map, one too many, an update left out, an update that nobody asked for, another's, more entries than members may
/// have, and a hash over another map or another form of it.
#[test]
fn declines_map_invalid() {
    declines_map(|case| case.request.map = None);
    declines(DeclineCode::MapInvalid, |case| {
        case.request.map = Some(Announcement::default());
    });
    declines_map(|case| case.announce(&[("did:example:other", 7)]));
    declines_map(|case| case.announce(&[]));
    declines_map(|case| case.announce(&[("did:example:a", 5)]));
    declines_map(|case| case.announce(&[("did:example:a", 4), ("did:example:b", 4)]));
    declines_map(|case| {
        // An update of a DID that the coordinator was only asked to take.
        case.registering = vec![Index::of_did("did:example:c")];
        case.announce(&[("did:example:a", 4), ("did:example:c", 4)]);
    });
    declines_map(|case| {
        case.terms.max_indexes_per_member = 2;
        let others: Vec<_> = (0..4).map(|other| format!("did:example:{other}")).collect();
        let mut updates: Vec<_> = others.iter().map(|did| (did.as_str(), 7)).collect();
        updates.push(("did:example:a", 4));
        case.announce(&updates);
    });
    declines_map(|case| {
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return([1; 32]);
    });
    declines_map(|case| {
        let json = serde_json::to_string_pretty(&case.request.map).unwrap();
        let hash: [u8; 32] = sha2::Sha256::digest(json).into();
        case.tx().output[1].script_pubkey = ScriptBuf::new_op_return(hash);
    });
}

#[test]
fn a_map_that_says_what_was_asked_for_is_reviewed() {
    let reviewed = |case: &Case| match case.review() {
        Verdict::Reviewed(signal) => signal.root(),
        other => panic!("got {other:?}"),
    };
    let mut case = Case::cas();
    assert_eq!(
        reviewed(&case),
        case.request.map.as_ref().unwrap().signal_bytes()
    );
    // As many entries as there may be.
    case.terms.max_indexes_per_member = 1;
    reviewed(&case);
    // Nobody has an update.
    case.leaves[0].1.as_mut().unwrap().update = None;
    case.announce(&[]);
    reviewed(&case);
}

/// Both could be mined: the one that was signed, and this one beside it.
#[test]
fn declines_live_transaction() {
    declines(DeclineCode::LiveTransaction, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(3), 0)])];
    });
}

/// Whoever takes the inputs of a published signal undoes it, and with it the updates of a round that is over.
#[test]
fn declines_published_signal() {
    declines(DeclineCode::PublishedSignal, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
        case.published = case.live.clone();
    });
}

/// After a rollback: an output that was there may be spent by something that was forgotten. Until the chain has said which
/// were there, that goes for all.
#[test]
fn declines_rolled_back() {
    let quarantine = |outpoint, complete| Quarantine {
        outputs: [outpoint].into(),
        complete,
    };
    let mut case = Case::valid();
    case.quarantine = Some(quarantine(OutPoint::new(txid(9), 0), true));
    reviewed(&case);
    declines(DeclineCode::RolledBack, |case| {
        case.quarantine = Some(quarantine(OutPoint::new(txid(1), 0), true));
    });
    declines(DeclineCode::RolledBack, |case| {
        case.quarantine = Some(quarantine(OutPoint::new(txid(9), 0), false));
    });
}

/// A round has one root. Another would announce other updates under the same leaf nonces.
#[test]
fn declines_other_root() {
    declines(DeclineCode::OtherRoot, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
        case.signed_roots = vec![Root([1; 32])];
    });
}

// The chain: what is wrong is declined at once, though a confirmation is missing as well; what is missing is waited for.

#[test]
fn declines_chain_script() {
    declines(DeclineCode::ChainScript, |case| {
        case.set_view(SPENT, ScriptBuf::from_bytes(vec![0x51]), 0);
    });
}

#[test]
fn declines_chain_amount() {
    declines(DeclineCode::ChainAmount, |case| {
        let script = case.beacon.script().to_owned();
        case.set_view(SPENT - Amount::from_sat(1), script, 0);
    });
}

#[test]
fn declines_chain_spent() {
    let spent_by = |case: &mut Case, spender| {
        let OutputView::Seen { spent_by, .. } = &mut case.views[0] else {
            panic!("the valid case has seen its output");
        };
        *spent_by = Some(spender);
    };
    declines(DeclineCode::ChainSpent, |case| spent_by(case, txid(3)));
    let mut case = Case::valid();
    let itself = case.request.pending_tx.compute_txid();
    spent_by(&mut case, itself);
    reviewed(&case);
}

#[test]
fn declines_chain_unseen() {
    waits(DeclineCode::ChainUnseen, |case| {
        case.views[0] = OutputView::Unseen;
    });
}

#[test]
fn declines_chain_unconfirmed() {
    waits(DeclineCode::ChainUnconfirmed, |case| {
        let script = case.beacon.script().to_owned();
        case.set_view(SPENT, script, 0);
    });
}
