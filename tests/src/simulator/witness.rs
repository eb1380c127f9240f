//! Watches what nodes are about to send: one public nonce and at most one partial signature for each (member,
//! session, input), over one message.
//!
//! It looks at what was committed to an outbox, whether it then arrives or not: from there on it may have left.

use std::collections::BTreeMap;

use beacon_cohort::ids::SessionId;
use beacon_cohort::message::{Message, SpentOutput};
use beacon_cohort::musig;
use beacon_cohort::statement;
use beacon_cohort::values::{CohortKey, PartialSignature, PublicNonce, StatementSignature};
use bitcoin::{Transaction, TxOut};

use super::world::{COORDINATOR, Name, NodeId};

/// A member in a session.
type Seat = (NodeId, SessionId);

#[derive(Default)]
pub(super) struct Witness {
    requests: BTreeMap<Seat, (Transaction, Vec<SpentOutput>)>,
    nonces: BTreeMap<Seat, (Vec<PublicNonce>, StatementSignature)>,
    partials: BTreeMap<Seat, (Vec<PartialSignature>, StatementSignature)>,
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
                    let used = *self.used.entry(nonce.to_bytes()).or_insert((seat, input));
                    same("use of a nonce", from, session, used == (seat, input))?;
                }
                Ok(())
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
            let statement = statement::partials(seat.1, &self.sighashes(*seat)?, partials);
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
