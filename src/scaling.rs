//! How released checkpoints stretch their frequencies over longer contexts.
//!
//! Names and formulas are those of transformers' `ROPE_INIT_FUNCTIONS`, worked out to 106 bits.

use crate::double_double::{DoubleDouble, TAU};
use crate::frequencies::{check_base, check_rotary_dim, powers};
use crate::{Error, Frequencies, Result};

/// A kind of scaling and its parameters. With `θ_j = base^(-2j/d)` radians per position:
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// `θ_j`.
    Default,
    /// `θ_j / factor`: condensed positions by another name (arXiv 2306.15595).
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// `θ_j` of a base that is `factor^(d / (d - 2))` times as large, so that the slowest pair is
    /// divided by `factor` and the fastest one not at all ("NTK-aware").
    Ntk {
        /// At least 1.
        factor: f64,
    },
    /// NTK-aware by as much as the length asks for: nothing up to `max_position_embeddings`, and a
    /// base times `(factor · length / max - (factor - 1))^(d / (d - 2))` beyond.
    Dynamic {
        /// At least 1.
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
        /// At least 1.
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
        /// At least 1.
        factor: f64,
        /// From 0 to 1.
        partial_rotary_factor: f64,
    },
}

/// Parameters of [`Scaling::Yarn`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// At least 1.
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

    fn check(&self, rotary_dim: usize) -> Result<()> {
        let at_least_1 = |factor: f64| number("factor", factor, "at least 1", |f| f >= 1.0);
        let stretches_base = || {
            let given = rotary_dim as f64;
            number("rotary_dim", given, "over 2, for a base to be stretched", |d| d > 2.0)
        };
        let length = |key, given: usize| number(key, given as f64, "above zero", |n| n > 0.0);
        const ORIGINAL: &str = "original_max_position_embeddings";
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } => at_least_1(*factor),
            Self::Ntk { factor } => at_least_1(*factor).and_then(|()| stretches_base()),
            Self::Dynamic { factor, max_position_embeddings } => {
                at_least_1(*factor)?;
                length("max_position_embeddings", *max_position_embeddings)?;
                stretches_base()
            }
            Self::Yarn(yarn) => {
                at_least_1(yarn.factor)?;
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
                at_least_1(*factor)?;
                length(ORIGINAL, *original_max_position_embeddings)?;
                number("low_freq_factor", *low_freq_factor, "above zero", |low| low > 0.0)?;
                let above = |high| high > *low_freq_factor;
                number("high_freq_factor", *high_freq_factor, "above low_freq_factor", above)
            }
            Self::Proportional { factor, partial_rotary_factor } => {
                at_least_1(*factor)?;
                let expected = "from 0 to 1";
                let within = |p| (0.0..=1.0).contains(&p);
                number("partial_rotary_factor", *partial_rotary_factor, expected, within)
            }
        }
    }
}

fn number(
    key: &'static str,
    given: f64,
    expected: &'static str,
    fine: impl Fn(f64) -> bool,
) -> Result<()> {
    let fine = given.is_finite() && fine(given);
    if fine { Ok(()) } else { Err(Error::Scaling { key, expected, given }) }
}

/// Frequencies under a scaling, at a length: dynamic and LongRoPE have others for longer sequences.
///
/// ```
/// use condensed_rope::{Scaled, Scaling};
///
/// let scaling = Scaling::Dynamic { factor: 4.0, max_position_embeddings: 2048 };
/// let mut scaled = Scaled::new(128, 10_000.0, scaling)?;
/// assert!(!scaled.set_length(2048)); // nothing changes up to there
/// assert!(scaled.set_length(4096));
/// let slowest = scaled.frequencies().inv_freq().last();
/// assert!(slowest < condensed_rope::Frequencies::new(128, 10_000.0)?.inv_freq().last());
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    base: f64,
    scaling: Scaling,
    ratio: f64,
    /// What of the length decides: see [`Scaled::stage`].
    stage: usize,
    frequencies: Frequencies,
}

impl Scaled {
    /// At lengths up to the one that the model was trained on.
    ///
    /// # Errors
    /// As [`Frequencies::new`]; [`Error::Scaling`] and [`Error::ScalingList`] for parameters of the
    /// scaling.
    pub fn new(rotary_dim: usize, base: f64, scaling: Scaling) -> Result<Self> {
        check_rotary_dim(rotary_dim)?;
        check_base(base)?;
        if let Scaling::Yarn(_) = scaling {
            number("rope_theta", base, "above 1, for YaRN's ramp", |base| base > 1.0)?;
        }
        scaling.check(rotary_dim)?;
        let frequencies = Frequencies::new(rotary_dim, base)?;
        let frequencies = frequencies.with_factor(scaling.attention_factor() as f32)?;
        let mut scaled = Self { base, scaling, ratio: 1.0, stage: 0, frequencies };
        scaled.work_out(0);
        scaled.frequencies.recheck()?;
        Ok(scaled)
    }

    /// Positions divided by `ratio`, on top.
    ///
    /// # Errors
    /// [`Error::NotCondensable`] where the scaling and a ratio would stretch twice (see
    /// [`Scaling::is_condensable`]); else as [`Frequencies::condensed`].
    pub fn condensed(self, ratio: f64) -> Result<Self> {
        if !self.scaling.is_condensable() {
            return Err(Error::NotCondensable { scaling: self.scaling.name(), ratio });
        }
        let frequencies = self.frequencies.condensed(ratio)?;
        Ok(Self { ratio: self.ratio * ratio, frequencies, ..self })
    }

