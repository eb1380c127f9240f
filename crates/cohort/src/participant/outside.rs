//! A signer outside of this process: it holds the cohort's key too, makes nonces and partial signatures, and its user carries
//! them as PSBTs.
//!
//! What holds for our own signer holds for it. Its nonces leave only for a signal that was reviewed, its partial signatures
//! only once what proves the signal is durable, and after they were verified. Each phase takes one import, and no nonce is
//! taken twice. Its secrets are not here, so a restart loses nothing.

use std::collections::BTreeSet;

use bitcoin::Psbt;

use super::state::{AskedPsbt, Membership, Progress, Session};
use super::{Event, Participant};
use crate::ids::SessionId;
use crate::machine::{Code, Effect, Rejection, Step};
use crate::psbt::PsbtError;
use crate::review::ReviewedSignal;
use crate::signer::SignerRequest;
use crate::values::{AggregatedNonce, CohortKey, PartialSignature, PublicNonce};

impl Participant {
    pub(super) fn choose_signer(
        cohort: &Membership,
        outside: bool,
    ) -> Result<Step<Event>, Rejection> {
        if cohort.outside_signer == outside {
            return Ok(Step::nothing());
        }
        // Nonces are where they were made.
        let made = |open: &Session| {
            open.imported.is_some() || !matches!(open.progress, Progress::Requested)
        };
        if let Some(open) = cohort.session.as_ref().filter(|open| made(open)) {
            let got = format!("another signer in the middle of session {}", open.id);
            return Err(Rejection::new(Code::Phase, got, "one when it is over"));
        }
        Ok(Step::event(Event::SignerChosen {
            cohort: cohort.handle,
            outside,
        }))
    }

    /// What follows from a review in which everything held: our own signer makes nonces, or signs for those of the one outside,
    /// which its user may not have brought yet.
    pub(super) fn nonces_for(
        cohort: &Membership,
        session: &Session,
        signal: Box<ReviewedSignal>,
    ) -> Step<Event> {
        let request = match session.imported.clone() {
            Some(nonces) => SignerRequest::AdoptNonces { signal, nonces },
            None if cohort.outside_signer => return Step::nothing(),
            None => SignerRequest::MakeNonces(signal),
        };
        Step::nothing().with(Effect::Sign(request))
    }

    pub(super) fn import_psbt(&self, psbt: &Psbt) -> Result<Step<Event>, Rejection> {
        let (cohort, session) = self.session_of(psbt)?;
        let (Some(beacon), Some(key)) = (&cohort.beacon, cohort.key) else {
            return Ok(Step::nothing()); // A session has both.
        };
        if !cohort.outside_signer {
            let got = format!(
                "a PSBT for cohort {}, which this agent signs in itself",
                cohort.id
            );
            let expected = "one of a cohort with an outside signer";
            return Err(Rejection::new(Code::Invalid, got, expected));
        }
        let given = session
            .signing(beacon)
            .read(psbt)
            .map_err(|error| invalid(&error))?;
        let (nonces, partials) = (given.nonces.get(&key), given.partials.get(&key));
        match &session.progress {
            Progress::Requested => {
                let nonces = nonces.ok_or_else(|| missing("public nonces", &key))?;
                Self::import_nonces(cohort, session, nonces)
            }
            Progress::NonceCommitted { nonces: known, .. } => {
                if partials.is_some() {
                    let expected = "none before the aggregated nonces have come";
                    return Err(Rejection::new(Code::Phase, "partial signatures", expected));
                }
                same(nonces.is_none_or(|nonces| nonces == known))
            }
            Progress::PartialAuthorized { aggregated } => {
                let known = session.imported.as_ref();
                if nonces.is_some() && nonces != known {
                    return same(false);
                }
                let (Some(known), Some(partials)) = (known, partials) else {
                    return Err(missing("partial signatures", &key));
                };
                Self::import_partials(cohort, session, known, aggregated, partials)
            }
            Progress::PartialReleased {
                partials: known, ..
            } => same(partials.is_none_or(|partials| partials == known)),
        }
    }

