//! Lines of the control socket, given to both roles.

use std::cell::RefCell;
use std::sync::Arc;

use beacon_cohort::machine::{Input, Machine};
use beacon_cohort::signer::KeyPath;
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::Endpoint;
use beacon_runtime::agent::{Agent, Call};
use beacon_runtime::control::{self, MAX_RESPONSE_BYTES, RpcError};
use beacon_runtime::coordinator;
use beacon_runtime::dids::Dids;
use beacon_runtime::identities::Identities;
use beacon_runtime::keys::Seed;
use beacon_runtime::participant::ParticipantAgent;
use beacon_runtime::settings::Options;
use serde_json::Value;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::situations::{Situation, follow, with};

/// The seed of a published test vector (BIP39): 23 times the first word of the list, and a checksum.
const PHRASE_END: &str = "art";

thread_local! {
    static IDENTITIES: RefCell<Identities> = RefCell::new(Identities::new(seed(), Endpoint::Queue));
    /// Where the participant keeps records of DIDs.
    static HOME: TempDir = tempfile::tempdir().unwrap_or_else(|error| panic!("a directory: {error}"));
}

fn seed() -> Seed {
    let phrase = "abandon ".repeat(23) + PHRASE_END;
    Seed::from_phrase(&phrase).unwrap_or_else(|_| panic!("a valid phrase"))
}

/// A letter chooses role and moment; the rest is one line.
pub fn control(data: &[u8]) {
    let Some((letter, line)) = data.split_first() else {
        return;
    };
    let (id, method, params) = match control::parse(line) {
        Ok(request) => request,
        Err((id, error)) => {
            assert!(id.is_null() || id.is_string() || id.is_number());
            return check_error(&error, line.len());
        }
    };
    assert!(id.is_string() || id.is_number());
    with(|situations| {
        let chosen = usize::from(letter.wrapping_sub(b'a'));
        let Some(situation) = situations.get(chosen / 2 % situations.len()) else {
            return;
        };
        if chosen.is_multiple_of(2) {
            let config = Options::default().resolve().unwrap();
            let (agent, _) = coordinator::role(&config);
            call(
                &agent,
                situation.coordinator(),
                situation,
                &method,
                params,
                line.len(),
            );
        } else {
            let keys = |_: KeyPath| Zeroizing::new([1; 32]);
            let agent = HOME.with(|home| {
                let dids = Dids::new(home.path(), Arc::new(seed()), BtcNetwork::Regtest);
                ParticipantAgent::new(Box::new(keys), dids)
            });
            call(
                &agent,
                situation.member(),
                situation,
                &method,
                params,
                line.len(),
            );
        }
    });
}

fn call<A: Agent>(
    agent: &A,
    machine: &A::Machine,
    situation: &Situation,
    method: &str,
    params: Value,
    size: usize,
) where
    A::Machine: Clone,
{
    let called =
        IDENTITIES.with_borrow_mut(|identities| agent.call(machine, identities, method, params));
    let answer = match called {
        Ok(Call::Answer(answer)) => answer,
        Ok(Call::Command(command, answer)) => {
            let now = situation.world.now;
            let facts = |machine: &A::Machine| situation.world.chain.answer(&machine.watches());
            let _ = follow(machine, Input::Command(command), now, facts);
            answer
        }
        Err(error) => return check_error(&error, size),
    };
    assert!(answer.to_string().len() < MAX_RESPONSE_BYTES / 16);
}

fn check_error(error: &RpcError, size: usize) {
    assert!(error.code < 0);
    assert!(error.message.len() <= 6 * size + 1_024, "{}", error.message);
}
