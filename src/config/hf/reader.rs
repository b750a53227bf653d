//! From fields to groups of layers.

use serde_json::{Map, Value};

use super::fields::{Fields, Seen, Sources, agreed};
use super::layers::{self, Layers};
use super::models::{Model, Sliding};
use super::qk_norms;
use super::{deepseek_v4, scaling};
use crate::config::error::{ConfigError, Result};
use crate::config::{Config, Explicit, FULL, LayerGroup, Rotary, SLIDING, Shape};
use crate::{FrequencySchedule, Pairing, RopeScaling, SectionOrder, Sections};

/// Where multimodal models keep the language model's part.
const TEXT: [&[&str]; 5] = [
    &["text_config"],
    &["thinker_config", "text_config"],
    &["llm_config"],
    &["language_config"],
    &["decoder"],
];

/// The objects that describe ropes, in transformers 5 and before.
const ROPES: [&str; 2] = ["rope_parameters", "rope_scaling"];
const PREFIXES: [&str; 2] = ["rope_parameters.", "rope_scaling."];

/// Keys of a rope's object that change no angle: what a class multiplies queries by elsewhere, and notes.
const HARMLESS_IN_ROPES: [&str; 5] = [
    "llama_4_scaling_beta",
    "max_position_embeddings",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
];

/// Keys at the top that look like a rope's and change no angle of q and k: an indexer's is not theirs.
const HARMLESS_AT_THE_TOP: [&str; 4] =
    ["indexer_rope_interleave", "qk_nope_head_dim", "rope_parameters", "rope_scaling"];

/// Whether a key at the top may be about ropes.
fn is_of_ropes(key: &str) -> bool {
    let key = key.to_lowercase();
    ["rope", "rotary", "theta", "nope", "alibi"].iter().any(|word| key.contains(word))
        || key == "position_embedding_type"
}

/// Reads a whole config.
pub(super) fn read(config: &Map<String, Value>, explicit: Explicit) -> Result<Config> {
    let text = TEXT.iter().find_map(|path| {
        path.iter().try_fold(config, |object, key| object.get(*key).and_then(Value::as_object))
    });
    let text = text.unwrap_or(config);
    let name = |object: &Map<_, Value>| {
        object.get("model_type").and_then(Value::as_str).map(str::to_owned)
    };
    let names = [name(text), name(config)];
    let known = names.iter().flatten().find_map(|name| Model::of(name));
    let model_type = names.into_iter().flatten().next();
    let model = match (known, explicit.pairing) {
        (Some(model), _) => *model,
        (None, Some(pairing)) => Model::unknown(pairing),
        (None, None) => return Err(ConfigError::ModelType { given: model_type }),
    };
    let is_part = !std::ptr::eq(text, config);
    let canonical = match &*model_type.clone().unwrap_or_default() {
        "deepseek_v4" => Some(deepseek_v4::canonical(text)?),
        _ => None,
    };
    let text = canonical.as_ref().unwrap_or(text);
    let seen = Seen::default();
    let top = Fields { object: text, prefix: "", seen: &seen };
    let reader = Reader { top, model, explicit, is_known: known.is_some() };
    let (num_layers, groups) = (layers::count(&top)?, reader.groups()?);
    let qk_norm = qk_norms::read(model_type.as_deref(), &top)?;
    if groups.iter().all(|group| group.rotary.is_none()) {
        return Ok(Config { model_type, num_layers, groups, qk_norm });
    }
    top.all_read(&HARMLESS_AT_THE_TOP, |key| is_of_ropes(key) && !model.harmless.contains(&key))?;
    if is_part {
        // Outside of the language model's part nothing is read; some files say there what the part says.
        let outer = Fields { object: config, prefix: "", seen: &Seen::default() };
        let outside = name(config).and_then(|name| Model::of(&name));
        let differs = |key: &str| {
            let harmless = outside.is_some_and(|model| model.harmless_outside.contains(&key));
            is_of_ropes(key) && config.get(key) != text.get(key) && !harmless
        };
        outer.all_read(&[], differs)?;
    }
    Ok(Config { model_type, num_layers, groups, qk_norm })
}

struct Reader<'a> {
    top: Fields<'a>,
    model: Model,
    explicit: Explicit,
    is_known: bool,
}

