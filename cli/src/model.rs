//! The layers of a config that the command line asks for.

use std::fs;

use condensed_rope::Pairing;
use condensed_rope::hf::{Config, Layer};

use crate::{Model, Result};

pub fn config(model: &Model) -> Result<Config> {
    let path = model.config.display();
    let text = fs::read_to_string(&model.config).map_err(|error| format!("{path}: {error}"))?;
    let config = Config::from_json(&text).map_err(|error| format!("{path}: {error}"))?;
    Ok(match model.condense_ratio {
        Some(ratio) => config.condensed(ratio).map_err(|error| format!("{path}: {error}"))?,
        None => config,
    })
}

pub fn layer(model: &Model) -> Result<Layer> {
    let config = config(model)?;
    let names: Vec<&str> = config.layers.iter().filter_map(|l| l.layer_type.as_deref()).collect();
    match config.layer(model.layer_type.as_deref()) {
        Some(layer) => Ok(layer.clone()),
        None if names.is_empty() => Err("--layer-type: all layers of the config are alike".into()),
        None => Err(format!("--layer-type must be one of {}", names.join(", ")).into()),
    }
}

/// How channels pair: the model type's way, or the one that was asked for where it has none.
pub fn pairing(model: &Model, layer: &Layer) -> Result<Pairing> {
    let asked = model.pairing.map(|pairing| match pairing {
        crate::Pairing::HalfSplit => Pairing::HalfSplit,
        crate::Pairing::Interleaved => Pairing::Interleaved,
    });
    match (layer.pairing, asked) {
        (Some(fixed), Some(asked)) if fixed != asked => {
            Err(format!("--pairing: the config's model type pairs channels {fixed:?}").into())
        }
        (Some(pairing), _) | (None, Some(pairing)) => Ok(pairing),
        (None, None) => {
            Err("the config's model type does not say how channels pair: --pairing half-split or \
                 interleaved"
                .into())
        }
    }
}
