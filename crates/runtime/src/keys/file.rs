//! The file of an agent's seed: 24 words, in an age file that a passphrase opens, or as they are.
//!
//! The file is replaced as a whole: the new one is written and synced under another name, then renamed. A crash leaves the
//! old one or the new one, never a part. Whoever writes holds the lock of the data directory, see [`crate::data_dir`].
//!
//! The format is age's (<https://age-encryption.org/v1>) with a passphrase, so `age --decrypt seed` prints the words
//! where this program is not at hand (ADR 0011).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::iter;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use age::armor::ArmoredReader;
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, scrypt};
use zeroize::Zeroizing;

use super::{KeyError, Passphrase, PhraseFault, Seed, Unlock};

/// scrypt's cost is 2^17: 128 MiB, and 0.4 s on the two-core machine of the development. It is paid once for each start.
const WORK_FACTOR: u8 = 17;
/// The most that is done for a file from elsewhere: 2^20, that is 1 GiB and some seconds.
const MAX_WORK_FACTOR: u8 = 20;
/// The encrypted words are 600 bytes; anything far beyond is not a seed file.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// 24 words of at most 8 letters and their separators are 216 bytes.
const MAX_PHRASE_BYTES: usize = 1024;

/// Why a file that must be private cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFault {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody else on this machine can read it.
    #[error("got mode {0:04o}, expected 0600 (not open to group or others): run `chmod 600` on it")]
    Exposed(u32),
    /// Not what it should be.
    #[error("got more than {0} bytes")]
    TooLarge(usize),
}

/// Why an encrypted file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgeFault {
    /// Cut off, or not in the format.
    #[error("it is not a whole age file")]
    NotWhole,
    /// Something was changed after it was made.
    #[error("its content was altered")]
    Altered,
    /// Made for a key instead of a passphrase.
    #[error("it is encrypted to a key, expected a passphrase")]
    NotPassphrase,
    /// Opening it would take very long.
    #[error("it has work factor {0}, expected at most {MAX_WORK_FACTOR}")]
    Work(u8),
}

/// The place of a seed. Nothing is read or written before one of its functions is called.
#[derive(Debug)]
pub struct SeedFile {
    path: PathBuf,
    work_factor: u8,
}

/// A new file beside the old one, complete and on the disk, that has not taken its place yet.
struct Staged<'a> {
    staged: PathBuf,
    path: &'a Path,
}

impl SeedFile {
    /// The seed file at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            work_factor: WORK_FACTOR,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one.
    pub fn exists(&self) -> Result<bool, KeyError> {
        self.path.try_exists().map_err(|source| self.io(source))
    }

    /// Whether it is encrypted; the name of a format that nobody can read is judged when it is opened.
    pub fn is_encrypted(&self) -> Result<bool, KeyError> {
        Ok(looks_encrypted(&self.read()?))
    }

    /// The file as it is, for a copy of it.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let metadata = fs::metadata(&self.path).map_err(|source| self.io(source))?;
        if !metadata.is_file() {
            return Err(self.malformed(PhraseFault::NotText));
        }
        read_private(&self.path, MAX_BYTES).map_err(|fault| match fault {
            PrivateFault::Io(source) => self.io(source),
            PrivateFault::Exposed(mode) => KeyError::Exposed {
                path: self.path.clone(),
                mode,
            },
            PrivateFault::TooLarge(_) => self.malformed(PhraseFault::NotText),
        })
    }

    /// The seed. Refuses a file that others can read; warns of one that is not encrypted.
    pub fn load(&self, unlock: &Unlock) -> Result<Seed, KeyError> {
        let bytes = self.read()?;
        if !looks_encrypted(&bytes) {
            self.warn();
        }
        parse(&self.path, &bytes, unlock)
    }

    /// The seed, made now if there is none: an agent's first start and every later one.
    pub fn load_or_create(&self, unlock: &Unlock) -> Result<Seed, KeyError> {
        if self.exists()? {
            return self.load(unlock);
        }
        let passphrase = unlock.for_new()?;
        let seed = Seed::generate()?;
        self.create(&seed, passphrase.as_ref())?;
        if passphrase.is_none() {
            self.warn();
        }
        Ok(seed)
    }

    /// Writes a seed where there is none. Encrypted, unless there is no passphrase. On the disk when this returns.
    pub fn create(&self, seed: &Seed, passphrase: Option<&Passphrase>) -> Result<(), KeyError> {
        if self.exists()? {
            return Err(KeyError::Exists {
                path: self.path.clone(),
            });
        }
        self.replace(seed, passphrase)
    }

    /// Writes a seed in the place of what is there: the same seed, otherwise protected.
    pub fn replace(&self, seed: &Seed, passphrase: Option<&Passphrase>) -> Result<(), KeyError> {
        let staged = self.stage(seed, passphrase)?;
        staged.commit().map_err(|source| self.io(source))
    }

    /// The words as an age file of text.
    pub fn encrypt(&self, seed: &Seed, passphrase: &Passphrase) -> Result<String, KeyError> {
        let mut recipient = scrypt::Recipient::new(secret(passphrase));
        recipient.set_work_factor(self.work_factor);
        age::encrypt_and_armor(&recipient, seed.line().as_bytes()).map_err(|error| match error {
            age::EncryptError::Io(source) => self.io(source),
            other => self.io(io::Error::other(other)),
        })
    }

    /// Removes what a crash has left of a file that was not finished. Nobody uses a key of it.
    pub fn clear_leftover(&self) -> Result<(), KeyError> {
        match fs::remove_file(self.staging_path()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.io(source)),
            _ => Ok(()),
        }
    }

    fn stage(&self, seed: &Seed, passphrase: Option<&Passphrase>) -> Result<Staged<'_>, KeyError> {
        let content = match passphrase {
            Some(passphrase) => Zeroizing::new(self.encrypt(seed, passphrase)?),
            None => seed.line(),
        };
        self.clear_leftover()?;
        let staged = self.staging_path();
        if let Err(source) = write_new(&staged, content.as_bytes()) {
            // Half a file is of no use, and the words may be in it.
            let _ = fs::remove_file(&staged);
            return Err(self.io(source));
        }
        Ok(Staged {
            staged,
            path: &self.path,
        })
    }

    fn staging_path(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    fn warn(&self) {
        tracing::warn!(
            file = %self.path.display(),
            "the keys are not encrypted: whoever reads this file has them all; `keys encrypt` changes that"
        );
    }

    fn io(&self, source: io::Error) -> KeyError {
        KeyError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn malformed(&self, fault: PhraseFault) -> KeyError {
        KeyError::Malformed {
            path: self.path.clone(),
            fault,
        }
    }
}

impl Staged<'_> {
    fn commit(self) -> io::Result<()> {
        fs::rename(&self.staged, self.path)?;
        sync_directory_of(self.path)
    }
}

