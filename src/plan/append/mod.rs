//! Launches of norm, rotation and append.

mod cache;
mod tensor;
mod tiling;

use self::cache::{kv_pages, page_table, scale, slots, storage};
use self::tensor::{NOWHERE, Run, Tensor, rows};
use self::tiling::{AppendCut, AppendStart, AppendTiling, AppendWork};
use super::launch::{ByForm, Launch, Planner};
use super::params::{
    AppendParams, Divisor, FlatAppendParams, HeadShape, KvPages, PageTable, Rows, Scale,
    SlotMapping,
};
use super::source::{Source, is_general};
use super::tiling::Tiling;
use super::variant::{AppendForm, Kernel, Variant};
use super::{L2Hint, Pdl, Traffic};
use crate::Pairing;
use crate::call::{CheckedAppend, Pages};

/// The tensors of a call, as the kernels number them.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

/// Of the kernel that a launch of norm, rotation and append names.
pub type AnyAppendParams = ByForm<FlatAppendParams, AppendParams>;

impl Planner {
    /// Norm, rotation and append; `None` where there is nothing to do.
    pub fn append(&self, call: &CheckedAppend) -> Option<Launch<AnyAppendParams>> {
        if call.is_empty() {
            return None;
        }
        let rotary_pairs = self.spec.rotary_dim() / 2;
        let tensors = [QUERY, KEY, VALUE].map(|i| Tensor::of(call, i, 2 * rotary_pairs));
        let pages: [Option<Pages>; 2] = call.cache.map_or([None; 2], |cache| cache.pages);
        let weight = call.norm.weights.map(|weights| weights.unwrap_or(0));
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
            }) && weight.iter().all(|&weights| aligned(weights, element))
        });

        // Lanes of q's and k's heads. One head of v that is wider, as MLA's, is cut into parts that fit them.
        let lanes = |i: usize| tensors[i].as_ref().map_or(0, |t| t.shape.lanes(&variant));
        let mut width = lanes(QUERY).max(lanes(KEY)).next_power_of_two();
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

        let table = call.cache.map_or_else(PageTable::default, |cache| page_table(&cache));
        let general = is_general(&call.positions) || table.width > 0;
        let source = Source::of(&call.positions, call.batch_seq, self.zero(), general);
        let run = Run::of(call.batch_seq, &tensors, &src, &kv, &source)
            .filter(|_| variant.is_fast() && !general);
        let weights = call.norm.weights;
        let is_normalised = weights.iter().any(Option::is_some);
        let work = AppendWork {
            width,
            heads,
            tokens: call.tokens(),
            is_normalised,
            is_full: variant.is_full(),
        };
        let threads = work.threads(self.device.multiprocessors);
        let AppendStart { pdl, waits } = AppendStart::of(self.pdl, run.is_some(), threads);
        let form = match run {
            Some(_) if pdl == Pdl::Off => AppendForm::Flat,
            Some(_) => AppendForm::FlatEarly,
            None if general => AppendForm::General,
            None => AppendForm::Strided,
        };
        let cut = AppendCut::of(form, &work, threads);
        let AppendTiling { grid, block, slices } = AppendTiling::of(&work, &cut);
        let (_, heads_per_block, tokens_per_block) = block;
        let [heads_per_block, tokens_per_block] =
            [heads_per_block, tokens_per_block].map(|n| n as u16);
        let [q_slices, k_slices] = slices.map(|n| n as u16);

        let factor = if call.positions.sets.is_some() { 1.0 } else { self.spec.factor() };
        let (cos_factor, sin_factor) = self.spec.direction().factors(factor);
        let hint = L2Hint::of(self.query_traffic(call), self.device.l2_bytes);
        let (load_hint, store_hint) = ([hint.load, L2Hint::READ_ONCE], hint.store);
        let storage = [
            tensors[QUERY].map_or(0, |q| storage(q.storage)),
            pages[0].map_or(0, |pages| storage(pages.stored)),
            pages[1].map_or(0, |pages| storage(pages.stored)),
        ];
        let scale_of =
            |pages: Option<Pages>| pages.map_or_else(Scale::default, |p| scale(&p.scale));
        let scale = [
            tensors[QUERY].map_or_else(Scale::default, |q| q.scale),
            scale_of(pages[0]),
            scale_of(pages[1]),
        ];
        let slots =
            call.cache.map_or_else(SlotMapping::default, |cache| slots(&cache, call.tokens()));
        let (tokens, pairs, value_pairs) =
            (call.tokens() as u32, rotary_pairs as u16, value_pairs as u16);
        let (steps, eps, heads) = (self.words, call.norm.eps, heads.map(|heads| heads as u16));
        let normalised = weights.map(|weights| weights.is_some().into());
        // What changes no number, zeros included, where there is no offset.
        let weight_offset = if call.norm.unit_offset { 1.0 } else { -0.0 };
        let inverse_dim = [QUERY, KEY]
            .map(|i| call.tensors[i].map_or(0.0, |tensor| 1.0 / tensor.layout.shape()[3] as f32));
        let params = match run {
            Some(run) => AnyAppendParams::Flat(FlatAppendParams {
                tokens,
                pairs,
                value_pairs,
                heads,
                q_slices,
                k_slices,
                heads_per_block,
                tokens_per_block,
                normalised,
                key_target: tensors[KEY].map_or(NOWHERE, |k| k.target),
                storage,
                load_hint,
                counts: run.positions.counts as u16,
                waits: waits.into(),
                src: run.src,
                ids: run.positions.ids,
                start: source.positions.start,
                steps,
                cos_factor,
                sin_factor,
                slots,
                store_hint,
                eps,
                pages: run.pages,
                weight,
                inverse_dim,
                weight_offset,
                reserved: 0,
                scale,
            }),
            None => AnyAppendParams::Strided(AppendParams {
                steps,
                seq: Divisor::new(call.batch_seq[1] as u32),
                tokens,
                pdl,
                pairs,
                heads_per_block,
                tokens_per_block,
                q_slices,
                k_slices,
                pair_step: if self.spec.pairing() == Pairing::Interleaved { 2 } else { 1 },
                load_hint,
                heads,
                target: tensors.map(|tensor| tensor.map_or(NOWHERE, |t| t.target)),
                storage,
                normalised,
                value_pairs,
                shape: [QUERY, KEY]
                    .map(|i| tensors[i].map_or_else(HeadShape::default, |t| t.shape.params())),
                src,
                eps,
                inverse_dim,
                weight_offset,
                cos_factor,
                sin_factor,
                store_hint,
                reserved: 0,
                weight,
                positions: source.positions,
                slots,
                table,
                starts: source.starts,
                sets: self.sets(&call.positions, general),
                pages: kv,
                scale,
                dst: [QUERY, KEY].map(|i| tensors[i].map_or_else(Rows::default, |t| t.dst)),
                axes: source.axes,
            }),
        };
        debug_assert!(rotary_pairs > 0 && block.0 as usize == width);
        let tiling = Tiling { grid, block, q_slices: q_slices.into(), heads_per_round: 0 };
        Some(Launch { kernel: Kernel::Append(cut.entry), variant, tiling, pdl, params })
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

