//! Phase steps to sine and cosine, for all pairs of a token: `kernels/stage/angles.cuh`.

use super::phase;
use crate::{Direction, MAX_HEAD_DIM};

/// Steps, and the factors on cos and sin.
#[derive(Clone, Copy)]
pub(super) struct Turns<'a> {
    pub steps: &'a [u64],
    cos_factor: f32,
    sin_factor: f32,
}

impl<'a> Turns<'a> {
    pub fn new(steps: &'a [u64], direction: Direction, factor: f32) -> Self {
        let (cos_factor, sin_factor) = direction.factors(factor);
        Self { steps, cos_factor, sin_factor }
    }
}

/// Cosine and sine of every pair at one position.
pub(super) struct Angles {
    pub cos: [f32; MAX_HEAD_DIM / 2],
    pub sin: [f32; MAX_HEAD_DIM / 2],
}

impl Angles {
    pub const ZERO: Self = Self { cos: [0.0; MAX_HEAD_DIM / 2], sin: [0.0; MAX_HEAD_DIM / 2] };

    #[inline(always)]
    pub fn turn_to(&mut self, position: i64, turns: &Turns) {
        self.turn_by(turns, |_| position);
    }

    /// Each pair to a position of its own.
    #[inline(always)]
    pub fn turn_by(&mut self, turns: &Turns, position: impl Fn(usize) -> i64) {
        let angles = self.cos.iter_mut().zip(&mut self.sin);
        for (pair, (step, (cos, sin))) in turns.steps.iter().zip(angles).enumerate() {
            let (exact_cos, exact_sin) = phase::cos_sin(step.wrapping_mul(position(pair) as u64));
            *cos = exact_cos * turns.cos_factor;
            *sin = exact_sin * turns.sin_factor;
        }
    }
}
