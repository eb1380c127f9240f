//! A coordinator that cheats. The members' machines are honest and unchanged; an attacker sits at the coordinator's line and
//! changes, holds back or adds what leaves, with everything that a coordinator knows. Each member must refuse by itself, sign
//! nothing, keep the reason, and go on once the coordinator is honest again.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed simulation is a failed test"
)]

use std::fmt::Display;

use beacon_cohort::coordinator::{Command, Phase, Standing as SignalStanding};
use beacon_cohort::message::{
    AuthorizationRequest, IndexProof, Kind, Message, SignalPublished, SignalStatus,
};
use beacon_cohort::musig::BeaconKey;
use beacon_cohort::participant::{Stage, Standing};
use beacon_cohort::terms::Flow;
use beacon_cohort::values::{AggregatedNonce, CohortKey};
use beacon_signal::{LeafValue, Root, SparseMerkleTree};
use beacon_tests::simulator::{Letter, Settings, Simulation};
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, BlockHash, ScriptBuf, Txid};

/// The attacker's seat.
const C: usize = 0;
const MEMBERS: usize = 3;
const G: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";

fn held<T>(outcome: Result<T, impl Display>) -> T {
    outcome.unwrap_or_else(|failure| panic!("{failure}"))
}

fn new() -> Simulation {
    let settings = Settings {
        members: MEMBERS,
        flow: Flow::Pull,
        operator_asks_again: false,
        limit_s: 3 * 86_400,
        ..Settings::default()
    };
    Simulation::new(11, settings)
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

fn sent(simulation: &Simulation, member: usize, kind: &str) -> usize {
    let letters = simulation.letters().iter();
    letters
        .filter(|letter| letter.from() == member && letter.kind() == kind)
        .count()
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

/// Honest again, the coordinator has the same updates announced: nothing that it did has harmed the cohort.
fn lives_on(mut simulation: Simulation) {
    simulation.relent(C);
    let cohort = simulation.cohort();
    let refusal = held(simulation.tell_coordinator(Command::StartRound { cohort }));
    assert_eq!(refusal, None);
    held(simulation.announce());
    held(simulation.check_honest());
    assert_eq!(simulation.mined().len(), 1);
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
    lives_on(simulation);
}

/// The coordinator, in league with a miner, burns the cohort's money as fee.
#[test]
fn inflates_the_fee() {
    all_decline("fee-too-high", |body| {
        body.pending_tx.output[0].value -= Amount::from_sat(50_000);
    });
}

/// The coordinator sends the change to itself.
#[test]
fn steals_the_change() {
    all_decline("foreign-change", |body| {
        body.pending_tx.output[0].script_pubkey =
            ScriptBuf::from_hex("00140102030405060708090a0b0c0d0e0f1011121314").unwrap();
    });
}

/// The coordinator puts another announcement before the one that members check.
#[test]
fn hides_another_op_return() {
    all_decline("extra-op-return", |body| {
        body.pending_tx.output[0].script_pubkey = ScriptBuf::new_op_return([7; 32]);
    });
}

/// The coordinator leaves members' updates out of the tree and hopes that nobody misses a proof.
#[test]
fn omits_the_proofs() {
    all_decline("proof-missing", |body| body.proofs.clear());
}

/// The coordinator replaces each member's leaf by its own and proves that one without a flaw.
#[test]
fn replaces_updates() {
    all_decline("proof-invalid", |body| {
        let IndexProof { index, proof } = &mut body.proofs[0];
        let root = proof.root_for(index, &LeafValue([7; 32])).unwrap();
        proof.id = root;
        body.pending_tx.output[1].script_pubkey = signal_with(root);
    });
}

/// The coordinator says that the spent output is worth more than it is, so that the difference goes to the fee unnoticed.
#[test]
fn lies_about_the_spent_amount() {
    all_decline("chain-amount", |body| {
        body.spent_outputs[0].value += 1_000;
        body.pending_tx.output[0].value += Amount::from_sat(1_000);
    });
}

/// The coordinator has members sign a spend of money that is not there, to have signatures that nobody can publish. They wait
/// for the money as long as the session lasts, and make no nonce.
#[test]
fn spends_an_output_that_does_not_exist() {
    let mut simulation = formed();
    simulation.corrupt(
        C,
        requests(|_, body| {
            body.pending_tx.input[0].previous_output.txid = Txid::all_zeros();
        }),
    );
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        !abandoned(simulation).is_empty()
    }));
    assert_eq!(abandoned(&simulation), ["timeout"]);
    for member in 1..=MEMBERS {
        assert_no_nonce(&simulation, member);
    }
    lives_on(simulation);
}

