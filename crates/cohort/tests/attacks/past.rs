//! A cohort with a past, and what its coordinator tells of it to who asks.

use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::message::{DidRegistration, Message, RegistrationResult};

use crate::common::{Mail, World};

/// A cohort of two whose first signal, with an update of member 0, is buried.
pub(crate) fn buried(seed: u64) -> (World, CohortId) {
    let (mut world, cohort) = World::formed(2, seed);
    world.request_update(0, cohort, 1);
    for _ in 0..8 {
        world.settle();
        world.chain.mine();
    }
    world.settle();
    world.mail.clear();
    (world, cohort)
}

/// What the coordinator answers when `member` asks for the indexes of member `number`, from a round on.
pub(crate) fn ask(
    world: &mut World,
    member: &PeerId,
    cohort_id: CohortId,
    number: usize,
    from_round: u64,
) -> RegistrationResult {
    let indexes = world.membership(number, cohort_id).dids.keys();
    let registration = DidRegistration {
        cohort_id,
        indexes: indexes.copied().collect(),
        from_round: Some(from_round),
    };
    world.mail.clear();
    world.tell_coordinator(member, registration).unwrap();
    let answer = world.mail.drain(..).find_map(|mail| match mail {
        Mail::Message {
            message: Message::RegistrationResult(result),
            ..
        } => Some(result),
        _ => None,
    });
    answer.expect("a registration is answered")
}
