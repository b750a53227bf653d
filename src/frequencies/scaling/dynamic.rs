use super::{Base, Scheme, check_factor, check_length, check_stretches};
use crate::Result;
use crate::frequencies::double_double::DoubleDouble;
use crate::frequencies::powers;

/// Parameters of [`RopeScaling::Dynamic`](crate::RopeScaling::Dynamic): `θ_j` up to
/// `max_position_embeddings`; beyond, `θ_j` of a base times
/// `(factor · length / max - (factor - 1))^(d / (d - 2))`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Dynamic {
    /// From 1 to 2^53.
    pub factor: f64,
    /// Positions that the model was trained on.
    pub max_position_embeddings: usize,
}

impl Dynamic {
    /// Stretched by `factor` for each length beyond what the model was trained on.
    pub fn new(factor: f64, max_position_embeddings: usize) -> Self {
        Self { factor, max_position_embeddings }
    }
}

impl Scheme for Dynamic {
    fn name(&self) -> &'static str {
        "dynamic"
    }

    fn check(&self, rotary_dim: usize, _: f64) -> Result<()> {
        check_factor(self.factor)?;
        check_length("max_position_embeddings", self.max_position_embeddings)?;
        check_stretches(rotary_dim)
    }

    fn stage(&self, length: usize) -> usize {
        if length > self.max_position_embeddings { length } else { 0 }
    }

    /// A longer sequence stretches the base by more than 1, which slows every pair of a base above 1; the
    /// pairs of a base below 1 turn faster than a radian a position, and slow down, too.
    fn apply(&self, inv_freq: &mut [DoubleDouble], base: &Base, stage: usize) {
        if stage == 0 {
            return;
        }
        let stretch = DoubleDouble::from(stage as f64)
            .div((self.max_position_embeddings as f64).into())
            .mul(self.factor.into())
            .add(DoubleDouble::from(1.0).add((-self.factor).into()));
        powers(inv_freq, base.stretched_ln(stretch));
    }

    fn depends_on_length(&self) -> bool {
        true
    }
}
