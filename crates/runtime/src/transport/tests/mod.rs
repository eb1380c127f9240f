mod dialling;
mod frames;
mod heartbeat;
mod limits;

use std::net::Ipv4Addr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

/// One agent's transport with the receiving end of what comes in.
struct Agent {
    transport: Transport,
    inbound: mpsc::Receiver<Inbound>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Agent {
    async fn start(config: TransportConfig) -> Self {
        let (sender, inbound) = mpsc::channel(4);
        Self {
            transport: Transport::start(config, sender).await.unwrap(),
            inbound,
        }
    }

    async fn listening(config: TransportConfig) -> Self {
        let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self::start(TransportConfig { listen, ..config }).await
    }

    fn url(&self) -> Url {
        format!("ws://{}/", self.transport.local_addr().unwrap())
            .parse()
            .unwrap()
    }

    async fn dial(&self, other: &Self) -> ConnectionId {
        self.transport.dial(&other.url(), true).await.unwrap()
    }

    /// The next frame, with the connection that it came on.
    async fn frame(&mut self) -> (ConnectionId, Vec<u8>) {
        match self.inbound.recv().await.unwrap() {
            Inbound::Frame {
                connection, bytes, ..
            } => (connection, bytes),
            Inbound::Closed { connection } => panic!("{connection} closed, expected a frame"),
        }
    }

    async fn closed(&mut self) -> ConnectionId {
        match self.inbound.recv().await.unwrap() {
            Inbound::Closed { connection } => connection,
            Inbound::Frame { bytes, .. } => {
                panic!("a frame of {} bytes, expected closed", bytes.len())
            }
        }
    }

    /// A client of another make.
    async fn visitor(&self) -> Socket {
        connect_async(self.url().as_str()).await.unwrap().0
    }

    /// What the server answers to raw bytes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.transport.local_addr().unwrap())
            .await
            .unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// The code with which the other side closes, skipping everything before.
async fn close_code<S>(socket: &mut WebSocketStream<S>) -> CloseCode
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => return frame.unwrap().code,
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("got {other:?}, expected a close frame"),
        }
    }
}

/// Keeps one visitor's connection answered, so that it is known to have its place.
async fn greeted(agent: &mut Agent) -> Socket {
    let mut visitor = agent.visitor().await;
    visitor.send(Message::text("hello")).await.unwrap();
    agent.frame().await;
    visitor
}

fn defaults() -> TransportConfig {
    TransportConfig::default()
}
