//! What outlives a session (docs/protocol.md, section of that name), as far as one member can break it. These checks run
//! when a partial signature is about to leave, and at the end over everything that a member ever signed.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::message::SignatureAuthorization;
use beacon_cohort::participant::{Candidate, Membership, Standing};
use beacon_signal::{Index, Strictness};
use bitcoin::{Transaction, Txid};

/// A member is about to let its partial signatures go: everything that proves the signal is in its log, and the
/// transaction leaves no live one free to be mined beside it, whether the log still has it or an older copy took its place.
pub(super) fn check_release(
    membership: &Membership,
    former: &[Membership],
    message: &SignatureAuthorization,
) -> Result<(), String> {
    let candidates = &membership.candidates;
    let found = candidates
        .iter()
        .find(|candidate| candidate.session == message.session_id);
    let Some(signed) = found else {
        return Err("nothing in the log would prove this signal".to_owned());
    };
    check_proven(membership, signed)?;
    for other in candidates {
        let live = !matches!(
            other.standing,
            Standing::Buried { .. } | Standing::Superseded
        );
        if live && other.txid != signed.txid && !excludes(&signed.tx, &other.tx, candidates) {
            return Err(format!(
                "{} leaves {} free, which may still be mined",
                signed.txid, other.txid
            ));
        }
        let of_one_round = other.round == signed.round && !other.is_close() && !signed.is_close();
        if live && of_one_round && other.root != signed.root {
            return Err(format!(
                "round {} has two live roots, {:?} and {:?}",
                signed.round, other.root, signed.root
            ));
        }
    }
    // What an older copy has forgotten is never mined beside this one either.
    for other in former.iter().flat_map(|before| &before.candidates) {
        let line = ancestors(&signed.tx, candidates);
        let line = candidates.iter().filter(|one| line.contains(&one.txid));
        let mut line = line.map(|one| &one.tx).chain([&signed.tx]);
        if !line.any(|tx| tx.compute_txid() == other.txid || excludes(tx, &other.tx, candidates)) {
            return Err(format!(
                "{} leaves {} free, which was signed and then forgotten",
                signed.txid, other.txid
            ));
        }
    }
    Ok(())
}

/// A complete proof for each DID that the member answered for then.
fn check_proven(membership: &Membership, candidate: &Candidate) -> Result<(), String> {
    let missing = membership
        .dids
        .keys()
        .find(|index| !candidate.is_close() && !candidate.proofs.contains_key(index));
    if let Some(index) = missing {
        return Err(format!("no proof for {index} in {}", candidate.txid));
    }
    let Some(root) = candidate.root else {
        return Ok(()); // It announces nothing.
    };
    for (index, proof) in &candidate.proofs {
        proof
            .verify(index, &proof.leaf_value(), &root, Strictness::Resolver)
            .map_err(|error| format!("{} is not proven: {error}", candidate.txid))?;
        if proof.nonce.is_none() && !membership.terms.empty_leaf_allowed {
            return Err(format!("no leaf nonce for {index} in {}", candidate.txid));
        }
    }
    Ok(())
}

/// Whether `tx` can only be mined instead of `live`, or after it.
fn excludes(tx: &Transaction, live: &Transaction, all: &[Candidate]) -> bool {
    let conflicts = tx.input.iter().any(|input| {
        let mut taken = live.input.iter();
        taken.any(|taken| taken.previous_output == input.previous_output)
    });
    conflicts || ancestors(tx, all).contains(&live.compute_txid())
}

/// Ids of the transactions on which this one builds.
fn ancestors(tx: &Transaction, all: &[Candidate]) -> BTreeSet<Txid> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Transaction> = vec![tx];
    while let Some(tx) = open.pop() {
        for input in &tx.input {
            let parent = input.previous_output.txid;
            if found.insert(parent) {
                let known = all.iter().filter(|candidate| candidate.txid == parent);
                open.extend(known.map(|candidate| &candidate.tx));
            }
        }
    }
    found
}

