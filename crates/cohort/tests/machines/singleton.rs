//! Updates that a DID's own singleton beacon announces: on the disk before they leave, offered until they are buried, alone
//! with their version.

use beacon_cohort::machine::{Code, Rejection};
use beacon_cohort::participant::{Command, SingletonSignal, Standing};
use beacon_signal::{UpdateId, transaction};
use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, Secp256k1, TapTweak as _};
use bitcoin::secp256k1::Message;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid, Witness};

use crate::common::World;

const ONE: UpdateId = UpdateId([1; 32]);
const OTHER: UpdateId = UpdateId([2; 32]);
const SATS: u64 = 10_000;

fn pair() -> Keypair {
    Keypair::from_seckey_slice(&Secp256k1::new(), &[9; 32]).unwrap()
}

fn address() -> ScriptBuf {
    let (key, _) = pair().x_only_public_key();
    ScriptBuf::new_p2tr(&Secp256k1::new(), key, None)
}

/// A signal of the DID's address that is signed.
fn signal(spent: OutPoint, update: UpdateId, fee_rate: u64) -> Transaction {
    let secp = Secp256k1::new();
    let script_pubkey = address();
    let value = Amount::from_sat(SATS);
    let output = TxOut {
        value,
        script_pubkey,
    };
    let inputs = [(spent, output.clone())];
    let mut tx = transaction::build_signal(&inputs, &address(), update.0, fee_rate).unwrap();
    let hash = SighashCache::new(&tx)
        .taproot_key_spend_signature_hash(0, &Prevouts::All(&[output]), TapSighashType::Default)
        .unwrap();
    let message = Message::from_digest(hash.to_byte_array());
    let tweaked = pair().tap_tweak(&secp, None).to_keypair();
    let signature = secp.sign_schnorr_no_aux_rand(&message, &tweaked);
    tx.input[0].witness = Witness::from_slice(&[signature.as_ref()]);
    tx
}

fn announce(
    world: &mut World,
    update: UpdateId,
    version: u64,
    tx: Transaction,
) -> Result<(), Rejection> {
    let did = world.peers[0].did.clone();
    world.user(
        0,
        Command::AnnounceSingleton {
            did,
            update,
            version,
            tx,
        },
    )
}

fn signals(world: &World) -> &[SingletonSignal] {
    &world.peers[0].node.machine.state().singletons
}

fn standing(world: &World, txid: Txid) -> Standing {
    let mut all = signals(world).iter();
    all.find(|signal| signal.txid == txid).unwrap().standing
}

fn funded(world: &mut World) -> OutPoint {
    let outpoint = world.chain.fund(address(), SATS);
    world.chain.mine();
    outpoint
}

fn mine(world: &mut World, blocks: usize) {
    for _ in 0..blocks {
        world.chain.mine();
        world.settle();
    }
}

/// Everything that can become of one: buried after a reorganisation, replaced by somebody else's, refused.
pub(crate) fn golden_run() -> World {
    let mut world = World::new(1, 2_028);
    let (spent, stolen) = (funded(&mut world), funded(&mut world));
    announce(&mut world, ONE, 2, signal(spent, ONE, 1)).unwrap();
    mine(&mut world, 2);
    world.chain.reorganise(2, true);
    world.settle();
    mine(&mut world, 6);
    world.chain.steal(stolen);
    announce(&mut world, OTHER, 3, signal(stolen, OTHER, 1)).unwrap();
    mine(&mut world, 7);
    let nowhere = OutPoint::new(Txid::all_zeros(), 7);
    let third = UpdateId([3; 32]);
    announce(&mut world, third, 4, signal(nowhere, third, 1)).unwrap();
    world.assert_replay_equals_memory();
    world
}

