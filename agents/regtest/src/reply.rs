//! Answers that are not the thing asked for, and the way to the chain.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use beacon_chain::ChainError;
use beacon_embedded::{ControlError, EmbeddedChain};
use serde_json::json;

/// An error with Esplora's status and plain text.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
    json: bool,
}

impl Failure {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            json: false,
        }
    }

    /// The same as `{"error": message}`, as the control paths answer.
    pub(crate) fn into_json(self) -> Self {
        Self { json: true, ..self }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.json {
            return (self.status, axum::Json(json!({"error": self.message}))).into_response();
        }
        let plain = [(header::CONTENT_TYPE, "text/plain")];
        (self.status, plain, self.message).into_response()
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::OutOfRange { .. }
            | ControlError::ForeignAddress { .. }
            | ControlError::Insufficient { .. } => StatusCode::BAD_REQUEST,
            ControlError::BlockRefused { .. }
            | ControlError::PaymentRefused { .. }
            | ControlError::Chain(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Runs `work` on a thread that may wait, so that the async runtime goes on answering.
pub(crate) async fn with_chain<T: Send + 'static>(
    chain: Arc<EmbeddedChain>,
    work: impl FnOnce(&EmbeddedChain) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(move || work(&chain)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a request failed");
        Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error",
        ))
    })
}
