//! What the loop remembers of those who wrote to it: little, and the same for a short DID and a long one.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use beacon_cohort::ids::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::limits::Limits;
use crate::rates::{Bucket, Buckets, Rate};

/// In place of what a peer chose, which may have 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// Fingerprints in the order in which they came; the oldest makes room for a new one.
#[derive(Debug)]
struct Recent {
    limit: usize,
    known: HashSet<Fingerprint>,
    order: VecDeque<(Fingerprint, Timestamp)>,
}

impl Recent {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// `false` when it is there already.
    fn insert(&mut self, fingerprint: Fingerprint, now: Timestamp) -> bool {
        if !self.known.insert(fingerprint) {
            return false;
        }
        self.order.push_back((fingerprint, now));
        if self.order.len() > self.limit {
            self.remove_oldest();
        }
        true
    }

    /// Forgets what came at or before this time.
    fn forget(&mut self, until: Timestamp) {
        while self.order.front().is_some_and(|(_, at)| *at <= until) {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((oldest, _)) = self.order.pop_front() {
            self.known.remove(&oldest);
        }
    }
}

/// Ids of messages that came in lately, recorded on disk or not.
#[derive(Debug)]
pub(super) struct RecentIds(Recent);

impl RecentIds {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Recent::new(limits.recent_ids))
    }

    /// Remembers an id; `false` when it was here before.
    pub(super) fn insert(&mut self, sender: &str, id: &str) -> bool {
        self.0.insert(Fingerprint::of(&[sender, id]), Timestamp(0))
    }
}

/// What was said about refusals already, so that nobody can fill the log.
#[derive(Debug)]
pub(super) struct Said {
    recent: Recent,
    window_s: u64,
    lines: Rate,
    bucket: Bucket,
}

impl Said {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            recent: Recent::new(limits.report_memory),
            window_s: limits.report_window_s,
            lines: Rate::new(
                limits.report_lines_per_s,
                limits.report_lines_per_s.saturating_mul(10),
            ),
            bucket: Bucket::full(Instant::now()),
        }
    }

    /// Whether this is the first of its kind from this peer for a while: log it, report it. Of strangers, who are without
    /// number, only so many each second.
    pub(super) fn is_first(
        &mut self,
        kind: &str,
        peer: &str,
        partner: bool,
        now: Timestamp,
    ) -> bool {
        self.recent
            .forget(Timestamp(now.0.saturating_sub(self.window_s)));
        let fingerprint = Fingerprint::of(&[kind, peer]);
        if self.recent.known.contains(&fingerprint) {
            return false;
        }
        if !partner && self.bucket.take(self.lines, 1, Instant::now()).is_err() {
            return false;
        }
        self.recent.insert(fingerprint, now)
    }
}

/// How many messages are taken of whom.
#[derive(Debug)]
pub(super) struct Rates {
    partners: Buckets<Fingerprint>,
    strangers: Rate,
    bucket: Bucket,
    /// No address uses up what all strangers share.
    addresses: Buckets<IpAddr>,
}

impl Rates {
    pub(super) fn new(limits: &Limits) -> Self {
        let strangers = Rate::new(limits.stranger_messages_per_s, limits.stranger_burst);
        let partners = Rate::new(limits.peer_messages_per_s, limits.peer_burst);
        Self {
            partners: Buckets::new(partners, limits.max_routes),
            strangers,
            bucket: Bucket::full(Instant::now()),
            addresses: Buckets::new(strangers.part(4), limits.max_routes),
        }
    }

    /// Whether a message of this peer is taken now. Partners have a rate each, all others one together.
    pub(super) fn admits(&mut self, peer: &str, network: IpAddr, partner: bool) -> bool {
        let now = Instant::now();
        if partner {
            return self.partners.take(Fingerprint::of(&[peer]), 1, now).is_ok();
        }
        // A message that its own address has no room for takes nothing from the others.
        self.addresses.take(network, 1, now).is_ok()
            && self.bucket.take(self.strangers, 1, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(10_000);

    #[test]
    fn a_refusal_is_said_once_for_a_while() {
        let limits = Limits::default();
        let mut said = Said::new(&limits);
        assert!(said.is_first("expired", "a", false, NOW));
        assert!(!said.is_first("expired", "a", false, NOW));
        assert!(said.is_first("expired", "b", false, NOW), "another peer");
        assert!(said.is_first("malformed", "a", false, NOW), "another kind");
        let window = limits.report_window_s;
        assert!(!said.is_first("expired", "a", false, NOW.after(window - 1)));
        assert!(said.is_first("expired", "a", false, NOW.after(window)));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_without_number_fill_neither_the_log_nor_the_memory_and_silence_nobody() {
        let limits = Limits {
            report_memory: 100,
            report_lines_per_s: 20,
            ..Limits::default()
        };
        let mut said = Said::new(&limits);
        let strangers = |said: &mut Said, from: u32| {
            let peers = from..from + 10_000;
            peers
                .filter(|peer| said.is_first("expired", &peer.to_string(), false, NOW))
                .count()
        };
        assert_eq!(strangers(&mut said, 0), 200, "ten seconds' worth at once");
        assert_eq!(said.recent.order.len(), 100);
        assert_eq!(said.recent.known.len(), 100);
        assert!(said.is_first("expired", "a member", true, NOW));
        assert!(!said.is_first("expired", "a member", true, NOW));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(strangers(&mut said, 20_000), 20, "old ones have made room");
    }

    #[test]
    fn recent_ids_are_per_sender_and_the_oldest_is_forgotten_first() {
        let limits = Limits {
            recent_ids: 1_000,
            ..Limits::default()
        };
        let mut recent = RecentIds::new(&limits);
        assert!(recent.insert("a", "1"));
        assert!(!recent.insert("a", "1"));
        assert!(recent.insert("b", "1"));
        assert!(
            recent.insert("a1", ""),
            "not the same letters at another border"
        );
        for id in 0..limits.recent_ids {
            recent.insert("c", &id.to_string());
        }
        assert_eq!((recent.0.known.len(), recent.0.order.len()), (1_000, 1_000));
        assert!(!recent.insert("c", "5"), "still there");
        assert!(recent.insert("a", "1"), "long gone");
    }

    #[tokio::test(start_paused = true)]
    async fn partners_have_a_rate_each_and_strangers_one_together_of_which_an_address_has_a_quarter()
     {
        let limits = Limits {
            peer_messages_per_s: 1,
            peer_burst: 3,
            stranger_messages_per_s: 4,
            stranger_burst: 8,
            ..Limits::default()
        };
        let mut rates = Rates::new(&limits);
        let from = |last| IpAddr::from([10, 0, 0, last]);
        let taken = |rates: &mut Rates, peer: &str, network, partner| {
            let tries = (0..100).filter(|_| rates.admits(peer, network, partner));
            tries.count()
        };
        assert_eq!(taken(&mut rates, "member", from(1), true), 3);
        assert_eq!(taken(&mut rates, "another member", from(1), true), 3);
        assert_eq!(taken(&mut rates, "stranger", from(1), false), 2);
        assert_eq!(taken(&mut rates, "another name", from(1), false), 0);
        for last in 2..5 {
            assert_eq!(taken(&mut rates, "stranger", from(last), false), 2);
        }
        assert_eq!(
            taken(&mut rates, "stranger", from(5), false),
            0,
            "all is used up"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&mut rates, "member", from(1), true), 1);
        assert_eq!(taken(&mut rates, "stranger", from(6), false), 2);
        assert_eq!(taken(&mut rates, "stranger", from(7), false), 2);
        assert_eq!(taken(&mut rates, "stranger", from(8), false), 0);
    }
}
