//! From a checked call to what a launch is told. Inert: submitting it is another's business.

use super::Address;
use super::geometry::{Geometry, Work};
use super::raw::{PositionSource, RawHeads, RawIds};
use super::request::{Choice, Divisor, Overlap, Request, Tensor, Variant};
use super::retention::{Retention, Traffic};
use super::sets::SetShape;
use crate::{Direction, Dtype, Error, Layout, Pairing, Positions, Result};

/// What launches need to know of a device.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    pub multiprocessors: usize,
    pub l2_bytes: usize,
}

impl Device {
    pub const H100: Self = Self { multiprocessors: 132, l2_bytes: 50 << 20 };
}

/// What a rope is, as its kernels need it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Of the words of [`Sets`](super::Sets), all of them, aligned to 16 bytes.
    pub steps: Address,
    pub sets: SetShape,
    pub pairing: Pairing,
    pub direction: Direction,
    /// The first set's, on cos and sin.
    pub factor: f32,
    pub device: Device,
    pub overlap: Overlap,
}

impl Spec {
    fn positions(
        &self,
        positions: &Positions<RawIds>,
        batch_seq: [usize; 2],
    ) -> Result<PositionSource> {
        let zero = self.steps + (self.sets.zero() * size_of::<u64>()) as u64;
        PositionSource::new(positions, batch_seq, self.sets.pairs(), zero)
    }
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
        let heads = [q.layout.heads, k.map_or(0, |k| k.layout.heads)];
        let tokens = batch.saturating_mul(seq);
        let choice = Choice::new(positions, &spec.sets)?;
        let source = spec.positions(positions, [batch, seq])?;
        if tokens == 0 || heads == [0, 0] {
            return Ok(None);
        }
        let tensor = |heads: &RawHeads| {
            let source = heads.source.as_ref().map(|(address, layout)| (*address, layout));
            Tensor::new(heads.dtype, (heads.target, &heads.layout), source, spec.sets.rotary_dim)
        };
        let tensors = [tensor(q), k.map_or_else(Tensor::default, tensor)];
        let many = choice.ids.first != 0 || source.axes.stride != 0;
        let rotary_dim = spec.sets.rotary_dim;
        let given = || [Some(q), k].into_iter().flatten();
        let traffic = Traffic {
            in_place: given().all(|heads| heads.source.is_none()),
            whole_heads: given().all(|heads| heads.layout.head_dim == rotary_dim),
            bytes: tokens.saturating_mul((heads[0] + heads[1]) * rotary_dim * q.dtype.size()),
        };
        let retention = Retention::of(traffic, spec.device.l2_bytes);
        let launch = Self::new(spec, q.dtype, tensors, source, [tokens, seq], |width| {
            let [_, token, head] = q.layout.strides;
            let tokens_inside = seq > 1 && token < head;
            let overlaps = spec.overlap != Overlap::None;
            let work = Work { width, heads, tokens, tokens_inside, many, overlaps };
            Geometry::rotation(work, spec.device.multiprocessors)
        });
        Ok(Some(launch.choosing(choice, spec.direction).keeping(retention)))
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
        let positions = spec.positions(&Positions::from(start), [1, rows])?;
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
        source: PositionSource,
        [tokens, seq]: [usize; 2],
        geometry: impl FnOnce(usize) -> Geometry,
    ) -> Self {
        let pairs = spec.sets.rotary_dim / 2;
        let (variant, pair_stride, partner) =
            Variant::widest(dtype, spec.pairing, pairs, [&tensors[0], &tensors[1]]);
        let geometry = geometry(pairs / variant.pairs());
        let (cos_factor, sin_factor) = spec.direction.factors(spec.factor);
        let (_, rows, lanes) = geometry.block;
        let request = Request {
            steps: spec.steps,
            seq: Divisor::new(seq as u32),
            tokens: tokens as u32,
            pair_stride,
            partner,
            overlap: spec.overlap,
            reading: Retention::PLAIN.reading,
            rows,
            lanes: lanes as u16,
            q_slices: geometry.q_slices as u16,
            heads: tensors.map(|tensor| tensor.heads),
            src: tensors.map(|tensor| tensor.src),
            positions: source.positions,
            cos_factor,
            sin_factor,
            writing: Retention::PLAIN.writing,
            in_place: tensors.map(|tensor| tensor.in_place.into()),
            sets: Choice::default(),
            axes: source.axes,
            starts: source.starts,
            dst: tensors.map(|tensor| tensor.dst),
            rest: tensors.map(|tensor| tensor.rest),
            pairs: pairs as u32,
            reserved: 0,
        };
        Self { variant, geometry, request }
    }

    /// With a choice among sets, each of which has a factor of its own.
    fn choosing(mut self, choice: Choice, direction: Direction) -> Self {
        if choice.ids.first != 0 {
            self.request.sets = choice;
            (self.request.cos_factor, self.request.sin_factor) = direction.factors(1.0);
        }
        self
    }

    fn keeping(mut self, Retention { reading, writing }: Retention) -> Self {
        (self.request.reading, self.request.writing) = (reading, writing);
        self
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        self.variant.name(self.geometry.entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_is_asked_by_place_and_bytes() {
        let spec = Spec {
            steps: 1 << 20,
            sets: SetShape { rotary_dim: 64, count: 1, stride: 34 },
            pairing: Pairing::HalfSplit,
            direction: Direction::Forward,
            factor: 1.0,
            device: Device::H100,
            overlap: Overlap::None,
        };
        let asked = |tokens, head_dim, k: bool, copied: [bool; 2]| {
            let heads = |heads, address: Address, copied| {
                let layout = Layout::thd(tokens, heads, head_dim);
                let raw = RawHeads::in_place(Dtype::BF16, address, layout);
                if copied { raw.reading(address + (1 << 35), layout) } else { raw }
            };
            let (q, k) = (heads(32, 1 << 30, copied[0]), k.then(|| heads(8, 1 << 32, copied[1])));
            let launch = Launch::rotation(&spec, &q, k.as_ref(), &Positions::from(0));
            let Request { reading, writing, .. } = launch.unwrap().unwrap().request;
            Retention { reading, writing }
        };
        // 40 or 32 heads of 64 rotated channels of two bytes: half of 50 MiB is 5120 or 6400 tokens.
        let [here, away] = [[false; 2], [true; 2]];
        assert_eq!(asked(1, 64, true, here), Retention::UNTIL_WRITTEN);
        assert_eq!(asked(5120, 64, true, here), Retention::UNTIL_WRITTEN);
        assert_eq!(asked(5121, 64, true, here), Retention::BY_HALVES);
        assert_eq!(asked(6400, 64, false, here), Retention::UNTIL_WRITTEN);
        assert_eq!(asked(6401, 64, false, here), Retention::BY_HALVES);
        assert_eq!(asked(5121, 65, true, here), Retention::UNTIL_WRITTEN);
        for copied in [[true, false], [false, true], away] {
            assert_eq!(asked(5121, 64, true, copied), Retention::PLAIN);
        }
        assert_eq!(asked(1, 64, false, [true, false]), Retention::PLAIN);
    }
}