impl Reader<'_> {
    fn groups(&self) -> Result<Vec<LayerGroup>> {
        let Self { top, model, .. } = self;
        if self.switched_off()? {
            let indices = layers::count(top)?.map(|layers| (0..layers).collect());
            return Ok(vec![LayerGroup { layer_types: Vec::new(), indices, rotary: None }]);
        }
        let nested = Nested::of(top.object);
        if model.has_default_scaling && ROPES.iter().all(|key| object(top.object, key).is_none()) {
            return Err(ConfigError::missing(ROPES[0]));
        }
        let names = nested.as_ref().map_or(&[][..], |nested| &nested.names);
        let mut groups: Vec<LayerGroup> = Vec::new();
        for Layers { layer_type, indices, rotates, base } in layers::read(top, model, names)? {
            let name = layer_type.as_deref();
            let rotary = match &nested {
                _ if !rotates => None,
                None => {
                    let mut ropes = Vec::new();
                    for (key, prefix) in ROPES.into_iter().zip(PREFIXES) {
                        ropes.extend(top.fields(key, prefix)?);
                    }
                    Some(self.rotary(name, ropes, true, base)?)
                }
                Some(nested) => {
                    let rope = nested.rope(name, top)?;
                    rope.map(|rope| self.rotary(name, vec![rope], false, base)).transpose()?
                }
            };
            // Layers that share everything are one group.
            match groups.iter_mut().find(|group| group.rotary == rotary) {
                Some(group) => {
                    group.layer_types.extend(layer_type);
                    let both = group.indices.take().zip(indices);
                    group.indices = both.map(|(mut all, more)| {
                        all.extend(more);
                        all.sort_unstable();
                        all
                    });
                }
                None => {
                    let layer_types = layer_type.into_iter().collect();
                    groups.push(LayerGroup { layer_types, indices, rotary });
                }
            }
        }
        if let Some(nested) = nested {
            nested.all_read(&groups)?;
        }
        Ok(groups)
    }

    /// Whether a key says that there is no rotary embedding.
    fn switched_off(&self) -> Result<bool> {
        let top = &self.top;
        // Qwen 1's: other frequencies by length, by a rule that no scaling here has.
        if top.flag("use_dynamic_ntk")? == Some(true) {
            let (key, given) = (top.name("use_dynamic_ntk"), "true".to_owned());
            return Err(ConfigError::Unread { key, given });
        }
        if top.flag("alibi")? == Some(true) {
            return Ok(true);
        }
        let Some((key, otherwise)) = self.model.position_key else { return Ok(false) };
        let rotates = match top.object.get(key) {
            Some(Value::Bool(_)) => top.flag(key)?,
            _ => match top.text(key)? {
                None => None,
                Some("rope" | "rotary" | "rope_gptj") => Some(true),
                Some(
                    "nope" | "absolute" | "learned" | "alibi" | "relative_key"
                    | "relative_key_query",
                ) => Some(false),
                Some(other) => {
                    let (key, given) = (top.name(key), format!("{other:?}"));
                    return Err(ConfigError::Value {
                        key,
                        expected: "rope, nope or absolute",
                        given,
                    });
                }
            },
        };
        Ok(!rotates.unwrap_or(otherwise))
    }

    /// How layers of one type rotate, by the objects that may describe it.
    fn rotary(
        &self,
        layer_type: Option<&str>,
        mut ropes: Vec<Fields<'_>>,
        old_spelling: bool,
        listed_base: Option<f64>,
    ) -> Result<Rotary> {
        let Self { top, model, .. } = self;
        let is_plain =
            old_spelling && layer_type == Some(SLIDING) && model.sliding != Sliding::Same;
        let all = Sources { ropes: ropes.clone(), top: *top };
        let base = match model.sliding {
            Sliding::Base(key, default) if is_plain => top.number(key)?.unwrap_or(default),
            _ => base(&all)?.unwrap_or(model.theta),
        };
        let base = listed_base.unwrap_or(base);
        let tops = ["partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_emb_fraction"];
        let partial = all.number_or_top(tops[0], &tops)?;
        if is_plain {
            ropes.clear();
        }
        let sources = Sources { ropes, top: *top };
        let kind = sources.kind()?;
        let shape = self.shape(layer_type, partial, kind)?;
        let max_position_embeddings = top.count("max_position_embeddings")?;
        let (base, scaling) = match kind {
            "ntk" if model.ntk_divides => scaling::ntk(&sources, base, shape.rotary_dim)?,
            _ => (base, scaling::read(&sources, kind, partial, max_position_embeddings)?),
        };
        if scaling == RopeScaling::Default {
            // The layers of a scaling that there is not (Molmo 2).
            top.list("rope_scaling_layers")?;
        }
        // An odd part of the head: whole pairs, over the exponents of the odd number.
        let is_odd = !shape.rotary_dim.is_multiple_of(2);
        let Shape { head_dim, rotary_offset, rotary_dim: odd } = shape;
        let rotary_dim = if is_odd { odd + 1 } else { odd };
        let shape = Shape { head_dim, rotary_offset, rotary_dim }.check(top.name("head_dim"))?;
        let base = match scaling {
            _ if !is_odd => base,
            RopeScaling::Default => base.powf(rotary_dim as f64 / odd as f64),
            _ => {
                let (key, given) = (top.name("partial_rotary_factor"), format!("{odd} channels"));
                let expected = "a part of an even number of channels where the rope is scaled";
                return Err(ConfigError::Value { key, expected, given });
            }
        };
        let rope = |error| ConfigError::Rope { layer_type: layer_type.map(str::to_owned), error };
        let schedule = FrequencySchedule::new(shape.rotary_dim, base, scaling).map_err(rope)?;
        // LongChat's own spelling.
        let schedule = match top.number("rope_condense_ratio")? {
            Some(ratio) => schedule.condensed(ratio).map_err(rope)?,
            None => schedule,
        };
        let sections = self.sections(&sources, shape.rotary_dim)?;
        for fields in &sources.ropes {
            fields.all_read(&HARMLESS_IN_ROPES, |_| true)?;
        }
        Ok(Rotary {
            schedule,
            pairing: self.pairing()?,
            direction: model.direction,
            head_dim,
            rotary_offset,
            rotary_dim,
            sections,
            max_position_embeddings,
        })
    }

    fn pairing(&self) -> Result<Pairing> {
        let mut said = Vec::new();
        for key in ["rope_interleave", "rope_interleaved", "rotary_emb_interleaved"] {
            let pairing = self.top.flag(key)?.map(|is_interleaved| {
                if is_interleaved { Pairing::Interleaved } else { Pairing::HalfSplit }
            });
            said.push((self.top.name(key), pairing));
        }
        let said = agreed(said)?;
        let known = said.or(self.is_known.then_some(self.model.pairing));
        self.explicit.agree(known, self.model.pairing)
    }

    fn shape(&self, layer_type: Option<&str>, partial: Option<f64>, kind: &str) -> Result<Shape> {
        let (shape, key) = self.unchecked_shape(layer_type, partial, kind)?;
        let shape = self.explicit.shape(shape, self.is_known || partial.is_some())?;
        let part = model_part(&self.model, partial);
        if part < 1.0 && !shape.rotary_dim.is_multiple_of(2) {
            return Ok(shape);
        }
        shape.check(self.top.name(key))
    }

    /// And the key that it comes from.
    fn unchecked_shape(
        &self,
        layer_type: Option<&str>,
        partial: Option<f64>,
        kind: &str,
    ) -> Result<(Shape, &'static str)> {
        let Self { top, model, .. } = self;
        // MLA: the last channels of a head rotate.
        if let Some(rotary_dim) = top.count("qk_rope_head_dim")? {
            let rotary_offset = top.count("qk_nope_head_dim")?.unwrap_or(0);
            let head_dim = rotary_offset.saturating_add(rotary_dim);
            return Ok((Shape { head_dim, rotary_offset, rotary_dim }, "qk_rope_head_dim"));
        }
        if model.is_mla {
            return Err(ConfigError::missing("qk_rope_head_dim"));
        }
        let mut head_dim = None;
        for key in model.head_dim_keys {
            head_dim = head_dim.or(top.count(key)?);
        }
        let mut head_dim = head_dim.or(model.head_dim);
        if let Some((key, default)) = model.full_head_dim {
            let full = top.count(key)?.unwrap_or(default);
            head_dim = if layer_type == Some(FULL) { Some(full) } else { head_dim };
        }
        if layer_type == Some(SLIDING) {
            head_dim = top.count("swa_head_dim")?.or(head_dim);
        }
        let head_dim = match head_dim {
            Some(head_dim) => head_dim,
            None => {
                // GPT-J and its kin, DBRX, Moonshine.
                let size = |keys: [&'static str; 3]| -> Result<Option<usize>> {
                    keys.iter().try_fold(None, |found, key| Ok(found.or(top.count(key)?)))
                };
                let hidden = size(["hidden_size", "n_embd", "d_model"])?;
                let heads = size(["num_attention_heads", "n_head", "n_heads"])?;
                let heads = heads.or(top.count("decoder_num_attention_heads")?);
                match (hidden, heads, model.sizes) {
                    (Some(hidden), Some(heads), _) => hidden / heads,
                    // Both left to the class.
                    (None, None, Some((hidden, heads))) => hidden / heads,
                    (None, ..) => return Err(ConfigError::missing("hidden_size")),
                    (_, None, _) => return Err(ConfigError::missing("num_attention_heads")),
                }
            }
        };
        let shape = |rotary_dim| Shape { head_dim, rotary_offset: 0, rotary_dim };
        for key in model.rotary_dim_keys {
            if let Some(rotary_dim) = top.count(key)? {
                return Ok((shape(rotary_dim), key));
            }
        }
        if let (None, Some(rotary_dim)) = (partial, model.rotary_dim) {
            return Ok((shape(rotary_dim), "rotary_dim"));
        }
        let partial = partial.unwrap_or(model.partial);
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
        Ok((shape(rotary_dim), "head_dim"))
    }

    fn sections(&self, sources: &Sources<'_>, rotary_dim: usize) -> Result<Option<Sections>> {
        const KEY: &str = "mrope_section";
        let mut given = None;
        for source in &sources.ropes {
            // What the flag says the class does whatever it says.
            source.flag("mrope_interleaved")?;
            given = source.whole_numbers(KEY)?.map(|sizes| (source.name(KEY), sizes)).or(given);
        }
        // Their order is the class's, and so are the sizes where the file has none.
        let (mrope, (key, sizes)) = match (self.model.mrope, given) {
            (Some(mrope), given) => {
                (mrope, given.unwrap_or_else(|| (KEY.to_owned(), mrope.sizes.to_vec())))
            }
            (None, Some((key, sizes))) => {
                return Err(ConfigError::Unread { key, given: format!("{sizes:?}") });
            }
            (None, None) => return Ok(None),
        };
        let wrong = || ConfigError::Value {
            key: key.clone(),
            expected: "three numbers of pairs, as many in all as rotate",
            given: format!("{sizes:?}"),
        };
        let sizes = <[usize; 3]>::try_from(&*sizes).map_err(|_| wrong())?;
        let sections = match (mrope.order, sizes) {
            (SectionOrder::Interleaved, _) => Sections::interleaved(sizes),
            // ERNIE's list begins with height.
            (SectionOrder::HeightWidthThenTime, [height, width, time]) if height == width => {
                Sections::height_width_then_time([time, height, width])
            }
            (SectionOrder::HeightWidthThenTime, _) => return Err(wrong()),
            _ => Sections::blocks(sizes),
        };
        let sections = sections.map_err(|_| wrong())?;
        sections.check(rotary_dim / 2).map_err(|_| wrong())?;
        Ok(Some(sections))
    }
}

