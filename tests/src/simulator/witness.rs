//! Watches what nodes are about to send: one public nonce and at most one partial signature for each (member,
//! session, input), over one message.
//!
//! It looks at what was committed to an outbox, whether it then arrives or not: from there on it may have left.

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::ids::{CohortId, SessionId};
use beacon_cohort::message::{Message, SpentOutput};
use beacon_cohort::musig;
use beacon_cohort::statement;
use beacon_cohort::values::{
    AggregatedNonce, CohortKey, NonceBytes, PartialBytes, StatementSignature,
};
use bitcoin::{Transaction, TxOut};

use super::world::{COORDINATOR, Name, NodeId};

/// A member in a session.
type Seat = (NodeId, SessionId);

#[derive(Default)]
pub(super) struct Witness {
    /// What the coordinator's machine asked.
    requests: BTreeMap<Seat, (Transaction, Vec<SpentOutput>)>,
    /// What members were shown: more than one thing, where an attacker sits between.
    shown: BTreeMap<Seat, Vec<(Transaction, Vec<SpentOutput>)>>,
    cohorts: BTreeMap<SessionId, CohortId>,
    /// The session in which a member contributed nonces last, by cohort.
    latest: BTreeMap<(NodeId, CohortId), SessionId>,
    /// Aggregated nonces that members were shown.
    heard: BTreeMap<Seat, Vec<Vec<AggregatedNonce>>>,
    nonces: BTreeMap<Seat, (Vec<NonceBytes>, StatementSignature)>,
    /// Whose nonces reached the coordinator.
    arrived: BTreeSet<Seat>,
    aggregated: BTreeMap<Seat, Vec<AggregatedNonce>>,
    partials: BTreeMap<Seat, (Vec<PartialBytes>, StatementSignature)>,
    /// Where a public nonce was contributed, by its bytes.
    used: BTreeMap<[u8; 66], (Seat, usize)>,
    /// How often a signer made partial signatures.
    signed: BTreeMap<Seat, u32>,
}

impl Witness {
    /// A message stands in an outbox.
    pub(super) fn committed(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &Message,
    ) -> Result<(), String> {
        match message {
            Message::AuthorizationRequest(body) if from == COORDINATOR => {
                let request = (body.pending_tx.clone(), body.spent_outputs.clone());
                let first = self
                    .requests
                    .entry((to, body.session_id))
                    .or_insert_with(|| request.clone());
                same("request", to, body.session_id, *first == request)
            }
            Message::NonceContribution(body) => {
                let (seat, session) = ((from, body.session_id), body.session_id);
                let given = (body.nonce_contributions.clone(), body.signature);
                let first = self.nonces.entry(seat).or_insert_with(|| given.clone());
                same("public nonce", from, session, first.0 == given.0)?;
                for (input, nonce) in given.0.iter().enumerate() {
                    let used = *self.used.entry(nonce.0).or_insert((seat, input));
                    same("use of a nonce", from, session, used == (seat, input))?;
                }
                self.latest.insert((from, body.cohort_id), session);
                Ok(())
            }
            Message::AggregatedNonces(body) if from == COORDINATOR => {
                let given = body.aggregated_nonces.clone();
                let first = self.aggregated.entry((to, body.session_id));
                let first = first.or_insert_with(|| given.clone());
                same("aggregated nonce", to, body.session_id, *first == given)
            }
            Message::SignatureAuthorization(body) => {
                let (seat, session) = ((from, body.session_id), body.session_id);
                let given = (body.partial_signatures.clone(), body.signature);
                let first = self.partials.entry(seat).or_insert_with(|| given.clone());
                same("partial signature", from, session, first.0 == given.0)?;
                same(
                    "partial signature without a nonce",
                    from,
                    session,
                    self.nonces.contains_key(&seat),
                )
            }
            _ => Ok(()),
        }
    }

    /// A message reached its recipient.
    pub(super) fn received(&mut self, from: NodeId, node: NodeId, message: &Message) {
        if let Message::NonceContribution(body) = message {
            self.arrived.insert((from, body.session_id));
        }
        if let Message::AuthorizationRequest(body) = message {
            let shown = self.shown.entry((node, body.session_id)).or_default();
            let request = (body.pending_tx.clone(), body.spent_outputs.clone());
            if !shown.contains(&request) {
                shown.push(request);
            }
            self.cohorts.insert(body.session_id, body.cohort_id);
        }
        if let Message::AggregatedNonces(body) = message {
            let heard = self.heard.entry((node, body.session_id)).or_default();
            if !heard.contains(&body.aggregated_nonces) {
                heard.push(body.aggregated_nonces.clone());
            }
        }
    }

    /// A node's disk went back. Nonces that nobody ever got are forgotten with it: other ones may be given for their session,
    /// and nobody can tell.
    pub(super) fn restored(&mut self, node: NodeId) {
        let arrived = &self.arrived;
        self.nonces
            .retain(|seat, _| seat.0 != node || arrived.contains(seat));
    }

    /// The cohort of a session.
    pub(super) fn cohort_of(&self, session: SessionId) -> Option<CohortId> {
        self.cohorts.get(&session).copied()
    }

    /// A signer made partial signatures. A later session of the cohort destroys the nonces of the ones before.
    pub(super) fn signed(
        &mut self,
        node: NodeId,
        cohort: CohortId,
        session: SessionId,
    ) -> Result<(), String> {
        let count = self.signed.entry((node, session)).or_default();
        *count += 1;
        same("use of secret nonces", node, session, *count == 1)?;
        let latest = self.latest.get(&(node, cohort));
        same(
            "session's nonces in the place of a destroyed one's",
            node,
            session,
            latest == Some(&session),
        )
    }

