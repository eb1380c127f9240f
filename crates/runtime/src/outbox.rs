//! Messages that wait to be delivered, and when each is sent again.
//!
//! A socket write is no acknowledgement: a row stays until the peer acknowledges it, answers it, or it expires. The
//! rows live in the store; this is their index. Time is an argument, so that the simulator runs the same index.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use beacon_cohort::message::{Message, replaces};
use tokio::time::Instant;

use crate::limits::Limits;
use crate::store::OutboxRow;

/// First wait for an acknowledgement; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Waiting {
    row: OutboxRow,
    attempts: u32,
    due: Option<Instant>,
}

/// The index of the rows that wait in a store.
#[derive(Debug)]
pub struct Outbox {
    /// Messages that wait for one peer. Below the store's limit, so that one dead peer never blocks a commit.
    per_peer: usize,
    /// Messages that wait for all peers. News has half of each, so that peers that are gone cannot stop the others.
    total: usize,
    /// Messages sent to one peer at once. Below the send queue of a connection.
    window: usize,
    longest_wait: Duration,
    /// Bytes that may wait, and those that do.
    max_bytes: usize,
    bytes: usize,
    /// By peer, in the order in which they were written.
    peers: HashMap<String, BTreeMap<u64, Waiting>>,
    places: HashMap<String, (String, u64)>,
    next: u64,
    /// Peers for which something is new since it was last asked.
    fresh: HashSet<String>,
}

impl Outbox {
    /// The index of these rows, in this order. All of them are due.
    pub fn new(rows: Vec<OutboxRow>, limits: &Limits) -> Self {
        let mut outbox = Self {
            per_peer: limits.outbox_per_peer,
            total: limits.outbox_total,
            window: limits.send_window,
            longest_wait: Duration::from_secs(limits.resend_max_s),
            max_bytes: limits.outbox_bytes,
            bytes: 0,
            peers: HashMap::new(),
            places: HashMap::new(),
            next: 0,
            fresh: HashSet::new(),
        };
        outbox.take(Vec::new(), rows);
        outbox
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether one more message of this kind may wait for the peer.
    pub fn has_room(&self, peer: &str, kind: &str) -> bool {
        let waiting = self.peers.get(peer).map_or(0, BTreeMap::len);
        if is_news(kind) {
            waiting < self.per_peer / 2
                && self.len() < self.total / 2
                && self.bytes < self.max_bytes / 2
        } else {
            waiting < self.per_peer && self.bytes < self.max_bytes
        }
    }

    /// Ids of the rows that a new one makes pointless.
    pub fn superseded(&self, new: &OutboxRow) -> Vec<String> {
        let replaced = replaces(&new.kind);
        let rows = self
            .peers
            .get(&new.to)
            .into_iter()
            .flat_map(BTreeMap::values);
        rows.map(|waiting| &waiting.row)
            .filter(|row| replaced.contains(&row.kind.as_str()) && row.thid == new.thid)
            .map(|row| row.id.clone())
            .collect()
    }

    /// What was committed: rows that need no more delivery, and new ones.
    pub fn take(&mut self, retired: Vec<String>, added: Vec<OutboxRow>) {
        for id in retired {
            self.remove(&id);
        }
        for row in added {
            self.bytes += row.packed.len();
            self.places
                .insert(row.id.clone(), (row.to.clone(), self.next));
            let waiting = Waiting {
                row,
                attempts: 0,
                due: None,
            };
            self.fresh.insert(waiting.row.to.clone());
            self.peers
                .entry(waiting.row.to.clone())
                .or_default()
                .insert(self.next, waiting);
            self.next += 1;
        }
    }

    /// Forgets a row; gives it if it was there.
    pub fn remove(&mut self, id: &str) -> Option<OutboxRow> {
        let (peer, place) = self.places.remove(id)?;
        let rows = self.peers.get_mut(&peer)?;
        let removed = rows.remove(&place).map(|waiting| waiting.row);
        let freed = removed.as_ref().map_or(0, |row| row.packed.len());
        self.bytes = self.bytes.saturating_sub(freed);
        if rows.is_empty() {
            self.peers.remove(&peer);
        }
        removed
    }

    /// Ids of the rows that have done their work: those that a message of `from` acknowledges by their ids, and those of
    /// the kinds that it answers on its thread.
    pub fn answered(
        &self,
        from: &str,
        acknowledged: &[String],
        thread: &str,
        answers: &[&str],
    ) -> Vec<String> {
        let acknowledged: HashSet<&str> = acknowledged.iter().map(String::as_str).collect();
        let rows = self.peers.get(from).into_iter().flat_map(BTreeMap::values);
        rows.filter(|waiting| {
            let row = &waiting.row;
            acknowledged.contains(row.id.as_str())
                || (row.thid == thread && answers.contains(&row.kind.as_str()))
        })
        .map(|waiting| waiting.row.id.clone())
        .collect()
    }

    /// Peers for which something waits.
    pub fn peers(&self) -> impl Iterator<Item = &String> {
        self.peers.keys()
    }

    /// Peers for which something is new since this was last called.
    pub fn take_fresh(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.fresh)
    }