/// Ropes nested by layer type: some value of the object is an object.
struct Nested<'a> {
    key: &'static str,
    object: &'a Map<String, Value>,
    names: Vec<String>,
    /// What the keys of each are called by.
    prefixes: Vec<String>,
}

impl<'a> Nested<'a> {
    fn of(top: &'a Map<String, Value>) -> Option<Self> {
        let nested = |key| {
            let object = object(top, key)?;
            object.values().any(Value::is_object).then_some((key, object))
        };
        let (key, object) = ROPES.into_iter().find_map(nested)?;
        let names: Vec<String> = object.keys().cloned().collect();
        let prefixes = names.iter().map(|name| format!("{key}.{name}.")).collect();
        Some(Self { key, object, names, prefixes })
    }

    /// The rope of a layer type; `None` where it does not rotate.
    fn rope<'b>(&'b self, name: Option<&str>, top: &Fields<'b>) -> Result<Option<Fields<'b>>> {
        let name = name.ok_or_else(|| ConfigError::missing("layer_types"))?;
        match (self.object.get(name), self.names.iter().position(|known| known == name)) {
            (Some(Value::Object(object)), Some(at)) => {
                Ok(Some(Fields { object, prefix: &self.prefixes[at], seen: top.seen }))
            }
            (Some(Value::Null), _) => Ok(None),
            _ => Err(ConfigError::Value {
                key: self.key.to_owned(),
                expected: "a rope for each layer type",
                given: format!("none for {name}"),
            }),
        }
    }

