//! Tensors by address, for engines with their own memory.

use super::Address;
use super::request::{Axes, Choice, Ids, TokenPositions};
use super::sets::SetShape;
use crate::heads::{self, Extent};
use crate::positions::Indices;
use crate::{Dtype, Error, Layout, PositionKind, Positions, Result};

/// Heads at an address in device memory.
#[derive(Clone, Copy, Debug)]
pub struct RawHeads {
    pub(crate) dtype: Dtype,
    pub(crate) source: Option<(Address, Layout)>,
    pub(crate) target: Address,
    pub(crate) layout: Layout,
}

impl RawHeads {
    /// Rotates where the heads lie. `address` is that of the element the layout's offset counts
    /// from.
    pub const fn in_place(dtype: Dtype, address: Address, layout: Layout) -> Self {
        Self { dtype, source: None, target: address, layout }
    }

    /// Reads from `source` instead, so that the rotation works out of place.
    pub const fn reading(self, source: Address, from: Layout) -> Self {
        Self { source: Some((source, from)), ..self }
    }

    /// Where the heads lie.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A source that is the target itself is no source.
    pub fn without_own_source(self) -> Self {
        let own = |(source, from)| source == self.target && from == self.layout;
        Self { source: self.source.filter(|&source| !own(source)), ..self }
    }

    /// Nobody says how long the memory is; only its addressing can be checked.
    pub(crate) fn extent(
        &self,
        extent: fn(Layout, usize, Option<(Layout, usize)>) -> Extent,
    ) -> Extent {
        let len = isize::MAX as usize / self.dtype.size();
        extent(self.layout, len, self.source.map(|(_, layout)| (layout, len)))
    }

    pub(crate) fn check_alignment(&self, extent: &Extent) -> Result<()> {
        let size = self.dtype.size();
        check_alignment(extent.name, self.target, size)?;
        self.source.map_or(Ok(()), |(source, _)| check_alignment(extent.source_name, source, size))
    }

    /// What is written shares nothing with `other`, a tensor of the same element type.
    pub(crate) fn disjoint(&self, (other, layout): (Address, &Layout)) -> bool {
        // Count both layouts' elements from the lower address, which both are whole elements from.
        let base = self.target.min(other);
        let size = self.dtype.size() as u64;
        let moved = |layout: &Layout, address: Address| {
            let elements = usize::try_from((address - base) / size).ok()?;
            let offset = layout.offset.checked_add(elements)?;
            (offset < isize::MAX as usize / 2).then(|| layout.at(offset))
        };
        match (moved(&self.layout, self.target), moved(layout, other)) {
            (Some(a), Some(b)) => a.disjoint(&b),
            // Half an address space apart.
            _ => true,
        }
    }
}

/// Position ids, starts or `cu_seqlens` at an address in device memory.
#[derive(Clone, Copy, Debug)]
pub struct RawIds {
    /// Of the first value.
    pub address: Address,
    /// Number of values.
    pub len: usize,
    /// Values are `i64`, else `i32`.
    pub wide: bool,
}

impl Indices for RawIds {
    fn len(&self) -> usize {
        self.len
    }

    fn wide(&self) -> bool {
        self.wide
    }
}

impl RawIds {
    fn checked(&self, what: &'static str) -> Result<Ids> {
        check_alignment(what, self.address, if self.wide { 8 } else { 4 })?;
        Ok(Ids::new(self.address, self.wide))
    }
}

fn check_alignment(tensor: &'static str, address: Address, size: usize) -> Result<()> {
    if address.is_multiple_of(size as u64) {
        Ok(())
    } else {
        Err(Error::Alignment { tensor, expected: size, given: address })
    }
}

