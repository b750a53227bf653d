//! How released checkpoints stretch their frequencies over longer contexts.
//!
//! Names and formulas are those of transformers' `ROPE_INIT_FUNCTIONS`; `scaled.rs` works them out.

use crate::{Error, Result};

/// A kind of scaling and its parameters. With `θ_j = base^(-2j/d)` radians per position:
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// `θ_j`.
    Default,
    /// `θ_j / factor`: condensed positions by another name (arXiv 2306.15595).
    Linear {
        /// From 1 to 2^53.
        factor: f64,
    },
    /// `θ_j` of a base that is `factor^(d / (d - 2))` times as large, so that the slowest pair is
    /// divided by `factor` and the fastest one not at all ("NTK-aware").
    Ntk {
        /// From 1 to 2^53.
        factor: f64,
    },
    /// NTK-aware by as much as the length asks for: nothing up to `max_position_embeddings`, and a
    /// base times `(factor · length / max - (factor - 1))^(d / (d - 2))` beyond.
    Dynamic {
        /// From 1 to 2^53.
        factor: f64,
        /// Positions that the model was trained on.
        max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071): fast pairs as they are, slow ones divided, a ramp in between.
    Yarn(Yarn),
    /// LongRoPE (arXiv 2402.13753): `θ_j / ext_j`, by one list of `ext` up to the original length and
    /// by another one beyond.
    LongRope(LongRope),
    /// Llama 3.1: wavelengths up to `original / high_freq_factor` as they are, those from
    /// `original / low_freq_factor` on divided by `factor`, a smooth step in between.
    Llama3 {
        /// From 1 to 2^53.
        factor: f64,
        /// Below `high_freq_factor`.
        low_freq_factor: f64,
        /// Above `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_max_position_embeddings: usize,
    },
    /// The first `int(partial_rotary_factor · d / 2)` pairs as they are, the others not turned at all,
    /// and `/ factor`. Exponents count all of `d`.
    Proportional {
        /// From 1 to 2^53.
        factor: f64,
        /// From 0 to 1.
        partial_rotary_factor: f64,
    },
}

/// Parameters of [`Scaling::Yarn`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// From 1 to 2^53.
    pub factor: f64,
    /// Positions that the model was first trained on.
    pub original_max_position_embeddings: usize,
    /// Turns within the original length from which on a pair is left as it is: 32.
    pub beta_fast: f64,
    /// Turns up to which a pair is divided by the whole factor: 1.
    pub beta_slow: f64,
    /// Whether the ramp's ends are whole pairs.
    pub truncate: bool,
    /// On cos and sin; [`attention_factor`](Self::attention_factor) works out the usual one.
    pub attention_factor: f64,
}

impl Yarn {
    /// YaRN with its paper's parameters.
    pub fn new(factor: f64, original_max_position_embeddings: usize) -> Self {
        Self {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: Self::attention_factor(factor, None),
        }
    }

    /// `0.1 ln factor + 1`; or, with DeepSeek's `(mscale, mscale_all_dim)`, the ratio of
    /// `0.1 mscale ln factor + 1` and `0.1 mscale_all_dim ln factor + 1`.
    pub fn attention_factor(factor: f64, mscales: Option<(f64, f64)>) -> f64 {
        let scale = |mscale: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
        };
        mscales.map_or(scale(1.0), |(mscale, all_dim)| scale(mscale) / scale(all_dim))
    }
}

/// Parameters of [`Scaling::LongRope`].
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// One divisor a pair, for lengths up to the original one.
    pub short_factor: Vec<f64>,
    /// One divisor a pair, for longer ones.
    pub long_factor: Vec<f64>,
    /// Positions that the model was first trained on.
    pub original_max_position_embeddings: usize,
    /// On cos and sin; [`attention_factor`](Self::attention_factor) works out the usual one.
    pub attention_factor: f64,
}

impl LongRope {
    /// `√(1 + ln factor / ln original)`, where `factor` is the new length over the original one.
    pub fn attention_factor(factor: f64, original_max_position_embeddings: usize) -> f64 {
        if factor <= 1.0 {
            return 1.0;
        }
        (1.0 + factor.ln() / (original_max_position_embeddings as f64).ln()).sqrt()
    }
}