/// The coordinator skips a round, to have other leaves signed than those that members gave.
#[test]
fn skips_a_round() {
    all_decline("wrong-round", |body| body.round += 1);
}

/// The coordinator asks for a kind of spend that nobody agreed to.
#[test]
fn asks_to_close_the_beacon() {
    all_decline("unsupported-kind", |body| body.kind = Kind::Close);
}

/// The coordinator shows one member another root than the others. That member declines; the others have made nonces for
/// nothing, and destroy them.
#[test]
fn shows_one_member_another_root() {
    let mut simulation = formed();
    simulation.corrupt(
        C,
        requests(|to, body| {
            if to == 2 {
                body.pending_tx.output[1].script_pubkey = signal_with(Root([7; 32]));
            }
        }),
    );
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        abandoned(simulation) == ["proof-invalid"]
    }));
    held(simulation.pass(2));
    assert_eq!(simulation.codes(2, C, "sign/decline"), ["proof-invalid"]);
    assert_no_nonce(&simulation, 2);
    for member in [1, 3] {
        assert_no_signature(&simulation, member);
        assert!(simulation.member(member).unwrap().session.is_none());
    }
    lives_on(simulation);
}

/// The coordinator shows one member another transaction, valid in itself, to have two signed. The nonces are over different
/// messages and never combine; the member's own signature says which transaction it was shown.
#[test]
fn shows_one_member_another_transaction() {
    let mut simulation = formed();
    simulation.corrupt(
        C,
        requests(|to, body| {
            if to == 2 {
                body.pending_tx.output[0].value -= Amount::ONE_SAT;
            }
        }),
    );
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        !abandoned(simulation).is_empty()
    }));
    assert_eq!(abandoned(&simulation), ["timeout"]);
    assert_eq!(simulation.codes(C, 2, "problem-report"), ["e.m.signature"]);
    for member in 1..=MEMBERS {
        assert_no_signature(&simulation, member);
    }
    assert!(simulation.mined().is_empty());
    lives_on(simulation);
}

/// The coordinator shows one member other aggregated nonces, to have its honest partial signature look bad. What the member
/// signs names the aggregated nonces, so nobody can use it against the member, and the signal is signed in another session.
#[test]
fn shows_one_member_other_aggregated_nonces() {
    let mut simulation = formed();
    let other: AggregatedNonce = format!("{G}{G}").parse().unwrap();
    simulation.corrupt(C, move |letter| {
        vec![match letter.message() {
            Some(Message::AggregatedNonces(mut body)) if letter.to == 2 => {
                body.aggregated_nonce = other;
                body.aggregated_nonces = vec![other];
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        !abandoned(simulation).is_empty()
    }));
    assert_eq!(abandoned(&simulation), ["timeout"]);
    assert_eq!(simulation.codes(C, 2, "problem-report"), ["e.m.signature"]);
    assert!(simulation.mined().is_empty());
    for member in 1..=MEMBERS {
        let candidates = &simulation.member(member).unwrap().candidates;
        assert_eq!(candidates.len(), 1, "it signed, so it keeps the proof");
        assert_eq!(candidates[0].standing, Standing::Live);
    }
    lives_on(simulation);
}

/// The coordinator asks for a second signature with one nonce, over other aggregated nonces: that would give it the key.
#[test]
fn sends_a_second_aggregated_nonce() {
    let mut simulation = formed();
    let other: AggregatedNonce = format!("{G}{G}").parse().unwrap();
    simulation.corrupt(C, move |letter| match letter.message() {
        Some(Message::AggregatedNonces(mut body)) => {
            body.aggregated_nonce = other;
            body.aggregated_nonces = vec![other];
            vec![letter.clone(), letter.as_new(1).saying(body)]
        }
        _ => vec![letter],
    });
    simulation.want();
    held(simulation.until("every member protests", |simulation| {
        (1..=MEMBERS)
            .all(|member| simulation.codes(member, C, "problem-report") == ["e.p.nonce-conflict"])
    }));
    for member in 1..=MEMBERS {
        let membership = simulation.member(member).unwrap();
        assert!(membership.session.is_none());
        assert_eq!(membership.ended.back().unwrap().code, "nonce-conflict");
        let mut partials: Vec<String> = simulation
            .letters()
            .iter()
            .filter(|letter| {
                letter.from() == member && letter.kind() == "sign/signature_authorization"
            })
            .map(|letter| letter.text("partial_signature").to_owned())
            .collect();
        partials.dedup();
        assert!(partials.len() <= 1, "{partials:?}");
    }
    held(simulation.check_honest());
    simulation.relent(C);
    let cohort = simulation.cohort();
    held(simulation.tell_coordinator(Command::StartRound { cohort }));
    held(simulation.announce());
    held(simulation.check_honest());
}

/// The coordinator opens two sessions at once, to have two nonces and two transactions of one round. The second ends the
/// first, and nothing is signed in either.
#[test]
fn opens_two_sessions_at_once() {
    let mut simulation = formed();
    simulation.corrupt(C, |letter| match letter.message() {
        Some(Message::AuthorizationRequest(mut body)) => {
            let mut bytes = *body.session_id.0.as_bytes();
            bytes[0] ^= 1;
            body.session_id.0 = uuid::Uuid::from_bytes(bytes);
            vec![letter.clone(), letter.as_new(1).saying(body)]
        }
        _ => vec![letter],
    });
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        !abandoned(simulation).is_empty()
    }));
    assert_eq!(abandoned(&simulation), ["timeout"]);
    for member in 1..=MEMBERS {
        assert_no_signature(&simulation, member);
        let ended = &simulation.member(member).unwrap().ended;
        assert!(ended.iter().any(|session| session.code == "superseded"));
        assert_eq!(
            simulation.codes(C, member, "problem-report"),
            ["e.m.unknown-session"]
        );
    }
    lives_on(simulation);
}

