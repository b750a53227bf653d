//! What the rotation's kernels do, one token at a time.

use super::Threads;
use super::angles::{Angles, Turns};
use super::ids::IdList;
use super::simd::{self, Work};
use crate::call::{Checked, IdStrides};
use crate::frequencies::{WordsShape, read_set};
use crate::limits::MAX_AXES;
use crate::{Element, Layout, Pairing, PositionKind, RawIds, RawOperand, RopeSpec};

/// One rotation, checked.
pub(super) struct Rotation<'a> {
    pub spec: RopeSpec,
    pub words: &'a [u64],
    pub call: &'a Checked,
    pub threads: &'a Threads,
}

impl Rotation<'_> {
    /// Rotates all tokens.
    ///
    /// # Safety
    /// Every row of every operand lies in memory that is valid for the call, of the call's element type,
    /// and so do all ids; what is written is nobody else's meanwhile.
    pub unsafe fn run<T: Element>(&self) {
        if self.call.is_empty() {
            return;
        }
        let [_, seq] = self.call.batch_seq();
        let heads: usize = self.call.heads().iter().sum();
        let tensors = self.call.operands().map(|operand| operand.map(Tensor::<T>::of));
        // SAFETY: the caller's promise; the checks say that the lists are as long as the call needs.
        let positions = unsafe { TokenPositions::of(self) };
        let (rotation, tokens) = (self, self.call.tokens());
        self.threads.for_each_range(tokens, self.spec.rotary_dim() * heads, |first, last| {
            let (tensors, positions) = (&tensors, &positions);
            simd::dispatch(Task { rotation, tensors, positions, seq, first, last });
        });
    }
}

/// The positions of tokens, as the kernels know them.
struct TokenPositions<'a> {
    spec: RopeSpec,
    words: &'a [u64],
    kind: PositionKind<IdList>,
    strides: IdStrides,
    sets: Option<IdList>,
    seq: usize,
}

impl<'a> TokenPositions<'a> {
    /// # Safety
    /// As of [`Rotation::run`].
    unsafe fn of(rotation: &'a Rotation) -> Self {
        let positions = rotation.call.positions();
        let (row, axis) = match &positions.kind {
            PositionKind::Ids { row_stride, .. } => (*row_stride, None),
            PositionKind::Axes { row_stride, axis_stride, .. } => (*row_stride, *axis_stride),
            _ => (None, None),
        };
        let batch_seq = rotation.call.batch_seq();
        // SAFETY: the caller's promise.
        let lists = positions.map(|ids: RawIds| unsafe { IdList::of(&ids) });
        Self {
            spec: rotation.spec,
            words: rotation.words,
            kind: lists.kind,
            strides: IdStrides::of(row, axis, batch_seq),
            sets: lists.sets,
            seq: batch_seq[1],
        }
    }

    /// The sequence that a token is of.
    #[inline(always)]
    fn sequence(&self, token: usize) -> usize {
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
    fn turn(&self, angles: &mut Angles, token: usize) {
        let (b, s) = (token / self.seq, token % self.seq);
        let turns = self.turns(token);
        let position = match &self.kind {
            PositionKind::Ids { ids, .. } => ids.get(b * self.strides.row + s),
            PositionKind::Consecutive(start) => start.wrapping_add(s as i64),
            PositionKind::Starts(starts) => starts.get(b).wrapping_add(s as i64),
            PositionKind::Ragged { cu_seqlens, starts } => {
                let sequence = self.sequence(token);
                let start = starts.map_or(0, |starts| starts.get(sequence));
                start.wrapping_add(token as i64 - cu_seqlens.get(sequence))
            }
            PositionKind::Axes { ids, sections, .. } => {
                let first = b * self.strides.row + s;
                let mut along = [0; MAX_AXES];
                for (axis, id) in along.iter_mut().take(sections.axes()).enumerate() {
                    *id = ids.get(axis * self.strides.axis + first);
                }
                return angles.turn_by(&turns, |pair| along[sections.axis(pair)]);
            }
        };
        angles.turn_to(position, &turns);
    }
}

/// Heads of one tensor by pointer, since q and k may be views of one buffer.
#[derive(Clone, Copy)]
struct Tensor<T> {
    source: Option<(*const T, Layout)>,
    target: *mut T,
    layout: Layout,
}

// SAFETY: `Rotation::run`'s caller promises that the memory is valid for the call, and tasks write rows that
// share no element.
unsafe impl<T: Element> Sync for Tensor<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Send for Tensor<T> {}

impl<T: Element> Tensor<T> {
    fn of(operand: &RawOperand) -> Self {
        let address = |address: u64| std::ptr::with_exposed_provenance_mut::<T>(address as usize);
        Self {
            source: operand
                .source
                .as_ref()
                .map(|(source, from)| (address(source.address).cast_const(), *from)),
            target: address(operand.target.address),
            layout: operand.layout,
        }
    }

