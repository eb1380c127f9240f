//! Peers that fall silent or say too much, in virtual time and over streams in memory: minutes pass at once, and to the second.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::connection::{End, Ports, run, settings};
use super::super::registry::Registry;
use super::super::{ConnectionId, Inbound, TransportConfig};
use crate::rates::Rate;

/// A connection before it runs, what the rest of the transport would hold of it, and its peer.
struct Parts {
    socket: WebSocketStream<DuplexStream>,
    ports: Ports,
    peer: WebSocketStream<DuplexStream>,
    inbound: mpsc::Receiver<Inbound>,
    _queue: mpsc::Sender<Vec<u8>>,
    _abort: oneshot::Sender<()>,
    _stop: watch::Sender<bool>,
}

async fn parts() -> Parts {
    parts_with(TransportConfig::default()).await
}

async fn parts_with(config: TransportConfig) -> Parts {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let settings = Some(settings(&config));
    let (sender, inbound) = mpsc::channel(1);
    let registry = Arc::new(Registry::new(config, sender));
    let (queue, queued) = mpsc::channel(1);
    let (abort, aborted) = oneshot::channel();
    let (stop, stopping) = watch::channel(false);
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Parts {
        socket: WebSocketStream::from_raw_socket(ours, Role::Server, settings).await,
        ports: Ports {
            id: ConnectionId(1),
            remote,
            registry,
            queued,
            aborted,
            stopping,
        },
        peer: WebSocketStream::from_raw_socket(theirs, Role::Client, settings).await,
        inbound,
        _queue: queue,
        _abort: abort,
        _stop: stop,
    }
}

/// A peer whose machine lost its power closes nothing: only the missing answers to pings tell.
#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_taken_for_dead_after_two_missed_pings() {
    let parts = parts().await;
    let started = Instant::now();
    let end = run(parts.socket, parts.ports, &TransportConfig::default()).await;
    assert!(
        matches!(end, End::Silent(time) if time == Duration::from_mins(1)),
        "{end}"
    );
    assert_eq!(started.elapsed(), Duration::from_mins(1));
}

/// The attack: sockets that are kept open and say nothing, until there is no place left.
#[tokio::test(start_paused = true)]
async fn a_peer_that_only_answers_pings_is_closed_when_it_was_idle_for_long() {
    let mut parts = parts().await;
    let config = TransportConfig::default();
    let started = Instant::now();
    let connection = run(parts.socket, parts.ports, &config);
    let peer = async { while let Some(Ok(_)) = parts.peer.next().await {} };
    let (end, ()) = tokio::join!(connection, peer);
    assert!(matches!(end, End::Idle(_)), "{end}");
    let latest = config.idle_timeout + config.close_timeout;
    assert!((config.idle_timeout..=latest).contains(&started.elapsed()));
}

/// What a participant does: it shows itself on its connection every two minutes.
#[tokio::test(start_paused = true)]
async fn a_peer_that_says_something_now_and_then_lives() {
    let Parts {
        socket,
        ports,
        peer,
        mut inbound,
        _queue,
        _abort,
        _stop,
    } = parts().await;
    let config = TransportConfig::default();
    let (mut sink, mut stream) = peer.split();
    let says = async {
        loop {
            sink.send(Message::text("still here")).await.unwrap();
            tokio::time::sleep(Duration::from_mins(2)).await;
        }
    };
    let reads = async { while let Some(Ok(_)) = stream.next().await {} };
    let takes = async { while inbound.recv().await.is_some() {} };
    tokio::select! {
        outcome = timeout(Duration::from_hours(2), run(socket, ports, &config)) => assert!(outcome.is_err(), "ended: {}", outcome.unwrap()),
        () = says => {}
        () = reads => panic!("the peer was hung up on"),
        () = takes => unreachable!("the connection holds a sender"),
    }
}

