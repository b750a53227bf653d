//! Launches of norm, rotation and append.

use super::launch::{Launch, Planner};
use super::params::{AppendParams, Divisor, HeadShape, Ids, KvPages, Rows, Scale, SlotMapping};
use super::source::{Source, is_general};
use super::tiling::{MAX_THREADS, PDL_THREADS, Tiling};
use super::variant::{AppendEntry, Kernel, Variant};
use super::{L2Hint, Pdl, Traffic};
use crate::call::{CheckedAppend, CheckedCache, CheckedScale, CheckedTensor, Pages};
use crate::{Layout, Pairing, Slots, Stored};

/// The tensors of a call, as the kernels number them.
const QUERY: usize = 0;
const VALUE: usize = 2;
/// Threads of a warp: a block is of whole ones, since lanes of a head meet.
const WARP: usize = 32;
/// Blocks in the grid's second dimension.
const MAX_SLICES: usize = 65_535;
/// Threads a multiprocessor, at one head each, up to which a thread takes one head, and up to which two: on an H100 128 and
/// 256 tokens of 32 + 8 + 8 heads of 128.
const ONE_HEAD: usize = 1000;
const TWO_HEADS: usize = 2000;

/// How heads are cut: as [`Cut`](super::Cut), of the entries of `append.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendCut {
    pub entry: AppendEntry,
    pub heads_per_block: usize,
    pub threads: usize,
}

/// What a launch works on.
#[derive(Clone, Copy, Debug)]
pub struct AppendWork {
    /// Lanes of a head: a power of two.
    pub width: usize,
    /// Of q and k, and of v, or its parts.
    pub heads: [usize; 3],
    /// q's and k's heads have one shape, and the variant is a fast one: a thread may take heads of all three.
    pub together: bool,
    pub tokens: usize,
    pub general: bool,
    pub pdl: Pdl,
}

impl AppendWork {
    /// A multiprocessor's threads, were each to take one head. Saturates.
    fn threads(&self, multiprocessors: usize) -> usize {
        let heads: usize = self.heads.iter().sum();
        self.width.saturating_mul(heads).saturating_mul(self.tokens) / multiprocessors
    }

    fn pdl(&self, multiprocessors: usize) -> Pdl {
        if self.threads(multiprocessors) > PDL_THREADS { Pdl::Off } else { self.pdl }
    }
}

impl AppendCut {
    /// The best of the sweeps.
    pub fn of(work: &AppendWork, multiprocessors: usize) -> Self {
        let [q, k, v] = work.heads;
        let cut = |entry, rows: usize| {
            let heads_per_block = (MAX_THREADS / work.width).min(rows);
            Self { entry, heads_per_block, threads: 16 * rows }
        };
        let (one, two) = (AppendEntry::plain([1, 0, 0]), AppendEntry::plain([2, 0, 0]));
        if work.general {
            return cut(AppendEntry { general: true, ..two }, 4);
        }
        // Where a block for all three has work for every row.
        let kv = k.max(v);
        let together = work.together && k.min(v) > 0 && q >= kv;
        match work.threads(multiprocessors) {
            0..=ONE_HEAD => cut(one, 8),
            threads if threads <= TWO_HEADS => cut(two, 4),
            _ if together && q >= 4 * kv => cut(AppendEntry::plain([4, 1, 1]), 8),
            _ if together && q >= 2 * kv => cut(AppendEntry::plain([2, 1, 1]), 8),
            _ => cut(two, 4),
        }
    }
}

/// Blocks of whole warps.
struct AppendTiling {
    grid: (u32, u32, u32),
    block: (u32, u32, u32),
    /// Of q and of k, where tensors are apart.
    slices: [usize; 2],
}

impl AppendTiling {
    fn of(work: &AppendWork, cut: &AppendCut) -> Self {
        let AppendWork { width, heads, tokens, .. } = *work;
        let AppendEntry { heads: entry, .. } = cut.entry;
        let together = cut.entry.is_together();
        // Rows of threads that each tensor's heads take.
        let rows_of =
            [0, 1, 2].map(|i| heads[i].div_ceil(if together { entry[i] } else { entry[0] }));
        let longest = rows_of.into_iter().fold(1, usize::max);
        // As few slices as the blocks' rows allow, and no more rows than fill them; slices fit the grid.
        let rows = cut.heads_per_block.max(longest.div_ceil(MAX_SLICES / 3)).max(1);
        let rows = longest.div_ceil(longest.div_ceil(rows));
        let rows = Self::whole_warps(width, rows);
        let slices = rows_of.map(|n| n.div_ceil(rows));
        let all = if together { longest.div_ceil(rows) } else { slices.iter().sum() };
        let in_warp = (WARP / (width * rows).min(WARP)).max(1);
        let per_block = (cut.threads / (width * rows)).clamp(1, 64).min(tokens.next_power_of_two());
        let tokens_per_block = per_block.next_multiple_of(in_warp);
        debug_assert!(width * rows * tokens_per_block <= MAX_THREADS && tokens_per_block <= 64);
        let [x, y, z] = [width, rows, tokens_per_block].map(|extent| extent as u32);
        let grid = (tokens.div_ceil(tokens_per_block) as u32, all as u32, 1);
        Self { grid, block: (x, y, z), slices: [slices[0], slices[1]] }
    }

