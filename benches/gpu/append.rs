//! Norm, rotation and append: one launch, against a copy of the same bytes, the launches that it replaces, and others' one
//! launch.
//!
//! Rows of q, k and v are packed, q rotates in place, pages are of 16 slots, and slots follow pages in no order. "Rotating"
//! launches walk over rows and over slots.

use std::ffi::c_void;
use std::sync::Arc;

use condensed_rope::cuda::cudarc::driver::{CudaFunction, CudaModule, CudaSlice, DevicePtrMut};
use condensed_rope::cuda::{Pdl, Rope};
use condensed_rope::plan::L2Hint;
use condensed_rope::{
    Append, Dtype, Frequencies, IndexType, KvCache, KvLayout, Layout, Pairing, Positions, QkNorm,
    Queries, Raw, RawIds, RawMemory, RawOperand, RawTensor, Rows, Scale, SlotMapping, Stored,
};
use criterion::Criterion;
use serde_json::json;

use crate::cases::Cache;
use crate::device::{Device, Replays};
use crate::row;

const PAGE: usize = 16;
const PAGES: usize = 8192;
const TOKENS: [usize; 7] = [1, 8, 32, 128, 512, 2048, 8192];
const CACHES: [Stored; 2] = [Stored::Element(Dtype::BF16), Stored::Fp8E4M3];

#[derive(Clone, Copy, Debug)]
struct Model {
    name: &'static str,
    heads: [usize; 3],
    dim: usize,
    v_dim: usize,
    norm: bool,
}

const MODELS: [Model; 6] = [
    Model { name: "Qwen3-8B", heads: [32, 8, 8], dim: 128, v_dim: 128, norm: true },
    Model { name: "Llama-3.1-8B", heads: [32, 8, 8], dim: 128, v_dim: 128, norm: false },
    Model { name: "Llama-3.1-70B", heads: [64, 8, 8], dim: 128, v_dim: 128, norm: false },
    Model { name: "Gemma-3-12b", heads: [16, 8, 8], dim: 256, v_dim: 256, norm: true },
    Model { name: "gpt-oss-120b", heads: [64, 8, 8], dim: 64, v_dim: 64, norm: false },
    Model { name: "DeepSeek-V3 MLA", heads: [128, 1, 1], dim: 64, v_dim: 512, norm: false },
];

impl Model {
    /// Bytes of a token's q, k and v.
    fn widths(&self) -> [usize; 3] {
        let [q, k, v] = self.heads;
        [q * self.dim * 2, k * self.dim * 2, v * self.v_dim * 2]
    }

    fn is_mla(&self) -> bool {
        self.v_dim != self.dim
    }

    fn views(&self, tokens: usize) -> [Layout; 3] {
        let widths = self.widths().map(|bytes| bytes / 2);
        let row = widths.iter().sum();
        let mut at = 0;
        let dims = [self.dim, self.dim, self.v_dim];
        [0, 1, 2].map(|i| {
            let view = Layout::thd(tokens, self.heads[i], dims[i]).with_strides([0, row, dims[i]]);
            let view = view.at(at);
            at += widths[i];
            view
        })
    }

    /// Of k and of v, and whether in one buffer.
    fn caches(&self) -> ([KvLayout; 2], bool) {
        let [_, k, v] = self.heads;
        let layouts =
            [KvLayout::nhd(PAGES, PAGE, k, self.dim), KvLayout::nhd(PAGES, PAGE, v, self.v_dim)];
        if !self.is_mla() {
            return (layouts, false);
        }
        let row = self.dim + self.v_dim;
        let [k, v] = layouts.map(|layout| layout.with_strides([PAGE * row, row, row]));
        ([k.at(self.v_dim), v], true)
    }
}

/// Of `benches/append.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Work {
    rows: u64,
    row: u32,
    q: u32,
    k: u32,
    v: u32,
    caches: [u64; 2],
    slot: u32,
    dim: u32,
    v_dim: u32,
    tokens: u32,
    slots: u64,
    positions: u64,
    table: u64,
    weights: [u64; 2],
    load_hint: u32,
    store_hint: u32,
}

