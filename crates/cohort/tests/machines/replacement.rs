//! A signal that waits too long for its first confirmation: replaced, mined in one version or the other, and what goes
//! wrong with it.

use beacon_cohort::coordinator::{self, ReplacementError, Signal, Stage, Standing};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Code;
use beacon_cohort::message::SpentOutput;
use beacon_cohort::participant;
use beacon_cohort::terms::Terms;
use beacon_signal::{Index, Strictness, UpdateId, transaction};
use bitcoin::Txid;

use crate::common::{Mail, World, coordinator_id};

const PATIENCE_S: u64 = 600;

/// The only signal so far is signed and known to the network, and was not mined.
fn stuck_with(seed: u64, change: impl FnOnce(&mut Terms)) -> (World, CohortId) {
    let (mut world, cohort) = World::formed_with(3, seed, |terms| {
        terms.patience_s = PATIENCE_S;
        change(terms);
    });
    world.request_update(1, cohort, 7);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    (world, cohort)
}

fn stuck(seed: u64) -> (World, CohortId) {
    stuck_with(seed, |_| {})
}

/// The same, replaced once: the older and the newer version, none of them mined.
fn replaced(seed: u64) -> (World, CohortId, Signal, Signal) {
    let (mut world, cohort) = stuck(seed);
    world.pass(PATIENCE_S);
    world.settle();
    let [old, new] = world.cohort(cohort).signals.clone().try_into().unwrap();
    (world, cohort, old, new)
}

fn bury(world: &mut World) {
    for _ in 0..6 {
        world.chain.mine();
        world.settle();
    }
}

fn fee(signal: &Signal) -> u64 {
    let spent: Vec<_> = signal.spent.iter().map(SpentOutput::to_txout).collect();
    transaction::fee(&signal.tx, &spent).unwrap().to_sat()
}

fn standing(world: &World, cohort: CohortId, txid: Txid) -> Option<Standing> {
    let cohort = world.cohort(cohort);
    cohort.signal(txid).map(|signal| signal.standing)
}

/// How a member sees it.
fn seen(world: &World, number: usize, cohort: CohortId, txid: Txid) -> participant::Standing {
    let candidates = &world.membership(number, cohort).candidates;
    let signed = candidates.iter().find(|signed| signed.txid == txid);
    signed.unwrap().standing
}

/// Every member can prove its leaf with what it keeps of this transaction.
fn assert_proven(world: &World, cohort: CohortId, txid: Txid) {
    for number in 0..world.peers.len() {
        let membership = world.membership(number, cohort);
        let mut signed = membership.candidates.iter();
        let signed = signed.find(|signed| signed.txid == txid).unwrap();
        let mined = world.chain.transaction(&txid).unwrap();
        assert_eq!(
            transaction::signal_bytes(mined),
            signed.root.map(|root| root.0)
        );
        for index in membership.dids.keys() {
            let proof = &signed.proofs[index];
            let wanted = (number == 1).then_some(UpdateId([7; 32]));
            assert_eq!(proof.update_id, wanted);
            let value = proof.leaf_value();
            let proven = proof.verify(index, &value, &signed.root.unwrap(), Strictness::Resolver);
            proven.unwrap();
        }
    }
}

