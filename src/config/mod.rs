//! A checkpoint's `config.json`, of transformers 4 and 5, or its GGUF file, as frequencies.
//!
//! ```
//! use condensed_rope::{Pairing, config::Config};
//!
//! let config = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
//!     "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": {
//!         "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
//!         "original_max_position_embeddings": 8192}}"#;
//! let config = Config::from_json(config)?;
//! let rotary = config.rotary(None)?;
//! assert_eq!((rotary.head_dim, rotary.rotary_dim), (128, 128));
//! assert_eq!(rotary.pairing, Pairing::HalfSplit);
//! let rope = condensed_rope::cpu::Rope::new(rotary.schedule.frequencies(), rotary.pairing);
//! # Ok::<(), condensed_rope::config::ConfigError>(())
//! ```
//!
//! What a class of transformers does is not in the file: pairing, defaults, layers that do not rotate. A table of model
//! types has it; a type that is not in the table is an error, unless the caller says what the file cannot
//! ([`Explicit`]). Nothing about ropes is passed over: a key inside a rope's object that its kind does not read, and
//! a key at the top that looks like a rope's and that nothing reads, are errors that name the key.

mod error;
mod explicit;
mod gguf;
mod hf;

use std::io::{Read, Seek};

pub use error::ConfigError;
use error::Result;
pub use explicit::Explicit;
use explicit::Shape;

/// The version of transformers that the table of model types is of.
pub const TRANSFORMERS_VERSION: &str = hf::TRANSFORMERS_VERSION;

use crate::{Direction, FrequencySchedule, Pairing, Sections};

/// Types of layers, as transformers names them.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
/// Far more than any model has, so that a file cannot ask for memory without end.
const MAX_LAYERS: usize = 4096;

/// What a `config.json` or a GGUF file says of rotary embedding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `model_type`, where there is one: of the language model in a multimodal one.
    pub model_type: Option<String>,
    /// Number of layers, where the file says it.
    pub num_layers: Option<usize>,
    /// Layers that rotate alike, or not at all. Each layer with attention is in one group; those without (linear
    /// attention, convolutions, state spaces) are in none.
    pub groups: Vec<LayerGroup>,
    /// How query and key heads are normalised; `None` where they are not, or where nothing says so (GGUF, types that
    /// are not in the table).
    pub qk_norm: Option<QkNorm>,
}

/// The norm of query and key heads.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QkNorm {
    /// What its weights are.
    pub weights: NormWeights,
    /// Over the channels of a head; else over those of all heads (OLMo 2).
    pub is_per_head: bool,
    /// Before or behind the rotation.
    pub order: NormOrder,
    /// Its epsilon: the file's, or else the class's.
    pub eps: f64,
}

/// What the weights of a norm are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormWeights {
    /// RMSNorm, times the weights.
    Plain,
    /// RMSNorm, times one more than the weights (Gemma 3).
    UnitOffset,
    /// Another norm: LayerNorm, or one without weights.
    Other,
}

/// When a norm comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormOrder {
    /// Before the rotation: nearly all.
    BeforeRotation,
    /// Behind it (Hunyuan).
    AfterRotation,
}

impl QkNorm {
    /// What [`rotate_append`](crate::cpu::Rope::rotate_append) does of it, without weights yet; `None` for the norms that
    /// it does not do.
    ///
    /// ```
    /// use condensed_rope::config::Config;
    ///
    /// let config = Config::from_json(
    ///     r#"{"model_type": "qwen3", "hidden_size": 4096, "num_attention_heads": 32, "rms_norm_eps": 1e-6}"#,
    /// )?;
    /// let norm = config.qk_norm.expect("Qwen3 normalises q and k");
    /// let weights = vec![1.0f32; 128];
    /// let norm = norm.fused::<condensed_rope::cpu::Slices>().expect("by the launch");
    /// let norm = norm.q(&weights).k(&weights);
    /// # let _ = norm;
    /// # Ok::<(), condensed_rope::config::ConfigError>(())
    /// ```
    pub fn fused<M: crate::Memory>(&self) -> Option<crate::QkNorm<M>> {
        let norm = crate::QkNorm::rms(self.eps as f32);
        if !self.is_per_head || self.order == NormOrder::AfterRotation {
            return None;
        }
        match self.weights {
            NormWeights::Plain => Some(norm),
            NormWeights::UnitOffset => Some(norm.unit_offset()),
            NormWeights::Other => None,
        }
    }
}

/// Layers that rotate alike, or not at all.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerGroup {
    /// `full_attention`, `sliding_attention`, …; empty where the file names none.
    pub layer_types: Vec<String>,
    /// Indices of the layers; `None` where the file does not say how many there are, or which.
    pub indices: Option<Vec<usize>>,
    /// How they rotate; `None` where they do not.
    pub rotary: Option<Rotary>,
}

