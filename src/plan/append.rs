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
/// Threads a multiprocessor, at one head each, up to which a thread takes one head: between 128 and 512 tokens of
/// 32 + 8 + 8 heads of 128 (745 and 2979 on an H100).
const ONE_HEAD: usize = 1500;

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
    /// Heads of q and of k, and parts of heads of v.
    pub heads: [usize; 3],
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
        let general = work.general;
        let entry = |q_heads, kv_heads| AppendEntry { q_heads, kv_heads, general };
        let whole = MAX_THREADS / work.width;
        let small = work.threads(multiprocessors) <= ONE_HEAD;
        if small {
            let entry = if general { entry(2, 0) } else { entry(1, 0) };
            return Self { entry, heads_per_block: whole.min(8), threads: 128 };
        }
        // Where a block for all has work for every row.
        let together = k + v > 0 && q >= 2 * (k + v);
        let entry = if together { entry(2, 1) } else { entry(2, 0) };
        Self { entry, heads_per_block: whole, threads: 256 }
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
        let AppendWork { width, heads: [q, k, v], tokens, .. } = *work;
        let AppendEntry { q_heads, kv_heads, .. } = cut.entry;
        // Rows that threads of one slice could fill.
        let [q, k, v, most] = if cut.entry.is_together() {
            let (q, list) = (q.div_ceil(q_heads), (k + v).div_ceil(kv_heads));
            [q, 0, 0, q.max(list)]
        } else {
            let [q, k, v] = [q, k, v].map(|heads| heads.div_ceil(q_heads));
            [q, k, v, q.max(k).max(v)]
        };
        let longest = most.max(1);
        // As few slices as the blocks' rows allow, and no more rows than fill them; slices fit the grid.
        let rows = cut.heads_per_block.max(longest.div_ceil(MAX_SLICES / 4)).max(1);
        let rows = longest.div_ceil(longest.div_ceil(rows));
        let rows = Self::whole_warps(width, rows);
        let slices = match cut.entry.is_together() {
            true => [longest.div_ceil(rows), 0, 0],
            false => [q, k, v].map(|rows_of| rows_of.div_ceil(rows)),
        };
        let in_warp = (WARP / (width * rows).min(WARP)).max(1);
        let per_block = (cut.threads / (width * rows)).max(1).min(tokens.next_power_of_two());
        let tokens_per_block = per_block.next_multiple_of(in_warp).min(64);
        debug_assert!(width * rows * tokens_per_block <= MAX_THREADS.max(WARP * 2));
        let [x, y, z] = [width, rows, tokens_per_block].map(|extent| extent as u32);
        let blocks = tokens.div_ceil(tokens_per_block) as u32;
        let all: usize = slices.iter().sum();
        let grid = (blocks, all.max(1) as u32, 1);
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

        // Lanes of q's and k's heads; v's are cut into parts that fit them.
        let lanes = |i: usize| tensors[i].as_ref().map_or(0, |t| t.shape.lanes(&variant));
        let width = lanes(QUERY).max(lanes(1)).next_power_of_two();
        let parts = if lanes(VALUE) == 0 { 1 } else { parts(lanes(VALUE), width) };
        let part_pairs = tensors[VALUE].map_or(0, |v| v.shape.rest / parts);
        let mut heads = call.heads();
        heads[VALUE] *= parts;

        let by_table =
            call.cache.is_some_and(|cache| matches!(cache.slots.slots, Slots::PageTable { .. }));
        let general = is_general(&call.positions) || by_table;
        let work = AppendWork { width, heads, tokens: call.tokens(), general, pdl: self.pdl };
        let cut = cut(&work, self.device.multiprocessors);
        let tiling = AppendTiling::of(&work, &cut);
        let pdl = work.pdl(self.device.multiprocessors);

        let [_, seq] = call.batch_seq;
        let source = Source::of(&call.positions, call.batch_seq, self.zero(), general);
        let factor = if call.positions.sets.is_some() { 1.0 } else { self.spec.factor() };
        let (cos_factor, sin_factor) = self.spec.direction().factors(factor);
        let shape = [0, 1, 2].map(|i| {
            let Some(Tensor { shape: Shape { before, pairs, rest }, .. }) = tensors[i] else {
                return HeadShape::default();
            };
            let rest = if i == VALUE { part_pairs } else { rest };
            let [before, pairs, rest] = [before, pairs, rest].map(|n| n as u16);
            HeadShape { before, pairs, rest, reserved: 0 }
        });
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
            heads_per_block: y,
            tokens_per_block: z as u16,
            q_slices: tiling.slices[0] as u16,
            k_slices: tiling.slices[1] as u16,
            pair_step: if self.spec.pairing() == Pairing::Interleaved { 2 } else { 1 },
            heads: heads.map(|heads| heads as u32),
            src: tensors.map(|tensor| tensor.map_or_else(Rows::default, |t| t.src)),
            shape,
            target: tensors.map(|tensor| tensor.map_or(0, |t| t.target)),
            storage,
            normalised: call.norm.weights.map(|weights| weights.is_some().into()),
            unit_offset: call.norm.unit_offset.into(),
            cached: call.cache.is_some().into(),
            part: (2 * part_pairs) as u16,
            load_hint: [hint.load, L2Hint::READ_ONCE],
            store_hint: hint.store,
            positions: source.positions,
            cos_factor,
            sin_factor,
            eps: call.norm.eps,
            inverse_dim,
            slots: call.cache.map_or_else(SlotMapping::default, |cache| slots(&cache, call)),
            pages: pages.map(|pages| pages.map_or_else(KvPages::default, |p| kv_pages(&p))),
            weight: weights,
            scale: [
                tensors[QUERY].map_or_else(Scale::default, |q| q.scale),
                scale_of(pages[0]),
                scale_of(pages[1]),
            ],
            parts: Divisor::new(parts as u32),
            dst: [0, 1].map(|i| tensors[i].map_or_else(Rows::default, |t| t.dst)),
            sets: self.sets(&call.positions, general),
            axes: source.axes,
            starts: source.starts,
            ..AppendParams::default()
        };
        debug_assert!(rotary_pairs > 0 && x as usize == width);
        let tiling = Tiling { grid: tiling.grid, block: tiling.block, q_slices: tiling.grid.1 };
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
fn parts(lanes: usize, width: usize) -> usize {
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
