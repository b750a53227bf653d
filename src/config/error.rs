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
    /// Not a GGUF file, or a malformed one.
    Gguf {
        /// What is wrong.
        reason: String,
    },
    /// A key that is needed is not there.
    Missing {
        /// The key.
        key: String,
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
    /// A key that describes a rope and that nothing reads: another kind's, misspelt, or in the wrong place.
    Unread {
        /// The key.
        key: String,
        /// What it holds.
        given: String,
    },
    /// A model type that is not in the table, so that pairing and defaults are not known.
    ModelType {
        /// The type; `None` where the file has none.
        given: Option<String>,
    },
    /// A layer type that there is not; or none named where there are several.
    LayerType {
        /// The type that was asked for.
        given: Option<String>,
        /// The types that there are.
        known: Vec<String>,
    },
    /// Layers that do not rotate.
    NoRotation {
        /// Their type, where one was asked for.
        layer_type: Option<String>,
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
    pub(super) fn missing(key: &str) -> Self {
        Self::Missing { key: key.to_owned() }
    }

    /// A number for other languages: stable, never used for another error, never one of
    /// [`Error::code`](crate::Error::code)'s but where the error is one of a rope's parameters.
    pub fn code(&self) -> u32 {
        match self {
            Self::Json { .. } => 1001,
            Self::Missing { .. } => 1002,
            Self::Value { .. } => 1003,
            Self::Contradiction { .. } => 1004,
            Self::Unread { .. } => 1005,
            Self::ModelType { .. } => 1006,
            Self::LayerType { .. } => 1007,
            Self::NoRotation { .. } => 1008,
            Self::Gguf { .. } => 1009,
            Self::Rope { error, .. } => error.code(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gguf { reason } => write!(f, "GGUF: {reason}"),
            Self::Json { reason } => write!(f, "config: {reason}"),
            Self::Missing { key } => write!(f, "config: {key} is missing"),
            Self::Value { key, expected, given } => {
                write!(f, "config: {key} must be {expected}: given {given}")
            }
            Self::Contradiction { keys: [a, b], given: [x, y] } => {
                write!(f, "config: {a} is {x}, but {b} is {y}")
            }
            Self::Unread { key, given } => {
                write!(f, "config: {key} is {given}, which this kind of rope does not read")
            }
            Self::ModelType { given: None } => {
                write!(f, "config: model_type is missing, so that pairing is not known")
            }
            Self::ModelType { given: Some(given) } => {
                write!(f, "config: model_type is {given:?}, whose pairing is not known")
            }
            Self::LayerType { given: Some(given), known } if known.is_empty() => {
                write!(f, "config: no layer type {given:?}: all layers are alike")
            }
            Self::LayerType { given: Some(given), known } => {
                write!(f, "config: no layer type {given:?}: there are {}", known.join(", "))
            }
            Self::LayerType { given: None, known } => {
                write!(f, "config: layers differ: name one of {}", known.join(", "))
            }
            Self::NoRotation { layer_type: None } => {
                write!(f, "config: no layer of the model rotates")
            }
            Self::NoRotation { layer_type: Some(name) } => {
                write!(f, "config: layers of type {name} do not rotate")
            }
            Self::Rope { layer_type: None, error } => write!(f, "config: {error}"),
            Self::Rope { layer_type: Some(name), error } => {
                write!(f, "config: {name}: {error}")
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
