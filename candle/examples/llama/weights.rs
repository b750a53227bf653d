//! A checkpoint's tensors by one set of names, from safetensors or from GGUF.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Result, Tensor, bail};
use serde_json::Value;

/// What a Llama-family model is, apart from its rotary embedding.
#[derive(Clone, Debug)]
pub struct Sizes {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub epsilon: f64,
    /// Tokens that a query sees, where it does not see all.
    pub sliding_window: Option<usize>,
    /// Positions that the model was trained on.
    pub context: usize,
    pub end_of_text: Vec<u32>,
}

/// Tensors and sizes of a model.
pub struct Weights {
    source: Source,
    device: Device,
    dtype: DType,
    pub sizes: Sizes,
}

enum Source {
    Safetensors(HashMap<String, Tensor>),
    Gguf(Box<Content>, PathBuf),
}

impl Weights {
    /// A folder with `config.json` and `*.safetensors`, or a GGUF file.
    pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        if path.is_dir() {
            let config = fs::read_to_string(path.join("config.json"))?;
            let mut tensors = HashMap::new();
            for entry in fs::read_dir(path)? {
                let file = entry?.path();
                if file.extension().is_some_and(|extension| extension == "safetensors") {
                    tensors.extend(candle_core::safetensors::load(file, device)?);
                }
            }
            return Self::of_tensors(&config, tensors, dtype, device);
        }
        let content = Content::read(&mut File::open(path)?)?;
        let sizes = of_gguf(&content)?;
        let source = Source::Gguf(Box::new(content), path.to_owned());
        Ok(Self { source, device: device.clone(), dtype, sizes })
    }

    /// Of a config.json's text, and tensors by transformers' names.
    pub fn of_tensors(
        config: &str,
        tensors: HashMap<String, Tensor>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let config = serde_json::from_str(config).map_err(candle_core::Error::wrap)?;
        let (source, sizes) = (Source::Safetensors(tensors), of_config(&config)?);
        Ok(Self { source, device: device.clone(), dtype, sizes })
    }

    /// By transformers' name; `None` where there is none.
    pub fn find(&self, name: &str) -> Result<Option<Tensor>> {
        match &self.source {
            Source::Safetensors(tensors) => {
                tensors.get(name).map(|tensor| tensor.to_dtype(self.dtype)).transpose()
            }
            Source::Gguf(content, path) => {
                let name = gguf_name(name);
                if !content.tensor_infos.contains_key(&name) {
                    return Ok(None);
                }
                let mut file = File::open(path)?;
                let tensor = content.tensor(&mut file, &name, &self.device)?;
                Ok(Some(tensor.dequantize(&self.device)?.to_dtype(self.dtype)?))
            }
        }
    }

    pub fn get(&self, name: &str) -> Result<Tensor> {
        match self.find(name)? {
            Some(tensor) => Ok(tensor),
            None => bail!("the checkpoint has no tensor {name}"),
        }
    }
}

fn gguf_name(name: &str) -> String {
    let name = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd");
    let pairs = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ];
    pairs.iter().fold(name, |name, (theirs, gguf)| name.replace(theirs, gguf))
}

fn of_config(config: &Value) -> Result<Sizes> {
    let known = ["llama", "mistral", "qwen2", "qwen3", "smollm3"];
    let model_type = config["model_type"].as_str().unwrap_or_default();
    if !known.contains(&model_type) {
        bail!("model_type must be one of {}: given {model_type:?}", known.join(", "));
    }
    let number = |key: &str| match config[key].as_u64() {
        Some(number) => Ok(number as usize),
        None => bail!("config.json: {key} is missing"),
    };
    let heads = number("num_attention_heads")?;
    let head_dim = match config["head_dim"].as_u64() {
        Some(head_dim) => head_dim as usize,
        None => number("hidden_size")?.checked_div(heads).unwrap_or(0),
    };
    let ends = match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
        id => id.as_u64().map(|id| id as u32).into_iter().collect(),
    };
    let slides = config["use_sliding_window"].as_bool().unwrap_or(model_type == "mistral");
    Ok(Sizes {
        layers: number("num_hidden_layers")?,
        heads,
        kv_heads: number("num_key_value_heads").unwrap_or(heads),
        head_dim,
        epsilon: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
        sliding_window: config["sliding_window"].as_u64().filter(|_| slides).map(|n| n as usize),
        context: number("max_position_embeddings")?,
        end_of_text: ends,
    })
}

fn of_gguf(content: &Content) -> Result<Sizes> {
    let value = |key: &str| match content.metadata.get(key) {
        Some(value) => Ok(value),
        None => bail!("GGUF: {key} is missing"),
    };
    let architecture = value("general.architecture")?.to_string()?.clone();
    if !["llama", "qwen2", "qwen3"].contains(&architecture.as_str()) {
        bail!("general.architecture must be llama, qwen2 or qwen3: given {architecture}");
    }
    let number = |key: &str| -> Result<usize> {
        Ok(value(&format!("{architecture}.{key}"))?.to_u32()? as usize)
    };
    let heads = number("attention.head_count")?;
    let head_dim = match number("attention.key_length") {
        Ok(head_dim) => head_dim,
        Err(_) => number("embedding_length")?.checked_div(heads).unwrap_or(0),
    };
    let epsilon = value(&format!("{architecture}.attention.layer_norm_rms_epsilon"))?.to_f32()?;
    let end = value("tokenizer.ggml.eos_token_id").and_then(|value| value.to_u32());
    Ok(Sizes {
        layers: number("block_count")?,
        heads,
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        epsilon: epsilon.into(),
        sliding_window: None,
        context: number("context_length")?,
        end_of_text: end.into_iter().collect(),
    })
}
