//! CAS cohorts: the same rounds and sessions, with a map in the open in the place of a tree.

use std::collections::BTreeMap;

use beacon_cohort::announcement::{AnnouncedDid, Announcement};
use beacon_cohort::coordinator::{self, Coordinator, Phase, Stage, Standing};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::{Code, Machine};
use beacon_cohort::message::{
    AuthorizationRequest, Leaf, Message, NoUpdate, RequestSignature, UpdateOpportunity,
};
use beacon_cohort::participant;
use beacon_cohort::terms::{BeaconType, Terms};
use beacon_signal::{Index, LeafValue, UpdateId, transaction};
use bitcoin::ScriptBuf;
use bitcoin::hashes::Hash as _;
use serde_json::json;

use super::golden;
use crate::common::{Mail, World, coordinator_id, did, participant as new_participant};

/// A CAS cohort that is agreed on, funded and idle. Its members joined by hand.
pub(crate) fn formed(
    members: usize,
    seed: u64,
    change: impl FnOnce(&mut Terms),
) -> (World, CohortId) {
    let mut world = World::new(members, seed);
    let cohort = world.advertise(|terms| {
        terms.beacon_type = BeaconType::Cas;
        change(terms);
    });
    (0..members).for_each(|number| world.subscribe(number));
    world.settle();
    for number in 0..members {
        let dids = vec![did(number), second(number)];
        world
            .user(
                number,
                participant::Command::Join {
                    cohort,
                    dids,
                    accept_script_tree: false,
                },
            )
            .unwrap();
    }
    world.settle();
    world.fund(cohort, 50_000);
    world.settle();
    assert_eq!(world.cohort(cohort).phase, Phase::Acknowledged);
    (world, cohort)
}

/// Every member answers for two DIDs.
fn second(number: usize) -> String {
    format!("{}-too", did(number))
}

fn map(updates: &[(String, u8)]) -> Announcement {
    let entry = |(did, update): &(String, u8)| (named(did), UpdateId([*update; 32]));
    updates.iter().map(entry).collect()
}

fn named(did: &str) -> AnnouncedDid {
    did.parse().unwrap()
}

fn mine(world: &mut World) {
    world.settle();
    world.chain.mine();
    world.settle();
}

/// What one member is asked to sign, taken out of the mail with all other requests.
fn asked(world: &mut World, number: usize) -> AuthorizationRequest {
    let mails = world.settle_until(|message| matches!(message, Message::AuthorizationRequest(_)));
    world.mail.clear();
    let own = mails.into_iter().find_map(|mail| match mail {
        Mail::Message {
            to,
            message: Message::AuthorizationRequest(body),
            ..
        } if world.number_of(&to) == Some(number) => Some(body),
        _ => None,
    });
    own.unwrap()
}

/// Two members announce, one of them twice in a row; a third has nothing. Everybody keeps each round's map, whose hash is what
/// the chain carries.
#[test]
fn two_maps_in_a_row_are_signed_mined_and_kept_by_all() {
    let (mut world, cohort) = formed(3, 1, |terms| terms.trigger_updates = 2);
    world.request_update(1, cohort, 7);
    world.request_update(2, cohort, 8);
    mine(&mut world);
    world.request_update(1, cohort, 9);
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    mine(&mut world);
    let maps = [map(&[(did(1), 7), (did(2), 8)]), map(&[(did(1), 9)])];
    let signals = &world.cohort(cohort).signals;
    assert_eq!(signals.len(), 2);
    for number in 0..3 {
        let candidates = &world.membership(number, cohort).candidates;
        assert_eq!(candidates.len(), 2);
        for (candidate, expected) in candidates.iter().zip(&maps) {
            assert_eq!(candidate.map.as_ref(), Some(expected));
            assert!(candidate.proofs.is_empty());
            let mined = world.chain.transaction(&candidate.txid).unwrap();
            let root = transaction::signal_bytes(mined).unwrap();
            assert_eq!(root, expected.signal_bytes().0);
        }
    }
    assert!(matches!(signals[1].standing, Standing::Confirmed { .. }));
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
    world.assert_replay_equals_memory();
}

