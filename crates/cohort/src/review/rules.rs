//! The rules of a signal, one function each, in the order of the table: of the transaction itself here.

mod content;
mod others;

use std::collections::BTreeSet;

use beacon_signal::transaction;
use bitcoin::{Amount, TxOut};

pub(super) use self::content::{
    a_leaf_for_each_index, map_carries_own_updates, one_proof_for_each_index,
    proofs_carry_own_leaves,
};
pub(super) use self::others::{
    chain_knows_the_amount, chain_knows_the_script, confirmed, keeps_replaced_inputs,
    leaves_published_alone, not_in_quarantine, not_spent_otherwise, one_root_for_each_round,
    pays_more_than_replaced, replaces_nothing_mined, replaces_what_we_signed, respects_live, seen,
};
use super::ensure;
use super::signal::{ProposedSignal, SignalContext};
use crate::message::Kind;

type Proposal = ProposedSignal;
type Context<'a> = SignalContext<'a>;

pub(super) fn of_a_known_kind(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let (kind, replaces) = (&proposal.0.kind, proposal.0.replaces);
    let known = match kind {
        Kind::Signal => replaces.is_none(),
        Kind::Replacement => replaces.is_some(),
        Kind::Close => {
            let agreed = context.terms.close_script.is_some();
            return ensure(agreed, || {
                "got a closing spend, expected none: the terms have no close_script".to_owned()
            });
        }
        Kind::Other(_) => false,
    };
    ensure(known, || {
        let what = replaces.map_or("nothing".to_owned(), |txid| txid.to_string());
        format!(
            "got kind {kind:?} that replaces {what}, expected a signal that replaces nothing, or a replacement that names what"
        )
    })
}

pub(super) fn of_the_round(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let (got, expected) = match (&proposal.0.kind, &context.replaced) {
        (Kind::Replacement, None) => return Ok(()), // Another check's business.
        (Kind::Replacement, Some(replaced)) => (proposal.0.round, replaced.round),
        _ => (proposal.0.round, context.round),
    };
    ensure(got == expected, || {
        format!("got round {got}, expected {expected}")
    })
}

pub(super) fn inputs_within_the_terms(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let count = proposal.0.pending_tx.input.len();
    let max = usize::try_from(context.terms.max_inputs).unwrap_or(usize::MAX);
    ensure((1..=max).contains(&count), || {
        format!("got {count} inputs, expected 1 to {max}")
    })?;
    let inputs = proposal.0.pending_tx.input.iter();
    let outpoints: BTreeSet<_> = inputs.map(|input| input.previous_output).collect();
    ensure(outpoints.len() == count, || {
        "got an input twice, expected each once".to_owned()
    })
}

pub(super) fn unsigned(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let signed = |input: &bitcoin::TxIn| !input.script_sig.is_empty() || !input.witness.is_empty();
    ensure(!proposal.0.pending_tx.input.iter().any(signed), || {
        "got an input with a signature or script, expected none".to_owned()
    })
}

pub(super) fn one_spent_output_each(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let (spent, inputs) = (
        proposal.0.spent_outputs.len(),
        proposal.0.pending_tx.input.len(),
    );
    ensure(spent == inputs, || {
        format!("got {spent} spent outputs, expected {inputs}")
    })
}

pub(super) fn spends_the_beacon(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let foreign = proposal
        .0
        .spent_outputs
        .iter()
        .find(|output| *output.script != *context.beacon.script());
    foreign.map_or(Ok(()), |output| {
        Err(format!(
            "got script {:x}, expected {:x}",
            output.script,
            context.beacon.script()
        ))
    })
}

pub(super) fn version_two(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    ensure(transaction::has_version_two(tx), || {
        format!("got version {}, expected 2", tx.version)
    })
}

pub(super) fn no_lock_time(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    ensure(transaction::has_no_lock_time(tx), || {
        format!("got lock time {}, expected 0", tx.lock_time)
    })
}

pub(super) fn signal_sequences(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        transaction::has_signal_sequences(&proposal.0.pending_tx),
        || "got another sequence, expected 0xfffffffd".to_owned(),
    )
}

