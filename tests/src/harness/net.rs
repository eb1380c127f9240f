//! A chain, a coordinator and its members; cohorts, and the signals that they publish.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use beacon_signal::transaction::signal_bytes;
use bitcoin::{Transaction, Txid};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Agent, Binary, Regtest, Scratch, run};

/// What a member does without being asked, and how it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// Signs whatever passes its checks.
    Signs,
    /// Asks its user before it signs.
    Asks,
    /// Signs, and listens on a port of its own.
    Listens,
}

/// Everything that runs in one test. Fields go in their order: nobody loses its peers before it is gone itself.
#[derive(Debug)]
pub struct Net {
    /// The participants, all subscribed.
    pub members: Vec<Agent>,
    /// The coordinator.
    pub coordinator: Agent,
    /// The chain.
    pub chain: Regtest,
    /// Their homes and logs.
    pub scratch: Scratch,
}

/// A cohort that all of `members` acknowledged.
#[derive(Debug)]
pub struct Cohort {
    /// Its id.
    pub id: String,
    /// The beacon address.
    pub address: String,
    /// Which members of the net are in it.
    pub members: Vec<usize>,
    /// What it has published, oldest first.
    pub signals: Vec<Signal>,
}

/// A signal on the chain.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The transaction's id.
    pub txid: Txid,
    /// The transaction, as the chain has it.
    pub transaction: Transaction,
    /// The root that its last output carries, 64 hex digits.
    pub root: String,
    /// The height of its block.
    pub height: u32,
}

impl Cohort {
    /// The DID that a member answers for in this cohort.
    pub fn did(&self, member: &Agent) -> String {
        did_in(&self.id, member)
    }

    /// Whether an event belongs to this cohort.
    pub fn has(&self, event: &Value) -> bool {
        event["cohort"] == self.id
    }
}

fn did_in(cohort: &str, member: &Agent) -> String {
    format!("did:btcr2:{}-{cohort}", member.name())
}

impl Net {
    /// Starts a chain, a coordinator and these members, and subscribes them.
    pub async fn start(members: &[Member]) -> Self {
        Self::start_with(members, &[]).await
    }

    /// The same, with further options for the coordinator's `run`.
    pub async fn start_with(members: &[Member], options: &[&str]) -> Self {
        let scratch = Scratch::new();
        let chain = Regtest::start(scratch.path()).await;
        Self::start_on(scratch, chain, members, options).await
    }

    /// The same on a chain that runs.
    pub async fn start_on(
        scratch: Scratch,
        chain: Regtest,
        members: &[Member],
        options: &[&str],
    ) -> Self {
        let coordinator = coordinator(scratch.path(), &chain, options).await;
        let mut net = Self {
            chain,
            coordinator,
            members: Vec::new(),
            scratch,
        };
        for member in members {
            net.add(*member).await;
        }
        net
    }

    /// Starts one more member and subscribes it.
    pub async fn add(&mut self, kind: Member) {
        let name = format!("member{}", self.members.len());
        let mut options = chain_options(&self.chain);
        match kind {
            Member::Signs => options.push("--auto-sign".to_owned()),
            Member::Asks => {}
            Member::Listens => {
                let listen = format!("127.0.0.1:{}", free_port());
                options.extend(["--auto-sign".to_owned(), "--listen".to_owned(), listen]);
            }
        }
        let folder = self.scratch.path();
        let mut member = Agent::start(&name, Binary::Participant, folder, options).await;
        let params = json!({ "coordinator": self.coordinator.did() });
        member.call("subscribe", params).await;
        member.wait("subscription_accepted", |_| true).await;
        self.members.push(member);
    }

    /// Advertises a cohort of these members with these terms besides the size, and waits until all of them have acknowledged it.
    pub async fn form(&mut self, members: &[usize], terms: Value) -> Cohort {
        let id = self.advertise(members.len(), terms).await;
        for member in members {
            self.join(&id, *member).await;
        }
        self.acknowledged(id, members).await
    }

    /// Advertises a cohort of this size. Returns its id.
    pub async fn advertise(&self, size: usize, mut terms: Value) -> String {
        terms["min_members"] = size.into();
        let params = json!({ "terms": terms });
        let answer = self.coordinator.call("cohort.advertise", params).await;
        answer["cohort_id"].as_str().unwrap().to_owned()
    }

    /// Has a member join as soon as it has the advert.
    pub async fn join(&mut self, cohort: &str, member: usize) {
        let member = &mut self.members[member];
        member
            .wait("cohort_advertised", |event| event["cohort"] == cohort)
            .await;
        let params = json!({ "cohort_id": cohort, "dids": [did_in(cohort, member)] });
        member.call("join", params).await;
    }

    /// Waits until all members have agreed to a cohort, and the coordinator has heard of it.
    pub async fn acknowledged(&mut self, id: String, members: &[usize]) -> Cohort {
        let mut address = Value::Null;
        for member in members {
            let member = &mut self.members[*member];
            let agreed = member
                .wait("cohort_agreed", |event| event["cohort"] == id)
                .await;
            address = agreed.value["address"].clone();
            let did = member.did();
            self.coordinator
                .wait("acknowledged", |event| {
                    event["cohort"] == id && event["peer"] == did
                })
                .await;
        }
        Cohort {
            id,
            address: address.as_str().unwrap().to_owned(),
            members: members.to_vec(),
            signals: Vec::new(),
        }
    }