    /// Every contribution is over the one transaction that its member was shown. `key` finds a member's cohort key.
    pub(super) fn check(
        &self,
        key: impl Fn(NodeId, SessionId) -> Option<CohortKey>,
    ) -> Result<(), String> {
        for (seat, (nonces, signature)) in &self.nonces {
            let (node, session) = *seat;
            let key = key(node, session);
            let mut over = Vec::new();
            for sighashes in self.sighashes(*seat)? {
                let statement = statement::nonces(session, &sighashes, nonces);
                let count = nonces.len() == sighashes.len();
                if count && key.is_some_and(|key| statement.is_signed_by(&key, signature)) {
                    over.push(sighashes);
                }
            }
            let [sighashes] = over.as_slice() else {
                return same("message of nonces", node, session, false);
            };
            let Some((partials, signature)) = self.partials.get(seat) else {
                continue;
            };
            let heard = self.heard.get(seat).map_or(&[][..], Vec::as_slice);
            let over = heard.iter().filter(|aggregated| {
                let statement = statement::partials(session, sighashes, aggregated, partials);
                key.is_some_and(|key| statement.is_signed_by(&key, signature))
            });
            let once = over.count() == 1;
            same("message of partial signatures", node, session, once)?;
        }
        Ok(())
    }

    /// The sighashes of everything that a member was shown in a session.
    fn sighashes(&self, seat: Seat) -> Result<Vec<Vec<[u8; 32]>>, String> {
        let shown = self
            .shown
            .get(&seat)
            .ok_or_else(|| format!("{} was never asked in session {}", Name(seat.0), seat.1))?;
        let sighashes = shown.iter().filter_map(|(tx, spent)| {
            let spent: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
            musig::sighashes(tx, &spent)
        });
        Ok(sighashes.collect())
    }
}

fn same(what: &str, node: NodeId, session: SessionId, holds: bool) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!(
            "{} in session {session}: a second or foreign {what}",
            Name(node)
        ))
    }
}

#[cfg(test)]
mod tests {
    use beacon_cohort::message::{NonceContribution, SignatureAuthorization};
    use uuid::Uuid;

    use super::*;

    const G: &str = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    const G2: &str = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";

    fn nonces(session: u8, first: &str) -> Message {
        let nonce: NonceBytes = format!("{first}{G}").parse().unwrap();
        Message::NonceContribution(NonceContribution {
            session_id: SessionId(Uuid::from_bytes([session; 16])),
            cohort_id: CohortId(Uuid::nil()),
            nonce_contribution: nonce,
            nonce_contributions: vec![nonce],
            signature: "01".repeat(64).parse().unwrap(),
        })
    }

    fn partials(session: u8, scalar: &str) -> Message {
        let partial: PartialBytes = scalar.repeat(32).parse().unwrap();
        Message::SignatureAuthorization(SignatureAuthorization {
            session_id: SessionId(Uuid::from_bytes([session; 16])),
            cohort_id: CohortId(Uuid::nil()),
            partial_signature: partial,
            partial_signatures: vec![partial],
            signature: "01".repeat(64).parse().unwrap(),
        })
    }

    #[test]
    fn one_nonce_and_one_partial_signature_repeated_at_will_and_no_other() {
        let mut witness = Witness::default();
        for _ in 0..2 {
            witness.committed(1, 0, &nonces(1, G)).unwrap();
            witness.committed(1, 0, &partials(1, "02")).unwrap();
        }
        assert!(
            witness.committed(1, 0, &nonces(1, G2)).is_err(),
            "another nonce"
        );
        assert!(
            witness.committed(1, 0, &partials(1, "03")).is_err(),
            "another partial"
        );
        assert!(
            witness.committed(1, 0, &nonces(2, G)).is_err(),
            "an old nonce"
        );
        assert!(
            witness.committed(2, 0, &nonces(1, G)).is_err(),
            "a member's nonce"
        );
        assert!(
            witness.committed(3, 0, &partials(1, "04")).is_err(),
            "no nonce before"
        );
    }

    #[test]
    fn secret_nonces_are_used_once() {
        let mut witness = Witness::default();
        let (cohort, session) = (CohortId(Uuid::nil()), SessionId(Uuid::from_bytes([1; 16])));
        for member in [1, 2] {
            witness
                .committed(member, 0, &nonces(1, [G, G2][member - 1]))
                .unwrap();
            witness.signed(member, cohort, session).unwrap();
        }
        assert!(witness.signed(1, cohort, session).is_err());
    }

    #[test]
    fn a_later_session_destroys_the_nonces_of_the_one_before() {
        let mut witness = Witness::default();
        let session = |number| SessionId(Uuid::from_bytes([number; 16]));
        witness.committed(1, 0, &nonces(1, G)).unwrap();
        witness.committed(1, 0, &nonces(2, G2)).unwrap();
        let cohort = CohortId(Uuid::nil());
        assert!(witness.signed(1, cohort, session(1)).is_err());
        witness.signed(1, cohort, session(2)).unwrap();
    }

    #[test]
    fn a_contribution_to_a_session_that_its_member_was_not_shown() {
        let mut witness = Witness::default();
        witness.committed(1, 0, &nonces(1, G)).unwrap();
        let reason = witness.check(|_, _| G.parse().ok()).unwrap_err();
        assert!(reason.contains("P1 was never asked"), "{reason}");
    }
}
