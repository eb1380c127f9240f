//! `beacon-participant resolver serve`: sockets and their limits. What is answered on them is in `http`.
//!
//! A connection serves one request and has a time to do so, so that nobody holds a place by sending or reading slowly. It
//! speaks plain HTTP: put it behind a proxy with TLS where it leaves the machine.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Extension;
use beacon_btcr2::Network;
use clap::Args;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::command::cas;
use super::http::{Bounds, Service, routes};
use super::{ChainSource, SignalSource, Sources};
use crate::cli::{Failure, Global, init_logging};
use crate::source::{self, SourceArgs};
use crate::transport::network;

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// How long requests that are under way may take after a signal.
const DRAIN: Duration = Duration::from_secs(5);
/// What a caller beyond the limits is told, if it can be told at once.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// Options of `resolver serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address to listen on, in plain HTTP: put a proxy with TLS before it where others come from outside
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    chain: SourceArgs,
    /// Only DIDs of this network: bitcoin, signet, regtest, testnet3, testnet4, mutinynet [default: that of the
    /// chain]
    #[arg(long, value_name = "NET")]
    network: Option<Network>,
    /// Directory of JSON documents, read at the start, for what a request's sidecar data lacks
    #[arg(long, value_name = "DIR")]
    cas: Option<PathBuf>,
    /// Resolutions at one time; more wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    max_resolutions: u32,
    /// Seconds for a resolution, the wait for its turn included
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout_s: u64,
    /// Bytes of a request's body
    #[arg(long, value_name = "N", default_value_t = 8 << 20, value_parser = clap::value_parser!(u32).range(1_024..=(32 << 20)))]
    max_body_bytes: u32,
    /// Connections at one time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_connections: u32,
    /// Connections at one time from one address
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_connections_per_ip: u32,
    /// Requests each second from one address; ten times as many at once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    ip_requests_per_s: u32,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

/// Serves until SIGTERM or SIGINT, and then for as long as open requests take, at most five seconds more.
pub async fn serve(global: &Global, agent: &str, args: ServeArgs) -> Result<(), Failure> {
    init_logging(args.log_json);
    let patience = Duration::from_secs(args.timeout_s);
    let chain = source::open(global, agent, &args.chain, patience)?;
    let source = ChainSource::new(chain, args.network);
    let objects = cas(agent, args.cas.as_deref())?;
    let source = match args.network {
        None => source,
        // A server that could answer nothing should not start.
        Some(network) => {
            let checked = tokio::task::spawn_blocking(move || {
                source.check(network)?;
                Ok::<_, super::SourceError>(source)
            });
            checked.await??
        }
    };
    let sources = Sources {
        signals: SignalSource::Chain(source),
        objects,
    };
    let bounds = Bounds {
        resolutions: args.max_resolutions,
        time: Duration::from_secs(args.timeout_s),
        body: args.max_body_bytes as usize,
        requests_per_s: args.ip_requests_per_s,
    };
    // Before the ready line, so that whoever waits for it may send the signal at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let service = Service::new(agent, sources, args.network, bounds);
    let server = Server {
        router: routes(service),
        places: Arc::default(),
        max: args.max_connections as usize,
        max_per_ip: args.max_connections_per_ip as usize,
        // Its request has to arrive, too.
        time: bounds.time.saturating_add(Duration::from_secs(30)),
        stopping: watch::Sender::new(false),
    };
    announce(global.json, listener.local_addr()?)?;
    let mut connections = JoinSet::new();
    tokio::select! {
        () = server.accept(&listener, &mut connections) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    drop(listener);
    tracing::info!("stopping");
    server.stopping.send_replace(true);
    let ended = timeout(DRAIN, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if ended.is_err() {
        tracing::warn!(
            "requests still open after {} s are cut off",
            DRAIN.as_secs()
        );
    }
    // Threads that wait for a chain source may do so for long, and the runtime would wait for them.
    std::process::exit(0)
}

/// Tells standard output where the resolver is to be found. A reader that is gone is no reason to stop.
fn announce(as_json: bool, address: SocketAddr) -> Result<(), Failure> {
    let url = format!("http://{address}");
    let line = if as_json {
        json!({ "event": "ready", "url": url }).to_string()
    } else {
        format!("resolver is listening on {url}")
    };
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

struct Server {
    router: Router,
    places: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
    max_per_ip: usize,
    time: Duration,
    stopping: watch::Sender<bool>,
}

impl Server {
    async fn accept(&self, listener: &TcpListener, connections: &mut JoinSet<()>) {
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Mostly "too many open files": an immediate retry would only spin.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let ip = network(remote.ip());
            let Some(place) = self.place(ip, connections.len()) else {
                tracing::debug!(%remote, "no place for a connection");
                let _ = stream.try_write(FULL);
                continue;
            };
            let router = self.router.clone().layer(Extension(Caller(ip)));
            let stopping = self.stopping.subscribe();
            connections.spawn(answer(stream, router, self.time, stopping, place));
        }
    }

    fn place(&self, ip: IpAddr, taken: usize) -> Option<Place> {
        if taken >= self.max {
            return None;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = places.entry(ip).or_default();
        if *of_ip >= self.max_per_ip {
            return None;
        }
        *of_ip += 1;
        Some(Place {
            places: Arc::clone(&self.places),
            ip,
        })
    }
}

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) IpAddr);

/// A connection's place among those of its address, free again when this is dropped.
struct Place {
    places: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_ip) = places.get_mut(&self.ip) {
            *of_ip = of_ip.saturating_sub(1);
            if *of_ip == 0 {
                places.remove(&self.ip);
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    router: Router,
    time: Duration,
    mut stopping: watch::Receiver<bool>,
    place: Place,
) {
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let serve = async {
        tokio::select! {
            served = &mut connection => return served,
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        // Without a request there is nothing to finish.
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(time, serve).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "not HTTP"),
        Err(_) => tracing::debug!("no request, or no reader of its answer, in time"),
    }
    drop(place);
}
