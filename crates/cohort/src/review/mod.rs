//! What a member checks before it makes a nonce.
//!
//! Two tables: [`cohort`]'s before a set cohort is acknowledged, [`signal`]'s before a signal is signed. Each line is
//! one rule with its own code; a test violates each alone, and `tests/checks-matter.sh` removes each in turn and sees
//! exactly that test fail. A [`ReviewedSignal`] comes out of [`ProposedSignal::review`] and from nowhere else, and the
//! signer makes nonces for nothing else.

mod codes;
mod cohort;
mod live;
mod rules;
mod signal;

pub use codes::DeclineCode;
pub use cohort::{OptedIn, review_cohort};
pub(crate) use live::{conflict, ignored_live, impossible_after, impossible_beside};
pub use signal::{OwnLeaf, ProposedSignal, Replaced, ReviewedSignal, SignalContext, Verdict};

use crate::message::shortened;

/// A check that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {comment}")]
pub struct Declined {
    /// Which.
    pub code: DeclineCode,
    /// What was got and what was expected, for people.
    pub comment: String,
}

/// One line of a table of checks over a proposal `P` in a context `C`.
struct Check<P, C> {
    code: DeclineCode,
    holds: fn(&P, &C) -> Result<(), String>,
}

/// A line of a table, on one line: `tests/checks-matter.sh` reads and removes them.
const fn check<P, C>(code: DeclineCode, holds: fn(&P, &C) -> Result<(), String>) -> Check<P, C> {
    Check { code, holds }
}

/// Runs a table top down and stops at the first check that does not hold.
fn run<P, C>(checks: &[Check<P, C>], proposal: &P, context: &C) -> Result<(), Declined> {
    for check in checks {
        (check.holds)(proposal, context).map_err(|comment| Declined {
            code: check.code,
            // It quotes the request, which may be long, and goes into the log and back to the coordinator.
            comment: shortened(&comment),
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, comment: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(comment()) }
}
