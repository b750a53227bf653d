//! The portable backend: the same calls as on the GPU over slices, on all cores, with the same bits.
//!
//! ```
//! use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};
//!
//! let frequencies = Frequencies::new(64, 10_000.0)?.condensed(8.0)?;
//! let rope = cpu::Rope::new(&frequencies, Pairing::HalfSplit);
//! let mut q = vec![1.0f32; 3 * 4 * 64];
//! let mut k = vec![1.0f32; 3 * 2 * 64];
//! rope.rotate(
//!     cpu::Heads::in_place(&mut q, Layout::thd(3, 4, 64)),
//!     Some(cpu::Heads::in_place(&mut k, Layout::thd(3, 2, 64))),
//!     Positions::ids(&[0i64, 70_000, -5]),
//! )?;
//! assert_eq!(q[..64], [1.0; 64]); // position 0 does not turn
//! # Ok::<(), condensed_rope::Error>(())
//! ```

mod phase;
mod rotate;
mod simd;

use std::sync::Arc;

use crate::heads::{self, Extent};
use crate::kernel::Sets;
use crate::positions::Indices;
use crate::{Direction, Element, Frequencies, Layout, Pairing, Positions, Result, trace};
use rotate::{Rotation, Tensor, Turns};

/// Heads in slices: see [`in_place`](Heads::in_place) and [`out_of_place`](Heads::out_of_place).
pub type Heads<'a, T> = crate::Heads<&'a [T], &'a mut [T]>;

impl<'a, T: Element> Heads<'a, T> {
    /// Rotates where the heads lie.
    pub fn in_place(buffer: &'a mut [T], layout: Layout) -> Self {
        Self { source: None, target: buffer, layout }
    }

    /// Reads `source` and writes `target`, which ends up with the channels that do not rotate too.
    /// The layouts may differ in strides and offset, not in shape or rotated channels.
    pub fn out_of_place(
        source: &'a [T],
        from: Layout,
        target: &'a mut [T],
        layout: Layout,
    ) -> Self {
        Self { source: Some((source, from)), target, layout }
    }

    fn extent(&self, extent: fn(Layout, usize, Option<(Layout, usize)>) -> Extent) -> Extent {
        let source = self.source.map(|(buffer, layout)| (layout, buffer.len()));
        extent(self.layout, self.target.len(), source)
    }

    fn tensor(&mut self) -> Tensor<T> {
        Tensor {
            source: self.source.map(|(buffer, layout)| (buffer.as_ptr(), layout)),
            target: self.target.as_mut_ptr(),
            layout: self.layout,
        }
    }
}

/// Position ids, starts or `cu_seqlens` in a slice of `i32` or `i64`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Ids<'a> {
    /// 32-bit values.
    I32(&'a [i32]),
    /// 64-bit values.
    I64(&'a [i64]),
}

macro_rules! ids_from {
    ($($variant:ident($int:ty)),*) => {$(
        impl<'a> From<&'a [$int]> for Ids<'a> {
            fn from(values: &'a [$int]) -> Self {
                Self::$variant(values)
            }
        }
        impl<'a> From<&'a Vec<$int>> for Ids<'a> {
            fn from(values: &'a Vec<$int>) -> Self {
                Self::$variant(values)
            }
        }
        impl<'a, const N: usize> From<&'a [$int; N]> for Ids<'a> {
            fn from(values: &'a [$int; N]) -> Self {
                Self::$variant(values)
            }
        }
    )*};
}
ids_from!(I32(i32), I64(i64));

impl Indices for Ids<'_> {
    fn len(&self) -> usize {
        match self {
            Self::I32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    fn wide(&self) -> bool {
        matches!(self, Self::I64(_))
    }
}

impl Ids<'_> {
    fn get(&self, index: usize) -> i64 {
        match self {
            Self::I32(values) => values[index].into(),
            Self::I64(values) => values[index],
        }
    }
}

/// Rotates query and key on the CPU. Cheap to clone; `Send + Sync`.
#[derive(Clone, Debug)]
pub struct Rope {
    sets: Arc<Sets>,
    pairing: Pairing,
    direction: Direction,
}

impl Rope {
    /// A rope that turns `frequencies` in pairs laid out as `pairing` says.
    pub fn new(frequencies: &Frequencies, pairing: Pairing) -> Self {
        Self::of(Sets::one(frequencies), pairing)
    }

