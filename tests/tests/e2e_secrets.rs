//! No secret leaves an agent: not in its log at the finest level, not in its files, not in what it answers or sends.
//!
//! A coordinator and its members live through joins, signatures, refusals and a restart, with everything logged. Then all secrets are
//! derived from the seeds, written in all ways that a program writes bytes, and searched for in all output, all files but the
//! seeds themselves, all answers to commands, and all messages, opened. Secret nonces cannot be derived by anybody:
//! that they are nowhere is a matter of types (docs/adr/0001, 0004).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use beacon_cohort::ids::{CohortId, PeerId};
use beacon_cohort::participant::LeafSecret;
use beacon_cohort::signer::KeyPath;
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::{Endpoint, Identity, Resolver, UnpackLimits, unpack};
use beacon_signal::Index;
use beacon_tests::harness::{
    Agent, Binary, Cohort, Net, Regtest, Scratch, Stranger, Tap, chain_options, free_port, message,
    now,
};
use bitcoin::bip32::{ChildNumber, Xpriv};
use bitcoin::secp256k1::Secp256k1;
use bitcoin::{NetworkKind, base58};
use serde_json::{Value, json};

/// Identities of an agent that are looked at.
const IDENTITIES: u32 = 3;

/// What must not be found: name → bytes.
#[derive(Default)]
struct Secrets(BTreeMap<String, Vec<u8>>);

impl Secrets {
    fn add(&mut self, name: String, bytes: &[u8]) {
        self.0.insert(name, bytes.to_vec());
    }

    /// Everything that follows from an agent's seed alone.
    fn of_agent(&mut self, agent: &Agent) {
        let name = agent.name();
        let phrase = fs::read_to_string(agent.data_dir().join("seed")).unwrap();
        let phrase = phrase.trim();
        let words: Vec<_> = phrase.split(' ').collect();
        for (number, three) in words.windows(3).enumerate() {
            for (how, separator) in [("spaces", " "), ("commas", ", "), ("quotes", "\", \"")] {
                let text = three.join(separator);
                self.add(
                    format!("{name}: words {number} with {how}"),
                    text.as_bytes(),
                );
            }
        }
        let mnemonic: bip39::Mnemonic = phrase.parse().unwrap();
        self.add(format!("{name}: entropy"), &mnemonic.to_entropy());
        let seed = mnemonic.to_seed("");
        self.add(format!("{name}: seed"), &seed[..32]);
        self.add(format!("{name}: seed, second half"), &seed[32..]);
        let secp = Secp256k1::new();
        let master = Xpriv::new_master(NetworkKind::Test, &seed).unwrap();
        let mut node = master;
        for step in [None, Some(1642), Some(1)] {
            if let Some(step) = step {
                let step = ChildNumber::from_hardened_idx(step).unwrap();
                node = node.derive_priv(&secp, &[step]).unwrap();
            }
            self.add(
                format!("{name}: BIP32 key after {step:?}"),
                &node.private_key.secret_bytes(),
            );
            self.add(
                format!("{name}: BIP32 chain code after {step:?}"),
                &node.chain_code.to_bytes(),
            );
            self.add(
                format!("{name}: xprv after {step:?}"),
                node.to_string().as_bytes(),
            );
        }
        let seed = agent.seed();
        for index in 0..IDENTITIES {
            let secrets = seed.identity_secrets(index);
            self.add(
                format!("{name}: Ed25519 key {index}"),
                secrets.ed25519.as_slice(),
            );
            let mut agreement = *secrets.x25519;
            self.add(format!("{name}: X25519 key {index}"), &agreement);
            agreement[0] &= 0xf8;
            agreement[31] = agreement[31] & 0x7f | 0x40;
            self.add(format!("{name}: clamped X25519 key {index}"), &agreement);
        }
        self.add(
            format!("{name}: secret of its leaf nonces"),
            seed.leaf_secret().as_slice(),
        );
    }

