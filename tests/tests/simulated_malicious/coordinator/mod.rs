//! A coordinator that cheats. The members' machines are honest and unchanged; an attacker sits at the coordinator's line and
//! changes, holds back or adds what leaves, with everything that a coordinator knows. Each member must refuse by itself, sign
//! nothing, keep the reason, and go on once the coordinator is honest again.

mod formation;
mod history;
mod requests;
mod sessions;

use beacon_cohort::coordinator::{Phase, Standing as SignalStanding};
use beacon_cohort::message::{
    AuthorizationRequest, IndexProof, Kind, Message, SignalPublished, SignalStatus,
};
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::participant::{Candidate, Stage, Standing};
use beacon_cohort::values::{AggregatedNonce, CohortKey};
use beacon_signal::{LeafValue, Root, SparseMerkleTree};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, BlockHash, ScriptBuf, Txid};

use super::*;

fn new() -> Simulation {
    Simulation::new(11, settings(MEMBERS))
}

fn formed() -> Simulation {
    let mut simulation = new();
    held(simulation.form());
    simulation
}

/// Changes the requests for signatures; everything else passes.
fn requests(
    tamper: impl Fn(usize, &mut AuthorizationRequest) + 'static,
) -> impl FnMut(Letter) -> Vec<Letter> {
    move |letter| {
        vec![match letter.message() {
            Some(Message::AuthorizationRequest(mut body)) => {
                tamper(letter.to, &mut body);
                letter.saying(body)
            }
            _ => letter,
        }]
    }
}

fn signal_with(root: Root) -> ScriptBuf {
    ScriptBuf::new_op_return(root.0)
}

fn abandoned(simulation: &Simulation) -> Vec<&str> {
    let cohort = simulation.coordinator().unwrap();
    let abandoned = cohort.abandoned.iter();
    abandoned.map(|session| session.code.as_str()).collect()
}

fn assert_no_nonce(simulation: &Simulation, member: usize) {
    assert_eq!(sent(simulation, member, "sign/nonce_contribution"), 0);
    assert_no_signature(simulation, member);
}

fn assert_no_signature(simulation: &Simulation, member: usize) {
    assert_eq!(sent(simulation, member, "sign/signature_authorization"), 0);
    assert!(simulation.member(member).unwrap().candidates.is_empty());
}

/// All members are asked to sign what `tamper` makes of a request. Each of them declines with this code on its own, keeps it
/// for its user, and makes no nonce.
fn all_decline(code: &str, tamper: impl Fn(&mut AuthorizationRequest) + 'static) {
    let mut simulation = formed();
    simulation.corrupt(C, requests(move |_, body| tamper(body)));
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        !abandoned(simulation).is_empty()
    }));
    held(simulation.pass(2));
    for member in 1..=MEMBERS {
        assert_eq!(
            simulation.codes(member, C, "sign/decline"),
            [code],
            "{member}"
        );
        assert_no_nonce(&simulation, member);
        let membership = simulation.member(member).unwrap();
        assert!(membership.session.is_none());
        assert_eq!(membership.ended.back().unwrap().code, code, "for the user");
    }
    assert_eq!(abandoned(&simulation), [code]);
    assert!(simulation.mined().is_empty());
    lives_on(simulation, C);
}