    /// Rows, some of them without a head, that fill warps; or, of less than a warp, that divide one.
    fn whole_warps(width: usize, rows: usize) -> usize {
        let in_warp = (WARP / width).max(1);
        if rows >= in_warp { rows.next_multiple_of(in_warp) } else { rows.next_power_of_two() }
    }
}

/// Channel pairs of a head, by what becomes of them.
#[derive(Clone, Copy, Debug)]
struct Shape {
    before: usize,
    pairs: usize,
    rest: usize,
}

impl Shape {
    fn params(&self) -> HeadShape {
        let [before, pairs, rest] = [self.before, self.pairs, self.rest].map(|n| n as u16);
        HeadShape { before, pairs, rest, reserved: 0 }
    }

    fn lanes(&self, variant: &Variant) -> usize {
        (self.pairs + self.rest) / variant.pairs()
    }

    /// Vectors lie within one run of channels each.
    fn fits(&self, variant: &Variant) -> bool {
        let pairs = variant.pairs();
        let vector = if variant.joined { 2 * pairs } else { pairs };
        self.pairs.is_multiple_of(pairs)
            && self.rest.is_multiple_of(pairs)
            && self.before.is_multiple_of(vector)
    }
}

/// One tensor as it is launched.
#[derive(Clone, Copy, Debug)]
struct Tensor {
    src: Rows,
    dst: Rows,
    shape: Shape,
    target: u8,
    storage: Stored,
    scale: Scale,
}

impl Planner {
    /// Norm, rotation and append; `None` where there is nothing to do.
    pub fn append(&self, call: &CheckedAppend) -> Option<Launch<AppendParams>> {
        self.append_by(call, AppendCut::of)
    }

