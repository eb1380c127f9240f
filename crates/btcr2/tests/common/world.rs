//! A controller of a DID, and the chain on which it announces updates.

use beacon_btcr2::beacon::{Announcement, Beacon, BeaconType, endpoint};
use beacon_btcr2::json;
use beacon_btcr2::resolver::{Block, Signal};
use beacon_btcr2::update::CONTEXTS;
use beacon_btcr2::{
    Did, Document, GenesisBytes, Hash32, Network, Patch, Resolution, ResolutionOptions, Sidecar,
    UnsignedUpdate, initial, proof,
};
use beacon_signal::{Index, LeafNonce, LeafValue, Proof, SparseMerkleTree, UpdateId};
use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::{Keypair, Secp256k1, SecretKey};
use bitcoin::{Address, BlockHash, PubkeyHash, Txid};
use serde_json::{Map, Value, json};

use super::Sources;

/// A DID, its key, and everything that it must keep.
#[derive(Clone, Debug)]
pub struct Controller {
    pub key: Keypair,
    pub did: Did,
    pub document: Document,
    pub version: u64,
    pub sidecar: Sidecar,
}

pub fn key(seed: u8) -> Keypair {
    let secret = SecretKey::from_slice(&[seed; 32]).unwrap();
    Keypair::from_secret_key(&Secp256k1::new(), &secret)
}

/// Some address, each number another.
pub fn address(number: u32) -> Address {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Address::p2pkh(
        PubkeyHash::from_byte_array(bytes),
        bitcoin::Network::Regtest,
    )
}

impl Controller {
    /// A DID that is made from a key.
    pub fn with_key(seed: u8) -> Self {
        let key = key(seed);
        let did = Did::new(Network::Regtest, GenesisBytes::Key(key.public_key()));
        let document = initial::from_key(&did).unwrap().unwrap();
        Self {
            key,
            did,
            document,
            version: 1,
            sidecar: Sidecar::default(),
        }
    }

    /// A DID that is made from a genesis document with these beacons.
    pub fn with_genesis(seed: u8, beacons: &[(BeaconType, Address)]) -> Self {
        let key = key(seed);
        let services = beacons.iter().enumerate().map(|(number, (kind, address))| {
            json!({
                "id": format!("did:btcr2:_#beacon{number}"),
                "type": kind.service_type(),
                "serviceEndpoint": endpoint(address),
            })
        });
        let genesis = json!({
            "@context": ["https://www.w3.org/ns/did/v1.1", "https://btcr2.dev/context/v1"],
            "id": "did:btcr2:_",
            "verificationMethod": [{
                "id": "did:btcr2:_#key",
                "type": "Multikey",
                "controller": "did:btcr2:_",
                "publicKeyMultibase": proof::multikey(&key.public_key()),
            }],
            "capabilityInvocation": ["did:btcr2:_#key"],
            "service": services.collect::<Vec<_>>(),
        });
        Self::with_document(seed, genesis)
    }

    pub fn with_document(seed: u8, genesis: Value) -> Self {
        let (did, document) = initial::create_from_genesis(Network::Regtest, &genesis).unwrap();
        let sidecar = Sidecar {
            genesis_document: Some(genesis),
            ..Sidecar::default()
        };
        Self {
            key: key(seed),
            did,
            document,
            version: 1,
            sidecar,
        }
    }

    pub fn beacons(&self) -> Vec<Beacon> {
        self.document.beacons().to_vec()
    }

    /// The address of a beacon of the document.
    pub fn address(&self, number: usize) -> Address {
        self.document.beacons()[number].address.clone()
    }

    /// Makes and keeps the next update.
    pub fn update(&mut self, patch: &Value) -> Hash32 {
        let (unsigned, target) = self.next(patch);
        let update = self.sign(unsigned.value(), |_| {});
        let id = json::hash(&update);
        self.sidecar.updates.push(update);
        self.document = target;
        self.version += 1;
        id
    }

