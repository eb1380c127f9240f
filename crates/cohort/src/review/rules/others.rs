//! Beside other transactions: what is replaced, what may still be mined, and what the chain has.

use std::collections::BTreeSet;

use beacon_signal::{Root, transaction};
use bitcoin::{OutPoint, TxIn, TxOut};

use super::{Context, Proposal, ensure};
use crate::machine::OutputView;
use crate::message::SpentOutput;
use crate::review::live::{ignored_live, undone};

pub(in crate::review) fn replaces_what_we_signed(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    match (proposal.0.replaces, &context.replaced) {
        (Some(txid), None) => Err(format!(
            "got a replacement of transaction {txid}, expected one that this member signed and that may still be mined"
        )),
        _ => Ok(()),
    }
}

pub(in crate::review) fn replaces_nothing_mined(
    _: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let mined = context.replaced.as_ref().and_then(|old| old.mined);
    mined.map_or(Ok(()), |txid| {
        Err(format!(
            "transaction {txid} is in a block: there is nothing to replace"
        ))
    })
}

pub(in crate::review) fn keeps_replaced_inputs(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let outpoints = |inputs: &[TxIn]| -> BTreeSet<OutPoint> {
        inputs.iter().map(|input| input.previous_output).collect()
    };
    let kept = outpoints(&proposal.0.pending_tx.input);
    let old = context.replaced.as_ref();
    let wanted = old.map_or_else(BTreeSet::new, |old| outpoints(&old.tx.input));
    wanted.difference(&kept).next().map_or(Ok(()), |missing| {
        Err(format!(
            "got inputs without {missing}, expected all inputs of the transaction that is replaced"
        ))
    })
}

pub(in crate::review) fn pays_more_than_replaced(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let tx = &proposal.0.pending_tx;
    let spent = proposal.spent();
    let value = |input: &TxIn| {
        let inputs = tx.input.iter().zip(&spent);
        let mut known = inputs.filter(|(kept, _)| kept.previous_output == input.previous_output);
        known.next().map(|(_, output)| output.clone())
    };
    let Some(old) = &context.replaced else {
        return Ok(());
    };
    let old_spent: Option<Vec<TxOut>> = old.tx.input.iter().map(value).collect();
    let old_fee = old_spent.and_then(|spent| transaction::fee(old.tx, &spent));
    let (Some(fee), Some(old_fee)) = (transaction::fee(tx, &spent), old_fee) else {
        return Ok(()); // The checks of balance, count and inputs say why there is none.
    };
    ensure(fee > old_fee, || {
        format!(
            "got a fee of {fee}, expected more than the {old_fee} of the transaction that is replaced"
        )
    })
}

pub(in crate::review) fn respects_live(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    ignored_live(&proposal.0.pending_tx.input, &context.live).map_or(Ok(()), |txid| {
        Err(format!(
            "transaction {txid} was signed and may still be mined, and this one neither builds on it nor conflicts with it"
        ))
    })
}

pub(in crate::review) fn leaves_published_alone(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let inputs = &proposal.0.pending_tx.input;
    undone(inputs, &context.published, &context.live).map_or(Ok(()), |published| {
        Err(format!(
            "got a spend of what transaction {published} spends, or builds on, which was published for another round and would be undone"
        ))
    })
}

pub(in crate::review) fn not_in_quarantine(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let Some(quarantine) = context.quarantine else {
        return Ok(());
    };
    let mut inputs = proposal.0.pending_tx.input.iter();
    let held = inputs.find(|input| quarantine.holds(&input.previous_output));
    held.map_or(Ok(()), |input| {
        Err(format!(
            "this member's state was restored from an old copy, and it may have signed another spend of {}: it waits until that is spent or its user confirms",
            input.previous_output
        ))
    })
}

pub(in crate::review) fn one_root_for_each_round(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let Some(root) = transaction::signal_bytes(&proposal.0.pending_tx) else {
        return Ok(()); // Another check's business.
    };
    let signed = context.signed_roots.iter().find(|signed| signed.0 != root);
    signed.map_or(Ok(()), |signed| {
        Err(format!(
            "got root {}, expected {signed}, which was signed for this round and may still be mined",
            Root(root)
        ))
    })
}

pub(in crate::review) fn chain_knows_the_script(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    compare_with_chain(proposal, context, |claimed, known| {
        ensure(claimed.script == known.script_pubkey, || {
            format!(
                "got script {:x}, the chain has {:x}",
                claimed.script, known.script_pubkey
            )
        })
    })
}

pub(in crate::review) fn chain_knows_the_amount(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    compare_with_chain(proposal, context, |claimed, known| {
        ensure(claimed.value == known.value.to_sat(), || {
            format!("got {} sat, the chain has {}", claimed.value, known.value)
        })
    })
}

fn compare_with_chain(
    proposal: &Proposal,
    context: &Context<'_>,
    compare: impl Fn(&SpentOutput, &TxOut) -> Result<(), String>,
) -> Result<(), String> {
    let views = views(proposal, context).zip(&proposal.0.spent_outputs);
    for ((outpoint, view), claimed) in views {
        // What is not seen yet is waited for below.
        if let OutputView::Seen { output, .. } = view {
            compare(claimed, output).map_err(|problem| format!("{outpoint}: {problem}"))?;
        }
    }
    Ok(())
}

/// What the chain says of each input, in their order.
fn views<'a>(
    proposal: &'a Proposal,
    context: &Context<'a>,
) -> impl Iterator<Item = (OutPoint, &'a OutputView)> + use<'a> {
    let known = context.views;
    let inputs = proposal.0.pending_tx.input.iter();
    inputs.map(move |input| {
        let outpoint = input.previous_output;
        let mut views = known.iter().filter(|(at, _)| *at == outpoint);
        let view = views.next().map_or(&OutputView::Unseen, |(_, view)| view);
        (outpoint, view)
    })
}

pub(in crate::review) fn not_spent_otherwise(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let own = proposal.0.pending_tx.compute_txid();
    let versions = context.replaced.iter().flat_map(|old| &old.versions);
    let versions: BTreeSet<_> = versions.chain([&own]).collect();
    let spender = views(proposal, context).find_map(|(outpoint, view)| match view {
        OutputView::Seen {
            spent_by: Some(other),
            ..
        } if !versions.contains(other) => Some((outpoint, other)),
        _ => None,
    });
    spender.map_or(Ok(()), |(outpoint, other)| {
        Err(format!("{outpoint} is spent by {other}"))
    })
}

pub(in crate::review) fn seen(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let unseen = views(proposal, context).find(|(_, view)| **view == OutputView::Unseen);
    unseen.map_or(Ok(()), |(outpoint, _)| {
        Err(format!("our chain source does not know {outpoint}"))
    })
}

pub(in crate::review) fn confirmed(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let waits = |view: &OutputView| {
        matches!(
            view,
            OutputView::Seen {
                confirmations: 0,
                ..
            }
        )
    };
    let waiting = views(proposal, context).find(|(_, view)| waits(view));
    waiting.map_or(Ok(()), |(outpoint, _)| {
        Err(format!("{outpoint} has no confirmation"))
    })
}
