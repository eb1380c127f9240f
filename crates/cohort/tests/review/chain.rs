//! The checks against other transactions, and against the chain.

use beacon_cohort::DeclineCode;
use beacon_cohort::machine::OutputView;
use beacon_cohort::participant::Quarantine;
use beacon_signal::Root;
use bitcoin::{Amount, OutPoint, ScriptBuf};

use super::case::{Case, SPENT, add_input, declines, reviewed, seen, spending, txid, waits};

/// Both could be mined: the one that was signed, and this one beside it.
#[test]
fn declines_live_transaction() {
    declines(DeclineCode::LiveTransaction, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(3), 0)])];
    });
}

/// Whoever takes the inputs of a published signal undoes it, and with it the updates of a round that is over.
#[test]
fn declines_published_signal() {
    declines(DeclineCode::PublishedSignal, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
        case.published = case.live.clone();
    });
}

/// After a rollback: an output that was there may be spent by something that was forgotten. Until the chain has said which
/// were there, that goes for all.
#[test]
fn declines_rolled_back() {
    let quarantine = |outpoint, complete| Quarantine {
        outputs: [outpoint].into(),
        complete,
    };
    let mut case = Case::valid();
    case.quarantine = Some(quarantine(OutPoint::new(txid(9), 0), true));
    reviewed(&case);
    declines(DeclineCode::RolledBack, |case| {
        case.quarantine = Some(quarantine(OutPoint::new(txid(1), 0), true));
    });
    declines(DeclineCode::RolledBack, |case| {
        case.quarantine = Some(quarantine(OutPoint::new(txid(9), 0), false));
    });
}

/// A round has one root. Another would announce other updates under the same leaf nonces.
#[test]
fn declines_other_root() {
    declines(DeclineCode::OtherRoot, |case| {
        case.live = vec![spending(&[OutPoint::new(txid(1), 0)])];
        case.signed_roots = vec![Root([1; 32])];
    });
}

// The chain: what is wrong is declined at once, though a confirmation is missing as well; what is missing is waited for. Each
// input is looked up, so everything is tried with the only one and with the last of three.
const MORE: [u32; 2] = [0, 2];

/// Adds inputs, and gives what the chain says of the last.
fn last_view(case: &mut Case, more: u32) -> &mut OutputView {
    for vout in 1..=more {
        add_input(case, vout);
    }
    case.views.last_mut().unwrap()
}

#[test]
fn declines_chain_script() {
    for more in MORE {
        declines(DeclineCode::ChainScript, |case| {
            *last_view(case, more) = seen(SPENT, ScriptBuf::from_bytes(vec![0x51]), 0);
        });
    }
}

#[test]
fn declines_chain_amount() {
    for more in MORE {
        declines(DeclineCode::ChainAmount, |case| {
            let script = case.beacon.script().to_owned();
            *last_view(case, more) = seen(SPENT - Amount::from_sat(1), script, 0);
        });
    }
}

#[test]
fn declines_chain_spent() {
    let spent_by = |case: &mut Case, more, spender| {
        let OutputView::Seen { spent_by, .. } = last_view(case, more) else {
            panic!("the valid case has seen its output");
        };
        *spent_by = Some(spender);
    };
    for more in MORE {
        declines(DeclineCode::ChainSpent, |case| {
            spent_by(case, more, txid(3));
        });
    }
    let mut case = Case::valid();
    let itself = case.request.pending_tx.compute_txid();
    spent_by(&mut case, 0, itself);
    reviewed(&case);
}

/// Also where the answer does not name the input.
#[test]
fn declines_chain_unseen() {
    for more in MORE {
        waits(DeclineCode::ChainUnseen, |case| {
            *last_view(case, more) = OutputView::Unseen;
        });
        waits(DeclineCode::ChainUnseen, |case| {
            last_view(case, more);
            case.views.pop();
        });
    }
}

#[test]
fn declines_chain_unconfirmed() {
    for more in MORE {
        waits(DeclineCode::ChainUnconfirmed, |case| {
            let script = case.beacon.script().to_owned();
            *last_view(case, more) = seen(SPENT, script, 0);
        });
    }
}