#[test]
fn a_signal_is_followed_until_it_is_buried() {
    let (mut world, _) = World::formed(2, 1);
    let spent = funded(&mut world);
    let tx = signal(spent, ONE, 1);
    let txid = tx.compute_txid();
    announce(&mut world, ONE, 2, tx.clone()).unwrap();
    assert_eq!(standing(&world, txid), Standing::Published);
    assert_eq!(world.chain.transaction(&txid), Some(&tx));
    mine(&mut world, 1);
    assert!(matches!(standing(&world, txid), Standing::Confirmed { .. }));
    mine(&mut world, 4);
    assert!(matches!(standing(&world, txid), Standing::Confirmed { .. }));
    mine(&mut world, 1);
    assert!(matches!(standing(&world, txid), Standing::Buried { .. }));
    let watches = beacon_cohort::machine::Machine::watches(&world.peers[0].node.machine);
    assert!(!watches.transactions.contains(&txid) && !watches.outpoints.contains(&spent));
    world.assert_replay_equals_memory();
}

/// A crash after the commit: nothing was offered yet. A block that is replaced, with a mempool that forgets.
#[test]
fn what_the_network_does_not_know_is_offered_again() {
    let (mut world, _) = World::formed(2, 2);
    let spent = funded(&mut world);
    let tx = signal(spent, ONE, 1);
    let txid = tx.compute_txid();
    let did = world.peers[0].did.clone();
    let signed = beacon_cohort::participant::Event::SingletonSigned {
        did,
        update: ONE,
        tx,
    };
    let line = serde_json::to_string(&signed).unwrap();
    world.peers[0].node.log.push(line);
    world.restart(0);
    assert_eq!(standing(&world, txid), Standing::Live);
    world.settle();
    assert_eq!(standing(&world, txid), Standing::Published);
    mine(&mut world, 2);
    assert!(matches!(standing(&world, txid), Standing::Confirmed { .. }));
    world.chain.reorganise(2, true);
    assert_eq!(world.chain.transaction(&txid), None);
    world.chain.fund(address(), 1); // What paid for it is there again; a block to look at.
    world.settle();
    assert_eq!(standing(&world, txid), Standing::Published);
    mine(&mut world, 6);
    assert!(matches!(standing(&world, txid), Standing::Buried { .. }));
    world.assert_replay_equals_memory();
}

/// The reason is written down once, however often it comes.
#[test]
fn a_refusal_is_told_and_costs_one_line() {
    let (mut world, _) = World::formed(2, 3);
    let nowhere = OutPoint::new(Txid::all_zeros(), 7);
    announce(&mut world, ONE, 2, signal(nowhere, ONE, 1)).unwrap();
    let refused = signals(&world)[0].refusal.clone();
    assert_eq!(refused.as_deref(), Some("missing-inputs"));
    let lines = world.peers[0].node.log.len();
    mine(&mut world, 20);
    assert_eq!(world.peers[0].node.log.len(), lines);
    assert_eq!(signals(&world)[0].standing, Standing::Live);
}

#[test]
fn only_the_transaction_of_the_update_is_taken() {
    let (mut world, _) = World::formed(2, 4);
    let spent = funded(&mut world);
    let tx = signal(spent, ONE, 1);
    let mut hidden = tx.clone();
    hidden.output.push(TxOut {
        value: Amount::ZERO,
        script_pubkey: ScriptBuf::new(),
    });
    let mut empty = tx.clone();
    empty.input.clear();
    for (update, tx) in [(OTHER, tx.clone()), (ONE, hidden), (ONE, empty)] {
        world.refuses(Code::Invalid, |world| announce(world, update, 2, tx));
    }
    world.refuses(Code::Invalid, |world| announce(world, ONE, 1, tx));
}

