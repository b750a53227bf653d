use std::fs::File;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use condensed_rope::DimOrder;
use condensed_rope::config::{Config, ConfigError};

use crate::{Positions, Rope};

/// The rotary embedding of a model's layers, as its `config.json` or GGUF file describes it, with one optional condense
/// ratio: FastChat's `replace_llama_with_condense(ratio)`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use condensed_rope_candle::RotaryEmbedding;
///
/// let config = r#"{"model_type": "llama", "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 2,
///     "max_position_embeddings": 2048}"#;
/// // Reads 8192 positions.
/// let rotary = RotaryEmbedding::from_json(config, Some(4.0), &Device::Cpu)?;
/// let q = Tensor::randn(0f32, 1.0, (1, 8, 5, 64), &Device::Cpu)?;
/// let k = q.clone();
/// let (q, k) = rotary.rotate(0, &q, &k, 8000)?;
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RotaryEmbedding {
    config: Config,
    /// Of each group of layers; `None` where it does not rotate.
    ropes: Vec<Option<Rope>>,
}

impl RotaryEmbedding {
    /// Of the text of a `config.json`; every position is divided by `condense_ratio`, if there is one.
    ///
    /// # Errors
    /// For a config that cannot be read, which names the key; and for a ratio on top of one that is stretched already.
    pub fn from_json(json: &str, condense_ratio: Option<f64>, device: &Device) -> Result<Self> {
        Self::new(Config::from_json(json), condense_ratio, device)
    }

    /// Of a GGUF file's metadata.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and where the file cannot be read.
    pub fn from_gguf(
        path: impl AsRef<Path>,
        condense_ratio: Option<f64>,
        device: &Device,
    ) -> Result<Self> {
        Self::new(Config::from_gguf(File::open(path)?), condense_ratio, device)
    }

    /// Of a config that was read.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn new(
        config: std::result::Result<Config, ConfigError>,
        condense_ratio: Option<f64>,
        device: &Device,
    ) -> Result<Self> {
        let config = config.and_then(|config| match condense_ratio {
            Some(ratio) => config.condensed(ratio),
            None => Ok(config),
        });
        let config = config.map_err(candle_core::Error::wrap)?;
        let mut ropes = Vec::new();
        for group in &config.groups {
            ropes.push(match &group.rotary {
                None => None,
                Some(rotary) => {
                    let frequencies = rotary.schedule.frequencies();
                    let rope = Rope::new(device, frequencies, rotary.pairing)?;
                    let rope = rope.rotate_from(rotary.rotary_offset);
                    let forward = rotary.direction == condensed_rope::Direction::Forward;
                    Some(if forward { rope } else { rope.inverse() })
                }
            });
        }
        Ok(Self { config, ropes })
    }

    /// What was read.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The rope of a layer; `None` where it does not rotate.
    ///
    /// # Errors
    /// Where there is no such layer.
    pub fn layer(&self, index: usize) -> Result<Option<&Rope>> {
        let group = self.config.layer(index).and_then(|layer| {
            self.config.groups.iter().position(|group| std::ptr::eq(group, layer))
        });
        match group {
            Some(group) => Ok(self.ropes[group].as_ref()),
            None => {
                candle_core::bail!("layer {index}: the config has no such layer with attention")
            }
        }
    }

    /// Rotates q and k `[batch, heads, seq, head_dim]` of a layer, from a start on: what candle's model files call
    /// `apply_rotary_emb`. Tensors of a layer that does not rotate come back as they are.
    ///
    /// # Errors
    /// As [`Rope::rotate`].
    pub fn rotate(
        &self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        start: usize,
    ) -> Result<(Tensor, Tensor)> {
        self.rotate_at(layer, q, k, &Positions::consecutive(start as i64))
    }

    /// The same at any positions.
    ///
    /// # Errors
    /// As [`Rope::rotate`].
    pub fn rotate_at(
        &self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        positions: &Positions,
    ) -> Result<(Tensor, Tensor)> {
        match self.layer(layer)? {
            Some(rope) => rope.rotate(DimOrder::Bhsd, q, k, positions),
            None => Ok((q.clone(), k.clone())),
        }
    }

    /// Frequencies for texts of `length` tokens, where the scaling has others by length (LongRoPE, dynamic). Returns
    /// whether they changed: keys in a cache were turned by the old ones then.
    ///
    /// # Errors
    /// The driver's.
    pub fn set_length(&mut self, length: usize) -> Result<bool> {
        let mut changed = false;
        for (group, rope) in self.config.groups.iter_mut().zip(&self.ropes) {
            if let (Some(rotary), Some(rope)) = (&mut group.rotary, rope)
                && rotary.schedule.set_length(length)
            {
                rope.set_frequencies(0, rotary.schedule.frequencies())?;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// cos and sin of a layer, `[rows, rotary_dim / 2]`, for models that take them.
    ///
    /// # Errors
    /// As [`Rope::cos_sin`]; and for a layer that does not rotate.
    pub fn cos_sin(&self, layer: usize, rows: usize, dtype: DType) -> Result<(Tensor, Tensor)> {
        match self.layer(layer)? {
            Some(rope) => rope.cos_sin(0, rows, dtype),
            None => candle_core::bail!("layer {layer} does not rotate"),
        }
    }
}
