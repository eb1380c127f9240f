//! How full the event log is: a warning in time, and nothing new when it is full.

use beacon_cohort::machine::{Code, Input, Machine, Rejection};
use serde_json::{Value, json};

use super::Driver;
use crate::agent::Agent;
use crate::limits::Limits;
use crate::store::LogSize;

impl<A: Agent> Driver<A> {
    /// Refuses what would begin something new, when the log has no room for it. What is under way goes on and can be
    /// proven: the log grows a little beyond its limit for that.
    pub(super) fn room_for(
        &self,
        input: &Input<<A::Machine as Machine>::Command>,
    ) -> Result<(), Rejection> {
        if self.log_used_percent() < 100 || !self.agent.begins(&self.machine, input) {
            return Ok(());
        }
        let (size, bounds) = (self.store.log_size(), &self.config.bounds);
        Err(Rejection::new(
            Code::Limit,
            format!(
                "a log of {} events and {} bytes, which is full",
                size.events, size.bytes
            ),
            format!(
                "less than max_log_events ({}) and max_log_bytes ({}): only what has begun goes on, until the operator gives the log more room",
                bounds.max_log_events, bounds.max_log_bytes
            ),
        ))
    }

    /// Says when the log fills up: once at the start and at each further percent.
    pub(super) fn warn_of_log(&mut self) {
        let percent = self.log_used_percent();
        if percent < self.config.bounds.log_warn_percent {
            self.log_warned = 0;
        }
        if percent < self.config.bounds.log_warn_percent || percent <= self.log_warned {
            return;
        }
        self.log_warned = percent;
        let size = self.store.log_size();
        if percent < 100 {
            tracing::warn!(
                percent,
                events = size.events,
                bytes = size.bytes,
                "the event log fills up: raise max_log_bytes or max_log_events before it is full"
            );
        } else {
            tracing::error!(
                percent,
                events = size.events,
                bytes = size.bytes,
                "the event log is full: nothing new begins before max_log_bytes or max_log_events is raised"
            );
        }
    }

    pub(super) fn log_status(&self) -> Value {
        let (size, bounds) = (self.store.log_size(), &self.config.bounds);
        json!({
            "events": size.events,
            "bytes": size.bytes,
            "max_events": bounds.max_log_events,
            "max_bytes": bounds.max_log_bytes,
            "used_percent": self.log_used_percent(),
        })
    }

    fn log_used_percent(&self) -> u64 {
        used_percent(self.store.log_size(), &self.config.bounds)
    }
}

fn used_percent(size: LogSize, limits: &Limits) -> u64 {
    let percent = |used: u64, limit: u64| used.saturating_mul(100) / limit.max(1);
    percent(size.events, limits.max_log_events).max(percent(size.bytes, limits.max_log_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_as_full_as_the_fuller_of_its_limits() {
        let limits = Limits {
            max_log_events: 10,
            max_log_bytes: 1_000,
            ..Limits::default()
        };
        let used = |events, bytes| used_percent(LogSize { events, bytes }, &limits);
        assert_eq!(used(0, 0), 0);
        assert_eq!(used(9, 100), 90);
        assert_eq!(used(1, 999), 99);
        assert_eq!(used(1, 1_000), 100);
        assert_eq!(used(11, 0), 110);
    }
}
