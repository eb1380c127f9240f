//! The tables of `expected.md`.

/// Types, places, what was done there, and what comes of it, where that is not `e.m.malformed`.
pub(super) fn forms() -> Vec<[String; 4]> {
    rows("## Form")
        .filter(|row: &[String; 4]| !row[0].is_empty())
        .collect()
}

/// Type, mutation, situation, and what comes of it.
pub(super) fn situations() -> Vec<[String; 4]> {
    rows("## Situation").collect()
}

/// Types and mutations that do not meet, and why.
pub(super) fn skipped() -> Vec<[String; 3]> {
    rows("## Skipped").collect()
}

/// One of several patterns, each of which may end in `*`.
pub(super) fn fits(patterns: &str, text: &str) -> bool {
    let mut patterns = patterns.split(", ");
    patterns.any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    })
}

fn rows<const N: usize>(title: &str) -> impl Iterator<Item = [String; N]> {
    let page = include_str!("expected.md");
    let (_, section) = page.split_once(&format!("\n{title}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|'));
    lines.skip(2).map(|line| {
        let cells = line.trim_matches('|').split('|');
        let cells: Vec<_> = cells.map(|cell| cell.trim().replace('`', "")).collect();
        cells.try_into().unwrap_or_else(|_| panic!("{line}"))
    })
}
