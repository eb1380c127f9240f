//! PSBTs: the published vector, what a session's PSBT says and what is read of one, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use beacon_cohort::coordinator;
use beacon_cohort::message::Message;
use beacon_cohort::musig::{BeaconKey, sighashes};
use beacon_cohort::psbt::{Contributions, MAX_BYTES, PsbtError, Signing, parse, to_base64};
use beacon_cohort::values::{CohortKey, PublicNonce};
use bitcoin::psbt::raw::Key;
use bitcoin::{Amount, Psbt, Transaction, Witness};

use common::World;

/// A session in which every member has given its nonces and its partial signatures, but the last of the latter.
struct Case {
    world: World,
    session: coordinator::Session,
    beacon: BeaconKey,
    given: Contributions,
}

impl Case {
    fn new() -> Self {
        let (mut world, cohort) = World::formed(3, 41);
        world.request_update(0, cohort, 1);
        let is_partial = |message: &Message| message.kind() == "sign/signature_authorization";
        for _ in 0..2 {
            for mail in world.settle_until(is_partial) {
                world.deliver(mail);
            }
        }
        let last = world.settle_until(is_partial);
        world.mail.extend(last);
        let state = world.cohort(cohort);
        let (session, beacon) = (
            state.session.clone().unwrap(),
            state.beacon.clone().unwrap(),
        );
        let key = |peer| state.members[peer].key;
        let nonces = session.nonces.iter();
        let partials = session.partials.iter();
        let given = Contributions {
            nonces: nonces
                .map(|(peer, given)| (key(peer), given.nonces.clone()))
                .collect(),
            partials: partials
                .map(|(peer, given)| {
                    let scalars = given.partial_signatures.iter();
                    (
                        key(peer),
                        scalars.map(|one| one.scalar().unwrap()).collect(),
                    )
                })
                .collect(),
        };
        assert_eq!((given.nonces.len(), given.partials.len()), (3, 2));
        Self {
            world,
            session,
            beacon,
            given,
        }
    }

    fn signing(&self) -> Signing<'_> {
        Signing {
            beacon: &self.beacon,
            tx: &self.session.tx,
            spent: &self.session.spent,
        }
    }

    fn psbt(&self) -> Psbt {
        self.signing().psbt(&self.given, None).unwrap()
    }

    /// What comes of reading the PSBT with one thing changed.
    fn changed(&self, change: impl FnOnce(&mut Psbt)) -> Result<Contributions, PsbtError> {
        let mut psbt = self.psbt();
        change(&mut psbt);
        let read = parse(&psbt.serialize()).unwrap();
        assert_eq!(read, psbt);
        self.signing().read(&read)
    }

    /// The first MuSig2 field of this type in the first input.
    fn field(psbt: &Psbt, type_value: u8) -> (Key, Vec<u8>) {
        let mut fields = psbt.inputs[0].unknown.iter();
        let (key, value) = fields
            .find(|(key, _)| key.type_value == type_value)
            .unwrap();
        (key.clone(), value.clone())
    }
}

