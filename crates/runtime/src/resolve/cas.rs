//! A directory as a content addressed store: JSON documents in files of any name, found by the hash of their canonical form.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use beacon_btcr2::Hash32;
use beacon_btcr2::json::{self, Limits};

/// Most entries of a directory.
const MAX_FILES: usize = 100_000;
/// Most bytes of all documents together: 256 MiB.
const MAX_BYTES: usize = 256 << 20;
/// How much JSON one document may be: the largest of what a resolution asks for.
const LIMITS: Limits = Limits {
    bytes: Limits::ANNOUNCEMENT.bytes,
    depth: Limits::UPDATE.depth,
    nodes: Limits::ANNOUNCEMENT.nodes,
};

/// The documents of a directory. Everything is read at once, when it is opened: a file that changes or comes later changes
/// nothing.
#[derive(Debug, Default)]
pub struct CasDirectory {
    documents: HashMap<Hash32, Vec<u8>>,
    passed_over: usize,
}

/// Why a directory cannot be used as a store of documents.
#[derive(Debug, thiserror::Error)]
pub enum CasError {
    /// It or a file in it cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is too large.
    #[error("directory {} has more than {max} {what}, expected at most {max}", path.display())]
    TooMuch {
        /// Which one.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

impl CasDirectory {
    /// Reads a directory, without those below it. Symbolic links and whatever else is no file, files that are larger than
    /// any document, and files that are not JSON are passed over: they can be nothing that is asked for.
    pub fn read(directory: &Path) -> Result<Self, CasError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CasError::Read { path, source }
        };
        let too_much = |what, max| CasError::TooMuch {
            path: directory.to_owned(),
            what,
            max,
        };
        let mut store = Self::default();
        let (mut entries, mut bytes) = (0, 0);
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let entry = entry.map_err(failed(directory))?;
            entries += 1;
            if entries > MAX_FILES {
                return Err(too_much("entries", MAX_FILES));
            }
            let path = entry.path();
            let is_file = entry.file_type().map_err(failed(&path))?.is_file();
            let document = if is_file {
                read_document(&path).map_err(failed(&path))?
            } else {
                None
            };
            let Some((hash, text)) = document else {
                store.passed_over += 1;
                continue;
            };
            bytes += text.len();
            if bytes > MAX_BYTES {
                return Err(too_much("bytes of documents", MAX_BYTES));
            }
            store.documents.insert(hash, text);
        }
        Ok(store)
    }

    /// The text of the document with this hash.
    pub fn get(&self, hash: &Hash32) -> Option<&[u8]> {
        self.documents.get(hash).map(Vec::as_slice)
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Number of entries that are no documents.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }
}

/// A file's document and its hash; none when the file cannot be one.
fn read_document(path: &Path) -> io::Result<Option<(Hash32, Vec<u8>)>> {
    let file = File::open(path)?;
    let mut text = Vec::new();
    // The size that the directory names may be another one by now.
    file.take(LIMITS.bytes as u64 + 1).read_to_end(&mut text)?;
    let value = json::parse(&text, &LIMITS).ok();
    Ok(value.map(|value| (json::hash(&value), text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_found_by_their_hash_whatever_their_name_and_spelling() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), r#"{ "b": 1.0,  "a": "\u0041" }"#).unwrap();
        fs::write(dir.path().join("a.json"), "[]").unwrap();
        // The same once more.
        fs::write(dir.path().join("c"), r#"{"a":"A","b":1}"#).unwrap();
        let store = CasDirectory::read(dir.path()).unwrap();
        assert_eq!((store.len(), store.passed_over()), (2, 0));
        let found = store
            .get(&json::hash(&json!({ "a": "A", "b": 1 })))
            .unwrap();
        let value: serde_json::Value = serde_json::from_slice(found).unwrap();
        assert_eq!(value["a"], "A");
        assert!(store.get(&json::hash(&json!({ "a": "A" }))).is_none());
    }

    #[test]
    fn whatever_is_no_document_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("document"), "{}").unwrap();
        fs::write(file("empty"), "").unwrap();
        fs::write(file("text"), "hello").unwrap();
        fs::write(file("binary"), [0, 255, 7]).unwrap();
        fs::write(file("deep"), "[".repeat(100_000)).unwrap();
        fs::write(file("twice"), r#"{"a":1,"a":2}"#).unwrap();
        // Sparse: it has this size and no blocks.
        let huge = File::create(file("huge")).unwrap();
        huge.set_len(1 << 40).unwrap();
        fs::create_dir(file("folder")).unwrap();
        fs::write(file("folder").join("below"), "[1]").unwrap();
        std::os::unix::fs::symlink(file("document"), file("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", file("endless")).unwrap();
        std::os::unix::fs::symlink(".", file("circle")).unwrap();
        let store = CasDirectory::read(dir.path()).unwrap();
        assert_eq!((store.len(), store.passed_over()), (1, 10));
        assert!(store.get(&json::hash(&json!([1]))).is_none());
    }

    #[test]
    fn a_directory_that_is_none_is_an_error_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "{}").unwrap();
        for path in [path, dir.path().join("nowhere")] {
            let error = CasDirectory::read(&path).unwrap_err().to_string();
            assert_eq!(error, format!("cannot read {}", path.display()));
        }
    }
}
