//! One WebSocket, from its first frame to its end. The same for both roles and for every kind of stream below.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error};

use super::registry::Registry;
use super::{ConnectionId, TransportConfig};

/// Pings without any sign of life that a peer may miss.
const MISSED_PINGS: u32 = 2;

/// What connects a connection with the rest of the transport.
pub(super) struct Ports {
    pub(super) id: ConnectionId,
    pub(super) remote: SocketAddr,
    pub(super) registry: Arc<Registry>,
    /// Frames to send. Its end means: close after the last one.
    pub(super) queued: mpsc::Receiver<Vec<u8>>,
    /// Close at once, the queue has overflowed. Its sender's end means nothing.
    pub(super) aborted: oneshot::Receiver<()>,
    pub(super) stopping: watch::Receiver<bool>,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// We closed it.
    Finished,
    /// We stop altogether.
    Stopping,
    /// The peer closed it in due form.
    ClosedByPeer,
    /// It broke.
    Lost(Error),
    /// The peer sent something that is no WebSocket frame.
    Malformed(Error),
    /// The peer sent a message over the limit.
    TooLarge(usize),
    /// The peer gave no sign of life.
    Silent(Duration),
    /// Nothing was said for long.
    Idle(Duration),
    /// The peer did not read what we sent: the queue was full.
    QueueFull(usize),
    /// The peer did not read what we sent: one frame took too long.
    Slow(Duration),
}

/// Settings for both roles. Its small buffers take 7 KB a connection, tungstenite's own 134 KB.
pub(super) fn settings(config: &TransportConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(config.max_frame))
        .max_frame_size(Some(config.max_frame))
}

/// Carries frames until the connection ends, and ends it in due form where that is possible.
pub(super) async fn run<S>(
    socket: WebSocketStream<S>,
    ports: Ports,
    config: &TransportConfig,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ports {
        id,
        remote,
        registry,
        mut queued,
        aborted,
        stopping,
    } = ports;
    let (mut sink, mut stream) = socket.split();
    let pulse = Pulse::new();
    // Reading and writing go on side by side: two peers that both wait for the other to read would wait for ever.
    let end = tokio::select! {
        end = receive(&mut stream, id, remote, &registry, &pulse) => end,
        end = send(&mut sink, &mut queued, &pulse, config) => end,
        end = beat(&pulse, config) => end,
        Ok(()) = aborted => End::QueueFull(config.send_queue),
    };
    let end = match end {
        End::Finished if *stopping.borrow() => End::Stopping,
        end => end,
    };
    if let (Some(frame), Ok(socket)) = (end.close_frame(), sink.reunite(stream)) {
        // A peer that does not take part in the closing loses only its own close frame.
        let _ = timeout(config.close_timeout, close(socket, frame)).await;
    }
    end
}

/// What the heartbeat knows of the other two.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    /// Milliseconds from then to the last message, in either direction.
    last_message: AtomicU64,
    /// Something came in since the last beat.
    heard: AtomicBool,
    /// A frame waits for the agent: nothing can come in, and that is not the peer's doing.
    delivering: AtomicBool,
    ping_due: Notify,
}

impl Pulse {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last_message: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            delivering: AtomicBool::new(false),
            ping_due: Notify::new(),
        }
    }

    fn message(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_message.store(since, Ordering::Relaxed);
    }

    /// Time without a message.
    fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_message.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

async fn receive<S>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    connection: ConnectionId,
    remote: SocketAddr,
    registry: &Registry,
    pulse: &Pulse,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let bytes: Bytes = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Close(_))) | None => return End::ClosedByPeer,
            // Pings are answered by the library.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                pulse.heard.store(true, Ordering::Relaxed);
                pulse.delivering.store(true, Ordering::Relaxed);
                registry.pace(remote.ip(), 0).await;
                pulse.delivering.store(false, Ordering::Relaxed);
                continue;
            }
            Some(Err(error)) => return End::of(error, &registry.config),
        };
        pulse.heard.store(true, Ordering::Relaxed);
        pulse.message();
        pulse.delivering.store(true, Ordering::Relaxed);
        if !registry.deliver(connection, remote, bytes.into()).await {
            return End::Stopping;
        }
        pulse.delivering.store(false, Ordering::Relaxed);
    }
}

async fn send<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    queued: &mut mpsc::Receiver<Vec<u8>>,
    pulse: &Pulse,
    config: &TransportConfig,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = tokio::select! {
            // First, so that a full queue does not hold the pings back.
            biased;
            () = pulse.ping_due.notified() => Message::Ping(Bytes::new()),
            frame = queued.recv() => match frame {
                Some(frame) => {
                    pulse.message();
                    Message::Binary(frame.into())
                }
                None => return End::Finished,
            },
        };
        match timeout(config.send_timeout, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::of(error, config),
            Err(_) => return End::Slow(config.send_timeout),
        }
    }
}

