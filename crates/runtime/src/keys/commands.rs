//! The commands `keys …` of both agents: how the seed is protected, its way into a backup and back.

use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::file::{MAX_BYTES, parse, read_limited, read_private, sync_directory_of, write_new};
use super::passphrase::at_terminal;
use super::{KeyError, SeedFile, Unlock};
use crate::agent::Agent;
use crate::app::{self, Home};
use crate::cli::{Failure, Global, print_line};
use crate::data_dir::{DataDir, SEED_FILE};
use crate::settings::{Config, Options};

/// What a backup needs besides the keys, and what no backup can have.
const BACKUP: &str = "the keys alone are not a backup: copy state.redb too, after each signal, while the agent is stopped, \
and a participant's folder dids, after each change. They have the memberships, the announced updates and the proofs. Leaf \
nonces follow from the keys, but proofs come back only from a coordinator that still has its trees, and updates from \
nowhere. Secret nonces are in no backup, since they never leave memory. Never run two agents with the same keys";

/// Commands about the agent's keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// List the keys by path and purpose, with what is public of them; no secrets
    List,
    /// Encrypt the keys with a passphrase, while the agent is stopped
    Encrypt,
    /// Take the passphrase off the keys, while the agent is stopped; needs --unencrypted-keys
    Decrypt,
    /// Change the passphrase, while the agent is stopped
    Passphrase {
        /// File with the new passphrase, open to you alone; asked for at a terminal without it
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Write the keys for a backup
    Export {
        /// In which form
        #[arg(long = "as", value_enum, default_value_t = Form::Age)]
        form: Form,
        /// File to make; standard output without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Put keys from a backup into a data directory that has none
    Import {
        /// File with the 24 words or with an age file, - for standard input; words are asked for at a terminal without it
        file: Option<PathBuf>,
    },
}

/// What an export looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// An age file, which the passphrase opens
    Age,
    /// The 24 words themselves
    Phrase,
}

impl Global {
    /// Carries out one of these commands for the agent of this name.
    pub async fn keys<A: Agent>(
        &self,
        name: &str,
        command: KeysCommand,
        role: impl FnOnce(&Home, &Config) -> Result<(A, A::Machine), KeyError>,
    ) -> Result<(), Failure> {
        if matches!(command, KeysCommand::List) {
            return self.list(name, role).await;
        }
        let path = self.data_dir(name)?;
        let config = self.config(name, Options::default(), &path)?;
        let unlock = self.unlock(name, &config)?;
        // On a thread that may wait: for a person, and for scrypt.
        let act = move || command.carry_out(&path, unlock);
        match tokio::task::spawn_blocking(act).await?? {
            Some(answer) => self.print(&answer),
            None => Ok(()),
        }
    }

    /// As the running agent has them; while it does not run, as its log does.
    async fn list<A: Agent>(
        &self,
        name: &str,
        role: impl FnOnce(&Home, &Config) -> Result<(A, A::Machine), KeyError>,
    ) -> Result<(), Failure> {
        let path = self.data_dir(name)?;
        existing(&path)?;
        let keys = self.ask_or_replay(name, "keys", Value::Null, role).await?;
        let file = SeedFile::new(path.join(SEED_FILE));
        self.print(&json!({
            "seed_file": file.path(),
            "encrypted": file.is_encrypted()?,
            "keys": keys,
        }))
    }
}

impl KeysCommand {
    fn carry_out(self, home: &Path, unlock: Unlock) -> Result<Option<Value>, Failure> {
        match self {
            Self::List => Ok(None),
            Self::Encrypt => {
                let (_lock, file) = take(home)?;
                if file.is_encrypted()? {
                    return Err(anyhow!(
                        "{} is encrypted already: `keys passphrase` changes its passphrase",
                        file.path().display()
                    )
                    .into());
                }
                let unlock = unlock.encrypted();
                let seed = file.load(&unlock)?;
                protect(&file, &seed, &unlock).map(Some)
            }
            Self::Decrypt => {
                if !unlock.is_unencrypted() {
                    return Err(Failure::usage(anyhow!(
                        "got no --unencrypted-keys: without a passphrase, whoever reads the seed file has all keys"
                    )));
                }
                let (_lock, file) = take(home)?;
                let seed = file.load(&unlock)?;
                file.replace(&seed, None)?;
                Ok(Some(protection(&file)?))
            }
            Self::Passphrase {
                new_passphrase_file,
            } => {
                let (_lock, file) = take(home)?;
                if !file.is_encrypted()? {
                    return Err(anyhow!(
                        "{} is not encrypted: `keys encrypt` does that",
                        file.path().display()
                    )
                    .into());
                }
                let seed = file.load(&unlock)?;
                protect(&file, &seed, &unlock.another(new_passphrase_file)).map(Some)
            }
            Self::Export { form, out, yes } => export(home, unlock, form, out.as_deref(), yes),
            Self::Import { file } => import(home, &unlock, file.as_deref()).map(Some),
        }
    }
}

/// The seed file of a home that nobody else uses meanwhile.
fn take(home: &Path) -> Result<(DataDir, SeedFile), Failure> {
    existing(home)?;
    let lock = DataDir::open(home)?;
    let file = SeedFile::new(lock.seed_file());
    file.clear_leftover()?;
    Ok((lock, file))
}

