//! What transformers' classes do that a `config.json` does not say: pairing, defaults, where head_dim is, layers that
//! do not rotate. Of transformers 5.24.0, and of 4.57.6 where the type is its alone. Base, part, head_dim and default
//! scaling are held to `class_defaults.json`, which the config classes themselves were asked for.

use crate::{Direction, Pairing, SectionOrder};

/// The version of transformers that the table of model types is of.
pub const TRANSFORMERS_VERSION: &str = "5.24.0";

/// What a class does.
#[derive(Clone, Copy)]
pub(super) struct Model {
    pub types: &'static [&'static str],
    pub pairing: Pairing,
    pub direction: Direction,
    /// `rope_theta` and `partial_rotary_factor` where the file has none.
    pub theta: f64,
    pub partial: f64,
    /// Keys of the channels of a head, and their default; without either, `hidden_size` over heads.
    pub head_dim_keys: &'static [&'static str],
    pub head_dim: Option<usize>,
    /// The key of the channels of a head in full layers, and their default, where those are wider.
    pub full_head_dim: Option<(&'static str, usize)>,
    /// Keys of the number of rotated channels, before any part of the head, and their default.
    pub rotary_dim_keys: &'static [&'static str],
    pub rotary_dim: Option<usize>,
    /// Whether the last channels of a head rotate, as many as `qk_rope_head_dim` says (MLA).
    pub is_mla: bool,
    /// How sliding layers turn.
    pub sliding: Sliding,
    /// Layers that do not rotate.
    pub without: Without,
    /// Which layers are of full attention, where the file has no `layer_types`.
    pub full: Full,
    /// M-RoPE, if the class has it.
    pub mrope: Option<Mrope>,
    /// The key that says whether positions are rotary, and whether they are where it is not there.
    pub position_key: Option<(&'static str, bool)>,
    /// Whether a file without a rope's object means a scaling of the class's own.
    pub has_default_scaling: bool,
    /// Keys at the top that this class does not read.
    pub harmless: &'static [&'static str],
    /// The same outside of the language model's part: another part's.
    pub harmless_outside: &'static [&'static str],
    /// Whether the class reads `layer_rope_theta`, a base a layer.
    pub has_base_list: bool,
    /// `hidden_size` and `num_attention_heads` where a file has neither.
    pub sizes: Option<(usize, usize)>,
    /// Whether scaling `ntk` is gte's.
    pub ntk_divides: bool,
}

/// How sliding layers turn.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sliding {
    /// As full ones.
    Same,
    /// Without scaling.
    Plain,
    /// Without scaling, by a base of their own: its key, and its default.
    Base(&'static str, f64),
}

/// Which layers are of full attention; the others slide. A file may have another period.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Full {
    /// Only the file says it.
    Unknown,
    /// The first of so many.
    FirstOf(usize),
    /// The last of so many.
    LastOf(usize),
}

/// Layers that do not rotate.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Without {
    None,
    All,
    /// Those of full attention.
    Full,
    /// Those of full attention, if there are sliding ones.
    FullBesideSliding,
    /// Those with a 0 in `no_rope_layers`; every fourth, where there is no list. And the types of those that
    /// rotate and of the others, where the file names none.
    Listed(Option<[&'static str; 2]>),
}

/// M-RoPE: the order of its axes, and their default sizes, as `mrope_section` lists them.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Mrope {
    pub order: SectionOrder,
    pub sizes: [usize; 3],
}

/// LLaMA, which most classes are by another name.
const LLAMA: Model = Model {
    types: &[],
    pairing: Pairing::HalfSplit,
    direction: Direction::Forward,
    theta: 10_000.0,
    partial: 1.0,
    head_dim_keys: &["head_dim"],
    head_dim: None,
    full_head_dim: None,
    rotary_dim_keys: &[],
    rotary_dim: None,
    is_mla: false,
    sliding: Sliding::Same,
    without: Without::None,
    full: Full::Unknown,
    mrope: None,
    position_key: Some(("position_embedding_type", true)),
    has_default_scaling: false,
    harmless: &[],
    harmless_outside: &[],
    has_base_list: false,
    sizes: None,
    ntk_divides: false,
};
const GPTJ: Model = Model { pairing: Pairing::Interleaved, ..LLAMA };