async fn beat(pulse: &Pulse, config: &TransportConfig) -> End {
    let every = config.heartbeat;
    let mut beats = interval_at(Instant::now() + every, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        beats.tick().await;
        let alive =
            pulse.heard.swap(false, Ordering::Relaxed) || pulse.delivering.load(Ordering::Relaxed);
        missed = if alive { 0 } else { missed + 1 };
        if missed > MISSED_PINGS {
            return End::Silent(every * missed);
        }
        if pulse.idle() >= config.idle_timeout && !pulse.delivering.load(Ordering::Relaxed) {
            return End::Idle(config.idle_timeout);
        }
        pulse.ping_due.notify_one();
    }
}

/// Says why, says that nothing follows, and reads until the peer hangs up.
///
/// The rest is read below the WebSocket: after an oversized frame it is no sequence of frames. It has to be read at all
/// since closing a TCP socket with unread data resets it, and the reset can overtake the close frame.
async fn close<S>(mut socket: WebSocketStream<S>, frame: CloseFrame)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Where the peer has closed first, this sends the answer to it. An error leaves nothing better to do than to go on.
    let _ = socket.close(Some(frame)).await;
    let stream = socket.get_mut();
    let _ = stream.shutdown().await;
    let mut rest = [0; 4096];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

impl End {
    fn of(error: Error, config: &TransportConfig) -> Self {
        use tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Self::ClosedByPeer,
            Error::Capacity(_) => Self::TooLarge(config.max_frame),
            Error::Io(_) | Error::Tls(_) | Error::Protocol(ResetWithoutClosingHandshake) => {
                Self::Lost(error)
            }
            error => Self::Malformed(error),
        }
    }

    /// What the peer is told; nothing where it would not hear it.
    fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Lost(_) | Self::Silent(_) => return None,
            Self::Finished | Self::ClosedByPeer => (CloseCode::Normal, String::new()),
            Self::Idle(_) => (CloseCode::Normal, "idle".to_owned()),
            Self::Stopping => (CloseCode::Away, "stopping".to_owned()),
            Self::Malformed(Error::Utf8(_)) => (CloseCode::Invalid, "text is not UTF-8".to_owned()),
            Self::Malformed(_) => (CloseCode::Protocol, "not a WebSocket frame".to_owned()),
            Self::TooLarge(limit) => (CloseCode::Size, format!("expected at most {limit} bytes")),
            Self::QueueFull(_) | Self::Slow(_) => {
                (CloseCode::Policy, "reading too slowly".to_owned())
            }
        };
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }

    pub(super) fn is_the_peers_fault(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::TooLarge(_)
                | Self::Silent(_)
                | Self::QueueFull(_)
                | Self::Slow(_)
        )
    }

    /// The kind under which it is counted, unless it is an ordinary end.
    pub(super) fn counted(&self) -> Option<&'static str> {
        match self {
            Self::Finished | Self::Stopping | Self::ClosedByPeer => None,
            Self::Lost(_) => Some("socket-lost"),
            Self::Malformed(_) => Some("socket-malformed"),
            Self::TooLarge(_) => Some("socket-too-large"),
            Self::Silent(_) => Some("socket-silent"),
            Self::Idle(_) => Some("socket-idle"),
            Self::QueueFull(_) | Self::Slow(_) => Some("socket-slow"),
        }
    }

    /// The kind, for logging it once per peer.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopping => "stopping",
            Self::ClosedByPeer => "closed by peer",
            Self::Lost(_) => "lost",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too large",
            Self::Silent(_) => "silent",
            Self::Idle(_) => "idle",
            Self::QueueFull(_) | Self::Slow(_) => "slow",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Stopping => f.write_str("this agent is stopping"),
            Self::ClosedByPeer => f.write_str("the peer closed it"),
            Self::Lost(error) => write!(f, "the connection was lost: {error}"),
            Self::Malformed(error) => write!(
                f,
                "the peer sent something else than WebSocket frames: {error}"
            ),
            Self::TooLarge(limit) => write!(f, "the peer sent a message over {limit} bytes"),
            Self::Silent(time) => write!(f, "the peer gave no sign of life for {time:?}"),
            Self::Idle(time) => write!(f, "no message for {time:?}"),
            Self::QueueFull(limit) => {
                write!(f, "the peer reads too slowly, {limit} frames were waiting")
            }
            Self::Slow(time) => {
                write!(f, "the peer reads too slowly, one frame took over {time:?}")
            }
        }
    }
}