    /// Its key in a cohort.
    fn of_member(&mut self, member: &Agent, coordinator: &str, cohort: CohortId) {
        let path = KeyPath::of_cohort(BtcNetwork::Regtest, &PeerId::new(coordinator), cohort);
        let key = member
            .seed()
            .cohort_key(bitcoin::Network::Regtest, path.steps());
        self.add(
            format!("{}: cohort key", member.name()),
            key.unwrap().as_slice(),
        );
    }

    fn searcher(&self) -> Searcher {
        let mut searcher = Searcher::default();
        for (name, bytes) in &self.0 {
            for (form, text) in forms(bytes) {
                searcher.add(format!("{name} as {form}"), text);
            }
        }
        searcher
    }
}

/// Bytes in all the ways that a program writes them.
fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let mut backwards = bytes.to_vec();
    backwards.reverse();
    vec![
        ("bytes", bytes.to_vec()),
        ("bytes backwards", backwards),
        ("hex", hex::encode(bytes).into_bytes()),
        ("HEX", hex::encode_upper(bytes).into_bytes()),
        ("base64", STANDARD.encode(bytes).into_bytes()),
        (
            "base64 without padding",
            STANDARD_NO_PAD.encode(bytes).into_bytes(),
        ),
        ("base64url", URL_SAFE_NO_PAD.encode(bytes).into_bytes()),
        ("base58", base58::encode(bytes).into_bytes()),
        ("a list", decimal.join(", ").into_bytes()),
        ("a JSON list", decimal.join(",").into_bytes()),
    ]
}

/// Finds many texts in one pass, by their first 8 bytes.
#[derive(Default)]
struct Searcher(HashMap<[u8; 8], Vec<(String, Vec<u8>)>>);

impl Searcher {
    fn add(&mut self, name: String, text: Vec<u8>) {
        let start = text[..8].try_into().unwrap();
        self.0.entry(start).or_default().push((name, text));
    }

    fn find(&self, content: &[u8]) -> Vec<&str> {
        let mut found = Vec::new();
        for (place, start) in content.windows(8).enumerate() {
            let start: &[u8; 8] = start.try_into().unwrap();
            for (name, text) in self.0.get(start).into_iter().flatten() {
                if content[place..].starts_with(text) {
                    found.push(name.as_str());
                }
            }
        }
        found
    }
}

/// All files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// Two members and a coordinator that log everything, with a tap on the wire between them.
async fn talkative() -> (Net, Tap, Endpoint) {
    let scratch = Scratch::new();
    let chain = Regtest::start(scratch.path()).await;
    let (wire, listen) = (free_port(), free_port());
    let tap = Tap::start(wire, listen).await;
    let mut options = chain_options(&chain);
    options.extend(["--listen".to_owned(), format!("127.0.0.1:{listen}")]);
    options.extend(["--public-url".to_owned(), format!("ws://127.0.0.1:{wire}")]);
    let start = async |name: &str, binary, options| {
        let agent = Agent::new(name, binary, scratch.path(), options);
        let mut agent = agent.with_environment("RUST_LOG", "trace");
        agent.restart().await;
        agent
    };
    let coordinator = start("coordinator", Binary::Coordinator, options).await;
    let mut members = Vec::new();
    for name in ["signs", "asks"] {
        let mut options = chain_options(&chain);
        if name == "signs" {
            options.push("--auto-sign".to_owned());
        }
        let mut member = start(name, Binary::Participant, options).await;
        member
            .call("subscribe", json!({ "coordinator": coordinator.did() }))
            .await;
        member.wait("subscription_accepted", |_| true).await;
        members.push(member);
    }
    let net = Net {
        members,
        coordinator,
        chain,
        scratch,
    };
    (net, tap, format!("ws://127.0.0.1:{wire}").parse().unwrap())
}

