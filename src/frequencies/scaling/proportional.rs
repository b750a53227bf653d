use super::{Base, Scheme, check_factor, number};
use crate::Result;
use crate::frequencies::double_double::DoubleDouble;

/// Parameters of [`RopeScaling::Proportional`](crate::RopeScaling::Proportional): the first
/// `int(partial_rotary_factor · d / 2)` pairs at `θ_j / factor`, the others not turned at all. Exponents
/// count all of `d`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Proportional {
    /// From 1 to 2^53.
    pub factor: f64,
    /// From 0 to 1.
    pub partial_rotary_factor: f64,
}

impl Proportional {
    /// A share of the pairs, at frequencies divided by `factor`.
    pub fn new(factor: f64, partial_rotary_factor: f64) -> Self {
        Self { factor, partial_rotary_factor }
    }
}

impl Scheme for Proportional {
    fn name(&self) -> &'static str {
        "proportional"
    }

    fn check(&self, _: usize, _: f64) -> Result<()> {
        check_factor(self.factor)?;
        let within = |p| (0.0..=1.0).contains(&p);
        number("partial_rotary_factor", self.partial_rotary_factor, "from 0 to 1", within)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], _: &Base, _: usize) {
        let turning = (self.partial_rotary_factor * inv_freq.len() as f64).floor() as usize;
        for (j, f) in inv_freq.iter_mut().enumerate() {
            *f = if j < turning { f.div(self.factor.into()) } else { 0.0.into() };
        }
    }

    fn is_condensable(&self) -> bool {
        true
    }
}
