//! How peers are reached: a live socket that one opened to us, or one that we dial, with back-off.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use beacon_didcomm::{Endpoint, Packed, Plaintext, protocols};
use rand::Rng;
use rand::rand_core::UnwrapErr;
use rand::rngs::OsRng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::outbox::Outbox;
use super::{Driver, IDLE, excerpt, now};
use crate::agent::Agent;
use crate::transport::{ConnectionId, DialError, SendError};

/// First wait after a failed dial; doubled each time.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
/// Longest wait between two dials.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(1);
/// Dials at one time.
const MAX_DIALS: usize = 64;
/// Peers whose way is remembered. Those without a connection are forgotten when there are more.
const MAX_PEERS: usize = 65_536;
/// Peers that one connection may lead to: a participant has one identity for each coordinator, a mediator more.
const MAX_PEERS_PER_CONNECTION: usize = 64;
/// A connection that is kept open shows by a fresh message this often to whom it leads: the other side may have started
/// anew, or not have believed an earlier one.
const PING_INTERVAL: Duration = Duration::from_mins(2);
/// Time between two looks at all peers, at the shortest.
const SHORTEST_SCAN: Duration = Duration::from_millis(50);

/// How a dial ended.
#[derive(Debug)]
pub(super) struct Dialled {
    peer: String,
    result: Result<ConnectionId, DialError>,
}

/// Where a peer, or its mediator, is dialled.
#[derive(Clone, Debug, Default, PartialEq)]
enum Address {
    #[default]
    NotLookedUp,
    /// It opens sockets itself, or names no WebSocket.
    None,
    Url(Url),
}

#[derive(Debug, Default)]
struct Peer {
    connection: Option<ConnectionId>,
    address: Address,
    dialling: bool,
    failures: u32,
    not_before: Option<Instant>,
    pinged: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Routes {
    peers: HashMap<String, Peer>,
    /// Peers reached on a connection.
    users: HashMap<ConnectionId, HashSet<String>>,
    dials: usize,
    outcome: mpsc::Sender<Dialled>,
    keep: HashSet<String>,
    /// When to look at all peers again; those for which something is new are looked at at once.
    next_scan: Instant,
}

impl Routes {
    pub(super) fn new(outcome: mpsc::Sender<Dialled>) -> Self {
        Self {
            peers: HashMap::new(),
            users: HashMap::new(),
            dials: 0,
            outcome,
            keep: HashSet::new(),
            next_scan: Instant::now(),
        }
    }

    /// This connection leads to this peer from now on. Only a fresh, proven, unseen message may say so.
    /// `true` when that is news.
    pub(super) fn bind(&mut self, peer: &str, connection: ConnectionId) -> bool {
        if self.connection(peer) == Some(connection) {
            return false;
        }
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(peer) {
            self.peers
                .retain(|_, peer| peer.connection.is_some() || peer.dialling);
        }
        let users = self.users.entry(connection).or_default();
        if users.len() >= MAX_PEERS_PER_CONNECTION || self.peers.len() >= MAX_PEERS {
            tracing::warn!(peer = %excerpt(peer), %connection, "too many peers: its connection is not used for answers");
            return false;
        }
        users.insert(peer.to_owned());
        let entry = self.peers.entry(peer.to_owned()).or_default();
        entry.failures = 0;
        entry.not_before = None;
        let before = entry.connection.replace(connection);
        if let Some(users) = before.and_then(|before| self.users.get_mut(&before)) {
            users.remove(peer);
        }
        true
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        for peer in self.users.remove(&connection).into_iter().flatten() {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.connection.take_if(|current| *current == connection);
            }
        }
        // Whoever must be reached is dialled again.
        self.next_scan = Instant::now();
    }

    pub(super) fn connection(&self, peer: &str) -> Option<ConnectionId> {
        self.peers.get(peer)?.connection
    }

    pub(super) fn connected(&self) -> usize {
        self.users.len()
    }

    fn needs_ping(&self, peer: &str) -> bool {
        let pinged = self.peers.get(peer).and_then(|peer| peer.pinged);
        self.keep.contains(peer) && pinged.is_none_or(|at| at + PING_INTERVAL <= Instant::now())
    }

