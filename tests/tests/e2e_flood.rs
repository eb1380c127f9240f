//! A flood of messages from strangers, with a reader that never reads, leaves a coordinator's memory where it was.
//!
//! `BEACON_FLOOD_MESSAGES=100000 cargo test -p beacon-tests --test e2e_flood -- --nocapture` sends so many, and prints what it
//! measured. The limits of rates are lifted: each message is opened, judged and answered.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use beacon_didcomm::protocols::ping;
use beacon_didcomm::{Endpoint, Identity, Plaintext, Resolver, ReturnRoute, pack};
use beacon_tests::harness::{Agent, Binary, Scratch, free_port, message, now};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

/// Sockets that flood.
const SOCKETS: u64 = 4;
/// Messages of one stranger.
const BATCH: u64 = 4;
/// What the memory may grow by, after the first fifth of the flood has filled what is bounded: less than 4 KiB for each message
/// of the smallest run.
const CEILING_KIB: u64 = 16 << 10;

/// Makes strangers, and what they send.
struct Flooder {
    agent: String,
    resolver: Resolver,
    strangers: AtomicU64,
}

impl Flooder {
    fn stranger(&self) -> Identity {
        let number = self.strangers.fetch_add(1, Ordering::Relaxed);
        let secret = |purpose: u8| {
            let mut secret = [purpose; 32];
            secret[..8].copy_from_slice(&number.to_be_bytes());
            secret
        };
        Identity::new(&secret(1), &secret(2), Endpoint::Queue).unwrap()
    }

    fn pack(&self, own: &Identity, plaintext: Plaintext) -> Message {
        let plaintext = plaintext.with_return_route(ReturnRoute::All);
        let to = self.agent.parse().unwrap();
        let packed = pack(own, &to, &plaintext, &self.resolver).unwrap();
        Message::Binary(packed.frame().to_vec().into())
    }

    /// Four messages of a fresh stranger: a ping, and three that are refused, each for another reason.
    fn batch(&self) -> [Message; 4] {
        let own = self.stranger();
        let cohort = json!({ "cohort_id": Uuid::new_v4().to_string() });
        [
            self.pack(&own, ping(Uuid::new_v4(), now())),
            self.pack(&own, message("keygen/opt_out", cohort.clone())),
            self.pack(&own, message("keygen/nonsense", json!({}))),
            self.pack(&own, message("keygen/opt_in", cohort)),
        ]
    }

    /// Sends so many messages over sockets that lead to at most 60 strangers each, and reads all answers.
    async fn flood(&self, url: &str, messages: u64) {
        let mut left = messages / BATCH;
        while left > 0 {
            let (mut sink, mut stream) = connect_async(url).await.unwrap().0.split();
            let batches = left.min(60);
            left -= batches;
            let sends = async {
                for _ in 0..batches {
                    for frame in self.batch() {
                        sink.send(frame).await.unwrap();
                    }
                }
            };
            let reads = async {
                let mut answers = 0;
                while answers < batches * BATCH {
                    if let Message::Binary(_) = stream.next().await.unwrap().unwrap() {
                        answers += 1;
                    }
                }
            };
            tokio::join!(sends, reads);
            sink.close().await.unwrap();
        }
    }

    /// Asks and asks and never reads an answer; when its socket is closed, on another one.
    async fn never_read(&self, url: &str, stop: &AtomicBool) -> u64 {
        let (own, mut closed) = (self.stranger(), 0);
        while !stop.load(Ordering::Relaxed) {
            let mut socket = connect_async(url).await.unwrap().0;
            while !stop.load(Ordering::Relaxed) {
                let ping = self.pack(&own, ping(Uuid::new_v4(), now()));
                if socket.send(ping).await.is_err() {
                    closed += 1;
                    break;
                }
            }
        }
        closed
    }
}

/// Resident memory of a process, now and at its highest, in KiB.
fn memory(id: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let of = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_and_a_slow_reader_leave_the_memory_flat() {
    let messages = std::env::var("BEACON_FLOOD_MESSAGES");
    let messages: u64 = messages.map_or(6_000, |number| number.parse().unwrap());
    let scratch = Scratch::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let most = "1000000";
    let options = [
        "--chain-url",
        "http://127.0.0.1:9",
        "--listen",
        &listen,
        "--ip-messages-per-s",
        most,
        "--ip-burst",
        most,
        "--stranger-messages-per-s",
        most,
        "--stranger-burst",
        most,
    ];
    let options = options.map(str::to_owned).to_vec();
    let coordinator =
        Agent::start("coordinator", Binary::Coordinator, scratch.path(), options).await;
    let flooder = Arc::new(Flooder {
        agent: coordinator.did().to_owned(),
        resolver: Resolver::default(),
        strangers: AtomicU64::new(0),
    });
    let (url, id) = (coordinator.url(), coordinator.id());
    let (before, _) = memory(id);
    let stop = Arc::new(AtomicBool::new(false));
    let slow = {
        let (flooder, url, stop) = (Arc::clone(&flooder), url.clone(), Arc::clone(&stop));
        tokio::spawn(async move { flooder.never_read(&url, &stop).await })
    };
    let wave = |messages: u64| {
        let waves = (0..SOCKETS).map(|_| {
            let (flooder, url) = (Arc::clone(&flooder), url.clone());
            tokio::spawn(async move { flooder.flood(&url, messages / SOCKETS).await })
        });
        let waves: Vec<_> = waves.collect();
        async move {
            for wave in waves {
                wave.await.unwrap();
            }
        }
    };
    let started = Instant::now();
    let (first, rest) = (messages / 5, messages - messages / 5);
    wave(first).await;
    let (warm, _) = memory(id);
    wave(rest).await;
    let took = started.elapsed();
    let (after, peak) = memory(id);
    stop.store(true, Ordering::Relaxed);
    let closed = slow.await.unwrap();

    let status = coordinator.call("status", Value::Null).await;
    let rate = u128::from(messages) * 1_000 / took.as_millis().max(1);
    println!(
        "{messages} messages in {took:.1?} ({rate}/s, the sender's own work included); resident memory in KiB: {before} before, {warm} after a fifth, {after} after all, {peak} at most; sockets of the slow reader closed: {closed}; refused: {}",
        status["refused"]
    );
    let sockets = SOCKETS * BATCH;
    let sent = first / sockets * SOCKETS + rest / sockets * SOCKETS;
    assert_eq!(status["events"], 0, "nothing of it was recorded");
    for code in ["e.m.unknown-cohort", "e.m.unknown-type", "e.m.malformed"] {
        assert_eq!(status["refused"][code], sent, "{code}: each is counted");
    }
    assert!(after <= warm + CEILING_KIB, "{warm} KiB became {after} KiB");
    assert!(
        peak <= warm + 2 * CEILING_KIB,
        "{warm} KiB became {peak} KiB for a moment"
    );
    let log = coordinator.log().len();
    assert!(log < 4 << 20, "the log has {log} bytes");
}
