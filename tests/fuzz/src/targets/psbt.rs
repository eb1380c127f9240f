//! PSBTs that a coordinator or a user's signer hands over.

use beacon_cohort::machine::{Code, Input, Machine as _};
use beacon_cohort::participant::Command;
use beacon_cohort::psbt::{MAX_BYTES, Signing, parse, to_base64};
use bitcoin::Psbt;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::situations::{Situation, with};

/// Bytes or base64: read within its limits, written as it was read, and believed in nothing that is not the session's.
pub fn psbt(data: &[u8]) {
    let Ok(psbt) = parse(data) else {
        return;
    };
    let bytes = psbt.serialize();
    // What a reader passes over, such as a length in more bytes than it needs, may be gone.
    if bytes.len() <= MAX_BYTES {
        let text = to_base64(&psbt).expect("within the limit");
        assert_eq!(parse(text.as_bytes()).expect("what was written"), psbt);
    }
    with(|situations| {
        for situation in situations {
            look(situation, &psbt);
        }
    });
}

fn look(situation: &Situation, psbt: &Psbt) {
    let cohort = &situation.coordinator().state().cohorts[&situation.cohort];
    if let (Some(beacon), Some(open)) = (&cohort.beacon, &cohort.session) {
        let signing = Signing {
            beacon,
            tx: &open.tx,
            spent: &open.spent,
        };
        if let Ok(given) = signing.read(psbt) {
            assert_eq!(psbt.unsigned_tx, open.tx);
            let members = |keys: Vec<_>| keys.iter().all(|key| beacon.keys().contains(key));
            assert!(members(given.nonces.keys().copied().collect()));
            assert!(members(given.partials.keys().copied().collect()));
            let again = signing.psbt(&given, None).expect("the same session");
            assert_eq!(signing.read(&again).expect("what was made"), given);
            if signing.check(&given, open.aggregated.as_deref()).is_ok() {
                assert!(
                    given
                        .partials
                        .keys()
                        .all(|key| given.nonces.contains_key(key))
                );
            }
        }
    }
    // A member that signs by itself takes nothing from any file.
    let command = Command::ImportPsbt(Box::new(psbt.clone()));
    let mut rng = ChaCha20Rng::seed_from_u64(0);
    let now = situation.world.now;
    let refused = situation
        .member()
        .step(Input::Command(command), now, &mut rng);
    let code = refused.expect_err("nobody chose a signer outside").code;
    assert!(
        [Code::Invalid, Code::UnknownSession].contains(&code),
        "{code}"
    );
}

/// PSBTs of the sessions under way.
pub fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = with(|situations| {
        let open = situations
            .iter()
            .enumerate()
            .filter_map(|(number, situation)| {
                let cohort = &situation.coordinator().state().cohorts[&situation.cohort];
                let session = cohort.session.as_ref()?;
                let psbt = cohort.psbt(session.id)?.ok()?;
                Some((format!("session-{number}"), psbt))
            });
        open.collect::<Vec<_>>()
    });
    // As much as a session can have, once.
    files.dedup_by(|one, other| one.1 == other.1);
    let text = files
        .first()
        .map(|(_, psbt)| to_base64(psbt).expect("a small one"));
    let text = text.map(|text| ("base64".to_owned(), text.into_bytes()));
    let binary = files
        .iter()
        .map(|(name, psbt)| (name.clone(), psbt.serialize()));
    let vector = include_bytes!("../../../../crates/cohort/vectors/bip373/internal-key.base64");
    let vector = ("bip373".to_owned(), vector.to_vec());
    binary.chain(text).chain([vector]).collect()
}
