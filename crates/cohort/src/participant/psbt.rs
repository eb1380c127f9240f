//! A session as a PSBT: what we know ourselves, and what the coordinator tells of others.
//!
//! What the coordinator says is information. It is about the transaction, the outputs and the keys that we know, or it is
//! refused; nonces and partial signatures in it must fit to each other, to our own, and to the aggregated nonces that we were
//! given.

use bitcoin::bip32::KeySource;
use bitcoin::{Psbt, Txid};

use super::state::{AskedPsbt, Membership, Progress, Session};
use super::{Event, Participant};
use crate::ids::{CohortId, PeerId, SessionId, Timestamp};
use crate::machine::{Code, Rejection, Step};
use crate::message::{PsbtRequest, SessionPsbt, shortened};
use crate::psbt::{
    Contributions, EXPIRY_S, PsbtError, Signing, check_finished, is_finished, parse, to_base64,
};
use crate::signer::KeyPath;
use crate::values::AggregatedNonce;

/// A session's PSBT, and what can be done with it.
#[derive(Clone, Debug, PartialEq)]
pub struct PsbtView {
    /// The PSBT.
    pub psbt: Psbt,
    /// Its transaction.
    pub txid: Txid,
    /// Whether nothing is left to sign.
    pub finished: bool,
    /// Whether it has all members' public nonces: without them no partial signature can be made.
    pub all_nonces: bool,
    /// Whether the aggregated nonces were given to us, and the public ones sum to them where all are there.
    pub aggregated: bool,
}

impl Participant {
    pub(super) fn ask_for_psbt(
        &self,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.cohort_with(session)?;
        let event = Event::PsbtRequested {
            cohort: cohort.handle,
            session,
        };
        let request = PsbtRequest {
            session_id: session,
            cohort_id: cohort.id,
        };
        Ok(Step::event(event).send(&cohort.coordinator, request, now.after(EXPIRY_S)))
    }

    /// The coordinator's answer, which counts once, and only where we asked.
    pub(super) fn psbt_given(
        &self,
        from: &PeerId,
        body: &SessionPsbt,
    ) -> Result<Step<Event>, Rejection> {
        let cohort = self.agreed_once(body.cohort_id, from)?;
        let asked = cohort.asked_psbt.as_ref();
        if asked.is_none_or(|asked| asked.session != body.session_id) {
            let expected = "none: we have not asked for it";
            return Err(Rejection::new(Code::Phase, "a PSBT", expected));
        }
        if !cohort.waits_for_psbt(body.session_id) {
            return Ok(Step::nothing());
        }
        let (cohort_id, session) = (cohort.handle, body.session_id);
        let known = cohort.fits(session, &body.psbt);
        Ok(Step::event(
            match known.and_then(|()| to_base64(&body.psbt)) {
                Ok(psbt) => Event::PsbtGiven {
                    cohort: cohort_id,
                    session,
                    psbt,
                },
                Err(error) => Event::PsbtRefused {
                    cohort: cohort_id,
                    session,
                    reason: shortened(&format!("the coordinator's PSBT is refused: {error}")),
                },
            },
        ))
    }

    /// A problem report on a session's thread: the coordinator gives no PSBT.
    pub(super) fn psbt_refused(
        &self,
        from: &PeerId,
        thread: CohortId,
        code: &str,
        comment: &str,
    ) -> Step<Event> {
        let session = SessionId(thread.0);
        let mut cohorts = self.state.cohorts.values();
        let asked =
            |cohort: &&Membership| cohort.coordinator == *from && cohort.waits_for_psbt(session);
        cohorts.find(asked).map_or_else(Step::nothing, |cohort| {
            Step::event(Event::PsbtRefused {
                cohort: cohort.handle,
                session,
                reason: shortened(&format!("the coordinator refuses: {code}: {comment}")),
            })
        })
    }

    /// The PSBT of a session under way: what we know, and what the coordinator told when it was last asked. Of a session that
    /// is over, what the coordinator told.
    pub fn psbt(
        &self,
        session: SessionId,
        origin: impl FnOnce(&KeyPath) -> Option<KeySource>,
    ) -> Result<PsbtView, Rejection> {
        let unusable = |error: PsbtError| {
            let expected = "a session whose PSBT can be shown";
            Rejection::new(Code::Invalid, error.to_string(), expected)
        };
        let cohort = self.cohort_with(session)?;
        let told = cohort.told(session).map_err(unusable)?;
        let open = cohort.session.as_ref().filter(|open| open.id == session);
        if let Some(psbt) = told.as_ref().filter(|told| is_finished(told)) {
            return Ok(PsbtView {
                txid: psbt.unsigned_tx.compute_txid(),
                psbt: psbt.clone(),
                finished: true,
                all_nonces: true,
                aggregated: true,
            });
        }
        let (Some(open), Some(beacon)) = (open, &cohort.beacon) else {
            let got = format!("session {session}, which is over here");
            let expected = "one that is under way, or the coordinator's answer: ask for it";
            return Err(Rejection::new(Code::Phase, got, expected));
        };
        let signing = open.signing(beacon);
        let told = told.map(|psbt| signing.read(&psbt)).transpose();
        let told = told.map_err(unusable)?.unwrap_or_default();
        let given = cohort.own(open).and(told);
        signing.check(&given, open.aggregated()).map_err(unusable)?;
        let origin = cohort.path.as_ref().and_then(origin);
        let origin = cohort.key.as_ref().zip(origin.as_ref());
        Ok(PsbtView {
            psbt: signing.psbt(&given, origin).map_err(unusable)?,
            txid: signing.tx.compute_txid(),
            finished: false,
            all_nonces: signing.has_all_nonces(&given),
            aggregated: open.aggregated().is_some(),
        })
    }

