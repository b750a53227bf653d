//! From fields to layers.

use serde_json::{Map, Value};

use super::error::{ConfigError, Result};
use super::fields::{Fields, Sources, agreed};
use super::model::Model;
use super::{Config, Layer};
use crate::{
    Dynamic, FrequencySchedule, Linear, Llama3, LongRope, Ntk, Pairing, Proportional, RopeScaling,
    Sections, Yarn,
};

/// Reads a whole config.
pub(super) fn read(config: &Map<String, Value>) -> Result<Config> {
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
    Ok(Config { model_type: model_type.map(str::to_owned), layers: reader.layers()? })
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
                .map(|(name, fields)| self.layer(Some(name.clone()), vec![fields], None))
                .collect();
        }
        let sources: Vec<Fields> = [new, old].into_iter().flatten().collect();
        let local = self.fields.number("rope_local_base_freq")?.or(self.model.local_theta);
        match local {
            None => Ok(vec![self.layer(None, sources, None)?]),
            // Gemma 3: the scaling is the full layers', sliding ones have a base of their own.
            Some(base) => Ok(vec![
                self.layer(Some("full_attention".to_owned()), sources, None)?,
                self.layer(Some("sliding_attention".to_owned()), Vec::new(), Some(base))?,
            ]),
        }
    }

    /// One type of layers, from the objects that may describe its rope.
    fn layer(
        &self,
        layer_type: Option<String>,
        ropes: Vec<Fields<'a>>,
        own_base: Option<f64>,
    ) -> Result<Layer> {
        let Self { fields: top, model } = self;
        let sources = Sources { ropes, top: *top };
        let base = match own_base {
            Some(base) => base,
            None => sources
                .number_or_top("rope_theta", &["rope_theta", "rotary_emb_base"])?
                .unwrap_or(model.rope_theta),
        };
        let partial = sources
            .number_or_top("partial_rotary_factor", &["partial_rotary_factor", "rotary_pct"])?;
        let mut kinds = Vec::new();
        for rope in &sources.ropes {
            for key in ["rope_type", "type"] {
                kinds.push((rope.name(key), rope.text(key)?.map(rope_type)));
            }
        }
        let kind = agreed(kinds)?.unwrap_or("default");
        let Shape { head_dim, rotary_offset, rotary_dim } = self.shape(partial, kind)?;
        let max_position_embeddings = top.count("max_position_embeddings")?;
        let scaling = scaling(&sources, kind, partial, max_position_embeddings)?;
        let rope = |error| ConfigError::Rope { layer_type: layer_type.clone(), error };
        let schedule = FrequencySchedule::new(rotary_dim, base, scaling).map_err(rope)?;
        let sections = sections(&sources, rotary_dim)?;
        let pairing = match top.flag("rope_interleave")? {
            Some(true) => Some(Pairing::Interleaved),
            Some(false) => Some(Pairing::HalfSplit),
            None => model.pairing,
        };
        Ok(Layer {
            layer_type,
            schedule,
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
            let rotary_offset = top.count("qk_nope_head_dim")?.unwrap_or(0);
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
}

/// Channels of a head, and those that rotate.
struct Shape {
    head_dim: usize,
    rotary_offset: usize,
    rotary_dim: usize,
}

/// The scaling of a kind, by transformers' name.
fn scaling(
    sources: &Sources,
    kind: &str,
    partial: Option<f64>,
    max_position_embeddings: Option<usize>,
) -> Result<RopeScaling> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = || {
        let found = sources.count_or_top(ORIGINAL)?.or(max_position_embeddings);
        found.ok_or(ConfigError::Missing { key: ORIGINAL })
    };
    // Where there is none, the new length over the original one.
    let factor_or_ratio =
        |original: usize| match (sources.number("factor")?, max_position_embeddings) {
            (Some(factor), _) => Ok(factor),
            (None, Some(max)) => Ok(max as f64 / original as f64),
            (None, None) => Err(ConfigError::Missing { key: "factor" }),
        };
    Ok(match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear(Linear::new(sources.required("factor")?)),
        "ntk" => RopeScaling::Ntk(Ntk::new(sources.required("factor")?)),
        "dynamic" => RopeScaling::Dynamic(Dynamic::new(
            sources.required("factor")?,
            max_position_embeddings
                .ok_or(ConfigError::Missing { key: "max_position_embeddings" })?,
        )),
        "yarn" => {
            let original = original()?;
            let factor = factor_or_ratio(original)?;
            // transformers takes zero for unset.
            let set = |key: &str| Ok(sources.number(key)?.filter(|&n| n != 0.0));
            let mscales = match [set("mscale")?, set("mscale_all_dim")?] {
                [Some(mscale), Some(all_dim)] => Some((mscale, all_dim)),
                _ => None,
            };
            let mut yarn = Yarn::new(factor, original);
            yarn.beta_fast = set("beta_fast")?.unwrap_or(yarn.beta_fast);
            yarn.beta_slow = set("beta_slow")?.unwrap_or(yarn.beta_slow);
            yarn.truncate = sources.flag("truncate")?.unwrap_or(true);
            yarn.attention_factor = sources
                .number("attention_factor")?
                .unwrap_or_else(|| Yarn::attention_factor_of(factor, mscales));
            RopeScaling::Yarn(yarn)
        }
        "longrope" => {
            let original = original()?;
            let list = |key| sources.required_list(key);
            let mut longrope = LongRope::new(list("short_factor")?, list("long_factor")?, original);
            longrope.attention_factor = match sources.number("attention_factor")? {
                Some(factor) => factor,
                None => LongRope::attention_factor_of(factor_or_ratio(original)?, original),
            };
            RopeScaling::LongRope(longrope)
        }
        "llama3" => {
            let mut llama3 = Llama3::new(sources.required("factor")?, original()?);
            llama3.low_freq_factor = sources.required("low_freq_factor")?;
            llama3.high_freq_factor = sources.required("high_freq_factor")?;
            RopeScaling::Llama3(llama3)
        }
        "proportional" => RopeScaling::Proportional(Proportional::new(
            sources.number("factor")?.unwrap_or(1.0),
            partial.unwrap_or(1.0),
        )),
        other => {
            return Err(ConfigError::Value {
                key: sources.ropes.first().map_or_else(String::new, |rope| rope.name("rope_type")),
                expected: "default, linear, ntk, dynamic, yarn, longrope, llama3 or proportional",
                given: format!("\"{other}\""),
            });
        }
    })
}

fn sections(sources: &Sources<'_>, rotary_dim: usize) -> Result<Option<Sections>> {
    const KEY: &str = "mrope_section";
    for source in &sources.ropes {
        let Some(sizes) = source.whole_numbers(KEY)? else { continue };
        let wrong = || ConfigError::Value {
            key: source.name(KEY),
            expected: "three numbers of pairs, as many in all as rotate",
            given: format!("{sizes:?}"),
        };
        let sizes = <[usize; 3]>::try_from(&*sizes).map_err(|_| wrong())?;
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