const fn blocks(sizes: [usize; 3]) -> Option<Mrope> {
    Some(Mrope { order: SectionOrder::Blocks, sizes })
}

const fn interleaved(sizes: [usize; 3]) -> Option<Mrope> {
    Some(Mrope { order: SectionOrder::Interleaved, sizes })
}

const MODELS: &[Model] = &[
    Model { types: &["llama"], sizes: Some((4096, 32)), ..LLAMA },
    Model {
        types: &[
            "mistral",
            "ministral",
            "qwen",
            "qwen2",
            "qwen2_moe",
            "starcoder2",
            "olmo",
            "olmo2",
            "olmoe",
            "granite",
            "granitemoe",
            "granitemoeshared",
            "granite_docling",
            "arcee",
            "aria",
            "baichuan",
            "deepseek",
            "dots1",
            "internlm",
            "internlm2",
            "internlm3",
            "mimo",
            "minicpm",
            "orion",
            "diffllama",
            "doge",
            "moshi",
            "hyperclovax",
            "jais2",
            "kyutai_speech_to_text",
            "chameleon",
            "dbrx",
            "dia_decoder",
            "eurobert",
            "falcon_h1",
            "gpt_neox_japanese",
            "hrm_text",
            "idefics",
            "olmo_hybrid",
            "nemotron-nas",
            "deepseek_ocr2",
            "voxtral_realtime",
            "falcon",
            "qwen3_moe",
            "glm_image",
            "qwen3_omni_moe_talker",
            "molmo2",
            "esmc",
            "gradium_phonon_tts",
            "granite4_vision",
            "pocket_tts",
            "unlimited_ocr",
        ],
        ..LLAMA
    },
    Model { types: &["granite_swa", "granitemoe_swa"], has_base_list: true, ..LLAMA },
    Model { types: &["minicpm3", "hy_v4"], is_mla: true, ..LLAMA },
    Model { types: &["higgs_audio_v2"], theta: 5e5, has_default_scaling: true, ..LLAMA },
    Model { types: &["hy_v3"], theta: 11_158_840.0, head_dim: Some(128), ..LLAMA },
    Model { types: &["blt_patcher"], ..GPTJ },
    Model { types: &["esm"], position_key: Some(("position_embedding_type", false)), ..LLAMA },
    Model { types: &["phi3", "phi3_v", "phi3small", "phi4_multimodal"], ..LLAMA },
    Model {
        types: &["bitnet", "evolla", "csm", "csm_depth_decoder", "flex_olmo", "exaone", "mllama"],
        theta: 5e5,
        ..LLAMA
    },
    Model { types: &["mixtral", "phimoe", "emu3", "lfm2", "lfm2_moe"], theta: 1e6, ..LLAMA },
    Model { types: &["minimax"], theta: 1e6, harmless: &["rotary_dim"], ..LLAMA },
    Model { types: &["musicflamingo"], harmless_outside: &["rope_parameters"], ..LLAMA },
    Model { types: &["hy_v4_vl"], mrope: interleaved([12, 10, 10]), is_mla: true, ..GPTJ },
    Model {
        types: &["gte", "new"],
        theta: 160_000.0,
        ntk_divides: true,
        position_key: Some(("position_embedding_type", true)),
        ..LLAMA
    },
    Model { types: &["jina_embeddings_v3"], theta: 20_000.0, ..LLAMA },
    Model { types: &["cwm"], theta: 1e6, has_default_scaling: true, ..LLAMA },
    Model { types: &["apertus", "apertus1p5"], theta: 12e6, has_default_scaling: true, ..LLAMA },
    Model { types: &["ministral3"], theta: 1e6, has_default_scaling: true, ..LLAMA },
    Model { types: &["hunyuan_v1_dense", "hunyuan_v1_moe"], ..LLAMA },
    Model { types: &["qwen3", "seed_oss"], head_dim: Some(128), ..LLAMA },
    Model { types: &["solar_open"], theta: 1e6, head_dim: Some(128), ..LLAMA },
    Model {
        types: &["gemma", "gemma2", "vaultgemma", "t5_gemma_module"],
        head_dim: Some(256),
        ..LLAMA
    },
    Model {
        types: &["gemma3", "t5gemma2_decoder"],
        head_dim: Some(256),
        theta: 1e6,
        sliding: Sliding::Base("rope_local_base_freq", 10_000.0),
        full: Full::LastOf(6),
        ..LLAMA
    },
    Model {
        types: &["gemma3n"],
        head_dim: Some(256),
        theta: 1e6,
        sliding: Sliding::Base("rope_local_base_freq", 10_000.0),
        full: Full::LastOf(5),
        ..LLAMA
    },
    Model {
        types: &["gpt_oss"],
        head_dim: Some(64),
        theta: 150_000.0,
        has_default_scaling: true,
        ..LLAMA
    },
    Model {
        types: &["olmo3"],
        theta: 5e5,
        sliding: Sliding::Plain,
        full: Full::LastOf(4),
        ..LLAMA
    },
    Model {
        types: &["modernbert", "modernbert-decoder"],
        theta: 160_000.0,
        sliding: Sliding::Base("local_rope_theta", 10_000.0),
        full: Full::FirstOf(3),
        harmless: &["position_embedding_type"],
        position_key: None,
        ..LLAMA
    },
    Model {
        types: &["mimo_v2_flash"],
        theta: 5e6,
        partial: 0.334,
        head_dim: Some(192),
        sliding: Sliding::Base("swa_rope_theta", 10_000.0),
        ..LLAMA
    },
    // Ropes nested by layer type, and nothing without them.
    Model {
        types: &["gemma4", "gemma4_unified", "embedding_gemma2"],
        head_dim: Some(256),
        full_head_dim: Some(("global_head_dim", 512)),
        has_default_scaling: true,
        ..LLAMA
    },
    Model {
        types: &["lfm3", "laguna", "mellum", "step3p5", "ultrabert", "zaya", "beam"],
        head_dim: Some(128),
        has_default_scaling: true,
        ..LLAMA
    },
    Model { types: &["dory"], head_dim: Some(256), has_default_scaling: true, ..LLAMA },
    Model { types: &["phi", "persimmon", "nemotron", "glm4_moe"], partial: 0.5, ..LLAMA },
    Model { types: &["bamba"], partial: 0.5, rotary_dim_keys: &["attn_rotary_emb"], ..LLAMA },
    Model {
        types: &["phi-msft"],
        rotary_dim_keys: &["rotary_dim"],
        harmless: &["flash_rotary"],
        ..LLAMA
    },
    Model { types: &["gpt_neox", "stablelm", "stablelm_epoch"], partial: 0.25, ..LLAMA },
    Model { types: &["nomic_bert"], theta: 1000.0, ..LLAMA },
    Model { types: &["jetmoe"], head_dim_keys: &["kv_channels"], head_dim: Some(128), ..LLAMA },
    Model {
        types: &["zamba2"],
        head_dim_keys: &["attention_head_dim"],
        position_key: Some(("use_mem_rope", false)),
        ..LLAMA
    },
    Model {
        types: &["granitemoehybrid"],
        position_key: Some(("position_embedding_type", false)),
        ..LLAMA
    },
    Model { types: &["nanochat"], direction: Direction::Inverse, ..LLAMA },
    Model { types: &["qwen3_next"], partial: 0.25, head_dim: Some(256), ..LLAMA },
    Model {
        types: &["qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen2_5_omni_talker"],
        theta: 1e6,
        mrope: blocks([16, 24, 24]),
        ..LLAMA
    },
    Model {
        types: &["qwen3_vl", "qwen3_vl_moe"],
        theta: 5e5,
        head_dim: Some(128),
        mrope: interleaved([24, 20, 20]),
        ..LLAMA
    },
    Model { types: &["qwen3_omni_moe"], theta: 1e6, mrope: interleaved([24, 20, 20]), ..LLAMA },
    Model { types: &["cosmos3_edge"], theta: 1e8, mrope: interleaved([24, 20, 20]), ..LLAMA },
    Model {
        types: &["qwen3_5", "qwen3_5_moe"],
        partial: 0.25,
        head_dim: Some(256),
        mrope: interleaved([11, 11, 10]),
        ..LLAMA
    },
    Model {
        types: &["paddleocr_vl"],
        theta: 5e5,
        head_dim: Some(128),
        mrope: blocks([16, 24, 24]),
        ..LLAMA
    },
    Model { types: &["glm4v_moe"], partial: 0.5, mrope: blocks([8, 12, 12]), ..LLAMA },
    Model {
        types: &["minimax_m2"],
        theta: 5e6,
        head_dim: Some(128),
        rotary_dim_keys: &["rotary_dim"],
        ..LLAMA
    },
    Model {
        types: &["minimax_m3", "minimax_m3_vl"],
        theta: 5e6,
        head_dim: Some(128),
        harmless: &["rotary_dim"],
        ..LLAMA
    },
    Model { types: &["smollm3"], theta: 2e6, without: Without::Listed(None), ..LLAMA },
    Model {
        types: &["exaone4", "exaone_moe"],
        without: Without::FullBesideSliding,
        full: Full::LastOf(4),
        ..LLAMA
    },
    Model { types: &["afmoe"], without: Without::Full, full: Full::LastOf(4), ..LLAMA },
    Model {
        types: &["muse_spark"],
        has_base_list: true,
        theta: 5e5,
        without: Without::Full,
        full: Full::LastOf(4),
        ..LLAMA
    },
    Model {
        types: &["muse_glimmer"],
        has_base_list: true,
        head_dim: Some(128),
        without: Without::Full,
        full: Full::LastOf(4),
        ..LLAMA
    },
    Model { types: &["flint", "lara_mini"], head_dim: Some(128), without: Without::Full, ..LLAMA },
    Model {
        types: &["kolibri1"],
        head_dim: Some(128),
        without: Without::Full,
        full: Full::LastOf(5),
        ..LLAMA
    },
    Model { types: &["muse_glimmer_assistant"], theta: 5e5, head_dim: Some(128), ..LLAMA },
    Model { types: &["qwen4_exp"], head_dim: Some(256), ..LLAMA },
    Model { types: &["mistral4"], partial: 0.5, has_default_scaling: true, ..GPTJ },
    Model {
        types: &["gptj", "codegen"],
        rotary_dim_keys: &["rotary_dim"],
        rotary_dim: Some(64),
        ..GPTJ
    },
    Model { types: &["glm", "glm4"], partial: 0.5, head_dim: Some(128), ..GPTJ },
    Model { types: &["glm4v", "glm_ocr"], mrope: blocks([8, 12, 12]), ..GPTJ },
    Model {
        types: &["chatglm"],
        partial: 0.5,
        head_dim_keys: &["kv_channels"],
        head_dim: Some(128),
        harmless: &["original_rope"],
        ..GPTJ
    },
    Model { types: &["cohere"], theta: 5e5, ..GPTJ },
    Model {
        types: &["cohere2", "cohere2_moe"],
        without: Without::Full,
        full: Full::LastOf(4),
        ..GPTJ
    },
    Model {
        types: &["llama4"],
        theta: 5e5,
        head_dim: Some(128),
        without: Without::Listed(Some(["chunked_attention", "full_attention"])),
        ..GPTJ
    },
    Model { types: &["ernie4_5"], theta: 5e5, head_dim: Some(128), ..GPTJ },
    Model { types: &["ernie4_5_moe"], theta: 5e5, ..GPTJ },
    Model {
        types: &["ernie4_5_vl", "ernie4_5_vl_moe"],
        theta: 5e5,
        mrope: Some(Mrope { order: SectionOrder::HeightWidthThenTime, sizes: [22, 22, 20] }),
        ..GPTJ
    },
    Model { types: &["helium"], theta: 1e5, head_dim: Some(128), ..GPTJ },
    Model { types: &["moonshine"], partial: 0.9, ..GPTJ },
    Model { types: &["moonshine_streaming"], partial: 0.8, ..GPTJ },
    Model {
        types: &["openai_privacy_filter"],
        theta: 150_000.0,
        head_dim: Some(64),
        has_default_scaling: true,
        ..GPTJ
    },
    Model {
        types: &[
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "kimi_k2",
            "axk1",
            "axk2",
            "youtu",
            "deepseek_v4",
            "glm_moe_dsa",
            "glm4_moe_lite",
        ],
        is_mla: true,
        ..GPTJ
    },
    Model { types: &["bailing_hybrid"], theta: 6e6, is_mla: true, ..GPTJ },
    Model { types: &["longcat_flash"], theta: 1e7, is_mla: true, ..GPTJ },
    Model {
        types: &[
            "gpt2",
            "bert",
            "opt",
            "bloom",
            "jamba",
            "aimv2",
            "albert",
            "align",
            "altclip",
            "bart",
            "bert-generation",
            "bigbird_pegasus",
            "biogpt",
            "blenderbot",
            "blenderbot-small",
            "bridgetower",
            "camembert",
            "canary_decoder",
            "chinese_clip",
            "clap",
            "clipseg",
            "ctrl",
            "data2vec-text",
            "distilbert",
            "dpr",
            "electra",
            "ernie",
            "glm5_next",
            "inkling",
            "instructblip_qformer",
            "instructblipvideo_qformer",
            "kimi_linear",
            "kosmos_2",
            "kosmos_2_5",
            "layoutlm",
            "marian",
            "markuplm",
            "mbart",
            "metaclip_2",
            "mobilebert",
            "owlv2",
            "owlvit",
            "pegasus",
            "plbart",
            "pop2piano",
            "pp_formulanet",
            "roberta",
            "roberta-prelayernorm",
            "roc_bert",
            "sam3_lite_text",
            "siglip",
            "siglip2",
            "splinter",
            "tipsv2",
            "videoprism",
            "xclip",
            "xlm-roberta",
            "xlm-roberta-xl",
            "zamba",
            "nemotron_h",
            "gpt_bigcode",
            "mpt",
            "clip",
        ],
        without: Without::All,
        ..LLAMA
    },
];

