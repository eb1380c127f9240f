//! Cohorts from whose beacon not only all members together can spend: joined by consent only, and signing as every other.

use beacon_cohort::coordinator::{self, Phase, Standing};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{ChainFact, Code, Input, Machine, OutputView, TransactionView};
use beacon_cohort::participant::{Command, Stage};
use beacon_cohort::terms::{ScriptTree, Terms};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, BlockHash, TxOut, Txid};
use serde_json::json;

use crate::common::{World, did};

const KEY: &str = "4f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa";

fn with_both_leaves(terms: &mut Terms, threshold: u16) {
    let tree = json!({
        "recovery": { "key": KEY, "blocks": 144 }, "fallback": { "threshold": threshold },
    });
    terms.script_tree = Some(serde_json::from_value::<ScriptTree>(tree).unwrap());
}

/// An advertised cohort of so many members with both leaves, of which nobody joined without asking.
fn advertised(members: usize, seed: u64) -> (World, CohortId) {
    let mut world = World::new(members, seed);
    let cohort = world.advertise(|terms| {
        terms.min_members = 2;
        with_both_leaves(terms, 2);
    });
    (0..members).for_each(|number| world.subscribe(number));
    world.settle();
    for number in 0..members {
        let membership = world.membership(number, cohort);
        assert_eq!(
            membership.stage,
            Stage::Advertised,
            "by policy, nobody joins"
        );
    }
    (world, cohort)
}

fn join(number: usize, cohort: CohortId, accept_script_tree: bool) -> Command {
    Command::Join {
        cohort,
        dids: vec![did(number)],
        accept_script_tree,
    }
}

/// Joined by everybody, agreed on and funded.
fn formed(members: usize, seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = advertised(members, seed);
    for number in 0..members {
        world.user(number, join(number, cohort, true)).unwrap();
    }
    world.settle();
    world.fund(cohort, 50_000);
    world.settle();
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
    (world, cohort)
}

/// Whoever joins says that it agrees; then everybody computes one address, and signs for it.
#[test]
fn a_cohort_with_a_script_tree_is_joined_by_consent_only() {
    let (mut world, cohort) = advertised(2, 1);
    world.refuses(Code::Terms, |world| world.user(0, join(0, cohort, false)));

    let (mut world, cohort) = formed(2, 1);
    let beacon = world.cohort(cohort).beacon.clone().unwrap();
    assert_eq!(beacon.script_paths().len(), 2);
    let own = world.membership(1, cohort).beacon.clone().unwrap();
    assert_eq!(own, beacon);
    world.request_update(0, cohort, 1);
    world.settle();
    world.chain.mine();
    world.settle();
    let signal = &world.cohort(cohort).signals[0];
    assert!(matches!(signal.standing, Standing::Confirmed { .. }));
    let witness = &signal.tx.input[0].witness;
    assert_eq!((witness.len(), witness.size()), (1, 66), "by the key path");
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

/// Who agreed to a tree joins the cohort that takes the place of the one that had it, without being asked again.
#[test]
fn a_successor_with_the_same_tree_is_joined_like_any_other() {
    let (mut world, cohort) = formed(3, 2);
    let dissolve = |without: usize, world: &World, cohort| coordinator::Command::Dissolve {
        cohort,
        without: [world.peers[without].id.clone()].into(),
        successor: true,
    };
    let command = dissolve(0, &world, cohort);
    world.operator(command).unwrap();
    world.settle();
    let next = world.cohort(cohort).successor.unwrap();
    assert_eq!(world.cohort(next).phase, Phase::Acknowledged);
    assert_eq!(
        world.cohort(next).terms.script_tree,
        world.cohort(cohort).terms.script_tree
    );
}

/// As many as the fallback wants do not stay: a cohort on these terms could not be, and other terms nobody agreed to.
#[test]
fn a_cohort_too_small_for_its_fallback_has_no_successor() {
    let mut world = World::new(3, 3);
    let cohort = world.advertise(|terms| with_both_leaves(terms, 3));
    for number in 0..3 {
        world.subscribe(number);
    }
    world.settle();
    for number in 0..3 {
        world.user(number, join(number, cohort, true)).unwrap();
    }
    world.settle();
    let out = [world.peers[0].id.clone()].into();
    let command = coordinator::Command::Dissolve {
        cohort,
        without: out,
        successor: true,
    };
    world.operator(command).unwrap();
    world.settle();
    assert_eq!(world.cohort(cohort).successor, None);
}

/// Whoever uses the tree spends without us, so that says nothing of our log. What we signed with the same output is live until
/// that spend is buried, and can never be mined then.
#[test]
fn a_spend_by_a_leaf_is_no_sign_of_a_rollback() {
    let (mut world, cohort) = formed(2, 4);
    world.request_update(0, cohort, 1);
    world.settle_until(|message| message.kind() == "sign/signal_published");
    world.mail.clear();
    let live = world.membership(0, cohort).candidates[0].clone();
    let outpoint = live.tx.input[0].previous_output;
    let txid = Txid::all_zeros();
    let output = TxOut {
        value: Amount::from_sat(50_000),
        script_pubkey: world
            .cohort(cohort)
            .beacon
            .as_ref()
            .unwrap()
            .script()
            .to_owned(),
    };
    let watches = world.peers[0].node.machine.watches();
    assert_eq!(
        watches.script_trees,
        std::slice::from_ref(&output.script_pubkey)
    );
    assert!(watches.outpoints.contains(&outpoint));
    let spent = ChainFact::Output {
        outpoint,
        view: OutputView::Seen {
            output,
            confirmations: 1,
            spent_by: Some(txid),
        },
    };
    // A member that is not told of the leaf takes it for a spend of its own that it forgot.
    world.at_peer(1, Input::Chain(spent.clone())).unwrap();
    assert!(world.membership(1, cohort).quarantine.is_some());

    let by_leaf = ChainFact::SpentByLeaf { outpoint, txid };
    for fact in [by_leaf.clone(), spent, by_leaf] {
        world.at_peer(0, Input::Chain(fact)).unwrap();
    }
    let membership = world.membership(0, cohort);
    assert_eq!(membership.quarantine, None);
    assert_eq!(membership.unexplained().count(), 0);
    assert_eq!(membership.spent_by_leaf().count(), 1, "told once");
    assert_eq!(membership.balance_sat(), 0);
    assert_eq!(membership.live().count(), 1);
    let tip = 1 + u32::try_from(membership.terms.confirmations).unwrap();
    let view = TransactionView::Confirmed {
        height: 2,
        block_hash: BlockHash::all_zeros(),
    };
    let buried = ChainFact::Transaction { txid, view, tip };
    world.at_peer(0, Input::Chain(buried)).unwrap();
    assert_eq!(world.membership(0, cohort).live().count(), 0);
    world.assert_replay_equals_memory();
}

/// In a cohort without a tree nobody can spend by a leaf: a source that says so is not believed.
#[test]
fn there_is_no_leaf_where_the_terms_have_none() {
    let (mut world, cohort) = World::formed(2, 5);
    let outpoint = *world.membership(0, cohort).outputs.keys().next().unwrap();
    let txid = Txid::all_zeros();
    assert!(
        world.peers[0]
            .node
            .machine
            .watches()
            .script_trees
            .is_empty()
    );
    let fact = ChainFact::SpentByLeaf { outpoint, txid };
    let before = world.snapshot();
    world.at_peer(0, Input::Chain(fact)).unwrap();
    assert!(world.snapshot() == before);
}
