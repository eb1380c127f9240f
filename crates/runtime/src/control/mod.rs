//! How the other commands of an agent talk to its long-lived process: JSON-RPC 2.0 over a Unix domain socket.
//!
//! One JSON value per line (newline-delimited), requests with an id only, no batches. The socket has mode 0600 and a
//! connection from another user is closed at once. The server knows no methods: it hands each request to a channel, so that the
//! agent's own loop answers between two messages, never at the same time as one.
//!
//! A request answered with [`ControlReply::Stream`] gets a result and then notifications
//! `{"jsonrpc":"2.0","method":"event","params":…}` until the client hangs up or the agent ends the stream.
//!
//! Limits: [`MAX_RESPONSE_BYTES`], [`CALL_TIMEOUT`], and those of [`crate::limits`] that begin with `control_`.

mod client;
mod line;
mod server;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub use client::{CallError, Follow, call, follow};
pub use server::{ControlError, ControlServer, parse};

/// Bytes of one response or notification, with its newline.
pub const MAX_RESPONSE_BYTES: usize = 16 << 20;
/// Time that a command gives an agent for an answer: far beyond the agent's own limit, which comes first and tells more.
pub const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// The line is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is not a request.
pub const INVALID_REQUEST: i64 = -32600;
/// The agent has no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The method has other parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// The agent gave no answer.
pub const INTERNAL_ERROR: i64 = -32603;
/// The agent could not do what was asked (ours; the message says why).
pub const FAILED: i64 = -32000;
/// The agent took too long (ours).
pub const TIMED_OUT: i64 = -32001;
/// Too many connections (ours).
pub const BUSY: i64 = -32002;

/// A request on its way to the agent's loop.
#[derive(Debug)]
pub struct ControlRequest {
    /// The method's name.
    pub method: String,
    /// Its parameters: an object, an array, or null when there were none.
    pub params: Value,
    /// Where the answer goes. Dropping it answers [`INTERNAL_ERROR`].
    pub reply: oneshot::Sender<ControlReply>,
}

/// The agent's answer to a request.
#[derive(Debug)]
pub enum ControlReply {
    /// Done, with this result.
    Result(Value),
    /// Not done.
    Error(RpcError),
    /// Done, with this result, and each value of the channel follows as a notification. A full channel means that the client reads
    /// slower than things happen: the agent then drops the sender, and the client is told by the end of the stream.
    Stream {
        /// The result of the request itself.
        result: Value,
        /// What follows.
        events: mpsc::Receiver<Value>,
    },
}

/// The error object of JSON-RPC 2.0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// One of this module's constants.
    pub code: i64,
    /// One sentence: lower case, no full stop.
    pub message: String,
    /// More for programs, if there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The agent has no method of this name.
    pub fn method_not_found(method: &str) -> Self {
        Self::new(METHOD_NOT_FOUND, format!("unknown method {method:?}"))
    }

    /// The parameters are not what the method takes.
    pub fn invalid_params(fault: impl std::fmt::Display) -> Self {
        Self::new(INVALID_PARAMS, format!("invalid params: {fault}"))
    }

    /// The agent could not do it.
    pub fn failed(fault: impl std::fmt::Display) -> Self {
        Self::new(FAILED, fault.to_string())
    }
}