/// A session that is declined, one that a restart costs, and one that is signed.
async fn eventful_life(net: &mut Net) -> Cohort {
    let mut cohort = net.form(&[0, 1], json!({})).await;
    net.fund(&cohort).await;
    net.request_update(&cohort, 0).await;
    let mut after = 0;
    for turn in ["decline", "restart", "approve"] {
        let proposed = net.members[1]
            .wait_after(after, "signal_proposed", |_| true)
            .await;
        after = proposed.seq;
        let session = proposed.value["session"].as_str().unwrap().to_owned();
        match turn {
            "decline" => {
                net.members[1]
                    .answer(&["decline", &session, "--comment", "no"])
                    .await;
                net.coordinator.wait("round_stopped", |_| true).await;
                net.coordinator
                    .answer(&["session", "start", &cohort.id])
                    .await;
            }
            "restart" => {
                let fits = |event: &Value| event["session"] == session.as_str();
                net.members[0].wait("nonce_committed", fits).await;
                net.members[0].kill();
                net.members[0].restart().await;
            }
            _ => {
                net.members[1].answer(&["approve", &session]).await;
            }
        }
    }
    net.confirmed(&mut cohort).await;
    cohort
}

/// What strangers can make an agent say.
async fn provoke(net: &Net) -> Vec<Value> {
    let mut stranger = Stranger::connect(&net.coordinator.url()).await;
    let did = net.coordinator.did();
    let cohort = "00000000-0000-4000-8000-000000000000";
    let kinds = [
        ("keygen/subscribe", json!({})),
        (
            "keygen/opt_in",
            json!({ "cohort_id": cohort, "participant_pk": "02" }),
        ),
        (
            "sign/nonce_contribution",
            json!({ "cohort_id": cohort, "session_id": cohort }),
        ),
    ];
    for (kind, body) in kinds {
        let envelope = stranger.pack(did, message(kind, body));
        stranger.send(envelope).await;
    }
    stranger.send(b"{\"garbage\": true}".to_vec()).await;
    let answers = stranger.answers(did).await;
    assert!(answers.len() >= 3, "{answers:?}");
    answers
        .into_iter()
        .map(|(_, message)| json!(message))
        .collect()
}

/// What users see.
async fn answers(net: &Net, cohort: &Cohort) -> Vec<String> {
    let mut all = Vec::new();
    let of_all: [&[&str]; 3] = [
        &["status"],
        &["did"],
        &["events", "--until", "signal_confirmed"],
    ];
    let of_members: [&[&str]; 4] = [
        &["cohorts"],
        &["sessions"],
        &["proof", "export", &cohort.id],
        &["join", "x"],
    ];
    let of_coordinator: [&[&str]; 4] = [
        &["cohort", "show", &cohort.id],
        &["cohort", "list"],
        &["session", "list"],
        &["subscribers"],
    ];
    let agents = net.members.iter().map(|member| (member, of_members));
    for (agent, commands) in agents.chain([(&net.coordinator, of_coordinator)]) {
        for command in of_all.into_iter().chain(commands) {
            let output = agent.command(command).await;
            all.extend([output.stdout, output.stderr]);
        }
    }
    all
}

/// Opens what went over the wire, as its recipients do.
fn opened(tap: &Tap, net: &Net, endpoint: Endpoint) -> Vec<Value> {
    let mut identities = Vec::new();
    for (agent, endpoint) in [
        (&net.coordinator, endpoint),
        (&net.members[0], Endpoint::Queue),
        (&net.members[1], Endpoint::Queue),
    ] {
        let secrets = agent.seed().identity_secrets(0);
        let identity = Identity::new(&secrets.ed25519, &secrets.x25519, endpoint).unwrap();
        assert_eq!(identity.did().as_str(), agent.did());
        identities.push(identity);
    }
    let resolver = Resolver::default();
    let limits = UnpackLimits::default();
    let frames = tap.frames();
    let opened = frames.iter().map(|frame| {
        let mut opened = identities
            .iter()
            .filter_map(|identity| unpack(frame, identity, &resolver, now(), &limits).ok());
        json!(opened.next().unwrap().into_message())
    });
    opened.collect()
}

