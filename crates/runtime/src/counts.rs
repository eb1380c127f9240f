//! What was refused, dropped, delayed or cut off since the start, by kind: nothing goes without a number.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counters that all parts of an agent share; `status` shows them. Kinds are words of this program, never a peer's, so
/// there are few.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    /// One more of this kind.
    pub fn add(&self, kind: &str) {
        let mut counts = self.lock();
        match counts.get_mut(kind) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                counts.insert(kind.to_owned(), 1);
            }
        }
    }

    /// How many of this kind there were.
    pub fn of(&self, kind: &str) -> u64 {
        self.lock().get(kind).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        // Every change is complete in itself, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
