//! Which connections there are, how many more there may be, and the tasks that serve them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

use super::connection::{self, Ports};
use super::{ConnectionId, Inbound, SendError, TransportConfig};

/// Peers that a warning was logged for. When it is full it starts over: better a line twice than memory without bound.
const MAX_WARNED: usize = 1024;

#[derive(Debug)]
pub(super) struct Registry {
    pub(super) config: TransportConfig,
    inbound: mpsc::Sender<Inbound>,
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
        Self {
            config,
            inbound,
            stopping: watch::Sender::new(false),
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
        }
    }

    /// A place for one more socket; accepted ones also count for their caller's address.
    pub(super) fn admit(self: &Arc<Self>, accepted_from: Option<IpAddr>) -> Result<Place, Limit> {
        // The same caller may come by IPv4 and mapped into IPv6.
        let ip = accepted_from.map(|ip| ip.to_canonical());
        let mut state = self.state();
        if state.sockets >= self.config.max_connections {
            return Err(Limit::Total(self.config.max_connections));
        }
        if let Some(ip) = ip {
            let sockets = state.sockets_by_ip.entry(ip).or_default();
            if *sockets >= self.config.max_connections_per_ip {
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
            inbound: self.inbound.clone(),
            queued,
            aborted,
            stopping: self.stopping(),
        };
        let registry = Arc::clone(self);
        let serve = async move {
            let end = connection::run(socket, ports, &registry.config).await;
            registry.state().connections.remove(&id);
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
        state.warned.insert((kind, ip.to_canonical()))
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
