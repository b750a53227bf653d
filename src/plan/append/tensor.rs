//! The tensors of a call, as they are launched.

use super::cache::scale;
use super::{KEY, QUERY, VALUE};
use crate::call::{CheckedAppend, CheckedTensor};
use crate::plan::params::{FlatKvPages, FlatRows, HeadShape, KvPages, Rows, Scale};
use crate::plan::run::RunIds;
use crate::plan::source::Source;
use crate::plan::variant::Variant;
use crate::{Layout, Stored};

/// Where rows go, as the kernels' `Target` numbers it.
pub(super) const NOWHERE: u8 = 0;
pub(super) const IN_PLACE: u8 = 1;
pub(super) const ELSEWHERE: u8 = 2;
pub(super) const CONVERTED: u8 = 3;

/// Channel pairs of a head, by what becomes of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub before: usize,
    pub pairs: usize,
    pub rest: usize,
}

impl Shape {
    pub fn params(&self) -> HeadShape {
        let [before, pairs, rest] = [self.before, self.pairs, self.rest].map(|n| n as u16);
        HeadShape { before, pairs, rest, reserved: 0 }
    }

    pub fn lanes(&self, variant: &Variant) -> usize {
        (self.pairs + self.rest) / variant.pairs()
    }

    /// Vectors lie within one run of channels each.
    pub fn fits(&self, variant: &Variant) -> bool {
        let pairs = variant.pairs();
        let vector = if variant.joined { 2 * pairs } else { pairs };
        self.pairs.is_multiple_of(pairs)
            && self.rest.is_multiple_of(pairs)
            && self.before.is_multiple_of(vector)
    }
}

/// One tensor as it is launched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub src: Rows,
    pub dst: Rows,
    pub shape: Shape,
    pub target: u8,
    pub storage: Stored,
    pub scale: Scale,
}

impl Tensor {
    /// Of q, k or v; `None` where it is absent, or has no heads.
    pub fn of(call: &CheckedAppend, i: usize, rotary_dim: usize) -> Option<Self> {
        let tensor: CheckedTensor = call.tensors[i].filter(|t| t.layout.shape()[2] > 0)?;
        let CheckedTensor { source, mut layout, target } = tensor;
        let rotary_dim = if i == VALUE { 0 } else { rotary_dim };
        let normalised = i != VALUE && call.norm.weights[i].is_some();
        let cached = i != QUERY && call.cache.is_some();
        let mut to = target.map_or(layout, |target| target.layout);
        if tensor.is_in_place() && !normalised && !cached {
            // Nothing but the rotated channels matters.
            layout = layout.narrowed(rotary_dim);
            to = layout;
        }
        let [.., head_dim] = layout.shape();
        let before = if i == VALUE { 0 } else { layout.rotary_offset() };
        let pairs = rotary_dim / 2;
        let shape = Shape { before, pairs, rest: head_dim / 2 - pairs };
        let stored = target.map_or(Stored::Element(call.dtype), |target| target.stored);
        let converted = stored != Stored::Element(call.dtype);
        let size = call.dtype.size();
        Some(Self {
            src: rows(size, source, &layout),
            dst: target.map_or_else(Rows::default, |t| rows(stored.size(), t.address, &to)),
            shape,
            target: match target {
                None => NOWHERE,
                Some(target) if target.in_place => IN_PLACE,
                Some(_) if converted => CONVERTED,
                Some(_) => ELSEWHERE,
            },
            storage: stored,
            scale: target.map_or_else(Scale::default, |target| scale(&target.scale)),
        })
    }
}

/// Rows from channel 0, of elements of `size` bytes.
pub(super) fn rows(size: usize, base: u64, layout: &Layout) -> Rows {
    let [batch, seq, heads, _] = layout.shape();
    let strides = layout.strides();
    // A dimension of size one is never stepped along; its stride must not spoil alignment.
    let stride = |i: usize, n: usize| if n > 1 { (strides[i] * size) as i64 } else { 0 };
    let [batch, token, head] = [stride(0, batch), stride(1, seq), stride(2, heads)];
    Rows { first: base + (layout.offset() * size) as u64, batch, token, head }
}

/// What a flat kernel takes of a call: tokens in one run, whose heads of q and k rotate as a whole, and stay where they are.
pub(super) struct Run {
    pub src: [FlatRows; 3],
    pub pages: [FlatKvPages; 2],
    pub positions: RunIds,
}

impl Run {
    /// `None` where there is none, or where it does not fit the kernels' numbers.
    pub fn of(
        batch_seq: [usize; 2],
        [q, k, _]: &[Option<Tensor>; 3],
        src: &[Rows; 3],
        pages: &[KvPages; 2],
        source: &Source,
    ) -> Option<Self> {
        let is_whole = |tensor: &Option<Tensor>| {
            tensor.is_none_or(|t| t.shape.before == 0 && t.shape.rest == 0)
        };
        let goes = |tensor: &Option<Tensor>, targets: &[u8]| {
            tensor.is_none_or(|tensor| targets.contains(&tensor.target))
        };
        let fits =
            is_whole(q) && is_whole(k) && goes(q, &[IN_PLACE]) && goes(k, &[IN_PLACE, NOWHERE]);
        if !fits {
            return None;
        }
        let rows = |i: usize| FlatRows::of(batch_seq, &src[i]);
        Some(Self {
            src: [rows(QUERY)?, rows(KEY)?, rows(VALUE)?],
            pages: [FlatKvPages::of(&pages[0])?, FlatKvPages::of(&pages[1])?],
            positions: RunIds::of(batch_seq, &source.positions)?,
        })
    }
}
