//! Evidence against a member: one file that convicts the holder of a cohort key, to anybody, without asking anybody.
//!
//! Everything follows from what the holder signed itself. The proof of possession names cohort, terms and the DID under
//! which the key was brought. The terms give the network; the cohort keys and the network give the beacon address; the
//! spent outputs pay that address, and the transaction's sighashes commit to them; each contribution's statement is signed
//! over session and sighashes. So no part of the file can be another without one of the checks failing.
//!
//! What is convicted is a key. That it is the named DID's, the key's holder says in its proof of possession, not the DID's
//! controller: whoever wanted to blame somebody else could have named that DID. The coordinator took the opt-in from a proven
//! sender and knows better, but nobody else can check that.
//!
//! A bad proof of possession convicts nobody: nothing valid was signed.

use std::fmt;

use bitcoin::{Transaction, TxOut};
use serde::{Deserialize, Serialize};

use crate::ids::{CohortId, PeerId, SessionId};
use crate::message::SpentOutput;
use crate::musig::{BeaconKey, KeySetError, sighashes};
use crate::statement;
use crate::terms::{AgreedTerms, Terms};
use crate::values::{
    AggregatedNonce, CohortKey, NonceBytes, PartialBytes, StatementSignature, transaction_hex,
};

/// Nonces, and the signature that makes them their sender's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedNonces {
    /// One for each input.
    pub nonce_contributions: Vec<NonceBytes>,
    /// Over [`statement::nonces`].
    pub signature: StatementSignature,
}

/// Partial signatures, the aggregated nonces they were made for, and the signature that makes them their sender's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPartials {
    /// One for each input.
    pub aggregated_nonces: Vec<AggregatedNonce>,
    /// One for each input.
    pub partial_signatures: Vec<PartialBytes>,
    /// Over [`statement::partials`].
    pub signature: StatementSignature,
}

/// What the holder of the key signed that no honest member signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Misdeed {
    /// Nonces one of which is no pair of points.
    BadNonce {
        /// What was signed.
        nonces: SignedNonces,
    },
    /// Partial signatures one of which does not verify.
    BadPartialSignature {
        /// The nonces that the same key signed for this session.
        nonces: SignedNonces,
        /// What was signed.
        partials: SignedPartials,
    },
    /// Two different contributions of one kind to one session.
    Equivocation {
        /// The one.
        first: Contribution,
        /// The other.
        second: Contribution,
    },
}

impl Misdeed {
    /// As written in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadNonce { .. } => "bad-nonce",
            Self::BadPartialSignature { .. } => "bad-partial-signature",
            Self::Equivocation { .. } => "equivocation",
        }
    }
}

/// A contribution of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Contribution {
    /// To the first phase.
    Nonces(SignedNonces),
    /// To the second phase.
    Partials(SignedPartials),
}

/// What every evidence file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvidenceType {
    /// The only version.
    #[serde(rename = "beacon-cohort/evidence/1")]
    V1,
}

/// Evidence, as it is stored, exported and verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it is.
    #[serde(rename = "type")]
    pub file: EvidenceType,
    /// The cohort.
    pub cohort_id: CohortId,
    /// The terms that its members agreed to.
    pub terms: AgreedTerms,
    /// All its keys, in KeySort order.
    pub cohort_keys: Vec<CohortKey>,
    /// The address that they make.
    pub beacon_address: String,
    /// The key that is convicted.
    pub culprit_key: CohortKey,
    /// Under which DID its holder brought it.
    pub culprit_did: PeerId,
    /// The holder's own word for that.
    pub proof_of_possession: StatementSignature,
    /// The session.
    pub session_id: SessionId,
    /// What was to be signed, unsigned.
    #[serde(with = "transaction_hex")]
    pub transaction: Transaction,
    /// What its inputs spend, in their order.
    pub spent_outputs: Vec<SpentOutput>,
    /// What was done.
    #[serde(flatten)]
    pub misdeed: Misdeed,
}

/// What is proven, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The key whose holder did it.
    pub key: CohortKey,
    /// The whole of it: who signed what, and what that does not say.
    pub sentence: String,
}