    /// Pays to the beacon address, in a block of its own.
    pub async fn fund(&mut self, cohort: &Cohort) {
        self.chain.fund(&cohort.address, 50_000);
        self.coordinator
            .wait("funds_seen", |event| {
                cohort.has(event) && event["funds"][0]["height"].is_u64()
            })
            .await;
    }

    /// Has a member announce an update. Returns its hash, 64 hex digits.
    pub async fn request_update(&self, cohort: &Cohort, member: usize) -> String {
        let version = next_version();
        let update_hash = format!("{:064x}", Uuid::new_v4().as_u128());
        let params =
            json!({ "cohort_id": cohort.id, "update_hash": update_hash, "version": version });
        self.members[member].call("request_update", params).await;
        update_hash
    }

    /// The cohort's next signal, as soon as it waits for a block.
    pub async fn broadcast(&mut self, cohort: &Cohort) -> Txid {
        let event = self
            .coordinator
            .wait("signal_broadcast", |event| {
                cohort.has(event)
                    && cohort
                        .signals
                        .iter()
                        .all(|known| event["txid"] != known.txid.to_string())
            })
            .await;
        event.value["txid"].as_str().unwrap().parse().unwrap()
    }

    /// The cohort's next signal, mined and seen in its block by all who signed it.
    pub async fn confirmed(&mut self, cohort: &mut Cohort) -> Signal {
        let txid = self.broadcast(cohort).await;
        self.chain.mine();
        self.mined(cohort, |event| event["txid"] == txid.to_string())
            .await
    }

    /// The cohort's first signal in a block that fits, seen there by all who signed it.
    pub async fn mined(&mut self, cohort: &mut Cohort, fits: impl Fn(&Value) -> bool) -> Signal {
        let event = self
            .coordinator
            .wait("signal_confirmed", |event| cohort.has(event) && fits(event))
            .await;
        let txid: Txid = event.value["txid"].as_str().unwrap().parse().unwrap();
        let fits = |event: &Value| event["txid"] == txid.to_string();
        for member in &cohort.members {
            self.members[*member].wait("signal_confirmed", fits).await;
        }
        let transaction = self.chain.transaction(txid);
        let signal = Signal {
            txid,
            root: hex::encode(signal_bytes(&transaction).unwrap()),
            transaction,
            height: self.chain.height(txid).unwrap(),
        };
        cohort.signals.push(signal.clone());
        signal
    }

    /// Has each member export its proof in a signal, and checks it by a separate command against the root that the
    /// chain has; an altered proof must be refused.
    pub async fn verify(&self, cohort: &Cohort, signal: &Signal) {
        for member in &cohort.members {
            let member = &self.members[*member];
            let did = cohort.did(member);
            verify_proof(member, &cohort.id, signal.txid, &signal.root, &did).await;
        }
    }
}

/// Has a member export its proof for a DID in a transaction, and checks it by a separate command against this root; an
/// altered proof must be refused.
pub async fn verify_proof(member: &Agent, cohort: &str, txid: Txid, root: &str, did: &str) {
    let file = member.data_dir().with_extension(format!("{txid}.json"));
    let (path, txid) = (file.display().to_string(), txid.to_string());
    let export = ["proof", "export", cohort, "--txid", &txid, "--out", &path];
    let output = member.command(&export).await;
    assert_eq!(output.code, 0, "{output:?}");
    let verify = ["proof", "verify", "--did", did, "--proof", &path];
    let verify = || verify.into_iter().chain(["--root", root]);
    let output = run(Binary::Participant, verify()).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
    assert!(
        output.stdout.contains(root) && output.stdout.contains(did),
        "{output:?}"
    );
    alter(&file);
    let output = run(Binary::Participant, verify()).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("invalid proof"), "{output:?}");
}

/// Makes another leaf nonce of a proof's.
fn alter(file: &Path) {
    let mut proof: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let nonce = proof["nonce"].as_str().unwrap();
    let first = if nonce.starts_with('A') { 'B' } else { 'A' };
    proof["nonce"] = format!("{first}{}", &nonce[1..]).into();
    std::fs::write(file, proof.to_string()).unwrap();
}

/// Starts a coordinator on a free port, with further options of `run`.
pub async fn coordinator(folder: &Path, chain: &Regtest, options: &[&str]) -> Agent {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut all = chain_options(chain);
    all.extend(["--listen".to_owned(), listen]);
    all.extend(options.iter().map(|option| (*option).to_owned()));
    Agent::start("coordinator", Binary::Coordinator, folder, all).await
}

/// The options that lead an agent to this chain.
pub fn chain_options(chain: &Regtest) -> Vec<String> {
    let mut options = chain.options();
    options.extend(["--chain-poll-ms", "100"].map(str::to_owned));
    options
}

/// A port that nobody listens on. It is part of an agent's DID, so it must be known before, and free again after a
/// restart: those that the system hands out to outgoing connections (from 32768 on) will not do, and no two calls give
/// the same.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_240;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test executables may run side by side: each begins somewhere else.
    let own = std::process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT + FIRST)
        .map(|port| u16::try_from(port).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// Versions of updates: each leads to another one, for several may be under way at the same time, in any cohorts.
pub(super) fn next_version() -> u64 {
    static VERSION: AtomicU64 = AtomicU64::new(2);
    VERSION.fetch_add(1, Ordering::Relaxed)
}