    /// The same, cut otherwise: for sweeps over cuts.
    pub fn append_by(
        &self,
        call: &CheckedAppend,
        cut: impl FnOnce(&AppendWork, usize) -> AppendCut,
    ) -> Option<Launch<AppendParams>> {
        if call.is_empty() {
            return None;
        }
        let rotary_pairs = self.spec.rotary_dim() / 2;
        let tensors = [0, 1, 2].map(|i| self.tensor(call, i));
        let pages: [Option<Pages>; 2] = call.cache.map_or([None; 2], |cache| cache.pages);
        let weights = call.norm.weights.map(|weights| weights.unwrap_or(0));
        let variant = Variant::widest_that(call.dtype, self.spec.pairing(), |variant| {
            let aligned = |bits: u64, size: usize| {
                let bytes = variant.bytes / call.dtype.size() * size;
                bits.is_multiple_of(bytes as u64)
            };
            let element = call.dtype.size();
            tensors.iter().flatten().all(|tensor| {
                tensor.shape.fits(variant)
                    && aligned(tensor.src.address_bits(), element)
                    && aligned(tensor.dst.address_bits(), tensor.storage.size())
            }) && pages.iter().flatten().all(|pages| {
                let bits = rows(pages.stored.size(), pages.address, &pages.layout.0);
                aligned(bits.address_bits(), pages.stored.size())
            }) && weights.iter().all(|&weights| aligned(weights, element))
        });

        // Lanes of q's and k's heads. One head of v that is wider, as MLA's, is cut into parts that fit them.
        let lanes = |i: usize| tensors[i].as_ref().map_or(0, |t| t.shape.lanes(&variant));
        let mut width = lanes(QUERY).max(lanes(1)).next_power_of_two();
        let mut heads = call.heads();
        let mut parts = 1;
        if heads[VALUE] == 1 {
            parts = parts_of(lanes(VALUE), width);
            heads[VALUE] = parts;
        } else {
            width = width.max(lanes(VALUE).next_power_of_two());
        }
        let mut src = tensors.map(|tensor| tensor.map_or_else(Rows::default, |t| t.src));
        let mut kv = pages.map(|pages| pages.map_or_else(KvPages::default, |p| kv_pages(&p)));
        let value_pairs = tensors[VALUE].map_or(0, |v| v.shape.rest / parts);
        if parts > 1 {
            src[VALUE].head = (2 * value_pairs * call.dtype.size()) as i64;
            kv[1].head = (2 * value_pairs * pages[1].map_or(0, |pages| pages.stored.size())) as i64;
        }

        let by_table =
            call.cache.is_some_and(|cache| matches!(cache.slots.slots, Slots::PageTable { .. }));
        let general = is_general(&call.positions) || by_table;
        let shape =
            [0, 1].map(|i| tensors[i].map_or_else(HeadShape::default, |t| t.shape.params()));
        let together = shape[0] == shape[1] && variant.is_fast();
        let (tokens, pdl) = (call.tokens(), self.pdl);
        let work = AppendWork { width, heads, together, tokens, general, pdl };
        let cut = cut(&work, self.device.multiprocessors);
        let tiling = AppendTiling::of(&work, &cut);
        let pdl = work.pdl(self.device.multiprocessors);

        let [_, seq] = call.batch_seq;
        let source = Source::of(&call.positions, call.batch_seq, self.zero(), general);
        let factor = if call.positions.sets.is_some() { 1.0 } else { self.spec.factor() };
        let (cos_factor, sin_factor) = self.spec.direction().factors(factor);
        let hint = L2Hint::of(self.query_traffic(call), self.device.l2_bytes);
        let storage = [
            tensors[QUERY].map_or(0, |q| storage(q.storage)),
            pages[0].map_or(0, |pages| storage(pages.stored)),
            pages[1].map_or(0, |pages| storage(pages.stored)),
        ];
        let scale_of =
            |pages: Option<Pages>| pages.map_or_else(Scale::default, |p| scale(&p.scale));
        let inverse_dim = [0, 1]
            .map(|i| call.tensors[i].map_or(0.0, |tensor| 1.0 / tensor.layout.shape()[3] as f32));
        let (x, y, z) = tiling.block;
        let params = AppendParams {
            steps: self.words,
            seq: Divisor::new(seq as u32),
            tokens: call.tokens() as u32,
            pdl,
            pairs: rotary_pairs as u16,
            heads_per_block: y as u16,
            tokens_per_block: z as u16,
            q_slices: tiling.slices[0] as u16,
            k_slices: tiling.slices[1] as u16,
            pair_step: if self.spec.pairing() == Pairing::Interleaved { 2 } else { 1 },
            heads: heads.map(|heads| heads as u16),
            value_pairs: value_pairs as u16,
            shape,
            src,
            target: tensors.map(|tensor| tensor.map_or(0, |t| t.target)),
            storage,
            normalised: call.norm.weights.map(|weights| weights.is_some().into()),
            // What changes no number, zeros included, where there is no offset.
            weight_offset: if call.norm.unit_offset { 1.0 } else { -0.0 },
            load_hint: [hint.load, L2Hint::READ_ONCE],
            store_hint: hint.store,
            positions: source.positions,
            cos_factor,
            sin_factor,
            eps: call.norm.eps,
            inverse_dim,
            slots: call.cache.map_or_else(SlotMapping::default, |cache| slots(&cache, call)),
            pages: kv,
            weight: weights,
            scale: [
                tensors[QUERY].map_or_else(Scale::default, |q| q.scale),
                scale_of(pages[0]),
                scale_of(pages[1]),
            ],
            dst: [0, 1].map(|i| tensors[i].map_or_else(Rows::default, |t| t.dst)),
            sets: self.sets(&call.positions, general),
            axes: source.axes,
            starts: source.starts,
            ..AppendParams::default()
        };
        debug_assert!(rotary_pairs > 0 && x as usize == width);
        let AppendTiling { grid, block, .. } = tiling;
        let tiling = Tiling { grid, block, q_slices: grid.1, heads_per_round: 0 };
        Some(Launch { kernel: Kernel::Append(cut.entry), variant, tiling, pdl, params })
    }

    fn tensor(&self, call: &CheckedAppend, i: usize) -> Option<Tensor> {
        let tensor: CheckedTensor = call.tensors[i].filter(|t| t.layout.shape()[2] > 0)?;
        let CheckedTensor { source, mut layout, target } = tensor;
        let rotary_dim = if i == VALUE { 0 } else { self.spec.rotary_dim() };
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
        Some(Tensor {
            src: rows(size, source, &layout),
            dst: target.map_or_else(Rows::default, |t| rows(stored.size(), t.address, &to)),
            shape,
            target: match target {
                None => 0,
                Some(target) if target.in_place => 1,
                Some(_) if converted => 3,
                Some(_) => 2,
            },
            storage: stored,
            scale: target.map_or_else(Scale::default, |target| scale(&target.scale)),
        })
    }

    /// Queries alone are written where they are read.
    fn query_traffic(&self, call: &CheckedAppend) -> Traffic {
        let Some(q) = call.tensors[QUERY] else {
            return Traffic { in_place: false, whole_heads: true, bytes: 0 };
        };
        let [.., heads, head_dim] = q.layout.shape();
        let normalised = call.norm.weights[QUERY].is_some();
        Traffic {
            in_place: q.is_in_place(),
            whole_heads: normalised || head_dim == self.spec.rotary_dim(),
            bytes: call.tokens().saturating_mul(heads * head_dim * call.dtype.size()),
        }
    }
}

