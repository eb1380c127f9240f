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

use super::memory::Fingerprint;
use super::{Driver, IDLE, excerpt, now};
use crate::agent::Agent;
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::transport::{ConnectionId, DialError, SendError};

/// First wait after a failed dial; doubled each time.
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
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
    /// Where it has shown itself, the last place last: that one is used. The others are there for when it closes.
    connections: Vec<ConnectionId>,
    address: Address,
    dialling: bool,
    failures: u32,
    not_before: Option<Instant>,
    pinged: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Routes {
    /// Those with a connection, and those who are dialled or waited for.
    peers: HashMap<Fingerprint, Peer>,
    /// Peers reached on a connection.
    users: HashMap<ConnectionId, HashSet<Fingerprint>>,
    max_peers: usize,
    max_peers_per_connection: usize,
    max_connections: usize,
    max_dials: usize,
    longest_back_off: Duration,
    dials: usize,
    outcome: mpsc::Sender<Dialled>,
    keep: HashSet<String>,
    /// When to look at all peers again; those for which something is new are looked at at once.
    next_scan: Instant,
}

/// What came of a fresh sign that a connection leads to a peer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Bound {
    /// The peer was not known to be there.
    pub(super) is_news: bool,
    /// Too many peers: the connection is not used for answers.
    pub(super) no_room: bool,
    /// The peer has too many connections, and this one leads to nobody else.
    pub(super) surplus: Option<ConnectionId>,
}

fn named(peer: &str) -> Fingerprint {
    Fingerprint::of(&[peer])
}

impl Routes {
    pub(super) fn new(outcome: mpsc::Sender<Dialled>, limits: &Limits) -> Self {
        Self {
            peers: HashMap::new(),
            users: HashMap::new(),
            max_peers: limits.max_routes,
            max_peers_per_connection: limits.max_peers_per_connection,
            max_connections: limits.max_connections_per_did,
            max_dials: limits.max_dials,
            longest_back_off: Duration::from_secs(limits.redial_max_s),
            dials: 0,
            outcome,
            keep: HashSet::new(),
            next_scan: Instant::now(),
        }
    }

    /// This connection leads to this peer from now on. Only a fresh, proven, unseen message may say so.
    pub(super) fn bind(&mut self, peer: &str, connection: ConnectionId) -> Bound {
        let peer = named(peer);
        let known = self.peers.get(&peer);
        if known.is_some_and(|known| known.connections.contains(&connection)) {
            // The other one may be dead without anybody having noticed.
            if let Some(known) = self.peers.get_mut(&peer) {
                known.connections.retain(|other| *other != connection);
                known.connections.push(connection);
            }
            return Bound::default();
        }
        let users = self.users.get(&connection).map_or(0, HashSet::len);
        if users >= self.max_peers_per_connection
            || (known.is_none() && self.peers.len() >= self.max_peers)
        {
            return Bound {
                no_room: true,
                ..Bound::default()
            };
        }
        self.users.entry(connection).or_default().insert(peer);
        let entry = self.peers.entry(peer).or_default();
        entry.failures = 0;
        entry.not_before = None;
        entry.connections.push(connection);
        let mut surplus = None;
        if entry.connections.len() > self.max_connections {
            let oldest = entry.connections.remove(0);
            if let Some(users) = self.users.get_mut(&oldest) {
                users.remove(&peer);
                surplus = users.is_empty().then_some(oldest);
            }
        }
        Bound {
            is_news: true,
            no_room: false,
            surplus,
        }
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        for peer in self.users.remove(&connection).into_iter().flatten() {
            let Some(entry) = self.peers.get_mut(&peer) else {
                continue;
            };
            entry.connections.retain(|other| *other != connection);
            if entry.connections.is_empty() && !entry.dialling {
                // Whoever must be reached gets a new entry when it is dialled: the others leave nothing behind.
                self.peers.remove(&peer);
            }
        }
        // Whoever must be reached is dialled again.
        self.next_scan = Instant::now();
    }

    pub(super) fn connection(&self, peer: &str) -> Option<ConnectionId> {
        self.peers.get(&named(peer))?.connections.last().copied()
    }

