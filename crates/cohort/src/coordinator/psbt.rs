//! What is shown of a session as a PSBT: to its members on request, and to the operator.

use bitcoin::Psbt;

use super::{Cohort, Coordinator, Event, Session, Standing};
use crate::ids::{PeerId, SessionId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{PsbtRequest, SessionPsbt};
use crate::psbt::{Contributions, EXPIRY_S, PsbtError, Signing};
use crate::values::PartialBytes;

impl Coordinator {
    /// Nothing is recorded: a member may ask as often as it may send at all.
    pub(super) fn psbt_request(
        &self,
        peer: &PeerId,
        body: &PsbtRequest,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let (cohort, _) = self.membership(body.cohort_id, peer)?;
        let Some(psbt) = cohort.psbt(body.session_id) else {
            let got = format!("session {}", body.session_id);
            let expected = "one that is under way or was signed";
            return Err(Rejection::new(Code::UnknownSession, got, expected));
        };
        let psbt = psbt.and_then(|psbt| crate::psbt::to_base64(&psbt).map(|_| psbt));
        let psbt = psbt.map_err(|error| {
            Rejection::new(
                Code::Limit,
                error.to_string(),
                "a session with fewer inputs or members",
            )
        })?;
        let answer = SessionPsbt {
            session_id: body.session_id,
            cohort_id: cohort.id,
            psbt,
        };
        Ok(Step::nothing().send(peer, answer, now.after(EXPIRY_S)))
    }
}

impl Cohort {
    /// The PSBT of the session under way, with what was given so far, or of one that was signed. `None` of any other.
    pub fn psbt(&self, session: SessionId) -> Option<Result<Psbt, PsbtError>> {
        let beacon = self.beacon.as_ref()?;
        if let Some(open) = self.session.as_ref().filter(|open| open.id == session) {
            let signing = Signing {
                beacon,
                tx: &open.tx,
                spent: &open.spent,
            };
            return Some(signing.psbt(&self.given(open), None));
        }
        let mut signed = self.signals.iter().rev();
        let signal = signed
            .find(|signal| signal.session == session && signal.standing != Standing::Unsigned)?;
        let signing = Signing {
            beacon,
            tx: &signal.tx,
            spent: &signal.spent,
        };
        Some(signing.finished(&signal.tx))
    }

    fn given(&self, session: &Session) -> Contributions {
        let key = |peer: &PeerId| self.members.get(peer).map(|member| member.key);
        let nonces = session.nonces.iter();
        let nonces = nonces.filter_map(|(peer, given)| Some((key(peer)?, given.nonces.clone())));
        let partials = session.partials.iter().filter_map(|(peer, given)| {
            let scalars = given.partial_signatures.iter().map(PartialBytes::scalar);
            Some((key(peer)?, scalars.collect::<Result<_, _>>().ok()?))
        });
        Contributions {
            nonces: nonces.collect(),
            partials: partials.collect(),
        }
    }
}
