use super::double_double::DoubleDouble;
use super::scaling::Base;
use super::{RopeScaling, check_base, check_rotary_dim, powers};
use crate::{Error, Frequencies, Result};

/// Frequencies under a scaling, worked out to 106 bits, at a length: dynamic scaling and LongRoPE have
/// others for longer sequences.
///
/// ```
/// use condensed_rope::{Dynamic, FrequencySchedule, RopeScaling};
///
/// let scaling = RopeScaling::Dynamic(Dynamic::new(4.0, 2048));
/// let mut schedule = FrequencySchedule::new(128, 10_000.0, scaling)?;
/// assert!(!schedule.set_length(2048)); // nothing changes up to there
/// assert!(schedule.set_length(4096));
/// let slowest = schedule.frequencies().inv_freq().last();
/// assert!(slowest < condensed_rope::Frequencies::new(128, 10_000.0)?.inv_freq().last());
/// # Ok::<(), condensed_rope::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FrequencySchedule {
    base: f64,
    scaling: RopeScaling,
    ratio: f64,
    /// What of the length decides: lengths of one stage have one set of frequencies.
    stage: usize,
    frequencies: Frequencies,
}

impl FrequencySchedule {
    /// At lengths up to the one that the model was trained on.
    ///
    /// # Errors
    /// As [`Frequencies::new`]; [`Error::Scaling`] and [`Error::ScalingList`] for parameters of the
    /// scaling; [`Error::Frequency`] where a pair turns too fast at that length or at another one.
    pub fn new(rotary_dim: usize, base: f64, scaling: RopeScaling) -> Result<Self> {
        check_rotary_dim(rotary_dim)?;
        check_base(base)?;
        scaling.scheme().check(rotary_dim, base)?;
        let frequencies = Frequencies::new(rotary_dim, base)?;
        let frequencies = frequencies.with_factor(scaling.attention_factor() as f32)?;
        let mut schedule = Self { base, scaling, ratio: 1.0, stage: 0, frequencies };
        for stage in schedule.scaling.scheme().other_stage().into_iter().chain([0]) {
            schedule.apply_stage(stage);
            schedule.frequencies.recheck()?;
        }
        Ok(schedule)
    }

    /// Positions divided by `ratio`, on top.
    ///
    /// # Errors
    /// [`Error::NotCondensable`] where the scaling and a ratio would stretch twice (see
    /// [`RopeScaling::is_condensable`]); else as [`Frequencies::condensed`].
    pub fn condensed(self, ratio: f64) -> Result<Self> {
        if ratio != 1.0 && !self.scaling.is_condensable() {
            return Err(Error::NotCondensable { scaling: self.scaling.name(), ratio });
        }
        let frequencies = self.frequencies.condensed(ratio)?;
        Ok(Self { ratio: self.ratio * ratio, frequencies, ..self })
    }

    /// Moves to sequences of `length` positions, and says whether the frequencies changed. Nothing is
    /// allocated, and nothing can fail: every length's frequencies are in range.
    pub fn set_length(&mut self, length: usize) -> bool {
        let stage = self.scaling.scheme().stage(length);
        let changes = stage != self.stage;
        if changes {
            self.apply_stage(stage);
        }
        changes
    }

    /// The same schedule at sequences of `length` positions.
    pub fn at_length(mut self, length: usize) -> Self {
        self.set_length(length);
        self
    }

    /// The frequencies at the length that was set last.
    pub fn frequencies(&self) -> &Frequencies {
        &self.frequencies
    }

    /// The scaling.
    pub fn scaling(&self) -> &RopeScaling {
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
        self.scaling.scheme().depends_on_length()
    }

    /// Before any ratio: kinds that another length works out again cannot be condensed.
    fn apply_stage(&mut self, stage: usize) {
        self.stage = stage;
        let dim = DoubleDouble::from(self.frequencies.rotary_dim() as f64);
        let base = Base { ln: DoubleDouble::from(self.base).ln(), dim };
        let inv_freq = self.frequencies.inv_freq_mut();
        powers(inv_freq, base.ln);
        self.scaling.scheme().apply(inv_freq, &base, stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dynamic, LongRope};

    /// Pairs of either list that would not turn exactly are refused when the schedule is made.
    #[test]
    fn both_lists_of_longrope_are_held_to_the_limits() {
        for (short, long) in [(1.0, 1e-300), (1e-300, 1.0)] {
            let list = |first| vec![first, 1.0, 1.0, 1.0];
            let scaling = LongRope::new(list(short), list(long), 4096);
            let made = FrequencySchedule::new(8, 10_000.0, RopeScaling::LongRope(scaling));
            assert!(matches!(made, Err(Error::Frequency { pair: 0, .. })), "{made:?}");
        }
    }

    /// At the trained length dynamic scaling changes nothing, and says so.
    #[test]
    fn dynamic_scaling_begins_beyond_the_trained_length() {
        let scaling = RopeScaling::Dynamic(Dynamic::new(4.0, 2048));
        let mut schedule = FrequencySchedule::new(8, 10_000.0, scaling).expect("valid");
        let plain = schedule.clone();
        assert!(!schedule.set_length(2048) && schedule == plain);
        assert!(schedule.set_length(2049) && schedule != plain);
        assert!(!schedule.set_length(2049));
        assert!(schedule.set_length(2048) && schedule == plain);
    }

    /// Dynamic scaling only slows pairs down, whatever the length and the base: no stage can leave the limits
    /// that stage 0 keeps.
    #[test]
    fn no_length_of_dynamic_scaling_leaves_the_limits() {
        for base in [1e-6, 0.5, 1.0, 10_000.0, 1e300] {
            for factor in [1.0, 4.0, 2f64.powi(53)] {
                for max in [1, 2048, usize::MAX - 1] {
                    let scaling = RopeScaling::Dynamic(Dynamic::new(factor, max));
                    let Ok(schedule) = FrequencySchedule::new(8, base, scaling) else {
                        panic!("base {base}, factor {factor}, max {max}")
                    };
                    let highest = |schedule: &FrequencySchedule| {
                        schedule.frequencies().inv_freq().fold(0.0, f64::max)
                    };
                    for length in [1, 2049, 1 << 40, usize::MAX] {
                        let at = schedule.clone().at_length(length);
                        assert!(at.frequencies().recheck().is_ok(), "{at:?}");
                        assert!(highest(&at) <= highest(&schedule), "{at:?}");
                    }
                }
            }
        }
    }
}