/// Rows from channel 0, of elements of `size` bytes.
fn rows(size: usize, base: u64, layout: &Layout) -> Rows {
    let [batch, seq, heads, _] = layout.shape();
    let strides = layout.strides();
    // A dimension of size one is never stepped along; its stride must not spoil alignment.
    let stride = |i: usize, n: usize| if n > 1 { (strides[i] * size) as i64 } else { 0 };
    let [batch, token, head] = [stride(0, batch), stride(1, seq), stride(2, heads)];
    Rows { first: base + (layout.offset() * size) as u64, batch, token, head }
}

fn kv_pages(pages: &Pages) -> KvPages {
    let Rows { first, batch, token, head } =
        rows(pages.stored.size(), pages.address, &pages.layout.0);
    KvPages { first, page: batch, slot: token, head }
}

fn storage(stored: Stored) -> u8 {
    match stored {
        Stored::Element(_) => 0,
        Stored::Fp8E4M3 => 1,
        Stored::Fp8E5M2 => 2,
    }
}

fn scale(scale: &CheckedScale) -> Scale {
    match *scale {
        CheckedScale::Value(value) => Scale { first: 0, stride: 0, reciprocal: 1.0 / value },
        CheckedScale::Tensor { address, per_head } => {
            Scale { first: address, stride: per_head.into(), reciprocal: 1.0 }
        }
    }
}

/// The fewest parts of as many lanes each, no more than `width`.
fn parts_of(lanes: usize, width: usize) -> usize {
    (1..=lanes)
        .find(|&parts| lanes.is_multiple_of(parts) && lanes / parts <= width)
        .unwrap_or(lanes)
}

fn slots(cache: &CheckedCache, call: &CheckedAppend) -> SlotMapping {
    let pages = cache.pages.iter().flatten().next();
    let [pages, page_size, ..] = pages.map_or([0; 4], |pages| pages.layout.shape());
    let (first, count) = (cache.slots.reserved, pages * page_size - cache.slots.reserved);
    // Ids of 32 bits without a sign are read as if they had one: no cache has so many slots that it matters.
    let ids = Ids::new(cache.slots.buffer(), false);
    let (tokens, width, row_stride) = match cache.slots.slots {
        Slots::Ids(ids) => (ids.len.min(call.tokens()), 0, 0),
        Slots::PageTable { width, row_stride, .. } => {
            (0, width, row_stride as u64 * u64::from(ids.stride))
        }
    };
    SlotMapping {
        ids,
        first: first as u32,
        count: count as u32,
        tokens: tokens as u32,
        width: width as u32,
        row_stride,
        page_size: Divisor::new(page_size.max(1) as u32),
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every token and head has a thread, in blocks of whole warps, within the launch limits of every device.
    #[test]
    fn launches_cover_everything() {
        const MOST: usize = crate::limits::MAX_HEADS;
        let heads = [
            [1, 0, 0],
            [0, 3, 3],
            [2, 2, 2],
            [7, 1, 1],
            [32, 8, 8],
            [128, 1, 8],
            [64, 64, 0],
            [MOST, MOST, MOST],
        ];
        for width in (0..10).map(|shift| 1 << shift) {
            for heads in heads {
                for tokens in [1, 2, 31, 512, 70_000, (1 << 31) - 1] {
                    for flags in 0..4 {
                        let [together, general] = [1, 2].map(|bit| flags & bit != 0);
                        let pdl = Pdl::Off;
                        let work = AppendWork { width, heads, together, tokens, general, pdl };
                        let cut = AppendCut::of(&work, 132);
                        let AppendTiling { grid, block, slices } = AppendTiling::of(&work, &cut);
                        let (x, y, z) = block;
                        let threads = (x * y * z) as usize;
                        assert!(x as usize == width && threads <= MAX_THREADS, "{block:?}");
                        assert!(threads.is_multiple_of(WARP) && z <= 64, "{block:?}");
                        assert!(grid.0 < 1 << 31 && grid.1 <= 65_535, "{grid:?}");
                        assert!(u64::from(grid.0) * u64::from(z) >= tokens as u64);
                        let taken = cut.entry.heads.map(|heads| heads * y as usize);
                        let (all, [q, k]) = (grid.1 as usize, slices);
                        let covered = match cut.entry.is_together() {
                            true => taken.map(|taken| taken * all),
                            false => [q, k, all - q - k].map(|slices| slices * taken[0]),
                        };
                        for (covered, heads) in covered.into_iter().zip(heads) {
                            assert!(covered >= heads, "{work:?}: {cut:?}");
                        }
                        assert_eq!(cut.entry.general, general);
                    }
                }
            }
        }
    }
}
