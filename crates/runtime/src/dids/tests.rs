use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use beacon_btcr2::json;
use beacon_cohort::terms::BtcNetwork;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

/// The DIDs of the first two keys of the phrase of 32 zero bytes on regtest, and of the first on mainnet and its key:
/// computed by a separate Python program (`hashlib`, `hmac`, and its own arithmetic of curve and Bech32m).
const FIRST: &str = "did:btcr2:k1qgplcn4t9yllgdp7wqd4h7jdmqpvn4r8x6d8qezz26zv6dsf9pfc7nq4yamnd";
const SECOND: &str = "did:btcr2:k1qgp43dxyjv22cv2klhwh25zlmzgag8eg0rlcpsr3aspath0z3ue8r9srn5njk";
const ON_MAINNET: &str =
    "did:btcr2:k1qqpat5lxap47ar5jk3m266hs76p4dkz54w9rzd8hl7aq52l9rgj9sug3kthnd";
const FIRST_KEY: &str = "03fc4eab293ff4343e701b5bfa4dd802c9d467369a7064425684cd360928538f4c";

fn seed(words: &str) -> Arc<Seed> {
    Arc::new(Seed::from_phrase(words).unwrap())
}

fn zeros() -> Arc<Seed> {
    seed(&format!("{}art", "abandon ".repeat(23)))
}

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn dids(&self) -> Dids {
        Dids::new(self.0.path(), zeros(), BtcNetwork::Regtest)
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join("dids").join(name)
    }

    /// All files, with their content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, files);
                } else {
                    files.push((path.clone(), fs::read(&path).unwrap()));
                }
            }
        }
        let mut files = Vec::new();
        walk(self.0.path(), &mut files);
        files.sort();
        files
    }
}

fn list(dids: &Dids) -> Vec<String> {
    let found = dids.records().dids().unwrap();
    let records = found.records.iter();
    records.map(ToString::to_string).collect()
}

fn add_service(name: &str) -> Patch {
    let service = json!({ "id": format!("#{name}"), "type": "Files", "serviceEndpoint": "https://example.org/" });
    Patch::from_value(json!([{ "op": "add", "path": "/service/-", "value": service }])).unwrap()
}

fn change(own: &OwnDid, patch: Patch) -> Change {
    Change {
        source: own.document.clone(),
        version: 2,
        patch,
        method: None,
    }
}

#[test]
fn the_seed_gives_the_same_dids_again() {
    let home = Home::new();
    let dids = home.dids();
    let first = dids.create(Network::Regtest, None).unwrap();
    let second = dids.create(Network::Regtest, None).unwrap();
    assert_eq!((first.did.as_str(), second.did.as_str()), (FIRST, SECOND));
    let mainnet = dids.create(Network::Bitcoin, None).unwrap();
    assert_eq!(mainnet.did.as_str(), ON_MAINNET);
    // Networks but mainnet have their keys in common, and a key is in one DID.
    let signet = dids.create(Network::Signet, None).unwrap();
    let Origin::Key(key) = signet.origin else {
        panic!("a k DID has a key");
    };
    assert_eq!(key.path.unwrap().to_string(), "m/1643'/1'/2'");

    let restored = Home::new();
    let again = restored.dids();
    assert_eq!(again.create(Network::Regtest, Some(1)).unwrap(), second);
    assert_eq!(again.create(Network::Regtest, None).unwrap(), first);
    let before = restored.files();
    assert_eq!(again.create(Network::Regtest, Some(0)).unwrap(), first);
    assert_eq!(restored.files(), before, "a record is written once");
    assert_eq!(again.get(&first.did).unwrap(), first);
}

#[test]
fn a_key_is_given_out_once() {
    let home = Home::new();
    let dids = home.dids();
    let key = dids.new_key(Network::Regtest, None).unwrap();
    assert_eq!(key.public_key.to_string(), FIRST_KEY);
    assert_eq!(key.to_value()["path"], "m/1643'/1'/0'");
    let made = dids.create(Network::Regtest, None).unwrap();
    assert_eq!(made.did.as_str(), SECOND);
    // Even where its record is damaged: the name tells.
    fs::write(home.path(format!("keys/{FIRST_KEY}.json")), "{").unwrap();
    let next = dids.new_key(Network::Regtest, None).unwrap();
    assert_eq!(next.path.unwrap().index(), 2);
    let error = dids.new_key(Network::Regtest, Some(1 << 31)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "got key index 2147483648, expected at most 2147483647"
    );
}

