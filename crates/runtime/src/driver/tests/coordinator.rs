//! What a failing store does to a coordinator, and what its limits do to those who write to it.

use std::net::SocketAddr;

use beacon_cohort::coordinator::{Command, Coordinator};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Fund;
use beacon_cohort::message::{DidRegistration, Message, Subscribe, Unsubscribe};
use beacon_didcomm::{Did, Endpoint};
use bitcoin::address::NetworkUnchecked;
use bitcoin::hashes::Hash as _;
use bitcoin::{Address, Amount, ScriptBuf, Txid};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::member::Member;
use super::*;
use crate::coordinator::{self, CoordinatorAgent};
use crate::limits::LimitOptions;
use crate::settings::Options;

/// What is left of a coordinator when its process ends.
struct Office {
    disk: Disk,
    limits: LimitOptions,
    address: Option<SocketAddr>,
}

impl Office {
    fn new(limits: LimitOptions) -> Self {
        Self {
            disk: Disk::new(),
            limits,
            address: None,
        }
    }

    fn role(&self) -> (CoordinatorAgent, Coordinator, Limits) {
        let options = Options {
            limits: self.limits.clone(),
            ..Options::default()
        };
        let config = options.resolve().unwrap();
        let (agent, machine) = coordinator::role(&config);
        (agent, machine, config.limits)
    }

    async fn start(
        &mut self,
        trap: Option<Trap>,
    ) -> Result<(Driver<CoordinatorAgent>, Inputs, Ends), DriverError> {
        let (agent, machine, limits) = self.role();
        // The same port each time: it is part of the DID.
        let listen = self.address.unwrap_or(([127, 0, 0, 1], 0).into());
        let started = self
            .disk
            .start_as(agent, machine, trap, Some(listen), limits)
            .await;
        if let Ok((driver, ..)) = &started {
            self.address = driver.transport.local_addr();
        }
        started
    }

    async fn run(&mut self, trap: Option<Trap>) -> Running {
        let (driver, inputs, ends) = self.start(trap).await.unwrap();
        Running::new(driver, inputs, ends)
    }

    fn url(&self) -> String {
        format!("ws://{}", self.address.unwrap())
    }

    fn did(&self) -> Did {
        let endpoint: Endpoint = self.url().parse().unwrap();
        let mut identities = Identities::new(self.disk.seed(), endpoint);
        identities.get(0).unwrap().did().clone()
    }
}

async fn result(running: &Running, method: &str, params: Value) -> Option<Value> {
    match running.call(method, params).await {
        Some(ControlReply::Result(value)) => Some(value),
        _ => None,
    }
}

/// Serves the member's next message. `None` when the coordinator has ended.
async fn served(running: &Running, member: &mut Member) -> Option<()> {
    tokio::select! {
        open = member.serve() => open.then_some(()),
        () = running.ends.calls.closed() => None,
    }
}

/// Brings a cohort of one to its first signal, from wherever it stands. `None` when the coordinator has ended meanwhile.
async fn live(running: &Running, member: &mut Member) -> Option<()> {
    member.connect().await;
    let cohorts = result(running, "cohort.list", Value::Null).await?;
    if cohorts.as_array().unwrap().is_empty() {
        let params = json!({ "terms": { "min_members": 1 } });
        result(running, "cohort.advertise", params).await?;
    }
    while member.count("cohort_agreed") == 0 || !member.unacknowledged.is_empty() {
        served(running, member).await?;
    }
    let (script, fund) = fund(&member.event("cohort_agreed").unwrap()["address"]);
    let facts = ChainFact::Funds {
        script,
        funds: vec![Fund {
            outpoint: fund.0,
            value: fund.1.value.to_sat(),
            height: Some(100),
        }],
    };
    let reported = running.ends.reports.send(Report::Fact(facts)).await;
    reported.ok()?;
    member.sees(fund);
    if member.count("leaves_chosen") == 0 {
        let cohorts = result(running, "cohort.list", Value::Null).await?;
        let id = &cohorts[0]["cohort_id"];
        // A round may be open already.
        running
            .call("session.start", json!({ "cohort_id": id }))
            .await?;
    }
    while member.count("partial_released") == 0 || !member.unacknowledged.is_empty() {
        served(running, member).await?;
    }
    let sessions = result(running, "session.list", json!({})).await?;
    assert_eq!(sessions[0]["status"], "signed", "{sessions}");
    Some(())
}

/// An output of this address, and its script.
fn fund(address: &Value) -> (ScriptBuf, (OutPoint, TxOut)) {
    let address: Address<NetworkUnchecked> = address.as_str().unwrap().parse().unwrap();
    let output = TxOut {
        value: Amount::from_sat(50_000),
        script_pubkey: address.assume_checked().script_pubkey(),
    };
    let outpoint = OutPoint::new(Txid::from_byte_array([7; 32]), 0);
    (output.script_pubkey.clone(), (outpoint, output))
}

