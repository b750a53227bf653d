use std::fmt;

use crate::Error;

/// Why a config could not be understood; every message names the key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not an object.
    Json {
        /// What the parser said.
        reason: String,
    },
    /// A key that is needed is not there.
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value that is not what its key must hold.
    Value {
        /// The key.
        key: String,
        /// What it must hold.
        expected: &'static str,
        /// What it holds.
        given: String,
    },
    /// Two keys that say different things.
    Contradiction {
        /// The keys, and their values.
        keys: [String; 2],
        /// The values.
        given: [String; 2],
    },
    /// A scaling whose parameters are out of range.
    Rope {
        /// The layer type, where there are several.
        layer_type: Option<String>,
        /// What is wrong.
        error: Error,
    },
}

impl ConfigError {
    /// A number for other languages: stable, never used for another error, never one of
    /// [`Error::code`](crate::Error::code)'s but where the error is one of a rope's parameters.
    pub fn code(&self) -> u32 {
        match self {
            Self::Json { .. } => 1001,
            Self::Missing { .. } => 1002,
            Self::Value { .. } => 1003,
            Self::Contradiction { .. } => 1004,
            Self::Rope { error, .. } => error.code(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json { reason } => write!(f, "config.json: {reason}"),
            Self::Missing { key } => write!(f, "config.json: {key} is missing"),
            Self::Value { key, expected, given } => {
                write!(f, "config.json: {key} must be {expected}: given {given}")
            }
            Self::Contradiction { keys: [a, b], given: [x, y] } => {
                write!(f, "config.json: {a} is {x}, but {b} is {y}")
            }
            Self::Rope { layer_type: None, error } => write!(f, "config.json: {error}"),
            Self::Rope { layer_type: Some(name), error } => {
                write!(f, "config.json: {name}: {error}")
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rope { error, .. } => Some(error),
            _ => None,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, ConfigError>;