impl Model {
    /// By its name, or by that of its language model's part.
    pub fn of(model_type: &str) -> Option<&'static Self> {
        let named = |name: &str| MODELS.iter().find(|model| model.types.contains(&name));
        let text = model_type.strip_suffix("_model").unwrap_or(model_type);
        let bare = text.strip_suffix("_text").unwrap_or(text);
        [model_type, text, bare].into_iter().find_map(named)
    }

    /// A type that is not in the table, of which the caller knows the pairing.
    pub fn unknown(pairing: Pairing) -> Self {
        Self { pairing, ..LLAMA }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn no_type_is_named_twice_and_the_readme_counts_them() {
        let mut types: Vec<_> = MODELS.iter().flat_map(|model| model.types).collect();
        let count = types.len();
        types.sort();
        types.dedup();
        assert_eq!(types.len(), count);
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(&format!("{count} model types")), "{count} model types");
    }

    /// What a class takes where the file is silent, as transformers' own config classes say it.
    #[test]
    fn defaults_are_those_of_transformers_classes() {
        let json: Value = serde_json::from_str(include_str!("class_defaults.json")).expect("JSON");
        assert_eq!(json["transformers"], TRANSFORMERS_VERSION);
        let (mut compared, mut wrong) = (0, Vec::new());
        for (name, class) in json["types"].as_object().expect("types") {
            let Some(model) = Model::of(name) else { continue };
            if !model.harmless_outside.is_empty() {
                // The class' own numbers are of another part.
                continue;
            }
            let number = |key: &str| class[key].as_f64();
            let mut compare = |what, ours: Option<f64>, theirs: Option<f64>| {
                compared += 1;
                if ours != theirs {
                    wrong.push(format!("{name}: {what} {ours:?} is not {theirs:?}"));
                }
            };
            compare("rope_theta", Some(model.theta), number("rope_theta"));
            compare("partial", Some(model.partial), number("partial_rotary_factor"));
            let flag = |flag: bool| Some(f64::from(flag));
            let scaling = class["has_default_scaling"] == true;
            compare("scaling", flag(model.has_default_scaling), flag(scaling));
            // MLA has keys of its own, and so have a few others.
            if class["is_mla"] == false
                && model.head_dim_keys == ["head_dim"]
                && let Some(head_dim) = number("head_dim")
            {
                let by_size = number("hidden_size").zip(number("num_attention_heads"));
                let by_size = by_size.map(|(hidden, heads)| (hidden / heads).floor());
                let ours = model.head_dim.map(|head_dim| head_dim as f64).or(by_size);
                compare("head_dim", ours, Some(head_dim));
            } else if class["is_mla"] == false && model.head_dim_keys == ["head_dim"] {
                compare("head_dim", model.head_dim.map(|head_dim| head_dim as f64), None);
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(compared > 300, "{compared}");
    }
}