/// Patience is over: the round is signed once more, for a higher fee. What members gave for the next round meanwhile stays,
/// and the next signal builds on the version that was mined. The other one dies when that is buried.
#[test]
fn a_stuck_signal_is_replaced_and_the_next_round_goes_on() {
    let (mut world, cohort) = stuck(1);
    world.pass(PATIENCE_S - 1);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 1, "it is patient");
    world.request_update(0, cohort, 1);
    world.settle();
    let round = world.cohort(cohort).round.clone();
    assert_eq!((round.number, round.updates), (2, 1));
    world.pass(1);
    world.settle();
    assert_eq!(world.cohort(cohort).round, round, "nothing touches it");
    let [old, new] = world.cohort(cohort).signals.clone().try_into().unwrap();
    assert_eq!((new.round, new.root), (old.round, old.root));
    assert_eq!(
        new.tx.input[0].previous_output,
        old.tx.input[0].previous_output
    );
    assert_eq!(new.tx.output[1], old.tx.output[1]);
    let least = fee(&old) + transaction::signed_vsize(&new.tx, &new.spent[0].script);
    assert!(fee(&new) >= least, "{} is not {least}", fee(&new));
    assert_eq!(new.standing, Standing::Broadcast);
    assert!(
        world.chain.transaction(&old.txid).is_none(),
        "its place is taken"
    );
    for number in 0..3 {
        let member = world.membership(number, cohort);
        assert_eq!((member.round, member.live().count()), (2, 2));
        let update = (number == 0).then_some(UpdateId([1; 32]));
        let leaves = member.leaves.values();
        assert!(leaves.map(|leaf| leaf.update).all(|given| given == update));
        assert_eq!(
            seen(&world, number, cohort, new.txid),
            participant::Standing::Published
        );
    }
    world.chain.mine();
    world.settle();
    assert_proven(&world, cohort, new.txid);
    let signals = world.cohort(cohort).signals.clone();
    let [.., next] = signals.as_slice() else {
        panic!("no signals");
    };
    assert_eq!((signals.len(), next.round), (3, 2));
    assert_eq!(next.tx.input[0].previous_output.txid, new.txid);
    bury(&mut world);
    let left = world
        .cohort(cohort)
        .signals
        .iter()
        .map(|signal| signal.txid);
    assert_eq!(left.collect::<Vec<_>>(), [new.txid, next.txid]);
    assert_eq!(
        seen(&world, 1, cohort, old.txid),
        participant::Standing::Superseded
    );
    let queued = |number| world.membership(number, cohort).queued.clone();
    assert!(
        (0..3).all(|number| queued(number).is_empty()),
        "nothing is announced again"
    );
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

/// Each version waits as long as the first, and pays more. At the cap it ends, and the operator is told.
#[test]
fn versions_follow_each_other_up_to_the_cap() {
    let (mut world, cohort) = stuck_with(2, |terms| terms.max_fee_rate_sat_vb = 5);
    for versions in 2..=4 {
        world.pass(PATIENCE_S - 1);
        world.settle();
        assert_eq!(world.cohort(cohort).signals.len(), versions - 1);
        world.pass(1);
        world.settle();
        assert_eq!(world.cohort(cohort).signals.len(), versions);
    }
    let fees: Vec<u64> = world.cohort(cohort).signals.iter().map(fee).collect();
    assert_eq!(fees, [2, 3, 4, 5].map(|rate| 154 * rate));
    let why = |world: &World| {
        let machine = &world.coordinator.machine;
        let (signal, _, hindered) = machine.replacement(world.cohort(cohort)).unwrap();
        (signal.txid, hindered)
    };
    let newest = world.cohort(cohort).signals[3].txid;
    let at_cap = ReplacementError::AtCap { cap: 5, least: 6 };
    assert_eq!(why(&world), (newest, Err(at_cap)));
    world.pass(100 * PATIENCE_S);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 4);
    assert!(world.cohort(cohort).session.is_none());
    world.chain.mine();
    world.settle();
    assert!(
        world
            .coordinator
            .machine
            .replacement(world.cohort(cohort))
            .is_none()
    );
    bury(&mut world);
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
}