#[test]
fn the_records_are_private_and_plain() {
    let home = Home::new();
    let own = home.dids().create(Network::Regtest, None).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = home.path(own.did.as_str()).join("key.json");
    assert_eq!((mode(file.parent().unwrap()), mode(&file)), (0o700, 0o600));
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        r#"{"path":"m/1643'/1'/0'","publicKey":"03fc4eab293ff4343e701b5bfa4dd802c9d467369a7064425684cd360928538f4c","publicKeyMultibase":"zQ3shwd1SbJqaV6DdqcArpLjDLVoZJTSVaVACeYCeyJaP9PWb"}"#
    );
}

#[test]
fn a_key_that_is_elsewhere_makes_a_did_that_is_not_signed_for_here() {
    let home = Home::new();
    let dids = home.dids();
    let elsewhere = SECOND.parse::<Did>().unwrap();
    let GenesisBytes::Key(key) = *elsewhere.genesis() else {
        panic!("a k DID has a key");
    };
    let own = dids.create_from_key(Network::Regtest, key).unwrap();
    assert_eq!(own.did, elsewhere);
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(
        error.to_string().contains("there is no record of")
            && error.to_string().contains("#initialKey"),
        "{error}"
    );
    assert!(
        home.dids()
            .records()
            .updates(&own.did)
            .unwrap()
            .records
            .is_empty()
    );
    // It is here after all.
    dids.new_key(Network::Regtest, Some(1)).unwrap();
    dids.sign_update(&change(&own, add_service("a"))).unwrap();
}

fn genesis(key: &DidKey) -> Value {
    json!({
        "@context": ["https://www.w3.org/ns/did/v1.1", "https://btcr2.dev/context/v1"],
        "id": "did:btcr2:_",
        "verificationMethod": [{
            "id": "did:btcr2:_#key-0", "type": "Multikey", "controller": "did:btcr2:_",
            "publicKeyMultibase": proof::multikey(&key.public_key),
        }],
        "capabilityInvocation": ["did:btcr2:_#key-0"],
        "service": [],
    })
}

#[test]
fn a_genesis_document_makes_a_did_that_is_signed_for_with_its_key() {
    let home = Home::new();
    let dids = home.dids();
    let key = dids.new_key(Network::Regtest, None).unwrap();
    let document = genesis(&key);
    let own = dids
        .create_from_genesis(Network::Regtest, document.clone())
        .unwrap();
    assert_eq!(own.document.value()["id"], own.did.as_str());
    assert_eq!(own.origin, Origin::Genesis(document.clone()));
    let file = home.path(own.did.as_str()).join("genesis.json");
    let expected =
        GenesisBytes::Document(json::Hash32(Sha256::digest(fs::read(file).unwrap()).into()));
    assert_eq!(*own.did.genesis(), expected);
    assert_eq!(dids.get(&own.did).unwrap(), own);
    let signed = dids.sign_update(&change(&own, add_service("a"))).unwrap();
    assert_eq!(signed.update.apply(&own.document).unwrap(), signed.target);

    let refused = |change: fn(&mut Value)| {
        let mut document = document.clone();
        change(&mut document);
        let made = dids.create_from_genesis(Network::Regtest, document);
        made.unwrap_err().to_string()
    };
    assert_eq!(
        refused(|document| document["id"] = FIRST.into()),
        format!(
            "got \"{FIRST}\" at /id of the genesis document, expected \"did:btcr2:_\": the DID is put there"
        )
    );
    assert!(refused(|document| document["service"] = 1.into()).contains("/service"));
    let dangling = refused(|document| document["authentication"] = json!(["#nobody"]));
    assert!(dangling.contains("#nobody"), "{dangling}");
    assert_eq!(
        list(&dids),
        [own.did.to_string()],
        "what is refused has no record"
    );
}

