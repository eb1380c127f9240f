//! What somebody else can make us write to the log at no cost is counted: so much within an hour, and no more.

use serde::{Deserialize, Serialize};

use crate::ids::Timestamp;
use crate::machine::{Code, Rejection};

/// Seconds in which it is counted.
const WINDOW_S: u64 = 3_600;

/// How often something was done within the hour that began with the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hourly {
    /// Counted from here on.
    pub since: Timestamp,
    /// How often.
    pub count: u32,
}

impl Hourly {
    /// Counts once more.
    pub(crate) fn add(&mut self, at: Timestamp) {
        if !self.is_recent(at) {
            *self = Self {
                since: at,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
    }

    /// Whether the hour is not over.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        self.count > 0 && now < self.since.after(WINDOW_S)
    }

    /// Whether it was done as often as it may be.
    pub(crate) fn is_full(&self, most: usize, now: Timestamp) -> bool {
        self.is_recent(now) && usize::try_from(self.count).is_ok_and(|count| count >= most)
    }

    /// Refuses to do it once more than `most` times within the hour.
    pub(crate) fn has_room(
        &self,
        one_more: &str,
        most: usize,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        if self.is_full(most, now) {
            let expected = format!("at most {most} within {WINDOW_S} s");
            return Err(Rejection::new(Code::Limit, one_more, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_begins_with_the_first_time_and_is_over_after_an_hour() {
        let mut made = Hourly::default();
        let start = Timestamp(1_000);
        assert!(!made.is_full(0, start), "nothing was done yet");
        made.add(start);
        made.add(start.after(3_599));
        assert_eq!((made.since, made.count), (start, 2));
        assert!(made.is_full(2, start.after(3_599)) && !made.is_full(3, start.after(3_599)));
        let refused = made.has_room("one more", 2, start).unwrap_err();
        assert_eq!(refused.code, Code::Limit);
        made.has_room("one more", 2, start.after(3_600)).unwrap();
        made.add(start.after(3_600));
        assert_eq!((made.since, made.count), (start.after(3_600), 1));
    }
}
