//! What the signal bytes commit to: every leaf of the member, and nothing else of it.

use std::collections::BTreeSet;

use beacon_signal::{Index, LeafValue, Root, Strictness, UpdateId, transaction};

use super::{Context, Proposal, ensure};
use crate::message::{IndexProof, Kind};
use crate::review::OwnLeaf;
use crate::terms::BeaconType;

pub(in crate::review) fn one_proof_for_each_index(
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

pub(in crate::review) fn a_leaf_for_each_index(
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

pub(in crate::review) fn proofs_carry_own_leaves(
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

pub(in crate::review) fn map_carries_own_updates(
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
