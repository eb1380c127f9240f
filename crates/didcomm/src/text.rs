//! Texts from outside, made fit for error messages and log lines.

use std::fmt::Display;

/// The start of a text, quoted and escaped.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 64;
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

/// The start of a parser's message, which may quote megabytes of its input.
pub(crate) fn brief(message: &dyn Display) -> String {
    const SHOWN: usize = 160;
    let text = message.to_string();
    let shown: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect();
    if shown.len() < text.len() {
        format!("{shown}…")
    } else {
        shown
    }
}
