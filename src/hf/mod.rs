//! A checkpoint's `config.json`, of transformers 4 and 5, as frequencies.
//!
//! ```
//! use condensed_rope::{Pairing, hf};
//!
//! let config = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
//!     "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": {
//!         "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
//!         "original_max_position_embeddings": 8192}}"#;
//! let config = hf::Config::from_json(config)?;
//! let layer = &config.layers[0];
//! assert_eq!((layer.head_dim, layer.rotary_dim), (128, 128));
//! assert_eq!(layer.pairing, Some(Pairing::HalfSplit));
//! let rope = condensed_rope::cpu::Rope::new(layer.schedule.frequencies(), Pairing::HalfSplit);
//! # Ok::<(), condensed_rope::hf::ConfigError>(())
//! ```

mod error;
mod fields;
mod model;
mod reader;

use serde_json::Value;

pub use error::ConfigError;
use error::Result;

use crate::{FrequencySchedule, Pairing, Sections};

/// What a `config.json` says of rotary embedding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `model_type`, where there is one.
    pub model_type: Option<String>,
    /// One entry; or one a layer type, by name.
    pub layers: Vec<Layer>,
}

/// Rotary embedding of one type of layers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Layer {
    /// `full_attention`, `sliding_attention`; `None` where all layers are alike.
    pub layer_type: Option<String>,
    /// Frequencies, scaled as the config says, at the length that the model was trained on. The
    /// attention factor is theirs.
    pub schedule: FrequencySchedule,
    /// How channels pair, where the model type fixes it.
    pub pairing: Option<Pairing>,
    /// Channels of a query head.
    pub head_dim: usize,
    /// The first one that rotates: above zero in MLA, where rotated channels come last.
    pub rotary_offset: usize,
    /// Number of rotated channels.
    pub rotary_dim: usize,
    /// Pairs by time, height and width, where the model asks for it (M-RoPE).
    pub sections: Option<Sections>,
    /// `max_position_embeddings`, where there is one: before or after scaling, as the model likes.
    pub max_position_embeddings: Option<usize>,
}

impl std::str::FromStr for Config {
    type Err = ConfigError;

    fn from_str(json: &str) -> Result<Self> {
        Self::from_json(json)
    }
}

impl Config {
    /// Reads the text of a `config.json`: either spelling of transformers' (`rope_parameters`, nested
    /// by layer type or not; `rope_scaling`, `rope_theta`, `rotary_pct`, `rotary_emb_base`,
    /// `rope_local_base_freq`, `rotary_dim`), the language model's part of a multimodal one.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key: unknown rope types, missing fields, fields that contradict
    /// one another, parameters out of range.
    pub fn from_json(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json)
            .map_err(|error| ConfigError::Json { reason: error.to_string() })?;
        let Value::Object(object) = value else {
            return Err(ConfigError::Json { reason: "not an object".to_owned() });
        };
        reader::read(&object)
    }

    /// The layers of a type; without a name, all layers, where they are alike.
    pub fn layer(&self, layer_type: Option<&str>) -> Option<&Layer> {
        match (layer_type, self.layers.as_slice()) {
            (None, [layer]) => Some(layer),
            (None, _) => None,
            (Some(name), [layer]) if layer.layer_type.is_none() && name == "full_attention" => {
                Some(layer)
            }
            (Some(name), layers) => {
                layers.iter().find(|layer| layer.layer_type.as_deref() == Some(name))
            }
        }
    }

    /// Positions of every layer divided by `ratio`: what FastChat's `replace_llama_with_condense(ratio)`
    /// does to a model.
    ///
    /// # Errors
    /// [`ConfigError::Rope`] where a layer's scaling stretches positions already.
    pub fn condensed(self, ratio: f64) -> Result<Self> {
        let condensed = |layer: Layer| {
            let layer_type = layer.layer_type.clone();
            let schedule = layer.schedule.condensed(ratio);
            let schedule = schedule.map_err(|error| ConfigError::Rope { layer_type, error })?;
            Ok(Layer { schedule, ..layer })
        };
        let layers = self.layers.into_iter().map(condensed).collect::<Result<_>>()?;
        Ok(Self { layers, ..self })
    }
}