/// One update of a version, on all beacons of the DID together, in whatever order they are asked for.
#[test]
fn a_cohort_and_a_singleton_beacon_announce_no_two_updates_of_one_version() {
    let (mut world, cohort) = World::formed(2, 5);
    let did = world.peers[0].did.clone();
    let request = |world: &mut World, update, version| {
        let version = Some(version);
        let did = did.clone();
        let command = Command::RequestUpdate {
            cohort,
            did,
            update,
            version,
        };
        world.user(0, command)
    };
    let spent = funded(&mut world);
    announce(&mut world, ONE, 2, signal(spent, ONE, 1)).unwrap();
    let txid = signals(&world)[0].txid;
    let refused = request(&mut world, OTHER, 2).unwrap_err();
    assert!(refused.to_string().contains(&txid.to_string()), "{refused}");
    world.refuses(Code::Conflict, |world| request(world, OTHER, 2));
    // The cohort may announce the same one: if the singleton's never gets into a block, that does.
    request(&mut world, ONE, 2).unwrap();
    mine(&mut world, 7);
    request(&mut world, OTHER, 3).unwrap();
    world.settle();
    let third = UpdateId([3; 32]);
    let spent = funded(&mut world);
    world.refuses(Code::Conflict, |world| {
        announce(world, third, 3, signal(spent, third, 1))
    });
    announce(&mut world, OTHER, 3, signal(spent, OTHER, 1)).unwrap();
    world.assert_replay_equals_memory();
}

/// A higher fee: both spend the same input, so one of them is mined, and the other is over when that is buried.
#[test]
fn a_replacement_spends_the_same_input() {
    let (mut world, _) = World::formed(2, 6);
    world.chain.first_come = true;
    let (spent, elsewhere) = (funded(&mut world), funded(&mut world));
    let (first, second) = (signal(spent, ONE, 1), signal(spent, ONE, 5));
    let txids = [&first, &second].map(Transaction::compute_txid);
    announce(&mut world, ONE, 2, first).unwrap();
    world.refuses(Code::Conflict, |world| {
        announce(world, ONE, 2, signal(elsewhere, ONE, 1))
    });
    announce(&mut world, ONE, 2, second.clone()).unwrap();
    // This chain keeps what it has first; somebody else's has the other one.
    assert_eq!(standing(&world, txids[1]), Standing::Live);
    mine(&mut world, 3);
    assert_eq!(standing(&world, txids[1]), Standing::Live);
    mine(&mut world, 4);
    assert!(matches!(
        standing(&world, txids[0]),
        Standing::Buried { .. }
    ));
    assert_eq!(standing(&world, txids[1]), Standing::Superseded);
    world.assert_replay_equals_memory();
}

/// Another copy of the key spends the output: its update is free again, once that is deep.
#[test]
fn a_signal_whose_input_is_gone_makes_room_when_that_is_buried() {
    let (mut world, _) = World::formed(2, 7);
    let spent = funded(&mut world);
    world.chain.steal(spent);
    announce(&mut world, ONE, 2, signal(spent, ONE, 1)).unwrap();
    world.settle();
    assert!(signals(&world)[0].conflict.is_some());
    let next = funded(&mut world);
    world.refuses(Code::Conflict, |world| {
        announce(world, OTHER, 2, signal(next, OTHER, 1))
    });
    mine(&mut world, 6);
    assert_eq!(signals(&world)[0].standing, Standing::Superseded);
    announce(&mut world, OTHER, 2, signal(next, OTHER, 1)).unwrap();
}

#[test]
fn signals_under_way_and_settled_ones_are_limited() {
    let (mut world, _) = World::formed(2, 8);
    let announce = |world: &mut World, number: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let update = UpdateId(bytes);
        let spent = world.chain.fund(address(), SATS);
        announce(world, update, number + 2, signal(spent, update, 1))
    };
    for number in 0..64 {
        announce(&mut world, number).unwrap();
    }
    let refused = announce(&mut world, 64).unwrap_err();
    assert_eq!(refused.code, Code::Limit, "{refused}");
    mine(&mut world, 7);
    for number in 64..200 {
        announce(&mut world, number).unwrap();
        if number % 32 == 0 {
            mine(&mut world, 7);
        }
    }
    mine(&mut world, 7);
    for number in 200..264 {
        announce(&mut world, number).unwrap();
    }
    let live = signals(&world)
        .iter()
        .filter(|signal| !signal.standing.is_settled());
    assert_eq!((live.count(), signals(&world).len()), (64, 264));
    mine(&mut world, 7);
    announce(&mut world, 264).unwrap();
    assert_eq!(signals(&world).len(), 256);
    world.assert_replay_equals_memory();
}
