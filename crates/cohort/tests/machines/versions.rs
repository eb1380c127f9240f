//! While an update may be mined, its member announces no other one of the same version of its DID, on any beacon.

use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{Code, Rejection};
use beacon_cohort::message::Message;
use beacon_cohort::participant::{Command, Event, Standing};
use beacon_cohort::terms::Flow;
use beacon_signal::{Index, UpdateId};

use crate::common::World;

const ONE: UpdateId = UpdateId([1; 32]);
const OTHER: UpdateId = UpdateId([2; 32]);

fn request(
    world: &mut World,
    cohort: CohortId,
    update: UpdateId,
    version: Option<u64>,
) -> Result<(), Rejection> {
    let did = world.peers[0].did.clone();
    let command = Command::RequestUpdate {
        cohort,
        did,
        update,
        version,
    };
    world.user(0, command)
}

#[track_caller]
fn conflicts(world: &mut World, cohort: CohortId, update: UpdateId, version: Option<u64>) {
    world.refuses(Code::Conflict, |world| {
        request(world, cohort, update, version)
    });
}

/// Two cohorts of the same members and DIDs; the first is funded.
fn two_beacons(seed: u64) -> (World, CohortId, CohortId) {
    let (mut world, one) = World::formed(2, seed);
    let two = world.advertise(|_| {});
    world.settle();
    (world, one, two)
}

fn mine(world: &mut World, blocks: usize) {
    for _ in 0..blocks {
        world.chain.mine();
        world.settle();
    }
}

/// From its leaf until it is buried, with its version said or not.
#[test]
fn another_update_of_a_version_that_is_live_is_refused() {
    let (mut world, cohort) = World::formed(2, 1);
    request(&mut world, cohort, ONE, Some(2)).unwrap();
    conflicts(&mut world, cohort, OTHER, Some(2));
    world.settle();
    let signed = &world.membership(0, cohort).candidates;
    assert_eq!(signed[0].standing, Standing::Published);
    for version in [Some(2), None] {
        conflicts(&mut world, cohort, OTHER, version);
    }
    let refused = request(&mut world, cohort, OTHER, None).unwrap_err();
    let text = refused.to_string();
    let both = [ONE, OTHER].map(|update| update.to_string());
    assert!(both.iter().all(|update| text.contains(update)), "{text}");
    mine(&mut world, 5);
    conflicts(&mut world, cohort, OTHER, Some(2));
    mine(&mut world, 1);
    request(&mut world, cohort, OTHER, Some(2)).unwrap();
    world.settle();
    world.assert_replay_equals_memory();
}

/// The next version builds on the one that is live; and the same update may be announced as often as one likes.
#[test]
fn another_version_and_the_same_update_are_welcome() {
    let (mut world, cohort) = World::formed(2, 2);
    request(&mut world, cohort, ONE, Some(2)).unwrap();
    world.settle();
    request(&mut world, cohort, ONE, None).unwrap();
    request(&mut world, cohort, OTHER, Some(3)).unwrap();
    let queued = world.membership(0, cohort).leaves.values();
    assert!(queued.clone().any(|leaf| leaf.update.is_some()));
    assert_eq!(world.peers[0].node.machine.state().versions.len(), 2);
}

/// Of an update that was asked for without its version nothing is known.
#[test]
fn an_update_without_a_version_is_alone() {
    let (mut world, cohort) = World::formed(2, 3);
    request(&mut world, cohort, ONE, None).unwrap();
    world.settle();
    conflicts(&mut world, cohort, OTHER, Some(3));
    // The user may say it later.
    request(&mut world, cohort, ONE, Some(2)).unwrap();
    request(&mut world, cohort, OTHER, Some(3)).unwrap();
}

/// What only waits was shown to nobody: in its own cohort a later wish takes its place. In another one both would come to
/// be announced.
#[test]
fn what_waits_elsewhere_is_a_rival_as_well() {
    let (mut world, cohort) = World::formed_with(2, 4, |terms| terms.flow = Flow::Pull);
    let other = world.advertise(|_| {});
    world.settle();
    request(&mut world, cohort, ONE, Some(2)).unwrap();
    conflicts(&mut world, other, OTHER, Some(2));
    request(&mut world, cohort, OTHER, Some(2)).unwrap();
    conflicts(&mut world, other, ONE, Some(2));
    request(&mut world, other, OTHER, Some(2)).unwrap();
    let queued = world.membership(0, cohort).queued.values();
    assert_eq!(queued.copied().collect::<Vec<_>>(), [OTHER]);
}