pub struct Appends<'a> {
    device: &'a Device,
    module: Arc<CudaModule>,
    slots: u64,
    /// As FlashInfer takes them: pages in order, and zeros.
    #[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "for FlashInfer alone"))]
    pages: u64,
    _memory: (CudaSlice<i64>, CudaSlice<i32>),
}

/// One model's call of so many tokens.
struct Case<'a> {
    of: &'a Appends<'a>,
    model: Model,
    stored: Stored,
    tokens: usize,
    /// Slots that launches walk over: as many tokens' for each.
    launches: usize,
}

/// Where caches lie in the device's pool, and queries of another type.
const KEYS: u64 = 2 << 30;
const VALUES: u64 = 3 << 30;
const CONVERTED: u64 = 4 << 30;

impl<'a> Appends<'a> {
    pub fn open(device: &'a Device) -> Result<Self, Box<dyn std::error::Error>> {
        use condensed_rope::cuda::cudarc::nvrtc::Ptx;
        const KERNELS: &str =
            include_str!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/bench/append.ptx"));
        let module = device.context().load_module(Ptx::from_src(KERNELS))?;
        // Every page once, and no page behind the one before it.
        let page = |i: usize| i * 3571 % PAGES;
        let slots: Vec<i64> =
            (0..PAGES * PAGE).map(|i| (page(i / PAGE) * PAGE + i % PAGE) as i64).collect();
        let pages: Vec<i32> = (0..PAGES).map(|i| page(i) as i32).collect();
        let stream = device.shared_stream();
        let (mut slots, mut pages) = (stream.clone_htod(&slots)?, stream.clone_htod(&pages)?);
        stream.synchronize()?;
        let [on_slots, on_pages] = [slots.device_ptr_mut(stream).0, pages.device_ptr_mut(stream).0];
        Ok(Self { device, module, slots: on_slots, pages: on_pages, _memory: (slots, pages) })
    }

    pub fn bench(&self, criterion: &mut Criterion, rows: &mut row::Rows) {
        let only = std::env::var("CONDENSED_ROPE_BENCH_MODEL").unwrap_or_default();
        for model in MODELS.into_iter().filter(|model| model.name.contains(&only)) {
            for stored in CACHES {
                for tokens in TOKENS {
                    for cache in [Cache::Rotating, Cache::Hot, Cache::Written] {
                        // L2-hot replays say little that the others do not: one model's.
                        let base = model.name == MODELS[0].name && stored == CACHES[0];
                        if cache != Cache::Hot || base {
                            self.one(model, stored, tokens, cache, criterion, rows);
                        }
                    }
                }
            }
        }
    }

