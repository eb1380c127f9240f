//! Which connections there are, how many more there may be, and the tasks that serve them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;

use super::connection::{self, Ports};
use super::{ConnectionId, Inbound, SendError, TransportConfig};
use crate::counts::Counts;
use crate::rates::Buckets;

/// Peers that a warning was logged for. When it is full it starts over: better a line twice than memory without bound.
const MAX_WARNED: usize = 1024;
/// Bytes of a message that count as one: opening it costs about as much as the key agreement.
const BYTES_PER_TOKEN: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Registry {
    pub(super) config: TransportConfig,
    pub(super) counts: Counts,
    inbound: mpsc::Sender<Inbound>,
    /// Bytes that may wait for the agent.
    room: Arc<Semaphore>,
    paces: Mutex<Buckets<IpAddr>>,
    stopping: watch::Sender<bool>,
    next_id: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: HashMap<ConnectionId, Handle>,
    sockets: usize,
    sockets_by_ip: HashMap<IpAddr, usize>,
    warned: HashSet<(&'static str, IpAddr)>,
    tasks: JoinSet<()>,
}

/// Dropping it closes the connection after what is queued; `abort` closes it at once.
#[derive(Debug)]
struct Handle {
    queue: mpsc::Sender<Vec<u8>>,
    abort: oneshot::Sender<()>,
}

/// The limit that a socket would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Total(usize),
    PerIp(usize),
}

/// A socket's place among the allowed ones, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Arc<Registry>,
    ip: Option<IpAddr>,
}

impl Registry {
    pub(super) fn new(config: TransportConfig, inbound: mpsc::Sender<Inbound>) -> Self {
        // Semaphores count in 32 bits; the configuration stays far below.
        let room = config.inbound_bytes.max(config.max_frame);
        Self {
            counts: Counts::default(),
            room: Arc::new(Semaphore::new(room.min(1 << 30))),
            // Addresses with a socket, and those whose bucket is not full again since they had one.
            paces: Mutex::new(Buckets::new(
                config.ip_rate,
                config.max_connections.saturating_mul(16),
            )),
            config,
            inbound,
            stopping: watch::Sender::new(false),
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
        }
    }

    /// A place for one more socket; accepted ones also count for their caller's address.
    pub(super) fn admit(self: &Arc<Self>, accepted_from: Option<IpAddr>) -> Result<Place, Limit> {
        let ip = accepted_from.map(network);
        let mut state = self.state();
        if state.sockets >= self.config.max_connections {
            self.counts.add("sockets-over-limit");
            return Err(Limit::Total(self.config.max_connections));
        }
        if let Some(ip) = ip {
            let sockets = state.sockets_by_ip.entry(ip).or_default();
            if *sockets >= self.config.max_connections_per_ip {
                self.counts.add("sockets-over-limit-per-ip");
                return Err(Limit::PerIp(self.config.max_connections_per_ip));
            }
            *sockets += 1;
        }
        state.sockets += 1;
        Ok(Place {
            registry: Arc::clone(self),
            ip,
        })
    }

