//! report-problem 2.0: what went wrong, said to a proven sender and never in answer to another report.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::message::Plaintext;
use crate::text::excerpt;

/// Type of a problem report.
pub const PROBLEM_REPORT: &str = "https://didcomm.org/report-problem/2.0/problem-report";

/// Longest problem code, in bytes.
const MAX_CODE_LEN: usize = 128;
/// Longest comment or argument, in bytes.
const MAX_TEXT_LEN: usize = 1024;
/// Most arguments.
const MAX_ARGS: usize = 16;

/// The body of a problem report (DIDComm Messaging 2.1, "Problem Reports").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemReport {
    /// `e.m.…` where only a message is refused, `e.p.…` where the whole exchange ends; at most 128 bytes.
    pub code: String,
    /// For people; `{1}` stands for the first of `args`. At most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// At most 16 values of at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// Why a message is not a problem report that can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Another message type.
    #[error("got type {got}, expected {PROBLEM_REPORT}")]
    Type {
        /// The start of the type.
        got: String,
    },
    /// The body has other members than a report's.
    #[error("body is not that of a problem report, expected a code")]
    Body,
    /// The code is not dotted lower case words, beginning with `e` or `w`.
    #[error("got code {got}, expected e.… or w.… of at most {MAX_CODE_LEN} bytes")]
    Code {
        /// The start of the code.
        got: String,
    },
    /// A comment or argument is too long, or there are too many.
    #[error("comment or argument is too long, expected {MAX_ARGS} of {MAX_TEXT_LEN} bytes at most")]
    TooLong,
}

impl ProblemReport {
    /// A report with a code, and a comment for people.
    pub fn new(code: &str, comment: &str) -> Result<Self, ReportError> {
        let report = Self {
            code: code.to_owned(),
            comment: Some(comment.to_owned()),
            args: Vec::new(),
        };
        report.check()?;
        Ok(report)
    }

    /// The message that reports on another: `thread` and `message` are the refused one's thread and id.
    ///
    /// A refused message that is a report itself must not be answered; that is for the caller to see, since a refused
    /// message's type is not known.
    pub fn about(&self, thread: &str, message: &str, id: Uuid, now: u64) -> Plaintext {
        // Strings and lists of strings always serialize.
        let body = serde_json::to_value(self).unwrap_or_default();
        Plaintext::new(id, PROBLEM_REPORT, now)
            .with_body(body)
            .with_pthid(thread)
            .with_ack(message)
    }

    /// Reads the report in a message.
    pub fn parse(message: &Plaintext) -> Result<Self, ReportError> {
        if message.kind != PROBLEM_REPORT {
            return Err(ReportError::Type {
                got: excerpt(&message.kind),
            });
        }
        let report: Self = Self::deserialize(&message.body).map_err(|_| ReportError::Body)?;
        report.check()?;
        Ok(report)
    }

    fn check(&self) -> Result<(), ReportError> {
        let legal =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let mut words = self.code.split('.');
        let sorter = words.next();
        let has_scope = words.clone().next().is_some();
        let well_formed = words.all(|word| !word.is_empty() && word.bytes().all(legal));
        if !matches!(sorter, Some("e" | "w"))
            || !has_scope
            || !well_formed
            || self.code.len() > MAX_CODE_LEN
        {
            return Err(ReportError::Code {
                got: excerpt(&self.code),
            });
        }
        let short = |text: &String| text.len() <= MAX_TEXT_LEN;
        if self.args.len() <= MAX_ARGS && self.args.iter().chain(&self.comment).all(short) {
            Ok(())
        } else {
            Err(ReportError::TooLong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn a_report_names_thread_and_message_and_reads_back() {
        let report = ProblemReport::new("e.m.cohort.unknown", "no such cohort").unwrap();
        let message = report.about("thread-1", "message-1", Uuid::nil(), NOW);
        assert_eq!(message.pthid.as_deref(), Some("thread-1"));
        assert_eq!(message.ack, vec!["message-1"]);
        assert_eq!(
            message.body,
            json!({"code": "e.m.cohort.unknown", "comment": "no such cohort"})
        );
        assert_eq!(ProblemReport::parse(&message), Ok(report));
    }

    #[test]
    fn bad_reports_are_refused() {
        for code in [
            "",
            "e",
            "x.m.y",
            "e..y",
            "e.m.",
            "e.M.y",
            "e.m.y y",
            &format!("e.m.{}", "a".repeat(130)),
        ] {
            assert!(
                matches!(ProblemReport::new(code, ""), Err(ReportError::Code { .. })),
                "{code:?} was accepted"
            );
        }
        assert_eq!(
            ProblemReport::new("e.m.x", &"c".repeat(1025)),
            Err(ReportError::TooLong)
        );
        let report = |body| {
            ProblemReport::parse(&Plaintext::new(Uuid::nil(), PROBLEM_REPORT, NOW).with_body(body))
        };
        assert_eq!(report(json!({})), Err(ReportError::Body));
        assert_eq!(
            report(json!({"code": "e.m.x", "args": vec!["a"; 17]})),
            Err(ReportError::TooLong)
        );
        let other = Plaintext::new(Uuid::nil(), "other", NOW);
        assert!(matches!(
            ProblemReport::parse(&other),
            Err(ReportError::Type { .. })
        ));
    }
}
