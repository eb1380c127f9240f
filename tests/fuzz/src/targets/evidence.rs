//! Evidence files: nobody is convicted of what it did not sign.

use beacon_cohort::evidence::{
    Contribution, Evidence, EvidenceType, Misdeed, SignedNonces, SignedPartials,
};
use beacon_cohort::ids::{CohortId, PeerId, SessionId, Timestamp};
use beacon_cohort::message::SpentOutput;
use beacon_cohort::musig::{BeaconKey, sighashes};
use beacon_cohort::statement::{self, Statement};
use beacon_cohort::terms::{AgreedTerms, BtcNetwork, Terms};
use beacon_cohort::values::{
    AggregatedNonce, CohortKey, NonceBytes, PartialBytes, StatementSignature,
};
use beacon_signal::transaction;
use bitcoin::{Amount, OutPoint, TxOut};
use secp256k1::{Keypair, schnorr};
use uuid::Uuid;

/// Whose guilt the seeds prove, and who did nothing.
const GUILTY: u8 = 1;
const HONEST: u8 = 2;

thread_local! {
    static SUBJECT: Evidence = Subject::new().evidence(GUILTY, &[bad_nonce()]);
}

/// A file from anybody. Nobody but the holder of a key can make one that convicts it, so what is accepted is about what the
/// seeds' guilty key signed, and about nothing else.
pub fn evidence(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<Evidence>(data) else {
        return;
    };
    let written = serde_json::to_string(&read).unwrap();
    let again: Evidence = serde_json::from_str(&written).expect("it can be read again");
    assert_eq!(again, read);
    let verified = read.verify();
    assert_eq!(again.verify(), verified);
    match verified {
        Ok(proven) => SUBJECT.with(|subject| {
            assert_eq!(
                proven.key, subject.culprit_key,
                "somebody else is convicted"
            );
            assert_eq!(read.culprit_did, subject.culprit_did);
            assert_eq!(read.cohort_id, subject.cohort_id);
            assert_eq!(read.session_id, subject.session_id);
            assert_eq!(read.transaction, subject.transaction);
            assert_eq!(read.spent_outputs, subject.spent_outputs);
            assert_eq!(read.terms.hash(), subject.terms.hash());
            assert_eq!(read.beacon_address, subject.beacon_address);
            assert_eq!(read.cohort_keys, subject.cohort_keys);
        }),
        Err(error) => assert!(error.to_string().len() < 2_048, "{error}"),
    }
}

/// Files that convict, and files that do not.
pub fn files() -> Vec<(&'static str, String)> {
    let subject = Subject::new();
    let guilty = |misdeed| Evidence {
        misdeed,
        ..subject.evidence(GUILTY, &[bad_nonce()])
    };
    let honest = subject.evidence(HONEST, &[good_nonce(1)]);
    let (first, second) = ([good_nonce(1)], [good_nonce(2)]);
    let partial = |aggregated| {
        guilty(Misdeed::BadPartialSignature {
            nonces: subject.nonces(GUILTY, &first),
            partials: subject.partials(GUILTY, aggregated, [9; 32]),
        })
    };
    // A coordinator can choose any two points, infinity included.
    let (point, infinity) = (good_nonce(3).0, [0; 66]);
    let mut half = point;
    half[33..].fill(0);
    let text = |evidence: &Evidence| serde_json::to_string(evidence).unwrap();
    vec![
        ("bad-nonce", text(&subject.evidence(GUILTY, &[bad_nonce()]))),
        ("bad-partial", text(&partial(point))),
        ("bad-partial-half", text(&partial(half))),
        ("bad-partial-infinity", text(&partial(infinity))),
        (
            "equivocation-nonces",
            text(&guilty(Misdeed::Equivocation {
                first: Contribution::Nonces(subject.nonces(GUILTY, &first)),
                second: Contribution::Nonces(subject.nonces(GUILTY, &second)),
            })),
        ),
        (
            "equivocation-partials",
            text(&guilty(Misdeed::Equivocation {
                first: Contribution::Partials(subject.partials(GUILTY, point, [9; 32])),
                second: Contribution::Partials(subject.partials(GUILTY, infinity, [0xff; 32])),
            })),
        ),
        ("honest", text(&honest)),
    ]
}