    fn one(
        &self,
        model: Model,
        stored: Stored,
        tokens: usize,
        cache: Cache,
        criterion: &mut Criterion,
        rows: &mut row::Rows,
    ) {
        let bytes = model.widths().iter().sum::<usize>() * tokens;
        let mut replays = Replays::new(self.device.pool(), bytes.next_multiple_of(256), cache);
        // Each launch of its own slots, as far as there are.
        replays.launches = replays.launches.min(PAGES * PAGE / tokens).max(2);
        let case = Case { of: self, model, stored, tokens, launches: replays.launches };
        if cache.is_written() {
            let writing = self.device.capture(&replays, replays.launches, &|_| {});
            replays.others = self.device.median::<21>(&writing);
        }
        let walks = cache == Cache::Rotating;
        let mut measure = |name: &str, pdl: bool, launch: &dyn Fn(u64, usize)| {
            let prepare = || |i: usize| launch(replays.address(i), if walks { i } else { 0 });
            let cache_name = match stored {
                Stored::Fp8E4M3 => "e4m3",
                _ => "bf16",
            };
            let early = if pdl { " early" } else { "" };
            let (model, tokens) = (case.model.name, case.tokens);
            let id = format!(
                "{name}{early}/rotate_append {model} {cache_name} {}/{tokens}",
                cache.name()
            );
            let mut samples = self.device.sample(&id, &replays, criterion, prepare);
            let [q, kv, _] = case.model.heads;
            rows.push_row(
                json!({
                    "op": "rotate_append",
                    "impl": name,
                    "model": model,
                    "norm": case.model.norm,
                    "cache_dtype": cache_name,
                    "dtype": "bf16",
                    "pairing": "half_split",
                    "layout": "packed_qkv",
                    "q_heads": q,
                    "kv_heads": kv,
                    "head_dim": case.model.dim,
                    "rotary_dim": case.model.dim,
                    "tokens": tokens,
                    "cache": cache.name(),
                    "pdl": pdl,
                    "bytes": case.bytes(),
                }),
                &mut samples,
            );
        };
        let rope = case.rope();
        let early = rope.with_pdl(Pdl::PositionsReady);
        measure("ours", false, &|at, i| case.ours(&rope, at, i));
        measure("ours", true, &|at, i| case.ours(&early, at, i));
        let limit = case.limit(&replays);
        measure("limit", false, &|at, i| case.copy(limit, at, i));
        measure("launches_2", false, &|at, i| {
            case.rotate(&rope, at, case.model.norm);
            case.append(at, i);
        });
        if model.norm {
            measure("launches_3", false, &|at, i| {
                case.norm(at, [0, model.heads[0] + model.heads[1]]);
                case.rotate(&rope, at, false);
                case.append(at, i);
            });
            measure("launches_4", false, &|at, i| {
                case.norm(at, [0, model.heads[0]]);
                case.norm(at, [model.heads[0], model.heads[1]]);
                case.rotate(&rope, at, false);
                case.append(at, i);
            });
        }
        measure("warp_a_head", false, &|at, i| case.warp_a_head(at, i));
        if !case.model.is_mla() && stored == Stored::Fp8E4M3 && !model.norm {
            // FlashInfer's makes 8-bit floats of q, too.
            measure("ours_q_e4m3", false, &|at, i| case.converted(&rope, at, i));
            if cfg!(feature = "peers") {
                measure("flashinfer", false, &|at, i| case.flashinfer(at, i));
            }
        }
    }
}

/// A way to copy: vectors a thread, threads a block, a hint.
#[derive(Clone, Copy)]
struct Way {
    vectors: usize,
    threads: usize,
    hint: L2Hint,
}