/// The coordinator repeats an old request to a member that has just restarted and may have forgotten it.
#[test]
fn replays_an_old_request_after_a_restart() {
    let mut simulation = formed();
    simulation.keep_letters();
    simulation.want();
    held(simulation.announce());
    let old = simulation
        .letters()
        .iter()
        .find(|letter| letter.to == 1 && letter.kind() == "sign/authorization_request");
    let old = old.unwrap().clone();
    let nonces = sent(&simulation, 1, "sign/nonce_contribution");
    simulation.restart(1);
    held(simulation.pass(30));
    held(simulation.send_letter(&old));
    held(simulation.send_letter(&old.clone().as_new(1)));
    held(simulation.pass(30));
    assert_eq!(
        simulation.codes(1, C, "problem-report"),
        ["e.m.unknown-session"]
    );
    assert_eq!(sent(&simulation, 1, "sign/nonce_contribution"), nonces);
    assert!(simulation.member(1).unwrap().session.is_none());
    held(simulation.check_honest());
}

/// A simulation in which a signal was signed and the coordinator keeps it to itself.
fn withheld() -> Simulation {
    let mut simulation = formed();
    simulation.withhold(true);
    simulation.keep_letters();
    simulation.want();
    held(simulation.until("it is signed", |simulation| {
        let cohort = simulation.coordinator().unwrap();
        let mut signals = cohort.signals.iter();
        signals.any(|signal| signal.standing == SignalStanding::Signed)
    }));
    simulation
}

/// The coordinator keeps a signed transaction for half a day and publishes it when nobody expects it any more. Every member
/// can prove it: what it signed, it keeps for ever.
#[test]
fn withholds_a_signed_transaction_and_publishes_it_later() {
    let mut simulation = withheld();
    held(simulation.pass(43_200));
    for member in 1..=MEMBERS {
        let membership = simulation.member(member).unwrap();
        assert!(membership.session.is_none(), "it is over for the member");
        assert_eq!(membership.candidates[0].standing, Standing::Live);
    }
    assert!(simulation.mined().is_empty());
    let signed = simulation.coordinator().unwrap().signals[0].tx.clone();
    assert!(simulation.publish(signed));
    simulation.withhold(false);
    held(simulation.announce());
    let report = held(simulation.settle());
    assert_eq!(report.signals, 1, "and every member proves it");
}

/// The coordinator says that a transaction is in a block which it keeps to itself, so that members stop watching; and that
/// another one is theirs. The member believes its own chain.
#[test]
fn lies_about_published_signals() {
    let mut simulation = withheld();
    let signal = simulation.coordinator().unwrap().signals[0].clone();
    let news = SignalPublished {
        session_id: signal.session,
        cohort_id: simulation.cohort(),
        round: signal.round,
        txid: signal.txid,
        transaction: signal.tx.clone(),
        status: SignalStatus::Confirmed {
            block_hash: BlockHash::all_zeros(),
            height: 1,
            confirmations: 1_000,
        },
    };
    held(simulation.send(C, 1, &Message::SignalPublished(news.clone())));
    let mut foreign = news;
    foreign.transaction.output[0].value -= Amount::ONE_SAT;
    foreign.txid = foreign.transaction.compute_txid();
    held(simulation.send(C, 1, &Message::SignalPublished(foreign)));
    held(simulation.pass(600));
    let candidate = &simulation.member(1).unwrap().candidates[0];
    assert_eq!(candidate.standing, Standing::Published, "and not confirmed");
    assert_eq!(
        simulation.codes(1, C, "problem-report"),
        ["e.m.foreign-transaction"]
    );
    held(simulation.check_honest());
}

