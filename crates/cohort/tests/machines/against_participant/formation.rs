//! Who speaks, and while a cohort is formed.

use super::*;

/// A stranger, and our own coordinator writing to an identity that only another coordinator should know.
#[test]
fn a_stranger_speaks_or_an_identity_is_guessed() {
    let (mut world, cohort_id) = World::formed(2, 1);
    let opportunity = UpdateOpportunity {
        cohort_id,
        round: 1,
        deadline: START,
    };
    world.refuses(Code::NotSubscribed, |world| {
        world.tell(0, &other_coordinator(), opportunity.clone())
    });
    world.refuses(Code::NotSubscribed, |world| {
        let (from, to) = (
            coordinator_id(),
            PeerId::new("did:example:our-identity-for-another"),
        );
        let message = opportunity.into();
        world.at_peer(0, Input::Message { from, to, message })
    });
}

/// A coordinator that we subscribed to as well, speaking in the cohort of the first.
#[test]
fn another_coordinator_speaks_in_a_cohort() {
    let (mut world, cohort_id) = signing(2);
    let aggregated = aggregated(&mut world);
    let own = world.peers[0].id.clone();
    let subscribe = Command::Subscribe {
        coordinator: other_coordinator(),
        own,
        identity: 1,
        filter: Subscribe::default(),
    };
    world.user(0, subscribe).unwrap();
    world.mail.clear();
    let session_id = aggregated.session_id;
    let messages: Vec<Message> = vec![
        aggregated.into(),
        UpdateOpportunity {
            cohort_id,
            round: 2,
            deadline: START.after(60),
        }
        .into(),
        SessionAborted {
            session_id,
            cohort_id,
            code: "x".to_owned(),
            next: NextStep::Wait,
        }
        .into(),
    ];
    for message in messages {
        world.refuses(Code::UnknownCohort, |world| {
            world.tell(0, &other_coordinator(), message)
        });
    }
}

/// Messages that only participants send.
#[test]
fn a_coordinator_plays_the_participant() {
    let (mut world, _) = World::formed(2, 3);
    world.refuses(Code::WrongRole, |world| {
        world.tell(0, &coordinator_id(), Subscribe::default())
    });
}

/// Adverts whose hash or summary is not that of their terms, with terms that nobody can agree to, that ended, or of a
/// cohort that was advertised with other terms.
#[test]
fn adverts_that_contradict_themselves() {
    let (mut world, known) = World::formed(2, 4);
    let mut refuses = |code, change: fn(&mut CohortAdvert)| {
        world.refuses(code, |world| {
            world.tell(0, &coordinator_id(), advert(change))
        });
    };
    refuses(Code::TermsHash, |advert| {
        advert.terms_hash = TermsHash([1; 32]);
    });
    refuses(Code::Terms, |advert| advert.cohort_size = 3);
    refuses(Code::Terms, |advert| {
        advert.btc_network = BtcNetwork::Mainnet;
    });
    refuses(Code::Terms, |advert| {
        advert.terms["script_tree"] = "00".into();
    });
    refuses(Code::Terms, |advert| {
        advert.terms["x".repeat(100_000)] = 1.into();
    });
    world.refuses(Code::Conflict, |world| {
        world.tell(
            0,
            &coordinator_id(),
            advert(|advert| advert.cohort_id = known),
        )
    });
    world.now = START.after(60);
    world.refuses(Code::AdvertClosed, |world| {
        world.tell(0, &coordinator_id(), advert(|_| {}))
    });
    let quoted = world.peers[0].node.machine.state().cohorts.len();
    assert_eq!(quoted, 1, "nothing of it was remembered");
}