    /// A rope with several sets of frequencies, for batches that mix ratios or lengths: see
    /// [`Positions::with_sets`]. Where a call does not choose, all sequences turn by the first.
    ///
    /// # Errors
    /// [`Error::Sets`](crate::Error) where there are none, or they differ in rotary dimension.
    pub fn of_sets(sets: &[Frequencies], pairing: Pairing) -> Result<Self> {
        Ok(Self::of(Sets::new(sets)?, pairing))
    }

    fn of(sets: Sets, pairing: Pairing) -> Self {
        Self { sets: Arc::new(sets), pairing, direction: Direction::Forward }
    }

    /// The same rope turning the other way: see [`Direction::Inverse`].
    pub fn inverse(&self) -> Self {
        Self { direction: self.direction.reversed(), ..self.clone() }
    }

    /// Number of rotated channels.
    pub fn rotary_dim(&self) -> usize {
        self.sets.shape.rotary_dim
    }

    /// Rotates q and, where given, k by the tokens' positions. Nothing else is touched: not the
    /// channels outside the rotated range, not what lies between strides.
    ///
    /// # Errors
    /// Any of the [`Error`](crate::Error)s about shapes, strides, ranges and lengths. Then nothing
    /// was written.
    pub fn rotate<T: Element>(
        &self,
        mut q: Heads<'_, T>,
        mut k: Option<Heads<'_, T>>,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let q_extent = q.extent(Extent::q);
        let k_extent = k.as_ref().map(|k| k.extent(Extent::k));
        heads::check(&q_extent, k_extent.as_ref(), self.rotary_dim())?;
        let tensors = [Some(q.tensor()), k.as_mut().map(Heads::tensor)];
        self.run([q.layout.batch, q.layout.seq], tensors, positions)
    }

    /// Rotates q and k that are views of one buffer, in place: packed QKV.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate), and [`Error::OverlappingTensors`](crate::Error) where the views
    /// share memory.
    pub fn rotate_packed<T: Element>(
        &self,
        buffer: &mut [T],
        q: Layout,
        k: Layout,
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let len = buffer.len();
        let (q_extent, k_extent) = (Extent::q(q, len, None), Extent::k(k, len, None));
        heads::check_packed(&q_extent, &k_extent, self.rotary_dim())?;
        let target = buffer.as_mut_ptr();
        let tensors = [q, k].map(|layout| Some(Tensor { source: None, target, layout }));
        self.run([q.batch, q.seq], tensors, positions)
    }

    /// Writes cos and sin of `cos.len() / rotary_dim` consecutive positions from `start`, each
    /// `[positions, rotary_dim]`, both channels of a pair alike: `cat(freqs, freqs)` where the
    /// pairing is half-split, `repeat_interleave(freqs, 2)` where it is interleaved. With the factor
    /// of the frequencies, rounded once to `T`. Where there are several sets of them, the first one's.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error) where the slices are not of one length, a multiple of
    /// `rotary_dim`.
    pub fn cos_sin<T: Element>(&self, start: i64, cos: &mut [T], sin: &mut [T]) -> Result<()> {
        let _range = trace::range("condensed_rope::cpu::cos_sin");
        heads::check_table(cos.len(), sin.len(), self.rotary_dim())?;
        rotate::table(self.turns(0), self.pairing, start, cos, sin);
        Ok(())
    }

    fn turns(&self, set: usize) -> Turns<'_> {
        let (steps, factor) = self.sets.get(set);
        let (cos_factor, sin_factor) = self.direction.factors(factor);
        Turns { steps, cos_factor, sin_factor }
    }

    /// The tensors passed `heads::check`, or `heads::check_packed`.
    fn run<T: Element>(
        &self,
        [batch, seq]: [usize; 2],
        tensors: [Option<Tensor<T>>; 2],
        positions: Positions<Ids<'_>>,
    ) -> Result<()> {
        let _range = trace::range("condensed_rope::cpu::rotate");
        positions.check(batch, seq, self.rotary_dim())?;
        let rotation =
            Rotation { rope: self, tensors, positions, seq, tokens: batch.saturating_mul(seq) };
        // SAFETY: the checks say that every row lies in its buffer and that no two rows that are
        // written share an element; the caller borrows the buffers.
        unsafe { rotation.run() };
        Ok(())
    }
}