/// For each fact that a coordinator records and each consequence that it draws: what its member has not heard, or has not
/// had acknowledged, when the disk failed.
#[tokio::test]
async fn nothing_that_a_coordinator_may_not_have_recorded_is_acknowledged_or_sent() {
    let sent = [
        ("cohort_advertised", "keygen/cohort_advert"),
        ("cohort_set", "keygen/cohort_set"),
        ("round_opened", "sign/update_opportunity"),
        ("session_started", "sign/authorization_request"),
        ("nonces_aggregated", "sign/aggregated_nonce"),
    ];
    let acknowledged = [
        ("subscribed", "keygen/subscribe"),
        ("opted_in", "keygen/opt_in"),
        ("acknowledged", "keygen/cohort_ack"),
        ("leaves_given", "sign/no_update"),
        ("nonce_given", "sign/nonce_contribution"),
        ("partial_given", "sign/signature_authorization"),
    ];
    let inward = ["funds_seen", "session_signed", "broadcast_tried"];
    let events = sent.iter().chain(&acknowledged).map(|(event, _)| *event);
    for event in events.chain(inward) {
        for failure in [Failure::Lost, Failure::Written] {
            let case = format!("{event} {failure:?}");
            let mut office = Office::new(LimitOptions::default());
            let running = office.run(Some((event, failure))).await;
            let mut member = Member::of(&office.did(), &office.url()).await;
            // What comes after a signature, the coordinator does by itself, when the test may have seen the signature.
            let lived = live(&running, &mut member).await;
            assert!(lived.is_none() || inward.contains(&event), "{case}");
            let error = running.failed().await;
            assert!(
                matches!(error, DriverError::Store(StoreError::Failed { .. })),
                "{case}: {error}"
            );
            while lived.is_none() && member.serve().await {}
            if let Some((_, kind)) = sent.iter().find(|(name, _)| *name == event) {
                assert!(!member.heard.iter().any(|heard| heard == kind), "{case}");
            }
            if let Some((_, kind)) = acknowledged.iter().find(|(name, _)| *name == event) {
                let mut waiting = member.unacknowledged.iter();
                assert!(waiting.any(|(waiting, ..)| waiting == kind), "{case}");
            }

            let running = office.run(None).await;
            live(&running, &mut member).await.expect(&case);
            running.stopped().await;
            assert_eq!(member.count("nonce_committed"), 1, "{case}");
            assert_eq!(member.count("partial_released"), 1, "{case}");
        }
    }
}

#[tokio::test]
async fn so_many_peers_are_dialled_at_one_time() {
    // They take the connection and never say a word.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let disk = Disk::new();
    let (agent, machine) = role(disk.seed());
    let limits = Limits {
        max_dials: 2,
        ..Limits::default()
    };
    let started = disk.start_as(agent, machine, None, None, limits);
    let (mut driver, mut inputs, _ends) = started.await.unwrap();
    for listener in &silent {
        let endpoint = format!("ws://{}", listener.local_addr().unwrap());
        let seed = Seed::generate().unwrap();
        let mut coordinator = Identities::new(seed, endpoint.parse().unwrap());
        let did = coordinator.get(0).unwrap().did().to_string();
        let (request, _answer) = request("subscribe", json!({ "coordinator": did }));
        driver.call(request).unwrap();
    }
    driver.connect_and_send();
    assert_eq!(driver.routes.dials(), 2);
    driver.connect_and_send();
    assert_eq!(driver.routes.dials(), 2, "the third waits");
    drop(silent);
    let dialled = in_time(inputs.dialled.recv()).await.unwrap();
    driver.dialled(dialled);
    assert_eq!(driver.routes.dials(), 1);
    tokio::time::sleep_until(driver.routes.next_scan()).await;
    driver.connect_and_send();
    assert_eq!(driver.routes.dials(), 2, "its turn has come");
}

#[test]
fn a_full_log_stops_what_begins_and_nothing_that_ends_or_proves() {
    let (agent, machine, _) = Office::new(LimitOptions::default()).role();
    let cohort = CohortId(Uuid::new_v4());
    let command = |command| agent.begins(&machine, &Input::Command(command));
    assert!(command(Command::StartRound { cohort }));
    assert!(!command(Command::CloseAdmission { cohort }));
    let message = |message: Message| {
        let input = Input::Message {
            from: PeerId::new("did:example:member"),
            to: PeerId::new("did:example:coordinator"),
            message,
        };
        agent.begins(&machine, &input)
    };
    let registration = |from_round| DidRegistration {
        cohort_id: cohort,
        indexes: Vec::new(),
        from_round,
    };
    assert!(message(registration(None).into()));
    assert!(!message(registration(Some(1)).into()));
    assert!(message(Subscribe::default().into()));
    assert!(!message(Unsubscribe::default().into()));
}