/// The older version is mined though the newer one pays more. The next signal builds on it, beside the newer one, which may
/// still be mined after a reorganisation.
#[test]
fn the_older_version_may_be_the_one_that_is_mined() {
    let (mut world, cohort, old, new) = replaced(3);
    world.chain.prefer(old.tx.clone());
    world.chain.mine();
    world.settle();
    assert!(matches!(
        standing(&world, cohort, old.txid),
        Some(Standing::Confirmed { .. })
    ));
    assert_proven(&world, cohort, old.txid);
    world.request_update(2, cohort, 2);
    world.settle();
    let next = world.cohort(cohort).signals.last().unwrap().clone();
    assert_eq!(
        (next.round, next.tx.input[0].previous_output.txid),
        (2, old.txid)
    );
    world.pass(7_200);
    world.settle();
    assert!(
        world.chain.transaction(&new.txid).is_none(),
        "it is not offered beside the other"
    );
    bury(&mut world);
    assert!(standing(&world, cohort, new.txid).is_none());
    assert_eq!(
        seen(&world, 0, cohort, new.txid),
        participant::Standing::Superseded
    );
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

/// A reorganisation takes one version out and another block brings the other. Then it takes both: the newest is offered
/// again, and its patience counts anew.
#[test]
fn a_reorganisation_leads_from_one_version_to_the_other() {
    let (mut world, cohort, old, new) = replaced(4);
    world.chain.prefer(old.tx.clone());
    world.chain.mine();
    world.settle();
    world.chain.reorganise(1, true);
    world.chain.prefer(new.tx.clone());
    world.chain.mine();
    world.settle();
    assert!(matches!(
        standing(&world, cohort, new.txid),
        Some(Standing::Confirmed { .. })
    ));
    let signed = |txid| seen(&world, 1, cohort, txid);
    assert_eq!(signed(old.txid), participant::Standing::Published);
    assert!(matches!(
        signed(new.txid),
        participant::Standing::Confirmed { .. }
    ));
    assert_proven(&world, cohort, new.txid);

    world.now = world.now.after(PATIENCE_S);
    world.chain.reorganise(1, true);
    world.settle();
    assert!(
        world.chain.transaction(&new.txid).is_some(),
        "the newest is offered"
    );
    assert_eq!(
        standing(&world, cohort, new.txid),
        Some(Standing::Broadcast)
    );
    world.pass(PATIENCE_S - 1);
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 2);
    world.pass(1);
    world.settle();
    assert_eq!(
        world.cohort(cohort).signals.len(),
        3,
        "and replaced after its time"
    );
    bury(&mut world);
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

/// While the members sign the replacement, what it would replace is mined: nobody is to blame, and the round that is open
/// goes on.
#[test]
fn a_replacement_ends_without_blame_when_the_old_version_is_mined() {
    for stage in [
        "sign/nonce_contribution",
        "sign/aggregated_nonce",
        "sign/signature_authorization",
    ] {
        let (mut world, cohort) = stuck(5);
        world.pass(PATIENCE_S);
        let late = world.settle_until(|message| message.kind() == stage);
        world.chain.mine();
        world.look_at_chain();
        for mail in late {
            world.deliver(mail);
        }
        world.settle();
        let state = world.cohort(cohort);
        assert_eq!(state.abandoned.len(), 1, "{stage}");
        assert_eq!(state.abandoned[0].code, "replaces-mined");
        assert!(state.strikes.is_empty() && state.session.is_none());
        assert_eq!(
            (state.round.number, &state.round.stage),
            (2, &Stage::Waiting)
        );
        world.request_update(0, cohort, 1);
        world.settle();
        assert_eq!(world.cohort(cohort).signals.last().unwrap().round, 2);
        bury(&mut world);
        assert_eq!(world.cohort(cohort).signals.len(), 2);
        world.assert_replay_equals_memory();
    }
}

/// The operator does not wait, and may name the rate; not one at which no node would take it, nor one above the cap.
#[test]
fn the_operator_replaces_before_patience_is_over() {
    let (mut world, cohort) = stuck(6);
    let command = |fee_rate| coordinator::Command::Replace { cohort, fee_rate };
    for rate in [0, 2, 51] {
        world.refuses(Code::Invalid, |world| world.operator(command(Some(rate))));
    }
    world.operator(command(Some(10))).unwrap();
    world.refuses(Code::Phase, |world| world.operator(command(None)));
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert_eq!((signals.len(), fee(&signals[1])), (2, 1_540));
    world.operator(command(None)).unwrap();
    world.settle();
    assert_eq!(fee(&world.cohort(cohort).signals[2]), 11 * 154);
    world.chain.mine();
    world.settle();
    world.refuses(Code::Phase, |world| world.operator(command(None)));
    let stranger = CohortId(uuid::Uuid::from_u128(9));
    world.refuses(Code::UnknownCohort, |world| {
        let fee_rate = None;
        world.operator(coordinator::Command::Replace {
            cohort: stranger,
            fee_rate,
        })
    });
}

/// A member that declines a replacement is struck as for a signal, and the operator decides about the next try. The open round
/// is not stopped by it.
#[test]
fn a_declined_replacement_waits_for_the_operator_and_stops_no_round() {
    let (mut world, cohort) = stuck(7);
    world.pass(PATIENCE_S);
    for mail in world.settle_until(|message| message.kind() == "sign/authorization_request") {
        world.deliver(mail);
    }
    let session = world.cohort(cohort).session.as_ref().unwrap().id;
    let comment = "too dear".to_owned();
    let decline = participant::Command::Decline { session, comment };
    world.user(0, decline).unwrap();
    world.settle();
    let state = world.cohort(cohort);
    assert_eq!(state.abandoned[0].code, "user");
    assert_eq!(state.round.stage, Stage::Waiting);
    let stopped = &state.signals[0].patience.stopped;
    assert!(
        stopped.as_ref().unwrap().contains("too dear"),
        "{stopped:?}"
    );
    world.pass(10 * PATIENCE_S);
    world.settle();
    assert!(world.cohort(cohort).session.is_none(), "nothing by itself");
    let fee_rate = None;
    let command = coordinator::Command::Replace { cohort, fee_rate };
    world.operator(command).unwrap();
    world.settle();
    assert_eq!(world.cohort(cohort).signals.len(), 2);
    assert_eq!(world.cohort(cohort).members[&world.peers[0].id].strikes, 1);
    world.assert_replay_equals_memory();
}

/// A member is away, and later loses its nonces: tried again after a while, the same transaction each time.
#[test]
fn a_replacement_is_tried_again_after_a_while() {
    let (mut world, cohort) = stuck(8);
    world.pass(PATIENCE_S);
    world.mail.clear(); // Nobody hears of it.
    world.pass(62);
    world.mail.clear();
    let asked = |world: &World| {
        let session = world.cohort(cohort).session.as_ref();
        session.map(|session| session.tx.compute_txid())
    };
    assert_eq!(
        (asked(&world), world.cohort(cohort).round.failures),
        (None, 0)
    );
    world.pass(1);
    assert_eq!(asked(&world), None, "two seconds later");
    world.pass(1);
    let first = asked(&world).unwrap();
    world.mail = world.settle_until(|message| message.kind() == "sign/nonce_contribution");
    world.restart(2);
    world.settle();
    assert_eq!(world.cohort(cohort).abandoned[1].code, "nonce-lost");
    world.pass(4);
    assert_eq!(asked(&world), Some(first));
    world.settle();
    let state = world.cohort(cohort);
    assert_eq!((state.signals.len(), state.signals[1].txid), (2, first));
    assert!(
        state.strikes.is_empty(),
        "one that most members missed, and one that is no fault"
    );
    world.assert_replay_equals_memory();
}

/// Change that cannot pay more is helped by a deposit that comes meanwhile. Until then the operator is told what is missing.
#[test]
fn further_deposits_pay_for_the_replacement() {
    let mut world = World::new(2, 9);
    let cohort = world.advertise(|terms| terms.patience_s = PATIENCE_S);
    (0..2).for_each(|number| world.subscribe(number));
    world.settle();
    world.fund(cohort, 700);
    world.settle();
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.settle();
    world.pass(PATIENCE_S);
    world.settle();
    let [old, new] = world.cohort(cohort).signals.clone().try_into().unwrap();
    assert_eq!(
        (fee(&old), fee(&new)),
        (308, 700),
        "the change was too small"
    );
    assert_eq!((old.tx.output.len(), new.tx.output.len()), (2, 1));
    world.pass(PATIENCE_S);
    world.settle();
    let machine = &world.coordinator.machine;
    let (_, _, hindered) = machine.replacement(world.cohort(cohort)).unwrap();
    let hindered = hindered.unwrap_err().to_string();
    assert!(
        hindered.starts_with("needs 188 sat more at 8 sat/vB"),
        "{hindered}"
    );
    let script = world
        .cohort(cohort)
        .beacon
        .as_ref()
        .unwrap()
        .script()
        .to_owned();
    world.chain.fund(script, 20_000);
    world.chain.mine_but(Some(new.txid));
    world.settle();
    let newest = world.cohort(cohort).signals.last().unwrap().clone();
    assert_eq!((newest.tx.input.len(), newest.tx.output.len()), (2, 2));
    assert_eq!(
        newest.tx.input[0].previous_output,
        old.tx.input[0].previous_output
    );
    let size = transaction::signed_vsize(&newest.tx, &newest.spent[0].script);
    assert!(fee(&newest) >= 700 + size);
    assert_eq!(newest.standing, Standing::Broadcast);
    // The older one is mined after all: the deposit is free for the next signal.
    world.chain.prefer(new.tx.clone());
    world.chain.mine();
    world.settle();
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.settle();
    let state = world.cohort(cohort);
    assert!(
        state.session.is_none(),
        "the newest would still be free to be mined beside it"
    );
    bury(&mut world);
    assert_eq!(world.cohort(cohort).signals.last().unwrap().round, 2);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

/// A DID that was registered after the round was signed has the empty leaf in every version of it.
#[test]
fn a_did_that_came_later_is_proven_to_have_no_leaf() {
    let (mut world, cohort) = stuck(11);
    let did = "did:example:late".to_owned();
    let dids = vec![did.clone()];
    world
        .user(
            0,
            participant::Command::Join {
                cohort,
                dids,
                accept_script_tree: false,
            },
        )
        .unwrap();
    world.settle();
    world.pass(PATIENCE_S);
    world.settle();
    let index = Index::of_did(&did);
    let member = world.membership(0, cohort);
    assert_eq!(member.candidates.len(), 2);
    for signed in &member.candidates {
        let proof = &signed.proofs[&index];
        assert!(proof.nonce.is_none() && proof.update_id.is_none());
        let value = proof.leaf_value();
        let proven = proof.verify(&index, &value, &signed.root.unwrap(), Strictness::Resolver);
        proven.unwrap();
    }
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
}

/// In a CAS cohort the map is the same, and is kept with both.
#[test]
fn a_replacement_in_a_cas_cohort_announces_the_same_map() {
    let (mut world, cohort) = super::cas::formed(3, 12, |terms| terms.patience_s = PATIENCE_S);
    world.request_update(0, cohort, 3);
    world.settle();
    world.pass(PATIENCE_S);
    world.settle();
    for number in 0..3 {
        let [old, new] = world.membership(number, cohort).candidates.as_slice() else {
            panic!("two versions");
        };
        assert!(old.map.is_some() && old.map == new.map);
    }
    bury(&mut world);
    assert_eq!(world.cohort(cohort).signals[0].round, 1);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
}

/// The network will not have the newer version for good: the older one is offered again. Until then it is not.
#[test]
fn an_older_version_is_offered_again_when_the_newer_one_is_refused_for_good() {
    let (mut world, cohort, old, new) = replaced(13);
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.settle();
    world.chain.unwanted.push(new.txid);
    world.chain.evict(new.txid);
    let newer = |world: &World| world.cohort(cohort).signal(new.txid).unwrap().clone();
    for _ in 0..20 {
        world.look_at_chain();
        world.pass(1_000);
        let offered = world.chain.transaction(&old.txid).is_some();
        assert!(!offered || newer(&world).tries >= 5, "{:?}", newer(&world));
        world.mail.clear();
    }
    assert_eq!(
        newer(&world).refusal.as_deref(),
        Some("min relay fee not met")
    );
    assert!(world.chain.transaction(&old.txid).is_some());
}

/// An old copy of a member learns of both versions when it starts: both are live again, with their proofs, and the next
/// round is signed.
#[test]
fn an_old_copy_of_a_member_learns_of_both_versions() {
    let (mut world, cohort) = World::formed_with(3, 14, |terms| terms.patience_s = PATIENCE_S);
    let before = world.peers[1].node.log.len();
    world.request_update(1, cohort, 7);
    world.settle();
    world.pass(PATIENCE_S);
    world.settle();
    let txids: Vec<Txid> = world
        .cohort(cohort)
        .signals
        .iter()
        .map(|signal| signal.txid)
        .collect();
    world.restore(1, before);
    world.settle();
    let member = world.membership(1, cohort);
    let signed: Vec<_> = member.candidates.iter().map(|signed| signed.txid).collect();
    assert_eq!((signed, member.round), (txids, 2));
    assert!(member.candidates.iter().all(|signed| signed.recovered));
    let updates = vec![UpdateId([7; 32])];
    world
        .user(1, participant::Command::FetchProofs { cohort, updates })
        .unwrap();
    world
        .user(1, participant::Command::ConfirmRollback { cohort: None })
        .unwrap();
    world.settle();
    world.pass(PATIENCE_S);
    world.settle();
    let newest = world.cohort(cohort).signals.last().unwrap().txid;
    assert_eq!(world.cohort(cohort).signals.len(), 3, "it signs the third");
    world.chain.mine();
    world.settle();
    assert_proven(&world, cohort, newest);
    world.assert_replay_equals_memory();
}

/// A coordinator that was restarted in the middle goes on with the same session.
#[test]
fn a_coordinator_restarted_in_the_middle_of_a_replacement_goes_on() {
    let (mut world, cohort) = stuck(15);
    world.pass(PATIENCE_S);
    let nonces = world.settle_until(|message| message.kind() == "sign/nonce_contribution");
    world.restart_coordinator();
    world.mail.extend(nonces);
    world.settle();
    let state = world.cohort(cohort);
    assert_eq!((state.signals.len(), state.round.number), (2, 2));
    let asked = |mail: &Mail| matches!(mail, Mail::Message { to, .. } if *to == coordinator_id());
    assert!(!world.mail.iter().any(asked));
    world.assert_replay_equals_memory();
}
