//! What the rotation's kernels do, one token at a time.

use super::Threads;
use super::angles::Angles;
use super::positions::TokenPositions;
use super::simd::{self, Work};
use crate::call::Checked;
use crate::{Element, Layout, Pairing, RawOperand, RopeSpec};

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
        let positions = unsafe {
            let batch_seq = self.call.batch_seq();
            TokenPositions::of(self.spec, self.words, self.call.positions(), batch_seq)
        };
        let (rotation, tokens) = (self, self.call.tokens());
        self.threads.for_each_range(tokens, self.spec.rotary_dim() * heads, |first, last| {
            let (tensors, positions) = (&tensors, &positions);
            simd::dispatch(Task { rotation, tensors, positions, seq, first, last });
        });
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
pub(super) fn rotate_row<T: Element>(row: &mut [T], pairing: Pairing, cos: &[f32], sin: &[f32]) {
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
