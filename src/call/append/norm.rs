//! RMSNorm of query and key heads.

use super::memory::{Lower, Memory, Raw, RawTensor};
use crate::Result;

/// RMSNorm of query and key heads before they rotate: each head is divided by the root of the mean of its squares plus
/// `eps`, and each channel multiplied by a weight. In f32, from the elements to the one rounding behind the rotation.
///
/// Qwen3's `q_norm` and `k_norm`; with [`unit_offset`](Self::unit_offset) Gemma 3's, whose weights are one less than
/// what they multiply by. Weights are `head_dim` elements of q's type. A tensor without weights is not normalised.
///
/// The squares are summed in one order, whatever the hardware: a complete binary tree over the channel pairs, those that rotate
/// first. So all backends give the same bits.
#[derive(Debug)]
pub struct QkNorm<M: Memory> {
    pub(crate) eps: f32,
    pub(crate) unit_offset: bool,
    pub(crate) weights: [Option<M::Tensor>; 2],
}

impl<M: Memory> QkNorm<M> {
    /// No norm.
    pub fn none() -> Self {
        Self::rms(1.0)
    }

    /// With this epsilon, and no weights yet.
    pub fn rms(eps: f32) -> Self {
        Self { eps, unit_offset: false, weights: [None, None] }
    }

    /// Normalises q, by these weights.
    pub fn q(self, weights: impl Into<M::Tensor>) -> Self {
        let [_, k] = self.weights;
        Self { weights: [Some(weights.into()), k], ..self }
    }

    /// Normalises k, by these weights.
    pub fn k(self, weights: impl Into<M::Tensor>) -> Self {
        let [q, _] = self.weights;
        Self { weights: [q, Some(weights.into())], ..self }
    }

    /// Channels are multiplied by one more than the weights, as Gemma's are.
    pub fn unit_offset(self) -> Self {
        Self { unit_offset: true, ..self }
    }

    pub(crate) fn lower<'a>(&'a self, by: &mut impl Lower<'a, M>) -> Result<QkNorm<Raw>> {
        let mut lower = |name, weights: &'a Option<M::Tensor>| -> Result<Option<RawTensor>> {
            weights.as_ref().map(|weights| by.tensor(name, weights)).transpose()
        };
        let [q, k] = &self.weights;
        let weights = [lower("q weights", q)?, lower("k weights", k)?];
        Ok(QkNorm { eps: self.eps, unit_offset: self.unit_offset, weights })
    }
}
