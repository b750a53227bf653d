//! From metadata to groups of layers.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::architectures::{Architecture, Full, Layers};
use super::file::{File, LONG, ROPE_FREQS, SHORT, Value};
use crate::config::error::{ConfigError, Result};
use crate::config::{Config, Explicit, FULL, LayerGroup, MAX_LAYERS, Rotary, SLIDING, Shape};
use crate::{
    Direction, FrequencySchedule, Linear, LongRope, Pairing, RopeScaling, SectionOrder, Sections,
    Yarn,
};

pub(super) fn read(file: &File, explicit: Explicit) -> Result<Config> {
    let name = match file.metadata.get("general.architecture") {
        Some(Value::Text(name)) => name.as_str(),
        Some(_) => return Err(value("general.architecture", "a text", "something else")),
        None => return Err(ConfigError::missing("general.architecture")),
    };
    let known = Architecture::of(name);
    let architecture = match (known, explicit.pairing) {
        (Some(known), _) => *known,
        (None, Some(pairing)) => Architecture::unknown(pairing),
        (None, None) => return Err(ConfigError::ModelType { given: Some(name.to_owned()) }),
    };
    let (is_known, seen) = (known.is_some(), RefCell::default());
    let reader = Reader { file, name, architecture, explicit, is_known, seen };
    let num_layers = reader.layers()?;
    let groups = reader.groups(num_layers)?;
    if architecture.pairing.is_some() {
        reader.all_read()?;
    }
    // Whether an architecture's files have norms, their tensors say, which are not read.
    Ok(Config { model_type: Some(name.to_owned()), num_layers, groups, qk_norm: None })
}

struct Reader<'a> {
    file: &'a File,
    name: &'a str,
    architecture: Architecture,
    explicit: Explicit,
    is_known: bool,
    /// Keys that were read.
    seen: RefCell<BTreeSet<String>>,
}

/// Layers that slide turn otherwise.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Full,
    Sliding { base: f64 },
}

