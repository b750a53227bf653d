use super::{Base, Scheme, check_factor, divide};
use crate::Result;
use crate::frequencies::double_double::DoubleDouble;

/// Parameters of [`RopeScaling::Linear`](crate::RopeScaling::Linear): `θ_j / factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Linear {
    /// From 1 to 2^53.
    pub factor: f64,
}

impl Linear {
    /// Positions divided by `factor`.
    pub fn new(factor: f64) -> Self {
        Self { factor }
    }
}

impl Scheme for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn check(&self, _: usize, _: f64) -> Result<()> {
        check_factor(self.factor)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], _: &Base, _: usize) {
        divide(inv_freq, self.factor);
    }
}
