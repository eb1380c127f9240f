//! Requests that ask for something else than was agreed to.

use super::*;

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
    lives_on(simulation, C);
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