impl Reader<'_> {
    fn groups(&self, num_layers: Option<usize>) -> Result<Vec<LayerGroup>> {
        let indices = |is: &dyn Fn(usize) -> Result<bool>| -> Result<Option<Vec<usize>>> {
            let Some(layers) = num_layers else { return Ok(None) };
            let mut found = Vec::new();
            for layer in 0..layers {
                if self.has_attention(layer)? && is(layer)? {
                    found.push(layer);
                }
            }
            Ok(Some(found))
        };
        let group = |layer_type: Option<&str>, indices, rotary| LayerGroup {
            layer_types: layer_type.map(str::to_owned).into_iter().collect(),
            indices,
            rotary,
        };
        let Some(pairing) = self.architecture.pairing else {
            return Ok(vec![group(None, indices(&|_| Ok(true))?, None)]);
        };
        self.explicit.agree(Some(pairing), pairing)?;
        let full = || self.rotary(pairing, Kind::Full).map(Some);
        let groups = match self.architecture.layers {
            Layers::Alike => vec![group(None, indices(&|_| Ok(true))?, full()?)],
            Layers::FourthWithout => {
                let rotates = |layer: usize| !(layer + 1).is_multiple_of(4);
                vec![
                    group(None, indices(&|layer| Ok(rotates(layer)))?, full()?),
                    group(None, indices(&|layer| Ok(!rotates(layer)))?, None),
                ]
            }
            Layers::Sliding { full: Full::WithoutBesideSliding, .. }
                if self.count("attention.sliding_window")?.is_none_or(|window| window == 0) =>
            {
                vec![group(None, indices(&|_| Ok(true))?, full()?)]
            }
            Layers::Sliding { period, full: how } => {
                self.count("attention.sliding_window")?;
                let slides = |layer| self.slides(layer, period);
                let (full, sliding) = match how {
                    Full::OtherBase(base) => {
                        let base = self.number("rope.freq_base_swa")?.unwrap_or(base);
                        (full()?, Some(self.rotary(pairing, Kind::Sliding { base })?))
                    }
                    Full::Without | Full::WithoutBesideSliding => (None, full()?),
                };
                vec![
                    group(Some(SLIDING), indices(&slides)?, sliding),
                    group(Some(FULL), indices(&|layer| Ok(!slides(layer)?))?, full),
                ]
            }
        };
        let has_layers = |group: &LayerGroup| group.indices.as_ref().is_none_or(|i| !i.is_empty());
        Ok(groups.into_iter().filter(has_layers).collect())
    }

    fn rotary(&self, pairing: Pairing, kind: Kind) -> Result<Rotary> {
        let is_sliding = kind != Kind::Full;
        let swa = |key: &'static str, swa: &'static str| -> Result<Option<usize>> {
            let full = self.count(key)?;
            Ok(if is_sliding { self.count(swa)?.or(full) } else { full })
        };
        // With MLA's latent cache the key that attention sees is the latent one.
        let mla =
            if self.architecture.is_mla { self.count("attention.key_length_mla")? } else { None };
        let head_dim = match mla.or(swa("attention.key_length", "attention.key_length_swa")?) {
            Some(head_dim) => head_dim,
            None => {
                let width = self.needed("embedding_length")?;
                let heads = self.needed("attention.head_count")?;
                width
                    .checked_div(heads)
                    .ok_or_else(|| self.value("attention.head_count", "above 0", "0"))?
            }
        };
        let said = swa("rope.dimension_count", "rope.dimension_count_swa")?;
        let rotary_dim = said.unwrap_or(head_dim);
        let rotary_offset =
            if self.architecture.is_mla { head_dim.saturating_sub(rotary_dim) } else { 0 };
        let shape = Shape { head_dim, rotary_offset, rotary_dim };
        let shape = self.explicit.shape(shape, self.is_known || said.is_some())?;
        let shape = shape.check(self.key("rope.dimension_count"))?;
        let Shape { head_dim, rotary_offset, rotary_dim } = shape;
        let base = match kind {
            Kind::Full => self.number("rope.freq_base")?.unwrap_or(10_000.0),
            Kind::Sliding { base } => base,
        };
        let max_position_embeddings = self.count("context_length")?;
        let scaling = match kind {
            Kind::Full => self.scaling(max_position_embeddings)?,
            Kind::Sliding { .. } => RopeScaling::Default,
        };
        let rope = |error| ConfigError::Rope { layer_type: None, error };
        let schedule = FrequencySchedule::new(rotary_dim, base, scaling).map_err(rope)?;
        Ok(Rotary {
            schedule,
            pairing,
            direction: Direction::Forward,
            head_dim,
            rotary_offset,
            rotary_dim,
            sections: self.sections(rotary_dim)?,
            max_position_embeddings,
        })
    }

    fn scaling(&self, trained: Option<usize>) -> Result<RopeScaling> {
        const TYPE: &str = "rope.scaling.type";
        let factors = |name: &str| -> Option<Vec<f64>> {
            Some(self.file.factors.get(name)?.iter().map(|&f| f.into()).collect())
        };
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let original = self.count("rope.scaling.original_context_length")?.or(trained);
        let needed = || original.ok_or_else(|| self.missing("context_length"));
        let attention = self.number("rope.scaling.attn_factor")?;
        let log_multiplier = self.number("rope.scaling.yarn_log_multiplier")?;
        self.flag("rope.scaling.finetuned")?;
        let kind = self.text(TYPE)?;
        // A list of divisors, whichever scaling they came from.
        if let Some(divisors) = factors(ROPE_FREQS) {
            // Of the full rotary range; as many as pairs.
            if let Some(factor) = factor.filter(|&factor| factor != 1.0) {
                return Err(ConfigError::Contradiction {
                    keys: [ROPE_FREQS.to_owned(), self.key("rope.scaling.factor")],
                    given: ["a list".to_owned(), factor.to_string()],
                });
            }
            let mut longrope = LongRope::new(divisors.clone(), divisors, usize::MAX >> 11);
            longrope.attention_factor = attention.unwrap_or(1.0);
            return Ok(RopeScaling::LongRope(longrope));
        }
        match kind {
            Some("longrope") | None if self.file.factors.contains_key(LONG) => {
                let list = |name| factors(name).ok_or_else(|| ConfigError::missing(name));
                let mut longrope = LongRope::new(list(SHORT)?, list(LONG)?, needed()?);
                longrope.attention_factor = attention.unwrap_or(1.0);
                Ok(RopeScaling::LongRope(longrope))
            }
            Some("longrope") => Err(ConfigError::missing(LONG)),
            Some("yarn") => {
                let factor = factor.ok_or_else(|| self.missing("rope.scaling.factor"))?;
                let mut yarn = Yarn::new(factor, needed()?);
                if let Some(beta) = self.number("rope.scaling.yarn_beta_fast")? {
                    yarn.beta_fast = beta;
                }
                if let Some(beta) = self.number("rope.scaling.yarn_beta_slow")? {
                    yarn.beta_slow = beta;
                }
                let usual = if self.architecture.plain_factor {
                    1.0
                } else {
                    let mscales = log_multiplier.map(|multiplier| (1.0, multiplier));
                    Yarn::attention_factor_of(factor, mscales)
                };
                yarn.attention_factor = usual * attention.unwrap_or(1.0);
                Ok(RopeScaling::Yarn(yarn))
            }
            // Without a type a factor is linear.
            Some("linear") | None | Some("none") => {
                if let Some(attention) = attention.filter(|&attention| attention != 1.0) {
                    let key = self.key("rope.scaling.attn_factor");
                    return Err(ConfigError::Unread { key, given: attention.to_string() });
                }
                let stretches = |factor: &f64| *factor != 1.0 && *factor != 0.0;
                match factor.filter(stretches) {
                    Some(factor) if kind != Some("none") => {
                        Ok(RopeScaling::Linear(Linear::new(factor)))
                    }
                    Some(factor) => Err(ConfigError::Contradiction {
                        keys: [self.key(TYPE), self.key("rope.scaling.factor")],
                        given: ["none".to_owned(), factor.to_string()],
                    }),
                    None => Ok(RopeScaling::Default),
                }
            }
            Some(other) => Err(self.value(TYPE, "none, linear, yarn or longrope", other)),
        }
    }

    fn sections(&self, rotary_dim: usize) -> Result<Option<Sections>> {
        const KEY: &str = "rope.dimension_sections";
        let Some(mut sizes) = self.whole_numbers(KEY)? else { return Ok(None) };
        // Four numbers, of which the last ones may be of axes that there are not.
        while sizes.last() == Some(&0) {
            sizes.pop();
        }
        if sizes.is_empty() {
            return Ok(None);
        }
        let sections = match self.architecture.order {
            SectionOrder::Interleaved => Sections::interleaved(&sizes),
            _ => Sections::blocks(&sizes),
        };
        let fits = |sections: &Sections| sections.pairs() == rotary_dim / 2;
        match sections {
            Ok(sections) if fits(&sections) => Ok(Some(sections)),
            _ => Err(self.value(KEY, "as many pairs in all as rotate", &format!("{sizes:?}"))),
        }
    }

    fn layers(&self) -> Result<Option<usize>> {
        match self.count("block_count")? {
            Some(layers) if layers > MAX_LAYERS => {
                Err(self.value("block_count", "at most 4096", &layers.to_string()))
            }
            layers => Ok(layers),
        }
    }

    /// Layers without key heads have none.
    fn has_attention(&self, layer: usize) -> Result<bool> {
        const KEY: &str = "attention.head_count_kv";
        match self.get(KEY) {
            Some(Value::Numbers(heads)) => match heads.get(layer) {
                Some(heads) => Ok(*heads != 0.0),
                None => {
                    Err(self.value(KEY, "one number a layer", &format!("{} of them", heads.len())))
                }
            },
            _ => Ok(true),
        }
    }

    fn slides(&self, layer: usize, period: Option<usize>) -> Result<bool> {
        const KEY: &str = "attention.sliding_window_pattern";
        let period = match self.get(KEY) {
            Some(Value::Numbers(pattern)) => {
                let slides = pattern.get(layer).map(|&slides| slides != 0.0);
                let given = || format!("{} of them", pattern.len());
                return slides.ok_or_else(|| self.value(KEY, "one flag a layer", &given()));
            }
            Some(_) => self.count(KEY)?,
            None => period,
        };
        match period {
            Some(period @ 1..) => Ok(!(layer + 1).is_multiple_of(period)),
            Some(0) => Err(self.value(KEY, "above 0", "0")),
            None => Err(self.missing(KEY)),
        }
    }

    /// Every key about ropes was read.
    fn all_read(&self) -> Result<()> {
        let prefix = self.key("rope.");
        let seen = self.seen.borrow();
        let unread = |key: &&String| key.starts_with(&prefix) && !seen.contains(*key);
        match self.file.metadata.keys().find(unread) {
            Some(key) => Err(ConfigError::Unread {
                key: key.clone(),
                given: format!("{:?}", self.file.metadata[key]),
            }),
            None => Ok(()),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let key = self.key(key);
        let value = self.file.metadata.get(&key);
        self.seen.borrow_mut().insert(key);
        value
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_finite() => Ok(Some(*number)),
            Some(other) => Err(self.value(key, "a finite number", &format!("{other:?}"))),
        }
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        if number.fract() == 0.0 && (0.0..2f64.powi(53)).contains(&number) {
            return Ok(Some(number as usize));
        }
        Err(self.value(key, "a whole number, zero or more", &number.to_string()))
    }

    fn needed(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    fn whole_numbers(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let whole = |n: &f64| n.fract() == 0.0 && (0.0..1e6).contains(n);
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(list)) if list.iter().all(whole) => {
                Ok(Some(list.iter().map(|&n| n as usize).collect()))
            }
            Some(other) => Err(self.value(key, "whole numbers", &format!("{other:?}"))),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.value(key, "a text", &format!("{other:?}"))),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.value(key, "a flag", &format!("{other:?}"))),
        }
    }

    fn value(&self, key: &str, expected: &'static str, given: &str) -> ConfigError {
        value(&self.key(key), expected, given)
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::missing(&self.key(key))
    }
}

fn value(key: &str, expected: &'static str, given: &str) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), expected, given: given.to_owned() }
}
