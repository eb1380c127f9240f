//! Peers that fall silent, in virtual time and over streams in memory: minutes pass at once, and to the second.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::connection::{End, Ports, run, settings};
use super::super::{ConnectionId, Inbound, TransportConfig};

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
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let settings = Some(settings(&TransportConfig::default()));
    let (sender, inbound) = mpsc::channel(1);
    let (queue, queued) = mpsc::channel(1);
    let (abort, aborted) = oneshot::channel();
    let (stop, stopping) = watch::channel(false);
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Parts {
        socket: WebSocketStream::from_raw_socket(ours, Role::Server, settings).await,
        ports: Ports {
            id: ConnectionId(1),
            remote,
            inbound: sender,
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

#[tokio::test(start_paused = true)]
async fn an_idle_peer_that_answers_pings_lives() {
    let mut parts = parts().await;
    let config = TransportConfig::default();
    let connection = run(parts.socket, parts.ports, &config);
    let peer = async { while let Some(Ok(_)) = parts.peer.next().await {} };
    let hour = Duration::from_hours(1);
    tokio::select! {
        outcome = timeout(hour, connection) => assert!(outcome.is_err(), "ended: {}", outcome.unwrap()),
        () = peer => panic!("the peer was hung up on"),
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
