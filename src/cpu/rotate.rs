//! What the kernel does, one token at a time, over slices.

use rayon::prelude::*;

use super::simd::{self, Work};
use super::{Ids, Rope, phase};
use crate::{Element, Layout, MAX_HEAD_DIM, Pairing, PositionKind, Positions};

/// Channels worth handing to another thread.
const CHANNELS_PER_TASK: usize = 1 << 15;

/// Steps, and the factors on cos and sin.
#[derive(Clone, Copy)]
pub(super) struct Turns<'a> {
    pub steps: &'a [u64],
    pub cos_factor: f32,
    pub sin_factor: f32,
}

/// Cosine and sine of every pair at one position.
struct Angles {
    cos: [f32; MAX_HEAD_DIM / 2],
    sin: [f32; MAX_HEAD_DIM / 2],
}

impl Angles {
    const ZERO: Self = Self { cos: [0.0; MAX_HEAD_DIM / 2], sin: [0.0; MAX_HEAD_DIM / 2] };

    #[inline(always)]
    fn turn_to(&mut self, position: i64, turns: &Turns) {
        self.turn_by(turns, |_| position);
    }

    /// Each pair to a position of its own.
    #[inline(always)]
    fn turn_by(&mut self, turns: &Turns, position: impl Fn(usize) -> i64) {
        let angles = self.cos.iter_mut().zip(&mut self.sin);
        for (pair, (step, (cos, sin))) in turns.steps.iter().zip(angles).enumerate() {
            let (exact_cos, exact_sin) = phase::cos_sin(step.wrapping_mul(position(pair) as u64));
            *cos = exact_cos * turns.cos_factor;
            *sin = exact_sin * turns.sin_factor;
        }
    }
}

/// Heads of one tensor by pointer, since q and k may be views of one buffer.
pub(super) struct Tensor<T> {
    pub source: Option<(*const T, Layout)>,
    pub target: *mut T,
    pub layout: Layout,
}

// SAFETY: the pointers come from borrows that outlive the call (the source a shared one, the target
// an exclusive one), and tasks write rows that share no element.
unsafe impl<T: Element> Sync for Tensor<T> {}

/// One rotation, checked.
pub(super) struct Rotation<'a, T> {
    pub rope: &'a Rope,
    pub tensors: [Option<Tensor<T>>; 2],
    pub positions: Positions<Ids<'a>>,
    pub seq: usize,
    pub tokens: usize,
}

impl<T: Element> Rotation<'_, T> {
    /// Rotates all tokens.
    ///
    /// # Safety
    /// Every row of every tensor lies in memory that is valid for the call, and rows that are
    /// written share no element with one another or with a row of a source.
    pub unsafe fn run(&self) {
        let heads: usize = self.tensors.iter().flatten().map(|tensor| tensor.layout.heads).sum();
        for_each_task(self.tokens, self.rope.rotary_dim() * heads, |first, last| {
            simd::dispatch(Task { rotation: self, first, last });
        });
    }

    /// The sequence that a token is of.
    #[inline(always)]
    fn sequence(&self, token: usize) -> usize {
        let PositionKind::Ragged { cu_seqlens, .. } = &self.positions.kind else {
            return token / self.seq;
        };
        let (mut low, mut high) = (0, crate::positions::Indices::len(cu_seqlens) - 1);
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

    /// By which set a token's sequence turns.
    #[inline(always)]
    fn set(&self, token: usize) -> usize {
        let sets = self.positions.sets.as_ref();
        sets.map_or(0, |sets| self.rope.sets.shape.set(sets.get(self.sequence(token))))
    }

    #[inline(always)]
    fn turn(&self, angles: &mut Angles, token: usize) {
        let s = token % self.seq;
        let turns = self.rope.turns(self.set(token));
        let position = match &self.positions.kind {
            PositionKind::Ids(ids) => ids.get(token),
            PositionKind::SharedIds(ids) => ids.get(s),
            PositionKind::From(start) => start.wrapping_add(s as i64),
            PositionKind::Starts(starts) => starts.get(token / self.seq).wrapping_add(s as i64),
            PositionKind::Ragged { cu_seqlens, starts } => {
                let sequence = self.sequence(token);
                let start = starts.map_or(0, |starts| starts.get(sequence));
                start.wrapping_add(token as i64 - cu_seqlens.get(sequence))
            }
            PositionKind::Axes { ids, sections } => {
                let along = [0, 1, 2].map(|axis| ids.get(axis * self.tokens + token));
                return angles.turn_by(&turns, |pair| along[sections.axis(pair)]);
            }
        };
        angles.turn_to(position, &turns);
    }
}