    fn import_nonces(
        cohort: &Membership,
        session: &Session,
        nonces: &[PublicNonce],
    ) -> Result<Step<Event>, Rejection> {
        if let Some(known) = &session.imported {
            return same(known == nonces);
        }
        // A nonce that signs twice gives the key away.
        let texts: BTreeSet<_> = nonces.iter().map(ToString::to_string).collect();
        if texts.len() != nonces.len() || !texts.is_disjoint(&cohort.outside_nonces) {
            let got = "a public nonce that was given before, for another input or session";
            let expected = "a new one for every input of every session";
            return Err(Rejection::new(Code::Conflict, got, expected));
        }
        Ok(Step::event(Event::NoncesImported {
            cohort: cohort.handle,
            session: session.id,
            nonces: nonces.to_vec(),
        }))
    }

    fn import_partials(
        cohort: &Membership,
        session: &Session,
        nonces: &[PublicNonce],
        aggregated: &[AggregatedNonce],
        partials: &[PartialSignature],
    ) -> Result<Step<Event>, Rejection> {
        let (Some(beacon), Some(key), Some(path)) = (&cohort.beacon, cohort.key, cohort.path)
        else {
            return Ok(Step::nothing()); // A session has all of them.
        };
        let sighashes = session
            .signing(beacon)
            .sighashes()
            .map_err(|error| invalid(&error))?;
        let bytes: Vec<_> = partials.iter().map(|partial| (*partial).into()).collect();
        if let Some(input) = beacon.first_invalid(&key, &sighashes, nonces, aggregated, &bytes) {
            let got = format!("a partial signature for input {input} that does not verify");
            let expected = "one by our key, with the nonce that was imported and the aggregated nonce; nothing was sent";
            return Err(Rejection::new(Code::PartialSignature, got, expected));
        }
        Ok(
            Step::nothing().with(Effect::Sign(SignerRequest::AdoptPartials {
                cohort: cohort.handle,
                session: session.id,
                path,
                sighashes,
                nonces: aggregated.to_vec(),
                partials: partials.to_vec(),
            })),
        )
    }

    /// The session under way that a PSBT is about.
    fn session_of(&self, psbt: &Psbt) -> Result<(&Membership, &Session), Rejection> {
        let txid = psbt.unsigned_tx.compute_txid();
        let mut open = self.state.cohorts.values().filter_map(|cohort| {
            let session = cohort.session.as_ref()?;
            (session.proposal.0.pending_tx.compute_txid() == txid).then_some((cohort, session))
        });
        open.next().ok_or_else(|| {
            let got = format!("a PSBT of transaction {txid}");
            Rejection::new(
                Code::UnknownSession,
                got,
                "that of a session under way: see `sessions`",
            )
        })
    }
}

impl Membership {
    /// The choice of a signer, and what comes of PSBTs.
    pub(super) fn apply_outside(&mut self, event: &Event) {
        match event {
            Event::SignerChosen { outside, .. } => self.outside_signer = *outside,
            Event::NoncesImported {
                session, nonces, ..
            } => {
                if let Some(open) = self.session.as_mut().filter(|open| open.id == *session) {
                    let texts = nonces.iter().map(ToString::to_string);
                    self.outside_nonces.extend(texts);
                    open.imported = Some(nonces.clone());
                    open.approved = true;
                }
            }
            Event::PsbtRequested { session, .. } => {
                self.asked_psbt = Some(AskedPsbt {
                    session: *session,
                    answer: None,
                });
            }
            Event::PsbtGiven { session, psbt, .. } => {
                self.psbt_answered(*session, Ok(psbt.clone()));
            }
            Event::PsbtRefused {
                session, reason, ..
            } => self.psbt_answered(*session, Err(reason.clone())),
            _ => {}
        }
    }

    fn psbt_answered(&mut self, session: SessionId, answer: Result<String, String>) {
        let asked = self.asked_psbt.as_mut();
        if let Some(asked) = asked.filter(|asked| asked.session == session) {
            asked.answer = Some(answer);
        }
    }
}

/// What was imported before is imported again, or something else is.
fn same(same: bool) -> Result<Step<Event>, Rejection> {
    if same {
        return Ok(Step::nothing());
    }
    let expected = "those that were imported before, or a new session";
    Err(Rejection::new(
        Code::Conflict,
        "other values for this session",
        expected,
    ))
}

fn missing(what: &str, key: &CohortKey) -> Rejection {
    let got = format!("a PSBT without {what} of our key {key}");
    Rejection::new(
        Code::Invalid,
        got,
        "one to which the outside signer has added them",
    )
}

fn invalid(error: &PsbtError) -> Rejection {
    let expected = "a PSBT of this session with what the outside signer added";
    Rejection::new(Code::Invalid, error.to_string(), expected)
}
