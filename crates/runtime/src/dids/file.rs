//! Files that are written once and never changed, and read with care.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::records::{Fault, RecordError};
use crate::keys::write_new;

/// What names of unfinished files begin with. Names that begin with a dot are nobody's record.
const STAGED: &str = ".new-";

/// Writes a file that does not exist, so that after this, and whatever happens meanwhile, it is there as a whole or not at
/// all. One with the same content may be there already; one with another content is an error.
pub(super) fn write_once(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    let failed = |action| io_error(path, action);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed("write it")(io::ErrorKind::InvalidFilename.into()));
    };
    make_folder(folder)?;
    if let Some(there) = read(path, content.len())? {
        if there != content {
            return Err(RecordError::Differs { path: path.into() });
        }
        // A crash may have come between its new name and the sync.
        return sync(folder).map_err(failed("sync its directory"));
    }
    let mut staged = std::ffi::OsString::from(STAGED);
    staged.push(name);
    let staged = folder.join(staged);
    // The rest of an attempt that did not get to its end.
    remove(&staged).map_err(failed("remove what is left of an earlier attempt"))?;
    let written = write_new(&staged, content).and_then(|()| fs::rename(&staged, path));
    if let Err(source) = written {
        // Half a file is of no use; where it cannot be removed, the next attempt does.
        let _ = remove(&staged);
        return Err(failed("write it")(source));
    }
    sync(folder).map_err(failed("sync its directory"))
}

/// The content of a file; nothing where there is none. Not more than `max` bytes of it are looked at.
pub(super) fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>, RecordError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, "look at it")(source)),
        // A link may lead anywhere, and a pipe has no end.
        Ok(found) if !found.is_file() => {
            return Err(Fault::Foreign("a regular file").at(path));
        }
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max as u64 + 1).read_to_end(&mut bytes))
        .map_err(io_error(path, "read it"))?;
    if bytes.len() > max {
        return Err(Fault::TooLarge { max }.at(path));
    }
    Ok(Some(bytes))
}

/// The names in a folder in their order; none where there is no folder. Fails where there are more than `max`.
pub(super) fn names(folder: &Path, max: usize) -> Result<Vec<PathBuf>, RecordError> {
    let failed = || io_error(folder, "list it");
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed())?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if names.len() == max {
            return Err(RecordError::TooMany {
                path: folder.into(),
                max,
            });
        }
        names.push(PathBuf::from(name));
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes a folder for its owner alone, and those above it.
fn make_folder(folder: &Path) -> Result<(), RecordError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
        let made = DirBuilder::new().mode(0o700).create(folder);
        made.and_then(|()| sync(above))
            .map_err(io_error(folder, "make it"))?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A new name is only there after a crash when its directory is on the disk too.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::Io {
        path,
        action,
        source,
    }
}
