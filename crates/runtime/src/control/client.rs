//! The commands' end of the control socket.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::line::{LineError, LineReader};
use super::{CALL_TIMEOUT, MAX_RESPONSE_BYTES, RpcError};

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody serves the socket.
    #[error("no agent is running at {path}: start it with the `run` command and the same --data-dir", path = path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The agent answered with an error.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The agent is there but does not answer.
    #[error("the agent at {path} gave no answer within {seconds} s", path = path.display())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The agent hung up before it answered: it stopped, or a full set of connections made it refuse.
    #[error("the agent at {path} hung up before it answered: see its log", path = path.display())]
    HungUp {
        /// The socket.
        path: PathBuf,
    },
    /// What came back is not a response.
    #[error("the agent at {path} answered with something else than a JSON-RPC response: {fault}", path = path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The operating system refused.
    #[error("control socket {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Calls one method of the agent at `path` and returns its result. `params` is an object, an array or null.
pub async fn call(path: &Path, method: &str, params: Value) -> Result<Value, CallError> {
    follow(path, method, params)
        .await
        .map(|follow| follow.result)
}

/// Calls a method that answers with a stream. Dropping the [`Follow`] ends it.
pub async fn follow(path: &Path, method: &str, params: Value) -> Result<Follow, CallError> {
    let limit = CALL_TIMEOUT;
    timeout(limit, Follow::start(path, method, params))
        .await
        .unwrap_or_else(|_| {
            Err(CallError::TimedOut {
                path: path.to_owned(),
                seconds: limit.as_secs(),
            })
        })
}

/// A stream of what happens in the agent.
#[derive(Debug)]
pub struct Follow {
    /// The result of the call that started the stream.
    pub result: Value,
    path: PathBuf,
    lines: LineReader<OwnedReadHalf>,
    /// Kept open: the server takes a closed half for a hang-up.
    _write: OwnedWriteHalf,
}

impl Follow {
    /// The `params` of the next notification; none when the agent has ended the stream. May stand in a `select!`.
    pub async fn next(&mut self) -> Result<Option<Value>, CallError> {
        let Some(mut message) = read_message(&self.path, &mut self.lines).await? else {
            return Ok(None);
        };
        match message.get_mut("params") {
            Some(params) => Ok(Some(params.take())),
            None => Err(malformed(&self.path, "expected a notification with params")),
        }
    }

    async fn start(path: &Path, method: &str, params: Value) -> Result<Self, CallError> {
        let failed = |source| CallError::Io {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    CallError::NotRunning {
                        path: path.to_owned(),
                    }
                }
                _ => failed(source),
            })?;
        let (read, mut write) = stream.into_split();
        let mut request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        if !params.is_null() {
            request["params"] = params;
        }
        // A server that refuses the connection may have closed it already; its reason is in what it sent.
        let sent = write.write_all(format!("{request}\n").as_bytes()).await;
        let mut lines = LineReader::new(read, MAX_RESPONSE_BYTES);
        let answer = match (read_message(path, &mut lines).await, sent) {
            (Ok(Some(answer)), _) => answer,
            (_, Err(source)) => return Err(failed(source)),
            (Ok(None), Ok(())) => {
                return Err(CallError::HungUp {
                    path: path.to_owned(),
                });
            }
            (Err(error), Ok(())) => return Err(error),
        };
        let result = result_of(answer, path)?;
        Ok(Self {
            result,
            path: path.to_owned(),
            lines,
            _write: write,
        })
    }
}

fn result_of(mut answer: Value, path: &Path) -> Result<Value, CallError> {
    if let Some(error) = answer.get_mut("error") {
        let error: RpcError =
            serde_json::from_value(error.take()).map_err(|fault| malformed(path, fault))?;
        return Err(error.into());
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(malformed(path, "expected a result or an error")),
    }
}

async fn read_message(
    path: &Path,
    lines: &mut LineReader<OwnedReadHalf>,
) -> Result<Option<Value>, CallError> {
    match lines.next().await {
        Ok(None) => Ok(None),
        Ok(Some(line)) => serde_json::from_slice(&line)
            .map(Some)
            .map_err(|fault| malformed(path, fault)),
        Err(LineError::Io(source)) => Err(CallError::Io {
            path: path.to_owned(),
            source,
        }),
        Err(fault @ (LineError::TooLong(_) | LineError::Cut)) => Err(malformed(path, fault)),
    }
}

fn malformed(path: &Path, fault: impl std::fmt::Display) -> CallError {
    CallError::Malformed {
        path: path.to_owned(),
        fault: fault.to_string(),
    }
}
