//! Which layers there are, of which types, and which of them rotate.

use super::fields::Fields;
use super::models::{Full, Model, Sliding, Without};
use crate::config::error::{ConfigError, Result};
use crate::config::{FULL, MAX_LAYERS, SLIDING};

/// Layers of one type that all rotate, or all do not.
pub(super) struct Layers {
    pub layer_type: Option<String>,
    pub indices: Option<Vec<usize>>,
    pub rotates: bool,
    /// A base of their own, by `layer_rope_theta`.
    pub base: Option<f64>,
}

/// Types of layers without attention, which are in no group.
const OTHERS: [&str; 7] =
    ["linear_attention", "conv", "mamba", "mamba2", "recurrent", "moe", "mlp"];

/// Number of layers, where the file says it.
pub(super) fn count(top: &Fields) -> Result<Option<usize>> {
    for key in ["num_hidden_layers", "n_layer", "num_layers", "n_layers"] {
        match top.count(key)? {
            None => {}
            Some(layers) if layers <= MAX_LAYERS => return Ok(Some(layers)),
            Some(layers) => {
                return Err(ConfigError::Value {
                    key: top.name(key),
                    expected: "at most 4096",
                    given: layers.to_string(),
                });
            }
        }
    }
    Ok(None)
}

/// The layers of a config, in the order of their first ones; `nested` are the types that have a rope of their own.
pub(super) fn read(top: &Fields, model: &Model, nested: &[String]) -> Result<Vec<Layers>> {
    let count = count(top)?;
    let types = types(top, model, count)?;
    let listed = listed(top, model, count)?;
    let bases = if model.has_base_list { bases(top, count)? } else { None };
    let base = |index: Option<usize>| Some(bases.as_ref()?[index?]);
    let rotates = |index: Option<usize>, layer_type: Option<&str>, types: &[String]| {
        let full = layer_type == Some(FULL);
        if let Some(base) = base(index) {
            return base != 0.0;
        }
        match model.without {
            Without::None => true,
            Without::All => false,
            Without::Full => !full,
            Without::FullBesideSliding => !(full && types.iter().any(|name| name == SLIDING)),
            Without::Listed(_) => match (index, &listed) {
                (Some(index), Some(listed)) => listed.get(index).copied().unwrap_or(true),
                _ => true,
            },
        }
    };
    let mut found: Vec<Layers> = Vec::new();
    let mut push = |index: Option<usize>, layer_type: Option<&str>, rotates: bool| {
        let same = found.iter_mut().find(|l| {
            let same = l.layer_type.as_deref() == layer_type && l.rotates == rotates;
            same && l.base == base(index)
        });
        match (same, index) {
            (Some(layers), index) => {
                layers.indices.iter_mut().zip(index).for_each(|(all, i)| all.push(i))
            }
            (None, index) => found.push(Layers {
                layer_type: layer_type.map(str::to_owned),
                indices: index.map(|index| vec![index]),
                rotates,
                base: base(index),
            }),
        }
    };
    match (&types, count) {
        (Some(types), _) => {
            let attends = |(_, name): &(usize, &String)| !OTHERS.contains(&name.as_str());
            for (index, name) in types.iter().enumerate().filter(attends) {
                push(Some(index), Some(name), rotates(Some(index), Some(name), types));
            }
        }
        // How many there are is not known, but their types are.
        (None, None) if !nested.is_empty() => {
            for name in nested {
                push(None, Some(name), rotates(None, Some(name), nested));
            }
        }
        (None, None) if model.differs() => {
            let both = [FULL.to_owned(), SLIDING.to_owned()];
            for name in &both {
                push(None, Some(name), rotates(None, Some(name), &both));
            }
        }
        (None, None) => {
            push(None, None, rotates(None, None, &[]));
            if matches!(model.without, Without::Listed(_)) {
                push(None, None, false);
            }
        }
        (None, Some(count)) => {
            for index in 0..count {
                let rotates = rotates(Some(index), None, &[]);
                let layer_type = match model.without {
                    Without::Listed(Some(types)) => Some(types[usize::from(!rotates)]),
                    _ => None,
                };
                push(Some(index), layer_type, rotates);
            }
        }
    }
    Ok(found)
}

impl Model {
    /// Whether full and sliding layers rotate in different ways.
    fn differs(&self) -> bool {
        self.sliding != Sliding::Same
            || matches!(self.without, Without::Full | Without::FullBesideSliding)
    }
}

/// The type of each layer, where the file says it, or the class.
fn types(top: &Fields, model: &Model, count: Option<usize>) -> Result<Option<Vec<String>>> {
    // As many as there are layers, where the file says how many.
    let checked = |key: &str, types: Vec<String>| {
        let fits = count.is_none_or(|count| types.len() == count) && types.len() <= MAX_LAYERS;
        if fits {
            return Ok(Some(types));
        }
        Err(ConfigError::Value {
            key: top.name(key),
            expected: "one entry a layer",
            given: format!("{} of them", types.len()),
        })
    };
    if let Some(types) = top.texts("layer_types")? {
        return checked("layer_types", types);
    }
    if !model.differs() {
        return Ok(None);
    }
    // MiMo's list: 1 is a sliding layer.
    if let Some(pattern) = top.whole_numbers("hybrid_layer_pattern")? {
        let name = |is_sliding: usize| if is_sliding == 1 { SLIDING } else { FULL }.to_owned();
        return checked("hybrid_layer_pattern", pattern.into_iter().map(name).collect());
    }
    let Some(count) = count else { return Ok(None) };
    let mut given = None;
    for key in ["sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers"] {
        given = top.period(key)?.or(given);
    }
    let (usual, is_last) = match model.full {
        Full::Unknown => (None, true),
        Full::FirstOf(period) => (Some(period), false),
        Full::LastOf(period) => (Some(period), true),
    };
    let period = given.or(usual).ok_or_else(|| ConfigError::missing("layer_types"))?;
    let is_full = |index: usize| (index + usize::from(is_last)).is_multiple_of(period);
    let name = |index| if is_full(index) { FULL } else { SLIDING }.to_owned();
    Ok(Some((0..count).map(name).collect()))
}

/// Each layer's base; zero where it does not rotate.
fn bases(top: &Fields, count: Option<usize>) -> Result<Option<Vec<f64>>> {
    const KEY: &str = "layer_rope_theta";
    match (top.list(KEY)?, count) {
        (None, _) => Ok(None),
        (Some(bases), Some(count)) if bases.len() == count => Ok(Some(bases)),
        (Some(bases), _) => Err(ConfigError::Value {
            key: top.name(KEY),
            expected: "one base a layer",
            given: format!("{} of them", bases.len()),
        }),
    }
}

/// Whether each layer rotates, of a class that has a list of it.
fn listed(top: &Fields, model: &Model, count: Option<usize>) -> Result<Option<Vec<bool>>> {
    const KEY: &str = "no_rope_layers";
    if !matches!(model.without, Without::Listed(_)) {
        return Ok(None);
    }
    let list = top.whole_numbers(KEY)?.filter(|list| !list.is_empty());
    let interval = top.count("no_rope_layer_interval")?.unwrap_or(4);
    match (list, count) {
        (Some(list), Some(count)) if list.len() != count => Err(ConfigError::Value {
            key: top.name(KEY),
            expected: "one number a layer",
            given: format!("{} numbers of {count} layers", list.len()),
        }),
        (Some(list), _) => Ok(Some(list.into_iter().map(|rotates| rotates != 0).collect())),
        (None, Some(count)) => Ok(Some((1..=count).map(|n| !n.is_multiple_of(interval)).collect())),
        (None, None) => Ok(None),
    }
}