/// The fewest parts of as many lanes each, no more than `width`.
fn parts_of(lanes: usize, width: usize) -> usize {
    (1..=lanes)
        .find(|&parts| lanes.is_multiple_of(parts) && lanes / parts <= width)
        .unwrap_or(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::DeviceProps;
    use crate::{
        Append, Dtype, IndexType, KvCache, KvLayout, Layout, Positions, Queries, Raw, RawIds,
        RawMemory, RawTensor, RopeSpec, Rows, Sections, SlotMapping, Stored,
    };

    /// Which kernels a call takes: those of runs where there is no more to choose than they know.
    #[test]
    fn runs_of_tokens_are_known() {
        let spec = RopeSpec::new(64, Pairing::HalfSplit).expect("valid");
        let device = DeviceProps::H100;
        let planner = Planner { words: 1 << 20, spec, device, pdl: Pdl::PositionsReady };
        let ids = |dtype, len| RawIds::new(dtype, 1 << 16, len);
        let pages = KvLayout::nhd(4, 16, 2, 64);
        // Heads of 64 channels of q, k and v, packed.
        let views = |dim: usize| {
            let row = 8 * dim;
            [(4, 0), (2, 4), (2, 6)].map(|(n, at)| {
                Layout::bshd(2, 3, n, dim).with_strides([3 * row, row, dim]).at(at * dim)
            })
        };
        let packed = |[q, k, v]: [Layout; 3]| {
            Append::packed(RawMemory::new(Dtype::BF16, 1 << 30), Some(q), Some(k), Some(v))
        };
        let form = |call: Append<Raw>, layout: KvLayout, slots, positions| {
            let memory = |at| RawMemory::new(Dtype::BF16, at);
            let cache = KvCache::new(memory(1 << 40), layout, memory(1 << 50), layout);
            let call = call.with_cache(cache, slots).raw().expect("a valid call");
            let checked = call.check(&planner.spec, positions).expect("a valid call");
            match planner.append(&checked).expect("something to do").kernel {
                Kernel::Append(entry) => entry.form,
                kernel => panic!("{kernel:?}"),
            }
        };
        use IndexType::{I32, I64, U32};
        let flat = AppendForm::FlatEarly;
        let by_ids = || Positions::ids(ids(I64, 6));
        let slots = || SlotMapping::ids(ids(I64, 6));
        let of = |layouts, positions| form(packed(layouts), pages, slots(), positions);
        assert_eq!(of(views(64), by_ids()), flat);
        assert_eq!(form(packed(views(64)).keeping_keys(), pages, slots(), by_ids()), flat);
        // Sequences that do not follow one another, or whose positions do not.
        let apart = views(64).map(|v| v.with_strides([4 * 512, 512, 64]));
        assert_eq!(of(apart, by_ids()), AppendForm::Strided);
        assert_eq!(of(views(64), Positions::consecutive(0)), AppendForm::Strided);
        assert_eq!(of(views(64), Positions::strided_ids(ids(I32, 7), 4)), AppendForm::Strided);
        let odd = views(64).map(|v| v.at(v.offset() + 1));
        assert_eq!(of(odd, by_ids()), AppendForm::Strided);
        let axes = Positions::axes(ids(I64, 18), Sections::blocks([16, 8, 8]).expect("small"));
        assert_eq!(of(views(64), axes), AppendForm::General);
        assert_eq!(of(views(64), Positions::ids(ids(U32, 6))), AppendForm::General);
        let table = SlotMapping::page_table(ids(I32, 4), 2);
        assert_eq!(form(packed(views(64)), pages, table, by_ids()), AppendForm::General);
        // Heads that rotate in part.
        let wide = KvLayout::nhd(4, 16, 2, 80);
        assert_eq!(form(packed(views(80)), wide, slots(), by_ids()), AppendForm::Strided);
        let behind = views(80).map(|v| v.rotate_from(16));
        assert_eq!(form(packed(behind), wide, slots(), by_ids()), AppendForm::Strided);
        // Queries of another type, elsewhere.
        let [q, k, v] = views(64);
        let rows = |layout| Rows::new(RawTensor::new(Dtype::BF16, 1 << 30), layout);
        let queries = Queries::Converted {
            rows: rows(q),
            target: RawMemory::new(Stored::Fp8E4M3, 1 << 35),
            layout: Layout::bshd(2, 3, 4, 64),
            scale: crate::Scale::ONE,
        };
        let converted = Append::new(Some(queries), Some(crate::Keys::Rows(rows(k))), Some(rows(v)));
        assert_eq!(form(converted, pages, slots(), by_ids()), AppendForm::Strided);
        // Caches as far as 32 bits tell.
        let far = |slots: usize| pages.with_strides([16 * 64, 64, slots * 64]);
        assert_eq!(form(packed(views(64)), far((1 << 25) - 1), slots(), by_ids()), flat);
        assert_eq!(form(packed(views(64)), far(1 << 25), slots(), by_ids()), AppendForm::Strided);
    }
}
