use super::{Base, Scheme, check_factor, check_stretches};
use crate::Result;
use crate::frequencies::double_double::DoubleDouble;
use crate::frequencies::powers;

/// Parameters of [`RopeScaling::Ntk`](crate::RopeScaling::Ntk): `θ_j` of a base that is
/// `factor^(d / (d - 2))` times as large, so that the slowest pair is divided by `factor` and the fastest
/// one not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ntk {
    /// From 1 to 2^53.
    pub factor: f64,
}

impl Ntk {
    /// The slowest pair divided by `factor`.
    pub fn new(factor: f64) -> Self {
        Self { factor }
    }
}

impl Scheme for Ntk {
    fn name(&self) -> &'static str {
        "ntk"
    }

    fn check(&self, rotary_dim: usize, _: f64) -> Result<()> {
        check_factor(self.factor)?;
        check_stretches(rotary_dim)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], base: &Base, _: usize) {
        powers(inv_freq, base.stretched_ln(self.factor.into()));
    }

    fn is_condensable(&self) -> bool {
        true
    }
}