#[test]
fn an_update_is_on_the_disk_before_anybody_has_it() {
    let home = Home::new();
    let dids = home.dids();
    let own = dids.create(Network::Regtest, None).unwrap();
    let wanted = change(&own, add_service("a"));
    let signed = dids.sign_update(&wanted).unwrap();
    let id = signed.update.id();
    assert_eq!(
        signed.file,
        home.path(FIRST)
            .join(format!("updates/2-{}.json", id.to_hex()))
    );
    let content = fs::read(&signed.file).unwrap();
    assert_eq!(Sha256::digest(&content).as_slice(), id.0);
    assert_eq!(signed.update.apply(&own.document).unwrap(), signed.target);
    // Asked again, also after a restart: another signature would be another update to the same version.
    let again = home.dids().sign_update(&wanted).unwrap();
    assert_eq!(again.update, signed.update);
    let other = dids.sign_update(&change(&own, add_service("b"))).unwrap();
    assert_ne!(other.update.id(), id);
    let known = dids.records().updates(&own.did).unwrap();
    assert_eq!((known.records.len(), known.problems.len()), (2, 0));
    assert_eq!(dids.records().count_updates(&own.did).unwrap(), 2);
}

#[test]
fn what_cannot_be_written_is_not_given_out() {
    let home = Home::new();
    let dids = home.dids();
    let own = dids.create(Network::Regtest, None).unwrap();
    let before = home.files();
    // As a disk that is full: the file cannot be made.
    fs::write(home.path(FIRST).join("updates"), "").unwrap();
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(
        matches!(error, DidsError::Record(RecordError::Io { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("/updates"), "{error}");
    fs::remove_file(home.path(FIRST).join("updates")).unwrap();
    assert_eq!(home.files(), before);
    // A DID without a record is nobody's.
    fs::remove_dir_all(home.path(FIRST)).unwrap();
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(
        matches!(error, DidsError::Record(RecordError::Unknown { .. })),
        "{error}"
    );
    assert!(home.files().is_empty());
}

#[test]
fn a_crash_leaves_nothing_that_hinders() {
    let home = Home::new();
    let dids = home.dids();
    // The folder was made, the file not yet named.
    fs::create_dir_all(home.path(FIRST)).unwrap();
    assert_eq!(list(&dids), [""; 0]);
    fs::write(home.path(FIRST).join(".new-key.json"), "{\"pa").unwrap();
    assert_eq!(list(&dids), [""; 0]);
    let own = dids.create(Network::Regtest, None).unwrap();
    assert_eq!(list(&dids), [FIRST]);
    let names = fs::read_dir(home.path(FIRST)).unwrap();
    assert_eq!(names.count(), 1, "the rest of the first attempt is gone");
    let folder = home.path(FIRST).join("updates");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".new-2-ab.json"), "{").unwrap();
    let known = dids.records().updates(&own.did).unwrap();
    assert!(known.records.is_empty() && known.problems.is_empty());
}

/// The problems in a DID's updates after something was done to their folder.
#[test]
fn damaged_and_foreign_files_are_named_and_hide_nothing() {
    let home = Home::new();
    let dids = home.dids();
    let own = dids.create(Network::Regtest, None).unwrap();
    let good = dids
        .sign_update(&change(&own, add_service("good")))
        .unwrap();
    let bad = dids.sign_update(&change(&own, add_service("bad"))).unwrap();
    let folder = home.path(FIRST).join("updates");
    let content = fs::read(&bad.file).unwrap();
    let hash = |content: &[u8]| hex::encode(Sha256::digest(content));
    let mut flipped = content.clone();
    let place = flipped.iter().rposition(|byte| *byte == b'b').unwrap();
    flipped[place] = b'c';
    let huge = vec![b' '; json::Limits::UPDATE.bytes + 1];
    let cases: [(PathBuf, &[u8], &str); 7] = [
        (bad.file.clone(), &flipped, "got content with the hash"),
        (bad.file.clone(), &content[..content.len() / 2], "the end"),
        (bad.file.clone(), b"", "the end"),
        (bad.file.clone(), &huge, "more than 262144 bytes"),
        (
            folder.join("notes.txt"),
            b"",
            "expected a file <version>-<64 hex digits>.json",
        ),
        (
            folder.join(format!("3-{}.json", hash(&content))),
            &content,
            "got an update to version 2, expected version 3",
        ),
        (
            folder.join(format!("2-{}.json", hash(b"{}"))),
            b"{}",
            "got nothing at /proof",
        ),
    ];
    for (path, found, words) in cases {
        fs::write(&path, found).unwrap();
        let known = dids.records().updates(&own.did).unwrap();
        assert!(known.records.contains(&good.update), "{words}");
        let [problem] = known.problems.as_slice() else {
            panic!("{words}: {:?}", known.problems);
        };
        let problem = problem.to_string();
        assert!(
            problem.starts_with(&path.display().to_string()),
            "{problem}"
        );
        assert!(problem.contains(words), "{problem}");
        // It is not written over, and what it stands for is refused.
        if path == bad.file {
            let error = dids.sign_update(&change(&own, add_service("bad")));
            assert!(error.is_ok_and(|again| again.update != bad.update));
            let second = dids.records().updates(&own.did).unwrap();
            for update in second
                .records
                .iter()
                .filter(|update| **update != good.update)
            {
                let name = format!("2-{}.json", update.id().to_hex());
                fs::remove_file(folder.join(name)).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), found);
            fs::write(&path, &content).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
    // Neither links nor folders are followed.
    let link = folder.join(format!("4-{}.json", "0".repeat(64)));
    symlink("/dev/zero", &link).unwrap();
    fs::create_dir(folder.join(format!("5-{}.json", "0".repeat(64)))).unwrap();
    let known = dids.records().updates(&own.did).unwrap();
    assert_eq!((known.records.len(), known.problems.len()), (2, 2));
    assert!(
        known.problems[0]
            .to_string()
            .contains("expected a regular file")
    );
}

#[test]
fn a_damaged_did_is_named_and_hides_no_other() {
    let home = Home::new();
    let dids = home.dids();
    dids.create(Network::Regtest, None).unwrap();
    let second = dids.create(Network::Regtest, None).unwrap();
    fs::write(home.path("notes.txt"), "").unwrap();
    fs::create_dir(home.path("did:btcr2:k1qqqq")).unwrap();
    let found = dids.records().dids().unwrap();
    assert_eq!((found.records.len(), found.problems.len()), (2, 2));
    for problem in &found.problems {
        let problem = problem.to_string();
        assert!(
            problem.contains("expected the folder of a did:btcr2 identifier"),
            "{problem}"
        );
    }
    // Another DID's key in the place of this one's.
    let file = home.path(FIRST).join("key.json");
    fs::copy(home.path(SECOND).join("key.json"), &file).unwrap();
    let error = dids.get(&FIRST.parse().unwrap()).unwrap_err();
    assert!(
        error.to_string().starts_with(&file.display().to_string()),
        "{error}"
    );
    assert!(error.to_string().contains(FIRST_KEY), "{error}");
    assert_eq!(dids.get(&second.did).unwrap(), second);
    let error = dids.create(Network::Regtest, Some(0)).unwrap_err();
    assert!(
        error.to_string().starts_with(&file.display().to_string()),
        "{error}"
    );
}

#[test]
fn there_are_so_many_records_and_no_more() {
    let home = Home::new();
    let dids = home.dids();
    let folder = home.path("keys");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..MAX_KEYS {
        fs::write(folder.join(format!("{number}.json")), "").unwrap();
    }
    let error = dids.new_key(Network::Regtest, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} holds more than expected: at most {MAX_KEYS} records",
            folder.display()
        )
    );
    fs::write(folder.join("one-more.json"), "").unwrap();
    let error = dids.records().public_keys().unwrap_err();
    assert!(
        error.to_string().contains("at most 4096 records"),
        "{error}"
    );
}