impl Case<'_> {
    fn size(&self) -> usize {
        self.stored.size()
    }

    /// Read once, and written once.
    fn bytes(&self) -> usize {
        let [q, k, v] = self.model.widths();
        (2 * q + (k + v) * (2 + self.size()) / 2) * self.tokens
    }

    fn rope(&self) -> Rope {
        let frequencies = Frequencies::new(self.model.dim, 1e6).expect("valid");
        Rope::new(self.of.device.kernels(), &frequencies, Pairing::HalfSplit).expect("room")
    }

    fn positions(&self) -> Positions<RawIds> {
        Positions::ids(RawIds::new(IndexType::I64, self.of.device.ids(), self.tokens))
    }

    fn norm_of(&self) -> QkNorm<Raw> {
        if !self.model.norm {
            return QkNorm::none();
        }
        let weights = || RawTensor::new(Dtype::BF16, self.of.device.tables());
        QkNorm::rms(1e-6).q(weights()).k(weights())
    }

    fn slots(&self, launch: usize) -> u64 {
        self.of.slots + (launch % self.launches * self.tokens * 8) as u64
    }

    fn cache(&self) -> KvCache<Raw> {
        let memory = |at| RawMemory::new(self.stored, self.of.device.pool() + at);
        let ([k, v], shared) = self.model.caches();
        match shared {
            true => KvCache::shared(memory(KEYS), k, v),
            false => KvCache::new(memory(KEYS), k, memory(VALUES), v),
        }
    }

    fn submit(&self, rope: &Rope, call: Append<Raw>) {
        let stream = self.of.device.stream().cu_stream();
        // SAFETY: the pool and the ids outlive every launch, and all of them are on one stream.
        unsafe { rope.rotate_append_raw(stream.cast(), call, self.positions()) }
            .expect("a valid call");
    }

    fn ours(&self, rope: &Rope, at: u64, launch: usize) {
        let [q, k, v] = self.model.views(self.tokens).map(Some);
        let slots = SlotMapping::ids(RawIds::new(IndexType::I64, self.slots(launch), self.tokens));
        let call = Append::packed(RawMemory::new(Dtype::BF16, at), q, k, v);
        let call = call.keeping_keys().with_norm(self.norm_of()).with_cache(self.cache(), slots);
        self.submit(rope, call);
    }

    /// With queries of 8 bits, elsewhere.
    fn converted(&self, rope: &Rope, at: u64, launch: usize) {
        let [q, k, v] = self.model.views(self.tokens);
        let slots = SlotMapping::ids(RawIds::new(IndexType::I64, self.slots(launch), self.tokens));
        let tensor = || RawTensor::new(Dtype::BF16, at);
        let queries = Queries::Converted {
            rows: Rows::new(tensor(), q),
            target: RawMemory::new(Stored::Fp8E4M3, self.converted_at(launch)),
            layout: Layout::thd(self.tokens, self.model.heads[0], self.model.dim),
            scale: Scale::ONE,
        };
        let call = Append::new(
            Some(queries),
            Some(Rows::new(tensor(), k).into()),
            Some(Rows::new(tensor(), v)),
        );
        self.submit(rope, call.with_cache(self.cache(), slots));
    }

    fn converted_at(&self, launch: usize) -> u64 {
        let bytes = self.model.widths()[0] / 2 * self.tokens;
        self.of.device.pool() + CONVERTED + (launch % self.launches * bytes) as u64
    }

    /// Norm and rotation, or rotation alone, in place.
    fn rotate(&self, rope: &Rope, at: u64, norm: bool) {
        let [q, k, _] = self.model.views(self.tokens);
        if norm {
            let call = Append::packed(RawMemory::new(Dtype::BF16, at), Some(q), Some(k), None);
            return self.submit(rope, call.with_norm(self.norm_of()));
        }
        let [q, k] = [q, k].map(|layout| Some(RawOperand::in_place(Dtype::BF16, at, layout)));
        let stream = self.of.device.stream().cu_stream();
        // SAFETY: as above.
        unsafe { rope.rotate_raw(stream.cast(), q, k, self.positions()) }.expect("a valid call");
    }

    fn work(&self, at: u64, launch: usize, hint: L2Hint) -> Work {
        let [q, k, v] = self.model.widths().map(|bytes| bytes as u32);
        let pool = self.of.device.pool();
        let c = self.size();
        let (caches, slot) = match self.model.is_mla() {
            true => {
                let first = pool + KEYS;
                ([first + (self.model.v_dim * c) as u64, first], (k + v) as usize / 2 * c)
            }
            false => ([pool + KEYS, pool + VALUES], k as usize / 2 * c),
        };
        Work {
            rows: at,
            row: q + k + v,
            q,
            k,
            v,
            caches,
            slot: slot as u32,
            dim: self.model.dim as u32,
            v_dim: self.model.v_dim as u32,
            tokens: self.tokens as u32,
            slots: self.slots(launch),
            positions: self.of.device.ids(),
            table: self.of.device.tables(),
            weights: [self.of.device.tables(); 2],
            load_hint: hint.load,
            store_hint: hint.store,
        }
    }

    fn kernel(&self, name: &str) -> CudaFunction {
        self.of.module.load_function(name).expect("a kernel of append.cu")
    }

    fn cache_name(&self) -> &'static str {
        if self.size() == 1 { "e4m3" } else { "bf16" }
    }

    fn launch(&self, name: &str, blocks: usize, threads: usize, work: &Work, rest: &[u32]) {
        let (mut work, mut rest) = (*work, rest.to_vec());
        let mut arguments: Vec<*mut c_void> = vec![(&raw mut work).cast()];
        arguments.extend(rest.iter_mut().map(|argument| (argument as *mut u32).cast()));
        self.of.device.launch(&self.kernel(name), blocks, threads, &mut arguments);
    }

    fn copy(&self, way: Way, at: u64, launch: usize) {
        let work = self.work(at, launch, way.hint);
        let vectors = work.row as usize / 16 * self.tokens;
        let name = format!("append_copy_{}_{}", self.cache_name(), way.vectors);
        self.launch(&name, vectors.div_ceil(way.vectors * way.threads), way.threads, &work, &[]);
    }

    /// The fastest copy.
    fn limit(&self, replays: &Replays) -> Way {
        let ways = [1, 2, 4].into_iter().flat_map(|vectors| {
            [64, 128, 256, 512].into_iter().flat_map(move |threads| {
                [L2Hint::NONE, L2Hint::LAST_THEN_NORMAL].map(|hint| Way { vectors, threads, hint })
            })
        });
        let walks = replays.cache == Cache::Rotating;
        let launches = replays.launches.min(400);
        let timed = ways.map(|way| {
            let graph = self.of.device.capture(replays, launches, &|i| {
                self.copy(way, replays.address(i), if walks { i } else { 0 });
            });
            (self.of.device.median::<3>(&graph), way)
        });
        timed.min_by(|a, b| a.0.total_cmp(&b.0)).expect("some ways").1
    }

    fn append(&self, at: u64, launch: usize) {
        let work = self.work(at, launch, L2Hint::NONE);
        let threads = ((work.k + work.v) as usize / 16).next_multiple_of(32).min(512);
        self.launch(
            &format!("append_only_{}", self.cache_name()),
            self.tokens,
            threads,
            &work,
            &[],
        );
    }

    /// Of `count` heads from `first` on.
    fn norm(&self, at: u64, [first, count]: [usize; 2]) {
        let work = self.work(at, 0, L2Hint::NONE);
        let blocks = (self.tokens * count).div_ceil(4);
        let rest = [first as u32, count as u32];
        self.launch(&format!("norm_{}", self.model.dim), blocks, 128, &work, &rest);
    }

    fn warp_a_head(&self, at: u64, launch: usize) {
        let work = self.work(at, launch, L2Hint::NONE);
        let norm = if self.model.norm { "norm" } else { "none" };
        let name = format!("warp_a_head_{}_{norm}_{}", self.cache_name(), self.model.dim);
        let heads = work.row as usize / (self.model.dim * 2);
        // Eight warps a block, as vLLM has.
        self.launch(&name, (self.tokens * heads).div_ceil(8), 256, &work, &[0]);
    }

    #[cfg(feature = "peers")]
    fn flashinfer(&self, at: u64, launch: usize) {
        unsafe extern "C" {
            fn flashinfer_rope_append(
                qkv: u64,
                q_out: u64,
                keys: u64,
                values: u64,
                pages: u64,
                zeros: u64,
                slots: u64,
                ids: u64,
                table: u64,
                sizes: *const [u32; 5],
                stream: *mut c_void,
            ) -> std::ffi::c_int;
        }
        let [q, kv, _] = self.model.heads;
        let sizes = [self.tokens, q, kv, self.model.dim, PAGES].map(|size| size as u32);
        let device = self.of.device;
        let (pool, first) = (device.pool(), launch % self.launches * self.tokens);
        // SAFETY: all of it lies in the pool or in lists as long as there are tokens, and the stream is of the primary
        // context.
        let status = unsafe {
            flashinfer_rope_append(
                at,
                self.converted_at(launch),
                pool + KEYS,
                pool + VALUES,
                self.of.pages,
                // A batch of one: every token is of request 0.
                device.zeros(),
                device.ids_i32() + (first * 4) as u64,
                device.ids_i32(),
                device.tables(),
                &raw const sizes,
                device.stream().cu_stream().cast(),
            )
        };
        assert_eq!(status, 0, "FlashInfer refused {:?}", self.model);
    }

    #[cfg(not(feature = "peers"))]
    fn flashinfer(&self, _: u64, _: usize) {}
}
