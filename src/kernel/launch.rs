//! From a checked call to what a launch is told. Inert: submitting it is another's business.

use super::Address;
use super::geometry::{Geometry, Work};
use super::raw::{RawHeads, RawIds};
use super::request::{Axes, Choice, Divisor, Overlap, PositionSource, Request, Tensor, Variant};
use super::sets::SetShape;
use crate::{Direction, Dtype, Error, Layout, Pairing, Positions, Result};

/// What a rope is, as its kernels need it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Of the words of [`Sets`](super::Sets), aligned to 16 bytes.
    pub steps: Address,
    pub sets: SetShape,
    pub pairing: Pairing,
    pub direction: Direction,
    /// The first set's, on cos and sin.
    pub factor: f32,
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
        let choice = Choice::new(positions, &spec.sets)?;
        let positions = PositionSource::new(positions, [batch, seq])?;
        let many = choice.ids != 0 || positions.axes != Axes::One;
        let tensor = |heads: &RawHeads| {
            let source = heads.source.as_ref().map(|(address, layout)| (*address, layout));
            Tensor::new(heads.dtype, (heads.target, &heads.layout), source, spec.sets.rotary_dim)
        };
        let tensors = [tensor(q), k.map_or_else(Tensor::default, tensor)];
        let heads = [q.layout.heads, k.map_or(0, |k| k.layout.heads)];
        let tokens = batch.saturating_mul(seq);
        if tokens == 0 || heads == [0, 0] {
            return Ok(None);
        }
        let launch = Self::new(spec, q.dtype, tensors, positions, [tokens, seq], |width| {
            let [_, token, head] = q.layout.strides;
            let work = Work { width, heads, tokens, tokens_inside: seq > 1 && token < head, many };
            Geometry::rotation(work, spec.multiprocessors)
        });
        Ok(Some(launch.choosing(choice, spec.direction)))
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
        let layout = Layout::thd(rows, 1, spec.sets.rotary_dim);
        let tensors =
            cos_sin.map(|to| Tensor::new(dtype, (to, &layout), None, spec.sets.rotary_dim));
        if rows == 0 {
            return Ok(None);
        }
        let positions = PositionSource::new(&Positions::from(start), [1, rows])?;
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
        let pairs = spec.sets.rotary_dim / 2;
        let (variant, pair_stride, partner) =
            Variant::widest(dtype, spec.pairing, pairs, [&tensors[0], &tensors[1]]);
        let geometry = geometry(pairs / variant.pairs());
        let (cos_factor, sin_factor) = spec.direction.factors(spec.factor);
        let request = Request {
            steps: spec.steps,
            sets: Choice::default(),
            tensors,
            positions,
            seq: Divisor::new(seq as u32),
            tokens: tokens as u32,
            pairs: pairs as u32,
            q_slices: geometry.q_slices,
            pair_stride,
            partner,
            cos_factor,
            sin_factor,
            overlap: spec.overlap,
        };
        Self { variant, geometry, request }
    }

    /// With a choice among sets, each of which has a factor of its own.
    fn choosing(mut self, choice: Choice, direction: Direction) -> Self {
        if choice.ids != 0 {
            self.request.sets = choice;
            (self.request.cos_factor, self.request.sin_factor) = direction.factors(1.0);
        }
        self
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        self.variant.name(self.geometry.entry)
    }
}
