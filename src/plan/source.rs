//! What the parameters say of positions.

use super::params::{Axes, Ids, TokenPositions};
use crate::call::IdStrides;
use crate::{Address, IndexType, PositionKind, Positions, RawIds};

/// Whether the general kernels are needed: for several positions a token, several sets, `u32` ids.
pub(super) fn is_general(positions: &Positions<RawIds>) -> bool {
    let unsigned = |ids: &RawIds| ids.dtype == IndexType::U32;
    positions.sets.is_some()
        || match &positions.kind {
            PositionKind::Consecutive(_) => false,
            PositionKind::Ids { ids, .. } | PositionKind::Starts(ids) => unsigned(ids),
            PositionKind::Ragged { starts, .. } => starts.as_ref().is_some_and(unsigned),
            PositionKind::Axes { .. } => true,
        }
}

/// A call's positions as the kernels take them.
pub(super) struct Source {
    pub positions: TokenPositions,
    /// Of ragged positions.
    pub starts: Ids,
    pub axes: Axes,
}

impl Source {
    pub fn of(
        given: &Positions<RawIds>,
        batch_seq: [usize; 2],
        zero: Address,
        general: bool,
    ) -> Self {
        let none = Ids::one(zero, general);
        let ids = |ids: &RawIds| Ids::new(ids, general);
        let counting = |ids| TokenPositions { ids, counts: 1, ..TokenPositions::default() };
        let (mut starts, mut axes) = (none, Axes::default());
        let positions = match &given.kind {
            PositionKind::Consecutive(start) => TokenPositions { start: *start, ..counting(none) },
            PositionKind::Ids { ids: given, row_stride } => {
                TokenPositions::ids(ids(given), IdStrides::of(*row_stride, None, batch_seq))
            }
            PositionKind::Starts(given) => {
                let given = ids(given);
                // One a sequence, the same for all of its tokens.
                let row_stride = given.stride.into();
                TokenPositions { row_stride, ..counting(Ids { stride: 0, ..given }) }
            }
            PositionKind::Ragged { cu_seqlens, starts: given } => {
                starts = given.as_ref().map_or(none, ids);
                let (cu_seqlens, sequences) = (cu_seqlens.address, (cu_seqlens.len - 1) as u32);
                TokenPositions { cu_seqlens, sequences, ..counting(none) }
            }
            PositionKind::Axes { ids: given, sections, row_stride, axis_stride } => {
                let strides = IdStrides::of(*row_stride, *axis_stride, batch_seq);
                let given = ids(given);
                axes = Axes::new(strides.axis, given.stride, sections);
                TokenPositions::ids(given, strides)
            }
        };
        Self { positions, starts, axes }
    }
}
