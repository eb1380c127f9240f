//! docs/architecture.md lists every limit as it is in the code, and a test that exists for each.

#![expect(clippy::unwrap_used, reason = "a test program")]

use std::path::Path;

use beacon_runtime::limits::TABLE;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// All Rust sources below a folder.
fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_page_lists_every_limit_with_its_default_its_range_and_a_test() {
    let page = std::fs::read_to_string(format!("{TOP}/docs/architecture.md")).unwrap();
    let section = page.split("\n## Limits\n").nth(1).unwrap();
    let table = section.split("\n\n| name |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let rows: Vec<Vec<String>> = table
        .lines()
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            let cells = cells.map(|cell| cell.trim().replace(['`', ','], ""));
            cells.collect()
        })
        .collect();
    let documented: Vec<_> = rows
        .iter()
        .map(|row| (row[0].clone(), row[1].clone(), row[2].clone()))
        .collect();
    let known: Vec<_> = TABLE
        .iter()
        .map(|limit| {
            let range = format!("{} to {}", limit.least, limit.most);
            (limit.name.to_owned(), limit.default.to_string(), range)
        })
        .collect();
    assert_eq!(documented, known);

    let mut code = String::new();
    for folder in ["crates", "tests"] {
        sources(&Path::new(TOP).join(folder), &mut code);
    }
    for row in rows {
        let test = format!("fn {}(", row[5]);
        assert!(code.contains(&test), "{}: {}", row[0], row[5]);
    }
}