    /// Forgets the peers without a connection for whom nothing waits.
    fn forget(&mut self, wanted: &HashSet<String>) {
        let wanted: HashSet<Fingerprint> = wanted.iter().map(|peer| named(peer)).collect();
        self.peers.retain(|peer, entry| {
            !entry.connections.is_empty() || entry.dialling || wanted.contains(peer)
        });
    }

    /// Dials under way.
    #[cfg(test)]
    pub(super) fn dials(&self) -> usize {
        self.dials
    }

    /// How long to wait after so many failed dials in a row.
    fn back_off(&self, failures: u32) -> Duration {
        FIRST_BACK_OFF
            .saturating_mul(1 << failures.saturating_sub(1).min(20))
            .min(self.longest_back_off)
    }

    pub(super) fn connected(&self) -> usize {
        self.users.len()
    }

    fn needs_ping(&self, peer: &str) -> bool {
        let pinged = self.peers.get(&named(peer)).and_then(|peer| peer.pinged);
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
        let known = self.peers.get(&named(peer))?;
        if !known.connections.is_empty() {
            return outbox.next_due(peer, Instant::now(), now().0);
        }
        match known {
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
            self.routes.forget(&peers);
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
        for row in self.outbox.due(peer, Instant::now(), now().0) {
            if let Err(error) = self.transport.send(connection, row.packed) {
                // It stays in the outbox.
                self.counts.add("message-delayed");
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
        let known = self.routes.peers.get(&named(peer));
        let waits = known.is_some_and(|known| {
            known.dialling || known.not_before.is_some_and(|at| at > Instant::now())
        });
        let no_room = known.is_none() && self.routes.peers.len() >= self.routes.max_peers;
        if waits || no_room || self.routes.dials >= self.routes.max_dials {
            return;
        }
        let address = match known.map(|known| known.address.clone()).unwrap_or_default() {
            Address::NotLookedUp => self.address(peer).map_or(Address::None, Address::Url),
            known => known,
        };
        let entry = self.routes.peers.entry(named(peer)).or_default();
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
        if let Some(entry) = self.routes.peers.get_mut(&named(peer)) {
            entry.pinged = Some(Instant::now());
        }
        let ping = protocols::ping(Uuid::new_v4(), now().0);
        match self.pack_for(None, peer, ping) {
            Ok((_, packed)) => self.answer(connection, packed.frame().to_vec()),
            Err(_) => self.counts.add("answer-not-sent"),
        }
    }

    /// A connection has shown by a fresh message, or by our having dialled it, that it leads to this peer.
    pub(super) fn bind(&mut self, peer: &str, connection: ConnectionId) {
        let bound = self.routes.bind(peer, connection);
        if bound.no_room && self.is_first("too-many-peers", peer, self.is_partner(peer)) {
            tracing::warn!(peer = %excerpt(peer), %connection, "too many peers: its connection is not used for answers");
        }
        if let Some(oldest) = bound.surplus {
            self.counts.add("sockets-over-limit-per-did");
            tracing::debug!(peer = %excerpt(peer), connection = %oldest, "closing the oldest of too many connections of one peer");
            self.transport.close(oldest);
        }
        if bound.is_news {
            self.outbox.connected(peer);
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
        if self.routes.dials >= self.routes.max_dials {
            // Others had to wait for this one's place.
            self.routes.scan_at(Instant::now() + SHORTEST_SCAN);
        }
        self.routes.dials = self.routes.dials.saturating_sub(1);
        let Dialled { peer, result } = dialled;
        match result {
            Ok(connection) => {
                if let Some(entry) = self.routes.peers.get_mut(&named(&peer)) {
                    entry.dialling = false;
                }
                self.bind(&peer, connection);
                tracing::info!(peer = %excerpt(&peer), %connection, "connected");
                self.ping(&peer, connection);
            }
            Err(error) => {
                let Some(entry) = self.routes.peers.get_mut(&named(&peer)) else {
                    return;
                };
                entry.dialling = false;
                entry.failures = entry.failures.saturating_add(1);
                let failures = entry.failures;
                let wait = self.routes.back_off(failures);
                let jitter = UnwrapErr(OsRng).random_range(0.75..1.25);
                let again = Instant::now() + wait.mul_f64(jitter);
                if let Some(entry) = self.routes.peers.get_mut(&named(&peer)) {
                    entry.not_before = Some(again);
                }
                if failures == 1 {
                    tracing::warn!(peer = %excerpt(&peer), %error, "cannot connect; retrying with back-off");
                } else {
                    tracing::debug!(peer = %excerpt(&peer), %error, failures, "cannot connect");
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

    fn routes(limits: &Limits) -> Routes {
        Routes::new(mpsc::channel(1).0, limits)
    }

    fn is_news(bound: &Bound) -> bool {
        bound.is_news && !bound.no_room
    }

    #[tokio::test]
    async fn the_newest_connection_is_used_and_an_older_one_when_that_closes() {
        let (_transport, [first, second]) = connections().await;
        let mut routes = routes(&Limits::default());
        assert!(is_news(&routes.bind("a", first)));
        assert!(!is_news(&routes.bind("a", first)));
        assert!(is_news(&routes.bind("a", second)));
        assert!(is_news(&routes.bind("b", first)));
        assert_eq!(routes.connection("a"), Some(second));
        assert!(!is_news(&routes.bind("a", first)), "both are known");
        assert_eq!(
            routes.connection("a"),
            Some(first),
            "it spoke last on this one"
        );
        routes.closed(first);
        assert_eq!(routes.connection("a"), Some(second));
        assert_eq!(routes.connection("b"), None);
        routes.closed(second);
        assert_eq!((routes.connection("a"), routes.connected()), (None, 0));
        assert!(
            routes.peers.is_empty(),
            "nothing is left of those who are gone"
        );
    }

    #[tokio::test]
    async fn a_did_has_so_many_connections_and_the_oldest_is_closed_for_one_more() {
        let (_transport, [first, second]) = connections().await;
        let limits = Limits {
            max_connections_per_did: 1,
            ..Limits::default()
        };
        let mut routes = routes(&limits);
        routes.bind("a", first);
        assert_eq!(routes.bind("a", second).surplus, Some(first));
        assert_eq!(routes.connection("a"), Some(second));
        routes.bind("b", second);
        assert_eq!(
            routes.bind("a", first).surplus,
            None,
            "another peer is on that one"
        );
        assert_eq!(routes.connection("a"), Some(first));
        assert_eq!(routes.connection("b"), Some(second));
    }

    #[tokio::test]
    async fn dials_are_repeated_ever_less_often() {
        let limits = Limits {
            redial_max_s: 3,
            ..Limits::default()
        };
        let routes = routes(&limits);
        let waits = [1, 2, 3, 4, 1_000].map(|failures| routes.back_off(failures).as_millis());
        assert_eq!(waits, [500, 1_000, 2_000, 3_000, 3_000]);
    }

    #[tokio::test]
    async fn one_connection_leads_to_so_many_peers_and_no_more() {
        let (_transport, [first, second]) = connections().await;
        let limits = Limits::default();
        let mut routes = routes(&limits);
        for peer in 0..limits.max_peers_per_connection {
            assert!(is_news(&routes.bind(&peer.to_string(), first)));
        }
        assert!(routes.bind("one more", first).no_room);
        assert_eq!(routes.connection("one more"), None);
        assert!(is_news(&routes.bind("one more", second)));
    }

    #[tokio::test]
    async fn so_many_peers_are_remembered_and_no_more() {
        let (_transport, [first, second]) = connections().await;
        let limits = Limits {
            max_routes: 2,
            ..Limits::default()
        };
        let mut routes = routes(&limits);
        assert!(is_news(&routes.bind("a", first)));
        assert!(is_news(&routes.bind("b", second)));
        assert!(routes.bind("c", second).no_room);
        assert!(
            is_news(&routes.bind("b", first)),
            "who is known stays known"
        );
        routes.closed(second);
        routes.closed(first);
        assert!(is_news(&routes.bind("c", first)));
    }
}
