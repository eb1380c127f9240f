//! From a configuration to a running agent, and to its identity while it does not run.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use beacon_cohort::machine::Machine;
use beacon_cohort::terms::BtcNetwork;
use beacon_didcomm::protocols::Disclosure;
use beacon_didcomm::{Endpoint, Identity, UnpackLimits};
use serde_json::json;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::control::ControlServer;
use crate::data_dir::{DataDir, SEED_FILE, STATE_FILE};
use crate::driver::{self, Driver, DriverConfig, Parts};
use crate::identities::Identities;
use crate::keys::{KeyError, Seed, SeedFile, Unlock};
use crate::settings::Config;
use crate::store::{Batch, RedbStore, Store, StoreLimits};
use crate::transport::Transport;
use crate::watcher::Watcher;

/// Metadata key under which the endpoint of the agent's DIDs is kept.
const ENDPOINT: &str = "endpoint";
/// Metadata key under which it is kept to which seed the memory belongs: the public DID of its first identity.
const SEED: &str = "seed";
/// Which endpoint the agent's DIDs announce.
#[derive(Clone, Debug)]
pub enum Choice {
    /// This one; it must be the one they had before.
    Configured(Endpoint),
    /// This one, whatever it was before.
    Change(Endpoint),
    /// The one they had before; this one the first time.
    Kept(Endpoint),
}

impl Choice {
    /// For commands that need the identities only: an endpoint that nobody configured is the one from before.
    pub fn of(configured: &Endpoint, change: bool) -> Self {
        let endpoint = configured.clone();
        match (change, configured) {
            (true, _) => Self::Change(endpoint),
            (false, Endpoint::Queue) => Self::Kept(endpoint),
            (false, _) => Self::Configured(endpoint),
        }
    }
}

/// An agent's home: its directory (locked), its memory and its identities.
#[expect(missing_debug_implementations, reason = "holds a seed and a store")]
pub struct Home {
    /// The directory. Others are kept out as long as this lives.
    pub data_dir: DataDir,
    /// Its memory.
    pub store: RedbStore,
    /// What its keys come from.
    pub seed: Arc<Seed>,
    /// Its identities.
    pub identities: Identities,
}

/// Opens an agent's home; the first time, its seed is made and its endpoint fixed. Takes its time: a passphrase may be
/// asked for, and then costs scrypt's work.
///
/// The endpoint is part of the DID, so a configuration that has changed is refused: every peer would see a stranger.
pub fn open(
    path: &Path,
    unlock: &Unlock,
    choice: Choice,
    limits: StoreLimits,
) -> anyhow::Result<Home> {
    let there = |name| path.join(name).try_exists().unwrap_or(true);
    if !there(SEED_FILE) && !there(STATE_FILE) {
        // Nothing is made where the keys cannot be.
        unlock.check_new().map_err(KeyError::from)?;
    }
    let data_dir = DataDir::open(path)?;
    let mut store = RedbStore::open(&data_dir.state_file(), limits)?;
    let seed = Arc::new(seed_of(&data_dir, &mut store, unlock)?);
    let kept = store.meta(ENDPOINT)?.map(String::from_utf8).transpose()?;
    // An endpoint that nobody has configured yet may still become another one.
    let fixed = !matches!(choice, Choice::Kept(_));
    let endpoint = match (kept, choice) {
        (Some(kept), Choice::Kept(_)) => kept.parse()?,
        (Some(kept), Choice::Configured(endpoint)) if kept != endpoint.to_string() => bail!(
            "this agent's DID announces {kept}, and the configuration says {endpoint}: a changed endpoint means a new DID, \
             so go back to the old one, or run `did --change-endpoint` with the new one"
        ),
        (_, Choice::Configured(endpoint) | Choice::Change(endpoint) | Choice::Kept(endpoint)) => {
            endpoint
        }
    };
    if fixed {
        let meta = vec![(ENDPOINT.to_owned(), endpoint.to_string().into_bytes())];
        store.commit(&Batch {
            meta,
            ..Batch::default()
        })?;
    }
    let identities = Identities::new(Arc::clone(&seed), endpoint);
    Ok(Home {
        data_dir,
        store,
        seed,
        identities,
    })
}

/// The agent's seed, made now if its memory is new. A memory without its seed, or with another one, is refused: its
/// memberships and identities would be gone without a word.
fn seed_of(data_dir: &DataDir, store: &mut RedbStore, unlock: &Unlock) -> anyhow::Result<Seed> {
    let file = SeedFile::new(data_dir.seed_file());
    file.clear_leftover()?;
    let known = store.meta(SEED)?;
    if known.is_some() && !file.exists()? {
        bail!(
            "{} is missing, and {} was made with it: put the seed back from your backup (`keys import`), or start with another --data-dir",
            file.path().display(),
            data_dir.state_file().display()
        );
    }
    let seed = file.load_or_create(unlock)?;
    if known.is_none() {
        store.commit(&Batch {
            meta: vec![(SEED.to_owned(), mark_of(&seed)?)],
            ..Batch::default()
        })?;
    }
    check_mark(&seed, &file, data_dir, known)?;
    Ok(seed)
}

