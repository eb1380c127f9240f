//! Frames over WebSockets, in both directions. Knows neither DIDs nor messages: a frame is bytes, a peer is a socket.
//!
//! An agent may listen, dial, or both; a connection is the same afterwards, whoever opened it. Text and binary frames are
//! accepted, binary ones are sent, one message per frame (protocol.md section 2).
//!
//! Nothing here grows with what a peer does. Frames are limited in size; a frame that finds the agent busy waits in the peer's own
//! socket, since the channel to the agent is bounded; an address that sends more than its rate waits there too; a peer that does
//! not read is closed when its queue is full; sockets are limited per address and in total; a peer that vanished is noticed by
//! missing answers to pings, and one that says nothing is closed. Whatever is refused, delayed or cut off is counted.

mod address;
mod connection;
mod dial;
mod registry;
mod server;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use url::Url;

use crate::counts::Counts;
use crate::limits::Limits;
use crate::rates::Rate;

pub use dial::DialError;
pub(crate) use registry::network;

use registry::Registry;

/// What the transport listens on and what it allows. The defaults fit a coordinator with thousands of members.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// The address to listen on, port 0 for any free one; none for an agent that only dials.
    pub listen: Option<SocketAddr>,
    /// Bytes of one message, received in one frame or several: 1 MiB. A larger one closes its socket with code 1009.
    pub max_frame: usize,
    /// A ping is sent this often: 20 s. A peer that was silent for two of them in a row is taken for dead at the third.
    pub heartbeat: Duration,
    /// Time for a dial from the name look-up to the open WebSocket, and for a caller to send its HTTP request: 10 s.
    pub connect_timeout: Duration,
    /// Time for one frame to leave for the peer, however slowly it reads: 60 s.
    pub send_timeout: Duration,
    /// Time for the end of a connection (queued frames, close frame, the peer's answer to it): 5 s.
    pub close_timeout: Duration,
    /// Sockets at one time, accepted and dialled: 4096.
    pub max_connections: usize,
    /// Accepted sockets from one IP address at one time: 64. Participants behind one router share it.
    pub max_connections_per_ip: usize,
    /// Frames waiting for one peer: 64. One more is refused, and the peer is closed.
    pub send_queue: usize,
    /// A connection without a message in either direction is closed after this time: 15 minutes. A participant shows itself
    /// on its connection every two.
    pub idle_timeout: Duration,
    /// Messages from one address, whatever they are: 500 each second, 2000 at once. More are not read until it is their turn.
    /// One counts for each 16 KiB that it has.
    pub ip_rate: Rate,
    /// Bytes of messages that wait for the agent, of all connections: 64 MiB, and at least one message.
    pub inbound_bytes: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Limits::default().transport()
    }
}

/// One connection while this process lives; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What comes in.
#[derive(Debug)]
pub enum Inbound {
    /// One message.
    Frame {
        /// Where it came in; an answer can go the same way.
        connection: ConnectionId,
        /// The socket's other end.
        remote: SocketAddr,
        /// The message, at most [`TransportConfig::max_frame`] bytes.
        bytes: Vec<u8>,
        /// Its share of [`TransportConfig::inbound_bytes`], free again when this is dropped.
        room: OwnedSemaphorePermit,
    },
    /// The connection is gone, for whatever reason. Nothing follows from it.
    Closed {
        /// Which one.
        connection: ConnectionId,
    },
}

/// Why the transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}: choose another address or port, or stop what uses it"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A limit is zero or the largest number, so that nothing could pass or nothing would be limited.
    #[error("transport setting {name} is out of range: expected at least 1 and a limit")]
    Config {
        /// The field of [`TransportConfig`].
        name: &'static str,
    },
    /// The TLS library refused its own settings.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such connection any more.
    #[error("the connection is gone")]
    Gone,
    /// The peer reads too slowly. The connection is being closed, without what was queued.
    #[error("the connection's send queue is full, so it is being closed")]
    Full,
}

/// All sockets of one agent.
#[derive(Debug)]
pub struct Transport {
    registry: Arc<Registry>,
    dialler: dial::Dialler,
    local_addr: Option<SocketAddr>,
}

impl Transport {
    /// Starts listening where the configuration says so. All that comes in on any socket goes to `inbound`; its bound is
    /// the back-pressure.
    pub async fn start(
        config: TransportConfig,
        inbound: mpsc::Sender<Inbound>,
    ) -> Result<Self, TransportError> {
        check(&config)?;
        let dialler = dial::Dialler::new()?;
        let registry = Arc::new(Registry::new(config, inbound));
        let local_addr = match registry.config.listen {
            None => None,
            Some(address) => Some(server::start(address, &registry).await?),
        };
        Ok(Self {
            registry,
            dialler,
            local_addr,
        })
    }

    /// The address that is listened on, with its real port.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// What the transport refused, delayed or cut off, by kind. The rest of the agent counts here as well.
    pub fn counts(&self) -> &Counts {
        &self.registry.counts
    }

    /// Opens a connection to a `ws:` or `wss:` URL. Private, loopback and otherwise special addresses are refused unless `allow_private`;
    /// the address that was checked is the one that is connected to. Redirects are not followed.
    pub async fn dial(&self, url: &Url, allow_private: bool) -> Result<ConnectionId, DialError> {
        self.dialler.dial(&self.registry, url, allow_private).await
    }

    /// Queues a frame. That it was taken does not mean that it arrives.
    pub fn send(&self, connection: ConnectionId, frame: Vec<u8>) -> Result<(), SendError> {
        self.registry.send(connection, frame)
    }

    /// Closes a connection after what is queued for it. [`Inbound::Closed`] follows.
    pub fn close(&self, connection: ConnectionId) {
        self.registry.close(connection);
    }

    /// Stops listening, sends what is queued, closes all connections with code 1001, and returns when they are closed or
    /// [`TransportConfig::close_timeout`] has passed twice. The receiver of inbound frames should go on reading meanwhile.
    pub async fn shutdown(&self) {
        self.registry.shutdown().await;
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.registry.abort();
    }
}

/// Names the fields for which no sensible behaviour exists.
fn check(config: &TransportConfig) -> Result<(), TransportError> {
    let counts = [
        ("max_frame", config.max_frame),
        ("max_connections", config.max_connections),
        ("max_connections_per_ip", config.max_connections_per_ip),
        ("send_queue", config.send_queue),
        ("inbound_bytes", config.inbound_bytes),
    ];
    let times = [
        ("heartbeat", config.heartbeat),
        ("idle_timeout", config.idle_timeout),
        ("connect_timeout", config.connect_timeout),
        ("send_timeout", config.send_timeout),
        ("close_timeout", config.close_timeout),
    ];
    // Channels have a largest size that is far below this, and far above any use.
    let count = counts
        .iter()
        .find(|(_, value)| !(1..=1 << 30).contains(value))
        .map(|(name, _)| *name);
    let time = times
        .iter()
        .find(|(_, value)| value.is_zero())
        .map(|(name, _)| *name);
    match count.or(time) {
        Some(name) => Err(TransportError::Config { name }),
        None => Ok(()),
    }
}
