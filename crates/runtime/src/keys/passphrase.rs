//! The passphrase that protects an agent's keys at rest: where it comes from, and what it must be.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use zeroize::Zeroizing;

use super::file::{PrivateFault, read_private};
use crate::cli::variable;

/// Bytes of a passphrase, at most.
const MAX_BYTES: usize = 1024;
/// Characters of a new passphrase, at least. An existing file is opened with whatever it was made with.
const MIN_NEW_CHARS: usize = 8;

/// One line of text that opens the file of the keys. Wiped when it is dropped; never shown, copied or written.
pub struct Passphrase(Zeroizing<String>);

/// Asks at a terminal, without showing what is typed.
type Ask = fn(prompt: &str) -> io::Result<Zeroizing<String>>;

/// Where a passphrase may come from: a file, an environment variable, a person at a terminal; the first one that there is.
pub struct Unlock {
    source: Option<Source>,
    ask: Option<Ask>,
    unencrypted: bool,
    /// Name of the environment variable, for messages.
    variable: String,
}

enum Source {
    File(PathBuf),
    Variable(Zeroizing<String>),
}

/// Why there is no passphrase to use. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The passphrase file cannot be used.
    #[error("passphrase file {path}: {fault}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: PrivateFault,
    },
    /// Nothing, several lines, something else than text, or too much of it.
    #[error("{place}: got {got}, expected a passphrase of one line and 1 to {MAX_BYTES} bytes")]
    Unusable {
        /// Where it came from.
        place: String,
        /// What was found, without any part of it.
        got: &'static str,
    },
    /// The terminal failed.
    #[error("cannot ask for the passphrase at the terminal: {0}")]
    Terminal(io::Error),
    /// There are encrypted keys, and nobody to open them.
    #[error("seed file {path} is encrypted and no passphrase was given: start at a terminal, or give --passphrase-file or {variable}", path = path.display())]
    Locked {
        /// The seed file.
        path: PathBuf,
        /// Name of the environment variable.
        variable: String,
    },
    /// New keys would lie on the disk for everybody to read who gets the file.
    #[error(
        "keys need a passphrase: start at a terminal, or give --passphrase-file or {variable}; --unencrypted-keys does without"
    )]
    Needed {
        /// Name of the environment variable.
        variable: String,
    },
    /// Too easy to guess.
    #[error("got a new passphrase of {got} characters, expected at least {MIN_NEW_CHARS}")]
    Short {
        /// Its length.
        got: usize,
    },
    /// A slip of the fingers would lock the keys away.
    #[error("got two different passphrases, expected the same one twice")]
    Different,
    /// One of the two is a mistake.
    #[error("got both a passphrase and --unencrypted-keys, expected one of them")]
    Both,
}

