//! What peers do that is too much, too little or too slow.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::{MaybeTlsStream, accept_async};
use url::Url;

use super::super::{
    ConnectionId, DialError, SendError, Transport, TransportConfig, TransportError, network,
};
use super::{Agent, close_code, defaults, greeted};

#[tokio::test]
async fn many_frames_keep_their_order_through_a_busy_agent() {
    let mut server = Agent::listening(defaults()).await;
    let client = Agent::start(TransportConfig {
        send_queue: 1000,
        ..defaults()
    })
    .await;
    let out = client.dial(&server).await;
    for number in 0..1000u32 {
        client
            .transport
            .send(out, number.to_be_bytes().to_vec())
            .unwrap();
    }
    // The server's channel holds 4: the rest waits in the socket until it is read.
    for number in 0..1000u32 {
        assert_eq!(server.frame().await.1, number.to_be_bytes());
    }
}

/// The attack: a message that would fill the memory. It ends with code 1009, and other connections live on.
#[tokio::test]
async fn an_oversized_message_closes_its_socket_with_1009() {
    let mut server = Agent::listening(TransportConfig {
        max_frame: 1000,
        ..defaults()
    })
    .await;
    let mut innocent = greeted(&mut server).await;
    let fragment =
        |data, last| Message::Frame(Frame::message(vec![0; 600], OpCode::Data(data), last));
    let attacks = [
        vec![Message::binary(vec![0; 1001])],
        vec![Message::binary(vec![0; 4 << 20])],
        vec![Message::text("x".repeat(1001))],
        vec![
            fragment(Data::Binary, false),
            fragment(Data::Continue, true),
        ],
    ];
    for attack in attacks {
        let mut visitor = server.visitor().await;
        visitor.send(Message::binary(vec![0; 1000])).await.unwrap();
        let (connection, bytes) = server.frame().await;
        assert_eq!(bytes.len(), 1000);
        for message in attack {
            visitor.send(message).await.unwrap();
        }
        assert_eq!(close_code(&mut visitor).await, CloseCode::Size);
        drop(visitor);
        assert_eq!(server.closed().await, connection);
    }
    innocent.send(Message::text("still here")).await.unwrap();
    assert_eq!(server.frame().await.1, b"still here");
}

#[tokio::test]
async fn an_oversized_message_is_refused_by_the_side_that_dialled_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("ws://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let mut client = Agent::start(TransportConfig {
        max_frame: 1000,
        ..defaults()
    })
    .await;
    let accepted = async {
        accept_async(listener.accept().await.unwrap().0)
            .await
            .unwrap()
    };
    let (out, mut server) = tokio::join!(client.transport.dial(&url, true), accepted);
    server
        .send(Message::binary(vec![0; 3 << 20]))
        .await
        .unwrap();
    assert_eq!(close_code(&mut server).await, CloseCode::Size);
    drop(server);
    assert_eq!(client.closed().await, out.unwrap());
}

#[tokio::test]
async fn what_is_no_websocket_frame_closes_the_socket() {
    let mut server = Agent::listening(defaults()).await;
    let cases = [
        // A reserved opcode; a text that is not UTF-8 (both masked with zeros).
        (&b"\x83\x80\0\0\0\0"[..], CloseCode::Protocol),
        (&b"\x81\x82\0\0\0\0\xff\xff"[..], CloseCode::Invalid),
        // Not masked.
        (&b"\x82\x01x"[..], CloseCode::Protocol),
    ];
    for (bytes, code) in cases {
        let mut visitor = server.visitor().await;
        let MaybeTlsStream::Plain(stream) = visitor.get_mut() else {
            panic!("expected a plain socket")
        };
        stream.write_all(bytes).await.unwrap();
        assert_eq!(close_code(&mut visitor).await, code, "{bytes:?}");
        drop(visitor);
        server.closed().await;
    }
}

/// The attack: a peer that never reads, to make us keep what we have for it.
#[tokio::test]
async fn a_slow_reader_is_closed_when_its_queue_is_full() {
    let close_timeout = Duration::from_millis(50);
    let mut server = Agent::listening(TransportConfig {
        send_queue: 4,
        close_timeout,
        ..defaults()
    })
    .await;
    let _slow = greeted(&mut server).await;
    let mut fast = server.visitor().await;
    fast.send(Message::text("hello")).await.unwrap();
    let (fast_id, _) = server.frame().await;
    let slow_id = ConnectionId(1);
    // What the operating system buffers comes before our queue.
    let refused = loop {
        match server.transport.send(slow_id, vec![0; 1 << 20]) {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SendError::Full);
    assert_eq!(
        server.transport.send(slow_id, Vec::new()),
        Err(SendError::Gone)
    );
    assert_eq!(server.closed().await, slow_id);
    assert_eq!(server.transport.counts().of("socket-slow"), 1);
    server.transport.send(fast_id, b"for you".to_vec()).unwrap();
    assert_eq!(
        fast.next().await.unwrap().unwrap(),
        Message::binary(&b"for you"[..])
    );
}

#[tokio::test]
async fn a_frame_that_takes_too_long_to_leave_closes_its_connection() {
    let short = Duration::from_millis(50);
    let config = TransportConfig {
        send_timeout: short,
        close_timeout: short,
        ..defaults()
    };
    let mut server = Agent::listening(config).await;
    let _slow = greeted(&mut server).await;
    // More than socket buffers take, less than the queue.
    for _ in 0..32 {
        let _ = server.transport.send(ConnectionId(1), vec![0; 1 << 20]);
    }
    assert_eq!(server.closed().await, ConnectionId(1));
}

#[tokio::test]
async fn sockets_from_one_address_are_limited_and_the_next_is_told_so() {
    let mut server = Agent::listening(TransportConfig {
        max_connections_per_ip: 2,
        ..defaults()
    })
    .await;
    let first = greeted(&mut server).await;
    let _second = greeted(&mut server).await;
    let client = Agent::start(defaults()).await;
    let error = client
        .transport
        .dial(&server.url(), true)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DialError::Refused { status: 429, .. }),
        "{error}"
    );
    assert_eq!(server.transport.counts().of("sockets-over-limit-per-ip"), 1);
    drop(first);
    server.closed().await;
    let out = client.dial(&server).await;
    client.transport.send(out, b"hello".to_vec()).unwrap();
    assert_eq!(server.frame().await.1, b"hello");
}

