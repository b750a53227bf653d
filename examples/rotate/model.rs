//! The layers of a config that the command line asks for.

use std::fs;

use condensed_rope::Frequencies;
use condensed_rope::hf::{Config, Layer};

use crate::{Model, Result};

pub fn config(model: &Model) -> Result<Config> {
    let path = model.config.display();
    let text = fs::read_to_string(&model.config).map_err(|error| format!("{path}: {error}"))?;
    let config = Frequencies::from_hf_config(&text).map_err(|error| format!("{path}: {error}"))?;
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