/// What a member is asked to sign beside a transaction that was withheld.
fn request_beside(
    simulation: &Simulation,
    member: usize,
    root: Root,
    proof: IndexProof,
) -> AuthorizationRequest {
    let signal = &simulation.coordinator().unwrap().signals[0];
    let spent = simulation
        .letters()
        .iter()
        .find_map(|letter| match letter.message() {
            Some(Message::AuthorizationRequest(body)) if letter.to == member => Some(body),
            _ => None,
        });
    let mut request = spent.unwrap();
    request.session_id.0 = uuid::Uuid::from_u128(1);
    request.pending_tx.output[1].script_pubkey = signal_with(root);
    request.round = signal.round;
    request.proofs = vec![proof];
    request
}

/// The coordinator keeps a signed transaction and asks for another root of the same round, to choose later which of two
/// histories is published.
#[test]
fn asks_for_a_second_root_of_a_round() {
    let mut simulation = withheld();
    let membership = simulation.member(1).unwrap();
    let (index, leaf) = membership.leaves.iter().next().unwrap();
    let others = [2, 3].map(|member| {
        let membership = simulation.member(member).unwrap();
        (*membership.dids.keys().next().unwrap(), LeafValue([7; 32]))
    });
    let tree =
        SparseMerkleTree::new(std::iter::once((*index, leaf.value())).chain(others)).unwrap();
    let proof = IndexProof {
        index: *index,
        proof: tree.proof(index),
    };
    let request = request_beside(&simulation, 1, tree.root(), proof);
    held(simulation.pass(600));
    held(simulation.send(C, 1, &Message::AuthorizationRequest(request)));
    held(simulation.pass(5));
    assert_eq!(simulation.codes(1, C, "sign/decline"), ["other-root"]);
    assert_eq!(sent(&simulation, 1, "sign/nonce_contribution"), 1);
    held(simulation.check_honest());
}

/// The coordinator keeps a signed transaction and has the same round signed with other money, so that both could be mined.
#[test]
fn asks_to_sign_beside_a_withheld_transaction() {
    let mut simulation = withheld();
    let deposit = simulation.deposit(50_000).unwrap();
    held(simulation.pass(600));
    let asked = simulation
        .letters()
        .iter()
        .find_map(|letter| match letter.message() {
            Some(Message::AuthorizationRequest(body)) if letter.to == 1 => Some(body),
            _ => None,
        });
    let mut request = asked.unwrap();
    request.session_id.0 = uuid::Uuid::from_u128(1);
    request.pending_tx.input[0].previous_output = deposit;
    request.spent_outputs[0].value = 50_000;
    request.pending_tx.output[0].value = Amount::from_sat(49_000);
    held(simulation.send(C, 1, &Message::AuthorizationRequest(request)));
    held(simulation.pass(5));
    assert_eq!(simulation.codes(1, C, "sign/decline"), ["live-transaction"]);
    assert_eq!(sent(&simulation, 1, "sign/nonce_contribution"), 1);
    held(simulation.check_honest());
}

/// The coordinator never asks one member and names it as the one who was late. Without that member nothing is signed, and
/// the coordinator's word is all there is against it.
#[test]
fn forgets_a_member() {
    let mut simulation = formed();
    simulation.corrupt(C, |letter| {
        let forgotten = letter.to == 2 && letter.kind() == "sign/authorization_request";
        if forgotten { Vec::new() } else { vec![letter] }
    });
    simulation.want();
    held(simulation.until("the session is over", |simulation| {
        !abandoned(simulation).is_empty()
    }));
    assert_eq!(abandoned(&simulation), ["timeout"]);
    for member in 1..=MEMBERS {
        assert_no_signature(&simulation, member);
    }
    assert!(simulation.mined().is_empty());
    lives_on(simulation);
}

