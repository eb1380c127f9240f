//! The folder of one agent: who owns it, and where things are in it.
//!
//! One process at a time has it, held by a lock on the file `lock`: two processes with one seed would make two signatures
//! where the protocol allows one. The lock goes with the process, however it ends; the pid in the file only serves the message.
//!
//! The control socket lies in the folder too. Where that path is too long for a Unix socket, it lies in a short folder of
//! its own, and the file `control.path` tells clients where: their environment may name another temporary folder.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Bytes that a Unix socket path may have on Linux: `sun_path` holds 108 with the closing zero.
pub const MAX_SOCKET_PATH: usize = 107;

/// Name of the file of the keys, see [`crate::keys`].
pub const SEED_FILE: &str = "seed";
/// Name of the file of the store, see [`crate::store`].
pub const STATE_FILE: &str = "state.redb";
const SOCKET_NAME: &str = "control.sock";
const POINTER_NAME: &str = "control.path";

/// An agent's data directory, exclusively ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    socket: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others could put files there.
    #[error("data directory {path} has mode {mode:04o}, expected one that only you can write to: run `chmod 700 {path}`", path = path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another agent runs there.
    #[error("data directory {path} is in use by {holder}: stop that one first, or choose another --data-dir", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// `process <pid>`, or `another process` where it has not told.
        holder: String,
    },
    /// Neither the data directory nor the runtime directory is short enough.
    #[error("control socket path {path} has {got} bytes, expected at most {MAX_SOCKET_PATH}: choose a shorter --data-dir or XDG_RUNTIME_DIR", path = path.display())]
    SocketPath {
        /// The shorter one of the two paths.
        path: PathBuf,
        /// Its length.
        got: usize,
    },
    /// The short folder for the socket is not ours, so its owner could stand in for the agent.
    #[error("socket directory {path} belongs to someone else or is open to others, expected mode 0700 and your own: remove it", path = path.display())]
    ForeignSocketDir {
        /// The directory.
        path: PathBuf,
    },
}

impl DataDir {
    /// Takes the directory at `path`, creating it with mode 0700 where it is missing.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        Self::open_with(path, &runtime_dir())
    }

    /// The directory, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The file of the keys, see [`crate::keys`].
    pub fn seed_file(&self) -> PathBuf {
        self.root.join(SEED_FILE)
    }

    /// The file of the store, see [`crate::store`].
    pub fn state_file(&self) -> PathBuf {
        self.root.join(STATE_FILE)
    }

    /// The path at which to serve the control socket, see [`crate::control`]. At most [`MAX_SOCKET_PATH`] bytes.
    pub fn control_socket(&self) -> &Path {
        &self.socket
    }

    fn open_with(path: &Path, runtime: &Path) -> Result<Self, DataDirError> {
        let failed = |action| {
            move |source| DataDirError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("create the data directory"))?;
        let root = path
            .canonicalize()
            .map_err(failed("resolve the data directory"))?;
        let mode = fs::metadata(&root)
            .map_err(failed("read its mode"))?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o022 != 0 {
            return Err(DataDirError::Exposed { path: root, mode });
        }
        let lock = lock(&root)?;
        let owner = lock.metadata().map_err(failed("read the owner"))?.uid();
        let socket = place_socket(&root, runtime, owner)?;
        Ok(Self {
            root,
            socket,
            _lock: lock,
        })
    }
}

/// Where the agent that has `data_dir` serves its control socket; for its clients, which do not take the directory.
///
/// Says nothing about whether an agent runs: connecting does. A directory that does not exist gives the path that it would have.
pub fn control_socket_of(data_dir: &Path) -> Result<PathBuf, DataDirError> {
    let root = data_dir
        .canonicalize()
        .unwrap_or_else(|_| data_dir.to_owned());
    let direct = root.join(SOCKET_NAME);
    if fits(&direct) {
        return Ok(direct);
    }
    let pointer = root.join(POINTER_NAME);
    let mut text = Vec::new();
    match File::open(&pointer).and_then(|file| file.take(4096).read_to_end(&mut text)) {
        Ok(_) => Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&text))),
        // No agent has run here: the plain path makes the clearest "not running".
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(direct),
        Err(source) => Err(DataDirError::Io {
            path: pointer,
            action: "read where the control socket is",
            source,
        }),
    }
}

fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("lock");
    let failed = |action| {
        let path = path.clone();
        move |source| DataDirError::Io {
            path,
            action,
            source,
        }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(DataDirError::InUse {
                path: root.to_owned(),
                holder: holder(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock the lock file")(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write the lock file"))?;
    Ok(file)
}

/// Who has the lock. The pid is told only where the file holds nothing but a number: the holder may be just writing it.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let pid = file
        .take(32)
        .read_to_string(&mut text)
        .ok()
        .and_then(|_| text.trim().parse::<u32>().ok());
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

fn place_socket(root: &Path, runtime: &Path, owner: u32) -> Result<PathBuf, DataDirError> {
    let direct = root.join(SOCKET_NAME);
    let pointer = root.join(POINTER_NAME);
    if fits(&direct) {
        return Ok(direct);
    }
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let name = hex::encode(&digest[..8]);
    let folder = runtime.join(format!("beacon-{name}"));
    let socket = folder.join(SOCKET_NAME);
    if !fits(&socket) {
        let got = socket.as_os_str().len();
        return Err(DataDirError::SocketPath { path: socket, got });
    }
    let failed = |path: &Path, action| {
        let path = path.to_owned();
        move |source| DataDirError::Io {
            path,
            action,
            source,
        }
    };
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(&folder, "create the socket directory")(source));
        }
        _ => {}
    }
    // Anyone may create names in a temporary folder, so it is the result that is judged. `symlink_metadata`: a link does not count.
    let found =
        fs::symlink_metadata(&folder).map_err(failed(&folder, "read the socket directory"))?;
    if !found.is_dir() || found.uid() != owner || found.permissions().mode() & 0o077 != 0 {
        return Err(DataDirError::ForeignSocketDir { path: folder });
    }
    fs::write(&pointer, socket.as_os_str().as_bytes())
        .map_err(failed(&pointer, "write where the control socket is"))?;
    tracing::info!(
        socket = %socket.display(),
        "the data directory's path is too long for a socket, so the control socket is elsewhere"
    );
    Ok(socket)
}

