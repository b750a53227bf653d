//! Graph replays on a device, and our own calls.

use std::error::Error;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use condensed_rope::cuda::cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtrMut, result, sys,
};
use condensed_rope::cuda::cudarc::nvrtc::Ptx;
use condensed_rope::cuda::{self, Kernels, Pdl, Rope};
use condensed_rope::{Frequencies, IndexType, Positions, RawBuffer, RawIds, RawOperand, Sections};
use criterion::Criterion;

use crate::cases::{Cache, Case, Op, Order};
use crate::limit::Limit;
use crate::peers;
use crate::row::Rows;

const KERNELS: &str = include_str!(concat!(env!("CONDENSED_ROPE_KERNELS"), "/bench/limit.ptx"));
/// What "rotating" walks over, at least.
const ROTATING: usize = 400 << 20;
const MOST_LAUNCHES: usize = 8192;
/// L2 of an H100, less a margin.
const HOT: usize = 44 << 20;
const POOL: usize = 6 << 30;
const MOST_TOKENS: usize = 131_072;
/// Room for peers' tables: f32 of 256 channels.
const TABLES: usize = MOST_TOKENS * 256 * 4;

pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Kernels,
    pool: u64,
    ids: u64,
    ids_i32: u64,
    zeros: u64,
    limit: Limit,
    empty: CudaFunction,
    candle: CudaFunction,
    vllm: CudaFunction,
    _memory: (CudaSlice<u8>, CudaSlice<i64>, [CudaSlice<i32>; 2]),
}

type Launch<'a> = dyn Fn(usize) + 'a;

/// Which buffers a case's launches walk over, and how many launches a replay has.
pub struct Replays {
    pub cache: Cache,
    pub launches: usize,
    /// Microseconds a launch that are not its own: the writing kernel's.
    pub others: f64,
    pool: u64,
    slot: usize,
    slots: usize,
}

impl Replays {
    pub fn new(pool: u64, slot: usize, cache: Cache) -> Self {
        let hot = cache != Cache::Rotating;
        let slots = if hot { 1 } else { (ROTATING.div_ceil(slot) + 1).clamp(2, MOST_LAUNCHES) };
        let slots = slots.min((POOL - TABLES) / slot);
        let launches = if hot { (20_000_000 / slot).clamp(20, 500) } else { slots.max(8) };
        Self { cache, launches, others: 0.0, pool, slot, slots }
    }

    /// The buffer of launch `i`.
    pub fn address(&self, i: usize) -> u64 {
        self.pool + (i % self.slots * self.slot) as u64
    }
}