/// A session of two members.
struct Subject {
    terms: AgreedTerms,
    beacon: BeaconKey,
    spent: TxOut,
    transaction: bitcoin::Transaction,
    sighashes: Vec<[u8; 32]>,
}

impl Subject {
    const COHORT: CohortId = CohortId(Uuid::from_u128(7));
    const SESSION: SessionId = SessionId(Uuid::from_u128(8));

    fn new() -> Self {
        let terms = Terms::new(BtcNetwork::Regtest, 2, Timestamp(1_900_000_000));
        let terms = AgreedTerms::parse(terms.to_value().unwrap()).unwrap();
        let beacon = BeaconKey::aggregate([GUILTY, HONEST].map(key)).unwrap();
        let spent = TxOut {
            value: Amount::from_sat(50_000),
            script_pubkey: beacon.script().to_owned(),
        };
        let inputs = [(OutPoint::null(), spent.clone())];
        let transaction = transaction::build_signal(&inputs, beacon.script(), [7; 32], 2).unwrap();
        Self {
            sighashes: sighashes(&transaction, std::slice::from_ref(&spent)).unwrap(),
            terms,
            beacon,
            spent,
            transaction,
        }
    }

    /// What convicts, if the nonces do.
    fn evidence(&self, accused: u8, nonces: &[NonceBytes]) -> Evidence {
        let (key, did) = (key(accused), PeerId::new(format!("did:example:{accused}")));
        let possession = statement::possession(Self::COHORT, &did, &key, &self.terms.hash());
        Evidence {
            file: EvidenceType::V1,
            cohort_id: Self::COHORT,
            terms: self.terms.clone(),
            cohort_keys: self.beacon.keys().to_vec(),
            beacon_address: self.beacon.address(bitcoin::Network::Regtest),
            culprit_key: key,
            culprit_did: did,
            proof_of_possession: sign(accused, &possession),
            session_id: Self::SESSION,
            transaction: self.transaction.clone(),
            spent_outputs: vec![SpentOutput::from(&self.spent)],
            misdeed: Misdeed::BadNonce {
                nonces: self.nonces(accused, nonces),
            },
        }
    }

    fn nonces(&self, signer: u8, nonces: &[NonceBytes]) -> SignedNonces {
        let said = statement::nonces(Self::SESSION, &self.sighashes, nonces);
        SignedNonces {
            nonce_contributions: nonces.to_vec(),
            signature: sign(signer, &said),
        }
    }

    fn partials(&self, signer: u8, aggregated: [u8; 66], partial: [u8; 32]) -> SignedPartials {
        let aggregated = vec![AggregatedNonce::from_bytes(&aggregated).unwrap()];
        let partials = vec![PartialBytes(partial)];
        let said = statement::partials(Self::SESSION, &self.sighashes, &aggregated, &partials);
        SignedPartials {
            aggregated_nonces: aggregated,
            partial_signatures: partials,
            signature: sign(signer, &said),
        }
    }
}

fn pair(number: u8) -> Keypair {
    Keypair::from_secret_bytes([number; 32]).unwrap()
}

fn key(number: u8) -> CohortKey {
    pair(number).public_key().into()
}

fn sign(number: u8, statement: &Statement) -> StatementSignature {
    let signature = schnorr::sign_with_aux_rand(statement.digest(), &pair(number), &[0; 32]);
    StatementSignature::from_bytes(&signature.to_byte_array()).unwrap()
}

/// Two points, as far as anybody can see.
fn good_nonce(number: u8) -> NonceBytes {
    let point = key(100 + number).to_bytes();
    NonceBytes([point, point].concat().try_into().unwrap())
}

fn bad_nonce() -> NonceBytes {
    NonceBytes([4; 66])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_convict_the_guilty_and_nobody_else() {
        for (name, text) in files() {
            let file: Evidence = serde_json::from_str(&text).unwrap();
            let verified = file.verify();
            assert_eq!(verified.is_ok(), name != "honest", "{name}: {verified:?}");
            evidence(text.as_bytes());
        }
    }
}