#[tokio::test]
async fn sockets_are_limited_in_total_and_dialled_ones_count() {
    let mut server = Agent::listening(TransportConfig {
        max_connections: 2,
        ..defaults()
    })
    .await;
    let other = Agent::listening(defaults()).await;
    let out = server.dial(&other).await;
    let _visitor = greeted(&mut server).await;
    let client = Agent::start(defaults()).await;
    let error = client
        .transport
        .dial(&server.url(), true)
        .await
        .unwrap_err();
    assert!(
        matches!(error, DialError::Refused { status: 503, .. }),
        "{error}"
    );
    let error = server.transport.dial(&other.url(), true).await.unwrap_err();
    assert!(matches!(error, DialError::TooMany { limit: 2 }), "{error}");
    assert_eq!(server.transport.counts().of("sockets-over-limit"), 2);
    server.transport.close(out);
    assert_eq!(server.closed().await, out);
    server.dial(&other).await;
}

/// The attack: sockets that send nothing, or half a request, to keep everybody else out.
#[tokio::test]
async fn a_caller_that_sends_no_request_loses_its_place() {
    let connect_timeout = Duration::from_millis(50);
    let server = Agent::listening(TransportConfig {
        max_connections: 1,
        connect_timeout,
        ..defaults()
    })
    .await;
    assert_eq!(server.raw(b"").await, "");
    assert_eq!(server.raw(b"GET / HTTP/1.1\r\nhost: x\r\n").await, "");
    assert_eq!(server.transport.counts().of("handshake-late"), 2);
    assert!(server.raw(HEALTH).await.starts_with("HTTP/1.1 200 OK"));
}

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn http_is_answered_and_garbage_survived() {
    let mut server = Agent::listening(defaults()).await;
    let health = server.raw(HEALTH).await;
    assert!(health.starts_with("HTTP/1.1 200 OK"), "{health}");
    assert!(health.ends_with("{\"status\":\"ok\"}"), "{health}");
    let plain = server
        .raw(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(
        plain.starts_with("HTTP/1.1 426 Upgrade Required"),
        "{plain}"
    );
    let unknown = server
        .raw(b"GET /admin HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    let garbage = server.raw(b"\x16\x03\x01 not http at all\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let mut endless = b"GET / HTTP/1.1\r\nx: ".to_vec();
    endless.resize(1 << 20, b'x');
    let refused = server.raw(&endless).await;
    assert!(
        refused.is_empty() || refused.starts_with("HTTP/1.1 431"),
        "{refused}"
    );
    let mut visitor = server.visitor().await;
    visitor.send(Message::text("after all that")).await.unwrap();
    assert_eq!(server.frame().await.1, b"after all that");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_peer_that_does_not_take_part() {
    let close_timeout = Duration::from_millis(50);
    let mut server = Agent::listening(TransportConfig {
        close_timeout,
        ..defaults()
    })
    .await;
    let _silent = greeted(&mut server).await;
    let _idle = TcpStream::connect(server.transport.local_addr().unwrap())
        .await
        .unwrap();
    for _ in 0..32 {
        server
            .transport
            .send(ConnectionId(1), vec![0; 1 << 20])
            .unwrap();
    }
    server.transport.shutdown().await;
}

#[tokio::test]
async fn settings_without_a_limit_are_refused() {
    let cases = [
        (
            "max_frame",
            TransportConfig {
                max_frame: 0,
                ..defaults()
            },
        ),
        (
            "send_queue",
            TransportConfig {
                send_queue: usize::MAX,
                ..defaults()
            },
        ),
        (
            "heartbeat",
            TransportConfig {
                heartbeat: Duration::ZERO,
                ..defaults()
            },
        ),
    ];
    for (name, config) in cases {
        let (sender, _inbound) = mpsc::channel(1);
        let error = Transport::start(config, sender).await.unwrap_err();
        assert!(
            matches!(error, TransportError::Config { name: got } if got == name),
            "{error}"
        );
    }
}

#[tokio::test]
async fn warnings_are_given_once_per_kind_and_peer_and_their_memory_is_bounded() {
    let agent = Agent::start(defaults()).await;
    let registry = &agent.transport.registry;
    let peer = |number: u32| IpAddr::from(Ipv4Addr::from(number));
    assert!(registry.first_warning("slow", peer(1)));
    assert!(!registry.first_warning("slow", peer(1)));
    assert!(registry.first_warning("malformed", peer(1)));
    assert!(registry.first_warning("slow", peer(2)));
    for number in 0..5000 {
        registry.first_warning("flood", peer(number));
    }
    assert!(
        registry.first_warning("slow", peer(1)),
        "the memory of warnings is not bounded"
    );
}

#[test]
fn whoever_has_a_network_of_ipv6_addresses_is_one_caller() {
    let of = |address: &str| network(address.parse().unwrap());
    assert_eq!(
        of("2001:db8:1:2::1"),
        of("2001:db8:1:2:ffff:ffff:ffff:ffff")
    );
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
}
