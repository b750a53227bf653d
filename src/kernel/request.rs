//! What the kernels are told: the structs of `kernels/rotate.cuh` and `kernels/positions.cuh`,
//! field for field.

use super::{Address, Entry};
use crate::{Dtype, Layout, Pairing, Sections};

/// The rows of a tensor, from the first rotated channel of the first one on; strides are bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows {
    pub first: Address,
    /// From one sequence to the next, one token, one head.
    pub strides: [i64; 3],
}

/// Channels that a copy out of place carries along, before and after the rotated ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    pub before: u32,
    pub after: u32,
}

/// A list of `i32` or `i64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids {
    pub first: Address,
    /// Bytes from one to the next.
    pub stride: u32,
    /// Bytes from a lower half to its upper one; 0 for an `i32`.
    pub upper: u32,
}

impl Ids {
    pub fn new(first: Address, wide: bool) -> Self {
        Self { first, stride: if wide { 8 } else { 4 }, upper: if wide { 4 } else { 0 } }
    }

    /// The same number, an `i32` at `address`, however many are asked for.
    pub fn one(address: Address) -> Self {
        Self { stride: 0, ..Self::new(address, false) }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenPositions {
    pub ids: Ids,
    pub batch_stride: u64,
    pub start: i64,
    pub cu_seqlens: Address,
    pub sequences: u32,
    pub counts: u32,
}

/// How pairs choose among three positions a token.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Axes {
    /// Bytes; 0 where there is one position a token.
    pub stride: u64,
    /// Two bits a pair.
    pub codes: [u32; Self::WORDS],
}

impl Axes {
    const PAIRS_A_WORD: usize = 16;
    const WORDS: usize = crate::MAX_HEAD_DIM / 2 / Self::PAIRS_A_WORD;

    pub fn new(stride: u64, sections: &Sections, pairs: usize) -> Self {
        let mut codes = [0; Self::WORDS];
        for (word, first) in codes.iter_mut().zip((0..pairs).step_by(Self::PAIRS_A_WORD)) {
            *word = (0..Self::PAIRS_A_WORD)
                .fold(0, |bits, i| bits | (sections.axis(first + i) as u32) << (2 * i));
        }
        Self { stride, codes }
    }
}

/// How sequences choose among sets of frequencies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Null: no choice.
    pub ids: Ids,
    pub stride: u32,
    pub last: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Divisor {
    pub value: u32,
    pub multiplier: u32,
    pub shift: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    pub steps: Address,
    pub seq: Divisor,
    pub tokens: u32,
    pub pair_stride: u16,
    pub partner: u16,
    pub overlap: Overlap,
    /// Of [`Retention`](super::Retention).
    pub reading: u32,
    pub rows: u32,
    pub lanes: u16,
    pub q_slices: u16,
    pub heads: [u16; 2],
    pub src: [Rows; 2],
    pub positions: TokenPositions,
    pub cos_factor: f32,
    pub sin_factor: f32,
    pub writing: u32,
    pub in_place: [u16; 2],
    pub sets: Choice,
    pub axes: Axes,
    pub starts: Ids,
    pub dst: [Rows; 2],
    pub rest: [Rest; 2],
    pub pairs: u32,
    pub reserved: u32,
}

const _: () = assert!(
    size_of::<Rows>() == 32
        && size_of::<TokenPositions>() == 48
        && size_of::<Axes>() == 136
        && size_of::<Request>() == 440
);

/// How a launch overlaps the kernel before it on its stream: programmatic dependent launch, on
/// devices of compute capability 9.0 and newer. Older ones ignore it.
///
/// An overlapping launch starts while the kernel before it is still finishing, and waits for it
/// before it touches anything that kernel could have written; the launch's own cost hides. In turn it
/// lets the kernel *after* it start early. So, whatever the choice:
///
/// - q, k and their sources may be written by the kernel before: they are read after it has finished.
/// - The kernel after may read q and k as ever, unless it is launched with the attribute itself: then
///   it must wait (`griddepcontrol.wait`, `cudaGridDependencySynchronize`) before it does, as these
///   kernels do.
///
/// It gains where the kernel before lets this one start early (`griddepcontrol.launch_dependents`,
/// `cudaTriggerProgrammaticLaunchCompletion`), as these kernels do: 5 to 17 % behind one that has just
/// written q and k of 512 to 2048 tokens (H100). Behind one that does not, it cost 0.3 to 0.8 us.
///
/// Results are the same in either case, bit for bit.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// Starts when the kernel before has finished.
    #[default]
    None = 0,
    /// Starts early. Positions, too, may be written by the kernel before.
    Launch = 1,
    /// Starts early, and works out sine and cosine before it waits. Positions (ids, starts,
    /// `cu_seqlens`, the choice of sets) must not be written by the kernel before, nor by one that it
    /// overlaps: where they are, old ones may be used, or a mixture. Any position is in bounds, so that
    /// is all that can happen.
    PositionsReady = 2,
}

