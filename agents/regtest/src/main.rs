//! `beacon-regtest`: a private Bitcoin chain for demos and tests, without a node.
//!
//! Bitcoin Core's kernel validates it in this process; other programs reach it over Esplora's
//! HTTP paths and control it over `/regtest/...`. See `beacon-regtest --help`.

mod args;
mod control;
mod esplora;
mod reply;
mod server;
mod shapes;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use beacon_chain::Chain as _;
use beacon_embedded::EmbeddedChain;
use clap::Parser as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use args::Args;

/// Threads that may wait for the chain at a time. It answers one after the other anyway.
const CHAIN_THREADS: usize = 16;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(io::stderr)
        .init();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, all causes.
            eprintln!("beacon-regtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let chain = Arc::new(match &args.data_dir {
        Some(directory) => EmbeddedChain::open(directory)?,
        None => EmbeddedChain::temporary()?,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(CHAIN_THREADS)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(serve(args, chain))
}

async fn serve(args: &Args, chain: Arc<EmbeddedChain>) -> anyhow::Result<()> {
    // Before the ready line, so that whoever waits for it may send the signal at once.
    let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    announce(args, listener.local_addr()?, chain.tip()?.height)?;
    server::run(listener, chain, stopped(interrupt, terminate)).await
}

/// Tells standard output where the chain is to be found. A reader that is gone is no reason to stop.
fn announce(args: &Args, address: SocketAddr, height: u32) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    let line = if args.json {
        let data_dir = args
            .data_dir
            .as_ref()
            .map(|path| path.display().to_string());
        json!({"event": "ready", "url": url, "height": height, "data_dir": data_dir}).to_string()
    } else {
        format!("beacon-regtest is listening on {url} (height {height})")
    };
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

async fn stopped(mut interrupt: Signal, mut terminate: Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
}