    /// A new connection to the peer: everything is due at once.
    pub fn connected(&mut self, peer: &str) {
        self.fresh.insert(peer.to_owned());
        for waiting in self
            .peers
            .get_mut(peer)
            .into_iter()
            .flat_map(BTreeMap::values_mut)
        {
            waiting.due = None;
        }
    }

    /// When the peer's next message is due. `unix_now`, in seconds, decides what has expired.
    pub fn next_due(&self, peer: &str, now: Instant, unix_now: u64) -> Option<Instant> {
        let rows = self.peers.get(peer)?.values();
        let waiting = rows.filter(|waiting| waiting.row.expires > unix_now);
        waiting.map(|waiting| waiting.due.unwrap_or(now)).min()
    }

    /// What to send to the peer now, oldest first; each is due again later. Expired ones are left for the clean-up.
    /// Those that were sent and not acknowledged do not hold up the others: a peer may refuse them until they expire.
    pub fn due(&mut self, peer: &str, now: Instant, unix_now: u64) -> Vec<OutboxRow> {
        let longest_wait = self.longest_wait;
        let rows = self
            .peers
            .get_mut(peer)
            .into_iter()
            .flat_map(BTreeMap::values_mut);
        let due = rows
            .filter(|waiting| waiting.row.expires > unix_now)
            .filter(|waiting| waiting.due.is_none_or(|due| due <= now));
        due.take(self.window)
            .map(|waiting| {
                let wait = FIRST_WAIT
                    .saturating_mul(1 << waiting.attempts.min(8))
                    .min(longest_wait);
                waiting.attempts = waiting.attempts.saturating_add(1);
                waiting.due = Some(now + wait);
                waiting.row.clone()
            })
            .collect()
    }
}

/// The thread under which a message waits: its session, else its cohort.
pub fn thread_of(message: &Message) -> String {
    match message.thread() {
        (_, Some(session)) => session.to_string(),
        (Some(cohort), None) => cohort.to_string(),
        (None, None) => String::new(),
    }
}

