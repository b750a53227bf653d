//! The positions of tokens, as the kernels know them.

use super::angles::{Angles, Turns};
use super::ids::IdList;
use crate::call::IdStrides;
use crate::frequencies::{WordsShape, read_set};
use crate::limits::MAX_AXES;
use crate::{PositionKind, Positions, RawIds, RopeSpec};

/// By which positions and steps tokens turn.
pub(super) struct TokenPositions<'a> {
    spec: RopeSpec,
    words: &'a [u64],
    kind: PositionKind<IdList>,
    strides: IdStrides,
    sets: Option<IdList>,
    seq: usize,
}

impl<'a> TokenPositions<'a> {
    /// # Safety
    /// The lists of a call that passed its checks are valid, and nobody writes them, as long as this is used.
    pub unsafe fn of(
        spec: RopeSpec,
        words: &'a [u64],
        positions: &Positions<RawIds>,
        batch_seq: [usize; 2],
    ) -> Self {
        let (row, axis) = match &positions.kind {
            PositionKind::Ids { row_stride, .. } => (*row_stride, None),
            PositionKind::Axes { row_stride, axis_stride, .. } => (*row_stride, *axis_stride),
            _ => (None, None),
        };
        // SAFETY: the caller's promise.
        let lists = positions.map(|ids: RawIds| unsafe { IdList::of(&ids) });
        Self {
            spec,
            words,
            kind: lists.kind,
            strides: IdStrides::of(row, axis, batch_seq),
            sets: lists.sets,
            seq: batch_seq[1],
        }
    }

    /// The sequence that a token is of.
    #[inline(always)]
    pub fn sequence(&self, token: usize) -> usize {
        let PositionKind::Ragged { cu_seqlens, .. } = &self.kind else {
            return token / self.seq;
        };
        let (mut low, mut high) = (0, cu_seqlens.len() - 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if cu_seqlens.get(middle) <= token as i64 {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// By which steps and factors a token turns.
    #[inline(always)]
    fn turns(&self, token: usize) -> Turns<'a> {
        let shape: WordsShape = self.spec.words;
        // Where sequences choose a set, each has a factor of its own.
        let (steps, factor) = match &self.sets {
            Some(sets) => read_set(self.words, shape, shape.set(sets.get(self.sequence(token)))),
            None => (read_set(self.words, shape, 0).0, self.spec.factor()),
        };
        Turns::new(steps, self.spec.direction(), factor)
    }

    #[inline(always)]
    pub fn turn(&self, angles: &mut Angles, token: usize) {
        let turns = self.turns(token);
        let PositionKind::Axes { ids, sections, .. } = &self.kind else {
            return angles.turn_to(self.position(token), &turns);
        };
        let first = token / self.seq * self.strides.row + token % self.seq;
        let mut along = [0; MAX_AXES];
        for (axis, id) in along.iter_mut().take(sections.axes()).enumerate() {
            *id = ids.get(axis * self.strides.axis + first);
        }
        angles.turn_by(&turns, |pair| along[sections.axis(pair)]);
    }

    /// A token's position: of several, the first.
    #[inline(always)]
    pub fn position(&self, token: usize) -> i64 {
        let (b, s) = (token / self.seq, token % self.seq);
        match &self.kind {
            PositionKind::Ids { ids, .. } => ids.get(b * self.strides.row + s),
            PositionKind::Consecutive(start) => start.wrapping_add(s as i64),
            PositionKind::Starts(starts) => starts.get(b).wrapping_add(s as i64),
            PositionKind::Ragged { cu_seqlens, starts } => {
                let sequence = self.sequence(token);
                let start = starts.map_or(0, |starts| starts.get(sequence));
                start.wrapping_add(token as i64 - cu_seqlens.get(sequence))
            }
            PositionKind::Axes { ids, .. } => ids.get(b * self.strides.row + s),
        }
    }
}
