//! A valid signal, a valid replacement of it, and what comes of them with one thing changed.

use std::borrow::Cow;

use beacon_cohort::DeclineCode;
use beacon_cohort::announcement::Announcement;
use beacon_cohort::ids::{CohortId, SessionId};
use beacon_cohort::machine::OutputView;
use beacon_cohort::message::{AuthorizationRequest, IndexProof, Kind, SpentOutput};
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::participant::Quarantine;
use beacon_cohort::review::{OwnLeaf, ProposedSignal, Replaced, SignalContext, Verdict};
use beacon_cohort::signer::{KeyPath, KeyPlace};
use beacon_cohort::terms::{BeaconType, BtcNetwork, Terms};
use beacon_signal::{Index, LeafNonce, LeafValue, Root, SparseMerkleTree, UpdateId, transaction};
use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid};
use uuid::Uuid;

use super::{OWN, key, terms};

pub(super) const SPENT: Amount = Amount::from_sat(50_000);

/// A request and everything that it is reviewed against.
pub(super) struct Case {
    pub(super) request: AuthorizationRequest,
    pub(super) beacon: BeaconKey,
    pub(super) terms: Terms,
    pub(super) round: u64,
    pub(super) leaves: Vec<(Index, Option<OwnLeaf>)>,
    pub(super) registering: Vec<Index>,
    pub(super) live: Vec<Transaction>,
    pub(super) published: Vec<Transaction>,
    /// What is replaced, and the other versions of it.
    pub(super) replaced: Option<Transaction>,
    pub(super) versions: Vec<Txid>,
    pub(super) mined: Option<Txid>,
    pub(super) unproven: Vec<Index>,
    pub(super) quarantine: Option<Quarantine>,
    pub(super) signed_roots: Vec<Root>,
    /// Of each input, in their order.
    pub(super) views: Vec<OutputView>,
}

impl Case {
    /// A member with two DIDs, one updated and one not, in a cohort with one other member.
    pub(super) fn valid() -> Self {
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
            replaced: None,
            versions: Vec::new(),
            mined: None,
            unproven: Vec::new(),
            quarantine: None,
            signed_roots: Vec::new(),
            views: Vec::new(),
        };
        case.build(&spent);
        case
    }

    /// The same in a CAS cohort, whose signal announces an update of another member's DID as well.
    pub(super) fn cas() -> Self {
        let mut case = Self::valid();
        case.terms.beacon_type = BeaconType::Cas;
        for (_, leaf) in &mut case.leaves {
            leaf.as_mut().unwrap().nonce = None;
        }
        case.request.proofs.clear();
        case.announce(&[("did:example:a", 4), ("did:example:other", 7)]);
        case
    }

    /// A replacement of the valid case's signal, while the member is two rounds further on: a higher fee and one input more.
    pub(super) fn replacement() -> Self {
        let mut case = Self::valid();
        let old = case.request.pending_tx.clone();
        add_input(&mut case, 1);
        case.change().value -= Amount::from_sat(1_000);
        case.request.kind = Kind::Replacement;
        case.request.replaces = Some(old.compute_txid());
        case.round = 5;
        case.live = vec![old.clone()];
        case.versions = vec![old.compute_txid()];
        case.signed_roots = vec![Root(transaction::signal_bytes(&old).unwrap())];
        let [OutputView::Seen { spent_by, .. }, _] = case.views.as_mut_slice() else {
            panic!("two inputs that are seen");
        };
        *spent_by = Some(old.compute_txid());
        case.replaced = Some(old);
        case
    }

    /// A closing spend, which is worth more than the terms' largest balance.
    pub(super) fn close() -> Self {
        let mut case = Self::valid();
        let script = ScriptBuf::from_bytes([&[0x51, 0x20][..], &[9; 32]].concat());
        case.terms.close_script = Some(script.clone());
        case.terms.max_balance_sat = 1_000;
        case.request.kind = Kind::Close;
        case.request.proofs.clear();
        // No leaf was given in this round: nothing is announced.
        case.leaves[1].1 = None;
        let spent = case.request.spent_outputs[0].to_txout();
        let inputs = [(case.request.pending_tx.input[0].previous_output, spent)];
        let built = beacon_signal::build_close(&inputs, case.beacon.script(), &script, 2);
        case.request.pending_tx = built.unwrap();
        case
    }

    /// A map of these updates, and its hash in the transaction.
    pub(super) fn announce(&mut self, updates: &[(&str, u8)]) {
        let entry = |(did, update): &(&str, u8)| (did.parse().unwrap(), UpdateId([*update; 32]));
        let map: Announcement = updates.iter().map(entry).collect();
        let root = map.signal_bytes().0;
        self.request.pending_tx.output[1].script_pubkey = ScriptBuf::new_op_return(root);
        self.request.map = Some(map);
    }

    /// The tree over the member's leaves and another's, and the transaction that carries its root.
    pub(super) fn build(&mut self, spent: &TxOut) {
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

    pub(super) fn review(&self) -> Verdict {
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
                .map(|(index, leaf)| (*index, leaf.as_ref().map(Cow::Borrowed)))
                .collect(),
            registering: self.registering.clone(),
            live: self.live.iter().collect(),
            published: self.published.iter().collect(),
            replaced: self.replaced.as_ref().map(|tx| Replaced {
                tx,
                round: 3,
                versions: self.versions.clone(),
                mined: self.mined,
                unproven: self.unproven.clone(),
            }),
            quarantine: self.quarantine.as_ref(),
            signed_roots: self.signed_roots.clone(),
            views: &views,
        };
        ProposedSignal(self.request.clone()).review(&context)
    }

    pub(super) fn tx(&mut self) -> &mut Transaction {
        &mut self.request.pending_tx
    }

    pub(super) fn change(&mut self) -> &mut TxOut {
        &mut self.request.pending_tx.output[0]
    }
}