/// Puts a seed into a home that has none: a new one, or one whose memory was made with it.
pub fn import_seed(path: &Path, seed: &Seed, unlock: &Unlock) -> anyhow::Result<()> {
    unlock.check_new().map_err(KeyError::from)?;
    let data_dir = DataDir::open(path)?;
    let file = SeedFile::new(data_dir.seed_file());
    if file.exists()? {
        return Err(KeyError::Exists {
            path: data_dir.seed_file(),
        }
        .into());
    }
    if data_dir.state_file().try_exists()? {
        let store = RedbStore::open(&data_dir.state_file(), StoreLimits::default())?;
        check_mark(seed, &file, &data_dir, store.meta(SEED)?)?;
    }
    let passphrase = unlock.for_new().map_err(KeyError::from)?;
    Ok(file.create(seed, passphrase.as_ref())?)
}

/// Refuses a seed that the home's memory was not made with.
fn check_mark(
    seed: &Seed,
    file: &SeedFile,
    data_dir: &DataDir,
    known: Option<Vec<u8>>,
) -> anyhow::Result<()> {
    let mark = mark_of(seed)?;
    if known.is_some_and(|known| known != mark) {
        bail!(
            "{} is not the seed with which {} was made: put the right one back from your backup",
            file.path().display(),
            data_dir.state_file().display()
        );
    }
    Ok(())
}

/// Public, and the same whatever the endpoint.
fn mark_of(seed: &Seed) -> anyhow::Result<Vec<u8>> {
    let secrets = seed.identity_secrets(0);
    let identity = Identity::new(&secrets.ed25519, &secrets.x25519, Endpoint::Queue)?;
    Ok(identity.did().to_string().into_bytes())
}

/// Runs an agent until it is told to stop by SIGTERM or SIGINT, or must stop by itself.
pub async fn run<A: Agent>(
    home: Home,
    config: &Config,
    agent: A,
    machine: A::Machine,
    as_json: bool,
) -> anyhow::Result<()>
where
    <A::Machine as Machine>::Command: Send,
{
    let Home {
        data_dir,
        store,
        seed: _,
        mut identities,
    } = home;
    if config.network == BtcNetwork::Mainnet {
        tracing::warn!("{}", crate::settings::MAINNET_RISK);
    }
    let started = driver::now();
    let source = config.chain.as_ref().context("chain_url is missing")?;
    let bounds = &config.limits;
    // The watcher asks again.
    let chain = source.open(bounds, Duration::from_secs(bounds.chain_timeout_s))?;
    let (report_tx, reports) = mpsc::channel(bounds.inbound_queue);
    let identity = crate::source::identity(config.network);
    let watcher = Watcher::start(chain, identity, config.chain_poll, report_tx)
        .context("cannot start the chain watcher")?;
    let (frame_tx, frames) = mpsc::channel(bounds.inbound_queue);
    let transport = Transport::start(config.transport.clone(), frame_tx).await?;
    let (call_tx, calls) = mpsc::channel(bounds.inbound_queue);
    let control =
        ControlServer::bind(data_dir.control_socket(), bounds, transport.counts()).await?;

    let did = identities.get(0)?.did().clone();
    let ready = json!({
        "event": "ready",
        "role": A::ROLE,
        "did": did,
        "endpoint": config.endpoint,
        "listening": transport.local_addr().map(|address| address.to_string()),
        "control": data_dir.control_socket(),
    });
    let mut about = source.about();
    about["network"] = json!(config.network.to_string());
    about["label"] = json!(config.label);
    let role = match A::ROLE {
        "coordinator" => ["coordinator"],
        _ => ["participant"],
    };
    let disclosure = Disclosure::new(config.transport.max_frame)
        .with_protocol("https://btc1.tools/musig2/keygen", &role)
        .with_protocol("https://btc1.tools/musig2/sign", &role);
    let limits = UnpackLimits {
        max_bytes: config.transport.max_frame,
        ..UnpackLimits::default()
    };
    let (driver, inputs) = Driver::start(Parts {
        agent,
        machine,
        store: Box::new(store),
        identities,
        transport: (transport, frames),
        watcher: (watcher, reports),
        calls,
        config: DriverConfig {
            allow_private: config.allow_private,
            disclosure,
            limits,
            bounds: bounds.clone(),
            started,
            about,
            network: config.network,
        },
    })?;

    let (stop, stopped) = tokio::sync::watch::channel(());
    let control = tokio::spawn(control.serve(call_tx, async move {
        let mut stopped = stopped;
        // An error means that the sender is gone, which says the same.
        let _ = stopped.changed().await;
    }));
    // Whoever is told that the agent is ready may also tell it to stop.
    let shutdown = shutdown_signal()?;
    announce(&ready, as_json)?;
    let outcome = driver.run(inputs, shutdown).await;
    drop(stop);
    control.await.context("the control socket's task failed")?;
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

/// One line on standard output: the agent can be used from now on.
fn announce(ready: &serde_json::Value, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{ready}")?;
    } else {
        let listening = ready["listening"]
            .as_str()
            .unwrap_or("nothing; it dials its peers");
        writeln!(
            out,
            "{} is running\n  did:          {}\n  listening on: {listening}",
            ready["role"].as_str().unwrap_or_default(),
            ready["did"].as_str().unwrap_or_default()
        )?;
    }
    out.flush()?;
    Ok(())
}

/// Completes at SIGTERM or SIGINT.
fn shutdown_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