/// Commands about keys make none.
fn existing(home: &Path) -> Result<(), Failure> {
    let file = home.join(SEED_FILE);
    if file.try_exists()? {
        return Ok(());
    }
    Err(anyhow!(
        "there are no keys at {}: `run` makes new ones, `keys import` takes those of a backup",
        file.display()
    )
    .into())
}

fn protect(file: &SeedFile, seed: &super::Seed, unlock: &Unlock) -> Result<Value, Failure> {
    let passphrase = unlock.for_new().map_err(KeyError::from)?;
    file.replace(seed, passphrase.as_ref())?;
    let mut answer = protection(file)?;
    answer["note"] = "older copies of the file, and what the disk keeps of it, still open as they did; exports and backups \
made before are not changed"
        .into();
    Ok(answer)
}

fn protection(file: &SeedFile) -> Result<Value, KeyError> {
    Ok(json!({ "seed_file": file.path(), "encrypted": file.is_encrypted()? }))
}

/// Writes the keys, after a word about what that means. Nothing for `print`: standard output has the keys alone.
fn export(
    home: &Path,
    unlock: Unlock,
    form: Form,
    out: Option<&Path>,
    yes: bool,
) -> Result<Option<Value>, Failure> {
    existing(home)?;
    let file = SeedFile::new(home.join(SEED_FILE));
    let what = match form {
        Form::Age => {
            "all keys of this agent, encrypted: whoever has the passphrase too can use them"
        }
        Form::Phrase => {
            "the 24 words of this agent: whoever sees them has all its keys, without any passphrase"
        }
    };
    confirm(what, yes)?;
    let encrypted = file.is_encrypted()?;
    // Also where the file is copied as it is: an export that nobody can open is none.
    let seed = file.load(&unlock)?;
    let content = match form {
        Form::Phrase => Zeroizing::new(seed.line().as_bytes().to_vec()),
        Form::Age if encrypted => file.read()?,
        Form::Age => {
            let passphrase = unlock.encrypted().for_new().map_err(KeyError::from)?;
            let passphrase = passphrase.context("an export is encrypted")?;
            Zeroizing::new(file.encrypt(&seed, &passphrase)?.into_bytes())
        }
    };
    match out {
        None => {
            let text =
                std::str::from_utf8(&content).context("an age file that is no text: use --out")?;
            print_line(text.trim_end())?;
            Ok(None)
        }
        Some(path) => {
            write_new(path, &content)
                .and_then(|()| sync_directory_of(path))
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Some(json!({ "file": path })))
        }
    }
}

/// Says what is about to be written, and asks a person; anybody else must have said yes before.
fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    let mut err = io::stderr().lock();
    if yes {
        writeln!(err, "this writes {what}; {BACKUP}")?;
        return Ok(());
    }
    if at_terminal().is_none() {
        return Err(Failure::usage(anyhow!(
            "got neither a terminal nor --yes: this writes {what}"
        )));
    }
    write!(err, "This writes {what}.\n{BACKUP}.\nType yes to go on: ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(anyhow!("nothing was written").into())
}

fn import(home: &Path, unlock: &Unlock, from: Option<&Path>) -> Result<Value, Failure> {
    unlock.check_new().map_err(KeyError::from)?;
    let (place, bytes) = match from {
        None => ("terminal", typed_words()?),
        Some(path) if path == Path::new("-") => {
            let bytes = read_limited(io::stdin().lock(), MAX_BYTES)
                .context("cannot read standard input")
                .map_err(Failure::usage)?;
            let bytes = bytes.with_context(|| format!("got more than {MAX_BYTES} bytes"));
            ("standard input", bytes.map_err(Failure::usage)?)
        }
        Some(path) => {
            let bytes = read_private(path, MAX_BYTES)
                .with_context(|| path.display().to_string())
                .map_err(Failure::usage)?;
            ("", bytes)
        }
    };
    let place = from
        .filter(|_| place.is_empty())
        .unwrap_or(Path::new(place));
    let seed = parse(place, &bytes, unlock).map_err(|error| {
        let place = place.display();
        match error {
            KeyError::Malformed { fault, .. } => Failure::usage(anyhow!("{place}: {fault}")),
            KeyError::Damaged { fault, .. } => Failure::usage(anyhow!("{place}: {fault}")),
            other => other.into(),
        }
    })?;
    app::import_seed(home, &seed, unlock)?;
    let mut answer = protection(&SeedFile::new(home.join(SEED_FILE)))?;
    answer["note"] = "these are the keys; memberships and proofs are in state.redb, DIDs and updates in dids: put the newest \
copies of them beside the keys before the agent is started"
        .into();
    Ok(answer)
}

/// From a person who must not show them.
fn typed_words() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let ask = at_terminal().ok_or_else(|| {
        Failure::usage(anyhow!(
            "got neither a file nor a terminal: name a file with the 24 words or an age file, or - for standard input"
        ))
    })?;
    let words =
        ask("The 24 words, which are not shown: ").context("cannot read from the terminal")?;
    Ok(Zeroizing::new(words.as_bytes().to_vec()))
}