impl Divisor {
    /// For dividends below 2^31. `value` is 1 to 2^31 - 1.
    pub fn new(value: u32) -> Self {
        let shift = u32::BITS - (value - 1).leading_zeros();
        let multiplier = (1u64 << (31 + shift)).div_ceil(u64::from(value));
        Self { value, multiplier: multiplier as u32, shift }
    }
}

/// One tensor of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tensor {
    pub src: Rows,
    pub dst: Rows,
    pub rest: Rest,
    pub heads: u16,
    pub in_place: bool,
}

impl Tensor {
    /// `dst` (and `src`, in place or not) are the addresses of the buffers' first elements; layouts
    /// have passed their checks.
    pub fn new(
        dtype: Dtype,
        (dst, layout): (Address, &Layout),
        source: Option<(Address, &Layout)>,
        rotary_dim: usize,
    ) -> Self {
        let size = dtype.size();
        let rows = |base: Address, layout: &Layout| {
            let [batch, seq, heads, _] = layout.shape();
            let sizes = [batch, seq, heads];
            // A dimension of size one is never stepped along; its stride must not spoil alignment.
            let stride = |i| if sizes[i] > 1 { (layout.strides[i] * size) as i64 } else { 0 };
            Rows {
                first: base + ((layout.offset + layout.rotary_offset) * size) as u64,
                strides: [0, 1, 2].map(stride),
            }
        };
        let (src, from) = source.unwrap_or((dst, layout));
        let rest = Rest {
            before: layout.rotary_offset as u32,
            after: (layout.head_dim - layout.rotary_offset - rotary_dim) as u32,
        };
        Self {
            src: rows(src, from),
            dst: rows(dst, layout),
            rest,
            heads: layout.heads as u16,
            in_place: source.is_none(),
        }
    }

    /// The bits that any address of a row may have set.
    fn address_bits(&self) -> u64 {
        [self.src, self.dst].iter().fold(0, |bits, rows| {
            rows.strides.iter().fold(bits | rows.first, |bits, &stride| bits | stride as u64)
        })
    }
}

/// One kernel of `kernels/variants.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub dtype: Dtype,
    /// A vector holds whole pairs; else first and second channels lie in two vectors.
    pub joined: bool,
    /// Bytes of one vector.
    pub bytes: usize,
}

impl Variant {
    pub const COUNT: usize = 3 * 2 * 4;

    pub fn all() -> impl Iterator<Item = Self> {
        Dtype::ALL.into_iter().flat_map(|dtype| {
            [false, true].into_iter().flat_map(move |joined| Self::of(dtype, joined))
        })
    }

    /// Widest first. At most four pairs: see kernels/variants.h.
    fn of(dtype: Dtype, joined: bool) -> impl Iterator<Item = Self> {
        let pair = if joined { 2 * dtype.size() } else { dtype.size() };
        let variant = move |pairs| Self { dtype, joined, bytes: pairs * pair };
        [4, 2, 1].into_iter().map(variant).filter(|variant| variant.bytes <= 16)
    }