/// A resolver looks at all beacons of a DID.
#[test]
fn another_beacon_is_no_way_around() {
    let (mut world, one, two) = two_beacons(5);
    request(&mut world, one, ONE, Some(2)).unwrap();
    conflicts(&mut world, two, OTHER, Some(2));
    world.settle();
    conflicts(&mut world, two, OTHER, Some(2));
    request(&mut world, two, ONE, None).unwrap();
    mine(&mut world, 7);
    conflicts(&mut world, one, OTHER, Some(2));
}

/// The first version of a document has no update, and an update leads to one version.
#[test]
fn a_version_that_cannot_be_is_refused() {
    let (mut world, cohort) = World::formed(2, 6);
    for version in [0, 1] {
        world.refuses(Code::Invalid, |world| {
            request(world, cohort, ONE, Some(version))
        });
    }
    request(&mut world, cohort, ONE, Some(2)).unwrap();
    conflicts(&mut world, cohort, ONE, Some(3));
    request(&mut world, cohort, ONE, Some(u64::MAX)).unwrap_err();
}

/// A log of an older version may have two of them waiting: the second gets no leaf while the first is live, in neither flow.
#[test]
fn a_rival_that_waits_already_gets_no_leaf_before_the_first_is_buried() {
    for flow in [Flow::Push, Flow::Pull] {
        let (mut world, one) = World::formed(2, 7);
        let two = world.advertise(|terms| terms.flow = flow);
        world.settle();
        world.fund(two, 50_000);
        request(&mut world, one, ONE, None).unwrap();
        world.settle();
        let index = Index::of_did(&world.peers[0].did);
        let queued = Event::UpdateQueued {
            cohort: two,
            index,
            update: OTHER,
        };
        let peer = &mut world.peers[0].node;
        peer.log.push(serde_json::to_string(&queued).unwrap());
        peer.machine = peer.replayed();
        let start = beacon_cohort::coordinator::Command::StartRound { cohort: two };
        world.operator(start).unwrap();
        world.settle();
        let membership = world.membership(0, two);
        assert_eq!(membership.queued.get(&index), Some(&OTHER), "{flow:?}");
        let announced = |world: &World| {
            let candidates = world.membership(0, two).candidates.iter();
            let updates = candidates.flat_map(|signed| signed.updates().collect::<Vec<_>>());
            updates.map(|(_, update)| update).collect::<Vec<_>>()
        };
        assert_eq!(announced(&world), []);
        assert_eq!(membership.candidates.len(), 1, "signed with no update");
        mine(&mut world, 7);
        let start = beacon_cohort::coordinator::Command::StartRound { cohort: two };
        world.operator(start).unwrap();
        world.settle();
        assert_eq!(announced(&world), [OTHER], "{flow:?}");
    }
}

/// What a dissolved cohort did not announce stays where it is, while the cohort that follows would have to announce it beside
/// another one.
#[test]
fn a_dissolved_cohorts_update_is_not_moved_beside_a_rival() {
    let (mut world, cohort) = World::formed_with(2, 8, |terms| terms.flow = Flow::Pull);
    let other = world.advertise(|_| {});
    world.settle();
    world.fund(other, 50_000);
    request(&mut world, cohort, ONE, Some(2)).unwrap();
    let dissolve = beacon_cohort::coordinator::Command::Dissolve {
        cohort,
        without: [].into(),
        successor: true,
    };
    world.operator(dissolve).unwrap();
    let adverts = |message: &Message| message.kind() == "keygen/cohort_advert";
    let kept = world.settle_until(adverts);
    world.settle();
    // It is not waited for there any more.
    request(&mut world, other, OTHER, Some(2)).unwrap();
    world.mail.extend(kept);
    world.settle();
    let state = world.peers[0].node.machine.state();
    let successor = state.cohorts.values().find(|next| next.succeeds.is_some());
    let successor = successor.expect("it was joined").handle;
    assert_eq!(world.membership(0, successor).queued.len(), 0);
    assert_eq!(world.membership(0, cohort).queued.len(), 1);
}