pub(super) fn txid(number: u8) -> Txid {
    let mut tx = spending(&[]);
    tx.lock_time = LockTime::from_consensus(number.into());
    tx.compute_txid()
}

pub(super) fn spending(outpoints: &[OutPoint]) -> Transaction {
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
pub(super) fn declines(code: DeclineCode, change: impl FnOnce(&mut Case)) {
    declines_of(Case::valid(), code, change);
}

/// The same of another case.
#[track_caller]
pub(super) fn declines_of(mut case: Case, code: DeclineCode, change: impl FnOnce(&mut Case)) {
    change(&mut case);
    match case.review() {
        Verdict::Decline(declined) => assert_eq!(declined.code, code, "{declined}"),
        other => panic!("expected {code}, got {other:?}"),
    }
}

/// The valid case with one thing changed is waited for, with this code.
#[track_caller]
pub(super) fn waits(code: DeclineCode, change: impl FnOnce(&mut Case)) {
    let mut case = Case::valid();
    change(&mut case);
    match case.review() {
        Verdict::Wait(declined) => assert_eq!(declined.code, code, "{declined}"),
        other => panic!("expected to wait for {code}, got {other:?}"),
    }
}

#[track_caller]
pub(super) fn reviewed(case: &Case) {
    match case.review() {
        Verdict::Reviewed(signal) => {
            let root = transaction::signal_bytes(&case.request.pending_tx);
            assert_eq!(signal.root(), root.map(Root));
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

/// One input more, of the same value, all of which comes back.
pub(super) fn add_input(case: &mut Case, vout: u32) {
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

/// What the chain says of an unspent output.
pub(super) fn seen(value: Amount, script_pubkey: ScriptBuf, confirmations: u32) -> OutputView {
    let output = TxOut {
        value,
        script_pubkey,
    };
    OutputView::Seen {
        output,
        confirmations,
        spent_by: None,
    }
}
