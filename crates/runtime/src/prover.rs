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
const PATIENCE: Duration = Duration::from_mins(2);

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

#[cfg(test)]
mod tests {
    use beacon_btcr2::{
        Document, GenesisBytes, Network, Patch, SignedUpdate, UnsignedUpdate, initial,
    };
    use beacon_chain::{
        BroadcastError, ChainError, ConfirmedSpend, OutputStatus, Spends, Tip, TransactionStatus,
        Utxo,
    };
    use beacon_cohort::ids::{CohortId, PeerId};
    use beacon_cohort::message::DidContest;
    use beacon_cohort::values::StatementSignature;
    use beacon_signal::Index;
    use bitcoin::blockdata::constants::genesis_block;
    use bitcoin::hashes::Hash as _;
    use bitcoin::secp256k1::{Keypair, Secp256k1};
    use bitcoin::{Amount, BlockHash, OutPoint, Script, ScriptBuf, Transaction, TxIn, TxOut, Txid};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    /// A chain with one spend at most.
    #[derive(Default)]
    struct Short {
        spend: Option<(ScriptBuf, Transaction)>,
        down: bool,
    }

    fn not_asked<T>() -> Result<T, ChainError> {
        Err(ChainError::unavailable("not asked for"))
    }

    fn newest() -> Tip {
        Tip {
            height: 200,
            hash: BlockHash::from_byte_array([1; 32]),
        }
    }

    impl Chain for Short {
        fn tip(&self) -> Result<Tip, ChainError> {
            not_asked()
        }

        fn is_in_best_chain(&self, _: Tip) -> Result<bool, ChainError> {
            Ok(true)
        }

        fn genesis(&self) -> Result<BlockHash, ChainError> {
            Ok(genesis_block(bitcoin::Network::Regtest).block_hash())
        }

        fn unspent(&self, _: &Script) -> Result<Vec<Utxo>, ChainError> {
            not_asked()
        }

        fn spends(&self, script: &Script) -> Result<Spends, ChainError> {
            if self.down {
                return Err(ChainError::unavailable("down"));
            }
            let spend = self.spend.iter().filter(|(of, _)| **of == *script);
            let spend = spend.map(|(_, transaction)| ConfirmedSpend {
                transaction: transaction.clone(),
                height: 200,
                block_hash: newest().hash,
                block_time: 1_800_000_000,
                median_time: 1_800_000_000,
            });
            let (tip, transactions) = (newest(), spend.collect());
            Ok(Spends { tip, transactions })
        }

        fn output(&self, _: OutPoint) -> Result<OutputStatus, ChainError> {
            not_asked()
        }

        fn transaction(&self, _: Txid) -> Result<TransactionStatus, ChainError> {
            not_asked()
        }

        fn raw_transaction(&self, _: Txid) -> Result<Option<Transaction>, ChainError> {
            not_asked()
        }

        fn broadcast(&self, _: &Transaction) -> Result<(), BroadcastError> {
            Err(BroadcastError::unavailable("not asked for"))
        }

        fn fee_rate(&self, _: u16) -> Result<Option<u64>, ChainError> {
            not_asked()
        }
    }

    const COHORT: CohortId = CohortId(Uuid::from_bytes([1; 16]));

    fn pair(number: u8) -> Keypair {
        Keypair::from_seckey_slice(&Secp256k1::new(), &[number; 32]).unwrap()
    }

    fn peer() -> PeerId {
        PeerId::new("did:example:peer")
    }

    fn document() -> Document {
        let did = Did::new(Network::Regtest, GenesisBytes::Key(pair(1).public_key()));
        initial::from_key(&did).unwrap().unwrap()
    }

    fn method() -> String {
        document().did().absolute("#initialKey")
    }

    /// The claim of [`peer`], signed with this key.
    fn claim(key: u8) -> ControlQuestion {
        let did = document().did().to_string();
        let said = statement::control(COHORT, &peer(), &did);
        let signature = proof::sign(&pair(key), &[0; 32], said.digest());
        ControlQuestion {
            index: Index::of_did(&did),
            peer: peer(),
            contest: DidContest {
                cohort_id: COHORT,
                did,
                sidecar: None,
                method: method(),
                signature: StatementSignature::from_bytes(&signature.serialize()).unwrap(),
            },
        }
    }

