//! RMSNorm of a head: `kernels/norm.cuh`, operation for operation, and bit for bit.

use crate::{Element, MAX_HEAD_DIM, Pairing};

/// Which channels a head's pairs are: those that rotate, then the others in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairChannels {
    pub before: usize,
    pub pairs: usize,
    pub rest: usize,
    pub pairing: Pairing,
}

impl PairChannels {
    #[inline(always)]
    fn of(&self, pair: usize) -> [usize; 2] {
        let rotated = pair < self.pairs;
        let (i, run) = if rotated { (pair, self.pairs) } else { (pair - self.pairs, self.rest) };
        let pair = match self.pairing {
            Pairing::HalfSplit => [i, i + run],
            Pairing::Interleaved => [2 * i, 2 * i + 1],
        };
        pair.map(|channel| match rotated {
            true => self.before + channel,
            false if channel < self.before => channel,
            false => channel + 2 * self.pairs,
        })
    }
}

/// The norm of one tensor's heads.
#[derive(Clone, Copy)]
pub(super) struct RmsNorm<'a, T> {
    pub weights: &'a [T],
    pub eps: f32,
    pub unit_offset: bool,
}

impl<T: Element> RmsNorm<'_, T> {
    /// Each channel as it is before it rotates, in f32.
    #[inline(always)]
    pub fn apply(&self, head: &[T], channels: &PairChannels, values: &mut [f32; MAX_HEAD_DIM]) {
        for (value, element) in values.iter_mut().zip(head) {
            *value = element.widen();
        }
        let inverse = self.inverse_rms(channels, values, head.len());
        for (value, weight) in values.iter_mut().zip(self.weights) {
            let weight = weight.widen();
            let weight = if self.unit_offset { 1.0 + weight } else { weight };
            *value = *value * inverse * weight;
        }
    }

    #[inline(always)]
    fn inverse_rms(
        &self,
        channels: &PairChannels,
        values: &[f32; MAX_HEAD_DIM],
        dim: usize,
    ) -> f32 {
        // The complete binary tree over pairs, neighbours first; pairs that are not there are zero.
        let mut sums = [0.0f32; MAX_HEAD_DIM / 2];
        let count = channels.pairs + channels.rest;
        for (pair, sum) in sums[..count].iter_mut().enumerate() {
            let [x, y] = channels.of(pair).map(|channel| values[channel]);
            *sum = y.mul_add(y, x * x);
        }
        let mut width = count.next_power_of_two();
        while width > 1 {
            width /= 2;
            for i in 0..width {
                sums[i] = sums[2 * i] + sums[2 * i + 1];
            }
        }
        let mean = sums[0] * (1.0 / dim as f32) + self.eps;
        1.0 / mean.sqrt()
    }
}

/// The rotated channels of a head in f32, as `rotate_row` has them of elements.
#[inline(always)]
pub(super) fn rotate_values(values: &mut [f32], pairing: Pairing, cos: &[f32], sin: &[f32]) {
    let pairs = cos.len();
    for pair in 0..pairs {
        let [a, b] = match pairing {
            Pairing::HalfSplit => [pair, pair + pairs],
            Pairing::Interleaved => [2 * pair, 2 * pair + 1],
        };
        let (x, y) = (values[a], values[b]);
        values[a] = x.mul_add(cos[pair], -(y * sin[pair]));
        values[b] = y.mul_add(cos[pair], x * sin[pair]);
    }
}