pub(super) fn signal_bytes_last(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        transaction::signal_bytes(&proposal.0.pending_tx).is_some(),
        || "got another last output, expected OP_RETURN and a push of 32 bytes".to_owned(),
    )
}

pub(super) fn signal_without_value(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    ensure(
        transaction::signal_has_no_value(&proposal.0.pending_tx),
        || "got a last output with a value, expected 0 sat".to_owned(),
    )
}

pub(super) fn one_op_return(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let count = transaction::op_return_count(&proposal.0.pending_tx);
    ensure(count <= 1, || {
        format!("got {count} OP_RETURN outputs, expected 1")
    })
}

pub(super) fn at_most_one_change(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let count = transaction::change_outputs(&proposal.0.pending_tx).len();
    ensure(count <= 1, || {
        format!("got {count} outputs before the last, expected at most 1")
    })
}

pub(super) fn change_to_the_beacon(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let foreign = transaction::change_outputs(&proposal.0.pending_tx)
        .iter()
        .find(|output| {
            // A second OP_RETURN is another check's business.
            !output.script_pubkey.is_op_return()
                && *output.script_pubkey != *context.beacon.script()
        });
    foreign.map_or(Ok(()), |output| {
        Err(format!(
            "got change to {:x}, expected {:x}",
            output.script_pubkey,
            context.beacon.script()
        ))
    })
}

pub(super) fn change_not_dust(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let change = transaction::change_outputs(&proposal.0.pending_tx);
    let dust = change.iter().find(|output| transaction::is_dust(output));
    dust.map_or(Ok(()), |output| {
        Err(format!("got change of {}, which is dust", output.value))
    })
}

pub(super) fn pays_the_close_script(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let Some(script) = &context.terms.close_script else {
        return Ok(()); // Another check's business.
    };
    let [paid] = proposal.0.pending_tx.output.as_slice() else {
        let count = proposal.0.pending_tx.output.len();
        return Err(format!(
            "got {count} outputs, expected 1 of a closing spend"
        ));
    };
    ensure(paid.script_pubkey == *script, || {
        format!(
            "got an output to {:x}, expected {script:x} of the terms",
            paid.script_pubkey
        )
    })?;
    ensure(!transaction::is_dust(paid), || {
        format!("got an output of {}, which is dust", paid.value)
    })
}

pub(super) fn announces_nothing(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let (proofs, map) = (proposal.0.proofs.len(), &proposal.0.map);
    ensure(proofs == 0 && map.is_none(), || {
        format!("got {proofs} proofs or a map, expected none: a closing spend announces nothing")
    })
}

pub(super) fn balanced(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let (spent, outputs) = (proposal.spent(), &proposal.0.pending_tx.output);
    let total = |outputs: &[TxOut]| {
        outputs
            .iter()
            .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
    };
    let covered =
        matches!((total(&spent), total(outputs)), (Some(spent), Some(paid)) if paid <= spent);
    ensure(covered, || {
        "got outputs that are worth more than the inputs".to_owned()
    })
}

pub(super) fn fee_under_the_cap(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    let Some(fee) = transaction::fee(tx, &proposal.spent()) else {
        return Ok(()); // No fee can be computed: the checks of balance and count say so.
    };
    let (script, rate) = (context.beacon.script(), context.terms.max_fee_rate_sat_vb);
    let cap = match proposal.0.kind {
        // Nothing is dropped that would be left to the fee.
        Kind::Close => Amount::from_sat(transaction::signed_vsize(tx, script).saturating_mul(rate)),
        _ => transaction::max_fee(tx, script, rate),
    };
    ensure(fee <= cap, || {
        format!("got a fee of {fee}, expected at most {cap}")
    })
}

pub(super) fn within_the_balance(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let values = proposal.0.spent_outputs.iter().map(|output| output.value);
    let spent = values.fold(0_u64, u64::saturating_add);
    let max = context.terms.max_balance_sat;
    ensure(spent <= max, || {
        format!("got inputs worth {spent} sat, expected at most the {max} of the terms")
    })
}
