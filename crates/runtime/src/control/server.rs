//! The agent's end of the control socket.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::line::{LineError, LineReader};
use super::{
    BUSY, ControlReply, ControlRequest, INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, RpcError,
    TIMED_OUT,
};
use crate::counts::Counts;
use crate::limits::Limits;

/// The bound socket. Nothing is answered before [`serve`](Self::serve) runs; the socket file goes when this is dropped.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    file: SocketFile,
    max_connections: usize,
    max_request_bytes: usize,
    pub(super) timeout: Duration,
    counts: Counts,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// An agent answers there already.
    #[error("control socket {path} is served by another process: stop that one first", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there, and is not removed.
    #[error("{path} is not a socket, expected nothing there or the socket of an earlier run: move it away", path = path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("control socket {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ControlServer {
    /// Binds the socket at `path` with mode 0600, in place of one that a dead process left behind.
    ///
    /// The caller has the data directory's lock, so no two servers do this at the same time.
    pub async fn bind(path: &Path, limits: &Limits, counts: &Counts) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Io {
            path: path.to_owned(),
            source,
        };
        match tokio::fs::symlink_metadata(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ControlError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Ok(_) => match UnixStream::connect(path).await {
                // The one answer that only a socket without a process gives.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tokio::fs::remove_file(path).await.map_err(failed)?;
                }
                // A full backlog means that somebody is there, just busy.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(failed(error));
                }
                Ok(_) | Err(_) => {
                    return Err(ControlError::InUse {
                        path: path.to_owned(),
                    });
                }
            },
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let file = SocketFile::new(path).map_err(failed)?;
        Ok(Self {
            listener,
            file,
            max_connections: limits.control_connections,
            max_request_bytes: limits.control_request_bytes,
            timeout: Duration::from_secs(limits.control_timeout_s),
            counts: counts.clone(),
        })
    }

    /// Hands requests to `handler` until `shutdown` completes, then lets the requests under way be answered.
    pub async fn serve(
        self,
        handler: mpsc::Sender<ControlRequest>,
        shutdown: impl Future<Output = ()>,
    ) {
        let places = Arc::new(Semaphore::new(self.max_connections));
        let (stop, stopping) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut shutdown => break,
                // Collects finished connections, so that the set does not grow.
                Some(_) = connections.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.counts.add("control-not-accepted");
                    tracing::warn!(%error, "cannot accept a control connection");
                    // Mostly "too many open files": an immediate retry would only spin.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            if !self.file.admits(&stream) {
                self.counts.add("control-other-user");
                tracing::warn!("refused a control connection of another user");
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.counts.add("control-over-limit");
                tracing::warn!("refused a control connection: all places are taken");
                refuse(&stream, self.max_connections);
                continue;
            };
            let (read, write) = stream.into_split();
            let connection = Connection {
                lines: LineReader::new(read, self.max_request_bytes),
                write,
                handler: handler.clone(),
                timeout: self.timeout,
            };
            let stopping = stopping.clone();
            connections.spawn(async move {
                connection.run(stopping).await;
                drop(place);
            });
        }
        drop(stop);
        // Nobody waits for the handler any more once it is gone, so this ends well before the request timeout.
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(self.timeout, drained).await.is_err() {
            tracing::warn!("some control requests were cut off at shutdown");
        }
    }
}