impl Scaling {
    /// transformers' name of it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Linear { .. } => "linear",
            Self::Ntk { .. } => "ntk",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn(_) => "yarn",
            Self::LongRope(_) => "longrope",
            Self::Llama3 { .. } => "llama3",
            Self::Proportional { .. } => "proportional",
        }
    }

    /// The factor on cos and sin.
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor,
            Self::LongRope(longrope) => longrope.attention_factor,
            _ => 1.0,
        }
    }

    /// Whether positions may be condensed on top. Linear scaling *is* condensing; dynamic, YaRN and
    /// LongRoPE are fitted to positions as they are counted, and would be stretched twice.
    pub fn is_condensable(&self) -> bool {
        matches!(
            self,
            Self::Default | Self::Ntk { .. } | Self::Llama3 { .. } | Self::Proportional { .. }
        )
    }

    pub(crate) fn check(&self, rotary_dim: usize) -> Result<()> {
        // No length times such a factor leaves what f64 can hold.
        let factor_in_range = |factor: f64| {
            number("factor", factor, "from 1 to 2^53", |f| (1.0..=2f64.powi(53)).contains(&f))
        };
        let stretches_base = || {
            let given = rotary_dim as f64;
            number("rotary_dim", given, "over 2, for a base to be stretched", |d| d > 2.0)
        };
        let length = |key, given: usize| number(key, given as f64, "above zero", |n| n > 0.0);
        const ORIGINAL: &str = "original_max_position_embeddings";
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } => factor_in_range(*factor),
            Self::Ntk { factor } => factor_in_range(*factor).and_then(|()| stretches_base()),
            Self::Dynamic { factor, max_position_embeddings } => {
                factor_in_range(*factor)?;
                length("max_position_embeddings", *max_position_embeddings)?;
                stretches_base()
            }
            Self::Yarn(yarn) => {
                factor_in_range(yarn.factor)?;
                length(ORIGINAL, yarn.original_max_position_embeddings)?;
                number("beta_slow", yarn.beta_slow, "above zero", |beta| beta > 0.0)?;
                let above = |beta| beta > yarn.beta_slow;
                number("beta_fast", yarn.beta_fast, "above beta_slow", above)?;
                number("attention_factor", yarn.attention_factor, "above zero", |a| a > 0.0)
            }
            Self::LongRope(longrope) => {
                length(ORIGINAL, longrope.original_max_position_embeddings)?;
                for (key, list) in [
                    ("short_factor", &longrope.short_factor),
                    ("long_factor", &longrope.long_factor),
                ] {
                    let (expected, given) = (rotary_dim / 2, list.len());
                    if expected != given {
                        return Err(Error::ScalingList { key, expected, given });
                    }
                    for &factor in list {
                        number(key, factor, "above zero", |f| f > 0.0)?;
                    }
                }
                number("attention_factor", longrope.attention_factor, "above zero", |a| a > 0.0)
            }
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                factor_in_range(*factor)?;
                length(ORIGINAL, *original_max_position_embeddings)?;
                number("low_freq_factor", *low_freq_factor, "above zero", |low| low > 0.0)?;
                let above = |high| high > *low_freq_factor;
                number("high_freq_factor", *high_freq_factor, "above low_freq_factor", above)
            }
            Self::Proportional { factor, partial_rotary_factor } => {
                factor_in_range(*factor)?;
                let expected = "from 0 to 1";
                let within = |p| (0.0..=1.0).contains(&p);
                number("partial_rotary_factor", *partial_rotary_factor, expected, within)
            }
        }
    }
}

/// A number in its range.
pub(crate) fn number(
    key: &'static str,
    given: f64,
    expected: &'static str,
    fine: impl Fn(f64) -> bool,
) -> Result<()> {
    let fine = given.is_finite() && fine(given);
    if fine { Ok(()) } else { Err(Error::Scaling { key, expected, given }) }
}
