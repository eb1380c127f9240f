//! What can go wrong between an agent and its chain source.

use std::fmt;

use thiserror::Error;

/// Why a chain source could not be asked, or could not be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// No answer: connection refused, timeout, overload. Asking again later is right.
    #[error("chain source unavailable: {reason}")]
    Unavailable {
        /// What happened.
        reason: Reason,
    },
    /// An answer that cannot be true or cannot be read. Asking again rarely helps: another source
    /// or another URL does.
    #[error("chain source answered nonsense: {reason}")]
    Garbage {
        /// What was got and what was expected.
        reason: Reason,
    },
    /// An answer beyond what is read of a source. Asking again does not help.
    #[error("chain source has too much to say: {reason}")]
    TooMuch {
        /// What the limit is.
        reason: Reason,
    },
    /// A source that cannot answer the way it is set up. Asking again does not help: another setting does.
    #[error("chain source does not suit: {reason}")]
    Unsuitable {
        /// What it lacks, and what to set.
        reason: Reason,
    },
}

impl ChainError {
    /// A source that gave no answer.
    pub fn unavailable(reason: impl fmt::Display) -> Self {
        Self::Unavailable {
            reason: Reason::new(reason),
        }
    }

    /// A source whose answer is larger than what is read.
    pub fn too_much(reason: impl fmt::Display) -> Self {
        Self::TooMuch {
            reason: Reason::new(reason),
        }
    }

    /// A source that is not set up for what it was asked.
    pub fn unsuitable(reason: impl fmt::Display) -> Self {
        Self::Unsuitable {
            reason: Reason::new(reason),
        }
    }

    /// A source that answered something which cannot be right.
    pub fn garbage(reason: impl fmt::Display) -> Self {
        Self::Garbage {
            reason: Reason::new(reason),
        }
    }
}

/// Why a transaction was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BroadcastError {
    /// The source looked at the transaction and does not want it, for the reason that it gives
    /// (for a script failure, with the text of Bitcoin Core's verdict).
    #[error("transaction refused: {reason}")]
    Refused {
        /// The source's own words.
        reason: Reason,
    },
    /// It is not known whether the transaction was taken. Broadcasting again is safe.
    #[error("transaction not delivered: {reason}")]
    Unavailable {
        /// What happened.
        reason: Reason,
    },
}

impl BroadcastError {
    /// A transaction that the source does not want.
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused {
            reason: Reason::new(reason),
        }
    }

    /// A transaction whose fate is unknown.
    pub fn unavailable(reason: impl fmt::Display) -> Self {
        Self::Unavailable {
            reason: Reason::new(reason),
        }
    }
}

/// A text that may come from a stranger: at most [`Reason::MAX_CHARS`] characters, none of them a
/// control character, so that it can be logged and shown as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// Longest reason, in characters. The rest is cut off.
    pub const MAX_CHARS: usize = 300;

    /// Cuts and cleans `text`.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(
            text.to_string()
                .chars()
                .take(Self::MAX_CHARS)
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        )
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_is_cut_and_cannot_drive_a_terminal() {
        let reason = Reason::new(format!("\u{1b}[2J{}", "x".repeat(10_000)));
        assert_eq!(reason.as_str().chars().count(), Reason::MAX_CHARS);
        assert!(reason.as_str().starts_with(" [2Jxxx"));
        assert!(!reason.as_str().chars().any(char::is_control));
    }

    #[test]
    fn messages_are_lower_case_without_a_full_stop() {
        for message in [
            ChainError::unavailable("timeout after 10 s").to_string(),
            ChainError::garbage("got 7 bytes, expected 32").to_string(),
            ChainError::too_much("got 9 pages, expected at most 8").to_string(),
            ChainError::unsuitable("blocks are pruned").to_string(),
            BroadcastError::refused("dust").to_string(),
            BroadcastError::unavailable("timeout").to_string(),
        ] {
            assert!(message.starts_with(|c: char| c.is_lowercase()), "{message}");
            assert!(!message.ends_with('.'), "{message}");
        }
    }
}