/// Sets the cohort in another way than was agreed, as one member sees it. It says so, is out, and nobody funds the address.
fn refuses_the_set(code: &str, tamper: impl Fn(&mut beacon_cohort::message::CohortSet) + 'static) {
    let mut simulation = new();
    simulation.corrupt(C, move |letter| {
        vec![match letter.message() {
            Some(Message::CohortSet(mut body)) if letter.to == 1 => {
                tamper(&mut body);
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.until("the cohort has failed", |simulation| {
        let cohort = simulation.coordinator();
        cohort.is_some_and(|cohort| matches!(cohort.phase, Phase::Failed(_)))
    }));
    held(simulation.pass(5));
    let Stage::Out(reason, _) = &simulation.member(1).unwrap().stage else {
        panic!("it agreed");
    };
    assert_eq!(reason, code);
    assert_eq!(
        simulation.codes(1, C, "problem-report"),
        ["e.p.cohort-mismatch"]
    );
    for member in 2..=MEMBERS {
        let stage = &simulation.member(member).unwrap().stage;
        assert!(
            matches!(stage, Stage::Out(code, _) if code == "e.p.cohort-failed"),
            "{stage:?}"
        );
        assert_eq!(simulation.member(member).unwrap().candidates.len(), 0);
    }
    held(simulation.check_honest());
}

fn keys(numbers: [u8; MEMBERS]) -> Vec<CohortKey> {
    let secp = bitcoin::secp256k1::Secp256k1::new();
    let mut keys = numbers.map(|number| {
        let secret = bitcoin::secp256k1::SecretKey::from_slice(&[number; 32]).unwrap();
        CohortKey::from_bytes(&secret.public_key(&secp).serialize()).unwrap()
    });
    keys.sort_by_key(|key| key.to_bytes());
    keys.to_vec()
}

/// The coordinator makes an address of its own keys alone and has a member pay into it.
#[test]
fn sets_a_cohort_of_its_own_keys() {
    refuses_the_set("own-key-missing", |body| {
        let beacon = BeaconKey::aggregate(keys([1, 2, 3])).unwrap();
        body.cohort_keys = beacon.keys().to_vec();
        body.beacon_address = beacon.address(bitcoin::Network::Regtest);
    });
}

/// The coordinator names the right keys and its own address.
#[test]
fn names_another_address() {
    refuses_the_set("address-mismatch", |body| {
        let beacon = BeaconKey::aggregate(keys([1, 2, 3])).unwrap();
        body.beacon_address = beacon.address(bitcoin::Network::Regtest);
    });
}

/// The coordinator sets the cohort on other terms than members signed.
#[test]
fn sets_a_cohort_on_other_terms() {
    refuses_the_set("terms-mismatch", |body| body.terms_hash.0[0] ^= 1);
}

/// The coordinator shows one member a set in which the others' keys are its own. The member cannot know, and agrees; but to
/// another cohort than the others, which its acknowledgement says. So the cohort is never set, and never signs.
#[test]
fn shows_one_member_other_members() {
    let mut simulation = new();
    held(simulation.until("the member has its key", |simulation| {
        let member = simulation.member(1);
        member.is_some_and(|member| member.key.is_some())
    }));
    let own = simulation.member(1).unwrap().key.unwrap();
    simulation.corrupt(C, move |letter| {
        vec![match letter.message() {
            Some(Message::CohortSet(mut body)) if letter.to == 1 => {
                let others = keys([1, 2, 3]).into_iter().take(MEMBERS - 1);
                let beacon = BeaconKey::aggregate(others.chain([own])).unwrap();
                body.cohort_keys = beacon.keys().to_vec();
                body.beacon_address = beacon.address(bitcoin::Network::Regtest);
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.until("the cohort is over", |simulation| {
        let cohort = simulation.coordinator().unwrap();
        !matches!(cohort.phase, Phase::Advertised | Phase::Set)
    }));
    assert!(!matches!(
        simulation.coordinator().unwrap().phase,
        Phase::Acknowledged
    ));
    assert_eq!(
        simulation
            .codes(C, 1, "problem-report")
            .first()
            .map(String::as_str),
        Some("e.m.ack-mismatch")
    );
    for member in 1..=MEMBERS {
        assert_eq!(simulation.member(member).unwrap().candidates.len(), 0);
    }
    held(simulation.check_honest());
}

/// The coordinator advertises terms that are not those that it would have signed for.
#[test]
fn advertises_terms_that_contradict_themselves() {
    let mut simulation = new();
    simulation.corrupt(C, |letter| {
        vec![match letter.message() {
            Some(Message::CohortAdvert(mut body)) => {
                body.terms["max_fee_rate_sat_vb"] = 1_000.into();
                letter.saying(body)
            }
            _ => letter,
        }]
    });
    held(simulation.pass(60));
    for member in 1..=MEMBERS {
        assert_eq!(
            simulation.codes(member, C, "problem-report"),
            ["e.m.terms-hash"]
        );
        assert!(simulation.member(member).is_none(), "it never heard of it");
    }
    assert!(simulation.coordinator().unwrap().members.is_empty());
    held(simulation.check_honest());
}
