//! A checkpoint's `config.json`, of transformers 4 and 5, as frequencies.
//!
//! ```
//! use condensed_rope::{Frequencies, Pairing};
//!
//! let config = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
//!     "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": {
//!         "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
//!         "original_max_position_embeddings": 8192}}"#;
//! let config = Frequencies::from_hf_config(config)?;
//! let layer = &config.layers[0];
//! assert_eq!((layer.head_dim, layer.rotary_dim), (128, 128));
//! assert_eq!(layer.pairing, Some(Pairing::HalfSplit));
//! let rope = condensed_rope::cpu::Rope::new(layer.scaled.frequencies(), Pairing::HalfSplit);
//! # Ok::<(), condensed_rope::hf::ConfigError>(())
//! ```

use std::fmt;

use serde_json::{Map, Value};

use crate::{Error, Frequencies, LongRope, Pairing, Scaled, Scaling, Sections, Yarn};

/// What a `config.json` says of rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `model_type`, where there is one.
    pub model_type: Option<String>,
    /// One entry; or one a layer type, by name.
    pub layers: Vec<Layer>,
}

/// Rotary embedding of one type of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// `full_attention`, `sliding_attention`; `None` where all layers are alike.
    pub layer_type: Option<String>,
    /// Frequencies, scaled as the config says, at the length that the model was trained on. The
    /// attention factor is theirs.
    pub scaled: Scaled,
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

type Result<T> = std::result::Result<T, ConfigError>;

impl Frequencies {
    /// Reads the text of a `config.json`: either spelling of transformers' (`rope_parameters`, nested
    /// by layer type or not; `rope_scaling`, `rope_theta`, `rotary_pct`, `rotary_emb_base`,
    /// `rope_local_base_freq`, `rotary_dim`), the language model's part of a multimodal one.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key: unknown rope types, missing fields, fields that contradict
    /// one another, parameters out of range.
    pub fn from_hf_config(json: &str) -> Result<Config> {
        let value: Value = serde_json::from_str(json)
            .map_err(|error| ConfigError::Json { reason: error.to_string() })?;
        let Value::Object(object) = value else {
            return Err(ConfigError::Json { reason: "not an object".to_owned() });
        };
        Config::read(&object)
    }
}

impl Config {
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
            let Layer { scaled, layer_type, .. } = layer.clone();
            let scaled = scaled.condensed(ratio);
            let scaled = scaled.map_err(|error| ConfigError::Rope { layer_type, error })?;
            Ok(Layer { scaled, ..layer })
        };
        let layers = self.layers.into_iter().map(condensed).collect::<Result<_>>()?;
        Ok(Self { layers, ..self })
    }

    fn read(config: &Map<String, Value>) -> Result<Self> {
        // Multimodal models keep the language model's part apart.
        let text = match config.get("text_config") {
            Some(Value::Object(text)) => text,
            _ => config,
        };
        let model_type = [text, config]
            .into_iter()
            .find_map(|object| object.get("model_type").and_then(Value::as_str));
        let fields = Fields { object: text, prefix: "" };
        let reader = Reader { fields, model: Model::of(model_type.unwrap_or("")) };
        Ok(Self { model_type: model_type.map(str::to_owned), layers: reader.layers()? })
    }
}

/// What transformers' classes know that a `config.json` may leave out.
struct Model {
    pairing: Option<Pairing>,
    partial_rotary_factor: f64,
    head_dim: Option<usize>,
    rope_theta: f64,
    /// The base of sliding layers, where they have one of their own.
    local_theta: Option<f64>,
}

