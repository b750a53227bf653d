//! What GGUF's architectures do that metadata does not say: pairing, and which layers slide or do not rotate.
//!
//! Pairing is that of the tensors as they lie in the file: those who convert LLaMA's checkpoints reorder the rows of q
//! and k, so that half-split pairs become interleaved ones.

use crate::{Pairing, SectionOrder};

/// What an architecture does.
#[derive(Clone, Copy)]
pub(super) struct Architecture {
    pub names: &'static [&'static str],
    /// `None`: no rotary embedding.
    pub pairing: Option<Pairing>,
    pub layers: Layers,
    /// The order of the axes of `rope.dimension_sections`.
    pub order: SectionOrder,
    /// MLA: the last channels of a head rotate.
    pub is_mla: bool,
    /// The factor on cos and sin is 1 whatever the scaling: it is attention's (DeepSeek).
    pub plain_factor: bool,
}

/// How layers differ.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layers {
    Alike,
    /// Every fourth does not rotate.
    FourthWithout,
    /// The last of so many is of full attention, the others slide; a file may say it otherwise.
    Sliding {
        period: Option<usize>,
        full: Full,
    },
}

/// How full layers and sliding ones differ.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Full {
    /// Sliding layers have a base of their own, this one where the file has none, and no scaling.
    OtherBase(f64),
    /// Full layers do not rotate.
    Without,
    /// Full layers do not rotate where others slide; without a window all layers are alike.
    WithoutBesideSliding,
}

const INTERLEAVED: Architecture = Architecture {
    names: &[],
    pairing: Some(Pairing::Interleaved),
    layers: Layers::Alike,
    order: SectionOrder::Blocks,
    is_mla: false,
    plain_factor: false,
};
const HALF_SPLIT: Architecture = Architecture { pairing: Some(Pairing::HalfSplit), ..INTERLEAVED };

const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        names: &[
            "llama",
            "mistral3",
            "baichuan",
            "internlm2",
            "minicpm",
            "xverse",
            "command-r",
            "olmo",
            "arctic",
            "deepseek",
            "chatglm",
            "glm4",
            "granite",
            "granitemoe",
            "chameleon",
            "bailingmoe",
            "arcee",
            "ernie4_5",
            "ernie4_5-moe",
        ],
        ..INTERLEAVED
    },
    Architecture { names: &["deepseek2"], is_mla: true, plain_factor: true, ..INTERLEAVED },
    Architecture { names: &["llama4", "smollm3"], layers: Layers::FourthWithout, ..INTERLEAVED },
    Architecture {
        names: &["cohere2"],
        layers: Layers::Sliding { period: Some(4), full: Full::Without },
        ..INTERLEAVED
    },
    Architecture {
        names: &[
            "qwen",
            "qwen2",
            "qwen2moe",
            "qwen3",
            "qwen3moe",
            "phi2",
            "phi3",
            "phimoe",
            "gemma",
            "gemma2",
            "falcon",
            "grok",
            "dbrx",
            "stablelm",
            "bitnet",
            "olmo2",
            "olmoe",
            "starcoder2",
            "openelm",
            "gptneox",
            "codeshell",
            "orion",
            "nemotron",
            "exaone",
            "dots1",
            "glm4moe",
            "gpt-oss",
            "hunyuan-dense",
            "hunyuan-moe",
            "seed_oss",
            "lfm2",
            "lfm2moe",
            "minimax-m2",
            "apertus",
        ],
        ..HALF_SPLIT
    },
    Architecture {
        names: &["gemma3"],
        layers: Layers::Sliding { period: Some(6), full: Full::OtherBase(10_000.0) },
        ..HALF_SPLIT
    },
    Architecture {
        names: &["gemma3n"],
        layers: Layers::Sliding { period: Some(5), full: Full::OtherBase(10_000.0) },
        ..HALF_SPLIT
    },
    Architecture {
        names: &["gemma4"],
        layers: Layers::Sliding { period: None, full: Full::OtherBase(10_000.0) },
        ..HALF_SPLIT
    },
    Architecture {
        names: &["exaone4"],
        layers: Layers::Sliding { period: Some(4), full: Full::WithoutBesideSliding },
        ..HALF_SPLIT
    },
    Architecture { names: &["qwen2vl"], ..HALF_SPLIT },
    Architecture {
        names: &["qwen3vl", "qwen3vlmoe"],
        order: SectionOrder::Interleaved,
        ..HALF_SPLIT
    },
    Architecture {
        names: &["gpt2", "bloom", "mpt", "refact", "t5", "t5encoder", "jais", "mamba", "rwkv6"],
        pairing: None,
        ..INTERLEAVED
    },
];

impl Architecture {
    pub fn of(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.names.contains(&name))
    }

    /// One that is not in the table, of which the caller knows the pairing.
    pub fn unknown(pairing: Pairing) -> Self {
        Self { pairing: Some(pairing), ..INTERLEAVED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_architecture_is_named_twice() {
        let mut names: Vec<_> = ARCHITECTURES.iter().flat_map(|entry| entry.names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
