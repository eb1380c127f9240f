//! Whether a peer controls a DID: resolved on threads of their own, and told to the driver.
//!
//! The signature must be of a key that may update the newest document as the chain has it now: a key that was rotated away
//! proves nothing, though its update may not be deep yet.

use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use beacon_btcr2::{Did, ResolutionOptions, Sidecar, json, proof};
use beacon_chain::Chain;
use beacon_cohort::machine::{ControlAnswer, ControlQuestion, ControlVerdict};
use beacon_cohort::statement;
use beacon_cohort::values::CohortKey;
use tokio::sync::mpsc::WeakSender;

use crate::resolve::{
    CasDirectory, ChainSource, Progress, SignalSource, SourceError, Sources, resolve,
};
use crate::watcher::Report;

/// Questions that wait. Others are dropped, and asked again by the machine.
const MAX_QUESTIONS: usize = 64;
/// Time for one resolution: a document may name many beacons with long histories.
const PATIENCE: Duration = Duration::from_secs(120);

/// The thread's handle. Dropping it ends the thread after what it is doing.
#[derive(Debug)]
pub(crate) struct Prover {
    questions: SyncSender<ControlQuestion>,
}

impl Prover {
    /// Starts the thread.
    pub(crate) fn start(
        chain: Arc<dyn Chain>,
        reports: WeakSender<Report>,
    ) -> std::io::Result<Self> {
        let (questions, inbox) = mpsc::sync_channel::<ControlQuestion>(MAX_QUESTIONS);
        std::thread::Builder::new()
            .name("prover".to_owned())
            .spawn(move || {
                for question in inbox {
                    let answer = ControlAnswer {
                        cohort: question.contest.cohort_id,
                        index: question.index,
                        peer: question.peer.clone(),
                        verdict: in_time(question, Arc::clone(&chain)),
                    };
                    let Some(reports) = reports.upgrade() else {
                        return;
                    };
                    if reports.blocking_send(Report::Control(answer)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { questions })
    }

    /// Finds it out. `false` when too many questions wait.
    #[must_use]
    pub(crate) fn ask(&self, question: ControlQuestion) -> bool {
        self.questions.try_send(question).is_ok()
    }
}

/// A judgement within [`PATIENCE`]. A resolution that takes longer is given up: it ends at its next question.
fn in_time(question: ControlQuestion, chain: Arc<dyn Chain>) -> ControlVerdict {
    let progress = Arc::new(Progress::default());
    let (verdict, judged) = mpsc::sync_channel(1);
    let theirs = Arc::clone(&progress);
    let thread = std::thread::Builder::new().name("resolution".to_owned());
    let started = thread.spawn(move || {
        // Nobody listens when it took too long.
        let _ = verdict.send(judge(&question, chain, &theirs));
    });
    if let Err(error) = started {
        return ControlVerdict::Unavailable(error.to_string());
    }
    judged.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        progress.give_up();
        ControlVerdict::Unavailable(format!(
            "not resolved within {} s: {progress}",
            PATIENCE.as_secs()
        ))
    })
}

fn judge(question: &ControlQuestion, chain: Arc<dyn Chain>, progress: &Progress) -> ControlVerdict {
    match proven(question, chain, progress) {
        Ok(verdict) => verdict,
        Err(reason) => ControlVerdict::Unproven(reason),
    }
}

/// `Err` says why control is not proven.
fn proven(
    question: &ControlQuestion,
    chain: Arc<dyn Chain>,
    progress: &Progress,
) -> Result<ControlVerdict, String> {
    let contest = &question.contest;
    let did: Did = contest.did.parse().map_err(text)?;
    let mut options = ResolutionOptions::default();
    options.set_min_conf(1).map_err(text)?;
    if let Some(sidecar) = &contest.sidecar {
        let sidecar = json::parse(sidecar.as_bytes(), &Sidecar::LIMITS).map_err(text)?;
        options.sidecar = Sidecar::from_value(sidecar).map_err(text)?;
    }
    let sources = Sources {
        signals: SignalSource::Chain(ChainSource::new(chain, None)),
        objects: CasDirectory::default(),
    };
    let resolution = match resolve(&did, &options, &sources, progress) {
        Ok(resolution) => resolution,
        Err(error @ (SourceError::OtherNetwork { .. } | SourceError::NotServed { .. })) => {
            return Err(text(error));
        }
        Err(error) => return Ok(ControlVerdict::Unavailable(text(error))),
    };
    let resolved = resolution.0.map_err(text)?;
    if resolved.document.is_deactivated() {
        return Err("the DID is deactivated".to_owned());
    }
    let key = resolved
        .document
        .update_key(&contest.method)
        .map_err(text)?;
    let key = proof::parse_multikey(key).map_err(text)?;
    let key = CohortKey::from_bytes(&key.serialize()).map_err(text)?;
    let said = statement::control(contest.cohort_id, &question.peer, &contest.did);
    if said.is_signed_by(&key, &contest.signature) {
        Ok(ControlVerdict::Proven)
    } else {
        Err(format!(
            "the signature is not of {}'s key over this cohort, its sender and the DID",
            contest.method
        ))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
