use super::{Base, Scheme, check_attention_factor, check_original, number};
use crate::frequencies::double_double::DoubleDouble;
use crate::{Error, Result};

/// Parameters of [`RopeScaling::LongRope`](crate::RopeScaling::LongRope): `θ_j / short_factor[j]` up to the
/// original length, `θ_j / long_factor[j]` beyond.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LongRope {
    /// One divisor a pair, for lengths up to the original one.
    pub short_factor: Vec<f64>,
    /// One divisor a pair, for longer ones.
    pub long_factor: Vec<f64>,
    /// Positions that the model was first trained on.
    pub original_max_position_embeddings: usize,
    /// On cos and sin: 1 unless set; [`attention_factor_of`](Self::attention_factor_of) works out the
    /// usual one.
    pub attention_factor: f64,
}

impl LongRope {
    /// With an attention factor of 1.
    pub fn new(
        short_factor: Vec<f64>,
        long_factor: Vec<f64>,
        original_max_position_embeddings: usize,
    ) -> Self {
        Self { short_factor, long_factor, original_max_position_embeddings, attention_factor: 1.0 }
    }

    /// `√(1 + ln factor / ln original)`, where `factor` is the new length over the original one.
    pub fn attention_factor_of(factor: f64, original_max_position_embeddings: usize) -> f64 {
        if factor <= 1.0 {
            return 1.0;
        }
        (1.0 + factor.ln() / (original_max_position_embeddings as f64).ln()).sqrt()
    }
}

impl Scheme for LongRope {
    fn name(&self) -> &'static str {
        "longrope"
    }

    fn check(&self, rotary_dim: usize, _: f64) -> Result<()> {
        check_original(self.original_max_position_embeddings)?;
        for (key, list) in
            [("short_factor", &self.short_factor), ("long_factor", &self.long_factor)]
        {
            let (expected, given) = (rotary_dim / 2, list.len());
            if expected != given {
                return Err(Error::ScalingList { key, expected, given });
            }
            for &factor in list {
                number(key, factor, "above zero", |f| f > 0.0)?;
            }
        }
        check_attention_factor(self.attention_factor)
    }

    fn stage(&self, length: usize) -> usize {
        usize::from(length > self.original_max_position_embeddings)
    }

    fn other_stage(&self) -> Option<usize> {
        Some(1)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], _: &Base, stage: usize) {
        let list = if stage == 0 { &self.short_factor } else { &self.long_factor };
        for (f, &ext) in inv_freq.iter_mut().zip(list) {
            *f = f.div(ext.into());
        }
    }

    fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    fn depends_on_length(&self) -> bool {
        true
    }
}