    /// When all peers are looked at next.
    pub(super) fn next_scan(&self) -> Instant {
        self.next_scan
    }

    /// Looks at all peers at this time, if it would not be done before.
    fn scan_at(&mut self, at: Instant) {
        self.next_scan = self.next_scan.min(at);
    }

    /// When something can be sent to the peer, or it can be dialled.
    fn next_attempt(&self, peer: &str, outbox: &Outbox) -> Option<Instant> {
        match self.peers.get(peer)? {
            Peer {
                connection: Some(_),
                ..
            } => outbox.next_due(peer, now().0),
            // A dial under way ends by itself; a peer that cannot be dialled comes by itself.
            Peer { dialling: true, .. }
            | Peer {
                address: Address::None,
                ..
            } => None,
            Peer { not_before, .. } => Some(not_before.unwrap_or_else(Instant::now)),
        }
    }
}

impl<A: Agent> Driver<A> {
    /// Sends what is due, and dials those who cannot be reached otherwise: the peers for which something is new, and now
    /// and then all of them.
    pub(super) fn connect_and_send(&mut self) {
        let scan = self.routes.next_scan <= Instant::now();
        let mut peers = self.outbox.take_fresh();
        if scan {
            let keep = self.agent.keep_connected(&self.machine);
            self.routes.keep = keep.iter().map(|peer| peer.as_str().to_owned()).collect();
            peers.extend(self.outbox.peers().cloned());
            peers.extend(self.routes.keep.iter().cloned());
            self.routes.next_scan = Instant::now() + IDLE;
        }
        for peer in peers {
            match self.routes.connection(&peer) {
                Some(connection) => {
                    if self.routes.needs_ping(&peer) {
                        self.ping(&peer, connection);
                    }
                    self.flush(&peer, connection);
                }
                None => self.dial(&peer),
            }
            if let Some(at) = self.routes.next_attempt(&peer, &self.outbox) {
                self.routes.scan_at(at.max(Instant::now() + SHORTEST_SCAN));
            }
        }
    }

    fn flush(&mut self, peer: &str, connection: ConnectionId) {
        for frame in self.outbox.due(peer, now().0) {
            if let Err(error) = self.transport.send(connection, frame) {
                if error == SendError::Full {
                    tracing::warn!(peer = %excerpt(peer), "peer reads too slowly; its connection is closed");
                }
                self.routes.closed(connection);
                self.outbox.connected(peer);
                return;
            }
        }
    }

    fn dial(&mut self, peer: &str) {
        let known = self.routes.peers.get(peer);
        let waits = known.is_some_and(|known| {
            known.dialling || known.not_before.is_some_and(|at| at > Instant::now())
        });
        if waits || self.routes.dials >= MAX_DIALS {
            return;
        }
        let address = match known.map(|known| known.address.clone()).unwrap_or_default() {
            Address::NotLookedUp => self.address(peer).map_or(Address::None, Address::Url),
            known => known,
        };
        let entry = self.routes.peers.entry(peer.to_owned()).or_default();
        entry.address = address.clone();
        let Address::Url(url) = address else {
            return;
        };
        entry.dialling = true;
        self.routes.dials += 1;
        let (transport, outcome) = (Arc::clone(&self.transport), self.routes.outcome.clone());
        let (peer, allow_private) = (peer.to_owned(), self.config.allow_private);
        tokio::spawn(async move {
            let result = transport.dial(&url, allow_private).await;
            // The driver is gone when nobody listens: the agent is stopping.
            let _ = outcome.send(Dialled { peer, result }).await;
        });
    }

    /// Shows the other side, by a fresh message, to whom this socket leads.
    fn ping(&mut self, peer: &str, connection: ConnectionId) {
        if let Some(entry) = self.routes.peers.get_mut(peer) {
            entry.pinged = Some(Instant::now());
        }
        let ping = protocols::ping(Uuid::new_v4(), now().0);
        if let Ok((_, packed)) = self.pack_for(None, peer, ping) {
            let _ = self.transport.send(connection, packed.frame().to_vec());
        }
    }