/// The BIP's own case of our kind: an output key tweaked from an aggregate. Its fields are read, they fit together, their sum
/// is its signature, and the same fields come out when it is made again.
#[test]
fn the_published_vector_is_read_checked_and_made_again() {
    let text = include_bytes!("../vectors/bip373/internal-key.base64");
    let psbt = parse(text).unwrap();
    let keys = [
        "02346b99593357107c9d3459e9deba8d3eaf44e6636c85c7f853eb90ba52e8cd00",
        "024fafd65f8169186fc2bfdb2233c77e630d10be280a24c7165c09a27611775c2c",
        "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    ];
    let keys = keys.map(|key| key.parse::<CohortKey>().unwrap());
    let beacon = BeaconKey::aggregate(keys).unwrap();
    assert_eq!(
        hex::encode(beacon.aggregate_bytes()),
        "030b58e337aa4d3852a8c29387c42408d8cfbe3a613a5e397e0a9f01a5fb7107d4"
    );
    let output = psbt.inputs[0].witness_utxo.clone().unwrap();
    assert_eq!(output.script_pubkey.as_script(), beacon.script());
    let spent = [(&output).into()];
    let signing = Signing {
        beacon: &beacon,
        tx: &psbt.unsigned_tx,
        spent: &spent,
    };
    let given = signing.read(&psbt).unwrap();
    assert_eq!((given.nonces.len(), given.partials.len()), (3, 3));
    signing.check(&given, None).unwrap();
    let nonces = given.nonces.values().map(|all| &all[0]);
    let aggregated = beacon_cohort::musig::aggregate_nonces(nonces).unwrap();
    let partials: Vec<_> = given.partials.values().map(|all| all[0]).collect();
    let sighash = sighashes(&psbt.unsigned_tx, &[output]).unwrap()[0];
    let signature = beacon
        .input(sighash, aggregated)
        .aggregate(&partials)
        .unwrap();
    let expected = psbt.inputs[0].tap_key_sig.unwrap();
    assert_eq!(signature, *expected.signature.as_ref());
    let again = signing.psbt(&given, None).unwrap();
    assert_eq!(again.inputs[0].unknown, psbt.inputs[0].unknown);
    assert_eq!(
        again.inputs[0].tap_internal_key,
        psbt.inputs[0].tap_internal_key
    );
}

#[test]
fn a_sessions_psbt_says_everything_and_is_read_back() {
    let case = Case::new();
    let psbt = case.psbt();
    assert_eq!(psbt.unsigned_tx, case.session.tx);
    let read = parse(&psbt.serialize()).unwrap();
    assert_eq!(read, psbt);
    let text = to_base64(&psbt).unwrap();
    assert_eq!(
        parse(format!("\n {}\n{}\n", &text[..70], &text[70..]).as_bytes()).unwrap(),
        psbt
    );
    assert_eq!(case.signing().read(&read).unwrap(), case.given);
    let aggregated = case.session.aggregated.as_deref();
    case.signing().check(&case.given, aggregated).unwrap();
    case.signing().check(&case.given, None).unwrap();
    assert!(case.signing().has_all_nonces(&case.given));

    // The change comes back to the beacon, and a signer that looks for its own change can see that.
    let change = &psbt.outputs[0];
    assert_eq!(change.tap_internal_key, psbt.inputs[0].tap_internal_key);
    let (key, keys) = change.unknown.first_key_value().unwrap();
    assert_eq!((key.type_value, keys), (0x08, &Case::field(&psbt, 0x1a).1));
    assert!(psbt.outputs[1].unknown.is_empty());
}

/// The finished PSBT extracts to what was broadcast, byte for byte.
#[test]
fn the_finished_psbt_extracts_to_the_signal() {
    let mut case = Case::new();
    case.world.settle();
    let mut cohorts = case.world.coordinator.machine.state().cohorts.values();
    let signal = &cohorts.next().unwrap().signals[0];
    let psbt = case.signing().finished(&signal.tx).unwrap();
    let read = parse(to_base64(&psbt).unwrap().as_bytes()).unwrap();
    let extracted = read.extract_tx_unchecked_fee_rate();
    assert_eq!(
        bitcoin::consensus::serialize(&extracted),
        bitcoin::consensus::serialize(&signal.tx)
    );
    let stripped = without_witnesses(&signal.tx);
    assert_eq!(
        case.signing().finished(&stripped).unwrap().unsigned_tx,
        stripped
    );
}

fn without_witnesses(tx: &Transaction) -> Transaction {
    let mut tx = tx.clone();
    tx.input
        .iter_mut()
        .for_each(|input| input.witness = Witness::new());
    tx
}

#[test]
fn a_psbt_of_something_else_is_refused() {
    let case = Case::new();
    let other = case.changed(|psbt| psbt.unsigned_tx.output[0].value += Amount::ONE_SAT);
    assert!(
        matches!(other, Err(PsbtError::OtherTransaction { .. })),
        "{other:?}"
    );
    let differs = |change: fn(&mut Psbt), expected| match case.changed(change) {
        Err(PsbtError::Differs { input: 0, what }) => assert_eq!(what, expected),
        other => panic!("{expected}: got {other:?}"),
    };
    differs(
        |psbt| psbt.inputs[0].witness_utxo.as_mut().unwrap().value += Amount::ONE_SAT,
        "spent output",
    );
    differs(
        |psbt| {
            let key = &psbt.inputs[0].witness_utxo.as_ref().unwrap().script_pubkey;
            let key = bitcoin::XOnlyPublicKey::from_slice(&key.as_bytes()[2..]).unwrap();
            psbt.inputs[0].tap_internal_key = Some(key);
        },
        "internal key",
    );
    differs(
        |psbt| {
            use bitcoin::hashes::Hash as _;
            psbt.inputs[0].tap_merkle_root = Some(bitcoin::TapNodeHash::all_zeros());
        },
        "script tree",
    );
    differs(
        |psbt| {
            let (key, keys) = Case::field(psbt, 0x1a);
            psbt.inputs[0].unknown.insert(key, keys[33..].to_vec());
        },
        "set of participants",
    );
}

/// What is changed in the key and the value of a field.
type Change = Box<dyn Fn(&mut Vec<u8>, &mut Vec<u8>)>;

#[test]
fn fields_that_are_not_as_they_must_be_are_refused() {
    let case = Case::new();
    let stranger = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    let stranger = hex::decode(stranger).unwrap();
    let key_prefix = stranger.clone();
    let under = stranger.clone();
    let cases: Vec<(u8, Change, &str)> = vec![
        (
            0x1a,
            Box::new(|_, keys| keys.truncate(40)),
            "33 for each key",
        ),
        (
            0x1a,
            Box::new(|key, _| key[1] ^= 1),
            "another aggregate key",
        ),
        (0x1a, Box::new(|_, keys| keys[0] = 5), "cohort key"),
        (
            0x1b,
            Box::new(|_, nonce| nonce.truncate(65)),
            "65 bytes, expected 66",
        ),
        (
            0x1b,
            Box::new(|_, nonce| nonce[0] = 0),
            "nonce contribution",
        ),
        (
            0x1b,
            Box::new(|key, _| key.truncate(20)),
            "20 bytes, expected 66",
        ),
        (0x1b, Box::new(|key, _| key.truncate(40)), "output key"),
        (0x1b, Box::new(|key, _| key.extend([7; 32])), "script leaf"),
        (
            0x1b,
            Box::new(move |key, _| key[..33].copy_from_slice(&key_prefix)),
            "no member's key",
        ),
        (
            0x1b,
            Box::new(move |key, _| key[33..].copy_from_slice(&under)),
            "output key",
        ),
        (
            0x1c,
            Box::new(|_, partial| partial.push(0)),
            "33 bytes, expected 32",
        ),
        (
            0x1c,
            Box::new(|_, partial| partial.fill(0xff)),
            "partial signature",
        ),
    ];
    for (type_value, change, expected) in cases {
        let read = case.changed(|psbt| {
            let (mut key, mut value) = Case::field(psbt, type_value);
            psbt.inputs[0].unknown.remove(&key);
            change(&mut key.key, &mut value);
            psbt.inputs[0].unknown.insert(key, value);
        });
        match read {
            Err(PsbtError::Field { input: 0, reason }) => {
                assert!(reason.contains(expected), "{expected}: {reason}");
            }
            other => panic!("{expected}: got {other:?}"),
        }
    }
    // What is none of BIP373's says nothing here.
    let read = case.changed(|psbt| {
        let key = Key {
            type_value: 0x7f,
            key: vec![1],
        };
        psbt.inputs[0].unknown.insert(key, vec![2]);
    });
    assert_eq!(read.unwrap(), case.given);
}

/// Two inputs: one of each for every input, or it is half a contribution.
#[test]
fn half_a_contribution_is_refused() {
    let case = Case::new();
    let mut tx = case.session.tx.clone();
    let mut second = tx.input[0].clone();
    second.previous_output.vout += 1;
    tx.input.push(second);
    let spent = [case.session.spent.clone(), case.session.spent.clone()].concat();
    let signing = Signing {
        beacon: &case.beacon,
        tx: &tx,
        spent: &spent,
    };
    let half = signing.psbt(&case.given, None).unwrap();
    let read = signing.read(&half);
    assert!(
        matches!(
            read,
            Err(PsbtError::Incomplete {
                got: 1,
                expected: 2,
                ..
            })
        ),
        "{read:?}"
    );
    let short = Signing {
        spent: &spent[1..],
        ..signing
    };
    assert_eq!(short.psbt(&case.given, None), Err(PsbtError::SpentOutputs));
}

#[test]
fn contributions_that_do_not_fit_together_are_found() {
    let case = Case::new();
    let aggregated = case.session.aggregated.as_deref();
    let check = |change: &dyn Fn(&mut Contributions)| {
        let mut given = case.given.clone();
        change(&mut given);
        case.signing().check(&given, aggregated)
    };
    let [one, other] = {
        let mut keys = case.given.partials.keys().copied();
        [keys.next().unwrap(), keys.next().unwrap()]
    };
    // A nonce of another: the sum is another.
    let foreign: PublicNonce = case.given.nonces[&other][0];
    let sum = check(&|given| given.nonces.get_mut(&one).unwrap()[0] = foreign);
    assert_eq!(sum, Err(PsbtError::NonceSum { input: 0 }));
    // Two exchanged nonces have the same sum, but no signature fits its nonce.
    let own: PublicNonce = case.given.nonces[&one][0];
    let exchanged = check(&|given| {
        given.nonces.get_mut(&one).unwrap()[0] = foreign;
        given.nonces.get_mut(&other).unwrap()[0] = own;
    });
    assert!(
        matches!(exchanged, Err(PsbtError::Invalid { input: 0, .. })),
        "{exchanged:?}"
    );
    let partial = case.given.partials[&other][0];
    let wrong = check(&|given| given.partials.get_mut(&one).unwrap()[0] = partial);
    assert_eq!(wrong, Err(PsbtError::Invalid { key: one, input: 0 }));
    let early = check(&|given| {
        given.nonces.remove(&one);
    });
    assert_eq!(early, Err(PsbtError::TooEarly));
    let mut given = case.given.clone();
    given.nonces.remove(&one);
    assert!(!case.signing().has_all_nonces(&given));
    assert_eq!(case.signing().check(&given, None), Err(PsbtError::TooEarly));
}

#[test]
fn what_is_no_psbt_or_too_large_is_refused() {
    let case = Case::new();
    let bytes = case.psbt().serialize();
    let refused = |data: &[u8]| match parse(data) {
        Err(PsbtError::Unreadable { .. }) => {}
        other => panic!("got {other:?}"),
    };
    let too_many = |result: Result<Psbt, PsbtError>, expected: &str| match result {
        Err(PsbtError::TooMany { what, got, max }) => {
            assert_eq!(what, expected);
            assert!(got > max);
        }
        other => panic!("{expected}: got {other:?}"),
    };
    refused(b"");
    refused(b"not base64!");
    refused(STANDARD.encode(b"no PSBT").as_bytes());
    refused(&bytes[..bytes.len() - 1]);
    refused(&[bytes.as_slice(), b"\0"].concat());
    let mut psbt = case.psbt();
    psbt.version = 2;
    refused(&psbt.serialize());
    too_many(parse(&vec![b' '; 2 * MAX_BYTES + 1]), "characters");
    // A claimed length that is not there takes no memory.
    refused(&[&bytes[..5], &[0xfe, 0xff, 0xff, 0xff, 0x7f, 0x00]].concat());
    let large = [b"psbt\xff".to_vec(), vec![0; MAX_BYTES]].concat();
    too_many(parse(&large), "bytes");
    too_many(parse(STANDARD.encode(&large).as_bytes()), "bytes");
    let mut many = case.session.tx.clone();
    many.output = vec![many.output[0].clone(); 17];
    too_many(
        parse(&Psbt::from_unsigned_tx(many.clone()).unwrap().serialize()),
        "outputs",
    );
    many.input = vec![many.input[0].clone(); 1_001];
    too_many(
        parse(&Psbt::from_unsigned_tx(many).unwrap().serialize()),
        "inputs",
    );
}
