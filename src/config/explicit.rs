use super::error::{ConfigError, Result};
use crate::Pairing;
use crate::limits::MAX_HEAD_DIM;

/// What a caller knows and a file cannot say. What is `None` comes from the file and the table of model types;
/// what contradicts them is an error.
///
/// ```
/// use condensed_rope::Pairing;
/// use condensed_rope::config::{Config, Explicit};
///
/// let json = r#"{"model_type": "my_own", "hidden_size": 2048, "num_attention_heads": 16}"#;
/// assert!(Config::from_json(json).is_err());
/// let mut explicit = Explicit::pairing(Pairing::Interleaved);
/// explicit.rotary_dim = Some(64);
/// let config = Config::from_json_with(json, explicit)?;
/// assert_eq!(config.rotary(None)?.rotary_dim, 64);
/// # Ok::<(), condensed_rope::config::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explicit {
    /// How channels pair. With it, a model type that is not in the table is read by LLaMA's keys and defaults.
    pub pairing: Option<Pairing>,
    /// Channels of a head.
    pub head_dim: Option<usize>,
    /// The first channel that rotates.
    pub rotary_offset: Option<usize>,
    /// Number of channels that rotate.
    pub rotary_dim: Option<usize>,
}

impl Explicit {
    /// Of channels that pair so.
    pub fn pairing(pairing: Pairing) -> Self {
        Self { pairing: Some(pairing), ..Self::default() }
    }

    /// The pairing that is known, which the caller's must be; or else the caller's.
    pub(super) fn agree(self, known: Option<Pairing>, otherwise: Pairing) -> Result<Pairing> {
        match (known, self.pairing) {
            (Some(known), Some(asked)) if known != asked => {
                Err(contradiction("pairing", format!("{known:?}"), format!("{asked:?}")))
            }
            (known, asked) => Ok(known.or(asked).unwrap_or(otherwise)),
        }
    }

    /// The shape that is known, which the caller's must be; or else the caller's where it says something.
    pub(super) fn shape(self, shape: Shape, is_known: bool) -> Result<Shape> {
        let decide = |what, known: usize, asked: Option<usize>| match asked {
            Some(asked) if is_known && asked != known => {
                Err(contradiction(what, known.to_string(), asked.to_string()))
            }
            asked => Ok(asked.unwrap_or(known)),
        };
        let head_dim = decide("head_dim", shape.head_dim, self.head_dim)?;
        let all = shape.rotary_dim == shape.head_dim;
        let rotary_dim = if all { head_dim } else { shape.rotary_dim };
        Ok(Shape {
            head_dim,
            rotary_offset: decide("rotary_offset", shape.rotary_offset, self.rotary_offset)?,
            rotary_dim: decide("rotary_dim", rotary_dim, self.rotary_dim)?,
        })
    }
}

fn contradiction(what: &str, known: String, asked: String) -> ConfigError {
    let keys = [format!("the model's {what}"), "the one asked for".to_owned()];
    ConfigError::Contradiction { keys, given: [known, asked] }
}

/// Channels of a head, and those that rotate.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub head_dim: usize,
    pub rotary_offset: usize,
    pub rotary_dim: usize,
}

impl Shape {
    /// Calls can take it; `key` is where it comes from.
    pub fn check(self, key: String) -> Result<Self> {
        let Self { head_dim, rotary_offset, rotary_dim } = self;
        let end = rotary_offset.checked_add(rotary_dim);
        let fits = rotary_dim > 0 && end.is_some_and(|end| end <= head_dim);
        let is_even = rotary_dim.is_multiple_of(2);
        if (1..=MAX_HEAD_DIM).contains(&head_dim) && fits && is_even {
            return Ok(self);
        }
        let given = match rotary_offset {
            0 => format!("{rotary_dim} channels of {head_dim}"),
            from => format!("{rotary_dim} channels from {from} of {head_dim}"),
        };
        let expected = "a head of 1 to 1024 channels, an even number of which rotate";
        Err(ConfigError::Value { key, expected, given })
    }
}