fn fits(socket: &Path) -> bool {
    socket.as_os_str().len() <= MAX_SOCKET_PATH
}

/// `XDG_RUNTIME_DIR` (mode 0700 by its specification, removed at logout) or the temporary folder.
fn runtime_dir() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.is_dir())
        .unwrap_or_else(std::env::temp_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A folder whose path alone exceeds a socket's.
    fn long(base: &Path) -> PathBuf {
        base.join("d".repeat(MAX_SOCKET_PATH))
    }

    #[test]
    fn a_new_directory_is_private_and_gives_its_paths() {
        let base = tempfile::tempdir().unwrap();
        let wanted = base.path().join("a/b");
        let dir = DataDir::open(&wanted).unwrap();
        let root = wanted.canonicalize().unwrap();
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("lock")), 0o600);
        assert_eq!(dir.path(), root);
        assert_eq!(dir.seed_file(), root.join("seed"));
        assert_eq!(dir.state_file(), root.join("state.redb"));
        assert_eq!(dir.control_socket(), root.join("control.sock"));
        assert_eq!(control_socket_of(&wanted).unwrap(), dir.control_socket());
    }

    #[test]
    fn a_second_opener_is_told_the_pid_and_gets_it_after_the_first() {
        let base = tempfile::tempdir().unwrap();
        let first = DataDir::open(base.path()).unwrap();
        let error = DataDir::open(base.path()).unwrap_err();
        assert!(matches!(error, DataDirError::InUse { .. }), "{error}");
        let pid = format!("process {}:", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        drop(first);
        DataDir::open(base.path()).unwrap();
    }

    #[test]
    fn a_leftover_lock_file_of_a_dead_process_does_not_block() {
        let base = tempfile::tempdir().unwrap();
        fs::write(
            base.path().join("lock"),
            "4294967295 and more text than the next pid has\n",
        )
        .unwrap();
        let _dir = DataDir::open(base.path()).unwrap();
        let text = fs::read_to_string(base.path().join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_holder_that_has_not_told_its_pid_is_another_process() {
        let base = tempfile::tempdir().unwrap();
        let silent = File::create(base.path().join("lock")).unwrap();
        silent.lock().unwrap();
        let error = DataDir::open(base.path()).unwrap_err();
        assert!(
            error.to_string().contains("in use by another process"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = DataDir::open(base.path()).unwrap_err();
        assert!(
            matches!(error, DataDirError::Exposed { mode: 0o777, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_file_in_the_way_is_an_error_that_names_it() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(
            error.to_string().starts_with(&path.display().to_string()),
            "{error}"
        );
    }

    #[test]
    fn a_long_path_moves_the_socket_and_clients_find_it() {
        let base = tempfile::tempdir().unwrap();
        let runtime = tempfile::tempdir().unwrap();
        let path = long(base.path());
        let dir = DataDir::open_with(&path, runtime.path()).unwrap();
        assert!(dir.control_socket().starts_with(runtime.path()));
        assert!(fits(dir.control_socket()));
        assert_eq!(mode(dir.control_socket().parent().unwrap()), 0o700);
        assert_eq!(control_socket_of(&path).unwrap(), dir.control_socket());
        let other = DataDir::open_with(&path.join("other"), runtime.path()).unwrap();
        assert_ne!(other.control_socket(), dir.control_socket());
        let socket = dir.control_socket().to_owned();
        drop(dir);
        let again = DataDir::open_with(&path, runtime.path()).unwrap();
        assert_eq!(again.control_socket(), socket);
    }

    #[test]
    fn a_socket_directory_that_is_not_ours_alone_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let runtime = tempfile::tempdir().unwrap();
        let path = long(base.path());
        let folder = {
            let dir = DataDir::open_with(&path, runtime.path()).unwrap();
            dir.control_socket().parent().unwrap().to_owned()
        };
        let root = path.canonicalize().unwrap();
        let stranger = fs::metadata(&folder).unwrap().uid() + 1;
        let error = place_socket(&root, runtime.path(), stranger).unwrap_err();
        assert!(
            matches!(error, DataDirError::ForeignSocketDir { .. }),
            "{error}"
        );
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let error = DataDir::open_with(&path, runtime.path()).unwrap_err();
        assert!(
            matches!(error, DataDirError::ForeignSocketDir { .. }),
            "{error}"
        );
        fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink(base.path(), &folder).unwrap();
        let error = DataDir::open_with(&path, runtime.path()).unwrap_err();
        assert!(
            matches!(error, DataDirError::ForeignSocketDir { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_runtime_directory_that_is_too_long_as_well_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        let path = long(base.path());
        let error = DataDir::open_with(&path, &long(Path::new("/tmp"))).unwrap_err();
        assert!(
            matches!(error, DataDirError::SocketPath { got, .. } if got > MAX_SOCKET_PATH),
            "{error}"
        );
    }

    #[test]
    fn a_client_of_a_directory_without_an_agent_gets_the_plain_path() {
        let base = tempfile::tempdir().unwrap();
        let path = long(base.path());
        assert_eq!(control_socket_of(&path).unwrap(), path.join("control.sock"));
    }
}