    /// Serves an open WebSocket from now on; none when the transport is stopping.
    pub(super) fn open<S>(
        self: &Arc<Self>,
        socket: WebSocketStream<S>,
        remote: SocketAddr,
        place: Arc<Place>,
    ) -> Option<ConnectionId>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let (queue, queued) = mpsc::channel(self.config.send_queue);
        let (abort, aborted) = oneshot::channel();
        let ports = Ports {
            id,
            remote,
            registry: Arc::clone(self),
            queued,
            aborted,
            stopping: self.stopping(),
        };
        let registry = Arc::clone(self);
        let serve = async move {
            let end = connection::run(socket, ports, &registry.config).await;
            registry.state().connections.remove(&id);
            if let Some(kind) = end.counted() {
                registry.counts.add(kind);
            }
            if end.is_the_peers_fault() && registry.first_warning(end.name(), remote.ip()) {
                tracing::warn!(connection = %id, %remote, "closed: {end} (further ones of this kind and peer are not logged)");
            } else {
                tracing::debug!(connection = %id, %remote, "closed: {end}");
            }
            // The agent may have gone already.
            let _ = registry
                .inbound
                .send(Inbound::Closed { connection: id })
                .await;
            // Kept until the agent knows, so that connections which come and go cannot pile up before a busy agent.
            drop(place);
        };
        let mut state = self.state();
        if *self.stopping.borrow() {
            return None;
        }
        state.connections.insert(id, Handle { queue, abort });
        state.spawn(serve);
        Some(id)
    }

    /// Hands a frame to the agent, when it is its address's turn and there is room. `false` when the agent is gone.
    pub(super) async fn deliver(
        &self,
        connection: ConnectionId,
        remote: SocketAddr,
        bytes: Vec<u8>,
    ) -> bool {
        self.pace(remote.ip(), bytes.len()).await;
        let share = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(share).await else {
            return false; // Never closed.
        };
        let frame = Inbound::Frame {
            connection,
            remote,
            bytes,
            room,
        };
        self.inbound.send(frame).await.is_ok()
    }

    /// Waits until it is this address's turn to be heard again.
    pub(super) async fn pace(&self, ip: IpAddr, bytes: usize) {
        let cost = 1 + (bytes / BYTES_PER_TOKEN) as u64;
        let mut waited = false;
        while let Err(wait) = self.turn(ip, cost) {
            if !waited && self.first_warning("pace", ip) {
                tracing::warn!(%ip, "sends faster than its rate; it is read more slowly (not logged again for this address)");
            }
            if !waited {
                self.counts.add("delayed-ip");
            }
            waited = true;
            tokio::time::sleep(wait).await;
        }
    }

    fn turn(&self, ip: IpAddr, cost: u64) -> Result<(), Duration> {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.take(network(ip), cost, Instant::now())
    }

    pub(super) fn send(&self, id: ConnectionId, frame: Vec<u8>) -> Result<(), SendError> {
        let mut state = self.state();
        let handle = state.connections.get(&id).ok_or(SendError::Gone)?;
        match handle.queue.try_send(frame) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError::Gone),
            Err(mpsc::error::TrySendError::Full(_)) => {
                if let Some(handle) = state.connections.remove(&id) {
                    let _ = handle.abort.send(());
                }
                Err(SendError::Full)
            }
        }
    }

    pub(super) fn close(&self, id: ConnectionId) {
        self.state().connections.remove(&id);
    }

    /// Runs a task that ends with the transport; nothing when it is stopping.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state();
        if !*self.stopping.borrow() {
            state.spawn(task);
        }
    }

    /// Turns true once, at the end.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Whether this kind of trouble with this peer is new.
    pub(super) fn first_warning(&self, kind: &'static str, ip: IpAddr) -> bool {
        let mut state = self.state();
        if state.warned.len() >= MAX_WARNED {
            state.warned.clear();
        }
        state.warned.insert((kind, network(ip)))
    }

    pub(super) async fn shutdown(&self) {
        let mut tasks = {
            let mut state = self.state();
            self.stopping.send_replace(true);
            state.connections.clear();
            std::mem::take(&mut state.tasks)
        };
        let drained = async { while tasks.join_next().await.is_some() {} };
        // Once for what is queued, once for the closing itself.
        if timeout(2 * self.config.close_timeout, drained)
            .await
            .is_err()
        {
            tracing::warn!(
                connections = tasks.len(),
                "some connections were cut off at shutdown"
            );
        }
    }

    /// Ends everything where it is.
    pub(super) fn abort(&self) {
        let mut state = self.state();
        self.stopping.send_replace(true);
        state.connections.clear();
        state.tasks.abort_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete in itself, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        // Finished tasks stay in the set until somebody looks.
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }
}

/// Whom an address belongs to, as far as one can see: the same caller may come by IPv4 and mapped into IPv6, and who has
/// one IPv6 address mostly has 2^64 of them.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        state.sockets = state.sockets.saturating_sub(1);
        if let Some(ip) = self.ip
            && let Some(sockets) = state.sockets_by_ip.get_mut(&ip)
        {
            *sockets = sockets.saturating_sub(1);
            if *sockets == 0 {
                state.sockets_by_ip.remove(&ip);
            }
        }
    }
}