    /// Where the peer, or its mediator, is dialled.
    fn address(&mut self, peer: &str) -> Option<Url> {
        match self.probe(peer)?.endpoint() {
            Some(Endpoint::Uri(url)) if matches!(url.scheme(), "ws" | "wss") => Some(url.clone()),
            _ => None,
        }
    }

    /// Whether the peer sits behind a mediator.
    pub(super) fn is_forwarded(&mut self, peer: &str) -> bool {
        self.probe(peer).is_some_and(|probe| probe.is_forwarded())
    }

    /// Packing finds the way through mediators; this message is never sent.
    fn probe(&mut self, peer: &str) -> Option<Packed> {
        let probe = Plaintext::new(Uuid::nil(), protocols::EMPTY, now().0);
        self.pack_for(None, peer, probe)
            .ok()
            .map(|(_, packed)| packed)
    }

    pub(super) fn dialled(&mut self, dialled: Dialled) {
        if self.routes.dials >= MAX_DIALS {
            // Others had to wait for this one's place.
            self.routes.scan_at(Instant::now() + SHORTEST_SCAN);
        }
        self.routes.dials = self.routes.dials.saturating_sub(1);
        let Dialled { peer, result } = dialled;
        match result {
            Ok(connection) => {
                if let Some(entry) = self.routes.peers.get_mut(&peer) {
                    entry.dialling = false;
                }
                self.routes.bind(&peer, connection);
                self.outbox.connected(&peer);
                tracing::info!(peer = %excerpt(&peer), %connection, "connected");
                self.ping(&peer, connection);
            }
            Err(error) => {
                let Some(entry) = self.routes.peers.get_mut(&peer) else {
                    return;
                };
                entry.dialling = false;
                entry.failures = entry.failures.saturating_add(1);
                let wait = FIRST_BACK_OFF
                    .saturating_mul(1 << (entry.failures - 1).min(10))
                    .min(LONGEST_BACK_OFF);
                let jitter = UnwrapErr(OsRng).random_range(0.75..1.25);
                let again = Instant::now() + wait.mul_f64(jitter);
                entry.not_before = Some(again);
                if entry.failures == 1 {
                    tracing::warn!(peer = %excerpt(&peer), %error, "cannot connect; retrying with back-off");
                } else {
                    tracing::debug!(peer = %excerpt(&peer), %error, failures = entry.failures, "cannot connect");
                }
                // The last look was made while this dial was under way, so it planned none for the peer.
                self.routes.scan_at(again);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Transport, TransportConfig};

    /// Two real connections: their ids cannot be made up.
    async fn connections() -> (Transport, [ConnectionId; 2]) {
        let (inbound, _frames) = mpsc::channel(8);
        let config = TransportConfig {
            listen: Some(([127, 0, 0, 1], 0).into()),
            ..TransportConfig::default()
        };
        let transport = Transport::start(config, inbound).await.unwrap();
        let url: Url = format!("ws://{}", transport.local_addr().unwrap())
            .parse()
            .unwrap();
        let first = transport.dial(&url, true).await.unwrap();
        let second = transport.dial(&url, true).await.unwrap();
        (transport, [first, second])
    }

    #[tokio::test]
    async fn the_newest_connection_is_used_and_a_closed_one_is_not() {
        let (_transport, [first, second]) = connections().await;
        let mut routes = Routes::new(mpsc::channel(1).0);
        assert!(routes.bind("a", first));
        assert!(!routes.bind("a", first), "no news");
        assert!(routes.bind("a", second));
        assert!(routes.bind("b", first));
        routes.closed(first);
        assert_eq!(
            routes.connection("a"),
            Some(second),
            "an old connection's end does not matter"
        );
        assert_eq!(routes.connection("b"), None);
        routes.closed(second);
        assert_eq!((routes.connection("a"), routes.connected()), (None, 0));
    }

    #[tokio::test]
    async fn one_connection_leads_to_so_many_peers_and_no_more() {
        let (_transport, [first, second]) = connections().await;
        let mut routes = Routes::new(mpsc::channel(1).0);
        for peer in 0..MAX_PEERS_PER_CONNECTION {
            assert!(routes.bind(&peer.to_string(), first));
        }
        assert!(!routes.bind("one more", first));
        assert_eq!(routes.connection("one more"), None);
        assert!(routes.bind("one more", second));
    }
}