    /// Its place in a table of all of them.
    pub fn index(self) -> usize {
        (self.dtype as usize * 2 + usize::from(self.joined)) * 4 + self.bytes.ilog2() as usize - 1
    }

    pub fn name(self, entry: Entry) -> String {
        let order = if self.joined { "joined" } else { "split" };
        format!("{}_{}_{order}_{}", entry.name(), self.dtype.name(), self.bytes)
    }

    /// Channel pairs that one thread takes.
    pub fn pairs(self) -> usize {
        self.bytes / self.dtype.size() / if self.joined { 2 } else { 1 }
    }

    /// The widest vectors that divide every row's address and the run of pairs, and the bytes from
    /// one pair to the next and from a pair's first channel to its second.
    pub fn widest(
        dtype: Dtype,
        pairing: Pairing,
        pairs: usize,
        tensors: [&Tensor; 2],
    ) -> (Self, u16, u16) {
        let size = dtype.size();
        let (joined, pair_stride, partner) = match pairing {
            Pairing::HalfSplit => (false, size, pairs * size),
            Pairing::Interleaved => (true, 2 * size, size),
        };
        let mut bits = tensors.iter().fold(0, |bits, tensor| bits | tensor.address_bits());
        if !joined {
            bits |= partner as u64;
        }
        let fits = |variant: &Self| {
            bits.is_multiple_of(variant.bytes as u64) && pairs.is_multiple_of(variant.pairs())
        };
        let narrow = Self { dtype, joined: false, bytes: size };
        let variant = Self::of(dtype, joined).find(fits).unwrap_or(narrow);
        (variant, pair_stride as u16, partner as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_divide() {
        for value in (1..2000).chain([4096, 65_535, 65_537, 1 << 30, (1 << 31) - 1]) {
            let divisor = Divisor::new(value);
            let divide = |n: u32| {
                ((u64::from(2 * n) * u64::from(divisor.multiplier)) >> 32) as u32 >> divisor.shift
            };
            let near = [0, 1, value - 1, value, 2 * (value >> 1), 12_345_678, (1 << 31) - 1];
            for n in near {
                assert_eq!(divide(n), n / value, "{n} / {value}");
            }
        }
    }

    #[test]
    fn variants_have_places_of_their_own() {
        let mut seen = [false; Variant::COUNT];
        for variant in Variant::all() {
            assert!(!std::mem::replace(&mut seen[variant.index()], true), "{variant:?}");
        }
        assert_eq!(Variant::all().count(), 17);
    }

    #[test]
    fn vectors_fit_alignment_and_run() {
        let pick = |dtype, pairing, rotary_dim: usize, layout: Layout| {
            let tensor = Tensor::new(dtype, (256, &layout), None, rotary_dim);
            let (variant, ..) = Variant::widest(dtype, pairing, rotary_dim / 2, [&tensor; 2]);
            (variant.joined, variant.bytes)
        };
        use Dtype::{BF16, F32};
        use Pairing::{HalfSplit, Interleaved};
        let thd = |dim| Layout::thd(7, 3, dim);
        assert_eq!(pick(BF16, HalfSplit, 128, thd(128)), (false, 8));
        assert_eq!(pick(BF16, HalfSplit, 80, thd(80)), (false, 8));
        assert_eq!(pick(BF16, HalfSplit, 20, thd(80)), (false, 4));
        assert_eq!(pick(BF16, HalfSplit, 24, thd(96)), (false, 8));
        assert_eq!(pick(F32, HalfSplit, 128, thd(128)), (false, 16));
        assert_eq!(pick(BF16, Interleaved, 64, thd(192).rotate_from(128)), (true, 16));
        assert_eq!(pick(BF16, Interleaved, 64, thd(192).at(1)), (false, 2));
        assert_eq!(pick(F32, Interleaved, 2, thd(2)), (true, 8));
        // A single token's odd stride does not matter.
        assert_eq!(
            pick(BF16, HalfSplit, 128, Layout::thd(1, 3, 128).with_strides([1, 3, 128])),
            (false, 8)
        );
    }
}