/// Every check of tensors and positions by address: shapes, strides, types, alignment, overlap,
/// lengths.
pub fn check_raw(
    q: &RawHeads,
    k: Option<&RawHeads>,
    positions: &Positions<RawIds>,
    rotary_dim: usize,
) -> Result<()> {
    let extents = [q.extent(Extent::q), k.unwrap_or(q).extent(Extent::k)];
    heads::check(&extents[0], k.map(|_| &extents[1]), rotary_dim)?;
    let tensors = [Some(q), k];
    for (heads, extent) in tensors.iter().zip(&extents) {
        let Some(heads) = heads else { continue };
        if heads.dtype != q.dtype {
            return Err(Error::dtype(extent.name, q.dtype, heads.dtype));
        }
        heads.check_alignment(extent)?;
    }
    check_all_disjoint(&tensors, &extents)?;
    positions.check(q.layout.batch, q.layout.seq, rotary_dim)
}

/// No tensor that is written shares memory with another one.
fn check_all_disjoint(tensors: &[Option<&RawHeads>; 2], extents: &[Extent; 2]) -> Result<()> {
    for (i, heads) in tensors.iter().enumerate() {
        let Some(heads) = heads else { continue };
        for (j, other) in tensors.iter().enumerate() {
            let Some(other) = other else { continue };
            let source = other.source.as_ref();
            if source.is_some_and(|(source, layout)| !heads.disjoint((*source, layout))) {
                return Err(Error::OverlappingTensors {
                    tensors: [extents[i].name, extents[j].source_name],
                });
            }
            if i < j && !heads.disjoint((other.target, &other.layout)) {
                return Err(Error::OverlappingTensors {
                    tensors: [extents[i].name, extents[j].name],
                });
            }
        }
    }
    Ok(())
}

impl Choice {
    /// For sets whose number fits the positions' sequences.
    pub fn new(positions: &Positions<RawIds>, sets: &SetShape) -> Result<Self> {
        let Some(ids) = &positions.sets else { return Ok(Self::default()) };
        Ok(Self {
            ids: ids.checked("sets")?,
            stride: sets.stride as u32,
            last: (sets.count - 1) as u32,
        })
    }
}

/// What a request is told of positions.
#[derive(Clone, Copy, Debug)]
pub struct PositionSource {
    pub positions: TokenPositions,
    /// Of ragged positions.
    pub starts: Ids,
    pub axes: Axes,
}

impl PositionSource {
    /// For positions whose lengths fit `[batch, seq]` and whose sections fit the pairs. `zero` is the
    /// address of an `i32` that is zero.
    pub fn new(
        positions: &Positions<RawIds>,
        [batch, seq]: [usize; 2],
        pairs: usize,
        zero: Address,
    ) -> Result<Self> {
        let none = Ids::one(zero);
        let of = |ids, counts| TokenPositions { ids, counts, ..TokenPositions::default() };
        let rows = |ids: Ids| TokenPositions {
            batch_stride: seq as u64 * u64::from(ids.stride),
            ..of(ids, 0)
        };
        let (mut starts, mut axes) = (none, Axes::default());
        let positions = match &positions.kind {
            PositionKind::From(start) => TokenPositions { start: *start, ..of(none, 1) },
            PositionKind::Ids(ids) => rows(ids.checked("position ids")?),
            PositionKind::SharedIds(ids) => of(ids.checked("position ids")?, 0),
            PositionKind::Starts(starts) => {
                let ids = starts.checked("starts")?;
                TokenPositions {
                    batch_stride: ids.stride.into(),
                    ..of(Ids { stride: 0, ..ids }, 1)
                }
            }
            PositionKind::Ragged { cu_seqlens, starts: given } => {
                if let Some(given) = given {
                    starts = given.checked("starts")?;
                }
                TokenPositions {
                    cu_seqlens: cu_seqlens.checked("cu_seqlens")?.first,
                    sequences: u32::try_from(cu_seqlens.len - 1).map_err(|_| Error::TooLarge {
                        tensor: "cu_seqlens",
                        what: "the number of sequences",
                        limit: u32::MAX as usize,
                    })?,
                    ..of(none, 1)
                }
            }
            PositionKind::Axes { ids, sections } => {
                let ids = ids.checked("position ids")?;
                let tokens = batch.saturating_mul(seq) as u64;
                axes = Axes::new(tokens.saturating_mul(ids.stride.into()), sections, pairs);
                rows(ids)
            }
        };
        Ok(Self { positions, starts, axes })
    }
}
