//! JSON-RPC over HTTP, as Bitcoin Core speaks it: one request at a time, each with a timeout and a limit.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::esplora::is_malformed;
use crate::{ChainError, MAX_RETRIES, Reason};

/// Most bytes of one answer: 64 MiB. A block is 4 MB at most, and 8 MB in hexadecimal.
pub const MAX_RPC_RESPONSE: usize = 64 * 1024 * 1024;
/// Most bytes of a file with credentials.
const MAX_CREDENTIALS: u64 = 4 * 1024;
/// The wait before a request is repeated; twice as long before each further time.
const FIRST_BACKOFF: Duration = Duration::from_millis(256);

/// How the node knows us. Files are read for each request, since a node writes a new cookie each time
/// it starts; so no secret is kept here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RpcAuth {
    /// The file `.cookie` in the node's data directory.
    CookieFile(PathBuf),
    /// A user of the node's `rpcauth` or `rpcuser` setting.
    User {
        /// The name.
        name: String,
        /// A file with the password in its first line.
        password_file: PathBuf,
    },
}

impl RpcAuth {
    /// The header's value.
    fn header(&self) -> Result<Zeroizing<String>, ChainError> {
        let credentials = match self {
            Self::CookieFile(path) => {
                first_line(path, "the node's cookie", "is the node running?")?
            }
            Self::User {
                name,
                password_file,
            } => {
                let hint = "it must have the password of the node's user";
                let password = first_line(password_file, "the password of the node", hint)?;
                Zeroizing::new(format!("{name}:{}", *password))
            }
        };
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(credentials.as_bytes()));
        Ok(Zeroizing::new(format!("Basic {}", *encoded)))
    }
}