    /// Moves to sequences of `length` positions, and says whether the frequencies changed. Nothing
    /// is allocated.
    pub fn set_length(&mut self, length: usize) -> bool {
        let stage = self.stage(length);
        let changes = stage != self.stage;
        if changes {
            self.stage = stage;
            self.work_out(stage);
        }
        changes
    }

    /// The frequencies at the length that was set last.
    pub fn frequencies(&self) -> &Frequencies {
        &self.frequencies
    }

    /// The scaling.
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// The base, before scaling.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// What positions are divided by on top of the scaling: 1 unless [condensed](Self::condensed).
    pub fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Whether other lengths have other frequencies.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. } | Scaling::LongRope(_))
    }

    /// Lengths of one stage have one set of frequencies: 0 is the original length and below.
    fn stage(&self, length: usize) -> usize {
        match &self.scaling {
            Scaling::Dynamic { max_position_embeddings: max, .. } if length > *max => length,
            Scaling::LongRope(longrope) => {
                usize::from(length > longrope.original_max_position_embeddings)
            }
            _ => 0,
        }
    }

    fn work_out(&mut self, stage: usize) {
        let pairs = self.frequencies.pairs();
        let dim = DoubleDouble::from(2.0 * pairs as f64);
        let ln_base = DoubleDouble::from(self.base).ln();
        // A base times stretch^(d / (d - 2)).
        let stretched =
            |stretch: DoubleDouble| ln_base.add(stretch.ln().mul(dim.div(dim.add((-2.0).into()))));
        let inv_freq = self.frequencies.inv_freq_mut();
        match &self.scaling {
            Scaling::Ntk { factor } => powers(inv_freq, stretched((*factor).into())),
            Scaling::Dynamic { factor, max_position_embeddings } if stage > 0 => {
                let longer = DoubleDouble::from(stage as f64)
                    .div((*max_position_embeddings as f64).into())
                    .mul((*factor).into());
                let rest = DoubleDouble::from(1.0).add((-factor).into());
                powers(inv_freq, stretched(longer.add(rest)));
            }
            _ => powers(inv_freq, ln_base),
        }
        match &self.scaling {
            Scaling::Default | Scaling::Ntk { .. } | Scaling::Dynamic { .. } => {}
            Scaling::Linear { factor } => {
                inv_freq.iter_mut().for_each(|f| *f = f.div((*factor).into()));
            }
            Scaling::Yarn(yarn) => yarn.apply(inv_freq, ln_base),
            Scaling::LongRope(longrope) => {
                let list = if stage == 0 { &longrope.short_factor } else { &longrope.long_factor };
                for (f, &ext) in inv_freq.iter_mut().zip(list) {
                    *f = f.div(ext.into());
                }
            }
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let (low, high) = (*low_freq_factor, *high_freq_factor);
                let original = DoubleDouble::from(*original_max_position_embeddings as f64);
                for f in inv_freq {
                    // Turns within the original length.
                    let turns = original.mul(*f).div(TAU);
                    let slow = f.div((*factor).into());
                    if turns.high < low {
                        *f = slow;
                    } else if turns.high <= high {
                        let span = DoubleDouble::from(high).add((-low).into());
                        *f = blend(slow, *f, turns.add((-low).into()).div(span));
                    }
                }
            }
            Scaling::Proportional { factor, partial_rotary_factor } => {
                let turning = (partial_rotary_factor * pairs as f64).floor() as usize;
                for (j, f) in inv_freq.iter_mut().enumerate() {
                    *f = if j < turning { f.div((*factor).into()) } else { 0.0.into() };
                }
            }
        }
        if self.ratio != 1.0 {
            inv_freq_div(self.frequencies.inv_freq_mut(), self.ratio);
        }
    }
}

fn inv_freq_div(inv_freq: &mut [DoubleDouble], by: f64) {
    inv_freq.iter_mut().for_each(|f| *f = f.div(by.into()));
}

/// `a (1 - weight) + b weight`.
fn blend(a: DoubleDouble, b: DoubleDouble, weight: DoubleDouble) -> DoubleDouble {
    a.mul(DoubleDouble::from(1.0).add(weight.negated())).add(b.mul(weight))
}

impl Yarn {
    /// The ramp's ends, in pairs.
    fn range(&self, pairs: usize, ln_base: DoubleDouble) -> (DoubleDouble, DoubleDouble) {
        let dim = DoubleDouble::from(2.0 * pairs as f64);
        let original = DoubleDouble::from(self.original_max_position_embeddings as f64);
        // The pair that turns `beta` times within the original length.
        let pair = |beta: f64| {
            let wavelength = original.div(TAU.mul(beta.into()));
            dim.mul(wavelength.ln()).div(ln_base.mul(2.0.into()))
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            low = low.high.floor().into();
            high = high.high.ceil().into();
        }
        if low.high < 0.0 {
            low = 0.0.into();
        }
        if high.high > dim.high - 1.0 {
            high = dim.add((-1.0).into());
        }
        if low == high {
            high = high.add(0.001.into());
        }
        (low, high)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], ln_base: DoubleDouble) {
        let (low, high) = self.range(inv_freq.len(), ln_base);
        let span = high.add(low.negated());
        for (j, f) in inv_freq.iter_mut().enumerate() {
            let ramp = DoubleDouble::from(j as f64).add(low.negated()).div(span);
            let ramp = match ramp.high {
                r if r <= 0.0 => 0.0.into(),
                r if r >= 1.0 => 1.0.into(),
                _ => ramp,
            };
            *f = blend(*f, f.div(self.factor.into()), ramp);
        }
    }
}