#[tokio::test]
async fn no_secret_is_in_any_output_file_answer_or_message() {
    let (mut net, tap, endpoint) = talkative().await;
    let cohort = eventful_life(&mut net).await;
    let mut texts = answers(&net, &cohort).await;
    texts.extend(provoke(&net).await.iter().map(Value::to_string));
    let sent: Vec<_> = opened(&tap, &net, endpoint)
        .iter()
        .map(Value::to_string)
        .collect();
    let kinds = [
        "opt_in",
        "request_signature",
        "nonce_contribution",
        "signature_authorization",
        "decline",
    ];
    for kind in kinds {
        assert!(
            sent.iter().any(|message| message.contains(kind)),
            "no {kind} was sent"
        );
    }

    let id: CohortId = cohort.id.parse().unwrap();
    let coordinator = net.coordinator.did().to_owned();
    let (mut secrets, mut leaves) = (Secrets::default(), Secrets::default());
    secrets.of_agent(&net.coordinator);
    for member in &net.members {
        secrets.of_agent(member);
        secrets.of_member(member, &coordinator, id);
        let secret = LeafSecret::new(member.seed().leaf_secret());
        let index = Index::of_did(&cohort.did(member));
        let nonce = secret.leaf_nonce(&PeerId::new(&*coordinator), id, 1, &index);
        leaves.add(format!("{}: leaf nonce", member.name()), nonce.as_bytes());
    }
    // Stores are read when nobody has them open.
    for agent in net.members.iter_mut().chain([&mut net.coordinator]) {
        assert_eq!(agent.terminate().await, 0);
    }
    let mut paths = Vec::new();
    files(net.scratch.path(), &mut paths);
    paths.retain(|path| {
        !path.ends_with("seed") && !path.starts_with(net.scratch.path().join("chain"))
    });
    assert!(
        paths
            .iter()
            .filter(|path| path.ends_with("state.redb"))
            .count()
            == 3,
        "{paths:?}"
    );
    let read = |path: &PathBuf| (path.display().to_string(), fs::read(path).unwrap());
    let mut places: Vec<_> = paths.iter().map(read).collect();
    let logged: usize = net
        .members
        .iter()
        .map(|member| member.log().matches(" TRACE ").count())
        .sum();
    assert!(
        logged > 100,
        "the logs have {logged} lines at the finest level"
    );
    places.extend(
        texts
            .into_iter()
            .map(|text| ("an answer".to_owned(), text.into_bytes())),
    );
    places.extend(
        sent.into_iter()
            .map(|text| ("a message".to_owned(), text.into_bytes())),
    );

    let searcher = secrets.searcher();
    for (place, content) in &places {
        assert_eq!(searcher.find(content), [""; 0], "{place}");
    }
    // Leaf nonces are kept by their member, and shown to its user; nobody else has them, and no log.
    let theirs = |place: &str| place.ends_with("/state.redb") && !place.contains("coordinator");
    let elsewhere = places
        .iter()
        .filter(|(place, _)| !theirs(place) && place != "an answer");
    let searcher = leaves.searcher();
    for (place, content) in elsewhere {
        assert_eq!(searcher.find(content), [""; 0], "{place}");
    }
    let kept = places.iter().filter(|(place, _)| theirs(place));
    for (place, content) in kept {
        assert!(
            !searcher.find(content).is_empty(),
            "{place}: this search finds nothing"
        );
    }
}

/// A search that finds nothing proves something only if it can find.
#[test]
fn the_search_finds_a_planted_secret_in_every_form() {
    let mut secrets = Secrets::default();
    let secret: Vec<u8> = (0..32).map(|byte| byte * 7 + 3).collect();
    secrets.add("planted".to_owned(), &secret);
    let searcher = secrets.searcher();
    let forms = forms(&secret);
    assert_eq!(forms.len(), 10);
    for (form, text) in forms {
        let mut content = b"2026-11-20 INFO something {\"key\": \"".to_vec();
        assert_eq!(searcher.find(&content), [""; 0]);
        content.extend(&text);
        content.extend(b"\"}");
        let found = searcher.find(&content);
        assert!(
            found.contains(&format!("planted as {form}").as_str()),
            "{form}: {found:?}"
        );
    }
}