/// A coordinator that advertises without end: only so many are remembered, and those that ended make room.
#[test]
fn adverts_without_end() {
    let policy = Policy {
        max_cohorts: 3,
        ..Policy::asking(BtcNetwork::Regtest)
    };
    let mut participant = Participant::new(policy, leaf_secret());
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let own = PeerId::new("did:example:own");
    let subscribe = Command::Subscribe {
        coordinator: coordinator_id(),
        own: own.clone(),
        identity: 0,
        filter: Subscribe::default(),
    };
    let mut drive = |input, now| {
        let step = participant.step(input, now, &mut rng)?;
        step.events
            .iter()
            .for_each(|event| participant.apply(event));
        Ok::<_, beacon_cohort::machine::Rejection>(
            participant
                .state()
                .cohorts
                .keys()
                .map(|id| id.0.as_u128())
                .collect::<Vec<_>>(),
        )
    };
    drive(Input::Command(subscribe), START).unwrap();
    let message = |number| Input::Message {
        from: coordinator_id(),
        to: own.clone(),
        message: advert(|advert| advert.cohort_id = CohortId(Uuid::from_u128(number))).into(),
    };
    for number in 1..=3 {
        drive(message(number), START).unwrap();
    }
    assert_eq!(drive(message(4), START).unwrap_err().code, Code::Limit);
    let later = |number| {
        let terms = Terms::new(BtcNetwork::Regtest, 2, START.after(6_000))
            .to_value()
            .unwrap();
        let message = advert(|advert| {
            advert.cohort_id = CohortId(Uuid::from_u128(number));
            advert.terms_hash = AgreedTerms::parse(terms.clone()).unwrap().hash();
            advert.terms = terms;
        });
        Input::Message {
            from: coordinator_id(),
            to: own.clone(),
            message: message.into(),
        }
    };
    assert_eq!(
        drive(later(5), START.after(3_599)).unwrap_err().code,
        Code::Limit,
        "there would be room, but not within the hour"
    );
    assert_eq!(
        drive(later(5), START.after(3_600)).unwrap(),
        [2, 3, 5],
        "the oldest that ended made room"
    );
}

/// A coordinator swaps a member's key for its own: the member computes another address, says so and is out.
#[test]
fn a_set_with_a_substituted_key() {
    let mut world = World::new(2, 6);
    let cohort = world.advertise(|_| {});
    world.subscribe(0);
    world.subscribe(1);
    let Message::CohortSet(set) = to_first(&mut world, "keygen/cohort_set") else {
        unreachable!()
    };
    world.mail.clear();
    let mut forged = set.clone();
    let own = world.membership(0, cohort).key.unwrap();
    let stolen = forged
        .cohort_keys
        .iter()
        .position(|key| *key != own)
        .unwrap();
    forged.cohort_keys[stolen] = attackers_key();
    forged.cohort_keys.sort_unstable();
    world.tell(0, &coordinator_id(), forged).unwrap();
    assert!(
        matches!(&world.membership(0, cohort).stage, Stage::Out(code, _) if code == "address-mismatch")
    );
    assert!(
        sent_to_coordinator(&world, "keygen/cohort_ack").is_empty(),
        "nothing was acknowledged"
    );
    assert!(
        matches!(&world.mail[0], Mail::Problem { rejection, .. } if rejection.code == Code::CohortMismatch)
    );
    world.mail.clear();
    world.refuses(Code::CohortMismatch, |world| {
        world.tell(0, &coordinator_id(), set)
    });
}

/// Membership is frozen: a second set, though it is valid in itself, is refused; the same again is acknowledged again.
#[test]
fn a_second_set_with_other_members() {
    let (mut world, cohort_id) = World::formed(2, 7);
    let membership = world.membership(0, cohort_id);
    let agreed = membership.beacon.clone().unwrap();
    let other =
        beacon_cohort::musig::BeaconKey::aggregate([membership.key.unwrap(), attackers_key()])
            .unwrap();
    let set = |beacon: &beacon_cohort::musig::BeaconKey| CohortSet {
        cohort_id,
        beacon_address: beacon.address(bitcoin::Network::Regtest),
        cohort_keys: beacon.keys().to_vec(),
        terms_hash: membership.terms.hash(),
    };
    let (same, other) = (set(&agreed), set(&other));
    world.refuses(Code::Conflict, |world| {
        world.tell(0, &coordinator_id(), other)
    });
    world.tell(0, &coordinator_id(), same).unwrap();
    assert_eq!(sent_to_coordinator(&world, "keygen/cohort_ack").len(), 1);
}

/// A key of one cohort is never used for another, and an opt-in shows the fresh one.
#[test]
fn every_cohort_has_a_fresh_key() {
    let mut world = World::new(1, 8);
    world.subscribe(0);
    world.settle();
    world.advertise(|_| {});
    world.advertise(|_| {});
    world
        .mail
        .retain(|mail| matches!(mail, Mail::Message { .. }));
    for mail in std::mem::take(&mut world.mail) {
        world.deliver(mail);
    }
    let keys = sent_to_coordinator(&world, "keygen/opt_in")
        .into_iter()
        .map(|message| match message {
            Message::OptIn(OptIn { participant_pk, .. }) => participant_pk,
            other => panic!("got {other:?}"),
        });
    let keys: Vec<_> = keys.collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
}