impl Device {
    pub fn open() -> Result<Self, Box<dyn Error>> {
        let context = cuda::context(0)?;
        // SAFETY: everything is on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let kernels = Kernels::load(&context)?;
        let mut memory = stream.alloc_zeros::<u8>(POOL)?;
        // Values of about one, without a pattern: zeros would be kinder than real data.
        let noise: Vec<u8> = (0..32u32 << 20)
            .map(|i| if i % 2 == 0 { (i.wrapping_mul(2_654_435_761) >> 24) as u8 } else { 0x3f })
            .collect();
        for start in (0..POOL).step_by(noise.len()) {
            stream.memcpy_htod(&noise, &mut memory.slice_mut(start..start + noise.len()))?;
        }
        let mut ids = stream.clone_htod(&(0..MOST_TOKENS as i64).collect::<Vec<_>>())?;
        let mut ids_i32 = stream.clone_htod(&(0..MOST_TOKENS as i32).collect::<Vec<_>>())?;
        let mut zeros = stream.alloc_zeros::<i32>(MOST_TOKENS)?;
        let module = context.load_module(Ptx::from_src(KERNELS))?;
        stream.synchronize()?;
        let pool = memory.device_ptr_mut(&stream).0;
        let on_ids = ids.device_ptr_mut(&stream).0;
        let [on_ids_i32, on_zeros] =
            [&mut ids_i32, &mut zeros].map(|ids| ids.device_ptr_mut(&stream).0);
        Ok(Self {
            empty: module.load_function("empty")?,
            candle: module.load_function("candle_rope")?,
            vllm: module.load_function("vllm_rope")?,
            limit: Limit::load(&module)?,
            kernels,
            pool,
            ids: on_ids,
            ids_i32: on_ids_i32,
            zeros: on_zeros,
            _memory: (memory, ids, [ids_i32, zeros]),
            context,
            stream,
        })
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Positions, i64.
    pub fn ids(&self) -> u64 {
        self.ids
    }

    /// Memory for everything that is measured.
    pub fn pool(&self) -> u64 {
        self.pool
    }

    pub fn name(&self) -> String {
        self.context.name().unwrap_or_default()
    }

    pub fn stream(&self) -> &CudaStream {
        &self.stream
    }

    pub fn shared_stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// As many zeros as there are tokens, i32.
    #[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "for FlashInfer alone"))]
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Positions as FlashInfer reads them fastest.
    #[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "for FlashInfer alone"))]
    pub fn ids_i32(&self) -> u64 {
        self.ids_i32
    }

    /// Memory for peers' cos and sin, which holds values that are as good as any.
    pub fn tables(&self) -> u64 {
        self.pool + (POOL - TABLES) as u64
    }

    /// Ours with and without PDL, the limit and the peers, DRAM-cold and, where it fits, L2-hot.
    pub fn bench(&self, case: &Case, criterion: &mut Criterion, rows: &mut Rows) {
        let frequencies = Frequencies::new(case.rotary_dim, 10_000.0).expect("valid");
        let sets = match case.op {
            Op::Sets => vec![frequencies.clone(), frequencies],
            _ => vec![frequencies],
        };
        let rope = Rope::with_frequency_sets(&self.kernels, &sets, case.pairing)
            .expect("room for the words");
        let rope = if case.op == Op::Inverse { rope.inverse() } else { rope };
        let early = rope.with_pdl(Pdl::PositionsReady);
        let sources = if case.op == Op::OutOfPlace { 2 } else { 1 };
        let slot = (case.footprint() * sources).next_multiple_of(256);
        let plain = case.op == Op::Rotate && case.order == Order::Thd;
        for cache in Cache::ALL {
            if cache != Cache::Rotating && slot > HOT {
                continue;
            }
            // What comes before counts where several waves of blocks find their data in L2.
            let several_waves = (512..=2048).contains(&case.tokens);
            let written = match cache {
                Cache::Written => case.is_base() && several_waves,
                // What launches that start early cost where none may.
                Cache::WrittenClosed => case.is_base() && (several_waves || case.tokens == 1),
                _ => true,
            };
            if !written {
                continue;
            }
            let mut replays = Replays::new(self.pool, slot, cache);
            if cache.is_written() {
                let writing = self.capture(&replays, replays.launches, &|_| {});
                replays.others = self.median::<21>(&writing);
            }
            let mut measure = |name: &str, pdl: bool, launch: &dyn Fn(u64)| {
                let prepare = || |i| launch(replays.address(i));
                self.measure(case, name, pdl, &replays, criterion, rows, prepare);
            };
            let ids = self.positions(case);
            measure("ours", false, &|at| self.rotate(&rope, case, ids, at));
            if plain && case.tokens <= 32_768 {
                measure("ours", true, &|at| self.rotate(&early, case, ids, at));
                // As those that are given tables in the tokens' order.
                let consecutive = Positions::consecutive(0);
                measure("ours_no_ids", false, &|at| self.rotate(&rope, case, consecutive, at));
                measure("ours_no_ids", true, &|at| self.rotate(&early, case, consecutive, at));
            }
            if cache == Cache::WrittenClosed {
                continue;
            }
            if peers::candle_can(case) {
                measure("candle", false, &|at| peers::candle(self, &self.candle, case, at));
                measure("vllm", false, &|at| peers::vllm(self, &self.vllm, case, at));
            }
            for &(name, table) in peers::flashinfer_ways(case) {
                measure(name, false, &|at| peers::flashinfer(self, case, at, table));
            }
            if plain && case.tokens == 1 {
                measure("empty", false, &|_| self.launch(&self.empty, 1, 32, &mut []));
            }
            self.limit.measure(self, case, &replays, criterion, rows);
        }
    }

    /// Ids of i64, as many as the case needs.
    fn positions(&self, case: &Case) -> Positions<RawIds> {
        let ids = |len| RawIds::new(IndexType::I64, self.ids, len);
        match case.op {
            Op::Axes => {
                let sections = Sections::blocks([16, 24, 24]).expect("the pairs of 128 channels");
                Positions::axes(ids(3 * case.tokens), sections)
            }
            Op::Sets => Positions::ids(ids(case.tokens)).with_sets(ids(1)),
            _ => Positions::ids(ids(case.tokens)),
        }
    }

    fn rotate(&self, rope: &Rope, case: &Case, positions: Positions<RawIds>, address: u64) {
        let stream = self.stream.cu_stream();
        if case.op == Op::CosSin {
            let bytes = (case.tokens * case.rotary_dim * case.dtype.size()) as u64;
            let [cos, sin] = [address, address + bytes].map(RawBuffer::unbounded);
            // SAFETY: the pool outlives every launch, and all of them are on one stream.
            unsafe { rope.cos_sin_raw(stream.cast(), case.dtype, 0, case.tokens, cos, sin) }
                .expect("a valid call");
            return;
        }
        let [q, k] = case.layouts();
        let heads = |layout| {
            let source = address + case.footprint() as u64;
            Some(match case.op {
                Op::OutOfPlace => {
                    RawOperand::out_of_place(case.dtype, source, layout, address, layout)
                }
                _ => RawOperand::in_place(case.dtype, address, layout),
            })
        };
        // SAFETY: the pool and the ids outlive every launch, and all of them are on one stream.
        unsafe { rope.rotate_raw(stream.cast(), heads(q), heads(k), positions) }
            .expect("a valid call");
    }

    pub fn launch(
        &self,
        f: &CudaFunction,
        blocks: usize,
        threads: usize,
        arguments: &mut [*mut c_void],
    ) {
        let (grid, block) = ((blocks as u32, 1, 1), (threads as u32, 1, 1));
        let stream = self.stream.cu_stream();
        // SAFETY: the arguments are the kernel's, and name memory of the pool.
        unsafe { result::launch_kernel(f.cu_function(), grid, block, 0, stream, arguments) }
            .expect("a launch");
    }

    /// Launches of what is measured, each behind a kernel that writes its buffer where that is asked.
    /// What kernels before have asked L2 to keep is forgotten: it would stay until somebody wants it.
    pub fn capture(&self, replays: &Replays, launches: usize, launch: &Launch) -> Graph {
        // SAFETY: the context is current: every launch so far was in it.
        unsafe { sys::cuCtxResetPersistingL2Cache() }.result().expect("L2 starts anew");
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).expect("captures");
        for i in 0..launches {
            if replays.cache.is_written() {
                let closed = replays.cache == Cache::WrittenClosed;
                self.limit.write(self, replays.address(i), replays.slot, closed);
            }
            launch(i);
        }
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).expect("a graph").expect("not empty");
        Graph { graph, launches }
    }

    /// The median of that many replays' microseconds a launch, after one more.
    pub fn median<const REPLAYS: usize>(&self, graph: &Graph) -> f64 {
        self.microseconds(graph);
        let mut times = [0; REPLAYS].map(|_| self.microseconds(graph));
        times.sort_by(f64::total_cmp);
        times[REPLAYS / 2]
    }

    /// One replay's microseconds a launch.
    pub fn microseconds(&self, Graph { graph, launches }: &Graph) -> f64 {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.record_event(timed).expect("an event");
        graph.launch().expect("a replay");
        let end = self.stream.record_event(timed).expect("an event");
        f64::from(start.elapsed_ms(&end).expect("a time")) * 1e3 / *launches as f64
    }

    /// A row of criterion's samples. `prepare` makes what is launched, where criterion wants it.
    #[expect(clippy::too_many_arguments, reason = "what a row says, and where it goes")]
    pub fn measure<Launch: Fn(usize)>(
        &self,
        case: &Case,
        name: &str,
        pdl: bool,
        replays: &Replays,
        criterion: &mut Criterion,
        rows: &mut Rows,
        prepare: impl Fn() -> Launch,
    ) {
        let id = case.id(name, replays.cache);
        let mut samples = self.sample(&id, replays, criterion, prepare);
        rows.push(case, name, replays.cache, pdl, &mut samples);
    }

    /// Criterion's samples, in microseconds a launch.
    pub fn sample<Launch: Fn(usize)>(
        &self,
        id: &str,
        replays: &Replays,
        criterion: &mut Criterion,
        prepare: impl Fn() -> Launch,
    ) -> Vec<f64> {
        let mut samples = Vec::new();
        let mut graph = None;
        criterion.bench_function(id, |bencher| {
            let graph =
                graph.get_or_insert_with(|| self.capture(replays, replays.launches, &prepare()));
            bencher.iter_custom(|iterations| {
                let start = samples.len();
                samples.extend((0..iterations).map(|_| self.microseconds(graph) - replays.others));
                Duration::from_secs_f64(samples[start..].iter().sum::<f64>() / 1e6)
            });
        });
        samples
    }
}

pub struct Graph {
    graph: CudaGraph,
    launches: usize,
}
