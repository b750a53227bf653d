//! What the table's kernels do, one row at a time.

use super::Threads;
use super::angles::{Angles, Turns};
use super::simd::{self, Work};
use crate::call::CheckedTable;
use crate::{Element, Pairing};

/// Writes the table.
///
/// # Safety
/// The buffers hold the table's rows of `T`, are valid for the call and nobody else's meanwhile.
pub(super) unsafe fn run<T: Element>(
    turns: Turns,
    pairing: Pairing,
    table: &CheckedTable,
    threads: &Threads,
) {
    let (table, dim) = (table.table(), 2 * turns.steps.len());
    // Nothing may lie anywhere, at null too, where no slice may.
    if table.rows == 0 {
        return;
    }
    let address = |address: u64| Rows(std::ptr::with_exposed_provenance_mut(address as usize));
    let (cos, sin) = (address(table.cos.address), address(table.sin.address));
    threads.for_each_range(table.rows, dim, |first, last| {
        let rows = |table: &Rows<T>| {
            // SAFETY: the rows lie in the buffer.
            let start = unsafe { table.0.add(first * dim) };
            // SAFETY: the rows are valid, and this range's alone.
            unsafe { std::slice::from_raw_parts_mut(start, (last - first) * dim) }
        };
        let (cos, sin) = (rows(&cos), rows(&sin));
        let start = table.start.wrapping_add(first as i64);
        simd::dispatch(Task { turns, pairing, start, cos, sin });
    });
}

/// A table's first element.
struct Rows<T>(*mut T);

// SAFETY: `run`'s caller promises that the memory is valid, and ranges of rows share no element.
unsafe impl<T: Element> Sync for Rows<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Send for Rows<T> {}

struct Task<'a, T> {
    turns: Turns<'a>,
    pairing: Pairing,
    start: i64,
    cos: &'a mut [T],
    sin: &'a mut [T],
}

impl<T: Element> Work for Task<'_, T> {
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
