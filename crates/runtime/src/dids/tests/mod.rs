mod faults;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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
