//! Parameters of control methods: read strictly, refused in one sentence.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::RpcError;

/// Reads a method's parameters; absent ones are an empty object.
pub(crate) fn read<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    let params = if params.is_null() { json!({}) } else { params };
    serde_json::from_value(params).map_err(RpcError::invalid_params)
}