    /// An update that adds something harmless.
    pub fn remark(&mut self, text: &str) -> Hash32 {
        self.update(&remark(text))
    }

    /// The next update and the document that it makes.
    pub fn next(&self, patch: &Value) -> (UnsignedUpdate, Document) {
        let patch = Patch::from_value(patch.clone()).unwrap();
        UnsignedUpdate::construct(&self.document, &patch, self.version + 1).unwrap()
    }

    /// Signs whatever it is, with the options of the proof changed.
    pub fn sign(&self, update: Value, change: impl FnOnce(&mut Map<String, Value>)) -> Value {
        let method = self.document.value()["capabilityInvocation"][0].clone();
        let options = json!({
            "@context": CONTEXTS,
            "type": "DataIntegrityProof",
            "cryptosuite": "bip340-jcs-2025",
            "verificationMethod": method.get("id").unwrap_or(&method),
            "proofPurpose": "capabilityInvocation",
            "capability": format!("urn:zcap:root:{}", self.did.as_str().replace(':', "%3A")),
            "capabilityAction": "Write",
        });
        let mut options = options.as_object().unwrap().clone();
        change(&mut options);
        let aux = [u8::try_from(self.version % 251).unwrap(); 32];
        let proof = proof::create(&update, options, |message| {
            proof::sign(&self.key, &aux, message)
        });
        let mut signed = update;
        signed["proof"] = Value::Object(proof);
        signed
    }

    /// The options with which a relying party resolves the DID.
    pub fn options(&self) -> ResolutionOptions {
        let mut options = ResolutionOptions::default();
        options.sidecar = self.sidecar.clone();
        options
    }

    /// Puts a proof of a tree into the sidecar data.
    pub fn keep_proof(
        &mut self,
        tree: &SparseMerkleTree,
        nonce: Option<[u8; 32]>,
        update: Option<Hash32>,
    ) -> Proof {
        let mut proof = tree.proof(&Index::of_did(self.did.as_str()));
        proof.nonce = nonce.map(LeafNonce::new);
        proof.update_id = update.map(UpdateId::from);
        self.sidecar
            .smt_proofs
            .push(serde_json::to_value(&proof).unwrap());
        proof
    }
}

pub fn remark(text: &str) -> Value {
    let text = text.replace(' ', "-");
    json!([{ "op": "add", "path": "/alsoKnownAs", "value": [format!("https://example.org/{text}")] }])
}

pub fn add_beacon(id: &str, kind: BeaconType, address: &Address) -> Value {
    let service =
        json!({ "id": id, "type": kind.service_type(), "serviceEndpoint": endpoint(address) });
    json!([{ "op": "add", "path": "/service/-", "value": service }])
}

/// A DID in the tree of a round, and whether it has a nonce and an update there.
pub type Leaf<'a> = (&'a Did, Option<[u8; 32]>, Option<Hash32>);

/// The tree of a round.
pub fn tree(leaves: &[Leaf<'_>]) -> SparseMerkleTree {
    let leaves = leaves.iter().map(|(did, nonce, update)| {
        let (nonce, update) = (nonce.map(LeafNonce::new), update.map(UpdateId::from));
        let leaf = match (&nonce, &update) {
            (Some(nonce), Some(update)) => LeafValue::update(nonce, update),
            (Some(nonce), None) => LeafValue::no_update(nonce),
            (None, Some(update)) => LeafValue::update_without_nonce(update),
            (None, None) => LeafValue::EMPTY,
        };
        (Index::of_did(did.as_str()), leaf)
    });
    SparseMerkleTree::new(leaves).unwrap()
}

/// A chain whose tip is at height 1000, and a store.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub sources: Sources,
    sent: u32,
}

pub const TIP: u32 = 1000;

/// A block: one every ten minutes, with a median time of an hour before.
pub fn block(height: u32) -> Block {
    let mut hash = [0xbb; 32];
    hash[..4].copy_from_slice(&height.to_be_bytes());
    Block {
        height,
        hash: BlockHash::from_byte_array(hash),
        time: 1_700_000_000 + height * 600,
        median_time: 1_700_000_000 + height * 600 - 3600,
    }
}