/// A round that the operator wants though nobody has an update announces the empty map.
#[test]
fn a_round_without_updates_announces_the_empty_map() {
    let (mut world, cohort) = formed(2, 2, |_| {});
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    let (mut said, mut asked) = (0, 0);
    world.settle_watched(|_, mail| match mail {
        Mail::Message {
            message: Message::NoUpdate(body),
            ..
        } => {
            assert!(body.leaves.is_empty(), "no_update names nothing");
            said += 1;
        }
        Mail::Message {
            message: Message::AuthorizationRequest(body),
            ..
        } => {
            assert_eq!(body.map, Some(Announcement::default()));
            asked += 1;
        }
        _ => {}
    });
    assert_eq!((said, asked), (2, 2));
    assert_eq!(world.cohort(cohort).signals.len(), 1);
    assert!(world.rejections.is_empty(), "{:?}", world.rejections);
}

/// Whoever reads a map learns which DIDs are updated, so nobody is taken into a CAS cohort without being asked; into its
/// successor, whose members agreed to that before, they are.
#[test]
fn a_cas_cohort_is_never_joined_without_asking() {
    let mut world = World::new(2, 3);
    let cohort = world.advertise(|terms| terms.beacon_type = BeaconType::Cas);
    let smt = world.advertise(|_| {});
    (0..2).for_each(|number| world.subscribe(number));
    world.settle();
    let stage = |world: &World, cohort| world.membership(0, cohort).stage.clone();
    assert_eq!(stage(&world, cohort), participant::Stage::Advertised);
    assert_eq!(stage(&world, smt), participant::Stage::Agreed);
    // And a DID that cannot stand in a map cannot join one.
    for odd in [format!("did:x:{}", "a".repeat(130)), "did:x:a b".to_owned()] {
        let command = participant::Command::Join {
            cohort,
            dids: vec![odd],
            accept_script_tree: false,
        };
        world.refuses(Code::Invalid, |world| world.user(0, command));
    }

    let (mut world, cohort) = formed(3, 4, |_| {});
    let without = [world.peers[2].id.clone()].into();
    let dissolve = coordinator::Command::Dissolve {
        cohort,
        without,
        successor: true,
    };
    world.operator(dissolve).unwrap();
    world.settle();
    let successor = world.cohort(cohort).successor.unwrap();
    assert_eq!(world.cohort(successor).phase, Phase::Acknowledged);
    assert_eq!(world.cohort(successor).terms.beacon_type, BeaconType::Cas);
}

/// The coordinator leaves an update out, puts one in, changes one, says it of another of our DIDs, or signs for another map.
/// Every such request is declined, and no nonce is made.
#[test]
fn a_map_that_is_not_what_was_asked_for_is_declined() {
    let (mut world, cohort) = formed(2, 5, |_| {});
    world.request_update(0, cohort, 1);
    let honest = asked(&mut world, 0);
    assert_eq!(honest.map, Some(map(&[(did(0), 1)])));
    let own = (did(0), 1);
    let mut tampered = vec![
        None,
        Some(map(&[])),
        Some(map(&[(did(0), 2)])),
        Some(map(&[own.clone(), (second(0), 1)])),
        Some(map(&[(second(0), 1)])),
    ];
    let crowd = |number| (format!("did:example:{number}"), 3);
    tampered.push(Some(map(&(0..40)
        .map(crowd)
        .chain([own.clone()])
        .collect::<Vec<_>>())));
    let mut requests: Vec<AuthorizationRequest> = tampered
        .into_iter()
        .map(|map| {
            let mut request = honest.clone();
            if let Some(map) = &map {
                let script = ScriptBuf::new_op_return(map.signal_bytes().0);
                request.pending_tx.output[1].script_pubkey = script;
            }
            request.map = map;
            request
        })
        .collect();
    // The map is right, the signal bytes are another's.
    let mut other_root = honest.clone();
    other_root.pending_tx.output[1].script_pubkey = ScriptBuf::new_op_return([9; 32]);
    requests.push(other_root);
    for (number, mut request) in (0_u128..).zip(requests) {
        request.session_id = beacon_cohort::ids::SessionId(uuid::Uuid::from_u128(number));
        world.tell(0, &coordinator_id(), request).unwrap();
        world.look_at_chain_from(0);
        // Where our update is missing, it may have been lost: our leaves go once more, before the decline.
        let mut answers: Vec<_> = std::mem::take(&mut world.mail);
        let Some(Mail::Message {
            message: Message::Decline(decline),
            ..
        }) = answers.pop()
        else {
            panic!("{number}: expected a decline");
        };
        let again = answers.iter().map(|mail| match mail {
            Mail::Message { message, .. } => message.kind(),
            Mail::Problem { rejection, .. } => panic!("{number}: {rejection}"),
        });
        let again: Vec<_> = again.collect();
        assert!(
            again.is_empty() || again == ["sign/request_signature", "sign/no_update"],
            "{number}: {again:?}"
        );
        assert_eq!(decline.code, "map-invalid", "{number}: {}", decline.comment);
        assert!(world.membership(0, cohort).candidates.is_empty());
    }
    world.tell(0, &coordinator_id(), honest).unwrap();
    world.look_at_chain_from(0);
    assert!(matches!(
        &world.mail[..],
        [Mail::Message {
            message: Message::NonceContribution(_),
            ..
        }]
    ));
}