impl Model {
    fn of(model_type: &str) -> Self {
        use Pairing::{HalfSplit, Interleaved};
        let name = model_type.strip_suffix("_text").unwrap_or(model_type);
        let pairing = match name {
            "llama" | "mistral" | "mistral3" | "ministral" | "mixtral" | "qwen2" | "qwen2_moe"
            | "qwen3" | "qwen3_moe" | "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl" | "qwen3_vl_moe"
            | "gemma" | "gemma2" | "gemma3" | "phi" | "phi3" | "phimoe" | "stablelm"
            | "gpt_neox" | "falcon" | "gpt_oss" | "olmo" | "olmo2" | "olmo3" | "starcoder2"
            | "granite" | "persimmon" | "nemotron" | "glm4_moe" | "smollm3" | "exaone4"
            | "internlm2" => Some(HalfSplit),
            "gptj" | "codegen" | "glm" | "glm4" | "chatglm" | "cohere" | "cohere2"
            | "deepseek_v2" | "deepseek_v3" | "llama4" | "ernie4_5" => Some(Interleaved),
            _ => None,
        };
        let partial_rotary_factor = match name {
            "gpt_neox" | "stablelm" => 0.25,
            "phi" | "persimmon" | "nemotron" | "glm" | "glm4" | "chatglm" | "glm4_moe" => 0.5,
            _ => 1.0,
        };
        let head_dim = match name {
            "gemma" | "gemma2" | "gemma3" => Some(256),
            "qwen3" | "qwen3_moe" | "glm" | "glm4" => Some(128),
            "gpt_oss" => Some(64),
            _ => None,
        };
        let (rope_theta, local_theta) = match name {
            "gemma3" => (1_000_000.0, Some(10_000.0)),
            "gpt_oss" => (150_000.0, None),
            _ => (10_000.0, None),
        };
        Self { pairing, partial_rotary_factor, head_dim, rope_theta, local_theta }
    }
}

/// An object's fields, with errors that name them.
#[derive(Clone, Copy)]
struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// What the object's keys are called by.
    prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// What a key holds; nothing where it is null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn value<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong =
            || ConfigError::Value { key: self.name(key), expected, given: value.to_string() };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.value(key, "a number", Value::as_f64)
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.value(key, "a whole number above zero", |value| {
            // Some tools write whole numbers as 4096.0.
            let whole =
                value.as_f64().filter(|n| n.fract() == 0.0 && *n > 0.0 && *n < 2f64.powi(53));
            whole.map(|n| n as usize)
        })
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.value(key, "text", Value::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.value(key, "true or false", Value::as_bool)
    }

    fn list(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.value(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    fn fields(&self, key: &'static str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        let object = self.value(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Fields { object, prefix }))
    }
}

/// The one value that several keys agree on.
fn agreed<T: PartialEq + fmt::Debug>(
    found: impl IntoIterator<Item = (String, Option<T>)>,
) -> Result<Option<T>> {
    let mut agreed: Option<(String, T)> = None;
    for (key, value) in found {
        let Some(value) = value else { continue };
        match &agreed {
            Some((other, before)) if *before != value => {
                return Err(ConfigError::Contradiction {
                    keys: [other.clone(), key],
                    given: [format!("{before:?}"), format!("{value:?}")],
                });
            }
            Some(_) => {}
            None => agreed = Some((key, value)),
        }
    }
    Ok(agreed.map(|(_, value)| value))
}

/// `type` by its name of today.
fn rope_type(name: &str) -> &str {
    match name {
        "su" => "longrope",
        "mrope" => "default",
        name => name,
    }
}

struct Reader<'a> {
    fields: Fields<'a>,
    model: Model,
}

impl<'a> Reader<'a> {
    fn layers(&self) -> Result<Vec<Layer>> {
        let new = self.fields.fields("rope_parameters", "rope_parameters.")?;
        let old = self.fields.fields("rope_scaling", "rope_scaling.")?;
        // Nested by layer type: every value is an object, or null where a layer does not rotate.
        let nested = new.filter(|new| {
            !new.object.is_empty()
                && new.object.values().all(|value| value.is_object() || value.is_null())
        });
        if let Some(nested) = nested {
            let objects = nested.object.iter().filter_map(|(name, value)| {
                Some((name, Fields { object: value.as_object()?, prefix: "rope_parameters." }))
            });
            return objects
                .map(|(name, fields)| self.layer(Some(name.clone()), &[fields], None))
                .collect();
        }
        let sources: Vec<Fields> = [new, old].into_iter().flatten().collect();
        let local = self.fields.number("rope_local_base_freq")?.or(self.model.local_theta);
        match local {
            None => Ok(vec![self.layer(None, &sources, None)?]),
            // Gemma 3: the scaling is the full layers', sliding ones have a base of their own.
            Some(base) => Ok(vec![
                self.layer(Some("full_attention".to_owned()), &sources, None)?,
                self.layer(Some("sliding_attention".to_owned()), &[], Some(base))?,
            ]),
        }
    }