    /// The row to rotate, with the source's channels where there is a source.
    ///
    /// # Safety
    /// The row is valid, nobody else has it, and nothing writes the source's.
    #[inline(always)]
    unsafe fn row<'a>(&self, b: usize, s: usize, head: usize) -> &'a mut [T] {
        let [.., head_dim] = self.layout.shape();
        // SAFETY: the row lies in the buffer.
        let start = unsafe { self.target.add(self.layout.row(b, s, head)) };
        // SAFETY: the row is valid, and this task's alone.
        let row = unsafe { std::slice::from_raw_parts_mut(start, head_dim) };
        if let Some((source, layout)) = self.source {
            // SAFETY: the source's row lies in its buffer.
            let start = unsafe { source.add(layout.row(b, s, head)) };
            // SAFETY: the row is valid, and shared with readers only.
            row.copy_from_slice(unsafe { std::slice::from_raw_parts(start, head_dim) });
        }
        row
    }
}

/// Tokens `first..last` of a rotation whose promise was given.
struct Task<'a, T> {
    rotation: &'a Rotation<'a>,
    tensors: &'a [Option<Tensor<T>>; 2],
    positions: &'a TokenPositions<'a>,
    seq: usize,
    first: usize,
    last: usize,
}

impl<T: Element> Work for Task<'_, T> {
    #[inline(always)]
    fn run(self) {
        let spec = &self.rotation.spec;
        let pairs = spec.rotary_dim() / 2;
        let mut angles = Angles::ZERO;
        for token in self.first..self.last {
            self.positions.turn(&mut angles, token);
            let (cos, sin) = (&angles.cos[..pairs], &angles.sin[..pairs]);
            for tensor in self.tensors.iter().flatten() {
                let (b, s) = (token / self.seq, token % self.seq);
                let [_, _, heads, _] = tensor.layout.shape();
                for head in 0..heads {
                    // SAFETY: `Rotation::run`'s caller promised that the row is valid and, among
                    // the rows that are written, this task's alone.
                    let row = unsafe { tensor.row(b, s, head) };
                    let first = tensor.layout.rotary_offset();
                    rotate_row(&mut row[first..first + 2 * pairs], spec.pairing(), cos, sin);
                }
            }
        }
    }
}

/// The rotated channels of one head; `cos` and `sin` hold one value a pair.
#[inline(always)]
fn rotate_row<T: Element>(row: &mut [T], pairing: Pairing, cos: &[f32], sin: &[f32]) {
    match pairing {
        Pairing::HalfSplit => {
            let (first, second) = row.split_at_mut(cos.len());
            for (((x, y), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                rotate_pair(x, y, cos, sin);
            }
        }
        Pairing::Interleaved => {
            let (pairs, _) = row.as_chunks_mut::<2>();
            for (([x, y], &cos), &sin) in pairs.iter_mut().zip(cos).zip(sin) {
                rotate_pair(x, y, cos, sin);
            }
        }
    }
}

#[inline(always)]
fn rotate_pair<T: Element>(x: &mut T, y: &mut T, cos: f32, sin: f32) {
    let (x0, y0) = (x.widen(), y.widen());
    *x = T::narrow(x0.mul_add(cos, -(y0 * sin)));
    *y = T::narrow(y0.mul_add(cos, x0 * sin));
}
