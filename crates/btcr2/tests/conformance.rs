//! `docs/conformance.md` names tests that exist and limits as they are in the code.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::fs;
use std::path::Path;

use beacon_btcr2::document::MAX_BEACONS;
use beacon_btcr2::json::Limits;
use beacon_btcr2::patch::MAX_OPERATIONS;

/// The last cell of each row of the tables in a section.
fn last_cells(page: &str, heading: &str) -> Vec<String> {
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with(heading));
    let lines = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.trim_matches('|').rsplit('|').next().unwrap().trim());
    cells.skip(2).map(str::to_owned).collect()
}

#[test]
fn the_page_names_tests_that_exist_and_limits_as_they_are() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(crate_folder.join("../../docs/conformance.md")).unwrap();
    let tests = fs::read_dir(crate_folder.join("tests")).unwrap();
    let tests = tests
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    let code: String = tests
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut named = 0;
    for cell in last_cells(&page, "Vectors\n") {
        for test in cell.split('`').skip(1).step_by(2) {
            assert!(code.contains(&format!("fn {test}(")), "{test}");
            named += 1;
        }
    }
    assert!(named >= 10, "{named} tests are named");

    let thousands = |n: usize| match (n / 1000, n % 1000) {
        (0, n) => n.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    };
    let (document, update, map) = (Limits::DOCUMENT, Limits::UPDATE, Limits::ANNOUNCEMENT);
    let sizes = |limits: Limits| {
        format!(
            "{} levels, {} values",
            limits.depth,
            thousands(limits.nodes)
        )
    };
    assert_eq!(
        last_cells(&page, "JSON\n"),
        [
            format!(
                "{} KiB, {}, {MAX_BEACONS} beacons",
                document.bytes >> 10,
                sizes(document)
            ),
            format!(
                "{} KiB, {}, {} operations",
                update.bytes >> 10,
                sizes(update),
                thousands(MAX_OPERATIONS)
            ),
            format!("{} MiB, {}", map.bytes >> 20, sizes(map)),
        ]
    );
}
