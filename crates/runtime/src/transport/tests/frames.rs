//! Frames pass, and connections end, as they should among well-behaved peers.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::super::{
    ConnectionId, DialError, SendError, Transport, TransportConfig, TransportError,
};
use super::{Agent, close_code, defaults, greeted};

#[tokio::test]
async fn frames_pass_both_ways_between_two_agents() {
    let mut server = Agent::listening(defaults()).await;
    let mut client = Agent::start(defaults()).await;
    assert_eq!(client.transport.local_addr(), None);
    let out = client.dial(&server).await;
    for frame in [b"one".to_vec(), Vec::new(), vec![7; 1 << 20]] {
        client.transport.send(out, frame.clone()).unwrap();
        let (back, got) = server.frame().await;
        assert_eq!(got, frame);
        server.transport.send(back, got).unwrap();
        assert_eq!(client.frame().await, (out, frame));
    }
}

#[tokio::test]
async fn text_and_binary_come_in_and_binary_goes_out() {
    let mut server = Agent::listening(defaults()).await;
    let mut visitor = server.visitor().await;
    visitor.send(Message::text("tëxt")).await.unwrap();
    visitor
        .send(Message::binary(&b"\x00\xff"[..]))
        .await
        .unwrap();
    let (connection, bytes) = server.frame().await;
    assert_eq!(bytes, "tëxt".as_bytes());
    assert_eq!(server.frame().await, (connection, b"\x00\xff".to_vec()));
    server.transport.send(connection, b"{}".to_vec()).unwrap();
    assert_eq!(
        visitor.next().await.unwrap().unwrap(),
        Message::binary(&b"{}"[..])
    );
}

#[tokio::test]
async fn a_close_sends_what_is_queued_and_is_told_to_both() {
    let mut server = Agent::listening(defaults()).await;
    let mut client = Agent::start(defaults()).await;
    let out = client.dial(&server).await;
    client.transport.send(out, b"last".to_vec()).unwrap();
    client.transport.close(out);
    assert_eq!(
        client.transport.send(out, b"later".to_vec()),
        Err(SendError::Gone)
    );
    let (connection, bytes) = server.frame().await;
    assert_eq!(bytes, b"last");
    assert_eq!(server.closed().await, connection);
    assert_eq!(client.closed().await, out);
    assert_eq!(
        server.transport.send(connection, Vec::new()),
        Err(SendError::Gone)
    );
}

#[tokio::test]
async fn a_vanished_peer_is_told() {
    let mut server = Agent::listening(defaults()).await;
    let visitor = greeted(&mut server).await;
    drop(visitor);
    server.closed().await;
    let mut client = Agent::start(defaults()).await;
    let out = client.dial(&server).await;
    server.transport.shutdown().await;
    assert_eq!(client.closed().await, out);
}

/// Two peers that send much more than sockets buffer before they read anything must not wait for each other for ever.
#[tokio::test]
async fn two_busy_senders_do_not_block_each_other() {
    let mut server = Agent::listening(defaults()).await;
    let client = Agent::start(defaults()).await;
    let out = client.dial(&server).await;
    client.transport.send(out, b"hello".to_vec()).unwrap();
    let (back, _) = server.frame().await;
    for _ in 0..40 {
        client.transport.send(out, vec![1; 1 << 20]).unwrap();
        server.transport.send(back, vec![2; 1 << 20]).unwrap();
    }
    let read_all = |mut agent: Agent| async move {
        for _ in 0..40 {
            assert_eq!(agent.frame().await.1.len(), 1 << 20);
        }
        agent
    };
    tokio::join!(read_all(server), read_all(client));
}

#[tokio::test]
async fn a_shutdown_sends_what_is_queued_and_closes_with_1001() {
    let mut server = Agent::listening(defaults()).await;
    let mut visitor = greeted(&mut server).await;
    let address = server.transport.local_addr().unwrap();
    server
        .transport
        .send(ConnectionId(1), b"goodbye".to_vec())
        .unwrap();
    // Takes the socket, so that it is closed when the close frame has been answered, as any client does it.
    let read = async move {
        assert_eq!(
            visitor.next().await.unwrap().unwrap(),
            Message::binary(&b"goodbye"[..])
        );
        let code = close_code(&mut visitor).await;
        // Answers the close frame.
        assert!(visitor.next().await.is_none_or(|rest| rest.is_err()));
        code
    };
    let (code, ()) = tokio::join!(read, server.transport.shutdown());
    assert_eq!(code, CloseCode::Away);
    assert_eq!(server.closed().await, ConnectionId(1));
    let error = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let other = Agent::listening(defaults()).await;
    let error = server.transport.dial(&other.url(), true).await.unwrap_err();
    assert!(matches!(error, DialError::Stopping), "{error}");
}

#[tokio::test]
async fn dropping_the_transport_ends_its_connections() {
    let mut server = Agent::listening(defaults()).await;
    let mut visitor = greeted(&mut server).await;
    drop(server);
    while let Some(Ok(_)) = visitor.next().await {}
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_named() {
    let first = Agent::listening(defaults()).await;
    let listen = first.transport.local_addr();
    let (sender, _inbound) = mpsc::channel(1);
    let error = Transport::start(
        TransportConfig {
            listen,
            ..defaults()
        },
        sender,
    )
    .await
    .unwrap_err();
    assert!(matches!(error, TransportError::Listen { .. }), "{error}");
    assert!(
        error.to_string().contains(&listen.unwrap().to_string()),
        "{error}"
    );
}