impl fmt::Display for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Why a file proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// More keys than any cohort has.
    #[error("got {0} cohort keys, expected at most {max}", max = Terms::MAX_MEMBERS)]
    TooManyKeys(usize),
    /// Keys that make no cohort.
    #[error(transparent)]
    Keys(#[from] KeySetError),
    /// Keys in another order than KeySort's.
    #[error("got cohort keys in another order, expected KeySort's")]
    KeyOrder,
    /// Another address than the keys make.
    #[error("got beacon address {got:?}, the keys make {expected}")]
    Address {
        /// As in the file.
        got: String,
        /// Recomputed.
        expected: String,
    },
    /// A key that is not the cohort's.
    #[error("the accused key {0} is not among the cohort's")]
    NotAMember(CohortKey),
    /// Nobody signed that the key is of this cohort and these terms.
    #[error(
        "the proof of possession does not verify: the accused key did not join this cohort under this DID on these terms"
    )]
    ProofOfPossession,
    /// Inputs that are signed, or other spent outputs than inputs.
    #[error(
        "got {inputs} inputs and {spent} spent outputs, expected an unsigned transaction with one output for each"
    )]
    Transaction {
        /// Inputs of the transaction.
        inputs: usize,
        /// Spent outputs in the file.
        spent: usize,
    },
    /// An input that spends something else than the beacon's.
    #[error("input {0} does not spend an output of the beacon address")]
    ForeignInput(usize),
    /// Not one for each input.
    #[error("got {got} {what}, expected {expected}: one for each input")]
    Count {
        /// Of what.
        what: &'static str,
        /// In the file.
        got: usize,
        /// Inputs of the transaction.
        expected: usize,
    },
    /// Signed by another key, or over something else.
    #[error("the accused key did not sign these {0}")]
    Signature(&'static str),
    /// Nothing is wrong with what was signed.
    #[error("nothing is wrong with what was signed: {0}")]
    Innocent(&'static str),
}

impl Evidence {
    /// Recomputes everything from the file alone, and says exactly what it proves.
    pub fn verify(&self) -> Result<Proven, EvidenceError> {
        let (beacon, sighashes) = self.subject()?;
        let case = Case {
            evidence: self,
            sighashes: &sighashes,
        };
        let signed = match &self.misdeed {
            Misdeed::BadNonce { nonces } => {
                case.nonces(nonces)?;
                let points = |bytes: &NonceBytes| bytes.points().is_ok();
                let bad = nonces
                    .nonce_contributions
                    .iter()
                    .position(|bytes| !points(bytes));
                let input =
                    bad.ok_or(EvidenceError::Innocent("every nonce is a pair of points"))?;
                format!("nonces of which the one for input {input} is no pair of points")
            }
            Misdeed::BadPartialSignature { nonces, partials } => {
                let innocent = EvidenceError::Innocent("every partial signature verifies");
                let input = case
                    .bad_partial(&beacon, nonces, partials)?
                    .ok_or(innocent)?;
                format!(
                    "a partial signature for input {input} that is not valid for its own nonces and the aggregated ones it names"
                )
            }
            Misdeed::Equivocation { first, second } => {
                let what = match (first, second) {
                    (Contribution::Nonces(first), Contribution::Nonces(second)) => {
                        case.nonces(first)?;
                        case.nonces(second)?;
                        differ(&first.nonce_contributions, &second.nonce_contributions)?;
                        "nonces"
                    }
                    (Contribution::Partials(first), Contribution::Partials(second)) => {
                        case.partials(first)?;
                        case.partials(second)?;
                        differ(&first.partial_signatures, &second.partial_signatures)?;
                        "partial signatures"
                    }
                    _ => {
                        return Err(EvidenceError::Innocent(
                            "nonces and partial signatures are both due",
                        ));
                    }
                };
                format!("two different sets of {what}")
            }
        };
        Ok(Proven {
            key: self.culprit_key,
            sentence: format!(
                "the holder of cohort key {}, a key of beacon {}, signed {signed}, for transaction {} in session {}. It brought \
                 the key into cohort {} under the DID {}; that the DID's controller agreed to that is not proven",
                self.culprit_key,
                self.beacon_address,
                self.transaction.compute_txid(),
                self.session_id,
                self.cohort_id,
                self.culprit_did,
            ),
        })
    }

    /// The beacon and the sighashes, once everything that leads to them holds.
    fn subject(&self) -> Result<(BeaconKey, Vec<[u8; 32]>), EvidenceError> {
        if self.cohort_keys.len() as u64 > Terms::MAX_MEMBERS {
            return Err(EvidenceError::TooManyKeys(self.cohort_keys.len()));
        }
        let beacon = self.terms.beacon(self.cohort_keys.iter().copied())?;
        if beacon.keys() != self.cohort_keys {
            return Err(EvidenceError::KeyOrder);
        }
        let address = beacon.address(self.terms.btc_network.bitcoin());
        if address != self.beacon_address {
            return Err(EvidenceError::Address {
                got: crate::message::shortened(&self.beacon_address),
                expected: address,
            });
        }
        let key = &self.culprit_key;
        if !self.cohort_keys.contains(key) {
            return Err(EvidenceError::NotAMember(*key));
        }
        let joined =
            statement::possession(self.cohort_id, &self.culprit_did, key, &self.terms.hash());
        if !joined.is_signed_by(key, &self.proof_of_possession) {
            return Err(EvidenceError::ProofOfPossession);
        }
        let spent: Vec<TxOut> = self
            .spent_outputs
            .iter()
            .map(SpentOutput::to_txout)
            .collect();
        let sighashes = sighashes(&self.transaction, &spent)
            .filter(|sighashes| !sighashes.is_empty() && is_unsigned(&self.transaction));
        let sighashes = sighashes.ok_or(EvidenceError::Transaction {
            inputs: self.transaction.input.len(),
            spent: spent.len(),
        })?;
        let foreign = spent
            .iter()
            .position(|output| *output.script_pubkey != *beacon.script());
        match foreign {
            Some(input) => Err(EvidenceError::ForeignInput(input)),
            None => Ok((beacon, sighashes)),
        }
    }
}

/// One file, with what follows from it.
struct Case<'a> {
    evidence: &'a Evidence,
    sighashes: &'a [[u8; 32]],
}

