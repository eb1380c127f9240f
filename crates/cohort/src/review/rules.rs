//! The rules of a signal, one function each, in the order of the table.

use std::collections::BTreeSet;

use beacon_signal::{Index, LeafValue, Root, Strictness, UpdateId, transaction};
use bitcoin::{Amount, OutPoint, TxIn, TxOut};

use super::ensure;
use super::live::{ignored_live, undone};
use super::signal::{OwnLeaf, ProposedSignal, SignalContext};
use crate::machine::OutputView;
use crate::message::{IndexProof, Kind, SpentOutput};
use crate::terms::BeaconType;

type Proposal = ProposedSignal;
type Context<'a> = SignalContext<'a>;

pub(super) fn of_a_known_kind(proposal: &Proposal, _: &Context<'_>) -> Result<(), String> {
    let (kind, replaces) = (&proposal.0.kind, proposal.0.replaces);
    let known = match kind {
        Kind::Signal => replaces.is_none(),
        Kind::Replacement => replaces.is_some(),
        Kind::Close | Kind::Other(_) => false,
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
    let cap = transaction::max_fee(
        tx,
        context.beacon.script(),
        context.terms.max_fee_rate_sat_vb,
    );
    ensure(fee <= cap, || {
        format!("got a fee of {fee}, expected at most {cap}")
    })
}

pub(super) fn one_proof_for_each_index(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let (indexes, not_yet) = match context.terms.beacon_type {
        BeaconType::Smt => (context.leaves.as_slice(), context.registering.as_slice()),
        BeaconType::Cas => (&[][..], &[][..]),
    };
    // No more either: what is asked of us is written to our log.
    // The coordinator's word that an index is registered may come after the request.
    let not_yet = not_yet
        .iter()
        .filter(|index| proposal.proof(index).is_some());
    let (got, expected) = (proposal.0.proofs.len(), indexes.len() + not_yet.count());
    ensure(got == expected, || {
        format!(
            "got {got} proofs, expected {expected}, one for each registered index of an SMT cohort"
        )
    })?;
    let missing = indexes
        .iter()
        .find(|(index, _)| proposal.proof(index).is_none());
    missing.map_or(Ok(()), |(index, _)| {
        Err(format!(
            "got no proof or several for index {index}, expected one"
        ))
    })
}

pub(super) fn a_leaf_for_each_index(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    if proposal.0.kind == Kind::Replacement {
        return Ok(()); // An index that was registered after the round has none in it.
    }
    let missing = context.leaves.iter().find(|(_, leaf)| leaf.is_none());
    match missing {
        Some((index, _)) if !context.terms.empty_leaf_allowed => Err(format!(
            "got a request before a leaf was given for index {index}"
        )),
        _ => Ok(()),
    }
}

pub(super) fn proofs_carry_own_leaves(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let Some(root) = transaction::signal_bytes(&proposal.0.pending_tx) else {
        return Ok(()); // Another check's business.
    };
    let own = known_leaves(context);
    let own = own.map(|(index, leaf)| (index, leaf.map_or(LeafValue::EMPTY, OwnLeaf::value)));
    // No leaf was sent for these.
    let not_yet = context.registering.iter();
    let not_yet = not_yet.map(|index| (index, LeafValue::EMPTY));
    for (index, value) in own.chain(not_yet) {
        if let Some(IndexProof { proof, .. }) = proposal.proof(index) {
            proof
                .verify(index, &value, &Root(root), Strictness::Member)
                .map_err(|error| format!("proof for index {index}: {error}"))?;
        }
    }
    Ok(())
}

/// The member's leaves, without those that a replaced signal has and the member has forgotten.
fn known_leaves<'a>(
    context: &'a Context<'_>,
) -> impl Iterator<Item = (&'a Index, Option<&'a OwnLeaf>)> {
    let replaced = context.replaced.iter();
    let forgotten: BTreeSet<_> = replaced.flat_map(|old| &old.unproven).collect();
    let leaves = context.leaves.iter();
    leaves
        .filter(move |(index, _)| !forgotten.contains(index))
        .map(|(index, leaf)| (index, leaf.as_deref()))
}

pub(super) fn map_carries_own_updates(
    proposal: &Proposal,
    context: &Context<'_>,
) -> Result<(), String> {
    let (map, root) = match (context.terms.beacon_type, &proposal.0.map) {
        (BeaconType::Smt, None) => return Ok(()),
        (BeaconType::Smt, Some(_)) => {
            return Err("got a map, expected none in an SMT cohort".to_owned());
        }
        (BeaconType::Cas, None) => return Err("got no map in a CAS cohort".to_owned()),
        (BeaconType::Cas, Some(map)) => {
            let Some(root) = transaction::signal_bytes(&proposal.0.pending_tx) else {
                return Ok(()); // Another check's business.
            };
            (map, Root(root))
        }
    };
    let members = context.beacon.keys().len() as u64;
    let most = members.saturating_mul(context.terms.max_indexes_per_member);
    ensure(map.len() as u64 <= most, || {
        let got = map.len();
        format!(
            "got a map of {got} DIDs, expected at most {most}, as many as members may answer for"
        )
    })?;
    let hash = map.signal_bytes();
    ensure(hash == root, || {
        format!("got a map with hash {hash}, expected {root}, the signal bytes")
    })?;
    let announced = map.by_index();
    let own = known_leaves(context).map(|(index, leaf)| (index, leaf.and_then(|leaf| leaf.update)));
    let not_yet = context.registering.iter().map(|index| (index, None));
    for (index, wanted) in own.chain(not_yet) {
        let got = announced.get(index).copied();
        ensure(got == wanted, || {
            let text = |update: Option<_>| {
                update.map_or("no update".to_owned(), |update: UpdateId| {
                    format!("update {update}")
                })
            };
            format!(
                "got {} for index {index}, expected {}",
                text(got),
                text(wanted)
            )
        })?;
    }
    Ok(())
}

pub(super) fn replaces_what_we_signed(
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

pub(super) fn replaces_nothing_mined(_: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let mined = context.replaced.as_ref().and_then(|old| old.mined);
    mined.map_or(Ok(()), |txid| {
        Err(format!(
            "transaction {txid} is in a block: there is nothing to replace"
        ))
    })
}

pub(super) fn keeps_replaced_inputs(
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

pub(super) fn pays_more_than_replaced(
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

pub(super) fn respects_live(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    ignored_live(&proposal.0.pending_tx.input, &context.live).map_or(Ok(()), |txid| {
        Err(format!(
            "transaction {txid} was signed and may still be mined, and this one neither builds on it nor conflicts with it"
        ))
    })
}

pub(super) fn leaves_published_alone(
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

pub(super) fn not_in_quarantine(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
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

pub(super) fn within_the_balance(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let values = proposal.0.spent_outputs.iter().map(|output| output.value);
    let spent = values.fold(0_u64, u64::saturating_add);
    let max = context.terms.max_balance_sat;
    ensure(spent <= max, || {
        format!("got inputs worth {spent} sat, expected at most the {max} of the terms")
    })
}

pub(super) fn one_root_for_each_round(
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

pub(super) fn chain_knows_the_script(
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

pub(super) fn chain_knows_the_amount(
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

pub(super) fn not_spent_otherwise(
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

pub(super) fn seen(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
    let unseen = views(proposal, context).find(|(_, view)| **view == OutputView::Unseen);
    unseen.map_or(Ok(()), |(outpoint, _)| {
        Err(format!("our chain source does not know {outpoint}"))
    })
}

pub(super) fn confirmed(proposal: &Proposal, context: &Context<'_>) -> Result<(), String> {
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