    /// One type of layers, from the objects that may describe its rope.
    fn layer(
        &self,
        layer_type: Option<String>,
        sources: &[Fields<'a>],
        own_base: Option<f64>,
    ) -> Result<Layer> {
        let Self { fields: top, model } = self;
        let from = |key: &str, read: &dyn Fn(&Fields<'a>, &str) -> Result<Option<f64>>| {
            let found = sources.iter().map(|s| Ok((s.name(key), read(s, key)?)));
            found.collect::<Result<Vec<_>>>()
        };
        let number = |key: &str| agreed(from(key, &|fields, key| fields.number(key))?);
        let with_top = |key: &str, tops: &[&str]| {
            let mut found = from(key, &|fields, key| fields.number(key))?;
            for key in tops {
                found.push(((*key).to_owned(), top.number(key)?));
            }
            agreed(found)
        };
        let base = match own_base {
            Some(base) => base,
            None => with_top("rope_theta", &["rope_theta", "rotary_emb_base"])?
                .unwrap_or(model.rope_theta),
        };
        let partial = with_top("partial_rotary_factor", &["partial_rotary_factor", "rotary_pct"])?;
        let kind = {
            let mut found = Vec::new();
            for source in sources {
                for key in ["rope_type", "type"] {
                    found.push((source.name(key), source.text(key)?.map(rope_type)));
                }
            }
            agreed(found)?.unwrap_or("default")
        };
        let Shape { head_dim, rotary_offset, rotary_dim } = self.shape(partial, kind)?;

        let max_position_embeddings = top.count("max_position_embeddings")?;
        let required = |key: &'static str| number(key)?.ok_or(ConfigError::Missing { key });
        let count = |key: &str| -> Result<Option<usize>> {
            let mut found = Vec::new();
            for fields in sources.iter().chain([top]) {
                found.push((fields.name(key), fields.count(key)?));
            }
            agreed(found)
        };
        const ORIGINAL: &str = "original_max_position_embeddings";
        let original = || {
            let found = count(ORIGINAL)?.or(max_position_embeddings);
            found.ok_or(ConfigError::Missing { key: ORIGINAL })
        };
        // Where there is none, the new length over the original one.
        let factor_or_ratio = |original: usize| match (number("factor")?, max_position_embeddings) {
            (Some(factor), _) => Ok(factor),
            (None, Some(max)) => Ok(max as f64 / original as f64),
            (None, None) => Err(ConfigError::Missing { key: "factor" }),
        };
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: required("factor")? },
            "ntk" => Scaling::Ntk { factor: required("factor")? },
            "dynamic" => Scaling::Dynamic {
                factor: required("factor")?,
                max_position_embeddings: max_position_embeddings
                    .ok_or(ConfigError::Missing { key: "max_position_embeddings" })?,
            },
            "yarn" => {
                let original = original()?;
                let factor = factor_or_ratio(original)?;
                let or = |key: &str, default: f64| {
                    // transformers takes zero for unset.
                    Ok(number(key)?.filter(|&n| n != 0.0).unwrap_or(default))
                };
                let mscales = [number("mscale")?, number("mscale_all_dim")?];
                let mscales = match mscales.map(|mscale| mscale.filter(|&m| m != 0.0)) {
                    [Some(mscale), Some(all_dim)] => Some((mscale, all_dim)),
                    _ => None,
                };
                let truncate =
                    sources.iter().map(|s| Ok((s.name("truncate"), s.flag("truncate")?)));
                let truncate = agreed(truncate.collect::<Result<Vec<_>>>()?)?;
                Scaling::Yarn(Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: or("beta_fast", 32.0)?,
                    beta_slow: or("beta_slow", 1.0)?,
                    truncate: truncate.unwrap_or(true),
                    attention_factor: number("attention_factor")?
                        .unwrap_or_else(|| Yarn::attention_factor(factor, mscales)),
                })
            }
            "longrope" => {
                let list = |key: &'static str| {
                    let found = sources.iter().map(|s| Ok((s.name(key), s.list(key)?)));
                    let found = agreed(found.collect::<Result<Vec<_>>>()?)?;
                    found.ok_or(ConfigError::Missing { key })
                };
                let original = original()?;
                let attention_factor = match number("attention_factor")? {
                    Some(factor) => factor,
                    None => LongRope::attention_factor(factor_or_ratio(original)?, original),
                };
                Scaling::LongRope(LongRope {
                    short_factor: list("short_factor")?,
                    long_factor: list("long_factor")?,
                    original_max_position_embeddings: original,
                    attention_factor,
                })
            }
            "llama3" => Scaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_position_embeddings: original()?,
            },
            "proportional" => Scaling::Proportional {
                factor: number("factor")?.unwrap_or(1.0),
                partial_rotary_factor: partial.unwrap_or(1.0),
            },
            other => {
                return Err(ConfigError::Value {
                    key: sources.first().map_or_else(String::new, |s| s.name("rope_type")),
                    expected: "default, linear, ntk, dynamic, yarn, longrope, llama3 or proportional",
                    given: format!("\"{other}\""),
                });
            }
        };
        let rope = |error| ConfigError::Rope { layer_type: layer_type.clone(), error };
        let scaled = Scaled::new(rotary_dim, base, scaling).map_err(&rope)?;
        let sections = self.sections(sources, rotary_dim)?;
        let pairing = match top.flag("rope_interleave")? {
            Some(true) => Some(Pairing::Interleaved),
            Some(false) => Some(Pairing::HalfSplit),
            None => model.pairing,
        };
        Ok(Layer {
            layer_type,
            scaled,
            pairing,
            head_dim,
            rotary_offset,
            rotary_dim,
            sections,
            max_position_embeddings,
        })
    }

    fn shape(&self, partial: Option<f64>, kind: &str) -> Result<Shape> {
        let top = &self.fields;
        // MLA: the last channels of a head rotate.
        if let Some(rotary_dim) = top.count("qk_rope_head_dim")? {
            let rotary_offset = match top.get("qk_nope_head_dim") {
                Some(_) => top.count("qk_nope_head_dim")?.unwrap_or(0),
                None => 0,
            };
            return Ok(Shape { head_dim: rotary_offset + rotary_dim, rotary_offset, rotary_dim });
        }
        let head_dim = match top.count("head_dim")?.or(self.model.head_dim) {
            Some(head_dim) => head_dim,
            None => {
                // GPT-J and its kin.
                let size = |a: &'static str, b| match top.count(a)? {
                    Some(n) => Ok(n),
                    None => top.count(b)?.ok_or(ConfigError::Missing { key: a }),
                };
                let hidden = size("hidden_size", "n_embd")?;
                let heads = size("num_attention_heads", "n_head")?;
                hidden / heads
            }
        };
        if let Some(rotary_dim) = top.count("rotary_dim")? {
            return Ok(Shape { head_dim, rotary_offset: 0, rotary_dim });
        }
        let partial = partial.unwrap_or(self.model.partial_rotary_factor);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(ConfigError::Value {
                key: "partial_rotary_factor".to_owned(),
                expected: "above 0 and at most 1",
                given: partial.to_string(),
            });
        }
        // Proportional frequencies span the head; some of them are zero.
        let rotary_dim =
            if kind == "proportional" { head_dim } else { (head_dim as f64 * partial) as usize };
        Ok(Shape { head_dim, rotary_offset: 0, rotary_dim })
    }

    fn sections(&self, sources: &[Fields<'a>], rotary_dim: usize) -> Result<Option<Sections>> {
        const KEY: &str = "mrope_section";
        for source in sources {
            let Some(sizes) = source.list(KEY)? else { continue };
            let wrong = || ConfigError::Value {
                key: source.name(KEY),
                expected: "three numbers of pairs, as many in all as rotate",
                given: format!("{sizes:?}"),
            };
            let sizes: Vec<usize> = sizes.iter().map(|&size| size as usize).collect();
            let sizes = <[usize; 3]>::try_from(sizes).map_err(|_| wrong())?;
            let interleaved = source.flag("mrope_interleaved")?.unwrap_or(false);
            let sections = match interleaved {
                true => Sections::interleaved(sizes),
                false => Sections::blocks(sizes),
            };
            let sections = sections.map_err(|_| wrong())?;
            sections.check(rotary_dim / 2).map_err(|_| wrong())?;
            return Ok(Some(sections));
        }
        Ok(None)
    }
}

/// Channels of a head, and those that rotate.
struct Shape {
    head_dim: usize,
    rotary_offset: usize,
    rotary_dim: usize,
}
