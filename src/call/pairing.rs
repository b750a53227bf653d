/// Which channels of a head turn together. With `d` rotated channels, pair `j` is:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pairing {
    /// Channels `j` and `j + d/2`: "NeoX", HF's `rotate_half`, LLaMA checkpoints in HF's format.
    HalfSplit,
    /// Channels `2j` and `2j + 1`: "GPT-J", the original LLaMA and RoFormer, DeepSeek, GLM-4.
    Interleaved,
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// By `position * inv_freq`.
    #[default]
    Forward,
    /// By `-position * inv_freq`: undoes [`Forward`](Self::Forward), up to rounding, where the factor
    /// on cos and sin is 1. The factor multiplies here as well, so this is always the transpose of
    /// the forward map: what takes a gradient back through it. Whoever moves keys by a delta of
    /// positions (either way) wants frequencies with a factor of 1, or it is applied twice; and each move
    /// rounds: a thousand small ones of bf16 keys are off by about 1.3, one by their sum by 7e-3.
    Inverse,
}

impl Direction {
    /// The other way.
    pub(crate) fn reversed(self) -> Self {
        match self {
            Self::Forward => Self::Inverse,
            Self::Inverse => Self::Forward,
        }
    }

    /// The factors on cos and on sin that turn this way, given the frequencies' factor.
    pub fn factors(self, factor: f32) -> (f32, f32) {
        match self {
            Self::Forward => (factor, factor),
            Self::Inverse => (factor, -factor),
        }
    }
}