impl World {
    pub fn signal(&mut self, bytes: [u8; 32], height: u32) -> Signal {
        self.sent += 1;
        let mut txid = [0xcc; 32];
        txid[..4].copy_from_slice(&self.sent.to_be_bytes());
        Signal {
            block: block(height),
            txid: Txid::from_byte_array(txid),
            bytes,
            confirmations: TIP + 1 - height,
        }
    }

    /// Puts a signal into a block.
    pub fn announce(&mut self, address: &Address, bytes: Hash32, height: u32) -> Signal {
        let signal = self.signal(bytes.0, height);
        let signals = self.sources.signals.entry(address.clone());
        signals.or_default().push(signal);
        signal
    }

    pub fn resolve(&self, controller: &Controller) -> Resolution {
        self.resolve_with(controller, |_| {})
    }

    pub fn resolve_with(
        &self,
        controller: &Controller,
        set: impl FnOnce(&mut ResolutionOptions),
    ) -> Resolution {
        let mut options = controller.options();
        set(&mut options);
        self.sources.resolve(&controller.did, options)
    }
}

/// That it came to this version of the controller's document.
pub fn assert_version(resolution: &Resolution, version: u64) -> &beacon_btcr2::Resolved {
    match &resolution.0 {
        Ok(resolved) => {
            assert_eq!(resolved.version_id, version);
            resolved
        }
        Err(error) => panic!("expected version {version}: {error}"),
    }
}

pub fn assert_error(resolution: &Resolution, code: &str, words: &str) {
    match &resolution.0 {
        Ok(resolved) => panic!("expected {code}, got version {}", resolved.version_id),
        Err(error) => {
            assert_eq!(error.code.as_str(), code, "{error}");
            assert!(
                error.to_string().contains(words),
                "expected {words:?}: {error}"
            );
        }
    }
}

/// A DID with a beacon of every type and four updates: at the singleton, in a map, in a tree, and at a beacon that was added.
/// Every kind of sidecar data is needed.
pub fn one_of_everything() -> (Controller, World) {
    let beacons = [BeaconType::Singleton, BeaconType::Cas, BeaconType::Smt];
    let beacons =
        [0, 1, 2].map(|number| (beacons[number], address(u32::try_from(number).unwrap())));
    let (mut fred, mut world) = (Controller::with_genesis(1, &beacons), World::default());
    let lucia = Controller::with_key(2);

    let update = fred.remark("a");
    world.announce(&address(0), update, 100);
    let update = fred.remark("b");
    announce_in_map(&mut fred, &mut world, &lucia, update, 200);
    let update = fred.update(&add_beacon("#new", BeaconType::Singleton, &address(3)));
    announce_in_tree(&mut fred, &mut world, &lucia, Some(update), 300);
    announce_in_tree(&mut fred, &mut world, &lucia, None, 310);
    let update = fred.remark("d");
    world.announce(&address(3), update, 400);
    (fred, world)
}

pub fn announce_in_map(
    fred: &mut Controller,
    world: &mut World,
    lucia: &Controller,
    update: Hash32,
    height: u32,
) {
    let map = Announcement::new([
        (fred.did.clone(), update),
        (lucia.did.clone(), Hash32([1; 32])),
    ]);
    world.announce(&address(1), map.hash(), height);
    fred.sidecar.cas_updates.push(map.value().clone());
}

pub fn announce_in_tree(
    fred: &mut Controller,
    world: &mut World,
    lucia: &Controller,
    update: Option<Hash32>,
    height: u32,
) {
    let nonce = Some([u8::try_from(height % 251).unwrap(); 32]);
    let did = fred.did.clone();
    let tree = tree(&[(&did, nonce, update), (&lucia.did, nonce, None)]);
    fred.keep_proof(&tree, nonce, update);
    world.announce(&address(2), Hash32(tree.root().0), height);
}
