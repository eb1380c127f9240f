//! Sessions that are shown to members in different ways, repeated, doubled or kept secret.

use super::*;

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
    lives_on(simulation, C);
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
    lives_on(simulation, C);
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
    lives_on(simulation, C);
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
    assert_eq!(abandoned(&simulation), ["nonce-lost"]);
    for member in 1..=MEMBERS {
        assert_no_signature(&simulation, member);
        let ended = &simulation.member(member).unwrap().ended;
        assert!(ended.iter().any(|session| session.code == "superseded"));
        let declines = simulation.codes(member, C, "sign/decline");
        assert!(
            declines.iter().all(|code| code == "nonce-lost"),
            "{declines:?}"
        );
    }
    lives_on(simulation, C);
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

/// The coordinator keeps a signed transaction for most of an hour, the terms' patience, and publishes it when nobody expects
/// it any more. Every member can prove it: what it signed, it keeps for ever.
#[test]
fn withholds_a_signed_transaction_and_publishes_it_later() {
    let mut simulation = withheld();
    held(simulation.pass(3_500));
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
    lives_on(simulation, C);
}