impl Passphrase {
    fn new(
        text: Zeroizing<String>,
        place: impl FnOnce() -> String,
    ) -> Result<Self, PassphraseError> {
        let got = match text.as_str() {
            "" => "nothing",
            text if text.len() > MAX_BYTES => "more",
            text if text.contains(['\n', '\r', '\0']) => "several lines",
            _ => return Ok(Self(text)),
        };
        let place = place();
        Err(PassphraseError::Unusable { place, got })
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl Unlock {
    /// What the command line, the environment and the configuration file of this agent offer. A file that a flag or the
    /// environment names goes first, then the variable `<AGENT>_PASSPHRASE`, then a file that the configuration names.
    pub fn new(
        agent: &str,
        flag: Option<PathBuf>,
        configured: Option<PathBuf>,
        unencrypted: bool,
    ) -> Result<Self, PassphraseError> {
        let variable = variable(agent, "passphrase");
        let from_environment = || match env::var(&variable) {
            Ok(text) if !text.is_empty() => Ok(Some(Source::Variable(Zeroizing::new(text)))),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(PassphraseError::Unusable {
                place: variable.clone(),
                got: "something else than text",
            }),
        };
        let source = match flag {
            Some(path) => Some(Source::File(path)),
            None => from_environment()?.or(configured.map(Source::File)),
        };
        Ok(Self {
            source,
            ask: at_terminal(),
            unencrypted,
            variable,
        })
    }

    /// For keys that are not encrypted, by decision: opens such files and makes them.
    pub fn unencrypted() -> Self {
        Self {
            source: None,
            ask: None,
            unencrypted: true,
            variable: "a passphrase".to_owned(),
        }
    }

    /// The same terminal, but another file: for the passphrase that takes the place of this one.
    #[must_use]
    pub fn another(&self, file: Option<PathBuf>) -> Self {
        Self {
            source: file.map(Source::File),
            ask: self.ask,
            unencrypted: false,
            variable: "--new-passphrase-file".to_owned(),
        }
    }

    /// The same, for a file that shall be encrypted whatever the configuration says of new ones.
    #[must_use]
    pub fn encrypted(self) -> Self {
        Self {
            unencrypted: false,
            ..self
        }
    }

    /// Whether the user has said that keys shall not be encrypted.
    pub fn is_unencrypted(&self) -> bool {
        self.unencrypted
    }

    /// Whether [`Unlock::for_new`] has something to begin with, so that nothing is touched where it has not.
    pub fn check_new(&self) -> Result<(), PassphraseError> {
        match (&self.source, self.ask) {
            (Some(_), _) if self.unencrypted => Err(PassphraseError::Both),
            (None, None) if !self.unencrypted => Err(PassphraseError::Needed {
                variable: self.variable.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The passphrase for a file that is encrypted.
    pub(super) fn to_open(&self, file: &Path) -> Result<Passphrase, PassphraseError> {
        match (self.given()?, self.ask) {
            (Some(passphrase), _) => Ok(passphrase),
            (None, Some(ask)) => typed(ask, &format!("Passphrase for {}: ", file.display())),
            (None, None) => Err(PassphraseError::Locked {
                path: file.to_owned(),
                variable: self.variable.clone(),
            }),
        }
    }

    /// The passphrase for a file to be made; none where the user wants none. Asked for twice.
    pub fn for_new(&self) -> Result<Option<Passphrase>, PassphraseError> {
        self.check_new()?;
        let passphrase = match (self.given()?, self.ask) {
            _ if self.unencrypted => return Ok(None),
            (Some(passphrase), _) => passphrase,
            (None, Some(ask)) => {
                let first = typed(ask, "New passphrase for the agent's keys: ")?;
                let again = typed(ask, "The same again: ")?;
                if *first.0 != *again.0 {
                    return Err(PassphraseError::Different);
                }
                first
            }
            (None, None) => return Ok(None), // `check_new` has said no.
        };
        let got = passphrase.0.chars().count();
        if got < MIN_NEW_CHARS {
            return Err(PassphraseError::Short { got });
        }
        Ok(Some(passphrase))
    }

    fn given(&self) -> Result<Option<Passphrase>, PassphraseError> {
        match &self.source {
            None => Ok(None),
            Some(Source::Variable(text)) => {
                Passphrase::new(text.clone(), || self.variable.clone()).map(Some)
            }
            Some(Source::File(path)) => in_file(path).map(Some),
        }
    }
}

/// The only line of a file that nobody else can read.
fn in_file(path: &Path) -> Result<Passphrase, PassphraseError> {
    let failed = |fault| PassphraseError::File {
        path: path.to_owned(),
        fault,
    };
    let place = || format!("passphrase file {}", path.display());
    // With the end of the line, which belongs to the file and not to the passphrase.
    let bytes = read_private(path, MAX_BYTES + 2).map_err(failed)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(line) => Passphrase::new(Zeroizing::new(line.to_owned()), place),
        Err(_) => Err(PassphraseError::Unusable {
            place: place(),
            got: "something else than text",
        }),
    }
}

fn typed(ask: Ask, prompt: &str) -> Result<Passphrase, PassphraseError> {
    let text = ask(prompt).map_err(PassphraseError::Terminal)?;
    Passphrase::new(text, || "terminal".to_owned())
}

/// Only where somebody can be expected to see the question: a background process with a terminal must not wait for an
/// answer that nobody gives.
pub(super) fn at_terminal() -> Option<Ask> {
    let watched = io::stdin().is_terminal() && io::stderr().is_terminal();
    watched.then_some(|prompt| rpassword::prompt_password(prompt).map(Zeroizing::new))
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            None => "none",
            Some(Source::File(_)) => "file",
            Some(Source::Variable(_)) => "variable",
        };
        f.debug_struct("Unlock")
            .field("source", &source)
            .field("terminal", &self.ask.is_some())
            .field("unencrypted", &self.unencrypted)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