/// Calls `task(first, last)` over ranges of `items`, on all cores where there is enough to do.
fn for_each_task(items: usize, channels_per_item: usize, task: impl Fn(usize, usize) + Sync) {
    let per_task = (CHANNELS_PER_TASK / channels_per_item.max(1)).max(1);
    if items <= per_task {
        return task(0, items);
    }
    (0..items.div_ceil(per_task)).into_par_iter().for_each(|i| {
        task(i * per_task, ((i + 1) * per_task).min(items));
    });
}

/// A task: tokens `first..last` of a rotation whose promise was given.
struct Task<'a, T> {
    rotation: &'a Rotation<'a, T>,
    first: usize,
    last: usize,
}

impl<T: Element> Work for Task<'_, T> {
    #[inline(always)]
    fn run(self) {
        let rotation = self.rotation;
        let pairs = rotation.rope.sets.shape.pairs();
        let mut angles = Angles::ZERO;
        for token in self.first..self.last {
            rotation.turn(&mut angles, token);
            let (cos, sin) = (&angles.cos[..pairs], &angles.sin[..pairs]);
            for tensor in rotation.tensors.iter().flatten() {
                let (b, s) = (token / rotation.seq, token % rotation.seq);
                for head in 0..tensor.layout.heads {
                    // SAFETY: `Rotation::run`'s caller promised that the row is valid and, among
                    // the rows that are written, this task's alone.
                    let row = unsafe { tensor.row(b, s, head) };
                    let first = tensor.layout.rotary_offset;
                    rotate_row(&mut row[first..first + 2 * pairs], rotation.rope.pairing, cos, sin);
                }
            }
        }
    }
}

impl<T: Element> Tensor<T> {
    /// The row to rotate, with the source's channels where there is a source.
    ///
    /// # Safety
    /// The row is valid, nobody else has it, and nothing writes the source's.
    #[inline(always)]
    unsafe fn row<'a>(&self, b: usize, s: usize, head: usize) -> &'a mut [T] {
        let head_dim = self.layout.head_dim;
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

/// Rows of the cos/sin table, from position `start`.
pub(super) fn table<T: Element>(
    turns: Turns,
    pairing: Pairing,
    start: i64,
    cos: &mut [T],
    sin: &mut [T],
) {
    let dim = 2 * turns.steps.len();
    let rows_per_task = (CHANNELS_PER_TASK / dim).max(1);
    cos.par_chunks_mut(rows_per_task * dim)
        .zip(sin.par_chunks_mut(rows_per_task * dim))
        .enumerate()
        .for_each(|(task, (cos, sin))| {
            let start = start.wrapping_add((task * rows_per_task) as i64);
            simd::dispatch(Table { turns, pairing, start, cos, sin });
        });
}

struct Table<'a, T> {
    turns: Turns<'a>,
    pairing: Pairing,
    start: i64,
    cos: &'a mut [T],
    sin: &'a mut [T],
}

impl<T: Element> Work for Table<'_, T> {
    #[inline(always)]
    fn run(self) {
        let pairs = self.turns.steps.len();
        let mut angles = Angles::ZERO;
        let rows = self.cos.chunks_exact_mut(2 * pairs).zip(self.sin.chunks_exact_mut(2 * pairs));
        for (row, (cos, sin)) in rows.enumerate() {
            angles.turn_to(self.start.wrapping_add(row as i64), &self.turns);
            spread(cos, self.pairing, &angles.cos[..pairs]);
            spread(sin, self.pairing, &angles.sin[..pairs]);
        }
    }
}

/// Each pair's value, into both of its channels.
#[inline(always)]
fn spread<T: Element>(row: &mut [T], pairing: Pairing, values: &[f32]) {
    match pairing {
        Pairing::HalfSplit => {
            let (first, second) = row.split_at_mut(values.len());
            for ((x, y), &value) in first.iter_mut().zip(second).zip(values) {
                *x = T::narrow(value);
                *y = *x;
            }
        }
        Pairing::Interleaved => {
            let (pairs, _) = row.as_chunks_mut::<2>();
            for (pair, &value) in pairs.iter_mut().zip(values) {
                *pair = [T::narrow(value); 2];
            }
        }
    }
}
