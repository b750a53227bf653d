//! What transformers' classes know that a `config.json` may leave out.

use crate::Pairing;

/// What transformers' classes know that a `config.json` may leave out.
pub(super) struct Model {
    pub pairing: Option<Pairing>,
    pub partial_rotary_factor: f64,
    pub head_dim: Option<usize>,
    pub rope_theta: f64,
    /// The base of sliding layers, where they have one of their own.
    pub local_theta: Option<f64>,
}

impl Model {
    pub fn of(model_type: &str) -> Self {
        use Pairing::{HalfSplit, Interleaved};
        let name = model_type.strip_suffix("_text").unwrap_or(model_type);
        let pairing = match name {
            "llama" | "mistral" | "mistral3" | "ministral" | "mixtral" | "qwen2" | "qwen2_moe"
            | "qwen3" | "qwen3_moe" | "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl" | "qwen3_vl_moe"
            | "gemma" | "gemma2" | "gemma3" | "phi" | "phi3" | "phimoe" | "stablelm"
            | "gpt_neox" | "falcon" | "gpt_oss" | "olmo" | "olmo2" | "olmo3" | "starcoder2"
            | "granite" | "persimmon" | "nemotron" | "glm4_moe" | "smollm3" | "exaone4"
            | "internlm2" => Some(HalfSplit),
            "gptj" | "codegen" | "glm" | "glm4" | "chatglm" | "cohere" | "cohere2"
            | "deepseek_v2" | "deepseek_v3" | "llama4" | "ernie4_5" => Some(Interleaved),
            _ => None,
        };
        let partial_rotary_factor = match name {
            "gpt_neox" | "stablelm" => 0.25,
            "phi" | "persimmon" | "nemotron" | "glm" | "glm4" | "chatglm" | "glm4_moe" => 0.5,
            _ => 1.0,
        };
        let head_dim = match name {
            "gemma" | "gemma2" | "gemma3" => Some(256),
            "qwen3" | "qwen3_moe" | "glm" | "glm4" => Some(128),
            "gpt_oss" => Some(64),
            _ => None,
        };
        let (rope_theta, local_theta) = match name {
            "gemma3" => (1_000_000.0, Some(10_000.0)),
            "gpt_oss" => (150_000.0, None),
            _ => (10_000.0, None),
        };
        Self { pairing, partial_rotary_factor, head_dim, rope_theta, local_theta }
    }
}
