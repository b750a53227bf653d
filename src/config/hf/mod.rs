//! transformers' `config.json`: fields to groups of layers, by what each class is known to do.

mod deepseek_v4;
mod fields;
mod layers;
mod models;
mod qk_norms;
mod reader;
mod scaling;

use serde_json::Value;

use super::error::{ConfigError, Result};
use super::{Config, Explicit};
pub(super) use models::TRANSFORMERS_VERSION;

/// Reads the text of a `config.json`.
pub(super) fn read(json: &str, explicit: Explicit) -> Result<Config> {
    let value: Value = serde_json::from_str(&fields::quote_non_finite(json))
        .map_err(|error| ConfigError::Json { reason: error.to_string() })?;
    let Value::Object(object) = value else {
        return Err(ConfigError::Json { reason: "not an object".to_owned() });
    };
    reader::read(&object, explicit)
}