/// Kinds whose loss costs nobody a signature.
fn is_news(kind: &str) -> bool {
    matches!(
        kind,
        "keygen/subscribe_accept" | "keygen/cohort_advert" | "sign/signal_published"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;
    const WINDOW: usize = 16;

    fn new(rows: Vec<OutboxRow>) -> Outbox {
        Outbox::new(rows, &Limits::default())
    }

    fn row(id: usize, to: &str, expires: u64) -> OutboxRow {
        OutboxRow {
            id: id.to_string(),
            from: "did:example:us".to_owned(),
            to: to.to_owned(),
            kind: "keygen/opt_in".to_owned(),
            thid: "thread".to_owned(),
            expires,
            packed: id.to_string().into_bytes(),
        }
    }

    fn ids(rows: Vec<OutboxRow>) -> Vec<String> {
        rows.into_iter().map(|row| row.id).collect()
    }

    #[test]
    fn a_message_is_sent_again_until_it_is_retired_ever_less_often() {
        let mut outbox = new(vec![row(1, "a", NOW + 1)]);
        let mut now = Instant::now();
        assert_eq!(ids(outbox.due("a", now, NOW)), ["1"]);
        assert_eq!(outbox.due("a", now, NOW).len(), 0, "not twice at once");
        for wait in [5, 10, 20, 40, 60, 60] {
            now += Duration::from_millis(wait * 1_000 - 1);
            assert_eq!(outbox.due("a", now, NOW).len(), 0);
            now += Duration::from_millis(1);
            assert_eq!(outbox.due("a", now, NOW).len(), 1, "after {wait} s");
        }
        outbox.connected("a");
        let again = outbox.due("a", now, NOW);
        assert_eq!(again.len(), 1, "at once on a new connection");
        outbox.take(vec!["1".to_owned()], Vec::new());
        outbox.connected("a");
        assert_eq!(outbox.due("a", now, NOW).len(), 0);
        assert!(outbox.is_empty());
    }

    #[test]
    fn messages_that_a_peer_refuses_for_ever_hold_nothing_up() {
        let expired = (0..WINDOW).map(|id| row(id, "a", NOW));
        let waiting = (100..100 + 2 * WINDOW).map(|id| row(id, "a", NOW + 1));
        let mut outbox = new(expired.chain(waiting).collect());
        let now = Instant::now();
        let sent = ids(outbox.due("a", now, NOW));
        assert_eq!(sent.len(), WINDOW);
        assert_eq!(
            (sent[0].as_str(), sent[WINDOW - 1].as_str()),
            ("100", "115")
        );
        assert_eq!(outbox.next_due("a", now, NOW), Some(now));
        let rest = ids(outbox.due("a", now, NOW));
        assert_eq!(rest[0], "116", "none was acknowledged");
        assert!(outbox.due("a", now, NOW).is_empty());
    }

    fn of_kind(id: usize, to: &str, kind: &str) -> OutboxRow {
        OutboxRow {
            kind: kind.to_owned(),
            ..row(id, to, NOW + 1)
        }
    }

    #[test]
    fn a_peer_that_never_answers_fills_its_own_queue_only_and_news_leave_room_for_the_rest() {
        let (news, needed) = ("sign/signal_published", "keygen/cohort_set");
        let limits = Limits {
            outbox_per_peer: 20,
            ..Limits::default()
        };
        let rows = (0..10).map(|id| of_kind(id, "dead", news));
        let mut outbox = Outbox::new(rows.collect(), &limits);
        assert!(!outbox.has_room("dead", news));
        assert!(outbox.has_room("dead", needed));
        assert!(outbox.has_room("alive", news));
        let more = (10..20).map(|id| row(id, "dead", NOW + 1));
        outbox.take(Vec::new(), more.collect());
        assert!(!outbox.has_room("dead", needed));
        outbox.take(vec!["7".to_owned()], Vec::new());
        assert!(outbox.has_room("dead", needed));
    }

    #[test]
    fn peers_that_are_gone_leave_half_of_the_outbox_to_the_others() {
        let (news, needed) = ("keygen/cohort_advert", "sign/authorization_request");
        let limits = Limits {
            outbox_total: 1_000,
            ..Limits::default()
        };
        let rows = (0..500).map(|id| of_kind(id, &(id / 50).to_string(), news));
        let outbox = Outbox::new(rows.collect(), &limits);
        assert!(!outbox.has_room("another", news));
        assert!(outbox.has_room("another", needed));
    }

    #[test]
    fn large_messages_fill_the_outbox_by_their_bytes() {
        let (news, needed) = ("keygen/cohort_advert", "sign/authorization_request");
        let limits = Limits {
            outbox_bytes: 1_000,
            ..Limits::default()
        };
        let large = |id, bytes| OutboxRow {
            packed: vec![0; bytes],
            ..of_kind(id, &id.to_string(), news)
        };
        let mut outbox = Outbox::new(vec![large(1, 500)], &limits);
        assert!(!outbox.has_room("another", news));
        assert!(outbox.has_room("another", needed));
        outbox.take(Vec::new(), vec![large(2, 500)]);
        assert!(!outbox.has_room("another", needed));
        outbox.take(vec!["1".to_owned()], Vec::new());
        assert!(outbox.has_room("another", needed));
    }

    #[test]
    fn the_newest_of_a_kind_takes_the_place_of_the_older_ones_where_only_it_counts() {
        let rows = vec![
            of_kind(1, "a", "sign/signal_published"),
            of_kind(2, "a", "sign/request_signature"),
            of_kind(3, "b", "sign/signal_published"),
        ];
        let outbox = new(rows);
        let new = of_kind(4, "a", "sign/signal_published");
        assert_eq!(outbox.superseded(&new), ["1"]);
        let other_thread = OutboxRow {
            thid: "another".to_owned(),
            ..new
        };
        assert!(outbox.superseded(&other_thread).is_empty());
        let leaves = of_kind(5, "a", "sign/request_signature");
        assert!(
            outbox.superseded(&leaves).is_empty(),
            "each has leaves of its own"
        );
    }

    #[test]
    fn what_was_taken_back_is_not_sent_any_more() {
        let outbox = new(vec![
            of_kind(1, "a", "sign/authorization_request"),
            of_kind(2, "a", "sign/aggregated_nonce"),
            of_kind(3, "a", "keygen/opt_in"),
            of_kind(4, "b", "sign/aggregated_nonce"),
        ]);
        let aborted = of_kind(5, "a", "sign/session_aborted");
        assert_eq!(outbox.superseded(&aborted), ["1", "2"]);
        let left = of_kind(6, "a", "keygen/opt_out");
        assert_eq!(outbox.superseded(&left), ["3"]);
    }

    #[test]
    fn peers_for_which_something_is_new_are_named_once() {
        let mut outbox = new(vec![
            row(1, "a", NOW + 1),
            row(2, "a", NOW + 1),
            row(3, "b", NOW + 1),
        ]);
        let fresh = outbox.take_fresh();
        assert_eq!(fresh, HashSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(outbox.take_fresh().is_empty());
    }
}