/// The attack: more messages than we can open. They wait in the sender's own socket, and none is lost.
#[tokio::test(start_paused = true)]
async fn an_address_is_read_no_faster_than_its_rate() {
    let config = TransportConfig {
        ip_rate: Rate::new(10, 20),
        ..TransportConfig::default()
    };
    let mut parts = parts_with(config.clone()).await;
    let counts = parts.ports.registry.counts.clone();
    let started = Instant::now();
    let connection = run(parts.socket, parts.ports, &config);
    let sends = async {
        for number in 0..120u8 {
            parts
                .peer
                .send(Message::binary(vec![number]))
                .await
                .unwrap();
        }
        std::future::pending::<()>().await;
    };
    let takes = async {
        for number in 0..120u8 {
            match parts.inbound.recv().await {
                Some(Inbound::Frame { bytes, .. }) => assert_eq!(bytes, [number]),
                other => panic!("got {other:?}, expected frame {number}"),
            }
        }
    };
    tokio::select! {
        end = connection => panic!("{end}"),
        () = sends => {}
        () = takes => {}
    }
    let took = started.elapsed();
    assert!(
        (Duration::from_secs(10)..Duration::from_secs(11)).contains(&took),
        "{took:?}"
    );
    assert_eq!(counts.of("delayed-ip"), 100);
}

/// Opening a message costs by its size too, so large ones count for more.
#[tokio::test(start_paused = true)]
async fn large_messages_and_pings_use_up_an_addresss_rate_as_well() {
    let config = TransportConfig {
        ip_rate: Rate::new(10, 100),
        ..TransportConfig::default()
    };
    let registry = Registry::new(config, mpsc::channel(1).0);
    let ip = [10, 0, 0, 1].into();
    let started = Instant::now();
    registry.pace(ip, 1 << 20).await;
    registry.pace(ip, 0).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    registry.pace(ip, 1 << 20).await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(3), "{took:?}");
    registry.pace([10, 0, 0, 2].into(), 0).await;
    assert_eq!(started.elapsed(), took, "another address does not wait");
}

/// The attack: many sockets with one large message each, while the agent is busy.
#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_the_agent_are_limited_in_bytes() {
    let config = TransportConfig {
        max_frame: 100,
        inbound_bytes: 250,
        ..TransportConfig::default()
    };
    let (sender, mut inbound) = mpsc::channel(100);
    let registry = Arc::new(Registry::new(config, sender));
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let mut waiting = Vec::new();
    for id in 0..4 {
        let registry = Arc::clone(&registry);
        let deliver = async move {
            registry
                .deliver(ConnectionId(id), remote, vec![0; 100])
                .await
        };
        waiting.push(tokio::spawn(deliver));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(inbound.len(), 2, "two have room");
    drop(inbound.recv().await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(inbound.len(), 2, "the place of the first is another's");
    drop(inbound.recv().await.unwrap());
    drop(inbound.recv().await.unwrap());
    for delivered in waiting {
        assert!(delivered.await.unwrap());
    }
}

/// While the agent itself is too busy to take a frame, no pong can come through: that is not the peer's silence.
#[tokio::test(start_paused = true)]
async fn a_busy_agent_does_not_take_its_peers_for_dead() {
    let mut parts = parts().await;
    for _ in 0..3 {
        parts.peer.send(Message::text("frame")).await.unwrap();
    }
    let config = TransportConfig::default();
    let connection = run(parts.socket, parts.ports, &config);
    let mut connection = std::pin::pin!(connection);
    let outcome = timeout(Duration::from_hours(1), &mut connection).await;
    assert!(outcome.is_err(), "ended: {}", outcome.unwrap());
    let mut taken = 0;
    let end = tokio::select! {
        end = &mut connection => end,
        () = async { while parts.inbound.recv().await.is_some() { taken += 1; } } => unreachable!("the connection holds a sender"),
    };
    assert_eq!(taken, 3);
    // Now the agent listens and there is nothing to hear.
    assert!(matches!(end, End::Silent(_)), "{end}");
}
