use std::fs::File;
use std::path::PathBuf;

use condensed_rope::config::{self, Explicit, LayerGroup};
use condensed_rope::{Direction, Pairing};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::frequencies::Frequencies;
use crate::raised_config;
use crate::sections::Sections;

/// What a `config.json` or a GGUF file says of rotary embedding.
#[pyclass(frozen, module = "condensed_rope")]
pub struct Config(config::Config);

fn explicit(pairing: Option<&str>) -> PyResult<Explicit> {
    Ok(match pairing {
        None => Explicit::default(),
        Some("half-split") => Explicit::pairing(Pairing::HalfSplit),
        Some("interleaved") => Explicit::pairing(Pairing::Interleaved),
        Some(other) => {
            let message = format!("pairing must be half-split or interleaved: given {other:?}");
            return Err(PyValueError::new_err(message));
        }
    })
}

#[pymethods]
impl Config {
    /// Reads the text of a config.json.
    #[staticmethod]
    #[pyo3(signature = (text, pairing=None))]
    fn from_json(text: &str, pairing: Option<&str>) -> PyResult<Self> {
        let config = config::Config::from_json_with(text, explicit(pairing)?);
        config.map(Self).map_err(raised_config)
    }

    /// Reads a GGUF file's metadata.
    #[staticmethod]
    #[pyo3(signature = (path, pairing=None))]
    fn from_gguf(path: PathBuf, pairing: Option<&str>) -> PyResult<Self> {
        let config = config::Config::from_gguf_with(File::open(path)?, explicit(pairing)?);
        config.map(Self).map_err(raised_config)
    }

    /// Every position of every layer divided by `ratio`; an error where the config stretches positions already.
    fn condensed(&self, ratio: f64) -> PyResult<Self> {
        self.0.clone().condensed(ratio).map(Self).map_err(raised_config)
    }

    #[getter]
    fn model_type(&self) -> Option<String> {
        self.0.model_type.clone()
    }

    /// Layers that rotate alike: dictionaries of layer_types, indices, rotates, head_dim, rotary_offset, rotary_dim,
    /// pairing, inverse, base, ratio, scaling; sections, where a token has several positions.
    #[getter]
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.0.groups.iter().map(|group| dictionary(py, group)).collect()
    }

    /// The frequencies of the layers of a type; of all layers that rotate, where they are alike.
    #[pyo3(signature = (layer_type=None))]
    fn frequencies(&self, layer_type: Option<&str>) -> PyResult<Frequencies> {
        let rotary = self.0.rotary(layer_type).map_err(raised_config)?;
        Ok(Frequencies(rotary.schedule.frequencies().clone()))
    }
}

fn dictionary<'py>(py: Python<'py>, group: &LayerGroup) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("layer_types", &group.layer_types)?;
    out.set_item("indices", &group.indices)?;
    out.set_item("rotates", group.rotary.is_some())?;
    let Some(rotary) = &group.rotary else { return Ok(out) };
    out.set_item("head_dim", rotary.head_dim)?;
    out.set_item("rotary_offset", rotary.rotary_offset)?;
    out.set_item("rotary_dim", rotary.rotary_dim)?;
    let half_split = rotary.pairing == Pairing::HalfSplit;
    out.set_item("pairing", if half_split { "half-split" } else { "interleaved" })?;
    if let Some(sections) = &rotary.sections {
        out.set_item("sections", Sections(*sections))?;
    }
    out.set_item("inverse", rotary.direction == Direction::Inverse)?;
    out.set_item("base", rotary.schedule.base())?;
    out.set_item("ratio", rotary.schedule.ratio())?;
    out.set_item("scaling", rotary.schedule.scaling().name())?;
    Ok(out)
}