/// Rotary embedding of a group of layers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rotary {
    /// Frequencies, scaled as the config says, at the length that the model was trained on. The
    /// attention factor is theirs.
    pub schedule: FrequencySchedule,
    /// How channels pair.
    pub pairing: Pairing,
    /// Which way the class turns: forward in all but a few.
    pub direction: Direction,
    /// Channels of a query head.
    pub head_dim: usize,
    /// The first one that rotates: above zero in MLA, where rotated channels come last.
    pub rotary_offset: usize,
    /// Number of rotated channels.
    pub rotary_dim: usize,
    /// Pairs by time, height and width, where the model has them (M-RoPE).
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
    /// Reads the text of a `config.json`: either spelling of transformers' (`rope_parameters`, nested by layer type or
    /// not; `rope_scaling`, `rope_theta` and the older keys), the language model's part of a multimodal one.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key: a model type that is not in the table, unknown rope types, missing
    /// fields, fields that contradict one another or that nothing reads, parameters out of range.
    pub fn from_json(json: &str) -> Result<Self> {
        Self::from_json_with(json, Explicit::default())
    }

    /// As [`from_json`](Self::from_json), with what the caller knows.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and [`ConfigError::Contradiction`] where the file or the table knows
    /// otherwise.
    pub fn from_json_with(json: &str, explicit: Explicit) -> Result<Self> {
        hf::read(json, explicit)
    }

    /// Reads a GGUF file's metadata and its tensors of factors on frequencies, and nothing else of it: llama, qwen,
    /// gemma, phi, glm and what shares their keys. Channels pair as the file's tensors need it: llama's q and k, whose
    /// rows were reordered, in interleaved pairs. `model_type` is `general.architecture`.
    ///
    /// ```no_run
    /// use condensed_rope::config::Config;
    ///
    /// let config = Config::from_gguf(std::fs::File::open("model-q4_k_m.gguf")?)?;
    /// println!("{:?}", config.rotary(None)?.pairing);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A [`ConfigError`]: [`Gguf`](ConfigError::Gguf) for a file that is malformed or ends too early, and
    /// [`from_json`](Self::from_json)'s.
    pub fn from_gguf(file: impl Read + Seek) -> Result<Self> {
        Self::from_gguf_with(file, Explicit::default())
    }

    /// As [`from_gguf`](Self::from_gguf), with what the caller knows.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf) and [`from_json_with`](Self::from_json_with).
    pub fn from_gguf_with(file: impl Read + Seek, explicit: Explicit) -> Result<Self> {
        gguf::read(file, explicit)
    }

    /// The group of the layer of an index; `None` where there is no such layer, or it has no attention.
    pub fn layer(&self, index: usize) -> Option<&LayerGroup> {
        let has = |group: &&LayerGroup| match &group.indices {
            Some(indices) => indices.contains(&index),
            None => self.groups.len() == 1 && self.num_layers.is_none_or(|layers| index < layers),
        };
        self.groups.iter().find(has)
    }

    /// How the layers of a type rotate, those of them that do; without a name, how all layers that rotate do.
    ///
    /// # Errors
    /// [`ConfigError::LayerType`] for a type that there is not, and where layers rotate in several ways and none is
    /// named; [`ConfigError::NoRotation`] where none of them rotate.
    pub fn rotary(&self, layer_type: Option<&str>) -> Result<&Rotary> {
        let named = |group: &&LayerGroup| match layer_type {
            Some(name) => group.layer_types.iter().any(|layer_type| layer_type == name),
            None => true,
        };
        let mut rotating = self.groups.iter().filter(named).filter_map(|g| g.rotary.as_ref());
        let error = || {
            let types = self.groups.iter().flat_map(|group| group.layer_types.clone());
            let mut known: Vec<_> = types.collect();
            known.sort();
            known.dedup();
            ConfigError::LayerType { given: layer_type.map(str::to_owned), known }
        };
        match (rotating.next(), rotating.next()) {
            (Some(rotary), None) => Ok(rotary),
            (Some(_), Some(_)) => Err(error()),
            (None, _) if self.groups.iter().any(|group| named(&group)) => {
                Err(ConfigError::NoRotation { layer_type: layer_type.map(str::to_owned) })
            }
            (None, _) => Err(error()),
        }
    }

    /// Positions of every layer divided by `ratio`: what FastChat's `replace_llama_with_condense(ratio)`
    /// does to a model.
    ///
    /// # Errors
    /// [`ConfigError::Rope`] where a layer's scaling stretches positions already.
    pub fn condensed(self, ratio: f64) -> Result<Self> {
        let condensed = |group: LayerGroup| {
            let Some(rotary) = group.rotary else { return Ok(group) };
            let layer_type = group.layer_types.first().cloned();
            let schedule = rotary.schedule.condensed(ratio);
            let schedule = schedule.map_err(|error| ConfigError::Rope { layer_type, error })?;
            Ok(LayerGroup { rotary: Some(Rotary { schedule, ..rotary }), ..group })
        };
        let groups = self.groups.into_iter().map(condensed).collect::<Result<_>>()?;
        Ok(Self { groups, ..self })
    }
}