impl Case<'_> {
    fn nonces(&self, nonces: &SignedNonces) -> Result<(), EvidenceError> {
        self.one_each("nonces", nonces.nonce_contributions.len())?;
        let Evidence {
            session_id,
            culprit_key,
            ..
        } = self.evidence;
        let said = statement::nonces(*session_id, self.sighashes, &nonces.nonce_contributions);
        let signed = said.is_signed_by(culprit_key, &nonces.signature);
        signed
            .then_some(())
            .ok_or(EvidenceError::Signature("nonces"))
    }

    fn partials(&self, partials: &SignedPartials) -> Result<(), EvidenceError> {
        self.one_each("aggregated nonces", partials.aggregated_nonces.len())?;
        self.one_each("partial signatures", partials.partial_signatures.len())?;
        let Evidence {
            session_id,
            culprit_key,
            ..
        } = self.evidence;
        let said = statement::partials(
            *session_id,
            self.sighashes,
            &partials.aggregated_nonces,
            &partials.partial_signatures,
        );
        let signed = said.is_signed_by(culprit_key, &partials.signature);
        signed
            .then_some(())
            .ok_or(EvidenceError::Signature("partial signatures"))
    }

    /// The first input whose partial signature is not valid.
    fn bad_partial(
        &self,
        beacon: &BeaconKey,
        nonces: &SignedNonces,
        partials: &SignedPartials,
    ) -> Result<Option<usize>, EvidenceError> {
        self.nonces(nonces)?;
        self.partials(partials)?;
        let nonces: Result<Vec<_>, _> = nonces
            .nonce_contributions
            .iter()
            .map(NonceBytes::points)
            .collect();
        let nonces = nonces.map_err(|_| {
            EvidenceError::Innocent("its nonces were no points, so the session had ended")
        })?;
        let key = &self.evidence.culprit_key;
        let (aggregated, partials) = (&partials.aggregated_nonces, &partials.partial_signatures);
        Ok(beacon.first_invalid(key, self.sighashes, &nonces, aggregated, partials))
    }

    fn one_each(&self, what: &'static str, got: usize) -> Result<(), EvidenceError> {
        let expected = self.sighashes.len();
        let holds = got == expected;
        holds.then_some(()).ok_or(EvidenceError::Count {
            what,
            got,
            expected,
        })
    }
}

fn differ<T: PartialEq>(first: &[T], second: &[T]) -> Result<(), EvidenceError> {
    let differ = first != second;
    differ
        .then_some(())
        .ok_or(EvidenceError::Innocent("the two are the same"))
}

fn is_unsigned(tx: &Transaction) -> bool {
    let mut inputs = tx.input.iter();
    inputs.all(|input| input.script_sig.is_empty() && input.witness.is_empty())
}