/// Leaves of the wrong form, of DIDs that the member does not answer for, or that change what was said.
#[test]
fn leaves_that_a_cas_cohort_does_not_take() {
    let (mut world, cohort) = formed(2, 6, |terms| terms.trigger_updates = 4);
    let from = world.peers[0].id.clone();
    let request = |leaves: Vec<Leaf>| RequestSignature {
        cohort_id: cohort,
        data: leaves.first().map_or(LeafValue::EMPTY, |leaf| leaf.value),
        round: 1,
        leaves,
    };
    let announced = |did: &str, update| Leaf::announced(named(did), UpdateId([update; 32]));
    let blinded = Leaf::blinded(Index::of_did(&did(0)), LeafValue([1; 32]));
    let nothing = Leaf::announced(named(&did(0)), UpdateId(LeafValue::EMPTY.0));
    for (code, leaves) in [
        (Code::Malformed, vec![blinded.clone()]),
        (
            Code::Malformed,
            vec![announced(&did(0), 1), blinded.clone()],
        ),
        (Code::Malformed, vec![nothing]),
        (Code::UnknownIndex, vec![announced(&did(1), 1)]),
        (
            Code::UnknownIndex,
            vec![announced("did:example:unheard-of", 1)],
        ),
        (Code::Conflict, vec![]),
        (
            Code::Conflict,
            vec![announced(&did(0), 1), announced(&did(0), 2)],
        ),
    ] {
        world.refuses(code, |world| world.tell_coordinator(&from, request(leaves)));
    }
    let no_update = |leaves| NoUpdate {
        cohort_id: cohort,
        round: 1,
        leaves,
    };
    world.refuses(Code::IndexCount, |world| {
        world.tell_coordinator(&from, no_update(vec![blinded]))
    });
    let first = request(vec![announced(&did(0), 1)]);
    world.tell_coordinator(&from, first.clone()).unwrap();
    world.tell_coordinator(&from, first).unwrap(); // The same again is fine.
    world.refuses(Code::Conflict, |world| {
        world.tell_coordinator(&from, request(vec![announced(&did(0), 2)]))
    });
    assert_eq!(world.cohort(cohort).round.updates, 1);

    // And an SMT cohort does not take names.
    let (mut world, smt) = World::formed(2, 7);
    let from = world.peers[0].id.clone();
    let in_the_open = RequestSignature {
        cohort_id: smt,
        ..request(vec![announced(&did(0), 1)])
    };
    world.refuses(Code::Malformed, |world| {
        world.tell_coordinator(&from, in_the_open)
    });
}

/// A leaf is blinded or in the open, never both or half of each.
#[test]
fn a_leaf_has_one_form_on_the_wire() {
    let hash = UpdateId([7; 32]).to_string();
    let index = Index::of_did("did:x:a").to_string();
    let read = |leaf: serde_json::Value| serde_json::from_value::<Leaf>(leaf);
    let open = json!({ "did": "did:x:a", "update_hash": hash });
    let blinded = json!({ "index": index, "value": hash });
    for (leaf, named) in [(&open, true), (&blinded, false)] {
        let read = read(leaf.clone()).unwrap();
        assert_eq!(
            (read.index.to_string(), read.did.is_some()),
            (index.clone(), named)
        );
        assert_eq!(serde_json::to_value(&read).unwrap(), *leaf);
    }
    for leaf in [
        json!({}),
        json!({ "did": "did:x:a" }),
        json!({ "index": index }),
        json!({ "did": "did:x:a", "value": hash }),
        json!({ "index": index, "update_hash": hash }),
        json!({ "did": "did:x:a", "update_hash": hash, "index": index, "value": hash }),
        json!({ "did": "did:x:a b", "update_hash": hash }),
        json!({ "did": "did:x:a", "update_hash": "short" }),
    ] {
        assert!(read(leaf.clone()).is_err(), "{leaf}");
    }
}