/// The socket's name in the file system: private while it exists, and gone with the server.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    owner: u32,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let file = Self {
            path: path.to_owned(),
            owner: std::fs::symlink_metadata(path)?.uid(),
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Between binding and setting the mode there is a moment in which others can connect: so their user is asked for as well.
    fn admits(&self, stream: &UnixStream) -> bool {
        stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Says "busy" where that is possible without waiting, since waiting would need a place.
fn refuse(stream: &UnixStream, limit: usize) {
    let error = RpcError::new(
        BUSY,
        format!("too many control connections, expected at most {limit}"),
    );
    let _ = stream.try_write(&line(&failure(&Value::Null, &error)));
}

struct Connection {
    lines: LineReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    handler: mpsc::Sender<ControlRequest>,
    timeout: Duration,
}

/// The connection is of no more use: the peer is gone, too slow, or was told that it is shut out.
struct Ended;

impl Connection {
    async fn run(mut self, mut stopping: watch::Receiver<()>) {
        loop {
            let next = tokio::select! {
                next = timeout(self.timeout, self.lines.next()) => next,
                _ = stopping.changed() => return,
            };
            let outcome = match next {
                Ok(Ok(Some(line))) if line.trim_ascii().is_empty() => Ok(()),
                Ok(Ok(Some(line))) => self.answer(&line, &mut stopping).await,
                Ok(Err(LineError::TooLong(limit))) => {
                    let error = RpcError::new(
                        INVALID_REQUEST,
                        format!("got a request of more than {limit} bytes"),
                    );
                    let _ = self.send(&failure(&Value::Null, &error)).await;
                    Err(Ended)
                }
                Ok(Ok(None) | Err(LineError::Cut | LineError::Io(_))) | Err(_) => Err(Ended),
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn answer(
        &mut self,
        line: &[u8],
        stopping: &mut watch::Receiver<()>,
    ) -> Result<(), Ended> {
        let (id, method, params) = match parse(line) {
            Ok(request) => request,
            Err((id, error)) => return self.send(&failure(&id, &error)).await,
        };
        match self.ask(method, params).await {
            ControlReply::Result(result) => self.send(&success(&id, &result)).await,
            ControlReply::Error(error) => self.send(&failure(&id, &error)).await,
            ControlReply::Stream { result, events } => {
                self.send(&success(&id, &result)).await?;
                self.stream(events, stopping).await
            }
        }
    }

    async fn ask(&self, method: String, params: Value) -> ControlReply {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let request = ControlRequest {
                method,
                params,
                reply,
            };
            self.handler.send(request).await.ok()?;
            answer.await.ok()
        };
        let error = match timeout(self.timeout, asked).await {
            Ok(Some(reply)) => return reply,
            Ok(None) => RpcError::new(INTERNAL_ERROR, "the agent is stopping and gave no answer"),
            Err(_) => {
                let seconds = self.timeout.as_secs();
                RpcError::new(
                    TIMED_OUT,
                    format!("the agent gave no answer within {seconds} s"),
                )
            }
        };
        ControlReply::Error(error)
    }

    /// Ends the connection with the stream: the client learns by it that nothing more comes.
    async fn stream(
        &mut self,
        mut events: mpsc::Receiver<Value>,
        stopping: &mut watch::Receiver<()>,
    ) -> Result<(), Ended> {
        loop {
            let event = tokio::select! {
                event = events.recv() => event.ok_or(Ended)?,
                // What a follower sends is of no interest, that it hangs up is.
                line = self.lines.next() => match line {
                    Ok(Some(_)) => continue,
                    Ok(None) | Err(_) => return Err(Ended),
                },
                _ = stopping.changed() => return Err(Ended),
            };
            self.send(&json!({ "jsonrpc": "2.0", "method": "event", "params": event }))
                .await?;
        }
    }

    async fn send(&mut self, message: &Value) -> Result<(), Ended> {
        match timeout(self.timeout, self.write.write_all(&line(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended),
        }
    }
}

/// The id, method and parameters of a request, or the error and the id to answer it to (null where it has none).
pub fn parse(line: &[u8]) -> Result<(Value, String, Value), (Value, RpcError)> {
    let parsed: Value = serde_json::from_slice(line).map_err(|error| {
        (
            Value::Null,
            RpcError::new(PARSE_ERROR, format!("not JSON: {error}")),
        )
    })?;
    let invalid = |id: &Value, fault: &str| {
        (
            id.clone(),
            RpcError::new(INVALID_REQUEST, format!("invalid request: {fault}")),
        )
    };
    let Value::Object(mut request) = parsed else {
        return Err(invalid(&Value::Null, "expected one JSON object"));
    };
    let Some(id @ (Value::String(_) | Value::Number(_))) = request.remove("id") else {
        return Err(invalid(
            &Value::Null,
            "expected an id that is a string or a number",
        ));
    };
    if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(invalid(&id, "expected \"jsonrpc\": \"2.0\""));
    }
    let Some(Value::String(method)) = request.remove("method") else {
        return Err(invalid(&id, "expected a method that is a string"));
    };
    match request.remove("params") {
        None => Ok((id, method, Value::Null)),
        Some(params @ (Value::Object(_) | Value::Array(_))) => Ok((id, method, params)),
        Some(_) => Err(invalid(
            &id,
            "expected params that are an object or an array",
        )),
    }
}

fn success(id: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn failure(id: &Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

fn line(message: &Value) -> Vec<u8> {
    format!("{message}\n").into_bytes()
}