#[test]
fn records_of_another_seed_sign_nothing() {
    let home = Home::new();
    let own = home.dids().create(Network::Regtest, None).unwrap();
    let other = seed(&format!("{}vote", "zoo ".repeat(23)));
    let dids = Dids::new(home.0.path(), other, BtcNetwork::Regtest);
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(matches!(error, DidsError::WrongSeed { .. }), "{error}");
    assert!(error.to_string().contains("m/1643'/1'/0'"), "{error}");
    assert_eq!(dids.records().count_updates(&own.did).unwrap(), 0);
}

#[test]
fn the_key_that_signs_may_be_named_and_must_be_allowed_to() {
    let home = Home::new();
    let dids = home.dids();
    let own = dids.create(Network::Regtest, None).unwrap();
    let named = |method: &str| {
        let mut wanted = change(&own, add_service("a"));
        wanted.method = Some(method.to_owned());
        dids.sign_update(&wanted)
    };
    let error = named("#other").unwrap_err();
    assert!(error.to_string().contains("#other"), "{error}");
    let signed = named("#initialKey").unwrap();
    let method = &signed.update.value()["proof"]["verificationMethod"];
    assert_eq!(*method, format!("{FIRST}#initialKey"));
    let mut stale = change(&own, add_service("a"));
    stale.version = 1;
    assert!(matches!(
        dids.sign_update(&stale),
        Err(DidsError::Method(_))
    ));
}
