//! Envelopes from anybody, and what a proven sender may put into one.

use affinidi_crypto::jose::key_agreement::{PrivateKeyAgreement, PublicKeyAgreement};
use affinidi_messaging_didcomm::jwe::encrypt::authcrypt;
use beacon_cohort::message::Message;
use beacon_didcomm::protocols::{self, Disclosure, Invitation, ProblemReport};
use beacon_didcomm::{
    Endpoint, Identity, MAX_ENTRIES, MAX_ID_LEN, MAX_TYPE_LEN, Plaintext, Resolver, UnpackError,
    UnpackLimits, Verified, pack, resolve, unpack,
};
use uuid::Uuid;

/// When all of it happens, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;
const ALICE: ([u8; 32], [u8; 32]) = ([1; 32], [2; 32]);

/// Who sends.
pub fn alice() -> Identity {
    Identity::new(&ALICE.0, &ALICE.1, Endpoint::Queue).unwrap()
}

/// Who receives.
pub fn bob() -> Identity {
    let endpoint = "ws://localhost:8765".parse().unwrap();
    Identity::new(&[3; 32], &[4; 32], endpoint).unwrap()
}

/// An envelope from anybody: refused for a reason that has a name, or read as what it says.
pub fn envelope(data: &[u8]) {
    match bob_opens(data) {
        Ok(verified) => check(&verified),
        Err(error) => check_refusal(&error),
    }
}

/// Any content of an envelope that Alice made for Bob.
pub fn plaintext(data: &[u8]) {
    match bob_opens(&seal(data)) {
        Ok(verified) => {
            check(&verified);
            read(&verified);
        }
        Err(error) => {
            check_refusal(&error);
            assert_eq!(error.proven_sender(), Some(alice().did()));
            assert_eq!(error.recipient(), Some(bob().did()));
        }
    }
}

/// One of the small protocols: a letter chooses which, the rest is the body, or the text of a link.
pub fn protocols(data: &[u8]) {
    const KINDS: [&str; 7] = [
        protocols::PING,
        protocols::PING_RESPONSE,
        protocols::QUERIES,
        protocols::DISCLOSE,
        protocols::PROBLEM_REPORT,
        protocols::EMPTY,
        protocols::INVITATION,
    ];
    let Some((letter, rest)) = data.split_first() else {
        return;
    };
    let kind = usize::from(letter.wrapping_sub(b'a'));
    if let (Some(kind), Ok(body)) = (KINDS.get(kind), serde_json::from_slice(rest)) {
        let message = Plaintext::new(Uuid::nil(), *kind, NOW).with_body(body);
        let Ok(packed) = pack(&alice(), bob().did(), &message, &Resolver::default()) else {
            return; // Not an object.
        };
        let verified = bob_opens(packed.frame()).expect("what is packed is accepted");
        check(&verified);
        read(&verified);
    }
    if let Ok(link) = std::str::from_utf8(rest) {
        read_link(link);
    }
}

fn bob_opens(frame: &[u8]) -> Result<Verified, UnpackError> {
    let limits = UnpackLimits::default();
    unpack(frame, &bob(), &Resolver::default(), NOW, &limits)
}

/// Authcrypt from Alice to Bob around any bytes.
fn seal(content: &[u8]) -> Vec<u8> {
    let (alice, bob) = (alice(), bob());
    let document = resolve(bob.did()).unwrap();
    let key = document.key_agreement_keys().remove(0);
    let public = PublicKeyAgreement::X25519(key.public);
    let secret = PrivateKeyAgreement::X25519(ALICE.1);
    let recipients = [(key.kid.as_str(), &public)];
    authcrypt(content, alice.agreement_kid(), &secret, &recipients)
        .unwrap()
        .into_bytes()
}

fn check(verified: &Verified) {
    let message = verified.message();
    assert_eq!(message.from.as_ref(), Some(verified.sender()));
    assert!(message.to.contains(verified.recipient()));
    assert!(verified.expires_at() + 300 >= NOW);
    assert!((1..=MAX_ID_LEN).contains(&message.id.len()));
    assert!((1..=MAX_ID_LEN).contains(&message.thread().len()));
    assert!((1..=MAX_TYPE_LEN).contains(&message.kind.len()));
    assert!(message.body.is_object());
    for entries in [
        message.to.len(),
        message.ack.len(),
        message.attachments.len(),
    ] {
        assert!(entries <= MAX_ENTRIES);
    }
    let written = serde_json::to_vec(message).unwrap();
    let read: Plaintext = serde_json::from_slice(&written).expect("what was read can be written");
    assert_eq!(read, *message);
}

fn check_refusal(error: &UnpackError) {
    let text = error.to_string();
    assert!(!error.kind().is_empty());
    assert!(text.len() < 2_048, "{} bytes of refusal", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(error.message_id().is_none() || error.proven_sender().is_some());
}

/// What an agent does with a message of a proven sender, before its machine sees it.
fn read(verified: &Verified) {
    let id = Uuid::from_u128(1);
    let disclosure = Disclosure::new(1 << 20);
    let answers = [
        protocols::acknowledge(verified, id, NOW),
        protocols::answer_ping(verified, id, NOW),
        protocols::answer_queries(verified, &disclosure, id, NOW),
    ];
    for answer in answers.into_iter().flatten() {
        let packed = pack(&bob(), verified.sender(), &answer, &Resolver::default());
        let frame = packed.expect("answers can be packed").frame().to_vec();
        assert!(frame.len() < 16_384, "an answer of {} bytes", frame.len());
        let read = unpack(
            &frame,
            &alice(),
            &Resolver::default(),
            NOW,
            &UnpackLimits::default(),
        );
        assert_eq!(
            read.unwrap().message().thid.as_deref(),
            Some(verified.message().thread())
        );
    }
    if let Ok(report) = ProblemReport::parse(verified.message()) {
        let again = report.about("thread", "message", id, NOW);
        assert_eq!(ProblemReport::parse(&again), Ok(report));
    }
    let message = verified.message();
    if let Err(error) = Message::parse(&message.kind, &message.body) {
        assert!(error.to_string().len() < 1_024, "{error}");
    }
}

fn read_link(link: &str) {
    match Invitation::from_link(link) {
        Ok(invitation) => {
            let again = Invitation::from_link(&invitation.to_deep_link());
            assert_eq!(
                again,
                Ok(invitation),
                "an invitation survives being written"
            );
        }
        Err(error) => assert!(error.to_string().len() < 2_048, "{error}"),
    }
    if let Ok(endpoint) = link.parse::<Endpoint>() {
        let again: Endpoint = endpoint.to_string().parse().expect("it can be read again");
        assert_eq!(again.to_string(), endpoint.to_string());
    }
}
