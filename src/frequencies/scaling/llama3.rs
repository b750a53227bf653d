use super::{Base, Scheme, blend, check_factor, check_original, number};
use crate::Result;
use crate::frequencies::double_double::{DoubleDouble, TAU};

/// Parameters of [`RopeScaling::Llama3`](crate::RopeScaling::Llama3): wavelengths up to
/// `original / high_freq_factor` as they are, those from `original / low_freq_factor` on divided by
/// `factor`, a smooth step in between.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Llama3 {
    /// From 1 to 2^53.
    pub factor: f64,
    /// Below `high_freq_factor`.
    pub low_freq_factor: f64,
    /// Above `low_freq_factor`.
    pub high_freq_factor: f64,
    /// Positions that the model was first trained on.
    pub original_max_position_embeddings: usize,
}

impl Llama3 {
    /// With Llama 3.1's `low_freq_factor` of 1 and `high_freq_factor` of 4.
    pub fn new(factor: f64, original_max_position_embeddings: usize) -> Self {
        Self {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings,
        }
    }
}

impl Scheme for Llama3 {
    fn name(&self) -> &'static str {
        "llama3"
    }

    fn check(&self, _: usize, _: f64) -> Result<()> {
        check_factor(self.factor)?;
        check_original(self.original_max_position_embeddings)?;
        number("low_freq_factor", self.low_freq_factor, "above zero", |low| low > 0.0)?;
        let above = |high| high >= self.low_freq_factor;
        number("high_freq_factor", self.high_freq_factor, "low_freq_factor or more", above)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], _: &Base, _: usize) {
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let original = DoubleDouble::from(self.original_max_position_embeddings as f64);
        for f in inv_freq {
            // Turns within the original length.
            let turns = original.mul(*f).div(TAU);
            let slow = f.div(self.factor.into());
            if turns.high < low {
                *f = slow;
            } else if turns.high < high {
                let span = DoubleDouble::from(high).add((-low).into());
                *f = blend(slow, *f, turns.add((-low).into()).div(span));
            }
        }
    }

    fn is_condensable(&self) -> bool {
        true
    }
}
