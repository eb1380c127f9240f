//! The listening side: TCP, one HTTP request, and a WebSocket or an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::http::{self, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::TransportError;
use super::connection::settings;
use super::registry::{Limit, Place, Registry};

/// Bytes of a request's head; ours have a few hundred.
const MAX_HEAD: usize = 16 << 10;
/// Callers over a limit that are told so at one time; more are hung up on.
const MAX_REFUSALS: usize = 32;

/// Listens on `address` and returns it with its real port.
pub(super) async fn start(
    address: SocketAddr,
    registry: &Arc<Registry>,
) -> Result<SocketAddr, TransportError> {
    let failed = |source| TransportError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    registry.spawn(accept(listener, Arc::clone(registry)));
    Ok(local)
}

async fn accept(listener: TcpListener, registry: Arc<Registry>) {
    let router = Router::new()
        .route("/", get(upgrade))
        .route("/health", get(health));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut stopping = registry.stopping();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                registry.counts.add("sockets-not-accepted");
                tracing::warn!(%error, "cannot accept a connection");
                // Mostly "too many open files": an immediate retry would only spin.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        match registry.admit(Some(remote.ip())) {
            Ok(place) => {
                let caller = Caller {
                    registry: Arc::clone(&registry),
                    remote,
                    place: Arc::new(place),
                };
                registry.spawn(answer(stream, router.clone(), caller));
            }
            Err(limit) => {
                if registry.first_warning("limit", remote.ip()) {
                    tracing::warn!(%remote, ?limit, "refused a connection (further ones of this peer are not logged)");
                }
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    let time = registry.config.connect_timeout;
                    registry.spawn(async move {
                        let _ = timeout(time, refuse(stream, limit)).await;
                        drop(permit);
                    });
                } else {
                    registry.counts.add("sockets-hung-up");
                }
            }
        }
    }
}

/// Who sent the request, for the handlers.
#[derive(Clone)]
struct Caller {
    registry: Arc<Registry>,
    remote: SocketAddr,
    place: Arc<Place>,
}

/// Serves HTTP on a new socket. It has [`connect_timeout`](super::TransportConfig::connect_timeout) to become a WebSocket or to be
/// done: nobody holds a place by sending nothing.
async fn answer(stream: TcpStream, router: Router, caller: Caller) {
    // Small frames answer each other, so waiting for more to send would cost a round trip each time.
    let _ = stream.set_nodelay(true);
    let time = caller.registry.config.connect_timeout;
    let remote = caller.remote;
    let counts = caller.registry.counts.clone();
    let mut stopping = caller.registry.stopping();
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        served = timeout(time, connection) => match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                counts.add("handshake-not-http");
                tracing::debug!(%remote, %error, "not HTTP");
            }
            Err(_) => {
                counts.add("handshake-late");
                tracing::debug!(%remote, "no WebSocket in time");
            }
        },
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

async fn health() -> Response {
    Json(serde_json::json!({ "status": "ok" })).into_response()
}

async fn upgrade(Extension(caller): Extension<Caller>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let switch = create_response(&http::Request::from_parts(parts, ()));
    let (Ok(switch), Some(upgrade)) = (switch, upgrade) else {
        let headers = [
            (http::header::UPGRADE, "websocket"),
            (http::header::CONNECTION, "upgrade"),
        ];
        return (
            StatusCode::UPGRADE_REQUIRED,
            headers,
            "this is a DIDComm endpoint: expected a WebSocket\n",
        )
            .into_response();
    };
    let Caller {
        registry,
        remote,
        place,
    } = caller;
    let keeper = Arc::clone(&registry);
    keeper.spawn(async move {
        // Ends with the HTTP connection, which has its own time limit.
        match upgrade.await {
            Ok(stream) => {
                let settings = Some(settings(&registry.config));
                let socket =
                    WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, settings)
                        .await;
                registry.open(socket, remote, place);
            }
            Err(error) => {
                tracing::debug!(%remote, %error, "the caller left before its WebSocket was open");
            }
        }
    });
    switch.map(|()| Body::empty())
}

/// Tells a caller why there is no place for it. Its request is read first, since closing with unread data would reset the answer away.
async fn refuse(mut stream: TcpStream, limit: Limit) -> io::Result<()> {
    let mut head: Vec<u8> = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk).await? {
            0 => return Ok(()),
            read => head.extend(chunk.iter().take(read)),
        }
    }
    let (status, what) = match limit {
        Limit::Total(limit) => (
            "503 Service Unavailable",
            format!("at most {limit} connections"),
        ),
        Limit::PerIp(limit) => (
            "429 Too Many Requests",
            format!("at most {limit} connections from one address"),
        ),
    };
    let body = format!("too many connections: expected {what}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}
