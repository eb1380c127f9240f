//! So many per second, and so many at once: who comes more often waits, or is refused.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// A rate and how far it may be exceeded for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_s: u64,
    burst: u64,
}

impl Rate {
    /// `per_s` each second, and `burst` at once after a pause; at least 1 of each.
    pub fn new(per_s: u64, burst: u64) -> Self {
        Self {
            per_s: per_s.max(1),
            burst: burst.max(1),
        }
    }

    /// A part of this rate: what one of those who share it may use.
    #[must_use]
    pub fn part(self, divisor: u64) -> Self {
        Self::new(self.per_s / divisor, self.burst / divisor)
    }

    /// How long it takes until `tokens` are there again.
    fn time(self, tokens: u64) -> Duration {
        let nanos = u128::from(tokens) * 1_000_000_000 / u128::from(self.per_s);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A bucket of tokens. All that it remembers is when it will be full again.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `tokens`, or says how long to wait for them and takes none. More than the bucket holds counts as all that it
    /// holds.
    pub fn take(&mut self, rate: Rate, tokens: u64, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.time(tokens.min(rate.burst));
        let wait = full_at.saturating_duration_since(now + rate.time(rate.burst));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = full_at;
        Ok(())
    }
}

/// A bucket for each key, all of one rate. A bucket that is full again is forgotten when room is needed.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    limit: usize,
    known: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// For at most `limit` keys at one time.
    pub fn new(rate: Rate, limit: usize) -> Self {
        Self {
            rate,
            limit,
            known: HashMap::new(),
        }
    }

    /// Takes tokens from the key's bucket, or says how long to wait.
    pub fn take(&mut self, key: K, tokens: u64, now: Instant) -> Result<(), Duration> {
        if self.known.len() >= self.limit && !self.known.contains_key(&key) {
            self.known.retain(|_, bucket| bucket.full_at > now);
            if self.known.len() >= self.limit {
                return Err(self.rate.time(1));
            }
        }
        let bucket = self.known.entry(key);
        bucket
            .or_insert_with(|| Bucket::full(now))
            .take(self.rate, tokens, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (rate, start) = (Rate::new(10, 5), Instant::now());
        let mut bucket = Bucket::full(start);
        for _ in 0..5 {
            bucket.take(rate, 1, start).unwrap();
        }
        assert_eq!(bucket.take(rate, 1, start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(100);
        bucket.take(rate, 1, later).unwrap();
        assert_eq!(
            bucket.take(rate, 2, later),
            Err(Duration::from_millis(200)),
            "what was refused cost nothing"
        );
        let rested = later + Duration::from_mins(1);
        bucket.take(rate, 5, rested).unwrap();
        assert!(
            bucket.take(rate, 1, rested).is_err(),
            "never more than the burst"
        );
    }

    #[test]
    fn what_is_larger_than_the_bucket_waits_for_a_full_one() {
        let (rate, start) = (Rate::new(1, 10), Instant::now());
        let mut bucket = Bucket::full(start);
        bucket.take(rate, 1_000, start).unwrap();
        assert_eq!(
            bucket.take(rate, 1_000, start),
            Err(Duration::from_secs(10))
        );
    }

    #[test]
    fn keys_do_not_share_and_only_so_many_are_remembered() {
        let now = Instant::now();
        let mut buckets = Buckets::new(Rate::new(1, 1), 2);
        buckets.take("a", 1, now).unwrap();
        buckets.take("b", 1, now).unwrap();
        assert!(buckets.take("a", 1, now).is_err());
        assert!(buckets.take("c", 1, now).is_err(), "no room");
        let later = now + Duration::from_secs(1);
        buckets.take("c", 1, later).unwrap();
        assert_eq!(buckets.known.len(), 1, "full ones made room");
    }
}