/// Within a round each leaf is the same byte for byte; each round has new leaf nonces.
pub(super) fn check_leaves<'a>(
    memberships: impl Iterator<Item = &'a Membership>,
) -> Result<(), String> {
    let mut nonces: BTreeMap<[u8; 32], (String, u64, Index)> = BTreeMap::new();
    for membership in memberships {
        let mut leaves = BTreeMap::new();
        for candidate in &membership.candidates {
            for (index, proof) in &candidate.proofs {
                let (round, leaf) = (candidate.round, proof.leaf_value());
                let first = *leaves.entry((round, *index)).or_insert(leaf);
                if first != leaf {
                    return Err(format!(
                        "two leaves for {index} in round {round}: {first}, {leaf}"
                    ));
                }
                let Some(nonce) = &proof.nonce else {
                    continue;
                };
                let here = (membership.id.to_string(), round, *index);
                let before = nonces
                    .entry(*nonce.as_bytes())
                    .or_insert_with(|| here.clone());
                if *before != here {
                    return Err(format!("one leaf nonce for {before:?} and {here:?}"));
                }
            }
        }
    }
    Ok(())
}

/// What must hold is broken, one thing at a time.
#[cfg(test)]
mod tests {
    use beacon_cohort::message::Message;
    use beacon_cohort::terms::Flow;
    use beacon_signal::Root;
    use bitcoin::Amount;

    use super::super::{Settings, Simulation};
    use super::*;

    /// A member that is about to sign the second of two signals, and what it is about to send.
    fn releasing() -> (Membership, SignatureAuthorization) {
        let settings = Settings {
            flow: Flow::Pull,
            ..Settings::default()
        };
        let mut simulation = Simulation::new(5, settings);
        simulation.keep_letters();
        simulation.form().unwrap();
        for _ in 0..2 {
            simulation.want();
            simulation.announce().unwrap();
        }
        let sent = simulation.letters().iter().rev().find_map(|letter| {
            match letter.message().filter(|_| letter.from() == 1) {
                Some(Message::SignatureAuthorization(body)) => Some(body),
                _ => None,
            }
        });
        let mut membership = simulation.member(1).unwrap().clone();
        for candidate in &mut membership.candidates {
            candidate.standing = Standing::Live;
        }
        (membership, sent.unwrap())
    }

    fn refused(membership: &Membership, message: &SignatureAuthorization, wording: &str) {
        let reason = check_release(membership, &[], message).unwrap_err();
        assert!(reason.contains(wording), "{reason}");
    }

    #[test]
    fn a_signature_without_its_proofs() {
        let (membership, message) = releasing();
        check_release(&membership, &[], &message).unwrap();

        let mut nothing = membership.clone();
        nothing.candidates.pop();
        refused(&nothing, &message, "nothing in the log");
        let mut unproven = membership.clone();
        unproven.candidates[1].proofs.clear();
        refused(&unproven, &message, "no proof for");
        let mut other = membership.clone();
        other.candidates[1].root = Some(Root([7; 32]));
        refused(&other, &message, "is not proven");
    }

    #[test]
    fn a_signature_beside_a_live_transaction() {
        let (membership, message) = releasing();
        let mut beside = membership.clone();
        let free = &mut beside.candidates[0];
        free.tx.input[0].previous_output.vout += 1;
        free.tx.output[0].value -= Amount::ONE_SAT;
        free.txid = free.tx.compute_txid();
        refused(&beside, &message, "which may still be mined");

        let mut roots = membership;
        roots.candidates[0].round = roots.candidates[1].round;
        refused(&roots, &message, "two live roots");
    }

    #[test]
    fn leaves_that_change_within_a_round_or_repeat_over_rounds() {
        let (membership, _) = releasing();
        let check = |membership: &Membership| check_leaves(std::iter::once(membership));
        check(&membership).unwrap();

        let mut changed = membership.clone();
        changed.candidates[0].round = changed.candidates[1].round;
        assert!(check(&changed).unwrap_err().contains("two leaves for"));
        let mut repeated = membership;
        let first = repeated.candidates[0].proofs.clone();
        repeated.candidates[1].proofs = first;
        assert!(check(&repeated).unwrap_err().contains("one leaf nonce for"));
    }
}