/// A coordinator that reads adverts could take the ids away: it advertises first what another one will. Both cohorts are
/// known, under names of our own, and each coordinator is heard in its own alone.
#[test]
fn another_coordinator_advertises_an_id_first() {
    let mut world = World::new(2, 31);
    let own = world.peers[0].id.clone();
    let thief = other_coordinator();
    let command = Command::Subscribe {
        coordinator: thief.clone(),
        own: own.clone(),
        identity: 0,
        filter: Subscribe::default(),
    };
    world.user(0, command).unwrap();
    world.mail.clear();
    let id = world.advertise(|_| {});
    world
        .tell(0, &thief, advert(|advert| advert.cohort_id = id))
        .unwrap();
    world
        .mail
        .retain(|mail| !matches!(mail, Mail::Message { to, .. } if *to == thief));
    (0..2).for_each(|number| world.subscribe(number));
    world.settle();

    let state = world.peers[0].node.machine.state();
    let stolen = state.cohort_of(&thief, id).unwrap();
    let honest = state.cohort_of(&coordinator_id(), id).unwrap();
    assert_eq!((stolen.id, honest.id), (id, id));
    assert_ne!(stolen.handle, honest.handle);
    assert_ne!(stolen.path, honest.path, "no key is used for both");
    assert_eq!(honest.stage, Stage::Agreed);
    assert_eq!(stolen.stage, Stage::OptedIn);
    let handle = honest.handle;
    let abort = |to_end: SessionId| SessionAborted {
        session_id: to_end,
        cohort_id: id,
        code: "anything".to_owned(),
        next: NextStep::Wait,
    };

    world.fund(id, 50_000);
    world.settle();
    let did = world.peers[0].did.clone();
    let update = beacon_signal::UpdateId([1; 32]);
    let command = Command::RequestUpdate {
        cohort: handle,
        did,
        update,
        version: None,
    };
    world.user(0, command).unwrap();
    let requests = world.settle_until(|message| message.kind() == "sign/authorization_request");
    let Mail::Message { message, .. } = requests[0].clone() else {
        panic!("a message")
    };
    let Message::AuthorizationRequest(request) = message else {
        panic!("a request")
    };
    let session = request.session_id;
    for mail in requests {
        world.deliver(mail);
    }
    world.refuses(Code::Phase, |world| world.tell(0, &thief, request));
    world.refuses(Code::Phase, |world| world.tell(0, &thief, abort(session)));
    world.settle();
    assert_eq!(world.cohort(id).signals.len(), 1, "the round is signed");
    world.assert_replay_equals_memory();
}

/// A seat is for those who show that they are there: the same opt-in again at half of the time, and at once when the seat
/// was given up. A coordinator that says so all the time does not get an opt-in, and a line in the log, for each.
#[test]
fn a_seat_is_kept_and_taken_again_by_the_same_opt_in() {
    let mut world = World::new(1, 40);
    world.subscribe(0);
    world.settle();
    let cohort = world.advertise(|terms| (terms.min_members, terms.max_members) = (2, 2));
    let first = world.settle_until(|message| message.kind() == "keygen/opt_in");
    let Mail::Message { message: first, .. } = first[0].clone() else {
        panic!("a message")
    };
    world.mail.clear();
    let renewed = |world: &mut World, seconds| {
        world.now = world.now.after(seconds);
        world.at_peer(0, Input::Tick).unwrap();
        let sent = sent_to_coordinator(world, "keygen/opt_in");
        world.mail.clear();
        sent
    };
    assert!(renewed(&mut world, 299).is_empty());
    assert_eq!(
        renewed(&mut world, 1),
        std::slice::from_ref(&first),
        "the same again"
    );
    let released = |world: &mut World, seconds| {
        world.now = world.now.after(seconds);
        let problem = Input::Problem {
            from: coordinator_id(),
            cohort: Some(cohort),
            code: Code::SeatReleased.to_string(),
            comment: String::new(),
        };
        world.at_peer(0, problem).unwrap();
        let sent = sent_to_coordinator(world, "keygen/opt_in");
        world.mail.clear();
        sent
    };
    assert!(released(&mut world, 59).is_empty(), "not again and again");
    assert_eq!(released(&mut world, 1), [first]);
    assert_eq!(world.membership(0, cohort).stage, Stage::OptedIn);
    world.assert_replay_equals_memory();
}

