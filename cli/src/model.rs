//! The layers of a config that the command line asks for.

use std::fs;
use std::io::{Read, Seek};

use condensed_rope::Pairing;
use condensed_rope::config::{Config, Explicit, Rotary};

use crate::{Model, Result};

pub fn config(model: &Model) -> Result<Config> {
    let path = model.config.display();
    let named = |error: &dyn std::fmt::Display| format!("{path}: {error}");
    let mut explicit = Explicit::default();
    explicit.pairing = model.pairing.map(|pairing| match pairing {
        crate::Pairing::HalfSplit => Pairing::HalfSplit,
        crate::Pairing::Interleaved => Pairing::Interleaved,
    });
    explicit.head_dim = model.head_dim;
    explicit.rotary_offset = model.rotary_offset;
    explicit.rotary_dim = model.rotary_dim;
    let mut file = fs::File::open(&model.config).map_err(|error| named(&error))?;
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic).map_err(|error| named(&error))?;
    file.rewind().map_err(|error| named(&error))?;
    let config = if magic == b"GGUF" {
        Config::from_gguf_with(file, explicit)
    } else {
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| named(&error))?;
        Config::from_json_with(&text, explicit)
    };
    let config = config.map_err(|error| match error {
        condensed_rope::config::ConfigError::ModelType { .. } => {
            format!("{path}: {error}: --pairing half-split or interleaved")
        }
        error => named(&error),
    })?;
    Ok(match model.condense_ratio {
        Some(ratio) => config.condensed(ratio).map_err(|error| named(&error))?,
        None => config,
    })
}

/// How the layers of `--layer`, or of `--layer-type`, rotate; without either, all that do.
pub fn rotary(model: &Model) -> Result<Rotary> {
    let config = config(model)?;
    let Some(index) = model.layer else {
        let rotary = config.rotary(model.layer_type.as_deref());
        return Ok(rotary.map_err(|error| format!("--layer-type: {error}"))?.clone());
    };
    let group = config.layer(index).ok_or_else(|| match config.num_layers {
        Some(layers) => format!("--layer must be below {layers}: given {index}"),
        None => "--layer: the config does not say which layers there are".to_owned(),
    })?;
    let rotary = group.rotary.clone();
    Ok(rotary.ok_or_else(|| format!("--layer: layer {index} does not rotate"))?)
}
