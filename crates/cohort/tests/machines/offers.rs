//! A signal that is signed and that the network has lost: every member can bring it back, whatever the coordinator does.

use beacon_cohort::coordinator::Command;
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{BroadcastOutcome, ChainFact, Effect, Input, TransactionView};
use beacon_cohort::message::{Message, SignalPublished, SignalStatus};
use beacon_cohort::participant::{Offer, Standing};
use bitcoin::{Transaction, Txid, Witness};

use crate::common::{Mail, World, coordinator_id};

/// A cohort whose signal is published, and its transaction.
fn published(seed: u64) -> (World, CohortId, Transaction) {
    let (mut world, cohort) = World::formed(2, seed);
    world.fund(cohort, 50_000);
    world.operator(Command::StartRound { cohort }).unwrap();
    world.settle();
    let tx = world.cohort(cohort).signals[0].tx.clone();
    (world, cohort, tx)
}

fn offer(world: &World, cohort: CohortId) -> Option<&Offer> {
    world.membership(0, cohort).candidates[0].offer.as_ref()
}

/// What the first member does when its chain source says this of a transaction.
fn sees(world: &mut World, txid: Txid, view: TransactionView) -> Vec<Transaction> {
    let tip = world.chain.tip;
    let fact = ChainFact::Transaction { txid, view, tip };
    let (now, peer) = (world.now, &mut world.peers[0]);
    let effects = peer.node.drive(Input::Chain(fact), now, &mut world.rng);
    let offered = effects
        .unwrap()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Broadcast(tx) => Some(tx),
            _ => None,
        });
    offered.collect()
}

#[test]
fn a_member_offers_what_the_network_forgot_ever_less_often() {
    let (mut world, cohort, tx) = published(1);
    let txid = tx.compute_txid();
    assert_eq!(offer(&world, cohort).map(|offer| &offer.tx), Some(&tx));
    let lost = TransactionView::Unknown;
    assert_eq!(
        sees(&mut world, txid, lost),
        [],
        "the coordinator has a minute"
    );
    assert_eq!(sees(&mut world, txid, TransactionView::Mempool), []);
    for wait in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
        world.now = world.now.after(wait - 1);
        assert_eq!(sees(&mut world, txid, lost), [], "{wait} s");
        world.now = world.now.after(1);
        assert_eq!(
            sees(&mut world, txid, lost),
            std::slice::from_ref(&tx),
            "{wait} s"
        );
        assert_eq!(sees(&mut world, txid, lost), []);
    }
    world.assert_replay_equals_memory();
}

#[test]
fn a_signal_that_left_the_chain_comes_back_without_its_coordinator() {
    let (mut world, cohort, tx) = published(2);
    let txid = tx.compute_txid();
    world.chain.mine();
    world.settle();
    world.chain.reorganise(1, true);
    world.now = world.now.after(60);
    // Only the first member looks.
    world.look_at_chain_from(0);
    let standing = world.membership(0, cohort).candidates[0].standing;
    assert_eq!(standing, Standing::Published);
    assert_eq!(world.chain.transaction(&txid), None);
    world.look_at_chain_from(0);
    assert_eq!(world.chain.transaction(&txid), Some(&tx));
    for _ in 0..7 {
        world.chain.mine();
        world.look_at_chain_from(0);
    }
    let candidate = &world.membership(0, cohort).candidates[0];
    assert!(matches!(candidate.standing, Standing::Buried { .. }));
    assert_eq!(candidate.offer, None, "nothing is left to do");
}

/// The coordinator, or who pretends to be it, hands a transaction of ours with signatures that are not the beacon's.
#[test]
fn nothing_is_offered_that_is_not_signed_by_the_beacon() {
    let (mut world, cohort) = World::formed(2, 3);
    world.fund(cohort, 50_000);
    world.operator(Command::StartRound { cohort }).unwrap();
    let news = |message: &Message| message.kind() == "sign/signal_published";
    let sent = world.settle_until(news);
    let Some(Mail::Message { message, .. }) = sent.into_iter().next() else {
        panic!("no news");
    };
    let Message::SignalPublished(honest) = message else {
        panic!("{message:?}");
    };
    world.mail.clear();
    let good = honest.transaction.input[0].witness.clone();
    let mut bent = good.nth(0).unwrap().to_vec();
    bent[40] ^= 1;
    let bad = [
        Witness::new(),
        Witness::from_slice(&[&bent]),
        Witness::from_slice(&[good.nth(0).unwrap(), &[]]),
    ];
    for witness in bad {
        let mut transaction = honest.transaction.clone();
        transaction.input[0].witness = witness;
        let news = SignalPublished {
            transaction,
            ..honest.clone()
        };
        world.tell(0, &coordinator_id(), news).unwrap();
        assert_eq!(offer(&world, cohort), None);
    }
    // News of its block have it as well.
    let confirmed = SignalPublished {
        status: SignalStatus::Gone,
        ..honest.clone()
    };
    world.tell(0, &coordinator_id(), confirmed).unwrap();
    let kept = offer(&world, cohort).map(|offer| &offer.tx);
    assert_eq!(kept, Some(&honest.transaction));
}

/// The first refusal is written down, and each offer after it.
#[test]
fn a_refusal_is_kept_until_the_next_offer() {
    let (mut world, cohort, tx) = published(4);
    let txid = tx.compute_txid();
    let refused = |reason: &str| {
        let outcome = BroadcastOutcome::Refused(reason.to_owned());
        Input::Chain(ChainFact::Broadcast { txid, outcome })
    };
    world.at_peer(0, refused("mempool full")).unwrap();
    let lines = world.peers[0].node.log.len();
    world.at_peer(0, refused("something else")).unwrap();
    assert_eq!(world.peers[0].node.log.len(), lines);
    let reason = |world: &World| offer(world, cohort).unwrap().refusal.clone();
    assert_eq!(reason(&world).as_deref(), Some("mempool full"));
    world.now = world.now.after(60);
    assert_eq!(sees(&mut world, txid, TransactionView::Unknown), [tx]);
    assert_eq!(reason(&world), None);
    world.assert_replay_equals_memory();
}
