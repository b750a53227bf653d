//! How released checkpoints stretch their frequencies over longer contexts: a file a scaling, with its
//! parameters, their ranges and its formula. Names and formulas are those of transformers'
//! `ROPE_INIT_FUNCTIONS`.

mod dynamic;
mod linear;
mod llama3;
mod longrope;
mod ntk;
mod proportional;
mod yarn;

pub use dynamic::Dynamic;
pub use linear::Linear;
pub use llama3::Llama3;
pub use longrope::LongRope;
pub use ntk::Ntk;
pub use proportional::Proportional;
pub use yarn::Yarn;

use super::double_double::DoubleDouble;
use crate::{Error, Result};

/// A kind of scaling and its parameters. With `θ_j = base^(-2j/d)` radians per position:
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// `θ_j`.
    Default,
    /// `θ_j / factor`: condensed positions by another name (arXiv 2306.15595).
    Linear(Linear),
    /// `θ_j` of a stretched base ("NTK-aware").
    Ntk(Ntk),
    /// NTK-aware by as much as the length asks for.
    Dynamic(Dynamic),
    /// YaRN (arXiv 2309.00071): fast pairs as they are, slow ones divided, a ramp in between.
    Yarn(Yarn),
    /// LongRoPE (arXiv 2402.13753): a divisor a pair, by one of two lists.
    LongRope(LongRope),
    /// Llama 3.1: pairs of long wavelengths divided, a smooth step in between.
    Llama3(Llama3),
    /// Some pairs divided, the others not turned at all.
    Proportional(Proportional),
}

/// The base that a scaling starts from.
pub(super) struct Base {
    /// Its natural logarithm.
    pub ln: DoubleDouble,
    /// Channels that rotate.
    pub dim: DoubleDouble,
}

impl Base {
    /// Of a base times `stretch^(d / (d - 2))`, so that the slowest pair is divided by `stretch` and the
    /// fastest one not at all.
    fn stretched_ln(&self, stretch: DoubleDouble) -> DoubleDouble {
        let exponent = self.dim.div(self.dim.add((-2.0).into()));
        self.ln.add(stretch.ln().mul(exponent))
    }
}

/// What every scaling says of itself.
pub(super) trait Scheme {
    /// transformers' name of it.
    fn name(&self) -> &'static str;

    /// Parameters are in their ranges.
    fn check(&self, rotary_dim: usize, base: f64) -> Result<()>;

    /// Lengths of one stage have one set of frequencies: 0 is the original length and below.
    fn stage(&self, _length: usize) -> usize {
        0
    }

    /// A stage besides 0 whose frequencies may be higher than that one's.
    fn other_stage(&self) -> Option<usize> {
        None
    }

    /// Turns `θ_j` into the frequencies of a stage.
    fn apply(&self, inv_freq: &mut [DoubleDouble], base: &Base, stage: usize);

    /// The factor on cos and sin.
    fn attention_factor(&self) -> f64 {
        1.0
    }

    /// Whether positions may be condensed on top.
    fn is_condensable(&self) -> bool {
        false
    }

    /// Whether other lengths have other frequencies.
    fn depends_on_length(&self) -> bool {
        false
    }
}

struct Unscaled;

impl Scheme for Unscaled {
    fn name(&self) -> &'static str {
        "default"
    }

    fn check(&self, _: usize, _: f64) -> Result<()> {
        Ok(())
    }

    fn apply(&self, _: &mut [DoubleDouble], _: &Base, _: usize) {}

    fn is_condensable(&self) -> bool {
        true
    }
}

impl RopeScaling {
    pub(super) fn scheme(&self) -> &dyn Scheme {
        match self {
            Self::Default => &Unscaled,
            Self::Linear(scaling) => scaling,
            Self::Ntk(scaling) => scaling,
            Self::Dynamic(scaling) => scaling,
            Self::Yarn(scaling) => scaling,
            Self::LongRope(scaling) => scaling,
            Self::Llama3(scaling) => scaling,
            Self::Proportional(scaling) => scaling,
        }
    }

    /// transformers' name of it.
    pub fn name(&self) -> &'static str {
        self.scheme().name()
    }

    /// The factor on cos and sin.
    pub fn attention_factor(&self) -> f64 {
        self.scheme().attention_factor()
    }

    /// Whether positions may be condensed on top. Linear scaling *is* condensing; dynamic, YaRN and
    /// LongRoPE are fitted to positions as they are counted, and would be stretched twice.
    pub fn is_condensable(&self) -> bool {
        self.scheme().is_condensable()
    }
}

/// A number in its range.
fn number(
    key: &'static str,
    given: f64,
    expected: &'static str,
    in_range: impl Fn(f64) -> bool,
) -> Result<()> {
    let fine = given.is_finite() && in_range(given);
    if fine { Ok(()) } else { Err(Error::Scaling { key, expected, given }) }
}

/// A factor on cos and sin, which are f32.
fn check_attention_factor(factor: f64) -> Result<()> {
    let fits = |factor| (f32::MIN_POSITIVE.into()..=f32::MAX.into()).contains(&factor);
    number("attention_factor", factor, "above zero, within f32's range", fits)
}

/// No length times such a factor leaves what f64 can hold.
fn check_factor(factor: f64) -> Result<()> {
    number("factor", factor, "from 1 to 2^53", |f| (1.0..=2f64.powi(53)).contains(&f))
}

fn check_length(key: &'static str, length: usize) -> Result<()> {
    number(key, length as f64, "above zero", |n| n > 0.0)
}

fn check_original(length: usize) -> Result<()> {
    check_length("original_max_position_embeddings", length)
}

/// `d / (d - 2)` must be a number.
fn check_stretches(rotary_dim: usize) -> Result<()> {
    let given = rotary_dim as f64;
    number("rotary_dim", given, "over 2, for a base to be stretched", |d| d > 2.0)
}

fn divide(inv_freq: &mut [DoubleDouble], factor: f64) {
    inv_freq.iter_mut().for_each(|f| *f = f.div(factor.into()));
}

/// `a (1 - weight) + b weight`.
fn blend(a: DoubleDouble, b: DoubleDouble, weight: DoubleDouble) -> DoubleDouble {
    a.mul(DoubleDouble::from(1.0).add(weight.negated())).add(b.mul(weight))
}