    fn judged(question: ControlQuestion, chain: Short) -> ControlVerdict {
        in_time(question, Arc::new(chain))
    }

    #[track_caller]
    fn unproven(question: ControlQuestion, chain: Short, why: &str) {
        match judged(question, chain) {
            ControlVerdict::Unproven(reason) => assert!(reason.contains(why), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_key_of_the_document_proves_control() {
        assert_eq!(judged(claim(1), Short::default()), ControlVerdict::Proven);
        let down = Short {
            down: true,
            ..Short::default()
        };
        let verdict = judged(claim(1), down);
        assert!(
            matches!(verdict, ControlVerdict::Unavailable(_)),
            "{verdict:?}"
        );
    }

    /// Another key; a claim that was made for another cohort, by another sender, of another DID; another method; what is no
    /// DID, or one of another network; sidecar data that is none.
    #[test]
    fn what_does_not_prove_control() {
        unproven(claim(2), Short::default(), "the signature is not of");
        let changed = |change: fn(&mut ControlQuestion)| {
            let mut question = claim(1);
            change(&mut question);
            question
        };
        let other = |question: &mut ControlQuestion| question.contest.cohort_id.0 = Uuid::nil();
        unproven(changed(other), Short::default(), "the signature is not of");
        let other =
            |question: &mut ControlQuestion| question.peer = PeerId::new("did:example:thief");
        unproven(changed(other), Short::default(), "the signature is not of");
        let other = |question: &mut ControlQuestion| {
            let did = Did::new(Network::Regtest, GenesisBytes::Key(pair(2).public_key()));
            question.contest.method = did.absolute("#initialKey");
            question.contest.did = did.to_string();
        };
        unproven(changed(other), Short::default(), "the signature is not of");
        let other = |question: &mut ControlQuestion| question.contest.method.push('2');
        unproven(changed(other), Short::default(), "capabilityInvocation");
        let other = |question: &mut ControlQuestion| question.contest.did = "did:example:a".into();
        unproven(changed(other), Short::default(), "did:btcr2");
        let other = |question: &mut ControlQuestion| {
            let key = GenesisBytes::Key(pair(1).public_key());
            question.contest.did = Did::new(Network::Signet, key).to_string();
        };
        unproven(changed(other), Short::default(), "genesis block");
        let other = |question: &mut ControlQuestion| question.contest.sidecar = Some("{".into());
        unproven(changed(other), Short::default(), "");
    }

    /// The update that puts key 2 into the place of key 1, and a chain that announces it.
    fn rotation() -> (SignedUpdate, impl Fn() -> Short) {
        let source = document();
        let value = proof::multikey(&pair(2).public_key());
        let patch = json!([{ "op": "replace", "path": "/verificationMethod/0/publicKeyMultibase", "value": value }]);
        let patch = Patch::from_value(patch).unwrap();
        let (unsigned, _) = UnsignedUpdate::construct(&source, &patch, 2).unwrap();
        let sign = |message: &[u8; 32]| proof::sign(&pair(1), &[0; 32], message);
        let update = unsigned.sign(&source, &method(), sign).unwrap();
        let transaction = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![TxIn::default()],
            output: vec![TxOut {
                value: Amount::ZERO,
                script_pubkey: ScriptBuf::new_op_return(update.id().0),
            }],
        };
        let script = source.beacons()[0].script();
        let chain = move || Short {
            spend: Some((script.clone(), transaction.clone())),
            down: false,
        };
        (update, chain)
    }

    /// With the first confirmation of the rotation the old key proves nothing any more, and who leaves the update out proves
    /// nothing either.
    #[test]
    fn a_key_that_was_rotated_away_proves_nothing() {
        let (update, chain) = rotation();
        let with_update = |mut question: ControlQuestion| {
            let sidecar = Sidecar {
                updates: vec![update.value().clone()],
                ..Sidecar::default()
            };
            question.contest.sidecar = Some(sidecar.to_value().to_string());
            question
        };
        assert_eq!(
            judged(with_update(claim(2)), chain()),
            ControlVerdict::Proven
        );
        unproven(with_update(claim(1)), chain(), "the signature is not of");
        unproven(claim(1), chain(), "");
    }
}