/// A cohort is over before an update was signed. The update is announced by the cohort that takes its place, and what the
/// old address holds is still seen.
#[test]
fn a_dissolved_cohort_is_watched_and_its_updates_move_on() {
    let mut world = World::new(3, 41);
    let old = world.advertise(|_| {});
    (0..3).for_each(|number| world.subscribe(number));
    world.settle();
    world.request_update(0, old, 7);
    world.settle();
    let dissolve = beacon_cohort::coordinator::Command::Dissolve {
        cohort: old,
        without: [world.peers[2].id.clone()].into(),
        successor: true,
    };
    world.operator(dissolve).unwrap();
    world.settle();
    let dissolved = world.membership(0, old);
    assert!(matches!(dissolved.stage, Stage::Dissolved(_)));
    assert!(dissolved.queued.is_empty() && dissolved.leaves.is_empty());
    let state = world.peers[0].node.machine.state();
    let successor = state
        .cohorts
        .values()
        .find(|cohort| cohort.succeeds == Some(old))
        .unwrap();
    assert_eq!(successor.stage, Stage::Agreed);
    assert_eq!(successor.dids, dissolved.dids, "for the same DIDs");
    let successor = successor.id;
    world.fund(successor, 50_000);
    world.fund(old, 20_000);
    world.settle();
    let announced = &world.membership(0, successor).candidates[0];
    let updates: Vec<_> = announced.updates().map(|(_, update)| update).collect();
    assert_eq!(updates, [beacon_signal::UpdateId([7; 32])]);
    assert_eq!(world.membership(0, old).balance_sat(), 20_000);
    world.now = world.now.after(31 * 86_400);
    world.settle();
    let watched = world.peers[0].node.machine.watches();
    assert!(watched.scripts.contains(&script(&world, old)));
    world.assert_replay_equals_memory();
}

fn script(world: &World, cohort: CohortId) -> bitcoin::ScriptBuf {
    let beacon = world.membership(0, cohort).beacon.as_ref();
    beacon.unwrap().script().to_owned()
}

/// A cohort is over, its signals are buried, its money is gone. After a month the chain is not asked about it any more, nor its
/// coordinator at each start: who joined a thousand cohorts would ask for ever. A beacon that lives is watched for ever.
#[test]
fn a_cohort_that_is_over_and_settled_is_not_watched_any_more() {
    let (mut world, lives) = World::formed(2, 42);
    let over = world.advertise(|_| {});
    world.settle();
    world.fund(over, 50_000);
    world.request_update(0, over, 7);
    world.settle();
    let dissolve = beacon_cohort::coordinator::Command::Dissolve {
        cohort: over,
        without: [].into(),
        successor: false,
    };
    world.operator(dissolve).unwrap();
    world.settle();
    let scripts = |world: &World| world.peers[0].node.machine.watches().scripts;
    let month = 30 * 86_400;
    world.now = world.now.after(month);
    world.settle();
    assert_eq!(scripts(&world).len(), 2, "it has signed and money");
    (0..7).for_each(|_| {
        world.chain.mine();
        world.settle();
    });
    let change = *world.membership(0, over).outputs.keys().next().unwrap();
    world.chain.steal(change);
    world.settle();
    assert_eq!(world.membership(0, over).balance_sat(), 0);
    assert_eq!(scripts(&world).len(), 2, "who spent it is not buried");
    (0..7).for_each(|_| {
        world.chain.mine();
        world.settle();
    });
    assert_eq!(scripts(&world), [script(&world, lives)]);
    assert!(world.membership(0, over).settled);
    world.mail.clear();
    world.restart(0);
    let asked: Vec<_> = sent_to_coordinator(&world, "keygen/did_registration")
        .iter()
        .map(|message| message.thread().0.unwrap())
        .collect();
    assert_eq!(asked, [lives]);
    world.assert_replay_equals_memory();
}

/// An empty address is watched for a month: a deposit may be on its way.
#[test]
fn a_late_deposit_to_a_cohort_that_is_over_is_seen() {
    let (mut world, cohort) = World::formed(2, 43);
    let over = world.advertise(|_| {});
    world.settle();
    let dissolve = beacon_cohort::coordinator::Command::Dissolve {
        cohort: over,
        without: [].into(),
        successor: false,
    };
    world.operator(dissolve).unwrap();
    world.settle();
    world.now = world.now.after(30 * 86_400 - 1);
    world.settle();
    let scripts = |world: &World| world.peers[0].node.machine.watches().scripts.len();
    assert_eq!(scripts(&world), 2);
    world.now = world.now.after(1);
    world.settle();
    assert_eq!(scripts(&world), 1);
    assert!(world.membership(0, over).settled && !world.membership(0, cohort).settled);
}
