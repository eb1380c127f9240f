//! Watches what nodes are about to send: one public nonce and at most one partial signature for each (member,
//! session, input), over one message.
//!
//! It looks at what was committed to an outbox, whether it then arrives or not: from there on it may have left.

use std::collections::BTreeMap;

use beacon_cohort::ids::SessionId;
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
    requests: BTreeMap<Seat, (Transaction, Vec<SpentOutput>)>,
    nonces: BTreeMap<Seat, (Vec<NonceBytes>, StatementSignature)>,
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

    /// A signer made partial signatures.
    pub(super) fn signed(&mut self, node: NodeId, session: SessionId) -> Result<(), String> {
        let count = self.signed.entry((node, session)).or_default();
        *count += 1;
        same("use of secret nonces", node, session, *count == 1)
    }

    /// Every contribution is over the one transaction that its member was shown. `key` finds a member's cohort key.
    pub(super) fn check(
        &self,
        key: impl Fn(NodeId, SessionId) -> Option<CohortKey>,
    ) -> Result<(), String> {
        for (seat, (nonces, signature)) in &self.nonces {
            let sighashes = self.sighashes(*seat)?;
            let statement = statement::nonces(seat.1, &sighashes, nonces);
            let valid =
                key(seat.0, seat.1).is_some_and(|key| statement.is_signed_by(&key, signature));
            same("message of nonces", seat.0, seat.1, valid)?;
            same(
                "nonce count",
                seat.0,
                seat.1,
                nonces.len() == sighashes.len(),
            )?;
        }
        for (seat, (partials, signature)) in &self.partials {
            let aggregated = self.aggregated.get(seat).map_or(&[][..], Vec::as_slice);
            let statement =
                statement::partials(seat.1, &self.sighashes(*seat)?, aggregated, partials);
            let valid =
                key(seat.0, seat.1).is_some_and(|key| statement.is_signed_by(&key, signature));
            same("message of partial signatures", seat.0, seat.1, valid)?;
        }
        Ok(())
    }

    fn sighashes(&self, seat: Seat) -> Result<Vec<[u8; 32]>, String> {
        let (tx, spent) = self
            .requests
            .get(&seat)
            .ok_or_else(|| format!("{} was never asked in session {}", Name(seat.0), seat.1))?;
        let spent: Vec<TxOut> = spent.iter().map(SpentOutput::to_txout).collect();
        musig::sighashes(tx, &spent)
            .ok_or_else(|| format!("session {} has a request that cannot be signed", seat.1))
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
    use beacon_cohort::ids::CohortId;
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
        let (mut witness, session) = (Witness::default(), SessionId(Uuid::nil()));
        witness.signed(1, session).unwrap();
        witness.signed(2, session).unwrap();
        assert!(witness.signed(1, session).is_err());
    }

    #[test]
    fn a_contribution_to_a_session_that_its_member_was_not_shown() {
        let mut witness = Witness::default();
        witness.committed(1, 0, &nonces(1, G)).unwrap();
        let reason = witness.check(|_, _| G.parse().ok()).unwrap_err();
        assert!(reason.contains("P1 was never asked"), "{reason}");
    }
}
