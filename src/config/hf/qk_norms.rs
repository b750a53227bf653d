//! How transformers' classes normalise query and key heads: by model type, as `models.rs` has their ropes. Held to
//! `tests/golden/qk_norms.json`, which is of the classes' own source and of what their norms make of numbers.

use super::fields::Fields;
use crate::config::error::Result;
use crate::config::{NormOrder, NormWeights, QkNorm};

/// The norm of some types: its epsilon's key and default, and the key that turns it on, where there is one.
struct Norm {
    types: &'static [&'static str],
    weights: NormWeights,
    is_per_head: bool,
    order: NormOrder,
    eps: (&'static str, f64),
    condition: Option<&'static str>,
}

/// As Qwen3's.
const HEADS: Norm = Norm {
    types: &[],
    weights: NormWeights::Plain,
    is_per_head: true,
    order: NormOrder::BeforeRotation,
    eps: ("rms_norm_eps", 1e-6),
    condition: None,
};
/// As Gemma 3's.
const UNIT_OFFSET: Norm = Norm { weights: NormWeights::UnitOffset, ..HEADS };
/// As OLMo 2's.
const ALL_HEADS: Norm = Norm { is_per_head: false, ..HEADS };

const NORMS: &[Norm] = &[
    Norm {
        types: &[
            "beam",
            "cosmos3_omni",
            "diffusion_gemma",
            "diffusion_gemma_text",
            "doge",
            "dots1",
            "embedding_gemma2",
            "embedding_gemma2_text",
            "flint",
            "fun_asr_nano",
            "gemma3n",
            "gemma3n_text",
            "gemma4",
            "gemma4_text",
            "gemma4_unified",
            "gemma4_unified_text",
            "inkling_text",
            "kolibri1",
            "laguna",
            "lara_mini",
            "lighton_ocr",
            "mellum",
            "moss_transcribe_diarize",
            "qianfan_ocr",
            "qwen3",
            "qwen3_asr",
            "qwen3_moe",
            "qwen3_omni_moe",
            "qwen3_omni_moe_talker_text",
            "qwen3_omni_moe_text",
            "qwen3_omni_moe_thinker",
            "qwen3_vl",
            "qwen3_vl_moe",
            "qwen3_vl_moe_text",
            "qwen3_vl_text",
        ],
        ..HEADS
    },
    Norm {
        types: &[
            "afmoe",
            "apertus",
            "apertus1p5",
            "apertus1p5_text",
            "exaone4",
            "exaone4_5",
            "exaone_moe",
            "hy_v3",
            "lfm3",
            "lfm3_vl",
        ],
        eps: ("rms_norm_eps", 1e-5),
        ..HEADS
    },
    Norm {
        types: &["glm4_moe"],
        eps: ("rms_norm_eps", 1e-5),
        condition: Some("use_qk_norm"),
        ..HEADS
    },
    Norm { types: &["lfm2", "lfm2_moe", "lfm2_vl"], eps: ("norm_eps", 1e-5), ..HEADS },
    Norm {
        types: &[
            "gemma3",
            "gemma3_text",
            "jev",
            "minicpm_ocr",
            "minicpmv4_6",
            "minicpmv4_7",
            "minimax_m3_vl",
            "minimax_m3_vl_text",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen3_5_moe_text",
            "qwen3_5_text",
            "qwen3_next",
            "qwen4_exp",
            "qwen4_exp_text",
            "shieldgemma2",
            "t5gemma2",
            "t5gemma2_decoder",
            "t5gemma2_encoder",
            "t5gemma2_text",
        ],
        ..UNIT_OFFSET
    },
    Norm { types: &["step3p5", "step3p7"], eps: ("rms_norm_eps", 1e-5), ..UNIT_OFFSET },
    Norm {
        types: &["flex_olmo", "minimax_m2", "molmo2", "molmo2_text", "olmo_hybrid"],
        ..ALL_HEADS
    },
    Norm { types: &["olmo2", "olmo3", "olmoe"], eps: ("rms_norm_eps", 1e-5), ..ALL_HEADS },
    Norm {
        types: &["hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl", "hunyuan_vl_text"],
        order: NormOrder::AfterRotation,
        eps: ("rms_norm_eps", 1e-5),
        ..HEADS
    },
    // Others: LayerNorm, or a norm without weights.
    Norm {
        types: &["cohere"],
        weights: NormWeights::Other,
        eps: ("layer_norm_eps", 1e-5),
        condition: Some("use_qk_norm"),
        ..HEADS
    },
    Norm {
        types: &["fuyu", "persimmon", "phi"],
        weights: NormWeights::Other,
        eps: ("layer_norm_eps", 1e-5),
        condition: Some("qk_layernorm"),
        ..ALL_HEADS
    },
    Norm {
        types: &["stablelm"],
        weights: NormWeights::Other,
        eps: ("layer_norm_eps", 1e-5),
        condition: Some("qk_layernorm"),
        ..HEADS
    },
    Norm {
        types: &["chameleon", "esmc"],
        weights: NormWeights::Other,
        eps: ("", 1e-5),
        ..ALL_HEADS
    },
    Norm {
        types: &["nanochat"],
        weights: NormWeights::Other,
        order: NormOrder::AfterRotation,
        ..HEADS
    },
    Norm { types: &["dory"], weights: NormWeights::Other, eps: ("", 1e-6), ..HEADS },
];

/// The norm of a model type, by the fields of its file; `None` where there is none.
pub(super) fn read(model_type: Option<&str>, top: &Fields) -> Result<Option<QkNorm>> {
    let Some(model_type) = model_type else { return Ok(None) };
    let of = |norm: &&Norm| norm.types.contains(&model_type);
    let Some(norm) = NORMS.iter().find(of) else { return Ok(None) };
    let is_on = norm.condition.map_or(Ok(true), |key| Ok(top.flag(key)? == Some(true)));
    if !is_on? {
        return Ok(None);
    }
    let (key, default) = norm.eps;
    let eps = if key.is_empty() { None } else { top.number(key)? }.unwrap_or(default);
    let Norm { weights, is_per_head, order, .. } = *norm;
    Ok(Some(QkNorm { weights, is_per_head, order, eps }))
}
