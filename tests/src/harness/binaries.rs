//! Where the binaries are, and that they are made of today's sources.
//!
//! Cargo tells a package's tests of its own binaries only, so the ones of other packages have to be built before. A test of
//! yesterday's binary proves nothing, hence a stale one is an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// What was found out about each binary: once, so that all tests of one run are about the same sources.
static CHECKED: [OnceLock<Result<(), String>>; 3] = [const { OnceLock::new() }; 3];

/// One of the workspace's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `beacon-coordinator`.
    Coordinator,
    /// `beacon-participant`.
    Participant,
    /// `beacon-regtest`.
    Regtest,
}

impl Binary {
    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "beacon-coordinator",
            Self::Participant => "beacon-participant",
            Self::Regtest => "beacon-regtest",
        }
    }

    /// The file, beside the folder of this test's own executable.
    ///
    /// # Panics
    ///
    /// When it is missing or older than one of its sources.
    pub fn path(self) -> PathBuf {
        let own = std::env::current_exe().unwrap();
        // target/debug/deps/e2e_push-0123456789abcdef
        let folder = own.parent().and_then(Path::parent).unwrap();
        let path = folder.join(self.name());
        if let Err(fault) = CHECKED[self as usize].get_or_init(|| check(&path)) {
            panic!(
                "{fault}: run the test command of README.md, or `cargo build --workspace` before the tests"
            );
        }
        path
    }
}

/// Compares a binary with the sources that cargo's dep-info beside it lists.
fn check(binary: &Path) -> Result<(), String> {
    let built =
        modified(binary).map_err(|error| format!("no binary at {}: {error}", binary.display()))?;
    let listed = binary.with_extension("d");
    let rule = fs::read_to_string(&listed)
        .map_err(|error| format!("no list of sources at {}: {error}", listed.display()))?;
    let sources = sources(&rule);
    if sources.is_empty() {
        return Err(format!("{} lists no sources", listed.display()));
    }
    for source in sources {
        match modified(&source) {
            Ok(changed) if changed <= built => {}
            Ok(_) => {
                return Err(format!(
                    "{} is older than {}",
                    binary.display(),
                    source.display()
                ));
            }
            Err(error) => {
                return Err(format!(
                    "{} was built from {}, which is gone: {error}",
                    binary.display(),
                    source.display()
                ));
            }
        }
    }
    Ok(())
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// The right side of `target: source source…`, where a backslash escapes a space.
fn sources(rule: &str) -> Vec<PathBuf> {
    let Some((_, list)) = rule.lines().next().and_then(|line| line.split_once(": ")) else {
        return Vec::new();
    };
    let escaped = list.replace("\\ ", "\0");
    escaped
        .split_whitespace()
        .map(|source| PathBuf::from(source.replace('\0', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn file(path: &Path, age: u64) {
        let file = fs::File::create(path).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        file.set_modified(time).unwrap();
    }

    #[test]
    fn only_a_binary_newer_than_all_its_sources_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let (binary, first, second) = (
            dir.path().join("program"),
            dir.path().join("a b.rs"),
            dir.path().join("c.rs"),
        );
        let missing = check(&binary).unwrap_err();
        assert!(missing.starts_with("no binary at"), "{missing}");
        file(&binary, 10);
        let unlisted = check(&binary).unwrap_err();
        assert!(unlisted.starts_with("no list of sources"), "{unlisted}");
        let escaped = first.display().to_string().replace(' ', "\\ ");
        let rule = format!("{}: {escaped} {}\n", binary.display(), second.display());
        fs::write(binary.with_extension("d"), rule).unwrap();
        file(&first, 20);
        let gone = check(&binary).unwrap_err();
        assert!(gone.contains("c.rs, which is gone"), "{gone}");
        file(&second, 20);
        assert_eq!(check(&binary), Ok(()));
        file(&first, 5);
        let stale = check(&binary).unwrap_err();
        assert!(
            stale.contains("is older than") && stale.ends_with("a b.rs"),
            "{stale}"
        );
    }
}