/// "No update" overtakes the update that it was sent after: the update still counts, and nobody is blamed.
#[test]
fn an_update_that_no_update_overtook_is_announced_all_the_same() {
    let (mut world, cohort) = formed(2, 8, |_| {});
    let from = world.peers[0].id.clone();
    // Its first update waits to be asked for, so that both answers go out together.
    world.request_update(0, cohort, 1);
    let requests = world.settle_until(|message| message.kind() == "sign/request_signature");
    let opportunity = UpdateOpportunity {
        cohort_id: cohort,
        round: 1,
        deadline: world.now.after(60),
    };
    world
        .operator(coordinator::Command::StartRound { cohort })
        .unwrap();
    world.mail.clear();
    (0..2).for_each(|number| {
        world
            .tell(number, &coordinator_id(), opportunity.clone())
            .unwrap();
    });
    world.mail.retain(|mail| {
        !matches!(
            mail,
            Mail::Message {
                message: Message::RequestSignature(_),
                ..
            }
        )
    });
    // The round closes without the update. Its member declines, and the retry has it.
    world
        .settle_until(|message| message.kind() == "sign/decline")
        .into_iter()
        .for_each(|mail| {
            world.mail.insert(0, mail);
        });
    for mail in requests {
        world.deliver(mail);
    }
    world.settle();
    assert_eq!(world.cohort(cohort).members[&from].strikes, 0);
    assert!(!matches!(
        world.cohort(cohort).round.stage,
        Stage::Stopped { .. }
    ));
    world.pass(4);
    world.settle();
    let signals = &world.cohort(cohort).signals;
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].root, Some(map(&[(did(0), 1)]).signal_bytes()));
    assert_eq!(world.cohort(cohort).members[&from].strikes, 0);
    world.assert_replay_equals_memory();
}

/// At whatever point a member's state is restored from, what it forgot is noticed, nothing is signed a second time, and
/// every map comes back.
#[test]
fn an_old_state_gets_its_maps_back() {
    let run = || {
        let (mut world, cohort) = formed(2, 9, |_| {});
        for update in 1..=3 {
            world.request_update(usize::from(update % 2), cohort, update);
            mine(&mut world);
        }
        (world, cohort)
    };
    let (original, cohort) = run();
    let log = original.peers[0].node.log.clone();
    let maps = |world: &World| -> BTreeMap<_, _> {
        let candidates = world.membership(0, cohort).candidates.iter();
        candidates
            .map(|signed| (signed.txid, signed.map.clone()))
            .collect()
    };
    let wanted = maps(&original);
    assert_eq!(wanted.len(), 3);
    assert!(wanted.values().all(Option::is_some));
    let agreed = log
        .iter()
        .position(|line| line.contains("cohort_agreed"))
        .unwrap();
    let mut recovered = 0;
    for point in (agreed + 1)..=log.len() {
        let (mut world, _) = run();
        world.restore(0, point);
        world.settle();
        assert_eq!(maps(&world), wanted, "restored to line {point}");
        let membership = world.membership(0, cohort);
        recovered += membership
            .candidates
            .iter()
            .filter(|signed| signed.recovered)
            .count();
        world.assert_replay_equals_memory();
    }
    assert!(
        recovered > 20,
        "{recovered}: most copies had forgotten something"
    );
}

