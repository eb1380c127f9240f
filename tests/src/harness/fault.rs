//! Sudden death and faults of the disk for the unmodified binaries.
//!
//! `fault.c` is compiled when it is first needed and loaded into a process with `LD_PRELOAD`, where it stands between the
//! program and the calls that make files durable. What it does is written in its head. A plan may be changed while the process runs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The source of the library.
const SOURCE: &str = include_str!("fault.c");

/// What strikes. The numbers are those of `fault.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `SIGKILL` before a sync, and with it goes what was written since the last one, as in a power failure.
    DieAndLose = 1,
    /// The same, but every other write survives.
    DieAndTear = 2,
    /// `SIGKILL` as soon as a sync is done.
    DieAfter = 3,
    /// The disk is full, from one write on.
    WritesFull = 4,
    /// Writes fail, from one on.
    WritesFail = 5,
    /// Syncs fail, from one on; what was written is gone.
    SyncsFailAndLose = 6,
    /// Syncs fail, from one on; what was written is there all the same.
    SyncsFailAndKeep = 7,
}

impl Fault {
    /// Whether it leaves the process alive, and its disk broken.
    pub fn is_of_the_disk(self) -> bool {
        !matches!(self, Self::DieAndLose | Self::DieAndTear | Self::DieAfter)
    }

    fn is_of_writes(self) -> bool {
        matches!(self, Self::WritesFull | Self::WritesFail)
    }
}

/// When it strikes. Syncs and writes are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// At the sync or write of this number after now.
    Next(u64),
    /// At the sync that makes the first event of this kind durable; among the writes, or at the first sync, where the
    /// event shall not get that far.
    Event(String),
}

/// Syncs of one commit: the store makes its pages durable first, and then the header that leads to them.
const SYNCS_OF_A_COMMIT: u64 = 2;
/// Bytes of the plan's file.
const PLAN_BYTES: usize = 6 * 8 + 64;

/// What shall happen to the files of one folder, and what has happened. Counts go on over restarts of the process.
#[derive(Debug)]
pub struct Faults {
    plan: File,
    path: PathBuf,
    folder: PathBuf,
}

impl Faults {
    /// No faults yet in this folder, which need not exist; its parent does.
    pub fn new(folder: &Path) -> Self {
        let parent = folder.parent().unwrap().canonicalize().unwrap();
        let folder = parent.join(folder.file_name().unwrap());
        let path = folder.with_extension("faults");
        let plan = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        plan.write_all_at(&[0; PLAN_BYTES], 0).unwrap();
        Self { plan, path, folder }
    }

    /// From now on this strikes then.
    pub fn plan(&self, fault: Fault, when: &When) {
        self.lift();
        let (at, words) = match when {
            When::Next(number) => (*number + self.count(fault), String::new()),
            When::Event(kind) => {
                let syncs = match fault {
                    Fault::WritesFull | Fault::WritesFail => 0,
                    Fault::SyncsFailAndLose => 1,
                    _ => SYNCS_OF_A_COMMIT,
                };
                (syncs, format!("\"event\":\"{kind}\""))
            }
        };
        let mut bytes = [0; PLAN_BYTES - 5 * 8];
        bytes[8..8 + words.len()].copy_from_slice(words.as_bytes());
        self.plan.write_all_at(&bytes, 5 * 8).unwrap();
        self.set(1, at);
        self.set(0, fault as u64);
    }

    /// Nothing strikes any more.
    pub fn lift(&self) {
        self.set(0, 0);
    }

    /// How many there were so far of what this strikes: writes, or syncs.
    pub fn count(&self, fault: Fault) -> u64 {
        self.get(if fault.is_of_writes() { 3 } else { 2 })
    }

    /// How often something has struck.
    pub fn fired(&self) -> u64 {
        self.get(4)
    }

    /// What a process needs to be struck.
    pub fn environment(&self) -> HashMap<&'static str, PathBuf> {
        HashMap::from([
            ("LD_PRELOAD", library().to_owned()),
            ("BEACON_FAULT_PLAN", self.path.clone()),
            ("BEACON_FAULT_FOLDER", self.folder.clone()),
        ])
    }

    fn set(&self, member: u64, value: u64) {
        self.plan
            .write_all_at(&value.to_ne_bytes(), member * 8)
            .unwrap();
    }

    fn get(&self, member: u64) -> u64 {
        let mut bytes = [0; 8];
        self.plan.read_exact_at(&mut bytes, member * 8).unwrap();
        u64::from_ne_bytes(bytes)
    }
}

/// The compiled library, beside the binaries; named by its content, so that an old one is never taken for it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        SOURCE.hash(&mut hasher);
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().and_then(Path::parent).unwrap();
        let library = folder.join(format!("fault-{:016x}.so", hasher.finish()));
        if !library.exists() {
            let unfinished = folder.join(format!("fault-{}", std::process::id()));
            let source = unfinished.with_extension("c");
            fs::write(&source, SOURCE).unwrap();
            let compiled = Command::new("cc")
                .args([
                    "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
                ])
                .args([&unfinished, &source])
                .status()
                .unwrap_or_else(|error| panic!("cannot run the C compiler cc: {error}"));
            assert!(compiled.success(), "fault.c does not compile");
            fs::remove_file(&source).unwrap();
            // Test programs may run side by side: whoever is last has made the same.
            fs::rename(&unfinished, &library).unwrap();
        }
        library
    })
}
