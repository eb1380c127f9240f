//! Messages that wait to be delivered, and when each is sent again.
//!
//! A socket write is no acknowledgement: a row stays until the peer acknowledges it, answers it, or it expires. The
//! rows live in the store; this is their index.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::commit::Cause;
use crate::store::OutboxRow;

/// Messages that wait for one peer. Below the store's limit, so that one dead peer never blocks a commit.
const MAX_PER_PEER: usize = 128;
/// Messages sent to one peer and not acknowledged; more wait for these.
const WINDOW: usize = 16;
/// First wait for an acknowledgement; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

#[derive(Debug)]
struct Waiting {
    row: OutboxRow,
    attempts: u32,
    due: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By peer, in the order in which they were written.
    peers: HashMap<String, BTreeMap<u64, Waiting>>,
    places: HashMap<String, (String, u64)>,
    next: u64,
    /// Peers for which something is new since it was last asked.
    fresh: HashSet<String>,
}

impl Outbox {
    pub(super) fn new(rows: Vec<OutboxRow>) -> Self {
        let mut outbox = Self::default();
        outbox.take(Vec::new(), rows);
        outbox
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_full(&self, peer: &str) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|rows| rows.len() >= MAX_PER_PEER)
    }

    /// What was committed: rows that need no more delivery, and new ones.
    pub(super) fn take(&mut self, retired: Vec<String>, added: Vec<OutboxRow>) {
        for id in retired {
            self.remove(&id);
        }
        for row in added {
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

    pub(super) fn remove(&mut self, id: &str) -> Option<OutboxRow> {
        let (peer, place) = self.places.remove(id)?;
        let rows = self.peers.get_mut(&peer)?;
        let removed = rows.remove(&place).map(|waiting| waiting.row);
        if rows.is_empty() {
            self.peers.remove(&peer);
        }
        removed
    }

    /// Ids of the rows that a message acknowledges, or answers on its thread.
    pub(super) fn answered(&self, cause: &Cause<'_>) -> Vec<String> {
        let acknowledged: HashSet<&str> = cause
            .verified
            .message()
            .ack
            .iter()
            .map(String::as_str)
            .collect();
        let rows = self
            .peers
            .get(cause.verified.sender().as_str())
            .into_iter()
            .flat_map(BTreeMap::values);
        rows.filter(|waiting| {
            let row = &waiting.row;
            acknowledged.contains(row.id.as_str())
                || (row.thid == cause.thread && cause.answers.contains(&row.kind.as_str()))
        })
        .map(|waiting| waiting.row.id.clone())
        .collect()
    }

    /// Peers for which something waits.
    pub(super) fn peers(&self) -> impl Iterator<Item = &String> {
        self.peers.keys()
    }

    /// Peers for which something is new since this was last called.
    pub(super) fn take_fresh(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.fresh)
    }

    /// A new connection to the peer: everything is due at once.
    pub(super) fn connected(&mut self, peer: &str) {
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

    /// When the peer's next message is due.
    pub(super) fn next_due(&self, peer: &str, unix_now: u64) -> Option<Instant> {
        let now = Instant::now();
        let rows = self.peers.get(peer)?.values();
        let waiting = rows
            .filter(|waiting| waiting.row.expires > unix_now)
            .take(WINDOW);
        waiting.map(|waiting| waiting.due.unwrap_or(now)).min()
    }

    /// Frames to send to the peer now, oldest first; each is due again later. Expired ones are left for the clean-up.
    pub(super) fn due(&mut self, peer: &str, unix_now: u64) -> Vec<Vec<u8>> {
        let now = Instant::now();
        let rows = self
            .peers
            .get_mut(peer)
            .into_iter()
            .flat_map(BTreeMap::values_mut);
        let window = rows
            .filter(|waiting| waiting.row.expires > unix_now)
            .take(WINDOW);
        let due = window.filter(|waiting| waiting.due.is_none_or(|due| due <= now));
        due.map(|waiting| {
            let wait = FIRST_WAIT
                .saturating_mul(1 << waiting.attempts.min(8))
                .min(LONGEST_WAIT);
            waiting.attempts = waiting.attempts.saturating_add(1);
            waiting.due = Some(now + wait);
            waiting.row.packed.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000;

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

    fn ids(frames: Vec<Vec<u8>>) -> Vec<String> {
        frames
            .into_iter()
            .map(|frame| String::from_utf8(frame).unwrap())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_sent_again_until_it_is_retired_ever_less_often() {
        let mut outbox = Outbox::new(vec![row(1, "a", NOW + 1)]);
        assert_eq!(ids(outbox.due("a", NOW)), ["1"]);
        assert_eq!(outbox.due("a", NOW).len(), 0, "not twice at once");
        for wait in [5, 10, 20] {
            tokio::time::advance(Duration::from_secs(wait) - Duration::from_millis(1)).await;
            assert_eq!(outbox.due("a", NOW).len(), 0);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(outbox.due("a", NOW).len(), 1, "after {wait} s");
        }
        outbox.connected("a");
        assert_eq!(outbox.due("a", NOW).len(), 1, "at once on a new connection");
        outbox.take(vec!["1".to_owned()], Vec::new());
        outbox.connected("a");
        assert_eq!(outbox.due("a", NOW).len(), 0);
        assert_eq!(outbox.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_lets_the_oldest_through_and_expired_ones_do_not_fill_it() {
        let expired = (0..WINDOW).map(|id| row(id, "a", NOW));
        let waiting = (100..100 + 2 * WINDOW).map(|id| row(id, "a", NOW + 1));
        let mut outbox = Outbox::new(expired.chain(waiting).collect());
        let sent = ids(outbox.due("a", NOW));
        assert_eq!(sent.len(), WINDOW);
        assert_eq!(
            (sent[0].as_str(), sent[WINDOW - 1].as_str()),
            ("100", "115")
        );
        outbox.take(vec!["100".to_owned()], Vec::new());
        assert_eq!(
            ids(outbox.due("a", NOW)),
            ["116"],
            "one leaves the window, one enters"
        );
    }

    #[test]
    fn a_peer_that_never_answers_fills_its_own_queue_only() {
        let mut outbox = Outbox::new(
            (0..MAX_PER_PEER)
                .map(|id| row(id, "dead", NOW + 1))
                .collect(),
        );
        assert!(outbox.is_full("dead"));
        assert!(!outbox.is_full("alive"));
        outbox.take(vec!["7".to_owned()], Vec::new());
        assert!(!outbox.is_full("dead"));
    }

    #[test]
    fn peers_for_which_something_is_new_are_named_once() {
        let mut outbox = Outbox::new(vec![
            row(1, "a", NOW + 1),
            row(2, "a", NOW + 1),
            row(3, "b", NOW + 1),
        ]);
        let fresh = outbox.take_fresh();
        assert_eq!(fresh, HashSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(outbox.take_fresh().is_empty());
    }
}
