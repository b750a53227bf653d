//! Released models by their `config.json`, as `tests/golden/models/` has them: each one is a test of its
//! own on every backend.

use condensed_rope::hf::{Config, Layer};
use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions};

use crate::{Backend, Case, Values, check};

/// The config of a model of the table.
pub fn config(name: &str) -> Config {
    Frequencies::from_hf_config(json(name)).expect("a config that is understood")
}

/// Names of the models.
pub const NAMES: [&str; 23] = [
    "longchat_7b_16k",
    "vicuna_13b_v1_5_16k",
    "llama_2_7b_32k",
    "llama_3_1_8b",
    "llama_3_1_70b",
    "llama_3_1_405b",
    "llama_3_2_1b",
    "qwen2_5_7b",
    "qwen3_8b",
    "phi_3_5_mini",
    "phi_4_mini",
    "deepseek_v3",
    "gemma_3_12b",
    "gpt_oss_120b",
    "glm_4_9b",
    "stablelm_3b",
    "gpt_neox_20b",
    "gpt_j_6b",
    "falcon_7b",
    "qwen2_vl_7b",
    "qwen3_vl_8b",
    "kind_dynamic",
    "kind_proportional",
];

/// Its text.
pub fn json(name: &str) -> &'static str {
    match name {
        "longchat_7b_16k" => include_str!("../../tests/golden/models/longchat_7b_16k.json"),
        "vicuna_13b_v1_5_16k" => include_str!("../../tests/golden/models/vicuna_13b_v1_5_16k.json"),
        "llama_2_7b_32k" => include_str!("../../tests/golden/models/llama_2_7b_32k.json"),
        "llama_3_1_8b" => include_str!("../../tests/golden/models/llama_3_1_8b.json"),
        "llama_3_1_70b" => include_str!("../../tests/golden/models/llama_3_1_70b.json"),
        "llama_3_1_405b" => include_str!("../../tests/golden/models/llama_3_1_405b.json"),
        "llama_3_2_1b" => include_str!("../../tests/golden/models/llama_3_2_1b.json"),
        "qwen2_5_7b" => include_str!("../../tests/golden/models/qwen2_5_7b.json"),
        "qwen3_8b" => include_str!("../../tests/golden/models/qwen3_8b.json"),
        "phi_3_5_mini" => include_str!("../../tests/golden/models/phi_3_5_mini.json"),
        "phi_4_mini" => include_str!("../../tests/golden/models/phi_4_mini.json"),
        "deepseek_v3" => include_str!("../../tests/golden/models/deepseek_v3.json"),
        "gemma_3_12b" => include_str!("../../tests/golden/models/gemma_3_12b.json"),
        "gpt_oss_120b" => include_str!("../../tests/golden/models/gpt_oss_120b.json"),
        "glm_4_9b" => include_str!("../../tests/golden/models/glm_4_9b.json"),
        "stablelm_3b" => include_str!("../../tests/golden/models/stablelm_3b.json"),
        "gpt_neox_20b" => include_str!("../../tests/golden/models/gpt_neox_20b.json"),
        "gpt_j_6b" => include_str!("../../tests/golden/models/gpt_j_6b.json"),
        "falcon_7b" => include_str!("../../tests/golden/models/falcon_7b.json"),
        "qwen2_vl_7b" => include_str!("../../tests/golden/models/qwen2_vl_7b.json"),
        "qwen3_vl_8b" => include_str!("../../tests/golden/models/qwen3_vl_8b.json"),
        "kind_dynamic" => include_str!("../../tests/golden/models/kind_dynamic.json"),
        "kind_proportional" => include_str!("../../tests/golden/models/kind_proportional.json"),
        _ => panic!("no model {name}"),
    }
}

/// Tests of one backend, one a model: query and key heads as the model has them.
#[macro_export]
macro_rules! models {
    ([$(#[$attribute:meta])*] $backend:expr) => {
        $crate::models! { @tests [$(#[$attribute])*] $backend =>
            longchat_7b_16k: [32, 32],
            vicuna_13b_v1_5_16k: [40, 40],
            llama_2_7b_32k: [32, 32],
            llama_3_1_8b: [32, 8],
            llama_3_1_70b: [64, 8],
            llama_3_1_405b: [128, 8],
            llama_3_2_1b: [32, 8],
            qwen2_5_7b: [28, 4],
            qwen3_8b: [32, 8],
            phi_3_5_mini: [32, 32],
            phi_4_mini: [24, 8],
            deepseek_v3: [128, 1],
            gemma_3_12b: [16, 8],
            gpt_oss_120b: [64, 8],
            glm_4_9b: [32, 2],
            stablelm_3b: [32, 32],
            gpt_neox_20b: [64, 64],
            gpt_j_6b: [16, 16],
            falcon_7b: [71, 1],
            qwen2_vl_7b: [28, 4],
            qwen3_vl_8b: [32, 8],
            kind_dynamic: [8, 8],
            kind_proportional: [8, 8],
        }
    };
    (@tests $attributes:tt $backend:expr => $($name:ident: $heads:expr,)*) => {
        $($crate::models! { @test $attributes $name $backend => $heads })*
    };
    (@test [$(#[$attribute:meta])*] $name:ident $backend:expr => $heads:expr) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            $crate::models::rotates(&$backend, stringify!($name), $heads);
        }
    };
}

/// Every layer type of a model, at the original length and past it, in bf16 and f32, exact and with the
/// CPU backend's bits.
pub fn rotates(backend: &impl Backend, name: &str, heads: [usize; 2]) {
    for layer in config(name).layers {
        let mut scaled = layer.scaled.clone();
        rotates_by(backend, &layer, scaled.frequencies(), heads);
        if scaled.depends_on_length() {
            assert!(scaled.set_length(1 << 17), "{name} has other frequencies for long sequences");
            rotates_by(backend, &layer, scaled.frequencies(), heads);
            assert!(scaled.set_length(1) && scaled == layer.scaled);
        }
    }
}

fn rotates_by(backend: &impl Backend, layer: &Layer, frequencies: &Frequencies, heads: [usize; 2]) {
    const TOKENS: usize = 5;
    let q = Layout::thd(TOKENS, heads[0], layer.head_dim).rotate_from(layer.rotary_offset);
    // MLA's key: one head, its rotated channels behind the latent ones.
    let k = match layer.rotary_offset {
        0 => Layout::thd(TOKENS, heads[1], layer.head_dim),
        _ => Layout::thd(TOKENS, heads[1], 512 + layer.rotary_dim).rotate_from(512),
    };
    let ids = [0, 1, 77, 16_383, 131_071];
    let positions = match layer.sections {
        None => Positions::ids(Values::I64(ids.to_vec())),
        Some(sections) => {
            let axes = ids.iter().chain(&[3, 1, 4, 1, 5]).chain(&[9, 2, 6, 5, 3]);
            Positions::axes(Values::I64(axes.copied().collect()), sections)
        }
    };
    for dtype in [Dtype::BF16, Dtype::F32] {
        check(
            backend,
            &Case {
                dtype,
                pairing: layer.pairing.unwrap_or(Pairing::HalfSplit),
                sets: vec![frequencies.clone()],
                positions: positions.clone(),
                ..Case::of(layer.rotary_dim, q, Some(k))
            },
        );
    }
}