/// A map that is not the one that was signed is not taken for it when it comes again.
#[test]
fn a_forged_map_does_not_come_back() {
    let (mut world, cohort) = formed(2, 10, |_| {});
    let agreed = world.peers[0].node.log.len();
    world.request_update(0, cohort, 1);
    mine(&mut world);
    world.restore(0, agreed);
    let mails = world.settle_until(|message| matches!(message, Message::RegistrationResult(_)));
    let [
        Mail::Message {
            message: Message::RegistrationResult(result),
            ..
        },
    ] = &mails[..]
    else {
        panic!("{mails:?}");
    };
    let mut forged = result.clone();
    forged.maps[0].map = map(&[(did(0), 2)]);
    world.tell(0, &coordinator_id(), forged).unwrap();
    let candidate = &world.membership(0, cohort).candidates[0];
    assert_eq!((candidate.recovered, candidate.map.clone()), (true, None));
    // The right one does.
    let fetch = participant::Command::FetchProofs {
        cohort,
        updates: Vec::new(),
    };
    world.user(0, fetch).unwrap();
    world.settle();
    let candidate = &world.membership(0, cohort).candidates[0];
    assert_eq!(candidate.map, Some(map(&[(did(0), 1)])));
    world.assert_replay_equals_memory();
}

/// What can never be mined any more is announced again: by each member what is its own.
#[test]
fn a_superseded_map_brings_back_own_updates_only() {
    let (mut world, cohort) = formed(2, 12, |terms| terms.trigger_updates = 2);
    world.request_update(0, cohort, 1);
    world.request_update(1, cohort, 2);
    world.settle_until(|message| message.kind() == "sign/signature_authorization");
    let signed = world.membership(0, cohort).candidates[0].clone();
    assert_eq!(signed.updates().count(), 2);
    let events = [
        participant::Event::LeavesChosen {
            cohort,
            round: 2,
            leaves: Vec::new(),
        },
        participant::Event::ForeignSpendBuried {
            cohort,
            outpoint: signed.tx.input[0].previous_output,
            txid: bitcoin::Txid::all_zeros(),
        },
    ];
    for event in &events {
        world.peers[0].node.machine.apply(event);
    }
    let own = (Index::of_did(&did(0)), UpdateId([1; 32]));
    assert_eq!(world.membership(0, cohort).queued, [own].into());
}

/// The first version that wrote logs of CAS cohorts. What it wrote replays for ever: see [`golden`].
const FIRST_VERSION: &str = "0.3";

/// Two rounds; then the first member comes from a copy made after the first of them.
fn golden_run() -> World {
    let (mut world, cohort) = formed(2, 11, |_| {});
    world.request_update(0, cohort, 1);
    mine(&mut world);
    let copy = world.peers[0].node.log.len();
    world.request_update(1, cohort, 2);
    mine(&mut world);
    world.restore(0, copy);
    world.settle();
    world
}

#[test]
fn the_golden_logs_of_a_cas_cohort_replay() {
    if golden::is_writing() {
        let world = golden_run();
        let logs = [
            ("coordinator-cas", &world.coordinator.log),
            ("participant-cas", &world.peers[0].node.log),
        ];
        for (role, log) in logs {
            let path = golden::path(FIRST_VERSION, role);
            std::fs::write(path, log.join("\n") + "\n").unwrap();
        }
    }
    let mut coordinator = Coordinator::new(coordinator::Config::default());
    for line in golden::lines(FIRST_VERSION, "coordinator-cas") {
        coordinator.apply(&serde_json::from_str(&line).unwrap());
    }
    golden::assert_snapshot_keeps_everything(coordinator.state());
    let cohort = coordinator.state().cohorts.values().next().unwrap();
    let maps = [map(&[(did(0), 1)]), map(&[(did(1), 2)])];
    let roots: Vec<_> = cohort.signals.iter().map(|signal| signal.root).collect();
    let expected = maps.each_ref().map(|map| Some(map.signal_bytes()));
    assert_eq!(roots, expected);
    assert_eq!(cohort.announced.len(), 2);

    let mut participant = new_participant(0);
    for line in golden::lines(FIRST_VERSION, "participant-cas") {
        participant.apply(&serde_json::from_str(&line).unwrap());
    }
    let snapshot = serde_json::to_string(participant.state()).unwrap();
    let read: participant::State = serde_json::from_str(&snapshot).unwrap();
    assert!(read == *participant.state());
    let cohort = participant.state().cohorts.values().next().unwrap();
    let kept = cohort.candidates.iter();
    let kept: Vec<_> = kept
        .map(|signed| (signed.map.clone().unwrap(), signed.recovered))
        .collect();
    let [first, second] = maps;
    assert_eq!(kept, [(first, false), (second, true)]);
}