/// The first line of a small file. An error names the file and nothing that is in it.
fn first_line(path: &Path, what: &str, hint: &str) -> Result<Zeroizing<String>, ChainError> {
    let unreadable = |error: &dyn fmt::Display| {
        ChainError::unavailable(format_args!(
            "{what} cannot be read from {}: {error}; {hint}",
            path.display()
        ))
    };
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_CREDENTIALS)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(&error))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() || line.chars().any(char::is_control) {
        return Err(unreadable(&"got no text in its first line, expected some"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no answer, or none that can be read.
    Source(ChainError),
    /// The node's own error.
    Node { code: i64, message: Reason },
}

impl From<ChainError> for CallError {
    fn from(error: ChainError) -> Self {
        Self::Source(error)
    }
}

/// Where no particular error is expected.
impl From<CallError> for ChainError {
    fn from(error: CallError) -> Self {
        let (code, message) = match error {
            CallError::Source(error) => return error,
            CallError::Node { code, message } => (code, message),
        };
        match code {
            code::WARMING_UP => Self::unavailable(format_args!("the node is starting: {message}")),
            code::NO_METHOD => Self::unsuitable(format_args!(
                "the node says {message:?}: expected Bitcoin Core {} or newer",
                super::OLDEST_CORE
            )),
            // What a node says of blocks that it has not got, in several wordings.
            code::MISC if message.as_str().contains("not available") => {
                Self::unsuitable(format_args!(
                    "the node says {message:?}: it has to keep all blocks from the start height on (prune=0)"
                ))
            }
            code => Self::garbage(format_args!("got error {code} of the node: {message}")),
        }
    }
}

/// Bitcoin Core's error codes, from `src/rpc/protocol.h`.
pub(super) mod code {
    pub(crate) const MISC: i64 = -1;
    pub(crate) const NOT_FOUND: i64 = -5;
    pub(crate) const INVALID_PARAMETER: i64 = -8;
    pub(crate) const UNREADABLE: i64 = -22;
    pub(crate) const VERIFY_ERROR: i64 = -25;
    pub(crate) const VERIFY_REJECTED: i64 = -26;
    pub(crate) const IN_CHAIN: i64 = -27;
    pub(crate) const WARMING_UP: i64 = -28;
    pub(crate) const NO_METHOD: i64 = -32601;
}

/// A node's RPC server.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) url: String,
    pub(super) auth: RpcAuth,
    /// Of one request, in seconds.
    pub(super) timeout: u64,
    pub(super) retries: usize,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Value,
    #[serde(default)]
    error: Option<NodeError>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct NodeError {
    code: i64,
    #[serde(default)]
    message: String,
}

impl Client {
    /// One call.
    pub(super) fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &Value,
    ) -> Result<T, CallError> {
        let answer: Answer = self.post(&request(0, method, params))?;
        result(answer, 0, method)
    }

    /// One call for each of `params`, in one request; their results in the same order.
    pub(super) fn batch<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Iterator<Item = Value>,
    ) -> Result<Vec<T>, CallError> {
        let requests: Vec<_> = (0..)
            .zip(params)
            .map(|(id, params)| request(id, method, &params))
            .collect();
        let calls = requests.len();
        let mut answers: Vec<Answer> = self.post(&Value::Array(requests))?;
        if answers.len() != calls {
            return Err(ChainError::garbage(format_args!(
                "got {} answers to {calls} calls of {method}, expected one to each",
                answers.len()
            ))
            .into());
        }
        answers.sort_by_key(|answer| answer.id);
        (0..)
            .zip(answers)
            .map(|(id, answer)| result(answer, id, method))
            .collect()
    }

    fn post<T: DeserializeOwned>(&self, body: &Value) -> Result<T, ChainError> {
        let body = body.to_string();
        let (mut delay, mut retries) = (FIRST_BACKOFF, 0);
        let response = loop {
            let response = self.send(&body)?;
            // Its queue of work is full.
            if response.status_code != 503 || retries >= self.retries.min(MAX_RETRIES) {
                break response;
            }
            thread::sleep(delay);
            delay *= 2;
            retries += 1;
        };
        let bytes = response.as_bytes();
        match response.status_code {
            // Errors of JSON-RPC come with these, depending on the version that the node speaks.
            200 | 400 | 404 | 500 => {}
            401 => {
                return Err(ChainError::unavailable(
                    "the node does not accept our cookie or password: is it of this node?",
                ));
            }
            403 => {
                return Err(ChainError::unavailable(
                    "the node does not let us in: see its rpcallowip and rpcwhitelist",
                ));
            }
            status => {
                return Err(ChainError::unavailable(format_args!(
                    "got HTTP status {status} of the node: {}",
                    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes))
                )));
            }
        }
        serde_json::from_slice(bytes).map_err(|error| {
            ChainError::garbage(format_args!(
                "got no JSON-RPC answer with HTTP status {}: {error}",
                response.status_code
            ))
        })
    }

    /// The HTTP layer can be made to panic (see `EsploraChain::ask`). It follows no redirection, which
    /// could carry our credentials elsewhere.
    fn send(&self, body: &str) -> Result<bitreq::Response, ChainError> {
        let header = self.auth.header()?;
        let request = bitreq::post(&self.url)
            .with_header("Authorization", header.as_str())
            .with_header("Content-Type", "application/json")
            .with_timeout(self.timeout)
            .with_max_redirects(0)
            .with_max_body_size(MAX_RPC_RESPONSE)
            .with_body(body);
        match panic::catch_unwind(AssertUnwindSafe(|| request.send())) {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(bitreq::Error::BodyOverflow)) => Err(ChainError::too_much(format_args!(
                "got more than {MAX_RPC_RESPONSE} bytes in one answer, expected fewer"
            ))),
            Ok(Err(error)) if is_malformed(&error) => Err(ChainError::garbage(error)),
            Ok(Err(error)) => Err(ChainError::unavailable(format_args!(
                "{}: {error}",
                self.url
            ))),
            Err(_) => Err(ChainError::garbage("got an answer that is no HTTP")),
        }
    }
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn result<T: DeserializeOwned>(answer: Answer, id: u64, method: &str) -> Result<T, CallError> {
    if answer.id != Some(id) {
        return Err(ChainError::garbage(format_args!(
            "got the answer to call {:?} of {method}, expected that to {id}",
            answer.id
        ))
        .into());
    }
    if let Some(NodeError { code, message }) = answer.error {
        let message = Reason::new(message);
        return Err(CallError::Node { code, message });
    }
    serde_json::from_value(answer.result).map_err(|error| {
        ChainError::garbage(format_args!(
            "got no result of {method} that can be read: {error}"
        ))
        .into()
    })
}
