//! From a checked call to what a launch is told. Inert: submitting it is another's business.

use super::Address;
use super::geometry::{Geometry, Work};
use super::raw::{RawHeads, RawIds};
use super::request::{Divisor, Overlap, PositionSource, Request, Tensor, Variant};
use crate::{Dtype, Error, Layout, Pairing, Positions, Result};

/// What a rope is, as its kernels need it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Of the phase steps: one `u64` a pair, aligned to 16 bytes.
    pub steps: Address,
    pub rotary_dim: usize,
    pub pairing: Pairing,
    /// On cos and on sin.
    pub factors: (f32, f32),
    pub multiprocessors: usize,
    pub overlap: Overlap,
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    pub variant: Variant,
    pub geometry: Geometry,
    pub request: Request,
}

impl Launch {
    /// A rotation whose tensors and positions passed the checks; `None` where there is nothing to
    /// rotate.
    pub fn rotation(
        spec: &Spec,
        q: &RawHeads,
        k: Option<&RawHeads>,
        positions: &Positions<RawIds>,
    ) -> Result<Option<Self>> {
        let [batch, seq, ..] = q.layout.shape();
        let positions = PositionSource::new(positions, seq)?;
        let tensor = |heads: &RawHeads| {
            let source = heads.source.as_ref().map(|(address, layout)| (*address, layout));
            Tensor::new(heads.dtype, (heads.target, &heads.layout), source, spec.rotary_dim)
        };
        let tensors = [tensor(q), k.map_or_else(Tensor::default, tensor)];
        let heads = [q.layout.heads, k.map_or(0, |k| k.layout.heads)];
        let tokens = batch.saturating_mul(seq);
        if tokens == 0 || heads == [0, 0] {
            return Ok(None);
        }
        Ok(Some(Self::new(spec, q.dtype, tensors, positions, [tokens, seq], |width| {
            let [_, token, head] = q.layout.strides;
            let work = Work { width, heads, tokens, tokens_inside: seq > 1 && token < head };
            Geometry::rotation(work, spec.multiprocessors)
        })))
    }

    /// The table of `rows` positions from `start`, into contiguous `[rows, rotary_dim]` each.
    pub fn table(
        spec: &Spec,
        dtype: Dtype,
        cos_sin: [Address; 2],
        start: i64,
        rows: usize,
    ) -> Result<Option<Self>> {
        let limit = i32::MAX as usize;
        if rows > limit {
            return Err(Error::TooLarge { tensor: "cos", what: "the number of rows", limit });
        }
        let layout = Layout::thd(rows, 1, spec.rotary_dim);
        let tensors = cos_sin.map(|to| Tensor::new(dtype, (to, &layout), None, spec.rotary_dim));
        if rows == 0 {
            return Ok(None);
        }
        let positions = PositionSource::new(&Positions::From(start), rows)?;
        // The table's kernels wait for nobody.
        let spec = Spec { overlap: Overlap::None, ..*spec };
        Ok(Some(Self::new(&spec, dtype, tensors, positions, [rows, rows], |width| {
            Geometry::table(width, rows)
        })))
    }

    fn new(
        spec: &Spec,
        dtype: Dtype,
        tensors: [Tensor; 2],
        positions: PositionSource,
        [tokens, seq]: [usize; 2],
        geometry: impl FnOnce(usize) -> Geometry,
    ) -> Self {
        let pairs = spec.rotary_dim / 2;
        let (variant, pair_stride, partner) =
            Variant::widest(dtype, spec.pairing, pairs, [&tensors[0], &tensors[1]]);
        let geometry = geometry(pairs / variant.pairs());
        let request = Request {
            steps: spec.steps,
            tensors,
            positions,
            seq: Divisor::new(seq as u32),
            tokens: tokens as u32,
            pairs: pairs as u32,
            q_slices: geometry.q_slices,
            pair_stride,
            partner,
            cos_factor: spec.factors.0,
            sin_factor: spec.factors.1,
            overlap: spec.overlap,
        };
        Self { variant, geometry, request }
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        self.variant.name(self.geometry.entry)
    }
}
