//! The HTTP server: routes, limits, and the end of it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use beacon_embedded::EmbeddedChain;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::reply::Failure;
use crate::{control, esplora};

/// Largest request body, in bytes: the hex of a transaction at Bitcoin Core's weight limit is
/// smaller. Esplora's own server has the same limit.
const MAX_BODY: usize = 1_000_000;
/// How long requests that are under way may take after a signal.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves the chain until `stopped` is done, and then for as long as open requests take, at most
/// five seconds more.
pub(crate) async fn run(
    listener: TcpListener,
    chain: Arc<EmbeddedChain>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let router = Router::new()
        .merge(esplora::routes())
        .merge(control::routes())
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(chain);

    let (stop, mut stopping) = watch::channel(false);
    let graceful = async move {
        stopped.await;
        // Fails only when nobody listens any more, and then there is nothing to stop.
        let _ = stop.send(true);
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(graceful);
    let overdue = async {
        // An error means that the sender is gone: the server has ended by itself.
        if stopping.wait_for(|stop| *stop).await.is_ok() {
            tokio::time::sleep(DRAIN).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serving.into_future() => served.context("the server failed"),
        () = overdue => {
            tracing::warn!("requests still open after {} s are cut off", DRAIN.as_secs());
            Ok(())
        }
    }
}

async fn unknown_path(uri: Uri) -> Failure {
    Failure::not_found(format!("endpoint does not exist {:?}", uri.path()))
}