    /// Keys beside the layer types', and ropes of types that no layer has.
    fn all_read(&self, groups: &[LayerGroup]) -> Result<()> {
        for (name, value) in self.object {
            let has = groups.iter().any(|group| group.layer_types.contains(name));
            // A class's default has a rope for either type, whichever layers there are.
            let types = [FULL, SLIDING, "hybrid", "hybrid_sliding"];
            let usual = value.is_object() && types.contains(&&**name);
            // transformers takes plain keys beside the types' for leftovers of another spelling.
            let leftover = ["rope_type", "type", "rope_theta"].contains(&&**name);
            if !(has || usual || leftover || value.is_null()) {
                let (key, given) = (format!("{}.{name}", self.key), value.to_string());
                return Err(ConfigError::Unread { key, given });
            }
        }
        Ok(())
    }
}

fn object<'a>(top: &'a Map<String, Value>, key: &str) -> Option<&'a Map<String, Value>> {
    top.get(key).and_then(Value::as_object)
}

/// The part of the head that rotates.
fn model_part(model: &Model, partial: Option<f64>) -> f64 {
    partial.unwrap_or(model.partial)
}

/// The base, by each of its names; chatglm multiplies it.
fn base(sources: &Sources) -> Result<Option<f64>> {
    let names = ["rope_theta", "rotary_emb_base", "rope_embedding_base", "global_rope_theta"];
    let base = sources.number_or_top("rope_theta", &names)?;
    Ok(match sources.top.number("rope_ratio")? {
        Some(ratio) => Some(base.unwrap_or(10_000.0) * ratio),
        None => base,
    })
}
