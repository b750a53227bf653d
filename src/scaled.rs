//! Scaled frequencies, worked out to 106 bits.

use crate::double_double::{DoubleDouble, TAU};
use crate::frequencies::{check_base, check_rotary_dim, powers};
use crate::scaling::number;
use crate::{Error, Frequencies, Result, Scaling, Yarn};

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
        if ratio != 1.0 && !self.scaling.is_condensable() {
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

    /// Before any ratio: kinds that another length works out again cannot be condensed.
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
    }
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