/// The seed in the bytes of a file: words, or an age file of words. `path` is named in errors.
pub(super) fn parse(path: &Path, bytes: &[u8], unlock: &Unlock) -> Result<Seed, KeyError> {
    let malformed = |fault| KeyError::Malformed {
        path: path.to_owned(),
        fault,
    };
    let opened;
    let phrase = if looks_encrypted(bytes) {
        let passphrase = unlock.to_open(path)?;
        opened = decrypt(bytes, &passphrase).map_err(|error| match error {
            Opening::WrongPassphrase => KeyError::WrongPassphrase {
                path: path.to_owned(),
            },
            Opening::Damaged(fault) => KeyError::Damaged {
                path: path.to_owned(),
                fault,
            },
        })?;
        &opened
    } else {
        bytes
    };
    match phrase {
        [] => Err(malformed(PhraseFault::Empty)),
        long if long.len() > MAX_PHRASE_BYTES => Err(malformed(PhraseFault::NotText)),
        short => {
            let text = std::str::from_utf8(short).map_err(|_| malformed(PhraseFault::NotText))?;
            Seed::from_phrase(text).map_err(malformed)
        }
    }
}

/// The content of a file that only its owner can read, if it is not longer than `max` bytes.
pub(super) fn read_private(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFault> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFault::Exposed(mode));
    }
    read_limited(file, max)?.ok_or(PrivateFault::TooLarge(max))
}

/// At most `max` bytes; nothing where there are more.
pub(super) fn read_limited(
    from: impl io::Read,
    max: usize,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // The capacity is there from the start: a growing vector would leave copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 64));
    from.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= max).then_some(bytes))
}

/// Writes a file that did not exist, for its owner alone, and syncs it.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

enum Opening {
    WrongPassphrase,
    Damaged(AgeFault),
}

impl From<DecryptError> for Opening {
    fn from(error: DecryptError) -> Self {
        match error {
            // What the passphrase leads to fits nothing: it is another one.
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
                Self::WrongPassphrase
            }
            DecryptError::ExcessiveWork { required, .. } => Self::Damaged(AgeFault::Work(required)),
            DecryptError::InvalidMac => Self::Damaged(AgeFault::Altered),
            DecryptError::NoMatchingKeys => Self::Damaged(AgeFault::NotPassphrase),
            DecryptError::InvalidHeader | DecryptError::Io(_) | DecryptError::UnknownFormat => {
                Self::Damaged(AgeFault::NotWhole)
            }
        }
    }
}

fn decrypt(bytes: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, Opening> {
    let mut identity = scrypt::Identity::new(secret(passphrase));
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let file = Decryptor::new_buffered(ArmoredReader::new(bytes))?;
    let words = file.decrypt(iter::once(&identity as &dyn age::Identity))?;
    // The header was made with this passphrase, so whatever is wrong from here on is damage.
    read_limited(words, MAX_PHRASE_BYTES)
        .map_err(|_| Opening::Damaged(AgeFault::Altered))?
        .ok_or(Opening::Damaged(AgeFault::Altered))
}

fn secret(passphrase: &Passphrase) -> SecretString {
    SecretString::from(passphrase.expose())
}

fn looks_encrypted(bytes: &[u8]) -> bool {
    bytes.starts_with(b"-----BEGIN AGE") || bytes.starts_with(b"age-encryption.org/")
}

/// A new name is only there after a crash when its directory is on the disk too.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests;
