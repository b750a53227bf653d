use super::{Base, Scheme, blend, check_attention_factor, check_factor, check_original, number};
use crate::Result;
use crate::frequencies::double_double::{DoubleDouble, TAU};

/// Parameters of [`RopeScaling::Yarn`](crate::RopeScaling::Yarn) (arXiv 2309.00071).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
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
    /// On cos and sin; [`attention_factor_of`](Self::attention_factor_of) works out the usual one.
    pub attention_factor: f64,
}

impl Yarn {
    /// With the paper's parameters.
    pub fn new(factor: f64, original_max_position_embeddings: usize) -> Self {
        Self {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: Self::attention_factor_of(factor, None),
        }
    }

    /// `0.1 ln factor + 1`; or, with DeepSeek's `(mscale, mscale_all_dim)`, the ratio of
    /// `0.1 mscale ln factor + 1` and `0.1 mscale_all_dim ln factor + 1`.
    pub fn attention_factor_of(factor: f64, mscales: Option<(f64, f64)>) -> f64 {
        let scale = |mscale: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
        };
        mscales.map_or(scale(1.0), |(mscale, all_dim)| scale(mscale) / scale(all_dim))
    }

    /// The ramp's ends, in pairs.
    fn range(&self, base: &Base) -> (DoubleDouble, DoubleDouble) {
        let original = DoubleDouble::from(self.original_max_position_embeddings as f64);
        // The pair that turns `beta` times within the original length.
        let pair = |beta: f64| {
            let wavelength = original.div(TAU.mul(beta.into()));
            base.dim.mul(wavelength.ln()).div(base.ln.mul(2.0.into()))
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            low = low.high.floor().into();
            high = high.high.ceil().into();
        }
        if low.high < 0.0 {
            low = 0.0.into();
        }
        // transformers cuts at the last channel, not at the last pair: a ramp may end beyond the pairs.
        if high.high > base.dim.high - 1.0 {
            high = base.dim.add((-1.0).into());
        }
        if low == high {
            high = high.add(0.001.into());
        }
        (low, high)
    }
}

impl Scheme for Yarn {
    fn name(&self) -> &'static str {
        "yarn"
    }

    fn check(&self, _: usize, base: f64) -> Result<()> {
        number("rope_theta", base, "above 1, for YaRN's ramp", |base| base > 1.0)?;
        check_factor(self.factor)?;
        check_original(self.original_max_position_embeddings)?;
        number("beta_slow", self.beta_slow, "above zero", |beta| beta > 0.0)?;
        let above = |beta| beta >= self.beta_slow;
        number("beta_fast", self.beta_fast, "beta_slow or more", above)?;
        check_attention_factor(self.attention_factor)
    }

    fn apply(&self, inv_freq: &mut [DoubleDouble], base: &Base, _: usize) {
        let (low, high) = self.range(base);
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

    fn attention_factor(&self) -> f64 {
        self.attention_factor
    }
}