    /// The cohort whose session this is: under way, or signed.
    fn cohort_with(&self, session: SessionId) -> Result<&Membership, Rejection> {
        let of = |cohort: &&Membership| {
            let open = cohort
                .session
                .as_ref()
                .is_some_and(|open| open.id == session);
            open || cohort
                .candidates
                .iter()
                .any(|signed| signed.session == session)
        };
        let mut cohorts = self.state.cohorts.values().filter(of);
        match (cohorts.next(), cohorts.next()) {
            (Some(cohort), None) => Ok(cohort),
            (Some(_), Some(_)) => {
                let got = format!("session {session}, which two coordinators use");
                Err(Rejection::new(
                    Code::Invalid,
                    got,
                    "a session of one cohort",
                ))
            }
            (None, _) => {
                let got = format!("session {session}");
                let expected = "one that is under way or was signed here";
                Err(Rejection::new(Code::UnknownSession, got, expected))
            }
        }
    }
}

impl Membership {
    fn waits_for_psbt(&self, session: SessionId) -> bool {
        let asked = self.asked_psbt.as_ref();
        asked.is_some_and(|asked| asked.session == session && asked.answer.is_none())
    }

    /// What the coordinator told of this session, if it was asked and has answered.
    fn told(&self, session: SessionId) -> Result<Option<Psbt>, PsbtError> {
        let asked = self.asked_psbt.as_ref();
        match asked.filter(|asked| asked.session == session) {
            Some(AskedPsbt {
                answer: Some(Ok(text)),
                ..
            }) => parse(text.as_bytes()).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether a PSBT is about what we know of a session.
    fn fits(&self, session: SessionId, psbt: &Psbt) -> Result<(), PsbtError> {
        let Some(beacon) = &self.beacon else {
            return Err(PsbtError::SpentOutputs);
        };
        let open = self.session.as_ref().filter(|open| open.id == session);
        if is_finished(psbt) {
            let mut signed = self.candidates.iter();
            let signed = signed.find(|signed| signed.session == session);
            let tx = open.map(|open| &open.proposal.0.pending_tx);
            let tx = tx.or(signed.map(|signed| &signed.tx));
            return check_finished(psbt, beacon, tx.ok_or(PsbtError::Over)?);
        }
        let open = open.ok_or(PsbtError::Over)?;
        let signing = open.signing(beacon);
        let told = signing.read(psbt)?;
        let own = self.own(open);
        if let Some(key) = &self.key {
            let (told, known) = (told.nonces.get(key), own.nonces.get(key));
            let unknown = known.is_none() && !self.contributed.contains(&session);
            if told.is_some() && (unknown || known.is_some() && told != known) {
                return Err(PsbtError::NotOurs { key: *key });
            }
        }
        signing.check(&own.and(told), open.aggregated())
    }

    /// What we have given ourselves, as far as it is still known.
    fn own(&self, session: &Session) -> Contributions {
        let mut given = Contributions::default();
        let Some(key) = self.key else {
            return given;
        };
        let nonces = match &session.progress {
            Progress::NonceCommitted { nonces, .. } => Some(nonces),
            _ => session.imported.as_ref(),
        };
        given
            .nonces
            .extend(nonces.map(|nonces| (key, nonces.clone())));
        if let Progress::PartialReleased { partials, .. } = &session.progress {
            // Without the nonces beside them nobody could check them.
            let shown = given.nonces.contains_key(&key).then(|| partials.clone());
            given.partials.extend(shown.map(|partials| (key, partials)));
        }
        given
    }
}

impl Session {
    /// What is signed, and by whom.
    pub(super) fn signing<'a>(&'a self, beacon: &'a crate::musig::BeaconKey) -> Signing<'a> {
        Signing {
            beacon,
            tx: &self.proposal.0.pending_tx,
            spent: &self.proposal.0.spent_outputs,
        }
    }

    /// The aggregated nonces, once they were given to us.
    fn aggregated(&self) -> Option<&[AggregatedNonce]> {
        match &self.progress {
            Progress::PartialAuthorized { aggregated }
            | Progress::PartialReleased { aggregated, .. } => Some(aggregated),
            Progress::Requested | Progress::NonceCommitted { .. } => None,
        }
    }
}
