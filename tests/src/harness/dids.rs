//! did:btcr2 identifiers: whose documents have a cohort's beacon, how they are updated, and what strangers make of them.

use std::path::Path;

use serde_json::{Value, json};

use super::{Agent, Binary, Cohort, Net, Output, Regtest, Scratch, run};

/// A genesis document with this key and these services.
pub fn genesis(key: &Value, services: &Value) -> Value {
    json!({
        "@context": ["https://www.w3.org/ns/did/v1.1", "https://btcr2.dev/context/v1"],
        "id": "did:btcr2:_",
        "verificationMethod": [{
            "id": "did:btcr2:_#key", "type": "Multikey", "controller": "did:btcr2:_",
            "publicKeyMultibase": key["publicKeyMultibase"],
        }],
        "capabilityInvocation": ["did:btcr2:_#key"],
        "service": services,
    })
}

/// The service that a cohort's beacon is in a document of `did`; `kind` is `SMTBeacon` or `CASBeacon`.
pub fn beacon_service(did: &str, kind: &str, cohort: &Cohort) -> Value {
    json!({
        "id": format!("{did}#cohort"),
        "type": kind,
        "serviceEndpoint": format!("bitcoin:{}", cohort.address),
    })
}

/// A patch that adds a service of this name.
pub fn adding(name: &str) -> Value {
    let service = json!({ "id": format!("#{name}"), "type": "Files", "serviceEndpoint": "https://example.org/" });
    json!([{ "op": "add", "path": "/service/-", "value": service }])
}

/// Writes JSON to a file, and says where it is.
pub fn write_json(path: &Path, value: &Value) -> String {
    std::fs::write(path, value.to_string()).unwrap();
    path.display().to_string()
}

/// What a stranger finds with `resolve`, who has this sidecar and the chain: another process, with a home of its own.
pub async fn resolve(chain: &Regtest, did: &str, sidecar: &Value, flags: &[&str]) -> Output {
    let scratch = Scratch::new();
    let file = write_json(&scratch.path().join("sidecar.json"), sidecar);
    let options = chain.options();
    let lines = options.chunks(2).map(|option| {
        let name = option[0].trim_start_matches('-').replace('-', "_");
        format!("{name} = \"{}\"\n", option[1])
    });
    std::fs::write(
        scratch.path().join("config.toml"),
        lines.collect::<String>(),
    )
    .unwrap();
    let home = scratch.path().display().to_string();
    let fixed = ["--data-dir", &home, "resolve", did, "--sidecar", &file];
    run(Binary::Participant, [&fixed[..], flags].concat()).await
}

/// What a stranger finds after one confirmation: the version, its document, and whether it is deactivated.
pub async fn newest(chain: &Regtest, did: &str, sidecar: &Value) -> Value {
    let output = resolve(chain, did, sidecar, &["--min-conf", "1"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

impl Agent {
    /// Makes a DID of a genesis document with a key of this agent's and this cohort's beacon.
    pub async fn create_did(&self, kind: &str, cohort: &Cohort) -> String {
        let key = self.answer(&["did", "key"]).await;
        let services = json!([beacon_service("did:btcr2:_", kind, cohort)]);
        let file = self.data_dir().with_extension("genesis");
        let file = write_json(&file, &genesis(&key, &services));
        let create = ["did", "create", "--genesis-document", &file];
        let made = self.answer(&create).await;
        assert_eq!(made["beacon_of"], json!([cohort.id]), "{made}");
        made["did"].as_str().unwrap().to_owned()
    }

    /// Answers for a DID in a cohort that is set, as soon as its coordinator has agreed.
    pub async fn register(&mut self, did: &str, cohort: &Cohort) {
        let before = self.last_seq().await;
        self.answer(&["join", &cohort.id, "--did", did]).await;
        self.wait_after(before, "registered", |event| cohort.has(event))
            .await;
    }

    /// `request-update` with this patch. One confirmation of what is there is enough.
    pub async fn request_patch(&self, cohort: &Cohort, did: &str, patch: &Value) -> Output {
        let file = write_json(&self.data_dir().with_extension("patch"), patch);
        let command = ["request-update", &cohort.id, "--did", did, "--patch", &file];
        let command = [&command[..], &["--min-conf", "1"]].concat();
        self.command(&command).await
    }

    /// What `sidecar export` writes; nothing is missing in it.
    pub async fn sidecar(&self, did: &str) -> Value {
        let file = self.data_dir().with_extension("sidecar");
        let path = file.display().to_string();
        let export = ["sidecar", "export", "--did", did, "--out", &path];
        let told = self.answer(&export).await;
        assert_eq!(told["proofs_missing"], json!([]));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

impl Net {
    /// Has a member announce an update of a DID through a cohort, and the signal mined.
    pub async fn announce(&mut self, member: usize, cohort: &mut Cohort, did: &str, patch: &Value) {
        let output = self.members[member].request_patch(cohort, did, patch).await;
        assert_eq!(output.code, 0, "{output:?}");
        self.confirmed(cohort).await;
    }

    /// The version that a stranger finds with what the member exports.
    pub async fn version(&self, member: usize, did: &str) -> Value {
        let sidecar = self.members[member].sidecar(did).await;
        newest(&self.chain, did, &sidecar).await["didDocumentMetadata"]["versionId"].clone()
    }
}
